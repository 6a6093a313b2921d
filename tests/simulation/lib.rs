//! The simulator as a crate of its own, so that it can be optimized when the other tests are not.
// The protocol's own tests, which clippy would compile here as well, belong to the package under test.
#![cfg(not(test))]
#![allow(
    clippy::must_use_candidate,
    reason = "only the project's own tests and benches use it"
)]

// The state machine is compiled here as well: it is most of what the simulator runs.
#[doc(hidden)]
#[path = "../../src"]
pub mod src {
    pub mod protocol;
}

pub mod command;
#[path = "mod.rs"]
mod simulation;

use src::protocol;

pub use simulation::{
    plan::{Kind, Mix},
    run::{Tally, describe, report, run_many, trace},
};
