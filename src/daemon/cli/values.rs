//! Parsers for the values of options; their errors say what to give instead.

use crate::protocol::{InvalidTtl, LeaseId, Ttl};
use rustix::process::Signal;
use std::{net::SocketAddr, num::ParseIntError, str::FromStr, time::Duration};
use tracing::Level;
use tracing_subscriber::filter::Targets;

/// The shortest grace: killing takes a tenth of it.
const SHORTEST_GRACE: Duration = Duration::from_millis(100);

/// The longest time that a command may try.
const LONGEST_TIMEOUT: Duration = Duration::from_hours(24);

/// Parses a number of seconds, or a number with a unit.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().map(Duration::from_secs);
    seconds
        .or_else(|| humantime::parse_duration(text).ok())
        .ok_or_else(|| "give a duration, such as 500ms, 10s or 2m".to_owned())
}

pub(super) fn parse_ttl(text: &str) -> Result<Ttl, String> {
    parse_duration(text)
        .ok()
        .and_then(|duration| Ttl::try_from(duration).ok())
        .ok_or_else(|| InvalidTtl.to_string())
}

pub(super) fn parse_grace(text: &str) -> Result<Duration, String> {
    let grace = parse_duration(text)?;
    if grace < SHORTEST_GRACE {
        return Err("give 100ms at least: stopping takes time".to_owned());
    }
    Ok(grace)
}

/// Parses a signal that can tell a program to stop: a name, with or without SIG, or a number.
pub(super) fn parse_stop_signal(text: &str) -> Result<Signal, &'static str> {
    let name = text.to_ascii_uppercase();
    let named =
        nix::sys::signal::Signal::from_str(&format!("SIG{}", name.trim_start_matches("SIG")));
    let number = named.map_or_else(|_| text.parse(), |signal| Ok(signal as i32));
    let signal = number.ok().and_then(Signal::from_named_raw);
    let signal =
        signal.ok_or("give the name or the number of a signal, such as TERM, QUIT or 15")?;
    match signal {
        Signal::STOP
        | Signal::TSTP
        | Signal::TTIN
        | Signal::TTOU
        | Signal::CONT
        | Signal::CHILD => {
            Err("this signal does not stop a program; give one such as TERM, QUIT or INT")
        }
        signal => Ok(signal),
    }
}

/// Parses how long a command may try.
pub(super) fn parse_timeout(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .ok()
        .filter(|duration| !duration.is_zero() && *duration <= LONGEST_TIMEOUT)
        .ok_or_else(|| "give a duration such as 500ms, 30s or 5m, at most 24h".to_owned())
}

/// Parses the address at which HTTP is served.
pub(super) fn parse_address(text: &str) -> Result<SocketAddr, &'static str> {
    let error = "give an IP address and a port, such as 127.0.0.1:8008 or [::1]:8008";
    text.parse().map_err(|_| error)
}

pub(super) fn parse_lease(text: &str) -> Result<LeaseId, ParseIntError> {
    u64::from_str_radix(text, 16).map(|id| LeaseId::new(id.cast_signed()))
}

/// Parses a log filter; an empty one, as from an empty variable, means the default.
pub(super) fn parse_filter(text: &str) -> Result<Targets, String> {
    if text.is_empty() {
        return Ok(default_filter());
    }
    Targets::from_str(text).map_err(|error| {
        format!(
            "{error}; give a level (off, error, warn, info, debug, trace) or target=level pairs"
        )
    })
}

/// Returns the filter that applies if none is given.
pub(super) fn default_filter() -> Targets {
    Targets::new().with_default(Level::INFO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_signal_is_a_name_or_a_number_that_can_stop_a_program() {
        for (text, signal) in [
            ("TERM", Signal::TERM),
            ("SIGQUIT", Signal::QUIT),
            ("sigwinch", Signal::WINCH),
            ("2", Signal::INT),
        ] {
            assert_eq!(parse_stop_signal(text), Ok(signal), "{text}");
        }
        for text in [
            "",
            "SIG",
            "0",
            "65",
            "-1",
            "TERMINATE",
            "STOP",
            "SIGCONT",
            "19",
        ] {
            assert!(parse_stop_signal(text).is_err(), "{text}");
        }
    }
}
