//! Wrong variants of the protocol: what goes wrong without each of its rules.
//!
//! A variant is a patch to a copy of `src/protocol`: nothing in the code that ships knows of it.

use crate::simulation::plan::Mix;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// One place where a variant differs.
pub struct Edit {
    /// The file, below `src`.
    pub file: &'static str,
    /// Stands there exactly once.
    pub instead_of: &'static str,
    pub put: &'static str,
}

pub struct Variant {
    /// What is wrong with it.
    pub name: &'static str,
    /// The faults that bring it to light soonest.
    pub mix: Mix,
    /// Some words of the violation by which it must come to light.
    pub violation: &'static str,
    pub edits: &'static [Edit],
}

const fn edit(file: &'static str, instead_of: &'static str, put: &'static str) -> Edit {
    Edit {
        file,
        instead_of,
        put,
    }
}

const MACHINE: &str = "protocol.rs";
const ANSWERS: &str = "protocol/answers.rs";
const CALLS: &str = "protocol/calls.rs";
const RELEASE: &str = "protocol/release.rs";
const ROTATION: &str = "protocol/rotation.rs";
const RULES: &str = "protocol/rules.rs";
const TIMING: &str = "protocol/timing.rs";
const TRANSACTION: &str = "protocol/transaction.rs";
const VIEW: &str = "protocol/view.rs";

pub const VARIANTS: &[Variant] = &[
    Variant {
        name: "The deadline counts from the answer, not from the send",
        mix: Mix::Late,
        violation: "acts without leader/acting",
        edits: &[edit(ANSWERS, "            sent + lease.timing.term_of_try()", "            now + lease.timing.term_of_try()")],
    },
    Variant {
        name: "There is no margin for clock drift",
        mix: Mix::Late,
        violation: "acts without leader/acting",
        edits: &[edit(TIMING, "self.ttl.saturating_sub(self.margin())", "self.ttl")],
    },
    Variant {
        name: "The keepalive alone renews",
        mix: Mix::Former,
        violation: "acts without leader/acting",
        edits: &[edit(
            ANSWERS,
            "                call.kept_alive = Some(kept_alive);\n",
            "                call.kept_alive = Some(kept_alive);
                let sent = call.sent;
                if matches!(self.state, State::Leader { .. }) {
                    self.answered(now, sent, kept_alive);
                }\n",
        )],
    },
    Variant {
        name: "The read alone renews",
        mix: Mix::Late,
        violation: "acts without leader/acting",
        edits: &[
            edit(ANSWERS, "        if !outdated {\n", "        let sent = call.sent;\n        if !outdated {\n"),
            edit(
                ANSWERS,
                "            self.judge_answer(now);\n",
                "            self.judge_answer(now);
            if matches!(self.state, State::Leader { .. }) {
                self.answered(now, sent, KeptAlive { ttl: i64::MAX, raft_term: 0 });
            }\n",
            ),
        ],
    },
    Variant {
        name: "A try's two answers may come from two raft terms",
        mix: Mix::Former,
        violation: "acts without leader/acting",
        edits: &[edit(ANSWERS, "if kept_alive.raft_term != transacted.raft_term {", "if false {")],
    },
    Variant {
        name: "A try that times out leaves its stream: a late answer is credited to a later send",
        mix: Mix::Late,
        violation: "acts without leader/acting",
        edits: &[edit(
            RULES,
            "        if let Some(failure) = self.calls.overdue(now) {\n",
            "        if matches!(self.state, State::Leader { .. }) && self.calls.overdue(now).is_some() {
            self.calls.abandon();
            self.calls.next_now();
        }
        if let Some(failure) = self.calls.overdue(now) {\n",
        )],
    },
    Variant {
        name: "The watch begins now, not after the revision that was read",
        mix: Mix::Calm,
        violation: "nobody takes over",
        edits: &[edit(ANSWERS, "self.open_watch(view.revision + 1);", "self.open_watch(0);")],
    },
    Variant {
        name: "An answer after the deadline revives the term",
        mix: Mix::Late,
        violation: "revives a term",
        edits: &[edit(
            MACHINE,
            "        self.expire(now);
        match input {",
            "        match input {",
        )],
    },
    Variant {
        name: "Whoever has won acts, even past the deadline",
        mix: Mix::Late,
        violation: "begins a term past its deadline",
        edits: &[
            edit(ANSWERS, "if both && now < lease.timing.stop_from(deadline) {", "if both {"),
            edit(CALLS, "            until: now + limit,", "            until: now + 10 * limit,"),
        ],
    },
    Variant {
        name: "A candidate campaigns while leader/acting is still there",
        mix: Mix::Swarm,
        violation: "acts without leader/acting",
        edits: &[
            edit(TRANSACTION, "            acting: Guard::Absent,", "            acting: Guard::Ignored,"),
            edit(VIEW, "self.leader.is_none() && self.acting.is_none()", "self.leader.is_none()"),
        ],
    },
    Variant {
        name: "The lease is released before what acts has stopped",
        mix: Mix::Swarm,
        violation: "acts without leader/acting",
        edits: &[edit(
            RULES,
            "        self.events.push_back(Event::Lost { term, reason });
        self.actions.push_back(Action::Stop { term, reason });
    }",
            "        self.events.push_back(Event::Lost { term, reason });
        self.actions.push_back(Action::Stop { term, reason });
        self.give_up(now, lease);
    }",
        )],
    },
    Variant {
        name: "A lease is campaigned with again after its term",
        mix: Mix::Swarm,
        violation: "begins a term with token",
        edits: &[edit(
            RELEASE,
            "        self.give_up(now, lease);
        self.calls.next_now();
    }",
            "        self.state = State::Follower {
            lease,
            answered: now,
            question: super::Question::Campaign,
        };
        self.calls.next_now();
    }",
        )],
    },
    Variant {
        name: "A child is killed at the deadline, not before",
        mix: Mix::Children,
        violation: "acts without leader/acting",
        edits: &[edit(TIMING, "        deadline - self.grace / 10", "        deadline")],
    },
    Variant {
        name: "A child is told to stop at the deadline, not a grace before",
        mix: Mix::Children,
        violation: "acts without leader/acting",
        edits: &[edit(TIMING, "        deadline - self.grace\n", "        deadline\n")],
    },
    Variant {
        // In the simulator a lease's id tells to whom it was granted, like a name in a value.
        name: "A key with the candidate's own name is taken for its own",
        mix: Mix::Swarm,
        violation: "",
        edits: &[edit(
            VIEW,
            "entry.is_some_and(|entry| entry.lease == Some(lease))",
            "entry.is_some_and(|entry| entry.lease.is_some_and(|own| own.get() >> 32 == lease.get() >> 32))",
        )],
    },
    Variant {
        name: "A won campaign whose answer was lost goes unnoticed",
        mix: Mix::Late,
        violation: "nobody acts by them",
        edits: &[
            edit(
                RULES,
                "                Some(token),
            ) => {",
                "                Some(token),
            ) if self.calls.is_campaigning() => {",
            ),
            edit(
                RULES,
                "            (State::Elected { token, .. }, Some(same)) if",
                "            (State::Follower { .. }, Some(_)) => {}
            (State::Elected { token, .. }, Some(same)) if",
            ),
            edit(
                CALLS,
                "    pub fn is_granting(",
                "    pub fn is_campaigning(&self) -> bool {
        matches!(self.current, Some(call) if matches!(call.kind, CallKind::Try { transaction, .. } if transaction.writes()))
    }

    pub fn is_granting(",
            ),
        ],
    },
    Variant {
        name: "Half a pair of keys of one's own is kept alive",
        mix: Mix::Swarm,
        violation: "",
        edits: &[edit(
            RULES,
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
                "            } if now >= answered + lease.timing.ttl()
                || now >= seen + lease.timing.term_of_try() =>",
                "            } if lease.timing.ttl() > answered.since(now) && seen > now =>",
            ),
            edit(
                MACHINE,
                "            } => Some((answered + lease.timing.ttl()).min(seen + lease.timing.term_of_try())),",
                "            } => (seen.max(answered) == Moment::default()).then_some(answered + lease.timing.ttl()),",
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
                "            } if now >= answered + lease.timing.ttl() => self.start_afresh(now, lease),",
                "            } if now < answered => self.start_afresh(now, lease),",
            ),
            edit(
                MACHINE,
                "            } => Some(answered + lease.timing.ttl()),",
                "            } => (answered == Moment::default()).then_some(answered + lease.timing.ttl()),",
            ),
        ],
    },
    Variant {
        name: "\"History went back\" is judged by what is known when the answer comes",
        mix: Mix::People,
        violation: "history went back",
        edits: &[edit(
            ANSWERS,
            "view.revision < call.revision_before",
            "known.is_some_and(|known| view.revision < known.revision())",
        )],
    },
    Variant {
        name: "A history that went back goes unnoticed",
        mix: Mix::Histories,
        violation: "questions in a second",
        edits: &[edit(ANSWERS, "if other_cluster || view.revision < call.revision_before {", "if other_cluster && call.revision_before < 0 {")],
    },
    Variant {
        name: "Events that are older than what is known are believed",
        mix: Mix::People,
        violation: "untrue",
        edits: &[edit(VIEW, "        if revision <= *as_of {\n", "        if revision < 0 {\n")],
    },
    Variant {
        name: "Word that what acts has stopped counts for any term",
        mix: Mix::Swarm,
        violation: "",
        edits: &[
            edit(RELEASE, "            } if term == stopped => (lease, reason),", "            } if term.token >= stopped.token => (lease, reason),"),
            edit(RELEASE, "State::Leader { lease, term, .. } if term == stopped => {", "State::Leader { lease, term, .. } if term.token >= stopped.token => {"),
        ],
    },
    Variant {
        name: "A planned stop is renewed for as long as it takes",
        mix: Mix::People,
        violation: "nobody acts by them",
        edits: &[
            edit(RULES, "            } if now >= by => self.lose(now, reason, by),", "            } if now > by && by > now => self.lose(now, reason, by),"),
            edit(MACHINE, "renewing.then(|| lease.timing.stop_from(deadline).min(by))", "renewing.then(|| lease.timing.stop_from(deadline).min(deadline.max(by)))"),
        ],
    },
    Variant {
        name: "Losing leader/acting is taken for a wish to stop",
        mix: Mix::People,
        violation: "may go on though",
        edits: &[edit(
            RULES,
            "                self.lose(now, LossReason::ActingKeyTaken, now);",
            "                self.plan_stop(now, LossReason::ActingKeyTaken);",
        )],
    },
    Variant {
        name: "The token is the revision of the answer, not leader's mod_revision",
        mix: Mix::Late,
        violation: "is no revision of a win",
        edits: &[edit(
            RULES,
            "        let term = Term {
            token,",
            "        let revision = self.known.as_ref().map_or(0, super::Known::revision);
        let term = Term {
            token: FencingToken::new(revision),",
        )],
    },
    Variant {
        name: "A read that leads to a refused campaign resets the back-off",
        mix: Mix::Swarm,
        violation: "questions in a second",
        edits: &[edit(
            ANSWERS,
            "if (campaigned || !campaigns_next) && self.calls.record_answer() {",
            "if (campaigned || !campaigns_next || true) && self.calls.record_answer() {",
        )],
    },
    Variant {
        name: "The same endpoint is asked again after a failure",
        mix: Mix::Endpoint,
        violation: "no renewal was answered in time: untrue",
        edits: &[edit(ROTATION, "self.endpoint = (self.endpoint + 1) % self.endpoints;", "self.endpoint %= self.endpoints;")],
    },
    Variant {
        name: "A former etcd leader is believed that the lease is gone",
        mix: Mix::Former,
        violation: "the lease is gone: untrue",
        edits: &[edit(
            ANSWERS,
            "        !matches!(self.state, State::Leader { .. } | State::Stopping { .. })",
            "        !matches!(self.state, State::Withdrawn)",
        )],
    },
    Variant {
        name: "A leader goes on though its leader key was deleted",
        mix: Mix::Calm,
        violation: "leads on without leader",
        edits: &[edit(
            RULES,
            "                self.plan_stop(now, reason);",
            "                let _ = reason;",
        )],
    },
    Variant {
        name: "A leader that was asked to step down does not hold off",
        mix: Mix::Calm,
        violation: "does not hold off",
        edits: &[edit(
            RELEASE,
            "            self.hold_off = now + lease.timing.hold_off();",
            "            self.hold_off = now;",
        )],
    },
    Variant {
        name: "Losing the keys ends the term at its deadline only",
        mix: Mix::People,
        violation: "may go on though",
        edits: &[edit(
            RULES,
            "                self.lose(now, LossReason::ActingKeyTaken, now);",
            "                self.lose(now, LossReason::ActingKeyTaken, now + self.timing().ttl());",
        )],
    },
    Variant {
        name: "A key that was written again under the term's own lease counts as its own",
        mix: Mix::People,
        violation: "",
        edits: &[edit(
            VIEW,
            "                && entry.is_some_and(|entry| entry.mod_revision == term.token.get())",
            "                && entry.is_some()",
        )],
    },
    Variant {
        name: "A watch is not opened again with a new connection",
        mix: Mix::Calm,
        violation: "",
        edits: &[edit(
            ANSWERS,
            "        self.watch = None;
        self.interrupt_releases(now);",
            "        self.interrupt_releases(now);",
        )],
    },
    Variant {
        name: "A try may take twice as long",
        mix: Mix::Endpoint,
        violation: "no renewal was answered in time: untrue",
        edits: &[edit(
            TIMING,
            "        (self.ttl / 5).min(Self::LONGEST_LIMIT)",
            "        (self.ttl / 5 * 2).min(Self::LONGEST_LIMIT * 2)",
        )],
    },
    Variant {
        name: "A withdrawal goes unheard while following",
        mix: Mix::Calm,
        violation: "asked to withdraw and has not",
        edits: &[edit(
            RELEASE,
            "        if self.withdrawing.is_some() {
            return;
        }
        self.withdrawing = Some(now);",
            "        if self.withdrawing.is_some() || matches!(self.state, State::Follower { .. }) {
            return;
        }
        self.withdrawing = Some(now);",
        )],
    },
];

/// Builds the code as it is and every variant, and returns their programs in this order.
pub fn build() -> Vec<PathBuf> {
    let project = env!("CARGO_MANIFEST_DIR");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("variants");
    let mut manifest =
        "[package]\nname = \"variants\"\nedition = \"2024\"\n[workspace]\n[dependencies]\n\
                        fastrand = \"*\"\nthiserror = \"*\"\n[profile.release]\nopt-level = 1\n"
            .to_owned();
    let mut programs = Vec::new();
    for number in 0..=VARIANTS.len() {
        let name = format!("variant-{number}");
        let edits = number
            .checked_sub(1)
            .map_or(&[][..], |place| VARIANTS[place].edits);
        copy(&Path::new(project).join("src"), &folder.join(&name), edits);
        let simulation = format!("{project}/tests/simulation/mod.rs");
        let command = format!("{project}/tests/simulation/command.rs");
        let main = format!(
            "mod protocol;\n#[path = \"{command}\"]\nmod command;\n\
             #[path = \"{simulation}\"]\nmod simulation;\n\
             fn main() -> std::process::ExitCode {{\n    command::main()\n}}\n"
        );
        write(&folder.join(&name).join("main.rs"), &main);
        let target = format!("[[bin]]\nname = \"{name}\"\npath = \"{name}/main.rs\"\n");
        manifest.push_str(&target);
        programs.push(folder.join("target/release").join(name));
    }
    write(&folder.join("Cargo.toml"), &manifest);
    // The versions are the project's; cargo leaves out what is not needed here.
    if !folder.join("Cargo.lock").exists() {
        fs::copy(
            Path::new(project).join("Cargo.lock"),
            folder.join("Cargo.lock"),
        )
        .unwrap();
    }
    let built = Command::new(env!("CARGO"))
        .args([
            "build",
            "--release",
            "--offline",
            "--quiet",
            "--target-dir",
            "target",
        ])
        .env("RUSTFLAGS", "--cap-lints=allow")
        .current_dir(&folder)
        .status()
        .unwrap();
    assert!(built.success(), "the variants do not build");
    programs
}

/// Copies the protocol's files, with a variant's edits.
fn copy(from: &Path, to: &Path, edits: &[Edit]) {
    let parts = fs::read_dir(from.join("protocol")).unwrap();
    let parts = parts.map(|part| Path::new("protocol").join(part.unwrap().file_name()));
    for file in parts.chain([PathBuf::from("protocol.rs")]) {
        if from.join(&file).is_dir() {
            continue;
        }
        let mut text = fs::read_to_string(from.join(&file)).unwrap();
        for edit in edits.iter().filter(|edit| Path::new(edit.file) == file) {
            let places = text.matches(edit.instead_of).count();
            assert_eq!(places, 1, "in {}: {:?}", edit.file, edit.instead_of);
            text = text.replace(edit.instead_of, edit.put);
        }
        write(&to.join(file), &text);
    }
}

/// Leaves a file alone that is right already, so that it is not compiled again.
fn write(file: &Path, text: &str) {
    if fs::read_to_string(file).is_ok_and(|there| there == text) {
        return;
    }
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}
