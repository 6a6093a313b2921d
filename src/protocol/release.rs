//! Rule 7, the end of a term: stop acting, *then* release the keys, *then* revoke the lease, in this order
//! on every path.

use super::{
    Action, CallId, Event, Failure, FailureKind, FencingToken, Known, Lease, LeaseId, LossReason,
    Machine, Moment, State, Tenure, Term, Transaction, View,
    handover::{Handover, Request},
    view::Ownership,
};
use std::time::Duration;

/// A lease that was given up and may still exist. Its keys are nobody's: a late win on it changes
/// nothing.
#[derive(Clone, Debug)]
pub(super) struct Release {
    pub lease: LeaseId,
    /// When it has ended by itself.
    expires: Moment,
    pub limit: Duration,
    pub step: Step,
    /// The request under way, and when it has run out.
    pub call: Option<(CallId, Moment)>,
    pub next: Moment,
    /// How long it waits to be revoked after a hand-over.
    pub revoke_after: Duration,
}

/// What a release needs next.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// To hand the term over, if there is a successor.
    HandOver(Box<Handover>),
    /// To delete the keys of this term; `with_leader`: `leader` too, which is its own.
    Delete { term: Term, with_leader: bool },
    /// To revoke the lease, and with it whatever keys are bound to it.
    Revoke {
        /// Whether the keys are known to be gone, so that others can lead already.
        is_free: bool,
    },
    /// To revoke a lease that may never have been granted. It holds no keys.
    RevokeUnknown,
}

impl Step {
    /// Whatever happened before, revoking the lease removes the keys, unless they are another's already.
    pub const REVOKE: Self = Self::Revoke { is_free: false };
    /// The keys are gone; the lease is of no use any more.
    pub const FREE: Self = Self::Revoke { is_free: true };

    /// Returns true iff the keys of the lease are not known to be gone.
    fn may_hold_keys(&self) -> bool {
        !matches!(self, Self::Revoke { is_free: true } | Self::RevokeUnknown)
    }

    fn revokes(&self) -> bool {
        matches!(self, Self::Revoke { .. } | Self::RevokeUnknown)
    }
}

impl Machine {
    /// How many limits a withdrawal waits for its lease to be revoked: time for two endpoints to
    /// fail, by connecting and by answering.
    pub(super) const WITHDRAWAL_LIMITS: u32 = 4;

    /// How many leases are revoked that may have been granted, without a response that says so.
    const MOST_UNKNOWN: usize = 8;

    /// Returns true iff a lease is one that this candidate has given up, and that may still exist.
    #[must_use]
    pub fn is_given_up(&self, lease: LeaseId) -> bool {
        self.releases.iter().any(|release| release.lease == lease)
    }

    /// Returns true iff the keys of a lease that this candidate has given up are not known to be gone: they
    /// prevent others from leading.
    #[must_use]
    pub fn holds_keys_of(&self, lease: LeaseId) -> bool {
        (self.releases.iter()).any(|release| release.lease == lease && release.step.may_hold_keys())
    }

    /// Gives a lease up: it is revoked, by retries beside whatever comes next, until it is gone or
    /// its TTL has passed.
    pub(super) fn give_up(&mut self, now: Moment, lease: Lease) {
        self.give_up_in_steps(now, lease, Step::REVOKE);
    }

    fn give_up_in_steps(&mut self, now: Moment, lease: Lease, step: Step) {
        self.state = State::Unleased {
            follows_lost_lease: false,
        };
        self.calls.abandon();
        self.begin_release(now, lease, step);
    }

    /// Gives up a lease that may have been granted, without a response that says so.
    ///
    /// Only the last ones are revoked, and one by one: during an outage there may be hundreds, most of
    /// which etcd has never heard of. The others end by themselves.
    pub(super) fn give_up_unknown(&mut self, now: Moment, lease: LeaseId) {
        let is_unknown = |release: &Release| matches!(release.step, Step::RevokeUnknown);
        let unknown = self.releases.iter().filter(|release| is_unknown(release));
        if unknown.count() >= Self::MOST_UNKNOWN
            && let Some(first) = self.releases.iter().position(is_unknown)
        {
            self.releases.remove(first);
        }
        let timing = self.timing();
        self.begin_release(now, Lease { id: lease, timing }, Step::RevokeUnknown);
    }

    fn begin_release(&mut self, now: Moment, lease: Lease, step: Step) {
        // Not those of a term with a fail-over limit: that is over.
        let timing = lease.timing.within(None);
        self.releases.push(Release {
            lease: lease.id,
            expires: now + timing.ttl(),
            limit: timing.limit(),
            step,
            call: None,
            next: now,
            revoke_after: timing.revoke_after(),
        });
    }

    /// Ends a term in which nothing acts any more.
    pub(super) fn handle_stopped(&mut self, now: Moment, stopped: Term) {
        let (lease, reason, is_orderly) = match self.state {
            State::Stopping {
                tenure,
                reason,
                renewing,
                ..
            } if tenure.term == stopped => (tenure.lease, reason, renewing),
            State::Leader(Tenure { lease, term, .. }) if term == stopped => {
                let reason = LossReason::Resigned;
                self.events.push_back(Event::Lost { term, reason });
                (lease, reason, true)
            }
            _ => return,
        };
        self.reporter.reset();
        self.end_recording();
        if self.withdrawing.is_some() {
            self.withdrawing = Some(now);
            self.events.push_back(Event::Releasing {
                lease: lease.id,
                led: true,
            });
        } else if reason == LossReason::NotRenewed {
            self.hold_off_after_failure(now, lease);
        } else if reason.is_planned() && reason != LossReason::StoodBack {
            // One that stands back does not campaign anyway.
            self.hold_off = Some(now + lease.timing.hold_off());
        }
        let step = if is_orderly {
            self.first_step(now, stopped)
        } else {
            Step::REVOKE
        };
        self.give_up_in_steps(now, lease, step);
        self.calls.next_now();
        self.wait_again(now);
    }

    /// Rule 26: ends a term that was won, or handed over, before anything acted in it.
    pub(super) fn hand_on(&mut self, now: Moment, lease: Lease, token: FencingToken) {
        let term = Term {
            token,
            lease: lease.id,
        };
        let step = self.first_step(now, term);
        self.give_up_in_steps(now, lease, step);
        self.calls.next_now();
    }

    /// Begins to withdraw: what acts is asked to stop; a lease without a term is released at once.
    pub(super) fn withdraw(&mut self, now: Moment) {
        if self.withdrawing.is_some() {
            return;
        }
        self.withdrawing = Some(now);
        match self.state {
            State::Leader(_) => self.plan_stop(now, LossReason::Withdrawn),
            State::Follower { candidacy, .. } | State::Elected { candidacy, .. } => {
                let lease = candidacy.lease;
                self.events.push_back(Event::Releasing {
                    lease: lease.id,
                    led: false,
                });
                self.give_up(now, lease);
                self.calls.next_now();
            }
            State::Stopping { .. } | State::Unleased { .. } | State::Withdrawn => {}
        }
    }

    /// Rule 12: a candidate that was dropped with all its leaderships withdraws, and its term is over.
    pub(super) fn handle_abandoned(&mut self, now: Moment) {
        self.withdraw(now);
        if let Some(term) = self.state.tenure().map(|tenure| tenure.term) {
            self.handle_stopped(now, term);
        }
    }

    /// Rule 11: takes a leadership back that nobody has taken within a TTL; else its keys would bar
    /// everybody for as long as its lease is renewed.
    pub(super) fn expire_untaken(&mut self, now: Moment) {
        if let Some(tenure) = self.state.tenure()
            && tenure.take_back_at.take_if(|at| now >= *at).is_some()
        {
            let term = tenure.term;
            self.actions.push_back(Action::TakeBack { term });
        }
    }

    /// Returns the release that waits for this response, which has come now.
    pub(super) fn responded_release(&mut self, id: CallId) -> Option<usize> {
        let is_of = |release: &Release| matches!(release.call, Some((call, _)) if call == id);
        let place = self.releases.iter().position(is_of)?;
        self.releases[place].call = None;
        Some(place)
    }

    pub(super) fn handle_revocation(
        &mut self,
        now: Moment,
        id: CallId,
        result: Result<(), Failure>,
    ) {
        let Some(place) = self.responded_release(id) else {
            return;
        };
        match result {
            Ok(()) => {
                self.releases.swap_remove(place);
            }
            Err(failure) if failure.kind == FailureKind::LeaseNotFound => {
                self.releases.swap_remove(place);
            }
            Err(failure) => self.fail_release(now, place, failure),
        }
    }

    /// Takes in that a step of a release failed, or has had no response: the lease is revoked then, because
    /// what was asked for may still be carried out.
    pub(super) fn fail_release(&mut self, now: Moment, place: usize, failure: Failure) {
        let release = &mut self.releases[place];
        release.call = None;
        if release.step.revokes() {
            release.next = now + release.limit;
        } else {
            release.step = Step::REVOKE;
            release.next = now;
            if failure.is_permanent() {
                return;
            }
        }
        if matches!(self.state, State::Unleased { .. }) && self.withdrawing.is_some() {
            // Nothing else asks any more, so this is what finds the next endpoint.
            self.fail_connection(now, Some(failure));
        }
    }

    /// Lets what releases ask for run out, or no longer matter.
    pub(super) fn expire_releases(&mut self, now: Moment) {
        self.releases.retain(|release| now < release.expires);
        while let Some(place) = self
            .releases
            .iter()
            .position(|release| matches!(release.call, Some((_, until)) if now >= until))
        {
            let failure = Failure::new(FailureKind::TimedOut, "the lease was not revoked in time");
            self.fail_release(now, place, failure);
        }
    }

    /// The connection is gone, and with it what releases have asked for.
    pub(super) fn interrupt_releases(&mut self, now: Moment) {
        for release in &mut self.releases {
            if release.call.take().is_some() && !release.step.revokes() {
                release.step = Step::REVOKE;
            }
            release.next = now;
        }
    }

    /// Starts what releases need next, and ends a withdrawal that has nothing left to do.
    pub(super) fn advance_releases(&mut self, now: Moment) {
        for place in 0..self.releases.len() {
            let release = &self.releases[place];
            if now >= release.next && !self.calls.is_down() && self.may_start(release) {
                self.start_release(now, place);
            }
        }
        // A lease that may never have been granted is not worth the wait.
        let is_known = |release: &&Release| !matches!(release.step, Step::RevokeUnknown);
        let left_behind = self.releases.iter().find(is_known);
        let left_behind = left_behind.map(|release| release.lease);
        let done = left_behind.is_none() && self.calls.granting().is_none();
        if matches!(self.state, State::Unleased { .. })
            && self
                .withdrawal_ends()
                .is_some_and(|ends| done || now >= ends)
        {
            self.releases.clear();
            self.state = State::Withdrawn;
            self.disconnect(now);
            self.calls.stop_connecting();
            self.actions.push_back(Action::StopConnecting);
            self.events.push_back(Event::Withdrawn { left_behind });
        }
    }

    /// Returns true iff nothing under way stands against the next request of a release.
    fn may_start(&self, release: &Release) -> bool {
        let is_unknown = |release: &Release| matches!(release.step, Step::RevokeUnknown);
        let mut others = self.releases.iter();
        let waits =
            is_unknown(release) && others.any(|other| is_unknown(other) && other.call.is_some());
        release.call.is_none() && !waits
    }

    fn start_release(&mut self, now: Moment, place: usize) {
        let call = self.calls.new_id();
        let release = &mut self.releases[place];
        let lease = release.lease;
        let is_urgent = release.step.may_hold_keys();
        // One that is not urgent waits for its turn, which comes late if many elections share a slow connection and end
        // at once. That is no sign of a failure.
        let limit = if is_urgent {
            release.limit
        } else {
            Self::WITHDRAWAL_LIMITS * release.limit
        };
        release.call = Some((call, now + limit));
        let transaction = match &release.step {
            Step::Revoke { .. } | Step::RevokeUnknown => {
                return self.actions.push_back(Action::Revoke {
                    call,
                    lease,
                    is_urgent,
                    limit,
                });
            }
            Step::HandOver(handover) => match handover.request() {
                Request::Execute(transaction) => transaction,
                Request::AskLeaseTime(lease) => {
                    let asking = Action::AskLeaseTime { call, lease, limit };
                    return self.actions.push_back(asking);
                }
            },
            Step::Delete { term, with_leader } => {
                let seats = self.registry.seats();
                let seat = seats.and_then(|seats| Some(seats.of(lease)?.number));
                Transaction::release(*term, *with_leader, seat)
            }
        };
        self.actions.push_back(Action::Execute {
            call,
            transaction,
            limit,
        });
    }

    /// Takes in the response to the transaction of a release.
    pub(super) fn handle_release(
        &mut self,
        now: Moment,
        id: CallId,
        result: Result<View, Failure>,
    ) {
        let Some(place) = self.responded_release(id) else {
            return;
        };
        match (self.releases[place].step.clone(), result) {
            (Step::HandOver(handover), result) => self.proceed(now, place, handover, result),
            (Step::Delete { .. }, Ok(view)) => {
                let release = &mut self.releases[place];
                // What is still its own was guarded in vain: someone has written a key meanwhile.
                let holds = Known::from_view(view).ownership(release.lease) != Ownership::Neither;
                release.step = if holds { Step::REVOKE } else { Step::FREE };
            }
            (Step::Revoke { .. } | Step::RevokeUnknown, _) => {}
            (Step::Delete { .. }, Err(failure)) => self.fail_release(now, place, failure),
        }
    }

    pub(super) fn release_timeout(&self) -> Option<Moment> {
        let down = self.calls.is_down();
        let releases = self.releases.iter().map(|release| {
            let next = match release.call {
                Some((_, until)) => until,
                None if down || !self.may_start(release) => release.expires,
                None => release.next,
            };
            next.min(release.expires)
        });
        let withdrawal = match self.state {
            State::Unleased { .. } => self.withdrawal_ends(),
            _ => None,
        };
        releases.chain(withdrawal).min()
    }

    fn withdrawal_ends(&self) -> Option<Moment> {
        let longest = Self::WITHDRAWAL_LIMITS * self.timing().limit();
        self.withdrawing
            .map(|since| since + self.limit_withdrawal(longest))
    }
}
