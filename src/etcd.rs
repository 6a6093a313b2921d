//! etcd, as the protocol needs it: all that names `etcd_client`.
//!
//! One endpoint at a time, every await bounded, every error classified once.

mod access;
mod failure;
#[cfg(feature = "daemon")]
mod questions;
mod transact;
mod watch;

#[cfg(feature = "daemon")]
pub(crate) use access::check_files;
#[cfg(feature = "daemon")]
pub(crate) use questions::LeaseTime;
pub(crate) use transact::{Keys, TermValues};
pub(crate) use watch::{Change, WatchEnd};

use crate::{
    config::Cluster,
    protocol::{Entry, Failure, FailureKind, KeptAlive, LeaseId, Ttl},
};
use access::Access;
use etcd_client::{
    Channel, Client, ConnectOptions, Error, KeyValue, LeaseKeepAliveStream, LeaseKeeper,
};
use failure::{Hint, classify, connection_failure, unauthenticated};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// A connection to one member, with a keepalive stream for one lease.
#[derive(Clone)]
pub(crate) struct Connection {
    keys: Arc<Keys>,
    client: Client,
    hint: Hint,
    /// Empty while an answer is owed, and for ever if that is never taken from it: a late answer
    /// names no request and would be credited to a later one.
    stream: Arc<Mutex<Option<(LeaseKeeper, LeaseKeepAliveStream)>>>,
}

/// Whether this version of etcd may answer a linearizable read stale after a pause (etcd #20418);
/// what is no version is given the benefit of the doubt.
pub(crate) fn is_outdated(version: &str) -> bool {
    let mut numbers = version.split(['.', '-', '+']).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch))) =
        (numbers.next(), numbers.next(), numbers.next())
    else {
        return false;
    };
    let mended_in = match (major, minor) {
        (3, 4) => 42,
        (3, 5) => 28,
        (3, 6) => 9,
        _ => return (major, minor) < (3, 4),
    };
    patch < mended_in
}

/// Connects to one endpoint, whose name is resolved anew, and opens the keepalive stream.
pub(crate) async fn connect(
    cluster: Arc<Cluster>,
    endpoint: usize,
    keys: Arc<Keys>,
    lease: Option<LeaseId>,
    limit: Duration,
) -> Result<Connection, Failure> {
    let connecting = async {
        let hint = Hint::new(&cluster);
        let reads_files = cluster.uses_tls() || cluster.credentials().is_some();
        let reading = move || Access::read(&cluster, &cluster.endpoints()[endpoint]);
        let access = if reads_files {
            // A file system may hang, and this task must not.
            tokio::task::spawn_blocking(reading)
                .await
                .map_err(|error| Failure::new(FailureKind::Unreachable, error.to_string()))?
        } else {
            reading()
        }?;
        let channel = access
            .member
            .connect()
            .await
            .map_err(|error| connection_failure(&error))?;
        let mut options = ConnectOptions::new().with_require_leader(true);
        let is_user = access.user.is_some();
        if let Some((user, password)) = access.user {
            options = options.with_user(user, password);
        }
        let client = Client::from_channel(Channel::Tonic(channel), Some(options))
            .await
            .map_err(|error| match hint.classify(error) {
                // All that was asked is whether the password is right.
                failure if is_user && failure.kind == FailureKind::Refused => {
                    unauthenticated(failure)
                }
                failure => failure,
            })?;
        let connection = Connection {
            keys,
            client,
            hint,
            stream: Arc::default(),
        };
        if let Some(lease) = lease {
            connection.open_stream(lease).await?;
        }
        Ok(connection)
    };
    within(limit, "connecting", connecting).await
}

impl Connection {
    /// Asks for a lease.
    pub async fn grant(&self, ttl: Ttl, limit: Duration) -> Result<(LeaseId, Duration), Failure> {
        let asked = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let mut leases = self.client.lease_client();
        // The first question of all: only now does it show whether the other side understands.
        let granting = async {
            let granted = leases.grant(asked, None).await;
            granted.map_err(|error| self.hint.classify(error))
        };
        let granted = within(limit, "asking for a lease", granting).await?;
        match u64::try_from(granted.ttl()) {
            Ok(ttl) if ttl > 0 => Ok((LeaseId::new(granted.id()), Duration::from_secs(ttl))),
            _ => Err(Failure::new(
                FailureKind::Refused,
                format!("etcd granted a lease for {} seconds", granted.ttl()),
            )),
        }
    }

    /// Opens the keepalive stream for a lease, in place of the one before.
    pub async fn open_keep_alive(&self, lease: LeaseId, limit: Duration) -> Result<(), Failure> {
        within(limit, "opening a keepalive stream", self.open_stream(lease)).await
    }

    async fn open_stream(&self, lease: LeaseId) -> Result<(), Failure> {
        self.take_stream();
        match self.client.lease_client().keep_alive(lease.get()).await {
            Ok(stream) => {
                *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
                Ok(())
            }
            // The client's only word for a first answer with a TTL of zero.
            Err(Error::LeaseKeepAliveError(message)) => {
                Err(Failure::new(FailureKind::LeaseNotFound, message))
            }
            Err(error) => Err(classify(error)),
        }
    }

    /// Sends one keepalive and waits for its answer.
    pub async fn keep_alive(&self, lease: LeaseId, limit: Duration) -> Result<KeptAlive, Failure> {
        let broken = || Failure::new(FailureKind::Unreachable, "the keepalive stream ended");
        let (mut keeper, mut stream) = self.take_stream().ok_or_else(broken)?;
        let asking = async {
            keeper.keep_alive().await.map_err(|_| broken())?;
            let answer = stream.message().await.map_err(classify)?;
            let answer = answer.ok_or_else(broken)?;
            if answer.id() != lease.get() {
                return Err(Failure::new(
                    FailureKind::Unreachable,
                    "the keepalive stream is another lease's",
                ));
            }
            let header = answer.header().ok_or_else(no_header)?;
            Ok(KeptAlive {
                ttl: answer.ttl(),
                raft_term: header.raft_term(),
            })
        };
        let kept_alive = within(limit, "renewing the lease", asking).await?;
        *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = Some((keeper, stream));
        Ok(kept_alive)
    }

    fn take_stream(&self) -> Option<(LeaseKeeper, LeaseKeepAliveStream)> {
        self.stream
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Asks for the version of this member.
    pub async fn version(&self, limit: Duration) -> Result<String, Failure> {
        let mut maintenance = self.client.maintenance_client();
        let asking = async { maintenance.status().await.map_err(classify) };
        let status = within(limit, "asking for the version", asking).await?;
        Ok(status.version().to_owned())
    }

    /// Revokes a lease, and with it deletes its keys.
    pub async fn revoke(&self, lease: LeaseId, limit: Duration) -> Result<(), Failure> {
        let mut leases = self.client.lease_client();
        let revoking = async { leases.revoke(lease.get()).await.map_err(classify) };
        within(limit, "revoking the lease", revoking).await?;
        Ok(())
    }
}

fn entry(key_value: &KeyValue) -> Entry {
    Entry {
        value: key_value.value().into(),
        lease: Some(key_value.lease())
            .filter(|lease| *lease != 0)
            .map(LeaseId::new),
        mod_revision: key_value.mod_revision(),
    }
}

/// Bounds an await: a call that hangs is worse than one that fails.
async fn within<T>(
    limit: Duration,
    doing: &str,
    call: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
        let message = format!("{doing}: no answer within {} ms", limit.as_millis());
        Err(Failure::new(FailureKind::TimedOut, message))
    })
}

fn no_header() -> Failure {
    Failure::new(FailureKind::Refused, "the answer has no header")
}

#[cfg(test)]
mod tests {
    use super::is_outdated;

    #[test]
    fn versions_that_may_answer_stale_are_known() {
        for (version, outdated) in [
            ("3.3.27", true),
            ("3.4.41", true),
            ("3.4.42", false),
            ("3.5.27", true),
            ("3.5.28", false),
            ("3.5.28-rc.0", false),
            ("3.6.8", true),
            ("3.6.9", false),
            ("3.7.0", false),
            ("4.0.0", false),
            ("2.3.8", true),
            ("not decided", false),
        ] {
            assert_eq!(is_outdated(version), outdated, "{version}");
        }
    }
}
