//! Limits how much of what costs much runs at once in one test program.

use super::lock;
use std::sync::{Condvar, Mutex, PoisonError};

/// A number of permits.
pub struct Permits {
    free: Mutex<usize>,
    freed: Condvar,
}

/// The right to run something, until it is dropped.
pub struct Permit(&'static Permits);

impl Permits {
    /// Creates so many.
    pub const fn new(count: usize) -> Self {
        Self {
            free: Mutex::new(count),
            freed: Condvar::new(),
        }
    }

    /// Waits for one, as long as it takes the tests that have them.
    pub fn acquire(&'static self) -> Permit {
        let free = self.freed.wait_while(lock(&self.free), |free| *free == 0);
        *free.unwrap_or_else(PoisonError::into_inner) -= 1;
        Permit(self)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *lock(&self.0.free) += 1;
        self.0.freed.notify_one();
    }
}
