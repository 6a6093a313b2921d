//! The guard: a process between the daemon and COMMAND that stops and kills COMMAND in time.
//!
//! The guard has one thread, its own clock and no network. So it kills COMMAND in time even if the
//! daemon is stopped, gets no processor time or is dead. The daemon sends its orders over a socket.
//! The end of that socket means that the daemon is gone.

use super::{
    environment::remove_private_variables,
    helper,
    launch::GuardArguments,
    messages::{Order, Report, receive_stdin, take_lines},
    reaping::{self, RETRY_INTERVAL, Reaped, Remaining},
    schedule::Schedule,
    stopping::Stopping,
};
use crate::{clock, protocol::Moment};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fd::{AsFd, OwnedFd},
    io::Errno,
    process::{Pid, Signal, getpgid, kill_process, kill_process_group},
};
use std::{
    ffi::OsString,
    io::{self, ErrorKind, Read, Write},
    os::unix::{net::UnixStream, process::CommandExt},
    process::{Command, ExitCode, Stdio},
    thread,
};

/// Runs this process as a guard, if the arguments ask for that.
pub(in crate::daemon) fn run_if_guard(
    arguments: impl Iterator<Item = OsString>,
) -> Option<ExitCode> {
    let arguments = GuardArguments::parse(arguments)?;
    let result = CommandGuard::new(&arguments).and_then(|guard| match guard.run() {
        GuardEnd::Reported => Ok(()),
        GuardEnd::DaemonGone => arguments.run_release(),
    });
    Some(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If standard error is closed, the daemon still learns of the failure from the exit code.
            let _ = writeln!(io::stderr(), "WARN the guard of a COMMAND failed: {error}");
            ExitCode::FAILURE
        }
    })
}

/// How the work of a guard ended. Nothing of COMMAND is left.
enum GuardEnd {
    /// COMMAND ended or never ran, and the guard has reported that.
    Reported,
    /// The daemon is gone.
    DaemonGone,
}

struct CommandGuard {
    command: Command,
    stop_signal: Signal,
    daemon: UnixStream,
    daemon_is_gone: bool,
    /// What was read from the daemon and is no whole line yet.
    unread: Vec<u8>,
    /// Becomes readable when a child ends.
    child_ended: UnixStream,
    timer: OwnedFd,
    progress: Progress,
    kill_denial_reported: bool,
}

/// How far COMMAND has got.
enum Progress {
    /// COMMAND starts with the first order of the daemon.
    AwaitingOrder,
    /// COMMAND has started. The report is sent once nothing of COMMAND is left.
    Started(Run),
    /// COMMAND never ran.
    NotRun(Report),
}

/// COMMAND and all that it has started.
struct Run {
    /// COMMAND's own process, and its process group.
    command: Pid,
    schedule: Schedule,
    stopping: Option<Stopping>,
    /// Whether COMMAND's own process has ended, so that its number may be another's.
    has_ended: bool,
    /// How COMMAND's own process has ended.
    report: Option<Report>,
}

impl CommandGuard {
    fn new(arguments: &GuardArguments) -> io::Result<Self> {
        let child_ended = helper::begin(c"leader-guard", Some(arguments.stop_signal))?;
        let daemon = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let stdin = receive_stdin(&daemon)?;
        daemon.set_nonblocking(true)?;
        let words = arguments.command.split_first();
        let (program, words) = words.ok_or(ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command
            .args(words)
            .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
            .process_group(0);
        remove_private_variables(&mut command);
        Ok(Self {
            command,
            stop_signal: arguments.stop_signal,
            daemon,
            daemon_is_gone: false,
            unread: Vec::new(),
            child_ended,
            timer: clock::create_timer()?,
            progress: Progress::AwaitingOrder,
            kill_denial_reported: false,
        })
    }

    /// Runs COMMAND for as long as the daemon's orders allow, and returns when nothing of COMMAND is
    /// left.
    fn run(mut self) -> GuardEnd {
        loop {
            self.take_orders();
            if !self.reap_children() {
                if self.daemon_is_gone {
                    return GuardEnd::DaemonGone;
                }
                let report = match &self.progress {
                    Progress::AwaitingOrder => None,
                    Progress::Started(run) => run.report,
                    Progress::NotRun(report) => Some(*report),
                };
                if let Some(report) = report {
                    self.send(report);
                    return GuardEnd::Reported;
                }
            }
            let wake_at = self.stop_or_kill(clock::now());
            if self.wait_until(wake_at).is_err() {
                thread::sleep(RETRY_INTERVAL);
            }
        }
    }

    /// Follows the orders that have arrived.
    fn take_orders(&mut self) {
        match self.receive_orders() {
            Ok(orders) => self.follow(orders),
            // A daemon that cannot be read, or sends nonsense, is as good as gone.
            Err(_) => self.daemon_is_gone = true,
        }
    }

    /// Reads the orders that have arrived.
    ///
    /// # Errors
    /// If the socket fails, or an order makes no sense.
    fn receive_orders(&mut self) -> io::Result<Vec<Order>> {
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
        take_lines(&mut self.unread)
    }

    fn follow(&mut self, orders: Vec<Order>) {
        match &mut self.progress {
            Progress::AwaitingOrder => {
                // Only the last order counts: after a pause, an outdated one must not start COMMAND.
                let is_signal = |order: &Order| matches!(order, Order::Signal(_));
                match orders.into_iter().rfind(|order| !is_signal(order)) {
                    Some(Order::Run { stop_at, kill_at }) => self.start(stop_at, kill_at),
                    Some(Order::Stop { .. }) => self.progress = Progress::NotRun(Report::Stopped),
                    Some(Order::Signal(_)) | None => {}
                }
            }
            Progress::Started(run) => orders.into_iter().for_each(|order| run.follow(order)),
            Progress::NotRun(_) => {}
        }
    }

    /// Starts COMMAND, unless its time is over already.
    fn start(&mut self, stop_at: Moment, kill_at: Moment) {
        self.progress = if clock::now() >= stop_at {
            Progress::NotRun(Report::Stopped)
        } else {
            match self.command.spawn() {
                Ok(child) => {
                    let command = Pid::from_child(&child);
                    self.send(Report::Started {
                        process: command.as_raw_nonzero().get(),
                    });
                    Progress::Started(Run {
                        command,
                        schedule: Schedule::new(stop_at, kill_at),
                        stopping: None,
                        has_ended: false,
                        report: None,
                    })
                }
                Err(error) => Progress::NotRun(Report::NotStarted {
                    error: Errno::from_io_error(&error)
                        .unwrap_or(Errno::INVAL)
                        .raw_os_error(),
                }),
            }
        };
    }

    /// Reaps all children that have ended; returns true iff any child is left.
    fn reap_children(&mut self) -> bool {
        loop {
            match reaping::reap() {
                Ok(Reaped::Ended(child, end)) => {
                    let Progress::Started(run) = &mut self.progress else {
                        continue;
                    };
                    if run.command != child {
                        continue;
                    }
                    run.has_ended = true;
                    // An order that was sent before the end counts, although it came after the last look.
                    self.take_orders();
                    if let Progress::Started(run) = &mut self.progress {
                        run.record_end(end.code(), self.stop_signal);
                    }
                }
                // COMMAND may suspend itself and its descendants.
                Ok(Reaped::Suspended(_)) => {}
                Ok(Reaped::NoneEnded) | Err(_) => return true,
                Ok(Reaped::NoChildren) => return false,
            }
        }
    }

    /// Tells COMMAND to stop, or kills all that is left of it, if that is due at `now`; returns when
    /// to look again.
    fn stop_or_kill(&mut self, now: Moment) -> Option<Moment> {
        match &mut self.progress {
            Progress::AwaitingOrder => return None,
            Progress::Started(run) => {
                let look_again_at = run.stop(now, self.stop_signal);
                if !self.daemon_is_gone && !run.schedule.is_kill_due(now) {
                    return Some(look_again_at);
                }
            }
            Progress::NotRun(_) => {}
        }
        let remaining = reaping::kill_children(&[]);
        if let Remaining::KillDenied(process) = remaining
            && !self.kill_denial_reported
        {
            self.kill_denial_reported = true;
            self.send(Report::KillDenied {
                process: process.as_raw_nonzero().get(),
            });
        }
        Some(now + remaining.next_round_in())
    }

    /// Waits until `wake_at`, if there is such a moment, or until a child ends or the daemon sends
    /// something.
    fn wait_until(&mut self, wake_at: Option<Moment>) -> io::Result<()> {
        if let Some(wake_at) = wake_at {
            clock::set_timer(&self.timer, wake_at)?;
        }
        let mut sources = [
            PollFd::new(&self.child_ended, PollFlags::IN),
            PollFd::new(&self.timer, PollFlags::IN),
            PollFd::new(&self.daemon, PollFlags::IN),
        ];
        // The socket of a daemon that is gone is always readable.
        let sources = if self.daemon_is_gone {
            &mut sources[..2]
        } else {
            &mut sources[..]
        };
        match poll(sources, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        // Each byte stands for a child; all children are looked at anyway.
        let _ = self.child_ended.read(&mut [0; 512]);
        Ok(())
    }

    fn send(&self, report: Report) {
        // This fails if the daemon is gone, which the next read finds out.
        let _ = (&self.daemon).write_all(report.to_string().as_bytes());
    }
}

impl Run {
    fn follow(&mut self, order: Order) {
        match order {
            Order::Run { stop_at, kill_at } => self.schedule.renew(stop_at, kill_at),
            Order::Stop { kill_at } => self.schedule.order_stop(clock::now(), kill_at),
            Order::Signal(signal) if !self.has_ended => {
                if let Some(signal) = Signal::from_named_raw(signal) {
                    // These fail if nothing is left in the group, or COMMAND has ended.
                    let _ = kill_process_group(self.command, signal);
                    if getpgid(Some(self.command)) != Ok(self.command) {
                        let _ = kill_process(self.command, signal);
                    }
                }
            }
            Order::Signal(_) => {}
        }
    }

    /// Records that COMMAND's own process has ended. What it has left behind goes on with the stop, or
    /// begins with it.
    fn record_end(&mut self, code: u8, stop_signal: Signal) {
        let now = clock::now();
        // The order to stop may have come together with the end.
        if self.schedule.is_stopping() || self.schedule.is_stop_ordered() {
            self.report = Some(Report::Stopped);
            self.schedule.begin_stop(now);
        } else {
            self.report = Some(Report::Exited { code });
            self.schedule.stop_leftovers(now);
        }
        if self.stopping.is_none() {
            let stopping = Stopping::begin_without_command(stop_signal, self.command, Vec::new());
            self.stopping = Some(stopping);
        }
    }

    /// Tells COMMAND to stop, if that is due at `now`; returns when to look again.
    fn stop(&mut self, now: Moment, signal: Signal) -> Moment {
        if self.schedule.begin_stop(now) {
            self.stopping = Some(Stopping::begin(signal, self.command, Vec::new()));
        }
        let next = self.schedule.next_step_at();
        let stopping = self.stopping.as_mut();
        // No signal says that a process has become an orphan.
        if stopping.is_some_and(Stopping::signal_orphans) {
            next.min(now + RETRY_INTERVAL)
        } else {
            next
        }
    }
}
