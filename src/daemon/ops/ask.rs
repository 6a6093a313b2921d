//! Sends a request to etcd, within a time limit.

use crate::{
    backoff::Jitter,
    clock,
    config::{Cluster, LeaderKey},
    daemon::render::endpoint_failure,
    etcd::{self, Connection, Keys},
    protocol::{Failure, FailureKind, Moment, Rotation},
};
use anyhow::bail;
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;

/// The longest time that a request to one endpoint may take.
const LIMIT: Duration = Duration::from_secs(2);
/// The longest back-off after every endpoint failed.
const LONGEST_BACK_OFF: Duration = Duration::from_millis(500);

/// Sends requests to a cluster until a deadline.
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

    /// Sends a request to one endpoint after the other until one succeeds. `request` gets the time
    /// that it may take, and may be called again after it failed or its response was lost.
    ///
    /// # Errors
    /// If no endpoint has succeeded when the time is up, or all of them fail for reasons that do not
    /// go away by themselves.
    pub async fn ask<T>(
        &self,
        request: impl AsyncFn(&Connection, Duration) -> Result<T, Failure>,
    ) -> anyhow::Result<T> {
        let mut rotation = Rotation::new(self.cluster.endpoint_count());
        let mut jitter = Jitter::new();
        let mut failures = Vec::new();
        loop {
            let left = u32::try_from(rotation.left_in_round()).unwrap_or(u32::MAX);
            let limit = (self.left() / left).min(LIMIT);
            let failure = match self.ask_one(rotation.endpoint(), &request, limit).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            failures.push(failure.clone());
            if !rotation.record_failure(Some(failure)) {
                continue;
            }
            // It takes an operator to fix these.
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
        request: &impl AsyncFn(&Connection, Duration) -> Result<T, Failure>,
        limit: Duration,
    ) -> Result<T, Failure> {
        let until = clock::now() + limit;
        let (cluster, keys) = (Arc::clone(&self.cluster), Arc::clone(&self.keys));
        let connection = Box::pin(etcd::connect(cluster, endpoint, keys, None, limit)).await?;
        request(&connection, until.since(clock::now())).await
    }

    /// Returns how much of the time is left.
    pub fn left(&self) -> Duration {
        self.until.since(clock::now())
    }

    fn give_up<T>(&self, failures: &[Failure]) -> anyhow::Result<T> {
        let endpoints = self.cluster.endpoints().iter();
        let failures: Vec<_> = endpoints
            .zip(failures)
            .map(|(endpoint, failure)| endpoint_failure(endpoint, failure))
            .collect();
        let timeout = humantime::format_duration(self.timeout);
        bail!(
            "found out nothing within {timeout}: {}; --etcd says where to ask, --timeout how long \
             to try",
            failures.join("; ")
        );
    }
}
