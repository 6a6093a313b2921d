//! What `observe` prints, through outages and compactions.

use rustix::process::Signal;
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::process::Stdio;
use std::time::Duration;
use support::daemon::{Daemon, FOLLOWER, LEADER, Stream, json};
use support::etcd::{Etcd, binaries, on_each_etcd};
use support::operator::{
    ADDRESS, advertised, at, objects_about_leaders, observe, wait_for_next_event,
    wait_for_next_name, wait_for_next_state,
};
use support::proxy::{Link, Proxy, refusing};
use support::seated::wait_until_it_can_hand_over;

#[test]
fn observe_prints_each_change_in_one_line_as_it_happens() {
    on_each_etcd(|etcd| {
        let endpoint = etcd.endpoint();
        let mut observer = observe("observer", &endpoint);
        let mut reader = Daemon::spawn("reader", at(&endpoint, &["observe"]));
        wait_for_next_state(&mut observer, "vacant");
        reader.wait_for_next_line("nobody", |line| line.text().ends_with(" Nobody leads."));
        let mut first = Daemon::spawn("server1", advertised("server1", &endpoint));
        let elected = first.wait_for_next(LEADER);
        let told_first = wait_for_next_name(&mut observer, "server1");
        assert_eq!(told_first["leader"]["address"], ADDRESS);
        let token = told_first["leader"]["token"].to_string();
        assert_eq!(Some(token), elected.field("token"));
        let mut second = Daemon::spawn("server2", json("server2", &endpoint));
        second.wait_for_next(FOLLOWER);
        wait_until_it_can_hand_over(&etcd, &mut first, 2);
        etcd.etcdctl(&["del", "leader"]);
        wait_for_next_name(&mut observer, "server2");
        wait_until_it_can_hand_over(&etcd, &mut second, 2);
        second.signal(Signal::TERM);
        second.wait_exit();
        wait_for_next_name(&mut observer, "server1");
        // Nobody else is there now.
        etcd.etcdctl(&["del", "leader"]);
        wait_for_next_state(&mut observer, "vacant");
        wait_for_next_name(&mut observer, "server1");
        first.signal(Signal::TERM);
        first.wait_exit();
        wait_for_next_state(&mut observer, "vacant");

        let states: Vec<_> = objects_about_leaders(&observer)
            .iter()
            .map(|event| match event["leader"]["name"].as_str() {
                Some(name) => name.to_owned(),
                None => event["state"].as_str().unwrap().to_owned(),
            })
            .collect();
        // While there is a successor, a term is handed over.
        let expected = [
            "vacant", "server1", "ending", "server2", "server1", "ending", "vacant", "server1",
            "vacant",
        ];
        assert_eq!(states, expected, "{:#?}", objects_about_leaders(&observer));
        let revisions: Vec<_> = objects_about_leaders(&observer)
            .iter()
            .map(|event| event["revision"].as_u64().unwrap())
            .collect();
        assert!(
            revisions.is_sorted_by(|one, next| one < next),
            "{revisions:?}"
        );

        let mut lines = reader.texts();
        lines.retain(|line| !line.contains("candidate"));
        for (number, end) in [
            " Nobody leads.",
            "'server1' leads at 'https://10.0.0.1:8443/\\\"a b\\\"?é', token ",
            " Nobody leads; 'server1' may still be acting.",
            "'server2' leads, token ",
        ]
        .iter()
        .enumerate()
        {
            let line = &lines[number];
            assert!(line.contains(end), "{line}");
        }
        // A signal stops it.
        observer.signal(Signal::TERM);
        assert_eq!(observer.wait_exit().code(), Some(0));
    });
}

#[test]
fn observe_survives_restarts_of_etcd_reports_each_once_and_loses_no_change() {
    for binary in binaries() {
        let mut etcd = Etcd::start(&binary);
        // The observer's connection is cut while the leaders' own stay open.
        let way = Proxy::start(&etcd.endpoint(), Link::Open);
        let mut observer = observe("observer", &way.endpoint());
        wait_for_next_state(&mut observer, "vacant");
        for round in 0..2 {
            way.set(Link::Cut);
            let mut terms = Vec::new();
            for name in ["server1", "server2", "server3"] {
                let mut leader = Daemon::spawn(name, json(name, &etcd.endpoint()));
                terms.push(leader.wait_for_next(LEADER).field("token").unwrap());
                leader.signal(Signal::TERM);
                leader.wait_exit();
            }
            if round == 1 {
                etcd.kill();
                etcd.up();
            }
            let unanswered = wait_for_next_event(&mut observer, "unanswered");
            assert_eq!(unanswered["endpoint"], way.endpoint());
            way.set(Link::Open);
            wait_for_next_event(&mut observer, "answered_again");
            let seen = support::wait_until("all terms", support::PATIENCE, || {
                let is_term = |event: &&Value| event["state"] == "led";
                let token = |event: &Value| event["leader"]["token"].to_string();
                let all: Vec<_> = objects_about_leaders(&observer)
                    .iter()
                    .filter(is_term)
                    .map(token)
                    .collect();
                all.get(round * terms.len()..(round + 1) * terms.len())
                    .map(<[String]>::to_vec)
            });
            assert_eq!(seen, terms, "{:#?}", objects_about_leaders(&observer));
            wait_for_last_state(&observer, "vacant");
        }
        let events: Vec<_> = objects_about_leaders(&observer)
            .iter()
            .map(|event| event["event"].as_str().unwrap().to_owned())
            .filter(|event| event != "situation")
            .collect();
        let once = ["unanswered", "answered_again"];
        assert_eq!(events, [once, once].concat(), "said once each");
        let vacant = objects_about_leaders(&observer)
            .iter()
            .filter(|event| event["state"] == "vacant")
            .count();
        assert_eq!(
            vacant,
            7,
            "each term's end is reported: {:#?}",
            objects_about_leaders(&observer)
        );
    }
}

/// Waits until this is the last state that it has printed.
fn wait_for_last_state(observer: &Daemon, state: &str) {
    support::wait_until(state, support::PATIENCE, || {
        (objects_about_leaders(observer).last()?["state"] == state).then_some(())
    });
}

#[test]
fn after_a_compaction_observe_says_that_changes_may_be_missing_and_only_then() {
    on_each_etcd(|etcd| {
        let way = Proxy::start(&etcd.endpoint(), Link::Open);
        let mut observer = observe("observer", &way.endpoint());
        let mut reader = Daemon::spawn("reader", at(&way.endpoint(), &["observe"]));
        let before = wait_for_next_state(&mut observer, "vacant");
        reader.wait_for_next_line("nobody", |line| line.text().ends_with(" Nobody leads."));
        way.set(Link::Cut);
        for name in ["server1", "server2"] {
            let mut leader = Daemon::spawn(name, json(name, &etcd.endpoint()));
            leader.wait_for_next(LEADER);
            leader.signal(Signal::TERM);
            leader.wait_exit();
        }
        let mut leader = Daemon::spawn("server3", json("server3", &etcd.endpoint()));
        leader.wait_for_next(LEADER);
        etcd.etcdctl(&["compact", &etcd.revision().to_string()]);
        way.set(Link::Open);
        let gap = wait_for_next_event(&mut observer, "gap");
        assert_eq!(gap["after"], before["revision"]);
        wait_for_next_name(&mut observer, "server3");
        reader.wait_for_next_line("a warning", |line| {
            line.stream == Stream::Err && line.text().contains("WARN etcd has compacted")
        });

        // The outage ends when a watch is open, which may be before or after the gap is reported.
        support::wait_until("the outage's end", support::PATIENCE, || {
            let is_end = |event: &Value| event["event"] == "answered_again";
            objects_about_leaders(&observer)
                .iter()
                .any(is_end)
                .then_some(())
        });

        // As long as the keys are unchanged, no change can have been lost.
        way.set(Link::Cut);
        for number in 0..10 {
            etcd.put(&format!("other{number}"), b"", None);
        }
        etcd.etcdctl(&["compact", &etcd.revision().to_string()]);
        wait_for_next_event(&mut observer, "unanswered");
        way.set(Link::Open);
        wait_for_next_event(&mut observer, "answered_again");
        leader.signal(Signal::TERM);
        leader.wait_exit();
        wait_for_next_state(&mut observer, "vacant");
        let gaps = objects_about_leaders(&observer)
            .iter()
            .filter(|event| event["event"] == "gap")
            .count();
        assert_eq!(gaps, 1, "{:#?}", objects_about_leaders(&observer));
    });
}

#[test]
fn observe_notices_an_etcd_that_is_silent_and_one_that_lost_its_data() {
    let mut etcd = Etcd::newest();
    let mut leader = Daemon::spawn("server1", json("server1", &etcd.endpoint()));
    leader.wait_for_next(LEADER);
    let mut observer = observe("observer", &etcd.endpoint());
    wait_for_next_name(&mut observer, "server1");
    etcd.freeze();
    wait_for_next_event(&mut observer, "unanswered");
    etcd.thaw();
    wait_for_next_event(&mut observer, "answered_again");
    leader.crash();
    etcd.kill_and_forget();
    etcd.up();
    wait_for_next_event(&mut observer, "history_went_back");
    wait_for_next_state(&mut observer, "vacant");
    let mut heir = Daemon::spawn("heir", json("heir", &etcd.endpoint()));
    heir.wait_for_next(LEADER);
    wait_for_next_name(&mut observer, "heir");
}

#[test]
fn an_observer_silently_changes_to_an_endpoint_that_is_reachable() {
    let etcd = Etcd::newest();
    let way = Proxy::start(&etcd.endpoint(), Link::Open);
    let endpoints = format!("{},{},{}", way.endpoint(), refusing(), etcd.endpoint());
    let mut observer = observe("observer", &endpoints);
    wait_for_next_state(&mut observer, "vacant");
    way.set(Link::Cut);
    let mut leader = Daemon::spawn("server1", json("server1", &etcd.endpoint()));
    leader.wait_for_next(LEADER);
    wait_for_next_name(&mut observer, "server1");
    let events = objects_about_leaders(&observer);
    assert!(
        events.iter().all(|event| event["event"] == "situation"),
        "{events:#?}"
    );
}

#[test]
fn observe_ends_silently_when_its_reader_is_gone() {
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
    // `head -1` does the same; the program has nothing to write at that time.
    drop(out);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    // The same holds for a command that ends by itself.
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
    // A full disk is an error.
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
fn observe_can_be_stopped_while_its_reader_does_not_read() {
    let etcd = Etcd::newest();
    let (reader, writer) = std::io::pipe().unwrap();
    let capacity = rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
    let mut command = at(&etcd.endpoint(), &["observe", "--json"]);
    command.stdout(writer);
    let mut observer = Daemon::spawn_with_own_output("observer", command);
    let lease = etcd.grant(Duration::from_mins(10));
    let name = [b'n'; 200];
    for _ in 0..10 + capacity / name.len() {
        etcd.put("leader", &name, Some(&lease));
    }
    // The pipe is full when it has no room for another line; no event reports that.
    while rustix::io::ioctl_fionread(&reader).unwrap() + 1000 < capacity as u64 {
        std::thread::sleep(Duration::from_millis(10));
    }
    observer.signal(Signal::TERM);
    assert_eq!(observer.wait_exit().code(), Some(0));
    drop(reader);
}
