//! Decides who gets a leadership that was offered: the holder takes it, or the driver takes it
//! back.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

const OPEN: u8 = 0;
const TAKEN: u8 = 1;
const TAKEN_BACK: u8 = 2;

/// Shared by the driver and the holder of a leadership: the first to call decides.
#[derive(Clone, Debug, Default)]
pub(super) struct Claim(Arc<AtomicU8>);

impl Claim {
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
    use super::Claim;

    #[test]
    fn the_first_to_call_decides() {
        let taken = Claim::default();
        assert!(taken.take() && !taken.take_back());
        let taken_back = Claim::default();
        assert!(taken_back.clone().take_back() && !taken_back.take());
    }
}
