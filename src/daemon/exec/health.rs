//! Runs the health command through a separate process, the health runner.
//!
//! - `runner`: what that process does.
//! - `run`: one run of the health command.
//! - `report`: what it sends to the daemon.

mod report;
mod run;
mod runner;

pub(in crate::daemon) use report::Outcome;
pub(in crate::daemon) use runner::run_if_health_runner;

use super::{
    KILL_TIMEOUT, children::Children, launch::start_health_runner, messages::take_lines,
    reaping::Remaining,
};
use crate::{
    clock::{self, Alarm},
    daemon::cli::HealthCheck,
    protocol::Moment,
};
use report::Report;
use rustix::{
    net::{Shutdown, shutdown},
    process::Pid,
};
use std::{
    collections::VecDeque,
    io::{self, ErrorKind},
    time::Duration,
};
use tokio::{net::UnixStream, time::timeout};

/// How long to wait after a failure of the health runner before another one is started, at first; it doubles
/// each time.
const SHORTEST_BACK_OFF: Duration = Duration::from_millis(100);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(30);

/// How much later than it must a report may come.
const SLACK: Duration = Duration::from_secs(1);

/// What happens to the health command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::daemon) enum HealthEvent {
    /// It has printed this line.
    Printed(String),
    /// A run is over.
    Run(Outcome),
    /// A run is overdue: the health runner is held up, such as by a broken disk.
    Overdue,
    /// Nothing runs it at present, for this reason.
    RunnerFailed(String),
}

/// The runs of the health command, as the daemon sees them.
pub(in crate::daemon) struct HealthRuns {
    check: HealthCheck,
    children: Children,
    alarm: Alarm,
    state: State,
    /// What the health runner has sent, and was not returned yet.
    received: VecDeque<Report>,
    back_off: Duration,
    is_stopping: bool,
}

enum State {
    /// The health runner is to be started at this moment.
    Absent { start_at: Moment },
    /// It runs.
    Running(Runner),
    /// It has failed, and all that it has left is being killed.
    Killing,
    /// It was asked to stop, and nothing of it is left.
    Stopped,
}

/// The health runner.
struct Runner {
    process: Pid,
    socket: UnixStream,
    /// What was read and is no whole line yet.
    unread: Vec<u8>,
    /// When the next run is overdue.
    overdue_at: Moment,
}

impl HealthRuns {
    /// Prepares to run the health command, at once and then at each interval.
    ///
    /// # Errors
    /// If no timer can be created.
    pub fn new(check: HealthCheck, children: Children) -> io::Result<Self> {
        Ok(Self {
            check,
            children,
            alarm: Alarm::new()?,
            state: State::Absent {
                start_at: clock::now(),
            },
            received: VecDeque::new(),
            back_off: SHORTEST_BACK_OFF,
            is_stopping: false,
        })
    }

    /// Waits for the next event; there is none once this was asked to stop. Something else must reap the
    /// daemon's children meanwhile. Cancel safe.
    ///
    /// # Errors
    /// If no timer can be set.
    pub async fn next(&mut self) -> io::Result<HealthEvent> {
        loop {
            let event = self.step().await?;
            if let Some(event) = event
                && !self.is_stopping
            {
                return Ok(event);
            }
        }
    }

    /// Asks the health runner to kill what it runs, and to end.
    pub fn begin_stop(&mut self) {
        self.is_stopping = true;
        match &self.state {
            State::Absent { .. } => self.state = State::Stopped,
            // If this fails, the health runner has ended.
            State::Running(runner) => drop(shutdown(&runner.socket, Shutdown::Write)),
            State::Killing | State::Stopped => {}
        }
    }

    /// Does the same, and waits for that for up to [`KILL_TIMEOUT`]. Nothing else may reap the daemon's
    /// children any more.
    pub async fn stop(mut self) {
        self.begin_stop();
        let stopping = async {
            while !matches!(self.state, State::Stopped) {
                self.children.reap(|_, _| {});
                self.step().await?;
            }
            Ok::<(), io::Error>(())
        };
        // If it takes longer, the health runner completes it after the end of this process.
        let _ = timeout(KILL_TIMEOUT, stopping).await;
    }

    /// Waits for the next step, and takes it. Cancel safe.
    async fn step(&mut self) -> io::Result<Option<HealthEvent>> {
        if let Some(report) = self.received.pop_front() {
            return Ok(Some(match report {
                Report::Printed(line) => HealthEvent::Printed(line),
                Report::Run(outcome) => {
                    self.back_off = SHORTEST_BACK_OFF;
                    HealthEvent::Run(outcome)
                }
                Report::Failed(reason) => HealthEvent::RunnerFailed(reason),
                Report::Stopped => {
                    self.state = State::Stopped;
                    return Ok(None);
                }
            }));
        }
        match &mut self.state {
            State::Absent { start_at } => {
                self.alarm.wait_until(Some(*start_at)).await?;
                if let Err(error) = self.start() {
                    self.start_later();
                    return Ok(Some(HealthEvent::RunnerFailed(error.to_string())));
                }
            }
            State::Running(runner) => {
                let overdue_at = runner.overdue_at;
                tokio::select! {
                    // If this fails, reading finds out why.
                    _ = runner.socket.readable() => {}
                    result = self.alarm.wait_until(Some(overdue_at)) => result?,
                }
                return Ok(self.receive());
            }
            State::Killing => match self.children.kill_left_by_health_runner() {
                Remaining::Nothing if self.is_stopping => self.state = State::Stopped,
                Remaining::Nothing => self.start_later(),
                remaining => {
                    let next = clock::now() + remaining.next_round_in();
                    self.alarm.wait_until(Some(next)).await?;
                }
            },
            State::Stopped => std::future::pending().await,
        }
        Ok(None)
    }

    fn start(&mut self) -> io::Result<()> {
        let (process, socket) = start_health_runner(&self.check)?;
        self.children.spare(process);
        self.children.health_runner_lives();
        self.state = State::Running(Runner {
            process,
            socket,
            unread: Vec::new(),
            overdue_at: self.next_overdue_at(),
        });
        Ok(())
    }

    fn start_later(&mut self) {
        self.state = State::Absent {
            start_at: clock::now() + self.back_off,
        };
        self.back_off = (self.back_off * 2).min(LONGEST_BACK_OFF);
    }

    /// Returns when the next run is overdue if one is reported now.
    fn next_overdue_at(&self) -> Moment {
        clock::now() + self.check.interval + self.check.timeout + SLACK
    }

    /// Receives what the health runner has sent; returns what its silence means, if anything.
    fn receive(&mut self) -> Option<HealthEvent> {
        let next_overdue_at = self.next_overdue_at();
        let State::Running(runner) = &mut self.state else {
            return None;
        };
        let mut buffer = [0; 4096];
        let has_ended = match runner.socket.try_read(&mut buffer) {
            Ok(length @ 1..) => {
                runner.unread.extend_from_slice(&buffer[..length]);
                false
            }
            Err(error) => error.kind() != ErrorKind::WouldBlock,
            Ok(0) => true,
        };
        let reports = take_lines(&mut runner.unread);
        // One that sends nonsense is as good as dead.
        if has_ended || reports.is_err() {
            self.children.give_up(runner.process);
            self.state = State::Killing;
            let reason = "the process that runs it has died".to_owned();
            self.received.push_back(Report::Failed(reason));
            return None;
        }
        let reports = reports.unwrap_or_default();
        if !reports.is_empty() {
            self.children.health_runner_lives();
            runner.overdue_at = next_overdue_at;
            self.received.extend(reports);
        } else if clock::now() >= runner.overdue_at {
            runner.overdue_at = clock::now() + self.check.interval;
            return Some(HealthEvent::Overdue);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[tokio::test]
    async fn a_health_runner_that_reports_nothing_counts_as_a_failure_in_each_interval() {
        let interval = Duration::from_millis(10);
        let check = HealthCheck {
            command: "true".into(),
            interval,
            timeout: interval,
            rise: 1,
            fall: 1,
        };
        let (socket, mut socket_of_runner) = std::os::unix::net::UnixStream::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut runs = HealthRuns::new(check, Children::default()).unwrap();
        runs.state = State::Running(Runner {
            process: Pid::INIT,
            socket: UnixStream::from_std(socket).unwrap(),
            unread: Vec::new(),
            overdue_at: clock::now() + interval,
        });
        assert_eq!(runs.next().await.unwrap(), HealthEvent::Overdue);
        let first = clock::now();
        assert_eq!(runs.next().await.unwrap(), HealthEvent::Overdue);
        assert!(clock::now().since(first) >= interval / 2);
        let outcome = Outcome::TookTooLong;
        write!(socket_of_runner, "{}", Report::Run(outcome)).unwrap();
        assert_eq!(runs.next().await.unwrap(), HealthEvent::Run(outcome));
        let State::Running(runner) = &runs.state else {
            panic!("it has not ended");
        };
        assert!(runner.overdue_at.since(clock::now()) > SLACK / 2);
    }
}
