//! Runs COMMAND repeatedly, one run at a time, each with a time limit.
//!
//! There is no guard, because a run that outlives this process does not act as leader. If a run ends by
//! itself, the processes that it leaves behind keep running, such as a server that it has started. At
//! the time limit, the processes of the run are asked to stop, and are then killed. Processes that
//! earlier runs have left behind keep running.

use super::{
    environment::remove_private_variables,
    reaping::{self, RETRY_INTERVAL, Reaped, Remaining},
    stopping::Stopping,
};
use crate::{
    clock::{self, Alarm},
    protocol::Moment,
};
use rustix::{
    fs::{MemfdFlags, memfd_create},
    io::Errno,
    process::{Pid, Signal},
};
use std::{
    ffi::OsString,
    fs::File,
    io::{self, ErrorKind, Seek, Write},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::Duration,
};
use tokio::signal::unix::{self, SignalKind};

/// How long a run at its time limit gets to stop before it is killed.
const TIME_TO_STOP: Duration = Duration::from_secs(2);

/// What happens to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon) enum RunEvent {
    /// COMMAND has ended with this exit code, 128 + n for signal n.
    Exited(u8),
    /// The run was stopped at its time limit, or killed. No process of it is left.
    Killed,
    /// The process with this ID cannot be killed. Reported once per run; the run is not over.
    KillDenied(i32),
}

/// Runs COMMAND, at most once at a time.
pub(in crate::daemon) struct BoundedRunner {
    command: Vec<OsString>,
    time_limit: Duration,
    child_ended: unix::Signal,
    alarm: Alarm,
    run: Option<Run>,
}

/// A run of COMMAND.
struct Run {
    /// COMMAND's own process, and its process group.
    process: Pid,
    /// The exit code of COMMAND's own process, once it was reaped.
    code: Option<u8>,
    /// The descendants that the observer had before the run.
    spared: Vec<Pid>,
    stage: Stage,
    kill_denial_reported: bool,
}

enum Stage {
    /// COMMAND may run until this moment.
    Running { until: Moment },
    /// COMMAND and everything that it has started were asked to stop, and are killed at this moment.
    Stopping { stopping: Stopping, until: Moment },
    /// What is left is being killed.
    Killing,
}

impl BoundedRunner {
    /// Prepares to run COMMAND, a program and its arguments, within a time limit.
    ///
    /// # Errors
    /// If the system is short of file descriptors, or cannot list the children of a process.
    pub fn new(command: Vec<OsString>, time_limit: Duration) -> io::Result<Self> {
        reaping::become_subreaper()?;
        Ok(Self {
            command,
            time_limit,
            child_ended: unix::signal(SignalKind::child())?,
            alarm: Alarm::new()?,
            run: None,
        })
    }

    /// Starts a run with these variables and this standard input. There must be no other run.
    ///
    /// # Errors
    /// If COMMAND cannot be executed, or the system is short of a resource.
    pub fn start(&mut self, variables: &[(&'static str, OsString)], input: &str) -> io::Result<()> {
        let words = self.command.split_first();
        let (program, arguments) = words.ok_or(ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::from(file_with(input)?));
        // Ctrl-C in a terminal must reach this process alone, which lets the run finish.
        command.process_group(0);
        remove_private_variables(&mut command);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        let mut spared = reaping::descendants(&[])?;
        let process = Pid::from_child(&command.spawn()?);
        // A process that has ended since the listing may have had the same ID.
        spared.retain(|spared| *spared != process);
        self.run = Some(Run {
            process,
            code: None,
            spared,
            stage: Stage::Running {
                until: clock::now() + self.time_limit,
            },
            kill_denial_reported: false,
        });
        Ok(())
    }

    /// Returns true iff there is a run.
    pub fn is_running(&self) -> bool {
        self.run.is_some()
    }

    /// Waits for the next event of the run, or forever while there is none.
    ///
    /// Cancel safe. It must also be awaited while there is no run, because nothing else reaps the
    /// children of this process.
    ///
    /// # Errors
    /// If no timer can be set.
    pub async fn next(&mut self) -> io::Result<RunEvent> {
        loop {
            self.reap_children();
            let Some(run) = &mut self.run else {
                self.child_ended.recv().await;
                continue;
            };
            let wake_at = match run.advance(clock::now()) {
                Step::Wait(wake_at) => wake_at,
                Step::Report(event) => {
                    if !matches!(event, RunEvent::KillDenied(_)) {
                        self.run = None;
                    }
                    return Ok(event);
                }
            };
            tokio::select! {
                _ = self.child_ended.recv() => {}
                result = self.alarm.wait_until(Some(wake_at)) => result?,
            }
        }
    }

    /// Kills the run and all that it has started, and waits until nothing of it is left.
    ///
    /// # Errors
    /// If no timer can be set.
    pub async fn kill(&mut self) -> io::Result<()> {
        if let Some(run) = &mut self.run {
            run.stage = Stage::Killing;
        }
        while self.is_running() {
            self.next().await?;
        }
        Ok(())
    }

    /// Reaps all children that have ended: those of the run, and those that earlier runs have left.
    fn reap_children(&mut self) {
        // What cannot be reaped now can be reaped later.
        while let Ok(reaped @ (Reaped::Ended(..) | Reaped::Suspended(_))) = reaping::reap() {
            if let (Reaped::Ended(child, end), Some(run)) = (reaped, &mut self.run) {
                if run.process == child {
                    run.code = Some(end.code());
                }
                run.spared.retain(|spared| *spared != child);
            }
        }
    }
}

/// What to do after [`Run::advance`].
enum Step {
    /// Wait until this moment, or until a child ends.
    Wait(Moment),
    Report(RunEvent),
}

impl Run {
    /// Does what is due at `now`.
    fn advance(&mut self, now: Moment) -> Step {
        if let Stage::Running { until } = self.stage {
            if let Some(code) = self.code {
                return Step::Report(RunEvent::Exited(code));
            }
            if now < until {
                return Step::Wait(until);
            }
            self.stage = Stage::Stopping {
                stopping: Stopping::begin(Signal::TERM, self.process, self.spared.clone()),
                until: now + TIME_TO_STOP,
            };
        }
        if let Stage::Stopping { stopping, until } = &mut self.stage {
            if now < *until {
                let others_are_left = stopping.signal_orphans();
                let children = reaping::children();
                if children.is_ok_and(|all| all.iter().all(|child| self.spared.contains(child))) {
                    return Step::Report(RunEvent::Killed);
                }
                // No signal reports that a process has become an orphan.
                let look_again_at = if others_are_left {
                    now + RETRY_INTERVAL
                } else {
                    *until
                };
                return Step::Wait(look_again_at.min(*until));
            }
            self.stage = Stage::Killing;
        }
        let remaining = reaping::kill_children(&self.spared);
        match remaining {
            Remaining::Nothing => Step::Report(RunEvent::Killed),
            Remaining::KillDenied(process) if !self.kill_denial_reported => {
                self.kill_denial_reported = true;
                Step::Report(RunEvent::KillDenied(process.as_raw_nonzero().get()))
            }
            _ => Step::Wait(now + remaining.next_round_in()),
        }
    }
}

/// Returns a file in memory that holds this text, positioned at its start. Unlike a pipe, it holds a text
/// of any length without a reader.
fn file_with(text: &str) -> io::Result<File> {
    let create = |flags| memfd_create("leader-election-state", MemfdFlags::CLOEXEC | flags);
    // Some systems require this flag; kernels before 6.3 do not know it.
    let file = create(MemfdFlags::NOEXEC_SEAL).or_else(|error| match error {
        Errno::INVAL => create(MemfdFlags::empty()),
        error => Err(error),
    })?;
    let mut file = File::from(file);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}
