//! `--once ID -- COMMAND` under faults: replicas that are killed, cut off and asked to stop in each phase.

use rustix::process::Signal;
use std::time::Duration;
use support::daemon::{Daemon, FOLLOWER, LEADER, LEADER_STOPS, LOST, Line};
use support::etcd::{Etcd, binaries, on_each_etcd};
use support::etcdctl::LITTLE_ROOM;
use support::job::{DONE, Job, NOT_RECORDED, RECORD, RECORDED, exit_code, record};
use support::operator::{at, run};
use support::poll_until;
use support::proxy::{Call, Link, Proxy};

/// The job ends by itself before its term is lost.
const LONGER_TTL: Duration = Duration::from_secs(6);

#[test]
fn a_replica_that_is_killed_before_or_during_the_job_is_followed_by_the_next_one() {
    on_each_etcd(|etcd| {
        for during in [false, true] {
            etcd.etcdctl(&["del", RECORD]);
            let job = Job::new();
            let endpoint = etcd.endpoint();
            let mut first = job.spawn("first", &endpoint);
            first.wait_for_next(LEADER);
            let mut second = job.spawn("second", &endpoint);
            if during {
                job.wait_until_begun(1);
                second.wait_for_next(FOLLOWER);
            }
            first.crash();
            second.wait_for_next(LEADER);
            job.end_with(0);
            assert_eq!(exit_code(&mut second), 0);
            assert_eq!(record(&etcd)["name"], "second");
            // What the killed one ran was killed before it could end.
            assert_eq!(job.lines("ended"), ["second"]);
        }
    });
}

#[test]
fn a_replica_that_is_killed_between_the_end_of_the_job_and_its_record_makes_it_run_again() {
    on_each_etcd(|etcd| {
        let job = Job::new();
        let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
        let mut first = job.spawn("first", &proxy.endpoint());
        job.wait_until_begun(1);
        proxy.set(Link::HoldRequests(Call::Record));
        job.end_with(0);
        poll_until("it wants to record", || {
            (proxy.matching_requests() > 0).then_some(())
        });
        first.crash();
        let mut second = job.spawn("second", &etcd.endpoint());
        assert_eq!(exit_code(&mut second), 0);
        assert_eq!(record(&etcd)["name"], "second");
        assert_eq!(job.lines("ended"), ["first", "second"]);
    });
}

#[test]
fn a_replica_that_is_killed_after_the_record_was_written_does_not_make_the_job_run_again() {
    on_each_etcd(|etcd| {
        let job = Job::new();
        let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
        let mut first = job.spawn("first", &proxy.endpoint());
        job.wait_until_begun(1);
        let mut second = job.spawn("second", &etcd.endpoint());
        second.wait_for_next(FOLLOWER);
        proxy.set(Link::HoldResponses(Call::Record));
        job.end_with(0);
        poll_until("it is recorded", || etcd.key(RECORD));
        first.crash();
        assert_eq!(exit_code(&mut second), 0);
        assert_eq!(job.begun(), ["first"]);
    });
}

#[test]
fn a_record_whose_response_is_lost_is_found_and_the_job_counts_as_done() {
    on_each_etcd(|etcd| {
        let job = Job::new();
        let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
        let mut first = job.spawn("first", &proxy.endpoint());
        job.wait_until_begun(1);
        proxy.set(Link::HoldResponses(Call::Record));
        job.end_with(0);
        poll_until("it is recorded", || etcd.key(RECORD));
        proxy.set(Link::Reset);
        proxy.set(Link::Open);
        assert_eq!(exit_code(&mut first), 0);
        first.wait_for_any_start(RECORDED);
        assert_eq!(job.begun(), ["first"]);
        assert!(etcd.leases().is_empty());
    });
}

#[test]
fn a_leader_that_is_cut_off_while_its_job_succeeds_cannot_record_it() {
    on_each_etcd(|etcd| {
        for link in [Link::Frozen, Link::HoldRequests(Call::Record)] {
            etcd.etcdctl(&["del", RECORD]);
            let job = Job::with_ttl(LONGER_TTL);
            let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
            let mut first = job.spawn("first", &proxy.endpoint());
            job.wait_until_begun(1);
            let mut second = job.spawn("second", &etcd.endpoint());
            second.wait_for_next(FOLLOWER);
            proxy.set(link);
            job.end_with(0);
            assert_eq!(exit_code(&mut first), 125);
            let message = first.wait_for_any_start(NOT_RECORDED).message();
            assert!(message.contains("etcd has not said whether"), "{message}");
            assert!(message.contains("`leader-election done`"), "{message}");
            proxy.set(Link::Open);
            assert_eq!(exit_code(&mut second), 0);
            assert_eq!(record(&etcd)["name"], "second");
            assert_eq!(job.begun(), ["first", "second"]);
        }
    });
}

#[test]
fn a_leader_whose_term_was_taken_while_its_job_succeeds_cannot_record_it() {
    on_each_etcd(|etcd| {
        let job = Job::with_ttl(LONGER_TTL);
        let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
        let mut first = job.spawn("first", &proxy.endpoint());
        job.wait_until_begun(1);
        // It does not hear that another takes its key.
        proxy.set(Link::NoResponses);
        etcd.put("leader/acting", b"{}", None);
        job.end_with(0);
        first.wait_for_next("'sh' ended with exit code 0.");
        proxy.set(Link::Open);
        assert_eq!(exit_code(&mut first), 125);
        let message = first.wait_for_any_start(NOT_RECORDED).message();
        assert!(message.contains("the term ended before"), "{message}");
        assert_eq!(etcd.key(RECORD), None);
    });
}

#[test]
fn a_request_to_stop_is_no_success_unless_the_job_is_done() {
    on_each_etcd(|etcd| {
        let endpoint = etcd.endpoint();
        let job = Job::new();
        let mut leader = job.spawn("leader", &endpoint);
        job.wait_until_begun(1);
        let mut follower = job.spawn("follower", &endpoint);
        follower.wait_for_next(FOLLOWER);
        for replica in [&mut follower, &mut leader] {
            replica.signal(Signal::TERM);
            assert_eq!(exit_code(replica), 128 + 15);
        }
        leader.wait_for_any(LEADER_STOPS);
        assert_eq!(etcd.key(RECORD), None);

        // Between the end of the job and its record, the record comes first.
        let proxy = Proxy::start(&endpoint, Link::Open);
        let mut leader = job.spawn("leader", &proxy.endpoint());
        job.wait_until_begun(2);
        proxy.set(Link::HoldRequests(Call::Record));
        job.end_with(0);
        poll_until("it wants to record", || {
            (proxy.matching_requests() > 0).then_some(())
        });
        leader.signal(Signal::TERM);
        proxy.set(Link::Open);
        assert_eq!(exit_code(&mut leader), 0);
        assert_eq!(record(&etcd)["name"], "leader");
        assert!(etcd.leases().is_empty());
    });
}

#[test]
fn a_job_whose_term_is_ended_by_an_operator_runs_again() {
    let etcd = Etcd::newest();
    let job = Job::new();
    let mut first = job.spawn("first", &etcd.endpoint());
    job.wait_until_begun(1);
    let mut second = job.spawn("second", &etcd.endpoint());
    second.wait_for_next(FOLLOWER);
    assert_eq!(run(at(&etcd.endpoint(), &["step-down"])).code, 0);
    first.wait_for_next_start(LOST);
    second.wait_for_next(LEADER);
    job.end_with(0);
    assert_eq!(exit_code(&mut second), 0);
    assert_eq!(exit_code(&mut first), 0);
    first.wait_for_any_start(DONE);
    assert_eq!(job.begun(), ["first", "second"]);
}

#[test]
fn a_full_database_does_not_hide_that_the_job_is_done() {
    let room = LITTLE_ROOM.map(str::to_owned);
    let etcd = Etcd::start_with(binaries().last().unwrap(), &room, &[]);
    let job = Job::new();
    job.end_with(0);
    assert_eq!(exit_code(&mut job.spawn("first", &etcd.endpoint())), 0);
    etcd.fill();
    assert_eq!(exit_code(&mut job.spawn("second", &etcd.endpoint())), 0);
    assert_eq!(job.begun(), ["first"]);
}

#[test]
fn etcd_that_is_down_is_waited_for() {
    let mut etcd = Etcd::newest();
    let job = Job::new();
    job.end_with(0);
    etcd.stop();
    let mut replica = job.spawn("server1", &etcd.endpoint());
    replica.wait_for_next_start("etcd at '");
    etcd.up();
    assert_eq!(exit_code(&mut replica), 0);
    assert_eq!(record(&etcd)["name"], "server1");
}

#[test]
fn a_full_database_delays_the_record_and_costs_no_term() {
    let room = LITTLE_ROOM.map(str::to_owned);
    let etcd = Etcd::start_with(binaries().last().unwrap(), &room, &[]);
    let job = Job::new();
    let mut leader = job.spawn("leader", &etcd.endpoint());
    job.wait_until_begun(1);
    etcd.fill();
    leader.skip();
    job.end_with(0);
    let refused = "'migrate-42' is completed, but cannot be recorded: etcd at '";
    let message = leader.wait_for_next_start(refused).message();
    assert!(message.contains("space exceeded"), "{message}");
    // Longer than the lease would last.
    leader.wait_for_next_refreshes(6);
    etcd.etcdctl(&["del", "filler"]);
    etcd.etcdctl(&["compact", &etcd.revision().to_string()]);
    etcd.etcdctl(&["defrag"]);
    etcd.etcdctl(&["alarm", "disarm"]);
    assert_eq!(exit_code(&mut leader), 0);
    leader.wait_for_any_start(RECORDED);
    assert_eq!(record(&etcd)["name"], "leader");
    assert_eq!(job.begun(), ["leader"]);
}

#[test]
fn a_wait_that_is_over_does_not_hide_that_the_job_is_not_recorded() {
    let etcd = Etcd::newest();
    let job = Job::with_ttl(LONGER_TTL);
    let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
    let command = job.replica_with("first", &proxy.endpoint(), &["--wait", "0s"]);
    let mut first = Daemon::spawn("first", command);
    job.wait_until_begun(1);
    proxy.set(Link::Frozen);
    job.end_with(0);
    assert_eq!(exit_code(&mut first), 125);
    first.wait_for_any_start(NOT_RECORDED);
    let gives_up = |line: &Line| line.message().contains("not elected");
    assert!(!first.lines().iter().any(gives_up));
}
