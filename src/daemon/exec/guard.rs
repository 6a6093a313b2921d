//! The guard: a process between the daemon and COMMAND that keeps COMMAND to its time.
//!
//! It has one thread, a clock of its own and no network, so that it kills in time even when the
//! daemon is stopped, starved or dead. What the daemon wants comes as lines on a socket; its end
//! means that the daemon is gone.

use super::{
    launch::GuardArguments,
    messages::{Order, Report, receive_stdin, take_lines},
    reaping::{self, RETRY_INTERVAL, Reaped, Remaining},
    schedule::Schedule,
};
use crate::{clock, protocol::Moment};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fd::{AsFd, OwnedFd},
    io::Errno,
    process::{Pid, Signal, kill_process, kill_process_group},
};
use std::{
    ffi::OsString,
    io::{self, ErrorKind, Read, Write},
    os::unix::{net::UnixStream, process::CommandExt},
    process::{Command, ExitCode, Stdio},
    sync::{Arc, atomic::AtomicBool},
    thread,
};

/// What concerns this program alone, and is not in COMMAND's environment.
const OURS_ALONE: [&str; 2] = ["LEADER_ELECTION_ETCD_PASSWORD", "NOTIFY_SOCKET"];

/// Signals that may reach a guard, and are the daemon's to answer.
const NOT_FOR_US: [Signal; 6] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::TERM,
    Signal::USR1,
    Signal::USR2,
];

/// Runs this process as a guard, if the arguments ask for that.
pub(in crate::daemon) fn run_if_guard(
    arguments: impl Iterator<Item = OsString>,
) -> Option<ExitCode> {
    let arguments = GuardArguments::parse(arguments)?;
    let result = Guard::new(&arguments.command).and_then(|guard| match guard.guard() {
        End::Reported => Ok(()),
        End::DaemonGone => arguments.release_lease(),
    });
    Some(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If standard error is closed, the exit code still tells the daemon of the failure.
            let _ = writeln!(io::stderr(), "WARN the guard of a COMMAND failed: {error}");
            ExitCode::FAILURE
        }
    })
}

/// How guarding ended; nothing of COMMAND is left.
enum End {
    /// With COMMAND, and the daemon knows.
    Reported,
    /// With the daemon.
    DaemonGone,
}

struct Guard {
    command: Command,
    daemon: UnixStream,
    daemon_is_gone: bool,
    unread: Vec<u8>,
    child_ended: UnixStream,
    timer: OwnedFd,
    /// Whether there will never be a COMMAND.
    never_runs: bool,
    running: Option<Running>,
    /// Whether the daemon knows of a process that cannot be killed.
    told_not_ours: bool,
}

struct Running {
    process: Pid,
    schedule: Schedule,
    /// The exit code, and whether it had been told to stop.
    ended: Option<(u8, bool)>,
}

impl Guard {
    fn new(command: &[OsString]) -> io::Result<Self> {
        reaping::become_subreaper()?;
        rustix::thread::set_name(c"leader-guard")?;
        for signal in NOT_FOR_US {
            // Handled, not ignored: COMMAND would inherit that.
            signal_hook::flag::register(signal.as_raw(), Arc::new(AtomicBool::new(false)))?;
        }
        let (child_ended, tell) = UnixStream::pair()?;
        child_ended.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(Signal::CHILD.as_raw(), tell)?;

        let daemon = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let stdin = receive_stdin(&daemon)?;
        daemon.set_nonblocking(true)?;
        let (program, arguments) = command.split_first().ok_or(ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
            .process_group(0);
        for variable in OURS_ALONE {
            command.env_remove(variable);
        }
        Ok(Self {
            command,
            daemon,
            daemon_is_gone: false,
            unread: Vec::new(),
            child_ended,
            timer: clock::create_timer()?,
            never_runs: false,
            running: None,
            told_not_ours: false,
        })
    }

    /// Runs COMMAND in its time, and returns when nothing of it is left.
    fn guard(mut self) -> End {
        loop {
            if self.obey().is_err() {
                // As good as gone: it makes no sense, or cannot be heard.
                self.daemon_is_gone = true;
            }
            let any_left = self.reap();
            let now = clock::now();
            let mut wake = None;
            if let Some(running) = &mut self.running {
                if running.ended.is_none() && running.schedule.begin_stop(now) {
                    tell_to_stop(running.process);
                }
                if self.daemon_is_gone
                    || running.ended.is_some()
                    || running.schedule.is_kill_due(now)
                {
                    let left = reaping::kill_children(&[]);
                    wake = Some(now + left.next_round_in());
                    if let Remaining::KillDenied(process) = left {
                        self.tell_not_ours(process);
                    }
                } else {
                    wake = Some(running.schedule.next_step_at());
                }
            }
            if !any_left {
                if self.daemon_is_gone {
                    return End::DaemonGone;
                }
                if let Some(Running {
                    ended: Some((code, was_told)),
                    ..
                }) = self.running
                {
                    self.report(Report::Ended { code, was_told });
                    return End::Reported;
                }
                if self.never_runs {
                    return End::Reported;
                }
            }
            if self.wait(wake).is_err() {
                thread::sleep(RETRY_INTERVAL);
            }
        }
    }

    /// Does what the daemon has said since.
    fn obey(&mut self) -> io::Result<()> {
        let mut buffer = [0; 512];
        while !self.daemon_is_gone {
            match self.daemon.read(&mut buffer) {
                Ok(0) => self.daemon_is_gone = true,
                Ok(length) => self.unread.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let mut time = None;
        for order in take_lines(&mut self.unread)? {
            match (order, &mut self.running) {
                (Order::Lead { stop_at, kill_at }, None) => time = Some((stop_at, kill_at)),
                (Order::Stop { .. }, None) => time = Some((Moment::default(), Moment::default())),
                (Order::Lead { stop_at, kill_at }, Some(running)) => {
                    running.schedule.renew(stop_at, kill_at);
                }
                (Order::Stop { kill_at }, Some(running)) => {
                    running.schedule.order_stop(clock::now(), kill_at);
                }
                (Order::Signal(signal), Some(running)) if running.ended.is_none() => {
                    // COMMAND may have ended, and is not reaped yet.
                    let signal = Signal::from_named_raw(signal);
                    signal.map(|signal| kill_process(running.process, signal));
                }
                (Order::Signal(_), _) => {}
            }
        }
        if let Some((stop_at, kill_at)) = time
            && !self.never_runs
        {
            self.start(stop_at, kill_at);
        }
        Ok(())
    }

    /// Starts COMMAND if there is time, and tells the daemon how that went.
    fn start(&mut self, stop_at: Moment, kill_at: Moment) {
        if clock::now() >= stop_at {
            self.never_runs = true;
            return self.report(Report::Ended {
                code: 0,
                was_told: true,
            });
        }
        let report = match self.command.spawn() {
            Ok(child) => {
                let process = Pid::from_child(&child);
                self.running = Some(Running {
                    process,
                    schedule: Schedule::new(stop_at, kill_at),
                    ended: None,
                });
                Report::Started {
                    process: process.as_raw_nonzero().get(),
                }
            }
            Err(error) => {
                self.never_runs = true;
                Report::NotStarted {
                    error: error.raw_os_error().unwrap_or_default(),
                }
            }
        };
        self.report(report);
    }

    /// Reaps all that has ended; returns true iff anything is left.
    fn reap(&mut self) -> bool {
        loop {
            match reaping::reap() {
                Ok(Reaped::Ended(child, code)) => {
                    if let Some(running) = &mut self.running
                        && running.process == child
                    {
                        running.ended = Some((code, running.schedule.is_stopping()));
                    }
                }
                // Whoever did that may have had reasons.
                Ok(Reaped::Stopped(_)) => {}
                Ok(Reaped::NoneEnded) | Err(_) => return true,
                Ok(Reaped::NoChildren) => return false,
            }
        }
    }

    /// Says once that a process cannot be killed.
    fn tell_not_ours(&mut self, process: Pid) {
        if !std::mem::replace(&mut self.told_not_ours, true) {
            let process = process.as_raw_nonzero().get();
            self.report(Report::NotOurs { process });
        }
    }

    /// Waits until `wake`, if there is such a moment, or until something happens.
    fn wait(&mut self, wake: Option<Moment>) -> io::Result<()> {
        if let Some(wake) = wake {
            clock::set_timer(&self.timer, wake)?;
        }
        let mut sources = [
            PollFd::new(&self.child_ended, PollFlags::IN),
            PollFd::new(&self.timer, PollFlags::IN),
            PollFd::new(&self.daemon, PollFlags::IN),
        ];
        // The end of a daemon that is gone would be told for ever.
        let sources = if self.daemon_is_gone {
            &mut sources[..2]
        } else {
            &mut sources[..]
        };
        match poll(sources, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        // Each byte is a child that has ended; all of them are looked for anyway.
        let _ = self.child_ended.read(&mut [0; 512]);
        Ok(())
    }

    fn report(&self, report: Report) {
        // It fails if the daemon is gone, and that is noticed when it is listened to.
        let _ = (&self.daemon).write_all(report.to_string().as_bytes());
    }
}

/// Asks COMMAND, with all of its process group, to end; whoever was stopped can do that too.
fn tell_to_stop(command: Pid) {
    for signal in [Signal::TERM, Signal::CONT] {
        // COMMAND may have gone to another group.
        if kill_process_group(command, signal).is_err() {
            let _ = kill_process(command, signal);
        }
    }
}
