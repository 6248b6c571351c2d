//! The figures that a threshold can name, and the units that their values have.

use crate::report::{Percentiles, Report, units};

/// What a figure is measured in. The base units are seconds, bytes, and a share of 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Time,
    Bytes,
    /// A number of things, or of things in a second.
    Count,
    /// Of a core; written in percent.
    Share,
    YesNo,
}

impl Unit {
    /// Reads a number with its unit.
    pub(super) fn parse(self, text: &str) -> Result<f64, String> {
        let split = text.find(|c: char| !(c.is_ascii_digit() || ".,_-".contains(c))).unwrap_or(text.len());
        let unit = text[split..].trim();
        let wrong = || format!("`{text}` is no number: write for example 1.5, 1000 or 1,000");
        let digits = units::without_separators(&text[..split]).ok_or_else(wrong)?;
        let number: f64 = digits.parse().map_err(|_| wrong())?;
        let factors: &[(&str, f64)] = match self {
            Unit::Time => &[
                ("ns", 1e-9),
                ("us", 1e-6),
                ("µs", 1e-6),
                ("ms", 1e-3),
                ("s", 1.0),
                ("m", 60.0),
                ("min", 60.0),
                ("h", 3_600.0),
            ],
            Unit::Bytes => &[
                ("", 1.0),
                ("B", 1.0),
                ("kB", 1e3),
                ("KB", 1e3),
                ("MB", 1e6),
                ("GB", 1e9),
                ("KiB", 1_024.0),
                ("MiB", 1_048_576.0),
                ("GiB", 1_073_741_824.0),
            ],
            Unit::Count => &[("", 1.0), ("k", 1e3), ("M", 1e6)],
            Unit::Share => &[("%", 0.01)],
            Unit::YesNo => &[],
        };
        match factors.iter().find(|(name, _)| *name == unit) {
            Some((_, factor)) => Ok(number * factor),
            None => Err(match self {
                Unit::Time => format!("`{text}` needs a unit of time: ns, us, ms, s, m or h"),
                Unit::Bytes => format!("`{unit}` is no unit of memory: write B, kB, KiB, MB or MiB"),
                Unit::Count => format!("`{text}` is no plain number: write 1000, 1,000, 1k or 1M"),
                Unit::Share => format!("`{text}` is no share of a core: write 80%"),
                Unit::YesNo => "it has no value".to_owned(),
            }),
        }
    }

    /// A value for people.
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Unit::Time => units::time(value),
            Unit::Bytes => units::bytes(value),
            Unit::Count => units::number(value),
            Unit::Share => format!("{} %", units::number(value * 100.0)),
            Unit::YesNo => (if value == 0.0 { "no" } else { "yes" }).to_owned(),
        }
    }

    /// The base unit's name, for programs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Unit::Time => "seconds",
            Unit::Bytes => "bytes",
            Unit::Count => "count",
            Unit::Share => "ratio",
            Unit::YesNo => "bool",
        }
    }
}

/// A figure of a report by its name.
#[derive(Debug)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) unit: Unit,
    /// What it is, in words.
    pub(crate) about: &'static str,
    /// Only measured with `--server-pid`.
    pub(super) needs_server: bool,
    /// Where it stands in the JSON of a report, as a JSON pointer, and the base units in one of its units.
    place: Place,
    pub(crate) value: fn(&Report) -> Option<f64>,
}

/// Where an earlier result has the figure.
#[derive(Debug)]
enum Place {
    At(&'static str, f64),
    /// The sum of several.
    Sum(&'static [&'static str]),
    /// The first without the second.
    Without(&'static str, &'static str),
    /// The sum of all values of an object.
    Values(&'static str),
}

const US: f64 = 1e-6;
const MS: f64 = 1e-3;

/// A value of percentiles that may not be there.
fn of(percentiles: &Option<Percentiles>, unit: f64, value: fn(&Percentiles) -> f64) -> Option<f64> {
    percentiles.as_ref().map(|percentiles| value(percentiles) * unit)
}

macro_rules! metrics {
    ($($name:literal $unit:ident $(($server:ident))? = $place:expr, $about:literal, $value:expr;)*) => {
        static METRICS: &[Metric] = &[$(Metric {
            name: $name,
            unit: Unit::$unit,
            about: $about,
            needs_server: metrics!(@server $($server)?),
            place: $place,
            value: $value,
        }),*];
    };
    (@server) => { false };
    (@server server) => { true };
}

use Place::{At, Sum, Values, Without};

metrics! {
    "p50" Time = At("/latency_us/p50", US), "the latency of a delivery", |r| of(&r.latency_us, US, |p| p.p50);
    "p90" Time = At("/latency_us/p90", US), "the latency of a delivery", |r| of(&r.latency_us, US, |p| p.p90);
    "p99" Time = At("/latency_us/p99", US), "the latency of a delivery", |r| of(&r.latency_us, US, |p| p.p99);
    "p99_9" Time = At("/latency_us/p99_9", US), "the latency of a delivery",
        |r| of(&r.latency_us, US, |p| p.p99_9);
    "max" Time = At("/latency_us/max", US), "the longest latency of a delivery",
        |r| of(&r.latency_us, US, |p| p.max);
    "mean" Time = At("/latency_us/mean", US), "the mean latency of a delivery",
        |r| of(&r.latency_us, US, |p| p.mean);
    "last_subscriber_p50" Time = At("/last_subscriber_ms_percentiles/p50", MS),
        "the time of an event to its last subscriber", |r| of(&r.last_subscriber_ms_percentiles, MS, |p| p.p50);
    "last_subscriber_p99" Time = At("/last_subscriber_ms_percentiles/p99", MS),
        "the time of an event to its last subscriber", |r| of(&r.last_subscriber_ms_percentiles, MS, |p| p.p99);
    "last_subscriber_max" Time = At("/last_subscriber_ms_percentiles/max", MS),
        "the time of an event to its last subscriber", |r| of(&r.last_subscriber_ms_percentiles, MS, |p| p.max);
    "latency_growth" Time = At("/latency_growth_ms", MS),
        "the growth of the mean latency from the first to the last tenth of the run",
        |r| r.latency_growth_ms.map(|ms| ms * MS);
    "deliveries" Count = At("/deliveries", 1.0), "deliveries", |r| Some(r.deliveries as f64);
    "deliveries_per_s" Count = At("/deliveries_per_s", 1.0), "deliveries a second", |r| r.deliveries_per_s;
    "lost" Count = At("/lost", 1.0), "lost deliveries", |r| Some(r.lost as f64);
    "doubled" Count = At("/doubled", 1.0), "repeated deliveries", |r| Some(r.doubled as f64);
    "out_of_order" Count = At("/out_of_order", 1.0), "deliveries out of order", |r| Some(r.out_of_order as f64);
    "damaged" Count = At("/damaged", 1.0), "damaged deliveries", |r| Some(r.damaged as f64);
    "misrouted" Count = At("/misrouted", 1.0), "deliveries of a wrong topic", |r| Some(r.misrouted as f64);
    "faults" Count = Sum(&["/lost", "/doubled", "/out_of_order", "/damaged", "/misrouted"]),
        "all wrong deliveries", |r| Some(r.faults().sum() as f64);
    "missed_while_away" Count = At("/missed_while_away", 1.0),
        "events that subscribers missed while the scenario kept them away", |r| Some(r.missed_while_away as f64);
    "incomplete_events" Count = At("/incomplete_events", 1.0), "events that did not reach everybody",
        |r| Some(r.incomplete_events as f64);
    "streams_ended" Count = At("/streams_ended", 1.0), "streams that the server ended",
        |r| Some(r.streams_ended as f64);
    "streams_missing" Count = Without("/streams_wanted_at_end", "/streams_open_at_end"),
        "streams that were not open at the end",
        |r| Some(r.streams_wanted_at_end.saturating_sub(r.streams_open_at_end) as f64);
    "errors" Count = Values("/errors"), "what went wrong with streams",
        |r| Some(r.errors.values().sum::<u64>() as f64);
    "opened_per_s" Count = At("/opening/per_second", 1.0), "streams that were opened a second at the start",
        |r| Some(r.opening.per_second).filter(|rate| *rate > 0.0);
    "opening_p50" Time = At("/opening/latency_us/p50", US), "the time to open a stream",
        |r| of(&r.opening.latency_us, US, |p| p.p50);
    "opening_p99" Time = At("/opening/latency_us/p99", US), "the time to open a stream",
        |r| of(&r.opening.latency_us, US, |p| p.p99);
    "opening_max" Time = At("/opening/latency_us/max", US), "the time to open a stream",
        |r| of(&r.opening.latency_us, US, |p| p.max);
    "publish_answer_p50" Time = At("/client/publish_answer_us/p50", US), "the time of the answer to a publish",
        |r| of(&r.client.publish_answer_us, US, |p| p.p50);
    "publish_answer_p99" Time = At("/client/publish_answer_us/p99", US), "the time of the answer to a publish",
        |r| of(&r.client.publish_answer_us, US, |p| p.p99);
    "first_event_p99" Time = At("/listened/first_event_ms/p99", MS),
        "the time to the first event of a stream that is listened to",
        |r| of(&r.listened.as_ref()?.first_event_ms, MS, |p| p.p99);
    "gap_p99" Time = At("/listened/gap_ms/p99", MS), "the time between two events of a stream that is listened to",
        |r| of(&r.listened.as_ref()?.gap_ms, MS, |p| p.p99);
    "events_per_s" Count = At("/listened/events_per_s", 1.0), "events a second of streams that are listened to",
        |r| Some(r.listened.as_ref()?.events_per_s);
    "longest_silence" Time = At("/heartbeats/longest_silence_s", 1.0), "the longest time of a stream without a byte",
        |r| Some(r.heartbeats.longest_silence_s);
    "all_back" Time = At("/storm_all_back_ms", MS), "from the cut of all streams to all being open again (storm)",
        |r| r.storm_all_back_ms.map(|ms| ms * MS);
    "cpu_per_delivery" Time (server) = At("/server_cpu_us_per_delivery", US),
        "the server's processor time for a delivery", |r| r.server_cpu_us_per_delivery.map(|us| us * US);
    "cpu_per_opening" Time (server) = At("/server_cpu_us_per_opening", US),
        "the server's processor time to open a stream", |r| r.server_cpu_us_per_opening.map(|us| us * US);
    "client_cpu_per_delivery" Time = At("/client/cpu_us_per_delivery", US),
        "the processor time of the load test's threads for a delivery",
        |r| r.client.cpu_us_per_delivery.map(|us| us * US);
    "server_cpu" Share (server) = At("/server_cpu_share", 1.0), "the server's processor time, of a core",
        |r| r.server_cpu_share;
    "server_idle_cpu" Share (server) = At("/server_idle_cpu_share", 1.0),
        "the server's processor time while nothing is published, of a core (idle)", |r| r.server_idle_cpu_share;
    "server_memory_per_stream" Bytes (server) = At("/server_user_bytes_per_connection", 1.0),
        "the growth of the server's memory for a stream", |r| r.server_user_bytes_per_connection;
    "server_memory_per_stream_after" Bytes (server) = At("/server_user_bytes_per_connection_after", 1.0),
        "the same after deliveries", |r| r.server_user_bytes_per_connection_after;
    "kernel_memory_per_stream" Bytes = At("/kernel_slab_bytes_per_pair", 1.0),
        "the growth of the kernel's slab for a stream", |r| r.kernel_slab_bytes_per_pair;
    "client-bound" YesNo = At("/client/bottleneck", 1.0), "whether the client was the bottleneck",
        |r| Some(f64::from(u8::from(r.client.bottleneck)));
    "fell-behind" YesNo = At("/fell_behind", 1.0), "whether the server got later and later",
        |r| Some(f64::from(u8::from(r.fell_behind)));
}

impl Metric {
    /// Finds one; `-`, `_` and `.` mean the same.
    pub(super) fn named(name: &str) -> Option<&'static Metric> {
        let plain = |name: &str| name.replace(['-', '.'], "_");
        METRICS.iter().find(|metric| plain(metric.name) == plain(name))
    }

    pub(super) fn names() -> Vec<&'static str> {
        METRICS.iter().map(|metric| metric.name).collect()
    }

    pub(crate) fn all() -> impl Iterator<Item = &'static Metric> {
        METRICS.iter()
    }

    /// Its value in the JSON of a report.
    pub(crate) fn value_in(&self, json: &serde_json::Value) -> Option<f64> {
        let number = |value: &serde_json::Value| match value {
            serde_json::Value::Bool(yes) => Some(f64::from(u8::from(*yes))),
            value => value.as_f64(),
        };
        let at = |pointer: &str| json.pointer(pointer).and_then(number);
        match self.place {
            At(pointer, unit) => at(pointer).map(|value| value * unit),
            Sum(pointers) => pointers.iter().map(|pointer| at(pointer)).sum(),
            Without(whole, part) => Some((at(whole)? - at(part)?).max(0.0)),
            Values(pointer) => json.pointer(pointer)?.as_object()?.values().map(number).sum(),
        }
    }

    /// A threshold of it, for messages.
    pub(super) fn example(&self) -> String {
        let limit = match self.unit {
            Unit::Time => ">50ms",
            Unit::Bytes => ">10KiB",
            Unit::Count => ">0",
            Unit::Share => ">80%",
            Unit::YesNo => "",
        };
        format!("{}{limit}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Client, Heartbeats, Listened, Opening};

    /// A figure read from a file has to be the one that the run had.
    #[test]
    fn every_metric_is_found_in_the_json_of_its_report() {
        let some =
            || Some(Percentiles { p50: 1.0, p90: 2.0, p99: 3.0, p99_9: 4.0, max: 5.0, mean: 6.0, count: 7 });
        let report = Report {
            latency_us: some(),
            last_subscriber_ms_percentiles: some(),
            latency_growth_ms: Some(8.0),
            deliveries: 9,
            deliveries_per_s: Some(10.0),
            lost: 11,
            doubled: 12,
            out_of_order: 13,
            damaged: 14,
            misrouted: 15,
            missed_while_away: 16,
            incomplete_events: 17,
            streams_ended: 18,
            streams_wanted_at_end: 40,
            streams_open_at_end: 19,
            errors: [("a".to_owned(), 20), ("b".to_owned(), 21)].into(),
            opening: Opening { per_second: 22.0, latency_us: some(), ..Opening::default() },
            client: Client {
                publish_answer_us: some(),
                bottleneck: true,
                cpu_us_per_delivery: Some(33.0),
                ..Client::default()
            },
            listened: Some(Listened {
                events_per_s: 23.0,
                first_event_ms: some(),
                gap_ms: some(),
                ..Listened::default()
            }),
            heartbeats: Heartbeats { longest_silence_s: 24.0, ..Heartbeats::default() },
            storm_all_back_ms: Some(25.0),
            server_cpu_us_per_delivery: Some(26.0),
            server_cpu_us_per_opening: Some(27.0),
            server_cpu_share: Some(0.28),
            server_idle_cpu_share: Some(0.29),
            server_user_bytes_per_connection: Some(30.0),
            server_user_bytes_per_connection_after: Some(31.0),
            kernel_slab_bytes_per_pair: Some(32.0),
            ..Report::default()
        };
        let json = serde_json::to_value(&report).unwrap();
        for metric in Metric::all() {
            let value = (metric.value)(&report);
            assert!(value.is_some(), "{}", metric.name);
            assert_eq!(value, metric.value_in(&json), "{}", metric.name);
        }
    }
}
