//! Jobs that run once and candidates with a limited wait: what they do, and what is promised of them.

use super::{
    SECOND, Time,
    checks::Violation,
    etcd::{Key, owner, owner_and_number},
    node::{Looked, Node, nanos},
    plan::Kind,
    world::{ToNode, World},
};
use crate::protocol::{ElectionKey, Event as Said, Input, Role, Settings, Term};
use std::time::Duration;

/// What they do.
impl World {
    /// Decides when the job of a term ends, and how; once the faults have stopped, it lasts.
    pub fn plan_end_of_job(&mut self, node: usize, term: Term) {
        if self.plan.runs_once && !self.quiet {
            let takes = self.rng.u64(0..3 * self.granted());
            let succeeds = self.rng.u8(0..4) > 0;
            let at = self.capped(takes);
            self.schedule_input(at, node, ToNode::JobEnds(term, succeeds));
        }
    }

    /// The job of a term ends by itself, unless it was asked to stop before.
    pub fn end_job(&mut self, node: usize, term: Term, succeeds: bool) -> Result<(), Violation> {
        let now = self.now;
        let to = &mut self.nodes[node];
        if to.acts(now) != Some(term) || !matches!(to.role, Role::Leader { .. }) {
            return Ok(());
        }
        if succeeds {
            to.child = None;
            to.completed = Some((term, now));
            to.so_far.is_reported = false;
            return self.handle(node, Some(Input::Completed { term }));
        }
        self.handle(node, Some(Input::Withdraw))?;
        self.schedule_stopped(now, node, term);
        Ok(())
    }

    /// Lets go of a leadership whose job is recorded, or is not.
    pub fn end_recording(&mut self, node: usize, said: &Said) {
        let withdraws = match said {
            Said::Recorded { .. } => false,
            Said::NotRecorded { .. } => self.rng.bool(),
            _ => return,
        };
        let Some((term, _)) = self.nodes[node].completed else {
            return;
        };
        self.nodes[node].so_far.is_reported = true;
        if withdraws {
            self.schedule_input(self.now, node, ToNode::Input(Input::Withdraw));
        }
        self.schedule_stopped(self.now, node, term);
    }

    /// When a process that has withdrawn is started again. One that would withdraw again soon takes its
    /// time, also after the faults have stopped.
    pub fn comes_back(&mut self, node: usize) -> Time {
        let back = self.rng.u64(0..3 * SECOND);
        let withdraws_again =
            self.nodes[node].settings.wait.is_some() || self.etcd.store.done.is_some();
        if withdraws_again {
            self.now + SECOND + back
        } else {
            self.capped(back)
        }
    }

    /// Notes that a term has ended, so that the wait begins again.
    pub fn begin_to_wait(&mut self, node: usize, role: Role) {
        let to = &mut self.nodes[node];
        if role.term().is_some() && to.term().is_none() {
            to.waits_since = self.now;
            to.completed = None;
        }
    }

    /// Somebody removes the record, so that the job runs again.
    pub fn forget_job(&mut self) -> bool {
        let is_recorded = self.etcd.store.forget();
        if is_recorded {
            self.note(|_| format!("fault   {}", Kind::Forget.text()));
        }
        is_recorded
    }
}

/// What is promised.
impl World {
    /// Until when etcd refuses requests, or when it last stopped to.
    pub fn refused_until(&self) -> Time {
        self.etcd.refusal.map_or(0, |(_, until)| until)
    }

    /// Nobody begins a job that is recorded as done.
    pub fn check_job(&self, node: usize, term: Term) -> Result<(), Violation> {
        if self.plan.runs_once && self.etcd.store.done.is_some() && !self.excuses(term.lease.get())
        {
            return Err(self.violation(format!(
                "node {} begins a job that is recorded as done",
                node + 1
            )));
        }
        Ok(())
    }

    /// A job is recorded only by the process that holds `leader/acting`.
    pub fn check_record(&self, node: usize, acting: Option<Key>) -> Result<(), Violation> {
        let holds = acting.is_some_and(|acting| {
            let (holder, _) = owner_and_number(acting.lease);
            holder == owner(node)
        });
        if !holds {
            return Err(self.violation(format!(
                "node {} records a job without leader/acting",
                node + 1
            )));
        }
        Ok(())
    }

    /// What is reported of the record is true.
    pub fn check_job_event(&self, node: usize, said: &Said) -> Result<(), Violation> {
        // What was written before a backup was restored is gone.
        if self.etcd.histories_before > 0 {
            return Ok(());
        }
        let mut records = self.etcd.store.records.iter();
        let what = match said {
            Said::Recorded { record } | Said::JobDone { record } => {
                let is_true = records.any(|found| found.revision == record.mod_revision);
                (!is_true).then_some("recorded as done")
            }
            Said::NotRecorded { may_exist: false } => {
                let completed = self.nodes[node].completed;
                // Unless somebody has removed it since.
                let stands = self.etcd.store.done.map(|done| done.mod_revision);
                let mut own = |term: Term| {
                    records.any(|found| {
                        found.token == term.token.get() && Some(found.revision) == stands
                    })
                };
                let exists = completed.is_some_and(|(term, _)| own(term));
                exists.then_some("not recorded")
            }
            _ => None,
        };
        match what {
            Some(what) => Err(self.violation(format!(
                "node {} reports that its job is {what}: untrue",
                node + 1
            ))),
            None => Ok(()),
        }
    }

    /// A job is not given up while its term goes on.
    fn check_giving_up(&self, node: usize, said: &Said) -> Result<(), Violation> {
        let to = &self.nodes[node];
        let acting = self.etcd.store.key(ElectionKey::Acting);
        let stands = to.completed.zip(acting).is_some_and(|((term, _), acting)| {
            acting.mod_revision == term.token.get() && acting.lease == term.lease.get()
        });
        let led = matches!(to.role_before, Role::Leader { .. });
        let goes_on = led && stands && !to.abandoned;
        if matches!(said, Said::NotRecorded { .. }) && goes_on {
            return Err(self.violation(format!(
                "node {} does not record its job though its term goes on",
                node + 1
            )));
        }
        Ok(())
    }

    /// Who gives up has waited for as long as it was to, and does not lead.
    pub fn check_wait_event(&mut self, node: usize, said: &Said) -> Result<(), Violation> {
        self.check_giving_up(node, said)?;
        let to = &mut self.nodes[node];
        to.so_far.withdraws |= matches!(
            said,
            Said::GaveUp { .. }
                | Said::JobDone { .. }
                | Said::Recorded { .. }
                | Said::JobDenied { .. }
        );
        if !matches!(said, Said::GaveUp { .. }) {
            return Ok(());
        }
        let wait = to.settings.wait.unwrap_or(Duration::MAX);
        let waited = self.now - to.waits_since;
        // Its clock may be a tenth too fast.
        let too_soon = waited * 11 / 10 + 1 < nanos(wait);
        if too_soon || to.term().is_some() {
            return Err(self.violation(format!("node {} gives up too soon", node + 1)));
        }
        Ok(())
    }

    /// Who tries once gives up as soon as it sees that somebody else leads, or may still be acting.
    pub fn check_single_try(&self, node: usize) -> Result<(), Violation> {
        let to = &self.nodes[node];
        let waits = to.settings.wait == Some(Duration::ZERO)
            && !to.so_far.withdraws
            && !to.so_far.was_elected;
        let Some(machine) = to.machine.as_ref().filter(|_| waits) else {
            return Ok(());
        };
        let status = machine.status();
        let is_others = |lease: i64| {
            let (holder, _) = owner_and_number(lease);
            holder != owner(node)
        };
        let keys = [status.leader, status.acting];
        let mut leases = keys.iter().flatten().map(|key| key.lease);
        let is_taken = leases.any(|lease| lease.is_none_or(|lease| is_others(lease.get())));
        if is_taken && matches!(to.role, Role::Follower) && !self.checks.withdraws[node] {
            return Err(self.violation(format!("node {} tries once, and waits", node + 1)));
        }
        Ok(())
    }

    /// Who tries once, or runs a job once, has looked before it asks for a lease.
    pub fn check_look(&self, node: usize) -> Result<(), Violation> {
        let to = &self.nodes[node];
        let must_look = match to.settings {
            Settings {
                runs_once: true, ..
            } => Looked::Permission,
            Settings {
                wait: Some(Duration::ZERO),
                ..
            } => Looked::Keys,
            _ => Looked::Nothing,
        };
        if to.so_far.looked < must_look {
            return Err(self.violation(format!(
                "node {} asks for a lease before it has looked",
                node + 1
            )));
        }
        Ok(())
    }

    /// Nobody waits for longer than it was to, neither to lead nor for the record of its job.
    pub fn check_jobs_and_waits(&self) -> Result<(), Violation> {
        for (place, node) in self.nodes.iter().enumerate() {
            if node.machine.is_none() || node.abandoned {
                continue;
            }
            let slack = (self.granted() + SECOND).max(2 * SECOND) * 10 / 9;
            let over = |since: Time, bound: Time| {
                self.now > since.max(node.paused_until) + bound * 10 / 9 + slack
            };
            if let Some(wait) = node.settings.wait.filter(|_| node.term().is_none())
                && over(node.waits_since, nanos(wait).max(8 * SECOND))
            {
                return Err(self.violation(format!("node {} waits for too long", place + 1)));
            }
            let bound = 2 * self.granted() + self.plan.stop_timeout;
            let refused_until = self.refused_until();
            if (node.completed).is_some_and(|(_, since)| over(since.max(refused_until), bound)) {
                return Err(self.violation(format!(
                    "node {} does not find out whether its job is recorded",
                    place + 1
                )));
            }
        }
        Ok(())
    }

    /// Once the job is done and the faults have stopped, everybody finds that out.
    pub fn check_done(&self) -> Result<(), Violation> {
        let is_late = |node: &Node| {
            node.machine.is_some() && self.now > node.waits_since + self.led_within() / 2
        };
        match self.nodes.iter().position(is_late) {
            Some(node) => Err(self.violation(format!(
                "node {} does not find that its job is done",
                node + 1
            ))),
            None => Ok(()),
        }
    }
}
