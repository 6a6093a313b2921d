//! The asynchronous API: take part in an election, and hold leadership as a value.

mod driver;
mod offer;

use crate::{
    clock,
    config::Config,
    protocol::{Event, FencingToken, LossReason, Moment, Role, Status, Term},
};
use driver::{Command, Driver};
use offer::Offer;
use std::io;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

/// An election, to take part in.
#[derive(Debug)]
pub struct Election {
    config: Config,
    events: Option<mpsc::UnboundedSender<Event>>,
}

impl Election {
    /// Creates an election from its configuration; nothing is asked of etcd yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            events: None,
        }
    }

    /// Returns a stream of what happens in this election. Events wait until they are read or the stream
    /// is dropped; a second call ends the first one's stream.
    #[must_use]
    pub fn events(&mut self) -> Events {
        let (events, received) = mpsc::unbounded_channel();
        self.events = Some(events);
        Events(received)
    }

    /// Takes part, from now on until the candidate withdraws or is dropped.
    ///
    /// Must be called within a tokio runtime that drives I/O and time. Be ready to
    /// act: call [`Candidate::elected`] and hold what it returns for as long as you act. A leadership
    /// that is not taken within a TTL is taken back, and another candidate leads.
    ///
    /// # Errors
    /// If the system gives no timer. An unreachable etcd is not an error: the
    /// candidate retries until it responds.
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
            driver: tokio::spawn(driver.run()),
        })
    }
}

/// What happens in an election, in order and without gaps.
#[derive(Debug)]
pub struct Events(mpsc::UnboundedReceiver<Event>);

impl Events {
    /// Waits for the next event; `None` once the candidate takes no part any more.
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}

/// A participant in an election. Dropping it withdraws it; that goes on in the background.
#[derive(Debug)]
pub struct Candidate {
    commands: mpsc::UnboundedSender<Command>,
    leaderships: mpsc::UnboundedReceiver<Leadership>,
    status: watch::Receiver<Status>,
    driver: JoinHandle<io::Result<()>>,
}

impl Candidate {
    /// Waits until this candidate leads; `None` once it takes no part any more.
    ///
    /// Cancel safe: a leadership that began meanwhile is returned by the next call, unless that
    /// comes more than a TTL later.
    pub async fn elected(&mut self) -> Option<Leadership> {
        loop {
            let leadership = self.leaderships.recv().await?;
            if leadership.offer.take() {
                return Some(leadership);
            }
        }
    }

    /// Returns the status, now and from now on. [`Leader::of`](crate::observer::Leader::of) finds in it
    /// who leads and how to reach it.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Returns a handle that tells whether the election's loop is stuck, for watchdogs.
    #[must_use]
    pub fn liveness(&self) -> Liveness {
        Liveness(self.commands.downgrade())
    }

    /// Asks to take part no more: leadership is lost with [`LossReason::Withdrawn`], and once it has been
    /// dropped, the lease is revoked. [`withdraw`](Self::withdraw) waits for that.
    pub fn begin_withdrawal(&self) {
        // If the driver is gone, so is the candidate.
        let _ = self.commands.send(Command::Withdraw);
    }

    /// Withdraws, and waits until this candidate takes no part any more: until every leadership
    /// of it has been dropped and its lease is revoked, or that has been tried for long enough.
    ///
    /// Cancelling the wait does not take the request back: the candidate withdraws nevertheless, in the
    /// background.
    ///
    /// # Errors
    /// If the election ended by itself, which is a bug in this program or of its system.
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

/// Tells whether the loop that runs an election is stuck.
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

/// The right to act, for one term.
///
/// Dropping it says that what acted has stopped: only then is the lease revoked, and only then can
/// another candidate lead.
#[derive(Debug)]
pub struct Leadership {
    term: Term,
    offer: Offer,
    status: watch::Receiver<Status>,
    commands: mpsc::UnboundedSender<Command>,
}

impl Leadership {
    /// Returns the number that orders this term among all: give it along with whatever you write.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.term.token
    }

    /// Returns the term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// Returns the moment by which this process must have stopped acting, unless renewed before;
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

    /// Waits until the term is over, and returns why. What acts must stop then.
    ///
    /// Returns the configured grace before the deadline, so that there is time to stop.
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

impl Leadership {
    /// Ends the term, and waits until the lease is revoked, so that another candidate can lead; or until
    /// that has been tried for a TTL, after which the lease has expired. What acts must have stopped.
    ///
    /// Dropping does the same without waiting. The candidate continues to take part, and lets others be
    /// first for a fifth of the TTL.
    ///
    /// Cancelling the wait does not take the request back: the term ends nevertheless, in the
    /// background.
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
