//! Measures the README's figures: `cargo bench --bench figures` (`RUNS=30` for more runs).

#[path = "../tests/support/mod.rs"]
mod support;

use rustix::process::Signal;
use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use support::{
    daemon::{self, Daemon, FOLLOWER, LEADER},
    etcd::{self, Etcd},
    let_pass,
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

/// Notes when etcd tells of the deletion of the `leader` key.
/// What COMMAND says first.
const RUNS: &str = "runs";

/// A replica whose COMMAND ends with its standard input.
fn wrapped(name: &str, etcd: &Etcd) -> Daemon {
    let mut command = daemon::plain(name, &etcd.endpoint());
    command.args(["--", "sh", "-c", "echo runs; read line"]);
    command.stdin(Stdio::piped());
    Daemon::spawn(name, command)
}

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
