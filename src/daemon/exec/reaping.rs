//! The rules of killing: of all that COMMAND has started, nothing outlives its time.
//!
//! **When.** COMMAND is told to stop when its time gets short, or when the daemon says so; at its
//! last moment all that is left is killed. A later order moves these moments; once it has been
//! told because its time got short, none gives it more.
//!
//! **How.** The kernel gives a process whose parent has ended to its nearest ancestor that is a
//! *subreaper*. So whoever is one and kills all its children, again and again until it has none,
//! has killed all its descendants, however often they forked and whatever sessions they began.
//! The guard is one, and COMMAND's parent; the daemon is one, and the guard's parent: whichever of
//! the two dies, the other's children are what is left.
//!
//! Only children are ever killed, since nobody but their parent reaps them: until then, their ids
//! are not given to others.

use crate::protocol::Moment;
use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait},
};
use std::{fs, io, time::Duration};

/// How long those who were killed may take to be gone, before who is left is killed again.
pub(super) const ROUND: Duration = Duration::from_millis(1);
/// The same where that fails, for want of file descriptors or of permission.
pub(super) const LONG_ROUND: Duration = Duration::from_millis(50);

/// When COMMAND is told to stop, and when it is killed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    stop_at: Moment,
    kill_at: Moment,
    ordered: bool,
    told: bool,
}

impl Schedule {
    /// Tells it to stop, and kills it, at these moments.
    pub fn new(stop_at: Moment, kill_at: Moment) -> Self {
        Self {
            stop_at,
            kill_at,
            ordered: false,
            told: false,
        }
    }

    /// Moves both moments; no more once it is to stop.
    pub fn lead(&mut self, stop_at: Moment, kill_at: Moment) {
        if !self.ordered && !self.told {
            (self.stop_at, self.kill_at) = (stop_at, kill_at);
        }
    }

    /// Tells it to stop at `now`, and moves the moment of killing.
    pub fn stop(&mut self, now: Moment, kill_at: Moment) {
        if self.told && !self.ordered {
            self.kill_at = self.kill_at.min(kill_at);
            return;
        }
        self.ordered = true;
        self.stop_at = self.stop_at.min(now);
        self.kill_at = kill_at;
    }

    /// Returns true iff it is to be told to stop at `now`, and was not told before.
    pub fn tells(&mut self, now: Moment) -> bool {
        now >= self.stop_at && !std::mem::replace(&mut self.told, true)
    }

    /// Returns true iff it was told to stop.
    pub fn told(&self) -> bool {
        self.told
    }

    /// Returns true iff all that is left is to be killed at `now`.
    pub fn kills(&self, now: Moment) -> bool {
        now >= self.kill_at
    }

    /// Returns the next moment at which there is something to do.
    pub fn next(&self) -> Moment {
        if self.told {
            self.kill_at
        } else {
            self.kill_at.min(self.stop_at)
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn it_is_told_and_killed_in_time_unless_it_goes_on_leading() {
        let mut schedule = Schedule::new(at(4), at(5));
        assert_eq!(schedule.next(), at(4));
        assert!(!schedule.tells(at(3)));
        schedule.lead(at(6), at(7));
        assert!(!schedule.tells(at(5)) && !schedule.kills(at(5)));
        assert!(schedule.tells(at(6)) && !schedule.tells(at(6)));
        assert!(schedule.told());
        assert_eq!(schedule.next(), at(7));
        assert!(!schedule.kills(at(6)) && schedule.kills(at(7)));
    }

    #[test]
    fn once_its_time_got_short_nothing_gives_it_more() {
        let mut schedule = Schedule::new(at(4), at(5));
        assert!(schedule.tells(at(4)));
        schedule.lead(at(8), at(9));
        schedule.stop(at(4), at(10));
        assert_eq!(schedule.next(), at(5));
        schedule.stop(at(4), at(4));
        assert!(schedule.kills(at(4)));
    }

    #[test]
    fn an_ordered_stop_lasts_for_as_long_as_it_is_ordered() {
        let mut schedule = Schedule::new(at(4), at(5));
        schedule.stop(at(2), at(5));
        assert!(schedule.tells(at(2)));
        schedule.stop(at(3), at(9));
        schedule.lead(at(20), at(20));
        assert_eq!(schedule.next(), at(9));
        schedule.stop(at(4), at(4));
        assert!(schedule.kills(at(4)));
    }
}
