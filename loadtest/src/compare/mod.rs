//! The comparison: one scenario over several servers, each fresh for each run, in turn, several rounds.

mod contender;
mod medians;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

use self::contender::Contender;
#[cfg(test)]
pub(crate) use self::contender::names;
pub(crate) use self::contender::{Wanted, all_contenders, place};
pub(crate) use self::medians::{Figure, RULE};
use self::medians::{Figures, curve, figures};
use crate::baseline::InFull;
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
            Contest::Storm => Kind::Storm(Storm { no_resume: true, ..Storm::default() }),
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
    /// What an expert on it would object to.
    pub(crate) objections: Vec<String>,
    pub(crate) connections: u64,
    /// By the rule of the comparison. A row without a valid round has none.
    pub(crate) figures: Figures,
    pub(crate) latency_curve: Vec<(f64, f64, f64, f64)>,
    pub(crate) rounds: Vec<Report>,
}

impl Row {
    /// Over all rounds: the figures hide those that are not valid.
    pub(crate) fn faults(&self) -> u64 {
        self.rounds.iter().map(|round| round.faults().sum()).sum()
    }

    pub(crate) fn figure(&self, name: &str) -> Option<Figure> {
        self.figures.get(name).copied()
    }

    /// What is to be known of the valid rounds. Notes that differ in their numbers alone are told once.
    pub(crate) fn notes(&self) -> Vec<String> {
        let kind = |note: &str| note.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
        let mut told: Vec<(String, &str, Vec<String>)> = Vec::new();
        for (number, round) in self.rounds.iter().enumerate().filter(|(_, round)| round.valid) {
            for note in &round.notes {
                let number = (number + 1).to_string();
                match told.iter_mut().find(|(of, ..)| *of == kind(note)) {
                    Some((.., rounds)) => rounds.push(number),
                    None => told.push((kind(note), note, vec![number])),
                }
            }
        }
        let line = |(_, note, rounds): (String, &str, Vec<String>)| match &rounds[..] {
            _ if self.rounds.len() == 1 => note.to_owned(),
            [round] => format!("{note} (round {round})"),
            [first, other] => format!("{note} (round {first}; alike in round {other})"),
            [first, others @ ..] => {
                format!("{note} (round {first}; alike in rounds {})", others.join(", "))
            }
            [] => note.to_owned(),
        };
        told.into_iter().map(line).collect()
    }

    /// Whether the client was the bottleneck of a valid round.
    pub(crate) fn is_client_bound(&self) -> bool {
        self.rounds.iter().any(|round| round.valid && round.lower_bound)
    }

    /// How many rounds are not valid, fell behind, or had a client at its limit; nothing where there is none.
    pub(crate) fn verdict(&self) -> String {
        let count = |is: fn(&Report) -> bool| self.rounds.iter().filter(|round| is(round)).count();
        let kinds = [
            ("NOT VALID", count(|round| !round.valid && !round.fell_behind)),
            ("fell behind", count(|round| round.fell_behind)),
            ("client-bound", count(|round| round.valid && round.lower_bound)),
        ];
        let told = kinds.into_iter().filter(|(_, rounds)| *rounds > 0);
        let told: Vec<String> =
            told.map(|(what, rounds)| format!("{what}: {rounds} of {} rounds", self.rounds.len())).collect();
        told.join(", ")
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
    /// How the figures of a row are chosen.
    pub(crate) rule: &'static str,
    pub(crate) partial: bool,
    /// The contenders that could not take part, each with the reason.
    pub(crate) absent: Vec<String>,
    pub(crate) provenance: Provenance,
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

    /// CPU per delivery of each row in units of the bare loop's.
    pub(crate) fn beside_bare(&self) -> Vec<String> {
        let line = |row: &Row| {
            let Figure { median, lowest, highest, rounds } = row.figure(BESIDE_BARE)?;
            let range = match rounds {
                1 => "in one round".to_owned(),
                rounds => format!("the median of {rounds} rounds, {lowest:.3} to {highest:.3}"),
            };
            let (name, connections) = (&row.name, row.connections);
            Some(format!("{name} at {connections}: {median:.3} times the CPU per delivery of bare ({range})"))
        };
        self.rows.iter().filter_map(line).collect()
    }
}

/// The name of a figure that no single report has: CPU per delivery in units of the bare loop's in the same round.
const BESIDE_BARE: &str = "server_cpu_beside_bare";

/// Puts rows beside the bare loop's, round by round. A round that is not valid is beside nothing.
fn compare_with_bare(rows: &mut [Row]) {
    let cpu = |round: &Report| round.server_cpu_us_per_delivery.filter(|_| round.valid);
    let bare: Vec<(u64, Vec<Option<f64>>)> = rows
        .iter()
        .filter(|row| row.name == "bare")
        .map(|row| (row.connections, row.rounds.iter().map(cpu).collect()))
        .collect();
    for row in rows.iter_mut().filter(|row| row.name != "bare") {
        let Some((_, bare)) = bare.iter().find(|(connections, _)| *connections == row.connections) else {
            continue;
        };
        let both = row.rounds.iter().zip(bare);
        let ratios = both.filter_map(|(one, bare)| Some(report::round(cpu(one)? / (*bare)?))).collect();
        if let Some(figure) = Figure::of(ratios) {
            row.figures.insert(BESIDE_BARE.to_owned(), figure);
        }
    }
}

impl Compare {
    /// Runs everything and writes what was asked for. `Ok(false)`: not every run was valid.
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
        for &subscribers in &self.connections {
            // A run is given its contender's process.
            let load = Load { subscribers, server_pid: Some(0), ..self.load.clone() };
            scenario::check(&self.scenario.kind(), &load)?;
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
                    // Each round begins with another one, so that no contender always runs after the same one.
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

    /// Each contender is asked and published to where it was started. What names another server would be ignored, or
    /// all rows would be of that one.
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

fn row(contender: &Contender, connections: u64, mut rounds: Vec<Report>) -> Option<Row> {
    if rounds.is_empty() {
        return None;
    }
    let (figures, latency_curve) = (figures(&rounds), curve(&rounds));
    for (number, report) in rounds.iter_mut().enumerate() {
        // Each would make the file several times as long.
        report.latency_curve.clear();
        if number > 0 {
            report.settings = serde_json::Value::Null;
        }
    }
    Some(Row {
        name: contender.name.clone(),
        version_of_program: contender.version.clone(),
        settings: contender.settings.sentence(),
        settings_in_full: contender.settings.in_full(),
        cannot: contender.settings.cannot.clone(),
        objections: contender.settings.objections.clone(),
        connections,
        figures,
        latency_curve,
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
        let mut rows: Vec<Row> = rows.map(row).into();
        compare_with_bare(&mut rows);
        Comparison {
            tool: "",
            version: "",
            machine: String::new(),
            arrangement: String::new(),
            scenario: Contest::Fanout,
            rounds: 3,
            rule: RULE,
            partial: false,
            absent: Vec::new(),
            provenance: Provenance::begin(),
            rows,
        }
    }

    /// A row showed the faults and the verdict of one run, a valid one if most are: a server that lost events in
    /// one of three rounds had none and no mark, and its range and its ratio held the round that was not valid.
    #[test]
    fn a_round_that_is_not_valid_marks_its_row_and_is_no_measurement() {
        let comparison = comparison([
            ("bare", vec![round(2.0, 0), round(2.0, 0), round(2.0, 0)]),
            ("axum-sse", vec![round(3.0, 0), round(1.0, 1_234), round(4.0, 0)]),
        ]);
        let row = &comparison.rows[1];
        let cpu = Figure { median: 3.5, lowest: 3.0, highest: 4.0, rounds: 2 };
        assert_eq!((row.faults(), row.figure("server_cpu_us_per_delivery")), (1_234, Some(cpu)));
        assert!(!comparison.valid());
        let beside = comparison.beside_bare();
        assert_eq!(beside.len(), 1);
        let told = "1.750 times the CPU per delivery of bare (the median of 2 rounds, 1.500 to 2.000)";
        assert!(beside[0].ends_with(told), "{}", beside[0]);

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

    #[test]
    fn a_round_that_is_not_valid_is_beside_nothing() {
        let comparison = comparison([
            ("bare", vec![round(2.0, 0), round(2.0, 5), round(2.0, 7)]),
            ("axum-sse", vec![round(3.0, 0), round(4.0, 0), round(5.0, 9)]),
        ]);
        let [bare, axum] = &comparison.rows[..] else { panic!("two rows") };
        let one = |value| Some(Figure { median: value, lowest: value, highest: value, rounds: 1 });
        assert_eq!(
            (bare.figure("server_cpu_us_per_delivery"), axum.figure(BESIDE_BARE)),
            (one(2.0), one(1.5))
        );
        assert_eq!((bare.faults(), bare.figure(BESIDE_BARE)), (12, None));
        assert!(report::comparison(&comparison).contains("NOT VALID: 2 of 3 rounds"));
        assert!(
            comparison.beside_bare()[0].contains("1.500")
                && comparison.beside_bare()[0].contains("in one round")
        );
    }

    /// Every figure of the table was that of one run, and only the CPU had a range.
    #[test]
    fn tables_show_medians_with_their_ranges_and_state_the_rule() {
        let comparison = comparison([
            ("bare", vec![round(2.0, 0), round(5.0, 0), round(3.0, 0)]),
            ("axum-sse", vec![round(3.0, 7), round(4.0, 8), round(5.0, 9)]),
        ]);
        let table = report::comparison(&comparison);
        assert!(table.contains("3.00 ") && table.contains("2.00-5.00"), "{table}");
        assert!(table.contains(&format!("3 rounds: {RULE}")), "{table}");
        let page = report::page(&comparison);
        assert!(page.contains("<td>3.00<br><small>2.00-5.00</small></td>"), "{page}");
        assert!(page.contains(&format!("3 rounds: {RULE}")), "{page}");
        // The whisker of the bar, and a row that has no figure.
        assert!(page.contains("3.00 (2.00-5.00)</text>") && page.contains("no valid round</text>"), "{page}");
    }

    #[test]
    fn notes_that_differ_in_numbers_are_told_once() {
        let noted = |note: &str| Report { notes: vec![note.to_owned()], ..round(1.0, 0) };
        let rounds = vec![noted("busy 97 %"), noted("busy 98 %"), noted("late"), noted("busy 9 %")];
        let row = Row { rounds, ..Row::default() };
        assert_eq!(row.notes(), ["busy 97 % (round 1; alike in rounds 2, 4)", "late (round 3)"]);
        let row = Row { rounds: vec![noted("busy 97 %")], ..Row::default() };
        assert_eq!(row.notes(), ["busy 97 %"]);
    }
}
