//! What etcd itself takes: no election by etcd can be faster.

use crate::watch::runtime;
use etcd_client::{Client, WatchStream};
use std::{
    path::Path,
    time::{Duration, Instant},
};
use support::etcd::Etcd;
use tokio::runtime::Runtime;

/// Two clients of an etcd of their own.
pub struct Floor {
    runtime: Runtime,
    writer: Client,
    watch: WatchStream,
    _etcd: Etcd,
}

/// How long three requests took.
pub struct Times {
    /// From a write until its response.
    pub write: Duration,
    /// From the write until another client hears of it.
    pub watched: Duration,
    /// From a linearizable read until its response.
    pub read: Duration,
}

const KEY: &str = "floor";

impl Floor {
    pub fn start(binary: &Path) -> Self {
        let etcd = Etcd::start(binary);
        let runtime = runtime();
        let (writer, watch) = runtime.block_on(async {
            let connect = || Client::connect([etcd.endpoint()], None);
            let writer = connect().await.expect("etcd runs");
            let mut watcher = connect().await.expect("etcd runs");
            let mut watch = watcher.watch(KEY, None).await.expect("a watch");
            let created = watch.message().await.expect("etcd runs");
            assert!(created.is_some_and(|response| response.created()));
            (writer, watch)
        });
        Self {
            runtime,
            writer,
            watch,
            _etcd: etcd,
        }
    }

    pub fn measure(&mut self) -> Times {
        let (writer, watch) = (&mut self.writer, &mut self.watch);
        self.runtime.block_on(async {
            let begun = Instant::now();
            let mut reader = writer.clone();
            let write = async {
                writer.put(KEY, "", None).await.expect("etcd runs");
                begun.elapsed()
            };
            let watched = async {
                let heard = watch.message().await.expect("etcd runs");
                assert_eq!(heard.expect("a response").events().len(), 1);
                begun.elapsed()
            };
            let (write, watched) = tokio::join!(write, watched);
            let begun = Instant::now();
            reader.get(KEY, None).await.expect("etcd runs");
            let read = begun.elapsed();
            Times {
                write,
                watched,
                read,
            }
        })
    }
}
