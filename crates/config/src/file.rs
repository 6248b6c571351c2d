//! The layer of the file: TOML, whose keys stand in the sections of the table.
//!
//! The file is walked by hand, so that all mistakes are found and each is named with its line and column.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::definition::{Definition, Section, Shape, Table};
use crate::kind::{Form, shown};
use crate::layers::Given;
use crate::nearest::nearest;
use crate::problem::{Place, Problem, Problems};

/// A larger file is no configuration.
pub const MAX_FILE_BYTES: usize = 1 << 20;

/// A file that was read.
#[derive(Clone, Debug)]
pub struct FileText {
    path: Arc<str>,
    text: String,
}

impl FileText {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, is larger than [`MAX_FILE_BYTES`], or is not UTF-8; the problem names it.
    pub fn read(path: &Path) -> Result<FileText, Problems> {
        let name: Arc<str> = path.display().to_string().into();
        let wrong = |text: String| Problems(vec![Problem { place: Place::File(Arc::clone(&name)), text }]);
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            File::open(path)?.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().map_err(|error| wrong(format!("cannot be read: {error}")))?;
        if bytes.len() > MAX_FILE_BYTES {
            return Err(wrong(format!("is larger than {MAX_FILE_BYTES} bytes")));
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(FileText { path: name, text }),
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let line = error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count() + 1;
                Err(wrong(format!("line {line} is not UTF-8")))
            }
        }
    }

    /// A file with this text, which was read otherwise.
    pub fn new(path: &str, text: impl Into<String>) -> FileText {
        FileText { path: path.into(), text: text.into() }
    }

    fn place(&self, offset: usize) -> Place {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &self.text[..offset];
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        Place::Line(Arc::clone(&self.path), line, before[line_start..].chars().count() + 1)
    }
}

/// Reads the values of a file into the places of their options. Mistakes are added to the problems.
pub(crate) fn read(table: &Table, file: &FileText, given: &mut [Option<Given>], problems: &mut Vec<Problem>) {
    let (root, errors) = DeTable::parse_recoverable(&file.text);
    let mut walk = Walk { table, file, given, problems: Vec::new() };
    for error in &errors {
        let offset = error.span().map_or(0, |span| span.start);
        let text = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
        walk.report(offset, format!("this is not TOML: {text}"));
    }
    let syntax_errors = walk.problems.len();
    walk.root(root.get_ref());
    let mut found = walk.problems;
    // What the parser made of a line that is not TOML says nothing.
    let lines: Vec<Option<usize>> = found[..syntax_errors].iter().map(line).collect();
    let mut index = 0;
    found.retain(|problem| {
        index += 1;
        index <= syntax_errors || !lines.contains(&line(problem))
    });
    found.sort_by_key(|problem| match &problem.place {
        Place::Line(_, line, column) => (*line, *column),
        _ => (0, 0),
    });
    problems.append(&mut found);
}

fn line(problem: &Problem) -> Option<usize> {
    match problem.place {
        Place::Line(_, line, _) => Some(line),
        _ => None,
    }
}

struct Walk<'w> {
    table: &'w Table,
    file: &'w FileText,
    given: &'w mut [Option<Given>],
    problems: Vec<Problem>,
}

impl Walk<'_> {
    fn report(&mut self, offset: usize, text: String) {
        self.problems.push(Problem { place: self.file.place(offset), text });
    }

    fn root(&mut self, root: &DeTable<'_>) {
        let table = self.table;
        for (key, value) in root {
            let (name, at) = (key.get_ref().as_ref(), key.span().start);
            let section = table.sections.iter().find(|section| section.name == name);
            match (section, value.get_ref()) {
                (Some(section), DeValue::Table(keys)) => self.section(section, keys),
                (Some(section), _) => {
                    let text = format!(
                        "{} is a section; write [{}] and its keys below it",
                        section.name, section.name
                    );
                    self.report(at, text);
                }
                (None, _) => {
                    let text = self.no_section(name);
                    self.report(at, text);
                }
            }
        }
    }

    fn no_section(&self, name: &str) -> String {
        if let Some((_, section, _)) = self.table.find(name) {
            return format!("{name} belongs into the section [{}]", section.name);
        }
        let names = self.table.sections.iter().map(|section| section.name);
        if let Some(near) = nearest(name, names.clone()) {
            return format!("there is no section {}; did you mean [{near}]?", shown(name));
        }
        let all: Vec<String> = names.map(|name| format!("[{name}]")).collect();
        format!("there is no section {}; the sections are {}", shown(name), all.join(", "))
    }

    fn section(&mut self, section: &Section, keys: &DeTable<'_>) {
        let table = self.table;
        for (key, value) in keys {
            let (name, at) = (key.get_ref().as_ref(), key.span().start);
            match table.find(name) {
                Some((index, own, definition)) if own.name == section.name => {
                    let texts = self.value(definition, value);
                    self.given[index] = Some(Given { texts, place: self.file.place(at) });
                }
                Some((_, own, _)) => {
                    self.report(
                        at,
                        format!(
                            "{name} belongs into the section [{}], not into [{}]",
                            own.name, section.name
                        ),
                    );
                }
                None => {
                    let text = self.no_key(section, name);
                    self.report(at, text);
                }
            }
        }
    }

    fn no_key(&self, section: &Section, name: &str) -> String {
        let own: Vec<&str> = section.definitions.iter().map(|definition| definition.name.as_str()).collect();
        if let Some(near) = nearest(name, own.iter().copied()) {
            return format!("there is no key {} in [{}]; did you mean {near}?", shown(name), section.name);
        }
        let all = self.table.definitions().map(|definition| definition.name.as_str());
        let elsewhere = nearest(name, all).and_then(|near| self.table.find(near));
        if let Some((_, other, near)) = elsewhere {
            let (near, other) = (&near.name, other.name);
            return format!(
                "there is no key {} in [{}]; did you mean {near}, in [{other}]?",
                shown(name),
                section.name
            );
        }
        format!("there is no key {} in [{}]; its keys are {}", shown(name), section.name, own.join(", "))
    }

    fn value(&mut self, definition: &Definition, value: &Spanned<DeValue<'_>>) -> Vec<(String, Place)> {
        match (value.get_ref(), definition.shape) {
            (DeValue::Array(entries), Shape::Many(_)) => {
                entries.iter().filter_map(|entry| self.text(definition, entry)).collect()
            }
            _ => self.text(definition, value).into_iter().collect(),
        }
    }

    /// The text of one value, if it is right.
    fn text(&mut self, definition: &Definition, value: &Spanned<DeValue<'_>>) -> Option<(String, Place)> {
        let Range { start, .. } = value.span();
        match text_of(definition, value.get_ref()).and_then(|text| {
            definition.check(&text)?;
            Ok(text)
        }) {
            Ok(text) => Some((text, self.file.place(start))),
            Err(error) => {
                self.report(start, format!("{}: {error}", definition.name));
                None
            }
        }
    }
}

/// What a flag would have for this value.
fn text_of(definition: &Definition, value: &DeValue<'_>) -> Result<String, String> {
    let write = || format!("write {}", definition.allowed());
    let form = &definition.form;
    match value {
        DeValue::String(text) => {
            let is_word = matches!(definition.shape, Shape::Optional(word) if word == text.as_ref());
            match form.is_bare() && !is_word {
                true => Err(format!("this is a text; {}, without quotation marks", write())),
                false => Ok(text.clone().into_owned()),
            }
        }
        DeValue::Integer(number) if matches!(form, Form::Count(_) | Form::Size) => {
            let read = i128::from_str_radix(number.as_str(), number.radix());
            let read = read.map_err(|_| format!("this number is too large; {}", write()))?;
            Ok(if *form == Form::Size { format!("{read}B") } else { read.to_string() })
        }
        DeValue::Boolean(switched) if *form == Form::Switch => Ok(switched.to_string()),
        DeValue::Integer(_) | DeValue::Float(_) if matches!(form, Form::Time(_)) => {
            Err(format!("a time needs its unit; {}, in quotation marks", write()))
        }
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Datetime(_) if !form.is_bare() => {
            Err(format!("this is no text; {}, in quotation marks", write()))
        }
        DeValue::Array(_) => Err(format!("this is a list; {}", write())),
        DeValue::Table(_) => Err(format!("this is a table; {}", write())),
        other => Err(format!("this is of the type {}; {}", other.type_str(), write())),
    }
}
