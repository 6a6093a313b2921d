//! The body of `GET /presence`, which lasts as long as the leader's term.
//!
//! It consists of lines. The first one, `token N`, names the term by its fencing token. A line `alive` follows four
//! times in each fail-over limit, and `goodbye` when the term ends in order. A later version may send other lines; each
//! of them counts as a sign of life.

use crate::protocol::{FailOverLimit, FencingToken};
use std::time::Duration;

/// The path of the response.
pub(in crate::daemon) const PATH: &str = "/presence";
/// A sign of life.
pub(in crate::daemon) const ALIVE: &str = "alive\n";
/// The last line of a term that ends in order.
pub(in crate::daemon) const GOODBYE: &str = "goodbye\n";

/// Returns the first line of a term's body.
pub(in crate::daemon) fn first_line(token: FencingToken) -> String {
    format!("token {token}\n")
}

/// Returns the time between two signs of life in a term with this limit.
pub(in crate::daemon) fn pace(limit: FailOverLimit) -> Duration {
    limit.as_duration() / 4
}
