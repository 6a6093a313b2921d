//! The checker of the other tests finds each fault that it is meant to find.

use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use support::checker::{Allowance, Statements, check, stall};
use support::daemon::{LEADER, LOST, REFRESHED};

/// Returns a time from seconds since a midnight.
fn clock(seconds: f64) -> SystemTime {
    UNIX_EPOCH + Duration::from_hours(24) + Duration::from_secs_f64(seconds)
}

fn line(at: f64, message: &str, token: u64, until: f64) -> Value {
    let time = |seconds| humantime::format_rfc3339_micros(clock(seconds)).to_string();
    json!({
        "timestamp": time(at), "message": message, "ttl": 2, "token": token,
        "acts_until": time(until),
    })
}

fn process(name: &str, lines: &[(f64, &str, u64, f64)], ended: Option<f64>) -> Statements {
    let lines = lines.iter();
    Statements {
        name: name.to_owned(),
        lines: lines
            .map(|(at, message, token, until)| line(*at, message, *token, *until))
            .collect(),
        ended: ended.map(clock),
    }
}

#[test]
fn terms_one_after_the_other_pass_however_the_first_one_ended() {
    let own_line = [(1.0, LEADER, 5, 2.8), (1.5, LOST, 5, 0.0)];
    let deadline = [(0.1, LEADER, 5, 1.5)];
    let killed = [(1.0, LEADER, 5, 2.8)];
    for (lines, ended) in [
        (&own_line[..], None),
        (&deadline, None),
        (&killed, Some(1.5)),
    ] {
        let heir = process("heir", &[(1.5, LEADER, 6, 3.3)], None);
        let terms = check(&[], &[process("old", lines, ended), heir]);
        assert_eq!(terms[0].to, clock(1.5));
        assert_eq!(stall(&terms, clock(1.2)), Duration::ZERO);
    }
}

#[test]
#[should_panic = "two leaders at once"]
fn a_term_that_begins_before_the_deadline_of_a_silent_leader_is_found() {
    let old = process(
        "old",
        &[(0.1, LEADER, 5, 1.9), (0.5, REFRESHED, 5, 2.3)],
        None,
    );
    check(&[], &[process("heir", &[(2.2, LEADER, 6, 4.0)], None), old]);
}

#[test]
#[should_panic = "tokens must grow"]
fn a_token_that_does_not_grow_is_found() {
    let old = process("old", &[(0.1, LEADER, 5, 1.9)], Some(1.0));
    check(&[], &[old, process("heir", &[(2.2, LEADER, 5, 4.0)], None)]);
}

#[test]
#[should_panic = "revives a term that was over"]
fn a_refresh_after_the_deadline_is_found() {
    let lines = [(0.1, LEADER, 5, 1.9), (2.5, REFRESHED, 5, 4.0)];
    check(&[], &[process("old", &lines, None)]);
}

#[test]
#[should_panic = "claims a term that is over"]
fn a_refresh_that_is_not_true_any_more_is_found() {
    let lines = [(0.1, LEADER, 5, 1.9), (1.8, REFRESHED, 5, 1.7)];
    check(&[], &[process("old", &lines, None)]);
}

#[test]
#[should_panic = "refreshes without a term"]
fn a_refresh_outside_of_a_term_is_found() {
    let lines = [
        (0.1, LEADER, 5, 1.9),
        (1.0, LOST, 5, 0.0),
        (1.2, REFRESHED, 5, 3.0),
    ];
    check(&[], &[process("old", &lines, None)]);
}

#[test]
#[should_panic = "nobody acts after"]
fn an_endless_stall_is_found() {
    let terms = check(&[], &[process("old", &[(0.1, LEADER, 5, 1.9)], Some(1.0))]);
    stall(&terms, clock(1.5));
}

#[test]
fn a_stall_lasts_as_long_as_nobody_acts() {
    let heir = process("heir", &[(3.0, LEADER, 6, 4.8)], None);
    let terms = check(&[], &[heir]);
    assert_eq!(stall(&terms, clock(1.0)), Duration::from_secs(2));
}

/// Checks two terms around an act of just now, the first of which lasts until `old_until` after it.
fn around_an_act(old_until: f64) {
    let act = Allowance::after(|| {});
    let now = SystemTime::now().duration_since(clock(0.0)).unwrap();
    let now = now.as_secs_f64();
    let old = process("old", &[(now - 1.0, LEADER, 7, now + old_until)], None);
    let heir = process("heir", &[(now + 0.5, LEADER, 6, now + 2.3)], None);
    check(&[act], &[old, heir]);
}

#[test]
fn an_act_that_the_documents_warn_of_allows_an_overlap_until_the_old_deadline() {
    around_an_act(1.7);
}

#[test]
#[should_panic = "two leaders at once"]
fn after_such_an_act_the_old_leader_must_not_be_renewed() {
    around_an_act(1.9);
}

#[test]
#[should_panic = "tokens must grow"]
fn after_such_an_act_tokens_must_grow_once_the_old_deadline_has_passed() {
    let act = Allowance::after(|| {});
    let now = SystemTime::now().duration_since(clock(0.0)).unwrap();
    let now = now.as_secs_f64();
    let old = process("old", &[(now - 1.0, LEADER, 7, now + 1.0)], None);
    let heir = process("heir", &[(now + 100.0, LEADER, 6, now + 101.8)], None);
    check(&[act], &[old, heir]);
}

#[test]
#[should_panic = "begins a term that was over"]
fn a_term_that_is_over_when_it_begins_is_found() {
    check(&[], &[process("one", &[(2.0, LEADER, 7, 1.9)], None)]);
}
