//! What is promised, checked at every step.

use super::{
    MILLI, SECOND, Time,
    challenges::Challenges,
    etcd::{self, Change, Etcd},
    node::{Actor, Node, nanos},
    plan::{Kind, Mix, Plan},
    reports::Reports,
    seats::Handovers,
    trace::lease_name,
    world::{Event, World},
};
use crate::protocol::{ElectionKey, Event as Said, LeaseId, LossReason, Moment, Role, Term};

/// A promise that was not kept.
#[derive(Clone, Debug)]
pub struct Violation {
    pub at: Time,
    pub what: String,
}

#[derive(Debug)]
pub struct Checks {
    pub terms: u64,
    /// The highest token of a term in this history of etcd.
    highest: i64,
    /// Leases of which people, or a restored backup, have taken the keys, and until when their
    /// holders may not know.
    excused: Vec<(i64, Time)>,
    /// A lease that holds keys while nobody acts by it, and since when.
    unused: Option<(i64, Time)>,
    /// Since when both keys have been absent.
    vacant_since: Option<Time>,
    /// From when on each process takes over at once if there is nobody: not as long as it starts,
    /// holds off after a term, or backs off.
    pub ready_from: Vec<Time>,
    /// Whether a process has no watch because it has opened none yet, or has ended the last one itself.
    pub watches_no_more: Vec<bool>,
    watch_ended: Vec<Time>,
    /// When each process's connection was cut last, and until when that is worth a report because
    /// it was cut before that.
    cut: Vec<Time>,
    /// When each process connected last: a connection that has not worked yet is worth a report.
    connected: Vec<Time>,
    cut_again: Vec<Time>,
    /// Since when a leader goes on though its `leader` key was taken.
    unheard: Vec<Option<(Term, Time)>>,
    /// When each process backed off last.
    pub backed_off: Vec<Time>,
    /// Until when each process holds off.
    holds_off_until: Vec<Time>,
    /// Processes that may find that etcd's history went back.
    unaware_of_restore: Vec<bool>,
    /// Processes that were asked to withdraw.
    pub withdraws: Vec<bool>,
    /// How many questions each process has asked in which second.
    asked: Vec<(Time, u32)>,
    /// The longest that a request has been on its way.
    pub slowest_request: Time,
    /// When the faults had stopped, the last term that began.
    last_term: Time,
    /// What stands alone, and who has reported it.
    pub reports: Reports,
    pub handovers: Handovers,
    pub challenges: Challenges,
}

impl Checks {
    /// Refused at every endpoint of three, with the shortest TTL and luck at every back-off, half
    /// as many; a node that does not back off asks more.
    const MOST_ASKED: u32 = 400;

    pub fn new(plan: &Plan) -> Self {
        Self {
            terms: 0,
            highest: 0,
            excused: Vec::new(),
            unused: None,
            vacant_since: None,
            ready_from: vec![0; plan.nodes],
            watches_no_more: vec![true; plan.nodes],
            watch_ended: vec![0; plan.nodes],
            cut: vec![0; plan.nodes],
            connected: vec![0; plan.nodes],
            cut_again: vec![0; plan.nodes],
            unheard: vec![None; plan.nodes],
            backed_off: vec![0; plan.nodes],
            holds_off_until: vec![0; plan.nodes],
            unaware_of_restore: vec![false; plan.nodes],
            withdraws: vec![false; plan.nodes],
            asked: vec![(0, 0); plan.nodes],
            slowest_request: 0,
            last_term: 0,
            reports: Reports::new(plan.nodes),
            handovers: Handovers::new(plan.nodes),
            challenges: Challenges::new(plan.nodes),
        }
    }

    pub fn etcd_leader_changed(&mut self, now: Time) {
        // Leases have started anew.
        if let Some((_, since)) = &mut self.unused {
            *since = now;
        }
    }

    pub fn is_not_ready(&mut self, node: usize, until: Time) {
        self.ready_from[node] = until.max(self.ready_from[node]);
    }

    fn holds_off(&mut self, node: usize, until: Time) {
        self.holds_off_until[node] = until.max(self.holds_off_until[node]);
    }

    /// A new process knows nothing of what was asked of the one before.
    pub fn started_anew(&mut self, node: usize) {
        self.unaware_of_restore[node] = false;
        self.withdraws[node] = false;
        self.watches_no_more[node] = true;
        self.holds_off_until[node] = 0;
        self.reports.started_anew(node);
        self.challenges.started_anew(node);
    }

    /// A watch is replaced at once, but once in a period only; then the next read finds out.
    pub fn watch_ended(&mut self, node: usize, now: Time, ttl: Time) {
        let before = std::mem::replace(&mut self.watch_ended[node], now);
        if before > 0 && now - before < ttl / 4 {
            self.is_not_ready(node, now + ttl / 2);
        }
    }

    pub fn connected(&mut self, node: usize, now: Time) {
        self.connected[node] = now;
    }

    /// A connection that breaks is replaced without a report, but once in a period only.
    pub fn connection_cut(&mut self, node: usize, now: Time, ttl: Time) {
        let before = std::mem::replace(&mut self.cut[node], now);
        let is_new = now < self.connected[node] + SECOND;
        if is_new || before > 0 && now - before < ttl / 2 {
            self.cut_again[node] = now + ttl;
        }
    }

    pub fn history_began(&mut self) {
        self.highest = 0;
        self.unused = None;
        self.unaware_of_restore.fill(true);
    }

    fn excuses(&self, lease: i64, now: Time) -> bool {
        let excuses = |(of, until): &(i64, Time)| *of == lease && now < *until;
        self.excused.iter().any(excuses)
    }
}

impl World {
    /// Somebody takes a lease's keys from outside: until then its holder may go on acting, which
    /// the documents say.
    pub fn excuse(&mut self, lease: i64, until: Time) {
        self.checks.excused.push((lease, until));
        self.push(until, Event::ExcuseEnds { lease });
    }

    pub fn excuse_everybody(&mut self, until: Time) {
        let terms = self.nodes.iter().filter_map(Node::term);
        let leases = terms.map(|term| term.lease.get());
        let held = self.etcd.store.leases.iter().map(|lease| lease.id);
        for lease in leases.chain(held).collect::<Vec<_>>() {
            self.excuse(lease, until);
        }
    }

    /// Whether somebody has taken the keys of this lease from outside.
    pub fn excuses(&self, lease: i64) -> bool {
        self.checks.excuses(lease, self.now)
    }

    /// Changes the store, checks what that does to the node that acts, and notifies the watches.
    pub fn change(&mut self, change: impl FnOnce(&mut Etcd)) -> Result<(), Violation> {
        let (revision, history) = (self.etcd.store.revision, self.etcd.histories_before);
        change(&mut self.etcd);
        if (self.etcd.store.revision, self.etcd.histories_before) == (revision, history) {
            return Ok(());
        }
        self.note(|world| {
            let keys = world.etcd.store.keys.map(|key| match key {
                Some(key) => format!("{} at {}", lease_name(key.lease), key.mod_revision),
                None => "absent".to_owned(),
            });
            let revision = world.etcd.store.revision;
            format!(
                "etcd    revision {revision}: leader {}, acting {}",
                keys[0], keys[1]
            )
        });
        self.checks.reports.take(self.now, self.etcd.store.keys);
        for node in 0..self.nodes.len() {
            self.check_acting(node)?;
            self.pump(node);
        }
        if self.etcd.store.keys == [None; 2] {
            self.checks.vacant_since.get_or_insert(self.now);
        } else if let Some(since) = self.checks.vacant_since.take() {
            self.check_vacancy(since)?;
        }
        Ok(())
    }

    /// A node that acts holds `leader/acting`, and acts alone.
    pub fn check_acting(&mut self, node: usize) -> Result<(), Violation> {
        let now = self.now;
        if self.nodes[node].term().is_some() {
            self.checks.is_not_ready(node, now + self.granted() / 2);
        }
        let Some(term) = self.nodes[node].acts(now) else {
            return Ok(());
        };
        let lease = term.lease.get();
        let excused = self.checks.excuses(lease, now);
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            if let Some(overlapping) = self.nodes[other].acts(now)
                && !excused
                && !self.checks.excuses(overlapping.lease.get(), now)
            {
                return Err(self.violation(format!(
                    "two act: node {} with token {}, node {} with token {}",
                    node + 1,
                    term.token,
                    other + 1,
                    overlapping.token
                )));
            }
        }
        let holds = self.holds(ElectionKey::Acting, lease);
        if !holds && !excused {
            return Err(self.violation(format!(
                "node {} acts without leader/acting, with token {}",
                node + 1,
                term.token
            )));
        }
        Ok(())
    }

    fn holds(&self, key: ElectionKey, lease: i64) -> bool {
        self.etcd
            .store
            .key(key)
            .is_some_and(|key| key.lease == lease)
    }

    pub fn check_excuse(&self, lease: i64) -> Result<(), Violation> {
        let acts = |node: &&Node| {
            node.acts(self.now)
                .is_some_and(|term| term.lease.get() == lease)
        };
        if self.nodes.iter().any(|node| acts(&node))
            && !self.holds(ElectionKey::Acting, lease)
            && !self.checks.excuses(lease, self.now)
        {
            return Err(self.violation("somebody acts a whole TTL after its keys were taken"));
        }
        Ok(())
    }

    /// A candidate that was asked to step down, or whose requests or responses were lost, lets others lead first.
    pub fn check_hold_off(&self, node: usize) -> Result<(), Violation> {
        if self.now < self.checks.holds_off_until[node] {
            return Err(self.violation(format!("node {} does not hold off", node + 1)));
        }
        Ok(())
    }

    /// A term begins before its deadline, with a token above all before it.
    pub fn check_term(
        &mut self,
        node: usize,
        term: Term,
        deadline: Moment,
    ) -> Result<(), Violation> {
        self.checks.terms += 1;
        self.checks.last_term = self.now;
        if self.nodes[node].clock.read(self.now) >= deadline {
            return Err(
                self.violation(format!("node {} begins a term past its deadline", node + 1))
            );
        }
        self.check_hold_off(node)?;
        let lease = term.lease.get();
        // A term of a history that is over counts no more.
        let excused = self.checks.excuses(lease, self.now);
        if excused && !self.holds(ElectionKey::Leader, lease) {
            return Ok(());
        }
        let token = term.token.get();
        let won = |change: &Change| {
            let own = change.now.is_some_and(|key| key.lease == lease);
            change.revision == token && change.key == ElectionKey::Leader && own
        };
        if !excused && !self.etcd.store.history.iter().any(won) {
            return Err(self.violation(format!("token {token} is no revision of a win")));
        }
        if token <= self.checks.highest && !excused {
            return Err(self.violation(format!(
                "node {} begins a term with token {token}, after one with {}",
                node + 1,
                self.checks.highest
            )));
        }
        self.checks.highest = self.checks.highest.max(token);
        Ok(())
    }

    /// A term is one uninterrupted leadership.
    pub fn check_revival(
        &self,
        node: usize,
        had: Option<Term>,
        acted: Option<Term>,
    ) -> Result<(), Violation> {
        let acts = self.nodes[node].acts(self.now);
        if self.plan.actor == Actor::Asks && acts.is_some() && acts == had && acted != had {
            return Err(self.violation(format!("node {} revives a term that was over", node + 1)));
        }
        Ok(())
    }

    /// Where connections do nothing but break now and then, nobody reports an outage.
    fn check_report(&self, node: usize, said: &Said) -> Result<(), Violation> {
        if self.plan.mix == Mix::Calm
            && matches!(said, Said::Unanswered { .. })
            && self.now > self.checks.cut_again[node]
        {
            return Err(self.violation(format!("node {} reports an outage: untrue", node + 1)));
        }
        Ok(())
    }

    /// The limit of a try of this process, by a clock that may be a tenth too fast.
    fn limit_of_try(&self, node: usize) -> Time {
        let settings = &self.nodes[node].settings;
        let ttl = settings.ttl.as_duration();
        let span = settings
            .fail_over
            .map_or(ttl, |limit| limit.as_duration().min(ttl));
        (nanos(span) / 5).min(5 * SECOND) * 9 / 10
    }

    /// A candidate that gives up a lease by which it could have acted for most of a TTL lets others lead first. If it
    /// cannot revoke the lease at once, that time passes meanwhile.
    pub fn note_unused_lease(&mut self, node: usize, lease: LeaseId) {
        let Some((unused, since)) = self.checks.unused else {
            return;
        };
        let ttl = nanos(self.nodes[node].settings.ttl.as_duration());
        // Nobody has changed them by hand, which would be another reason to give the lease up.
        let [leader, acting] = self.etcd.store.keys;
        let holds_both = leader.zip(acting).is_some_and(|(leader, acting)| {
            [leader.lease, acting.lease] == [unused; 2]
                && leader.mod_revision == acting.mod_revision
        });
        let never_led = self.nodes[node].role_before == Role::Follower;
        let is_unused = unused == lease.get() && holds_both && never_led;
        let gives_up = self.checks.backed_off[node] == self.now;
        if gives_up && is_unused && self.now - since >= ttl * 3 / 4 {
            let until = self.now + self.limit_of_try(node);
            self.checks.holds_off(node, until);
        }
    }

    /// What is reported is true.
    pub fn check_event(&mut self, node: usize, said: &Said) -> Result<(), Violation> {
        self.check_report(node, said)?;
        if matches!(said, Said::HistoryWentBack)
            && !std::mem::take(&mut self.checks.unaware_of_restore[node])
        {
            let text = format!("node {} reports that history went back: untrue", node + 1);
            return Err(self.violation(text));
        }
        let Said::Lost { term, reason } = said else {
            return Ok(());
        };
        if matches!(
            reason,
            LossReason::LeaderKeyDeleted | LossReason::LeaderKeyOverwritten
        ) {
            // A fifth of the TTL, by a clock that may be a tenth too fast.
            let ttl = nanos(self.nodes[node].settings.ttl.as_duration());
            self.checks.holds_off(node, self.now + ttl / 5 * 9 / 10);
        }
        if *reason == LossReason::NotRenewed {
            self.checks
                .holds_off(node, self.now + self.limit_of_try(node));
        }
        let lease = term.lease.get();
        // Another may act already: there is no time to ask.
        if matches!(
            reason,
            LossReason::ActingKeyTaken | LossReason::TakenOver | LossReason::LeaseGone
        ) && let Role::Stopping { by, .. } = self.nodes[node].role
            && by > self.nodes[node].clock.read(self.now)
        {
            return Err(self.violation(format!("node {} may go on though {reason}", node + 1)));
        }
        // What a lease of an earlier history finds may be the restored backup's doing.
        let this_history = self.etcd.has_granted(lease);
        let taken = |key| {
            let taken = |change: &&Change| {
                let bound = change
                    .now
                    .is_some_and(|key| key.lease == lease && key.mod_revision == term.token.get());
                change.key == key && change.revision > term.token.get() && !bound
            };
            self.etcd
                .store
                .history
                .iter()
                .rev()
                .any(|change| taken(&change))
        };
        let untrue = match reason {
            LossReason::LeaderKeyDeleted | LossReason::LeaderKeyOverwritten => {
                this_history && !taken(ElectionKey::Leader)
            }
            // Nobody takes over from a leader that lives and is heard.
            LossReason::TakenOver if self.plan.mix == Mix::Quick => true,
            LossReason::ActingKeyTaken | LossReason::TakenOver => {
                this_history && !taken(ElectionKey::Acting)
            }
            LossReason::LeaseGone => {
                let is_there = |held: &etcd::Lease| held.id == lease && self.now < held.expires;
                this_history && self.etcd.store.leases.iter().any(is_there)
            }
            // Neither does one bad endpoint cost a term.
            LossReason::NotRenewed => {
                matches!(self.plan.mix, Mix::Calm | Mix::Endpoint | Mix::Quick)
            }
            _ => false,
        };
        if untrue {
            return Err(self.violation(format!("node {} reports that {reason}: untrue", node + 1)));
        }
        let settled = self.now > self.plan.quiet + self.led_within();
        if settled && *reason != LossReason::Outranked {
            return Err(self.violation(format!(
                "node {} loses its term though nothing fails: {reason}",
                node + 1
            )));
        }
        Ok(())
    }

    /// A node that holds keys acts by them, or loses them.
    pub fn check_holder(&mut self) -> Result<(), Violation> {
        for node in 0..self.nodes.len() {
            self.pump(node);
        }
        let now = self.now;
        if let Some(since) = self.checks.vacant_since {
            self.check_vacancy(since)?;
        }
        self.check_wishes()?;
        let known = |lease: i64| {
            let acts = |node: &Node| node.acts(now).is_some_and(|term| term.lease.get() == lease);
            // A completed job holds them for as long as etcd refuses its record.
            let is_refused = now < self.refused_until();
            let records = |node: &Node| {
                let own = |(term, _): (Term, Time)| term.lease.get() == lease;
                is_refused && node.completed.is_some_and(own)
            };
            self.nodes.iter().any(|node| acts(node) || records(node))
        };
        let unused = self
            .etcd
            .store
            .keys
            .into_iter()
            .flatten()
            .map(|key| key.lease)
            .find(|lease| *lease != 0 && !known(*lease) && self.etcd.serves());
        let since = match (unused, self.checks.unused) {
            (Some(lease), Some((same, since))) if lease == same => since,
            _ => now,
        };
        self.checks.unused = unused.map(|lease| (lease, since));
        let late = self.checks.slowest_request;
        let ttl = self.granted();
        // It may notice after a TTL, by its clock, that it has heard nothing; and its lease ends
        // after another, counted from when the last of its keepalives arrived.
        let mut bound = ttl * 10 / 9 + ttl + late + 2 * SECOND + ttl / 5;
        if self.plan.kinds.contains(&Kind::Untaken) {
            // Having begun a term at last, it may wait a TTL for somebody to take that.
            bound += ttl * 10 / 9;
        }
        if now - since > bound {
            return Err(self.violation(format!(
                "lease {} goes on holding keys, and nobody acts by them",
                lease_name(unused.unwrap_or(0))
            )));
        }
        Ok(())
    }

    /// A leader whose `leader` key was taken hears of it.
    pub fn check_wishes(&mut self) -> Result<(), Violation> {
        for node in 0..self.nodes.len() {
            let leads = match self.nodes[node].role {
                Role::Leader { term, .. } if self.nodes[node].acts(self.now).is_some() => term,
                _ => {
                    self.checks.unheard[node] = None;
                    continue;
                }
            };
            let stands = |key: etcd::Key| {
                key.lease == leads.lease.get() && key.mod_revision == leads.token.get()
            };
            if self.etcd.store.key(ElectionKey::Leader).is_some_and(stands) {
                self.checks.unheard[node] = None;
                continue;
            }
            let since = match self.checks.unheard[node] {
                Some((term, since)) if term == leads => since,
                _ => self.now,
            };
            self.checks.unheard[node] = Some((leads, since));
            // By a watch, unless that has failed; or by a read, without which it does not lead on.
            let has_watch = self.nodes[node].watch.is_some() || self.checks.watches_no_more[node];
            let bound = match self.plan.mix {
                Mix::Calm if has_watch => SECOND,
                _ => self.granted() + SECOND / 2,
            };
            if self.now - since > bound {
                return Err(self.violation(format!("node {} leads on without leader", node + 1)));
            }
        }
        Ok(())
    }

    /// Nobody floods etcd with questions, whatever it answers.
    pub fn check_pace(&mut self, node: usize) -> Result<(), Violation> {
        let second = self.now / SECOND;
        let (of, asked) = &mut self.checks.asked[node];
        *asked = if *of == second { *asked + 1 } else { 1 };
        *of = second;
        let asked = *asked;
        self.tally.most_asked = self.tally.most_asked.max(asked);
        if asked > Checks::MOST_ASKED {
            return Err(self.violation(format!(
                "node {} asks {asked} questions in a second",
                node + 1
            )));
        }
        Ok(())
    }

    /// Whether both keys have been absent since then, or for longer.
    pub fn is_vacant_since(&self, then: Time) -> bool {
        self.checks.vacant_since.is_some_and(|since| since <= then)
    }

    /// Where nothing fails, somebody takes over as fast as messages travel.
    fn check_vacancy(&self, since: Time) -> Result<(), Violation> {
        let ready = |node: usize| {
            self.nodes[node].machine.is_some() && self.checks.ready_from[node] < since
        };
        // Those that are left out read every 5 s at most, by a clock that may be a tenth too slow.
        let extra = (self.granted() / 3).min(5 * SECOND) * 10 / 9;
        let bound = |node: usize| {
            let extra = if self.may_be_left_out(node) { extra } else { 0 };
            500 * MILLI + extra
        };
        let is_late = |node: usize| ready(node) && self.now - since > bound(node);
        if self.plan.mix == Mix::Calm && (0..self.nodes.len()).any(is_late) {
            return Err(self.violation("nobody takes over though all is well"));
        }
        Ok(())
    }

    /// Somebody acts within the time that is promised.
    pub fn check_led(&mut self) -> Result<(), Violation> {
        if self.etcd.store.done.is_some() {
            return self.check_done();
        }
        let may_yield = (self.nodes.iter()).any(|node| node.settings.priority_delay.is_some());
        let leads = |node: &Node| {
            let leads = match node.role {
                Role::Leader { .. } => true,
                Role::Stopping { reason, .. } => reason == LossReason::Outranked,
                _ => false,
            };
            leads && node.acts(self.now).is_some()
        };
        if !self.nodes.iter().any(leads) {
            // A leader may just be yielding to a better candidate.
            let is_first = self.now == self.plan.quiet + self.led_within();
            if is_first && may_yield {
                let mut handed_over = SECOND / 2 + 20 * self.plan.latency;
                if self.plan.actor == Actor::Child {
                    handed_over += self.plan.stop_timeout * 10 / 9;
                }
                self.push(self.now + handed_over, Event::LedByNow);
                return Ok(());
            }
            return Err(self.violation("nobody acts though nothing has failed for long enough"));
        }
        if self.checks.withdraws.contains(&true) {
            return Err(self.violation("somebody was asked to withdraw and has not"));
        }
        // A leader that has yielded has led before.
        if !may_yield {
            let took = self.checks.last_term.saturating_sub(self.plan.quiet);
            self.tally.slowest = took * 1000 / self.led_within();
        }
        Ok(())
    }
}
