//! Accepts connections and limits them, so that no client delays the election.

use super::{routes::router, state::ReplicaState};
use crate::{
    config::Config,
    protocol::{Event, Status},
    record::TermRecord,
};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use rustix::process::{Resource, getrlimit};
use std::{collections::VecDeque, io, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tracing::debug;

/// How long a connection may last. It carries one request.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// How many connections may be open at once, unless a quarter of the file descriptors is less.
/// To accept one more, the server closes the oldest, which has had the most time.
const MAX_CONNECTIONS: usize = 128;
/// How long the head of a request may be, in bytes.
const MAX_HEAD_LENGTH: usize = 16 * 1024;
/// How long to wait after an error in accepting, which a lack of file descriptors repeats at once.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// The HTTP server of one replica. Dropping it closes all connections.
pub(in crate::daemon) struct Server {
    state: Arc<ReplicaState>,
    router: Router,
    listener: TcpListener,
    max_connections: usize,
    connections: JoinSet<()>,
    oldest_first: VecDeque<AbortHandle>,
}

impl Server {
    /// Creates a server for a candidate with this configuration, status and history.
    pub fn new(
        listener: TcpListener,
        config: &Config,
        status: watch::Receiver<Status>,
        terms: watch::Receiver<Option<Arc<[TermRecord]>>>,
    ) -> Self {
        if let Ok(address) = listener.local_addr() {
            debug!(%address, "Listening for HTTP at {address}.");
        }
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let state = Arc::new(ReplicaState::new(config, status, terms));
        Self {
            router: router(Arc::clone(&state)),
            state,
            listener,
            max_connections: usize::try_from(descriptors / 4)
                .map_or(MAX_CONNECTIONS, |most| most.clamp(1, MAX_CONNECTIONS)),
            connections: JoinSet::new(),
            oldest_first: VecDeque::new(),
        }
    }

    /// Records what happened in the election.
    pub fn record(&self, event: &Event) {
        self.state.record(event);
    }

    /// Records why this replica stands back, or that it does not.
    pub fn record_health(&self, reason: Option<&str>) {
        self.state.record_health(reason);
    }

    /// Serves for as long as it is polled. Returns only if a connection's task panicked.
    ///
    /// Cancel safe.
    pub async fn serve(&mut self) -> io::Error {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => self.open(stream),
                    Err(error) => {
                        debug!("A connection could not be accepted: {error}");
                        sleep(ACCEPT_RETRY_DELAY).await;
                    }
                },
                Some(ended) = self.connections.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        return io::Error::other(format!("a task died: {error}"));
                    }
                }
            }
        }
    }

    fn open(&mut self, stream: TcpStream) {
        self.oldest_first
            .retain(|connection| !connection.is_finished());
        if self.oldest_first.len() >= self.max_connections
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            oldest.abort();
        }
        let serving = self
            .connections
            .spawn(serve_one_request(stream, self.router.clone()));
        self.oldest_first.push_back(serving);
    }
}

// Not `axum::serve`, which limits neither connections nor their time.
async fn serve_one_request(stream: TcpStream, router: Router) {
    let serving = http1::Builder::new()
        .keep_alive(false)
        // A client may close its sending half once it has sent the request, and wait for the response.
        .half_close(true)
        .max_buf_size(MAX_HEAD_LENGTH)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // An error concerns only the client, which sees it too.
    let _ = timeout(CONNECTION_TIMEOUT, serving).await;
}
