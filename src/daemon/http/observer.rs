//! Serves `observe --http`, and asks etcd for the data that only the page needs.

use super::{
    events::Events,
    feed::Feed,
    observed::ObserverState,
    routes,
    server::{Limits, Server},
    snapshot::Source,
};
use crate::{
    backoff::Jitter,
    config::{Cluster, LeaderKey},
    daemon::{render::endpoint_names, terms::Keys},
    etcd::{Connection, Target},
    observer::Observed,
    protocol::{Failure, FailureKind, Rotation},
};
use std::{convert::Infallible, io, sync::Arc, time::Duration};
use tokio::{net::TcpListener, time::sleep};

/// How long one request or a new connection may take.
const LIMIT: Duration = Duration::from_secs(2);
/// The longest back-off after every endpoint failed.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(5);
/// How often the leader's lease is asked for while anybody reads the events.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// The HTTP server of one observer. Dropping it closes all connections.
pub(in crate::daemon) struct ObserverServer {
    state: Arc<ObserverState>,
    feed: Arc<Feed>,
    server: Server,
}

impl ObserverServer {
    /// Creates a server for an observer of this election.
    pub fn new(listener: TcpListener, cluster: &Cluster, leader_key: &LeaderKey) -> Self {
        let limits = Limits::of_process();
        let endpoints = endpoint_names(cluster).join(",");
        let state = Arc::new(ObserverState::new(leader_key, endpoints));
        let feed = Arc::new(Feed::new());
        let events = Events::new(Arc::clone(&feed), Arc::clone(&state) as _, limits.events);
        let router = routes::observer(Arc::clone(&state), events);
        let mut server = Server::new(listener, router, &limits);
        server.spawn(Arc::clone(&state).publish(Arc::clone(&feed)));
        let asker = Asker {
            target: Target::new(cluster.clone(), leader_key),
            state: Arc::clone(&state),
            feed: Arc::clone(&feed),
        };
        server.spawn(asker.run());
        Self {
            state,
            feed,
            server,
        }
    }

    /// Records what was observed, and publishes it at once: the next change may have been observed already, and would
    /// hide this one.
    pub fn record(&self, observed: &Observed) {
        self.state.record(observed);
        self.feed.publish(&self.state.snapshot());
    }

    /// Serves for as long as it is polled. Returns only if a task panicked.
    ///
    /// Cancel safe.
    pub async fn serve(&mut self) -> io::Error {
        self.server.serve().await
    }
}

/// Asks etcd for the last terms, and for how long the leader's lease lasts.
struct Asker {
    target: Arc<Target>,
    state: Arc<ObserverState>,
    feed: Arc<Feed>,
}

impl Asker {
    /// Asks one endpoint after the other, for ever. The observer itself reports what fails.
    async fn run(self) {
        let mut rotation = Rotation::new(self.target.cluster().endpoint_count());
        let mut jitter = Jitter::new();
        loop {
            let endpoint = rotation.endpoint();
            let Err(failure) = self.ask(endpoint, &mut rotation).await;
            if rotation.record_failure(endpoint, Some(failure)) {
                sleep(jitter.up_to(rotation.back_off_limit(LONGEST_BACK_OFF))).await;
            }
        }
    }

    /// Asks one endpoint until that fails.
    async fn ask(&self, endpoint: usize, rotation: &mut Rotation) -> Result<Infallible, Failure> {
        let connection = self.target.connect(endpoint, LIMIT).await?;
        loop {
            if self.state.is_read_due() {
                self.read_terms(&connection).await?;
            }
            if self.feed.is_read() {
                self.ask_for_lease(&connection).await?;
            }
            rotation.record_success();
            tokio::select! {
                () = self.state.has_questions() => {}
                () = sleep(ASK_EVERY) => {}
            }
        }
    }

    /// Reads the terms.
    async fn read_terms(&self, connection: &Connection) -> Result<(), Failure> {
        let found = if_shown(connection.terms_and_keys(LIMIT).await)?;
        let revision = found.as_ref().map_or(0, |found| found.keys.revision);
        let found = found.map(|found| {
            let keys = Keys {
                leader: found.keys.leader,
                acting: found.keys.acting,
            };
            (found.records, keys)
        });
        self.state.record_terms(revision, found);
        Ok(())
    }

    /// Asks for the leader's lease.
    async fn ask_for_lease(&self, connection: &Connection) -> Result<(), Failure> {
        let Some(lease) = self.state.lease() else {
            return Ok(());
        };
        let time = if_shown(connection.time_to_live(lease, LIMIT).await)?;
        self.state.record_lease(lease, time.flatten());
        Ok(())
    }
}

/// Returns what etcd responded; `None` if it does not show that, because of the user's role or because it is too long.
/// Either may change.
fn if_shown<T>(response: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match response {
        Ok(value) => Ok(Some(value)),
        Err(failure) if matches!(failure.kind, FailureKind::Denied | FailureKind::Refused) => {
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        observer::ElectionState,
        protocol::{Entry, LeaseId, TermSettings},
    };
    use serde_json::Value;

    #[tokio::test]
    async fn a_change_is_published_although_the_next_one_was_observed_already() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cluster = Cluster::new(vec!["127.0.0.1:1".parse().unwrap()]).unwrap();
        let server = ObserverServer::new(listener, &cluster, &LeaderKey::default());
        let key = Entry {
            value: b"a"[..].into(),
            lease: Some(LeaseId::new(1)),
            create_revision: 2,
            mod_revision: 2,
            settings: TermSettings::default(),
        };
        for (revision, key) in [(1, None), (2, Some(&key)), (3, None)] {
            server.record(&Observed::State(ElectionState::new(revision, key, key)));
        }
        let line = server.feed.snapshot_line(&server.state.snapshot());
        let snapshot: Value = serde_json::from_str(&line).unwrap();
        let changes = snapshot["changes"].as_array().unwrap();
        let texts: Vec<_> = changes
            .iter()
            .map(|it| it["text"].as_str().unwrap())
            .collect();
        let leads = "'a' leads, token 2, lease 0000000000000001.";
        assert_eq!(texts, ["Nobody leads.", leads, "Nobody leads."]);
    }
}
