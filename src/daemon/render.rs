//! How an election stands, in words and as JSON. What comes from etcd is hostile until printed so
//! that it can do no harm.

use crate::{
    config::LeaderKey,
    etcd::LeaseTime,
    observer::{Acting, ElectionState, Leader},
    printable::Printable,
    protocol::ElectionKey,
    wall_clock,
};
use serde_json::{Map, Value, json};
use std::{
    fmt::Write,
    time::{Duration, SystemTime},
};

/// Says in one line how things stand.
pub(super) fn sentence(situation: &ElectionState, leader_key: &LeaderKey) -> String {
    let key = Printable(leader_key.as_str().as_bytes());
    let acting = || match &situation.acting {
        Some(acting) => format!("; {} may still be acting", who_acts(acting)),
        None => String::new(),
    };
    if let Some(leader) = &situation.leader {
        let name = Printable(&leader.name);
        let Leader { token, lease, .. } = leader;
        if !leader.acts {
            return format!(
                "'{name}' holds the key '{key}' without '{key}/acting', token {token}, lease \
                 {lease}{}.",
                acting()
            );
        }
        let address = match &leader.address {
            Some(address) => format!(" at '{}'", Printable(address.as_bytes())),
            None => String::new(),
        };
        let since = match leader.since {
            Some(since) => format!(", since {}", humantime::format_rfc3339_seconds(since)),
            None => String::new(),
        };
        return format!("'{name}' leads{address}, token {token}, lease {lease}{since}.");
    }
    match &situation.without_lease {
        Some((by_hand, value)) => {
            let value = Printable(value);
            let suffix = match by_hand {
                ElectionKey::Leader => "",
                ElectionKey::Acting => "/acting",
            };
            format!(
                "Nobody leads, and nobody can until somebody deletes the key '{key}{suffix}', which \
                 is bound to no lease and holds '{value}'{}.",
                acting()
            )
        }
        None => format!("Nobody leads{}.", acting()),
    }
}

/// Says who may be acting.
pub(super) fn who_acts(acting: &Acting) -> String {
    match &acting.record.name {
        Some(name) => format!("'{}'", Printable(name.as_bytes())),
        None => "somebody".to_owned(),
    }
}

/// By when a lease ends at the latest, unless it is renewed: etcd tells whole seconds.
pub(super) fn end_of(lease: LeaseTime) -> SystemTime {
    wall_clock::now() + lease.remaining + Duration::from_secs(1)
}

/// Tells as JSON how things stand.
pub(super) fn object(situation: &ElectionState) -> Map<String, Value> {
    let leader = situation.leader.as_ref().map(leader_object);
    let acting = situation.acting.as_ref().map(|acting| {
        let record = &acting.record;
        let mut object = optional_text("name", record.name.as_deref());
        let lease = acting.lease.map(|lease| lease.to_string());
        object.insert("lease".to_owned(), json!(lease));
        object.insert("since".to_owned(), date(record.since));
        object.extend(optional_text("address", record.address.as_deref()));
        object
    });
    let state = match (&leader, &situation.without_lease, &acting) {
        (Some(_), ..) => "led",
        (None, Some(_), _) => "blocked",
        (None, None, Some(_)) => "ending",
        (None, None, None) => "vacant",
    };
    let mut object = Map::new();
    object.insert("state".to_owned(), json!(state));
    object.insert("leader".to_owned(), json!(leader));
    object.insert("acting".to_owned(), json!(acting));
    object.insert("revision".to_owned(), json!(situation.revision));
    object
}

/// Renders a leader as JSON.
pub(super) fn leader_object(leader: &Leader) -> Map<String, Value> {
    let mut object = text("name", &leader.name);
    object.insert("token".to_owned(), json!(leader.token.get()));
    object.insert("lease".to_owned(), json!(leader.lease.to_string()));
    object.insert("since".to_owned(), date(leader.since));
    object.extend(optional_text("address", leader.address.as_deref()));
    object
}

pub(super) fn date(moment: Option<SystemTime>) -> Value {
    json!(moment.map(|moment| humantime::format_rfc3339_seconds(moment).to_string()))
}

pub(super) fn optional_text(field: &str, text_of: Option<&str>) -> Map<String, Value> {
    match text_of {
        Some(value) => text(field, value.as_bytes()),
        None => Map::from_iter([(field.to_owned(), Value::Null)]),
    }
}

/// A text in a field of that name; what is not UTF-8 or too long is told as well as it can be, and
/// said to be.
pub(super) fn text(field: &str, bytes: &[u8]) -> Map<String, Value> {
    let shown = &bytes[..bytes.len().min(Printable::LONGEST)];
    let text = String::from_utf8_lossy(shown);
    let mut object = Map::new();
    if text.as_bytes() != bytes {
        object.insert(format!("{field}_is_exact"), json!(false));
    }
    object.insert(field.to_owned(), json!(text));
    object
}

/// Writes an object as one line of JSON, in which nothing does harm to a terminal either.
pub(super) fn line(object: Map<String, Value>) -> String {
    let mut line = String::new();
    for character in Value::Object(object).to_string().chars() {
        if character.is_ascii() && !character.is_ascii_control()
            || character.escape_debug().count() == 1
        {
            line.push(character);
            continue;
        }
        // Only within strings do others occur.
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
    fn a_text_that_is_not_told_exactly_says_so() {
        assert_eq!(line(text("name", "Zoë".as_bytes())), r#"{"name":"Zoë"}"#);
        let invalid = line(text("name", b"a\xff"));
        assert_eq!(invalid, r#"{"name":"a�","name_is_exact":false}"#);
        assert!(line(text("name", &[b'x'; 256])).contains("false"));
    }

    proptest! {
        #[test]
        fn a_line_is_json_that_says_the_same_without_characters_that_do_harm(value: String) {
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
