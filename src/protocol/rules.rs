//! The rules of candidates and leaders: what follows from the state of the keys, from the loss of a
//! lease, and from the passing of time. The numbers of the rules are those of `docs/protocol.md`.

use super::{
    Action, Beginning, CallId, Candidacy, ElectionKey, Entry, Event, FencingToken, Known, Lease,
    LossReason, Machine, Moment, Question, State, Tenure, Term, challenge::Deadline,
    handover::SignOfLife, suspicion::Suspicions, view::Ownership, yielding::Rivals,
};

/// What the keys show.
impl Machine {
    /// Rule 3: judges the keys as the response to a transaction that was sent at `sent` showed them.
    pub(super) fn judge_answer(&mut self, now: Moment, sent: Moment) {
        let (Some(known), Some(lease)) = (&self.known, self.state.lease()) else {
            return;
        };
        let (ownership, token) = (known.ownership(lease.id), known.token(lease.id));
        match (self.state, token) {
            (State::Follower { .. }, None) if ownership == Ownership::Neither => {
                self.follow(now, Some(sent));
            }
            (State::Follower { mut candidacy, .. }, Some(token)) => {
                let settings = known.acting().map(|acting| acting.settings);
                let settings = settings.unwrap_or_default();
                // The leader that was followed has handed its term over, or was not alive.
                self.events.extend(self.reporter.leader_gone());
                if settings.was_taken_over {
                    self.events.extend(self.reporter.campaigning());
                }
                // Rule 28: the term has the limit that its key says.
                let timing = candidacy.lease.timing.within(settings.fail_over);
                candidacy.lease.timing = timing;
                self.state = State::Elected {
                    candidacy,
                    token,
                    seen: now,
                };
            }
            (State::Elected { token, .. }, Some(same)) if token == same => {}
            // Half a pair can become no term, and would bar everybody for as long as it is kept.
            (State::Follower { .. } | State::Elected { .. }, _) => self.start_afresh(now, lease),
            (State::Leader(_) | State::Stopping { .. }, _) => self.judge_term(now),
            (State::Unleased { .. } | State::Withdrawn, _) => {}
        }
    }

    /// Rule 6: judges whether a term goes on, by a response or by an event.
    fn judge_term(&mut self, now: Moment) {
        let Some(term) = self.state.tenure().map(|tenure| tenure.term) else {
            return;
        };
        let Some(known) = &self.known else { return };
        match known.ownership_in(term) {
            Ownership::Both => {}
            // Another may act already: there is no time to ask.
            Ownership::LeaderAlone | Ownership::Neither => {
                let acting = known.acting();
                let reason = match acting {
                    Some(acting) if acting.settings.was_taken_over => LossReason::TakenOver,
                    _ => LossReason::ActingKeyTaken,
                };
                self.lose(now, reason, now);
            }
            Ownership::ActingAlone => {
                let reason = if known.leader().is_some() {
                    LossReason::LeaderKeyOverwritten
                } else {
                    LossReason::LeaderKeyDeleted
                };
                self.plan_stop(now, reason);
            }
        }
    }

    /// Rules 2 and 4: follows while both keys are somebody else's, and campaigns once both are
    /// absent. `sent` is when the try was sent whose response shows the keys, if it is not an event.
    pub(super) fn follow(&mut self, now: Moment, sent: Option<Moment>) {
        self.judge_challenge(now, sent);
        self.choose_question(now);
        let Some(known) = &self.known else { return };
        if let Some((key, entry)) = known.without_lease() {
            let report = self.reporter.key_without_lease(key, entry);
            self.events.extend(report);
        }
        // The keys of a former term of its own are about to go.
        let is_others = |entry: &&Entry| entry.lease.is_none_or(|lease| !self.is_given_up(lease));
        let leader = known.leader().filter(|_| known.situation().is_led());
        let alone = known.acting_alone().filter(is_others);
        let alone = alone.map(|acting| acting.mod_revision);
        match leader {
            Some(leader) if is_others(&leader) => {
                let reports = self.reporter.following(leader);
                self.events.extend(reports);
            }
            Some(_) => {}
            None => self.events.extend(self.reporter.leader_gone()),
        }
        self.judge_acting_alone(now, sent, alone);
        self.judge_wait(now);
    }

    /// Rules 2, 30 and 31: chooses what a follower does next.
    pub(super) fn choose_question(&mut self, now: Moment) {
        let Some(known) = &self.known else { return };
        let may_campaign = known.both_absent() && !self.holds_off(now) && !self.stands_back;
        let of_suspicion = self.question_of_suspicion(now);
        if let State::Follower { question, .. } = &mut self.state {
            *question = match of_suspicion {
                _ if may_campaign => Question::Campaign,
                Some(of_suspicion) => of_suspicion,
                None => Question::Read,
            };
        }
    }

    /// Rule 9: takes in that the watch saw a key change. Watches are hints, transactions decide: an
    /// event makes a follower campaign or a leader step down; any other surprise calls for a read.
    pub(super) fn handle_change(
        &mut self,
        now: Moment,
        watch: CallId,
        key: ElectionKey,
        revision: i64,
        entry: Option<Entry>,
    ) {
        if self.watch != Some(watch) {
            return;
        }
        let Some(known) = &mut self.known else { return };
        if !known.apply(key, revision, entry) {
            return;
        }
        match self.state {
            State::Follower { candidacy, .. }
                if known.ownership(candidacy.lease.id) == Ownership::Neither =>
            {
                self.follow(now, None);
                self.campaign_soon(now);
            }
            State::Follower { .. } | State::Elected { .. } => self.calls.next_soon(),
            State::Leader(_) => {
                self.judge_term(now);
                if matches!(self.state, State::Leader(_)) {
                    self.calls.next_soon();
                }
            }
            State::Stopping { .. } => self.judge_term(now),
            State::Unleased { .. } => self.judge_wait(now),
            State::Withdrawn => {}
        }
    }

    /// Lets a follower campaign at once if nobody leads, or once it does not hold off any more.
    pub(super) fn campaign_soon(&mut self, now: Moment) {
        let nobody = self.known.as_ref().is_some_and(Known::both_absent);
        match self.hold_off {
            _ if !nobody || self.stands_back => {}
            Some(until) if now < until => self.calls.next_at(until),
            _ => self.calls.next_soon(),
        }
    }

    /// Rule 33: watches both keys, unless this is one of many followers without a seat.
    pub(super) fn watch_if_needed(&mut self, from_revision: i64, seen: &Known) {
        let is_left_out = match self.state {
            State::Follower { candidacy, .. } => {
                let lease = candidacy.lease.id;
                self.registry.is_left_out(lease) && seen.ownership(lease) == Ownership::Neither
            }
            _ => false,
        };
        if !is_left_out {
            self.open_watch(from_revision);
        } else if self.watch.take().is_some() {
            self.actions.push_back(Action::Unwatch);
        }
    }

    /// Opens a watch of both keys, unless there is one.
    fn open_watch(&mut self, from_revision: i64) {
        if self.watch.is_some() {
            return;
        }
        let watch = self.calls.new_id();
        self.watch = Some(watch);
        self.actions.push_back(Action::Watch {
            watch,
            from_revision,
            limit: self.timing().limit(),
        });
    }

    /// Rule 9: reads, then watches from there; at once, but once in a period only, since watches may
    /// end as often as they are opened.
    pub(super) fn handle_watch_end(&mut self, now: Moment, watch: CallId) {
        if self.watch.take_if(|id| *id == watch).is_some()
            && self.watch_replaced_until.is_none_or(|until| now >= until)
            && !self.calls.is_down()
        {
            self.watch_replaced_until = Some(now + self.timing().limit());
            self.calls.next_soon();
        }
    }

    /// Rule 10: forgets what is known, because a transaction's revision is below what was seen before
    /// it was sent, or comes from another cluster.
    pub(super) fn start_new_history(&mut self, now: Moment) {
        self.events.push_back(Event::HistoryWentBack);
        self.known = None;
        self.registry.forget();
        self.sign_of_life = SignOfLife::default();
        self.suspicions = Suspicions::default();
        self.keys_as_of = None;
        self.disconnect(now);
        match self.state {
            State::Follower { candidacy, .. } | State::Elected { candidacy, .. } => {
                self.start_afresh(now, candidacy.lease);
            }
            State::Leader(tenure) | State::Stopping { tenure, .. } => {
                let by = tenure.stop_by(now);
                self.lose(now, LossReason::HistoryWentBack, by);
            }
            State::Unleased { .. } | State::Withdrawn => {}
        }
    }

    /// Rule 8: lets others lead first, because this candidate's requests, or their responses, do not arrive.
    pub(super) fn hold_off_after_failure(&mut self, now: Moment, lease: Lease) {
        self.hold_off = self.hold_off.max(Some(now + lease.timing.limit()));
    }

    /// Rule 8: returns true iff it lets others lead first.
    pub(super) fn holds_off(&self, now: Moment) -> bool {
        self.hold_off.is_some_and(|until| now < until)
    }
}

/// The beginning and the end of terms and leases.
impl Machine {
    /// Rule 3: begins the term of an elected candidate whose own try was answered.
    pub(super) fn begin_term(
        &mut self,
        now: Moment,
        lease: Lease,
        token: FencingToken,
        deadline: Deadline,
    ) {
        let term = Term {
            token,
            lease: lease.id,
        };
        self.rivals = Rivals::default();
        self.state = State::Leader(Tenure {
            lease,
            term,
            deadline,
            reported: deadline.at(),
            take_back_at: Some(now + lease.timing.ttl()),
        });
        let deadline = deadline.at();
        self.actions.push_back(Action::Lead { term, deadline });
        let beginning = self.known.as_ref().map(Known::beginning);
        self.events.push_back(Event::Leading {
            term,
            deadline,
            beginning: beginning.unwrap_or(Beginning::Campaign),
            fail_over: lease.timing.fail_over(),
        });
    }

    /// Rule 6: asks what acts to finish, for as long as the lease can be renewed.
    pub(super) fn plan_stop(&mut self, now: Moment, reason: LossReason) {
        let State::Leader(tenure) = self.state else {
            return;
        };
        let term = tenure.term;
        self.state = State::Stopping {
            tenure,
            by: now + self.settings.stop_timeout,
            reason,
            renewing: true,
        };
        self.events.push_back(Event::Lost { term, reason });
    }

    /// Ends a term at once, or shortens a planned stop. The term cannot be renewed afterwards.
    fn lose(&mut self, now: Moment, reason: LossReason, by: Moment) {
        let (tenure, reason, by) = match self.state {
            State::Leader(tenure) => {
                let term = tenure.term;
                self.events.push_back(Event::Lost { term, reason });
                (tenure, reason, by)
            }
            State::Stopping {
                tenure,
                by: earlier,
                reason,
                renewing,
            } => {
                if !renewing && by >= earlier {
                    return;
                }
                (tenure, reason, by.min(earlier))
            }
            _ => return,
        };
        self.state = State::Stopping {
            tenure,
            by: by.max(now).min(tenure.deadline.at().max(now)),
            reason,
            renewing: false,
        };
        self.calls.abandon();
        self.limit_recording(now);
    }

    /// Ends what depends on a lease that is gone. The callers have checked that this is certain: in a
    /// term, a keepalive alone does not prove it.
    pub(super) fn lose_lease(&mut self, now: Moment) {
        match self.state {
            State::Follower { candidacy, .. } | State::Elected { candidacy, .. } => {
                let Candidacy {
                    lease,
                    follows_lost_lease,
                    ..
                } = candidacy;
                self.events.push_back(Event::LeaseGone { lease: lease.id });
                if follows_lost_lease {
                    self.start_afresh(now, lease);
                } else {
                    self.give_up(now, lease);
                    self.calls.next_now();
                }
                self.state = State::Unleased {
                    follows_lost_lease: true,
                };
            }
            State::Leader(_) | State::Stopping { .. } => {
                self.lose(now, LossReason::LeaseGone, now);
            }
            State::Unleased { .. } | State::Withdrawn => {}
        }
    }

    /// Gives the lease up, and waits before asking for another.
    fn start_afresh(&mut self, now: Moment, lease: Lease) {
        self.give_up(now, lease);
        self.back_off(lease.timing.longest_back_off());
    }

    /// Does the same, and holds off.
    fn start_afresh_after_others(&mut self, now: Moment, lease: Lease) {
        self.hold_off_after_failure(now, lease);
        self.start_afresh(now, lease);
    }

    /// Ends what has run out by `now`.
    pub(super) fn expire(&mut self, now: Moment) {
        self.expire_untaken(now);
        self.expire_state(now);
        self.expire_wait(now);
        self.expire_recording(now);
        self.expire_calls(now);
        self.expire_releases(now);
        self.expire_seat(now);
        self.expire_suspicion(now);
    }

    /// Rules 3 and 6: ends a state whose time has passed.
    fn expire_state(&mut self, now: Moment) {
        match self.state {
            State::Leader(tenure)
            | State::Stopping {
                tenure,
                renewing: true,
                ..
            } if now >= tenure.stop_from() => {
                let by = tenure.stop_by(now);
                self.lose(now, LossReason::NotRenewed, by);
            }
            // It had its time to finish: the lease is renewed no more, and ends by itself unless
            // this stops at last.
            State::Stopping {
                reason,
                by,
                renewing: true,
                ..
            } if now >= by => self.lose(now, reason, by),
            State::Follower { candidacy, .. } if now >= candidacy.expires() => {
                // It may have been elected, without a response that says so.
                self.start_afresh_after_others(now, candidacy.lease);
            }
            State::Elected {
                candidacy, seen, ..
            } if now >= candidacy.expires() || now >= candidacy.must_act_by(seen) => {
                self.start_afresh_after_others(now, candidacy.lease);
            }
            _ => {}
        }
    }
}
