//! What a leader publishes about itself in `leader/acting`.
//!
//! To add a field, write it in [`ActingRecord::now`] and [`ActingRecord::encode`], read it in
//! [`ActingRecord::decode`], and show it in `src/observer.rs` and `src/daemon/render.rs`.

use super::{limit_from, seconds, time_from};
use crate::{
    protocol::{FailOverLimit, TermSettings},
    wall_clock,
};
use serde_json::{Value, json};
use std::time::SystemTime;

/// What a leader publishes about itself in `leader/acting`. A field that cannot be read is left out. Only
/// the presence of the key counts, not its value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ActingRecord {
    /// Its name.
    pub name: Option<String>,
    /// How to reach it.
    pub address: Option<String>,
    /// When the term began: by the holder's wall clock if it was elected, by its predecessor's if the term
    /// was handed over.
    pub since: Option<SystemTime>,
    /// Whether an operator has chosen the holder to lead.
    pub chosen: bool,
    /// Whether the holder took over from a leader that did not respond to a challenge.
    pub took_over: bool,
    /// The time within which the holder responds to a challenge; `None` if the term has no fail-over
    /// limit.
    pub fail_over: Option<FailOverLimit>,
}

impl ActingRecord {
    /// Creates the record of a leader whose term begins now.
    pub(crate) fn now(name: &str, address: Option<&str>) -> Self {
        Self {
            name: Some(name.to_owned()),
            address: address.map(str::to_owned),
            since: Some(wall_clock::now()),
            chosen: false,
            took_over: false,
            fail_over: None,
        }
    }

    /// Writes it as the key holds it: a JSON object.
    pub(crate) fn encode(&self) -> String {
        let mut object = json!({ "name": self.name });
        if let Some(address) = &self.address {
            object["address"] = json!(address);
        }
        if let Some(since) = self.since.and_then(seconds) {
            object["since"] = json!(since);
        }
        if self.chosen {
            object["chosen"] = json!(true);
        }
        if self.took_over {
            object["took_over"] = json!(true);
        }
        if let Some(limit) = self.fail_over {
            object["fail_over_ms"] = json!(limit.as_millis());
        }
        object.to_string()
    }

    /// Reads the value of a key, which may be anything. Fields that cannot be read are left out.
    #[must_use]
    pub fn decode(value: &[u8]) -> Self {
        let object: Value = serde_json::from_slice(value).unwrap_or_default();
        let text = |field: &str| object[field].as_str().map(str::to_owned);
        Self {
            name: text("name"),
            address: text("address"),
            since: time_from(&object["since"]),
            chosen: object["chosen"].as_bool() == Some(true),
            took_over: object["took_over"].as_bool() == Some(true),
            fail_over: limit_from(&object["fail_over_ms"]),
        }
    }

    /// Returns the fields that the protocol uses.
    pub(crate) fn settings(&self) -> TermSettings {
        TermSettings {
            is_chosen: self.chosen,
            was_taken_over: self.took_over,
            fail_over: self.fail_over,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ActingRecord;
    use proptest::prelude::*;
    use std::time::{Duration, SystemTime};

    #[test]
    fn what_is_written_can_be_read() {
        for address in [None, Some("http://10.0.0.1:80/?a=\"b\"\u{1b}")] {
            let since = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
            let record = ActingRecord {
                since: Some(since),
                ..ActingRecord::now("Zoë \\ \"1\"", address)
            };
            assert_eq!(ActingRecord::decode(record.encode().as_bytes()), record);
        }
    }

    #[test]
    fn the_first_versions_value_and_later_ones_are_understood() {
        let first = ActingRecord::decode(br#"{"name":"server1"}"#);
        assert_eq!(first.name.as_deref(), Some("server1"));
        assert_eq!((first.address, first.since), (None, None));
        let later =
            ActingRecord::decode(br#"{"limit":[1],"name":"server1","since":9e99,"address":7}"#);
        assert_eq!(later.name.as_deref(), Some("server1"));
        assert_eq!((later.address, later.since), (None, None));
    }

    proptest! {
        #[test]
        fn nothing_that_a_key_may_hold_does_any_harm(value: Vec<u8>, since: u64) {
            let _ = ActingRecord::decode(&value);
            let record = ActingRecord::decode(format!(r#"{{"since":{since}}}"#).as_bytes());
            prop_assert!(record.since.is_none_or(|it| it.duration_since(SystemTime::UNIX_EPOCH).is_ok()));
        }
    }
}
