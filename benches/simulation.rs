//! Runs the simulator on demand: any number of schedules, from any seed, or one with its trace.

fn main() -> std::process::ExitCode {
    simulation::command::main()
}
