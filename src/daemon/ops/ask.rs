//! Sends a request to etcd, within a time limit.

use super::warn;
use crate::{
    backoff::Jitter,
    clock,
    config::{Cluster, LeaderKey},
    daemon::render::{AUTHENTICATION_OFF, endpoint_failure},
    etcd::{Connection, Target},
    protocol::{Failure, FailureKind, Moment, Rotation},
};
use anyhow::bail;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::{sleep, timeout};

/// The longest time that a request to one endpoint may take.
const LIMIT: Duration = Duration::from_secs(2);
/// The longest back-off after every endpoint failed, and the time kept for a last round.
const LONGEST_BACK_OFF: Duration = Duration::from_millis(500);

/// Sends requests to a cluster until a deadline.
pub(super) struct Asker {
    target: Arc<Target>,
    timeout: Duration,
    until: Moment,
    /// Whether it was printed that etcd's authentication is off.
    has_warned: AtomicBool,
}

impl Asker {
    pub fn new(cluster: &Cluster, leader_key: &LeaderKey, timeout: Duration) -> Self {
        Self {
            target: Target::new(cluster.clone(), leader_key),
            timeout,
            until: clock::now() + timeout,
            has_warned: AtomicBool::new(false),
        }
    }

    pub fn cluster(&self) -> &Cluster {
        self.target.cluster()
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
        let mut rotation = Rotation::new(self.cluster().endpoint_count());
        let mut jitter = Jitter::new();
        let mut failures = Vec::new();
        loop {
            let left = u32::try_from(rotation.left_in_round()).unwrap_or(u32::MAX);
            let share = self.left() / left;
            let failure = match Box::pin(self.ask_one(rotation.endpoint(), &request, share)).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            failures.push(failure.clone());
            if !rotation.record_failure(rotation.endpoint(), Some(failure)) {
                continue;
            }
            if failures.iter().all(Failure::is_permanent) {
                bail!("{}", self.describe(&failures));
            }
            let wait_at_most = self.left().saturating_sub(LONGEST_BACK_OFF);
            if wait_at_most.is_zero() {
                let timeout = humantime::format_duration(self.timeout);
                bail!(
                    "no usable response within {timeout}: {}; --etcd says where to ask, --timeout \
                     how long to try",
                    self.describe(&failures)
                );
            }
            failures.clear();
            let wait = jitter.up_to(rotation.back_off_limit(LONGEST_BACK_OFF));
            sleep(wait.min(wait_at_most)).await;
        }
    }

    /// Sends a request to one endpoint, within `share`.
    async fn ask_one<T>(
        &self,
        endpoint: usize,
        request: &impl AsyncFn(&Connection, Duration) -> Result<T, Failure>,
        share: Duration,
    ) -> Result<T, Failure> {
        let until = clock::now() + share;
        let attempt = async || {
            let connection = self.connect(endpoint, until).await?;
            let limit = until.since(clock::now()).min(LIMIT);
            request(&connection, limit).await
        };
        match attempt().await {
            // The next connection authenticates anew.
            Err(failure) if failure.kind == FailureKind::TokenExpired => attempt().await,
            result => result,
        }
    }

    async fn connect(&self, endpoint: usize, until: Moment) -> Result<Connection, Failure> {
        let left = until.since(clock::now());
        // Authentication may take longer than the rest, but must leave other endpoints their share.
        let connecting = timeout(left, self.target.connect(endpoint, left.min(LIMIT)));
        let connection = connecting.await.unwrap_or_else(|_| {
            let message = format!("not authenticated within {} ms", left.as_millis());
            Err(Failure::new(FailureKind::TimedOut, message))
        })?;
        if connection.authentication_is_off() && !self.has_warned.swap(true, Ordering::Relaxed) {
            // A closed standard error is no reason to fail.
            warn(AUTHENTICATION_OFF);
        }
        Ok(connection)
    }

    /// Returns how long it tries in all.
    pub fn limit(&self) -> Duration {
        self.timeout
    }

    /// Returns how much of the time is left.
    pub fn left(&self) -> Duration {
        self.until.since(clock::now())
    }

    fn describe(&self, failures: &[Failure]) -> String {
        let endpoints = self.cluster().endpoints().iter();
        let failures: Vec<_> = endpoints
            .zip(failures)
            .map(|(endpoint, failure)| endpoint_failure(endpoint, failure))
            .collect();
        failures.join("; ")
    }
}
