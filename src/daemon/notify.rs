//! Reports to the service manager: the protocol of systemd's `Type=notify`.

use crate::{printable::Printable, protocol::Event};
use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};
use tracing::warn;

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
        let manager = env::var_os("NOTIFY_SOCKET")
            .filter(|address| !address.is_empty())
            .and_then(|address| {
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
            // A renewal repeats the report of a grant if that could not be sent.
            Event::Granted { .. } | Event::Renewed { .. } if !self.has_reported_ready => {
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
    warn!("The service manager at NOTIFY_SOCKET cannot be told how it goes: {error}.");
}
