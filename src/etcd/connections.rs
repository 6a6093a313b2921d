//! The connections that the elections of a cluster share: one to each endpoint.
//!
//! An election that needs a connection gets the one that others use, or waits for an attempt that is under way. If
//! requests on it fail, the election asks for a newer one. The first election that asks connects, and the others use
//! that connection too. So a failed connection is replaced only once, no matter how many elections used it, and a
//! password is checked only once.

use super::{
    access::Access,
    failure::{Hint, connection_failure},
    token::{Service, Token, Tokens, authenticate, client, service},
    within,
};
use crate::{
    clock,
    config::Cluster,
    protocol::{Failure, FailureKind, Moment},
};
use etcd_client::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};
use tokio::{
    runtime::{self, Handle},
    sync::{Semaphore, watch},
};

/// How often a connection with open streams is checked by an HTTP/2 ping. etcd closes connections
/// that ping more often than every 5 s.
const PING_EVERY: Duration = Duration::from_secs(6);
/// How long the response to a ping may take.
const PING_LIMIT: Duration = Duration::from_secs(4);
/// How long sent data may stay unacknowledged before the kernel closes the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(10);
/// How many bytes etcd may send on one stream before they are read, and on all streams together. A watch that nobody
/// reads, as that of an observer whose states nobody takes, must not use up what the other streams need.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 30;
/// How many requests, without keepalives, are under way at a time on one connection: each takes 20 KiB of memory. A
/// thousand leaders with a TTL of 5 s send 2000 a second, so that there are fewer unless a response takes a quarter of one.
const CALLS: usize = 512;
/// How many of those that can wait.
const TURNS: usize = 32;

/// A connection to an endpoint, which several elections may use at once.
pub(super) struct Transport {
    /// Later ones have greater numbers.
    pub(super) number: u64,
    pub(super) client: Client,
    pub(super) service: Service,
    pub(super) hint: Hint,
    pub(super) token: Option<Arc<Token>>,
    /// Whether the token was given to this connection, and not to an earlier one.
    pub(super) is_token_fresh: bool,
    pub(super) authentication_is_off: bool,
    /// For all requests but keepalives, whose streams have what they need.
    pub(super) calls: Semaphore,
    /// For requests that can wait: revocations of empty leases, and what concerns the history. They cost etcd as much as
    /// what an election waits for, and there may be thousands at once.
    pub(super) turns: Semaphore,
}

/// The connections of a cluster. They close when nobody uses them.
#[derive(Default)]
pub(crate) struct Connections {
    pub(super) tokens: Tokens,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last_number: u64,
    places: Vec<Place>,
}

/// The newest connection to an endpoint.
struct Place {
    endpoint: usize,
    /// A connection works as long as its runtime runs, and elections in another one must not depend on that.
    runtime: runtime::Id,
    newest: Newest,
}

enum Newest {
    Attempt {
        number: u64,
        /// When it has connected, or failed.
        ends: Moment,
        progress: watch::Receiver<Progress>,
    },
    Open(Weak<Transport>),
}

/// How far an attempt has come.
#[derive(Clone)]
enum Progress {
    Connecting,
    /// It has a limit of its own, since etcd checks passwords one after the other.
    Authenticating,
    Ended(Result<Arc<Transport>, Failure>),
}

impl Progress {
    fn is_connected(&self) -> bool {
        !matches!(self, Self::Connecting)
    }

    fn is_ended(&self) -> bool {
        matches!(self, Self::Ended(_))
    }
}

/// An attempt to connect.
struct Attempt {
    number: u64,
    endpoint: usize,
    progress: watch::Sender<Progress>,
}

/// What there is when a connection is needed.
enum Found {
    Open(Arc<Transport>),
    Attempt(watch::Receiver<Progress>),
    /// Nothing was there.
    Begun(Attempt),
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").finish_non_exhaustive()
    }
}

impl Place {
    /// Whether this is of no use any more: the connection is closed, or its attempt died with its task.
    fn is_gone(&self) -> bool {
        match &self.newest {
            Newest::Attempt { progress, .. } => progress.has_changed().is_err(),
            Newest::Open(transport) => transport.strong_count() == 0,
        }
    }
}

impl Connections {
    /// Returns a connection to an endpoint that is newer than `older`: one that is open, or else a new one.
    ///
    /// `limit` bounds TCP and TLS; each address of the endpoint gets an equal share of it. Authentication has a limit of
    /// its own, and is skipped while etcd accepts an earlier token.
    ///
    /// # Errors
    /// If there is no connection in time. Those that waited for an attempt that fails share its failure.
    ///
    /// Cancel safe: an attempt goes on for the others that wait for it.
    pub(super) async fn newer_than(
        self: &Arc<Self>,
        older: u64,
        cluster: &Cluster,
        endpoint: usize,
        limit: Duration,
    ) -> Result<Arc<Transport>, Failure> {
        let until = clock::now() + limit;
        loop {
            let left = until.since(clock::now());
            let (mut progress, is_joined) = match self.find(older, endpoint, until) {
                Found::Open(transport) => return Ok(transport),
                Found::Attempt(progress) => (progress, true),
                Found::Begun(attempt) => {
                    let progress = attempt.progress.subscribe();
                    let (connections, cluster) = (Arc::clone(self), cluster.clone());
                    tokio::spawn(async move { connections.connect(&cluster, attempt, left).await });
                    (progress, false)
                }
            };
            let connected = async { wait_for(&mut progress, Progress::is_connected).await };
            within(left, "connecting", connected).await?;
            let Progress::Ended(result) = wait_for(&mut progress, Progress::is_ended).await? else {
                continue;
            };
            match result {
                // It had less time than there is here.
                Err(failure)
                    if is_joined
                        && failure.kind == FailureKind::TimedOut
                        && clock::now() < until => {}
                result => return result,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds a connection, or an attempt that connects by this moment if at all, or begins one.
    fn find(&self, older: u64, endpoint: usize, until: Moment) -> Found {
        let runtime = Handle::current().id();
        let mut state = self.state();
        state.places.retain(|place| !place.is_gone());
        let is_here = |place: &Place| place.endpoint == endpoint && place.runtime == runtime;
        let here = state.places.iter().position(is_here);
        match here.map(|here| &state.places[here].newest) {
            Some(Newest::Attempt { ends, progress, .. })
                if *ends <= until || progress.borrow().is_connected() =>
            {
                return Found::Attempt(progress.clone());
            }
            Some(Newest::Open(transport)) => {
                if let Some(transport) = transport.upgrade().filter(|it| it.number > older) {
                    return Found::Open(transport);
                }
            }
            _ => {}
        }
        state.last_number += 1;
        let (progress, waiting) = watch::channel(Progress::Connecting);
        let place = Place {
            endpoint,
            runtime,
            newest: Newest::Attempt {
                number: state.last_number,
                ends: until,
                progress: waiting,
            },
        };
        match here {
            Some(here) => state.places[here] = place,
            None => state.places.push(place),
        }
        Found::Begun(Attempt {
            number: state.last_number,
            endpoint,
            progress,
        })
    }

    /// Makes an attempt, and shares what comes of it.
    async fn connect(&self, cluster: &Cluster, attempt: Attempt, limit: Duration) {
        let result = self.try_to_connect(cluster, &attempt, limit).await;
        let result = result.map(Arc::new);
        let newest = result.as_ref().ok().map(Arc::downgrade).map(Newest::Open);
        let mut state = self.state();
        // A shorter attempt may have taken its place.
        let is_here = |place: &Place| matches!(place.newest, Newest::Attempt { number, .. } if number == attempt.number);
        match (state.places.iter().position(is_here), newest) {
            (Some(here), Some(newest)) => state.places[here].newest = newest,
            // The next that needs one begins another attempt.
            (Some(here), None) => drop(state.places.swap_remove(here)),
            (None, _) => {}
        }
        attempt.progress.send_replace(Progress::Ended(result));
    }

    /// Connects; the endpoint's name is resolved and its files are read anew.
    async fn try_to_connect(
        &self,
        cluster: &Cluster,
        attempt: &Attempt,
        limit: Duration,
    ) -> Result<Transport, Failure> {
        let hint = Hint::new(cluster);
        let kept = self.tokens.kept();
        let connecting = async {
            let access = read_access(cluster, attempt.endpoint, kept.is_none()).await?;
            let mut http = HttpConnector::new();
            // TLS is a layer above.
            http.enforce_http(false);
            http.set_nodelay(true);
            http.set_connect_timeout(Some(limit));
            http.set_tcp_user_timeout(Some(USER_TIMEOUT));
            let member = access
                .member
                .http2_keep_alive_interval(PING_EVERY)
                .keep_alive_timeout(PING_LIMIT)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW);
            let channel = member.connect_with_connector(http).await;
            let channel = channel.map_err(|error| connection_failure(&error))?;
            Ok((channel, access.user))
        };
        let (channel, user) = within(limit, "connecting", connecting).await?;
        attempt.progress.send_replace(Progress::Authenticating);

        let (token, is_token_fresh) = match user {
            None => (kept, false),
            Some(user) => {
                let classify = |error| hint.classify(error);
                let token = authenticate(channel.clone(), user, &self.tokens, classify).await?;
                (token, true)
            }
        };
        let service = service(channel, token.as_deref());
        let client = client(service.clone()).await;
        Ok(Transport {
            number: attempt.number,
            client: client.map_err(|error| hint.classify(error))?,
            service,
            hint,
            authentication_is_off: is_token_fresh && token.is_none(),
            token,
            is_token_fresh,
            calls: Semaphore::new(CALLS),
            turns: Semaphore::new(TURNS),
        })
    }
}

async fn read_access(
    cluster: &Cluster,
    endpoint: usize,
    needs_password: bool,
) -> Result<Access, Failure> {
    let reads_files = cluster.uses_tls() || cluster.credentials().is_some();
    if !reads_files {
        return Access::read(cluster, &cluster.endpoints()[endpoint], needs_password);
    }
    let cluster = cluster.clone();
    let read = move || Access::read(&cluster, &cluster.endpoints()[endpoint], needs_password);
    // A file system may hang, and this task must not.
    tokio::task::spawn_blocking(read)
        .await
        .map_err(|error| Failure::new(FailureKind::Unreachable, error.to_string()))?
}

/// Waits until an attempt has come so far.
async fn wait_for(
    progress: &mut watch::Receiver<Progress>,
    so_far: impl FnMut(&Progress) -> bool,
) -> Result<Progress, Failure> {
    let reached = progress.wait_for(so_far).await;
    reached.map(|reached| reached.clone()).map_err(|_| {
        Failure::new(
            FailureKind::Unreachable,
            "the attempt to connect ended early",
        )
    })
}
