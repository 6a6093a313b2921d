//! Candidates that stand back, and leaders that yield to better ones: what is promised of them.

use super::{
    MILLI, SECOND, Time,
    checks::Violation,
    etcd::SeatKey,
    node::nanos,
    plan::{Kind, Mix},
    seats::Rights,
    world::{Event, ToNode, World},
};
use crate::protocol::{ElectionKey, Event as Said, Input, LossReason, Role, Settings};
use fastrand::Rng;
use std::time::Duration;

/// Sets the priority of a process, and how long it lets better ones wait.
pub fn set_priority(settings: &mut Settings, rng: &mut Rng, mix: Mix) {
    if !matches!(mix, Mix::Priorities | Mix::Transfers | Mix::Swarm) {
        return;
    }
    settings.priority = rng.i32(-1..2);
    if mix != Mix::Transfers {
        let ttl = settings.ttl.as_duration();
        settings.priority_delay =
            [None, Some(Duration::ZERO), Some(ttl / 2), Some(ttl * 2)][rng.usize(0..4)];
    }
}

/// What happens.
impl World {
    /// A candidate cannot lead for a while.
    pub fn stand_back(&mut self) -> bool {
        let node = self.victim();
        self.schedule_input(self.now, node, ToNode::Input(Input::StandBack));
        let until = self.some_time();
        self.schedule_input(until, node, ToNode::Input(Input::StandForward));
        true
    }

    /// Some processes cannot lead when they start.
    pub fn start_standing_back(&mut self, node: usize) {
        let may = self.plan.kinds.contains(&Kind::StandBack) && !self.quiet;
        let stands_back = may && self.rng.u8(0..4) == 0;
        self.nodes[node].settings.stands_back = stands_back;
        self.nodes[node].stands_back = stands_back;
        if stands_back {
            let until = self.some_time();
            self.schedule_input(until, node, ToNode::Input(Input::StandForward));
        }
    }

    /// Takes in that a process learns whether it can lead.
    pub fn take_health(&mut self, node: usize, input: &Input) {
        match input {
            Input::StandBack => self.nodes[node].stands_back = true,
            Input::StandForward => {
                let stood_back = std::mem::take(&mut self.nodes[node].stands_back);
                let waits = self.etcd.store.keys == [None; 2]
                    && self.nodes[node].role == Role::Follower
                    && self.checks.ready_from[node] < self.now;
                if stood_back && waits && self.plan.mix == Mix::Priorities {
                    let life = self.nodes[node].life;
                    let time = SECOND / 2 + 20 * self.plan.latency;
                    let since = self.now;
                    self.push(self.now + time, Event::LedAgain { node, life, since });
                }
            }
            _ => {}
        }
    }

    fn priority(&self, seat: &SeatKey) -> i32 {
        let writer = self.nodes.get(seat.key.writer);
        writer.map_or(0, |node| node.settings.priority)
    }
}

/// What is promised.
impl World {
    /// A candidate that stands back does not lead.
    pub fn check_stands_back(&self, node: usize) -> Result<(), Violation> {
        let to = &self.nodes[node];
        if to.stands_back && matches!(to.role, Role::Leader { .. }) {
            return Err(self.violation(format!("node {} leads though it stands back", node + 1)));
        }
        Ok(())
    }

    /// A candidate that stands back, or holds off, does not campaign.
    pub fn check_campaign(&self, node: usize) -> Result<(), Violation> {
        self.check_hold_off(node)?;
        if self.nodes[node].stands_back {
            return Err(
                self.violation(format!("node {} campaigns though it stands back", node + 1))
            );
        }
        Ok(())
    }

    /// Where nothing fails but candidates, one that can lead again campaigns at once if nobody leads.
    pub fn check_led_again(&self, node: usize, life: u32, since: Time) -> Result<(), Violation> {
        let to = &self.nodes[node];
        let is_same = to.life == life && to.machine.is_some() && !to.stands_back;
        if is_same && !self.checks.withdraws[node] && self.is_vacant_since(since) {
            return Err(self.violation(format!(
                "node {} does not campaign though it can lead again",
                node + 1
            )));
        }
        Ok(())
    }

    /// A leader yields to a candidate that is alive and has had a higher priority for long enough, unless an
    /// operator has chosen the leader.
    pub fn check_yield(&self, node: usize, said: &Said) -> Result<(), Violation> {
        let Said::Lost {
            term,
            reason: LossReason::Outranked,
        } = said
        else {
            return Ok(());
        };
        if self.etcd.histories_before > 0 {
            return Ok(());
        }
        let settings = self.nodes[node].settings;
        let store = &self.etcd.store;
        if store.chosen_at == term.token.get() {
            return Err(self.violation(format!(
                "node {} yields though somebody has chosen it",
                node + 1
            )));
        }
        if self.plan.mix != Mix::Priorities {
            return Ok(());
        }
        let slack = 20 * self.plan.latency + 20 * MILLI;
        let delay = settings.priority_delay.map_or(Time::MAX / 2, nanos);
        let better = store.seats.iter().flatten();
        let better = better
            .filter(|seat| seat.key.lease != term.lease.get())
            .filter(|seat| self.priority(seat) > settings.priority);
        let better = better.collect::<Vec<_>>();
        // It may have learned a moment ago that it cannot lead, or have withdrawn.
        let meddled = self.now < self.checks.handovers.last_health + slack;
        let has_waited = |seat: &&&SeatKey| {
            let handovers = &self.checks.handovers;
            let written = handovers.written_at(seat.key.mod_revision);
            let shown = written.max(handovers.began[node]);
            self.now - shown + slack >= delay * 9 / 10
        };
        if !meddled && !better.iter().any(|seat| has_waited(&seat)) {
            return Err(self.violation(format!("node {} yields too soon", node + 1)));
        }
        let is_alive = |seat: &&&SeatKey| {
            let mut leases = store.leases.iter();
            let lease = leases.find(|lease| lease.id == seat.key.lease);
            lease.is_some_and(|lease| {
                let silent = self.now.saturating_sub(lease.renewed);
                silent <= (lease.ttl / 3 + SECOND) * 11 / 10 + slack
            })
        };
        if !meddled && !better.iter().any(|seat| is_alive(&seat)) {
            return Err(self.violation(format!(
                "node {} yields to a candidate that is silent",
                node + 1
            )));
        }
        Ok(())
    }

    /// Where nothing fails any more, the candidate with the highest priority leads in the end.
    pub fn check_best_leads(&self) -> Result<(), Violation> {
        let acting = self.etcd.store.key(ElectionKey::Acting);
        let Some(node) = self.acting_node() else {
            return Ok(());
        };
        let leader = &self.nodes[node];
        let is_chosen = acting.is_some_and(|key| key.mod_revision == self.etcd.store.chosen_at);
        if is_chosen || leader.rights != Rights::All || leader.settings.priority_delay.is_none() {
            return Ok(());
        }
        let mut others = self.etcd.store.seats.iter().flatten();
        let may_lead = |seat: &&SeatKey| seat.is_healthy && !self.is_of_crowd(seat);
        if others.any(|seat| may_lead(&seat) && self.priority(seat) > leader.settings.priority) {
            return Err(self.violation(format!(
                "node {} does not yield to a candidate with a higher priority",
                node + 1
            )));
        }
        Ok(())
    }

    /// By when that is so after the faults have stopped and somebody leads.
    pub fn best_leads_within(&self) -> Time {
        let delays = self.nodes.iter();
        let delays = delays.filter_map(|node| node.settings.priority_delay);
        let longest = delays.map(nanos).max().unwrap_or(0);
        // One that has lost a term takes its seat anew, and waits once more.
        2 * longest * 10 / 9 + 4 * self.granted()
    }
}
