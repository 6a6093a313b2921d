//! A proxy in front of an etcd that treats the traffic as a test says, and endpoints that are
//! unreachable.
//!
//! One proxy serves all faults. It forwards HTTP/2 frame by frame, so that it can hold back single
//! calls, and any other protocol as it comes; so it needs no variants for peers or TLS.

mod traffic;

pub use traffic::{Call, Link};

use super::{changed, free_port, lock};
use rustix::net::sockopt::set_socket_linger;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use traffic::{Direction, Part, Parts};

/// A proxy in front of an endpoint. Dropping it closes all its connections.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens, and connects each client to `endpoint`.
    pub fn start(endpoint: &str, link: Link) -> Self {
        Self::start_at("127.0.0.1:0", endpoint, link)
    }

    /// Does the same at this address.
    pub fn start_at(address: &str, endpoint: &str, link: Link) -> Self {
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                link,
                accepted: 0,
                matching_requests: 0,
                connections: BTreeMap::new(),
                closing: false,
            }),
            moved: Condvar::new(),
        });
        let (endpoint, acceptor) = (endpoint.to_owned(), Arc::clone(&shared));
        let acceptor = thread::spawn(move || acceptor.accept(&listener, &endpoint));
        Self {
            address,
            shared,
            acceptor: Some(acceptor),
        }
    }

    /// Returns an endpoint that accepts connections and never sends anything.
    pub fn silent() -> Self {
        Self::start("", Link::Silent)
    }

    /// Returns an endpoint that closes each connection at once.
    pub fn cut() -> Self {
        Self::start("", Link::Cut)
    }

    /// Returns its address.
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// Returns how many connections it has accepted.
    pub fn accepted(&self) -> usize {
        lock(&self.shared.state).accepted
    }

    /// Returns how many requests of the kind that the link names came since it was set.
    pub fn matching_requests(&self) -> usize {
        lock(&self.shared.state).matching_requests
    }

    /// Changes what it does, also on open connections. What it has held back is forwarded, unless
    /// the new link holds it back as well.
    pub fn set(&self, link: Link) {
        let mut state = lock(&self.shared.state);
        state.link = link;
        state.matching_requests = 0;
        for connection in state.connections.values_mut() {
            connection.held_streams.clear();
        }
        match link {
            Link::Cut => state.close(false, |_, _| true),
            Link::Reset => state.close(true, |_, _| true),
            Link::Forget => {
                for connection in state.connections.values_mut() {
                    connection.is_forgotten = true;
                }
            }
            Link::CutPeer(peer) => state.close(false, |_, it| it.peer == Some(peer)),
            _ => {}
        }
        self.shared.moved.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        {
            let mut state = lock(&self.shared.state);
            state.closing = true;
            state.close(false, |_, _| true);
            self.shared.moved.notify_all();
        }
        // Wakes the acceptor, which then ends with all its threads.
        drop(TcpStream::connect(self.address));
        drop(self.acceptor.take().map(JoinHandle::join));
    }
}

struct State {
    link: Link,
    accepted: usize,
    matching_requests: usize,
    /// The open connections by their numbers. A thread whose connection is gone ends.
    connections: BTreeMap<usize, Connection>,
    closing: bool,
}

/// A client's connection, with its continuation to the endpoint.
struct Connection {
    sockets: Vec<TcpStream>,
    /// One for each direction.
    queues: [Queue; 2],
    /// The streams on which something is held back.
    held_streams: BTreeSet<u32>,
    /// The member of an etcd cluster that is the client, once it has said so.
    peer: Option<u64>,
    /// Whether nothing passes it any more.
    is_forgotten: bool,
}

/// What has been read and not yet forwarded.
#[derive(Default)]
struct Queue {
    parts: VecDeque<Part>,
    /// Whether nothing more will be read.
    ended: bool,
}

impl Connection {
    fn new(sockets: &[&TcpStream]) -> Self {
        Self {
            sockets: sockets.iter().map(|socket| copy_of(socket)).collect(),
            queues: Default::default(),
            held_streams: BTreeSet::new(),
            peer: None,
            is_forgotten: false,
        }
    }

    /// Returns the place of the first part in a queue that the link lets pass.
    fn next(&self, direction: Direction, link: Link) -> Option<usize> {
        if self.is_forgotten {
            return None;
        }
        let parts = &self.queues[direction as usize].parts;
        parts.iter().position(|part| {
            let stream = part.stream();
            let is_held = stream.is_some_and(|stream| self.held_streams.contains(&stream));
            link.lets_pass(direction, part, is_held)
        })
    }
}

impl State {
    /// Closes the connections for which `is_it` returns true.
    fn close(&mut self, by_reset: bool, is_it: impl Fn(usize, &Connection) -> bool) {
        let closed = self
            .connections
            .extract_if(.., |&number, it| is_it(number, it));
        for (_, connection) in closed {
            for socket in connection.sockets {
                if by_reset {
                    reset_when_closed(&socket);
                    // Wakes the thread that reads from it, and sends nothing to the other side.
                    drop(socket.shutdown(Shutdown::Read));
                } else {
                    drop(socket.shutdown(Shutdown::Both));
                }
            }
        }
    }
}

struct Shared {
    state: Mutex<State>,
    /// Notified of all that may let a part pass.
    moved: Condvar,
}

impl Shared {
    fn accept(&self, listener: &TcpListener, endpoint: &str) {
        thread::scope(|scope| {
            for client in listener.incoming() {
                let Ok(client) = client else { continue };
                let mut state = lock(&self.state);
                if state.closing {
                    return;
                }
                state.accepted += 1;
                let number = state.accepted;
                match state.link {
                    Link::Cut => {}
                    Link::Reset => reset_when_closed(&client),
                    Link::Silent => {
                        let connection = Connection::new(&[&client]);
                        state.connections.insert(number, connection);
                    }
                    _ => {
                        // If the endpoint is down, the client's connection is closed.
                        if let Ok(server) = TcpStream::connect(endpoint) {
                            // Each part is forwarded at once, as a network does.
                            for socket in [&client, &server] {
                                socket.set_nodelay(true).expect("an open socket");
                            }
                            let connection = Connection::new(&[&client, &server]);
                            state.connections.insert(number, connection);
                            for (direction, from, to) in [
                                (Direction::Requests, copy_of(&client), copy_of(&server)),
                                (Direction::Responses, server, client),
                            ] {
                                scope.spawn(move || self.read(number, direction, from));
                                scope.spawn(move || self.write(number, direction, to));
                            }
                        }
                    }
                }
                drop(state);
                changed();
            }
        });
    }

    fn read(&self, number: usize, direction: Direction, from: TcpStream) {
        let mut parts = Parts::new(from, direction);
        while let Ok(part) = parts.next() {
            self.put(number, direction, part);
        }
        if let Some(connection) = lock(&self.state).connections.get_mut(&number) {
            connection.queues[direction as usize].ended = true;
        }
        self.moved.notify_all();
    }

    /// Puts a part into its queue.
    fn put(&self, number: usize, direction: Direction, mut part: Part) {
        let mut state = lock(&self.state);
        let State {
            link,
            matching_requests,
            connections,
            ..
        } = &mut *state;
        let Some(connection) = connections.get_mut(&number) else {
            return;
        };
        let mut matches = false;
        if direction == Direction::Requests {
            let message = part.message();
            matches = message.is_some_and(|message| link.names(message));
            if matches {
                connection.held_streams.extend(part.stream());
                *matching_requests += 1;
            }
            connection.peer = part.peer().or(connection.peer);
        } else if *link == Link::Garbage {
            fastrand::fill(&mut part.bytes);
        }
        match *link {
            Link::Slow => part.due += Duration::from_millis(fastrand::u64(200..=400)),
            Link::Delayed(time) => part.due += time,
            _ => {}
        }
        let is_cut = matches!(*link, Link::CutPeer(peer) if connection.peer == Some(peer));
        let parts = &mut connection.queues[direction as usize].parts;
        // Delayed parts stay in order.
        part.due = parts.back().map_or(part.due, |last| part.due.max(last.due));
        parts.push_back(part);
        if is_cut {
            state.close(false, |it, _| it == number);
        }
        drop(state);
        self.moved.notify_all();
        if matches {
            changed();
        }
    }

    fn write(&self, number: usize, direction: Direction, mut to: TcpStream) {
        while let Some(part) = self.take(number, direction) {
            if to.write_all(&part.bytes).is_err() {
                break;
            }
        }
        // Does nothing after a reset, which has removed the connection.
        lock(&self.state).close(false, |it, _| it == number);
        self.moved.notify_all();
    }

    /// Waits for the next part that may pass and takes it from its queue. Returns nothing once the
    /// connection is closed, or this direction of it has ended and nothing is left in its queue.
    fn take(&self, number: usize, direction: Direction) -> Option<Part> {
        let mut state = lock(&self.state);
        loop {
            let State {
                link, connections, ..
            } = &mut *state;
            let connection = connections.get_mut(&number)?;
            let next = connection.next(direction, *link);
            let is_forgotten = connection.is_forgotten;
            let queue = &mut connection.queues[direction as usize];
            let mut wait = Duration::MAX;
            if let Some(place) = next {
                wait = queue.parts[place]
                    .due
                    .saturating_duration_since(Instant::now());
                if wait.is_zero() {
                    return queue.parts.remove(place);
                }
            } else if queue.ended && queue.parts.is_empty() && !is_forgotten {
                return None;
            }
            let moved = self.moved.wait_timeout(state, wait);
            state = moved.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn copy_of(socket: &TcpStream) -> TcpStream {
    socket.try_clone().expect("a second handle")
}

fn reset_when_closed(socket: &TcpStream) {
    set_socket_linger(socket, Some(Duration::ZERO)).expect("an open socket");
}

/// Returns an endpoint that refuses connections.
pub fn refusing() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// An endpoint like that of a dead host: it does not even respond to a connection attempt, because
/// its queue of connections is full.
pub struct BlackHole {
    listener: TcpListener,
    _queue: Vec<TcpStream>,
}

impl BlackHole {
    /// Listens, and fills its own queue.
    pub fn new() -> Self {
        Self::at("127.0.0.1:0")
    }

    /// Does the same at this address.
    pub fn at(address: &str) -> Self {
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let mut queue = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            queue.push(stream);
        }
        Self {
            listener,
            _queue: queue,
        }
    }

    /// Returns its address.
    pub fn endpoint(&self) -> String {
        self.listener.local_addr().expect("it listens").to_string()
    }
}
