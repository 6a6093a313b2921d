//! How elections grow: many candidates for one key, and many elections in one process.

use crate::{
    contest::Contest,
    idle::{self, Work},
    peers::{Etcdctl, Kind},
    report::Grid,
    worker::{
        ALL_LEAD, GO, KNOW, LEADS, LOST, RESIGN, RESIGNS, STOP, STOPS, WITHDRAWN, WORKER, now,
    },
};
use rustix::process::Signal;
use std::{
    fs, hint,
    io::{PipeWriter, Write as _, pipe},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use support::{PATIENCE, etcd::Etcd, let_pass, poll_until, process::Process, wait_until};

/// More processes of `etcdctl elect` take more memory than a small machine has.
const MOST_ELECTORS: usize = 100;
/// The candidates share so many processes.
const PROCESSES: usize = 4;
/// What takes a TTL is done so often.
const CRASHES: usize = 3;
/// After this time, all candidates have a lease and have read the keys again.
const SETTLED: Duration = Duration::from_secs(3);
/// A take-over makes all followers try at once. After this time, they should have spread.
const SPREAD: Duration = Duration::from_secs(20);
/// In which period a follower tries: a third of the TTL.
const FOLLOWS_EVERY: Duration = Duration::from_millis(1667);
const BUSY_LOOPS: usize = 2;

/// The rows that the plot shows.
pub const HAND_OVER: &str = "resign → next leads, ms";
pub const ELECT_HAND_OVER: &str = "the same with `etcdctl elect` (SIGTERM → next), ms";

/// A worker process.
struct Worker {
    process: Process,
    commands: PipeWriter,
}

impl Worker {
    fn start(etcd: &Etcd, name: &str, count: usize, has_many_elections: bool) -> Self {
        // This program, even if another build has replaced its file.
        let mut command = Command::new("/proc/self/exe");
        command.args([WORKER, &etcd.endpoint(), name, &count.to_string()]);
        let (reader, commands) = pipe().expect("a pipe");
        command.arg(has_many_elections.to_string()).stdin(reader);
        let process = Process::spawn(name, command);
        Self { process, commands }
    }

    /// Gives a command; returns when.
    fn order(&mut self, command: &str) -> u64 {
        let at = now();
        writeln!(self.commands, "{command}").expect("it reads");
        at
    }

    /// Waits until it prints this; returns when it did that.
    fn wait_for_next(&mut self, what: &str) -> u64 {
        let line = self.process.wait_for_next_start(what).text();
        time_of(&line, what).expect("a time")
    }
}

/// Threads that use all the processor time that they get.
struct BusyLoops {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl BusyLoops {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let spin = |stop: Arc<AtomicBool>| {
            move || {
                while !stop.load(Ordering::Relaxed) {
                    hint::spin_loop();
                }
            }
        };
        let threads = (0..BUSY_LOOPS).map(|_| thread::spawn(spin(Arc::clone(&stop))));
        Self {
            threads: threads.collect(),
            stop,
        }
    }
}

impl Drop for BusyLoops {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("it counts nothing");
        }
    }
}

/// Returns the time of a line, if it says this.
fn time_of(line: &str, what: &str) -> Option<u64> {
    line.strip_prefix(what)?.strip_prefix(' ')?.parse().ok()
}

fn milliseconds(from: u64, to: u64) -> f64 {
    Duration::from_micros(to.saturating_sub(from)).as_secs_f64() * 1e3
}

/// Measures many candidates for one key.
pub fn candidates(runs: usize, binary: &Path, sizes: &[usize]) -> Grid {
    let mut grid = Grid::new(
        "Many candidates for one key",
        "candidates",
        "The candidates share four processes, by the library, with a TTL of 5 s. SIGKILL kills the process of the \
         leader, and so a quarter of the candidates. Raft entries: all that etcd writes, from a hand-over until all is \
         quiet again, 2 s later; two of them record the terms in the history. The first hand-over comes 3 s after the \
         start, when candidates may still try to take a seat. Each candidate of `etcdctl elect` is a process of its \
         own. Fail-overs are measured three times.",
    );
    for &count in sizes {
        let mut field = Field::start(binary, count, &mut grid);
        for _ in 0..runs {
            field.hand_over(&mut grid);
        }
        for _ in 0..CRASHES {
            field.crash(&mut grid);
        }
        if count > PROCESSES {
            field.spread(&mut grid);
        }
        field.withdraw(&mut grid);
        if count <= MOST_ELECTORS {
            let elect = Box::new(Etcdctl::new(Kind::Elect, binary));
            let mut electors = Contest::start(elect, "e", count);
            for _ in 0..runs {
                let took = electors.hand_over().as_secs_f64() * 1e3;
                grid.add(ELECT_HAND_OVER, count, took);
            }
        }
    }
    grid
}

/// Many candidates for one key. The leader is in the first worker.
struct Field {
    etcd: Etcd,
    count: usize,
    workers: Vec<(Worker, usize)>,
    started: usize,
}

impl Field {
    fn start(binary: &Path, count: usize, grid: &mut Grid) -> Self {
        let mut field = Self {
            etcd: Etcd::start(binary),
            count,
            workers: Vec::new(),
            started: 0,
        };
        let processes = PROCESSES.min(count);
        for number in 0..processes {
            let of_it = count / processes + usize::from(number < count % processes);
            field.add(of_it);
        }
        let begun = now();
        for (worker, _) in &mut field.workers {
            worker.order(GO);
        }
        let leads = field.wait_for_leader();
        let know = field.workers.iter().map(|(worker, _)| {
            let line = worker.process.wait_for_any_start(KNOW).text();
            time_of(&line, KNOW).expect("a time")
        });
        let know = know.max().expect("a worker");
        grid.add(
            "all start at once: one leads, ms",
            count,
            milliseconds(begun, leads),
        );
        grid.add(
            "all start at once: all know, ms",
            count,
            milliseconds(begun, know),
        );
        let_pass(SETTLED);
        field
    }

    fn add(&mut self, count: usize) {
        self.started += 1;
        let name = format!("worker{}", self.started);
        let worker = Worker::start(&self.etcd, &name, count, false);
        self.workers.push((worker, count));
    }

    /// Waits until a candidate of any worker leads; returns when it did, and makes its worker the first.
    fn wait_for_leader(&mut self) -> u64 {
        wait_until("a candidate leads", PATIENCE, || self.look_for_leader())
    }

    /// Looks for a leader among what the workers have printed since the last one.
    fn look_for_leader(&mut self) -> Option<u64> {
        let last = |(number, (worker, _)): (usize, &(Worker, usize))| {
            let messages = worker.process.unseen_messages();
            let times = messages.iter().filter_map(|line| time_of(line, LEADS));
            times.max().map(|time| (time, number))
        };
        let (time, next) = self.workers.iter().enumerate().filter_map(last).max()?;
        for (worker, _) in &mut self.workers {
            worker.process.skip();
        }
        self.workers.swap(0, next);
        Some(time)
    }

    fn hand_over(&mut self, grid: &mut Grid) {
        // A term may have been lost since.
        self.look_for_leader();
        let before = Work::of(&self.etcd.endpoint());
        let leader = &mut self.workers[0].0;
        leader.order(RESIGN);
        let resigned = leader.wait_for_next(RESIGNS);
        let leads = self.wait_for_leader();
        grid.add(HAND_OVER, self.count, milliseconds(resigned, leads));
        let_pass(Duration::from_secs(2));
        let entries = Work::of(&self.etcd.endpoint()).since(before).entries;
        grid.add("raft entries per hand-over", self.count, entries);
    }

    fn crash(&mut self, grid: &mut Grid) {
        self.look_for_leader();
        let (mut killed, count) = self.workers.remove(0);
        let at = now();
        killed.process.signal(Signal::KILL);
        let leads = self.wait_for_leader();
        grid.add(
            "SIGKILL → next leads, s",
            self.count,
            milliseconds(at, leads) / 1e3,
        );
        killed.process.wait_exit();
        self.replace(count);
    }

    /// Kills the worker of the leader; returns when another candidate led.
    fn kill_leader(&mut self) -> Instant {
        self.look_for_leader();
        let (mut killed, _) = self.workers.remove(0);
        killed.process.signal(Signal::KILL);
        self.wait_for_leader();
        let at = Instant::now();
        killed.process.wait_exit();
        at
    }

    /// Starts a worker in place of one that was killed.
    fn replace(&mut self, count: usize) {
        self.add(count);
        let (new, _) = self.workers.last_mut().expect("a worker");
        new.order(GO);
        new.wait_for_next(KNOW);
        let_pass(SETTLED);
    }

    /// Measures how evenly the followers' requests are spread some time after a take-over.
    fn spread(&mut self, grid: &mut Grid) {
        self.look_for_leader();
        let count = self.workers[0].1;
        let at = self.kill_leader();
        let_pass((at + SPREAD).saturating_duration_since(Instant::now()));
        let tenth = FOLLOWS_EVERY / 10;
        let begun = Instant::now();
        let mut before = Work::of(&self.etcd.endpoint());
        for period in 0..5 {
            let mut shares = [0.0; 10];
            for (number, share) in (1..).zip(&mut shares) {
                let until = begun + tenth * (10 * period + number);
                let_pass(until.saturating_duration_since(Instant::now()));
                let after = Work::of(&self.etcd.endpoint());
                *share = after.since(before).messages;
                before = after;
            }
            let busiest = shares.iter().copied().fold(0.0, f64::max);
            let all: f64 = shares.iter().sum();
            grid.add(
                "20 s after a take-over: the busiest tenth of a period, % of the requests",
                self.count,
                busiest / all * 100.0,
            );
        }
        self.replace(count);
    }

    /// Lets all withdraw at once.
    fn withdraw(mut self, grid: &mut Grid) {
        let begun = now();
        for (worker, _) in &mut self.workers {
            worker.order(STOP);
        }
        let withdrawn = self.workers.iter().map(|(worker, _)| {
            let line = worker.process.wait_for_any_start(WITHDRAWN).text();
            time_of(&line, WITHDRAWN).expect("a time")
        });
        let last = withdrawn.max().expect("a worker");
        grid.add(
            "all withdraw at once, ms",
            self.count,
            milliseconds(begun, last),
        );
        for (worker, _) in &mut self.workers {
            worker.process.wait_exit();
        }
    }
}

/// Measures so many candidates that start beside busy loops.
pub fn crowd(binary: &Path, count: usize) -> Grid {
    let mut grid = Grid::new(
        "A crowd that starts on a busy machine",
        "candidates",
        "The candidates for one key start at once, in four processes, beside two busy loops.",
    );
    let busy = BusyLoops::start();
    let field = Field::start(binary, count, &mut grid);
    drop(busy);
    field.withdraw(&mut grid);
    grid
}

/// Measures many elections in one process.
pub fn elections(binary: &Path, sizes: &[usize]) -> Grid {
    let mut grid = Grid::new(
        "Many elections in one process",
        "elections",
        "One process takes part in all elections, by the library, with one `Cluster` and a TTL of 5 s. A second \
         process stands by. Raft entries: all that etcd writes, from the request to stop until all is taken over, \
         divided by the number of elections. All is measured three times, each with a new etcd.",
    );
    for &count in sizes {
        for _ in 0..CRASHES {
            let etcd = Etcd::start(binary);
            let mut first = Worker::start(&etcd, "first", count, true);
            let begun = first.order(GO);
            let won = first.wait_for_next(ALL_LEAD);
            grid.add("win all, ms", count, milliseconds(begun, won));
            let_pass(SETTLED);
            grid.add("resident memory, MiB", count, idle::memory(&first.process));
            let connections = connections(&first.process, &etcd);
            grid.add("connections", count, connections);
            let busy = BusyLoops::start();
            let second = standby(&etcd, "second", count);
            drop(busy);
            let lost = first.process.unseen_messages();
            let lost = lost.iter().filter(|line| time_of(line, LOST).is_some());
            let lost = u16::try_from(lost.count()).expect("a few");
            grid.add(
                "terms lost while the second joins beside two busy loops",
                count,
                f64::from(lost),
            );
            stop(&etcd, first, second, count, &mut grid);
        }
    }
    grid
}

/// Lets a second process take over from one that stops, and a third one from the second, which is killed.
fn stop(etcd: &Etcd, mut first: Worker, mut second: Worker, count: usize, grid: &mut Grid) {
    let before = Work::of(&etcd.endpoint());
    first.order(STOP);
    let stops = first.wait_for_next(STOPS);
    let took_over = second.wait_for_next(ALL_LEAD);
    grid.add(
        "graceful stop → last taken over, ms",
        count,
        milliseconds(stops, took_over),
    );
    first.process.wait_exit();
    let entries = Work::of(&etcd.endpoint()).since(before).entries;
    #[allow(clippy::cast_precision_loss, reason = "at most a thousand")]
    grid.add(
        "raft entries per stopped election",
        count,
        entries / count as f64,
    );
    let mut third = standby(etcd, "third", count);
    let killed = now();
    second.process.signal(Signal::KILL);
    let took_over = third.wait_for_next(ALL_LEAD);
    grid.add(
        "SIGKILL → last taken over, s",
        count,
        milliseconds(killed, took_over) / 1e3,
    );
    second.process.wait_exit();
}

fn standby(etcd: &Etcd, name: &str, count: usize) -> Worker {
    let mut worker = Worker::start(etcd, name, count, true);
    worker.order(GO);
    worker.wait_for_next(KNOW);
    let_pass(SETTLED);
    worker
}

/// Returns how many connections to etcd a process has.
fn connections(process: &Process, etcd: &Etcd) -> f64 {
    let folder = format!("/proc/{}/fd", process.pid().as_raw_nonzero());
    let port = etcd.endpoint();
    let port: u16 = port
        .rsplit(':')
        .next()
        .expect("a port")
        .parse()
        .expect("a number");
    poll_until("its connections are counted", || {
        // A file may be closed meanwhile.
        let files = fs::read_dir(&folder).ok()?.flatten();
        let links = files.filter_map(|file| fs::read_link(file.path()).ok());
        let sockets: Vec<_> = links
            .map(|link| link.to_string_lossy().into_owned())
            .collect();
        let table = fs::read_to_string("/proc/net/tcp").ok()?;
        let to_etcd = table.lines().skip(1).filter(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let is_to_etcd = fields[2].ends_with(&format!(":{port:04X}"));
            is_to_etcd && sockets.contains(&format!("socket:[{}]", fields[9]))
        });
        u16::try_from(to_etcd.count()).ok().map(f64::from)
    })
}
