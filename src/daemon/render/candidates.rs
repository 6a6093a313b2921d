//! Renders the candidates.

use super::{date, fail_over_field, failure_reason, optional_text};
use crate::{
    candidates::{Candidates, ListedCandidate},
    config::LeaderKey,
    printable::Printable,
    protocol::{Failure, FailureKind, SeatNumber},
};
use serde_json::{Map, Value, json};

/// Returns the JSON fields about the candidates: null if they are not known.
pub(in crate::daemon) fn candidates_fields(candidates: Option<&Candidates>) -> Map<String, Value> {
    let listed = candidates.map(|candidates| {
        let fields = candidates.listed.iter().map(candidate_fields);
        fields.collect::<Vec<_>>()
    });
    let is_full = candidates.map(|candidates| candidates.is_full);
    Map::from_iter([
        ("candidates".to_owned(), json!(listed)),
        ("seats_full".to_owned(), json!(is_full)),
    ])
}

fn candidate_fields(candidate: &ListedCandidate) -> Map<String, Value> {
    let mut fields = optional_text("name", candidate.name.as_deref());
    fields.extend(optional_text("address", candidate.address.as_deref()));
    fields.extend(optional_text("version", candidate.version.as_deref()));
    let rest = [
        ("seat", json!(candidate.seat.to_string())),
        ("lease", json!(candidate.lease.to_string())),
        ("since", date(candidate.since)),
        ("priority", json!(candidate.priority)),
        ("healthy", json!(candidate.healthy)),
        ("leads", json!(candidate.leads)),
    ];
    fields.extend(optional_text("reason", candidate.reason.as_deref()));
    fields.extend(rest.map(|(field, value)| (field.to_owned(), value)));
    fields.extend(fail_over_field(candidate.fail_over));
    fields
}

/// Returns what a candidate is called.
pub(in crate::daemon) fn candidate_name(name: Option<&str>) -> String {
    match name {
        Some(name) => format!("'{}'", Printable(name.as_bytes())),
        None => "a candidate without a name".to_owned(),
    }
}

/// Returns whether priorities matter among these candidates, so that they are worth showing.
pub(in crate::daemon) fn shows_priorities(candidates: &Candidates) -> bool {
    candidates.listed.iter().any(|it| it.priority != 0)
}

/// Returns what a candidate says of its health, if it does.
pub(in crate::daemon) fn health(candidate: &ListedCandidate) -> Option<String> {
    match (candidate.healthy?, &candidate.reason) {
        (true, _) => Some("healthy".to_owned()),
        (false, None) => Some("unhealthy".to_owned()),
        (false, Some(reason)) => Some(format!("unhealthy: '{}'", Printable(reason.as_bytes()))),
    }
}

/// Returns one sentence that says that no listed candidate can lead, if that is so.
pub(in crate::daemon) fn unhealthy_sentence(candidates: &Candidates) -> Option<String> {
    let listed = &candidates.listed;
    // An unhealthy leader leads until its term is over.
    let can_lead = |it: &ListedCandidate| it.leads || !it.is_unhealthy();
    let nobody_can = !listed.is_empty() && !listed.iter().any(can_lead);
    nobody_can.then(|| "No listed candidate can lead: all of them are unhealthy.".to_owned())
}

/// Returns one sentence that says that the list is incomplete, if it may be.
pub(in crate::daemon) fn full_sentence(candidates: &Candidates) -> Option<String> {
    candidates.is_full.then(|| {
        format!(
            "All {} seats are taken: other candidates may take part without being listed.",
            SeatNumber::COUNT
        )
    })
}

/// Returns one sentence that says why the candidates are not known.
pub(in crate::daemon) fn unknown_sentence(leader_key: &LeaderKey, failure: &Failure) -> String {
    let key = Printable(leader_key.as_str().as_bytes());
    let reason = failure_reason(failure);
    let why = match failure.kind {
        FailureKind::Denied => "the etcd role may not read",
        _ => "etcd refuses to show",
    };
    format!("The candidates are not known: {why} '{key}/candidates/' and '{key}/next' ({reason}).")
}
