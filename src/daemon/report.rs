//! Logs what happens in the election.

use super::render::{
    AUTHENTICATION_OFF, HISTORY_WENT_BACK, endpoint_failure, failure_reason, loss_reason,
};
use crate::{
    clock,
    config::Config,
    printable::Printable,
    protocol::{ElectionKey, Event, FailOverLimit, FencingToken, LossReason, Moment, Term},
    record::{DoneRecord, SeatRecord},
    wall_clock,
};
use std::time::Duration;
use tracing::{debug, info, warn};

/// How often the renewal of a term with a fail-over limit is logged at most.
const RENEWALS_LOGGED_EVERY: Duration = Duration::from_millis(900);

/// Logs the events of one candidate.
///
/// The lines of the original demo stay as they are: "New leader election happening.", "new election",
/// "I am the leader.", "I am a follower.", "LEADERSHIP CHANGE REQUIRED" and "Refreshing lease; still
/// the leader."
pub(super) struct Reporter {
    name: String,
    endpoints: Vec<String>,
    leader_key: String,
    acting_key: String,
    ttl_requested: Duration,
    ttl: Duration,
    /// The job that runs once.
    job: String,
    wait: Option<Duration>,
    /// Whether the line about giving up the lease is logged.
    has_released: bool,
    /// The fail-over limit of this replica's last term.
    fail_over: Option<FailOverLimit>,
    /// The term whose renewal was logged last, and when that was sent.
    renewal_logged: Option<(Term, Moment)>,
}

impl Reporter {
    pub fn new(name: String, endpoints: Vec<String>, config: &Config) -> Self {
        let printable = |key: &str| Printable(key.as_bytes()).to_string();
        let ttl = config.ttl().as_duration();
        Self {
            name,
            endpoints,
            leader_key: printable(config.leader_key().as_str()),
            acting_key: printable(&config.leader_key().acting()),
            ttl_requested: ttl,
            ttl,
            job: config
                .job()
                .map_or_else(String::new, |job| printable(job.as_str())),
            wait: config.wait(),
            has_released: false,
            fail_over: None,
            renewal_logged: None,
        }
    }

    /// Logs an event, if it concerns a user.
    pub fn report(&mut self, event: Event) {
        if let Event::Renewed { term, sent, .. } = event
            && !self.is_worth_a_line(term, sent)
        {
            return;
        }
        let name = self.name.as_str();
        match event {
            Event::Granted { lease, ttl } => {
                if ttl != self.ttl {
                    let (asked, granted) = (self.ttl_requested.as_secs(), ttl.as_secs());
                    warn!(
                        name,
                        ttl = granted,
                        "etcd granted a lease of {granted} s where {asked} s were asked for: \
                         fail-over takes that long"
                    );
                    self.ttl = ttl;
                }
                debug!(name, %lease, ttl = ttl.as_secs(), "Granted a lease.");
            }
            Event::Campaigning { again } => {
                if again {
                    info!(name, "new election");
                }
                info!(name, "New leader election happening.");
            }
            Event::Leading {
                term,
                deadline,
                fail_over,
                ..
            } => self.report_leading(term, deadline, fail_over),
            Event::Following { leader } => {
                let token = leader.mod_revision;
                let lease = leader.lease.map(tracing::field::display);
                let leader = Printable(&leader.value).to_string();
                info!(name, leader, token, lease, "I am a follower.");
            }
            Event::SomebodyStillActs => {
                info!(
                    name,
                    "Nobody leads, but somebody may still be acting; waiting."
                );
            }
            Event::LeaderGone => info!(name, "LEADERSHIP CHANGE REQUIRED"),
            // The same: the line would be untrue by now.
            Event::Renewed { deadline, .. } if clock::now() >= deadline => {}
            Event::Renewed { term, deadline, .. } => info!(
                target: "leader_election::refresh",
                name,
                leader = name,
                token = term.token.get(),
                lease = %term.lease,
                ttl = self.ttl.as_secs(),
                acts_until = acts_until(deadline),
                "Refreshing lease; still the leader."
            ),
            Event::LeaseGone { lease } => {
                info!(name, %lease, "The lease is gone; asking for another.");
            }
            Event::Lost {
                reason: LossReason::Withdrawn,
                ..
            } => {}
            Event::Lost { term, reason } => {
                let key = |key| format!("key '{key}'");
                let reason = loss_reason(reason, &key(&self.leader_key), &key(&self.acting_key));
                let (token, lease) = (term.token.get(), term.lease);
                info!(name, token, %lease, reason, "No longer the leader: {reason}.");
            }
            Event::Challenging => debug!(
                name,
                "The leader may have failed; challenging it, and taking over if it does not respond."
            ),
            Event::ChallengeAnswered => debug!(
                name,
                "The leader has responded to the challenge; still a follower."
            ),
            Event::SeatsDenied { .. } | Event::HandedOver { .. } => self.report_seats(&event),
            Event::Releasing { lease, led } => {
                self.has_released = true;
                let what = if led { "the leader" } else { "a candidate" };
                info!(name, %lease, "Revoking lease; no longer {what}.");
            }
            Event::Withdrawn { left_behind: None } if !self.has_released => {
                info!(name, "No longer a candidate.");
            }
            Event::AnsweredAgain { endpoint } => {
                let endpoint = &self.endpoints[endpoint];
                info!(name, endpoint, "etcd at '{endpoint}' responds again.");
            }
            Event::JobDone { .. } | Event::Recorded { .. } | Event::GaveUp { .. } => {
                self.report_end(event);
            }
            other => self.warn(&other),
        }
    }

    /// Logs that a term has begun.
    fn report_leading(&mut self, term: Term, deadline: Moment, fail_over: Option<FailOverLimit>) {
        self.fail_over = fail_over;
        // This process was held up, and the term is over already; the next event says why.
        if clock::now() >= deadline {
            return;
        }
        let name = self.name.as_str();
        info!(
            name,
            leader = name,
            token = term.token.get(),
            lease = %term.lease,
            ttl = self.ttl.as_secs(),
            acts_until = acts_until(deadline),
            fail_over_ms = fail_over.map(FailOverLimit::as_millis),
            "I am the leader."
        );
    }

    /// Returns true iff a renewal of this term is to be logged: with a fail-over limit, if the last line is a second old.
    fn is_worth_a_line(&mut self, term: Term, sent: Moment) -> bool {
        if self.fail_over.is_none() {
            return true;
        }
        let last = self.renewal_logged.filter(|(of, _)| *of == term);
        // A pace of a second is not to be halved because a timer was late once.
        let is_due = last.is_none_or(|(_, last)| sent.since(last) >= RENEWALS_LOGGED_EVERY);
        if is_due {
            self.renewal_logged = Some((term, sent));
        }
        is_due
    }

    /// Logs what concerns the candidates' seats.
    fn report_seats(&self, event: &Event) {
        let name = self.name.as_str();
        match event {
            // An earlier version needs no more than that.
            Event::SeatsDenied { failure } => {
                let (key, reason) = (&self.leader_key, failure_reason(failure));
                info!(
                    name,
                    reason,
                    "etcd permits only '{key}' and '{key}/acting': this replica is not listed as a \
                     candidate and keeps no history, and when it stops, all replicas campaign. To \
                     change that, permit reading and writing the prefix '{key}/'."
                );
            }
            Event::HandedOver { term, to } => {
                let successor = SeatRecord::decode(&to.entry.value).name.unwrap_or_default();
                let successor = Printable(successor.as_bytes()).to_string();
                let (token, seat) = (term.token.get(), to.number);
                info!(name, token, successor, %seat, "Handed over to '{successor}'.");
            }
            _ => {}
        }
    }

    /// Logs why this replica withdraws on its own.
    fn report_end(&self, event: Event) {
        let name = self.name.as_str();
        match event {
            Event::JobDone { record } => {
                let job = self.job.as_str();
                let DoneRecord {
                    name: by,
                    token,
                    at,
                } = DoneRecord::decode(&record.value);
                let by = by.map_or("somebody".to_owned(), |by| {
                    format!("'{}'", Printable(by.as_bytes()))
                });
                let at = at.map(|at| humantime::format_rfc3339_seconds(at).to_string());
                let when = at
                    .as_deref()
                    .map_or_else(String::new, |at| format!(" at {at}"));
                let token = token.map(FencingToken::get);
                info!(
                    name,
                    job,
                    by,
                    at,
                    token,
                    "'{job}' was completed by {by}{when}; there is nothing left to do."
                );
            }
            Event::Recorded { .. } => {
                let job = self.job.as_str();
                info!(name, job, "'{job}' is recorded as done.");
            }
            Event::GaveUp { leader, has_led } => {
                let wait = self.wait.unwrap_or_default();
                let wait = humantime::format_duration(wait).to_string();
                let in_time = if self.wait == Some(Duration::ZERO) {
                    if has_led { "again" } else { "at once" }.to_owned()
                } else {
                    format!("within {wait}")
                };
                let leader = leader.map(|leader| Printable(&leader.value).to_string());
                let leads = match &leader {
                    Some(leader) => format!("; '{leader}' leads"),
                    None => String::new(),
                };
                info!(
                    name,
                    wait, leader, "This replica was not elected {in_time}{leads}. Giving up."
                );
            }
            _ => {}
        }
    }

    /// Logs an event that is a warning.
    fn warn(&self, event: &Event) {
        let name = self.name.as_str();
        match event {
            Event::KeyWithoutLease { key } => {
                let key = match key {
                    ElectionKey::Leader => &self.leader_key,
                    ElectionKey::Acting => &self.acting_key,
                };
                warn!(
                    name,
                    key,
                    "The key '{key}' is bound to no lease, so that nobody can be elected until \
                     somebody deletes it."
                );
            }
            Event::HistoryWentBack => warn!(name, "{HISTORY_WENT_BACK}; starting afresh."),
            Event::Unanswered { endpoint, failure } => {
                let endpoint = &self.endpoints[*endpoint];
                let reason = failure_reason(failure);
                let failure = endpoint_failure(endpoint, failure);
                let until = match self.wait {
                    None => "that changes",
                    Some(_) => "the wait is over",
                };
                warn!(
                    name,
                    endpoint, reason, "{failure}; trying again until {until}."
                );
            }
            Event::RecordRefused { endpoint, failure } => {
                let (job, endpoint) = (self.job.as_str(), &self.endpoints[*endpoint]);
                let reason = failure_reason(failure);
                let failure = endpoint_failure(endpoint, failure);
                warn!(
                    name,
                    job,
                    endpoint,
                    reason,
                    "'{job}' is completed, but cannot be recorded: {failure}; trying again for as \
                     long as the term lasts."
                );
            }
            Event::AuthenticationOff => {
                warn!(name, "{AUTHENTICATION_OFF}.");
            }
            Event::OutdatedEtcd { version } => {
                let version = Printable(version.as_bytes()).to_string();
                warn!(
                    name,
                    version,
                    "etcd {version} may return stale data after a pause, so that two leaders could \
                     overlap; 3.4.42, 3.5.28, 3.6.9 and later do not."
                );
            }
            Event::Withdrawn {
                left_behind: Some(lease),
            } => {
                let ttl = self.ttl.as_secs();
                warn!(
                    name,
                    %lease,
                    ttl,
                    "The lease {lease} could not be revoked; it ends by itself within {ttl} s."
                );
            }
            _ => {}
        }
    }
}

/// Returns the deadline in the format of the log's own times, so that the two can be compared.
fn acts_until(deadline: Moment) -> String {
    let left = deadline.since(clock::now());
    humantime::format_rfc3339_micros(wall_clock::now() + left).to_string()
}
