//! The daemon's side of one run of COMMAND under a guard. It sends orders to the guard, receives
//! the guard's reports, and decides when the daemon must kill COMMAND instead of the guard.

use super::{
    command_log::CommandLog,
    launch::start_guard,
    messages::{Order, Report, take_lines},
    reaping::Remaining,
};
use crate::{
    clock,
    protocol::{Moment, Role, Status, Term, Timing},
};
use rustix::{
    net::{SendFlags, send},
    process::{Pid, Signal},
};
use std::io::{self, ErrorKind};
use tokio::net::UnixStream;

/// How a run of COMMAND ended. Nothing of COMMAND is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon) enum RunOutcome {
    /// COMMAND was asked to stop; or it was not started, because its time was over.
    Stopped,
    /// COMMAND ended by itself with this exit code.
    Exited(u8),
    /// The system did not run COMMAND, for the reason with this error number.
    NotStarted(i32),
    /// The guard failed.
    GuardFailed,
    /// The guard was killed.
    GuardKilled,
    /// The guard did not kill COMMAND in time.
    GuardLate,
}

/// A run of COMMAND in one term.
pub(super) struct GuardedRun {
    term: Term,
    timing: Timing,
    guard: GuardProcess,
    socket: UnixStream,
    socket_has_ended: bool,
    /// What was read from the guard and is no whole line yet.
    unread: Vec<u8>,
    last_order_sent: Option<Order>,
    /// When the guard must kill, by the last order.
    kill_at: Moment,
    kill_requested_at: Option<Moment>,
    /// The outcome that the guard has reported.
    outcome: Option<RunOutcome>,
    /// Whether this process kills in place of the guard, which has not done so in time, or sends
    /// nonsense.
    guard_is_late: bool,
    kill_denial_logged: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GuardProcess {
    /// The guard runs as this process, or is not reaped yet.
    Running(Pid),
    /// The guard has ended with this exit code, 128 + n for signal n.
    Ended(u8),
}

impl GuardedRun {
    /// Starts a guard that runs COMMAND once it has its first order.
    ///
    /// # Errors
    /// If the system is short of processes or file descriptors.
    pub fn start(
        term: Term,
        timing: Timing,
        stop_signal: Signal,
        environment: &[(&str, String)],
    ) -> io::Result<Self> {
        let (guard, socket) = start_guard(term.lease, stop_signal, environment)?;
        Ok(Self::new(term, timing, guard, socket))
    }

    fn new(term: Term, timing: Timing, guard: Pid, socket: UnixStream) -> Self {
        Self {
            term,
            timing,
            guard: GuardProcess::Running(guard),
            socket,
            socket_has_ended: false,
            unread: Vec::new(),
            last_order_sent: None,
            kill_at: clock::now(),
            kill_requested_at: None,
            outcome: None,
            guard_is_late: false,
            kill_denial_logged: false,
        }
    }

    /// Sends COMMAND's process group a signal through the guard. It is lost if the guard cannot take it now.
    pub fn forward_signal(&self, signal: i32) {
        self.send(Order::Signal(signal));
    }

    /// Requests that COMMAND and all that it has started are killed at once.
    pub fn request_kill(&mut self) {
        self.kill_requested_at = Some(clock::now());
    }

    /// Returns the guard's process, unless it was reaped.
    pub fn guard(&self) -> Option<Pid> {
        match self.guard {
            GuardProcess::Running(guard) => Some(guard),
            GuardProcess::Ended(_) => None,
        }
    }

    /// Records that the guard has ended and was reaped.
    pub fn record_guard_end(&mut self, code: u8) {
        self.guard = GuardProcess::Ended(code);
    }

    /// Waits until the guard has sent something; forever once its socket has ended. Cancel safe.
    pub async fn readable(&self) {
        if self.socket_has_ended {
            return std::future::pending().await;
        }
        // If this fails, reading finds out why.
        let _ = self.socket.readable().await;
    }

    /// Receives and logs what the guard has sent.
    pub fn receive_reports(&mut self, log: &CommandLog) {
        let mut buffer = [0; 512];
        while !self.socket_has_ended {
            match self.socket.try_read(&mut buffer) {
                Ok(length @ 1..) => self.unread.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Ok(0) | Err(_) => self.socket_has_ended = true,
            }
        }
        let Ok(reports) = take_lines(&mut self.unread) else {
            // A guard that sends nonsense cannot be relied on to kill in time.
            self.guard_is_late = true;
            return;
        };
        for report in reports {
            match report {
                Report::Started { process } => {
                    log.started(process, self.guard(), self.term.token);
                }
                Report::NotStarted { error } => self.outcome = Some(RunOutcome::NotStarted(error)),
                Report::Stopped => self.outcome = Some(RunOutcome::Stopped),
                Report::Exited { code } => self.outcome = Some(RunOutcome::Exited(code)),
                Report::KillDenied { process } => self.log_kill_denied(process, log),
            }
        }
    }

    /// Logs, once in a run, that a process of COMMAND cannot be killed.
    pub fn log_kill_denied(&mut self, process: i32, log: &CommandLog) {
        if !self.kill_denial_logged {
            self.kill_denial_logged = true;
            log.kill_denied(process);
        }
    }

    /// Sends the guard the order that follows from the status of the election, unless the guard has
    /// it already. Returns false if the guard cannot take it now; it then follows the order before.
    pub fn update_guard(&mut self, status: &Status) -> bool {
        let (order, kill_at) = self.order_by(status);
        self.kill_at = kill_at;
        if self.last_order_sent != Some(order) && self.send(order) {
            self.last_order_sent = Some(order);
        }
        // That the guard was reaped is not enough. After a pause of this process, its reports may not
        // have been received yet, and the supervisor must not wait for a moment that has passed.
        if !self.guard_has_ended() && clock::now() >= self.guard_late_at() {
            self.guard_is_late = true;
        }
        self.last_order_sent == Some(order)
    }

    /// Returns the order that follows from the status of the election, and when it kills.
    fn order_by(&self, status: &Status) -> (Order, Moment) {
        let kill_at = match (self.kill_requested_at, status.role) {
            (Some(requested_at), _) => requested_at,
            (None, Role::Leader { term, deadline }) if term == self.term => {
                let stop_at = self.timing.stop_from(deadline);
                let kill_at = self.timing.kill_at(deadline);
                return (Order::Run { stop_at, kill_at }, kill_at);
            }
            (None, Role::Stopping { term, by, .. }) if term == self.term => by,
            // The election has failed. Its last promise still holds.
            _ => self.kill_at,
        };
        (Order::Stop { kill_at }, kill_at)
    }

    /// Returns when a guard is late of which the end is not known, so that this process kills in its place:
    /// half-way between the moment at which the guard kills and the deadline.
    pub fn guard_late_at(&self) -> Moment {
        self.kill_at + self.timing.time_to_kill() / 2
    }

    /// Returns true iff this process must kill all its children, including a guard that is late.
    pub fn must_kill(&self) -> bool {
        self.guard_is_late || (self.guard_has_ended() && self.outcome.is_none())
    }

    /// Returns true iff the guard has ended and nothing of COMMAND is left. `remaining` is what the
    /// last round of killing has left to do, if there was one.
    pub fn is_over(&self, remaining: Option<Remaining>) -> bool {
        let nothing_is_left = self.outcome.is_some() || remaining == Some(Remaining::Nothing);
        self.guard_has_ended() && nothing_is_left
    }

    /// Returns how a run that is over has ended.
    pub fn outcome(&self) -> RunOutcome {
        match (self.outcome, self.guard) {
            (Some(outcome), _) => outcome,
            (None, _) if self.guard_is_late => RunOutcome::GuardLate,
            (None, GuardProcess::Ended(1..=127)) => RunOutcome::GuardFailed,
            (None, _) => RunOutcome::GuardKilled,
        }
    }

    /// Returns true iff the guard has ended and all its reports were received.
    fn guard_has_ended(&self) -> bool {
        matches!(self.guard, GuardProcess::Ended(_)) && self.socket_has_ended
    }

    /// Sends an order; returns false if the guard cannot take it now.
    fn send(&self, order: Order) -> bool {
        let line = order.to_string();
        // Tokio's own write would wait for the runtime to notice that the socket has room.
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        send(&self.socket, line.as_bytes(), flags).is_ok_and(|length| length == line.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{FencingToken, LeaseId};
    use std::{io::Write, time::Duration};

    /// Returns the status of a candidate that leads no more. The moment to kill stays as it was,
    /// which is that of the start.
    fn status() -> Status {
        Status {
            role: Role::Follower,
            leader: None,
            acting: None,
            seats: None,
            stands_back: false,
            keys_as_of: None,
            keys_known_until: None,
            endpoint: 0,
        }
    }

    #[tokio::test]
    async fn a_guard_that_was_reaped_before_its_report_was_received_is_not_waited_for_in_a_loop() {
        let (socket, mut socket_of_guard) = std::os::unix::net::UnixStream::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        let term = Term {
            token: FencingToken::new(7),
            lease: LeaseId::new(7),
        };
        let timing = Timing::new(Duration::from_secs(2), Duration::ZERO);
        let socket = UnixStream::from_std(socket).unwrap();
        let mut run = GuardedRun::new(term, timing, Pid::INIT, socket);
        let log = CommandLog::new(&"one".parse().unwrap(), "program".as_ref());

        // The runtime looks at the socket only when this test waits for something.
        let report = Report::Stopped.to_string();
        socket_of_guard.write_all(report.as_bytes()).unwrap();
        drop(socket_of_guard);
        run.record_guard_end(0);
        run.receive_reports(&log);
        run.update_guard(&status());
        assert!(!run.is_over(None));
        assert!(run.must_kill(), "the next step is in the past");

        run.readable().await;
        run.receive_reports(&log);
        assert!(run.is_over(None));
        assert_eq!(run.outcome(), RunOutcome::Stopped);
    }
}
