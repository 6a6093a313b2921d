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
    /// Print who leads, where it can be reached, and the candidates
    ///
    /// The leader comes first, then the other candidates in the order in which they would follow it, if the
    /// etcd role may read the keys below KEY/candidates/ and KEY/next. Ends with 0 if somebody leads, with 3 if nobody does, and with 1 if etcd does not respond.
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

    /// Print who leads and the candidates, then each change as it happens
    ///
    /// It runs until a signal stops it. An etcd that does not respond is asked again until it does; then it
    /// prints what happened meanwhile. It also prints which candidates there are, who comes and goes, and who becomes unhealthy
    /// or is healthy again, if the etcd role may read the keys below KEY/candidates/ and KEY/next.
    ///
    /// With a COMMAND, runs COMMAND for the first state and at each change of it instead of printing them, one
    /// run at a time. Changes during a run are merged into one more run, for the newest state. COMMAND
    /// gets the state in `LEADER_ELECTION_STATE` (led, ending, vacant or blocked),
    /// `LEADER_ELECTION_LEADER`, `LEADER_ELECTION_ADDRESS` and `LEADER_ELECTION_TOKEN` (empty if nobody
    /// leads) and `LEADER_ELECTION_LEADER_KEY`, and the JSON object on its standard input. A run that
    /// fails is retried after at most 30 s, until one succeeds or the state changes. Processes that a
    /// run leaves behind keep running, unless the run reaches its timeout.
    #[command(override_usage = "leader-election observe [OPTIONS] [-- COMMAND [ARG]...]")]
    Observe {
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,

        /// Also serve what is observed over HTTP: a page at /, and /events, /status and /metrics
        #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
        http: Option<SocketAddr>,

        /// How long a run of COMMAND may take; then it and everything that it has started get SIGTERM,
        /// and SIGKILL 2s later [default: 60s]
        #[arg(
            long,
            value_name = "DURATION",
            value_parser = parse_timeout,
            allow_hyphen_values = true
        )]
        timeout: Option<Duration>,

        /// What follows `--`, which is split off before clap parses the rest
        #[arg(skip)]
        command: Vec<OsString>,
    },

    /// End the leader's term in order, and print who leads next
    ///
    /// Deletes the leader key, and no more: the leader finishes, and nobody else acts meanwhile.
    /// Another candidate leads next, where there is one. With --to or --to-seat, exactly that candidate
    /// leads next, or the command prints why it does not. Does nothing while etcd has
    /// raised an alarm, such as for a full database: nobody could lead next. Exit code 0: somebody leads
    /// again (with --to or --to-seat: that candidate acts). 3: nobody leads, so there is no term to end. 1:
    /// the request was refused, nobody leads in time, or etcd is unreachable or refuses.
    StepDown(Box<StepDownArgs>),

    /// Have the leader show that it is alive, or another candidate take over
    ///
    /// Challenges a leader that was started with --fail-over: it responds at once and continues to lead. If it
    /// does not respond, a candidate takes over 1.1 times the limit after it has seen the challenge. It sees it
    /// with its next read, at most a third of its TTL later. Needs an etcd role that may read and write
    /// KEY/challenge. Exit code 0: the leader has responded, or somebody leads in a later term. 3: nobody
    /// leads. 1: the leader has no fail-over limit or another name than --if-leader, its term is about to end,
    /// neither happens in time, or etcd is unreachable or refuses.
    Challenge(ChallengeArgs),

    /// Print the last terms: who led, from when until when, and how that began and ended
    ///
    /// Prints one line for each of the last 32 terms that are recorded under KEY/history/, the newest
    /// last: the token, the leader's name, since when and until when it acted by its own clock, how long
    /// that is, how it came to lead, for how long nobody acted before, and why the term ended. The time
    /// during which nobody acted excludes the time until a dead leader's lease expired. Exit code
    /// 0: there is a record. 3: there is none. 1: etcd refuses or does not respond in time.
    History {
        /// Print one JSON object a line
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

    /// Print which jobs of this election are recorded as done, or remove a record
    ///
    /// Prints one line for each record under KEY/done/, in the order of the keys: the job, the replica
    /// that completed it, when, and the token of its term. Exit code 0: there is a record. 3: there is
    /// none. 1: etcd refuses or does not respond in time, or the record changed while it was removed.
    Done {
        /// Print one JSON object a line
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
    /// Returns true iff it runs a COMMAND.
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
    /// Ask a daemon on this machine whether it is alive, as a container's health check
    ///
    /// Ends with 0 if it is, else with 1.
    Health(HealthArgs),

    /// Print what makes a shell complete these options and commands
    Completions {
        /// The shell
        shell: Shell,
    },

    /// Print the man page
    Man,
}

#[derive(Debug, clap::Args)]
pub(in crate::daemon) struct StepDownArgs {
    /// Do so only if this is who leads; else end with 1
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    pub if_leader: Option<OsString>,

    /// Hand over to the candidate with this name. Nothing is done, and the exit code is 1, if there is no
    /// such candidate, several have this name, it leads already, is unhealthy, or looks dead
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    pub to: Option<OsString>,

    /// Hand over to the candidate in this seat (00 to 15), for candidates that have the same name
    #[arg(
        long,
        value_name = "NN",
        conflicts_with = "to",
        allow_hyphen_values = true
    )]
    pub to_seat: Option<SeatNumber>,

    /// Do so even if etcd has raised an alarm, so that nobody can lead next; does not help --to and
    /// --to-seat, whose request takes room itself
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
    /// Do so only if this is who leads; else end with 1
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
    /// What the daemon was given as --http
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
