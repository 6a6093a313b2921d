//! What a leader does, until it has given up its term.

use super::harness::{Harness, MILLI, OTHER, SECOND, held_by, key, leader, unreachable, view};
use crate::protocol::{
    Action, ElectionKey, Event, FencingToken, Input, KeptAlive, LossReason, Role, Term, View,
};
use std::time::Duration;

#[test]
fn neither_half_of_a_try_renews_alone() {
    for keepalive in [true, false] {
        let (mut harness, lease, began) = leader(1, Duration::ZERO);
        while harness.now < began + 4500 * MILLI {
            harness.pass(100 * MILLI);
            if harness.has(|action| matches!(action, Action::Try { .. })) {
                let (call, _) = harness.take_try();
                if keepalive {
                    harness.keep_alive(call, 1);
                } else {
                    harness.transact(call, held_by(lease, 20));
                }
            }
            if harness.has(|action| matches!(action, Action::Connect { .. })) {
                harness.connect();
            }
        }
        assert!(!harness.is_leader());
        assert_eq!(harness.now, began + 4500 * MILLI);
    }
}

#[test]
fn a_leader_without_answers_stops_by_its_deadline_and_only_then_releases() {
    let (mut harness, lease, began) = leader(1, Duration::ZERO);
    harness.pass(4499 * MILLI);
    assert!(harness.is_leader());
    harness.pass(MILLI);
    assert_eq!(harness.now, began + 4500 * MILLI);
    assert!(!harness.is_leader());
    assert!(matches!(
        harness.machine.status().role,
        Role::Stopping {
            reason: LossReason::NotRenewed,
            ..
        }
    ));
    let revoked =
        |action: &Action| matches!(action, Action::Revoke { lease: of, .. } if *of == lease);
    harness.pass(3 * SECOND);
    assert!(!harness.has(revoked), "released while something may act");
    harness.stop();
    let stopped = harness.now;
    harness.connect();
    assert!(harness.has(revoked));
    harness.grant();
    assert!(!harness.answer(view(12, None, None)), "it holds off");
    harness.actions.clear();
    harness.pass(999 * MILLI);
    assert!(!harness.has(|action| matches!(action, Action::Try { .. })));
    harness.pass(MILLI);
    assert_eq!(harness.now, stopped + SECOND);
    assert!(!harness.answer(view(12, None, None)));
    let (_, campaign) = harness.take_try();
    assert!(campaign);
}

#[test]
fn a_late_timer_does_not_extend_a_term() {
    let (mut harness, lease, _) = leader(1, Duration::ZERO);
    harness.pass(1100 * MILLI);
    let (call, _) = harness.take_try();
    harness.transact(call, held_by(lease, 20));
    // The process was stopped: the answer is handled before any timer fires.
    harness.now = harness.now + 10 * SECOND;
    harness.keep_alive(call, 1);
    assert!(!harness.is_leader());
    assert!(matches!(
        harness.machine.status().role,
        Role::Stopping { .. }
    ));
}

#[test]
fn a_child_is_asked_to_stop_a_grace_before_the_deadline_and_nothing_revives_the_term() {
    let (mut harness, lease, began) = leader(1, SECOND);
    harness.pass(3500 * MILLI);
    assert_eq!(harness.now, began + 3500 * MILLI);
    let Role::Stopping { by, .. } = harness.machine.status().role else {
        panic!("{:?}", harness.machine);
    };
    assert_eq!(by, began + 4400 * MILLI);
    let (call, _) = harness.take_try();
    harness.transact(call, held_by(lease, 10));
    harness.keep_alive(call, 1);
    assert!(!harness.is_leader());
}

#[test]
fn a_renewal_moves_the_deadline_from_its_send() {
    let (mut harness, lease, began) = leader(1, Duration::ZERO);
    harness.pass(SECOND);
    let sent = harness.now;
    assert_eq!(sent, began + SECOND, "from send to send");
    harness.pass(300 * MILLI);
    harness.answer(held_by(lease, 10));
    let Role::Leader { deadline, .. } = harness.machine.status().role else {
        panic!("{:?}", harness.machine);
    };
    assert_eq!(deadline, sent + 4500 * MILLI);
    assert!(harness.says(&Event::Renewed {
        term: Term {
            token: FencingToken::new(10),
            lease
        },
        sent,
        deadline
    }));
}

#[test]
fn one_dead_endpoint_of_two_does_not_cost_a_healthy_leader_its_term() {
    let (mut harness, lease, _) = leader(2, SECOND);
    harness.pass(SECOND);
    // The try runs into its limit, the other endpoint refuses, the first one works again.
    harness.take_try();
    harness.pass(SECOND);
    assert_eq!(harness.refuse_connection(), 1);
    harness.pass(MILLI);
    assert_eq!(harness.connect(), 0);
    harness.answer(held_by(lease, 10));
    assert!(harness.is_leader());
}

#[test]
fn a_connection_that_breaks_is_replaced_at_once_and_each_endpoint_is_tried_once_in_a_limit() {
    let (mut harness, _, began) = leader(2, Duration::ZERO);
    harness.pass(SECOND);
    let (call, _) = harness.take_try();
    let result = Err(unreachable());
    harness.handle(Input::KeptAlive { call, result });
    assert_eq!(harness.refuse_connection(), 0);
    assert_eq!(harness.refuse_connection(), 1);
    assert!(!harness.has(|action| matches!(action, Action::Connect { .. })));
    harness.pass(999 * MILLI);
    assert!(!harness.has(|action| matches!(action, Action::Connect { .. })));
    harness.pass(MILLI);
    assert_eq!(harness.now, began + 2 * SECOND);
    assert_eq!(harness.refuse_connection(), 0);
}

#[test]
fn a_leader_with_a_long_ttl_is_back_within_seconds_when_its_connection_breaks() {
    let mut harness = Harness::new(1);
    harness.connect();
    let lease = harness.grant_for(3600 * SECOND);
    harness.answer(held_by(lease, 10));
    harness.pass(720 * SECOND);
    let (call, _) = harness.take_try();
    let result = Err(unreachable());
    harness.handle(Input::Transacted { call, result });
    harness.refuse_connection();
    assert!(!harness.has(|action| matches!(action, Action::Connect { .. })));
    // Until then it would not hear a request to step down.
    harness.pass(5 * SECOND);
    harness.connect();
}

#[test]
fn a_leader_whose_key_is_deleted_finishes_in_order_renews_meanwhile_and_holds_off() {
    let (mut harness, lease, _) = leader(1, SECOND);
    harness.changed(ElectionKey::Leader, 11, None);
    assert!(matches!(
        harness.machine.status().role,
        Role::Stopping {
            reason: LossReason::LeaderKeyDeleted,
            ..
        }
    ));
    for _ in 0..8 {
        harness.pass(SECOND);
        assert!(!harness.answer(view(11, None, Some(key(lease, 10)))));
    }
    assert!(!harness.has(|action| matches!(action, Action::Revoke { .. })));
    harness.stop();
    let stopped = harness.now;
    harness.release(lease);
    let lease = harness.grant();
    assert!(!harness.answer(view(12, None, None)), "it holds off");
    harness.pass(999 * MILLI);
    assert!(!harness.has(|action| matches!(action, Action::Try { .. })));
    harness.pass(MILLI);
    assert_eq!(harness.now, stopped + SECOND);
    assert!(!harness.answer(view(12, None, None)));
    assert!(harness.answer(held_by(lease, 13)));
    assert!(harness.is_leader());
}

#[test]
fn a_leader_whose_acting_key_is_gone_stops_at_that_moment() {
    let (mut harness, _, _) = leader(1, SECOND);
    harness.changed(ElectionKey::Acting, 11, None);
    let Role::Stopping { by, .. } = harness.machine.status().role else {
        panic!("{:?}", harness.machine);
    };
    assert_eq!(by, harness.now);
}

#[test]
fn that_the_lease_is_gone_ends_a_term_if_both_answers_come_from_one_raft_term() {
    // A former leader of etcd knows no lease that was granted after it lost touch.
    for (raft_term, ends) in [(1, true), (0, false)] {
        let (mut harness, lease, _) = leader(2, Duration::ZERO);
        harness.pass(SECOND);
        let (call, _) = harness.take_try();
        let result = Ok(KeptAlive { ttl: 0, raft_term });
        harness.handle(Input::KeptAlive { call, result });
        assert!(harness.is_leader());
        harness.transact(call, held_by(lease, 10));
        assert_eq!(harness.is_leader(), !ends);
        if !ends {
            assert_eq!(harness.connect(), 1);
            harness.answer(held_by(lease, 10));
            assert!(harness.is_leader());
        }
    }
}

#[test]
fn a_key_that_was_written_again_is_taken_even_if_it_is_bound_to_the_terms_own_lease() {
    let (mut harness, lease, _) = leader(1, SECOND);
    harness.pass(SECOND);
    harness.answer(view(12, Some(key(lease, 12)), Some(key(lease, 10))));
    assert!(matches!(
        harness.machine.status().role,
        Role::Stopping {
            reason: LossReason::LeaderKeyOverwritten,
            ..
        }
    ));
    // As after everything was deleted, and an old campaign of its own came late.
    harness.pass(SECOND);
    harness.answer(view(14, Some(key(lease, 14)), Some(key(lease, 14))));
    let Role::Stopping { by, .. } = harness.machine.status().role else {
        panic!("{:?}", harness.machine);
    };
    assert_eq!(by, harness.now);
}

#[test]
fn a_lease_serves_one_term_and_is_never_campaigned_with_again() {
    let (mut harness, lease, _) = leader(1, Duration::ZERO);
    harness.pass(4500 * MILLI);
    harness.stop();
    harness.connect();
    assert_ne!(harness.grant(), lease);
}

#[test]
fn history_that_goes_back_ends_a_term() {
    for (cluster_id, revision) in [(7, 9), (8, 30)] {
        let (mut harness, lease, _) = leader(1, Duration::ZERO);
        harness.pass(SECOND);
        let (call, _) = harness.take_try();
        let shown = View {
            cluster_id,
            ..held_by(lease, revision)
        };
        harness.transact(call, shown);
        assert!(!harness.is_leader());
        assert!(harness.says(&Event::HistoryWentBack));
    }
}

#[test]
fn a_withdrawn_leader_stops_then_revokes_then_is_done() {
    let (mut harness, lease, _) = leader(1, Duration::ZERO);
    harness.handle(Input::Withdraw);
    assert!(!harness.is_leader());
    assert!(!harness.has(|action| matches!(action, Action::Revoke { .. })));
    harness.stop();
    harness.release(lease);
    let call = harness.take(|action| match action {
        Action::Revoke {
            call, lease: of, ..
        } if *of == lease => Some(*call),
        _ => None,
    });
    assert_ne!(harness.machine.status().role, Role::Withdrawn);
    let result = Ok(());
    harness.handle(Input::Revoked { call, result });
    assert_eq!(harness.machine.status().role, Role::Withdrawn);
    assert!(harness.says(&Event::Withdrawn { left_behind: None }));
}

#[test]
fn a_withdrawal_that_etcd_never_answers_ends_all_the_same_and_says_so() {
    let (mut harness, lease, _) = leader(1, Duration::ZERO);
    harness.handle(Input::Withdraw);
    harness.stop();
    harness.pass(4 * SECOND);
    assert_eq!(harness.machine.status().role, Role::Withdrawn);
    assert!(harness.says(&Event::Withdrawn {
        left_behind: Some(lease)
    }));
}

#[test]
fn what_does_not_finish_in_time_is_renewed_no_more() {
    let (mut harness, lease, _) = leader(1, SECOND);
    harness.changed(ElectionKey::Leader, 11, None);
    for _ in 0..9 {
        harness.pass(SECOND);
        harness.answer(view(11, None, Some(key(lease, 10))));
    }
    harness.pass(SECOND);
    harness.actions.clear();
    harness.pass(60 * SECOND);
    assert!(!harness.has(|action| matches!(action, Action::Try { .. })));
    harness.stop();
    assert!(harness.has(|action| matches!(action, Action::Grant { .. })));
}

#[test]
fn a_stop_that_is_reported_twice_does_not_end_the_next_term() {
    let (mut harness, _, _) = leader(1, Duration::ZERO);
    let Role::Leader { term, .. } = harness.machine.status().role else {
        panic!("{:?}", harness.machine);
    };
    harness.changed(ElectionKey::Acting, 11, None);
    harness.handle(Input::Stopped { term });
    let lease = harness.grant();
    assert!(harness.answer(held_by(lease, 12)));
    harness.handle(Input::Stopped { term });
    assert!(harness.is_leader());
}

#[test]
fn keys_that_go_during_the_hold_off_are_campaigned_for_right_after_it() {
    let (mut harness, lease, _) = leader(1, Duration::ZERO);
    harness.changed(ElectionKey::Leader, 11, None);
    harness.stop();
    let held_off_until = harness.now + SECOND;
    harness.grant();
    harness.answer(view(12, Some(key(OTHER, 12)), Some(key(OTHER, 12))));
    harness.changed(ElectionKey::Leader, 13, None);
    harness.changed(ElectionKey::Acting, 13, None);
    harness.pass(SECOND);
    assert_eq!(harness.now, held_off_until);
    assert!(!harness.answer(view(13, None, None)));
    let (_, campaign) = harness.take_try();
    assert!(campaign);
    assert_ne!(
        harness.machine.state.lease().map(|lease| lease.id),
        Some(lease)
    );
}

fn takes_back(action: &Action) -> bool {
    matches!(action, Action::TakeBack { .. })
}

#[test]
fn a_leadership_is_taken_back_once_after_a_ttl_and_ends_only_if_nobody_had_taken_it() {
    let (mut harness, lease, began) = leader(1, Duration::ZERO);
    while harness.now < began + 5 * SECOND {
        assert!(!harness.has(takes_back));
        harness.pass(SECOND);
        harness.answer(held_by(lease, 10));
    }
    harness.take(|action| takes_back(action).then_some(()));
    assert!(harness.is_leader(), "it was taken, as far as is known");
    for _ in 0..10 {
        harness.pass(SECOND);
        harness.answer(held_by(lease, 10));
    }
    assert!(!harness.has(takes_back));
    harness.stop();
    assert!(!harness.is_leader());
    harness.release(lease);
}

#[test]
fn a_leadership_that_nobody_took_is_taken_back_even_while_its_term_ends() {
    let (mut harness, _, _) = leader(1, Duration::ZERO);
    harness.pass(4500 * MILLI);
    assert!(!harness.is_leader());
    assert!(!harness.has(takes_back));
    harness.pass(500 * MILLI);
    assert!(harness.has(takes_back));
}

#[test]
fn a_candidate_that_was_dropped_with_its_leadership_releases_its_lease_and_withdraws() {
    let (mut harness, lease, _) = leader(1, Duration::ZERO);
    harness.handle(Input::Abandoned);
    assert!(!harness.is_leader());
    harness.release(lease);
    let call = harness.take(|action| match action {
        Action::Revoke {
            call, lease: of, ..
        } if *of == lease => Some(*call),
        _ => None,
    });
    let result = Ok(());
    harness.handle(Input::Revoked { call, result });
    assert_eq!(harness.machine.status().role, Role::Withdrawn);
}

fn connects(action: &Action) -> bool {
    matches!(action, Action::Connect { .. })
}

fn reports_an_outage(event: &Event) -> bool {
    matches!(event, Event::Failed { .. } | Event::Unanswered { .. })
}

#[test]
fn a_connection_that_has_worked_and_breaks_is_replaced_without_a_report_once_in_a_period() {
    let (mut harness, lease, _) = leader(1, Duration::ZERO);
    harness.pass(SECOND);
    harness.events.clear();
    let break_connection = |harness: &mut Harness| {
        let (call, _) = harness.take_try();
        let result = Err(unreachable());
        harness.handle(Input::Transacted { call, result });
    };
    break_connection(&mut harness);
    harness.connect();
    harness.answer(held_by(lease, 10));
    assert!(!harness.events.iter().any(reports_an_outage));
    // An event that surprises calls for a read at once.
    harness.changed(ElectionKey::Leader, 11, Some(key(lease, 10)));
    break_connection(&mut harness);
    assert!(harness.events.iter().any(reports_an_outage));
}

#[test]
fn connections_that_are_closed_whenever_they_are_idle_are_replaced_without_a_report() {
    let (mut harness, lease, _) = leader(1, Duration::ZERO);
    harness.events.clear();
    for _ in 0..20 {
        harness.pass(600 * MILLI);
        let watch = harness.take(|action| match action {
            Action::Watch { watch, .. } => Some(*watch),
            _ => None,
        });
        harness.handle(Input::WatchEnded { watch });
        if !harness.has(|action| matches!(action, Action::Try { .. })) {
            harness.pass(400 * MILLI);
        }
        let (call, _) = harness.take_try();
        let result = Err(unreachable());
        harness.handle(Input::Transacted { call, result });
        harness.connect();
        harness.answer(held_by(lease, 10));
        let mut events = harness.events.iter();
        assert!(!events.any(reports_an_outage), "{:?}", harness.events);
    }
}

#[test]
fn an_overdue_try_is_awaited_while_another_connection_opens_and_renews_when_it_is_answered() {
    for opens_first in [false, true] {
        let (mut harness, lease, _) = leader(1, Duration::ZERO);
        harness.pass(SECOND);
        let sent = harness.now;
        let (call, _) = harness.take_try();
        harness.events.clear();
        harness.pass(SECOND);
        assert!(harness.has(connects), "another connection is opened");
        if opens_first {
            harness.connect();
        }
        harness.transact(call, held_by(lease, 10));
        harness.keep_alive(call, 1);
        let Role::Leader { deadline, .. } = harness.machine.status().role else {
            panic!("{:?}", harness.machine);
        };
        assert_eq!(deadline, sent + 4500 * MILLI);
        assert!(
            !harness.events.iter().any(reports_an_outage),
            "one late response"
        );
        let stops = harness.has(|action| matches!(action, Action::StopConnecting));
        assert_eq!(stops, !opens_first);
    }
}

#[test]
fn a_slow_connection_goes_on_while_the_next_endpoint_is_tried_and_the_first_to_open_is_used() {
    for slow_wins in [false, true] {
        let mut harness = Harness::new(2);
        let slow = harness.take_connect();
        harness.pass(999 * MILLI);
        assert!(!harness.has(connects));
        harness.pass(MILLI);
        let quick = harness.take_connect();
        assert_eq!((slow.1, quick.1), (0, 1));
        let (winner, loser) = if slow_wins {
            (slow, quick)
        } else {
            (quick, slow)
        };
        harness.handle(Input::Connected {
            call: winner.0,
            result: Ok(()),
        });
        assert_eq!(harness.machine.status().endpoint, winner.1);
        harness.handle(Input::Connected {
            call: loser.0,
            result: Ok(()),
        });
        assert_eq!(harness.machine.status().endpoint, winner.1, "too late");
        harness.grant();
    }
}

#[test]
fn an_only_endpoint_that_is_slow_is_not_connected_to_twice() {
    let mut harness = Harness::new(1);
    let (call, _) = harness.take_connect();
    harness.pass(9 * SECOND);
    assert!(
        !harness.has(connects),
        "checking a password twice takes twice as long"
    );
    harness.handle(Input::Connected {
        call,
        result: Ok(()),
    });
    harness.grant();
}
