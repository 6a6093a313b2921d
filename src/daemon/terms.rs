//! Renders the records of terms as JSON.

use super::render::{date, optional_text};
use crate::record::TermRecord;
use serde_json::{Map, Value, json};

/// Returns the JSON fields of a term; what its record does not say is null.
pub(super) fn fields(term: &TermRecord) -> Map<String, Value> {
    let mut fields = optional_text("name", term.name.as_deref());
    fields.insert("token".to_owned(), json!(term.token.get()));
    fields.extend(optional_text("address", term.address.as_deref()));
    fields.insert("since".to_owned(), date(term.since));
    fields.insert("until".to_owned(), date(term.until));
    let lasted = term.lasted().map(|lasted| lasted.as_secs());
    fields.insert("lasted".to_owned(), json!(lasted));
    fields.extend(optional_text("came", term.came.as_deref()));
    let gap = term.gap.map(|gap| gap.as_secs_f64());
    fields.insert("gap".to_owned(), json!(gap));
    fields.extend(optional_text("ended", term.ended.as_deref()));
    fields.extend(optional_text("ended_as", term.ended_as.as_deref()));
    fields
}
