#![allow(clippy::unwrap_used)]

mod candidate;
mod harness;
mod leader;
mod property;
