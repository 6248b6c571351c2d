//! A run beside an earlier one: each figure with its change, and what was different.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::{Report, round};
use crate::failure::{Failure, Outcome};
use crate::threshold::{Metric, Unit, change_percent};

/// Settings that do not change what is measured.
const BESIDE: [&str; 5] = ["load.json", "load.quiet", "load.fail_if", "load.server_pid", "load.server_watch"];

/// The result file of an earlier run.
pub(crate) struct Earlier {
    path: PathBuf,
    json: Value,
}

impl Earlier {
    /// Reads the file that `--json` wrote.
    pub(crate) fn read(path: &Path) -> Outcome<Earlier> {
        let wrong = |what: String| Failure::new(format!("--against {}: {what}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let json: Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if json.get("rows").is_some() || json.get("steps").is_some() {
            return Err(wrong("it holds several runs: name the result of one".to_owned()));
        }
        if json.get("scenario").is_none_or(|scenario| !scenario.is_string()) {
            return Err(wrong("it is no result of a run: --json writes one".to_owned()));
        }
        Ok(Earlier { path: path.to_owned(), json })
    }

    #[cfg(test)]
    pub(crate) fn of(json: Value) -> Earlier {
        Earlier { path: PathBuf::from("e.json"), json }
    }

    /// A figure of it, in the metric's base unit.
    pub(crate) fn value(&self, metric: &Metric) -> Option<f64> {
        metric.value_in(&self.json)
    }
}

/// A figure then and now.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Change {
    pub(crate) metric: &'static str,
    /// The unit of the two values: seconds, bytes, count, ratio or bool.
    pub(crate) unit: &'static str,
    pub(crate) earlier: Option<f64>,
    pub(crate) now: Option<f64>,
    /// `null` where one of them is missing, or where the earlier one is 0.
    pub(crate) change_percent: Option<f64>,
    /// The line for people.
    #[serde(skip)]
    pub(crate) shown: String,
}

/// The comparison with an earlier run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Against {
    pub(crate) file: String,
    /// What was different: a line for each setting, and for the machine.
    pub(crate) differences: Vec<String>,
    pub(crate) changes: Vec<Change>,
}

/// Compares a report with an earlier result.
pub(crate) fn against(report: &Report, earlier: &Earlier) -> Against {
    let mut differences = Vec::new();
    for (name, now) in [("machine", &report.machine), ("arrangement", &report.arrangement)] {
        let before = earlier.json.get(name).and_then(Value::as_str).unwrap_or("unknown");
        if before != now {
            differences.push(format!("{name}: then `{before}`, now `{now}`"));
        }
    }
    let valid = earlier.json.get("valid").and_then(Value::as_bool);
    if valid != Some(true) {
        differences.push("the earlier run was not valid".to_owned());
    }
    let before = earlier.json.get("settings").unwrap_or(&Value::Null);
    differing("", before, &report.settings, &mut differences);
    let changes = Metric::all().filter_map(|metric| change(metric, report, earlier)).collect();
    Against { file: earlier.path.display().to_string(), differences, changes }
}

fn change(metric: &Metric, report: &Report, earlier: &Earlier) -> Option<Change> {
    let (before, now) = (earlier.value(metric), (metric.value)(report));
    let nothing = |value: Option<f64>| value.is_none_or(|value| value == 0.0);
    if nothing(before) && nothing(now) || metric.unit == Unit::YesNo && before == now {
        return None;
    }
    let percent = match (before, now) {
        (Some(before), Some(now)) if metric.unit != Unit::YesNo => change_percent(before, now).map(round),
        _ => None,
    };
    let show = |value: Option<f64>| value.map_or("nothing".to_owned(), |value| metric.unit.show(value));
    let percent_shown = percent.map_or(String::new(), |percent| format!(" ({percent:+.1} %)"));
    Some(Change {
        metric: metric.name,
        unit: metric.unit.name(),
        earlier: before,
        now,
        change_percent: percent,
        shown: format!("{} -> {}{percent_shown}", show(before), show(now)),
    })
}

/// Names each value that differs, by the path of its name.
fn differing(path: &str, before: &Value, now: &Value, into: &mut Vec<String>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match (before, now) {
        (Value::Object(before), Value::Object(now)) => {
            let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
            for name in names {
                let value = |of: &serde_json::Map<String, Value>| of.get(name).cloned().unwrap_or_default();
                differing(&below(name), &value(before), &value(now), into);
            }
        }
        (before, now) if before == now || BESIDE.contains(&path) => {}
        (before, now) => into.push(format!("{path}: then {before}, now {now}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Percentiles;

    #[test]
    fn figures_are_put_beside_each_other_and_differing_settings_are_named() {
        let report = |p99, rate: f64| Report {
            scenario: "fanout".to_owned(),
            machine: "m".to_owned(),
            valid: true,
            latency_us: Some(Percentiles { p99, ..Percentiles::default() }),
            settings: serde_json::json!({ "load": { "rate": rate, "json": rate, "url": "u" } }),
            ..Report::default()
        };
        let json = serde_json::to_value(report(1_000.0, 10.0)).unwrap();
        let earlier = Earlier::of(json);
        let found = against(&report(1_200.0, 20.0), &earlier);
        assert_eq!(found.differences, ["load.rate: then 10.0, now 20.0"]);
        let shown: Vec<_> = found.changes.iter().map(|change| (change.metric, &change.shown[..])).collect();
        assert_eq!(shown, [("p99", "1 ms -> 1.2 ms (+20.0 %)")]);
        assert_eq!(found.changes[0].change_percent, Some(20.0));
    }
}
