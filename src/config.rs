//! Validated values: a [`Config`] that exists is a configuration that works.

use crate::protocol::{Timing, Ttl};
use std::{fmt, fs, io, net::Ipv6Addr, path::PathBuf, str::FromStr, time::Duration};

/// The longest name and the longest key, in bytes.
const LONGEST: usize = 255;

fn check_text(text: &str) -> Result<(), InvalidText> {
    if text.is_empty() {
        Err(InvalidText::Empty)
    } else if text.len() > LONGEST {
        Err(InvalidText::TooLong)
    } else if text.contains(char::is_control) {
        Err(InvalidText::ControlCharacter)
    } else {
        Ok(())
    }
}

/// The error of a text that cannot be a [`Name`] or a [`LeaderKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidText {
    /// It is empty.
    #[error("it is empty")]
    Empty,
    /// It is longer than 255 bytes.
    #[error("it is longer than 255 bytes")]
    TooLong,
    /// It contains a control character.
    #[error("it contains a control character")]
    ControlCharacter,
    /// It ends like the second key of an election.
    #[error("keys that end in /acting are the witnesses of other elections")]
    ReservedKey,
}

/// The name of a candidate: what the `leader` key holds while it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        check_text(text)?;
        Ok(Self(text.to_owned()))
    }
}

/// The key that an election is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderKey(String);

impl LeaderKey {
    const ACTING: &str = "/acting";

    /// Returns the key that holds the leader's name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the key that shows that its holder may still be acting.
    #[must_use]
    pub fn acting(&self) -> String {
        format!("{}{}", self.0, Self::ACTING)
    }
}

impl Default for LeaderKey {
    fn default() -> Self {
        Self("leader".to_owned())
    }
}

impl FromStr for LeaderKey {
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        check_text(text)?;
        if text.ends_with(Self::ACTING) {
            return Err(InvalidText::ReservedKey);
        }
        Ok(Self(text.to_owned()))
    }
}

/// Where one member of the etcd cluster can be reached.
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

/// How etcd proves who it is, and how this candidate does.
///
/// The files are read anew for each connection, so that they can be replaced while it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The certificates of the authorities to trust, as PEM; the system's where there are none.
    pub authorities: Option<PathBuf>,
    /// This candidate's own certificate and its key, as PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// What etcd is told when it asks who this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The user's password.
    pub password: Password,
}

/// Where a password comes from. It is never shown, by `Debug` neither.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// This is it.
    Text(String),
    /// It stands in a file, which is read anew for each connection; one new line at its end does
    /// not count.
    File(PathBuf),
}

impl Password {
    /// Returns the password.
    ///
    /// # Errors
    /// If its file is no regular file, cannot be read as text, or holds nothing.
    pub fn read(&self) -> io::Result<String> {
        let file = match self {
            Self::Text(text) => return Ok(text.clone()),
            Self::File(file) => file,
        };
        // What can be read only once would be gone with the second connection.
        if !fs::metadata(file)?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        let mut text = fs::read_to_string(file)?;
        if text.ends_with('\n') {
            text.pop();
        }
        if text.is_empty() {
            return Err(io::Error::other("it is empty"));
        }
        Ok(text)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text(…)"),
            Self::File(file) => f.debug_tuple("File").field(file).finish(),
        }
    }
}

/// What a candidate must know to take part in an election.
#[derive(Clone, Debug)]
pub struct Config {
    name: Name,
    endpoints: Vec<Endpoint>,
    leader_key: LeaderKey,
    ttl: Ttl,
    grace: Duration,
    stop_timeout: Duration,
    tls: Option<Tls>,
    credentials: Option<Credentials>,
}

impl Config {
    /// Creates a configuration with the key `leader`, a TTL of 5 s, no grace and a stop time-out
    /// of 10 s.
    ///
    /// # Errors
    /// If there is no endpoint, or http and https are mixed.
    pub fn new(name: Name, endpoints: Vec<Endpoint>) -> Result<Self, InvalidConfig> {
        if endpoints.is_empty() {
            return Err(InvalidConfig::NoEndpoint);
        }
        let given_with = |tls| endpoints.iter().any(|endpoint| endpoint.tls == Some(tls));
        if given_with(true) && given_with(false) {
            return Err(InvalidConfig::PlainEndpoint);
        }
        Ok(Self {
            name,
            endpoints,
            leader_key: LeaderKey::default(),
            ttl: Ttl::default(),
            grace: Duration::ZERO,
            stop_timeout: Duration::from_secs(10),
            tls: None,
            credentials: None,
        })
    }

    /// Sets the key that the election is about.
    #[must_use]
    pub fn with_leader_key(mut self, leader_key: LeaderKey) -> Self {
        self.leader_key = leader_key;
        self
    }

    /// Sets how long a crashed leader is missed at most, and the time that it gets when it is
    /// losing its leadership: [`Leadership::lost`](crate::Leadership::lost) returns that long
    /// before the deadline. Where comparing clocks is all that stopping takes, it is zero.
    ///
    /// # Errors
    /// If one bad endpoint could then cost a healthy leader its term. A `grace` of up to a fifth
    /// of the TTL always fits.
    pub fn with_times(mut self, ttl: Ttl, grace: Duration) -> Result<Self, InvalidConfig> {
        if !Timing::new(ttl.as_duration(), grace).survives_a_bad_endpoint() {
            return Err(InvalidConfig::Grace { ttl, grace });
        }
        self.ttl = ttl;
        self.grace = grace;
        Ok(self)
    }

    /// Sets how long what acts may take to finish when it is asked to, while its lease is kept.
    #[must_use]
    pub fn with_stop_timeout(mut self, stop_timeout: Duration) -> Self {
        self.stop_timeout = stop_timeout;
        self
    }

    /// Sets how to prove who is who. Endpoints without a scheme are then spoken to by TLS.
    ///
    /// # Errors
    /// If an endpoint was given as an http URL: what is meant to be secret would not be.
    pub fn with_tls(mut self, tls: Tls) -> Result<Self, InvalidConfig> {
        if self
            .endpoints
            .iter()
            .any(|endpoint| endpoint.tls == Some(false))
        {
            return Err(InvalidConfig::PlainEndpoint);
        }
        self.tls = Some(tls);
        Ok(self)
    }

    /// Sets what etcd is told when it asks who this is.
    #[must_use]
    pub fn with_credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// Returns true iff all endpoints are spoken to by TLS: if one is an https URL, or if there is
    /// a [`Tls`].
    #[must_use]
    pub fn uses_tls(&self) -> bool {
        self.tls.is_some()
            || self
                .endpoints
                .iter()
                .any(|endpoint| endpoint.tls == Some(true))
    }

    /// Returns how to prove who is who.
    #[must_use]
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Returns what etcd is told when it asks who this is.
    #[must_use]
    pub fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// Returns the candidate's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Returns the endpoints; there is at least one.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Returns the key that the election is about.
    #[must_use]
    pub fn leader_key(&self) -> &LeaderKey {
        &self.leader_key
    }

    /// Returns the TTL to ask for.
    #[must_use]
    pub fn ttl(&self) -> Ttl {
        self.ttl
    }

    /// Returns the time that what acts gets when leadership is being lost.
    #[must_use]
    pub fn grace(&self) -> Duration {
        self.grace
    }

    /// Returns how long what acts may take to finish when it is asked to.
    #[must_use]
    pub fn stop_timeout(&self) -> Duration {
        self.stop_timeout
    }
}

/// The error of values that do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidConfig {
    /// There is no endpoint.
    #[error("at least one endpoint is needed")]
    NoEndpoint,
    /// TLS is wanted, and an endpoint is given as an http URL.
    #[error("an http:// endpoint cannot be spoken to by TLS; give https:// or host:port")]
    PlainEndpoint,
    /// One bad endpoint could cost a healthy leader its term.
    #[error(
        "a grace of {grace:?} does not fit a TTL of {ttl}: one bad endpoint could cost a healthy \
         leader its term; a fifth of the TTL always fits"
    )]
    Grace {
        /// The TTL.
        ttl: Ttl,
        /// The grace.
        grace: Duration,
    },
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
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
            let config = Config::new("a".parse().unwrap(), vec![endpoint.clone()]).unwrap();
            assert_eq!(endpoint.url(config.uses_tls()), url);
            assert_eq!(endpoint.to_string(), given);
        }
    }

    #[test]
    fn an_endpoint_without_a_scheme_is_spoken_to_by_tls_if_there_is_any() {
        let config = |endpoint: &str| {
            let endpoints = vec![endpoint.parse().unwrap()];
            let config = Config::new("a".parse().unwrap(), endpoints).unwrap();
            config.with_tls(Tls::default())
        };
        assert!(config("etcd:2379").unwrap().uses_tls());
        let endpoints = |list: [&str; 2]| list.map(|endpoint| endpoint.parse().unwrap()).to_vec();
        let name: Name = "a".parse().unwrap();
        let beside = Config::new(name.clone(), endpoints(["https://a:1", "b:1"])).unwrap();
        assert!(
            beside.uses_tls(),
            "nothing goes out in plain text beside TLS"
        );
        assert_eq!(
            Config::new(name, endpoints(["https://a:1", "http://b:1"])).unwrap_err(),
            InvalidConfig::PlainEndpoint
        );
        assert_eq!(
            config("http://etcd:2379").unwrap_err(),
            InvalidConfig::PlainEndpoint
        );
    }

    #[test]
    fn a_password_is_never_shown() {
        let password = Password::Text("secret".to_owned());
        assert_eq!(format!("{password:?}"), "Text(…)");
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

    #[test]
    fn names_and_keys_are_short_and_printable() {
        assert!("server1".parse::<Name>().is_ok());
        assert!("é".repeat(127).parse::<Name>().is_ok());
        assert_eq!("".parse::<Name>(), Err(InvalidText::Empty));
        assert_eq!("é".repeat(128).parse::<Name>(), Err(InvalidText::TooLong));
        assert_eq!(
            "a\u{7f}".parse::<Name>(),
            Err(InvalidText::ControlCharacter)
        );
        assert_eq!(
            "x/acting".parse::<LeaderKey>(),
            Err(InvalidText::ReservedKey)
        );
        assert_eq!(
            "acting".parse::<LeaderKey>().unwrap().acting(),
            "acting/acting"
        );
    }

    #[test]
    fn a_grace_that_a_bad_endpoint_could_turn_into_a_lost_term_is_refused() {
        let config = Config::new(
            "a".parse().unwrap(),
            vec!["localhost:2379".parse().unwrap()],
        )
        .unwrap();
        let ttl = Ttl::default();
        assert!(
            config
                .clone()
                .with_times(ttl, ttl.as_duration() / 5)
                .is_ok()
        );
        let too_long = ttl.as_duration() * 3 / 10;
        assert_eq!(
            config.with_times(ttl, too_long).unwrap_err(),
            InvalidConfig::Grace {
                ttl,
                grace: too_long
            }
        );
    }
}
