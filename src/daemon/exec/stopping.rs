//! Which of COMMAND's processes get the signal to stop.
//!
//! COMMAND's process group gets it at once: a shell, and what it runs, or all parts of a pipe. A
//! process in another group, such as one behind `setsid`, is left to its parent, which may stop its
//! children in an order of its own; if that parent ends, the guard becomes the parent, and gives the
//! process the signal. That may be its second one, as nothing shows what its parent did. A process
//! that is started later belongs to the clean-up, and gets none.

use super::reaping;
use rustix::process::{Pid, Signal, getpgid, kill_process, kill_process_group};

/// What is left to do of telling COMMAND's processes to stop.
pub(super) struct Stopping {
    signal: Signal,
    /// Descendants from before the stop that have not got the signal.
    waiting: Vec<Pid>,
}

impl Stopping {
    /// Tells COMMAND and its process group to stop, or what it has left behind.
    pub fn begin(signal: Signal, command: Pid) -> Self {
        let (in_group, waiting): (Vec<_>, Vec<_>) = reaping::descendants()
            .into_iter()
            .partition(|process| getpgid(Some(*process)) == Ok(command));
        // While the group has a member, its number cannot be that of another group.
        if !in_group.is_empty() {
            // This fails if all members belong to another user.
            let _ = kill_process_group(command, signal);
            let _ = kill_process_group(command, Signal::CONT);
        }
        let mut stopping = Self { signal, waiting };
        stopping.tell_orphans();
        stopping
    }

    /// Tells those processes to stop whose parents have ended. Returns true iff others are left.
    pub fn tell_orphans(&mut self) -> bool {
        // What cannot be listed now can be listed the next time.
        if let Ok(children) = reaping::children() {
            let orphans = self.waiting.extract_if(.., |it| children.contains(it));
            for orphan in orphans {
                // A stopped process does not react to the first signal without the second one.
                for signal in [self.signal, Signal::CONT] {
                    // This fails if the process belongs to another user.
                    let _ = kill_process(orphan, signal);
                }
            }
        }
        // Those that have ended need none.
        self.waiting.retain(|it| getpgid(Some(*it)).is_ok());
        !self.waiting.is_empty()
    }
}
