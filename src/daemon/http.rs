//! `--http`: what this replica knows about itself and the election, over HTTP.

mod document;
mod format;
mod metrics;
mod presence;
mod role;
mod routes;
mod server;
mod state;

pub(super) use server::Server;
