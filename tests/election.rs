//! Who leads, and what each replica prints about it: elections, failover and handover of the real
//! binary, against each version of etcd.

use rustix::process::Signal;
use serde_json::Value;
use std::time::{Duration, Instant};
use support::checker::{terms, within_bound};
use support::daemon::{
    CANDIDATE_STOPS, Daemon, FOLLOWER, LEADER, LEADER_STOPS, Line, REFRESHED, command, json, plain,
    wait_for_leader, wait_for_next_roles,
};
use support::etcd::{Etcd, on_each_etcd};
use support::seated::{HANDED_OVER, wait_until_it_can_hand_over};
use support::{FAIL_OVER, NEXT_REQUEST, TTL, let_pass};

const SIGNALS: [(Signal, i32); 4] = [
    (Signal::TERM, 15),
    (Signal::INT, 2),
    (Signal::HUP, 1),
    (Signal::QUIT, 3),
];

/// A handover takes milliseconds. This is for a machine that is busy with other tests.
const HAND_OVER: Duration = Duration::from_millis(500);

const CHANGE: [&str; 3] = [
    "LEADERSHIP CHANGE REQUIRED",
    "new election",
    "New leader election happening.",
];

/// Returns its messages without the refreshes.
fn messages_but_refreshes(replica: &Daemon) -> Vec<String> {
    replica
        .messages()
        .into_iter()
        .filter(|message| message != REFRESHED)
        .collect()
}

/// Checks that neither key of the election is left, nor any lease that these replicas knew. A lease
/// whose grant was answered too late is unknown to them and expires.
fn assert_nothing_left(etcd: &Etcd, replicas: &[Daemon]) {
    assert_eq!(etcd.key("leader"), None);
    assert_eq!(etcd.key("leader/acting"), None);
    let lines = replicas.iter().flat_map(|replica| replica.lines());
    let known: Vec<_> = lines.filter_map(|line| line.field("lease")).collect();
    assert!(known.len() >= replicas.len());
    let left = etcd.leases();
    assert!(!left.iter().any(|lease| known.contains(lease)), "{left:?}");
}

#[test]
fn replicas_print_the_demos_lines_while_a_leader_is_killed_and_comes_back() {
    on_each_etcd(|etcd| {
        let endpoint = etcd.endpoint();
        let mut replicas: Vec<_> = ["server1", "server2", "server3"]
            .map(|name| Daemon::spawn(name, plain(name, &endpoint)))
            .into();
        let mut expected: Vec<Vec<String>> = Vec::new();
        let first = wait_for_next_roles(&mut replicas);
        for (number, replica) in replicas.iter().enumerate() {
            expected.push(vec![
                format!("Starting the server '{}'", replica.name),
                format!("Connecting to etcd at '{endpoint}'"),
                "New leader election happening.".to_owned(),
                if number == first { LEADER } else { FOLLOWER }.to_owned(),
            ]);
        }
        replicas[first].wait_for_next_refreshes(3);
        for (replica, expected) in replicas.iter().zip(&expected) {
            assert_eq!(messages_but_refreshes(replica), *expected);
        }
        assert_eq!(replicas[first].messages()[..5], {
            let mut said = expected[first].clone();
            said.push(REFRESHED.to_owned());
            said
        });

        replicas[first].crash();
        let mut dead = replicas.remove(first);
        expected.remove(first);
        for replica in &mut replicas {
            replica.skip();
        }
        let second = wait_for_next_roles(&mut replicas);
        for (number, expected) in expected.iter_mut().enumerate() {
            expected.extend(CHANGE.map(str::to_owned));
            expected.push(if number == second { LEADER } else { FOLLOWER }.to_owned());
        }
        replicas[second].wait_for_next_refreshes(3);
        for (replica, expected) in replicas.iter().zip(&expected) {
            assert_eq!(messages_but_refreshes(replica), *expected);
        }

        dead = Daemon::spawn(&dead.name.clone(), plain(&dead.name, &endpoint));
        dead.wait_for_next(FOLLOWER);
        replicas[second].wait_for_next_refreshes(3);
        assert_eq!(
            dead.messages(),
            [
                &format!("Starting the server '{}'", dead.name),
                &format!("Connecting to etcd at '{endpoint}'"),
                "New leader election happening.",
                FOLLOWER
            ]
        );
        for (replica, expected) in replicas.iter().zip(&expected) {
            assert_eq!(
                messages_but_refreshes(replica),
                *expected,
                "the others ignore the replica that came back"
            );
            assert!(replica.leads() == (replica.name == replicas[second].name));
        }
    });
}

#[test]
fn a_killed_leader_is_followed_by_another_once_its_lease_has_expired() {
    on_each_etcd(|etcd| {
        let mut replicas = Daemon::candidates(&etcd, 3);
        let mut leader = wait_for_next_roles(&mut replicas);
        let mut gone = Vec::new();
        for _ in 0..2 {
            replicas[leader].wait_for_next_refreshes(1);
            let killed = replicas[leader].crash();
            gone.push(replicas.remove(leader));
            leader = wait_for_next_roles(&mut replicas);
            let took = replicas[leader].last(LEADER).at - killed;
            within_bound("leader killed", took, FAIL_OVER, TTL);
        }
        let all: Vec<_> = gone.iter().chain(&replicas).collect();
        assert_eq!(terms(&all).len(), 3);
    });
}

#[test]
fn a_leader_restarted_at_once_follows_its_former_self_until_that_lease_has_expired() {
    on_each_etcd(|etcd| {
        let mut former = Daemon::candidates(&etcd, 1).remove(0);
        former.wait_for_next_refreshes(1);
        let killed = former.crash();
        let mut restarted = Daemon::candidates(&etcd, 1).remove(0);
        restarted.wait_for_next(FOLLOWER);
        restarted.wait_for_next("LEADERSHIP CHANGE REQUIRED");
        let took = restarted.wait_for_next(LEADER).at - killed;
        assert!(took < FAIL_OVER, "it led after {took:?}");
        assert_eq!(terms(&[&former, &restarted]).len(), 2);
    });
}

#[test]
fn a_leader_that_is_stopped_by_any_signal_hands_over_at_once() {
    on_each_etcd(|etcd| {
        let mut replicas = Daemon::candidates(&etcd, SIGNALS.len());
        let mut gone = Vec::new();
        for (signal, _) in SIGNALS {
            let count = replicas.len();
            let leader = wait_for_next_roles(&mut replicas);
            wait_until_it_can_hand_over(&etcd, &mut replicas[leader], count);
            replicas[leader].signal(signal);
            let stopped = replicas[leader].wait_for_next(LEADER_STOPS).at;
            let status = replicas[leader].wait_exit();
            assert_eq!(status.code(), Some(0), "after {signal:?}");
            let last = replicas[leader].messages().pop().unwrap();
            gone.push(replicas.remove(leader));
            if replicas.is_empty() {
                assert_eq!(last, LEADER_STOPS);
            } else {
                let next = wait_for_leader(&replicas);
                let successor = &replicas[next].name;
                assert_eq!(last, format!("{HANDED_OVER}{successor}'."));
                let took = replicas[next]
                    .last(LEADER)
                    .at
                    .saturating_duration_since(stopped);
                assert!(
                    took < HAND_OVER,
                    "after {signal:?} the next one led after {took:?}"
                );
            }
        }
        assert_nothing_left(&etcd, &gone);
        assert_eq!(terms(&gone.iter().collect::<Vec<_>>()).len(), SIGNALS.len());
    });
}

#[test]
fn a_follower_that_is_stopped_by_any_signal_does_not_disturb_the_leader() {
    on_each_etcd(|etcd| {
        let mut replicas = Daemon::candidates(&etcd, 1 + SIGNALS.len());
        let leader = wait_for_next_roles(&mut replicas);
        let mut leader = replicas.remove(leader);
        let key = etcd.key("leader");
        for (follower, (signal, _)) in replicas.iter_mut().zip(SIGNALS) {
            follower.signal(signal);
            assert_eq!(follower.wait_exit().code(), Some(0), "after {signal:?}");
            assert_eq!(follower.messages().last().unwrap(), CANDIDATE_STOPS);
            assert_eq!(follower.count(LEADER_STOPS), 0);
        }
        leader.wait_for_next_refreshes(3);
        assert_eq!(etcd.key("leader"), key);
        assert_eq!(etcd.leases(), [key.unwrap().lease.unwrap()]);
        assert_eq!(messages_but_refreshes(&leader).last().unwrap(), LEADER);
        assert_eq!(terms(&[&leader]).len(), 1);
    });
}

#[test]
fn a_second_signal_ends_a_leader_at_once_while_a_frozen_etcd_keeps_it_from_stopping() {
    on_each_etcd(|etcd| {
        let mut leaders: Vec<_> = SIGNALS
            .map(|(_, number)| {
                let name = format!("server{number}");
                let mut command = command();
                command.args(["--name", &name, "--etcd", &etcd.endpoint()]);
                command.args(["--ttl", "60s", "--leader-key", &name]);
                Daemon::spawn(&name, command)
            })
            .into();
        for leader in &mut leaders {
            leader.wait_for_next(LEADER);
        }
        etcd.freeze();
        for (leader, (signal, number)) in leaders.iter_mut().zip(SIGNALS) {
            leader.signal(Signal::TERM);
            leader.wait_for_next(LEADER_STOPS);
            let_pass(NEXT_REQUEST);
            assert!(!leader.has_ended(), "its lease cannot be revoked yet");
            let before = Instant::now();
            leader.signal(signal);
            let status = leader.wait_exit();
            assert_eq!(status.code(), Some(128 + number), "{status}");
            assert!(
                before.elapsed() < Duration::from_secs(1),
                "{:?}",
                before.elapsed()
            );
        }
    });
}

#[test]
fn the_leader_key_holds_the_leaders_name_byte_for_byte() {
    on_each_etcd(|etcd| {
        let long = "ü".repeat(127);
        let names = [
            "server1",
            "Zoë's  box №1",
            r#""quoted" \n \u{1f} {}"#,
            "日本語",
            &long,
        ];
        for (number, name) in names.into_iter().enumerate() {
            let key = format!("key{number}");
            let mut command = json(name, &etcd.endpoint());
            command.args(["--leader-key", &key]);
            let mut leader = Daemon::spawn(name, command);
            let elected = leader.wait_for_next(LEADER);

            assert_eq!(etcd.etcdctl(&["get", &key]), format!("{key}\n{name}\n"));
            let found = etcd.key(&key).unwrap();
            let acting = etcd.key(&format!("{key}/acting")).unwrap();
            let record: Value = serde_json::from_slice(&acting.value).unwrap();
            assert_eq!(record["name"], name);
            assert!(found.lease.is_some());
            assert_eq!(acting.lease, found.lease, "one lease holds both keys");
            assert_eq!(elected.field("lease"), found.lease);
            assert_eq!(elected.field("token"), Some(found.mod_revision.to_string()));
        }
    });
}

#[test]
fn of_ten_candidates_at_once_exactly_one_leads_and_all_stop_gracefully() {
    on_each_etcd(|etcd| {
        let mut replicas = Daemon::candidates(&etcd, 10);
        let leader = wait_for_next_roles(&mut replicas);
        replicas[leader].wait_for_next_refreshes(3);
        let name = etcd.key("leader").unwrap().value;
        assert_eq!(name, replicas[leader].name.as_bytes());
        assert_eq!(terms(&replicas.iter().collect::<Vec<_>>()).len(), 1);

        for replica in &replicas {
            replica.signal(Signal::TERM);
        }
        for replica in &mut replicas {
            assert_eq!(replica.wait_exit().code(), Some(0));
        }
        terms(&replicas.iter().collect::<Vec<_>>());
        assert_nothing_left(&etcd, &replicas);
    });
}

#[test]
fn elections_with_different_keys_do_not_disturb_each_other() {
    on_each_etcd(|etcd| {
        let start = |key: &str, name: &str| {
            let mut command = json(name, &etcd.endpoint());
            command.args(["--leader-key", key]);
            Daemon::spawn(name, command)
        };
        let mut one = start("leader", "one");
        let mut other = start("leader/2", "other");
        one.wait_for_next(LEADER);
        other.wait_for_next(LEADER);
        one.crash();
        let mut heir = start("leader", "heir");
        heir.wait_for_next(LEADER);
        other.skip();
        other.wait_for_next_refreshes(2);
        assert_eq!(messages_but_refreshes(&other).last().unwrap(), LEADER);
        assert_eq!(other.count("LEADERSHIP CHANGE REQUIRED"), 0);
        assert_eq!(etcd.key("leader/2").unwrap().value, b"other");
    });
}

#[test]
fn an_etcd_that_may_answer_stale_is_warned_about_once() {
    on_each_etcd(|etcd| {
        let mut daemon = Daemon::spawn("a", plain("a", &etcd.endpoint()));
        daemon.wait_for_next(LEADER);
        let version = etcd.etcdctl(&["version"]);
        let numbers: Vec<u32> = version
            .lines()
            .find_map(|line| line.strip_prefix("etcdctl version: "))
            .map(|version| {
                version
                    .trim()
                    .split('.')
                    .map(|part| part.parse().unwrap())
                    .collect()
            })
            .unwrap();
        let fixed = [[3, 4, 42], [3, 5, 28], [3, 6, 9]];
        let of_series = fixed.iter().find(|fixed| fixed[..2] == numbers[..2]);
        let outdated = of_series.is_some_and(|fixed| numbers[2] < fixed[2]);
        if outdated {
            daemon.wait_for_any_line("the warning", Line::warns_of_outdated_etcd);
        }
        daemon.wait_for_next_refreshes(3);
        let lines = daemon.lines();
        let warned = lines.iter().filter(|line| line.warns_of_outdated_etcd());
        assert_eq!(warned.count(), usize::from(outdated), "{version}");
    });
}
