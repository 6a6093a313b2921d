//! Rule 23, the hand-over of a term to a known successor, after the holder has stopped acting.
//!
//! What the holder can do with the keys of its term depends on what it knows about them: `leader` is as it was
//! written when the term began, or it is absent, or it belongs to another candidate. If there is any reason
//! against a hand-over, the holder releases the keys, and all candidates campaign.

use super::{
    Action, CallId, Event, Failure, FailureKind, Known, LeaseId, LeaseTime, Machine, Moment, Reads,
    Seat, Seats, State, Term, Transaction, View, release::Step, view::Ownership,
};
use std::{sync::Arc, time::Duration};

/// A term that is to be handed over.
#[derive(Clone, Debug)]
pub(super) struct Handover {
    term: Term,
    /// Whether `leader` stands as it was written when the term began; otherwise it is absent.
    leader_stands: bool,
    stage: Stage,
    /// Leases of candidates to which it is not handed: they are silent or gone, this candidate's own, or that of the
    /// leader from which it took over.
    passed_over: Vec<LeaseId>,
    /// How many candidates were silent.
    silent: usize,
    seats: Knowledge,
    /// Whether a campaign on the term's lease has had no response: it could write the keys again once they
    /// are deleted.
    has_open_campaign: bool,
    /// Whether it deletes the challenge, which was about the term that ends.
    about_challenge: bool,
}

/// How what is known of the seats came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Knowledge {
    /// By a try, before what acted had stopped, or beside the hand-over.
    Earlier,
    /// By a read since.
    Refreshed,
    /// By the response to a hand-over that was refused, because something had changed; and how many were.
    Refused(u8),
}

/// How far a hand-over has come.
#[derive(Clone, Debug)]
enum Stage {
    /// The seats are to be read: `leader` was deleted since, perhaps together with a choice of the
    /// successor; or what is known of the seats is outdated, or shows no successor.
    Refresh,
    /// It is to be asked whether this candidate is alive.
    Check { to: Seat },
    /// The term is to be handed to this candidate.
    Send { to: Seat, transaction: Transaction },
}

/// What is known beforehand of the candidate that would follow: whether it is alive, so that a hand-over need
/// not ask.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SignOfLife {
    /// The question under way, about this lease, and when it was sent.
    asked: Option<(CallId, LeaseId, Moment)>,
    /// The last response, as of when it was asked for.
    shown: Option<(LeaseId, LeaseTime, Moment)>,
}

impl SignOfLife {
    /// Returns the candidate that counts as alive until then at least.
    fn alive_until(&self, then: Moment) -> Option<LeaseId> {
        let (lease, time, asked) = self.shown?;
        time.is_renewed(then.since(asked)).then_some(lease)
    }
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

    /// After so many candidates that are silent, it is not worth the time to ask about others.
    const MOST_SILENT: usize = 2;

    /// How often it is sent at most. Two may be refused in a row: the first because it relied on what an
    /// earlier read had shown, the second because somebody has just chosen the successor.
    const MOST_REFUSED: u8 = 3;

    /// Returns what to do if there is no successor.
    fn without_successor(&self) -> Step {
        if self.has_open_campaign {
            return Step::REVOKE;
        }
        Step::Delete {
            term: self.term,
            with_leader: self.leader_stands,
        }
    }

    /// Returns the next step after a candidate turned out to be gone: what is known of the seats is
    /// outdated.
    fn without(mut self, gone: &Seat, seats: Option<&Seats>) -> Step {
        self.passed_over.extend(gone.entry.lease);
        if self.seats != Knowledge::Earlier {
            return self.with_successor(seats, None);
        }
        self.stage = Stage::Refresh;
        Step::HandOver(Box::new(self))
    }

    /// Returns the next step, by what is known of the seats: to hand the term to the best candidate that is
    /// not known to be silent, or to ask whether it is alive unless it is the one that is known to be.
    fn with_successor(mut self, seats: Option<&Seats>, alive: Option<LeaseId>) -> Step {
        let seats = seats.filter(|_| self.silent < Self::MOST_SILENT);
        let Some(seats) = seats else {
            return self.without_successor();
        };
        self.stage = match self.successor(seats) {
            Some(to) if alive.is_some() && to.entry.lease == alive => {
                match Transaction::hand_over(self.term, self.leader_stands, seats, to) {
                    Some(transaction) => Stage::Send {
                        to: to.clone(),
                        transaction: transaction.about_challenge(self.about_challenge),
                    },
                    None => return self.without_successor(),
                }
            }
            Some(to) => Stage::Check { to: to.clone() },
            None if self.seats == Knowledge::Earlier => Stage::Refresh,
            None => return self.without_successor(),
        };
        Step::HandOver(Box::new(self))
    }

    /// Returns the seat of the candidate to which the term is to be handed.
    fn successor<'a>(&self, seats: &'a Seats) -> Option<&'a Seat> {
        successor(seats, self.term, &self.passed_over)
    }
}

impl Seat {
    /// Returns true iff a term of this lease can be handed to the candidate. One that says that it leads has lost its term,
    /// such as by a take-over, and can never act by its lease again.
    pub(super) fn may_follow(&self, lease: LeaseId) -> bool {
        let is_other = self.entry.lease.is_some_and(|other| other != lease);
        is_other && self.has_name && self.is_healthy && self.acts.is_none()
    }
}

/// Returns the seat of the candidate to which a term is to be handed: the one that was chosen for it;
/// otherwise the best one.
fn successor<'a>(seats: &'a Seats, term: Term, passed_over: &[LeaseId]) -> Option<&'a Seat> {
    let is_passed_over = |seat: &Seat| {
        let lease = seat.entry.lease;
        lease.is_some_and(|lease| passed_over.contains(&lease))
    };
    let may_follow = |seat: &&Seat| seat.may_follow(term.lease) && !is_passed_over(seat);
    let chosen = seats.chosen_for(term.token);
    let chosen = chosen.and_then(|lease| seats.of(lease)).filter(may_follow);
    chosen.or_else(|| seats.in_order().into_iter().find(may_follow))
}

impl LeaseTime {
    /// Returns true iff a candidate is known to have renewed its lease as often as it should, which is every third of the
    /// TTL; `age`: how long ago etcd was asked.
    ///
    /// etcd rounds the remaining time down to whole seconds.
    #[must_use]
    pub fn is_renewed(self, age: Duration) -> bool {
        self.remaining + self.granted / 3 + Duration::from_secs(1) >= self.granted + age
    }
}

impl Machine {
    /// Returns what the seat holds of the candidate to which a transaction hands a term over.
    #[must_use]
    pub fn successor_value(&self, handing_over: &Transaction) -> Option<Arc<[u8]>> {
        self.releases
            .iter()
            .find_map(|release| match &release.step {
                Step::HandOver(handover) => match &handover.stage {
                    Stage::Send { to, transaction } if transaction == handing_over => {
                        Some(Arc::clone(&to.entry.value))
                    }
                    _ => None,
                },
                _ => None,
            })
    }

    /// Rules 7 and 23: returns the first step of releasing the keys of a term whose holder has stopped in
    /// order.
    pub(super) fn first_step(&self, now: Moment, term: Term) -> Step {
        let Some(known) = &self.known else {
            return Step::REVOKE;
        };
        if !known.acts_in(term) {
            return Step::REVOKE;
        }
        let leader_stands = known.ownership_in(term) == Ownership::Both;
        let handover = Handover {
            term,
            leader_stands,
            stage: Stage::Refresh,
            passed_over: self.given_up(),
            silent: 0,
            seats: Knowledge::Earlier,
            has_open_campaign: self.open_campaigns > 0,
            about_challenge: self.is_about_challenge(),
        };
        let is_others = !leader_stands && known.leader().is_some();
        let seats = self.registry.seats();
        // If the job is done, a successor would have nothing to do.
        if is_others || seats.is_none() || self.is_done {
            return handover.without_successor();
        }
        if leader_stands || self.registry.is_known_since(known.leader_as_of()) {
            handover.with_successor(seats.as_deref(), self.sign_of_life.alive_until(now))
        } else {
            Step::HandOver(Box::new(handover))
        }
    }

    /// Returns the seat of the candidate to which a term would be handed now.
    pub(super) fn successor<'a>(&self, seats: &'a Seats, term: Term) -> Option<&'a Seat> {
        successor(seats, term, &self.given_up())
    }

    /// Returns the candidate that counts as alive until then at least.
    pub(super) fn alive_until(&self, then: Moment) -> Option<LeaseId> {
        self.sign_of_life.alive_until(then)
    }

    fn given_up(&self) -> Vec<LeaseId> {
        let own = self.releases.iter().map(|release| release.lease);
        own.chain(self.replaced()).collect()
    }

    /// Asks whether the candidate is alive to which the term would be handed.
    pub(super) fn ask_for_sign_of_life(&mut self, now: Moment) {
        let (State::Leader(tenure) | State::Stopping { tenure, .. }) = self.state else {
            return;
        };
        let seats = self.registry.seats().unwrap_or_default();
        let to = self.successor(&seats, tenure.term);
        let Some(lease) = to.and_then(|to| to.entry.lease) else {
            return;
        };
        let timing = tenure.lease.timing;
        let (call, limit) = (self.calls.new_id(), timing.limit());
        self.sign_of_life.asked = Some((call, lease, now));
        let asking = Action::AskLeaseTime { call, lease, limit };
        self.actions.push_back(asking);
    }

    /// Takes in whether a candidate is alive to which a term is to be handed, or would be.
    pub(super) fn handle_lease_time(
        &mut self,
        now: Moment,
        id: CallId,
        result: Result<Option<LeaseTime>, Failure>,
    ) {
        if self.handle_poll(now, id, &result) {
            return;
        }
        let asked = &mut self.sign_of_life.asked;
        if let Some((_, lease, sent)) = asked.take_if(|(call, ..)| *call == id) {
            // Without a response that is of use, the hand-over asks itself.
            let time = result.ok().flatten();
            self.sign_of_life.shown = time.map(|time| (lease, time, sent));
            return;
        }
        let Some(place) = self.responded_release(id) else {
            return;
        };
        let Step::HandOver(mut handover) = self.releases[place].step.clone() else {
            return;
        };
        let Stage::Check { to } = handover.stage.clone() else {
            return;
        };
        let time = match result {
            Ok(time) => time,
            // What only reads was refused: nothing speaks against a deletion.
            Err(failure) if failure.is_permanent() => {
                self.releases[place].step = handover.without_successor();
                return;
            }
            Err(failure) => return self.fail_release(now, place, failure),
        };
        let seats = self.registry.seats().unwrap_or_default();
        self.releases[place].step = match time {
            None => handover.without(&to, Some(&seats)),
            Some(time) if !time.is_renewed(Duration::ZERO) => {
                handover.passed_over.extend(to.entry.lease);
                handover.silent += 1;
                handover.with_successor(Some(&seats), None)
            }
            // What is known of the seats may be newer than the choice, and show a better candidate.
            Some(_) => handover.with_successor(Some(&seats), to.entry.lease),
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
                let seats = self.registry.seats();
                self.releases[place].step = match &sent_to {
                    Some(to) => handover.without(to, seats.as_deref()),
                    None => handover.without_successor(),
                };
                return;
            }
            // It was refused, perhaps for lack of room. A deletion takes none; and if the term was handed
            // over all the same, what the deletion requires is not there.
            Err(failure) if failure.is_permanent() => {
                self.releases[place].step = handover.without_successor();
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
                    let release = &mut self.releases[place];
                    release.next = now + release.revoke_after;
                }
                Step::FREE
            }
            (Ownership::Neither, None) => Step::FREE,
            // `leader` alone cannot be released by what guards `leader/acting`.
            (Ownership::LeaderAlone, _) => Step::REVOKE,
            (ownership @ (Ownership::Both | Ownership::ActingAlone), sent_to) => {
                handover.leader_stands = ownership == Ownership::Both;
                handover.seats = match (sent_to, handover.seats) {
                    (Some(_), Knowledge::Refused(count)) => Knowledge::Refused(count + 1),
                    (Some(_), _) => Knowledge::Refused(1),
                    (None, Knowledge::Earlier) => Knowledge::Refreshed,
                    (None, seats) => seats,
                };
                let is_last = handover.seats == Knowledge::Refused(Handover::MOST_REFUSED);
                let is_others = !handover.leader_stands && seen.leader().is_some();
                if is_last || is_others {
                    handover.without_successor()
                } else {
                    let alive = self.sign_of_life.alive_until(now);
                    handover.with_successor(seats.as_deref(), alive)
                }
            }
        };
        if let Some(seats) = seats {
            self.registry.show(seats, revision);
        }
    }
}
