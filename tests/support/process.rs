//! A program that a test runs, with its lines recorded. Whatever happens, it ends with the test.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid,
};
use std::io::{BufRead, BufReader, PipeReader, pipe};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Long enough for anything that happens at all, on a machine busy with other tests.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A file of the project.
pub fn project(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A program, its standard output and error in one.
pub struct Process {
    child: Child,
    reaped: bool,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<String>,
    ended: bool,
}

impl Process {
    /// Starts the command in a process group of its own, as a shell's job.
    pub fn start(command: &mut Command) -> Self {
        let (reader, writer) = pipe().unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(writer.try_clone().unwrap())
            .stderr(writer)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        // The command holds the pipe's other end, and would keep it open.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let shared = Arc::new(Shared::default());
        let recorder = Arc::clone(&shared);
        let pid = Pid::from_child(&child);
        thread::spawn(move || recorder.record(reader, pid));
        Self {
            child,
            reaped: false,
            shared,
        }
    }

    /// The id of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All lines until now.
    pub fn lines(&self) -> Vec<String> {
        self.shared.lock().lines.clone()
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Looks at the lines after each new one, until there is something to return.
    pub fn wait_until_lines<T>(&self, what: &str, look: impl Fn(&[String]) -> Option<T>) -> T {
        self.wait_until_lines_within(what, PATIENCE, look)
    }

    /// The same, for what takes its time.
    pub fn wait_until_lines_within<T>(
        &self,
        what: &str,
        bound: Duration,
        look: impl Fn(&[String]) -> Option<T>,
    ) -> T {
        self.wait_until(what, bound, |state| look(&state.lines))
    }

    /// Waits until the process has ended and nobody holds its output any more.
    pub fn wait_end(&mut self, bound: Duration) -> (ExitStatus, Vec<String>) {
        self.wait_until("its end", bound, |state| state.ended.then_some(()));
        self.reaped = true;
        (self.child.wait().unwrap(), self.lines())
    }

    fn wait_until<T>(&self, what: &str, bound: Duration, look: impl Fn(&State) -> Option<T>) -> T {
        let end = Instant::now() + bound;
        let mut state = self.shared.lock();
        loop {
            if let Some(found) = look(&state) {
                return found;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero() && !state.ended,
                "{} before {what}; it said:\n{}",
                if state.ended { "ended" } else { "too late" },
                state.lines.join("\n")
            );
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Until it is reaped, its id and its group's are nobody else's.
        if !self.reaped {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, reader: PipeReader, pid: Pid) {
        for line in BufReader::new(reader).split(b'\n') {
            let line = String::from_utf8_lossy(&line.unwrap()).into_owned();
            self.lock().lines.push(line);
            self.changed.notify_all();
        }
        // Without reaping it, so that nobody gets its id while a test may signal it.
        let _ = waitid(
            WaitId::Pid(pid),
            WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
        );
        self.lock().ended = true;
        self.changed.notify_all();
    }
}

/// Runs a command to its end, which must be a good one, and returns its lines.
pub fn run(command: &mut Command, bound: Duration) -> Vec<String> {
    let (status, lines) = Process::start(command).wait_end(bound);
    assert!(
        status.success(),
        "{command:?}: {status}; it said:\n{}",
        lines.join("\n")
    );
    lines
}
