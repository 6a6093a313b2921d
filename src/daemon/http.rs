//! `--http`: serves over HTTP what this process knows about itself and the election.

mod document;
mod events;
mod feed;
mod format;
mod metrics;
mod observed;
mod observer;
mod page;
mod presence;
mod replica;
mod role;
mod routes;
mod server;
mod snapshot;
mod state;

pub(super) use observer::ObserverServer;
pub(super) use replica::ReplicaServer;

use anyhow::Context;
use std::net::SocketAddr;
use tokio::net::TcpListener;

/// Listens at the address that was given as `--http`.
///
/// # Errors
/// If that is not possible.
pub(super) async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listening = TcpListener::bind(address).await;
    listening
        .with_context(|| format!("could not listen for HTTP at {address}; give another --http"))
}
