//! The asynchronous API: take part in an election, and hold leadership as a value.

mod claim;
mod driver;
mod history;
mod leadership;

pub use leadership::{Leadership, NotRecorded, PutError};

use crate::{
    candidates::Candidates,
    config::Config,
    protocol::{Event, FencingToken, Presence, Status},
    record::TermRecord,
};
use driver::{Command, Driver};
use history::KnownTerms;
use std::{io, sync::Arc};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

/// An election in which this process can take part.
#[derive(Debug)]
pub struct Election {
    config: Config,
    events: Option<mpsc::UnboundedSender<Event>>,
}

impl Election {
    /// Creates an election from its configuration. This does not send anything to etcd yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            events: None,
        }
    }

    /// Returns a stream of what happens in this election. Events wait until they are read or the stream is dropped. A
    /// second call ends the stream of the first call.
    #[must_use]
    pub fn events(&mut self) -> Events {
        let (events, received) = mpsc::unbounded_channel();
        self.events = Some(events);
        Events(received)
    }

    /// Takes part in the election until the candidate withdraws or is dropped.
    ///
    /// Must be called within a tokio runtime that drives I/O and time. Be ready to act: call [`Candidate::elected`],
    /// and hold the returned leadership for as long as you act. If you do not call it within a TTL after this candidate
    /// was elected, the leadership is taken back, and another candidate leads.
    ///
    /// # Errors
    /// If the system cannot create a timer. An unreachable etcd is not an error: the candidate retries until it
    /// responds.
    pub fn join(self) -> io::Result<Candidate> {
        let (commands, commands_received) = mpsc::unbounded_channel();
        let (leaderships, leaderships_received) = mpsc::unbounded_channel();
        let (driver, status) = Driver::new(
            self.config,
            commands.downgrade(),
            commands_received,
            leaderships,
            self.events,
        )?;
        Ok(Candidate {
            commands,
            leaderships: leaderships_received,
            status,
            terms: driver.history.known(),
            driver: tokio::spawn(driver.run()),
        })
    }
}

/// What happens in an election, in order and without gaps.
#[derive(Debug)]
pub struct Events(mpsc::UnboundedReceiver<Event>);

impl Events {
    /// Waits for the next event; `None` once the candidate no longer takes part.
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}

/// A participant in an election. If it is dropped, it withdraws in the background.
#[derive(Debug)]
pub struct Candidate {
    commands: mpsc::UnboundedSender<Command>,
    leaderships: mpsc::UnboundedReceiver<Leadership>,
    status: watch::Receiver<Status>,
    terms: watch::Sender<KnownTerms>,
    driver: JoinHandle<io::Result<()>>,
}

impl Candidate {
    /// Waits until this candidate leads; `None` once it no longer takes part.
    ///
    /// Cancel safe: the next call returns a leadership that began meanwhile, unless the call comes more than a TTL
    /// later.
    pub async fn elected(&mut self) -> Option<Leadership> {
        loop {
            let leadership = self.leaderships.recv().await?;
            if leadership.is_taken() {
                return Some(leadership);
            }
        }
    }

    /// Returns a channel with the present status and each later one. [`Leader::of`](crate::observer::Leader::of) finds
    /// the leader in a status, and how to reach it.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Returns the listed candidates, including this one, as last read; `None` if they are not known, or the etcd role
    /// may not read them. [`Candidates::of`] finds them in a later status.
    #[must_use]
    pub fn candidates(&self) -> Option<Candidates> {
        Candidates::of(&self.status.borrow())
    }

    /// Returns the records of the last terms, the oldest first, as this candidate last read them. It reads them when it
    /// begins to lead, and soon after it or another candidate has begun to lead. `None` before the first read, and if
    /// the etcd user may not read them.
    #[must_use]
    pub fn terms(&self) -> watch::Receiver<Option<Arc<[TermRecord]>>> {
        self.terms.subscribe()
    }

    /// Returns a handle that shows whether the election's loop is stuck, for watchdogs.
    #[must_use]
    pub fn liveness(&self) -> Liveness {
        Liveness(self.commands.downgrade())
    }

    /// Stands back: this candidate does not campaign, and nobody hands a term to it. If it leads, its leadership is
    /// lost with [`LossReason::StoodBack`](crate::LossReason::StoodBack), and is handed to another candidate. The
    /// candidate stays listed, with the reason. Another call while it stands back changes the reason, which costs a
    /// write.
    pub fn stand_back(&self, reason: impl Into<String>) {
        // If the driver is gone, so is the candidate.
        let _ = self.commands.send(Command::StandBack(reason.into()));
    }

    /// Ends what [`stand_back`](Self::stand_back) began: this candidate campaigns at once if nobody leads.
    pub fn stand_forward(&self) {
        let _ = self.commands.send(Command::StandForward);
    }

    /// Reports what is known, from a source other than etcd, about the leader of the term with this token. The source
    /// can be a connection to the leader. If the leader's term has a fail-over limit, [`Presence::Broken`] makes this
    /// candidate challenge the leader. A wrong suspicion costs the leader a small write.
    ///
    /// Without a report of [`Presence::Connected`], this candidate asks etcd about the leader's lease twice per limit.
    pub fn report_presence(&self, of: FencingToken, presence: Presence) {
        // If the driver is gone, so is the candidate.
        let _ = self.commands.send(Command::Presence(of, presence));
    }

    /// Begins to withdraw: leadership is lost with [`LossReason::Withdrawn`](crate::LossReason::Withdrawn). Once the
    /// leadership has been dropped, the lease is revoked. [`withdraw`](Self::withdraw) waits for that.
    ///
    /// Call this before you drop a leadership that you hold. If you drop the leadership first, the candidate takes part
    /// in the next election until it withdraws, which costs etcd another lease.
    pub fn begin_withdrawal(&self) {
        // If the driver is gone, so is the candidate.
        let _ = self.commands.send(Command::Withdraw);
    }

    /// Withdraws, and waits until this candidate no longer takes part. That is when all its leaderships have been
    /// dropped and its lease is revoked, or when revoking has been tried for long enough. It also waits until the end
    /// of its last term is recorded, for at most a fifth of the TTL (and at most 5 s).
    ///
    /// Cancelling the wait does not cancel the request: the candidate withdraws nevertheless, in the background.
    ///
    /// # Errors
    /// If the election ended by itself. That is a bug in this program or in its system.
    pub async fn withdraw(mut self) -> io::Result<()> {
        self.begin_withdrawal();
        // One that nobody has taken would never be dropped.
        self.leaderships.close();
        while self.leaderships.try_recv().is_ok() {}
        (&mut self.driver)
            .await
            .unwrap_or_else(|error| Err(io::Error::other(format!("the election died: {error}"))))
    }
}

/// Shows whether the loop that runs an election is stuck.
#[derive(Clone, Debug)]
pub struct Liveness(mpsc::WeakUnboundedSender<Command>);

impl Liveness {
    /// Waits until the loop has responded; false if the election has ended. While the loop is stuck, this
    /// waits.
    ///
    /// Cancel safe.
    pub async fn check(&self) -> bool {
        let Some(commands) = self.0.upgrade() else {
            return false;
        };
        let (responded, response) = oneshot::channel();
        // If the loop has ended, nothing responds.
        let _ = commands.send(Command::Respond(responded));
        drop(commands);
        response.await.is_ok()
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        self.begin_withdrawal();
    }
}
