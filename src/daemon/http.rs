//! `--http`: what this replica knows about itself and the election, over HTTP.

mod metrics;
mod routes;
mod server;
mod state;

pub(super) use server::Server;
