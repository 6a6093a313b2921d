//! Reaps what a daemon without COMMAND adopts.

use super::reaping::{self, Reaped};
use std::{convert::Infallible, io};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The children of a daemon that has started none: as PID 1 of a container, it adopts every process
/// whose parent has ended, and an entrypoint that `exec`s it may leave some to it.
pub(in crate::daemon) struct Orphans {
    child_ended: Signal,
}

impl Orphans {
    /// Gets ready to reap them.
    ///
    /// # Errors
    /// If the system is short of file descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            child_ended: signal(SignalKind::child())?,
        })
    }

    /// Reaps each as soon as it has ended, so that none stays as a zombie. Cancel safe.
    pub async fn reap(&mut self) -> Infallible {
        loop {
            // What cannot be reaped now can be reaped later.
            while let Ok(Reaped::Ended(..) | Reaped::Suspended(_)) = reaping::reap() {}
            self.child_ended.recv().await;
        }
    }
}
