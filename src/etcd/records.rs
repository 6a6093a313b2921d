//! Asks for the records of jobs that are done, and removes them.

use super::{
    Connection,
    failure::{is_compacted, is_too_large},
    no_header,
};
use crate::protocol::{Failure, FailureKind};
use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, Txn, TxnOp, TxnOpResponse};
use std::time::Duration;

/// How many records are read at once at most. A response of this many records is far smaller than
/// gRPC's limit for a message, which is 4 MiB, unless somebody wrote large values by hand.
const PAGE: i64 = 1000;

/// A key below a prefix, and what it holds.
pub(crate) struct JobRecord {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    /// The revision that last changed it.
    pub mod_revision: i64,
}

/// Some of the records below a prefix, in the order of their keys.
pub(crate) struct Page {
    pub records: Vec<JobRecord>,
    /// The revision at which they were read.
    pub revision: i64,
    /// Whether other records follow.
    pub has_more: bool,
}

/// Where a page begins.
pub(crate) struct After {
    /// The last key of the page before it.
    pub key: Vec<u8>,
    /// The revision at which that page was read.
    pub revision: i64,
}

/// What came of a request to remove a record.
pub(crate) enum Removal {
    /// It was removed.
    Removed,
    /// There is no such key any more.
    Gone,
    /// The key holds another record than the one that was to be removed, and was kept.
    Replaced(JobRecord),
}

impl Connection {
    /// Reads the keys below a prefix that ends in `/`: the first ones, or those after a page, at the
    /// revision of that page. Returns `None` if etcd has compacted that revision.
    ///
    /// # Errors
    /// If etcd does not respond in time or refuses.
    pub async fn records(
        &self,
        prefix: &str,
        after: Option<&After>,
        limit: Duration,
    ) -> Result<Option<Page>, Failure> {
        // The first key that follows all of those: `0` is the character after `/`.
        let end = format!("{}0", prefix.strip_suffix('/').unwrap_or(prefix));
        let mut options = GetOptions::new().with_range(end);
        let mut start = prefix.as_bytes().to_vec();
        if let Some(after) = after {
            options = options.with_revision(after.revision);
            start.clone_from(&after.key);
            start.push(0);
        }
        let read = async {
            let mut size = PAGE;
            loop {
                let mut kv = self.transport.client.kv_client();
                let options = options.clone().with_limit(size);
                match kv.get(start.clone(), Some(options)).await {
                    Err(error) if is_compacted(&error) => return Ok(None),
                    // Somebody wrote large values.
                    Err(error) if is_too_large(&error) && size > 1 => size /= 2,
                    result => return result.map(Some),
                }
            }
        };
        let Some(mut response) = self.call(limit, "asking for the records", read).await? else {
            return Ok(None);
        };
        self.prove_token();
        let revision = match after {
            Some(after) => after.revision,
            None => response.header().ok_or_else(no_header)?.revision(),
        };
        let has_more = response.more();
        let records = response.take_kvs().into_iter().map(record).collect();
        Ok(Some(Page {
            records,
            revision,
            has_more,
        }))
    }

    /// Reads a key; returns `None` if there is no such key.
    ///
    /// # Errors
    /// If etcd does not respond in time or refuses.
    pub async fn record(&self, key: &str, limit: Duration) -> Result<Option<JobRecord>, Failure> {
        let mut kv = self.transport.client.kv_client();
        let reading = kv.get(key, None);
        let mut response = self.call(limit, "asking for the record", reading).await?;
        self.prove_token();
        Ok(response.take_kvs().into_iter().next().map(record))
    }

    /// Removes a key if it was last changed at `mod_revision`.
    ///
    /// Repeating it does no harm.
    ///
    /// # Errors
    /// If etcd does not respond in time or refuses.
    pub async fn remove_record(
        &self,
        key: &str,
        mod_revision: i64,
        limit: Duration,
    ) -> Result<Removal, Failure> {
        let request = Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, mod_revision)])
            .and_then([TxnOp::delete(key, None)])
            .or_else([TxnOp::get(key, None)]);
        let mut kv = self.transport.client.kv_client();
        let removing = kv.txn(request);
        let response = self.call(limit, "removing the record", removing).await?;
        self.prove_token();
        if response.succeeded() {
            return Ok(Removal::Removed);
        }
        match response.op_responses().into_iter().next() {
            Some(TxnOpResponse::Get(mut found)) => {
                let found = found.take_kvs().into_iter().next();
                Ok(found.map_or(Removal::Gone, |found| Removal::Replaced(record(found))))
            }
            _ => Err(Failure::new(
                FailureKind::Refused,
                "the response does not say what the key holds",
            )),
        }
    }
}

fn record(found: KeyValue) -> JobRecord {
    let mod_revision = found.mod_revision();
    let (key, value) = found.into_key_value();
    JobRecord {
        key,
        value,
        mod_revision,
    }
}
