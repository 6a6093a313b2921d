//! Between processes and members: what is asked and answered, and what befalls it on its way.

use super::{
    MILLI, SECOND, Time,
    checks::Violation,
    etcd::{self, Held, NextKey, Question, Reply, SeatKeys, Shown},
    node::Call,
    plan::{Kind, Mix},
    world::{Event, ToNode, World},
};
use crate::protocol::{
    CallId, ElectionKey, Entry, Failure, FailureKind, FencingToken, Input, KeptAlive, LeaseId,
    LeaseTime, Next, Seat, SeatNumber, Seats, Transaction, View,
};
use std::{sync::Arc, time::Duration};

/// What a process asks of a member, on its way there.
#[derive(Clone, Copy, Debug)]
pub enum Asked {
    Connect {
        call: CallId,
    },
    Grant {
        call: CallId,
        lease: LeaseId,
        ttl: Time,
    },
    LeaseTime {
        call: CallId,
        lease: LeaseId,
    },
    /// A transaction beside everything else.
    Execute {
        call: CallId,
        transaction: Transaction,
    },
    KeepAlive {
        call: CallId,
        stream: u32,
        lease: LeaseId,
    },
    Transaction {
        call: CallId,
        transaction: Transaction,
    },
    Revoke {
        call: CallId,
        lease: LeaseId,
    },
    Watch {
        watch: CallId,
        from: i64,
    },
}

#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub node: usize,
    pub life: u32,
    pub connection: u32,
    pub member: usize,
    pub asked: Asked,
    pub sent: Time,
}

/// What is wrong between a process and a member, until when.
#[derive(Clone, Copy, Debug, Default)]
pub struct Path {
    pub dead: Time,
    pub silent: Time,
    pub slow: Time,
    pub sluggish: Time,
}

impl Path {
    pub fn is_dead(&self, now: Time) -> bool {
        now < self.dead
    }
}

impl World {
    /// How long after its sending a member gives up waiting to answer a request.
    const MEMBERS_PATIENCE: Time = 7 * SECOND;

    /// Lets a process connect to a member, within a limit.
    pub fn connect(
        &mut self,
        node: usize,
        call: CallId,
        member: usize,
        limit: Time,
    ) -> Result<(), Violation> {
        self.check_pace(node)?;
        let now = self.now;
        let lasts = self.nodes[node].clock.lasts(limit);
        let path = self.paths[node][member];
        let result = |result| ToNode::Connected { call, result };
        if path.is_dead(now) {
            let refused = self.usual();
            self.schedule_input(refused, node, result(Err(FailureKind::Unreachable)));
            return Ok(());
        }
        if now < path.sluggish {
            // Just within the time after which another endpoint is tried.
            let limit = self.plan.ttl * SECOND / 5;
            let at = now + self.rng.u64(limit / 2..limit * 85 / 100);
            self.schedule_input(at, node, result(Ok(())));
            return Ok(());
        }
        let busy = self.plan.kinds.contains(&Kind::SlowPassword) && !self.quiet;
        if busy && self.rng.u8(0..3) == 0 {
            // etcd checks the passwords of others first; that has a limit of its own.
            self.count_if(true, Kind::SlowPassword);
            let takes = self.rng.u64(0..12 * SECOND);
            let checked = if takes < 10 * SECOND || now + 10 * SECOND >= self.plan.quiet {
                Ok(())
            } else {
                Err(FailureKind::Overloaded)
            };
            let at = self.capped(takes.min(10 * SECOND)).max(now + MILLI);
            self.schedule_input(at, node, result(checked));
            return Ok(());
        }
        let request = Request {
            node,
            life: self.nodes[node].life,
            connection: self.nodes[node].connection,
            member,
            asked: Asked::Connect { call },
            sent: now,
        };
        self.schedule_input(now + lasts, node, result(Err(FailureKind::TimedOut)));
        if let Some(at) = self.travel(node, member)
            && at < now + lasts
        {
            self.push(at, Event::Request(request));
        }
        Ok(())
    }

    /// Sends a question on its way.
    pub fn ask(&mut self, node: usize, asked: Asked) -> Result<(), Violation> {
        self.check_pace(node)?;
        let to = &self.nodes[node];
        let request = Request {
            node,
            life: to.life,
            connection: to.connection,
            member: to.member,
            asked,
            sent: self.now,
        };
        if to.broken {
            self.deliver_answer(&request, Err(FailureKind::Unreachable), self.now);
        } else if self.paths[node][request.member].is_dead(self.now) {
            let refused = self.usual();
            self.deliver_answer(&request, Err(FailureKind::Unreachable), refused);
        } else if let Some(mut at) = self.travel(node, request.member) {
            let slow = matches!(asked, Asked::Watch { .. })
                && self.plan.kinds.contains(&Kind::SlowWatch)
                && !self.quiet
                && self.rng.bool();
            if slow {
                self.count_if(true, Kind::SlowWatch);
                at += self.rng.u64(0..300 * MILLI);
            }
            self.push(at, Event::Request(request));
        } else if let Asked::Watch { watch, .. } = asked {
            // Its opening has a limit.
            let at = self.now + self.granted() / 5;
            self.schedule_input(at, node, ToNode::Input(Input::WatchEnded { watch }));
        }
        Ok(())
    }

    /// A question reaches a member.
    pub fn arrive(&mut self, request: Request) -> Result<(), Violation> {
        let now = self.now;
        let Request {
            node,
            member,
            asked,
            sent,
            ..
        } = request;
        let slowest = &mut self.checks.slowest_request;
        *slowest = (now - sent).max(*slowest);
        let question = match asked {
            Asked::Connect { .. } => {
                let struck = self.etcd.members[member];
                if struck.frozen {
                    self.wait(request, struck.recovers);
                } else {
                    let down = struck.down.then_some(FailureKind::Unreachable);
                    self.answer(&request, down.map_or(Ok(Reply::Revoked), Err));
                }
                return Ok(());
            }
            Asked::Watch { watch, from } => {
                self.open_watch(node, watch, from);
                return Ok(());
            }
            Asked::KeepAlive { lease, .. } => Question::KeepAlive { lease: lease.get() },
            Asked::Grant { lease, ttl, .. } => Question::Grant {
                lease: lease.get(),
                ttl,
            },
            Asked::LeaseTime { lease, .. } => Question::LeaseTime { lease: lease.get() },
            Asked::Transaction { transaction, .. } | Asked::Execute { transaction, .. } => {
                Question::Transaction(transaction)
            }
            Asked::Revoke { lease, .. } => Question::Revoke { lease: lease.get() },
        };
        // Where all is well, a member out of touch for a moment waits for it to pass.
        let chance = match self.plan.mix {
            Mix::Calm => 3,
            _ => self.rng.u8(..),
        };
        let mut reply = Reply::Silence;
        if let Question::Transaction(transaction) = question
            && self.nodes[node].rights.denies(&transaction)
        {
            self.answer(&request, Err(FailureKind::Denied));
            return Ok(());
        }
        let before = self.before(question);
        let recorded = self.etcd.store.records.len();
        let acting = self.etcd.store.key(ElectionKey::Acting);
        self.change(|etcd| reply = etcd.ask(member, now, node, question, chance))?;
        if self
            .etcd
            .store
            .key(ElectionKey::Acting)
            .is_some_and(|now| Some(now) != acting)
            && matches!(question, Question::Transaction(_))
            && let Some(elected) = self.acting_node()
        {
            self.nodes[elected].so_far.was_elected = true;
        }
        if let Some(before) = before {
            self.check_handover(node, question, &before)?;
        }
        if self.etcd.store.records.len() > recorded {
            self.check_record(node, acting)?;
        }
        match reply {
            Reply::Silence => {}
            Reply::Waits(until) => self.wait(request, until),
            Reply::Failed(kind) => self.answer(&request, Err(kind)),
            reply => self.answer(&request, Ok(reply)),
        }
        Ok(())
    }

    pub fn wait(&mut self, request: Request, until: Time) {
        let at = until.max(self.now) + self.rng.u64(0..MILLI);
        if at < request.sent + Self::MEMBERS_PATIENCE {
            self.push(at, Event::Request(request));
        } else {
            self.answer(&request, Err(FailureKind::Unreachable));
        }
    }

    /// Sends an answer on its way, unless nobody can hear it any more.
    pub fn answer(&mut self, request: &Request, reply: Result<Reply, FailureKind>) {
        let Request {
            node,
            life,
            connection,
            member,
            asked,
            ..
        } = *request;
        let asker = &self.nodes[node];
        if asker.life != life {
            return;
        }
        let mut former = asker.former.iter();
        let is_former = former.any(|former| former.connection == connection);
        let connects = matches!(asked, Asked::Connect { .. });
        let is_present = !asker.broken && asker.connection == connection;
        let gone = !(connects || is_former || is_present);
        // What was read before the connection went may still come after.
        if gone && self.rng.u8(0..8) > 0 {
            return;
        }
        let Some(at) = self.travel(node, member) else {
            return;
        };
        let asker = &self.nodes[node];
        let deaf_until = match asked {
            Asked::KeepAlive { .. } => asker.deaf_to_keepalives_until,
            Asked::Transaction { .. } | Asked::Execute { .. } => asker.deaf_to_transactions_until,
            _ => 0,
        };
        if at >= deaf_until {
            self.deliver_answer(request, reply, at);
        }
    }

    pub fn deliver_answer(
        &mut self,
        request: &Request,
        reply: Result<Reply, FailureKind>,
        at: Time,
    ) {
        let Request { node, asked, .. } = *request;
        let failed = |world: &Self, kind| world.failure(kind);
        let input = match (asked, reply) {
            (Asked::Connect { call }, reply) => {
                let result = reply.map(|_| ());
                self.schedule_input(at, node, ToNode::Connected { call, result });
                return;
            }
            (Asked::Grant { call, .. }, Ok(Reply::Granted { ttl })) => Input::Granted {
                call,
                result: Ok(Duration::from_nanos(ttl)),
            },
            (Asked::LeaseTime { call, .. }, Ok(Reply::LeaseTime(time))) => Input::LeaseTime {
                call,
                result: Ok(time.map(|(granted, remaining)| {
                    let seconds = |time| Duration::from_secs(u64::try_from(time).unwrap_or(0));
                    LeaseTime {
                        granted: seconds(granted),
                        remaining: seconds(remaining),
                    }
                })),
            },
            (Asked::LeaseTime { call, .. }, Err(kind)) => Input::LeaseTime {
                call,
                result: Err(failed(self, kind)),
            },
            (Asked::Execute { call, .. }, Ok(Reply::Shown(shown))) => Input::Executed {
                call,
                result: Ok(self.view(&shown)),
            },
            (Asked::Execute { call, .. }, Err(kind)) => Input::Executed {
                call,
                result: Err(failed(self, kind)),
            },
            (Asked::Grant { call, .. }, Err(kind)) => Input::Granted {
                call,
                result: Err(failed(self, kind)),
            },
            (Asked::KeepAlive { call, stream, .. }, Ok(Reply::KeptAlive { ttl, raft_term })) => {
                let answer = KeptAlive { ttl, raft_term };
                self.schedule_input(at, node, ToNode::KeptAlive { stream, answer });
                if self.repeats() {
                    let result = Ok(answer);
                    Input::KeptAlive { call, result }
                } else {
                    return;
                }
            }
            (Asked::KeepAlive { call, .. }, Err(kind)) => Input::KeptAlive {
                call,
                result: Err(failed(self, kind)),
            },
            (Asked::Transaction { call, .. }, Ok(Reply::Shown(shown))) => Input::Transacted {
                call,
                result: Ok(self.view(&shown)),
            },
            (Asked::Transaction { call, .. }, Err(kind)) => Input::Transacted {
                call,
                result: Err(failed(self, kind)),
            },
            (Asked::Revoke { call, .. }, reply) => Input::Revoked {
                call,
                result: reply.map(|_| ()).map_err(|kind| failed(self, kind)),
            },
            (Asked::Watch { watch, .. }, _) => Input::WatchEnded { watch },
            (
                Asked::Grant { .. }
                | Asked::KeepAlive { .. }
                | Asked::Transaction { .. }
                | Asked::LeaseTime { .. }
                | Asked::Execute { .. },
                Ok(_),
            ) => {
                unreachable!("etcd answers what it was asked")
            }
        };
        if self.repeats() {
            let again = at + self.rng.u64(0..SECOND);
            self.schedule_input(again, node, ToNode::Input(input.clone()));
        }
        self.schedule_input(at, node, ToNode::Input(input));
    }

    pub fn open_watch(&mut self, node: usize, id: CallId, from: i64) {
        let compacted = self.etcd.store.compacted;
        let ended = from != 0 && from < compacted;
        let Some(watch) = self.nodes[node].watch.as_mut().filter(|open| open.id == id) else {
            return;
        };
        if ended {
            self.schedule_input(
                self.now,
                node,
                ToNode::Input(Input::WatchEnded { watch: id }),
            );
        } else {
            watch.open = true;
            // Zero is from now on.
            if from == 0 {
                watch.sent_up_to = self.etcd.store.revision;
            }
            self.pump(node);
        }
    }

    /// Sends a watch the changes that it has not been sent, each key's in order.
    pub fn pump(&mut self, node: usize) {
        let Some(mut watch) = self.nodes[node].watch.filter(|watch| watch.open) else {
            return;
        };
        if watch.connection != self.nodes[node].connection
            || !self.etcd.is_current(watch.member, self.now)
        {
            return;
        }
        let first = self
            .etcd
            .store
            .history
            .partition_point(|change| change.revision <= watch.sent_up_to);
        for place in first..self.etcd.store.history.len() {
            let change = self.etcd.store.history[place];
            watch.sent_up_to = change.revision;
            let Some(at) = self.travel_watch(node, watch.member) else {
                continue;
            };
            let last = &mut watch.last_arrival[etcd::place(change.key)];
            *last = at.max(*last + 1);
            let at = *last;
            let input = Input::Changed {
                watch: watch.id,
                key: change.key,
                revision: change.revision,
                entry: change.now.map(|key| self.entry(key)),
            };
            self.schedule_input(at, node, ToNode::Input(input));
        }
        self.nodes[node].watch = Some(watch);
    }

    pub fn failure(&self, kind: FailureKind) -> Failure {
        Failure::new(kind, Arc::clone(&self.unreachable))
    }

    pub fn entry(&self, key: etcd::Key) -> Entry {
        Entry {
            value: Arc::clone(&self.names[key.writer]),
            lease: (key.lease != 0).then(|| LeaseId::new(key.lease)),
            create_revision: key.create_revision,
            mod_revision: key.mod_revision,
            settings: key.settings,
        }
    }

    pub fn view(&self, shown: &Shown) -> View {
        let [leader, acting] = shown.keys.map(|key| key.map(|key| self.entry(key)));
        View {
            cluster_id: shown.cluster_id,
            revision: shown.revision,
            raft_term: shown.raft_term,
            leader,
            challenge: shown.challenge.map(|key| self.entry(key)),
            acting,
            done: shown.done.map(|record| self.entry(record)),
            seats: shown
                .seats
                .as_deref()
                .map(|(seats, next)| Arc::new(self.seats(seats, next.as_ref()))),
        }
    }

    /// Returns what the store holds before something that writes.
    fn before(&self, question: Question) -> Option<Held> {
        let writes = match question {
            Question::Transaction(transaction) => transaction.writes(),
            Question::Revoke { .. } => true,
            _ => false,
        };
        writes.then(|| self.etcd.store.held())
    }

    pub fn seats(&self, seats: &SeatKeys, next: Option<&NextKey>) -> Seats {
        let taken = SeatNumber::all().zip(seats).filter_map(|(number, seat)| {
            let seat = seat.as_ref()?;
            Some(Seat {
                number,
                entry: self.entry(seat.key),
                // No term is handed to those of the crowd, which do not run.
                has_name: !self.is_of_crowd(seat),
                is_healthy: seat.is_healthy,
                priority: self
                    .nodes
                    .get(seat.key.writer)
                    .map_or(0, |node| node.settings.priority),
                acts: (seat.acts != 0).then(|| FencingToken::new(seat.acts)),
            })
        });
        Seats {
            taken: taken.collect(),
            next: next.map(|next| Next {
                entry: self.entry(next.key),
                ends: Some(FencingToken::new(next.ends)),
            }),
        }
    }

    /// When a message sent now arrives; `None` if never.
    pub fn travel(&mut self, node: usize, member: usize) -> Option<Time> {
        let usual = self.usual();
        if self.quiet {
            return Some(usual);
        }
        let path = self.paths[node][member];
        if self.now < path.dead {
            return None;
        }
        if self.now < path.sluggish {
            // Only what `connected_at` lets through gets there.
            return None;
        }
        if self.now < path.silent {
            // Sent again by the network, it may arrive when that is mended.
            return self.rng.bool().then_some(path.silent + usual - self.now);
        }
        if self.plan.lost > 0 && self.rng.u32(0..1000) < self.plan.lost {
            self.count_if(true, Kind::Lose);
            return None;
        }
        let mut late = 0;
        if self.plan.late > 0 && self.rng.u32(0..1000) < self.plan.late {
            self.count_if(true, Kind::Late);
            late = self.rng.u64(0..self.plan.latest);
        }
        if self.now < path.slow {
            late += self.rng.u64(0..self.granted() / 4);
        }
        Some(self.capped(usual - self.now + late).max(usual))
    }

    pub fn usual(&mut self) -> Time {
        self.now + 1 + self.rng.u64(self.plan.latency / 2..self.plan.latency)
    }

    pub fn travel_watch(&mut self, node: usize, member: usize) -> Option<Time> {
        let at = self.travel(node, member)?;
        let lags = !self.quiet && self.plan.kinds.contains(&Kind::LateWatch);
        if lags && self.rng.u8(0..8) == 0 {
            self.count_if(true, Kind::LateWatch);
            let late = self.rng.u64(0..3 * SECOND);
            return Some(self.capped(at - self.now + late).max(at));
        }
        Some(at)
    }

    pub fn repeats(&mut self) -> bool {
        let repeats = !self.quiet && self.rng.u32(0..1000) < self.plan.repeated;
        self.count_if(repeats, Kind::Repeat);
        repeats
    }

    /// Cuts a process's connection; what is under way on it fails.
    pub fn break_connection(&mut self, node: usize) {
        self.checks
            .connection_cut(node, self.now, self.plan.ttl * SECOND);
        let unreachable = self.failure(FailureKind::Unreachable);
        let to = &mut self.nodes[node];
        if std::mem::replace(&mut to.broken, true) {
            return;
        }
        let mut failures = Vec::new();
        match to.call.take() {
            Some(Call::Grant(call)) => failures.push(ToNode::Input(Input::Granted {
                call,
                result: Err(unreachable.clone()),
            })),
            Some(Call::Look(call)) => failures.push(ToNode::Input(Input::Transacted {
                call,
                result: Err(unreachable.clone()),
            })),
            Some(Call::Try(call)) => {
                if to.awaits_transaction {
                    let result: Result<View, _> = Err(unreachable.clone());
                    failures.push(ToNode::Input(Input::Transacted { call, result }));
                }
                if to.awaits == Some(call) {
                    let result: Result<KeptAlive, _> = Err(unreachable.clone());
                    failures.push(ToNode::Input(Input::KeptAlive { call, result }));
                }
            }
            None => {}
        }
        for beside in to.beside.drain(..) {
            let failure = unreachable.clone();
            failures.push(ToNode::Input(beside.failed(failure)));
        }
        if let Some(watch) = to.watch.take() {
            failures.push(ToNode::Input(Input::WatchEnded { watch: watch.id }));
        }
        to.stream = None;
        to.awaits = None;
        for failure in failures {
            let at = self.now + self.rng.u64(0..MILLI);
            self.schedule_input(at, node, failure);
        }
    }
}
