//! The commands for people and scripts: who leads, what changes, and an end to a term.

mod ask;
mod health;
mod observe;
mod status;
mod step_down;

pub(super) use ask::verdict;

use super::{
    cli::{EtcdCommand, LocalCommand, completions, man_page},
    run::{block_on, check_files},
};
use crate::config::{Cluster, LeaderKey};
use anyhow::Context;
use std::{
    io::{self, ErrorKind, Write},
    process::ExitCode,
};

/// How a command ends that found nobody who leads.
const NO_LEADER: u8 = 3;

/// Runs a command that talks to etcd and returns its exit code.
pub(super) fn run_etcd_command(
    command: EtcdCommand,
    cluster: &Cluster,
    leader_key: &LeaderKey,
) -> ExitCode {
    exit(check_files(cluster).and_then(|()| match command {
        EtcdCommand::Status { json, timeout } => {
            block_on(status::run(cluster, leader_key, json, timeout))
        }
        EtcdCommand::Observe { json } => block_on(observe::run(cluster, leader_key, json)),
        EtcdCommand::StepDown { if_leader, timeout } => {
            block_on(step_down::run(cluster, leader_key, if_leader, timeout))
        }
    }))
}

/// Runs a command that needs no etcd and returns its exit code.
pub(super) fn run_local_command(command: &LocalCommand) -> ExitCode {
    let done = match command {
        LocalCommand::Health(health) => health::run(health.address),
        LocalCommand::Completions { shell } => print(completions(*shell).trim_end()),
        LocalCommand::Man => print(man_page().trim_end()),
    };
    exit(done.map(|_| ExitCode::SUCCESS))
}

fn exit(done: anyhow::Result<ExitCode>) -> ExitCode {
    done.unwrap_or_else(|error| {
        // Where standard error is closed, the exit code has to do.
        let _ = writeln!(io::stderr(), "error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Prints a line; false if nobody reads it any more.
fn print(line: &str) -> anyhow::Result<bool> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("could not write to standard output"),
    }
}
