//! `--fail-over`: which values fit, and what the etcd role must permit.

use rustix::process::Signal;
use std::process::Command;
use std::time::Duration;
use support::daemon::{Daemon, FOLLOWER, LEADER, json, plain};
use support::etcd::{Etcd, binaries};
use support::operator::{at, run, status};
use support::{fail_over, users};

/// An endpoint where nothing listens.
const NOWHERE: &str = "127.0.0.1:1";

/// Returns a candidate with this TTL, and with further arguments.
fn candidate(ttl: &str, arguments: &[&str]) -> Command {
    at(NOWHERE, &[&["--ttl", ttl], arguments].concat())
}

/// Returns the error of a command line that is refused.
fn refusal(ttl: &str, arguments: &[&str]) -> String {
    let refused = run(candidate(ttl, arguments));
    assert_eq!(refused.code, 2, "{arguments:?}: {:?}", refused.err);
    assert!(refused.out.is_empty(), "{arguments:?}: {:?}", refused.out);
    refused.err.join("\n")
}

/// Starts a candidate, which must accept its command line; returns its warnings.
fn accepted(command: Command) -> Vec<String> {
    let mut replica = Daemon::spawn("replica", command);
    replica.wait_for_next_start("Starting the server");
    // It reports that no etcd is there after all that it has to say of its options.
    replica.wait_for_any_start("WARN etcd at");
    replica.warnings()
}

#[test]
fn a_limit_that_is_none_is_refused() {
    for value in [
        "",
        "0",
        "0s",
        "-1s",
        "199ms",
        "0.2005s",
        "0.5",
        "200500us",
        "200ms 1ns",
        "30m 1ms",
        "31m",
        "1h",
        "x",
        "off",
    ] {
        let error = refusal("1h", &[&format!("--fail-over={value}")]);
        let expected =
            "a fail-over limit is a whole number of milliseconds, at least 200ms and at most 30m";
        let is_named =
            error.contains(expected) || (value.is_empty() && error.contains("--fail-over"));
        assert!(is_named, "{value:?}: {error}");
    }
    let mut command = candidate("2s", &[]);
    command.env("LEADER_ELECTION_FAIL_OVER", "fast");
    let refused = run(command);
    assert_eq!(refused.code, 2);
    let expected = "invalid value 'fast' for 'LEADER_ELECTION_FAIL_OVER'";
    assert!(refused.err[0].contains(expected), "{:?}", refused.err);
}

#[test]
fn a_limit_that_does_not_fit_the_other_options_is_refused() {
    for (ttl, arguments, expected) in [
        (
            "2s",
            &["--fail-over", "1001ms"][..],
            "a fail-over limit of 1001ms does not fit a TTL of 2s: half of the TTL is the longest",
        ),
        (
            "3s",
            &["--fail-over", "1501ms", "--", "true"],
            "a fail-over limit of 1501ms does not fit a TTL of 3s: half of the TTL is the longest",
        ),
        (
            "10s",
            &["--fail-over", "999ms", "--", "true"],
            "--fail-over 999ms is too short for a COMMAND, which needs time to stop: 1s is the shortest",
        ),
        (
            "10s",
            &["--fail-over", "1s", "--grace", "300ms", "--", "true"],
            "a grace of 300ms does not fit a fail-over limit of 1s: one bad endpoint could cost a healthy leader its \
             term; a fifth of the limit always fits",
        ),
    ] {
        let error = refusal(ttl, arguments);
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
    for (ttl, arguments) in [
        ("2s", &["--fail-over", "1s"][..]),
        ("2s", &["--fail-over", "1000ms", "--", "true"]),
        ("3s", &["--fail-over", "1.5s"]),
        (
            "10s",
            &["--fail-over", "1s", "--grace", "299ms", "--", "true"],
        ),
        ("1h", &["--fail-over", "30m", "--", "true"]),
        // What the option does not say of a COMMAND counts only with one.
        ("2s", &["--fail-over", "500ms"]),
    ] {
        let warnings = accepted(candidate(ttl, arguments));
        assert_eq!(warnings.len(), 1, "{arguments:?}: {warnings:?}");
    }
}

#[test]
fn a_limit_below_half_a_second_is_worth_a_warning_and_an_empty_variable_is_no_limit() {
    for (value, is_short) in [
        ("200ms", true),
        ("499ms", true),
        ("500ms", false),
        ("", false),
    ] {
        let mut command = candidate("2s", &[]);
        command.env("LEADER_ELECTION_FAIL_OVER", value);
        let mut warnings = accepted(command);
        warnings.retain(|warning| warning.contains("--fail-over"));
        let expected = is_short.then(|| {
            format!(
                "WARN --fail-over {value} is short: a busy etcd may cost the leader its term; 1s is recommended."
            )
        });
        assert_eq!(warnings, Vec::from_iter(expected), "{value:?}");
    }
    let etcd = Etcd::newest();
    let mut command = plain("server1", &etcd.endpoint());
    command.env("LEADER_ELECTION_FAIL_OVER", "");
    Daemon::spawn("server1", command).wait_for_next(LEADER);
    let (_, shown) = status(&etcd.endpoint());
    assert_eq!(shown["leader"]["name"], "server1");
    assert_eq!(shown["leader"].get("fail_over"), None, "{shown}");
}

/// Starts an etcd with users. `replica` may read and write the two keys, and nothing else.
fn with_users(binary: &std::path::Path) -> Etcd {
    let cheap = ["--bcrypt-cost", "4"].map(str::to_owned);
    let mut etcd = Etcd::start_with(binary, &cheap, &[]);
    users::add(&etcd);
    users::enable(&mut etcd);
    etcd
}

#[test]
fn a_role_that_does_not_permit_the_challenge_is_an_error_at_the_start() {
    for binary in binaries() {
        let etcd = with_users(&binary);
        let quick = || {
            let mut command = users::as_replica(json("server1", &etcd.endpoint()));
            command.args(["--fail-over", "1s"]);
            command
        };
        let mut refused = Daemon::spawn("server1", quick());
        assert_eq!(refused.wait_exit().code(), Some(1));
        let said = refused.lines().last().unwrap().message();
        let expected = "the etcd user may not read and write the key 'leader/challenge', which --fail-over requires \
                        (etcdserver: permission denied); grant its role readwrite on the prefix 'leader/' and on \
                        'leader'";
        assert!(said.contains(expected), "{said}");
        assert!(!refused.has_said(LEADER));
        assert_eq!(etcd.key("leader"), None);

        users::permit_all_keys_of_the_election(&etcd);
        Daemon::spawn("server1", quick()).wait_for_next(LEADER);
    }
}

#[test]
fn a_follower_that_may_not_use_the_challenge_waits_for_the_lease() {
    for binary in binaries() {
        let etcd = with_users(&binary);
        let ttl = Duration::from_secs(3);
        let options = ["--ttl", "3s", "--log-format", "json"];
        let mut command = at(&etcd.endpoint(), &["--name", "root", "--fail-over", "1s"]);
        command.args(options).args(["--etcd-user", "root"]);
        command.env("LEADER_ELECTION_ETCD_PASSWORD", "of all evil");
        let mut leader = Daemon::spawn("root", command);
        leader.wait_for_next(LEADER);
        let mut command = at(&etcd.endpoint(), &["--name", "server2"]);
        command.args(options);
        let mut follower = Daemon::spawn("server2", users::as_replica(command));
        follower.wait_for_next(FOLLOWER);
        // It follows for longer than its reads and its looks at the lease are apart.
        leader.wait_for_next_refreshes(3);
        assert!(!follower.has_ended());
        let killed = leader.crash();
        let leads = follower.wait_for_next(LEADER).at.duration_since(killed);
        assert!(leads > ttl / 2, "it did not take over: {leads:?}");
        assert!(leads < fail_over(ttl), "{leads:?}");
        follower.wait_for_next_refreshes(1);
        follower.signal(Signal::TERM);
        assert_eq!(follower.wait_exit().code(), Some(0));
    }
}
