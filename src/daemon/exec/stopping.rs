//! Decides which of COMMAND's processes get the signal to stop.
//!
//! COMMAND's process group gets the signal at once: a shell and the programs that it runs, or all
//! parts of a pipe. A process in another group, such as one started with `setsid`, does not get it
//! at once, because its parent may stop its children in a certain order. If that parent ends, the
//! guard becomes the parent, and sends the signal. The process may get the signal twice, because the
//! guard does not know what the parent did. A process that is started later gets no signal, because
//! it belongs to the clean-up.

use super::reaping;
use rustix::process::{Pid, Signal, getpgid, kill_process, kill_process_group};

/// What is left to do of telling COMMAND's processes to stop.
pub(super) struct Stopping {
    signal: Signal,
    /// COMMAND's process group.
    group: Pid,
    group_is_asked: bool,
    /// Children that have nothing to do with COMMAND.
    spared: Vec<Pid>,
    /// Descendants from before the stop that have not got the signal; `None` while they could not be
    /// listed.
    waiting: Option<Vec<Pid>>,
}

impl Stopping {
    /// Tells COMMAND and its process group to stop, and nothing that is `spared` or descends from it.
    /// COMMAND must not have been reaped.
    pub fn begin(signal: Signal, command: Pid, spared: Vec<Pid>) -> Self {
        let mut stopping = Self::begin_without_command(signal, command, spared);
        // That it could not be listed is no reason not to signal it.
        stopping.signal_group();
        stopping
    }

    /// Tells what COMMAND has left behind to stop, and nothing that is `spared` or descends from it.
    /// COMMAND's own process was reaped.
    pub fn begin_without_command(signal: Signal, group: Pid, spared: Vec<Pid>) -> Self {
        let mut stopping = Self {
            signal,
            group,
            group_is_asked: false,
            spared,
            waiting: None,
        };
        stopping.signal_orphans();
        stopping
    }

    /// Tells those processes to stop whose parents have ended. Returns true iff others are left.
    pub fn signal_orphans(&mut self) -> bool {
        // What cannot be listed now can be listed the next time.
        if self.waiting.is_none()
            && let Ok(mut descendants) = reaping::descendants(&self.spared)
        {
            let count = descendants.len();
            descendants.retain(|process| getpgid(Some(*process)) != Ok(self.group));
            // While the group has a member, its number cannot be that of another group.
            if descendants.len() < count {
                self.signal_group();
            }
            self.waiting = Some(descendants);
        }
        let Some(waiting) = &mut self.waiting else {
            return true;
        };
        if let Ok(children) = reaping::children() {
            for orphan in waiting.extract_if(.., |process| children.contains(process)) {
                // A stopped process does not react to the first signal without the second one.
                for signal in [self.signal, Signal::CONT] {
                    // This fails if the process belongs to another user.
                    let _ = kill_process(orphan, signal);
                }
            }
        }
        // Those that have ended need none.
        waiting.retain(|process| getpgid(Some(*process)).is_ok());
        !waiting.is_empty()
    }

    fn signal_group(&mut self) {
        if !std::mem::replace(&mut self.group_is_asked, true) {
            for signal in [self.signal, Signal::CONT] {
                // This fails if the group is empty, or all of it belongs to another user.
                let _ = kill_process_group(self.group, signal);
            }
        }
    }
}
