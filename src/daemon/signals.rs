//! The signals that stop this program, and those that it forwards to COMMAND.

use nix::sys::signal::SigSet;
use std::{fs, io, task::Poll, time::Duration};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What images whose first process is systemd ask for with STOPSIGNAL: SIGRTMIN+3, as Docker numbers it.
const SYSTEMD_HALT: i32 = 37;

/// How long the signals of one request to stop may take to arrive: service managers and terminals send
/// two, and so do parents that forward what their whole process group has got.
pub(super) const TIME_OF_ONE_REQUEST: Duration = Duration::from_millis(500);

/// A signal that was received, and what it asks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Received {
    /// This program must stop.
    Stop(SignalKind),
    /// COMMAND must get this signal.
    Forward(SignalKind),
}

/// The signals that this program handles.
pub(super) struct Signals(Vec<(Signal, Received)>);

impl Signals {
    /// Starts to handle the signals: from now on they do not end the program by themselves.
    ///
    /// SIGTERM, SIGINT and SIGQUIT stop this program, and so do SIGRTMIN+3 and SIGWINCH, which some
    /// images name as their STOPSIGNAL; where there is a terminal, SIGWINCH says that its window was
    /// resized, and means nothing. With a COMMAND, SIGHUP, SIGUSR1 and SIGUSR2 are forwarded to it;
    /// without one, they stop this program too.
    ///
    /// A signal that was ignored when this program was started, other than SIGTERM, stays ignored: that
    /// is what `nohup` asks for, and a shell for its background jobs.
    ///
    /// # Errors
    /// If no handler can be set.
    pub fn new(has_command: bool) -> io::Result<Self> {
        use Received::{Forward, Stop};
        let mut handled: Vec<_> = [
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::quit(),
            SignalKind::from_raw(SYSTEMD_HALT),
        ]
        .map(Stop)
        .into();
        if !has_controlling_terminal() {
            handled.push(Stop(SignalKind::window_change()));
        }
        let others = [
            SignalKind::hangup(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
        ];
        handled.extend(others.map(if has_command { Forward } else { Stop }));

        let ignored = ignored_from_start();
        let handle = |received| {
            let (Stop(kind) | Forward(kind)) = received;
            let must_stay =
                ignored.contains(kind.as_raw_value()) && kind != SignalKind::terminate();
            (!must_stay).then(|| Ok((signal(kind)?, received)))
        };
        handled
            .into_iter()
            .filter_map(handle)
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// Waits for the next signal. Cancel safe.
    pub async fn next(&mut self) -> Received {
        std::future::poll_fn(|context| {
            let received = self.0.iter_mut().find_map(|(signal, received)| {
                signal.poll_recv(context).is_ready().then_some(*received)
            });
            received.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// Lets all signals arrive. A launcher with threads may have started this program with signals
/// blocked, and COMMAND would inherit that.
///
/// # Errors
/// None for which the kernel has a reason.
pub(super) fn unblock_all() -> io::Result<()> {
    Ok(SigSet::empty().thread_set_mask()?)
}

/// Signals by their numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct SignalSet(u64);

impl SignalSet {
    /// Returns true iff the set contains the signal with this number.
    pub fn contains(self, signal: i32) -> bool {
        self.0 >> (signal - 1) & 1 == 1
    }
}

/// Returns the signals that this process ignores now: before it handles any, these are those that it was
/// started with. None if the system does not say so.
pub(super) fn ignored_from_start() -> SignalSet {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    SignalSet(mask.unwrap_or_default())
}

/// Opening it fails without a controlling terminal.
fn has_controlling_terminal() -> bool {
    fs::File::open("/dev/tty").is_ok()
}
