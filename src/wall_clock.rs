//! The wall clock, for times that people read. The election never uses it, because it may be set
//! back at any time.

use std::time::SystemTime;

/// Returns the present time of day.
#[allow(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the wall clock"
)]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}
