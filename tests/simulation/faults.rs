//! What goes wrong, and how it is mended.

use super::{
    MILLI, SECOND, Time,
    checks::Violation,
    etcd::{Lease, Refusal, Store, lease_id, owner},
    node::{Actor, nanos},
    plan::{Kind, Mix},
    trace::lease_name,
    world::{Event, ToNode, World},
};
use crate::protocol::{ElectionKey, Input};

/// How long things last.
impl World {
    /// The end of something that begins now and lasts so long, or until the faults stop.
    pub fn capped(&self, lasts: Time) -> Time {
        (self.now + lasts).min(self.plan.quiet).max(self.now)
    }

    /// The TTL that etcd grants.
    pub fn granted(&self) -> Time {
        (self.plan.ttl * SECOND).max(self.plan.min_ttl)
    }

    pub fn some_time(&mut self) -> Time {
        let longest = self.granted() * [1, 2, 8][self.rng.usize(0..3)] / 2;
        let lasts = self.rng.u64(MILLI..longest);
        self.capped(lasts)
    }
}

/// Faults.
impl World {
    /// Lets something go wrong, and decides when the next thing does.
    pub fn fault(&mut self) -> Result<(), Violation> {
        let next = self.now + self.rng.u64(0..self.plan.gap * 2);
        if next < self.plan.quiet {
            self.push(next, Event::Fault);
        }
        let kinds = &self.plan.kinds;
        if kinds.is_empty() || self.now >= self.plan.quiet {
            return Ok(());
        }
        let kind = kinds[self.rng.usize(0..kinds.len())];
        let happened = self.inject(kind)?;
        self.count_if(happened, kind);
        Ok(())
    }

    fn inject(&mut self, kind: Kind) -> Result<bool, Violation> {
        match kind {
            Kind::Lose
            | Kind::Late
            | Kind::Repeat
            | Kind::LateWatch
            | Kind::SlowWatch
            | Kind::Linger
            | Kind::SlowPassword
            | Kind::Untaken => Ok(false),
            Kind::CutConnection
            | Kind::DeadEndpoint
            | Kind::SilentEndpoint
            | Kind::SlowEndpoint
            | Kind::SluggishEndpoint
            | Kind::LoseKeepAlives
            | Kind::LoseTransactions
            | Kind::EndWatch => Ok(self.harm_network(kind)),
            Kind::CutMember | Kind::FreezeMember | Kind::StopMember => Ok(self.strike(kind)),
            Kind::MoveLeader | Kind::Refuse | Kind::Compact | Kind::BackUp => {
                Ok(self.upset_etcd(kind))
            }
            Kind::Restore => self.restore(),
            Kind::LoseData => self.lose_data(),
            Kind::Pause | Kind::ShortPause | Kind::ClockRate | Kind::Crash => {
                Ok(self.harm_process(kind))
            }
            Kind::Resign | Kind::Withdraw | Kind::Abandon => Ok(self.stop_something(kind)),
            Kind::DeleteLeader
            | Kind::OverwriteLeader
            | Kind::DeleteActing
            | Kind::OverwriteActing
            | Kind::RevokeLease
            | Kind::DeleteBoth => self.interfere(kind),
            Kind::StandBack => Ok(self.stand_back()),
            Kind::Suspect => Ok(self.suspect()),
            Kind::PutChallenge | Kind::DeleteChallenge => self.meddle_with_challenge(kind),
            Kind::Forget => Ok(self.forget_job()),
            Kind::Choose | Kind::WriteNext | Kind::TakeSeat => self.meddle_with_seats(kind),
        }
    }

    /// Which node a fault hits: half of the time the one that acts.
    pub fn victim(&mut self) -> usize {
        let acting = self
            .nodes
            .iter()
            .position(|node| node.acts(self.now).is_some());
        let anybody = self.rng.usize(0..self.nodes.len());
        acting.filter(|_| self.rng.bool()).unwrap_or(anybody)
    }

    fn harm_network(&mut self, kind: Kind) -> bool {
        let node = self.victim();
        let member = if self.plan.mix == Mix::Endpoint {
            node % self.plan.members
        } else if self.rng.bool() {
            self.nodes[node].member
        } else {
            self.rng.usize(0..self.plan.members)
        };
        let mut until = self.some_time();
        match kind {
            Kind::CutConnection => self.break_connection(node),
            Kind::DeadEndpoint => {
                self.paths[node][member].dead = until;
                if self.nodes[node].member == member {
                    self.break_connection(node);
                }
            }
            Kind::SilentEndpoint => self.paths[node][member].silent = until,
            Kind::SlowEndpoint => self.paths[node][member].slow = until,
            Kind::SluggishEndpoint => self.paths[node][member].sluggish = until,
            Kind::EndWatch => {
                let Some(watch) = self.nodes[node].watch.take() else {
                    return false;
                };
                self.schedule_input(
                    self.now,
                    node,
                    ToNode::Input(Input::WatchEnded { watch: watch.id }),
                );
            }
            _ => {
                // For ever, often enough.
                if self.rng.bool() {
                    until = self.plan.quiet;
                }
                let to = &mut self.nodes[node];
                if kind == Kind::LoseKeepAlives {
                    to.deaf_to_keepalives_until = until;
                } else {
                    to.deaf_to_transactions_until = until;
                }
            }
        }
        self.note(|_| {
            format!(
                "fault   {}: node {}, member {}, {}",
                kind.text(),
                node + 1,
                member + 1,
                ends(until)
            )
        });
        true
    }

    fn strike(&mut self, kind: Kind) -> bool {
        let now = self.now;
        let member = match self.etcd.primary() {
            Some(primary) if self.rng.u8(0..3) > 0 => primary,
            _ => self.rng.usize(0..self.plan.members),
        };
        let struck = self.etcd.members[member];
        if struck.cut
            || struck.frozen
            || struck.down
            || kind == Kind::CutMember && self.plan.members == 1
        {
            return false;
        }
        let until = self.some_time();
        self.note(|_| {
            format!(
                "fault   {}: member {}, {}",
                kind.text(),
                member + 1,
                ends(until)
            )
        });
        self.etcd.strike(member, now, |member| {
            match kind {
                Kind::CutMember => member.cut = true,
                Kind::FreezeMember => member.frozen = true,
                _ => member.down = true,
            }
            member.recovers = until;
        });
        if kind == Kind::StopMember {
            for node in 0..self.nodes.len() {
                if self.nodes[node].member == member {
                    self.break_connection(node);
                }
            }
        }
        if kind == Kind::CutMember {
            // Streams that require a leader end without one.
            let end = now + self.rng.u64(3 * SECOND..4 * SECOND);
            for node in 0..self.nodes.len() {
                if let Some(watch) = self.nodes[node].watch
                    && watch.member == member
                    && end < until
                {
                    self.schedule_input(
                        end,
                        node,
                        ToNode::Input(Input::WatchEnded { watch: watch.id }),
                    );
                }
            }
        }
        self.push(until, Event::Recover { member });
        let notices = self.rng.u64(SECOND / 4..2 * SECOND);
        self.push(self.capped(notices), Event::Elect);
        true
    }

    pub fn recover(&mut self, member: usize) {
        self.note(|_| format!("etcd    member {} is well again", member + 1));
        let was_down = self.etcd.members[member].down;
        let aware = self.now + self.rng.u64(0..30 * MILLI);
        self.etcd.recover(member, aware);
        if was_down && self.etcd.primary() == Some(member) {
            self.etcd.resign();
        }
        let elected = self.rng.u64(0..SECOND);
        self.push(self.capped(elected), Event::Elect);
        self.push(aware, Event::Pump);
    }

    pub fn elect_if_needed(&mut self) {
        if !self.etcd.serves() && self.etcd.has_quorum() {
            self.elect();
        }
    }

    fn elect(&mut self) {
        let healthy = |world: &Self, member: usize| {
            let member = world.etcd.members[member];
            !(member.cut || member.frozen || member.down)
        };
        let candidates = (0..self.plan.members)
            .filter(|member| healthy(self, *member) && self.etcd.primary() != Some(*member))
            .collect::<Vec<_>>();
        if candidates.is_empty() {
            return;
        }
        let member = candidates[self.rng.usize(0..candidates.len())];
        let (now, rng) = (self.now, &mut self.rng);
        let extend = rng.u64(0..=SECOND);
        let former_until = now + rng.u64(0..4 * SECOND);
        let aware = || now + rng.u64(0..30 * MILLI);
        self.etcd.elect(member, now, extend, former_until, aware);
        self.push(now + 30 * MILLI, Event::Pump);
        self.checks.etcd_leader_changed(now);
        self.note(|_| {
            format!(
                "etcd    member {} leads, every lease starts anew",
                member + 1
            )
        });
    }

    fn upset_etcd(&mut self, kind: Kind) -> bool {
        match kind {
            Kind::MoveLeader => self.elect(),
            Kind::Refuse => {
                let refusal = [
                    Refusal::NoSpace,
                    Refusal::TooManyRequests,
                    Refusal::PermissionToWrite,
                    Refusal::PermissionToRead,
                ][self.rng.usize(0..4)];
                let until = self.some_time();
                self.etcd.refusal = Some((refusal, until));
                self.note(|_| format!("fault   refuses: {refusal:?}, {}", ends(until)));
            }
            Kind::Compact => {
                self.etcd.store.compacted = self.etcd.store.revision;
                self.note(|_| "fault   compaction".to_owned());
            }
            _ => {
                self.etcd.back_up();
                self.note(|_| "fault   backup taken".to_owned());
            }
        }
        true
    }

    fn restore(&mut self) -> Result<bool, Violation> {
        let Some(backup) = self.etcd.take_backup() else {
            return Ok(false);
        };
        let new_cluster = self.rng.bool();
        self.note(|_| "fault   backup restored".to_owned());
        self.begin_history(backup, new_cluster)
    }

    /// As after etcd was started again with an empty folder.
    fn lose_data(&mut self) -> Result<bool, Violation> {
        self.note(|_| "fault   all data lost".to_owned());
        self.begin_history(Store::empty(), true)
    }

    fn begin_history(&mut self, store: Store, new_cluster: bool) -> Result<bool, Violation> {
        let now = self.now;
        self.excuse_everybody(now + self.granted());
        self.checks.history_began();
        self.change(|etcd| etcd.restore(store, now, new_cluster))?;
        for node in 0..self.nodes.len() {
            self.break_connection(node);
        }
        Ok(true)
    }

    fn harm_process(&mut self, kind: Kind) -> bool {
        let node = self.victim();
        let now = self.now;
        match kind {
            Kind::Pause | Kind::ShortPause => {
                let to = &self.nodes[node];
                // What watches over a child must not be held up: that is no part of the promise.
                if to.machine.is_none() || to.actor == Actor::Child && to.child.is_some() {
                    return false;
                }
                let limit = to.settings.fail_over;
                let limit = limit.map_or(SECOND, |limit| nanos(limit.as_duration()));
                let until = if kind == Kind::Pause {
                    self.some_time()
                } else {
                    let lasts = self.rng.u64(0..3 * limit);
                    self.capped(lasts)
                };
                // What a longer pause holds up already is not let go sooner.
                let paused_until = &mut self.nodes[node].paused_until;
                *paused_until = until.max(*paused_until);
                self.note(|_| format!("fault   paused: node {}, {}", node + 1, ends(until)));
                if self.rng.bool() {
                    self.break_connection(node);
                }
            }
            Kind::ClockRate => {
                let rate = self.rng.u64(900..=1100);
                let to = &mut self.nodes[node];
                to.clock.set_rate(now, rate);
                to.alarm_at = None;
                to.alarm += 1;
                if let Some(child) = &mut to.child {
                    child.killed_at = None;
                }
                self.schedule_input(now, node, ToNode::Alarm(self.nodes[node].alarm));
                self.note(|_| format!("fault   clock: node {} at {rate} thousandths", node + 1));
            }
            _ => {
                if self.nodes[node].machine.is_none() {
                    return false;
                }
                let term = self.nodes[node].acts(now);
                self.crash(node);
                self.break_presence(node, term);
                let back = self.some_time();
                self.push(back, Event::Start { node });
                self.note(|_| format!("fault   crash: node {}, {}", node + 1, ends(back)));
            }
        }
        true
    }

    fn stop_something(&mut self, kind: Kind) -> bool {
        if matches!(kind, Kind::Withdraw | Kind::Abandon) {
            let node = self.rng.usize(0..self.nodes.len());
            let input = if kind == Kind::Withdraw {
                Input::Withdraw
            } else {
                Input::Abandoned
            };
            self.schedule_input(self.now, node, ToNode::Input(input));
            return true;
        }
        let acting = (0..self.nodes.len()).find_map(|node| {
            let term = self.nodes[node].acts(self.now)?;
            Some((node, term))
        });
        let Some((node, term)) = acting else {
            return false;
        };
        // It acts no more from here on, but the report of that takes a moment.
        self.schedule_stopped(self.now, node, term);
        true
    }

    fn interfere(&mut self, kind: Kind) -> Result<bool, Violation> {
        let key = match kind {
            Kind::DeleteLeader | Kind::OverwriteLeader | Kind::DeleteBoth => ElectionKey::Leader,
            _ => ElectionKey::Acting,
        };
        let now = self.now;
        let Some(held) = self.etcd.store.key(key).filter(|held| held.lease != 0) else {
            return Ok(false);
        };
        let lease = held.lease;
        if !matches!(kind, Kind::DeleteLeader | Kind::OverwriteLeader) {
            self.excuse(lease, now + self.granted());
        }
        self.note(|_| format!("fault   {} of lease {}", kind.text(), lease_name(lease)));
        let people = self.plan.nodes;
        match kind {
            Kind::DeleteLeader => self.change(|etcd| etcd.store.commit(&[(key, None)]))?,
            Kind::DeleteBoth => {
                self.change(|etcd| etcd.store.commit(&[(key, None)]))?;
                let pause = self.rng.u64(0..SECOND / 2);
                self.push(self.capped(pause), Event::DeleteActing { lease });
            }
            Kind::DeleteActing => {
                let mut deleted = vec![(key, None)];
                // `etcdctl del --prefix leader` does both.
                if self.rng.bool() && self.etcd.store.key(ElectionKey::Leader).is_some() {
                    deleted.push((ElectionKey::Leader, None));
                }
                self.change(|etcd| etcd.store.commit(&deleted))?;
            }
            Kind::RevokeLease => self.change(|etcd| {
                etcd.store.revoke(lease);
            })?,
            _ => {
                let lease = match self.rng.u8(0..3) {
                    0 => 0,
                    1 => self.lend(),
                    // As with `etcdctl put --ignore-lease`.
                    _ => lease,
                };
                self.change(|etcd| etcd.store.commit(&[(key, Some((lease, people)))]))?;
                let tidied = self.some_time();
                self.push(tidied, Event::TidyUp);
            }
        }
        Ok(true)
    }

    /// Somebody deletes `leader/acting` if it is still bound to this lease.
    pub fn delete_acting(&mut self, lease: i64) -> Result<(), Violation> {
        let acting = self.etcd.store.key(ElectionKey::Acting);
        if acting.is_none_or(|acting| acting.lease != lease) {
            return Ok(());
        }
        self.note(|_| {
            format!(
                "fault   leader/acting of lease {} deleted",
                lease_name(lease)
            )
        });
        self.excuse(lease, self.now + self.granted());
        self.change(|etcd| etcd.store.commit(&[(ElectionKey::Acting, None)]))
    }

    /// A lease of somebody who takes no part.
    pub fn lend(&mut self) -> i64 {
        let ttl = self.granted();
        let number = i64::try_from(self.etcd.store.history.len()).unwrap_or(0) + 1;
        let id = lease_id(owner(self.plan.nodes), number);
        self.etcd.store.leases.push(Lease::new(id, ttl, self.now));
        id
    }

    /// Somebody removes the keys that people have put.
    pub fn tidy_up(&mut self) -> Result<(), Violation> {
        let people = self.plan.nodes;
        let left = [ElectionKey::Leader, ElectionKey::Acting]
            .into_iter()
            .filter(|key| {
                self.etcd
                    .store
                    .key(*key)
                    .is_some_and(|key| key.writer == people)
            })
            .map(|key| (key, None))
            .collect::<Vec<_>>();
        if left.is_empty() {
            return Ok(());
        }
        self.note(|_| "people  remove the keys that they have put".to_owned());
        self.change(|etcd| etcd.store.commit(&left))
    }

    /// The faults stop.
    pub fn become_quiet(&mut self) -> Result<(), Violation> {
        self.quiet = true;
        self.note(|_| "the faults stop".to_owned());
        for member in 0..self.plan.members {
            let struck = self.etcd.members[member];
            if struck.cut || struck.frozen || struck.down {
                self.recover(member);
            }
        }
        self.elect_if_needed();
        self.etcd.refusal = None;
        self.tidy_up()?;
        let bound = self.led_within();
        self.push(self.now + bound, Event::LedByNow);
        // Nothing should happen to a leader any more.
        let mut end = self.now + bound + 2 * self.granted();
        if self.plan.mix == Mix::Priorities {
            end += self.best_leads_within();
            self.push(end, Event::BestLeads);
        }
        self.push(end, Event::End);
        Ok(())
    }

    /// By when somebody acts after the faults have stopped: the promise of the documents.
    pub fn led_within(&self) -> Time {
        let ttl = self.granted();
        let limit = (ttl / 5).min(5 * SECOND);
        // Some of it is waited by clocks that may run at nine tenths of etcd's rate.
        let mut waited = ttl / 3 + 2 * limit;
        if self.plan.actor == Actor::Child {
            waited += self.plan.stop_timeout;
        }
        ttl + 3 * SECOND / 2 + waited * 10 / 9
    }
}

fn ends(until: Time) -> String {
    format!("until {}.{:03}", until / SECOND, until % SECOND / MILLI)
}
