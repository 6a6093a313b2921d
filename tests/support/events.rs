//! A reader of `GET /events`.

use super::PATIENCE;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

/// Opens a connection and asks for the events; returns it before anything is read.
///
/// # Panics
/// If there is no server.
pub fn ask_for_events(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("a server");
    stream
        .write_all(b"GET /events HTTP/1.1\r\nhost: x\r\n\r\n")
        .expect("it takes the request");
    stream
}

/// One that reads events.
pub struct Events(BufReader<TcpStream>);

impl Events {
    /// Opens a connection; returns the reader, and the snapshot that comes first.
    ///
    /// # Panics
    /// If the first event is no snapshot.
    pub fn open(address: &str) -> (Self, Value) {
        let mut events = Self::of(ask_for_events(address));
        let first = events.wait_for_any();
        assert_eq!(first["event"], "snapshot", "{first}");
        (events, first)
    }

    /// Returns a reader of what this connection receives.
    ///
    /// # Panics
    /// If the operating system refuses.
    pub fn of(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self(BufReader::new(stream))
    }

    /// Waits for the next line that is not about the encoding of the stream; `None` at its end.
    ///
    /// # Panics
    /// If nothing comes for long.
    pub fn next_line(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            // What was not read in time may be cut off.
            if self.0.read_line(&mut line).is_ok_and(|length| length > 0) {
                let line = line.trim_end();
                if line.starts_with("data: ") || line.starts_with(':') {
                    return Some(line.to_owned());
                }
            } else {
                return None;
            }
        }
    }

    /// Waits for the next event; `None` at the end.
    ///
    /// # Panics
    /// If nothing comes for long, or an event is no JSON.
    pub fn next_if_any(&mut self) -> Option<Value> {
        loop {
            let line = self.next_line()?;
            if let Some(json) = line.strip_prefix("data: ") {
                return Some(serde_json::from_str(json).expect("JSON"));
            }
        }
    }

    /// Waits for the next event.
    ///
    /// # Panics
    /// If there is none.
    pub fn wait_for_any(&mut self) -> Value {
        self.next_if_any().expect("an event")
    }

    /// Waits for the next event with this name of which this is true.
    ///
    /// # Panics
    /// If there is none.
    pub fn wait_for_next(&mut self, name: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        loop {
            let event = self.wait_for_any();
            if event["event"] == name && is_it(&event) {
                return event;
            }
        }
    }
}
