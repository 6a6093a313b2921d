//! The rules of candidates and leaders: what follows from what the keys show, from a lease that is
//! gone and from the passing of time.

use super::{
    Action, CallId, ElectionKey, Entry, Event, FencingToken, Lease, LossReason, Machine, Moment,
    Question, Said, State, Term, view::Ownership,
};

/// What the keys say.
impl Machine {
    /// Judges the keys as a transaction's answer has shown them.
    pub(super) fn judge_answer(&mut self, now: Moment) {
        let (Some(known), Some(lease)) = (&self.known, self.state.lease()) else {
            return;
        };
        let (ownership, token) = (known.ownership(lease.id), known.token(lease.id));
        match (self.state, token) {
            (State::Follower { .. }, None) if ownership == Ownership::Neither => {
                self.follow(now, true);
            }
            (
                State::Follower {
                    lease, answered, ..
                },
                Some(token),
            ) => {
                self.state = State::Elected {
                    lease,
                    answered,
                    seen: now,
                    token,
                };
            }
            (State::Elected { token, .. }, Some(same)) if token == same => {}
            // Half a pair can become no term, and would bar everybody for as long as it is kept.
            (State::Follower { .. } | State::Elected { .. }, _) => self.start_afresh(now, lease),
            (State::Leader { .. } | State::Stopping { .. }, _) => self.judge_term(now),
            (State::Unleased | State::Withdrawn, _) => {}
        }
    }

    /// Judges whether a term goes on, by an answer or by an event.
    fn judge_term(&mut self, now: Moment) {
        let (State::Leader { term, .. } | State::Stopping { term, .. }) = self.state else {
            return;
        };
        let Some(known) = &self.known else { return };
        match known.ownership_in(term) {
            Ownership::Both => {}
            // Another may act already: kill, don't ask.
            Ownership::LeaderAlone | Ownership::Neither => {
                self.lose(now, LossReason::ActingKeyTaken, now);
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

    /// Both keys are somebody else's, or absent.
    fn follow(&mut self, now: Moment, from_answer: bool) {
        let Some(known) = &self.known else { return };
        let holds_off = now < self.hold_off;
        if let State::Follower { question, .. } = &mut self.state {
            *question = if known.both_absent() && !holds_off {
                Question::Campaign
            } else {
                Question::Read
            };
        }
        if let Some((key, entry)) = known.without_lease()
            && entry.mod_revision != self.said_without_lease
        {
            self.said_without_lease = entry.mod_revision;
            self.events.push_back(Event::KeyWithoutLease { key });
        }
        match known.leader() {
            // A key of a former term of its own, about to go.
            Some(leader) if leader.lease.is_some_and(|lease| self.is_given_up(lease)) => {}
            Some(leader) => {
                let following = Said::Following(leader.mod_revision);
                if self.said != following {
                    self.said = following;
                    let leader = leader.clone();
                    self.events.push_back(Event::Following { leader });
                }
            }
            None => {
                if matches!(self.said, Said::Following(_)) {
                    self.said = Said::LeaderGone;
                    self.events.push_back(Event::LeaderGone);
                }
                // One revision's events come one by one; only an answer shows both keys at once.
                let somebody = known
                    .acting()
                    .is_some_and(|acting| !acting.lease.is_some_and(|id| self.is_given_up(id)));
                if from_answer && somebody && self.said != Said::SomebodyStillActs {
                    self.said = Said::SomebodyStillActs;
                    self.events.push_back(Event::SomebodyStillActs);
                }
            }
        }
    }

    /// The watch saw a key change. Watches are hints, transactions decide: an event makes a
    /// follower campaign or a leader step down; anything else that surprises calls for a read.
    pub(super) fn changed(
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
        if !known.change(key, revision, entry) {
            return;
        }
        match self.state {
            State::Follower { lease, .. } if known.ownership(lease.id) == Ownership::Neither => {
                let nobody = known.both_absent();
                self.follow(now, false);
                if nobody && now < self.hold_off {
                    self.calls.next_at(self.hold_off);
                } else if nobody {
                    self.calls.hurry();
                }
            }
            State::Follower { .. } | State::Elected { .. } => self.calls.hurry(),
            State::Leader { .. } => {
                self.judge_term(now);
                if matches!(self.state, State::Leader { .. }) {
                    self.calls.hurry();
                }
            }
            State::Stopping { .. } => self.judge_term(now),
            State::Unleased | State::Withdrawn => {}
        }
    }

    pub(super) fn open_watch(&mut self, from_revision: i64) {
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

    /// Read, then watch from there: at once, but once in a period, since watches may end as often
    /// as they are opened.
    pub(super) fn watch_ended(&mut self, now: Moment, watch: CallId) {
        if self.watch.take_if(|id| *id == watch).is_some()
            && now >= self.next_watch_hurried
            && !self.calls.is_down()
        {
            self.next_watch_hurried = now + self.timing().renew_every();
            self.calls.hurry();
        }
    }

    /// A transaction's revision is below what was seen before it was sent, or it comes from
    /// another cluster: what is known is worth nothing.
    pub(super) fn history_went_back(&mut self, now: Moment) {
        self.events.push_back(Event::HistoryWentBack);
        self.known = None;
        self.disconnect(now);
        match self.state {
            State::Follower { lease, .. } | State::Elected { lease, .. } => {
                self.start_afresh(now, lease);
            }
            State::Leader {
                lease, deadline, ..
            }
            | State::Stopping {
                lease, deadline, ..
            } => {
                let by = lease.timing.stop_by(now, deadline);
                self.lose(now, LossReason::HistoryWentBack, by);
            }
            State::Unleased | State::Withdrawn => {}
        }
    }
}

/// The beginning and the end of terms and leases.
impl Machine {
    pub(super) fn begin_term(&mut self, lease: Lease, token: FencingToken, deadline: Moment) {
        let term = Term {
            token,
            lease: lease.id,
        };
        self.state = State::Leader {
            lease,
            term,
            deadline,
        };
        self.actions.push_back(Action::Lead { term, deadline });
        self.events.push_back(Event::Leading { term, deadline });
    }

    /// Asks what acts to finish, for as long as the lease can be renewed.
    pub(super) fn plan_stop(&mut self, now: Moment, reason: LossReason) {
        let State::Leader {
            lease,
            term,
            deadline,
        } = self.state
        else {
            return;
        };
        let by = now + self.settings.stop_timeout;
        self.state = State::Stopping {
            lease,
            term,
            deadline,
            by,
            reason,
            renewing: true,
        };
        self.events.push_back(Event::Lost { term, reason });
        self.actions.push_back(Action::Stop { term, reason });
    }

    /// Ends a term that is being lost, or makes a planned stop urgent: nothing revives it.
    fn lose(&mut self, now: Moment, reason: LossReason, by: Moment) {
        let (lease, term, deadline, reason, by) = match self.state {
            State::Leader {
                lease,
                term,
                deadline,
            } => {
                self.events.push_back(Event::Lost { term, reason });
                (lease, term, deadline, reason, by)
            }
            State::Stopping {
                lease,
                term,
                deadline,
                by: earlier,
                reason,
                renewing,
            } => {
                if !renewing && by >= earlier {
                    return;
                }
                (lease, term, deadline, reason, by.min(earlier))
            }
            _ => return,
        };
        let by = by.max(now).min(deadline.max(now));
        self.state = State::Stopping {
            lease,
            term,
            deadline,
            by,
            reason,
            renewing: false,
        };
        self.calls.abandon();
        self.actions.push_back(Action::Stop { term, reason });
    }

    /// etcd says that the lease is gone; that needs no second answer to be true.
    pub(super) fn lease_gone(&mut self, now: Moment) {
        match self.state {
            State::Follower { lease, .. } | State::Elected { lease, .. } => {
                self.events.push_back(Event::LeaseGone { lease: lease.id });
                if std::mem::replace(&mut self.lease_was_gone, true) {
                    self.start_afresh(now, lease);
                } else {
                    self.give_up(now, lease);
                    self.calls.next_now();
                }
            }
            State::Leader { .. } | State::Stopping { .. } => {
                self.lose(now, LossReason::LeaseGone, now);
            }
            State::Unleased | State::Withdrawn => {}
        }
    }

    /// Gives the lease up, and waits before asking for another.
    fn start_afresh(&mut self, now: Moment, lease: Lease) {
        self.give_up(now, lease);
        self.back_off(lease.timing.longest_back_off());
    }

    /// Ends what has run out by `now`.
    pub(super) fn expire(&mut self, now: Moment) {
        match self.state {
            State::Leader {
                lease, deadline, ..
            }
            | State::Stopping {
                lease,
                deadline,
                renewing: true,
                ..
            } if now >= lease.timing.stop_from(deadline) => {
                let by = lease.timing.stop_by(now, deadline);
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
            State::Follower {
                lease, answered, ..
            } if now >= answered + lease.timing.ttl() => self.start_afresh(now, lease),
            State::Elected {
                lease,
                answered,
                seen,
                ..
            } if now >= answered + lease.timing.ttl()
                || now >= seen + lease.timing.term_of_try() =>
            {
                self.start_afresh(now, lease);
            }
            _ => {}
        }
        if let Some(failure) = self.calls.overdue(now) {
            self.call_failed(now, Some(failure));
        }
        self.expire_releases(now);
    }
}
