//! The figures of a run that is under way, in Prometheus' text format.

use std::fmt::Write;

use crate::client::Timings;
use crate::clock::SECOND;
use crate::sequence::Faults;

/// What there is so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct SoFar {
    pub(crate) streams_open: u64,
    pub(crate) streams_wanted: u64,
    pub(crate) published: u64,
    pub(crate) deliveries: u64,
    /// Without what is lost: that is known at the end only.
    pub(crate) faults: Faults,
    pub(crate) latency: Option<Timings>,
}

/// The whole answer to a scrape.
pub(crate) fn exposition(so_far: &SoFar) -> String {
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, value: u64| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    };
    metric("fanfare_load_streams_open", "gauge", "Streams that are open.", so_far.streams_open);
    metric("fanfare_load_streams_wanted", "gauge", "Streams that the run asks for.", so_far.streams_wanted);
    metric("fanfare_load_published_total", "counter", "Events that were published.", so_far.published);
    let help = "Deliveries, repeated ones not counted.";
    metric("fanfare_load_deliveries_total", "counter", help, so_far.deliveries);
    let Faults { lost: _, doubled, out_of_order, damaged, misrouted } = so_far.faults;
    text.push_str(
        "# HELP fanfare_load_faults_total Wrong deliveries; what is lost is known at the end of the run.\n# TYPE fanfare_load_faults_total counter\n",
    );
    for (kind, count) in
        [("doubled", doubled), ("out_of_order", out_of_order), ("damaged", damaged), ("misrouted", misrouted)]
    {
        let _ = writeln!(text, "fanfare_load_faults_total{{kind=\"{kind}\"}} {count}");
    }
    if let Some(latency) = &so_far.latency {
        let name = "fanfare_load_latency_seconds";
        let _ = writeln!(
            text,
            "# HELP {name} Latency of deliveries from the intended time of the publish.\n# TYPE {name} summary"
        );
        // Of nothing there are no quantiles, and a zero would look like a very fast server.
        let quantiles: &[f64] = if latency.is_empty() { &[] } else { &[0.5, 0.9, 0.99, 0.999] };
        for &quantile in quantiles {
            let value = latency.value_at_quantile(quantile) as f64 / SECOND as f64;
            let _ = writeln!(text, "{name}{{quantile=\"{quantile}\"}} {value}");
        }
        let sum = latency.mean() * latency.len() as f64 / SECOND as f64;
        let _ = writeln!(text, "{name}_sum {sum}\n{name}_count {}", latency.len());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{record, timings};

    /// The quantiles of no deliveries were zero.
    #[test]
    fn there_are_quantiles_once_there_are_deliveries() {
        let mut latency = timings();
        let told = |latency: &Timings| {
            exposition(&SoFar { latency: Some(latency.clone()), deliveries: 7, ..SoFar::default() })
        };
        let text = told(&latency);
        assert!(
            !text.contains("quantile") && text.contains("fanfare_load_latency_seconds_count 0\n"),
            "{text}"
        );
        record(&mut latency, SECOND / 4);
        let text = told(&latency);
        assert!(text.contains("{quantile=\"0.99\"} 0.25") && text.contains("seconds_count 1\n"), "{text}");
        assert!(text.contains("\nfanfare_load_deliveries_total 7\n"), "{text}");
        // Each line is a comment, or a name and a value.
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.rsplit_once(' ').is_some_and(|(_, value)| value.parse::<f64>().is_ok()), "{line}");
        }
    }
}
