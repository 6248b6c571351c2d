//! The time series of a run for spreadsheets and plots.

use std::fmt::Write;

use super::Report;

/// A line for each second, after one with the names. A figure that there is not is empty.
pub(crate) fn csv(report: &Report) -> String {
    let mut text = String::from(
        "second,streams_open,published,deliveries,latency_mean_ms,latency_max_ms,latency_p50_ms,latency_p99_ms\n",
    );
    let figure = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
    for (index, second) in report.seconds.iter().enumerate() {
        let _ = writeln!(
            text,
            "{index},{},{},{},{},{},{},{}",
            second.streams_open,
            second.published,
            second.deliveries,
            figure(second.latency_mean_ms),
            figure(second.latency_max_ms),
            figure(second.latency_p50_ms),
            figure(second.latency_p99_ms)
        );
    }
    text
}
