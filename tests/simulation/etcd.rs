//! A model of etcd, with what makes life hard for a leader election: leases that are polled for
//! and start anew with each etcd leader, members that are cut off, frozen or behind, a former
//! leader that still answers keepalives, compaction, and histories that go back.

use super::Time;
use crate::protocol::{
    Effect, ElectionKey, FailOverLimit, FailureKind, FencingToken, Guard, LeaseId, Reads,
    SeatNumber, TermSettings, Transaction,
};
use std::sync::Arc;

/// The id of a lease shows which node chose it, counted from one, and which one it is: for traces and checks.
pub const fn lease_id(owner: i64, number: i64) -> i64 {
    (owner << 32) | number
}

/// As whose a process's leases count.
pub fn owner(node: usize) -> i64 {
    i64::try_from(node).unwrap_or(0) + 1
}

/// The reverse.
pub const fn owner_and_number(lease: i64) -> (i64, i64) {
    (lease >> 32, lease & 0xffff_ffff)
}

/// One of the two keys, as the store holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Zero is no lease.
    pub lease: i64,
    pub create_revision: i64,
    pub mod_revision: i64,
    /// Whose name it holds.
    pub writer: usize,
    /// What it says of its term, if it is `leader/acting`.
    pub settings: TermSettings,
}

/// Both keys, leader's first.
pub type Keys = [Option<Key>; 2];

pub const fn place(key: ElectionKey) -> usize {
    match key {
        ElectionKey::Leader => 0,
        ElectionKey::Acting => 1,
    }
}

/// A candidate's seat, as the store holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeatKey {
    pub key: Key,
    /// The token of the term in which the candidate says that it leads; zero if it does not.
    pub acts: i64,
    /// Whether it says that it can lead.
    pub is_healthy: bool,
}

/// `KEY/next`, as the store holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextKey {
    pub key: Key,
    /// The token of the term that it asks to be handed over.
    pub ends: i64,
}

/// All seats, in order.
pub type SeatKeys = [Option<SeatKey>; SeatNumber::COUNT];

pub fn seat_place(seat: SeatNumber) -> usize {
    SeatNumber::all().take_while(|other| *other != seat).count()
}

#[derive(Clone, Copy, Debug)]
pub struct Change {
    pub revision: i64,
    pub key: ElectionKey,
    pub now: Option<Key>,
}

#[derive(Clone, Copy, Debug)]
pub struct Lease {
    pub id: i64,
    pub ttl: Time,
    pub expires: Time,
    /// When it was granted or renewed last.
    pub renewed: Time,
}

impl Lease {
    pub fn new(id: i64, ttl: Time, now: Time) -> Self {
        Self {
            id,
            ttl,
            expires: now + ttl,
            renewed: now,
        }
    }
}

/// A record of a job that runs once, as it was written.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub revision: i64,
    /// The token of the term in which it was written.
    pub token: i64,
}

/// What a backup holds.
#[derive(Clone, Debug)]
pub struct Store {
    pub revision: i64,
    pub keys: Keys,
    pub seats: SeatKeys,
    pub next: Option<NextKey>,
    pub challenge: Option<Key>,
    /// The revision of the last hand-over to a chosen candidate.
    pub chosen_at: i64,
    /// The record of the job that runs once.
    pub done: Option<Key>,
    /// All records that were written in this history, also those that are forgotten.
    pub records: Vec<Record>,
    /// What changed, for watches.
    pub history: Vec<Change>,
    /// Watches from here back are refused.
    pub compacted: i64,
    pub leases: Vec<Lease>,
}

/// What the keys of the election hold at one revision.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    pub revision: i64,
    pub keys: Keys,
    pub seats: SeatKeys,
    pub next: Option<NextKey>,
}

impl Held {
    pub fn key(&self, key: ElectionKey) -> Option<Key> {
        self.keys[place(key)]
    }
}

impl Store {
    pub fn held(&self) -> Held {
        Held {
            revision: self.revision,
            keys: self.keys,
            seats: self.seats,
            next: self.next,
        }
    }

    /// Returns the store of an etcd that nobody has used.
    pub fn empty() -> Self {
        Self {
            revision: 1,
            keys: [None; 2],
            seats: [None; SeatNumber::COUNT],
            next: None,
            challenge: None,
            chosen_at: 0,
            done: None,
            records: Vec::new(),
            history: Vec::new(),
            compacted: 0,
            leases: Vec::new(),
        }
    }

    /// Writes or deletes keys in one revision.
    pub fn commit(&mut self, changes: &[(ElectionKey, Option<(i64, usize)>)]) {
        self.commit_term(changes, TermSettings::default());
    }

    /// Writes or deletes keys in one revision, with what `leader/acting` says.
    fn commit_term(
        &mut self,
        changes: &[(ElectionKey, Option<(i64, usize)>)],
        settings: TermSettings,
    ) {
        self.revision += 1;
        for &(key, to) in changes {
            let before = self.keys[place(key)];
            let now = to.map(|(lease, writer)| Key {
                lease,
                create_revision: before.map_or(self.revision, |before| before.create_revision),
                mod_revision: self.revision,
                writer,
                settings,
            });
            self.keys[place(key)] = now;
            self.history.push(Change {
                revision: self.revision,
                key,
                now,
            });
        }
    }

    /// Writes a seat, in a revision of its own.
    pub fn put_seat(
        &mut self,
        place: usize,
        lease: i64,
        writer: usize,
        acts: i64,
        is_healthy: bool,
    ) {
        self.revision += 1;
        let mod_revision = self.revision;
        let before = self.seats[place];
        self.seats[place] = Some(SeatKey {
            key: Key {
                lease,
                create_revision: before.map_or(mod_revision, |seat| seat.key.create_revision),
                mod_revision,
                writer,
                settings: TermSettings::default(),
            },
            acts,
            is_healthy,
        });
    }

    /// Writes `KEY/next`, in the present revision.
    pub fn put_next(&mut self, lease: i64, writer: usize, ends: i64) {
        let key = Key {
            lease,
            create_revision: self.revision,
            mod_revision: self.revision,
            writer,
            settings: TermSettings::default(),
        };
        self.next = Some(NextKey { key, ends });
    }

    /// Writes a challenge, in a revision of its own.
    pub fn put_challenge(&mut self, lease: i64, writer: usize) {
        self.revision += 1;
        let before = self.challenge;
        self.challenge = Some(Key {
            lease,
            create_revision: before.map_or(self.revision, |before| before.create_revision),
            mod_revision: self.revision,
            writer,
            settings: TermSettings::default(),
        });
    }

    /// Deletes the challenge, in a revision of its own; false if there is none.
    pub fn delete_challenge(&mut self) -> bool {
        let was_there = self.challenge.take().is_some();
        self.revision += i64::from(was_there);
        was_there
    }

    /// Deletes the own seat of a transaction, in the present revision.
    fn vacate(&mut self, transaction: &Transaction) {
        if let Some((seat, _)) = transaction.own_seat {
            self.seats[seat_place(seat)] = None;
        }
    }

    /// Writes the record of the job.
    fn record(&mut self, writer: usize, token: i64) {
        self.revision += 1;
        let revision = self.revision;
        self.done = Some(Key {
            lease: 0,
            create_revision: revision,
            mod_revision: revision,
            writer,
            settings: TermSettings::default(),
        });
        self.records.push(Record { revision, token });
    }

    /// Removes the record of the job; false if there is none.
    pub fn forget(&mut self) -> bool {
        let is_recorded = self.done.take().is_some();
        self.revision += i64::from(is_recorded);
        is_recorded
    }

    /// Removes a lease and, in one revision, its keys; false if there is no such lease.
    pub fn revoke(&mut self, id: i64) -> bool {
        let Some(place) = self.leases.iter().position(|lease| lease.id == id) else {
            return false;
        };
        self.leases.swap_remove(place);
        let mut is_removed = self.next.take_if(|next| next.key.lease == id).is_some();
        is_removed |= (self.challenge)
            .take_if(|challenge| challenge.lease == id)
            .is_some();
        for seat in &mut self.seats {
            is_removed |= seat.take_if(|seat| seat.key.lease == id).is_some();
        }
        let bound = [ElectionKey::Leader, ElectionKey::Acting]
            .into_iter()
            .filter(|key| self.key(*key).is_some_and(|key| key.lease == id))
            .map(|key| (key, None))
            .collect::<Vec<_>>();
        if is_removed || !bound.is_empty() {
            self.commit(&bound);
        }
        true
    }

    pub fn key(&self, key: ElectionKey) -> Option<Key> {
        self.keys[place(key)]
    }

    pub fn lease(&mut self, id: i64) -> Option<&mut Lease> {
        self.leases.iter_mut().find(|lease| lease.id == id)
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Member {
    /// Cut off from the other members; clients still reach it.
    pub cut: bool,
    /// Stopped: what it is asked waits.
    pub frozen: bool,
    pub down: bool,
    /// Until when one of these lasts.
    pub recovers: Time,
    /// When it hears of the present raft term; before that it answers from an earlier one.
    aware: Time,
    raft_term: u64,
    /// Until when it believes that it leads, though it does not.
    leads_until: Time,
}

impl Member {
    fn is_healthy(&self) -> bool {
        !(self.cut || self.frozen || self.down)
    }
}

/// What kinds of question a member may refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The database is full: whatever might write.
    NoSpace,
    /// Half of all questions.
    TooManyRequests,
    /// The role may read only.
    PermissionToWrite,
    /// The role may not even read.
    PermissionToRead,
}

#[derive(Clone, Copy, Debug)]
pub enum Question {
    Grant { lease: i64, ttl: Time },
    LeaseTime { lease: i64 },
    KeepAlive { lease: i64 },
    Transaction(Transaction),
    Revoke { lease: i64 },
}

#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "it is made and used at once")]
pub enum Reply {
    Granted {
        ttl: Time,
    },
    /// The TTL and what is left of it, in seconds, unless the lease is gone.
    LeaseTime(Option<(i64, i64)>),
    /// Seconds, and the raft term.
    KeptAlive {
        ttl: i64,
        raft_term: u64,
    },
    Shown(Shown),
    Revoked,
    Failed(FailureKind),
    /// Asked again then: the member does not know yet.
    Waits(Time),
    /// Nothing is ever heard of it.
    Silence,
}

#[derive(Clone, Debug)]
pub struct Shown {
    pub cluster_id: u64,
    pub raft_term: u64,
    pub revision: i64,
    pub keys: Keys,
    /// The challenge, if the transaction was about it.
    pub challenge: Option<Key>,
    pub done: Option<Key>,
    /// The seats and `KEY/next`, if they were read.
    pub seats: Option<Arc<(SeatKeys, Option<NextKey>)>>,
}

#[derive(Debug)]
pub struct Etcd {
    pub store: Store,
    pub cluster_id: u64,
    /// Histories before this one; each ended with a backup restored.
    pub histories_before: u32,
    pub members: Vec<Member>,
    /// The member that leads, if one does.
    primary: Option<usize>,
    raft_term: u64,
    min_ttl: Time,
    /// Leases that were granted in this history.
    granted: Vec<i64>,
    /// The leases when the primary changed last: those that its predecessor knows.
    known_before: Vec<Lease>,
    pub refusal: Option<(Refusal, Time)>,
    /// The fail-over limit of each process.
    pub limits: Vec<Option<FailOverLimit>>,
    backup: Option<Store>,
}

impl Etcd {
    pub fn new(members: usize, min_ttl: Time) -> Self {
        let member = Member {
            raft_term: 2,
            ..Member::default()
        };
        Self {
            store: Store::empty(),
            cluster_id: 1,
            histories_before: 0,
            members: vec![member; members],
            primary: Some(0),
            raft_term: 2,
            min_ttl,
            granted: Vec::new(),
            known_before: Vec::new(),
            refusal: None,
            limits: Vec::new(),
            backup: None,
        }
    }

    /// Whether a quorum stands behind a leader.
    pub fn serves(&self) -> bool {
        self.primary
            .is_some_and(|primary| self.members[primary].is_healthy())
            && self.has_quorum()
    }

    pub fn has_quorum(&self) -> bool {
        let healthy = self.members.iter().filter(|member| member.is_healthy());
        2 * healthy.count() > self.members.len()
    }

    pub fn has_granted(&self, lease: i64) -> bool {
        self.granted.contains(&lease)
    }

    pub fn primary(&self) -> Option<usize> {
        self.primary
    }

    fn is_aware(&self, member: usize, now: Time) -> bool {
        let member = &self.members[member];
        member.is_healthy() && now >= member.aware
    }

    /// Whether watches at this member hear of what happens.
    pub fn is_current(&self, member: usize, now: Time) -> bool {
        self.is_aware(member, now) && self.serves()
    }

    fn term_at(&self, member: usize, now: Time) -> u64 {
        if self.is_aware(member, now) {
            self.raft_term
        } else {
            self.members[member].raft_term
        }
    }

    /// A member loses touch with the others, in one of the three ways.
    pub fn strike(&mut self, member: usize, now: Time, how: impl FnOnce(&mut Member)) {
        let (raft_term, aware) = (self.term_at(member, now), self.is_aware(member, now));
        let struck = &mut self.members[member];
        struck.raft_term = raft_term;
        if aware {
            // That it once led in an earlier term is over.
            struck.leads_until = 0;
        }
        how(struck);
    }

    /// It is back, and hears of the present raft term at `aware`.
    pub fn recover(&mut self, member: usize, aware: Time) {
        let mended = &mut self.members[member];
        mended.leads_until = if mended.frozen && mended.leads_until > 0 {
            // It never had the time to notice.
            aware
        } else {
            mended.leads_until.min(aware)
        };
        (mended.cut, mended.frozen, mended.down) = (false, false, false);
        mended.aware = aware;
        if self.primary == Some(member) {
            mended.aware = 0;
        }
    }

    /// Makes a member the leader: every lease starts anew, and lasts `extend` longer. The member
    /// that led goes on answering keepalives until `former_until` unless it hears of it before;
    /// the healthy ones hear of it at `aware`.
    pub fn elect(
        &mut self,
        member: usize,
        now: Time,
        extend: Time,
        former_until: Time,
        mut aware: impl FnMut() -> Time,
    ) {
        for place in 0..self.members.len() {
            let raft_term = self.term_at(place, now);
            let aware = aware();
            let other = &mut self.members[place];
            if other.is_healthy() {
                other.raft_term = raft_term;
                other.aware = aware;
            }
            if self.primary == Some(place) && place != member {
                other.leads_until = if other.is_healthy() {
                    other.aware
                } else {
                    former_until
                };
                self.known_before.clone_from(&self.store.leases);
            }
        }
        self.members[member].aware = 0;
        self.members[member].leads_until = 0;
        self.primary = Some(member);
        self.raft_term += 1;
        for lease in &mut self.store.leases {
            lease.expires = now + lease.ttl + extend;
            lease.renewed = now + extend;
        }
    }

    pub fn resign(&mut self) {
        self.primary = None;
    }

    /// Expired leases, which a leader looks for twice a second.
    pub fn expired(&self, now: Time) -> Vec<i64> {
        let expired = self
            .store
            .leases
            .iter()
            .filter(|lease| now >= lease.expires);
        let ids = expired.map(|lease| lease.id);
        if self.serves() {
            ids.collect()
        } else {
            Vec::new()
        }
    }

    pub fn back_up(&mut self) {
        self.backup = Some(self.store.clone());
    }

    pub fn take_backup(&mut self) -> Option<Store> {
        self.backup.take()
    }

    /// Puts a backup in place of the store.
    pub fn restore(&mut self, backup: Store, now: Time, new_cluster: bool) {
        self.store = backup;
        for lease in &mut self.store.leases {
            lease.expires = now + lease.ttl;
        }
        // Watches from before the backup are not to be had any more.
        self.store.compacted = self.store.revision;
        self.histories_before += 1;
        self.granted.clear();
        self.known_before.clear();
        if new_cluster {
            self.cluster_id += 1;
        }
        for member in &mut self.members {
            member.leads_until = 0;
        }
    }

    /// Puts a question to a member. `chance` is whatever the member's mood decides.
    pub fn ask(
        &mut self,
        member: usize,
        now: Time,
        asker: usize,
        question: Question,
        chance: u8,
    ) -> Reply {
        let Member {
            down,
            frozen,
            recovers,
            ..
        } = self.members[member];
        if down {
            return Reply::Failed(FailureKind::Unreachable);
        }
        if frozen {
            return Reply::Waits(recovers);
        }
        if let Some(reply) = self.refuse(now, question, chance) {
            if let (Some((Refusal::NoSpace, _)), Question::Transaction(transaction)) =
                (self.refusal, question)
                && chance < 64
            {
                // The database has filled up since the request was checked.
                let _ = self.transact(asker, &transaction);
            }
            return reply;
        }
        // Until another is elected, a leader's word on leases counts, in touch with a quorum or not.
        let about_leases = matches!(question, Question::KeepAlive { .. });
        let leads = self.primary == Some(member) && about_leases;
        let in_touch = self.is_aware(member, now) && self.serves();
        if !leads && !in_touch {
            return self.ask_astray(member, now, question, chance);
        }
        match question {
            Question::Grant { lease: id, ttl } => {
                if self.store.lease(id).is_some() {
                    return Reply::Failed(FailureKind::Refused);
                }
                self.granted.push(id);
                let ttl = ttl.max(self.min_ttl);
                self.store.leases.push(Lease::new(id, ttl, now));
                Reply::Granted { ttl }
            }
            Question::LeaseTime { lease } => {
                Reply::LeaseTime(self.store.lease(lease).map(|lease| {
                    let remaining = lease.expires.saturating_sub(now);
                    (seconds(lease.ttl), seconds(remaining))
                }))
            }
            Question::KeepAlive { lease } => {
                let raft_term = self.raft_term;
                let ttl = match self.store.lease(lease) {
                    // Once expired it waits for its end, and is not there any more.
                    Some(lease) if now < lease.expires => {
                        lease.expires = now + lease.ttl;
                        lease.renewed = now;
                        seconds(lease.ttl)
                    }
                    _ => 0,
                };
                Reply::KeptAlive { ttl, raft_term }
            }
            Question::Transaction(transaction) => self.transact(asker, &transaction),
            Question::Revoke { lease } => {
                if self.store.revoke(lease) {
                    Reply::Revoked
                } else {
                    Reply::Failed(FailureKind::LeaseNotFound)
                }
            }
        }
    }

    pub fn transact(&mut self, writer: usize, transaction: &Transaction) -> Reply {
        let is_allowed = (transaction.key_guards().into_iter())
            .all(|(key, guard)| holds(guard, self.store.key(key)))
            && holds(transaction.next, self.store.next.map(|next| next.key))
            && holds(transaction.challenge, self.store.challenge)
            && transaction.seat_guards().all(|(seat, guard)| {
                let seat = self.store.seats[seat_place(seat)];
                holds(guard, seat.map(|seat| seat.key))
            })
            && (!transaction.requires_no_record() || self.store.done.is_none());
        if is_allowed && let Err(failure) = self.take_effect(writer, transaction) {
            return Reply::Failed(failure);
        }
        let reads_seats = transaction.reads == Reads::KeysAndSeats;
        Reply::Shown(Shown {
            cluster_id: self.cluster_id,
            raft_term: self.raft_term,
            revision: self.store.revision,
            keys: self.store.keys,
            challenge: self.store.challenge.filter(|_| transaction.about_challenge),
            done: self.store.done.filter(|_| transaction.about_job),
            seats: reads_seats.then(|| Arc::new((self.store.seats, self.store.next))),
        })
    }

    fn take_effect(&mut self, writer: usize, transaction: &Transaction) -> Result<(), FailureKind> {
        let store = &mut self.store;
        let limit_of = |writer: usize| self.limits.get(writer).copied().flatten();
        let mut check = |lease: LeaseId| {
            let is_there = store.lease(lease.get()).is_some();
            is_there
                .then_some(lease.get())
                .ok_or(FailureKind::LeaseNotFound)
        };
        match transaction.effect {
            Effect::None => {}
            Effect::Lead { lease, takes_over } => {
                let own = Some((check(lease)?, writer));
                let settings = TermSettings {
                    is_chosen: false,
                    was_taken_over: takes_over,
                    fail_over: limit_of(writer),
                };
                let keys = [(ElectionKey::Leader, own), (ElectionKey::Acting, own)];
                store.commit_term(&keys, settings);
                if transaction.about_challenge {
                    store.challenge = None;
                }
            }
            Effect::Challenge => store.put_challenge(0, writer),
            Effect::Confirm => {
                store.delete_challenge();
            }
            Effect::HandOver { lease, is_chosen } => {
                let lease = check(lease)?;
                let seat = transaction.other_seat.map(|(seat, _)| seat_place(seat));
                let seat = seat.and_then(|seat| store.seats[seat]);
                let successor = seat.map_or(writer, |seat| seat.key.writer);
                let to = Some((lease, successor));
                let settings = TermSettings {
                    is_chosen,
                    was_taken_over: false,
                    fail_over: limit_of(successor),
                };
                let keys = [(ElectionKey::Leader, to), (ElectionKey::Acting, to)];
                store.commit_term(&keys, settings);
                if transaction.about_challenge {
                    store.challenge = None;
                }
                if is_chosen {
                    store.chosen_at = store.revision;
                }
                store.next = None;
                store.vacate(transaction);
            }
            Effect::Release => {
                let mut deleted = vec![(ElectionKey::Acting, None)];
                if transaction.leader != Guard::Ignored {
                    deleted.push((ElectionKey::Leader, None));
                }
                store.commit(&deleted);
                store.vacate(transaction);
            }
            Effect::PutSeat {
                lease,
                acts,
                is_healthy,
            } => {
                let lease = check(lease)?;
                if let Some((seat, _)) = transaction.own_seat {
                    store.put_seat(
                        seat_place(seat),
                        lease,
                        writer,
                        acts.map_or(0, FencingToken::get),
                        is_healthy,
                    );
                }
            }
            Effect::DeleteLeader => store.commit(&[(ElectionKey::Leader, None)]),
            Effect::Choose { lease } => {
                let lease = check(lease)?;
                let ends = store
                    .key(ElectionKey::Leader)
                    .map_or(0, |key| key.mod_revision);
                store.commit(&[(ElectionKey::Leader, None)]);
                store.put_next(lease, writer, ends);
            }
            Effect::Put => {
                let acting = store.key(ElectionKey::Acting);
                store.record(writer, acting.map_or(0, |acting| acting.mod_revision));
            }
        }
        Ok(())
    }

    /// A member that is not in touch with a leader is asked.
    fn ask_astray(&self, member: usize, now: Time, question: Question, chance: u8) -> Reply {
        let asked = &self.members[member];
        if let Question::KeepAlive { lease } = question
            && self.answers_as_former_leader(member, now)
        {
            let known = self.known_before.iter().find(|known| known.id == lease);
            return Reply::KeptAlive {
                // It has never heard of the leases that were granted since.
                ttl: known.map_or(0, |lease| seconds(lease.ttl)),
                raft_term: asked.raft_term,
            };
        }
        let soon = now + super::SECOND / 10;
        match chance % 4 {
            0 => Reply::Failed(FailureKind::Unreachable),
            1 => Reply::Silence,
            _ => Reply::Waits(asked.recovers.max(asked.aware).max(soon)),
        }
    }

    /// A former leader that has not heard of its successor; or a member that has not either, and
    /// asks that one.
    fn answers_as_former_leader(&self, member: usize, now: Time) -> bool {
        let asked = &self.members[member];
        if asked.cut {
            return now < asked.leads_until;
        }
        let former = |former: &Member| {
            let reachable = !(former.cut || former.frozen || former.down);
            now < former.leads_until && reachable && former.raft_term == asked.raft_term
        };
        now < asked.aware && self.members.iter().any(former)
    }

    fn refuse(&self, now: Time, question: Question, chance: u8) -> Option<Reply> {
        let (refusal, _) = self.refusal.filter(|(_, until)| now < *until)?;
        let writes = match question {
            Question::Grant { .. } => refusal == Refusal::NoSpace,
            Question::Transaction(transaction) => transaction.writes(),
            Question::Revoke { .. } => refusal != Refusal::NoSpace,
            Question::KeepAlive { .. } | Question::LeaseTime { .. } => false,
        };
        let takes_room = match question {
            Question::Transaction(transaction) => transaction.takes_room(),
            _ => writes,
        };
        let refused = match refusal {
            Refusal::NoSpace => takes_room,
            Refusal::PermissionToWrite => writes,
            Refusal::TooManyRequests => chance >= 128,
            Refusal::PermissionToRead => writes || matches!(question, Question::Transaction { .. }),
        };
        let kind = match refusal {
            Refusal::PermissionToWrite | Refusal::PermissionToRead => FailureKind::Denied,
            Refusal::NoSpace | Refusal::TooManyRequests => FailureKind::Refused,
        };
        refused.then_some(Reply::Failed(kind))
    }
}

fn holds(guard: Guard, key: Option<Key>) -> bool {
    match (guard, key) {
        (Guard::Ignored, _) | (Guard::Absent, None) => true,
        (
            Guard::Unchanged {
                mod_revision,
                lease,
            },
            Some(key),
        ) => key.mod_revision == mod_revision && key.lease == lease.get(),
        (Guard::BoundTo { lease }, Some(key)) => key.lease == lease.get(),
        (Guard::Absent, Some(_)) | (Guard::Unchanged { .. } | Guard::BoundTo { .. }, None) => false,
    }
}

fn seconds(ttl: Time) -> i64 {
    i64::try_from(ttl / super::SECOND).unwrap_or(i64::MAX)
}
