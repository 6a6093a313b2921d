//! The signals that ask this program to stop, and those that are for COMMAND.

use std::{io, task::Poll};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal that was received.
#[derive(Clone, Copy, Debug)]
pub(super) enum Received {
    /// This program is asked to stop.
    Stop(SignalKind),
    /// COMMAND is asked for something.
    PassOn(SignalKind),
}

/// The signals that this program answers.
pub(super) struct Signals(Vec<(Signal, Received)>);

impl Signals {
    /// Begins to listen: from now on these signals do not end the program by themselves.
    ///
    /// SIGINT, SIGTERM and SIGQUIT ask it to stop. So does SIGHUP where there is no COMMAND; where
    /// there is one, SIGHUP, SIGUSR1 and SIGUSR2 are for it.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn new(with_command: bool) -> io::Result<Self> {
        use Received::{PassOn, Stop};
        let mut answered = vec![
            Stop(SignalKind::interrupt()),
            Stop(SignalKind::terminate()),
            Stop(SignalKind::quit()),
        ];
        if with_command {
            answered.extend([
                PassOn(SignalKind::hangup()),
                PassOn(SignalKind::user_defined1()),
                PassOn(SignalKind::user_defined2()),
            ]);
        } else {
            answered.push(Stop(SignalKind::hangup()));
        }
        let listen = |received| {
            let (Stop(kind) | PassOn(kind)) = received;
            Ok((signal(kind)?, received))
        };
        answered
            .into_iter()
            .map(listen)
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
