//! A process with many candidates, by the library: this program, started again with an argument. It reads commands from
//! standard input, and prints when things happen, in microseconds of the clock that all processes share.

use crate::watch::runtime;
use leader_election::{Cluster, Config, Election};
use rustix::time::{ClockId, clock_gettime};
use std::{
    io::{self, BufRead as _},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};

/// The first argument of a worker.
pub const WORKER: &str = "worker";
/// Commands: join; end the term that a candidate has; end all terms and withdraw.
pub const GO: &str = "go";
pub const RESIGN: &str = "resign";
pub const STOP: &str = "stop";
/// What it prints: all candidates know who leads; one resigns; one leads; all lead; one has lost a term by a failure; it
/// begins to stop; all have withdrawn.
pub const KNOW: &str = "know";
pub const RESIGNS: &str = "resigns";
pub const LEADS: &str = "leads";
pub const ALL_LEAD: &str = "all_lead";
pub const LOST: &str = "lost";
pub const STOPS: &str = "stops";
pub const WITHDRAWN: &str = "withdrawn";

/// Returns the present time in microseconds.
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1000
}

fn say(what: &str) {
    println!("{what} {}", now());
}

/// What all candidates of a worker share.
struct Shared {
    count: usize,
    /// Whether each has an election of its own.
    has_many_elections: bool,
    knowing: AtomicUsize,
    leading: AtomicUsize,
    resign: Notify,
    stopping: watch::Receiver<bool>,
}

/// Runs a worker: etcd, its name, how many candidates it has, and whether each of them has an election of its own.
pub fn run(arguments: &[String]) {
    let [etcd, name, count, has_many_elections] = arguments else {
        panic!("not the arguments of a worker: {arguments:?}");
    };
    let (stop, stopping) = watch::channel(false);
    let shared = Arc::new(Shared {
        count: count.parse().expect("a number"),
        has_many_elections: has_many_elections.parse().expect("true or false"),
        knowing: AtomicUsize::new(0),
        leading: AtomicUsize::new(0),
        resign: Notify::new(),
        stopping,
    });
    let endpoint = etcd.parse().expect("an endpoint");
    let cluster = Cluster::new(vec![endpoint]).expect("a cluster");
    let (commands, mut received) = mpsc::unbounded_channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let sent = line.is_ok_and(|line| commands.send(line).is_ok());
            if !sent {
                return;
            }
        }
    });
    runtime().block_on(async {
        let mut candidates = JoinSet::new();
        while let Some(command) = received.recv().await {
            match command.as_str() {
                GO => {
                    for number in 0..shared.count {
                        let election = if shared.has_many_elections { number } else { 0 };
                        let name = format!("{name}-{number}").parse().expect("a name");
                        let key = format!("growth/{election}").parse().expect("a key");
                        let config = Config::new(name, cluster.clone()).with_leader_key(key);
                        candidates.spawn(take_part(config, Arc::clone(&shared)));
                    }
                }
                RESIGN => shared.resign.notify_waiters(),
                STOP => {
                    say(STOPS);
                    stop.send_replace(true);
                    break;
                }
                other => panic!("not a command: {other}"),
            }
        }
        while let Some(ended) = candidates.join_next().await {
            ended.expect("a candidate does not panic");
        }
        say(WITHDRAWN);
    });
}

async fn take_part(config: Config, shared: Arc<Shared>) {
    let mut candidate = Election::new(config).join().expect("a timer");
    let mut status = candidate.status();
    let mut stopping = shared.stopping.clone();
    let knows = async {
        let knows = status.wait_for(|status| status.leader.is_some());
        if knows.await.is_ok() && shared.knowing.fetch_add(1, Ordering::Relaxed) + 1 == shared.count
        {
            say(KNOW);
        }
    };
    let leads = async {
        loop {
            let leadership = tokio::select! {
                leadership = candidate.elected() => leadership,
                () = stopped(&mut stopping) => None,
            };
            let Some(mut leadership) = leadership else {
                break;
            };
            let leading = shared.leading.fetch_add(1, Ordering::Relaxed) + 1;
            if !shared.has_many_elections {
                say(LEADS);
            } else if leading == shared.count {
                say(ALL_LEAD);
            }
            tokio::select! {
                _ = leadership.lost() => say(LOST),
                () = shared.resign.notified() => {
                    say(RESIGNS);
                    leadership.resign().await;
                }
                () = stopped(&mut stopping) => {
                    // Before the leadership is dropped, so that it does not campaign again.
                    candidate.begin_withdrawal();
                }
            }
            shared.leading.fetch_sub(1, Ordering::Relaxed);
        }
        candidate.withdraw().await.expect("the election works");
    };
    tokio::join!(knows, leads);
}

/// Waits until the worker is asked to stop.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // What it returns would hold a lock.
    drop(stopping.wait_for(|stop| *stop).await);
}
