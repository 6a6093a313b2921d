//! That no two replicas' COMMANDs, nor anything they left behind, run at one instant, whatever
//! happens to the leader; by the commands' own records.
mod support;

use rustix::process::{Signal, kill_process, kill_process_group};
use std::time::Duration;
use support::daemon::{Daemon, FOLLOWER, LOST, Stream};
use support::etcd::{Etcd, on_each_etcd};
use support::proxy::{Link, Proxy};
use support::record::{Record, Sample, wait_for_guard};
use support::{FAIL_OVER, PATIENCE, TTL, wait_until};

/// A new term's COMMAND after an orderly end takes milliseconds; this is for a machine busy with
/// other tests, and well below a TTL, after which it would start anyway.
const HAND_OVER: Duration = Duration::from_secs(1);

const MANNERS: [&str; 2] = ["obedient", "stubborn"];

/// Replicas that run the recording COMMAND, each with a way of its own to etcd.
struct Replicas {
    record: Record,
    replicas: Vec<(Daemon, Proxy)>,
}

impl Replicas {
    /// Three of them; the leader's COMMAND runs.
    fn start(etcd: &Etcd, manner: &str) -> (Self, Sample) {
        let record = Record::new();
        let replicas = (1..=3).map(|number| {
            let name = format!("server{number}");
            let way = Proxy::start(&etcd.endpoint(), Link::Open);
            let command = record.replica(&name, &way.endpoint(), manner);
            (Daemon::spawn(&name, command), way)
        });
        let replicas = Self {
            replicas: replicas.collect(),
            record,
        };
        let first = replicas.record.wait_for_term_after(0);
        for (replica, _) in &replicas.replicas {
            if replica.name != first.name {
                wait_until("it follows", PATIENCE, || {
                    let lines = replica.lines();
                    lines
                        .iter()
                        .any(|line| line.message() == FOLLOWER)
                        .then_some(())
                });
            }
        }
        (replicas, first)
    }

    fn get(&mut self, name: &str) -> &mut (Daemon, Proxy) {
        let it_is = |(replica, _): &&mut (Daemon, Proxy)| replica.name == name;
        self.replicas.iter_mut().find(it_is).unwrap()
    }

    /// Waits for the next term; returns its first sample and how long nothing ran.
    fn next(&mut self, before: &Sample) -> (Sample, Duration) {
        let next = self.record.wait_for_term_after(before.token);
        let last = self.record.last(before.token);
        let gap = Duration::from_micros(next.at.saturating_sub(last.at));
        (next, gap)
    }

    /// That nothing of COMMAND's is left once all have been asked to stop.
    fn stop(mut self) -> Vec<String> {
        for (replica, way) in &mut self.replicas {
            way.set(Link::Open);
            if !replica.has_ended() {
                replica.signal(Signal::TERM);
            }
        }
        for (replica, _) in &mut self.replicas {
            replica.wait_exit();
        }
        let record = std::fs::read(self.record.path()).unwrap();
        support::let_pass(Duration::from_millis(50));
        let later = std::fs::read(self.record.path()).unwrap();
        assert_eq!(record.len(), later.len(), "something still runs");
        self.record.check()
    }
}

/// Waits until all of COMMAND has ended. On a machine busy with other tests, a guard may be late, so
/// that the daemon kills what is left; the record shows that this is in time.
fn wait_for_the_end_of_command(replica: &mut Daemon) {
    replica.wait_for_next_line("the end of COMMAND", |line| {
        let message = line.message();
        message == "'bash' has stopped." || message.starts_with("'bash' was not gone")
    });
}

#[test]
fn a_frozen_etcd() {
    on_each_etcd(|etcd| {
        for manner in MANNERS {
            let (mut replicas, first) = Replicas::start(&etcd, manner);
            etcd.freeze();
            // The guard and the election run out of time together, so that either line may come first.
            let leader = &mut replicas.get(&first.name).0;
            leader.wait_for_any_start(LOST);
            wait_for_the_end_of_command(leader);
            let last = replicas.record.last(first.token);
            etcd.thaw();
            let next = replicas.record.wait_for_term_after(first.token);
            assert!(next.at > last.at);
            replicas.stop();
        }
    });
}

#[test]
fn a_leader_that_nobody_hears_any_more() {
    on_each_etcd(|etcd| {
        for (manner, fault) in MANNERS.iter().flat_map(|manner| {
            [Link::Frozen, Link::NoResponses, Link::Cut].map(|fault| (manner, fault))
        }) {
            let (mut replicas, first) = Replicas::start(&etcd, manner);
            replicas.get(&first.name).1.set(fault);
            let (_, gap) = replicas.next(&first);
            assert!(gap < FAIL_OVER, "nothing ran for {gap:?}");
            wait_for_the_end_of_command(&mut replicas.get(&first.name).0);
            replicas.stop();
        }
    });
}

#[test]
fn a_daemon_that_is_stopped_and_goes_on_later() {
    on_each_etcd(|etcd| {
        for manner in MANNERS {
            let (mut replicas, first) = Replicas::start(&etcd, manner);
            replicas.get(&first.name).0.signal(Signal::STOP);
            let (_, gap) = replicas.next(&first);
            assert!(gap < FAIL_OVER, "nothing ran for {gap:?}");
            replicas.get(&first.name).0.signal(Signal::CONT);
            replicas.get(&first.name).0.wait_for_next(FOLLOWER);
            replicas.stop();
        }
    });
}

#[test]
fn a_daemon_that_is_killed() {
    on_each_etcd(|etcd| {
        for manner in MANNERS {
            let (mut replicas, first) = Replicas::start(&etcd, manner);
            let old = &mut replicas.get(&first.name).0;
            let guard = wait_for_guard(old);
            old.signal(Signal::KILL);
            // As a service manager does with all that is left; it may find nobody any more.
            let _ = kill_process_group(guard, Signal::TERM);
            let (_, gap) = replicas.next(&first);
            assert!(gap < HAND_OVER, "nothing ran for {gap:?}");
            let old = &mut replicas.get(&first.name).0;
            let said = old.wait_for_next_start("The daemon is gone");
            assert_eq!(said.stream, Stream::Err);
            replicas.stop();
        }
    });
}

#[test]
fn a_guard_that_is_killed() {
    on_each_etcd(|etcd| {
        for manner in MANNERS {
            let (mut replicas, first) = Replicas::start(&etcd, manner);
            let old = &mut replicas.get(&first.name).0;
            kill_process(wait_for_guard(old), Signal::KILL).unwrap();
            let (_, gap) = replicas.next(&first);
            assert!(gap < HAND_OVER, "nothing ran for {gap:?}");
            replicas
                .get(&first.name)
                .0
                .wait_for_next("No longer the leader: it resigned.");
            replicas.get(&first.name).0.wait_for_next(FOLLOWER);
            replicas.stop();
        }
    });
}

#[test]
fn a_guard_that_is_stopped_while_its_daemon_loses_the_lease() {
    on_each_etcd(|etcd| {
        for manner in MANNERS {
            let (mut replicas, first) = Replicas::start(&etcd, manner);
            let guard = wait_for_guard(&mut replicas.get(&first.name).0);
            kill_process(guard, Signal::STOP).unwrap();
            replicas.get(&first.name).1.set(Link::Frozen);
            let (_, gap) = replicas.next(&first);
            assert!(gap < FAIL_OVER, "nothing ran for {gap:?}");
            replicas.stop();
        }
    });
}

#[test]
fn a_leader_key_that_is_deleted_or_overwritten() {
    on_each_etcd(|etcd| {
        for manner in MANNERS {
            let (mut replicas, mut before) = Replicas::start(&etcd, manner);
            for act in ["delete", "overwrite"] {
                if act == "delete" {
                    etcd.etcdctl(&["del", "leader"]);
                } else {
                    let lease = etcd.grant(TTL);
                    etcd.put("leader", b"somebody", Some(&lease));
                }
                wait_for_the_end_of_command(&mut replicas.get(&before.name).0);
                // Where the key is held for longer than a leader holds off, that one may win again.
                before = replicas.next(&before).0;
            }
            replicas.stop();
        }
    });
}
