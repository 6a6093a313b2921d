//! The health runner: a process that runs the health command at each interval, and lets no process of a run
//! survive.
//!
//! When the health command's own process has ended, or has taken too long, the runner kills all processes of
//! the run that are left. The end of the runner's socket means that the daemon is gone. Then the runner kills
//! everything at once, and ends.

use super::{
    report::{Outcome, Report},
    run::Run,
};
use crate::{
    clock,
    daemon::exec::{
        helper,
        launch::HealthArguments,
        reaping::{self, RETRY_INTERVAL, Reaped, Remaining},
    },
    protocol::Moment,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fd::{AsFd, OwnedFd},
    io::Errno,
};
use std::{
    ffi::OsString,
    io::{self, ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    process::ExitCode,
    thread,
};

/// Runs this process as the health runner, if the arguments ask for that.
pub(in crate::daemon) fn run_if_health_runner(
    arguments: impl Iterator<Item = OsString>,
) -> Option<ExitCode> {
    let arguments = HealthArguments::parse(arguments)?;
    let result = io::stdin().as_fd().try_clone_to_owned().and_then(|stdin| {
        let mut daemon = UnixStream::from(stdin);
        Runner::new(arguments, daemon.try_clone()?)
            .inspect_err(|error| {
                // If this fails, the daemon is gone.
                let _ = write!(daemon, "{}", Report::Failed(error.to_string()));
            })
            .map(Runner::run)
    });
    Some(result.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS))
}

struct Runner {
    arguments: HealthArguments,
    daemon: UnixStream,
    daemon_is_gone: bool,
    /// What the daemon has not taken yet. No run begins meanwhile.
    unsent: Vec<u8>,
    /// Becomes readable when a child ends.
    child_ended: UnixStream,
    timer: OwnedFd,
    next_start: Moment,
    run: Option<Run>,
}

impl Runner {
    fn new(arguments: HealthArguments, daemon: UnixStream) -> io::Result<Self> {
        let child_ended = helper::begin(c"leader-health", None)?;
        daemon.set_nonblocking(true)?;
        Ok(Self {
            arguments,
            daemon,
            daemon_is_gone: false,
            unsent: Vec::new(),
            child_ended,
            timer: clock::create_timer()?,
            next_start: clock::now(),
            run: None,
        })
    }

    /// Runs the health command until the daemon is gone, and returns when nothing of it is left.
    fn run(mut self) {
        loop {
            self.look_at_daemon();
            if let Some(run) = &mut self.run {
                run.read_output();
            }
            let is_child_left = self.reap_children();
            let now = clock::now();
            let wake_at = if !self.daemon_is_gone {
                self.advance(now, is_child_left)
            } else if is_child_left {
                reaping::kill_children(&[]);
                now + RETRY_INTERVAL
            } else {
                // If the daemon has only asked this process to stop, it still reads.
                self.unsent.extend(Report::Stopped.to_string().into_bytes());
                self.send();
                return;
            };
            self.send();
            if self.wait_until(wake_at).is_err() {
                thread::sleep(RETRY_INTERVAL);
            }
        }
    }

    /// Finds out whether the daemon is gone; it sends nothing.
    fn look_at_daemon(&mut self) {
        match self.daemon.read(&mut [0; 64]) {
            Ok(1..) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => self.daemon_is_gone = true,
        }
    }

    /// Reaps all children that have ended; returns true iff any child is left.
    fn reap_children(&mut self) -> bool {
        loop {
            match reaping::reap() {
                Ok(Reaped::Ended(child, end)) => {
                    if let Some(run) = &mut self.run {
                        run.record_end(child, end);
                    }
                }
                Ok(Reaped::Suspended(_)) => {}
                Ok(Reaped::NoneEnded) | Err(_) => return true,
                Ok(Reaped::NoChildren) => return false,
            }
        }
    }

    /// Does what is due at `now`; returns when to look again.
    fn advance(&mut self, now: Moment, is_child_left: bool) -> Moment {
        if let Some(run) = &mut self.run {
            if run.outcome.is_none() && now < run.until {
                return run.until;
            }
            let outcome = *run.outcome.get_or_insert(Outcome::TookTooLong);
            if is_child_left {
                return self.kill(now, outcome);
            }
            run.read_rest();
            if !run.is_reported {
                let report = run.report(outcome);
                self.unsent.extend(report.into_bytes());
            }
            self.run = None;
        }
        if now < self.next_start || !self.unsent.is_empty() {
            // The daemon taking something wakes this process as well.
            return self.next_start.max(now + RETRY_INTERVAL);
        }
        let until = now + self.arguments.timeout;
        self.plan_next(now);
        match Run::start(&self.arguments.command, until) {
            Ok(run) => {
                self.run = Some(run);
                until
            }
            Err(error) => {
                let error = Errno::from_io_error(&error).unwrap_or(Errno::INVAL);
                self.report(Outcome::NotStarted(error.raw_os_error()));
                self.next_start
            }
        }
    }

    /// Kills what is left of the run; returns when to look again, unless a child ends before.
    fn kill(&mut self, now: Moment, outcome: Outcome) -> Moment {
        let remaining = reaping::kill_children(&[]);
        let is_reported = match &mut self.run {
            Some(run) if !run.is_reported && now >= run.until => {
                let report = run.report(outcome);
                self.unsent.extend(report.into_bytes());
                true
            }
            Some(run) => run.is_reported,
            None => false,
        };
        // A process that cannot be killed, such as one that waits for a broken disk, must not keep this
        // replica healthy.
        if is_reported && now >= self.next_start && self.unsent.is_empty() {
            self.plan_next(now);
            let denied = match remaining {
                Remaining::KillDenied(process) => Some(process),
                _ => reaping::children()
                    .ok()
                    .and_then(|all| all.first().copied()),
            };
            let process = denied.map_or(0, |process| process.as_raw_nonzero().get());
            self.report(Outcome::Blocked(process));
        }
        now + RETRY_INTERVAL
    }

    /// Plans the start after one that is due at `now`.
    fn plan_next(&mut self, now: Moment) {
        let next = self.next_start + self.arguments.interval;
        // After a pause, what was due meanwhile is left out.
        self.next_start = if next > now {
            next
        } else {
            now + self.arguments.interval
        };
    }

    fn report(&mut self, outcome: Outcome) {
        let report = Report::Run(outcome).to_string();
        self.unsent.extend(report.into_bytes());
    }

    /// Sends as much as the daemon takes.
    fn send(&mut self) {
        while !self.unsent.is_empty() {
            match self.daemon.write(&self.unsent) {
                Ok(length) => drop(self.unsent.drain(..length)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // The daemon is gone, which the next look finds out.
                Err(_) => return,
            }
        }
    }

    /// Waits until `wake_at`, until a child ends or prints something, or until the daemon is gone or takes
    /// more.
    fn wait_until(&mut self, wake_at: Moment) -> io::Result<()> {
        clock::set_timer(&self.timer, wake_at)?;
        let mut sources = vec![
            PollFd::new(&self.child_ended, PollFlags::IN),
            PollFd::new(&self.timer, PollFlags::IN),
        ];
        // The socket of a daemon that is gone is always ready.
        if !self.daemon_is_gone {
            let mut flags = PollFlags::IN;
            flags.set(PollFlags::OUT, !self.unsent.is_empty());
            sources.push(PollFd::new(&self.daemon, flags));
        }
        let output = self.run.as_ref().and_then(Run::output);
        sources.extend(output.map(|output| PollFd::new(output, PollFlags::IN)));
        match poll(&mut sources, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        // Each byte stands for a child; all children are looked at anyway.
        let _ = self.child_ended.read(&mut [0; 512]);
        Ok(())
    }
}
