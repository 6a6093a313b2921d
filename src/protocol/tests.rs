#![allow(clippy::unwrap_used)]

use super::{
    Action, CallId, ElectionKey, Entry, Event, Failure, FailureKind, Input, KeptAlive, LeaseId,
    LossReason, Machine, Moment, Role, Settings, Term, Ttl, View,
};
use proptest::prelude::*;
use std::{num::NonZeroUsize, time::Duration};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);
const OTHER: LeaseId = LeaseId::new(0x0fe);

/// A machine whose network and clock are the test.
struct Harness {
    machine: Machine,
    now: Moment,
    actions: Vec<Action>,
    events: Vec<Event>,
    leases: i64,
}

impl Harness {
    fn new(endpoints: usize) -> Self {
        Self::with_grace(endpoints, Duration::ZERO)
    }

    fn with_grace(endpoints: usize, grace: Duration) -> Self {
        let now = Moment::from_origin(1000 * SECOND);
        let settings = Settings {
            ttl: Ttl::default(),
            grace,
            stop_timeout: 10 * SECOND,
            endpoints: NonZeroUsize::new(endpoints).unwrap(),
        };
        let mut harness = Self {
            machine: Machine::new(settings, now),
            now,
            actions: Vec::new(),
            events: Vec::new(),
            leases: 0x100,
        };
        harness.collect();
        harness
    }

    fn collect(&mut self) {
        self.actions
            .extend(std::iter::from_fn(|| self.machine.poll_action()));
        self.events
            .extend(std::iter::from_fn(|| self.machine.poll_event()));
    }

    fn handle(&mut self, input: Input) {
        self.machine.handle(self.now, input);
        self.collect();
    }

    /// Lets time pass, waking the machine whenever it wants to be.
    fn pass(&mut self, time: Duration) {
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
    fn take<T>(&mut self, pick: impl Fn(&Action) -> Option<T>) -> T {
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

    fn has(&self, pick: impl Fn(&Action) -> bool) -> bool {
        self.actions.iter().any(pick)
    }

    fn connect(&mut self) -> usize {
        let (call, endpoint) = self.take(|action| match action {
            Action::Connect { call, endpoint, .. } => Some((*call, *endpoint)),
            _ => None,
        });
        let result = Ok(());
        self.handle(Input::Opened { call, result });
        endpoint
    }

    fn refuse_connection(&mut self) -> usize {
        let (call, endpoint) = self.take(|action| match action {
            Action::Connect { call, endpoint, .. } => Some((*call, *endpoint)),
            _ => None,
        });
        let result = Err(unreachable());
        self.handle(Input::Opened { call, result });
        endpoint
    }

    fn grant(&mut self) -> LeaseId {
        let call = self.take(|action| match action {
            Action::Grant { call, .. } => Some(*call),
            _ => None,
        });
        self.leases += 1;
        let lease = LeaseId::new(self.leases);
        let result = Ok((lease, 5 * SECOND));
        self.handle(Input::Granted { call, result });
        let call = self.take(|action| match action {
            Action::OpenKeepAlive {
                call, lease: of, ..
            } if *of == lease => Some(*call),
            _ => None,
        });
        let result = Ok(());
        self.handle(Input::Opened { call, result });
        lease
    }

    fn take_try(&mut self) -> (CallId, bool) {
        self.take(|action| match action {
            Action::Try { call, campaign, .. } => Some((*call, *campaign)),
            _ => None,
        })
    }

    fn keep_alive(&mut self, call: CallId, raft_term: u64) {
        let result = Ok(KeptAlive { ttl: 5, raft_term });
        self.handle(Input::KeptAlive { call, result });
    }

    fn transact(&mut self, call: CallId, view: View) {
        let result = Ok(view);
        self.handle(Input::Transacted { call, result });
    }

    /// Answers the next try in full; returns whether it was a campaign.
    fn answer(&mut self, view: View) -> bool {
        let (call, campaign) = self.take_try();
        self.transact(call, view);
        self.keep_alive(call, 1);
        campaign
    }

    fn changed(&mut self, key: ElectionKey, revision: i64, entry: Option<Entry>) {
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

    fn is_leader(&self) -> bool {
        match self.machine.status().role {
            Role::Leader { deadline, .. } => self.now < deadline,
            _ => false,
        }
    }

    fn says(&mut self, event: &Event) -> bool {
        let said = self.events.contains(event);
        self.events.clear();
        said
    }
}

fn unreachable() -> Failure {
    Failure::new(FailureKind::Unreachable, "refused")
}

fn key(lease: LeaseId, mod_revision: i64) -> Option<Entry> {
    Some(Entry {
        value: b"name"[..].into(),
        lease: Some(lease),
        mod_revision,
    })
}

fn view(revision: i64, leader: Option<Entry>, acting: Option<Entry>) -> View {
    View {
        cluster_id: 7,
        revision,
        raft_term: 1,
        leader,
        acting,
    }
}

fn held_by(lease: LeaseId, revision: i64) -> View {
    view(revision, key(lease, 10), key(lease, 10))
}

/// A leader whose term began at the returned moment.
fn leader(endpoints: usize, grace: Duration) -> (Harness, LeaseId, Moment) {
    let mut harness = Harness::with_grace(endpoints, grace);
    harness.connect();
    let lease = harness.grant();
    let began = harness.now;
    assert!(harness.answer(held_by(lease, 10)));
    assert!(harness.is_leader());
    (harness, lease, began)
}

fn follower() -> (Harness, LeaseId) {
    let mut harness = Harness::new(1);
    harness.connect();
    let lease = harness.grant();
    assert!(harness.answer(held_by(OTHER, 10)));
    assert!(!harness.is_leader());
    (harness, lease)
}

#[test]
fn a_won_campaign_gives_the_right_to_act_from_its_send_not_from_its_answer() {
    let mut harness = Harness::new(1);
    harness.connect();
    let lease = harness.grant();
    let sent = harness.now;
    harness.pass(900 * MILLI);
    harness.answer(held_by(lease, 10));
    let Role::Leader { term, deadline } = harness.machine.status().role else {
        panic!("{:?}", harness.machine);
    };
    assert_eq!(deadline, sent + 4500 * MILLI);
    assert_eq!((term.token.get(), term.lease), (10, lease));
}

#[test]
fn neither_half_of_a_try_renews_alone() {
    for keepalive in [true, false] {
        let (mut harness, lease, began) = leader(1, Duration::ZERO);
        while harness.now < began + 4500 * MILLI {
            harness.pass(100 * MILLI);
            if harness.has(|action| matches!(action, Action::Try { .. })) {
                let (call, _) = harness.take_try();
                if keepalive {
                    harness.keep_alive(call, 1);
                } else {
                    harness.transact(call, held_by(lease, 20));
                }
            }
            if harness.has(|action| matches!(action, Action::Connect { .. })) {
                harness.connect();
            }
        }
        assert!(!harness.is_leader());
        assert_eq!(harness.now, began + 4500 * MILLI);
    }
}

#[test]
fn answers_from_two_raft_terms_do_not_make_a_leader() {
    let mut harness = Harness::new(1);
    harness.connect();
    let lease = harness.grant();
    let (call, _) = harness.take_try();
    harness.transact(call, held_by(lease, 10));
    harness.keep_alive(call, 2);
    assert!(!harness.is_leader());
    // A read resolves it.
    harness.pass(SECOND);
    harness.connect();
    assert!(!harness.answer(held_by(lease, 11)));
    assert!(harness.is_leader());
}

#[test]
fn a_leader_without_answers_stops_by_its_deadline_and_only_then_releases() {
    let (mut harness, lease, began) = leader(1, Duration::ZERO);
    harness.pass(4499 * MILLI);
    assert!(harness.is_leader());
    harness.pass(MILLI);
    assert_eq!(harness.now, began + 4500 * MILLI);
    assert!(!harness.is_leader());
    assert!(harness.has(|action| matches!(
        action,
        Action::Stop {
            reason: LossReason::NotRenewed,
            ..
        }
    )));
    let revoked =
        |action: &Action| matches!(action, Action::Revoke { lease: of, .. } if *of == lease);
    harness.pass(3 * SECOND);
    assert!(!harness.has(revoked), "released while something may act");
    harness.handle(Input::Stopped);
    harness.connect();
    assert!(harness.has(revoked));
}

#[test]
fn a_late_timer_does_not_extend_a_term() {
    let (mut harness, lease, _) = leader(1, Duration::ZERO);
    harness.pass(1100 * MILLI);
    let (call, _) = harness.take_try();
    harness.transact(call, held_by(lease, 20));
    // The process was stopped: the answer is handled before any timer fires.
    harness.now = harness.now + 10 * SECOND;
    harness.keep_alive(call, 1);
    assert!(!harness.is_leader());
    assert!(matches!(
        harness.machine.status().role,
        Role::Stopping { .. }
    ));
}

#[test]
fn a_child_is_told_to_stop_a_grace_before_the_deadline_and_nothing_revives_the_term() {
    let (mut harness, lease, began) = leader(1, SECOND);
    harness.pass(3500 * MILLI);
    assert_eq!(harness.now, began + 3500 * MILLI);
    let by = harness.take(|action| match action {
        Action::Stop { by, .. } => Some(*by),
        _ => None,
    });
    assert_eq!(by, began + 4400 * MILLI);
    let (call, _) = harness.take_try();
    harness.transact(call, held_by(lease, 10));
    harness.keep_alive(call, 1);
    assert!(!harness.is_leader());
}

#[test]
fn a_renewal_moves_the_deadline_from_its_send() {
    let (mut harness, lease, began) = leader(1, Duration::ZERO);
    harness.pass(SECOND);
    let sent = harness.now;
    assert_eq!(sent, began + SECOND, "from send to send");
    harness.pass(300 * MILLI);
    harness.answer(held_by(lease, 10));
    let Role::Leader { deadline, .. } = harness.machine.status().role else {
        panic!("{:?}", harness.machine);
    };
    assert_eq!(deadline, sent + 4500 * MILLI);
    assert!(harness.says(&Event::Renewed {
        term: Term {
            token: super::FencingToken::new(10),
            lease
        },
        deadline
    }));
}

#[test]
fn one_dead_endpoint_of_two_does_not_cost_a_healthy_leader_its_term() {
    let (mut harness, lease, _) = leader(2, SECOND);
    harness.pass(SECOND);
    // The try runs into its limit, the other endpoint refuses, the first one works again.
    harness.take_try();
    harness.pass(SECOND);
    assert_eq!(harness.refuse_connection(), 1);
    harness.pass(MILLI);
    assert_eq!(harness.connect(), 0);
    harness.answer(held_by(lease, 10));
    assert!(harness.is_leader());
}

#[test]
fn a_dead_endpoint_is_left_at_once_but_asked_no_more_than_once_a_period() {
    let (mut harness, _, began) = leader(2, Duration::ZERO);
    harness.pass(SECOND);
    let (call, _) = harness.take_try();
    let result = Err(unreachable());
    harness.handle(Input::KeptAlive { call, result });
    assert_eq!(harness.refuse_connection(), 1);
    assert!(!harness.has(|action| matches!(action, Action::Connect { .. })));
    harness.pass(999 * MILLI);
    assert!(!harness.has(|action| matches!(action, Action::Connect { .. })));
    harness.pass(MILLI);
    assert_eq!(harness.now, began + 2 * SECOND);
    assert_eq!(harness.refuse_connection(), 0);
}

#[test]
fn both_keys_gone_make_a_follower_campaign_at_once_in_whichever_order_it_hears_of_it() {
    for order in [
        [ElectionKey::Leader, ElectionKey::Acting],
        [ElectionKey::Acting, ElectionKey::Leader],
    ] {
        let (mut harness, lease) = follower();
        harness.changed(order[0], 11, None);
        assert!(!harness.has(|action| matches!(action, Action::Try { .. })));
        harness.changed(order[1], 11, None);
        assert!(harness.answer(held_by(lease, 12)));
        assert!(harness.is_leader());
    }
}

#[test]
fn nobody_campaigns_while_somebody_may_still_act() {
    let (mut harness, _) = follower();
    harness.changed(ElectionKey::Leader, 11, None);
    assert!(harness.says(&Event::LeaderGone));
    harness.pass(1700 * MILLI);
    assert!(!harness.answer(view(11, None, key(OTHER, 10))), "a read");
    assert!(harness.says(&Event::SomebodyStillActs));
    harness.changed(ElectionKey::Acting, 12, None);
    let (_, campaign) = harness.take_try();
    assert!(campaign);
}

#[test]
fn an_event_that_an_answer_has_shown_already_changes_nothing() {
    let (mut harness, _) = follower();
    harness.changed(ElectionKey::Leader, 10, None);
    harness.changed(ElectionKey::Acting, 9, None);
    assert!(!harness.has(|action| matches!(action, Action::Try { .. })));
}

#[test]
fn an_event_during_a_try_is_followed_by_another_try_at_once() {
    let (mut harness, _) = follower();
    harness.pass(1700 * MILLI);
    let (call, _) = harness.take_try();
    harness.changed(ElectionKey::Leader, 11, None);
    harness.changed(ElectionKey::Acting, 11, None);
    // Answered before the deletion, delivered after it: dropped.
    harness.transact(call, held_by(OTHER, 10));
    harness.keep_alive(call, 1);
    let (_, campaign) = harness.take_try();
    assert!(campaign);
}

#[test]
fn a_leader_whose_key_is_deleted_finishes_in_order_renews_meanwhile_and_holds_off() {
    let (mut harness, lease, _) = leader(1, SECOND);
    harness.changed(ElectionKey::Leader, 11, None);
    assert!(matches!(
        harness.machine.status().role,
        Role::Stopping {
            reason: LossReason::LeaderKeyDeleted,
            ..
        }
    ));
    for _ in 0..8 {
        harness.pass(SECOND);
        assert!(!harness.answer(view(11, None, key(lease, 10))));
    }
    assert!(!harness.has(|action| matches!(action, Action::Revoke { .. })));
    harness.handle(Input::Stopped);
    let stopped = harness.now;
    assert!(harness.has(|action| matches!(action, Action::Revoke { .. })));
    let lease = harness.grant();
    assert!(!harness.answer(view(12, None, None)), "it holds off");
    harness.pass(999 * MILLI);
    assert!(!harness.has(|action| matches!(action, Action::Try { .. })));
    harness.pass(MILLI);
    assert_eq!(harness.now, stopped + SECOND);
    assert!(!harness.answer(view(12, None, None)));
    assert!(harness.answer(held_by(lease, 13)));
    assert!(harness.is_leader());
}

#[test]
fn a_leader_whose_witness_is_gone_stops_at_that_moment() {
    let (mut harness, _, _) = leader(1, SECOND);
    harness.changed(ElectionKey::Acting, 11, None);
    let by = harness.take(|action| match action {
        Action::Stop { by, .. } => Some(*by),
        _ => None,
    });
    assert_eq!(by, harness.now);
}

#[test]
fn a_lease_that_is_gone_ends_a_term_whatever_the_other_half_says() {
    let (mut harness, lease, _) = leader(1, Duration::ZERO);
    harness.pass(SECOND);
    let (call, _) = harness.take_try();
    harness.transact(call, held_by(lease, 10));
    let result = Ok(KeptAlive {
        ttl: 0,
        raft_term: 1,
    });
    harness.handle(Input::KeptAlive { call, result });
    assert!(!harness.is_leader());
}

#[test]
fn a_lease_serves_one_term_and_is_never_campaigned_with_again() {
    let (mut harness, lease, _) = leader(1, Duration::ZERO);
    harness.pass(4500 * MILLI);
    harness.handle(Input::Stopped);
    harness.connect();
    assert_ne!(harness.grant(), lease);
}

#[test]
fn a_campaign_whose_answer_was_lost_is_resolved_by_a_read() {
    let mut harness = Harness::new(1);
    harness.connect();
    let lease = harness.grant();
    let (_, campaign) = harness.take_try();
    assert!(campaign);
    harness.pass(SECOND);
    let call = harness.take(|action| match action {
        Action::BackOff { call, .. } => Some(*call),
        _ => None,
    });
    harness.handle(Input::BackedOff { call });
    harness.connect();
    assert!(!harness.answer(held_by(lease, 10)));
    assert!(harness.is_leader());
}

#[test]
fn half_a_pair_of_its_own_is_given_up() {
    let mut harness = Harness::new(1);
    harness.connect();
    let lease = harness.grant();
    harness.answer(view(10, key(OTHER, 10), key(lease, 9)));
    assert!(!harness.is_leader());
    assert!(
        harness.has(|action| matches!(action, Action::Revoke { lease: of, .. } if *of == lease))
    );
    assert!(harness.has(|action| matches!(action, Action::BackOff { .. })));
}

#[test]
fn elected_but_never_renewed_is_given_up() {
    let mut harness = Harness::new(1);
    harness.connect();
    let lease = harness.grant();
    let seen = harness.now;
    let given_up =
        |action: &Action| matches!(action, Action::Revoke { lease: of, .. } if *of == lease);
    while !harness.has(given_up) {
        assert!(harness.now <= seen + 4500 * MILLI);
        if harness.has(|action| matches!(action, Action::Try { .. })) {
            let (call, _) = harness.take_try();
            harness.transact(call, held_by(lease, 10));
        }
        harness.pass(100 * MILLI);
        if harness.has(|action| matches!(action, Action::Connect { .. })) {
            harness.connect();
        }
    }
    assert!(!harness.is_leader());
}

#[test]
fn a_follower_whose_lease_is_gone_campaigns_again_without_backing_off_the_first_time() {
    let (mut harness, _) = follower();
    for first in [true, false] {
        harness.pass(1700 * MILLI);
        let (call, _) = harness.take_try();
        let result = Ok(KeptAlive {
            ttl: 0,
            raft_term: 1,
        });
        harness.handle(Input::KeptAlive { call, result });
        assert_eq!(
            !harness.has(|action| matches!(action, Action::BackOff { .. })),
            first
        );
        if first {
            harness.grant();
        }
    }
}

#[test]
fn history_that_goes_back_ends_a_term() {
    for (cluster_id, revision) in [(7, 9), (8, 30)] {
        let (mut harness, lease, _) = leader(1, Duration::ZERO);
        harness.pass(SECOND);
        let (call, _) = harness.take_try();
        let shown = View {
            cluster_id,
            ..held_by(lease, revision)
        };
        harness.transact(call, shown);
        assert!(!harness.is_leader());
        assert!(harness.says(&Event::HistoryWentBack));
    }
}

#[test]
fn a_withdrawn_leader_stops_then_revokes_then_is_done() {
    let (mut harness, lease, _) = leader(1, Duration::ZERO);
    harness.handle(Input::Withdraw);
    assert!(!harness.is_leader());
    assert!(!harness.has(|action| matches!(action, Action::Revoke { .. })));
    harness.handle(Input::Stopped);
    let call = harness.take(|action| match action {
        Action::Revoke {
            call, lease: of, ..
        } if *of == lease => Some(*call),
        _ => None,
    });
    assert_ne!(harness.machine.status().role, Role::Withdrawn);
    let result = Ok(());
    harness.handle(Input::Revoked { call, result });
    assert_eq!(harness.machine.status().role, Role::Withdrawn);
    assert!(harness.says(&Event::Withdrawn { left_behind: None }));
}

#[test]
fn a_withdrawal_that_etcd_never_answers_ends_all_the_same_and_says_so() {
    let (mut harness, lease, _) = leader(1, Duration::ZERO);
    harness.handle(Input::Withdraw);
    harness.handle(Input::Stopped);
    harness.pass(4 * SECOND);
    assert_eq!(harness.machine.status().role, Role::Withdrawn);
    assert!(harness.says(&Event::Withdrawn {
        left_behind: Some(lease)
    }));
}

#[test]
fn a_key_without_a_lease_is_complained_of_once_and_not_fought() {
    let mut harness = Harness::new(1);
    harness.connect();
    harness.grant();
    let stray = Some(Entry {
        value: b"x"[..].into(),
        lease: None,
        mod_revision: 5,
    });
    harness.answer(view(10, stray.clone(), None));
    let complaint = Event::KeyWithoutLease {
        key: ElectionKey::Leader,
    };
    assert!(harness.says(&complaint));
    harness.pass(1700 * MILLI);
    assert!(!harness.answer(view(10, stray, None)));
    assert!(!harness.says(&complaint));
}

/// What may befall a machine, as numbers that `befall` makes sense of.
type Fate = (u8, u8, u16);

/// The oracle: everything here is worked out from what the test itself has answered.
struct Oracle {
    harness: Harness,
    /// The moment of each try's send, with the halves answered so far.
    tries: Vec<(CallId, Moment, LeaseId, Option<u64>, Option<(u64, bool)>)>,
    /// The furthest that answered tries allow anybody to act, by lease.
    allowed: Vec<(LeaseId, Moment)>,
    acting: Option<LeaseId>,
    revision: i64,
    lease: Option<LeaseId>,
    last_watch: Option<CallId>,
}

impl Oracle {
    fn observe(&mut self) {
        let now = self.harness.now;
        for action in std::mem::take(&mut self.harness.actions) {
            match action {
                Action::Try { call, lease, .. } => {
                    if self.tries.iter().all(|seen| seen.0 != call) {
                        self.tries.push((call, now, lease, None, None));
                    }
                    self.harness.actions.push(action);
                }
                Action::Lead { term, .. } => {
                    assert_eq!(self.acting, None, "one term at a time");
                    self.acting = Some(term.lease);
                }
                Action::Revoke { lease, .. } => {
                    assert_ne!(self.acting, Some(lease), "revoked while acting");
                    self.harness.actions.push(action);
                }
                Action::Watch { watch, .. } => self.last_watch = Some(watch),
                Action::Disconnect | Action::Stop { .. } => {}
                _ => self.harness.actions.push(action),
            }
        }
        if let Role::Leader { term, deadline } = self.harness.machine.status().role {
            let allowed = self
                .allowed
                .iter()
                .filter(|(lease, _)| *lease == term.lease)
                .map(|(_, until)| *until)
                .max();
            assert!(
                allowed.is_some_and(|until| deadline <= until),
                "acts until {deadline:?}, allowed until {allowed:?}"
            );
            assert!(now < deadline, "leads past its deadline");
        }
    }

    fn half(&mut self, call: CallId, term: u64, transaction: Option<bool>) {
        let Some(entry) = self.tries.iter_mut().find(|entry| entry.0 == call) else {
            return;
        };
        match transaction {
            Some(mine) => entry.4 = Some((term, mine)),
            None => entry.3 = Some(term),
        }
        if let (sent, lease, Some(a), Some((b, true))) = (entry.1, entry.2, entry.3, entry.4)
            && a == b
            && self.harness.now < sent + SECOND
        {
            self.allowed.push((lease, sent + 4500 * MILLI));
        }
    }

    fn befall(&mut self, (what, how, amount): Fate) {
        let millis = u32::from(amount % 1500);
        match what % 8 {
            0 => {
                self.harness.now = self.harness.now + MILLI * millis;
                self.harness.machine.handle_timeout(self.harness.now);
                self.harness.collect();
            }
            1..=4 => {
                let Some(action) = self.harness.actions.first().copied() else {
                    return;
                };
                self.answer(action, how, amount);
            }
            5 => {
                self.revision += 1;
                let entry = [
                    None,
                    key(OTHER, self.revision),
                    self.lease.and_then(|lease| key(lease, self.revision)),
                ][usize::from(how) % 3]
                    .clone();
                let which = [ElectionKey::Leader, ElectionKey::Acting][usize::from(amount) % 2];
                if let Some(watch) = self.last_watch {
                    let revision = self.revision;
                    self.harness.handle(Input::Changed {
                        watch,
                        key: which,
                        revision,
                        entry,
                    });
                }
            }
            6 => {
                self.acting = None;
                self.harness.handle(Input::Stopped);
            }
            _ => {
                if let Some(watch) = self.last_watch.filter(|_| how > 200) {
                    self.harness.handle(Input::WatchEnded { watch });
                }
            }
        }
        self.observe();
    }

    fn answer(&mut self, action: Action, how: u8, amount: u16) {
        let failed = how < 40;
        let failure = || Err(unreachable());
        let mut consume = true;
        match action {
            Action::Connect { call, .. } | Action::OpenKeepAlive { call, .. } => {
                let result = if failed { failure() } else { Ok(()) };
                self.harness.handle(Input::Opened { call, result });
            }
            Action::Grant { call, .. } => {
                self.harness.leases += 1;
                let lease = LeaseId::new(self.harness.leases);
                self.lease = Some(lease);
                let result = if failed {
                    Err(unreachable())
                } else {
                    Ok((lease, 5 * SECOND))
                };
                self.harness.handle(Input::Granted { call, result });
            }
            Action::Try { call, lease, .. } => {
                let term = 1 + u64::from(how % 7 == 0);
                if amount % 2 == 0 {
                    let mine = amount % 4 == 0;
                    self.revision += i64::from(amount % 3 == 0);
                    let owner = if mine { lease } else { OTHER };
                    let mut shown = held_by(owner, self.revision);
                    shown.raft_term = term;
                    if amount % 10 == 6 {
                        (shown.leader, shown.acting) = (None, None);
                    }
                    let mine = mine && shown.leader.is_some();
                    self.half(call, term, Some(mine && !failed));
                    let result = if failed {
                        Err(unreachable())
                    } else {
                        Ok(shown)
                    };
                    self.harness.handle(Input::Transacted { call, result });
                } else {
                    if !failed {
                        self.half(call, term, None);
                    }
                    let ttl = if how == 255 { 0 } else { 5 };
                    let result = if failed {
                        Err(unreachable())
                    } else {
                        Ok(KeptAlive {
                            ttl,
                            raft_term: term,
                        })
                    };
                    self.harness.handle(Input::KeptAlive { call, result });
                }
                // The other half may still come, even long after.
                consume = how % 3 == 0;
            }
            Action::Revoke { call, .. } => {
                let result = if failed { failure() } else { Ok(()) };
                self.harness.handle(Input::Revoked { call, result });
            }
            Action::BackOff { call, .. } => self.harness.handle(Input::BackedOff { call }),
            _ => {}
        }
        if consume {
            self.harness.actions.retain(|kept| *kept != action);
        } else if self.harness.actions.len() > 1 {
            self.harness.actions.rotate_left(1);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_befalls_a_machine_it_acts_only_as_long_as_answered_tries_allow(
        fates in prop::collection::vec(any::<Fate>(), 1..200)
    ) {
        let mut oracle = Oracle {
            harness: Harness::new(2),
            tries: Vec::new(),
            allowed: Vec::new(),
            acting: None,
            revision: 10,
            lease: None,
            last_watch: None,
        };
        oracle.observe();
        for fate in fates {
            oracle.befall(fate);
        }
    }
}
