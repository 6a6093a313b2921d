//! The pace of questions: one at a time, to one endpoint at a time, each within its limit.

use super::{
    KeptAlive, Transaction,
    event::{Failure, FailureKind},
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
    /// The highest revision seen when it was sent.
    pub revision_before: i64,
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

/// What people were told of failures, the less hopeful the greater: an outage passes, a lack of
/// file descriptors may, whereas a refusal needs somebody's help, and so does, at any rate, whoever
/// cannot show who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Nothing,
    Unanswered,
    Exhausted,
    Refused,
    Unauthenticated,
}

impl Told {
    fn of(failure: &Failure) -> Self {
        match failure.kind {
            FailureKind::Exhausted => Self::Exhausted,
            FailureKind::Refused => Self::Refused,
            FailureKind::Unauthenticated => Self::Unauthenticated,
            _ => Self::Unanswered,
        }
    }
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
    endpoints: NonZeroUsize,
    endpoint: usize,
    link: Link,
    current: Option<Call>,
    next: Next,
    /// Something surprised while a call was under way: another follows at once.
    hurry: bool,
    last_id: u64,
    /// A round asks each endpoint once.
    round_started: Moment,
    failed_in_round: usize,
    /// Rounds without an answered try, one after the other.
    failed_rounds: u32,
    /// The first failure since a try was answered: of the endpoint that was asked until then.
    first_failure: Option<(usize, Failure)>,
    /// What people were told of failures since a try was answered.
    told: Told,
    /// Whether a try was answered on this connection.
    has_answered: bool,
}

impl Calls {
    /// The longest first back-off; it doubles from round to round.
    const FIRST_BACK_OFF: Duration = Duration::from_millis(50);

    pub fn new(endpoints: NonZeroUsize) -> Self {
        Self {
            endpoints,
            endpoint: 0,
            link: Link::Down,
            current: None,
            next: Next::Now,
            hurry: false,
            last_id: 0,
            round_started: Moment::default(),
            failed_in_round: 0,
            failed_rounds: 0,
            first_failure: None,
            told: Told::Nothing,
            has_answered: false,
        }
    }

    pub fn new_id(&mut self) -> CallId {
        self.last_id += 1;
        CallId(self.last_id)
    }

    pub fn endpoint(&self) -> usize {
        self.endpoint
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

    /// The call that leads towards a try: connected first, then with a lease, then with a
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
        revision_before: i64,
    ) -> CallId {
        let id = self.new_id();
        if self.failed_in_round == 0 {
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

    /// Turns to the next endpoint; true if each has failed once since the round began.
    pub fn turn(&mut self, failure: Option<Failure>) -> bool {
        if let Some(failure) = failure {
            let first = self
                .first_failure
                .as_ref()
                .map(|(_, first)| Told::of(first));
            if first.is_none_or(|first| first < Told::of(&failure)) {
                self.first_failure = Some((self.endpoint, failure));
            }
        }
        self.endpoint = (self.endpoint + 1) % self.endpoints;
        self.failed_in_round += 1;
        self.next = Next::Now;
        if self.failed_in_round < self.endpoints.get() {
            return false;
        }
        self.failed_in_round = 0;
        self.failed_rounds = self.failed_rounds.saturating_add(1);
        true
    }

    pub fn round_started(&self) -> Moment {
        self.round_started
    }

    /// The failure to tell of, once, when every endpoint has failed.
    pub fn unanswered(&mut self) -> Option<(usize, Failure)> {
        let (endpoint, failure) = self.first_failure.clone()?;
        let told = Told::of(&failure);
        if self.told >= told {
            return None;
        }
        self.told = told;
        Some((endpoint, failure))
    }

    /// All is well with this endpoint; true if it was said that none answers.
    pub fn answered(&mut self) -> bool {
        self.failed_in_round = 0;
        self.failed_rounds = 0;
        self.first_failure = None;
        self.has_answered = true;
        std::mem::replace(&mut self.told, Told::Nothing) > Told::Nothing
    }

    /// How long the back-off after a failed round may be.
    pub fn back_off_limit(&self, longest: Duration) -> Duration {
        let doublings = self.failed_rounds.saturating_sub(1).min(16);
        (Self::FIRST_BACK_OFF * (1 << doublings)).min(longest)
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

    pub fn backed_off(&mut self, id: CallId) {
        if matches!(self.next, Next::After(waited_for) if waited_for == id) {
            self.next = Next::Now;
        }
    }
}
