//! Starts what the machine asks for: connections, requests, watches.

use super::{Driver, Message, PutError};
use crate::{
    clock,
    config::Address,
    etcd::{Connection, Values},
    printable::Printable,
    protocol::{
        Action, CallId, Effect, Failure, FailureKind, Input, LeaseId, Term, Timing, Transaction,
    },
    record::SeatRecord,
};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::{sync::oneshot, task::AbortHandle};

impl Driver {
    /// Starts an action. Its result reaches the machine as an input.
    pub(super) fn start(&mut self, action: Action) {
        match action {
            Action::Connect {
                call,
                endpoint,
                limit,
            } => {
                let target = Arc::clone(&self.target);
                let attempt = self.spawn(async move {
                    let result = target.connect(endpoint, limit).await;
                    let result = result.map(Box::new);
                    Message::Connected { call, result }
                });
                self.attempts.push((call, attempt));
            }
            Action::AskVersion { limit } => self.ask_version(limit),
            Action::StopConnecting => abort_all(self.attempts.drain(..).map(|(_, task)| task)),
            Action::Grant {
                call,
                lease,
                ttl,
                limit,
            } => {
                let connection = self.connection();
                self.begin_call();
                self.spawn_call(async move {
                    let result = async { connection?.grant(lease, ttl, limit).await }.await;
                    Message::Input(Input::Granted { call, result })
                });
            }
            Action::Try {
                call,
                lease,
                transaction,
                new_stream,
                limit,
            } => {
                let connection = self.connection();
                self.begin_call();
                let values = self.values_for(&transaction);
                let (keep_alive, transact) = (connection.clone(), connection);
                self.spawn_call(async move {
                    let transacting =
                        async { transact?.transact(&transaction, &values, limit).await };
                    let result = transacting.await.map(|outcome| outcome.view);
                    Message::Input(Input::Transacted { call, result })
                });
                self.spawn_call(async move {
                    let keeping = async { keep_alive?.keep_alive(lease, new_stream, limit).await };
                    let result = keeping.await;
                    Message::Input(Input::KeptAlive { call, result })
                });
            }
            Action::Look {
                call,
                transaction,
                limit,
            } => {
                let connection = self.connection();
                self.begin_call();
                let values = self.values_for(&transaction);
                self.spawn_call(async move {
                    let looking =
                        async { connection?.transact(&transaction, &values, limit).await };
                    let result = looking.await.map(|outcome| outcome.view);
                    Message::Input(Input::Transacted { call, result })
                });
            }
            Action::Execute {
                call,
                transaction,
                limit,
            } => self.execute(call, transaction, limit),
            Action::AskLeaseTime { call, lease, limit } => {
                let connection = self.connection();
                self.spawn_beside(async move {
                    let result = async { connection?.time_to_live(lease, limit).await }.await;
                    Message::Input(Input::LeaseTime { call, result })
                });
            }
            Action::Revoke {
                call,
                lease,
                is_urgent,
                limit,
            } => self.revoke(call, lease, is_urgent, limit),
            Action::Watch {
                watch,
                from_revision,
                limit,
            } => self.watch(watch, from_revision, limit),
            Action::Unwatch => abort_all(self.watch_task.take()),
            Action::Disconnect => self.disconnect(),
            Action::BackOff { call, at_most } => {
                self.back_off = Some((call, clock::now() + self.jitter.up_to(at_most)));
            }
            Action::Lead { term, .. } => self.pass_on(term),
            Action::TakeBack { term } => self.take_back(term),
        }
    }

    /// Revokes a lease beside everything else.
    fn revoke(&mut self, call: CallId, lease: LeaseId, is_urgent: bool, limit: Duration) {
        let connection = self.connection();
        self.spawn_beside(async move {
            let result = async { connection?.revoke(lease, is_urgent, limit).await }.await;
            Message::Input(Input::Revoked { call, result })
        });
    }

    /// Executes a transaction beside everything else.
    fn execute(&mut self, call: CallId, transaction: Transaction, limit: Duration) {
        let connection = self.connection();
        let values = self.values_beside(&transaction);
        self.spawn_beside(async move {
            let executing = async {
                let connection = connection?;
                connection.transact(&transaction, &values?, limit).await
            };
            let result = executing.await.map(|outcome| outcome.view);
            Message::Input(Input::Executed { call, result })
        });
    }

    /// Returns what a transaction writes that is executed beside everything else.
    fn values_beside(&self, transaction: &Transaction) -> Result<Values, Failure> {
        match transaction.effect {
            Effect::PutSeat {
                acts, is_healthy, ..
            } => {
                let name = self.config.name().as_str();
                let address = self.config.address().map(Address::as_str);
                let mut record = SeatRecord::new(name, address, self.joined);
                record.acts = acts;
                record.priority = self.config.priority();
                record.fail_over = self.config.fail_over();
                // If its health has changed since, the next transaction writes that.
                record.healthy = self.health.as_ref().map(|_| is_healthy);
                record.reason = match &self.health {
                    Some(Err(reason)) if !is_healthy => Some(reason.clone()),
                    _ => None,
                };
                Ok(Values::seat(&record))
            }
            Effect::HandOver { is_chosen, .. } => {
                let to = self.machine.successor_value(transaction);
                let values = to.and_then(|to| Values::hand_over(&to, is_chosen));
                // The machine hands over only to a candidate that says its name.
                values.ok_or_else(|| Failure::new(FailureKind::Refused, "the seat has no name"))
            }
            _ => Ok(Values::default()),
        }
    }

    /// Returns what a transaction of the machine writes.
    fn values_for(&self, transaction: &Transaction) -> Values {
        let term = self.machine.status().role.term();
        let recorded_in = term.filter(|term| transaction.is_record(*term));
        Values::now(&self.config, transaction, recorded_in)
    }

    fn connection(&self) -> Result<Box<Connection>, Failure> {
        self.connection
            .clone()
            .ok_or_else(|| Failure::new(FailureKind::Unreachable, "not connected"))
    }

    /// Uses a new connection. What was asked in a try on the one before may still be answered.
    pub(super) fn use_connection(&mut self, connection: Box<Connection>) {
        // They end by their own limits.
        self.overdue_tasks.retain(|task| !task.is_finished());
        self.overdue_tasks.append(&mut self.call_tasks);
        self.disconnect();
        abort_all(self.attempts.drain(..).map(|(_, task)| task));
        self.history.set_connection(Some(connection.clone()));
        self.connection = Some(connection);
    }

    /// Drops the connection with what runs on it.
    fn disconnect(&mut self) {
        self.connection = None;
        self.history.set_connection(None);
        abort_all(self.call_tasks.drain(..));
        abort_all(self.beside_tasks.drain(..));
        abort_all(self.watch_task.take());
    }

    /// Drops what is left of the call before.
    fn begin_call(&mut self) {
        abort_all(self.call_tasks.drain(..));
    }

    fn spawn_call(&mut self, work: impl Future<Output = Message> + Send + 'static) {
        let task = self.spawn(work);
        self.call_tasks.push(task);
    }

    /// Runs what ends with the connection, beside the call under way.
    fn spawn_beside(&mut self, work: impl Future<Output = Message> + Send + 'static) {
        let task = self.spawn(work);
        self.beside_tasks.retain(|task| !task.is_finished());
        self.beside_tasks.push(task);
    }

    fn spawn(&mut self, work: impl Future<Output = Message> + Send + 'static) -> AbortHandle {
        let results = self.results_sent.clone();
        // In a box, so that a task that has ended takes no more memory than its handle.
        self.tasks.spawn(Box::pin(async move {
            // Without a driver, the result matters to nobody.
            let _ = results.send(Box::new(work.await));
        }))
    }

    fn watch(&mut self, watch: CallId, from_revision: i64, limit: Duration) {
        abort_all(self.watch_task.take());
        let connection = self.connection();
        let results = self.results_sent.clone();
        self.watch_task = Some(self.spawn(async move {
            let watching = async {
                let mut changes = connection?.watch(from_revision, limit).await?;
                loop {
                    for change in changes.changes().await? {
                        let input = Input::Changed {
                            watch,
                            key: change.key,
                            revision: change.revision,
                            entry: change.entry,
                        };
                        let _ = results.send(Box::new(Message::Input(input)));
                    }
                }
            };
            let ended: Result<Infallible, Failure> = Box::pin(watching).await;
            let Err(failure) = ended;
            let reason = Printable(failure.message.as_bytes());
            tracing::debug!(%reason, "The watch ended.");
            Message::Input(Input::WatchEnded { watch })
        }));
    }

    /// Asks for etcd's version beside everything else; it may stay unknown.
    fn ask_version(&mut self, limit: Duration) {
        let connection = self.connection();
        let results = self.results_sent.clone();
        self.tasks.spawn(async move {
            let asking = async { connection?.version(limit).await };
            if let Ok(version) = asking.await {
                let _ = results.send(Box::new(Message::Input(Input::Version { version })));
            }
        });
    }

    /// Puts a key in a term, beside everything else.
    pub(super) fn put(
        &mut self,
        term: Term,
        key: String,
        value: Vec<u8>,
        responded: oneshot::Sender<Result<(), PutError>>,
    ) {
        let own = self.config.leader_key().as_str();
        if key
            .strip_prefix(own)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        {
            // It may be waited for no more.
            let _ = responded.send(Err(PutError::ReservedKey));
            return;
        }
        let connection = match self.connection() {
            Ok(connection) => connection,
            Err(failure) => {
                let _ = responded.send(Err(PutError::NotSent(failure)));
                return;
            }
        };
        let limit = Timing::new(self.config.ttl().as_duration(), self.config.grace()).limit();
        self.tasks.spawn(async move {
            let transaction = Transaction::put_in_term(term);
            let values = Values::put(key, value);
            let putting = connection.transact(&transaction, &values, limit);
            let result = match putting.await {
                Ok(outcome) if outcome.succeeded => Ok(()),
                Ok(_) => Err(PutError::TermOver),
                // A refusal for lack of room may come after the transaction was carried out.
                Err(failure) => Err(match failure.kind {
                    FailureKind::Denied | FailureKind::Unauthenticated => PutError::Denied(failure),
                    _ => PutError::Unknown(failure),
                }),
            };
            let _ = responded.send(result);
        });
    }
}

fn abort_all(tasks: impl IntoIterator<Item = AbortHandle>) {
    for task in tasks {
        task.abort();
    }
}
