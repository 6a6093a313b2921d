//! The election, simulated: the state machine that ships, against a model of etcd and whatever can
//! go wrong.

#[path = "simulation/challenge_variants.rs"]
mod challenge_variants;
#[path = "simulation/job_variants.rs"]
mod job_variants;
#[path = "simulation/patch.rs"]
mod patch;
#[path = "simulation/seat_variants.rs"]
mod seat_variants;
#[path = "simulation/variants.rs"]
mod variants;
#[path = "simulation/yielding_variants.rs"]
mod yielding_variants;

use patch::Program;
use simulation::{Kind, Mix, describe, report, run_many, trace};
use std::{process::Command, time::Instant};
use variants::Variant;

#[test]
fn twenty_thousand_schedules_keep_every_promise() {
    let started = Instant::now();
    let (tally, failed) = run_many(1, 20_000, None);
    if let Some(failed) = failed {
        panic!("{}", describe(&failed, None, tally.schedules));
    }
    println!("{}in {:?}", report(&tally), started.elapsed());
    for (kind, count) in Kind::ALL.iter().zip(&tally.faults) {
        assert!(*count > 100, "only {count} × {}", kind.text());
    }
    assert!(tally.terms > 20_000, "only {} terms", tally.terms);
}

#[test]
fn the_same_seed_gives_the_same_schedule() {
    for seed in [1, 2, 3] {
        let text = trace(seed, None);
        assert!(text.contains("the faults stop"), "{text}");
        assert_eq!(text, trace(seed, None));
    }
    assert_ne!(trace(1, None), trace(2, None));
}

/// Returns after how many schedules a variant was caught when the documents were written.
fn schedules_of(variant: &Variant, documents: &str) -> u32 {
    let row = format!("| {} | {} | ", variant.name, variant.mix.name());
    let rest = documents.split_once(&row).map(|(_, rest)| rest);
    let count = rest
        .and_then(|rest| rest.split_once(" |"))
        .map(|(count, _)| count);
    let count = count.and_then(|count| count.replace(',', "").parse().ok());
    count.unwrap_or_else(|| panic!("docs/protocol.md lacks: {row}"))
}

/// What needs a server or takes long, and is no part of `tests/run.sh unit`.
mod gate_only {
    use super::*;

    #[test]
    fn twenty_thousand_schedules_of_each_mix_with_fail_over_limits_keep_every_promise() {
        for mix in [Mix::Rivals, Mix::Quick] {
            let started = Instant::now();
            let (tally, failed) = run_many(1, 20_000, Some(mix));
            if let Some(failed) = failed {
                panic!("{}", describe(&failed, Some(mix), tally.schedules));
            }
            println!(
                "{}: {}in {:?}",
                mix.name(),
                report(&tally),
                started.elapsed()
            );
            assert!(tally.taken_over > 5000, "only {}", tally.taken_over);
        }
    }

    #[test]
    fn each_wrong_variant_of_the_protocol_is_caught() {
        let documents = include_str!("../docs/protocol.md");
        let unchanged = Program {
            edits: &[],
            runs_long: true,
        };
        let variants = variants::all().map(|variant| Program {
            edits: variant.edits,
            runs_long: schedules_of(variant, documents) > 2_000,
        });
        let programs: Vec<_> = [unchanged].into_iter().chain(variants).collect();
        let mut programs = patch::build(&programs).into_iter();
        let unchanged = programs.next().unwrap();
        let output = Command::new(unchanged).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the code as it is: {said}");

        let mut uncaught = Vec::new();
        for (variant, program) in variants::all().zip(programs) {
            let mix = variant.mix.name();
            let output = Command::new(program)
                .args(["--mix", &mix, "--schedules", "100000"])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            match said.strip_prefix("VIOLATION with ") {
                Some(violation) if variant.is_shown_by(violation) => {
                    let mut lines = violation.lines();
                    let violation = lines.next().unwrap_or_default();
                    let before = lines.next().unwrap_or_default();
                    println!("{} | {mix} | {violation} | {before}", variant.name);
                }
                _ => uncaught.push(format!("{} (--mix {mix}): {said}", variant.name)),
            }
        }
        assert!(uncaught.is_empty(), "not caught: {uncaught:#?}");
    }
}
