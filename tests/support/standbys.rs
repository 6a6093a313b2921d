//! Machines with a warm standby each, as `examples/warm-standby.sh` has it.

use super::daemon::{Daemon, LEADER, Line, json};
use super::etcd::Etcd;
use super::process::Process;
use super::{example, poll_until};
use std::fs::{self, File};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Three machines that share nothing but etcd: each has a program, and a replica that promotes it.
pub struct Standbys {
    /// The etcd.
    pub etcd: Etcd,
    folder: TempDir,
    /// The programs, by machine.
    pub programs: Vec<Process>,
    /// The replicas, by machine.
    pub replicas: Vec<Daemon>,
}

impl Standbys {
    /// Starts the programs, and then the replicas.
    pub fn new() -> Self {
        let mut standbys = Self {
            etcd: Etcd::newest(),
            folder: tempfile::tempdir().unwrap(),
            programs: Vec::new(),
            replicas: Vec::new(),
        };
        for machine in 0..3 {
            standbys.programs.push(standbys.program(machine));
        }
        // Standby is what they begin with.
        poll_until("three programs wait", || {
            (standbys.said() == ["standby"; 3]).then_some(())
        });
        for machine in 0..3 {
            standbys.replicas.push(standbys.replica(machine));
        }
        standbys
    }

    /// Returns a file of the folder of all machines.
    pub fn file(&self, name: &str) -> String {
        let path = self.folder.path().join(name);
        path.into_os_string().into_string().unwrap()
    }

    /// Starts the program of a machine. What all of them print goes to one file, so that it has one
    /// order.
    pub fn program(&self, machine: usize) -> Process {
        let record = File::options()
            .create(true)
            .append(true)
            .open(self.file("record"));
        let mut serve = Command::new(example("warm-standby.sh"));
        serve.args(["serve", &self.file(&machine.to_string())]);
        serve.stdout(record.unwrap()).stderr(Stdio::piped());
        Process::spawn_with_own_output("the program", serve)
    }

    /// Starts the replica of a machine.
    pub fn replica(&self, machine: usize) -> Daemon {
        let name = format!("machine{machine}");
        let mut command = json(&name, &self.etcd.endpoint());
        command.args(["--", &example("warm-standby.sh"), "lead"]);
        command.arg(self.file(&machine.to_string()));
        Daemon::spawn(&name, command)
    }

    /// Returns all that the programs have printed.
    pub fn said(&self) -> Vec<String> {
        let record = fs::read_to_string(self.file("record")).unwrap_or_default();
        record.lines().map(str::to_owned).collect()
    }

    /// Waits until a program acts in a later term than that with this token; returns the machine and
    /// the token.
    pub fn wait_for_next(&self, token: u64) -> (usize, u64) {
        let next = poll_until("a program acts", || {
            let said = self.said();
            let mut tokens = said
                .iter()
                .filter_map(|line| line.strip_prefix("acts, token ")?.parse().ok());
            tokens.find(|next: &u64| *next > token)
        });
        let has_it = |replica: &Daemon| {
            let is_it = |line: &Line| {
                line.message() == LEADER && line.field("token") == Some(next.to_string())
            };
            replica.lines().iter().any(is_it)
        };
        let place = poll_until("its replica says that it leads", || {
            self.replicas.iter().position(has_it)
        });
        (place, next)
    }

    /// Checks that a program whose replica was killed has stopped. It may begin to act once more, when
    /// the next one is active already. `skipped` is how many lines there were before.
    pub fn assert_ends_with_its_term(&self, skipped: usize) {
        let new = poll_until("one is in standby, and the next one acts", || {
            let said = self.said();
            let new = &said[skipped..];
            let standby = new.iter().position(|line| line == "standby")?;
            let active = new.iter().position(|line| line.starts_with("active, "))?;
            // Enough to see that the other one does not go on.
            (new.len() > standby.max(active) + 20).then(|| new[active..].to_vec())
        });
        let acts = format!("acts, {}", new[0].trim_start_matches("active, "));
        let others = new[1..]
            .iter()
            .filter(|line| **line != acts && *line != "standby");
        assert!(others.count() <= 1, "{new:#?}");
    }

    /// Checks that no two programs were active at once, in what they printed after the first lines.
    pub fn assert_one_at_a_time(&self, skipped: usize) {
        let said = self.said();
        let mut active = None;
        for line in &said[skipped..] {
            if let Some(token) = line.strip_prefix("active, token ") {
                assert_eq!(active.replace(token), None, "{said:#?}");
            } else if let Some(token) = line.strip_prefix("acts, token ") {
                assert_eq!(active, Some(token), "{said:#?}");
            } else {
                assert_eq!(line, "standby", "{said:#?}");
                active = None;
            }
        }
    }
}
