//! `health`: whether a daemon on this machine is alive.

use super::print;
use anyhow::{Context, bail};
use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    process::ExitCode,
    time::Duration,
};

/// How long each step of it may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How much of an answer is read, in bytes.
const LONGEST: u64 = 4096;

/// Asks the daemon that serves HTTP at this address.
pub(super) fn run(mut address: SocketAddr) -> anyhow::Result<ExitCode> {
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
    let mut status_line = head.lines().next().unwrap_or_default().splitn(3, ' ');
    match (status_line.next(), status_line.next()) {
        (Some("HTTP/1.0" | "HTTP/1.1"), Some("200")) => {
            print(body.trim_end())?;
            Ok(ExitCode::SUCCESS)
        }
        (Some("HTTP/1.0" | "HTTP/1.1"), Some("500")) => bail!("{}", body.trim_end()),
        _ => bail!("what answers at {address} is no daemon of this program"),
    }
}

fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET /live HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
