//! Replicas that serve HTTP.

use super::daemon::{Daemon, FOLLOWER, LEADER, json};
use super::etcd::Etcd;
use super::free_port;
use super::http::get;
use std::process::Command;

/// The paths whose status code is the answer.
pub const CONDITIONS: [&str; 4] = ["/leader", "/follower", "/live", "/ready"];

/// Returns a free address.
pub fn address() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// Returns a replica that serves HTTP at this address.
pub fn served(name: &str, endpoints: &str, address: &str) -> Command {
    let mut command = json(name, endpoints);
    command.args(["--http", address]);
    command
}

/// Starts a leader and a follower. Returns them with their addresses.
pub fn pair(etcd: &Etcd) -> [(Daemon, String); 2] {
    let [(leads, follows), names] = [(address(), address()), (LEADER.into(), FOLLOWER.into())];
    let mut leader = Daemon::spawn("leads", served("leads", &etcd.endpoint(), &leads));
    leader.wait_for_next(&names.0);
    let mut follower = Daemon::spawn("follows", served("follows", &etcd.endpoint(), &follows));
    follower.wait_for_next(&names.1);
    [(leader, leads), (follower, follows)]
}

/// Returns the status codes of [`CONDITIONS`].
pub fn codes(address: &str) -> [u16; 4] {
    CONDITIONS.map(|path| get(address, path).code)
}
