//! Results for a terminal.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use super::Report;
use super::columns::columns;
use crate::ask::Asked;
use crate::compare::{Comparison, Row};

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
    let mut row = |name: &str, value: String| {
        table.add_row([Cell::new(name), Cell::new(value)]);
    };
    row(
        "streams",
        format!("{} ({} a second)", group(report.opening.streams), figure(Some(report.opening.per_second))),
    );
    row("events", group(report.published));
    row("deliveries", format!("{}: {}", group(report.deliveries), report.faults().told()));
    if let Some(latency) = &report.latency_us {
        let at = |value| figure(Some(value));
        let values = format!(
            "p50 {}  p90 {}  p99 {}  p99.9 {}  max {}",
            at(latency.p50),
            at(latency.p90),
            at(latency.p99),
            at(latency.p99_9),
            at(latency.max)
        );
        row("latency, us", values);
    }
    for part in &report.parts {
        if let Some(latency) = &part.latency_us {
            let at = |value| figure(Some(value));
            row(
                &format!("  {}", part.name),
                format!("p50 {}  p99 {}  max {}", at(latency.p50), at(latency.p99), at(latency.max)),
            );
        }
    }
    if let Some(last) = &report.last_subscriber_ms_percentiles {
        let at = |value| figure(Some(value));
        row(
            "last subscriber, ms",
            format!("p50 {}  p99 {}  max {}", at(last.p50), at(last.p99), at(last.max)),
        );
    }
    if let Some(answer) = &report.client.publish_answer_us {
        let at = |value| figure(Some(value));
        row(
            "answer to a publish, us",
            format!("p50 {}  p99 {}  max {}", at(answer.p50), at(answer.p99), at(answer.max)),
        );
    }
    if let Some(asked) = &report.asked {
        row("meanwhile asked", describe(asked));
    }
    let mut optional = |name: &str, value: Option<f64>| {
        if value.is_some() {
            row(name, figure(value));
        }
    };
    optional("deliveries a second", report.deliveries_per_s);
    optional("server CPU per delivery, us", report.server_cpu_us_per_delivery);
    optional("server CPU while idle, % of a core", report.server_idle_cpu_share.map(|share| share * 100.0));
    optional("server CPU per opened stream, us", report.server_cpu_us_per_opening);
    optional("server user bytes per stream", report.server_user_bytes_per_connection);
    optional("  after deliveries", report.server_user_bytes_per_connection_after);
    optional("kernel slab bytes per pair of sockets", report.kernel_slab_bytes_per_pair);
    optional("all back after, ms", report.storm_all_back_ms);
    optional("server memory grown while stalled, bytes", report.slow_server_bytes_grown);
    optional("socket buffers grown while stalled, bytes", report.slow_kernel_tcp_bytes_grown);
    optional("lost by the stalled", report.slow_lost.map(|lost| lost as f64));
    let busiest = report.client.threads.iter().map(|thread| thread.cpu_share).fold(0.0, f64::max);
    row("client", format!("busiest thread {:.0} % of a core", busiest * 100.0));
    let mut text = format!("{} against {} ({})", report.scenario, report.name, report.arrangement);
    for line in table.lines() {
        text.push_str(&format!("\n{}", line.trim_end()));
    }
    for note in &report.notes {
        text.push_str(&format!("\nnote: {note}"));
    }
    text.push_str(if report.valid { "\nvalid" } else { "\nNOT VALID" });
    text
}

/// What the clients saw that asked something else meanwhile.
fn describe(asked: &Asked) -> String {
    let answers: u64 = asked.answers.values().sum();
    let statuses = asked.answers.iter().map(|(status, count)| format!("{status}: {}", group(*count)));
    let mut parts: Vec<String> = statuses.collect();
    if asked.failed > 0 {
        parts.push(format!("failed: {}", group(asked.failed)));
    }
    let at = |value| figure(Some(value));
    let latency = asked.latency_us.as_ref();
    let latency = latency.map_or(String::new(), |us| format!("; us p50 {}  p99 {}", at(us.p50), at(us.p99)));
    let rate = figure((asked.seconds > 0.0).then(|| answers as f64 / asked.seconds));
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
        cells.extend(columns.iter().map(|column| column.value(row)));
        cells.push(row.verdict());
        table.add_row(cells);
    }
    for column in 1..=columns.len() + 1 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = table.to_string();
    for note in comparison.rows.iter().flat_map(notes_of) {
        text.push_str(&format!("\nnote: {note}"));
    }
    text
}

/// What is to be known of the run that a row shows.
pub(super) fn notes_of(row: &Row) -> impl Iterator<Item = String> {
    row.median.notes.iter().map(|note| format!("{} at {}: {note}", row.name, group(row.connections)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Contest;

    /// They were in the JSON and on the page: on a terminal a row that the client had spoiled looked like any
    /// other.
    #[test]
    fn the_notes_of_the_run_in_the_middle_stand_under_the_table() {
        let median = Report { notes: vec!["the client was the bottleneck".to_owned()], ..Report::default() };
        let row = Row { name: "bare".to_owned(), connections: 10_000, median, ..Row::default() };
        let text = super::comparison(&Comparison {
            tool: "",
            version: "",
            machine: String::new(),
            arrangement: String::new(),
            scenario: Contest::Fanout,
            rounds: 1,
            partial: false,
            absent: Vec::new(),
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
