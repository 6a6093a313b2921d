//! Reads what processes say of themselves, in lines of the JSON format and on one clock, and fails
//! on what the documents don't allow: two who act at once, a token that does not grow, a stall.

use super::daemon::{Daemon, FOLLOWER, LEADER, LEADER_STOPS, LOST, Line, REFRESHED, Stream};
use serde_json::Value;
use std::time::{Duration, SystemTime};

/// How much later than it was true a line may be written, on a machine busy with other tests.
const HELD_UP: Duration = Duration::from_millis(100);

/// What one process has said.
pub struct Statements {
    /// What to call it.
    pub name: String,
    /// Its lines.
    pub lines: Vec<Value>,
    /// The last instant at which it can have done anything, if it has ended.
    pub ended: Option<SystemTime>,
}

impl Statements {
    /// What a process has said until now.
    pub fn of(daemon: &Daemon) -> Self {
        // Before the lines: what it says meanwhile must not come after its end.
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

/// What a line says. On standard output, all of them are objects; nothing must go unread.
fn statement(name: &str, line: &Line) -> Option<Value> {
    let said = line.json();
    let is_ours = line.stream == Stream::Out;
    assert!(said.is_some() || !is_ours, "{name} says {:?}", line.text());
    said
}

/// A time in which a process acted, by its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// Who acted.
    pub name: String,
    /// The fencing token.
    pub token: u64,
    /// From when.
    pub from: SystemTime,
    /// Until when: its own word that it leads no more, the deadline that its last word implies or
    /// its end as a process, whatever came first.
    pub to: SystemTime,
    /// The deadline that its last word implies.
    pub deadline: SystemTime,
    /// The TTL that it was granted.
    pub ttl: Duration,
    /// Whether nothing but that deadline has ended it yet.
    pub goes_on: bool,
}

/// What somebody did that makes an overlap possible, until the old leader's deadline.
pub struct Allowance {
    begun: SystemTime,
    done: SystemTime,
    /// Whether another history of etcd's begins, in which tokens are counted anew.
    ends_history: bool,
}

impl Allowance {
    /// Takes keys or leases away from their holder.
    pub fn after(act: impl FnOnce()) -> Self {
        let begun = SystemTime::now();
        act();
        Self {
            begun,
            done: SystemTime::now(),
            ends_history: false,
        }
    }

    /// Takes etcd's history from everybody.
    pub fn after_the_end_of_history(act: impl FnOnce()) -> Self {
        Self {
            ends_history: true,
            ..Self::after(act)
        }
    }

    /// Whether the second term may begin beside the first one, and with a token that is not
    /// greater: the act lies between the two, and did not let the first one be renewed.
    fn covers(&self, first: &Term, second: &Term) -> bool {
        first.from < self.done
            && self.begun <= second.from
            && first.deadline <= self.done + first.ttl * 9 / 10
            && (self.ends_history || second.from <= first.deadline)
    }
}

/// All terms of these processes, in order.
///
/// # Panics
/// When two of them overlap, when tokens do not grow, or when somebody says that it leads when it
/// does not.
pub fn terms(replicas: &[&Daemon]) -> Vec<Term> {
    terms_despite(&[], replicas)
}

/// The same, where somebody has done what the documents warn of.
///
/// # Panics
/// As [`terms`], beyond what that allows.
pub fn terms_despite(allowances: &[Allowance], replicas: &[&Daemon]) -> Vec<Term> {
    let statements: Vec<_> = replicas.iter().map(|one| Statements::of(one)).collect();
    check(allowances, &statements)
}

/// The same, for what was recorded otherwise.
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

/// The longest time after `moment` in which nobody acted, until the last of the terms.
///
/// # Panics
/// When nobody acted at all after that.
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

/// Tells, for the table of faults, after what multiple of the TTL something happened, and checks
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

/// The terms that one process tells of.
fn terms_of(statements: &Statements) -> Vec<Term> {
    let name = &statements.name;
    let mut terms = Vec::new();
    let mut open: Option<Term> = None;
    for line in &statements.lines {
        let message = line["message"].as_str().unwrap_or_default();
        let at = || time(line, "timestamp");
        if message == LEADER {
            assert!(open.is_none(), "{name} leads twice at once: {line}");
            let until = time(line, "acts_until");
            assert!(at() <= until, "{name} begins a term that was over: {line}");
            open = Some(Term {
                name: name.clone(),
                token: number(line, "token"),
                from: at(),
                to: time(line, "acts_until"),
                deadline: time(line, "acts_until"),
                ttl: Duration::from_secs(number(line, "ttl")),
                goes_on: true,
            });
        } else if message == REFRESHED {
            let term = open.as_mut();
            let term = term.unwrap_or_else(|| panic!("{name} refreshes without a term: {line}"));
            assert_eq!(term.token, number(line, "token"), "{name}: {line}");
            assert!(
                at() < term.deadline + HELD_UP,
                "{name} revives a term that was over at {:?}: {line}",
                term.deadline
            );
            term.deadline = time(line, "acts_until");
            assert!(at() <= term.deadline, "{name} leads no more: {line}");
            term.to = term.deadline;
        } else if message == LEADER_STOPS || message.starts_with(LOST) {
            // Whoever lost its term before it was asked to stop says both.
            terms.extend(open.take().map(|term| Term {
                to: term.deadline.min(at()),
                goes_on: false,
                ..term
            }));
        } else if message == FOLLOWER {
            assert!(open.is_none(), "{name} leads and follows: {line}");
        }
    }
    terms.extend(open.map(|term| Term {
        to: statements.ended.unwrap_or(term.to).min(term.to),
        goes_on: statements.ended.is_none(),
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
