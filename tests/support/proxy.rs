//! Addresses that misbehave: a way to etcd that can be broken, one that is silent, one that refuses.

use super::{changed, free_port, lock};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What happens to bytes on their way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// They arrive.
    Open,
    /// They are held back, and arrive when the way is open again.
    Frozen,
    /// Questions arrive, answers are held back.
    Deaf,
    /// Connections are closed as soon as they are there.
    Cut,
    /// Connections are taken, and that is all that ever happens on them.
    Silent,
}

struct State {
    way: Way,
    accepted: usize,
    open: Vec<TcpStream>,
    closing: bool,
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
        if way == Way::Cut {
            close_all(&mut state);
        }
        self.shared.moved.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        {
            let mut state = lock(&self.shared.state);
            state.closing = true;
            close_all(&mut state);
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

fn close_all(state: &mut State) {
    for stream in state.open.drain(..) {
        drop(stream.shutdown(Shutdown::Both));
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
            Way::Silent => state.open.push(client),
            Way::Open | Way::Frozen | Way::Deaf => {
                // Where etcd is not there, the client is hung up on.
                if let Ok(server) = TcpStream::connect(endpoint) {
                    let (client2, server2) = (copy_of(&client), copy_of(&server));
                    state.open.extend([copy_of(&client), copy_of(&server)]);
                    let (there, back) = (Arc::clone(shared), Arc::clone(shared));
                    lock(threads).extend([
                        thread::spawn(move || forward(client, server, &there, &[Way::Frozen])),
                        thread::spawn(move || {
                            forward(server2, client2, &back, &[Way::Frozen, Way::Deaf]);
                        }),
                    ]);
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

fn forward(mut from: TcpStream, mut to: TcpStream, shared: &Shared, held_back: &[Way]) {
    let mut buffer = [0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).unwrap_or(0);
        let state = lock(&shared.state);
        let hold = |state: &mut State| held_back.contains(&state.way) && !state.closing;
        drop(
            shared
                .moved
                .wait_while(state, hold)
                .unwrap_or_else(PoisonError::into_inner),
        );
        if length == 0 || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Both));
    drop(from.shutdown(Shutdown::Both));
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
