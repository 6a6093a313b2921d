//! The paths of the server, and their responses. Add a new path to [`router`].

use super::{
    document::document, events::Events, format::Format, observed::ObserverState, page::page,
    presence::Presences, snapshot::Source, state::ReplicaState,
};
use crate::daemon::{presence::PATH, render::line};
use axum::{
    Router,
    extract::{Request, State},
    http::{
        HeaderMap, Method, StatusCode,
        header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS},
    },
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::{self, MethodFilter, MethodRouter},
};
use std::{fmt, sync::Arc};

/// The methods that every path allows.
const ALLOWED: &str = "GET, HEAD, OPTIONS";

/// Returns the routes of a replica, which responds from this state, and serves this presence and these events.
pub(super) fn replica(state: Arc<ReplicaState>, presences: Presences, events: Events) -> Router {
    let router = Router::new()
        .route("/leader", get(leader))
        .route("/follower", get(follower))
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/status", get(status))
        .route("/metrics", route(metrics))
        .route(PATH, route(move |_, _| presences.respond()));
    let paths =
        "there are /, /events, /leader, /follower, /live, /ready, /status, /metrics and /presence";
    complete(router, events, paths).with_state(state)
}

/// Returns the routes of an observer, which responds from this state, and serves these events.
pub(super) fn observer(state: Arc<ObserverState>, events: Events) -> Router {
    let router = Router::new()
        .route("/status", get(status))
        .route("/metrics", route(observer_metrics));
    let paths = "there are /, /events, /status and /metrics; a replica has more";
    complete(router, events, paths).with_state(state)
}

/// Adds what every server has.
fn complete<S: Clone + Send + Sync + 'static>(
    router: Router<S>,
    events: Events,
    paths: &'static str,
) -> Router<S> {
    let events = Arc::new(events);
    let respond = move |method: Method, headers: HeaderMap| async move {
        // Pages of other sites would take the places of this one's.
        match headers.get("sec-fetch-site") {
            Some(site) if site == "cross-site" => {
                sentence(StatusCode::FORBIDDEN, "other sites may not read the events")
            }
            _ => events.respond(&method),
        }
    };
    router
        .route("/", routing::on(allowed(), async || page()))
        .route("/events", routing::on(allowed(), respond))
        .method_not_allowed_fallback(async || method_not_allowed())
        .fallback(async || sentence(StatusCode::NOT_FOUND, paths))
        .layer(from_fn(finish))
}

/// Returns the methods that every path allows. axum routes HEAD as GET.
const fn allowed() -> MethodFilter {
    MethodFilter::GET.or(MethodFilter::OPTIONS)
}

/// Routes to a function that needs no more than the state.
fn get<S: Send + Sync + 'static>(respond: fn(&S) -> Response) -> MethodRouter<Arc<S>> {
    route(move |state, _| respond(state))
}

/// Routes the allowed methods to a function whose response to GET is ready at once.
fn route<S: Send + Sync + 'static>(
    respond: impl Fn(&S, &HeaderMap) -> Response + Clone + Send + Sync + 'static,
) -> MethodRouter<Arc<S>> {
    routing::on(
        allowed(),
        move |State(state): State<Arc<S>>, headers: HeaderMap| async move { respond(&state, &headers) },
    )
}

fn leader(state: &ReplicaState) -> Response {
    condition(state.is_leader(), "the leader", "not the leader")
}

fn follower(state: &ReplicaState) -> Response {
    condition(
        state.is_follower(),
        "a follower of a known leader",
        "not a follower of a known leader",
    )
}

fn live(state: &ReplicaState) -> Response {
    match state.check_liveness() {
        Ok(()) => sentence(StatusCode::OK, "alive"),
        Err(reason) => sentence(StatusCode::INTERNAL_SERVER_ERROR, reason),
    }
}

fn ready(state: &ReplicaState) -> Response {
    match state.check_readiness() {
        Ok(()) => sentence(StatusCode::OK, "etcd responds"),
        Err(reason) => sentence(StatusCode::SERVICE_UNAVAILABLE, &reason),
    }
}

fn status(state: &impl Source) -> Response {
    let body = line(document(&state.snapshot())) + "\n";
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

fn metrics(state: &ReplicaState, headers: &HeaderMap) -> Response {
    encoded(headers, |format| state.encode_metrics(format))
}

fn observer_metrics(state: &ObserverState, headers: &HeaderMap) -> Response {
    encoded(headers, |format| state.encode_metrics(format))
}

/// Responds with metrics in the format that the client prefers.
fn encoded(
    headers: &HeaderMap,
    encode: impl FnOnce(Format) -> Result<String, fmt::Error>,
) -> Response {
    let format = Format::negotiate(headers);
    match encode(format) {
        Ok(body) => ([(CONTENT_TYPE, format.content_type())], body).into_response(),
        Err(error) => sentence(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn method_not_allowed() -> Response {
    let refusal = sentence(
        StatusCode::METHOD_NOT_ALLOWED,
        "only GET, HEAD and OPTIONS are allowed",
    );
    ([(ALLOW, ALLOWED)], refusal).into_response()
}

/// Responds with 200 if the condition holds, else with 503.
fn condition(holds: bool, yes: &str, no: &str) -> Response {
    if holds {
        sentence(StatusCode::OK, yes)
    } else {
        sentence(StatusCode::SERVICE_UNAVAILABLE, no)
    }
}

pub(super) fn sentence(code: StatusCode, sentence: &str) -> Response {
    (code, format!("{sentence}\n")).into_response()
}

/// Completes the response to a request.
async fn finish(request: Request, next: Next) -> Response {
    let is_options = request.method() == Method::OPTIONS;
    let mut response = next.run(request).await;
    if is_options {
        // A load balancer that checks by OPTIONS, such as HAProxy, looks at the status code.
        response = (response.status(), [(ALLOW, ALLOWED)]).into_response();
    }
    // Keeps caches out: a response is true at its own instant only.
    let no_store = HeaderValue::from_static("no-store");
    let no_sniff = HeaderValue::from_static("nosniff");
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, no_store);
    headers.insert(X_CONTENT_TYPE_OPTIONS, no_sniff);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Cluster, Config},
        protocol::{Role, Status},
    };
    use tokio::sync::watch;

    #[test]
    fn live_is_500_once_the_election_has_died() {
        let cluster = Cluster::new(vec!["127.0.0.1:1".parse().unwrap()]).unwrap();
        let config = Config::new("one".parse().unwrap(), cluster);
        let (election, status) = watch::channel(Status {
            role: Role::Follower,
            keys_as_of: None,
            keys_known_until: None,
            leader: None,
            acting: None,
            seats: None,
            stands_back: false,
            endpoint: 0,
        });
        let state = ReplicaState::new(&config, status, watch::channel(None).1);
        assert_eq!(live(&state).status(), StatusCode::OK);
        drop(election);
        assert_eq!(live(&state).status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
