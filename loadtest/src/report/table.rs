//! Results for a terminal.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use super::columns::columns;
use super::{Change, Listened, Percentiles, Report, units};
use crate::ask::Asked;
use crate::compare::{Comparison, Row};
use crate::threshold::{Fate, Judged};

/// Seconds in the units of a report's keys.
const US: f64 = 1e-6;
const MS: f64 = 1e-3;

/// A figure, or a dash where there is none.
pub(crate) fn figure(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value < 0.0 => format!("-{}", figure(Some(-value))),
        Some(value) if value >= 1_000.0 => group(value.round() as u64),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

/// Thousands apart.
pub(crate) fn group(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// One run, as people read it.
pub(crate) fn summary(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    for (name, value) in rows(report) {
        table.add_row([Cell::new(name), Cell::new(value)]);
    }
    let mut text = format!("{} against {} ({})", report.scenario, report.name, report.arrangement);
    for line in table.lines() {
        text.push_str(&format!("\n{}", line.trim_end()));
    }
    for note in &report.notes {
        text.push_str(&format!("\nnote: {note}"));
    }
    if let Some(against) = &report.against {
        text.push_str(&format!("\nagainst {}:", against.file));
        for Change { metric, shown, .. } in &against.changes {
            text.push_str(&format!("\n  {metric}: {shown}"));
        }
        for difference in &against.differences {
            text.push_str(&format!("\n  differs: {difference}"));
        }
    }
    for Judged { threshold, result, shown, .. } in &report.thresholds {
        let result = match result {
            Fate::Passed => "passed",
            Fate::Failed => "FAILED",
            Fate::Unknown => "UNKNOWN",
        };
        text.push_str(&format!("\nthreshold {threshold}: {result} ({shown})"));
    }
    text.push('\n');
    text.push_str(report.verdict);
    text
}

/// Percentiles whose values have so many seconds in one.
fn percentiles(times: &Percentiles, unit: f64) -> String {
    let at = |value: f64| units::time(value * unit);
    format!("p50 {}  p99 {}  max {}", at(times.p50), at(times.p99), at(times.max))
}

/// The figures of a run by their names.
pub(super) fn rows(report: &Report) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
    let opened = match report.opening.streams {
        opened if opened == report.subscribers => String::new(),
        opened => format!(", {} opened in all", group(opened)),
    };
    let at_start = match report.opening.per_second {
        0.0 => String::new(),
        rate => format!("; {} a second at the start", units::number(rate)),
    };
    row(
        "streams",
        format!(
            "{} of {} open at the end{opened}{at_start}",
            group(report.streams_open_at_end),
            group(report.streams_wanted_at_end)
        ),
    );
    match &report.listened {
        Some(listened) => describe_listened(&mut row, report, listened),
        None => {
            let before = match report.tried_out {
                0 => String::new(),
                tried => format!(", and {} before the measurement", group(tried)),
            };
            row("events", format!("{}{before}", group(report.published - report.tried_out)));
            row("deliveries", format!("{}: {}", group(report.deliveries), report.faults().told()));
        }
    }
    if let Some(missed) = report.published_while_away {
        let resumed = group(report.streams_resumed);
        row(
            "while all were cut",
            format!("{missed} events published; {resumed} streams came back with an id"),
        );
    }
    if let Some(latency) = &report.latency_us {
        let at = |value: f64| units::time(value * US);
        let values = format!(
            "p50 {}  p90 {}  p99 {}  p99.9 {}  max {}",
            at(latency.p50),
            at(latency.p90),
            at(latency.p99),
            at(latency.p99_9),
            at(latency.max)
        );
        // A client at its limit adds to the server's latency, and takes from its rate.
        row("latency", if report.lower_bound { format!("at most {values}") } else { values });
    }
    for part in &report.parts {
        if let Some(latency) = &part.latency_us {
            row(&format!("  {}", part.name), percentiles(latency, US));
        }
    }
    if let Some(last) = &report.last_subscriber_ms_percentiles {
        row("last subscriber", percentiles(last, MS));
    }
    if let Some(answer) = &report.client.publish_answer_us {
        row("answer to a publish", percentiles(answer, US));
    }
    if let Some(asked) = &report.asked {
        row("meanwhile asked", describe(asked));
    }
    if let Some(rate) = report.deliveries_per_s {
        let bound = if report.lower_bound { ">= " } else { "" };
        row("deliveries a second, achieved", format!("{bound}{}", units::number(rate)));
    }
    let mut optional = |name: &str, value: Option<f64>, show: fn(f64) -> String| {
        if let Some(value) = value {
            row(name, show(value));
        }
    };
    let (number, time, bytes) = (units::number, units::time, units::bytes);
    let us = |value: Option<f64>| value.map(|us| us * US);
    let count = |value: Option<u64>| value.map(|count| count as f64);
    let percent: fn(f64) -> String = |share| format!("{} % of a core", units::number(share * 100.0));
    optional("deliveries a second, offered", report.offered_deliveries_per_s, number);
    optional("outstanding at the last publish", count(report.backlog_at_last_publish), number);
    optional("server CPU per delivery", us(report.server_cpu_us_per_delivery), time);
    let ksoftirqd = match report.ksoftirqd_is_the_servers {
        true => "  of it ksoftirqd",
        false => "  ksoftirqd per delivery, not counted",
    };
    optional(ksoftirqd, us(report.ksoftirqd_cpu_us_per_delivery), time);
    optional("server CPU while idle", report.server_idle_cpu_share, percent);
    optional("server CPU per opened stream", us(report.server_cpu_us_per_opening), time);
    optional("server memory per stream", report.server_user_bytes_per_connection, bytes);
    optional("  after deliveries", report.server_user_bytes_per_connection_after, bytes);
    optional("kernel slab per pair of sockets", report.kernel_slab_bytes_per_pair, bytes);
    optional("all back after", report.storm_all_back_ms.map(|ms| ms * MS), time);
    optional("server memory grown while stalled", report.slow_server_bytes_grown, bytes);
    optional("socket buffers grown while stalled", report.slow_kernel_tcp_bytes_grown, bytes);
    optional("lost by the stalled", count(report.slow_lost), number);
    optional("published for the stalled", count(report.slow_backlog_bytes), bytes);
    optional("  waiting in their own buffers", count(report.slow_waiting_bytes), bytes);
    let heartbeats = &report.heartbeats;
    row(
        "heartbeats",
        format!(
            "{} at {} streams; the longest silence was {}",
            group(heartbeats.count),
            group(heartbeats.streams_with),
            units::time(heartbeats.longest_silence_s)
        ),
    );
    let busiest = report.client.threads.iter().map(|thread| thread.cpu_share).fold(0.0, f64::max);
    let each = report
        .client
        .cpu_us_per_delivery
        .map_or(String::new(), |us| format!(", {} of CPU a delivery", units::microseconds(us)));
    let cores = report
        .client
        .cores_cpu_us_per_delivery
        .map_or(String::new(), |us| format!(" ({} of its cores)", units::microseconds(us)));
    let each = format!("{each}{cores}");
    row("client", format!("busiest thread {:.0} % of a core{each}", busiest * 100.0));
    rows
}

/// What came by itself.
fn describe_listened(row: &mut impl FnMut(&str, String), report: &Report, listened: &Listened) {
    let ids = &report.ids;
    row(
        "events",
        format!(
            "{}: {} doubled, {} out of order by their ids ({} had one)",
            group(listened.events),
            report.doubled,
            report.out_of_order,
            group(ids.with)
        ),
    );
    let rates = (units::number(listened.events_per_s), units::bytes(listened.bytes_per_s));
    row("events a second", format!("{} ({} a second)", rates.0, rates.1));
    for (name, times) in [
        ("first event after", &listened.first_event_ms),
        ("between two events", &listened.gap_ms),
        ("last event after", &listened.last_event_ms),
    ] {
        if let Some(times) = times {
            row(name, percentiles(times, MS));
        }
    }
    if report.streams_ended > 0 {
        let (ended, cut) = (group(report.streams_ended), group(report.streams_cut));
        row("streams that ended", format!("{ended}, {cut} of them in the middle of something"));
    }
}

/// What the clients saw that asked something else meanwhile.
fn describe(asked: &Asked) -> String {
    let answers: u64 = asked.answers.values().sum();
    let statuses = asked.answers.iter().map(|(status, count)| format!("{status}: {}", group(*count)));
    let mut parts: Vec<String> = statuses.collect();
    if asked.failed > 0 {
        parts.push(format!("failed: {}", group(asked.failed)));
    }
    let latency = asked.latency_us.as_ref();
    let latency = latency.map_or(String::new(), |latency| format!("; {}", percentiles(latency, US)));
    let rate = units::number(if asked.seconds > 0.0 { answers as f64 / asked.seconds } else { 0.0 });
    format!("{} clients, {rate} answers a second ({}){latency}", asked.clients, parts.join(", "))
}

/// Several contenders, one row each.
pub(crate) fn comparison(comparison: &Comparison) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
    let columns = columns(comparison.scenario);
    let titles = ["", "streams"].into_iter().chain(columns.iter().map(|column| column.title)).chain([""]);
    table.set_header(titles);
    for row in &comparison.rows {
        let mut cells = vec![row.name.clone(), group(row.connections)];
        cells.extend(columns.iter().map(|column| match column.value(row) {
            (value, None) => value,
            (value, Some(range)) => format!("{value}\n{range}"),
        }));
        cells.push(row.verdict());
        table.add_row(cells);
    }
    for column in 1..=columns.len() + 1 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = format!("{table}\n{}", rule(comparison));
    for note in comparison.rows.iter().flat_map(notes_of) {
        text.push_str(&format!("\nnote: {note}"));
    }
    text
}

/// How many rounds there were, and how the figures were chosen from them.
pub(super) fn rule(comparison: &Comparison) -> String {
    match comparison.rounds {
        1 => "1 round: one run is no measurement of how much runs differ".to_owned(),
        rounds => format!("{rounds} rounds: {}", comparison.rule),
    }
}

/// What is to be known of the rounds of a row.
pub(super) fn notes_of(row: &Row) -> impl Iterator<Item = String> {
    let told = |note| format!("{} at {}: {note}", row.name, group(row.connections));
    row.notes().into_iter().map(told)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Contest;
    use crate::provenance::Provenance;

    /// They were in the JSON and on the page: on a terminal a row that the client had spoiled looked like any
    /// other.
    #[test]
    fn the_notes_of_a_row_stand_under_the_table() {
        let notes = vec!["the client was the bottleneck".to_owned()];
        let round = Report { notes, valid: true, ..Report::default() };
        let rounds = vec![round];
        let row = Row { name: "bare".to_owned(), connections: 10_000, rounds, ..Row::default() };
        let text = super::comparison(&Comparison {
            tool: "",
            version: "",
            machine: String::new(),
            arrangement: String::new(),
            scenario: Contest::Fanout,
            resume: false,
            rounds: 1,
            rule: "",
            partial: false,
            absent: Vec::new(),
            provenance: Provenance::begin(),
            rows: vec![row],
        });
        assert!(text.ends_with("\nnote: bare at 10,000: the client was the bottleneck"), "{text}");
    }

    #[test]
    fn figures_have_the_digits_that_matter() {
        let shown =
            [None, Some(0.513), Some(12.34), Some(123.4), Some(1_234_567.8), Some(-4321.0)].map(figure);
        assert_eq!(shown, ["-", "0.51", "12.3", "123", "1,234,568", "-4,321"]);
    }
}
