//! The comparison: one scenario over several servers, each fresh for each run, in turn, several rounds.

mod contender;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

use self::contender::Contender;
pub(crate) use self::contender::{Wanted, all_contenders, place};
use crate::baseline::InFull;
use crate::failure::{Failure, Outcome};
use crate::report::{self, Report};
use crate::scenario::{self, Churn, Idle, Kind, Load, Mixed, Saturate, Slow, Storm};
use crate::sys;

/// Events that the publisher may be ahead of the average subscriber in `saturate`: less than the shortest
/// queue of a contender holds. Where other programs keep one of a contender's threads from its queue, it may
/// still overflow.
const WINDOW: u64 = 32;

/// A scenario to compare in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contest {
    Fanout,
    Idle,
    Saturate,
    Storm,
    Slow,
    Churn,
    Topics,
    Mixed,
}

impl Contest {
    pub(crate) fn name(self) -> &'static str {
        self.kind().name()
    }

    /// Whether it needs more than one channel for everybody.
    fn needs_topics(self) -> bool {
        matches!(self, Contest::Topics | Contest::Mixed)
    }

    fn kind(self) -> Kind {
        match self {
            Contest::Fanout => Kind::Fanout,
            Contest::Idle => Kind::Idle(Idle::default()),
            Contest::Saturate => Kind::Saturate(Saturate { window: WINDOW }),
            // Most contenders have nothing to resume from.
            Contest::Storm => Kind::Storm(Storm { no_resume: true }),
            Contest::Slow => Kind::Slow(Slow::default()),
            Contest::Churn => Kind::Churn(Churn::default()),
            Contest::Topics => Kind::Topics,
            Contest::Mixed => Kind::Mixed(Mixed::default()),
        }
    }
}

/// A scenario over the baselines and the fanfare server.
#[derive(Args)]
pub(crate) struct Compare {
    /// The scenario, with its own options as they are; `fanout` shows memory and CPU as well
    #[arg(long, value_enum, default_value_t = Contest::Fanout)]
    scenario: Contest,
    /// Who takes part, of threads, bare, axum-sse, hyper, node, nchan, durable-streams, go, mercure,
    /// centrifugo, pushpin, fanfare-epoll, fanfare-io-uring, fanfare-axum [default: all that are installed]
    #[arg(long, value_delimiter = ',')]
    contenders: Vec<String>,
    /// The fanfare server's binary; without it there is no fanfare among them
    #[arg(long, value_name = "FILE")]
    fanfare: Option<PathBuf>,
    /// The engine in a handler of axum: the binary of the example `load_server` of fanfare-axum
    #[arg(long, value_name = "FILE")]
    fanfare_axum: Option<PathBuf>,
    /// Change a setting of a contender: NAME.arguments='...' (`arguments+=` adds to them),
    /// NAME.environment.VARIABLE=VALUE, NAME.program=FILE, NAME.files.NAME=FILE. `fanfare-load baseline NAME
    /// --show` prints what there is
    #[arg(long, value_name = "NAME.KEY=VALUE", allow_hyphen_values = true)]
    set: Vec<String>,
    /// More options of the fanfare server with both backends, e.g. '--shards 7 --heartbeat 1day'
    #[arg(long, value_name = "OPTIONS", requires = "fanfare", allow_hyphen_values = true)]
    fanfare_options: Option<String>,
    /// Sending threads of `bare`, each with a descriptor table of its own where there are several
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    bare_threads: Option<u16>,
    /// Times that each server runs at each number of connections
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// Numbers of connections, one after the other; overrides --subscribers
    #[arg(long, value_delimiter = ',')]
    connections: Vec<u64>,
    /// Write a page with plots, which needs nothing else
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write each plot as SVG into a directory
    #[arg(long, value_name = "DIRECTORY")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    load: Load,
}

/// All runs of one contender at one number of connections.
#[derive(Default, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// What the program says of its version, or the versions of what is built in.
    pub(crate) version_of_program: Option<String>,
    /// The settings in a sentence.
    pub(crate) settings: String,
    /// What it was started with.
    pub(crate) settings_in_full: InFull,
    pub(crate) cannot: String,
    /// What somebody who knows it well would object to.
    pub(crate) objections: Vec<String>,
    pub(crate) connections: u64,
    /// The run in the middle, by CPU per delivery where it is known, else by the last subscriber.
    pub(crate) median: Report,
    /// From the lowest to the highest of the valid rounds.
    pub(crate) server_cpu_us_per_delivery_range: Option<(f64, f64)>,
    pub(crate) rounds: Vec<Report>,
}

impl Row {
    /// Over all rounds: the run in the middle is a valid one where most are, so it hides those that are not.
    pub(crate) fn faults(&self) -> u64 {
        self.rounds.iter().map(|round| round.faults().sum()).sum()
    }

    /// Nothing where every round is valid, else how many are not.
    pub(crate) fn verdict(&self) -> String {
        match self.rounds.iter().filter(|round| !round.valid).count() {
            0 => String::new(),
            invalid => format!("NOT VALID: {invalid} of {} rounds", self.rounds.len()),
        }
    }

    /// What was wrong, by rounds.
    pub(crate) fn problems(&self) -> Vec<String> {
        let rounds = self.rounds.iter().enumerate().filter(|(_, round)| !round.problems.is_empty());
        rounds.map(|(number, round)| format!("round {}: {}", number + 1, round.problems.join("; "))).collect()
    }
}

/// Everything that was compared.
#[derive(Serialize)]
pub(crate) struct Comparison {
    pub(crate) tool: &'static str,
    pub(crate) version: &'static str,
    pub(crate) machine: String,
    pub(crate) arrangement: String,
    pub(crate) scenario: Contest,
    pub(crate) rounds: u64,
    pub(crate) partial: bool,
    /// Who could not take part, and why.
    pub(crate) absent: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

impl Comparison {
    pub(crate) fn valid(&self) -> bool {
        !self.partial && self.rows.iter().all(|row| row.rounds.iter().all(|report| report.valid))
    }

    /// What each contender's program says of its version.
    pub(crate) fn versions(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for row in &self.rows {
            let version = row.version_of_program.as_deref().unwrap_or("its program does not say its version");
            let line = format!("{}: {version}", row.name);
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        lines
    }

    /// CPU per delivery of each row in units of the bare loop's: the runs in the middle, and round by round.
    /// A run that is not valid is beside nothing.
    pub(crate) fn beside_bare(&self) -> Vec<String> {
        let ratio = |one: &Report, bare: &Report| {
            let both = one.valid && bare.valid;
            both.then_some(one.server_cpu_us_per_delivery? / bare.server_cpu_us_per_delivery?)
        };
        let line = |row: &Row| {
            let bare = self.rows.iter().find(|bare| {
                bare.name == "bare" && row.name != "bare" && bare.connections == row.connections
            })?;
            let rounds = row.rounds.iter().zip(&bare.rounds);
            let rounds: Vec<String> =
                rounds.filter_map(|(one, bare)| Some(format!("{:.3}", ratio(one, bare)?))).collect();
            Some(format!(
                "{} at {}: {:.3} times the CPU per delivery of bare; by rounds {}",
                row.name,
                row.connections,
                ratio(&row.median, &bare.median)?,
                rounds.join(", ")
            ))
        };
        self.rows.iter().filter_map(line).collect()
    }
}

impl Compare {
    /// Runs everything and writes what was asked for. `Ok(false)`: not every run was valid.
    pub(crate) fn run(mut self) -> Outcome<Comparison> {
        if self.connections.is_empty() {
            self.connections.push(self.load.subscribers);
        }
        for &subscribers in &self.connections {
            // A run is given its contender's process.
            let load = Load { subscribers, server_pid: Some(0), ..self.load.clone() };
            scenario::check(&self.scenario.kind(), &load)?;
        }
        let (contenders, absent) = self.contenders()?;
        for missing in &absent {
            eprintln!("fanfare-load: {missing}");
        }
        let mut runs = Vec::new();
        'all: for &connections in &self.connections {
            for round in 0..self.rounds {
                for turn in 0..contenders.len() {
                    // Each round begins with another one, so that nobody always comes after the same.
                    let index = (turn + round as usize) % contenders.len();
                    let report = self.one(&contenders[index], connections, round)?;
                    let interrupted = report.partial;
                    runs.push((index, connections, report));
                    self.keep(&self.comparison(&contenders, &absent, &runs, true))?;
                    if interrupted || sys::interrupted() {
                        break 'all;
                    }
                }
            }
        }
        let comparison = self.comparison(&contenders, &absent, &runs, sys::interrupted());
        self.write(&comparison)?;
        Ok(comparison)
    }

    /// What the runs so far say.
    fn comparison(
        &self,
        contenders: &[Contender],
        absent: &[String],
        runs: &[(usize, u64, Report)],
        partial: bool,
    ) -> Comparison {
        let arrangement = runs.first().map(|(_, _, report)| report.arrangement.clone()).unwrap_or_default();
        let mut rows = Vec::new();
        for &connections in &self.connections {
            for (index, contender) in contenders.iter().enumerate() {
                let rounds: Vec<Report> = runs
                    .iter()
                    .filter(|(of, at, _)| *of == index && *at == connections)
                    .map(|(_, _, report)| report.clone())
                    .collect();
                rows.extend(row(contender, connections, rounds));
            }
        }
        Comparison {
            tool: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            machine: crate::sample::machine(),
            arrangement,
            scenario: self.scenario,
            rounds: self.rounds,
            partial,
            absent: absent.to_vec(),
            rows,
        }
    }

    /// Writes the JSON after each run, as partial: what has run is kept, whatever ends the comparison.
    fn keep(&self, comparison: &Comparison) -> Outcome<()> {
        match &self.load.json {
            // A pipe or a terminal wants the result only.
            Some(path) if path.is_file() || !path.exists() => crate::write_json(path, comparison),
            _ => Ok(()),
        }
    }

    /// What is overridden with `--set` and with the options that are short for it.
    fn overridden(&self) -> Vec<String> {
        let fanfare = self.fanfare_options.iter().flat_map(|options| {
            ["epoll", "io-uring"].map(|backend| format!("fanfare-{backend}.arguments+={options}"))
        });
        let bare = self.bare_threads.map(|threads| format!("bare.arguments+=--threads {threads}"));
        fanfare.chain(bare).chain(self.set.iter().cloned()).collect()
    }

    fn contenders(&self) -> Outcome<(Vec<Contender>, Vec<String>)> {
        let set = self.overridden();
        let (fanfare, fanfare_axum) = (self.fanfare.as_deref(), self.fanfare_axum.as_deref());
        let all = all_contenders(Wanted { fanfare, fanfare_axum, set: &set })?;
        let names: Vec<String> = all.iter().map(|(name, _)| name.clone()).collect();
        if let Some(unknown) = self.contenders.iter().find(|name| !names.contains(name)) {
            return Err(Failure::new(format!(
                "there is no contender `{unknown}`; there are {}",
                names.join(", ")
            )));
        }
        let (mut present, mut absent) = (Vec::new(), Vec::new());
        for (name, found) in all {
            if !self.contenders.is_empty() && !self.contenders.contains(&name) {
                continue;
            }
            match found {
                Ok(contender) if self.scenario.needs_topics() && !contender.settings.topics => {
                    absent.push(format!(
                        "{name} is left out of {}: it has one channel for everybody",
                        self.scenario.name()
                    ))
                }
                Ok(contender) => {
                    let differs = contender.settings.version_differs(contender.version.as_deref());
                    differs.iter().for_each(|note| eprintln!("fanfare-load: {note}"));
                    present.push(contender)
                }
                Err(failure) => absent.push(format!("{name} is left out: {failure}")),
            }
        }
        match present.is_empty() {
            true => Err(Failure::new(format!("nobody takes part: {}", absent.join("; ")))),
            false => Ok((present, absent)),
        }
    }

    fn one(&self, contender: &Contender, connections: u64, round: u64) -> Outcome<Report> {
        if !self.load.quiet {
            eprintln!(
                "round {} of {}: {} with {connections} streams",
                round + 1,
                self.rounds,
                contender.name
            );
        }
        let mut load = self.load.clone();
        load.subscribers = connections;
        load.server = contender.settings.dialect;
        let running = match contender.start(&load.server_cores) {
            Ok(running) => running,
            Err(failure) => return Ok(failed(contender, connections, &failure)),
        };
        running.aim(&mut load);
        let report = scenario::run(&self.scenario.kind(), &load, &contender.name)
            .unwrap_or_else(|failure| failed(contender, connections, &failure));
        running.stop();
        for problem in &report.problems {
            eprintln!("fanfare-load: {}: {problem}", contender.name);
        }
        Ok(report)
    }

    fn write(&self, comparison: &Comparison) -> Outcome<()> {
        if let Some(path) = &self.load.json {
            crate::write_json(path, comparison)?;
        }
        let write = |path: &PathBuf, text: String| {
            std::fs::write(path, text).map_err(|error| Failure::new(format!("{}: {error}", path.display())))
        };
        if let Some(path) = &self.html {
            write(path, report::page(comparison))?;
        }
        if let Some(directory) = &self.svg {
            std::fs::create_dir_all(directory)
                .map_err(|error| Failure::new(format!("{}: {error}", directory.display())))?;
            for (name, svg) in report::plots(comparison) {
                write(&directory.join(format!("{name}.svg")), svg)?;
            }
        }
        Ok(())
    }
}

/// A run that could not be made stays in, as a row that is not valid.
fn failed(contender: &Contender, connections: u64, failure: &Failure) -> Report {
    Report {
        name: contender.name.clone(),
        subscribers: connections,
        problems: failure.to_string().lines().map(str::to_owned).collect(),
        ..Report::default()
    }
}

fn row(contender: &Contender, connections: u64, rounds: Vec<Report>) -> Option<Row> {
    let key =
        |report: &Report| report.server_cpu_us_per_delivery.or(report.last_subscriber_ms).unwrap_or(f64::MAX);
    let mut sorted: Vec<&Report> = rounds.iter().collect();
    // Runs that are not valid come last, so that one of them stands in the middle only if most are such.
    sorted.sort_by(|a, b| b.valid.cmp(&a.valid).then(key(a).total_cmp(&key(b))));
    let median = (*sorted.get(sorted.len().checked_sub(1)? / 2)?).clone();
    let mut rounds = rounds;
    // The curve of the run in the middle is enough; the others would make the file ten times as long.
    rounds.iter_mut().for_each(|report| report.latency_curve.clear());
    let valid = rounds.iter().filter(|report| report.valid);
    let range = valid.filter_map(|report| report.server_cpu_us_per_delivery).fold(
        None,
        |range: Option<(f64, f64)>, value| match range {
            None => Some((value, value)),
            Some((low, high)) => Some((low.min(value), high.max(value))),
        },
    );
    Some(Row {
        name: contender.name.clone(),
        version_of_program: contender.version.clone(),
        settings: contender.settings.sentence(),
        settings_in_full: contender.settings.in_full(),
        cannot: contender.settings.cannot.clone(),
        objections: contender.settings.objections.clone(),
        connections,
        median,
        server_cpu_us_per_delivery_range: range,
        rounds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A round: its CPU per delivery, and what it lost.
    fn round(cpu: f64, lost: u64) -> Report {
        Report {
            valid: lost == 0,
            lost,
            problems: (lost > 0).then(|| format!("deliveries are wrong: {lost} lost")).into_iter().collect(),
            server_cpu_us_per_delivery: Some(cpu),
            ..Report::default()
        }
    }

    fn comparison(rows: [(&str, Vec<Report>); 2]) -> Comparison {
        let all = all_contenders(Wanted::default()).unwrap();
        let row = |(name, rounds)| {
            let (_, contender) = all.iter().find(|(of, _)| of == name).unwrap();
            row(contender.as_ref().unwrap(), 10, rounds).unwrap()
        };
        Comparison {
            tool: "",
            version: "",
            machine: String::new(),
            arrangement: String::new(),
            scenario: Contest::Fanout,
            rounds: 3,
            partial: false,
            absent: Vec::new(),
            rows: rows.map(row).into(),
        }
    }

    /// A row showed the faults and the verdict of the run in the middle, which is a valid one if most are: a
    /// server that lost events in one of three rounds had none and no mark, and its range and its ratio held
    /// the round that was not valid.
    #[test]
    fn a_round_that_is_not_valid_marks_its_row_and_is_no_measurement() {
        let comparison = comparison([
            ("bare", vec![round(2.0, 0), round(2.0, 0), round(2.0, 0)]),
            ("axum-sse", vec![round(3.0, 0), round(1.0, 1_234), round(4.0, 0)]),
        ]);
        let row = &comparison.rows[1];
        assert!(row.median.valid && !comparison.valid());
        assert_eq!((row.faults(), row.server_cpu_us_per_delivery_range), (1_234, Some((3.0, 4.0))));
        let beside = comparison.beside_bare();
        assert_eq!(beside.len(), 1);
        assert!(beside[0].ends_with("by rounds 1.500, 2.000"), "{}", beside[0]);

        let table = report::comparison(&comparison);
        let line = |name: &str| table.lines().find(|line| line.contains(name)).unwrap();
        assert!(
            line("axum-sse").contains("1,234") && line("axum-sse").contains("NOT VALID: 1 of 3 rounds"),
            "{table}"
        );
        assert!(!line("bare").contains("NOT VALID"), "{table}");
        let page = report::page(&comparison);
        let told = "<td>1,234</td><td class=\"bad\">NOT VALID: 1 of 3 rounds; round 2: deliveries are wrong: 1234 lost</td>";
        assert!(page.contains(told), "{page}");
        assert_eq!(page.matches("NOT VALID").count(), 1);
    }

    /// Where the run in the middle is not valid there is nothing to put beside the bare loop's.
    #[test]
    fn a_row_that_is_mostly_not_valid_has_no_ratio() {
        let comparison = comparison([
            ("bare", vec![round(2.0, 0), round(2.0, 5), round(2.0, 7)]),
            ("axum-sse", vec![round(3.0, 0), round(3.0, 0), round(3.0, 0)]),
        ]);
        assert!(comparison.beside_bare().is_empty());
        assert_eq!(comparison.rows[0].server_cpu_us_per_delivery_range, Some((2.0, 2.0)));
        assert_eq!((comparison.rows[0].faults(), comparison.rows[1].verdict()), (12, String::new()));
        assert!(report::comparison(&comparison).contains("NOT VALID: 2 of 3 rounds"));
    }
}
