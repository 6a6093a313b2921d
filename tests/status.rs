//! What `status` prints, and what all commands that read an election have in common.

use rustix::process::Signal;
use serde_json::Value;
use std::process::Command;
use std::time::Duration;
use support::daemon::{Daemon, LEADER, Line, json};
use support::etcd::{Etcd, binaries, on_each_etcd};
use support::operator::{
    ADDRESS, advertised, at, object, observe, run, status, wait_for_next_name, wait_for_next_state,
};
use support::proxy::{BlackHole, Proxy, refusing};
use support::refusals::{DENIED, OVERLOADED, Refusing};
use support::{PATIENCE, TTL, wait_until};

/// The time, as `date` writes it.
fn now() -> String {
    let date = Command::new("date")
        .args(["-u", "+%Y-%m-%dT%H:%M:%SZ"])
        .output();
    let date = String::from_utf8(date.unwrap().stdout).unwrap();
    date.trim().to_owned()
}

#[test]
fn status_prints_who_leads_its_address_and_since_when() {
    on_each_etcd(|etcd| {
        let endpoint = etcd.endpoint();
        let before = now();
        let mut leader = Daemon::spawn("server1", advertised("server1", &endpoint));
        let elected = leader.wait_for_next(LEADER);
        let (code, printed) = status(&endpoint);
        assert_eq!(code, 0);
        assert_eq!(printed["state"], "led");
        assert_eq!(printed["leader"]["name"], "server1");
        assert_eq!(printed["leader"]["address"], ADDRESS);
        assert_eq!(
            printed["leader"]["token"].to_string(),
            elected.field("token").unwrap()
        );
        assert_eq!(printed["leader"]["lease"], elected.field("lease").unwrap());
        assert_eq!(printed["ttl"]["granted"], TTL.as_secs());
        let remaining = printed["ttl"]["remaining"].as_u64().unwrap();
        assert!(remaining <= TTL.as_secs(), "{remaining}");
        let since = printed["leader"]["since"].as_str().unwrap().to_owned();
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

#[test]
fn without_a_leader_status_prints_who_may_still_be_acting_and_until_when() {
    on_each_etcd(|etcd| {
        let endpoint = etcd.endpoint();
        let (code, printed) = status(&endpoint);
        assert_eq!((code, &printed["state"]), (3, &Value::from("vacant")));
        let vacant = run(at(&endpoint, &["status"]));
        assert_eq!(
            (vacant.code, vacant.out),
            (3, vec!["Nobody leads.".to_owned()])
        );

        let mut leader = Daemon::spawn("server1", advertised("server1", &endpoint));
        leader.wait_for_next(LEADER);
        // It can neither finish nor renew its lease.
        leader.signal(Signal::STOP);
        let before = now();
        etcd.etcdctl(&["del", "leader"]);
        let (code, printed) = status(&endpoint);
        assert_eq!((code, &printed["state"]), (3, &Value::from("ending")));
        assert_eq!(printed["leader"], Value::Null);
        assert_eq!(printed["acting"]["name"], "server1");
        assert_eq!(printed["acting"]["address"], ADDRESS);
        assert!(
            *before < *printed["ttl"]["ends"].as_str().unwrap(),
            "{printed}"
        );
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
fn a_key_without_a_lease_makes_nobody_leader_and_status_says_what_to_do() {
    let etcd = Etcd::newest();
    let endpoint = etcd.endpoint();
    for (key, value) in [("leader", "by hand"), ("leader/acting", "nonsense")] {
        etcd.put(key, value.as_bytes(), None);
        let (code, printed) = status(&endpoint);
        assert_eq!(
            (code, &printed["state"]),
            (3, &Value::from("blocked")),
            "{printed}"
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
fn a_leader_that_does_not_follow_the_protocol_is_reported_as_such() {
    let etcd = Etcd::newest();
    let lease = etcd.grant(Duration::from_mins(10));
    etcd.put("leader", b"other port", Some(&lease));
    let run = run(at(&etcd.endpoint(), &["status"]));
    assert_eq!(run.code, 0);
    let expected = "'other port' holds the key 'leader' without 'leader/acting'";
    assert!(run.out[0].starts_with(expected), "{:?}", run.out);
    let (_, printed) = status(&etcd.endpoint());
    assert_eq!(printed["leader"]["name"], "other port");
    assert_eq!(printed["acting"], Value::Null);
}

#[test]
fn status_and_step_down_time_out_and_name_each_endpoint_if_etcd_is_unreachable() {
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
            let expected = format!("etcd at '{endpoint}' does not respond (");
            assert!(run.err[0].contains(&expected), "{:?}", run.err);
        }
    }
    etcd.thaw();
    // The endpoint that is reachable is found after those that are not.
    let found = run(at(&all, &["status", "--timeout", "20s"]));
    assert_eq!(found.out, ["Nobody leads."], "{:?}", found.err);
}

#[test]
fn an_overloaded_etcd_is_asked_again_until_it_responds_or_time_is_up() {
    let overloaded = Refusing::anywhere(OVERLOADED);
    for what in ["status", "step-down"] {
        let before = overloaded.requests();
        let run = run(at(&overloaded.endpoint(), &[what, "--timeout", "2s"]));
        assert_eq!(run.code, 1, "{:?}", run.out);
        let expected = format!(
            "no usable response within 2s: etcd at '{}' is overloaded (etcdserver: too many \
             requests)",
            overloaded.endpoint()
        );
        assert!(run.err[0].contains(&expected), "{:?}", run.err);
        assert!(run.took > Duration::from_millis(1400), "{:?}", run.took);
        assert!(overloaded.requests() > before + 3);
    }

    let mut etcd = Etcd::absent(binaries().last().unwrap());
    let overloaded = Refusing::start(&etcd.endpoint(), OVERLOADED);
    let asking = at(&etcd.endpoint(), &["status", "--timeout", "30s"]);
    let asking = std::thread::spawn(|| run(asking));
    wait_until("it is asked again", PATIENCE, || {
        (overloaded.requests() >= 3).then_some(())
    });
    drop(overloaded);
    etcd.up();
    let run = asking.join().unwrap();
    assert_eq!(run.out, ["Nobody leads."], "{:?}", run.err);
}

#[test]
fn a_permanent_failure_is_reported_at_once_unless_another_endpoint_may_respond() {
    let (denied, too) = (Refusing::anywhere(DENIED), Refusing::anywhere(DENIED));
    let overloaded = Refusing::anywhere(OVERLOADED);
    let etcd = Etcd::newest();
    let refusal = |refusing: &Refusing| {
        format!(
            "etcd at '{}' refuses (etcdserver: permission denied)",
            refusing.endpoint()
        )
    };
    for what in ["status", "step-down"] {
        let healthy = [denied.endpoint(), overloaded.endpoint(), etcd.endpoint()];
        let found = run(at(&healthy.join(","), &[what]));
        assert_eq!(found.out, ["Nobody leads."], "{:?}", found.err);

        let all = [denied.endpoint(), too.endpoint()];
        let refused = run(at(&all.join(","), &[what, "--timeout", "20s"]));
        assert_eq!(refused.code, 1);
        let expected = format!("error: {}; {}", refusal(&denied), refusal(&too));
        assert_eq!(refused.err, [expected]);
        assert!(refused.took < Duration::from_secs(10), "{:?}", refused.took);

        let mixed = [denied.endpoint(), overloaded.endpoint()];
        let failed = run(at(&mixed.join(","), &[what, "--timeout", "2s"]));
        assert_eq!(failed.code, 1);
        let expected = format!("no usable response within 2s: {}; etcd", refusal(&denied));
        assert!(failed.err[0].contains(&expected), "{:?}", failed.err);
        assert!(
            failed.took > Duration::from_millis(1400),
            "{:?}",
            failed.took
        );
    }
}

#[test]
fn a_member_that_checks_no_password_in_time_hides_no_healthy_one() {
    let quick = ["--bcrypt-cost", "4"].map(str::to_owned);
    let etcd = Etcd::start_with(binaries().last().unwrap(), &quick, &[]);
    for arguments in [
        &["user", "add", "root:of all evil"][..],
        &["user", "grant-role", "root", "root"],
        &["auth", "enable"],
    ] {
        etcd.etcdctl(arguments);
    }
    let hanging = Etcd::newest();
    hanging.freeze();
    let endpoints = format!("{},{}", hanging.endpoint(), etcd.endpoint());
    let mut command = at(&endpoints, &["status", "--etcd-user", "root"]);
    command.env("LEADER_ELECTION_ETCD_PASSWORD", "of all evil");
    let found = run(command);
    assert_eq!(found.out, ["Nobody leads."], "{:?}", found.err);
}

#[test]
fn hostile_keys_are_printed_harmlessly_and_marked_in_json() {
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
        // Two puts never share a revision, so this acting key belongs to another term.
        let record = serde_json::json!({
            "name": String::from_utf8_lossy(name),
            "address": String::from_utf8_lossy(name),
            "since": u64::MAX,
        });
        for acting in [record.to_string().as_bytes(), name] {
            etcd.put("leader/acting", acting, Some(&lease));
            let mut observer = observe("observer", &endpoint);
            let mut reader = Daemon::spawn("reader", at(&endpoint, &["observe"]));
            let first = wait_for_next_state(&mut observer, "led");
            reader.wait_for_next_line("a line", |_| true);
            let (code, printed) = status(&endpoint);
            assert_eq!(code, 0);
            for printed in [&first, &printed] {
                assert_eq!(printed["x"], Value::Null);
                let leader = &printed["leader"];
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
        // Ends this term before the next name.
        etcd.etcdctl(&["lease", "revoke", &lease]);
    }
}

#[test]
fn a_role_that_may_only_read_the_two_keys_is_enough_for_status_and_observe() {
    for binary in binaries() {
        let mut etcd = Etcd::start_with(&binary, &["--bcrypt-cost", "4"].map(str::to_owned), &[]);
        let mut leader = Daemon::spawn("server1", advertised("server1", &etcd.endpoint()));
        leader.wait_for_next(LEADER);
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
        etcd.set_etcdctl_options(&["--user", "root:of all evil"]);
        let looker = |arguments: &[&str]| {
            let mut command = at(&etcd.endpoint(), arguments);
            command.args(["--etcd-user", "looker"]);
            command.env("LEADER_ELECTION_ETCD_PASSWORD", "sesame");
            command
        };
        let mut observer = Daemon::spawn("observer", looker(&["observe", "--json"]));
        let seen = run(looker(&["status", "--json"]));
        // The leader has no credentials, so its lease expires soon.
        if seen.code == 0 {
            let printed = object(&seen.out[0]);
            assert_eq!(printed["leader"]["address"], ADDRESS);
            assert_eq!(printed["ttl"]["granted"], TTL.as_secs(), "{printed}");
        }
        wait_for_next_state(&mut observer, "vacant");
        let lease = etcd.grant(Duration::from_mins(10));
        etcd.put("leader", b"somebody", Some(&lease));
        wait_for_next_name(&mut observer, "somebody");
        let printed = object(&run(looker(&["status", "--json"])).out[0]);
        assert_eq!(printed["ttl"]["granted"], 600, "{printed}");
        // A permission error ends the command immediately.
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
fn the_acting_key_holds_any_valid_address() {
    let etcd = Etcd::newest();
    let longest = "é".repeat(127);
    for (number, address) in ["10.0.0.1", "[::1]:80", ADDRESS, &longest]
        .iter()
        .enumerate()
    {
        let key = format!("key{number}");
        let mut command = json("server1", &etcd.endpoint());
        command.args(["--leader-key", &key, "--advertise", address]);
        Daemon::spawn("leader", command).wait_for_next(LEADER);
        let acting = etcd.key(&format!("{key}/acting")).unwrap();
        let record: Value = serde_json::from_slice(&acting.value).unwrap();
        assert_eq!(record["name"], "server1");
        assert_eq!(record["address"], *address);
        assert!(record["since"].as_u64().unwrap() > 1_700_000_000);
    }
}
