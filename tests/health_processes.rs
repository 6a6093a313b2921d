//! The processes of a health command: what they get, how they end, and that nothing is left of them.

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::Path;
use support::daemon::{Daemon, LEADER, LOST, after, json};
use support::etcd::Etcd;
use support::health::{HEALTHY, UNHEALTHY, replica, start};
use support::{poll_until, processes_with};

/// Returns the child of this process that has this name.
fn child(of: Pid, name: &str) -> Option<Pid> {
    let children = |process: Pid| -> Vec<Pid> {
        let process = process.as_raw_nonzero();
        let list = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
        let list = list.unwrap_or_default();
        let ids = list.split_whitespace().filter_map(|id| id.parse().ok());
        ids.filter_map(Pid::from_raw).collect()
    };
    let named = |process: &Pid| {
        let file = format!("/proc/{}/comm", process.as_raw_nonzero());
        fs::read_to_string(file).is_ok_and(|comm| comm.trim() == name)
    };
    children(of).into_iter().find(named)
}

/// Waits for the process that runs the health command of this replica.
fn wait_for_runner(replica: &Daemon) -> Pid {
    poll_until("the health runner", || {
        child(replica.pid(), "leader-health")
    })
}

/// Returns how long a process sleeps that no other test has, so that it is found by its command line.
fn unique_sleep() -> String {
    format!("60.{:09}", fastrand::u32(..1_000_000_000))
}

/// Returns how many processes sleep that long.
fn sleeping(mark: &str) -> usize {
    let all = processes_with(mark);
    all.iter().filter(|line| line.starts_with("sleep ")).count()
}

fn wait_until_nothing_is_left_of(mark: &str) {
    poll_until(&format!("nothing is left of {mark}"), || {
        processes_with(mark).is_empty().then_some(())
    });
}

#[test]
fn a_command_that_is_killed_missing_or_slow_has_failed_and_nothing_of_a_run_is_left() {
    let etcd = Etcd::newest();
    let mark = unique_sleep();
    let sleep = format!("sh -c 'sleep {mark}; true'");
    for (health, says) in [
        ("kill -9 $$".to_owned(), "was killed by signal 9"),
        ("no-such-command".to_owned(), "ended with exit code 127"),
        (format!("exec {sleep}"), "took longer than 200ms"),
        (format!("setsid {sleep} & wait"), "took longer than 200ms"),
        (
            format!("trap '' TERM HUP; (setsid {sleep} &) ; {sleep}"),
            "took longer than 200ms",
        ),
        ("yes".to_owned(), "took longer than 200ms"),
        (
            format!("(setsid {sleep} &) ; exit 3"),
            "ended with exit code 3",
        ),
    ] {
        let health = format!(": {mark}; {health}");
        let mut one = start("one", &etcd, &health, &["--log-filter", "debug"]);
        let expected = format!("{UNHEALTHY}{says}; this replica does not lead.");
        assert_eq!(one.wait_for_next_start(UNHEALTHY).message(), expected);
        one.wait_for_next(&format!("The health command {says}."));
        one.crash();
        wait_until_nothing_is_left_of(&mark);
    }
}

#[test]
fn what_a_successful_run_leaves_is_killed_before_the_next_run() {
    let etcd = Etcd::newest();
    let mark = unique_sleep();
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    let health = format!(
        "(setsid sh -c 'echo $$ >>{}; exec sleep {mark}' &); sleep 0.1",
        pids.display()
    );
    let mut one = start("one", &etcd, &health, &[]);
    one.wait_for_next(HEALTHY);
    one.wait_for_next(LEADER);
    let seen = || -> Vec<String> {
        let pids = fs::read_to_string(&pids).unwrap_or_default();
        pids.lines().map(str::to_owned).collect()
    };
    poll_until("three runs", || (seen().len() >= 3).then_some(()));
    let all = seen();
    for pid in &all[..2] {
        assert!(!Path::new("/proc").join(pid).exists(), "{pid} is left");
    }
    assert!(one.leads());
    one.signal(Signal::TERM);
    assert_eq!(one.wait_exit().code(), Some(0));
    wait_until_nothing_is_left_of(&mark);
}

#[test]
fn a_flood_of_output_is_cut_and_its_beginning_is_in_the_debug_log() {
    let etcd = Etcd::newest();
    let health = "echo '  it \u{e9}'; echo aside >&2; head -c 3000000 /dev/zero; echo end";
    let mut command = json("one", &etcd.endpoint());
    command.args(["--health-command", health, "--log-filter", "debug"]);
    let mut one = Daemon::spawn("one", command);
    let printed = "The health command has printed: ";
    one.wait_for_next(&format!("{printed}  it \u{e9}"));
    one.wait_for_next(&format!("{printed}aside"));
    let long = one.wait_for_next_start(printed).message();
    assert!(long.len() < 2000, "{}", long.len());
    one.wait_for_next("The health command succeeded.");
    one.wait_for_next(LEADER);
    assert!(!one.has_said(&format!("{printed}end")));
}

#[test]
fn a_health_command_gets_no_input_no_private_variable_and_no_descriptor_of_the_daemon() {
    let etcd = Etcd::newest();
    let script = "test -z \"$NOTIFY_SOCKET$LEADER_ELECTION_ETCD_PASSWORD\" || exit 10; \
                  test \"$(readlink /proc/self/fd/0)\" = /dev/null || exit 11; \
                  test \"$ITS_OWN\" = 1 || exit 12; \
                  for fd in /proc/$$/fd/*; do case $(readlink $fd) in *timerfd*|socket*) exit 13;; esac; done";
    let mut command = json("one", &etcd.endpoint());
    command.args(["--health-command", script]);
    command.env("NOTIFY_SOCKET", "/nowhere").env("ITS_OWN", "1");
    command.env("JOURNAL_STREAM", "1:2");
    let mut one = Daemon::spawn("one", command);
    one.wait_for_next(HEALTHY);
}

#[test]
fn a_crash_of_the_daemon_in_the_middle_of_a_run_leaves_nothing() {
    let etcd = Etcd::newest();
    let mark = unique_sleep();
    let health = format!("(setsid sh -c 'sleep {mark}; true' &); sh -c 'sleep {mark}; true'");
    let options = ["--health-interval", "1h", "--health-timeout", "1h"];
    let mut command = json("one", &etcd.endpoint());
    command.args(["--health-command", &health]).args(options);
    let mut one = Daemon::spawn("one", command);
    let runner = wait_for_runner(&one);
    poll_until("a run", || (sleeping(&mark) == 2).then_some(()));
    // What reaches the whole process group of the daemon is the daemon's to decide about.
    for signal in [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM] {
        kill_process(runner, signal).unwrap();
    }
    assert_eq!(wait_for_runner(&one), runner);
    one.crash();
    wait_until_nothing_is_left_of(&mark);
}

#[test]
fn a_suspended_health_runner_ends_with_its_daemon() {
    let etcd = Etcd::newest();
    let mark = unique_sleep();
    let options = ["--health-interval", "1h", "--health-timeout", "1h"];
    let mut one = start("one", &etcd, &format!("sleep {mark}"), &options);
    let runner = wait_for_runner(&one);
    poll_until("a run", || (sleeping(&mark) == 1).then_some(()));
    // The daemon would let it go on.
    one.signal(Signal::STOP);
    kill_process(runner, Signal::STOP).unwrap();
    one.crash();
    wait_until_nothing_is_left_of(&mark);
}

#[test]
fn a_child_that_is_not_the_health_runners_outlives_it() {
    let etcd = Etcd::newest();
    let mark = unique_sleep();
    let options = ["--log-filter", "debug"];
    let command = replica("one", &etcd.endpoint(), "true", &options);
    // What starts it is a child of the daemon from the start, and leaves it to the daemon when it ends.
    let entrypoint = format!("sh -c 'setsid sleep {mark} & sleep 0.5' & true");
    let mut one = Daemon::spawn("one", after(&entrypoint, &command));
    let adopted = poll_until("the daemon adopts it", || {
        let adopted = child(one.pid(), "sleep")?;
        processes_with(&mark)
            .iter()
            .any(|line| line.starts_with("sleep "))
            .then_some(adopted)
    });
    one.skip();
    for _ in 0..2 {
        one.wait_for_next("The health command succeeded.");
    }
    kill_process(wait_for_runner(&one), Signal::KILL).unwrap();
    one.wait_for_next_start(UNHEALTHY);
    one.wait_for_next(HEALTHY);
    assert_eq!(child(one.pid(), "sleep"), Some(adopted));
    kill_process(adopted, Signal::KILL).unwrap();
}

#[test]
fn without_its_runner_a_replica_is_unhealthy_until_the_next_runner_has_succeeded() {
    let etcd = Etcd::newest();
    let mark = unique_sleep();
    let folder = tempfile::tempdir().unwrap();
    let hangs = folder.path().join("hangs");
    let health = format!(
        "test -e {0} || exit 0; rm {0}; (setsid sh -c 'sleep {mark}; true' &); sh -c 'sleep {mark}; true'",
        hangs.display()
    );
    let mut command = json("one", &etcd.endpoint());
    command.args(["--health-command", &health, "--health-interval", "1s"]);
    command.args(["--", "sh", "-c", "echo runs; exec sleep 60"]);
    let mut one = Daemon::spawn("one", command);
    one.wait_for_next(HEALTHY);
    one.wait_for_any_start("runs");
    fs::write(&hangs, "").unwrap();
    poll_until("a run that hangs", || (sleeping(&mark) == 2).then_some(()));
    let runner = wait_for_runner(&one);
    kill_process(runner, Signal::KILL).unwrap();
    let said = one.wait_for_next_start(UNHEALTHY).message();
    let expected =
        "could not be run: the process that runs it has died; this replica does not lead.";
    assert_eq!(said, format!("{UNHEALTHY}{expected}"));
    one.wait_for_next_start(LOST);
    one.wait_for_next("'sh' has stopped.");
    poll_until("nothing is left of the run", || {
        (sleeping(&mark) == 0).then_some(())
    });
    one.wait_for_next(HEALTHY);
    one.wait_for_next(LEADER);
    assert_ne!(wait_for_runner(&one), runner);
    one.signal(Signal::TERM);
    assert_eq!(one.wait_exit().code(), Some(0));
    wait_until_nothing_is_left_of(&mark);
}

#[test]
fn a_command_is_not_disturbed_by_health_commands_that_are_killed() {
    let etcd = Etcd::newest();
    let mark = unique_sleep();
    // The first run must not take too long.
    let options = ["--health-fall", "100", "--health-interval", "1s"];
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("first");
    // It succeeds once, and hangs from then on.
    let health = format!(
        "test -e {0} || {{ >{0}; exit 0; }}; (setsid sleep {mark} &); sleep {mark}",
        first.display()
    );
    let mut command = replica("one", &etcd.endpoint(), &health, &options);
    command.args(["--log-filter", "debug", "--", "sh", "-c"]);
    command.arg("sh -c 'sleep 61; true' command & sh -c 'sleep 61; true' command; true");
    let mut one = Daemon::spawn("one", command);
    one.wait_for_next_start("Running ");
    for _ in 0..3 {
        one.wait_for_next("The health command took longer than 1s.");
    }
    assert!(one.leads());
    // The death of the guard leaves the health runner alone.
    let runner = wait_for_runner(&one);
    let guard = one.wait_for_any_start("Running ").field("guard").unwrap();
    let guard = Pid::from_raw(guard.parse().unwrap()).unwrap();
    kill_process(guard, Signal::KILL).unwrap();
    one.wait_for_next_start("The guard of 'sh' died");
    one.wait_for_next_start("Running ");
    one.wait_for_next("The health command took longer than 1s.");
    assert_eq!(wait_for_runner(&one), runner);
    // A health runner that is suspended goes on at once.
    kill_process(runner, Signal::STOP).unwrap();
    one.skip();
    // The first of these may have been on its way.
    for _ in 0..2 {
        one.wait_for_next("The health command took longer than 1s.");
    }
    one.signal(Signal::TERM);
    assert_eq!(one.wait_exit().code(), Some(0));
    wait_until_nothing_is_left_of(&mark);
}
