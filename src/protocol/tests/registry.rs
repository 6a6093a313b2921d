//! When a candidate takes and writes its seat.

use super::{
    handover::{seat, seated},
    harness::{Harness, MILLI, OTHER, SECOND, follower, held_by, key, leader, unreachable, view},
};
use crate::protocol::{
    Action, ElectionKey, Event, Failure, FailureKind, FencingToken, Input, LeaseId, Reads, Seat,
    SeatNumber, Transaction, View,
};

fn number(place: usize) -> SeatNumber {
    SeatNumber::all().nth(place).unwrap()
}

fn writes(harness: &Harness) -> bool {
    harness.has(|action| matches!(action, Action::Execute { .. }))
}

/// A follower whose campaign showed these seats.
fn follower_among(taken: Vec<Seat>) -> (Harness, LeaseId) {
    let mut harness = Harness::new(1);
    harness.connect();
    let lease = harness.grant();
    assert!(!writes(&harness));
    assert!(harness.answer(seated(held_by(OTHER, 20), taken, None)));
    (harness, lease)
}

fn denied() -> Failure {
    Failure::new(FailureKind::Denied, "permission denied")
}

#[test]
fn a_candidate_takes_the_first_free_seat_once_it_has_campaigned() {
    let (mut harness, lease) = follower_among(vec![seat(0, OTHER, 11), seat(2, OTHER, 12)]);
    let shown = vec![seat(0, OTHER, 11), seat(1, lease, 21)];
    let shown = seated(held_by(OTHER, 21), shown, None);
    let transaction = harness.execute(Ok(shown.clone()));
    assert_eq!(
        transaction,
        Transaction::take_seat(number(1), lease, None, true)
    );
    harness.pass(2 * SECOND);
    harness.answer(shown);
    assert!(
        !writes(&harness),
        "nothing is written while nothing changes"
    );
}

#[test]
fn a_seat_that_another_was_faster_to_take_is_left_to_it() {
    let (mut harness, lease) = follower_among(Vec::new());
    // Each time, another candidate has just taken the seat. Those that were beaten differ in which one they try next.
    let next = usize::try_from(lease.get() % 15).unwrap() + 1;
    assert_ne!(next, 1);
    for tried in [0, next] {
        let shown = seated(held_by(OTHER, 21), vec![seat(tried, OTHER, 21)], None);
        let transaction = harness.execute(Ok(shown));
        let expected = Transaction::take_seat(number(tried), lease, None, true);
        assert_eq!(transaction, expected);
    }
    assert!(!writes(&harness), "it takes its time then");
    harness.pass(2 * SECOND);
    harness.answer(seated(
        held_by(OTHER, 22),
        vec![seat(next, OTHER, 21)],
        None,
    ));
    let (_, transaction) = harness.take_beside();
    assert!(
        transaction
            .own_seat
            .is_some_and(|(seat, _)| seat != number(next))
    );
}

#[test]
fn a_candidate_without_a_free_seat_waits_for_one() {
    let full: Vec<_> = (0..16).map(|place| seat(place, OTHER, 11)).collect();
    let (harness, lease) = follower_among(full.clone());
    assert!(!writes(&harness));
    let own = usize::try_from(lease.get() % 16).unwrap();
    for free in [own, (own + 1) % 16] {
        let (mut harness, _) = follower_among(full.clone());
        let mut rest = full.clone();
        rest.remove(free);
        if free != own {
            harness.pass(2 * SECOND);
            harness.answer(seated(held_by(OTHER, 22), rest.clone(), None));
            assert!(!writes(&harness), "others may want it");
        }
        harness.pass(2 * SECOND);
        harness.answer(seated(held_by(OTHER, 23), rest, None));
        let (_, transaction) = harness.take_beside();
        assert_eq!(
            transaction,
            Transaction::take_seat(number(free), lease, None, true)
        );
    }
}

#[test]
fn a_former_leader_leaves_its_seat_to_those_that_had_none() {
    let (mut harness, lease, _) = leader(1, SECOND);
    let mut taken: Vec<_> = (0..15).map(|place| seat(place, OTHER, 11)).collect();
    for seat in &mut taken {
        // No successor.
        seat.is_healthy = false;
    }
    harness.changed(ElectionKey::Leader, 11, None);
    harness.pass(SECOND);
    let own = seat(15, lease, 12);
    let full = [taken.clone(), vec![own]].concat();
    let acting = view(12, None, Some(key(lease, 10)));
    harness.answer(seated(acting.clone(), full.clone(), None));
    harness.stop();
    // It looks for a successor once more.
    harness.execute(Ok(seated(acting, full, None)));
    harness.release(lease);
    let lease = harness.grant();
    assert_ne!(lease.get() % 16, 15);
    harness.answer(seated(held_by(OTHER, 20), taken.clone(), None));
    // It holds off, and by then another candidate has the seat.
    harness.pass(1001 * MILLI);
    assert!(!writes(&harness));
    taken.push(seat(15, OTHER, 21));
    harness.pass(SECOND);
    harness.answer(seated(held_by(OTHER, 21), taken, None));
    assert!(!writes(&harness));
}

#[test]
fn a_follower_watches_unless_others_have_all_seats() {
    let watches = |action: &Action| matches!(action, Action::Watch { .. });
    let full: Vec<_> = (0..16).map(|place| seat(place, OTHER, 11)).collect();
    let mut unhealthy = full.clone();
    for seat in &mut unhealthy {
        seat.is_healthy = false;
    }
    let (mut harness, lease) = follower_among(full.clone());
    assert!(!harness.has(watches), "it is left out from the start");
    harness.pass(1700 * MILLI);
    for (taken, expected) in [
        (full[1..].to_vec(), true),
        (full.clone(), false),
        // If none of the others can lead, it may be the next.
        (unhealthy, true),
        (full.clone(), false),
    ] {
        harness.answer(seated(held_by(OTHER, 22), taken, None));
        assert_eq!(harness.has(watches), expected);
        assert_eq!(
            harness.has(|action| matches!(action, Action::Unwatch)),
            !expected
        );
        let is_of_watch = |action: &Action| watches(action) || matches!(action, Action::Unwatch);
        harness.actions.retain(|action| !is_of_watch(action));
        if !harness.has(|action| matches!(action, Action::Try { .. })) {
            harness.pass(1700 * MILLI);
        }
    }
    // A key of its own must be watched, with a seat or without.
    harness.answer(seated(held_by(lease, 30), full, None));
    assert!(harness.has(watches));
}

#[test]
fn a_candidate_that_does_not_watch_reads_at_once_when_it_can_lead_again() {
    let full: Vec<_> = (0..16).map(|place| seat(place, OTHER, 11)).collect();
    for (taken, reads) in [(full, true), (Vec::new(), false)] {
        let (mut harness, _) = follower_among(taken);
        harness.handle(Input::StandBack);
        harness.handle(Input::StandForward);
        let tries = harness.has(|action| matches!(action, Action::Try { .. }));
        assert_eq!(tries, reads);
    }
}

#[test]
fn a_leader_writes_in_its_seat_in_which_term_it_leads() {
    let mut harness = Harness::new(1);
    harness.connect();
    let lease = harness.grant();
    harness.answer(seated(held_by(lease, 10), Vec::new(), None));
    let token = Some(FencingToken::new(10));
    let (_, transaction) = harness.take_beside();
    assert_eq!(
        transaction,
        Transaction::take_seat(number(0), lease, token, true)
    );
}

#[test]
fn a_candidate_to_which_a_term_was_handed_writes_its_seat_again() {
    let (mut harness, lease) = follower_among(vec![seat(0, OTHER, 11)]);
    let taken = vec![seat(0, OTHER, 11), seat(1, lease, 20)];
    harness.execute(Ok(seated(held_by(OTHER, 21), taken.clone(), None)));
    harness.pass(2 * SECOND);
    harness.answer(seated(held_by(lease, 30), taken, None));
    assert!(harness.is_leader());
    let acts = Some(FencingToken::new(10));
    let (_, transaction) = harness.take_beside();
    let expected = Transaction::rewrite_seat(number(1), 21, lease, acts, true);
    assert_eq!(transaction, expected);
}

#[test]
fn a_write_that_fails_is_repeated_after_a_while() {
    let (mut harness, _) = follower_among(Vec::new());
    harness.execute(Err(unreachable()));
    assert!(!writes(&harness));
    harness.pass(2 * SECOND);
    harness.answer(seated(held_by(OTHER, 22), Vec::new(), None));
    assert!(writes(&harness));
}

#[test]
fn a_role_for_two_keys_campaigns_without_seats_at_once_and_that_is_reported_once() {
    let mut harness = Harness::new(1);
    harness.connect();
    harness.grant();
    let (call, transaction) = harness.take_transaction();
    assert_eq!(transaction.reads, Reads::KeysAndSeats);
    let result: Result<View, _> = Err(denied());
    harness.handle(Input::Transacted { call, result });
    assert!(
        harness
            .events
            .iter()
            .all(|event| !matches!(event, Event::SeatsDenied { .. }))
    );
    let (call, transaction) = harness.take_transaction();
    assert!(transaction.is_campaign());
    assert_eq!(transaction.reads, Reads::Keys);
    harness.transact(call, held_by(OTHER, 10));
    harness.keep_alive(call, 1);
    assert!(harness.says(&Event::SeatsDenied { failure: denied() }));
    assert!(!writes(&harness) && harness.machine.status().seats.is_none());
    // A minute later it asks again, without another report.
    let denied_at = harness.now;
    let call = loop {
        harness.pass(500 * MILLI);
        if !harness.has(|action| matches!(action, Action::Try { .. })) {
            continue;
        }
        let (call, transaction) = harness.take_transaction();
        if transaction.reads == Reads::KeysAndSeats {
            break call;
        }
        harness.transact(call, held_by(OTHER, 11));
        harness.keep_alive(call, 1);
        assert!(harness.now < denied_at + 70 * SECOND);
    };
    assert!(harness.now >= denied_at + 60 * SECOND);
    let result: Result<View, _> = Err(denied());
    harness.handle(Input::Transacted { call, result });
    harness.answer(held_by(OTHER, 11));
    assert!(!harness.says(&Event::SeatsDenied { failure: denied() }));
}

#[test]
fn a_role_that_loses_and_regains_all_its_rights_keeps_its_seat() {
    let (mut harness, _) = follower_among(Vec::new());
    for reads in [Reads::KeysAndSeats, Reads::Keys] {
        harness.pass(2 * SECOND);
        let (call, transaction) = harness.take_transaction();
        assert_eq!(transaction.reads, reads);
        let result: Result<View, _> = Err(denied());
        harness.handle(Input::Transacted { call, result });
    }
    harness.connect();
    let (_, transaction) = harness.take_transaction();
    assert_eq!(transaction.reads, Reads::KeysAndSeats);
    assert!(!harness.says(&Event::SeatsDenied { failure: denied() }));
}

#[test]
fn a_role_that_may_only_read_the_seats_is_not_listed() {
    let (mut harness, _) = follower_among(Vec::new());
    harness.execute(Err(denied()));
    assert!(harness.says(&Event::SeatsDenied { failure: denied() }));
    harness.pass(2 * SECOND);
    let (_, transaction) = harness.take_transaction();
    assert_eq!(transaction, Transaction::READ);
}

#[test]
fn a_lease_whose_grant_had_no_response_is_revoked_and_its_id_is_not_used_again() {
    let mut harness = Harness::new(1);
    harness.connect();
    harness.pass(SECOND);
    let lost = harness.take(|action| match action {
        Action::Grant { lease, .. } => Some(*lease),
        _ => None,
    });
    let back_off = |action: &Action| match action {
        Action::BackOff { call, .. } => Some(*call),
        _ => None,
    };
    let call = harness.take(back_off);
    harness.handle(Input::BackedOff { call });
    harness.connect();
    assert!(harness.has(|action| matches!(action, Action::Revoke { lease, .. } if *lease == lost)));
    assert_ne!(harness.grant(), lost);
}

#[test]
fn the_seats_that_are_known_are_forgotten_with_the_history_that_they_belong_to() {
    let (mut harness, _) = follower();
    harness.pass(2 * SECOND);
    harness.answer(seated(held_by(OTHER, 22), vec![seat(0, OTHER, 11)], None));
    assert!(harness.machine.status().seats.is_some());
    harness.pass(2 * SECOND);
    harness.answer(view(5, None, None));
    assert!(harness.machine.status().seats.is_none());
}

#[test]
fn of_the_leases_that_may_have_been_granted_the_last_ones_are_revoked_one_by_one() {
    let mut harness = Harness::new(1);
    let mut lost = Vec::new();
    for _ in 0..20 {
        harness.connect();
        let (call, lease) = harness.take(|action| match action {
            Action::Grant { call, lease, .. } => Some((*call, *lease)),
            _ => None,
        });
        lost.push(lease);
        let result = Err(unreachable());
        harness.handle(Input::Granted { call, result });
        harness
            .actions
            .retain(|action| !matches!(action, Action::Revoke { .. }));
        harness.pass(10 * MILLI);
        let call = harness.take(|action| match action {
            Action::BackOff { call, .. } => Some(*call),
            _ => None,
        });
        harness.handle(Input::BackedOff { call });
    }
    harness.connect();
    let mut revoked = Vec::new();
    while harness.has(|action| matches!(action, Action::Revoke { .. })) {
        let (call, lease) = harness.take(|action| match action {
            Action::Revoke { call, lease, .. } => Some((*call, *lease)),
            _ => None,
        });
        revoked.push(lease);
        assert!(!harness.has(|action| matches!(action, Action::Revoke { .. })));
        let gone = Failure::new(FailureKind::LeaseNotFound, "requested lease not found");
        let result = Err(gone);
        harness.handle(Input::Revoked { call, result });
    }
    revoked.sort_by_key(|lease| lease.get());
    assert_eq!(revoked, lost[12..]);
}

#[test]
fn a_candidate_withdraws_at_once_though_a_lease_may_have_been_granted() {
    let mut harness = Harness::new(1);
    harness.connect();
    let (call, _) = harness.take(|action| match action {
        Action::Grant { call, lease, .. } => Some((*call, *lease)),
        _ => None,
    });
    let result = Err(unreachable());
    harness.handle(Input::Granted { call, result });
    harness.handle(Input::Withdraw);
    assert!(harness.says(&Event::Withdrawn { left_behind: None }));
}
