//! Serves the state of a replica.

use super::{
    events::Events,
    feed::Feed,
    presence::Presences,
    routes,
    server::{Limits, Server},
    state::ReplicaState,
};
use crate::{
    config::Config,
    protocol::{Event, Status},
    record::TermRecord,
};
use std::{io, sync::Arc};
use tokio::{net::TcpListener, sync::watch};

/// The HTTP server of one replica. Dropping it closes all connections.
pub(in crate::daemon) struct ReplicaServer {
    state: Arc<ReplicaState>,
    feed: Arc<Feed>,
    server: Server,
}

impl ReplicaServer {
    /// Creates a server for a candidate with this configuration, status and history.
    pub fn new(
        listener: TcpListener,
        config: &Config,
        status: watch::Receiver<Status>,
        terms: watch::Receiver<Option<Arc<[TermRecord]>>>,
    ) -> Self {
        let limits = Limits::of_process();
        let presences = Presences::new(status.clone(), limits.presences);
        let state = Arc::new(ReplicaState::new(config, status, terms));
        let feed = Arc::new(Feed::new());
        let events = Events::new(Arc::clone(&feed), Arc::clone(&state) as _, limits.events);
        let router = routes::replica(Arc::clone(&state), presences, events);
        let mut server = Server::new(listener, router, &limits);
        server.spawn(Arc::clone(&state).publish(Arc::clone(&feed)));
        Self {
            state,
            feed,
            server,
        }
    }

    /// Records what happened in the election.
    pub fn record(&self, event: &Event) {
        self.state.record(event);
        self.feed.record(event);
    }

    /// Records why this replica stands back, or that it does not.
    pub fn record_health(&self, reason: Option<&str>) {
        self.state.record_health(reason);
    }

    /// Serves for as long as it is polled. Returns only if a task panicked.
    ///
    /// Cancel safe.
    pub async fn serve(&mut self) -> io::Error {
        self.server.serve().await
    }
}
