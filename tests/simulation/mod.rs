//! Drives several machines of `protocol` against a model of etcd, through simulated time and
//! injected faults, and checks at every step what the protocol promises.
//!
//! A schedule is all that happens from one seed; the same seed gives the same schedule.

pub mod challenges;
pub mod checks;
pub mod driver;
pub mod etcd;
pub mod faults;
mod jobs;
pub mod network;
pub mod node;
pub mod plan;
pub mod reports;
pub mod run;
pub mod seats;
pub mod trace;
pub mod world;
mod yielding;

/// Nanoseconds of etcd's time since the schedule began.
pub type Time = u64;

pub const MILLI: Time = 1_000_000;
pub const SECOND: Time = 1000 * MILLI;
