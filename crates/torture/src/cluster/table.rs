//! The table of a run.

use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, presets};

use crate::cluster::check::Findings;
use crate::cluster::script::Script;

/// What a script has shown.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) findings: Findings,
    /// What is wrong besides deliveries.
    pub(super) violations: Vec<String>,
    pub(super) unavailable: u64,
    pub(super) full: u64,
    /// For each subscriber, the longest time without an event from the beginning of the fault on.
    pub(super) silences: Vec<Duration>,
    /// For each subscriber, the time from the end of the fault to its next event.
    pub(super) recoveries: Vec<Duration>,
    /// What the nodes have logged.
    pub(super) log: String,
}

impl Outcome {
    fn is_good(&self) -> bool {
        self.findings.is_good() && self.violations.is_empty()
    }
}

/// The rows of all scripts.
pub(super) struct Table {
    rows: Vec<(String, Outcome)>,
    failures: Vec<String>,
    /// What the nodes have logged is printed for each script.
    logs: bool,
}

impl Table {
    pub(super) fn new(logs: bool) -> Table {
        Table { rows: Vec::new(), failures: Vec::new(), logs }
    }

    /// Adds what a script has shown, and prints a line about it. Returns whether nothing was violated.
    pub(super) fn add(&mut self, script: &Script, outcome: Result<Outcome, String>) -> bool {
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(problem) => Outcome { violations: vec![problem], ..Outcome::default() },
        };
        let found = &outcome.findings;
        let good = outcome.is_good();
        println!(
            "{:<55} {:>6} published, {:>7} deliveries, {} gaps, {} refused answers, silence {}, recovery {}{}",
            script.name,
            found.published,
            found.delivered,
            found.gaps,
            outcome.unavailable + outcome.full,
            summary(&outcome.silences),
            summary(&outcome.recoveries),
            if good { "" } else { "  VIOLATION" },
        );
        for problem in found.examples.iter().chain(&outcome.violations) {
            println!("         {problem}");
            self.failures.push(format!("{}: {problem}", script.name));
        }
        for line in outcome.log.lines().filter(|_| self.logs || !good) {
            println!("         | {line}");
        }
        self.rows.push((script.name.clone(), outcome));
        good
    }

    /// Prints the table. Returns whether nothing was violated.
    pub(super) fn conclude(self) -> bool {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header([
            "fault",
            "published",
            "acknowledged",
            "unknown",
            "refused",
            "503, 507",
            "deliveries",
            "lost",
            "doubled",
            "disordered",
            "damaged",
            "absent",
            "gaps",
            "missed in gaps",
            "streams ended",
            "silence p50, p90, max",
            "recovery p50, p90, max",
            "result",
        ]);
        let bad = self.rows.iter().filter(|(_, outcome)| !outcome.is_good()).count();
        for (name, outcome) in &self.rows {
            let found = &outcome.findings;
            let numbers = [
                found.published,
                found.acknowledged,
                found.unknown,
                found.refused,
                outcome.unavailable + outcome.full,
                found.delivered,
                found.lost,
                found.doubled,
                found.disordered,
                found.damaged,
                found.absent,
                found.gaps,
                found.missed_in_gap,
                found.ends,
            ];
            let mut cells = vec![name.clone()];
            cells.extend(numbers.iter().map(u64::to_string));
            cells.push(summary(&outcome.silences));
            cells.push(summary(&outcome.recoveries));
            cells.push(if outcome.is_good() { "good" } else { "VIOLATED" }.to_owned());
            table.add_row(cells);
        }
        for column in table.column_iter_mut().skip(1).take(16) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!("\n{table}");
        for failure in &self.failures {
            println!("violation: {failure}");
        }
        let count = self.rows.len();
        println!("{count} faults, {bad} of them with violations");
        bad == 0 && count > 0
    }
}

/// The median, the 90th percentile and the maximum, in milliseconds. A third of the subscribers is at a node
/// that has a fault.
fn summary(times: &[Duration]) -> String {
    let mut times = times.to_vec();
    times.sort_unstable();
    let at = |part: f64| times.get(((times.len() as f64 * part) as usize).min(times.len().max(1) - 1));
    match (at(0.5), at(0.9), times.last()) {
        (Some(median), Some(late), Some(longest)) => {
            format!("{}, {}, {} ms", median.as_millis(), late.as_millis(), longest.as_millis())
        }
        _ => "-".to_owned(),
    }
}
