//! Defines, parses and validates the command line.

mod commands;
mod documents;
mod election_args;
mod health_args;
mod run_args;
mod values;
mod variables;

pub(super) use commands::{ChallengeArgs, EtcdCommand, LocalCommand, StepDownArgs};
pub(super) use documents::{completions, man_page};
pub(super) use health_args::HealthCheck;
pub(super) use run_args::{CommandToRun, Part, RunOptions, Work};
pub(super) use variables::variable;

use crate::{
    config::{Cluster, LeaderKey},
    printable::Printable,
};
use clap::{
    Arg, ArgAction, ArgMatches, Args as _, CommandFactory, FromArgMatches, Parser,
    error::{ContextKind, ContextValue, ErrorKind},
};
use commands::Subcommand;
use election_args::ElectionArgs;
use health_args::{HEALTH_COMMAND, HEALTH_COMMAND_ID, IDS_ABOUT_HEALTH};
use run_args::RunArgs;
use std::{env, ffi::OsString};
use values::parse_lease;
use variables::{
    hide_values_of_variables, is_given, map_options, read_variables, without_variables,
};

/// Elects one leader among several replicas, over etcd.
///
/// Start it once per replica with the same --etcd and --leader-key. One of them becomes the leader
/// and refreshes its lease; the others follow. When the leader stops, another replica takes over at
/// once. When the leader is killed or cut off, another replica takes over after the TTL. With a
/// COMMAND, only the leader runs it.
///
/// If an option is not given, its environment variable is used. An empty variable counts as unset.
#[derive(Debug, Parser)]
#[command(
    name = "leader-election",
    version,
    max_term_width = 100,
    override_usage = USAGE,
    subcommand_value_name = "SUBCOMMAND",
    subcommand_help_heading = "Subcommands",
    after_help = MORE_HELP,
    after_long_help = EXAMPLES
)]
struct CommandLine {
    #[command(flatten)]
    election: ElectionArgs,

    #[command(flatten)]
    run: RunArgs,

    #[command(subcommand)]
    subcommand: Option<Subcommand>,
}

/// The usage lines. clap's own would use the word COMMAND both for the program to run and for the
/// subcommand.
const USAGE: &str = "\
leader-election [OPTIONS] [-- COMMAND [ARG]...]
       leader-election [OPTIONS] <SUBCOMMAND>";

/// The headings under which the help lists the options.
const ELECTION: &str = "Election";
const ETCD: &str = "etcd";
const COMMAND: &str = "COMMAND";
const HEALTH: &str = "Health";
const HTTP_AND_LOG: &str = "HTTP and log";
const OTHERS: &str = "Options";

/// The last line of `-h`.
const MORE_HELP: &str =
    "'leader-election --help' shows all options, their environment variables and examples.";

const EXAMPLES: &str = "\
Examples:
  One replica, named after its host, with an etcd on this machine:
    leader-election

  Three replicas in three terminals; stop the leader, and watch another take over:
    leader-election --name server1 --etcd 127.0.0.1:2379
    leader-election --name server2 --etcd 127.0.0.1:2379
    leader-election --name server3 --etcd 127.0.0.1:2379

  A cluster of three etcd members, and an election with its own key:
    leader-election --etcd etcd1:2379,etcd2:2379,etcd3:2379 --leader-key backup/leader

  An etcd with TLS and users:
    leader-election --etcd https://etcd1:2379 --etcd-cacert ca.pem --etcd-user replica \\
      --etcd-password-file /run/secrets/etcd

  A program that runs only on the leader:
    leader-election --etcd etcd1:2379 -- /usr/bin/worker --queue mail

  A database migration that runs once, before the replicas of a new version serve:
    leader-election --once migrate-42 -- ./migrate && exec ./server

  A cron job on several machines; each minute, one of them runs it:
    leader-election --wait 0s --hold 50s -- /usr/bin/job

  A replica that does not lead during maintenance, and is otherwise preferred as the leader:
    leader-election --health-command 'test ! -e /run/maintenance' --priority 10

  A log without the lines about refreshing the lease:
    leader-election --log-filter info,leader_election::refresh=warn

  Print the leader and its address; print each change as it happens; end the leader's term:
    leader-election status
    leader-election observe --json
    leader-election step-down

  Hand over to a replica of your choice, for example before maintenance:
    leader-election step-down --to server2

  Ask the leader to respond; otherwise another replica takes over (needs --fail-over):
    leader-election challenge

  Print who led before, when, and how each term ended:
    leader-election history

  Run a program at each change of the leader, on any machine:
    leader-election observe -- /usr/local/bin/update-dns

  Print which jobs are done; remove a record, so that the job can run again:
    leader-election done
    leader-election done --forget migrate-42";

/// What the command line asks for, validated.
pub(super) enum Task {
    /// To run as a daemon.
    Run(Box<RunOptions>),
    /// To run a command that talks to etcd.
    Etcd {
        command: Box<EtcdCommand>,
        cluster: Cluster,
        leader_key: LeaderKey,
    },
    /// To run a command that needs no etcd.
    Local(LocalCommand),
}

/// Parses the command line; ends the program with exit code 2 if it is invalid.
pub(super) fn parse() -> Task {
    let arguments: Vec<_> = env::args_os().collect();
    try_parse(&arguments).unwrap_or_else(|error| presentable(error).exit())
}

fn try_parse(arguments: &[OsString]) -> Result<Task, clap::Error> {
    // COMMAND is split off before clap sees the rest: clap would ignore a `--` that nothing follows,
    // which an unset shell variable leaves behind.
    let mut parts = arguments.splitn(2, |argument| argument == "--");
    let own_arguments = parts.next().unwrap_or_default();
    let command = parts.next();

    let definition = without_variables(CommandLine::command()).arg(release_arg());
    let matches = match definition.try_get_matches_from(own_arguments) {
        // A help text lists COMMAND and the variables as well.
        Err(help) if !help.use_stderr() => {
            let is_short = own_arguments.iter().any(|argument| argument == "-h");
            help_definition(is_short).try_get_matches_from(own_arguments)?
        }
        result => result?,
    };
    if command.is_some_and(<[_]>::is_empty) {
        let message = "there is no COMMAND after --".to_owned();
        return Err(usage_error(ErrorKind::MissingRequiredArgument, message));
    }
    let CommandLine {
        election,
        mut run,
        subcommand,
    } = CommandLine::from_arg_matches(&matches)?;
    let release = matches.get_one(RELEASE).copied();
    if let Some((subcommand, _)) = matches.subcommand() {
        refuse_run_args(&matches, command, subcommand)?;
    } else if command.is_none() && release.is_none() {
        refuse_options_about_command(&matches)?;
    }

    match subcommand {
        Some(Subcommand::Local(mut command)) => {
            if let LocalCommand::Health(health) = &mut command
                && let Some((_, matches)) = matches.subcommand()
            {
                read_variables(health, matches, &[])?;
            }
            Ok(Task::Local(command))
        }
        Some(Subcommand::Etcd(mut subcommand)) => {
            complete_observe(&mut subcommand, command)?;
            let (cluster, leader_key) = complete_election(election, &matches)?;
            Ok(Task::Etcd {
                command: Box::new(subcommand),
                cluster,
                leader_key,
            })
        }
        None => {
            let (cluster, leader_key) = complete_election(election, &matches)?;
            let mut ignored = Vec::new();
            if command.is_none() {
                ignored.extend(IDS_ABOUT_COMMAND);
            }
            // Without a health command, its variables are left over: in a compose file, it may be `${HEALTH:-}`.
            if !is_given(&matches, HEALTH_COMMAND_ID) && variable(HEALTH_COMMAND).is_none() {
                ignored.extend(IDS_ABOUT_HEALTH);
            }
            read_variables(&mut run, &matches, &ignored)?;
            let program = command.and_then(<[_]>::first).cloned();
            let options = run.validate(program, cluster, leader_key, release);
            Ok(Task::Run(Box::new(options.map_err(invalid_values)?)))
        }
    }
}

/// Adds COMMAND to `observe`, and refuses conflicting options.
fn complete_observe(
    subcommand: &mut EtcdCommand,
    given: Option<&[OsString]>,
) -> Result<(), clap::Error> {
    let EtcdCommand::Observe {
        json,
        http,
        timeout,
        command,
    } = subcommand
    else {
        return Ok(());
    };
    let (kind, message) = match given {
        Some(_) if *json => (
            ErrorKind::ArgumentConflict,
            "the argument '--json' cannot be used with '-- COMMAND': COMMAND gets the JSON object on \
             its standard input",
        ),
        Some(_) if http.is_some() => (
            ErrorKind::ArgumentConflict,
            "the argument '--http' cannot be used with '-- COMMAND': run a second 'observe'",
        ),
        None if timeout.is_some() => (
            ErrorKind::MissingRequiredArgument,
            "--timeout is about a COMMAND, and there is none",
        ),
        _ => {
            *command = given.unwrap_or_default().to_vec();
            return Ok(());
        }
    };
    Err(usage_error(kind, message.to_owned()))
}

fn complete_election(
    mut election: ElectionArgs,
    matches: &ArgMatches,
) -> Result<(Cluster, LeaderKey), clap::Error> {
    read_variables(&mut election, matches, &[])?;
    election.validate().map_err(invalid_values)
}

/// The subcommand that takes a COMMAND as well.
const OBSERVE: &str = "observe";

/// The ID of [`release_arg`].
const RELEASE: &str = "release";

/// Returns the option with which a guard has the lease of its dead daemon revoked.
///
/// It is not part of [`CommandLine`], because the completions would offer it even if it was hidden.
fn release_arg() -> Arg {
    Arg::new(RELEASE)
        .long(RELEASE)
        .hide(true)
        .value_parser(parse_lease)
}

/// Returns the definition with all that help, completions and the man page show.
fn whole_definition() -> clap::Command {
    let command = |help: &'static str| {
        let command = Arg::new("command").value_name("COMMAND");
        let command = command.action(ArgAction::Append).num_args(1..);
        command.last(true).help(help)
    };
    let of_leader = command("What to run while this replica leads, and its arguments")
        .long_help(
            "What to run while this replica leads, and its arguments\n\n\
             COMMAND and all processes that it has started end before another replica runs COMMAND.",
        )
        .help_heading(COMMAND)
        .display_order(0);
    let of_observe = command("What to run at each change, and its arguments");
    let definition = CommandLine::command().arg(of_leader);
    let definition = definition.mut_subcommand(OBSERVE, |observe| observe.arg(of_observe));
    hide_values_of_variables(definition)
}

/// Returns the definition whose help texts are printed.
fn help_definition(is_short: bool) -> clap::Command {
    // Without the variable, an option takes one line of the short help.
    let mut definition = map_options(whole_definition(), |option| option.hide_env(is_short));
    // clap would list --help and --version first. It adds them here.
    definition.build();
    definition.mut_args(|arg| match arg.get_id().as_str() {
        "help" | "version" => arg.help_heading(OTHERS),
        _ => arg,
    })
}

/// Refuses the arguments that only a candidate can use, if there is a subcommand.
///
/// clap's own way to do so would refuse the options that say how to reach etcd as well. `observe` takes
/// its own COMMAND.
fn refuse_run_args(
    matches: &ArgMatches,
    command: Option<&[OsString]>,
    subcommand: &str,
) -> Result<(), clap::Error> {
    let mut run_args = RunArgs::augment_args(clap::Command::new("run")).arg(release_arg());
    run_args.build();
    let mut run_args = run_args.get_arguments();
    let given = run_args.find(|arg| is_given(matches, arg.get_id().as_str()));
    let given = given.map(ToString::to_string);
    let Some(given) = given.or_else(|| {
        let command = command.filter(|_| subcommand != OBSERVE);
        command.map(|_| "-- COMMAND".to_owned())
    }) else {
        return Ok(());
    };
    let message = format!("the argument '{given}' cannot be used with '{subcommand}'");
    Err(usage_error(ErrorKind::ArgumentConflict, message))
}

/// The options about how COMMAND is run and stopped.
const IDS_ABOUT_COMMAND: [&str; 5] = ["grace", "stop_timeout", "stop_signal", "once", "hold"];

/// Refuses the options about how COMMAND is run and stopped. Without a COMMAND, their variables are
/// ignored, because they may be set for another replica on this machine.
fn refuse_options_about_command(matches: &ArgMatches) -> Result<(), clap::Error> {
    let mut ids = IDS_ABOUT_COMMAND.into_iter();
    let Some(given) = ids.find(|id| is_given(matches, id)) else {
        return Ok(());
    };
    let option = given.replace('_', "-");
    let message = format!("--{option} is about a COMMAND, and there is none");
    Err(usage_error(ErrorKind::MissingRequiredArgument, message))
}

fn invalid_values(message: String) -> clap::Error {
    usage_error(ErrorKind::ValueValidation, message)
}

fn usage_error(kind: ErrorKind, message: String) -> clap::Error {
    CommandLine::command().error(kind, message)
}

/// Makes an error safe to print; adds a tip if it may be about a program that was given without `--`.
fn presentable(mut error: clap::Error) -> clap::Error {
    for kind in [
        ContextKind::InvalidValue,
        ContextKind::InvalidArg,
        ContextKind::InvalidSubcommand,
    ] {
        let Some(ContextValue::String(value)) = error.get(kind) else {
            continue;
        };
        let printable = match value.rsplit_once('@') {
            // What precedes the host may be a password.
            Some((_, host)) => format!("…@{}", Printable(host.as_bytes())),
            None => Printable(value.as_bytes()).to_string(),
        };
        if printable != *value {
            // The tips repeat the value as well.
            error.remove(ContextKind::Suggested);
        }
        if kind == ContextKind::InvalidSubcommand {
            let tip = format!(
                "to run a program while this replica leads, put -- before it: leader-election … -- \
                 {printable}"
            );
            let tips = ContextValue::StyledStrs(vec![tip.into()]);
            error.insert(ContextKind::Suggested, tips);
        }
        error.insert(kind, ContextValue::String(printable));
    }
    error
}
