//! The history of terms that end: when a term is over, and what is recorded if somebody ends it by force.

use serde_json::Value;
use std::fs;
use std::time::SystemTime;
use support::daemon::{Daemon, FOLLOWER, LEADER, LOST, json as candidate};
use support::etcd::{Etcd, on_each_etcd};
use support::history::{history, wait_for_end, wait_for_terms};
use support::poll_until;

/// Starts a candidate and waits until it has printed this.
fn start(name: &str, etcd: &Etcd, role: &str) -> Daemon {
    let mut started = Daemon::spawn(name, candidate(name, &etcd.endpoint()));
    started.wait_for_next(role);
    started
}

#[test]
fn a_term_is_over_once_command_has_stopped() {
    on_each_etcd(|etcd| {
        let release = etcd.file("release");
        let script = "trap 'echo stops; while [ ! -e \"$0\" ]; do sleep 0.02; done; exit' TERM; echo \
                      runs; while :; do sleep 0.02; done";
        let mut slow = candidate("server1", &etcd.endpoint());
        slow.args(["--", "sh", "-c", script, &release]);
        let slow = Daemon::spawn("server1", slow);
        slow.wait_for_any("runs");
        let mut next = start("server2", &etcd, FOLLOWER);
        wait_for_terms(&etcd, 1, "state", "leads");
        etcd.etcdctl(&["del", "leader"]);
        slow.wait_for_any("stops");
        let ending = wait_for_terms(&etcd, 1, "state", "ending").remove(0);
        for unknown in ["until", "lasted", "ended", "ended_as"] {
            assert_eq!(ending[unknown], Value::Null, "{ending}");
        }
        let text = history(&etcd, &[]).out;
        assert!(
            text[1].ends_with("  its holder may still be acting"),
            "{text:?}"
        );

        let now = || humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let stops = now();
        poll_until("a second passes", || (now() > stops).then_some(()));
        fs::write(&release, "").unwrap();
        next.wait_for_next(LEADER);
        let ended = wait_for_end(&etcd, &ending);
        let until = ended["until"].as_str().unwrap();
        assert!(*stops < *until, "it acted until then: {ended}");
        assert_eq!(ended["ended_as"], "leader_key_deleted");
    });
}

#[test]
fn a_term_that_is_ended_by_force_says_so() {
    on_each_etcd(|etcd| {
        let mut leader = start("server1", &etcd, LEADER);
        wait_for_terms(&etcd, 1, "state", "leads");
        etcd.etcdctl(&["del", "leader/acting"]);
        leader.wait_for_next_start(LOST);
        leader.wait_for_next(LEADER);
        let terms = wait_for_terms(&etcd, 2, "state", "leads");
        let ended = wait_for_end(&etcd, &terms[0]);
        assert_eq!(ended["ended_as"], "acting_key_taken", "{ended}");

        let lease = etcd.key("leader").unwrap().lease.unwrap();
        etcd.etcdctl(&["lease", "revoke", &lease]);
        leader.wait_for_next_start(LOST);
        let ended = wait_for_end(&etcd, &terms[1]);
        // What the leader sees first: etcd deletes both keys too.
        let reasons = ["lease_gone", "acting_key_taken", "leader_key_deleted"];
        assert!(
            reasons.iter().any(|reason| ended["ended_as"] == *reason),
            "{ended}"
        );
    });
}
