//! Executes the protocol's transactions.

use super::{Connection, entry, key_of_election, no_header};
use crate::{
    config::{Address, Config, JobId, LeaderKey},
    protocol::{
        Effect, ElectionKey, Entry, Failure, Guard, LeaseId, Next, Reads, Seat, SeatNumber, Seats,
        Term, Transaction, View,
    },
    record::{ActingRecord, ChallengeRecord, DoneRecord, NextRecord, SeatRecord},
};
use etcd_client::{
    Compare, CompareOp, GetOptions, GetResponse, PutOptions, Txn, TxnOp, TxnOpResponse,
};
use std::{sync::Arc, time::Duration};

/// The names of an election's keys.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) key: LeaderKey,
    leader: String,
    acting: String,
    /// The record of the job that runs once, if there is such a job.
    done: Option<String>,
}

impl Keys {
    pub fn new(key: &LeaderKey, job: Option<&JobId>) -> Self {
        Self {
            key: key.clone(),
            leader: key.as_str().to_owned(),
            acting: key.acting(),
            done: job.map(|job| key.done(job)),
        }
    }

    pub(super) fn name(&self, key: ElectionKey) -> &str {
        match key {
            ElectionKey::Leader => &self.leader,
            ElectionKey::Acting => &self.acting,
        }
    }

    pub(super) fn named(&self, name: &[u8]) -> Option<ElectionKey> {
        let is_named = |key: &&ElectionKey| self.name(**key).as_bytes() == name;
        ElectionKey::ALL.iter().find(is_named).copied()
    }

    /// Returns the first seat, and the first key after the last one. Not the whole prefix, so that other
    /// keys that someone wrote there are left out, as far as possible.
    pub(super) fn seat_range(&self) -> (String, String) {
        let prefix = self.key.seats();
        let end = format!("{prefix}{:02}", SeatNumber::COUNT);
        (format!("{prefix}00"), end)
    }

    /// Returns true iff this is the key of a seat.
    pub(super) fn is_seat(&self, name: &[u8]) -> bool {
        self.key.seat_of(name).is_some()
    }
}

/// A transaction, in etcd's terms.
impl Keys {
    /// The record of the job that runs once, if a transaction is about it.
    fn done(&self, transaction: &Transaction) -> Option<&str> {
        self.done.as_deref().filter(|_| transaction.about_job)
    }

    pub(super) fn compares(&self, transaction: &Transaction) -> Vec<Compare> {
        let mut guards: Vec<_> = (transaction.key_guards().into_iter())
            .flat_map(|(key, guard)| compares(self.name(key), guard))
            .collect();
        guards.extend(compares(&self.key.next(), transaction.next));
        guards.extend(compares(&self.key.challenge(), transaction.challenge));
        for (seat, guard) in transaction.seat_guards() {
            guards.extend(compares(&self.key.seat(seat), guard));
        }
        let done = self.done(transaction);
        if let Some(done) = done.filter(|_| transaction.requires_no_record()) {
            guards.extend(compares(done, Guard::Absent));
        }
        guards
    }

    /// Returns what a transaction reads, in the order in which the response shows it.
    fn reads(&self, transaction: &Transaction) -> Vec<TxnOp> {
        let keys = transaction.reads.keys().iter().map(|key| self.name(*key));
        let mut reads: Vec<_> = keys
            .chain(self.done(transaction))
            .map(|key| TxnOp::get(key, None))
            .collect();
        if transaction.about_challenge {
            reads.push(TxnOp::get(self.key.challenge(), None));
        }
        if transaction.reads == Reads::KeysAndSeats {
            reads.push(TxnOp::get(self.key.next(), None));
            let (first, end) = self.seat_range();
            // Longer than the list of all seats, in case someone wrote other keys among them.
            let options = GetOptions::new().with_range(end).with_limit(32);
            reads.push(TxnOp::get(first, Some(options)));
        }
        reads
    }

    fn writes(&self, transaction: &Transaction, values: &Values) -> Vec<TxnOp> {
        let put = |key: &str, value: &str, lease: LeaseId| {
            let options = PutOptions::new().with_lease(lease.get());
            TxnOp::put(key, value, Some(options))
        };
        let delete = |key: &str| TxnOp::delete(key, None);
        let own_seat = transaction.own_seat.map(|(seat, _)| self.key.seat(seat));
        let challenge = transaction.about_challenge.then(|| self.key.challenge());
        match transaction.effect {
            Effect::None => Vec::new(),
            Effect::Lead { lease, .. } => {
                let mut writes = vec![
                    put(&self.leader, &values.leader, lease),
                    put(&self.acting, &values.acting, lease),
                ];
                writes.extend(challenge.as_deref().map(delete));
                writes
            }
            Effect::Challenge => vec![TxnOp::put(
                self.key.challenge(),
                values.challenge.as_str(),
                None,
            )],
            Effect::Confirm => vec![delete(&self.key.challenge())],
            Effect::HandOver { lease, .. } => {
                let mut writes = vec![
                    put(&self.leader, &values.leader, lease),
                    put(&self.acting, &values.acting, lease),
                    delete(&self.key.next()),
                ];
                writes.extend(own_seat.as_deref().map(delete));
                writes.extend(challenge.as_deref().map(delete));
                writes
            }
            Effect::Release => {
                let mut writes = vec![delete(&self.acting)];
                if transaction.leader != Guard::Ignored {
                    writes.push(delete(&self.leader));
                }
                writes.extend(own_seat.as_deref().map(delete));
                writes
            }
            Effect::PutSeat { lease, .. } => (own_seat.iter())
                .map(|seat| put(seat, &values.seat, lease))
                .collect(),
            Effect::DeleteLeader => vec![delete(&self.leader)],
            Effect::Choose { lease } => vec![
                delete(&self.leader),
                put(&self.key.next(), &values.next, lease),
            ],
            Effect::Put => (values.put.iter())
                .map(|(key, value)| TxnOp::put(key.as_str(), value.as_slice(), None))
                .collect(),
        }
    }

    /// Returns the seats that a response shows.
    fn seats(&self, get: &GetResponse) -> Vec<Seat> {
        let seats = get.kvs().iter().filter_map(|key_value| {
            let number: SeatNumber = self.key.seat_of(key_value.key())?;
            let entry = entry(key_value);
            let record = SeatRecord::decode(&entry.value);
            Some(Seat {
                number,
                has_name: record.name.is_some(),
                is_healthy: record.healthy != Some(false),
                priority: record.priority,
                acts: record.acts,
                entry,
            })
        });
        seats.collect()
    }
}

/// What transactions write.
#[derive(Default)]
pub(crate) struct Values {
    leader: String,
    acting: String,
    seat: String,
    next: String,
    challenge: String,
    /// What [`Effect::Put`] puts: a key and its value.
    put: Option<(String, Vec<u8>)>,
}

impl Values {
    /// Returns the values for a transaction that a candidate sends now; in `term`, if there is one.
    pub fn now(config: &Config, transaction: &Transaction, term: Option<Term>) -> Self {
        let name = config.name().as_str();
        let takes_over = matches!(
            transaction.effect,
            Effect::Lead {
                takes_over: true,
                ..
            }
        );
        let mut acting = ActingRecord::now(name, config.address().map(Address::as_str));
        acting.fail_over = config.fail_over();
        acting.took_over = takes_over;
        let put = config.job().map(|job| {
            // Outside a term, nothing is put: only the permission is asked for.
            let record = term.map(|term| DoneRecord::now(name, term.token).encode());
            let key = config.leader_key().done(job);
            (key, record.unwrap_or_default().into_bytes())
        });
        Self {
            leader: name.to_owned(),
            acting: acting.encode(),
            challenge: ChallengeRecord::encode(name),
            put,
            ..Self::default()
        }
    }

    /// Returns the values for a transaction that challenges the leader.
    #[cfg(feature = "daemon")]
    pub fn challenge(name: &str) -> Self {
        Self {
            challenge: ChallengeRecord::encode(name),
            ..Self::default()
        }
    }

    /// Returns the values for a transaction that writes a seat.
    pub fn seat(record: &SeatRecord) -> Self {
        Self {
            seat: record.encode(),
            ..Self::default()
        }
    }

    /// Returns the values for a transaction that hands a term to the candidate whose seat holds `value`;
    /// `None` if that does not say its name.
    pub fn hand_over(value: &[u8], is_chosen: bool) -> Option<Self> {
        let (leader, acting) = SeatRecord::values_for_term(value, is_chosen)?;
        Some(Self {
            leader,
            acting,
            ..Self::default()
        })
    }

    /// Returns the values for a transaction that asks for a term to be handed to the candidate with a
    /// lease.
    #[cfg(feature = "daemon")]
    pub fn choose(token: crate::protocol::FencingToken, lease: LeaseId) -> Self {
        Self {
            next: NextRecord::encode(token, lease),
            ..Self::default()
        }
    }

    /// Returns the values for a transaction that puts one key.
    pub fn put(key: String, value: Vec<u8>) -> Self {
        Self {
            put: Some((key, value)),
            ..Self::default()
        }
    }
}

/// The response to a transaction.
pub(crate) struct Outcome {
    /// Whether its guards held, so that its effect took place.
    pub succeeded: bool,
    /// The keys that it read.
    pub view: View,
}

impl Connection {
    /// Reads both keys.
    pub async fn read(&self, limit: Duration) -> Result<View, Failure> {
        // It writes nothing.
        let values = Values::default();
        let outcome = self.transact(&Transaction::READ, &values, limit).await?;
        Ok(outcome.view)
    }

    /// Executes a transaction.
    pub async fn transact(
        &self,
        transaction: &Transaction,
        values: &Values,
        limit: Duration,
    ) -> Result<Outcome, Failure> {
        let keys = &self.target.keys;
        let guards = keys.compares(transaction);
        let reads = keys.reads(transaction);
        let mut operations = keys.writes(transaction, values);
        operations.extend(reads.iter().cloned());
        let request = Txn::new().when(guards).and_then(operations).or_else(reads);

        let mut kv = self.transport.client.kv_client();
        let asking = kv.txn(request);
        let response = self.call(limit, "asking for the keys", asking).await?;
        self.prove_token();
        let header = response.header().ok_or_else(no_header)?;
        let mut view = View {
            cluster_id: header.cluster_id(),
            revision: header.revision(),
            raft_term: header.raft_term(),
            leader: None,
            acting: None,
            challenge: None,
            done: None,
            seats: None,
        };
        let mut shown = response
            .op_responses()
            .into_iter()
            .filter_map(|response| match response {
                TxnOpResponse::Get(get) => Some(get),
                _ => None,
            });
        let first = |get: &GetResponse| get.kvs().first().map(entry);
        for (key, get) in transaction.reads.keys().iter().zip(&mut shown) {
            let found = get.kvs().first();
            *shown_in(&mut view, *key) = found.map(|found| key_of_election(*key, found));
        }
        if transaction.about_job {
            view.done = shown.next().as_ref().and_then(first);
        }
        if transaction.about_challenge {
            view.challenge = shown.next().as_ref().and_then(first);
        }
        if transaction.reads == Reads::KeysAndSeats {
            let next = shown.next().as_ref().and_then(first);
            let seats = shown.next();
            view.seats = Some(Arc::new(Seats {
                taken: seats.map_or_else(Vec::new, |get| keys.seats(&get)),
                next: next.map(|entry| Next {
                    ends: NextRecord::decode(&entry.value).token,
                    entry,
                }),
            }));
        }
        Ok(Outcome {
            succeeded: response.succeeded(),
            view,
        })
    }
}

fn shown_in(view: &mut View, key: ElectionKey) -> &mut Option<Entry> {
    match key {
        ElectionKey::Leader => &mut view.leader,
        ElectionKey::Acting => &mut view.acting,
    }
}

/// Returns a guard as etcd compares it.
fn compares(key: &str, guard: Guard) -> Vec<Compare> {
    match guard {
        Guard::Ignored => Vec::new(),
        Guard::Absent => vec![Compare::create_revision(key, CompareOp::Equal, 0)],
        Guard::Unchanged {
            mod_revision,
            lease,
        } => vec![
            Compare::mod_revision(key, CompareOp::Equal, mod_revision),
            Compare::lease(key, CompareOp::Equal, lease.get()),
        ],
        Guard::BoundTo { lease } => vec![Compare::lease(key, CompareOp::Equal, lease.get())],
    }
}
