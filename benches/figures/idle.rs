//! What an election costs while nothing happens in it: memory, processor time, and requests to etcd.

use std::{
    fs,
    time::{Duration, Instant},
};
use support::{http, process::Process};

/// Returns the resident memory of a process in MiB.
pub fn memory(process: &Process) -> f64 {
    let file = format!("/proc/{}/status", process.pid().as_raw_nonzero());
    let status = fs::read_to_string(file).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.expect("a line").trim().trim_end_matches(" kB");
    kibibytes.parse::<f64>().expect("a number") / 1024.0
}

/// Returns the processor time that all threads of a process have used, more exactly than in ticks of 10 ms.
fn processor_time(process: &Process) -> Duration {
    let folder = format!("/proc/{}/task", process.pid().as_raw_nonzero());
    let threads = fs::read_dir(folder).expect("it runs");
    let used = |thread: std::io::Result<fs::DirEntry>| {
        // A thread that has ended meanwhile has no such file.
        let stat = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<u64>().ok()
    };
    Duration::from_nanos(threads.filter_map(used).sum())
}

/// What etcd has done so far, as its metrics say.
#[derive(Clone, Copy)]
pub struct Work {
    /// Messages that clients have sent, such as requests and keepalives.
    pub messages: f64,
    /// Raft entries that it has applied.
    pub entries: f64,
}

impl Work {
    /// Reads the metrics of this etcd.
    pub fn of(etcd: &str) -> Self {
        let metrics = http::get(etcd, "/metrics").body;
        let sum = |name: &str| -> f64 {
            let lines = metrics.lines().filter_map(|line| {
                let rest = line.strip_prefix(name)?;
                // Not the start of a longer name.
                let is_it = rest.starts_with(['{', ' ']);
                is_it.then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
            });
            lines.sum()
        };
        Self {
            messages: sum("grpc_server_msg_received_total"),
            entries: sum("etcd_server_proposals_applied_total"),
        }
    }

    /// Returns what was done since.
    pub fn since(self, before: Self) -> Self {
        Self {
            messages: self.messages - before.messages,
            entries: self.entries - before.entries,
        }
    }
}

/// An election at the beginning of a time in which nothing happens.
pub struct Before {
    at: Instant,
    processes: Vec<Duration>,
    etcd: Option<Work>,
}

/// What that time has cost.
pub struct Cost {
    /// The processor time of the leader, and of a follower, in percent of a core.
    pub leader: f64,
    pub follower: f64,
    /// What etcd does in an hour.
    pub hourly: Option<Work>,
}

impl Before {
    /// The first process leads, the second one follows.
    pub fn new(processes: &[Process], etcd: Option<&str>) -> Self {
        Self {
            etcd: etcd.map(Work::of),
            processes: processes.iter().map(processor_time).collect(),
            at: Instant::now(),
        }
    }

    /// Returns what it has cost since.
    pub fn cost(&self, processes: &[Process], etcd: Option<&str>) -> Cost {
        let time = self.at.elapsed().as_secs_f64();
        let share = |number: usize| {
            let used = processor_time(&processes[number]).saturating_sub(self.processes[number]);
            100.0 * used.as_secs_f64() / time
        };
        let in_an_hour = |before: Work, now: Work| {
            let work = now.since(before);
            let factor = 3600.0 / time;
            Work {
                messages: work.messages * factor,
                entries: work.entries * factor,
            }
        };
        Cost {
            leader: share(0),
            follower: share(1),
            hourly: self
                .etcd
                .zip(etcd.map(Work::of))
                .map(|(before, now)| in_an_hour(before, now)),
        }
    }
}
