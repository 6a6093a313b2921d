mod candidate;
mod handover;
mod harness;
mod job;
mod leader;
mod property;
mod registry;
mod waiting;
