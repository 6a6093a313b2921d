//! A candidate with a limited wait.

use super::harness::{Harness, MILLI, OTHER, SECOND, held_by, key, view};
use crate::protocol::{Action, Entry, Event, Role, Ttl};
use std::time::Duration;

fn candidate(wait: Duration) -> Harness {
    let mut harness = Harness::with(1, |settings| settings.wait = Some(wait));
    harness.connect();
    harness
}

/// What a candidate reports that gives up without having led.
fn gave_up_for(leader: Option<Entry>) -> Event {
    let has_led = false;
    Event::GaveUp { leader, has_led }
}

fn gave_up(harness: &Harness) -> bool {
    let gives_up = |event: &Event| matches!(event, Event::GaveUp { .. });
    harness.events.iter().any(gives_up)
}

#[test]
fn a_candidate_gives_up_when_it_has_not_led_within_its_wait_and_revokes_its_lease() {
    let mut harness = candidate(3 * SECOND);
    harness.grant();
    assert!(harness.answer(held_by(OTHER, 10)));
    let due = harness.machine.poll_timeout().unwrap_or(harness.now);
    let until_due = due.since(harness.now);
    harness.pass(until_due);
    harness.answer(held_by(OTHER, 10));
    harness.pass((2999 * MILLI).saturating_sub(until_due));
    assert!(!gave_up(&harness));
    harness.pass(MILLI);
    let leader = Some(key(OTHER, 10));
    assert!(harness.says(&gave_up_for(leader)));
    assert!(harness.has(|action| matches!(action, Action::Revoke { .. })));
}

#[test]
fn a_wait_does_not_count_in_a_term_and_begins_again_after_it() {
    let mut harness = candidate(3 * SECOND);
    let lease = harness.grant();
    assert!(harness.answer(held_by(lease, 10)));
    for revision in 11..20 {
        harness.pass(SECOND);
        harness.answer(held_by(lease, revision));
    }
    assert!(!gave_up(&harness) && harness.is_leader());
    harness.stop();
    harness.pass(2999 * MILLI);
    assert!(!gave_up(&harness));
    harness.pass(MILLI);
    assert!(gave_up(&harness));
}

#[test]
fn who_tries_once_looks_first_and_asks_for_no_lease_if_somebody_else_leads() {
    let mut harness = candidate(Duration::ZERO);
    let (call, _) = harness.take_look();
    harness.transact(call, held_by(OTHER, 10));
    let leader = Some(key(OTHER, 10));
    assert!(harness.says(&gave_up_for(leader)));
    assert_eq!(harness.machine.status().role, Role::Withdrawn);
    let asks_for_more =
        |action: &Action| matches!(action, Action::Grant { .. } | Action::AskVersion { .. });
    assert!(!harness.has(asks_for_more));
}

#[test]
fn who_tries_once_does_not_wait_for_what_may_still_be_acting() {
    let mut harness = candidate(Duration::ZERO);
    let (call, _) = harness.take_look();
    harness.transact(call, view(10, None, Some(key(OTHER, 8))));
    assert!(harness.says(&gave_up_for(None)));
}

#[test]
fn who_tries_once_gives_up_when_another_wins_the_campaign() {
    let mut harness = candidate(Duration::ZERO);
    let (call, _) = harness.take_look();
    harness.transact(call, view(9, None, None));
    harness.grant();
    assert!(harness.answer(held_by(OTHER, 10)));
    assert!(gave_up(&harness));
    assert!(harness.has(|action| matches!(action, Action::Revoke { .. })));
}

#[test]
fn who_tries_once_gives_up_after_its_term_and_within_seconds_if_etcd_is_silent() {
    let mut harness = candidate(Duration::ZERO);
    let (call, _) = harness.take_look();
    harness.transact(call, view(9, None, None));
    let lease = harness.grant();
    assert!(harness.answer(held_by(lease, 10)));
    harness.stop();
    let (leader, has_led) = (None, true);
    assert!(harness.says(&Event::GaveUp { leader, has_led }));

    let mut silent = Harness::with(1, |settings| settings.wait = Some(Duration::ZERO));
    silent.pass(7999 * MILLI);
    assert!(!gave_up(&silent));
    silent.pass(MILLI);
    assert!(gave_up(&silent));
    assert_eq!(silent.machine.status().role, Role::Withdrawn);
}

#[test]
fn who_tries_once_gives_its_lease_back_in_time_or_leaves_it_to_expire() {
    let mut harness = Harness::with(1, |settings| {
        settings.wait = Some(Duration::ZERO);
        settings.ttl = Ttl::MAX;
    });
    let began = harness.now;
    harness.connect();
    let (call, _) = harness.take_look();
    harness.transact(call, view(9, None, None));
    harness.grant_for(Ttl::MAX.as_duration());
    // etcd is silent from then on.
    while harness.machine.status().role != Role::Withdrawn {
        let due = harness.machine.poll_timeout().unwrap_or(harness.now);
        harness.pass(due.since(harness.now));
    }
    assert_eq!(harness.now.since(began), 9500 * MILLI);
}
