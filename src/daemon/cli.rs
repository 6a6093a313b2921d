//! The command line.

use super::log::Format;
use crate::{
    config::{Cluster, Config, Credentials, Endpoint, LeaderKey, Name, Password, Tls},
    printable::Printable,
    protocol::Ttl,
};
use clap::{
    CommandFactory, Parser,
    error::{ContextKind, ContextValue, ErrorKind},
};
use std::{ffi::OsString, path::PathBuf, str::FromStr, time::Duration};
use tracing::Level;
use tracing_subscriber::filter::Targets;

/// Elects one leader among several replicas, over etcd.
///
/// Start it once per replica with the same --etcd and --leader-key. One of them becomes the leader
/// and refreshes its lease; the others follow. When the leader stops, another takes over at once;
/// when it is killed or cut off, another takes over after its TTL.
#[derive(Debug, Parser)]
#[command(name = "leader-election", version, max_term_width = 100, after_help = EXAMPLES)]
struct Args {
    /// This replica's name, which the leader key holds while it leads [default: the host's name]
    #[arg(
        long,
        value_name = "NAME",
        env = "LEADER_ELECTION_NAME",
        hide_env_values = true
    )]
    name: Option<Name>,

    /// The etcd members, as host:port, http:// or https:// URLs, separated by commas
    #[arg(
        long,
        value_name = "HOST:PORT,…",
        env = "LEADER_ELECTION_ETCD",
        hide_env_values = true,
        default_value = "127.0.0.1:2379",
        value_delimiter = ','
    )]
    etcd: Vec<Endpoint>,

    /// The certificates of the authorities that etcd's may be signed by, as PEM [default: the
    /// system's]
    #[arg(
        long,
        value_name = "FILE",
        env = "LEADER_ELECTION_ETCD_CACERT",
        hide_env_values = true
    )]
    etcd_cacert: Option<PathBuf>,

    /// This replica's certificate, where etcd asks for one, as PEM
    #[arg(
        long,
        value_name = "FILE",
        env = "LEADER_ELECTION_ETCD_CERT",
        hide_env_values = true,
        requires = "etcd_key"
    )]
    etcd_cert: Option<PathBuf>,

    /// The key of that certificate, as PEM
    #[arg(
        long,
        value_name = "FILE",
        env = "LEADER_ELECTION_ETCD_KEY",
        hide_env_values = true,
        requires = "etcd_cert"
    )]
    etcd_key: Option<PathBuf>,

    /// The etcd user; its password comes from --etcd-password-file or the variable
    /// `LEADER_ELECTION_ETCD_PASSWORD`
    #[arg(
        long,
        value_name = "NAME",
        env = "LEADER_ELECTION_ETCD_USER",
        hide_env_values = true
    )]
    etcd_user: Option<String>,

    /// The file with the etcd user's password
    #[arg(
        long,
        value_name = "FILE",
        env = "LEADER_ELECTION_ETCD_PASSWORD_FILE",
        hide_env_values = true,
        requires = "etcd_user"
    )]
    etcd_password_file: Option<PathBuf>,

    /// The etcd key that the election is about; its name plus /acting is used too
    #[arg(
        long,
        value_name = "KEY",
        env = "LEADER_ELECTION_LEADER_KEY",
        hide_env_values = true,
        default_value = "leader"
    )]
    leader_key: LeaderKey,

    /// How long a leader that was killed or cut off is missed, and up to a second more: whole
    /// seconds, 2s to 1h
    #[arg(
        long,
        value_name = "DURATION",
        env = "LEADER_ELECTION_TTL", hide_env_values = true,
        default_value = "5s",
        value_parser = parse_ttl,
        allow_hyphen_values = true
    )]
    ttl: Ttl,

    /// How log lines look
    #[arg(
        long,
        value_name = "FORMAT",
        env = "LEADER_ELECTION_LOG_FORMAT",
        hide_env_values = true,
        default_value = "plain"
    )]
    log_format: Format,

    /// What is logged: a level, or target=level pairs [default: `RUST_LOG`, else info]
    #[arg(
        long,
        value_name = "FILTER",
        env = "LEADER_ELECTION_LOG", hide_env_values = true,
        value_parser = parse_filter
    )]
    log: Option<Targets>,
}

const EXAMPLES: &str = "\
Examples:
  One replica, named after its host, with an etcd on this machine:
    leader-election

  Three replicas in three terminals; stop the leader, and watch another take over:
    leader-election --name server1 --etcd 127.0.0.1:2379
    leader-election --name server2 --etcd 127.0.0.1:2379
    leader-election --name server3 --etcd 127.0.0.1:2379

  A cluster of three etcd members, and an election of its own:
    leader-election --etcd etcd1:2379,etcd2:2379,etcd3:2379 --leader-key backup/leader

  An etcd that asks who is there:
    leader-election --etcd https://etcd1:2379 --etcd-cacert ca.pem --etcd-user replica \\
      --etcd-password-file /run/secrets/etcd

  Without the lines that say that the lease was refreshed:
    leader-election --log info,leader_election::refresh=warn

Who leads:
  etcdctl get leader";

/// What the command line says, validated.
pub(super) struct Options {
    pub config: Config,
    pub log_format: Format,
    pub log: Targets,
    /// What is wrong with `RUST_LOG`, which may be set for other programs: no reason not to run.
    pub unfit_rust_log: Option<String>,
}

/// Reads the command line; ends the program with exit code 2 where it makes no sense.
pub(super) fn parse() -> Options {
    let args = Args::try_parse().unwrap_or_else(|error| harmless(error).exit());
    let fail = |message: String| -> ! {
        Args::command()
            .error(ErrorKind::ValueValidation, message)
            .exit()
    };
    let name = args.name.unwrap_or_else(|| {
        let host = rustix::system::uname().nodename().to_owned();
        let host = host.to_string_lossy();
        Name::from_str(&host).unwrap_or_else(|error| {
            let host = Printable(host.as_bytes());
            fail(format!(
                "the host's name '{host}' cannot name this replica: {error}; give --name"
            ))
        })
    });
    let cluster = Cluster::new(args.etcd)
        .and_then(
            |cluster| match tls(args.etcd_cacert, args.etcd_cert, args.etcd_key) {
                Some(tls) => cluster.with_tls(tls),
                None => Ok(cluster),
            },
        )
        .unwrap_or_else(|error| fail(error.to_string()));
    let credentials = credentials(args.etcd_user, args.etcd_password_file)
        .unwrap_or_else(|error| fail(error.to_owned()));
    let cluster = match credentials {
        Some(credentials) => cluster.with_credentials(credentials),
        None => cluster,
    };
    let config = Config::new(name, cluster)
        .with_leader_key(args.leader_key)
        .with_times(args.ttl, Duration::ZERO)
        .unwrap_or_else(|error| fail(error.to_string()));
    let mut unfit_rust_log = None;
    let log = args.log.unwrap_or_else(|| {
        let filter = std::env::var("RUST_LOG").unwrap_or_default();
        parse_filter(&filter).unwrap_or_else(|error| {
            unfit_rust_log = Some(error);
            default_filter()
        })
    });
    Options {
        config,
        log_format: args.log_format,
        log,
        unfit_rust_log,
    }
}

fn tls(
    authorities: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Option<Tls> {
    let identity = certificate.zip(key);
    (authorities.is_some() || identity.is_some()).then_some(Tls {
        authorities,
        identity,
    })
}

/// The error texts repeat no value: it may be a password.
fn credentials(
    user: Option<String>,
    password_file: Option<PathBuf>,
) -> Result<Option<Credentials>, &'static str> {
    let text = std::env::var_os("LEADER_ELECTION_ETCD_PASSWORD")
        .filter(|text| !text.is_empty())
        .map(OsString::into_string)
        .transpose()
        .map_err(|_| "LEADER_ELECTION_ETCD_PASSWORD is no UTF-8 text")?;
    let Some(user) = user else {
        return match text {
            Some(_) => Err("LEADER_ELECTION_ETCD_PASSWORD is set, but no --etcd-user"),
            None => Ok(None),
        };
    };
    if user.is_empty() {
        return Err("--etcd-user is empty");
    }
    if user.contains(':') {
        return Err(
            "--etcd-user takes the name alone; give the password in a file, with --etcd-password-file",
        );
    }
    let password = match (password_file, text) {
        (Some(file), None) => Password::File(file),
        (None, Some(text)) => Password::Text(text),
        (Some(_), Some(_)) => {
            return Err(
                "give the password once: with --etcd-password-file or in LEADER_ELECTION_ETCD_PASSWORD",
            );
        }
        (None, None) => {
            return Err(
                "--etcd-user needs a password: give --etcd-password-file, or set LEADER_ELECTION_ETCD_PASSWORD",
            );
        }
    };
    Ok(Some(Credentials { user, password }))
}

/// Makes the values that an error repeats fit to be printed.
fn harmless(mut error: clap::Error) -> clap::Error {
    for kind in [ContextKind::InvalidValue, ContextKind::InvalidArg] {
        let Some(ContextValue::String(value)) = error.get(kind) else {
            continue;
        };
        let printed = match value.rsplit_once('@') {
            // It may be a password.
            Some((_, host)) if kind == ContextKind::InvalidValue => {
                format!("…@{}", Printable(host.as_bytes()))
            }
            _ => Printable(value.as_bytes()).to_string(),
        };
        error.insert(kind, ContextValue::String(printed));
    }
    error
}

fn parse_ttl(text: &str) -> Result<Ttl, String> {
    let duration = match text.parse::<u64>() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text),
    };
    duration
        .ok()
        .and_then(|duration| Ttl::try_from(duration).ok())
        .ok_or_else(|| crate::protocol::InvalidTtl.to_string())
}

fn default_filter() -> Targets {
    Targets::new().with_default(Level::INFO)
}

/// An empty filter, as an empty variable is one, means the default.
fn parse_filter(text: &str) -> Result<Targets, String> {
    if text.is_empty() {
        return Ok(default_filter());
    }
    Targets::from_str(text).map_err(|error| {
        format!(
            "{error}; give a level (off, error, warn, info, debug, trace) or target=level pairs"
        )
    })
}
