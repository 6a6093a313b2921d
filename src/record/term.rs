//! The record of a term, in `KEY/history/TOKEN`.

use super::{seconds, time_from};
use crate::{printable::Printable, protocol::FencingToken, wall_clock};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

/// The record of a term. A field that cannot be read is `None`. The holder writes the record when the term
/// begins, and again once it has stopped acting.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TermRecord {
    /// The fencing token of the term. It is a part of the key.
    pub token: FencingToken,
    /// The name of the candidate that led.
    pub name: Option<String>,
    /// How to reach it while it led.
    pub address: Option<String>,
    /// When it began to act, by its own wall clock.
    pub since: Option<SystemTime>,
    /// How it came to lead: [`ELECTED`](Self::ELECTED), [`HANDED_OVER`](Self::HANDED_OVER),
    /// [`TOOK_OVER`](Self::TOOK_OVER), or what a later version writes.
    pub came: Option<String>,
    /// For how long nobody acted before this term, by the holder's own clock: from the moment when it saw
    /// that the previous term had ended until it began to act. `None` if it did not see that.
    pub gap: Option<Duration>,
    /// When its holder had stopped acting, by the holder's own wall clock. `None` before that, if the
    /// holder crashed or was cut off, or if etcd refused this record.
    pub until: Option<SystemTime>,
    /// Why the term ended, in its holder's words.
    pub ended: Option<String>,
    /// The reason for programs: [`LossReason::as_str`](crate::LossReason::as_str).
    pub ended_as: Option<String>,
}

impl TermRecord {
    /// How many terms are kept.
    pub(crate) const KEPT: usize = 32;
    /// The candidate won a campaign.
    pub const ELECTED: &str = "elected";
    /// The previous leader handed its term over.
    pub const HANDED_OVER: &str = "handed_over";
    /// The candidate took over from a leader that did not respond to a challenge.
    pub const TOOK_OVER: &str = "took_over";

    /// Creates the record of a term that begins now.
    pub(crate) fn now(token: FencingToken, name: &str, address: Option<&str>, came: &str) -> Self {
        Self {
            name: Some(name.to_owned()),
            address: address.map(str::to_owned),
            since: Some(wall_clock::now()),
            came: Some(came.to_owned()),
            ..Self::unknown(token)
        }
    }

    fn unknown(token: FencingToken) -> Self {
        Self {
            token,
            name: None,
            address: None,
            since: None,
            came: None,
            gap: None,
            until: None,
            ended: None,
            ended_as: None,
        }
    }

    /// Returns the value of the key: a JSON object.
    pub(crate) fn encode(&self) -> String {
        let gap = self
            .gap
            .map(|gap| u64::try_from(gap.as_millis()).unwrap_or(u64::MAX));
        let fields = [
            ("name", json!(self.name)),
            ("address", json!(self.address)),
            ("since", json!(self.since.and_then(seconds))),
            ("came", json!(self.came)),
            ("gap_ms", json!(gap)),
            ("until", json!(self.until.and_then(seconds))),
            ("ended", json!(self.ended)),
            ("ended_as", json!(self.ended_as)),
        ];
        let known = fields.into_iter().filter(|(_, value)| !value.is_null());
        let known = known.map(|(field, value)| (field.to_owned(), value));
        Value::Object(known.collect()).to_string()
    }

    /// Reads the value of a term's key, which may be anything. A field that cannot be read is `None`. A
    /// text that is too long to be shown is cut, but stays longer than what is shown.
    #[must_use]
    pub fn decode(token: FencingToken, value: &[u8]) -> Self {
        let object: Value = serde_json::from_slice(value).unwrap_or_default();
        let text = |field: &str| object[field].as_str().map(shortened);
        Self {
            token,
            name: text("name"),
            address: text("address"),
            since: time_from(&object["since"]),
            came: text("came"),
            gap: object["gap_ms"].as_u64().map(Duration::from_millis),
            until: time_from(&object["until"]),
            ended: text("ended"),
            ended_as: text("ended_as"),
        }
    }

    /// Returns how long the term lasted, in whole seconds. `None` if its record lacks the beginning or the
    /// end, or if the holder's wall clock was set back meanwhile.
    #[must_use]
    pub fn lasted(&self) -> Option<Duration> {
        self.until?.duration_since(self.since?).ok()
    }
}

/// Cuts the part of a text that is never shown. A cut text is still longer than what is shown.
fn shortened(text: &str) -> String {
    let mut places = text.char_indices().map(|(place, _)| place);
    let end = places.find(|place| *place > Printable::LONGEST);
    text[..end.unwrap_or(text.len())].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: FencingToken = FencingToken::new(i64::MAX);

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn begun() -> TermRecord {
        TermRecord {
            since: Some(at(1_700_000_000)),
            ..TermRecord::now(TOKEN, "Zoë \"1\"", None, TermRecord::ELECTED)
        }
    }

    #[test]
    fn what_is_written_can_be_read_and_what_is_not_known_is_not_written() {
        let ended = TermRecord {
            address: Some("http://10.0.0.1".to_owned()),
            gap: Some(Duration::from_millis(2345)),
            until: Some(at(1_700_000_007)),
            ended: Some("the leader key was deleted".to_owned()),
            ended_as: Some("leader_key_deleted".to_owned()),
            ..begun()
        };
        for record in [begun(), ended.clone()] {
            let read = TermRecord::decode(TOKEN, record.encode().as_bytes());
            assert_eq!(read, record);
        }
        assert_eq!(
            begun().encode(),
            r#"{"came":"elected","name":"Zoë \"1\"","since":1700000000}"#
        );
        assert_eq!(begun().lasted(), None);
        assert_eq!(ended.lasted(), Some(Duration::from_secs(7)));
    }

    #[test]
    fn later_versions_and_unreadable_values_are_understood_as_far_as_possible() {
        let later = br#"{"came":"taken_over","gap_ms":-1,"until":"x","ended":[1],"limit":{}}"#;
        let expected = TermRecord {
            came: Some("taken_over".to_owned()),
            ..TermRecord::unknown(TOKEN)
        };
        assert_eq!(TermRecord::decode(TOKEN, later), expected);
        for unreadable in [&b"\xff"[..], b"7", b"[]", b""] {
            let read = TermRecord::decode(TOKEN, unreadable);
            assert_eq!(read, TermRecord::unknown(TOKEN));
        }
    }

    #[test]
    fn a_text_that_is_too_long_stays_too_long() {
        for (text, length) in [
            ("é".repeat(127), 254),
            ("é".repeat(9999), 256),
            ("x".repeat(9999), 256),
        ] {
            assert_eq!(shortened(&text).len(), length);
        }
    }

    #[test]
    fn a_clock_that_was_set_back_gives_no_duration() {
        let until = Some(at(1_600_000_000));
        let record = TermRecord { until, ..begun() };
        assert_eq!(record.lasted(), None);
    }
}
