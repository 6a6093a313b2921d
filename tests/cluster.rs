//! What the election does when members of a cluster of three etcds fail. One unreachable endpoint of
//! several is in `outages.rs`.

use std::path::Path;
use std::time::{Duration, SystemTime};
use support::checker::{Term, stall, terms, within_bound};
use support::cluster::{Cluster, MEMBERS, others};
use support::daemon::{
    Daemon, FOLLOWER, LEADER, LOST, json, wait_for_next_roles, wait_for_settled,
};
use support::etcd::{Etcd, binaries};
use support::{FAIL_OVER, TTL, let_pass};

/// How much longer a new leader of etcd may take: its election takes one to two election timeouts,
/// may fail once, and then restarts the TTL of every lease.
const ETCD_ELECTS: Duration = Duration::from_secs(4);

/// Runs a test against a cluster of each version of etcd, one after the other, since each is three
/// processes.
fn on_each_cluster(test: impl Fn(Cluster)) {
    for binary in binaries() {
        println!("on {}", binary.display());
        test(Cluster::start(&binary));
    }
}

fn newest() -> Cluster {
    let binary = binaries().pop().unwrap();
    Cluster::start(Path::new(&binary))
}

fn candidates(cluster: &Cluster, count: usize) -> Vec<Daemon> {
    (1..=count)
        .map(|number| format!("server{number}"))
        .map(|name| Daemon::spawn(&name, json(&name, &cluster.endpoints())))
        .collect()
}

/// Waits until a replica leads and continues to; returns all terms.
fn settle(replicas: &mut [Daemon]) -> Vec<Term> {
    wait_for_settled(replicas);
    terms(&replicas.iter().collect::<Vec<_>>())
}

#[test]
fn the_death_of_etcds_leader_stalls_the_election_no_longer_than_promised() {
    on_each_cluster(|mut cluster| {
        let mut replicas = candidates(&cluster, 3);
        wait_for_next_roles(&mut replicas);
        let killed = cluster.leader(0, None);
        let [other, _] = others(killed);
        cluster.members[killed].kill();
        let died = SystemTime::now();
        cluster.leader(other, Some(killed));
        let terms = settle(&mut replicas);
        let bound = FAIL_OVER + ETCD_ELECTS;
        within_bound("etcd's leader killed", stall(&terms, died), bound, TTL);
    });
}

#[test]
fn a_frozen_leader_of_etcd_that_thaws_with_stale_responses_makes_no_second_leader() {
    on_each_cluster(|cluster| {
        let mut replicas = candidates(&cluster, 3);
        wait_for_next_roles(&mut replicas);
        for _ in 0..2 {
            let frozen = cluster.leader(0, None);
            let [other, _] = others(frozen);
            cluster.members[frozen].freeze();
            let froze = SystemTime::now();
            cluster.leader(other, Some(frozen));
            let took = stall(&settle(&mut replicas), froze);
            cluster.members[frozen].thaw();
            within_bound("etcd's leader frozen", took, FAIL_OVER + ETCD_ELECTS, TTL);
            cluster.wait_healthy(&[0, 1, 2]);
        }
        settle(&mut replicas);
    });
}

#[test]
fn a_leader_that_asks_etcds_former_leader_alone_makes_no_second_leader() {
    let cluster = newest();
    // etcd elects another leader after one to two seconds, and the deadline is at most 1.8 s away.
    for (round, frozen_for) in [1200, 1500, 1700, 2100].into_iter().enumerate() {
        let former = cluster.leader(0, None);
        let majority = others(former);
        let key = format!("leader{round}");
        let start = |name: &str, endpoints: String| {
            let mut command = json(name, &endpoints);
            command.args(["--leader-key", &key]);
            Daemon::spawn(name, command)
        };
        let mut replicas = vec![start("old", cluster.endpoints_of(&[former]))];
        replicas[0].wait_for_next(LEADER);
        replicas.push(start("new", cluster.endpoints_of(&majority)));
        replicas[1].wait_for_next(FOLLOWER);
        replicas[0].wait_for_next_refreshes(1);
        let froze = SystemTime::now();
        cluster.members[former].freeze();
        let_pass(Duration::from_millis(frozen_for));
        cluster.members[former].thaw();
        let took = stall(&settle(&mut replicas), froze);
        let fault = "etcd's leader frozen for a moment, alone in reach";
        within_bound(fault, took, FAIL_OVER + ETCD_ELECTS, TTL);
        cluster.wait_healthy(&[0, 1, 2]);
    }
}

#[test]
fn without_a_quorum_nobody_leads_and_with_one_again_a_replica_does() {
    let mut cluster = newest();
    let mut replicas = candidates(&cluster, 3);
    let leader = wait_for_next_roles(&mut replicas);
    replicas[leader].wait_for_next_refreshes(1);
    // One is killed and one frozen. The third is alone, and knows it.
    let [dead, frozen] = others(0);
    let lost_at = SystemTime::now();
    cluster.members[dead].kill();
    cluster.members[frozen].freeze();
    replicas[leader].wait_for_next_start(LOST);
    let_pass((TTL * 4).saturating_sub(lost_at.elapsed().unwrap()));
    assert!(!replicas.iter().any(Daemon::leads));
    let before = terms(&replicas.iter().collect::<Vec<_>>());
    assert_eq!(
        before.len(),
        1,
        "without a quorum, no replica can know that it leads"
    );
    let thawed = SystemTime::now();
    cluster.members[frozen].thaw();
    let took = stall(&settle(&mut replicas), thawed);
    let bound = FAIL_OVER + ETCD_ELECTS;
    within_bound("quorum lost for 4 TTL, then back", took, bound, TTL);
}

#[test]
fn a_leader_that_reaches_the_minority_alone_stops_before_the_majority_elects() {
    let cluster = newest();
    // The member that is cut off is a follower of etcd first, and then its leader.
    for cut_off_leader in [false, true] {
        let etcds_leader = cluster.leader(0, None);
        let alone = if cut_off_leader {
            etcds_leader
        } else {
            others(etcds_leader)[0]
        };
        let majority = others(alone);
        let key = format!("leader{cut_off_leader}");
        let start = |name: &str, endpoints: String| {
            let mut command = json(name, &endpoints);
            command.args(["--leader-key", &key]);
            Daemon::spawn(name, command)
        };
        let mut old = start("old", cluster.endpoints_of(&[alone]));
        old.wait_for_next(LEADER);
        let mut new = start("new", cluster.endpoints_of(&majority));
        new.wait_for_next(FOLLOWER);
        old.wait_for_next_refreshes(1);
        cluster.isolate(alone);
        let cut = SystemTime::now();
        old.wait_for_next_start(LOST);
        new.wait_for_next(LEADER);
        let_pass(TTL);
        assert!(!old.leads());
        cluster.join();
        old.wait_for_next(FOLLOWER);
        new.skip();
        new.wait_for_next_refreshes(3);
        let all = terms(&[&old, &new]);
        assert_eq!(all.len(), 2);
        let (fault, bound) = if cut_off_leader {
            (
                "only the cut-off former leader of etcd in reach",
                FAIL_OVER + ETCD_ELECTS,
            )
        } else {
            ("only a cut-off member in reach", FAIL_OVER + TTL / 5)
        };
        let took = all[1].from.duration_since(cut).unwrap();
        within_bound(fault, took, bound, TTL);
        cluster.wait_healthy(&[0, 1, 2]);
    }
}

#[test]
fn members_that_are_restarted_one_by_one_stall_the_election_no_longer_than_promised() {
    let mut cluster = newest();
    let mut replicas = candidates(&cluster, 3);
    wait_for_next_roles(&mut replicas);
    for number in 0..MEMBERS {
        let stopped = SystemTime::now();
        cluster.members[number].stop();
        cluster.leader(others(number)[0], Some(number));
        cluster.members[number].up();
        cluster.wait_healthy(&[0, 1, 2]);
        let took = stall(&settle(&mut replicas), stopped);
        within_bound(
            "members restarted one by one",
            took,
            FAIL_OVER + ETCD_ELECTS,
            TTL,
        );
    }
}

#[test]
fn a_leader_of_the_default_ttl_outlives_the_death_of_etcds_leader() {
    let mut cluster = newest();
    let mut command = support::daemon::command();
    command.args(["--name", "leader", "--etcd", &cluster.endpoints()]);
    command.args(["--log-format", "json"]);
    let mut leader = Daemon::spawn("leader", command);
    leader.wait_for_next_refreshes(1);
    let killed = cluster.leader(0, None);
    cluster.members[killed].kill();
    leader.wait_for_next_refreshes(6);
    assert_eq!(terms(&[&leader]).len(), 1);
}

#[test]
fn a_term_ends_in_time_when_all_members_are_silent_behind_open_ports() {
    let cluster = newest();
    let mut replicas = candidates(&cluster, 2);
    let leader = wait_for_next_roles(&mut replicas);
    replicas[leader].wait_for_next_refreshes(1);
    cluster.members.iter().for_each(Etcd::freeze);
    let froze = SystemTime::now();
    replicas[leader].wait_for_next_start(LOST);
    let lost = terms(&[&replicas[leader]])[0].to;
    within_bound(
        "all members frozen, until nobody leads",
        lost.duration_since(froze).unwrap(),
        TTL,
        TTL,
    );
    let thawed = SystemTime::now();
    cluster.members.iter().for_each(Etcd::thaw);
    let took = stall(&settle(&mut replicas), thawed);
    let bound = FAIL_OVER + ETCD_ELECTS;
    within_bound("all members frozen, then thawed", took, bound, TTL);
}
