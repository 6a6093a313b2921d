//! The signals that stop this program, and those that it forwards to COMMAND.

use std::{io, task::Poll};
use tokio::signal::unix::{Signal, SignalKind, signal};

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
    /// SIGINT, SIGTERM and SIGQUIT stop this program. With a COMMAND, SIGHUP, SIGUSR1 and SIGUSR2
    /// are forwarded to it; without one, SIGHUP stops this program too.
    ///
    /// # Errors
    /// If no handler can be set.
    pub fn new(has_command: bool) -> io::Result<Self> {
        use Received::{Forward, Stop};
        let mut handled = vec![
            Stop(SignalKind::interrupt()),
            Stop(SignalKind::terminate()),
            Stop(SignalKind::quit()),
        ];
        if has_command {
            handled.extend([
                Forward(SignalKind::hangup()),
                Forward(SignalKind::user_defined1()),
                Forward(SignalKind::user_defined2()),
            ]);
        } else {
            handled.push(Stop(SignalKind::hangup()));
        }
        let handle = |received| {
            let (Stop(kind) | Forward(kind)) = received;
            Ok((signal(kind)?, received))
        };
        handled
            .into_iter()
            .map(handle)
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
