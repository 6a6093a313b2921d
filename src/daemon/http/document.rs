//! The JSON document that `/status` serves.

use super::{
    role::{RoleChange, Transition},
    state::Snapshot,
};
use crate::{
    config::LeaderKey,
    daemon::{
        render::{candidates_fields, date, leader_fields, loss_reason, situation_name, text},
        terms::{self, State},
    },
};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Renders all that this replica knows.
pub(super) fn document(snapshot: &Snapshot) -> Map<String, Value> {
    let term = snapshot.term;
    let (state, leader, unknown_because) = match &snapshot.election {
        Ok((situation, leader)) => (Some(situation_name(*situation)), leader.as_ref(), None),
        Err(reason) => (None, None, Some(reason)),
    };
    let transitions = snapshot.transitions.iter();
    let transitions: Vec<_> = transitions
        .map(|it| transition(it, &snapshot.leader_key))
        .collect();
    let terms = snapshot.terms.as_ref();
    let terms: Option<Vec<_>> = terms.map(|known| {
        let terms = known.iter();
        let state = |term| State::as_last_read(term, known, snapshot.keys.as_ref());
        terms.map(|term| terms::fields(term, state(term))).collect()
    });
    let since = snapshot.transitions.last().map(|last| last.at);
    let mut object = text("name", snapshot.name.as_bytes());
    let rest = [
        ("role", json!(snapshot.role.as_str())),
        ("priority", json!(snapshot.priority)),
        ("healthy", json!(snapshot.is_healthy)),
        ("state", json!(state)),
        ("leader", json!(leader.map(leader_fields))),
        ("leader_unknown_because", json!(unknown_because)),
        ("age", json!(snapshot.age.map(seconds))),
        ("token", json!(term.map(|term| term.token.get()))),
        ("lease", json!(term.map(|term| term.lease.to_string()))),
        ("ttl", json!(snapshot.ttl.as_secs())),
        ("remaining", json!(snapshot.remaining.map(seconds))),
        ("since", date(since)),
        ("endpoint", json!(snapshot.endpoint)),
        ("etcd_answers", json!(snapshot.etcd_answers)),
        ("transitions", json!(transitions)),
        ("terms", json!(terms)),
    ];
    object.extend(rest.map(|(field, value)| (field.to_owned(), value)));
    object.extend(candidates_fields(snapshot.candidates.as_ref()));
    object
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

/// Returns a duration in seconds, to the millisecond.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}
