//! Every duration that follows from the TTL and, if there is one, from the fail-over limit.

use std::{
    fmt,
    ops::{Add, Sub},
    time::Duration,
};

/// An instant on the caller's clock, as the time since that clock's origin.
///
/// The state machine never reads a clock: each call gives it the time. The only requirements are that the clock
/// never goes back, and that it continues while the computer sleeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(Duration);

impl Moment {
    /// Returns the moment that is `since_origin` after the clock's origin.
    #[must_use]
    pub const fn from_origin(since_origin: Duration) -> Self {
        Self(since_origin)
    }

    /// Returns the time since the clock's origin.
    #[must_use]
    pub const fn since_origin(self) -> Duration {
        self.0
    }

    /// Returns the time from `earlier` to this moment; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration))
    }
}

/// The TTL asked of etcd: whole seconds, from [`Ttl::MIN`] to [`Ttl::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ttl(Duration);

impl Ttl {
    /// The shortest TTL that a default etcd grants as asked.
    pub const MIN: Self = Self(Duration::from_secs(2));
    /// The longest TTL. A crashed leader is replaced only after this time.
    pub const MAX: Self = Self(Duration::from_hours(1));

    /// Returns the TTL as a duration.
    #[must_use]
    pub const fn as_duration(self) -> Duration {
        self.0
    }

    /// Returns the TTL in seconds, the unit of etcd's API.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0.as_secs()
    }
}

impl Default for Ttl {
    fn default() -> Self {
        Self(Duration::from_secs(5))
    }
}

impl TryFrom<Duration> for Ttl {
    type Error = InvalidTtl;

    fn try_from(ttl: Duration) -> Result<Self, InvalidTtl> {
        let whole = ttl.subsec_nanos() == 0;
        if whole && (Self::MIN.0..=Self::MAX.0).contains(&ttl) {
            Ok(Self(ttl))
        } else {
            Err(InvalidTtl)
        }
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.as_secs())
    }
}

/// The error of a duration that cannot be a [`Ttl`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a TTL is a whole number of seconds, at least 2s and at most 1h")]
pub struct InvalidTtl;

/// The time within which a leader responds to a challenge, or stops acting: whole milliseconds, from
/// [`FailOverLimit::MIN`] to [`FailOverLimit::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FailOverLimit(Duration);

impl FailOverLimit {
    /// The shortest limit.
    pub const MIN: Self = Self(Duration::from_millis(200));
    /// The longest limit: half of the longest TTL.
    pub const MAX: Self = Self(Duration::from_mins(30));

    /// Returns the limit as a duration.
    #[must_use]
    pub const fn as_duration(self) -> Duration {
        self.0
    }

    /// Returns the limit in milliseconds, the unit of the keys.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns how long a leader may act after it has sent a request that showed no challenge.
    #[must_use]
    pub fn acts_for(self) -> Duration {
        self.0 * 9 / 10
    }

    /// Returns how long a follower that sees a challenge waits before it takes over. If all clocks run at 0.9 to
    /// 1.1 times the true rate, the leader has stopped acting by then.
    #[must_use]
    pub fn take_over_after(self) -> Duration {
        self.0 * 11 / 10
    }
}

impl TryFrom<Duration> for FailOverLimit {
    type Error = InvalidFailOverLimit;

    fn try_from(limit: Duration) -> Result<Self, InvalidFailOverLimit> {
        let is_whole = limit.subsec_nanos().is_multiple_of(1_000_000);
        if is_whole && (Self::MIN.0..=Self::MAX.0).contains(&limit) {
            Ok(Self(limit))
        } else {
            Err(InvalidFailOverLimit)
        }
    }
}

impl fmt::Display for FailOverLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As in the command line: the largest unit that needs no fraction.
        match self.as_millis() {
            millis if millis.is_multiple_of(1000) => write!(f, "{}s", millis / 1000),
            millis => write!(f, "{millis}ms"),
        }
    }
}

/// The error of a duration that cannot be a [`FailOverLimit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a fail-over limit is a whole number of milliseconds, at least 200ms and at most 30m")]
pub struct InvalidFailOverLimit;

/// The durations of one lease, all of them ratios of its *granted* TTL; those of a term with a fail-over limit are
/// ratios of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    ttl: Duration,
    grace: Duration,
    fail_over: Option<FailOverLimit>,
}

impl Timing {
    /// The shortest limit of a connection: TCP and TLS take two round trips, on slow links too.
    const SHORTEST_CONNECT_LIMIT: Duration = Duration::from_secs(1);
    /// The same in a term with a fail-over limit, which may be shorter than that.
    const SHORTEST_QUICK_CONNECT_LIMIT: Duration = Duration::from_millis(250);
    /// How long the kernel needs at most to carry out SIGKILL.
    const SHORTEST_KILL_TIME: Duration = Duration::from_millis(40);
    /// The longest that one request to etcd may take, and one back-off may last.
    pub(super) const LONGEST_LIMIT: Duration = Duration::from_secs(5);
    /// The longest time in which a `leader/acting` that stands alone is expected to go.
    const LONGEST_SETTLING: Duration = Duration::from_millis(500);

    /// Returns the durations for a lease granted for `ttl`.
    ///
    /// `grace` is the time that whatever acts needs to stop when leadership is being lost; zero
    /// where comparing clocks is all that stopping takes.
    #[must_use]
    pub const fn new(ttl: Duration, grace: Duration) -> Self {
        Self {
            ttl,
            grace,
            fail_over: None,
        }
    }

    /// Returns the durations for a term with this fail-over limit, if it has one.
    #[must_use]
    pub const fn within(self, fail_over: Option<FailOverLimit>) -> Self {
        Self { fail_over, ..self }
    }

    /// Returns the fail-over limit of the term, if it has one.
    #[must_use]
    pub const fn fail_over(&self) -> Option<FailOverLimit> {
        self.fail_over
    }

    /// Returns the time of which the pace of a term and its limits are ratios.
    fn span(&self) -> Duration {
        self.fail_over
            .map_or(self.ttl, |limit| limit.as_duration().min(self.ttl))
    }

    /// Returns the granted TTL.
    #[must_use]
    pub const fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Returns the time that whatever acts gets to stop when leadership is being lost.
    #[must_use]
    pub const fn grace(&self) -> Duration {
        self.grace
    }

    /// Returns the time between two tries of a leader, from send to send.
    #[must_use]
    pub fn renew_every(&self) -> Duration {
        self.span() / 5
    }

    /// Returns the time between two tries of a follower, from send to send.
    #[must_use]
    pub fn follow_every(&self) -> Duration {
        self.ttl / 3
    }

    /// Returns how long one try may take before another connection is opened; and how long an
    /// endpoint may take to connect to before another is tried beside it.
    #[must_use]
    pub fn limit(&self) -> Duration {
        (self.span() / 5).min(Self::LONGEST_LIMIT)
    }

    /// Returns how long a connection may take, without authentication: TCP, TLS and reading files.
    #[must_use]
    pub fn connect_limit(&self) -> Duration {
        let shortest = match self.fail_over {
            Some(_) => Self::SHORTEST_QUICK_CONNECT_LIMIT,
            None => Self::SHORTEST_CONNECT_LIMIT,
        };
        (2 * self.limit()).clamp(shortest, Self::LONGEST_LIMIT)
    }

    /// Returns the longest back-off.
    #[must_use]
    pub fn longest_back_off(&self) -> Duration {
        self.within(None).limit()
    }

    /// Returns how long a leader that was asked to step down leaves the field to others.
    #[must_use]
    pub fn hold_off(&self) -> Duration {
        self.ttl / 5
    }

    /// Returns how long a leader that has handed its term over waits before it revokes its lease: a
    /// revocation keeps etcd busy while the successor sends its first try.
    #[must_use]
    pub fn revoke_after(&self) -> Duration {
        self.within(None).limit() / 100
    }

    /// Returns how long `leader/acting` must stand without a leader to be worth a report.
    #[must_use]
    pub fn settling(&self) -> Duration {
        (self.ttl / 10).min(Self::LONGEST_SETTLING)
    }

    /// Returns the part of the TTL that pays for clocks of different rates.
    #[must_use]
    pub fn margin(&self) -> Duration {
        self.ttl / 10
    }

    /// Returns how long one answered try gives the right to act, from its send.
    #[must_use]
    pub fn term_of_try(&self) -> Duration {
        self.ttl.saturating_sub(self.margin())
    }

    /// Returns when what acts must begin to stop unless `deadline` is moved.
    #[must_use]
    pub fn stop_from(&self, deadline: Moment) -> Moment {
        deadline - self.grace
    }

    /// Returns when what has not stopped by itself is killed, so that it is dead by `deadline`.
    #[must_use]
    pub fn kill_at(&self, deadline: Moment) -> Moment {
        deadline - self.time_to_kill()
    }

    /// Returns how long before the deadline what has not stopped is killed.
    #[must_use]
    pub fn time_to_kill(&self) -> Duration {
        (self.grace / 10).max(Self::SHORTEST_KILL_TIME.min(self.grace))
    }

    /// Returns by when what learned at `now` that leadership is being lost must have stopped.
    #[must_use]
    pub fn stop_by(&self, now: Moment, deadline: Moment) -> Moment {
        (now + self.grace).min(self.kill_at(deadline))
    }

    /// Returns true iff one bad endpoint cannot cost a healthy leader its term: after a period, a
    /// try that runs into its limit and a connection that does leave time before stopping must
    /// begin.
    #[must_use]
    pub fn survives_a_bad_endpoint(&self) -> bool {
        let span = self.span();
        self.renew_every() + 2 * self.limit() + span / 10 + self.grace < span
    }
}
