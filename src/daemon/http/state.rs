//! How this replica stands.

use super::metrics::{Instant, Metrics};
use crate::{
    clock,
    config::Config,
    daemon::render::{date, line, optional_text, text},
    observer::Leader,
    protocol::{Event, Moment, Role, Status, Timing},
    wall_clock,
};
use serde_json::{Map, Value, json};
use std::{
    collections::VecDeque,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::sync::watch;

/// How long it may take who wakes up late to notice that.
const MOMENT: Duration = Duration::from_secs(1);

/// How many transitions are told.
const TRANSITIONS: usize = 20;

/// A change of the role.
struct Transition {
    at: SystemTime,
    told: Map<String, Value>,
}

/// What the events have told.
struct Record {
    timing: Timing,
    /// Whether etcd answers; nothing before it has.
    answers: Option<bool>,
    /// Since when it was seen to act past its deadline.
    late_since: Option<Moment>,
    transitions: VecDeque<Transition>,
}

/// How this replica stands.
pub(super) struct Standing {
    name: String,
    endpoints: Vec<String>,
    status: watch::Receiver<Status>,
    record: Mutex<Record>,
    metrics: Metrics,
}

impl Standing {
    pub fn new(config: &Config, status: watch::Receiver<Status>) -> Self {
        let endpoints = config.cluster().endpoints().iter();
        Self {
            name: config.name().as_str().to_owned(),
            endpoints: endpoints.map(ToString::to_string).collect(),
            status,
            record: Mutex::new(Record {
                timing: Timing::new(config.ttl().as_duration(), config.grace()),
                answers: None,
                late_since: None,
                transitions: VecDeque::new(),
            }),
            metrics: Metrics::new(),
        }
    }

    /// Takes in what happened.
    pub fn note(&self, event: &Event) {
        self.metrics.note(event);
        let mut record = self.record();
        match event {
            Event::Granted { ttl, .. } => {
                record.timing = Timing::new(*ttl, record.timing.grace());
                // An etcd that grants leases and refuses the rest does not answer.
                record.answers.get_or_insert(true);
            }
            Event::AnsweredAgain { .. } => record.answers = Some(true),
            Event::Unanswered { .. } => record.answers = Some(false),
            Event::Renewed { sent, .. } => self.metrics.renewed(*sent, clock::now()),
            Event::Leading { term, .. } => {
                self.change(&mut record, "leader", |told| {
                    told.insert("token".to_owned(), json!(term.token.get()));
                });
            }
            Event::Following { leader } => {
                self.change(&mut record, "follower", |told| {
                    let leader = text("leader", &leader.value);
                    told.extend(leader);
                });
            }
            Event::SomebodyStillActs | Event::LeaderGone => {
                self.change(&mut record, "follower", |told| {
                    told.insert("leader".to_owned(), Value::Null);
                });
            }
            Event::Lost { term, reason } => {
                self.change(&mut record, "stopping", |told| {
                    told.insert("token".to_owned(), json!(term.token.get()));
                    told.insert("reason".to_owned(), json!(reason.to_string()));
                });
            }
            _ => {}
        }
    }

    fn change(&self, record: &mut Record, role: &str, tell: impl FnOnce(&mut Map<String, Value>)) {
        let mut told = Map::new();
        told.insert("role".to_owned(), json!(role));
        tell(&mut told);
        let last = record.transitions.back();
        if last.is_none_or(|last| last.told["role"] != role) {
            self.metrics.changed();
        }
        if record.transitions.len() == TRANSITIONS {
            record.transitions.pop_front();
        }
        let at = wall_clock::now();
        record.transitions.push_back(Transition { at, told });
    }

    /// Whether this replica leads at this instant, by the clock.
    pub fn leads(&self) -> bool {
        matches!(self.status.borrow().role, Role::Leader { deadline, .. } if clock::now() < deadline)
    }

    /// Whether this replica follows a known leader.
    pub fn follows(&self) -> bool {
        let status = self.status.borrow();
        let leader = Leader::of(status.leader.as_ref(), status.acting.as_ref());
        let follows = matches!(status.role, Role::Follower) && leader.is_some_and(|it| it.acts);
        follows && self.record().answers()
    }

    /// Why the election cannot go on as it should, if so.
    pub fn died(&self) -> Option<&'static str> {
        let died = self.status.has_changed().is_err();
        let role = self.status.borrow().role;
        let mut record = self.record();
        let now = clock::now();
        let late = match role {
            Role::Withdrawn => return None,
            _ if died => return Some("the election has died"),
            Role::Leader { deadline, .. } => now >= deadline,
            // Killing takes a tenth of the grace.
            Role::Stopping { by, .. } => now > by + record.timing.grace() / 10,
            Role::Follower => false,
        };
        // Whoever was paused is late when it wakes, and mends that at once.
        let since = late.then(|| record.late_since.unwrap_or(now));
        record.late_since = since;
        since
            .is_some_and(|since| now.since(since) > MOMENT)
            .then_some("it acts past its deadline")
    }

    /// Tells all of it, as JSON.
    pub fn tell(&self) -> String {
        let status = self.status.borrow().clone();
        let record = self.record();
        let (role, term, remaining) = match status.role {
            Role::Leader { term, deadline } if clock::now() < deadline => {
                let remaining = deadline.since(clock::now());
                ("leader", Some(term), Some(remaining))
            }
            Role::Leader { term, .. } | Role::Stopping { term, .. } => {
                ("stopping", Some(term), None)
            }
            Role::Withdrawn => ("stopping", None, None),
            _ => ("follower", None, None),
        };
        let leader = Leader::of(status.leader.as_ref(), status.acting.as_ref()).map(|leader| {
            let mut told = text("name", &leader.name);
            told.insert("token".to_owned(), json!(leader.token.get()));
            told.insert("lease".to_owned(), json!(leader.lease.to_string()));
            told.insert("since".to_owned(), date(leader.since));
            told.extend(optional_text("address", leader.address.as_deref()));
            told
        });
        let transitions: Vec<_> = record.transitions.iter().map(Transition::tell).collect();
        let since = record.transitions.back().map(|last| last.at);
        let mut told = text("name", self.name.as_bytes());
        let rest = [
            ("role", json!(role)),
            ("leader", json!(leader)),
            ("token", json!(term.map(|term| term.token.get()))),
            ("lease", json!(term.map(|term| term.lease.to_string()))),
            ("ttl", json!(record.timing.ttl().as_secs())),
            ("remaining", json!(remaining.map(seconds))),
            ("since", date(since)),
            ("endpoint", json!(self.endpoints.get(status.endpoint))),
            ("etcd_answers", json!(record.answers())),
            ("transitions", json!(transitions)),
        ];
        told.extend(rest.map(|(field, value)| (field.to_owned(), value)));
        line(told) + "\n"
    }

    /// Tells the metrics.
    ///
    /// # Errors
    /// A string takes whatever is written; there is no reason for any.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let role = self.status.borrow().role;
        let (role, remaining) = match role {
            Role::Leader { deadline, .. } => {
                let remaining = deadline.since(clock::now());
                (
                    if remaining.is_zero() {
                        "stopping"
                    } else {
                        "leader"
                    },
                    remaining,
                )
            }
            Role::Follower => ("follower", Duration::ZERO),
            _ => ("stopping", Duration::ZERO),
        };
        let answers = self.record().answers();
        self.metrics.encode(&Instant {
            role,
            remaining,
            answers,
        })
    }

    /// Whether etcd answers.
    pub fn etcd_answers(&self) -> bool {
        self.record().answers()
    }

    /// Nothing that is done under the lock can leave it half done.
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn answers(&self) -> bool {
        self.answers == Some(true)
    }
}

impl Transition {
    fn tell(&self) -> Map<String, Value> {
        let mut told = self.told.clone();
        told.insert("at".to_owned(), date(Some(self.at)));
        told
    }
}

/// In seconds, to the millisecond.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Cluster,
        protocol::{FencingToken, LeaseId, LossReason, Term},
    };

    const TERM: Term = Term {
        token: FencingToken::new(1),
        lease: LeaseId::new(1),
    };

    fn standing(role: Role) -> (watch::Sender<Status>, Standing) {
        let cluster = Cluster::new(vec!["127.0.0.1:1".parse().unwrap()]).unwrap();
        let config = Config::new("one".parse().unwrap(), cluster);
        let (sender, status) = watch::channel(Status {
            role,
            leader: None,
            acting: None,
            endpoint: 0,
        });
        (sender, Standing::new(&config, status))
    }

    #[test]
    fn whoever_acts_past_its_deadline_does_not_lead_and_is_not_alive() {
        let (soon, past) = (clock::now() + Duration::from_mins(1), clock::now());
        let leader = |deadline| {
            standing(Role::Leader {
                term: TERM,
                deadline,
            })
        };
        let stopping = |by| {
            let reason = LossReason::NotRenewed;
            standing(Role::Stopping {
                term: TERM,
                by,
                reason,
            })
        };
        for ((_election, standing), leads, lives) in [
            (leader(soon), true, true),
            (leader(past), false, false),
            (stopping(soon), false, true),
            (stopping(past), false, false),
            (standing(Role::Follower), false, true),
        ] {
            assert_eq!(standing.leads(), leads);
            assert!(standing.died().is_none(), "it may have been paused");
            let before = Moment::from_origin(Duration::ZERO);
            let mut record = standing.record();
            record.late_since = record.late_since.map(|_| before);
            drop(record);
            assert_eq!(standing.died().is_none(), lives);
        }
    }

    #[test]
    fn an_election_that_has_died_is_not_alive_and_one_that_has_withdrawn_is() {
        for (role, lives) in [(Role::Follower, false), (Role::Withdrawn, true)] {
            let (election, standing) = standing(role);
            drop(election);
            assert_eq!(standing.died().is_none(), lives);
        }
    }
}
