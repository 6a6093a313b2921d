use super::*;
use crate::{
    config::Cluster,
    daemon::{http::document::document, render::text},
    protocol::{Entry, FencingToken, LeaseId, LossReason, Seat, SeatNumber, Seats, Term},
};

const TERM: Term = Term {
    token: FencingToken::new(1),
    lease: LeaseId::new(1),
};

fn state(role: Role) -> (watch::Sender<Status>, ReplicaState) {
    let cluster = Cluster::new(vec!["127.0.0.1:1".parse().unwrap()]).unwrap();
    let config = Config::new("one".parse().unwrap(), cluster).with_priority(-7);
    let (sender, status) = watch::channel(Status {
        role,
        keys_as_of: None,
        keys_known_until: None,
        leader: None,
        acting: None,
        seats: None,
        stands_back: false,
        endpoint: 0,
    });
    (
        sender,
        ReplicaState::new(&config, status, watch::channel(None).1),
    )
}

#[test]
fn a_replica_that_acts_past_its_deadline_does_not_lead_and_is_not_alive() {
    let (soon, past) = (clock::now() + Duration::from_mins(1), clock::now());
    let leader = |deadline| {
        state(Role::Leader {
            term: TERM,
            deadline,
        })
    };
    let stopping = |by| {
        let reason = LossReason::NotRenewed;
        state(Role::Stopping {
            term: TERM,
            by,
            reason,
        })
    };
    for ((_election, state), leads, lives) in [
        (leader(soon), true, true),
        (leader(past), false, false),
        (stopping(soon), false, true),
        (stopping(past), false, false),
        (state(Role::Follower), false, true),
    ] {
        assert_eq!(state.is_leader(), leads);
        assert!(state.check_liveness().is_ok(), "it may have been paused");
        let before = Moment::from_origin(Duration::ZERO);
        let mut known = state.lock();
        known.overdue_since = known.overdue_since.map(|_| before);
        drop(known);
        assert_eq!(state.check_liveness().is_ok(), lives);
    }
}

#[test]
fn what_is_known_of_the_leader_is_given_with_its_age_and_no_longer_than_a_ttl() {
    let lease = Some(LeaseId::new(1));
    let entry = Entry {
        value: b"two"[..].into(),
        lease,
        create_revision: 1,
        mod_revision: 1,
        settings: crate::protocol::TermSettings::default(),
    };
    let (election, state) = state(Role::Follower);
    state.lock().etcd_answers = Some(true);
    let fresh = clock::now();
    let old = Moment::from_origin(Duration::ZERO);
    for (sent, leader, reason) in [
        (None, None, Some("etcd has not responded yet")),
        (Some(fresh), Some("two"), None),
        (
            Some(old),
            None,
            Some("etcd has not responded for longer than the TTL"),
        ),
        (Some(fresh), Some("two"), None),
    ] {
        election.send_modify(|status| {
            status.leader = Some(entry.clone());
            status.acting = Some(entry.clone());
            status.keys_as_of = sent;
            status.keys_known_until = sent.map(|sent| sent + Duration::from_secs(5));
        });
        let document = document(&state.snapshot());
        assert_eq!(document["leader"]["name"].as_str(), leader);
        assert_eq!(document["leader_unknown_because"].as_str(), reason);
        assert_eq!(document["age"].is_null(), sent.is_none());
        assert_eq!(state.is_follower(), leader.is_some());
        assert_eq!(state.check_readiness().is_ok(), sent != Some(old));
        assert_eq!(document["etcd_answers"], sent != Some(old));
    }
    election.send_modify(|status| status.stands_back = true);
    state.record_health(Some("exit code 1"));
    let reason = state.check_readiness().unwrap_err();
    assert_eq!(reason, "this replica stands back: exit code 1");
}

#[test]
fn the_candidates_are_given_while_they_are_known_and_counted_by_a_metric() {
    let (election, state) = state(Role::Follower);
    let taken = SeatNumber::all().zip([1, 2]).map(|(number, lease)| Seat {
        number,
        entry: Entry {
            value: br#"{"name":"a"}"#[..].into(),
            lease: Some(LeaseId::new(lease)),
            create_revision: lease,
            mod_revision: lease,
            settings: crate::protocol::TermSettings::default(),
        },
        has_name: true,
        is_healthy: true,
        priority: 0,
        acts: None,
    });
    let (seats, none) = (
        Seats {
            taken: taken.collect(),
            next: None,
        },
        Seats::default(),
    );
    let (fresh, old) = (clock::now(), Moment::from_origin(Duration::ZERO));
    for (sent, seats, count) in [
        (Some(fresh), None, None),
        (Some(fresh), Some(&seats), Some(2)),
        (Some(old), Some(&seats), None),
        (None, Some(&seats), None),
        (Some(fresh), Some(&none), Some(0)),
    ] {
        election.send_modify(|status| {
            status.keys_as_of = sent;
            status.keys_known_until = sent.map(|sent| sent + Duration::from_mins(1));
            status.seats = seats.cloned().map(Arc::new);
        });
        let document = document(&state.snapshot());
        assert_eq!(document["candidates"].as_array().map(Vec::len), count);
        assert_eq!(document["seats_full"].as_bool(), count.map(|_| false));
        for format in [Format::Text, Format::OpenMetrics] {
            let metrics = state.encode_metrics(format).unwrap();
            let name = "leader_election_candidates ";
            let mut lines = metrics.lines();
            let value = lines.find_map(|line| line.strip_prefix(name));
            assert_eq!(value, count.map(|count| count.to_string()).as_deref());
        }
    }
}

#[test]
fn a_replica_that_stands_back_is_unhealthy_and_its_priority_is_given() {
    let (election, state) = state(Role::Follower);
    for (stands_back, value) in [(false, "1"), (true, "0"), (false, "1")] {
        election.send_modify(|status| status.stands_back = stands_back);
        let document = document(&state.snapshot());
        assert_eq!(document["healthy"], !stands_back);
        assert_eq!(document["priority"], -7);
        for format in [Format::Text, Format::OpenMetrics] {
            let metrics = state.encode_metrics(format).unwrap();
            let lines: Vec<_> = metrics.lines().collect();
            let healthy = format!("leader_election_healthy {value}");
            assert!(lines.contains(&healthy.as_str()), "{metrics}");
            assert!(lines.contains(&"leader_election_priority -7"), "{metrics}");
        }
    }
}

#[test]
fn a_transition_keeps_no_more_of_a_value_than_it_shows() {
    let (_election, state) = state(Role::Follower);
    let exact = format!("{}\u{fffd}", "x".repeat(254));
    for value in [exact.as_str(), &"x".repeat(255), &"x".repeat(100_000)] {
        let leader = Entry {
            value: value.as_bytes().into(),
            lease: None,
            create_revision: 1,
            mod_revision: 1,
            settings: crate::protocol::TermSettings::default(),
        };
        state.record(&Event::Following { leader });
        let document = document(&state.snapshot());
        let transitions = document["transitions"].as_array().unwrap();
        for (field, shown) in text("leader", value.as_bytes()) {
            assert_eq!(transitions.last().unwrap()[&field], shown);
        }
        match state.lock().transitions.back().unwrap().change {
            RoleChange::Follows {
                leader: Some(ref kept),
            } => assert!(kept.len() < 260),
            _ => panic!("it follows"),
        }
    }
}

#[test]
fn an_election_that_has_died_is_not_alive_and_one_that_has_withdrawn_is() {
    for (role, lives) in [(Role::Follower, false), (Role::Withdrawn, true)] {
        let (election, state) = state(role);
        drop(election);
        assert_eq!(state.check_liveness().is_ok(), lives);
    }
}
