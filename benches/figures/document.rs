//! Writes `docs/figures.md` and its plots.

use crate::{
    growth, plots,
    report::{Grid, Section, Target, wrapped, write_targets},
    rounds::{ADDRESS_FAIL_OVERS, FAIL_OVERS, HAND_OVERS, MEMORY, STARTS},
    timeline::Entry,
};
use std::{fmt::Write as _, fs, path::Path, process::Command, thread::available_parallelism};
use support::project;

/// All that was measured.
pub struct Results {
    pub runs: usize,
    pub sections: Vec<Section>,
    pub grids: Vec<Grid>,
    pub timeline: Vec<Entry>,
    pub targets: Vec<Target>,
}

/// What the growth means, for readers who want more.
const LIMITS: &str = "What limits ten times as many";
const LIMITS_TEXT: [&str; 2] = [
    "Candidates for one key: the followers' tries. Each sends a keepalive and a read every 0.8 to 1.7 s with a TTL of 5 s, \
     which costs etcd about 150 µs of processor time, so that 10,000 would need more than one core. A longer TTL helps up \
     to 15 s, because a follower without a seat reads every 5 s at most. The remedy would be that such a follower gives \
     its lease back, and only looks whether a seat is free.",
    "Elections in one process: etcd's processor time. A hand-over of one of many costs it about 1 ms in all, and each \
     leader sends two requests a second with a TTL of 5 s. The remedy would be one lease and one keepalive for all \
     elections of a process, and several hand-overs in one transaction; then they would no longer fail independently. \
     Several etcd clusters help at once.",
];
const TIMELINE: &str = "One fail-over, message by message";

/// Returns on what it was measured.
pub fn machine(etcd: &Path) -> String {
    let cores = available_parallelism().map_or(0, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").expect("Linux");
    let memory = memory.split_whitespace().nth(1).expect("MemTotal: …");
    let gibibytes = memory.parse::<f64>().expect("a number") / f64::from(1 << 20);
    let version = Command::new(etcd).arg("--version").output().expect("etcd");
    let version = String::from_utf8(version.stdout).expect("text");
    let version = version.lines().next().unwrap_or_default();
    let version = version.trim_start_matches("etcd Version: ");
    let load = fs::read_to_string("/proc/loadavg").expect("Linux");
    let load = load.split(' ').next().unwrap_or_default();
    format!(
        "{cores} cores, {gibibytes:.0} GiB of memory, etcd {version} with one member on the same machine, load {load} \
         before"
    )
}

impl Results {
    fn section(&self, title: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.title == title)
    }

    /// Returns the plots by name.
    fn plots(&self) -> Vec<(&'static str, &'static str, String)> {
        let ranges = |titles: &[&str], text: &str, is_logarithmic| {
            let sections = titles.iter().filter_map(|title| self.section(title));
            let sections: Vec<_> = sections.collect();
            let rows: Vec<_> = sections
                .iter()
                .flat_map(|section| section.summaries())
                .collect();
            Some(plots::ranges(
                text,
                sections.first()?.unit,
                &rows,
                is_logarithmic,
            ))
        };
        let mut all = Vec::new();
        if let Some(plot) = ranges(
            &[FAIL_OVERS, ADDRESS_FAIL_OVERS],
            "From SIGKILL of the leader to the next one leading",
            true,
        ) {
            all.push(("fail-over", FAIL_OVERS, plot));
        }
        if let Some(plot) = ranges(&[MEMORY], "Resident memory of a leader", false) {
            all.push(("memory", MEMORY, plot));
        }
        for grid in &self.grids {
            let [ours, elect] =
                [growth::HAND_OVER, growth::ELECT_HAND_OVER].map(|row| grid.curve(row));
            if !ours.is_empty() {
                let curves = [
                    ("leader-election", ours, true),
                    ("etcdctl elect", elect, false),
                ];
                let units = ["candidates for one key", "ms"];
                let plot =
                    plots::curves("From the end of a term to the next leader", units, &curves);
                all.push(("hand-over-by-candidates", grid.title, plot));
            }
        }
        if !self.timeline.is_empty() {
            let title = "A fail-over with --fail-over 1s, followers connected";
            all.push(("timeline", TIMELINE, plots::timeline(title, &self.timeline)));
        }
        all
    }

    /// Returns the document.
    fn document(&self, machine: &str, plots: &[(&str, &str, String)]) -> String {
        let runs = self.runs;
        let introduction = format!(
            "Measured on {machine}. Medians of {runs} runs where nothing else is said, in rounds in which \
             `leader-election` and its peers take turns, each with an etcd of its own. `leader-election` is the binary \
             of `cargo build --release`, and `etcdctl` is of the same release as etcd."
        );
        let comparison = "*ours ÷ this* is the median of `leader-election` divided by that of the row. The variant \
                          with a COMMAND is compared with `etcdctl lock`, and the plain one with the others; in idle \
                          elections, the one with the same TTL.";
        let mut text = format!(
            "# Figures\n\n`FIGURES=docs cargo bench --bench figures` writes this page.\n{}\n\n{}\n\n",
            wrapped(&introduction),
            wrapped(comparison)
        );
        let titles = self.sections.iter().map(|section| section.title);
        let titles = titles.chain(self.grids.iter().map(|grid| grid.title));
        let limits = self.grids.first().map(|_| LIMITS);
        for title in ["Targets"]
            .into_iter()
            .chain(titles)
            .chain(limits)
            .chain(self.timeline.first().map(|_| TIMELINE))
        {
            let _ = writeln!(text, "- [{title}](#{})", anchor(title));
        }
        text.push('\n');
        write_targets(&self.targets, &mut text);
        let plot = |title: &str, text: &mut String| {
            for (file, _, _) in plots.iter().filter(|(_, of, _)| *of == title) {
                let _ = writeln!(text, "![{title}](figures/{file}.svg)\n");
            }
        };
        for section in &self.sections {
            section.write(&mut text);
            plot(section.title, &mut text);
        }
        for grid in &self.grids {
            grid.write(&mut text);
            plot(grid.title, &mut text);
        }
        if limits.is_some() {
            let _ = writeln!(text, "## {LIMITS}\n");
            for paragraph in LIMITS_TEXT {
                let _ = writeln!(text, "{}\n", wrapped(paragraph));
            }
        }
        if !self.timeline.is_empty() {
            let what = "Three candidates with a TTL of 10 s; the leader is killed. What each logs, and what a client \
                        hears of that watches etcd. Each counts from when it was read, so that the order of what \
                        different processes did within a few milliseconds is uncertain.";
            let _ = writeln!(text, "## {TIMELINE}\n\n{}\n", wrapped(what));
        }
        plot(TIMELINE, &mut text);
        let ended = text.trim_end().len();
        text.truncate(ended);
        text.push('\n');
        text
    }

    /// Writes the document and the plots.
    pub fn write(&self, machine: &str) {
        let folder = project("docs/figures");
        fs::create_dir_all(&folder).expect("a folder");
        let plots = self.plots();
        for (file, _, svg) in &plots {
            fs::write(folder.join(format!("{file}.svg")), svg).expect("a file");
        }
        fs::write(project("docs/figures.md"), self.document(machine, &plots)).expect("a file");
    }

    /// Adds which targets are met.
    pub fn judge(&mut self, size: u64) {
        let ratio = |title: &str, peer: &str| self.section(title)?.ratio(peer);
        let elect = crate::peers::ELECT;
        #[allow(clippy::cast_precision_loss, reason = "a few megabytes")]
        let megabytes = size as f64 / 1e6;
        let target = |what, bound, found| Target { what, bound, found };
        self.targets = vec![
            target(
                "from exec to leading ÷ that of `etcdctl elect`",
                0.25,
                ratio(STARTS, elect),
            ),
            target(
                "hand-over ÷ that of `etcdctl elect`",
                0.7,
                ratio(HAND_OVERS, elect),
            ),
            target(
                "memory of a leader ÷ that of `etcdctl elect`",
                0.25,
                ratio(MEMORY, elect),
            ),
            target("the binary, in MB", 5.5, Some(megabytes)),
        ];
    }
}

/// Returns how a heading is linked to.
fn anchor(title: &str) -> String {
    let kept = title
        .chars()
        .filter(|it| it.is_alphanumeric() || *it == ' ' || *it == '-');
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}
