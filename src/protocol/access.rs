//! Remembers whether etcd permits the keys that the election can work without.

use super::{Failure, Moment};
use std::time::Duration;

/// Whether etcd permits reading and writing some keys.
#[derive(Debug, Default)]
pub(super) enum Access {
    /// It does, as far as is known.
    #[default]
    Open,
    /// It has denied a request about them; perhaps because it denies everything.
    Suspended(Failure),
    /// It does not. It is asked again at this moment, since somebody may have granted the right.
    Denied { until: Moment },
}

impl Access {
    /// How long the keys count as denied.
    const DENIED_FOR: Duration = Duration::from_mins(1);

    /// Returns true iff requests are to be about the keys.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }

    /// Takes in that etcd has denied a request about the keys.
    pub fn suspend(&mut self, failure: &Failure) {
        if self.is_open() {
            *self = Self::Suspended(failure.clone());
        }
    }

    /// Takes in that etcd denies requests without the keys as well.
    pub fn resume(&mut self) {
        if matches!(self, Self::Suspended(_)) {
            *self = Self::Open;
        }
    }

    /// Takes in that etcd permits a request, which is about the keys or not. If one about them was denied before, the
    /// keys are, and why is returned.
    pub fn permit(&mut self, now: Moment, about_keys: bool) -> Option<Failure> {
        match self {
            _ if about_keys => {
                *self = Self::Open;
                None
            }
            Self::Suspended(failure) => {
                let failure = failure.clone();
                self.deny(now);
                Some(failure)
            }
            Self::Open | Self::Denied { .. } => None,
        }
    }

    /// Takes in that etcd denies the keys.
    pub fn deny(&mut self, now: Moment) {
        let until = now + Self::DENIED_FOR;
        *self = Self::Denied { until };
    }

    /// Lets the time run out for which the keys count as denied.
    pub fn expire(&mut self, now: Moment) {
        if matches!(self, Self::Denied { until } if now >= *until) {
            *self = Self::Open;
        }
    }
}
