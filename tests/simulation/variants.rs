//! Wrong variants of the protocol: what goes wrong without each of its rules.
//!
//! A variant is a patch to a copy of `src/protocol`: nothing in the code that ships knows of it.
//! Each edit names the function that it changes.

use crate::{
    challenge_variants::CHALLENGE_VARIANTS,
    job_variants::JOB_VARIANTS,
    patch::{Edit, edit},
    seat_variants::SEAT_VARIANTS,
    yielding_variants::YIELDING_VARIANTS,
};
use simulation::Mix;

/// A wrong variant.
pub struct Variant {
    /// What is wrong with it.
    pub name: &'static str,
    /// The faults that bring it to light soonest.
    pub mix: Mix,
    /// Some words of the violation by which it must come to light; with `|` between them, of any of several that
    /// it leads to.
    pub violation: &'static str,
    /// How it differs.
    pub edits: &'static [Edit],
}

impl Variant {
    /// Returns true iff this is a violation by which the variant must come to light.
    pub fn is_shown_by(&self, violation: &str) -> bool {
        let mut possible = self.violation.split('|');
        possible.any(|words| violation.contains(words))
    }
}

const MACHINE: &str = "protocol.rs";
const ACTING_ALONE: &str = "protocol/acting_alone.rs";
const ANSWERS: &str = "protocol/answers.rs";
const ATTEMPTS: &str = "protocol/attempts.rs";
const CALLS: &str = "protocol/calls.rs";
const FAILURES: &str = "protocol/failures.rs";
const RELEASE: &str = "protocol/release.rs";
const ROTATION: &str = "protocol/rotation.rs";
const RULES: &str = "protocol/rules.rs";
const TIMING: &str = "protocol/timing.rs";
const TRANSACTION: &str = "protocol/transaction.rs";
const VIEW: &str = "protocol/view.rs";

/// Returns all variants, in the order of the table in `docs/protocol.md`.
pub fn all() -> impl Iterator<Item = &'static Variant> {
    let later = SEAT_VARIANTS
        .iter()
        .chain(YIELDING_VARIANTS)
        .chain(CHALLENGE_VARIANTS);
    VARIANTS.iter().chain(JOB_VARIANTS).chain(later)
}

const VARIANTS: &[Variant] = &[
    Variant {
        name: "The deadline counts from the answer, not from the send",
        mix: Mix::Late,
        violation: "acts without leader/acting",
        edits: &[edit(ANSWERS, "accept_answer", "sent + lease.timing.term_of_try()", "now + lease.timing.term_of_try()")],
    },
    Variant {
        name: "There is no margin for clock drift",
        mix: Mix::Late,
        violation: "acts without leader/acting",
        edits: &[edit(TIMING, "term_of_try", "self.ttl.saturating_sub(self.margin())", "self.ttl")],
    },
    Variant {
        name: "The keepalive alone renews",
        mix: Mix::Former,
        violation: "acts without leader/acting",
        edits: &[edit(
            ANSWERS,
            "handle_keepalive",
            "call.kept_alive = Some(kept_alive);",
            "call.kept_alive = Some(kept_alive);
             let (sent, lease) = (call.sent, call.lease().unwrap_or(super::LeaseId::new(0)));
             if matches!(self.state, State::Leader(_)) {
                 let shows = self.known.as_ref().and_then(|known| known.token(lease));
                 let transacted = Transacted { raft_term: 0, outdated: false, shows, is_unchallenged: false };
                 self.accept_answer(now, sent, kept_alive, transacted);
             }",
        )],
    },
    Variant {
        name: "The read alone renews",
        mix: Mix::Late,
        violation: "acts without leader/acting",
        edits: &[
            edit(
                ANSWERS,
                "handle_transaction",
                "self.judge_answer(now, sent);",
                "self.judge_answer(now, sent);
                 if matches!(self.state, State::Leader(_)) {
                     if let Some(transacted) = self.calls.get(id).and_then(|call| call.transacted) {
                         self.accept_answer(now, sent, KeptAlive { ttl: i64::MAX, raft_term: 0 }, transacted);
                     }
                 }",
            ),
        ],
    },
    Variant {
        name: "A try's two answers may come from two raft terms",
        mix: Mix::Former,
        violation: "acts without leader/acting",
        edits: &[edit(ANSWERS, "complete_try", "if kept_alive.raft_term != transacted.raft_term {", "if kept_alive.raft_term != transacted.raft_term && kept_alive.ttl <= 0 {")],
    },
    Variant {
        name: "A try that times out leaves its stream: a late answer is credited to a later send",
        mix: Mix::Late,
        violation: "acts without leader/acting",
        edits: &[
            edit(CALLS, "use_stream", "self.stream.take() != Some(lease)", "self.stream != Some(lease)"),
            edit(CALLS, "pass_over_try", "self.link = Link::Late { endpoint };", "self.link = Link::Up { endpoint, has_answered: true };"),
        ],
    },
    Variant {
        name: "The watch begins now, not after the revision that was read",
        mix: Mix::Calm,
        violation: "nobody takes over|leads on without leader",
        edits: &[edit(ANSWERS, "handle_transaction", "self.watch_if_needed(first_unseen, &seen);", "self.watch_if_needed(0, &seen);")],
    },
    Variant {
        name: "An answer after the deadline revives the term",
        mix: Mix::Late,
        violation: "revives a term",
        edits: &[edit(MACHINE, "handle", "self.expire(now); match input {", "match input {")],
    },
    Variant {
        name: "The winner acts, even past the deadline",
        mix: Mix::Late,
        violation: "begins a term past its deadline",
        edits: &[
            edit(ANSWERS, "accept_answer", "if both && shows == Some(token) && is_unchallenged && in_time {", "if both {"),
            edit(CALLS, "start", "until: now + limit,", "until: now + 10 * limit,"),
        ],
    },
    Variant {
        name: "A candidate campaigns while leader/acting is still there",
        mix: Mix::Swarm,
        violation: "acts without leader/acting",
        edits: &[
            edit(TRANSACTION, "campaign", "acting: Guard::Absent,", "acting: Guard::Ignored,"),
            edit(VIEW, "both_absent", "self.leader.is_none() && self.acting.is_none()", "self.leader.is_none()"),
        ],
    },
    Variant {
        name: "The lease is released before what acts has stopped",
        mix: Mix::Swarm,
        violation: "",
        edits: &[edit(
            RULES,
            "plan_stop",
            "self.events.push_back(Event::Lost { term, reason });",
            "self.events.push_back(Event::Lost { term, reason });
             self.give_up(now, tenure.lease);",
        )],
    },
    Variant {
        name: "A lease is campaigned with again after its term",
        mix: Mix::Swarm,
        violation: "begins a term with token",
        edits: &[edit(
            RELEASE,
            "handle_stopped",
            "self.give_up_in_steps(now, lease, step);",
            "let _ = step; self.state = State::Follower {
                 candidacy: super::Candidacy { lease, answered: now, follows_lost_lease: false },
                 question: super::Question::Campaign,
                 acting_alone: None,
             };",
        )],
    },
    Variant {
        name: "A child is killed at the deadline, not before",
        mix: Mix::Children,
        violation: "acts without leader/acting",
        edits: &[edit(TIMING, "kill_at", "deadline - self.time_to_kill()", "deadline")],
    },
    Variant {
        name: "A child is asked to stop at the deadline, not a grace before",
        mix: Mix::Children,
        violation: "acts without leader/acting",
        edits: &[edit(TIMING, "stop_from", "deadline - self.grace", "deadline")],
    },
    Variant {
        // In the simulator a lease's id shows to whom it was granted, like a name in a value.
        name: "A key with the candidate's own name is taken for its own",
        mix: Mix::Swarm,
        violation: "",
        edits: &[
            edit(
                VIEW,
                "bound_to",
                "entry.lease == Some(lease)",
                "entry.lease.is_some_and(|own| own.get() >> 32 == lease.get() >> 32)",
            ),
            edit(
                VIEW,
                "acting_token",
                "acting.lease == Some(lease)",
                "acting.lease.is_some_and(|own| own.get() >> 32 == lease.get() >> 32)",
            ),
        ],
    },
    Variant {
        name: "A won campaign whose answer was lost goes unnoticed",
        mix: Mix::Late,
        violation: "nobody acts by them",
        edits: &[
            edit(
                RULES,
                "judge_answer",
                "(State::Follower { mut candidacy, .. }, Some(token)) => {",
                "(State::Follower { mut candidacy, .. }, Some(token)) if self.calls.is_campaigning() => {",
            ),
            edit(
                RULES,
                "judge_answer",
                "(State::Elected { token, .. }, Some(same)) if",
                "(State::Follower { .. }, Some(_)) => {}
                 (State::Elected { token, .. }, Some(same)) if",
            ),
            edit(
                CALLS,
                "",
                "pub fn granting(",
                "pub fn is_campaigning(&self) -> bool {
                     matches!(self.current, Some(call) if matches!(call.kind, CallKind::Try { transaction, .. } if transaction.writes()))
                 }

                 pub fn granting(",
            ),
        ],
    },
    Variant {
        name: "Half a pair of keys of one's own is kept alive",
        mix: Mix::Swarm,
        violation: "",
        edits: &[edit(
            RULES,
            "judge_answer",
            "(State::Follower { .. } | State::Elected { .. }, _) => self.start_afresh(now, lease),",
            "(State::Follower { .. } | State::Elected { .. }, _) => {}",
        )],
    },
    Variant {
        name: "Elected, never renewed, and kept alive for ever",
        mix: Mix::Deaf,
        violation: "nobody acts by them",
        edits: &[
            edit(
                RULES,
                "expire_state",
                "if now >= candidacy.expires() || now >= candidacy.must_act_by(seen) =>",
                "if now < seen =>",
            ),
            edit(
                MACHINE,
                "poll_timeout",
                "} => Some(candidacy.expires().min(candidacy.must_act_by(seen))),",
                "} => (seen < candidacy.answered).then_some(seen),",
            ),
        ],
    },
    Variant {
        name: "A follower that hears no answers keeps its lease for ever",
        mix: Mix::Deaf,
        violation: "nobody acts by them",
        edits: &[
            edit(
                RULES,
                "expire_state",
                "State::Follower { candidacy, .. } if now >= candidacy.expires() => {",
                "State::Follower { candidacy, .. } if now < candidacy.answered => {",
            ),
            edit(
                MACHINE,
                "poll_timeout",
                "State::Follower { candidacy, .. } => Some(candidacy.expires()),",
                "State::Follower { .. } => None,",
            ),
        ],
    },
    Variant {
        name: "\"History went back\" is judged by what is known when the answer comes",
        mix: Mix::People,
        violation: "history went back",
        edits: &[edit(
            ANSWERS,
            "handle_transaction",
            "let went_back = call.revision_before.is_some_and(|before| view.revision < before);",
            "let went_back = known.is_some_and(|known| view.revision < known.revision());",
        )],
    },
    Variant {
        name: "A history that went back goes unnoticed",
        mix: Mix::Histories,
        violation: "questions in a second",
        edits: &[edit(ANSWERS, "handle_transaction", "if other_cluster || went_back {", "if other_cluster && went_back && now < call.sent {")],
    },
    Variant {
        name: "Events that are older than what is known are believed",
        mix: Mix::People,
        violation: "untrue",
        edits: &[edit(VIEW, "apply", "if revision <= *as_of {", "if revision < 0 {")],
    },
    Variant {
        name: "Word that what acts has stopped counts for any term",
        mix: Mix::Swarm,
        violation: "",
        edits: &[
            edit(RELEASE, "handle_stopped", "if tenure.term == stopped => (tenure", "if tenure.term.token >= stopped.token => (tenure"),
            edit(RELEASE, "handle_stopped", "if term == stopped => {", "if term.token >= stopped.token => {"),
        ],
    },
    Variant {
        name: "A planned stop is renewed for as long as it takes",
        mix: Mix::People,
        violation: "nobody acts by them",
        edits: &[
            edit(RULES, "expire_state", "if now >= by => self.lose(now, reason, by),", "if now > by && by > now => self.lose(now, reason, by),"),
            edit(MACHINE, "poll_timeout", "tenure.stop_from().min(by)", "tenure.stop_from().min(tenure.deadline.at().max(by))"),
        ],
    },
    Variant {
        name: "Losing leader/acting is taken for a wish to stop",
        mix: Mix::People,
        violation: "may go on though",
        edits: &[edit(
            RULES,
            "judge_term",
            "self.lose(now, reason, now);",
            "self.plan_stop(now, reason);",
        )],
    },
    Variant {
        name: "The token is the revision of the answer, not leader's mod_revision",
        mix: Mix::Late,
        violation: "is no revision of a win",
        edits: &[edit(
            RULES,
            "begin_term",
            "let term = Term { token,",
            "let revision = self.known.as_ref().map_or(token.get(), super::Known::revision);
             let term = Term { token: FencingToken::new(revision),",
        )],
    },
    Variant {
        name: "A read that leads to a refused campaign resets the back-off",
        mix: Mix::Swarm,
        violation: "questions in a second",
        edits: &[edit(
            ANSWERS,
            "complete_try",
            "if wrote || !writes_next {",
            "if wrote || !writes_next || true {",
        )],
    },
    Variant {
        name: "The same endpoint is asked again after a failure",
        mix: Mix::Endpoint,
        violation: "the lease was not renewed in time: untrue",
        edits: &[edit(ROTATION, "record_failure", "self.endpoint = (self.endpoint + 1) % self.endpoints;", "self.endpoint %= self.endpoints;")],
    },
    Variant {
        name: "A former etcd leader is believed that the lease is gone",
        mix: Mix::Former,
        violation: "the lease is gone: untrue",
        edits: &[edit(
            ANSWERS,
            "believes_lease_gone",
            "!matches!(self.state, State::Leader(_) | State::Stopping { .. })",
            "!matches!(self.state, State::Withdrawn)",
        )],
    },
    Variant {
        name: "A leader goes on though its leader key was deleted",
        mix: Mix::Calm,
        violation: "leads on without leader",
        edits: &[edit(RULES, "judge_term", "self.plan_stop(now, reason);", "let _ = reason;")],
    },
    Variant {
        name: "A leader that was asked to step down does not hold off",
        mix: Mix::Calm,
        violation: "does not hold off",
        edits: &[edit(RELEASE, "handle_stopped", "Some(now + lease.timing.hold_off())", "Some(now)")],
    },
    Variant {
        name: "A leader that was not renewed in time does not hold off",
        mix: Mix::Late,
        violation: "does not hold off",
        edits: &[edit(RELEASE, "handle_stopped", "reason == LossReason::NotRenewed", "false")],
    },
    Variant {
        name: "A candidate that could not begin to act does not hold off",
        mix: Mix::Deaf,
        violation: "does not hold off",
        edits: &[edit(
            RULES,
            "start_afresh_after_others",
            "self.hold_off_after_failure(now, lease);",
            "",
        )],
    },
    Variant {
        name: "A candidate that gets no answers does not hold off, though it may have been elected",
        mix: Mix::Deaf,
        violation: "does not hold off",
        edits: &[edit(
            RULES,
            "expire_state",
            "// It may have been elected, without a response that says so.\n                self.start_afresh_after_others(",
            "self.start_afresh(",
        )],
    },
    Variant {
        name: "Losing the keys ends the term at its deadline only",
        mix: Mix::People,
        violation: "may go on though",
        edits: &[edit(
            RULES,
            "judge_term",
            "self.lose(now, reason, now);",
            "self.lose(now, reason, now + self.timing().ttl());",
        )],
    },
    Variant {
        name: "A key that was written again under the term's own lease counts as its own",
        mix: Mix::People,
        violation: "",
        edits: &[edit(VIEW, "ownership_in", "entry.mod_revision == term.token.get()", "entry.mod_revision >= term.token.get()")],
    },
    Variant {
        name: "A watch is not opened again with a new connection",
        mix: Mix::Calm,
        violation: "",
        edits: &[
            edit(FAILURES, "disconnect", "self.watch = None;", ""),
            edit(ANSWERS, "handle_connected", "self.watch = None;", ""),
        ],
    },
    Variant {
        name: "A try may take twice as long",
        mix: Mix::Endpoint,
        violation: "the lease was not renewed in time: untrue",
        edits: &[edit(
            TIMING,
            "limit",
            "(self.span() / 5).min(Self::LONGEST_LIMIT)",
            "(self.span() / 5 * 2).min(Self::LONGEST_LIMIT * 2)",
        )],
    },
    Variant {
        name: "A withdrawal goes unheard while following",
        mix: Mix::Calm,
        violation: "asked to withdraw and has not",
        edits: &[edit(
            RELEASE,
            "withdraw",
            "if self.withdrawing.is_some() {",
            "if self.withdrawing.is_some() || matches!(self.state, State::Follower { .. }) {",
        )],
    },
    Variant {
        name: "A leadership that nobody takes is held for ever",
        mix: Mix::Idle,
        violation: "nobody acts by them",
        edits: &[edit(
            RULES,
            "begin_term",
            "take_back_at: Some(now + lease.timing.ttl()),",
            "take_back_at: (now > deadline.at()).then_some(deadline.at()),",
        )],
    },
    Variant {
        name: "The term of a candidate that was dropped goes on",
        mix: Mix::Idle,
        violation: "",
        edits: &[edit(MACHINE, "handle", "Input::Abandoned => self.handle_abandoned(now),", "Input::Abandoned => {}")],
    },
    Variant {
        name: "A dropped candidate's term waits for word that what acts has stopped",
        mix: Mix::Idle,
        violation: "",
        edits: &[edit(RELEASE, "handle_abandoned", "self.handle_stopped(now, term);", "let _ = term;")],
    },
    Variant {
        name: "An only endpoint that is slow is connected to once more",
        mix: Mix::Passwords,
        violation: "twice at once",
        edits: &[
            edit(ATTEMPTS, "patient_until", "if rotation.endpoints() == self.0.len() {", "if self.0.len() > 5 {"),
            edit(ATTEMPTS, "free_endpoint", "rotation.upcoming().find(is_free)", "rotation.upcoming().find(|it| is_free(it) || true)"),
        ],
    },
    Variant {
        name: "The next endpoint waits until a slow one has failed",
        mix: Mix::Endpoint,
        violation: "the lease was not renewed in time: untrue",
        edits: &[edit(ATTEMPTS, "patient_until", "if rotation.endpoints() == self.0.len() {", "if rotation.endpoints() >= self.0.len() {")],
    },
    Variant {
        name: "A connection that breaks after it has worked is an outage",
        mix: Mix::Calm,
        violation: "reports an outage: untrue",
        edits: &[edit(FAILURES, "fail_connection", "Some(FailureKind::Unreachable) if self.calls.has_answered() => {", "Some(FailureKind::Unreachable) if !self.calls.has_answered() => {")],
    },
    Variant {
        name: "That leader/acting stands alone is reported as soon as a watch shows it",
        mix: Mix::Handovers,
        violation: "may still be acting: untrue",
        edits: &[edit(
            ACTING_ALONE,
            "judge_acting_alone",
            "None if now < alone.lasts_from => self.calls.next_by(alone.lasts_from),",
            "None if now < alone.lasts_from => self.events.extend(self.reporter.somebody_still_acts()),",
        )],
    },
    Variant {
        name: "That leader/acting stands alone is reported by a read that was sent before it had time to go",
        mix: Mix::Handovers,
        violation: "may still be acting: untrue",
        edits: &[edit(ACTING_ALONE, "judge_acting_alone", "Some(sent) if sent >= alone.lasts_from => {", "Some(_) => {")],
    },
    Variant {
        name: "That leader/acting stands alone is found by the next periodic read",
        mix: Mix::Handovers,
        violation: "does not report that somebody may still be acting",
        edits: &[edit(
            ACTING_ALONE,
            "judge_acting_alone",
            "None if now < alone.lasts_from => self.calls.next_by(alone.lasts_from),",
            "None if now < alone.lasts_from => {}",
        )],
    },
    Variant {
        name: "A read that was sent too early to report that leader/acting stands alone is not repeated soon",
        mix: Mix::Handovers,
        violation: "does not report that somebody may still be acting",
        edits: &[edit(ACTING_ALONE, "next_try", "next.min(self.lasts_from)", "next")],
    },
    Variant {
        name: "The time for which one leader/acting has stood alone counts for the next one",
        mix: Mix::Handovers,
        violation: "may still be acting: untrue",
        edits: &[edit(
            ACTING_ALONE,
            "judge_acting_alone",
            "acting_alone.filter(|before| Some(before.mod_revision) == mod_revision)",
            "acting_alone.filter(|_| mod_revision.is_some())",
        )],
    },
    Variant {
        name: "A leader/acting that is newer than what is known of leader stands alone",
        mix: Mix::People,
        violation: "may still be acting: untrue",
        edits: &[edit(VIEW, "acting_alone", "(is_certain && !self.situation().is_led())", "(!self.situation().is_led())")],
    },
];
