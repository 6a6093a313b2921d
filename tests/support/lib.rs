//! What the tests of the real binary share: programs whose lines are recorded, etcd servers of a
//! test's own, and a proxy between the two that can fail.
#![allow(
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::new_without_default,
    reason = "only the project's own tests use it, and they fail by panicking"
)]

pub mod authority;
pub mod browser;
pub mod checker;
pub mod cluster;
pub mod compose;
pub mod daemon;
pub mod debian;
pub mod done;
pub mod etcd;
pub mod etcdctl;
pub mod events;
pub mod faults;
pub mod health;
pub mod history;
pub mod http;
pub mod job;
pub mod lan;
pub mod line;
pub mod operator;
pub mod page;
pub mod permit;
pub mod played;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod quick;
pub mod record;
pub mod refusals;
pub mod requests;
pub mod seated;
pub mod seats;
pub mod served;
pub mod standbys;
pub mod users;
pub mod watched;

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The TTL of the tests' elections: the shortest that etcd grants.
pub const TTL: Duration = Duration::from_secs(2);

/// How often a leader renews its lease.
pub const REFRESH: Duration = Duration::from_millis(400);

/// After this time, another signal to stop is a second request, and ends a daemon at once.
pub const NEXT_REQUEST: Duration = Duration::from_millis(600);

/// How long a test waits for something that has no time limit of its own. On a machine that is
/// busy with other tests, most things take longer than usual, and starting containers takes the
/// longest. No time is measured by it, so being long costs nothing but the wait of a failed test.
/// A test that checks a time compares the times of the recorded lines.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// By when a replica leads again once a fault is over: etcd looks for expired leases twice a
/// second, and a new etcd leader extends them by its election timeout; then come a follower's read
/// and two tries.
pub const FAIL_OVER: Duration = Duration::from_millis(2000 + 1500 + 667 + 800);

/// Returns the same for another TTL.
pub fn fail_over(ttl: Duration) -> Duration {
    ttl + Duration::from_millis(1500) + ttl / 3 + ttl / 5 * 2
}

/// Whether tests take as long as they need to show what takes minutes: `tests/run.sh all`.
pub fn is_long_run() -> bool {
    std::env::var_os("TEST_LONG").is_some()
}

/// Returns what cargo says about the package under test, in the environment of its tests and benches.
/// While it compiles this crate, it says the same about this crate.
pub(crate) fn from_cargo(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("cargo sets {variable} when it runs tests"))
}

/// Returns the path of a file of the project.
pub fn project(path: &str) -> PathBuf {
    PathBuf::from(from_cargo("CARGO_MANIFEST_DIR")).join(path)
}

/// Returns the path of an example.
pub fn example(name: &str) -> String {
    let path = project("examples").join(name);
    path.into_os_string().into_string().expect("text")
}

static CHANGES: Mutex<()> = Mutex::new(());
static CHANGED: Condvar = Condvar::new();

/// Wakes all that wait in [`wait_until`]. Everything that a test may wait for calls this after each
/// change.
pub fn changed() {
    drop(lock(&CHANGES));
    CHANGED.notify_all();
}

/// Looks now and after every change until there is something to return.
///
/// # Panics
/// When there is nothing within `bound`.
pub fn wait_until<T>(what: &str, bound: Duration, look: impl FnMut() -> Option<T>) -> T {
    wait_at_most(bound, look).unwrap_or_else(|| panic!("not within {bound:?}: {what}"))
}

/// Looks now and after every change until there is something to return or the time is over.
pub fn wait_at_most<T>(bound: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + bound;
    let mut guard = lock(&CHANGES);
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        guard = CHANGED
            .wait_timeout(guard, left)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
    }
}

/// Looks every few milliseconds until there is something to return. This is for what reports no
/// change: files, servers, other programs.
///
/// # Panics
/// When there is nothing within [`PATIENCE`].
pub fn poll_until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    poll_every(Duration::from_millis(5), what, look)
}

/// Does the same at longer intervals, for looks that cost much.
///
/// # Panics
/// When there is nothing within [`PATIENCE`].
pub fn poll_every<T>(interval: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(interval);
    }
}

/// Lets time pass in which something must *not* happen, so that there is nothing to wait for.
pub fn let_pass(time: Duration) {
    std::thread::sleep(time);
}

/// Locks a mutex, also after a test has panicked with the lock held.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the command lines of all processes on this machine that contain this text.
pub fn processes_with(text: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").expect("the system's processes");
    let command_line = |process: std::io::Result<std::fs::DirEntry>| {
        // What is no process, or has ended meanwhile, has no such file.
        let file = process.ok()?.path().join("cmdline");
        let bytes = std::fs::read(file).ok()?;
        Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
    };
    let mut command_lines: Vec<_> = processes.filter_map(command_line).collect();
    command_lines.retain(|command_line| command_line.contains(text));
    command_lines
}

/// Returns a free port of 127.0.0.1 that no other test on this machine gets while this process
/// runs. Linux does not give it to outgoing connections either.
pub fn free_port() -> u16 {
    static RESERVED: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    loop {
        let port = fastrand::u16(10_240..32_768);
        // Only one process at a time can hold a socket of this name, and it leaves no file behind.
        let name = format!("leader-election-tests-port-{port}");
        let address = SocketAddr::from_abstract_name(name).expect("a short name");
        let Ok(reservation) = UnixListener::bind_addr(&address) else {
            continue;
        };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            lock(&RESERVED).push(reservation);
            return port;
        }
    }
}

/// Returns a name that no other test has, for what shares a namespace with others: containers,
/// networks, images. A process id is not enough, as several containers may share one Docker engine.
pub fn unique_name(start: &str) -> String {
    format!("{start}_{:016x}", fastrand::u64(..))
}
