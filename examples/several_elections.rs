//! Several elections in one process: each shard of the work has its own leader, which may run in any of the processes.
//!
//! ```sh
//! cargo run --example several_elections -- server1 127.0.0.1:2379
//! ```
//!
//! Start several processes, with different names. Each shard stays with the process that leads its election. Stop one
//! with Ctrl-C, and the others take over its shards. All elections of a process share one connection to etcd.

use leader_election::{Candidate, Cluster, Config, Election, Ttl};
use std::{error::Error, io, time::Duration};
use tokio::task::JoinSet;

const SHARDS: [&str; 3] = ["shards/a", "shards/b", "shards/c"];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [name, etcd] = arguments.as_slice() else {
        return Err("give a name and an etcd, as in: server1 127.0.0.1:2379".into());
    };
    let cluster = Cluster::new(vec![etcd.parse()?])?;
    let (stop, stopping) = tokio::sync::watch::channel(false);
    let mut shards = JoinSet::new();
    for shard in SHARDS {
        let config = Config::new(name.parse()?, cluster.clone())
            .with_leader_key(shard.parse()?)
            .with_ttl_and_grace(Ttl::MIN, Duration::ZERO)?;
        let candidate = Election::new(config).join()?;
        shards.spawn(serve(name.clone(), shard, candidate, stopping.clone()));
    }
    tokio::signal::ctrl_c().await?;
    stop.send(true)?;
    while let Some(ended) = shards.join_next().await {
        ended??;
    }
    Ok(())
}

/// Serves a shard whenever this process leads in its election, until it is asked to stop.
async fn serve(
    name: String,
    shard: &str,
    mut candidate: Candidate,
    mut stopping: tokio::sync::watch::Receiver<bool>,
) -> io::Result<()> {
    loop {
        // Cancel safe: if a leadership arrives at this moment, `withdraw` gives it back.
        let leadership = tokio::select! {
            leadership = candidate.elected() => leadership,
            _ = stopping.wait_for(|stop| *stop) => None,
        };
        let Some(mut leadership) = leadership else {
            return candidate.withdraw().await;
        };
        println!("{name} serves {shard}, with token {}", leadership.token());
        tokio::select! {
            _ = leadership.lost() => {}
            // Before the leadership is dropped: otherwise this candidate would take part in the next election.
            _ = stopping.wait_for(|stop| *stop) => candidate.begin_withdrawal(),
        }
        println!("{name} serves {shard} no more");
    }
}
