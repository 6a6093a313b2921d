//! The daemon's children: its helpers, those that it had from the start, and those that it adopts.

use super::reaping::{self, Reaped, Remaining};
use rustix::process::{Pid, Signal, kill_process};
use std::{cell::RefCell, io, rc::Rc};

/// Which of the daemon's children are not to be killed with what a dead helper has left behind. All parts of
/// the daemon share it.
#[derive(Clone, Debug, Default)]
pub(in crate::daemon) struct Children(Rc<RefCell<Spared>>);

#[derive(Debug, Default)]
struct Spared {
    /// Left by an entrypoint that `exec`ed this program.
    from_start: Vec<Pid>,
    helpers: Vec<Pid>,
    /// What was adopted while the health runner lived, which is a subreaper: it has started none of these.
    not_of_health_runner: Vec<Pid>,
}

impl Children {
    /// Makes this process the parent of every descendant whose own parent ends, and spares the children that
    /// it has already. The default is for a daemon that has no helpers, and kills nothing.
    ///
    /// # Errors
    /// If the kernel does not list the children of a process.
    pub fn adopt() -> io::Result<Self> {
        let spared = Spared {
            from_start: reaping::become_subreaper()?,
            ..Spared::default()
        };
        Ok(Self(Rc::new(RefCell::new(spared))))
    }

    /// Spares a helper.
    pub(super) fn spare(&self, helper: Pid) {
        self.0.borrow_mut().helpers.push(helper);
    }

    /// Spares a helper no more.
    pub(super) fn give_up(&self, helper: Pid) {
        let spared = &mut *self.0.borrow_mut();
        spared.helpers.retain(|spared| *spared != helper);
        // Its socket ends before its children become those of this process. If it were spared, nothing would seem to be
        // left of it.
        spared.not_of_health_runner.retain(|other| *other != helper);
    }

    /// Takes in that the health runner lives: no present child is one that it has left behind.
    pub(super) fn health_runner_lives(&self) {
        // A child that cannot be listed now counts as one that the next dead health runner has left.
        if let Ok(present) = reaping::children() {
            self.0.borrow_mut().not_of_health_runner = present;
        }
    }

    /// Kills what a dead health runner may have left behind: all present children that are not spared, and have
    /// come since it last showed that it lives.
    pub(super) fn kill_left_by_health_runner(&self) -> Remaining {
        let spared = self.0.borrow();
        let others = &spared.not_of_health_runner;
        reaping::kill_children(&[&*spared.from_start, &spared.helpers, others].concat())
    }

    /// Kills all present children that are not spared.
    pub(super) fn kill_others(&self) -> Remaining {
        let spared = self.0.borrow();
        reaping::kill_children(&[&*spared.from_start, &spared.helpers].concat())
    }

    /// Reaps all children that have ended, and calls `ended` with each of them and its exit code.
    pub(super) fn reap(&self, mut ended: impl FnMut(Pid, u8)) {
        // What cannot be reaped now can be reaped later.
        while let Ok(reaped) = reaping::reap() {
            let mut spared = self.0.borrow_mut();
            match reaped {
                Reaped::Ended(child, end) => {
                    // Its number may become that of another process.
                    spared.from_start.retain(|spared| *spared != child);
                    spared.helpers.retain(|spared| *spared != child);
                    spared.not_of_health_runner.retain(|other| *other != child);
                    ended(child, end.code());
                }
                // A suspended helper can neither kill in time nor report anything.
                Reaped::Suspended(child) if spared.helpers.contains(&child) => {
                    let _ = kill_process(child, Signal::CONT);
                }
                Reaped::Suspended(_) => {}
                Reaped::NoneEnded | Reaped::NoChildren => break,
            }
        }
    }
}
