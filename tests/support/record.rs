//! A COMMAND that records when it and its descendant run, so that a test can check that no two
//! replicas' COMMANDs ran at once.

use super::daemon::{Daemon, json};
use super::poll_until;
use rustix::process::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// Writes a line every few milliseconds while it runs. So does a descendant that was forked twice
/// and ignores every signal that can be ignored.
const COMMAND: &str = r#"
record=$1 manner=$2
# A pipe to which nothing is written: a read from it with a timeout is a sleep without a process.
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

/// One line of the record: a process of COMMAND ran at this time.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Microseconds since 1970, by the clock of the machine, which all replicas share.
    pub at: u64,
    /// The term in which it ran.
    pub token: u64,
    /// The replica that ran it.
    pub name: String,
}

/// What the COMMANDs of all replicas have recorded.
pub struct Record {
    folder: TempDir,
}

impl Record {
    /// Creates an empty record.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("command"), COMMAND).expect("a file");
        Self { folder }
    }

    /// Returns the path of the file.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("record")
    }

    /// Returns the command line of a replica that runs the recording COMMAND. `manner` is what COMMAND
    /// does on SIGTERM: `obedient` ends, `stubborn` goes on.
    pub fn replica(&self, name: &str, endpoints: &str, manner: &str) -> Command {
        self.run_by(json(name, endpoints), manner)
    }

    /// Lets this candidate run the recording COMMAND.
    pub fn run_by(&self, candidate: Command, manner: &str) -> Command {
        let mut command = candidate;
        command.args(["--stop-timeout", "1s", "--", "bash"]);
        command.arg(self.folder.path().join("command"));
        command.arg(self.path()).arg(manner);
        command
    }

    /// Returns all samples so far, in order.
    pub fn samples(&self) -> Vec<Sample> {
        let record = fs::read_to_string(self.path()).unwrap_or_default();
        let mut samples: Vec<_> = record
            .lines()
            .filter_map(|line| {
                // The last line may be incomplete.
                let [at, token, name, _, _] = line.split(' ').collect::<Vec<_>>()[..] else {
                    return None;
                };
                Some(Sample {
                    at: at.replace(['.', ','], "").parse().ok()?,
                    token: token.parse().ok()?,
                    name: name.to_owned(),
                })
            })
            .collect();
        samples.sort_by_key(|sample| sample.at);
        samples
    }

    /// Waits until both processes of a COMMAND have run in a term with a higher token; returns the
    /// first sample of that term.
    pub fn wait_for_term_after(&self, token: u64) -> Sample {
        poll_until("the next COMMAND runs", || {
            let record = fs::read_to_string(self.path()).unwrap_or_default();
            let samples = self.samples();
            let first = samples.iter().find(|sample| sample.token > token)?;
            let both = ["command", "descendant"].iter().all(|kind| {
                let words = format!(" {} {} {kind} ", first.token, first.name);
                record.contains(&words)
            });
            both.then(|| first.clone())
        })
    }

    /// Returns the last sample of a term.
    pub fn last(&self, token: u64) -> Sample {
        let samples = self.samples();
        let last = samples.iter().rev().find(|sample| sample.token == token);
        last.expect("COMMAND ran in this term").clone()
    }

    /// Checks that the processes of no two terms ran at the same time; returns the replica of each
    /// term, in order.
    ///
    /// # Panics
    /// If two terms overlap, or have the same token.
    pub fn check(&self) -> Vec<String> {
        let mut terms: BTreeMap<u64, (u64, u64, String)> = BTreeMap::new();
        for sample in self.samples() {
            let first = (sample.at, sample.at, sample.name.clone());
            let (_, last, name) = terms.entry(sample.token).or_insert(first);
            assert_eq!(*name, sample.name, "two replicas with one token");
            *last = sample.at;
        }
        let terms: Vec<_> = terms.into_values().collect();
        for pair in terms.windows(2) {
            assert!(pair[0].1 < pair[1].0, "two terms overlap: {pair:?}");
        }
        terms.into_iter().map(|(_, _, name)| name).collect()
    }
}

/// Waits until COMMAND runs; returns the process of its guard.
pub fn wait_for_guard(replica: &mut Daemon) -> Pid {
    let guard = replica.wait_for_next_start("Running ").field("guard");
    let guard = guard.expect("a guard").parse().expect("a number");
    Pid::from_raw(guard).expect("a process")
}
