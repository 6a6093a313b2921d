//! Rules 30 to 32, the followers' part of a challenge: when a follower challenges a leader that it suspects, and when it
//! takes over from one that has not responded.
//!
//! A suspicion may be wrong, and costs little. Safety rests on the wait between a challenge and a take-over.

use super::{
    Action, CallId, Effect, Entry, Event, FailOverLimit, Failure, FailureKind, FencingToken, Guard,
    LeaseId, LeaseTime, Machine, Moment, Presence, Question, State, Transaction, access::Access,
    calls::CallKind,
};
use std::time::Duration;

/// What a follower knows and suspects of the leader that it follows.
#[derive(Debug, Default)]
pub(super) struct Suspicions {
    suspicion: Option<Suspicion>,
    /// The term that this follower has challenged last, and when.
    challenged: Option<(i64, Moment)>,
    /// The term whose leader is connected to this follower.
    connected: Option<i64>,
    /// The request under way that asks for the leader's lease, the term, and until when it is waited for.
    poll: Option<(CallId, i64, Moment)>,
    /// When it is asked for next.
    next_poll: Moment,
    /// The lease of the leader from which this candidate last took over, or tried to.
    replaced: Option<LeaseId>,
    access: Access,
}

/// What is known of one term that may be taken over.
#[derive(Clone, Copy, Debug)]
struct Suspicion {
    /// The revision that wrote its `leader/acting`.
    acting: i64,
    /// Its lease: revisions repeat after a backup is restored.
    lease: Option<LeaseId>,
    /// The challenge that the last response has shown.
    challenge: Option<StandingChallenge>,
    /// When this follower last suspected that the leader has failed, until a later response shows a challenge.
    doubts: Option<Moment>,
}

/// A challenge.
#[derive(Clone, Copy, Debug)]
struct StandingChallenge {
    /// Requires that it stands as it was first seen.
    guard: Guard,
    /// When the leader has stopped acting if it has not responded by then.
    due: Moment,
}

impl Suspicions {
    /// Returns true iff etcd permits the challenge, as far as is known.
    pub fn is_permitted(&self) -> bool {
        self.access.is_open()
    }

    /// Takes in that etcd permits a request, which is about the challenge or not.
    pub fn permit(&mut self, now: Moment, about_challenge: bool) {
        // That some features are not permitted was reported with the seats, or concerns nobody.
        let _ = self.access.permit(now, about_challenge);
    }
}

impl LeaseTime {
    /// Returns true iff a leader with this limit has not renewed its lease for longer than twice its pace, which is a
    /// fifth of the limit. etcd rounds the remaining time down to whole seconds.
    #[must_use]
    pub fn is_silent(self, limit: FailOverLimit) -> bool {
        let rounding = Duration::from_secs(1);
        self.granted.saturating_sub(self.remaining) > limit.as_duration() * 2 / 5 + rounding
    }
}

impl Machine {
    /// Rules 30 and 31: takes in which challenge there is, as the response to a request that was sent at `sent` shows
    /// it, or as it must be after an event.
    pub(super) fn judge_challenge(&mut self, now: Moment, sent: Option<Moment>) {
        let Some(known) = &self.known else { return };
        let suspicions = &mut self.suspicions;
        let before = suspicions.suspicion.take();
        let Some((acting, limit)) = known.may_be_taken_over() else {
            return;
        };
        let (acting, lease) = (acting.mod_revision, acting.lease);
        let is_same =
            |suspicion: &Suspicion| suspicion.acting == acting && suspicion.lease == lease;
        let same = before.filter(is_same);
        let mut suspicion = same.unwrap_or(Suspicion {
            acting,
            lease,
            challenge: None,
            doubts: None,
        });
        if let Some(sent) = sent.filter(|_| known.shows_challenge) {
            let was_challenged = suspicion.challenge;
            suspicion.challenge = known.challenge().map(|challenge| {
                let guard = Guard::standing(challenge);
                let same = was_challenged.filter(|standing| standing.guard == guard);
                same.unwrap_or(StandingChallenge {
                    guard,
                    due: now + limit.take_over_after(),
                })
            });
            if suspicion.challenge.is_some() {
                // An earlier request may show a challenge to which the leader has responded since.
                suspicion.doubts.take_if(|since| sent >= *since);
            } else if was_challenged.is_some() {
                self.events.push_back(Event::ChallengeAnswered);
            }
        }
        suspicions.suspicion = Some(suspicion);
    }

    /// Returns what is known of the present term, its `leader/acting` and its limit, if it may be taken over. What is
    /// known of an earlier term says nothing about it.
    fn suspicion(&self) -> Option<(Suspicion, &Entry, FailOverLimit)> {
        let suspicion = self.suspicions.suspicion?;
        let (acting, limit) = self.known.as_ref()?.may_be_taken_over()?;
        let is_same = suspicion.acting == acting.mod_revision && suspicion.lease == acting.lease;
        is_same.then_some((suspicion, acting, limit))
    }

    /// Returns when this follower challenges the leader or takes over, if that is due at some time.
    pub(super) fn when_suspicion_asks(&self) -> Option<Moment> {
        let (suspicion, _, limit) = self.suspicion()?;
        if self.stands_back || !self.is_about_challenge() {
            return None;
        }
        if let Some(StandingChallenge { due, .. }) = suspicion.challenge {
            return Some(self.hold_off.map_or(due, |until| until.max(due)));
        }
        let doubts = suspicion.doubts?;
        let again = self.suspicions.challenged;
        let again = again.filter(|(acting, _)| *acting == suspicion.acting);
        Some(again.map_or(doubts, |(_, last)| last + limit.as_duration()))
    }

    /// Rules 30 and 31: returns what the suspicion makes this follower do now.
    pub(super) fn question_of_suspicion(&self, now: Moment) -> Option<Question> {
        let is_due = self.when_suspicion_asks().is_some_and(|due| now >= due);
        let (suspicion, ..) = self.suspicion().filter(|_| is_due)?;
        Some(match suspicion.challenge {
            Some(_) => Question::TakeOver,
            None => Question::Challenge,
        })
    }

    /// Returns the transaction that challenges the leader, or takes over.
    pub(super) fn suspecting(&self, lease: LeaseId, question: Question) -> Transaction {
        let Some((suspicion, acting, _)) = self.suspicion() else {
            return Transaction::READ;
        };
        match suspicion.challenge {
            Some(StandingChallenge { guard, .. }) if question == Question::TakeOver => {
                let leader = self.known.as_ref().and_then(|known| known.leader());
                Transaction::take_over(lease, leader, acting, guard)
            }
            _ => Transaction::challenge(acting),
        }
    }

    /// Notes that a take-over is about to be sent: the lease of the leader that has failed looks alive for a while.
    pub(super) fn note_take_over_sent(&mut self) {
        self.suspicions.replaced = self.suspicion().and_then(|(_, acting, _)| acting.lease);
    }

    /// Returns the lease of the leader from which this candidate has taken over.
    pub(super) fn replaced(&self) -> Option<LeaseId> {
        self.suspicions.replaced
    }

    /// Notes that a challenge is about to be sent.
    pub(super) fn note_challenge_sent(&mut self, now: Moment) {
        if let Some(suspicion) = self.suspicions.suspicion {
            self.suspicions.challenged = Some((suspicion.acting, now));
            self.events.push_back(Event::Challenging);
        }
    }

    /// Rule 30: suspects the leader of the term that began in this revision.
    fn suspect(&mut self, now: Moment, acting: i64) {
        let is_follower = matches!(self.state, State::Follower { .. });
        let suspicion = self.suspicions.suspicion.as_mut();
        let Some(suspicion) = suspicion.filter(|it| it.acting == acting && is_follower) else {
            return;
        };
        suspicion.doubts = Some(now);
        if suspicion.challenge.is_some() {
            // The leader may have responded to it before it failed: a read shows that.
            return self.calls.next_soon();
        }
        self.ask_soon(now);
    }

    /// Lets a follower challenge the leader, or take over, as soon as that is due.
    pub(super) fn ask_soon(&mut self, now: Moment) {
        match self.when_suspicion_asks() {
            Some(due) if due > now => self.calls.next_by(due),
            Some(_) => self.calls.next_soon(),
            None => {}
        }
    }

    /// Takes in what is known of the leader of a term from outside etcd.
    pub(super) fn handle_presence(&mut self, now: Moment, of: FencingToken, presence: Presence) {
        let acting = of.get();
        match presence {
            Presence::Connected => self.suspicions.connected = Some(acting),
            Presence::Broken | Presence::Unknown => {
                self.suspicions.connected.take_if(|it| *it == acting);
            }
        }
        if presence == Presence::Broken {
            self.suspect(now, acting);
        }
    }

    /// Rule 32: returns the term, lease and limit of the leader that this follower asks etcd about.
    fn polled(&self) -> Option<(i64, LeaseId, FailOverLimit)> {
        let (acting, limit) = self.known.as_ref()?.may_be_taken_over()?;
        let is_connected = self.suspicions.connected == Some(acting.mod_revision);
        let polls = matches!(self.state, State::Follower { .. })
            && !is_connected
            && !self.stands_back
            && !self.calls.is_down()
            && self.is_about_challenge();
        polls
            .then_some(acting.lease)
            .flatten()
            .map(|lease| (acting.mod_revision, lease, limit))
    }

    /// Rule 32: asks for the leader's lease twice in a limit.
    pub(super) fn advance_polling(&mut self, now: Moment) {
        self.suspicions.poll.take_if(|(.., until)| now >= *until);
        let Some((acting, lease, limit)) = self.polled() else {
            return;
        };
        if self.suspicions.poll.is_some() || now < self.suspicions.next_poll {
            return;
        }
        let (call, waits) = (self.calls.new_id(), self.timing().limit());
        self.suspicions.poll = Some((call, acting, now + waits));
        self.suspicions.next_poll = now + limit.as_duration() / 2;
        self.actions.push_back(Action::AskLeaseTime {
            call,
            lease,
            limit: waits,
        });
    }

    /// The connection is gone, and with it what was asked for.
    pub(super) fn interrupt_polling(&mut self) {
        self.suspicions.poll = None;
    }

    /// Asks for the challenge again once it has counted as denied for long enough.
    pub(super) fn expire_suspicion(&mut self, now: Moment) {
        self.suspicions.access.expire(now);
    }

    /// Takes in how long the leader's lease lasts. Returns true iff that was asked for because of a suspicion.
    pub(super) fn handle_poll(
        &mut self,
        now: Moment,
        id: CallId,
        result: &Result<Option<LeaseTime>, Failure>,
    ) -> bool {
        let asked = self.suspicions.poll.take_if(|(call, ..)| *call == id);
        let Some((_, acting, _)) = asked else {
            return false;
        };
        match (self.polled(), result) {
            (Some((polled, _, limit)), Ok(Some(time)))
                if polled == acting && time.is_silent(limit) =>
            {
                self.suspect(now, acting);
            }
            // The keys are gone with the lease, or are another's. A watch shows that.
            (Some((polled, ..)), Ok(None)) if polled == acting && self.watch.is_none() => {
                self.calls.next_soon();
            }
            _ => {}
        }
        true
    }

    /// Returns when something about a suspicion is due. What a try must do is due when the try is.
    pub(super) fn suspicion_timeout(&self) -> Option<Moment> {
        let until = self.suspicions.poll.map(|(.., until)| until);
        let next = self.polled().map(|_| self.suspicions.next_poll);
        until.or(next)
    }

    /// Takes in that etcd refuses a try that is about the challenge. If that is because of the challenge, this
    /// candidate goes on without it, and returns true: a leader's lease still ends if the leader fails.
    pub(super) fn refuse_challenge(&mut self, now: Moment, id: CallId, failure: &Failure) -> bool {
        let Some(CallKind::Try { transaction, .. }) = self.calls.get(id).map(|call| call.kind)
        else {
            return false;
        };
        let is_denied = failure.kind == FailureKind::Denied;
        if is_denied && !transaction.about_challenge {
            // It denies everything.
            self.suspicions.access.resume();
            return false;
        }
        if !transaction.about_challenge || !failure.is_permanent() {
            return false;
        }
        let takes_over = matches!(
            transaction.effect,
            Effect::Lead {
                takes_over: true,
                ..
            }
        );
        if is_denied && self.settings.fail_over.is_none() {
            self.suspicions.access.suspend(failure);
        } else if transaction.effect != Effect::Challenge && !takes_over {
            return false;
        }
        if transaction.is_campaign() {
            // It was not carried out, or the next response shows that it was.
            if is_denied {
                self.open_campaigns = self.open_campaigns.saturating_sub(1);
            }
            if !takes_over {
                self.campaign_again(&transaction);
            }
        }
        if let Some(suspicion) = &mut self.suspicions.suspicion {
            // Once more in a limit: the database may have room by then.
            let known = self.known.as_ref();
            let limit = known.and_then(|known| known.may_be_taken_over());
            let later = now + limit.map_or(Duration::ZERO, |(_, limit)| limit.as_duration());
            if let Some(standing) = &mut suspicion.challenge {
                standing.due = standing.due.max(later);
            }
        }
        if self.calls.finish(id).is_some() {
            self.calls.next_now();
        } else {
            self.calls.finish_overdue(id);
        }
        true
    }
}
