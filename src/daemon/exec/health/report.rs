//! The reports of the health runner to the daemon, as lines of words.

use crate::daemon::exec::reaping::ChildEnd;
use std::{
    fmt,
    io::{self, ErrorKind},
    str::FromStr,
};

/// How a run of the health command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon) enum Outcome {
    /// By itself, or by a signal that the health runner did not send.
    Ended(ChildEnd),
    /// It took too long, and was killed.
    TookTooLong,
    /// The system did not run it, for the reason with this error number.
    NotStarted(i32),
    /// This process of an earlier run cannot be killed, so that it did not run.
    Blocked(i32),
}

/// What the health runner sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// A line that the health command has printed.
    Printed(String),
    /// A run is over, or was due and did not take place.
    Run(Outcome),
    /// The health runner cannot do its work, and ends.
    Failed(String),
    /// The health runner ends as it was asked to, and has left nothing.
    Stopped,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Printed(line) => writeln!(f, "printed {line}"),
            Self::Run(Outcome::Ended(ChildEnd::Exited(code))) => writeln!(f, "exited {code}"),
            Self::Run(Outcome::Ended(ChildEnd::Killed(signal))) => writeln!(f, "killed {signal}"),
            Self::Run(Outcome::TookTooLong) => writeln!(f, "took-too-long 0"),
            Self::Run(Outcome::NotStarted(error)) => writeln!(f, "not-started {error}"),
            Self::Run(Outcome::Blocked(process)) => writeln!(f, "blocked {process}"),
            Self::Failed(reason) => writeln!(f, "failed {reason}"),
            Self::Stopped => writeln!(f, "stopped 0"),
        }
    }
}

impl FromStr for Report {
    type Err = io::Error;

    fn from_str(line: &str) -> io::Result<Self> {
        let (kind, text) = line.split_once(' ').ok_or(ErrorKind::InvalidData)?;
        let small = || text.parse().map_err(|_| ErrorKind::InvalidData);
        let number = || text.parse().map_err(|_| ErrorKind::InvalidData);
        let outcome = match kind {
            "printed" => return Ok(Self::Printed(text.to_owned())),
            "failed" => return Ok(Self::Failed(text.to_owned())),
            "stopped" => return Ok(Self::Stopped),
            "exited" => Outcome::Ended(ChildEnd::Exited(small()?)),
            "killed" => Outcome::Ended(ChildEnd::Killed(small()?)),
            "took-too-long" => Outcome::TookTooLong,
            "not-started" => Outcome::NotStarted(number()?),
            "blocked" => Outcome::Blocked(number()?),
            _ => return Err(ErrorKind::InvalidData.into()),
        };
        Ok(Self::Run(outcome))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::exec::messages::take_lines;

    #[test]
    fn what_the_health_runner_sends_the_daemon_parses() {
        let reports = [
            Report::Printed(" é\rb ".to_owned()),
            Report::Run(Outcome::Ended(ChildEnd::Exited(255))),
            Report::Run(Outcome::Ended(ChildEnd::Killed(9))),
            Report::Run(Outcome::TookTooLong),
            Report::Run(Outcome::NotStarted(2)),
            Report::Run(Outcome::Blocked(7)),
            Report::Failed("no reason".to_owned()),
            Report::Stopped,
        ];
        let lines = reports.iter().map(ToString::to_string);
        let mut unread = lines.collect::<String>().into_bytes();
        assert_eq!(take_lines::<Report>(&mut unread).unwrap(), reports);
        for nonsense in ["", "exited", "exited 256", "blocked x", "run 1"] {
            assert!(nonsense.parse::<Report>().is_err(), "{nonsense}");
        }
    }
}
