//! The library's API against a real etcd.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use leader_election::{Cluster, Config, Election, LossReason, Ttl};
use std::time::Duration;
use support::{PATIENCE, TTL, etcd::Etcd, let_pass};

fn election(etcd: &Etcd, name: &str) -> Election {
    let endpoints = vec![etcd.endpoint().parse().unwrap()];
    let config = Config::new(name.parse().unwrap(), Cluster::new(endpoints).unwrap())
        .with_times(Ttl::try_from(TTL).unwrap(), Duration::ZERO)
        .unwrap();
    Election::new(config)
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("in time") });
}

/// Waits until etcd holds neither lease nor key of an election.
async fn released(etcd: &Etcd) {
    while etcd.key("leader").is_some() || etcd.key("leader/acting").is_some() {
        tokio::task::yield_now().await;
    }
}

#[test]
fn leadership_is_held_until_it_is_dropped_and_then_passes_on() {
    let etcd = Etcd::newest();
    run(async {
        let mut first = election(&etcd, "first").join().unwrap();
        let leadership = first.campaign().await.unwrap();
        assert!(leadership.is_leader());
        assert_eq!(etcd.key("leader").unwrap().value, b"first");

        let mut second = election(&etcd, "second").join().unwrap();
        let token = leadership.token();
        drop(leadership);
        let leadership = second.campaign().await.unwrap();
        assert!(leadership.token() > token);
        drop(leadership);
        first.finished().await.unwrap();
        second.finished().await.unwrap();
        assert_eq!(etcd.key("leader"), None);
    });
}

#[test]
fn a_leader_whose_key_is_deleted_is_told_why_and_may_finish_before_it_lets_go() {
    let etcd = Etcd::newest();
    run(async {
        let mut candidate = election(&etcd, "a").join().unwrap();
        let mut leadership = candidate.campaign().await.unwrap();
        etcd.etcdctl(&["del", "leader"]);
        assert_eq!(leadership.lost().await, LossReason::LeaderKeyDeleted);
        assert!(!leadership.is_leader());
        // It takes longer than its lease would last, and the lease is kept all the while.
        let_pass(TTL * 3 / 2);
        assert!(etcd.key("leader/acting").is_some());
        drop(leadership);
        released(&etcd).await;
        candidate.finished().await.unwrap();
    });
}

#[test]
fn a_leadership_that_nobody_has_taken_does_not_keep_a_candidate_from_finishing() {
    let etcd = Etcd::newest();
    run(async {
        let candidate = election(&etcd, "a").join().unwrap();
        let mut status = candidate.status();
        let leads = |status: &leader_election::Status| status.leader.is_some();
        status.wait_for(leads).await.unwrap();
        candidate.finished().await.unwrap();
        released(&etcd).await;
    });
}

#[test]
fn a_candidate_that_is_dropped_lets_go_whenever_that_happens() {
    let etcd = Etcd::newest();
    run(async {
        for turn in 0..100 {
            let candidate = election(&etcd, "a").join().unwrap();
            let mut status = candidate.status();
            // Somewhere between the first call and the first term.
            tokio::time::sleep(Duration::from_micros(turn * 60)).await;
            drop(candidate);
            while status.changed().await.is_ok() {}
        }
        released(&etcd).await;
        assert_eq!(etcd.leases(), [""; 0]);
    });
}
