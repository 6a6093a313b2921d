//! What operators ask.

use super::{Connection, classify, within};
use crate::protocol::{Failure, LeaseId};
use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use std::time::Duration;

/// What etcd tells of a lease.
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
        let asking = async {
            let answer = leases.time_to_live(lease.get(), None).await;
            answer.map_err(classify)
        };
        let answer = within(limit, "asking for the lease", asking).await?;
        // One that is gone has a TTL of -1.
        let seconds = |seconds| u64::try_from(seconds).ok().map(Duration::from_secs);
        let granted = seconds(answer.granted_ttl()).filter(|granted| !granted.is_zero());
        Ok(seconds(answer.ttl())
            .zip(granted)
            .map(|(remaining, granted)| LeaseTime { granted, remaining }))
    }

    /// Asks a leader to step down: deletes `leader` if that still stands as `mod_revision` wrote
    /// it. False if it does not.
    ///
    /// To ask again does no harm: a later term has another revision.
    pub async fn end_term(&self, mod_revision: i64, limit: Duration) -> Result<bool, Failure> {
        let key = self.keys.leader.as_str();
        let transaction = Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, mod_revision)])
            .and_then([TxnOp::delete(key, None)]);
        let mut kv = self.client.kv_client();
        let asking = async { kv.txn(transaction).await.map_err(classify) };
        let answer = within(limit, "deleting the leader key", asking).await?;
        Ok(answer.succeeded())
    }
}
