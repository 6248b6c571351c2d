//! The tables of a template.

use super::{Page, unit_of};
use crate::benchmarks::results::{Results, Row, grouped};

/// A table of the rows of one or more comparisons. Lines follow the files:
///
/// - `rows NAME NAME`: these contenders in this order, else all as they are in the files;
/// - `at STREAMS`: only rows with so many streams;
/// - `sort FIGURE`, `sort FIGURE@STREAMS`: from the lowest to the highest;
/// - `also NAME FILE FILE`: further files, whose figures are `NAME:FIGURE`;
/// - `TITLE | FIGURE`: a column. Where each is `FIGURE@STREAMS`, a contender has one row for all its sizes.
///
/// Below it stand the rule and the raw files.
pub(super) fn table(page: &mut Page<'_>, text: &str) -> Result<String, String> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let files = lines.next().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let mut plan = Plan { files, ..Plan::default() };
    for line in lines {
        plan.line(line)?;
    }
    if plan.columns.is_empty() {
        return Err("it has no column".to_owned());
    }
    plan.render(page)
}

#[derive(Default)]
struct Plan {
    files: Vec<String>,
    names: Vec<String>,
    at: Option<u64>,
    sort: Option<Place>,
    also: Vec<(String, Vec<String>)>,
    columns: Vec<(String, Place)>,
}

/// Where a figure is found: in the files or in further ones, and at how many streams.
struct Place {
    also: Option<String>,
    figure: String,
    streams: Option<u64>,
}

impl Place {
    fn parse(text: &str, also: &[(String, Vec<String>)]) -> Result<Place, String> {
        let named = text.split_once(':').filter(|(name, _)| also.iter().any(|(other, _)| other == name));
        let (also, text) = named.map_or((None, text), |(name, text)| (Some(name.to_owned()), text));
        let (figure, streams) = match text.split_once('@') {
            None => (text.to_owned(), None),
            Some((figure, rest)) => {
                let (streams, unit) = rest.split_once(' ').unwrap_or((rest, ""));
                let streams = streams.parse().map_err(|_| format!("`{streams}` is no number of streams"))?;
                (format!("{figure} {unit}"), Some(streams))
            }
        };
        unit_of(&figure)?;
        Ok(Place { also, figure, streams })
    }
}

impl Plan {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if let Some((title, place)) = line.split_once(" | ") {
            let place = Place::parse(place.trim(), &self.also)?;
            self.columns.push((title.trim().to_owned(), place));
            return Ok(());
        }
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let mut words = rest.split_whitespace().map(str::to_owned);
        match word {
            "rows" => self.names = words.collect(),
            "at" => self.at = Some(rest.parse().map_err(|_| format!("`{rest}` is no number of streams"))?),
            "sort" => self.sort = Some(Place::parse(rest, &self.also)?),
            "also" => {
                let name = words.next().ok_or("`also` names nothing")?;
                self.also.push((name, words.collect()));
            }
            _ => return Err(format!("`{line}` is neither a column nor an option")),
        }
        Ok(())
    }

    fn render(&self, page: &mut Page<'_>) -> Result<String, String> {
        let further = self.also.iter().flat_map(|(_, files)| files);
        for file in self.files.iter().chain(further) {
            page.file(file)?;
        }
        let page = &*page;
        let read = |files: &[String]| -> Vec<&Row> {
            files.iter().filter_map(|file| page.files.get(file)).flat_map(|results| &results.rows).collect()
        };
        let sources = Sources {
            own: read(&self.files),
            also: self.also.iter().map(|(name, files)| (name.as_str(), read(files))).collect(),
        };
        let lines = self.rows(&sources)?;
        let sizes_are_columns = self.columns.iter().all(|(_, place)| place.streams.is_some());
        let mut sizes: Vec<u64> = lines.iter().map(|row| row.connections).collect();
        sizes.dedup();
        let names_sizes = !sizes_are_columns && sizes.len() > 1;

        let mut text = if names_sizes { "| | streams |" } else { "| |" }.to_owned();
        self.columns.iter().for_each(|(title, _)| text += &format!(" {title} |"));
        text += if names_sizes { "\n|---|---|" } else { "\n|---|" };
        text += &"---|".repeat(self.columns.len());
        let mut seen = vec![false; self.columns.len()];
        for row in &lines {
            let marked = match sizes_are_columns {
                true => sources
                    .own
                    .iter()
                    .filter(|other| other.name == row.name)
                    .filter_map(|row| mark(row, true))
                    .collect(),
                false => Vec::from_iter(mark(row, false)),
            };
            let mark = if marked.is_empty() { String::new() } else { format!(" ({})", marked.join("; ")) };
            text += &format!("\n| {}{mark} |", row.name);
            if names_sizes {
                text += &format!(" {} |", grouped(row.connections));
            }
            for ((_, place), seen) in self.columns.iter().zip(&mut seen) {
                let figure = sources.figure(row, place);
                *seen |= figure.is_some();
                text += &format!(" {} |", figure.map_or("-".to_owned(), |figure| figure.shown()));
            }
        }
        // A mistake in a name would be a column of dashes.
        if let Some(((title, place), _)) = self.columns.iter().zip(seen).find(|(_, seen)| !seen) {
            return Err(format!("column {title}: no row has `{}`", place.figure.trim()));
        }
        Ok(text + "\n\n" + &self.below(page, &lines, &sources)?)
    }

    /// The rows, chosen and sorted. Where sizes are columns, the first of each contender.
    fn rows<'a>(&self, sources: &Sources<'a>) -> Result<Vec<&'a Row>, String> {
        let mut rows: Vec<&Row> = sources.own.clone();
        rows.retain(|row| self.at.is_none_or(|at| row.connections == at));
        if !self.names.is_empty() {
            if let Some(missing) = self.names.iter().find(|name| rows.iter().all(|row| row.name != **name)) {
                return Err(format!("no row is called {missing}"));
            }
            let place = |row: &Row| self.names.iter().position(|name| *name == row.name);
            rows.retain(|row| place(row).is_some());
            rows.sort_by_key(|row| (row.connections, place(row)));
        }
        if self.columns.iter().all(|(_, place)| place.streams.is_some()) {
            let mut names: Vec<&str> = Vec::new();
            rows.retain(|row| {
                let is_first = !names.contains(&row.name.as_str());
                names.push(&row.name);
                is_first
            });
        }
        if let Some(sort) = &self.sort {
            let key = |row: &Row| sources.figure(row, sort).map_or(f64::INFINITY, |figure| figure.median);
            let size = |row: &Row| if sort.streams.is_some() { 0 } else { row.connections };
            rows.sort_by(|a, b| size(a).cmp(&size(b)).then(key(a).total_cmp(&key(b))));
        }
        if rows.is_empty() { Err("it has no row".to_owned()) } else { Ok(rows) }
    }

    /// How the figures were chosen, and where all rounds are.
    fn below(&self, page: &Page<'_>, lines: &[&Row], sources: &Sources<'_>) -> Result<String, String> {
        let shown = |row: &&&Row| lines.iter().any(|line| line.name == row.name);
        let rounds = sources.own.iter().filter(shown).map(|row| row.rounds);
        let (fewest, most) = (rounds.clone().min().unwrap_or(0), rounds.max().unwrap_or(0));
        let rule = match (fewest, most) {
            (1, 1) => "One round.".to_owned(),
            (fewest, most) => {
                let count = if fewest == most { grouped(most) } else { format!("{fewest} to {most}") };
                format!(
                    "{count} rounds: each figure is the median of the valid rounds by itself, in brackets from the lowest to the highest."
                )
            }
        };
        let further = self.also.iter().flat_map(|(_, files)| files);
        let raw: Result<Vec<String>, String> = self
            .files
            .iter()
            .chain(further)
            .map(|file| {
                Ok(format!(
                    "[{}]({})",
                    page.resolve(file)?.file_name().unwrap_or_default().to_string_lossy(),
                    page.path_to(file)?
                ))
            })
            .collect();
        Ok(super::filled(&format!("{rule} Raw: {}.", raw?.join(", "))))
    }
}

struct Sources<'a> {
    own: Vec<&'a Row>,
    also: Vec<(&'a str, Vec<&'a Row>)>,
}

impl Sources<'_> {
    fn figure(&self, row: &Row, place: &Place) -> Option<super::Figure> {
        let streams = place.streams.unwrap_or(row.connections);
        let from = match &place.also {
            None => &self.own,
            Some(name) => &self.also.iter().find(|(other, _)| other == name)?.1,
        };
        let found = from.iter().find(|other| other.name == row.name && other.connections == streams)?;
        found.figure(&place.figure).ok()
    }
}

/// What is wrong with a row.
fn mark(row: &Row, with_streams: bool) -> Option<String> {
    let mut text = match (row.not_valid, row.rounds) {
        (0, _) => return None,
        (some, all) if some == all => "no valid round".to_owned(),
        (some, all) => format!("{some} of {all} rounds not valid"),
    };
    if with_streams {
        text += &format!(" at {}", grouped(row.connections));
    }
    if !row.faults.is_empty() {
        text += &format!(": {}", row.faults.join(", "));
    }
    Some(text)
}

/// A table of runs by themselves, a column each. Its lines:
///
/// - `file TITLE = FILE`: a column;
/// - `TITLE | TEXT`: a row, with figures in `{ }`.
pub(super) fn runs(page: &mut Page<'_>, text: &str) -> Result<String, String> {
    let (mut files, mut rows) = (Vec::new(), Vec::new());
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some((title, file)) = line.strip_prefix("file ").and_then(|line| line.split_once(" = ")) {
            page.file(file.trim())?;
            files.push((title.trim(), file.trim()));
        } else {
            rows.push(line.split_once(" | ").ok_or_else(|| format!("`{line}` is neither a file nor a row"))?);
        }
    }
    let titles: Vec<&str> = files.iter().map(|(title, _)| *title).collect();
    let mut table = format!("| | {} |\n|---|{}", titles.join(" | "), "---|".repeat(files.len()));
    for (title, cell) in rows {
        table += &format!("\n| {title} |");
        for (_, file) in &files {
            table += &format!(" {} |", filled_in(cell, page.file(file)?)?);
        }
    }
    let raw: Result<Vec<String>, String> =
        files.iter().map(|(title, file)| Ok(format!("[{title}]({})", page.path_to(file)?))).collect();
    Ok(format!("{table}\n\n{}", super::filled(&format!("Raw: {}.", raw?.join(", ")))))
}

/// A text with `{FIGURE}` in it.
fn filled_in(text: &str, results: &Results) -> Result<String, String> {
    let [row] = &results.rows[..] else { return Err("a comparison has no single run".to_owned()) };
    let mut shown = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (figure, after) = after.split_once('}').ok_or("a { without }")?;
        shown += before;
        shown += &row.figure(figure)?.middle();
        rest = after;
    }
    Ok(shown + rest)
}
