mod candidate;
mod harness;
mod leader;
mod property;
