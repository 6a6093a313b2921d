//! Whatever happens to a machine, it keeps the protocol's guarantees.

use super::harness::{Harness, MILLI, OTHER, SECOND, held_by, key, unreachable};
use crate::protocol::{Action, CallId, ElectionKey, Input, KeptAlive, LeaseId, Moment, Role, Term};
use proptest::{prelude::*, strategy::ValueTree as _};

/// Something that may happen next.
#[derive(Clone, Debug)]
enum Fate {
    /// Time passes, and no timer fires before its end: a slow or a stopped process.
    Pause { millis: u32 },
    /// The action at this place is answered; or its keepalive half, or its transaction half.
    Answer { place: usize, how: Answer },
    /// Somebody writes or deletes a key, and the watch sees it.
    Change { leader: bool, owner: Owner },
    /// Whatever acted has stopped.
    Stopped,
    /// The watch ends.
    WatchEnded,
}

#[derive(Clone, Debug)]
enum Answer {
    Failure,
    LeaseGone,
    KeptAlive { raft_term: u64 },
    Transacted { raft_term: u64, owner: Owner },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Owner {
    Nobody,
    Own,
    Other,
}

fn any_owner() -> impl Strategy<Value = Owner> {
    prop_oneof![Just(Owner::Nobody), Just(Owner::Own), Just(Owner::Other)]
}

fn any_answer() -> impl Strategy<Value = Answer> {
    let raft_term = prop_oneof![6 => Just(1_u64), 1 => Just(2)];
    prop_oneof![
        1 => Just(Answer::Failure),
        1 => Just(Answer::LeaseGone),
        8 => raft_term.clone().prop_map(|raft_term| Answer::KeptAlive { raft_term }),
        8 => (raft_term, prop_oneof![4 => Just(Owner::Own), 1 => any_owner()])
            .prop_map(|(raft_term, owner)| Answer::Transacted { raft_term, owner }),
    ]
}

fn any_fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => (0..1500_u32).prop_map(|millis| Fate::Pause { millis }),
        16 => (0..4_usize, any_answer()).prop_map(|(place, how)| Fate::Answer { place, how }),
        1 => (any::<bool>(), any_owner())
            .prop_map(|(leader, owner)| Fate::Change { leader, owner }),
        3 => Just(Fate::Stopped),
        1 => Just(Fate::WatchEnded),
    ]
}

/// A try, and what the test has answered of it.
struct Sent {
    call: CallId,
    at: Moment,
    lease: LeaseId,
    kept_alive: Option<u64>,
    transacted: Option<Shown>,
}

/// What an answered transaction has shown: from which raft term, and whether both keys are bound
/// to the lease asked about.
#[derive(Clone, Copy)]
struct Shown {
    raft_term: u64,
    both_own: bool,
}

/// Knows what is allowed from nothing but the questions and the answers.
struct Oracle {
    harness: Harness,
    sent: Vec<Sent>,
    /// Until when answered tries allow the holder of a lease to act.
    allowed: Vec<(LeaseId, Moment)>,
    acting: Option<Term>,
    watch: Option<CallId>,
    lease: Option<LeaseId>,
    revision: i64,
    terms: usize,
}

impl Oracle {
    fn new() -> Self {
        let mut oracle = Self {
            harness: Harness::new(2),
            sent: Vec::new(),
            allowed: Vec::new(),
            acting: None,
            watch: None,
            lease: None,
            revision: 10,
            terms: 0,
        };
        oracle.observe(0);
        oracle
    }

    /// Looks at the actions from `seen` on, and at how things stand.
    fn observe(&mut self, seen: usize) {
        let now = self.harness.now;
        for action in &self.harness.actions[seen..] {
            match *action {
                Action::Try { call, lease, .. } => self.sent.push(Sent {
                    call,
                    at: now,
                    lease,
                    kept_alive: None,
                    transacted: None,
                }),
                Action::Lead { term, .. } => {
                    assert_eq!(self.acting, None, "one term at a time");
                    self.acting = Some(term);
                    self.terms += 1;
                }
                Action::Revoke { lease, .. } => {
                    let acting = self.acting.map(|term| term.lease);
                    assert_ne!(acting, Some(lease), "released while acting");
                }
                Action::Watch { watch, .. } => self.watch = Some(watch),
                _ => {}
            }
        }
        if let Role::Leader { term, deadline } = self.harness.machine.status().role {
            let allowed = self.allowed.iter().filter(|(of, _)| *of == term.lease);
            let until = allowed.map(|(_, until)| *until).max();
            assert!(
                until.is_some_and(|until| deadline <= until),
                "acts until {deadline:?}, allowed until {until:?}"
            );
            assert!(now < deadline, "leads past its deadline");
        }
    }

    /// Notes an answered half before the machine hears of it; false if it was answered before.
    fn note(&mut self, call: CallId, kept_alive: Option<u64>, transacted: Option<Shown>) -> bool {
        let Some(sent) = self.sent.iter_mut().find(|sent| sent.call == call) else {
            return false;
        };
        if kept_alive.is_some() && sent.kept_alive.is_some()
            || transacted.is_some() && sent.transacted.is_some()
        {
            return false;
        }
        sent.kept_alive = sent.kept_alive.or(kept_alive);
        sent.transacted = sent.transacted.or(transacted);
        let answered = sent
            .transacted
            .is_some_and(|shown| shown.both_own && sent.kept_alive == Some(shown.raft_term));
        if answered {
            self.allowed.push((sent.lease, sent.at + 4500 * MILLI));
        }
        true
    }

    fn befall(&mut self, fate: Fate) {
        self.harness
            .actions
            .retain(|action| !matches!(action, Action::Disconnect));
        let seen = self.harness.actions.len();
        match fate {
            Fate::Pause { millis } => {
                self.harness.now = self.harness.now + MILLI * millis;
                self.harness.machine.handle_timeout(self.harness.now);
                self.harness.collect();
            }
            Fate::Answer { place, how } => {
                // The newest are the likeliest to be under way; older ones come too late.
                let newest = self.harness.actions.iter().rev();
                if let Some(action) = newest.copied().nth(place) {
                    self.answer(action, how);
                }
            }
            Fate::Change { leader, owner } => {
                let Some(watch) = self.watch else { return };
                self.revision += 1;
                let revision = self.revision;
                self.harness.handle(Input::Changed {
                    watch,
                    key: if leader {
                        ElectionKey::Leader
                    } else {
                        ElectionKey::Acting
                    },
                    revision,
                    entry: self.holder(owner).map(|holder| key(holder, revision)),
                });
            }
            Fate::Stopped => {
                if let Some(term) = self.acting.take() {
                    self.harness.handle(Input::Stopped { term });
                }
            }
            Fate::WatchEnded => {
                if let Some(watch) = self.watch {
                    self.harness.handle(Input::WatchEnded { watch });
                }
            }
        }
        self.observe(seen);
    }

    fn holder(&self, owner: Owner) -> Option<LeaseId> {
        match owner {
            Owner::Nobody => None,
            Owner::Own => self.lease,
            Owner::Other => Some(OTHER),
        }
    }

    fn answer(&mut self, action: Action, how: Answer) {
        let result = match how {
            Answer::Failure => Err(unreachable()),
            _ => Ok(()),
        };
        let input = match (action, how) {
            (Action::Connect { call, .. }, _) => Input::Connected { call, result },
            (Action::Grant { call, lease, .. }, _) => {
                self.lease = Some(lease);
                let result = result.map(|()| 5 * SECOND);
                Input::Granted { call, result }
            }
            (Action::Revoke { call, .. }, _) => Input::Revoked { call, result },
            (Action::BackOff { call, .. }, _) => Input::BackedOff { call },
            (Action::Try { call, .. }, Answer::Failure) => Input::Transacted {
                call,
                result: Err(unreachable()),
            },
            (Action::Try { call, .. }, Answer::LeaseGone) => Input::KeptAlive {
                call,
                result: Ok(KeptAlive {
                    ttl: 0,
                    raft_term: 1,
                }),
            },
            (Action::Try { call, .. }, Answer::KeptAlive { raft_term }) => {
                if !self.note(call, Some(raft_term), None) {
                    return;
                }
                let result = Ok(KeptAlive { ttl: 5, raft_term });
                Input::KeptAlive { call, result }
            }
            (Action::Try { call, lease, .. }, Answer::Transacted { raft_term, owner }) => {
                let both_own = owner == Owner::Own;
                let shown = Shown {
                    raft_term,
                    both_own,
                };
                if !self.note(call, None, Some(shown)) {
                    return;
                }
                let mut view = held_by(if both_own { lease } else { OTHER }, self.revision);
                view.raft_term = raft_term;
                if owner == Owner::Nobody {
                    (view.leader, view.acting) = (None, None);
                }
                let result = Ok(view);
                Input::Transacted { call, result }
            }
            _ => return,
        };
        self.harness.handle(input);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_befalls_a_machine_it_acts_only_as_long_as_answered_tries_allow(
        fates in prop::collection::vec(any_fate(), 1..200)
    ) {
        let mut oracle = Oracle::new();
        for fate in fates {
            oracle.befall(fate);
        }
    }
}

#[test]
fn the_fates_above_lead_to_terms_often_enough_to_test_them() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let terms: usize = (0..200)
        .map(|_| {
            let fates = prop::collection::vec(any_fate(), 200);
            let mut oracle = Oracle::new();
            for fate in fates.new_tree(&mut runner).unwrap().current() {
                oracle.befall(fate);
            }
            oracle.terms
        })
        .sum();
    assert!(terms > 200, "only {terms} terms in 200 runs");
}
