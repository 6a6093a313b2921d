//! The end of a term: to whom it is handed over, and when its keys are deleted or its lease is revoked.

use super::harness::{
    Harness, MILLI, OTHER, SECOND, follower, held_by, key, leader, unreachable, view,
};
use crate::protocol::{
    Action, Beginning, Effect, ElectionKey, Entry, Event, Failure, FailureKind, FencingToken,
    Guard, Input, LeaseId, LeaseTime, Next, Reads, Role, Seat, SeatNumber, Seats, Transaction,
    View,
};
use std::{sync::Arc, time::Duration};

const FIRST: LeaseId = LeaseId::new(0xf1);
const SECOND_BEST: LeaseId = LeaseId::new(0xf2);

pub(super) fn seat(number: usize, lease: LeaseId, create_revision: i64) -> Seat {
    Seat {
        number: SeatNumber::all().nth(number).unwrap(),
        entry: Entry {
            create_revision,
            ..key(lease, create_revision + 1)
        },
        has_name: true,
        is_healthy: true,
        priority: 0,
        acts: None,
    }
}

pub(super) fn seated(view: View, taken: Vec<Seat>, next: Option<(FencingToken, LeaseId)>) -> View {
    let next = next.map(|(ends, lease)| Next {
        entry: key(lease, 12),
        ends: Some(ends),
    });
    View {
        seats: Some(Arc::new(Seats { taken, next })),
        ..view
    }
}

fn own_seat(lease: LeaseId) -> Seat {
    Seat {
        acts: Some(FencingToken::new(10)),
        ..seat(0, lease, 11)
    }
}

/// The seats of the leader and of two other candidates, the first of which has waited for longer.
fn seats(lease: LeaseId) -> Vec<Seat> {
    vec![
        own_seat(lease),
        seat(1, SECOND_BEST, 14),
        seat(2, FIRST, 12),
    ]
}

/// A leader with token 10 that knows of two candidates.
fn leader_with_candidates() -> (Harness, LeaseId) {
    let (mut harness, lease, _) = leader(1, Duration::ZERO);
    harness.pass(SECOND);
    harness.answer(seated(held_by(lease, 20), seats(lease), None));
    (harness, lease)
}

fn withdrawn() -> (Harness, LeaseId) {
    let (mut harness, lease) = leader_with_candidates();
    harness.handle(Input::Withdraw);
    harness.stop();
    (harness, lease)
}

/// Answers whether a candidate is alive; returns which one that was.
pub(super) fn check(harness: &mut Harness, remaining: Option<u64>) -> LeaseId {
    let (call, lease) = harness.take(|action| match action {
        Action::AskLeaseTime { call, lease, .. } => Some((*call, *lease)),
        _ => None,
    });
    let time = remaining.map(|remaining| LeaseTime {
        granted: 5 * SECOND,
        remaining: Duration::from_secs(remaining),
    });
    let result = Ok(time);
    harness.handle(Input::LeaseTime { call, result });
    lease
}

/// Lets the seats be read anew.
fn refresh(harness: &mut Harness, shown: View) {
    let read = harness.execute(Ok(shown));
    assert_eq!(read, Transaction::READ.reading(Reads::KeysAndSeats));
}

pub(super) fn handed_to(lease: LeaseId) -> View {
    let entry = Entry {
        create_revision: 10,
        ..key(lease, 30)
    };
    view(30, Some(entry.clone()), Some(entry))
}

fn revokes(harness: &Harness, lease: LeaseId) -> bool {
    harness.has(|action| matches!(action, Action::Revoke { lease: of, .. } if *of == lease))
}

pub(super) fn lease_of(transaction: &Transaction) -> LeaseId {
    match transaction.effect {
        Effect::HandOver { lease, .. } => lease,
        effect => panic!("not a hand-over: {effect:?}"),
    }
}

#[test]
fn a_planned_stop_hands_the_term_to_the_candidate_that_has_waited_for_longest() {
    let (mut harness, lease) = withdrawn();
    assert_eq!(check(&mut harness, Some(4)), FIRST);
    let unchanged = |mod_revision, lease| Guard::Unchanged {
        mod_revision,
        lease,
    };
    let transaction = harness.execute(Ok(handed_to(FIRST)));
    let [own, _, first] = &seats(lease)[..] else {
        panic!()
    };
    assert_eq!(
        transaction,
        Transaction {
            leader: unchanged(10, lease),
            acting: unchanged(10, lease),
            next: Guard::Absent,
            challenge: Guard::Ignored,
            about_challenge: false,
            other_seat: Some((first.number, unchanged(13, FIRST))),
            own_seat: Some((own.number, Guard::BoundTo { lease })),
            about_job: false,
            effect: Effect::HandOver {
                lease: FIRST,
                is_chosen: false
            },
            reads: Reads::KeysAndSeats,
        }
    );
    let handed_over = |event: &Event| matches!(event, Event::HandedOver { to, .. } if to == first);
    assert!(harness.events.iter().any(handed_over));
    assert!(!harness.machine.holds_keys_of(lease) && !revokes(&harness, lease));
    // The successor asks etcd first.
    harness.pass(10 * MILLI);
    assert!(revokes(&harness, lease));
}

#[test]
fn a_term_is_not_handed_to_a_candidate_whose_own_was_taken_over() {
    let (mut harness, lease, _) = leader(1, Duration::ZERO);
    harness.pass(SECOND);
    let former = Seat {
        acts: Some(FencingToken::new(7)),
        ..seat(2, FIRST, 12)
    };
    let taken = vec![own_seat(lease), seat(1, SECOND_BEST, 14), former];
    harness.answer(seated(held_by(lease, 20), taken, None));
    harness.handle(Input::Withdraw);
    harness.stop();
    assert_eq!(check(&mut harness, Some(4)), SECOND_BEST);
}

#[test]
fn nothing_is_handed_over_or_released_before_what_acted_has_stopped() {
    let (mut harness, _) = leader_with_candidates();
    harness.handle(Input::Withdraw);
    harness.pass(SECOND);
    let releases =
        |action: &Action| matches!(action, Action::Execute { .. } | Action::Revoke { .. });
    assert!(!harness.has(releases));
}

/// A leader that has just asked with a try whether the first candidate is alive, and has heard for how long its
/// lease remains.
fn leader_that_heard(remaining: Option<u64>) -> Harness {
    let (mut harness, lease) = leader_with_candidates();
    harness.pass(SECOND);
    assert_eq!(check(&mut harness, remaining), FIRST);
    harness.answer(seated(held_by(lease, 20), seats(lease), None));
    harness
}

#[test]
fn a_successor_that_was_alive_a_moment_ago_is_not_asked_about() {
    let mut harness = leader_that_heard(Some(4));
    // Of the 5/3 s + 1 s that it may have been silent, etcd's whole seconds have used up 1 s.
    harness.pass(666 * MILLI);
    harness.handle(Input::Withdraw);
    harness.stop();
    assert_eq!(lease_of(&harness.execute(Ok(handed_to(FIRST)))), FIRST);

    for (mut harness, wait) in [
        (leader_that_heard(Some(3)), 667 * MILLI),
        (leader_that_heard(Some(1)), Duration::ZERO),
        (leader_that_heard(None), Duration::ZERO),
    ] {
        harness.pass(wait);
        harness.handle(Input::Withdraw);
        harness.stop();
        assert_eq!(check(&mut harness, Some(4)), FIRST);
    }
}

#[test]
fn that_one_candidate_is_alive_says_nothing_about_another() {
    let mut harness = leader_that_heard(Some(4));
    let lease = LeaseId::new(0x101);
    let left = vec![own_seat(lease), seat(1, SECOND_BEST, 14)];
    harness.pass(SECOND);
    harness.answer(seated(held_by(lease, 21), left, None));
    harness.handle(Input::Withdraw);
    harness.stop();
    assert_eq!(check(&mut harness, Some(4)), SECOND_BEST);
}

#[test]
fn a_silent_candidate_is_passed_over_and_without_another_the_keys_are_deleted() {
    let (mut harness, lease) = withdrawn();
    assert_eq!(check(&mut harness, Some(1)), FIRST);
    assert_eq!(check(&mut harness, Some(1)), SECOND_BEST);
    harness.release(lease);
}

#[test]
fn if_a_candidate_is_gone_the_seats_are_read_anew() {
    let (mut harness, lease) = withdrawn();
    assert_eq!(check(&mut harness, None), FIRST);
    let left = vec![own_seat(lease), seat(1, SECOND_BEST, 14)];
    refresh(&mut harness, seated(held_by(lease, 21), left, None));
    assert_eq!(check(&mut harness, Some(4)), SECOND_BEST);
}

#[test]
fn a_candidate_without_a_name_is_no_successor() {
    let (mut harness, lease, _) = leader(1, Duration::ZERO);
    harness.pass(SECOND);
    let unnamed = Seat {
        has_name: false,
        ..seat(1, FIRST, 9)
    };
    let shown = seated(held_by(lease, 20), vec![own_seat(lease), unnamed], None);
    harness.answer(shown.clone());
    harness.handle(Input::Withdraw);
    harness.stop();
    refresh(&mut harness, shown);
    harness.release(lease);
}

#[test]
fn a_refused_hand_over_is_tried_again_with_what_the_response_shows_twice_at_most() {
    let (mut harness, lease) = withdrawn();
    check(&mut harness, Some(4));
    // The first one has withdrawn.
    let left = vec![own_seat(lease), seat(1, SECOND_BEST, 14)];
    harness.execute(Ok(seated(held_by(lease, 21), left.clone(), None)));
    for _ in 0..2 {
        assert_eq!(check(&mut harness, Some(4)), SECOND_BEST);
        let transaction = harness.execute(Ok(seated(held_by(lease, 22), left.clone(), None)));
        assert_eq!(lease_of(&transaction), SECOND_BEST);
    }
    harness.release(lease);
}

#[test]
fn an_unknown_outcome_leads_to_a_revocation_at_once() {
    for is_late in [false, true] {
        let (mut harness, lease) = withdrawn();
        check(&mut harness, Some(4));
        if is_late {
            harness.pass(SECOND);
            let call = harness.take(|action| match action {
                Action::BackOff { call, .. } => Some(*call),
                _ => None,
            });
            harness.handle(Input::BackedOff { call });
        } else {
            harness.execute(Err(unreachable()));
        }
        // Nothing else asks any more, so this is what finds the next endpoint.
        assert!(!revokes(&harness, lease));
        harness.connect();
        assert!(revokes(&harness, lease) && harness.machine.holds_keys_of(lease));
    }
}

#[test]
fn a_hand_over_that_etcd_refuses_for_lack_of_room_leads_to_a_deletion() {
    let (mut harness, lease) = withdrawn();
    check(&mut harness, Some(4));
    let no_space = Failure::new(FailureKind::Refused, "database space exceeded");
    harness.execute(Err(no_space));
    harness.release(lease);
}

#[test]
fn a_successor_whose_lease_is_gone_was_handed_nothing_and_the_next_one_follows() {
    let (mut harness, lease) = withdrawn();
    check(&mut harness, Some(4));
    let gone = Failure::new(FailureKind::LeaseNotFound, "requested lease not found");
    harness.execute(Err(gone));
    let left = vec![own_seat(lease), seat(1, SECOND_BEST, 14)];
    refresh(&mut harness, seated(held_by(lease, 21), left, None));
    assert_eq!(check(&mut harness, Some(4)), SECOND_BEST);
    let (_, transaction) = harness.take_beside();
    assert_eq!(lease_of(&transaction), SECOND_BEST);
}

#[test]
fn after_the_leader_key_was_deleted_the_seats_are_read_before_the_term_is_handed_over() {
    let (mut harness, lease) = leader_with_candidates();
    harness.changed(ElectionKey::Leader, 25, None);
    harness.stop();
    let chosen = Some((FencingToken::new(10), SECOND_BEST));
    let shown = view(25, None, Some(key(lease, 10)));
    let read = harness.execute(Ok(seated(shown, seats(lease), chosen)));
    assert_eq!(read, Transaction::READ.reading(Reads::KeysAndSeats));
    assert_eq!(check(&mut harness, Some(4)), SECOND_BEST);
    let (_, transaction) = harness.take_beside();
    assert_eq!(transaction.leader, Guard::Absent);
    let next = Guard::Unchanged {
        mod_revision: 12,
        lease: SECOND_BEST,
    };
    assert_eq!(transaction.next, next);
    let effect = Effect::HandOver {
        lease: SECOND_BEST,
        is_chosen: true,
    };
    assert_eq!(transaction.effect, effect);
}

#[test]
fn a_choice_for_another_term_counts_for_nothing() {
    let (mut harness, lease) = leader_with_candidates();
    harness.changed(ElectionKey::Leader, 25, None);
    harness.stop();
    let chosen = Some((FencingToken::new(9), SECOND_BEST));
    let shown = view(25, None, Some(key(lease, 10)));
    harness.execute(Ok(seated(shown, seats(lease), chosen)));
    assert_eq!(check(&mut harness, Some(4)), FIRST);
}

#[test]
fn a_leader_key_that_is_anothers_is_not_overwritten() {
    let (mut harness, lease) = leader_with_candidates();
    harness.changed(ElectionKey::Leader, 25, Some(key(OTHER, 25)));
    harness.stop();
    let shown = view(25, Some(key(OTHER, 25)), None);
    let transaction = harness.execute(Ok(shown));
    assert_eq!(transaction.effect, Effect::Release);
    assert_eq!(transaction.leader, Guard::Ignored);
    assert!(!harness.machine.holds_keys_of(lease));
}

#[test]
fn a_lost_term_is_never_handed_over() {
    let (mut harness, lease) = leader_with_candidates();
    harness.pass(5 * SECOND);
    harness.stop();
    harness.connect();
    assert!(!harness.has(|action| matches!(action, Action::Execute { .. })));
    assert!(revokes(&harness, lease));
}

#[test]
fn a_campaign_without_a_response_prevents_the_deletion_of_the_keys_and_no_hand_over() {
    for has_candidates in [false, true] {
        let mut harness = Harness::new(1);
        harness.connect();
        let lease = harness.grant();
        // The response to the campaign is lost; a read shows that it was won.
        harness.take_transaction();
        harness.pass(SECOND);
        let call = harness.take(|action| match action {
            Action::BackOff { call, .. } => Some(*call),
            _ => None,
        });
        harness.handle(Input::BackedOff { call });
        harness.connect();
        let shown = held_by(lease, 20);
        harness.answer(if has_candidates {
            seated(shown, seats(lease), None)
        } else {
            shown
        });
        assert!(harness.is_leader());
        harness.handle(Input::Withdraw);
        harness.stop();
        if has_candidates {
            assert_eq!(check(&mut harness, Some(4)), FIRST);
            let (_, transaction) = harness.take_beside();
            assert_eq!(lease_of(&transaction), FIRST);
        } else {
            assert!(revokes(&harness, lease));
        }
    }
}

#[test]
fn a_leader_without_a_known_successor_reads_the_seats_before_it_releases_its_keys() {
    let (mut harness, lease, _) = leader(1, Duration::ZERO);
    harness.pass(SECOND);
    harness.answer(seated(held_by(lease, 20), vec![own_seat(lease)], None));
    harness.handle(Input::Withdraw);
    harness.stop();
    refresh(&mut harness, seated(held_by(lease, 21), seats(lease), None));
    assert_eq!(check(&mut harness, Some(4)), FIRST);
}

#[test]
fn a_failed_deletion_leads_to_a_revocation() {
    for refused in [true, false] {
        let (mut harness, lease, _) = leader(1, Duration::ZERO);
        harness.handle(Input::Withdraw);
        harness.stop();
        harness.execute(if refused {
            Ok(held_by(lease, 30))
        } else {
            Err(unreachable())
        });
        if !refused {
            harness.connect();
        }
        assert!(revokes(&harness, lease) && harness.machine.holds_keys_of(lease));
    }
}

#[test]
fn a_candidate_to_which_a_term_is_handed_acts_once_its_own_try_is_answered() {
    let (mut harness, lease) = follower();
    let own: fn(LeaseId) -> Option<Entry> = |lease| Some(key(lease, 30));
    for of in [ElectionKey::Leader, ElectionKey::Acting] {
        harness.changed(of, 30, own(lease));
        assert_eq!(harness.machine.status().role, Role::Follower);
    }
    let sent = harness.now;
    harness.pass(100 * MILLI);
    assert!(!harness.answer(handed_to(lease)), "it need not campaign");
    let leads = |event: &Event| {
        matches!(event, Event::Leading { term, deadline, beginning: Beginning::HandOver, .. }
            if term.token == FencingToken::new(30) && *deadline == sent + 4500 * MILLI)
    };
    assert!(harness.events.iter().any(leads), "{:?}", harness.events);
    let changes = [Event::LeaderGone];
    assert!(changes.iter().all(|event| harness.events.contains(event)));
}

#[test]
fn a_follower_reports_that_the_leader_changed_when_a_term_is_handed_to_another() {
    let (mut harness, _) = follower();
    harness.events.clear();
    harness.changed(ElectionKey::Leader, 30, Some(key(FIRST, 30)));
    harness.changed(ElectionKey::Acting, 30, Some(key(FIRST, 30)));
    let leader = key(FIRST, 30);
    assert_eq!(
        harness.events,
        [Event::LeaderGone, Event::Following { leader }]
    );
}

#[test]
fn a_choice_that_becomes_known_while_a_candidate_is_asked_about_is_obeyed() {
    let (mut harness, lease) = leader_with_candidates();
    harness.stop();
    let (call, asked_about) = harness.take(|action| match action {
        Action::AskLeaseTime { call, lease, .. } => Some((*call, *lease)),
        _ => None,
    });
    assert_eq!(asked_about, FIRST);
    // The next lease's try shows it.
    harness.grant();
    let chosen = Some((FencingToken::new(10), SECOND_BEST));
    let (read, _) = harness.take_transaction();
    harness.transact(read, seated(held_by(lease, 25), seats(lease), chosen));
    let time = LeaseTime {
        granted: 5 * SECOND,
        remaining: 4 * SECOND,
    };
    let result = Ok(Some(time));
    harness.handle(Input::LeaseTime { call, result });
    assert_eq!(check(&mut harness, Some(4)), SECOND_BEST);
    let (_, transaction) = harness.take_beside();
    assert_eq!(lease_of(&transaction), SECOND_BEST);
}
