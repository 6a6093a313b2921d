//! Parses the values of options. The errors say which values are valid.

use crate::protocol::{FailOverLimit, InvalidFailOverLimit, InvalidTtl, LeaseId, Ttl};
use rustix::process::Signal;
use std::{net::SocketAddr, num::ParseIntError, ops::RangeInclusive, str::FromStr, time::Duration};
use tracing_subscriber::filter::{LevelFilter, Targets};

/// The shortest grace: killing takes a tenth of it.
const SHORTEST_GRACE: Duration = Duration::from_millis(100);

/// The longest time that a command may try.
const LONGEST_TIMEOUT: Duration = Duration::from_hours(24);

/// The longest time to wait for leadership, or to hold it after COMMAND has ended.
const LONGEST_WAIT: Duration = Duration::from_hours(31 * 24);

/// The times that a health command may have.
const HEALTH_TIMES: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_hours(1);

/// How the targets of this program's log lines begin.
const OWN_TARGET: &str = "leader_election";

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

/// Parses a fail-over limit: the time within which a leader responds to a challenge.
pub(super) fn parse_fail_over(text: &str) -> Result<FailOverLimit, String> {
    parse_duration(text)
        .ok()
        .and_then(|duration| FailOverLimit::try_from(duration).ok())
        .ok_or_else(|| InvalidFailOverLimit.to_string())
}

pub(super) fn parse_grace(text: &str) -> Result<Duration, String> {
    let grace = parse_duration(text)?;
    if grace < SHORTEST_GRACE {
        return Err("give 100ms at least: stopping takes time".to_owned());
    }
    Ok(grace)
}

/// Parses a signal that can ask a program to stop: a name, with or without SIG, or a number.
/// Real-time signals are refused.
pub(super) fn parse_stop_signal(text: &str) -> Result<Signal, &'static str> {
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let named = nix::sys::signal::Signal::from_str(&format!("SIG{name}"));
    let number = named.map_or_else(|_| text.parse(), |signal| Ok(signal as i32));
    if name.starts_with("RT")
        || number
            .as_ref()
            .is_ok_and(|number| (32..=64).contains(number))
    {
        return Err("real-time signals cannot be used; give one such as TERM, QUIT or 15");
    }
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

/// Parses how long to wait or to hold.
pub(super) fn parse_wait(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .ok()
        .filter(|duration| *duration <= LONGEST_WAIT)
        .ok_or_else(|| "give a duration such as 0s, 30s or 5m, at most 31d".to_owned())
}

/// How long a leader lets a better candidate wait before it yields, if it ever does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PriorityDelay(pub Option<Duration>);

/// Parses how long a leader lets a better candidate wait.
pub(super) fn parse_priority_delay(text: &str) -> Result<PriorityDelay, String> {
    if text == "off" {
        return Ok(PriorityDelay(None));
    }
    parse_duration(text)
        .ok()
        .filter(|duration| *duration <= LONGEST_TIMEOUT)
        .map(|duration| PriorityDelay(Some(duration)))
        .ok_or_else(|| "give a duration such as 0s, 30s or 5m, at most 24h, or off".to_owned())
}

/// Parses how often the health command runs, or how long it may take.
pub(super) fn parse_health_time(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .ok()
        .filter(|duration| HEALTH_TIMES.contains(duration))
        .ok_or_else(|| "give a duration from 100ms to 1h, such as 500ms or 10s".to_owned())
}

/// Parses how many runs in a row count.
pub(super) fn parse_count(text: &str) -> Result<u32, &'static str> {
    let count = text.parse().ok();
    let count = count.filter(|count| (1..=100).contains(count));
    count.ok_or("give a number from 1 to 100")
}

/// Parses the address at which HTTP is served.
pub(super) fn parse_address(text: &str) -> Result<SocketAddr, &'static str> {
    let error = "give an IP address and a port, such as 127.0.0.1:8008 or [::1]:8008";
    text.parse().map_err(|_| error)
}

/// Parses a lease as etcd prints it.
pub(super) fn parse_lease(text: &str) -> Result<LeaseId, ParseIntError> {
    u64::from_str_radix(text, 16).map(|id| LeaseId::new(id.cast_signed()))
}

/// Parses a log filter.
pub(super) fn parse_filter(text: &str) -> Result<Targets, String> {
    let hint = "give a level (off, error, warn, info, debug, trace) or target=level pairs";
    // Between two commas, tracing would take nothing for every target, at its most verbose level.
    let parts = text.split(',').map(str::trim);
    let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return Err(format!("it is empty; {hint}"));
    }
    let given = Targets::from_str(&parts.join(","));
    given
        .map(with_quiet_dependencies)
        .map_err(|error| format!("{error}; {hint}"))
}

/// Returns the filter that applies if none is given.
pub(super) fn default_filter() -> Targets {
    with_quiet_dependencies(Targets::new().with_default(LevelFilter::INFO))
}

/// Makes a bare level mean this program's own lines. A dependency logs more than warnings only if a
/// pair names it, because at `debug` the lines about HTTP/2 frames would hide all others.
fn with_quiet_dependencies(given: Targets) -> Targets {
    let Some(level) = given.default_level() else {
        return given;
    };
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target(OWN_TARGET, level)
        .with_targets(given)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn a_bare_level_is_for_the_programs_own_targets() {
        let own = ["leader_election", "leader_election::refresh"];
        for (filter, target, most_verbose) in [
            ("trace", own[0], Some(Level::TRACE)),
            ("trace", "h2::codec", Some(Level::WARN)),
            ("info", own[1], Some(Level::INFO)),
            ("error", own[0], Some(Level::ERROR)),
            ("error", "h2", Some(Level::ERROR)),
            ("off", own[0], None),
            ("off", "h2", None),
            ("debug,h2=debug", own[0], Some(Level::DEBUG)),
            ("h2=debug, debug,", "h2::codec", Some(Level::DEBUG)),
            ("debug,h2=debug", "tower", Some(Level::WARN)),
            ("h2=trace", "h2", Some(Level::TRACE)),
            ("h2=trace", own[0], None),
            (
                "info,leader_election::refresh=warn",
                own[0],
                Some(Level::INFO),
            ),
            (
                "info,leader_election::refresh=warn",
                own[1],
                Some(Level::WARN),
            ),
            ("debug,leader_election=warn", own[1], Some(Level::WARN)),
        ] {
            let filter_of = parse_filter(filter).unwrap();
            let levels = [
                Level::TRACE,
                Level::DEBUG,
                Level::INFO,
                Level::WARN,
                Level::ERROR,
            ];
            let found = levels
                .into_iter()
                .find(|level| filter_of.would_enable(target, level));
            assert_eq!(found, most_verbose, "{filter}: {target}");
        }
        for empty in ["", ",", " "] {
            assert!(parse_filter(empty).is_err(), "{empty:?}");
        }
    }

    #[test]
    fn a_priority_delay_is_a_duration_or_off() {
        let seconds = |seconds| Ok(PriorityDelay(Some(Duration::from_secs(seconds))));
        assert_eq!(parse_priority_delay("off"), Ok(PriorityDelay(None)));
        assert_eq!(parse_priority_delay("0s"), seconds(0));
        assert_eq!(parse_priority_delay("24h"), seconds(24 * 3600));
        for text in ["", "on", "-1s", "25h"] {
            assert!(parse_priority_delay(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_times_and_counts_of_a_health_command_have_bounds() {
        for (text, is_valid) in [
            ("100ms", true),
            ("1h", true),
            ("99ms", false),
            ("3601", false),
            ("", false),
        ] {
            assert_eq!(parse_health_time(text).is_ok(), is_valid, "{text}");
        }
        for (text, is_valid) in [("1", true), ("100", true), ("0", false), ("101", false)] {
            assert_eq!(parse_count(text).is_ok(), is_valid, "{text}");
        }
    }

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
