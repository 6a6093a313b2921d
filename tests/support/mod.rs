//! What the tests of the real binary share: an etcd of one's own, replicas whose lines are
//! recorded, and a way between the two that can be broken.
#![allow(dead_code, reason = "each test file uses its own part of this")]

pub mod answers;
pub mod checker;
pub mod cluster;
pub mod daemon;
pub mod etcd;
pub mod etcdctl;
pub mod http;
pub mod operator;
pub mod postgres;
pub mod proxy;
pub mod record;

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The TTL of the tests' elections: the shortest that etcd grants.
pub const TTL: Duration = Duration::from_secs(2);

/// How often a leader's lease is refreshed.
pub const REFRESH: Duration = Duration::from_millis(400);

/// Long enough for anything that happens at all, on a machine busy with other tests.
/// What must happen within a time of its own is checked against that, by the lines' times.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// By when somebody leads again once faults stop: etcd looks for dead leases twice a second,
/// a new etcd leader extends them by its election time-out; then a follower's read, and two tries.
pub const FAIL_OVER: Duration = Duration::from_millis(2000 + 1500 + 667 + 800);

/// The same for another TTL.
pub fn fail_over(ttl: Duration) -> Duration {
    ttl + Duration::from_millis(1500) + ttl / 3 + ttl / 5 * 2
}

static CHANGES: Mutex<()> = Mutex::new(());
static CHANGED: Condvar = Condvar::new();

/// Wakes whoever waits in [`wait_until`]; called after every change that one may wait for.
pub fn changed() {
    drop(lock(&CHANGES));
    CHANGED.notify_all();
}

/// Looks again after every change, until there is something to return.
///
/// # Panics
/// When there is nothing after `bound`.
pub fn wait_until<T>(what: &str, bound: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + bound;
    let mut guard = lock(&CHANGES);
    loop {
        if let Some(found) = look() {
            return found;
        }
        let left = end.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "not within {bound:?}: {what}");
        guard = CHANGED
            .wait_timeout(guard, left)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
    }
}

/// Looks again every few milliseconds, where nobody tells of a change, until there is something to
/// return.
///
/// # Panics
/// When there is nothing after [`PATIENCE`].
pub fn poll_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Locks, also after a test that panicked while it held the lock.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets time pass in which something must *not* happen, so that there is nothing to wait for.
pub fn let_pass(time: Duration) {
    std::thread::sleep(time);
}

/// A port of 127.0.0.1 that nobody uses, and that stays so until a test listens on it: it is not
/// among those that Linux gives to outgoing connections, and never returned twice.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let offset = std::process::id() * 97 + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(10_240 + offset % 22_000).expect("below 32,768");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
