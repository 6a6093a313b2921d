//! The values of an election's keys other than `KEY`: JSON objects.
//!
//! Only the presence of a key counts, not its value, because anyone who may write the key can choose
//! the value. A field that cannot be read is left out. An unknown field is ignored, because a later
//! version may have written it.

mod acting;
mod challenge;
mod done;
mod next;
mod seat;
mod term;

pub use acting::ActingRecord;
pub(crate) use challenge::ChallengeRecord;
pub use done::DoneRecord;
pub(crate) use next::NextRecord;
pub use seat::SeatRecord;
pub use term::TermRecord;

use crate::protocol::FailOverLimit;
use serde_json::Value;
use std::time::{Duration, SystemTime};

/// The end of the year 9999, in seconds since 1970: a later time cannot be written as a date.
const LAST_SECOND: u64 = 253_402_300_799;

/// Returns the fail-over limit that a record holds in milliseconds; any other value is none.
pub(super) fn limit_from(milliseconds: &Value) -> Option<FailOverLimit> {
    let limit = Duration::from_millis(milliseconds.as_u64()?);
    FailOverLimit::try_from(limit).ok()
}

/// Returns a time in whole seconds since 1970, as a record holds it.
pub(super) fn seconds(time: SystemTime) -> Option<u64> {
    let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH).ok();
    since_1970.map(|time| time.as_secs())
}

/// Returns the time that a record holds, if it can be written as a date.
pub(super) fn time_from(seconds: &Value) -> Option<SystemTime> {
    let seconds = seconds.as_u64().filter(|seconds| *seconds <= LAST_SECOND)?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}
