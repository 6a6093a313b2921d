//! The real binary as a process whose lines are recorded.

use super::etcd::Etcd;
use super::{PATIENCE, changed, lock, wait_until};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::Value;
use std::env;
use std::fmt::Write;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

/// What a replica says when a term begins.
pub const LEADER: &str = "I am the leader.";
/// What it says when somebody else leads.
pub const FOLLOWER: &str = "I am a follower.";
/// What it says about each answered try of a term.
pub const REFRESHED: &str = "Refreshing lease; still the leader.";
/// What a leader says when it is asked to stop.
pub const LEADER_STOPS: &str = "Revoking lease; no longer the leader.";
/// What anybody else says then.
pub const CANDIDATE_STOPS: &str = "Revoking lease; no longer a candidate.";
/// How a leader begins to say that its term is over.
pub const LOST: &str = "No longer the leader: ";

static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Where a line came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// A line, and when it was read.
#[derive(Clone, Debug)]
pub struct Line {
    /// When it was read.
    pub at: Instant,
    /// Where it came out.
    pub stream: Stream,
    /// Its bytes, without the new line.
    pub bytes: Vec<u8>,
}

impl Line {
    /// The line as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The line as an object of `--log-format json`, if it is one.
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.bytes)
            .ok()
            .filter(Value::is_object)
    }

    /// A field of that object, as text.
    pub fn field(&self, name: &str) -> Option<String> {
        match self.json()?.get(name)? {
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }

    /// What it says: the object's message, or all of it.
    pub fn message(&self) -> String {
        self.field("message").unwrap_or_else(|| self.text())
    }

    /// Whether it warns of an etcd that is too old for the promise.
    pub fn warns_of_outdated_etcd(&self) -> bool {
        self.message().contains("may answer stale after a pause")
    }

    /// Whether it is a warning or worse.
    pub fn is_warning(&self) -> bool {
        match self.field("level") {
            Some(level) => level == "WARN" || level == "ERROR",
            None => ["WARN ", "ERROR "]
                .iter()
                .any(|level| self.text().starts_with(level)),
        }
    }
}

#[derive(Default)]
struct Record {
    lines: Vec<Line>,
    open: usize,
    /// The last instant at which it can have done anything.
    ended: Option<SystemTime>,
}

/// A process of the binary. It is killed when it is dropped, and what it said is printed when
/// the test failed.
pub struct Daemon {
    /// What to call it.
    pub name: String,
    child: Child,
    record: Arc<Mutex<Record>>,
    threads: Vec<JoinHandle<()>>,
    seen: usize,
}

/// The binary, in an environment without a setting of its own.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leader-election"));
    for (variable, _) in env::vars_os() {
        if variable.to_string_lossy().starts_with("LEADER_ELECTION_") {
            command.env_remove(variable);
        }
    }
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// A candidate in the demo's own format.
pub fn plain(name: &str, endpoints: &str) -> Command {
    let mut command = command();
    command.args(["--name", name, "--etcd", endpoints, "--ttl", "2s"]);
    command
}

/// A candidate whose lines tell their time.
pub fn json(name: &str, endpoints: &str) -> Command {
    let mut command = plain(name, endpoints);
    command.args(["--log-format", "json"]);
    command
}

impl Daemon {
    /// Starts the command and records what it prints.
    pub fn spawn(name: &str, mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::spawn_with_own_output(name, command)
    }

    /// The same, but standard output and error are where the command says.
    pub fn spawn_with_own_output(name: &str, mut command: Command) -> Self {
        let begin = *BEGIN;
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{name} at {begin:?}: {error}"));
        let mut streams: Vec<(Stream, Box<dyn Read + Send>)> = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            streams.push((Stream::Out, Box::new(stdout)));
        }
        if let Some(stderr) = child.stderr.take() {
            streams.push((Stream::Err, Box::new(stderr)));
        }
        let record = Arc::new(Mutex::new(Record {
            open: streams.len(),
            ..Record::default()
        }));
        let mut threads = Vec::new();
        for (stream, source) in streams {
            let record = Arc::clone(&record);
            threads.push(thread::spawn(move || read(stream, source, &record)));
        }
        let pid = Pid::from_child(&child);
        let ended = Arc::clone(&record);
        threads.push(thread::spawn(move || {
            // Without reaping it, so that the pid stays its own for as long as we may signal it.
            let exited = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            rustix::io::retry_on_intr(|| waitid(WaitId::Pid(pid), exited)).expect("it ends");
            lock(&ended).ended = Some(SystemTime::now());
            changed();
        }));
        Self {
            name: name.to_owned(),
            child,
            record,
            threads,
            seen: 0,
        }
    }

    /// Candidates `server1`, `server2` … whose lines tell their time.
    pub fn candidates(etcd: &Etcd, count: usize) -> Vec<Self> {
        (1..=count)
            .map(|number| format!("server{number}"))
            .map(|name| Self::spawn(&name, json(&name, &etcd.endpoint())))
            .collect()
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<Line> {
        lock(&self.record).lines.clone()
    }

    /// What it said so far on standard output.
    pub fn messages(&self) -> Vec<String> {
        let lines = self.lines();
        lines
            .iter()
            .filter(|line| line.stream == Stream::Out)
            .map(Line::message)
            .collect()
    }

    /// The warnings so far, but for the one that every etcd of old gets.
    pub fn warnings(&self) -> Vec<String> {
        self.lines()
            .iter()
            .filter(|line| line.is_warning() && !line.warns_of_outdated_etcd())
            .map(Line::message)
            .collect()
    }

    /// The last line that says this.
    ///
    /// # Panics
    /// When there is none.
    pub fn last(&self, message: &str) -> Line {
        let lines = self.lines();
        let last = lines.iter().rev().find(|line| line.message() == message);
        last.unwrap_or_else(|| panic!("{} says {message:?}", self.name))
            .clone()
    }

    /// Whether this came out so far, anywhere.
    pub fn has_said(&self, message: &str) -> bool {
        self.lines().iter().any(|line| line.message() == message)
    }

    /// Waits until something that begins so came out, before or after whatever else was waited for:
    /// standard output and error have no order among each other.
    pub fn wait_for_any_start(&self, start: &str) -> Line {
        let what = format!("{} says {start:?} at any time", self.name);
        wait_until(&what, PATIENCE, || {
            let lines = self.lines();
            lines
                .into_iter()
                .find(|line| line.message().starts_with(start))
        })
    }

    /// Closes its standard input, which the command must have piped.
    pub fn close_stdin(&mut self) {
        drop(self.child.stdin.take().expect("piped"));
    }

    /// How often it said that so far.
    pub fn count(&self, message: &str) -> usize {
        self.messages()
            .iter()
            .filter(|said| *said == message)
            .count()
    }

    /// Waits for a line that says this, among those after the last one that was waited for.
    pub fn wait_for_next(&mut self, message: &str) -> Line {
        self.wait_for_next_line(message, |line| line.message() == message)
    }

    /// Waits for a line that begins so.
    pub fn wait_for_next_start(&mut self, start: &str) -> Line {
        self.wait_for_next_line(start, |line| line.message().starts_with(start))
    }

    /// Waits for a line.
    pub fn wait_for_next_line(&mut self, what: &str, is_it: impl Fn(&Line) -> bool) -> Line {
        let mut seen = self.seen;
        let what = format!("{} says {what:?}", self.name);
        let found = wait_until(&what, PATIENCE, || {
            let record = lock(&self.record);
            let new = record.lines[seen..].iter().position(&is_it);
            let found = new.map(|offset| record.lines[seen + offset].clone());
            seen = new.map_or(record.lines.len(), |offset| seen + offset + 1);
            found
        });
        self.seen = seen;
        found
    }

    /// Waits for this many more answered tries of its term.
    pub fn wait_for_next_refreshes(&mut self, count: usize) -> Line {
        (0..count)
            .map(|_| self.wait_for_next(REFRESHED))
            .last()
            .expect("at least one")
    }

    /// What it said since the last line that was waited for.
    pub fn news(&self) -> Vec<String> {
        lock(&self.record).lines[self.seen..]
            .iter()
            .map(Line::message)
            .collect()
    }

    /// Lets the next wait begin with what it says from now on.
    pub fn skip(&mut self) {
        self.seen = lock(&self.record).lines.len();
    }

    /// Whether it leads, by its last word on that.
    pub fn leads(&self) -> bool {
        let verdict = |line: &Line| match line.message().as_str() {
            LEADER => Some(true),
            FOLLOWER | LEADER_STOPS => Some(false),
            lost if lost.starts_with(LOST) => Some(false),
            _ => None,
        };
        self.lines().iter().rev().find_map(verdict).unwrap_or(false)
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("our child");
    }

    /// Ends it as a crash does; returns when.
    pub fn crash(&mut self) -> Instant {
        let now = Instant::now();
        self.signal(Signal::KILL);
        self.wait_exit();
        now
    }

    /// Waits for its end, and for its last line.
    pub fn wait_exit(&mut self) -> ExitStatus {
        wait_until(&format!("{} ends", self.name), PATIENCE, || {
            let record = lock(&self.record);
            (record.ended.is_some() && record.open == 0).then_some(())
        });
        self.child.wait().expect("our child")
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.ended().is_some()
    }

    /// When it ended.
    pub fn ended(&self) -> Option<SystemTime> {
        lock(&self.record).ended
    }

    /// The processor time that it has used.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.expect("it runs");
        let (_, after_name) = stat.rsplit_once(')').expect("pid (name) state …");
        let fields = after_name.split_whitespace().skip(11).take(2);
        let ticks: u64 = fields
            .map(|field| field.parse::<u64>().expect("a number"))
            .sum();
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
        drop(self.child.wait());
        if thread::panicking() {
            let mut text = format!("--- what {} said\n", self.name);
            for line in &lock(&self.record).lines {
                let at = line.at.duration_since(*BEGIN).as_secs_f64();
                // Quoted, since a test may be about characters that would not show.
                let said = format!("{:?}", line.text());
                writeln!(text, "{at:9.3} {:?}  {said:.500}", line.stream)
                    .expect("a string takes it");
            }
            eprint!("{text}");
        }
    }
}

fn read(stream: Stream, source: Box<dyn Read + Send>, record: &Mutex<Record>) {
    let mut source = BufReader::new(source);
    loop {
        let mut bytes = Vec::new();
        let end = source.read_until(b'\n', &mut bytes).unwrap_or(0) == 0;
        let at = Instant::now();
        {
            let mut record = lock(record);
            if end {
                record.open -= 1;
            } else {
                if bytes.last() == Some(&b'\n') {
                    bytes.pop();
                }
                record.lines.push(Line { at, stream, bytes });
            }
        }
        changed();
        if end {
            return;
        }
    }
}

/// Waits until one of these leads; returns which.
pub fn wait_for_leader(replicas: &[Daemon]) -> usize {
    wait_until("somebody leads", PATIENCE, || {
        replicas.iter().position(Daemon::leads)
    })
}

/// Waits until one of these leads and all others know that they follow; returns the leader.
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

/// Waits until one of these has led for a while, and goes on to; returns which.
pub fn wait_for_settled(replicas: &mut [Daemon]) -> usize {
    replicas.iter_mut().for_each(Daemon::skip);
    wait_until("somebody goes on to lead", PATIENCE, || {
        let refreshes = |replica: &Daemon| {
            let news = replica.news();
            let since = news.iter().rposition(|said| said == LEADER).unwrap_or(0);
            news[since..]
                .iter()
                .filter(|said| *said == REFRESHED)
                .count()
        };
        replicas
            .iter()
            .position(|replica| replica.leads() && refreshes(replica) >= 3)
    })
}
