//! The guard: a process between the daemon and COMMAND that stops and kills COMMAND in time.
//!
//! The guard has one thread, a clock of its own and no network, so that it kills in time even if
//! the daemon is stopped, starved or dead. The daemon sends its orders over a socket; the end of
//! that socket means that the daemon is gone.

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

/// Variables that are meant for this program alone, and are removed from COMMAND's environment.
const PRIVATE_VARIABLES: [&str; 2] = ["LEADER_ELECTION_ETCD_PASSWORD", "NOTIFY_SOCKET"];

/// Signals that may reach a guard together with its daemon, and that only the daemon acts on.
const IGNORED_SIGNALS: [Signal; 6] = [
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
    let result = Guard::new(&arguments.command).and_then(|guard| match guard.run() {
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

struct Guard {
    command: Command,
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
    Running {
        process: Pid,
        schedule: Schedule,
    },
    /// COMMAND has ended, or never ran. The report is sent once nothing of COMMAND is left.
    Over(Report),
}

impl Guard {
    fn new(command: &[OsString]) -> io::Result<Self> {
        reaping::become_subreaper()?;
        rustix::thread::set_name(c"leader-guard")?;
        for signal in IGNORED_SIGNALS {
            // A handler that does nothing, because COMMAND would inherit that a signal is ignored.
            signal_hook::flag::register(signal.as_raw(), Arc::new(AtomicBool::new(false)))?;
        }
        let (child_ended, writer) = UnixStream::pair()?;
        child_ended.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(Signal::CHILD.as_raw(), writer)?;

        let daemon = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let stdin = receive_stdin(&daemon)?;
        daemon.set_nonblocking(true)?;
        let (program, arguments) = command.split_first().ok_or(ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
            .process_group(0);
        for variable in PRIVATE_VARIABLES {
            command.env_remove(variable);
        }
        Ok(Self {
            command,
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
            match self.receive_orders() {
                Ok(orders) => self.follow(orders),
                // A daemon that cannot be read, or sends nonsense, is as good as gone.
                Err(_) => self.daemon_is_gone = true,
            }
            if !self.reap_children() {
                if self.daemon_is_gone {
                    return GuardEnd::DaemonGone;
                }
                if let Progress::Over(report) = self.progress {
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
                    Some(Order::Stop { .. }) => self.progress = Progress::Over(Report::Stopped),
                    Some(Order::Signal(_)) | None => {}
                }
            }
            Progress::Running { process, schedule } => {
                for order in orders {
                    match order {
                        Order::Run { stop_at, kill_at } => schedule.renew(stop_at, kill_at),
                        Order::Stop { kill_at } => schedule.order_stop(clock::now(), kill_at),
                        Order::Signal(signal) => {
                            if let Some(signal) = Signal::from_named_raw(signal) {
                                // This fails if COMMAND has ended and is not reaped yet.
                                let _ = kill_process(*process, signal);
                            }
                        }
                    }
                }
            }
            Progress::Over(_) => {}
        }
    }

    /// Starts COMMAND, unless its time is over already.
    fn start(&mut self, stop_at: Moment, kill_at: Moment) {
        self.progress = if clock::now() >= stop_at {
            Progress::Over(Report::Stopped)
        } else {
            match self.command.spawn() {
                Ok(child) => {
                    let process = Pid::from_child(&child);
                    self.send(Report::Started {
                        process: process.as_raw_nonzero().get(),
                    });
                    Progress::Running {
                        process,
                        schedule: Schedule::new(stop_at, kill_at),
                    }
                }
                Err(error) => Progress::Over(Report::NotStarted {
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
                Ok(Reaped::Ended(child, code)) => {
                    if let Progress::Running { process, schedule } = &self.progress
                        && *process == child
                    {
                        self.progress = Progress::Over(if schedule.is_stopping() {
                            Report::Stopped
                        } else {
                            Report::Exited { code }
                        });
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
            Progress::Running { process, schedule } => {
                if schedule.begin_stop(now) {
                    send_stop_signal(*process);
                }
                if !self.daemon_is_gone && !schedule.is_kill_due(now) {
                    return Some(schedule.next_step_at());
                }
            }
            Progress::Over(_) => {}
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

/// Sends SIGTERM to COMMAND's process group, and SIGCONT, because a stopped process does not react
/// to SIGTERM.
fn send_stop_signal(command: Pid) {
    for signal in [Signal::TERM, Signal::CONT] {
        // COMMAND may have moved to another process group.
        if kill_process_group(command, signal).is_err() {
            let _ = kill_process(command, signal);
        }
    }
}
