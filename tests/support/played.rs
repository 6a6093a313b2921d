//! Candidates that a test plays by hand, with `etcdctl`.

use super::etcd::Etcd;
use super::from_cargo;
use serde_json::{Value, json};
use std::time::Duration;

/// A candidate with a lease and a seat, which does nothing by itself.
pub struct Played<'a> {
    etcd: &'a Etcd,
    /// Its name.
    pub name: String,
    /// Its lease in etcdctl's hexadecimal.
    pub lease: String,
    /// The key of its seat.
    pub seat: String,
}

impl<'a> Played<'a> {
    /// Takes a seat, with a lease that outlasts the test.
    pub fn seated(etcd: &'a Etcd, number: u8, name: &str) -> Self {
        let candidate = Self::unseated(etcd, number, name);
        candidate.publish(&json!({}));
        candidate
    }

    /// Has a lease, and no seat.
    pub fn unseated(etcd: &'a Etcd, number: u8, name: &str) -> Self {
        Self {
            etcd,
            name: name.to_owned(),
            lease: etcd.grant(Duration::from_mins(10)),
            seat: format!("leader/candidates/{number:02}"),
        }
    }

    /// Writes its seat with these fields besides its name and the version.
    pub fn publish(&self, fields: &Value) {
        let mut record = json!({ "name": self.name, "version": from_cargo("CARGO_PKG_VERSION") });
        let fields = fields.as_object().expect("an object").clone();
        record.as_object_mut().expect("an object").extend(fields);
        let record = record.to_string();
        self.etcd
            .put(&self.seat, record.as_bytes(), Some(&self.lease));
    }

    /// Begins to lead: puts both keys in one transaction, as an election and a hand-over do, and deletes
    /// what a hand-over deletes. Returns the token.
    pub fn lead(&self) -> u64 {
        self.lead_with(&json!({}))
    }

    /// Does the same, with these fields besides its name in `leader/acting`.
    pub fn lead_with(&self, fields: &Value) -> u64 {
        let Self { name, lease, .. } = self;
        let mut record = json!({ "name": name });
        let fields = fields.as_object().expect("an object").clone();
        record.as_object_mut().expect("an object").extend(fields);
        let record = record.to_string();
        // etcdctl reads what JSON quotes, whatever is in it. Nothing is compared, and an empty line ends each part.
        let [name, record] = [name, &record].map(|text| json!(text).to_string());
        let transaction = format!(
            "\nput --lease={lease} leader {name}\nput --lease={lease} leader/acting {record}\ndel \
             leader/next\n\n\n"
        );
        self.etcd.etcdctl_bytes(&["txn"], transaction.as_bytes());
        self.etcd.key("leader").expect("it leads").mod_revision
    }

    /// Says in its seat that it acts in a term.
    pub fn act(&self, token: u64) {
        self.publish(&json!({ "acts": token }));
    }

    /// Stops acting: what a leader does last before its term is over.
    pub fn stop(&self) {
        self.etcd.etcdctl(&["del", "leader/acting"]);
    }

    /// Withdraws, or dies: everything that is bound to its lease goes.
    pub fn withdraw(&self) {
        self.etcd.etcdctl(&["lease", "revoke", &self.lease]);
    }
}
