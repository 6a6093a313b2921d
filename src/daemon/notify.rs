//! Reports to the service manager: the protocol of systemd's `Type=notify`.

use super::cli::variable;
use crate::{election::Liveness, printable::Printable, protocol::Event};
use std::{
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    process,
    time::Duration,
};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::warn;

/// A shorter watchdog would keep this program busy.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(10);

/// The connection to the service manager, if there is one.
// Not sd-notify: it waits while the manager's queue is full, which would delay the election, and it
// does not know abstract addresses.
pub(super) struct Notifier {
    manager: Option<(UnixDatagram, SocketAddr)>,
    has_reported_ready: bool,
}

impl Notifier {
    /// Creates a notifier for the service manager that `NOTIFY_SOCKET` names.
    pub fn from_environment() -> Self {
        let manager = variable("NOTIFY_SOCKET").and_then(|address| {
            let manager = open(&address);
            manager.map_err(|error| warn_of(&error)).ok()
        });
        Self {
            manager,
            has_reported_ready: false,
        }
    }

    /// Reports what an event means to the manager. This replica is ready once it takes part in the
    /// election, which is once etcd has granted it a lease.
    pub fn report(&mut self, event: &Event) {
        match event {
            // A renewal repeats the report of a grant if that could not be sent. A replica whose
            // job is done reports it too: a service that exits before it is ready counts as failed.
            Event::Granted { .. } | Event::Renewed { .. } | Event::JobDone { .. }
                if !self.has_reported_ready =>
            {
                self.has_reported_ready = self.send("READY=1");
            }
            Event::Leading { .. } => {
                self.send("STATUS=The leader.");
            }
            Event::Following { leader } => {
                let leader = Printable(&leader.value);
                self.send(&format!("STATUS=A follower of '{leader}'."));
            }
            Event::SomebodyStillActs | Event::LeaderGone => {
                self.send("STATUS=A follower; nobody leads.");
            }
            Event::Lost { .. } => {
                self.send("STATUS=No longer the leader.");
            }
            _ => {}
        }
    }

    /// Reports that this replica works, for the manager's watchdog.
    pub fn report_alive(&mut self) {
        // If the queue is full, the next report is early enough.
        self.send("WATCHDOG=1");
    }

    /// Reports that this replica stops.
    pub fn report_stopping(&mut self) {
        self.send("STOPPING=1");
    }

    /// Returns false if the manager's queue is full, so that it may be sent again later.
    fn send(&mut self, message: &str) -> bool {
        let Some((socket, address)) = &self.manager else {
            return true;
        };
        match socket.send_to_addr(message.as_bytes(), address) {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => {
                warn_of(&error);
                self.manager = None;
                true
            }
        }
    }
}

/// When to report to the manager's watchdog.
pub(super) struct Watchdog {
    liveness: Liveness,
    interval: Option<Interval>,
}

impl Watchdog {
    /// Creates it for the watchdog that the environment names (`sd_watchdog_enabled(3)`), if there is
    /// one. Must be called within a tokio runtime.
    pub fn from_environment(liveness: Liveness) -> Self {
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        // The variables may have been inherited from the process that they are meant for.
        let is_meant =
            number("WATCHDOG_PID").is_none_or(|process| process == u64::from(process::id()));
        let timeout = number("WATCHDOG_USEC").filter(|timeout| is_meant && *timeout > 0);
        let interval = timeout.map(|timeout| {
            // Half of it is recommended; this leaves time for one report that gets lost.
            let mut interval = interval(Duration::from_micros(timeout).max(SHORTEST_TIMEOUT) / 3);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        Self { liveness, interval }
    }

    /// Waits until it is time to report, and until the election's loop has responded: that it is not
    /// stuck is what the report is worth. For ever if there is no watchdog.
    ///
    /// Cancel safe, but for a report that the next one makes up for.
    pub async fn passed(&mut self) {
        let Some(interval) = &mut self.interval else {
            return std::future::pending().await;
        };
        interval.tick().await;
        if !self.liveness.check().await {
            std::future::pending::<()>().await;
        }
    }
}

fn open(address: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(address)?,
        _ => {
            return Err(io::Error::other(
                "it is neither a path nor an abstract address",
            ));
        }
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

fn warn_of(error: &io::Error) {
    warn!("The service manager at NOTIFY_SOCKET cannot be notified: {error}.");
}
