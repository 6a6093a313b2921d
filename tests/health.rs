//! `--health-command` and `--priority`: who may lead.

use rustix::process::Signal;
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::daemon::{Daemon, FOLLOWER, LEADER, LOST, json};
use support::etcd::{Etcd, on_each_etcd};
use support::health::{HEALTHY, UNHEALTHY, replica, start};
use support::http::{get, wait_for_code};
use support::operator::{at, run};
use support::proxy::refusing;
use support::{PATIENCE, free_port, poll_until, wait_until};
use tempfile::TempDir;

/// What a replica says when it campaigns for the first time.
const ELECTION: &str = "New leader election happening.";

/// A health command that the test decides: it writes a line per run, and ends with the exit code that a file
/// holds.
struct ExitCodeFile(TempDir);

impl ExitCodeFile {
    fn new(code: u8) -> Self {
        let code_file = Self(tempfile::tempdir().unwrap());
        code_file.set(code);
        code_file
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// Makes the runs that have not read the file yet end with this exit code.
    fn set(&self, code: u8) {
        fs::write(self.path("next"), code.to_string()).unwrap();
        fs::rename(self.path("next"), self.path("code")).unwrap();
    }

    /// The exit codes of all runs so far.
    fn runs(&self) -> Vec<String> {
        let runs = fs::read_to_string(self.path("runs")).unwrap_or_default();
        runs.lines().map(str::to_owned).collect()
    }

    fn command(&self) -> String {
        let (code, runs) = (self.path("code"), self.path("runs"));
        format!("read -r code <{code}; echo $code >>{runs}; exit $code")
    }
}

#[test]
fn usage_errors_are_explained() {
    for (arguments, expected) in [
        (
            &["--health-interval", "1s"][..],
            "--health-interval is about a health command",
        ),
        (
            &["--health-timeout", "1s"],
            "--health-timeout is about a health command",
        ),
        (
            &["--health-rise", "1"],
            "--health-rise is about a health command",
        ),
        (
            &["--health-fall", "1"],
            "--health-fall is about a health command",
        ),
        (&["--health-command", ""], "--health-command"),
        (&["--health-command", " "], "the health command is empty"),
        (
            &["--health-command", "true", "--health-timeout", "11s"],
            "a --health-timeout of 11s is longer than the interval of 10s",
        ),
        (
            &[
                "--health-command",
                "true",
                "--health-interval",
                "1s",
                "--health-timeout",
                "2s",
            ],
            "a --health-timeout of 2s is longer than the interval of 1s",
        ),
        (
            &["--health-command", "true", "--health-interval", "99ms"],
            "--health-interval",
        ),
        (
            &["--health-command", "true", "--health-timeout", "2h"],
            "--health-timeout",
        ),
        (
            &["--health-command", "true", "--health-rise", "0"],
            "--health-rise",
        ),
        (
            &["--health-command", "true", "--health-fall", "101"],
            "--health-fall",
        ),
        (&["--priority", "high"], "--priority"),
        (&["--priority", "2147483648"], "--priority"),
        (&["--priority-delay", "25h"], "--priority-delay"),
        (&["--priority-delay", "on"], "--priority-delay"),
        (
            &["--health-command", "true", "status"],
            "cannot be used with 'status'",
        ),
        (
            &["--priority", "1", "status"],
            "cannot be used with 'status'",
        ),
    ] {
        let run = run(at(&refusing(), arguments));
        assert_eq!(run.code, 2, "{arguments:?}: {:?}", run.err);
        assert!(
            run.err[0].contains(expected),
            "{arguments:?}: {:?}",
            run.err
        );
    }
    for (variable, value, expected) in [
        ("HEALTH_COMMAND", " ", "the health command is empty"),
        ("PRIORITY", "x", "'LEADER_ELECTION_PRIORITY'"),
    ] {
        let mut command = at(&refusing(), &[]);
        command.env(format!("LEADER_ELECTION_{variable}"), value);
        let run = run(command);
        assert_eq!(run.code, 2, "{variable}: {:?}", run.err);
        assert!(run.err[0].contains(expected), "{variable}: {:?}", run.err);
    }
}

#[test]
fn variables_about_a_health_command_that_there_is_not_are_ignored() {
    let mut command = at(&refusing(), &["--wait", "0s", "--", "true"]);
    command.env("LEADER_ELECTION_HEALTH_COMMAND", "");
    command.env("LEADER_ELECTION_HEALTH_INTERVAL", "x");
    command.env("LEADER_ELECTION_HEALTH_FALL", "1");
    assert_eq!(run(command).code, 75);
}

#[test]
fn a_health_command_may_begin_with_a_dash() {
    let etcd = Etcd::newest();
    let mut one = start("one", &etcd, "-x; true", &[]);
    one.wait_for_next(HEALTHY);
}

#[test]
fn a_job_that_runs_once_is_not_cut_short_by_a_better_replica() {
    let etcd = Etcd::newest();
    let start = |name: &str, priority: &str| {
        let mut command = json(name, &etcd.endpoint());
        command.args([
            "--priority",
            priority,
            "--priority-delay",
            "0s",
            "--once",
            "job",
        ]);
        command.args(["--", "sh", "-c", "echo begun; read line; true"]);
        command.stdin(Stdio::piped());
        Daemon::spawn(name, command)
    };
    let mut low = start("low", "0");
    low.wait_for_next("begun");
    let mut high = start("high", "5");
    high.wait_for_next(FOLLOWER);
    poll_until("both are listed", || {
        (etcd.seats().len() == 2).then_some(())
    });
    low.skip();
    low.wait_for_next_refreshes(3);
    low.close_stdin();
    for job in [&mut low, &mut high] {
        assert_eq!(job.wait_exit().code(), Some(0));
    }
    assert!(!high.has_said("begun"));
}

#[test]
fn replicas_campaign_only_once_they_are_healthy_and_then_at_once() {
    on_each_etcd(|etcd| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("maintenance");
        fs::write(&file, "").unwrap();
        let http = format!("127.0.0.1:{}", free_port());
        let health = format!("test ! -e {}", file.display());
        let options = ["--health-rise", "1", "--http", &http];
        let mut first = start("first", &etcd, &health, &options);
        let mut second = start("second", &etcd, "exit 7", &[]);
        for replica in [&mut first, &mut second] {
            let line = replica.wait_for_next_start(UNHEALTHY);
            assert!(line.is_warning(), "{}", line.text());
        }
        let said = second.wait_for_any_start(UNHEALTHY);
        let expected = format!("{UNHEALTHY}ended with exit code 7; this replica does not lead.");
        assert_eq!(said.message(), expected);
        assert_eq!(said.field("reason").as_deref(), Some("exit code 7"));
        wait_until("both are listed", PATIENCE, || {
            (etcd.seats().len() == 2).then_some(())
        });
        wait_for_code(&http, "/live", 200);
        poll_until("the body says why it is not ready", || {
            let ready = get(&http, "/ready");
            assert_eq!(ready.code, 503);
            (ready.body == "this replica stands back: exit code 1\n").then_some(())
        });
        assert_eq!(etcd.key("leader"), None);

        fs::remove_file(&file).unwrap();
        let healthy = first.wait_for_next(HEALTHY).at;
        let leads = first.wait_for_next(LEADER).at;
        assert!(leads - healthy < Duration::from_secs(1));
        wait_for_code(&http, "/ready", 200);
        second.wait_for_next(FOLLOWER);
        for (replica, lines) in [(&first, 1), (&second, 0)] {
            assert_eq!(replica.count(ELECTION), lines);
            let texts = replica.lines();
            let unhealthy = texts
                .iter()
                .filter(|line| line.message().starts_with(UNHEALTHY));
            assert_eq!(unhealthy.count(), 1, "it is logged once");
        }
    });
}

#[test]
fn a_leader_that_becomes_unhealthy_hands_over_after_exactly_as_many_failures_as_it_takes() {
    let etcd = Etcd::newest();
    let code_file = ExitCodeFile::new(0);
    let options = [
        "--health-fall",
        "3",
        "--health-rise",
        "2",
        "--log-filter",
        "debug",
        "--health-interval",
        "500ms",
    ];
    let mut first = start("first", &etcd, &code_file.command(), &options);
    first.wait_for_next(LEADER);
    let mut second = start("second", &etcd, "true", &[]);
    second.wait_for_next(FOLLOWER);
    poll_until("both are listed", || {
        (etcd.seats().len() == 2).then_some(())
    });
    // It may have campaigned at its start.
    let elections = second.count(ELECTION);
    code_file.set(1);
    first.wait_for_next_start(UNHEALTHY);
    let lost = first.wait_for_next_start(LOST);
    first.wait_for_next("Handed over to 'second'.");
    second.wait_for_next(LEADER);
    assert!(!lost.is_warning());
    assert_eq!(second.count(ELECTION), elections, "no new election");

    code_file.set(0);
    first.wait_for_next(HEALTHY);
    let messages = first.messages();
    let failures = |message: &&String| *message == "The health command ended with exit code 1.";
    let successes = |message: &&String| *message == "The health command succeeded.";
    let place = |start: &str| {
        messages
            .iter()
            .rposition(|it| it.starts_with(start))
            .unwrap()
    };
    let (unhealthy, healthy) = (place(UNHEALTHY), place(HEALTHY));
    assert_eq!(messages[..unhealthy].iter().filter(failures).count(), 3);
    let between = &messages[unhealthy..healthy];
    assert_eq!(between.iter().filter(successes).count(), 2);
    // Each run is reported, and none twice.
    let reported = messages.iter().filter(|it| failures(it) || successes(it));
    let (reported, run) = (reported.count(), code_file.runs().len());
    assert!(
        (reported..=reported + 1).contains(&run),
        "{reported}, {run}"
    );
    assert!(second.leads());
}

#[test]
fn an_unhealthy_replica_does_not_run_a_command_and_a_single_try_waits_for_the_first_result() {
    let etcd = Etcd::newest();
    let with = |health: &str| {
        let mut command = replica(
            "one",
            &etcd.endpoint(),
            health,
            &["--wait", "0s", "--health-interval", "5s"],
        );
        command.args(["--", "echo", "it ran"]);
        Daemon::spawn("one", command)
    };
    let mut healthy = with("sleep 0.1");
    assert_eq!(healthy.wait_exit().code(), Some(0));
    assert!(healthy.has_said("it ran"));
    let begun = Instant::now();
    let mut unhealthy = with("false");
    assert_eq!(unhealthy.wait_exit().code(), Some(75));
    assert!(!unhealthy.has_said("it ran"));
    // It does not wait for etcd's longest time.
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn the_replica_with_the_highest_priority_leads_unless_an_operator_has_chosen_another_one() {
    let etcd = Etcd::newest();
    let start = |name: &str, priority: &str| {
        let mut command = json(name, &etcd.endpoint());
        command.args(["--priority", priority, "--priority-delay", "1s"]);
        Daemon::spawn(name, command)
    };
    let mut low = start("low", "-5");
    low.wait_for_next(LEADER);
    let mut middle = start("middle", "0");
    middle.wait_for_next(LEADER);
    low.wait_for_next_start(LOST);
    let mut high = start("high", "2147483647");
    high.wait_for_next(LEADER);
    let chosen = run(at(&etcd.endpoint(), &["step-down", "--to", "low"]));
    assert_eq!(chosen.code, 0, "{:?}", chosen.err);
    low.wait_for_next(LEADER);
    // For longer than the delay.
    low.wait_for_next_refreshes(6);
    assert!(low.leads());
    low.signal(Signal::TERM);
    low.wait_exit();
    high.wait_for_next(LEADER);
    drop(middle);
}
