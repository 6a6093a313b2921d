//! What a machine reports: what happened, why, and its present status.

use super::{
    seat::{Seat, Seats},
    term::{LeaseId, Term},
    timing::{FailOverLimit, Moment},
    view::{ElectionKey, Entry},
};
use std::{fmt, sync::Arc, time::Duration};

/// A step of the election, in the order in which the steps happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A lease was granted.
    Granted {
        /// The lease.
        lease: LeaseId,
        /// The granted TTL. etcd may grant more than was asked.
        ttl: Duration,
    },
    /// A campaign has begun.
    Campaigning {
        /// Whether this candidate has campaigned before.
        again: bool,
    },
    /// This candidate leads, and may act.
    Leading {
        /// The term that began.
        term: Term,
        /// Until when it may act, unless the term is renewed.
        deadline: Moment,
        /// How this candidate came to lead.
        beginning: Beginning,
        /// The fail-over limit of the term, if it has one.
        fail_over: Option<FailOverLimit>,
    },
    /// A term of this candidate is over. It was handed to another candidate, which leads now.
    HandedOver {
        /// The term that is over.
        term: Term,
        /// The successor's seat.
        to: Seat,
    },
    /// etcd does not permit reading or writing the candidates' seats or `KEY/next`. So this candidate is not
    /// listed, and hands its terms to nobody. Reported once.
    SeatsDenied {
        /// What etcd said.
        failure: Failure,
    },
    /// This follower suspects that the leader has failed, and challenges it.
    Challenging,
    /// The leader has responded to a challenge.
    ChallengeAnswered,
    /// etcd does not permit reading or writing the challenge, which this candidate needs because its terms have a
    /// fail-over limit. It withdraws without having taken part.
    FailOverDenied {
        /// What etcd said.
        failure: Failure,
    },
    /// Somebody else leads.
    Following {
        /// The `leader` key.
        leader: Entry,
    },
    /// Nobody leads, and nobody can lead yet, because somebody may still be acting.
    SomebodyStillActs,
    /// The leader that this candidate followed no longer leads: its key was deleted, or overwritten without a
    /// lease.
    LeaderGone,
    /// The term was renewed before its deadline.
    Renewed {
        /// The term.
        term: Term,
        /// When the try that renewed it was sent.
        sent: Moment,
        /// The new deadline.
        deadline: Moment,
    },
    /// The lease of this follower is gone. It asks for another one.
    LeaseGone {
        /// The lease.
        lease: LeaseId,
    },
    /// Leadership ends, and the leader must stop acting.
    Lost {
        /// The term that ends.
        term: Term,
        /// Why.
        reason: LossReason,
    },
    /// This candidate withdraws. It has stopped acting, and gives up its lease.
    Releasing {
        /// The lease.
        lease: LeaseId,
        /// Whether this candidate led with the lease.
        led: bool,
    },
    /// A key of the election is bound to no lease, so that nobody can ever be elected.
    KeyWithoutLease {
        /// Which key.
        key: ElectionKey,
    },
    /// etcd went back in its history, or is another etcd.
    HistoryWentBack,
    /// A request failed. The candidate uses another endpoint, if there is one.
    Failed {
        /// The endpoint that was asked, by its place in the list.
        endpoint: usize,
        /// The failure.
        failure: Failure,
    },
    /// Every endpoint has failed. This is not reported again before an endpoint has responded.
    Unanswered {
        /// The endpoint that failed first, by its place in the list.
        endpoint: usize,
        /// Its failure.
        failure: Failure,
    },
    /// etcd responds again.
    AnsweredAgain {
        /// The endpoint that responded, by its place in the list.
        endpoint: usize,
    },
    /// The version of etcd does not keep the promises on which this election relies: after a pause, etcd may
    /// return stale data. Reported once.
    OutdatedEtcd {
        /// Its version.
        version: String,
    },
    /// A user is configured, but etcd's authentication is off, so anyone may write the keys. Reported once.
    AuthenticationOff,
    /// The job that runs once has a record: it was completed before, perhaps by another candidate. This
    /// candidate withdraws.
    JobDone {
        /// The record.
        record: Entry,
    },
    /// The job that was completed in this candidate's term now has a record. The candidate wrote it, or somebody
    /// wrote it by hand meanwhile. This candidate withdraws.
    Recorded {
        /// The record.
        record: Entry,
    },
    /// etcd refuses to record that the job was completed. The candidate retries while the term lasts. Reported
    /// once.
    RecordRefused {
        /// The endpoint that was asked, by its place in the list.
        endpoint: usize,
        /// What etcd said.
        failure: Failure,
    },
    /// The job was completed in this candidate's term, but the term ended before a response showed the
    /// record. This candidate continues to take part.
    NotRecorded {
        /// Whether the record may have been written, because etcd has not responded.
        may_exist: bool,
    },
    /// etcd does not permit reading or writing the record of the job. This candidate withdraws without
    /// having taken part.
    JobDenied {
        /// What etcd said.
        failure: Failure,
    },
    /// This candidate was not elected within its limited wait. It withdraws.
    GaveUp {
        /// The `leader` key, if another candidate is known to lead.
        leader: Option<Entry>,
        /// Whether it has led before.
        has_led: bool,
    },
    /// This candidate no longer takes part.
    Withdrawn {
        /// A lease that could not be revoked in time. It expires by itself.
        left_behind: Option<LeaseId>,
    },
}

/// How a candidate came to lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Beginning {
    /// It won a campaign.
    Campaign,
    /// The previous leader handed its term over.
    HandOver,
    /// It took over from a leader that did not respond to a challenge.
    TakeOver,
}

/// Why leadership ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LossReason {
    /// No request to renew the term was answered in time.
    NotRenewed,
    /// etcd said that the lease is gone.
    LeaseGone,
    /// The `leader` key was deleted: a request to step down.
    LeaderKeyDeleted,
    /// The `leader` key was overwritten: a request to step down.
    LeaderKeyOverwritten,
    /// `leader/acting` was deleted or overwritten.
    ActingKeyTaken,
    /// etcd went back in its history, or is another etcd.
    HistoryWentBack,
    /// The candidate was asked to withdraw.
    Withdrawn,
    /// The leader resigned: it has stopped acting by itself.
    Resigned,
    /// The candidate stands back, for example because it is unhealthy.
    StoodBack,
    /// A candidate with a higher priority has been able to lead for long enough.
    Outranked,
    /// Another candidate took over, because this one had not responded to a challenge in time.
    TakenOver,
    /// The task that runs the election has ended by itself.
    Died,
}

impl LossReason {
    /// Every reason, in the order of their declaration.
    pub const ALL: &'static [Self] = &[
        Self::NotRenewed,
        Self::LeaseGone,
        Self::LeaderKeyDeleted,
        Self::LeaderKeyOverwritten,
        Self::ActingKeyTaken,
        Self::HistoryWentBack,
        Self::Withdrawn,
        Self::Resigned,
        Self::StoodBack,
        Self::Outranked,
        Self::TakenOver,
        Self::Died,
    ];

    /// Returns the name that programs read, such as in labels of metrics. It never changes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotRenewed => "not_renewed",
            Self::LeaseGone => "lease_gone",
            Self::LeaderKeyDeleted => "leader_key_deleted",
            Self::LeaderKeyOverwritten => "leader_key_overwritten",
            Self::ActingKeyTaken => "acting_key_taken",
            Self::HistoryWentBack => "history_went_back",
            Self::Withdrawn => "withdrawn",
            Self::Resigned => "resigned",
            Self::StoodBack => "stood_back",
            Self::Outranked => "outranked",
            Self::TakenOver => "taken_over",
            Self::Died => "died",
        }
    }

    /// Whether what acts may finish while the lease goes on being renewed.
    pub(super) const fn is_planned(self) -> bool {
        matches!(
            self,
            Self::LeaderKeyDeleted
                | Self::LeaderKeyOverwritten
                | Self::Withdrawn
                | Self::Resigned
                | Self::StoodBack
                | Self::Outranked
        )
    }
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotRenewed => "the lease was not renewed in time",
            Self::LeaseGone => "the lease is gone",
            Self::LeaderKeyDeleted => "the leader key was deleted",
            Self::LeaderKeyOverwritten => "the leader key was overwritten",
            Self::ActingKeyTaken => "the acting key was deleted or overwritten",
            Self::HistoryWentBack => "etcd went back in its history",
            Self::Withdrawn => "asked to stop",
            Self::Resigned => "it resigned",
            Self::StoodBack => "it stood back",
            Self::Outranked => "it yielded to a candidate with a higher priority",
            Self::TakenOver => "another candidate took over",
            Self::Died => "the election ended by itself",
        })
    }
}

/// A request to etcd that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind, for the machine.
    pub kind: FailureKind,
    /// The description, for people.
    pub message: Arc<str>,
}

/// The kinds of failure. The protocol needs only to know whether a lease is gone; the other kinds are for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// etcd knows no such lease.
    LeaseNotFound,
    /// The request took longer than its limit.
    TimedOut,
    /// etcd responded, and refused the request.
    Refused,
    /// etcd refused, because the user's role does not permit the request.
    Denied,
    /// etcd has too many requests or password checks to handle.
    Overloaded,
    /// One side could not authenticate, with its certificate or its password.
    Unauthenticated,
    /// etcd no longer accepts the token. The next connection gets a new one.
    TokenExpired,
    /// This process lacks the resources for a request, such as file descriptors.
    Exhausted,
    /// etcd could not be reached, or the connection broke.
    Unreachable,
}

impl FailureKind {
    /// Every kind, in the order of their declaration.
    pub const ALL: &'static [Self] = &[
        Self::LeaseNotFound,
        Self::TimedOut,
        Self::Refused,
        Self::Denied,
        Self::Overloaded,
        Self::Unauthenticated,
        Self::TokenExpired,
        Self::Exhausted,
        Self::Unreachable,
    ];

    /// Returns the name that programs read, such as in labels of metrics. It never changes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LeaseNotFound => "lease_not_found",
            Self::TimedOut => "timed_out",
            Self::Refused => "refused",
            Self::Denied => "denied",
            Self::Overloaded => "overloaded",
            Self::Unauthenticated => "unauthenticated",
            Self::TokenExpired => "token_expired",
            Self::Exhausted => "exhausted",
            Self::Unreachable => "unreachable",
        }
    }
}

impl Failure {
    /// Creates a failure with a description for people.
    pub fn new(kind: FailureKind, message: impl Into<Arc<str>>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// Returns true iff an operator must fix the cause, so that no retry helps.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        matches!(
            self.kind,
            FailureKind::Refused | FailureKind::Denied | FailureKind::Unauthenticated
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The status of one candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// What it does.
    pub role: Role,
    /// When the request was sent whose response was the last to show both keys.
    pub keys_as_of: Option<Moment>,
    /// When the known state of the keys gets too old to rely on, unless another response shows them. That is a
    /// TTL after `keys_as_of`, because by then somebody else may lead.
    pub keys_known_until: Option<Moment>,
    /// The `leader` key as last known. It may be this candidate's own.
    pub leader: Option<Entry>,
    /// The `leader/acting` key as last known. It may be this candidate's own.
    pub acting: Option<Entry>,
    /// The seats as last read; `None` if they are not known, or etcd denies reading them.
    pub seats: Option<Arc<Seats>>,
    /// Whether this candidate stands back, and so does not lead.
    pub stands_back: bool,
    /// The endpoint that is used, by its place in the list.
    pub endpoint: usize,
}

/// What a candidate does.
///
/// It contains deadlines. To know whether the candidate leads, compare the deadline with the clock at that
/// moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// Takes part, and does not act.
    Follower,
    /// Acts, until the deadline.
    Leader {
        /// The term.
        term: Term,
        /// When the term ends, unless it is renewed.
        deadline: Moment,
    },
    /// No longer leads, and has not stopped acting yet.
    Stopping {
        /// The term that ends.
        term: Term,
        /// By when it must have stopped.
        by: Moment,
        /// Why it ends.
        reason: LossReason,
    },
    /// No longer takes part.
    Withdrawn,
}

impl Role {
    /// Returns the term in which this candidate acts, or may not have stopped acting yet.
    #[must_use]
    pub const fn term(self) -> Option<Term> {
        match self {
            Self::Leader { term, .. } | Self::Stopping { term, .. } => Some(term),
            Self::Follower | Self::Withdrawn => None,
        }
    }
}
