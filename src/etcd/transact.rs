//! Executes the protocol's transactions.

use super::{Connection, entry, no_header};
use crate::{
    acting_record::ActingRecord,
    config::{Address, Config, JobId, LeaderKey},
    done_record::DoneRecord,
    protocol::{Effect, ElectionKey, Entry, Failure, Guard, LeaseId, Term, Transaction, View},
};
use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse};
use std::time::Duration;

/// The names of an election's keys.
#[derive(Debug)]
pub(super) struct Keys {
    leader: String,
    acting: String,
    /// The record of the job that runs once, if there is such a job.
    done: Option<String>,
}

impl Keys {
    pub fn new(key: &LeaderKey, job: Option<&JobId>) -> Self {
        Self {
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
}

/// What transactions write.
#[derive(Default)]
pub(crate) struct Values {
    leader: String,
    acting: String,
    /// What [`Effect::Put`] puts: a key and its value.
    put: Option<(String, Vec<u8>)>,
}

impl Values {
    /// Returns the values for a transaction that is sent now; in `term`, if there is one.
    pub fn now(config: &Config, term: Option<Term>) -> Self {
        let name = config.name().as_str();
        let address = config.address().map(Address::as_str);
        let put = config.job().map(|job| {
            // Outside a term, nothing is put: only the permission is asked for.
            let record = term.map(|term| DoneRecord::now(name, term.token).encode());
            let key = config.leader_key().done(job);
            (key, record.unwrap_or_default().into_bytes())
        });
        Self {
            leader: name.to_owned(),
            acting: ActingRecord::now(name, address).encode(),
            put,
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
        let done = keys.done.as_deref().filter(|_| transaction.about_job);
        let mut guards: Vec<_> = (transaction.guards().into_iter())
            .flat_map(|(key, guard)| compares(keys.name(key), guard))
            .collect();
        guards.extend(
            done.into_iter()
                .flat_map(|key| compares(key, Guard::Absent)),
        );
        let names = transaction.reads.iter().map(|key| keys.name(*key));
        let reads: Vec<_> = names.chain(done).map(|key| TxnOp::get(key, None)).collect();
        let put = |key: &str, value: &str, lease: LeaseId| {
            let options = PutOptions::new().with_lease(lease.get());
            TxnOp::put(key, value, Some(options))
        };
        let mut operations = match transaction.effect {
            Effect::None => Vec::new(),
            Effect::Lead { lease } => vec![
                put(&keys.leader, &values.leader, lease),
                put(&keys.acting, &values.acting, lease),
            ],
            Effect::DeleteLeader => vec![TxnOp::delete(keys.leader.as_str(), None)],
            Effect::Put => (values.put.iter())
                .map(|(key, value)| TxnOp::put(key.as_str(), value.as_slice(), None))
                .collect(),
        };
        operations.extend(reads.iter().cloned());
        let request = Txn::new().when(guards).and_then(operations).or_else(reads);

        let mut kv = self.client.kv_client();
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
            done: None,
        };
        let mut shown = response
            .op_responses()
            .into_iter()
            .filter_map(|response| match response {
                TxnOpResponse::Get(get) => Some(get.kvs().first().map(entry)),
                _ => None,
            });
        for (key, entry) in transaction.reads.iter().zip(&mut shown) {
            *shown_in(&mut view, *key) = entry;
        }
        view.done = shown.next().flatten();
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
    }
}
