//! What each output says of the same keys: `status`, `observe`, HTTP and the log agree.

use serde_json::Value;
use std::time::{Duration, Instant};
use support::daemon::{Daemon, FOLLOWER, LEADER, STILL_ACTS, json};
use support::etcd::Etcd;
use support::http::{get, get_json};
use support::operator::{at, object, run};
use support::{free_port, poll_until};

/// What a key is bound to.
#[derive(Clone, Copy)]
enum Bound {
    /// The lease of the key `leader`.
    Same,
    /// Another lease.
    Other,
    /// No lease.
    Not,
}

/// How the keys are written, and what is said of them.
struct Case {
    leader: Option<Bound>,
    acting: Option<Bound>,
    /// Whether one transaction writes both.
    together: bool,
    state: &'static str,
    /// How the sentence of `status` and `observe` begins, for the key `KEY`.
    start: &'static str,
    /// How it goes on after the token and the lease.
    end: &'static str,
    may_act: bool,
    warns: bool,
}

const NOT_WRITTEN_WITH_IT: &str = ", but 'KEY/acting' was not written with it; 'writer' may still \
                                   be acting";

const CASES: &[Case] = &[
    Case {
        leader: Some(Bound::Same),
        acting: Some(Bound::Same),
        together: true,
        state: "led",
        start: "'holder' leads, token ",
        end: ".",
        may_act: false,
        warns: false,
    },
    Case {
        leader: Some(Bound::Same),
        acting: None,
        together: false,
        state: "led",
        start: "'holder' holds the key 'KEY' without 'KEY/acting', token ",
        end: ".",
        may_act: false,
        warns: false,
    },
    // Two revisions are no campaign of this protocol, even if one client wrote both.
    Case {
        leader: Some(Bound::Same),
        acting: Some(Bound::Same),
        together: false,
        state: "led",
        start: "'holder' holds the key 'KEY', token ",
        end: NOT_WRITTEN_WITH_IT,
        may_act: false,
        warns: false,
    },
    Case {
        leader: Some(Bound::Same),
        acting: Some(Bound::Other),
        together: false,
        state: "led",
        start: "'holder' holds the key 'KEY', token ",
        end: NOT_WRITTEN_WITH_IT,
        may_act: false,
        warns: false,
    },
    Case {
        leader: Some(Bound::Same),
        acting: Some(Bound::Not),
        together: false,
        state: "led",
        start: "'holder' holds the key 'KEY', token ",
        end: ", and nobody else can lead until somebody deletes the key 'KEY/acting', which is bound \
              to no lease and holds '{",
        may_act: false,
        warns: true,
    },
    Case {
        leader: Some(Bound::Not),
        acting: None,
        together: false,
        state: "blocked",
        start: "Nobody leads, and nobody can until somebody deletes the key 'KEY', which is bound to \
                no lease and holds 'holder'.",
        end: "",
        may_act: false,
        warns: true,
    },
    Case {
        leader: Some(Bound::Not),
        acting: Some(Bound::Other),
        together: false,
        state: "blocked",
        start: "Nobody leads, and nobody can until somebody deletes the key 'KEY', which is bound to \
                no lease and holds 'holder'; 'writer' may still be acting",
        end: "",
        may_act: true,
        warns: true,
    },
    Case {
        leader: None,
        acting: Some(Bound::Other),
        together: false,
        state: "ending",
        start: "Nobody leads; 'writer' may still be acting",
        end: "",
        may_act: true,
        warns: false,
    },
    Case {
        leader: None,
        acting: Some(Bound::Not),
        together: false,
        state: "blocked",
        start: "Nobody leads, and nobody can until somebody deletes the key 'KEY/acting', which is \
                bound to no lease and holds '{",
        end: "; 'writer' may still be acting",
        may_act: true,
        warns: true,
    },
];

/// Writes the keys of a case.
fn write(etcd: &Etcd, key: &str, case: &Case) {
    let record = r#"{"name":"writer"}"#;
    let leases = [(); 2].map(|()| etcd.grant(Duration::from_mins(10)));
    let lease = |bound| match bound {
        Bound::Same => Some(&*leases[0]),
        Bound::Other => Some(&*leases[1]),
        Bound::Not => None,
    };
    let acting = format!("{key}/acting");
    if case.together {
        let lease = &leases[0];
        let puts = format!(
            "\nput --lease={lease} {key} holder\nput --lease={lease} {acting} {record:?}\n\n\n"
        );
        etcd.etcdctl_bytes(&["txn"], puts.as_bytes());
        return;
    }
    if let Some(bound) = case.leader {
        etcd.put(key, b"holder", lease(bound));
    }
    if let Some(bound) = case.acting {
        etcd.put(&acting, record.as_bytes(), lease(bound));
    }
}

/// Checks what both kinds of JSON have in common.
fn check_fields(shown: &Value, case: &Case) {
    let leader = &shown["leader"];
    assert_eq!(shown["state"], case.state, "{shown}");
    if case.state == "led" {
        assert_eq!(leader["name"], "holder", "{shown}");
        assert_eq!(leader["acts"], case.together, "{shown}");
    } else {
        assert_eq!(*leader, Value::Null, "{shown}");
    }
}

fn check(etcd: &Etcd, number: usize, case: &Case) {
    let key = format!("key{number}");
    let endpoint = etcd.endpoint();
    write(etcd, &key, case);
    let is_led = case.state == "led";

    let said = |arguments: &[&str]| {
        run(at(
            &endpoint,
            &[arguments, &["--leader-key", &key]].concat(),
        ))
    };
    let (status, json_status) = (said(&["status"]), said(&["status", "--json"]));
    let code = if is_led { 0 } else { 3 };
    assert_eq!((status.code, json_status.code), (code, code), "{key}");
    let shown = object(&json_status.out[0]);
    check_fields(&shown, case);
    let acting = case.acting.map_or(Value::Null, |_| "writer".into());
    assert_eq!(shown["acting"]["name"], acting, "{shown}");

    let observe = |json: &[&str]| {
        let arguments = [&["observe", "--leader-key", &key], json].concat();
        let mut observer = Daemon::spawn("observer", at(&endpoint, &arguments));
        observer.wait_for_next_line("a line", |_| true).text()
    };
    check_fields(&object(&observe(&["--json"])), case);
    let observed = observe(&[]);
    let (_, observed) = observed.split_once(' ').unwrap();
    let mut sentences = vec![observed.to_owned()];
    if case.together {
        assert_eq!(status.out[0], "leader   holder");
    } else {
        assert_eq!(status.out.len(), 1, "{:?}", status.out);
        sentences.push(status.out[0].clone());
    }
    for sentence in sentences {
        let [start, end] = [case.start, case.end].map(|part| part.replace("KEY", &key));
        assert!(sentence.starts_with(&start), "{sentence}\n{start}");
        assert!(sentence[start.len()..].contains(&end), "{sentence}\n{end}");
        let may_act = case.acting.is_some() && !case.together;
        assert_eq!(
            sentence.contains("may still be acting"),
            may_act,
            "{sentence}"
        );
    }

    let address = format!("127.0.0.1:{}", free_port());
    let mut command = json("replica", &endpoint);
    command.args(["--leader-key", &key, "--http", &address]);
    let mut replica = Daemon::spawn("replica", command);
    replica.wait_for_next("New leader election happening.");
    if case.warns {
        replica.wait_for_next_line("a warning", |line| {
            line.is_warning() && line.message().contains("is bound to no lease")
        });
    }
    if is_led {
        let follows = replica.wait_for_next(FOLLOWER);
        assert_eq!(follows.field("leader").unwrap(), "holder");
    }
    if case.may_act {
        replica.wait_for_next(STILL_ACTS);
    }
    // That somebody may still be acting is reported after a fifth of a second; so what is not reported
    // by a read that was sent after that will not be.
    let known_from = Instant::now() + Duration::from_millis(300);
    let shown = poll_until("the replica has read the keys again", || {
        let shown = get_json(&address, "/status");
        let sent = Instant::now().checked_sub(Duration::from_secs_f64(shown["age"].as_f64()?))?;
        (sent > known_from).then_some(shown)
    });
    check_fields(&shown, case);
    assert_eq!(shown["role"], "follower");
    assert_eq!(get(&address, "/leader").code, 503);
    let code = if is_led { 200 } else { 503 };
    assert_eq!(get(&address, "/follower").code, code, "{key}");
    assert_eq!(replica.count(LEADER), 0);
    assert_eq!(replica.count(FOLLOWER), usize::from(is_led), "{key}");
    assert_eq!(
        replica.count(STILL_ACTS),
        usize::from(case.may_act),
        "{key}"
    );
    let warnings = replica.warnings();
    let about_keys = warnings.iter().filter(|line| line.contains("no lease"));
    assert_eq!(about_keys.count(), usize::from(case.warns), "{warnings:?}");
}

#[test]
fn status_observe_http_and_the_log_agree_whatever_the_keys_are() {
    let etcd = Etcd::newest();
    std::thread::scope(|scope| {
        for (number, case) in CASES.iter().enumerate() {
            let etcd = &etcd;
            scope.spawn(move || check(etcd, number, case));
        }
    });
}
