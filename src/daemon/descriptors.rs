//! Checks whether this process may open enough file descriptors.

use anyhow::ensure;
use rustix::{
    io::Errno,
    process::{Resource, getrlimit},
};
use std::fs;

/// What the runtime, the timers, the log, reading files and the connection to the leader need at most.
const ALWAYS: u64 = 24;
/// What each endpoint of etcd needs at most: a connection, and the one that replaces it.
const PER_ENDPOINT: u64 = 2;
/// What watching over COMMAND needs at most.
const FOR_COMMAND: u64 = 8;
/// What running the health command needs at most.
const FOR_HEALTH: u64 = 8;

/// What a process is going to do.
pub(super) struct Plan {
    pub endpoints: usize,
    pub has_command: bool,
    pub has_health: bool,
    pub has_http: bool,
}

/// Checks that the limit on file descriptors allows for what is planned. A process that found out
/// later would lead, and yet do only a part of its work.
///
/// # Errors
/// If it does not.
pub(super) fn check(plan: &Plan) -> anyhow::Result<()> {
    let Some(allowed) = getrlimit(Resource::Nofile).current else {
        return Ok(());
    };
    let open = match count_open() {
        Ok(open) => open,
        Err(Errno::MFILE | Errno::NFILE) => allowed,
        // Without /proc it is unknown: standard input, output and error, probably.
        Err(_) => 3,
    };
    let endpoints = u64::try_from(plan.endpoints).unwrap_or(u64::MAX);
    let mut needed = open + ALWAYS + endpoints.saturating_mul(PER_ENDPOINT);
    if plan.has_command {
        needed += FOR_COMMAND;
    }
    if plan.has_health {
        needed += FOR_HEALTH;
    }
    if plan.has_http {
        // Short HTTP connections may take a quarter of all, and those of followers another one.
        needed = (needed + 1) * 2;
    }
    ensure!(
        allowed >= needed,
        "this process may open {allowed} file descriptors, {open} are open already, and {needed} \
         are needed; raise the limit (ulimit -n, LimitNOFILE= of systemd, --ulimit nofile= of Docker)"
    );
    Ok(())
}

/// Counts the descriptors that are open.
fn count_open() -> Result<u64, Errno> {
    let open = fs::read_dir("/proc/self/fd");
    let open = open.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let open = open.count();
    // One of them was for reading this.
    Ok(u64::try_from(open).unwrap_or(u64::MAX).saturating_sub(1))
}
