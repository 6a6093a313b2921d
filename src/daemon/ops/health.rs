//! `health`: whether a daemon on this machine is alive.

use super::print;
use crate::{clock, printable::Printable};
use anyhow::{Context, bail};
use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How much of an answer is read, in bytes.
const LONGEST: usize = 4096;

/// Asks the daemon that serves HTTP at this address.
pub(super) fn run(mut address: SocketAddr) -> anyhow::Result<bool> {
    // Who listens everywhere is asked where this is.
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let answer = ask(address)
        .with_context(|| format!("could not ask the daemon at {address}; was it given --http?"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let body = Printable(body.trim_end().as_bytes()).to_string();
    let mut status_line = head.lines().next().unwrap_or_default().splitn(3, ' ');
    match (status_line.next(), status_line.next()) {
        (Some("HTTP/1.0" | "HTTP/1.1"), Some("200")) => print(&body),
        (Some("HTTP/1.0" | "HTTP/1.1"), Some("500")) => bail!("{body}"),
        _ => bail!("what answers at {address} is no daemon of this program"),
    }
}

fn ask(address: SocketAddr) -> io::Result<String> {
    let end = clock::now() + PATIENCE;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET /live HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    while answer.len() < LONGEST {
        // Whoever answers byte by byte is not waited for.
        let left = end.since(clock::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer)? {
            0 => break,
            length => answer.extend_from_slice(&buffer[..length]),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
