//! A line that a process has printed.

use serde_json::Value;
use std::time::Instant;

/// Where a line was printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, and standard error as well for a script.
    Out,
    /// Standard error.
    Err,
}

/// A line, and when it was read.
#[derive(Clone, Debug)]
pub struct Line {
    /// When it was read.
    pub at: Instant,
    /// Where it was printed.
    pub stream: Stream,
    /// Its bytes, without the new line.
    pub bytes: Vec<u8>,
}

impl Line {
    /// Returns the line as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// Returns the line as an object of `--log-format json`, if it is one.
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.bytes)
            .ok()
            .filter(Value::is_object)
    }

    /// Returns a field of that object as text.
    pub fn field(&self, name: &str) -> Option<String> {
        match self.json()?.get(name)? {
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }

    /// Returns the object's message, or the whole line if it is no object.
    pub fn message(&self) -> String {
        self.field("message").unwrap_or_else(|| self.text())
    }

    /// Whether it is a warning or worse.
    pub fn is_warning(&self) -> bool {
        match self.field("level") {
            Some(level) => level == "WARN" || level == "ERROR",
            None => ["WARN ", "ERROR "]
                .iter()
                .any(|level| self.text().starts_with(level)),
        }
    }

    /// Whether it warns of an etcd that is too old for the guarantees.
    pub fn warns_of_outdated_etcd(&self) -> bool {
        self.message()
            .contains("may return stale data after a pause")
    }
}
