//! Users and passwords in an etcd.

use super::etcd::Etcd;
use super::requests::Requests;
use std::process::Command;

/// How etcdctl is let in while authentication is on.
const ROOT: [&str; 2] = ["--user", "root:of all evil"];

/// Adds the users `root` and `replica`, and leaves authentication off. `replica` may read and write
/// the two keys, and nothing else; its password is `sesame`.
pub fn add(etcd: &Etcd) {
    for arguments in [
        &["user", "add", "root:of all evil"][..],
        &["user", "grant-role", "root", "root"],
        &["role", "add", "election"],
        &[
            "role",
            "grant-permission",
            "election",
            "readwrite",
            "leader",
        ],
        &[
            "role",
            "grant-permission",
            "election",
            "readwrite",
            "leader/acting",
        ],
        &["user", "add", "replica:sesame"],
        &["user", "grant-role", "replica", "election"],
    ] {
        etcd.etcdctl(arguments);
    }
}

/// Lets `replica` read and write all keys below that of the election too.
pub fn permit_all_keys_of_the_election(etcd: &Etcd) {
    let permit = ["role", "grant-permission", "election", "readwrite"];
    etcd.etcdctl(&[&permit[..], &["--prefix", "leader/"]].concat());
}

/// Switches authentication on.
pub fn enable(etcd: &mut Etcd) {
    etcd.etcdctl(&["auth", "enable"]);
    etcd.etcdctl_options.extend(ROOT.map(str::to_owned));
}

/// Switches authentication off again.
pub fn disable(etcd: &mut Etcd) {
    etcd.etcdctl(&["auth", "disable"]);
    etcd.etcdctl_options
        .retain(|option| !ROOT.contains(&option.as_str()));
}

/// Lets a command use etcd as the user `replica`.
pub fn as_replica(mut command: Command) -> Command {
    command.args(["--etcd-user", "replica"]);
    command.env("LEADER_ELECTION_ETCD_PASSWORD", "sesame");
    command
}

/// Returns how many passwords this etcd was asked to check since it was started.
pub fn authentications(etcd: &Etcd) -> u64 {
    Requests::of(etcd).count("Authenticate")
}
