//! The commands for operators and scripts.

mod agenda;
mod ask;
mod challenge;
mod done;
mod hand_over;
mod health;
mod history;
mod observe;
mod react;
mod sent;
mod status;
mod step_down;
mod table;

use super::{
    cli::{EtcdCommand, LocalCommand, completions, man_page},
    exit_code,
};
use crate::config::{Cluster, LeaderKey};
use anyhow::Context;
use std::io::{self, ErrorKind, Write};

/// Runs a command that talks to etcd and returns its exit code.
pub(super) async fn run_etcd_command(
    command: EtcdCommand,
    cluster: &Cluster,
    leader_key: &LeaderKey,
) -> anyhow::Result<u8> {
    match command {
        EtcdCommand::Status { json, timeout } => {
            status::run(cluster, leader_key, json, timeout).await
        }
        EtcdCommand::Observe {
            json,
            http,
            command,
            ..
        } if command.is_empty() => observe::run(cluster, leader_key, json, http).await,
        EtcdCommand::Observe {
            timeout, command, ..
        } => react::run(cluster, leader_key, command, timeout).await,
        EtcdCommand::StepDown(args) => step_down::run(cluster, leader_key, *args).await,
        EtcdCommand::Challenge(args) => challenge::run(cluster, leader_key, args).await,
        EtcdCommand::History { json, timeout } => {
            history::run(cluster, leader_key, json, timeout).await
        }
        EtcdCommand::Done {
            forget: None,
            json,
            timeout,
        } => done::list(cluster, leader_key, json, timeout).await,
        EtcdCommand::Done {
            forget: Some(job),
            timeout,
            ..
        } => done::forget(cluster, leader_key, &job, timeout).await,
    }
}

/// Runs a command that needs no etcd and returns its exit code.
pub(super) fn run_local_command(command: &LocalCommand) -> anyhow::Result<u8> {
    match command {
        LocalCommand::Health(health) => health::run(health.address)?,
        LocalCommand::Completions { shell } => print(completions(*shell).trim_end())?,
        LocalCommand::Man => print(man_page().trim_end())?,
    };
    Ok(exit_code::SUCCESS)
}

/// Prints a warning on standard error.
pub(super) fn warn(text: &str) {
    // If standard error is closed, the command still does its work.
    let _ = writeln!(io::stderr(), "warning: {text}");
}

/// Prints a line; returns false if standard output has no reader any more.
fn print(line: &str) -> anyhow::Result<bool> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("could not write to standard output"),
    }
}
