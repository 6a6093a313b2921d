//! A member of etcd that refuses every request, as an overloaded one does.

use super::{changed, lock};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// What etcd responds while it has more requests than it can apply: gRPC's `RESOURCE_EXHAUSTED`.
pub const OVERLOADED: (u8, &str) = (8, "etcdserver: too many requests");
/// What etcd responds to a user who may not do this: gRPC's `PERMISSION_DENIED`.
pub const DENIED: (u8, &str) = (7, "etcdserver: permission denied");

/// The length of the preface with which an HTTP/2 client begins.
const PREFACE: usize = 24;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A member that responds to every request with one gRPC status.
pub struct Refusing {
    endpoint: String,
    shared: Arc<Mutex<Shared>>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    requests: usize,
    open: Vec<TcpStream>,
    is_closing: bool,
}

impl Refusing {
    /// Listens at an address, or at any if its port is 0.
    ///
    /// # Panics
    /// If another process listens there.
    pub fn start(address: &str, status: (u8, &'static str)) -> Self {
        let listener = TcpListener::bind(address).expect("a free port");
        let endpoint = listener.local_addr().expect("it listens").to_string();
        let shared = Arc::new(Mutex::new(Shared::default()));
        let acceptor = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || accept(&listener, status, &shared))
        };
        Self {
            endpoint,
            shared,
            acceptor: Some(acceptor),
        }
    }

    /// Listens at a port of its own.
    pub fn anywhere(status: (u8, &'static str)) -> Self {
        Self::start("127.0.0.1:0", status)
    }

    /// Returns its address.
    pub fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// Returns how many requests it has refused.
    pub fn requests(&self) -> usize {
        lock(&self.shared).requests
    }
}

impl Drop for Refusing {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        shared.is_closing = true;
        for stream in shared.open.drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
        drop(shared);
        // Wakes the acceptor, which then ends.
        drop(TcpStream::connect(&self.endpoint));
        drop(self.acceptor.take().map(JoinHandle::join));
    }
}

fn accept(listener: &TcpListener, status: (u8, &'static str), shared: &Arc<Mutex<Shared>>) {
    for client in listener.incoming().filter_map(Result::ok) {
        let mut state = lock(shared);
        if state.is_closing {
            return;
        }
        state
            .open
            .push(client.try_clone().expect("a second handle"));
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            drop(refuse_all(&client, status, || {
                lock(&shared).requests += 1;
                changed();
            }));
            // The other handle would keep it open.
            drop(client.shutdown(Shutdown::Both));
        });
    }
}

/// Refuses requests until the client closes the connection; calls `refused` for each.
fn refuse_all(
    mut client: &TcpStream,
    (code, message): (u8, &str),
    refused: impl Fn(),
) -> io::Result<()> {
    client.read_exact(&mut [0; PREFACE])?;
    client.write_all(&frame(SETTINGS, 0, [0; 4], &[]))?;
    loop {
        let mut head = [0; 9];
        client.read_exact(&mut head)?;
        let [l0, l1, l2, kind, flags, stream @ ..] = head;
        let length = u32::from_be_bytes([0, l0, l1, l2]);
        io::copy(&mut client.take(length.into()), &mut io::sink())?;
        match kind {
            SETTINGS if flags & ACK == 0 => {
                client.write_all(&frame(SETTINGS, ACK, [0; 4], &[]))?;
            }
            HEADERS => {
                // ":status: 200" is in HPACK's static table.
                let mut fields = vec![0x88];
                for (name, value) in [
                    ("content-type", "application/grpc"),
                    ("grpc-status", &code.to_string()),
                    ("grpc-message", message),
                ] {
                    // A literal that is not indexed, with both texts as they are.
                    fields.push(0);
                    for text in [name, value] {
                        fields.push(u8::try_from(text.len()).expect("short"));
                        fields.extend(text.as_bytes());
                    }
                }
                let flags = END_STREAM | END_HEADERS;
                client.write_all(&frame(HEADERS, flags, stream, &fields))?;
                refused();
            }
            _ => {}
        }
    }
}

fn frame(kind: u8, flags: u8, stream: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[..], &[kind, flags], &stream, payload].concat()
}
