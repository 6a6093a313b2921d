//! Tells a service manager how it goes: the protocol of systemd's `Type=notify`.

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

/// Who is told; nobody where the program runs by itself.
pub(super) struct Notifier {
    manager: Option<(UnixDatagram, SocketAddr)>,
    is_ready: bool,
}

impl Notifier {
    /// Looks for a service manager in `NOTIFY_SOCKET`.
    pub fn from_environment() -> Self {
        let manager = env::var_os("NOTIFY_SOCKET")
            .filter(|address| !address.is_empty())
            .and_then(|address| {
                let manager = reach(&address);
                manager.map_err(|error| complain(&error)).ok()
            });
        Self {
            manager,
            is_ready: false,
        }
    }

    /// Tells what the manager should know of an event. It is ready once it takes part: once etcd
    /// has granted it a lease.
    pub fn note(&mut self, event: &Event) {
        match event {
            // Or a later one, if that could not be sent.
            Event::Granted { .. } | Event::Renewed { .. } if !self.is_ready => {
                self.is_ready = self.tell("READY=1");
            }
            Event::Leading { .. } => {
                self.tell("STATUS=The leader.");
            }
            Event::Following { leader } => {
                let leader = Printable(&leader.value);
                self.tell(&format!("STATUS=A follower of '{leader}'."));
            }
            Event::SomebodyStillActs | Event::LeaderGone => {
                self.tell("STATUS=A follower; nobody leads.");
            }
            Event::Lost { .. } => {
                self.tell("STATUS=No longer the leader.");
            }
            _ => {}
        }
    }

    /// Tells that it stops.
    pub fn stopping(&mut self) {
        self.tell("STOPPING=1");
    }

    /// Returns false if that must be tried again.
    fn tell(&mut self, what: &str) -> bool {
        let Some((socket, address)) = &self.manager else {
            return true;
        };
        match socket.send_to_addr(what.as_bytes(), address) {
            Ok(_) => true,
            // The election waits for nobody.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => {
                complain(&error);
                self.manager = None;
                true
            }
        }
    }
}

fn reach(address: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
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

fn complain(error: &io::Error) {
    warn!("The service manager at NOTIFY_SOCKET cannot be told how it goes: {error}.");
}
