//! Runs one schedule or many, and returns their results.

use super::{
    SECOND, Time,
    checks::Violation,
    plan::{Kind, Mix, Plan},
    world::World,
};
use std::{
    fmt::Write as _,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

/// What a schedule came to.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How many schedules were run.
    pub schedules: u64,
    /// The time that they lasted in etcd's clock.
    pub simulated: Time,
    /// How many events were carried out.
    pub events: u64,
    /// How many terms began.
    pub terms: u64,
    /// How many terms were handed over.
    pub handed_over: u64,
    /// How many were taken over.
    pub taken_over: u64,
    /// How many faults of each kind were injected, in the order of [`Kind::ALL`].
    pub faults: Vec<u64>,
    /// The longest time until somebody acted after the faults stopped, in thousandths of what is
    /// promised.
    pub slowest: u64,
    /// The most questions that one process asked in a second.
    pub most_asked: u32,
}

impl Tally {
    /// Adds what other schedules came to.
    pub fn add(&mut self, other: &Self) {
        self.schedules += other.schedules;
        self.simulated += other.simulated;
        self.events += other.events;
        self.terms += other.terms;
        self.handed_over += other.handed_over;
        self.taken_over += other.taken_over;
        self.faults.resize(Kind::ALL.len(), 0);
        for (sum, count) in self.faults.iter_mut().zip(&other.faults) {
            *sum += count;
        }
        self.slowest = self.slowest.max(other.slowest);
        self.most_asked = self.most_asked.max(other.most_asked);
    }
}

/// A schedule in which a promise was not kept.
#[derive(Clone, Debug)]
pub struct Failed {
    pub seed: u64,
    pub violation: Violation,
}

/// Runs one schedule.
pub fn run(seed: u64, mix: Option<Mix>) -> Result<Tally, Failed> {
    let mut world = World::new(seed, |rng| Plan::new(rng, mix), false);
    match world.run() {
        Ok(()) => Ok(world.tally),
        Err(violation) => Err(Failed { seed, violation }),
    }
}

/// Runs one schedule and returns a text of all that happens in it.
pub fn trace(seed: u64, mix: Option<Mix>) -> String {
    let mut world = World::new(seed, |rng| Plan::new(rng, mix), true);
    let end = match world.run() {
        Ok(()) => "Every promise was kept.".to_owned(),
        Err(violation) => format!("VIOLATION: {}", violation.what),
    };
    world.note(|_| end);
    world.trace.unwrap_or_default()
}

/// Runs schedules on all cores until one fails, and returns what they came to.
pub fn run_many(first: u64, count: u64, mix: Option<Mix>) -> (Tally, Option<Failed>) {
    let next = AtomicU64::new(first);
    let stop = AtomicBool::new(false);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let worker = || {
        let mut tally = Tally::default();
        let mut failed = None;
        while failed.is_none() && !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed - first >= count {
                break;
            }
            match run(seed, mix) {
                Ok(one) => tally.add(&one),
                Err(violated) => {
                    stop.store(true, Ordering::Relaxed);
                    failed = Some(violated);
                }
            }
        }
        (tally, failed)
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let mut tally = Tally::default();
        let mut failed: Option<Failed> = None;
        for worker in workers {
            // A panic in a schedule is a panic here.
            let (some, violated) = worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            tally.add(&some);
            let earlier = |one: &Failed| failed.as_ref().is_none_or(|other| one.seed < other.seed);
            if let Some(violated) = violated.filter(earlier) {
                failed = Some(violated);
            }
        }
        (tally, failed)
    })
}

/// Says which schedule failed, and how to see it.
pub fn describe(failed: &Failed, mix: Option<Mix>, before: u64) -> String {
    let Failed { seed, violation } = failed;
    let mix = mix.map_or(String::new(), |mix| format!(" --mix {}", mix.name()));
    let at = violation.at;
    format!(
        "VIOLATION with seed {seed} after {}.{:03} s: {}\n{before} schedules kept every promise. To see it:\n\
         cargo bench --bench simulation -- --seed {seed}{mix} --trace\n",
        at / SECOND,
        at % SECOND / super::MILLI,
        violation.what
    )
}

/// What a run came to, for people.
pub fn report(tally: &Tally) -> String {
    let mut text = format!(
        "{} schedules, {} simulated hours, {} events, {} terms, {} of them handed over, {} taken over; after the faults somebody acted within {} % of \
         the time promised; nobody asked more than {} questions in a second\n",
        tally.schedules,
        tally.simulated / (3600 * SECOND),
        tally.events,
        tally.terms,
        tally.handed_over,
        tally.taken_over,
        tally.slowest / 10,
        tally.most_asked,
    );
    for (kind, count) in Kind::ALL.iter().zip(&tally.faults) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{count:>12} × {}", kind.text());
    }
    text
}
