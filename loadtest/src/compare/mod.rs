//! The comparison: one scenario over several servers, each fresh for each run, in turn, several rounds.

mod contender;
mod medians;
mod rows;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

use self::contender::Contender;
#[cfg(test)]
pub(crate) use self::contender::names;
pub(crate) use self::contender::{Wanted, all_contenders, place};
pub(crate) use self::medians::{Figure, RULE};
pub(crate) use self::rows::{Comparison, Row};
use self::rows::{compare_with_bare, row};
use crate::failure::{Failure, Outcome};
use crate::outputs::{check_writable, write_json, write_so_far};
use crate::provenance::Provenance;
use crate::report::{self, Report};
use crate::scenario::{self, Churn, Idle, Kind, Load, Mixed, Saturate, Slow, Storm, Topics};
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
        self.kind(false).name()
    }

    /// Whether it needs more than one channel for everybody.
    fn needs_topics(self) -> bool {
        matches!(self, Contest::Topics | Contest::Mixed)
    }

    /// The scenario with its own options as they are. In a storm subscribers come back with `Last-Event-ID`
    /// if they `resume`.
    fn kind(self, resume: bool) -> Kind {
        match self {
            Contest::Fanout => Kind::Fanout,
            Contest::Idle => Kind::Idle(Idle::default()),
            Contest::Saturate => Kind::Saturate(Saturate { window: WINDOW }),
            Contest::Storm => Kind::Storm(Storm { no_resume: !resume, ..Storm::default() }),
            Contest::Slow => Kind::Slow(Slow::default()),
            Contest::Churn => Kind::Churn(Churn::default()),
            Contest::Topics => Kind::Topics(Topics::default()),
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
    /// In `storm` subscribers come back with Last-Event-ID, and what is published meanwhile must reach them.
    /// Most contenders cannot do that: choose those that can with --contenders
    #[arg(long)]
    resume: bool,
    /// Times that each server runs at each number of connections. Each figure is the median of its rounds by
    /// itself; fewer than five say little
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
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

impl Compare {
    /// Runs everything and writes what was asked for.
    pub(crate) fn run(mut self) -> Outcome<Comparison> {
        if self.connections.is_empty() {
            self.connections.push(self.load.subscribers);
        }
        if !self.load.agents.is_empty() || self.load.server_watch.is_some() {
            return Err(Failure::new(
                "`compare` starts its servers on this machine, for subscribers on this machine: leave out --agents and --server-watch",
            ));
        }
        self.check_servers()?;
        if self.resume && self.scenario != Contest::Storm {
            return Err(Failure::new("--resume is for --scenario storm"));
        }
        for &subscribers in &self.connections {
            // A run is given its contender's process.
            let load = Load { subscribers, server_pid: Some(0), ..self.load.clone() };
            scenario::check(&self.scenario.kind(self.resume), &load)?;
        }
        check_writable(self.load.json.as_deref())?;
        check_writable(self.html.as_deref())?;
        let provenance = Provenance::begin();
        let (contenders, absent) = self.contenders()?;
        for missing in &absent {
            eprintln!("fanfare-load: {missing}");
        }
        let mut runs = Vec::new();
        'all: for &connections in &self.connections {
            for round in 0..self.rounds {
                for turn in 0..contenders.len() {
                    // Each round begins with another one, so that no contender always runs after the same
                    // one.
                    let index = (turn + round as usize) % contenders.len();
                    let report = self.one(&contenders[index], connections, round)?;
                    let interrupted = report.partial;
                    runs.push((index, connections, report));
                    self.keep(&self.comparison(&contenders, &absent, &provenance, &runs, true))?;
                    if interrupted || sys::interrupted() {
                        break 'all;
                    }
                }
            }
        }
        let comparison = self.comparison(&contenders, &absent, &provenance, &runs, sys::interrupted());
        self.write(&comparison)?;
        Ok(comparison)
    }

    /// Each contender is asked and published to where it was started. What names another server would be
    /// ignored, or all rows would be of that one.
    fn check_servers(&self) -> Outcome<()> {
        let load = &self.load;
        let given = [
            ("--url", load.url.is_some()),
            ("--subscribe-url", load.subscribe_url.is_some()),
            ("--subscribe-urls", load.subscribe_urls.is_some()),
            ("--publish-url", load.publish_url.is_some()),
            ("--publish-header", !load.publish_headers.is_empty()),
            ("--connect-to", !load.connect_to.is_empty()),
            ("--server-pid", load.server_pid.is_some()),
        ];
        let given: Vec<&str> =
            given.iter().filter(|(_, is_given)| *is_given).map(|(name, _)| *name).collect();
        if given.is_empty() {
            return Ok(());
        }
        Err(Failure::new(format!(
            "`compare` starts its servers itself and knows where they are: leave out {}",
            given.join(", ")
        )))
    }

    /// What the runs so far say.
    fn comparison(
        &self,
        contenders: &[Contender],
        absent: &[String],
        provenance: &Provenance,
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
        compare_with_bare(&mut rows);
        Comparison {
            tool: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            machine: crate::sample::machine(),
            arrangement,
            scenario: self.scenario,
            resume: self.resume,
            rounds: self.rounds,
            rule: RULE,
            partial,
            absent: absent.to_vec(),
            provenance: provenance.until_now(),
            rows,
        }
    }

    /// Writes the JSON after each run, as partial: what has run is kept, whatever ends the comparison.
    fn keep(&self, comparison: &Comparison) -> Outcome<()> {
        self.load.json.as_deref().map_or(Ok(()), |path| write_so_far(path, comparison))
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
            true => Err(Failure::new(format!("no contender can take part: {}", absent.join("; ")))),
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
        let report = scenario::run(&self.scenario.kind(self.resume), &load, &contender.name)
            .unwrap_or_else(|failure| failed(contender, connections, &failure));
        running.stop();
        for problem in &report.problems {
            eprintln!("fanfare-load: {}: {problem}", contender.name);
        }
        Ok(report)
    }

    fn write(&self, comparison: &Comparison) -> Outcome<()> {
        if let Some(path) = &self.load.json {
            write_json(path, comparison)?;
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
