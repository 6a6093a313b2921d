//! The pace of requests: one connection and one try are under way at a time, each within its limit. A try that is
//! overdue may still be under way beside them.

use super::{
    KeptAlive, Transaction,
    attempts::Attempts,
    event::{Failure, FailureKind},
    rotation::Rotation,
    term::{FencingToken, LeaseId},
    timing::Moment,
};
use std::{num::NonZeroUsize, time::Duration};

/// Names one call, so that its late response cannot be taken for a later one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallId(u64);

/// The calls of which at most one is under way on a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum CallKind {
    Grant {
        lease: LeaseId,
    },
    Try {
        lease: LeaseId,
        transaction: Transaction,
    },
    /// A transaction without a keepalive.
    Look {
        transaction: Transaction,
    },
}

/// What the machine needs next.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::large_enum_variant, reason = "it is made and used at once")]
pub(super) enum Need {
    Connection,
    Call(CallKind),
}

/// The transaction half of a try, once answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transacted {
    pub raft_term: u64,
    /// A watch was faster: the response is older than what is known.
    pub outdated: bool,
    /// The term whose `leader/acting` it shows bound to the lease of its try, if any.
    pub shows: Option<FencingToken>,
    /// Whether it shows that there is no challenge.
    pub is_unchallenged: bool,
}

/// A call under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    id: CallId,
    pub kind: CallKind,
    /// Noted before anything is sent.
    pub sent: Moment,
    until: Moment,
    /// The highest revision seen when it was sent, if any was.
    pub revision_before: Option<i64>,
    pub kept_alive: Option<KeptAlive>,
    pub transacted: Option<Transacted>,
}

impl Call {
    /// Returns the lease that it keeps alive, if it is a try.
    pub fn lease(&self) -> Option<LeaseId> {
        match self.kind {
            CallKind::Try { lease, .. } => Some(lease),
            CallKind::Grant { .. } | CallKind::Look { .. } => None,
        }
    }

    /// Returns true iff its response shows the challenge.
    pub fn is_about_challenge(&self) -> bool {
        match self.kind {
            CallKind::Try { transaction, .. } | CallKind::Look { transaction } => {
                transaction.about_challenge
            }
            CallKind::Grant { .. } => false,
        }
    }

    /// Returns true iff it is a campaign.
    pub fn is_campaign(&self) -> bool {
        matches!(self.kind, CallKind::Try { transaction, .. } if transaction.is_campaign())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Down,
    Up {
        endpoint: usize,
        /// Whether a try was answered on it.
        has_answered: bool,
    },
    /// Connected, with a try that is overdue: another connection is needed.
    Late {
        endpoint: usize,
    },
}

/// When the next call or attempt may start.
#[derive(Clone, Copy, Debug)]
enum NextCall {
    Now,
    At(Moment),
    After(CallId),
}

#[derive(Debug)]
pub(super) struct Calls {
    pub rotation: Rotation,
    link: Link,
    current: Option<Call>,
    /// Tries whose limit has passed, the oldest first. Each may still be answered, even after another
    /// connection has taken the place of the one that it was sent on.
    overdue: Vec<Call>,
    attempts: Attempts,
    /// The lease of the keepalive stream that can be used again. A stream that owes a response
    /// cannot: a late response names no request and would be credited to a later one.
    stream: Option<LeaseId>,
    next: NextCall,
    /// Something surprised while a call was under way: another follows at once.
    is_next_soon: bool,
    last_id: u64,
    /// When the first call of the present round of endpoints was sent.
    round_started: Moment,
    /// Before this moment, the loss of a working connection is reported.
    silent_again_from: Option<Moment>,
    /// The same for a token that has expired.
    token_silent_again_from: Option<Moment>,
}

impl Calls {
    pub fn new(endpoints: NonZeroUsize) -> Self {
        Self {
            rotation: Rotation::new(endpoints),
            link: Link::Down,
            current: None,
            overdue: Vec::new(),
            attempts: Attempts::default(),
            stream: None,
            next: NextCall::Now,
            is_next_soon: false,
            last_id: 0,
            round_started: Moment::default(),
            silent_again_from: None,
            token_silent_again_from: None,
        }
    }

    pub fn new_id(&mut self) -> CallId {
        self.last_id += 1;
        CallId(self.last_id)
    }

    /// Returns the endpoint that is asked, or the next one that will be.
    pub fn endpoint(&self) -> usize {
        match self.link {
            Link::Up { endpoint, .. } | Link::Late { endpoint } => endpoint,
            Link::Down => self.rotation.endpoint(),
        }
    }

    pub fn is_busy(&self) -> bool {
        self.current.is_some()
    }

    /// Returns the lease that is asked for at present, if one is.
    pub fn granting(&self) -> Option<LeaseId> {
        match self.current?.kind {
            CallKind::Grant { lease } => Some(lease),
            CallKind::Try { .. } | CallKind::Look { .. } => None,
        }
    }

    /// Returns true iff no connection can be used for a new request.
    pub fn is_down(&self) -> bool {
        !matches!(self.link, Link::Up { .. })
    }

    pub fn is_due(&self, now: Moment) -> bool {
        match self.next {
            NextCall::Now => true,
            NextCall::At(moment) => now >= moment,
            NextCall::After(_) => false,
        }
    }

    /// Returns when something runs out or may start.
    pub fn poll_timeout(&self, is_needed: bool) -> Option<Moment> {
        let overdue = self.current.map(|call| call.until);
        let patience = self
            .attempts
            .patient_until(&self.rotation)
            .filter(|_| is_needed);
        let next = match self.next {
            NextCall::At(moment) if is_needed && self.may_start() => Some(moment),
            _ => None,
        };
        [overdue, patience, next].into_iter().flatten().min()
    }

    /// Returns what this call needs next: a connection, if there is none, or the call itself.
    pub fn need(&self, call: CallKind) -> Need {
        if self.is_down() {
            Need::Connection
        } else {
            Need::Call(call)
        }
    }

    /// Returns true iff nothing under way stands against another call or attempt.
    pub fn may_start(&self) -> bool {
        if self.is_down() {
            self.attempts.may_start(&self.rotation)
        } else {
            self.current.is_none()
        }
    }

    /// Starts a connection attempt at the next endpoint without one; returns `None` if there is no
    /// such endpoint.
    pub fn start_attempt(&mut self, now: Moment, patience: Duration) -> Option<(CallId, usize)> {
        let endpoint = self.attempts.free_endpoint(&self.rotation)?;
        let id = self.new_id();
        if self.rotation.is_at_start_of_round() {
            self.round_started = now;
            // An attempt left over from an earlier round counts as failed in this one.
            for endpoint in self.attempts.endpoints() {
                self.rotation.record_failure(endpoint, None);
            }
        }
        self.rotation.turn_to(endpoint);
        self.is_next_soon = false;
        self.attempts.start(id, endpoint, now, patience);
        Some((id, endpoint))
    }

    pub fn start(
        &mut self,
        now: Moment,
        kind: CallKind,
        limit: Duration,
        revision_before: Option<i64>,
    ) -> CallId {
        let id = self.new_id();
        if self.rotation.is_at_start_of_round() {
            self.round_started = now;
        }
        self.is_next_soon = false;
        self.current = Some(Call {
            id,
            kind,
            sent: now,
            until: now + limit,
            revision_before,
            kept_alive: None,
            transacted: None,
        });
        id
    }

    /// Rule 16: lets the keepalive stream owe a response for a lease. Returns true iff that needs a new
    /// stream.
    pub fn use_stream(&mut self, lease: LeaseId) -> bool {
        self.stream.take() != Some(lease)
    }

    /// Records that a keepalive was answered, so that its stream owes nothing, if that is the
    /// connection's stream.
    pub fn clear_stream(&mut self, id: CallId) {
        let call = match self.link {
            Link::Late { .. } => self.overdue.last().copied(),
            Link::Up { .. } | Link::Down => self.current,
        };
        if let Some(call) = call.filter(|call| call.id == id) {
            self.stream = call.lease();
        }
    }

    /// Forgets the overdue tries whose answers would be of no use any more.
    pub fn drop_older_than(&mut self, sent: Moment) {
        self.overdue.retain(|call| call.sent >= sent);
    }

    /// Returns the call under way of that name, be it in time or overdue.
    pub fn get(&mut self, id: CallId) -> Option<&mut Call> {
        let mut calls = self.current.iter_mut().chain(&mut self.overdue);
        calls.find(|call| call.id == id)
    }

    /// Ends the call under way of that name, if it is in time.
    pub fn finish(&mut self, id: CallId) -> Option<Call> {
        self.current.take_if(|call| call.id == id)
    }

    /// Returns true iff this is the overdue try because of which another connection is needed.
    pub fn is_of_late_link(&self, id: CallId) -> bool {
        let last = self.overdue.last();
        matches!(self.link, Link::Late { .. }) && last.is_some_and(|call| call.id == id)
    }

    /// Ends the try of that name, if it is overdue.
    pub fn finish_overdue(&mut self, id: CallId) -> Option<Call> {
        let place = self.overdue.iter().position(|call| call.id == id)?;
        Some(self.overdue.remove(place))
    }

    /// Returns the kind of the call under way if its limit has passed, with that as a failure.
    pub fn overdue_call(&self, now: Moment) -> Option<(CallKind, Failure)> {
        let call = self.current.filter(|call| now >= call.until)?;
        let limit = call.until.since(call.sent).as_millis();
        let what = match call.kind {
            CallKind::Grant { .. } => "lease",
            CallKind::Try { .. } | CallKind::Look { .. } => "response",
        };
        let message = format!(
            "no {what} within {limit} ms, which is what the TTL or the fail-over limit allows; a slower \
             link needs a longer one"
        );
        Some((call.kind, Failure::new(FailureKind::TimedOut, message)))
    }

    /// Leaves a try that is overdue to its connection, and lets another be opened.
    pub fn pass_over_try(&mut self) {
        self.overdue.extend(self.current.take());
        if let Link::Up { endpoint, .. } = self.link {
            self.link = Link::Late { endpoint };
        }
    }

    /// Returns the endpoint of an attempt beside which another endpoint is to be tried, with its
    /// failure: it is slow, and there is another endpoint.
    pub fn pass_over_attempt(&mut self, now: Moment) -> Option<(usize, Failure)> {
        self.attempts.pass_over(now, &self.rotation)
    }

    /// Forgets the calls under way: nothing follows from them any more.
    pub fn abandon(&mut self) {
        self.current = None;
        self.overdue.clear();
    }

    /// Ends an attempt; returns its endpoint and whether it was passed over.
    pub fn finish_attempt(&mut self, id: CallId) -> Option<(usize, bool)> {
        self.attempts.finish(id)
    }

    /// Uses a new connection to an endpoint, in place of the one before and of all other attempts.
    pub fn connected(&mut self, endpoint: usize) {
        self.attempts.clear();
        // What is left of a try there may still be answered.
        let is_try = |call: &mut Call| matches!(call.kind, CallKind::Try { .. });
        self.overdue.extend(self.current.take_if(is_try));
        self.current = None;
        self.stream = None;
        self.link = Link::Up {
            endpoint,
            has_answered: false,
        };
        self.rotation.turn_to(endpoint);
        self.next = NextCall::Now;
    }

    /// Goes back to the connection on which an overdue try was answered after all, unless another
    /// has taken its place. Returns true iff it does.
    pub fn return_to_late_link(&mut self) -> bool {
        let Link::Late { endpoint } = self.link else {
            return false;
        };
        self.attempts.clear();
        self.link = Link::Up {
            endpoint,
            has_answered: true,
        };
        self.rotation.turn_to(endpoint);
        true
    }

    /// Forgets the connection, and what was under way on it.
    pub fn disconnected(&mut self) {
        if matches!(self.link, Link::Late { .. }) {
            self.overdue.pop();
        }
        self.link = Link::Down;
        self.current = None;
        self.stream = None;
    }

    /// Forgets the attempts under way.
    pub fn stop_connecting(&mut self) {
        self.attempts.clear();
    }

    /// Returns true iff a try was answered on this connection.
    pub fn has_answered(&self) -> bool {
        matches!(
            self.link,
            Link::Up {
                has_answered: true,
                ..
            }
        )
    }

    /// Allows a connection that broke, or whose token has expired, to be replaced without a report:
    /// returns true once in a period for each.
    pub fn try_silent_reconnect(&mut self, now: Moment, period: Duration, for_token: bool) -> bool {
        let again_from = if for_token {
            &mut self.token_silent_again_from
        } else {
            &mut self.silent_again_from
        };
        if again_from.is_some_and(|from| now < from) {
            return false;
        }
        *again_from = Some(now + period);
        true
    }

    /// Returns true iff no call has been under way for so long.
    pub fn is_prompt(&self, now: Moment, time: Duration) -> bool {
        self.current.is_none_or(|call| now.since(call.sent) < time)
    }

    /// Records that an endpoint failed, and lets the next one be asked at once. Returns true iff
    /// each has failed once since the round began.
    pub fn record_failure(&mut self, endpoint: usize, failure: Option<Failure>) -> bool {
        self.next = NextCall::Now;
        self.rotation.record_failure(endpoint, failure)
    }

    pub fn round_started(&self) -> Moment {
        self.round_started
    }

    /// Records that a try was answered; true if it had been reported that no endpoint responds.
    pub fn record_answer(&mut self) -> bool {
        if let Link::Up { has_answered, .. } = &mut self.link {
            *has_answered = true;
        }
        self.rotation.record_success()
    }

    pub fn next_now(&mut self) {
        self.next = NextCall::Now;
    }

    /// Sets when the next call starts, unless something surprised meanwhile.
    pub fn next_at(&mut self, moment: Moment) {
        self.next = if self.is_next_soon {
            NextCall::Now
        } else {
            NextCall::At(moment)
        };
    }

    /// Starts the next call by this moment, if it would start later; a back-off is waited for.
    pub fn next_by(&mut self, moment: Moment) {
        if let NextCall::At(later) = &mut self.next {
            *later = moment.min(*later);
        }
    }

    /// Starts the next call at once, or as soon as the one under way has ended; a back-off is
    /// waited for.
    pub fn next_soon(&mut self) {
        if !matches!(self.next, NextCall::After(_)) {
            self.next = NextCall::Now;
        }
        self.is_next_soon = self.is_busy();
    }

    pub fn back_off(&mut self) -> CallId {
        let id = self.new_id();
        self.next = NextCall::After(id);
        id
    }

    /// Ends a back-off, if that is the one meant.
    pub fn end_back_off(&mut self, id: CallId) {
        if matches!(self.next, NextCall::After(waited_for) if waited_for == id) {
            self.next = NextCall::Now;
        }
    }
}
