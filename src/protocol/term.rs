//! What distinguishes one leadership from another.

use std::fmt;

/// The id of a lease, chosen by the candidate that asks for it.
///
/// Displayed as `etcdctl` prints it: sixteen hexadecimal digits, without a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId(i64);

impl LeaseId {
    /// Wraps the number that etcd's API uses.
    #[must_use]
    pub const fn new(id: i64) -> Self {
        Self(id)
    }

    /// Returns the number that etcd's API uses.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }

    /// Rule 25: returns the id after this one. Zero would mean that etcd chooses.
    pub(super) fn next(self) -> Self {
        Self((self.0.wrapping_add(1) & i64::MAX).max(1))
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The number that orders terms: the revision of the transaction that began the term.
///
/// It grows from each term to the next within one etcd history. A resource that remembers the
/// highest token it has seen and refuses lower ones is safe even from a leader that was paused
/// between asking whether it leads and acting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(i64);

impl FencingToken {
    /// Wraps a revision of the `leader` key.
    #[must_use]
    pub const fn new(revision: i64) -> Self {
        Self(revision)
    }

    /// Returns the number to store and compare.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One uninterrupted leadership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// The token that orders this term among all terms.
    pub token: FencingToken,
    /// The lease of this term. No other term ever has this lease.
    pub lease: LeaseId,
}
