//! The program: command line, log, signals, COMMAND, health, HTTP, and the commands for operators.

mod cli;
mod descriptors;
mod exec;
mod exit_code;
mod health;
mod http;
mod log;
mod notify;
mod ops;
mod presence;
mod render;
mod report;
mod run;
mod signals;
mod terms;
mod workload;

pub use run::run;
