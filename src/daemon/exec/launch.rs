//! Starts another process of this program: to guard a COMMAND, to revoke the lease of a dead daemon,
//! or to run the health command.
//!
//! The first two get the daemon's own command line, so that they have the same options and settings as
//! the daemon:
//!
//! ```text
//! leader-election --guard LEASE SIGNAL OPTIONS -- COMMAND
//! leader-election OPTIONS --release LEASE
//! leader-election --health-runner INTERVAL TIMEOUT COMMAND
//! ```

use super::{environment::remove_private_variables, messages::send_stdin};
use crate::{daemon::cli::HealthCheck, protocol::LeaseId};
use rustix::process::{Pid, Signal};
use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Command, Stdio},
    time::Duration,
};
use tokio::net::UnixStream;

/// The first argument of a guard.
const GUARD: &str = "--guard";
/// The first argument of the process that runs the health command.
const HEALTH_RUNNER: &str = "--health-runner";
/// The option that makes this program revoke a lease, and do nothing else.
const RELEASE: &str = "--release";
/// This program's file, even if it was replaced or deleted since.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// How many times the revoking program is started if a signal ends it.
const RELEASE_ATTEMPTS: usize = 5;

/// Starts a guard that keeps COMMAND within a term, and stops it with `stop_signal`; returns its
/// process, and this end of the socket between the two.
///
/// # Errors
/// If the system is short of processes or file descriptors.
pub(super) fn start_guard(
    lease: LeaseId,
    stop_signal: Signal,
    environment: &[(&str, String)],
) -> io::Result<(Pid, UnixStream)> {
    let (socket, socket_of_guard) = socket_pair()?;
    send_stdin(&socket)?;
    let guard = this_program()
        .args([GUARD, &lease.to_string()])
        .arg(stop_signal.as_raw().to_string())
        .args(env::args_os().skip(1))
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::from(socket_of_guard))
        .spawn()?;
    Ok((Pid::from_child(&guard), socket))
}

/// Starts the process that runs the health command; returns it, and this end of the socket between the two.
///
/// # Errors
/// If the system is short of processes or file descriptors.
pub(super) fn start_health_runner(check: &HealthCheck) -> io::Result<(Pid, UnixStream)> {
    let (socket, socket_of_runner) = socket_pair()?;
    let mut runner = this_program();
    runner
        .arg(HEALTH_RUNNER)
        .args([check.interval, check.timeout].map(|time| time.as_nanos().to_string()))
        .arg(&check.command)
        .stdin(Stdio::from(socket_of_runner))
        // It reports everything over the socket, and so nothing that it runs can hold these open.
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    remove_private_variables(&mut runner);
    let runner = runner.spawn()?;
    Ok((Pid::from_child(&runner), socket))
}

/// Returns this program, under the name that it was started with.
fn this_program() -> Command {
    let mut command = Command::new(THIS_PROGRAM);
    if let Some(program) = env::args_os().next() {
        command.arg0(program);
    }
    command
}

/// Returns this end of a socket, and the other one for a helper.
fn socket_pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (socket, socket_of_helper) = std::os::unix::net::UnixStream::pair()?;
    socket.set_nonblocking(true)?;
    Ok((UnixStream::from_std(socket)?, socket_of_helper.into()))
}

/// Names a process that revokes a lease, as `ps` shows it: the kernel names it after the last part
/// of [`THIS_PROGRAM`].
pub(in crate::daemon) fn name_revoking_process() {
    // Without its name, it does its work just as well.
    let _ = rustix::thread::set_name(c"leader-revoke");
}

/// The command line of a guard.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GuardArguments {
    program: OsString,
    lease: OsString,
    /// The signal that asks COMMAND to stop.
    pub stop_signal: Signal,
    /// The daemon's options.
    options: Vec<OsString>,
    /// COMMAND with its arguments.
    pub command: Vec<OsString>,
}

impl GuardArguments {
    /// Parses a command line; returns `None` if it is not that of a guard.
    pub fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<Self> {
        let program = arguments.next()?;
        if arguments.next()? != GUARD {
            return None;
        }
        Some(Self {
            program,
            lease: arguments.next()?,
            stop_signal: Signal::from_named_raw(arguments.next()?.to_str()?.parse().ok()?)?,
            options: arguments
                .by_ref()
                .take_while(|argument| argument != "--")
                .collect(),
            command: arguments.collect(),
        })
    }

    /// Runs this program with `--release` and the daemon's options, so that it revokes the daemon's
    /// lease. If that fails, the lease expires.
    ///
    /// # Errors
    /// If no process can be started.
    pub fn run_release(&self) -> io::Result<()> {
        let mut release = Command::new(THIS_PROGRAM);
        release
            .arg0(&self.program)
            .args(&self.options)
            .args([OsStr::new(RELEASE), &self.lease])
            .stdin(Stdio::null());
        // A service manager that has killed the daemon may send SIGTERM to all that is left, which
        // ends this process unless it listens to signals already.
        for _ in 0..RELEASE_ATTEMPTS {
            if release.status()?.code().is_some() {
                break;
            }
        }
        Ok(())
    }
}

/// The command line of the process that runs the health command.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HealthArguments {
    /// The time from start to start.
    pub interval: Duration,
    /// How long a run may take.
    pub timeout: Duration,
    /// What `sh -c` runs.
    pub command: OsString,
}

impl HealthArguments {
    /// Parses a command line; returns `None` if it is not that of this process.
    pub fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<Self> {
        if arguments.nth(1)? != HEALTH_RUNNER {
            return None;
        }
        let mut time = || {
            let nanos = arguments.next()?.to_str()?.parse().ok()?;
            Some(Duration::from_nanos(nanos))
        };
        let (interval, timeout) = (time()?, time()?);
        Some(Self {
            interval,
            timeout,
            command: arguments.next()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Option<GuardArguments> {
        GuardArguments::parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn a_guard_gets_the_options_of_its_daemon_and_the_whole_command() {
        let arguments = parse("program --guard 7b 3 --ttl 2s -- run --guard -- it").unwrap();
        assert_eq!(arguments.program, "program");
        assert_eq!(arguments.lease, "7b");
        assert_eq!(arguments.stop_signal, Signal::QUIT);
        assert_eq!(arguments.options, ["--ttl", "2s"]);
        assert_eq!(arguments.command, ["run", "--guard", "--", "it"]);
    }

    #[test]
    fn the_health_runner_gets_its_times_and_its_command() {
        let parse = |words: &[&str]| HealthArguments::parse(words.iter().map(OsString::from));
        let arguments = parse(&["program", "--health-runner", "1000", "10", "test ! -e x"]);
        let expected = HealthArguments {
            interval: Duration::from_micros(1),
            timeout: Duration::from_nanos(10),
            command: "test ! -e x".into(),
        };
        assert_eq!(arguments, Some(expected));
        for line in [
            &["program", "--health-runner", "1000", "10"][..],
            &["program", "--health-runner", "1s", "10", "true"],
            &["program", "true", "--health-runner", "1000", "10"],
        ] {
            assert_eq!(parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn only_a_command_line_that_begins_with_guard_is_that_of_a_guard() {
        for line in [
            "program",
            "program --guard",
            "program --guard 7b --ttl 2s -- it",
            "program --ttl 2s -- --guard 7b",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
