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
        for quantile in [0.5, 0.9, 0.99, 0.999] {
            let value = latency.value_at_quantile(quantile) as f64 / SECOND as f64;
            let _ = writeln!(text, "{name}{{quantile=\"{quantile}\"}} {value}");
        }
        let sum = latency.mean() * latency.len() as f64 / SECOND as f64;
        let _ = writeln!(text, "{name}_sum {sum}\n{name}_count {}", latency.len());
    }
    text
}
