//! The options about this replica's health.

use super::{
    HEALTH,
    values::{parse_count, parse_health_time},
};
use std::{ffi::OsString, time::Duration};

/// How often the health command runs, unless an option says otherwise.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long a run may take, unless an option says otherwise or the interval is shorter.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The option for the health command, and its variable.
pub(super) const HEALTH_COMMAND_ID: &str = "health_command";
pub(super) const HEALTH_COMMAND: &str = "LEADER_ELECTION_HEALTH_COMMAND";
/// The options that have no effect without a health command.
pub(super) const IDS_ABOUT_HEALTH: [&str; 4] = [
    "health_interval",
    "health_timeout",
    "health_rise",
    "health_fall",
];

const RISE: u32 = 2;
const FALL: u32 = 3;

// The comments on the fields are the help texts, as those of `RunArgs`.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = HEALTH)]
#[allow(
    clippy::struct_field_names,
    reason = "their names are those of the options"
)]
pub(super) struct HealthArgs {
    /// Lead only while this shell command exits with 0
    ///
    /// For example: 'test ! -e /run/maintenance'. `sh -c` runs the command at each interval. The first run alone
    /// decides whether this replica is healthy; until then, the replica does not lead. When the command ends,
    /// everything that it has started is killed.
    #[arg(
        long,
        value_name = "COMMAND",
        env = HEALTH_COMMAND,
        allow_hyphen_values = true
    )]
    health_command: Option<OsString>,

    /// The time from one start of the health command to the next: 100ms to 1h [default: 10s]
    #[arg(
        long,
        value_name = "DURATION",
        env = "LEADER_ELECTION_HEALTH_INTERVAL",
        value_parser = parse_health_time,
        allow_hyphen_values = true,
        hide_short_help = true
    )]
    health_interval: Option<Duration>,

    /// How long a run of the health command may take, at most the interval. A run that takes longer is killed and has
    /// failed [default: 5s, or the interval if that is shorter]
    #[arg(
        long,
        value_name = "DURATION",
        env = "LEADER_ELECTION_HEALTH_TIMEOUT",
        value_parser = parse_health_time,
        allow_hyphen_values = true,
        hide_short_help = true
    )]
    health_timeout: Option<Duration>,

    /// How many successful runs in a row make an unhealthy replica healthy: 1 to 100 [default: 2]
    #[arg(
        long,
        value_name = "COUNT",
        env = "LEADER_ELECTION_HEALTH_RISE",
        value_parser = parse_count,
        allow_hyphen_values = true,
        hide_short_help = true
    )]
    health_rise: Option<u32>,

    /// How many failed runs in a row make a healthy replica unhealthy: 1 to 100 [default: 3]
    #[arg(
        long,
        value_name = "COUNT",
        env = "LEADER_ELECTION_HEALTH_FALL",
        value_parser = parse_count,
        allow_hyphen_values = true,
        hide_short_help = true
    )]
    health_fall: Option<u32>,
}

/// How to find out whether this replica is healthy.
pub(in crate::daemon) struct HealthCheck {
    /// What `sh -c` runs.
    pub command: OsString,
    /// The time from start to start.
    pub interval: Duration,
    /// How long a run may take.
    pub timeout: Duration,
    /// How many successes in a row make this replica healthy.
    pub rise: u32,
    /// How many failures in a row make it unhealthy.
    pub fall: u32,
}

impl HealthArgs {
    /// Returns how to check this replica's health, if there is a health command.
    ///
    /// # Errors
    /// Says what is invalid.
    pub fn validate(self) -> Result<Option<HealthCheck>, String> {
        let Some(command) = self.health_command else {
            let given = [
                ("interval", self.health_interval.is_some()),
                ("timeout", self.health_timeout.is_some()),
                ("rise", self.health_rise.is_some()),
                ("fall", self.health_fall.is_some()),
            ];
            return match given.into_iter().find(|(_, is_given)| *is_given) {
                None => Ok(None),
                Some((option, _)) => Err(format!(
                    "--health-{option} is about a health command, and there is none; give --health-command"
                )),
            };
        };
        if command.to_string_lossy().trim().is_empty() {
            return Err(
                "the health command is empty; give one such as 'test ! -e /run/maintenance', or no \
                 --health-command"
                    .to_owned(),
            );
        }
        let interval = self.health_interval.unwrap_or(INTERVAL);
        let timeout = self.health_timeout.unwrap_or(TIMEOUT.min(interval));
        if timeout > interval {
            let [timeout, interval] =
                [timeout, interval].map(|time| humantime::format_duration(time).to_string());
            return Err(format!(
                "a --health-timeout of {timeout} is longer than the interval of {interval}; give a \
                 shorter one, or a longer --health-interval"
            ));
        }
        Ok(Some(HealthCheck {
            command,
            interval,
            timeout,
            rise: self.health_rise.unwrap_or(RISE),
            fall: self.health_fall.unwrap_or(FALL),
        }))
    }
}
