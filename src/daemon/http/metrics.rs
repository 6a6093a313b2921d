//! The metrics that Prometheus and other collectors scrape. A new metric belongs here: a field, its registration, and
//! the place that counts or sets it. Labels never contain names of replicas or keys.

use super::{format::Format, role::CurrentRole, snapshot::Snapshot};
use crate::protocol::{Event, FailureKind, LossReason, Moment};
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
type NoLabel = [(&'static str, &'static str); 0];

/// The metrics of a replica, and the registry that names them.
pub(super) struct Metrics {
    registry: Registry,
    role: Family<Label, Gauge>,
    remaining: Gauge<f64, AtomicU64>,
    common: Common,
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
        let metric = remaining.clone();
        registry.register_with_unit("leadership_remaining", help, Unit::Seconds, metric);

        let common = Common::register(&mut registry);

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
        registry.register("leadership_losses", help, losses.clone());

        let renewals = Counter::default();
        let help = "Renewals of this replica's terms";
        registry.register("renewals", help, renewals.clone());

        // From 1 ms to 4 s.
        let renewal_duration = Histogram::new(exponential_buckets(0.001, 2.0, 13));
        let help = "How long renewals took";
        let metric = renewal_duration.clone();
        registry.register_with_unit("renewal_duration", help, Unit::Seconds, metric);

        let failures = Family::default();
        let help = "Requests to etcd that failed";
        registry.register("etcd_request_failures", help, failures.clone());

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
            common,
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

    /// Encodes all metrics of a replica in this format.
    ///
    /// # Errors
    /// None are known: writing to a `String` does not fail.
    pub fn encode(&self, snapshot: &Snapshot, format: Format) -> Result<String, fmt::Error> {
        if let Some(replica) = &snapshot.replica {
            for role in CurrentRole::ALL {
                let is_it = i64::from(replica.role == role);
                self.role
                    .get_or_create(&[("role", role.as_str())])
                    .set(is_it);
            }
            self.healthy.set(i64::from(replica.is_healthy));
            self.priority.set(i64::from(replica.priority));
        }
        let remaining = snapshot.remaining().unwrap_or_default();
        self.remaining.set(remaining.as_secs_f64());
        self.common.set(snapshot);
        encode(&self.registry, format)
    }
}

/// What every process knows.
struct Common {
    etcd_up: Gauge,
    /// Without a label, it has one value, or none.
    led: Family<NoLabel, Gauge>,
    candidates: Family<NoLabel, Gauge>,
}

impl Common {
    fn register(registry: &mut Registry) -> Self {
        let etcd_up = Gauge::default();
        let help = "1 if etcd responds, else 0";
        registry.register("etcd_up", help, etcd_up.clone());

        let led = Family::default();
        let help = "1 if somebody leads, 0 if nobody does; absent if that is not known";
        registry.register("led", help, led.clone());

        let candidates = Family::default();
        let help = "Candidates that are listed; absent if they are not known";
        registry.register("candidates", help, candidates.clone());

        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program", build);
        Self {
            etcd_up,
            led,
            candidates,
        }
    }

    fn set(&self, snapshot: &Snapshot) {
        self.etcd_up.set(i64::from(snapshot.etcd_answers));
        let led = snapshot.election.as_ref().ok();
        let led = led.map(|state| i64::from(state.situation.is_led()));
        set_or_clear(&self.led, led);
        let count = snapshot.candidates.as_ref().map(|candidates| {
            let count = candidates.listed.len();
            i64::try_from(count).unwrap_or(i64::MAX)
        });
        set_or_clear(&self.candidates, count);
    }
}

/// The metrics of a process that only observes.
pub(super) struct ObserverMetrics {
    registry: Registry,
    common: Common,
    changes: Counter,
}

impl ObserverMetrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("leader_election");
        let common = Common::register(&mut registry);
        let changes = Counter::default();
        let help = "Changes of the election's state: another leader, or none";
        registry.register("changes", help, changes.clone());
        Self {
            registry,
            common,
            changes,
        }
    }

    /// Counts a change of the election's state.
    pub fn count_change(&self) {
        self.changes.inc();
    }

    /// Encodes all metrics of an observer in this format.
    ///
    /// # Errors
    /// None are known: writing to a `String` does not fail.
    pub fn encode(&self, snapshot: &Snapshot, format: Format) -> Result<String, fmt::Error> {
        self.common.set(snapshot);
        encode(&self.registry, format)
    }
}

fn encode(registry: &Registry, format: Format) -> Result<String, fmt::Error> {
    let mut body = String::new();
    match format {
        Format::Text => prometheus_text::encode(&mut body, registry)?,
        Format::OpenMetrics => text::encode(&mut body, registry)?,
    }
    Ok(body)
}

fn set_or_clear(metric: &Family<NoLabel, Gauge>, value: Option<i64>) {
    match value {
        Some(value) => {
            metric.get_or_create(&[]).set(value);
        }
        None => metric.clear(),
    }
}

const fn reason_label(reason: LossReason) -> Label {
    [("reason", reason.as_str())]
}

const fn kind_label(kind: FailureKind) -> Label {
    [("kind", kind.as_str())]
}
