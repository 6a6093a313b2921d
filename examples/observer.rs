//! Follows who leads and how many candidates are listed, without taking part. A proxy or a client of the leader can use
//! this.
//!
//! ```sh
//! cargo run --example observer -- 127.0.0.1:2379
//! ```

use leader_election::{Cluster, LeaderKey, Observed, Observer};
use std::error::Error;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let etcd = std::env::args()
        .nth(1)
        .ok_or("give an etcd, as in: 127.0.0.1:2379")?;
    let cluster = Cluster::new(vec![etcd.parse()?])?;
    let mut observer = Observer::start(cluster, &LeaderKey::default());
    while let Some(observed) = observer.next().await {
        match observed {
            Observed::State(state) => match state.leader {
                Some(leader) => println!(
                    "{} leads at {}",
                    String::from_utf8_lossy(&leader.name).escape_debug(),
                    leader
                        .address
                        .as_deref()
                        .unwrap_or("no known address")
                        .escape_debug(),
                ),
                None if state.acting.is_some() => println!("nobody leads, somebody may act"),
                None => println!("nobody leads"),
            },
            Observed::Candidates(candidates) => {
                println!("{} candidates are listed", candidates.listed.len());
            }
            Observed::Gap { .. } => println!("changes may be missing"),
            Observed::Unanswered { failure, .. } => println!("etcd does not respond: {failure}"),
            Observed::AnsweredAgain { .. } => println!("etcd answers again"),
            _ => {}
        }
    }
    Err("the observer died".into())
}
