//! Checks what is reported of a `leader/acting` that stands while nobody leads: in time, and only if
//! it lasts.

use super::{MILLI, Time, checks::Violation, etcd::Keys, node::nanos, plan::Mix, world::World};
use crate::protocol::{ElectionKey, Event as Said, Input, Role};

/// One `leader/acting` that has stood alone.
#[derive(Clone, Copy, Debug)]
struct Alone {
    mod_revision: i64,
    /// When it first did.
    since: Time,
    /// When it last ceased to, if it does not now.
    until: Option<Time>,
}

/// What stands alone, and who has reported it.
#[derive(Debug)]
pub struct Reports {
    stood: Vec<Alone>,
    /// The revision as of which each process knows `leader`.
    leader_as_of: Vec<i64>,
    /// The one that each process sees, by its revision, and since when.
    seen: Vec<Option<(i64, Time)>>,
    /// Whether that is the last thing that each process has reported.
    reported: Vec<bool>,
}

impl Reports {
    pub fn new(nodes: usize) -> Self {
        Self {
            stood: Vec::new(),
            leader_as_of: vec![0; nodes],
            seen: vec![None; nodes],
            reported: vec![false; nodes],
        }
    }

    pub fn started_anew(&mut self, node: usize) {
        self.leader_as_of[node] = 0;
        self.seen[node] = None;
        self.reported[node] = false;
    }

    /// Takes in what shows a process the `leader` key.
    pub fn show(&mut self, node: usize, input: &Input) {
        let revision = match input {
            Input::Changed { key, revision, .. } if *key == ElectionKey::Leader => *revision,
            Input::Transacted {
                result: Ok(view), ..
            } => view.revision,
            _ => return,
        };
        let as_of = &mut self.leader_as_of[node];
        *as_of = revision.max(*as_of);
    }

    /// Takes in how the keys are now.
    pub fn take(&mut self, now: Time, [leader, acting]: Keys) {
        let is_led = leader.is_some_and(|leader| leader.lease != 0);
        let alone = acting.filter(|_| !is_led).map(|acting| acting.mod_revision);
        if let Some(last) = self.stood.last_mut() {
            if Some(last.mod_revision) == alone {
                last.until = None;
                return;
            }
            last.until.get_or_insert(now);
        }
        self.stood.extend(alone.map(|mod_revision| Alone {
            mod_revision,
            since: now,
            until: None,
        }));
    }
}

impl World {
    /// How long a `leader/acting` must stand alone, by a process's clock, to be worth a report.
    fn settling(&self, node: usize) -> Time {
        let ttl = nanos(self.nodes[node].settings.ttl.as_duration());
        (ttl.max(self.plan.min_ttl) / 10).min(500 * MILLI)
    }

    /// It is reported only if it lasts: never where both keys go together.
    pub fn check_still_acts(&mut self, node: usize, said: &Said) -> Result<(), Violation> {
        match said {
            Said::SomebodyStillActs => self.checks.reports.reported[node] = true,
            Said::Campaigning { .. }
            | Said::Following { .. }
            | Said::LeaderGone
            | Said::Leading { .. }
            | Said::Lost { .. } => {
                self.checks.reports.reported[node] = false;
                return Ok(());
            }
            _ => return Ok(()),
        }
        let machine = self.nodes[node].machine.as_ref();
        let acting = machine.and_then(|machine| machine.status().acting);
        // Revisions repeat after a backup is restored.
        let (Some(acting), 0) = (acting, self.etcd.histories_before) else {
            return Ok(());
        };
        let mut stood = self.checks.reports.stood.iter();
        let lasted = stood
            .find(|alone| alone.mod_revision == acting.mod_revision)
            .map_or(0, |alone| alone.until.unwrap_or(self.now) - alone.since);
        // Its clock may be a tenth too fast.
        if lasted < self.settling(node) * 10 / 11 {
            return Err(self.violation(format!(
                "node {} reports that somebody may still be acting: untrue",
                node + 1
            )));
        }
        Ok(())
    }

    /// Takes in what a process sees.
    pub fn note_acting_alone(&mut self, node: usize) {
        let alone = self.nodes[node].machine.as_ref().and_then(|machine| {
            let status = machine.status();
            let is_led = status.leader.is_some_and(|leader| leader.lease.is_some());
            let follows = matches!(status.role, Role::Follower);
            let is_own = |lease| machine.is_given_up(lease);
            let acting = status.acting.filter(|_| follows && !is_led)?;
            (!acting.lease.is_some_and(is_own)).then_some(acting.mod_revision)
        });
        let reports = &mut self.checks.reports;
        let as_of = reports.leader_as_of[node];
        let seen = &mut reports.seen[node];
        *seen = alone
            .filter(|alone| as_of >= *alone)
            .map(|mod_revision| match *seen {
                Some((before, since)) if before == mod_revision => (before, since),
                _ => (mod_revision, self.now),
            });
    }

    /// Where requests are answered in time, it is reported soon after a process has seen it.
    pub fn check_reported(&self) -> Result<(), Violation> {
        if self.plan.mix != Mix::Handovers {
            return Ok(());
        }
        for node in 0..self.nodes.len() {
            let Some((_, since)) = self.checks.reports.seen[node] else {
                continue;
            };
            // Its clock may be a tenth too slow, its timer late, and a try under way.
            let bound = self.settling(node) * 10 / 9 + 50 * MILLI + 4 * self.plan.latency;
            let since = since.max(self.checks.ready_from[node]);
            if self.now > since + bound
                && !self.checks.reports.reported[node]
                && !self.checks.withdraws[node]
            {
                return Err(self.violation(format!(
                    "node {} does not report that somebody may still be acting",
                    node + 1
                )));
            }
        }
        Ok(())
    }
}
