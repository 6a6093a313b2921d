//! Sends a request to etcd, within a time limit.

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
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::{sleep, timeout};

/// The longest time that a request to one endpoint may take.
const LIMIT: Duration = Duration::from_secs(2);
/// The longest back-off after every endpoint failed.
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
            // Checking a password may take all of an endpoint's share, the rest no longer than that.
            let share = self.left() / left;
            let limit = share.min(LIMIT);
            let failure =
                match Box::pin(self.ask_one(rotation.endpoint(), &request, limit, share)).await {
                    Ok(response) => return Ok(response),
                    Err(failure) => failure,
                };
            failures.push(failure.clone());
            if !rotation.record_failure(rotation.endpoint(), Some(failure)) {
                continue;
            }
            // It takes an operator to fix these.
            let is_final = |failure: &Failure| {
                matches!(
                    failure.kind,
                    FailureKind::Refused | FailureKind::Unauthenticated
                )
            };
            if failures.iter().all(is_final) {
                bail!("{}", self.describe(&failures));
            }
            let wait = jitter.up_to(rotation.back_off_limit(LONGEST_BACK_OFF));
            if self.left() <= wait {
                let timeout = humantime::format_duration(self.timeout);
                bail!(
                    "found out nothing within {timeout}: {}; --etcd says where to ask, --timeout \
                     how long to try",
                    self.describe(&failures)
                );
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
        share: Duration,
    ) -> Result<T, Failure> {
        let until = clock::now() + limit;
        let connecting = timeout(share, self.target.connect(endpoint, limit));
        let connection = connecting.await.unwrap_or_else(|_| {
            let message = "no connection, or no authentication, in time";
            Err(Failure::new(FailureKind::TimedOut, message))
        })?;
        if connection.authentication_is_off() && !self.has_warned.swap(true, Ordering::Relaxed) {
            // A closed standard error is no reason to fail.
            let _ = writeln!(io::stderr(), "warning: {AUTHENTICATION_OFF}");
        }
        // Authentication may have taken longer than the rest.
        let limit = until.since(clock::now()).max(limit / 2).min(self.left());
        match request(&connection, limit).await {
            // The next connection authenticates anew.
            Err(failure) if failure.kind == FailureKind::TokenExpired => {
                let connecting = timeout(self.left(), self.target.connect(endpoint, limit));
                let connection = connecting.await.unwrap_or_else(|_| Err(failure))?;
                request(&connection, limit).await
            }
            result => result,
        }
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
