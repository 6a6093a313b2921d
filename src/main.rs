//! The `leader-election` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    leader_election::daemon::run()
}
