//! Starts a helper of the daemon: a process of this program that ends early only if its socket to the
//! daemon ends.

use super::reaping;
use crate::daemon::signals;
use rustix::process::{Signal, set_parent_process_death_signal, setsid};
use std::{
    ffi::CStr,
    io,
    os::unix::net::UnixStream,
    sync::{Arc, atomic::AtomicBool},
};

/// Signals that may reach a helper together with its daemon, and that only the daemon acts on.
const IGNORED_SIGNALS: [Signal; 6] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::TERM,
    Signal::USR1,
    Signal::USR2,
];

/// Makes this process a helper with this name: a subreaper with a session of its own, which ignores the
/// signals that its daemon acts on. Returns a socket that becomes readable when a child ends.
///
/// `stop_signal` is the signal that asks the helper's children to stop, if there is one.
///
/// # Errors
/// If the system is short of file descriptors, or does not list the children of a process.
pub(super) fn begin(name: &CStr, stop_signal: Option<Signal>) -> io::Result<UnixStream> {
    reaping::become_subreaper()?;
    rustix::thread::set_name(name)?;
    // One that is suspended when the daemon dies must go on, to kill what it runs.
    set_parent_process_death_signal(Some(Signal::CONT))?;
    // In the session of a terminal, the children would never be in the foreground, and the terminal could
    // suspend them for good.
    setsid()?;
    let ignored_from_start = signals::ignored_from_start();
    let stays_ignored = |signal: Signal| {
        // `nohup` and the like are meant for the children as well, unless that is how they are asked to stop.
        ignored_from_start.contains(signal.as_raw()) && Some(signal) != stop_signal
    };
    for signal in IGNORED_SIGNALS.into_iter().chain(stop_signal) {
        if stays_ignored(signal) || signal_hook::consts::FORBIDDEN.contains(&signal.as_raw()) {
            continue;
        }
        // A handler that does nothing, because the children would inherit that a signal is ignored.
        signal_hook::flag::register(signal.as_raw(), Arc::new(AtomicBool::new(false)))?;
    }
    let (child_ended, writer) = UnixStream::pair()?;
    child_ended.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(Signal::CHILD.as_raw(), writer)?;
    Ok(child_ended)
}
