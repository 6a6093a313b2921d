//! What the election does when the way to etcd loses, delays, garbles or resets what is said on it.
mod support;

use rustix::process::Signal;
use std::thread;
use std::time::{Duration, SystemTime};
use support::answers::{Answers, Question};
use support::checker::{stall, terms, within_bound};
use support::daemon::{Daemon, FOLLOWER, LEADER, LOST, command, json, wait_for_next_roles};
use support::etcd::{Etcd, on_each_etcd};
use support::proxy::{Proxy, Way};
use support::{FAIL_OVER, PATIENCE, TTL, let_pass, wait_until};

/// A leader on a way of its own, and a follower on another.
fn pair(leader: &str, follower: &str) -> [Daemon; 2] {
    let mut leader = Daemon::spawn("leader", json("leader", leader));
    leader.wait_for_next(LEADER);
    let mut follower = Daemon::spawn("follower", json("follower", follower));
    follower.wait_for_next(FOLLOWER);
    leader.wait_for_next_refreshes(1);
    [leader, follower]
}

/// The leader's way fails for two TTLs and more, and then is well again.
fn a_leader_behind(fault: Way, what: &str) {
    on_each_etcd(|etcd| {
        let way = Proxy::start(&etcd.endpoint(), Way::Open);
        let [mut old, mut new] = pair(&way.endpoint(), &etcd.endpoint());
        let failed = SystemTime::now();
        way.set(fault);
        old.wait_for_next_start(LOST);
        new.wait_for_next(LEADER);
        let_pass(TTL);
        way.set(Way::Open);
        old.wait_for_next(FOLLOWER);
        new.skip();
        new.wait_for_next_refreshes(3);
        let terms = terms(&[&old, &new]);
        assert_eq!(terms.len(), 2);
        assert_eq!(terms[1].name, "follower");
        let took = terms[1].from.duration_since(failed).unwrap();
        // Its last questions may have arrived, until it stops to ask: the lease counts from them.
        within_bound(what, took, FAIL_OVER + TTL, TTL);
        let used = old.cpu_time();
        assert!(used < TTL, "it used {used:?} of the processor");
    });
}

#[test]
fn a_leader_in_front_of_a_black_hole_stops_before_another_one_leads() {
    a_leader_behind(Way::Frozen, "a black hole both ways, until another leads");
}

#[test]
fn a_leader_whose_answers_are_lost_stops_before_another_one_leads() {
    a_leader_behind(Way::Deaf, "answers lost, until another leads");
}

#[test]
fn a_leader_that_is_hung_up_on_stops_before_another_one_leads() {
    a_leader_behind(Way::Cut, "connections closed, until another leads");
}

#[test]
fn a_leader_whose_questions_are_lost_stops_before_another_one_leads() {
    a_leader_behind(Way::Mute, "questions lost, until another leads");
}

#[test]
fn a_leader_whose_connections_are_reset_stops_before_another_one_leads() {
    a_leader_behind(Way::Reset, "connections reset, until another leads");
}

#[test]
fn a_leader_that_hears_noise_stops_before_another_one_leads() {
    a_leader_behind(Way::Garbage, "answers garbled, until another leads");
}

#[test]
fn a_reset_or_a_moment_of_noise_costs_no_term() {
    let etcd = Etcd::newest();
    thread::scope(|scope| {
        for fault in [Way::Reset, Way::Garbage, Way::Cut] {
            let etcd = &etcd;
            scope.spawn(move || {
                let way = Proxy::start(&etcd.endpoint(), Way::Open);
                let mut command = json("leader", &way.endpoint());
                command.args(["--leader-key", &format!("key{}", fault as u8)]);
                let mut leader = Daemon::spawn("leader", command);
                leader.wait_for_next(LEADER);
                for _ in 0..4 {
                    leader.wait_for_next_refreshes(2);
                    let before = way.accepted();
                    way.set(fault);
                    wait_until("it calls again", PATIENCE, || {
                        (way.accepted() > before).then_some(())
                    });
                    way.set(Way::Open);
                }
                leader.skip();
                leader.wait_for_next_refreshes(2);
                assert_eq!(terms(&[&leader]).len(), 1);
            });
        }
    });
}

#[test]
fn with_300_ms_each_way_the_leader_stays_the_leader_at_the_default_ttl() {
    let etcd = Etcd::newest();
    let ttl = Duration::from_secs(5);
    let way = Proxy::start(&etcd.endpoint(), Way::Slow);
    let mut replicas: Vec<_> = ["server1", "server2"]
        .map(|name| {
            let mut command = command();
            command.args(["--name", name, "--etcd", &way.endpoint()]);
            command.args(["--log-format", "json"]);
            Daemon::spawn(name, command)
        })
        .into();
    let leader = wait_for_next_roles(&mut replicas);
    replicas[leader].wait_for_next_refreshes(15);
    let all = terms(&[&replicas[0], &replicas[1]]);
    assert_eq!(all.len(), 1);
    let kept = all[0].deadline.duration_since(all[0].from).unwrap();
    assert!(kept > ttl * 3, "{kept:?}");
    // The other one is slow to hear of it, and leads all the same.
    replicas[leader].crash();
    let killed = replicas[leader].ended().unwrap();
    let heir = &mut replicas[1 - leader];
    heir.wait_for_next(LEADER);
    heir.wait_for_next_refreshes(2);
    let took = stall(&terms(&[&replicas[0], &replicas[1]]), killed);
    let bound = support::fail_over(ttl);
    within_bound("300 ms each way, killed leader", took, bound, ttl);
}

#[test]
fn a_campaign_whose_answer_is_lost_is_found_won_by_the_next_read() {
    on_each_etcd(|etcd| {
        let way = Answers::start(&etcd.endpoint());
        way.hold(Question::Campaign);
        let mut winner = Daemon::spawn("winner", json("winner", &way.endpoint()));
        wait_until("it campaigns", PATIENCE, || (way.seen() > 0).then_some(()));
        let asked = SystemTime::now();
        winner.wait_for_next(LEADER);
        winner.wait_for_next_refreshes(3);
        assert_eq!(way.seen(), 1, "it won the first time");
        let all = terms(&[&winner]);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].token, etcd.key("leader").unwrap().mod_revision);
        within_bound("campaign's answer lost", stall(&all, asked), TTL, TTL);
    });
}

#[test]
fn keepalives_whose_answers_are_held_end_the_term_though_the_keys_can_be_read() {
    on_each_etcd(|etcd| {
        let way = Answers::start(&etcd.endpoint());
        let [mut old, mut new] = pair(&way.endpoint(), &etcd.endpoint());
        let held = SystemTime::now();
        way.hold(Question::KeepAlive);
        wait_until("a keepalive", PATIENCE, || (way.seen() > 0).then_some(()));
        old.wait_for_next_start(LOST);
        new.wait_for_next(LEADER);
        let_pass((TTL * 2).saturating_sub(held.elapsed().unwrap()));
        way.release();
        old.wait_for_next(FOLLOWER);
        new.skip();
        new.wait_for_next_refreshes(3);
        let terms = terms(&[&old, &new]);
        assert_eq!(terms.len(), 2);
        let took = terms[1].from.duration_since(held).unwrap();
        let fault = "keepalives' answers held for 2 TTL";
        within_bound(fault, took, FAIL_OVER + TTL, TTL);
    });
}

#[test]
fn keys_deleted_while_the_opening_of_a_watch_is_held_are_missed_by_the_next_read() {
    on_each_etcd(|etcd| {
        let way = Answers::start(&etcd.endpoint());
        let mut leader = Daemon::spawn("leader", json("leader", &etcd.endpoint()));
        leader.wait_for_next_refreshes(1);
        way.hold(Question::Watch);
        let mut follower = Daemon::spawn("follower", json("follower", &way.endpoint()));
        follower.wait_for_next(FOLLOWER);
        wait_until("it watches", PATIENCE, || (way.seen() > 0).then_some(()));
        // In order, so that the keys go at once and nobody else takes them.
        leader.signal(Signal::TERM);
        leader.wait_exit();
        let gone = leader.ended().unwrap();
        follower.wait_for_next(LEADER);
        follower.wait_for_next_refreshes(3);
        let all = terms(&[&leader, &follower]);
        assert_eq!(all.len(), 2);
        // Without a watch, a read each third of the TTL.
        within_bound(
            "watch's opening held, keys deleted",
            stall(&all, gone),
            TTL,
            TTL,
        );
        way.release();
        follower.skip();
        follower.wait_for_next_refreshes(3);
        assert_eq!(follower.count(LEADER), 1);
    });
}

/// The keys go while the follower's question to watch them is on its way; at this TTL its next read
/// would come much later.
fn keys_that_go_before_the_watch_are_seen_by_it(compacts: bool) {
    on_each_etcd(|etcd| {
        let ttl = Duration::from_secs(10);
        let way = Answers::start(&etcd.endpoint());
        let start = |name: &str, endpoint: &str| {
            let mut command = command();
            command.args(["--name", name, "--etcd", endpoint, "--ttl", "10s"]);
            command.args(["--log-format", "json"]);
            Daemon::spawn(name, command)
        };
        let mut leader = start("leader", &etcd.endpoint());
        leader.wait_for_next(LEADER);
        way.hold_questions(Question::Watch);
        let mut follower = start("follower", &way.endpoint());
        follower.wait_for_next(FOLLOWER);
        wait_until("it watches", PATIENCE, || (way.seen() > 0).then_some(()));
        leader.signal(Signal::TERM);
        leader.wait_exit();
        if compacts {
            etcd.put("something", b"else", None);
            etcd.etcdctl(&["compact", &etcd.revision().to_string()]);
        }
        let released = SystemTime::now();
        way.release();
        follower.wait_for_next(LEADER);
        let all = terms(&[&leader, &follower]);
        let fault = if compacts {
            "watch's question held, and its revision compacted"
        } else {
            "watch's question held"
        };
        within_bound(fault, stall(&all, released), ttl / 10, ttl);
    });
}

#[test]
fn keys_that_go_before_etcd_hears_of_the_watch_are_seen_by_it_at_once() {
    keys_that_go_before_the_watch_are_seen_by_it(false);
}

#[test]
fn a_watch_from_a_revision_that_is_compacted_by_then_is_replaced_at_once() {
    keys_that_go_before_the_watch_are_seen_by_it(true);
}
