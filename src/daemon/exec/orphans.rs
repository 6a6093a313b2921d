//! Reaps the orphans that a daemon without COMMAND adopts.

use super::children::Children;
use std::{convert::Infallible, io};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The children of a daemon that has no guard: as PID 1 of a container, it adopts every process
/// whose parent has ended, and an entrypoint that `exec`s it may leave some to it.
pub(in crate::daemon) struct Orphans {
    children: Children,
    child_ended: Signal,
}

impl Orphans {
    /// Gets ready to reap them.
    ///
    /// # Errors
    /// If the system is short of file descriptors.
    pub fn new(children: Children) -> io::Result<Self> {
        Ok(Self {
            children,
            child_ended: signal(SignalKind::child())?,
        })
    }

    /// Reaps each as soon as it has ended, so that none stays as a zombie. Cancel safe.
    pub async fn reap(&mut self) -> Infallible {
        loop {
            self.children.reap(|_, _| {});
            self.child_ended.recv().await;
        }
    }
}
