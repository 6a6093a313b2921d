//! The commands beside taking part, and their options.

use std::{ffi::OsString, net::SocketAddr, time::Duration};

/// What is asked for instead of taking part.
#[derive(Debug, clap::Subcommand)]
pub(in crate::daemon) enum Command {
    /// Tell who leads, and where it can be reached
    ///
    /// Ends with 0 if somebody leads, with 3 if nobody does, and with 1 if etcd does not answer.
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

    /// Tell how things stand, and then each change as it happens, until it is stopped
    ///
    /// An etcd that does not answer is asked again until it does; then what happened meanwhile is
    /// told.
    Observe {
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },

    /// End the leader's term in order, and tell who leads next
    ///
    /// Deletes the leader key, and no more: the leader finishes, and nobody else acts meanwhile.
    /// Another candidate leads next, where there is one. Ends with 0 once somebody leads again, with
    /// 3 if nobody leads, and with 1 if nobody does in time or etcd does not answer.
    StepDown {
        /// Do so only if this is who leads; else end with 1
        #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
        if_leader: Option<OsString>,

        /// How long to try, and to wait for the next leader
        #[arg(
            long,
            value_name = "DURATION",
            default_value = "30s",
            value_parser = parse_timeout,
            allow_hyphen_values = true
        )]
        timeout: Duration,
    },

    /// Ask a daemon on this machine whether it is alive, as a container's health check
    ///
    /// Ends with 0 if it is, else with 1.
    Health {
        /// What the daemon was given as --http
        #[arg(
            value_name = "ADDRESS",
            env = "LEADER_ELECTION_HTTP",
            hide_env_values = true,
            default_value = "127.0.0.1:8008",
            value_parser = parse_address
        )]
        address: SocketAddr,
    },

    /// Print what makes a shell complete these options and commands
    Completions {
        /// The shell
        shell: Shell,
    },

    /// Print the man page
    Man,
}

impl Command {
    /// Whether a command of this name asks nothing of etcd.
    pub fn is_aside(name: &str) -> bool {
        ["health", "completions", "man"].contains(&name)
    }

    /// Whether it asks anything of etcd.
    pub fn asks_etcd(&self) -> bool {
        !matches!(
            self,
            Self::Health { .. } | Self::Completions { .. } | Self::Man
        )
    }
}

/// A shell that can be taught to complete.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(in crate::daemon) enum Shell {
    /// GNU bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}

/// Where HTTP is served.
pub(super) fn parse_address(text: &str) -> Result<SocketAddr, &'static str> {
    let error = "give an IP address and a port, such as 127.0.0.1:8008 or [::1]:8008";
    text.parse().map_err(|_| error)
}

const LONGEST_TIMEOUT: Duration = Duration::from_hours(24);

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let duration = match text.parse::<u64>() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text),
    };
    duration
        .ok()
        .filter(|duration| !duration.is_zero() && *duration <= LONGEST_TIMEOUT)
        .ok_or_else(|| "give a duration such as 500ms, 30s or 5m, at most 24h".to_owned())
}
