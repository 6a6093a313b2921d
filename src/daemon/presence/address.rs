//! The address at which a leader serves its presence, and how to reach it.

use crate::config::Endpoint;
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpStream, lookup_host},
    sync::Semaphore,
    time::timeout,
};

/// Returns the host and the port if a leader's address is an http URL with both and without a path. Any other address
/// is that of something else.
pub(super) fn authority(address: &str) -> Option<&str> {
    let authority = address.strip_prefix("http://")?;
    // An endpoint of etcd is written in the same way.
    address.parse::<Endpoint>().ok()?;
    Some(authority.strip_suffix('/').unwrap_or(authority))
}

/// Resolves names, one at a time: one whose resolution hangs uses a thread of the runtime, and the election needs some.
pub(super) struct Resolver(Arc<Semaphore>);

impl Resolver {
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }

    /// Resolves the host of an authority.
    ///
    /// Cancel safe: a resolution that is not waited for any more still counts until it ends.
    ///
    /// # Errors
    /// If the host has no address.
    pub async fn resolve(&self, authority: &str) -> io::Result<Vec<SocketAddr>> {
        let permit = Arc::clone(&self.0).acquire_owned().await;
        let permit = permit.map_err(io::Error::other)?;
        let authority = authority.to_owned();
        let resolving = tokio::spawn(async move {
            let _permit = permit;
            let addresses = lookup_host(authority).await?;
            Ok(addresses.collect())
        });
        resolving.await.map_err(io::Error::other)?
    }
}

/// Connects to the first of these addresses that accepts. Each gets an equal share of the time.
///
/// # Errors
/// If none accepts; the error is that of the last one.
pub(super) async fn connect(addresses: &[SocketAddr], within: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    let count = u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    for address in addresses {
        match timeout(within / count, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_http_url_with_host_and_port_and_without_a_path_is_used() {
        for (address, expected) in [
            ("http://server1:8008", "server1:8008"),
            ("http://server1:8008/", "server1:8008"),
            ("http://10.0.0.1:80", "10.0.0.1:80"),
            ("http://[::1]:8008/", "[::1]:8008"),
            ("http://a-b.example.org:65535", "a-b.example.org:65535"),
        ] {
            assert_eq!(authority(address), Some(expected), "{address}");
        }
        for address in [
            "",
            "server1:8008",
            "10.0.0.1:80",
            "/run/socket",
            "https://server1:8008",
            "HTTP://server1:8008",
            "http://",
            "http://:80",
            "http://server1",
            "http://server1/",
            "http://server1:",
            "http://server1:0",
            "http://server1:+80",
            "http://server1:65536",
            "http://server1:8008//",
            "http://server1:8008/app",
            "http://server1:8008/presence",
            "http://server1:8008?a=b",
            "http://server1:8008/#x",
            "http://user@server1:8008",
            "http://ser ver:8008",
            "http://server1\r\nx:8008",
            "http://[::1:8008",
            "http://::1:8008",
            "http://[fe80::1%eth0]:8008",
            "http://http://server1:8008",
            "http://https://server1:8008",
        ] {
            assert_eq!(authority(address), None, "{address}");
        }
    }

    #[tokio::test]
    async fn an_ip_address_needs_no_resolution_and_an_unknown_name_is_an_error() {
        let resolver = Resolver::new();
        let found = resolver.resolve("[::1]:80").await.unwrap();
        assert_eq!(found, ["[::1]:80".parse().unwrap()]);
        // No server of names is asked about an empty label.
        assert!(resolver.resolve("name..invalid:80").await.is_err());
    }

    #[tokio::test]
    async fn only_one_name_is_resolved_at_a_time() {
        let resolver = Resolver::new();
        let hangs = resolver.0.acquire().await.unwrap();
        let waits = timeout(Duration::from_millis(20), resolver.resolve("127.0.0.1:80"));
        assert!(waits.await.is_err());
        drop(hangs);
        resolver.resolve("127.0.0.1:80").await.unwrap();
    }
}
