//! The health runner's side of one run of the health command.

use super::report::{Outcome, Report};
use crate::{daemon::exec::reaping::ChildEnd, protocol::Moment};
use rustix::{io::ioctl_fionbio, process::Pid};
use std::{
    ffi::OsStr,
    fmt::Write,
    io::{self, ErrorKind, PipeReader, Read, pipe},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

/// How much of what a run prints is kept, in bytes.
const KEPT_OUTPUT: usize = 4096;

/// The most that is read at once: the health runner has more to do.
const CHUNK: usize = 16 * 1024;

/// A run, until nothing of it is left.
pub(super) struct Run {
    /// The health command's own process.
    process: Pid,
    /// When it has taken too long.
    pub until: Moment,
    pub outcome: Option<Outcome>,
    pub is_reported: bool,
    /// What it prints; `None` once nothing of it holds the other end.
    output: Option<PipeReader>,
    kept: Vec<u8>,
}

impl Run {
    /// Starts the health command, which may run until this moment.
    ///
    /// # Errors
    /// If the system does not run it.
    pub fn start(command: &OsStr, until: Moment) -> io::Result<Self> {
        let (output, writer) = pipe()?;
        ioctl_fionbio(&output, true)?;
        let child = Command::new("sh")
            // The command may begin with a dash.
            .args(["-c", "--"])
            .arg(command)
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            // What signals its own process group must not reach the health runner.
            .process_group(0)
            .spawn()?;
        Ok(Self {
            process: Pid::from_child(&child),
            until,
            outcome: None,
            is_reported: false,
            output: Some(output),
            kept: Vec::new(),
        })
    }

    /// Records that a child of the health runner has ended.
    pub fn record_end(&mut self, child: Pid, end: ChildEnd) {
        if child == self.process {
            self.outcome.get_or_insert(Outcome::Ended(end));
        }
    }

    /// Returns what becomes readable when it prints something.
    pub fn output(&self) -> Option<&PipeReader> {
        self.output.as_ref()
    }

    /// Reads a part of what it has printed, and keeps the beginning of it all: a run that prints much must
    /// neither be held up nor take memory. Returns true iff there may be more.
    pub fn read_output(&mut self) -> bool {
        let Some(output) = &mut self.output else {
            return false;
        };
        let mut buffer = [0; CHUNK];
        match output.read(&mut buffer) {
            Ok(length @ 1..) => {
                let room = KEPT_OUTPUT.saturating_sub(self.kept.len());
                self.kept.extend_from_slice(&buffer[..length.min(room)]);
                true
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Ok(0) | Err(_) => {
                self.output = None;
                false
            }
        }
    }

    /// Reads the rest of what it has printed, as far as that is kept. Nothing of it may be left.
    pub fn read_rest(&mut self) {
        while self.kept.len() < KEPT_OUTPUT && self.read_output() {}
    }

    /// Returns the lines that report what it has printed so far, and then this outcome.
    pub fn report(&mut self, outcome: Outcome) -> String {
        let mut report = String::new();
        let printed = String::from_utf8_lossy(&self.kept);
        for line in printed.lines().filter(|line| !line.is_empty()) {
            // Writing to a String cannot fail.
            let _ = write!(report, "{}", Report::Printed(line.to_owned()));
        }
        let _ = write!(report, "{}", Report::Run(outcome));
        self.is_reported = true;
        report
    }
}
