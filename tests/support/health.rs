//! Replicas with a health command.

use super::daemon::{Daemon, json};
use super::etcd::Etcd;
use std::process::Command;

/// What a replica says about its health.
pub const HEALTHY: &str = "Healthy: this replica may lead.";
/// How it begins to say that it is not healthy.
pub const UNHEALTHY: &str = "Unhealthy: the health command ";

/// Returns the command line of a replica that runs this health command every 200 ms.
pub fn replica(name: &str, endpoint: &str, health: &str, options: &[&str]) -> Command {
    let mut command = json(name, endpoint);
    command.args(["--health-command", health]);
    if !options.contains(&"--health-interval") {
        command.args(["--health-interval", "200ms"]);
    }
    command.args(options);
    command
}

/// Starts such a replica.
pub fn start(name: &str, etcd: &Etcd, health: &str, options: &[&str]) -> Daemon {
    Daemon::spawn(name, replica(name, &etcd.endpoint(), health, options))
}
