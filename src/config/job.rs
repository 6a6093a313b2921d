//! Jobs that run once.

use super::{InvalidText, check_text};
use std::{fmt, str::FromStr};

/// The ID of a job that runs once: a text with the same restrictions as a [`Name`](super::Name).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobId(String);

impl JobId {
    /// Returns the ID as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for JobId {
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        check_text(text)?;
        Ok(Self(text.to_owned()))
    }
}
