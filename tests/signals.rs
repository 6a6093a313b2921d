//! Signals and terminals, as launchers, shells and containers bring them.

use rustix::process::{Pid, Signal, kill_process};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::daemon::{Daemon, FOLLOWER, LEADER, LEADER_STOPS, Line, after, plain};
use support::etcd::Etcd;

/// The limit for what takes milliseconds, on a machine that is busy with other tests.
const AT_ONCE: Duration = Duration::from_secs(1);

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
    // COMMAND must hear of the signal by which it is asked to stop.
    let script = "trap 'exit 5' INT; echo runs; while :; do sleep 0.02; done";
    let options = ["--stop-signal", "INT", "--", "bash", "-c", script];
    let mut hears = Daemon::spawn("hears", replica("hears", &options));
    hears.wait_for_next("runs");
    for mut replica in [idle, runs, hears] {
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
    let has = |text: &'static str| move |line: &Line| line.text().trim() == text;
    replica.wait_for_next_line("its output", has("written"));
    assert_eq!(replica.wait_exit().code(), Some(7));
}

#[test]
fn two_signals_of_one_request_to_stop_end_the_term_in_order() {
    let etcd = Etcd::newest();
    for (first, second) in [(Signal::TERM, Signal::HUP), (Signal::INT, Signal::INT)] {
        let script =
            "trap 'sleep 0.3; echo cleaned; exit' TERM; echo runs; while :; do sleep 0.02; done";
        for command in [&["--", "sh", "-c", script][..], &[]] {
            let mut replica = plain("one", &etcd.endpoint());
            replica.args(command);
            let mut replica = Daemon::spawn("one", replica);
            replica.wait_for_next(LEADER);
            if !command.is_empty() {
                replica.wait_for_any("runs");
            }
            replica.signal(first);
            // Without a COMMAND, it may have ended already.
            replica.signal(second);
            assert_eq!(replica.wait_exit().code(), Some(0));
            replica.wait_for_any_start(LEADER_STOPS);
            assert_eq!(etcd.leases(), [""; 0]);
        }
    }
}
