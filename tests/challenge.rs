//! What `challenge` does, and how a take-over is reported.

use rustix::process::Signal;
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;
use support::daemon::{Daemon, FOLLOWER, LEADER, LOST, json as short};
use support::etcd::{Etcd, binaries, on_each_etcd};
use support::etcdctl::LITTLE_ROOM;
use support::history::history;
use support::operator::{Run, at, observe, run, status, wait_for_next_name};
use support::played::Played;
use support::proxy::{Call, Link, Proxy};
use support::{poll_until, users};

/// The key of the challenge.
const CHALLENGE: &str = "leader/challenge";

/// Returns a candidate with the recommended TTL.
fn candidate(name: &str, endpoint: &str) -> Command {
    at(
        endpoint,
        &["--name", name, "--ttl", "10s", "--log-format", "json"],
    )
}

/// Returns one with the recommended limit as well.
fn quick(name: &str, endpoint: &str) -> Command {
    let mut command = candidate(name, endpoint);
    command.args(["--fail-over", "1s"]);
    command
}

/// Starts a candidate, and waits until it leads.
fn leader(command: Command) -> Daemon {
    let mut leader = Daemon::spawn("server1", command);
    leader.wait_for_next(LEADER);
    leader
}

/// Runs `challenge` with these arguments.
fn challenge(etcd: &Etcd, arguments: &[&str]) -> Run {
    run(at(&etcd.endpoint(), &[&["challenge"], arguments].concat()))
}

/// Plays a leader that does not respond by itself. Returns it and its token.
fn silent(etcd: &Etcd) -> (Played<'_>, u64) {
    let leader = Played::unseated(etcd, 0, "a");
    let token = leader.lead_with(&json!({ "fail_over_ms": 1000 }));
    (leader, token)
}

/// Returns what is printed once this term is challenged.
fn challenged(name: &str, already: &str, token: u64) -> String {
    format!("'{name}' is challenged{already}, token {token}, with a fail-over limit of 1s.")
}

/// Checks that a command fails with this error, prints nothing else, and changes nothing.
fn assert_refused(etcd: &Etcd, arguments: &[&str], error: &str) {
    let before = etcd.revision();
    let refused = challenge(etcd, arguments);
    assert_eq!(
        (refused.code, refused.out, refused.err),
        (1, Vec::new(), vec![format!("error: {error}")]),
        "{arguments:?}"
    );
    assert_eq!(etcd.revision(), before, "nothing is written");
}

#[test]
fn a_live_leader_responds_and_leads_on() {
    on_each_etcd(|etcd| {
        let mut leader = leader(quick("server1", &etcd.endpoint()));
        let term = etcd.key("leader").unwrap();
        for arguments in [&[][..], &["--if-leader", "server1"]] {
            let run = challenge(&etcd, arguments);
            assert_eq!(run.code, 0, "{:?}", run.err);
            assert_eq!(run.out[0], challenged("server1", "", term.mod_revision));
            let responded = "'server1' leads and has responded. That took ";
            let took = run.out[1].strip_prefix(responded).expect(responded);
            let took: u64 = took.strip_suffix(" ms at most.").unwrap().parse().unwrap();
            assert!(took < 1000, "{took} ms");
            assert_eq!(etcd.key(CHALLENGE), None);
        }
        leader.wait_for_next_refreshes(1);
        assert_eq!(etcd.key("leader"), Some(term));
        let expected = "'server1' leads, not 'server2'; nothing was done";
        assert_refused(&etcd, &["--if-leader", "server2"], expected);
    });
}

#[test]
fn a_leader_that_does_not_respond_is_taken_over_from_and_all_reports_say_so() {
    on_each_etcd(|etcd| {
        let endpoint = etcd.endpoint();
        let mut old = leader(quick("server1", &endpoint));
        // A follower needs no limit of its own.
        let mut heir = Daemon::spawn("server2", candidate("server2", &endpoint));
        heir.wait_for_next(FOLLOWER);
        let mut observer = observe("observer", &endpoint);
        let first = wait_for_next_name(&mut observer, "server1")["leader"].clone();
        assert_eq!(first["fail_over"], 1.0, "{first}");
        assert_eq!(first.get("took_over"), None, "{first}");
        let mut lines = Daemon::spawn("lines", at(&endpoint, &["observe"]));
        lines.wait_for_next_line("the first leader", |line| line.text().contains("'server1'"));
        let shown = run(at(&endpoint, &["status"])).out;
        let limits = shown.iter().filter(|line| line.contains("fail-over"));
        let limits: Vec<_> = limits.collect();
        assert!(
            limits.len() == 1
                && limits[0].starts_with("ttl  ")
                && limits[0].ends_with(", fail-over 1s"),
            "{shown:?}"
        );
        let term = etcd.key("leader").unwrap();

        old.signal(Signal::STOP);
        let run = challenge(&etcd, &[]);
        assert_eq!(run.code, 0, "{:?}", run.err);
        assert_eq!(run.out[0], challenged("server1", "", term.mod_revision));
        let next = etcd.key("leader").unwrap();
        let start = format!("'server2' leads, token {}, lease ", next.mod_revision);
        let end = "; it took over from a leader that did not respond.";
        assert!(
            run.out[1].starts_with(&start) && run.out[1].ends_with(end),
            "{:?}",
            run.out
        );
        // The lease, which the stopped leader has renewed until then, would last for longer.
        assert!(run.took < Duration::from_secs(8), "{:?}", run.took);
        assert_eq!(etcd.key(CHALLENGE), None, "the next leader deletes it");
        heir.wait_for_next(LEADER);

        let second = wait_for_next_name(&mut observer, "server2")["leader"].clone();
        assert_eq!(second["took_over"], true, "{second}");
        assert_eq!(second.get("fail_over"), None, "{second}");
        lines.wait_for_next_line("the take-over", |line| {
            line.text().contains(&start) && line.text().ends_with(end)
        });
        let (_, shown) = status(&endpoint);
        assert_eq!(shown["leader"], second, "{shown}");
        let seats = shown["candidates"].as_array().unwrap();
        let limits: Vec<_> = seats
            .iter()
            .map(|it| (&it["name"], &it["fail_over"]))
            .collect();
        let limit = json!(1.0);
        assert!(limits.contains(&(&json!("server1"), &limit)), "{shown}");
        assert!(
            limits.contains(&(&json!("server2"), &Value::Null)),
            "{shown}"
        );
        poll_until("the term is recorded", || {
            let recorded = history(&etcd, &[]);
            let is_it =
                |line: &String| line.contains("'server2'") && line.contains("  took over  ");
            recorded.out.iter().any(is_it).then_some(())
        });
        old.signal(Signal::CONT);
        old.wait_for_next_start(LOST);
        let refused = challenge(&etcd, &[]);
        assert_eq!(
            refused.code, 1,
            "the next one has no limit: {:?}",
            refused.out
        );
    });
}

#[test]
fn a_challenge_that_stands_is_waited_for_and_not_repeated() {
    on_each_etcd(|etcd| {
        let mut only = leader(quick("server1", &etcd.endpoint()));
        let token = etcd.key("leader").unwrap().mod_revision;
        only.signal(Signal::STOP);
        // Nobody else can take over.
        let alone = challenge(&etcd, &["--timeout", "1s"]);
        assert_eq!(
            (alone.code, alone.out),
            (1, vec![challenged("server1", "", token)])
        );
        let said = alone.err.concat();
        let start = "error: 'server1' was not seen to respond within 1s, and nobody else began to lead: 'server1' \
                     leads, token ";
        let end = ". The challenge stands: a candidate that sees it takes over, unless the leader responds first.";
        assert!(said.starts_with(start) && said.ends_with(end), "{said}");
        let standing = etcd.key(CHALLENGE).unwrap();
        assert_eq!(standing.lease, None);

        let again = at(&etcd.endpoint(), &["challenge"]);
        let mut again = Daemon::spawn("challenge", again);
        again.wait_for_next(&challenged("server1", " already", token));
        assert_eq!(etcd.key(CHALLENGE), Some(standing));
        // Too late: its term is over, and it begins another one.
        only.signal(Signal::CONT);
        only.wait_for_next_start(LOST);
        assert_eq!(again.wait_exit().code(), Some(0));
        let last = again.lines().last().unwrap().text();
        let next = etcd.key("leader").unwrap().mod_revision;
        assert!(next > token, "{last}");
        assert!(
            last.starts_with(&format!("'server1' leads, token {next}, ")),
            "{last}"
        );
        assert!(!last.contains("took over"), "{last}");
    });
}

#[test]
fn a_leader_that_cannot_be_challenged_is_refused() {
    on_each_etcd(|etcd| {
        let before = etcd.revision();
        let nobody = challenge(&etcd, &[]);
        assert_eq!(
            (nobody.code, nobody.out),
            (3, vec!["Nobody leads.".to_owned()])
        );
        assert_eq!(etcd.revision(), before);

        let without = leader(short("server1", &etcd.endpoint()));
        let expected = "the term of 'server1' has no fail-over limit (--fail-over), so that it does not respond to a challenge; \
                        nothing was done; if it has failed, nobody else leads before its lease expires";
        assert_refused(&etcd, &[], expected);
        drop(without);
        poll_until("its lease has expired", || {
            etcd.key("leader/acting").is_none().then_some(())
        });

        let (_leader, _) = silent(&etcd);
        etcd.etcdctl(&["del", "leader"]);
        let expected = "nothing was done, because the term is about to end: Nobody leads; 'a' may still be acting.";
        assert_refused(&etcd, &[], expected);
        etcd.etcdctl(&["del", "leader/acting"]);

        let stranger = etcd.grant(Duration::from_mins(10));
        etcd.put("leader", b"stranger", Some(&stranger));
        let token = etcd.key("leader").unwrap().mod_revision;
        let expected = format!(
            "nothing was done, because this leader cannot be challenged: 'stranger' holds the key 'leader' without \
             'leader/acting', token {token}, lease {stranger}."
        );
        assert_refused(&etcd, &[], &expected);
    });
}

#[test]
fn a_request_whose_response_is_lost_is_not_repeated() {
    on_each_etcd(|etcd| {
        let (_leader, token) = silent(&etcd);
        for is_answered in [false, true] {
            let proxy = Proxy::start(&etcd.endpoint(), Link::HoldResponses(Call::Challenge));
            let mut command = Daemon::spawn("challenge", at(&proxy.endpoint(), &["challenge"]));
            let sent = poll_until("the request is carried out", || etcd.key(CHALLENGE));
            if is_answered {
                etcd.etcdctl(&["del", CHALLENGE]);
            }
            // The response, which is held back, is lost with its connection.
            proxy.set(Link::Cut);
            proxy.set(Link::Open);
            if is_answered {
                assert_eq!(command.wait_exit().code(), Some(1));
                let expected = "error: it is not known whether 'a' was challenged; look at the status, then repeat \
                                the command";
                assert_eq!(command.texts(), [expected]);
                assert_eq!(etcd.key(CHALLENGE), None);
            } else {
                command.wait_for_next(&challenged("a", " already", token));
                assert_eq!(etcd.key(CHALLENGE), Some(sent));
                etcd.etcdctl(&["del", CHALLENGE]);
                assert_eq!(command.wait_exit().code(), Some(0));
                let last = command.lines().last().unwrap().text();
                assert!(last.starts_with("'a' leads and has responded. "), "{last}");
            }
        }
        // Another challenge may be seen in place of the one that was answered.
        let mut command = Daemon::spawn("challenge", at(&etcd.endpoint(), &["challenge"]));
        command.wait_for_next(&challenged("a", "", token));
        let lines = format!("\ndel {CHALLENGE}\n\n\n");
        etcd.etcdctl_bytes(&["txn"], lines.as_bytes());
        etcd.put(CHALLENGE, b"x", None);
        assert_eq!(command.wait_exit().code(), Some(0));
    });
}

#[test]
fn a_user_who_may_not_write_the_challenge_is_refused() {
    for binary in binaries() {
        let cheap = ["--bcrypt-cost", "4"].map(str::to_owned);
        let mut etcd = Etcd::start_with(&binary, &cheap, &[]);
        users::add(&etcd);
        let (lease, token) = {
            let (leader, token) = silent(&etcd);
            (leader.lease, token)
        };
        users::enable(&mut etcd);
        let challenge = || run(users::as_replica(at(&etcd.endpoint(), &["challenge"])));
        let before = etcd.revision();
        let refused = challenge();
        let expected = format!(
            "error: could not challenge 'a', and nothing was done (the etcd user may not read and write the key \
             'leader/challenge'; grant its role readwrite on the prefix 'leader/' and on 'leader'): etcd at '{}' \
             refuses (etcdserver: permission denied)",
            etcd.endpoint()
        );
        assert_eq!((refused.code, refused.err), (1, vec![expected]));
        assert!(refused.took < Duration::from_secs(5), "{:?}", refused.took);
        assert_eq!(etcd.revision(), before);

        // This key is all that is needed besides.
        let permit = [
            "role",
            "grant-permission",
            "election",
            "readwrite",
            CHALLENGE,
        ];
        etcd.etcdctl(&permit);
        let mut command = users::as_replica(at(&etcd.endpoint(), &["challenge"]));
        command.args(["--timeout", "20s"]);
        let mut command = Daemon::spawn("challenge", command);
        command.wait_for_next(&challenged("a", "", token));
        etcd.etcdctl(&["lease", "revoke", &lease]);
        etcd.etcdctl(&["user", "revoke-role", "replica", "election"]);
        assert_eq!(command.wait_exit().code(), Some(1));
        let last = command.lines().last().unwrap().text();
        let expected = format!(
            "error: it is not known whether 'a' has responded: etcd at '{}' refuses (etcdserver: permission denied)",
            etcd.endpoint()
        );
        assert_eq!(last, expected);
    }
}

#[test]
fn a_full_database_takes_no_challenge_and_one_that_stands_is_waited_for() {
    for binary in binaries() {
        let etcd = Etcd::start_with(&binary, &LITTLE_ROOM.map(str::to_owned), &[]);
        let (_leader, token) = silent(&etcd);
        etcd.fill();
        let expected = "etcd's database is full (alarm NOSPACE), so that nobody can be elected; nothing was done, \
                        because a challenge needs room in the database, and it is not known whether 'a' is alive";
        assert_refused(&etcd, &[], expected);

        let etcd = Etcd::start_with(&binary, &LITTLE_ROOM.map(str::to_owned), &[]);
        let (_leader, other) = silent(&etcd);
        assert_eq!(token, other);
        etcd.put(CHALLENGE, b"x", None);
        etcd.fill();
        let mut command = Daemon::spawn("challenge", at(&etcd.endpoint(), &["challenge"]));
        command.wait_for_next(&challenged("a", " already", token));
        etcd.etcdctl(&["del", CHALLENGE]);
        assert_eq!(command.wait_exit().code(), Some(0));
    }
}

#[test]
fn an_etcd_that_is_not_there_ends_the_command_after_its_timeout() {
    let absent = Etcd::absent(&binaries().pop().unwrap());
    let ended = challenge(&absent, &["--timeout", "1s"]);
    assert_eq!((ended.code, ended.out), (1, Vec::new()));
    assert!(
        ended.err[0].starts_with("error: no usable response within 1s: etcd at "),
        "{:?}",
        ended.err
    );
    assert!(ended.took < Duration::from_secs(5), "{:?}", ended.took);
}
