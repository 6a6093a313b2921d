//! What `step-down` does, and how the end of a term is reported.

use rustix::process::Signal;
use serde_json::Value;
use std::time::Duration;
use support::daemon::{Daemon, FOLLOWER, LEADER, LOST, json, wait_for_leader, wait_for_next_roles};
use support::etcd::{Etcd, binaries, on_each_etcd};
use support::etcdctl::LITTLE_ROOM;
use support::http::get_json;
use support::operator::{at, object, run};
use support::proxy::{Link, Proxy};
use support::refusals::{DENIED, OVERLOADED, Refusing};
use support::{PATIENCE, free_port, wait_until};

#[test]
fn step_down_hands_over_to_somebody_else_without_an_overlap() {
    on_each_etcd(|etcd| {
        let endpoint = etcd.endpoint();
        let mut replicas = Daemon::candidates(&etcd, 3);
        for _ in 0..3 {
            let old = wait_for_next_roles(&mut replicas);
            let name = replicas[old].name.clone();
            let run = run(at(&endpoint, &["step-down", "--if-leader", &name]));
            assert_eq!(run.code, 0, "{:?}", run.err);
            assert!(run.out[0].starts_with(&format!("'{name}' is asked to step down, token ")));
            let lost = replicas[old].wait_for_next_start(LOST).message();
            assert!(lost.contains("was deleted"), "{lost}");
            let new = wait_for_leader(&replicas);
            assert_ne!(new, old);
            let expected = format!("'{}' leads, token ", replicas[new].name);
            assert!(run.out[1].starts_with(&expected), "{:?}", run.out);
            for replica in &mut replicas {
                replica.skip();
            }
            // Each replica knows its role before the next round.
            replicas[new].wait_for_next_refreshes(1);
            replicas[new].signal(Signal::TERM);
            replicas[new].wait_exit();
            let name = replicas[new].name.clone();
            replicas[new] = Daemon::spawn(&name, json(&name, &endpoint));
        }
    });
}

#[test]
fn step_down_of_the_only_candidate_prints_that_it_leads_again() {
    let etcd = Etcd::newest();
    let mut only = Daemon::spawn("only", json("only", &etcd.endpoint()));
    let lease = only.wait_for_next(LEADER).field("lease").unwrap();
    let run = run(at(&etcd.endpoint(), &["step-down"]));
    assert_eq!(run.code, 0, "{:?}", run.err);
    assert!(
        run.out[1].starts_with("'only' leads, token "),
        "{:?}",
        run.out
    );
    assert!(
        !run.out[1].contains(&lease),
        "in a term of its own: {:?}",
        run.out
    );
    let reason = only.wait_for_next_start(LOST).message();
    assert!(reason.contains("was deleted"), "{reason}");
}

#[test]
fn the_log_and_the_status_name_the_key_that_ended_a_term() {
    let etcd = Etcd::newest();
    let address = format!("127.0.0.1:{}", free_port());
    let mut command = json("server1", &etcd.endpoint());
    command.args(["--leader-key", "other/key", "--http", &address]);
    let mut leader = Daemon::spawn("server1", command);
    for (change, logged, reason) in [
        (
            &["del", "other/key"][..],
            "the key 'other/key' was deleted",
            "the other/key key was deleted",
        ),
        (
            &["del", "other/key/acting"],
            "the key 'other/key/acting' was deleted or overwritten",
            "the other/key/acting key was deleted or overwritten",
        ),
    ] {
        leader.wait_for_next(LEADER);
        etcd.etcdctl(change);
        let lost = leader.wait_for_next_start(LOST);
        assert_eq!(lost.message(), format!("{LOST}{logged}."));
        let status = get_json(&address, "/status");
        let transitions = status["transitions"].as_array().unwrap();
        let lost = transitions.iter().rfind(|it| it["role"] == "stopping");
        assert_eq!(lost.unwrap()["reason"], reason, "{status}");
    }
}

#[test]
fn step_down_does_nothing_if_nobody_or_somebody_else_leads() {
    let etcd = Etcd::newest();
    let before = etcd.revision();
    let nobody = run(at(&etcd.endpoint(), &["step-down"]));
    assert_eq!(
        (nobody.code, nobody.out),
        (3, vec!["Nobody leads.".to_owned()])
    );
    assert_eq!(etcd.revision(), before);

    let mut leader = Daemon::spawn("server1", json("server1", &etcd.endpoint()));
    leader.wait_for_next(LEADER);
    let before = etcd.key("leader");
    let other = run(at(
        &etcd.endpoint(),
        &["step-down", "--if-leader", "server2"],
    ));
    assert_eq!(other.code, 1);
    assert_eq!(
        other.err,
        ["error: 'server1' leads, not 'server2'; nothing was done"]
    );
    leader.wait_for_next_refreshes(2);
    assert_eq!(etcd.key("leader"), before);
}

#[test]
fn step_down_prints_the_state_if_nobody_takes_over_in_time() {
    let etcd = Etcd::newest();
    let arguments = ["--name", "server1", "--ttl", "60s", "--log-format", "json"];
    let mut leader = Daemon::spawn("server1", at(&etcd.endpoint(), &arguments));
    let lease = leader.wait_for_next(LEADER).field("lease").unwrap();
    // It cannot stop acting and its lease has not expired, so nobody else may act.
    leader.signal(Signal::STOP);
    let mut heir = Daemon::spawn("heir", json("heir", &etcd.endpoint()));
    heir.wait_for_next(FOLLOWER);
    let run = run(at(&etcd.endpoint(), &["step-down", "--timeout", "1s"]));
    assert_eq!(run.code, 1);
    assert!(run.took < Duration::from_secs(5), "{:?}", run.took);
    let said = run.err.concat();
    let expected =
        "nobody else began to lead within 1s: Nobody leads; 'server1' may still be acting";
    assert!(
        said.contains(expected) && said.contains("at the latest"),
        "{said}"
    );
    assert_eq!(
        etcd.key("leader/acting").unwrap().lease,
        Some(lease),
        "never the lease"
    );
    assert!(!heir.leads());
    leader.signal(Signal::CONT);
    heir.wait_for_next(LEADER);
}

#[test]
fn step_down_waits_through_an_overload_until_somebody_leads() {
    for status in [OVERLOADED, DENIED] {
        let etcd = Etcd::newest();
        let arguments = ["--name", "server1", "--ttl", "60s", "--log-format", "json"];
        let mut leader = Daemon::spawn("server1", at(&etcd.endpoint(), &arguments));
        leader.wait_for_next(LEADER);
        // Nobody else may act until it goes on.
        leader.signal(Signal::STOP);
        let mut heir = Daemon::spawn("heir", json("heir", &etcd.endpoint()));
        heir.wait_for_next(FOLLOWER);
        let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
        let refusing = Refusing::anywhere(status);
        let endpoints = format!("{},{}", refusing.endpoint(), proxy.endpoint());
        let command = at(&endpoints, &["step-down", "--timeout", "60s"]);
        let mut stepping = Daemon::spawn("step-down", command);
        stepping.wait_for_next_line("the request", |line| {
            line.text().starts_with("'server1' is asked to step down")
        });
        // It watches by way of the proxy, after it was refused once more.
        let before = refusing.requests();
        proxy.set(Link::Cut);
        wait_until("it is refused while it waits", PATIENCE, || {
            (refusing.requests() >= before + 3).then_some(())
        });
        proxy.set(Link::Open);
        leader.signal(Signal::CONT);
        stepping.wait_for_next_line("who leads", |line| line.text().starts_with("'heir' leads"));
        assert_eq!(stepping.wait_exit().code(), Some(0));
    }
}

#[test]
fn step_down_ends_at_once_if_it_may_not_know_any_more_who_leads() {
    for binary in binaries() {
        let quick = ["--bcrypt-cost", "4"].map(str::to_owned);
        let mut etcd = Etcd::start_with(&binary, &quick, &[]);
        let lease = etcd.grant(Duration::from_mins(10));
        etcd.put("leader", b"somebody", Some(&lease));
        etcd.put("leader/acting", b"somebody", Some(&lease));
        for arguments in [
            &["user", "add", "root:of all evil"][..],
            &["user", "grant-role", "root", "root"],
            &["role", "add", "r"],
            &["role", "grant-permission", "r", "readwrite", "leader"],
            &["role", "grant-permission", "r", "read", "leader/acting"],
            &["user", "add", "operator:sesame"],
            &["user", "grant-role", "operator", "r"],
            &["auth", "enable"],
        ] {
            etcd.etcdctl(arguments);
        }
        etcd.set_etcdctl_options(&["--user", "root:of all evil"]);
        let arguments = ["step-down", "--timeout", "5m", "--etcd-user", "operator"];
        let mut command = at(&etcd.endpoint(), &arguments);
        command.env("LEADER_ELECTION_ETCD_PASSWORD", "sesame");
        let mut stepping = Daemon::spawn("step-down", command);
        stepping.wait_for_next_line("the request", |line| {
            line.text().starts_with("'somebody' is asked to step down")
        });
        etcd.etcdctl(&["role", "revoke-permission", "r", "leader/acting"]);
        assert_eq!(stepping.wait_exit().code(), Some(1));
        let expected = format!(
            "error: it is not known who leads next: etcd at '{}' refuses (etcdserver: permission \
             denied)",
            etcd.endpoint()
        );
        assert_eq!(stepping.lines().last().unwrap().text(), expected);
    }
}

#[test]
fn step_down_changes_nothing_while_the_database_is_full_unless_it_is_forced() {
    for binary in binaries() {
        let room = LITTLE_ROOM.map(str::to_owned);
        let etcd = Etcd::start_with(&binary, &room, &[]);
        let mut leader = Daemon::spawn("server1", json("server1", &etcd.endpoint()));
        leader.wait_for_next(LEADER);
        let mut follower = Daemon::spawn("server2", json("server2", &etcd.endpoint()));
        follower.wait_for_next(FOLLOWER);
        let no_alarm = run(at(&etcd.endpoint(), &["status", "--json"]));
        assert_eq!(object(&no_alarm.out[0])["alarms"], Value::Array(Vec::new()));

        etcd.fill();
        let full = "etcd's database is full (alarm NOSPACE), so that nobody can be elected";
        let before = etcd.key("leader");
        let refused = run(at(&etcd.endpoint(), &["step-down"]));
        assert_eq!(refused.code, 1);
        assert!(refused.out.is_empty(), "{:?}", refused.out);
        let expected = format!(
            "error: {full}; nothing was done, and 'server1' continues to lead; --force ends its term anyway"
        );
        assert_eq!(refused.err, [expected]);
        assert_eq!(etcd.key("leader"), before);
        leader.wait_for_next_refreshes(2);

        let led = run(at(&etcd.endpoint(), &["status"]));
        assert_eq!(led.code, 0);
        assert_eq!(led.out.last().unwrap(), &format!("Warning: {full}."));
        let alarms = run(at(&etcd.endpoint(), &["status", "--json"]));
        assert_eq!(
            object(&alarms.out[0])["alarms"],
            serde_json::json!(["NOSPACE"])
        );

        let arguments = ["step-down", "--force", "--timeout", "2s"];
        let forced = run(at(&etcd.endpoint(), &arguments));
        assert_eq!(forced.code, 1);
        assert!(
            forced.out[0].starts_with("'server1' is asked to step down"),
            "{:?}",
            forced.out
        );
        let expected =
            format!("nobody else began to lead within 2s: Nobody leads. Warning: {full}.");
        assert!(forced.err[0].contains(&expected), "{:?}", forced.err);
        let vacant = run(at(&etcd.endpoint(), &["status"]));
        assert_eq!((vacant.code, &*vacant.out[0]), (3, "Nobody leads."));
        // The candidates are listed in between.
        assert_eq!(vacant.out.last().unwrap(), &format!("Warning: {full}."));
    }
}
