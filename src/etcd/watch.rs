//! The two watches of an election, on one stream, and what the keys held in the past.

use super::{Connection, key_of_election};
use crate::protocol::{ElectionKey, Entry, Failure, FailureKind};
use etcd_client::{EventType, GetOptions, WatchOptions, WatchStream};
use std::time::Duration;

/// The two watches of an election.
pub(crate) struct Watch {
    stream: WatchStream,
    connection: Connection,
    /// How many of the two etcd has agreed to.
    opened: usize,
}

/// One key's change, as a watch saw it.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub key: ElectionKey,
    pub revision: i64,
    pub entry: Option<Entry>,
}

/// Why a watch ended.
#[derive(Debug)]
pub(crate) enum WatchEnd {
    /// etcd has forgotten what it held before this revision, and with it what was asked for.
    Compacted(i64),
    Failed(Failure),
}

impl From<WatchEnd> for Failure {
    fn from(end: WatchEnd) -> Self {
        match end {
            WatchEnd::Compacted(revision) => Self::new(
                FailureKind::Refused,
                format!("compacted up to revision {revision}"),
            ),
            WatchEnd::Failed(failure) => failure,
        }
    }
}

impl Connection {
    /// Watches both keys: two watches on one stream, so that a role for just these two keys
    /// suffices.
    pub async fn watch(&self, from_revision: i64, limit: Duration) -> Result<Watch, Failure> {
        // Many large changes at once would not fit into one message.
        let options = || {
            let options = WatchOptions::new().with_start_revision(from_revision);
            Some(options.with_fragment())
        };
        let mut watches = self.transport.client.watch_client();
        let opening = async {
            let keys = &self.target.keys;
            let mut stream = watches
                .watch(keys.name(ElectionKey::Leader), options())
                .await?;
            stream
                .watch(keys.name(ElectionKey::Acting), options())
                .await?;
            Ok(stream)
        };
        Ok(Watch {
            stream: self.call(limit, "opening a watch", opening).await?,
            connection: self.clone(),
            opened: 0,
        })
    }

    /// Reads one key as it was at a revision.
    pub async fn read_at(
        &self,
        key: ElectionKey,
        revision: i64,
        limit: Duration,
    ) -> Result<Option<Entry>, Failure> {
        let mut kv = self.transport.client.kv_client();
        let options = GetOptions::new().with_revision(revision);
        let asking = kv.get(self.target.keys.name(key), Some(options));
        let response = self.call(limit, "asking for a key's past", asking).await?;
        let found = response.kvs().first();
        Ok(found.map(|found| key_of_election(key, found)))
    }
}

impl Watch {
    /// Whether etcd has agreed to both watches, as far as its messages were taken.
    pub fn is_open(&self) -> bool {
        self.opened >= 2
    }

    /// Waits for the next changes. Cancel safe.
    ///
    /// This alone has no limit, since nothing may happen for years: what a dead watch misses, the
    /// next read finds.
    pub async fn changes(&mut self) -> Result<Vec<Change>, WatchEnd> {
        let answer = self.stream.message().await;
        let answer = answer.map_err(|error| {
            let failure = self.connection.transport.hint.classify(error);
            WatchEnd::Failed(self.connection.judge(failure))
        })?;
        let answer = answer.ok_or_else(|| {
            let failure = Failure::new(FailureKind::Unreachable, "the watch stream ended");
            WatchEnd::Failed(failure)
        })?;
        if answer.canceled() {
            return Err(match answer.compact_revision() {
                0 => {
                    let reason = answer.cancel_reason();
                    WatchEnd::Failed(Failure::new(FailureKind::Refused, reason))
                }
                revision => WatchEnd::Compacted(revision),
            });
        }
        if answer.created() {
            self.opened += 1;
        }
        let changes = answer.events().iter().filter_map(|event| {
            let key_value = event.kv()?;
            let key = self.connection.target.keys.named(key_value.key())?;
            Some(Change {
                key,
                revision: key_value.mod_revision(),
                entry: match event.event_type() {
                    EventType::Put => Some(key_of_election(key, key_value)),
                    EventType::Delete => None,
                },
            })
        });
        Ok(changes.collect())
    }
}
