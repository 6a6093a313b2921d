//! The etcd cluster, and how to reach it.

use super::{InvalidConfig, Password};
use crate::etcd::Connections;
use std::{fmt, net::Ipv6Addr, num::NonZeroUsize, path::PathBuf, str::FromStr, sync::Arc};

/// The address of one member of the etcd cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    given: String,
    authority: String,
    /// Whether it was given as an https URL, an http URL, or without a scheme.
    tls: Option<bool>,
}

impl Endpoint {
    /// Returns the URL to connect to, with TLS or without.
    #[must_use]
    pub fn url(&self, uses_tls: bool) -> String {
        let scheme = if uses_tls { "https" } else { "http" };
        format!("{scheme}://{}", self.authority)
    }
}

impl fmt::Display for Endpoint {
    /// Writes the endpoint as it was given.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.given)
    }
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(given: &str) -> Result<Self, InvalidEndpoint> {
        let (authority, tls) = match given.split_once("://") {
            None => (given, None),
            Some(("http", rest)) => (rest.strip_suffix('/').unwrap_or(rest), Some(false)),
            Some(("https", rest)) => (rest.strip_suffix('/').unwrap_or(rest), Some(true)),
            Some(_) => return Err(InvalidEndpoint::Scheme),
        };
        if authority.is_empty() {
            return Err(InvalidEndpoint::Empty);
        }
        if authority.contains('@') {
            return Err(InvalidEndpoint::UserInfo);
        }
        let (host, port) = authority.rsplit_once(':').ok_or(InvalidEndpoint::Port)?;
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        if !digits || !port.parse::<u16>().is_ok_and(|port| port > 0) {
            return Err(InvalidEndpoint::Port);
        }
        let is_host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => {
                !host.is_empty()
                    && host
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            }
        };
        if !is_host {
            return Err(InvalidEndpoint::Host);
        }
        Ok(Self {
            given: given.to_owned(),
            authority: authority.to_owned(),
            tls,
        })
    }
}

/// The error of a text that cannot be an [`Endpoint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidEndpoint {
    /// It is empty.
    #[error("an endpoint is empty; give host:port, separated by single commas")]
    Empty,
    /// There is no port, or none from 1 to 65535.
    #[error("give host:port with a port from 1 to 65535, as in 127.0.0.1:2379 or [::1]:2379")]
    Port,
    /// The host is neither a name nor an address.
    #[error("the host is neither a name nor an IP address (IPv6 goes in brackets: [::1]:2379)")]
    Host,
    /// It contains a user.
    #[error("user and password do not belong into an endpoint")]
    UserInfo,
    /// It is a URL of another kind.
    #[error("only host:port, http:// and https:// URLs are endpoints")]
    Scheme,
}

/// The TLS settings: how etcd proves its identity, and how this candidate proves its own.
///
/// The files are read again for each connection, so they can be replaced while the program runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tls {
    /// The file with the certificates of the trusted authorities, as PEM; `None`: those of the system.
    pub authorities: Option<PathBuf>,
    /// The files with this candidate's own certificate and its key, as PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// The user that authenticates to etcd, with its password.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The user's password.
    pub password: Password,
}

impl Credentials {
    /// Creates credentials from a user and its password.
    pub fn new(user: impl Into<String>, password: Password) -> Self {
        let user = user.into();
        Self { user, password }
    }
}

/// An etcd cluster: the addresses of its members, its TLS settings and the credentials.
///
/// All elections and observers with clones of one cluster share one connection to each endpoint, as long as they run
/// in the same tokio runtime. The connection closes when none of them uses it any more. A connection that fails is
/// replaced once for all of them. If a request of an election got no response in time, that election uses a newer
/// connection from then on.
#[derive(Clone, Debug)]
pub struct Cluster {
    endpoints: Vec<Endpoint>,
    tls: Option<Tls>,
    credentials: Option<Credentials>,
    connections: Arc<Connections>,
}

impl Cluster {
    /// Creates a cluster from the addresses of its members.
    ///
    /// # Errors
    /// If there is no endpoint, or http and https are mixed.
    pub fn new(endpoints: Vec<Endpoint>) -> Result<Self, InvalidConfig> {
        if endpoints.is_empty() {
            return Err(InvalidConfig::NoEndpoint);
        }
        let given_with = |tls| endpoints.iter().any(|endpoint| endpoint.tls == Some(tls));
        if given_with(true) && given_with(false) {
            return Err(InvalidConfig::PlainEndpoint);
        }
        Ok(Self {
            endpoints,
            tls: None,
            credentials: None,
            connections: Arc::default(),
        })
    }

    /// Sets the TLS settings. Endpoints without a scheme then use TLS.
    ///
    /// # Errors
    /// If an endpoint was given as an http URL, because its connection would not be secret.
    pub fn with_tls(mut self, tls: Tls) -> Result<Self, InvalidConfig> {
        if self
            .endpoints
            .iter()
            .any(|endpoint| endpoint.tls == Some(false))
        {
            return Err(InvalidConfig::PlainEndpoint);
        }
        self.tls = Some(tls);
        self.connections = Arc::default();
        Ok(self)
    }

    /// Sets the credentials for etcd's authentication.
    #[must_use]
    pub fn with_credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(credentials);
        // Those of a cluster with other credentials are not for this one.
        self.connections = Arc::default();
        self
    }

    /// Returns true iff all endpoints use TLS: if one is an https URL, or if there is a [`Tls`].
    #[must_use]
    pub fn uses_tls(&self) -> bool {
        self.tls.is_some()
            || self
                .endpoints
                .iter()
                .any(|endpoint| endpoint.tls == Some(true))
    }

    /// Returns the endpoints; there is at least one.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    pub(crate) fn endpoint_count(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.endpoints.len()).unwrap_or(NonZeroUsize::MIN)
    }

    pub(crate) fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }

    /// Returns the TLS settings.
    #[must_use]
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Returns the credentials for etcd's authentication.
    #[must_use]
    pub fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_hosts_and_ports_or_urls() {
        for (given, url) in [
            ("127.0.0.1:2379", "http://127.0.0.1:2379"),
            ("etcd_server:2378", "http://etcd_server:2378"),
            ("[::1]:2379", "http://[::1]:2379"),
            (
                "http://etcd-1.example.com:2379",
                "http://etcd-1.example.com:2379",
            ),
            ("http://etcd:2379/", "http://etcd:2379"),
            ("https://etcd:2379/", "https://etcd:2379"),
        ] {
            let endpoint: Endpoint = given.parse().unwrap();
            let cluster = Cluster::new(vec![endpoint.clone()]).unwrap();
            assert_eq!(endpoint.url(cluster.uses_tls()), url);
            assert_eq!(endpoint.to_string(), given);
        }
    }

    #[test]
    fn an_endpoint_without_a_scheme_is_spoken_to_by_tls_if_there_is_any() {
        let cluster = |endpoint: &str| {
            let cluster = Cluster::new(vec![endpoint.parse().unwrap()]).unwrap();
            cluster.with_tls(Tls::default())
        };
        assert!(cluster("etcd:2379").unwrap().uses_tls());
        let endpoints = |list: [&str; 2]| list.map(|endpoint| endpoint.parse().unwrap()).to_vec();
        let beside = Cluster::new(endpoints(["https://a:1", "b:1"])).unwrap();
        assert!(
            beside.uses_tls(),
            "nothing goes out in plain text beside TLS"
        );
        assert_eq!(
            Cluster::new(endpoints(["https://a:1", "http://b:1"])).unwrap_err(),
            InvalidConfig::PlainEndpoint
        );
        assert_eq!(
            cluster("http://etcd:2379").unwrap_err(),
            InvalidConfig::PlainEndpoint
        );
    }

    #[test]
    fn what_is_no_endpoint_is_refused_with_its_reason() {
        for (given, error) in [
            ("", InvalidEndpoint::Empty),
            ("http://", InvalidEndpoint::Empty),
            ("localhost", InvalidEndpoint::Port),
            ("localhost:", InvalidEndpoint::Port),
            ("localhost:0", InvalidEndpoint::Port),
            ("localhost:65536", InvalidEndpoint::Port),
            ("localhost:+1", InvalidEndpoint::Port),
            ("localhost:2379/path", InvalidEndpoint::Port),
            (":2379", InvalidEndpoint::Host),
            ("::1:2379", InvalidEndpoint::Host),
            ("[::g]:2379", InvalidEndpoint::Host),
            ("a b:2379", InvalidEndpoint::Host),
            ("user:secret@localhost:2379", InvalidEndpoint::UserInfo),
            ("https://", InvalidEndpoint::Empty),
            ("unix:///run/etcd:1", InvalidEndpoint::Scheme),
        ] {
            assert_eq!(given.parse::<Endpoint>().unwrap_err(), error, "{given}");
        }
    }
}
