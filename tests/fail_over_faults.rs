//! What a term with a fail-over limit survives, and that at most one candidate leads when it does not.

use rustix::process::Signal;
use std::time::{Duration, Instant};
use support::checker::terms;
use support::cluster::{Cluster, others};
use support::daemon::{
    Daemon, FOLLOWER, LEADER, LOST, REFRESHED, json, wait_for_next_roles, wait_for_settled,
};
use support::etcd::{Etcd, binaries, on_each_etcd};
use support::etcdctl::LITTLE_ROOM;
use support::proxy::{Link, Proxy};
use support::quick::{SECOND, TTL, candidate, candidates, with_ttl};
use support::{PATIENCE, is_long_run, let_pass, poll_until, users, wait_until};

const CHALLENGE: &str = "leader/challenge";

/// A limit that leaves a leader time to respond on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(2);

/// In less than this time after its last renewal, no lease ends.
const BEFORE_THE_LEASE: Duration = Duration::from_secs(8);

/// Waits until another candidate leads than this one; returns its index.
fn wait_for_next_leader(replicas: &[Daemon], old: usize) -> usize {
    wait_until("another candidate leads", PATIENCE, || {
        (0..replicas.len()).find(|&number| number != old && replicas[number].leads())
    })
}

/// Waits until somebody has deleted the challenge.
fn wait_for_response(etcd: &Etcd) {
    poll_until("the leader responds", || {
        etcd.key(CHALLENGE).is_none().then_some(())
    });
}

/// Checks that nobody else than this one has led, that it still does and that it has one term.
fn assert_keeps_its_only_term(replicas: &mut [Daemon], leader: usize) {
    replicas[leader].skip();
    replicas[leader].wait_for_next_refreshes(2);
    assert!(replicas[leader].leads());
    let began = replicas.iter().map(|replica| replica.count(LEADER));
    assert_eq!(began.sum::<usize>(), 1);
}

#[test]
fn a_leader_that_is_resumed_after_others_took_over_says_first_that_it_no_longer_leads() {
    on_each_etcd(|etcd| {
        let mut replicas = candidates(&etcd.endpoint(), LIMIT, 3);
        let old = wait_for_next_roles(&mut replicas);
        replicas[old].wait_for_next_refreshes(1);
        // So short that it responds in time, if it was suspected at all.
        replicas[old].signal(Signal::STOP);
        let_pass(LIMIT / 4);
        replicas[old].signal(Signal::CONT);
        assert_keeps_its_only_term(&mut replicas, old);

        replicas[old].signal(Signal::STOP);
        let stopped = Instant::now();
        let new = wait_for_next_leader(&replicas, old);
        let took = replicas[new].last(LEADER).at - stopped;
        assert!(took < BEFORE_THE_LEASE, "{took:?}");
        replicas[new].wait_for_any(REFRESHED);
        let said = replicas[old].lines().len();
        replicas[old].signal(Signal::CONT);
        replicas[old].wait_for_next(FOLLOWER);
        let first = replicas[old].lines()[said].message();
        assert!(first.starts_with(LOST), "{first:?}");
        assert_eq!(replicas[old].count(LEADER), 1);
        assert!(replicas[new].leads());
        assert_eq!(replicas[new].count(LEADER), 1);
    });
}

#[test]
fn a_leader_responds_to_challenges_that_are_written_by_hand_and_keeps_its_term() {
    on_each_etcd(|etcd| {
        let mut replicas = candidates(&etcd.endpoint(), LIMIT, 3);
        let leader = wait_for_next_roles(&mut replicas);
        let lease = etcd.grant(TTL);
        let values = [&b""[..], b"\xff\0", br#"{"name":"an operator"}"#];
        for lease in [None, Some(&*lease)] {
            for value in values {
                etcd.put(CHALLENGE, value, lease);
                wait_for_response(&etcd);
            }
        }
        // Many in a row, some of which the leader never sees, since they are overwritten before.
        for _ in 0..30 {
            etcd.put(CHALLENGE, b"again", None);
        }
        wait_for_response(&etcd);
        // One that is deleted by hand while the leader cannot respond.
        replicas[leader].signal(Signal::STOP);
        etcd.put(CHALLENGE, b"", None);
        etcd.etcdctl(&["del", CHALLENGE]);
        replicas[leader].signal(Signal::CONT);
        assert_keeps_its_only_term(&mut replicas, leader);
        assert_eq!(etcd.key(CHALLENGE), None);
    });
}

#[test]
fn a_challenge_that_nobody_responds_to_goes_with_the_next_term() {
    let etcd = Etcd::newest();
    let mut replicas = candidates(&etcd.endpoint(), LIMIT, 3);
    let old = wait_for_next_roles(&mut replicas);
    replicas[old].crash();
    etcd.put(CHALLENGE, b"an operator", None);
    let new = wait_for_next_leader(&replicas, old);
    replicas[new].wait_for_next(LEADER);
    assert_eq!(etcd.key(CHALLENGE), None);
    replicas[new].wait_for_next_refreshes(2);
}

#[test]
fn the_death_of_etcds_leader_makes_no_second_leader() {
    let mut cluster = Cluster::start(binaries().last().unwrap());
    let mut replicas = candidates(&cluster.endpoints(), LIMIT, 3);
    wait_for_next_roles(&mut replicas);
    for _ in 0..if is_long_run() { 5 } else { 1 } {
        let killed = cluster.leader(0, None);
        let [other, _] = others(killed);
        wait_for_settled(&mut replicas);
        let before = terms(&replicas.iter().collect::<Vec<_>>()).len();
        cluster.members[killed].kill();
        cluster.leader(other, Some(killed));
        wait_for_settled(&mut replicas);
        let all = terms(&replicas.iter().collect::<Vec<_>>());
        let lost = all.len() - before;
        println!("seen: etcd's leader killed, limit {LIMIT:?}: {lost} terms lost");
        assert!(lost <= 1, "{all:#?}");
        cluster.members[killed].up();
        cluster.wait_healthy(&[0, 1, 2]);
    }
}

#[test]
fn connections_that_are_reset_again_and_again_cost_no_term() {
    let etcd = Etcd::newest();
    let way = Proxy::start(&etcd.endpoint(), Link::Open);
    let mut replicas = candidates(&way.endpoint(), LIMIT, 3);
    let leader = wait_for_next_roles(&mut replicas);
    let resets = if is_long_run() { 60 } else { 10 };
    for _ in 0..resets {
        let_pass(SECOND);
        way.set(Link::Reset);
        way.set(Link::Open);
    }
    assert_keeps_its_only_term(&mut replicas, leader);
}

#[test]
fn with_a_full_database_a_leader_responds_to_a_challenge_and_after_a_crash_its_lease_must_end() {
    let room = LITTLE_ROOM.map(str::to_owned);
    let etcd = Etcd::start_with(binaries().last().unwrap(), &room, &[]);
    // Time for an operator to fill the database between two tries of a leader that is stopped.
    let limit = TTL / 2;
    let mut replicas = candidates(&etcd.endpoint(), limit, 2);
    let leader = wait_for_next_roles(&mut replicas);
    replicas[leader].signal(Signal::STOP);
    etcd.put(CHALLENGE, b"", None);
    etcd.fill();
    replicas[leader].signal(Signal::CONT);
    wait_for_response(&etcd);
    assert_keeps_its_only_term(&mut replicas, leader);

    let dead = replicas[leader].crash();
    poll_until("the lease ends", || {
        etcd.key("leader").is_none().then_some(())
    });
    assert!(dead.elapsed() > BEFORE_THE_LEASE, "{:?}", dead.elapsed());
    assert!(!replicas[1 - leader].leads());
    etcd.etcdctl(&["del", "filler"]);
    etcd.etcdctl(&["compact", &etcd.revision().to_string()]);
    etcd.etcdctl(&["defrag"]);
    etcd.etcdctl(&["alarm", "disarm"]);
    replicas[1 - leader].wait_for_next(LEADER);
    replicas[1 - leader].wait_for_next_refreshes(2);
}

/// Returns an etcd with users, but without authentication yet.
fn with_users() -> Etcd {
    // Checking a password takes long on purpose, and these tests have no time for that.
    let cheap = ["--bcrypt-cost", "4"].map(str::to_owned);
    let etcd = Etcd::start_with(binaries().last().unwrap(), &cheap, &[]);
    users::add(&etcd);
    etcd
}

#[test]
fn authentication_can_be_switched_on_while_a_leader_has_a_limit() {
    let mut etcd = with_users();
    users::permit_all_keys_of_the_election(&etcd);
    let mut replicas: Vec<_> = ["server1", "server2", "server3"]
        .map(|name| {
            let command = candidate(name, &etcd.endpoint(), LIMIT);
            Daemon::spawn(name, users::as_replica(command))
        })
        .into();
    let first = wait_for_next_roles(&mut replicas);
    users::enable(&mut etcd);
    assert_keeps_its_only_term(&mut replicas, first);
    etcd.put(CHALLENGE, b"", None);
    wait_for_response(&etcd);
    let killed = replicas[first].crash();
    let next = wait_for_next_leader(&replicas, first);
    let took = replicas[next].last(LEADER).at - killed;
    assert!(took < BEFORE_THE_LEASE, "{took:?}");
}

#[test]
fn a_follower_whose_role_has_the_two_keys_alone_follows_and_waits_for_the_end_of_the_lease() {
    let mut etcd = with_users();
    etcd.etcdctl(&["user", "add", "chief:sesame"]);
    etcd.etcdctl(&["user", "grant-role", "chief", "root"]);
    users::enable(&mut etcd);
    let ttl = Duration::from_secs(4);
    let with_limit = |name: &str| {
        let mut command = with_ttl(name, &etcd.endpoint(), ttl, LIMIT);
        command.args(["--etcd-user", "chief"]);
        command.env("LEADER_ELECTION_ETCD_PASSWORD", "sesame");
        Daemon::spawn(name, command)
    };
    let mut chief = with_limit("chief");
    chief.wait_for_next(LEADER);
    let two_keys = users::as_replica(json("two-keys", &etcd.endpoint()));
    let mut follower = Daemon::spawn("two-keys", two_keys);
    follower.wait_for_next(FOLLOWER);
    etcd.put(CHALLENGE, b"", None);
    wait_for_response(&etcd);
    chief.skip();
    chief.wait_for_next_refreshes(3);
    assert!(!follower.has_ended());
    assert_eq!(follower.warnings(), [""; 0]);

    // Its own terms have no limit, so that nobody challenges it.
    let killed = chief.crash();
    follower.wait_for_next(LEADER);
    let took = follower.last(LEADER).at - killed;
    assert!(took > ttl / 2, "{took:?}");
    let mut chief = with_limit("chief");
    chief.wait_for_next(FOLLOWER);
    follower.wait_for_next_refreshes(3);
    assert_eq!(follower.warnings(), [""; 0]);
    assert_eq!(chief.warnings(), [""; 0]);
    follower.signal(Signal::TERM);
    chief.wait_for_next(LEADER);
    chief.wait_for_next_refreshes(1);
}
