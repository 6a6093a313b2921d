//! etcd, as the protocol needs it. Only this module and those below it use `etcd_client`.
//!
//! It uses one endpoint at a time, limits the time of every await, and classifies every error once.

mod access;
mod connections;
mod failure;
mod history;
mod keepalive;
#[cfg(feature = "daemon")]
mod questions;
#[cfg(feature = "daemon")]
mod records;
mod seats;
mod target;
mod token;
mod transact;
mod watch;

#[cfg(feature = "daemon")]
pub(crate) use access::check_files;
pub(crate) use connections::Connections;
use connections::Transport;
#[cfg(feature = "daemon")]
pub(crate) use records::{After, JobRecord, Removal};
pub(crate) use seats::SeatsWatch;
pub(crate) use target::Target;
use transact::Keys;
pub(crate) use transact::Values;
pub(crate) use watch::{Change, WatchEnd};

use crate::{
    protocol::{ElectionKey, Entry, Failure, FailureKind, LeaseId, LeaseTime, TermSettings, Ttl},
    record::ActingRecord,
};
use etcd_client::{Error, KeyValue, LeaseGrantOptions};
use keepalive::KeepAliveStream;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::Semaphore;

/// What an election uses of a connection to one member.
#[derive(Clone)]
pub(crate) struct Connection {
    target: Arc<Target>,
    transport: Arc<Transport>,
    /// The keepalive stream, while it owes no response.
    stream: Arc<Mutex<Option<KeepAliveStream>>>,
}

impl Connection {
    /// Returns true iff a user is configured and etcd's authentication is off.
    pub fn authentication_is_off(&self) -> bool {
        self.transport.authentication_is_off
    }

    /// Bounds a call, classifies its failure, and judges the token by it.
    async fn bounded<T>(
        &self,
        limit: Duration,
        doing: &str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Failure> {
        let classified = async {
            call.await
                .map_err(|error| self.transport.hint.classify(error))
        };
        within(limit, doing, classified)
            .await
            .map_err(|failure| self.judge(failure))
    }

    /// Does the same for a request: not too many are under way at a time.
    fn call<T>(
        &self,
        limit: Duration,
        doing: &str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> impl Future<Output = Result<T, Failure>> {
        self.request(limit, doing, None, call)
    }

    /// Does the same for a request that can wait: only a few of the elections that share the connection send one at a
    /// time.
    fn call_in_turn<T>(
        &self,
        limit: Duration,
        doing: &str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> impl Future<Output = Result<T, Failure>> {
        self.request(limit, doing, Some(&self.transport.turns), call)
    }

    fn request<T>(
        &self,
        limit: Duration,
        doing: &str,
        turns: Option<&Semaphore>,
        call: impl Future<Output = Result<T, Error>>,
    ) -> impl Future<Output = Result<T, Failure>> {
        // In a box, because each future that passes it on would need room for it twice.
        let call = Box::pin(call);
        let permitted = async move {
            // The turn first: those that wait for theirs must not keep others from what they need. Neither is ever closed.
            let _turn = match turns {
                Some(turns) => turns.acquire().await.ok(),
                None => None,
            };
            let _permit = self.transport.calls.acquire().await;
            call.await
        };
        self.bounded(limit, doing, permitted)
    }

    /// Records that etcd has accepted the token: not every request makes it look.
    fn prove_token(&self) {
        if let Some(token) = &self.transport.token {
            token.prove();
        }
    }

    /// Distinguishes a token that has expired, which a new connection replaces, from a user that etcd
    /// rejects.
    fn judge(&self, failure: Failure) -> Failure {
        if failure.kind != FailureKind::Unauthenticated {
            return failure;
        }
        let has_expired = match &self.transport.token {
            Some(token) => {
                self.target
                    .cluster()
                    .connections()
                    .tokens
                    .drop_rejected(token);
                token.is_proven() || !self.transport.is_token_fresh
            }
            // Authentication was off when this connection was made.
            None => self.transport.authentication_is_off,
        };
        if has_expired {
            Failure {
                kind: FailureKind::TokenExpired,
                ..failure
            }
        } else {
            failure
        }
    }

    /// Asks for a lease with this id.
    pub async fn grant(
        &self,
        lease: LeaseId,
        ttl: Ttl,
        limit: Duration,
    ) -> Result<Duration, Failure> {
        let asked = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let options = LeaseGrantOptions::new().with_id(lease.get());
        let mut leases = self.transport.client.lease_client();
        let granting = leases.grant(asked, Some(options));
        let granted = self.call(limit, "asking for a lease", granting).await?;
        match u64::try_from(granted.ttl()) {
            Ok(ttl) if ttl > 0 => Ok(Duration::from_secs(ttl)),
            _ => Err(Failure::new(
                FailureKind::Refused,
                format!("etcd granted a lease for {} seconds", granted.ttl()),
            )),
        }
    }

    /// Asks for the version of this member.
    pub async fn version(&self, limit: Duration) -> Result<String, Failure> {
        let mut maintenance = self.transport.client.maintenance_client();
        let asking = maintenance.status();
        let status = self.call(limit, "asking for the version", asking).await?;
        Ok(status.version().to_owned())
    }

    /// Asks how long a lease lasts; `None` if there is none.
    pub async fn time_to_live(
        &self,
        lease: LeaseId,
        limit: Duration,
    ) -> Result<Option<LeaseTime>, Failure> {
        let mut leases = self.transport.client.lease_client();
        let asking = leases.time_to_live(lease.get(), None);
        let answer = self.call(limit, "asking for the lease", asking).await?;
        // One that is gone has a TTL of -1.
        let seconds = |seconds| u64::try_from(seconds).ok().map(Duration::from_secs);
        let granted = seconds(answer.granted_ttl()).filter(|granted| !granted.is_zero());
        Ok(seconds(answer.ttl())
            .zip(granted)
            .map(|(remaining, granted)| LeaseTime { granted, remaining }))
    }

    /// Revokes a lease, and with it deletes its keys. If it holds none, that is not urgent, and can wait for its turn.
    pub async fn revoke(
        &self,
        lease: LeaseId,
        is_urgent: bool,
        limit: Duration,
    ) -> Result<(), Failure> {
        let mut leases = self.transport.client.lease_client();
        let turns = (!is_urgent).then_some(&self.transport.turns);
        let revoking = leases.revoke(lease.get());
        self.request(limit, "revoking the lease", turns, revoking)
            .await?;
        Ok(())
    }
}

fn entry(key_value: &KeyValue) -> Entry {
    Entry {
        value: key_value.value().into(),
        lease: Some(key_value.lease())
            .filter(|lease| *lease != 0)
            .map(LeaseId::new),
        create_revision: key_value.create_revision(),
        mod_revision: key_value.mod_revision(),
        settings: TermSettings::default(),
    }
}

/// Returns one of the election's two keys, with what it says of its term.
fn key_of_election(key: ElectionKey, key_value: &KeyValue) -> Entry {
    let mut entry = entry(key_value);
    if key == ElectionKey::Acting {
        entry.settings = ActingRecord::decode(&entry.value).settings();
    }
    entry
}

/// Bounds an await: a call that hangs is worse than one that fails.
async fn within<T>(
    limit: Duration,
    doing: &str,
    call: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
        let message = format!("{doing}: no response within {} ms", limit.as_millis());
        Err(Failure::new(FailureKind::TimedOut, message))
    })
}

fn no_header() -> Failure {
    Failure::new(FailureKind::Refused, "the response has no header")
}
