//! A way to etcd on which the answers to one kind of question are held back, and nothing else: it
//! reads the frames of HTTP/2.

use super::{changed, lock};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// A kind of question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// The transaction that tries to win.
    Campaign,
    /// A keepalive of a lease, or its revocation, which looks the same.
    KeepAlive,
    /// The opening of a watch.
    Watch,
}

impl Question {
    /// Whether a message is such a question. Before the message itself come a byte and its length.
    fn is(self, message: &[u8]) -> bool {
        let Some((length, message)) = message.get(1..).and_then(<[u8]>::split_first_chunk::<4>)
        else {
            return false;
        };
        if u32::from_be_bytes(*length) as usize != message.len() {
            return false;
        }
        match self {
            // Nobody else writes a witness.
            Self::Campaign => contains(message, br#"{"name":"#),
            // One field, the lease's number, which is long; that of a TTL is short.
            Self::KeepAlive => message.first() == Some(&0x08) && (6..=11).contains(&message.len()),
            // A request to create, which begins with its key.
            Self::Watch => matches!(message, [0x0a, _, 0x0a, length, b'l', ..] if *length >= 6),
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[derive(Default)]
struct State {
    held: Option<Question>,
    /// Whether the questions themselves are held back, too.
    questions: bool,
    seen: usize,
    connections: Vec<Arc<Connection>>,
    closing: bool,
}

struct Connection {
    client: TcpStream,
    server: TcpStream,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    streams: BTreeSet<u32>,
    frames: Vec<Vec<u8>>,
    questions: Vec<Vec<u8>>,
    whole: BTreeSet<u32>,
}

/// A proxy in front of an endpoint.
pub struct Answers {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    acceptor: Option<JoinHandle<()>>,
}

impl Answers {
    /// Listens, and connects what comes to `endpoint`.
    pub fn start(endpoint: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let state = Arc::new(Mutex::new(State::default()));
        let (shared, endpoint) = (Arc::clone(&state), endpoint.to_owned());
        let acceptor = thread::spawn(move || accept(&listener, &endpoint, &shared));
        Self {
            address,
            state,
            acceptor: Some(acceptor),
        }
    }

    /// Its address.
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// From the next such question on, its stream's answers are held back.
    pub fn hold(&self, question: Question) {
        let mut state = lock(&self.state);
        state.held = Some(question);
        state.seen = 0;
    }

    /// From the next such question on, it does not reach etcd.
    pub fn hold_questions(&self, question: Question) {
        self.hold(question);
        lock(&self.state).questions = true;
    }

    /// How many such questions came since then.
    pub fn seen(&self) -> usize {
        lock(&self.state).seen
    }

    /// Lets the answers go, for whom it may still concern.
    pub fn release(&self) {
        let mut state = lock(&self.state);
        state.held = None;
        state.questions = false;
        for connection in &state.connections {
            let mut held = lock(&connection.held);
            held.streams.clear();
            held.whole.clear();
            for frame in held.questions.drain(..) {
                drop((&connection.server).write_all(&frame));
            }
            for frame in held.frames.drain(..) {
                drop((&connection.client).write_all(&frame));
            }
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        {
            let mut state = lock(&self.state);
            state.closing = true;
            for connection in &state.connections {
                connection.close();
            }
        }
        // Wakes the acceptor, which sees that this is the end.
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

impl Connection {
    fn close(&self) {
        for stream in [&self.client, &self.server] {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

fn accept(listener: &TcpListener, endpoint: &str, shared: &Arc<Mutex<State>>) {
    thread::scope(|scope| {
        for client in listener.incoming() {
            let Ok(client) = client else { continue };
            let mut state = lock(shared);
            if state.closing {
                return;
            }
            // Where etcd is not there, the client is hung up on.
            let Ok(server) = TcpStream::connect(endpoint) else {
                continue;
            };
            let connection = Arc::new(Connection {
                client,
                server,
                held: Mutex::default(),
            });
            state.connections.push(Arc::clone(&connection));
            let questions = Arc::clone(&connection);
            scope.spawn(move || {
                let _ = forward_questions(&questions, shared);
                questions.close();
            });
            scope.spawn(move || {
                let _ = forward_answers(&connection);
                connection.close();
            });
        }
    });
}

/// What a client says before its first frame.
const PREFACE: usize = 24;
const DATA: u8 = 0;

fn forward_questions(connection: &Connection, shared: &Mutex<State>) -> std::io::Result<()> {
    let mut preface = [0; PREFACE];
    (&connection.client).read_exact(&mut preface)?;
    (&connection.server).write_all(&preface)?;
    loop {
        let frame = read_frame(&connection.client)?;
        {
            let mut state = lock(shared);
            let held = state.held;
            if frame[3] == DATA && held.is_some_and(|question| question.is(&frame[HEAD..])) {
                let mut held = lock(&connection.held);
                if state.questions {
                    held.whole.insert(stream_of(&frame));
                } else {
                    held.streams.insert(stream_of(&frame));
                }
                drop(held);
                state.seen += 1;
                drop(state);
                changed();
            }
        }
        let mut held = lock(&connection.held);
        if frame[3] == DATA && held.whole.contains(&stream_of(&frame)) {
            held.questions.push(frame);
        } else {
            (&connection.server).write_all(&frame)?;
        }
    }
}

fn forward_answers(connection: &Connection) -> std::io::Result<()> {
    loop {
        let frame = read_frame(&connection.server)?;
        let mut held = lock(&connection.held);
        if held.streams.contains(&stream_of(&frame)) {
            held.frames.push(frame);
        } else {
            (&connection.client).write_all(&frame)?;
        }
    }
}

/// Length, type, flags and stream.
const HEAD: usize = 9;

fn read_frame(mut from: &TcpStream) -> std::io::Result<Vec<u8>> {
    let mut frame = vec![0; HEAD];
    from.read_exact(&mut frame)?;
    let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize;
    frame.resize(HEAD + length, 0);
    from.read_exact(&mut frame[HEAD..])?;
    Ok(frame)
}

fn stream_of(frame: &[u8]) -> u32 {
    u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]]) & 0x7fff_ffff
}
