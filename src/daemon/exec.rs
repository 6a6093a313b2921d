//! Runs COMMAND while this replica leads, and sees to its end in time.

mod guard;
mod launch;
mod lookup;
mod messages;
mod reaping;
mod revoke;
mod schedule;
mod supervisor;

pub(super) use guard::run_if_guard;
pub(super) use lookup::check_command;
pub(super) use revoke::release;
pub(super) use supervisor::{Ended, Wrapper};
