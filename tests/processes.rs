//! Signals, COMMAND's descendants, terminals and limits, as launchers, shells and containers bring them.
mod support;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::daemon::{Daemon, FOLLOWER, LEADER, LEADER_STOPS, command, plain};
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
    trap 'echo stopping >&2; sh -c \"sleep 0.7; echo cleaned >&2\"; exit' TERM QUIT\n\
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

/// Starts the command behind a shell that does something first.
fn after(first: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{first}; exec \"$0\" \"$@\"")]);
    shell.arg(command.get_program()).args(command.get_args());
    shell.env_clear().envs(std::env::vars_os());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.stdin(Stdio::null());
    shell
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
        let told = texts.iter().filter(|line| *line == "stopping").count();
        assert_eq!(told, 1, "{script}");
        assert_eq!(etcd.leases(), [""; 0]);
    }
}

#[test]
fn a_service_manager_that_stops_all_processes_at_once_leaves_them_the_whole_time() {
    let etcd = Etcd::newest();
    let folder = tempfile::tempdir().unwrap();
    let mut command = shell(&etcd, folder.path(), &[], "WORKER; true");
    // Longer than what COMMAND leaves behind by itself gets.
    let worker = WORKER.replace("sleep 0.7", "sleep 1.7");
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
fn what_a_stopped_command_leaves_is_killed_at_the_end_of_the_time() {
    let etcd = Etcd::newest();
    let folder = tempfile::tempdir().unwrap();
    let script = "(trap '' TERM; while :; do sleep 0.02; done) & echo left $!; WORKER";
    let options = ["--stop-timeout", "1500ms"];
    let mut replica = Daemon::spawn("one", shell(&etcd, folder.path(), &options, script));
    let left = replica.wait_for_next_start("left ").text()[5..].to_owned();
    replica.wait_for_next("runs");
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
fn what_a_command_leaves_behind_by_itself_is_told_to_stop_and_killed_a_second_later() {
    let etcd = Etcd::newest();
    let folder = tempfile::tempdir().unwrap();
    for (script, is_stubborn) in [
        ("WORKER & read go; exit 7", false),
        ("setsid WORKER & read go; exit 7", false),
        ("(setsid WORKER; true) & read go; exit 7", false),
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
fn hup_usr1_and_usr2_reach_all_of_commands_group_and_are_ignored_while_there_is_none() {
    let etcd = Etcd::newest();
    let script = "for s in HUP USR1 USR2; do trap \"echo \\$0 got $s\" $s; done; \
                  [ \"$0\" = worker ] || sh -c \"$1\" worker & \
                  echo $0 runs; while :; do sleep 0.02; done";
    let start = |name: &str| {
        let mut command = plain(name, &etcd.endpoint());
        command.args(["--", "sh", "-c", script, "shell", script]);
        Daemon::spawn(name, command)
    };
    let mut leader = start("leader");
    leader.wait_for_any("shell runs");
    leader.wait_for_any("worker runs");
    let mut follower = start("follower");
    follower.wait_for_next(FOLLOWER);
    for (signal, name) in [
        (Signal::HUP, "HUP"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
    ] {
        leader.signal(signal);
        follower.signal(signal);
        for process in ["shell", "worker"] {
            leader.wait_for_any(&format!("{process} got {name}"));
        }
    }
    leader.signal(Signal::TERM);
    assert_eq!(leader.wait_exit().code(), Some(0));
    // The follower has ignored the signals; it did not keep them for its COMMAND.
    follower.wait_for_next("shell runs");
    assert!(!follower.texts().iter().any(|line| line.contains(" got ")));
}

#[test]
fn a_command_is_stopped_by_the_signal_that_it_wants() {
    let etcd = Etcd::newest();
    let script = "trap 'echo got QUIT; exit' QUIT; trap 'echo got TERM' TERM; echo runs; \
                  while :; do sleep 0.02; done";
    for (option, variable) in [(Some("SIGQUIT"), None), (None, Some("quit"))] {
        let mut command = plain("one", &etcd.endpoint());
        command.args(option.map(|signal| format!("--stop-signal={signal}")));
        command.envs(variable.map(|signal| ("LEADER_ELECTION_STOP_SIGNAL", signal)));
        command.args(["--", "sh", "-c", script]);
        let mut replica = Daemon::spawn("one", command);
        replica.wait_for_next("runs");
        replica.signal(Signal::TERM);
        assert_eq!(replica.wait_exit().code(), Some(0));
        replica.wait_for_any("got QUIT");
        assert!(!replica.has_said("got TERM"));
    }
}

#[test]
fn signals_that_are_ignored_at_the_start_stay_ignored_here_and_in_command() {
    let etcd = Etcd::newest();
    let replica = |key: &str, command: &[&str]| {
        let mut replica = plain(key, &etcd.endpoint());
        replica.args(["--leader-key", key]).args(command);
        after("trap '' HUP INT QUIT TERM", &replica)
    };
    let mut idle = Daemon::spawn("idle", replica("idle", &[]));
    let script = "grep SigIgn /proc/self/status; trap 'exit 5' HUP; echo runs; sleep 60; true";
    let mut runs = Daemon::spawn("runs", replica("runs", &["--", "sh", "-c", script]));
    idle.wait_for_next(LEADER);
    let ignored = runs.wait_for_next_start("SigIgn:\t").text();
    let ignored = u64::from_str_radix(&ignored["SigIgn:\t".len()..], 16).unwrap();
    // HUP, INT and QUIT, but not TERM, of which COMMAND must hear. Real-time signals don't matter.
    assert_eq!(ignored & 0x7fff_ffff, 0b111);
    runs.wait_for_next("runs");
    for signal in [Signal::HUP, Signal::INT, Signal::QUIT] {
        idle.signal(signal);
        runs.signal(signal);
    }
    idle.wait_for_next_refreshes(2);
    runs.wait_for_next_refreshes(2);
    for mut replica in [idle, runs] {
        replica.signal(Signal::TERM);
        assert_eq!(replica.wait_exit().code(), Some(0));
    }
    assert_eq!(etcd.leases(), [""; 0]);
}

#[test]
fn signals_that_are_blocked_at_the_start_arrive_nevertheless() {
    let etcd = Etcd::newest();
    let mut blocked = Command::new("env");
    blocked.arg("--block-signal");
    let own = plain("one", &etcd.endpoint());
    blocked.arg(own.get_program()).args(own.get_args());
    blocked.stdin(Stdio::null());
    blocked.args(["--", "sh", "-c", "grep SigBlk /proc/self/status; sleep 0.5"]);
    let mut replica = Daemon::spawn("one", blocked);
    replica.wait_for_next("SigBlk:\t0000000000000000");
    let ended = Instant::now() + Duration::from_millis(500);
    assert_eq!(replica.wait_exit().code(), Some(0));
    let late = ended.elapsed();
    assert!(late < AT_ONCE, "noticed {late:?} late");

    let mut blocked = Command::new("env");
    blocked.arg("--block-signal").arg(own.get_program());
    blocked.args(own.get_args()).stdin(Stdio::null());
    let mut replica = Daemon::spawn("one", blocked);
    replica.wait_for_next(LEADER);
    replica.signal(Signal::TERM);
    assert_eq!(replica.wait_exit().code(), Some(0));
}

#[test]
fn the_stop_signals_of_base_images_stop_a_daemon_in_order() {
    let etcd = Etcd::newest();
    // SIGRTMIN+3, as Docker numbers it.
    for signal in ["37", "WINCH", "USR1", "HUP", "INT"] {
        let own = plain("one", &etcd.endpoint());
        // Without a terminal, as in a container.
        let mut replica = Command::new("setsid");
        replica.arg("--wait").arg("sh");
        replica.args(["-c", "echo process $$; exec \"$0\" \"$@\""]);
        replica.arg(own.get_program()).args(own.get_args());
        replica.stdin(Stdio::null());
        let mut replica = Daemon::spawn("one", replica);
        let process = replica.wait_for_next_start("process ").text()[8..].to_owned();
        replica.wait_for_next(LEADER);
        let mut kill = Command::new("kill");
        kill.arg(format!("-{signal}")).arg(process);
        assert!(kill.status().unwrap().success());
        assert_eq!(replica.wait_exit().code(), Some(0), "{signal}");
        replica.wait_for_any_start(LEADER_STOPS);
        assert_eq!(etcd.leases(), [""; 0]);
    }
}

/// Runs a shell script on a terminal of its own; its last command must be an `exec`.
fn on_a_terminal(script: &str) -> Daemon {
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", script, "/dev/null"]);
    command.stdin(Stdio::null());
    Daemon::spawn("script", command)
}

#[test]
fn a_resized_terminal_stops_nothing() {
    let etcd = Etcd::newest();
    let ours = env!("CARGO_BIN_EXE_leader-election");
    let endpoint = etcd.endpoint();
    let mut replica = on_a_terminal(&format!(
        "echo process $$; exec {ours} --etcd {endpoint} --ttl 2s"
    ));
    let process = replica.wait_for_next_start("process ").text();
    let process = Pid::from_raw(process[8..].trim().parse().unwrap()).unwrap();
    replica.wait_for_next_line(LEADER, |line| line.text().trim() == LEADER);
    kill_process(process, Signal::WINCH).unwrap();
    replica.wait_for_next_line("a refresh", |line| line.text().contains("Refreshing"));
    replica.wait_for_next_line("a refresh", |line| line.text().contains("Refreshing"));
    kill_process(process, Signal::INT).unwrap();
    assert_eq!(replica.wait_exit().code(), Some(0));
}

#[test]
fn a_terminal_does_not_suspend_a_command_that_uses_it() {
    let etcd = Etcd::newest();
    let ours = env!("CARGO_BIN_EXE_leader-election");
    let endpoint = etcd.endpoint();
    // With tostop, the terminal suspends background processes that write to it.
    let script = "echo written; (: </dev/tty) || echo no terminal; exit 7";
    let mut replica = on_a_terminal(&format!(
        "stty tostop; exec {ours} --etcd {endpoint} --ttl 2s -- sh -c '{script}'"
    ));
    let has = |text: &'static str| move |line: &support::daemon::Line| line.text().trim() == text;
    replica.wait_for_next_line("its output", has("written"));
    assert_eq!(replica.wait_exit().code(), Some(7));
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
