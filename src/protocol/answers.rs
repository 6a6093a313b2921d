//! Decides what follows from the responses to requests: when a try is answered, and which right an
//! answered try gives.

use super::{
    Action, CallId, Candidacy, Effect, Event, Failure, FailureKind, KeptAlive, Known, Lease,
    Machine, Moment, Question, State, Tenure, Timing, Transaction, View,
    calls::{CallKind, Transacted},
    challenge::Deadline,
};
use std::time::Duration;

impl Machine {
    /// Uses a new connection, or turns to the next endpoint.
    pub(super) fn handle_connected(
        &mut self,
        now: Moment,
        id: CallId,
        result: Result<(), Failure>,
    ) {
        let Some((endpoint, was_passed_over)) = self.calls.finish_attempt(id) else {
            return;
        };
        match result {
            Ok(()) => {
                self.watch = None;
                self.interrupt_releases(now);
                self.interrupt_seat(now);
                self.interrupt_polling();
                self.calls.connected(endpoint);
                if self.state.lease().is_some() {
                    self.ask_version();
                }
            }
            Err(failure) if was_passed_over => {
                // It was counted when the next endpoint was tried beside it.
                self.calls.rotation.record_cause(endpoint, failure.clone());
                self.events.push_back(Event::Failed { endpoint, failure });
            }
            Err(failure) => self.fail_endpoint(now, endpoint, Some(failure)),
        }
    }

    /// Asks for etcd's version, unless it is known. Not called for a look at the keys: a thousand
    /// candidates may look at once.
    fn ask_version(&mut self) {
        if self.reporter.needs_version() {
            let limit = self.timing().ttl();
            self.actions.push_back(Action::AskVersion { limit });
        }
    }

    /// Returns true iff "the lease is gone" needs no second response: a former leader of etcd says
    /// so of every lease that it does not know, and a term is too much to lose by that.
    fn believes_lease_gone(&self) -> bool {
        !matches!(self.state, State::Leader(_) | State::Stopping { .. })
    }

    fn fail_keepalive(&mut self, now: Moment, id: CallId, failure: Failure) {
        if failure.kind == FailureKind::LeaseNotFound && self.believes_lease_gone() {
            self.lose_lease(now);
        } else {
            self.fail_call(now, id, Some(failure));
        }
    }

    pub(super) fn handle_grant(
        &mut self,
        now: Moment,
        id: CallId,
        result: Result<Duration, Failure>,
    ) {
        let Some(call) = self.calls.finish(id) else {
            return;
        };
        let CallKind::Grant { lease } = call.kind else {
            return;
        };
        match result {
            Ok(ttl) => {
                self.events.push_back(Event::Granted { lease, ttl });
                self.open_campaigns = 0;
                self.registry.begin();
                let lease = Lease {
                    id: lease,
                    timing: Timing::new(ttl, self.settings.grace),
                };
                if self.withdrawing.is_some() {
                    self.give_up(now, lease);
                    return;
                }
                let follows_lost_lease = matches!(
                    self.state,
                    State::Unleased {
                        follows_lost_lease: true
                    }
                );
                self.state = State::Follower {
                    candidacy: Candidacy {
                        lease,
                        answered: call.sent,
                        follows_lost_lease,
                    },
                    question: if self.holds_off(now) || self.stands_back {
                        Question::Read
                    } else {
                        Question::Campaign
                    },
                    acting_alone: None,
                };
                self.ask_version();
            }
            Err(failure) => {
                // Other failures come from etcd, which has granted nothing then.
                if matches!(
                    failure.kind,
                    FailureKind::TimedOut | FailureKind::Unreachable
                ) {
                    self.give_up_unknown(now, lease);
                }
                self.fail_connection(now, Some(failure));
            }
        }
    }

    /// Prepares for sending a try: if its answer is lost, a read finds out what it did.
    pub(super) fn begin_try(&mut self, now: Moment, transaction: &Transaction) {
        if let State::Follower { question, .. } = &mut self.state {
            *question = Question::Read;
        }
        if transaction.is_campaign() {
            self.open_campaigns += 1;
        }
        match transaction.effect {
            // One that takes over says so once it has.
            Effect::Lead {
                takes_over: false, ..
            } => self.events.extend(self.reporter.campaigning()),
            Effect::Lead { .. } => self.note_take_over_sent(),
            Effect::Challenge => self.note_challenge_sent(now),
            _ => {}
        }
        self.note_record_sent(transaction);
    }

    /// Lets a candidate whose campaign was not carried out campaign once more.
    pub(super) fn campaign_again(&mut self, transaction: &Transaction) {
        let asks = match transaction.effect {
            Effect::Lead {
                takes_over: true, ..
            } => Question::TakeOver,
            _ => Question::Campaign,
        };
        if let State::Follower { question, .. } = &mut self.state
            && !self.stands_back
        {
            *question = asks;
        }
    }

    pub(super) fn handle_keepalive(
        &mut self,
        now: Moment,
        id: CallId,
        result: Result<KeptAlive, Failure>,
    ) {
        let believes_lease_gone = self.believes_lease_gone();
        let Some(call) = self.calls.get(id) else {
            return;
        };
        match result {
            Ok(kept_alive) if kept_alive.ttl <= 0 && believes_lease_gone => self.lose_lease(now),
            Ok(kept_alive) => {
                call.kept_alive = Some(kept_alive);
                self.calls.clear_stream(id);
                self.complete_try(now, id);
            }
            Err(failure) => self.fail_keepalive(now, id, failure),
        }
    }

    pub(super) fn handle_transaction(
        &mut self,
        now: Moment,
        id: CallId,
        result: Result<View, Failure>,
    ) {
        let Some(call) = self.calls.get(id) else {
            return;
        };
        let view = match result {
            Ok(view) => view,
            Err(failure) if failure.kind == FailureKind::LeaseNotFound => {
                return self.lose_lease(now);
            }
            Err(failure) if self.refuse_to_join(now, &failure) => return,
            Err(failure) if self.refuse_challenge(now, id, &failure) => return,
            Err(failure) if self.deny_seats(id, &failure) => return,
            Err(failure) if self.refuse_record(now, id, &failure) => return,
            Err(failure) => return self.fail_call(now, id, Some(failure)),
        };
        // Rule 10: see `start_new_history`.
        let known = self.known.as_ref();
        let other_cluster = known.is_some_and(|known| known.cluster_id != view.cluster_id);
        let went_back = call
            .revision_before
            .is_some_and(|before| view.revision < before);
        if other_cluster || went_back {
            return self.start_new_history(now);
        }
        let outdated = known.is_some_and(|known| view.revision < known.revision());
        let raft_term = view.raft_term;
        let first_unseen = view.revision + 1;
        let record = view.done.clone();
        let seats = view.seats.clone();
        let mut seen = Known::from_view(view);
        let is_first = call.transacted.is_none();
        let about_challenge = call.is_about_challenge();
        seen.shows_challenge = about_challenge;
        let is_unchallenged = about_challenge && seen.challenge().is_none();
        call.transacted = Some(Transacted {
            raft_term,
            outdated,
            shows: call.lease().and_then(|lease| seen.acting_token(lease)),
            is_unchallenged,
        });
        let (sent, kind) = (call.sent, call.kind);
        if is_first && call.is_campaign() {
            self.open_campaigns = self.open_campaigns.saturating_sub(1);
        }
        self.events
            .extend(self.registry.permit(now, seats.is_some()));
        if let Some(seats) = seats {
            self.registry.show_in_try(seats, first_unseen - 1);
        }
        self.keys_as_of = self.keys_as_of.max(Some(sent));
        self.judge_job(now, sent, record, &seen);
        if !outdated {
            self.watch_if_needed(first_unseen, &seen);
            self.known = Some(seen);
            self.suspicions.permit(now, about_challenge);
            self.judge_answer(now, sent);
            if is_unchallenged {
                self.record_unchallenged(sent);
            }
        }
        match kind {
            CallKind::Look { .. } => self.complete_look(now, id),
            CallKind::Try { .. } | CallKind::Grant { .. } => self.complete_try(now, id),
        }
    }

    /// Draws the conclusion from a look at the keys.
    fn complete_look(&mut self, now: Moment, id: CallId) {
        if self.calls.finish(id).is_none() {
            // The machine has ended the call because of what this response shows.
            return;
        }
        self.report_answer();
        self.calls.next_now();
        self.look = self.look.and_then(|look| look.next(self.settings));
        self.judge_wait(now);
    }

    /// Rule 13: ends a try, in time or overdue, once both halves are there, and draws the conclusion
    /// that takes both.
    fn complete_try(&mut self, now: Moment, id: CallId) {
        let Some(call) = self.calls.get(id) else {
            return;
        };
        let (Some(kept_alive), Some(transacted)) = (call.kept_alive, call.transacted) else {
            return;
        };
        let (sent, kind) = (call.sent, call.kind);
        if kept_alive.raft_term != transacted.raft_term {
            // A member that was cut off or frozen answers keepalives that extend nothing.
            return self.fail_call(now, id, None);
        }
        let is_overdue = self.calls.finish(id).is_none();
        let is_of_late_link = self.calls.is_of_late_link(id);
        self.calls.finish_overdue(id);
        if kept_alive.ttl <= 0 {
            return self.lose_lease(now);
        }
        if is_of_late_link && self.calls.return_to_late_link() {
            self.actions.push_back(Action::StopConnecting);
        } else if is_overdue {
            // Another connection has taken the place of its own; what it shows counts all the same.
            if !transacted.outdated {
                self.report_answer();
                self.accept_answer(now, sent, kept_alive, transacted);
            }
            return;
        }
        if transacted.outdated {
            return self.calls.next_now();
        }
        // A read that leads to a write settles nothing: that may be refused again and again.
        let writes_next = match self.state {
            State::Follower { question, .. } => question != Question::Read,
            _ => false,
        };
        let wrote = matches!(kind, CallKind::Try { transaction, .. } if transaction.writes());
        if wrote || !writes_next {
            self.report_answer();
        }
        if let Some(next) = self.accept_answer(now, sent, kept_alive, transacted) {
            self.calls.next_at(next);
        }
        self.judge_rivals(now);
    }

    /// Records that etcd answers, and reports that if it was reported that it does not.
    fn report_answer(&mut self) {
        if self.calls.record_answer() {
            let endpoint = self.calls.endpoint();
            self.events.push_back(Event::AnsweredAgain { endpoint });
        }
    }

    /// Rules 3 and 5: accepts the answer to a try sent at `sent`, whose keys are judged already: it renews, or lets a
    /// term begin. Returns when the next try is to be sent.
    fn accept_answer(
        &mut self,
        now: Moment,
        sent: Moment,
        kept_alive: KeptAlive,
        transacted: Transacted,
    ) -> Option<Moment> {
        self.allow_record();
        let shows = transacted.shows;
        let must_confirm = self.must_confirm();
        let of_suspicion = self.when_suspicion_asks();
        let acts_until = |lease: &Lease| {
            let ttl = Duration::from_secs(kept_alive.ttl.unsigned_abs());
            let shorter = lease.timing.ttl().saturating_sub(ttl);
            sent + lease.timing.term_of_try().saturating_sub(shorter)
        };
        let next = match &mut self.state {
            State::Follower {
                candidacy,
                acting_alone,
                ..
            } => {
                candidacy.answered = candidacy.answered.max(sent);
                candidacy.follows_lost_lease = false;
                let nobody = self.known.as_ref().is_some_and(Known::both_absent);
                if nobody && !self.stands_back {
                    self.hold_off.map_or(now, |until| until.max(now))
                } else {
                    let every = candidacy.lease.timing.follow_every();
                    let next = sent + self.registry.pace(candidacy.lease.id, every);
                    let next = acting_alone.map_or(next, |alone| alone.next_try(sent, next));
                    of_suspicion.map_or(next, |asks| next.min(asks).max(now))
                }
            }
            State::Elected {
                candidacy, token, ..
            } => {
                candidacy.answered = candidacy.answered.max(sent);
                candidacy.follows_lost_lease = false;
                let (lease, token) = (candidacy.lease, *token);
                let unchallenged = lease
                    .timing
                    .fail_over()
                    .map(|limit| sent + limit.acts_for());
                let deadline = Deadline {
                    leased: acts_until(&lease),
                    unchallenged,
                };
                let is_unchallenged = unchallenged.is_none() || transacted.is_unchallenged;
                // A watch may have been faster than the second half of the answer.
                let both = self
                    .known
                    .as_ref()
                    .is_some_and(|known| known.token(lease.id) == Some(token));
                let in_time = now < lease.timing.stop_from(deadline.at());
                if both && shows == Some(token) && is_unchallenged && in_time {
                    if self.stands_back {
                        self.hand_on(now, lease, token);
                        return Some(now);
                    }
                    self.begin_term(now, lease, token, deadline);
                }
                sent + lease.timing.renew_every()
            }
            State::Leader(Tenure {
                lease,
                term,
                deadline,
                reported,
                ..
            }) => {
                if shows == Some(term.token) {
                    deadline.leased = acts_until(lease).max(deadline.leased);
                }
                let renewed = deadline.at();
                if renewed > *reported {
                    *reported = renewed;
                    self.events.push_back(Event::Renewed {
                        term: *term,
                        sent,
                        deadline: renewed,
                    });
                }
                sent + lease.timing.renew_every()
            }
            State::Stopping {
                tenure,
                renewing: true,
                ..
            } => {
                if shows == Some(tenure.term.token) {
                    let leased = acts_until(&tenure.lease);
                    tenure.deadline.leased = leased.max(tenure.deadline.leased);
                }
                sent + tenure.lease.timing.renew_every()
            }
            State::Stopping { .. } | State::Unleased { .. } | State::Withdrawn => return None,
        };
        Some(if must_confirm { now } else { next })
    }
}
