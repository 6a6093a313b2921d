//! What the election does when etcd fails or is unreachable. More faults of the network are in
//! `network.rs`; what connecting takes, and data lost under a leader, in `connections.rs`.

use rustix::process::Signal;
use std::time::{Duration, Instant, SystemTime};
use support::checker::{Allowance, stall, terms, terms_despite, within_bound};
use support::daemon::{
    Daemon, FOLLOWER, LEADER, LEADER_STOPS, LOST, Line, REFRESHED, json, plain, wait_for_leader,
    wait_for_next_roles, wait_for_settled,
};
use support::etcd::{Etcd, binaries, on_each_etcd};
use support::proxy::{BlackHole, Link, Proxy, refusing};
use support::{FAIL_OVER, PATIENCE, REFRESH, TTL, let_pass, poll_every, wait_until};

/// The refreshes of three TTLs, and one more.
const MANY: usize = 16;

/// Returns the warnings about etcd, without those about lost terms.
fn warnings_on_etcd(replica: &Daemon) -> Vec<String> {
    let mut warnings = replica.warnings();
    warnings.retain(|warning| !warning.starts_with(LOST));
    warnings
}

/// Counts how often it has logged that etcd is unreachable, and that it answers again.
fn outages_of(replica: &Daemon) -> (usize, usize) {
    let said = replica.messages();
    let back = said
        .iter()
        .filter(|message| message.ends_with("responds again."));
    (warnings_on_etcd(replica).len(), back.count())
}

#[test]
fn a_frozen_etcd_ends_leadership_before_the_lease_runs_out() {
    on_each_etcd(|etcd| {
        let mut replicas = Daemon::candidates(&etcd, 3);
        let leader = wait_for_next_roles(&mut replicas);
        replicas[leader].wait_for_next_refreshes(3);
        etcd.freeze();
        let frozen = Instant::now();
        let lost = replicas[leader].wait_for_next_start(LOST);
        let renewed = replicas[leader].last(REFRESHED).at;
        assert!(renewed < frozen + REFRESH, "a refresh without a response");
        let after = lost.at - renewed;
        assert!(
            after < TTL,
            "leadership ended {after:?} after the last renewal"
        );

        // Without responses, it claims no renewals and no other replica leads.
        let refreshes = replicas[leader].count(REFRESHED);
        let_pass(TTL);
        assert_eq!(replicas[leader].count(REFRESHED), refreshes);
        assert!(!replicas.iter().any(Daemon::leads));

        let thawed = SystemTime::now();
        etcd.thaw();
        wait_for_settled(&mut replicas);
        let all = terms(&replicas.iter().collect::<Vec<_>>());
        assert!(all.len() >= 2);
        within_bound(
            "etcd frozen, then thawed",
            stall(&all, thawed),
            FAIL_OVER,
            TTL,
        );
    });
}

#[test]
fn an_etcd_frozen_for_a_moment_costs_nobody_a_term() {
    on_each_etcd(|etcd| {
        let mut replicas = Daemon::candidates(&etcd, 2);
        let leader = wait_for_next_roles(&mut replicas);
        for _ in 0..5 {
            replicas[leader].wait_for_next_refreshes(1);
            etcd.freeze();
            let_pass(REFRESH);
            etcd.thaw();
            replicas[leader].skip();
        }
        replicas[leader].wait_for_next_refreshes(3);
        assert_eq!(terms(&replicas.iter().collect::<Vec<_>>()).len(), 1);
    });
}

#[test]
fn a_leader_asked_to_stop_while_etcd_is_frozen_ends_with_its_lease_at_the_latest() {
    on_each_etcd(|etcd| {
        let mut leader = Daemon::candidates(&etcd, 1).remove(0);
        leader.wait_for_next_refreshes(1);
        etcd.freeze();
        leader.signal(Signal::TERM);
        let asked = Instant::now();
        leader.wait_for_next(LEADER_STOPS);
        assert_eq!(leader.wait_exit().code(), Some(0));
        assert!(
            asked.elapsed() < TTL + REFRESH,
            "it ended after {:?}",
            asked.elapsed()
        );
    });
}

#[test]
fn an_outage_is_logged_once_and_so_is_its_end() {
    on_each_etcd(|mut etcd| {
        let mut replicas = Daemon::candidates(&etcd, 3);
        let leader = wait_for_next_roles(&mut replicas);
        replicas[leader].wait_for_next_refreshes(1);
        // On a busy machine, there may have been another outage while they connected.
        let before: Vec<_> = replicas.iter().map(outages_of).collect();
        etcd.kill();
        replicas[leader].wait_for_next_start(LOST);
        for (replica, (began, _)) in replicas.iter().zip(&before) {
            wait_until("each replica logs the outage", PATIENCE, || {
                (outages_of(replica).0 > *began).then_some(())
            });
        }
        let_pass(TTL * 2);
        for (replica, (began, ended)) in replicas.iter_mut().zip(&before) {
            assert_eq!(outages_of(replica), (began + 1, *ended));
            replica.skip();
        }
        etcd.up();
        let up = SystemTime::now();
        let next = wait_for_leader(&replicas);
        replicas[next].wait_for_next_refreshes(3);
        for (number, replica) in replicas.iter_mut().enumerate() {
            if number != next {
                replica.wait_for_next(FOLLOWER);
            }
            let (began, ended) = before[number];
            assert_eq!(outages_of(replica), (began + 1, ended + 1));
        }
        let all = terms(&replicas.iter().collect::<Vec<_>>());
        assert!(all.len() >= 2);
        within_bound(
            "etcd gone for 2 TTL and more",
            stall(&all, up),
            FAIL_OVER,
            TTL,
        );
    });
}

#[test]
fn a_restarted_etcd_is_found_again_by_each_replica() {
    on_each_etcd(|mut etcd| {
        let mut replicas = Daemon::candidates(&etcd, 3);
        let mut leader = wait_for_next_roles(&mut replicas);
        for _ in 0..2 {
            replicas[leader].wait_for_next_refreshes(1);
            etcd.kill();
            etcd.up();
            let up = SystemTime::now();
            // The term may outlive that, or not.
            leader = wait_for_settled(&mut replicas);
            let all = terms(&replicas.iter().collect::<Vec<_>>());
            within_bound("etcd restarted", stall(&all, up), FAIL_OVER, TTL);
        }
        let name = etcd.key("leader").unwrap().value;
        assert_eq!(name, replicas[leader].name.as_bytes());
        assert!(replicas.iter().all(|replica| !replica.has_ended()));
    });
}

#[test]
fn an_etcd_that_lost_its_data_makes_each_replica_start_afresh() {
    on_each_etcd(|mut etcd| {
        // So that the new history stays behind the old one during the whole test.
        for number in 0..50 {
            etcd.put("something", number.to_string().as_bytes(), None);
        }
        let mut replicas = Daemon::candidates(&etcd, 3);
        let leader = wait_for_next_roles(&mut replicas);
        replicas[leader].wait_for_next_refreshes(1);
        let another = Allowance::after_the_end_of_history(|| {
            etcd.kill_and_forget();
            etcd.up();
        });
        let up = SystemTime::now();
        replicas[leader].wait_for_next_start(LOST);
        let next = wait_for_next_roles(&mut replicas);
        replicas[next].wait_for_next_refreshes(3);
        let key = etcd.key("leader").unwrap();
        assert_eq!(key.value, replicas[next].name.as_bytes());
        assert_eq!(replicas[next].last(REFRESHED).field("lease"), key.lease);
        let all = terms_despite(&[another], &replicas.iter().collect::<Vec<_>>());
        within_bound("etcd's data lost", stall(&all, up), FAIL_OVER, TTL);
        assert_eq!(replicas.iter().filter(|replica| replica.leads()).count(), 1);
    });
}

#[test]
fn an_etcd_that_is_not_up_yet_is_waited_for_and_logged_once() {
    on_each_etcd(|etcd| {
        let proxy = Proxy::start(&etcd.endpoint(), Link::Cut);
        let mut only = Daemon::spawn("server1", json("server1", &proxy.endpoint()));
        wait_until("it tries ten times", PATIENCE, || {
            (proxy.accepted() >= 10).then_some(())
        });
        assert_eq!(only.warnings().len(), 1, "{:?}", only.warnings());
        assert!(
            only.messages()
                .iter()
                .any(|said| said.starts_with("Connecting to etcd at"))
        );
        proxy.set(Link::Open);
        only.wait_for_next(LEADER);
        only.wait_for_next_refreshes(3);
        assert_eq!(only.warnings().len(), 1, "{:?}", only.warnings());
        assert_eq!(terms(&[&only]).len(), 1);
    });
}

#[test]
fn an_etcd_that_starts_later_than_the_replicas_finds_them_waiting() {
    on_each_etcd(|etcd| {
        drop(etcd);
        let binary = std::thread::current().name().unwrap().to_owned();
        let mut etcd = Etcd::absent(binary.as_ref());
        let mut replicas = Daemon::candidates(&etcd, 3);
        for replica in &mut replicas {
            replica.wait_for_next_line("a warning", Line::is_warning);
        }
        let_pass(TTL * 2);
        for replica in &replicas {
            assert_eq!(replica.warnings().len(), 1, "{:?}", replica.warnings());
            assert!(!replica.has_ended());
        }
        etcd.up();
        let up = Instant::now();
        let leader = wait_for_next_roles(&mut replicas);
        let took = replicas[leader]
            .last(LEADER)
            .at
            .saturating_duration_since(up);
        assert!(took < TTL, "it led {took:?} after etcd answered");
        replicas[leader].wait_for_next_refreshes(3);
    });
}

#[test]
fn a_replica_without_etcd_stops_at_once_on_a_signal() {
    let (silent, hole) = (Proxy::silent(), BlackHole::new());
    for endpoint in [refusing(), silent.endpoint(), hole.endpoint()] {
        let mut replica = Daemon::spawn("server1", plain("server1", &endpoint));
        replica.wait_for_next_start("Connecting to etcd at");
        replica.signal(Signal::TERM);
        let asked = Instant::now();
        assert_eq!(replica.wait_exit().code(), Some(0));
        assert!(
            asked.elapsed() < TTL,
            "it ended after {:?}",
            asked.elapsed()
        );
        let last = replica.messages().pop();
        assert_eq!(last.as_deref(), Some("No longer a candidate."));
    }
}

#[test]
fn one_dead_or_silent_endpoint_never_costs_a_healthy_leader_its_term() {
    on_each_etcd(|etcd| {
        let (silent, cut, hole) = (Proxy::silent(), Proxy::cut(), BlackHole::new());
        let bad = [
            refusing(),
            silent.endpoint(),
            cut.endpoint(),
            hole.endpoint(),
        ];
        let mut leaders = Vec::new();
        for (number, bad) in bad.iter().enumerate() {
            let good = etcd.endpoint();
            for (order, endpoints) in [format!("{bad},{good}"), format!("{good},{bad}")]
                .iter()
                .enumerate()
            {
                let name = format!("server{number}{order}");
                let mut command = json(&name, endpoints);
                command.args(["--leader-key", &name]);
                leaders.push(Daemon::spawn(&name, command));
            }
        }
        for leader in &mut leaders {
            let first = leader.wait_for_next_refreshes(1);
            let last = leader.wait_for_next_refreshes(MANY);
            assert!(last.at - first.at >= TTL * 3, "refreshed too often");
        }
        for leader in &leaders {
            assert_eq!(terms(&[leader]).len(), 1);
            let key = etcd.key(&leader.name).unwrap();
            assert_eq!(leader.last(LEADER).field("lease"), key.lease);
        }
    });
}

#[test]
fn an_endpoint_that_falls_silent_or_dies_in_mid_term_does_not_cost_the_term() {
    on_each_etcd(|etcd| {
        let proxies = [(); 2].map(|()| Proxy::start(&etcd.endpoint(), Link::Open));
        let endpoints = format!("{},{}", proxies[0].endpoint(), proxies[1].endpoint());
        let mut leader = Daemon::spawn("server1", json("server1", &endpoints));
        leader.wait_for_next_refreshes(1);
        // Whichever of the two it uses: each of them fails in turn, in each of these ways.
        for fault in [Link::Frozen, Link::Cut, Link::NoResponses] {
            for proxy in &proxies {
                proxy.set(fault);
                leader.skip();
                leader.wait_for_next_refreshes(6);
                proxy.set(Link::Open);
            }
        }
        assert_eq!(terms(&[&leader]).len(), 1);
    });
}

#[test]
fn a_follower_cut_off_from_etcd_for_a_while_is_there_when_it_is_needed() {
    on_each_etcd(|etcd| {
        let mut leader = Daemon::spawn("leader", json("leader", &etcd.endpoint()));
        leader.wait_for_next(LEADER);
        let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
        let mut follower = Daemon::spawn("follower", json("follower", &proxy.endpoint()));
        follower.wait_for_next(FOLLOWER);
        proxy.set(Link::Frozen);
        // Its lease expires, and etcd forgets the changes that its watch has missed.
        poll_every(REFRESH, "its lease expires", || {
            (etcd.leases().len() == 1).then_some(())
        });
        etcd.put("something", b"else", None);
        etcd.etcdctl(&["compact", &etcd.revision().to_string()]);
        proxy.set(Link::Open);
        leader.skip();
        leader.wait_for_next_refreshes(6);
        assert_eq!(follower.count(LEADER), 0);
        let killed = leader.crash();
        let took = follower.wait_for_next(LEADER).at - killed;
        let fault = "compacted while a watch was down, leader killed";
        within_bound(fault, took, FAIL_OVER, TTL);
        assert_eq!(terms(&[&leader, &follower]).len(), 2);
    });
}

#[test]
fn a_bad_etcd_never_makes_a_replica_spin() {
    let (silent, cut, hole) = (Proxy::silent(), Proxy::cut(), BlackHole::new());
    let bad = [
        refusing(),
        silent.endpoint(),
        cut.endpoint(),
        hole.endpoint(),
    ];
    let replicas: Vec<_> = bad
        .iter()
        .map(|bad| Daemon::spawn(bad, plain("server1", bad)))
        .collect();
    let time = TTL * 3;
    let_pass(time);
    for replica in &replicas {
        let used = replica.cpu_time();
        assert!(
            used < time / 10,
            "{} used {used:?} of the processor",
            replica.name
        );
        assert!(!replica.has_ended());
        assert!(replica.warnings().len() == 1, "{:?}", replica.warnings());
    }
    // With full jitter below a fifth of the TTL, 15 to 40 attempts are expected.
    for proxy in [&silent, &cut] {
        let attempts = proxy.accepted();
        assert!(
            (4..=100).contains(&attempts),
            "{attempts} connections in {time:?}"
        );
    }
}

#[test]
fn a_healthy_election_hardly_uses_the_processor() {
    let etcd = Etcd::start(binaries().last().unwrap());
    let mut replicas = Daemon::candidates(&etcd, 2);
    let leader = wait_for_next_roles(&mut replicas);
    let before: Vec<Duration> = replicas.iter().map(|replica| replica.cpu_time()).collect();
    let first = replicas[leader].wait_for_next_refreshes(1).at;
    let time = replicas[leader].wait_for_next_refreshes(MANY).at - first;
    for (replica, before) in replicas.iter().zip(before) {
        let used = replica.cpu_time().saturating_sub(before);
        assert!(
            used < time / 20,
            "{} used {used:?} of {time:?}",
            replica.name
        );
    }
}
