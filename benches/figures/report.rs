//! Tables of figures, for the terminal and for `docs/figures.md`.

use std::{collections::BTreeMap, fmt::Write as _};

/// Figures of one kind, of this project and of its peers.
pub struct Section {
    pub title: &'static str,
    /// What was measured, and how.
    pub text: &'static str,
    pub unit: &'static str,
    rows: Vec<Row>,
}

/// Figures of one program.
struct Row {
    name: String,
    /// The row of this project that it is compared with.
    compared_with: Option<&'static str>,
    values: Vec<f64>,
}

/// The least, the median and the greatest.
#[derive(Clone, Copy)]
pub struct Summary {
    pub least: f64,
    pub median: f64,
    pub greatest: f64,
}

impl Summary {
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Self {
            least: sorted[0],
            median: sorted[sorted.len() / 2],
            greatest: sorted[sorted.len() - 1],
        }
    }

    fn text(self) -> String {
        let [median, least, greatest] = [self.median, self.least, self.greatest].map(number);
        format!("{median} ({least} to {greatest})")
    }
}

/// Returns a number with about three digits that count.
pub fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

impl Section {
    pub fn new(title: &'static str, unit: &'static str, text: &'static str) -> Self {
        Self {
            title,
            text,
            unit,
            rows: Vec::new(),
        }
    }

    /// Adds a value of this project.
    pub fn add(&mut self, name: &str, value: f64) {
        self.add_compared(name, None, value);
    }

    /// Adds a value of a peer, if it is compared with a row of this project.
    pub fn add_compared(&mut self, name: &str, compared_with: Option<&'static str>, value: f64) {
        if let Some(row) = self.rows.iter_mut().find(|row| row.name == name) {
            row.values.push(value);
        } else {
            self.rows.push(Row {
                name: name.to_owned(),
                compared_with,
                values: vec![value],
            });
        }
    }

    /// Returns all rows with their summaries; whether each is this project's comes last.
    pub fn summaries(&self) -> impl Iterator<Item = (&str, Summary, bool)> {
        self.rows.iter().map(|row| {
            let is_ours = row.compared_with.is_none();
            (row.name.as_str(), Summary::of(&row.values), is_ours)
        })
    }

    /// Returns the median of a row, if there is that row.
    pub fn median(&self, name: &str) -> Option<f64> {
        let mut rows = self.summaries();
        rows.find_map(|(row, summary, _)| (row == name).then_some(summary.median))
    }

    /// Returns the median of this project divided by that of this peer.
    pub fn ratio(&self, peer: &str) -> Option<f64> {
        let row = self.rows.iter().find(|row| row.name == peer)?;
        let ratio = self.median(row.compared_with?)? / self.median(peer)?;
        // Both may be zero.
        ratio.is_finite().then_some(ratio)
    }

    /// Writes the rows for the terminal.
    pub fn print(&self) {
        println!("\n{} ({})", self.title, self.unit);
        for (name, summary, _) in self.summaries() {
            let ratio = self.ratio(name).map(|ratio| format!(" × {ratio:.2} |"));
            let text = summary.text();
            println!("| {name} | {text} |{}", ratio.unwrap_or_default());
        }
    }

    /// Writes the section for the document.
    pub fn write(&self, to: &mut String) {
        let compares = self.rows.iter().any(|row| row.compared_with.is_some());
        let (title, text, unit) = (self.title, wrapped(self.text), self.unit);
        let heading = if compares { " ours ÷ this |" } else { "" };
        let line = if compares { "---:|" } else { "" };
        let _ = writeln!(
            to,
            "## {title}\n\n{text}\n\n| {unit} | min | median | max |{heading}"
        );
        let _ = writeln!(to, "|---|---:|---:|---:|{line}");
        for (name, summary, _) in self.summaries() {
            let [least, median, greatest] =
                [summary.least, summary.median, summary.greatest].map(number);
            let ratio = match self.ratio(name) {
                Some(ratio) => format!(" {ratio:.2} |"),
                None if compares => " |".to_owned(),
                None => String::new(),
            };
            let _ = writeln!(to, "| {name} | {least} | {median} | {greatest} |{ratio}");
        }
        to.push('\n');
    }
}

/// Figures that grow with a number.
pub struct Grid {
    pub title: &'static str,
    pub text: &'static str,
    /// What the number counts.
    pub counted: &'static str,
    rows: Vec<(&'static str, BTreeMap<usize, Vec<f64>>)>,
}

impl Grid {
    pub fn new(title: &'static str, counted: &'static str, text: &'static str) -> Self {
        Self {
            title,
            text,
            counted,
            rows: Vec::new(),
        }
    }

    /// Adds a value for this number, and prints it.
    pub fn add(&mut self, row: &'static str, count: usize, value: f64) {
        println!("| {row} | {} {count} | {} |", self.counted, number(value));
        let place = self.rows.iter().position(|(name, _)| *name == row);
        let place = place.unwrap_or_else(|| {
            self.rows.push((row, BTreeMap::new()));
            self.rows.len() - 1
        });
        self.rows[place].1.entry(count).or_default().push(value);
    }

    /// Returns the summaries of a row by the number.
    pub fn curve(&self, row: &str) -> Vec<(usize, Summary)> {
        let row = self.rows.iter().find(|(name, _)| *name == row);
        let cells = row.into_iter().flat_map(|(_, cells)| cells);
        cells
            .map(|(count, values)| (*count, Summary::of(values)))
            .collect()
    }

    /// Writes the table for the document.
    pub fn write(&self, to: &mut String) {
        let counts = self.rows.iter().flat_map(|(_, cells)| cells.keys());
        let mut counts: Vec<_> = counts.copied().collect();
        counts.sort_unstable();
        counts.dedup();
        let _ = writeln!(to, "## {}\n\n{}\n", self.title, wrapped(self.text));
        let _ = write!(to, "| {} |", self.counted);
        for count in &counts {
            let _ = write!(to, " {count} |");
        }
        let _ = writeln!(to, "\n|---|{}", "---:|".repeat(counts.len()));
        for (row, cells) in &self.rows {
            let _ = write!(to, "| {row} |");
            for count in &counts {
                let values = cells.get(count).map(|values| match values[..] {
                    [value] => number(value),
                    _ => Summary::of(values).text(),
                });
                let _ = write!(to, " {} |", values.unwrap_or_default());
            }
            to.push('\n');
        }
        to.push('\n');
    }
}

/// What a figure was meant to be at most.
pub struct Target {
    pub what: &'static str,
    pub bound: f64,
    pub found: Option<f64>,
}

/// Writes which targets are met.
pub fn write_targets(targets: &[Target], to: &mut String) {
    let _ = writeln!(
        to,
        "## Targets\n\n| target | at most | found | |\n|---|---:|---:|---|"
    );
    for Target { what, bound, found } in targets {
        let Some(found) = found else {
            continue;
        };
        let verdict = if found <= bound { "met" } else { "**missed**" };
        let _ = writeln!(to, "| {what} | {bound} | {found:.2} | {verdict} |");
    }
    to.push('\n');
}

/// Breaks a paragraph into lines as the other documents have them.
pub fn wrapped(text: &str) -> String {
    const WIDTH: usize = 120;
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("never empty");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= WIDTH {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines.join("\n")
}
