//! The comparison as one page that needs nothing from elsewhere.

use std::fmt::Write;

use super::columns::{columns, range};
use super::plot::{Bar, Length, Line, Point, bars, escape, lines};
use super::table::{figure, group, notes_of, rule};
use super::units;
use crate::compare::{Comparison, Contest, Figure, Row, place as colour};

pub(super) const STYLE: &str = "body{font:15px/1.5 sans-serif;margin:2rem auto;max-width:76rem;padding:0 1rem;color:#222;background:#fff}\
table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}th,td{border:1px solid #ccc;padding:.2rem .6rem;text-align:right;white-space:nowrap}\
th:first-child,td:first-child,.text td,td.bad{text-align:left}.text td,td.bad{white-space:normal;min-width:16rem}.text td:first-child{min-width:0}.bad{color:#b00}.wide{overflow-x:auto;font-size:.85rem}.wide th{white-space:normal}.wide th,.wide td{padding:.15rem .4rem}svg{max-width:720px;width:100%;display:block;margin:1.5rem 0}";

/// The numbers of connections, ascending, each once.
fn sizes(comparison: &Comparison) -> Vec<u64> {
    let mut sizes: Vec<u64> = comparison.rows.iter().map(|row| row.connections).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// All plots with the names of their files. A figure that no contender has gets no plot.
pub(crate) fn plots(comparison: &Comparison) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let sizes = sizes(comparison);
    for &size in &sizes {
        let at = |row: &&Row| row.connections == size;
        let curves: Vec<Line> = comparison
            .rows
            .iter()
            .filter(at)
            // Publishing waits for the subscribers in `saturate`, and nothing is measured in `idle`.
            .filter(|_| !matches!(comparison.scenario, Contest::Saturate | Contest::Idle))
            .filter(|row| !row.latency_curve.is_empty())
            .map(|row| {
                let nines = |quantile: f64| -(1.0 - quantile).max(1e-6).log10() / 5.0;
                let points = row.latency_curve.iter().map(|&(quantile, value, lowest, highest)| Point {
                    position: nines(quantile).min(1.0),
                    value,
                    lowest,
                    highest,
                });
                Line { name: row.name.clone(), colour: colour(&row.name), points: points.collect() }
            })
            .collect();
        let ticks = ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"];
        let ticks: Vec<(f64, String)> =
            ticks.iter().enumerate().map(|(index, text)| (index as f64 / 5.0, (*text).to_owned())).collect();
        if !curves.is_empty() {
            let title = format!("Latency by percentile, {} streams", group(size));
            all.push((format!("latency-{size}"), lines(&title, units::microseconds, &ticks, &curves)));
        }
        let mut bar_plot = |name: &str, title: &str, parts: fn(&Row) -> Option<Vec<Figure>>| {
            let bar = |row: &Row| {
                let parts = parts(row)?;
                // The range is that of the first part, which the plot is about; the others would cross it.
                let text = |(place, part): (usize, &Figure)| match place {
                    0 => with_range(*part),
                    _ => figure(Some(part.median)),
                };
                let text = parts.iter().enumerate().map(text).collect::<Vec<_>>().join(" + ");
                let length = |(place, part): (usize, &Figure)| match place {
                    0 => Length { value: part.median, lowest: part.lowest, highest: part.highest },
                    _ => Length { value: part.median, lowest: part.median, highest: part.median },
                };
                let parts = parts.iter().enumerate().map(length).collect();
                Some(Bar { name: row.name.clone(), colour: colour(&row.name), parts, text })
            };
            let measured = |row: &Row| bar(row).is_some();
            if !comparison.rows.iter().filter(at).any(measured) {
                return;
            }
            // A contender without a valid round has no figure, but a place.
            let nothing = |row: &Row| {
                let (name, colour, text) = (row.name.clone(), colour(&row.name), "no valid round".to_owned());
                row.figures.is_empty().then_some(Bar { name, colour, parts: Vec::new(), text })
            };
            let found: Vec<Bar> = comparison
                .rows
                .iter()
                .filter(at)
                .filter_map(|row| bar(row).or_else(|| nothing(row)))
                .collect();
            let title = format!("{title}, {} streams", group(size));
            all.push((format!("{name}-{size}"), bars(&title, &found)));
        };
        bar_plot("cpu", "Server CPU per delivery in us", |row| {
            Some(vec![row.figure("server_cpu_us_per_delivery")?])
        });
        bar_plot("memory", "Bytes per stream: server + kernel, both ends (pale)", |row| {
            let mut parts = vec![row.figure("server_user_bytes_per_connection")?];
            // Left out where the rest of the machine was too lively to tell.
            if let Some(slab) = row.figure("kernel_slab_bytes_per_pair") {
                let stacks = row.figure("kernel_stack_bytes_per_pair").map_or(0.0, |stacks| stacks.median);
                parts.push(Figure { median: slab.median + stacks, ..slab });
            }
            Some(parts)
        });
        // Elsewhere it is the rate that was asked for.
        if matches!(comparison.scenario, Contest::Fanout | Contest::Saturate) {
            bar_plot("throughput", "Deliveries a second, achieved in the measured window", |row| {
                Some(vec![row.figure("deliveries_per_s")?])
            });
        }
        bar_plot("idle-cpu", "Server CPU while idle, % of a core", |row| {
            Some(vec![row.figure("server_idle_cpu_share")?.times(100.0)])
        });
        bar_plot("all-back", "From the cut of all streams to all being back, ms", |row| {
            Some(vec![row.figure("storm_all_back_ms")?])
        });
        bar_plot("stalled", "Bytes grown while some stall: server + socket buffers (pale)", |row| {
            Some(vec![row.figure("slow_server_bytes_grown")?, row.figure("slow_kernel_tcp_bytes_grown")?])
        });
        for (name, percentile) in [("small-p50", "p50"), ("small-p99", "p99")] {
            let title = format!("Latency of the small topic in us, {percentile}");
            bar_plot(
                name,
                &title,
                match percentile {
                    "p50" => |row| Some(vec![row.figure("parts.small.latency_us.p50")?]),
                    _ => |row| Some(vec![row.figure("parts.small.latency_us.p99")?]),
                },
            );
        }
    }
    let most = sizes.last().copied().unwrap_or(1).max(2) as f64;
    let least = sizes.first().copied().unwrap_or(1).max(1) as f64;
    let position =
        |size: u64| if most > least { (size as f64 / least).ln() / (most / least).ln() } else { 0.5 };
    let mut last: Vec<Line> = Vec::new();
    for row in &comparison.rows {
        let Some(ms) = row.figure("last_subscriber_ms") else { continue };
        let Figure { median: value, lowest, highest, .. } = ms;
        let point = Point { position: position(row.connections), value, lowest, highest };
        match last.iter_mut().find(|line| line.name == row.name) {
            Some(line) => line.points.push(point),
            None => {
                last.push(Line { name: row.name.clone(), colour: colour(&row.name), points: vec![point] })
            }
        }
    }
    if !last.is_empty() {
        let ticks: Vec<(f64, String)> = sizes.iter().map(|&size| (position(size), group(size))).collect();
        all.push((
            "last-subscriber".to_owned(),
            lines("Time to the last subscriber by streams", units::milliseconds, &ticks, &last),
        ));
    }
    all
}

/// A figure, with its range where it has one.
fn with_range(found: Figure) -> String {
    let median = figure(Some(found.median));
    range(found).map_or(median.clone(), |range| format!("{median} ({range})"))
}

/// The whole page.
pub(crate) fn page(comparison: &Comparison) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>Event stream servers compared: {scenario}</title><style>{STYLE}body{{max-width:120rem}}</style><h1>Event stream servers compared: {scenario}</h1><p>{}; {}; each run has a fresh server, and the contenders take turns.{}</p>",
        escape(&comparison.machine),
        escape(&comparison.arrangement),
        if comparison.partial { " <strong class=\"bad\">Interrupted: partial.</strong>" } else { "" },
        scenario = comparison.title()
    );
    let columns = columns(comparison.scenario);
    page.push_str("<div class=\"wide\"><table><tr><th></th><th>streams</th>");
    for column in &columns {
        let _ = write!(page, "<th>{}</th>", column.title);
    }
    page.push_str("<th></th></tr>");
    for row in &comparison.rows {
        let _ = write!(page, "<tr><td>{}</td><td>{}</td>", escape(&row.name), group(row.connections));
        for column in &columns {
            let _ = match column.value(row) {
                (value, None) => write!(page, "<td>{value}</td>"),
                (value, Some(range)) => write!(page, "<td>{value}<br><small>{range}</small></td>"),
            };
        }
        let mut wrong = row.problems();
        let verdict = row.verdict();
        if !verdict.is_empty() {
            wrong.insert(0, verdict);
        }
        let _ = write!(page, "<td class=\"bad\">{}</td></tr>", escape(&wrong.join("; ")));
    }
    let _ = write!(page, "</table></div><p>{}.</p>", escape(&rule(comparison)));
    for (_, svg) in plots(comparison) {
        page.push_str(&svg);
    }
    page.push_str("<h2>Settings</h2><table class=\"text\"><tr><th>server</th><th>version</th><th>settings</th><th>what it cannot do</th><th>what its expert would object to</th></tr>");
    let mut told: Vec<&str> = Vec::new();
    for row in comparison.rows.iter() {
        if !told.contains(&row.name.as_str()) {
            told.push(&row.name);
            let _ = write!(
                page,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                escape(&row.name),
                escape(row.version_of_program.as_deref().unwrap_or("-")),
                escape(&row.settings),
                escape(&row.cannot),
                escape(&row.objections.join(" "))
            );
        }
    }
    page.push_str("</table>");
    let mut notes: Vec<String> = comparison.absent.clone();
    for row in &comparison.rows {
        notes.extend(notes_of(row));
    }
    if !notes.is_empty() {
        page.push_str("<h2>Notes</h2><ul>");
        for note in notes {
            let _ = write!(page, "<li>{}</li>", escape(&note));
        }
        page.push_str("</ul>");
    }
    page.push_str("<p>Latency counts from the time at which the schedule wanted the event to be published. On loopback the kernel does the receiver's work on the sender's account unless the arrangement says steered, and there is no network: these figures compare servers, they do not predict a deployment.</p></html>\n");
    page
}
