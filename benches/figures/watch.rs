//! Watches keys of an etcd, and notes when it hears of each change.

use etcd_client::{Client, EventType, WatchOptions};
use std::{
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::Instant,
};
use support::{PATIENCE, changed, lock, wait_until};
use tokio::{runtime, sync::oneshot};

/// A change of a key.
#[derive(Clone, Debug)]
pub struct Change {
    pub at: Instant,
    pub key: String,
    /// What is written; `None` if the key is deleted.
    pub value: Option<String>,
}

/// What is known of the keys.
#[derive(Default)]
struct Record {
    has_begun: bool,
    changes: Vec<Change>,
}

/// A watch, until it is dropped.
pub struct Watch {
    record: Arc<Mutex<Record>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Watches all keys that begin with this; returns once it does.
    pub fn start(etcd: &str, prefix: &str) -> Self {
        let record = Arc::new(Mutex::new(Record::default()));
        let (stop, stopped) = oneshot::channel();
        let (etcd, prefix, seen) = (etcd.to_owned(), prefix.to_owned(), Arc::clone(&record));
        let thread = thread::spawn(move || {
            runtime().block_on(async {
                tokio::select! {
                    () = watch(etcd, prefix, &seen) => {}
                    _ = stopped => {}
                }
            });
        });
        wait_until("the watch begins", PATIENCE, || {
            lock(&record).has_begun.then_some(())
        });
        Self {
            record,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Returns all changes so far.
    pub fn changes(&self) -> Vec<Change> {
        lock(&self.record).changes.clone()
    }

    /// Waits until a key that begins like this is deleted after this instant; returns when the first one was.
    pub fn wait_for_deletion(&self, start: &str, after: Instant) -> Instant {
        let is_it = |it: &&Change| it.at > after && it.value.is_none() && it.key.starts_with(start);
        wait_until("the leader's key is deleted", PATIENCE, || {
            let record = lock(&self.record);
            record.changes.iter().find(is_it).map(|it| it.at)
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// Returns a runtime for a client of etcd.
pub fn runtime() -> runtime::Runtime {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime")
}

async fn watch(etcd: String, prefix: String, seen: &Mutex<Record>) {
    let mut client = Client::connect([etcd], None).await.expect("etcd runs");
    let options = WatchOptions::new().with_prefix();
    let mut watch = client.watch(prefix, Some(options)).await.expect("a watch");
    while let Some(response) = watch.message().await.expect("etcd runs") {
        let at = Instant::now();
        {
            let mut record = lock(seen);
            record.has_begun |= response.created();
            for event in response.events() {
                let key = event.kv().expect("a key");
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                let value = match event.event_type() {
                    EventType::Put => Some(text(key.value())),
                    EventType::Delete => None,
                };
                let key = text(key.key());
                record.changes.push(Change { at, key, value });
            }
        }
        changed();
    }
}
