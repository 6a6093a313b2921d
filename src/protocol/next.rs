//! Rule 1, the next request: a connection, a look at the keys, a lease, or a try. `calls.rs` decides when
//! to send it.

use super::{
    Action, Known, LeaseId, Machine, Moment, Question, State, Timing, Transaction,
    calls::{CallKind, Need},
};

impl Machine {
    /// Starts whatever is due.
    pub(super) fn advance(&mut self, now: Moment) {
        self.advance_releases(now);
        self.advance_seat(now);
        self.advance_polling(now);
        if !self.calls.may_start() || !self.calls.is_due(now) {
            return;
        }
        let timing = self.timing();
        // The time to challenge the leader, or to take over, may have come since the last response.
        if let Some(of_suspicion) = self.question_of_suspicion(now)
            && let State::Follower {
                question: question @ Question::Read,
                ..
            } = &mut self.state
        {
            *question = of_suspicion;
        }
        match self.need() {
            None => {}
            Some(Need::Connection) => {
                if let Some((call, endpoint)) = self.calls.start_attempt(now, timing.limit()) {
                    let limit = timing.connect_limit();
                    self.actions.push_back(Action::Connect {
                        call,
                        endpoint,
                        limit,
                    });
                }
            }
            Some(Need::Call(kind)) => {
                let revision = self.known.as_ref().map(Known::revision);
                let call = self.calls.start(now, kind, timing.limit(), revision);
                if matches!(kind, CallKind::Grant { .. }) {
                    self.next_lease = self.next_lease.next();
                }
                let action = match kind {
                    CallKind::Grant { lease } => Action::Grant {
                        call,
                        lease,
                        ttl: self.settings.ttl,
                        limit: timing.limit(),
                    },
                    CallKind::Try { lease, transaction } => {
                        self.begin_try(now, &transaction);
                        Action::Try {
                            call,
                            lease,
                            transaction,
                            new_stream: self.calls.use_stream(lease),
                            limit: timing.ttl(),
                        }
                    }
                    CallKind::Look { transaction } => {
                        self.note_record_sent(&transaction);
                        Action::Look {
                            call,
                            transaction,
                            limit: timing.limit(),
                        }
                    }
                };
                self.actions.push_back(action);
                if matches!(kind, CallKind::Try { .. }) {
                    self.ask_for_sign_of_life(now);
                }
            }
        }
    }

    /// Rule 1: returns what is needed next, if anything: a connection, a look at the keys, a lease, a
    /// try. `calls` decides when.
    pub(super) fn need(&self) -> Option<Need> {
        let call = match self.state {
            State::Withdrawn => return None,
            State::Unleased { .. } if self.withdrawing.is_some() => {
                let reconnect = self.calls.is_down() && !self.releases.is_empty();
                return reconnect.then_some(Need::Connection);
            }
            State::Unleased { .. } => match self.look {
                Some(look) => CallKind::Look {
                    transaction: look.transaction(self.settings),
                },
                None => CallKind::Grant {
                    lease: self.next_lease,
                },
            },
            State::Stopping {
                renewing: false, ..
            } => CallKind::Look {
                transaction: Transaction::record(self.recording?.term()),
            },
            state => {
                let lease = state.lease()?.id;
                let transaction = self.transaction(lease);
                CallKind::Try { lease, transaction }
            }
        };
        Some(self.calls.need(call))
    }

    /// Returns the transaction of the next try.
    fn transaction(&self, lease: LeaseId) -> Transaction {
        let transaction = match (self.state, self.recording) {
            (State::Follower { question, .. }, _) => match question {
                Question::Read => Transaction::READ,
                Question::Campaign => Transaction::campaign(lease),
                Question::Challenge | Question::TakeOver => self.suspecting(lease, question),
            },
            _ if self.must_confirm() => self.confirming(),
            (_, Some(recording)) => {
                let transaction = recording.transaction();
                return transaction.about_challenge(self.is_about_challenge());
            }
            _ => Transaction::READ,
        };
        transaction
            .reading(self.registry.reads())
            .about_job(self.settings.runs_once)
            .about_challenge(self.is_about_challenge())
    }

    /// The durations that count now: of the lease, or of the TTL that will be asked for.
    pub(super) fn timing(&self) -> Timing {
        self.state.lease().map_or(
            Timing::new(self.settings.ttl.as_duration(), self.settings.grace),
            |lease| lease.timing,
        )
    }
}
