//! Reads and writes the records of terms.

use super::{
    Connection, entry,
    failure::{is_compacted, is_too_large},
};
#[cfg(feature = "daemon")]
use crate::protocol::View;
use crate::{
    protocol::{Entry, Failure, FencingToken, Term, Transaction},
    record::TermRecord,
};
use etcd_client::{
    Compare, CompareOp, GetOptions, GetResponse, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
};
use std::time::Duration;

/// How many records are read at most. There are more only if someone wrote some by hand.
const PAGE: i64 = 64;

/// The records of the last terms and the two keys, as of one revision.
#[cfg(feature = "daemon")]
pub(crate) struct Terms {
    /// The records, the oldest first.
    pub records: Vec<TermRecord>,
    /// The two keys.
    pub keys: View,
}

impl Connection {
    /// Reads which terms have a record, the oldest first. Like every read, it costs no raft entry.
    ///
    /// # Errors
    /// If etcd does not respond in time or refuses.
    pub async fn recorded_terms(&self, limit: Duration) -> Result<Vec<FencingToken>, Failure> {
        let options = GetOptions::new().with_keys_only();
        let records = self.read_terms(options, limit).await?;
        Ok(records.iter().map(|record| record.token).collect())
    }

    /// Reads the records of the last terms, the oldest first.
    ///
    /// # Errors
    /// If etcd does not respond in time or refuses.
    pub async fn terms(&self, limit: Duration) -> Result<Vec<TermRecord>, Failure> {
        let records = self.read_terms(GetOptions::new(), limit).await?;
        Ok(newest(records))
    }

    /// Reads both keys, and the records of the last terms as of the same revision.
    ///
    /// # Errors
    /// If etcd does not respond in time or refuses.
    #[cfg(feature = "daemon")]
    pub async fn terms_and_keys(&self, limit: Duration) -> Result<Terms, Failure> {
        loop {
            let keys = self.read(limit).await?;
            let options = GetOptions::new().with_revision(keys.revision);
            if let Some(records) = self.try_to_read_terms(options, limit).await? {
                let records = newest(records);
                return Ok(Terms { records, keys });
            }
            // Compacted meanwhile.
        }
    }

    async fn read_terms(
        &self,
        options: GetOptions,
        limit: Duration,
    ) -> Result<Vec<TermRecord>, Failure> {
        let records = self.try_to_read_terms(options, limit).await?;
        // The present revision is never compacted.
        Ok(records.unwrap_or_default())
    }

    /// Returns `None` if etcd has compacted the revision.
    ///
    /// Not in a transaction: older versions of etcd crash if the client of one that only reads goes away
    /// meanwhile (etcd #14110, #14891).
    async fn try_to_read_terms(
        &self,
        options: GetOptions,
        limit: Duration,
    ) -> Result<Option<Vec<TermRecord>>, Failure> {
        let key = &self.target.keys.key;
        let folder = key.history();
        // Every token begins with a digit, and `:` is the character after `9`.
        let (start, end) = (format!("{folder}0"), format!("{folder}:"));
        let newest_first = options
            .with_range(end)
            .with_sort(SortTarget::Key, SortOrder::Descend);
        let read = Box::pin(async {
            let mut size = PAGE;
            loop {
                let mut kv = self.transport.client.kv_client();
                let options = newest_first.clone().with_limit(size);
                match kv.get(start.as_str(), Some(options)).await {
                    Err(error) if is_compacted(&error) => return Ok(None),
                    // Somebody wrote large values.
                    Err(error) if is_too_large(&error) && size > 1 => size /= 2,
                    result => return result.map(Some),
                }
            }
        });
        let response = self
            .call_in_turn(limit, "asking for the history", read)
            .await?;
        self.prove_token();
        let records = |response: GetResponse| {
            let key_values = response.kvs().iter().rev();
            let records = key_values.filter_map(|key_value| {
                // Another key is no record.
                let token = key.token_of(key_value.key())?;
                Some(TermRecord::decode(token, key_value.value()))
            });
            records.collect()
        };
        Ok(response.map(records))
    }

    /// Records that a term has begun, unless it is over or has a record, and deletes the records of these
    /// `old` terms. Returns the record that there is then.
    ///
    /// Repeating it does no harm, even if the first request is carried out later.
    ///
    /// # Errors
    /// If etcd does not respond in time or refuses.
    pub async fn put_term(
        &self,
        term: Term,
        value: &str,
        old: &[FencingToken],
        limit: Duration,
    ) -> Result<Option<Entry>, Failure> {
        let keys = &self.target.keys;
        let key = keys.key.term(term.token);
        let mut guards = keys.compares(&Transaction::put_in_term(term));
        guards.push(stands(&key, None));
        let mut writes = vec![TxnOp::put(key.as_str(), value, None)];
        // One by one: in a range there may be other keys.
        let delete = |token: &FencingToken| TxnOp::delete(keys.key.term(*token), None);
        writes.extend(old.iter().map(delete));
        self.write_record(&key, guards, writes, limit).await
    }

    /// Replaces the record of a term that has ended, if it stands as `mod_revision` wrote it; `None`: if
    /// there is none. Returns the record that there is then.
    ///
    /// Repeating it does no harm.
    ///
    /// # Errors
    /// If etcd does not respond in time or refuses.
    pub async fn replace_term(
        &self,
        token: FencingToken,
        mod_revision: Option<i64>,
        value: &str,
        limit: Duration,
    ) -> Result<Option<Entry>, Failure> {
        let key = self.target.keys.key.term(token);
        let guards = vec![stands(&key, mod_revision)];
        let writes = vec![TxnOp::put(key.as_str(), value, None)];
        self.write_record(&key, guards, writes, limit).await
    }

    async fn write_record(
        &self,
        key: &str,
        guards: Vec<Compare>,
        mut writes: Vec<TxnOp>,
        limit: Duration,
    ) -> Result<Option<Entry>, Failure> {
        let read = TxnOp::get(key, None);
        writes.push(read.clone());
        let request = Txn::new().when(guards).and_then(writes).or_else([read]);
        let mut kv = self.transport.client.kv_client();
        let writing = kv.txn(request);
        let response = self
            .call_in_turn(limit, "recording the term", writing)
            .await?;
        self.prove_token();
        let found = (response.op_responses().into_iter()).find_map(|response| match response {
            TxnOpResponse::Get(get) => Some(get),
            _ => None,
        });
        Ok(found.and_then(|get| get.kvs().first().map(entry)))
    }
}

/// Returns the records that are kept, without those that the next leader deletes.
fn newest(mut records: Vec<TermRecord>) -> Vec<TermRecord> {
    let old = records.len().saturating_sub(TermRecord::KEPT);
    records.split_off(old)
}

/// Requires that a key stands as a revision wrote it, or that there is none, whose revision is 0 to etcd.
fn stands(key: &str, mod_revision: Option<i64>) -> Compare {
    Compare::mod_revision(key, CompareOp::Equal, mod_revision.unwrap_or(0))
}
