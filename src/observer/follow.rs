//! Carries out what the history asks for, on one endpoint after the other.

use super::{
    ElectionState, Observed,
    key_history::{KeyHistory, Next, Verdict},
};
use crate::{
    backoff::Jitter,
    clock,
    config::Cluster,
    etcd::{self, Connection, Keys, WatchEnd},
    protocol::{Failure, FailureKind, Rotation, View},
};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::sleep};

/// How long one question or a new connection may take.
const LIMIT: Duration = Duration::from_secs(2);
/// The longest back-off after every endpoint failed.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(1);
/// How often it is read what a dead watch would miss.
const READ_EVERY: Duration = Duration::from_secs(5);

/// Why an endpoint is given up.
enum End {
    Failed(Failure),
    /// Nobody listens any more.
    Unheard,
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

pub(super) struct Follower {
    cluster: Arc<Cluster>,
    keys: Arc<Keys>,
    history: Option<KeyHistory>,
    rotation: Rotation,
    tell: mpsc::Sender<Observed>,
}

impl Follower {
    pub fn new(
        cluster: Cluster,
        keys: Arc<Keys>,
        history: Option<KeyHistory>,
        tell: mpsc::Sender<Observed>,
    ) -> Self {
        Self {
            rotation: Rotation::new(cluster.endpoint_count()),
            cluster: Arc::new(cluster),
            keys,
            history,
            tell,
        }
    }

    /// Follows until nobody listens any more.
    pub async fn run(mut self) {
        let mut jitter = Jitter::new();
        loop {
            let Err(end) = Box::pin(self.follow(self.rotation.endpoint())).await;
            let End::Failed(failure) = end else { return };
            if self.rotation.record_failure(Some(failure)) {
                if let Some((endpoint, failure)) = self.rotation.take_report() {
                    let unanswered = Observed::Unanswered { endpoint, failure };
                    if self.tell(unanswered).await.is_err() {
                        return;
                    }
                }
                let at_most = self.rotation.back_off_limit(LONGEST_BACK_OFF);
                tokio::select! {
                    () = sleep(jitter.up_to(at_most)) => {}
                    () = self.tell.closed() => return,
                }
            }
        }
    }

    /// Follows on one endpoint, until that fails.
    async fn follow(&mut self, endpoint: usize) -> Result<Infallible, End> {
        let (cluster, keys) = (Arc::clone(&self.cluster), Arc::clone(&self.keys));
        let connection = etcd::connect(cluster, endpoint, keys, None, LIMIT).await?;
        let mut compacted = None;
        loop {
            let view = connection.read(LIMIT).await?;
            let ahead = self.take(view, compacted).await?;
            compacted = self.watch(&connection, endpoint, ahead).await?;
        }
    }

    /// Takes in a read that comes before a watch; returns it if the watch has to catch up with it.
    async fn take(&mut self, view: View, compacted: Option<i64>) -> Result<Option<View>, End> {
        if let Some(history) = &mut self.history {
            let verdict = history.compare(&view);
            let after = history.told_up_to();
            // Where the keys still stand as they were written, nothing was missed.
            let is_gap = compacted.is_some_and(|revision| after + 1 < revision);
            match verdict {
                Verdict::WentBack => self.tell(Observed::HistoryWentBack).await?,
                _ if is_gap => self.tell(Observed::Gap { after }).await?,
                Verdict::Ahead => return Ok(Some(view)),
                Verdict::Same => return Ok(None),
            }
        }
        let situation = ElectionState::from(&view);
        self.history = Some(KeyHistory::new(view));
        self.tell(Observed::State(situation)).await?;
        Ok(None)
    }

    /// Watches, from where it was told last, until it takes a new read: then returns the revision
    /// up to which etcd was compacted, if that is why.
    async fn watch(
        &mut self,
        connection: &Connection,
        endpoint: usize,
        mut ahead: Option<View>,
    ) -> Result<Option<i64>, End> {
        let Some(history) = &mut self.history else {
            return Ok(None);
        };
        history.reconnected();
        let from_revision = history.told_up_to() + 1;
        let mut watch = connection.watch(from_revision, LIMIT).await?;
        let mut next_read = clock::now() + READ_EVERY;
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
                    if watch.is_open() && self.rotation.record_success() {
                        self.tell(Observed::AnsweredAgain { endpoint }).await?;
                    }
                }
                () = sleep(owed_by.unwrap_or(next_read).since(clock::now())) => {
                    if owed_by.is_some() {
                        let late = "the watch does not deliver what etcd holds";
                        return Err(Failure::new(FailureKind::TimedOut, late).into());
                    }
                    let view = connection.read(LIMIT).await?;
                    next_read = clock::now() + READ_EVERY;
                    match history.compare(&view) {
                        Verdict::Same => {}
                        Verdict::Ahead => ahead = Some(view),
                        Verdict::WentBack => return Ok(None),
                    }
                }
                () = self.tell.closed() => return Err(End::Unheard),
            }
        }
    }

    /// Tells what is certain; true if the watches owe the rest.
    async fn catch_up(&mut self, connection: &Connection) -> Result<bool, End> {
        while let Some(history) = &mut self.history {
            match history.next() {
                Next::Tell(situation) => self.tell(Observed::State(situation)).await?,
                Next::Read { key, revision } => {
                    let entry = connection.read_at(key, revision, LIMIT).await?;
                    history.settle(key, revision, entry.as_ref());
                }
                Next::Wait => return Ok(true),
                Next::Rest => break,
            }
        }
        Ok(false)
    }

    async fn tell(&self, observed: Observed) -> Result<(), End> {
        let told = self.tell.send(observed).await;
        told.map_err(|_| End::Unheard)
    }
}
