//! Decides from the runs of the health command whether this replica is healthy.

use super::{
    cli::HealthCheck,
    exec::{ChildEnd, Children, HealthEvent, HealthRuns, Outcome},
};
use crate::printable::Printable;
use std::{io, time::Duration};
use tracing::{debug, info, warn};

/// The health of this replica.
pub(super) struct Health {
    /// This replica's name, for log lines.
    name: String,
    /// `None`: there is no health command.
    checks: Option<Checks>,
}

struct Checks {
    timeout: Duration,
    runs: HealthRuns,
    tracker: HealthTracker,
}

impl Health {
    /// Prepares to run the health command, if there is one, at once and then at each interval.
    ///
    /// # Errors
    /// If no timer can be created.
    pub fn new(name: &str, check: Option<HealthCheck>, children: &Children) -> io::Result<Self> {
        let checks = match check {
            Some(check) => Some(Checks {
                timeout: check.timeout,
                tracker: HealthTracker::new(check.rise, check.fall),
                runs: HealthRuns::new(check, children.clone())?,
            }),
            None => None,
        };
        Ok(Self {
            name: name.to_owned(),
            checks,
        })
    }

    /// Waits for a new result and logs it: `Ok` if this replica is healthy, else why it is not; forever
    /// without a health command. Something else must reap the daemon's children meanwhile. Cancel safe.
    ///
    /// # Errors
    /// If no timer can be set.
    pub async fn changed(&mut self) -> io::Result<Result<(), String>> {
        let Self { name, checks } = self;
        let name = name.as_str();
        let Some(checks) = checks else {
            return std::future::pending().await;
        };
        loop {
            let event = checks.runs.next().await?;
            let (is_healthy, failure) = match event {
                HealthEvent::Printed(line) => {
                    let line = Printable(line.as_bytes()).to_string();
                    debug!(name, line, "The health command has printed: {line}");
                    continue;
                }
                HealthEvent::Run(outcome) => {
                    let failure = failure(outcome, checks.timeout);
                    let says = failure
                        .as_ref()
                        .map_or("succeeded", |failure| &failure.says);
                    debug!(name, "The health command {says}.");
                    (checks.tracker.count(failure.is_none()), failure)
                }
                HealthEvent::Overdue => {
                    let failure = Failure::plain("could not be run in time".to_owned());
                    debug!(name, "The health command {}.", failure.says);
                    (checks.tracker.count(false), Some(failure))
                }
                HealthEvent::RunnerFailed(reason) => {
                    let reason = Printable(reason.as_bytes());
                    let failure = Failure::plain(format!("could not be run: {reason}"));
                    debug!(name, "The health command {}.", failure.says);
                    (checks.tracker.fail_at_once(), Some(failure))
                }
            };
            match (is_healthy, failure) {
                (Some(true), _) => {
                    info!(name, "Healthy: this replica may lead.");
                    return Ok(Ok(()));
                }
                (Some(false), Some(Failure { reason, says })) => {
                    warn!(
                        name,
                        reason, "Unhealthy: the health command {says}; this replica does not lead."
                    );
                    return Ok(Err(reason));
                }
                _ => {}
            }
        }
    }

    /// Runs the health command no more; there is no new result.
    pub fn begin_stop(&mut self) {
        if let Some(checks) = &mut self.checks {
            checks.runs.begin_stop();
        }
    }

    /// Runs the health command no more, and waits for a moment until nothing of it is left. Nothing else may
    /// reap the daemon's children any more.
    pub async fn stop(self) {
        if let Some(checks) = self.checks {
            checks.runs.stop().await;
        }
    }
}

/// Why the health command has not succeeded.
struct Failure {
    /// The reason alone, for all who ask why this replica does not lead.
    reason: String,
    /// What follows "The health command" in a sentence.
    says: String,
}

impl Failure {
    fn plain(reason: String) -> Self {
        Self {
            says: reason.clone(),
            reason,
        }
    }
}

/// Returns why a run has failed, if it has.
fn failure(outcome: Outcome, timeout: Duration) -> Option<Failure> {
    Some(match outcome {
        Outcome::Ended(ChildEnd::Exited(0)) => return None,
        Outcome::Ended(ChildEnd::Exited(code)) => {
            let reason = format!("exit code {code}");
            Failure {
                says: format!("ended with {reason}"),
                reason,
            }
        }
        Outcome::Ended(ChildEnd::Killed(signal)) => {
            let reason = format!("killed by signal {signal}");
            Failure {
                says: format!("was {reason}"),
                reason,
            }
        }
        Outcome::TookTooLong => {
            let says = format!("took longer than {}", humantime::format_duration(timeout));
            Failure {
                reason: format!("it {says}"),
                says,
            }
        }
        Outcome::NotStarted(error) => {
            let error = io::Error::from_raw_os_error(error);
            Failure::plain(format!("could not be run: {error}"))
        }
        Outcome::Blocked(process) => Failure::plain(format!(
            "could not be run: process {process} of an earlier run cannot be killed"
        )),
    })
}

/// Judges runs: the first one decides alone, and later some in a row.
struct HealthTracker {
    rise: u32,
    fall: u32,
    /// `None` before the first run.
    is_healthy: Option<bool>,
    /// How many runs in a row speak against that.
    against: u32,
    /// Whether there has been a result.
    has_judged: bool,
}

impl HealthTracker {
    fn new(rise: u32, fall: u32) -> Self {
        Self {
            rise,
            fall,
            is_healthy: None,
            against: 0,
            has_judged: false,
        }
    }

    /// Counts a run; returns the new result if that is another one.
    fn count(&mut self, has_succeeded: bool) -> Option<bool> {
        let needed = match self.is_healthy {
            None => 1,
            Some(true) => self.fall,
            Some(false) => self.rise,
        };
        if self.is_healthy == Some(has_succeeded) {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.against < needed {
            return None;
        }
        self.against = 0;
        self.has_judged = true;
        self.is_healthy = Some(has_succeeded);
        self.is_healthy
    }

    /// Takes in that nothing runs the health command: nothing is known until the next run, which decides alone.
    /// Returns the result until then if that is another one.
    fn fail_at_once(&mut self) -> Option<bool> {
        self.against = 0;
        let was_healthy = self.is_healthy.take() == Some(true);
        let is_first = !std::mem::replace(&mut self.has_judged, true);
        (was_healthy || is_first).then_some(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts runs, `+` for a success and `-` for a failure; returns a result of each: `?` if it is not
    /// another one, else `h` or `u`.
    fn judge(tracker: &mut HealthTracker, runs: &str) -> String {
        let judged = runs.chars().map(|run| match tracker.count(run == '+') {
            None => '?',
            Some(true) => 'h',
            Some(false) => 'u',
        });
        judged.collect()
    }

    #[test]
    fn the_first_run_decides_and_later_some_in_a_row() {
        for (runs, results) in [
            ("+", "h"),
            ("-", "u"),
            ("+--+---", "h?????u"),
            ("-+-++", "u???h"),
            ("-----++---", "u?????h??u"),
            ("++++--", "h?????"),
        ] {
            assert_eq!(
                judge(&mut HealthTracker::new(2, 3), runs),
                results,
                "{runs}"
            );
        }
        assert_eq!(judge(&mut HealthTracker::new(1, 1), "+-+-"), "huhu");
    }

    #[test]
    fn without_its_runner_a_replica_is_unhealthy_until_the_next_run_which_decides_alone() {
        let mut tracker = HealthTracker::new(2, 3);
        assert_eq!(tracker.fail_at_once(), Some(false));
        assert_eq!(tracker.fail_at_once(), None);
        assert_eq!(judge(&mut tracker, "+"), "h");
        assert_eq!(tracker.fail_at_once(), Some(false));
        assert_eq!(tracker.fail_at_once(), None);
        assert_eq!(judge(&mut tracker, "-++"), "u?h");
        assert_eq!(tracker.fail_at_once(), Some(false));
    }

    #[test]
    fn each_failure_has_a_reason_and_a_sentence() {
        let timeout = Duration::from_secs(5);
        assert!(failure(Outcome::Ended(ChildEnd::Exited(0)), timeout).is_none());
        for (outcome, reason, says) in [
            (
                Outcome::Ended(ChildEnd::Exited(1)),
                "exit code 1",
                "ended with exit code 1",
            ),
            (
                Outcome::Ended(ChildEnd::Killed(9)),
                "killed by signal 9",
                "was killed by signal 9",
            ),
            (
                Outcome::TookTooLong,
                "it took longer than 5s",
                "took longer than 5s",
            ),
        ] {
            let failure = failure(outcome, timeout).unwrap();
            assert_eq!((&*failure.reason, &*failure.says), (reason, says));
        }
    }
}
