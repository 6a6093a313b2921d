//! The sidecar: how this replica stands, over HTTP.

mod metrics;
mod server;
mod state;

pub(super) use server::Server;
