//! The subcommands, and their options.

use super::values::{parse_address, parse_timeout};
use crate::{config::JobId, protocol::SeatNumber};
use std::{ffi::OsString, net::SocketAddr, time::Duration};

/// What to do instead of running as a daemon.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Subcommand {
    #[command(flatten)]
    Etcd(EtcdCommand),
    #[command(flatten)]
    Local(LocalCommand),
}

// The comments on variants and fields are the help texts.
/// A command that talks to etcd.
#[derive(Debug, clap::Subcommand)]
pub(in crate::daemon) enum EtcdCommand {
    /// Print the leader, its address and the candidates
    ///
    /// The leader comes first, then the other candidates in the order in which they would follow.
    /// The list of candidates needs an etcd role that may read KEY/next and the keys below
    /// KEY/candidates/. Exit code 0: there is a leader. 3: nobody leads. 1: etcd does not respond, or
    /// refuses.
    Status {
        /// Print one JSON object
        #[arg(long)]
        json: bool,

        /// How long to try
        #[arg(
            long,
            value_name = "DURATION",
            default_value = "5s",
            value_parser = parse_timeout,
            allow_hyphen_values = true
        )]
        timeout: Duration,
    },

    /// Print the leader and the candidates, then each change as it happens
    ///
    /// Runs until a signal stops it. If etcd does not respond, it retries until etcd does, and then
    /// prints what happened meanwhile. It also prints the candidates, and then each candidate that
    /// joins, leaves, becomes unhealthy or is healthy again. This needs an etcd role that may read
    /// KEY/next and the keys below KEY/candidates/.
    ///
    /// With a COMMAND, it prints no changes. Instead, it runs COMMAND for the first state and at
    /// each change of the state, one run at a time. Changes during a run are merged into one more
    /// run, for the newest state. COMMAND gets the JSON object on its standard input, and these
    /// variables: `LEADER_ELECTION_STATE` (led, ending, vacant or blocked);
    /// `LEADER_ELECTION_LEADER`, `LEADER_ELECTION_ADDRESS` and `LEADER_ELECTION_TOKEN` (empty if
    /// nobody leads); and `LEADER_ELECTION_LEADER_KEY`. A run that fails is retried after at most
    /// 30 s, until a run succeeds or the state changes. Processes that a run leaves behind keep
    /// running, unless the run reaches its timeout.
    #[command(override_usage = "leader-election observe [OPTIONS] [-- COMMAND [ARG]...]")]
    Observe {
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,

        /// Also serve the state over HTTP: a page at /, and /events, /status and /metrics
        #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
        http: Option<SocketAddr>,

        /// How long a run of COMMAND may take. After that, COMMAND and everything that it has
        /// started get SIGTERM, and SIGKILL 2s later [default: 60s]
        #[arg(
            long,
            value_name = "DURATION",
            value_parser = parse_timeout,
            allow_hyphen_values = true
        )]
        timeout: Option<Duration>,

        /// The arguments after `--`; they are split off before clap parses the rest
        #[arg(skip)]
        command: Vec<OsString>,
    },

    /// End the leader's term gracefully, and print the next leader
    ///
    /// Deletes the leader key. The leader finishes, and nobody else acts meanwhile. If there is
    /// another candidate, it leads next. With --to or --to-seat, exactly that candidate leads
    /// next, or the command prints why it does not. While etcd has raised an alarm, such as for a
    /// full database, nobody could lead next, so the command does nothing without --force. Exit
    /// code 0: there is a leader again (with --to or --to-seat: that candidate acts). 3:
    /// nobody leads, so there is no term to end. 1: the request was refused, nobody leads in time,
    /// or etcd is unreachable or refuses.
    StepDown(Box<StepDownArgs>),

    /// Ask the leader to show that it is alive; if it does not, a candidate takes over
    ///
    /// Challenges a leader that was started with --fail-over. A leader that is alive responds at
    /// once and continues to lead. If the leader does not respond, a candidate takes over, 1.1
    /// times the limit after that candidate has seen the challenge. Each candidate sees the
    /// challenge with its next read, at most a third of its TTL later. Needs an etcd role that may
    /// read and write KEY/challenge. Exit code 0: the leader has responded, or there is a leader of
    /// a later term. 3: nobody leads. 1: the leader has no fail-over limit, it has another name
    /// than --if-leader, its term is about to end, there is neither a response nor a new leader in
    /// time, or etcd is unreachable or refuses.
    Challenge(ChallengeArgs),

    /// Print the last terms: who led, when, and how each term began and ended
    ///
    /// Prints one line for each of the last 32 terms that are recorded under KEY/history/, the
    /// newest last. A line shows the token, the leader's name, when it began and stopped acting by
    /// its own clock, how long it acted, how it came to lead, how long nobody acted before the
    /// term, and why the term ended. The time in which nobody acted excludes the time until a dead
    /// leader's lease expired. Exit code 0: there is a record. 3: there is none. 1: etcd refuses or
    /// does not respond in time.
    History {
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,

        /// How long to try
        #[arg(
            long,
            value_name = "DURATION",
            default_value = "5s",
            value_parser = parse_timeout,
            allow_hyphen_values = true
        )]
        timeout: Duration,
    },

    /// Print the jobs of this election that are recorded as done, or remove a record
    ///
    /// Prints one line for each record under KEY/done/, sorted by key: the job, the replica that
    /// completed it, the time, and the token of the term. Exit code 0: there is a record. 3: there
    /// is none. 1: etcd refuses or does not respond in time, or the record to remove has changed
    /// meanwhile.
    Done {
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,

        /// Remove the record of this job, so that the job can run again
        #[arg(
            long,
            value_name = "ID",
            conflicts_with = "json",
            allow_hyphen_values = true
        )]
        forget: Option<JobId>,

        /// How long to try
        #[arg(
            long,
            value_name = "DURATION",
            default_value = "5s",
            value_parser = parse_timeout,
            allow_hyphen_values = true
        )]
        timeout: Duration,
    },
}

impl EtcdCommand {
    /// Returns whether the command runs a COMMAND.
    pub fn runs_command(&self) -> bool {
        matches!(self, Self::Observe { command, .. } if !command.is_empty())
    }

    /// Returns whether the command serves HTTP.
    pub fn serves_http(&self) -> bool {
        matches!(self, Self::Observe { http: Some(_), .. })
    }
}

/// A command that needs no etcd.
#[derive(Debug, clap::Subcommand)]
pub(in crate::daemon) enum LocalCommand {
    /// Check whether a daemon on this machine is alive, as a container's health check
    ///
    /// The exit code is 0 if it is alive, otherwise 1.
    Health(HealthArgs),

    /// Print the script with which a shell completes these options and commands
    Completions {
        /// The shell
        shell: Shell,
    },

    /// Print the man page
    Man,
}

#[derive(Debug, clap::Args)]
pub(in crate::daemon) struct StepDownArgs {
    /// Do so only if the leader has this name; otherwise exit with code 1
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    pub if_leader: Option<OsString>,

    /// Hand over to the candidate with this name. If no candidate or more than one has this name,
    /// or if the candidate leads already, is unhealthy or looks dead, nothing is done, and the exit
    /// code is 1
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    pub to: Option<OsString>,

    /// Hand over to the candidate in this seat (00 to 15), if several candidates have the same name
    #[arg(
        long,
        value_name = "NN",
        conflicts_with = "to",
        allow_hyphen_values = true
    )]
    pub to_seat: Option<SeatNumber>,

    /// End the term even if etcd has raised an alarm and nobody can lead next. Does not help --to
    /// and --to-seat, because their request itself takes room in the database
    #[arg(long)]
    pub force: bool,

    /// How long to try, and to wait for the next leader
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "30s",
        value_parser = parse_timeout,
        allow_hyphen_values = true
    )]
    pub timeout: Duration,
}

#[derive(Debug, clap::Args)]
pub(in crate::daemon) struct ChallengeArgs {
    /// Do so only if the leader has this name; otherwise exit with code 1
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    pub if_leader: Option<OsString>,

    /// How long to try, and to wait for the response or for the next leader
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "30s",
        value_parser = parse_timeout,
        allow_hyphen_values = true
    )]
    pub timeout: Duration,
}

#[derive(Debug, clap::Args)]
pub(in crate::daemon) struct HealthArgs {
    /// The address that the daemon was given as --http
    #[arg(
        value_name = "ADDRESS",
        env = "LEADER_ELECTION_HTTP",
        default_value = "127.0.0.1:8008",
        value_parser = parse_address
    )]
    pub address: SocketAddr,
}

/// A shell that completes options and commands.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(in crate::daemon) enum Shell {
    /// GNU bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}
