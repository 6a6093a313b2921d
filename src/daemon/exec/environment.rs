//! The part of this program's environment that COMMAND does not get.

use std::process::Command;

/// Variables that are meant for this program alone: the password, and what a service manager passes
/// to the process that it has started.
const PRIVATE_VARIABLES: [&str; 9] = [
    "LEADER_ELECTION_ETCD_PASSWORD",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "JOURNAL_STREAM",
];

/// Removes the variables that are meant for this program alone from the environment of `command`.
pub(super) fn remove_private_variables(command: &mut Command) {
    for variable in PRIVATE_VARIABLES {
        command.env_remove(variable);
    }
}
