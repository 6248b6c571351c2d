//! The result of a run, as it goes into JSON: the field names are the stable keys that README.md documents.

mod against;
mod columns;
mod csv;
mod hlog;
mod html;
mod junit;
mod plot;
mod prometheus;
mod run_page;
mod table;
pub(crate) mod units;

use std::collections::BTreeMap;

use serde::Serialize;

pub(crate) use against::{Against, Change, Earlier, against};
pub(crate) use csv::csv;
pub(crate) use hlog::HistogramLog;
pub(crate) use html::{page, plots};
pub(crate) use junit::{junit, junit_before};
pub(crate) use prometheus::{SoFar, exposition};
pub(crate) use run_page::run_page;
pub(crate) use table::{comparison, figure, summary};

use crate::ask::Asked;
use crate::client::{IdFigures, Timings};
use crate::distributed::MachineFigures;
use crate::provenance::Provenance;
use crate::sequence::Faults;
use crate::threshold::{Fate, Judged};

/// Latency at the usual percentiles.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p99_9: f64,
    pub(crate) max: f64,
    pub(crate) mean: f64,
    pub(crate) count: u64,
}

impl Percentiles {
    /// In units of so many nanoseconds; `None` when nothing was recorded.
    pub(crate) fn of(timings: &Timings, unit: f64) -> Option<Percentiles> {
        let at = |quantile| round(timings.value_at_quantile(quantile) as f64 / unit);
        (!timings.is_empty()).then(|| Percentiles {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: round(timings.max() as f64 / unit),
            mean: round(timings.mean() / unit),
            count: timings.len(),
        })
    }
}

/// Four significant digits are more than any of this is good for.
pub(crate) fn round(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let scale = 10f64.powi(3 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

/// Points of a curve from one nine to the next.
const STEPS_A_NINE: f64 = 10.0;

/// `(quantile, value in us)` pairs for a plot on the usual axis, where each nine is as wide as the one
/// before.
pub(crate) fn curve(timings: &Timings) -> Vec<(f64, f64)> {
    if timings.is_empty() {
        return Vec::new();
    }
    let nines = (timings.len() as f64).log10().clamp(1.0, 6.0);
    // The same quantiles in each run, as far as its deliveries go.
    let quantile = |step: i32| 1.0 - 10f64.powf(-f64::from(step) / STEPS_A_NINE);
    (0..=(nines * STEPS_A_NINE) as i32)
        .map(|step| (quantile(step), round(timings.value_at_quantile(quantile(step)) as f64 / 1e3)))
        .collect()
}

/// The deliveries to a part of the subscribers, or in a part of the run.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) latency_us: Option<Percentiles>,
    pub(crate) latency_curve: Vec<(f64, f64)>,
}

/// How the streams were opened.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Opening {
    pub(crate) streams: u64,
    pub(crate) seconds: f64,
    pub(crate) per_second: f64,
    /// From the start of a connect to the end of the response head.
    pub(crate) latency_us: Option<Percentiles>,
}

/// How a client thread fared.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct ClientThread {
    pub(crate) cpu_share: f64,
    /// Share of the time that it could have run but had no core.
    pub(crate) waited_share: f64,
    /// How long one turn of its loop took.
    pub(crate) loop_delay_us: Option<Percentiles>,
}

/// How the client fared: a slow judge makes every server slow.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Client {
    /// The client was at its limit: latencies are upper bounds of the server's, and rates lower bounds.
    pub(crate) bottleneck: bool,
    /// Cores that the client's threads may use.
    pub(crate) cores: usize,
    /// Of the busiest thread, the time that it waited for a core included.
    pub(crate) busiest_share: f64,
    /// Of the thread that waited longest for a core.
    pub(crate) longest_wait_share: f64,
    pub(crate) threads: Vec<ClientThread>,
    /// Processor time of the threads that hold the streams, with the kernel work that they do, for each
    /// delivery.
    pub(crate) cpu_us_per_delivery: Option<f64>,
    /// Time that the client's cores worked for each delivery, for whatever there was to do: the kernel's
    /// receiving in `ksoftirqd` and in interrupts, which is no thread's, is in it. Only where the server has
    /// no part of these cores.
    pub(crate) cores_cpu_us_per_delivery: Option<f64>,
    /// What all client threads and publishers used of the cores they may use.
    pub(crate) cores_share: f64,
    /// The busiest publisher's share of a core.
    pub(crate) publisher_cpu_share: f64,
    /// Of a core: the thread that conducts the run, looks at the server and keeps the time.
    pub(crate) conductor_cpu_share: f64,
    pub(crate) publish_lag_us: Option<Percentiles>,
    pub(crate) publish_answer_us: Option<Percentiles>,
    /// User memory of this process per stream, histograms and all.
    pub(crate) user_bytes_per_connection: Option<f64>,
    /// Of that, what a stream itself occupies.
    pub(crate) slot_bytes_per_connection: usize,
}

/// What the machine did to a run in the measured window.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Conditions {
    /// Share of the time of all cores, of the server's and of the client's, that the hypervisor gave to
    /// others.
    pub(crate) stolen_share: Option<f64>,
    pub(crate) stolen_share_of_server_cores: Option<f64>,
    pub(crate) stolen_share_of_client_cores: Option<f64>,
    /// Share of the time that a thread of the server was ready to run and had no core: of the one that waited
    /// longest.
    pub(crate) server_waited_share: Option<f64>,
    /// How often all threads of the server together got a core.
    pub(crate) server_switches_per_s: Option<f64>,
}

/// One run.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) tool: &'static str,
    pub(crate) version: &'static str,
    pub(crate) name: String,
    pub(crate) scenario: String,
    pub(crate) machine: String,
    pub(crate) arrangement: String,
    pub(crate) settings: serde_json::Value,
    pub(crate) valid: bool,
    pub(crate) partial: bool,
    pub(crate) problems: Vec<String>,
    pub(crate) notes: Vec<String>,
    /// What became of each `--fail-if`.
    pub(crate) thresholds: Vec<Judged>,
    /// The run is valid and keeps to every threshold.
    pub(crate) passed: bool,
    /// Beside an earlier run (`--against`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) against: Option<Against>,

    pub(crate) subscribers: u64,
    pub(crate) opening: Opening,
    pub(crate) published: u64,
    pub(crate) deliveries: u64,
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) out_of_order: u64,
    pub(crate) damaged: u64,
    pub(crate) misrouted: u64,
    pub(crate) streams_ended: u64,
    pub(crate) streams_cut: u64,
    pub(crate) streams_reopened: u64,
    pub(crate) missed_while_away: u64,
    pub(crate) foreign_events: u64,

    pub(crate) latency_us: Option<Percentiles>,
    pub(crate) latency_curve: Vec<(f64, f64)>,
    pub(crate) parts: Vec<Part>,
    pub(crate) last_subscriber_ms: Option<f64>,
    pub(crate) last_subscriber_ms_percentiles: Option<Percentiles>,
    pub(crate) incomplete_events: u64,
    pub(crate) deliveries_per_s: Option<f64>,
    pub(crate) received_bytes: u64,

    pub(crate) server_cpu_us_per_delivery: Option<f64>,
    pub(crate) server_cpu_share: Option<f64>,
    pub(crate) server_idle_cpu_share: Option<f64>,
    /// From before the first stream was opened until half a second after the last.
    pub(crate) server_cpu_us_per_opening: Option<f64>,
    pub(crate) server_user_bytes_per_connection: Option<f64>,
    pub(crate) server_user_bytes_per_connection_after: Option<f64>,
    pub(crate) kernel_slab_bytes_per_pair: Option<f64>,
    pub(crate) kernel_stack_bytes_per_pair: Option<f64>,
    pub(crate) storm_all_back_ms: Option<f64>,
    pub(crate) slow_server_bytes_grown: Option<f64>,
    pub(crate) slow_kernel_tcp_bytes_grown: Option<f64>,
    pub(crate) slow_lost: Option<u64>,

    /// What the clients saw that asked something else meanwhile.
    pub(crate) asked: Option<Asked>,

    pub(crate) client: Client,

    /// What the run is: `valid`, `valid, client-bound`, `fell behind`, `NOT VALID`, `partial`, or
    /// `threshold failed` where it is valid otherwise.
    pub(crate) verdict: &'static str,
    /// The client was the bottleneck: rates are at least, and latencies at most, what is said.
    pub(crate) lower_bound: bool,
    /// The server got later and later.
    pub(crate) fell_behind: bool,
    /// Events that were published before the measurement, one for each topic.
    pub(crate) tried_out: u64,
    pub(crate) streams_open_at_end: u64,
    /// As many as there are subscribers, or as the last stage has.
    pub(crate) streams_wanted_at_end: u64,
    /// Streams that were asked for with `Last-Event-ID`.
    pub(crate) streams_resumed: u64,
    /// Deliveries that were outstanding when the last event was published.
    pub(crate) backlog_at_last_publish: Option<u64>,
    pub(crate) offered_deliveries_per_s: Option<f64>,
    /// Of the mean latency, from the first to the last tenth of the seconds in which events were due.
    pub(crate) latency_growth_ms: Option<f64>,
    pub(crate) published_while_away: Option<u64>,
    pub(crate) slow_backlog_bytes: Option<u64>,
    pub(crate) slow_waiting_bytes: Option<u64>,
    pub(crate) heartbeats: Heartbeats,
    pub(crate) ids: IdFigures,
    /// `event` fields by name.
    pub(crate) event_names: BTreeMap<String, u64>,
    /// What went wrong with streams, by kind.
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) listened: Option<Listened>,
    pub(crate) seconds: Vec<SecondOfRun>,

    /// Time of `ksoftirqd` per delivery: of the server's cores where it is pinned, else of all cores.
    pub(crate) ksoftirqd_cpu_us_per_delivery: Option<f64>,
    /// Whether that time is counted as the server's in the figures of its CPU.
    pub(crate) ksoftirqd_is_the_servers: bool,
    pub(crate) conditions: Conditions,
    /// Where the subscribers were on other machines.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) agents: Vec<MachineFigures>,
    /// Of a run by itself; the runs of a comparison have one together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) provenance: Option<Provenance>,
}

/// Comments that came on streams that were open.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Heartbeats {
    pub(crate) count: u64,
    /// Streams, open at the end, that had one.
    pub(crate) streams_with: u64,
    /// The longest time without a byte.
    pub(crate) longest_silence_s: f64,
    /// Streams that were silent for longer than twice `--expect-heartbeat`, or for a minute without it.
    pub(crate) silent_streams: u64,
}

/// What came in a run that publishes nothing.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Listened {
    pub(crate) events: u64,
    pub(crate) events_per_s: f64,
    pub(crate) bytes_per_s: f64,
    /// From the start of a connect to the first event of the stream.
    pub(crate) first_event_ms: Option<Percentiles>,
    /// Between two events of a stream.
    pub(crate) gap_ms: Option<Percentiles>,
    /// From the start of a connect to the last event of a stream that has ended.
    pub(crate) last_event_ms: Option<Percentiles>,
}

/// A second of the run.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct SecondOfRun {
    /// Deliveries that arrived in it.
    pub(crate) deliveries: u64,
    /// Of the events that were due in it.
    pub(crate) latency_mean_ms: Option<f64>,
    pub(crate) latency_max_ms: Option<f64>,
    /// Of the deliveries that arrived in it, where the percentiles of seconds are wanted (`--csv`, `--html`,
    /// `--hlog`, `--prometheus`, and the line on a terminal).
    pub(crate) latency_p50_ms: Option<f64>,
    pub(crate) latency_p99_ms: Option<f64>,
    /// At its end.
    pub(crate) streams_open: u64,
    /// Events that were published in it.
    pub(crate) published: u64,
}

impl Report {
    /// The thresholds that the run does not keep to, a line for each.
    pub(crate) fn failed_thresholds(&self) -> impl Iterator<Item = String> {
        let failed = self.thresholds.iter().filter(|judged| judged.result == Fate::Failed);
        failed.map(|judged| format!("the threshold `{}` failed: {}", judged.threshold, judged.shown))
    }

    /// Leaves the curves out: where there are many reports, they would make the file several times as long.
    pub(crate) fn drop_curves(&mut self) {
        self.latency_curve.clear();
        self.parts.iter_mut().for_each(|part| part.latency_curve.clear());
    }

    /// What was wrong with the deliveries.
    pub(crate) fn faults(&self) -> Faults {
        Faults {
            lost: self.lost,
            doubled: self.doubled,
            out_of_order: self.out_of_order,
            damaged: self.damaged,
            misrouted: self.misrouted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{record, timings};

    #[test]
    fn figures_are_rounded_to_four_digits() {
        assert_eq!(
            [round(123_456.0), round(0.001_234_56), round(0.0), round(f64::NAN)],
            [123_500.0, 0.001_235, 0.0, 0.0]
        );
    }

    /// Fields of the client, and the name of the tool, had no meaning that a reader could look up, and others
    /// had two.
    #[test]
    fn the_readme_says_what_each_field_means() {
        let readme = include_str!("../../README.md");
        let (_, table) = readme.split_once("\n## JSON\n").unwrap();
        let (table, _) = table.split_once("\n## ").unwrap();
        let report = Report {
            listened: Some(Listened::default()),
            latency_us: Some(Percentiles::default()),
            client: Client { threads: vec![ClientThread::default()], ..Client::default() },
            seconds: vec![SecondOfRun::default()],
            parts: vec![Part::default()],
            asked: Some(Asked::default()),
            agents: vec![MachineFigures::default()],
            ..Report::default()
        };
        let mut keys = vec!["against".to_owned(), "provenance".to_owned()];
        let mut values = vec![serde_json::to_value(report).unwrap()];
        while let Some(value) = values.pop() {
            match value {
                serde_json::Value::Object(fields) => fields.into_iter().for_each(|(key, value)| {
                    keys.push(key);
                    values.push(value);
                }),
                serde_json::Value::Array(elements) => values.extend(elements),
                _ => {}
            }
        }
        let missing: Vec<_> = keys.iter().filter(|key| !table.contains(&format!("`{key}`"))).collect();
        assert!(missing.is_empty(), "{missing:?}");
        let rows = table.lines().filter_map(|line| line.split('|').nth(1));
        let mut named: Vec<&str> = rows.flat_map(|names| names.split('`').skip(1).step_by(2)).collect();
        let count = named.len();
        named.sort_unstable();
        named.dedup();
        assert_eq!(named.len(), count, "each key has one row");
    }

    #[test]
    fn percentiles_and_curve_come_from_the_histogram() {
        let mut timings = timings();
        assert!(Percentiles::of(&timings, 1e3).is_none() && curve(&timings).is_empty());
        for milliseconds in 1..=1000 {
            record(&mut timings, milliseconds * 1_000_000);
        }
        let found = Percentiles::of(&timings, 1e3).unwrap();
        assert!((found.p50 / 500_000.0 - 1.0).abs() < 0.002 && (found.max / 1_000_000.0 - 1.0).abs() < 0.002);
        let curve = curve(&timings);
        assert!(curve.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
    }
}
