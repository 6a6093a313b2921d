//! Kills and reaps all descendants of this process.
//!
//! When a process ends, the kernel gives its children to the nearest ancestor that is a
//! *subreaper*. A subreaper that kills all its children, again and again until it has none, has
//! therefore killed all its descendants, however often they forked and whatever sessions they
//! started. The guard, which is COMMAND's parent, and the daemon, which is the guard's parent, are
//! both subreapers: if one of them dies, the other can still kill all that is left.
//!
//! Only children are ever killed. The kernel reuses the id of a process only after its parent has
//! reaped it, so that a signal to a child can reach no other process.

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait},
};
use std::{fs, io, time::Duration};

/// How long those who were killed may take to be gone, before who is left is killed again.
pub(super) const ROUND: Duration = Duration::from_millis(1);
/// The same where that fails, for want of file descriptors or of permission.
pub(super) const LONG_ROUND: Duration = Duration::from_millis(50);

/// Becomes the parent of every descendant whose own parent ends.
///
/// Returns the children that there are already, which are not COMMAND's.
///
/// # Errors
/// If the kernel does not tell who a process's children are.
pub(super) fn adopt_descendants() -> io::Result<Vec<Pid>> {
    let children = children().map_err(|error| {
        let reason = "/proc does not tell who the children of a process are";
        io::Error::new(error.kind(), format!("{reason}: {error}"))
    })?;
    set_child_subreaper(Some(getpid()))?;
    Ok(children)
}

/// Who is left after a round of killing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// No children but those to be spared.
    Nobody,
    /// Somebody, to be killed again soon: theirs are children now.
    Somebody,
    /// Somebody whom this process may not kill, as it is another user's.
    NotOurs(Pid),
    /// The kernel does not tell now, for want of file descriptors.
    Unknown,
}

impl Left {
    /// How long to wait before the next round.
    pub fn round(self) -> Duration {
        match self {
            Self::Nobody | Self::Somebody => ROUND,
            Self::NotOurs(_) | Self::Unknown => LONG_ROUND,
        }
    }
}

/// Kills all children that there are now, but for those to be spared.
pub(super) fn kill_children(spared: &[Pid]) -> Left {
    let Ok(mut children) = children() else {
        return Left::Unknown;
    };
    children.retain(|child| !spared.contains(child));
    let mut left = Left::Nobody;
    for child in children {
        // What has ended by itself, and is not reaped, can be killed as well.
        match kill_process(child, Signal::KILL) {
            Err(Errno::PERM) => left = Left::NotOurs(child),
            _ if left == Left::Nobody => left = Left::Somebody,
            _ => {}
        }
    }
    left
}

/// Whom [`reap`] has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaped {
    /// A child that had ended, with its exit code as a shell has it.
    Child(Pid, u8),
    /// A child that was stopped by a signal.
    Stopped(Pid),
    /// Children, none of which has ended.
    NoneEnded,
    /// No children.
    NoneLeft,
}

/// Reaps a child that has ended, if there is one.
///
/// # Errors
/// The kernel has no reason for any.
pub(super) fn reap() -> io::Result<Reaped> {
    let options = WaitOptions::NOHANG | WaitOptions::UNTRACED;
    match rustix::io::retry_on_intr(|| wait(options)) {
        Ok(Some((child, status))) if status.stopped() => Ok(Reaped::Stopped(child)),
        Ok(Some((child, status))) => {
            let killed = || status.terminating_signal().map(|signal| 128 + signal);
            let code = status.exit_status().or_else(killed);
            let code = code.and_then(|code| u8::try_from(code).ok());
            Ok(Reaped::Child(child, code.unwrap_or(u8::MAX)))
        }
        Ok(None) => Ok(Reaped::NoneEnded),
        Err(Errno::CHILD) => Ok(Reaped::NoneLeft),
        Err(error) => Err(error.into()),
    }
}

/// All children, also those that have ended and are not reaped.
fn children() -> io::Result<Vec<Pid>> {
    let mut children = Vec::new();
    for thread in fs::read_dir("/proc/self/task")? {
        let thread = thread?;
        match fs::read_to_string(thread.path().join("children")) {
            Ok(ids) => {
                let ids = ids.split_whitespace().filter_map(|id| id.parse().ok());
                children.extend(ids.filter_map(Pid::from_raw));
            }
            // A thread that has just ended has given its children to another.
            Err(error) if !thread.path().exists() => drop(error),
            Err(error) => return Err(error),
        }
    }
    Ok(children)
}
