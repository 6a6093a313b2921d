//! What the election does when an operator writes or deletes its keys, or restores old data of etcd.

use rustix::process::Signal;
use std::time::{Duration, SystemTime};
use support::checker::{Allowance, stall, terms, terms_despite, within_bound};
use support::daemon::{
    Daemon, FOLLOWER, LEADER, LOST, STILL_ACTS, Stream, command, json, plain, wait_for_leader,
    wait_for_next_roles, wait_for_settled,
};
use support::etcd::{Etcd, binaries, on_each_etcd};
use support::etcdctl::LITTLE_ROOM;
use support::{FAIL_OVER, TTL, let_pass, users};

/// Deletes the key `leader` of one of three replicas, and checks that another one leads next.
fn another_leads_after_a_deletion(
    etcd: &Etcd,
    mut replicas: Vec<Daemon>,
    fault: &str,
    ttl: Duration,
) {
    let old = wait_for_next_roles(&mut replicas);
    replicas[old].wait_for_next_refreshes(1);
    let deleted = SystemTime::now();
    etcd.etcdctl(&["del", "leader"]);
    let lost = replicas[old].wait_for_next_start(LOST).message();
    assert!(lost.contains("deleted") && lost.ends_with('.'), "{lost}");
    let new = wait_for_next_roles(&mut replicas);
    assert_ne!(
        new, old,
        "a leader that was asked to step down lets the others lead first"
    );
    replicas[new].wait_for_next_refreshes(3);
    assert_eq!(
        etcd.key("leader").unwrap().value,
        replicas[new].name.as_bytes()
    );
    let all = terms(&replicas.iter().collect::<Vec<_>>());
    assert_eq!(all.len(), 2);
    within_bound(fault, stall(&all, deleted), ttl, ttl);
}

#[test]
fn a_leader_key_deleted_by_hand_makes_another_one_lead() {
    on_each_etcd(|etcd| {
        let replicas = Daemon::candidates(&etcd, 3);
        another_leads_after_a_deletion(&etcd, replicas, "leader deleted", TTL);
    });
}

#[test]
fn a_leader_that_knows_no_successor_lets_the_others_campaign_first_after_its_key_was_deleted() {
    on_each_etcd(|mut etcd| {
        // This role does not permit the candidates' seats.
        users::add(&etcd);
        users::enable(&mut etcd);
        let spawn = |name| {
            let mut replica = command();
            replica.args(["--name", name, "--etcd", &etcd.endpoint(), "--ttl", "5s"]);
            replica.args(["--log-format", "json"]);
            Daemon::spawn(name, users::as_replica(replica))
        };
        let replicas = ["server1", "server2", "server3"].map(spawn).into();
        let fault = "leader deleted, with a role for two keys";
        // It holds off for a fifth of this, which is enough for the others on a busy machine.
        let ttl = Duration::from_secs(5);
        another_leads_after_a_deletion(&etcd, replicas, fault, ttl);
    });
}

#[test]
fn a_leader_without_rivals_leads_again_after_its_key_was_deleted_by_hand() {
    on_each_etcd(|etcd| {
        let mut only = Daemon::candidates(&etcd, 1).remove(0);
        let old = only.wait_for_next_refreshes(1).field("lease");
        etcd.etcdctl(&["del", "leader"]);
        only.wait_for_next_start(LOST);
        only.wait_for_next(LEADER);
        let new = only.wait_for_next_refreshes(3).field("lease");
        assert_ne!(new, old, "a lease serves one term");
        assert_eq!(terms(&[&only]).len(), 2);
        assert_eq!(etcd.leases(), [new.unwrap()], "the old one was revoked");
    });
}

#[test]
fn that_somebody_may_still_be_acting_is_logged_within_a_second_whatever_the_ttl_is() {
    on_each_etcd(|etcd| {
        let replica = |name: &str| {
            let mut command = command();
            command.args(["--name", name, "--etcd", &etcd.endpoint(), "--ttl", "1h"]);
            Daemon::spawn(name, command)
        };
        let mut leader = replica("leader");
        leader.wait_for_next(LEADER);
        let mut follower = replica("follower");
        follower.wait_for_next(FOLLOWER);
        // It can neither finish nor release its key.
        leader.signal(Signal::STOP);
        etcd.etcdctl(&["del", "leader"]);
        let gone = follower.wait_for_next("LEADERSHIP CHANGE REQUIRED");
        let reported = follower.wait_for_next(STILL_ACTS);
        let took = reported.at - gone.at;
        // The other key usually goes in the same revision, or soon.
        assert!(took > Duration::from_millis(250), "{took:?}");
        assert!(took < Duration::from_secs(2), "{took:?}");
        // It is reported to a newcomer as well, and once.
        let mut newcomer = replica("newcomer");
        newcomer.wait_for_next(STILL_ACTS);
        leader.signal(Signal::CONT);
        leader.wait_for_next_start(LOST);
        let replicas = [leader, follower, newcomer];
        wait_for_leader(&replicas);
        for replica in &replicas[1..] {
            assert_eq!(replica.count(STILL_ACTS), 1);
        }
    });
}

#[test]
fn nobody_is_said_to_be_acting_still_if_both_keys_go_together() {
    on_each_etcd(|etcd| {
        let mut replicas = Daemon::candidates(&etcd, 3);
        for round in 0..4 {
            let leader = wait_for_next_roles(&mut replicas);
            let name = replicas[leader].name.clone();
            if round % 2 == 0 {
                // Its lease expires.
                replicas[leader].crash();
                let dead = replicas.remove(leader);
                assert_eq!(dead.count(STILL_ACTS), 0);
                replicas.push(Daemon::spawn(&name, json(&name, &etcd.endpoint())));
            } else {
                let lease = etcd.key("leader").unwrap().lease.unwrap();
                etcd.etcdctl(&["lease", "revoke", &lease]);
                replicas[leader].wait_for_next_start(LOST);
            }
        }
        wait_for_next_roles(&mut replicas);
        for replica in &replicas {
            assert_eq!(replica.count(STILL_ACTS), 0, "{:?}", replica.messages());
        }
    });
}

#[test]
fn a_leader_key_overwritten_by_hand_leaves_nobody_leading_until_it_is_gone() {
    on_each_etcd(|etcd| {
        for bound in [true, false] {
            let mut replicas = Daemon::candidates(&etcd, 3);
            let old = wait_for_next_roles(&mut replicas);
            replicas[old].wait_for_next_refreshes(1);
            let lease = bound.then(|| etcd.grant(Duration::from_mins(10)));
            etcd.put("leader", b"intruder", lease.as_deref());
            let lost = replicas[old].wait_for_next_start(LOST).message();
            assert!(
                lost.contains("overwritten") && lost.ends_with('.'),
                "{lost}"
            );
            if !bound {
                for replica in &mut replicas {
                    replica.wait_for_next_line("a warning of a key without a lease", |line| {
                        line.is_warning() && line.message().contains("lease")
                    });
                }
            }
            let_pass(TTL * 2);
            assert_eq!(
                etcd.key("leader").unwrap().value,
                b"intruder",
                "no replica deletes it"
            );
            assert!(
                !replicas.iter().any(Daemon::leads),
                "nobody leads beside the intruder"
            );

            let freed = SystemTime::now();
            match lease {
                Some(lease) => etcd.etcdctl(&["lease", "revoke", &lease]),
                None => etcd.etcdctl(&["del", "leader"]),
            };
            let new = wait_for_leader(&replicas);
            replicas[new].skip();
            replicas[new].wait_for_next_refreshes(3);
            let all = terms(&replicas.iter().collect::<Vec<_>>());
            assert_eq!(all.len(), 2);
            let what = if bound { "with" } else { "without" };
            let fault = format!("leader overwritten {what} a lease, then freed");
            within_bound(&fault, stall(&all, freed), TTL, TTL);
        }
    });
}

#[test]
fn a_key_without_a_lease_is_warned_about_loudly_and_never_deleted() {
    on_each_etcd(|etcd| {
        for put in ["leader", "leader/acting"] {
            etcd.put(put, b"by hand", None);
            let mut replicas: Vec<_> = ["server1", "server2"]
                .map(|name| Daemon::spawn(name, plain(name, &etcd.endpoint())))
                .into();
            for replica in &mut replicas {
                // On a busy machine, etcd may be slow to respond, which is warned about too.
                let warning = replica.wait_for_next_line("a warning of the key", |line| {
                    line.is_warning() && line.text().contains("bound to no lease")
                });
                assert!(warning.text().contains(put), "{}", warning.text());
                assert_eq!(warning.stream, Stream::Err);
            }
            let_pass(TTL * 2);
            for replica in &replicas {
                assert_eq!(replica.count(LEADER), 0);
                assert!(!replica.has_ended());
            }
            assert_eq!(etcd.key(put).unwrap().value, b"by hand");

            etcd.etcdctl(&["del", put]);
            let leader = wait_for_leader(&replicas);
            replicas[leader].wait_for_next_refreshes(1);
            for replica in &mut replicas {
                replica.signal(Signal::TERM);
                assert_eq!(replica.wait_exit().code(), Some(0));
            }
            assert_eq!(etcd.key("leader"), None);
        }
    });
}

/// What an operator does to etcd.
type Act = fn(&Etcd);

#[test]
fn a_term_that_is_ended_by_force_is_followed_by_exactly_one_other() {
    on_each_etcd(|etcd| {
        let acts: [(&str, bool, Act); 4] = [
            ("lease revoked", true, |etcd| {
                let lease = etcd.key("leader").unwrap().lease.unwrap();
                etcd.etcdctl(&["lease", "revoke", &lease]);
            }),
            ("leader/acting deleted", true, |etcd| {
                etcd.etcdctl(&["del", "leader/acting"]);
            }),
            ("both keys deleted", true, |etcd| {
                etcd.etcdctl(&["del", "--prefix", "leader"]);
            }),
            ("leader overwritten under its own lease", false, |etcd| {
                // Still bound to the leader's own lease.
                etcd.etcdctl(&["put", "--ignore-lease", "leader", "x"]);
            }),
        ];
        let mut replicas = Daemon::candidates(&etcd, 3);
        let mut leader = wait_for_next_roles(&mut replicas);
        let mut allowed = Vec::new();
        for (fault, may_overlap, act) in acts {
            replicas[leader].wait_for_next_refreshes(1);
            let begun = SystemTime::now();
            let allowance = Allowance::after(|| act(&etcd));
            allowed.extend(may_overlap.then_some(allowance));
            let lost = replicas[leader].wait_for_next_start(LOST).message();
            assert!(lost.ends_with('.'), "{lost}");
            leader = wait_for_next_roles(&mut replicas);
            let all = terms_despite(&allowed, &replicas.iter().collect::<Vec<_>>());
            within_bound(fault, stall(&all, begun), TTL, TTL);
        }
        replicas[leader].wait_for_next_refreshes(3);
        assert_eq!(replicas.iter().filter(|replica| replica.leads()).count(), 1);
        assert_eq!(
            etcd.key("leader").unwrap().value,
            replicas[leader].name.as_bytes()
        );
    });
}

#[test]
fn a_full_database_costs_no_term_and_once_there_is_room_again_a_replica_leads() {
    let room = LITTLE_ROOM.map(str::to_owned);
    let etcd = Etcd::start_with(binaries().last().unwrap(), &room, &[]);
    let mut replicas = Daemon::candidates(&etcd, 3);
    let leader = wait_for_next_roles(&mut replicas);
    etcd.fill();
    replicas[leader].skip();
    replicas[leader].wait_for_next_refreshes(6);

    let dead = replicas.remove(leader);
    let before: Vec<_> = replicas
        .iter()
        .map(|replica| replica.warnings().len())
        .collect();
    dead.signal(Signal::KILL);
    for replica in &mut replicas {
        replica.wait_for_next_line("a refusal", |line| line.message().contains("refuses"));
    }
    let_pass(TTL);
    assert!(!replicas.iter().any(Daemon::leads));
    for (replica, before) in replicas.iter().zip(before) {
        let warnings = &replica.warnings()[before..];
        let refusals = warnings
            .iter()
            .filter(|warning| warning.contains("refuses"));
        assert_eq!(refusals.count(), 1, "{warnings:?}");
        // A write to a full database may be slow before it is refused.
        assert!(warnings.len() <= 2, "{warnings:?}");
    }
    etcd.etcdctl(&["del", "filler"]);
    etcd.etcdctl(&["compact", &etcd.revision().to_string()]);
    etcd.etcdctl(&["defrag"]);
    let freed = SystemTime::now();
    etcd.etcdctl(&["alarm", "disarm"]);
    wait_for_settled(&mut replicas);
    replicas.push(dead);
    let all = terms(&replicas.iter().collect::<Vec<_>>());
    assert_eq!(all.len(), 2);
    within_bound("database full, then freed", stall(&all, freed), TTL, TTL);
}

#[test]
fn after_a_restored_backup_the_leader_is_elected_anew() {
    on_each_etcd(|mut etcd| {
        let mut replicas = Daemon::candidates(&etcd, 3);
        let mut allowed = Vec::new();
        let mut dead = Vec::new();
        // The backup shows the current leader, and the second time one that is dead by then.
        for changes in [false, true] {
            let leader = wait_for_settled(&mut replicas);
            etcd.back_up();
            let leader = if changes {
                replicas[leader].crash();
                dead.push(replicas.remove(leader));
                wait_for_settled(&mut replicas)
            } else {
                wait_for_settled(&mut replicas)
            };
            for number in 0..20 {
                etcd.put("something", number.to_string().as_bytes(), None);
            }
            // So that it knows of the changes that the backup lacks.
            replicas[leader].skip();
            replicas[leader].wait_for_next_refreshes(2);
            let terms_before = replicas[leader].count(LEADER);
            allowed.push(Allowance::after_the_end_of_history(|| etcd.restore()));
            let restored = SystemTime::now();
            replicas[leader].wait_for_next_start(LOST);
            wait_for_settled(&mut replicas);
            let all: Vec<_> = replicas.iter().chain(&dead).collect();
            let all = terms_despite(&allowed, &all);
            let fault = if changes {
                "backup restored, with a dead leader"
            } else {
                "backup restored, with the same leader"
            };
            within_bound(fault, stall(&all, restored), FAIL_OVER, TTL);
            let last = all.last().unwrap();
            let key = etcd.key("leader").unwrap();
            assert_eq!(
                (key.value, key.mod_revision),
                (last.name.clone().into(), last.token)
            );
            if last.name == replicas[leader].name {
                assert!(replicas[leader].count(LEADER) > terms_before);
            }
        }
    });
}

#[test]
fn a_lease_that_is_longer_than_requested_is_logged_and_counts() {
    let ttl = Duration::from_secs(3);
    let options = ["--election-timeout", "2000"].map(str::to_owned);
    let etcd = Etcd::start_with(binaries().last().unwrap(), &options, &[]);
    let mut replicas = Daemon::candidates(&etcd, 2);
    let leader = wait_for_next_roles(&mut replicas);
    for replica in &replicas {
        let warnings = replica.warnings();
        let about_it = warnings
            .iter()
            .filter(|warning| warning.contains("a lease of 3 s where 2 s were asked for"));
        assert_eq!(about_it.count(), 1, "{warnings:?}");
    }
    replicas[leader].wait_for_next_refreshes(3);
    replicas[leader].crash();
    let killed = replicas[leader].ended().unwrap();
    replicas[1 - leader].wait_for_next(LEADER);
    replicas[1 - leader].wait_for_next_refreshes(3);
    let all = terms(&[&replicas[0], &replicas[1]]);
    assert_eq!(all[0].ttl, ttl);
    let bound = support::fail_over(ttl);
    within_bound(
        "3 s granted for 2 s, leader killed",
        stall(&all, killed),
        bound,
        ttl,
    );
}
