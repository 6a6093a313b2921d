//! Runs COMMAND while this replica leads, and ends it in time.
//!
//! ```text
//! daemon ---- socket ---- guard ---- COMMAND ---- whatever it starts
//! ```
//!
//! Another helper process runs the health command. From its results, the daemon decides whether it may
//! lead:
//!
//! ```text
//! daemon ---- socket ---- health runner ---- health command ---- whatever it starts
//! ```
//!
//! The daemon starts a guard for each term: a second, small process of this program. The guard starts
//! COMMAND, stops it and kills it. If the daemon or the guard dies, the other one kills all processes
//! that are left.
//!
//! - `supervisor`: what the daemon does over all terms.
//! - `guarded_run`: what the daemon does in one term.
//! - `guard`: what the guard does.
//! - `schedule`: when COMMAND is asked to stop (SIGTERM, by default), and when it is killed (SIGKILL).
//! - `stopping`: which of COMMAND's processes are asked to stop.
//! - `reaping`: how COMMAND and all its descendants are killed.
//! - `launch`: how a guard is started.
//! - `children`: which of its children the daemon kills, and how the daemon reaps them.
//! - `helper`: how a guard or a health runner begins.
//! - `health`: how the health command is run.
//! - `messages`: what the daemon and the guard send each other.
//! - `revoke`: how the lease of a daemon that is gone is revoked.
//! - `lookup`: how COMMAND is checked before the election.
//! - `orphans`: how a daemon without COMMAND reaps the orphans that it adopts.
//! - `command_log`: the log lines about COMMAND.
//! - `bounded_run`: how an observer runs a COMMAND of its own, without a guard.
//! - `environment`: which variables COMMAND's environment does not contain.

mod bounded_run;
mod children;
mod command_log;
mod environment;
mod guard;
mod guarded_run;
mod health;
mod helper;
mod launch;
mod lookup;
mod messages;
mod orphans;
mod reaping;
mod revoke;
mod schedule;
mod stopping;
mod supervisor;

use std::time::Duration;

pub(super) use bounded_run::{BoundedRunner, RunEvent};
pub(super) use children::Children;
pub(super) use guard::run_if_guard;
pub(super) use guarded_run::RunOutcome;
pub(super) use health::{HealthEvent, HealthRuns, Outcome, run_if_health_runner};
pub(super) use launch::name_revoking_process;
pub(super) use lookup::check_command;
pub(super) use orphans::Orphans;
pub(super) use reaping::ChildEnd;
pub(super) use revoke::revoke_lease;
pub(super) use supervisor::Supervisor;

/// How long killing COMMAND may take after a second signal to stop.
pub(super) const KILL_TIMEOUT: Duration = Duration::from_secs(1);
