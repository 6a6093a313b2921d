//! Transactions on the election's keys, as data: the machine builds them, and etcd and the
//! simulator's model of it execute the same values.
//!
//! Another transaction costs a constructor here and its place in [`Machine`](super::Machine)'s
//! choice of the next try. Another [`Effect`] is also executed in `src/etcd/transact.rs` and in
//! `tests/simulation/etcd.rs`, where the compiler asks for it, and so is another [`Guard`]. What a
//! command asks for stands in `src/etcd/questions.rs`.

use super::{ElectionKey, LeaseId, Term};

/// What a transaction requires of one key; its effect takes place only if all its guards hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The key may be anything.
    Ignored,
    /// The key does not exist.
    Absent,
    /// The key stands as one revision wrote it.
    ///
    /// The lease is compared as well: revisions repeat after a backup is restored, and a delayed
    /// transaction must not match another term.
    Unchanged {
        /// The revision that wrote the key.
        mod_revision: i64,
        /// The lease that the key is bound to.
        lease: LeaseId,
    },
}

/// What a transaction does if its guards hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Puts both keys, bound to one lease: the holder of that lease is elected.
    Lead {
        /// The lease.
        lease: LeaseId,
    },
    /// Deletes the `leader` key: asks the leader to step down.
    DeleteLeader,
    /// Puts a key other than the election's two, bound to no lease. The caller that executes the
    /// transaction chooses the key and the value; in a transaction about the job, the key is the job's
    /// record.
    Put,
}

/// One transaction.
///
/// Its reads show the keys as they are after the effect, whether or not the guards held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// What it requires of the `leader` key.
    pub leader: Guard,
    /// What it requires of the `leader/acting` key.
    pub acting: Guard,
    /// Whether it is about the job that runs once. Then its effect also requires that the job has no
    /// record, and its response shows the record.
    pub about_job: bool,
    /// What it does if all these requirements hold.
    pub effect: Effect,
    /// The keys that its response shows.
    pub reads: &'static [ElectionKey],
}

impl Transaction {
    /// Reads both keys. It is linearizable and costs etcd no raft entry.
    pub const READ: Self = Self {
        leader: Guard::Ignored,
        acting: Guard::Ignored,
        about_job: false,
        effect: Effect::None,
        reads: ElectionKey::ALL,
    };

    /// Takes both keys, if both are absent: while `leader` exists, a candidate is elected; while
    /// `leader/acting` exists, one may act.
    #[must_use]
    pub const fn campaign(lease: LeaseId) -> Self {
        Self {
            leader: Guard::Absent,
            acting: Guard::Absent,
            about_job: false,
            effect: Effect::Lead { lease },
            reads: ElectionKey::ALL,
        }
    }

    /// Sets whether it is about the job that runs once.
    #[must_use]
    pub const fn about_job(mut self, about_job: bool) -> Self {
        self.about_job = about_job;
        self
    }

    /// Rule 21: puts a key if `leader/acting` stands as the term's campaign wrote it.
    ///
    /// Repeating it does no harm: it puts the same value, or nothing.
    #[must_use]
    pub const fn put_in_term(term: Term) -> Self {
        Self {
            leader: Guard::Ignored,
            acting: Guard::Unchanged {
                mod_revision: term.token.get(),
                lease: term.lease,
            },
            about_job: false,
            effect: Effect::Put,
            reads: &[],
        }
    }

    /// Rule 21: records that the job was completed in a term. Its response shows either the record, or
    /// that the term is over without one.
    #[must_use]
    pub const fn record(term: Term) -> Self {
        Self {
            reads: ElectionKey::ALL,
            ..Self::put_in_term(term).about_job(true)
        }
    }

    /// Asks whether the user may write the job's record, and writes nothing: no key has this revision.
    #[must_use]
    pub const fn probe() -> Self {
        Self {
            leader: Guard::Ignored,
            acting: Guard::Unchanged {
                mod_revision: i64::MAX,
                lease: LeaseId::new(0),
            },
            about_job: true,
            effect: Effect::Put,
            reads: ElectionKey::ALL,
        }
    }

    /// Asks the holder of a term to step down, unless that term is over.
    ///
    /// Repeating it does no harm: a later term has another revision.
    #[must_use]
    pub const fn end_term(mod_revision: i64, lease: LeaseId) -> Self {
        Self {
            leader: Guard::Unchanged {
                mod_revision,
                lease,
            },
            acting: Guard::Ignored,
            about_job: false,
            effect: Effect::DeleteLeader,
            reads: &[],
        }
    }

    /// Returns true iff it may write, so that its outcome is unknown if the response is lost.
    #[must_use]
    pub const fn writes(&self) -> bool {
        !matches!(self.effect, Effect::None)
    }

    /// Returns true iff it tries to get elected.
    #[must_use]
    pub const fn is_campaign(&self) -> bool {
        matches!(self.effect, Effect::Lead { .. })
    }

    /// Returns the guards of the election's keys.
    #[must_use]
    pub const fn guards(&self) -> [(ElectionKey, Guard); 2] {
        [
            (ElectionKey::Leader, self.leader),
            (ElectionKey::Acting, self.acting),
        ]
    }
}
