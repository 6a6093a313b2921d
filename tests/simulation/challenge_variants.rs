//! Wrong variants of the rules about challenges and take-overs.

use crate::{
    patch::{Edit, edit},
    variants::Variant,
};
use simulation::Mix;

const ANSWERS: &str = "protocol/answers.rs";
const CHALLENGE: &str = "protocol/challenge.rs";
const HANDOVER: &str = "protocol/handover.rs";
const MACHINE: &str = "protocol.rs";
const NEXT: &str = "protocol/next.rs";
const RULES: &str = "protocol/rules.rs";
const SUSPICION: &str = "protocol/suspicion.rs";
const TIMING: &str = "protocol/timing.rs";
const TRANSACTION: &str = "protocol/transaction.rs";
const VIEW: &str = "protocol/view.rs";

const ACTS_ALONE: &str = "acts without leader/acting|two act";

const fn rivals(name: &'static str, violation: &'static str, edits: &'static [Edit]) -> Variant {
    Variant {
        name,
        mix: Mix::Rivals,
        violation,
        edits,
    }
}

const fn quick(name: &'static str, violation: &'static str, edits: &'static [Edit]) -> Variant {
    Variant {
        name,
        mix: Mix::Quick,
        violation,
        edits,
    }
}

pub const CHALLENGE_VARIANTS: &[Variant] = &[
    rivals(
        "A leader acts for a whole limit",
        ACTS_ALONE,
        &[edit(TIMING, "acts_for", "self.0 * 9 / 10", "self.0")],
    ),
    rivals(
        "A follower waits for one limit",
        ACTS_ALONE,
        &[edit(
            TIMING,
            "take_over_after",
            "self.0 * 11 / 10",
            "self.0",
        )],
    ),
    rivals(
        "The limit counts from the response, not from the send",
        ACTS_ALONE,
        &[edit(
            ANSWERS,
            "handle_transaction",
            "self.record_unchallenged(sent)",
            "self.record_unchallenged(now)",
        )],
    ),
    rivals(
        "The wait counts from when the challenge was sent",
        ACTS_ALONE,
        &[edit(
            SUSPICION,
            "judge_challenge",
            "due: now + limit.take_over_after()",
            "due: sent + limit.take_over_after()",
        )],
    ),
    rivals(
        "A take-over requires nothing of the challenge",
        ACTS_ALONE,
        &[edit(
            TRANSACTION,
            "take_over",
            "            challenge,\n",
            "            challenge: if true { Guard::Ignored } else { challenge },\n",
        )],
    ),
    rivals(
        "A take-over requires nothing of leader/acting",
        "acts without leader/acting|two act|takes over what may not be taken over",
        &[edit(
            TRANSACTION,
            "take_over",
            "acting: Guard::standing(acting)",
            "acting: if true { Guard::Ignored } else { Guard::standing(acting) }",
        )],
    ),
    rivals(
        "A take-over requires nothing of leader",
        "takes over what may not be taken over",
        &[edit(
            TRANSACTION,
            "take_over",
            "leader: leader.map_or(Guard::Absent, Guard::standing)",
            "leader: if true { Guard::Ignored } else { leader.map_or(Guard::Absent, Guard::standing) }",
        )],
    ),
    rivals(
        "A response that shows a challenge renews",
        ACTS_ALONE,
        &[edit(
            ANSWERS,
            "handle_transaction",
            "            if is_unchallenged {",
            "            if about_challenge {",
        )],
    ),
    rivals(
        "A response that shows a challenge begins a term",
        ACTS_ALONE,
        &[edit(
            ANSWERS,
            "accept_answer",
            "unchallenged.is_none() || transacted.is_unchallenged",
            "unchallenged.is_none() || transacted.is_unchallenged || sent <= now",
        )],
    ),
    rivals(
        "A follower waits by its own limit",
        ACTS_ALONE,
        &[edit(
            SUSPICION,
            "judge_challenge",
            "due: now + limit.take_over_after()",
            "due: now + self.settings.fail_over.unwrap_or(limit).take_over_after()",
        )],
    ),
    rivals(
        "A leader keeps to its own limit",
        ACTS_ALONE,
        &[edit(
            RULES,
            "judge_answer",
            "within(settings.fail_over)",
            "within(self.settings.fail_over.filter(|_| !settings.was_taken_over))",
        )],
    ),
    rivals(
        "Whatever holds leader is taken over",
        "takes over what may not be taken over",
        &[edit(
            VIEW,
            "may_be_taken_over",
            "leader.lease == acting.lease",
            "leader.lease == acting.lease || leader.mod_revision != 0",
        )],
    ),
    rivals(
        "A challenge that was written again goes on with the wait before it",
        ACTS_ALONE,
        &[edit(
            SUSPICION,
            "judge_challenge",
            "was_challenged.filter(|standing| standing.guard == guard)",
            "was_challenged.map(|standing| StandingChallenge { guard, ..standing })",
        )],
    ),
    rivals(
        "A leader without a limit is challenged",
        "challenges a leader without a limit|acts without leader/acting|two act",
        &[
            edit(
                VIEW,
                "may_be_taken_over",
                "acting.settings.fail_over?",
                "acting.settings.fail_over.unwrap_or(FailOverLimit::MIN)",
            ),
            edit(
                CHALLENGE,
                "is_about_challenge",
                "acting.settings.fail_over.is_some()",
                "acting.lease.is_some()",
            ),
        ],
    ),
    rivals(
        "The lease alone limits a term with a limit",
        ACTS_ALONE,
        &[edit(
            CHALLENGE,
            "at",
            "unchallenged.min(self.leased)",
            "unchallenged.max(self.leased)",
        )],
    ),
    rivals(
        "A response after the limit revives the term",
        "revives a term that was over|acts without leader/acting|two act",
        &[edit(MACHINE, "handle", "self.expire(now);", "")],
    ),
    rivals(
        "A leader that was asked to step down takes over at once",
        "does not hold off",
        &[edit(
            SUSPICION,
            "when_suspicion_asks",
            "until.max(due)",
            "due.min(until.max(due))",
        )],
    ),
    rivals(
        "A candidate that stands back challenges the leader",
        "though it stands back",
        &[edit(
            SUSPICION,
            "when_suspicion_asks",
            "self.stands_back || ",
            "",
        )],
    ),
    rivals(
        "A leader is challenged again and again",
        "challenges again too soon",
        &[edit(
            SUSPICION,
            "when_suspicion_asks",
            "last + limit.as_duration()",
            "last + limit.as_duration() / 4",
        )],
    ),
    quick(
        "A leader does not respond to a challenge",
        "the lease was not renewed in time: untrue",
        &[edit(
            CHALLENGE,
            "challenged_term",
            "self.known.as_ref()?.challenge()?;",
            "self.known.as_ref()?.challenge().filter(|_| false)?;",
        )],
    ),
    quick(
        "A leader that stops does not respond to a challenge",
        "questions in a second",
        &[edit(
            NEXT,
            "transaction",
            "_ if self.must_confirm() =>",
            "_ if self.must_confirm() && !matches!(self.state, State::Stopping { .. }) =>",
        )],
    ),
    quick(
        "A follower does not ask for the leader's lease",
        "nobody takes over from a leader that has crashed",
        &[edit(
            SUSPICION,
            "handle_poll",
            "&& time.is_silent(limit)",
            "&& false",
        )],
    ),
    quick(
        "A suspicion during a challenge is lost",
        "nobody takes over from a leader that has crashed",
        &[edit(
            SUSPICION,
            "suspect",
            "suspicion.doubts = Some(now);",
            "if suspicion.challenge.is_none() { suspicion.doubts = Some(now); }",
        )],
    ),
    quick(
        "A term is handed to the leader from which it was taken",
        "hands its term to a lease that has served one",
        &[
            edit(HANDOVER, "may_follow", "&& self.acts.is_none()", ""),
            edit(HANDOVER, "given_up", "own.chain(self.replaced())", "own"),
        ],
    ),
];
