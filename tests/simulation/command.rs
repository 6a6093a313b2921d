//! The simulator as a command: schedules by the million, or one with its trace.

use crate::simulation::{
    plan::Mix,
    run::{Tally, describe, report, run_many, trace},
};
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

const USAGE: &str = "\
Usage: simulation [OPTIONS]

Runs schedules until a promise is not kept; exits with 1 then.

  --schedules N   how many (20000)
  --minutes M     for how long instead
  --seed S        the first one's seed (1); the others follow
  --mix NAME      swarm, calm, former, late, deaf, idle, children, people, histories, passwords,
                  handovers, endpoint, transfers, priorities, rivals, quick or jobs
                  (by the seed)
  --trace         prints all that happens in the first one, and runs no other
";

/// The command on its own.
pub fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(text) => {
            eprint!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: impl Iterator<Item = String>) -> Result<String, String> {
    let (mut schedules, mut seed) = (20_000, 1);
    let (mut minutes, mut mix, mut tracing) = (None, None, false);
    let mut arguments = arguments.filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| USAGE.to_owned());
        let number = |text: String| text.parse().map_err(|_| USAGE.to_owned());
        match argument.as_str() {
            "--schedules" => schedules = number(value()?)?,
            "--seed" => seed = number(value()?)?,
            "--minutes" => minutes = Some(number(value()?)?),
            "--mix" => {
                let name = value()?;
                let named = Mix::ALL.iter().find(|mix| mix.name() == name);
                mix = Some(*named.ok_or(USAGE)?);
            }
            "--trace" => tracing = true,
            _ => return Err(USAGE.to_owned()),
        }
    }
    if tracing {
        return Ok(trace(seed, mix));
    }
    let started = Instant::now();
    let mut total = Tally::default();
    let mut next = seed;
    while more(&total, schedules, minutes, started) {
        let count = minutes.map_or(schedules, |_: u64| 100_000);
        let (tally, failed) = run_many(next, count, mix);
        next += count;
        total.add(&tally);
        if let Some(failed) = failed {
            return Err(describe(&failed, mix, total.schedules));
        }
    }
    let seconds = started.elapsed().as_secs().max(1);
    let pace = total.schedules / seconds;
    Ok(report(&total) + &format!("{pace} schedules a second, for {seconds} seconds\n"))
}

fn more(so_far: &Tally, schedules: u64, minutes: Option<u64>, started: Instant) -> bool {
    match minutes {
        Some(minutes) => started.elapsed() < Duration::from_secs(60 * minutes),
        None => so_far.schedules < schedules,
    }
}
