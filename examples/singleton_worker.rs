//! A worker that works only while it leads. It writes to a database that refuses any former leader.
//!
//! ```sh
//! psql "$DATABASE" -f examples/fence.sql
//! cargo run --example singleton_worker -- server1 127.0.0.1:2379 "$DATABASE"
//! ```
//!
//! Start several workers, with different names. Kill the one that works, and another one continues.
//! Or pause it with SIGSTOP, and resume it with SIGCONT: the database refuses what it still writes
//! then.

use leader_election::{Cluster, Config, Election, FencingToken, Ttl};
use std::{convert::Infallible, error::Error, time::Duration};
use tokio_postgres::NoTls;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [name, etcd, database] = arguments.as_slice() else {
        return Err(
            "give a name, an etcd and a database, as in: server1 127.0.0.1:2379 \
                    'host=127.0.0.1 user=postgres'"
                .into(),
        );
    };
    let config = Config::new(name.parse()?, Cluster::new(vec![etcd.parse()?])?)
        .with_ttl_and_grace(Ttl::MIN, Duration::ZERO)?;
    let mut candidate = Election::new(config).join()?;
    while let Some(mut leadership) = candidate.elected().await {
        let token = leadership.token();
        println!("{name} works, with token {token}");
        // Losing leadership drops the work, wherever it waits.
        tokio::select! {
            Err(error) = work(database, name, token) => println!("{name} cannot work: {error}"),
            reason = leadership.lost() => println!("{name} stops: {reason}"),
        }
        // Nothing acts any more in this process, so another candidate can lead.
        leadership.resign().await;
    }
    Ok(())
}

/// Works until the database refuses a write.
async fn work(
    database: &str,
    name: &str,
    token: FencingToken,
) -> Result<Infallible, Box<dyn Error>> {
    let (mut client, connection) = tokio_postgres::connect(database, NoTls).await?;
    // It ends with the client, and reports its errors to the client.
    tokio::spawn(connection);
    loop {
        let transaction = client.transaction().await?;
        let fence = "SELECT pass_fence('leader', $1)";
        transaction.execute(fence, &[&token.get()]).await?;
        let done = "INSERT INTO work (worker, token) VALUES ($1, $2)";
        transaction.execute(done, &[&name, &token.get()]).await?;
        transaction.commit().await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
