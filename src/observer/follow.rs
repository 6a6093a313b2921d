//! Carries out what the key history asks for. If an endpoint fails, it uses the next one.

use super::{
    ElectionState, Observed,
    key_history::{Comparison, KeyHistory, NextReport},
};
use crate::{
    backoff::Jitter,
    candidates::Candidates,
    clock,
    etcd::{Connection, SeatsWatch, Target, WatchEnd},
    protocol::{Failure, FailureKind, Moment, Rotation, View},
};
use std::{convert::Infallible, future::pending, sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

/// How long one request or a new connection may take.
const LIMIT: Duration = Duration::from_secs(2);
/// The longest back-off after every endpoint failed.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(1);
/// How long a watch must have been open for its end to be no failure: load balancers close what was idle for a second
/// or more, and an endpoint that closes every watch at once is a failure.
const HAS_WORKED: Duration = Duration::from_millis(500);
/// How often the keys and the seats are read, because a dead watch reports nothing.
const READ_EVERY: Duration = Duration::from_secs(5);

/// Why an endpoint is given up.
enum FollowEnd {
    Failed(Failure),
    /// Nothing receives what is reported.
    Unheard,
}

impl From<Failure> for FollowEnd {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

pub(super) struct Follower {
    target: Arc<Target>,
    history: Option<KeyHistory>,
    rotation: Rotation,
    /// Since when the present connection has a watch.
    works_since: Option<Moment>,
    has_reported_authentication_off: bool,
    /// The candidates as last reported, or that they are unknown.
    candidates: Option<Result<Candidates, ()>>,
    observed: mpsc::Sender<Observed>,
}

impl Follower {
    pub fn new(
        target: Arc<Target>,
        history: Option<KeyHistory>,
        observed: mpsc::Sender<Observed>,
    ) -> Self {
        Self {
            rotation: Rotation::new(target.cluster().endpoint_count()),
            works_since: None,
            has_reported_authentication_off: false,
            candidates: None,
            target,
            history,
            observed,
        }
    }

    /// Follows until nothing receives what it reports.
    pub async fn run(mut self) {
        let mut jitter = Jitter::new();
        loop {
            let Err(end) = Box::pin(self.follow(self.rotation.endpoint())).await;
            let FollowEnd::Failed(failure) = end else {
                return;
            };
            // As candidates do, by rule 15 of the protocol: a connection that has worked and breaks is
            // replaced once before that is reported; and a new connection brings a new token.
            let has_worked = self
                .works_since
                .take()
                .is_some_and(|since| clock::now().since(since) >= HAS_WORKED);
            let may_pass = matches!(
                failure.kind,
                FailureKind::TokenExpired | FailureKind::Unreachable
            );
            if has_worked && may_pass {
                continue;
            }
            if self
                .rotation
                .record_failure(self.rotation.endpoint(), Some(failure))
            {
                if let Some((endpoint, failure)) = self.rotation.take_report() {
                    let unanswered = Observed::Unanswered { endpoint, failure };
                    if self.report(unanswered).await.is_err() {
                        return;
                    }
                }
                let at_most = self.rotation.back_off_limit(LONGEST_BACK_OFF);
                tokio::select! {
                    () = sleep(jitter.up_to(at_most)) => {}
                    () = self.observed.closed() => return,
                }
            }
        }
    }

    /// Follows on one endpoint, until that fails.
    async fn follow(&mut self, endpoint: usize) -> Result<Infallible, FollowEnd> {
        let connecting = self.target.connect(endpoint, LIMIT);
        let connection = if self.rotation.endpoints() == 1 {
            connecting.await?
        } else {
            // A password that is checked late is no reason to wait while other endpoints may respond.
            let late = |_| Failure::new(FailureKind::TimedOut, "no authentication in time");
            timeout(2 * LIMIT, connecting).await.map_err(late)??
        };
        if connection.authentication_is_off()
            && !std::mem::replace(&mut self.has_reported_authentication_off, true)
        {
            self.report(Observed::AuthenticationOff).await?;
        }
        let mut compacted = None;
        loop {
            let view = connection.read(LIMIT).await?;
            let ahead = self.take(view, compacted).await?;
            compacted = Box::pin(self.watch(&connection, endpoint, ahead)).await?;
        }
    }

    /// Takes in a read before a watch; returns it if the watch has to catch up with it.
    async fn take(
        &mut self,
        view: View,
        compacted: Option<i64>,
    ) -> Result<Option<View>, FollowEnd> {
        if let Some(history) = &mut self.history {
            let comparison = history.compare(&view);
            let after = history.reported_up_to();
            // Where the keys still stand as they were written, nothing was missed.
            let is_gap = compacted.is_some_and(|revision| after + 1 < revision);
            match comparison {
                Comparison::WentBack => self.report(Observed::HistoryWentBack).await?,
                _ if is_gap => self.report(Observed::Gap { after }).await?,
                Comparison::Ahead => return Ok(Some(view)),
                Comparison::Same => return Ok(None),
            }
        }
        let state = ElectionState::of(&view);
        self.history = Some(KeyHistory::new(view));
        self.report(Observed::State(state)).await?;
        Ok(None)
    }

    /// Watches, from the last reported revision, until that needs a new read: then returns the
    /// revision up to which etcd was compacted, if that is why.
    async fn watch(
        &mut self,
        connection: &Connection,
        endpoint: usize,
        mut ahead: Option<View>,
    ) -> Result<Option<i64>, FollowEnd> {
        let Some(history) = &mut self.history else {
            return Ok(None);
        };
        history.forget_pending();
        let from_revision = history.reported_up_to() + 1;
        let mut watch = connection.watch(from_revision, LIMIT).await?;
        let mut seats_watch: Option<SeatsWatch> = None;
        // The first read is about the candidates.
        let mut next_read = clock::now();
        let mut owed_by = None;
        loop {
            let waits = self.catch_up(connection).await?;
            let Some(history) = &mut self.history else {
                return Ok(None);
            };
            ahead = ahead.filter(|view| !history.has_reached(view));
            let owes = waits || ahead.is_some() || !watch.is_open();
            owed_by = owes.then(|| owed_by.unwrap_or_else(|| clock::now() + LIMIT));
            tokio::select! {
                changes = watch.changes() => {
                    match changes {
                        Ok(changes) => changes.into_iter().for_each(|change| history.take(change)),
                        Err(WatchEnd::Compacted(revision)) => return Ok(Some(revision)),
                        Err(WatchEnd::Failed(failure)) => return Err(failure.into()),
                    }
                    owed_by = None;
                    // Another candidate may lead now.
                    next_read = clock::now();
                    if watch.is_open() {
                        self.works_since.get_or_insert_with(clock::now);
                    }
                    if watch.is_open() && self.rotation.record_success() {
                        self.report(Observed::AnsweredAgain { endpoint }).await?;
                    }
                }
                has_changed = changed(&mut seats_watch) => {
                    if has_changed {
                        next_read = clock::now();
                    } else {
                        // The next read opens another one.
                        seats_watch = None;
                    }
                }
                () = sleep(owed_by.unwrap_or(next_read).since(clock::now())) => {
                    if owed_by.is_some() {
                        let late = "the watch does not deliver what etcd holds";
                        return Err(Failure::new(FailureKind::TimedOut, late).into());
                    }
                    let (view, denied) = connection.read_with_seats_if_permitted(LIMIT).await?;
                    next_read = clock::now() + READ_EVERY;
                    match history.compare(&view) {
                        Comparison::Same => {
                            if seats_watch.is_none() && denied.is_none() {
                                let opening = connection.watch_seats(view.revision + 1, LIMIT);
                                // Without it, the next read finds what has changed.
                                seats_watch = opening.await.ok();
                            }
                            self.report_candidates(&view, denied).await?;
                        }
                        Comparison::Ahead => {
                            ahead = Some(view);
                            // The candidates are reported after the state that they belong to.
                            next_read = clock::now();
                        }
                        Comparison::WentBack => return Ok(None),
                    }
                }
                () = self.observed.closed() => return Err(FollowEnd::Unheard),
            }
        }
    }

    /// Reports what is certain; returns true if the watches owe the rest.
    async fn catch_up(&mut self, connection: &Connection) -> Result<bool, FollowEnd> {
        while let Some(history) = &mut self.history {
            match history.next() {
                NextReport::Report(state) => self.report(Observed::State(*state)).await?,
                NextReport::Read { key, revision } => {
                    let entry = connection.read_at(key, revision, LIMIT).await?;
                    history.settle(key, revision, entry.as_ref());
                }
                NextReport::Wait => return Ok(true),
                NextReport::Rest => break,
            }
        }
        Ok(false)
    }

    /// Reports the candidates that a read shows, or why it does not, unless that was the last report.
    async fn report_candidates(
        &mut self,
        view: &View,
        denied: Option<Failure>,
    ) -> Result<(), FollowEnd> {
        let shown = Candidates::shown_in(view).ok_or(());
        if self.candidates.as_ref() == Some(&shown) {
            return Ok(());
        }
        self.candidates = Some(shown.clone());
        match (shown, denied) {
            (Ok(candidates), _) => self.report(Observed::Candidates(candidates)).await,
            (Err(()), Some(failure)) => self.report(Observed::CandidatesUnknown { failure }).await,
            // It was not asked for them.
            (Err(()), None) => Ok(()),
        }
    }

    async fn report(&self, observed: Observed) -> Result<(), FollowEnd> {
        let sent = self.observed.send(observed).await;
        sent.map_err(|_| FollowEnd::Unheard)
    }
}

/// Waits until the seats change; false if their watch has ended. Without one, waits for ever.
async fn changed(watch: &mut Option<SeatsWatch>) -> bool {
    match watch {
        Some(watch) => watch.changed().await,
        None => pending().await,
    }
}
