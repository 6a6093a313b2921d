//! Candidates' seats, written by hand.

use super::etcd::Etcd;
use serde_json::json;
use std::time::Duration;

/// Puts a seat of the election `leader`, with a lease of its own; returns that.
pub fn put(etcd: &Etcd, seat: &str, value: &str) -> String {
    let lease = etcd.grant(Duration::from_mins(10));
    put_with(etcd, seat, value, &lease);
    lease
}

/// Puts a seat of the election `leader`, bound to this lease.
pub fn put_with(etcd: &Etcd, seat: &str, value: &str, lease: &str) {
    let key = format!("leader/candidates/{seat}");
    etcd.put(&key, value.as_bytes(), Some(lease));
}

/// Returns what a candidate writes into its seat.
pub fn value(name: &str, address: Option<&str>) -> String {
    let mut value = json!({ "name": name, "version": "0.9.7", "since": 1_700_000_000 });
    if let Some(address) = address {
        value["address"] = json!(address);
    }
    value.to_string()
}

/// Puts both keys of the election `leader` in one revision, as a candidate with this lease does.
pub fn lead(etcd: &Etcd, name: &str, lease: &str) {
    let acting = json!({ "name": name }).to_string();
    let request = format!(
        "\nput --lease={lease} leader {name}\nput --lease={lease} leader/acting '{acting}'\n\n\n"
    );
    etcd.etcdctl_bytes(&["txn"], request.as_bytes());
}
