//! Decides which endpoint to ask next, and how long to back off after all have failed. Remembers
//! what was reported about that. Candidates, observers and commands use it.

use super::event::{Failure, FailureKind};
use std::{num::NonZeroUsize, time::Duration};

/// How little hope there is that a failure passes by itself: an outage does, a lack of file
/// descriptors may, and a refusal or a failed authentication needs an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    Unreachable,
    Exhausted,
    Refused,
    Unauthenticated,
}

impl Severity {
    fn of(failure: &Failure) -> Self {
        match failure.kind {
            FailureKind::Exhausted => Self::Exhausted,
            FailureKind::Refused | FailureKind::Denied => Self::Refused,
            FailureKind::Unauthenticated => Self::Unauthenticated,
            _ => Self::Unreachable,
        }
    }
}

/// The endpoints in turn, with what has failed since the last success.
///
/// A *round* asks each endpoint once; a success begins a new one.
#[derive(Debug)]
pub struct Rotation {
    endpoints: NonZeroUsize,
    endpoint: usize,
    failed_in_round: usize,
    /// Rounds in a row in which every endpoint failed.
    failed_rounds: u32,
    /// The first of the worst failures, with its endpoint.
    worst: Option<(usize, Failure)>,
    reported: Option<Severity>,
    /// Whether a failure of this round, or of the last one if none has failed in this, asks for a long
    /// back-off.
    wants_long_back_off: bool,
    /// Rounds in a row that did.
    patient_rounds: u32,
}

impl Rotation {
    /// The limit of the first back-off; it doubles from round to round.
    const FIRST_BACK_OFF: Duration = Duration::from_millis(50);
    /// The limit of the longest back-off after a failed authentication, and when etcd is overloaded:
    /// checking a password costs etcd a lot.
    const LONGEST_WITH_PATIENCE: Duration = Duration::from_secs(30);

    /// Begins with the first endpoint.
    #[must_use]
    pub const fn new(endpoints: NonZeroUsize) -> Self {
        Self {
            endpoints,
            endpoint: 0,
            failed_in_round: 0,
            failed_rounds: 0,
            worst: None,
            reported: None,
            wants_long_back_off: false,
            patient_rounds: 0,
        }
    }

    /// Returns the endpoint to ask, by its place in the list.
    #[must_use]
    pub const fn endpoint(&self) -> usize {
        self.endpoint
    }

    /// Returns true iff no endpoint has failed in this round.
    #[must_use]
    pub const fn is_at_start_of_round(&self) -> bool {
        self.failed_in_round == 0
    }

    /// Returns how many endpoints have not failed in this round.
    #[must_use]
    pub const fn left_in_round(&self) -> usize {
        self.endpoints.get() - self.failed_in_round
    }

    /// Returns how many endpoints there are.
    #[must_use]
    pub const fn endpoints(&self) -> usize {
        self.endpoints.get()
    }

    /// Returns all endpoints in the order of their turns.
    pub fn upcoming(&self) -> impl Iterator<Item = usize> + use<> {
        let (first, endpoints) = (self.endpoint, self.endpoints);
        (0..endpoints.get()).map(move |place| (first + place) % endpoints)
    }

    /// Gives an endpoint its turn.
    pub const fn turn_to(&mut self, endpoint: usize) {
        self.endpoint = endpoint;
    }

    /// Gives the endpoint after this one its turn, which counts as no failure.
    pub fn turn_from(&mut self, endpoint: usize) {
        self.endpoint = (endpoint + 1) % self.endpoints;
    }

    /// Records that an endpoint failed, and turns to the next one. Returns true iff that ends the
    /// round, so that it is time to report and to back off.
    ///
    /// Without a failure there is nothing to report of it.
    pub fn record_failure(&mut self, endpoint: usize, failure: Option<Failure>) -> bool {
        if self.failed_in_round == 0 {
            self.wants_long_back_off = false;
        }
        if let Some(failure) = failure {
            self.record_cause(endpoint, failure);
        }
        if self.endpoint == endpoint {
            self.endpoint = (self.endpoint + 1) % self.endpoints;
        }
        self.failed_in_round += 1;
        if self.failed_in_round < self.endpoints.get() {
            return false;
        }
        self.failed_in_round = 0;
        self.failed_rounds = self.failed_rounds.saturating_add(1);
        self.patient_rounds = if self.wants_long_back_off {
            self.patient_rounds.saturating_add(1)
        } else {
            0
        };
        true
    }

    /// Records why an endpoint failed, without counting it once more.
    pub fn record_cause(&mut self, endpoint: usize, failure: Failure) {
        let severity = Severity::of(&failure);
        self.wants_long_back_off |= matches!(
            failure.kind,
            FailureKind::Unauthenticated | FailureKind::Overloaded
        );
        let worst = self.worst.as_ref().map(|(_, worst)| Severity::of(worst));
        if worst < Some(severity) {
            self.worst = Some((endpoint, failure));
        }
    }

    /// Records that the endpoint responded as it should. Returns true iff failures had been
    /// reported, so that the recovery is to be reported too.
    pub fn record_success(&mut self) -> bool {
        self.failed_in_round = 0;
        self.failed_rounds = 0;
        self.patient_rounds = 0;
        self.worst = None;
        self.reported.take().is_some()
    }

    /// Returns the failure to report, with its endpoint: once, and again only when it gets worse.
    pub fn take_report(&mut self) -> Option<(usize, Failure)> {
        let (endpoint, failure) = self.worst.clone()?;
        let severity = Severity::of(&failure);
        if self.reported >= Some(severity) {
            return None;
        }
        self.reported = Some(severity);
        Some((endpoint, failure))
    }

    /// Rule 17: returns the limit of the back-off after a failed round: `longest` at most, unless the round asks
    /// for a long one.
    #[must_use]
    pub fn back_off_limit(&self, longest: Duration) -> Duration {
        let doubled = |rounds: u32| Self::FIRST_BACK_OFF * (1 << rounds.saturating_sub(1).min(16));
        let usual = doubled(self.failed_rounds).min(longest);
        // Only the rounds that ask for it count, since an outage before them says nothing of the load.
        let patient = doubled(self.patient_rounds).min(Self::LONGEST_WITH_PATIENCE);
        if self.wants_long_back_off {
            usual.max(patient)
        } else {
            usual
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotation(endpoints: usize) -> Rotation {
        Rotation::new(NonZeroUsize::new(endpoints).unwrap())
    }

    fn failure(kind: FailureKind) -> Failure {
        Failure::new(kind, "failed")
    }

    #[test]
    fn each_endpoint_is_asked_once_in_a_round_and_rounds_back_off_further_each_time() {
        let mut rotation = rotation(2);
        let longest = Duration::from_millis(150);
        for limit in [50, 100, 150, 150] {
            assert!(rotation.is_at_start_of_round());
            assert!(
                !rotation.record_failure(rotation.endpoint(), Some(failure(FailureKind::TimedOut)))
            );
            assert_eq!(rotation.endpoint(), 1);
            assert!(
                rotation
                    .record_failure(rotation.endpoint(), Some(failure(FailureKind::Unreachable)))
            );
            assert_eq!(rotation.endpoint(), 0);
            assert_eq!(
                rotation.back_off_limit(longest),
                Duration::from_millis(limit)
            );
        }
        rotation.record_success();
        assert!(!rotation.record_failure(rotation.endpoint(), None));
        assert!(rotation.record_failure(rotation.endpoint(), None));
        assert_eq!(
            rotation.back_off_limit(longest),
            Duration::from_millis(50),
            "a success begins anew"
        );
    }

    #[test]
    fn a_failure_is_reported_once_and_a_worse_one_again_and_the_recovery_if_there_was_a_report() {
        let mut rotation = rotation(1);
        assert_eq!(rotation.take_report(), None);
        assert!(!rotation.record_success());
        let mut kinds = Vec::new();
        for kind in [
            FailureKind::TimedOut,
            FailureKind::Unreachable,
            FailureKind::Refused,
            FailureKind::Exhausted,
            FailureKind::Unauthenticated,
            FailureKind::Refused,
        ] {
            rotation.record_failure(rotation.endpoint(), Some(failure(kind)));
            kinds.extend(rotation.take_report().map(|(_, failure)| failure.kind));
        }
        assert_eq!(
            kinds,
            [
                FailureKind::TimedOut,
                FailureKind::Refused,
                FailureKind::Unauthenticated
            ]
        );
        assert!(rotation.record_success());
        assert!(!rotation.record_success());
    }

    #[test]
    fn a_failed_authentication_asks_for_more_patience_and_an_outage_after_it_does_not() {
        let mut rotation = rotation(1);
        let longest = Duration::from_secs(1);
        for _ in 0..20 {
            rotation.record_failure(
                rotation.endpoint(),
                Some(failure(FailureKind::Unauthenticated)),
            );
        }
        assert_eq!(rotation.back_off_limit(longest), Duration::from_secs(30));
        rotation.record_failure(rotation.endpoint(), Some(failure(FailureKind::Unreachable)));
        assert_eq!(rotation.back_off_limit(longest), longest);
    }

    #[test]
    fn one_overloaded_endpoint_of_several_asks_for_patience_and_an_outage_before_does_not_count() {
        let mut rotation = rotation(2);
        let longest = Duration::from_secs(1);
        for _ in 0..12 {
            rotation.record_failure(rotation.endpoint(), Some(failure(FailureKind::Unreachable)));
        }
        rotation.record_failure(0, Some(failure(FailureKind::Overloaded)));
        assert!(rotation.record_failure(1, Some(failure(FailureKind::TimedOut))));
        assert_eq!(rotation.back_off_limit(longest), longest);
        for _ in 0..20 {
            rotation.record_failure(0, Some(failure(FailureKind::Overloaded)));
            rotation.record_failure(1, None);
        }
        assert_eq!(rotation.back_off_limit(longest), Duration::from_secs(30));
    }
}
