//! The template of a document of benchmarks: prose, and in `{{ }}` what comes from files.
//!
//! | | |
//! |---|---|
//! | `{{# text}}` | a comment; it renders to nothing |
//! | `{{folder NAME PATH}}` | from here on `@NAME` at the beginning of a file's name is this folder |
//! | `{{path FILE}}` | the way to a file from the document |
//! | `{{figure FILE ROW FIGURE}}` | the median; `ROW` is `CONTENDER@STREAMS`, or `-` in the file of one run |
//! | `{{range FILE ROW FIGURE}}` | from the lowest to the highest |
//! | `{{valid FILE ROW}}` | how many of its rounds are valid, like `2 of 5` |
//! | `{{ratio FILE ROW ROW FIGURE}}` | the first median in units of the second |
//! | `{{ratio-of-runs FILE FILE FIGURE}}` | the same of two runs by themselves |
//! | `{{machine FILE}}`, `{{command FILE}}`, `{{day FILE}}`, `{{rounds FILE}}` | what the file says of itself |
//! | `{{table FILE ...` | a table of the rows of comparisons, see `tables.rs` |
//! | `{{runs ...` | a table of runs by themselves, see `tables.rs` |
//!
//! A figure is the path of its key in a report, like `latency_us.p99`, and may be followed by ` * 100` or
//! ` / 1000`. A paragraph with figures is filled anew.

mod tables;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::results::{Figure, Form, Results, Row, grouped};

/// Columns of a document.
const WIDTH: usize = 110;

/// Renders a template. Files are relative to `root`, and so is the document that it becomes.
pub(super) fn render(template: &str, root: &Path, document: &Path) -> Result<String, String> {
    let mut page = Page { root, document, folders: BTreeMap::new(), files: BTreeMap::new() };
    let mut text = String::new();
    let (mut at, mut in_code) = (0, false);
    while at < template.len() {
        let end = end_of_paragraph(template, at);
        let paragraph = &template[at..end];
        let starts_in_code = in_code;
        in_code ^= paragraph.lines().filter(|line| line.trim_start().starts_with("```")).count() % 2 == 1;
        let line = template[..at].lines().count() + 1;
        let rendered = page.paragraph(paragraph).map_err(|problem| format!("from line {line}: {problem}"))?;
        match rendered == paragraph || starts_in_code || in_code || !is_prose(paragraph) {
            true => text.push_str(&rendered),
            false => text.push_str(&filled(&rendered)),
        }
        at = end;
    }
    Ok(text)
}

/// A paragraph ends with an empty line that is in no placeholder.
fn end_of_paragraph(text: &str, start: usize) -> usize {
    let (mut at, mut open) = (start, 0usize);
    for line in text[start..].split_inclusive('\n') {
        at += line.len();
        open = (open + line.matches("{{").count()).saturating_sub(line.matches("}}").count());
        if open == 0 && line.trim().is_empty() {
            break;
        }
    }
    at
}

fn is_prose(paragraph: &str) -> bool {
    let first = paragraph.trim_start();
    !["|", "#", "-", "<", "```", "![", "{{table", "{{runs", "    "]
        .iter()
        .any(|start| first.starts_with(start))
}

/// The words of a paragraph in lines that are as long as they may be.
fn filled(paragraph: &str) -> String {
    let mut lines = vec![String::new()];
    for word in paragraph.split_whitespace() {
        let Some(line) = lines.last_mut() else { break };
        // At the beginning of a line it would make a list, a heading or a table.
        let number =
            word.strip_suffix('.').is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
        let is_mark = number || ["-", "+", "*"].contains(&word) || word.starts_with(['#', '|', '>']);
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= WIDTH || is_mark {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    let rest = &paragraph[paragraph.trim_end().len()..];
    lines.join("\n") + rest
}

/// What the placeholders so far have said.
struct Page<'a> {
    root: &'a Path,
    document: &'a Path,
    folders: BTreeMap<String, String>,
    files: BTreeMap<String, Results>,
}

impl Page<'_> {
    fn paragraph(&mut self, paragraph: &str) -> Result<String, String> {
        let mut text = String::new();
        let mut rest = paragraph;
        while let Some((before, after)) = rest.split_once("{{") {
            let (inside, after) = after.split_once("}}").ok_or("a {{ without }}")?;
            text.push_str(before);
            let rendered = self
                .placeholder(inside)
                .map_err(|problem| format!("{{{{{}: {problem}", inside.lines().next().unwrap_or_default()))?;
            rest = after;
            if rendered.is_empty() && text.ends_with(['\n']) | text.is_empty() {
                // A line of its own that says nothing is no line.
                rest = after.strip_prefix('\n').unwrap_or(after);
            }
            text.push_str(&rendered);
        }
        text.push_str(rest);
        Ok(text)
    }

    fn placeholder(&mut self, inside: &str) -> Result<String, String> {
        if inside.starts_with('#') {
            return Ok(String::new());
        }
        let (kind, rest) = inside.split_once(char::is_whitespace).ok_or("it says not of what")?;
        let words: Vec<&str> = rest.split_whitespace().collect();
        let of_file = |file: &str| format!("{file} does not tell");
        match (kind, &words[..]) {
            ("folder", [name, path]) => {
                self.folders.insert((*name).to_owned(), (*path).to_owned());
                Ok(String::new())
            }
            ("path", [file]) => self.path_to(file),
            ("machine", [file]) => self.file(file)?.machine.clone().ok_or_else(|| of_file(file)),
            ("command", [file]) => self.file(file)?.command.clone().ok_or_else(|| of_file(file)),
            ("day", [file]) => self.file(file)?.day.clone().ok_or_else(|| of_file(file)),
            ("rounds", [file]) => Ok(grouped(self.file(file)?.rounds)),
            ("figure", [file, row, ..]) => Ok(self.inline(file, row, rest)?.middle()),
            ("range", [file, row, ..]) => {
                let figure = self.inline(file, row, rest)?;
                Ok(figure.range().unwrap_or_else(|| figure.middle()))
            }
            ("valid", [file, row]) => {
                let row = self.row(file, row)?;
                Ok(format!("{} of {}", row.rounds - row.not_valid, row.rounds))
            }
            ("ratio", [file, one, other, figure @ ..]) => self.ratio([file, one], [file, other], figure),
            ("ratio-of-runs", [one, other, figure @ ..]) => self.ratio([one, "-"], [other, "-"], figure),
            ("table", _) => tables::table(self, rest),
            ("runs", _) => tables::runs(self, rest),
            _ => Err("there is no such placeholder".to_owned()),
        }
    }

    /// The first median in units of the second. Each is that of a file and a row.
    fn ratio(&mut self, one: [&str; 2], other: [&str; 2], figure: &[&str]) -> Result<String, String> {
        let figure = figure.join(" ");
        let mut median =
            |[file, row]: [&str; 2]| Ok::<_, String>(self.row(file, row)?.figure(&figure)?.median);
        Ok(Form::Ratio.shown(median(one)? / median(other)?))
    }

    /// The figure that follows a file and a row.
    fn inline(&mut self, file: &str, row: &str, rest: &str) -> Result<Figure, String> {
        let after = |text: &'_ str, word: &str| {
            text.split_once(word).map_or(String::new(), |(_, rest)| rest.to_owned())
        };
        let figure = after(&after(rest, file), row);
        self.row(file, row)?.figure(figure.trim())
    }

    /// `@NAME/FILE` as a file of the repository.
    fn resolve(&self, file: &str) -> Result<PathBuf, String> {
        let Some(named) = file.strip_prefix('@') else { return Ok(PathBuf::from(file)) };
        let (name, within) = named.split_once('/').unwrap_or((named, ""));
        let folder = self.folders.get(name).ok_or_else(|| format!("there is no {{{{folder {name}"))?;
        Ok(if within.is_empty() { PathBuf::from(folder) } else { Path::new(folder).join(within) })
    }

    fn path_to(&self, file: &str) -> Result<String, String> {
        let path = self.resolve(file)?;
        if !self.root.join(&path).exists() {
            return Err(format!("there is no {}", path.display()));
        }
        let up = self.document.components().count().saturating_sub(1);
        Ok("../".repeat(up) + &path.to_string_lossy())
    }

    fn file(&mut self, file: &str) -> Result<&Results, String> {
        let path = self.resolve(file)?;
        if !self.files.contains_key(file) {
            self.files.insert(file.to_owned(), Results::read(&self.root.join(path))?);
        }
        Ok(&self.files[file])
    }

    /// `CONTENDER@STREAMS`, or `-` for the only row.
    fn row(&mut self, file: &str, row: &str) -> Result<&Row, String> {
        let results = self.file(file)?;
        let found = match row.split_once('@') {
            None if row == "-" => results.rows.first().filter(|_| results.rows.len() == 1),
            None => None,
            Some((name, streams)) => {
                let streams: Option<u64> = streams.parse().ok();
                results.rows.iter().find(|row| row.name == name && Some(row.connections) == streams)
            }
        };
        found.ok_or_else(|| format!("{file} has no row {row}"))
    }
}

impl Row {
    /// A figure, in another unit where the text says so.
    fn figure(&self, text: &str) -> Result<Figure, String> {
        // A placeholder may be divided over lines, as the prose around it is.
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let (name, factor) = unit_of(&text)?;
        let figure = self.figures.get(name).ok_or_else(|| format!("there is no figure `{name}`"))?;
        Ok(Figure { form: Form::of(name), ..figure.times(factor) })
    }
}

/// `NAME * 100` or `NAME / 1000`: the name, and what its figure is multiplied with.
fn unit_of(text: &str) -> Result<(&str, f64), String> {
    let number = |text: &str| text.trim().parse::<f64>().map_err(|_| format!("`{text}` is no number"));
    if let Some((name, factor)) = text.split_once(" * ") {
        return Ok((name.trim(), number(factor)?));
    }
    match text.split_once(" / ") {
        Some((name, divisor)) => Ok((name.trim(), 1.0 / number(divisor)?)),
        None => Ok((text.trim(), 1.0)),
    }
}
