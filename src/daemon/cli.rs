//! The command line.

mod commands;
mod documents;
mod election_args;

pub(super) use commands::Command;
pub(super) use documents::{completions, man_page};

use super::log::Format;
use crate::{
    config::{Address, Cluster, Config, LeaderKey, Name},
    printable::Printable,
    protocol::{LeaseId, Ttl},
};
use clap::{
    ArgMatches, CommandFactory, FromArgMatches, Parser,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};
use election_args::Connection;
use std::{ffi::OsString, net::SocketAddr, num::ParseIntError, str::FromStr, time::Duration};
use tracing::Level;
use tracing_subscriber::filter::Targets;

/// Elects one leader among several replicas, over etcd.
///
/// Start it once per replica with the same --etcd and --leader-key. One of them becomes the leader
/// and refreshes its lease; the others follow. When the leader stops, another takes over at once;
/// when it is killed or cut off, another takes over after its TTL. With a COMMAND, only the leader
/// runs it.
#[derive(Debug, Parser)]
#[command(
    name = "leader-election",
    version,
    max_term_width = 100,
    override_usage = USAGE,
    subcommand_value_name = "SUBCOMMAND",
    subcommand_help_heading = "Subcommands",
    after_help = EXAMPLES
)]
struct Args {
    /// What to run while this replica leads, and its arguments; it and all that it started has
    /// ended before another replica runs it
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,

    /// This replica's name, which the leader key holds while it leads [default: the host's name]
    #[arg(
        long,
        value_name = "NAME",
        env = "LEADER_ELECTION_NAME",
        hide_env_values = true
    )]
    name: Option<Name>,

    #[command(flatten)]
    connection: Connection,

    /// How to reach this replica while it leads, such as an IP address or a URL, for all who ask
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "LEADER_ELECTION_ADVERTISE",
        hide_env_values = true
    )]
    advertise: Option<Address>,

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

    /// How long COMMAND gets to stop when leadership is being lost; 100ms at least [default: a fifth
    /// of the TTL]
    #[arg(
        long,
        value_name = "DURATION",
        env = "LEADER_ELECTION_GRACE", hide_env_values = true,
        value_parser = parse_grace,
        allow_hyphen_values = true
    )]
    grace: Option<Duration>,

    /// How long COMMAND gets to stop when it is asked to, while this replica keeps its lease
    #[arg(
        long,
        value_name = "DURATION",
        env = "LEADER_ELECTION_STOP_TIMEOUT", hide_env_values = true,
        default_value = "10s",
        value_parser = parse_duration,
        allow_hyphen_values = true
    )]
    stop_timeout: Duration,

    /// Tell over HTTP how this replica stands: /leader, /follower, /live, /ready, /status, /metrics
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "LEADER_ELECTION_HTTP",
        hide_env_values = true,
        value_parser = commands::parse_address
    )]
    http: Option<SocketAddr>,

    /// Revoke this lease, and do nothing else: for a guard whose daemon is gone
    #[arg(long, value_name = "LEASE", hide = true, value_parser = parse_lease)]
    release: Option<LeaseId>,

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

    #[command(subcommand)]
    subcommand: Option<Command>,
}

/// clap's own usage line would call both the program to run and the subcommand COMMAND.
const USAGE: &str = "\
leader-election [OPTIONS] [-- COMMAND [ARG]...]
       leader-election [OPTIONS] <SUBCOMMAND>";

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

  A program of which one runs at a time, on the leader:
    leader-election --etcd etcd1:2379 -- /usr/bin/worker --queue mail

  Without the lines that say that the lease was refreshed:
    leader-election --log info,leader_election::refresh=warn

  Who leads, and where it can be reached; each change as it happens; and an end to the term:
    leader-election status
    leader-election observe --json
    leader-election step-down";

/// What the command line asks for, validated.
pub(super) enum Task {
    TakePart(Box<Options>),
    Command(Box<(Command, Cluster, LeaderKey)>),
    /// A command that asks nothing of etcd.
    Aside(Box<Command>),
}

/// How to take part.
pub(super) struct Options {
    pub config: Config,
    pub work: Work,
    pub log_format: Format,
    pub log: Targets,
    /// What is wrong with `RUST_LOG`, which may be set for other programs: no reason not to run.
    pub unfit_rust_log: Option<String>,
}

/// What a candidate does.
pub(super) enum Work {
    /// Takes part, and runs this program while it leads, if there is one; serves HTTP, if there is
    /// an address.
    TakePart {
        command: Option<Vec<OsString>>,
        http: Option<SocketAddr>,
    },
    /// Revokes the lease of one that is gone.
    Release(LeaseId),
}

/// Reads the command line; ends the program with exit code 2 where it makes no sense.
pub(super) fn parse() -> Task {
    let parsed = matches().and_then(|matches| {
        refuse_options_of_candidates(&matches)?;
        refuse_options_of_commands(&matches)?;
        Args::from_arg_matches(&matches)
    });
    let mut args = parsed.unwrap_or_else(|error| harmless(error).exit());
    if let Some(command) = args.subcommand.take_if(|command| !command.asks_etcd()) {
        return Task::Aside(Box::new(command));
    }
    let (cluster, leader_key) = args
        .connection
        .validated()
        .unwrap_or_else(|error| fail(error));
    match args.subcommand.take() {
        Some(command) => Task::Command(Box::new((command, cluster, leader_key))),
        None => Task::TakePart(Box::new(options(args, cluster, leader_key))),
    }
}

fn fail(message: String) -> ! {
    Args::command()
        .error(ErrorKind::ValueValidation, message)
        .exit()
}

/// Beside a command the variables of those options that only candidates have say nothing: whatever
/// they hold does no harm.
fn matches() -> Result<ArgMatches, clap::Error> {
    let without_variables = Args::command().mut_args(|arg| {
        if arg.is_global_set() {
            arg
        } else {
            arg.env(None)
        }
    });
    match without_variables.try_get_matches() {
        Ok(matches) if matches.subcommand_name().is_some_and(Command::is_aside) => {
            // Neither do those that say how to reach etcd.
            Args::command()
                .mut_args(|arg| arg.env(None))
                .try_get_matches()
        }
        Ok(matches) if matches.subcommand().is_some() => Ok(matches),
        // Where variables make no sense, such a command is not concerned.
        Err(error) if error.use_stderr() && names_aside() => {
            let without = Args::command().mut_args(|arg| arg.env(None));
            without.try_get_matches().or(Err(error))
        }
        Err(error) if error.use_stderr() => Err(error),
        _ => Args::command().try_get_matches(),
    }
}

/// Whether one of the arguments may be a command that asks nothing of etcd.
fn names_aside() -> bool {
    let mut arguments = std::env::args_os().skip(1);
    arguments.any(|argument| argument.to_str().is_some_and(Command::is_aside))
}

/// clap's own way to do so would refuse the options that say how to reach etcd as well.
fn refuse_options_of_candidates(matches: &ArgMatches) -> Result<(), clap::Error> {
    let Some(command) = matches.subcommand_name() else {
        return Ok(());
    };
    let given = |arg: &&clap::Arg| {
        let source = matches.value_source(arg.get_id().as_str());
        !arg.is_global_set() && source == Some(ValueSource::CommandLine)
    };
    let mut args = Args::command();
    args.build();
    let given = args.get_arguments().find(given).map(ToString::to_string);
    given.map_or(Ok(()), |given| {
        let message = format!("the argument '{given}' cannot be used with '{command}'");
        Err(args.error(ErrorKind::ArgumentConflict, message))
    })
}

/// Their variables may be there for another replica on this machine.
fn refuse_options_of_commands(matches: &ArgMatches) -> Result<(), clap::Error> {
    let has_command = ["command", "release"].map(|option| matches.contains_id(option));
    let given = |option: &&str| matches.value_source(option) == Some(ValueSource::CommandLine);
    // An unset variable would make it a daemon that runs nothing.
    if has_command == [false; 2] && std::env::args_os().any(|argument| argument == "--") {
        let message = "there is no COMMAND after --".to_owned();
        return Err(Args::command().error(ErrorKind::MissingRequiredArgument, message));
    }
    match ["grace", "stop_timeout"].into_iter().find(given) {
        Some(option) if has_command == [false; 2] => {
            let option = option.replace('_', "-");
            let message = format!("--{option} is about a COMMAND, and there is none");
            Err(Args::command().error(ErrorKind::MissingRequiredArgument, message))
        }
        _ => Ok(()),
    }
}

fn options(args: Args, cluster: Cluster, leader_key: LeaderKey) -> Options {
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
    let command = Some(args.command).filter(|command| !command.is_empty());
    // Without a COMMAND, comparing clocks is all that stopping takes.
    let grace = command.as_ref().map_or(Duration::ZERO, |_| {
        args.grace.unwrap_or(args.ttl.as_duration() / 5)
    });
    let config = Config::new(name, cluster)
        .with_leader_key(leader_key)
        .with_stop_timeout(args.stop_timeout)
        .with_ttl_and_grace(args.ttl, grace)
        .unwrap_or_else(|error| fail(error.to_string()));
    let config = match args.advertise {
        Some(address) => config.with_address(address),
        None => config,
    };
    let mut unfit_rust_log = None;
    let log = args.log.unwrap_or_else(|| {
        let filter = std::env::var("RUST_LOG").unwrap_or_default();
        parse_filter(&filter).unwrap_or_else(|error| {
            unfit_rust_log = Some(error);
            default_filter()
        })
    });
    let work = args.release.map_or(
        Work::TakePart {
            command,
            http: args.http,
        },
        Work::Release,
    );
    Options {
        config,
        work,
        log_format: args.log_format,
        log,
        unfit_rust_log,
    }
}

/// Makes the values that an error repeats fit to be printed.
fn harmless(mut error: clap::Error) -> clap::Error {
    for kind in [
        ContextKind::InvalidValue,
        ContextKind::InvalidArg,
        ContextKind::InvalidSubcommand,
    ] {
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
    parse_duration(text)
        .ok()
        .and_then(|duration| Ttl::try_from(duration).ok())
        .ok_or_else(|| crate::protocol::InvalidTtl.to_string())
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().map(Duration::from_secs);
    seconds
        .or_else(|| humantime::parse_duration(text).ok())
        .ok_or_else(|| "give a duration, such as 500ms, 10s or 2m".to_owned())
}

/// Killing takes a tenth of it.
fn parse_grace(text: &str) -> Result<Duration, String> {
    let grace = parse_duration(text)?;
    if grace < Duration::from_millis(100) {
        return Err("give 100ms at least: stopping takes time".to_owned());
    }
    Ok(grace)
}

fn parse_lease(text: &str) -> Result<LeaseId, ParseIntError> {
    u64::from_str_radix(text, 16).map(|id| LeaseId::new(id.cast_signed()))
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
