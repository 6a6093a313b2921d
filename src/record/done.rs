//! The record of a completed job, in `KEY/done/ID`.

use super::{seconds, time_from};
use crate::{protocol::FencingToken, wall_clock};
use serde_json::{Value, json};
use std::time::SystemTime;

/// The record of a completed job. A field that cannot be read is `None`. If the key exists, the job is
/// done, no matter what its value is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DoneRecord {
    /// The name of the candidate that completed the job.
    pub name: Option<String>,
    /// The fencing token of the term in which the job was completed.
    pub token: Option<FencingToken>,
    /// When the candidate created the record, by its own wall clock.
    pub at: Option<SystemTime>,
}

impl DoneRecord {
    /// Creates the record of a job that is completed now.
    pub(crate) fn now(name: &str, token: FencingToken) -> Self {
        Self {
            name: Some(name.to_owned()),
            token: Some(token),
            at: Some(wall_clock::now()),
        }
    }

    /// Returns the value of the key: a JSON object.
    pub(crate) fn encode(&self) -> String {
        let mut object = json!({ "name": self.name });
        if let Some(token) = self.token {
            object["token"] = json!(token.get());
        }
        if let Some(at) = self.at.and_then(seconds) {
            object["at"] = json!(at);
        }
        object.to_string()
    }

    /// Reads the value of a key, which may be anything; a field that cannot be read is `None`.
    #[must_use]
    pub fn decode(value: &[u8]) -> Self {
        let object: Value = serde_json::from_slice(value).unwrap_or_default();
        Self {
            name: object["name"].as_str().map(str::to_owned),
            token: object["token"].as_i64().map(FencingToken::new),
            at: time_from(&object["at"]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_written_can_be_read_and_later_versions_are_understood() {
        let record = DoneRecord {
            at: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)),
            ..DoneRecord::now("Zoë \"1\"", FencingToken::new(i64::MAX))
        };
        assert_eq!(DoneRecord::decode(record.encode().as_bytes()), record);
        let later = DoneRecord::decode(br#"{"name":7,"token":"x","at":-1,"by":[1]}"#);
        assert_eq!(later, DoneRecord::default());
        assert_eq!(DoneRecord::decode(b"\xff"), DoneRecord::default());
    }
}
