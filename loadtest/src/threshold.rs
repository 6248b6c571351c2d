//! Thresholds: figures that a run must keep to, as `--fail-if` gives them, and what became of each.

mod metric;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(crate) use self::metric::{Metric, Unit};
use crate::failure::{Failure, Outcome};
use crate::report::{Earlier, Report};

/// How a figure is compared with the limit. The run fails where the comparison is true.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Above,
    AtLeast,
    Below,
    AtMost,
    Equal,
    NotEqual,
}

impl Comparison {
    /// The longer signs first: `>` is a part of `>=`.
    const ALL: [(&'static str, Comparison); 6] = [
        (">=", Comparison::AtLeast),
        ("<=", Comparison::AtMost),
        ("==", Comparison::Equal),
        ("!=", Comparison::NotEqual),
        (">", Comparison::Above),
        ("<", Comparison::Below),
    ];

    fn is_true(self, value: f64, limit: f64) -> bool {
        // 50,000 us and 50 ms are the same, although they differ in the last bit.
        let value = if (value - limit).abs() <= limit.abs() * 1e-9 { limit } else { value };
        match self {
            Comparison::Above => value > limit,
            Comparison::AtLeast => value >= limit,
            Comparison::Below => value < limit,
            Comparison::AtMost => value <= limit,
            Comparison::Equal => value == limit,
            Comparison::NotEqual => value != limit,
        }
    }
}

/// What the figure is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Limit {
    /// A value in the base unit of the metric.
    Value(f64),
    /// A change in percent from the figure of an earlier run (`--against`).
    Change(f64),
    /// The metric says yes or no; yes fails the run.
    Yes,
}

/// One `--fail-if`: a metric, a comparison, and a number with its unit.
#[derive(Clone, Debug)]
pub(crate) struct Threshold {
    text: String,
    metric: &'static Metric,
    comparison: Comparison,
    limit: Limit,
}

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Threshold, String> {
        let text = text.trim();
        let signs = text.find(['>', '<', '=', '!']);
        let name = text[..signs.unwrap_or(text.len())].trim();
        let metric = Metric::named(name).ok_or_else(|| {
            format!("there is no metric `{name}`; there are {}", Metric::names().join(", "))
        })?;
        let made = |comparison, limit| Threshold { text: text.to_owned(), metric, comparison, limit };
        let Some(at) = signs else {
            return match metric.unit {
                Unit::YesNo => Ok(made(Comparison::Equal, Limit::Yes)),
                _ => Err(format!("`{text}` has no comparison: write for example `{}`", metric.example())),
            };
        };
        if metric.unit == Unit::YesNo {
            return Err(format!("`{name}` is true or not: write `{name}` alone"));
        }
        let Some(&(sign, comparison)) = Comparison::ALL.iter().find(|(sign, _)| text[at..].starts_with(sign))
        else {
            return Err(format!("`{text}`: the comparisons are >, >=, <, <=, == and !="));
        };
        let number = text[at + sign.len()..].trim();
        let change = number.strip_suffix('%').filter(|number| number.starts_with(['+', '-']));
        let limit = match change {
            Some(percent) => Limit::Change(
                percent.trim().parse().map_err(|_| format!("`{number}` is no change: write +10%"))?,
            ),
            None => Limit::Value(metric.unit.parse(number).map_err(|wrong| format!("`{text}`: {wrong}"))?),
        };
        Ok(made(comparison, limit))
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// In a scenario file and in the settings of a report a threshold is its text.
impl Serialize for Threshold {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Threshold {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Threshold, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What became of a threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Fate {
    /// The run keeps to it.
    Passed,
    /// The run does not keep to it.
    Failed,
    /// The run, or the earlier one, does not have the figure: nothing was shown.
    Unknown,
}

/// A threshold after the run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Judged {
    /// As it was given.
    pub(crate) threshold: String,
    pub(crate) metric: &'static str,
    pub(crate) result: Fate,
    /// Of the two values: seconds, bytes, count, ratio (of a core), or bool, whose 1 is yes.
    pub(crate) unit: &'static str,
    pub(crate) value: Option<f64>,
    /// The figure of the earlier run, for a threshold that is relative to one.
    pub(crate) earlier: Option<f64>,
    /// The figure for people, or why there is none.
    pub(crate) shown: String,
}

impl Threshold {
    /// Whether it needs the result of an earlier run.
    pub(crate) fn is_relative(&self) -> bool {
        matches!(self.limit, Limit::Change(_))
    }

    /// Why a run with these settings cannot have the figure, where that is known before it starts.
    fn refusal(&self, has_server: bool, has_earlier: bool) -> Option<String> {
        if self.metric.needs_server && !has_server {
            return Some(format!("--fail-if '{self}' needs --server-pid: {}", self.metric.about));
        }
        if self.is_relative() && !has_earlier {
            return Some(format!("--fail-if '{self}' is relative: name the earlier result with --against"));
        }
        None
    }

    /// Compares the report with the limit.
    fn judge(&self, report: &Report, earlier: Option<&Earlier>) -> Judged {
        let value = (self.metric.value)(report);
        let mut judged = Judged {
            threshold: self.text.clone(),
            metric: self.metric.name,
            result: Fate::Unknown,
            unit: self.metric.unit.name(),
            value,
            earlier: None,
            shown: format!("this run has no such figure ({})", self.metric.about),
        };
        let Some(value) = value else { return judged };
        judged.shown = self.metric.unit.show(value);
        let fails = match self.limit {
            Limit::Yes => value != 0.0,
            Limit::Value(limit) => self.comparison.is_true(value, limit),
            Limit::Change(percent) => {
                let Some(before) = earlier.and_then(|earlier| earlier.value(self.metric)) else {
                    judged.shown = "the earlier result has no such figure".to_owned();
                    return judged;
                };
                judged.earlier = Some(before);
                let Some(change) = change_percent(before, value) else {
                    judged.shown = "the earlier figure is 0, so there is no change in percent".to_owned();
                    return judged;
                };
                judged.shown =
                    format!("{change:+.1} %, from {} to {}", self.metric.unit.show(before), judged.shown);
                self.comparison.is_true(change, percent)
            }
        };
        judged.result = if fails { Fate::Failed } else { Fate::Passed };
        judged
    }
}

/// From an earlier figure to a later one, in percent; `None` where the earlier one is 0 and the later is not.
pub(crate) fn change_percent(before: f64, after: f64) -> Option<f64> {
    match (before, after) {
        (before, after) if before == after => Some(0.0),
        (0.0, _) => None,
        _ => Some((after - before) / before.abs() * 100.0),
    }
}

/// Refuses thresholds whose figures the run cannot have.
pub(crate) fn check(thresholds: &[Threshold], has_server: bool, has_earlier: bool) -> Outcome<()> {
    let refusals: Vec<String> =
        thresholds.iter().filter_map(|threshold| threshold.refusal(has_server, has_earlier)).collect();
    if refusals.is_empty() { Ok(()) } else { Err(Failure::new(refusals.join("\n"))) }
}

/// Judges all thresholds and writes them into the report. A figure that is missing is a problem of the run.
/// A partial run is not judged: its figures are those of a part.
pub(crate) fn judge(report: &mut Report, thresholds: &[Threshold], earlier: Option<&Earlier>) {
    report.thresholds = thresholds.iter().map(|threshold| threshold.judge(report, earlier)).collect();
    if report.partial {
        return;
    }
    for judged in report.thresholds.iter().filter(|judged| judged.result == Fate::Unknown) {
        let text = format!("the threshold `{}` could not be judged: {}", judged.threshold, judged.shown);
        report.problems.push(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Percentiles;

    fn fate(text: &str, report: &Report) -> Fate {
        text.parse::<Threshold>().unwrap().judge(report, None).result
    }

    #[test]
    fn a_threshold_is_a_metric_a_comparison_and_a_number_with_its_unit() {
        let latency_us = Some(Percentiles { p50: 900.0, p99: 50_000.0, ..Percentiles::default() });
        let report = Report {
            latency_us,
            lost: 1,
            deliveries_per_s: Some(120_000.0),
            server_user_bytes_per_connection: Some(9_000.0),
            server_cpu_us_per_delivery: Some(2.5),
            server_cpu_share: Some(0.8),
            ..Report::default()
        };
        for (text, fails) in [
            ("p99>50ms", false),
            ("p99 >= 50ms", true),
            ("p50>0.8 ms", true),
            ("p50>1000us", false),
            ("lost>0", true),
            ("lost!=1", false),
            ("doubled==0", true),
            ("deliveries_per_s<100000", false),
            ("deliveries_per_s<200k", true),
            ("deliveries_per_s<120_001", true),
            ("server_memory_per_stream>10KiB", false),
            ("server_memory_per_stream>8.5kB", true),
            ("cpu_per_delivery>2us", true),
            ("server_cpu>90%", false),
            ("client-bound", false),
        ] {
            let expected = if fails { Fate::Failed } else { Fate::Passed };
            assert_eq!(fate(text, &report), expected, "{text}");
        }
        let bound =
            Report { client: crate::report::Client { bottleneck: true, ..Default::default() }, ..report };
        assert_eq!(fate("client-bound", &bound), Fate::Failed);
        assert_eq!(fate("client_bound", &bound), Fate::Failed);
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_right() {
        for (text, told) in [
            ("p98>50ms", "p99_9"),
            ("latency", "last_subscriber_p99"),
            ("p99>50", "unit"),
            ("p99>50MiB", "ms"),
            ("p99>1,5ms", "1.5"),
            ("lost>5ms", "number"),
            ("p99=50ms", ">="),
            ("p99", "p99>50ms"),
            ("client-bound>1", "alone"),
            ("server_cpu>0.5", "%"),
            ("p99>+x%", "+10%"),
        ] {
            let error = text.parse::<Threshold>().unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    #[test]
    fn a_figure_that_is_missing_is_no_pass() {
        let mut report = Report::default();
        judge(&mut report, &["p99>50ms".parse().unwrap()], None);
        assert_eq!(report.thresholds[0].result, Fate::Unknown);
        assert!(report.problems[0].contains("p99>50ms"), "{:?}", report.problems);
        let memory: Threshold = "server_memory_per_stream>1KiB".parse().unwrap();
        let refused = check(&[memory], false, false).unwrap_err().to_string();
        assert!(refused.contains("--server-pid"), "{refused}");
        let refused = check(&["p99>+10%".parse().unwrap()], true, false).unwrap_err().to_string();
        assert!(refused.contains("--against"), "{refused}");
    }

    #[test]
    fn a_relative_threshold_is_one_of_the_change() {
        let latency_us = Some(Percentiles { p99: 1_150.0, ..Percentiles::default() });
        let report = Report { latency_us, ..Report::default() };
        let before = Earlier::of(serde_json::json!({ "latency_us": { "p99": 1_000.0 } }));
        let judge = |text: &str| text.parse::<Threshold>().unwrap().judge(&report, Some(&before));
        assert_eq!(judge("p99>+10%").result, Fate::Failed);
        assert_eq!(judge("p99>+20%").result, Fate::Passed);
        assert_eq!(judge("p99<-5%").result, Fate::Passed);
        assert_eq!(judge("p99>+10%").shown, "+15.0 %, from 1 ms to 1.15 ms");
        assert_eq!(judge("lost>+10%").result, Fate::Unknown);
    }
}
