//! Serves HTTP, in such a way that no client costs the election anything.

use super::state::{Answer, Standing};
use crate::{
    config::Config,
    protocol::{Event, Status},
};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustix::process::{Resource, getrlimit};
use std::{collections::VecDeque, convert::Infallible, io, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tracing::debug;

/// How long a connection may last; each carries one request.
const LONGEST: Duration = Duration::from_secs(5);
/// How many there may be at once; one more costs the oldest its place, which has had time enough.
/// Where there are few file descriptors, it is a quarter of them.
const MOST: usize = 128;
/// How long a request's head may be, in bytes.
const LARGEST: usize = 16 * 1024;
/// How long to wait when the system cannot accept a connection, for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The running server. Dropping it ends it.
pub(in crate::daemon) struct Server {
    standing: Arc<Standing>,
    listener: TcpListener,
    most: usize,
    connections: JoinSet<()>,
    oldest_first: VecDeque<AbortHandle>,
}

impl Server {
    /// Tells whoever connects how things stand.
    pub fn new(listener: TcpListener, config: &Config, status: watch::Receiver<Status>) -> Self {
        if let Ok(address) = listener.local_addr() {
            debug!(%address, "Listening for HTTP at {address}.");
        }
        let files = getrlimit(Resource::Nofile).current;
        Self {
            standing: Arc::new(Standing::new(config, status)),
            listener,
            most: usize::try_from(files.unwrap_or(u64::MAX) / 4)
                .map_or(MOST, |files| files.clamp(1, MOST)),
            connections: JoinSet::new(),
            oldest_first: VecDeque::new(),
        }
    }

    /// Takes in what happened in the election.
    pub fn note(&self, event: &Event) {
        self.standing.note(event);
    }

    /// Serves for as long as it is polled; returns only if a task of it died, and why.
    ///
    /// Cancel safe.
    pub async fn serve(&mut self) -> io::Error {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => self.take(stream),
                    Err(error) => {
                        debug!("A connection could not be accepted: {error}");
                        sleep(PAUSE).await;
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
}

impl Server {
    fn take(&mut self, stream: TcpStream) {
        self.oldest_first
            .retain(|connection| !connection.is_finished());
        if self.oldest_first.len() >= self.most
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            oldest.abort();
        }
        let serving = serve_one(stream, Arc::clone(&self.standing));
        let serving = self.connections.spawn(serving);
        self.oldest_first.push_back(serving);
    }
}

async fn serve_one(stream: TcpStream, standing: Arc<Standing>) {
    let serving = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(LARGEST)
        .serve_connection(
            TokioIo::new(stream),
            service_fn(|request| {
                let response = respond(&request, &standing);
                async { Ok::<_, Infallible>(response) }
            }),
        );
    // What goes wrong is the client's to know.
    let _ = timeout(LONGEST, serving).await;
}

fn respond(request: &Request<Incoming>, standing: &Standing) -> Response<Full<Bytes>> {
    let answer = match (standing.answer(request.uri().path()), request.method()) {
        (Some(answer), &Method::GET | &Method::HEAD) => answer,
        (Some(_), _) => {
            let answer = Answer::text(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET and HEAD are allowed",
            );
            let mut response = answer.into_response();
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, allowed);
            return response;
        }
        (None, _) => Answer::text(
            StatusCode::NOT_FOUND,
            "there are /leader, /follower, /live, /ready, /status and /metrics",
        ),
    };
    answer.into_response()
}

impl Answer {
    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(self.body));
        *response.status_mut() = self.code;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        // It is true at this instant.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}
