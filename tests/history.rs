//! The history of terms: what is recorded of each, and how `history` and `/status` show it.

use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};
use support::FAIL_OVER;
use support::daemon::{Daemon, FOLLOWER, LEADER, LOST, json as candidate, wait_for_leader};
use support::etcd::{Etcd, on_each_etcd};
use support::history::{history, keys, terms, wait_for_terms};
use support::http::get_json;
use support::operator::{ADDRESS, advertised, at, run};
use support::poll_until;
use support::served::pair;

/// Starts a candidate and waits until it has printed this.
fn start(name: &str, etcd: &Etcd, role: &str) -> Daemon {
    let mut started = Daemon::spawn(name, candidate(name, &etcd.endpoint()));
    started.wait_for_next(role);
    started
}

/// Waits until this leader knows of the other candidate's seat, so that it can hand over.
fn wait_for_successor(etcd: &Etcd, leader: &mut Daemon) {
    poll_until("both have seats", || {
        (etcd.seats().len() == 2).then_some(())
    });
    leader.skip();
    // It learns of them from the response to a try; one may be under way.
    leader.wait_for_next_refreshes(2);
}

#[test]
fn each_term_says_how_it_began_and_ended_and_a_restart_of_everything_keeps_that() {
    on_each_etcd(|mut etcd| {
        let before = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let mut first = Daemon::spawn("server1", advertised("server1", &etcd.endpoint()));
        first.wait_for_next(LEADER);
        let mut second = start("server2", &etcd, FOLLOWER);
        wait_for_successor(&etcd, &mut first);
        first.signal(Signal::TERM);
        // The end of the term is written by then.
        assert!(first.wait_exit().success());
        let [ended, ..] = &terms(&etcd)[..] else {
            panic!("no term")
        };
        let since = ended["since"].as_str().unwrap();
        let until = ended["until"].as_str().unwrap();
        assert!(*before <= *since && since <= until, "{ended}");
        let expected = json!({
            "name": "server1", "token": ended["token"], "address": ADDRESS,
            "since": since, "until": until, "lasted": ended["lasted"],
            // It has not seen a term before.
            "came": "elected", "gap": null,
            "ended": "asked to stop", "ended_as": "withdrawn", "state": "ended",
        });
        assert_eq!(*ended, expected);
        assert!(ended["lasted"].as_u64() <= Some(60), "{ended}");

        second.wait_for_next(LEADER);
        let mut third = start("server3", &etcd, FOLLOWER);
        let leads = &wait_for_terms(&etcd, 2, "state", "leads")[1];
        assert_eq!(
            (&leads["name"], &leads["ended"]),
            (&"server2".into(), &Value::Null)
        );
        assert!(leads["gap"].as_f64().unwrap() < 2.0, "{leads}");
        assert!(leads["lasted"].as_u64() <= Some(60), "{leads}");
        assert!(leads["lasted"].is_u64(), "{leads}");
        wait_for_successor(&etcd, &mut second);
        assert_eq!(run(at(&etcd.endpoint(), &["step-down"])).code, 0);
        third.wait_for_next(LEADER);
        let of_second = |terms: &[Value]| {
            let second = &terms[1];
            (second["ended_as"] == "leader_key_deleted").then(|| second.clone())
        };
        let ended = poll_until("the end is recorded", || of_second(&terms(&etcd)));
        assert_eq!(ended["ended"], "the leader key was deleted");
        assert_eq!(ended["state"], "ended");
        assert_eq!(ended["came"], "handed_over");

        wait_for_terms(&etcd, 3, "state", "leads");
        third.crash();
        second.wait_for_next(LEADER);
        let after_crash = wait_for_terms(&etcd, 4, "state", "leads");
        let crashed = &after_crash[2];
        assert_eq!(crashed["name"], "server3");
        for unknown in ["until", "ended", "ended_as", "lasted"] {
            assert_eq!(crashed[unknown], Value::Null, "{crashed}");
        }
        assert_eq!(crashed["state"], "cut_off");
        let came = after_crash.iter().map(|term| &term["came"]);
        assert!(
            came.eq(["elected", "handed_over", "handed_over", "elected"]),
            "{after_crash:?}"
        );
        let gap = after_crash[3]["gap"].as_f64().unwrap();
        assert!(gap < FAIL_OVER.as_secs_f64(), "{gap}");
        let text = history(&etcd, &[]);
        assert_eq!((text.code, text.out.len()), (0, 5), "{:?}", text.out);
        assert!(text.out[0].starts_with("TOKEN  NAME       SINCE"));
        let ends = [
            "asked to stop",
            "the leader key was deleted",
            "no end was recorded: the holder crashed or was cut off, or etcd refused the record",
            "leads",
        ];
        for (line, end) in text.out[1..].iter().zip(ends) {
            assert!(line.ends_with(end), "{line}");
        }

        second.crash();
        etcd.kill();
        etcd.up();
        // etcd keeps the leases through a restart, and with it the keys of the last leader.
        let kept = wait_for_terms(&etcd, 4, "state", "cut_off");
        assert_eq!(kept[..3], after_crash[..3]);
        let mut next = start("server4", &etcd, LEADER);
        let terms = wait_for_terms(&etcd, 5, "state", "leads");
        assert_eq!(terms[..4], kept);
        next.signal(Signal::TERM);
        assert!(next.wait_exit().success());
    });
}

#[test]
fn the_newest_32_terms_are_kept_with_two_writes_each_and_other_keys_are_spared() {
    on_each_etcd(|etcd| {
        let others = [
            "",
            "7",
            "00000000000000000000x",
            "x",
            "+0000000000000000001",
        ]
        .map(|other| format!("leader/history/{other}"));
        for other in &others {
            etcd.put(other, b"by hand", None);
        }
        let mut replicas = Daemon::candidates(&etcd, 3);
        let mut tokens = Vec::new();
        for count in 1..=35 {
            let leader = wait_for_leader(&replicas);
            let terms = wait_for_terms(&etcd, count.min(32), "state", "leads");
            tokens.push(terms.last().unwrap()["token"].as_u64().unwrap());
            if count < 35 {
                replicas[leader].skip();
                etcd.etcdctl(&["del", "leader"]);
                replicas[leader].wait_for_next_start(LOST);
            }
        }
        let mut last = replicas.remove(wait_for_leader(&replicas));
        // Each end is written while the next leader begins.
        poll_until("the other terms have ended", || {
            let ended = |term: &Value| term["state"] == "ended";
            terms(&etcd)[..31].iter().all(ended).then_some(())
        });
        drop(replicas);
        last.signal(Signal::TERM);
        assert!(last.wait_exit().success());

        let terms = terms(&etcd);
        let kept = terms.iter().map(|term| term["token"].as_u64().unwrap());
        assert!(kept.eq(tokens[3..].iter().copied()), "{terms:?}");
        let keys = keys(&etcd);
        for other in &others {
            assert!(keys.contains(other), "{other} of {keys:?}");
        }
        for term in &terms {
            assert_eq!(term["state"], "ended");
            let key = format!("leader/history/{:020}", term["token"].as_u64().unwrap());
            let fields = etcd.etcdctl(&["get", &key, "-w", "fields"]);
            assert!(fields.contains("\"Version\" : 2\n"), "{fields}");
        }
    });
}

#[test]
fn nothing_recorded_ends_with_3_and_what_is_recorded_is_shown_as_far_as_it_can_be_read() {
    on_each_etcd(|etcd| {
        for other in ["leader/history", "leader/history/x", "other/history/1"] {
            etcd.put(other, b"{}", None);
        }
        let none = history(&etcd, &[]);
        assert_eq!((none.code, none.err), (3, Vec::new()));
        assert_eq!(none.out, ["No term of the election 'leader' is recorded."]);
        assert_eq!(terms(&etcd), Vec::<Value>::new());

        let hostile = "\u{1b}[2J\u{202e}\u{9b}31m\n'";
        let whole = json!({
            "name": "server1", "since": 1_800_000_000, "until": 1_800_000_079, "came": "taken_over",
            "gap_ms": 2345, "ended": hostile, "ended_as": "later", "limit": [1],
        });
        let values = [
            whole.to_string().into_bytes(),
            b"\xff nonsense".to_vec(),
            json!({ "name": hostile, "since": -1, "came": hostile, "gap_ms": u64::MAX })
                .to_string()
                .into_bytes(),
            json!({ "name": "x".repeat(100_000), "until": 1 })
                .to_string()
                .into_bytes(),
        ];
        for (token, value) in values.iter().enumerate() {
            etcd.put(&format!("leader/history/{token:020}"), value, None);
        }
        let shown = terms(&etcd);
        assert_eq!(
            shown[0],
            json!({
                "name": "server1", "token": 0, "address": null,
                "since": "2027-01-15T08:00:00Z", "until": "2027-01-15T08:01:19Z", "lasted": 79,
                "came": "taken_over", "gap": 2.345, "ended": hostile, "ended_as": "later",
                "state": "ended",
            })
        );
        let states = shown.iter().map(|term| &term["state"]);
        let expected = [
            json!("ended"),
            Value::Null,
            json!("cut_off"),
            json!("ended"),
        ];
        assert!(states.eq(&expected), "{shown:?}");
        assert_eq!(
            (&shown[1]["name"], &shown[1]["token"]),
            (&Value::Null, &json!(1))
        );
        assert_eq!(shown[2]["name"], hostile);
        assert_eq!(shown[3]["name_is_exact"], false);

        let (text, json) = (history(&etcd, &[]), history(&etcd, &["--json"]));
        assert_eq!((text.code, text.out.len()), (0, 5));
        for line in text.out.iter().chain(&json.out) {
            let is_harmful = |character: char| character.is_control() || character == '\u{202e}';
            assert!(!line.contains(is_harmful) && line.len() < 1000, "{line:?}");
        }
        let words: Vec<_> = text.out[1]
            .split("  ")
            .map(str::trim)
            .filter(|it| !it.is_empty())
            .collect();
        assert_eq!(
            words[..7],
            [
                "0",
                "'server1'",
                "2027-01-15T08:00:00Z",
                "2027-01-15T08:01:19Z",
                "1m 19s",
                "taken over",
                "2s 345ms"
            ]
        );
        assert!(
            text.out[2]
                .split_whitespace()
                .eq(["1", "-", "-", "-", "-", "-", "-", "-"])
        );
    });
}

#[test]
fn no_more_than_the_newest_32_terms_are_shown() {
    let etcd = Etcd::newest();
    for token in 0..40 {
        etcd.put(&format!("leader/history/{token:020}"), b"{}", None);
    }
    let terms = terms(&etcd);
    let tokens = terms.iter().map(|term| term["token"].as_u64().unwrap());
    assert!(tokens.eq(8..40), "{terms:?}");
}

#[test]
fn large_values_do_not_keep_a_term_from_being_recorded_or_shown() {
    let etcd = Etcd::newest();
    let megabyte = vec![b'x'; 1_000_000];
    for token in 0..9 {
        etcd.put(&format!("leader/history/{token:020}"), &megabyte, None);
    }
    let _leader = start("server1", &etcd, LEADER);
    poll_until("the newest are shown", || {
        let terms = terms(&etcd);
        (terms.last()?["name"] == "server1").then_some(())
    });
}

#[test]
fn the_status_of_each_replica_has_the_terms_that_it_has_read() {
    on_each_etcd(|etcd| {
        let [(mut leader, leads), (mut follower, follows)] = pair(&etcd);
        let wait_for = |address: &str, count: usize| {
            poll_until("the terms are known", || {
                let status = get_json(address, "/status");
                let terms = status["terms"].as_array()?;
                (terms.len() == count).then(|| terms.clone())
            })
        };
        let of_leader = wait_for(&leads, 1);
        assert_eq!(
            (&of_leader[0]["name"], &of_leader[0]["until"]),
            (&"leads".into(), &Value::Null)
        );
        assert_eq!(of_leader[0]["state"], "leads");
        assert_eq!(wait_for(&follows, 1)[0]["token"], of_leader[0]["token"]);
        leader.skip();
        etcd.etcdctl(&["del", "leader"]);
        follower.wait_for_next(LEADER);
        leader.wait_for_next(FOLLOWER);
        let of_leader = poll_until("the new leader knows how the term before ended", || {
            let terms = wait_for(&follows, 2);
            terms[0]["ended"].is_string().then_some(terms)
        });
        assert_eq!(of_leader[0]["ended_as"], "leader_key_deleted");
        let states = of_leader.iter().map(|term| &term["state"]);
        assert!(states.eq(["ended", "leads"]), "{of_leader:?}");
        let of_follower = poll_until("the follower knows the terms as well", || {
            let terms = wait_for(&leads, 2);
            terms[0]["ended"].is_string().then_some(terms)
        });
        assert_eq!(of_follower[0]["ended_as"], "leader_key_deleted");
        assert_eq!(of_follower[1]["name"], "follows");
        for field in ["token", "since", "state"] {
            assert_eq!(of_follower[1][field], of_leader[1][field], "{field}");
        }
    });
}

#[test]
fn an_unreachable_etcd_is_named_once_the_time_is_up() {
    let endpoint = support::proxy::refusing();
    let failed = run(at(&endpoint, &["history", "--timeout", "1s"]));
    assert_eq!((failed.code, failed.out), (1, Vec::new()));
    let expected = format!(
        "error: could not read the terms below 'leader/history/': no usable response within 1s: etcd \
         at '{endpoint}' does not respond ("
    );
    assert!(failed.err[0].starts_with(&expected), "{:?}", failed.err);
    assert!(failed.took < Duration::from_secs(4), "{:?}", failed.took);
}
