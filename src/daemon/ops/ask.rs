//! One question to etcd, within a time.

use crate::{
    backoff::Jitter,
    clock,
    config::{Cluster, LeaderKey},
    etcd::{self, Connection, Keys},
    printable::Printable,
    protocol::{Failure, FailureKind, Moment, Rotation},
};
use anyhow::bail;
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;

/// How long one endpoint may take.
const LIMIT: Duration = Duration::from_secs(2);
/// The longest back-off after every endpoint failed.
const LONGEST_BACK_OFF: Duration = Duration::from_millis(500);

/// Who asks, until when.
pub(super) struct Asker {
    cluster: Arc<Cluster>,
    keys: Arc<Keys>,
    timeout: Duration,
    until: Moment,
}

impl Asker {
    pub fn new(cluster: &Cluster, leader_key: &LeaderKey, timeout: Duration) -> Self {
        Self {
            cluster: Arc::new(cluster.clone()),
            keys: Arc::new(Keys::new(leader_key)),
            timeout,
            until: clock::now() + timeout,
        }
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Asks one endpoint after the other until one answers. The question is told by when it must be
    /// answered, and may be asked again after it failed, or after its answer was lost.
    pub async fn ask<T>(
        &self,
        question: impl AsyncFn(&Connection, Duration) -> Result<T, Failure>,
    ) -> anyhow::Result<T> {
        let mut rotation = Rotation::new(self.cluster.endpoint_count());
        let mut jitter = Jitter::new();
        let mut failures = Vec::new();
        loop {
            let left = u32::try_from(rotation.left_in_round()).unwrap_or(u32::MAX);
            let limit = (self.left() / left).min(LIMIT);
            let failure = match self.ask_one(rotation.endpoint(), &question, limit).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            failures.push(failure.clone());
            if !rotation.record_failure(Some(failure)) {
                continue;
            }
            // What nobody mends within seconds is not waited for.
            let is_final = |failure: &Failure| {
                matches!(
                    failure.kind,
                    FailureKind::Refused | FailureKind::Unauthenticated
                )
            };
            let wait = jitter.up_to(rotation.back_off_limit(LONGEST_BACK_OFF));
            if failures.iter().all(is_final) || self.left() <= wait {
                return self.give_up(&failures);
            }
            failures.clear();
            sleep(wait).await;
        }
    }

    async fn ask_one<T>(
        &self,
        endpoint: usize,
        question: &impl AsyncFn(&Connection, Duration) -> Result<T, Failure>,
        limit: Duration,
    ) -> Result<T, Failure> {
        let until = clock::now() + limit;
        let (cluster, keys) = (Arc::clone(&self.cluster), Arc::clone(&self.keys));
        let connection = Box::pin(etcd::connect(cluster, endpoint, keys, None, limit)).await?;
        question(&connection, until.since(clock::now())).await
    }

    /// Returns how much of the time is left.
    pub fn left(&self) -> Duration {
        self.until.since(clock::now())
    }

    fn give_up<T>(&self, failures: &[Failure]) -> anyhow::Result<T> {
        let told = self.cluster.endpoints().iter().zip(failures);
        let told: Vec<_> = told
            .map(|(endpoint, failure)| {
                let reason = Printable(failure.message.as_bytes());
                format!("etcd at '{endpoint}' {} ({reason})", verdict(failure))
            })
            .collect();
        let timeout = humantime::format_duration(self.timeout);
        bail!(
            "found out nothing within {timeout}: {}; --etcd says where to ask, --timeout how long \
             to try",
            told.join("; ")
        );
    }
}

/// What an endpoint does that fails so.
pub(in crate::daemon) fn verdict(failure: &Failure) -> &'static str {
    match failure.kind {
        FailureKind::Refused => "refuses",
        FailureKind::Unauthenticated | FailureKind::Exhausted => "cannot be talked to",
        _ => "does not answer",
    }
}
