//! What users of the published crates rely on: that the public interface changes only on purpose, that the
//! packages build from their own files, and that the oldest dependencies which they allow are enough.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use crate::{cargo, must, root};

/// The crates that are published, dependencies first.
const CRATES: [&str; 5] = ["fanfare-proto", "fanfare-io", "fanfare", "fanfare-axum", "fanfare-access"];

/// Those of them whose public interface is kept in `docs/api`.
const INTERFACES: [&str; 3] = ["fanfare", "fanfare-axum", "fanfare-access"];

/// The crates whose types they show under their own name.
const SHOWN: [&str; 2] = ["fanfare-proto", "fanfare-io"];

#[derive(Parser)]
pub(crate) struct Options {
    /// Write the public interface to docs/api instead of comparing it
    #[arg(long)]
    bless: bool,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode, String> {
    for name in INTERFACES {
        interface(name, options.bless)?;
    }
    packages()?;
    minimal_versions()?;
    Ok(ExitCode::SUCCESS)
}

/// Compares the public interface of a crate with the one in the repository.
fn interface(name: &str, bless: bool) -> Result<(), String> {
    let mut lines = listing(name)?;
    let shown: Vec<String> =
        lines.iter().filter_map(|line| line.strip_prefix("pub use ")).map(str::to_owned).collect();
    for of in SHOWN {
        let of_shown =
            listing(of)?.into_iter().filter(|line| shown.iter().any(|shown| is_about(line, shown, name)));
        lines.extend(of_shown);
    }
    let text = lines.join("\n") + "\n";
    let file = root().join("docs/api").join(format!("{name}.txt"));
    if bless {
        return fs::write(&file, text).map_err(|error| format!("cannot write {}: {error}", file.display()));
    }
    let kept =
        fs::read_to_string(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let differences = differences(&kept, &text);
    if differences.is_empty() {
        println!("the public interface of {name} is that of docs/api/{name}.txt");
        return Ok(());
    }
    Err(format!(
        "the public interface of {name} is not that of docs/api/{name}.txt:\n{}\nIf that is meant, run `cargo xtask \
         publishable --bless`, and say in docs/CHANGELOG.md what users have to change.",
        differences.join("\n")
    ))
}

/// Whether a line is about a type that `pub use fanfare::Name` shows. Its own path has another beginning.
fn is_about(line: &str, shown: &str, name: &str) -> bool {
    let Some(shown) = shown.strip_prefix(&format!("{name}::")) else { return false };
    let path = format!("::{shown}");
    line.match_indices(&path).any(|(at, _)| {
        let end = line[at + path.len()..].chars().next();
        let is_subject = !line[..at].contains('(') && !line[..at].contains("-> ");
        is_subject && end.is_none_or(|next| !next.is_alphanumeric() && next != '_')
    })
}

/// Lines that are in one of the texts.
fn differences(kept: &str, now: &str) -> Vec<String> {
    let gone = kept.lines().filter(|line| !now.lines().any(|other| other == *line));
    let new = now.lines().filter(|line| !kept.lines().any(|other| other == *line));
    gone.map(|line| format!("- {line}")).chain(new.map(|line| format!("+ {line}"))).collect()
}

/// The public items of a crate, a line each.
fn listing(name: &str) -> Result<Vec<String>, String> {
    let target = root().join("target/interface");
    let mut rustdoc = cargo(["rustdoc", "--quiet", "--lib", "--package", name, "--target-dir"]);
    rustdoc.arg(&target).args(["--", "-Z", "unstable-options", "--output-format", "json"]);
    // The format is not stable yet; the version of `public-api` is the one that reads it.
    must(rustdoc.env("RUSTC_BOOTSTRAP", "1").env_remove("RUSTDOCFLAGS"))?;
    let json = target.join("doc").join(format!("{}.json", name.replace('-', "_")));
    let interface = public_api::Builder::from_rustdoc_json(json)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()
        .map_err(|error| format!("the interface of {name}: {error}"))?;
    Ok(interface.items().map(ToString::to_string).collect())
}

/// Builds each crate from its package, as a user of a registry would.
fn packages() -> Result<(), String> {
    forget_packages()?;
    let mut package = cargo(["package", "--quiet", "--allow-dirty"]);
    for name in CRATES {
        package.args(["--package", name]);
    }
    let target = root().join("target/packages");
    // What was built from packages with the same versions would be taken for that of these.
    let _ = fs::remove_dir_all(&target);
    must(package.arg("--target-dir").arg(target))
}

/// Removes what cargo keeps of packages that were built before: it knows a package by its name and version, which stay the
/// same from one check to the next.
fn forget_packages() -> Result<(), String> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let Some(home) = home else { return Ok(()) };
    let is_ours = |entry: &Path| {
        let name = entry.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        CRATES.iter().any(|ours| {
            let version = name.strip_prefix(ours).and_then(|rest| rest.strip_prefix('-'));
            version.is_some_and(|version| version.starts_with(|first: char| first.is_ascii_digit()))
        })
    };
    for kept in ["src", "cache"] {
        for registry in entries(&home.join("registry").join(kept)) {
            for entry in entries(&registry).into_iter().filter(|entry| is_ours(entry)) {
                let removed =
                    if entry.is_dir() { fs::remove_dir_all(&entry) } else { fs::remove_file(&entry) };
                removed.map_err(|error| format!("cannot remove {}: {error}", entry.display()))?;
            }
        }
    }
    Ok(())
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Builds the crates with the oldest versions of their own dependencies that they allow.
fn minimal_versions() -> Result<(), String> {
    let target: PathBuf = root().join("target/minimal");
    fs::create_dir_all(&target).map_err(|error| format!("cannot make {}: {error}", target.display()))?;
    let lockfile: &Path = &target.join("Cargo.lock");
    let with = |arguments: &[&str]| {
        let mut command = cargo(["-Z", "lockfile-path", "-Z", "direct-minimal-versions", "--config"]);
        command.arg(format!("resolver.lockfile-path={lockfile:?}")).args(arguments);
        command.env("RUSTC_BOOTSTRAP", "1");
        command
    };
    let _ = fs::remove_file(lockfile);
    must(&mut with(&["generate-lockfile", "--quiet"]))?;
    let mut check = with(&["check", "--quiet", "--target-dir"]);
    check.arg(&target);
    for name in CRATES {
        check.args(["--package", name]);
    }
    must(&mut check)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_about_its_subject() {
        let shown = "fanfare::Event";
        for about in
            ["pub struct fanfare_proto::event::Event", "pub fn fanfare_proto::event::Event::data(&self) -> x"]
        {
            assert!(is_about(about, shown, "fanfare"), "{about}");
        }
        for other in [
            "pub struct fanfare_proto::event::EventId",
            "pub fn fanfare_proto::log::Log::append(&mut self, fanfare_proto::event::Event)",
            "pub fn fanfare_proto::log::Log::event() -> fanfare_proto::event::Event",
        ] {
            assert!(!is_about(other, shown, "fanfare"), "{other}");
        }
    }

    #[test]
    fn differences_are_told_from_both_sides() {
        assert!(differences("a\nb\n", "a\nb\n").is_empty());
        assert_eq!(differences("a\nb\n", "a\nc\n"), ["- b", "+ c"]);
    }
}
