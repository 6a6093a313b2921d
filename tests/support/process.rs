//! A program that a test runs. Its lines are recorded, and it ends with the test at the latest.
//!
//! The names of the waits say where they look: `wait_for_next…` looks at the lines after the last
//! one that such a wait has returned, `wait_for_any…` and `wait_until_lines` at all lines from the
//! first one on.

use super::line::{Line, Stream};
use super::{PATIENCE, changed, lock, wait_at_most, wait_until};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid,
};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, pipe};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What is known of a process.
#[derive(Default)]
struct Record {
    lines: Vec<Line>,
    /// How many streams may still bring lines.
    open: usize,
    /// The last instant at which the process can have done anything.
    ended: Option<SystemTime>,
}

impl Record {
    fn texts(&self) -> Vec<String> {
        self.lines.iter().map(Line::text).collect()
    }

    /// Whether the process has ended and nothing holds its output any more.
    fn is_complete(&self) -> bool {
        self.ended.is_some() && self.open == 0
    }
}

/// A program whose lines are recorded. Dropping it kills it, a script only after it could clean up;
/// after a failed test, its lines are printed.
pub struct Process {
    /// What the test calls it.
    pub name: String,
    child: Child,
    /// Whether it leads a process group of its own, which is killed with it.
    leads_group: bool,
    /// Set once the process is reaped; until then, no other process can have its id.
    status: Option<ExitStatus>,
    record: Arc<Mutex<Record>>,
    waiter: Option<JoinHandle<()>>,
    /// How many lines are behind the last one that was waited for, that one included.
    seen: usize,
}

impl Process {
    /// Starts a command, and records its standard output and its standard error separately.
    pub fn spawn(name: &str, mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::spawn_with_own_output(name, command)
    }

    /// Starts a command whose output goes where the command says, and records what is a pipe.
    pub fn spawn_with_own_output(name: &str, mut command: Command) -> Self {
        let mut child = spawn(&mut command);
        let mut streams: Vec<(Stream, Box<dyn Read + Send>)> = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            streams.push((Stream::Out, Box::new(stdout)));
        }
        if let Some(stderr) = child.stderr.take() {
            streams.push((Stream::Err, Box::new(stderr)));
        }
        Self::record(name, child, streams, false)
    }

    /// Starts a script as a shell starts a job: in a process group of its own. Its standard output
    /// and its standard error are one pipe, so that their lines stay in order.
    pub fn spawn_script(command: &mut Command) -> Self {
        let (reader, writer) = pipe().expect("a pipe");
        let name = command.get_program().to_string_lossy().into_owned();
        let child = spawn(
            command
                .stdin(Stdio::null())
                .stdout(writer.try_clone().expect("a second handle"))
                .stderr(writer)
                .process_group(0),
        );
        // The command holds the other end of the pipe, and would keep it open.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self::record(&name, child, vec![(Stream::Out, Box::new(reader))], true)
    }

    fn record(
        name: &str,
        child: Child,
        streams: Vec<(Stream, Box<dyn Read + Send>)>,
        leads_group: bool,
    ) -> Self {
        let record = Arc::new(Mutex::new(Record {
            open: streams.len(),
            ..Record::default()
        }));
        for (stream, source) in streams {
            let record = Arc::clone(&record);
            thread::spawn(move || read(stream, source, &record));
        }
        let pid = Pid::from_child(&child);
        let ended = Arc::clone(&record);
        let waiter = thread::spawn(move || {
            // Does not reap it, so that the id stays its own for as long as a test may signal it.
            let exited = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            rustix::io::retry_on_intr(|| waitid(WaitId::Pid(pid), exited)).expect("our child");
            lock(&ended).ended = Some(SystemTime::now());
            changed();
        });
        Self {
            name: name.to_owned(),
            child,
            leads_group,
            status: None,
            record,
            waiter: Some(waiter),
            seen: 0,
        }
    }

    /// Returns the process id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("our child");
    }

    /// Kills the process, as a crash does; returns when.
    pub fn crash(&mut self) -> Instant {
        let now = Instant::now();
        self.signal(Signal::KILL);
        self.wait_exit();
        now
    }

    /// Closes its standard input, which the command must have piped.
    pub fn close_stdin(&mut self) {
        drop(self.child.stdin.take().expect("piped"));
    }

    /// Returns all lines so far.
    pub fn lines(&self) -> Vec<Line> {
        lock(&self.record).lines.clone()
    }

    /// Returns all lines so far as text.
    pub fn texts(&self) -> Vec<String> {
        lock(&self.record).texts()
    }

    /// Returns the messages on standard output so far.
    pub fn messages(&self) -> Vec<String> {
        let record = lock(&self.record);
        let out = record
            .lines
            .iter()
            .filter(|line| line.stream == Stream::Out);
        out.map(Line::message).collect()
    }

    /// Counts how often it has printed this on standard output so far.
    pub fn count(&self, message: &str) -> usize {
        let messages = self.messages();
        messages.iter().filter(|said| *said == message).count()
    }

    /// Whether it has printed this so far.
    pub fn has_said(&self, message: &str) -> bool {
        self.lines().iter().any(|line| line.message() == message)
    }

    /// Returns the last line with this message.
    ///
    /// # Panics
    /// When there is none.
    pub fn last(&self, message: &str) -> Line {
        let lines = self.lines();
        let last = lines.iter().rev().find(|line| line.message() == message);
        last.unwrap_or_else(|| panic!("{} has not said {message:?}", self.name))
            .clone()
    }

    /// Waits for the next line with this message.
    pub fn wait_for_next(&mut self, message: &str) -> Line {
        self.wait_for_next_line(message, |line| line.message() == message)
    }

    /// Waits for the next line whose message begins like this.
    pub fn wait_for_next_start(&mut self, start: &str) -> Line {
        self.wait_for_next_line(start, |line| line.message().starts_with(start))
    }

    /// Waits for the next line that `is_it`.
    pub fn wait_for_next_line(&mut self, what: &str, is_it: impl Fn(&Line) -> bool) -> Line {
        let mut seen = self.seen;
        let found = self.wait_in_record(what, PATIENCE, |record| {
            let new = record.lines[seen..].iter().position(&is_it);
            let found = new.map(|offset| record.lines[seen + offset].clone());
            seen = new.map_or(record.lines.len(), |offset| seen + offset + 1);
            found
        });
        self.seen = seen;
        found
    }

    /// Returns the messages after the last line that was waited for.
    pub fn unseen_messages(&self) -> Vec<String> {
        let record = lock(&self.record);
        record.lines[self.seen..]
            .iter()
            .map(Line::message)
            .collect()
    }

    /// Lets the next `wait_for_next…` look only at what is printed from now on.
    pub fn skip(&mut self) {
        self.seen = lock(&self.record).lines.len();
    }

    /// Waits until any line has this message.
    pub fn wait_for_any(&self, message: &str) -> Line {
        self.wait_for_any_line(message, |line| line.message() == message)
    }

    /// Waits until the message of any line begins like this. Standard output and standard error
    /// have no order between them, so a wait for a line of one may have gone past the other's.
    pub fn wait_for_any_start(&self, start: &str) -> Line {
        self.wait_for_any_line(start, |line| line.message().starts_with(start))
    }

    /// Waits until any line `is_it`.
    pub fn wait_for_any_line(&self, what: &str, is_it: impl Fn(&Line) -> bool) -> Line {
        self.wait_in_record(what, PATIENCE, |record| {
            record.lines.iter().find(|line| is_it(line)).cloned()
        })
    }

    /// Looks at all lines, now and after each new one, until there is something to return.
    pub fn wait_until_lines<T>(&self, what: &str, look: impl Fn(&[String]) -> Option<T>) -> T {
        self.wait_until_lines_within(PATIENCE, what, look)
    }

    /// Does the same with a time limit of its own.
    pub fn wait_until_lines_within<T>(
        &self,
        bound: Duration,
        what: &str,
        look: impl Fn(&[String]) -> Option<T>,
    ) -> T {
        self.wait_in_record(what, bound, |record| look(&record.texts()))
    }

    /// Waits until the process has ended and nothing holds its output any more.
    pub fn wait_exit(&mut self) -> ExitStatus {
        self.finish().0
    }

    /// Does the same; returns all lines as well.
    pub fn finish(&mut self) -> (ExitStatus, Vec<String>) {
        self.finish_within(PATIENCE)
    }

    /// Does the same with a time limit of its own.
    pub fn finish_within(&mut self, bound: Duration) -> (ExitStatus, Vec<String>) {
        let lines = self.wait_in_record("its end", bound, |record| {
            record.is_complete().then(|| record.texts())
        });
        let status = self.child.wait().expect("our child");
        self.status = Some(status);
        (status, lines)
    }

    /// Looks at the record until there is something to return, at the longest until no line can
    /// come any more.
    fn wait_in_record<T>(
        &self,
        what: &str,
        bound: Duration,
        mut look: impl FnMut(&Record) -> Option<T>,
    ) -> T {
        wait_until(&format!("{}: {what:?}", self.name), bound, || {
            let record = lock(&self.record);
            let found = look(&record);
            let can_come = found.is_some() || !record.is_complete();
            assert!(can_come, "{} ended before {what:?}", self.name);
            found
        })
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.ended().is_some()
    }

    /// Returns when it ended, if it has.
    pub fn ended(&self) -> Option<SystemTime> {
        lock(&self.record).ended
    }

    /// Returns the processor time that it has used.
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

    fn print_lines(&self) {
        let mut text = format!("--- what {} said\n", self.name);
        for line in &lock(&self.record).lines {
            let at = line.at.duration_since(*BEGIN).as_secs_f64();
            // Quoted, since a test may be about characters that would not show.
            let said = format!("{:?}", line.text());
            writeln!(text, "{at:9.3} {:?}  {said:.500}", line.stream).expect("a string grows");
        }
        eprint!("{text}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.status.is_none() {
            if self.leads_group {
                // A script may have started what is in other groups; only it can end that.
                self.signal(Signal::TERM);
                wait_at_most(PATIENCE, || self.has_ended().then_some(()));
                let _ = kill_process_group(self.pid(), Signal::KILL);
            } else {
                drop(self.child.kill());
            }
        }
        // Before the process is reaped, as nothing can be waited for after that.
        drop(self.waiter.take().map(JoinHandle::join));
        drop(self.child.wait());
        let closed = wait_at_most(PATIENCE, || (lock(&self.record).open == 0).then_some(()));
        if thread::panicking() {
            self.print_lines();
        } else {
            let name = &self.name;
            assert!(closed.is_some(), "a process that {name} left still runs");
        }
    }
}

fn spawn(command: &mut Command) -> Child {
    // The times of its lines count from here at the latest.
    LazyLock::force(&BEGIN);
    command
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}; run tests/run.sh"))
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

/// Runs a command to its end, which must be a success, and returns its lines.
pub fn run(command: &mut Command, bound: Duration) -> Vec<String> {
    let (status, lines) = Process::spawn_script(command).finish_within(bound);
    assert!(
        status.success(),
        "{command:?}: {status}; it said:\n{}",
        lines.join("\n")
    );
    lines
}
