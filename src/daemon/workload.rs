//! The work that runs while this replica leads, and what happens after the work ends.

use super::{
    cli::CommandToRun,
    exec::{Children, KILL_TIMEOUT, Orphans, RunOutcome, Supervisor},
    exit_code,
    render::duration,
};
use crate::{
    DoneRecord, NotRecorded,
    clock::{self, Alarm},
    config::Config,
    election::{Candidate, Leadership},
    printable::Printable,
    protocol::Moment,
};
use anyhow::Context;
use rustix::io::Errno;
use std::{io, pin::Pin, time::Duration};
use tokio::{signal::unix::SignalKind, time::timeout};
use tracing::info;

/// How the work of a term has ended. No process of it is left.
pub(super) enum Ended {
    /// It was stopped, or was not started: this replica may start it again.
    Stopped,
    /// It ended by itself, or cannot be run: the exit code of this program.
    Exited(u8),
    /// It ended by itself, and this replica led on until the hold or the term was over: the exit code.
    Held(u8),
    /// The job that runs once was completed: its record, or why there may be none.
    Completed(Completion),
}

/// Whether a completed job is recorded as done.
type Completion = Result<DoneRecord, NotRecorded>;

/// What runs while this replica leads.
pub(super) enum Workload {
    /// Nothing runs: this replica only holds leadership until it is lost.
    Idle {
        held: Option<Leadership>,
        orphans: Orphans,
    },
    Command(Box<CommandWork>),
}

/// COMMAND, and what follows after it has ended by itself.
pub(super) struct CommandWork {
    supervisor: Supervisor,
    runs_once: bool,
    hold: Duration,
    alarm: Alarm,
    /// When the present term began.
    began: Moment,
    /// For log lines.
    name: String,
    after: After,
}

/// What goes on after COMMAND has ended.
enum After {
    Nothing,
    Recording(Pin<Box<dyn Future<Output = (Completion, Leadership)>>>),
    Holding { leadership: Leadership, code: u8 },
}

impl Workload {
    /// Prepares for the terms of a candidate.
    ///
    /// # Errors
    /// If the system is short of file descriptors.
    pub fn new(
        command: Option<CommandToRun>,
        config: &Config,
        candidate: &Candidate,
        children: Children,
    ) -> anyhow::Result<Self> {
        let Some(command) = command else {
            let orphans = Orphans::new(children).context("could not get ready to reap orphans")?;
            return Ok(Self::Idle {
                held: None,
                orphans,
            });
        };
        let work = CommandWork::new(&command, config, candidate, children);
        let work = work.context("could not get ready to run COMMAND")?;
        Ok(Self::Command(Box::new(work)))
    }

    /// Returns true iff something runs that must end before this program does.
    pub fn is_running(&self) -> bool {
        match self {
            Self::Idle { .. } => false,
            Self::Command(work) => {
                work.supervisor.is_running() || !matches!(work.after, After::Nothing)
            }
        }
    }

    /// Begins a term.
    ///
    /// # Errors
    /// If no guard can be started.
    pub fn start(&mut self, leadership: Leadership) -> io::Result<()> {
        match self {
            Self::Idle { held, .. } => *held = Some(leadership),
            Self::Command(work) => {
                work.began = clock::now();
                work.supervisor.start(leadership)?;
            }
        }
        Ok(())
    }

    /// Waits until the work of a term has ended, or forever if there is none. Returns how it ended, and
    /// the leadership to give back. Cancel safe.
    pub async fn ended(&mut self) -> io::Result<(Ended, Option<Leadership>)> {
        match self {
            Self::Idle { held, orphans } => {
                if let Some(leadership) = held {
                    tokio::select! {
                        _ = leadership.lost() => {}
                        never = orphans.reap() => match never {},
                    }
                }
                match held.take() {
                    Some(leadership) => Ok((Ended::Stopped, Some(leadership))),
                    None => match orphans.reap().await {},
                }
            }
            Self::Command(work) => work.ended().await,
        }
    }

    /// Forwards a signal to COMMAND, if it runs.
    pub fn forward_signal(&mut self, signal: SignalKind) {
        if let Self::Command(work) = self {
            work.supervisor.forward_signal(signal);
        }
    }

    /// Kills what runs, and waits for its end for up to [`KILL_TIMEOUT`].
    pub async fn kill(&mut self) {
        if let Self::Command(work) = self
            && work.supervisor.is_running()
        {
            work.supervisor.kill();
            // If that takes longer, the guard completes it after the end of this process.
            let _ = timeout(KILL_TIMEOUT, work.supervisor.run_ended()).await;
        }
    }
}

impl CommandWork {
    fn new(
        command: &CommandToRun,
        config: &Config,
        candidate: &Candidate,
        children: Children,
    ) -> io::Result<Self> {
        Ok(Self {
            supervisor: Supervisor::new(command, config, candidate.status(), children)?,
            runs_once: config.job().is_some(),
            hold: command.hold,
            alarm: Alarm::new()?,
            began: clock::now(),
            name: Printable(config.name().as_str().as_bytes()).to_string(),
            after: After::Nothing,
        })
    }

    /// Waits until COMMAND has ended, and then until what follows has ended.
    async fn ended(&mut self) -> io::Result<(Ended, Option<Leadership>)> {
        if matches!(self.after, After::Nothing) {
            let (outcome, leadership) = self.supervisor.run_ended().await?;
            let Some(code) = code_of(outcome) else {
                return Ok((Ended::Stopped, Some(leadership)));
            };
            let left = (self.began + self.hold).since(clock::now());
            let has_run = matches!(outcome, RunOutcome::Exited(_));
            self.after = if self.runs_once && outcome == RunOutcome::Exited(exit_code::SUCCESS) {
                // The leadership must outlive the decision to withdraw.
                After::Recording(Box::pin(async {
                    (leadership.record_completion().await, leadership)
                }))
            } else if has_run && !left.is_zero() {
                let (name, left) = (self.name.as_str(), duration(left));
                info!(name, left, "Continuing to lead for another {left}.");
                After::Holding { leadership, code }
            } else {
                return Ok((Ended::Exited(code), Some(leadership)));
            };
        }
        let mut recorded = None;
        match &mut self.after {
            After::Nothing => {}
            After::Recording(recording) => tokio::select! {
                result = recording => recorded = Some(result),
                never = self.supervisor.reap() => match never {},
            },
            After::Holding { leadership, .. } => tokio::select! {
                _ = leadership.lost() => {}
                result = self.alarm.wait_until(Some(self.began + self.hold)) => result?,
                never = self.supervisor.reap() => match never {},
            },
        }
        Ok(match std::mem::replace(&mut self.after, After::Nothing) {
            After::Holding { leadership, code } => (Ended::Held(code), Some(leadership)),
            After::Nothing | After::Recording(_) => match recorded {
                Some((result, leadership)) => (Ended::Completed(result), Some(leadership)),
                None => (Ended::Stopped, None),
            },
        })
    }
}

/// Returns the exit code of this program, if this end of COMMAND also ends this program.
fn code_of(ended: RunOutcome) -> Option<u8> {
    match ended {
        RunOutcome::Stopped | RunOutcome::GuardKilled | RunOutcome::GuardLate => None,
        RunOutcome::Exited(code) => Some(code),
        RunOutcome::NotStarted(error) => Some(match Errno::from_raw_os_error(error) {
            Errno::NOENT => exit_code::NOT_FOUND,
            Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE => exit_code::OWN_FAILURE,
            _ => exit_code::NOT_EXECUTABLE,
        }),
        RunOutcome::GuardFailed => Some(exit_code::OWN_FAILURE),
    }
}
