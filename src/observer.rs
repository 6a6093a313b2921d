//! Follows who leads, without taking part.

mod follow;
mod key_history;
#[cfg(test)]
mod tests;

use crate::{
    candidates::Candidates,
    config::{Cluster, LeaderKey},
    etcd::Target,
    protocol::{
        ElectionKey, Entry, FailOverLimit, Failure, FencingToken, LeaseId, Situation, View,
    },
    record::ActingRecord,
};
use key_history::KeyHistory;
use std::{sync::Arc, time::SystemTime};
use tokio::{sync::mpsc, task::JoinHandle};

/// Follows who leads in an election, and who else takes part, without taking part itself.
///
/// It has no lease, and needs an etcd role that may read the two keys. It survives restarts of etcd and
/// misses no change: after an interruption, it continues in the history of the two keys where it stopped.
///
/// For the candidates, it reports the present list, not each change. If the role may not read `KEY/next`
/// and the candidates' seats below `KEY/candidates/`, it reports only the leader.
#[derive(Debug)]
pub struct Observer {
    observed: mpsc::Receiver<Observed>,
    task: JoinHandle<()>,
}

/// How many observations wait to be received; the next ones stay with etcd until then.
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

    /// Begins to observe from what is known already.
    #[cfg(feature = "daemon")]
    pub(crate) fn resume(cluster: Cluster, leader_key: &LeaderKey, known: View) -> Self {
        Self::spawn(cluster, leader_key, Some(KeyHistory::new(known)))
    }

    fn spawn(cluster: Cluster, leader_key: &LeaderKey, history: Option<KeyHistory>) -> Self {
        let (sender, observed) = mpsc::channel(QUEUE);
        let target = Target::new(cluster, leader_key);
        let follower = follow::Follower::new(target, history, sender);
        Self {
            observed,
            task: tokio::spawn(follower.run()),
        }
    }

    /// Waits for the next observation: first the state, then each change.
    ///
    /// An unreachable etcd does not end the observer. It returns `None` only after a bug in this program.
    ///
    /// Cancel safe: the next call returns what this one did not.
    pub async fn next(&mut self) -> Option<Observed> {
        self.observed.recv().await
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What an [`Observer`] reports.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(
    clippy::large_enum_variant,
    reason = "most reports are states, there are few of them, and a box would be in the way of each user"
)]
pub enum Observed {
    /// The state of the election: at first, and after each change.
    State(ElectionState),
    /// The listed candidates: after the first state, and whenever the list differs from the last report.
    /// It also differs if another candidate leads.
    Candidates(Candidates),
    /// etcd refuses to show the candidates: the role may not read `KEY/candidates/` and `KEY/next`.
    /// Reported once. If etcd shows the candidates later, they are reported.
    CandidatesUnknown {
        /// What etcd said.
        failure: Failure,
    },
    /// etcd has compacted its history since the last report, so that changes may be missing. The state
    /// follows.
    Gap {
        /// The last revision up to which everything was reported.
        after: i64,
    },
    /// etcd went back in its history (a restored backup), or is another etcd. The state follows.
    HistoryWentBack,
    /// Every endpoint has failed. This is not reported again before an endpoint has responded.
    Unanswered {
        /// The endpoint that failed first, by its place in the list.
        endpoint: usize,
        /// Its failure.
        failure: Failure,
    },
    /// A user is configured, and etcd's authentication is off. Reported once.
    AuthenticationOff,
    /// etcd responds again.
    AnsweredAgain {
        /// The endpoint that responded, by its place in the list.
        endpoint: usize,
    },
}

/// The state of an election at one revision of etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ElectionState {
    /// The revision.
    pub revision: i64,
    /// Whether somebody leads, or why nobody does.
    pub situation: Situation,
    /// The leader, if there is one.
    pub leader: Option<Leader>,
    /// The key `leader/acting`: while it exists, its holder may be acting, and nobody else can act.
    pub acting: Option<Acting>,
    /// A key that is bound to no lease, with its value. Somebody wrote it by hand, and no candidate can be
    /// elected until it is deleted.
    pub without_lease: Option<(ElectionKey, Arc<[u8]>)>,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leader {
    /// Its name, unchecked: anyone who may write the key can choose it, and it may not be UTF-8.
    pub name: Arc<[u8]>,
    /// The token that orders its term among all terms.
    pub token: FencingToken,
    /// Its lease.
    pub lease: LeaseId,
    /// How to reach it, if it publishes that.
    pub address: Option<String>,
    /// When the term began: by the leader's wall clock if it was elected, by its predecessor's if the term
    /// was handed over. `None` if that is not published.
    pub since: Option<SystemTime>,
    /// Whether `leader/acting` belongs to the same term. If so, the situation is [`Situation::Led`],
    /// otherwise [`Situation::LedWithoutActing`].
    pub acts: bool,
    /// Whether it took over from a leader that did not respond to a challenge.
    pub took_over: bool,
    /// The time within which it responds to a challenge; `None` if its term has no fail-over limit.
    pub fail_over: Option<FailOverLimit>,
}

/// Who may be acting.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Acting {
    /// The value of its `leader/acting` key.
    pub record: ActingRecord,
    /// The lease to which the key is bound. The key ends with it, if it is not removed before.
    pub lease: Option<LeaseId>,
}

impl Leader {
    /// Interprets both keys; returns `None` if nobody leads.
    #[must_use]
    pub fn of(leader: Option<&Entry>, acting: Option<&Entry>) -> Option<Self> {
        let acts = match Situation::of(leader, acting) {
            Situation::Led => true,
            Situation::LedWithoutActing => false,
            Situation::Ending | Situation::Blocked(_) | Situation::Vacant => return None,
        };
        let leader = leader?;
        let record = acting.filter(|_| acts);
        let record = record.map(|acting| ActingRecord::decode(&acting.value));
        let record = record.unwrap_or_default();
        Some(Self {
            name: Arc::clone(&leader.value),
            token: FencingToken::new(leader.mod_revision),
            lease: leader.lease?,
            address: record.address,
            since: record.since,
            acts,
            took_over: record.took_over,
            fail_over: record.fail_over,
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
            situation: Situation::of(leader, acting),
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

impl ElectionState {
    /// Returns the state that a read shows.
    pub(crate) fn of(view: &View) -> Self {
        Self::new(view.revision, view.leader.as_ref(), view.acting.as_ref())
    }
}
