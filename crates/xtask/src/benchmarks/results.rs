//! Files that `fanfare-load` wrote: the figures of a run by itself, or of the rows of a comparison.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

/// What is wrong with deliveries, by the keys of a report.
const FAULTS: [(&str, &str); 5] = [
    ("lost", "lost"),
    ("doubled", "doubled"),
    ("out_of_order", "out of order"),
    ("damaged", "damaged"),
    ("misrouted", "misrouted"),
];

/// CPU per delivery in units of the bare loop's in the same round: no single report has it.
const BESIDE_BARE: &str = "server_cpu_beside_bare";
const CPU: &str = "server_cpu_us_per_delivery";

/// A figure over the valid rounds that have it.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
pub(super) struct Figure {
    pub(super) median: f64,
    pub(super) lowest: f64,
    pub(super) highest: f64,
    pub(super) rounds: u64,
    #[serde(skip)]
    pub(super) form: Form,
}

/// How a figure is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Form {
    /// With three digits.
    #[default]
    Measured,
    /// With four: hundredths decide what is better.
    Ratio,
    /// It counts things, and has no part of one.
    Count,
}

impl Form {
    /// That of a figure of this name.
    pub(super) fn of(name: &str) -> Form {
        match name {
            BESIDE_BARE => Form::Ratio,
            name if COUNTS.contains(&name) => Form::Count,
            _ => Form::Measured,
        }
    }

    pub(super) fn shown(self, value: f64) -> String {
        match self {
            Form::Measured => digits(value, 3),
            Form::Ratio => digits(value, 4),
            Form::Count => digits(value.round(), 1),
        }
    }
}

/// Figures that count things.
const COUNTS: [&str; 16] = [
    "subscribers",
    "published",
    "deliveries",
    "lost",
    "doubled",
    "out_of_order",
    "damaged",
    "misrouted",
    "streams_ended",
    "streams_cut",
    "streams_reopened",
    "missed_while_away",
    "foreign_events",
    "incomplete_events",
    "opening.streams",
    "slow_lost",
];

impl Figure {
    fn of(mut values: Vec<f64>) -> Option<Figure> {
        values.sort_by(f64::total_cmp);
        let (&lowest, &highest) = (values.first()?, values.last()?);
        let (below, above) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        let median = if below == above { below } else { four_digits((below + above) / 2.0) };
        Some(Figure { median, lowest, highest, rounds: values.len() as u64, form: Form::default() })
    }

    /// The same in another unit, with the four digits that a file has.
    pub(super) fn times(self, factor: f64) -> Figure {
        let times = |value: f64| if factor == 1.0 { value } else { four_digits(value * factor) };
        let (median, lowest, highest) = (times(self.median), times(self.lowest), times(self.highest));
        Figure { median, lowest, highest, ..self }
    }

    /// As a person reads it: three digits, thousands apart, and the range in brackets where there is one.
    pub(super) fn shown(&self) -> String {
        match self.range() {
            Some(range) => format!("{} ({range})", self.middle()),
            None => self.middle(),
        }
    }

    /// The median alone.
    pub(super) fn middle(&self) -> String {
        self.form.shown(self.median)
    }

    /// From the lowest to the highest, where they differ.
    pub(super) fn range(&self) -> Option<String> {
        let (lowest, highest) = (self.form.shown(self.lowest), self.form.shown(self.highest));
        (lowest != highest).then(|| format!("{lowest} to {highest}"))
    }
}

/// As the load test rounds its figures, so that a figure is the same where its file has it and where it is
/// computed from the rounds.
fn four_digits(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// So many digits, more only before the point.
fn digits(value: f64, count: i32) -> String {
    if value < 0.0 {
        return format!("-{}", digits(-value, count));
    }
    if value < 1e-9 {
        return "0".to_owned();
    }
    let places = |value: f64| (count - 1 - value.log10().floor() as i32).max(0) as usize;
    // 9.996 has its third digit one place earlier than 9.994.
    let rounded: f64 = format!("{value:.*}", places(value)).parse().unwrap_or(value);
    match places(rounded) {
        0 => grouped(rounded.round() as u64),
        places => format!("{rounded:.places$}"),
    }
}

/// Thousands apart.
pub(super) fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A contender at a number of streams, or a run by itself.
#[derive(Debug, Default)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) connections: u64,
    pub(super) figures: BTreeMap<String, Figure>,
    /// How many rounds are not valid, and how many there were.
    pub(super) not_valid: u64,
    pub(super) rounds: u64,
    /// What was wrong, over all rounds.
    pub(super) faults: Vec<String>,
}

/// A file.
#[derive(Debug)]
pub(super) struct Results {
    pub(super) rows: Vec<Row>,
    pub(super) rounds: u64,
    pub(super) machine: Option<String>,
    pub(super) command: Option<String>,
    /// The day, UTC.
    pub(super) day: Option<String>,
}

impl Results {
    pub(super) fn read(file: &Path) -> Result<Results, String> {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        Results::parse(&text).map_err(|problem| format!("{}: {problem}", file.display()))
    }

    pub(super) fn parse(text: &str) -> Result<Results, String> {
        let json: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let mut rows = match json["rows"].as_array() {
            Some(rows) => rows.iter().map(row).collect::<Result<_, _>>()?,
            None => vec![single(&json)],
        };
        beside_bare(&mut rows, &json);
        let started = text(&json["provenance"]["started"]);
        Ok(Results {
            rows,
            rounds: json["rounds"].as_u64().unwrap_or(1),
            machine: text(&json["machine"]),
            command: text(&json["provenance"]["command"]),
            day: started.and_then(|time| Some(time.split_once('T')?.0.to_owned())),
        })
    }
}

fn row(json: &Value) -> Result<Row, String> {
    let rounds = json["rounds"].as_array().ok_or("a row has no rounds")?;
    let (valid, not_valid): (Vec<_>, Vec<_>) = rounds.iter().partition(|round| is_valid(round));
    // Files that were made small have no figures, because they follow from the rounds by the rule of the load
    // test.
    let figures = match &json["figures"] {
        Value::Null => figures_of(&valid),
        figures => Deserialize::deserialize(figures).map_err(|error| format!("figures: {error}"))?,
    };
    let all = |key: &str| rounds.iter().filter_map(|round| round[key].as_u64()).sum::<u64>();
    let faults = FAULTS.iter().map(|(key, name)| (all(key), name)).filter(|(count, _)| *count > 0);
    Ok(Row {
        name: json["name"].as_str().ok_or("a row has no name")?.to_owned(),
        connections: json["connections"].as_u64().ok_or("a row has no number of connections")?,
        figures,
        not_valid: not_valid.len() as u64,
        rounds: rounds.len() as u64,
        faults: faults.map(|(count, name)| format!("{} {name}", grouped(count))).collect(),
    })
}

/// A run by itself, or whatever else has numbers.
fn single(json: &Value) -> Row {
    Row {
        connections: json["subscribers"].as_u64().unwrap_or(0),
        figures: figures_of(&[json]),
        not_valid: u64::from(!is_valid(json)),
        rounds: 1,
        ..Row::default()
    }
}

fn is_valid(report: &Value) -> bool {
    report["valid"].as_bool().unwrap_or(true)
}

fn figures_of(rounds: &[&Value]) -> BTreeMap<String, Figure> {
    let mut values = BTreeMap::new();
    for round in rounds {
        for (key, value) in round.as_object().into_iter().flatten() {
            if key != "settings" && key != "provenance" {
                collect(key, value, &mut values);
            }
        }
    }
    values.into_iter().filter_map(|(name, values)| Some((name, Figure::of(values)?))).collect()
}

/// Numbers by the path of their key; elements of a list by their names.
fn collect(path: &str, value: &Value, into: &mut BTreeMap<String, Vec<f64>>) {
    match value {
        Value::Number(number) => into.entry(path.to_owned()).or_default().extend(number.as_f64()),
        Value::Object(fields) => {
            // How many values a distribution is of is no measurement.
            for (key, value) in fields.iter().filter(|(key, _)| *key != "count") {
                collect(&format!("{path}.{key}"), value, into);
            }
        }
        Value::Array(elements) => {
            for element in elements {
                if let Some(name) = element["name"].as_str() {
                    collect(&format!("{path}.{name}"), element, into);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// Puts rows of an earlier form beside the bare loop's, round by round.
fn beside_bare(rows: &mut [Row], json: &Value) {
    let rounds = |row: &Value| -> Vec<Option<f64>> {
        let cpu = |round: &Value| round[CPU].as_f64().filter(|_| is_valid(round));
        row["rounds"].as_array().into_iter().flatten().map(cpu).collect()
    };
    let all = json["rows"].as_array().map_or(&[][..], Vec::as_slice);
    for (row, raw) in rows.iter_mut().zip(all).filter(|(row, _)| row.name != "bare") {
        let same = |other: &&Value| {
            other["name"] == "bare" && other["connections"].as_u64() == Some(row.connections)
        };
        let Some(bare) = all.iter().find(same) else { continue };
        let pairs = rounds(raw).into_iter().zip(rounds(bare));
        let ratios = pairs.filter_map(|(one, bare)| Some(one? / bare?)).collect();
        if let (false, Some(figure)) = (row.figures.contains_key(BESIDE_BARE), Figure::of(ratios)) {
            row.figures.insert(BESIDE_BARE.to_owned(), figure);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        let shown = [0.0, 0.07694, 0.5, 1.896, 9.996, 42.0, 99.96, 999.6, 19_360.0, 2_708_000.0, -12_850.0];
        let told = [
            "0",
            "0.0769",
            "0.500",
            "1.90",
            "10.0",
            "42.0",
            "100",
            "1,000",
            "19,360",
            "2,708,000",
            "-12,850",
        ];
        assert_eq!(shown.map(|value| digits(value, 3)), told);
        assert_eq!([0.50047, 1.0716, 123.44].map(|value| digits(value, 4)), ["0.5005", "1.072", "123.4"]);
        let figure = Figure { median: 2.0, lowest: 1.9, highest: 2.1, rounds: 3, form: Form::Measured };
        assert_eq!(
            Figure { lowest: 1.0, highest: 2_345.0, form: Form::Count, ..figure }.shown(),
            "2 (1 to 2,345)"
        );
        assert_eq!(
            (figure.shown(), figure.times(10.0).shown()),
            ("2.00 (1.90 to 2.10)".into(), "20.0 (19.0 to 21.0)".into())
        );
        assert_eq!(Figure { lowest: 2.0, highest: 2.0, ..figure }.shown(), "2.00");
    }

    /// A file of an earlier form, and one with figures.
    #[test]
    fn figures_come_from_the_file_or_by_the_same_rule_from_the_valid_rounds() {
        let results = Results::parse(
            r#"{"rounds": 3, "rows": [
                {"name": "bare", "connections": 10, "rounds": [
                    {"valid": true, "server_cpu_us_per_delivery": 2.0}, {"valid": true, "server_cpu_us_per_delivery": 1.0},
                    {"valid": true, "server_cpu_us_per_delivery": 5.0}]},
                {"name": "x", "connections": 10, "rounds": [
                    {"valid": true, "server_cpu_us_per_delivery": 4.0, "lost": 0, "latency_us": {"p99": 7.0}},
                    {"valid": false, "server_cpu_us_per_delivery": 9.0, "lost": 1200, "doubled": 3},
                    {"valid": true, "server_cpu_us_per_delivery": 5.0, "parts": [{"name": "small", "p": 3}]}]},
                {"name": "y", "connections": 10, "figures": {"a": {"median": 2, "lowest": 1, "highest": 3, "rounds": 5}},
                 "rounds": []}]}"#,
        )
        .unwrap();
        let [bare, x, y] = &results.rows[..] else { panic!("three rows") };
        let figure = |median, lowest, highest, rounds| Figure {
            median,
            lowest,
            highest,
            rounds,
            form: Form::Measured,
        };
        assert_eq!(bare.figures[CPU], figure(2.0, 1.0, 5.0, 3));
        assert_eq!(
            (x.figures[CPU], x.figures[BESIDE_BARE]),
            (figure(4.5, 4.0, 5.0, 2), figure(1.5, 1.0, 2.0, 2))
        );
        assert_eq!(
            (x.figures["latency_us.p99"], x.figures["parts.small.p"]),
            (figure(7.0, 7.0, 7.0, 1), figure(3.0, 3.0, 3.0, 1))
        );
        assert_eq!((x.not_valid, x.rounds, &x.faults.join(", ")[..]), (1, 3, "1,200 lost, 3 doubled"));
        assert_eq!(y.figures["a"], figure(2.0, 1.0, 3.0, 5));
        let single =
            Results::parse(r#"{"valid": true, "subscribers": 7, "opening": {"seconds": 1.5}}"#).unwrap();
        assert_eq!((single.rows[0].connections, single.rows[0].figures["opening.seconds"].median), (7, 1.5));
        assert!(Results::parse("{").is_err());
    }
}
