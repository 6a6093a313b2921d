//! A leadership that was offered and is taken, or given back when nobody takes it.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

const OPEN: u8 = 0;
const TAKEN: u8 = 1;
const GIVEN_BACK: u8 = 2;

/// Shared by who offers and who takes: whoever is first, decides.
#[derive(Clone, Debug, Default)]
pub(super) struct Offer(Arc<AtomicU8>);

impl Offer {
    /// Takes it; false if it was given back before.
    pub fn take(&self) -> bool {
        self.close(TAKEN)
    }

    /// Gives it back; false if it was taken before.
    pub fn give_back(&self) -> bool {
        self.close(GIVEN_BACK)
    }

    fn close(&self, how: u8) -> bool {
        let closed = self
            .0
            .compare_exchange(OPEN, how, Ordering::AcqRel, Ordering::Acquire);
        closed.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::Offer;

    #[test]
    fn whoever_is_first_decides() {
        let taken = Offer::default();
        assert!(taken.take() && !taken.give_back());
        let given_back = Offer::default();
        assert!(given_back.clone().give_back() && !given_back.take());
    }
}
