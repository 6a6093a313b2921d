//! The metrics that Prometheus and other collectors scrape. A new metric belongs here: a field, its registration, and
//! the place that counts or sets it. Labels never contain names of replicas or keys.

use super::{format::Format, role::CurrentRole, state::Snapshot};
use crate::{
    candidates::Candidates,
    protocol::{Event, FailureKind, LossReason, Moment},
};
use prometheus_client::{
    encoding::{prometheus_text, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};
use std::{fmt, sync::atomic::AtomicU64};

/// One label: its name and its value.
type Label = [(&'static str, &'static str); 1];

/// The metrics, and the registry that names them.
pub(super) struct Metrics {
    registry: Registry,
    role: Family<Label, Gauge>,
    remaining: Gauge<f64, AtomicU64>,
    etcd_answers: Gauge,
    /// Without a label, it has one value, or none.
    candidates: Family<[(&'static str, &'static str); 0], Gauge>,
    healthy: Gauge,
    priority: Gauge,
    transitions: Counter,
    losses: Family<Label, Counter>,
    renewals: Counter,
    renewal_duration: Histogram,
    failures: Family<Label, Counter>,
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("leader_election");

        let role = Family::default();
        let help = "1 for the role of this replica, else 0";
        registry.register("role", help, role.clone());

        let remaining = Gauge::default();
        let help = "How long this replica may lead without a renewal, 0 if it does not lead";
        registry.register_with_unit("remaining", help, Unit::Seconds, remaining.clone());

        let etcd_answers = Gauge::default();
        let help = "1 if etcd answers, else 0";
        registry.register("etcd_answers", help, etcd_answers.clone());

        let candidates = Family::default();
        let help = "Candidates that are listed; absent if they are not known";
        registry.register("candidates", help, candidates.clone());

        let healthy = Gauge::default();
        let help = "1 if this replica can lead, as far as it knows, 0 if it stands back";
        registry.register("healthy", help, healthy.clone());

        let priority = Gauge::default();
        let help = "The priority of this replica: replicas with a higher priority come first";
        registry.register("priority", help, priority.clone());

        let transitions = Counter::default();
        let help = "Changes of this replica's role";
        registry.register("transitions", help, transitions.clone());

        let losses = Family::default();
        let help = "Terms of this replica that have ended";
        registry.register("losses", help, losses.clone());

        let renewals = Counter::default();
        let help = "Renewals of this replica's terms";
        registry.register("renewals", help, renewals.clone());

        // From 1 ms to 4 s.
        let renewal_duration = Histogram::new(exponential_buckets(0.001, 2.0, 13));
        let help = "How long renewals took";
        let metric = renewal_duration.clone();
        registry.register_with_unit("renewal_duration", help, Unit::Seconds, metric);

        let failures = Family::default();
        let help = "Questions to etcd that failed";
        registry.register("failures", help, failures.clone());

        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program", build);

        // A counter that appears only with its first event hides that event from `increase`.
        for reason in LossReason::ALL {
            drop(losses.get_or_create(&reason_label(*reason)));
        }
        for kind in FailureKind::ALL {
            drop(failures.get_or_create(&kind_label(*kind)));
        }
        Self {
            registry,
            role,
            remaining,
            etcd_answers,
            candidates,
            healthy,
            priority,
            transitions,
            losses,
            renewals,
            renewal_duration,
            failures,
        }
    }

    /// Counts what happened in the election.
    pub fn count(&self, event: &Event) {
        match event {
            Event::Lost { reason, .. } => {
                self.losses.get_or_create(&reason_label(*reason)).inc();
            }
            Event::Failed { failure, .. } => {
                self.failures.get_or_create(&kind_label(failure.kind)).inc();
            }
            _ => {}
        }
    }

    /// Counts a change of the role.
    pub fn count_transition(&self) {
        self.transitions.inc();
    }

    /// Counts a renewal whose request and response were sent and received at these moments.
    pub fn count_renewal(&self, sent: Moment, received: Moment) {
        self.renewals.inc();
        self.renewal_duration
            .observe(received.since(sent).as_secs_f64());
    }

    /// Encodes all metrics in this format.
    ///
    /// # Errors
    /// None are known: writing to a `String` does not fail.
    pub fn encode(&self, snapshot: &Snapshot, format: Format) -> Result<String, fmt::Error> {
        for role in CurrentRole::ALL {
            let is_it = i64::from(snapshot.role == role);
            self.role
                .get_or_create(&[("role", role.as_str())])
                .set(is_it);
        }
        let remaining = snapshot.remaining.unwrap_or_default();
        self.remaining.set(remaining.as_secs_f64());
        self.etcd_answers.set(i64::from(snapshot.etcd_answers));
        match &snapshot.candidates {
            Some(Candidates { listed, .. }) => {
                let count = i64::try_from(listed.len()).unwrap_or(i64::MAX);
                self.candidates.get_or_create(&[]).set(count);
            }
            None => self.candidates.clear(),
        }
        self.healthy.set(i64::from(snapshot.is_healthy));
        self.priority.set(i64::from(snapshot.priority));
        let mut body = String::new();
        match format {
            Format::Text => prometheus_text::encode(&mut body, &self.registry)?,
            Format::OpenMetrics => text::encode(&mut body, &self.registry)?,
        }
        Ok(body)
    }
}

const fn reason_label(reason: LossReason) -> Label {
    [("reason", reason.as_str())]
}

const fn kind_label(kind: FailureKind) -> Label {
    [("kind", kind.as_str())]
}
