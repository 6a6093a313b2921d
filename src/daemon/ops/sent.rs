//! The outcome of a request that must not be repeated without a check.

use crate::protocol::{Failure, FailureKind};
use std::sync::atomic::{AtomicBool, Ordering};

/// What became of the attempts to send a request.
#[derive(Default)]
pub(super) struct Sent {
    /// At least one has had no response: it may be carried out later.
    under_way: AtomicBool,
    /// At least one was refused.
    refused: AtomicBool,
    /// At least one was refused because of the user's role.
    denied: AtomicBool,
}

impl Sent {
    /// Takes in how an attempt failed.
    pub fn record(&self, failure: &Failure) {
        let flag = match failure.kind {
            FailureKind::TimedOut | FailureKind::Unreachable => &self.under_way,
            FailureKind::Denied => &self.denied,
            FailureKind::Refused => &self.refused,
            _ => return,
        };
        flag.store(true, Ordering::Relaxed);
    }

    /// Returns true iff an attempt has had no response, so that it may be carried out later.
    pub fn is_under_way(&self) -> bool {
        self.under_way.load(Ordering::Relaxed)
    }

    /// Returns true iff the user's role does not permit the request.
    pub fn is_denied(&self) -> bool {
        self.denied.load(Ordering::Relaxed)
    }

    /// Returns true iff the request may be carried out, or was, although no attempt has succeeded: etcd whose database
    /// fills up just then carries a request out and refuses it nevertheless.
    pub fn may_be_carried_out(&self) -> bool {
        self.is_under_way() || self.refused.load(Ordering::Relaxed)
    }
}
