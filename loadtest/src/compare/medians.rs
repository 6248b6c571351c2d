//! The rule by which the figures of a row are chosen from its rounds.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::report::{Report, round};

/// The rule, as tables and files state it.
pub(crate) const RULE: &str = "each figure is the median of the valid rounds by itself, with the lowest and the \
     highest of them; two figures of a row need not be of the same round";

/// A figure over the valid rounds that have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Figure {
    /// Of an even number of rounds the mean of the two in the middle.
    pub(crate) median: f64,
    pub(crate) lowest: f64,
    pub(crate) highest: f64,
    pub(crate) rounds: u64,
}

impl Figure {
    /// Nothing where no round has the figure.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Figure> {
        values.sort_by(f64::total_cmp);
        let (&lowest, &highest) = (values.first()?, values.last()?);
        let (below, above) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        let median = if below == above { below } else { round((below + above) / 2.0) };
        Some(Figure { median, lowest, highest, rounds: values.len() as u64 })
    }

    /// The same in another unit.
    pub(crate) fn times(self, factor: f64) -> Figure {
        let Figure { median, lowest, highest, rounds } = self;
        Figure { median: median * factor, lowest: lowest * factor, highest: highest * factor, rounds }
    }
}

/// Figures by the path of their key in a report, as in `latency_us.p99`. Parts of a run are
/// `parts.NAME.latency_us.p99`.
pub(crate) type Figures = BTreeMap<String, Figure>;

/// Every number of the reports, by the rule. A round that is not valid is no measurement.
pub(super) fn figures(rounds: &[Report]) -> Figures {
    let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for report in rounds.iter().filter(|report| report.valid) {
        let Ok(Value::Object(fields)) = serde_json::to_value(report) else { continue };
        for (key, value) in fields.iter().filter(|(key, _)| *key != "settings" && *key != "provenance") {
            collect(key, value, &mut values);
        }
    }
    values.into_iter().filter_map(|(name, values)| Some((name, Figure::of(values)?))).collect()
}

fn collect(path: &str, value: &Value, into: &mut BTreeMap<String, Vec<f64>>) {
    match value {
        Value::Number(number) => {
            into.entry(path.to_owned()).or_default().extend(number.as_f64());
        }
        Value::Object(fields) => {
            // How many values a distribution is of is no measurement.
            for (key, value) in fields.iter().filter(|(key, _)| *key != "count") {
                collect(&format!("{path}.{key}"), value, into);
            }
        }
        Value::Array(elements) => {
            // What has no name, like threads and points of curves, is no figure of the run.
            for (name, element) in
                elements.iter().filter_map(|element| Some((element["name"].as_str()?, element)))
            {
                collect(&format!("{path}.{name}"), element, into);
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// The latency curve of a row by the same rule: quantile, and the median, the lowest and the highest
/// microseconds at it.
pub(super) fn curve(rounds: &[Report]) -> Vec<(f64, f64, f64, f64)> {
    let curves: Vec<_> =
        rounds.iter().filter(|report| report.valid).map(|report| &report.latency_curve).collect();
    let longest = curves.iter().max_by_key(|curve| curve.len());
    let points = longest.into_iter().flat_map(|curve| curve.iter().enumerate());
    points
        .filter_map(|(index, &(quantile, _))| {
            let at = curves.iter().filter_map(|curve| Some(curve.get(index)?.1)).collect();
            let Figure { median, lowest, highest, .. } = Figure::of(at)?;
            Some((quantile, median, lowest, highest))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Part, Percentiles};

    fn report(cpu: f64, p99: f64) -> Report {
        let latency = Some(Percentiles { p99, ..Percentiles::default() });
        Report {
            valid: true,
            server_cpu_us_per_delivery: Some(cpu),
            latency_us: latency.clone(),
            latency_curve: vec![(0.0, p99 / 2.0), (0.9, p99)],
            parts: vec![Part { name: "small".to_owned(), latency_us: latency, ..Part::default() }],
            ..Report::default()
        }
    }

    /// The round in the middle by CPU was quoted with its p99, which was that of a round chosen by something
    /// else: here 90 or 10 instead of 20.
    #[test]
    fn each_figure_is_its_own_median_and_has_its_own_range() {
        let invalid = Report { valid: false, ..report(100.0, 1_000.0) };
        let rounds = [report(2.0, 90.0), report(1.0, 20.0), invalid, report(3.0, 10.0)];
        let figures = figures(&rounds);
        let figure = |median, lowest, highest| Figure { median, lowest, highest, rounds: 3 };
        assert_eq!(figures["server_cpu_us_per_delivery"], figure(2.0, 1.0, 3.0));
        assert_eq!(figures["latency_us.p99"], figure(20.0, 10.0, 90.0));
        assert_eq!(figures["parts.small.latency_us.p99"], figure(20.0, 10.0, 90.0));
        assert_eq!(figures["lost"], figure(0.0, 0.0, 0.0));
        assert!(!figures.contains_key("last_subscriber_ms"));
        assert_eq!(curve(&rounds), [(0.0, 10.0, 5.0, 45.0), (0.9, 20.0, 10.0, 90.0)]);
    }

    #[test]
    fn of_two_rounds_the_median_is_their_mean_and_of_none_there_is_none() {
        let figure = Figure::of(vec![3.0, 2.0]).unwrap();
        assert_eq!(figure, Figure { median: 2.5, lowest: 2.0, highest: 3.0, rounds: 2 });
        assert_eq!((Figure::of(Vec::new()), figure.times(100.0).median), (None, 250.0));
        assert!(figures(&[Report::default()]).is_empty() && curve(&[Report::default()]).is_empty());
    }
}
