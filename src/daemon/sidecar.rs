//! The sidecar: how this replica stands, over HTTP.

mod metrics;
mod server;
mod standing;

pub(super) use server::Server;
