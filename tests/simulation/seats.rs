//! Seats and hand-overs: what goes wrong with them, and what is promised of them.

use super::{
    MILLI, SECOND, Time,
    checks::Violation,
    etcd::{self, Held, Question, SeatKey, lease_id, owner, owner_and_number, seat_place},
    plan::{Kind, Mix},
    trace::lease_name,
    world::{Event, World},
};
use crate::protocol::{
    Effect, ElectionKey, Event as Said, FencingToken, Guard, LeaseId, LossReason, Reads,
    SeatNumber, Term, Transaction,
};
use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
};

/// The number of the first lease of those that take seats and do nothing else.
const CROWD: i64 = 1 << 20;

/// What a process's role permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    All,
    /// The two keys only.
    TwoKeys,
    /// A previous version: it knows the two keys only, and releases them by revoking its lease.
    Previous,
}

impl Rights {
    /// Returns true iff a transaction is not permitted; or is none of a version's.
    pub fn denies(self, transaction: &Transaction) -> bool {
        let about_seats = transaction.reads == Reads::KeysAndSeats
            || transaction.next != Guard::Ignored
            || transaction.about_challenge
            || transaction.seat_guards().next().is_some();
        match self {
            Self::All => false,
            Self::TwoKeys => about_seats,
            Self::Previous => about_seats || transaction.effect == Effect::Release,
        }
    }
}

/// What is known of hand-overs.
#[derive(Debug)]
pub struct Handovers {
    /// The last term that each process has lost, in which order, and when.
    lost: Vec<Option<(Term, LossReason)>>,
    /// etcd's revisions, and when they were the last.
    revisions: VecDeque<(Time, i64)>,
    /// When people wrote `KEY/next` or a seat last.
    meddled: Time,
    /// Leases whose keys were deleted.
    released: Vec<i64>,
    /// How often the seat of each lease was written.
    seat_writes: HashMap<i64, u32>,
    /// When the last term of each process began.
    pub began: Vec<Time>,
    /// When each revision wrote a seat.
    seats_written: HashMap<i64, Time>,
    /// When a candidate said last that it can lead, or that it cannot, or gave its seat up.
    pub last_health: Time,
}

impl Handovers {
    pub fn new(nodes: usize) -> Self {
        Self {
            lost: vec![None; nodes],
            revisions: VecDeque::new(),
            meddled: 0,
            released: Vec::new(),
            seat_writes: HashMap::new(),
            began: vec![0; nodes],
            seats_written: HashMap::new(),
            last_health: 0,
        }
    }

    /// When a revision wrote a seat.
    pub fn written_at(&self, revision: i64) -> Time {
        self.seats_written.get(&revision).copied().unwrap_or(0)
    }

    pub fn note_revision(&mut self, now: Time, revision: i64) {
        self.revisions.push_back((now, revision));
        if self.revisions.len() > 400 {
            self.revisions.pop_front();
        }
    }

    /// The revision that etcd had at some time before.
    fn revision_at(&self, time: Time) -> i64 {
        let before = self.revisions.iter().rev().find(|(at, _)| *at <= time);
        before.map_or(0, |(_, revision)| *revision)
    }
}

/// What people do.
impl World {
    /// Others take most of the seats, and keep them.
    pub fn take_seats(&mut self) {
        let people = self.plan.nodes;
        for place in 0..self.plan.crowd {
            let lease = lease_id(owner(people), CROWD + i64::try_from(place).unwrap_or(0));
            self.etcd.store.put_seat(place, lease, people, 0, true);
        }
    }

    /// Whether this seat is one of those.
    pub fn is_of_crowd(&self, seat: &SeatKey) -> bool {
        let (of, number) = owner_and_number(seat.key.lease);
        of == owner(self.plan.nodes) && number >= CROWD
    }

    /// Whether the process may be a follower that is left out, so that it does not watch: its last lease has no seat.
    pub fn may_be_left_out(&self, node: usize) -> bool {
        let leases = self.etcd.store.leases.iter().map(|lease| lease.id);
        let own = leases.filter(|lease| owner_and_number(*lease).0 == owner(node));
        let last = own.max();
        let is_own = |seat: &Option<SeatKey>| seat.map(|seat| seat.key.lease) == last;
        self.plan.crowd > 0 && !self.etcd.store.seats.iter().any(is_own)
    }

    /// People choose who leads next, write `KEY/next` at random, or take a seat away.
    pub fn meddle_with_seats(&mut self, kind: Kind) -> Result<bool, Violation> {
        let people = self.plan.nodes;
        let taken =
            SeatNumber::all().filter(|seat| self.etcd.store.seats[seat_place(*seat)].is_some());
        let taken = taken.collect::<Vec<_>>();
        if taken.is_empty() {
            return Ok(false);
        }
        let number = taken[self.rng.usize(0..taken.len())];
        let place = seat_place(number);
        let Some(seat) = self.etcd.store.seats[place] else {
            return Ok(false);
        };
        let leader = self.etcd.store.key(ElectionKey::Leader);
        let present = leader.map_or(0, |leader| leader.mod_revision);
        if kind != Kind::Choose {
            self.checks.handovers.meddled = self.now;
        }
        match kind {
            Kind::Choose => {
                let Some(leader) = leader.filter(|leader| leader.lease != seat.key.lease) else {
                    return Ok(false);
                };
                let term = Term {
                    token: FencingToken::new(leader.mod_revision),
                    lease: LeaseId::new(leader.lease),
                };
                let seats = self.etcd.store.seats;
                let seats = self.seats(&seats, None);
                let chosen = seats.taken.iter().find(|seat| seat.number == number);
                let Some(transaction) = chosen.and_then(|seat| Transaction::choose(term, seat))
                else {
                    return Ok(false);
                };
                self.note(|_| format!("people  choose {}", lease_name(seat.key.lease)));
                self.change(|etcd| {
                    let _ = etcd.transact(people, &transaction);
                })?;
            }
            Kind::WriteNext => {
                let ends = [present, present - self.rng.i64(1..20), self.rng.i64(0..100)]
                    [self.rng.usize(0..3)];
                let lease = seat.key.lease;
                self.note(|_| format!("fault   next names {} for token {ends}", lease_name(lease)));
                self.change(|etcd| {
                    etcd.store.revision += 1;
                    etcd.store.put_next(lease, people, ends);
                })?;
            }
            _ => {
                self.note(|_| {
                    format!(
                        "fault   seat {number} of {} taken away",
                        lease_name(seat.key.lease)
                    )
                });
                let lease = if self.rng.bool() {
                    None
                } else {
                    Some(self.lend())
                };
                self.change(|etcd| {
                    if let Some(lease) = lease {
                        etcd.store.put_seat(place, lease, people, 0, true);
                    } else {
                        etcd.store.revision += 1;
                        etcd.store.seats[place] = None;
                    }
                })?;
            }
        }
        Ok(true)
    }
}

/// What is promised.
impl World {
    /// Takes in how a term was lost, and checks what is said of hand-overs.
    pub fn check_handover_event(&mut self, node: usize, said: &Said) -> Result<(), Violation> {
        match said {
            Said::Lost { term, reason } => {
                self.checks.handovers.lost[node] = Some((*term, *reason));
            }
            Said::HandedOver { term, to } => {
                let lease = to.entry.lease.map_or(0, LeaseId::get);
                let is_true = self.etcd.histories_before > 0
                    || self.etcd.store.history.iter().any(|change| {
                        change.key == ElectionKey::Leader
                            && change.revision > term.token.get()
                            && change.now.is_some_and(|key| key.lease == lease)
                    });
                if !is_true {
                    return Err(self.violation(format!(
                        "node {} reports that its term was handed over: untrue",
                        node + 1
                    )));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Checks what a process has done to the keys and seats that were as `before`.
    pub fn check_handover(
        &mut self,
        node: usize,
        question: Question,
        before: &Held,
    ) -> Result<(), Violation> {
        let acting = before.key(ElectionKey::Acting);
        if self.etcd.store.revision == before.revision
            || self.etcd.histories_before > 0 && acting.is_none()
        {
            return Ok(());
        }
        let seats = before.seats.iter().zip(&self.etcd.store.seats);
        if seats
            .into_iter()
            .any(|(before, now)| before.is_some() && now.is_none())
        {
            self.checks.handovers.last_health = self.now;
        }
        let Question::Transaction(transaction) = question else {
            return match question {
                Question::Revoke { .. } => self.check_handed_over(node, before),
                _ => Ok(()),
            };
        };
        match transaction.effect {
            Effect::HandOver { lease, .. } => {
                self.tally.handed_over += 1;
                self.check_deleted(node, before)?;
                self.check_successor(node, &transaction, lease.get(), before)?;
                if self.plan.mix == Mix::Transfers {
                    let revision = self.etcd.store.revision;
                    self.push(self.now + SECOND / 2, Event::Succeeded { revision });
                }
                Ok(())
            }
            Effect::Lead { lease, takes_over } => {
                if takes_over {
                    self.check_take_over(node, before)?;
                }
                self.check_elected(node, lease.get())
            }
            Effect::Release => {
                let acting = acting.map(|acting| acting.lease);
                self.checks.handovers.released.extend(acting);
                self.check_deleted(node, before)?;
                self.check_handed_over(node, before)
            }
            Effect::PutSeat { lease, .. } => {
                self.check_seat(node, &transaction, lease.get(), before)
            }
            _ => Ok(()),
        }
    }

    /// A process deletes no key and no seat but those of the term that ends.
    fn check_deleted(&self, node: usize, before: &Held) -> Result<(), Violation> {
        let keys = [ElectionKey::Leader, ElectionKey::Acting].into_iter();
        let keys = keys.filter(|key| self.etcd.store.key(*key).is_none());
        let keys = keys.filter_map(|key| before.key(key));
        let seats = before.seats.iter().zip(&self.etcd.store.seats);
        let seats = seats.filter(|(before, now)| before.is_some() && now.is_none());
        let seats = seats.filter_map(|(before, _)| before.map(|seat| seat.key));
        let acting = before.key(ElectionKey::Acting);
        let lease = acting.map_or(0, |acting| acting.lease);
        let is_own = owner_and_number(lease).0 == owner(node);
        if keys.chain(seats).any(|key| key.lease != lease || !is_own) {
            return Err(self.violation(format!(
                "node {} deletes a key that is not its own",
                node + 1
            )));
        }
        Ok(())
    }

    /// A process takes a seat that is free, and writes it as often as its role changes.
    fn check_seat(
        &mut self,
        node: usize,
        transaction: &Transaction,
        lease: i64,
        before: &Held,
    ) -> Result<(), Violation> {
        let seat = transaction.own_seat.map(|(seat, _)| seat_place(seat));
        let seat = seat.and_then(|seat| before.seats[seat]);
        if seat.is_some_and(|seat| seat.key.lease != lease) {
            return Err(self.violation(format!("node {} takes a seat that is another's", node + 1)));
        }
        let (revision, now) = (self.etcd.store.revision, self.now);
        let handovers = &mut self.checks.handovers;
        handovers.seats_written.insert(revision, now);
        if let Effect::PutSeat { is_healthy, .. } = transaction.effect
            && seat.is_some_and(|seat| seat.is_healthy != is_healthy)
        {
            handovers.last_health = now;
        }
        let writes = self.checks.handovers.seat_writes.entry(lease).or_default();
        *writes += 1;
        // Taken when it begins to follow, and written when it begins to lead.
        if *writes > 2 && self.plan.mix == Mix::Transfers {
            return Err(
                self.violation(format!("node {} writes its seat again and again", node + 1))
            );
        }
        Ok(())
    }

    /// Where nothing fails, the candidate to which a term was handed acts as soon as messages travel.
    pub fn check_succeeded(&self, revision: i64) -> Result<(), Violation> {
        let acting = self.etcd.store.key(ElectionKey::Acting);
        if acting.is_none_or(|acting| acting.mod_revision != revision) {
            return Ok(());
        }
        // One that has ended or withdraws cannot act.
        let Some(node) = self
            .acting_node()
            .filter(|node| !self.checks.withdraws[*node])
        else {
            return Ok(());
        };
        let has_led = self.nodes[node]
            .term()
            .is_some_and(|term| term.token.get() == revision);
        let has_lost =
            self.checks.handovers.lost[node].is_some_and(|(term, _)| term.token.get() == revision);
        if self.nodes[node].machine.is_some() && !has_led && !has_lost {
            return Err(self.violation(format!(
                "node {} does not act though a term was handed to it",
                node + 1
            )));
        }
        Ok(())
    }

    /// A term is handed over by its holder, to the chosen candidate or the best one, and not to one that is
    /// silent or cannot lead.
    fn check_successor(
        &self,
        node: usize,
        transaction: &Transaction,
        to: i64,
        before: &Held,
    ) -> Result<(), Violation> {
        let node = node + 1;
        let keys = [ElectionKey::Leader, ElectionKey::Acting].map(|key| before.key(key));
        let is_foreign = |key: &etcd::Key| {
            owner_and_number(key.lease).0 != owner(node - 1)
                || Some(key.lease) != keys[1].map(|acting| acting.lease)
        };
        if keys[1].is_none() || keys.iter().flatten().any(is_foreign) {
            return Err(self.violation(format!("node {node} hands over what is not its own")));
        }
        let seat = transaction.other_seat.map(|(seat, _)| seat_place(seat));
        let seat = seat.and_then(|seat| before.seats[seat]);
        let Some(seat) = seat.filter(|seat| seat.key.lease == to) else {
            return Err(self.violation(format!(
                "node {node} hands its term to a seat that has changed"
            )));
        };
        if !seat.is_healthy || self.is_of_crowd(&seat) {
            return Err(self.violation(format!(
                "node {node} hands its term to a candidate that stands back"
            )));
        }
        self.check_lease_is_unused(node, to, before)?;
        let is_measured = matches!(self.plan.mix, Mix::Transfers);
        if !is_measured {
            return Ok(());
        }
        let slack = 20 * self.plan.latency + 20 * MILLI;
        let silence = |lease: i64| {
            let lease = self
                .etcd
                .store
                .leases
                .iter()
                .find(|held| held.id == lease)?;
            Some((self.now.saturating_sub(lease.renewed), lease.ttl))
        };
        // The time since etcd was asked passes on the leader's clock.
        if let Some((silent, ttl)) = silence(to)
            && silent > (ttl / 3 + SECOND) * 11 / 10 + slack
        {
            return Err(self.violation(format!(
                "node {node} hands its term to a candidate that is silent"
            )));
        }
        let is_alive = |lease: i64| {
            silence(lease).is_some_and(|(silent, ttl)| (slack..=ttl / 4).contains(&silent))
        };
        let token = keys[1].map_or(0, |acting| acting.mod_revision);
        let chosen = before
            .next
            .filter(|next| next.ends == token)
            .map(|next| next.key.lease);
        let own = keys[1].map_or(0, |acting| acting.lease);
        let is_seated = |lease: i64| {
            before
                .seats
                .iter()
                .flatten()
                .any(|seat| seat.key.lease == lease)
        };
        if let Some(chosen) =
            chosen.filter(|lease| *lease != own && is_seated(*lease) && is_alive(*lease))
            && chosen != to
        {
            return Err(self.violation(format!(
                "node {node} does not hand its term to the chosen candidate"
            )));
        }
        let known =
            (self.checks.handovers).revision_at(self.now.saturating_sub(self.granted() / 2));
        let waits_longer = |other: &&etcd::SeatKey| {
            let rank = |seat: &etcd::SeatKey| {
                let writer = self.nodes.get(seat.key.writer);
                let priority = writer.map_or(0, |node| node.settings.priority);
                (Reverse(priority), seat.key.create_revision)
            };
            rank(other) < rank(&seat)
                && other.key.create_revision <= known
                && other.key.lease != own
                && other.key.lease != to
                && is_alive(other.key.lease)
        };
        if chosen != Some(to)
            && before
                .seats
                .iter()
                .flatten()
                .any(|other| waits_longer(&other))
        {
            return Err(self.violation(format!(
                "node {node} hands its term to another than the best candidate"
            )));
        }
        Ok(())
    }

    /// A lease serves one term: a campaign that arrives late writes nothing.
    fn check_elected(&self, node: usize, lease: i64) -> Result<(), Violation> {
        let is_released = self.checks.handovers.released.contains(&lease);
        if is_released && self.etcd.histories_before == 0 {
            return Err(self.violation(format!(
                "node {} is elected by a lease whose keys it has released",
                node + 1
            )));
        }
        Ok(())
    }

    /// Where nothing fails, a term that ends in order is handed over if there is somebody to lead.
    fn check_handed_over(&self, node: usize, before: &Held) -> Result<(), Violation> {
        let Some(acting) = before.key(ElectionKey::Acting) else {
            return Ok(());
        };
        let is_gone = self.etcd.store.key(ElectionKey::Acting).is_none();
        let lost = self.checks.handovers.lost[node];
        let is_orderly = lost.is_some_and(|(term, reason)| {
            let is_planned = matches!(
                reason,
                LossReason::LeaderKeyDeleted | LossReason::Withdrawn | LossReason::Resigned
            );
            term.lease.get() == acting.lease && is_planned
        });
        let all_is_well = self.plan.mix == Mix::Transfers
            && self.nodes[node].rights == Rights::All
            && self.now > self.checks.handovers.meddled + SECOND;
        if !(is_gone && is_orderly && all_is_well) {
            return Ok(());
        }
        let slack = 20 * self.plan.latency + 20 * MILLI;
        let known = self
            .checks
            .handovers
            .revision_at(self.now.saturating_sub(self.granted() / 2));
        let others = before.seats.iter().flatten();
        let others = others.filter(|seat| seat.key.lease != acting.lease);
        let (alive, silent): (Vec<&etcd::SeatKey>, Vec<_>) = others.partition(|seat| {
            let mut leases = self.etcd.store.leases.iter();
            let lease = leases.find(|lease| lease.id == seat.key.lease);
            lease.is_some_and(|lease| {
                let silent = self.now.saturating_sub(lease.renewed);
                (slack..=lease.ttl / 4).contains(&silent)
            })
        });
        // After two that are silent, it asks about no other.
        let is_known = |seat: &&etcd::SeatKey| seat.key.create_revision <= known;
        let waits = silent.len() < 2 && alive.iter().any(is_known);
        if waits {
            return Err(self.violation(format!(
                "node {} releases its keys though somebody could follow at once",
                node + 1
            )));
        }
        Ok(())
    }
}
