//! Rules 26 and 27: a candidate that stands back, and a leader that yields to a better candidate.

use super::{
    Action, CallId, FailureKind, LeaseId, LossReason, Machine, Moment, Question, Seat, State,
    Transaction, View, event::Failure,
};

/// What a leader knows of the candidates that would lead better.
#[derive(Debug, Default)]
pub(super) struct Rivals {
    waiting: Vec<Rival>,
    /// The request under way that shows whether etcd has room for a hand-over, and until when it is waited
    /// for.
    probe: Option<(CallId, Moment)>,
}

/// A candidate that can lead, with a higher priority.
#[derive(Clone, Copy, Debug)]
struct Rival {
    lease: LeaseId,
    /// The revision that wrote its seat: if it could not lead meanwhile, it has written that there.
    mod_revision: i64,
    since: Moment,
}

impl Rivals {
    /// Takes in which candidates have a higher priority and can lead; each starts from zero after an
    /// interruption.
    fn update(&mut self, now: Moment, better: &[&Seat]) {
        let rivals = better.iter().filter_map(|seat| {
            let lease = seat.entry.lease?;
            let mod_revision = seat.entry.mod_revision;
            let mut before = self.waiting.iter();
            let before =
                before.find(|rival| rival.lease == lease && rival.mod_revision == mod_revision);
            Some(Rival {
                lease,
                mod_revision,
                since: before.map_or(now, |before| before.since),
            })
        });
        self.waiting = rivals.collect();
    }
}

impl Machine {
    /// Rule 26: a candidate that stands back does not campaign and is no successor; a leader ends its term in
    /// order.
    pub(super) fn stand_back(&mut self, now: Moment) {
        if self.settings.tries_once() && self.wait_timeout().is_some() {
            // It would have to wait.
            self.give_up_waiting(now);
        }
        // The seat may show an earlier reason, even if a write that it can lead again was lost.
        self.registry.outdate();
        if std::mem::replace(&mut self.stands_back, true) {
            return;
        }
        match &mut self.state {
            State::Leader(_) => self.plan_stop(now, LossReason::StoodBack),
            State::Follower { question, .. } => *question = Question::Read,
            // One that is elected hands its term on when its try is answered.
            _ => {}
        }
    }

    /// Rule 26: ends standing back; campaigns at once if nobody leads.
    pub(super) fn stand_forward(&mut self, now: Moment) {
        if !std::mem::replace(&mut self.stands_back, false) {
            return;
        }
        if matches!(self.state, State::Follower { .. }) && self.known.is_some() {
            self.follow(now, None);
            self.campaign_soon(now);
            if self.watch.is_none() {
                // What it knows may be old.
                self.calls.next_soon();
            }
            self.ask_soon(now);
        }
    }

    /// Rule 27: ends the term in order once a better candidate has been able to lead for long enough; `now`: a
    /// try was answered.
    pub(super) fn judge_rivals(&mut self, now: Moment) {
        let State::Leader(tenure) = self.state else {
            self.rivals = Rivals::default();
            return;
        };
        // A job that runs once is not to be cut short.
        let Some(delay) = self
            .settings
            .priority_delay
            .filter(|_| !self.settings.runs_once)
        else {
            return;
        };
        let seats = self.registry.seats().unwrap_or_default();
        let own = self.settings.priority;
        let better = seats.in_order().into_iter();
        let better: Vec<_> = better
            .filter(|seat| seat.priority > own && seat.may_follow(tenure.lease.id))
            .collect();
        self.rivals.update(now, &better);
        let has_waited = |rival: &Rival| now.since(rival.since) >= delay;
        if !self.rivals.waiting.iter().any(has_waited) || self.is_chosen() {
            self.rivals.probe = None;
            return;
        }
        if matches!(self.rivals.probe, Some((_, until)) if now < until) || !self.can_yield(now) {
            return;
        }
        let Some(seat) = seats.in_order().first().map(|seat| seat.number) else {
            return;
        };
        // A full database would refuse the hand-over, and then the campaigns of all candidates.
        let limit = tenure.lease.timing.limit();
        let call = self.calls.new_id();
        self.rivals.probe = Some((call, now + limit));
        self.actions.push_back(Action::Execute {
            call,
            transaction: Transaction::probe_room(seat, tenure.lease.id),
            limit,
        });
    }

    /// Returns true iff the candidate to which the term would be handed has a higher priority and is known to be
    /// alive.
    fn can_yield(&self, now: Moment) -> bool {
        let seats = self.registry.seats().unwrap_or_default();
        let State::Leader(tenure) = self.state else {
            return false;
        };
        self.successor(&seats, tenure.term).is_some_and(|to| {
            to.priority > self.settings.priority && to.entry.lease == self.alive_until(now)
        })
    }

    /// Returns true iff an operator has chosen this candidate for the present term.
    fn is_chosen(&self) -> bool {
        self.known.as_ref().is_some_and(super::Known::is_chosen)
    }

    pub(super) fn is_probe_of_room(&self, call: CallId) -> bool {
        matches!(self.rivals.probe, Some((probe, _)) if probe == call)
    }

    /// Rule 27: yields if etcd has room for a hand-over; otherwise, all better candidates start again from
    /// zero.
    pub(super) fn handle_room(&mut self, now: Moment, result: Result<View, Failure>) {
        self.rivals.probe = None;
        match result {
            Ok(_) if self.can_yield(now) => self.plan_stop(now, LossReason::Outranked),
            Err(failure) if failure.kind != FailureKind::Unreachable => {
                self.rivals.waiting.clear();
            }
            _ => {}
        }
    }
}
