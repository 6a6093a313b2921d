//! Many elections of one process, which share their connection to etcd.

use leader_election::{
    Candidate, Cluster, Config, Credentials, Election, Event, Events, Leadership, Observer,
    Password, Ttl,
};
use std::time::{Duration, Instant};
use support::etcd::Etcd;
use support::proxy::{Link, Proxy};
use support::users::{self, authentications};
use support::{PATIENCE, TTL};
use tokio::{runtime, task::JoinSet, time::timeout};

/// The TTL of most elections here. A leader sends a try in each fifth of it.
const LONG_TTL: Duration = Duration::from_secs(5);
const PERIOD: Duration = Duration::from_secs(1);

fn cluster(endpoint: &str) -> Cluster {
    Cluster::new(vec![endpoint.parse().unwrap()]).unwrap()
}

fn election(cluster: &Cluster, number: usize, ttl: Duration) -> Election {
    let config = Config::new("a".parse().unwrap(), cluster.clone())
        .with_leader_key(format!("many/{number}").parse().unwrap())
        .with_ttl_and_grace(Ttl::try_from(ttl).unwrap(), Duration::ZERO)
        .unwrap();
    Election::new(config)
}

fn run(test: impl Future<Output = ()>) {
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { timeout(PATIENCE, test).await.expect("in time") });
}

/// A candidate that leads.
struct Leader {
    candidate: Candidate,
    leadership: Leadership,
    events: Events,
}

impl Leader {
    /// Takes part in an election, and waits until it is won.
    async fn win(mut election: Election) -> Self {
        let events = election.events();
        let mut candidate = election.join().unwrap();
        let leadership = candidate.elected().await.unwrap();
        Self {
            candidate,
            leadership,
            events,
        }
    }

    /// Waits for the next renewal of its term, which must not end.
    async fn renewed(&mut self) {
        while !is_renewal(&self.events.next().await.unwrap()) {}
    }

    /// Takes in what has happened so far.
    async fn catch_up(&mut self) {
        loop {
            tokio::select! {
                biased;
                event = self.events.next() => drop(is_renewal(&event.unwrap())),
                () = std::future::ready(()) => return,
            }
        }
    }
}

/// Whether a term was renewed; it must not end.
fn is_renewal(event: &Event) -> bool {
    if let Event::Lost { reason, .. } = event {
        panic!("a term was lost: {reason:?}");
    }
    matches!(event, Event::Renewed { .. })
}

/// Wins so many elections at once.
async fn win_all(cluster: &Cluster, count: usize, ttl: Duration) -> Vec<Leader> {
    let elections = (0..count).map(|number| Leader::win(election(cluster, number, ttl)));
    elections.collect::<JoinSet<_>>().join_all().await
}

/// Waits until each term has been renewed so often from now on.
async fn renewed_all(leaders: Vec<Leader>, times: usize) -> Vec<Leader> {
    let renewals = leaders.into_iter().map(|mut leader| async move {
        leader.catch_up().await;
        for _ in 0..times {
            leader.renewed().await;
        }
        leader
    });
    renewals.collect::<JoinSet<_>>().join_all().await
}

#[test]
fn all_elections_of_a_cluster_share_a_connection_whose_failure_costs_no_term() {
    let etcd = Etcd::newest();
    let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
    run(async {
        let cluster = cluster(&proxy.endpoint());
        let mut leaders = win_all(&cluster, 100, LONG_TTL).await;
        assert_eq!(proxy.accepted(), 1);
        for link in [Link::Cut, Link::Reset] {
            let before = proxy.accepted();
            proxy.set(link);
            proxy.set(Link::Open);
            let cut = Instant::now();
            // The first may have been on its way.
            leaders = renewed_all(leaders, 2).await;
            // Two renewals take two periods, and a missed try adds another one.
            let took = cut.elapsed();
            assert!(
                took < PERIOD * 7 / 2,
                "more than one try was missed: {took:?}"
            );
            // A request on the old connection may have opened one just before the election noticed that it had failed.
            let made = proxy.accepted() - before;
            assert!(made <= 2, "{made} connections were made for all");
        }
        // Nothing is left of it when all have withdrawn, and the next election connects anew.
        for leader in leaders {
            drop(leader.leadership);
            leader.candidate.withdraw().await.unwrap();
        }
        let before = proxy.accepted();
        drop(Leader::win(election(&cluster, 0, TTL)).await);
        assert_eq!(proxy.accepted(), before + 1);
    });
}

#[test]
fn a_connection_that_is_silent_is_replaced_once_for_all_its_elections() {
    let etcd = Etcd::newest();
    let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
    run(async {
        let leaders = win_all(&cluster(&proxy.endpoint()), 50, LONG_TTL).await;
        // As a firewall does: the connection stays, and nothing passes it.
        proxy.set(Link::Forget);
        let leaders = renewed_all(leaders, 3).await;
        assert!(proxy.accepted() <= 3, "{} connections", proxy.accepted());
        drop(leaders);
    });
}

#[test]
fn elections_with_a_password_authenticate_once_and_again_once_when_the_token_has_expired() {
    let mut etcd = Etcd::newest();
    users::add(&etcd);
    users::enable(&mut etcd);
    run(async {
        let password = Password::Text("of all evil".to_owned());
        let credentials = Credentials::new("root", password);
        let cluster = cluster(&etcd.endpoint()).with_credentials(credentials);
        let before = authentications(&etcd);
        let leaders = win_all(&cluster, 30, LONG_TTL).await;
        assert_eq!(authentications(&etcd) - before, 1);
        // Tokens of the kind that etcd uses by default do not outlive it.
        etcd.kill();
        etcd.up();
        let leaders = renewed_all(leaders, 2).await;
        assert_eq!(authentications(&etcd), 1, "since it was started");
        drop(leaders);
    });
}

#[test]
fn elections_of_two_runtimes_do_not_depend_on_each_other() {
    let etcd = Etcd::newest();
    let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
    let cluster = cluster(&proxy.endpoint());
    let other = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    // From here on, nobody drives it, so that nothing that runs in it goes on.
    let stuck = other.block_on(Leader::win(election(&cluster, 0, TTL)));
    run(async {
        let leader = Leader::win(election(&cluster, 1, TTL)).await;
        assert_eq!(proxy.accepted(), 2);
        drop(renewed_all(vec![leader], 2).await);
    });
    drop(stuck);
}

#[test]
fn observers_that_nobody_reads_do_not_hold_up_the_elections_of_their_cluster() {
    let etcd = Etcd::newest();
    let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
    run(async {
        let cluster = cluster(&proxy.endpoint());
        let leaders = win_all(&cluster, 1, LONG_TTL).await;
        let key = "watched".parse().unwrap();
        let mut observers: Vec<_> = (0..40)
            .map(|_| Observer::start(cluster.clone(), &key))
            .collect();
        for observer in &mut observers {
            observer.next().await.unwrap();
        }
        // Together far more than etcd may send on a connection by default.
        let large = "x".repeat(100_000);
        for number in 0..60 {
            etcd.etcdctl(&["put", "watched", &format!("{number}{large}")]);
        }
        drop(renewed_all(leaders, 3).await);
        assert_eq!(proxy.accepted(), 1);
    });
}
