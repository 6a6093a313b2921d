//! The election, simulated: the state machine that ships, against a model of etcd and whatever can
//! go wrong.
use leader_election::protocol;

#[path = "simulation/job_variants.rs"]
mod job_variants;
#[path = "simulation/patch.rs"]
mod patch;
#[path = "simulation/seat_variants.rs"]
mod seat_variants;
#[path = "simulation/mod.rs"]
mod simulation;
#[path = "simulation/variants.rs"]
mod variants;

use simulation::{
    plan::Kind,
    run::{describe, report, run_many, trace},
};
use std::{process::Command, time::Instant};

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
        let told = trace(seed, None);
        assert!(told.contains("the faults stop"), "{told}");
        assert_eq!(told, trace(seed, None));
    }
    assert_ne!(trace(1, None), trace(2, None));
}

/// What needs a server or takes long, and is no part of `tests/run.sh unit`.
mod gate_only {
    use super::*;

    #[test]
    fn each_wrong_variant_of_the_protocol_is_caught() {
        let mut programs = patch::build().into_iter();
        let unchanged = programs.next().unwrap();
        let output = Command::new(unchanged).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the code as it is: {said}");

        let documents = include_str!("../docs/protocol.md");
        let mut uncaught = Vec::new();
        for (variant, program) in variants::all().zip(programs) {
            let mix = variant.mix.name();
            let row = format!("| {} | {mix} |", variant.name);
            assert!(documents.contains(&row), "docs/protocol.md lacks: {row}");
            let output = Command::new(program)
                .args(["--mix", &mix, "--schedules", "100000"])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            match said.strip_prefix("VIOLATION with ") {
                Some(violation) if violation.contains(variant.violation) => {
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
