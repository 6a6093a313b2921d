//! What this replica knows about itself and the election, and the rules that evaluate it.

#[cfg(test)]
mod tests;

use super::{
    feed::Feed,
    format::Format,
    metrics::Metrics,
    role::{CurrentRole, RoleChange, Transition},
    snapshot::{NOT_ANSWERED_YET, Replica, Snapshot, Source, Validity},
};
use crate::{
    candidates::Candidates,
    clock,
    config::{Config, LeaderKey},
    daemon::terms::Keys,
    observer::ElectionState,
    protocol::{Event, Moment, Role, Status, Timing},
    record::TermRecord,
    wall_clock,
};
use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

/// How long a replica that has just woken from a pause may take to notice a deadline.
const WAKE_UP_TIME: Duration = Duration::from_secs(1);

/// How many transitions are kept.
const TRANSITIONS: usize = 20;

/// What this replica knows.
pub(super) struct ReplicaState {
    name: String,
    leader_key: LeaderKey,
    priority: i32,
    endpoints: Vec<String>,
    status: watch::Receiver<Status>,
    /// The last terms, as last read.
    terms: watch::Receiver<Option<Arc<[TermRecord]>>>,
    known: Mutex<Known>,
    /// Notified of what the status does not show.
    recorded: Notify,
    metrics: Metrics,
}

/// What is known from events alone.
struct Known {
    timing: Timing,
    /// `None` before etcd first answered.
    etcd_answers: Option<bool>,
    /// When it was first seen to act past its deadline, if it still does.
    overdue_since: Option<Moment>,
    transitions: VecDeque<Transition>,
    /// Why it stands back, if it does.
    stands_back_because: Option<String>,
}

impl ReplicaState {
    pub fn new(
        config: &Config,
        status: watch::Receiver<Status>,
        terms: watch::Receiver<Option<Arc<[TermRecord]>>>,
    ) -> Self {
        let endpoints = config.cluster().endpoints().iter();
        Self {
            name: config.name().as_str().to_owned(),
            leader_key: config.leader_key().clone(),
            priority: config.priority(),
            endpoints: endpoints.map(ToString::to_string).collect(),
            status,
            terms,
            known: Mutex::new(Known {
                timing: Timing::new(config.ttl().as_duration(), config.grace()),
                etcd_answers: None,
                overdue_since: None,
                transitions: VecDeque::new(),
                stands_back_because: config.stands_back().map(str::to_owned),
            }),
            recorded: Notify::new(),
            metrics: Metrics::new(),
        }
    }

    /// Records what happened in the election.
    pub fn record(&self, event: &Event) {
        self.metrics.count(event);
        let mut known = self.lock();
        match event {
            Event::Granted { ttl, .. } => {
                known.timing = Timing::new(*ttl, known.timing.grace());
                // Does not end an outage: an etcd may grant leases and refuse all else.
                known.etcd_answers.get_or_insert(true);
            }
            Event::AnsweredAgain { .. } => known.etcd_answers = Some(true),
            Event::Unanswered { .. } => known.etcd_answers = Some(false),
            Event::Renewed { sent, .. } => self.metrics.count_renewal(*sent, clock::now()),
            _ => {}
        }
        if let Some(change) = RoleChange::from_event(event) {
            let last = known.transitions.back();
            if last.is_none_or(|last| last.change.role() != change.role()) {
                self.metrics.count_transition();
            }
            if known.transitions.len() == TRANSITIONS {
                known.transitions.pop_front();
            }
            let at = wall_clock::now();
            known.transitions.push_back(Transition { at, change });
        }
        self.recorded.notify_one();
    }

    /// Records why this replica stands back, or that it does not.
    pub fn record_health(&self, reason: Option<&str>) {
        self.lock().stands_back_because = reason.map(str::to_owned);
        self.recorded.notify_one();
    }

    /// Returns true iff this replica leads at this instant.
    pub fn is_leader(&self) -> bool {
        CurrentRole::at(clock::now(), self.status.borrow().role) == CurrentRole::Leader
    }

    /// Returns true iff this replica follows a leader that it knows.
    pub fn is_follower(&self) -> bool {
        let status = self.status.borrow();
        let now = clock::now();
        matches!(status.role, Role::Follower)
            && known_election(&status, now).is_ok_and(|state| state.situation.is_led())
            && self.lock().etcd_answers(&status, now)
    }

    /// Checks that this replica could lead.
    ///
    /// # Errors
    /// If it could not; the error says why.
    pub fn check_readiness(&self) -> Result<(), String> {
        let status = self.status.borrow();
        let known = self.lock();
        if !known.etcd_answers(&status, clock::now()) {
            return Err("etcd has not responded yet, or no longer does".to_owned());
        }
        match &known.stands_back_because {
            _ if !status.stands_back => Ok(()),
            Some(reason) => Err(format!("this replica stands back: {reason}")),
            None => Err("this replica stands back".to_owned()),
        }
    }

    /// Checks that the election goes on as it should.
    ///
    /// # Errors
    /// If it does not; the error says why.
    pub fn check_liveness(&self) -> Result<(), &'static str> {
        let has_died = self.status.has_changed().is_err();
        let role = self.status.borrow().role;
        let mut known = self.lock();
        let now = clock::now();
        let is_overdue = match role {
            Role::Withdrawn => return Ok(()),
            _ if has_died => return Err("the election has died"),
            Role::Leader { deadline, .. } => now >= deadline,
            Role::Stopping { by, .. } => now > by + known.timing.time_to_kill(),
            Role::Follower => false,
        };
        // After a pause it is overdue at first, and stops acting at once.
        known.overdue_since = is_overdue.then(|| known.overdue_since.unwrap_or(now));
        match known.overdue_since {
            Some(since) if now.since(since) > WAKE_UP_TIME => Err("it acts past its deadline"),
            _ => Ok(()),
        }
    }

    /// Publishes what changes. Never ends: after the election has, time passes nevertheless.
    pub async fn publish(self: Arc<Self>, feed: Arc<Feed>) {
        let mut status = self.status.clone();
        let mut terms = self.terms.clone();
        let mut election_runs = true;
        loop {
            status.mark_unchanged();
            terms.mark_unchanged();
            let snapshot = self.snapshot();
            feed.publish(&snapshot);
            let left = snapshot.changes_at.map(|at| at.since(clock::now()));
            tokio::select! {
                changed = status.changed(), if election_runs => election_runs = changed.is_ok(),
                // Without the right to read the terms, nothing sends them any more.
                Ok(()) = terms.changed() => {}
                () = self.recorded.notified() => {}
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

impl Source for ReplicaState {
    fn snapshot(&self) -> Snapshot {
        let status = self.status.borrow().clone();
        let known = self.lock();
        let now = clock::now();
        let term = match status.role {
            Role::Leader { term, .. } | Role::Stopping { term, .. } => Some(term),
            Role::Follower | Role::Withdrawn => None,
        };
        let election = known_election(&status, now);
        let validity = validity(&status, known.timing, now);
        let until = validity.map(|validity| validity.until);
        Snapshot {
            leader_key: self.leader_key.clone(),
            replica: Some(Replica {
                name: self.name.clone(),
                priority: self.priority,
                is_healthy: !status.stands_back,
                role: CurrentRole::at(now, status.role),
                term,
                age: status.keys_as_of.map(|sent| now.since(sent)),
                transitions: known.transitions.iter().cloned().collect(),
            }),
            candidates: election.as_ref().ok().and(Candidates::of(&status)),
            keys: election.is_ok().then(|| Keys {
                leader: status.leader.clone(),
                acting: status.acting.clone(),
            }),
            election,
            validity,
            ttl: Some(known.timing.ttl()),
            endpoint: self.endpoints.get(status.endpoint).cloned(),
            etcd_answers: known.etcd_answers(&status, now),
            terms: self.terms.borrow().clone(),
            changes_at: [until, status.keys_known_until]
                .into_iter()
                .flatten()
                .filter(|moment| *moment > now)
                .min(),
        }
    }
}

impl Known {
    fn etcd_answers(&self, status: &Status, now: Moment) -> bool {
        self.etcd_answers == Some(true) && !is_outdated(status, now)
    }
}

/// Returns for how long what is known of the leader counts: while this replica leads, its right to act.
fn validity(status: &Status, timing: Timing, now: Moment) -> Option<Validity> {
    match status.role {
        Role::Leader { deadline, .. } => {
            let acting = status.acting.as_ref();
            let limit = acting.and_then(|acting| acting.settings.fail_over);
            let term = timing.term_of_try();
            let renewed = limit.map_or(term, |limit| limit.acts_for().min(term));
            Some(Validity::new(now, deadline, renewed))
        }
        Role::Follower => {
            let until = status.keys_known_until?;
            Some(Validity::new(now, until, timing.ttl()))
        }
        Role::Stopping { .. } | Role::Withdrawn => None,
    }
}

/// Returns true iff what is known of the keys is too old to rely on.
fn is_outdated(status: &Status, now: Moment) -> bool {
    status.keys_known_until.is_some_and(|until| now >= until)
}

/// Returns the state of the election.
///
/// # Errors
/// If that is not known; the error says why.
fn known_election(status: &Status, now: Moment) -> Result<ElectionState, &'static str> {
    if status.keys_as_of.is_none() {
        return Err(NOT_ANSWERED_YET);
    }
    if is_outdated(status, now) {
        return Err("etcd has not responded for longer than the TTL");
    }
    let (leader, acting) = (status.leader.as_ref(), status.acting.as_ref());
    let revision = [leader, acting].into_iter().flatten();
    let revision = revision.map(|key| key.mod_revision).max();
    Ok(ElectionState::new(
        revision.unwrap_or_default(),
        leader,
        acting,
    ))
}
