//! What happens at the end of a term when it cannot be handed over, or not to the first candidate.

use rustix::process::Signal;
use std::path::Path;
use std::time::{Duration, SystemTime};
use support::checker::{stall, terms, within_bound};
use support::daemon::{Daemon, FOLLOWER, json, wait_for_leader, wait_for_next_roles};
use support::etcd::{Etcd, binaries, on_each_etcd};
use support::etcdctl::LITTLE_ROOM;
use support::operator::{at, run};
use support::seated::{HANDED_OVER, successor, wait_for_seats};
use support::{FAIL_OVER, PATIENCE, TTL, is_long_run, let_pass, poll_until, users, wait_until};

/// How a replica begins to say that its role is for the two keys alone.
const NO_SEATS: &str = "etcd permits only 'leader' and 'leader/acting':";

/// Returns an etcd with authentication, whose user `replica` may read and write the two keys.
fn with_users(binary: &Path) -> Etcd {
    // Checking a password takes long on purpose, and these tests have no time for that.
    let cheap = ["--bcrypt-cost", "4"].map(str::to_owned);
    let mut etcd = Etcd::start_with(binary, &cheap, &[]);
    users::add(&etcd);
    users::enable(&mut etcd);
    etcd
}

/// Permits the user `replica` to read and write all keys below `leader/`.
fn permit_prefix(etcd: &Etcd) {
    let grant = ["role", "grant-permission", "election", "--prefix=true"];
    etcd.etcdctl(&[&grant[..], &["readwrite", "leader/"]].concat());
}

fn candidates_as_replica(etcd: &Etcd) -> Vec<Daemon> {
    let names = ["server1", "server2", "server3"];
    let command = |name: &str| users::as_replica(json(name, &etcd.endpoint()));
    names.map(|name| Daemon::spawn(name, command(name))).into()
}

fn has_handed_over(replica: &Daemon) -> bool {
    let messages = replica.messages();
    (messages.iter()).any(|message| message.starts_with(HANDED_OVER))
}

/// Stops the leader, and waits until another one leads; returns the index of that one.
fn stop_leader(replicas: &mut [Daemon], leader: usize) -> usize {
    replicas[leader].signal(Signal::TERM);
    assert_eq!(replicas[leader].wait_exit().code(), Some(0));
    let next = wait_until("another replica leads", PATIENCE, || {
        let mut others = (0..replicas.len()).filter(|one| *one != leader);
        others.find(|one| replicas[*one].leads())
    });
    replicas[next].wait_for_next_refreshes(1);
    next
}

#[test]
fn a_role_for_the_two_keys_is_enough_for_an_election_and_one_for_the_prefix_for_hand_overs() {
    for binary in binaries() {
        let etcd = with_users(&binary);
        let mut replicas = candidates_as_replica(&etcd);
        let first = wait_for_next_roles(&mut replicas);
        for replica in &replicas {
            replica.wait_for_any_start(NO_SEATS);
        }
        // It asks again with its next lease, and does not say so again.
        let stepped = run(users::as_replica(at(&etcd.endpoint(), &["step-down"])));
        assert_eq!(stepped.code, 0, "{:?}", stepped.err);
        replicas[first].wait_for_next(FOLLOWER);
        let second = wait_for_leader(&replicas);
        replicas[second].wait_for_next_refreshes(1);
        let third = stop_leader(&mut replicas, second);
        assert!(!replicas[third].has_ended());
        assert_eq!(etcd.seats(), []);
        for replica in &replicas {
            assert!(!has_handed_over(replica));
            let messages = replica.messages();
            let warnings = messages.iter().filter(|line| line.starts_with(NO_SEATS));
            assert_eq!(warnings.count(), 1, "{}: {messages:?}", replica.name);
            assert_eq!(replica.warnings(), [""; 0], "{}", replica.name);
        }
        let all = terms(&replicas.iter().collect::<Vec<_>>());
        assert_eq!(all.len(), 3, "{all:#?}");
        for replica in &mut replicas {
            if !replica.has_ended() {
                replica.signal(Signal::TERM);
                assert_eq!(replica.wait_exit().code(), Some(0));
            }
        }

        permit_prefix(&etcd);
        let mut replicas = candidates_as_replica(&etcd);
        let (leader, old) = wait_for_seats(&etcd, &mut replicas, 3);
        let next = successor(&etcd, &old.name);
        let leads = stop_leader(&mut replicas, leader);
        assert_eq!(replicas[leads].name, next.name);
        assert!(has_handed_over(&replicas[leader]));
        for replica in &replicas {
            assert_eq!(replica.warnings(), [""; 0], "{}", replica.name);
        }
    }
}

#[test]
fn a_leader_whose_hand_over_has_no_room_in_the_database_gives_its_keys_up() {
    for binary in binaries() {
        let room = LITTLE_ROOM.map(str::to_owned);
        let etcd = Etcd::start_with(&binary, &room, &[]);
        let mut replicas = Daemon::candidates(&etcd, 3);
        let (leader, old) = wait_for_seats(&etcd, &mut replicas, 3);
        etcd.fill();
        replicas[leader].signal(Signal::TERM);
        let asked = SystemTime::now();
        assert_eq!(replicas[leader].wait_exit().code(), Some(0));
        let took = replicas[leader].ended().unwrap().duration_since(asked);
        assert!(took.unwrap() < TTL, "not by the end of its lease");
        for key in ["leader", "leader/acting", &old.key] {
            assert_eq!(etcd.key(key), None, "{key}");
        }
        assert!(!etcd.leases().contains(&old.lease));
        assert!(!has_handed_over(&replicas[leader]));
        assert!(!replicas.iter().any(Daemon::leads));
    }
}

/// How often the successor is killed in one test.
const KILLS: usize = 3;

#[test]
fn a_successor_that_was_killed_just_before_the_hand_over_delays_the_next_term_by_a_ttl_at_most() {
    on_each_etcd(|etcd| {
        let mut took = Vec::new();
        for _ in 0..if is_long_run() { 4 * KILLS } else { KILLS } {
            let mut replicas = Daemon::candidates(&etcd, 3);
            let (leader, old) = wait_for_seats(&etcd, &mut replicas, 3);
            let next = successor(&etcd, &old.name);
            let index = replicas.iter().position(|one| one.name == next.name);
            let dead = index.expect("a candidate");
            // At a random moment between two of its renewals.
            replicas[leader].wait_for_next_refreshes(1);
            let_pass(Duration::from_millis(fastrand::u64(..1000)));
            replicas[dead].crash();
            let_pass((TTL / 3).mul_f64(fastrand::f64()));
            let asked = SystemTime::now();
            let leads = stop_leader(&mut replicas, leader);
            assert_eq!(leads, 3 - leader - dead);
            let all = terms(&replicas.iter().collect::<Vec<_>>());
            assert_eq!(all.len(), 2, "{all:#?}");
            let gap = stall(&all, asked);
            within_bound("leader stopped, its successor dead", gap, FAIL_OVER, TTL);
            took.push(gap);
            replicas[leads].signal(Signal::TERM);
            replicas[leads].wait_exit();
            poll_until("the dead one's lease is gone", || {
                etcd.leases().is_empty().then_some(())
            });
        }
        took.sort();
        let multiple = |time: Duration| time.as_secs_f64() / TTL.as_secs_f64();
        let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
        println!(
            "seen: successor dead: median {:.2} TTL, worst {:.2} TTL",
            multiple(median),
            multiple(worst)
        );
    });
}
