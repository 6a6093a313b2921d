//! One process of the election: a machine, its clock, what acts on its behalf, and what its I/O
//! keeps: a connection, a keepalive stream, a watch.

use super::{Time, seats::Rights};
use crate::protocol::{CallId, Failure, Input, KeptAlive, Machine, Moment, Role, Settings, Term};
use std::{collections::VecDeque, time::Duration};

/// A clock that may run faster or slower than etcd's.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    true_base: Time,
    local_base: Time,
    /// In thousandths of etcd's.
    rate: u64,
}

impl Clock {
    pub fn new(origin: Time, rate: u64) -> Self {
        Self {
            true_base: 0,
            local_base: origin,
            rate,
        }
    }

    pub fn set_rate(&mut self, now: Time, rate: u64) {
        *self = Self {
            true_base: now,
            local_base: self.local(now),
            rate,
        };
    }

    fn local(&self, now: Time) -> Time {
        self.local_base + (now - self.true_base) * self.rate / 1000
    }

    pub fn read(&self, now: Time) -> Moment {
        Moment::from_origin(Duration::from_nanos(self.local(now)))
    }

    /// The first instant at which the clock reads `moment`.
    pub fn when(&self, moment: Moment) -> Time {
        let local = nanos(moment.since_origin()).saturating_sub(self.local_base);
        self.true_base + self.lasts(local)
    }

    /// How long a time by this clock lasts.
    pub fn lasts(&self, local: Time) -> Time {
        (local * 1000).div_ceil(self.rate)
    }
}

pub fn nanos(duration: Duration) -> Time {
    Time::try_from(duration.as_nanos()).unwrap_or(Time::MAX)
}

/// How the right to act is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Compares clocks whenever it acts; may be paused.
    Asks,
    /// A child that never asks, and is asked to end, then killed.
    Child,
}

/// A child that lives.
#[derive(Clone, Copy, Debug)]
pub struct Child {
    pub term: Term,
    pub asked_to_end: bool,
    /// By when it will be killed, as last set.
    pub killed_at: Option<Moment>,
}

#[derive(Debug)]
pub struct Stream {
    pub id: u32,
    /// Answers that nobody has waited for.
    pub unread: VecDeque<KeptAlive>,
}

#[derive(Clone, Copy, Debug)]
pub struct Watch {
    pub id: CallId,
    pub connection: u32,
    pub member: usize,
    /// Up to where its changes are on their way.
    pub sent_up_to: i64,
    /// When the last change of each key arrives; they stay in order.
    pub last_arrival: [Time; 2],
    pub open: bool,
}

impl Watch {
    /// Creates a watch on the present connection of a process.
    pub fn new(id: CallId, of: &Node, from_revision: i64) -> Self {
        Self {
            id,
            connection: of.connection,
            member: of.member,
            sent_up_to: from_revision - 1,
            last_arrival: [0; 2],
            open: false,
        }
    }
}

/// What is left of a try on the connection before this one.
#[derive(Clone, Copy, Debug)]
pub struct Former {
    pub connection: u32,
    pub stream: Option<u32>,
    pub call: CallId,
}

/// What a call under way is, as far as its failure has to be reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Grant(CallId),
    Try(CallId),
    Look(CallId),
}

/// What a process waits for beside its call under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    Execute(CallId),
    LeaseTime(CallId),
    Revoke(CallId),
}

impl Beside {
    pub fn failed(self, failure: Failure) -> Input {
        match self {
            Self::Execute(call) => Input::Executed {
                call,
                result: Err(failure),
            },
            Self::LeaseTime(call) => Input::LeaseTime {
                call,
                result: Err(failure),
            },
            Self::Revoke(call) => Input::Revoked {
                call,
                result: Err(failure),
            },
        }
    }
}

/// What etcd has shown a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Looked {
    #[default]
    Nothing,
    Keys,
    /// Also that it may record its job.
    Permission,
}

/// What a process has come to since it was started.
#[derive(Clone, Copy, Debug, Default)]
pub struct SoFar {
    /// Whether a campaign of it was carried out: it may not know yet that it was elected.
    pub was_elected: bool,
    /// Whether it withdraws by itself.
    pub withdraws: bool,
    /// Whether it has been reported if its completed job is recorded.
    pub is_reported: bool,
    pub looked: Looked,
    /// The call that asks whether it may record its job.
    pub probes: Option<CallId>,
}

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Node {
    pub clock: Clock,
    pub actor: Actor,
    pub settings: Settings,
    pub rights: Rights,
    /// Crashed or withdrawn without one.
    pub machine: Option<Machine>,
    /// Counts starts, so that what was meant for a process before this one is dropped.
    pub life: u32,
    pub paused_until: Time,
    pub role: Role,
    /// Its role before the input that it handles at present.
    pub role_before: Role,
    pub child: Option<Child>,
    /// The term whose leadership nobody has taken.
    pub untaken: Option<Term>,
    /// The term whose job has ended with success, and since when it waits for its record.
    pub completed: Option<(Term, Time)>,
    /// Since when it waits to lead.
    pub waits_since: Time,
    /// What this process has come to since it was started.
    pub so_far: SoFar,
    /// Whether it cannot lead, as far as it has learned.
    pub stands_back: bool,
    /// Whether the candidate was dropped with its leaderships, so that nothing acts.
    pub abandoned: bool,
    /// The alarm that counts, and what it was set to.
    pub alarm: u32,
    pub alarm_at: Option<Moment>,
    /// Counts connections.
    pub connection: u32,
    pub member: usize,
    pub broken: bool,
    /// The connection attempts under way, with their members.
    pub attempts: Vec<(CallId, usize)>,
    pub former: Vec<Former>,
    pub call: Option<Call>,
    pub beside: Vec<Beside>,
    pub streams: u32,
    pub stream: Option<Stream>,
    /// The try whose keepalive waits for an answer.
    pub awaits: Option<CallId>,
    pub awaits_transaction: bool,
    pub watch: Option<Watch>,
    /// Its keepalives' answers never arrive before then.
    pub deaf_to_keepalives_until: Time,
    pub deaf_to_transactions_until: Time,
}

impl Node {
    pub fn new(clock: Clock, actor: Actor, settings: Settings, rights: Rights) -> Self {
        Self {
            clock,
            actor,
            settings,
            rights,
            machine: None,
            life: 0,
            paused_until: 0,
            role: Role::Withdrawn,
            role_before: Role::Withdrawn,
            child: None,
            untaken: None,
            completed: None,
            waits_since: 0,
            so_far: SoFar::default(),
            stands_back: false,
            abandoned: false,
            alarm: 0,
            alarm_at: None,
            connection: 0,
            member: 0,
            broken: true,
            attempts: Vec::new(),
            former: Vec::new(),
            call: None,
            beside: Vec::new(),
            streams: 0,
            stream: None,
            awaits: None,
            awaits_transaction: false,
            watch: None,
            deaf_to_keepalives_until: 0,
            deaf_to_transactions_until: 0,
        }
    }

    /// The term in which this process acts at this instant, if it does.
    pub fn acts(&self, now: Time) -> Option<Term> {
        match self.actor {
            _ if self.abandoned => None,
            Actor::Child => self.child.map(|child| child.term),
            Actor::Asks => {
                let (term, until) = match self.role {
                    Role::Leader { term, deadline } => (term, deadline),
                    Role::Stopping { term, by, .. } => (term, by),
                    _ => return None,
                };
                let has_ended = self
                    .completed
                    .is_some_and(|(completed, _)| completed == term);
                let acts = self.clock.read(now) < until && self.untaken != Some(term);
                (acts && !has_ended).then_some(term)
            }
        }
    }

    /// The term that its machine knows of.
    pub fn term(&self) -> Option<Term> {
        match self.role {
            Role::Leader { term, .. } | Role::Stopping { term, .. } => Some(term),
            _ => None,
        }
    }

    /// Drops the connection with what runs on it.
    pub fn disconnect(&mut self) {
        self.connection += 1;
        self.broken = true;
        self.call = None;
        self.beside.clear();
        self.stream = None;
        self.awaits = None;
        self.watch = None;
    }

    /// Uses a new connection. What was asked in a try on the one before may still be answered.
    pub fn connect(&mut self, member: usize) {
        if let Some(Call::Try(call)) = self.call.filter(|_| !self.broken) {
            self.former.push(Former {
                connection: self.connection,
                stream: self.stream.as_ref().map(|stream| stream.id),
                call,
            });
        }
        self.disconnect();
        self.attempts.clear();
        self.member = member;
        self.broken = false;
    }

    /// Returns the stream for the next keepalive.
    pub fn stream_for_keepalive(&mut self, is_new: bool) -> &mut Stream {
        if is_new {
            self.stream = None;
        }
        let streams = &mut self.streams;
        self.stream.get_or_insert_with(|| {
            *streams += 1;
            Stream {
                id: *streams,
                unread: VecDeque::new(),
            }
        })
    }
}
