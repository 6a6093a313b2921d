//! How soon another candidate leads after a leader with a fail-over limit was killed, and what such an election costs
//! etcd. Followers notice the crash only by asking etcd for the leader's lease.

use std::time::Duration;
use support::cluster::Cluster;
use support::daemon::{Daemon, FOLLOWER, LEADER, wait_for_next_roles};
use support::etcd::{Etcd, binaries, on_each_etcd};
use support::quick::{SECOND, candidate, candidates, median_bound};
use support::seated::{CHANGE, ELECTION, roles_after, wait_for_seats};
use support::{PATIENCE, is_long_run, let_pass, wait_until};

const LIMITS: [Duration; 2] = [Duration::from_millis(500), SECOND];

/// Kills the leader; checks what the others log about that, and replaces it with a new candidate. Returns how long
/// nobody led.
fn kill_leader(endpoints: &str, limit: Duration, replicas: &mut Vec<Daemon>) -> Duration {
    let is_leader = |replica: &Daemon| replica.leads();
    let mut old = replicas.remove(replicas.iter().position(is_leader).unwrap());
    old.skip();
    old.wait_for_next_refreshes(1);
    // At a random moment between two of its tries.
    let_pass((limit / 5).mul_f64(fastrand::f64()));
    for replica in replicas.iter_mut() {
        replica.skip();
    }
    let lines = |replica: &Daemon| replica.lines().len();
    let before: Vec<_> = replicas.iter().map(lines).collect();
    let killed = old.crash();
    let next = wait_until("another candidate leads", PATIENCE, || {
        replicas.iter().position(is_leader)
    });
    for (number, replica) in replicas.iter_mut().enumerate() {
        let takes_over = number == next;
        replica.wait_for_next(if takes_over { LEADER } else { FOLLOWER });
        let expected = if takes_over {
            vec![CHANGE, ELECTION[0], ELECTION[1], LEADER]
        } else {
            vec![CHANGE, FOLLOWER]
        };
        assert_eq!(roles_after(replica, before[number]), expected);
    }
    let took = replicas[next].last(LEADER).at - killed;
    let mut new = Daemon::spawn(&old.name, candidate(&old.name, endpoints, limit));
    new.wait_for_next(FOLLOWER);
    replicas.push(new);
    took
}

/// Kills one leader after the other, and checks how long nobody led then.
fn kill_leaders(etcd: &str, endpoints: &str) {
    for limit in LIMITS {
        let mut replicas = candidates(endpoints, limit, 3);
        wait_for_next_roles(&mut replicas);
        let rounds = if is_long_run() { 20 } else { 5 };
        let mut times: Vec<_> = (0..rounds)
            .map(|_| kill_leader(endpoints, limit, &mut replicas))
            .collect();
        times.sort();
        let (median, bound) = (times[rounds / 2], median_bound(limit));
        let [median_ms, shortest, longest] =
            [median, times[0], times[rounds - 1]].map(|time| time.as_millis());
        println!(
            "seen: leader killed, {etcd}, limit {limit:?}: next one after {median_ms} ms ({shortest} to {longest}), \
             median of {rounds}; bound {bound:?}"
        );
        assert!(median <= bound, "{times:?}");
        assert_eq!(replicas.iter().filter(|replica| replica.leads()).count(), 1);
    }
}

#[test]
fn a_killed_leader_is_replaced_soon_after_its_limit_with_one_etcd() {
    let etcd = Etcd::newest();
    kill_leaders("one member", &etcd.endpoint());
}

#[test]
fn a_killed_leader_is_replaced_soon_after_its_limit_with_three_members() {
    let cluster = Cluster::start(binaries().last().unwrap());
    kill_leaders("three members", &cluster.endpoints());
}

#[test]
fn while_all_is_well_a_leader_with_a_limit_and_its_followers_write_nothing() {
    on_each_etcd(|etcd| {
        let mut replicas = candidates(&etcd.endpoint(), LIMITS[0], 3);
        let (leader, _) = wait_for_seats(&etcd, &mut replicas, 3);
        let before = (etcd.revision(), etcd.raft_index());
        let_pass(4 * SECOND);
        assert_eq!((etcd.revision(), etcd.raft_index()), before);
        assert!(replicas[leader].leads());
        for replica in &replicas {
            assert_eq!(replica.warnings(), [""; 0], "{}", replica.name);
        }
    });
}
