//! An etcd of three members, whose peers can be cut off from each other.

use super::etcd::Etcd;
use super::proxy::{Link, Proxy};
use super::{free_port, poll_until};
use serde_json::Value;
use std::path::Path;

/// How many members it has.
pub const MEMBERS: usize = 3;

/// Returns the other two members.
pub fn others(member: usize) -> [usize; 2] {
    [(member + 1) % MEMBERS, (member + 2) % MEMBERS]
}

/// Three members, each of which is reached by its peers through a proxy.
pub struct Cluster {
    /// The members.
    pub members: Vec<Etcd>,
    /// The ids that they have among themselves.
    ids: Vec<u64>,
    /// The proxy in front of each member, for its peers.
    proxies: Vec<Proxy>,
}

impl Cluster {
    /// Starts a cluster; waits until each member answers.
    pub fn start(binary: &Path) -> Self {
        let listening = [(); MEMBERS].map(|()| format!("127.0.0.1:{}", free_port()));
        let proxies: Vec<_> = listening
            .iter()
            .map(|endpoint| Proxy::start(endpoint, Link::Open))
            .collect();
        let name = |number| format!("member{number}");
        let advertised = |number: usize| format!("http://{}", proxies[number].endpoint());
        let all: Vec<_> = (0..MEMBERS)
            .map(|number| format!("{}={}", name(number), advertised(number)))
            .collect();
        let mut members: Vec<_> = (0..MEMBERS)
            .map(|number| {
                let listens = format!("http://{}", listening[number]);
                let peering = [listens, advertised(number), all.join(",")];
                Etcd::member(binary, &name(number), peering)
            })
            .collect();
        // None of them answers before a quorum runs.
        members.iter_mut().for_each(Etcd::launch);
        members.iter_mut().for_each(Etcd::wait_up);
        let ids = members.iter().map(|member| status(member).id).collect();
        Self {
            members,
            ids,
            proxies,
        }
    }

    /// Returns the addresses of all members.
    pub fn endpoints(&self) -> String {
        self.endpoints_of(&[0, 1, 2])
    }

    /// Returns the addresses of some of them.
    pub fn endpoints_of(&self, members: &[usize]) -> String {
        let endpoints: Vec<_> = members
            .iter()
            .map(|&number| self.members[number].endpoint())
            .collect();
        endpoints.join(",")
    }

    /// Waits until the member that is asked knows a leader other than `gone`, which has just died
    /// or been frozen; returns that leader.
    pub fn leader(&self, asked: usize, gone: Option<usize>) -> usize {
        poll_until("etcd elects a leader", || {
            let leader = status(&self.members[asked]).leader?;
            let number = self.ids.iter().position(|id| *id == leader)?;
            (gone != Some(number)).then_some(number)
        })
    }

    /// Waits until each of these members answers a request that takes a quorum.
    pub fn wait_healthy(&self, members: &[usize]) {
        poll_until("etcd finds a quorum", || {
            let is_healthy = |&number: &usize| self.members[number].is_healthy();
            members.iter().all(is_healthy).then_some(())
        });
    }

    /// Cuts a member off from its peers. Its clients still reach it.
    pub fn isolate(&self, member: usize) {
        for (number, proxy) in self.proxies.iter().enumerate() {
            proxy.set(if number == member {
                Link::Cut
            } else {
                Link::CutPeer(self.ids[member])
            });
        }
    }

    /// Lets all members reach each other again.
    pub fn join(&self) {
        for proxy in &self.proxies {
            proxy.set(Link::Open);
        }
    }
}

/// What a member says about itself.
struct Status {
    id: u64,
    leader: Option<u64>,
}

fn status(member: &Etcd) -> Status {
    let status = member.etcdctl(&["endpoint", "status", "-w", "json"]);
    let status: Value = serde_json::from_str(&status).expect("JSON");
    let status = &status[0]["Status"];
    Status {
        id: status["header"]["member_id"].as_u64().expect("an id"),
        leader: status["leader"].as_u64(),
    }
}
