//! An election of several processes, by any method: how long its start, its hand-overs and its fail-overs take.

use crate::watch::Watch;
use rustix::process::Signal;
use std::{
    fs::File,
    io::Write as _,
    process::Command,
    time::{Duration, Instant},
};
use support::{let_pass, process::Process, wait_until};
use tempfile::TempDir;

/// A program that elects a leader.
pub trait Method {
    /// Returns the name of its row.
    fn name(&self) -> &'static str;

    /// Returns the row that it is compared with, if it is a peer.
    fn compared_with(&self) -> Option<&'static str>;

    /// Returns a candidate of this election.
    fn candidate(&self, election: &str, name: &str) -> Command;

    /// Returns what a candidate prints when it leads.
    fn leads(&self) -> &'static str;

    /// Waits until a new candidate takes part, as one of so many.
    fn wait_until_it_follows(&self, election: &str, candidate: &mut Process, count: usize);

    /// Waits until the leader knows all other candidates.
    fn wait_until_settled(&self, _leader: &mut Process) {
        let_pass(SETTLED);
    }

    /// Returns the etcd and the start of the keys of which the leader's is deleted when its lease has expired.
    fn leader_key(&self, _election: &str) -> Option<(String, String)> {
        None
    }

    /// Returns what ends its COMMAND, if it has one.
    fn commands(&self) -> Option<&Commands> {
        None
    }

    /// Asks a leader to stop.
    fn stop(&self, leader: &Process) {
        match self.commands() {
            Some(commands) => commands.end(&leader.name),
            None => leader.signal(Signal::TERM),
        }
    }
}

/// What etcd is asked to watch from the past, it looks at every 100 ms only.
const SETTLED: Duration = Duration::from_millis(200);

/// A fail-over of `etcdctl elect` takes its TTL, which is a minute, and up to a second more.
pub const BOUND: Duration = Duration::from_secs(90);

/// COMMANDs that run until they are asked to end. They inherit no standard input from `etcdctl lock`, so each waits for
/// a line from a named pipe.
pub struct Commands(TempDir);

impl Commands {
    /// What a COMMAND prints first.
    pub const RUNS: &str = "runs";

    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    /// Returns the COMMAND of this candidate.
    pub fn command(&self, name: &str) -> [String; 4] {
        let pipe = self.pipe(name);
        let made = Command::new("mkfifo").arg(&pipe).status();
        assert!(made.expect("mkfifo").success());
        // Opened for both directions, a pipe makes nobody wait for the other end.
        let script = r#"exec 3<>"$0"; echo runs; read line <&3"#;
        ["sh", "-c", script, &pipe].map(str::to_owned)
    }

    /// Ends the COMMAND of this candidate.
    pub fn end(&self, name: &str) {
        let pipe = File::options().read(true).write(true).open(self.pipe(name));
        pipe.expect("a pipe").write_all(b"\n").expect("room");
    }

    fn pipe(&self, name: &str) -> String {
        let pipe = self.0.path().join(name);
        pipe.into_os_string().into_string().expect("text")
    }
}

/// An election that goes on; the first of the candidates leads.
pub struct Contest {
    pub method: Box<dyn Method>,
    election: String,
    pub running: Vec<Process>,
    started: usize,
}

impl Contest {
    /// Starts an election of so many candidates.
    pub fn start(method: Box<dyn Method>, election: &str, count: usize) -> Self {
        let mut contest = Self {
            method,
            election: election.to_owned(),
            running: Vec::new(),
            started: 0,
        };
        let mut leader = contest.spawn();
        leader.wait_for_next(contest.method.leads());
        contest.running.push(leader);
        for _ in 1..count {
            contest.add();
        }
        contest
    }

    /// Returns how long it takes from exec until a candidate without competitors leads. It has an election of its own,
    /// which it leaves.
    pub fn start_alone(&mut self) -> Duration {
        self.started += 1;
        let name = format!("candidate{}", self.started);
        let election = format!("alone{}", self.started);
        let command = self.method.candidate(&election, &name);
        let begun = Instant::now();
        let mut leader = Process::spawn(&name, command);
        let took = leader.wait_for_next(self.method.leads()).at - begun;
        self.method.stop(&leader);
        leader.wait_exit();
        took
    }

    /// Returns how long it takes from the request to stop until the next one leads: SIGTERM, or the end of COMMAND.
    /// Replaces the one that ends.
    pub fn hand_over(&mut self) -> Duration {
        self.settle();
        let leader = self.take_leader();
        let asked = Instant::now();
        self.method.stop(&leader);
        let took = self.next() - asked;
        self.replace(leader);
        took
    }

    /// Returns how long it takes from SIGKILL until the next one leads, and the part of that after the deletion of the
    /// leader's key, if there is one. Replaces the one that ends.
    pub fn crash(&mut self) -> (Duration, Option<Duration>) {
        self.settle();
        let key = self.method.leader_key(&self.election);
        let watch = key.map(|(etcd, key)| (Watch::start(&etcd, &key), key));
        let leader = self.take_leader();
        // At any moment between two renewals.
        let_pass(Duration::from_secs(1).mul_f64(fastrand::f64()));
        let killed = Instant::now();
        leader.signal(Signal::KILL);
        let leads = self.next();
        let after_deletion = watch.map(|(watch, key)| {
            let deleted = watch.wait_for_deletion(&key, killed);
            leads.saturating_duration_since(deleted)
        });
        // What the killed one has started may still run.
        if let Some(commands) = self.method.commands() {
            commands.end(&leader.name);
        }
        self.replace(leader);
        (leads - killed, after_deletion)
    }

    /// Waits until the leader knows all others.
    pub fn settle(&mut self) {
        self.method.wait_until_settled(&mut self.running[0]);
    }

    /// Removes the leader; what the others have printed so far does not count any more.
    pub fn take_leader(&mut self) -> Process {
        for candidate in &mut self.running {
            candidate.skip();
        }
        self.running.remove(0)
    }

    /// Waits until one of the others leads; returns since when, and makes it the first.
    pub fn next(&mut self) -> Instant {
        let leads = self.method.leads();
        let says_so =
            |candidate: &Process| candidate.unseen_messages().iter().any(|it| it == leads);
        let next = wait_until("the next one leads", BOUND, || {
            self.running.iter().position(says_so)
        });
        // Those that follow keep their order.
        self.running[..=next].rotate_right(1);
        self.running[0].wait_for_next(leads).at
    }

    fn replace(&mut self, mut ended: Process) {
        ended.wait_exit();
        self.add();
    }

    fn add(&mut self) {
        let mut candidate = self.spawn();
        let count = self.running.len() + 1;
        self.method
            .wait_until_it_follows(&self.election, &mut candidate, count);
        self.running.push(candidate);
    }

    fn spawn(&mut self) -> Process {
        self.started += 1;
        let name = format!("candidate{}", self.started);
        Process::spawn(&name, self.method.candidate(&self.election, &name))
    }
}

impl Drop for Contest {
    fn drop(&mut self) {
        for candidate in &self.running {
            candidate.signal(Signal::KILL);
        }
        // The COMMAND of a peer does not end with it.
        if let Some(commands) = self.method.commands() {
            for candidate in &self.running {
                commands.end(&candidate.name);
            }
        }
    }
}
