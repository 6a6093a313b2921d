//! Decides for which state of the election COMMAND runs, and when. It uses no clock and starts no
//! process.

use crate::protocol::Moment;
use std::time::Duration;

/// The longest wait after the first failure. It doubles with each further one.
const FIRST_BACK_OFF: Duration = Duration::from_secs(1);
/// The longest wait after any failure.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(30);

/// The states for which COMMAND is to be run. Only the newest counts, and it counts until a run for it
/// has succeeded.
#[derive(Debug)]
pub(super) struct Agenda<S> {
    /// The state for which COMMAND runs.
    running: Option<S>,
    /// The state for which COMMAND runs next.
    next: Option<S>,
    /// When the next run may begin; at once if there is none.
    not_before: Option<Moment>,
    /// How often in a row COMMAND has failed for the newest state.
    failures: u32,
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterFailure {
    /// COMMAND runs at once, for a newer state.
    Newer,
    /// COMMAND runs again for the same state after this time, unless a newer one comes before.
    Retry(Duration),
}

impl<S> Agenda<S> {
    /// Creates an empty one.
    pub fn new() -> Self {
        Self {
            running: None,
            next: None,
            not_before: None,
            failures: 0,
        }
    }

    /// Takes in the newest state. It replaces one that waits, and waits for nothing but the end of the
    /// present run.
    pub fn add(&mut self, state: S) {
        self.next = Some(state);
        self.not_before = None;
        self.failures = 0;
    }

    /// Returns the state for which a run is to begin at `now`, if there is one. The run counts as
    /// begun.
    pub fn begin(&mut self, now: Moment) -> Option<&S> {
        let waits = self.not_before.is_some_and(|moment| now < moment);
        if self.running.is_some() || waits {
            return None;
        }
        self.not_before = None;
        self.running = self.next.take();
        self.running.as_ref()
    }

    /// Returns the moment for which the next run waits, if there is such a moment.
    pub fn waits_until(&self) -> Option<Moment> {
        self.not_before
    }

    /// Records that the run has succeeded.
    pub fn succeed(&mut self) {
        self.running = None;
    }

    /// Records that the run has failed. `draw` draws a duration between zero and a limit.
    pub fn fail(&mut self, now: Moment, draw: impl FnOnce(Duration) -> Duration) -> AfterFailure {
        let failed = self.running.take();
        if self.next.is_some() {
            return AfterFailure::Newer;
        }
        let doubled = FIRST_BACK_OFF * 2_u32.saturating_pow(self.failures.min(8));
        let limit = doubled.min(LONGEST_BACK_OFF);
        let wait = limit / 2 + draw(limit / 2);
        self.failures = self.failures.saturating_add(1);
        self.next = failed;
        self.not_before = Some(now + wait);
        AfterFailure::Retry(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Moment {
        Moment::from_origin(Duration::from_millis(millis))
    }

    fn longest(limit: Duration) -> Duration {
        limit
    }

    #[test]
    fn the_newest_of_the_states_that_come_during_a_run_is_the_next() {
        let mut agenda = Agenda::new();
        assert_eq!(agenda.begin(at(0)), None);
        agenda.add(1);
        assert_eq!(agenda.begin(at(0)), Some(&1));
        agenda.add(2);
        agenda.add(3);
        assert_eq!(agenda.begin(at(1)), None, "one run at a time");
        agenda.succeed();
        assert_eq!(agenda.begin(at(2)), Some(&3));
        agenda.succeed();
        assert_eq!(agenda.begin(at(3)), None);
        assert_eq!(agenda.waits_until(), None);
    }

    #[test]
    fn a_failure_is_retried_after_a_wait_that_doubles_up_to_a_limit() {
        let mut agenda = Agenda::new();
        agenda.add("state");
        let mut now = at(0);
        let mut waits = Vec::new();
        for _ in 0..40 {
            assert_eq!(agenda.begin(now), Some(&"state"));
            let AfterFailure::Retry(wait) = agenda.fail(now, longest) else {
                panic!("nothing newer has come");
            };
            assert_eq!(agenda.waits_until(), Some(now + wait));
            assert_eq!(agenda.begin(now), None);
            now = now + wait;
            waits.push(wait.as_secs());
        }
        assert_eq!(waits[..6], [1, 2, 4, 8, 16, 30]);
        assert_eq!(waits[39], 30);
        let AfterFailure::Retry(shortest) = ({
            agenda.begin(now);
            agenda.fail(now, |_| Duration::ZERO)
        }) else {
            panic!("nothing newer has come");
        };
        assert_eq!(shortest, LONGEST_BACK_OFF / 2, "never at once");
    }

    #[test]
    fn a_newer_state_is_run_at_once_and_begins_with_short_waits() {
        let mut agenda = Agenda::new();
        agenda.add("old");
        for _ in 0..5 {
            let now = agenda.waits_until().unwrap_or(at(0));
            agenda.begin(now).unwrap();
            agenda.fail(now, longest);
        }
        agenda.add("new");
        assert_eq!(
            agenda.waits_until(),
            None,
            "not even for the end of the wait"
        );
        assert_eq!(agenda.begin(at(0)), Some(&"new"));
        agenda.add("newest");
        assert_eq!(agenda.fail(at(0), longest), AfterFailure::Newer);
        assert_eq!(agenda.begin(at(0)), Some(&"newest"));
        let retry = agenda.fail(at(0), longest);
        assert_eq!(retry, AfterFailure::Retry(FIRST_BACK_OFF));
    }

    proptest! {
        #[test]
        fn the_last_state_is_never_dropped(steps in proptest::collection::vec(0..3_u8, 0..60)) {
            let mut agenda = Agenda::new();
            let (mut newest, mut runs, mut done) = (0_u32, None, 0);
            let mut now = at(0);
            for step in steps {
                match (step, runs) {
                    (0, _) => {
                        newest += 1;
                        agenda.add(newest);
                    }
                    (1, Some(state)) => {
                        agenda.succeed();
                        done = state;
                        runs = None;
                    }
                    (_, Some(_)) => {
                        agenda.fail(now, longest);
                        runs = None;
                    }
                    (_, None) => {}
                }
                if let Some(state) = agenda.begin(now) {
                    prop_assert_eq!(runs, None, "one run at a time");
                    prop_assert_eq!(*state, newest);
                    runs = Some(*state);
                }
                now = now + Duration::from_millis(700);
            }
            if runs.is_some_and(|state| state < newest) {
                agenda.succeed();
                runs = None;
            }
            if runs.is_none() && done < newest {
                now = agenda.waits_until().unwrap_or(now);
                prop_assert_eq!(agenda.begin(now), Some(&newest));
            }
        }
    }
}
