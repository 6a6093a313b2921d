//! `GET /events`: what a replica and an observer send as it happens, and that no reader delays anything.

use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;
use support::TTL;
use support::daemon::{Daemon, LEADER, LOST, REFRESHED, after};
use support::etcd::{Etcd, binaries, on_each_etcd};
use support::events::{Events, ask_for_events};
use support::history::terms;
use support::http::{get, get_json, read_response, request, wait_for_code};
use support::operator::{at, objects_about_leaders, wait_for_next_name, wait_for_next_state};
use support::quick::{SECOND, candidate};
use support::served::{address, pair, served};

#[test]
fn a_follower_sends_each_change_through_a_fail_over() {
    on_each_etcd(|etcd| {
        let [(mut leader, leads), (_follower, follows)] = pair(&etcd);
        let (mut of_leader, first) = Events::open(&leads);
        assert_eq!(
            [&first["role"], &first["state"], &first["observes"]],
            [&json!("leader"), &json!("led"), &json!(false)]
        );
        let renewal = of_leader.wait_for_next("renewal", |_| true);
        let remaining = renewal["remaining"].as_f64().unwrap();
        assert!(remaining > 0.0 && remaining <= renewal["renewed_for"].as_f64().unwrap());
        assert_eq!(renewal["known_for"], Value::Null);

        let (mut events, first) = Events::open(&follows);
        let status = get_json(&follows, "/status");
        for (field, value) in status.as_object().unwrap() {
            let changes = ["age", "known_for", "terms", "candidates"].contains(&field.as_str());
            assert!(
                changes || first[field] == *value,
                "{field}: {first}, {status}"
            );
        }
        events.wait_for_next("renewal", |renewal| {
            renewal["known_for"]
                .as_f64()
                .is_some_and(|known| known > 0.0)
        });
        leader.crash();
        // If several changes come at once, only the last one is sent.
        let mut next = events.wait_for_next("situation", |_| true);
        if next["state"] == "vacant" {
            assert_eq!(
                [&next["leader"], &next["text"]],
                [&Value::Null, &json!("Nobody leads.")]
            );
            next = events.wait_for_next("situation", |_| true);
        }
        assert_eq!(
            [&next["state"], &next["leader"]["name"]],
            ["led", "follows"]
        );
        let role = events.wait_for_next("role", |_| true);
        assert_eq!(
            [&role["role"], &role["token"]],
            [&json!("leader"), &next["leader"]["token"]]
        );
        assert!(role["remaining"].as_f64().unwrap() > 0.0, "{role}");
        let recorded = events.wait_for_next("terms", |event| {
            let last = event["terms"].as_array().and_then(|terms| terms.last());
            last.is_some_and(|last| last["name"] == "follows" && last["gap"].is_number())
        });
        let recorded = recorded["terms"]
            .as_array()
            .unwrap()
            .last()
            .unwrap()
            .clone();
        assert_eq!(recorded["gap"], terms(&etcd).last().unwrap()["gap"]);

        // One that comes later is sent what was said.
        let (_, first) = Events::open(&follows);
        let said: Vec<_> = first["changes"].as_array().unwrap().iter().collect();
        assert!(
            said.iter().any(|change| change["text"] == next["text"]),
            "{said:?}"
        );
    });
}

#[test]
fn a_follower_says_when_etcd_does_not_answer_and_when_it_does_again() {
    let etcd = Etcd::newest();
    let [_leader, (_follower, follows)] = pair(&etcd);
    let (mut events, _) = Events::open(&follows);
    etcd.freeze();
    let silent = events.wait_for_next("role", |role| role["etcd_answers"] == false);
    assert_eq!(silent["text"], "etcd does not respond.");
    let unknown = match silent["state"] {
        Value::Null => silent,
        _ => events.wait_for_next("role", |role| role["state"].is_null()),
    };
    let reason = "etcd has not responded for longer than the TTL";
    assert_eq!(unknown["leader_unknown_because"], reason);
    etcd.thaw();
    let known = events.wait_for_next("role", |role| role["etcd_answers"] == true);
    let sentence = format!("etcd at '{}' responds again.", etcd.endpoint());
    assert_eq!(known["text"], sentence);
}

#[test]
fn a_challenge_is_sent_and_whether_the_leader_responds() {
    let etcd = Etcd::newest();
    let endpoint = etcd.endpoint();
    // Nobody listens there, so that the follower suspects the leader at once.
    let nobody = format!("http://{}", address());
    let mut quick = candidate("server1", &endpoint, SECOND);
    quick.args(["--advertise", &nobody]);
    let mut leader = Daemon::spawn("server1", quick);
    leader.wait_for_next(LEADER);
    let address = address();
    let mut quick = candidate("server2", &endpoint, SECOND);
    quick.args(["--http", &address]);
    let _follower = Daemon::spawn("server2", quick);
    wait_for_code(&address, "/follower", 200);
    let (mut events, first) = Events::open(&address);
    assert_eq!(first["leader"]["fail_over"], json!(1.0));
    let answer = events.wait_for_next("challenge", |event| event["answered"] == true);
    assert_eq!(answer["text"], "The leader has responded to the challenge.");
    leader.crash();
    let mut challenge = events.wait_for_next("challenge", |_| true);
    while challenge["answered"] == true {
        challenge = events.wait_for_next("challenge", |_| true);
    }
    assert_eq!(challenge["text"], "This replica challenges the leader.");
    let next = events.wait_for_next("situation", |event| event["state"] == "led");
    assert_eq!(
        [&next["leader"]["name"], &next["leader"]["took_over"]],
        [&json!("server2"), &json!(true)]
    );
}

#[test]
fn an_observer_serves_what_it_can_know() {
    on_each_etcd(|etcd| {
        let address = address();
        let endpoint = etcd.endpoint();
        let mut observer =
            Daemon::spawn("observer", at(&endpoint, &["observe", "--http", &address]));
        wait_for_code(&address, "/status", 200);
        let (mut events, first) = Events::open(&address);
        assert_eq!(
            [&first["observes"], &first["name"], &first["role"]],
            [&json!(true), &Value::Null, &Value::Null]
        );
        let [(mut leader, _), (_follower, _)] = pair(&etcd);
        let led = events.wait_for_next("situation", |event| event["state"] == "led");
        assert_eq!(led["leader"]["name"], "leads");
        events.wait_for_next("candidates", |event| {
            event["candidates"]
                .as_array()
                .is_some_and(|all| all.len() == 2)
        });
        events.wait_for_next("renewal", |event| {
            let known = event["known_for"].as_f64();
            known.is_some_and(|known| known > 0.0 && known <= TTL.as_secs_f64())
        });
        leader.signal(Signal::TERM);
        leader.wait_exit();
        events.wait_for_next("terms", |event| {
            let terms = event["terms"].as_array().unwrap();
            terms.len() == 2 && terms[0]["ended"].is_string() && terms[1]["gap"].is_number()
        });
        let status = get_json(&address, "/status");
        assert_eq!(
            [&status["leader"]["name"], &status["state"]],
            ["follows", "led"]
        );
        let metrics = get(&address, "/metrics").body;
        for line in ["led 1", "candidates 1", "etcd_up 1"] {
            assert!(
                metrics.contains(&format!("\nleader_election_{line}\n")),
                "{metrics}"
            );
        }
        for path in ["/leader", "/live", "/presence"] {
            assert_eq!(get(&address, path).code, 404, "{path}");
        }
        etcd.freeze();
        let silent = events.wait_for_next("role", |role| role["etcd_answers"] == false);
        assert_eq!(silent["state"], Value::Null, "{silent}");
        etcd.thaw();
        events.wait_for_next("role", |role| role["state"] == "led");
        observer.signal(Signal::TERM);
        assert!(observer.wait_exit().success());
    });
}

#[test]
fn an_observer_sends_each_situation_that_it_prints_even_if_many_come_at_once() {
    let etcd = Etcd::newest();
    let address = address();
    let arguments = ["observe", "--json", "--http", &address];
    let mut observer = Daemon::spawn("observer", at(&etcd.endpoint(), &arguments));
    wait_for_next_state(&mut observer, "vacant");
    let (mut events, first) = Events::open(&address);
    assert_eq!(first["state"], "vacant");
    observer.signal(Signal::STOP);
    let lease = etcd.grant(Duration::from_mins(10));
    for name in ["a", "b", "c", "d"] {
        etcd.put("leader", name.as_bytes(), Some(&lease));
        etcd.etcdctl(&["del", "leader"]);
    }
    etcd.put("leader", b"last", Some(&lease));
    observer.signal(Signal::CONT);
    wait_for_next_name(&mut observer, "last");
    let essence =
        |it: &Value| [&it["revision"], &it["state"], &it["leader"]["name"]].map(Value::clone);
    let printed = objects_about_leaders(&observer);
    let printed: Vec<_> = printed.iter().skip(1).map(essence).collect();
    assert_eq!(printed.len(), 9, "{printed:?}");
    for expected in printed {
        let sent = events.wait_for_next("situation", |_| true);
        assert_eq!(essence(&sent), expected);
    }
}

#[test]
fn an_observer_without_a_free_address_or_with_a_command_is_refused() {
    let etcd = Etcd::absent(binaries().last().unwrap());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let endpoint = etcd.endpoint();
    for (arguments, code, expected) in [
        (
            vec!["observe", "--http", &taken],
            1,
            "could not listen for HTTP at",
        ),
        (
            vec!["observe", "--http", &taken, "--", "true"],
            2,
            "'-- COMMAND'",
        ),
    ] {
        let run = support::operator::run(at(&endpoint, &arguments));
        assert_eq!(run.code, code, "{:?}", run.err);
        assert!(run.err.join(" ").contains(expected), "{:?}", run.err);
    }
}

/// Returns the memory that a process occupies, in kB.
fn memory(replica: &Daemon) -> u64 {
    let path = format!("/proc/{}/status", replica.pid().as_raw_nonzero());
    let status = fs::read_to_string(path).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn readers_that_do_not_read_delay_nothing_cost_little_and_give_way() {
    const PLACES: usize = 32;
    let etcd = Etcd::newest();
    let address = address();
    let mut replica = Daemon::spawn("one", served("one", &etcd.endpoint(), &address));
    replica.wait_for_next(LEADER);
    let (mut first, _) = Events::open(&address);
    let before = memory(&replica);
    let others: Vec<_> = (1..PLACES).map(|_| ask_for_events(&address)).collect();
    // Each was served once the last one is: one after the other was accepted.
    let (_last, _) = Events::open(&address);
    let gave_way = first.wait_for_next("gave_way", |_| true);
    assert_eq!(gave_way["text"], "This connection gave way to a newer one.");
    assert_eq!(first.next_if_any(), None);
    let each = memory(&replica).saturating_sub(before) / u64::try_from(PLACES).unwrap();
    assert!(each <= 64, "{each} kB each");
    replica.skip();
    for _ in 0..3 {
        replica.wait_for_next_start(REFRESHED);
        assert_eq!(get(&address, "/leader").code, 200);
    }
    assert!(!replica.has_said(LOST));
    for method in ["HEAD", "OPTIONS"] {
        let response = request(&address, method, "/events");
        assert_eq!((response.code, response.body.as_str()), (200, ""));
    }
    // The oldest of those that do not read gives way too, and is cut off.
    let (_newest, _) = Events::open(&address);
    let mut others = others.into_iter();
    let response = read_response(others.next().unwrap());
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(response.contains("\"event\":\"gave_way\""), "{response}");
}

#[test]
fn readers_that_do_not_read_leave_descriptors_for_the_election() {
    const ALLOWED: usize = 64;
    let etcd = Etcd::newest();
    let address = address();
    let limited = after(
        &format!("ulimit -n {ALLOWED}"),
        &served("one", &etcd.endpoint(), &address),
    );
    let mut replica = Daemon::spawn("one", limited);
    replica.wait_for_next(LEADER);
    let descriptors = format!("/proc/{}/fd", replica.pid().as_raw_nonzero());
    let mut most = 0;
    let mut readers = Vec::new();
    for _ in 0..2 * ALLOWED {
        readers.push(ask_for_events(&address));
        most = most.max(fs::read_dir(&descriptors).unwrap().count());
    }
    // Half of them are for readers, followers and the rest of HTTP.
    assert!(most < ALLOWED * 3 / 4, "{most}");
    replica.skip();
    for _ in 0..3 {
        replica.wait_for_next_start(REFRESHED);
    }
    assert!(!replica.has_said(LOST));
}

#[test]
fn a_comment_comes_whenever_nothing_has_come_for_a_second() {
    let etcd = Etcd::absent(binaries().last().unwrap());
    let address = address();
    let _replica = Daemon::spawn("one", served("one", &etcd.endpoint(), &address));
    wait_for_code(&address, "/live", 200);
    let (mut events, first) = Events::open(&address);
    assert_eq!(
        first["leader_unknown_because"],
        "etcd has not responded yet"
    );
    for _ in 0..2 {
        let begin = std::time::Instant::now();
        let line = events.next_line().unwrap();
        assert!(line.starts_with(':'), "{line}");
        assert!(
            begin.elapsed() < Duration::from_secs(3),
            "{:?}",
            begin.elapsed()
        );
    }
}
