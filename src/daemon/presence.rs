//! The followers' side of `GET /presence`: a connection to the leader, so that this replica notices within milliseconds
//! when the leader's process ends, and within a fail-over limit when its machine vanishes.
//!
//! A report is only a suspicion, and may be wrong; the election decides what to do about it. The connection is used
//! only if the leader's term has a fail-over limit and the leader's address is the URL of its `--http`.

mod address;
mod body;

pub(super) use body::{ALIVE, GOODBYE, PATH, first_line, pace};

use crate::{
    backoff::Jitter,
    clock,
    protocol::{FailOverLimit, FencingToken, LeaseId, Presence, Role, Status},
    record::ActingRecord,
};
use address::{Resolver, authority, connect};
use body::{Reader, Said};
use hyper::{
    Request, StatusCode,
    body::{Body, Incoming},
    client::conn::http1::{self, SendRequest},
    header::HOST,
};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    io,
    pin::Pin,
    time::Duration,
};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::debug;

/// The least time for connecting and for the head of the response.
const SHORTEST_PATIENCE: Duration = Duration::from_millis(250);
/// The most time for the same.
const LONGEST_PATIENCE: Duration = Duration::from_secs(5);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// In how many parts a limit of silence is measured. After this process was paused, only one part times
/// out; then it reads what has arrived meanwhile.
const SILENT_PARTS: u32 = 4;
/// How long the head of a response may be, in bytes.
const MAX_HEAD_LENGTH: usize = 16 * 1024;

/// Keeps this replica connected to the leader that it follows, on a task of its own, so that nothing else waits for it.
pub(super) struct PresenceMonitor {
    reports: mpsc::UnboundedReceiver<(FencingToken, Presence)>,
    /// Dropping it ends the task.
    task: JoinSet<()>,
}

impl PresenceMonitor {
    /// Starts to follow what this candidate knows.
    pub fn start(status: watch::Receiver<Status>) -> Self {
        let (reports_sent, reports) = mpsc::unbounded_channel();
        let mut task = JoinSet::new();
        task.spawn(monitor(status, reports_sent));
        Self { reports, task }
    }

    /// Waits for the next news of the leader of a term. There are none once the candidate takes no part any more.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// If the task has died: it would not notice any more that a leader fails.
    pub async fn next(&mut self) -> io::Result<(FencingToken, Presence)> {
        if let Some(news) = self.reports.recv().await {
            return Ok(news);
        }
        match self.task.join_next().await {
            Some(Err(error)) => Err(io::Error::other(format!("a task died: {error}"))),
            Some(Ok(())) | None => pending().await,
        }
    }
}

/// A term whose leader can be watched.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    token: FencingToken,
    /// A token alone may repeat after a restored backup.
    lease: LeaseId,
    limit: FailOverLimit,
    authority: String,
}

impl Target {
    /// Returns the term that this candidate follows, if its leader can be watched.
    fn of(status: &Status) -> Option<Self> {
        if status.role != Role::Follower {
            return None;
        }
        let acting = status.acting.as_ref()?;
        let (limit, lease) = (acting.settings.fail_over?, acting.lease?);
        let address = ActingRecord::decode(&acting.value).address?;
        Some(Self {
            token: FencingToken::new(acting.mod_revision),
            lease,
            limit,
            authority: authority(&address)?.to_owned(),
        })
    }
}

/// Reports what becomes of the connections to one leader after the other, until the candidate takes no part any more.
async fn monitor(
    mut status: watch::Receiver<Status>,
    reports: mpsc::UnboundedSender<(FencingToken, Presence)>,
) {
    let resolver = Resolver::new();
    loop {
        let target = Target::of(&status.borrow_and_update());
        let Some(target) = target else {
            if status.changed().await.is_err() {
                return;
            }
            continue;
        };
        let report = |presence| {
            // If nobody receives it, the daemon is about to end.
            let _ = reports.send((target.token, presence));
        };
        let is_another = |status: &Status| Target::of(status).as_ref() != Some(&target);
        tokio::select! {
            never = follow(&target, &resolver, &report) => match never {},
            another = status.wait_for(is_another) => if another.is_err() {
                return;
            }
        }
        report(Presence::Unknown);
    }
}

/// Connects to the leader of a term again and again.
async fn follow(target: &Target, resolver: &Resolver, report: &impl Fn(Presence)) -> Infallible {
    let limit = target.limit.as_duration().min(LONGEST_PAUSE);
    let mut jitter = Jitter::new();
    // Many followers must not connect at the same instant. A leader begins to act a moment after it has written its
    // keys, and serves its presence from then on.
    let mut soon = || limit / 4 + jitter.up_to(limit / 4);
    let mut back_off = limit;
    sleep(soon()).await;
    loop {
        let ConnectionEnd {
            presence,
            has_lasted,
            reason,
        } = stay_connected(target, resolver, report).await;
        let pause = if has_lasted {
            back_off = limit;
            soon()
        } else {
            let pause = back_off;
            back_off = (back_off * 2).min(LONGEST_PAUSE);
            pause
        };
        let (address, pause_ms) = (&target.authority, pause.as_millis());
        debug!(
            address,
            "Not connected to the leader at 'http://{address}': {reason}; trying again in {pause_ms} ms."
        );
        report(presence);
        sleep(pause).await;
    }
}

/// How an attempt to watch a leader has ended.
struct ConnectionEnd {
    presence: Presence,
    /// Whether the leader was connected for a limit at least.
    has_lasted: bool,
    reason: String,
}

impl ConnectionEnd {
    /// Nothing can be said about the leader.
    fn unknown(reason: impl Into<String>) -> Self {
        Self {
            presence: Presence::Unknown,
            has_lasted: false,
            reason: reason.into(),
        }
    }
}

/// Connects to the leader, and reports that once the leader has named its term. Returns when the connection is of no
/// use any more.
async fn stay_connected(
    target: &Target,
    resolver: &Resolver,
    report: &impl Fn(Presence),
) -> ConnectionEnd {
    let addresses = match resolver.resolve(&target.authority).await {
        Ok(addresses) => addresses,
        Err(error) => {
            return ConnectionEnd::unknown(format!("its name cannot be resolved: {error}"));
        }
    };
    let limit = target.limit.as_duration();
    let patience = limit.clamp(SHORTEST_PATIENCE, LONGEST_PATIENCE);
    let head_due = clock::now() + patience;
    let stream = match connect(&addresses, patience).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            return ConnectionEnd {
                presence: Presence::Broken,
                ..ConnectionEnd::unknown("the connection is refused")
            };
        }
        Err(error) => return ConnectionEnd::unknown(format!("the connection failed: {error}")),
    };
    let (requests, connection) = match handshake(stream).await {
        Ok(parts) => parts,
        Err(error) => return ConnectionEnd::unknown(format!("the HTTP handshake failed: {error}")),
    };
    // What has come is read also after the connection has ended.
    let driving = async {
        let _ = connection.await;
        pending::<Infallible>().await
    };
    let reading = async {
        let within = head_due.since(clock::now());
        match timeout(within, ask(requests, &target.authority)).await {
            Ok(Ok(body)) => read(body, target, report).await,
            Ok(Err(reason)) => ConnectionEnd::unknown(reason),
            Err(_) => ConnectionEnd::unknown("it has not responded in time"),
        }
    };
    tokio::select! {
        never = driving => match never {},
        end = reading => end,
    }
}

/// Begins to speak HTTP on a connection.
async fn handshake(
    stream: TcpStream,
) -> hyper::Result<(SendRequest<String>, impl Future<Output = hyper::Result<()>>)> {
    let mut http = http1::Builder::new();
    http.max_buf_size(MAX_HEAD_LENGTH);
    http.handshake(TokioIo::new(stream)).await
}

/// Sends the request. Returns the body of the response.
///
/// # Errors
/// If the response is not 200; the error says what it is.
async fn ask(mut requests: SendRequest<String>, authority: &str) -> Result<Incoming, String> {
    let request = Request::get(PATH).header(HOST, authority);
    let request = request.body(String::new()).map_err(|it| it.to_string())?;
    let response = requests.send_request(request).await;
    let response = response.map_err(|error| format!("it does not respond: {error}"))?;
    match response.status() {
        StatusCode::OK => Ok(response.into_body()),
        code => Err(format!("it responds with {code}")),
    }
}

/// Reads the body until it says nothing more of this term.
async fn read(mut body: Incoming, target: &Target, report: &impl Fn(Presence)) -> ConnectionEnd {
    let limit = target.limit.as_duration();
    let mut reader = Reader::default();
    let mut connected_since = None;
    let mut silent_parts = 0;
    let reason = loop {
        let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context));
        let part = match timeout(limit / SILENT_PARTS, frame).await {
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            Ok(Some(Err(error))) => break format!("the connection broke: {error}"),
            Ok(None) => break "the response ended without a goodbye".to_owned(),
            Err(_) if silent_parts + 1 < SILENT_PARTS => {
                silent_parts += 1;
                continue;
            }
            Err(_) => break "it has been silent for longer than its limit".to_owned(),
        };
        silent_parts = 0;
        match reader.read(&part) {
            Said::Nothing => {}
            Said::Alive(token) if token == target.token => {
                connected_since.get_or_insert_with(|| {
                    let address = &target.authority;
                    debug!(address, "Connected to the leader at 'http://{address}'.");
                    report(Presence::Connected);
                    clock::now()
                });
            }
            Said::Alive(token) => {
                return ConnectionEnd::unknown(format!("it leads in term {token}"));
            }
            Said::Goodbye => return ConnectionEnd::unknown("its term ends in order"),
            Said::Nonsense => {
                return ConnectionEnd::unknown("the response is not that of a leader");
            }
        }
    };
    match connected_since {
        None => ConnectionEnd::unknown(reason),
        Some(since) => ConnectionEnd {
            presence: Presence::Broken,
            has_lasted: clock::now().since(since) >= limit,
            reason,
        },
    }
}
