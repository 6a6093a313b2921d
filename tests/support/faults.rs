//! Faults that happen to the leader of an election whose replicas run a recording COMMAND. Each function lets one happen,
//! and checks that no two replicas' COMMANDs, nor any processes that these have started, run at the same time.

use super::daemon::{Daemon, FOLLOWER, LOST, Stream, json};
use super::etcd::Etcd;
use super::permit::{Permit, Permits};
use super::proxy::{Link, Proxy};
use super::quick::{SECOND, candidate};
use super::record::{Record, Sample, wait_for_guard};
use super::{FAIL_OVER, TTL, processes_with};
use rustix::process::{Signal, kill_process, kill_process_group};
use std::time::Duration;

/// After a graceful end of a term, the next COMMAND starts within milliseconds. This is for a machine
/// that is busy with other tests, and well below a TTL, after which it would start anyway.
const HAND_OVER: Duration = Duration::from_secs(1);

/// What COMMAND does on SIGTERM.
pub const MANNERS: [&str; 2] = ["obedient", "stubborn"];

/// How soon a leader that has failed is replaced.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// When its lease has ended, which lasts for two seconds.
    Lease,
    /// After its fail-over limit of a second. The lease lasts for ten seconds, longer than [`FAIL_OVER`].
    Limit,
}

/// How many of these elections run at once: more of them would take a second to start a COMMAND.
static ELECTIONS: Permits = Permits::new(6);

/// Replicas that run the recording COMMAND, each with a proxy of its own to etcd.
struct Replicas {
    running: Vec<(Daemon, Proxy)>,
    // Dropped after the replicas, whose COMMANDs write to it.
    record: Record,
    _permit: Permit,
}

impl Replicas {
    /// Starts three; waits until the leader's COMMAND runs and the others follow.
    fn start(etcd: &Etcd, pace: Pace, manner: &str) -> (Self, Sample) {
        let permit = ELECTIONS.acquire();
        let record = Record::new();
        let replicas = (1..=3).map(|number| {
            let name = format!("server{number}");
            let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
            let replica = match pace {
                Pace::Lease => json(&name, &proxy.endpoint()),
                Pace::Limit => candidate(&name, &proxy.endpoint(), SECOND),
            };
            (Daemon::spawn(&name, record.run_by(replica, manner)), proxy)
        });
        let replicas = Self {
            running: replicas.collect(),
            record,
            _permit: permit,
        };
        let first = replicas.record.wait_for_term_after(0);
        for (replica, _) in &replicas.running {
            if replica.name != first.name {
                replica.wait_for_any(FOLLOWER);
            }
        }
        (replicas, first)
    }

    fn get(&mut self, name: &str) -> &mut (Daemon, Proxy) {
        let it_is = |(replica, _): &&mut (Daemon, Proxy)| replica.name == name;
        self.running.iter_mut().find(it_is).unwrap()
    }

    /// Waits for the next term; returns its first instant and for how long nothing ran before it.
    fn next(&mut self, before: &Sample) -> (Sample, Duration) {
        let next = self.record.wait_for_term_after(before.token);
        let last = self.record.last(before.token);
        let gap = Duration::from_micros(next.at.saturating_sub(last.at));
        (next, gap)
    }

    /// Stops all replicas, and checks that nothing of COMMAND is left then.
    fn stop(mut self) -> Vec<String> {
        for (replica, proxy) in &mut self.running {
            proxy.set(Link::Open);
            if !replica.has_ended() {
                replica.signal(Signal::TERM);
            }
        }
        for (replica, _) in &mut self.running {
            replica.wait_exit();
        }
        // COMMAND and what it has started have this in their arguments.
        let record = self.record.path();
        let left = processes_with(record.to_str().unwrap());
        assert_eq!(left, [""; 0], "still running");
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

/// Freezes etcd until COMMAND has ended.
pub fn freeze_etcd(etcd: &Etcd, pace: Pace, manner: &str) {
    let (mut replicas, first) = Replicas::start(etcd, pace, manner);
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

/// Breaks the connection of the leader in this way.
pub fn cut_the_leader_off(etcd: &Etcd, pace: Pace, manner: &str, fault: Link) {
    let (mut replicas, first) = Replicas::start(etcd, pace, manner);
    replicas.get(&first.name).1.set(fault);
    let (_, gap) = replicas.next(&first);
    assert!(gap < FAIL_OVER, "nothing ran for {gap:?}");
    wait_for_the_end_of_command(&mut replicas.get(&first.name).0);
    replicas.stop();
}

/// Stops the daemon of the leader until another one leads.
pub fn pause_the_daemon(etcd: &Etcd, pace: Pace, manner: &str) {
    let (mut replicas, first) = Replicas::start(etcd, pace, manner);
    replicas.get(&first.name).0.signal(Signal::STOP);
    let (_, gap) = replicas.next(&first);
    assert!(gap < FAIL_OVER, "nothing ran for {gap:?}");
    replicas.get(&first.name).0.signal(Signal::CONT);
    replicas.get(&first.name).0.wait_for_next(FOLLOWER);
    replicas.stop();
}

/// Kills the daemon of the leader.
pub fn kill_the_daemon(etcd: &Etcd, pace: Pace, manner: &str) {
    let (mut replicas, first) = Replicas::start(etcd, pace, manner);
    let old = &mut replicas.get(&first.name).0;
    let guard = wait_for_guard(old);
    old.signal(Signal::KILL);
    // As a service manager does with the rest; there may be nothing left.
    let _ = kill_process_group(guard, Signal::TERM);
    let (_, gap) = replicas.next(&first);
    assert!(gap < HAND_OVER, "nothing ran for {gap:?}");
    let old = &mut replicas.get(&first.name).0;
    let said = old.wait_for_next_start("The daemon is gone");
    assert_eq!(said.stream, Stream::Err);
    replicas.stop();
}

/// Kills the process that guards COMMAND.
pub fn kill_the_guard(etcd: &Etcd, pace: Pace, manner: &str) {
    let (mut replicas, first) = Replicas::start(etcd, pace, manner);
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

/// Stops the process that guards COMMAND, and cuts its daemon off.
pub fn stop_the_guard_and_cut_the_leader_off(etcd: &Etcd, pace: Pace, manner: &str) {
    let (mut replicas, first) = Replicas::start(etcd, pace, manner);
    kill_process(
        wait_for_guard(&mut replicas.get(&first.name).0),
        Signal::STOP,
    )
    .unwrap();
    replicas.get(&first.name).1.set(Link::Frozen);
    let (_, gap) = replicas.next(&first);
    assert!(gap < FAIL_OVER, "nothing ran for {gap:?}");
    replicas.stop();
}

/// Deletes the key of the leader, and overwrites that of the next one.
pub fn delete_and_overwrite_the_leader_key(etcd: &Etcd, pace: Pace, manner: &str) {
    let (mut replicas, mut before) = Replicas::start(etcd, pace, manner);
    for act in ["delete", "overwrite"] {
        if act == "delete" {
            etcd.etcdctl(&["del", "leader"]);
        } else {
            let lease = etcd.grant(TTL);
            etcd.put("leader", b"somebody", Some(&lease));
        }
        wait_for_the_end_of_command(&mut replicas.get(&before.name).0);
        // If the key is held for longer than the old leader holds off, that one may win again.
        before = replicas.next(&before).0;
    }
    replicas.stop();
}
