//! `docs/METRICS.md`, which is made of the table, and what holds of every metric.

use std::collections::BTreeSet;
use std::path::Path;
use std::{env, fs};

use prometheus_client::metrics::MetricType;

use super::table::TABLE;
use super::{Base, Metric, Read};

/// Columns of a line of the page.
const COLUMNS: usize = 110;

const INTRODUCTION: &str = "\
# Metrics

<!-- This page is generated: `cargo xtask config --bless` renews it. The table of metrics is
     crates/server/src/metrics/table.rs. -->

The admin listener (`--admin`, by default 127.0.0.1:8845) answers `GET /metrics` in the text format of
Prometheus, and in OpenMetrics where the request accepts it.

```sh
curl http://127.0.0.1:8845/metrics
```

- Counters begin at zero when the server starts. Shards publish their numbers once in each round of their
  loop, so that two numbers of one answer may differ by one round.
- No label is made of what clients send. Topics, subjects and addresses are never labels; `GET /topics` has
  the counts of topics. The number of series depends on the number of shards alone.
- Times are histograms with fixed buckets from 50 microseconds to one minute. Those of several servers can be
  added.
- The metrics of a log that servers share (`fanfare_shared_log_...`) are there where the server has one
  (`--nats`).
- The metrics of the durable log (`fanfare_store_...`) are there where the server has one (`--data`).

| metric | type | labels |
|---|---|---|
";

impl Metric {
    /// Its name as queries have it.
    fn full_name(&self) -> String {
        let unit = self.unit.map_or("", Base::suffix);
        let suffix = match self.kind() {
            MetricType::Counter => "_total",
            MetricType::Info => "_info",
            _ => "",
        };
        format!("{}{unit}{suffix}", self.name)
    }

    /// The names of its labels.
    fn labels(&self) -> Vec<&'static str> {
        match self.read {
            Read::Counters(label, _) | Read::Gauges(label, _) | Read::Histograms(label, _) => vec![label],
            Read::Info(labels, _) => labels.to_vec(),
            _ => Vec::new(),
        }
    }
}

impl Base {
    fn suffix(self) -> &'static str {
        match self {
            Base::Seconds => "_seconds",
            Base::Bytes => "_bytes",
        }
    }
}

fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    for metric in TABLE {
        let labels = metric.labels().iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        page.push_str(&format!("| `{}` | {} | {labels} |\n", metric.full_name(), metric.kind().as_str()));
    }
    for metric in TABLE {
        let unit = match metric.unit {
            Some(Base::Seconds) => " in seconds",
            Some(Base::Bytes) => " in bytes",
            None => "",
        };
        let kind = match metric.kind() {
            MetricType::Info => "Info: the value is always 1",
            MetricType::Counter => "Counter",
            MetricType::Histogram => "Histogram",
            _ => "Gauge",
        };
        page.push_str(&format!("\n### `{}`\n\n{}\n\n", metric.full_name(), wrapped(metric.help)));
        page.push_str(&format!("{kind}{unit}.\n"));
    }
    page
}

fn wrapped(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= COLUMNS => line.push_str(&format!(" {word}")),
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

#[test]
fn the_page_is_not_stale() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/METRICS.md");
    if env::var_os("FANFARE_BLESS").is_some() {
        fs::write(&path, page()).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == page(), "docs/METRICS.md is stale; cargo xtask config --bless renews it");
}

#[test]
fn names_and_meanings_follow_the_rules_of_prometheus() {
    let mut names = BTreeSet::new();
    for metric in TABLE {
        let name = metric.name;
        assert!(names.insert(metric.full_name()), "{name} is there twice");
        let is_word = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        assert!(name.bytes().all(is_word), "{name}");
        for suffix in ["_total", "_seconds", "_bytes", "_info", "_count", "_sum", "_bucket", "_milliseconds"]
        {
            assert!(!name.ends_with(suffix), "{name}: the unit and the type add it");
        }
        assert!(name.starts_with("fanfare_") || name.starts_with("process_"), "{name}");
        assert!(metric.help.ends_with('.') && metric.help.starts_with(char::is_uppercase), "{name}");
        for label in metric.labels() {
            assert!(!["le", "quantile", "topic", "subject", "address"].contains(&label), "{name}: {label}");
        }
        let is_of_process = name.starts_with("process_");
        let is_time = metric.unit == Some(Base::Seconds) && !is_of_process;
        assert_eq!(metric.kind() == MetricType::Histogram, is_time, "{name}");
    }
}
