//! Addresses that misbehave: a way to etcd that can be broken, one that is silent, one that refuses.

use super::{changed, free_port, lock};
use rustix::net::sockopt::{set_socket_linger, socket_linger};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What happens to bytes on their way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// They arrive.
    Open,
    /// They are held back, and arrive when the way is open again.
    Frozen,
    /// Questions arrive, answers are held back.
    Deaf,
    /// Answers arrive, questions are held back.
    Mute,
    /// Everything takes 300 ms more, give or take 100.
    Slow,
    /// Questions arrive, answers become noise of the same length.
    Garbage,
    /// Connections are closed as soon as they are there.
    Cut,
    /// The same, by a reset.
    Reset,
    /// Connections are taken, and that is all that ever happens on them.
    Silent,
}

struct State {
    way: Way,
    accepted: usize,
    open: Vec<TcpStream>,
    closing: bool,
}

impl State {
    /// Ends all connections, by a reset or in order.
    fn close_all(&mut self, by_reset: bool) {
        for stream in self.open.drain(..) {
            if by_reset {
                reset_when_closed(&stream);
                // Wakes whoever reads from it, and tells the other side nothing.
                drop(stream.shutdown(Shutdown::Read));
            } else {
                drop(stream.shutdown(Shutdown::Both));
            }
        }
    }
}

struct Shared {
    state: Mutex<State>,
    moved: Condvar,
}

/// A proxy in front of an endpoint.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
    acceptor: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens, and connects what comes to `endpoint`.
    pub fn start(endpoint: &str, way: Way) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let state = State {
            way,
            accepted: 0,
            open: Vec::new(),
            closing: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            moved: Condvar::new(),
        });
        let threads = Arc::new(Mutex::new(Vec::new()));
        let acceptor = {
            let (shared, threads) = (Arc::clone(&shared), Arc::clone(&threads));
            let endpoint = endpoint.to_owned();
            thread::spawn(move || accept(&listener, &endpoint, &shared, &threads))
        };
        Self {
            address,
            shared,
            threads,
            acceptor: Some(acceptor),
        }
    }

    /// An endpoint that takes connections and never says a word.
    pub fn silent() -> Self {
        Self::start("", Way::Silent)
    }

    /// An endpoint that hangs up on whoever calls.
    pub fn cut() -> Self {
        Self::start("", Way::Cut)
    }

    /// Its address.
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// How many connections came so far.
    pub fn accepted(&self) -> usize {
        lock(&self.shared.state).accepted
    }

    /// Changes what happens, also to connections that are open.
    pub fn set(&self, way: Way) {
        let mut state = lock(&self.shared.state);
        state.way = way;
        if matches!(way, Way::Cut | Way::Reset) {
            state.close_all(way == Way::Reset);
        }
        self.shared.moved.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        {
            let mut state = lock(&self.shared.state);
            state.closing = true;
            state.close_all(false);
            self.shared.moved.notify_all();
        }
        // Wakes the acceptor, which sees that this is the end.
        drop(TcpStream::connect(self.address));
        let acceptor = self.acceptor.take().into_iter();
        for thread in acceptor.chain(std::mem::take(&mut *lock(&self.threads))) {
            drop(thread.join());
        }
    }
}

fn accept(
    listener: &TcpListener,
    endpoint: &str,
    shared: &Arc<Shared>,
    threads: &Mutex<Vec<JoinHandle<()>>>,
) {
    for client in listener.incoming() {
        let Ok(client) = client else { continue };
        let mut state = lock(&shared.state);
        if state.closing {
            return;
        }
        state.accepted += 1;
        match state.way {
            Way::Cut => {}
            Way::Reset => reset_when_closed(&client),
            Way::Silent => state.open.push(client),
            _ => {
                // Where etcd is not there, the client is hung up on.
                if let Ok(server) = TcpStream::connect(endpoint) {
                    state.open.extend([copy_of(&client), copy_of(&server)]);
                    let (client2, server2) = (copy_of(&client), copy_of(&server));
                    let mut threads = lock(threads);
                    for (from, to, answers) in [(client, server, false), (server2, client2, true)] {
                        let (shared, shared2) = (Arc::clone(shared), Arc::clone(shared));
                        let (put, arrived) = channel();
                        threads.push(thread::spawn(move || read(from, &put, &shared, answers)));
                        threads.push(thread::spawn(move || {
                            write(to, &arrived, &shared2, answers);
                        }));
                    }
                }
            }
        }
        drop(state);
        changed();
    }
}

fn copy_of(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("a second handle")
}

fn reset_when_closed(stream: &TcpStream) {
    set_socket_linger(stream, Some(Duration::ZERO)).expect("an open socket");
}

/// Bytes, and when they arrive at the earliest.
type Sent = (Instant, Vec<u8>);

fn read(mut from: TcpStream, put: &Sender<Sent>, shared: &Shared, answers: bool) {
    let mut buffer = [0; 16 * 1024];
    let mut due = Instant::now();
    loop {
        let length = from.read(&mut buffer).unwrap_or(0);
        if length == 0 {
            return;
        }
        let mut bytes = buffer[..length].to_vec();
        let way = lock(&shared.state).way;
        if way == Way::Garbage && answers {
            fastrand::fill(&mut bytes);
        }
        let delay = match way {
            Way::Slow => Duration::from_millis(fastrand::u64(200..=400)),
            _ => Duration::ZERO,
        };
        // In the order in which they were sent.
        due = due.max(Instant::now() + delay);
        if put.send((due, bytes)).is_err() {
            return;
        }
    }
}

fn write(mut to: TcpStream, arrived: &Receiver<Sent>, shared: &Shared, answers: bool) {
    let held_back = [Way::Frozen, if answers { Way::Deaf } else { Way::Mute }];
    for (due, bytes) in arrived {
        let mut state = lock(&shared.state);
        loop {
            let left = due.saturating_duration_since(Instant::now());
            let held = held_back.contains(&state.way);
            if state.closing || (!held && left.is_zero()) {
                break;
            }
            let longest = if held { Duration::MAX } else { left };
            let moved = shared.moved.wait_timeout(state, longest);
            state = moved.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let linger = socket_linger(&to).unwrap_or(None);
    if linger.is_none() {
        drop(to.shutdown(Shutdown::Both));
    }
}

/// An endpoint where nobody listens.
pub fn refusing() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// An endpoint as a dead host is one: it does not even answer a connection attempt, because its
/// queue of connections is full.
pub struct BlackHole {
    listener: TcpListener,
    _queue: Vec<TcpStream>,
}

impl BlackHole {
    /// Listens, and fills its own queue.
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
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

    /// Its address.
    pub fn endpoint(&self) -> String {
        self.listener.local_addr().expect("it listens").to_string()
    }
}
