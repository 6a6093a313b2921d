//! `done`: which jobs are recorded as done.

use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;
use support::done::{COMPLETED, RECORD, columns, done, wait_for_request};
use support::etcd::{Etcd, binaries, on_each_etcd};
use support::operator::{Run, at, object, run};
use support::proxy::{Call, Link, Proxy, refusing};
use support::users;

#[test]
fn no_record_of_this_election_ends_with_3() {
    on_each_etcd(|etcd| {
        for other in [
            "leader",
            "leader/done",
            "leader/done2/x",
            "leader/don",
            "other/done/x",
        ] {
            etcd.put(other, RECORD, None);
        }
        let none = done(&etcd, &[]);
        assert_eq!(none.code, 3, "{:?}", none.err);
        assert_eq!(
            none.out,
            ["No job of the election 'leader' is recorded as done."]
        );
        let none = done(&etcd, &["--json"]);
        assert_eq!((none.code, none.out, none.err), (3, Vec::new(), Vec::new()));
        let other = done(&etcd, &["--leader-key", "other"]);
        assert_eq!(other.code, 0);
        assert_eq!(other.out, [format!("'x'  {}", COMPLETED.join("  "))]);
    });
}

#[test]
fn each_record_is_a_line_in_the_order_of_the_keys() {
    on_each_etcd(|etcd| {
        for (key, value) in [
            ("leader/done/b", RECORD),
            ("leader/done/a%2Fb c%25", RECORD),
            ("leader/done/été", br#"{"name":"a \"b\""}"#),
            ("leader/done/long-winded-id", b"nonsense"),
            // These name no job.
            ("leader/done/x/y", RECORD),
            ("leader/done/100%", b"\xff"),
            ("leader/done/", b"{}"),
        ] {
            etcd.put(key, value, None);
        }
        let unknown = ["by somebody", "at an unknown time", "token unknown"];
        let text = done(&etcd, &[]);
        assert_eq!((text.code, &text.err), (0, &Vec::new()));
        let expected = [
            ("key 'leader/done/', which names no job,", unknown),
            ("key 'leader/done/100%', which names no job,", unknown),
            ("'a/b c%'", COMPLETED),
            ("'b'", COMPLETED),
            ("'long-winded-id'", unknown),
            ("key 'leader/done/x/y', which names no job,", COMPLETED),
            ("'été'", [r#"by 'a \"b\"'"#, unknown[1], unknown[2]]),
        ];
        let expected = expected.map(|(job, completed)| [&[job], &completed[..]].concat());
        assert_eq!(columns(&text), expected, "{:?}", text.out);

        let json = done(&etcd, &["--json"]);
        let objects: Vec<_> = json.out.iter().map(|line| object(line)).collect();
        let (nobody, at) = (Value::Null, "2027-01-15T08:00:00Z");
        assert_eq!(
            objects,
            [
                json!({ "id": null, "key": "leader/done/", "name": null, "token": null, "at": null }),
                json!({ "id": null, "key": "leader/done/100%", "name": null, "token": null, "at": null }),
                json!({ "id": "a/b c%", "name": "server1", "token": 7, "at": at }),
                json!({ "id": "b", "name": "server1", "token": 7, "at": at }),
                json!({ "id": "long-winded-id", "name": nobody, "token": null, "at": null }),
                json!({ "id": null, "key": "leader/done/x/y", "name": "server1", "token": 7, "at": at }),
                json!({ "id": "été", "name": "a \"b\"", "token": null, "at": null }),
            ]
        );
    });
}

#[test]
fn hostile_records_are_printed_harmlessly_and_marked_in_json() {
    let etcd = Etcd::newest();
    let hostile = "\u{1b}[2J\u{202e}\u{9b}31m\n'";
    let record = json!({ "name": hostile, "at": u64::MAX, "token": 7.5 }).to_string();
    etcd.put(&format!("leader/done/{hostile}"), record.as_bytes(), None);
    let long = json!({ "name": "x".repeat(100_000), "at": -1 }).to_string();
    etcd.put(
        &format!("leader/done/{}", "y".repeat(300)),
        long.as_bytes(),
        None,
    );
    let (text, json) = (done(&etcd, &[]), done(&etcd, &["--json"]));
    for line in text.out.iter().chain(&json.out) {
        let is_harmful = |character: char| character.is_control() || character == '\u{202e}';
        assert!(!line.contains(is_harmful) && line.len() < 1000, "{line:?}");
    }
    assert_eq!(text.out.len(), 2, "{:?}", text.out);
    let [first, second] = &json.out[..] else {
        panic!("{:?}", json.out);
    };
    let [first, second] = [first, second].map(|line| object(line));
    assert_eq!(first["key"], format!("leader/done/{hostile}"));
    assert_eq!(
        (&first["name"], &first["key_is_exact"]),
        (&hostile.into(), &Value::Null)
    );
    assert_eq!(
        (&second["name_is_exact"], &second["key_is_exact"]),
        (&false.into(), &false.into())
    );
}

/// Puts this many records with values of this length.
fn put_records(etcd: &Etcd, count: usize, length: usize) {
    let value = "x".repeat(length);
    let puts: Vec<_> = (0..count)
        .map(|number| format!("put leader/done/{number:05} {value}\n"))
        .collect();
    // etcd takes no more operations in one transaction.
    for puts in puts.chunks(128.min(1_000_000 / length)) {
        // Nothing is compared, and an empty line ends each part.
        let transaction = format!("\n{}\n\n", puts.concat());
        etcd.etcdctl_bytes(&["txn"], transaction.as_bytes());
    }
}

/// Checks that exactly these records are listed, each once.
fn assert_listed(run: &Run, count: usize) {
    assert_eq!(run.code, 0, "{:?}", run.err);
    let listed = columns(run);
    assert_eq!(listed.len(), count);
    for (number, line) in listed.iter().enumerate() {
        assert_eq!(line[0], format!("'{number:05}'"));
    }
}

#[test]
fn more_records_are_listed_than_fit_into_one_response() {
    on_each_etcd(|etcd| {
        // Five megabytes, where gRPC allows four.
        put_records(&etcd, 2500, 2000);
        assert_listed(&done(&etcd, &["--timeout", "30s"]), 2500);
        assert_eq!(done(&etcd, &["--json", "--timeout", "30s"]).out.len(), 2500);
    });
}

#[test]
fn large_values_are_read_in_smaller_parts() {
    let etcd = Etcd::newest();
    put_records(&etcd, 9, 1_000_000);
    assert_listed(&done(&etcd, &["--timeout", "30s"]), 9);
}

#[test]
fn the_list_is_that_of_one_moment_even_if_records_or_the_history_change_between_two_pages() {
    on_each_etcd(|etcd| {
        put_records(&etcd, 1001, 1);
        let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
        let list = |change: &dyn Fn()| {
            proxy.set(Link::HoldRequests(Call::LaterRecords));
            let command = at(&proxy.endpoint(), &["done", "--timeout", "30s"]);
            let listing = std::thread::spawn(move || run(command));
            wait_for_request(&proxy, "it asks for the second page");
            change();
            proxy.set(Link::Open);
            listing.join().unwrap()
        };
        let changed = list(&|| {
            etcd.etcdctl(&["del", "leader/done/01000"]);
            etcd.put("leader/done/zzz", RECORD, None);
        });
        assert_listed(&changed, 1001);
        etcd.etcdctl(&["del", "leader/done/zzz"]);
        etcd.put("leader/done/01000", RECORD, None);
        let compacted = list(&|| {
            put_records(&etcd, 1002, 1);
            etcd.etcdctl(&["compact", &etcd.revision().to_string()]);
        });
        assert_listed(&compacted, 1002);
    });
}

#[test]
fn what_a_role_does_not_allow_is_refused_at_once_and_the_message_names_the_key() {
    for binary in binaries() {
        let mut etcd = Etcd::start_with(&binary, &["--bcrypt-cost", "4"].map(str::to_owned), &[]);
        etcd.put("leader/done/x", RECORD, None);
        users::add(&etcd);
        users::enable(&mut etcd);
        let as_replica = |arguments: &[&str]| {
            let command = at(
                &etcd.endpoint(),
                &[&["done", "--timeout", "30s"], arguments].concat(),
            );
            run(users::as_replica(command))
        };
        let grant = |permission: &str| {
            let grant = [
                "role",
                "grant-permission",
                "election",
                "--prefix=true",
                permission,
            ];
            etcd.etcdctl(&[&grant[..], &["leader/done/"]].concat());
        };
        let assert_refused = |refused: &Run, doing: &str| {
            assert_eq!(refused.code, 1, "{:?}", refused.out);
            let expected = format!(
                "error: could not {doing}: etcd at '{}' refuses (etcdserver: permission denied)",
                etcd.endpoint()
            );
            assert_eq!(refused.err, [expected]);
            assert!(refused.took < Duration::from_secs(10), "{:?}", refused.took);
        };
        assert_refused(&as_replica(&[]), "read the records below 'leader/done/'");
        assert_refused(
            &as_replica(&["--forget", "x"]),
            "read the record 'leader/done/x'",
        );
        grant("read");
        assert_eq!(as_replica(&[]).out.len(), 1);
        assert_refused(
            &as_replica(&["--forget", "x"]),
            "remove the record 'leader/done/x'",
        );
        assert!(etcd.key("leader/done/x").is_some());
        grant("readwrite");
        assert_eq!(as_replica(&["--forget", "x"]).code, 0);
        assert_eq!(etcd.key("leader/done/x"), None);
    }
}

#[test]
fn an_unreachable_etcd_is_named_once_the_time_is_up() {
    let endpoint = refusing();
    for (arguments, doing) in [
        (&["done"][..], "read the records below 'leader/done/'"),
        (
            &["done", "--forget", "x"],
            "read the record 'leader/done/x'",
        ),
    ] {
        let failed = run(at(&endpoint, &[arguments, &["--timeout", "1s"]].concat()));
        assert_eq!((failed.code, failed.out), (1, Vec::new()));
        let expected = format!(
            "error: could not {doing}: no usable response within 1s: etcd at '{endpoint}' does not respond ("
        );
        assert!(failed.err[0].starts_with(&expected), "{:?}", failed.err);
        assert!(failed.took < Duration::from_secs(4), "{:?}", failed.took);
    }
}

#[test]
fn an_id_that_no_job_can_have_is_refused_before_etcd_is_asked() {
    let long = "x".repeat(256);
    for (arguments, reason) in [
        (&["--forget", ""][..], "it is empty"),
        (&["--forget", " x"], "white space"),
        (&["--forget", "a\u{1b}[2J"], "control character"),
        (&["--forget", &long], "255 bytes"),
        (&["--forget"], "a value is required"),
        (&["--forget", "x", "--json"], "cannot be used with '--json'"),
        (&["--timeout", "0"], "give a duration"),
        (&["x"], "unexpected argument"),
    ] {
        let refused = run(at("127.0.0.1:1", &[&["done"], arguments].concat()));
        assert_eq!(
            (refused.code, refused.out),
            (2, Vec::new()),
            "{arguments:?}"
        );
        assert!(refused.err.concat().contains(reason), "{:?}", refused.err);
        assert!(
            !refused.err.concat().contains('\u{1b}'),
            "{:?}",
            refused.err
        );
    }
}

#[test]
fn a_reader_that_is_gone_is_no_failure() {
    let etcd = Etcd::newest();
    etcd.put("leader/done/x", RECORD, None);
    let binary = env!("CARGO_BIN_EXE_leader-election");
    // `head` is gone before anything is printed, and 9 is closed.
    for output in ["| head -c 0", ">&-", ">/dev/null"] {
        let script = format!(
            "{{ sleep 0.1; {binary} done --etcd {}; echo $? >&2; }} {output}",
            etcd.endpoint()
        );
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]);
        assert_eq!(run(shell).err, ["0"], "{output}");
    }
}
