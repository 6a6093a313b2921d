//! The candidates' seats, and what an election costs etcd.

use super::daemon::{Daemon, FOLLOWER, LEADER, STILL_ACTS, wait_for_next_roles};
use super::etcd::Etcd;
use super::poll_until;
use serde_json::Value;

/// What a replica says when the leader that it knew is gone.
pub const CHANGE: &str = "LEADERSHIP CHANGE REQUIRED";
/// What it says when it takes part in an election.
pub const ELECTION: [&str; 2] = ["new election", "New leader election happening."];
/// How a leader begins to say to which candidate it has handed its term.
pub const HANDED_OVER: &str = "Handed over to '";

/// A candidate's seat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its key.
    pub key: String,
    /// Its lease in etcdctl's hexadecimal.
    pub lease: String,
    /// The candidate's name.
    pub name: String,
    /// The token of the term in which the candidate leads, if it says so.
    pub acts: Option<u64>,
}

impl Etcd {
    /// Returns the seats that are taken; the one that has been held for longest comes first.
    pub fn seats(&self) -> Vec<Seat> {
        let list = ["get", "--prefix", "leader/candidates/", "--keys-only"];
        let list = self.etcdctl(&[&list[..], &["--sort-by=CREATE", "--order=ASCEND"]].concat());
        let keys = list.lines().filter(|line| !line.is_empty());
        // One that is given up in between is not taken.
        keys.filter_map(|name| {
            let key = self.key(name)?;
            let record: Value = serde_json::from_slice(&key.value).expect("JSON");
            Some(Seat {
                key: name.to_owned(),
                lease: key.lease.expect("a seat is bound to a lease"),
                name: record["name"].as_str().expect("a name").to_owned(),
                acts: record["acts"].as_u64(),
            })
        })
        .collect()
    }

    /// Returns the index of the last raft entry: every request that writes costs one.
    pub fn raft_index(&self) -> u64 {
        let status = self.etcdctl(&["endpoint", "status", "-w", "json"]);
        let status: Value = serde_json::from_str(&status).expect("JSON");
        status[0]["Status"]["raftIndex"].as_u64().expect("a number")
    }
}

/// Waits until one of these leads, all others follow, this many have a seat, the leader says in its own
/// that it leads, and it knows of all the others. Returns the leader's index and its seat.
pub fn wait_for_seats(etcd: &Etcd, replicas: &mut [Daemon], count: usize) -> (usize, Seat) {
    let leader = wait_for_next_roles(replicas);
    let name = replicas[leader].name.clone();
    let seat = poll_until("all have seats, and the leader says that it leads", || {
        let seats = etcd.seats();
        let acts = |seat: &Seat| seat.name == name && seat.acts.is_some();
        let is_complete = seats.len() == count;
        seats.into_iter().find(acts).filter(|_| is_complete)
    });
    wait_until_it_knows_the_seats(&mut replicas[leader]);
    (leader, seat)
}

/// Waits until this many candidates have a seat, and the leader knows of them: it hands over when it stops.
pub fn wait_until_it_can_hand_over(etcd: &Etcd, leader: &mut Daemon, count: usize) {
    poll_until("all have seats", || {
        (etcd.seats().len() == count).then_some(())
    });
    wait_until_it_knows_the_seats(leader);
}

/// Waits until a leader knows the seats that are taken by now.
fn wait_until_it_knows_the_seats(leader: &mut Daemon) {
    // It learns of them from the response to a try; one may be under way.
    leader.skip();
    leader.wait_for_next_refreshes(2);
}

/// Returns the seat of the candidate that follows this leader next: of the others, it has held its seat
/// for longest.
pub fn successor(etcd: &Etcd, leader: &str) -> Seat {
    let seats = etcd.seats();
    let mut others = seats.into_iter().filter(|seat| seat.name != leader);
    others.next().expect("a candidate other than the leader")
}

/// Returns what a replica has said since this line about who leads and about elections.
pub fn roles_after(replica: &Daemon, line: usize) -> Vec<String> {
    let lines = replica.lines();
    let messages = lines[line..].iter().map(super::line::Line::message);
    let roles = [CHANGE, LEADER, FOLLOWER, STILL_ACTS];
    let is_told = |message: &String| [&roles[..], &ELECTION].concat().contains(&&**message);
    messages.filter(is_told).collect()
}
