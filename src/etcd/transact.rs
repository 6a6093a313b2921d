//! Executes the protocol's transactions.

use super::{Connection, entry, no_header};
use crate::{
    acting_record::ActingRecord,
    config::{Address, Config, LeaderKey},
    protocol::{Effect, ElectionKey, Entry, Failure, Guard, LeaseId, Transaction, View},
};
use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse};
use std::time::Duration;

/// The names of an election's keys.
#[derive(Debug)]
pub(super) struct Keys {
    leader: String,
    acting: String,
}

impl Keys {
    pub fn new(key: &LeaderKey) -> Self {
        Self {
            leader: key.as_str().to_owned(),
            acting: key.acting(),
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

/// What the transactions that begin a term write into the keys.
#[derive(Default)]
pub(crate) struct TermValues {
    leader: String,
    acting: String,
}

impl TermValues {
    /// Returns the values for a term that would begin now.
    pub fn now(config: &Config) -> Self {
        let name = config.name().as_str();
        let address = config.address().map(Address::as_str);
        Self {
            leader: name.to_owned(),
            acting: ActingRecord::now(name, address).encode(),
        }
    }
}

/// The response to a transaction.
pub(crate) struct Outcome {
    /// Whether its guards held, so that its effect took place.
    #[cfg_attr(
        not(feature = "daemon"),
        allow(dead_code, reason = "commands ask for it")
    )]
    pub succeeded: bool,
    /// The keys that it read.
    pub view: View,
}

impl Connection {
    /// Reads both keys.
    pub async fn read(&self, limit: Duration) -> Result<View, Failure> {
        // It writes nothing.
        let values = TermValues::default();
        let outcome = self.transact(&Transaction::READ, &values, limit).await?;
        Ok(outcome.view)
    }

    /// Executes a transaction.
    pub async fn transact(
        &self,
        transaction: &Transaction,
        values: &TermValues,
        limit: Duration,
    ) -> Result<Outcome, Failure> {
        let keys = &self.target.keys;
        let compares = transaction
            .guards()
            .into_iter()
            .flat_map(|(key, guard)| compares(keys.name(key), guard));
        let reads: Vec<_> = transaction
            .reads
            .iter()
            .map(|key| TxnOp::get(keys.name(*key), None))
            .collect();
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
        };
        operations.extend(reads.iter().cloned());
        let request = Txn::new()
            .when(compares.collect::<Vec<_>>())
            .and_then(operations)
            .or_else(reads);

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
        };
        let shown = response
            .op_responses()
            .into_iter()
            .filter_map(|response| match response {
                TxnOpResponse::Get(get) => Some(get.kvs().first().map(entry)),
                _ => None,
            });
        for (key, entry) in transaction.reads.iter().zip(shown) {
            *shown_in(&mut view, *key) = entry;
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
    }
}
