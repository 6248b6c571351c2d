//! `/metrics`: the counts of the engine and of the server, in the formats of Prometheus.
//!
//! Every metric is one entry of [`table`]: its name, its unit, its meaning, and the source of its value.
//! `/metrics` and `docs/METRICS.md` are made of that table. A label is never made of what a client sends, so
//! the number of series depends on the shards alone.

#[cfg(test)]
mod document;
mod figures;
pub(crate) mod process;
mod snapshot;
mod table;

use std::fmt;
use std::sync::Arc;

use fanfare::Histogram;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use crate::control::Notices;
use crate::health::Health;
pub(crate) use figures::Observer;
use snapshot::Snapshot;
pub(crate) use snapshot::Sources;
use table::TABLE;

/// The `Content-Type` of OpenMetrics.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One metric.
struct Metric {
    /// Without its unit and without `_total`, which the formats add.
    name: &'static str,
    unit: Option<Base>,
    /// The meaning, in sentences.
    help: &'static str,
    read: Read,
}

/// A base unit of Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    Seconds,
    Bytes,
}

/// A name in a label, and its value.
type Labelled<T> = Vec<(String, T)>;

/// The type of a metric, and the function that reads its value.
#[derive(Clone, Copy)]
enum Read {
    Counter(fn(&Snapshot) -> u64),
    /// A counter for each value of this label.
    Counters(&'static str, fn(&Snapshot) -> Labelled<u64>),
    /// A counter of parts of a unit. `None`: there is none on this system.
    FloatCounter(fn(&Snapshot) -> Option<f64>),
    Gauge(fn(&Snapshot) -> u64),
    /// A gauge that this system may not have.
    OptionalGauge(fn(&Snapshot) -> Option<u64>),
    FloatGauge(fn(&Snapshot) -> f64),
    /// A gauge for each value of this label.
    Gauges(&'static str, fn(&Snapshot) -> Labelled<u64>),
    Histogram(fn(&Snapshot) -> Histogram),
    /// A histogram for each value of this label.
    Histograms(&'static str, fn(&Snapshot) -> Labelled<Histogram>),
    /// Texts as labels of a series whose value is 1: the names of the labels, and their values.
    Info(&'static [&'static str], fn(&Snapshot) -> Vec<String>),
}

/// The metrics of a server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    sources: Arc<Sources>,
}

impl Metrics {
    pub(crate) fn new(sources: Sources) -> Metrics {
        let sources = Arc::new(sources);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Table { sources: Arc::clone(&sources) }));
        Metrics { registry, sources }
    }

    pub(crate) fn hub(&self) -> &fanfare::Hub {
        &self.sources.hub
    }

    pub(crate) fn notices(&self) -> &Notices {
        &self.sources.notices
    }

    pub(crate) fn health(&self) -> &Health {
        &self.sources.health
    }

    /// The maker of figures for the dashboard.
    pub(crate) fn observer(&self) -> Observer {
        Observer::new(Arc::clone(&self.sources))
    }

    /// All metrics now, and the type of the text: OpenMetrics where one of these `Accept` fields names it,
    /// otherwise the text format of Prometheus.
    pub(crate) fn encode<'accept>(
        &self,
        mut accepts: impl Iterator<Item = &'accept str>,
    ) -> (&'static str, String) {
        let mut text = String::new();
        let (content_type, encoded) =
            match accepts.any(|accept| accept.contains("application/openmetrics-text")) {
                true => (OPEN_METRICS, text::encode(&mut text, &self.registry)),
                false => (prometheus_text::CONTENT_TYPE, prometheus_text::encode(&mut text, &self.registry)),
            };
        // To write to a text does not fail.
        debug_assert!(encoded.is_ok());
        (content_type, text)
    }
}

impl Metric {
    fn kind(&self) -> MetricType {
        match self.read {
            Read::Counter(_) | Read::Counters(..) | Read::FloatCounter(_) => MetricType::Counter,
            Read::Gauge(_) | Read::OptionalGauge(_) | Read::FloatGauge(_) | Read::Gauges(..) => {
                MetricType::Gauge
            }
            Read::Histogram(_) | Read::Histograms(..) => MetricType::Histogram,
            Read::Info(..) => MetricType::Info,
        }
    }

    fn encode(&self, snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let unit = self.unit.map(|unit| match unit {
            Base::Seconds => Unit::Seconds,
            Base::Bytes => Unit::Bytes,
        });
        let mut encoder = encoder.encode_descriptor(self.name, self.help, unit.as_ref(), self.kind())?;
        match self.read {
            Read::Counter(read) => counter(&mut encoder, &read(snapshot)),
            Read::FloatCounter(read) => read(snapshot)
                .map_or(Ok(()), |value| encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)),
            Read::Counters(label, read) => read(snapshot).iter().try_for_each(|(name, value)| {
                counter(&mut encoder.encode_family(&[(label, name.as_str())])?, value)
            }),
            Read::Gauge(read) => encoder.encode_gauge(&read(snapshot)),
            Read::OptionalGauge(read) => read(snapshot).map_or(Ok(()), |value| encoder.encode_gauge(&value)),
            Read::FloatGauge(read) => encoder.encode_gauge(&read(snapshot)),
            Read::Gauges(label, read) => read(snapshot).iter().try_for_each(|(name, value)| {
                encoder.encode_family(&[(label, name.as_str())])?.encode_gauge(value)
            }),
            Read::Histogram(read) => histogram(&mut encoder, &read(snapshot)),
            Read::Histograms(label, read) => read(snapshot).iter().try_for_each(|(name, value)| {
                histogram(&mut encoder.encode_family(&[(label, name.as_str())])?, value)
            }),
            Read::Info(labels, read) => {
                let labels: Vec<(&str, String)> = labels.iter().copied().zip(read(snapshot)).collect();
                encoder.encode_info(&labels)
            }
        }
    }
}

fn counter(encoder: &mut MetricEncoder<'_>, value: &u64) -> fmt::Result {
    encoder.encode_counter::<NoLabelSet, u64, u64>(value, None::<&Exemplar<NoLabelSet, u64>>)
}

fn histogram(encoder: &mut MetricEncoder<'_>, histogram: &Histogram) -> fmt::Result {
    let seconds =
        |bound: Option<std::time::Duration>| bound.map_or(f64::INFINITY, |bound| bound.as_secs_f64());
    let buckets: Vec<(f64, u64)> =
        histogram.buckets().map(|(bound, count)| (seconds(bound), count)).collect();
    // The count is the sum of the buckets, so that both agree while shards go on.
    encoder.encode_histogram::<NoLabelSet>(histogram.sum().as_secs_f64(), histogram.count(), &buckets, None)
}

/// Reads everything once for a scrape, and gives the metrics of the table.
#[derive(Debug)]
struct Table {
    sources: Arc<Sources>,
}

impl Collector for Table {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let snapshot = Snapshot::of(&self.sources);
        TABLE.iter().try_for_each(|metric| metric.encode(&snapshot, &mut encoder))
    }
}
