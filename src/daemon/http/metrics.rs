//! What Prometheus scrapes. Names of replicas and keys are in none of it.

use crate::protocol::{Event, FailureKind, LossReason, Moment};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};
use std::{fmt, sync::atomic::AtomicU64, time::Duration};

/// The format of [`Metrics::encode`].
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a replica is, as one of the values of a label.
pub(super) const ROLES: [&str; 3] = ["follower", "leader", "stopping"];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Role {
    role: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

impl From<LossReason> for Reason {
    fn from(reason: LossReason) -> Self {
        Self {
            reason: reason.as_str(),
        }
    }
}

impl From<FailureKind> for Kind {
    fn from(kind: FailureKind) -> Self {
        Self {
            kind: kind.as_str(),
        }
    }
}

/// What changes by the clock alone, at the instant of a scrape.
pub(super) struct Instant {
    pub role: &'static str,
    pub remaining: Duration,
    pub answers: bool,
}

/// Counters and gauges, and the registry that knows them.
pub(super) struct Metrics {
    registry: Registry,
    role: Family<Role, Gauge>,
    remaining: Gauge<f64, AtomicU64>,
    answers: Gauge,
    transitions: Counter,
    losses: Family<Reason, Counter>,
    renewals: Counter,
    renewal_duration: Histogram,
    failures: Family<Kind, Counter>,
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("leader_election");
        let metrics = Self {
            role: Family::default(),
            remaining: Gauge::default(),
            answers: Gauge::default(),
            transitions: Counter::default(),
            losses: Family::default(),
            renewals: Counter::default(),
            // From 1 ms to 4 s.
            renewal_duration: Histogram::new(exponential_buckets(0.001, 2.0, 13)),
            failures: Family::default(),
            registry: Registry::default(),
        };
        registry.register(
            "role",
            "1 for the role of this replica, else 0",
            metrics.role.clone(),
        );
        let remaining = "How long this replica may lead without a renewal, 0 if it does not lead";
        registry.register_with_unit(
            "remaining",
            remaining,
            Unit::Seconds,
            metrics.remaining.clone(),
        );
        registry.register(
            "etcd_answers",
            "1 if etcd answers, else 0",
            metrics.answers.clone(),
        );
        registry.register(
            "transitions",
            "Changes of this replica's role",
            metrics.transitions.clone(),
        );
        registry.register(
            "losses",
            "Terms of this replica that have ended",
            metrics.losses.clone(),
        );
        registry.register(
            "renewals",
            "Renewals of this replica's terms",
            metrics.renewals.clone(),
        );
        let duration = "How long renewals took";
        registry.register_with_unit(
            "renewal_duration",
            duration,
            Unit::Seconds,
            metrics.renewal_duration.clone(),
        );
        registry.register(
            "failures",
            "Questions to etcd that failed",
            metrics.failures.clone(),
        );
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program", build);
        // What has not happened yet has happened 0 times.
        for reason in LossReason::ALL {
            drop(metrics.losses.get_or_create(&Reason::from(*reason)));
        }
        for kind in FailureKind::ALL {
            drop(metrics.failures.get_or_create(&Kind::from(*kind)));
        }
        Self {
            registry,
            ..metrics
        }
    }

    /// Counts what happened.
    pub fn note(&self, event: &Event) {
        match event {
            Event::Lost { reason, .. } => {
                self.losses.get_or_create(&Reason::from(*reason)).inc();
            }
            Event::Failed { failure, .. } => {
                self.failures.get_or_create(&Kind::from(failure.kind)).inc();
            }
            _ => {}
        }
    }

    /// Counts a change of the role.
    pub fn changed(&self) {
        self.transitions.inc();
    }

    /// Counts a renewal that was sent and answered at these moments.
    pub fn renewed(&self, sent: Moment, answered: Moment) {
        self.renewals.inc();
        self.renewal_duration
            .observe(answered.since(sent).as_secs_f64());
    }

    /// Tells all of it.
    ///
    /// # Errors
    /// A string takes whatever is written; there is no reason for any.
    pub fn encode(&self, instant: &Instant) -> Result<String, fmt::Error> {
        for role in ROLES {
            let is_it = i64::from(instant.role == role);
            self.role.get_or_create(&Role { role }).set(is_it);
        }
        self.remaining.set(instant.remaining.as_secs_f64());
        self.answers.set(i64::from(instant.answers));
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
