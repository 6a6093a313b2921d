//! Counts the terms that leaders with a limit lose although nobody harms them, while the machine and etcd have more or
//! less to do.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};
use support::{
    daemon::{Daemon, LOST, wait_for_next_roles},
    etcd::{self, Etcd},
    let_pass,
    process::Process,
    quick::candidate,
};

const LIMITS: [Duration; 3] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// How a follower says that it has challenged the leader.
const CHALLENGES: &str = "The leader may have failed; asking whether it is alive.";

/// What the machine does beside the elections.
#[derive(Clone, Copy, Debug)]
enum Load {
    Idle,
    BusyLoops,
    Writes,
}

/// Runs three elections side by side on one etcd, for this many minutes under each load.
pub fn count(minutes: u32) {
    for load in [Load::Idle, Load::BusyLoops, Load::Writes] {
        let etcd = Etcd::start(&etcd::binaries().pop().expect("an etcd"));
        let mut elections = LIMITS.map(|limit| election(&etcd, limit));
        for replicas in &mut elections {
            wait_for_next_roles(replicas);
        }
        let time = Duration::from_mins(1) * minutes;
        let what = match load {
            Load::Idle => {
                let_pass(time);
                "idle".to_owned()
            }
            Load::BusyLoops => {
                let _loops = [busy_loop(), busy_loop()];
                let_pass(time);
                "two busy loops".to_owned()
            }
            Load::Writes => {
                let writer = Writer::start(&etcd);
                let_pass(time);
                let written = writer.stop();
                format!("{} writes/s of 1 kB", written / time.as_secs())
            }
        };
        for (limit, replicas) in LIMITS.iter().zip(&elections) {
            let lost = said(replicas, |message| message.starts_with(LOST));
            let challenged = said(replicas, |message| message == CHALLENGES);
            println!(
                "| {what}, {minutes} min, limit {limit:?} | {lost} terms lost, {challenged} wrong suspicions |"
            );
        }
    }
}

/// Starts an election of three with this limit.
fn election(etcd: &Etcd, limit: Duration) -> Vec<Daemon> {
    let replica = |number| {
        let name = format!("server{number}");
        let mut command = candidate(&name, &etcd.endpoint(), limit);
        command.args(["--leader-key", &format!("limit{}", limit.as_millis())]);
        command.args(["--log-filter", "info,leader_election=debug"]);
        Daemon::spawn(&name, command)
    };
    (1..=3).map(replica).collect()
}

fn said(replicas: &[Daemon], is_it: impl Fn(&str) -> bool) -> usize {
    let messages = replicas.iter().flat_map(|replica| replica.messages());
    messages.filter(|message| is_it(message)).count()
}

fn busy_loop() -> Process {
    let mut shell = Command::new("sh");
    shell.args(["-c", "while :; do :; done"]);
    Process::spawn("a busy loop", shell)
}

/// Writes a kilobyte to an etcd a hundred times in a second.
struct Writer {
    stops: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Writer {
    fn start(etcd: &Etcd) -> Self {
        let stops = Arc::new(AtomicBool::new(false));
        let (endpoint, stop) = (etcd.endpoint(), Arc::clone(&stops));
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(write(endpoint, &stop))
        });
        Self { stops, thread }
    }

    /// Returns how many writes etcd has confirmed.
    fn stop(self) -> u64 {
        self.stops.store(true, Ordering::Relaxed);
        self.thread.join().expect("it writes")
    }
}

async fn write(endpoint: String, stop: &AtomicBool) -> u64 {
    let client = etcd_client::Client::connect([endpoint], None).await;
    let client = client.expect("etcd runs").kv_client();
    let confirmed = Arc::new(AtomicU64::new(0));
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        let (mut client, confirmed) = (client.clone(), Arc::clone(&confirmed));
        // A slow write does not delay the next one.
        tokio::spawn(async move {
            let key = format!("load/{}", number % 1000);
            if client.put(key, vec![b'x'; 1024], None).await.is_ok() {
                confirmed.fetch_add(1, Ordering::Relaxed);
            }
        });
        number += 1;
    }
    confirmed.load(Ordering::Relaxed)
}
