//! Runs the simulator on demand: any number of schedules, from any seed, or one with its trace.

use leader_election::protocol;

#[path = "../tests/simulation/command.rs"]
mod command;
#[path = "../tests/simulation/mod.rs"]
mod simulation;

fn main() -> std::process::ExitCode {
    command::main()
}
