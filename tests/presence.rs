//! `GET /presence`: how soon a leader is replaced that its followers watch. A file of its own, because other tests beside
//! it would take some of the time that it measures.

use std::time::Duration;
use support::etcd::Etcd;
use support::is_long_run;
use support::watched::{count_terms, start, three, wait_for_next_leader, wait_for_watched_leader};

/// Kills the leader again and again. Returns how long it took each time until the next one led, the shortest first.
fn kill_leaders(limit: Duration) -> Vec<Duration> {
    let etcd = Etcd::newest();
    let (mut replicas, addresses) = three(&etcd, limit);
    let mut leader = wait_for_watched_leader(&mut replicas);
    let mut gone = Vec::new();
    let mut took = Vec::new();
    for _ in 0..if is_long_run() { 20 } else { 5 } {
        for replica in &mut replicas {
            replica.skip();
        }
        let killed = replicas[leader].crash();
        let name = replicas[leader].name.clone();
        let dead = replicas.remove(leader);
        let (_, leads) = wait_for_next_leader(&replicas);
        took.push(leads - killed);
        let address = &addresses[name[6..].parse::<usize>().unwrap() - 1];
        replicas.push(start(&name, &etcd, limit, address));
        gone.push(dead);
        leader = wait_for_watched_leader(&mut replicas);
    }
    gone.extend(replicas);
    assert_eq!(count_terms(&gone), took.len() + 1);
    // One for each kill, although both followers suspect the leader.
    assert_eq!(etcd.count_challenges("leader"), took.len());
    took.sort();
    took
}

#[test]
fn a_killed_leader_is_replaced_within_little_more_than_its_limit() {
    // One after the other: what they measure is short.
    for limit in [500, 1000].map(Duration::from_millis) {
        let took = kill_leaders(limit);
        let median = took[took.len() / 2];
        println!("seen: limit {limit:?}, leader killed: median {median:?} of {took:?}");
        // The kill, the challenge and the take-over with their commits, and the try: 15 ms here, more on a busy disk.
        let bound = limit * 11 / 10 + Duration::from_millis(50);
        assert!(median <= bound, "{median:?}, bound {bound:?}: {took:?}");
    }
}
