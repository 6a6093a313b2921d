//! Checks what processes log about themselves, in the JSON format and on one clock, against what
//! the documents promise: no two act at once, tokens grow, and no stall is too long.

use super::daemon::{Daemon, FOLLOWER, LEADER, LEADER_STOPS, LOST, Line, REFRESHED, Stream};
use serde_json::Value;
use std::time::{Duration, SystemTime};

/// How late a line may be written after it was true, on a machine that is busy with other tests.
const LATE: Duration = Duration::from_millis(100);

/// Of the renewals of a term with a fail-over limit, no more than one in this time is logged, so that its deadline may be
/// later than the last one that was logged.
const UNLOGGED: Duration = Duration::from_millis(900);

/// What one process has logged.
pub struct Statements {
    /// What the test calls it.
    pub name: String,
    /// Its lines.
    pub lines: Vec<Value>,
    /// The last instant at which the process can have done anything, if it has ended.
    pub ended: Option<SystemTime>,
}

impl Statements {
    /// Returns what a process has logged so far.
    pub fn of(daemon: &Daemon) -> Self {
        // Before the lines, so that none of them comes after its end.
        let ended = daemon.ended();
        Self {
            name: daemon.name.clone(),
            lines: daemon
                .lines()
                .iter()
                .filter_map(|line| statement(&daemon.name, line))
                .collect(),
            ended,
        }
    }
}

/// Returns the object in a line. On standard output, every line must be one.
fn statement(name: &str, line: &Line) -> Option<Value> {
    let said = line.json();
    let is_ours = line.stream == Stream::Out;
    assert!(said.is_some() || !is_ours, "{name} logs {:?}", line.text());
    said
}

/// A time in which a process acted, according to its own log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// The name of the process.
    pub name: String,
    /// The fencing token.
    pub token: u64,
    /// When it began to act.
    pub from: SystemTime,
    /// When it stopped acting: at its line about that, at the last deadline that it logged or at its
    /// end as a process, whichever came first.
    pub to: SystemTime,
    /// The last deadline that it logged.
    pub deadline: SystemTime,
    /// The TTL that it was granted.
    pub ttl: Duration,
    /// Whether it has not ended before that deadline.
    pub is_open: bool,
}

/// An act from outside that makes an overlap possible until the old leader's deadline.
pub struct Allowance {
    begun: SystemTime,
    done: SystemTime,
    /// Whether etcd loses its history, so that tokens begin anew.
    ends_history: bool,
}

impl Allowance {
    /// Takes keys or a lease away from their holder.
    pub fn after(act: impl FnOnce()) -> Self {
        let begun = SystemTime::now();
        act();
        Self {
            begun,
            done: SystemTime::now(),
            ends_history: false,
        }
    }

    /// Takes away etcd's history.
    pub fn after_the_end_of_history(act: impl FnOnce()) -> Self {
        Self {
            ends_history: true,
            ..Self::after(act)
        }
    }

    /// Whether the second term may begin before the first one ends, and with a token that is not
    /// greater: the act came between the two, and the first one was not renewed after it.
    fn covers(&self, first: &Term, second: &Term) -> bool {
        first.from < self.done
            && self.begun <= second.from
            && first.deadline <= self.done + first.ttl * 9 / 10
            && (self.ends_history || second.from <= first.deadline)
    }
}

/// Returns all terms of these processes, in order.
///
/// # Panics
/// When two of them overlap, when tokens do not grow, or when a process logs that it leads when it
/// does not.
pub fn terms(replicas: &[&Daemon]) -> Vec<Term> {
    terms_despite(&[], replicas)
}

/// Does the same after acts that the documents warn about.
///
/// # Panics
/// As [`terms`], beyond what that allows.
pub fn terms_despite(allowances: &[Allowance], replicas: &[&Daemon]) -> Vec<Term> {
    let statements: Vec<_> = replicas.iter().map(|one| Statements::of(one)).collect();
    check(allowances, &statements)
}

/// Does the same for logs from another source.
///
/// # Panics
/// As [`terms_despite`].
pub fn check(allowances: &[Allowance], statements: &[Statements]) -> Vec<Term> {
    let mut terms: Vec<Term> = statements.iter().flat_map(terms_of).collect();
    terms.sort_by_key(|term| term.from);
    for (number, second) in terms.iter().enumerate() {
        for first in &terms[..number] {
            let allowed = allowances.iter().any(|act| act.covers(first, second));
            let pair = || format!("{first:#?} and {second:#?}");
            assert!(
                first.to <= second.from || (allowed && first.name != second.name),
                "two leaders at once: {}",
                pair()
            );
            assert!(
                first.token < second.token || allowed,
                "tokens must grow: {}",
                pair()
            );
        }
    }
    terms
}

/// Returns the longest time after `moment` in which no process acted, until the last of the terms.
///
/// # Panics
/// When no process acted at all after that.
pub fn stall(terms: &[Term], moment: SystemTime) -> Duration {
    let after: Vec<_> = terms.iter().filter(|term| term.to > moment).collect();
    assert!(
        !after.is_empty(),
        "nobody acts after {moment:?}: {terms:#?}"
    );
    let mut covered = moment;
    let mut longest = Duration::ZERO;
    for term in after {
        longest = longest.max(term.from.duration_since(covered).unwrap_or_default());
        covered = covered.max(term.to);
    }
    longest
}

/// Prints after what multiple of the TTL something happened, for the table of faults, and checks
/// that against its bound.
///
/// # Panics
/// When it was not within the bound.
pub fn within_bound(fault: &str, took: Duration, bound: Duration, ttl: Duration) {
    let multiple = |time: Duration| time.as_secs_f64() / ttl.as_secs_f64();
    let (seen, most) = (multiple(took), multiple(bound));
    println!("seen: {fault}: {seen:.2} TTL, bound {most:.2}");
    assert!(took <= bound, "{fault}: {seen:.2} TTL, bound {most:.2}");
}

/// Returns the terms of one process.
fn terms_of(statements: &Statements) -> Vec<Term> {
    let name = &statements.name;
    let mut terms = Vec::new();
    let mut open: Option<Term> = None;
    let mut unlogged = Duration::ZERO;
    for line in &statements.lines {
        let message = line["message"].as_str().unwrap_or_default();
        let at = || time(line, "timestamp");
        if message == LEADER {
            assert!(open.is_none(), "{name} leads twice at once: {line}");
            let until = time(line, "acts_until");
            assert!(at() <= until, "{name} begins a term that was over: {line}");
            if !line["fail_over_ms"].is_null() {
                unlogged = UNLOGGED;
            }
            open = Some(Term {
                name: name.clone(),
                token: number(line, "token"),
                from: at(),
                to: time(line, "acts_until"),
                deadline: time(line, "acts_until"),
                ttl: Duration::from_secs(number(line, "ttl")),
                is_open: true,
            });
        } else if message == REFRESHED {
            let term = open.as_mut();
            let term = term.unwrap_or_else(|| panic!("{name} refreshes without a term: {line}"));
            assert_eq!(term.token, number(line, "token"), "{name}: {line}");
            assert!(
                at() < term.deadline + unlogged + LATE,
                "{name} revives a term that was over at {:?}: {line}",
                term.deadline
            );
            term.deadline = time(line, "acts_until");
            assert!(
                at() <= term.deadline,
                "{name} claims a term that is over: {line}"
            );
            term.to = term.deadline;
        } else if message == LEADER_STOPS || message.starts_with(LOST) {
            // A process that lost its term before it was asked to stop logs both.
            terms.extend(open.take().map(|term| Term {
                to: term.deadline.min(at()),
                is_open: false,
                ..term
            }));
        } else if message == FOLLOWER {
            assert!(open.is_none(), "{name} leads and follows: {line}");
        }
    }
    terms.extend(open.map(|term| Term {
        to: statements.ended.unwrap_or(term.to).min(term.to),
        is_open: statements.ended.is_none(),
        ..term
    }));
    terms
}

fn time(line: &Value, field: &str) -> SystemTime {
    let time = line[field].as_str().map(humantime::parse_rfc3339);
    time.and_then(Result::ok)
        .unwrap_or_else(|| panic!("no time in {field:?}: {line}"))
}

fn number(line: &Value, field: &str) -> u64 {
    let number = line[field].as_u64();
    number.unwrap_or_else(|| panic!("no number in {field:?}: {line}"))
}
