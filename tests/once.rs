//! `--once ID -- COMMAND`: a job that several replicas run once, with kills in each phase.
mod support;

use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use support::daemon::{Daemon, LEADER, LEADER_STOPS, LOST, command, json, plain, wait_for_leader};
use support::etcd::{Etcd, binaries, on_each_etcd};
use support::etcdctl::LITTLE_ROOM;
use support::operator::{at, run};
use support::proxy::{Call, Link, Proxy};
use support::requests::Requests;
use support::{NEXT_REQUEST, TTL, let_pass, poll_until, users};
use tempfile::TempDir;

const JOB: &str = "migrate-42";
const RECORD: &str = "leader/done/migrate-42";

/// What a replica says once its job is recorded.
const RECORDED: &str = "'migrate-42' is recorded as done.";
/// How a replica begins to say that its job was done before.
const DONE: &str = "'migrate-42' was completed by ";
/// How a replica begins to say that its job could not be recorded.
const NOT_RECORDED: &str = "COMMAND has completed 'migrate-42', and that could not be recorded: ";

/// A job that writes a line when it begins and one when it ends, and lasts until the test says so.
struct Job {
    folder: TempDir,
}

impl Job {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns a replica that runs it.
    fn replica(&self, name: &str, endpoint: &str) -> Command {
        self.replica_with(name, endpoint, &[])
    }

    fn replica_with(&self, name: &str, endpoint: &str, options: &[&str]) -> Command {
        let mut command = json(name, endpoint);
        command.args(["--once", JOB]).args(options);
        let folder = self.folder.path().display();
        let job = format!(
            "cd {folder}; echo $LEADER_ELECTION_NAME $LEADER_ELECTION_TOKEN >>begun
             until [ -e end ]; do sleep 0.01; done
             echo $LEADER_ELECTION_NAME >>ended; exit $(cat end)"
        );
        command.args(["--", "sh", "-c", &job]);
        command
    }

    /// Starts a replica that runs it.
    fn spawn(&self, name: &str, endpoint: &str) -> Daemon {
        Daemon::spawn(name, self.replica(name, endpoint))
    }

    /// Lets each run end with this code, from now on.
    fn end_with(&self, code: u8) {
        fs::write(self.file("new"), code.to_string()).unwrap();
        fs::rename(self.file("new"), self.file("end")).unwrap();
    }

    fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.file(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Returns who has begun it, one for each run.
    fn begun(&self) -> Vec<String> {
        let name = |line: &String| line.split(' ').next().unwrap().to_owned();
        self.lines("begun").iter().map(name).collect()
    }

    fn wait_until_begun(&self, times: usize) {
        poll_until("the job has begun", || {
            (self.lines("begun").len() >= times).then_some(())
        });
    }
}

/// Returns the record of the job.
fn record(etcd: &Etcd) -> Value {
    let key = etcd.key(RECORD).expect("a record");
    assert_eq!(key.lease, None);
    serde_json::from_slice(&key.value).unwrap()
}

fn exit_code(replica: &mut Daemon) -> i32 {
    let status = replica.wait_exit();
    status.code().unwrap_or_else(|| panic!("{status}"))
}

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
        let mut late = job.spawn("server4", &endpoint);
        assert_eq!(exit_code(&mut late), 0);
        let told = late.wait_for_any_start(DONE).message();
        assert!(
            told.starts_with(&format!("{DONE}'{winner}' at 20")),
            "{told}"
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
        second.wait_for_next(support::daemon::FOLLOWER);
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
fn a_replica_that_is_killed_before_or_during_the_job_is_followed_by_the_next_one() {
    on_each_etcd(|etcd| {
        for during in [false, true] {
            etcd.etcdctl(&["del", RECORD]);
            let job = Job::new();
            let endpoint = etcd.endpoint();
            let mut first = job.spawn("first", &endpoint);
            first.wait_for_next(LEADER);
            let mut second = job.spawn("second", &endpoint);
            if during {
                job.wait_until_begun(1);
                second.wait_for_next(support::daemon::FOLLOWER);
            }
            first.crash();
            second.wait_for_next(LEADER);
            job.end_with(0);
            assert_eq!(exit_code(&mut second), 0);
            assert_eq!(record(&etcd)["name"], "second");
            // What the killed one ran was killed before it could end.
            assert_eq!(job.lines("ended"), ["second"]);
        }
    });
}

#[test]
fn a_replica_that_is_killed_between_the_end_of_the_job_and_its_record_makes_it_run_again() {
    on_each_etcd(|etcd| {
        let job = Job::new();
        let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
        let mut first = job.spawn("first", &proxy.endpoint());
        job.wait_until_begun(1);
        proxy.set(Link::HoldRequests(Call::Record));
        job.end_with(0);
        poll_until("it wants to record", || {
            (proxy.matching_requests() > 0).then_some(())
        });
        first.crash();
        let mut second = job.spawn("second", &etcd.endpoint());
        assert_eq!(exit_code(&mut second), 0);
        assert_eq!(record(&etcd)["name"], "second");
        assert_eq!(job.lines("ended"), ["first", "second"]);
    });
}

#[test]
fn a_replica_that_is_killed_after_the_record_was_written_does_not_make_the_job_run_again() {
    on_each_etcd(|etcd| {
        let job = Job::new();
        let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
        let mut first = job.spawn("first", &proxy.endpoint());
        job.wait_until_begun(1);
        let mut second = job.spawn("second", &etcd.endpoint());
        second.wait_for_next(support::daemon::FOLLOWER);
        proxy.set(Link::HoldResponses(Call::Record));
        job.end_with(0);
        poll_until("it is recorded", || etcd.key(RECORD));
        first.crash();
        assert_eq!(exit_code(&mut second), 0);
        assert_eq!(job.begun(), ["first"]);
    });
}

#[test]
fn a_record_whose_response_is_lost_is_found_and_the_job_counts_as_done() {
    on_each_etcd(|etcd| {
        let job = Job::new();
        let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
        let mut first = job.spawn("first", &proxy.endpoint());
        job.wait_until_begun(1);
        proxy.set(Link::HoldResponses(Call::Record));
        job.end_with(0);
        poll_until("it is recorded", || etcd.key(RECORD));
        proxy.set(Link::Reset);
        proxy.set(Link::Open);
        assert_eq!(exit_code(&mut first), 0);
        first.wait_for_any_start(RECORDED);
        assert_eq!(job.begun(), ["first"]);
        assert!(etcd.leases().is_empty());
    });
}

#[test]
fn a_leader_that_is_cut_off_while_its_job_succeeds_cannot_record_it() {
    on_each_etcd(|etcd| {
        for link in [Link::Frozen, Link::HoldRequests(Call::Record)] {
            etcd.etcdctl(&["del", RECORD]);
            let job = Job::new();
            let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
            let mut first = job.spawn("first", &proxy.endpoint());
            job.wait_until_begun(1);
            let mut second = job.spawn("second", &etcd.endpoint());
            second.wait_for_next(support::daemon::FOLLOWER);
            proxy.set(link);
            job.end_with(0);
            assert_eq!(exit_code(&mut first), 125);
            let told = first.wait_for_any_start(NOT_RECORDED).message();
            assert!(told.contains("etcd has not said whether"), "{told}");
            assert!(told.contains("`leader-election done`"), "{told}");
            proxy.set(Link::Open);
            assert_eq!(exit_code(&mut second), 0);
            assert_eq!(record(&etcd)["name"], "second");
            assert_eq!(job.begun(), ["first", "second"]);
        }
    });
}

#[test]
fn a_leader_whose_term_was_taken_while_its_job_succeeds_cannot_record_it() {
    on_each_etcd(|etcd| {
        let job = Job::new();
        let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
        let mut first = job.spawn("first", &proxy.endpoint());
        job.wait_until_begun(1);
        // It does not hear that another takes its key.
        proxy.set(Link::NoResponses);
        etcd.put("leader/acting", b"{}", None);
        job.end_with(0);
        first.wait_for_next("'sh' ended with exit code 0.");
        proxy.set(Link::Open);
        assert_eq!(exit_code(&mut first), 125);
        let told = first.wait_for_any_start(NOT_RECORDED).message();
        assert!(told.contains("the term ended before"), "{told}");
        assert_eq!(etcd.key(RECORD), None);
    });
}

#[test]
fn a_request_to_stop_is_no_success_unless_the_job_is_done() {
    on_each_etcd(|etcd| {
        let endpoint = etcd.endpoint();
        let job = Job::new();
        let mut leader = job.spawn("leader", &endpoint);
        job.wait_until_begun(1);
        let mut follower = job.spawn("follower", &endpoint);
        follower.wait_for_next(support::daemon::FOLLOWER);
        for replica in [&mut follower, &mut leader] {
            replica.signal(Signal::TERM);
            assert_eq!(exit_code(replica), 128 + 15);
        }
        leader.wait_for_any(LEADER_STOPS);
        assert_eq!(etcd.key(RECORD), None);

        // Between the end of the job and its record, the record comes first.
        let proxy = Proxy::start(&endpoint, Link::Open);
        let mut leader = job.spawn("leader", &proxy.endpoint());
        job.wait_until_begun(2);
        proxy.set(Link::HoldRequests(Call::Record));
        job.end_with(0);
        poll_until("it wants to record", || {
            (proxy.matching_requests() > 0).then_some(())
        });
        leader.signal(Signal::TERM);
        proxy.set(Link::Open);
        assert_eq!(exit_code(&mut leader), 0);
        assert_eq!(record(&etcd)["name"], "leader");
        assert!(etcd.leases().is_empty());
    });
}

#[test]
fn a_job_whose_term_is_ended_by_an_operator_runs_again() {
    let etcd = Etcd::newest();
    let job = Job::new();
    let mut first = job.spawn("first", &etcd.endpoint());
    job.wait_until_begun(1);
    let mut second = job.spawn("second", &etcd.endpoint());
    second.wait_for_next(support::daemon::FOLLOWER);
    assert_eq!(run(at(&etcd.endpoint(), &["step-down"])).code, 0);
    first.wait_for_next_start(LOST);
    job.end_with(0);
    assert_eq!(exit_code(&mut second), 0);
    assert_eq!(exit_code(&mut first), 0);
    first.wait_for_any_start(DONE);
    assert_eq!(job.begun(), ["first", "second"]);
}

#[test]
fn a_follower_finds_a_record_that_somebody_has_written_by_hand() {
    on_each_etcd(|etcd| {
        let job = Job::new();
        let mut leader = job.spawn("leader", &etcd.endpoint());
        job.wait_until_begun(1);
        let mut follower = job.spawn("follower", &etcd.endpoint());
        follower.wait_for_next(support::daemon::FOLLOWER);
        etcd.put(RECORD, b"by hand \x1b[31m", None);
        assert_eq!(exit_code(&mut follower), 0);
        let told = follower.wait_for_any_start(DONE).message();
        assert_eq!(
            told,
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
            let told = replica.wait_for_any_start("the etcd user may not read and write ");
            let told = told.message();
            assert!(told.contains("'leader/done/migrate-42'"), "{told}");
            assert!(told.contains("permission denied"), "{told}");
            assert!(told.contains("readwrite on the prefix 'leader/'"), "{told}");
            assert!(job.begun().is_empty());
            assert!(etcd.leases().is_empty());
        }
    });
}

#[test]
fn a_full_database_does_not_hide_that_the_job_is_done() {
    let room = LITTLE_ROOM.map(str::to_owned);
    let etcd = Etcd::start_with(binaries().last().unwrap(), &room, &[]);
    let job = Job::new();
    job.end_with(0);
    assert_eq!(exit_code(&mut job.spawn("first", &etcd.endpoint())), 0);
    etcd.fill();
    assert_eq!(exit_code(&mut job.spawn("second", &etcd.endpoint())), 0);
    assert_eq!(job.begun(), ["first"]);
}

#[test]
fn etcd_that_is_down_is_waited_for() {
    let mut etcd = Etcd::newest();
    let job = Job::new();
    job.end_with(0);
    etcd.stop();
    let mut replica = job.spawn("server1", &etcd.endpoint());
    replica.wait_for_next_start("etcd at '");
    etcd.up();
    assert_eq!(exit_code(&mut replica), 0);
    assert_eq!(record(&etcd)["name"], "server1");
}

#[test]
fn a_shell_goes_on_after_the_job_is_done_and_not_after_it_was_told_to_stop() {
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

    // A program that is told to stop has not done the job.
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
