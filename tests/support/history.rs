//! The history of terms.

use super::etcd::Etcd;
use super::operator::{Run, at, object, run};
use super::poll_until;
use serde_json::Value;

/// Runs `history` with these arguments.
pub fn history(etcd: &Etcd, arguments: &[&str]) -> Run {
    run(at(&etcd.endpoint(), &[&["history"], arguments].concat()))
}

/// Returns the terms that `history --json` prints.
pub fn terms(etcd: &Etcd) -> Vec<Value> {
    let run = history(etcd, &["--json"]);
    assert!(run.err.is_empty(), "{:?}", run.err);
    assert_eq!(run.code, if run.out.is_empty() { 3 } else { 0 });
    run.out.iter().map(|line| object(line)).collect()
}

/// Waits until there are this many terms, and the last one holds this in this field; returns them.
pub fn wait_for_terms(etcd: &Etcd, count: usize, field: &str, value: &str) -> Vec<Value> {
    poll_until(&format!("{count} terms, {field}: {value}"), || {
        let terms = terms(etcd);
        (terms.len() == count && terms[count - 1][field] == value).then_some(terms)
    })
}

/// Waits until the end of this term is recorded; returns the term.
pub fn wait_for_end(etcd: &Etcd, term: &Value) -> Value {
    poll_until("the end is recorded", || {
        let mut terms = terms(etcd).into_iter();
        terms.find(|now| now["token"] == term["token"] && now["state"] == "ended")
    })
}

/// Returns the keys of the records of terms, and any others below the same folder.
pub fn keys(etcd: &Etcd) -> Vec<String> {
    let keys = etcd.etcdctl(&["get", "--prefix", "leader/history/", "--keys-only"]);
    let keys = keys.lines().filter(|line| !line.is_empty());
    keys.map(str::to_owned).collect()
}
