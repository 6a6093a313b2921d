//! What follows from the answers to questions: when a try is answered, and what it is worth.

use super::{
    Action, CallId, Event, Failure, FailureKind, KeptAlive, Known, Lease, LeaseId, Machine, Moment,
    Question, Said, State, Timing, Transaction, View,
    calls::{CallKind, Transacted},
};
use std::time::Duration;

impl Machine {
    pub(super) fn opened(&mut self, now: Moment, id: CallId, result: Result<(), Failure>) {
        let Some(call) = self.calls.finish(id) else {
            return;
        };
        match (result, call.kind) {
            (Ok(()), CallKind::Connect { lease }) => self.calls.opened(lease),
            (Ok(()), CallKind::OpenKeepAlive { lease }) => self.calls.opened(Some(lease)),
            (Ok(()), CallKind::Grant | CallKind::Try { .. }) => {}
            (Err(failure), _) => self.keepalive_failed(now, failure),
        }
    }

    /// Whether "the lease is gone" needs no second answer: a former leader of etcd says so of every
    /// lease that it has never heard of, and a term is too much to lose by that.
    fn believes_lease_gone(&self) -> bool {
        !matches!(self.state, State::Leader { .. } | State::Stopping { .. })
    }

    fn keepalive_failed(&mut self, now: Moment, failure: Failure) {
        if failure.kind == FailureKind::LeaseNotFound && self.believes_lease_gone() {
            self.lease_gone(now);
        } else {
            self.call_failed(now, Some(failure));
        }
    }

    pub(super) fn granted(
        &mut self,
        now: Moment,
        id: CallId,
        result: Result<(LeaseId, Duration), Failure>,
    ) {
        let Some(call) = self.calls.finish(id) else {
            return;
        };
        match result {
            Ok((lease, ttl)) => {
                self.events.push_back(Event::Granted { lease, ttl });
                let lease = Lease {
                    id: lease,
                    timing: Timing::new(ttl, self.settings.grace),
                };
                if self.withdrawing.is_some() {
                    self.give_up(now, lease);
                    return;
                }
                self.state = State::Follower {
                    lease,
                    answered: call.sent,
                    question: if now < self.hold_off {
                        Question::Read
                    } else {
                        Question::Campaign
                    },
                };
            }
            Err(failure) => self.call_failed(now, Some(failure)),
        }
    }

    /// A try is about to be sent. Should its answer be lost, a read finds out what it did.
    pub(super) fn begin_try(&mut self, transaction: &Transaction) {
        if let State::Follower { question, .. } = &mut self.state {
            *question = Question::Read;
        }
        if transaction.writes() && self.said != Said::Campaigning {
            self.said = Said::Campaigning;
            let again = std::mem::replace(&mut self.campaigned_before, true);
            self.events.push_back(Event::Campaigning { again });
        }
    }

    pub(super) fn kept_alive(
        &mut self,
        now: Moment,
        id: CallId,
        result: Result<KeptAlive, Failure>,
    ) {
        let believes_lease_gone = self.believes_lease_gone();
        let Some(call) = self.calls.current(id) else {
            return;
        };
        match result {
            Ok(kept_alive) if kept_alive.ttl <= 0 && believes_lease_gone => self.lease_gone(now),
            Ok(kept_alive) => {
                call.kept_alive = Some(kept_alive);
                self.complete_try(now, id);
            }
            Err(failure) => self.keepalive_failed(now, failure),
        }
    }

    pub(super) fn transacted(&mut self, now: Moment, id: CallId, result: Result<View, Failure>) {
        let Some(call) = self.calls.current(id) else {
            return;
        };
        let view = match result {
            Ok(view) => view,
            Err(failure) if failure.kind == FailureKind::LeaseNotFound => {
                return self.lease_gone(now);
            }
            Err(failure) => return self.call_failed(now, Some(failure)),
        };
        let known = self.known.as_ref();
        let other_cluster = known.is_some_and(|known| known.cluster_id != view.cluster_id);
        if other_cluster || view.revision < call.revision_before {
            return self.history_went_back(now);
        }
        let outdated = known.is_some_and(|known| view.revision < known.revision());
        call.transacted = Some(Transacted {
            raft_term: view.raft_term,
            outdated,
        });
        if !outdated {
            self.open_watch(view.revision + 1);
            self.known = Some(Known::from_view(view));
            self.judge_answer(now);
        }
        self.complete_try(now, id);
    }

    /// Ends a try once both halves are there, and draws the conclusion that takes both.
    fn complete_try(&mut self, now: Moment, id: CallId) {
        let Some(call) = self.calls.current(id) else {
            return;
        };
        let (Some(kept_alive), Some(transacted)) = (call.kept_alive, call.transacted) else {
            return;
        };
        let (sent, kind) = (call.sent, call.kind);
        if kept_alive.raft_term != transacted.raft_term {
            // A member that was cut off or frozen answers keepalives that extend nothing.
            return self.call_failed(now, None);
        }
        self.calls.finish(id);
        if kept_alive.ttl <= 0 {
            return self.lease_gone(now);
        }
        if transacted.outdated {
            return self.calls.next_now();
        }
        self.lease_was_gone = false;
        // A read that leads to a campaign settles nothing: that may be refused again and again.
        let campaigns_next = matches!(
            self.state,
            State::Follower {
                question: Question::Campaign,
                ..
            }
        );
        let campaigned = matches!(kind, CallKind::Try { transaction, .. } if transaction.writes());
        if (campaigned || !campaigns_next) && self.calls.record_answer() {
            let endpoint = self.calls.rotation.endpoint();
            self.events.push_back(Event::AnsweredAgain { endpoint });
        }
        self.answered(now, sent, kept_alive);
    }

    /// A try sent at `sent` was answered, and the keys are judged already.
    fn answered(&mut self, now: Moment, sent: Moment, kept_alive: KeptAlive) {
        let acts_until = |lease: &Lease| {
            let ttl = Duration::from_secs(kept_alive.ttl.unsigned_abs());
            let shorter = lease.timing.ttl().saturating_sub(ttl);
            sent + lease.timing.term_of_try().saturating_sub(shorter)
        };
        let next = match &mut self.state {
            State::Follower {
                lease, answered, ..
            } => {
                *answered = sent;
                let nobody = self.known.as_ref().is_some_and(Known::both_absent);
                if nobody {
                    self.hold_off.max(now)
                } else {
                    sent + lease.timing.follow_every()
                }
            }
            State::Elected {
                lease,
                answered,
                token,
                ..
            } => {
                *answered = sent;
                let (lease, token) = (*lease, *token);
                let deadline = acts_until(&lease);
                // A watch may have been faster than the second half of the answer.
                let both = self
                    .known
                    .as_ref()
                    .is_some_and(|known| known.token(lease.id) == Some(token));
                if both && now < lease.timing.stop_from(deadline) {
                    self.begin_term(lease, token, deadline);
                }
                sent + lease.timing.renew_every()
            }
            State::Leader {
                lease,
                term,
                deadline,
            } => {
                let renewed = acts_until(lease);
                if renewed > *deadline {
                    *deadline = renewed;
                    self.events.push_back(Event::Renewed {
                        term: *term,
                        deadline: renewed,
                    });
                }
                sent + lease.timing.renew_every()
            }
            State::Stopping {
                lease,
                deadline,
                renewing: true,
                ..
            } => {
                *deadline = acts_until(lease).max(*deadline);
                sent + lease.timing.renew_every()
            }
            State::Stopping { .. } | State::Unleased | State::Withdrawn => return,
        };
        self.calls.next_at(next);
    }

    /// A question failed, or was answered from two raft terms (then without a failure to tell).
    pub(super) fn call_failed(&mut self, now: Moment, failure: Option<Failure>) {
        let unauthenticated = failure
            .as_ref()
            .is_some_and(|failure| failure.kind == FailureKind::Unauthenticated);
        if unauthenticated && self.calls.has_answered() {
            // The token has expired: a new connection brings a new one.
            self.disconnect(now);
            return self.calls.next_now();
        }
        if let Some(failure) = failure.clone() {
            let endpoint = self.calls.rotation.endpoint();
            self.events.push_back(Event::Failed { endpoint, failure });
        }
        self.disconnect(now);
        if !self.calls.record_failure(failure) {
            return;
        }
        if self.withdrawing.is_none()
            && let Some((endpoint, failure)) = self.calls.rotation.take_report()
        {
            self.events
                .push_back(Event::Unanswered { endpoint, failure });
        }
        match self.state {
            State::Elected { lease, .. }
            | State::Leader { lease, .. }
            | State::Stopping { lease, .. } => {
                let next = self.calls.round_started() + lease.timing.limit();
                self.calls.next_at(next);
            }
            State::Unleased | State::Follower { .. } | State::Withdrawn => {
                let longest = self.timing().longest_back_off();
                self.back_off(self.calls.rotation.back_off_limit(longest));
            }
        }
    }

    pub(super) fn disconnect(&mut self, now: Moment) {
        self.actions.push_back(Action::Disconnect);
        self.calls.disconnected();
        self.watch = None;
        self.interrupt_releases(now);
    }

    pub(super) fn back_off(&mut self, at_most: Duration) {
        let call = self.calls.back_off();
        self.actions.push_back(Action::BackOff { call, at_most });
    }
}
