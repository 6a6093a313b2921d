//! The real binary as a process.

use super::etcd::Etcd;
use super::process::Process;
use super::{PATIENCE, from_cargo, wait_until};
use std::env;
use std::ops::{Deref, DerefMut};
use std::process::{Command, Stdio};

pub use super::line::{Line, Stream};

/// What a replica says when it begins to lead.
pub const LEADER: &str = "I am the leader.";
/// What it says when another one leads.
pub const FOLLOWER: &str = "I am a follower.";
/// What it says about each answered try of a term.
pub const REFRESHED: &str = "Refreshing lease; still the leader.";
/// What a leader says when it is asked to stop.
pub const LEADER_STOPS: &str = "Revoking lease; no longer the leader.";
/// What any other replica says then.
pub const CANDIDATE_STOPS: &str = "Revoking lease; no longer a candidate.";
/// What it says when nobody leads and `leader/acting` remains.
pub const STILL_ACTS: &str = "Nobody leads, but somebody may still be acting; waiting.";
/// How a leader begins to say that its term is over.
pub const LOST: &str = "No longer the leader: ";

/// The filter for all lines, those of the dependencies included. tracing takes a pair without a target
/// for every target.
pub const EVERYTHING: &str = "trace,=trace";

/// Returns the binary as a command, in an environment without settings for it.
pub fn command() -> Command {
    let mut command = Command::new(from_cargo("CARGO_BIN_EXE_leader-election"));
    for (variable, _) in env::vars_os() {
        if variable.to_string_lossy().starts_with("LEADER_ELECTION_") {
            command.env_remove(variable);
        }
    }
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// Returns a candidate that logs in the original demo's format.
pub fn plain(name: &str, endpoints: &str) -> Command {
    let mut command = command();
    command.args(["--name", name, "--etcd", endpoints, "--ttl", "2s"]);
    command
}

/// Returns a candidate whose lines carry their time.
pub fn json(name: &str, endpoints: &str) -> Command {
    let mut command = plain(name, endpoints);
    command.args(["--log-format", "json"]);
    command
}

/// Returns a shell that does something first, and then becomes the command, without standard input.
pub fn after(first: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{first}; exec \"$0\" \"$@\"")]);
    shell.arg(command.get_program()).args(command.get_args());
    shell.env_clear().envs(env::vars_os());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.stdin(Stdio::null());
    shell
}

/// A process of the binary: a [`Process`] whose lines have a meaning.
pub struct Daemon(Process);

impl Deref for Daemon {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.0
    }
}

impl DerefMut for Daemon {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.0
    }
}

impl Daemon {
    /// Starts the command, and records its standard output and its standard error separately.
    pub fn spawn(name: &str, command: Command) -> Self {
        Self(Process::spawn(name, command))
    }

    /// Starts a command whose output goes where the command says, and records what is a pipe.
    pub fn spawn_with_own_output(name: &str, command: Command) -> Self {
        Self(Process::spawn_with_own_output(name, command))
    }

    /// Starts candidates `server1`, `server2` and so on, whose lines carry their time.
    pub fn candidates(etcd: &Etcd, count: usize) -> Vec<Self> {
        (1..=count)
            .map(|number| format!("server{number}"))
            .map(|name| Self::spawn(&name, json(&name, &etcd.endpoint())))
            .collect()
    }

    /// Returns the warnings so far, but for the one that each outdated etcd gets.
    pub fn warnings(&self) -> Vec<String> {
        self.lines()
            .iter()
            .filter(|line| line.is_warning() && !line.warns_of_outdated_etcd())
            .map(Line::message)
            .collect()
    }

    /// Waits for this many more answered tries of its term; returns the last one.
    pub fn wait_for_next_refreshes(&mut self, count: usize) -> Line {
        (0..count)
            .map(|_| self.wait_for_next(REFRESHED))
            .last()
            .expect("at least one")
    }

    /// Whether it leads, according to its last line about that.
    pub fn leads(&self) -> bool {
        let leads_after = |line: &Line| match line.message().as_str() {
            LEADER => Some(true),
            FOLLOWER | LEADER_STOPS => Some(false),
            lost if lost.starts_with(LOST) => Some(false),
            _ => None,
        };
        let lines = self.lines();
        lines.iter().rev().find_map(leads_after).unwrap_or(false)
    }
}

/// Waits until one of these leads; returns its index.
pub fn wait_for_leader(replicas: &[Daemon]) -> usize {
    wait_until("a replica leads", PATIENCE, || {
        replicas.iter().position(Daemon::leads)
    })
}

/// Waits until one of these leads and all others say next that they follow; returns the leader's
/// index.
pub fn wait_for_next_roles(replicas: &mut [Daemon]) -> usize {
    let leader = wait_for_leader(replicas);
    replicas[leader].wait_for_next(LEADER);
    for (number, replica) in replicas.iter_mut().enumerate() {
        if number != leader {
            replica.wait_for_next(FOLLOWER);
        }
    }
    leader
}

/// Waits until one of these leads and, from now on, has renewed its lease three times; returns its
/// index.
pub fn wait_for_settled(replicas: &mut [Daemon]) -> usize {
    for replica in replicas.iter_mut() {
        replica.skip();
    }
    wait_until("a replica leads and continues to", PATIENCE, || {
        let refreshes = |replica: &Daemon| {
            let messages = replica.unseen_messages();
            let term = messages.iter().rposition(|message| message == LEADER);
            let of_term = &messages[term.unwrap_or(0)..];
            of_term.iter().filter(|it| *it == REFRESHED).count()
        };
        replicas
            .iter()
            .position(|replica| replica.leads() && refreshes(replica) >= 3)
    })
}
