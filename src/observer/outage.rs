//! What is told of failures, so that nothing is told twice.

use crate::protocol::{Failure, FailureKind};
use std::time::Duration;

/// What was told since etcd answered last, the less hopeful the greater: an outage passes, whereas
/// whoever cannot show who it is needs somebody's help.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    #[default]
    Nothing,
    Unanswered,
    Unauthenticated,
}

impl Told {
    fn of(failure: &Failure) -> Self {
        match failure.kind {
            FailureKind::Unauthenticated => Self::Unauthenticated,
            _ => Self::Unanswered,
        }
    }
}

/// The failures since etcd answered last.
#[derive(Debug, Default)]
pub(super) struct Outage {
    worst: Option<(usize, Failure)>,
    told: Told,
    failures: u32,
}

impl Outage {
    /// The longest first back-off; it doubles from round to round.
    const FIRST_BACK_OFF: Duration = Duration::from_millis(50);
    const LONGEST_BACK_OFF: Duration = Duration::from_secs(1);
    /// For who cannot show who it is: checking a password is meant to be costly.
    const LONGEST_BACK_OFF_OF_STRANGERS: Duration = Duration::from_secs(5);

    /// Takes in that an endpoint of so many failed. Once each of them has, returns how long to wait
    /// at most.
    pub fn failed(
        &mut self,
        endpoint: usize,
        endpoints: usize,
        failure: Failure,
    ) -> Option<Duration> {
        let is_worse = |(_, worst): &(usize, Failure)| Told::of(worst) < Told::of(&failure);
        if self.worst.as_ref().is_none_or(is_worse) {
            self.worst = Some((endpoint, failure));
        }
        self.failures = self.failures.saturating_add(1);
        let endpoints = u32::try_from(endpoints).unwrap_or(u32::MAX).max(1);
        if !self.failures.is_multiple_of(endpoints) {
            return None;
        }
        let longest = match &self.worst {
            Some((_, worst)) if Told::of(worst) == Told::Unauthenticated => {
                Self::LONGEST_BACK_OFF_OF_STRANGERS
            }
            _ => Self::LONGEST_BACK_OFF,
        };
        let doublings = (self.failures / endpoints - 1).min(16);
        Some((Self::FIRST_BACK_OFF * (1 << doublings)).min(longest))
    }

    /// What is to be told of it, and was not yet.
    pub fn news(&mut self) -> Option<(usize, Failure)> {
        let (endpoint, failure) = self.worst.as_ref()?;
        let told = Told::of(failure);
        if told <= self.told {
            return None;
        }
        self.told = told;
        Some((*endpoint, failure.clone()))
    }

    /// Ends it; true if something was told of it.
    pub fn end(&mut self) -> bool {
        std::mem::take(self).told > Told::Nothing
    }
}
