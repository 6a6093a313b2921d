//! The elections of this project: the daemon, with a fail-over limit or a COMMAND.

use crate::contest::{Commands, Method};
use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
};
use support::{
    daemon::{self, FOLLOWER, LEADER, REFRESHED},
    etcd::Etcd,
    process::Process,
    project,
    quick::{self, SECOND},
    served,
};

/// The rows of this project.
pub const PLAIN: &str = "`leader-election`";
pub const WRAPPER: &str = "`leader-election -- COMMAND`";
pub const CONNECTED: &str = "`leader-election --fail-over 1s`, connected";
pub const POLLING: &str = "`leader-election --fail-over 1s`, polling";

/// The binary that is measured: that of `OURS`, the one that `cargo build --release` makes if the figures are to be
/// written down, or else the one of this build, which holds what tests need as well.
pub static BINARY: LazyLock<PathBuf> = LazyLock::new(|| match env::var_os("OURS") {
    Some(binary) => binary.into(),
    None if crate::writes_docs() => release(),
    None => env!("CARGO_BIN_EXE_leader-election").into(),
});

/// Builds what users get, in a folder of its own, so that no other build replaces it.
fn release() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("figures");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--release", "--locked", "--bin", "leader-election"]);
    build.arg("--target-dir").arg(&folder);
    let status = build.current_dir(project(".")).status();
    assert!(status.expect("cargo").success());
    folder.join("release/leader-election")
}

/// How the candidates find out that the leader has failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// By the end of its lease.
    Plain,
    /// The same, with a COMMAND.
    Wrapper,
    /// By a connection to it, and a challenge.
    Connected,
    /// By asking etcd for its lease, and a challenge.
    Polling,
}

/// An election of the daemon, with an etcd of its own.
pub struct Ours {
    pub kind: Kind,
    pub etcd: Etcd,
    /// Another TTL than that of the tests.
    ttl: Option<&'static str>,
    has_debug_lines: bool,
    commands: Commands,
}

impl Ours {
    pub fn new(kind: Kind, etcd: &Path) -> Self {
        Self {
            kind,
            etcd: Etcd::start(etcd),
            ttl: None,
            has_debug_lines: false,
            commands: Commands::new(),
        }
    }

    pub fn with_ttl(mut self, ttl: &'static str) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Lets it log what it suspects.
    pub fn with_debug_lines(mut self) -> Self {
        self.has_debug_lines = true;
        self
    }
}

impl Method for Ours {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Plain => PLAIN,
            Kind::Wrapper => WRAPPER,
            Kind::Connected => CONNECTED,
            Kind::Polling => POLLING,
        }
    }

    fn compared_with(&self) -> Option<&'static str> {
        None
    }

    fn candidate(&self, election: &str, name: &str) -> Command {
        let endpoint = self.etcd.endpoint();
        let given = match self.kind {
            Kind::Plain | Kind::Wrapper => daemon::command(),
            Kind::Connected | Kind::Polling => quick::candidate(name, &endpoint, SECOND),
        };
        let mut command = Command::new(&*BINARY);
        command.args(given.get_args()).stdin(Stdio::null());
        for (variable, value) in given.get_envs() {
            if value.is_none() {
                command.env_remove(variable);
            }
        }
        if let Kind::Plain | Kind::Wrapper = self.kind {
            command.args(["--name", name, "--etcd", &endpoint]);
            command.args(["--ttl", self.ttl.unwrap_or("2s")]);
        }
        if self.kind == Kind::Connected {
            let http = served::address();
            command.args(["--http", &http, "--advertise", &format!("http://{http}")]);
        }
        command.args(["--leader-key", election]);
        if self.has_debug_lines {
            command.args(["--log-filter", "info,leader_election=debug"]);
        }
        if self.kind == Kind::Wrapper {
            command.arg("--").args(self.commands.command(name));
        }
        command
    }

    fn leads(&self) -> &'static str {
        match self.kind {
            Kind::Wrapper => Commands::RUNS,
            _ => LEADER,
        }
    }

    fn wait_until_it_follows(&self, _election: &str, candidate: &mut Process, _count: usize) {
        candidate.wait_for_next(FOLLOWER);
    }

    fn wait_until_settled(&self, leader: &mut Process) {
        // It learns of the others from the response to a try; one may be under way.
        leader.skip();
        leader.wait_for_next(REFRESHED);
        leader.wait_for_next(REFRESHED);
    }

    fn leader_key(&self, election: &str) -> Option<(String, String)> {
        let is_by_lease = matches!(self.kind, Kind::Plain | Kind::Wrapper);
        is_by_lease.then(|| (self.etcd.endpoint(), election.to_owned()))
    }

    fn commands(&self) -> Option<&Commands> {
        (self.kind == Kind::Wrapper).then_some(&self.commands)
    }
}
