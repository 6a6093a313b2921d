//! The requests of commands.

use super::{Connection, Values};
use crate::protocol::{Failure, LeaseId, Transaction};
use std::{collections::BTreeSet, time::Duration};

impl Connection {
    /// Asks for the alarms of the cluster, such as `NOSPACE`. While there is one, etcd refuses
    /// what takes room: a lease, and the keys of a new term.
    pub async fn alarms(&self, limit: Duration) -> Result<Vec<String>, Failure> {
        let mut maintenance = self.transport.client.maintenance_client();
        let asking = maintenance.status();
        let status = self.call(limit, "asking for alarms", asking).await?;
        Ok(alarm_names(status.errors()))
    }

    /// Asks the holder of a term to step down; returns false if that term is over.
    ///
    /// Repeating it does no harm.
    pub async fn end_term(
        &self,
        mod_revision: i64,
        lease: LeaseId,
        limit: Duration,
    ) -> Result<bool, Failure> {
        let transaction = Transaction::end_term(mod_revision, lease);
        let values = Values::default();
        let outcome = self.transact(&transaction, &values, limit).await?;
        Ok(outcome.succeeded)
    }
}

/// Returns the names of the alarms among a member's errors (`memberID:1 alarm:NOSPACE `), each once
/// even if several members have raised it.
fn alarm_names(errors: &[String]) -> Vec<String> {
    let names = errors
        .iter()
        .flat_map(|error| error.split_whitespace())
        .filter_map(|word| word.strip_prefix("alarm:"));
    let names: BTreeSet<_> = names.map(str::to_owned).collect();
    names.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::alarm_names;

    #[test]
    fn the_alarms_among_the_errors_are_named_once() {
        let errors = [
            "etcdserver: no leader",
            "memberID:10276657743932975437 alarm:NOSPACE ",
            "memberID:2 alarm:NOSPACE ",
            "memberID:2 alarm:CORRUPT ",
        ];
        let names = alarm_names(&errors.map(str::to_owned));
        assert_eq!(names, ["CORRUPT", "NOSPACE"]);
        assert!(alarm_names(&[]).is_empty());
    }
}
