//! A machine whose network and clock the test controls.

use crate::protocol::{
    Action, CallId, Effect, ElectionKey, Entry, Event, Failure, FailureKind, Input, KeptAlive,
    LeaseId, Machine, Moment, Role, Settings, TermSettings, Transaction, Ttl, View,
};
use std::{num::NonZeroUsize, time::Duration};

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MILLI: Duration = Duration::from_millis(1);
pub(super) const OTHER: LeaseId = LeaseId::new(0x0fe);

/// A machine whose network and clock are the test.
pub(super) struct Harness {
    pub machine: Machine,
    pub now: Moment,
    pub actions: Vec<Action>,
    pub events: Vec<Event>,
}

impl Harness {
    pub fn new(endpoints: usize) -> Self {
        Self::with_grace(endpoints, Duration::ZERO)
    }

    pub fn with_grace(endpoints: usize, grace: Duration) -> Self {
        Self::with(endpoints, |settings| settings.grace = grace)
    }

    /// A machine with settings that differ from the usual ones.
    pub fn with(endpoints: usize, change: impl FnOnce(&mut Settings)) -> Self {
        let now = Moment::from_origin(1000 * SECOND);
        let mut settings = Settings {
            ttl: Ttl::default(),
            grace: Duration::ZERO,
            stop_timeout: 10 * SECOND,
            endpoints: NonZeroUsize::new(endpoints).unwrap(),
            wait: None,
            runs_once: false,
            priority: 0,
            priority_delay: None,
            stands_back: false,
            fail_over: None,
            first_lease: LeaseId::new(0x101),
        };
        change(&mut settings);
        let mut harness = Self {
            machine: Machine::new(settings, now),
            now,
            actions: Vec::new(),
            events: Vec::new(),
        };
        harness.collect();
        harness
    }

    pub fn collect(&mut self) {
        self.actions
            .extend(std::iter::from_fn(|| self.machine.poll_action()));
        self.events
            .extend(std::iter::from_fn(|| self.machine.poll_event()));
    }

    pub fn handle(&mut self, input: Input) {
        self.machine.handle(self.now, input);
        self.collect();
    }

    /// Lets time pass, waking the machine whenever it wants to be.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(wake) = self.machine.poll_timeout().filter(|wake| *wake <= end) {
            self.now = self.now.max(wake);
            self.machine.handle_timeout(self.now);
            self.collect();
            let next = self.machine.poll_timeout();
            assert!(next.is_none_or(|next| next > self.now), "it spins");
        }
        self.now = end;
    }

    /// Takes the newest action for which `pick` returns something: older calls have run out.
    pub fn take<T>(&mut self, pick: impl Fn(&Action) -> Option<T>) -> T {
        let found = self
            .actions
            .iter()
            .enumerate()
            .rev()
            .find_map(|(place, action)| Some((place, pick(action)?)));
        let Some((place, picked)) = found else {
            panic!("not among {:?}", self.actions);
        };
        self.actions.remove(place);
        picked
    }

    pub fn has(&self, pick: impl Fn(&Action) -> bool) -> bool {
        self.actions.iter().any(pick)
    }

    pub fn take_connect(&mut self) -> (CallId, usize) {
        self.take(|action| match action {
            Action::Connect { call, endpoint, .. } => Some((*call, *endpoint)),
            _ => None,
        })
    }

    pub fn connect(&mut self) -> usize {
        let (call, endpoint) = self.take_connect();
        let result = Ok(());
        self.handle(Input::Connected { call, result });
        endpoint
    }

    pub fn refuse_connection(&mut self) -> usize {
        let (call, endpoint) = self.take(|action| match action {
            Action::Connect { call, endpoint, .. } => Some((*call, *endpoint)),
            _ => None,
        });
        let result = Err(unreachable());
        self.handle(Input::Connected { call, result });
        endpoint
    }

    pub fn grant(&mut self) -> LeaseId {
        self.grant_for(5 * SECOND)
    }

    pub fn grant_for(&mut self, ttl: Duration) -> LeaseId {
        let (call, lease) = self.take(|action| match action {
            Action::Grant { call, lease, .. } => Some((*call, *lease)),
            _ => None,
        });
        let result = Ok(ttl);
        self.handle(Input::Granted { call, result });
        lease
    }

    pub fn take_try(&mut self) -> (CallId, bool) {
        self.take(|action| match action {
            Action::Try {
                call, transaction, ..
            } => Some((*call, transaction.writes())),
            _ => None,
        })
    }

    /// Takes the newest try; returns its transaction.
    pub fn take_transaction(&mut self) -> (CallId, Transaction) {
        self.take(|action| match action {
            Action::Try {
                call, transaction, ..
            } => Some((*call, *transaction)),
            _ => None,
        })
    }

    pub fn take_look(&mut self) -> (CallId, Transaction) {
        self.take(|action| match action {
            Action::Look {
                call, transaction, ..
            } => Some((*call, *transaction)),
            _ => None,
        })
    }

    /// Takes the newest transaction that is executed beside everything else.
    pub fn take_beside(&mut self) -> (CallId, Transaction) {
        self.take(|action| match action {
            Action::Execute {
                call, transaction, ..
            } => Some((*call, *transaction)),
            _ => None,
        })
    }

    /// Answers the newest transaction beside everything else; returns it.
    pub fn execute(&mut self, result: Result<View, Failure>) -> Transaction {
        let (call, transaction) = self.take_beside();
        self.handle(Input::Executed { call, result });
        transaction
    }

    /// Lets the keys of a term be deleted, after which its lease is revoked.
    pub fn release(&mut self, lease: LeaseId) {
        assert!(!self.has(|action| matches!(action, Action::Revoke { .. })));
        let transaction = self.execute(Ok(view(99, None, None)));
        assert_eq!(transaction.effect, Effect::Release);
        let of_lease =
            |action: &Action| matches!(action, Action::Revoke { lease: of, .. } if *of == lease);
        assert!(self.has(of_lease), "{:?}", self.actions);
        assert!(!self.machine.holds_keys_of(lease));
    }

    pub fn keep_alive(&mut self, call: CallId, raft_term: u64) {
        let result = Ok(KeptAlive { ttl: 5, raft_term });
        self.handle(Input::KeptAlive { call, result });
    }

    pub fn transact(&mut self, call: CallId, view: View) {
        let result = Ok(view);
        self.handle(Input::Transacted { call, result });
    }

    /// Answers the next try in full; returns whether it was a campaign.
    pub fn answer(&mut self, view: View) -> bool {
        let (call, campaign) = self.take_try();
        self.transact(call, view);
        self.keep_alive(call, 1);
        campaign
    }

    pub fn changed(&mut self, key: ElectionKey, revision: i64, entry: Option<Entry>) {
        let watch = self
            .actions
            .iter()
            .rev()
            .find_map(|action| match action {
                Action::Watch { watch, .. } => Some(*watch),
                _ => None,
            })
            .unwrap();
        self.handle(Input::Changed {
            watch,
            key,
            revision,
            entry,
        });
    }

    /// What acts has stopped.
    pub fn stop(&mut self) {
        let (Role::Leader { term, .. } | Role::Stopping { term, .. }) = self.machine.status().role
        else {
            panic!("nothing acts: {:?}", self.machine);
        };
        self.handle(Input::Stopped { term });
    }

    pub fn is_leader(&self) -> bool {
        match self.machine.status().role {
            Role::Leader { deadline, .. } => self.now < deadline,
            _ => false,
        }
    }

    pub fn says(&mut self, event: &Event) -> bool {
        let said = self.events.contains(event);
        self.events.clear();
        said
    }
}

pub(super) fn unreachable() -> Failure {
    Failure::new(FailureKind::Unreachable, "refused")
}

pub(super) fn key(lease: LeaseId, mod_revision: i64) -> Entry {
    Entry {
        value: b"name"[..].into(),
        lease: Some(lease),
        create_revision: mod_revision,
        settings: TermSettings::default(),
        mod_revision,
    }
}

pub(super) fn view(revision: i64, leader: Option<Entry>, acting: Option<Entry>) -> View {
    View {
        cluster_id: 7,
        revision,
        raft_term: 1,
        leader,
        acting,
        challenge: None,
        done: None,
        seats: None,
    }
}

pub(super) fn held_by(lease: LeaseId, revision: i64) -> View {
    view(revision, Some(key(lease, 10)), Some(key(lease, 10)))
}

/// A leader whose term began at the returned moment.
pub(super) fn leader(endpoints: usize, grace: Duration) -> (Harness, LeaseId, Moment) {
    let mut harness = Harness::with_grace(endpoints, grace);
    harness.connect();
    let lease = harness.grant();
    let began = harness.now;
    assert!(harness.answer(held_by(lease, 10)));
    assert!(harness.is_leader());
    (harness, lease, began)
}

pub(super) fn follower() -> (Harness, LeaseId) {
    let mut harness = Harness::new(1);
    harness.connect();
    let lease = harness.grant();
    assert!(harness.answer(held_by(OTHER, 10)));
    assert!(!harness.is_leader());
    (harness, lease)
}
