//! Connects to the members of a cluster.

use super::{Connection, Keys};
use crate::{
    config::{Cluster, Config, LeaderKey},
    protocol::Failure,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// An election at its etcd cluster: how to reach it, its keys, and which connections it has used.
#[derive(Debug)]
pub(crate) struct Target {
    cluster: Cluster,
    pub(super) keys: Keys,
    /// The number of the last connection to each endpoint.
    used: Box<[AtomicU64]>,
}

impl Target {
    /// Creates the target; nothing is asked of etcd yet.
    pub fn new(cluster: Cluster, leader_key: &LeaderKey) -> Arc<Self> {
        Self::with_keys(cluster, Keys::new(leader_key, None))
    }

    /// Creates the target of a candidate, with the key of its job's record.
    pub fn of_candidate(config: &Config) -> Arc<Self> {
        let keys = Keys::new(config.leader_key(), config.job());
        Self::with_keys(config.cluster().clone(), keys)
    }

    fn with_keys(cluster: Cluster, keys: Keys) -> Arc<Self> {
        Arc::new(Self {
            used: cluster
                .endpoints()
                .iter()
                .map(|_| AtomicU64::new(0))
                .collect(),
            cluster,
            keys,
        })
    }

    /// Returns the cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Connects to one endpoint, by a connection that this election has not used yet. Other elections of the cluster
    /// may use it too.
    ///
    /// `limit` bounds TCP and TLS. Authentication has a limit of its own.
    ///
    /// # Errors
    /// If there is no connection in time. Cancel safe.
    pub async fn connect(
        self: &Arc<Self>,
        endpoint: usize,
        limit: Duration,
    ) -> Result<Connection, Failure> {
        let used = &self.used[endpoint];
        let connections = self.cluster.connections();
        let older = used.load(Ordering::Relaxed);
        let connecting = connections.newer_than(older, &self.cluster, endpoint, limit);
        let transport = connecting.await?;
        used.store(transport.number, Ordering::Relaxed);
        Ok(Connection {
            target: Arc::clone(self),
            transport,
            stream: Arc::default(),
        })
    }
}
