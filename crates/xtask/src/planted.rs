//! `cargo xtask planted`: plants known bugs, one at a time, in a copy of the workspace, and checks whether
//! the simulator, or the test that is named for it, finds them.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde::Deserialize;

use crate::{cargo, output_of, root, sim};

const LIST: &str = "crates/sim/planted.toml";
/// Says of each bug in plain words what it does.
#[cfg(test)]
const DOCUMENT: &str = "docs/TESTING.md";
const FOLDER: &str = "target/planted";

/// A simulation that needs more seeds than this has not found a bug.
const SEEDS: u64 = 1000;

/// Which bugs to plant.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Their names [default: all of crates/sim/planted.toml]
    names: Vec<String>,
}

#[derive(Deserialize)]
struct List {
    bug: Vec<Bug>,
}

impl List {
    fn read() -> Result<List, String> {
        let list = fs::read_to_string(root().join(LIST)).map_err(|error| format!("{LIST}: {error}"))?;
        toml::from_str(&list).map_err(|error| format!("{LIST}: {error}"))
    }
}

/// One wrong line.
#[derive(Deserialize)]
struct Bug {
    name: String,
    file: String,
    /// Must occur exactly once.
    find: String,
    replace: String,
    /// `sim`, or the arguments of a `cargo test` that end with the name of the test that must fail.
    found_by: String,
}

impl Bug {
    /// The text of its file with the bug in it.
    fn planted_in(&self, text: &str) -> Result<String, String> {
        match text.matches(&self.find).count() {
            1 => Ok(text.replacen(&self.find, &self.replace, 1)),
            count => Err(format!("{}: its text occurs {count} times in {}", self.name, self.file)),
        }
    }
}

/// How it was found.
struct Found {
    /// Seeds needed; none for a test.
    seeds: Option<u64>,
    message: String,
}

/// Ends with a failure if a bug is not found, or can no longer be planted.
pub(crate) fn run(options: &Options) -> Result<ExitCode, String> {
    let list = List::read()?;
    if let Some(unknown) = options.names.iter().find(|&name| list.bug.iter().all(|bug| bug.name != *name)) {
        return Err(format!("{LIST} has no bug named {unknown}"));
    }
    let wanted = |bug: &&Bug| options.names.is_empty() || options.names.contains(&bug.name);
    let bugs: Vec<&Bug> = list.bug.iter().filter(wanted).collect();

    let copy = Copy::make()?;
    let mut table = Vec::new();
    let mut missed = Vec::new();
    for bug in bugs {
        println!("== {}", bug.name);
        let found = copy.plant(bug)?;
        let row = match &found {
            Some(Found { seeds: Some(seeds), message }) => format!("{} | {seeds} | {message}", bug.name),
            Some(Found { seeds: None, message }) => format!("{} | - | {message}", bug.name),
            None => format!("{} | NOT FOUND |", bug.name),
        };
        println!("{row}");
        table.push(row);
        if found.is_none() {
            missed.push(bug.name.as_str());
        }
    }
    println!("\nbug | seeds needed | found by\n--- | --- | ---\n{}", table.join("\n"));
    match missed.as_slice() {
        [] => Ok(ExitCode::SUCCESS),
        missed => Err(format!("not found: {}", missed.join(", "))),
    }
}

/// A copy of the workspace, with builds of its own.
struct Copy {
    source: PathBuf,
    target: PathBuf,
}

impl Copy {
    fn make() -> Result<Copy, String> {
        let folder = root().join(FOLDER);
        let copy = Copy { source: folder.join("source"), target: folder.join("build") };
        let files = output_of("git", &["ls-files", "--full-name", ":/"]).ok_or("`git ls-files` fails")?;
        copy.remove_others(&copy.source, &files.lines().collect())?;
        for file in files.lines() {
            // What was removed and is not committed yet is listed too.
            if let Ok(text) = fs::read(root().join(file)) {
                write(&copy.source.join(file), &text)?;
            }
        }
        Ok(copy)
    }

    /// Removes what an older copy has and the workspace no longer: its tests would still run.
    fn remove_others(&self, folder: &Path, files: &HashSet<&str>) -> Result<(), String> {
        let failed = |error| format!("{}: {error}", folder.display());
        let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            if path.is_dir() {
                self.remove_others(&path, files)?;
            } else if path
                .strip_prefix(&self.source)
                .is_ok_and(|name| !files.contains(&*name.to_string_lossy()))
            {
                fs::remove_file(&path).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Applies a bug, checks whether it is found, and takes it back.
    fn plant(&self, bug: &Bug) -> Result<Option<Found>, String> {
        let path = self.source.join(&bug.file);
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", bug.file))?;
        write(&path, bug.planted_in(&text)?.as_bytes())?;
        let found = match bug.found_by.as_str() {
            "sim" => self.simulate(),
            test => self.test(test),
        };
        write(&path, text.as_bytes())?;
        found
    }

    /// Threads take seeds in order, so the smallest that fails says how many were needed.
    fn simulate(&self) -> Result<Option<Found>, String> {
        let mut build = cargo(["build", "--quiet", "--profile", "sim", "--package", "fanfare-sim"]);
        let build = build.current_dir(&self.source).env("CARGO_TARGET_DIR", &self.target);
        if !crate::status(build)?.success() {
            return Err("it does not build with the bug".to_owned());
        }
        let said =
            said_by(sim::command_in(&self.source, &self.target).args(["--seeds", &SEEDS.to_string()]))?;
        let failure = said.lines().find_map(|line| line.strip_prefix("seed ")?.split_once(" fails: "));
        Ok(failure.map(|(seed, message)| Found {
            seeds: seed.parse::<u64>().ok().map(|seed| seed + 1),
            message: shortened(message),
        }))
    }

    fn test(&self, arguments: &str) -> Result<Option<Found>, String> {
        let name = arguments.rsplit(' ').next().filter(|name| arguments != *name && !name.starts_with('-'));
        let name = name.ok_or_else(|| format!("`{arguments}` names no test"))?;
        let mut build = cargo(arguments.split(' '));
        let build = build.arg("--no-run").current_dir(&self.source).env("CARGO_TARGET_DIR", &self.target);
        if !crate::status(build)?.success() {
            return Err("it does not build with the bug".to_owned());
        }
        let mut test = cargo(arguments.split(' '));
        let said = said_by(test.current_dir(&self.source).env("CARGO_TARGET_DIR", &self.target))?;
        let failed = said.lines().find(|line| tells_failure_of(name, line));
        Ok(failed.map(|line| Found { seeds: None, message: line.to_owned() }))
    }
}

/// Whether a line of a test program says that exactly this test failed, in whichever module it is.
fn tells_failure_of(name: &str, line: &str) -> bool {
    let failed = line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED"));
    failed.and_then(|path| path.rsplit("::").next()) == Some(name)
}

/// What a panic says, without where in the file it was said.
fn shortened(message: &str) -> String {
    let message = message.strip_prefix("panicked at ").unwrap_or(message);
    message.chars().take(120).collect()
}

fn said_by(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Writes a file unless it says so already, so that only what has changed is built again.
fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let failed = |error| format!("{}: {error}", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    fs::write(path, bytes).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The code had changed around one of them, and all behind it in the list could no longer be planted
    /// either.
    #[test]
    fn every_bug_can_be_planted() {
        for bug in List::read().unwrap().bug {
            let text = fs::read_to_string(root().join(&bug.file)).unwrap();
            assert!(bug.planted_in(&text).is_ok_and(|planted| planted != text), "{}", bug.name);
        }
    }

    /// The document had 38 bugs where the list had 67, and eleven of its names did not exist any more.
    #[test]
    fn the_document_and_the_list_have_the_same_bugs() {
        let text = fs::read_to_string(root().join(DOCUMENT)).unwrap();
        let (_, section) = text.split_once("\n## Planted bugs\n").expect("it has a section for them");
        let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
        let documented: Vec<&str> = section
            .lines()
            .filter_map(|line| line.strip_prefix("- `")?.split_once("`: ").map(|(name, _)| name))
            .collect();
        let list = List::read().unwrap();
        let planted: Vec<&str> = list.bug.iter().map(|bug| bug.name.as_str()).collect();
        assert_eq!(documented, planted, "left: {DOCUMENT}, right: {LIST}, both in the same order");
    }

    #[test]
    fn only_the_named_test_finds_a_bug() {
        assert!(tells_failure_of("a_drain", "test stories::a_drain ... FAILED"));
        for other in [
            "test stories::a_drain ... ok",
            "test stories::a_drain_too ... FAILED",
            "test stories::not_a_drain ... FAILED",
            "test result: FAILED. 0 passed; 1 failed",
        ] {
            assert!(!tells_failure_of("a_drain", other), "{other}");
        }
    }
}
