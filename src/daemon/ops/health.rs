//! `health`: checks whether a daemon on this machine is alive.

use super::print;
use crate::{clock, printable::Printable};
use anyhow::{Context, bail};
use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

/// How long the request may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How much of a response is read, in bytes.
const MAX_RESPONSE_LENGTH: usize = 4096;

/// Asks the daemon that serves HTTP at this address, and prints its response.
///
/// # Errors
/// If the daemon is not alive or cannot be asked.
pub(super) fn run(mut address: SocketAddr) -> anyhow::Result<bool> {
    // A server that listens on every address is reached at the loopback address.
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let response = get_live(address)
        .with_context(|| format!("could not ask the daemon at {address}; was it given --http?"))?;
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
    let body = Printable(body.trim_end().as_bytes()).to_string();
    let mut status_line = head.lines().next().unwrap_or_default().splitn(3, ' ');
    match (status_line.next(), status_line.next()) {
        (Some("HTTP/1.0" | "HTTP/1.1"), Some("200")) => print(&body),
        (Some("HTTP/1.0" | "HTTP/1.1"), Some("500")) => bail!("{body}"),
        _ => bail!("the server at {address} is not a daemon of this program"),
    }
}

// One request needs no client library.
fn get_live(address: SocketAddr) -> io::Result<String> {
    let deadline = clock::now() + TIMEOUT;
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(format!("GET /live HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut response = Vec::new();
    let mut buffer = [0; 1024];
    while response.len() < MAX_RESPONSE_LENGTH {
        // The timeout is for the whole response, which may come byte by byte.
        let remaining = deadline.since(clock::now());
        if remaining.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(remaining))?;
        match stream.read(&mut buffer)? {
            0 => break,
            length => response.extend_from_slice(&buffer[..length]),
        }
    }
    Ok(String::from_utf8_lossy(&response).into_owned())
}
