//! `GET /presence` under faults: a suspicion is raised if the leader fails, and costs nothing if it does not.

use rustix::process::Signal;
use std::fs;
use std::time::{Duration, Instant};
use support::daemon::{Daemon, LEADER, LOST, command};
use support::etcd::Etcd;
use support::operator::{at, run};
use support::proxy::{Link, Proxy};
use support::served::address;
use support::watched::{
    NOT_WATCHED, WATCHED, check_led_on, count_terms, served, start, three, wait_for_next_leader,
    wait_for_watched_leader,
};
use support::{is_long_run, let_pass};

const LIMIT: Duration = Duration::from_secs(1);

#[test]
fn a_leader_that_stops_in_order_is_not_challenged() {
    let etcd = Etcd::newest();
    let (mut replicas, _) = three(&etcd, LIMIT);
    let mut leader = wait_for_watched_leader(&mut replicas);
    // An operator ends the term.
    for replica in &mut replicas {
        replica.skip();
    }
    let stepped_down = run(at(&etcd.endpoint(), &["step-down"]));
    assert_eq!(stepped_down.code, 0, "{:?}", stepped_down.err);
    replicas[leader].wait_for_next_start(LOST);
    leader = wait_for_watched_leader(&mut replicas);
    // The process is stopped, by each signal.
    for signal in [Signal::TERM, Signal::INT] {
        for replica in &mut replicas {
            replica.skip();
        }
        replicas[leader].signal(signal);
        assert_eq!(replicas[leader].wait_exit().code(), Some(0));
        replicas.remove(leader);
        if replicas.len() > 1 {
            leader = wait_for_watched_leader(&mut replicas);
        }
    }
    wait_for_next_leader(&replicas);
    assert_eq!(etcd.count_challenges("leader"), 0);
}

#[test]
fn a_leader_that_stands_back_or_yields_is_not_challenged() {
    let etcd = Etcd::newest();
    let [(first, at_first), (second, at_second)] =
        ["first", "second"].map(|name| (name, address()));
    let folder = tempfile::tempdir().unwrap();
    let healthy = folder.path().join("healthy");
    fs::write(&healthy, "").unwrap();
    let mut command = served(first, &etcd.endpoint(), LIMIT, &at_first, &at_first);
    let check = format!("test -e '{}'", healthy.display());
    command.args(["--health-command", &check, "--health-interval", "1s"]);
    command.args(["--priority", "1", "--priority-delay", "1s"]);
    let mut first = Daemon::spawn(first, command);
    first.wait_for_next(LEADER);
    let mut command = served(second, &etcd.endpoint(), LIMIT, &at_second, &at_second);
    command.args(["--priority-delay", "1s"]);
    let mut second = Daemon::spawn(second, command);
    second.wait_for_next_start(WATCHED);
    fs::remove_file(&healthy).unwrap();
    second.wait_for_next(LEADER);
    first.wait_for_next_start(WATCHED);
    fs::write(&healthy, "").unwrap();
    first.wait_for_next(LEADER);
    second.wait_for_next_start(WATCHED);
    assert_eq!(etcd.count_challenges("leader"), 0);
}

#[test]
fn connections_that_break_cost_the_leader_no_term_and_are_made_again() {
    let etcd = Etcd::newest();
    let (http, proxies) = (address(), [(); 2].map(|()| address()));
    let proxy = Proxy::start(&http, Link::Open);
    let leads = served("leads", &etcd.endpoint(), LIMIT, &http, &proxy.endpoint());
    let mut leader = Daemon::spawn("leads", leads);
    leader.wait_for_next(LEADER);
    let names = ["follows1", "follows2"].into_iter().zip(&proxies);
    let mut followers: Vec<_> = names
        .map(|(name, address)| start(name, &etcd, LIMIT, address))
        .collect();
    // A network that resets all connections again and again, then for a longer time.
    let begun = Instant::now();
    let long = Duration::from_secs(if is_long_run() { 60 } else { 2 });
    for time in [LIMIT / 10, LIMIT / 2, LIMIT / 10, long] {
        for follower in &mut followers {
            follower.wait_for_next_start(WATCHED);
        }
        proxy.set(Link::Reset);
        for follower in &mut followers {
            follower.wait_for_next_start(NOT_WATCHED);
        }
        let_pass(time);
        proxy.set(Link::Open);
    }
    for follower in &mut followers {
        follower.wait_for_next_start(WATCHED);
    }
    leader.wait_for_next_start("Refreshing lease");
    check_led_on(&leader);
    // Of each follower, at most one in a limit.
    let challenges = u32::try_from(etcd.count_challenges("leader")).unwrap();
    let most = begun.elapsed().div_duration_f64(LIMIT) * 2.0;
    assert!(
        challenges >= 1 && f64::from(challenges) <= most,
        "{challenges}"
    );
    // The connections are as good as before.
    for follower in &mut followers {
        follower.skip();
    }
    let killed = leader.crash();
    let (_, leads) = wait_for_next_leader(&followers);
    let took = leads - killed;
    assert!(took < LIMIT * 2, "{took:?}");
}

#[test]
fn a_follower_that_was_stopped_reads_what_has_come_before_it_suspects_the_leader() {
    let etcd = Etcd::newest();
    let mut leader = start("leads", &etcd, LIMIT, &address());
    leader.wait_for_next(LEADER);
    // It needs no option, and serves nothing itself.
    let mut command = command();
    command.args(["--name", "follows", "--etcd", &etcd.endpoint()]);
    command.args([
        "--ttl",
        "10s",
        "--log-format",
        "json",
        "--log-filter",
        "debug",
    ]);
    let mut follower = Daemon::spawn("follows", command);
    follower.wait_for_next_start(WATCHED);
    for _ in 0..3 {
        follower.signal(Signal::STOP);
        let_pass(LIMIT * 3);
        follower.signal(Signal::CONT);
        let_pass(LIMIT);
    }
    let messages = follower.unseen_messages();
    let suspects = |message: &String| message.starts_with(NOT_WATCHED);
    assert!(!messages.iter().any(suspects), "{messages:?}");
    assert_eq!(etcd.count_challenges("leader"), 0);
    check_led_on(&leader);
}

#[test]
fn a_leader_that_falls_silent_is_replaced_and_says_first_that_it_leads_no_more() {
    let etcd = Etcd::newest();
    let (mut replicas, _) = three(&etcd, LIMIT);
    let leader = wait_for_watched_leader(&mut replicas);
    let mut old = replicas.remove(leader);
    for replica in &mut replicas {
        replica.skip();
    }
    // Its connections stay open, as those of a machine that has vanished.
    let stopped = Instant::now();
    old.signal(Signal::STOP);
    let (next, leads) = wait_for_next_leader(&replicas);
    let took = leads - stopped;
    println!("seen: limit {LIMIT:?}, leader stopped: {took:?}");
    assert!(took < LIMIT * 5 / 2, "{took:?}");
    old.skip();
    old.signal(Signal::CONT);
    let first = old.wait_for_next_line("its first line", |_| true);
    assert!(first.message().starts_with(LOST), "{first:?}");
    old.wait_for_next_start(WATCHED);
    replicas[next].skip();
    replicas[next].wait_for_next_start("Refreshing lease");
    replicas.push(old);
    assert_eq!(count_terms(&replicas), 2);
}
