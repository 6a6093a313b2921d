//! What `step-down --to` and `--to-seat` do once the leader is asked. Most of these tests play the candidates
//! by hand.

use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::Duration;
use support::daemon::{Daemon, LEADER, LOST, json as replica, wait_for_next_roles};
use support::etcd::{Etcd, binaries, on_each_etcd};
use support::etcdctl::LITTLE_ROOM;
use support::operator::{Run, at, run};
use support::played::Played;
use support::proxy::{Call, Link, Proxy};
use support::{PATIENCE, poll_until, wait_until};

/// Starts a command and waits until the leader is asked; returns the command and the line that says so.
fn start(endpoint: &str, arguments: &[&str]) -> (Daemon, String) {
    let command = at(endpoint, &[&["step-down"], arguments].concat());
    let mut stepping = Daemon::spawn("step-down", command);
    let line = stepping.wait_for_next_line("the request", |line| line.text().contains(", token "));
    (stepping, line.text())
}

/// Waits until a command ends; returns its exit code and the last line that it printed.
fn finish(stepping: &mut Daemon) -> (Option<i32>, String) {
    let code = stepping.wait_exit().code();
    (code, stepping.lines().last().expect("a line").text())
}

#[test]
fn the_command_succeeds_once_the_chosen_candidate_acts() {
    on_each_etcd(|etcd| {
        let old = Played::seated(&etcd, 0, "a");
        let token = old.lead();
        old.act(token);
        let heirs = [Played::seated(&etcd, 1, "b"), Played::seated(&etcd, 2, "b")];
        let arguments = ["--to-seat", "02", "--if-leader", "a"];
        let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
        let (mut stepping, asked) = start(&proxy.endpoint(), &arguments);
        let expected = format!("'a' is asked to hand over to 'b' in seat 02, token {token}.");
        assert_eq!(asked, expected);
        // One transaction: the term ends when somebody is chosen.
        assert_eq!(etcd.key("leader"), None);
        let next = etcd.key("leader/next").unwrap();
        assert_eq!(next.lease.as_ref(), Some(&heirs[1].lease));
        let record: Value = serde_json::from_slice(&next.value).unwrap();
        let lease = heirs[1].lease.trim_start_matches('0');
        assert_eq!(record, json!({ "token": token, "lease": lease }));

        let token = heirs[1].lead();
        // The second read shows that the command has judged the response to the first one.
        for _ in 0..2 {
            proxy.set(Link::HoldRequests(Call::Seats));
            wait_until("the command reads the seats", PATIENCE, || {
                (proxy.matching_requests() > 0).then_some(())
            });
            proxy.set(Link::Open);
        }
        assert!(!stepping.has_ended(), "it does not act yet");
        heirs[1].act(token);
        let (code, last) = finish(&mut stepping);
        assert_eq!(code, Some(0), "{last}");
        assert_eq!(last, format!("'b' leads, token {token}, lease {lease}."));
    });
}

#[test]
fn the_command_explains_who_leads_instead() {
    on_each_etcd(|etcd| {
        let [a, b, c] =
            [(0, "a"), (1, "b"), (2, "c")].map(|(n, name)| Played::seated(&etcd, n, name));
        // What the old leader's seat says of its version, and the hint that follows from it.
        let version = env!("CARGO_PKG_VERSION");
        let hints = [
            (
                Some(version),
                " 'a' did not hand over: its lease expired, or its log says why.".to_owned(),
            ),
            (
                Some("0.0.7"),
                format!(" 'a' runs version 0.0.7, and this is version {version}."),
            ),
            (
                None,
                " 'a' had no seat: it may run an older version, which ignores whom it is asked to hand \
                 over to."
                    .to_owned(),
            ),
        ];
        for (version, hint) in hints {
            a.lead();
            match version {
                Some(version) => a.publish(&json!({ "version": version })),
                None => drop(etcd.etcdctl(&["del", &a.seat])),
            }
            let (mut stepping, _) = start(&etcd.endpoint(), &["--to", "b"]);
            let token = c.lead();
            let expected = format!(
                "error: 'b' in seat 01 does not lead next: 'c' leads, token {token}, lease {}.{hint}",
                c.lease.trim_start_matches('0')
            );
            assert_eq!(finish(&mut stepping), (Some(1), expected));
        }
        a.lead();
        let (mut stepping, _) = start(&etcd.endpoint(), &["--to", "b"]);
        b.withdraw();
        let expected = "error: 'b' in seat 01 withdrew or died meanwhile: Nobody leads; 'a' may still be acting.";
        assert_eq!(finish(&mut stepping), (Some(1), expected.to_owned()));
    });
}

#[test]
fn the_command_says_what_is_known_if_the_candidate_does_not_act_in_time() {
    on_each_etcd(|etcd| {
        let [a, b] = [(0, "a"), (1, "b")].map(|(n, name)| Played::seated(&etcd, n, name));
        a.lead();
        let slow = ["step-down", "--to", "b", "--timeout", "1s"];
        let late = run(at(&etcd.endpoint(), &slow));
        assert_eq!(late.code, 1);
        let error = late.err.concat();
        let start_of_error = "error: 'b' in seat 01 was not seen to act within 1s: Nobody leads; 'a' may \
                              still be acting, until ";
        assert!(error.starts_with(start_of_error), "{error}");
        let end = " The request stands until 'a' has finished or 'b' in seat 01 is gone.";
        assert!(error.ends_with(end), "{error}");
        assert!(late.took < Duration::from_secs(5), "{:?}", late.took);

        a.lead();
        let (mut stepping, _) = start(&etcd.endpoint(), &["--to", "b", "--timeout", "2s"]);
        let token = b.lead();
        let expected = format!(
            "error: 'b' in seat 01 was not seen to act within 2s: 'b' leads, token {token}, lease {}.",
            b.lease.trim_start_matches('0')
        );
        assert_eq!(finish(&mut stepping), (Some(1), expected));
    });
}

#[test]
fn a_candidate_that_has_acted_and_leads_no_more_has_led_next() {
    on_each_etcd(|etcd| {
        let [a, b] = [(0, "a"), (1, "b")].map(|(n, name)| Played::seated(&etcd, n, name));
        a.lead();
        let (mut stepping, _) = start(&etcd.endpoint(), &["--to", "b"]);
        a.stop();
        // Its term is over before the command looks again.
        b.act(1_000_000);
        let expected =
            "'b' in seat 01 began to act, token 1000000, and no longer leads. Nobody leads.";
        assert_eq!(finish(&mut stepping), (Some(0), expected.to_owned()));
    });
}

/// Holds the request to hand over to `b` back until `change` was made; returns how the command ends.
fn step_down_while(etcd: &Etcd, proxy: &Proxy, change: impl FnOnce()) -> Run {
    let before = proxy.matching_requests();
    proxy.set(Link::HoldRequests(Call::Choose));
    let command = at(&proxy.endpoint(), &["step-down", "--to", "b"]);
    let stepping = std::thread::spawn(move || run(command));
    wait_until("it asks", PATIENCE, || {
        (proxy.matching_requests() > before).then_some(())
    });
    change();
    let revision = etcd.revision();
    proxy.set(Link::Open);
    let ended = stepping.join().unwrap();
    assert_eq!(
        (ended.code, &ended.out),
        (1, &Vec::new()),
        "{:?}",
        ended.err
    );
    assert_eq!(etcd.revision(), revision, "nothing is written");
    ended
}

#[test]
fn a_request_that_comes_too_late_changes_nothing_and_says_why() {
    on_each_etcd(|etcd| {
        let [a, b, c] =
            [(0, "a"), (1, "b"), (2, "c")].map(|(n, name)| Played::seated(&etcd, n, name));
        let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
        let start = "error: nothing was done, because";
        a.lead();
        let changed = step_down_while(&etcd, &proxy, || b.publish(&json!({ "priority": 7 })));
        let expected =
            format!("{start} 'b' in seat 01 rewrote its seat meanwhile; repeat the command");
        assert_eq!(changed.err, [expected]);
        let over = step_down_while(&etcd, &proxy, || {
            c.lead();
        });
        let expected = format!("{start} the term of 'a' ended meanwhile: 'c' leads, token ");
        assert!(over.err[0].starts_with(&expected), "{:?}", over.err);
        let gone = step_down_while(&etcd, &proxy, || b.withdraw());
        let expected = format!("{start} 'b' in seat 01 withdrew or died meanwhile");
        assert_eq!(gone.err, [expected]);
    });
}

#[test]
fn a_request_that_a_full_database_refuses_changes_nothing() {
    for binary in binaries() {
        let etcd = Etcd::start_with(&binary, &LITTLE_ROOM.map(str::to_owned), &[]);
        let [a, _b] = [(0, "a"), (1, "b")].map(|(n, name)| Played::seated(&etcd, n, name));
        a.lead();
        let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
        // It was not full when the command asked for alarms.
        let full = step_down_while(&etcd, &proxy, || etcd.fill());
        let expected = format!(
            "error: could not ask 'a' to hand over to 'b' in seat 01, and nothing was done: etcd at '{}' \
             refuses (etcdserver: mvcc: database space exceeded)",
            proxy.endpoint()
        );
        assert_eq!(full.err, [expected]);
    }
}

#[test]
fn a_request_whose_response_is_lost_is_found_to_be_carried_out() {
    on_each_etcd(|etcd| {
        let [a, b] = [(0, "a"), (1, "b")].map(|(n, name)| Played::seated(&etcd, n, name));
        for is_handed_over in [false, true] {
            let token = a.lead();
            let proxy = Proxy::start(&etcd.endpoint(), Link::HoldResponses(Call::Choose));
            let command = at(&proxy.endpoint(), &["step-down", "--to", "b"]);
            let mut stepping = Daemon::spawn("step-down", command);
            poll_until("the request is carried out", || etcd.key("leader/next"));
            let handed_over = is_handed_over.then(|| b.lead());
            // The response, which is held back, is lost with its connection.
            proxy.set(Link::Cut);
            proxy.set(Link::Open);
            let what = if is_handed_over {
                "no longer leads"
            } else {
                "is asked to hand over to 'b' in seat 01"
            };
            stepping.wait_for_next_line("what happened", |line| {
                line.text() == format!("'a' {what}, token {token}.")
            });
            b.act(handed_over.unwrap_or_else(|| b.lead()));
            let (code, last) = finish(&mut stepping);
            assert_eq!(code, Some(0), "{last}");
            assert!(last.starts_with("'b' leads, token "), "{last}");
        }
        // Whether it is carried out later is not known if it is never seen to have been.
        let token = a.lead();
        let proxy = Proxy::start(&etcd.endpoint(), Link::HoldRequests(Call::Choose));
        let arguments = ["step-down", "--to", "b", "--timeout", "1s"];
        let unknown = run(at(&proxy.endpoint(), &arguments));
        assert_eq!((unknown.code, unknown.out), (1, Vec::new()));
        let expected = "error: it is not known whether 'a' was asked to hand over to 'b' in seat 01; look \
                        at the status before you repeat the command: no usable response within 1s: etcd at ";
        assert!(unknown.err[0].starts_with(expected), "{:?}", unknown.err);
        assert_eq!(etcd.key("leader").unwrap().mod_revision, token);
    });
}

/// Waits until these candidates have seats; returns the numbers of their seats, in their order.
fn wait_for_seats(etcd: &Etcd, replicas: &[Daemon]) -> Vec<String> {
    let seat_of = |lines: &str, name: &str, taken: &[String]| {
        let lines: Vec<_> = lines.lines().collect();
        let seats = lines.chunks_exact(2).filter_map(|pair| {
            let record: Value = serde_json::from_str(pair[1]).expect("a seat");
            let number = pair[0].rsplit('/').next().expect("a key").to_owned();
            (record["name"] == name && !taken.contains(&number)).then_some(number)
        });
        seats.into_iter().next()
    };
    poll_until("every replica has a seat", || {
        let lines = etcd.etcdctl(&["get", "--prefix", "leader/candidates/"]);
        let mut numbers = Vec::new();
        for replica in replicas {
            numbers.push(seat_of(&lines, &replica.name, &numbers)?);
        }
        Some(numbers)
    })
}

#[test]
fn each_follower_in_turn_leads_next_if_it_is_chosen() {
    on_each_etcd(|etcd| {
        let mut replicas = Daemon::candidates(&etcd, 3);
        let first = wait_for_next_roles(&mut replicas);
        let mut old = first;
        let chosen = [1, 2, 1, 0].map(|step| (first + step) % 3);
        for new in chosen {
            wait_for_seats(&etcd, &replicas);
            let name = replicas[new].name.clone();
            let ended = run(at(&etcd.endpoint(), &["step-down", "--to", &name]));
            assert_eq!(
                (ended.code, &ended.err),
                (0, &Vec::new()),
                "{:?}",
                ended.out
            );
            let asked = format!(
                "'{}' is asked to hand over to '{name}' in seat ",
                replicas[old].name
            );
            assert!(ended.out[0].starts_with(&asked), "{:?}", ended.out);
            let leads = format!("'{name}' leads, token ");
            assert!(ended.out[1].starts_with(&leads), "{:?}", ended.out);
            replicas[new].wait_for_next(LEADER);
            let lost = replicas[old].wait_for_next_start(LOST).message();
            assert!(lost.contains("was deleted"), "{lost}");
            old = new;
        }
        let leaders: usize = replicas.iter().map(|replica| replica.count(LEADER)).sum();
        assert_eq!(leaders, 1 + chosen.len(), "nobody else leads in between");
    });
}

#[test]
fn one_of_two_candidates_with_the_same_name_is_chosen_by_its_seat() {
    on_each_etcd(|etcd| {
        let endpoint = etcd.endpoint();
        let mut leader = Daemon::spawn("first", replica("first", &endpoint));
        leader.wait_for_next(LEADER);
        let spawn = || Daemon::spawn("twin", replica("twin", &endpoint));
        let mut replicas = vec![leader, spawn(), spawn()];
        let seats = wait_for_seats(&etcd, &replicas);
        let refused = run(at(&endpoint, &["step-down", "--to", "twin"]));
        assert_eq!(refused.code, 1);
        let expected = format!(
            "error: more than one candidate has the name 'twin': seat {}, seat {}; nothing was done; \
             choose one with --to-seat",
            seats[1], seats[2]
        );
        assert_eq!(refused.err, [expected]);
        let key = format!("leader/candidates/{}", seats[2]);
        let lease = etcd.key(&key).unwrap().lease.unwrap();
        let ended = run(at(&endpoint, &["step-down", "--to-seat", &seats[2]]));
        assert_eq!(ended.code, 0, "{:?}", ended.err);
        assert_eq!(etcd.key("leader").unwrap().lease, Some(lease));
        replicas[0].wait_for_next_start(LOST);
    });
}

#[test]
fn a_follower_that_was_just_killed_or_stopped_is_refused() {
    for signal in [Signal::KILL, Signal::STOP] {
        on_each_etcd(|etcd| {
            let endpoint = etcd.endpoint();
            let mut leader = Daemon::spawn("a", replica("a", &endpoint));
            leader.wait_for_next(LEADER);
            let arguments = ["--name", "b", "--ttl", "9s", "--log-format", "json"];
            let heir = Daemon::spawn("b", at(&endpoint, &arguments));
            let replicas = [leader, heir];
            let seat = wait_for_seats(&etcd, &replicas).remove(1);
            let lease = etcd
                .key(&format!("leader/candidates/{seat}"))
                .unwrap()
                .lease;
            replicas[1].signal(signal);
            // It looks dead after a third of its TTL and a second, and its seat goes after the TTL.
            etcd.wait_until_lease_is_short(&lease.unwrap(), 4);
            let before = etcd.key("leader");
            let refused = run(at(&endpoint, &["step-down", "--to", "b"]));
            assert_eq!(
                (refused.code, refused.out),
                (1, Vec::new()),
                "{:?}",
                refused.err
            );
            let expected =
                format!("error: 'b' in seat {seat} looks dead: it has not renewed its lease");
            assert!(refused.err[0].starts_with(&expected), "{:?}", refused.err);
            assert_eq!(etcd.key("leader"), before);
            assert!(replicas[0].leads());
        });
    }
}
