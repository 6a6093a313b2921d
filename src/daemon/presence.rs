//! The presence of a leader, as its followers see it.

mod body;

pub(super) use body::{ALIVE, GOODBYE, PATH, first_line, pace};
