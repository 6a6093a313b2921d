//! `--http`: what a replica reports about itself and the election.

use rustix::process::Signal;
use serde_json::Value;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};
use support::daemon::{Daemon, FOLLOWER, LEADER, LOST, REFRESHED};
use support::etcd::{Etcd, binaries, on_each_etcd};
use support::http::{get, get_json, read_code, wait_for_code};
use support::proxy::refusing;
use support::served::{address, codes, pair, served};
use support::{TTL, poll_until};

#[test]
fn the_conditions_follow_the_roles_through_a_fail_over() {
    on_each_etcd(|etcd| {
        let [(mut leader, leads), (mut follower, follows)] = pair(&etcd);
        assert_eq!(codes(&leads), [200, 503, 200, 200]);
        assert_eq!(codes(&follows), [503, 200, 200, 200]);
        leader.crash();
        follower.wait_for_next(LEADER);
        assert_eq!(codes(&follows), [200, 503, 200, 200]);
        follower.signal(Signal::TERM);
        follower.wait_exit();
        assert!(TcpStream::connect(&follows).is_err());
    });
}

#[test]
fn without_etcd_a_replica_is_alive_and_not_ready() {
    let mut etcd = Etcd::absent(binaries().last().unwrap());
    let address = address();
    let mut replica = Daemon::spawn("one", served("one", &etcd.endpoint(), &address));
    wait_for_code(&address, "/live", 200);
    assert_eq!(codes(&address), [503, 503, 200, 503]);
    let status = get_json(&address, "/status");
    assert_eq!(
        (&status["age"], &status["leader"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(
        status["leader_unknown_because"],
        "etcd has not responded yet"
    );
    assert_eq!(status["candidates"], Value::Null);
    let metrics = get(&address, "/metrics").body;
    assert!(!metrics.contains("leader_election_candidates"), "{metrics}");
    etcd.up();
    replica.wait_for_next(LEADER);
    assert_eq!(codes(&address), [200, 503, 200, 200]);
    etcd.kill();
    wait_for_code(&address, "/ready", 503);
    replica.wait_for_next_start(LOST);
    assert_eq!(codes(&address), [503, 503, 200, 503]);
    etcd.up();
    wait_for_code(&address, "/ready", 200);
}

#[test]
fn a_replica_that_is_cut_off_names_no_leader_once_its_knowledge_is_a_ttl_old() {
    on_each_etcd(|mut etcd| {
        let [(_leader, _), (_follower, follows)] = pair(&etcd);
        let fresh = get_json(&follows, "/status");
        assert_eq!(fresh["leader"]["name"], "leads");
        assert_eq!(fresh["leader_unknown_because"], Value::Null);
        etcd.freeze();
        let stale = poll_until("the leader is unknown", || {
            // Time passes between two requests, so only the first can be checked by the second.
            let follower = get(&follows, "/follower").code;
            let status = get_json(&follows, "/status");
            let is_fresh = !status["leader"].is_null();
            // It is rounded to the millisecond.
            let older = status["age"].as_f64().unwrap() - TTL.as_secs_f64();
            assert!(
                if is_fresh {
                    older <= 0.001
                } else {
                    older >= -0.001
                },
                "{status}"
            );
            assert_eq!(
                status["leader_unknown_because"].is_null(),
                is_fresh,
                "{status}"
            );
            assert!(is_fresh || status["etcd_answers"] == false, "{status}");
            assert!(
                !(is_fresh && status["etcd_answers"] == true) || follower == 200,
                "{status}"
            );
            (!is_fresh).then_some(status)
        });
        let expected = "etcd has not responded for longer than the TTL";
        assert_eq!(stale["leader_unknown_because"], expected);
        assert_eq!(codes(&follows), [503, 503, 200, 503]);
        let metrics = get(&follows, "/metrics").body;
        assert!(
            metrics.contains("\nleader_election_etcd_up 0\n"),
            "{metrics}"
        );
        etcd.thaw();
        let known = poll_until("a leader is known", || {
            let status = get_json(&follows, "/status");
            (!status["leader"].is_null()).then_some(status)
        });
        assert_eq!(known["leader_unknown_because"], Value::Null);
        assert!(
            known["age"].as_f64().unwrap() < TTL.as_secs_f64(),
            "{known}"
        );

        // Nobody leads, and that is known.
        etcd.put("leader", b"by hand", None);
        poll_until("nobody leads", || {
            let status = get_json(&follows, "/status");
            let is_it = status["leader"].is_null() && status["leader_unknown_because"].is_null();
            is_it.then_some(())
        });
        etcd.kill();
    });
}

#[test]
fn a_leader_without_etcd_is_none_by_its_deadline() {
    on_each_etcd(|etcd| {
        let address = address();
        let mut replica = Daemon::spawn("one", served("one", &etcd.endpoint(), &address));
        replica.wait_for_next(LEADER);
        replica.wait_for_next_refreshes(1);
        etcd.freeze();
        let mut last = Instant::now();
        loop {
            let sent = Instant::now();
            if get(&address, "/leader").code != 200 {
                break;
            }
            last = sent;
        }
        let renewed = replica.last(REFRESHED).at;
        let after = last.saturating_duration_since(renewed);
        assert!(
            after < TTL * 9 / 10,
            "it led {after:?} after its last renewal"
        );
        etcd.thaw();
    });
}

#[test]
fn a_leader_that_was_stopped_for_long_does_not_claim_to_lead() {
    let etcd = Etcd::newest();
    for _ in 0..3 {
        let [(mut leader, leads), (mut follower, _)] = pair(&etcd);
        leader.signal(Signal::STOP);
        // The kernel accepts the connections and keeps the requests.
        let requests = [(); 20].map(|()| {
            let mut stream = TcpStream::connect(&leads).unwrap();
            stream
                .write_all(b"GET /leader HTTP/1.1\r\nHost: test\r\n\r\n")
                .unwrap();
            stream
        });
        follower.wait_for_next(LEADER);
        leader.signal(Signal::CONT);
        for request in requests {
            assert_eq!(read_code(request), Some(503));
        }
        leader.wait_for_next(FOLLOWER);
    }
}

#[test]
fn the_status_has_the_role_the_term_the_leader_and_the_transitions() {
    let etcd = Etcd::newest();
    let (leads, follows) = (address(), address());
    let mut command = served("leads", &etcd.endpoint(), &leads);
    command.args(["--advertise", "http://10.0.0.1:80/\"x\""]);
    let mut leader = Daemon::spawn("leads", command);
    leader.wait_for_next(LEADER);
    let bad = refusing();
    let endpoints = format!("{bad},{}", etcd.endpoint());
    let mut follower = Daemon::spawn("follows", served("follows", &endpoints, &follows));
    follower.wait_for_next(FOLLOWER);

    let status = get_json(&leads, "/status");
    let key = etcd.key("leader").unwrap();
    assert_eq!(status["name"], "leads");
    assert_eq!(status["role"], "leader");
    assert_eq!(status["token"], key.mod_revision);
    assert_eq!(status["lease"], key.lease.clone().unwrap());
    assert_eq!(status["ttl"], 2);
    let remaining = status["remaining"].as_f64().unwrap();
    assert!(remaining > 0.0 && remaining <= 1.8, "{remaining}");
    assert_eq!(status["endpoint"], etcd.endpoint());
    assert_eq!(status["leader"]["name"], "leads");
    assert_eq!(status["leader"]["address"], "http://10.0.0.1:80/\"x\"");
    assert_eq!(status["transitions"][0]["role"], "leader");
    assert_eq!(status["since"], status["transitions"][0]["at"]);

    let status = get_json(&follows, "/status");
    assert_eq!(status["role"], "follower");
    assert_eq!(status["endpoint"], etcd.endpoint());
    assert_eq!(status["leader"]["token"], key.mod_revision);
    assert_eq!(status["leader"]["lease"], key.lease.unwrap());
    assert_eq!(
        (&status["token"], &status["remaining"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(status["transitions"][0]["leader"], "leads");

    etcd.etcdctl(&["del", "leader"]);
    follower.wait_for_next(LEADER);
    leader.wait_for_next(FOLLOWER);
    let status = get_json(&leads, "/status");
    let transitions = status["transitions"].as_array().unwrap();
    let lost = transitions
        .iter()
        .find(|it| it["role"] == "stopping")
        .unwrap();
    assert_eq!(lost["reason"], "the leader key was deleted");
    assert_eq!(status["leader"]["name"], "follows");
    assert_eq!(status["leader"]["address"], Value::Null);
    assert_eq!(transitions.last().unwrap()["leader"], "follows");
}

#[test]
fn a_wrapper_does_not_lead_while_its_command_stops() {
    let etcd = Etcd::newest();
    let address = address();
    let mut command = served("one", &etcd.endpoint(), &address);
    command.args([
        "--",
        "sh",
        "-c",
        "trap 'echo stops; read go; exit' TERM; echo runs; while :; do sleep 0.02; done",
    ]);
    command.stdin(std::process::Stdio::piped());
    let mut replica = Daemon::spawn("one", command);
    replica.wait_for_next("runs");
    assert_eq!(codes(&address), [200, 503, 200, 200]);
    replica.signal(Signal::TERM);
    replica.wait_for_next("stops");
    assert_eq!(codes(&address), [503, 503, 200, 200]);
    assert_eq!(get_json(&address, "/status")["role"], "stopping");
    replica.close_stdin();
    replica.wait_exit();
}

#[test]
fn hostile_names_are_escaped_in_json_and_absent_from_metrics() {
    let etcd = Etcd::newest();
    let hostile = "a\"b\\c{d=\"e\"} 1\u{202e}é";
    let address = address();
    let mut replica = Daemon::spawn(hostile, served(hostile, &etcd.endpoint(), &address));
    replica.wait_for_next(LEADER);
    assert_eq!(get_json(&address, "/status")["name"], hostile);
    assert_eq!(get_json(&address, "/status")["leader"]["name"], hostile);
    assert!(!get(&address, "/metrics").body.contains("b\\c"));
    // Other clients can write worse.
    let worse = b"\x1b[2J\n\xff\"";
    let lease = etcd.grant(Duration::from_mins(1));
    etcd.put("leader", worse, Some(&lease));
    poll_until("it follows", || {
        let status = get_json(&address, "/status");
        (status["transitions"].as_array()?.last()?["leader"] == "\u{1b}[2J\n\u{fffd}\"")
            .then_some(())
    });
    let body = get(&address, "/status").body;
    assert!(
        body.trim_end()
            .chars()
            .all(|character| !character.is_control()),
        "{body:?}"
    );
}
