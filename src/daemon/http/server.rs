//! Accepts connections and limits them, so that no client delays the election.

use super::{
    presence::{Lasts, Presences},
    routes::router,
    state::ReplicaState,
};
use crate::{
    config::Config,
    protocol::{Event, Status},
    record::TermRecord,
};
use axum::{Router, response::Response};
use hyper::{Request, body::Incoming, server::conn::http1};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use rustix::{
    net::sockopt::set_tcp_user_timeout,
    process::{Resource, getrlimit},
};
use std::{
    collections::VecDeque,
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tower::ServiceExt;
use tracing::debug;

/// How long a connection may last, except one whose response lasts. It carries one request.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// How many connections may be open at once, unless a quarter of the file descriptors is less.
/// To accept one more, the server closes the oldest, which has had the most time.
const MAX_CONNECTIONS: usize = 128;
/// How many connections may last at once, unless another quarter of the file descriptors is less. To a follower that
/// asks for one more, the server responds with 503: closing an older one would cost that one's follower its watch.
const MAX_PRESENCES: usize = 1024;
/// How long, in milliseconds, a client may leave what it was sent without an acknowledgement. Its machine has vanished
/// then, and its connection must not last.
const USER_TIMEOUT: u32 = 30_000;
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
    oldest_first: VecDeque<Connection>,
}

/// An open connection.
struct Connection {
    task: AbortHandle,
    /// Whether its response lasts, so that it is not counted here.
    lasts: Arc<AtomicBool>,
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
        let quarter = usize::try_from(descriptors / 4).unwrap_or(usize::MAX);
        let presences = Presences::new(status.clone(), quarter.clamp(1, MAX_PRESENCES));
        let state = Arc::new(ReplicaState::new(config, status, terms));
        Self {
            router: router(Arc::clone(&state), presences),
            state,
            listener,
            max_connections: quarter.clamp(1, MAX_CONNECTIONS),
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
        // A failure concerns only the client: what it is sent arrives later, or it is cut off later.
        let _ = stream.set_nodelay(true);
        let _ = set_tcp_user_timeout(&stream, USER_TIMEOUT);
        self.oldest_first
            .retain(|it| !it.task.is_finished() && !it.lasts.load(Ordering::Relaxed));
        if self.oldest_first.len() >= self.max_connections
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            oldest.task.abort();
        }
        let lasts = Arc::new(AtomicBool::new(false));
        let serving = serve_one_request(stream, self.router.clone(), Arc::clone(&lasts));
        let task = self.connections.spawn(serving);
        self.oldest_first.push_back(Connection { task, lasts });
    }
}

// Not `axum::serve`, which limits neither connections nor their time.
async fn serve_one_request(stream: TcpStream, router: Router, lasts: Arc<AtomicBool>) {
    let marks = Arc::clone(&lasts);
    let mark = move |response: Response| {
        marks.store(
            response.extensions().get::<Lasts>().is_some(),
            Ordering::Relaxed,
        );
        response
    };
    let service = ServiceExt::<Request<Incoming>>::map_response(router, mark);
    let serving = http1::Builder::new()
        .keep_alive(false)
        // A client may close its sending half once it has sent the request, and wait for the response.
        .half_close(true)
        .max_buf_size(MAX_HEAD_LENGTH)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut serving = pin!(serving);
    // An error concerns only the client, which sees it too.
    let is_over = timeout(CONNECTION_TIMEOUT, &mut serving).await.is_ok();
    if !is_over && lasts.load(Ordering::Relaxed) {
        let _ = serving.await;
    }
}
