//! Draws random values: wait times, so that candidates that fail together do not retry together, and the
//! ids of leases.

use crate::protocol::LeaseId;
use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// Draws back-offs with full jitter: evenly from zero to a limit.
#[derive(Debug)]
pub(crate) struct Jitter(fastrand::Rng);

impl Jitter {
    /// Creates one that draws differently in each process.
    pub fn new() -> Self {
        Self(fastrand::Rng::new())
    }

    /// Draws a duration of at most `at_most`.
    pub fn up_to(&mut self, at_most: Duration) -> Duration {
        at_most.mul_f64(self.0.f64())
    }
}

/// Draws the id from which a candidate counts the ids of its leases, by the system's randomness: no two
/// candidates may use the same.
pub(crate) fn draw_lease() -> LeaseId {
    let id = RandomState::new().hash_one(());
    // Positive, with room to count.
    LeaseId::new(i64::try_from(id >> 2).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_offs_stay_within_their_limit_and_use_all_of_it() {
        let mut jitter = Jitter(fastrand::Rng::with_seed(7));
        let limit = Duration::from_secs(1);
        let drawn: Vec<_> = (0..1000).map(|_| jitter.up_to(limit)).collect();
        assert!(drawn.iter().all(|wait| *wait <= limit));
        assert!(drawn.iter().any(|wait| *wait < limit / 10));
        assert!(drawn.iter().any(|wait| *wait > limit * 9 / 10));
    }
}
