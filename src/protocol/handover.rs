//! Rule 23, the hand-over of a term to a known successor, once what acted has stopped.
//!
//! What can be done about the keys of a term is decided by what is known of them: `leader` stands as it
//! was written when the term began, or it is absent, or it is another's. If anything speaks against a hand-over,
//! the keys are released, and all candidates campaign.

use super::{
    CallId, Event, Failure, FailureKind, Known, LeaseId, LeaseTime, Machine, Moment, Reads, Seat,
    Seats, Term, Transaction, View, release::Step, view::Ownership,
};
use std::time::Duration;

/// A term that is to be handed over.
#[derive(Clone, Debug)]
pub(super) struct Handover {
    term: Term,
    /// Whether `leader` stands as it was written when the term began; otherwise it is absent.
    leader_stands: bool,
    stage: Stage,
    /// The leases of candidates that are silent or gone.
    silent: Vec<LeaseId>,
    /// Whether a hand-over was refused, because something had changed.
    was_refused: bool,
}

/// How far a hand-over has come.
#[derive(Clone, Debug)]
enum Stage {
    /// The seats are to be read: `leader` was deleted since, perhaps together with a choice of the
    /// successor.
    Refresh,
    /// It is to be asked whether this candidate is alive.
    Check { to: Seat },
    /// The term is to be handed to this candidate.
    Send { to: Seat, transaction: Transaction },
}

/// What a hand-over asks of etcd next.
pub(super) enum Request {
    Execute(Transaction),
    AskLeaseTime(LeaseId),
}

impl Handover {
    pub fn request(&self) -> Request {
        match &self.stage {
            Stage::Check { to } => Request::AskLeaseTime(to.entry.lease.unwrap_or(LeaseId::new(0))),
            Stage::Send { transaction, .. } => Request::Execute(*transaction),
            Stage::Refresh => Request::Execute(Transaction::READ.reading(Reads::KeysAndSeats)),
        }
    }

    /// Returns what to do if there is no successor.
    fn release(&self) -> Step {
        Step::Delete {
            term: self.term,
            with_leader: self.leader_stands,
        }
    }

    /// Returns the next step, by what is known of the seats: to ask whether the best candidate that is not
    /// known to be silent is alive.
    fn with_successor(mut self, seats: Option<&Seats>) -> Step {
        let successor = seats.and_then(|seats| self.successor(seats));
        match successor.cloned() {
            Some(to) => {
                self.stage = Stage::Check { to };
                Step::HandOver(Box::new(self))
            }
            None => self.release(),
        }
    }

    /// Returns the seat of the candidate to which the term is to be handed: the one that was chosen for
    /// it; otherwise the one that has held its seat for longest.
    fn successor<'a>(&self, seats: &'a Seats) -> Option<&'a Seat> {
        let may_follow = |seat: &&Seat| {
            let lease = seat.entry.lease;
            seat.has_name
                && lease
                    .is_some_and(|lease| lease != self.term.lease && !self.silent.contains(&lease))
        };
        let chosen = seats.chosen_for(self.term.token);
        let chosen = chosen.and_then(|lease| seats.of(lease)).filter(may_follow);
        chosen.or_else(|| seats.in_order().into_iter().find(may_follow))
    }
}

impl LeaseTime {
    /// Returns true iff a candidate has renewed its lease as often as it should: every third of the TTL.
    ///
    /// etcd rounds the remaining time down to whole seconds.
    #[must_use]
    pub fn is_renewed(self) -> bool {
        self.remaining + self.granted / 3 + Duration::from_secs(1) >= self.granted
    }
}

impl Machine {
    /// Rules 7 and 23: returns the first step of releasing the keys of a term whose holder has stopped in
    /// order.
    pub(super) fn first_step(&self, term: Term) -> Step {
        let Some(known) = &self.known else {
            return Step::REVOKE;
        };
        // A campaign without a response could write the keys again once they are deleted.
        if self.open_campaigns > 0 || !known.acts_in(term) {
            return Step::REVOKE;
        }
        let leader_stands = known.ownership_in(term) == Ownership::Both;
        let handover = Handover {
            term,
            leader_stands,
            stage: Stage::Refresh,
            silent: Vec::new(),
            was_refused: false,
        };
        let is_others = !leader_stands && known.leader().is_some();
        let seats = self.registry.seats();
        // Whoever would follow has nothing to do any more.
        if is_others || seats.is_none() || self.is_done {
            return handover.release();
        }
        if leader_stands || self.registry.is_known_since(known.leader_as_of()) {
            handover.with_successor(seats.as_deref())
        } else {
            Step::HandOver(Box::new(handover))
        }
    }

    /// Takes in whether a candidate to which a term is to be handed is alive.
    pub(super) fn handle_lease_time(
        &mut self,
        now: Moment,
        id: CallId,
        result: Result<Option<LeaseTime>, Failure>,
    ) {
        let Some(place) = self.responded_release(id) else {
            return;
        };
        let Step::HandOver(mut handover) = self.releases[place].step.clone() else {
            return;
        };
        let Stage::Check { to } = handover.stage.clone() else {
            return;
        };
        let is_alive = match result {
            Ok(time) => time.is_some_and(LeaseTime::is_renewed),
            Err(failure) => return self.fail_release(now, place, failure),
        };
        let seats = self.registry.seats().unwrap_or_default();
        // What is known of the seats may be newer than the choice, which must agree with what the
        // transaction requires.
        let is_still_best = handover.successor(&seats) == Some(&to);
        self.releases[place].step = if is_alive && is_still_best {
            match Transaction::hand_over(handover.term, handover.leader_stands, &seats, &to) {
                Some(transaction) => {
                    handover.stage = Stage::Send { to, transaction };
                    Step::HandOver(handover)
                }
                None => handover.release(),
            }
        } else {
            if !is_alive {
                handover.silent.extend(to.entry.lease);
            }
            handover.with_successor(Some(&seats))
        };
    }

    /// Takes in the response to a transaction of a hand-over.
    pub(super) fn proceed(
        &mut self,
        now: Moment,
        place: usize,
        mut handover: Box<Handover>,
        result: Result<View, Failure>,
    ) {
        let sent_to = match &handover.stage {
            Stage::Send { to, .. } => Some(to.clone()),
            Stage::Refresh | Stage::Check { .. } => None,
        };
        let mut view = match result {
            Ok(view) => view,
            // The successor's lease is gone: nothing was carried out.
            Err(failure) if failure.kind == FailureKind::LeaseNotFound => {
                self.releases[place].step = handover.release();
                return;
            }
            Err(failure) => return self.fail_release(now, place, failure),
        };
        let seats = view.seats.take();
        let revision = view.revision;
        let seen = Known::from_view(view);
        let term = handover.term;
        self.releases[place].step = match (seen.ownership_in(term), sent_to) {
            (Ownership::Neither, Some(to)) => {
                let is_theirs = to
                    .entry
                    .lease
                    .is_some_and(|lease| seen.token(lease).is_some());
                if is_theirs {
                    self.events.push_back(Event::HandedOver { term, to });
                }
                Step::FREE
            }
            (Ownership::Neither, None) => Step::FREE,
            // `leader` alone cannot be released by what guards `leader/acting`.
            (Ownership::LeaderAlone, _) => Step::REVOKE,
            (ownership @ (Ownership::Both | Ownership::ActingAlone), sent_to) => {
                let is_second = sent_to.is_some() && handover.was_refused;
                handover.leader_stands = ownership == Ownership::Both;
                handover.was_refused |= sent_to.is_some();
                let is_others = !handover.leader_stands && seen.leader().is_some();
                if is_second || is_others {
                    handover.release()
                } else {
                    handover.with_successor(seats.as_deref())
                }
            }
        };
        if let Some(seats) = seats {
            self.registry.show(seats, revision);
        }
    }
}
