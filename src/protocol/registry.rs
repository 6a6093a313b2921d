//! Rule 22, the candidate's own seat: when it takes a seat, when it writes the seat again, and what it
//! knows about all seats.

use super::{
    Action, CallId, Event, Failure, FailureKind, FencingToken, LeaseId, Machine, Moment, Reads,
    Seat, SeatNumber, Seats, State, Timing, Transaction, View, access::Access, calls::CallKind,
};
use std::{sync::Arc, time::Duration};

/// What a candidate knows of the seats, and what it does about its own.
#[derive(Debug, Default)]
pub(super) struct Registry {
    shown: Option<Shown>,
    /// Whether the response to a try has shown the seats since the lease was granted. Before, it takes no
    /// seat, so that its first campaign comes first.
    is_shown_to_lease: bool,
    /// How many tries in a row have shown a free seat since one showed that all were taken; `None` if none did.
    free_since_full: Option<u32>,
    /// The request under way that writes its seat.
    write: Option<Write>,
    /// Whether the seat is to be written again though it says the same as far as the machine knows.
    is_outdated: bool,
    /// Before this moment, it does not write its seat.
    next: Moment,
    /// How many requests to write its seat have not done so, one after the other.
    vain: u32,
    access: Access,
    is_denial_reported: bool,
}

/// A request that writes the seat.
#[derive(Debug)]
struct Write {
    call: CallId,
    /// Until when it is waited for.
    until: Moment,
    /// Whether the seat was outdated.
    was_outdated: bool,
}

/// The seats, as of a revision.
#[derive(Debug)]
struct Shown {
    seats: Arc<Seats>,
    revision: i64,
}

impl Registry {
    /// Begins anew with a lease, which has no seat.
    pub fn begin(&mut self) {
        self.is_shown_to_lease = false;
        self.write = None;
        self.next = Moment::default();
        self.vain = 0;
        self.is_outdated = false;
    }

    /// Takes in that a request to write the seat may not have been carried out.
    fn defer(&mut self, write: Option<Write>, next: Moment) {
        self.next = next;
        self.is_outdated |= write.is_some_and(|write| write.was_outdated);
    }

    /// Takes in that what the candidate says in its seat is another thing now.
    pub fn outdate(&mut self) {
        self.is_outdated = true;
    }

    /// Returns what a try reads.
    pub fn reads(&self) -> Reads {
        if self.access.is_open() {
            Reads::KeysAndSeats
        } else {
            Reads::Keys
        }
    }

    /// Rule 33: returns true iff all seats are taken, none by the candidate with this lease, and one of the others may
    /// follow the leader.
    pub fn is_left_out(&self, lease: LeaseId) -> bool {
        let may_follow =
            |seat: &Seat| seat.entry.lease.is_some() && seat.is_healthy && seat.acts.is_none();
        self.shown.as_ref().is_some_and(|Shown { seats, .. }| {
            let is_full = seats.taken.len() == SeatNumber::COUNT;
            is_full && seats.of(lease).is_none() && seats.taken.iter().any(may_follow)
        })
    }

    /// Returns after how long a follower with this lease sends its next try, `every` at most.
    ///
    /// Candidates choose different times. After a change that all of them saw, their requests would come at the same
    /// time for ever, and those without a seat would see at once that one is free again.
    pub fn pace(&self, lease: LeaseId, every: Duration) -> Duration {
        let part = u32::try_from(lease.get() % 64).unwrap_or(0);
        if self.is_left_out(lease) {
            let every = every.min(Timing::LONGEST_LIMIT);
            every / 2 + every / 128 * part
        } else {
            every / 640 * (640 - part)
        }
    }

    /// Takes in the seats as of a revision, unless what is known is newer.
    pub fn show(&mut self, seats: Arc<Seats>, revision: i64) {
        if self
            .shown
            .as_ref()
            .is_some_and(|shown| revision < shown.revision)
        {
            return;
        }
        let seats = match &self.shown {
            Some(shown) if shown.seats == seats => Arc::clone(&shown.seats),
            _ => seats,
        };
        self.shown = Some(Shown { seats, revision });
    }

    /// Takes in the seats as the response to a try shows them.
    pub fn show_in_try(&mut self, seats: Arc<Seats>, revision: i64) {
        self.is_shown_to_lease = true;
        if seats.taken.len() == SeatNumber::COUNT {
            self.free_since_full = Some(0);
        } else if let Some(tries) = &mut self.free_since_full {
            *tries = tries.saturating_add(1);
        }
        self.show(seats, revision);
    }

    /// Forgets the seats: they are those of another history.
    pub fn forget(&mut self) {
        self.shown = None;
        self.is_shown_to_lease = false;
    }

    /// Returns the seats as last shown.
    pub fn seats(&self) -> Option<Arc<Seats>> {
        let shown = self.shown.as_ref()?;
        (self.access.is_open()).then(|| Arc::clone(&shown.seats))
    }

    /// Returns true iff the seats and `KEY/next` are known as of this revision or a later one.
    pub fn is_known_since(&self, revision: i64) -> bool {
        self.shown
            .as_ref()
            .is_some_and(|shown| shown.revision >= revision)
    }

    pub fn is_writing(&self, call: CallId) -> bool {
        matches!(&self.write, Some(write) if write.call == call)
    }

    /// Takes in that etcd permits a try, which has shown the seats or not: if one that reads them was denied
    /// before, the seats are.
    pub fn permit(&mut self, now: Moment, shows_seats: bool) -> Option<Event> {
        let failure = self.access.permit(now, shows_seats)?;
        self.deny(now, failure)
    }

    fn deny(&mut self, now: Moment, failure: Failure) -> Option<Event> {
        self.access.deny(now);
        self.shown = None;
        let is_news = !std::mem::replace(&mut self.is_denial_reported, true);
        is_news.then_some(Event::SeatsDenied { failure })
    }

    /// Returns the transaction that makes the seat of a lease say what it should, if one is needed.
    fn transaction(
        &self,
        lease: LeaseId,
        acts: Option<FencingToken>,
        is_healthy: bool,
    ) -> Option<Transaction> {
        let seats = &self.shown.as_ref()?.seats;
        match seats.of(lease) {
            Some(seat)
                if seat.acts == acts && seat.is_healthy == is_healthy && !self.is_outdated =>
            {
                None
            }
            Some(Seat { number, entry, .. }) => Some(Transaction::rewrite_seat(
                *number,
                entry.mod_revision,
                lease,
                acts,
                is_healthy,
            )),
            None => {
                let is_taken =
                    |number: &SeatNumber| seats.taken.iter().any(|seat| seat.number == *number);
                // Hundreds of others may wait for a seat that is free again. So its first takers are those whose lease has
                // its number, and all others take it if their next try shows it free too. So does a former leader: when
                // it may write again, somebody else has long taken the seat that it gave up.
                let waits = acts.is_none() && self.free_since_full == Some(1);
                let own = usize::try_from(lease.get()).unwrap_or(0) % SeatNumber::COUNT;
                let free: Vec<_> = SeatNumber::all()
                    .enumerate()
                    .filter(|(place, number)| !is_taken(number) && (!waits || *place == own))
                    .map(|(_, number)| number)
                    .collect();
                // Candidates that start together all try the first one. After that, they try different ones.
                let place = if self.vain == 0 {
                    0
                } else {
                    usize::try_from(lease.get()).unwrap_or(0) % free.len().max(1)
                };
                let seat = *free.get(place)?;
                Some(Transaction::take_seat(seat, lease, acts, is_healthy))
            }
        }
    }
}

impl Machine {
    /// Rule 22: takes in that etcd denies a try that reads the seats: the next one does without, at once.
    /// Returns true iff so.
    pub(super) fn deny_seats(&mut self, id: CallId, failure: &Failure) -> bool {
        let Some(call) = self.calls.get(id) else {
            return false;
        };
        let CallKind::Try { transaction, .. } = call.kind else {
            return false;
        };
        if failure.kind != FailureKind::Denied {
            return false;
        }
        if transaction.reads != Reads::KeysAndSeats {
            // It denies everything.
            self.registry.access.resume();
            return false;
        }
        self.registry.access.suspend(failure);
        if transaction.is_campaign() {
            // It was not carried out.
            self.open_campaigns = self.open_campaigns.saturating_sub(1);
            self.campaign_again(&transaction);
        }
        if self.calls.finish(id).is_some() {
            self.calls.next_now();
        } else {
            self.calls.finish_overdue(id);
        }
        true
    }

    /// Starts what the own seat needs, if anything.
    pub(super) fn advance_seat(&mut self, now: Moment) {
        let (lease, acts) = match self.state {
            State::Follower { candidacy, .. } => (candidacy.lease, None),
            State::Leader(tenure) => (tenure.lease, Some(tenure.term.token)),
            // One that is elected is about to write that it leads.
            State::Unleased { .. }
            | State::Elected { .. }
            | State::Stopping { .. }
            | State::Withdrawn => return,
        };
        let registry = &self.registry;
        let may_write = registry.access.is_open()
            && registry.is_shown_to_lease
            && registry.write.is_none()
            && now >= registry.next
            && !self.holds_off(now)
            && !self.calls.is_down();
        if !may_write {
            return;
        }
        if let Some(transaction) = registry.transaction(lease.id, acts, !self.stands_back) {
            let limit = lease.timing.limit();
            let call = self.calls.new_id();
            self.registry.write = Some(Write {
                call,
                until: now + limit,
                was_outdated: std::mem::take(&mut self.registry.is_outdated),
            });
            self.actions.push_back(Action::Execute {
                call,
                transaction,
                limit,
            });
        }
    }

    /// Takes in the outcome of writing the own seat.
    pub(super) fn handle_seat(&mut self, now: Moment, result: Result<View, Failure>) {
        let write = self.registry.write.take();
        let next = now + self.timing().limit();
        let is_of_this_history =
            |known: &super::Known, view: &View| known.cluster_id == view.cluster_id;
        match result {
            Ok(view) => {
                let known = self.known.as_ref();
                if let (Some(seats), true) = (
                    view.seats.clone(),
                    known.is_some_and(|known| is_of_this_history(known, &view)),
                ) {
                    self.registry.show(seats, view.revision);
                }
                let (lease, shown) = (self.state.lease(), self.registry.shown.as_ref());
                let has_seat = (lease.zip(shown))
                    .is_some_and(|(lease, shown)| shown.seats.of(lease.id).is_some());
                self.registry.vain = if has_seat { 0 } else { self.registry.vain + 1 };
                // Another candidate was faster; this one tries the next seat at once, and then takes
                // its time.
                self.registry.next = if self.registry.vain <= 1 { now } else { next };
            }
            Err(failure) if failure.kind == FailureKind::Denied => {
                self.events.extend(self.registry.deny(now, failure));
            }
            Err(_) => self.registry.defer(write, next),
        }
    }

    /// Lets the request to write the own seat run out, and the time for which the seats count as denied.
    pub(super) fn expire_seat(&mut self, now: Moment) {
        self.registry.access.expire(now);
        if matches!(&self.registry.write, Some(write) if now >= write.until) {
            self.interrupt_seat(now);
        }
    }

    /// Gives up waiting for the request to write the own seat: it may still be carried out, so that a later
    /// response shows what it did.
    pub(super) fn interrupt_seat(&mut self, now: Moment) {
        let next = now + self.timing().limit();
        let write = self.registry.write.take();
        if write.is_some() {
            self.registry.defer(write, next);
        }
    }

    /// Returns when something about the own seat runs out. The next request is sent when a try shows the
    /// seats.
    pub(super) fn seat_timeout(&self) -> Option<Moment> {
        self.registry.write.as_ref().map(|write| write.until)
    }
}
