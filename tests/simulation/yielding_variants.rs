//! Wrong variants of the rules about candidates that stand back, and leaders that yield.

use crate::{patch::edit, variants::Variant};
use simulation::Mix;

const ANSWERS: &str = "protocol/answers.rs";
const HANDOVER: &str = "protocol/handover.rs";
const RULES: &str = "protocol/rules.rs";
const YIELDING: &str = "protocol/yielding.rs";

pub const YIELDING_VARIANTS: &[Variant] = &[
    Variant {
        name: "A candidate that stands back campaigns",
        mix: Mix::Priorities,
        violation: "campaigns though it stands back",
        edits: &[edit(RULES, "choose_question", "&& !self.stands_back", "")],
    },
    Variant {
        name: "A candidate that stands back campaigns with a new lease",
        mix: Mix::Priorities,
        violation: "campaigns though it stands back",
        edits: &[edit(ANSWERS, "handle_grant", "|| self.stands_back", "")],
    },
    Variant {
        name: "A term is handed to a candidate that stands back",
        mix: Mix::Priorities,
        violation: "hands its term to a candidate that stands back",
        edits: &[edit(HANDOVER, "may_follow", "&& self.is_healthy", "")],
    },
    Variant {
        name: "A leader that stands back goes on leading",
        mix: Mix::Priorities,
        violation: "leads though it stands back",
        edits: &[edit(
            YIELDING,
            "stand_back",
            "State::Leader(_) => self.plan_stop(now, LossReason::StoodBack),",
            "",
        )],
    },
    Variant {
        name: "A candidate that stands back acts in a term that it has won",
        mix: Mix::Priorities,
        violation: "leads though it stands back",
        edits: &[edit(
            ANSWERS,
            "accept_answer",
            "if self.stands_back {",
            "if false {",
        )],
    },
    Variant {
        name: "A candidate that can lead again waits for its next read",
        mix: Mix::Priorities,
        violation: "does not campaign though it can lead again",
        edits: &[edit(
            YIELDING,
            "stand_forward",
            "self.campaign_soon(now);",
            "",
        )],
    },
    Variant {
        name: "A leader yields without the delay",
        mix: Mix::Priorities,
        violation: "yields too soon",
        edits: &[edit(
            YIELDING,
            "judge_rivals",
            "now.since(rival.since) >= delay",
            "now.since(rival.since) <= delay || rival.since <= now",
        )],
    },
    Variant {
        name: "An interruption does not restart the delay",
        mix: Mix::Priorities,
        violation: "yields too soon",
        edits: &[edit(
            YIELDING,
            "update",
            "rival.lease == lease && rival.mod_revision == mod_revision",
            "rival.lease == lease && rival.mod_revision <= mod_revision",
        )],
    },
    Variant {
        name: "The delay counts from when another candidate had a higher priority",
        mix: Mix::Priorities,
        violation: "yields too soon",
        edits: &[edit(
            YIELDING,
            "update",
            "rival.lease == lease && rival.mod_revision == mod_revision",
            "rival.lease != lease || rival.mod_revision == mod_revision",
        )],
    },
    Variant {
        name: "A leader yields though an operator has chosen it",
        mix: Mix::Priorities,
        violation: "yields though somebody has chosen it",
        edits: &[edit(YIELDING, "judge_rivals", "|| self.is_chosen()", "")],
    },
    Variant {
        name: "A leader yields to a candidate that is silent",
        mix: Mix::Priorities,
        violation: "yields to a candidate that is silent",
        edits: &[edit(
            YIELDING,
            "can_yield",
            "&& to.entry.lease == self.alive_until(now)",
            "",
        )],
    },
    Variant {
        name: "Two candidates of different priorities yield to each other",
        mix: Mix::Priorities,
        violation: "yields too soon",
        edits: &[
            edit(
                YIELDING,
                "judge_rivals",
                "seat.priority > own",
                "seat.priority != own",
            ),
            edit(
                YIELDING,
                "can_yield",
                "to.priority > self.settings.priority",
                "to.priority != self.settings.priority",
            ),
        ],
    },
    Variant {
        name: "A leader never yields",
        mix: Mix::Priorities,
        violation: "does not yield to a candidate with a higher priority|yields too soon",
        edits: &[edit(
            YIELDING,
            "judge_rivals",
            "if !self.rivals.waiting.iter().any(has_waited)",
            "if self.rivals.waiting.iter().any(has_waited) || self.rivals.waiting.is_empty()",
        )],
    },
];
