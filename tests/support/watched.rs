//! Replicas with a fail-over limit whose followers watch the leader over HTTP.

use super::daemon::{Daemon, FOLLOWER, LEADER, LOST, command, wait_for_leader};
use super::etcd::Etcd;
use super::poll_until;
use super::process::Process;
use super::served::address;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How a follower begins to say, at debug level, that it is connected to the leader.
pub const WATCHED: &str = "Connected to the leader at ";
/// How it begins to say that it is not.
pub const NOT_WATCHED: &str = "Not connected to the leader at ";

/// Returns a candidate with a fail-over limit that logs what it does about the leader's presence.
pub fn limited(name: &str, endpoints: &str, limit: Duration) -> Command {
    let mut command = command();
    command.args(["--name", name, "--etcd", endpoints, "--ttl", "10s"]);
    command.args(["--fail-over", &format!("{}ms", limit.as_millis())]);
    command.args(["--log-format", "json"]);
    command.args([
        "--log-filter",
        "info,leader_election::daemon::presence=debug",
    ]);
    command
}

/// Returns the same with a presence that is served at this address and advertised at the other.
pub fn served(
    name: &str,
    endpoints: &str,
    limit: Duration,
    http: &str,
    advertised: &str,
) -> Command {
    let mut command = limited(name, endpoints, limit);
    let url = format!("http://{advertised}");
    command.args(["--http", http, "--advertise", &url]);
    command
}

/// Starts a replica that serves its presence at this address.
pub fn start(name: &str, etcd: &Etcd, limit: Duration, address: &str) -> Daemon {
    let command = served(name, &etcd.endpoint(), limit, address, address);
    Daemon::spawn(name, command)
}

/// Starts three replicas. Returns them and their addresses.
pub fn three(etcd: &Etcd, limit: Duration) -> (Vec<Daemon>, Vec<String>) {
    let addresses: Vec<_> = (1..=3).map(|_| address()).collect();
    let numbered = (1..=3).zip(&addresses);
    let replicas = numbered.map(|(number, at)| start(&format!("server{number}"), etcd, limit, at));
    (replicas.collect(), addresses)
}

/// Waits until one of these leads and all others say next that they are connected to it; returns the leader's index.
pub fn wait_for_watched_leader(replicas: &mut [Daemon]) -> usize {
    let leader = wait_for_leader(replicas);
    for (number, replica) in replicas.iter_mut().enumerate() {
        if number != leader {
            replica.wait_for_next_start(WATCHED);
        }
    }
    leader
}

/// Waits until one of these replicas leads; returns its index and when it said so.
pub fn wait_for_next_leader(replicas: &[Daemon]) -> (usize, Instant) {
    let leader = wait_for_leader(replicas);
    (leader, replicas[leader].last(LEADER).at)
}

/// Checks that a replica has led without a break since it began to.
///
/// # Panics
/// If it has lost a term.
pub fn check_led_on(replica: &Daemon) {
    let messages = replica.messages();
    let lost = messages.iter().find(|message| message.starts_with(LOST));
    assert_eq!(lost, None, "{}", replica.name);
    assert_eq!(replica.count(LEADER), 1, "{}", replica.name);
}

/// Checks that a replica has followed since it began to.
///
/// # Panics
/// If it has led, or followed anew.
pub fn check_followed_on(replica: &Daemon) {
    assert_eq!(replica.count(LEADER), 0, "{}", replica.name);
    assert_eq!(replica.count(FOLLOWER), 1, "{}", replica.name);
}

/// Counts the terms of these replicas. Deadlines are not compared: they are logged once a second, and move on more often.
///
/// # Panics
/// If their tokens do not grow.
pub fn count_terms(replicas: &[Daemon]) -> usize {
    let lines = replicas.iter().flat_map(|replica| replica.lines());
    let mut terms: Vec<_> = lines.filter(|line| line.message() == LEADER).collect();
    terms.sort_by_key(|line| line.at);
    let tokens = terms.iter().map(|line| line.field("token"));
    let tokens: Vec<u64> = tokens
        .map(|token| token.expect("a token").parse().expect("a number"))
        .collect();
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
    tokens.len()
}

impl Etcd {
    /// Counts how often this election's challenge was written.
    pub fn count_challenges(&self, leader_key: &str) -> usize {
        let challenge = format!("{leader_key}/challenge");
        // Sorts after the challenge, and is of no election.
        let end = format!("{challenge}-end");
        let mut watch = Command::new(self.binary.with_file_name("etcdctl"));
        watch.env("ETCDCTL_API", "3").stdin(Stdio::null());
        watch.args(["--endpoints", &self.endpoint()]);
        watch.args(["watch", "--rev=1", &challenge, &format!("{end}~")]);
        let watch = Process::spawn("etcdctl watch", watch);
        self.put(&end, b"end", None);
        poll_until("the history is complete", || {
            watch.has_said(&end).then_some(())
        });
        let lines = watch.texts();
        let puts = lines.windows(2).filter(|it| it[0] == "PUT");
        puts.filter(|it| it[1] == challenge).count()
    }
}
