//! What `step-down` does, and how the end of a term is reported.
mod support;

use rustix::process::Signal;
use std::time::Duration;
use support::daemon::{Daemon, FOLLOWER, LEADER, LOST, json, wait_for_leader, wait_for_next_roles};
use support::etcd::{Etcd, on_each_etcd};
use support::free_port;
use support::http::get_json;
use support::operator::{at, run};

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
    for (change, logged, told) in [
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
        assert_eq!(lost.unwrap()["reason"], told, "{status}");
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
