//! Renders values as text for people and as JSON for programs: for the commands, HTTP and the log.
//!
//! Texts from etcd may be malicious. [`Printable`] makes them safe in text, [`line`] in JSON.

pub(super) mod arrivals;
mod candidates;

pub(super) use candidates::{
    candidate_name, candidates_fields, full_sentence, health, shows_priorities, unhealthy_sentence,
    unknown_sentence,
};

use crate::{
    NotRecorded,
    config::{Cluster, Config, LeaderKey},
    observer::{Acting, ElectionState, Leader},
    printable::Printable,
    protocol::{
        ElectionKey, FailOverLimit, Failure, FailureKind, LeaseTime, LossReason, Situation,
    },
    wall_clock,
};
use anyhow::anyhow;
use serde_json::{Map, Value, json};
use std::{
    fmt::{Display, Write},
    time::{Duration, SystemTime},
};

/// What happened if etcd's revisions went back; the caller adds what follows from it.
pub(super) const HISTORY_WENT_BACK: &str =
    "etcd went back in its history (a restored backup?) or is another etcd";

/// Returns one sentence that says who leads, or why nobody does.
pub(super) fn state_sentence(state: &ElectionState, leader_key: &LeaderKey) -> String {
    let key = Printable(leader_key.as_str().as_bytes());
    let acting = match &state.acting {
        Some(acting) => format!("; {} may still be acting", acting_name(acting)),
        None => String::new(),
    };
    let without_lease = match &state.without_lease {
        Some((ElectionKey::Leader, value)) => without_lease_clause(&key.to_string(), value),
        Some((ElectionKey::Acting, value)) => without_lease_clause(&format!("{key}/acting"), value),
        None => String::new(),
    };
    match (state.situation, &state.leader) {
        (Situation::Led, Some(leader)) => {
            let Leader { token, lease, .. } = leader;
            let address = address_clause(leader.address.as_deref());
            let since = match leader.since {
                Some(since) => format!(", since {}", humantime::format_rfc3339_seconds(since)),
                None => String::new(),
            };
            let name = Printable(&leader.name);
            let took_over = if leader.took_over {
                "; it took over from a leader that did not respond"
            } else {
                ""
            };
            format!("'{name}' leads{address}, token {token}, lease {lease}{since}{took_over}.")
        }
        (Situation::LedWithoutActing, Some(leader)) => {
            let Leader { token, lease, .. } = leader;
            let name = Printable(&leader.name);
            let term = format!("token {token}, lease {lease}");
            if acting.is_empty() {
                format!("'{name}' holds the key '{key}' without '{key}/acting', {term}.")
            } else if without_lease.is_empty() {
                format!(
                    "'{name}' holds the key '{key}', {term}, but '{key}/acting' was not written \
                     with it{acting}."
                )
            } else {
                format!(
                    "'{name}' holds the key '{key}', {term}, but '{key}/acting' was not written \
                     with it{acting}, and nobody else can lead {without_lease}."
                )
            }
        }
        (Situation::Blocked(_), _) => {
            format!("Nobody leads, and nobody can {without_lease}{acting}.")
        }
        // Without a leader the first two do not occur.
        (
            Situation::Led | Situation::LedWithoutActing | Situation::Ending | Situation::Vacant,
            _,
        ) => format!("Nobody leads{acting}."),
    }
}

/// Returns a clause that says until when a key without a lease is in the way.
fn without_lease_clause(key: &str, value: &[u8]) -> String {
    let value = Printable(value);
    format!(
        "until somebody deletes the key '{key}', which is bound to no lease and holds '{value}'"
    )
}

/// Returns the name of a situation that programs read. It never changes.
pub(super) const fn situation_name(situation: Situation) -> &'static str {
    match situation {
        Situation::Led | Situation::LedWithoutActing => "led",
        Situation::Ending => "ending",
        Situation::Blocked(_) => "blocked",
        Situation::Vacant => "vacant",
    }
}

/// Returns the same sentence, with the time until which somebody may be acting if nobody leads.
pub(super) fn state_sentence_with_end(
    state: &ElectionState,
    leader_key: &LeaderKey,
    lease: Option<LeaseTime>,
) -> String {
    let mut sentence = state_sentence(state, leader_key);
    if !state.situation.is_led()
        && state.acting.is_some()
        && let Some(lease) = lease
    {
        let end = humantime::format_rfc3339_seconds(latest_end(lease));
        sentence.pop();
        sentence = format!(
            "{sentence}, until {end} at the latest unless its lease is renewed while it finishes."
        );
    }
    sentence
}

/// Returns a clause that says what etcd's alarms mean; `None` if there is none.
pub(super) fn alarms_clause(alarms: &[String]) -> Option<String> {
    let names = alarms.join(", ");
    match alarms {
        [] => None,
        [alarm] if alarm == "NOSPACE" => Some(format!(
            "etcd's database is full (alarm {names}), so that nobody can be elected"
        )),
        _ => Some(format!(
            "etcd has raised an alarm ({names}), so that nobody can be elected"
        )),
    }
}

fn acting_name(acting: &Acting) -> String {
    match &acting.record.name {
        Some(name) => format!("'{}'", Printable(name.as_bytes())),
        None => "somebody".to_owned(),
    }
}

/// Returns the latest time at which a lease ends unless it is renewed: etcd counts whole seconds.
pub(super) fn latest_end(lease: LeaseTime) -> SystemTime {
    wall_clock::now() + lease.remaining + Duration::from_secs(1)
}

/// Returns the endpoints as they were given.
pub(super) fn endpoint_names(cluster: &Cluster) -> Vec<String> {
    let endpoints = cluster.endpoints().iter();
    endpoints.map(ToString::to_string).collect()
}

/// Returns a clause that says how an endpoint failed, and why.
pub(super) fn endpoint_failure(endpoint: impl Display, failure: &Failure) -> String {
    let (phrase, reason) = (failure_phrase(failure), failure_reason(failure));
    format!("etcd at '{endpoint}' {phrase} ({reason})")
}

/// Says that a user is configured for nothing.
pub(super) const AUTHENTICATION_OFF: &str = "An etcd user is given, but etcd's authentication is \
                                             off: anyone may write the election's keys; continuing \
                                             without it";

fn failure_phrase(failure: &Failure) -> &'static str {
    match failure.kind {
        FailureKind::Overloaded => "is overloaded",
        FailureKind::Refused | FailureKind::Denied => "refuses",
        FailureKind::Unauthenticated | FailureKind::Exhausted => "cannot be talked to",
        _ => "does not respond",
    }
}

/// Returns the cause of a failure.
pub(super) fn failure_reason(failure: &Failure) -> String {
    Printable(failure.message.as_bytes()).to_string()
}

/// Returns an error that says why a completed job is not recorded as done, and what to do.
pub(super) fn not_recorded(error: NotRecorded, config: &Config) -> anyhow::Error {
    let (job, _) = job_and_key(config);
    let next = match error {
        NotRecorded::Unknown => {
            "look at `leader-election done`: if it does not list the job, another replica runs it again"
        }
        _ => "another replica runs it again",
    };
    anyhow!("COMMAND has completed '{job}', but that could not be recorded: {error}; {next}")
}

/// Returns an error that says why this etcd user cannot record the job, and what to do.
pub(super) fn job_denied(failure: &Failure, config: &Config) -> anyhow::Error {
    let (_, key) = job_and_key(config);
    let reason = failure_reason(failure);
    let advice = required_role(config.leader_key());
    anyhow!(
        "the etcd user may not read and write the key '{key}', which --once requires ({reason}); {advice}"
    )
}

/// Returns the error of an etcd user that may not read and write the challenge.
pub(super) fn fail_over_denied(failure: &Failure, config: &Config) -> anyhow::Error {
    let key = Printable(config.leader_key().as_str().as_bytes());
    let reason = failure_reason(failure);
    let advice = required_role(config.leader_key());
    anyhow!(
        "the etcd user may not read and write the key '{key}/challenge', which --fail-over requires \
         ({reason}); {advice}"
    )
}

/// Returns a clause that says which permissions an etcd user needs to use everything.
pub(super) fn required_role(leader_key: &LeaderKey) -> String {
    let key = Printable(leader_key.as_str().as_bytes());
    format!("grant its role readwrite on the prefix '{key}/' and on '{key}'")
}

/// Returns a clause that says how to reach a candidate; empty if that is not known.
pub(super) fn address_clause(address: Option<&str>) -> String {
    match address {
        Some(address) => format!(" at '{}'", Printable(address.as_bytes())),
        None => String::new(),
    }
}

/// Returns the job that runs once, and the key of its record.
fn job_and_key(config: &Config) -> (String, String) {
    let Some(job) = config.job() else {
        return (String::new(), String::new());
    };
    let key = config.leader_key().done(job);
    (
        Printable(job.as_str().as_bytes()).to_string(),
        Printable(key.as_bytes()).to_string(),
    )
}

/// Returns a duration as text, rounded up to a tenth of a second.
pub(super) fn duration(duration: Duration) -> String {
    let tenths = duration.as_millis().div_ceil(100);
    format!("{}.{} s", tenths / 10, tenths % 10)
}

/// Returns a clause that says why a term ended; the other arguments are what to call the two keys.
pub(super) fn loss_reason(reason: LossReason, leader_key: &str, acting_key: &str) -> String {
    match reason {
        LossReason::LeaderKeyDeleted => format!("the {leader_key} was deleted"),
        LossReason::LeaderKeyOverwritten => format!("the {leader_key} was overwritten"),
        LossReason::ActingKeyTaken => format!("the {acting_key} was deleted or overwritten"),
        reason => reason.to_string(),
    }
}

/// Returns the JSON fields that say who leads, or why nobody does.
pub(super) fn state_fields(state: &ElectionState) -> Map<String, Value> {
    state_fields_up_to(Printable::LONGEST, state)
}

/// Returns the same fields with texts of any length in full.
pub(super) fn whole_state_fields(state: &ElectionState) -> Map<String, Value> {
    state_fields_up_to(usize::MAX, state)
}

fn state_fields_up_to(longest: usize, state: &ElectionState) -> Map<String, Value> {
    let leader = state.leader.as_ref();
    let leader = leader.map(|leader| leader_fields_up_to(longest, leader));
    let acting = state.acting.as_ref().map(|acting| {
        let record = &acting.record;
        let mut fields = optional_text_up_to(longest, "name", record.name.as_deref());
        let lease = acting.lease.map(|lease| lease.to_string());
        fields.insert("lease".to_owned(), json!(lease));
        fields.insert("since".to_owned(), date(record.since));
        fields.extend(optional_text_up_to(
            longest,
            "address",
            record.address.as_deref(),
        ));
        fields
    });
    let name = situation_name(state.situation);
    let mut fields = Map::new();
    fields.insert("state".to_owned(), json!(name));
    fields.insert("leader".to_owned(), json!(leader));
    fields.insert("acting".to_owned(), json!(acting));
    fields.insert("revision".to_owned(), json!(state.revision));
    fields
}

/// Returns the JSON fields of a leader.
fn leader_fields_up_to(longest: usize, leader: &Leader) -> Map<String, Value> {
    let mut fields = text_up_to(longest, "name", &leader.name);
    fields.insert("token".to_owned(), json!(leader.token.get()));
    fields.insert("lease".to_owned(), json!(leader.lease.to_string()));
    fields.insert("since".to_owned(), date(leader.since));
    fields.extend(optional_text_up_to(
        longest,
        "address",
        leader.address.as_deref(),
    ));
    fields.insert("acts".to_owned(), json!(leader.acts));
    if leader.took_over {
        fields.insert("took_over".to_owned(), json!(true));
    }
    fields.extend(fail_over_field(leader.fail_over));
    fields
}

/// Returns a field with a fail-over limit in seconds, if there is one.
fn fail_over_field(limit: Option<FailOverLimit>) -> Option<(String, Value)> {
    let seconds = limit?.as_duration().as_secs_f64();
    Some(("fail_over".to_owned(), json!(seconds)))
}

/// Returns a time to the second as JSON.
pub(super) fn date(time: Option<SystemTime>) -> Value {
    json!(time.map(|time| humantime::format_rfc3339_seconds(time).to_string()))
}

/// Returns a field with this text, or with null if there is none.
pub(super) fn optional_text(field: &str, value: Option<&str>) -> Map<String, Value> {
    optional_text_up_to(Printable::LONGEST, field, value)
}

fn optional_text_up_to(longest: usize, field: &str, value: Option<&str>) -> Map<String, Value> {
    match value {
        Some(value) => text_up_to(longest, field, value.as_bytes()),
        None => Map::from_iter([(field.to_owned(), Value::Null)]),
    }
}

/// Returns a field with this text. If the text is not UTF-8 or too long, the field holds an
/// approximation, and a second field says so.
pub(super) fn text(field: &str, bytes: &[u8]) -> Map<String, Value> {
    text_up_to(Printable::LONGEST, field, bytes)
}

fn text_up_to(longest: usize, field: &str, bytes: &[u8]) -> Map<String, Value> {
    let shown = &bytes[..bytes.len().min(longest)];
    let text = String::from_utf8_lossy(shown);
    let mut fields = Map::new();
    if text.as_bytes() != bytes {
        fields.insert(format!("{field}_is_exact"), json!(false));
    }
    fields.insert(field.to_owned(), json!(text));
    fields
}

/// Returns an object as one line of JSON that is safe to print on a terminal.
pub(super) fn line(object: Map<String, Value>) -> String {
    let mut line = String::new();
    for character in Value::Object(object).to_string().chars() {
        if character.is_ascii() && !character.is_ascii_control()
            || character.escape_debug().count() == 1
        {
            line.push(character);
            continue;
        }
        // Other characters occur only within strings, where JSON allows escapes.
        for unit in character.encode_utf16(&mut [0; 2]) {
            // Writing to a String cannot fail.
            let _ = write!(line, "\\u{unit:04x}");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::{Value, line, text};
    use proptest::prelude::*;

    #[test]
    fn a_text_that_is_not_shown_exactly_says_so() {
        assert_eq!(line(text("name", "Zoë".as_bytes())), r#"{"name":"Zoë"}"#);
        let invalid = line(text("name", b"a\xff"));
        assert_eq!(invalid, r#"{"name":"a�","name_is_exact":false}"#);
        assert!(line(text("name", &[b'x'; 256])).contains("false"));
    }

    proptest! {
        #[test]
        fn a_line_is_the_same_json_without_harmful_characters(value: String) {
            let object = text("name", value.as_bytes());
            let line = line(object.clone());
            let is_harmless = |character: char| {
                character.is_ascii_graphic() || character == ' ' || character.escape_debug().count() == 1
            };
            prop_assert!(line.chars().all(is_harmless));
            prop_assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), Value::Object(object));
        }
    }
}
