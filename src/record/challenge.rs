//! The value of `KEY/challenge`: who asks the leader to show that it is alive.

use serde_json::json;

/// A challenge. Any value counts; this one is for people.
pub(crate) struct ChallengeRecord;

impl ChallengeRecord {
    /// Returns the value of the key: a JSON object.
    pub fn encode(name: &str) -> String {
        json!({ "name": name }).to_string()
    }
}
