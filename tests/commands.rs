//! What the commands for operators tell and do: the real binary against real etcds.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use rustix::process::Signal;
use serde_json::Value;
use std::fs::{self, File};
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::TTL;
use support::daemon::{Daemon, LEADER, LOST, Line, Stream, command, json, plain, wait_for_leader};
use support::etcd::{Etcd, binaries, on_each_etcd};
use support::proxy::{BlackHole, Proxy, Way, refusing};

const ADDRESS: &str = "https://10.0.0.1:8443/\"a b\"?é";

/// A candidate that says how to reach it.
fn advertised(name: &str, endpoint: &str) -> Command {
    let mut command = json(name, endpoint);
    command.args(["--advertise", ADDRESS]);
    command
}

/// A command of the binary, at an etcd.
fn at(endpoint: &str, arguments: &[&str]) -> Command {
    let mut command = command();
    command.args(["--etcd", endpoint]).args(arguments);
    command
}

/// How a command ended, and what it said on standard output and error.
struct Run {
    code: i32,
    out: Vec<String>,
    err: Vec<String>,
    took: Duration,
}

fn run(command: Command) -> Run {
    let begun = Instant::now();
    let mut run = Daemon::spawn("command", command);
    let code = run.wait_exit().code().expect("no signal ended it");
    let took = begun.elapsed();
    let lines = run.lines();
    let said = |stream| {
        let lines = lines.iter().filter(|line| line.stream == stream);
        lines.map(Line::text).collect()
    };
    Run {
        code,
        out: said(Stream::Out),
        err: said(Stream::Err),
        took,
    }
}

fn object(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn status(endpoint: &str) -> (i32, Value) {
    let run = run(at(endpoint, &["status", "--json"]));
    assert!(run.err.is_empty(), "{:?}", run.err);
    assert_eq!(run.out.len(), 1, "{:?}", run.out);
    (run.code, object(&run.out[0]))
}

/// An observer whose lines are JSON.
fn observe(name: &str, endpoints: &str) -> Daemon {
    Daemon::spawn(name, at(endpoints, &["observe", "--json"]))
}

fn told(observer: &Daemon) -> Vec<Value> {
    let lines = observer.lines();
    lines.iter().map(|line| object(&line.text())).collect()
}

/// Waits until it tells of this state; returns what it tells.
fn wait_for_state(observer: &mut Daemon, state: &str) -> Value {
    let is_it = |line: &Line| object(&line.text())["state"] == state;
    object(&observer.wait_for_line(state, is_it).text())
}

/// Waits until it tells that this one leads.
fn wait_for_name(observer: &mut Daemon, name: &str) -> Value {
    let is_it = |line: &Line| object(&line.text())["leader"]["name"] == name;
    object(&observer.wait_for_line(name, is_it).text())
}

fn wait_for_event(observer: &mut Daemon, event: &str) -> Value {
    let is_it = |line: &Line| object(&line.text())["event"] == event;
    object(&observer.wait_for_line(event, is_it).text())
}

#[test]
fn status_tells_who_leads_where_it_is_reached_and_since_when() {
    on_each_etcd(|etcd| {
        let endpoint = etcd.endpoint();
        let before = now();
        let mut leader = Daemon::spawn("server1", advertised("server1", &endpoint));
        let elected = leader.wait_for(LEADER);
        let (code, told) = status(&endpoint);
        assert_eq!(code, 0);
        assert_eq!(told["state"], "led");
        assert_eq!(told["leader"]["name"], "server1");
        assert_eq!(told["leader"]["address"], ADDRESS);
        assert_eq!(
            told["leader"]["token"].to_string(),
            elected.field("token").unwrap()
        );
        assert_eq!(told["leader"]["lease"], elected.field("lease").unwrap());
        assert_eq!(told["ttl"]["granted"], TTL.as_secs());
        let remaining = told["ttl"]["remaining"].as_u64().unwrap();
        assert!(remaining <= TTL.as_secs(), "{remaining}");
        let since = told["leader"]["since"].as_str().unwrap().to_owned();
        assert!(since >= before && since <= now(), "{since}");

        let run = run(at(&endpoint, &["status"]));
        assert_eq!(run.code, 0);
        let field = |name: &str| {
            let line = run.out.iter().find(|line| line.starts_with(name));
            line.unwrap_or_else(|| panic!("{name}: {:?}", run.out))[name.len()..]
                .trim()
                .to_owned()
        };
        assert_eq!(field("leader"), "server1");
        assert_eq!(field("address"), ADDRESS.replace('"', "\\\""));
        assert_eq!(field("token"), elected.field("token").unwrap());
        assert_eq!(field("lease"), elected.field("lease").unwrap());
        assert!(
            field("ttl").starts_with("2 s, of which "),
            "{}",
            field("ttl")
        );
        assert!(field("since").starts_with(&since), "{}", field("since"));
    });
}

/// The time, as `date` writes it.
fn now() -> String {
    let date = Command::new("date")
        .args(["-u", "+%Y-%m-%dT%H:%M:%SZ"])
        .output();
    let date = String::from_utf8(date.unwrap().stdout).unwrap();
    date.trim().to_owned()
}

#[test]
fn without_a_leader_status_says_whether_somebody_may_still_act_and_until_when() {
    on_each_etcd(|etcd| {
        let endpoint = etcd.endpoint();
        let (code, told) = status(&endpoint);
        assert_eq!((code, &told["state"]), (3, &Value::from("vacant")));
        let vacant = run(at(&endpoint, &["status"]));
        assert_eq!(
            (vacant.code, vacant.out),
            (3, vec!["Nobody leads.".to_owned()])
        );

        let mut leader = Daemon::spawn("server1", advertised("server1", &endpoint));
        leader.wait_for(LEADER);
        // It cannot finish now, nor renew its lease.
        leader.signal(Signal::STOP);
        let before = now();
        etcd.etcdctl(&["del", "leader"]);
        let (code, told) = status(&endpoint);
        assert_eq!((code, &told["state"]), (3, &Value::from("ending")));
        assert_eq!(told["leader"], Value::Null);
        assert_eq!(told["acting"]["name"], "server1");
        assert_eq!(told["acting"]["address"], ADDRESS);
        assert!(*before < *told["ttl"]["ends"].as_str().unwrap(), "{told}");
        let ending = run(at(&endpoint, &["status"]));
        assert_eq!(ending.code, 3);
        let said = &ending.out[0];
        assert!(
            said.starts_with("Nobody leads; 'server1' may still be acting, until 2")
                && said.contains(" at the latest"),
            "{said}"
        );
        leader.signal(Signal::KILL);
    });
}

#[test]
fn a_key_without_a_lease_leads_nobody_and_status_says_what_to_do() {
    let etcd = Etcd::newest();
    let endpoint = etcd.endpoint();
    for (key, value) in [("leader", "by hand"), ("leader/acting", "nonsense")] {
        etcd.put(key, value.as_bytes(), None);
        let (code, told) = status(&endpoint);
        assert_eq!(
            (code, &told["state"]),
            (3, &Value::from("blocked")),
            "{told}"
        );
        for arguments in [&["status"][..], &["step-down"]] {
            let run = run(at(&endpoint, arguments));
            assert_eq!(run.code, 3, "{:?}", run.err);
            let expected = format!("deletes the key '{key}', which is bound to no lease");
            assert!(run.out[0].contains(&expected), "{:?}", run.out);
        }
        assert_eq!(
            etcd.key(key).unwrap().value,
            value.as_bytes(),
            "nothing was deleted"
        );
        etcd.etcdctl(&["del", key]);
    }
}

#[test]
fn a_leader_of_another_kind_is_told_as_what_it_is() {
    let etcd = Etcd::newest();
    let lease = etcd.grant(Duration::from_mins(10));
    etcd.put("leader", b"other port", Some(&lease));
    let run = run(at(&etcd.endpoint(), &["status"]));
    assert_eq!(run.code, 0);
    let expected = "'other port' holds the key 'leader' without 'leader/acting'";
    assert!(run.out[0].starts_with(expected), "{:?}", run.out);
    let (_, told) = status(&etcd.endpoint());
    assert_eq!(told["leader"]["name"], "other port");
    assert_eq!(told["acting"], Value::Null);
}

#[test]
fn status_and_step_down_end_in_time_and_tell_what_was_tried_where_etcd_does_not_answer() {
    let (silent, cut, black_hole) = (Proxy::silent(), Proxy::cut(), BlackHole::new());
    let etcd = Etcd::newest();
    etcd.freeze();
    let endpoints = [
        silent.endpoint(),
        cut.endpoint(),
        black_hole.endpoint(),
        refusing(),
        etcd.endpoint(),
    ];
    let all = endpoints.join(",");
    let runs = ["status", "step-down"].map(|what| {
        let command = at(&all, &[what, "--timeout", "2s"]);
        std::thread::spawn(move || run(command))
    });
    for thread in runs {
        let run = thread.join().unwrap();
        assert_eq!(run.code, 1, "{:?}", run.err);
        assert!(run.took < Duration::from_secs(4), "{:?}", run.took);
        assert!(run.out.is_empty(), "{:?}", run.out);
        assert_eq!(run.err.len(), 1, "{:?}", run.err);
        for endpoint in &endpoints {
            let expected = format!("etcd at '{endpoint}' does not answer (");
            assert!(run.err[0].contains(&expected), "{:?}", run.err);
        }
    }
    etcd.thaw();
    // The one that answers is found behind those that do not.
    let found = run(at(&all, &["status", "--timeout", "20s"]));
    assert_eq!(found.out, ["Nobody leads."], "{:?}", found.err);
}

#[test]
fn observe_tells_each_change_in_one_line_as_it_happens() {
    on_each_etcd(|etcd| {
        let endpoint = etcd.endpoint();
        let mut observer = observe("observer", &endpoint);
        let mut reader = Daemon::spawn("reader", at(&endpoint, &["observe"]));
        wait_for_state(&mut observer, "vacant");
        reader.wait_for_line("nobody", |line| line.text().ends_with(" Nobody leads."));
        let mut first = Daemon::spawn("server1", advertised("server1", &endpoint));
        let elected = first.wait_for(LEADER);
        let told_first = wait_for_name(&mut observer, "server1");
        assert_eq!(told_first["leader"]["address"], ADDRESS);
        let token = told_first["leader"]["token"].to_string();
        assert_eq!(Some(token), elected.field("token"));
        let mut second = Daemon::spawn("server2", json("server2", &endpoint));
        second.wait_for(support::daemon::FOLLOWER);
        etcd.etcdctl(&["del", "leader"]);
        wait_for_name(&mut observer, "server2");
        second.signal(Signal::TERM);
        second.wait_exit();
        wait_for_name(&mut observer, "server1");
        first.signal(Signal::TERM);
        first.wait_exit();
        wait_for_state(&mut observer, "vacant");

        let states: Vec<_> = told(&observer)
            .iter()
            .map(|told| match told["leader"]["name"].as_str() {
                Some(name) => name.to_owned(),
                None => told["state"].as_str().unwrap().to_owned(),
            })
            .collect();
        let expected = [
            "vacant", "server1", "ending", "vacant", "server2", "vacant", "server1", "vacant",
        ];
        assert_eq!(states, expected, "{:#?}", told(&observer));
        let revisions: Vec<_> = told(&observer)
            .iter()
            .map(|told| told["revision"].as_u64().unwrap())
            .collect();
        assert!(
            revisions.is_sorted_by(|one, next| one < next),
            "{revisions:?}"
        );

        for (number, end) in [
            " Nobody leads.",
            "'server1' leads at 'https://10.0.0.1:8443/\\\"a b\\\"?é', token ",
            " Nobody leads; 'server1' may still be acting.",
            " Nobody leads.",
            "'server2' leads, token ",
        ]
        .iter()
        .enumerate()
        {
            let line = reader.lines()[number].text();
            assert!(line.contains(end), "{line}");
        }
        // Asked to stop it stops, as any filter does.
        observer.signal(Signal::TERM);
        assert_eq!(observer.wait_exit().code(), Some(0));
    });
}

#[test]
fn observe_survives_restarts_of_etcd_says_so_once_and_misses_nothing() {
    for binary in binaries() {
        let mut etcd = Etcd::start(&binary);
        // A second way, which opens while the observer's is cut.
        let way = Proxy::start(&etcd.endpoint(), Way::Open);
        let mut observer = observe("observer", &way.endpoint());
        wait_for_state(&mut observer, "vacant");
        for round in 0..2 {
            way.set(Way::Cut);
            let mut terms = Vec::new();
            for name in ["server1", "server2", "server3"] {
                let mut leader = Daemon::spawn(name, json(name, &etcd.endpoint()));
                terms.push(leader.wait_for(LEADER).field("token").unwrap());
                leader.signal(Signal::TERM);
                leader.wait_exit();
            }
            if round == 1 {
                etcd.kill();
                etcd.up();
            }
            let unanswered = wait_for_event(&mut observer, "unanswered");
            assert_eq!(unanswered["endpoint"], way.endpoint());
            way.set(Way::Open);
            wait_for_event(&mut observer, "answered_again");
            let mut seen = Vec::new();
            while seen.len() < terms.len() {
                let is_term = |told: &&Value| told["state"] == "led";
                seen = told(&observer)
                    .iter()
                    .filter(is_term)
                    .map(|told| told["leader"]["token"].to_string())
                    .skip(round * terms.len())
                    .collect();
                std::thread::yield_now();
            }
            assert_eq!(seen, terms, "{:#?}", told(&observer));
            wait_for_last_state(&observer, "vacant");
        }
        let events: Vec<_> = told(&observer)
            .iter()
            .map(|told| told["event"].as_str().unwrap().to_owned())
            .filter(|event| event != "situation")
            .collect();
        let once = ["unanswered", "answered_again"];
        assert_eq!(events, [once, once].concat(), "said once each");
        let vacant = told(&observer)
            .iter()
            .filter(|told| told["state"] == "vacant")
            .count();
        assert_eq!(vacant, 7, "each term's end is told: {:#?}", told(&observer));
    }
}

/// Waits until this is the last state that it told.
fn wait_for_last_state(observer: &Daemon, state: &str) {
    support::wait_until(state, support::PATIENCE, || {
        (told(observer).last()?["state"] == state).then_some(())
    });
}

#[test]
fn after_a_compaction_observe_says_that_changes_may_be_missing_and_only_then() {
    on_each_etcd(|etcd| {
        let way = Proxy::start(&etcd.endpoint(), Way::Open);
        let mut observer = observe("observer", &way.endpoint());
        let mut reader = Daemon::spawn("reader", at(&way.endpoint(), &["observe"]));
        let before = wait_for_state(&mut observer, "vacant");
        reader.wait_for_line("nobody", |line| line.text().ends_with(" Nobody leads."));
        way.set(Way::Cut);
        for name in ["server1", "server2"] {
            let mut leader = Daemon::spawn(name, json(name, &etcd.endpoint()));
            leader.wait_for(LEADER);
            leader.signal(Signal::TERM);
            leader.wait_exit();
        }
        let mut leader = Daemon::spawn("server3", json("server3", &etcd.endpoint()));
        leader.wait_for(LEADER);
        etcd.etcdctl(&["compact", &etcd.revision().to_string()]);
        way.set(Way::Open);
        let gap = wait_for_event(&mut observer, "gap");
        assert_eq!(gap["after"], before["revision"]);
        wait_for_name(&mut observer, "server3");
        reader.wait_for_line("a warning", |line| {
            line.stream == Stream::Err && line.text().contains("WARN etcd has compacted")
        });

        // While the keys stand as they were written, nothing can have been missed.
        way.set(Way::Cut);
        for number in 0..10 {
            etcd.put(&format!("other{number}"), b"", None);
        }
        etcd.etcdctl(&["compact", &etcd.revision().to_string()]);
        wait_for_event(&mut observer, "unanswered");
        way.set(Way::Open);
        wait_for_event(&mut observer, "answered_again");
        leader.signal(Signal::TERM);
        leader.wait_exit();
        wait_for_state(&mut observer, "vacant");
        let gaps = told(&observer)
            .iter()
            .filter(|told| told["event"] == "gap")
            .count();
        assert_eq!(gaps, 1, "{:#?}", told(&observer));
    });
}

#[test]
fn observe_notices_an_etcd_that_is_silent_and_one_that_forgot_everything() {
    let mut etcd = Etcd::newest();
    let mut leader = Daemon::spawn("server1", json("server1", &etcd.endpoint()));
    leader.wait_for(LEADER);
    let mut observer = observe("observer", &etcd.endpoint());
    wait_for_name(&mut observer, "server1");
    etcd.freeze();
    wait_for_event(&mut observer, "unanswered");
    etcd.thaw();
    wait_for_event(&mut observer, "answered_again");
    leader.crash();
    etcd.kill_and_forget();
    etcd.up();
    wait_for_event(&mut observer, "history_went_back");
    wait_for_state(&mut observer, "vacant");
    let mut heir = Daemon::spawn("heir", json("heir", &etcd.endpoint()));
    heir.wait_for(LEADER);
    wait_for_name(&mut observer, "heir");
}

#[test]
fn an_observer_turns_to_another_endpoint_without_a_word_where_one_answers() {
    let etcd = Etcd::newest();
    let way = Proxy::start(&etcd.endpoint(), Way::Open);
    let endpoints = format!("{},{},{}", way.endpoint(), refusing(), etcd.endpoint());
    let mut observer = observe("observer", &endpoints);
    wait_for_state(&mut observer, "vacant");
    way.set(Way::Cut);
    let mut leader = Daemon::spawn("server1", json("server1", &etcd.endpoint()));
    leader.wait_for(LEADER);
    wait_for_name(&mut observer, "server1");
    let events = told(&observer);
    assert!(
        events.iter().all(|told| told["event"] == "situation"),
        "{events:#?}"
    );
}

#[test]
fn observe_ends_quietly_when_nobody_reads_it_any_more() {
    let etcd = Etcd::newest();
    let mut command = at(&etcd.endpoint(), &["observe"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut first = [0; 8];
    out.read_exact(&mut first).unwrap();
    // As `head -1` does; nothing is there to be written then.
    drop(out);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    // Nor does a command mind that ends anyway.
    let mut command = at(&etcd.endpoint(), &["status"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    // A full disk is another matter.
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = at(&etcd.endpoint(), &["status"]);
    let output = command
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("could not write to standard output: No space left"),
        "{said}"
    );
}

#[test]
fn step_down_hands_over_to_somebody_else_without_an_overlap() {
    on_each_etcd(|etcd| {
        let endpoint = etcd.endpoint();
        let mut replicas = Daemon::candidates(&etcd, 3);
        for _ in 0..3 {
            let old = support::daemon::wait_for_roles(&mut replicas);
            let name = replicas[old].name.clone();
            let run = run(at(&endpoint, &["step-down", "--if-leader", &name]));
            assert_eq!(run.code, 0, "{:?}", run.err);
            assert!(run.out[0].starts_with(&format!("'{name}' is asked to step down, token ")));
            let lost = replicas[old].wait_for_start(LOST).message();
            assert!(lost.contains("was deleted"), "{lost}");
            let new = wait_for_leader(&replicas);
            assert_ne!(new, old);
            let expected = format!("'{}' leads, token ", replicas[new].name);
            assert!(run.out[1].starts_with(&expected), "{:?}", run.out);
            for replica in &mut replicas {
                replica.skip();
            }
            // Each knows its role anew before the next round looks.
            replicas[new].wait_for_refreshes(1);
            replicas[new].signal(Signal::TERM);
            replicas[new].wait_exit();
            let name = replicas[new].name.clone();
            replicas[new] = Daemon::spawn(&name, json(&name, &endpoint));
        }
    });
}

#[test]
fn step_down_of_an_only_candidate_tells_that_it_leads_again() {
    let etcd = Etcd::newest();
    let mut only = Daemon::spawn("only", json("only", &etcd.endpoint()));
    let lease = only.wait_for(LEADER).field("lease").unwrap();
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
    let reason = only.wait_for_start(LOST).message();
    assert!(reason.contains("was deleted"), "{reason}");
}

#[test]
fn step_down_does_nothing_where_nobody_or_somebody_else_leads() {
    let etcd = Etcd::newest();
    let before = etcd.revision();
    let nobody = run(at(&etcd.endpoint(), &["step-down"]));
    assert_eq!(
        (nobody.code, nobody.out),
        (3, vec!["Nobody leads.".to_owned()])
    );
    assert_eq!(etcd.revision(), before);

    let mut leader = Daemon::spawn("server1", json("server1", &etcd.endpoint()));
    leader.wait_for(LEADER);
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
    leader.wait_for_refreshes(2);
    assert_eq!(etcd.key("leader"), before);
}

#[test]
fn step_down_tells_how_things_stand_when_nobody_follows_in_time() {
    let etcd = Etcd::newest();
    let arguments = ["--name", "server1", "--ttl", "60s", "--log-format", "json"];
    let mut leader = Daemon::spawn("server1", at(&etcd.endpoint(), &arguments));
    let lease = leader.wait_for(LEADER).field("lease").unwrap();
    // It cannot stop acting, and its lease lasts on: nobody else may act.
    leader.signal(Signal::STOP);
    let mut heir = Daemon::spawn("heir", json("heir", &etcd.endpoint()));
    heir.wait_for(support::daemon::FOLLOWER);
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
    heir.wait_for(LEADER);
}

#[test]
fn options_that_say_how_to_reach_etcd_stand_on_either_side_of_a_command() {
    let etcd = Etcd::newest();
    let endpoint = etcd.endpoint();
    let mut leader = plain("server1", &endpoint);
    leader.args(["--leader-key", "other/key"]);
    Daemon::spawn("leader", leader).wait_for(LEADER);
    let mut elsewhere = Daemon::spawn("elsewhere", {
        let mut command = plain("server2", &endpoint);
        command.args(["--leader-key", "other/key"]);
        command
    });
    elsewhere.wait_for(LEADER);
    for arguments in [
        &["--etcd", &endpoint, "--leader-key", "other/key", "status"][..],
        &["status", "--etcd", &endpoint, "--leader-key", "other/key"],
        &["--etcd", &endpoint, "status", "--leader-key", "other/key"],
        // The nearer one counts.
        &[
            "--leader-key",
            "x",
            "--etcd",
            "127.0.0.1:1",
            "status",
            "--etcd",
            &endpoint,
            "--leader-key",
            "other/key",
        ],
    ] {
        let mut command = command();
        command.args(arguments);
        let run = run(command);
        assert_eq!(run.code, 0, "{arguments:?}: {:?}", run.err);
        assert_eq!(run.out[0], "leader   server2");
    }
    let mut command = command();
    command.arg("status").env("LEADER_ELECTION_ETCD", &endpoint);
    command.env("LEADER_ELECTION_LEADER_KEY", "other/key");
    assert_eq!(run(command).code, 0);
    // Halves of a pair on both sides are a pair; one half alone is refused on either.
    let mut command = at(
        &endpoint,
        &[
            "--etcd-cert",
            "/nowhere/cert",
            "status",
            "--etcd-key",
            "/nowhere/key",
        ],
    );
    command.env_remove("SSL_CERT_FILE");
    let pair = run(command);
    assert_eq!(pair.code, 1, "{:?}", pair.err);
    assert!(pair.err[0].contains("/nowhere/cert"), "{:?}", pair.err);
    assert_eq!(
        run(at(&endpoint, &["status", "--etcd-key", "/nowhere/key"])).code,
        2
    );
}

#[test]
fn options_of_candidates_are_refused_beside_a_command_and_their_variables_do_no_harm() {
    let etcd = Etcd::newest();
    for command_name in ["status", "observe", "step-down", "man"] {
        for (option, value) in [
            ("--name", "server1"),
            ("--ttl", "5s"),
            ("--advertise", "here"),
            ("--log-format", "json"),
            ("--log", "info"),
        ] {
            for arguments in [[option, value, command_name], [command_name, option, value]] {
                let run = run(at(&etcd.endpoint(), &arguments));
                assert_eq!(run.code, 2, "{arguments:?}: {:?} {:?}", run.out, run.err);
                assert!(run.err[0].contains(option), "{arguments:?}: {:?}", run.err);
                assert!(run.out.is_empty(), "{arguments:?}: {:?}", run.out);
            }
        }
    }
    let variables = ["NAME", "TTL", "ADVERTISE", "LOG_FORMAT", "LOG"];
    for value in ["\u{1b}nonsense=", "5s"] {
        let mut command = at(&etcd.endpoint(), &["status"]);
        for variable in variables {
            command.env(format!("LEADER_ELECTION_{variable}"), value);
        }
        let run = run(command);
        assert_eq!(
            (run.code, run.out),
            (3, vec!["Nobody leads.".to_owned()]),
            "{:?}",
            run.err
        );
    }
}

#[test]
fn time_outs_that_make_no_sense_are_refused() {
    for value in ["", "0", "0s", "-1", "x", "25h", "99999999999999999999"] {
        for command_name in ["status", "step-down"] {
            let run = run(at(
                "127.0.0.1:1",
                &[command_name, &format!("--timeout={value}")],
            ));
            assert_eq!(run.code, 2, "{command_name} {value:?}: {:?}", run.err);
            assert!(run.err[0].contains("--timeout"), "{:?}", run.err);
        }
    }
}

#[test]
fn hostile_keys_are_printed_harmlessly_and_as_json_that_says_so() {
    let etcd = Etcd::newest();
    let endpoint = etcd.endpoint();
    let long = vec![b'A'; 100_000];
    let names: [&[u8]; 7] = [
        b"\x1b[2J\x1b]0;owned\x07\nleader   server9\r",
        "\u{202e}\u{2066}\u{9b}31m\u{85}\u{2028}\u{7f}".as_bytes(),
        b"\xff\xfe\xc3\x28\xed\xa0\x80",
        br#"","state":"vacant","x":""#,
        b"\0\x01",
        b"",
        &long,
    ];
    for name in names {
        let lease = etcd.grant(Duration::from_mins(10));
        etcd.put("leader", name, Some(&lease));
        // By hand no two keys get one revision, so this is somebody else's witness.
        let witness = serde_json::json!({
            "name": String::from_utf8_lossy(name),
            "address": String::from_utf8_lossy(name),
            "since": u64::MAX,
        });
        for acting in [witness.to_string().as_bytes(), name] {
            etcd.put("leader/acting", acting, Some(&lease));
            let mut observer = observe("observer", &endpoint);
            let mut reader = Daemon::spawn("reader", at(&endpoint, &["observe"]));
            let first = wait_for_state(&mut observer, "led");
            reader.wait_for_line("a line", |_| true);
            let (code, told) = status(&endpoint);
            assert_eq!(code, 0);
            for told in [&first, &told] {
                assert_eq!(told["x"], Value::Null);
                let leader = &told["leader"];
                let exact = leader["name"] == *String::from_utf8_lossy(name)
                    && std::str::from_utf8(name).is_ok();
                assert_eq!(leader["name_is_exact"] == Value::Null, exact, "{leader}");
            }
            let shown = run(at(&endpoint, &["status"]));
            let refused = run(at(&endpoint, &["step-down", "--if-leader", "\u{1b}[2J"]));
            assert_eq!((shown.code, refused.code), (0, 1));
            let all = [shown.out, shown.err, refused.out, refused.err].concat();
            let lines = [observer.lines(), reader.lines()].concat();
            for text in all.into_iter().chain(lines.iter().map(Line::text)) {
                let harmful = |character: char| {
                    character.is_control()
                        || ('\u{2028}'..='\u{202e}').contains(&character)
                        || ('\u{2066}'..='\u{2069}').contains(&character)
                };
                assert!(!text.contains(harmful) && text.len() < 4096, "{text:?}");
            }
        }
        // What was put by hand can be stepped down by hand, name or no name.
        etcd.etcdctl(&["lease", "revoke", &lease]);
    }
}

#[test]
fn a_role_that_may_only_read_the_two_keys_suffices_to_look() {
    for binary in binaries() {
        let mut etcd = Etcd::start_with(&binary, &["--bcrypt-cost", "4"].map(str::to_owned), &[]);
        let mut leader = Daemon::spawn("server1", advertised("server1", &etcd.endpoint()));
        leader.wait_for(LEADER);
        for arguments in [
            &["user", "add", "root:of all evil"][..],
            &["user", "grant-role", "root", "root"],
            &["role", "add", "looking"],
            &["role", "grant-permission", "looking", "read", "leader"],
            &[
                "role",
                "grant-permission",
                "looking",
                "read",
                "leader/acting",
            ],
            &["user", "add", "looker:sesame"],
            &["user", "grant-role", "looker", "looking"],
            &["auth", "enable"],
        ] {
            etcd.etcdctl(arguments);
        }
        etcd.let_etcdctl_in(&["--user", "root:of all evil"]);
        let looker = |arguments: &[&str]| {
            let mut command = at(&etcd.endpoint(), arguments);
            command.args(["--etcd-user", "looker"]);
            command.env("LEADER_ELECTION_ETCD_PASSWORD", "sesame");
            command
        };
        let mut observer = Daemon::spawn("observer", looker(&["observe", "--json"]));
        let seen = run(looker(&["status", "--json"]));
        // The leader is no user, so that its lease runs out now or soon.
        if seen.code == 0 {
            let told = object(&seen.out[0]);
            assert_eq!(told["leader"]["address"], ADDRESS);
            assert_eq!(told["ttl"]["granted"], TTL.as_secs(), "{told}");
        }
        wait_for_state(&mut observer, "vacant");
        let lease = etcd.grant(Duration::from_mins(10));
        etcd.put("leader", b"somebody", Some(&lease));
        wait_for_name(&mut observer, "somebody");
        let told = object(&run(looker(&["status", "--json"])).out[0]);
        assert_eq!(told["ttl"]["granted"], 600, "{told}");
        // What it may not do it is told at once.
        let refused = run(looker(&["step-down"]));
        assert_eq!(refused.code, 1);
        assert!(
            refused.err[0].contains("refuses (etcdserver: permission denied)"),
            "{:?}",
            refused.err
        );
        assert!(refused.took < Duration::from_secs(5), "{:?}", refused.took);
        assert!(etcd.key("leader").is_some());
        let mut command = at(&etcd.endpoint(), &["status", "--etcd-user", "looker"]);
        command.env("LEADER_ELECTION_ETCD_PASSWORD", "wrong");
        let stranger = run(command);
        assert_eq!(stranger.code, 1);
        assert!(
            stranger.err[0].contains("cannot be talked to"),
            "{:?}",
            stranger.err
        );
    }
}

#[test]
fn the_witness_tells_the_address_and_what_an_address_may_be() {
    let etcd = Etcd::newest();
    let longest = "é".repeat(127);
    for (number, address) in ["10.0.0.1", "[::1]:80", ADDRESS, &longest]
        .iter()
        .enumerate()
    {
        let key = format!("key{number}");
        let mut command = json("server1", &etcd.endpoint());
        command.args(["--leader-key", &key, "--advertise", address]);
        Daemon::spawn("leader", command).wait_for(LEADER);
        let acting = etcd.key(&format!("{key}/acting")).unwrap();
        let witness: Value = serde_json::from_slice(&acting.value).unwrap();
        assert_eq!(witness["name"], "server1");
        assert_eq!(witness["address"], *address);
        assert!(witness["since"].as_u64().unwrap() > 1_700_000_000);
    }
}

#[test]
fn the_completions_and_the_man_page_name_every_command_and_option() {
    let commands = ["status", "observe", "step-down", "completions", "man"];
    let options = [
        "--name",
        "--etcd",
        "--etcd-cacert",
        "--etcd-cert",
        "--etcd-key",
        "--etcd-user",
        "--etcd-password-file",
        "--leader-key",
        "--advertise",
        "--ttl",
        "--log-format",
        "--log",
        "--if-leader",
        "--timeout",
        "--json",
    ];
    for arguments in [
        &["completions", "bash"][..],
        &["completions", "zsh"],
        &["completions", "fish"],
        &["man"],
    ] {
        let mut command = command();
        command.args(arguments);
        let run = run(command);
        assert_eq!(run.code, 0, "{:?}", run.err);
        let text = run.out.join("\n").replace("\\-", "-");
        for word in commands.iter().chain(&options) {
            let word = if arguments[1..] == ["fish"] {
                word.trim_start_matches("--")
            } else {
                word
            };
            let is_there = text.contains(word) || text.contains(&word.to_uppercase());
            assert!(is_there, "{arguments:?}: {word}");
        }
    }
    // bash at least is always at hand: it completes what was begun.
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("completions.bash");
    let mut command = command();
    let out = File::create(&script).unwrap();
    assert!(
        command
            .args(["completions", "bash"])
            .stdout(out)
            .status()
            .unwrap()
            .success()
    );
    let ask = "source \"$1\"; COMP_WORDS=(leader-election step-down --if); COMP_CWORD=2; \
               _leader_election leader-election --if step-down; echo \"${COMPREPLY[@]}\"";
    let output = Command::new("bash")
        .args(["-c", ask, "bash"])
        .arg(&script)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        said.trim(),
        "--if-leader",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = fs::read_to_string(&script).unwrap();
    assert!(!text.contains('\u{1b}'));
}
