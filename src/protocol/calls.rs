//! The pace of questions: one at a time, to one endpoint at a time, each within its limit.

use super::{
    KeptAlive, Transaction,
    event::{Failure, FailureKind},
    rotation::Rotation,
    term::LeaseId,
    timing::Moment,
};
use std::{num::NonZeroUsize, time::Duration};

/// Names one call, so that its late answer cannot be taken for a later one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallId(u64);

/// The calls of which at most one is under way.
#[derive(Clone, Copy, Debug)]
pub(super) enum CallKind {
    Connect {
        lease: Option<LeaseId>,
    },
    OpenKeepAlive {
        lease: LeaseId,
    },
    Grant,
    Try {
        lease: LeaseId,
        transaction: Transaction,
    },
}

/// The transaction half of a try, once answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transacted {
    pub raft_term: u64,
    /// A watch was faster: the answer is older than what is known.
    pub outdated: bool,
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

#[derive(Clone, Copy, Debug)]
enum Link {
    Down,
    /// Connected; `stream` is the lease whose keepalive stream is open.
    Up {
        stream: Option<LeaseId>,
    },
}

/// When the next call may start.
#[derive(Clone, Copy, Debug)]
enum Next {
    Now,
    At(Moment),
    After(CallId),
}

#[derive(Debug)]
pub(super) struct Calls {
    pub rotation: Rotation,
    link: Link,
    current: Option<Call>,
    next: Next,
    /// Something surprised while a call was under way: another follows at once.
    hurry: bool,
    last_id: u64,
    /// When the first call of the present round of endpoints was sent.
    round_started: Moment,
    /// Whether a try was answered on this connection.
    has_answered: bool,
}

impl Calls {
    pub fn new(endpoints: NonZeroUsize) -> Self {
        Self {
            rotation: Rotation::new(endpoints),
            link: Link::Down,
            current: None,
            next: Next::Now,
            hurry: false,
            last_id: 0,
            round_started: Moment::default(),
            has_answered: false,
        }
    }

    pub fn new_id(&mut self) -> CallId {
        self.last_id += 1;
        CallId(self.last_id)
    }

    pub fn is_busy(&self) -> bool {
        self.current.is_some()
    }

    pub fn is_granting(&self) -> bool {
        matches!(self.current, Some(call) if matches!(call.kind, CallKind::Grant))
    }

    pub fn is_down(&self) -> bool {
        matches!(self.link, Link::Down)
    }

    pub fn is_due(&self, now: Moment) -> bool {
        match self.next {
            Next::Now => true,
            Next::At(moment) => now >= moment,
            Next::After(_) => false,
        }
    }

    pub fn poll_timeout(&self) -> Option<Moment> {
        match (self.current, self.next) {
            (Some(call), _) => Some(call.until),
            (None, Next::At(moment)) => Some(moment),
            (None, Next::Now | Next::After(_)) => None,
        }
    }

    /// Returns the call that leads towards a try: connected first, then with a lease, then with a
    /// keepalive stream for that lease.
    pub fn next_kind(
        &self,
        lease: Option<LeaseId>,
        transaction: impl FnOnce(LeaseId) -> Transaction,
    ) -> CallKind {
        match (self.link, lease) {
            (Link::Down, lease) => CallKind::Connect { lease },
            (Link::Up { .. }, None) => CallKind::Grant,
            (Link::Up { stream }, Some(lease)) if stream != Some(lease) => {
                CallKind::OpenKeepAlive { lease }
            }
            (Link::Up { .. }, Some(lease)) => CallKind::Try {
                lease,
                transaction: transaction(lease),
            },
        }
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
        self.hurry = false;
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

    /// The call under way, if that is the one meant.
    pub fn current(&mut self, id: CallId) -> Option<&mut Call> {
        self.current.as_mut().filter(|call| call.id == id)
    }

    /// Ends the call under way, if that is the one meant.
    pub fn finish(&mut self, id: CallId) -> Option<Call> {
        self.current.take_if(|call| call.id == id)
    }

    /// The call under way, if its limit has passed.
    pub fn overdue(&self, now: Moment) -> Option<Failure> {
        self.current.filter(|call| now >= call.until).map(|call| {
            let asked = match call.kind {
                CallKind::Connect { .. } => "no connection",
                CallKind::OpenKeepAlive { .. } => "no keepalive stream",
                CallKind::Grant => "no lease",
                CallKind::Try { .. } => "no answer",
            };
            let limit = call.until.since(call.sent);
            Failure::new(
                FailureKind::TimedOut,
                format!("{asked} within {} ms", limit.as_millis()),
            )
        })
    }

    /// Forgets the call under way: nothing follows from it any more.
    pub fn abandon(&mut self) {
        self.current = None;
    }

    pub fn opened(&mut self, stream: Option<LeaseId>) {
        self.link = Link::Up { stream };
    }

    pub fn disconnected(&mut self) {
        self.link = Link::Down;
        self.current = None;
        self.has_answered = false;
    }

    /// Whether a try was answered on this connection.
    pub fn has_answered(&self) -> bool {
        self.has_answered
    }

    /// Records that the endpoint failed, and lets the next one be asked at once. Returns true iff
    /// each has failed once since the round began.
    pub fn record_failure(&mut self, failure: Option<Failure>) -> bool {
        self.next = Next::Now;
        self.rotation.record_failure(failure)
    }

    pub fn round_started(&self) -> Moment {
        self.round_started
    }

    /// Records that a try was answered; true if it had been reported that no endpoint responds.
    pub fn record_answer(&mut self) -> bool {
        self.has_answered = true;
        self.rotation.record_success()
    }

    pub fn next_now(&mut self) {
        self.next = Next::Now;
    }

    /// Sets when the next call starts, unless something surprised meanwhile.
    pub fn next_at(&mut self, moment: Moment) {
        self.next = if self.hurry {
            Next::Now
        } else {
            Next::At(moment)
        };
    }

    /// Starts the next call at once, or as soon as the one under way has ended; a back-off is
    /// waited for.
    pub fn hurry(&mut self) {
        if !matches!(self.next, Next::After(_)) {
            self.next = Next::Now;
        }
        self.hurry = self.is_busy();
    }

    pub fn back_off(&mut self) -> CallId {
        let id = self.new_id();
        self.next = Next::After(id);
        id
    }

    /// Ends a back-off, if that is the one meant.
    pub fn end_back_off(&mut self, id: CallId) {
        if matches!(self.next, Next::After(waited_for) if waited_for == id) {
            self.next = Next::Now;
        }
    }
}
