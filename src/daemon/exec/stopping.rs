//! Which of COMMAND's processes get the signal to stop.
//!
//! COMMAND's process group gets it at once: a shell, and what it runs, or all parts of a pipe. A
//! process in another group, such as one behind `setsid`, is left to its parent, which may stop its
//! children in an order of its own; if that parent ends instead, the guard becomes the parent, and
//! gives the process the signal. A process that is started later belongs to the clean-up, and gets
//! none.

use super::reaping;
use rustix::process::{Pid, Signal, getpgid, kill_process, kill_process_group};

/// What is left to do of telling COMMAND's processes to stop.
pub(super) struct Stopping {
    signal: Signal,
    /// Descendants from before the stop that have not got the signal.
    waiting: Vec<Pid>,
}

impl Stopping {
    /// Tells COMMAND, which has not been reaped, and its process group to stop.
    pub fn begin(signal: Signal, command: Pid) -> Self {
        let mut waiting = reaping::descendants();
        // COMMAND itself may have moved to another group.
        waiting.retain(|process| getpgid(Some(*process)) != Ok(command));
        // This fails if the group is empty.
        let _ = kill_process_group(command, signal);
        let _ = kill_process_group(command, Signal::CONT);
        let mut stopping = Self { signal, waiting };
        stopping.tell_orphans();
        stopping
    }

    /// Tells what COMMAND has left behind to stop.
    pub fn begin_without_command(signal: Signal) -> Self {
        let waiting = reaping::descendants();
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
        !self.waiting.is_empty()
    }
}
