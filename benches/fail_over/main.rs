//! What a fail-over limit costs and gains: `cargo bench --bench fail_over`.
//!
//! - How many terms a leader loses that nobody has harmed: `MINUTES=1` for a shorter run than ten minutes per load, `MINUTES=0`
//!   for none.
//! - How soon the next one acts after a crash, and how many act at once after a pause, beside keepalived: `RUNS=3` for
//!   fewer runs than ten, `RUNS=0` for none.

mod beside_keepalived;
mod losses;

fn main() {
    // `cargo test --benches` and `cargo bench -- --list` look at what there is; that is no run.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let number = |name: &str, default: u32| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let (runs, minutes) = (number("RUNS", 10), number("MINUTES", 10));
    if runs > 0 {
        beside_keepalived::compare(runs);
    }
    if minutes > 0 {
        losses::count(minutes);
    }
}
