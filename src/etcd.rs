//! etcd, as the protocol needs it: the only file that names `etcd_client`.
//!
//! One endpoint at a time, every await bounded, every error classified once.

use crate::{
    config::{Config, Endpoint, LeaderKey},
    protocol::{ElectionKey, Entry, Failure, FailureKind, KeptAlive, LeaseId, Ttl, View},
};
use etcd_client::{
    Channel, Client, Compare, CompareOp, ConnectOptions, Error, EventType, KeyValue,
    LeaseKeepAliveStream, LeaseKeeper, PutOptions, Txn, TxnOp, TxnOpResponse, WatchOptions,
    WatchStream,
};
use std::{
    error::Error as _,
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tonic::{Code, Status, transport};

/// The two keys of an election and what this candidate writes there.
#[derive(Debug)]
pub(crate) struct Keys {
    leader: String,
    acting: String,
    name: String,
    witness: String,
}

impl Keys {
    pub fn new(config: &Config) -> Self {
        let key: &LeaderKey = config.leader_key();
        let name = config.name().as_str();
        Self {
            leader: key.as_str().to_owned(),
            acting: key.acting(),
            name: name.to_owned(),
            witness: serde_json::json!({ "name": name }).to_string(),
        }
    }
}

/// A connection to one member, with a keepalive stream for one lease.
#[derive(Clone)]
pub(crate) struct Connection {
    keys: Arc<Keys>,
    client: Client,
    /// Empty while an answer is owed, and for ever if that is never taken from it: a late answer
    /// names no request and would be credited to a later one.
    stream: Arc<Mutex<Option<(LeaseKeeper, LeaseKeepAliveStream)>>>,
}

/// Connects to one endpoint, whose name is resolved anew, and opens the keepalive stream.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    keys: Arc<Keys>,
    lease: Option<LeaseId>,
    limit: Duration,
) -> Result<Connection, Failure> {
    let connecting = async {
        let channel = transport::Endpoint::from_shared(endpoint.url())
            .map_err(|error| transport_failure(&error))?
            .connect_timeout(limit)
            .connect()
            .await
            .map_err(|error| transport_failure(&error))?;
        let options = ConnectOptions::new().with_require_leader(true);
        let client = Client::from_channel(Channel::Tonic(channel), Some(options))
            .await
            .map_err(classify)?;
        let connection = Connection {
            keys,
            client,
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
        let granting = async { leases.grant(asked, None).await.map_err(classify) };
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

    /// Reads both keys, or campaigns: puts both with the lease if both are absent, else reads.
    ///
    /// Read-only transactions are linearizable and cost no raft entry.
    pub async fn transact(
        &self,
        campaign: Option<LeaseId>,
        limit: Duration,
    ) -> Result<View, Failure> {
        let keys = &self.keys;
        let read = [&keys.leader, &keys.acting].map(|key| TxnOp::get(key.as_str(), None));
        let transaction = match campaign {
            None => Txn::new().and_then(read),
            Some(lease) => {
                let absent = |key| {
                    let key = match key {
                        ElectionKey::Leader => keys.leader.as_str(),
                        ElectionKey::Acting => keys.acting.as_str(),
                    };
                    Compare::create_revision(key, CompareOp::Equal, 0)
                };
                let put = |key: &str, value: &str| {
                    let options = PutOptions::new().with_lease(lease.get());
                    TxnOp::put(key, value, Some(options))
                };
                Txn::new()
                    .when(ElectionKey::ABSENT_FOR_A_CAMPAIGN.map(absent))
                    .and_then([
                        put(&keys.leader, &keys.name),
                        put(&keys.acting, &keys.witness),
                    ])
                    .or_else(read)
            }
        };
        let mut kv = self.client.kv_client();
        let asking = async { kv.txn(transaction).await.map_err(classify) };
        let answer = within(limit, "asking for the keys", asking).await?;
        let header = answer.header().ok_or_else(no_header)?;
        let mut view = View {
            cluster_id: header.cluster_id(),
            revision: header.revision(),
            raft_term: header.raft_term(),
            leader: None,
            acting: None,
        };
        match campaign {
            Some(lease) if answer.succeeded() => {
                let written = |value: &str| {
                    Some(Entry {
                        value: value.as_bytes().into(),
                        lease: Some(lease),
                        mod_revision: header.revision(),
                    })
                };
                view.leader = written(&keys.name);
                view.acting = written(&keys.witness);
            }
            _ => {
                let mut read = answer
                    .op_responses()
                    .into_iter()
                    .map(|response| match response {
                        TxnOpResponse::Get(get) => get.kvs().first().map(entry),
                        _ => None,
                    });
                view.leader = read.next().flatten();
                view.acting = read.next().flatten();
            }
        }
        Ok(view)
    }

    /// Revokes a lease, and with it deletes its keys.
    pub async fn revoke(&self, lease: LeaseId, limit: Duration) -> Result<(), Failure> {
        let mut leases = self.client.lease_client();
        let revoking = async { leases.revoke(lease.get()).await.map_err(classify) };
        within(limit, "revoking the lease", revoking).await?;
        Ok(())
    }

    /// Watches both keys: two watches on one stream, so that a role for just these two keys
    /// suffices.
    pub async fn watch(&self, from_revision: i64, limit: Duration) -> Result<Watch, Failure> {
        let options = || Some(WatchOptions::new().with_start_revision(from_revision));
        let mut watches = self.client.watch_client();
        let opening = async {
            let mut stream = watches
                .watch(self.keys.leader.as_str(), options())
                .await
                .map_err(classify)?;
            stream
                .watch(self.keys.acting.as_str(), options())
                .await
                .map_err(classify)?;
            Ok(stream)
        };
        Ok(Watch {
            stream: within(limit, "opening a watch", opening).await?,
            leader: self.keys.leader.clone(),
        })
    }
}

/// The two watches of an election.
pub(crate) struct Watch {
    stream: WatchStream,
    leader: String,
}

/// One key's change, as a watch saw it.
pub(crate) struct Change {
    pub key: ElectionKey,
    pub revision: i64,
    pub entry: Option<Entry>,
}

impl Watch {
    /// Waits for the next changes.
    ///
    /// This alone has no limit, since nothing may happen for years: what a dead watch misses, the
    /// next read finds.
    pub async fn changes(&mut self) -> Result<Vec<Change>, Failure> {
        let answer = self.stream.message().await.map_err(classify)?;
        let answer = answer
            .ok_or_else(|| Failure::new(FailureKind::Unreachable, "the watch stream ended"))?;
        if answer.canceled() {
            let reason = match answer.compact_revision() {
                0 => answer.cancel_reason().to_owned(),
                revision => format!("compacted up to revision {revision}"),
            };
            return Err(Failure::new(FailureKind::Refused, reason));
        }
        let changes = answer.events().iter().filter_map(|event| {
            let key_value = event.kv()?;
            Some(Change {
                key: if key_value.key() == self.leader.as_bytes() {
                    ElectionKey::Leader
                } else {
                    ElectionKey::Acting
                },
                revision: key_value.mod_revision(),
                entry: match event.event_type() {
                    EventType::Put => Some(entry(key_value)),
                    EventType::Delete => None,
                },
            })
        });
        Ok(changes.collect())
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

/// Tells errors apart by their gRPC code: etcd's texts are for people.
fn classify(error: Error) -> Failure {
    match error {
        Error::GRpcStatus(status) => status_failure(&status),
        Error::TransportError(error) => transport_failure(&error),
        error => Failure::new(FailureKind::Unreachable, error.to_string()),
    }
}

fn status_failure(status: &Status) -> Failure {
    let kind = match status.code() {
        // All that the protocol names is leases.
        Code::NotFound => FailureKind::LeaseNotFound,
        Code::Unavailable
        | Code::Unknown
        | Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Internal
        | Code::Aborted => FailureKind::Unreachable,
        _ => FailureKind::Refused,
    };
    let mut message = status.message().to_owned();
    if let Some(source) = status.source() {
        append_causes(&mut message, source);
    }
    Failure::new(kind, message)
}

fn transport_failure(error: &transport::Error) -> Failure {
    let mut message = String::new();
    append_causes(&mut message, error);
    Failure::new(FailureKind::Unreachable, message)
}

/// Appends an error and its causes, each once: many repeat their cause's text.
fn append_causes(message: &mut String, error: &dyn std::error::Error) {
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if !message.contains(&text) {
            let separator = if message.is_empty() { "" } else { ": " };
            // Writing to a String cannot fail.
            let _ = write!(message, "{separator}{text}");
        }
        next = error.source();
    }
}
