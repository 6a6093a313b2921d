//! The election's rules, as a state machine without clock, network, randomness or runtime.
//!
//! An election has two keys under one lease. `leader` holds the leader's name. `leader/acting`
//! shows that its holder may still be acting: the key disappears only when the holder has stopped,
//! or with the lease. A candidate asks about the election only with a *try*: it sends a keepalive
//! of its lease and one transaction on both keys, at the same moment and on the same connection. A
//! try is *answered* when both responses came in time and from the same raft term. If an answered
//! try shows both keys bound to this candidate's lease, it gives the right to act until its send
//! time + TTL − margin. Nothing else gives this right.
//!
//! A caller feeds [`Machine::handle`] with [`Input`]s and the time, calls
//! [`Machine::handle_timeout`] when [`Machine::poll_timeout`] says so, and carries out what
//! [`Machine::poll_action`] returns. [`Machine::poll_event`] and [`Machine::status`] report what
//! happens.
//!
//! | file | what it decides |
//! |---|---|
//! | `protocol/situation.rs` | who leads, or why nobody does |
//! | `protocol/rules.rs` | what follows from what the keys show, and the beginning and end of terms |
//! | `protocol/acting_alone.rs` | when a `leader/acting` without a leader is reported |
//! | `protocol/answers.rs` | when a try is answered, and what follows from the responses |
//! | `protocol/waiting.rs` | when a candidate with a limited wait gives up |
//! | `protocol/job.rs` | a job that runs once: looking for its record, and recording it |
//! | `protocol/transaction.rs` | what a request asks of etcd: guards, effect, reads |
//! | `protocol/failures.rs` | after a failure: whether to ask the same endpoint or the next, and what to report |
//! | `protocol/next.rs` | what is asked next |
//! | `protocol/calls.rs` | the pace of requests: one at a time, each within its limit |
//! | `protocol/attempts.rs` | connection attempts, in parallel if one is slow |
//! | `protocol/rotation.rs` | which endpoint is asked next, and the back-off |
//! | `protocol/release.rs` | stop acting, then release the keys and the lease |
//! | `protocol/yielding.rs` | which candidates must not lead, and when a leader yields to a better one |
//! | `protocol/challenge.rs` | how a leader responds to a challenge, and what follows from that |
//! | `protocol/suspicion.rs` | when a follower challenges the leader, and when it takes over |
//! | `protocol/handover.rs` | to whom a term is handed over, and whether it can be |
//! | `protocol/access.rs` | which keys etcd permits |
//! | `protocol/registry.rs` | when a candidate takes and writes its seat |
//! | `protocol/seat.rs` | the seats, and the order in which their candidates follow |
//! | `protocol/timing.rs` | every duration |
//! | `protocol/reporter.rs` | what was not reported before |

mod access;
mod acting_alone;
mod answers;
mod attempts;
mod calls;
mod challenge;
mod event;
mod failures;
mod handover;
mod job;
mod messages;
mod next;
mod registry;
mod release;
mod reporter;
mod rotation;
mod rules;
mod seat;
mod situation;
mod suspicion;
mod term;
#[cfg(test)]
mod tests;
mod timing;
mod transaction;
mod version;
mod view;
mod waiting;
mod yielding;

pub use calls::CallId;
pub use event::{Beginning, Event, Failure, FailureKind, LossReason, Role, Status};
pub use messages::{Action, Input, KeptAlive, LeaseTime, Presence, Settings};
pub use rotation::Rotation;
pub use seat::{InvalidSeat, Next, Seat, SeatNumber, Seats};
pub use situation::Situation;
pub use term::{FencingToken, LeaseId, Term};
pub use timing::{FailOverLimit, InvalidFailOverLimit, InvalidTtl, Moment, Timing, Ttl};
pub use transaction::{Effect, Guard, Reads, Transaction};
pub use view::{ElectionKey, Entry, TermSettings, View};

use acting_alone::ActingAlone;
use calls::Calls;
use challenge::Deadline;
use handover::SignOfLife;
use job::{Look, Recording};
use registry::Registry;
use release::Release;
use reporter::Reporter;
use std::collections::VecDeque;
use suspicion::Suspicions;
use view::Known;
use yielding::Rivals;

/// A lease and the durations that follow from its TTL.
#[derive(Clone, Copy, Debug)]
struct Lease {
    id: LeaseId,
    timing: Timing,
}

/// What a follower does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Campaign,
    Read,
    /// Whether the leader is alive.
    Challenge,
    /// To lead in place of one that has not responded.
    TakeOver,
}

/// What a candidate without a term needs to know of its lease.
#[derive(Clone, Copy, Debug)]
struct Candidacy {
    lease: Lease,
    /// The send time of the last answered try; of the grant before there is one.
    answered: Moment,
    /// Whether the lease before this one was gone too, without an answered try since.
    follows_lost_lease: bool,
}

/// A term, and the lease that carries it.
#[derive(Clone, Copy, Debug)]
struct Tenure {
    lease: Lease,
    term: Term,
    deadline: Deadline,
    /// The deadline that was reported last.
    reported: Moment,
    /// When its leadership is taken back, unless somebody has taken it; `None` once that was tried.
    take_back_at: Option<Moment>,
}

/// The state of a candidate, with the data that exists only in that state.
///
/// What each state does is decided in `rules.rs` (what the keys show, the passing of time),
/// `answers.rs` (an answered try), `failures.rs` (a failed one) and `release.rs` (stopping and
/// withdrawing); what it needs next, when it wakes up and how others see it, in this file.
#[derive(Clone, Copy, Debug)]
enum State {
    /// Has no lease.
    Unleased {
        /// Whether its last lease was gone, without an answered try since.
        follows_lost_lease: bool,
    },
    /// Has a lease and neither key.
    Follower {
        candidacy: Candidacy,
        question: Question,
        /// Somebody else's `leader/acting`, if it stands while nobody leads.
        acting_alone: Option<ActingAlone>,
    },
    /// Has both keys, and no answered try that shows that.
    Elected {
        candidacy: Candidacy,
        token: FencingToken,
        /// When a response first showed both keys.
        seen: Moment,
    },
    /// Acts until the deadline.
    Leader(Tenure),
    /// Leads no more and has not stopped acting yet.
    Stopping {
        tenure: Tenure,
        /// By when it must have stopped, whatever the deadline allows.
        by: Moment,
        reason: LossReason,
        /// Whether the lease goes on being renewed meanwhile.
        renewing: bool,
    },
    /// Takes no part any more.
    Withdrawn,
}

impl Candidacy {
    /// Returns when it has had no try answered for a whole TTL.
    fn expires(&self) -> Moment {
        self.answered + self.lease.timing.ttl()
    }

    /// Returns by when a candidate that saw both keys its own must have begun to act.
    fn must_act_by(&self, seen: Moment) -> Moment {
        seen + self.lease.timing.term_of_try()
    }
}

impl State {
    fn lease(&self) -> Option<Lease> {
        match self {
            Self::Follower { candidacy, .. } | Self::Elected { candidacy, .. } => {
                Some(candidacy.lease)
            }
            Self::Leader(tenure) | Self::Stopping { tenure, .. } => Some(tenure.lease),
            Self::Unleased { .. } | Self::Withdrawn => None,
        }
    }

    /// Returns the term in which something may be acting.
    fn tenure(&mut self) -> Option<&mut Tenure> {
        match self {
            Self::Leader(tenure) | Self::Stopping { tenure, .. } => Some(tenure),
            _ => None,
        }
    }
}

/// One candidate.
#[derive(Debug)]
pub struct Machine {
    settings: Settings,
    state: State,
    known: Option<Known>,
    calls: Calls,
    watch: Option<CallId>,
    /// Until when a watch that ends waits for the next read to be replaced.
    watch_replaced_until: Option<Moment>,
    releases: Vec<Release>,
    /// Before this moment it does not campaign.
    hold_off: Option<Moment>,
    /// Since when it withdraws.
    withdrawing: Option<Moment>,
    /// What it must still look at before it asks for its first lease, if anything.
    look: Option<Look>,
    /// When its wait to lead is over, if that is limited.
    waits_until: Option<Moment>,
    /// Whether it has led before.
    has_led: bool,
    /// The record that is being written.
    recording: Option<Recording>,
    /// Whether the job that runs once is known to be done.
    is_done: bool,
    registry: Registry,
    sign_of_life: SignOfLife,
    /// Whether it must not lead.
    stands_back: bool,
    rivals: Rivals,
    suspicions: Suspicions,
    /// The id of the next lease.
    next_lease: LeaseId,
    /// How many campaigns on the present lease have had no response: any of them may still take effect.
    open_campaigns: u32,
    /// When the request was sent whose response last showed both keys, in this history of etcd.
    keys_as_of: Option<Moment>,
    reporter: Reporter,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
}

impl Machine {
    /// Creates a candidate that begins to take part at `now`.
    #[must_use]
    pub fn new(settings: Settings, now: Moment) -> Self {
        let mut machine = Self {
            settings,
            state: State::Unleased {
                follows_lost_lease: false,
            },
            known: None,
            calls: Calls::new(settings.endpoints),
            watch: None,
            watch_replaced_until: None,
            releases: Vec::new(),
            hold_off: None,
            withdrawing: None,
            look: Look::first(settings),
            waits_until: settings.waits_until(now),
            has_led: false,
            recording: None,
            is_done: false,
            registry: Registry::default(),
            sign_of_life: SignOfLife::default(),
            stands_back: settings.stands_back,
            rivals: Rivals::default(),
            suspicions: Suspicions::default(),
            next_lease: settings.first_lease,
            open_campaigns: 0,
            keys_as_of: None,
            reporter: Reporter::default(),
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
            Input::Connected { call, result } => self.handle_connected(now, call, result),
            Input::Granted { call, result } => self.handle_grant(now, call, result),
            Input::KeptAlive { call, result } => self.handle_keepalive(now, call, result),
            Input::Transacted { call, result } => self.handle_transaction(now, call, result),
            Input::Executed { call, result } => self.handle_executed(now, call, result),
            Input::LeaseTime { call, result } => self.handle_lease_time(now, call, result),
            Input::Revoked { call, result } => self.handle_revocation(now, call, result),
            Input::Changed {
                watch,
                key,
                revision,
                entry,
            } => self.handle_change(now, watch, key, revision, entry),
            Input::WatchEnded { watch } => self.handle_watch_end(now, watch),
            Input::BackedOff { call } => self.calls.end_back_off(call),
            Input::Stopped { term } => self.handle_stopped(now, term),
            Input::Completed { term } => self.handle_completed(now, term),
            Input::StandBack => self.stand_back(now),
            Input::StandForward => self.stand_forward(now),
            Input::Presence { of, presence } => self.handle_presence(now, of, presence),
            Input::Withdraw => self.withdraw(now),
            Input::Abandoned => self.handle_abandoned(now),
            Input::Version { version } => {
                let report = self.reporter.version(version);
                self.events.extend(report);
            }
            Input::AuthenticationOff => {
                let report = self.reporter.authentication_off();
                self.events.extend(report);
            }
        }
        self.advance(now);
    }

    /// Takes in the response to a transaction that was executed beside everything else.
    fn handle_executed(&mut self, now: Moment, call: CallId, result: Result<View, Failure>) {
        if self.registry.is_writing(call) {
            self.handle_seat(now, result);
        } else if self.is_probe_of_room(call) {
            self.handle_room(now, result);
        } else {
            self.handle_release(now, call, result);
        }
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
        let state = match self.state {
            State::Leader(tenure) => Some(tenure.stop_from()),
            State::Stopping {
                tenure,
                by,
                renewing,
                ..
            } => renewing.then(|| tenure.stop_from().min(by)),
            State::Follower { candidacy, .. } => Some(candidacy.expires()),
            State::Elected {
                candidacy, seen, ..
            } => Some(candidacy.expires().min(candidacy.must_act_by(seen))),
            State::Unleased { .. } | State::Withdrawn => None,
        };
        let take_back = match self.state {
            State::Leader(tenure) | State::Stopping { tenure, .. } => tenure.take_back_at,
            _ => None,
        };
        let call = self.calls.poll_timeout(self.need().is_some());
        let recording = self.recording.as_ref().and_then(Recording::ends);
        [
            state,
            take_back,
            call,
            self.release_timeout(),
            self.seat_timeout(),
            self.wait_timeout(),
            self.suspicion_timeout(),
            recording,
        ]
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
                State::Unleased { .. } | State::Follower { .. } | State::Elected { .. } => {
                    Role::Follower
                }
                State::Leader(Tenure { term, deadline, .. }) => Role::Leader {
                    term,
                    deadline: deadline.at(),
                },
                State::Stopping {
                    tenure, by, reason, ..
                } => Role::Stopping {
                    term: tenure.term,
                    by: by.min(tenure.lease.timing.kill_at(tenure.deadline.at())),
                    reason,
                },
                State::Withdrawn => Role::Withdrawn,
            },
            keys_as_of: self.keys_as_of,
            keys_known_until: self.keys_as_of.map(|sent| sent + self.timing().ttl()),
            leader: self
                .known
                .as_ref()
                .and_then(|known| known.leader().cloned()),
            acting: self
                .known
                .as_ref()
                .and_then(|known| known.acting().cloned()),
            seats: self.registry.seats(),
            stands_back: self.stands_back,
            endpoint: self.calls.endpoint(),
        }
    }
}
