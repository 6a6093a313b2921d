//! The commands for people and scripts: who leads, what changes, and an end to a term.

mod ask;
mod health;
mod observe;
mod status;
mod step_down;

pub(super) use ask::verdict;

use super::{
    cli::{Command, completions, man_page},
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

/// Runs a command, to its exit code.
pub(super) fn run((command, cluster, leader_key): (Command, Cluster, LeaderKey)) -> ExitCode {
    let files = || check_files(&cluster);
    let done = match command {
        Command::Status { json, timeout } => {
            files().and_then(|()| block_on(status::run(&cluster, &leader_key, json, timeout)))
        }
        Command::Observe { json } => {
            files().and_then(|()| block_on(observe::run(&cluster, &leader_key, json)))
        }
        Command::StepDown { if_leader, timeout } => files()
            .and_then(|()| block_on(step_down::run(&cluster, &leader_key, if_leader, timeout))),
        aside => return run_aside(&aside),
    };
    exit(done)
}

/// Runs a command that asks nothing of etcd, to its exit code.
pub(super) fn run_aside(command: &Command) -> ExitCode {
    let printed = match command {
        Command::Completions { shell } => print(completions(*shell).trim_end()),
        Command::Man => print(man_page().trim_end()),
        Command::Health { address } => health::run(*address),
        Command::Status { .. } | Command::Observe { .. } | Command::StepDown { .. } => Ok(true),
    };
    exit(printed.map(|_| ExitCode::SUCCESS))
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
