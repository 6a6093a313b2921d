//! Fail-over limits: a leader that shows that it is alive, and followers that challenge it and take over.

use super::harness::{Harness, MILLI, OTHER, SECOND, held_by, key, unreachable, view};
use crate::protocol::{
    Action, Beginning, CallId, Effect, ElectionKey, Entry, Event, FailOverLimit, Failure,
    FailureKind, FencingToken, Guard, Input, KeptAlive, LeaseId, LeaseTime, LossReason, Moment,
    Presence, Role, TermSettings, Transaction, View,
};
use std::time::Duration;

const LIMIT: Duration = SECOND;
const TERM: FencingToken = FencingToken::new(10);

fn limit() -> FailOverLimit {
    FailOverLimit::try_from(LIMIT).unwrap()
}

/// Both keys, held by a lease in a term with a limit.
fn limited(lease: LeaseId, revision: i64) -> View {
    let mut shown = held_by(lease, revision);
    if let Some(acting) = &mut shown.acting {
        acting.settings.fail_over = Some(limit());
    }
    shown
}

/// The same, with a challenge that this revision has written.
fn challenged(lease: LeaseId, revision: i64, challenge: i64) -> View {
    let challenge = Entry {
        lease: None,
        ..key(OTHER, challenge)
    };
    View {
        challenge: Some(challenge),
        ..limited(lease, revision)
    }
}

/// Answers the newest try; returns its transaction.
fn answer(harness: &mut Harness, view: View) -> Transaction {
    let (call, transaction) = harness.take_transaction();
    harness.transact(call, view);
    keep_alive(harness, call);
    transaction
}

fn keep_alive(harness: &mut Harness, call: CallId) {
    let result = Ok(KeptAlive {
        ttl: 10,
        raft_term: 1,
    });
    harness.handle(Input::KeptAlive { call, result });
}

/// A candidate with a limit of a second that has got a lease for 10 s.
fn candidate() -> (Harness, LeaseId) {
    let mut harness = Harness::with(1, |settings| settings.fail_over = Some(limit()));
    harness.connect();
    let (call, probe) = harness.take_look();
    assert_eq!(probe, Transaction::probe_challenge());
    harness.transact(call, view(5, None, None));
    let lease = harness.grant_for(10 * SECOND);
    (harness, lease)
}

fn leader() -> (Harness, LeaseId) {
    let (mut harness, lease) = candidate();
    let transaction = answer(&mut harness, limited(lease, 10));
    assert!(transaction.is_campaign() && transaction.about_challenge);
    assert!(harness.is_leader());
    (harness, lease)
}

fn deadline(harness: &Harness) -> Moment {
    match harness.machine.status().role {
        Role::Leader { deadline, .. } => deadline,
        role => panic!("{role:?}"),
    }
}

/// A follower of a leader with a limit, with none of its own.
fn follower() -> (Harness, LeaseId) {
    let mut harness = Harness::new(1);
    harness.connect();
    let lease = harness.grant_for(10 * SECOND);
    answer(&mut harness, limited(OTHER, 10));
    (harness, lease)
}

fn suspect(harness: &mut Harness, of: i64) {
    harness.handle(Input::Presence {
        of: FencingToken::new(of),
        presence: Presence::Broken,
    });
}

fn tries(harness: &Harness) -> bool {
    harness.has(|action| matches!(action, Action::Try { .. }))
}

/// Takes the newest question how long a lease lasts, and answers it.
fn answer_remaining(harness: &mut Harness, remaining: u64) {
    let call = harness.take(|action| match action {
        Action::AskLeaseTime { call, lease, .. } if *lease == OTHER => Some(*call),
        _ => None,
    });
    let result = Ok(Some(LeaseTime {
        granted: 10 * SECOND,
        remaining: Duration::from_secs(remaining),
    }));
    harness.handle(Input::LeaseTime { call, result });
}

/// Lets a follower read the keys at once.
fn read_again(harness: &mut Harness) {
    let watch = harness.take(|action| match action {
        Action::Watch { watch, .. } => Some(*watch),
        _ => None,
    });
    harness.handle(Input::WatchEnded { watch });
}

/// A follower that waits since now for a response to the challenge of revision 20.
fn waiting() -> (Harness, LeaseId) {
    let (mut harness, lease) = follower();
    suspect(&mut harness, 10);
    let challenge = answer(&mut harness, challenged(OTHER, 20, 20));
    assert_eq!(challenge.effect, Effect::Challenge);
    (harness, lease)
}

#[test]
fn a_leader_acts_for_nine_tenths_of_the_limit_after_each_request_without_a_challenge() {
    let (mut harness, lease) = leader();
    let began = harness.now;
    assert_eq!(deadline(&harness), began + LIMIT * 9 / 10);
    harness.pass(LIMIT / 5);
    let sent = harness.now;
    let (call, transaction) = harness.take_transaction();
    assert!(transaction.about_challenge && !transaction.writes());
    harness.pass(20 * MILLI);
    // The keys alone suffice: the lease was renewed long enough ago.
    harness.transact(call, limited(lease, 10));
    assert_eq!(deadline(&harness), sent + LIMIT * 9 / 10);
    keep_alive(&mut harness, call);
    harness.pass(LIMIT);
    assert!(!harness.is_leader());
    let term = |event: &Event| matches!(event, Event::Lost { term, reason: LossReason::NotRenewed } if term.token == TERM);
    assert!(harness.events.iter().any(term));
}

#[test]
fn a_leader_responds_to_a_challenge_at_once_and_only_then_acts_on() {
    let (mut harness, lease) = leader();
    let before = deadline(&harness);
    harness.pass(LIMIT / 5);
    answer(&mut harness, challenged(lease, 20, 20));
    assert_eq!(deadline(&harness), before, "it was challenged");
    let sent = harness.now;
    let response = answer(&mut harness, limited(lease, 21));
    assert_eq!(response.effect, Effect::Confirm);
    assert_eq!(
        response.acting,
        Guard::Unchanged {
            mod_revision: 10,
            lease
        }
    );
    assert_eq!(deadline(&harness), sent + LIMIT * 9 / 10);
    assert!(!tries(&harness), "it is not challenged any more");
}

#[test]
fn a_leader_that_stops_in_order_responds_to_challenges() {
    let (mut harness, lease) = leader();
    harness.handle(Input::Withdraw);
    harness.pass(LIMIT / 5);
    answer(&mut harness, challenged(lease, 20, 20));
    let response = answer(&mut harness, limited(lease, 21));
    assert_eq!(response.effect, Effect::Confirm);
    assert!(matches!(
        harness.machine.status().role,
        Role::Stopping { .. }
    ));
}

#[test]
fn a_leader_whose_job_is_recorded_meanwhile_responds_to_challenges() {
    let mut harness = Harness::with(1, |settings| {
        settings.fail_over = Some(limit());
        settings.runs_once = true;
    });
    harness.connect();
    for _ in 0..3 {
        let (call, _) = harness.take_look();
        harness.transact(call, view(5, None, None));
    }
    let lease = harness.grant_for(10 * SECOND);
    answer(&mut harness, limited(lease, 10));
    harness.pass(LIMIT / 5);
    let done = Some(key(OTHER, 20));
    let shown = challenged(lease, 21, 21);
    answer(&mut harness, View { done, ..shown });
    let (_, response) = harness.take_transaction();
    assert_eq!(response.effect, Effect::Confirm);
    assert!(response.about_job && !response.requires_no_record());
}

#[test]
fn a_candidate_that_can_lead_again_takes_over_at_once_if_that_is_due() {
    let (mut harness, _) = waiting();
    harness.handle(Input::StandBack);
    harness.pass(LIMIT * 11 / 10);
    let read = answer(&mut harness, challenged(OTHER, 21, 20));
    assert!(!read.writes() && !tries(&harness));
    harness.handle(Input::StandForward);
    let (_, transaction) = harness.take_transaction();
    assert!(transaction.is_campaign());
}

#[test]
fn a_term_begins_once_a_whole_try_shows_no_challenge() {
    let (mut harness, lease) = candidate();
    answer(&mut harness, challenged(lease, 12, 12));
    assert!(!harness.is_leader());
    let response = answer(&mut harness, limited(lease, 13));
    assert_eq!(response.effect, Effect::Confirm);
    assert!(harness.is_leader());
}

#[test]
fn a_term_whose_key_says_no_limit_has_none() {
    // A leader of another version handed it over, and did not copy the limit.
    let (mut harness, lease) = candidate();
    answer(&mut harness, held_by(lease, 10));
    assert_eq!(deadline(&harness), harness.now + 9 * SECOND);
    harness.pass(LIMIT);
    assert!(harness.is_leader() && !tries(&harness));
}

#[test]
fn a_suspected_leader_is_challenged_and_replaced_after_eleven_tenths_of_the_limit() {
    let (mut harness, lease) = waiting();
    let noticed = harness.now;
    harness.events.clear();
    harness.pass(Duration::from_millis(1099));
    assert!(!tries(&harness));
    harness.pass(MILLI);
    let (call, transaction) = harness.take_transaction();
    assert_eq!(harness.now, noticed + LIMIT * 11 / 10);
    let takes_over = true;
    assert_eq!(transaction.effect, Effect::Lead { lease, takes_over });
    let standing = |mod_revision, lease| Guard::Unchanged {
        mod_revision,
        lease,
    };
    assert_eq!(transaction.leader, standing(10, OTHER));
    assert_eq!(transaction.acting, standing(10, OTHER));
    assert_eq!(transaction.challenge, standing(20, LeaseId::new(0)));
    let mut own = held_by(lease, 30);
    if let Some(acting) = &mut own.acting {
        acting.settings.was_taken_over = true;
    }
    harness.transact(call, own);
    keep_alive(&mut harness, call);
    assert!(harness.is_leader());
    let [gone, campaigns, leads] = &harness.events[..] else {
        panic!("{:?}", harness.events)
    };
    assert_eq!(*gone, Event::LeaderGone);
    assert_eq!(*campaigns, Event::Campaigning { again: true });
    assert!(matches!(
        leads,
        Event::Leading {
            beginning: Beginning::TakeOver,
            ..
        }
    ));
}

#[test]
fn a_leader_that_has_responded_is_followed_on_and_challenged_once_in_a_limit() {
    let (mut harness, _) = waiting();
    let sent = harness.now;
    harness.pass(LIMIT * 11 / 10);
    // Its time had come, but this is what the take-over shows.
    answer(&mut harness, limited(OTHER, 21));
    assert!(harness.says(&Event::ChallengeAnswered));
    suspect(&mut harness, 10);
    let challenge = answer(&mut harness, challenged(OTHER, 22, 22));
    assert_eq!(challenge.effect, Effect::Challenge);
    assert!(harness.now > sent + LIMIT);
    // The next one at once would be too soon.
    let sent = harness.now;
    harness.pass(LIMIT / 2);
    read_again(&mut harness);
    answer(&mut harness, limited(OTHER, 23));
    suspect(&mut harness, 10);
    assert!(!tries(&harness));
    harness.pass(LIMIT / 2);
    assert_eq!(harness.now, sent + LIMIT);
    let challenge = answer(&mut harness, challenged(OTHER, 24, 24));
    assert_eq!(challenge.effect, Effect::Challenge);
}

#[test]
fn a_suspicion_during_a_challenge_is_kept_until_a_later_response_shows_a_challenge() {
    let (mut harness, _) = waiting();
    harness.pass(LIMIT / 2);
    suspect(&mut harness, 10);
    // The leader responded to the earlier challenge, and failed then.
    let read = answer(&mut harness, limited(OTHER, 21));
    assert!(!read.writes());
    harness.pass(LIMIT / 2);
    let (_, challenge) = harness.take_transaction();
    assert_eq!(challenge.effect, Effect::Challenge);
}

#[test]
fn an_earlier_response_that_shows_a_challenge_does_not_settle_a_suspicion() {
    let (mut harness, _) = waiting();
    read_again(&mut harness);
    let (call, read) = harness.take_transaction();
    assert!(!read.writes());
    harness.pass(MILLI);
    suspect(&mut harness, 10);
    // It was sent before, and the leader has responded since then.
    harness.transact(call, challenged(OTHER, 20, 20));
    keep_alive(&mut harness, call);
    harness.pass(LIMIT * 11 / 10);
    answer(&mut harness, limited(OTHER, 21));
    let (_, challenge) = harness.take_transaction();
    assert_eq!(challenge.effect, Effect::Challenge);
}

#[test]
fn what_was_known_of_an_earlier_term_says_nothing_about_the_present_one() {
    let (mut harness, lease) = waiting();
    read_again(&mut harness);
    answer(&mut harness, limited(OTHER, 21));
    // It would be challenged again soon. But the term is handed to this candidate, which is asked to step down.
    suspect(&mut harness, 10);
    harness.changed(ElectionKey::Acting, 30, held_by(lease, 30).acting);
    harness.pass(LIMIT);
    answer(&mut harness, held_by(lease, 30));
    assert!(harness.is_leader());
    harness.changed(ElectionKey::Leader, 31, None);
    harness.stop();
    harness.release(lease);
    let other = |entry: Option<Entry>| {
        entry.map(|entry| Entry {
            mod_revision: 40,
            ..entry
        })
    };
    let led = limited(OTHER, 10);
    harness.changed(ElectionKey::Acting, 40, other(led.acting));
    harness.changed(ElectionKey::Leader, 40, other(led.leader));
    harness.grant_for(10 * SECOND);
    let (_, transaction) = harness.take_transaction();
    assert!(!transaction.writes(), "{transaction:?}");
}

#[test]
fn only_the_present_term_of_a_leader_with_a_limit_is_challenged() {
    let (mut harness, _) = follower();
    suspect(&mut harness, 9);
    assert!(!tries(&harness), "it was about an earlier term");
    let (mut unlimited, _) = super::harness::follower();
    suspect(&mut unlimited, 10);
    assert!(!tries(&unlimited), "it has no limit");
    let (mut harness, _) = follower();
    harness.handle(Input::StandBack);
    suspect(&mut harness, 10);
    assert!(!tries(&harness), "this candidate must not lead");
    // `leader` is another client's.
    let (mut harness, _) = follower();
    harness.changed(ElectionKey::Leader, 11, Some(key(LeaseId::new(0xbad), 11)));
    suspect(&mut harness, 10);
    assert!(!tries(&harness));
}

#[test]
fn a_follower_that_is_not_connected_asks_for_the_leaders_lease_twice_in_a_limit() {
    let (mut harness, _) = follower();
    for remaining in [10, 9, 8] {
        answer_remaining(&mut harness, remaining);
        harness.pass(LIMIT / 2);
        // The read that is due does not matter here.
        assert_eq!(tries(&harness), remaining == 8, "{remaining}");
    }
    let (call, transaction) = harness.take_transaction();
    assert_eq!(transaction.effect, Effect::Challenge);
    harness.transact(call, limited(OTHER, 10));
    keep_alive(&mut harness, call);
    harness.actions.clear();
    harness.handle(Input::Presence {
        of: TERM,
        presence: Presence::Connected,
    });
    harness.pass(LIMIT);
    let asks = |action: &Action| matches!(action, Action::AskLeaseTime { .. });
    assert!(!harness.has(asks), "it is connected");
}

#[test]
fn a_role_for_two_keys_goes_on_without_challenges() {
    let (mut harness, _) = follower();
    let denied = || Failure::new(FailureKind::Denied, "permission denied");
    harness.pass(10 * SECOND / 3);
    let (call, transaction) = harness.take_transaction();
    assert!(transaction.about_challenge);
    harness.handle(Input::Transacted {
        call,
        result: Err(denied()),
    });
    let next = answer(&mut harness, limited(OTHER, 10));
    assert!(!next.about_challenge);
    suspect(&mut harness, 10);
    assert!(!tries(&harness));
    let failed = |event: &Event| matches!(event, Event::Failed { .. });
    assert!(!harness.events.iter().any(failed));
}

#[test]
fn a_candidate_with_a_limit_that_may_not_be_challenged_does_not_take_part() {
    let mut harness = Harness::with(1, |settings| settings.fail_over = Some(limit()));
    harness.connect();
    let (call, _) = harness.take_look();
    let failure = Failure::new(FailureKind::Denied, "permission denied");
    let result = Err(failure.clone());
    harness.handle(Input::Transacted { call, result });
    assert!(harness.says(&Event::FailOverDenied { failure }));
    assert_eq!(harness.machine.status().role, Role::Withdrawn);
}

#[test]
fn a_take_over_that_a_full_database_refuses_is_sent_once_in_a_limit() {
    let (mut harness, _) = waiting();
    harness.pass(LIMIT * 11 / 10);
    let (call, transaction) = harness.take_transaction();
    assert!(transaction.is_campaign());
    let full = Failure::new(FailureKind::Refused, "database space exceeded");
    let result = Err(full);
    harness.handle(Input::Transacted { call, result });
    let read = answer(&mut harness, challenged(OTHER, 21, 20));
    assert!(!read.writes());
    assert!(!tries(&harness));
    harness.pass(LIMIT);
    let (_, transaction) = harness.take_transaction();
    assert!(transaction.is_campaign());
}

#[test]
fn a_take_over_without_a_response_is_resolved_by_what_follows() {
    let (mut harness, lease) = waiting();
    harness.pass(LIMIT * 11 / 10);
    let (call, _) = harness.take_transaction();
    let result = Err(unreachable());
    harness.handle(Input::Transacted { call, result });
    harness.connect();
    let mut own = held_by(lease, 30);
    if let Some(acting) = &mut own.acting {
        acting.settings = TermSettings {
            was_taken_over: true,
            ..TermSettings::default()
        };
    }
    answer(&mut harness, own);
    assert!(harness.is_leader());
}
