//! The state of a process that only observes an election.

use super::{
    feed::Feed,
    format::Format,
    metrics::ObserverMetrics,
    snapshot::{NOT_ANSWERED_YET, Snapshot, Source, Validity},
};
use crate::{
    candidates::Candidates,
    clock,
    config::LeaderKey,
    daemon::terms::Keys,
    observer::{ElectionState, Observed},
    protocol::{LeaseId, LeaseTime, Moment},
    record::TermRecord,
};
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, futures::Notified},
    time::sleep,
};

/// How often the terms are read after a change: the last leader and the next one may be recording them just then.
const READS: usize = 3;
/// etcd counts whole seconds, so that what it says of a lease differs by this much from one time to the next.
const ROUNDING: Duration = Duration::from_secs(1);

/// What an observer knows.
pub(super) struct ObserverState {
    leader_key: LeaderKey,
    /// The endpoints, separated by commas.
    endpoints: String,
    known: Mutex<Known>,
    changed: Notify,
    /// Notified when there is something to ask.
    asks: Notify,
    metrics: ObserverMetrics,
}

#[derive(Default)]
struct Known {
    etcd_answers: Option<bool>,
    state: Option<ElectionState>,
    candidates: Option<Candidates>,
    terms: Option<Arc<[TermRecord]>>,
    /// Both keys as of the terms, unless they have changed since.
    keys: Option<Keys>,
    /// How often the terms must still be read.
    reads_due: usize,
    /// When the leader's lease ends unless it is renewed.
    lease_ends: Option<Moment>,
    /// The TTL of the last lease that was asked for.
    ttl: Option<Duration>,
}

impl ObserverState {
    pub fn new(leader_key: &LeaderKey, endpoints: String) -> Self {
        Self {
            leader_key: leader_key.clone(),
            endpoints,
            known: Mutex::default(),
            changed: Notify::new(),
            asks: Notify::new(),
            metrics: ObserverMetrics::new(),
        }
    }

    /// Records what was observed.
    pub fn record(&self, observed: &Observed) {
        let mut known = self.lock();
        match observed {
            Observed::State(state) => {
                let lease = |state: &ElectionState| holder(state);
                if known.state.as_ref().and_then(lease) != holder(state) {
                    known.lease_ends = None;
                }
                if known.state.is_some() {
                    self.metrics.count_change();
                }
                known.state = Some(state.clone());
                known.etcd_answers = Some(true);
                known.keys = None;
                known.reads_due = READS;
                self.asks.notify_one();
            }
            Observed::Candidates(candidates) => known.candidates = Some(candidates.clone()),
            Observed::CandidatesUnknown { .. } => known.candidates = None,
            Observed::Unanswered { .. } => known.etcd_answers = Some(false),
            Observed::AnsweredAgain { .. } => known.etcd_answers = Some(true),
            Observed::HistoryWentBack => {
                let etcd_answers = known.etcd_answers;
                *known = Known {
                    etcd_answers,
                    ..Known::default()
                };
            }
            Observed::Gap { .. } | Observed::AuthenticationOff => return,
        }
        self.changed.notify_one();
    }

    /// Returns whether the terms must be read now.
    pub fn is_read_due(&self) -> bool {
        self.lock().reads_due > 0
    }

    /// Records the terms, and both keys as of the same revision; `None` if etcd does not show them. What is older than
    /// the state that was observed meanwhile does not count.
    pub fn record_terms(&self, revision: i64, terms: Option<(Vec<TermRecord>, Keys)>) {
        let mut known = self.lock();
        let observed = known.state.as_ref().map(|state| state.revision);
        if terms.is_some() && observed.is_some_and(|observed| revision < observed) {
            return;
        }
        known.reads_due = known.reads_due.saturating_sub(1);
        let (terms, keys) = terms.unzip();
        known.terms = terms.map(Into::into);
        known.keys = keys;
        self.changed.notify_one();
    }

    /// Returns the lease to ask for: the leader's, or that of the process that may still be acting.
    pub fn lease(&self) -> Option<LeaseId> {
        holder(self.lock().state.as_ref()?)
    }

    /// Records how long this lease lasts, if that is known.
    pub fn record_lease(&self, lease: LeaseId, time: Option<LeaseTime>) {
        let now = clock::now();
        let mut known = self.lock();
        if known.state.as_ref().and_then(holder) != Some(lease) {
            return;
        }
        let ends = time.map(|time| now + time.remaining);
        if let (Some(before), Some(ends)) = (known.lease_ends, ends)
            && before.since(ends).max(ends.since(before)) < ROUNDING
        {
            return;
        }
        known.lease_ends = ends;
        known.ttl = time.map(|time| time.granted).or(known.ttl);
        self.changed.notify_one();
    }

    /// Waits until there is something to ask. Cancel safe.
    pub fn has_questions(&self) -> Notified<'_> {
        self.asks.notified()
    }

    /// Publishes what changes. Never ends.
    pub async fn publish(self: Arc<Self>, feed: Arc<Feed>) {
        loop {
            let snapshot = self.snapshot();
            feed.publish(&snapshot);
            let left = snapshot.changes_at.map(|at| at.since(clock::now()));
            tokio::select! {
                () = self.changed.notified() => {}
                () = sleep(left.unwrap_or_default()), if left.is_some() => {}
            }
        }
    }

    /// Returns the metrics at this instant, in this format.
    ///
    /// # Errors
    /// None are known: writing to a `String` does not fail.
    pub fn encode_metrics(&self, format: Format) -> Result<String, fmt::Error> {
        self.metrics.encode(&self.snapshot(), format)
    }

    /// Nothing that is done under the lock can leave it half done.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for ObserverState {
    fn snapshot(&self) -> Snapshot {
        let known = self.lock();
        let now = clock::now();
        let election = match (known.etcd_answers, &known.state) {
            (Some(false), _) => Err("etcd does not respond"),
            (_, Some(state)) => Ok(state.clone()),
            (_, None) => Err(NOT_ANSWERED_YET),
        };
        let lease_ends = known.lease_ends.filter(|ends| *ends > now);
        Snapshot {
            leader_key: self.leader_key.clone(),
            replica: None,
            candidates: election.as_ref().ok().and(known.candidates.clone()),
            keys: known.keys.clone(),
            election,
            validity: lease_ends
                .zip(known.ttl)
                .map(|(ends, ttl)| Validity::new(now, ends, ttl)),
            ttl: known.ttl,
            endpoint: Some(self.endpoints.clone()),
            etcd_answers: known.etcd_answers == Some(true),
            terms: known.terms.clone(),
            changes_at: lease_ends,
        }
    }
}

/// Returns the lease of the process that may be acting.
fn holder(state: &ElectionState) -> Option<LeaseId> {
    let leader = state.leader.as_ref().map(|leader| leader.lease);
    leader.or_else(|| state.acting.as_ref()?.lease)
}
