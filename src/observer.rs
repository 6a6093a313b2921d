//! Follow who leads, without taking part.

mod follow;
mod key_history;
#[cfg(test)]
mod tests;

use crate::{
    acting_record::ActingRecord,
    config::{Cluster, LeaderKey},
    etcd::Keys,
    protocol::{ElectionKey, Entry, Failure, FencingToken, LeaseId, View},
};
use key_history::KeyHistory;
use std::{sync::Arc, time::SystemTime};
use tokio::{sync::mpsc, task::JoinHandle};

/// Follows who leads in an election, without taking part.
///
/// It has no lease, and an etcd role that may read the two keys suffices for it. It goes on through
/// etcd's restarts, and misses no change: after an interruption it takes up the history of the two
/// keys where it left it.
#[derive(Debug)]
pub struct Observer {
    observed: mpsc::Receiver<Observed>,
    task: JoinHandle<()>,
}

/// How many observations wait until they are taken; then the next are left with etcd.
const QUEUE: usize = 16;

impl Observer {
    /// Begins to observe.
    ///
    /// # Panics
    /// If it is not called within a tokio runtime that drives I/O and time.
    #[must_use]
    pub fn start(cluster: Cluster, leader_key: &LeaderKey) -> Self {
        Self::spawn(cluster, leader_key, None)
    }

    /// The same, from what is known already.
    #[cfg(feature = "daemon")]
    pub(crate) fn resume(cluster: Cluster, leader_key: &LeaderKey, known: View) -> Self {
        Self::spawn(cluster, leader_key, Some(KeyHistory::new(known)))
    }

    fn spawn(cluster: Cluster, leader_key: &LeaderKey, history: Option<KeyHistory>) -> Self {
        let (tell, observed) = mpsc::channel(QUEUE);
        let keys = Arc::new(Keys::new(leader_key));
        let follower = follow::Follower::new(cluster, keys, history, tell);
        Self {
            observed,
            task: tokio::spawn(follower.run()),
        }
    }

    /// Waits for what is observed next: first how things stand, then each change.
    ///
    /// That etcd cannot be reached does not end it. `None` comes only after a fault of this
    /// program.
    ///
    /// Cancel safe: what is not returned is returned by the next call.
    pub async fn next(&mut self) -> Option<Observed> {
        self.observed.recv().await
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What an [`Observer`] has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Observed {
    /// How things stand: at first, and after each change.
    State(ElectionState),
    /// etcd has forgotten its history since what was told last (a compaction), so that changes may
    /// be missing. The situation follows.
    Gap {
        /// The last revision of which everything was told.
        after: i64,
    },
    /// etcd went back in its history (a restored backup), or is another etcd. The situation
    /// follows.
    HistoryWentBack,
    /// Every endpoint has failed; said once, until one answers again.
    Unanswered {
        /// The endpoint that failed first, by its place in the list.
        endpoint: usize,
        /// Its failure.
        failure: Failure,
    },
    /// etcd answers again.
    AnsweredAgain {
        /// The endpoint that answered, by its place in the list.
        endpoint: usize,
    },
}

/// How an election stands at one revision of etcd's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ElectionState {
    /// The revision.
    pub revision: i64,
    /// Who leads, if anybody does.
    pub leader: Option<Leader>,
    /// The key `leader/acting`: while it is there, somebody may be acting, and nobody else can.
    pub acting: Option<Acting>,
    /// A key that is bound to no lease, with what it holds: somebody wrote it by hand, and nobody
    /// can be elected until it is deleted.
    pub without_lease: Option<(ElectionKey, Arc<[u8]>)>,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leader {
    /// Its name as it came, from whoever may write the key: not even UTF-8 for certain.
    pub name: Arc<[u8]>,
    /// Orders its term among all.
    pub token: FencingToken,
    /// Its lease.
    pub lease: LeaseId,
    /// How to reach it, if it says so.
    pub address: Option<String>,
    /// Since when it leads, by its own wall clock, if it says so.
    pub since: Option<SystemTime>,
    /// Whether `leader/acting` is of the same term. If not, somebody wrote `leader` who does not
    /// follow this protocol, or `leader/acting` was taken away, and the term is about to end.
    pub acts: bool,
}

/// Who may be acting.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Acting {
    /// What it tells of itself.
    pub record: ActingRecord,
    /// The lease with which the key ends, if it is not removed before.
    pub lease: Option<LeaseId>,
}

impl Leader {
    /// Makes sense of both keys; `None` if nobody leads.
    #[must_use]
    pub fn of(leader: Option<&Entry>, acting: Option<&Entry>) -> Option<Self> {
        let leader = leader?;
        let lease = leader.lease?;
        // One campaign writes both keys.
        let own = acting.filter(|acting| {
            acting.lease == Some(lease) && acting.mod_revision == leader.mod_revision
        });
        let record = own.map(|own| ActingRecord::decode(&own.value));
        let acts = record.is_some();
        let record = record.unwrap_or_default();
        Some(Self {
            name: Arc::clone(&leader.value),
            token: FencingToken::new(leader.mod_revision),
            lease,
            address: record.address,
            since: record.since,
            acts,
        })
    }
}

impl ElectionState {
    pub(crate) fn new(revision: i64, leader: Option<&Entry>, acting: Option<&Entry>) -> Self {
        let without_lease = |key, entry: Option<&Entry>| {
            let entry = entry.filter(|entry| entry.lease.is_none())?;
            Some((key, Arc::clone(&entry.value)))
        };
        Self {
            revision,
            leader: Leader::of(leader, acting),
            acting: acting.map(|acting| Acting {
                record: ActingRecord::decode(&acting.value),
                lease: acting.lease,
            }),
            without_lease: without_lease(ElectionKey::Leader, leader)
                .or_else(|| without_lease(ElectionKey::Acting, acting)),
        }
    }
}

impl From<&View> for ElectionState {
    fn from(view: &View) -> Self {
        Self::new(view.revision, view.leader.as_ref(), view.acting.as_ref())
    }
}
