//! The messages between the daemon and a guard over their socket: lines of words, and COMMAND's
//! standard input.

use crate::protocol::Moment;
use rustix::{
    fd::{AsFd, OwnedFd},
    io::retry_on_intr,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};
use std::{
    fmt,
    io::{self, ErrorKind, IoSlice, IoSliceMut, IsTerminal},
    mem::MaybeUninit,
    str::FromStr,
    time::Duration,
};

/// What the daemon sends to the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Run COMMAND; ask it to stop at one moment and kill it at another, unless the next order
    /// moves them.
    Run { stop_at: Moment, kill_at: Moment },
    /// Tell COMMAND to stop now, and kill it at that moment, unless the next order moves it.
    Stop { kill_at: Moment },
    /// Send COMMAND's process group the signal with this number.
    Signal(i32),
}

/// What the guard sends to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// COMMAND runs as this process.
    Started { process: i32 },
    /// The system did not run COMMAND, for the reason with this error number.
    NotStarted { error: i32 },
    /// COMMAND was asked to stop, and nothing of it is left; or it was not started, because its time
    /// was over.
    Stopped,
    /// COMMAND ended by itself with this exit code, and nothing of it is left.
    Exited { code: u8 },
    /// The guard may not kill this process, which belongs to another user.
    KillDenied { process: i32 },
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = |moment: Moment| moment.since_origin().as_nanos();
        match *self {
            Self::Run { stop_at, kill_at } => {
                writeln!(f, "run {} {}", nanos(stop_at), nanos(kill_at))
            }
            Self::Stop { kill_at } => writeln!(f, "stop {}", nanos(kill_at)),
            Self::Signal(signal) => writeln!(f, "signal {signal}"),
        }
    }
}

impl FromStr for Order {
    type Err = io::Error;

    fn from_str(line: &str) -> io::Result<Self> {
        let moment = |nanos: &str| {
            Some(Moment::from_origin(Duration::from_nanos(
                nanos.parse().ok()?,
            )))
        };
        let words: Vec<_> = line.split(' ').collect();
        let order = match words[..] {
            ["run", stop_at, kill_at] => moment(stop_at)
                .zip(moment(kill_at))
                .map(|(stop_at, kill_at)| Self::Run { stop_at, kill_at }),
            ["stop", kill_at] => moment(kill_at).map(|kill_at| Self::Stop { kill_at }),
            ["signal", signal] => signal.parse().ok().map(Self::Signal),
            _ => None,
        };
        order.ok_or_else(|| ErrorKind::InvalidData.into())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { process } => writeln!(f, "started {process}"),
            Self::NotStarted { error } => writeln!(f, "not-started {error}"),
            Self::Stopped => writeln!(f, "stopped"),
            Self::Exited { code } => writeln!(f, "exited {code}"),
            Self::KillDenied { process } => writeln!(f, "kill-denied {process}"),
        }
    }
}

impl FromStr for Report {
    type Err = io::Error;

    fn from_str(line: &str) -> io::Result<Self> {
        let words: Vec<_> = line.split(' ').collect();
        let report = match words[..] {
            ["started", process] => process
                .parse()
                .ok()
                .map(|process| Self::Started { process }),
            ["not-started", error] => error.parse().ok().map(|error| Self::NotStarted { error }),
            ["stopped"] => Some(Self::Stopped),
            ["exited", code] => code.parse().ok().map(|code| Self::Exited { code }),
            ["kill-denied", process] => process
                .parse()
                .ok()
                .map(|process| Self::KillDenied { process }),
            _ => None,
        };
        report.ok_or_else(|| ErrorKind::InvalidData.into())
    }
}

/// Takes the complete lines out of what was read, and parses them. An incomplete line stays.
///
/// # Errors
/// If a line makes no sense.
pub(super) fn take_lines<T: FromStr<Err = io::Error>>(unread: &mut Vec<u8>) -> io::Result<Vec<T>> {
    let end = unread.iter().rposition(|byte| *byte == b'\n');
    let lines: Vec<u8> = unread.drain(..end.map_or(0, |end| end + 1)).collect();
    let lines = str::from_utf8(&lines).map_err(|_| ErrorKind::InvalidData)?;
    lines.lines().map(str::parse).collect()
}

/// Passes this process's standard input to the guard, for COMMAND. A terminal is not passed: only
/// the terminal's foreground process group may read it, and COMMAND has a group of its own.
///
/// # Errors
/// If the socket fails.
pub(super) fn send_stdin(guard: impl AsFd) -> io::Result<()> {
    let stdin = io::stdin();
    let files = [stdin.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !stdin.is_terminal() {
        ancillary.push(SendAncillaryMessage::ScmRights(&files));
    }
    let send = || {
        sendmsg(
            &guard,
            &[IoSlice::new(&[0])],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )
    };
    retry_on_intr(send)?;
    Ok(())
}

/// Receives what [`send_stdin`] has sent; `None` if that was a terminal.
///
/// # Errors
/// If the socket fails, or the daemon is gone.
pub(super) fn receive_stdin(daemon: impl AsFd) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let receive = || {
        let mut parts = [IoSliceMut::new(&mut byte)];
        recvmsg(&daemon, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    };
    if retry_on_intr(receive)?.bytes == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_side_sends_the_other_side_parses() {
        let at = |millis| Moment::from_origin(Duration::from_millis(millis));
        let orders = [
            Order::Run {
                stop_at: at(1),
                kill_at: at(u64::MAX / 1_000_000),
            },
            Order::Stop { kill_at: at(0) },
            Order::Signal(10),
        ];
        let mut unread: Vec<u8> = orders
            .iter()
            .flat_map(|order| order.to_string().into_bytes())
            .collect();
        unread.extend(b"stop 1");
        assert_eq!(take_lines::<Order>(&mut unread).unwrap(), orders);
        assert_eq!(unread, b"stop 1");
        let reports = [
            Report::Started { process: 7 },
            Report::NotStarted { error: 2 },
            Report::Stopped,
            Report::Exited { code: 255 },
            Report::KillDenied { process: 7 },
        ];
        let mut unread: Vec<u8> = reports
            .iter()
            .flat_map(|report| report.to_string().into_bytes())
            .collect();
        assert_eq!(take_lines::<Report>(&mut unread).unwrap(), reports);
        assert!(unread.is_empty());
        for nonsense in ["", "run 1", "stop x", "stop 1 2", "kill 1"] {
            assert!(nonsense.parse::<Order>().is_err(), "{nonsense}");
        }
    }
}
