//! What becomes of COMMAND's descendants when it ends or is stopped, of orphans, and what too few file
//! descriptors do.

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::daemon::{Daemon, FOLLOWER, LEADER, LEADER_STOPS, after, command, plain};
use support::etcd::Etcd;
use support::free_port;
use support::http::get;
use support::proxy::refusing;
use support::{TTL, poll_until};

/// The limit for what takes milliseconds, on a machine that is busy with other tests.
const AT_ONCE: Duration = Duration::from_secs(1);
/// How long what COMMAND leaves behind gets to stop.
const TIME_FOR_LEFTOVERS: Duration = Duration::from_secs(1);

/// A worker that takes its time to stop, and starts a process for it.
const WORKER: &str = "#!/bin/sh\n\
    trap 'echo stopping >&2; sh -c \"sleep 0.3; echo cleaned >&2\"; exit' TERM QUIT\n\
    echo runs >&2; while :; do sleep 0.02; done\n";

/// Returns a replica that runs this shell script, in which `WORKER` stands for the worker.
fn shell(etcd: &Etcd, folder: &Path, options: &[&str], script: &str) -> Command {
    let worker = folder.join("worker");
    fs::write(&worker, WORKER).unwrap();
    let script = script.replace("WORKER", &format!("sh {}", worker.display()));
    let mut command = plain("one", &etcd.endpoint());
    command.args(options).args(["--", "sh", "-c", &script]);
    command
}

fn exists(process: &str) -> bool {
    Path::new("/proc").join(process).exists()
}

#[test]
fn all_descendants_of_a_command_get_the_whole_time_to_stop() {
    let etcd = Etcd::newest();
    let folder = tempfile::tempdir().unwrap();
    for script in [
        "WORKER; true",
        "WORKER | cat",
        "sh -c 'WORKER & wait; true'; true",
        "setsid -w WORKER",
        "trap 'exit' TERM; setsid WORKER & wait",
        "exec setsid -w setsid -w WORKER",
    ] {
        let mut replica = Daemon::spawn("one", shell(&etcd, folder.path(), &[], script));
        replica.wait_for_next("runs");
        replica.signal(Signal::TERM);
        replica.wait_for_next("stopping");
        replica.wait_for_next("cleaned");
        assert_eq!(replica.wait_exit().code(), Some(0), "{script}");
        replica.wait_for_any_start(LEADER_STOPS);
        let texts = replica.texts();
        let stops = texts.iter().filter(|line| *line == "stopping").count();
        assert_eq!(stops, 1, "{script}");
        assert_eq!(etcd.leases(), [""; 0]);
    }
}

#[test]
fn a_service_manager_that_stops_all_processes_at_once_leaves_them_the_whole_time() {
    let etcd = Etcd::newest();
    let folder = tempfile::tempdir().unwrap();
    let mut command = shell(&etcd, folder.path(), &[], "WORKER; true");
    // Longer than what COMMAND leaves behind by itself gets.
    let worker = WORKER.replace("sleep 0.3", "sleep 1.7");
    fs::write(folder.path().join("worker"), worker).unwrap();
    command.stdin(Stdio::null());
    let mut replica = Daemon::spawn("one", command);
    let process = replica.wait_for_any_start("Running ").text();
    let process = process.rsplit(' ').next().unwrap().trim_end_matches('.');
    let process = Pid::from_raw(process.parse().unwrap()).unwrap();
    replica.wait_for_any("runs");
    kill_process_group(process, Signal::TERM).unwrap();
    replica.wait_for_any("stopping");
    replica.signal(Signal::TERM);
    replica.wait_for_any("cleaned");
    assert_eq!(replica.wait_exit().code(), Some(0));
    replica.wait_for_any_start(LEADER_STOPS);
}

#[test]
fn an_order_to_stop_that_comes_together_with_commands_end_counts() {
    let folder = tempfile::tempdir().unwrap();
    let worker = folder.path().join("worker");
    // Longer than what COMMAND leaves behind by itself gets.
    fs::write(&worker, WORKER.replace("sleep 0.3", "sleep 1.7")).unwrap();
    let (ours, guards) = UnixStream::pair().unwrap();
    let mut guard = command();
    guard.args(["--guard", "1", "15", "--etcd", &refusing(), "--"]);
    guard.args(["sh", "-c", &format!("sh {} & wait", worker.display())]);
    guard.stdin(Stdio::from(OwnedFd::from(guards)));
    let mut guard = Daemon::spawn("guard", guard);
    // It is closed first if this test fails, so that the guard kills COMMAND.
    let ours = ours;
    (&ours).write_all(b"\0").unwrap();
    let mut reports = BufReader::new(&ours).lines();
    let end = u64::MAX / 2;
    (&ours)
        .write_all(format!("run {end} {end}\n").as_bytes())
        .unwrap();
    let started = reports.next().unwrap().unwrap();
    let process = started.strip_prefix("started ").unwrap().parse().unwrap();
    guard.wait_for_next("runs");
    guard.signal(Signal::STOP);
    (&ours)
        .write_all(format!("stop {end}\n").as_bytes())
        .unwrap();
    kill_process(Pid::from_raw(process).unwrap(), Signal::KILL).unwrap();
    guard.signal(Signal::CONT);
    assert_eq!(reports.next().unwrap().unwrap(), "stopped");
    guard.wait_for_any("cleaned");
    guard.wait_exit();
}

#[test]
fn what_a_stopped_command_leaves_is_killed_at_the_end_of_the_time() {
    let etcd = Etcd::newest();
    let folder = tempfile::tempdir().unwrap();
    let script = "(trap '' TERM; while :; do sleep 0.02; done) & echo left $!; WORKER";
    let options = ["--stop-timeout", "1500ms"];
    let mut replica = Daemon::spawn("one", shell(&etcd, folder.path(), &options, script));
    let left = replica.wait_for_next_start("left ").text()[5..].to_owned();
    replica.wait_for_any("runs");
    replica.signal(Signal::TERM);
    let asked = Instant::now();
    replica.wait_for_next("cleaned");
    assert!(exists(&left));
    assert_eq!(replica.wait_exit().code(), Some(0));
    let took = asked.elapsed();
    assert!(
        took >= Duration::from_millis(1500) && took < 2 * TTL,
        "after {took:?}"
    );
    assert!(!exists(&left));
}

#[test]
fn what_a_command_leaves_behind_by_itself_is_asked_to_stop_and_killed_a_second_later() {
    let etcd = Etcd::newest();
    let folder = tempfile::tempdir().unwrap();
    for (script, is_stubborn) in [
        ("WORKER & read go; exit 7", false),
        ("setsid WORKER & read go; exit 7", false),
        ("(setsid WORKER; true) & read go; exit 7", false),
        // The shell reacts once what it waits for has ended.
        (
            "sh -c 'trap \"echo cleaned >&2; exit\" TERM; echo runs >&2; sleep 60; true' & \
             read go; exit 7",
            false,
        ),
        (
            "setsid sh -c 'trap \"\" TERM; echo runs; sleep 60; true' & read go; exit 7",
            true,
        ),
    ] {
        let mut first = shell(&etcd, folder.path(), &[], script);
        first.stdin(Stdio::piped());
        let mut first = Daemon::spawn("first", first);
        first.wait_for_next("runs");
        let mut second = plain("second", &etcd.endpoint());
        second.args(["--", "sleep", "60"]);
        let mut second = Daemon::spawn("second", second);
        second.wait_for_next(FOLLOWER);
        let began = Instant::now();
        first.close_stdin();
        if !is_stubborn {
            first.wait_for_next("cleaned");
        }
        assert_eq!(first.wait_exit().code(), Some(7), "{script}");
        first.wait_for_any_start("'sh' ended with exit code 7.");
        let took = second.wait_for_next_start("Running ").at - began;
        if is_stubborn {
            assert!(took >= TIME_FOR_LEFTOVERS, "{script}: after {took:?}");
        }
        assert!(
            took < TIME_FOR_LEFTOVERS + AT_ONCE,
            "{script}: after {took:?}"
        );
        second.signal(Signal::TERM);
        assert_eq!(second.wait_exit().code(), Some(0));
    }
}

#[test]
fn a_daemon_without_command_leaves_no_zombies() {
    let etcd = Etcd::newest();
    let own = plain("one", &etcd.endpoint());
    let mut replica = Daemon::spawn(
        "one",
        after("sleep 0.3 & echo left $!; sleep 60 & echo left $!", &own),
    );
    let soon = replica.wait_for_next_start("left ").text()[5..].to_owned();
    let late = replica.wait_for_next_start("left ").text()[5..].to_owned();
    replica.wait_for_next(LEADER);
    poll_until("the first one is reaped", || (!exists(&soon)).then_some(()));
    let late_process = Pid::from_raw(late.parse().unwrap()).unwrap();
    kill_process(late_process, Signal::KILL).unwrap();
    poll_until("the other one is reaped", || (!exists(&late)).then_some(()));
    replica.wait_for_next_refreshes(1);
}

#[test]
fn too_few_file_descriptors_are_an_error_at_the_start_and_the_number_it_names_is_enough() {
    let etcd = Etcd::newest();
    let with_limit = |limit: usize, endpoint: &str, args: &[&str]| {
        let mut replica = plain("one", endpoint);
        replica.args(args);
        Daemon::spawn("one", after(&format!("ulimit -n {limit}"), &replica))
    };
    let http = format!("127.0.0.1:{}", free_port());
    for (args, code) in [
        (&[] as &[&str], 1),
        (&["--http", &http], 1),
        (&["--http", &http, "--", "sleep", "60"], 125),
        (&["--health-command", "true", "--", "sleep", "60"], 125),
    ] {
        let mut needed = 0;
        for limit in [6, 12] {
            let mut replica = with_limit(limit, &refusing(), args);
            assert_eq!(replica.wait_exit().code(), Some(code), "{limit} {args:?}");
            let lines = replica.texts();
            let [line] = &lines[..] else {
                panic!("{lines:?}");
            };
            let start = format!("may open {limit} file descriptors, ");
            assert!(line.contains(&start), "{line}");
            let words: Vec<_> = line.split(' ').collect();
            let place = words.iter().rposition(|word| *word == "are").unwrap();
            needed = words[place - 1].parse().unwrap();
        }
        let mut replica = with_limit(needed, &etcd.endpoint(), args);
        replica.wait_for_next(LEADER);
        if args.contains(&"--") {
            replica.wait_for_next_start("Running ");
        }
        if args.contains(&"--http") {
            assert_eq!(get(&http, "/leader").code, 200);
        }
        replica.wait_for_next_refreshes(2);
        replica.signal(Signal::TERM);
        assert_eq!(replica.wait_exit().code(), Some(0));
        assert!(replica.warnings().is_empty(), "{:?}", replica.warnings());
    }
    // A command for operators needs little, and says so too.
    let mut status = command();
    status.args(["status", "--etcd", &refusing()]);
    let mut status = Daemon::spawn("status", after("ulimit -n 6", &status));
    assert_eq!(status.wait_exit().code(), Some(1));
    assert!(status.texts()[0].contains("file descriptors"));
}

#[test]
fn without_proc_a_daemon_takes_part_and_a_command_says_what_it_needs_that_for() {
    let etcd = Etcd::newest();
    let start = |args: &[&str]| {
        let mut own = plain("one", &etcd.endpoint());
        own.args(args);
        let inner = after("mount -t tmpfs none /proc", &own);
        let mut unshared = Command::new("unshare");
        unshared.args(["--mount", "--map-root-user"]);
        unshared.arg(inner.get_program());
        unshared.args(inner.get_args()).stdin(Stdio::null());
        Daemon::spawn("one", unshared)
    };
    let mut idle = start(&[]);
    idle.wait_for_next(LEADER);
    idle.signal(Signal::TERM);
    assert_eq!(idle.wait_exit().code(), Some(0));
    let mut replica = start(&["--", "true"]);
    assert_eq!(replica.wait_exit().code(), Some(125));
    let lines = replica.texts();
    assert!(
        lines
            .iter()
            .any(|line| line.contains("/proc does not list")),
        "{lines:?}"
    );
}
