//! The inputs and the outputs of the machine.

use super::{
    CallId, ElectionKey, Entry, FailOverLimit, Failure, FencingToken, LeaseId, Moment, Term,
    Transaction, Ttl, View,
};
use std::{num::NonZeroUsize, time::Duration};

/// What a machine needs to know about its election.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The TTL to ask for.
    pub ttl: Ttl,
    /// How long what acts needs to stop when leadership is being lost.
    pub grace: Duration,
    /// How long what acts may take to finish when asked to.
    pub stop_timeout: Duration,
    /// How many endpoints there are.
    pub endpoints: NonZeroUsize,
    /// How long this candidate waits to lead; `None`: as long as it takes. Zero: it looks at the keys
    /// before it asks for a lease, and tries once.
    pub wait: Option<Duration>,
    /// Whether this candidate acts to do a job that runs once.
    pub runs_once: bool,
    /// Its priority: a leader yields to a candidate with a higher one.
    pub priority: i32,
    /// How long a candidate with a higher priority must have been able to lead before this leader yields to
    /// it; `None`: it never does.
    pub priority_delay: Option<Duration>,
    /// Whether it stands back from the start.
    pub stands_back: bool,
    /// The fail-over limit of its terms, if they have one.
    pub fail_over: Option<FailOverLimit>,
    /// The ids of its leases count up from this one. It is drawn at random, so that no other candidate uses
    /// the same ids.
    pub first_lease: LeaseId,
}

/// The times of a lease, as etcd knows them, in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTime {
    /// For how long it was granted.
    pub granted: Duration,
    /// How long it lasts if it is not renewed, rounded down.
    pub remaining: Duration,
}

/// What is known about a leader from a source other than etcd, such as a connection to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// There is a connection to the leader. If the leader fails, [`Broken`](Self::Broken) follows, so etcd
    /// need not be asked about it.
    Connected,
    /// The leader appears to have failed: a connection to it broke without a reason, or is refused.
    Broken,
    /// Nothing is known.
    Unknown,
}

/// What a caller gives to the machine.
#[derive(Clone, Debug)]
pub enum Input {
    /// The outcome of [`Action::Connect`].
    Connected {
        /// Which call.
        call: CallId,
        /// Its outcome.
        result: Result<(), Failure>,
    },
    /// The outcome of [`Action::Grant`].
    Granted {
        /// Which call.
        call: CallId,
        /// The TTL granted.
        result: Result<Duration, Failure>,
    },
    /// The keepalive half of [`Action::Try`].
    KeptAlive {
        /// Which call.
        call: CallId,
        /// What etcd said of the lease.
        result: Result<KeptAlive, Failure>,
    },
    /// The transaction half of [`Action::Try`], or the outcome of [`Action::Look`].
    Transacted {
        /// Which call.
        call: CallId,
        /// The keys as the response shows them.
        result: Result<View, Failure>,
    },
    /// The outcome of [`Action::Execute`].
    Executed {
        /// Which call.
        call: CallId,
        /// What the response shows.
        result: Result<View, Failure>,
    },
    /// The outcome of [`Action::AskLeaseTime`].
    LeaseTime {
        /// Which call.
        call: CallId,
        /// The times of the lease; `None` if it is gone.
        result: Result<Option<LeaseTime>, Failure>,
    },
    /// The outcome of [`Action::Revoke`].
    Revoked {
        /// Which call.
        call: CallId,
        /// Its outcome.
        result: Result<(), Failure>,
    },
    /// The watch saw a key written or deleted.
    Changed {
        /// Which watch.
        watch: CallId,
        /// Which key.
        key: ElectionKey,
        /// The revision that did it.
        revision: i64,
        /// The key now; `None` if it was deleted.
        entry: Option<Entry>,
    },
    /// The watch was cancelled, compacted, ended or failed, or could not be opened.
    WatchEnded {
        /// Which watch.
        watch: CallId,
    },
    /// The time of [`Action::BackOff`] has passed.
    BackedOff {
        /// Which call.
        call: CallId,
    },
    /// What acted in a term has stopped, or nothing ever will act in it.
    Stopped {
        /// The term in which it acted.
        term: Term,
    },
    /// What acted in a term has completed the job that runs once, and has stopped.
    Completed {
        /// The term in which it acted.
        term: Term,
    },
    /// The candidate shall not lead: it stands back.
    StandBack,
    /// The candidate may lead again.
    StandForward,
    /// What is known, from outside etcd, of the leader of a term.
    Presence {
        /// The term.
        of: FencingToken,
        /// What is known.
        presence: Presence,
    },
    /// The candidate shall take no part any more.
    Withdraw,
    /// The outcome of [`Action::AskVersion`], if there is one.
    Version {
        /// The version of the member that was asked.
        version: String,
    },
    /// A connection has shown that etcd's authentication is off, though a user is configured.
    AuthenticationOff,
    /// The candidate and all its leaderships were dropped: nothing acts, and nothing ever will.
    Abandoned,
}

/// The answer to a keepalive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptAlive {
    /// The lease's TTL in seconds; zero or less means that it is gone.
    pub ttl: i64,
    /// The raft term in which the member answered.
    pub raft_term: u64,
}

/// What the machine asks of its caller.
///
/// At most one of `Grant`, `Try` and `Look` is under way on a connection: starting one drops what is left
/// of the one before. Each must end within its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connect to an endpoint, beside everything else.
    ///
    /// A connection that opens takes the place of the one before and of all other attempts. What was
    /// asked in a try on the one before may still be answered; all else on it ends.
    Connect {
        /// Names the call in its [`Input::Connected`].
        call: CallId,
        /// The endpoint, by its place in the list.
        endpoint: usize,
        /// How long it may take, without authentication, which has a limit of its own.
        limit: Duration,
    },
    /// Drop all connection attempts under way.
    StopConnecting,
    /// Ask for etcd's version, beside everything else.
    AskVersion {
        /// How long it may take.
        limit: Duration,
    },
    /// Ask for a lease.
    Grant {
        /// Names the call in its [`Input::Granted`].
        call: CallId,
        /// The id of the lease, which has never been used.
        lease: LeaseId,
        /// The TTL to ask for.
        ttl: Ttl,
        /// How long it may take.
        limit: Duration,
    },
    /// Ask the one question: a keepalive and a transaction, sent together.
    ///
    Try {
        /// Names the call in its [`Input::KeptAlive`] and [`Input::Transacted`].
        call: CallId,
        /// The lease to keep alive.
        lease: LeaseId,
        /// The transaction.
        transaction: Transaction,
        /// Whether the keepalive must open a new stream, in place of the one before.
        new_stream: bool,
        /// For how long a response is of use.
        limit: Duration,
    },
    /// Execute a transaction without a keepalive: before there is a lease, or once it cannot be renewed
    /// any more.
    Look {
        /// Names the call in its [`Input::Transacted`].
        call: CallId,
        /// The transaction.
        transaction: Transaction,
        /// How long it may take.
        limit: Duration,
    },
    /// Execute a transaction beside everything else.
    Execute {
        /// Names the call in its [`Input::Executed`].
        call: CallId,
        /// The transaction.
        transaction: Transaction,
        /// How long it may take.
        limit: Duration,
    },
    /// Ask how long another candidate's lease lasts, beside everything else.
    AskLeaseTime {
        /// Names the call in its [`Input::LeaseTime`].
        call: CallId,
        /// The lease.
        lease: LeaseId,
        /// How long it may take.
        limit: Duration,
    },
    /// Revoke a lease that was given up, beside everything else.
    Revoke {
        /// Names the call in its [`Input::Revoked`].
        call: CallId,
        /// The lease.
        lease: LeaseId,
        /// Whether its keys may keep others from leading.
        is_urgent: bool,
        /// How long it may take.
        limit: Duration,
    },
    /// Watch both keys, beside everything else; it replaces an earlier watch.
    Watch {
        /// Names the watch in its [`Input::Changed`] and [`Input::WatchEnded`].
        watch: CallId,
        /// The first revision to see.
        from_revision: i64,
        /// How long opening may take.
        limit: Duration,
    },
    /// End the watch of both keys.
    Unwatch,
    /// Drop the connection with all that runs on it; attempts go on.
    Disconnect,
    /// Wait for a random time.
    BackOff {
        /// Names the call in its [`Input::BackedOff`].
        call: CallId,
        /// Choose evenly from zero to this.
        at_most: Duration,
    },
    /// Offer the leadership to what acts. Until when it may act, and by when it must have stopped,
    /// is in [`Machine::status`](super::Machine::status); [`Input::Stopped`] says that it has.
    Lead {
        /// The term.
        term: Term,
        /// Until when, unless renewed.
        deadline: Moment,
    },
    /// Take the leadership back if nobody has taken it yet; if so, [`Input::Stopped`] follows.
    TakeBack {
        /// The term.
        term: Term,
    },
}
