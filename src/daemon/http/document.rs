//! The state as JSON: the document that `/status` serves, and its parts that `/events` sends.

use super::{
    role::{RoleChange, Transition},
    snapshot::{Replica, Snapshot},
};
use crate::{
    config::LeaderKey,
    daemon::{
        render::{candidates_fields, date, loss_reason, state_fields, text},
        terms::{self, State},
    },
};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Renders all that is known.
pub(super) fn document(snapshot: &Snapshot) -> Map<String, Value> {
    let mut object = part(snapshot);
    if let Some(replica) = &snapshot.replica {
        let transitions = replica.transitions.iter();
        let transitions: Vec<_> = transitions
            .map(|it| transition(it, &snapshot.leader_key))
            .collect();
        let since = replica.transitions.last().map(|last| last.at);
        let rest = [
            ("age", json!(replica.age.map(seconds))),
            ("since", date(since)),
            ("transitions", json!(transitions)),
        ];
        object.extend(owned(rest));
    }
    let rest = [
        ("observes", json!(snapshot.replica.is_none())),
        ("leader_key", json!(snapshot.leader_key.as_str())),
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("terms", terms(snapshot)),
    ];
    object.extend(owned(rest));
    object.extend(situation(snapshot));
    object.extend(validity(snapshot));
    object.extend(candidates_fields(snapshot.candidates.as_ref()));
    object
}

/// Renders what this process does and whether it reaches etcd.
pub(super) fn part(snapshot: &Snapshot) -> Map<String, Value> {
    let replica = snapshot.replica.as_ref();
    let mut object = match replica {
        Some(replica) => text("name", replica.name.as_bytes()),
        None => Map::from_iter([("name".to_owned(), Value::Null)]),
    };
    let of_replica = |value: fn(&Replica) -> Value| replica.map_or(Value::Null, value);
    let rest = [
        ("role", of_replica(|it| json!(it.role.as_str()))),
        ("priority", of_replica(|it| json!(it.priority))),
        ("healthy", of_replica(|it| json!(it.is_healthy))),
        (
            "token",
            of_replica(|it| json!(it.term.map(|term| term.token.get()))),
        ),
        (
            "lease",
            of_replica(|it| json!(it.term.map(|term| term.lease.to_string()))),
        ),
        ("ttl", json!(snapshot.ttl.map(|ttl| ttl.as_secs()))),
        ("endpoint", json!(snapshot.endpoint)),
        ("etcd_answers", json!(snapshot.etcd_answers)),
    ];
    object.extend(owned(rest));
    let unknown_because = snapshot.election.as_ref().err();
    object.insert("leader_unknown_because".to_owned(), json!(unknown_because));
    object
}

/// Renders who leads, or why nobody does.
pub(super) fn situation(snapshot: &Snapshot) -> Map<String, Value> {
    let Ok(state) = &snapshot.election else {
        let fields = ["state", "leader", "acting"];
        return owned(fields.map(|field| (field, Value::Null))).collect();
    };
    let mut fields = state_fields(state);
    if snapshot.replica.is_some() {
        // A replica reads the keys, and does not follow etcd's revision.
        fields.remove("revision");
    }
    fields
}

/// Renders for how long what is known of the leader counts.
pub(super) fn validity(snapshot: &Snapshot) -> Map<String, Value> {
    let validity = snapshot.validity;
    let remaining = validity.map(|it| seconds(it.remaining));
    let (leads, known_for) = (snapshot.leads(), remaining.filter(|_| !snapshot.leads()));
    let fields = [
        ("remaining", json!(remaining.filter(|_| leads))),
        ("known_for", json!(known_for)),
        ("renewed_for", json!(validity.map(|it| seconds(it.renewed)))),
    ];
    owned(fields).collect()
}

/// Renders the last terms: null if they are not known.
pub(super) fn terms(snapshot: &Snapshot) -> Value {
    let terms = snapshot.terms.as_ref();
    let terms: Option<Vec<_>> = terms.map(|known| {
        let terms = known.iter();
        let keys = snapshot.keys.as_ref();
        let state = |term| match (&snapshot.replica, keys) {
            // An observer reads both at one revision.
            (None, Some(keys)) => State::of(term, keys),
            _ => State::as_last_read(term, known, keys),
        };
        terms.map(|term| terms::fields(term, state(term))).collect()
    });
    json!(terms)
}

fn transition(
    Transition { at, change }: &Transition,
    leader_key: &LeaderKey,
) -> Map<String, Value> {
    let mut object = match change {
        RoleChange::Leads { token } => Map::from_iter([("token".to_owned(), json!(token.get()))]),
        RoleChange::Follows {
            leader: Some(value),
        } => text("leader", value),
        RoleChange::Follows { leader: None } => {
            Map::from_iter([("leader".to_owned(), Value::Null)])
        }
        RoleChange::Stops { token, reason } => {
            let leader = format!("{} key", leader_key.as_str());
            let acting = format!("{} key", leader_key.acting());
            Map::from_iter([
                ("token".to_owned(), json!(token.get())),
                (
                    "reason".to_owned(),
                    json!(loss_reason(*reason, &leader, &acting)),
                ),
            ])
        }
    };
    object.insert("role".to_owned(), json!(change.role().as_str()));
    object.insert("at".to_owned(), date(Some(*at)));
    object
}

fn owned<const N: usize>(
    fields: [(&'static str, Value); N],
) -> impl Iterator<Item = (String, Value)> {
    fields
        .into_iter()
        .map(|(field, value)| (field.to_owned(), value))
}

/// Returns a duration in seconds, to the millisecond.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}
