//! Connects to the members of a cluster.

use super::{
    Connection, Keys,
    access::Access,
    failure::{Hint, connection_failure},
    token::{Tokens, authenticate, client, service},
    within,
};
use crate::{
    config::{Cluster, Config, LeaderKey},
    protocol::{Failure, FailureKind},
};
use hyper_util::client::legacy::connect::HttpConnector;
use std::{sync::Arc, time::Duration};

/// How often a connection with open streams is checked by an HTTP/2 ping. etcd closes connections
/// that ping more often than every 5 s.
const PING_EVERY: Duration = Duration::from_secs(6);
/// How long the response to a ping may take.
const PING_LIMIT: Duration = Duration::from_secs(4);
/// How long sent data may stay unacknowledged before the kernel closes the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// An election at its etcd cluster: how to reach it, its keys, and the token of its user.
#[derive(Debug)]
pub(crate) struct Target {
    cluster: Cluster,
    pub(super) keys: Keys,
    pub(super) tokens: Tokens,
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
            cluster,
            keys,
            tokens: Tokens::default(),
        })
    }

    /// Returns the cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Connects to one endpoint, whose name is resolved and whose files are read anew.
    ///
    /// `limit` bounds TCP and TLS; each address of the endpoint gets an equal share of it.
    /// Authentication has a limit of its own, and is skipped while etcd accepts an earlier token.
    pub async fn connect(
        self: &Arc<Self>,
        endpoint: usize,
        limit: Duration,
    ) -> Result<Connection, Failure> {
        let hint = Hint::new(&self.cluster);
        let kept = self.tokens.kept();
        let transport = async {
            let access = self.read_access(endpoint, kept.is_none()).await?;
            let mut http = HttpConnector::new();
            // TLS is a layer above.
            http.enforce_http(false);
            http.set_nodelay(true);
            http.set_connect_timeout(Some(limit));
            http.set_tcp_user_timeout(Some(USER_TIMEOUT));
            let member = access
                .member
                .http2_keep_alive_interval(PING_EVERY)
                .keep_alive_timeout(PING_LIMIT);
            let channel = member.connect_with_connector(http).await;
            let channel = channel.map_err(|error| connection_failure(&error))?;
            Ok((channel, access.user))
        };
        let (channel, user) = within(limit, "connecting", transport).await?;

        let (token, is_fresh) = match user {
            None => (kept, false),
            Some(user) => {
                let classify = |error| hint.classify(error);
                let token = authenticate(channel.clone(), user, &self.tokens, classify).await?;
                (token, true)
            }
        };
        let authentication_is_off = is_fresh && token.is_none();
        let service = service(channel, token.as_deref());
        let client = client(service.clone()).await;
        let client = client.map_err(|error| hint.classify(error))?;
        Ok(Connection {
            target: Arc::clone(self),
            client,
            service,
            hint,
            token,
            is_token_fresh: is_fresh,
            authentication_is_off,
            stream: Arc::default(),
        })
    }

    async fn read_access(
        self: &Arc<Self>,
        endpoint: usize,
        needs_password: bool,
    ) -> Result<Access, Failure> {
        let reads_files = self.cluster.uses_tls() || self.cluster.credentials().is_some();
        let target = Arc::clone(self);
        let read = move || {
            Access::read(
                &target.cluster,
                &target.cluster.endpoints()[endpoint],
                needs_password,
            )
        };
        if !reads_files {
            return read();
        }
        // A file system may hang, and this task must not.
        tokio::task::spawn_blocking(read)
            .await
            .map_err(|error| Failure::new(FailureKind::Unreachable, error.to_string()))?
    }
}
