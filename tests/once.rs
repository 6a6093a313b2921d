//! `--once ID -- COMMAND`: a job that several replicas run once.

use rustix::process::Signal;
use std::process::Command;
use support::daemon::{Daemon, FOLLOWER, command, plain, wait_for_leader};
use support::etcd::{Etcd, on_each_etcd};
use support::job::{DONE, Job, RECORD, RECORDED, exit_code, record};
use support::operator::run;
use support::requests::Requests;
use support::{NEXT_REQUEST, TTL, let_pass, users};

#[test]
fn one_replica_runs_the_job_the_others_wait_and_a_later_one_asks_etcd_one_question() {
    on_each_etcd(|etcd| {
        let job = Job::new();
        let endpoint = etcd.endpoint();
        let mut replicas: Vec<_> = (1..=3)
            .map(|number| job.spawn(&format!("server{number}"), &endpoint))
            .collect();
        let leader = wait_for_leader(&replicas);
        job.wait_until_begun(1);
        let_pass(TTL / 2);
        assert!(replicas.iter().all(|replica| !replica.has_ended()));
        job.end_with(0);
        for (number, replica) in replicas.iter_mut().enumerate() {
            assert_eq!(exit_code(replica), 0);
            let said = if number == leader { RECORDED } else { DONE };
            replica.wait_for_any_start(said);
        }
        let winner = format!("server{}", leader + 1);
        assert_eq!(job.begun(), [winner.as_str()]);
        let record = record(&etcd);
        assert_eq!(record["name"], winner);
        let token = job.lines("begun")[0].rsplit(' ').next().unwrap().to_owned();
        assert_eq!(record["token"].to_string(), token);
        assert!(etcd.leases().is_empty());

        let before = Requests::of(&etcd);
        // One that is slow to respond is not asked again within a fifth of the TTL.
        let late = job.with_longer_ttl("server4", &endpoint);
        let mut late = Daemon::spawn("server4", late);
        assert_eq!(exit_code(&mut late), 0);
        let message = late.wait_for_any_start(DONE).message();
        assert!(
            message.starts_with(&format!("{DONE}'{winner}' at 20")),
            "{message}"
        );
        let asked = Requests::of(&etcd).since(&before);
        assert_eq!(asked, [("Txn".to_owned(), 1)]);
        assert_eq!(job.begun().len(), 1);

        // Another job has a record of its own.
        let mut other = plain("server5", &endpoint);
        other.args(["--once", "a/b %", "--", "true"]);
        assert_eq!(run(other).code, 0);
        assert!(etcd.key("leader/done/a%2Fb %25").is_some());
    });
}

#[test]
fn a_job_that_fails_ends_its_replica_with_its_code_and_the_next_one_runs_it() {
    on_each_etcd(|etcd| {
        let job = Job::new();
        let endpoint = etcd.endpoint();
        let mut first = job.spawn("first", &endpoint);
        job.wait_until_begun(1);
        let mut second = job.spawn("second", &endpoint);
        second.wait_for_next(FOLLOWER);
        job.end_with(7);
        assert_eq!(exit_code(&mut first), 7);
        assert_eq!(exit_code(&mut second), 7);
        assert_eq!(etcd.key(RECORD), None);
        job.end_with(0);
        assert_eq!(exit_code(&mut job.spawn("third", &endpoint)), 0);
        assert_eq!(job.begun(), ["first", "second", "third"]);
    });
}

#[test]
fn a_follower_finds_a_record_that_somebody_has_written_by_hand() {
    on_each_etcd(|etcd| {
        let job = Job::new();
        let mut leader = job.spawn("leader", &etcd.endpoint());
        job.wait_until_begun(1);
        let mut follower = job.spawn("follower", &etcd.endpoint());
        follower.wait_for_next(FOLLOWER);
        etcd.put(RECORD, b"by hand \x1b[31m", None);
        assert_eq!(exit_code(&mut follower), 0);
        let message = follower.wait_for_any_start(DONE).message();
        assert_eq!(
            message,
            format!("{DONE}somebody; there is nothing left to do.")
        );
        // The run that goes on is not disturbed.
        assert!(!leader.has_ended());
        job.end_with(0);
        assert_eq!(exit_code(&mut leader), 0);
        assert_eq!(etcd.key(RECORD).unwrap().value, b"by hand \x1b[31m");
    });
}

#[test]
fn a_role_that_may_not_write_the_record_ends_the_replica_before_it_takes_part() {
    on_each_etcd(|mut etcd| {
        users::add(&etcd);
        users::enable(&mut etcd);
        let job = Job::new();
        for grant in [None, Some("read"), Some("readwrite")] {
            if let Some(grant) = grant {
                let arguments = ["role", "grant-permission", "election", grant];
                etcd.etcdctl(&[&arguments[..], &["--prefix", "leader/done/"]].concat());
            }
            let user = ["--etcd-user", "replica"];
            let mut command = job.replica_with("server1", &etcd.endpoint(), &user);
            command.env("LEADER_ELECTION_ETCD_PASSWORD", "sesame");
            let mut replica = Daemon::spawn("server1", command);
            if grant == Some("readwrite") {
                job.end_with(0);
                assert_eq!(exit_code(&mut replica), 0);
                assert_eq!(record(&etcd)["name"], "server1");
                continue;
            }
            assert_eq!(exit_code(&mut replica), 125);
            let message = replica.wait_for_any_start("the etcd user may not read and write ");
            let message = message.message();
            assert!(message.contains("'leader/done/migrate-42'"), "{message}");
            assert!(message.contains("permission denied"), "{message}");
            assert!(
                message.contains("readwrite on the prefix 'leader/'"),
                "{message}"
            );
            assert!(job.begun().is_empty());
            assert!(etcd.leases().is_empty());
        }
    });
}

#[test]
fn a_shell_goes_on_after_the_job_is_done_and_not_after_it_was_asked_to_stop() {
    let etcd = Etcd::newest();
    let program = env!("CARGO_BIN_EXE_leader-election");
    let job = Job::new();
    let script = |release: &str| {
        let job = "sleep 0.1; echo migrated";
        let mut shell = Command::new("sh");
        shell
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap());
        shell.env("RELEASE", release);
        shell.env("LEADER_ELECTION_ETCD", etcd.endpoint());
        // Variables that compose leaves empty count as unset.
        shell
            .env("LEADER_ELECTION_WAIT", "")
            .env("LEADER_ELECTION_HOLD", "");
        shell.args([
            "-c",
            &format!(
                "'{program}' --name $$ --once \"migrate-${{RELEASE:?}}\" -- sh -c '{job}' && exec echo serving"
            ),
        ]);
        shell
    };
    let outputs: Vec<_> = (0..3)
        .map(|_| Daemon::spawn("shell", script("7")))
        .collect();
    let mut migrated = 0;
    for mut shell in outputs {
        assert_eq!(exit_code(&mut shell), 0);
        assert_eq!(shell.count("serving"), 1);
        migrated += shell.count("migrated");
    }
    assert_eq!(migrated, 1);
    let mut unset = Daemon::spawn("shell", script(""));
    assert_ne!(exit_code(&mut unset), 0);

    // A program that is asked to stop has not done the job.
    let mut waits = job.spawn("waits", &etcd.endpoint());
    job.wait_until_begun(1);
    waits.signal(Signal::INT);
    let_pass(NEXT_REQUEST / 4);
    assert_eq!(exit_code(&mut waits), 128 + 2);
}

#[test]
fn options_that_make_no_sense_together_are_refused() {
    for (arguments, reason) in [
        (&["--once", "x"][..], "--once is about a COMMAND"),
        (&["--hold", "1s"], "--hold is about a COMMAND"),
        (
            &["--once", "x", "--hold", "1s", "--", "true"],
            "--hold cannot be used with --once",
        ),
        (&["--once", "", "--", "true"], "it is empty"),
        (&["--once", "a\nb", "--", "true"], "control character"),
        (&["--once", " a", "--", "true"], "white space"),
        (&["--wait", "-1s"], "give a duration"),
        (&["--wait", "32d"], "at most 31d"),
        (&["--hold", "x", "--", "true"], "give a duration"),
        (
            &["--leader-key", "x/done/y"],
            "could belong to another election",
        ),
        (
            &["--leader-key", "x/next"],
            "could belong to another election",
        ),
        (&["--once", "x", "status"], "cannot be used with 'status'"),
    ] {
        let mut command = command();
        command.args(arguments);
        let run = run(command);
        assert_eq!(run.code, 2, "{arguments:?}");
        assert!(
            run.err.join("\n").contains(reason),
            "{arguments:?}: {:?}",
            run.err
        );
    }
    let mut long = command();
    long.args(["--once", &"x".repeat(256), "--", "true"]);
    let refused = run(long);
    assert_eq!(refused.code, 2);
    assert!(refused.err.join("\n").contains("longer than 255 bytes"));
}
