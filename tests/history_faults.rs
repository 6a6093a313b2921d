//! The history of terms under faults: it is written beside the election, which never waits for it.

use rustix::process::Signal;
use std::time::Duration;
use support::daemon::{Daemon, FOLLOWER, LEADER, LOST, json};
use support::etcd::{Etcd, binaries, on_each_etcd};
use support::etcdctl::LITTLE_ROOM;
use support::history::{history, keys, terms, wait_for_terms};
use support::operator::{at, run};
use support::proxy::{Call, Link, Proxy};
use support::{NEXT_REQUEST, PATIENCE, users, wait_until};

/// How a log begins that it gives up the history.
const DENIED: &str = "The etcd role may not read and write 'leader/history/'";

#[test]
fn a_role_for_the_two_keys_leads_without_a_history_and_cannot_read_it() {
    for binary in binaries() {
        let mut etcd = Etcd::start_with(&binary, &["--bcrypt-cost", "4"].map(str::to_owned), &[]);
        users::add(&etcd);
        users::enable(&mut etcd);
        let as_replica = |arguments: &[&str]| {
            let mut command = json("server1", &etcd.endpoint());
            command.args(["--log-filter", "debug"]).args(arguments);
            users::as_replica(command)
        };
        let mut replica = Daemon::spawn("server1", as_replica(&[]));
        replica.wait_for_next(LEADER);
        replica.wait_for_any_start(DENIED);
        etcd.etcdctl(&["del", "leader"]);
        replica.wait_for_next_start(LOST);
        replica.wait_for_next(LEADER);
        replica.wait_for_next_refreshes(2);
        replica.signal(Signal::TERM);
        assert!(replica.wait_exit().success());
        let lines = replica.lines();
        let denials = lines
            .iter()
            .filter(|line| line.message().starts_with(DENIED));
        assert_eq!(denials.count(), 1, "said once");
        // Without `--log-filter debug` nothing is said: that the seats are denied was logged.
        assert_eq!(replica.count(&format!("{DENIED} either.")), 1);
        assert_eq!(replica.warnings(), Vec::<String>::new());
        assert_eq!(keys(&etcd), Vec::<String>::new());

        let refused = run(users::as_replica(at(
            &etcd.endpoint(),
            &["history", "--timeout", "30s"],
        )));
        assert_eq!((refused.code, refused.out), (1, Vec::new()));
        let expected = format!(
            "error: could not read the terms below 'leader/history/': etcd at '{}' refuses \
             (etcdserver: permission denied)",
            etcd.endpoint()
        );
        assert_eq!(refused.err, [expected]);
        assert!(refused.took < Duration::from_secs(10), "{:?}", refused.took);

        let grant = [
            "role",
            "grant-permission",
            "election",
            "--prefix=true",
            "readwrite",
            "leader/",
        ];
        etcd.etcdctl(&grant);
        let mut replica = Daemon::spawn("server1", as_replica(&[]));
        replica.wait_for_next(LEADER);
        replica.signal(Signal::TERM);
        assert!(replica.wait_exit().success());
        let shown = run(users::as_replica(at(&etcd.endpoint(), &["history"])));
        assert_eq!((shown.code, shown.out.len()), (0, 2), "{:?}", shown.err);
        assert!(shown.out[1].ends_with("asked to stop"), "{:?}", shown.out);
    }
}

#[test]
fn a_role_for_all_but_the_history_is_logged_once() {
    for binary in binaries() {
        let mut etcd = Etcd::start_with(&binary, &["--bcrypt-cost", "4"].map(str::to_owned), &[]);
        users::add(&etcd);
        let grant = ["role", "grant-permission", "election", "readwrite"];
        etcd.etcdctl(&[&grant[..], &["--prefix", "leader/candidates/"]].concat());
        etcd.etcdctl(&[&grant[..], &["leader/next"]].concat());
        users::enable(&mut etcd);
        let as_replica = users::as_replica(json("server1", &etcd.endpoint()));
        let mut replica = Daemon::spawn("server1", as_replica);
        replica.wait_for_next(LEADER);
        replica.wait_for_any_start(DENIED);
        etcd.etcdctl(&["del", "leader"]);
        replica.wait_for_next_start(LOST);
        replica.wait_for_next(LEADER);
        replica.signal(Signal::TERM);
        assert!(replica.wait_exit().success());
        let expected = format!(
            "{DENIED}: this replica keeps no history. Grant readwrite on the prefix 'leader/' and restart \
             the replica."
        );
        assert_eq!(replica.count(&expected), 1);
        assert_eq!(replica.warnings(), Vec::<String>::new());
    }
}

#[test]
fn a_full_database_costs_the_end_of_a_term_its_record_and_nothing_else() {
    for binary in binaries() {
        let etcd = Etcd::start_with(&binary, &LITTLE_ROOM.map(str::to_owned), &[]);
        let mut leader = Daemon::spawn("server1", json("server1", &etcd.endpoint()));
        leader.wait_for_next(LEADER);
        wait_for_terms(&etcd, 1, "state", "leads");
        etcd.fill();
        leader.wait_for_next_refreshes(1);
        leader.signal(Signal::TERM);
        assert!(leader.wait_exit().success());
        assert_eq!(leader.warnings(), Vec::<String>::new());
        assert_eq!(terms(&etcd)[0]["state"], "cut_off");
        let shown = history(&etcd, &[]).out;
        let words =
            "no end was recorded: the holder crashed or was cut off, or etcd refused the record";
        assert!(shown[1].ends_with(words), "{shown:?}");
    }
}

#[test]
fn a_leader_whose_history_is_stuck_leads_on_and_stops_in_time() {
    on_each_etcd(|etcd| {
        let proxy = Proxy::start(&etcd.endpoint(), Link::HoldRequests(Call::Term));
        let mut leader = Daemon::spawn("server1", json("server1", &proxy.endpoint()));
        leader.wait_for_next(LEADER);
        let mut follower = Daemon::spawn("server2", json("server2", &etcd.endpoint()));
        follower.wait_for_next(FOLLOWER);
        wait_until("the start of the term is sent again", PATIENCE, || {
            (proxy.matching_requests() >= 2).then_some(())
        });
        leader.wait_for_next_refreshes(5);
        assert_eq!(keys(&etcd), Vec::<String>::new());
        leader.signal(Signal::TERM);
        assert!(leader.wait_exit().success());
        let ended = leader.lines().last().unwrap().at;
        let released = follower.wait_for_next(LEADER).at;
        // The successor does not wait for the record either.
        let after = ended.saturating_duration_since(released);
        assert!(after < NEXT_REQUEST, "{after:?}");
        assert_eq!(leader.warnings(), Vec::<String>::new());
        let terms = wait_for_terms(&etcd, 1, "state", "leads");
        assert_eq!(terms[0]["name"], "server2");
    });
}

#[test]
fn a_start_whose_response_is_lost_is_recorded_once_and_its_end_as_well() {
    on_each_etcd(|etcd| {
        let proxy = Proxy::start(&etcd.endpoint(), Link::HoldResponses(Call::Term));
        let mut leader = Daemon::spawn("server1", json("server1", &proxy.endpoint()));
        leader.wait_for_next(LEADER);
        // The first request is carried out, and the others find its record.
        wait_until("the start of the term is sent five times", PATIENCE, || {
            (proxy.matching_requests() == 5).then_some(())
        });
        // The last one is given up meanwhile.
        leader.skip();
        leader.wait_for_next_refreshes(3);
        assert_eq!(proxy.matching_requests(), 5);
        let begun = terms(&etcd);
        assert_eq!((begun.len(), &begun[0]["state"]), (1, &"leads".into()));
        let key = keys(&etcd).remove(0);
        let has_version = |number| {
            let fields = etcd.etcdctl(&["get", &key, "-w", "fields"]);
            let version = format!("\"Version\" : {number}\n");
            assert!(fields.contains(&version), "{fields}");
        };
        has_version(1);
        // The end is sent without knowing which revision wrote the start.
        proxy.set(Link::Open);
        leader.signal(Signal::TERM);
        assert!(leader.wait_exit().success());
        has_version(2);
        let ended = terms(&etcd);
        assert_eq!(ended[0]["ended_as"], "withdrawn");
        assert_eq!(ended[0]["since"], begun[0]["since"]);
    });
}
