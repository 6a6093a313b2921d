//! Writes the history: one transaction when a term begins, and one when its holder has
//! stopped acting.

use super::{Denial, KnownTerms, Note, TermEnd};
use crate::{
    etcd::Connection,
    printable::Printable,
    protocol::{Entry, Failure, FailureKind, Term},
    record::TermRecord,
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

/// How often a request is sent at most.
const ATTEMPTS: usize = 5;

/// A term of this candidate, as it was recorded.
struct Recorded {
    record: TermRecord,
    /// The value that was sent when the term began.
    value: String,
    /// The revision that wrote it; `None` if it is not known to be written.
    mod_revision: Option<i64>,
}

/// Why a request was given up, and why others are.
struct GivenUp;

pub(super) struct Writer {
    notes: mpsc::UnboundedReceiver<Box<Note>>,
    /// The note that interrupted the last wait.
    next: Option<Box<Note>>,
    /// Whether another term began, and the terms were not read since its first moments.
    is_behind: bool,
    connections: watch::Receiver<Option<Box<Connection>>>,
    known: watch::Sender<KnownTerms>,
    denial: Arc<Denial>,
    limit: Duration,
    recorded: Option<Recorded>,
    /// Whether the etcd user may not read or write the history.
    is_denied: bool,
}

impl Writer {
    pub fn new(
        notes: mpsc::UnboundedReceiver<Box<Note>>,
        connections: watch::Receiver<Option<Box<Connection>>>,
        known: watch::Sender<KnownTerms>,
        denial: Arc<Denial>,
        limit: Duration,
    ) -> Self {
        Self {
            notes,
            next: None,
            is_behind: false,
            connections,
            known,
            denial,
            limit,
            recorded: None,
            is_denied: false,
        }
    }

    /// Runs until the candidate takes no part any more, or is known to have no rights.
    pub async fn run(mut self) {
        while !self.is_denied
            && let Some(note) = self.next_note().await
        {
            // In boxes, so that this task is small while it waits for the next note. What was given up is not written.
            let _ = match *note {
                Note::Began(term, record) => Box::pin(self.begin(term, record)).await,
                Note::Ended(end) => Box::pin(self.end(end)).await,
                Note::Follows => Box::pin(self.follow()).await,
            };
        }
    }

    async fn next_note(&mut self) -> Option<Box<Note>> {
        match self.next.take() {
            Some(next) => Some(next),
            None if self.is_behind => Some(Box::new(Note::Follows)),
            None => self.notes.recv().await,
        }
    }

    /// Records that a term has begun, and deletes the oldest records.
    async fn begin(&mut self, term: Term, record: TermRecord) -> Result<(), GivenUp> {
        self.is_behind = false;
        let value = record.encode();
        self.recorded = Some(Recorded {
            record,
            value: value.clone(),
            mod_revision: None,
        });
        for _ in 0..ATTEMPTS {
            let connection = self.connection().await?;
            let limit = self.limit;
            let attempt = async {
                let mut old = connection.recorded_terms(limit).await?;
                old.truncate((old.len() + 1).saturating_sub(TermRecord::KEPT));
                connection.put_term(term, &value, &old, limit).await
            };
            match attempt.await {
                Ok(found) => {
                    if let Some(recorded) = &mut self.recorded {
                        recorded.mod_revision = revision_of(found.as_ref(), &value);
                    }
                    // The leader before may be recording the end of its term just now.
                    self.is_behind = true;
                    return self.read().await;
                }
                Err(failure) => self.wait_after(&failure).await?,
            }
        }
        Err(GivenUp)
    }

    /// Records how a term has ended.
    async fn end(&mut self, end: TermEnd) -> Result<(), GivenUp> {
        let token = end.term.token;
        let recorded = self
            .recorded
            .take_if(|recorded| recorded.record.token == token);
        let Some(Recorded {
            record,
            value: begun,
            mut mod_revision,
        }) = recorded
        else {
            return Ok(());
        };
        let record = TermRecord {
            until: Some(end.at),
            ended: Some(end.reason.to_string()),
            ended_as: Some(end.reason.as_str().to_owned()),
            ..record
        };
        let value = record.encode();
        for _ in 0..ATTEMPTS {
            let present = self.connections.borrow_and_update().clone();
            let connection = match present.or_else(|| end.connection.clone()) {
                Some(connection) => connection,
                None => self.connection().await?,
            };
            let writing = connection.replace_term(token, mod_revision, &value, self.limit);
            match writing.await {
                Ok(found) if revision_of(found.as_ref(), &value).is_some() => {
                    self.replace_known(TermRecord::decode(token, value.as_bytes()));
                    return Ok(());
                }
                // An earlier request was carried out although its response was lost.
                Ok(found) => match revision_of(found.as_ref(), &begun) {
                    Some(revision) => mod_revision = Some(revision),
                    // Somebody has changed it by hand.
                    None => return Err(GivenUp),
                },
                Err(failure) => self.wait_after(&failure).await?,
            }
        }
        Err(GivenUp)
    }

    /// Reads the terms a while after another one began.
    async fn follow(&mut self) -> Result<(), GivenUp> {
        self.is_behind = false;
        // The leader is recording its term just now, and the one before is recording the end of its own.
        let mut followed = self.pause().await;
        if followed.is_ok() {
            followed = self.read().await;
        }
        // What interrupted this, such as the end of this candidate's own term, comes first.
        self.is_behind |= followed.is_err() && self.next.is_some();
        followed
    }

    /// Reads the terms if anyone wants to know them.
    async fn read(&mut self) -> Result<(), GivenUp> {
        if self.known.receiver_count() == 0 {
            return Ok(());
        }
        for _ in 0..ATTEMPTS {
            let connection = self.connection().await?;
            match connection.terms(self.limit).await {
                Ok(terms) => {
                    self.known.send_replace(Some(terms.into()));
                    return Ok(());
                }
                Err(failure) => self.wait_after(&failure).await?,
            }
        }
        Err(GivenUp)
    }

    fn replace_known(&self, record: TermRecord) {
        self.known.send_if_modified(|known| {
            let Some(terms) = known else { return false };
            let Some(place) = terms.iter().position(|term| term.token == record.token) else {
                return false;
            };
            let mut changed = terms.to_vec();
            changed[place] = record;
            *terms = changed.into();
            true
        });
    }

    /// Returns a connection, once there is one.
    async fn connection(&mut self) -> Result<Box<Connection>, GivenUp> {
        loop {
            if let Some(connection) = self.connections.borrow_and_update().clone() {
                return Ok(connection);
            }
            tokio::select! {
                interruption = interruption(&mut self.notes, &mut self.is_behind) => {
                    self.next = interruption;
                    return Err(GivenUp);
                }
                changed = self.connections.changed() => changed.map_err(|_| GivenUp)?,
            }
        }
    }

    /// Waits before a request is sent again: until there is another connection, or for a limit.
    async fn wait_after(&mut self, failure: &Failure) -> Result<(), GivenUp> {
        let reason = Printable(failure.message.as_bytes());
        if failure.kind == FailureKind::Denied {
            self.disable(failure);
            return Err(GivenUp);
        }
        tracing::debug!(%reason, "The history of terms could not be read or written: {reason}.");
        self.pause().await
    }

    /// Waits for a limit, or until there is another connection.
    async fn pause(&mut self) -> Result<(), GivenUp> {
        tokio::select! {
            interruption = interruption(&mut self.notes, &mut self.is_behind) => {
                self.next = interruption;
                Err(GivenUp)
            }
            changed = self.connections.changed() => changed.map_err(|_| GivenUp),
            () = sleep(self.limit) => Ok(()),
        }
    }

    /// Gives up the history for good. Here, and only here, it is known that the etcd user lacks the rights.
    fn disable(&mut self, failure: &Failure) {
        self.is_denied = true;
        let reason = Printable(failure.message.as_bytes());
        let key = Printable(self.denial.leader_key.as_bytes());
        if self.denial.is_reported.swap(true, Ordering::Relaxed) {
            tracing::debug!(%reason, "The etcd role may not read and write '{key}/history/' either.");
            return;
        }
        tracing::info!(
            %reason,
            "The etcd role may not read and write '{key}/history/': this replica keeps no history. Grant \
             readwrite on the prefix '{key}/' and restart the replica."
        );
    }
}

/// Waits for a note that counts for more than what is being written; `None` if none comes any more.
///
/// Cancel safe.
async fn interruption(
    notes: &mut mpsc::UnboundedReceiver<Box<Note>>,
    is_behind: &mut bool,
) -> Option<Box<Note>> {
    loop {
        match notes.recv().await {
            Some(note) if matches!(*note, Note::Follows) => *is_behind = true,
            note => return note,
        }
    }
}

/// Returns the revision that wrote a record, if it holds this value.
fn revision_of(found: Option<&Entry>, value: &str) -> Option<i64> {
    let found = found.filter(|found| *found.value == *value.as_bytes());
    found.map(|found| found.mod_revision)
}
