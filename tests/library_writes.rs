//! The library's API, against a real etcd: what is written in a term, jobs that run once, and limited
//! waits.

use leader_election::{
    Candidate, Cluster, Config, Credentials, DoneRecord, Election, Event, JobId, NotRecorded,
    Password, PutError, Ttl,
};
use std::time::Duration;
use support::proxy::{Link, Proxy};
use support::{PATIENCE, TTL, etcd::Etcd, users};

fn config(endpoint: &str, name: &str) -> Config {
    let cluster = Cluster::new(vec![endpoint.parse().unwrap()]).unwrap();
    Config::new(name.parse().unwrap(), cluster)
        // One write may take a fifth of it.
        .with_ttl_and_grace(Ttl::try_from(15 * TTL).unwrap(), Duration::ZERO)
        .unwrap()
}

fn join(config: Config) -> Candidate {
    Election::new(config).join().unwrap()
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("in time") });
}

#[test]
fn a_leader_writes_only_in_its_term_and_never_the_elections_own_keys() {
    let etcd = Etcd::newest();
    run(async {
        let mut candidate = join(config(&etcd.endpoint(), "a"));
        let leadership = candidate.elected().await.unwrap();
        leadership.put_if_leading("state", b"\0one").await.unwrap();
        let key = etcd.key("state").unwrap();
        assert_eq!((key.value.as_slice(), key.lease), (&b"\0one"[..], None));
        for own in ["leader", "leader/acting", "leader/done/x", "leader/"] {
            let result = leadership.put_if_leading(own, "x").await;
            assert_eq!(result, Err(PutError::ReservedKey), "{own}");
        }
        leadership.put_if_leading("leaders", "x").await.unwrap();

        // Deleting `leader` asks it to step down; until it has, it may write.
        etcd.etcdctl(&["del", "leader"]);
        leadership.put_if_leading("state", "two").await.unwrap();
        etcd.put("leader/acting", b"{}", None);
        let result = leadership.put_if_leading("state", "three").await;
        assert_eq!(result, Err(PutError::TermOver));
        assert_eq!(etcd.key("state").unwrap().value, b"two");
    });
}

#[test]
fn a_write_without_a_response_is_unknown_and_can_be_repeated() {
    let etcd = Etcd::newest();
    run(async {
        let proxy = Proxy::start(&etcd.endpoint(), Link::Open);
        let mut candidate = join(config(&proxy.endpoint(), "a"));
        let leadership = candidate.elected().await.unwrap();
        proxy.set(Link::NoResponses);
        let result = leadership.put_if_leading("state", "one").await;
        assert!(matches!(result, Err(PutError::Unknown(_))), "{result:?}");
        proxy.set(Link::Open);
        while let Err(error) = leadership.put_if_leading("state", "one").await {
            let may_repeat = matches!(error, PutError::Unknown(_) | PutError::NotSent(_));
            assert!(may_repeat && leadership.is_leader(), "{error}");
            tokio::task::yield_now().await;
        }
        assert_eq!(etcd.key("state").unwrap().value, b"one");
        drop(leadership);
        candidate.withdraw().await.unwrap();
    });
}

#[test]
fn a_write_that_etcd_denies_is_refused() {
    let mut etcd = Etcd::newest();
    users::add(&etcd);
    users::enable(&mut etcd);
    run(async {
        let cluster = Cluster::new(vec![etcd.endpoint().parse().unwrap()]).unwrap();
        let password = Password::Text("sesame".to_owned());
        let cluster = cluster.with_credentials(Credentials::new("replica", password));
        let mut candidate = join(Config::new("a".parse().unwrap(), cluster));
        let leadership = candidate.elected().await.unwrap();
        let result = leadership.put_if_leading("state", "one").await;
        let Err(PutError::Denied(failure)) = result else {
            panic!("{result:?}");
        };
        assert!(failure.message.contains("permission denied"), "{failure}");
    });
}

#[test]
fn a_job_is_completed_once_and_every_candidate_of_it_withdraws() {
    let etcd = Etcd::newest();
    run(async {
        let job: JobId = "job 1".parse().unwrap();
        let config = |name: &str| config(&etcd.endpoint(), name).with_job(job.clone());
        let mut first = join(config("first"));
        let leadership = first.elected().await.unwrap();
        let mut election = Election::new(config("second"));
        let mut events = election.events();
        let mut second = election.join().unwrap();
        let token = leadership.token();
        let record = leadership.complete().await.unwrap();
        assert_eq!(record.name.as_deref(), Some("first"));
        assert_eq!(record.token, Some(token));
        assert!(second.elected().await.is_none());
        assert!(first.elected().await.is_none());
        let mut found = None;
        while let Some(event) = events.next().await {
            if let Event::JobDone { record } = event {
                found = Some(DoneRecord::decode(&record.value));
            }
        }
        assert_eq!(found, Some(record));
        first.withdraw().await.unwrap();
        second.withdraw().await.unwrap();
        assert!(etcd.leases().is_empty());
    });
}

#[test]
fn a_job_is_not_recorded_after_its_term_or_if_there_is_none() {
    let etcd = Etcd::newest();
    run(async {
        let job: JobId = "x".parse().unwrap();
        let mut candidate = join(config(&etcd.endpoint(), "a").with_job(job));
        let mut leadership = candidate.elected().await.unwrap();
        etcd.etcdctl(&["del", "--prefix", "leader"]);
        leadership.lost().await;
        let result = leadership.complete().await;
        assert_eq!(result, Err(NotRecorded::TermOver));
        // It takes part again, and has another chance.
        let leadership = candidate.elected().await.unwrap();
        leadership.complete().await.unwrap();
        candidate.withdraw().await.unwrap();

        let mut without = join(config(&etcd.endpoint(), "b"));
        let leadership = without.elected().await.unwrap();
        assert_eq!(leadership.complete().await, Err(NotRecorded::NoJob));
        let again = without.elected().await.unwrap();
        assert!(again.is_leader());
        drop(again);
        without.withdraw().await.unwrap();
    });
}

#[test]
fn a_candidate_with_a_limited_wait_withdraws_by_itself() {
    let etcd = Etcd::newest();
    run(async {
        let mut leader = join(config(&etcd.endpoint(), "leader"));
        let leadership = leader.elected().await.unwrap();
        for wait in [Duration::ZERO, TTL] {
            let mut election = Election::new(config(&etcd.endpoint(), "waits").with_wait(wait));
            let mut events = election.events();
            let mut waits = election.join().unwrap();
            assert!(waits.elected().await.is_none());
            let mut gave_up = false;
            while let Some(event) = events.next().await {
                gave_up |= matches!(
                    event,
                    Event::GaveUp {
                        leader: Some(_),
                        has_led: false
                    }
                );
            }
            assert!(gave_up);
        }
        drop(leadership);
        leader.withdraw().await.unwrap();
        assert!(etcd.leases().is_empty());
    });
}
