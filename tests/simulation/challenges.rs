//! Fail-over limits: who has one, who suspects a leader and why, and what is promised of challenges and take-overs.

use super::{
    MILLI, SECOND, Time,
    checks::Violation,
    etcd::Held,
    node::{Actor, nanos},
    plan::{Kind, Mix, Plan},
    seats::Rights,
    world::{Event, ToNode, World},
};
use crate::protocol::{
    Effect, ElectionKey, Entry, FailOverLimit, FencingToken, Guard, Input, Presence, Role,
    Settings, Term, TermSettings, Transaction,
};
use fastrand::Rng;
use std::time::Duration;

/// Gives a process a fail-over limit, or none.
pub fn set_limit(settings: &mut Settings, rng: &mut Rng, plan: &Plan, rights: Rights) {
    if !plan.limits {
        return;
    }
    let ttl = settings.ttl.as_duration();
    // In the mix where nobody may lose a term, a limit must allow for the messages' latency.
    let part = [2, 4, 10][rng.usize(0..if plan.mix == Mix::Quick { 2 } else { 3 })];
    let limit = (ttl / part).max(FailOverLimit::MIN.as_duration());
    let limit = Duration::from_millis(u64::try_from(limit.as_millis()).unwrap_or(0));
    let has_one = plan.mix == Mix::Quick || rng.u8(0..4) > 0;
    let is_long = nanos(limit) >= 30 * plan.latency;
    let suffices = is_long && (plan.actor == Actor::Asks || limit >= Duration::from_secs(1));
    // One that may not read or write the challenge does not take part with a limit.
    if has_one && suffices && rights == Rights::All {
        settings.fail_over = FailOverLimit::try_from(limit).ok();
        if plan.actor == Actor::Child {
            settings.grace = limit / 5;
        }
    }
}

/// Who has challenged which leader.
#[derive(Debug)]
pub struct Challenges {
    /// The term that each process has challenged last, and when.
    last: Vec<(i64, Time)>,
}

impl Challenges {
    pub fn new(nodes: usize) -> Self {
        Self {
            last: vec![(0, 0); nodes],
        }
    }

    pub fn started_anew(&mut self, node: usize) {
        self.last[node] = (0, 0);
    }
}

/// A leader that has crashed, and who should take over from it.
#[derive(Clone, Debug)]
pub struct Crashed {
    token: i64,
    successors: Vec<(usize, u32)>,
}

/// What happens.
impl World {
    /// What a process of the previous version makes of what it is shown: it knows no limit.
    pub fn as_seen_by(&self, node: usize, mut input: Input) -> Input {
        if self.nodes[node].rights != Rights::Previous {
            return input;
        }
        let forget = |entry: Option<&mut Entry>| {
            if let Some(entry) = entry {
                entry.settings = TermSettings::default();
            }
        };
        match &mut input {
            Input::Transacted {
                result: Ok(view), ..
            } => forget(view.acting.as_mut()),
            Input::Changed { entry, .. } => forget(entry.as_mut()),
            _ => {}
        }
        input
    }

    /// What a process knows of the leader from outside etcd.
    fn report_presence(&mut self, at: Time, node: usize, token: i64, presence: Presence) {
        let of = FencingToken::new(token);
        self.schedule_input(at, node, ToNode::Input(Input::Presence { of, presence }));
    }

    /// A process hears something of a leader that lives, or of one that did.
    pub fn suspect(&mut self) -> bool {
        let node = self.rng.usize(0..self.nodes.len());
        let Some(acting) = self.etcd.store.key(ElectionKey::Acting) else {
            return false;
        };
        let presence = match self.rng.u8(0..8) {
            0 => Presence::Unknown,
            // Where a crash is always noticed, a connection breaks with it.
            1 if self.plan.mix != Mix::Quick || self.plan.connects => Presence::Connected,
            _ => Presence::Broken,
        };
        let earlier = if self.rng.u8(0..8) == 0 { 3 } else { 0 };
        let token = acting.mod_revision - earlier;
        self.note(|_| format!("fault   node {} hears of {token}: {presence:?}", node + 1));
        self.report_presence(self.now, node, token, presence);
        true
    }

    /// The connections to a leader that has crashed break.
    pub fn break_presence(&mut self, crashed: usize, term: Option<Term>) {
        let Some(term) = term.filter(|_| self.plan.limits) else {
            return;
        };
        let token = term.token.get();
        let mut successors = Vec::new();
        for node in (0..self.nodes.len()).filter(|node| *node != crashed) {
            let reports = match self.plan.mix {
                Mix::Quick => self.plan.connects,
                _ => self.rng.u8(0..4) > 0,
            };
            if reports {
                let at = self.now + self.rng.u64(2 * MILLI..50 * MILLI);
                self.report_presence(at, node, token, Presence::Broken);
            }
            if self.follows(node, token) {
                successors.push((node, self.nodes[node].life));
            }
        }
        let acting = self.etcd.store.key(ElectionKey::Acting);
        let limit = acting.filter(|acting| acting.mod_revision == token);
        let limit = limit.and_then(|acting| acting.settings.fail_over);
        if let Some(limit) = limit.filter(|_| self.plan.mix == Mix::Quick) {
            let by = self.now + self.replaced_within(limit, token);
            let crashed = Crashed { token, successors };
            self.push(by, Event::Replaced(crashed));
        }
    }

    /// Whether a process follows the leader of this term, as far as it knows.
    fn follows(&self, node: usize, token: i64) -> bool {
        let to = &self.nodes[node];
        let Some(machine) = &to.machine else {
            return false;
        };
        let acting = machine.status().acting;
        let is_ready = self.checks.ready_from[node] < self.now && !self.checks.withdraws[node];
        to.role == Role::Follower
            && is_ready
            && acting.is_some_and(|acting| acting.mod_revision == token)
    }

    /// By when a leader that crashes now is replaced.
    fn replaced_within(&self, limit: FailOverLimit, token: i64) -> Time {
        let limit_time = nanos(limit.as_duration());
        let mut time = nanos(limit.take_over_after());
        let challenged = &self.checks.challenges.last;
        let is_recent = |(of, at): &(i64, Time)| *of == token && self.now - at < limit_time * 6 / 5;
        if challenged.iter().any(is_recent) {
            // It is challenged once in a limit only.
            time += limit_time;
        }
        if !self.plan.connects {
            // etcd is asked twice in a limit, and must not have renewed the lease for a while.
            time += limit_time / 2 + limit_time * 2 / 5 + 2 * SECOND;
        }
        time * 10 / 9 + SECOND / 2 + 20 * self.plan.latency
    }

    /// People write or delete the challenge.
    pub fn meddle_with_challenge(&mut self, kind: Kind) -> Result<bool, Violation> {
        self.note(|_| format!("fault   {}", kind.text()));
        if kind == Kind::DeleteChallenge {
            let mut was_there = false;
            self.change(|etcd| was_there = etcd.store.delete_challenge())?;
            return Ok(was_there);
        }
        let lease = if self.rng.u8(0..4) == 0 {
            self.lend()
        } else {
            0
        };
        let people = self.plan.nodes;
        self.change(|etcd| etcd.store.put_challenge(lease, people))?;
        Ok(true)
    }
}

/// What is promised.
impl World {
    /// A follower challenges a leader that has a limit, once in a limit, and not while it stands back.
    pub fn check_challenge(
        &mut self,
        node: usize,
        transaction: &Transaction,
    ) -> Result<(), Violation> {
        if transaction.effect != Effect::Challenge {
            return Ok(());
        }
        if self.nodes[node].stands_back {
            return Err(self.violation(format!(
                "node {} challenges the leader though it stands back",
                node + 1
            )));
        }
        let Guard::Unchanged {
            mod_revision: token,
            ..
        } = transaction.acting
        else {
            return Err(self.violation(format!("node {} challenges nobody", node + 1)));
        };
        let changes = self.etcd.store.history.iter();
        let wrote = changes.rev().find(|change| {
            change.revision == token && change.key == ElectionKey::Acting && change.now.is_some()
        });
        let limit = wrote.and_then(|change| change.now?.settings.fail_over);
        let is_known = wrote.is_some() && self.etcd.histories_before == 0;
        if limit.is_none() && is_known {
            return Err(self.violation(format!(
                "node {} challenges a leader without a limit",
                node + 1
            )));
        }
        let (of, last) =
            std::mem::replace(&mut self.checks.challenges.last[node], (token, self.now));
        let shortest = limit.map_or(0, |limit| nanos(limit.as_duration()) * 10 / 11);
        if of == token && self.now - last + MILLI < shortest && is_known {
            return Err(self.violation(format!("node {} challenges again too soon", node + 1)));
        }
        Ok(())
    }

    /// A process takes over what belongs to one term with a limit.
    pub fn check_take_over(&mut self, node: usize, before: &Held) -> Result<(), Violation> {
        self.tally.taken_over += 1;
        let leader = before.key(ElectionKey::Leader);
        let acting = before.key(ElectionKey::Acting);
        let is_one = acting.is_some_and(|acting| {
            let is_own = leader.is_none_or(|leader| leader.lease == acting.lease);
            is_own && acting.lease != 0 && acting.settings.fail_over.is_some()
        });
        if !is_one {
            return Err(self.violation(format!(
                "node {} takes over what may not be taken over",
                node + 1
            )));
        }
        Ok(())
    }

    /// Where nothing fails but processes, a leader that has crashed is replaced in time.
    pub fn check_replaced(&self, crashed: &Crashed) -> Result<(), Violation> {
        let acting = self.etcd.store.key(ElectionKey::Acting);
        if acting.is_none_or(|acting| acting.mod_revision != crashed.token) {
            return Ok(());
        }
        let could = |(node, life): &(usize, u32)| {
            self.nodes[*node].life == *life && !self.checks.withdraws[*node]
        };
        if crashed.successors.iter().any(could) {
            return Err(self.violation("nobody takes over from a leader that has crashed"));
        }
        Ok(())
    }

    /// A lease serves one term: a candidate that was taken over from leads again by another one.
    pub fn check_lease_is_unused(
        &self,
        node: usize,
        lease: i64,
        before: &Held,
    ) -> Result<(), Violation> {
        let changes = self.etcd.store.history.iter();
        let mut earlier = changes.filter(|change| change.revision <= before.revision);
        let has_served = earlier.any(|change| {
            change.key == ElectionKey::Leader && change.now.is_some_and(|key| key.lease == lease)
        });
        if has_served && self.plan.mix == Mix::Quick {
            return Err(self.violation(format!(
                "node {node} hands its term to a lease that has served one"
            )));
        }
        Ok(())
    }
}
