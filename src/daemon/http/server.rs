//! Accepts connections and limits them, so that no client delays the election.

use axum::{Router, response::Response};
use hyper::{Request, body::Incoming, server::conn::http1};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use rustix::{
    net::sockopt::{set_socket_send_buffer_size, set_tcp_user_timeout},
    process::{Resource, getrlimit},
};
use std::{
    collections::VecDeque,
    future::pending,
    io,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{SetOnce, watch},
    task::{AbortHandle, JoinSet, yield_now},
    time::{sleep, timeout},
};
use tower::ServiceExt;
use tracing::debug;

/// How long a connection may last, except one whose response lasts. It carries one request.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// How many connections may be open at once, unless a quarter of the file descriptors, without those for
/// events, is less. To accept one more, the server closes the oldest, which has had the most time.
const MAX_CONNECTIONS: usize = 128;
/// How many connections may last at once, unless another quarter of the file descriptors is less. To a follower that
/// asks for one more, the server responds with 503: closing an older one would cost that one's follower its watch.
const MAX_PRESENCES: usize = 1024;
/// How many connections may read the events at once, unless a sixteenth of the file descriptors is less. To accept one
/// more, the server closes the oldest.
const MAX_EVENTS: usize = 32;
/// How long, in milliseconds, a client may leave what it was sent without an acknowledgement. Its machine has vanished
/// then, and its connection must not last.
const USER_TIMEOUT: u32 = 30_000;
/// How much the kernel may hold, in bytes, for a client that does not read; it doubles that. Else it would be megabytes.
const SEND_BUFFER: usize = 16 * 1024;
/// How long the head of a request may be, in bytes.
const MAX_HEAD_LENGTH: usize = 16 * 1024;
/// How long to wait after an error in accepting, which a lack of file descriptors repeats at once.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// How many connections there may be at once.
pub(super) struct Limits {
    /// How many that last no longer than their response takes.
    short: usize,
    /// How many followers may be connected.
    pub presences: usize,
    /// How many may read the events.
    pub events: usize,
}

impl Limits {
    /// Returns the limits for this process's limit on file descriptors, of which half are left to the rest.
    pub fn of_process() -> Self {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let quarter = usize::try_from(descriptors / 4).unwrap_or(usize::MAX);
        let events = (quarter / 4).clamp(1, MAX_EVENTS);
        Self {
            // As many again may be giving way.
            short: quarter.saturating_sub(2 * events).clamp(1, MAX_CONNECTIONS),
            presences: quarter.clamp(1, MAX_PRESENCES),
            events,
        }
    }
}

/// Says that a response lasts, and for how long.
#[derive(Clone)]
pub(super) struct Lasts {
    /// Says when it must end; without it, the response lasts as long as its body.
    until: Option<watch::Receiver<bool>>,
}

impl Lasts {
    /// Returns the mark of a response that lasts as long as its body.
    pub const fn as_long_as_its_body() -> Self {
        Self { until: None }
    }

    /// Returns the mark of a response that must end soon after this value is true.
    pub const fn until(must_end: watch::Receiver<bool>) -> Self {
        Self {
            until: Some(must_end),
        }
    }

    /// Waits until the response has had its time.
    async fn end(self) {
        match self.until {
            Some(mut must_end) => {
                // Without a sender, nobody has a place for it.
                let _ = must_end.wait_for(|must_end| *must_end).await;
                // Its sender is dropped if too many others end as well.
                let _ = timeout(CONNECTION_TIMEOUT, must_end.changed()).await;
            }
            None => pending().await,
        }
    }
}

/// Accepts connections and serves them. Dropping it closes all of them.
pub(super) struct Server {
    router: Router,
    listener: TcpListener,
    max_connections: usize,
    tasks: JoinSet<()>,
    oldest_first: VecDeque<OpenConnection>,
}

/// An open connection.
struct OpenConnection {
    task: AbortHandle,
    /// Set if its response lasts, so that it is not counted here; gone once the connection is.
    lasts: Weak<SetOnce<Lasts>>,
}

impl Server {
    /// Creates a server of these routes.
    pub fn new(listener: TcpListener, router: Router, limits: &Limits) -> Self {
        if let Ok(address) = listener.local_addr() {
            debug!(%address, "Listening for HTTP at {address}.");
        }
        Self {
            router,
            listener,
            max_connections: limits.short,
            tasks: JoinSet::new(),
            oldest_first: VecDeque::new(),
        }
    }

    /// Runs a task until it ends or the server is dropped.
    pub fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Serves for as long as it is polled. Returns only if a task panicked.
    ///
    /// Cancel safe.
    pub async fn serve(&mut self) -> io::Error {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        self.open(stream);
                        // The one that was closed for it ends before the next one is accepted.
                        yield_now().await;
                    }
                    Err(error) => {
                        debug!("A connection could not be accepted: {error}");
                        sleep(ACCEPT_RETRY_DELAY).await;
                    }
                },
                Some(ended) = self.tasks.join_next() => {
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
        let _ = set_socket_send_buffer_size(&stream, SEND_BUFFER);
        self.oldest_first.retain(|it| {
            let lasts = it.lasts.upgrade();
            lasts.is_some_and(|lasts| lasts.get().is_none())
        });
        if self.oldest_first.len() >= self.max_connections
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            oldest.task.abort();
        }
        let mark = Arc::new(SetOnce::new());
        let lasts = Arc::downgrade(&mark);
        let serving = serve_one_request(stream, self.router.clone(), mark);
        let task = self.tasks.spawn(serving);
        self.oldest_first.push_back(OpenConnection { task, lasts });
    }
}

// Not `axum::serve`, which limits neither connections nor their time.
async fn serve_one_request(stream: TcpStream, router: Router, lasts: Arc<SetOnce<Lasts>>) {
    let marks = Arc::clone(&lasts);
    let mark = move |response: Response| {
        if let Some(lasts) = response.extensions().get::<Lasts>() {
            // A connection carries one response.
            let _ = marks.set(lasts.clone());
        }
        response
    };
    let service = ServiceExt::<Request<Incoming>>::map_response(router, mark);
    let serving = http1::Builder::new()
        .keep_alive(false)
        // A client may close its sending half once it has sent the request, and wait for the response.
        .half_close(true)
        .max_buf_size(MAX_HEAD_LENGTH)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let has_had_its_time = async {
        if let Ok(lasts) = timeout(CONNECTION_TIMEOUT, lasts.wait()).await {
            lasts.clone().end().await;
        }
    };
    tokio::select! {
        // An error concerns only the client, which sees it too.
        _ = serving => {}
        () = has_had_its_time => {}
    }
}
