//! The configuration. All values are validated, so every [`Config`] is valid.

mod cluster;
mod job;
mod leader_key;
mod password;

pub use cluster::{Cluster, Credentials, Endpoint, InvalidEndpoint, Tls};
pub use job::JobId;
pub use leader_key::LeaderKey;
pub use password::Password;
pub(crate) use password::ReadPassword;

use crate::protocol::{FailOverLimit, Timing, Ttl};
use std::{str::FromStr, time::Duration};

/// The longest name, address and key, in bytes.
const LONGEST: usize = 255;

/// Checks a text that is compared byte by byte, and that people read and type.
pub(crate) fn check_text(text: &str) -> Result<(), InvalidText> {
    if text.is_empty() {
        Err(InvalidText::Empty)
    } else if text.trim().is_empty() {
        Err(InvalidText::Blank)
    } else if text.len() > LONGEST {
        Err(InvalidText::TooLong)
    } else if text.contains(char::is_control) {
        Err(InvalidText::ControlCharacter)
    } else if text.trim() != text {
        // Nobody sees the difference to the same text without it.
        Err(InvalidText::OuterSpace)
    } else {
        Ok(())
    }
}

/// The error of a text that cannot be a [`Name`], an [`Address`] or a [`LeaderKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidText {
    /// It is empty.
    #[error("it is empty")]
    Empty,
    /// It is nothing but white space.
    #[error("it is blank")]
    Blank,
    /// It is longer than 255 bytes.
    #[error("it is longer than 255 bytes")]
    TooLong,
    /// It contains a control character.
    #[error("it contains a control character")]
    ControlCharacter,
    /// It begins or ends with white space.
    #[error("it begins or ends with white space")]
    OuterSpace,
    /// The key could belong to another election.
    #[error(
        "it could belong to another election: a key must not end in /acting, /next or /challenge, \
         nor in /candidates/…, /history/… or /done/…"
    )]
    ReservedKey,
}

/// The name of a candidate. The `leader` key holds it while the candidate leads. It has up to 255 bytes, no control
/// character, and no white space at its ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        check_text(text)?;
        Ok(Self(text.to_owned()))
    }
}

/// How to reach a candidate while it leads: a text with the same restrictions as a [`Name`], such as an IP address or a
/// URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(String);

impl Address {
    /// Returns the address.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Address {
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        check_text(text)?;
        Ok(Self(text.to_owned()))
    }
}

/// What a candidate must know to take part in an election.
#[derive(Clone, Debug)]
pub struct Config {
    name: Name,
    address: Option<Address>,
    cluster: Cluster,
    leader_key: LeaderKey,
    ttl: Ttl,
    grace: Duration,
    stop_timeout: Duration,
    wait: Option<Duration>,
    job: Option<JobId>,
    priority: i32,
    priority_delay: Option<Duration>,
    stands_back: Option<String>,
    fail_over: Option<FailOverLimit>,
}

impl Config {
    /// Creates a configuration with the key `leader`, a TTL of 5 s, no grace and a stop timeout
    /// of 10 s.
    #[must_use]
    pub fn new(name: Name, cluster: Cluster) -> Self {
        Self {
            name,
            address: None,
            cluster,
            leader_key: LeaderKey::default(),
            ttl: Ttl::default(),
            grace: Duration::ZERO,
            stop_timeout: Duration::from_secs(10),
            wait: None,
            job: None,
            priority: 0,
            priority_delay: Some(Self::PRIORITY_DELAY),
            stands_back: None,
            fail_over: None,
        }
    }

    /// How long a leader lets a better candidate wait, by default.
    const PRIORITY_DELAY: Duration = Duration::from_secs(30);

    /// Sets the priority, which is 0 by default. A leader hands its term over to the candidate with the highest
    /// priority, and it yields to a candidate with a higher priority than its own.
    #[must_use]
    pub fn with_priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// Sets the delay before this candidate, as the leader, yields to another one. The other candidate must have had a
    /// higher priority, and must have been able to lead, for this long. The default is 30 s. With `None`, this
    /// candidate never yields.
    #[must_use]
    pub fn with_priority_delay(mut self, delay: Option<Duration>) -> Self {
        self.priority_delay = delay;
        self
    }

    /// Makes the candidate stand back from the start, for this reason, until
    /// [`Candidate::stand_forward`](crate::Candidate::stand_forward).
    #[must_use]
    pub fn standing_back(mut self, reason: impl Into<String>) -> Self {
        self.stands_back = Some(reason.into());
        self
    }

    /// Returns the priority.
    #[must_use]
    pub fn priority(&self) -> i32 {
        self.priority
    }

    /// Returns the delay before this candidate, as the leader, yields to one with a higher priority.
    #[must_use]
    pub fn priority_delay(&self) -> Option<Duration> {
        self.priority_delay
    }

    /// Returns why the candidate stands back from the start, if it does.
    #[must_use]
    pub fn stands_back(&self) -> Option<&str> {
        self.stands_back.as_deref()
    }

    /// Sets how to reach this candidate while it leads. All observers of the election see this address.
    #[must_use]
    pub fn with_address(mut self, address: Address) -> Self {
        self.address = Some(address);
        self
    }

    /// Sets the key of the election.
    #[must_use]
    pub fn with_leader_key(mut self, leader_key: LeaderKey) -> Self {
        self.leader_key = leader_key;
        self
    }

    /// Sets the lease TTL and the grace. A failed leader is replaced within about the TTL plus one second. The grace is
    /// the time to stop if the lease cannot be renewed: [`Leadership::lost`](crate::Leadership::lost) returns that long
    /// before the deadline. Choose a grace of zero if the leader only compares clocks before it acts.
    ///
    /// # Errors
    /// If these values would let one bad endpoint end the term of a healthy leader. A `grace` of up to a fifth of the
    /// TTL always fits.
    pub fn with_ttl_and_grace(mut self, ttl: Ttl, grace: Duration) -> Result<Self, InvalidConfig> {
        if !Timing::new(ttl.as_duration(), grace).survives_a_bad_endpoint() {
            return Err(InvalidConfig::Grace { ttl, grace });
        }
        self.ttl = ttl;
        self.grace = grace;
        self.check_fail_over()
    }

    /// Lets another candidate take over soon if this one fails as the leader: about 1.1 × `limit` after a follower has
    /// noticed the failure, instead of after the lease has expired.
    ///
    /// The cost: while it leads, this candidate sends etcd a keepalive and a read every fifth of the limit. Its term ends
    /// 0.9 × `limit` after it sent the last request that was answered. So a response must take less than 0.7 × `limit`,
    /// or less than 0.35 × `limit` while the leader is challenged. With a limit below about 1.5 s, a leader change inside
    /// etcd ends the term. 1 s is recommended. A follower can take over without this setting.
    ///
    /// The etcd user needs a role that may read and write the key that ends in `/challenge`; otherwise the candidate
    /// reports [`Event::FailOverDenied`](crate::Event::FailOverDenied) and withdraws.
    ///
    /// # Errors
    /// If the limit is longer than half of the TTL, or the grace does not fit it. A grace of up to a fifth of the
    /// limit always fits.
    pub fn with_fail_over(mut self, limit: FailOverLimit) -> Result<Self, InvalidConfig> {
        self.fail_over = Some(limit);
        self.check_fail_over()
    }

    fn check_fail_over(self) -> Result<Self, InvalidConfig> {
        let (ttl, grace) = (self.ttl, self.grace);
        let Some(limit) = self.fail_over else {
            return Ok(self);
        };
        let timing = Timing::new(ttl.as_duration(), grace).within(Some(limit));
        if limit.as_duration() > ttl.as_duration() / 2 {
            Err(InvalidConfig::FailOver { ttl, limit })
        } else if !timing.survives_a_bad_endpoint() {
            Err(InvalidConfig::GraceOfFailOver { limit, grace })
        } else {
            Ok(self)
        }
    }

    /// Returns the time within which the candidate responds to a challenge when it leads; `None` if it has no fail-over
    /// limit.
    #[must_use]
    pub fn fail_over(&self) -> Option<FailOverLimit> {
        self.fail_over
    }

    /// Sets how long the leader may take to finish in a graceful stop. Its lease is kept meanwhile.
    #[must_use]
    pub fn with_stop_timeout(mut self, stop_timeout: Duration) -> Self {
        self.stop_timeout = stop_timeout;
        self
    }

    /// Limits how long the candidate waits to lead, from its start and again after each of its terms.
    /// Then it reports [`Event::GaveUp`](crate::Event::GaveUp) and withdraws. By default, it waits without a limit.
    ///
    /// With a wait of zero, it tries once: it looks at the keys before it asks for a lease, and
    /// withdraws as soon as it sees that another candidate leads or may still be acting. If etcd does not respond, it
    /// withdraws after up to 8 s.
    #[must_use]
    pub fn with_wait(mut self, wait: Duration) -> Self {
        self.wait = Some(wait);
        self
    }

    /// Makes the candidate take part only until this job, which runs once, is done.
    ///
    /// The leader does the job, and then calls [`Leadership::complete`](crate::Leadership::complete),
    /// which records that the job is done. Each candidate of this job that finds the record reports
    /// [`Event::JobDone`](crate::Event::JobDone) and withdraws. After a crash between the end of the job
    /// and its record, another candidate does the job again, so the job must be idempotent.
    ///
    /// The etcd user needs a role that may read and write the record's key, [`LeaderKey::done`], as well
    /// as the two keys of the election.
    #[must_use]
    pub fn with_job(mut self, job: JobId) -> Self {
        self.job = Some(job);
        self
    }

    /// Returns how long the candidate waits to lead; `None` if there is no limit.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        self.wait
    }

    /// Returns the job that runs once, if there is one.
    #[must_use]
    pub fn job(&self) -> Option<&JobId> {
        self.job.as_ref()
    }

    /// Returns how to reach the candidate while it leads.
    #[must_use]
    pub fn address(&self) -> Option<&Address> {
        self.address.as_ref()
    }

    /// Returns the etcd cluster.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Returns the candidate's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Returns the key of the election.
    #[must_use]
    pub fn leader_key(&self) -> &LeaderKey {
        &self.leader_key
    }

    /// Returns the TTL to ask for.
    #[must_use]
    pub fn ttl(&self) -> Ttl {
        self.ttl
    }

    /// Returns the time that the leader gets to stop if the lease cannot be renewed.
    #[must_use]
    pub fn grace(&self) -> Duration {
        self.grace
    }

    /// Returns how long the leader may take to finish in a graceful stop.
    #[must_use]
    pub fn stop_timeout(&self) -> Duration {
        self.stop_timeout
    }
}

/// The error of values that do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidConfig {
    /// There is no endpoint.
    #[error("at least one endpoint is needed")]
    NoEndpoint,
    /// TLS is configured, but an endpoint is an http URL.
    #[error("an http:// endpoint cannot be spoken to by TLS; give https:// or host:port")]
    PlainEndpoint,
    /// One bad endpoint could end the term of a healthy leader.
    #[error(
        "a grace of {grace:?} does not fit a TTL of {ttl}: one bad endpoint could cost a healthy \
         leader its term; a fifth of the TTL always fits"
    )]
    Grace {
        /// The TTL.
        ttl: Ttl,
        /// The grace.
        grace: Duration,
    },
    /// The fail-over limit is too long for the TTL.
    #[error(
        "a fail-over limit of {limit} does not fit a TTL of {ttl}: half of the TTL is the longest"
    )]
    FailOver {
        /// The TTL.
        ttl: Ttl,
        /// The limit.
        limit: FailOverLimit,
    },
    /// The grace is too long for the fail-over limit.
    #[error(
        "a grace of {grace:?} does not fit a fail-over limit of {limit}: one bad endpoint could cost a \
         healthy leader its term; a fifth of the limit always fits"
    )]
    GraceOfFailOver {
        /// The limit.
        limit: FailOverLimit,
        /// The grace.
        grace: Duration,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_keys_are_short_and_printable() {
        assert!("server1".parse::<Name>().is_ok());
        assert!("é".repeat(127).parse::<Name>().is_ok());
        assert!("server 1".parse::<Name>().is_ok());
        assert_eq!("".parse::<Name>(), Err(InvalidText::Empty));
        assert_eq!(" \u{3000}".parse::<Name>(), Err(InvalidText::Blank));
        assert_eq!(" a".parse::<Address>(), Err(InvalidText::OuterSpace));
        assert_eq!("a\u{a0}".parse::<LeaderKey>(), Err(InvalidText::OuterSpace));
        assert_eq!("é".repeat(128).parse::<Name>(), Err(InvalidText::TooLong));
        assert_eq!(
            "a\u{7f}".parse::<Name>(),
            Err(InvalidText::ControlCharacter)
        );
    }

    #[test]
    fn a_grace_that_a_bad_endpoint_could_turn_into_a_lost_term_is_refused() {
        let cluster = Cluster::new(vec!["localhost:2379".parse().unwrap()]).unwrap();
        let config = Config::new("a".parse().unwrap(), cluster);
        let ttl = Ttl::default();
        assert!(
            config
                .clone()
                .with_ttl_and_grace(ttl, ttl.as_duration() / 5)
                .is_ok()
        );
        let too_long = ttl.as_duration() * 3 / 10;
        assert_eq!(
            config.with_ttl_and_grace(ttl, too_long).unwrap_err(),
            InvalidConfig::Grace {
                ttl,
                grace: too_long
            }
        );
    }
}
