//! What this replica knows about itself and the election, and the rules that judge it.

use super::{
    format::Format,
    metrics::Metrics,
    role::{CurrentRole, RoleChange, Transition},
};
use crate::{
    clock,
    config::{Config, LeaderKey},
    observer::Leader,
    protocol::{Event, Moment, Role, Situation, Status, Term, Timing},
    wall_clock,
};
use std::{
    collections::VecDeque,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// How long a replica that has just woken from a pause may take to notice a deadline.
const WAKE_UP_TIME: Duration = Duration::from_secs(1);

/// How many transitions are kept.
const TRANSITIONS: usize = 20;

/// What this replica knows.
pub(super) struct ReplicaState {
    name: String,
    leader_key: LeaderKey,
    endpoints: Vec<String>,
    status: watch::Receiver<Status>,
    known: Mutex<Known>,
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
}

/// All that this replica knows, at one instant.
pub(super) struct Snapshot {
    pub name: String,
    pub leader_key: LeaderKey,
    pub role: CurrentRole,
    /// The term that it leads or stops leading.
    pub term: Option<Term>,
    /// How long it may lead without a renewal, if it leads.
    pub remaining: Option<Duration>,
    /// Whether somebody leads, and who; or why that is not known.
    pub election: Result<(Situation, Option<Leader>), &'static str>,
    /// How long ago the request was sent whose response last showed the keys.
    pub age: Option<Duration>,
    pub ttl: Duration,
    /// The endpoint that it uses.
    pub endpoint: Option<String>,
    pub etcd_answers: bool,
    /// The last transitions, the oldest first.
    pub transitions: Vec<Transition>,
}

impl ReplicaState {
    pub fn new(config: &Config, status: watch::Receiver<Status>) -> Self {
        let endpoints = config.cluster().endpoints().iter();
        Self {
            name: config.name().as_str().to_owned(),
            leader_key: config.leader_key().clone(),
            endpoints: endpoints.map(ToString::to_string).collect(),
            status,
            known: Mutex::new(Known {
                timing: Timing::new(config.ttl().as_duration(), config.grace()),
                etcd_answers: None,
                overdue_since: None,
                transitions: VecDeque::new(),
            }),
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
            && known_election(&status, now).is_ok_and(|(situation, _)| situation.is_led())
            && self.lock().etcd_answers(&status, now)
    }

    /// Returns true iff etcd has answered and still does.
    pub fn etcd_answers(&self) -> bool {
        let status = self.status.borrow();
        self.lock().etcd_answers(&status, clock::now())
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
            // Killing takes a tenth of the grace.
            Role::Stopping { by, .. } => now > by + known.timing.grace() / 10,
            Role::Follower => false,
        };
        // After a pause it is overdue at first, and stops acting at once.
        known.overdue_since = is_overdue.then(|| known.overdue_since.unwrap_or(now));
        match known.overdue_since {
            Some(since) if now.since(since) > WAKE_UP_TIME => Err("it acts past its deadline"),
            _ => Ok(()),
        }
    }

    /// Returns what this replica knows at this instant.
    pub fn snapshot(&self) -> Snapshot {
        let status = self.status.borrow().clone();
        let known = self.lock();
        let now = clock::now();
        let role = CurrentRole::at(now, status.role);
        let (term, remaining) = match status.role {
            Role::Leader { term, deadline } => (Some(term), Some(deadline.since(now))),
            Role::Stopping { term, .. } => (Some(term), None),
            Role::Follower | Role::Withdrawn => (None, None),
        };
        Snapshot {
            name: self.name.clone(),
            leader_key: self.leader_key.clone(),
            role,
            term,
            remaining: remaining.filter(|_| role == CurrentRole::Leader),
            election: known_election(&status, now),
            age: status.keys_as_of.map(|sent| now.since(sent)),
            ttl: known.timing.ttl(),
            endpoint: self.endpoints.get(status.endpoint).cloned(),
            etcd_answers: known.etcd_answers(&status, now),
            transitions: known.transitions.iter().cloned().collect(),
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

impl Known {
    fn etcd_answers(&self, status: &Status, now: Moment) -> bool {
        self.etcd_answers == Some(true) && !is_outdated(status, now)
    }
}

/// Returns true iff what is known of the keys is too old to rely on.
fn is_outdated(status: &Status, now: Moment) -> bool {
    status.keys_known_until.is_some_and(|until| now >= until)
}

/// Returns whether somebody leads, and who.
///
/// # Errors
/// If that is not known; the error says why.
fn known_election(
    status: &Status,
    now: Moment,
) -> Result<(Situation, Option<Leader>), &'static str> {
    if status.keys_as_of.is_none() {
        return Err("etcd has not answered yet");
    }
    if is_outdated(status, now) {
        return Err("etcd has not answered for longer than the TTL");
    }
    let (leader, acting) = (status.leader.as_ref(), status.acting.as_ref());
    Ok((Situation::of(leader, acting), Leader::of(leader, acting)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Cluster,
        daemon::{http::document::document, render::text},
        protocol::{Entry, FencingToken, LeaseId, LossReason},
    };

    const TERM: Term = Term {
        token: FencingToken::new(1),
        lease: LeaseId::new(1),
    };

    fn state(role: Role) -> (watch::Sender<Status>, ReplicaState) {
        let cluster = Cluster::new(vec!["127.0.0.1:1".parse().unwrap()]).unwrap();
        let config = Config::new("one".parse().unwrap(), cluster);
        let (sender, status) = watch::channel(Status {
            role,
            keys_as_of: None,
            keys_known_until: None,
            leader: None,
            acting: None,
            seats: None,
            endpoint: 0,
        });
        (sender, ReplicaState::new(&config, status))
    }

    #[test]
    fn a_replica_that_acts_past_its_deadline_does_not_lead_and_is_not_alive() {
        let (soon, past) = (clock::now() + Duration::from_mins(1), clock::now());
        let leader = |deadline| {
            state(Role::Leader {
                term: TERM,
                deadline,
            })
        };
        let stopping = |by| {
            let reason = LossReason::NotRenewed;
            state(Role::Stopping {
                term: TERM,
                by,
                reason,
            })
        };
        for ((_election, state), leads, lives) in [
            (leader(soon), true, true),
            (leader(past), false, false),
            (stopping(soon), false, true),
            (stopping(past), false, false),
            (state(Role::Follower), false, true),
        ] {
            assert_eq!(state.is_leader(), leads);
            assert!(state.check_liveness().is_ok(), "it may have been paused");
            let before = Moment::from_origin(Duration::ZERO);
            let mut known = state.lock();
            known.overdue_since = known.overdue_since.map(|_| before);
            drop(known);
            assert_eq!(state.check_liveness().is_ok(), lives);
        }
    }

    #[test]
    fn what_is_known_of_the_leader_is_given_with_its_age_and_no_longer_than_a_ttl() {
        let lease = Some(LeaseId::new(1));
        let entry = Entry {
            value: b"two"[..].into(),
            lease,
            mod_revision: 1,
        };
        let (election, state) = state(Role::Follower);
        state.lock().etcd_answers = Some(true);
        let fresh = clock::now();
        let old = Moment::from_origin(Duration::ZERO);
        for (sent, leader, reason) in [
            (None, None, Some("etcd has not answered yet")),
            (Some(fresh), Some("two"), None),
            (
                Some(old),
                None,
                Some("etcd has not answered for longer than the TTL"),
            ),
            (Some(fresh), Some("two"), None),
        ] {
            election.send_modify(|status| {
                status.leader = Some(entry.clone());
                status.acting = Some(entry.clone());
                status.keys_as_of = sent;
                status.keys_known_until = sent.map(|sent| sent + Duration::from_secs(5));
            });
            let document = document(&state.snapshot());
            assert_eq!(document["leader"]["name"].as_str(), leader);
            assert_eq!(document["leader_unknown_because"].as_str(), reason);
            assert_eq!(document["age"].is_null(), sent.is_none());
            assert_eq!(state.is_follower(), leader.is_some());
            assert_eq!(state.etcd_answers(), sent != Some(old));
            assert_eq!(document["etcd_answers"], state.etcd_answers());
        }
    }

    #[test]
    fn a_transition_keeps_no_more_of_a_value_than_it_shows() {
        let (_election, state) = state(Role::Follower);
        let exact = format!("{}\u{fffd}", "x".repeat(254));
        for value in [exact.as_str(), &"x".repeat(255), &"x".repeat(100_000)] {
            let leader = Entry {
                value: value.as_bytes().into(),
                lease: None,
                mod_revision: 1,
            };
            state.record(&Event::Following { leader });
            let document = document(&state.snapshot());
            let transitions = document["transitions"].as_array().unwrap();
            for (field, shown) in text("leader", value.as_bytes()) {
                assert_eq!(transitions.last().unwrap()[&field], shown);
            }
            match state.lock().transitions.back().unwrap().change {
                RoleChange::Follows {
                    leader: Some(ref kept),
                } => assert!(kept.len() < 260),
                _ => panic!("it follows"),
            }
        }
    }

    #[test]
    fn an_election_that_has_died_is_not_alive_and_one_that_has_withdrawn_is() {
        for (role, lives) in [(Role::Follower, false), (Role::Withdrawn, true)] {
            let (election, state) = state(role);
            drop(election);
            assert_eq!(state.check_liveness().is_ok(), lives);
        }
    }
}
