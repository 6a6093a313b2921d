//! What a candidate publishes about itself in `KEY/candidates/SEAT`.

use super::{limit_from, seconds, time_from};
use crate::{
    protocol::{FailOverLimit, FencingToken},
    wall_clock,
};
use serde_json::{Value, json};
use std::time::SystemTime;

/// What a candidate publishes about itself in its seat. A field that cannot be read is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SeatRecord {
    /// Its name.
    pub name: Option<String>,
    /// How to reach it while it leads.
    pub address: Option<String>,
    /// The version of its program.
    pub version: Option<String>,
    /// When it began to take part, by its own wall clock.
    pub since: Option<SystemTime>,
    /// The fencing token of the term in which it leads, if it does.
    pub acts: Option<FencingToken>,
    /// Its priority: candidates with a higher priority come first.
    pub priority: i32,
    /// Whether it is healthy, if it reports that. An unhealthy candidate does not lead next.
    pub healthy: Option<bool>,
    /// Why it is not healthy.
    pub reason: Option<String>,
    /// The time within which it responds to a challenge when it leads; `None` if it has no fail-over
    /// limit.
    pub fail_over: Option<FailOverLimit>,
}

impl SeatRecord {
    /// The fields that describe a candidate, and not the term that is handed to it.
    const NOT_OF_A_TERM: [&str; 6] = [
        "acts",
        "version",
        "priority",
        "healthy",
        "reason",
        "took_over",
    ];

    /// Creates the record of a candidate of this version.
    pub(crate) fn new(name: &str, address: Option<&str>, since: SystemTime) -> Self {
        Self {
            name: Some(name.to_owned()),
            address: address.map(str::to_owned),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            since: Some(since),
            acts: None,
            priority: 0,
            healthy: None,
            reason: None,
            fail_over: None,
        }
    }

    /// Returns the value of the key: a JSON object.
    pub(crate) fn encode(&self) -> String {
        let mut object = json!({ "name": self.name });
        if let Some(address) = &self.address {
            object["address"] = json!(address);
        }
        if let Some(version) = &self.version {
            object["version"] = json!(version);
        }
        if let Some(since) = self.since.and_then(seconds) {
            object["since"] = json!(since);
        }
        if let Some(acts) = self.acts {
            object["acts"] = json!(acts.get());
        }
        if self.priority != 0 {
            object["priority"] = json!(self.priority);
        }
        if let Some(healthy) = self.healthy {
            object["healthy"] = json!(healthy);
        }
        if let Some(reason) = &self.reason {
            object["reason"] = json!(reason);
        }
        if let Some(limit) = self.fail_over {
            object["fail_over_ms"] = json!(limit.as_millis());
        }
        object.to_string()
    }

    /// Reads the value of a key, which may be anything; a field that cannot be read is `None`.
    #[must_use]
    pub fn decode(value: &[u8]) -> Self {
        let object: Value = serde_json::from_slice(value).unwrap_or_default();
        let text = |field: &str| object[field].as_str().map(str::to_owned);
        Self {
            name: text("name"),
            address: text("address"),
            version: text("version"),
            since: time_from(&object["since"]),
            acts: object["acts"].as_i64().map(FencingToken::new),
            priority: (object["priority"].as_i64())
                .and_then(|priority| i32::try_from(priority).ok())
                .unwrap_or(0),
            healthy: object["healthy"].as_bool(),
            reason: text("reason"),
            fail_over: limit_from(&object["fail_over_ms"]),
        }
    }

    /// Returns the values of `leader` and `leader/acting` with which a term is handed, now, to the
    /// candidate whose seat holds `value`; `None` if that does not say a name. `is_chosen`: an operator
    /// has chosen this candidate.
    ///
    /// Fields that this version does not know are copied: a later one may rely on them.
    pub(crate) fn values_for_term(value: &[u8], is_chosen: bool) -> Option<(String, String)> {
        let mut object: Value = serde_json::from_slice(value).ok()?;
        let name = object["name"].as_str()?.to_owned();
        let fields = object.as_object_mut()?;
        for field in Self::NOT_OF_A_TERM {
            fields.remove(field);
        }
        fields.remove("since");
        if let Some(since) = seconds(wall_clock::now()) {
            fields.insert("since".to_owned(), json!(since));
        }
        if is_chosen {
            fields.insert("chosen".to_owned(), json!(true));
        }
        Some((name, object.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ActingRecord;
    use std::time::Duration;

    fn record() -> SeatRecord {
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        SeatRecord {
            acts: Some(FencingToken::new(i64::MAX)),
            priority: -7,
            healthy: Some(false),
            reason: Some("exit code 1".to_owned()),
            ..SeatRecord::new("Zoë \"1\"", Some("http://10.0.0.1"), since)
        }
    }

    #[test]
    fn what_is_written_can_be_read_and_later_versions_are_understood() {
        assert_eq!(SeatRecord::decode(record().encode().as_bytes()), record());
        let later = br#"{"name":"a","acts":"x","since":-1,"healthy":[1],"priority":9e9}"#;
        let later = SeatRecord::decode(later);
        assert_eq!(later.name.as_deref(), Some("a"));
        assert_eq!((later.acts, later.since), (None, None));
        assert_eq!((later.healthy, later.priority), (None, 0));
        assert_eq!(SeatRecord::decode(b"\xff"), SeatRecord::default());
    }

    #[test]
    fn a_term_is_handed_over_with_what_the_seat_says_of_the_candidate() {
        let value = record().encode().replacen('{', r#"{"later":[7],"#, 1);
        let (name, acting) = SeatRecord::values_for_term(value.as_bytes(), false).unwrap();
        assert_eq!(name, "Zoë \"1\"");
        let since = ActingRecord::decode(acting.as_bytes()).since;
        assert!(since.is_some_and(|since| since > record().since.unwrap()));
        let acting: Value = serde_json::from_str(&acting).unwrap();
        assert_eq!(acting["address"], "http://10.0.0.1");
        assert_eq!(acting["later"], json!([7]));
        for field in ["acts", "version", "chosen", "priority", "healthy", "reason"] {
            assert!(acting[field].is_null(), "{field}");
        }
        let (_, chosen) = SeatRecord::values_for_term(value.as_bytes(), true).unwrap();
        let chosen: Value = serde_json::from_str(&chosen).unwrap();
        assert_eq!(chosen["chosen"], true);
        for unreadable in [&b"\xff"[..], b"7", br#"{"name":7}"#, b"[]"] {
            assert_eq!(SeatRecord::values_for_term(unreadable, false), None);
        }
    }
}
