//! What `status` and `observe` print about the candidates, whose seats these tests write by hand.

use serde_json::{Value, json};
use std::time::Duration;
use support::daemon::{Daemon, Stream};
use support::etcd::{Etcd, binaries, on_each_etcd};
use support::operator::{
    at, object, objects, observe, run, status, wait_for_next_event, wait_for_next_name,
    wait_for_next_state,
};
use support::proxy::{Link, Proxy};
use support::seats::{self, lead, value};
use support::users;

/// Returns the given field of each candidate in an object.
fn listed(shown: &Value, field: &str) -> Vec<Value> {
    let candidates = shown["candidates"].as_array().expect("a list");
    candidates.iter().map(|it| it[field].clone()).collect()
}

/// Returns what `status` prints from the list of candidates on.
fn candidate_lines(endpoint: &str) -> Vec<String> {
    let run = run(at(endpoint, &["status"]));
    assert!(run.err.is_empty(), "{:?}", run.err);
    let lines = run.out.into_iter();
    lines
        .skip_while(|line| !line.starts_with("candidates"))
        .collect()
}

#[test]
fn status_lists_the_leader_first_and_then_those_that_would_follow() {
    on_each_etcd(|etcd| {
        let endpoint = etcd.endpoint();
        let (_, vacant) = status(&endpoint);
        assert_eq!(vacant["candidates"], json!([]));
        assert_eq!(vacant["seats_full"], false);

        seats::put(&etcd, "03", &value("server3", None));
        let lease = seats::put(&etcd, "01", &value("server1", Some("http://10.0.0.1")));
        let second = seats::put(&etcd, "00", &value("server2", Some("http://10.0.0.2")));
        // Nobody leads.
        let (code, shown) = status(&endpoint);
        assert_eq!(code, 3);
        assert_eq!(listed(&shown, "name"), ["server3", "server1", "server2"]);
        assert_eq!(listed(&shown, "leads"), [false, false, false]);

        lead(&etcd, "server1", &lease);
        let (code, shown) = status(&endpoint);
        assert_eq!(code, 0);
        assert_eq!(shown["leader"]["acts"], true, "{shown}");
        assert_eq!(listed(&shown, "name"), ["server1", "server3", "server2"]);
        let first = json!({
            "seat": "01", "lease": lease, "name": "server1", "address": "http://10.0.0.1",
            "version": "0.9.7", "since": "2023-11-14T22:13:20Z", "priority": 0, "healthy": null,
            "reason": null, "leads": true,
        });
        assert_eq!(shown["candidates"][0], first);
        let expected = [
            "candidates, in the order in which they would follow",
            "  'server1'  seat 01  at 'http://10.0.0.1'  version '0.9.7'  since 2023-11-14T22:13:20Z  leads",
            "  'server3'  seat 03  no address            version '0.9.7'  since 2023-11-14T22:13:20Z",
            "  'server2'  seat 00  at 'http://10.0.0.2'  version '0.9.7'  since 2023-11-14T22:13:20Z",
        ];
        assert_eq!(candidate_lines(&endpoint), expected);

        // An operator chooses who follows; a choice for another term says nothing.
        let token = shown["leader"]["token"].as_i64().unwrap();
        for (token, order) in [
            (token - 1, ["server1", "server3", "server2"]),
            (token, ["server1", "server2", "server3"]),
        ] {
            let next = json!({ "token": token }).to_string();
            etcd.put("leader/next", next.as_bytes(), Some(&second));
            assert_eq!(listed(&status(&endpoint).1, "name"), order);
        }
    });
}

#[test]
fn what_cannot_be_read_is_listed_last_and_foreign_keys_are_not_listed() {
    on_each_etcd(|etcd| {
        let endpoint = etcd.endpoint();
        let hostile = "\u{1b}[2J\n\u{202e}'x\\";
        seats::put(&etcd, "02", "\u{1b}[2Jnonsense");
        seats::put(&etcd, "00", &value(hostile, Some(hostile)));
        // A later version.
        seats::put(
            &etcd,
            "04",
            r#"{"name":"later","healthy":[1],"since":-1,"version":7}"#,
        );
        // What this version does not know, and a seat that no lease ever frees.
        let lease = etcd.grant(Duration::from_mins(10));
        let before = (0..40).map(|number| format!("!{number}"));
        let others = ["16", "1", "001", "x", "00/x", ""].map(str::to_owned);
        for key in before.chain(others) {
            seats::put_with(&etcd, &key, &value("foreign", None), &lease);
        }
        let foreign = value("foreign", None);
        etcd.put("leader/candidates/05", foreign.as_bytes(), None);
        etcd.put("leader/candidate/06", foreign.as_bytes(), None);

        let (_, shown) = status(&endpoint);
        assert_eq!(listed(&shown, "seat"), ["00", "04", "02"]);
        assert_eq!(
            listed(&shown, "name"),
            [json!(hostile), json!("later"), Value::Null]
        );
        assert_eq!(shown["candidates"][1]["version"], Value::Null);
        assert_eq!(shown["candidates"][1]["since"], Value::Null);
        let mut observer = Daemon::spawn("observer", at(&endpoint, &["observe"]));
        let line = observer
            .wait_for_next_line("candidates", |line| line.text().contains(" 3 candidates: "));
        let mut lines = candidate_lines(&endpoint);
        let name = r"'\u{1b}[2J\n\u{202e}\'x\\'";
        assert!(lines[1].contains(&format!("{name}  ")), "{lines:?}");
        assert!(lines[1].contains(&format!("at {name}  ")), "{lines:?}");
        let unnamed = "  a candidate without a name  seat 02  no address";
        assert!(lines[3].starts_with(unnamed), "{lines:?}");
        lines.extend([
            line.text(),
            run(at(&endpoint, &["status", "--json"])).out.concat(),
        ]);
        for line in lines {
            let harmful = |character: char| character.is_control() || character == '\u{202e}';
            assert!(!line.contains(harmful), "{line:?}");
        }
    });
}

#[test]
fn a_name_of_any_length_is_cut_and_values_too_large_for_a_response_hide_the_candidates_alone() {
    let etcd = Etcd::newest();
    let endpoint = etcd.endpoint();
    seats::put(&etcd, "00", &value(&"x".repeat(100_000), None));
    let (_, shown) = status(&endpoint);
    let candidate = &shown["candidates"][0];
    assert_eq!(candidate["name"].as_str().unwrap().len(), 255);
    assert_eq!(candidate["name_is_exact"], false);
    assert!(candidate_lines(&endpoint)[1].len() < 500);

    for seat in ["01", "02", "03", "04", "05"] {
        let large = value(&"x".repeat(1_000_000), None);
        seats::put(&etcd, seat, &large);
    }
    let (code, shown) = status(&endpoint);
    assert_eq!((code, &shown["state"]), (3, &json!("vacant")));
    assert_eq!(shown["candidates"], Value::Null);
    let mut observer = observe("observer", &endpoint);
    wait_for_next_state(&mut observer, "vacant");
    wait_for_next_event(&mut observer, "candidates_unknown");
    // They are shown again without a restart.
    etcd.etcdctl(&["del", "--prefix", "leader/candidates/"]);
    let shown = wait_for_next_event(&mut observer, "candidates");
    assert_eq!(shown["candidates"], json!([]));
}

#[test]
fn sixteen_seats_are_noted() {
    on_each_etcd(|etcd| {
        let endpoint = etcd.endpoint();
        for seat in 0..15 {
            seats::put(
                &etcd,
                &format!("{seat:02}"),
                &value(&format!("n{seat}"), None),
            );
        }
        assert_eq!(status(&endpoint).1["seats_full"], false);
        assert_eq!(candidate_lines(&endpoint).len(), 16);
        let mut observer = observe("observer", &endpoint);
        assert_eq!(
            wait_for_next_event(&mut observer, "candidates")["seats_full"],
            false
        );
        seats::put(&etcd, "15", &value("n15", None));
        let (_, shown) = status(&endpoint);
        assert_eq!(shown["seats_full"], true);
        let names: Vec<_> = (0..16).map(|number| format!("n{number}")).collect();
        assert_eq!(listed(&shown, "name"), names);
        let lines = candidate_lines(&endpoint);
        assert_eq!(lines.len(), 18, "{lines:#?}");
        let note = "All 16 seats are taken: other candidates may take part without being listed.";
        assert_eq!(lines[17], note);
        let shown = wait_for_next_event(&mut observer, "candidates");
        assert_eq!(shown["seats_full"], true);
        assert_eq!(listed(&shown, "name"), names);
    });
}

#[test]
fn observe_prints_who_comes_and_goes_and_nothing_if_that_stays_the_same() {
    on_each_etcd(|etcd| {
        let endpoint = etcd.endpoint();
        let first = seats::put(&etcd, "00", &value("server1", Some("10.0.0.1")));
        let mut observer = observe("observer", &endpoint);
        let mut reader = Daemon::spawn("reader", at(&endpoint, &["observe"]));
        wait_for_next_state(&mut observer, "vacant");
        let shown = wait_for_next_event(&mut observer, "candidates");
        assert_eq!(listed(&shown, "name"), ["server1"]);
        let mut next_line = |end: &str| {
            let line = reader.wait_for_next_line(end, |line| line.text().ends_with(end));
            assert_eq!(line.stream, Stream::Out);
        };
        next_line("Z 1 candidate: 'server1'.");

        let second = seats::put(&etcd, "01", &value("server2", Some("10.0.0.2")));
        let shown = wait_for_next_event(&mut observer, "candidates");
        assert_eq!(listed(&shown, "name"), ["server1", "server2"]);
        next_line("Z 'server2' joined at '10.0.0.2'; 2 candidates: 'server1', 'server2'.");

        // A rewrite that changes nothing that is shown, and foreign keys.
        let acts = value("server2", Some("10.0.0.2")).replacen('{', r#"{"acts":7,"new":1,"#, 1);
        seats::put_with(&etcd, "01", &acts, &second);
        seats::put_with(&etcd, "x", "", &second);
        seats::put_with(&etcd, "01", &value("server2", Some("10.0.0.3")), &second);
        let shown = wait_for_next_event(&mut observer, "candidates");
        assert_eq!(listed(&shown, "address"), ["10.0.0.1", "10.0.0.3"]);
        next_line("Z 'server2' changed its entry; 2 candidates: 'server1', 'server2'.");

        // The state comes first, and then the list that belongs to it.
        lead(&etcd, "server2", &second);
        wait_for_next_name(&mut observer, "server2");
        let shown = wait_for_next_event(&mut observer, "candidates");
        assert_eq!(listed(&shown, "name"), ["server2", "server1"]);
        assert_eq!(listed(&shown, "leads"), [true, false]);

        // Its lease holds the seat and both keys.
        etcd.etcdctl(&["lease", "revoke", &second]);
        wait_for_next_state(&mut observer, "vacant");
        let shown = wait_for_next_event(&mut observer, "candidates");
        assert_eq!(listed(&shown, "name"), ["server1"]);
        next_line("Z 'server2' left; 1 candidate: 'server1'.");
        etcd.etcdctl(&["lease", "revoke", &first]);
        let shown = wait_for_next_event(&mut observer, "candidates");
        assert_eq!(shown["candidates"], json!([]));
        next_line("Z 'server1' left; no candidate is listed.");

        let events = objects(&observer);
        let count = |event: &str| events.iter().filter(|it| it["event"] == event).count();
        assert_eq!(
            (count("situation"), count("candidates")),
            (3, 6),
            "{events:#?}"
        );
        assert_eq!(reader.lines().len(), 3 + 5, "{:?}", reader.texts());
    });
}

#[test]
fn candidates_that_come_and_go_during_an_outage_are_printed_after_it() {
    on_each_etcd(|mut etcd| {
        let way = Proxy::start(&etcd.endpoint(), Link::Open);
        let mut observer = observe("observer", &way.endpoint());
        wait_for_next_event(&mut observer, "candidates");
        for round in 0..2 {
            way.set(Link::Cut);
            wait_for_next_event(&mut observer, "unanswered");
            let lease = seats::put(&etcd, "00", &value("server1", None));
            // The history that a watch would have delivered is gone.
            etcd.etcdctl(&["compact", &etcd.revision().to_string()]);
            if round == 1 {
                etcd.kill();
                etcd.up();
            }
            way.set(Link::Open);
            let shown = wait_for_next_event(&mut observer, "candidates");
            assert_eq!(listed(&shown, "name"), ["server1"]);
            // The new watch works.
            etcd.etcdctl(&["lease", "revoke", &lease]);
            let shown = wait_for_next_event(&mut observer, "candidates");
            assert_eq!(shown["candidates"], json!([]));
        }
    });
}

#[test]
fn a_role_for_the_two_keys_shows_the_leader_and_says_that_the_candidates_are_unknown() {
    for binary in binaries() {
        let mut etcd = Etcd::start_with(&binary, &["--bcrypt-cost", "4"].map(str::to_owned), &[]);
        users::add(&etcd);
        users::enable(&mut etcd);
        let endpoint = etcd.endpoint();
        let replica = |arguments: &[&str]| users::as_replica(at(&endpoint, arguments));
        seats::put(&etcd, "00", &value("server1", None));

        let said = "The candidates are not known: the etcd role may not read 'leader/candidates/' \
                    and 'leader/next' (etcdserver: permission denied).";
        let seen = run(replica(&["status"]));
        assert_eq!(seen.out[..2], ["Nobody leads.", said], "{:?}", seen.err);
        let shown = object(&run(replica(&["status", "--json"])).out[0]);
        assert_eq!(
            (&shown["candidates"], &shown["seats_full"]),
            (&Value::Null, &Value::Null)
        );
        assert_eq!(shown["state"], "vacant");

        let mut observer = Daemon::spawn("observer", replica(&["observe", "--json"]));
        let mut reader = Daemon::spawn("reader", replica(&["observe"]));
        wait_for_next_state(&mut observer, "vacant");
        let shown = wait_for_next_event(&mut observer, "candidates_unknown");
        assert_eq!(shown["reason"], "etcdserver: permission denied");
        let warned = reader.wait_for_next_line(said, |line| line.text().ends_with(said));
        assert_eq!(warned.stream, Stream::Err);
        assert!(warned.text().contains(" WARN The "), "{}", warned.text());
        // The leader is followed all the same.
        for name in ["one", "two", "three"] {
            let lease = etcd.grant(Duration::from_mins(10));
            lead(&etcd, name, &lease);
            wait_for_next_name(&mut observer, name);
            etcd.etcdctl(&["lease", "revoke", &lease]);
            wait_for_next_state(&mut observer, "vacant");
        }
        let unknown = objects(&observer);
        let unknown = unknown
            .iter()
            .filter(|it| it["event"] == "candidates_unknown");
        assert_eq!(unknown.count(), 1);

        // A permission that is granted later counts without a restart.
        let grant = ["role", "grant-permission", "election", "read"];
        etcd.etcdctl(&[&grant[..], &["--prefix", "leader/"]].concat());
        let shown = wait_for_next_event(&mut observer, "candidates");
        assert_eq!(listed(&shown, "name"), ["server1"]);
        assert_eq!(
            object(&run(replica(&["status", "--json"])).out[0])["candidates"],
            shown["candidates"]
        );
    }
}

#[test]
fn a_command_runs_for_changes_of_the_leader_alone() {
    let etcd = Etcd::newest();
    let first = seats::put(&etcd, "00", &value("server1", None));
    let mut command = at(&etcd.endpoint(), &["observe", "--", "sh", "-c"]);
    command.arg("echo \"$LEADER_ELECTION_STATE $LEADER_ELECTION_LEADER\"; cat");
    let mut reactor = Daemon::spawn("reactor", command);
    reactor.wait_for_next("vacant ");
    let mut observer = observe("observer", &etcd.endpoint());
    for number in 1..4 {
        let name = format!("server{number}");
        seats::put(&etcd, &format!("{number:02}"), &value(&name, None));
        wait_for_next_event(&mut observer, "candidates");
    }
    lead(&etcd, "server1", &first);
    reactor.wait_for_next("led server1");
    let input = reactor.wait_for_next_line("its input", |line| line.text().starts_with('{'));
    let input = object(&input.text());
    assert_eq!(input["event"], "situation");
    assert_eq!(input["candidates"], Value::Null);
    let runs = |start: &str| {
        let lines = reactor.texts();
        lines.iter().filter(|line| line.starts_with(start)).count()
    };
    assert_eq!(
        (runs("vacant"), runs("led"), reactor.lines().len()),
        (1, 1, 4)
    );
}
