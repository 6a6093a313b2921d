//! When `step-down --to` and `--to-seat` refuse, and change nothing. The tests play the candidates by hand.

use serde_json::json;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;
use support::etcd::{Etcd, binaries, on_each_etcd};
use support::etcdctl::LITTLE_ROOM;
use support::operator::{Run, at, run};
use support::played::Played;

/// Runs `step-down` with these arguments.
fn step_down(etcd: &Etcd, arguments: &[&str]) -> Run {
    run(at(&etcd.endpoint(), &[&["step-down"], arguments].concat()))
}

/// Checks that a command fails with this error, prints nothing else, and changes nothing.
fn assert_refused(etcd: &Etcd, arguments: &[&str], error: &str) {
    let before = etcd.revision();
    let refused = step_down(etcd, arguments);
    assert_eq!(
        (refused.code, refused.out, refused.err),
        (1, Vec::new(), vec![format!("error: {error}")]),
        "{arguments:?}"
    );
    assert_eq!(etcd.revision(), before, "{arguments:?}: nothing is written");
}

#[test]
fn a_choice_that_cannot_be_meant_is_a_usage_error() {
    for arguments in [
        &["--to", "b", "--to-seat", "01"][..],
        &["--to-seat", "16"],
        &["--to-seat", "b"],
        &["--to-seat", "-1"],
        &["--to-seat", ""],
        &["--to"],
    ] {
        let refused = run(at("127.0.0.1:1", &[&["step-down"], arguments].concat()));
        assert_eq!(refused.code, 2, "{arguments:?}: {:?}", refused.err);
        assert!(refused.err[0].contains("--to"), "{:?}", refused.err);
    }
}

#[test]
fn a_candidate_that_cannot_be_chosen_is_refused() {
    on_each_etcd(|etcd| {
        let leader = Played::seated(&etcd, 0, "a");
        leader.act(leader.lead());
        let _heir = Played::seated(&etcd, 1, "b");
        let _first = Played::seated(&etcd, 2, "twin");
        let second = Played::seated(&etcd, 3, "twin");
        second.publish(&json!({ "address": "http://10.0.0.3" }));
        let unhealthy = Played::seated(&etcd, 4, "ill");
        let ill = json!({ "healthy": false, "reason": "no disk\u{1b}", "priority": 9 });
        unhealthy.publish(&ill);
        // What is bound to no lease, is no seat or says no name was written by hand.
        etcd.put("leader/candidates/05", br#"{"name":"stray"}"#, None);
        etcd.put(
            "leader/candidates/b",
            br#"{"name":"x"}"#,
            Some(&leader.lease),
        );
        let nameless = Played::unseated(&etcd, 6, "");
        etcd.put("leader/candidates/06", b"\xff", Some(&nameless.lease));
        let _hostile = Played::seated(&etcd, 7, "\u{1b}[2J");

        let listed = "the candidates are 'ill' in seat 04 (unhealthy), 'a' in seat 00 (leads), 'b' in seat 01, 'twin' \
                      in seat 02, 'twin' in seat 03, a candidate without a name in \
                      seat 06, '\\u{1b}[2J' in seat 07";
        let none = |what: &str| {
            format!(
                "{what}; nothing was done; {listed}; a candidate without a seat is not listed and cannot \
                 be chosen"
            )
        };
        for name in ["x", "stray", "", "A", "-b"] {
            let expected = none(&format!("there is no candidate '{name}'"));
            assert_refused(&etcd, &["--to", name], &expected);
        }
        for seat in ["05", "15"] {
            let expected = none(&format!("no candidate has seat {seat}"));
            assert_refused(&etcd, &["--to-seat", seat], &expected);
        }
        for arguments in [["--to", "a"], ["--to-seat", "00"]] {
            assert_refused(&etcd, &arguments, "'a' leads already; nothing was done");
        }
        let expected = "more than one candidate has the name 'twin': seat 02, seat 03 at \
                        'http://10.0.0.3'; nothing was done; choose one with --to-seat";
        assert_refused(&etcd, &["--to", "twin"], expected);
        for arguments in [["--to", "ill"], ["--to-seat", "4"]] {
            let expected =
                r"'ill' in seat 04 says that it is unhealthy ('no disk\u{1b}'); nothing was done";
            assert_refused(&etcd, &arguments, expected);
        }
        unhealthy.publish(&json!({ "healthy": false, "priority": 9 }));
        let expected = "'ill' in seat 04 says that it is unhealthy; nothing was done";
        assert_refused(&etcd, &["--to", "ill"], expected);
        let expected = "a candidate without a name in seat 06 does not say its name, so that no term can be handed to it; \
                        nothing was done";
        assert_refused(&etcd, &["--to-seat", "06"], expected);
        for choice in [["--to", "b"], ["--to-seat", "01"]] {
            let arguments = [&["--if-leader", "b"], &choice[..]].concat();
            assert_refused(&etcd, &arguments, "'a' leads, not 'b'; nothing was done");
        }

        // No candidate's name is anything but UTF-8.
        let mut command = at(&etcd.endpoint(), &["step-down", "--to"]);
        command.arg(OsString::from_vec(b"b\xff".to_vec()));
        let refused = run(command);
        assert_eq!(refused.code, 1);
        let expected = format!("error: {}", none("there is no candidate 'b\\xff'"));
        assert_eq!(refused.err, [expected]);
    });
}

#[test]
fn a_leader_without_a_seat_counts_as_a_candidate_with_its_name() {
    on_each_etcd(|etcd| {
        let leader = Played::unseated(&etcd, 0, "a");
        leader.lead();
        let expected = "no candidate is listed below 'leader/candidates/'; nothing was done; check whether \
                        the replicas run an older version, or have an etcd role that may not write there";
        assert_refused(&etcd, &["--to", "b"], expected);
        assert_refused(&etcd, &["--to-seat", "00"], expected);
        assert_refused(&etcd, &["--to", "a"], "'a' leads already; nothing was done");

        let _restarted = Played::seated(&etcd, 1, "a");
        let expected = "more than one candidate has the name 'a': the leader, which has no seat, seat 01; \
                        nothing was done; choose one with --to-seat";
        assert_refused(&etcd, &["--to", "a"], expected);

        let _others: Vec<_> = [0]
            .into_iter()
            .chain(2..16)
            .map(|seat| Played::seated(&etcd, seat, "other"))
            .collect();
        let refused = step_down(&etcd, &["--to", "b"]);
        let expected = "; all seats are taken, and a candidate without a seat is not listed and cannot be \
                        chosen";
        assert!(refused.err[0].ends_with(expected), "{:?}", refused.err);
    });
}

#[test]
fn a_candidate_that_does_not_renew_its_lease_is_refused() {
    on_each_etcd(|etcd| {
        let leader = Played::seated(&etcd, 0, "a");
        leader.lead();
        let mut silent = Played::unseated(&etcd, 1, "b");
        // After 4 s it looks dead, and after 9 s its seat is gone.
        silent.lease = etcd.grant(Duration::from_secs(9));
        silent.publish(&json!({}));
        etcd.wait_until_lease_is_short(&silent.lease, 4);
        let before = etcd.revision();
        let refused = step_down(&etcd, &["--to", "b"]);
        assert_eq!(refused.code, 1);
        let error = refused.err.concat();
        let start = "error: 'b' in seat 01 looks dead: it has not renewed its lease since about 2";
        assert!(error.starts_with(start), "{error}");
        assert!(error.ends_with(" s; nothing was done"), "{error}");
        assert_eq!(etcd.revision(), before);
    });
}

#[test]
fn a_leader_that_does_not_renew_its_lease_is_not_asked_to_hand_over() {
    on_each_etcd(|etcd| {
        let _heir = Played::seated(&etcd, 1, "b");
        let mut silent = Played::unseated(&etcd, 0, "a");
        silent.lease = etcd.grant(Duration::from_secs(9));
        silent.publish(&json!({}));
        silent.lead();
        etcd.wait_until_lease_is_short(&silent.lease, 4);
        let before = etcd.revision();
        let refused = step_down(&etcd, &["--to", "b"]);
        assert_eq!(refused.code, 1);
        let error = refused.err.concat();
        let start = "error: 'a' looks dead, so that it cannot hand over: it has not renewed its lease since \
                     about 2";
        assert!(error.starts_with(start), "{error}");
        assert!(error.ends_with(" s; nothing was done"), "{error}");
        assert_eq!(etcd.revision(), before);
    });
}

#[test]
fn a_seat_that_etcd_refuses_to_show_is_named() {
    on_each_etcd(|etcd| {
        let leader = Played::seated(&etcd, 0, "a");
        leader.lead();
        // Together they are too large for one response.
        for seat in 1..5 {
            etcd.put(
                &format!("leader/candidates/{seat:02}"),
                &vec![b'x'; 1_200_000],
                Some(&leader.lease),
            );
        }
        let before = etcd.revision();
        let refused = step_down(&etcd, &["--to", "b"]);
        assert_eq!(refused.code, 1, "{:?}", refused.out);
        let start = "error: etcd refuses to show 'leader/candidates/' and 'leader/next' (";
        assert!(refused.err[0].starts_with(start), "{:?}", refused.err);
        assert_eq!(etcd.revision(), before);
    });
}

#[test]
fn nobody_is_chosen_if_nobody_can_hand_over() {
    on_each_etcd(|etcd| {
        let heir = Played::seated(&etcd, 1, "b");
        let nobody = step_down(&etcd, &["--to", "b"]);
        assert_eq!(
            (nobody.code, nobody.out),
            (3, vec!["Nobody leads.".to_owned()])
        );
        let stranger = etcd.grant(Duration::from_mins(10));
        etcd.put("leader", b"stranger", Some(&stranger));
        let token = etcd.key("leader").unwrap().mod_revision;
        let expected = format!(
            "nothing was done, because this leader cannot hand over: 'stranger' holds the key 'leader' \
             without 'leader/acting', token {token}, lease {stranger}."
        );
        assert_refused(&etcd, &["--to", &heir.name], &expected);
    });
}

#[test]
fn a_full_database_is_refused_even_with_force() {
    for binary in binaries() {
        let etcd = Etcd::start_with(&binary, &LITTLE_ROOM.map(str::to_owned), &[]);
        let leader = Played::seated(&etcd, 0, "a");
        leader.lead();
        let _heir = Played::seated(&etcd, 1, "b");
        etcd.fill();
        let expected = "etcd's database is full (alarm NOSPACE), so that nobody can be elected; nothing \
                        was done, and 'a' continues to lead. --force does not help here: the request \
                        itself needs room in the database";
        assert_refused(&etcd, &["--to", "b"], expected);
        assert_refused(&etcd, &["--to-seat", "01", "--force"], expected);
    }
}

#[test]
fn a_user_who_may_not_use_the_seats_is_refused() {
    for binary in binaries() {
        let quick = ["--bcrypt-cost", "4"].map(str::to_owned);
        let mut etcd = Etcd::start_with(&binary, &quick, &[]);
        let lease = etcd.grant(Duration::from_mins(10));
        let seat = etcd.grant(Duration::from_mins(10));
        etcd.etcdctl_bytes(
            &["txn"],
            format!("\nput --lease={lease} leader a\nput --lease={lease} leader/acting a\n\n\n")
                .as_bytes(),
        );
        etcd.put("leader/candidates/01", br#"{"name":"b"}"#, Some(&seat));
        for arguments in [
            &["user", "add", "root:of all evil"][..],
            &["user", "grant-role", "root", "root"],
            &["role", "add", "r"],
            &["role", "grant-permission", "r", "readwrite", "leader"],
            &[
                "role",
                "grant-permission",
                "r",
                "readwrite",
                "leader/acting",
            ],
            &["user", "add", "operator:sesame"],
            &["user", "grant-role", "operator", "r"],
            &["auth", "enable"],
        ] {
            etcd.etcdctl(arguments);
        }
        etcd.set_etcdctl_options(&["--user", "root:of all evil"]);
        let step_down = || {
            let arguments = ["step-down", "--to", "b", "--etcd-user", "operator"];
            let mut command = at(&etcd.endpoint(), &arguments);
            command.env("LEADER_ELECTION_ETCD_PASSWORD", "sesame");
            run(command)
        };
        let before = etcd.revision();
        let refused = step_down();
        let advice = "grant its role readwrite on the prefix 'leader/' and on 'leader'";
        let expected = format!(
            "error: the etcd user may not read 'leader/candidates/' and 'leader/next' (etcdserver: \
             permission denied), so that no candidate can be chosen; nothing was done; {advice}"
        );
        assert_eq!((refused.code, refused.err), (1, vec![expected]));
        etcd.etcdctl(&[
            "role",
            "grant-permission",
            "r",
            "read",
            "leader/",
            "--prefix",
        ]);
        let refused = step_down();
        let expected = format!(
            "error: could not ask 'a' to hand over to 'b' in seat 01, and nothing was done (the etcd \
             user: {advice}): etcd at '{}' refuses (etcdserver: permission denied)",
            etcd.endpoint()
        );
        assert_eq!((refused.code, refused.err), (1, vec![expected]));
        assert_eq!(etcd.revision(), before);
        assert!(refused.took < Duration::from_secs(5), "{:?}", refused.took);
    }
}
