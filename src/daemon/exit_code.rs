//! The exit codes of the program.
//!
//! Besides these, clap ends the program with 2 if the command line is invalid, and COMMAND's own exit
//! code becomes the program's.

use tokio::signal::unix::SignalKind;

/// The program stopped as requested.
pub(super) const SUCCESS: u8 = 0;
/// An unrecoverable error.
pub(super) const ERROR: u8 = 1;
/// A command found no leader, or no record.
pub(super) const NOTHING_FOUND: u8 = 3;
/// This replica was not elected within `--wait`: `EX_TEMPFAIL` of `sysexits.h`.
pub(super) const NOT_ELECTED: u8 = 75;
/// An unrecoverable error of a daemon with a COMMAND: the codes below 125 are COMMAND's, as with
/// `env` and `timeout`.
pub(super) const OWN_FAILURE: u8 = 125;
/// COMMAND cannot be executed.
pub(super) const NOT_EXECUTABLE: u8 = 126;
/// There is no such COMMAND.
pub(super) const NOT_FOUND: u8 = 127;

/// Returns the exit code that a shell has for a process which this signal ended.
pub(super) fn of_signal(signal: SignalKind) -> u8 {
    u8::try_from(128 + signal.as_raw_value()).unwrap_or(ERROR)
}
