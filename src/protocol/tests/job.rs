//! A job that runs once: when it is looked for, and how it is recorded.

use super::harness::{Harness, OTHER, SECOND, held_by, key, unreachable, view};
use crate::protocol::{
    Action, Entry, Event, Failure, FailureKind, Input, LeaseId, Role, Term, Transaction, View,
};

fn candidate() -> Harness {
    let mut harness = Harness::with(1, |settings| settings.runs_once = true);
    harness.connect();
    harness
}

/// A record of the job, as somebody wrote it.
fn record() -> Entry {
    Entry {
        lease: None,
        ..key(OTHER, 9)
    }
}

fn recorded(view: View) -> View {
    View {
        done: Some(record()),
        ..view
    }
}

/// A leader whose job runs, and its term.
fn leader() -> (Harness, Term) {
    let mut harness = candidate();
    for _ in 0..2 {
        let (call, _) = harness.take_look();
        harness.transact(call, view(8, None, None));
    }
    let lease = harness.grant();
    assert!(harness.answer(held_by(lease, 10)));
    let Role::Leader { term, .. } = harness.machine.status().role else {
        panic!("{:?}", harness.machine);
    };
    (harness, term)
}

/// Lets time pass until the next try is due.
fn until_due(harness: &mut Harness) {
    let due = harness.machine.poll_timeout().unwrap_or(harness.now);
    harness.pass(due.since(harness.now));
}

/// Answers the next try, which must be to record the job.
fn answer_record(harness: &mut Harness, term: Term, view: View) {
    let (call, transaction) = harness.take_transaction();
    assert_eq!(transaction, Transaction::record(term));
    harness.transact(call, view);
}

fn is_not_recorded(harness: &Harness, may_exist: bool) -> bool {
    harness.events.contains(&Event::NotRecorded { may_exist })
}

#[test]
fn a_candidate_looks_before_it_asks_for_a_lease_and_withdraws_if_the_job_is_done() {
    let mut harness = candidate();
    let (call, transaction) = harness.take_look();
    assert_eq!(transaction, Transaction::READ.about_job(true));
    assert!(!harness.has(|action| matches!(action, Action::Grant { .. })));
    harness.transact(call, recorded(view(10, None, None)));
    assert!(harness.says(&Event::JobDone { record: record() }));
    assert_eq!(harness.machine.status().role, Role::Withdrawn);
    assert!(
        !harness.has(|action| matches!(action, Action::Grant { .. } | Action::AskVersion { .. }))
    );
}

#[test]
fn a_candidate_asks_whether_it_may_record_the_job_before_it_takes_part() {
    let mut harness = candidate();
    let (call, _) = harness.take_look();
    harness.transact(call, view(10, None, None));
    let (call, transaction) = harness.take_look();
    assert_eq!(transaction, Transaction::probe());
    let failure = Failure::new(FailureKind::Denied, "permission denied");
    let result = Err(failure.clone());
    harness.handle(Input::Transacted { call, result });
    assert!(harness.says(&Event::JobDenied { failure }));
    assert_eq!(harness.machine.status().role, Role::Withdrawn);
    assert!(!harness.has(|action| matches!(action, Action::Grant { .. })));
}

#[test]
fn a_look_that_fails_is_repeated_at_the_next_endpoint() {
    let mut harness = Harness::with(2, |settings| settings.runs_once = true);
    assert_eq!(harness.connect(), 0);
    harness.take_look();
    harness.pass(SECOND);
    assert_eq!(harness.connect(), 1);
    let (call, _) = harness.take_look();
    let result = Err(unreachable());
    harness.handle(Input::Transacted { call, result });
    let back_off = harness.take(|action| match action {
        Action::BackOff { call, .. } => Some(*call),
        _ => None,
    });
    harness.handle(Input::BackedOff { call: back_off });
    harness.connect();
    harness.take_look();
}

#[test]
fn a_follower_that_finds_the_record_withdraws() {
    let mut harness = candidate();
    for _ in 0..2 {
        let (call, _) = harness.take_look();
        harness.transact(call, held_by(OTHER, 10));
    }
    harness.grant();
    // The campaign requires that there is no record, and is refused.
    assert!(harness.answer(recorded(view(12, None, None))));
    assert!(harness.says(&Event::JobDone { record: record() }));
    assert!(harness.has(|action| matches!(action, Action::Revoke { .. })));
}

#[test]
fn a_completed_job_is_recorded_at_once_and_then_the_candidate_withdraws() {
    let (mut harness, term) = leader();
    harness.handle(Input::Completed { term });
    answer_record(&mut harness, term, recorded(held_by(term.lease, 12)));
    assert!(harness.says(&Event::Recorded { record: record() }));
    harness.stop();
    harness.release(term.lease);
}

#[test]
fn a_record_without_a_response_is_sent_again_with_the_next_try() {
    let (mut harness, term) = leader();
    until_due(&mut harness);
    harness.take_try();
    harness.handle(Input::Completed { term });
    // The try under way runs into its limit first.
    harness.pass(SECOND);
    harness.connect();
    let result = Err(unreachable());
    let (call, _) = harness.take_try();
    harness.handle(Input::Transacted { call, result });
    until_due(&mut harness);
    harness.connect();
    answer_record(&mut harness, term, recorded(held_by(term.lease, 12)));
    assert!(harness.says(&Event::Recorded { record: record() }));
}

#[test]
fn a_record_that_etcd_refuses_costs_no_term_and_is_sent_again() {
    let (mut harness, term) = leader();
    harness.handle(Input::Completed { term });
    let failure = Failure::new(FailureKind::Refused, "no space");
    for turn in 0..20 {
        let (call, transaction) = harness.take_transaction();
        assert_eq!(transaction, Transaction::record(term));
        let result = Err(failure.clone());
        harness.keep_alive(call, 1);
        harness.handle(Input::Transacted { call, result });
        let refused = Event::RecordRefused {
            endpoint: 0,
            failure: failure.clone(),
        };
        assert_eq!(harness.says(&refused), turn == 0, "reported once");
        // One without the record follows at once, and renews the term.
        let (call, transaction) = harness.take_transaction();
        assert_eq!(transaction, Transaction::READ.about_job(true));
        harness.transact(call, held_by(term.lease, 11));
        harness.keep_alive(call, 1);
        assert!(harness.is_leader());
        until_due(&mut harness);
    }
    answer_record(&mut harness, term, recorded(held_by(term.lease, 12)));
    assert!(harness.says(&Event::Recorded { record: record() }));
}

#[test]
fn a_record_refused_for_lack_of_room_may_exist_until_a_later_response_shows_that_it_does_not() {
    for is_shown in [false, true] {
        let (mut harness, term) = leader();
        harness.handle(Input::Completed { term });
        let (call, _) = harness.take_transaction();
        let result = Err(Failure::new(FailureKind::Refused, "no space"));
        harness.handle(Input::Transacted { call, result });
        let (call, transaction) = harness.take_transaction();
        assert_eq!(transaction, Transaction::READ.about_job(true));
        if is_shown {
            harness.transact(call, held_by(term.lease, 11));
        }
        harness.stop();
        assert!(is_not_recorded(&harness, !is_shown));
    }
}

#[test]
fn after_a_refused_record_tries_go_without_it_until_one_is_answered() {
    let (mut harness, term) = leader();
    harness.handle(Input::Completed { term });
    let (overdue, _) = harness.take_transaction();
    harness.pass(SECOND);
    harness.connect();
    let (call, transaction) = harness.take_transaction();
    assert_eq!(transaction, Transaction::record(term));
    let refused = || Err(Failure::new(FailureKind::Denied, "permission denied"));
    harness.handle(Input::Transacted {
        call: overdue,
        result: refused(),
    });
    harness.handle(Input::Transacted {
        call,
        result: refused(),
    });
    // A connection that breaks under the next try brings another one without it.
    let (call, transaction) = harness.take_transaction();
    assert_eq!(transaction, Transaction::READ.about_job(true));
    let result = Err(unreachable());
    harness.handle(Input::Transacted { call, result });
    until_due(&mut harness);
    harness.connect();
    let (call, transaction) = harness.take_transaction();
    assert_eq!(transaction, Transaction::READ.about_job(true));
    harness.transact(call, held_by(term.lease, 11));
    harness.keep_alive(call, 1);
    assert!(harness.is_leader());
    until_due(&mut harness);
    answer_record(&mut harness, term, recorded(held_by(term.lease, 12)));
    assert!(harness.says(&Event::Recorded { record: record() }));
}

#[test]
fn a_lost_response_before_a_refusal_leaves_it_unknown_whether_there_is_a_record() {
    let (mut harness, term) = leader();
    harness.handle(Input::Completed { term });
    harness.take_transaction();
    harness.pass(SECOND);
    harness.connect();
    let (call, _) = harness.take_transaction();
    let result = Err(Failure::new(FailureKind::Denied, "permission denied"));
    harness.handle(Input::Transacted { call, result });
    harness.stop();
    assert!(is_not_recorded(&harness, true));
}

#[test]
fn a_record_that_was_always_refused_does_not_exist() {
    let (mut harness, term) = leader();
    harness.handle(Input::Completed { term });
    let (call, _) = harness.take_transaction();
    let result = Err(Failure::new(FailureKind::Denied, "permission denied"));
    harness.handle(Input::Transacted { call, result });
    harness.stop();
    assert!(is_not_recorded(&harness, false));
}

#[test]
fn a_term_that_ends_before_the_record_is_written_leaves_none() {
    let (mut harness, term) = leader();
    until_due(&mut harness);
    harness.take_try();
    harness.handle(Input::Completed { term });
    harness.pass(SECOND);
    harness.connect();
    answer_record(&mut harness, term, held_by(OTHER, 12));
    assert!(is_not_recorded(&harness, false));
    harness.stop();
    // It takes part again, and another may have completed the job meanwhile.
    harness.grant();
}

#[test]
fn an_overdue_response_from_before_the_term_does_not_end_the_record() {
    let mut harness = candidate();
    for _ in 0..2 {
        let (call, _) = harness.take_look();
        harness.transact(call, held_by(OTHER, 8));
    }
    let lease = harness.grant();
    assert!(harness.answer(held_by(OTHER, 8)));
    until_due(&mut harness);
    let (overdue, _) = harness.take_try();
    harness.pass(SECOND);
    harness.connect();
    assert!(!harness.answer(view(9, None, None)));
    assert!(harness.answer(held_by(lease, 10)));
    let Role::Leader { term, .. } = harness.machine.status().role else {
        panic!("{:?}", harness.machine);
    };
    harness.handle(Input::Completed { term });
    harness.transact(overdue, held_by(OTHER, 8));
    assert!(!is_not_recorded(&harness, false));
    answer_record(&mut harness, term, recorded(held_by(lease, 12)));
    assert!(harness.says(&Event::Recorded { record: record() }));
}

#[test]
fn once_the_term_cannot_be_renewed_the_record_is_still_written_if_it_can_be() {
    let (mut harness, term) = leader();
    until_due(&mut harness);
    harness.take_try();
    harness.handle(Input::Completed { term });
    harness.pass(5 * SECOND);
    assert!(matches!(
        harness.machine.status().role,
        Role::Stopping { .. }
    ));
    harness.connect();
    let (call, transaction) = harness.take_look();
    assert_eq!(transaction, Transaction::record(term));
    harness.transact(call, recorded(held_by(term.lease, 12)));
    assert!(harness.says(&Event::Recorded { record: record() }));
}

#[test]
fn a_record_that_etcd_says_nothing_of_is_given_up_soon_and_may_exist() {
    let (mut harness, term) = leader();
    until_due(&mut harness);
    harness.take_try();
    harness.handle(Input::Completed { term });
    harness.pass(SECOND);
    harness.connect();
    harness.take_try();
    // Two seconds have passed. The term ends after 4.5 s; then come four limits of a second.
    harness.pass(6 * SECOND);
    assert!(!is_not_recorded(&harness, true));
    harness.pass(SECOND);
    assert!(is_not_recorded(&harness, true));
    // Nothing more is asked until what holds the leadership lets go of it.
    let asked = |harness: &Harness| {
        let is_question =
            |action: &&Action| matches!(action, Action::Look { .. } | Action::Try { .. });
        harness.actions.iter().filter(is_question).count()
    };
    let before = asked(&harness);
    harness.pass(5 * SECOND);
    assert_eq!(asked(&harness), before);
    harness.stop();
}

#[test]
fn a_job_of_a_term_that_is_over_is_not_recorded() {
    let (mut harness, term) = leader();
    let other = Term {
        lease: LeaseId::new(1),
        ..term
    };
    harness.handle(Input::Completed { term: other });
    assert!(is_not_recorded(&harness, false));
    harness.events.clear();
    // A leadership that is dropped meanwhile ends the wait, and a record may have been written.
    harness.handle(Input::Completed { term });
    harness.stop();
    assert!(is_not_recorded(&harness, true));
}

#[test]
fn the_record_of_another_does_not_disturb_what_acts() {
    let (mut harness, term) = leader();
    until_due(&mut harness);
    assert!(!harness.answer(recorded(held_by(term.lease, 12))));
    assert!(harness.is_leader());
    harness.handle(Input::Completed { term });
    answer_record(&mut harness, term, recorded(held_by(term.lease, 12)));
    assert!(harness.says(&Event::Recorded { record: record() }));
}
