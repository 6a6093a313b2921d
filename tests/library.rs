//! The library's API against a real etcd.

use leader_election::{
    Candidate, Candidates, Cluster, Config, Election, ElectionState, Leader, LeaderKey,
    ListedCandidate, LossReason, Observed, Observer, Status, TermRecord, Ttl,
};
use std::sync::Arc;
use std::time::Duration;
use support::proxy::{Link, Proxy};
use support::{PATIENCE, TTL, etcd::Etcd, let_pass, poll_until, seats};
use tokio::time::timeout;

fn cluster(endpoint: &str) -> Cluster {
    Cluster::new(vec![endpoint.parse().unwrap()]).unwrap()
}

fn election(etcd: &Etcd, name: &str) -> Election {
    let config = Config::new(name.parse().unwrap(), cluster(&etcd.endpoint()))
        .with_address(format!("{name}.example:80").parse().unwrap())
        .with_ttl_and_grace(Ttl::try_from(TTL).unwrap(), Duration::ZERO)
        .unwrap();
    Election::new(config)
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("in time") });
}

/// Waits until a candidate knows that another one says this of its health, and why.
async fn said_by(
    candidate: &Candidate,
    name: &str,
    healthy: bool,
    reason: Option<&str>,
) -> ListedCandidate {
    let shown = |status: &Status| {
        let listed = Candidates::of(status)?.listed;
        let is_it = |it: &ListedCandidate| {
            it.name.as_deref() == Some(name)
                && it.healthy == Some(healthy)
                && it.reason.as_deref() == reason
        };
        listed.into_iter().find(is_it)
    };
    let mut status = candidate.status();
    let known = status.wait_for(|status| shown(status).is_some()).await;
    shown(&known.unwrap()).unwrap()
}

/// Waits until etcd holds neither key of the election.
async fn released(etcd: &Etcd) {
    while etcd.key("leader").is_some() || etcd.key("leader/acting").is_some() {
        tokio::task::yield_now().await;
    }
}

#[test]
fn leadership_is_held_until_it_is_dropped_and_then_passes_on() {
    let etcd = Etcd::newest();
    run(async {
        let mut first = election(&etcd, "first").join().unwrap();
        let leadership = first.elected().await.unwrap();
        assert!(leadership.is_leader());
        assert_eq!(etcd.key("leader").unwrap().value, b"first");

        let mut second = election(&etcd, "second").join().unwrap();
        let token = leadership.token();
        drop(leadership);
        let leadership = second.elected().await.unwrap();
        assert!(leadership.token() > token);
        drop(leadership);
        first.withdraw().await.unwrap();
        second.withdraw().await.unwrap();
        assert_eq!(etcd.key("leader"), None);
    });
}

#[test]
fn a_leader_that_stands_back_hands_over_and_leads_again_after_the_other_one_has_stood_back() {
    let etcd = Etcd::newest();
    run(async {
        let mut first = election(&etcd, "first").join().unwrap();
        let mut leadership = first.elected().await.unwrap();
        let mut second = election(&etcd, "second").join().unwrap();
        let mut status = first.status();
        let lists_both = |status: &Status| {
            Candidates::of(status).is_some_and(|candidates| candidates.listed.len() == 2)
        };
        status.wait_for(lists_both).await.unwrap();

        first.stand_back("no disk");
        assert_eq!(leadership.lost().await, LossReason::StoodBack);
        drop(leadership);
        let mut leadership = second.elected().await.unwrap();
        let listed = said_by(&second, "first", false, Some("no disk")).await;
        assert!(listed.is_unhealthy() && !listed.leads);
        assert!(first.status().borrow().stands_back);

        first.stand_forward();
        said_by(&second, "first", true, None).await;
        second.stand_back("no network");
        assert_eq!(leadership.lost().await, LossReason::StoodBack);
        drop(leadership);
        assert!(first.elected().await.unwrap().is_leader());
        said_by(&first, "second", false, Some("no network")).await;

        let ends = |terms: &Option<Arc<[TermRecord]>>| {
            let terms = terms.iter().flat_map(|terms| terms.iter());
            terms
                .filter(|term| term.ended_as.as_deref() == Some("stood_back"))
                .count()
        };
        let mut terms = first.terms();
        terms.wait_for(|terms| ends(terms) == 2).await.unwrap();
    });
}

#[test]
fn a_leader_whose_key_is_deleted_learns_why_and_may_finish_before_it_releases_the_lease() {
    let etcd = Etcd::newest();
    run(async {
        let mut candidate = election(&etcd, "a").join().unwrap();
        let mut leadership = candidate.elected().await.unwrap();
        etcd.etcdctl(&["del", "leader"]);
        assert_eq!(leadership.lost().await, LossReason::LeaderKeyDeleted);
        assert!(!leadership.is_leader());
        // This takes longer than the lease would last, and the lease is renewed meanwhile.
        let_pass(TTL * 3 / 2);
        assert!(etcd.key("leader/acting").is_some());
        drop(leadership);
        released(&etcd).await;
        candidate.withdraw().await.unwrap();
    });
}

#[test]
fn a_leadership_that_nobody_has_taken_does_not_keep_a_candidate_from_finishing() {
    let etcd = Etcd::newest();
    run(async {
        let candidate = election(&etcd, "a").join().unwrap();
        let mut status = candidate.status();
        let leads = |status: &leader_election::Status| status.leader.is_some();
        status.wait_for(leads).await.unwrap();
        candidate.withdraw().await.unwrap();
        released(&etcd).await;
    });
}

#[test]
fn a_dropped_candidate_releases_everything_whenever_it_is_dropped() {
    let etcd = Etcd::newest();
    run(async {
        for turn in 0..100 {
            let candidate = election(&etcd, "a").join().unwrap();
            let mut status = candidate.status();
            // At some point between the first request and the first term.
            tokio::time::sleep(Duration::from_micros(turn * 60)).await;
            drop(candidate);
            while status.changed().await.is_ok() {}
        }
        released(&etcd).await;
        assert_eq!(etcd.leases(), [""; 0]);
    });
}

#[test]
fn resigning_returns_once_another_can_lead_and_the_candidate_takes_part_again() {
    let etcd = Etcd::newest();
    run(async {
        let mut candidate = election(&etcd, "a").join().unwrap();
        let leadership = candidate.elected().await.unwrap();
        let token = leadership.token();
        let deadline = leadership.deadline().unwrap();
        assert!(deadline.since(leader_election::clock::now()) < TTL);
        let lease = etcd.key("leader").unwrap().lease.unwrap();
        leadership.resign().await;
        let holder = etcd.key("leader").and_then(|key| key.lease);
        assert_ne!(holder.as_ref(), Some(&lease));
        // It is revoked beside whatever comes next.
        poll_until("the lease is revoked", || {
            (!etcd.leases().contains(&lease)).then_some(())
        });
        let again = candidate.elected().await.unwrap();
        assert!(again.token() > token);
        // It is released although nothing waits for that.
        drop(timeout(Duration::ZERO, again.resign()).await);
        let third = candidate.elected().await.unwrap();
        third.resign().await;
        candidate.withdraw().await.unwrap();
        released(&etcd).await;
    });
}

#[test]
fn resigning_returns_although_the_term_is_over_and_etcd_is_unreachable() {
    let etcd = Etcd::newest();
    let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
    run(async {
        let config = Config::new("a".parse().unwrap(), cluster(&proxy.endpoint()))
            .with_ttl_and_grace(Ttl::try_from(TTL).unwrap(), Duration::ZERO)
            .unwrap();
        let mut candidate = Election::new(config).join().unwrap();
        let mut leadership = candidate.elected().await.unwrap();
        proxy.set(Link::Cut);
        assert_eq!(leadership.lost().await, LossReason::NotRenewed);
        let begun = std::time::Instant::now();
        leadership.resign().await;
        assert!(begun.elapsed() < TTL * 2, "{:?}", begun.elapsed());
    });
}

#[test]
fn a_leadership_that_nobody_takes_is_given_back_and_others_lead() {
    let etcd = Etcd::newest();
    run(async {
        let mut idle = election(&etcd, "idle").join().unwrap();
        let mut status = idle.status();
        let leads = |status: &leader_election::Status| status.leader.is_some();
        status.wait_for(leads).await.unwrap();
        let mut ready = election(&etcd, "ready").join().unwrap();
        let leadership = ready.elected().await.unwrap();
        assert!(leadership.is_leader());
        // A leadership that was given back is not returned later.
        let none = timeout(TTL / 2, idle.elected()).await;
        assert!(none.is_err(), "{none:?}");
        drop(leadership);
        assert!(idle.elected().await.unwrap().is_leader());
    });
}

#[test]
fn calls_that_are_cancelled_over_and_over_lose_nothing() {
    let etcd = Etcd::newest();
    run(async {
        let mut observer = Observer::start(cluster(&etcd.endpoint()), &LeaderKey::default());
        let mut joining = election(&etcd, "a");
        let mut events = joining.events();
        let mut candidate = joining.join().unwrap();
        let mut tokens = Vec::new();
        for _ in 0..3 {
            let mut leadership = loop {
                if let Ok(leadership) = timeout(Duration::ZERO, candidate.elected()).await {
                    break leadership.unwrap();
                }
                tokio::task::yield_now().await;
            };
            assert!(leadership.is_leader());
            tokens.push(leadership.token());
            etcd.etcdctl(&["del", "leader"]);
            let reason = loop {
                if let Ok(reason) = timeout(Duration::ZERO, leadership.lost()).await {
                    break reason;
                }
                tokio::task::yield_now().await;
            };
            assert_eq!(reason, LossReason::LeaderKeyDeleted);
        }
        candidate.withdraw().await.unwrap();
        let mut led = Vec::new();
        loop {
            match timeout(Duration::ZERO, events.next()).await {
                Ok(Some(leader_election::Event::Leading { term, .. })) => {
                    led.push(term.token);
                }
                Ok(None) => break,
                Ok(Some(_)) => {}
                Err(_) => tokio::task::yield_now().await,
            }
        }
        assert_eq!(led, tokens);
        let mut seen = Vec::new();
        while seen.len() < tokens.len() {
            match timeout(Duration::ZERO, observer.next()).await {
                Ok(Some(Observed::State(situation))) => {
                    seen.extend(situation.leader.map(|leader| leader.token));
                }
                Ok(Some(Observed::Candidates(_))) => {}
                Ok(other) => panic!("{other:?}"),
                Err(_) => tokio::task::yield_now().await,
            }
        }
        assert_eq!(seen, tokens);
    });
}

/// Waits for the observer's next state.
async fn situation(observer: &mut Observer) -> ElectionState {
    loop {
        match observer.next().await.unwrap() {
            Observed::State(situation) => return situation,
            Observed::Candidates(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_observer_and_a_follower_know_how_to_reach_the_leader() {
    let etcd = Etcd::newest();
    run(async {
        let mut observer = Observer::start(cluster(&etcd.endpoint()), &LeaderKey::default());
        assert_eq!(situation(&mut observer).await.leader, None);
        let mut first = election(&etcd, "first").join().unwrap();
        let leadership = first.elected().await.unwrap();
        let leader = situation(&mut observer).await.leader.unwrap();
        assert_eq!(*leader.name, *b"first");
        assert_eq!(leader.address.as_deref(), Some("first.example:80"));
        assert_eq!(leader.token, leadership.token());
        assert_eq!(leader.lease, leadership.term().lease);
        assert!(leader.acts && leader.since.is_some());

        let second = election(&etcd, "second").join().unwrap();
        let mut status = second.status();
        let follows = status.wait_for(|status| status.leader.is_some()).await;
        let follows = follows.unwrap().clone();
        let known = Leader::of(follows.leader.as_ref(), follows.acting.as_ref());
        assert_eq!(known, Some(leader));
        first.begin_withdrawal();
        drop(leadership);
        // Nobody leads in between, unless the leader knows the other one's seat already.
        let next = loop {
            if let Some(leader) = situation(&mut observer).await.leader {
                break leader;
            }
        };
        assert_eq!(*next.name, *b"second");
    });
}

#[test]
fn an_observer_reports_the_candidates_after_the_state_that_they_belong_to() {
    let etcd = Etcd::newest();
    run(async {
        let lease = seats::put(&etcd, "07", &seats::value("first", Some("first.example")));
        let mut observer = Observer::start(cluster(&etcd.endpoint()), &LeaderKey::default());
        assert_eq!(situation(&mut observer).await.leader, None);
        for leads in [false, true] {
            let Some(Observed::Candidates(candidates)) = observer.next().await else {
                panic!("no candidates");
            };
            assert!(!candidates.is_full);
            let [candidate] = candidates.listed.as_slice() else {
                panic!("{candidates:?}");
            };
            assert_eq!(candidate.name.as_deref(), Some("first"));
            assert_eq!(candidate.address.as_deref(), Some("first.example"));
            assert_eq!(candidate.seat.to_string(), "07");
            assert_eq!(candidate.leads, leads);
            if !leads {
                seats::lead(&etcd, "first", &lease);
                assert!(situation(&mut observer).await.leader.is_some());
            }
        }
    });
}

#[test]
fn an_observer_that_is_not_read_for_long_returns_every_change_later() {
    let etcd = Etcd::newest();
    run(async {
        let mut observer = Observer::start(cluster(&etcd.endpoint()), &LeaderKey::default());
        situation(&mut observer).await;
        let lease = etcd.grant(Duration::from_mins(10));
        // More than its queue holds.
        for number in 0..60 {
            etcd.put("leader", number.to_string().as_bytes(), Some(&lease));
        }
        for number in 0..60 {
            let leader = situation(&mut observer).await.leader.unwrap();
            assert_eq!(*leader.name, *number.to_string().as_bytes());
        }
    });
}
