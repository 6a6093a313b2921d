//! The elections of `etcdctl`, of the same release as etcd.

use crate::{
    contest::{Commands, Method},
    ours,
};
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use support::{etcd::Etcd, poll_until, process::Process};

pub const ELECT: &str = "`etcdctl elect`";
pub const LOCK: &str = "`etcdctl lock NAME COMMAND`";

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `etcdctl elect`, whose TTL is 60 s and cannot be changed.
    Elect,
    /// `etcdctl lock`, with this TTL in seconds.
    Lock(u32),
}

/// An election by `etcdctl`, with an etcd of its own.
pub struct Etcdctl {
    kind: Kind,
    pub etcd: Etcd,
    binary: PathBuf,
    commands: Commands,
}

impl Etcdctl {
    pub fn new(kind: Kind, etcd: &Path) -> Self {
        Self {
            kind,
            etcd: Etcd::start(etcd),
            binary: etcd.with_file_name("etcdctl"),
            commands: Commands::new(),
        }
    }
}

/// What a candidate of `etcdctl elect` prints when it leads.
const PROPOSAL: &str = "proposal";

impl Method for Etcdctl {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Elect => ELECT,
            Kind::Lock(_) => LOCK,
        }
    }

    fn compared_with(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Elect => Some(ours::PLAIN),
            Kind::Lock(_) => Some(ours::WRAPPER),
        }
    }

    fn candidate(&self, election: &str, name: &str) -> Command {
        let mut command = Command::new(&self.binary);
        command.env("ETCDCTL_API", "3").stdin(Stdio::null());
        command.args(["--endpoints", &self.etcd.endpoint()]);
        match self.kind {
            Kind::Elect => command.args(["elect", election, PROPOSAL]),
            Kind::Lock(ttl) => command
                .args(["lock", &format!("--ttl={ttl}"), election, "--"])
                .args(self.commands.command(name)),
        };
        command
    }

    fn leads(&self) -> &'static str {
        match self.kind {
            Kind::Elect => PROPOSAL,
            Kind::Lock(_) => Commands::RUNS,
        }
    }

    fn wait_until_it_follows(&self, election: &str, _candidate: &mut Process, count: usize) {
        poll_until("it takes part", || {
            let keys = ["get", "--prefix", &format!("{election}/"), "--keys-only"];
            let keys = self.etcd.etcdctl(&keys);
            let candidates = keys.lines().filter(|line| !line.is_empty()).count();
            (candidates == count).then_some(())
        });
    }

    fn leader_key(&self, election: &str) -> Option<(String, String)> {
        Some((self.etcd.endpoint(), format!("{election}/")))
    }

    fn commands(&self) -> Option<&Commands> {
        (self.kind != Kind::Elect).then_some(&self.commands)
    }
}
