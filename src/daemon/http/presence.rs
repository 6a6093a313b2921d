//! `GET /presence`: a response that lasts as long as this replica leads, so that followers notice at once when it fails.
//! `daemon/presence/body.rs` describes the body.

use super::{routes::sentence, server::Lasts};
use crate::{
    clock,
    daemon::presence::{ALIVE, GOODBYE, first_line, pace},
    protocol::{FailOverLimit, FencingToken, LossReason, Moment, Role, Status},
};
use axum::{
    Extension,
    body::Body,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use std::{convert::Infallible, sync::Arc};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

/// How many lines wait for a slow follower. One that does not read them gets no further signs of life.
const LINES_AHEAD: usize = 4;

/// Serves the presence of this replica.
#[derive(Clone)]
pub(super) struct Presences {
    status: watch::Receiver<Status>,
    free: Arc<Semaphore>,
}

impl Presences {
    /// Creates a server for a candidate with this status, for so many connections at once.
    pub fn new(status: watch::Receiver<Status>, most: usize) -> Self {
        let free = Arc::new(Semaphore::new(most));
        Self { status, free }
    }

    /// Responds to a follower.
    pub fn respond(&self) -> Response {
        let refuse = |why| sentence(StatusCode::SERVICE_UNAVAILABLE, why);
        let term = watched_term(&self.status.borrow(), clock::now());
        let (token, limit) = match term {
            Ok(term) => term,
            Err(reason) => return refuse(reason),
        };
        let Ok(place) = Arc::clone(&self.free).try_acquire_owned() else {
            return refuse("too many followers are connected already");
        };
        let (lines, received) = mpsc::channel(LINES_AHEAD);
        tokio::spawn(write(self.status.clone(), token, limit, lines));
        // The place is free again once the response is dropped, and its connection with it.
        let body = ReceiverStream::new(received).map(move |line| {
            let _ = &place;
            Ok::<_, Infallible>(line)
        });
        let content_type = [(CONTENT_TYPE, "text/plain; charset=utf-8")];
        (
            content_type,
            Extension(Lasts::as_long_as_its_body()),
            Body::from_stream(body),
        )
            .into_response()
    }
}

/// Returns the term in which this replica leads, and its limit.
///
/// # Errors
/// If there is nothing to watch; the error says why.
fn watched_term(
    status: &Status,
    now: Moment,
) -> Result<(FencingToken, FailOverLimit), &'static str> {
    let Role::Leader { term, deadline } = status.role else {
        return Err("not the leader");
    };
    if now >= deadline {
        return Err("not the leader");
    }
    let acting = status.acting.as_ref();
    let acting = acting.filter(|acting| acting.mod_revision == term.token.get());
    let limit = acting.and_then(|acting| acting.settings.fail_over);
    let limit = limit.ok_or("the term has no fail-over limit, so there is nothing to watch")?;
    Ok((term.token, limit))
}

/// Returns true iff a term has ended in order: if it was lost because etcd did not respond, nobody releases its keys, so
/// that a follower must challenge it.
fn ends_in_order(role: Role, deadline: Moment, now: Moment) -> bool {
    let was_lost = matches!(
        role,
        Role::Stopping {
            reason: LossReason::NotRenewed,
            ..
        }
    );
    now < deadline && !was_lost
}

/// Writes the lines of a term until it ends or the connection does.
async fn write(
    mut status: watch::Receiver<Status>,
    token: FencingToken,
    limit: FailOverLimit,
    lines: mpsc::Sender<String>,
) {
    let mut signs_of_life = interval(pace(limit));
    signs_of_life.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Each follower has room for the first line. If there is no room, those that wait say the same.
    let _ = lines.try_send(first_line(token));
    let mut last_deadline = None;
    loop {
        let now = clock::now();
        let role = status.borrow().role;
        if watched_term(&status.borrow_and_update(), now) != Ok((token, limit)) {
            if last_deadline.is_none_or(|deadline| ends_in_order(role, deadline, now)) {
                // If nobody reads it, the connection has ended.
                let _ = lines.send(GOODBYE.to_owned()).await;
            }
            return;
        }
        if let Role::Leader { deadline, .. } = role {
            last_deadline = Some(deadline);
        }
        tokio::select! {
            // If the election has died, this must look like a crash.
            changed = status.changed() => if changed.is_err() {
                return;
            },
            _ = signs_of_life.tick() => {
                let _ = lines.try_send(ALIVE.to_owned());
            }
            () = lines.closed() => return,
        }
    }
}
