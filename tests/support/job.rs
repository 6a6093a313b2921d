//! A job that several replicas run once.

use super::daemon::{Daemon, command};
use super::etcd::Etcd;
use super::{TTL, poll_until};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// The job's ID.
pub const JOB: &str = "migrate-42";
/// The key of its record.
pub const RECORD: &str = "leader/done/migrate-42";

/// What a replica says once its job is recorded.
pub const RECORDED: &str = "'migrate-42' is recorded as done.";
/// How a replica begins to say that its job was done before.
pub const DONE: &str = "'migrate-42' was completed by ";
/// How a replica begins to say that its job could not be recorded.
pub const NOT_RECORDED: &str =
    "COMMAND has completed 'migrate-42', but that could not be recorded: ";

/// A job that writes a line when it begins and one when it ends, and lasts until the test says so.
pub struct Job {
    folder: TempDir,
    ttl: Duration,
}

impl Job {
    /// Returns a job for replicas with the tests' TTL.
    pub fn new() -> Self {
        Self::with_ttl(TTL)
    }

    /// The same for tests in which the job must end by itself while its term is being lost.
    pub fn with_ttl(ttl: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, ttl }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns a replica that runs it.
    pub fn replica(&self, name: &str, endpoint: &str) -> Command {
        self.replica_with(name, endpoint, &[])
    }

    /// Does the same with further options.
    pub fn replica_with(&self, name: &str, endpoint: &str, options: &[&str]) -> Command {
        self.replica_of(name, endpoint, self.ttl, options)
    }

    fn replica_of(&self, name: &str, endpoint: &str, ttl: Duration, options: &[&str]) -> Command {
        let mut command = command();
        let ttl = format!("{}s", ttl.as_secs());
        command.args(["--name", name, "--etcd", endpoint, "--ttl", &ttl]);
        command
            .args(["--log-format", "json", "--once", JOB])
            .args(options);
        let folder = self.folder.path().display();
        let job = format!(
            "cd {folder}; echo $LEADER_ELECTION_NAME $LEADER_ELECTION_TOKEN >>begun
             until [ -e end ]; do sleep 0.01; done
             echo $LEADER_ELECTION_NAME >>ended; exit $(cat end)"
        );
        command.args(["--", "sh", "-c", &job]);
        command
    }

    /// Returns a replica that runs it, with a TTL of a minute.
    pub fn with_longer_ttl(&self, name: &str, endpoint: &str) -> Command {
        self.replica_of(name, endpoint, Duration::from_mins(1), &[])
    }

    /// Starts a replica that runs it.
    pub fn spawn(&self, name: &str, endpoint: &str) -> Daemon {
        Daemon::spawn(name, self.replica(name, endpoint))
    }

    /// Lets each run end with this code, from now on.
    pub fn end_with(&self, code: u8) {
        fs::write(self.file("new"), code.to_string()).unwrap();
        fs::rename(self.file("new"), self.file("end")).unwrap();
    }

    /// Returns the lines of one of its files, `begun` or `ended`.
    pub fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.file(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Returns who has begun it, one for each run.
    pub fn begun(&self) -> Vec<String> {
        let name = |line: &String| line.split(' ').next().unwrap().to_owned();
        self.lines("begun").iter().map(name).collect()
    }

    /// Waits until it has begun this many times.
    pub fn wait_until_begun(&self, times: usize) {
        poll_until("the job has begun", || {
            (self.lines("begun").len() >= times).then_some(())
        });
    }
}

/// Returns the record of the job.
pub fn record(etcd: &Etcd) -> Value {
    let key = etcd.key(RECORD).expect("a record");
    assert_eq!(key.lease, None);
    serde_json::from_slice(&key.value).unwrap()
}

/// Waits for the end of a replica; returns its exit code.
pub fn exit_code(replica: &mut Daemon) -> i32 {
    let status = replica.wait_exit();
    status.code().unwrap_or_else(|| panic!("{status}"))
}
