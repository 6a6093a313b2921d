//! What the election does when the network between it and etcd loses, delays, garbles or resets the
//! traffic.

use std::thread;
use std::time::{Duration, SystemTime};
use support::checker::{stall, terms, within_bound};
use support::daemon::{Daemon, FOLLOWER, LEADER, LOST, command, json, wait_for_next_roles};
use support::etcd::{Etcd, on_each_etcd};
use support::proxy::{Call, Link, Proxy};
use support::{FAIL_OVER, PATIENCE, TTL, let_pass, wait_until};

/// Starts a leader and a follower, each with endpoints of its own.
fn pair(leader: &str, follower: &str) -> [Daemon; 2] {
    let mut leader = Daemon::spawn("leader", json("leader", leader));
    leader.wait_for_next(LEADER);
    let mut follower = Daemon::spawn("follower", json("follower", follower));
    follower.wait_for_next(FOLLOWER);
    leader.wait_for_next_refreshes(1);
    [leader, follower]
}

/// Waits until a request of the kind that the link names has come.
fn wait_for_request(proxy: &Proxy, what: &str) {
    wait_until(what, PATIENCE, || {
        (proxy.matching_requests() > 0).then_some(())
    });
}

/// Deletes both keys at once. A leader that is stopped in order would hand its term over instead.
fn delete_keys_of(leader: &mut Daemon, etcd: &Etcd) {
    let lease = etcd.key("leader").unwrap().lease.unwrap();
    leader.crash();
    etcd.etcdctl(&["lease", "revoke", &lease]);
}

/// The leader's connection to etcd fails for two TTLs and more, and then works again.
fn a_leader_behind(fault: Link, what: &str) {
    on_each_etcd(|etcd| {
        let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
        let [mut old, mut new] = pair(&proxy.endpoint(), &etcd.endpoint());
        let failed = SystemTime::now();
        proxy.set(fault);
        old.wait_for_next_start(LOST);
        new.wait_for_next(LEADER);
        let_pass(TTL);
        proxy.set(Link::Open);
        old.wait_for_next(FOLLOWER);
        new.skip();
        new.wait_for_next_refreshes(3);
        let terms = terms(&[&old, &new]);
        assert_eq!(terms.len(), 2);
        assert_eq!(terms[1].name, "follower");
        let took = terms[1].from.duration_since(failed).unwrap();
        // The last requests before it stops may have arrived, and the lease counts from them.
        within_bound(what, took, FAIL_OVER + TTL, TTL);
        let used = old.cpu_time();
        assert!(used < TTL, "it used {used:?} of the processor");
    });
}

#[test]
fn a_leader_whose_packets_are_dropped_both_ways_stops_before_another_one_leads() {
    a_leader_behind(
        Link::Frozen,
        "packets dropped both ways, until another leads",
    );
}

#[test]
fn a_leader_whose_responses_are_lost_stops_before_another_one_leads() {
    a_leader_behind(Link::NoResponses, "responses lost, until another leads");
}

#[test]
fn a_leader_whose_connections_are_closed_stops_before_another_one_leads() {
    a_leader_behind(Link::Cut, "connections closed, until another leads");
}

#[test]
fn a_leader_whose_requests_are_lost_stops_before_another_one_leads() {
    a_leader_behind(Link::NoRequests, "requests lost, until another leads");
}

#[test]
fn a_leader_whose_connections_are_reset_stops_before_another_one_leads() {
    a_leader_behind(Link::Reset, "connections reset, until another leads");
}

#[test]
fn a_leader_that_receives_noise_stops_before_another_one_leads() {
    a_leader_behind(Link::Garbage, "responses garbled, until another leads");
}

#[test]
fn a_reset_or_a_moment_of_noise_costs_no_term() {
    let etcd = Etcd::newest();
    thread::scope(|scope| {
        for (number, fault) in [Link::Reset, Link::Garbage, Link::Cut]
            .into_iter()
            .enumerate()
        {
            let etcd = &etcd;
            scope.spawn(move || {
                let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
                let mut command = json("leader", &proxy.endpoint());
                command.args(["--leader-key", &format!("key{number}")]);
                let mut leader = Daemon::spawn("leader", command);
                leader.wait_for_next(LEADER);
                for _ in 0..4 {
                    leader.wait_for_next_refreshes(2);
                    let before = proxy.accepted();
                    proxy.set(fault);
                    wait_until("it connects again", PATIENCE, || {
                        (proxy.accepted() > before).then_some(())
                    });
                    proxy.set(Link::Open);
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
    let proxy = Proxy::start(&etcd.endpoint(), Link::Slow);
    let mut replicas: Vec<_> = ["server1", "server2"]
        .map(|name| {
            let mut command = command();
            command.args(["--name", name, "--etcd", &proxy.endpoint()]);
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
    // The other one learns late of its end, and leads all the same.
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
fn a_campaign_whose_response_is_lost_is_found_won_by_the_next_read() {
    on_each_etcd(|etcd| {
        let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
        proxy.set(Link::HoldResponses(Call::Campaign));
        let mut winner = Daemon::spawn("winner", json("winner", &proxy.endpoint()));
        wait_for_request(&proxy, "it campaigns");
        let asked = SystemTime::now();
        winner.wait_for_next(LEADER);
        winner.wait_for_next_refreshes(3);
        assert_eq!(proxy.matching_requests(), 1, "it won the first time");
        let all = terms(&[&winner]);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].token, etcd.key("leader").unwrap().mod_revision);
        within_bound("campaign's response lost", stall(&all, asked), TTL, TTL);
    });
}

#[test]
fn keepalives_without_responses_end_the_term_though_the_keys_can_be_read() {
    on_each_etcd(|etcd| {
        let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
        let [mut old, mut new] = pair(&proxy.endpoint(), &etcd.endpoint());
        let held = SystemTime::now();
        proxy.set(Link::HoldResponses(Call::KeepAlive));
        wait_for_request(&proxy, "a keepalive");
        old.wait_for_next_start(LOST);
        new.wait_for_next(LEADER);
        let_pass((TTL * 2).saturating_sub(held.elapsed().unwrap()));
        proxy.set(Link::Open);
        old.wait_for_next(FOLLOWER);
        new.skip();
        new.wait_for_next_refreshes(3);
        let terms = terms(&[&old, &new]);
        assert_eq!(terms.len(), 2);
        let took = terms[1].from.duration_since(held).unwrap();
        let fault = "keepalives' responses held for 2 TTL";
        within_bound(fault, took, FAIL_OVER + TTL, TTL);
    });
}

#[test]
fn a_read_finds_keys_that_are_deleted_while_the_creation_of_a_watch_has_no_response() {
    on_each_etcd(|etcd| {
        let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
        let mut leader = Daemon::spawn("leader", json("leader", &etcd.endpoint()));
        leader.wait_for_next_refreshes(1);
        proxy.set(Link::HoldResponses(Call::Watch));
        let mut follower = Daemon::spawn("follower", json("follower", &proxy.endpoint()));
        follower.wait_for_next(FOLLOWER);
        wait_for_request(&proxy, "it watches");
        delete_keys_of(&mut leader, &etcd);
        let gone = SystemTime::now();
        follower.wait_for_next(LEADER);
        follower.wait_for_next_refreshes(3);
        let all = terms(&[&leader, &follower]);
        assert_eq!(all.len(), 2);
        // Without a watch, a read each third of the TTL.
        within_bound(
            "creation of a watch held, keys deleted",
            stall(&all, gone),
            TTL,
            TTL,
        );
        proxy.set(Link::Open);
        follower.skip();
        follower.wait_for_next_refreshes(3);
        assert_eq!(follower.count(LEADER), 1);
    });
}

/// The keys are deleted while the follower's request to watch them is on its way. At this TTL, its
/// next read would come much later.
fn keys_deleted_before_etcd_gets_the_watch(compacts: bool) {
    on_each_etcd(|etcd| {
        let ttl = Duration::from_secs(10);
        let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
        let start = |name: &str, endpoint: &str| {
            let mut command = command();
            command.args(["--name", name, "--etcd", endpoint, "--ttl", "10s"]);
            command.args(["--log-format", "json"]);
            Daemon::spawn(name, command)
        };
        let mut leader = start("leader", &etcd.endpoint());
        leader.wait_for_next(LEADER);
        proxy.set(Link::HoldRequests(Call::Watch));
        let mut follower = start("follower", &proxy.endpoint());
        follower.wait_for_next(FOLLOWER);
        wait_for_request(&proxy, "it watches");
        delete_keys_of(&mut leader, &etcd);
        if compacts {
            etcd.put("something", b"else", None);
            etcd.etcdctl(&["compact", &etcd.revision().to_string()]);
        }
        let released = SystemTime::now();
        proxy.set(Link::Open);
        follower.wait_for_next(LEADER);
        let all = terms(&[&leader, &follower]);
        let fault = if compacts {
            "watch's request held, and its revision compacted"
        } else {
            "watch's request held"
        };
        within_bound(fault, stall(&all, released), ttl / 10, ttl);
    });
}

#[test]
fn a_watch_reports_at_once_that_keys_were_deleted_before_etcd_got_it() {
    keys_deleted_before_etcd_gets_the_watch(false);
}

#[test]
fn a_watch_whose_start_revision_was_compacted_meanwhile_is_replaced_at_once() {
    keys_deleted_before_etcd_gets_the_watch(true);
}
