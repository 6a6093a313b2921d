//! The event loop of a schedule: carries the machines' actions to the model of etcd, and what
//! comes of them back.

use super::{
    MILLI, SECOND, Time,
    challenges::{Crashed, set_limit},
    checks::{Checks, Violation},
    etcd::{Etcd, lease_id, owner, owner_and_number},
    network::{Path, Request},
    node::{Actor, Clock, Node, SoFar},
    plan::{Kind, Mix, Plan},
    run::Tally,
    trace::lease_name,
    yielding::set_priority,
};
use crate::protocol::{
    CallId, ElectionKey, FailureKind, Input, KeptAlive, LeaseId, Machine, Moment, Role, Settings,
    Term, Ttl,
};
use fastrand::Rng;
use std::{cmp::Reverse, collections::BinaryHeap, num::NonZeroUsize, sync::Arc, time::Duration};

#[derive(Debug)]
pub enum Event {
    Request(Request),
    ToNode {
        node: usize,
        life: u32,
        what: ToNode,
    },
    Start {
        node: usize,
    },
    Poll,
    Fault,
    Recover {
        member: usize,
    },
    Elect,
    Pump,
    TidyUp,
    DeleteActing {
        lease: i64,
    },
    ExcuseEnds {
        lease: i64,
    },
    /// The term that began in this revision, by a hand-over, should be under way.
    Succeeded {
        revision: i64,
    },
    /// A process that can lead again since then should have campaigned, or somebody else leads.
    LedAgain {
        node: usize,
        life: u32,
        since: Time,
    },
    Quiet,
    LedByNow,
    /// The candidate with the highest priority should lead.
    BestLeads,
    /// Somebody should have taken over from a leader that has crashed.
    Replaced(Crashed),
    End,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all are inputs")]
pub enum ToNode {
    Alarm(u32),
    Input(Input),
    Connected {
        call: CallId,
        result: Result<(), FailureKind>,
    },
    KeptAlive {
        stream: u32,
        answer: KeptAlive,
    },
    /// What acts has stopped.
    Stopped(Term),
    /// What acts has completed its job, or failed.
    JobEnds(Term, bool),
    /// The time of a child is over.
    Kill(Moment),
}

pub struct World {
    pub now: Time,
    pub rng: Rng,
    pub plan: Plan,
    pub nodes: Vec<Node>,
    pub etcd: Etcd,
    pub checks: Checks,
    pub tally: Tally,
    /// For each process and member.
    pub paths: Vec<Vec<Path>>,
    pub quiet: bool,
    queue: BinaryHeap<Reverse<(Time, u32, u32)>>,
    events: Vec<Option<Event>>,
    free: Vec<u32>,
    pushed: u32,
    pub names: Vec<Arc<[u8]>>,
    pub unreachable: Arc<str>,
    pub trace: Option<String>,
}

impl World {
    /// More events than any schedule needs: somebody spins.
    const MOST_EVENTS: u64 = 400_000;

    pub fn new(seed: u64, plan: impl FnOnce(&mut Rng) -> Plan, trace: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let plan = plan(&mut rng);
        let grace = |ttl: Time| match plan.actor {
            Actor::Asks => 0,
            Actor::Child => ttl / 5,
        };
        let nodes = (0..plan.nodes)
            .map(|place| {
                let rate = [900, 1000, 1000, 1100][rng.usize(0..4)];
                // Some were configured otherwise.
                let other = plan.mix == Mix::Swarm && rng.u8(0..8) == 0;
                let ttl = if other {
                    plan.ttl.div_ceil(2).max(2)
                } else {
                    plan.ttl
                };
                let wait = plan.wait(&mut rng, place);
                let mut settings = Settings {
                    first_lease: LeaseId::new(0),
                    wait,
                    runs_once: plan.runs_once,
                    priority: 0,
                    priority_delay: None,
                    stands_back: false,
                    fail_over: None,
                    ttl: Ttl::try_from(Duration::from_secs(ttl)).unwrap_or_default(),
                    grace: Duration::from_nanos(grace(ttl * SECOND)),
                    stop_timeout: Duration::from_nanos(plan.stop_timeout),
                    endpoints: NonZeroUsize::new(plan.members).unwrap_or(NonZeroUsize::MIN),
                };
                set_priority(&mut settings, &mut rng, plan.mix);
                let clock = Clock::new(rng.u64(0..1000 * SECOND), rate);
                let rights = plan.rights(&mut rng, place);
                set_limit(&mut settings, &mut rng, &plan, rights);
                Node::new(clock, plan.actor, settings, rights)
            })
            .collect::<Vec<_>>();
        // One more for people.
        let names = (0..=plan.nodes)
            .map(|place| format!("node-{}", place + 1).into_bytes().into())
            .collect();
        let mut world = Self {
            now: 0,
            etcd: Etcd::new(plan.members, plan.min_ttl),
            checks: Checks::new(&plan),
            tally: Tally {
                faults: vec![0; Kind::ALL.len()],
                ..Tally::default()
            },
            paths: vec![vec![Path::default(); plan.members]; plan.nodes],
            quiet: false,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            pushed: 0,
            names,
            unreachable: "unreachable".into(),
            trace: trace.then(String::new),
            rng,
            plan,
            nodes,
        };
        world.etcd.limits = world
            .nodes
            .iter()
            .map(|node| node.settings.fail_over)
            .collect();
        world.take_seats();
        world.note(|world| format!("{:#?}", world.plan));
        for node in 0..world.plan.nodes {
            let at = world.rng.u64(0..2 * SECOND);
            world.push(at, Event::Start { node });
        }
        let poll = world.rng.u64(0..SECOND / 2);
        world.push(poll, Event::Poll);
        let first = world.rng.u64(0..world.plan.gap * 2);
        world.push(first, Event::Fault);
        world.push(world.plan.quiet, Event::Quiet);
        world
    }

    /// Runs the schedule to its end.
    pub fn run(&mut self) -> Result<(), Violation> {
        while let Some(Reverse((time, _, slot))) = self.queue.pop() {
            self.now = time;
            let event = self.events[slot as usize].take();
            self.free.push(slot);
            let Some(event) = event else { continue };
            self.tally.events += 1;
            if self.tally.events > Self::MOST_EVENTS {
                return Err(self.violation("it spins"));
            }
            if matches!(event, Event::End) {
                break;
            }
            self.happen(event)?;
        }
        self.tally.schedules = 1;
        self.tally.simulated = self.now;
        self.tally.terms = self.checks.terms;
        Ok(())
    }

    pub fn push(&mut self, at: Time, event: Event) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            u32::try_from(self.events.len() - 1).unwrap_or(u32::MAX)
        });
        self.events[slot as usize] = Some(event);
        self.pushed += 1;
        self.queue.push(Reverse((at, self.pushed, slot)));
    }

    pub fn schedule_input(&mut self, at: Time, node: usize, what: ToNode) {
        let life = self.nodes[node].life;
        self.push(at, Event::ToNode { node, life, what });
    }

    pub fn violation(&self, what: impl Into<String>) -> Violation {
        Violation {
            at: self.now,
            what: what.into(),
        }
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::ToNode { node, life, what } => {
                if self.nodes[node].life != life {
                    return Ok(());
                }
                let paused_until = self.nodes[node].paused_until;
                if self.now < paused_until {
                    // Whether timers or inputs come first then is anybody's guess.
                    let late = match what {
                        ToNode::Alarm(_) => self.rng.u64(0..2 * MILLI),
                        _ => 0,
                    };
                    self.push(paused_until + late, Event::ToNode { node, life, what });
                    return Ok(());
                }
                self.deliver(node, what)
            }
            Event::Request(request) => self.arrive(request),
            Event::Start { node } => self.start(node),
            Event::Poll => {
                self.push(self.now + SECOND / 2, Event::Poll);
                // Others write to etcd as well.
                self.etcd.store.revision += self.rng.i64(0..3);
                for lease in self.etcd.expired(self.now) {
                    self.note(|_| format!("etcd    lease {} expires", lease_name(lease)));
                    self.change(|etcd| {
                        etcd.store.revoke(lease);
                    })?;
                }
                let revision = self.etcd.store.revision;
                self.checks.handovers.note_revision(self.now, revision);
                self.check_reported()?;
                self.check_jobs_and_waits()?;
                self.check_holder()
            }
            Event::Fault => self.fault(),
            Event::Recover { member } => {
                self.recover(member);
                Ok(())
            }
            Event::Elect => {
                self.elect_if_needed();
                Ok(())
            }
            Event::Pump => {
                for node in 0..self.nodes.len() {
                    self.pump(node);
                }
                Ok(())
            }
            Event::TidyUp => self.tidy_up(),
            Event::DeleteActing { lease } => self.delete_acting(lease),
            Event::ExcuseEnds { lease } => self.check_excuse(lease),
            Event::LedAgain { node, life, since } => self.check_led_again(node, life, since),
            Event::BestLeads => self.check_best_leads(),
            Event::Replaced(crashed) => self.check_replaced(&crashed),
            Event::Succeeded { revision } => self.check_succeeded(revision),
            Event::Quiet => self.become_quiet(),
            Event::LedByNow => self.check_led(),
            Event::End => Ok(()),
        }
    }

    fn start(&mut self, node: usize) -> Result<(), Violation> {
        let now = self.now;
        let started = &mut self.nodes[node];
        if started.machine.is_some() {
            return Ok(());
        }
        self.checks.is_not_ready(node, now + SECOND / 10);
        started.life += 1;
        started.waits_since = now;
        started.disconnect();
        let time = started.clock.read(now);
        // The ids of the process before this one are used up.
        let number = (i64::from(started.life) << 16) + 1;
        started.settings.first_lease = LeaseId::new(lease_id(owner(node), number));
        self.start_standing_back(node);
        let started = &mut self.nodes[node];
        started.machine = Some(Machine::new(started.settings, time));
        self.note(|_| format!("node {}  starts", node + 1));
        self.carry_out(node)
    }

    /// The process whose lease `leader/acting` is bound to, if it still runs.
    pub fn acting_node(&self) -> Option<usize> {
        let acting = self.etcd.store.key(ElectionKey::Acting)?;
        let (of, number) = owner_and_number(acting.lease);
        let node = (0..self.nodes.len()).find(|node| owner(*node) == of)?;
        (number >> 16 == i64::from(self.nodes[node].life)).then_some(node)
    }

    /// Ends a process at once, with all that belongs to it.
    pub fn crash(&mut self, node: usize) {
        let crashed = &mut self.nodes[node];
        crashed.machine = None;
        crashed.life += 1;
        self.checks.started_anew(node);
        crashed.child = None;
        crashed.untaken = None;
        crashed.abandoned = false;
        crashed.completed = None;
        crashed.so_far = SoFar::default();
        crashed.role = Role::Withdrawn;
        crashed.paused_until = 0;
        crashed.alarm_at = None;
        crashed.disconnect();
        crashed.attempts.clear();
        crashed.former.clear();
    }

    pub fn count_if(&mut self, happened: bool, kind: Kind) {
        if happened {
            self.tally.faults[kind as usize] += 1;
        }
    }
}
