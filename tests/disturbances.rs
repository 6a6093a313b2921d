//! What the election does when processes are stopped, starved of the processor, many, of one name or
//! short of file descriptors. A full disk is in `log.rs`.

use rustix::process::{Resource, Rlimit, Signal, getrlimit, prlimit};
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use support::checker::{stall, terms, within_bound};
use support::daemon::{
    Daemon, FOLLOWER, LEADER, LOST, Line, json, wait_for_leader, wait_for_next_roles,
    wait_for_settled,
};
use support::etcd::{Etcd, on_each_etcd};
use support::proxy::{Link, Proxy};
use support::{FAIL_OVER, TTL, let_pass};

#[test]
fn a_leader_stopped_for_three_ttls_says_first_that_it_leads_no_more() {
    on_each_etcd(|etcd| {
        let mut replicas = Daemon::candidates(&etcd, 2);
        let old = wait_for_next_roles(&mut replicas);
        replicas[old].wait_for_next_refreshes(1);
        let stopped = SystemTime::now();
        replicas[old].signal(Signal::STOP);
        let mut old = replicas.remove(old);
        let mut new = replicas.remove(0);
        new.wait_for_next(LEADER);
        let_pass((TTL * 3).saturating_sub(stopped.elapsed().unwrap()));
        old.skip();
        old.signal(Signal::CONT);
        old.wait_for_next_line("its first line after the pause", |line| {
            let message = line.message();
            assert!(message.starts_with(LOST), "{message}");
            true
        });
        old.wait_for_next(FOLLOWER);
        new.skip();
        new.wait_for_next_refreshes(3);
        assert!(new.leads() && !old.leads());
        let all = terms(&[&old, &new]);
        assert_eq!(all.len(), 2);
        within_bound(
            "leader stopped for 3 TTL",
            stall(&all, stopped),
            FAIL_OVER,
            TTL,
        );
    });
}

/// Lets a process run only for a moment in each round, for this long in total.
fn starve(victim: &Daemon, stopped: Duration, running: Duration, time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        victim.signal(Signal::STOP);
        let_pass(stopped);
        victim.signal(Signal::CONT);
        let_pass(running);
    }
}

#[test]
fn a_leader_starved_of_the_processor_never_leads_beside_another() {
    let ms = Duration::from_millis;
    thread::scope(|scope| {
        // Stopped for longer than a try is good for, then for longer than a try may take, and then
        // only running slowly.
        for (stopped, running) in [(ms(1900), ms(2)), (ms(600), ms(2)), (ms(100), ms(20))] {
            scope.spawn(move || {
                let etcd = Etcd::newest();
                let mut replicas = Daemon::candidates(&etcd, 3);
                let leader = wait_for_next_roles(&mut replicas);
                replicas[leader].wait_for_next_refreshes(1);
                let starved = SystemTime::now();
                starve(&replicas[leader], stopped, running, TTL * 4);
                wait_for_settled(&mut replicas);
                let all = terms(&replicas.iter().collect::<Vec<_>>());
                let fault = format!("starved: stopped for {stopped:?}, running for {running:?}");
                // The starved replica may be elected once more.
                within_bound(&fault, stall(&all, starved), FAIL_OVER * 2, TTL);
                if stopped > TTL * 9 / 10 {
                    assert!(all.len() > 1, "{all:#?}");
                }
            });
        }
    });
}

#[test]
fn a_leader_without_a_file_descriptor_left_keeps_its_term_until_it_must_connect() {
    let etcd = Etcd::newest();
    let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
    let mut old = Daemon::spawn("old", json("old", &proxy.endpoint()));
    old.wait_for_next(LEADER);
    let mut new = Daemon::spawn("new", json("new", &etcd.endpoint()));
    new.wait_for_next(FOLLOWER);
    // On a busy machine, it may have had to connect twice.
    let before = old.warnings().len();
    let normal = getrlimit(Resource::Nofile);
    let none = Rlimit {
        current: Some(0),
        ..normal
    };
    prlimit(Some(old.pid()), Resource::Nofile, none).unwrap();
    old.skip();
    old.wait_for_next_refreshes(6);

    let cut = SystemTime::now();
    proxy.set(Link::Cut);
    proxy.set(Link::Open);
    old.wait_for_next_line("why", |line| {
        line.is_warning() && line.message().contains("Too many open files")
    });
    old.wait_for_next_start(LOST);
    new.wait_for_next(LEADER);
    let used = old.cpu_time();
    let_pass(TTL);
    let used = old.cpu_time().saturating_sub(used);
    assert!(used < TTL / 5, "it used {used:?} of the processor");
    assert!(!old.has_ended());
    // About the reason why there is no new connection; that the one before broke is no news.
    let warnings = &old.warnings()[before..];
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    prlimit(Some(old.pid()), Resource::Nofile, normal).unwrap();
    old.wait_for_next(FOLLOWER);
    new.skip();
    new.wait_for_next_refreshes(3);
    let all = terms(&[&old, &new]);
    assert_eq!(all.len(), 2);
    within_bound("no file descriptor left", stall(&all, cut), FAIL_OVER, TTL);
    // It is as good as before.
    new.crash();
    old.wait_for_next(LEADER);
    old.wait_for_next_refreshes(2);
    terms(&[&old, &new]);
}

#[test]
fn a_program_that_gets_no_file_descriptor_at_its_start_says_so_and_exits() {
    let etcd = Etcd::newest();
    let inner = json("server1", &etcd.endpoint());
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", r#"ulimit -n 4; exec "$0" "$@""#]);
    shell.arg(inner.get_program()).args(inner.get_args());
    let mut replica = Daemon::spawn("server1", shell);
    assert_eq!(replica.wait_exit().code(), Some(1));
    let said: Vec<_> = replica.lines().iter().map(Line::text).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("may open 4 file descriptors"), "{said:?}");
}

#[test]
fn of_fifty_candidates_one_leads_and_after_its_kill_another_one() {
    let etcd = Etcd::newest();
    let mut replicas = Daemon::candidates(&etcd, 50);
    let leader = wait_for_next_roles(&mut replicas);
    replicas[leader].wait_for_next_refreshes(1);
    replicas[leader].crash();
    let killed = replicas[leader].ended().unwrap();
    let dead = replicas.remove(leader);
    for replica in &mut replicas {
        replica.skip();
    }
    let next = wait_for_next_roles(&mut replicas);
    replicas[next].wait_for_next_refreshes(3);
    let all: Vec<_> = replicas.iter().chain([&dead]).collect();
    let all = terms(&all);
    assert_eq!(all.len(), 2);
    within_bound(
        "50 candidates, leader killed",
        stall(&all, killed),
        FAIL_OVER,
        TTL,
    );
}

#[test]
fn of_two_processes_with_one_name_one_leads() {
    on_each_etcd(|etcd| {
        let mut twins: Vec<_> = ["one", "other"]
            .map(|label| Daemon::spawn(label, json("server1", &etcd.endpoint())))
            .into();
        let first = wait_for_next_roles(&mut twins);
        // Long enough for the follower to read the key, which holds its own name.
        twins[first].wait_for_next_refreshes(6);
        assert!(!twins[1 - first].leads());
        // It does not take over a key that holds its name, nor does a restarted replica.
        twins[first].crash();
        let killed = twins[first].ended().unwrap();
        let mut dead = twins.remove(first);
        dead.name = "dead".to_owned();
        twins.push(Daemon::spawn(
            "restarted",
            json("server1", &etcd.endpoint()),
        ));
        let next = wait_for_leader(&twins);
        twins[next].wait_for_next_refreshes(3);
        let all = terms(&[&dead, &twins[0], &twins[1]]);
        assert_eq!(all.len(), 2);
        within_bound(
            "two of one name, leader killed",
            stall(&all, killed),
            FAIL_OVER,
            TTL,
        );
    });
}
