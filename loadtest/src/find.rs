//! The search for what a server holds: a scenario again and again, with more streams or a higher rate, until
//! a threshold fails.

mod search;
mod why;

use std::fmt::Write;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use self::search::Search;
use crate::clock::{self, nanoseconds, parse_duration};
use crate::failure::{Failure, Outcome};
use crate::monitor::{Monitor, Wants};
use crate::outputs::{check_writable, write_so_far};
use crate::report::{Report, units};
use crate::scenario::{self, Churn, Kind, Load, Mixed, Slow};
use crate::sys;

/// What is raised from step to step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Raised {
    /// The number of subscribers
    #[default]
    Streams,
    /// Events a second
    Rate,
}

/// The scenario of each step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Probe {
    #[default]
    Fanout,
    Topics,
    Churn,
    Slow,
    Mixed,
}

impl Probe {
    fn kind(self) -> Kind {
        match self {
            Probe::Fanout => Kind::Fanout,
            Probe::Topics => Kind::Topics(crate::scenario::Topics::default()),
            Probe::Churn => Kind::Churn(Churn::default()),
            Probe::Slow => Kind::Slow(Slow::default()),
            Probe::Mixed => Kind::Mixed(Mixed::default()),
        }
    }
}

/// Raises streams or the rate until a threshold fails.
#[derive(Args)]
pub(crate) struct Find {
    /// What is raised: --subscribers or --rate. The other one stays as it is given
    #[arg(long = "find", value_enum, default_value_t)]
    raised: Raised,
    /// The scenario of each step, with its own options as they are by default
    #[arg(long, value_enum, default_value_t)]
    scenario: Probe,
    /// The first step [default: --subscribers or --rate]
    #[arg(long, value_name = "NUMBER")]
    first: Option<f64>,
    /// No step goes beyond it [default: 1,000,000]
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000_000.0, hide_default_value = true)]
    most: f64,
    /// End when the last step that held and the first that did not are so near to each other, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0)]
    precision: f64,
    /// End after so many steps
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    max_steps: u64,
    /// Start no step after this time
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "30m")]
    max_time: Duration,
    /// Pause between two steps, in which the server puts away what the last one left behind
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "2s")]
    pause: Duration,
    #[command(flatten)]
    load: Load,
}

/// One step.
#[derive(Serialize)]
pub(crate) struct Step {
    /// Streams, or events a second.
    pub(crate) value: f64,
    /// Whether the run was valid and kept to every threshold.
    pub(crate) held: bool,
    /// Why it did not: the thresholds and problems, or why it could not start.
    pub(crate) failed: Vec<String>,
    /// What was at its limit, as far as that can be seen.
    pub(crate) limits: Vec<String>,
    /// The client, or its machine, was the limit, so the server may hold more.
    pub(crate) client_bound: bool,
    /// The run, without its curve, its seconds and its settings; `null` where it could not start.
    pub(crate) report: Option<Report>,
}

/// The result of the search, as it goes into JSON.
#[derive(Serialize)]
pub(crate) struct Found {
    tool: &'static str,
    version: &'static str,
    name: String,
    machine: String,
    raised: Raised,
    scenario: Probe,
    /// The highest value that held.
    pub(crate) held: Option<f64>,
    /// The lowest value that did not.
    pub(crate) did_not_hold: Option<f64>,
    /// The client was at its limit, or the search ended early: the server holds at least [`Found::held`].
    pub(crate) at_least: bool,
    /// What gave way at the lowest value that did not hold.
    failed: Vec<String>,
    limits: Vec<String>,
    /// Why the search ended.
    ended: String,
    pub(crate) partial: bool,
    settings: serde_json::Value,
    steps: Vec<Step>,
}

impl Find {
    /// The file for the result.
    pub(crate) fn json(&self) -> Option<&std::path::Path> {
        self.load.json.as_deref()
    }

    /// Runs the steps. An error is a first step that could not start.
    pub(crate) fn run(&self) -> Outcome<Found> {
        let first = self.first.unwrap_or(match self.raised {
            Raised::Streams => self.load.subscribers as f64,
            Raised::Rate => self.load.rate,
        });
        if !(first > 0.0 && first <= self.most) {
            return Err(Failure::new(format!("--first {first}: above 0, and at most --most {}", self.most)));
        }
        if !(0.1..=50.0).contains(&self.precision) {
            return Err(Failure::new(format!("--precision {}: from 0.1 to 50 percent", self.precision)));
        }
        check_writable(self.json())?;
        let whole = self.raised == Raised::Streams;
        let mut search = Search::new(first, self.most, self.precision / 100.0, whole);
        let (begin, mut steps) = (clock::now(), Vec::<Step>::new());
        let mut partial = false;
        let ended = loop {
            let Some(value) = search.next() else { break search.ended() };
            if steps.len() as u64 >= self.max_steps {
                break "--max-steps was reached".to_owned();
            }
            if !steps.is_empty() {
                clock::sleep_until(clock::now() + nanoseconds(self.pause));
            }
            if clock::now() - begin > nanoseconds(self.max_time) {
                break "--max-time was reached".to_owned();
            }
            let step = match self.step(value) {
                Ok(step) if steps.is_empty() && is_gone(&step) => return Err(nothing_opened(&step)),
                Ok(step) => step,
                Err(failure) if steps.is_empty() => return Err(failure),
                Err(failure) => could_not_start(value, &failure),
            };
            partial = sys::interrupted() || step.report.as_ref().is_some_and(|report| report.partial);
            if partial {
                break "it was interrupted".to_owned();
            }
            self.tell(steps.len() + 1, &step);
            let why_over = match &step {
                Step { report: None, client_bound: false, .. } => {
                    Some("a step could not start: is the server still running?")
                }
                step => is_gone(step)
                    .then_some("no stream could be opened any more: is the server still running?"),
            };
            search.tried(value, step.held);
            steps.push(step);
            if let Some(why) = why_over {
                break why.to_owned();
            }
            steps = self.keep(&search, steps)?;
        };
        Ok(self.found(&search, steps, ended, partial))
    }

    /// Writes what is known after each step, as partial: it is there, whatever ends the search.
    fn keep(&self, search: &Search, steps: Vec<Step>) -> Outcome<Vec<Step>> {
        let so_far = self.found(search, steps, "it has not ended".to_owned(), true);
        if let Some(path) = self.json() {
            write_so_far(path, &so_far)?;
        }
        Ok(so_far.steps)
    }

    fn load_at(&self, value: f64) -> Load {
        let mut load = self.load.clone();
        match self.raised {
            Raised::Streams => load.subscribers = value as u64,
            Raised::Rate => load.rate = value,
        }
        // Streams that cannot be opened are what a step is to show.
        load.count_errors = true;
        load
    }

    fn step(&self, value: f64) -> Outcome<Step> {
        let load = self.load_at(value);
        let wants = Wants { shows_line: Wants::on_terminal(load.quiet), ..Wants::default() };
        let mut monitor = Monitor::new(wants);
        let mut report =
            scenario::run_monitored(&self.scenario.kind(), &load, &load.target_name(), &mut monitor)?;
        let failed = report.failed_thresholds().chain(report.problems.iter().cloned());
        let (failed, limits) = (failed.collect(), why::limits(&report, &load));
        report.drop_curves();
        report.seconds.clear();
        report.settings = serde_json::Value::Null;
        Ok(Step {
            value,
            held: report.passed,
            failed,
            limits,
            client_bound: report.client.bottleneck,
            report: Some(report),
        })
    }

    fn shown(&self, value: f64) -> String {
        match self.raised {
            Raised::Streams => format!("{} streams", units::number(value)),
            Raised::Rate => format!("{} events a second", units::number(value)),
        }
    }

    fn tell(&self, number: usize, step: &Step) {
        if !self.load.quiet {
            let result = if step.held { "held" } else { "did not hold" };
            eprintln!("step {number}: {}: {result}{}", self.shown(step.value), beside(step));
        }
    }

    fn found(&self, search: &Search, steps: Vec<Step>, ended: String, partial: bool) -> Found {
        let gave_way = search.failed.and_then(|value| steps.iter().find(|step| step.value == value));
        // A step that failed at a client at its limit says nothing against the server.
        let at_least = search.held.is_some() && gave_way.is_none_or(|step| step.client_bound);
        Found {
            tool: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            name: self.load.target_name(),
            machine: crate::sample::machine(),
            raised: self.raised,
            scenario: self.scenario,
            held: search.held,
            did_not_hold: search.failed,
            at_least,
            failed: gave_way.map_or(Vec::new(), |step| step.failed.clone()),
            limits: gave_way.map_or(Vec::new(), |step| step.limits.clone()),
            ended,
            partial,
            settings: serde_json::json!(self.load),
            steps,
        }
    }

    /// The result for people.
    pub(crate) fn summary(&self, found: &Found) -> String {
        let mut text = String::new();
        for (index, step) in found.steps.iter().enumerate() {
            let result = if step.held { "held" } else { "did not hold" };
            let _ = writeln!(text, "{:3}  {}: {result}{}", index + 1, self.shown(step.value), beside(step));
        }
        let sign = if found.at_least { ">= " } else { "" };
        let _ = match found.held {
            Some(held) => writeln!(text, "held: {sign}{}", self.shown(held)),
            None => writeln!(text, "no step held"),
        };
        if let Some(value) = found.did_not_hold {
            let _ = writeln!(text, "did not hold: {}", self.shown(value));
        }
        for line in &found.failed {
            let _ = writeln!(text, "  {line}");
        }
        for line in &found.limits {
            let _ = writeln!(text, "  at its limit: {line}");
        }
        text + &found.ended
    }
}

/// The figures that tell one step from the next.
fn beside(step: &Step) -> String {
    let Some(report) = &step.report else { return String::new() };
    let mut parts = Vec::new();
    if let Some(latency) = &report.latency_us {
        parts.push(format!("p99 {}", units::time(latency.p99 * 1e-6)));
    }
    if let Some(rate) = report.deliveries_per_s {
        parts.push(format!("{} deliveries/s", units::number(rate)));
    }
    if let Some(share) = report.server_cpu_share {
        parts.push(format!("server {} % of a core", units::number(share * 100.0)));
    }
    if step.client_bound {
        parts.push("client-bound".to_owned());
    }
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}

/// Not even one stream could be opened.
fn is_gone(step: &Step) -> bool {
    step.report.as_ref().is_some_and(|report| report.opening.streams == 0 && !report.partial)
}

/// Why the first step opened no stream: what went wrong, the most frequent first.
fn nothing_opened(step: &Step) -> Failure {
    let mut errors: Vec<_> = step.report.iter().flat_map(|report| &report.errors).collect();
    errors.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let told: Vec<String> = errors.iter().map(|(kind, count)| format!("{kind} ({count} times)")).collect();
    Failure::new(format!(
        "no stream could be opened: {}. Is the server running, and is the URL right?",
        told.join(", ")
    ))
}

/// A limit of this machine may show only when so much is asked for. Everything else is no limit: the server,
/// or what it is reached by, is not there any more.
fn could_not_start(value: f64, failure: &Failure) -> Step {
    let limits = if failure.is_limit() { vec!["the client's machine".to_owned()] } else { Vec::new() };
    Step {
        value,
        held: false,
        failed: failure.to_string().lines().map(str::to_owned).collect(),
        limits,
        client_bound: failure.is_limit(),
        report: None,
    }
}
