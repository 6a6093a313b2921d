//! The options of a daemon that takes part in the election.

use super::{
    super::log::Format,
    COMMAND, ELECTION, HTTP_AND_LOG,
    health_args::{HealthArgs, HealthCheck},
    values::{
        PriorityDelay, default_filter, parse_address, parse_duration, parse_fail_over,
        parse_filter, parse_grace, parse_priority_delay, parse_stop_signal, parse_ttl, parse_wait,
    },
    variables::variable,
};
use crate::{
    config::{Address, Cluster, Config, JobId, LeaderKey, Name},
    printable::Printable,
    protocol::{FailOverLimit, LeaseId, Ttl},
};
use rustix::process::Signal;
use std::{ffi::OsString, net::SocketAddr, str::FromStr, time::Duration};
use tracing_subscriber::filter::Targets;

/// The shortest fail-over limit with a COMMAND. COMMAND gets a fifth of the limit to stop.
const SHORTEST_FAIL_OVER_WITH_COMMAND: Duration = Duration::from_secs(1);

// The comments on the fields are the help texts. `-h` shows only their first paragraphs, and only the options that most
// people need.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = ELECTION)]
pub(super) struct RunArgs {
    /// This replica's name [default: the host's name]
    ///
    /// The leader key holds this name while this replica leads.
    #[arg(
        long,
        value_name = "NAME",
        env = "LEADER_ELECTION_NAME",
        display_order = 0
    )]
    name: Option<Name>,

    /// Lease TTL, after which a failed leader is replaced
    ///
    /// A leader that was killed or cut off is replaced after this time, or up to a second later. Give whole seconds, 2s
    /// to 1h.
    #[arg(
        long,
        value_name = "DURATION",
        env = "LEADER_ELECTION_TTL",
        default_value = "5s",
        value_parser = parse_ttl,
        allow_hyphen_values = true
    )]
    ttl: Ttl,

    /// Replace a failed leader before its lease expires [default: off]
    ///
    /// If this replica fails while it leads, another one takes over about this long after it has noticed the failure.
    /// It does not wait for the lease to expire. The limit can be 200ms (1s with a COMMAND) to half of the TTL; 1s is
    /// recommended, with a --ttl of 10s. If etcd does not respond within a third of the limit, the term may end. With a
    /// limit below about 1.5s, a leader change inside etcd ends the term. Give the limit to all replicas.
    #[arg(
        long,
        value_name = "LIMIT",
        env = "LEADER_ELECTION_FAIL_OVER",
        value_parser = parse_fail_over,
        allow_hyphen_values = true
    )]
    fail_over: Option<FailOverLimit>,

    /// Where to reach this replica while it leads, such as a URL
    ///
    /// This is any text of up to 255 bytes, such as an IP address. For example, the subcommand status prints it.
    #[arg(long, value_name = "ADDRESS", env = "LEADER_ELECTION_ADVERTISE")]
    advertise: Option<Address>,

    /// Prefer replicas with a higher number as the leader
    ///
    /// The number may be negative. A leader hands its term over to the replica with the highest number, and it yields
    /// to a replica with a higher number than its own.
    #[arg(
        long,
        value_name = "NUMBER",
        env = "LEADER_ELECTION_PRIORITY",
        default_value = "0",
        allow_hyphen_values = true
    )]
    priority: i32,

    /// When this replica leads, it yields to one with a higher priority that has been able to lead for this long: at
    /// most 24h; off: it never yields
    #[arg(
        long,
        value_name = "DURATION",
        env = "LEADER_ELECTION_PRIORITY_DELAY",
        default_value = "30s",
        value_parser = parse_priority_delay,
        allow_hyphen_values = true,
        hide_short_help = true
    )]
    priority_delay: PriorityDelay,

    /// Exit with code 75 if this replica does not lead within this time
    ///
    /// With 0s, it tries once, and does not ask for a lease if another replica leads [default: unlimited]
    #[arg(
        long,
        value_name = "DURATION",
        env = "LEADER_ELECTION_WAIT",
        value_parser = parse_wait,
        allow_hyphen_values = true
    )]
    wait: Option<Duration>,

    /// Run COMMAND until one success is recorded for this ID
    ///
    /// One replica at a time runs COMMAND. A replica that finds the record exits with 0 and does not run COMMAND.
    /// COMMAND must be idempotent. The ID has up to 255 bytes.
    #[arg(
        long,
        value_name = "ID",
        env = "LEADER_ELECTION_ONCE",
        help_heading = COMMAND
    )]
    once: Option<JobId>,

    /// Lead for this long, even if COMMAND ends earlier
    ///
    /// The time counts from the start of the term. If COMMAND ends earlier, with any exit code, this replica continues
    /// to lead until the time has passed.
    #[arg(
        long,
        value_name = "DURATION",
        env = "LEADER_ELECTION_HOLD",
        help_heading = COMMAND,
        value_parser = parse_wait,
        allow_hyphen_values = true
    )]
    hold: Option<Duration>,

    /// How long COMMAND gets to stop if the lease cannot be renewed: at least 100ms [default: a fifth of the TTL, or of
    /// --fail-over]
    #[arg(
        long,
        value_name = "DURATION",
        env = "LEADER_ELECTION_GRACE",
        help_heading = COMMAND,
        value_parser = parse_grace,
        allow_hyphen_values = true,
        hide_short_help = true
    )]
    grace: Option<Duration>,

    /// How long COMMAND gets to stop in a graceful stop; this replica keeps its lease meanwhile
    #[arg(
        long,
        value_name = "DURATION",
        env = "LEADER_ELECTION_STOP_TIMEOUT",
        help_heading = COMMAND,
        default_value = "10s",
        value_parser = parse_duration,
        allow_hyphen_values = true,
        hide_short_help = true
    )]
    stop_timeout: Duration,

    /// The signal that asks COMMAND to stop: a name or a number. It cannot be a real-time signal
    #[arg(
        long,
        value_name = "SIGNAL",
        env = "LEADER_ELECTION_STOP_SIGNAL",
        help_heading = COMMAND,
        default_value = "TERM",
        value_parser = parse_stop_signal,
        hide_short_help = true
    )]
    stop_signal: Signal,

    #[command(flatten)]
    health: HealthArgs,

    /// Serve a page, this replica's state and metrics over HTTP
    ///
    /// The page at / shows the election. The other paths are /events, /leader, /follower, /live, /ready, /status,
    /// /metrics and /presence.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "LEADER_ELECTION_HTTP",
        help_heading = HTTP_AND_LOG,
        value_parser = parse_address
    )]
    http: Option<SocketAddr>,

    /// The log format
    #[arg(
        long,
        value_name = "FORMAT",
        env = "LEADER_ELECTION_LOG_FORMAT",
        help_heading = HTTP_AND_LOG,
        default_value = "plain"
    )]
    log_format: Format,

    /// Log levels, such as debug,h2=debug [default: `RUST_LOG`, else info]
    ///
    /// A level alone applies to this program's own lines. A target=level pair applies to a part of the program or to a
    /// dependency. Without a pair, a dependency logs at most warnings.
    #[arg(
        long,
        alias = "log",
        value_name = "FILTER",
        env = "LEADER_ELECTION_LOG",
        help_heading = HTTP_AND_LOG,
        value_parser = parse_filter
    )]
    log_filter: Option<Targets>,
}

/// How to run, validated.
pub(in crate::daemon) struct RunOptions {
    pub config: Config,
    pub work: Work,
    pub log_format: Format,
    pub log_filter: Targets,
    /// Why `RUST_LOG` is ignored, if it is invalid. The daemon runs nevertheless, because `RUST_LOG` may be set for
    /// another program.
    pub invalid_rust_log: Option<String>,
}

/// What a daemon does.
pub(in crate::daemon) enum Work {
    /// Takes part in the election.
    TakePart(Part),
    /// Revokes the lease of a daemon that is gone.
    Release(LeaseId),
}

/// What a replica does beside the election; `None` for what was not asked for.
pub(in crate::daemon) struct Part {
    /// Runs while this replica leads.
    pub command: Option<CommandToRun>,
    /// Serves this replica's state.
    pub http: Option<SocketAddr>,
    /// Decides whether it may lead.
    pub health: Option<HealthCheck>,
}

/// What to run while this replica leads.
pub(in crate::daemon) struct CommandToRun {
    pub program: OsString,
    pub stop_signal: Signal,
    /// How long this replica leads at least, counted from the start of its term.
    pub hold: Duration,
}

impl RunArgs {
    /// Validates the options together, and fills in the defaults that depend on the machine.
    ///
    /// # Errors
    /// Says what is invalid.
    pub fn validate(
        self,
        program: Option<OsString>,
        cluster: Cluster,
        leader_key: LeaderKey,
        release: Option<LeaseId>,
    ) -> Result<RunOptions, String> {
        let name = self.name.map_or_else(host_name, Ok)?;
        let span = self.fail_over.map(FailOverLimit::as_duration);
        let span = span.unwrap_or(self.ttl.as_duration());
        // Without a COMMAND, stopping takes no time: comparing clocks is all that it takes.
        let grace = program
            .as_ref()
            .map_or(Duration::ZERO, |_| self.grace.unwrap_or(span / 5));
        let mut config = Config::new(name, cluster)
            .with_leader_key(leader_key)
            .with_stop_timeout(self.stop_timeout)
            .with_priority(self.priority)
            .with_priority_delay(self.priority_delay.0)
            .with_ttl_and_grace(self.ttl, Duration::ZERO)
            .map_err(|error| error.to_string())?;
        if let Some(limit) = self.fail_over {
            if program.is_some() && limit.as_duration() < SHORTEST_FAIL_OVER_WITH_COMMAND {
                return Err(format!(
                    "--fail-over {limit} is too short for a COMMAND, which needs time to stop: 1s is the \
                     shortest"
                ));
            }
            config = config
                .with_fail_over(limit)
                .map_err(|error| error.to_string())?;
        }
        // After the limit, so that a default grace is not blamed for a limit that does not fit the TTL.
        config = config
            .with_ttl_and_grace(self.ttl, grace)
            .map_err(|error| error.to_string())?;
        if self.once.is_some() && self.hold.is_some() {
            return Err(
                "--hold cannot be used with --once: the record already keeps the job from running again"
                    .to_owned(),
            );
        }
        if self.hold.is_some() {
            // It is not to be cut short.
            config = config.with_priority_delay(None);
        }
        if let Some(wait) = self.wait {
            config = config.with_wait(wait);
        }
        if let Some(job) = self.once {
            config = config.with_job(job);
        }
        if let Some(address) = self.advertise {
            config = config.with_address(address);
        }
        let health = self.health.validate()?;
        if health.is_some() {
            config = config.standing_back("its health is not known yet");
        }
        let mut invalid_rust_log = None;
        let log_filter = self.log_filter.unwrap_or_else(|| {
            let Some(filter) = variable("RUST_LOG") else {
                return default_filter();
            };
            let filter = filter
                .into_string()
                .map_err(|_| "it is no UTF-8 text".to_owned());
            filter
                .and_then(|filter| parse_filter(&filter))
                .unwrap_or_else(|error| {
                    invalid_rust_log = Some(error);
                    default_filter()
                })
        });
        let stop_signal = self.stop_signal;
        let command = program.map(|program| CommandToRun {
            program,
            stop_signal,
            hold: self.hold.unwrap_or_default(),
        });
        let part = Part {
            command,
            http: self.http,
            health,
        };
        Ok(RunOptions {
            config,
            work: release.map_or(Work::TakePart(part), Work::Release),
            log_format: self.log_format,
            log_filter,
            invalid_rust_log,
        })
    }
}

fn host_name() -> Result<Name, String> {
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy();
    Name::from_str(&host).map_err(|error| {
        let host = Printable(host.as_bytes());
        format!("the host's name '{host}' cannot name this replica: {error}; give --name")
    })
}
