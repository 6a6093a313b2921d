//! Wrong variants of the rules about jobs that run once and limited waits.

use crate::{patch::edit, variants::Variant};
use simulation::Mix;

const JOB: &str = "protocol/job.rs";
const NEXT: &str = "protocol/next.rs";
const TRANSACTION: &str = "protocol/transaction.rs";
const WAITING: &str = "protocol/waiting.rs";

/// The variants, in the order of the table in `docs/protocol.md`.
pub const JOB_VARIANTS: &[Variant] = &[
    Variant {
        name: "A campaign does not require that the job has no record",
        mix: Mix::Jobs,
        violation: "begins a job that is recorded as done",
        edits: &[edit(
            NEXT,
            "transaction",
            "Question::Campaign => Transaction::campaign(lease),",
            "Question::Campaign => return Transaction::campaign(lease),",
        )],
    },
    Variant {
        name: "A job is recorded whether or not its term goes on",
        mix: Mix::Jobs,
        violation: "records a job without leader/acting",
        edits: &[edit(
            TRANSACTION,
            "put_in_term",
            "acting: Guard::Unchanged { mod_revision: term.token.get(), lease: term.lease, },",
            "acting: { let _ = term; Guard::Ignored },",
        )],
    },
    Variant {
        name: "A record without a response counts as not written",
        mix: Mix::Jobs,
        violation: "reports that its job is not recorded: untrue",
        edits: &[edit(
            JOB,
            "expire_recording",
            "may_exist: recording.may_exist(),",
            "may_exist: false,",
        )],
    },
    Variant {
        name: "A record that is refused once counts as not written",
        mix: Mix::Jobs,
        violation: "reports that its job is not recorded: untrue",
        edits: &[edit(
            JOB,
            "refuse_record",
            "recording.unresolved = recording.unresolved.saturating_sub(1);",
            "recording.unresolved = 0;",
        )],
    },
    Variant {
        name: "A refused record counts as not carried out",
        mix: Mix::Jobs,
        violation: "reports that its job is not recorded: untrue",
        edits: &[edit(
            JOB,
            "refuse_record",
            "if failure.kind == FailureKind::Denied {",
            "if failure.is_permanent() {",
        )],
    },
    Variant {
        name: "A response to what was asked before the term shows that the term is over",
        mix: Mix::Jobs,
        violation: "does not record its job though its term goes on|reports that its job is not recorded: untrue",
        edits: &[edit(
            JOB,
            "judge_job",
            "if sent >= recording.since && !seen",
            "if !seen",
        )],
    },
    Variant {
        name: "The term ends before the job is recorded",
        mix: Mix::Jobs,
        violation: "does not record its job though its term goes on",
        edits: &[edit(
            JOB,
            "handle_completed",
            "_ => self.calls.next_soon(),",
            "_ => self.handle_stopped(now, completed),",
        )],
    },
    Variant {
        name: "A record is sent once, and never again",
        mix: Mix::Jobs,
        violation: "nobody acts though nothing has failed|goes on holding keys",
        edits: &[edit(
            JOB,
            "",
            "if self.was_refused {",
            "if self.was_refused || self.unresolved > 0 {",
        )],
    },
    Variant {
        name: "A follower does not look for the record of its job",
        mix: Mix::Jobs,
        violation: "questions in a second|does not find that its job is done",
        edits: &[edit(
            JOB,
            "judge_job",
            "if !completed && (in_term || self.withdrawing.is_some()) {",
            "if !completed && (in_term || self.withdrawing.is_some() || self.look.is_none()) {",
        )],
    },
    Variant {
        name: "A candidate does not ask whether it may record its job",
        mix: Mix::Jobs,
        violation: "asks for a lease before it has looked",
        edits: &[edit(
            JOB,
            "next",
            "Self::Keys if settings.runs_once => Some(Self::Permission)",
            "Self::Keys if settings.runs_once => None",
        )],
    },
    Variant {
        name: "A candidate that tries once asks for a lease at once",
        mix: Mix::Jobs,
        violation: "asks for a lease before it has looked",
        edits: &[edit(
            JOB,
            "first",
            "settings.runs_once || settings.tries_once()",
            "settings.runs_once",
        )],
    },
    Variant {
        name: "A candidate that tries once waits for others to stop",
        mix: Mix::Jobs,
        violation: "tries once, and waits",
        edits: &[edit(
            WAITING,
            "judge_wait",
            "self.settings.tries_once() && is_taken",
            "self.settings.tries_once() && is_taken && !looks",
        )],
    },
    Variant {
        name: "A follower waits for as long as it takes",
        mix: Mix::Jobs,
        violation: "waits for too long",
        edits: &[edit(
            WAITING,
            "wait_timeout",
            "State::Unleased { .. } | State::Follower { .. } | State::Elected { .. }",
            "State::Unleased { .. }",
        )],
    },
    Variant {
        name: "A wait goes on in a term",
        mix: Mix::Jobs,
        violation: "gives up too soon",
        edits: &[edit(
            WAITING,
            "wait_timeout",
            ".filter(|_| waits && self.withdrawing.is_none())",
            ".filter(|_| (waits || self.state.lease().is_some()) && self.withdrawing.is_none())",
        )],
    },
];
