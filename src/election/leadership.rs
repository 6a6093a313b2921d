//! Leadership as a value: the right to act for one term, and to write in it.

use super::{claim::Claim, driver::Command};
use crate::{
    clock,
    protocol::{Failure, FencingToken, LossReason, Moment, Role, Status, Term},
    record::DoneRecord,
};
use tokio::sync::{mpsc, oneshot, watch};

/// The right to act, for one term.
///
/// Drop it when this process has stopped acting. Only then is the term handed over or released, and only then
/// can another candidate lead.
#[derive(Debug)]
pub struct Leadership {
    pub(super) term: Term,
    pub(super) claim: Claim,
    pub(super) status: watch::Receiver<Status>,
    pub(super) commands: mpsc::UnboundedSender<Command>,
}

impl Leadership {
    /// Returns the fencing token, which orders this term among all terms. Pass it along with each write.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.term.token
    }

    /// Returns the term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// Returns the moment by which this process must have stopped acting, unless the term is renewed before;
    /// `None` once the term is over.
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        // Without an election, nobody renews it.
        self.status.has_changed().ok()?;
        match self.status.borrow().role {
            Role::Leader { term, deadline } if term == self.term => Some(deadline),
            _ => None,
        }
    }

    /// Returns true iff this process leads at this instant, by the clock.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.deadline()
            .is_some_and(|deadline| clock::now() < deadline)
    }

    /// Waits until the term is over, and returns the reason. Then you must stop acting.
    ///
    /// Returns earlier than the deadline, by the configured grace, so that there is time to stop.
    ///
    /// Cancel safe.
    pub async fn lost(&mut self) -> LossReason {
        let own = self.term;
        let over = self
            .status
            .wait_for(|status| !matches!(status.role, Role::Leader { term, .. } if term == own))
            .await;
        match over.map(|status| status.role) {
            Ok(Role::Stopping { reason, .. }) => reason,
            _ => LossReason::Died,
        }
    }
}

/// Writes in a term.
impl Leadership {
    /// Writes a key in etcd, only if this term is not over. The write is one transaction, which requires that
    /// `leader/acting` is as it was written when this term began. So a leader that has lost its term cannot
    /// write, no matter how late its request arrives. The key is bound to no lease.
    ///
    /// This sends one request, and waits for its response for up to a fifth of the TTL (5 s at most).
    /// After [`PutError::Unknown`] or [`PutError::NotSent`], repeat the same call if you like: it writes
    /// the same value, or nothing if the term is over. To find out later whether the key was written,
    /// put [`token`](Self::token) into the value, and read the key.
    ///
    /// Not cancel safe: a request that was sent may still be carried out.
    ///
    /// # Errors
    /// If the term is over, the key belongs to the election, or etcd refuses or does not respond.
    pub async fn put_if_leading(
        &self,
        key: impl Into<String>,
        value: impl Into<Vec<u8>>,
    ) -> Result<(), PutError> {
        let (responded, response) = oneshot::channel();
        let put = Command::Put {
            term: self.term,
            key: key.into(),
            value: value.into(),
            responded,
        };
        // Without an election, nothing is sent.
        if self.commands.send(put).is_err() {
            return Err(PutError::TermOver);
        }
        let died = |_| Err(PutError::Died);
        response.await.unwrap_or_else(died)
    }

    /// Records that the job of [`Config::with_job`](crate::Config::with_job) is done, and ends the term.
    /// Before this call, you must have completed the job and stopped acting.
    ///
    /// The record is written only if the term is not over. The candidate renews the lease until a response
    /// shows the record, and repeats a request that gets no response. The response to any later request shows
    /// whether an earlier one was carried out. Once the job is recorded, the candidate withdraws. If it
    /// cannot be recorded, the candidate continues to take part.
    ///
    /// Cancelling the wait ends the term; the record may have been written.
    ///
    /// # Errors
    /// If the term ended before the job was recorded, or the candidate has no job. Then do not rely on the
    /// job: another candidate does it again, unless, after [`NotRecorded::Unknown`], there is a record.
    pub async fn complete(self) -> Result<DoneRecord, NotRecorded> {
        self.record_completion().await
    }

    /// Does the same, and leaves it to the caller to drop the leadership then.
    pub(crate) async fn record_completion(&self) -> Result<DoneRecord, NotRecorded> {
        let (recorded, outcome) = oneshot::channel();
        let completed = Command::Completed {
            term: self.term,
            recorded,
        };
        // If the driver is gone, the receiver says so.
        let _ = self.commands.send(completed);
        let record = outcome.await.unwrap_or(Err(NotRecorded::Unknown))?;
        Ok(DoneRecord::decode(&record.value))
    }

    /// Takes the leadership; returns false if it was taken back before.
    pub(super) fn is_taken(&self) -> bool {
        self.claim.take()
    }
}

/// Why [`Leadership::put_if_leading`] failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PutError {
    /// The term is over; nothing was written.
    #[error("the term is over; nothing was written")]
    TermOver,
    /// The key is the election's, or begins with the election's key and a `/`; nothing was written.
    #[error("the key belongs to the election; nothing was written")]
    ReservedKey,
    /// The etcd user may not write this key; nothing was written.
    #[error("etcd denied it: {0}; nothing was written")]
    Denied(Failure),
    /// There is no connection to etcd at present; nothing was written.
    #[error("etcd could not be asked: {0}; nothing was written")]
    NotSent(Failure),
    /// etcd did not respond, or has no room any more; the key may have been written.
    #[error("etcd has not confirmed it: {0}; the key may have been written")]
    Unknown(Failure),
    /// The election ended by itself; the key may have been written.
    #[error("the election ended by itself; the key may have been written")]
    Died,
}

/// Why [`Leadership::complete`] failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotRecorded {
    /// The term ended before the record was written: there is no record of this term.
    #[error("the term ended before the record was written")]
    TermOver,
    /// The candidate has no job: see [`Config::with_job`](crate::Config::with_job).
    #[error("the candidate has no job")]
    NoJob,
    /// The term ended, and etcd did not respond: the record may have been written.
    #[error("the term ended, and etcd has not said whether the record was written")]
    Unknown,
}

/// The end of a term.
impl Leadership {
    /// Ends the term, and waits until another candidate can lead. That is when the term is handed to the best
    /// candidate, when its keys are released, or when that has been tried for a TTL, because the lease has
    /// expired by then. Before this call, you must have stopped acting.
    ///
    /// Dropping the leadership does the same without waiting. The candidate continues to take part, and lets
    /// others go first for a fifth of the TTL.
    ///
    /// Cancelling the wait does not cancel the request: the term ends nevertheless, in the background.
    pub async fn resign(self) {
        let (resigned, released) = oneshot::channel();
        let resigning = Command::Resigned {
            term: self.term,
            resigned,
        };
        // If the driver is gone, nothing is left to release. It says so by dropping its end.
        if self.commands.send(resigning).is_ok() {
            let _ = released.await;
        }
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        // If the driver is gone, nothing is left to release.
        let _ = self.commands.send(Command::Stopped(self.term));
    }
}
