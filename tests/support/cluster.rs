//! An etcd of three members, whose peers can be cut off from each other.

use super::etcd::Etcd;
use super::{PATIENCE, free_port, lock};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

/// How many members it has.
pub const MEMBERS: usize = 3;

/// The other two members.
pub fn others(member: usize) -> [usize; 2] {
    [(member + 1) % MEMBERS, (member + 2) % MEMBERS]
}

/// Three members, each of which finds its peers through their gates.
pub struct Cluster {
    /// The members.
    pub members: Vec<Etcd>,
    /// Their numbers among themselves.
    ids: Vec<u64>,
    gates: Vec<Gate>,
}

impl Cluster {
    /// One that answers at each member.
    pub fn start(binary: &Path) -> Self {
        loop {
            let ports = [(); MEMBERS].map(|()| free_port());
            let gates: Vec<_> = ports.map(Gate::start).into();
            let name = |number| format!("member{number}");
            let all: Vec<_> = gates
                .iter()
                .enumerate()
                .map(|(number, gate)| format!("{}=http://{}", name(number), gate.address))
                .collect();
            let mut members: Vec<_> = (0..MEMBERS)
                .map(|number| {
                    let peering = [
                        format!("http://127.0.0.1:{}", ports[number]),
                        format!("http://{}", gates[number].address),
                        all.join(","),
                    ];
                    Etcd::member(binary, &name(number), peering)
                })
                .collect();
            members.iter_mut().for_each(Etcd::launch);
            // Else somebody else took a port between our look and etcd's.
            if members.iter_mut().all(Etcd::comes_up) {
                let ids = members.iter().map(|member| status(member).0).collect();
                return Self {
                    members,
                    ids,
                    gates,
                };
            }
        }
    }

    /// The addresses of all members.
    pub fn endpoints(&self) -> String {
        self.endpoints_of(&[0, 1, 2])
    }

    /// The addresses of some of them.
    pub fn endpoints_of(&self, members: &[usize]) -> String {
        let endpoints: Vec<_> = members
            .iter()
            .map(|&n| self.members[n].endpoint())
            .collect();
        endpoints.join(",")
    }

    /// Which member leads the others, by the word of one that is well. One that has just died or
    /// been frozen does not count.
    pub fn leader(&self, asked: usize, gone: Option<usize>) -> usize {
        let end = Instant::now() + PATIENCE;
        loop {
            let leader = status(&self.members[asked]).1;
            let number = self.ids.iter().position(|id| *id == leader);
            match number {
                Some(number) if gone != Some(number) => return number,
                _ => assert!(Instant::now() < end, "etcd elects no leader"),
            }
        }
    }

    /// Waits until these members answer questions that take a quorum; returns when that was.
    pub fn wait_healthy(&self, members: &[usize]) -> SystemTime {
        let end = Instant::now() + PATIENCE;
        while !members
            .iter()
            .all(|&number| self.members[number].is_healthy())
        {
            assert!(Instant::now() < end, "etcd finds no quorum");
            // Nobody tells, so this one looks again.
            thread::sleep(Duration::from_millis(10));
        }
        SystemTime::now()
    }

    /// Cuts a member off from its peers. Its clients still reach it.
    pub fn isolate(&self, member: usize) {
        for (number, gate) in self.gates.iter().enumerate() {
            let refused = if number == member {
                Refused::Everybody
            } else {
                Refused::From(format!("X-Server-From: {:x}\r\n", self.ids[member]))
            };
            gate.refuse(refused);
        }
    }

    /// Lets all members find each other again.
    pub fn join(&self) {
        for gate in &self.gates {
            gate.refuse(Refused::Nobody);
        }
    }
}

/// The number of a member, and that of its leader.
fn status(member: &Etcd) -> (u64, u64) {
    let status = member.etcdctl(&["endpoint", "status", "-w", "json"]);
    let status: Value = serde_json::from_str(&status).expect("JSON");
    let status = &status[0]["Status"];
    let id = |value: &Value| value.as_u64().unwrap_or(0);
    (id(&status["header"]["member_id"]), id(&status["leader"]))
}

/// Whose connections end at a gate. A member tells who it is in each request to a peer.
enum Refused {
    Nobody,
    Everybody,
    From(String),
}

impl Refused {
    fn concerns(&self, said: &str) -> bool {
        match self {
            Self::Nobody => false,
            Self::Everybody => true,
            Self::From(header) => said.contains(header),
        }
    }
}

struct Shared {
    refused: Refused,
    /// Each connection with the headers that tell whose it is.
    open: BTreeMap<usize, (String, [TcpStream; 2])>,
    accepted: usize,
    closing: bool,
}

/// A way to a member for its peers.
struct Gate {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    acceptor: Option<JoinHandle<()>>,
}

impl Gate {
    fn start(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let shared = Arc::new(Mutex::new(Shared {
            refused: Refused::Nobody,
            open: BTreeMap::new(),
            accepted: 0,
            closing: false,
        }));
        let state = Arc::clone(&shared);
        let acceptor = thread::spawn(move || accept(&listener, port, &state));
        Self {
            address,
            shared,
            acceptor: Some(acceptor),
        }
    }

    fn refuse(&self, refused: Refused) {
        let mut shared = lock(&self.shared);
        for (said, streams) in shared.open.values() {
            if refused.concerns(said) {
                close(streams);
            }
        }
        shared.refused = refused;
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        {
            let mut shared = lock(&self.shared);
            shared.closing = true;
            shared.open.values().for_each(|(_, streams)| close(streams));
        }
        // Wakes the acceptor, which sees that this is the end.
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

fn close(streams: &[TcpStream; 2]) {
    for stream in streams {
        drop(stream.shutdown(Shutdown::Both));
    }
}

fn accept(listener: &TcpListener, port: u16, shared: &Mutex<Shared>) {
    thread::scope(|scope| {
        for client in listener.incoming() {
            let Ok(client) = client else { continue };
            let mut state = lock(shared);
            if state.closing {
                return;
            }
            if matches!(state.refused, Refused::Everybody) {
                continue;
            }
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else {
                continue;
            };
            let copies =
                || [&client, &server].map(|stream| stream.try_clone().expect("a second handle"));
            let (there, back) = (copies(), copies());
            state.accepted += 1;
            let number = state.accepted;
            state.open.insert(number, (String::new(), [client, server]));
            drop(state);
            scope.spawn(move || {
                let [mut client, mut server] = there;
                let mut buffer = [0; 16 * 1024];
                while let Ok(length @ 1..) = client.read(&mut buffer) {
                    {
                        let mut shared = lock(shared);
                        let said = String::from_utf8_lossy(&buffer[..length]);
                        let Shared { refused, open, .. } = &mut *shared;
                        let connection = open.get_mut(&number).expect("ours to remove");
                        if said.contains("X-Server-From: ") {
                            connection.0 = said.into_owned();
                        }
                        if refused.concerns(&connection.0) {
                            break;
                        }
                    }
                    if server.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
                close(&[client, server]);
                lock(shared).open.remove(&number);
            });
            scope.spawn(move || {
                let [mut client, mut server] = back;
                drop(std::io::copy(&mut server, &mut client));
                close(&[client, server]);
            });
        }
    });
}
