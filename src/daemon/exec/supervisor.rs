//! Runs COMMAND in each term of this replica, one guarded run after the other.

use super::{
    children::Children,
    command_log::CommandLog,
    guarded_run::{GuardedRun, RunOutcome},
    reaping::{RETRY_INTERVAL, Remaining},
};
use crate::{
    clock::{self, Alarm},
    config::{Config, LeaderKey, Name},
    daemon::cli::CommandToRun,
    election::Leadership,
    protocol::{FencingToken, Status, Timing},
};
use rustix::process::Signal;
use std::{convert::Infallible, io};
use tokio::{
    signal::unix::{self, SignalKind},
    sync::watch,
};

/// Runs COMMAND in each term.
pub(in crate::daemon) struct Supervisor {
    name: Name,
    leader_key: LeaderKey,
    timing: Timing,
    stop_signal: Signal,
    status: watch::Receiver<Status>,
    child_ended: unix::Signal,
    alarm: Alarm,
    children: Children,
    log: CommandLog,
    /// The run of this term, and the leadership that is given back when it is over.
    run: Option<(GuardedRun, Leadership)>,
}

impl Supervisor {
    /// Prepares to run COMMAND.
    ///
    /// # Errors
    /// If the system is short of file descriptors.
    pub fn new(
        command: &CommandToRun,
        config: &Config,
        status: watch::Receiver<Status>,
        children: Children,
    ) -> io::Result<Self> {
        Ok(Self {
            name: config.name().clone(),
            leader_key: config.leader_key().clone(),
            timing: Timing::new(config.ttl().as_duration(), config.grace()),
            stop_signal: command.stop_signal,
            status,
            children,
            child_ended: unix::signal(SignalKind::child())?,
            alarm: Alarm::new()?,
            log: CommandLog::new(config.name(), &command.program),
            run: None,
        })
    }

    /// Runs COMMAND in a term.
    ///
    /// # Errors
    /// If no guard can be started.
    pub fn start(&mut self, leadership: Leadership) -> io::Result<()> {
        let environment = self.environment(leadership.token());
        let run = GuardedRun::start(
            leadership.term(),
            self.timing,
            self.stop_signal,
            &environment,
        )?;
        if let Some(guard) = run.guard() {
            self.children.spare(guard);
        }
        self.run = Some((run, leadership));
        Ok(())
    }

    /// Returns the variables that COMMAND gets in addition to this process's own.
    fn environment(&self, token: FencingToken) -> [(&'static str, String); 3] {
        let name = self.name.as_str().to_owned();
        let leader_key = self.leader_key.as_str().to_owned();
        [
            ("LEADER_ELECTION_NAME", name),
            ("LEADER_ELECTION_LEADER_KEY", leader_key),
            ("LEADER_ELECTION_TOKEN", token.to_string()),
        ]
    }

    /// Returns true iff COMMAND runs, or something of it is left.
    pub fn is_running(&self) -> bool {
        self.run.is_some()
    }

    /// Forwards a signal to COMMAND, if it runs.
    pub fn forward_signal(&self, signal: SignalKind) {
        if let Some((run, _)) = &self.run {
            run.forward_signal(signal.as_raw_value());
        }
    }

    /// Has COMMAND and all that it has started killed at once.
    pub fn kill(&mut self) {
        if let Some((run, _)) = &mut self.run {
            run.request_kill();
        }
    }

    /// Waits until a run has ended and nothing of COMMAND is left; forever while there is none.
    ///
    /// Cancel safe. It must be awaited also while there is no run, because nothing else reaps the
    /// children of this process.
    ///
    /// # Errors
    /// If no timer can be set.
    pub async fn run_ended(&mut self) -> io::Result<(RunOutcome, Leadership)> {
        loop {
            self.reap_children();
            let Some((run, _)) = &mut self.run else {
                match self.reap().await {}
            };
            run.receive_reports(&self.log);
            let guard_is_up_to_date = run.update_guard(&self.status.borrow_and_update());
            let remaining = run.must_kill().then(|| {
                if let Some(guard) = run.guard() {
                    self.children.give_up(guard);
                }
                self.children.kill_others()
            });
            if let Some(Remaining::KillDenied(process)) = remaining {
                run.log_kill_denied(process.as_raw_nonzero().get(), &self.log);
            }
            let is_over = |(run, _): &mut (GuardedRun, _)| run.is_over(remaining);
            if let Some((run, leadership)) = self.run.take_if(is_over) {
                let outcome = run.outcome();
                self.log.ended(outcome);
                return Ok((outcome, leadership));
            }
            let Some((run, _)) = &self.run else {
                continue;
            };
            let wake_at = match remaining {
                Some(remaining) => clock::now() + remaining.next_round_in(),
                None if guard_is_up_to_date => run.guard_late_at(),
                None => run.guard_late_at().min(clock::now() + RETRY_INTERVAL),
            };
            let election_runs = self.status.has_changed().is_ok();
            tokio::select! {
                _ = self.child_ended.recv() => {}
                _ = self.status.changed(), if election_runs => {}
                () = run.readable() => {}
                result = self.alarm.wait_until(Some(wake_at)) => result?,
            }
        }
    }

    /// Reaps children as they end, while COMMAND does not run: as PID 1 of a container, this process
    /// adopts orphans. Cancel safe.
    pub async fn reap(&mut self) -> Infallible {
        loop {
            self.reap_children();
            self.child_ended.recv().await;
        }
    }

    /// Reaps all children that have ended.
    fn reap_children(&mut self) {
        let Self { children, run, .. } = self;
        children.reap(|child, code| {
            if let Some((run, _)) = run
                && run.guard() == Some(child)
            {
                run.record_guard_end(code);
            }
        });
    }
}
