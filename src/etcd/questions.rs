//! What commands ask for.

use super::{Connection, TermValues};
use crate::protocol::{Failure, LeaseId, Transaction};
use std::time::Duration;

/// The times of a lease, as etcd knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaseTime {
    pub granted: Duration,
    /// How long it lasts if it is not renewed.
    pub remaining: Duration,
}

impl Connection {
    /// Asks how long a lease lasts; `None` if there is none.
    pub async fn time_to_live(
        &self,
        lease: LeaseId,
        limit: Duration,
    ) -> Result<Option<LeaseTime>, Failure> {
        let mut leases = self.client.lease_client();
        let asking = leases.time_to_live(lease.get(), None);
        let answer = self.call(limit, "asking for the lease", asking).await?;
        // One that is gone has a TTL of -1.
        let seconds = |seconds| u64::try_from(seconds).ok().map(Duration::from_secs);
        let granted = seconds(answer.granted_ttl()).filter(|granted| !granted.is_zero());
        Ok(seconds(answer.ttl())
            .zip(granted)
            .map(|(remaining, granted)| LeaseTime { granted, remaining }))
    }

    /// Asks the holder of a term to step down; returns false if that term is over.
    ///
    /// Repeating it does no harm.
    pub async fn end_term(
        &self,
        mod_revision: i64,
        lease: LeaseId,
        limit: Duration,
    ) -> Result<bool, Failure> {
        let transaction = Transaction::end_term(mod_revision, lease);
        let values = TermValues::default();
        let outcome = self.transact(&transaction, &values, limit).await?;
        Ok(outcome.succeeded)
    }
}
