//! The verdict.

use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use crate::fault::Fault;
use crate::newcomer::ConnectTimes;
use crate::outcome::Outcome;
use crate::verify::{BUSY_MACHINE, Findings};

/// A newcomer has its response head within this time at p99, with slow heads too.
const CONNECT: Duration = Duration::from_millis(100);

/// Slow heads add at most this to the p99 of newcomers.
const ADDED: Duration = Duration::from_millis(2);

/// The fewest newcomers of each kind for which a p99 is meaningful.
const ENOUGH: u64 = 1_000;

/// After all faults the server's memory has grown by at most this part.
const MEMORY: f64 = 0.05;

/// What one run against one backend has shown.
pub(crate) struct Report {
    backend: String,
    rows: Vec<Row>,
    /// Violations that belong to no single fault.
    violations: Vec<String>,
    pub(crate) without_slow_heads: ConnectTimes,
    pub(crate) with_slow_heads: ConnectTimes,
    /// Anonymous memory before the first fault and after the last.
    pub(crate) memory: Option<(u64, u64)>,
    /// Connections that had lost their other end, and the sockets that the kernel ended for lack of memory.
    half_open: u64,
    pub(crate) ended_for_memory: u64,
    /// A signal ended the run early.
    pub(crate) partial: bool,
}

struct Row {
    fault: Fault,
    rounds: u64,
    findings: Findings,
    violations: u64,
    note: String,
}

impl Report {
    pub(crate) fn new(backend: &str, faults: &[Fault]) -> Report {
        let row = |&fault| Row {
            fault,
            rounds: 0,
            findings: Findings::default(),
            violations: 0,
            note: String::new(),
        };
        Report {
            backend: backend.to_owned(),
            rows: faults.iter().map(row).collect(),
            violations: Vec::new(),
            without_slow_heads: ConnectTimes::new(),
            with_slow_heads: ConnectTimes::new(),
            memory: None,
            half_open: 0,
            ended_for_memory: 0,
            partial: false,
        }
    }

    /// Adds one round of a fault, and prints a line about it. Where something is wrong it also prints what
    /// the server logged.
    pub(crate) fn round(
        &mut self,
        fault: Fault,
        at: Duration,
        memory: u64,
        mut outcome: Outcome,
        deliveries: Findings,
    ) {
        let mut findings = std::mem::take(&mut outcome.findings);
        findings += deliveries;
        outcome.violations.extend(ended_without_cause(fault, &findings));
        let good = findings.is_good() && outcome.violations.is_empty();
        println!(
            "{:>5} s  {:<9} {:<12} {:>9} deliveries, {} gaps, {} reconnects, {:.1} MiB; {}{}",
            at.as_secs(),
            self.backend,
            fault.name(),
            findings.delivered,
            findings.gaps,
            findings.stream_ends.reconnects,
            mebibytes(memory),
            outcome.note,
            if good { "" } else { "  VIOLATION" },
        );
        for violation in findings.examples.drain(..).chain(outcome.violations.iter().cloned()) {
            println!("         {violation}");
            self.violations.push(format!("{}: {violation}", fault.name()));
        }
        for line in outcome.log.lines().filter(|_| !good) {
            println!("         | {line}");
        }
        self.half_open += findings.half_open;
        let Some(row) = self.rows.iter_mut().find(|row| row.fault == fault) else { return };
        row.rounds += u64::from(!outcome.skipped);
        row.violations += outcome.violations.len() as u64;
        row.findings += findings;
        row.note = outcome.note;
    }

    /// Adds deliveries that belong to no single fault.
    pub(crate) fn deliveries(&mut self, when: &str, findings: &Findings) {
        self.half_open += findings.half_open;
        if !findings.is_good() {
            self.violation(format!("{when}: {findings:?}"));
        }
    }

    /// Adds a violation that belongs to no single fault.
    pub(crate) fn violation(&mut self, text: String) {
        println!("         VIOLATION: {text}");
        self.violations.push(text);
    }

    /// Prints the table and the other measurements. Returns whether nothing was violated and the run was
    /// complete. Times and memory are judged only if `judged` is true.
    pub(crate) fn conclude(mut self, judged: bool) -> bool {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header([
            "fault",
            "rounds",
            "delivered",
            "lost",
            "doubled",
            "disordered",
            "damaged",
            "absent",
            "gaps",
            "missed in gap",
            "lost with process",
            "cut",
            "reconnects",
            "half-open",
            "other",
            "last round",
        ]);
        for row in &self.rows {
            let found = &row.findings;
            let mut cells = vec![row.fault.name()];
            let numbers = [
                row.rounds,
                found.delivered,
                found.lost,
                found.doubled,
                found.disordered,
                found.damaged,
                found.absent,
                found.gaps,
                found.missed_in_gap,
                found.lost_with_process,
                found.stream_ends.cut,
                found.stream_ends.reconnects,
                found.half_open,
                row.violations,
            ];
            cells.extend(numbers.iter().map(u64::to_string));
            cells.push(row.note.clone());
            table.add_row(cells);
        }
        for column in table.column_iter_mut().skip(1).take(14) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!("\n{} {}\n{table}", self.backend, if self.partial { "(ended early)" } else { "" });
        self.newcomers(judged);
        self.memory_held(judged);
        self.stalls(judged);
        self.left_out(judged);
        self.other_ends();
        let good = self.violations.is_empty() && self.rows.iter().all(|row| row.findings.is_good());
        for violation in &self.violations {
            println!("violation: {violation}");
        }
        println!("{}: {}\n", self.backend, if good { "nothing was violated" } else { "VIOLATED" });
        good && !self.partial
    }

    fn newcomers(&mut self, judged: bool) {
        let failed = self.without_slow_heads.failed + self.with_slow_heads.failed;
        let failure =
            self.with_slow_heads.first_failure.take().or(self.without_slow_heads.first_failure.take());
        if failed > 0 {
            self.violations.push(format!("{failed} newcomers failed: {}", failure.unwrap_or_default()));
        }
        if self.rows.iter().all(|row| row.fault != Fault::SlowHeads) {
            return;
        }
        for (name, times) in
            [("without slow heads", &self.without_slow_heads), ("with slow heads   ", &self.with_slow_heads)]
        {
            println!(
                "connect to head {name}: p50 {:.2} ms, p99 {:.2} ms, {} newcomers, {} failed",
                millis(times.at(50.0)),
                millis(times.at(99.0)),
                times.count(),
                times.failed
            );
        }
        let added = self.with_slow_heads.at(99.0).saturating_sub(self.without_slow_heads.at(99.0));
        let enough = self.without_slow_heads.count().min(self.with_slow_heads.count()) >= ENOUGH;
        println!(
            "slow heads add {:.2} ms to p99 (promised: {ADDED:?}){}",
            millis(added),
            if judged && enough { "" } else { "; not judged" }
        );
        if judged && !enough {
            self.violations.push(format!("fewer than {ENOUGH} newcomers of a kind got their heads: no p99"));
        }
        if judged && enough {
            if self.with_slow_heads.at(99.0) > CONNECT {
                self.violations
                    .push(format!("newcomers with slow heads wait longer than {CONNECT:?} at p99"));
            }
            if added > ADDED {
                self.violations.push(format!("slow heads add more than {ADDED:?} to a newcomer's p99"));
            }
        }
    }

    /// Judged over the whole run, because how far a stalled subscriber falls behind in one round is random.
    fn stalls(&mut self, judged: bool) {
        let row = self.rows.iter().find(|row| row.fault == Fault::Stall);
        if judged
            && row.is_some_and(|row| {
                row.rounds > 0 && row.findings.stream_ends.reconnects == row.findings.unhindered.reconnects
            })
        {
            self.violations.push("no stalled subscriber was over a bound: none was disconnected".to_owned());
        }
    }

    /// A fault that was asked for and was skipped is a violation.
    fn left_out(&mut self, judged: bool) {
        for row in self.rows.iter().filter(|row| judged && row.rounds == 0) {
            let name = row.fault.name();
            self.violations
                .push(format!("{name} was skipped (name the others to leave it out): {}", row.note));
        }
    }

    /// A connection may lose its other end only where the kernel has ended the server's socket.
    fn other_ends(&mut self) {
        let (count, ended) = (self.half_open, self.ended_for_memory);
        println!(
            "connections without an other end: {count}; the kernel ended {ended} sockets for lack of memory"
        );
        if count > ended {
            self.violations.push(format!(
                "{count} connections lost their other end, and the kernel ended {ended} sockets"
            ));
        }
    }

    fn memory_held(&mut self, judged: bool) {
        let Some((before, after)) = self.memory else {
            if judged {
                self.violations.push("the server's memory could not be read".to_owned());
            }
            return;
        };
        let grown = after as f64 / before as f64 - 1.0;
        println!(
            "anonymous memory of the server: {:.2} MiB before the faults, {:.2} MiB after, {:+.1} % \
             (promised: 5 %){}",
            mebibytes(before),
            mebibytes(after),
            grown * 100.0,
            if judged { "" } else { "; not judged" }
        );
        if judged && grown > MEMORY {
            self.violations.push(format!("the server holds {:.1} % more memory than before", grown * 100.0));
        }
    }
}

/// A violation if streams of unhindered subscribers ended: resuming would hide that.
fn ended_without_cause(fault: Fault, found: &Findings) -> Option<String> {
    let count = found.unhindered.reconnects;
    (count > 0 && fault.keeps_streams_of_subscribers() && found.longest_delay < BUSY_MACHINE)
        .then(|| format!("{count} streams ended although their subscribers read all the time"))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::StreamEnds;

    /// A report without violations.
    fn report() -> Report {
        let mut report = Report::new("epoll", &[Fault::SlowHeads]);
        report.rows[0].rounds = 1;
        for _ in 0..ENOUGH {
            report.without_slow_heads.record(Duration::from_millis(1));
            report.with_slow_heads.record(Duration::from_millis(2));
        }
        report.memory = Some((100, 101));
        report
    }

    #[test]
    fn a_run_without_violations_passes() {
        assert!(report().conclude(true));
    }

    /// Losses while the log was filled before the first fault were ignored.
    #[test]
    fn a_loss_outside_of_faults_is_a_violation() {
        let mut report = report();
        report.deliveries("before all faults", &Findings { delivered: 7, ..Findings::default() });
        assert!(report.violations.is_empty());
        report.deliveries("before all faults", &Findings { lost: 1, ..Findings::default() });
        assert!(!report.conclude(false));
    }

    /// Failures are not in the histogram, and an empty histogram was taken for a fault that was not asked
    /// for.
    #[test]
    fn newcomers_that_all_fail_are_a_violation() {
        for judged in [false, true] {
            let mut report = Report { with_slow_heads: ConnectTimes::new(), ..report() };
            report.with_slow_heads.failed = 3;
            assert!(!report.conclude(judged), "judged: {judged}");
        }
    }

    /// Stalls in which no subscriber is disconnected do not show what happens at a laggard's bound.
    #[test]
    fn stalls_without_a_disconnect_are_a_violation_where_they_are_judged() {
        let stalled = |reconnects| {
            let mut report = report();
            report.rows = Report::new("epoll", &[Fault::Stall]).rows;
            let stream_ends = StreamEnds { reconnects, ..StreamEnds::default() };
            let findings = Findings { stream_ends, ..Findings::default() };
            report.round(
                Fault::Stall,
                Duration::ZERO,
                0,
                Outcome { findings, ..Outcome::default() },
                Findings::default(),
            );
            report
        };
        assert!(!stalled(0).conclude(true));
        assert!(stalled(0).conclude(false));
        assert!(stalled(3).conclude(true));
    }

    /// Resuming hid streams that the server ended, and in stalls these even counted as laggards at their
    /// bound.
    #[test]
    fn a_subscriber_that_reads_keeps_its_stream() {
        let ended = |fault, late| {
            let unhindered = StreamEnds { reconnects: 2, ..StreamEnds::default() };
            let findings =
                Findings { stream_ends: unhindered, unhindered, longest_delay: late, ..Findings::default() };
            ended_without_cause(fault, &findings).is_some()
        };
        assert!(ended(Fault::Stall, Duration::ZERO) && ended(Fault::Storm, Duration::ZERO));
        assert!(!ended(Fault::Storm, BUSY_MACHINE) && !ended(Fault::Kill, Duration::ZERO));
    }

    #[test]
    fn a_fault_that_was_not_done_is_a_violation_where_it_is_judged() {
        let left_out = || {
            let mut report = report();
            report.rows = Report::new("epoll", &[Fault::Memory]).rows;
            report.round(
                Fault::Memory,
                Duration::ZERO,
                0,
                Outcome { skipped: true, ..Outcome::default() },
                Findings::default(),
            );
            report
        };
        assert!(!left_out().conclude(true));
        assert!(left_out().conclude(false));
    }

    /// Where the kernel has ended no socket, the server has closed one and its subscriber waits.
    #[test]
    fn a_half_open_connection_is_a_violation_unless_the_kernel_ended_the_socket() {
        let left = |half_open, ended_for_memory| {
            let mut report = Report { ended_for_memory, ..report() };
            report.deliveries("after all faults", &Findings { half_open, ..Findings::default() });
            report
        };
        assert!(left(2, 2).conclude(true));
        assert!(!left(2, 1).conclude(false));
    }

    #[test]
    fn memory_that_cannot_be_read_is_a_violation_where_it_is_judged() {
        let unread = || Report { memory: None, ..report() };
        assert!(!unread().conclude(true));
        assert!(unread().conclude(false));
    }

    #[test]
    fn too_few_newcomers_are_a_violation_where_they_are_judged() {
        let few = || Report { with_slow_heads: ConnectTimes::new(), ..report() };
        assert!(!few().conclude(true));
        assert!(few().conclude(false));
    }
}
