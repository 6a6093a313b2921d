//! Measures this project and its peers: `cargo bench --bench figures`.
//!
//! - `RUNS=30`: more rounds than fifteen.
//! - `PEERS=zookeeper,keepalived`: these peers as well, from Debian's packages zookeeper, python3-kazoo and keepalived.
//! - `GROWTH=3,30,100,300,1000`: also many candidates for one key, and many elections in one process, so many each.
//!   `GROWTH=1000,elections`: the latter alone; the other parts are `candidates`, and `crowd` of twice the last number.
//! - `ONLY=starts,fail_overs,idle,timeline`: only some of it; `ONLY=none GROWTH=100`: the growth alone.
//! - `FIGURES=docs`: measures what `cargo build --release` makes, and writes `docs/figures.md` and its plots.
//! - `OURS=/path/to/leader-election`: measures this binary.

#[path = "../fail_over/beside_keepalived.rs"]
#[allow(dead_code, reason = "the other benchmark also measures pauses")]
mod beside_keepalived;
mod contest;
mod document;
mod floor;
mod growth;
mod idle;
mod ours;
mod peers;
mod plots;
mod report;
mod rounds;
mod timeline;
mod watch;
mod worker;
mod zookeeper;

use document::Results;
use rounds::Plan;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::{env, fs};

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let Some((worker::WORKER, of_worker)) = arguments
        .split_first()
        .map(|(first, rest)| (first.as_str(), rest))
    {
        return worker::run(of_worker);
    }
    // `cargo test --benches` and `cargo bench -- --list` look at what there is; that is no run.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    // A thousand elections take more descriptors than a process may open by default.
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("the own limit");

    let peers = list("PEERS");
    let plan = Plan {
        runs: env::var("RUNS").map_or(15, |runs| runs.parse().expect("RUNS is a number")),
        etcd: support::etcd::binaries().pop().expect("an etcd"),
        with_zookeeper: peers.iter().any(|peer| peer == "zookeeper"),
        with_keepalived: peers.iter().any(|peer| peer == "keepalived"),
    };
    let size = fs::metadata(&*ours::BINARY).expect("a binary").len();
    let machine = document::machine(&plan.etcd);
    println!("{} rounds; {machine}", plan.runs);
    let mut results = measure(&plan);
    results.judge(size);
    println!();
    for target in &results.targets {
        if let Some(found) = target.found {
            println!(
                "| {} | at most {} | {found:.2} |",
                target.what, target.bound
            );
        }
    }
    if writes_docs() {
        results.write(&machine);
    }
}

fn measure(plan: &Plan) -> Results {
    let only = list("ONLY");
    let is_wanted = |part: &str| only.is_empty() || only.iter().any(|it| it == part);
    let mut sections = Vec::new();
    let mut add = |new: Vec<report::Section>| {
        new.iter().for_each(report::Section::print);
        sections.extend(new);
    };
    if is_wanted("starts") {
        add(plan.measure_starts_and_hand_overs());
    }
    if is_wanted("fail_overs") {
        add(plan.measure_fail_overs());
    }
    if is_wanted("idle") {
        add(plan.measure_idle());
    }
    let timeline = if is_wanted("timeline") {
        timeline::record(&plan.etcd)
    } else {
        Vec::new()
    };
    let mut grids = Vec::new();
    let (sizes, parts): (Vec<_>, Vec<_>) = (list("GROWTH").into_iter())
        .map(|word| word.parse::<usize>().map_err(|_| word))
        .partition(Result::is_ok);
    let sizes: Vec<_> = sizes.into_iter().flatten().collect();
    let parts: Vec<_> = parts.into_iter().filter_map(Result::err).collect();
    assert!(
        parts.is_empty() || !sizes.is_empty(),
        "GROWTH needs at least one number"
    );
    if let Some(most) = sizes.last() {
        let is_wanted = |part: &str| parts.is_empty() || parts.iter().any(|it| it == part);
        if is_wanted("candidates") {
            grids.push(growth::candidates(plan.runs, &plan.etcd, &sizes));
        }
        if is_wanted("crowd") {
            grids.push(growth::crowd(&plan.etcd, 2 * most));
        }
        if is_wanted("elections") {
            grids.push(growth::elections(&plan.etcd, &sizes));
        }
    }
    Results {
        runs: plan.runs,
        sections,
        grids,
        timeline,
        targets: Vec::new(),
    }
}

/// Whether the figures are to be written down.
fn writes_docs() -> bool {
    env::var("FIGURES").is_ok_and(|what| what == "docs")
}

/// Returns the words of a variable, separated by commas.
fn list(variable: &str) -> Vec<String> {
    let words = env::var(variable).unwrap_or_default();
    let words = words.split(',').filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}
