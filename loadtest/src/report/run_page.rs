//! One run as a page that needs nothing from elsewhere: verdict, thresholds, figures, plots, settings.

use std::fmt::Write;

use super::html::STYLE;
use super::plot::{Line, Point, escape, lines};
use super::table::rows;
use super::{Report, SecondOfRun, units};
use crate::threshold::Fate;

/// Points of a line that can still be told apart.
const MOST_POINTS: usize = 600;

/// The colours of the curves of a run's parts. The curve of the whole run has the first colour.
const COLOURS_OF_PARTS: [usize; 4] = [2, 5, 4, 8];

/// The whole page.
pub(crate) fn run_page(report: &Report) -> String {
    let title = format!("{} against {}", report.scenario, report.name);
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title><style>{STYLE}</style><h1>{title}</h1><p><strong{}>Verdict: {}</strong></p><p>{}; {}</p>",
        if report.passed { "" } else { " class=\"bad\"" },
        escape(report.verdict),
        escape(&report.machine),
        escape(&report.arrangement),
        title = escape(&title),
    );
    list(&mut page, "What is wrong", &report.problems);
    thresholds(&mut page, report);
    page.push_str("<h2>Figures</h2><table class=\"text\">");
    for (name, value) in rows(report) {
        // What stands below another figure, and is a part of it, is indented.
        let (indent, name) = name.strip_prefix("  ").map_or(("", name.as_str()), |name| ("&emsp;", name));
        let _ = write!(page, "<tr><td>{indent}{}</td><td>{}</td></tr>", escape(name), escape(&value));
    }
    page.push_str("</table>");
    against(&mut page, report);
    for svg in plots(report) {
        page.push_str(&svg);
    }
    list(&mut page, "Notes", &report.notes);
    agents(&mut page, report);
    provenance(&mut page, report);
    page.push_str("<h2>Settings</h2><table class=\"text\">");
    settings(&mut page, "", &report.settings);
    let _ = writeln!(
        page,
        "</table><p>Written by {} {}. Latency counts from the time at which the schedule wanted the event to be published.</p></html>",
        report.tool, report.version
    );
    page
}

fn list(page: &mut String, title: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let _ = write!(page, "<h2>{title}</h2><ul>");
    for line in lines {
        let _ = write!(page, "<li>{}</li>", escape(line));
    }
    page.push_str("</ul>");
}

/// The result is a word as well as a colour.
fn thresholds(page: &mut String, report: &Report) {
    if report.thresholds.is_empty() {
        return;
    }
    page.push_str(
        "<h2>Thresholds</h2><table class=\"text\"><tr><th>fail if</th><th>result</th><th>this run</th></tr>",
    );
    for judged in &report.thresholds {
        let (class, result) = match judged.result {
            Fate::Passed => ("", "passed"),
            Fate::Failed => (" class=\"bad\"", "FAILED"),
            Fate::Unknown => (" class=\"bad\"", "UNKNOWN"),
        };
        let (threshold, shown) = (escape(&judged.threshold), escape(&judged.shown));
        let _ = write!(page, "<tr><td>{threshold}</td><td{class}>{result}</td><td>{shown}</td></tr>");
    }
    page.push_str("</table>");
}

/// The load machines, where there are several.
fn agents(page: &mut String, report: &Report) {
    if report.agents.is_empty() {
        return;
    }
    page.push_str(
        "<h2>Agents</h2><div class=\"wide\"><table><tr><th>agent</th><th>streams</th><th>threads</th><th>% of its cores</th><th>% stolen</th><th>clock: ms from the controller's</th><th>latencies right within, us</th><th>machine</th></tr>",
    );
    for agent in &report.agents {
        let percent = |share: f64| units::number(share * 100.0);
        let machine = match agent.lost {
            true => "LOST: it did not say what it saw".to_owned(),
            false => escape(&agent.machine),
        };
        let _ = write!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td{}>{machine}</td></tr>",
            escape(&agent.name),
            agent.subscribers,
            agent.threads,
            percent(agent.cores_share),
            agent.stolen_share.map_or("-".to_owned(), percent),
            units::number(agent.clock.offset_before_ns as f64 / 1e6),
            units::number(agent.clock.latencies_right_within_us),
            if agent.lost { " class=\"bad\"" } else { "" },
        );
    }
    page.push_str("</table></div>");
}

/// When and by which command: a page is kept longer than the terminal on which the run was begun.
fn provenance(page: &mut String, report: &Report) {
    let Some(provenance) = &report.provenance else { return };
    let rows = [
        ("started", provenance.started.as_str()),
        ("ended", &provenance.ended),
        ("command", &provenance.command),
        ("commit of the load test", provenance.commit),
    ];
    page.push_str("<h2>Run</h2><table class=\"text\">");
    for (name, value) in rows {
        let _ = write!(page, "<tr><td>{name}</td><td>{}</td></tr>", escape(value));
    }
    page.push_str("</table>");
}

fn against(page: &mut String, report: &Report) {
    let Some(against) = &report.against else { return };
    let file = escape(&against.file);
    let _ = write!(page, "<h2>Against {file}</h2><table class=\"text\">");
    for change in &against.changes {
        let _ = write!(page, "<tr><td>{}</td><td>{}</td></tr>", change.metric, escape(&change.shown));
    }
    page.push_str("</table>");
    list(page, "What differs from the earlier run", &against.differences);
}

/// All settings by the path of their names.
fn settings(page: &mut String, path: &str, value: &serde_json::Value) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                settings(page, &below, value);
            }
        }
        serde_json::Value::Null => {}
        value => {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let _ = write!(page, "<tr><td>{}</td><td>{}</td></tr>", escape(path), escape(&text));
        }
    }
}

fn plots(report: &Report) -> Vec<String> {
    let mut all = Vec::new();
    if !report.latency_curve.is_empty() {
        let nines = |quantile: f64| (-(1.0 - quantile).max(1e-6).log10() / 5.0).min(1.0);
        let line = |name: &str, colour: usize, curve: &[(f64, f64)]| {
            let points = curve.iter().map(|&(quantile, us)| Point::at(nines(quantile), us));
            Line { name: name.to_owned(), colour, points: points.collect() }
        };
        // What the stalled see is in a curve of its own alone.
        let whole = match report.scenario.as_str() {
            "slow" => "all but the stalled",
            _ if report.parts.is_empty() => "latency",
            _ => "all",
        };
        let mut drawn = vec![line(whole, 0, &report.latency_curve)];
        for (part, colour) in report.parts.iter().zip(COLOURS_OF_PARTS) {
            if !part.latency_curve.is_empty() {
                drawn.push(line(&part.name, colour, &part.latency_curve));
            }
        }
        let ticks = ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"].into_iter().enumerate();
        let ticks: Vec<_> = ticks.map(|(index, text)| (index as f64 / 5.0, text.to_owned())).collect();
        all.push(lines("Latency by percentile", units::microseconds, &ticks, &drawn));
    }
    let count = report.seconds.len();
    if count < 2 {
        return all;
    }
    let last = count - 1;
    let tick = |second: usize| (second as f64 / last as f64, format!("{second} s"));
    let ticks: Vec<_> = (0..=last).step_by(last.div_ceil(4)).map(tick).collect();
    // A logarithmic axis has no place for zero.
    let line = |name: &str, colour, value: &dyn Fn(&SecondOfRun) -> Option<f64>| {
        let step = count.div_ceil(MOST_POINTS);
        let chunks = report.seconds.chunks(step).enumerate();
        // Of the seconds that share a point the worst one is shown.
        let worst = |chunk: &[SecondOfRun]| {
            chunk
                .iter()
                .filter_map(value)
                .fold(None, |most: Option<f64>, one| Some(most.map_or(one, |most| most.max(one))))
        };
        let points = chunks
            .filter_map(|(index, chunk)| {
                let position = (index * step) as f64 / last as f64;
                Some(Point::at(position, worst(chunk).filter(|value| *value > 0.0)?))
            })
            .collect::<Vec<_>>();
        (!points.is_empty()).then(|| Line { name: name.to_owned(), colour, points })
    };
    let mut plot = |title: &str, label: fn(f64) -> String, drawn: Vec<Option<Line>>| {
        let drawn: Vec<Line> = drawn.into_iter().flatten().collect();
        if !drawn.is_empty() {
            all.push(lines(title, label, &ticks, &drawn));
        }
    };
    plot(
        "Latency by second",
        units::milliseconds,
        vec![
            line("max", 2, &|second| second.latency_max_ms),
            line("p99", 5, &|second| second.latency_p99_ms),
            line("p50", 0, &|second| second.latency_p50_ms),
        ],
    );
    plot(
        "Events and deliveries in each second",
        units::number,
        vec![
            line("deliveries", 0, &|second| Some(second.deliveries as f64)),
            line("events", 8, &|second| Some(second.published as f64)),
        ],
    );
    plot(
        "Open streams by second",
        units::number,
        vec![line("streams", 4, &|second| Some(second.streams_open as f64))],
    );
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distributed::MachineFigures;
    use crate::report::Part;
    use crate::threshold::judge;

    #[test]
    fn a_page_has_everything_and_loads_nothing() {
        let second = |deliveries| SecondOfRun {
            deliveries,
            latency_max_ms: Some(3.0),
            streams_open: 5,
            ..SecondOfRun::default()
        };
        let mut report = Report {
            name: "http://h/<script>".to_owned(),
            scenario: "fanout".to_owned(),
            verdict: "threshold failed",
            notes: vec!["a note".to_owned()],
            problems: vec!["a problem".to_owned()],
            seconds: (0..5_000).map(second).collect(),
            latency_curve: vec![(0.0, 1.0), (0.9, 5.0)],
            parts: vec![Part {
                name: "small".to_owned(),
                latency_curve: vec![(0.0, 2.0), (0.9, 6.0)],
                ..Part::default()
            }],
            agents: vec![
                MachineFigures {
                    name: "10.0.0.1:7".to_owned(),
                    subscribers: 12,
                    ..MachineFigures::default()
                },
                MachineFigures { name: "10.0.0.2:7".to_owned(), lost: true, ..MachineFigures::default() },
            ],
            settings: serde_json::json!({ "load": { "rate": 7.5, "url": "http://u" } }),
            ..Report::default()
        };
        report.provenance = Some(crate::provenance::Provenance::begin());
        let started = report.provenance.as_ref().map_or(String::new(), |known| known.started.clone());
        judge(&mut report, &["lost>=0".parse().unwrap(), "lost>0".parse().unwrap()], None);
        let page = run_page(&report);
        for told in ["threshold failed", "a note", "a problem", "FAILED", "passed", "load.rate", "7.5"] {
            assert!(page.contains(told), "{told}");
        }
        for told in [">small<", ">all<", "10.0.0.1:7", "<td>12</td>", "LOST"] {
            assert!(page.contains(told), "{told}");
        }
        assert_eq!(page.matches("<svg").count(), 4);
        assert!(page.contains(&format!("<td>{started}</td>")), "a page says when it was made");
        for outside in ["src=", "href=", "url(", "@import", "<script"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.len() < 200_000, "{}", page.len());
    }
}
