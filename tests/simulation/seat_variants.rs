//! Wrong variants of the rules about seats, hand-overs and the release of keys.

use crate::{patch::edit, variants::Variant};
use simulation::Mix;

const ANSWERS: &str = "protocol/answers.rs";
const HANDOVER: &str = "protocol/handover.rs";
const NEXT: &str = "protocol/next.rs";
const REGISTRY: &str = "protocol/registry.rs";
const RELEASE: &str = "protocol/release.rs";
const RULES: &str = "protocol/rules.rs";
const SEAT: &str = "protocol/seat.rs";
const TRANSACTION: &str = "protocol/transaction.rs";

/// The variants, in the order of the table in `docs/protocol.md`.
pub const SEAT_VARIANTS: &[Variant] = &[
    Variant {
        name: "A term is handed over before what acts has stopped",
        mix: Mix::Handovers,
        violation: "acts without leader/acting",
        edits: &[
            edit(
                RULES,
                "plan_stop",
                "self.events.push_back(Event::Lost { term, reason });",
                "self.events.push_back(Event::Lost { term, reason });
                 let step = self.first_step(now, term);
                 self.begin_release(now, tenure.lease, step);",
            ),
            edit(
                RELEASE,
                "",
                "fn begin_release(",
                "pub(super) fn begin_release(",
            ),
        ],
    },
    Variant {
        name: "A hand-over requires nothing of leader/acting",
        mix: Mix::Late,
        violation: "hands over what is not its own",
        edits: &[edit(
            TRANSACTION,
            "hand_over",
            "acting: unchanged,",
            "acting: Guard::Ignored,",
        )],
    },
    Variant {
        name: "A hand-over overwrites leader whosever it is",
        mix: Mix::People,
        violation: "hands over what is not its own",
        edits: &[
            edit(
                TRANSACTION,
                "hand_over",
                "leader: if leader_stands { unchanged } else { Guard::Absent },",
                "leader: { let _ = leader_stands; Guard::Ignored },",
            ),
            edit(
                HANDOVER,
                "first_step",
                "if is_others || seats.is_none()",
                "if seats.is_none()",
            ),
            edit(
                HANDOVER,
                "proceed",
                "if is_last || is_others {",
                "if is_last {",
            ),
        ],
    },
    Variant {
        name: "A hand-over requires nothing of the successor's seat",
        mix: Mix::People,
        violation: "hands its term to a seat that has changed",
        edits: &[edit(
            TRANSACTION,
            "hand_over",
            "other_seat: Some((to.number, Guard::standing(&to.entry))),",
            "other_seat: Some((to.number, Guard::Ignored)),",
        )],
    },
    Variant {
        name: "A hand-over requires nothing of KEY/next",
        mix: Mix::Transfers,
        violation: "does not hand its term to the chosen candidate",
        edits: &[
            edit(
                TRANSACTION,
                "hand_over",
                "next: seats.next.as_ref().map_or(Guard::Absent, |next| Guard::standing(&next.entry)),",
                "next: Guard::Ignored,",
            ),
            edit(
                HANDOVER,
                "first_step",
                "if leader_stands || self.registry.is_known_since(known.leader_as_of()) {",
                "if leader_stands || known.leader_as_of() > 0 {",
            ),
        ],
    },
    Variant {
        name: "A refused hand-over counts as carried out",
        mix: Mix::Transfers,
        violation: "reports that its term was handed over: untrue",
        edits: &[
            edit(
                HANDOVER,
                "proceed",
                "(Ownership::Neither, Some(to)) => {",
                "(_, Some(to)) => {",
            ),
            edit(
                HANDOVER,
                "proceed",
                "let is_theirs = to.entry.lease.is_some_and(|lease| seen.token(lease).is_some());",
                "let is_theirs = true;",
            ),
        ],
    },
    Variant {
        name: "A choice for another term is obeyed",
        mix: Mix::Transfers,
        violation: "hands its term to another than the best candidate",
        edits: &[edit(
            SEAT,
            "chosen_for",
            "next.entry.lease.filter(|_| next.ends == Some(term))",
            "next.entry.lease.filter(|_| term.get() > 0)",
        )],
    },
    Variant {
        name: "A follower takes KEY/next for its election",
        mix: Mix::Transfers,
        violation: "is no revision of a win",
        edits: &[
            edit(
                RULES,
                "judge_answer",
                "let (ownership, token) = (known.ownership(lease.id), known.token(lease.id));",
                "let (ownership, token) = (known.ownership(lease.id), known.token(lease.id));
                 let next = self.registry.seats().and_then(|seats| seats.next.clone());
                 let names_me = next.is_some_and(|next| next.entry.lease == Some(lease.id));
                 let other = known.acting().map(|acting| FencingToken::new(acting.mod_revision));
                 let token = token.or(other.filter(|_| names_me));",
            ),
            edit(
                ANSWERS,
                "accept_answer",
                "if both && shows == Some(token) && is_unchallenged && in_time",
                "let _ = (both, shows); if in_time",
            ),
        ],
    },
    Variant {
        name: "A term is handed to a candidate that is silent",
        mix: Mix::Transfers,
        violation: "hands its term to a candidate that is silent",
        edits: &[edit(
            HANDOVER,
            "is_renewed",
            "self.remaining + self.granted / 3 + Duration::from_secs(1) >= self.granted",
            "self.remaining + self.granted + Duration::from_secs(1) >= self.granted",
        )],
    },
    Variant {
        name: "A sign of life does not grow old",
        mix: Mix::Transfers,
        violation: "hands its term to a candidate that is silent",
        edits: &[edit(
            HANDOVER,
            "alive_until",
            "time.is_renewed(then.since(asked))",
            "time.is_renewed(then.since(then.max(asked)))",
        )],
    },
    Variant {
        name: "A sign of life counts for every candidate",
        mix: Mix::Transfers,
        violation: "hands its term to a candidate that is silent",
        edits: &[edit(
            HANDOVER,
            "with_successor",
            "Some(to) if alive.is_some() && to.entry.lease == alive => {",
            "Some(to) if alive.is_some() => {",
        )],
    },
    Variant {
        name: "A term is handed to the candidate in the first seat",
        mix: Mix::Transfers,
        violation: "hands its term to another than the best candidate",
        edits: &[edit(
            SEAT,
            "in_order",
            "Reverse(seat.priority), seat.entry.create_revision, seat.number,",
            "Reverse(seat.priority), 0, seat.number,",
        )],
    },
    Variant {
        name: "A term is handed over whatever the priorities are",
        mix: Mix::Transfers,
        violation: "hands its term to another than the best candidate",
        edits: &[edit(SEAT, "in_order", "Reverse(seat.priority),", "")],
    },
    Variant {
        name: "The successor acts as soon as a watch shows both keys",
        mix: Mix::Idle,
        violation: "acts without leader/acting",
        edits: &[edit(
            RULES,
            "handle_change",
            "State::Follower { .. } | State::Elected { .. } => self.calls.next_soon(),",
            "State::Follower { candidacy, .. } if known.token(candidacy.lease.id).is_some() => {
                 let lease = candidacy.lease;
                 if let Some(token) = known.token(lease.id) {
                     let leased = now + lease.timing.term_of_try();
                     self.begin_term(now, lease, token, Deadline { leased, unchallenged: None });
                 }
             }
             State::Follower { .. } | State::Elected { .. } => self.calls.next_soon(),",
        )],
    },
    Variant {
        name: "A successor's deadline counts from when both keys were shown",
        mix: Mix::Late,
        violation: "acts without leader/acting",
        edits: &[
            edit(
                ANSWERS,
                "accept_answer",
                "State::Elected { candidacy, token, .. } => {",
                "State::Elected { candidacy, token, seen } => {",
            ),
            edit(
                ANSWERS,
                "accept_answer",
                "leased: acts_until(&lease),",
                "leased: *seen + lease.timing.term_of_try(),",
            ),
        ],
    },
    Variant {
        name: "Keys are deleted though a campaign has had no response",
        mix: Mix::Late,
        violation: "is elected by a lease whose keys it has released",
        edits: &[edit(
            HANDOVER,
            "without_successor",
            "if self.has_open_campaign {",
            "if false {",
        )],
    },
    Variant {
        name: "A hand-over deletes the own seat whosever it is",
        mix: Mix::People,
        violation: "deletes a key that is not its own",
        edits: &[edit(
            TRANSACTION,
            "hand_over",
            "own_seat: own_seat.map(|seat| (seat, Guard::BoundTo { lease: term.lease })),",
            "own_seat: own_seat.map(|seat| (seat, Guard::Ignored)),",
        )],
    },
    Variant {
        name: "A candidate takes a seat whosever it is",
        mix: Mix::Transfers,
        violation: "takes a seat that is another's",
        edits: &[edit(
            TRANSACTION,
            "take_seat",
            "own_seat: Some((seat, Guard::Absent)),",
            "own_seat: Some((seat, Guard::Ignored)),",
        )],
    },
    Variant {
        name: "A candidate writes its seat whatever that says",
        mix: Mix::Transfers,
        violation: "writes its seat again and again",
        edits: &[edit(
            REGISTRY,
            "transaction",
            "if seat.acts == acts && seat.is_healthy == is_healthy && !self.is_outdated =>",
            "if seat.acts == acts && seat.priority > 100 =>",
        )],
    },
    Variant {
        name: "A successor waits for its next read",
        mix: Mix::Transfers,
        violation: "does not act though a term was handed to it",
        edits: &[edit(
            RULES,
            "handle_change",
            "State::Follower { .. } | State::Elected { .. } => self.calls.next_soon(),",
            "State::Follower { .. } | State::Elected { .. } => {}",
        )],
    },
    Variant {
        name: "A candidate takes a seat while it holds off",
        mix: Mix::Transfers,
        violation: "does not hold off",
        edits: &[edit(
            REGISTRY,
            "advance_seat",
            "&& !self.holds_off(now)",
            "",
        )],
    },
    Variant {
        name: "Keys are deleted whosever they are",
        mix: Mix::Late,
        // Either the check of what was deleted or the check of who acts comes first.
        violation: "",
        edits: &[edit(
            TRANSACTION,
            "release",
            "acting: unchanged,",
            "acting: Guard::Ignored,",
        )],
    },
    Variant {
        name: "The lease is revoked while its term is handed over",
        mix: Mix::Transfers,
        violation: "releases its keys though somebody could follow at once",
        edits: &[edit(
            RELEASE,
            "give_up_in_steps",
            "self.calls.abandon();",
            "self.calls.abandon();
             let (call, limit) = (self.calls.new_id(), lease.timing.limit());
             self.actions.push_back(Action::Revoke { call, lease: lease.id, is_urgent: true, limit });",
        )],
    },
    Variant {
        name: "The id of a lease is used again",
        mix: Mix::Late,
        violation: "acts without leader/acting",
        edits: &[edit(
            NEXT,
            "advance",
            "self.next_lease = self.next_lease.next();",
            "",
        )],
    },
    Variant {
        name: "Denied seats count as a failure of the endpoint",
        mix: Mix::Calm,
        violation: "reports an outage: untrue",
        edits: &[edit(
            REGISTRY,
            "deny_seats",
            "if failure.kind != FailureKind::Denied {",
            "if failure.kind != FailureKind::LeaseNotFound {",
        )],
    },
    Variant {
        name: "A follower that is left out reads less often than others",
        mix: Mix::Calm,
        violation: "nobody takes over though all is well",
        edits: &[edit(
            REGISTRY,
            "pace",
            "let every = every.min(Timing::LONGEST_LIMIT);",
            "let every = every * 4;",
        )],
    },
    Variant {
        name: "A leader without a seat does not watch",
        mix: Mix::Calm,
        violation: "leads on without leader",
        edits: &[edit(
            RULES,
            "watch_if_needed",
            "_ => false,",
            "state => state.lease().is_some_and(|lease| self.registry.is_left_out(lease.id)),",
        )],
    },
];
