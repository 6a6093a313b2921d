//! What passes a proxy, and what the proxy does with it.

use std::io::{BufRead, BufReader, ErrorKind, Read, Result};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// What a proxy does with the traffic. There is one list for all kinds of faults, so that a test
/// describes a fault in one way, whether it concerns bytes, connections, calls or peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Forwards everything.
    Open,
    /// Holds everything back until the link changes.
    Frozen,
    /// Holds back what the server sends.
    NoResponses,
    /// Holds back what the client sends.
    NoRequests,
    /// Delays everything by 200 to 400 ms.
    Slow,
    /// Delays everything by this time, in either direction.
    Delayed(Duration),
    /// Forgets the open connections, as a firewall does: nothing passes them any more, not even
    /// their end. Forwards everything on new ones.
    Forget,
    /// Replaces what the server sends with noise of the same length.
    Garbage,
    /// Closes all connections, and new ones at once.
    Cut,
    /// Does the same by a reset.
    Reset,
    /// Accepts connections and never reads from them.
    Silent,
    /// Holds back what the server sends on a stream from the next request of this kind on.
    HoldResponses(Call),
    /// Holds back what the client sends on a stream from the next request of this kind on.
    HoldRequests(Call),
    /// Closes the connections of one member of an etcd cluster to this one.
    CutPeer(u64),
}

impl Link {
    /// Whether this message is a request of the kind that it names.
    pub fn names(self, message: &[u8]) -> bool {
        match self {
            Self::HoldResponses(call) | Self::HoldRequests(call) => call.is_sent_by(message),
            _ => false,
        }
    }

    /// Whether a part of the traffic may pass. `is_held` says whether it belongs to a stream on which
    /// something is held back.
    pub fn lets_pass(self, direction: Direction, part: &Part, is_held: bool) -> bool {
        match self {
            Self::Frozen => false,
            Self::NoResponses => direction != Direction::Responses,
            Self::NoRequests => direction != Direction::Requests,
            Self::HoldResponses(_) => direction != Direction::Responses || !is_held,
            // Only messages: the end of a stream must reach the server.
            Self::HoldRequests(_) => {
                direction != Direction::Requests || !is_held || part.message().is_none()
            }
            _ => true,
        }
    }
}

/// A kind of request to etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// The transaction that tries to win an election, or that hands a term over.
    Campaign,
    /// A keepalive of a lease, or its revocation or the question how long it lasts, whose messages look
    /// the same.
    KeepAlive,
    /// The creation of a watch.
    Watch,
    /// The transaction that records that a job is done.
    Record,
    /// A transaction that writes the record of a term.
    Term,
    /// The transaction that removes the record of a job.
    RemoveRecord,
    /// The transaction that asks a leader to hand over to a chosen candidate.
    Choose,
    /// The transaction by which an operator challenges a leader.
    Challenge,
    /// A transaction that concerns the candidates' seats, such as a read of them.
    Seats,
    /// The request for the records that follow the first page of them.
    LaterRecords,
}

impl Call {
    /// Whether a gRPC message is a request of this kind. One byte and the length come before the
    /// message itself.
    pub fn is_sent_by(self, message: &[u8]) -> bool {
        let Some((length, message)) = message.get(1..).and_then(<[u8]>::split_first_chunk::<4>)
        else {
            return false;
        };
        if u32::from_be_bytes(*length) as usize != message.len() {
            return false;
        }
        match self {
            // Only they put `KEY/acting`: the key, and then the value with its tag and a length below 128.
            Self::Campaign => {
                let key = b"/acting";
                message.windows(key.len() + 3).any(|part| {
                    let put = part.strip_prefix(key);
                    put.is_some_and(|put| matches!(put, [0x12, 0..0x80, b'{']))
                })
            }
            // Only the record of a job holds when it was written.
            Self::Record => contains(message, br#"{"at":"#),
            // Only the record of a term says how that began.
            Self::Term => contains(message, br#""came":"#),
            // One field, the id of the lease, which is long; a TTL is short. Only the last byte of a number is
            // below 0x80, so a request for a lease, which has its id as another field, is none of them.
            Self::KeepAlive => {
                matches!(message, [0x08, number @ .., 0..0x80]
                    if (4..=9).contains(&number.len()) && number.iter().all(|byte| *byte >= 0x80))
            }
            // A request to create, which begins with its key: `leader` in these tests.
            Self::Watch => matches!(message, [0x0a, _, 0x0a, length, b'l', ..] if *length >= 6),
            // It compares, deletes and reads the key; a read names it once.
            Self::RemoveRecord => {
                let key = b"leader/done/";
                message.windows(key.len()).filter(|it| it == key).count() == 3
            }
            // Only `KEY/next` holds a lease.
            Self::Choose => contains(message, br#"{"lease":"#),
            Self::Challenge => contains(message, br#"{"name":"leader-election challenge"}"#),
            Self::Seats => contains(message, b"leader/candidates/"),
            // The range begins after a key, with that and a null byte.
            Self::LaterRecords => {
                matches!(message, [0x0a, length, rest @ ..]
                    if rest.starts_with(b"leader/done/")
                        && rest[..usize::from(*length)].ends_with(&[0]))
            }
        }
    }
}

/// Which way a part goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Requests,
    /// From the server to the client.
    Responses,
}

/// A part of the traffic that is forwarded or held back as a whole: a frame of HTTP/2, and whatever
/// has arrived for any other protocol.
pub struct Part {
    /// What is sent.
    pub bytes: Vec<u8>,
    /// Whether it is a frame.
    is_frame: bool,
    /// The earliest time at which it is forwarded.
    pub due: Instant,
}

const DATA: u8 = 0;
const SETTINGS: u8 = 4;

/// Length, type, flags and stream of a frame.
const HEADER: usize = 9;

/// What a client sends before its first frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// By this header, a member of an etcd cluster says who it is in its requests to peers.
const PEER: &[u8] = b"X-Server-From: ";

impl Part {
    fn new(bytes: Vec<u8>, is_frame: bool) -> Self {
        Self {
            bytes,
            is_frame,
            due: Instant::now(),
        }
    }

    /// Returns the message of a DATA frame.
    pub fn message(&self) -> Option<&[u8]> {
        (self.is_frame && self.bytes[3] == DATA).then(|| &self.bytes[HEADER..])
    }

    /// Returns the number of the HTTP/2 stream. Each call has a stream of its own.
    pub fn stream(&self) -> Option<u32> {
        let number = self.bytes.get(5..HEADER).filter(|_| self.is_frame)?;
        Some(u32::from_be_bytes(number.try_into().ok()?) & 0x7fff_ffff)
    }

    /// Returns the id of the member that sends it, if it says so.
    pub fn peer(&self) -> Option<u64> {
        if self.is_frame {
            return None;
        }
        let begin = self.bytes.windows(PEER.len()).position(|it| it == PEER)? + PEER.len();
        let id = self.bytes[begin..].split(|byte| *byte == b'\r').next()?;
        u64::from_str_radix(str::from_utf8(id).ok()?, 16).ok()
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Reads the parts that one side of a connection sends.
pub struct Parts {
    from: BufReader<TcpStream>,
    direction: Direction,
    /// Whether it is HTTP/2; unknown before the first bytes.
    is_http2: Option<bool>,
}

impl Parts {
    /// Reads nothing yet.
    pub fn new(from: TcpStream, direction: Direction) -> Self {
        Self {
            from: BufReader::with_capacity(16 * 1024, from),
            direction,
            is_http2: None,
        }
    }

    /// Waits for the next part.
    ///
    /// # Errors
    /// When there is none, because the connection has ended.
    pub fn next(&mut self) -> Result<Part> {
        let is_first = self.is_http2.is_none();
        let is_http2 = self.is_http2()?;
        if is_first && is_http2 && self.direction == Direction::Requests {
            return Ok(Part::new(self.read(PREFACE.len())?, false));
        }
        let bytes = if is_http2 {
            self.read_frame()?
        } else {
            self.read_some()?
        };
        Ok(Part::new(bytes, is_http2))
    }

    fn is_http2(&mut self) -> Result<bool> {
        if let Some(known) = self.is_http2 {
            return Ok(known);
        }
        let first = self.from.fill_buf()?;
        let is_http2 = match self.direction {
            Direction::Requests => first.starts_with(PREFACE),
            Direction::Responses => matches!(first, [_, _, _, SETTINGS, _, 0, 0, 0, 0, ..]),
        };
        self.is_http2 = Some(is_http2);
        Ok(is_http2)
    }

    fn read(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.from.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn read_frame(&mut self) -> Result<Vec<u8>> {
        let header = self.read(HEADER)?;
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        Ok([header, self.read(length)?].concat())
    }

    fn read_some(&mut self) -> Result<Vec<u8>> {
        let bytes = self.from.fill_buf()?.to_vec();
        self.from.consume(bytes.len());
        if bytes.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes)
    }
}
