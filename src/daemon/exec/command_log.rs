//! The daemon's log lines about COMMAND.

use super::guarded_run::RunOutcome;
use crate::{config::Name, printable::Printable, protocol::FencingToken};
use rustix::process::Pid;
use std::{ffi::OsStr, io};
use tracing::{error, info, warn};

/// Logs what happens to COMMAND.
pub(super) struct CommandLog {
    /// The name of this replica.
    name: String,
    /// The program that COMMAND names.
    program: String,
}

impl CommandLog {
    /// Creates a log for this replica and this program.
    pub fn new(name: &Name, program: &OsStr) -> Self {
        Self {
            name: Printable(name.as_str().as_bytes()).to_string(),
            program: Printable(program.as_encoded_bytes()).to_string(),
        }
    }

    /// Logs that COMMAND runs.
    pub fn started(&self, process: i32, guard: Option<Pid>, token: FencingToken) {
        let Self { name, program } = self;
        let token = token.get();
        let guard = guard.map(|guard| guard.as_raw_nonzero().get());
        info!(
            name,
            token, process, guard, "Running '{program}' as process {process}."
        );
    }

    /// Logs that COMMAND cannot be killed, so that nothing keeps a second one from running.
    pub fn kill_denied(&self, process: i32) {
        let Self { name, program } = self;
        error!(
            name,
            process,
            "'{program}' is to be killed, and its process {process} cannot be: it is another \
             user's. Two may run at once until it ends by itself."
        );
    }

    /// Logs how a run of COMMAND ended.
    pub fn ended(&self, outcome: RunOutcome) {
        let Self { name, program } = self;
        match outcome {
            RunOutcome::Stopped => info!(name, "'{program}' has stopped."),
            RunOutcome::Exited(code) => {
                info!(name, code, "'{program}' ended with exit code {code}.");
            }
            RunOutcome::GuardKilled => warn!(
                name,
                "The guard of '{program}' died, and what was left of '{program}' was killed."
            ),
            RunOutcome::GuardLate => warn!(
                name,
                "'{program}' was not gone when its time was up (is this machine paused or \
                 overloaded at times?); what was left was killed."
            ),
            RunOutcome::NotStarted(error) => {
                let reason = io::Error::from_raw_os_error(error);
                error!(name, "cannot run '{program}': {reason}");
            }
            RunOutcome::GuardFailed => {
                error!(name, "'{program}' has no guard any more: that one failed.");
            }
        }
    }
}
