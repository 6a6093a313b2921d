//! Kills and reaps all descendants of this process.
//!
//! When a process ends, the kernel gives its children to the nearest ancestor that is a
//! *subreaper*. So a subreaper that kills its children repeatedly until it has none has killed all
//! its descendants, no matter how often they forked and which sessions they started. The guard is
//! COMMAND's parent, and the daemon is the guard's parent. Both are subreapers: if one of them
//! dies, the other can still kill all processes that are left.
//!
//! This module kills only children. The kernel reuses the id of a process only after its parent has
//! reaped it, so a signal to a child cannot reach another process.

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait},
};
use std::{fs, io, time::Duration};

/// The time between two rounds of killing: what was killed needs a moment to end.
const KILL_INTERVAL: Duration = Duration::from_millis(1);
/// The time until a retry of what failed, for lack of file descriptors or of permission.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Processes that multiply without end must not keep the guard from its next step.
const MOST_DESCENDANTS: usize = 1000;

/// Makes this process the parent of every descendant whose own parent ends.
///
/// Returns the children that exist already, which have nothing to do with COMMAND.
///
/// # Errors
/// If the kernel does not list the children of a process.
pub(super) fn become_subreaper() -> io::Result<Vec<Pid>> {
    let children = children().map_err(|error| {
        let reason = "/proc does not list the children of a process";
        io::Error::new(error.kind(), format!("{reason}: {error}"))
    })?;
    set_child_subreaper(Some(getpid()))?;
    Ok(children)
}

/// What a round of killing has left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remaining {
    /// No child was left, except those to spare.
    Nothing,
    /// Children were killed. Their own children are this process's now, and need another round.
    Killed,
    /// This process may not kill that child, which belongs to another user.
    KillDenied(Pid),
    /// The children could not be listed, for lack of file descriptors.
    Unknown,
}

impl Remaining {
    /// Returns the time until the next round.
    pub fn next_round_in(self) -> Duration {
        match self {
            Self::Nothing | Self::Killed => KILL_INTERVAL,
            Self::KillDenied(_) | Self::Unknown => RETRY_INTERVAL,
        }
    }
}

/// Kills all present children except those to spare.
pub(super) fn kill_children(spared: &[Pid]) -> Remaining {
    let Ok(mut children) = children() else {
        return Remaining::Unknown;
    };
    children.retain(|child| !spared.contains(child));
    let mut remaining = Remaining::Nothing;
    for child in children {
        // A child that has ended and is not reaped yet takes the signal as well.
        match kill_process(child, Signal::KILL) {
            Err(Errno::PERM) => remaining = Remaining::KillDenied(child),
            _ if remaining == Remaining::Nothing => remaining = Remaining::Killed,
            _ => {}
        }
    }
    remaining
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon) enum ChildEnd {
    /// With this exit code.
    Exited(u8),
    /// By the signal with this number.
    Killed(u8),
}

impl ChildEnd {
    /// Returns the exit code that a shell would give: 128 + n for signal n.
    pub fn code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Killed(signal) => signal.saturating_add(128),
        }
    }
}

/// What [`reap`] has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaped {
    /// A child that ended, and how.
    Ended(Pid, ChildEnd),
    /// A child that was suspended by a signal such as SIGSTOP, and is not reaped.
    Suspended(Pid),
    /// Children of which none has ended.
    NoneEnded,
    /// No children at all.
    NoChildren,
}

/// Reaps one child that has ended, if there is one.
///
/// # Errors
/// If `waitpid` fails, for which the kernel has no reason.
pub(super) fn reap() -> io::Result<Reaped> {
    let options = WaitOptions::NOHANG | WaitOptions::UNTRACED;
    match rustix::io::retry_on_intr(|| wait(options)) {
        Ok(Some((child, status))) if status.stopped() => Ok(Reaped::Suspended(child)),
        Ok(Some((child, status))) => {
            let number = |number: Option<i32>| u8::try_from(number?).ok();
            let exited = number(status.exit_status()).map(ChildEnd::Exited);
            let killed = || number(status.terminating_signal()).map(ChildEnd::Killed);
            let end = exited.or_else(killed).unwrap_or(ChildEnd::Exited(u8::MAX));
            Ok(Reaped::Ended(child, end))
        }
        Ok(None) => Ok(Reaped::NoneEnded),
        Err(Errno::CHILD) => Ok(Reaped::NoChildren),
        Err(error) => Err(error.into()),
    }
}

/// Lists all children, including those that have ended and are not reaped yet.
///
/// # Errors
/// If there are too few file descriptors.
pub(super) fn children() -> io::Result<Vec<Pid>> {
    children_of("self")
}

/// Lists the descendants that this process may see, each at some moment of this call, but for those
/// that are `spared` or descend from them. One that is started or loses its parent meanwhile may be
/// missing.
///
/// # Errors
/// If there are too few file descriptors.
pub(super) fn descendants(spared: &[Pid]) -> io::Result<Vec<Pid>> {
    let mut descendants = children()?;
    descendants.retain(|child| !spared.contains(child));
    let mut next = 0;
    while let Some(process) = descendants.get(next)
        && descendants.len() < MOST_DESCENDANTS
    {
        let process = process.as_raw_nonzero().to_string();
        // One that has just ended has none.
        let mut children = children_of(&process).unwrap_or_default();
        // A process that changes its parent meanwhile may be found twice.
        children.retain(|child| !descendants.contains(child));
        descendants.append(&mut children);
        next += 1;
    }
    Ok(descendants)
}

fn children_of(process: &str) -> io::Result<Vec<Pid>> {
    let mut children = Vec::new();
    // Each thread has the children that it has started or adopted.
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let thread = thread?;
        match fs::read_to_string(thread.path().join("children")) {
            Ok(ids) => {
                let ids = ids.split_whitespace().filter_map(|id| id.parse().ok());
                children.extend(ids.filter_map(Pid::from_raw));
            }
            // A thread that has just ended has given its children to another thread.
            Err(error) if !thread.path().exists() => drop(error),
            Err(error) => return Err(error),
        }
    }
    Ok(children)
}
