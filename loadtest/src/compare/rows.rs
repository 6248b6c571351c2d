//! The result of a comparison: a row for each contender and number of streams, and the rows together.

use serde::Serialize;

use super::Contest;
use super::contender::Contender;
use super::medians::{Figure, Figures, curve, figures};
use crate::baseline::InFull;
use crate::provenance::Provenance;
use crate::report::{self, Report};

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
    /// The faults of all rounds. The figures leave out the rounds that are not valid.
    pub(crate) fn faults(&self) -> u64 {
        self.rounds.iter().map(|round| round.faults().sum()).sum()
    }

    pub(crate) fn figure(&self, name: &str) -> Option<Figure> {
        self.figures.get(name).copied()
    }

    /// The notes of the valid rounds. Notes that differ only in their numbers are told once.
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
    /// In a storm: subscribers came back with `Last-Event-ID`.
    pub(crate) resume: bool,
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
    /// The scenario, for people.
    pub(crate) fn title(&self) -> String {
        let name = self.scenario.name();
        if self.resume { format!("{name} with resume") } else { name.to_owned() }
    }

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

/// The name of a figure that no single report has: CPU per delivery in units of the bare loop's in the same
/// round.
const BESIDE_BARE: &str = "server_cpu_beside_bare";

/// Puts rows beside the bare loop's, round by round. A round that is not valid is beside nothing.
pub(super) fn compare_with_bare(rows: &mut [Row]) {
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

/// The row of a contender, without the curves of its rounds; none where it has not run.
pub(super) fn row(contender: &Contender, connections: u64, mut rounds: Vec<Report>) -> Option<Row> {
    if rounds.is_empty() {
        return None;
    }
    let (figures, latency_curve) = (figures(&rounds), curve(&rounds));
    for (number, report) in rounds.iter_mut().enumerate() {
        report.drop_curves();
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
    use crate::compare::{RULE, Wanted, all_contenders};

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
            resume: false,
            rounds: 3,
            rule: RULE,
            partial: false,
            absent: Vec::new(),
            provenance: Provenance::begin(),
            rows,
        }
    }

    /// A server that lost events in one of three rounds is marked, with the faults of all rounds. Its range
    /// and its ratio are those of the valid rounds. Before, a row showed the faults and the verdict of one
    /// run alone.
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

    /// Every figure of the table has its median and its range. Before, each was that of one run, and only the
    /// CPU had a range.
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
