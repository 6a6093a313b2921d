//! Candidates that stand back, and leaders that yield to better ones.

use super::{
    handover::{check, handed_to, lease_of, seat, seated},
    harness::{Harness, OTHER, SECOND, held_by, key, view},
};
use crate::protocol::{
    Action, Event, Failure, FailureKind, Guard, Input, LeaseId, LossReason, Seat, Transaction, View,
};
use std::time::Duration;

const BETTER: LeaseId = LeaseId::new(0xf1);
const DELAY: Duration = Duration::from_secs(3);

fn lost_by(harness: &Harness, reason: LossReason) -> bool {
    let is_lost = |event: &Event| matches!(event, Event::Lost { reason: of, .. } if *of == reason);
    harness.events.iter().any(is_lost)
}

fn campaigns(harness: &mut Harness) -> bool {
    let (_, writes) = harness.take_try();
    writes
}

/// A leader of priority 0 with token 10.
fn leader(delay: Option<Duration>) -> (Harness, LeaseId) {
    let mut harness = Harness::with(1, |settings| settings.priority_delay = delay);
    harness.connect();
    let lease = harness.grant();
    harness.answer(held_by(lease, 10));
    assert!(harness.is_leader());
    (harness, lease)
}

fn better(mod_revision: i64) -> Seat {
    let mut seat = seat(1, BETTER, 12);
    seat.priority = 1;
    seat.entry.mod_revision = mod_revision;
    seat
}

/// Lets a second pass, and the next try show these seats and that the first candidate is alive.
fn second(harness: &mut Harness, lease: LeaseId, taken: Vec<Seat>) {
    let asks = taken.iter().any(|seat| seat.is_healthy);
    harness.pass(SECOND);
    if asks && harness.has(|action| matches!(action, Action::AskLeaseTime { .. })) {
        check(harness, Some(4));
    }
    harness.answer(seated(held_by(lease, 20), taken, None));
}

fn probe_of_room(harness: &mut Harness, result: Result<View, Failure>) {
    let transaction = harness.execute(result);
    let (_, guard) = transaction.own_seat.unwrap();
    assert!(matches!(
        guard,
        Guard::Unchanged {
            mod_revision: i64::MAX,
            ..
        }
    ));
    assert!(transaction.takes_room());
}

fn has_probe(harness: &Harness) -> bool {
    let is_probe = |action: &Action| {
        let Action::Execute { transaction, .. } = action else {
            return false;
        };
        matches!(
            transaction.own_seat,
            Some((
                _,
                Guard::Unchanged {
                    mod_revision: i64::MAX,
                    ..
                }
            ))
        )
    };
    harness.has(is_probe)
}

#[test]
fn a_candidate_that_stands_back_reads_and_campaigns_at_once_when_it_can_lead_again() {
    let mut harness = Harness::with(1, |settings| settings.stands_back = true);
    assert!(harness.machine.status().stands_back);
    harness.connect();
    harness.grant();
    let nobody = view(5, None, None);
    harness.answer(nobody.clone());
    let campaigns = |harness: &Harness| {
        harness.has(
            |action| matches!(action, Action::Try { transaction, .. } if transaction.is_campaign()),
        )
    };
    harness.pass(2 * SECOND);
    assert!(!campaigns(&harness));
    harness.answer(nobody);
    assert!(!campaigns(&harness));
    harness.handle(Input::StandForward);
    assert!(campaigns(&harness));
}

#[test]
fn a_leader_that_stands_back_ends_its_term_in_order_and_hands_it_over() {
    let (mut harness, lease) = leader(None);
    second(&mut harness, lease, vec![seat(1, OTHER, 12)]);
    second(&mut harness, lease, vec![seat(1, OTHER, 12)]);
    harness.handle(Input::StandBack);
    assert!(lost_by(&harness, LossReason::StoodBack));
    harness.stop();
    assert_eq!(lease_of(&harness.execute(Ok(handed_to(OTHER)))), OTHER);
    // It does not campaign, though nobody leads.
    harness.grant();
    harness.answer(view(40, None, None));
    harness.pass(4 * SECOND);
    assert!(!campaigns(&mut harness));
}

#[test]
fn a_candidate_that_is_elected_while_it_stands_back_hands_the_term_on_before_it_acts() {
    let mut harness = Harness::new(1);
    harness.connect();
    let lease = harness.grant();
    harness.handle(Input::StandBack);
    let shown = seated(held_by(lease, 10), vec![seat(1, BETTER, 8)], None);
    harness.answer(shown);
    assert!(!harness.has(|action| matches!(action, Action::Lead { .. })));
    assert_eq!(check(&mut harness, Some(4)), BETTER);
    assert_eq!(lease_of(&harness.execute(Ok(handed_to(BETTER)))), BETTER);
}

#[test]
fn a_candidate_that_stands_back_is_no_successor() {
    let (mut harness, lease) = leader(None);
    let mut other = seat(1, OTHER, 12);
    other.is_healthy = false;
    second(&mut harness, lease, vec![other.clone()]);
    harness.handle(Input::Withdraw);
    harness.stop();
    let read = harness.execute(Ok(seated(held_by(lease, 21), vec![other], None)));
    assert!(!read.writes());
    harness.release(lease);
}

#[test]
fn a_leader_yields_once_a_better_candidate_has_been_able_to_lead_for_the_delay() {
    let (mut harness, lease) = leader(Some(DELAY));
    for _ in 0..3 {
        second(&mut harness, lease, vec![better(13)]);
        assert!(!has_probe(&harness));
    }
    second(&mut harness, lease, vec![better(13)]);
    probe_of_room(&mut harness, Ok(view(20, None, None)));
    assert!(lost_by(&harness, LossReason::Outranked));
    harness.stop();
    assert_eq!(lease_of(&harness.execute(Ok(handed_to(BETTER)))), BETTER);
}

#[test]
fn an_interruption_restarts_the_delay_even_if_no_try_has_seen_it() {
    let (mut harness, lease) = leader(Some(DELAY));
    for _ in 0..3 {
        second(&mut harness, lease, vec![better(13)]);
    }
    for _ in 0..3 {
        second(&mut harness, lease, vec![better(15)]);
        assert!(!has_probe(&harness));
    }
    second(&mut harness, lease, vec![better(15)]);
    assert!(has_probe(&harness));
}

#[test]
fn a_lost_term_restarts_the_delay() {
    let (mut harness, lease) = leader(Some(DELAY));
    for _ in 0..3 {
        second(&mut harness, lease, vec![better(13)]);
    }
    // Nothing responds until the term is over; then it wins again, and the other's seat is the same.
    harness.pass(5 * SECOND);
    harness.stop();
    harness.pass(5 * SECOND);
    if harness.has(|action| matches!(action, Action::Connect { .. })) {
        harness.connect();
    }
    let lease = harness.grant();
    let shown = seated(
        view(50, Some(key(lease, 50)), Some(key(lease, 50))),
        vec![better(13)],
        None,
    );
    harness.answer(shown.clone());
    assert!(harness.is_leader());
    for _ in 0..2 {
        harness.pass(SECOND);
        check(&mut harness, Some(4));
        harness.answer(shown.clone());
        assert!(!has_probe(&harness));
    }
}

#[test]
fn a_reason_whose_write_has_failed_is_written_again() {
    let mut harness = Harness::new(1);
    harness.connect();
    let lease = harness.grant();
    let led = view(9, Some(key(OTHER, 3)), Some(key(OTHER, 3)));
    let unhealthy = Seat {
        is_healthy: false,
        ..seat(0, lease, 8)
    };
    let shown = seated(led, vec![unhealthy], None);
    harness.handle(Input::StandBack);
    harness.answer(shown.clone());
    // The seat says already that it cannot lead, for an earlier reason.
    let (call, _) = harness.take_beside();
    harness.handle(Input::Executed {
        call,
        result: Err(Failure::new(FailureKind::TimedOut, "late")),
    });
    harness.pass(2 * SECOND);
    harness.answer(shown);
    harness.take_beside();
}

#[test]
fn a_candidate_that_tries_once_gives_up_when_it_learns_that_it_cannot_lead() {
    let mut harness = Harness::with(1, |settings| {
        settings.wait = Some(Duration::ZERO);
        settings.stands_back = true;
    });
    harness.connect();
    harness.handle(Input::StandBack);
    let gave_up = |event: &Event| matches!(event, Event::GaveUp { .. });
    assert!(harness.events.iter().any(gave_up));
}

#[test]
fn a_leader_does_not_yield_without_a_delay_to_an_equal_or_if_it_was_chosen() {
    let equal = Seat {
        priority: 0,
        ..better(13)
    };
    let unhealthy = Seat {
        is_healthy: false,
        ..better(13)
    };
    for (delay, candidate, is_chosen) in [
        (None, better(13), false),
        (Some(Duration::ZERO), equal, false),
        (Some(Duration::ZERO), unhealthy, false),
        (Some(Duration::ZERO), better(13), true),
    ] {
        let (mut harness, lease) = leader(delay);
        for _ in 0..4 {
            harness.pass(SECOND);
            if harness.has(|action| matches!(action, Action::AskLeaseTime { .. })) {
                check(&mut harness, Some(4));
            }
            let mut shown = seated(held_by(lease, 20), vec![candidate.clone()], None);
            if let Some(acting) = &mut shown.acting {
                acting.settings.is_chosen = is_chosen;
            }
            harness.answer(shown);
        }
        assert!(!has_probe(&harness), "{delay:?} {candidate:?} {is_chosen}");
    }
}

#[test]
fn a_leader_does_not_yield_to_a_candidate_that_is_silent() {
    let (mut harness, lease) = leader(Some(Duration::ZERO));
    for _ in 0..4 {
        harness.pass(SECOND);
        if harness.has(|action| matches!(action, Action::AskLeaseTime { .. })) {
            check(&mut harness, Some(1));
        }
        harness.answer(seated(held_by(lease, 20), vec![better(13)], None));
        assert!(!has_probe(&harness));
    }
}

#[test]
fn a_leader_does_not_yield_while_etcd_has_no_room_and_begins_the_delay_again() {
    let (mut harness, lease) = leader(Some(DELAY));
    for _ in 0..4 {
        second(&mut harness, lease, vec![better(13)]);
    }
    let full = Failure::new(FailureKind::Refused, "mvcc: database space exceeded");
    probe_of_room(&mut harness, Err(full));
    assert!(harness.is_leader());
    for _ in 0..3 {
        second(&mut harness, lease, vec![better(13)]);
        assert!(!has_probe(&harness));
    }
    second(&mut harness, lease, vec![better(13)]);
    assert!(has_probe(&harness));
}

#[test]
fn the_seat_says_whether_the_candidate_can_lead() {
    let mut harness = Harness::new(1);
    harness.connect();
    let lease = harness.grant();
    let led = view(9, Some(key(OTHER, 3)), Some(key(OTHER, 3)));
    harness.answer(seated(led.clone(), vec![seat(0, lease, 8)], None));
    harness.handle(Input::StandBack);
    let (call, transaction) = harness.take_beside();
    let number = seat(0, lease, 8).number;
    let rewrite = |revision| Transaction::rewrite_seat(number, revision, lease, None, false);
    assert_eq!(transaction, rewrite(9));

    // For another reason.
    let unhealthy = |revision| {
        let mut seat = seat(0, lease, 8);
        seat.is_healthy = false;
        seat.entry.mod_revision = revision;
        seated(led.clone(), vec![seat], None)
    };
    harness.handle(Input::Executed {
        call,
        result: Ok(View {
            revision: 10,
            ..unhealthy(10)
        }),
    });
    let writes_seat = |action: &Action| matches!(action, Action::Execute { .. });
    assert!(!harness.has(writes_seat));
    harness.handle(Input::StandBack);
    let (_, transaction) = harness.take_beside();
    assert_eq!(transaction, rewrite(10));
    assert!(!harness.has(writes_seat));
}
