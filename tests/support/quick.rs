//! Candidates with a fail-over limit, whose followers learn of a failed leader only by asking etcd for its lease.

use super::daemon::{Daemon, command};
use std::process::Command;
use std::time::Duration;

/// The TTL of these elections: long enough that a new leader after a crash cannot be due to the end of the lease.
pub const TTL: Duration = Duration::from_secs(10);

/// The recommended limit.
pub const SECOND: Duration = Duration::from_secs(1);

/// How long followers need to notice that a leader is silent: its lease must be older than a second, because etcd
/// rounds to whole seconds, and it is asked for twice in a limit.
const NOTICED: Duration = Duration::from_millis(1400);

/// Returns by when another candidate leads after a crash, half of the time.
pub fn median_bound(limit: Duration) -> Duration {
    limit * 11 / 10 + NOTICED
}

/// Returns a candidate with this TTL and limit, whose lines carry their time.
pub fn with_ttl(name: &str, endpoints: &str, ttl: Duration, limit: Duration) -> Command {
    let mut command = command();
    command.args(["--name", name, "--etcd", endpoints, "--log-format", "json"]);
    command.args(["--ttl", &format!("{}s", ttl.as_secs())]);
    command.args(["--fail-over", &format!("{}ms", limit.as_millis())]);
    command
}

/// Returns the same with a TTL of ten seconds.
pub fn candidate(name: &str, endpoints: &str, limit: Duration) -> Command {
    with_ttl(name, endpoints, TTL, limit)
}

/// Starts candidates `server1`, `server2` and so on.
pub fn candidates(endpoints: &str, limit: Duration, count: usize) -> Vec<Daemon> {
    (1..=count)
        .map(|number| format!("server{number}"))
        .map(|name| Daemon::spawn(&name, candidate(&name, endpoints, limit)))
        .collect()
}
