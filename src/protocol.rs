//! The election's rules, as a state machine without clock, network, randomness or runtime.
//!
//! Two keys under one lease. `leader` holds the leader's name. `leader/acting` is the witness that
//! its holder may still be acting: it goes only when the holder has stopped, or with the lease.
//! All that a candidate asks about the election is a *try*: at one moment, on one connection, a
//! keepalive of its lease and one transaction on both keys. A try is *answered* when both answers
//! came in time and from the same raft term; an answered try that shows both keys bound to this
//! candidate's lease gives the right to act until its send time + TTL − margin, and nothing else
//! does.
//!
//! A caller feeds [`Machine::handle`] with [`Input`]s and the time, calls
//! [`Machine::handle_timeout`] when [`Machine::poll_timeout`] says so, and carries out what
//! [`Machine::poll_action`] returns. [`Machine::poll_event`] and [`Machine::status`] tell people
//! and programs what goes on.
//!
//! What follows from the answer to a question is in `protocol/answers.rs`, the rules of candidates
//! and leaders in `protocol/rules.rs`, the pace of questions and the choice of endpoints in
//! `protocol/calls.rs`, the giving back of leases in `protocol/release.rs`, every duration in
//! `protocol/timing.rs`.

mod answers;
mod calls;
mod event;
mod messages;
mod release;
mod rotation;
mod rules;
mod term;
#[cfg(test)]
mod tests;
mod timing;
mod transaction;
mod view;

pub use calls::CallId;
pub use event::{Event, Failure, FailureKind, LossReason, Role, Status};
pub use messages::{Action, Input, KeptAlive, Settings};
pub use rotation::Rotation;
pub use term::{FencingToken, LeaseId, Term};
pub use timing::{InvalidTtl, Moment, Timing, Ttl};
pub use transaction::{Effect, Guard, Transaction};
pub use view::{ElectionKey, Entry, View};

use calls::{CallKind, Calls};
use release::Release;
use std::collections::VecDeque;
use view::Known;

/// A lease and the durations that follow from its TTL.
#[derive(Clone, Copy, Debug)]
struct Lease {
    id: LeaseId,
    timing: Timing,
}

/// The question that a follower asks next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Campaign,
    Read,
}

/// What a candidate is doing, with exactly what that takes.
#[derive(Clone, Copy, Debug)]
enum State {
    /// Has no lease.
    Unleased,
    /// Has a lease and neither key.
    Follower {
        lease: Lease,
        /// The send of the last answered try; of the grant before there is one.
        answered: Moment,
        question: Question,
    },
    /// Has both keys, and no answered try that says so.
    Elected {
        lease: Lease,
        answered: Moment,
        seen: Moment,
        token: FencingToken,
    },
    /// Acts until the deadline.
    Leader {
        lease: Lease,
        term: Term,
        deadline: Moment,
    },
    /// Leads no more and has not stopped acting yet.
    Stopping {
        lease: Lease,
        term: Term,
        deadline: Moment,
        /// By when it must have stopped, whatever the deadline allows.
        by: Moment,
        reason: LossReason,
        /// Whether the lease goes on being renewed meanwhile.
        renewing: bool,
    },
    /// Takes no part any more.
    Withdrawn,
}

impl State {
    /// Returns the transaction of its next try.
    fn transaction(&self, lease: LeaseId) -> Transaction {
        match self {
            Self::Follower {
                question: Question::Campaign,
                ..
            } => Transaction::campaign(lease),
            _ => Transaction::READ,
        }
    }

    fn lease(&self) -> Option<Lease> {
        match self {
            Self::Follower { lease, .. }
            | Self::Elected { lease, .. }
            | Self::Leader { lease, .. }
            | Self::Stopping { lease, .. } => Some(*lease),
            Self::Unleased | Self::Withdrawn => None,
        }
    }
}

/// What was last said of the election, so that nothing is said twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    Campaigning,
    /// The `mod_revision` of the key followed.
    Following(i64),
    LeaderGone,
    SomebodyStillActs,
}

/// One candidate.
#[derive(Debug)]
pub struct Machine {
    settings: Settings,
    state: State,
    known: Option<Known>,
    calls: Calls,
    watch: Option<CallId>,
    /// From when on a watch that ends is replaced at once.
    next_watch_hurried: Moment,
    releases: Vec<Release>,
    /// Before this moment it does not campaign.
    hold_off: Moment,
    /// Since when it withdraws.
    withdrawing: Option<Moment>,
    /// Whether a follower's lease was gone already since the last answered try.
    lease_was_gone: bool,
    campaigned_before: bool,
    said: Said,
    said_without_lease: i64,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
}

impl Machine {
    /// Creates a candidate that begins to take part at `now`.
    #[must_use]
    pub fn new(settings: Settings, now: Moment) -> Self {
        let mut machine = Self {
            settings,
            state: State::Unleased,
            known: None,
            calls: Calls::new(settings.endpoints),
            watch: None,
            next_watch_hurried: Moment::default(),
            releases: Vec::new(),
            hold_off: Moment::default(),
            withdrawing: None,
            lease_was_gone: false,
            campaigned_before: false,
            said: Said::Nothing,
            said_without_lease: 0,
            actions: VecDeque::new(),
            events: VecDeque::new(),
        };
        machine.advance(now);
        machine
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Moment, input: Input) {
        // What ran out before this input was handled is over, however late a timer fires.
        self.expire(now);
        match input {
            Input::Opened { call, result } => self.opened(now, call, result),
            Input::Granted { call, result } => self.granted(now, call, result),
            Input::KeptAlive { call, result } => self.kept_alive(now, call, result),
            Input::Transacted { call, result } => self.transacted(now, call, result),
            Input::Revoked { call, result } => self.revoked(now, call, result),
            Input::Changed {
                watch,
                key,
                revision,
                entry,
            } => self.changed(now, watch, key, revision, entry),
            Input::WatchEnded { watch } => self.watch_ended(now, watch),
            Input::BackedOff { call } => self.calls.backed_off(call),
            Input::Stopped { term } => self.stopped(now, term),
            Input::Withdraw => self.withdraw(now),
        }
        self.advance(now);
    }

    /// Takes in that time has passed.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.expire(now);
        self.advance(now);
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) must be called, unless an input comes
    /// first.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        let term = match self.state {
            State::Leader {
                lease, deadline, ..
            } => Some(lease.timing.stop_from(deadline)),
            State::Stopping {
                lease,
                deadline,
                by,
                renewing,
                ..
            } => renewing.then(|| lease.timing.stop_from(deadline).min(by)),
            State::Follower {
                lease, answered, ..
            } => Some(answered + lease.timing.ttl()),
            State::Elected {
                lease,
                answered,
                seen,
                ..
            } => Some((answered + lease.timing.ttl()).min(seen + lease.timing.term_of_try())),
            State::Unleased | State::Withdrawn => None,
        };
        let call = self
            .calls
            .poll_timeout()
            .filter(|_| self.calls.is_busy() || self.wanted_call().is_some());
        [term, call, self.release_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Returns the next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Returns the next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Returns how things stand.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            role: match self.state {
                State::Unleased | State::Follower { .. } | State::Elected { .. } => Role::Follower,
                State::Leader { term, deadline, .. } => Role::Leader { term, deadline },
                State::Stopping {
                    lease,
                    term,
                    deadline,
                    by,
                    reason,
                    ..
                } => Role::Stopping {
                    term,
                    by: by.min(lease.timing.kill_at(deadline)),
                    reason,
                },
                State::Withdrawn => Role::Withdrawn,
            },
            leader: self
                .known
                .as_ref()
                .and_then(|known| known.leader().cloned()),
            acting: self
                .known
                .as_ref()
                .and_then(|known| known.acting().cloned()),
            endpoint: self.calls.rotation.endpoint(),
        }
    }

    /// Starts whatever is due.
    fn advance(&mut self, now: Moment) {
        self.advance_releases(now);
        if self.calls.is_busy() || !self.calls.is_due(now) {
            return;
        }
        let Some(kind) = self.wanted_call() else {
            return;
        };
        let limit = self.timing().limit();
        let revision = self.known.as_ref().map_or(0, Known::revision);
        let call = self.calls.start(now, kind, limit, revision);
        let action = match kind {
            CallKind::Connect { lease } => Action::Connect {
                call,
                endpoint: self.calls.rotation.endpoint(),
                lease,
                limit,
            },
            CallKind::OpenKeepAlive { lease } => Action::OpenKeepAlive { call, lease, limit },
            CallKind::Grant => Action::Grant {
                call,
                ttl: self.settings.ttl,
                limit,
            },
            CallKind::Try { lease, transaction } => {
                self.begin_try(&transaction);
                Action::Try {
                    call,
                    lease,
                    transaction,
                    limit,
                }
            }
        };
        self.actions.push_back(action);
    }

    /// The question to ask next, if any; the pace is a matter of `calls`.
    fn wanted_call(&self) -> Option<CallKind> {
        let state = match self.state {
            State::Withdrawn
            | State::Stopping {
                renewing: false, ..
            } => return None,
            State::Unleased if self.withdrawing.is_some() => {
                let reconnect = self.calls.is_down() && !self.releases.is_empty();
                return reconnect.then_some(CallKind::Connect { lease: None });
            }
            state => state,
        };
        let lease = state.lease().map(|lease| lease.id);
        Some(
            self.calls
                .next_kind(lease, |lease| state.transaction(lease)),
        )
    }

    /// The durations that count now: of the lease, or of the TTL that will be asked for.
    fn timing(&self) -> Timing {
        self.state.lease().map_or(
            Timing::new(self.settings.ttl.as_duration(), self.settings.grace),
            |lease| lease.timing,
        )
    }
}
