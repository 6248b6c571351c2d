//! The promises of docs/SECURITY.md: each has tests that show it, and each of these tests exists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What the document says.
#[derive(Debug, Default)]
struct Promises {
    /// The numbers in the tables, such as `A1`.
    promised: BTreeSet<String>,
    /// The tests that show each of them.
    shown: BTreeMap<String, Vec<String>>,
}

/// Reads the rows `| A1 | ... |`, and the items `- **A1** ...` with the names of tests in backticks.
fn read(document: &str) -> Promises {
    let mut promises = Promises::default();
    let mut open: Option<&str> = None;
    for line in document.lines() {
        if let Some((number, _)) = line.strip_prefix("| ").and_then(|row| row.split_once(" | "))
            && is_number(number)
        {
            assert!(promises.promised.insert(number.to_owned()), "{number} is there twice");
        }
        if let Some((number, _)) = line.strip_prefix("- **").and_then(|item| item.split_once("** ")) {
            open = Some(number).filter(|number| is_number(number));
        } else if !line.starts_with("  ") {
            open = None;
        }
        if let Some(number) = open {
            let names = line.split('`').skip(1).step_by(2).map(str::to_owned);
            promises.shown.entry(number.to_owned()).or_default().extend(names);
        }
    }
    promises
}

/// A capital letter and a number.
fn is_number(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next().is_some_and(|first| first.is_ascii_uppercase())
        && !characters.as_str().is_empty()
        && characters.all(|character| character.is_ascii_digit())
}

/// The file of a test: `file::test` is one of crates/server/tests. In `CRATE/file::test` the file is in the
/// `tests` or the `src` of that crate.
fn file_of(crates: &Path, name: &str) -> PathBuf {
    let (package, file) = name.split_once('/').unwrap_or(("server", name));
    let package = crates.join(package);
    let test = package.join(format!("tests/{file}.rs"));
    if test.exists() { test } else { package.join(format!("src/{file}.rs")) }
}

/// Why there is no such test.
fn missing(crates: &Path, name: &str) -> Option<String> {
    let Some((file, test)) = name.split_once("::") else { return Some(format!("{name} names no test")) };
    let path = file_of(crates, file);
    let Ok(source) = fs::read_to_string(&path) else {
        return Some(format!("{name}: there is no {}", path.display()));
    };
    let is_function = source.contains(&format!("fn {test}("));
    // The tests of hostile HTTP are made of the names of their tables.
    let families = source.lines().find(|line| line.starts_with("families! {")).unwrap_or_default();
    let is_family = families.split_whitespace().any(|word| word == test);
    (!is_function && !is_family).then(|| format!("{name}: {} has no such test", path.display()))
}

#[test]
fn each_promise_has_tests_and_each_of_them_exists() {
    let promises = read(include_str!("../../../docs/SECURITY.md"));
    assert!(promises.promised.len() >= 30, "{} promises", promises.promised.len());
    let shown: BTreeSet<String> = promises.shown.keys().cloned().collect();
    assert_eq!(promises.promised, shown, "the promises, and those that tests show");
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut wrong = Vec::new();
    for (number, names) in &promises.shown {
        if names.is_empty() {
            wrong.push(format!("{number} has no test"));
        }
        wrong.extend(names.iter().filter_map(|name| missing(&crates, name)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A check that finds everything would show nothing.
#[test]
fn what_is_missing_is_found() {
    let text =
        "| A1 | x |\n| A2 | y |\n| what | z |\n\n- **A1** `hosts::a`,\n  `b/c::d`\n- **Keys** `e::f`\n";
    let promises = read(text);
    assert_eq!(promises.promised, BTreeSet::from(["A1".to_owned(), "A2".to_owned()]));
    let shown = BTreeMap::from([("A1".to_owned(), vec!["hosts::a".to_owned(), "b/c::d".to_owned()])]);
    assert_eq!(promises.shown, shown);
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let is_missing = |name: &str| missing(&crates, name).is_some();
    for name in ["hosts::a_star", "nothing::a", "access/nothing::a", "hosts", "hostile::nothing"] {
        assert!(is_missing(name), "{name}");
    }
    for name in
        ["hosts::a_star_answers_to_every_name", "hostile::framing", "access/keys::debug_shows_no_secret"]
    {
        assert!(!is_missing(name), "{name}");
    }
}
