//! Rule 22, the candidate's own seat: when it takes one, when it writes it again, and what is known of
//! all seats.

use super::{
    Action, CallId, Event, Failure, FailureKind, FencingToken, LeaseId, Machine, Moment, Reads,
    Seat, SeatNumber, Seats, State, Transaction, View, calls::CallKind,
};
use std::sync::Arc;

/// What a candidate knows of the seats, and what it does about its own.
#[derive(Debug, Default)]
pub(super) struct Registry {
    shown: Option<Shown>,
    /// The lease of its seat, as soon as a response has shown the seats since that was granted: never
    /// before the first campaign was sent.
    lease: Option<LeaseId>,
    is_shown_to_lease: bool,
    /// The request under way that writes its seat, and until when it is waited for.
    write: Option<(CallId, Moment)>,
    /// Before this moment, it does not write its seat.
    next: Moment,
    /// How many requests to write its seat have not done so, one after the other.
    vain: u32,
    access: Access,
    is_denial_reported: bool,
}

/// The seats, as of a revision.
#[derive(Debug)]
struct Shown {
    seats: Arc<Seats>,
    revision: i64,
}

/// Whether etcd permits reading and writing the seats.
#[derive(Debug, Default)]
enum Access {
    /// It does, as far as is known.
    #[default]
    Open,
    /// It has denied a request that reads them; perhaps because it denies everything.
    Suspended(Failure),
    /// It does not.
    Denied,
}

impl Registry {
    /// Begins anew with a lease, which has no seat. What was denied before may be permitted by now.
    pub fn begin(&mut self, lease: LeaseId) {
        self.lease = Some(lease);
        self.is_shown_to_lease = false;
        self.write = None;
        self.next = Moment::default();
        self.vain = 0;
        self.access = Access::Open;
    }

    /// Returns what a try reads.
    pub fn reads(&self) -> Reads {
        match self.access {
            Access::Open => Reads::KeysAndSeats,
            Access::Suspended(_) | Access::Denied => Reads::Keys,
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
        matches!(self.access, Access::Open).then(|| Arc::clone(&shown.seats))
    }

    /// Returns true iff the seats and `KEY/next` are known as of this revision or a later one.
    pub fn is_known_since(&self, revision: i64) -> bool {
        self.shown
            .as_ref()
            .is_some_and(|shown| shown.revision >= revision)
    }

    pub fn is_writing(&self, call: CallId) -> bool {
        matches!(self.write, Some((write, _)) if write == call)
    }

    /// Reports that the seats are denied, once requests that do not read them are permitted.
    pub fn report_denial(&mut self) -> Option<Event> {
        match std::mem::replace(&mut self.access, Access::Denied) {
            Access::Suspended(failure) => self.deny(failure),
            access => {
                self.access = access;
                None
            }
        }
    }

    fn deny(&mut self, failure: Failure) -> Option<Event> {
        self.access = Access::Denied;
        self.shown = None;
        let is_news = !std::mem::replace(&mut self.is_denial_reported, true);
        is_news.then_some(Event::SeatsDenied { failure })
    }

    /// Returns the transaction that makes the seat of a lease say what it should, if one is needed.
    fn transaction(&self, lease: LeaseId, acts: Option<FencingToken>) -> Option<Transaction> {
        let seats = &self.shown.as_ref()?.seats;
        match seats.of(lease) {
            Some(seat) if seat.acts == acts => None,
            Some(Seat { number, entry, .. }) => Some(Transaction::rewrite_seat(
                *number,
                entry.mod_revision,
                lease,
                acts,
            )),
            None => {
                let is_taken =
                    |number: &SeatNumber| seats.taken.iter().any(|seat| seat.number == *number);
                let free: Vec<_> = SeatNumber::all()
                    .filter(|number| !is_taken(number))
                    .collect();
                // Many candidates that start together want the first one; later they differ.
                let place = match self.vain {
                    0 | 1 => 0,
                    _ => usize::try_from(lease.get()).unwrap_or(0) % free.len().max(1),
                };
                let seat = *free.get(place)?;
                Some(Transaction::take_seat(seat, lease, acts))
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
        if failure.kind != FailureKind::Denied || transaction.reads != Reads::KeysAndSeats {
            return false;
        }
        if matches!(self.registry.access, Access::Open) {
            self.registry.access = Access::Suspended(failure.clone());
        }
        if transaction.is_campaign() {
            // It was not carried out.
            self.open_campaigns = self.open_campaigns.saturating_sub(1);
            self.campaign_again();
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
        let may_write = matches!(registry.access, Access::Open)
            && registry.is_shown_to_lease
            && registry.write.is_none()
            && now >= registry.next
            && !self.calls.is_down();
        if !may_write {
            return;
        }
        if let Some(transaction) = registry.transaction(lease.id, acts) {
            let limit = lease.timing.limit();
            let call = self.calls.new_id();
            self.registry.write = Some((call, now + limit));
            self.actions.push_back(Action::Execute {
                call,
                transaction,
                limit,
            });
        }
    }

    /// Takes in the outcome of writing the own seat.
    pub(super) fn handle_seat(&mut self, now: Moment, result: Result<View, Failure>) {
        self.registry.write = None;
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
                let has_seat = (self.registry.lease.zip(self.registry.shown.as_ref()))
                    .is_some_and(|(lease, shown)| shown.seats.of(lease).is_some());
                self.registry.vain = if has_seat { 0 } else { self.registry.vain + 1 };
                // Another candidate was faster; this one tries the next seat at once, and then takes
                // its time.
                self.registry.next = if self.registry.vain <= 1 { now } else { next };
            }
            Err(failure) if failure.kind == FailureKind::Denied => {
                self.events.extend(self.registry.deny(failure));
            }
            Err(_) => self.registry.next = next,
        }
    }

    /// Lets the request to write the own seat run out.
    pub(super) fn expire_seat(&mut self, now: Moment) {
        if matches!(self.registry.write, Some((_, until)) if now >= until) {
            self.interrupt_seat(now);
        }
    }

    /// Gives up waiting for the request to write the own seat: it may still be carried out, so that a later
    /// response shows what it did.
    pub(super) fn interrupt_seat(&mut self, now: Moment) {
        if self.registry.write.take().is_some() {
            self.registry.next = now + self.timing().limit();
        }
    }

    /// Returns when something about the own seat runs out. The next request is sent when a try shows the
    /// seats.
    pub(super) fn seat_timeout(&self) -> Option<Moment> {
        self.registry.write.map(|(_, until)| until)
    }
}
