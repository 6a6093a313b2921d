//! A COMMAND that records, on one clock, when it and what it left behind were running.

use super::daemon::{Daemon, json};
use super::poll_until;
use rustix::process::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// Says every few milliseconds that it runs. So does a descendant that forked twice, has a session
/// of its own and is deaf to every signal that one can be deaf to.
const COMMAND: &str = r#"
record=$1 manner=$2
# Nobody ever writes to this, so that waiting for it takes time, and no process.
exec {never}<> <(:)
runs() {
    local pid=$BASHPID
    while :; do
        printf '%s %s %s %s %s\n' "$EPOCHREALTIME" "$LEADER_ELECTION_TOKEN" "$LEADER_ELECTION_NAME" "$1" "$pid" >>"$record"
        read -rt 0.004 -u "$never"
    done
}
(
    (
        trap '' TERM HUP INT QUIT USR1 USR2
        runs descendant
    ) &
)
case $manner in
    obedient) trap 'exit 0' TERM ;;
    stubborn) trap '' TERM ;;
esac
runs command
"#;

/// A moment at which a process of COMMAND's was running.
#[derive(Clone, Debug)]
pub struct Instant {
    /// In microseconds since 1970.
    pub at: u64,
    /// The term in which it ran.
    pub token: u64,
    /// The replica that ran it.
    pub name: String,
}

/// What all replicas' COMMANDs have recorded.
pub struct Record {
    folder: TempDir,
}

impl Record {
    /// An empty one.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("command"), COMMAND).expect("a file");
        Self { folder }
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("record")
    }

    /// A replica that runs the recording COMMAND while it leads.
    pub fn replica(&self, name: &str, endpoints: &str, manner: &str) -> Command {
        let mut command = json(name, endpoints);
        command.args(["--stop-timeout", "1s", "--", "bash"]);
        command.arg(self.folder.path().join("command"));
        command.arg(self.path()).arg(manner);
        command
    }

    /// All instants so far, in order.
    pub fn instants(&self) -> Vec<Instant> {
        let record = fs::read_to_string(self.path()).unwrap_or_default();
        let mut instants: Vec<_> = record
            .lines()
            .filter_map(|line| {
                // The last line may not be whole yet.
                let [at, token, name, _, _] = line.split(' ').collect::<Vec<_>>()[..] else {
                    return None;
                };
                Some(Instant {
                    at: at.replace(['.', ','], "").parse().ok()?,
                    token: token.parse().ok()?,
                    name: name.to_owned(),
                })
            })
            .collect();
        instants.sort_by_key(|instant| instant.at);
        instants
    }

    /// Waits until both processes of a COMMAND have run in a term later than that of `token`;
    /// returns the term's first instant.
    pub fn wait_for_term_after(&self, token: u64) -> Instant {
        poll_until("the next COMMAND runs", || {
            let record = fs::read_to_string(self.path()).unwrap_or_default();
            let instants = self.instants();
            let first = instants.iter().find(|instant| instant.token > token)?;
            let both = ["command", "descendant"].iter().all(|kind| {
                let words = format!(" {} {} {kind} ", first.token, first.name);
                record.contains(&words)
            });
            both.then(|| first.clone())
        })
    }

    /// The last instant of a term.
    pub fn last(&self, token: u64) -> Instant {
        let instants = self.instants();
        let last = instants.iter().rev().find(|instant| instant.token == token);
        last.expect("it ran").clone()
    }

    /// Checks that no two terms' COMMANDs, nor anything that they left behind, ran at one instant;
    /// returns who ran, in order.
    ///
    /// # Panics
    /// When they did.
    pub fn check(&self) -> Vec<String> {
        let mut terms: BTreeMap<u64, (u64, u64, String)> = BTreeMap::new();
        for instant in self.instants() {
            let first = (instant.at, instant.at, instant.name.clone());
            let (_, last, name) = terms.entry(instant.token).or_insert(first);
            assert_eq!(*name, instant.name, "two replicas with one token");
            *last = instant.at;
        }
        let terms: Vec<_> = terms.into_values().collect();
        for pair in terms.windows(2) {
            assert!(pair[0].1 < pair[1].0, "two at one instant: {pair:?}");
        }
        terms.into_iter().map(|(_, _, name)| name).collect()
    }
}

/// The process of a replica's guard, once it has said so.
pub fn guard(replica: &mut Daemon) -> Pid {
    let guard = replica.wait_for_next_start("Running ").field("guard");
    let guard = guard.expect("it has a guard").parse().expect("a number");
    Pid::from_raw(guard).expect("a process")
}
