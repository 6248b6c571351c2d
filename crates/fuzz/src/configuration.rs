//! The configuration: any bytes as a file, as a variable, and as a flag.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use fanfare_config::{FileText, Flags, Place, Problems, Settings, Sources, Values};

/// The input's first line is a name of an option and a value for it, with `=` between them; the rest is a
/// file.
pub(crate) fn check(input: &[u8]) {
    let (first, rest) = match input.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&input[..end], &input[end + 1..]),
        None => (&b""[..], input),
    };
    file(&String::from_utf8_lossy(rest));
    if let Some(end) = first.iter().position(|byte| *byte == b'=') {
        one_value(&String::from_utf8_lossy(&first[..end]), &first[end + 1..]);
    }
}

fn layer(sources: &Sources) -> Result<Values, Problems> {
    Settings::table().layer(sources)
}

fn of_file(text: &str) -> Sources {
    Sources { file: Some(FileText::new("f", text)), ..Sources::default() }
}

/// A file is taken only where each of its keys is an option in its section. What it says is printed so that
/// it is read again as the same. Each mistake has a place in the file.
fn file(text: &str) {
    match layer(&of_file(text)) {
        Ok(values) => {
            expect_known_keys(text);
            Settings::of(&values).expect("values that were checked");
            let again = layer(&of_file(&values.print())).expect("what was printed is read again");
            let changes = values.changes(&again);
            assert!(changes.is_empty(), "{changes:?} after {:?}", values.print());
        }
        Err(Problems(problems)) => {
            assert!(!problems.is_empty());
            // An empty file has a first line, too.
            let lines = text.matches('\n').count() + 1;
            for problem in problems {
                let Place::Line(_, line, column) = problem.place else { panic!("{problem} has no line") };
                assert!((1..=lines).contains(&line) && column >= 1, "{problem} of {lines} lines");
                assert!(problem.text.len() < 2000, "{problem}");
            }
        }
    }
}

/// Reads the file by another way: the whole of it as TOML. No key of it was ignored.
fn expect_known_keys(text: &str) {
    let root: toml::Table = toml::from_str(text).expect("a file that was taken is TOML");
    for (name, keys) in root {
        let section = Settings::table().sections.iter().find(|section| section.name == name);
        let section = section.unwrap_or_else(|| panic!("{name} was ignored"));
        for key in keys.as_table().expect("a section").keys() {
            let is_known = section.definitions.iter().any(|definition| definition.name == *key);
            assert!(is_known, "{key} in {name} was ignored");
        }
    }
}

/// A variable and a flag with the same text are both taken or both refused, and mean the same, but for lists
/// whose entries have commas of their own.
fn one_value(name: &str, value: &[u8]) {
    let Some(definition) = Settings::table().definitions().find(|definition| definition.name == name) else {
        return;
    };
    let variables = vec![(OsString::from(&definition.variable), OsString::from_vec(value.to_vec()))];
    let by_variable = layer(&Sources { variables, ..Sources::default() });
    let Ok(text) = std::str::from_utf8(value) else {
        let Problems(problems) = by_variable.expect_err("a variable that is not UTF-8");
        assert_eq!(problems.len(), 1);
        return;
    };
    let by_flag = layer(&Sources { flags: Flags::of([(name, text)]), ..Sources::default() });
    if name == "retain" {
        return;
    }
    match (by_variable, by_flag) {
        (Ok(one), Ok(other)) => assert!(one.changes(&other).is_empty(), "{name}={text:?}"),
        (Err(Problems(one)), Err(Problems(other))) => {
            let texts = |problems: Vec<fanfare_config::Problem>| {
                problems.into_iter().map(|problem| problem.text).collect::<Vec<_>>()
            };
            assert_eq!(texts(one), texts(other));
        }
        (one, other) => panic!("{name}={text:?}: {one:?} and {other:?}"),
    }
}
