//! A leadership that is offered, and taken by its holder or taken back by the driver.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

const OPEN: u8 = 0;
const TAKEN: u8 = 1;
const TAKEN_BACK: u8 = 2;

/// Shared by the side that offers and the side that takes: the first to call decides.
#[derive(Clone, Debug, Default)]
pub(super) struct Offer(Arc<AtomicU8>);

impl Offer {
    /// Takes it; returns false if it was taken back before.
    pub fn take(&self) -> bool {
        self.close(TAKEN)
    }

    /// Takes it back; returns false if it was taken before.
    pub fn take_back(&self) -> bool {
        self.close(TAKEN_BACK)
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
    fn the_first_to_call_decides() {
        let taken = Offer::default();
        assert!(taken.take() && !taken.take_back());
        let taken_back = Offer::default();
        assert!(taken_back.clone().take_back() && !taken_back.take());
    }
}
