mod candidate;
mod harness;
mod job;
mod leader;
mod property;
mod waiting;
