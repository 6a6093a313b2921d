//! Rule 7, the release of leases: stop acting, *then* revoke, in this order on every path.

use super::{
    Action, CallId, Event, Failure, FailureKind, Lease, LeaseId, LossReason, Machine, Moment,
    State, Tenure, Term,
};
use std::time::Duration;

/// A lease that was given up and may still exist. Its keys are nobody's: a late win on it changes
/// nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Release {
    lease: LeaseId,
    /// When it has ended by itself.
    expires: Moment,
    limit: Duration,
    /// The revocation under way, and when it has run out.
    call: Option<(CallId, Moment)>,
    next: Moment,
}

impl Machine {
    /// How many limits a withdrawal waits for its lease to be revoked: time for two endpoints to
    /// fail, by connecting and by answering.
    pub(super) const WITHDRAWAL_LIMITS: u32 = 4;

    /// Returns true iff a lease is one that this candidate has given up, and that may still exist.
    #[must_use]
    pub fn is_given_up(&self, lease: LeaseId) -> bool {
        self.releases.iter().any(|release| release.lease == lease)
    }

    /// Gives a lease up: it is revoked, by retries beside whatever comes next, until it is gone or
    /// its TTL has passed.
    pub(super) fn give_up(&mut self, now: Moment, lease: Lease) {
        self.state = State::Unleased {
            follows_lost_lease: false,
        };
        self.calls.abandon();
        self.releases.push(Release {
            lease: lease.id,
            expires: now + lease.timing.ttl(),
            limit: lease.timing.limit(),
            call: None,
            next: now,
        });
    }

    /// Ends a term in which nothing acts any more.
    pub(super) fn handle_stopped(&mut self, now: Moment, stopped: Term) {
        let (lease, reason) = match self.state {
            State::Stopping { tenure, reason, .. } if tenure.term == stopped => {
                (tenure.lease, reason)
            }
            State::Leader(Tenure { lease, term, .. }) if term == stopped => {
                let reason = LossReason::Resigned;
                self.events.push_back(Event::Lost { term, reason });
                (lease, reason)
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
        } else if reason.is_planned() {
            self.hold_off = Some(now + lease.timing.hold_off());
        }
        self.give_up(now, lease);
        self.calls.next_now();
        self.wait_again(now);
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
    pub(super) fn expire_offer(&mut self, now: Moment) {
        if let Some(tenure) = self.state.tenure()
            && tenure.take_back_at.take_if(|at| now >= *at).is_some()
        {
            let term = tenure.term;
            self.actions.push_back(Action::TakeBack { term });
        }
    }

    pub(super) fn handle_revocation(
        &mut self,
        now: Moment,
        id: CallId,
        result: Result<(), Failure>,
    ) {
        let Some(place) = self
            .releases
            .iter()
            .position(|release| matches!(release.call, Some((call, _)) if call == id))
        else {
            return;
        };
        match result {
            Ok(()) => {
                self.releases.swap_remove(place);
            }
            Err(failure) if failure.kind == FailureKind::LeaseNotFound => {
                self.releases.swap_remove(place);
            }
            Err(failure) => self.fail_revocation(now, place, failure),
        }
    }

    fn fail_revocation(&mut self, now: Moment, place: usize, failure: Failure) {
        let release = &mut self.releases[place];
        release.call = None;
        release.next = now + release.limit;
        if matches!(self.state, State::Unleased { .. }) && self.withdrawing.is_some() {
            // Nothing else asks any more, so this is what finds the next endpoint.
            self.fail_connection(now, Some(failure));
        }
    }

    /// Lets revocations run out, or no longer matter.
    pub(super) fn expire_releases(&mut self, now: Moment) {
        self.releases.retain(|release| now < release.expires);
        while let Some(place) = self
            .releases
            .iter()
            .position(|release| matches!(release.call, Some((_, until)) if now >= until))
        {
            let failure = Failure::new(FailureKind::TimedOut, "the lease was not revoked in time");
            self.fail_revocation(now, place, failure);
        }
    }

    /// The connection is gone, and with it the revocations under way.
    pub(super) fn interrupt_releases(&mut self, now: Moment) {
        for release in &mut self.releases {
            release.call = None;
            release.next = now;
        }
    }

    /// Starts the revocations that are due, and ends a withdrawal that has nothing left to do.
    pub(super) fn advance_releases(&mut self, now: Moment) {
        if !self.calls.is_down() {
            for release in &mut self.releases {
                if release.call.is_none() && now >= release.next {
                    let call = self.calls.new_id();
                    release.call = Some((call, now + release.limit));
                    self.actions.push_back(Action::Revoke {
                        call,
                        lease: release.lease,
                        limit: release.limit,
                    });
                }
            }
        }
        let done = self.releases.is_empty() && !self.calls.is_granting();
        if matches!(self.state, State::Unleased { .. })
            && self
                .withdrawal_ends()
                .is_some_and(|ends| done || now >= ends)
        {
            let left_behind = self.releases.first().map(|release| release.lease);
            self.releases.clear();
            self.state = State::Withdrawn;
            self.disconnect(now);
            self.calls.stop_connecting();
            self.actions.push_back(Action::StopConnecting);
            self.events.push_back(Event::Withdrawn { left_behind });
        }
    }

    pub(super) fn release_timeout(&self) -> Option<Moment> {
        let down = self.calls.is_down();
        let releases = self.releases.iter().map(|release| {
            let next = match release.call {
                Some((_, until)) => until,
                None if down => release.expires,
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
