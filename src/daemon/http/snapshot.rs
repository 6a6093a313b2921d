//! The state of an election as this process knows it at one instant. The process takes part, or only
//! observes.

use super::role::{CurrentRole, Transition};
use crate::{
    candidates::Candidates,
    config::LeaderKey,
    daemon::terms::Keys,
    observer::ElectionState,
    protocol::{Moment, Term},
    record::TermRecord,
};
use std::{sync::Arc, time::Duration};

/// Why the state of the election is not known at the start.
pub(super) const NOT_ANSWERED_YET: &str = "etcd has not responded yet";

/// Something that knows about an election.
pub(super) trait Source: Send + Sync + 'static {
    /// Returns what is known at this instant.
    fn snapshot(&self) -> Snapshot;
}

/// All that is known, at one instant.
pub(super) struct Snapshot {
    pub leader_key: LeaderKey,
    /// This replica; `None` for a process that only observes.
    pub replica: Option<Replica>,
    /// The state of the election, or why it is not known.
    pub election: Result<ElectionState, &'static str>,
    /// Both keys, if they are known.
    pub keys: Option<Keys>,
    /// The candidates, if they are known.
    pub candidates: Option<Candidates>,
    /// For how long what is known of the leader counts.
    pub validity: Option<Validity>,
    /// The TTL, if it is known.
    pub ttl: Option<Duration>,
    /// The endpoint that this process uses.
    pub endpoint: Option<String>,
    pub etcd_answers: bool,
    /// The last terms, as last read, the oldest first; `None` if they are not known.
    pub terms: Option<Arc<[TermRecord]>>,
    /// When the passing of time alone changes any of this.
    pub changes_at: Option<Moment>,
}

/// What a replica knows about itself.
pub(super) struct Replica {
    pub name: String,
    pub priority: i32,
    /// Whether it can lead, as far as it knows: it does not stand back.
    pub is_healthy: bool,
    pub role: CurrentRole,
    /// The term that it leads or stops leading.
    pub term: Option<Term>,
    /// How long ago the request was sent whose response last showed the keys.
    pub age: Option<Duration>,
    /// The last transitions, the oldest first.
    pub transitions: Vec<Transition>,
}

/// For how long what is known of the leader counts unless it is renewed.
#[derive(Clone, Copy)]
pub(super) struct Validity {
    /// For how long from now.
    pub remaining: Duration,
    /// For how long right after a renewal.
    pub renewed: Duration,
    /// When it ends, which a renewal changes.
    pub until: Moment,
}

impl Validity {
    /// Returns the time until a moment, of the time that a renewal gives.
    pub fn new(now: Moment, until: Moment, renewed: Duration) -> Self {
        Self {
            remaining: until.since(now).min(renewed),
            renewed,
            until,
        }
    }
}

impl Snapshot {
    /// Returns how long this replica may lead without a renewal, if it leads.
    pub fn remaining(&self) -> Option<Duration> {
        self.leads().then_some(self.validity?.remaining)
    }

    /// Returns whether this process leads.
    pub fn leads(&self) -> bool {
        let replica = self.replica.as_ref();
        replica.is_some_and(|replica| replica.role == CurrentRole::Leader)
    }
}
