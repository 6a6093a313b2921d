//! How a candidate becomes the leader, or does not.

use super::harness::{Harness, MILLI, OTHER, SECOND, follower, held_by, key, view};
use crate::protocol::{
    Action, ElectionKey, Entry, Event, Failure, FailureKind, Input, KeptAlive, Role,
};
use std::time::Duration;

#[test]
fn a_won_campaign_gives_the_right_to_act_from_its_send_not_from_its_answer() {
    let mut harness = Harness::new(1);
    harness.connect();
    let lease = harness.grant();
    let sent = harness.now;
    harness.pass(900 * MILLI);
    harness.answer(held_by(lease, 10));
    let Role::Leader { term, deadline } = harness.machine.status().role else {
        panic!("{:?}", harness.machine);
    };
    assert_eq!(deadline, sent + 4500 * MILLI);
    assert_eq!((term.token.get(), term.lease), (10, lease));
}

#[test]
fn the_keys_are_known_until_a_ttl_after_the_request_that_showed_them() {
    let mut harness = Harness::new(1);
    let status = harness.machine.status();
    assert_eq!((status.keys_as_of, status.keys_known_until), (None, None));
    harness.connect();
    harness.grant();
    let mut sent = harness.now;
    harness.pass(900 * MILLI);
    harness.answer(held_by(OTHER, 10));
    for _ in 0..2 {
        let status = harness.machine.status();
        assert_eq!(status.keys_as_of, Some(sent));
        assert_eq!(status.keys_known_until, Some(sent + 5 * SECOND));
        // What a watch shows makes the rest no younger.
        harness.changed(ElectionKey::Leader, 11, Some(key(OTHER, 11)));
        assert_eq!(harness.machine.status().keys_as_of, Some(sent));
        let due = harness.machine.poll_timeout().unwrap_or(harness.now);
        harness.pass(due.since(harness.now));
        sent = harness.now;
        let (call, _) = harness.take_try();
        harness.transact(call, view(12, Some(key(OTHER, 11)), Some(key(OTHER, 10))));
        harness.keep_alive(call, 1);
    }
}

#[test]
fn answers_from_two_raft_terms_do_not_make_a_leader() {
    let mut harness = Harness::new(1);
    harness.connect();
    let lease = harness.grant();
    let (call, _) = harness.take_try();
    harness.transact(call, held_by(lease, 10));
    harness.keep_alive(call, 2);
    assert!(!harness.is_leader());
    // A read resolves it.
    harness.pass(SECOND);
    harness.connect();
    assert!(!harness.answer(held_by(lease, 11)));
    assert!(harness.is_leader());
}

#[test]
fn both_keys_gone_make_a_follower_campaign_at_once_in_whichever_order_it_hears_of_it() {
    for order in [
        [ElectionKey::Leader, ElectionKey::Acting],
        [ElectionKey::Acting, ElectionKey::Leader],
    ] {
        let (mut harness, lease) = follower();
        harness.changed(order[0], 11, None);
        assert!(!harness.has(|action| matches!(action, Action::Try { .. })));
        harness.changed(order[1], 11, None);
        assert!(harness.answer(held_by(lease, 12)));
        assert!(harness.is_leader());
    }
}

#[test]
fn nobody_campaigns_while_somebody_may_still_act() {
    let (mut harness, _) = follower();
    harness.changed(ElectionKey::Leader, 11, None);
    assert!(harness.says(&Event::LeaderGone));
    harness.pass(499 * MILLI);
    assert!(!harness.has(|action| matches!(action, Action::Try { .. })));
    harness.pass(MILLI);
    assert!(
        !harness.answer(view(11, None, Some(key(OTHER, 10)))),
        "a read"
    );
    assert!(harness.says(&Event::SomebodyStillActs));
    harness.changed(ElectionKey::Acting, 12, None);
    let (_, campaign) = harness.take_try();
    assert!(campaign);
}

#[test]
fn a_read_that_was_sent_too_early_reports_nobody_who_may_still_act_and_is_repeated_soon() {
    let (mut harness, _) = follower();
    harness.pass(1700 * MILLI);
    let (call, _) = harness.take_try();
    harness.changed(ElectionKey::Leader, 11, None);
    let alone = || view(11, None, Some(key(OTHER, 10)));
    harness.transact(call, alone());
    harness.keep_alive(call, 1);
    assert!(!harness.says(&Event::SomebodyStillActs));
    harness.pass(500 * MILLI);
    assert!(!harness.answer(alone()));
    assert!(harness.says(&Event::SomebodyStillActs));
    // It is reported once, and the pace is the usual one again.
    harness.pass(1600 * MILLI);
    assert!(!harness.has(|action| matches!(action, Action::Try { .. })));
    harness.pass(100 * MILLI);
    assert!(!harness.answer(alone()));
    assert!(!harness.says(&Event::SomebodyStillActs));
}

#[test]
fn keys_that_go_in_two_revisions_leave_nobody_who_may_still_act() {
    let (mut harness, _) = follower();
    harness.changed(ElectionKey::Leader, 11, None);
    harness.pass(400 * MILLI);
    harness.changed(ElectionKey::Acting, 12, None);
    harness.pass(200 * MILLI);
    assert!(!harness.says(&Event::SomebodyStillActs));
    let (_, campaign) = harness.take_try();
    assert!(campaign);
}

#[test]
fn an_event_that_an_answer_has_shown_already_changes_nothing() {
    let (mut harness, _) = follower();
    harness.changed(ElectionKey::Leader, 10, None);
    harness.changed(ElectionKey::Acting, 9, None);
    assert!(!harness.has(|action| matches!(action, Action::Try { .. })));
}

#[test]
fn an_event_during_a_try_is_followed_by_another_try_at_once() {
    let (mut harness, _) = follower();
    harness.pass(1700 * MILLI);
    let (call, _) = harness.take_try();
    harness.changed(ElectionKey::Leader, 11, None);
    harness.changed(ElectionKey::Acting, 11, None);
    // Answered before the deletion, delivered after it: dropped.
    harness.transact(call, held_by(OTHER, 10));
    harness.keep_alive(call, 1);
    let (_, campaign) = harness.take_try();
    assert!(campaign);
}

#[test]
fn a_campaign_whose_answer_was_lost_is_resolved_by_a_read() {
    let mut harness = Harness::new(1);
    harness.connect();
    let lease = harness.grant();
    let (_, campaign) = harness.take_try();
    assert!(campaign);
    harness.pass(SECOND);
    let call = harness.take(|action| match action {
        Action::BackOff { call, .. } => Some(*call),
        _ => None,
    });
    harness.handle(Input::BackedOff { call });
    harness.connect();
    assert!(!harness.answer(held_by(lease, 10)));
    assert!(harness.is_leader());
}

#[test]
fn half_a_pair_of_its_own_is_given_up() {
    let mut harness = Harness::new(1);
    harness.connect();
    let lease = harness.grant();
    harness.answer(view(10, Some(key(OTHER, 10)), Some(key(lease, 9))));
    assert!(!harness.is_leader());
    assert!(
        harness.has(|action| matches!(action, Action::Revoke { lease: of, .. } if *of == lease))
    );
    assert!(harness.has(|action| matches!(action, Action::BackOff { .. })));
}

#[test]
fn elected_but_never_renewed_is_given_up() {
    let mut harness = Harness::new(1);
    harness.connect();
    let lease = harness.grant();
    let seen = harness.now;
    let given_up =
        |action: &Action| matches!(action, Action::Revoke { lease: of, .. } if *of == lease);
    while !harness.has(given_up) {
        assert!(harness.now <= seen + 4500 * MILLI);
        if harness.has(|action| matches!(action, Action::Try { .. })) {
            let (call, _) = harness.take_try();
            harness.transact(call, held_by(lease, 10));
        }
        harness.pass(100 * MILLI);
        if harness.has(|action| matches!(action, Action::Connect { .. })) {
            harness.connect();
        }
    }
    assert!(!harness.is_leader());
    assert_holds_off(&mut harness);
}

/// Ends the back-off of a candidate that has given its lease up: it campaigns only after the limit of a try.
fn assert_holds_off(harness: &mut Harness) {
    let call = harness.take(|action| match action {
        Action::BackOff { call, .. } => Some(*call),
        _ => None,
    });
    harness.handle(Input::BackedOff { call });
    harness.grant();
    assert!(!harness.answer(view(12, None, None)), "it holds off");
    harness.pass(SECOND);
    harness.answer(view(12, None, None));
    let (_, campaign) = harness.take_try();
    assert!(campaign);
}

#[test]
fn a_candidate_without_answers_for_a_ttl_starts_afresh_and_holds_off() {
    let mut harness = Harness::new(1);
    harness.connect();
    let lease = harness.grant();
    // The campaign, and all tries after it.
    let began = harness.now;
    let given_up =
        |action: &Action| matches!(action, Action::Revoke { lease: of, .. } if *of == lease);
    while !harness.has(given_up) {
        assert!(harness.now <= began + 5 * SECOND);
        let backed_off = harness.actions.iter().find_map(|action| match action {
            Action::BackOff { call, .. } => Some(*call),
            _ => None,
        });
        harness.actions.clear();
        if let Some(call) = backed_off {
            harness.handle(Input::BackedOff { call });
        }
        if harness.has(|action| matches!(action, Action::Connect { .. })) {
            harness.connect();
        }
        harness.pass(100 * MILLI);
    }
    assert_holds_off(&mut harness);
}

#[test]
fn a_follower_whose_lease_is_gone_campaigns_again_without_backing_off_the_first_time() {
    let (mut harness, _) = follower();
    for first in [true, false] {
        harness.pass(1700 * MILLI);
        let (call, _) = harness.take_try();
        let result = Ok(KeptAlive {
            ttl: 0,
            raft_term: 1,
        });
        harness.handle(Input::KeptAlive { call, result });
        assert_eq!(
            !harness.has(|action| matches!(action, Action::BackOff { .. })),
            first
        );
        if first {
            harness.grant();
        }
    }
}

#[test]
fn a_key_without_a_lease_is_complained_of_once_and_not_fought() {
    let mut harness = Harness::new(1);
    harness.connect();
    harness.grant();
    let stray = Some(Entry {
        value: b"x"[..].into(),
        lease: None,
        create_revision: 5,
        mod_revision: 5,
        settings: crate::protocol::TermSettings::default(),
    });
    harness.answer(view(10, stray.clone(), None));
    let complaint = Event::KeyWithoutLease {
        key: ElectionKey::Leader,
    };
    let follows = |event: &Event| matches!(event, Event::Following { .. });
    assert!(!harness.events.iter().any(follows), "nobody leads");
    assert!(harness.says(&complaint));
    harness.pass(1700 * MILLI);
    assert!(!harness.answer(view(10, stray, None)));
    assert!(!harness.says(&complaint));
}

#[test]
fn a_term_does_not_begin_after_a_watch_has_seen_its_keys_go() {
    for changed in [ElectionKey::Leader, ElectionKey::Acting] {
        let mut harness = Harness::new(1);
        harness.connect();
        let lease = harness.grant();
        let (call, _) = harness.take_try();
        harness.transact(call, held_by(lease, 10));
        harness.changed(changed, 11, None);
        harness.keep_alive(call, 1);
        assert!(!harness.is_leader());
    }
}

#[test]
fn a_campaign_that_is_refused_while_reads_pass_backs_off_further_each_time_and_is_reported_once() {
    let (mut harness, _) = follower();
    harness.changed(ElectionKey::Leader, 11, None);
    harness.changed(ElectionKey::Acting, 11, None);
    harness.events.clear();
    let mut longest = Duration::ZERO;
    for _ in 0..10 {
        let (call, campaign) = harness.take_try();
        assert!(campaign);
        let result = Err(Failure::new(FailureKind::Refused, "no space"));
        harness.handle(Input::Transacted { call, result });
        let (call, at_most) = harness.take(|action| match action {
            Action::BackOff { call, at_most } => Some((*call, *at_most)),
            _ => None,
        });
        assert!(at_most >= longest);
        longest = at_most;
        harness.handle(Input::BackedOff { call });
        harness.connect();
        assert!(!harness.answer(view(11, None, None)));
    }
    assert_eq!(longest, SECOND);
    let reported = harness.events.iter().filter(|event| {
        matches!(
            event,
            Event::Unanswered { .. } | Event::AnsweredAgain { .. }
        )
    });
    assert_eq!(reported.count(), 1, "{:?}", harness.events);
}

#[test]
fn a_watch_that_ends_does_not_cut_a_back_off_short() {
    let (mut harness, lease) = follower();
    harness.pass(1700 * MILLI);
    harness.answer(view(11, Some(key(OTHER, 10)), Some(key(lease, 9))));
    let watch = harness.take(|action| match action {
        Action::Watch { watch, .. } => Some(*watch),
        _ => None,
    });
    harness.handle(Input::WatchEnded { watch });
    assert!(!harness.has(|action| matches!(action, Action::Grant { .. })));
}

#[test]
fn a_watch_that_ends_is_replaced_at_once_but_only_once_in_a_period() {
    let (mut harness, _) = follower();
    let end_watch = |harness: &mut Harness| {
        let watch = harness.take(|action| match action {
            Action::Watch { watch, .. } => Some(*watch),
            _ => None,
        });
        harness.handle(Input::WatchEnded { watch });
        harness.has(|action| matches!(action, Action::Try { .. }))
    };
    assert!(end_watch(&mut harness));
    harness.answer(held_by(OTHER, 10));
    assert!(!end_watch(&mut harness), "it must wait for the next read");
    harness.pass(1700 * MILLI);
    harness.answer(held_by(OTHER, 10));
    assert!(end_watch(&mut harness));
}

fn expired() -> Failure {
    Failure::new(FailureKind::TokenExpired, "invalid auth token")
}

#[test]
fn an_expired_token_is_replaced_at_once_at_the_same_endpoint_and_without_a_word() {
    let mut harness = Harness::new(2);
    harness.connect();
    harness.grant();
    harness.answer(held_by(OTHER, 10));
    harness.pass(1700 * MILLI);
    let (call, _) = harness.take_try();
    let result = Err(expired());
    harness.handle(Input::Transacted { call, result });
    assert_eq!(harness.connect(), 0);
    harness.answer(held_by(OTHER, 10));
    let reported = |event: &Event| matches!(event, Event::Unanswered { .. });
    assert!(!harness.events.iter().any(reported), "{:?}", harness.events);
}

#[test]
fn what_needs_an_operator_is_reported_once_even_in_the_middle_of_an_outage() {
    for helpless in [FailureKind::Unauthenticated, FailureKind::Exhausted] {
        let mut harness = Harness::new(1);
        let reported = |harness: &mut Harness, failure: Failure| {
            let call = harness.take(|action| match action {
                Action::Connect { call, .. } => Some(*call),
                _ => None,
            });
            harness.events.clear();
            let result = Err(failure);
            harness.handle(Input::Connected { call, result });
            let call = harness.take(|action| match action {
                Action::BackOff { call, .. } => Some(*call),
                _ => None,
            });
            harness.handle(Input::BackedOff { call });
            harness.events.iter().find_map(|event| match event {
                Event::Unanswered { failure, .. } => Some(failure.kind),
                _ => None,
            })
        };
        let unreachable = || Failure::new(FailureKind::Unreachable, "refused");
        let kinds = [
            reported(&mut harness, unreachable()),
            reported(&mut harness, unreachable()),
            reported(&mut harness, Failure::new(helpless, "help")),
            reported(&mut harness, Failure::new(helpless, "help")),
            reported(&mut harness, unreachable()),
        ];
        let expected = [
            Some(FailureKind::Unreachable),
            None,
            Some(helpless),
            None,
            None,
        ];
        assert_eq!(kinds, expected);
    }
}
