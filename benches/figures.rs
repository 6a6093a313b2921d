//! Measures the README's figures: `cargo bench --bench figures` (`RUNS=30` for more runs). With
//! `PREVIOUS=/path/to/leader-election`, another build starts beside this one, for comparison.

use rustix::process::Signal;
use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use support::{
    daemon::{self, Daemon, FOLLOWER, LEADER},
    etcd::{self, Etcd},
    let_pass, poll_until,
    process::Process,
    seated,
};

fn main() {
    // `cargo test --benches` and `cargo bench -- --list` look at what there is; that is no run.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runs = std::env::var("RUNS").map_or(15, |runs| runs.parse().expect("RUNS is a number"));
    let binary = etcd::binaries().pop().expect("an etcd");
    let etcd = Etcd::start(&binary);
    println!("{runs} runs each, against {}", binary.display());

    compare_hand_overs(runs, &binary);
    compare_starts(runs, &etcd);

    let mut first_lead = Vec::new();
    let mut hand_over = Vec::new();
    let mut from_deletion = Vec::new();
    let mut from_kill = Vec::new();
    for _ in 0..runs {
        let begun = Instant::now();
        let mut leader = Daemon::spawn("a", daemon::plain("a", &etcd.endpoint()));
        first_lead.push(leader.wait_for_next(LEADER).at - begun);

        let mut follower = Daemon::spawn("b", daemon::plain("b", &etcd.endpoint()));
        follower.wait_for_next(FOLLOWER);
        // What etcd is asked to watch from the past, it looks at every 100 ms only.
        let_pass(Duration::from_millis(200));
        let asked = Instant::now();
        leader.signal(Signal::TERM);
        hand_over.push(follower.wait_for_next(LEADER).at - asked);
        leader.wait_exit();

        let mut next = Daemon::spawn("c", daemon::plain("c", &etcd.endpoint()));
        next.wait_for_next(FOLLOWER);
        let deletion = deletion_of_leader(&binary, &etcd);
        let killed = follower.crash();
        let leads = next.wait_for_next(LEADER).at;
        from_kill.push(leads - killed);
        from_deletion.push(leads.saturating_duration_since(deletion.join().unwrap()));
        next.signal(Signal::TERM);
        next.wait_exit();
    }

    let mut command_after_kill = Vec::new();
    let mut command_after_end = Vec::new();
    for _ in 0..runs {
        let mut first = wrapped("a", &etcd);
        first.wait_for_next(RUNS);
        let mut second = wrapped("b", &etcd);
        second.wait_for_next(FOLLOWER);
        let_pass(Duration::from_millis(200));
        let killed = Instant::now();
        first.signal(Signal::KILL);
        command_after_kill.push(second.wait_for_next(RUNS).at - killed);
        first.wait_exit();

        let mut third = wrapped("c", &etcd);
        third.wait_for_next(FOLLOWER);
        let_pass(Duration::from_millis(200));
        let ended = Instant::now();
        second.close_stdin();
        command_after_end.push(third.wait_for_next(RUNS).at - ended);
        third.close_stdin();
        third.wait_exit();
    }

    let mut leader = Daemon::spawn("a", daemon::plain("a", &etcd.endpoint()));
    leader.wait_for_next(LEADER);
    let mut follower = Daemon::spawn("b", daemon::plain("b", &etcd.endpoint()));
    follower.wait_for_next(FOLLOWER);
    let idle = Duration::from_secs(20);
    let (leader_before, follower_before) = (leader.cpu_time(), follower.cpu_time());
    let_pass(idle);
    let share = |used: Duration| 100.0 * used.as_secs_f64() / idle.as_secs_f64();

    row("from exec to leading", &mut first_lead);
    row(
        "from SIGTERM of the leader to the next one leading",
        &mut hand_over,
    );
    row(
        "from etcd's deletion of a killed leader's key to the next one leading",
        &mut from_deletion,
    );
    row(
        "from SIGKILL of the leader to the next one leading",
        &mut from_kill,
    );
    row(
        "from the end of COMMAND to the next one running",
        &mut command_after_end,
    );
    row(
        "from SIGKILL of a daemon to the next COMMAND running",
        &mut command_after_kill,
    );
    println!(
        "| resident memory of a leader | {} KiB |",
        resident(&leader)
    );
    let size = fs::metadata(env!("CARGO_BIN_EXE_leader-election"))
        .unwrap()
        .len();
    println!("| the binary, stripped | {} kB |", size / 1000);
    println!(
        "| an idle follower, of a core | {:.3} % |",
        share(follower.cpu_time().saturating_sub(follower_before))
    );
    println!(
        "| a leader, of a core | {:.3} % |",
        share(leader.cpu_time().saturating_sub(leader_before))
    );
}

/// What COMMAND says first.
const RUNS: &str = "runs";

/// A replica whose COMMAND ends with its standard input.
fn wrapped(name: &str, etcd: &Etcd) -> Daemon {
    let mut command = daemon::plain(name, &etcd.endpoint());
    command.args(["--", "sh", "-c", "echo runs; read line"]);
    command.stdin(Stdio::piped());
    Daemon::spawn(name, command)
}

/// Notes when etcd tells of the deletion of the `leader` key.
fn deletion_of_leader(binary: &std::path::Path, etcd: &Etcd) -> thread::JoinHandle<Instant> {
    let mut watch = Command::new(binary.with_file_name("etcdctl"))
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &etcd.endpoint(), "watch", "-i"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("etcdctl");
    let mut commands = watch.stdin.take().unwrap();
    std::io::Write::write_all(&mut commands, b"watch leader\n").unwrap();
    thread::spawn(move || {
        let lines = BufReader::new(watch.stdout.take().unwrap()).lines();
        let deleted = lines
            .map(|line| (line.unwrap(), Instant::now()))
            .find(|(line, _)| line == "DELETE")
            .expect("the key is deleted");
        watch.kill().unwrap();
        watch.wait().unwrap();
        drop(commands);
        deleted.1
    })
}

/// An election of replicas without a COMMAND, with an etcd of its own.
struct Replicas {
    etcd: Etcd,
    /// The first one leads.
    running: Vec<Daemon>,
    started: usize,
}

impl Replicas {
    fn start(binary: &Path, count: usize) -> Self {
        let mut replicas = Self {
            etcd: Etcd::start(binary),
            running: Vec::new(),
            started: 0,
        };
        replicas.add(LEADER);
        for _ in 1..count {
            replicas.add(FOLLOWER);
        }
        replicas
    }

    fn add(&mut self, role: &str) {
        self.started += 1;
        let name = format!("server{}", self.started);
        let mut replica = Daemon::spawn(&name, daemon::plain(&name, &self.etcd.endpoint()));
        replica.wait_for_next(role);
        self.running.push(replica);
    }

    /// Returns how long it takes from SIGTERM of the leader until the next one leads; replaces the one
    /// that ends. `others_run`: whether the processes that merely follow run meanwhile, all on this machine; if
    /// not, what is measured is what they cost etcd.
    fn hand_over(&mut self, others_run: bool) -> Duration {
        let mut leader = self.running.remove(0);
        // It knows by then which candidates there are.
        leader.skip();
        leader.wait_for_next_refreshes(2);
        let next = seated::successor(&self.etcd, &leader.name).name;
        let next = self.running.iter().position(|one| one.name == next);
        let next = next.expect("a candidate that runs");
        let mut next = self.running.swap_remove(next);
        let signal_others = |signal| {
            if !others_run {
                self.running.iter().for_each(|other| other.signal(signal));
            }
        };
        signal_others(Signal::STOP);
        let asked = Instant::now();
        leader.signal(Signal::TERM);
        let took = next.wait_for_next(LEADER).at - asked;
        signal_others(Signal::CONT);
        leader.wait_exit();
        self.running.insert(0, next);
        self.add(FOLLOWER);
        took
    }
}

/// Candidates of `etcdctl elect`, with an etcd of their own; the first one leads, and the others follow in
/// this order.
struct Electors {
    etcd: Etcd,
    etcdctl: PathBuf,
    running: Vec<Process>,
}

impl Electors {
    fn start(binary: &Path, count: usize) -> Self {
        let mut electors = Self {
            etcd: Etcd::start(binary),
            etcdctl: binary.with_file_name("etcdctl"),
            running: Vec::new(),
        };
        for _ in 0..count {
            electors.add();
        }
        electors.running[0].wait_for_next(PROPOSAL);
        electors
    }

    fn add(&mut self) {
        let mut elect = Command::new(&self.etcdctl);
        elect.env("ETCDCTL_API", "3").stdin(Stdio::null());
        elect.args(["--endpoints", &self.etcd.endpoint(), "elect", "e", PROPOSAL]);
        self.running.push(Process::spawn("elect", elect));
        poll_until("it takes part", || {
            let keys = self.etcd.etcdctl(&["get", "--prefix", "e/", "--keys-only"]);
            let candidates = keys.lines().filter(|line| !line.is_empty()).count();
            (candidates == self.running.len()).then_some(())
        });
    }

    /// Does the same as [`Replicas::hand_over`].
    fn hand_over(&mut self) -> Duration {
        let mut leader = self.running.remove(0);
        let asked = Instant::now();
        leader.signal(Signal::TERM);
        let took = self.running[0].wait_for_next(PROPOSAL).at - asked;
        leader.wait_exit();
        self.add();
        took
    }
}

/// What a candidate of `etcdctl elect` prints when it leads.
const PROPOSAL: &str = "proposal";

/// Compares hand-overs among few and among many candidates with those of `etcdctl elect`; their runs take
/// turns, so that whatever else this machine does is the same for all.
fn compare_hand_overs(runs: usize, binary: &Path) {
    let mut few = Replicas::start(binary, 3);
    let mut many = Replicas::start(binary, 60);
    let mut electors = Electors::start(binary, 3);
    let mut times = [const { Vec::new() }; 4];
    for _ in 0..runs {
        times[0].push(few.hand_over(true));
        times[1].push(many.hand_over(true));
        times[2].push(many.hand_over(false));
        times[3].push(electors.hand_over());
    }
    row(
        "from SIGTERM of the leader to the next, of 3",
        &mut times[0],
    );
    row(
        "from SIGTERM of the leader to the next, of 60",
        &mut times[1],
    );
    row(
        "the same, while the 58 that merely follow are suspended",
        &mut times[2],
    );
    row("the same with etcdctl elect, of 3", &mut times[3]);
}

/// Compares how soon a replica of this build leads with how soon one of another build does, if there is
/// another.
fn compare_starts(runs: usize, etcd: &Etcd) {
    let Some(other) = std::env::var_os("PREVIOUS") else {
        return;
    };
    let mut times = [const { Vec::new() }; 2];
    for _ in 0..runs {
        let own = daemon::plain("a", &etcd.endpoint());
        let mut others = Command::new(&other);
        others.args(own.get_args()).stdin(Stdio::null());
        for (command, times) in [own, others].into_iter().zip(&mut times) {
            let begun = Instant::now();
            let mut replica = Daemon::spawn("a", command);
            times.push(replica.wait_for_next(LEADER).at - begun);
            replica.signal(Signal::TERM);
            replica.wait_exit();
        }
    }
    row("from exec to leading, this build", &mut times[0]);
    row("from exec to leading, the other build", &mut times[1]);
}

fn resident(daemon: &Daemon) -> String {
    let status =
        fs::read_to_string(format!("/proc/{}/status", daemon.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap().trim().trim_end_matches(" kB").to_owned()
}

fn row(what: &str, times: &mut [Duration]) {
    times.sort();
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "| {what} | {:.1} ms ({:.1} to {:.1}) |",
        milliseconds(times[times.len() / 2]),
        milliseconds(times[0]),
        milliseconds(*times.last().unwrap())
    );
}
