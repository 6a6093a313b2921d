//! The outcome of a term, and its record as JSON.

use super::render::{date, optional_text};
use crate::{protocol::Entry, record::TermRecord, wall_clock};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// The election's two keys.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Keys {
    pub leader: Option<Entry>,
    pub acting: Option<Entry>,
}

/// What became of a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Its holder leads.
    Leads,
    /// Its holder no longer leads, and may still be acting.
    Ending,
    /// Its record says how it ended.
    Ended,
    /// Its holder crashed or was cut off, or etcd refused the end of the record.
    CutOff,
    /// Its record cannot be read, or does not suffice.
    Unknown,
}

impl State {
    /// Judges a term by its record and both keys, as of one revision.
    pub fn of(term: &TermRecord, keys: &Keys) -> Self {
        let is_of_term = |key: &Option<Entry>| {
            key.as_ref()
                .is_some_and(|key| key.lease.is_some() && key.mod_revision == term.token.get())
        };
        match (is_of_term(&keys.leader), is_of_term(&keys.acting)) {
            (true, true) => Self::Leads,
            (false, true) => Self::Ending,
            _ if term.until.is_some() || term.ended.is_some() => Self::Ended,
            // Every holder writes its name.
            _ if term.name.is_none() => Self::Unknown,
            _ => Self::CutOff,
        }
    }

    /// Judges a term that was `known` with others before the keys were last read; these are not known
    /// either if etcd has not responded for too long.
    pub fn as_last_read(term: &TermRecord, known: &[TermRecord], keys: Option<&Keys>) -> Self {
        const NONE: Keys = Keys {
            leader: None,
            acting: None,
        };
        let state = Self::of(term, keys.unwrap_or(&NONE));
        let is_last = known.last().is_some_and(|last| last.token == term.token);
        match state {
            // Its end may be recorded by now.
            Self::CutOff if is_last => Self::Unknown,
            state => state,
        }
    }

    /// Returns the name that programs read; `None` if it is not known. It never changes.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::Leads => Some("leads"),
            Self::Ending => Some("ending"),
            Self::Ended => Some("ended"),
            Self::CutOff => Some("cut_off"),
            Self::Unknown => None,
        }
    }
}

/// Returns how long a term lasted, or has lasted so far if its holder leads, to the second.
pub(super) fn lasted(term: &TermRecord, state: State) -> Option<Duration> {
    let lasted = match state {
        State::Leads => wall_clock::now().duration_since(term.since?).ok()?,
        _ => term.lasted()?,
    };
    Some(Duration::from_secs(lasted.as_secs()))
}

/// Returns the JSON fields of a term; what its record does not say is null.
pub(super) fn fields(term: &TermRecord, state: State) -> Map<String, Value> {
    let mut fields = optional_text("name", term.name.as_deref());
    fields.insert("token".to_owned(), json!(term.token.get()));
    fields.extend(optional_text("address", term.address.as_deref()));
    fields.insert("since".to_owned(), date(term.since));
    fields.insert("until".to_owned(), date(term.until));
    let lasted = lasted(term, state).map(|lasted| lasted.as_secs());
    fields.insert("lasted".to_owned(), json!(lasted));
    fields.extend(optional_text("came", term.came.as_deref()));
    let gap = term.gap.map(|gap| gap.as_secs_f64());
    fields.insert("gap".to_owned(), json!(gap));
    fields.extend(optional_text("ended", term.ended.as_deref()));
    fields.extend(optional_text("ended_as", term.ended_as.as_deref()));
    fields.insert("state".to_owned(), json!(state.name()));
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::LeaseId;

    fn term(token: i64, fields: &str) -> TermRecord {
        let token = crate::protocol::FencingToken::new(token);
        TermRecord::decode(token, fields.as_bytes())
    }

    fn keys(leader: i64, acting: i64) -> Keys {
        let key = |mod_revision: i64| {
            (mod_revision != 0).then(|| Entry {
                create_revision: mod_revision,
                settings: crate::protocol::TermSettings::default(),
                value: b"a"[..].into(),
                lease: Some(LeaseId::new(1)),
                mod_revision,
            })
        };
        Keys {
            leader: key(leader),
            acting: key(acting),
        }
    }

    #[test]
    fn a_term_without_an_end_was_cut_off_only_if_its_end_cannot_be_missing_here() {
        let open = r#"{"name":"a"}"#;
        let known = [
            term(5, open),
            term(6, r#"{"name":"a","until":1}"#),
            term(7, open),
        ];
        let states = |keys: Option<Keys>| {
            [0, 1, 2].map(|place| State::as_last_read(&known[place], &known, keys.as_ref()))
        };
        let before = [State::CutOff, State::Ended];
        for (keys, last) in [
            (Some(keys(7, 7)), State::Leads),
            (Some(keys(0, 7)), State::Ending),
            // The next leader's record, or the end of this one, was not read yet.
            (Some(keys(8, 8)), State::Unknown),
            (Some(keys(0, 0)), State::Unknown),
            (None, State::Unknown),
        ] {
            assert_eq!(states(keys), [before[0], before[1], last]);
        }
        assert_eq!(State::of(&known[2], &keys(0, 0)), State::CutOff);
    }
}
