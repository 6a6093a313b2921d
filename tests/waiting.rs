//! `--wait` and `--hold`: for how long a replica tries to lead, and goes on leading.

use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};
use support::daemon::{
    CANDIDATE_STOPS, Daemon, FOLLOWER, LEADER, LEADER_STOPS, LOST, command, json, plain,
};
use support::etcd::{Etcd, on_each_etcd};
use support::operator::{Run, run};
use support::proxy::{Call, Link, Proxy, refusing};
use support::requests::Requests;
use support::{TTL, is_long_run, let_pass, poll_until};

/// The exit code of a replica that was not elected in time.
const NOT_ELECTED: i32 = 75;

/// Returns a replica whose COMMAND is this shell script.
fn shell(name: &str, endpoint: &str, options: &[&str], script: &str) -> Command {
    let mut command = json(name, endpoint);
    command.args(options).args(["--", "sh", "-c", script]);
    command
}

fn spawn(name: &str, endpoint: &str, options: &[&str], script: &str) -> Daemon {
    Daemon::spawn(name, shell(name, endpoint, options, script))
}

fn exit_code(replica: &mut Daemon) -> i32 {
    let status = replica.wait_exit();
    status.code().unwrap_or_else(|| panic!("{status}"))
}

/// Returns true iff a line of this run contains the text.
fn says(run: &Run, text: &str) -> bool {
    run.out
        .iter()
        .chain(&run.err)
        .any(|line| line.contains(text))
}

#[test]
fn a_replica_that_does_not_wait_costs_etcd_one_question_and_no_lease() {
    on_each_etcd(|etcd| {
        let endpoint = etcd.endpoint();
        // Somebody leads who asks nothing.
        let lease = etcd.grant(Duration::from_mins(10));
        etcd.put("leader", b"leader", Some(&lease));
        let before = Requests::of(&etcd);
        let mut others: Vec<_> = (0..20)
            .map(|number| {
                let name = format!("job{number}");
                // One that is slow to respond is not asked again within a fifth of the TTL.
                let mut command = command();
                command.args(["--name", &name, "--etcd", &endpoint, "--ttl", "1m"]);
                command.args(["--log-format", "json", "--wait", "0s", "--", "echo", "runs"]);
                Daemon::spawn(&name, command)
            })
            .collect();
        for other in &mut others {
            assert_eq!(exit_code(other), NOT_ELECTED);
            assert!(!other.has_said("runs"));
            other.wait_for_any("This replica was not elected at once; 'leader' leads. Giving up.");
        }
        assert_eq!(
            Requests::of(&etcd).since(&before),
            [("Txn".to_owned(), others.len() as u64)]
        );
    });
}

#[test]
fn a_replica_that_does_not_wait_gives_up_while_somebody_may_still_be_acting() {
    on_each_etcd(|etcd| {
        let lease = etcd.grant(10 * TTL);
        etcd.put("leader/acting", b"{}", Some(&lease));
        let mut job = spawn("job", &etcd.endpoint(), &["--wait", "0s"], "echo runs");
        assert_eq!(exit_code(&mut job), NOT_ELECTED);
        job.wait_for_any("This replica was not elected at once. Giving up.");
        assert_eq!(etcd.leases(), [lease]);
    });
}

#[test]
fn a_wait_that_is_over_leaves_nothing_in_etcd() {
    on_each_etcd(|etcd| {
        let endpoint = etcd.endpoint();
        let mut leader = Daemon::spawn("leader", json("leader", &endpoint));
        leader.wait_for_next(LEADER);
        for command in [true, false] {
            let mut waits = json("waits", &endpoint);
            waits.args(["--wait", "3s"]);
            if command {
                waits.args(["--", "echo", "runs"]);
            }
            let run = run(waits);
            assert_eq!(run.code, NOT_ELECTED);
            let gives_up = "This replica was not elected within 3s; 'leader' leads. Giving up.";
            assert!(says(&run, gives_up) && says(&run, CANDIDATE_STOPS));
            let took = run.took.as_millis();
            assert!((3000..7000).contains(&took), "{took} ms");
            assert_eq!(etcd.leases().len(), 1);
        }
        // Without a limit it would wait on.
        assert!(leader.leads());
    });
}

#[test]
fn a_replica_that_is_elected_within_its_wait_runs_its_command_for_as_long_as_that_takes() {
    on_each_etcd(|etcd| {
        let endpoint = etcd.endpoint();
        let mut leader = Daemon::spawn("leader", json("leader", &endpoint));
        leader.wait_for_next(LEADER);
        let mut waits = spawn("waits", &endpoint, &["--wait", "1m"], "sleep 2; exit 3");
        waits.wait_for_next(FOLLOWER);
        leader.signal(Signal::TERM);
        waits.wait_for_next(LEADER);
        assert_eq!(exit_code(&mut waits), 3);

        // The wait does not count in a term, and begins again after it.
        let mut once = spawn("once", &endpoint, &["--wait", "0s"], "exec sleep 60");
        once.wait_for_next_start("Running ");
        let_pass(TTL);
        etcd.etcdctl(&["del", "leader"]);
        assert_eq!(exit_code(&mut once), NOT_ELECTED);
        once.wait_for_any_start(LOST);
        assert!(etcd.leases().is_empty());
    });
}

#[test]
fn an_etcd_that_does_not_answer_is_logged_and_the_wait_ends() {
    let silent = Proxy::silent();
    for (endpoint, wait, longest) in [
        (refusing(), "0s", 10),
        (silent.endpoint(), "0s", 10),
        (refusing(), "1s", 2),
        (silent.endpoint(), "1s", 2),
    ] {
        let run = run(shell("job", &endpoint, &["--wait", wait], "echo runs"));
        assert_eq!(run.code, NOT_ELECTED);
        let took = run.took;
        assert!(took < Duration::from_secs(longest), "{wait}: {took:?}");
        // A silent endpoint has not failed before its time is up.
        if wait == "0s" {
            assert!(says(&run, "etcd at '"), "{:?}", run.err);
            assert!(says(&run, "; trying again until the wait is over."));
        }
        assert!(says(&run, "This replica was not elected "));
    }
}

#[test]
fn an_etcd_that_falls_silent_does_not_keep_a_replica_that_does_not_wait() {
    let etcd = Etcd::newest();
    let proxy = Proxy::start(&etcd.endpoint(), Link::HoldResponses(Call::Campaign));
    let mut command = command();
    // With this TTL, a lease may take 20 s to be given back.
    command.args([
        "--etcd",
        &proxy.endpoint(),
        "--ttl",
        "1m",
        "--wait",
        "0s",
        "--",
        "true",
    ]);
    let begun = Instant::now();
    let mut replica = Daemon::spawn("job", command);
    poll_until("it has a lease", || {
        (proxy.matching_requests() > 0).then_some(())
    });
    proxy.set(Link::Frozen);
    assert_eq!(exit_code(&mut replica), NOT_ELECTED);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(11), "{took:?}");
    replica.wait_for_any_line("what it leaves behind", |line| {
        line.text().contains("could not be revoked")
    });
}

#[test]
fn leadership_is_held_after_command_and_command_decides_the_exit_code() {
    on_each_etcd(|etcd| {
        let endpoint = etcd.endpoint();
        let mut holds = spawn("holds", &endpoint, &["--hold", "3s"], "sleep 1; exit 4");
        let began = holds.wait_for_next(LEADER).at;
        let ended = holds.wait_for_next("'sh' ended with exit code 4.").at;
        holds.wait_for_next_start("Continuing to lead for another ");
        let mut waits = spawn("waits", &endpoint, &[], "true");
        waits.wait_for_next(FOLLOWER);
        assert_eq!(exit_code(&mut holds), 4);
        let next = waits.wait_for_next(LEADER).at;
        let held = next.duration_since(began).as_millis();
        assert!((2000..6000).contains(&held), "{held} ms");
        assert!(ended < next);
        assert_eq!(exit_code(&mut waits), 0);
        assert!(etcd.leases().is_empty());

        // A command that takes longer than that is not held up.
        let mut longer = spawn(
            "longer",
            &endpoint,
            &["--hold", "100ms"],
            "sleep 0.5; exit 5",
        );
        assert_eq!(exit_code(&mut longer), 5);
        assert!(
            !longer
                .lines()
                .iter()
                .any(|line| line.text().contains("Continuing"))
        );
    });
}

#[test]
fn a_request_to_stop_ends_a_hold_at_once() {
    on_each_etcd(|etcd| {
        for code in [0, 6] {
            let script = format!("exit {code}");
            let mut holds = spawn("holds", &etcd.endpoint(), &["--hold", "1h"], &script);
            holds.wait_for_next_start("Continuing to lead for another 3");
            let asked = std::time::SystemTime::now();
            holds.signal(Signal::TERM);
            assert_eq!(exit_code(&mut holds), code);
            holds.wait_for_any(LEADER_STOPS);
            let took = holds.ended().unwrap().duration_since(asked).unwrap();
            assert!(took < Duration::from_secs(1), "{took:?}");
            assert!(etcd.leases().is_empty());
        }
    });
}

#[test]
fn a_command_that_cannot_be_run_is_not_held() {
    let etcd = Etcd::newest();
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("program");
    // It passes the check before the election: only the system finds that there is no interpreter.
    fs::write(&program, "#!/nowhere/interpreter\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = json("holds", &etcd.endpoint());
    command.args(["--hold", "1h", "--"]).arg(&program);
    let run = run(command);
    assert_eq!(run.code, 127);
    assert!(says(&run, "cannot run '"), "{:?}", run.err);
    assert!(etcd.leases().is_empty());
}

#[test]
fn a_hold_ends_with_its_term() {
    let etcd = Etcd::newest();
    let mut holds = spawn("holds", &etcd.endpoint(), &["--hold", "1h"], "exit 6");
    holds.wait_for_next_start("Continuing to lead");
    etcd.etcdctl(&["del", "leader"]);
    assert_eq!(exit_code(&mut holds), 6);
    holds.wait_for_any_start(LOST);
}

#[test]
fn of_five_replicas_that_do_not_wait_exactly_one_runs_its_command_in_each_round() {
    let etcd = Etcd::newest();
    let endpoint = etcd.endpoint();
    let folder = tempfile::tempdir().unwrap();
    let ran = folder.path().join("ran");
    let rounds = if is_long_run() { 1000 } else { 50 };
    for round in 1..=rounds {
        let script = format!("echo $LEADER_ELECTION_NAME >>'{}'", ran.display());
        let mut replicas: Vec<_> = (1..=5)
            .map(|number| {
                let name = format!("job{number}");
                let mut command = plain(&name, &endpoint);
                command.args(["--wait", "0s", "--hold", "1h", "--", "sh", "-c", &script]);
                Daemon::spawn(&name, command)
            })
            .collect();
        poll_until("all but one have given up", || {
            let ended = replicas.iter().filter(|replica| replica.has_ended());
            let holds = |replica: &Daemon| {
                replica
                    .lines()
                    .iter()
                    .any(|line| line.text().starts_with("Continuing"))
            };
            (ended.count() == 4 && replicas.iter().any(holds)).then_some(())
        });
        let mut codes = Vec::new();
        for replica in &mut replicas {
            if !replica.has_ended() {
                replica.signal(Signal::TERM);
            }
            codes.push(exit_code(replica));
        }
        codes.sort_unstable();
        assert_eq!(codes, [0, 75, 75, 75, 75]);
        let runs = fs::read_to_string(&ran).unwrap();
        assert_eq!(runs.lines().count(), round, "{runs}");
        assert!(etcd.leases().is_empty());
    }
}
