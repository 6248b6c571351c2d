//! What users of the published crates rely on: that the public interface changes only on purpose, that the
//! packages build from their own files, and that the oldest dependencies which they allow are enough.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::{fs, io};

use clap::Parser;

use crate::{cargo, must, root, target_directory};

/// The crates that are published, dependencies first.
const CRATES: [&str; 6] =
    ["fanfare-proto", "fanfare-io", "fanfare-store", "fanfare", "fanfare-axum", "fanfare-access"];

/// Those of them whose public interface is kept in `docs/api`.
const INTERFACES: [&str; 4] = ["fanfare", "fanfare-axum", "fanfare-access", "fanfare-store"];

/// The crates whose types they show under their own name.
const SHOWN: [&str; 3] = ["fanfare-proto", "fanfare-io", "fanfare-store"];

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
    let mut rustdoc = cargo(["rustdoc", "--quiet", "--lib", "--package", name, "--"]);
    rustdoc.args(["-Z", "unstable-options", "--output-format", "json"]);
    // The format is not stable yet; the version of `public-api` is the one that reads it.
    must(rustdoc.env("RUSTDOC", unstable_rustdoc()?).env_remove("RUSTDOCFLAGS"))?;
    let json = target_directory().join("doc").join(format!("{}.json", name.replace('-', "_")));
    let interface = public_api::Builder::from_rustdoc_json(json)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()
        .map_err(|error| format!("the interface of {name}: {error}"))?;
    Ok(interface.items().map(ToString::to_string).collect())
}

/// A program that is `rustdoc` with unstable options. Were the variable that allows them set for cargo, the
/// crates that look at it would be built anew, with all that depends on them.
fn unstable_rustdoc() -> Result<PathBuf, String> {
    let folder = target_directory().join("interface");
    let program = folder.join("rustdoc");
    let script = "#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec rustdoc \"$@\"\n";
    let write = || {
        fs::create_dir_all(&folder)?;
        fs::write(&program, script)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
    };
    write().map_err(|error| format!("cannot write {}: {error}", program.display()))?;
    Ok(program)
}

/// Checks the crates as a user of a registry would get them: the files of the packages alone, in a
/// workspace of their own, with the oldest versions of their dependencies that they allow.
///
/// The profile is that of this workspace, so that third-party crates of equal versions are not built again.
fn packages() -> Result<(), String> {
    let folder = target_directory().join("packages");
    let failed = |error: io::Error| format!("cannot write to {}: {error}", folder.display());
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(failed)?;
    }
    let mut package = cargo(["package", "--quiet", "--allow-dirty", "--no-verify", "--target-dir"]);
    package.arg(&folder);
    for name in CRATES {
        package.args(["--package", name]);
    }
    must(&mut package)?;

    let mut unpacked = Vec::new();
    let files = fs::read_dir(folder.join("package")).map_err(failed)?;
    let mut files: Vec<PathBuf> = files.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "crate"));
    for file in files {
        // Files of a package all have one time, by which cargo would take what it has built of another
        // package for this one's. `-m` gives them the present one.
        must(Command::new("tar").arg("-xzmf").arg(&file).arg("-C").arg(&folder))?;
        unpacked.extend(file.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    if unpacked.len() != CRATES.len() {
        return Err(format!("there are packages of {unpacked:?}, and not of {CRATES:?}"));
    }
    fs::write(folder.join("Cargo.toml"), workspace_of(&unpacked, &dev_profile()?)).map_err(failed)?;

    let mut lock = cargo(["generate-lockfile", "--quiet", "-Z", "direct-minimal-versions"]);
    must(lock.current_dir(&folder).env("RUSTC_BOOTSTRAP", "1"))?;
    let mut check = cargo(["check", "--quiet", "--locked", "--workspace", "--target-dir"]);
    must(check.arg(target_directory()).current_dir(&folder))
}

/// The manifest of a workspace of unpacked packages, which depend on each other and not on a registry's.
fn workspace_of(packages: &[String], profile: &str) -> String {
    let mut members = String::new();
    let mut patches = String::new();
    for name in CRATES {
        let is_version = |rest: &str| rest.starts_with(|first: char| first.is_ascii_digit());
        let of = |package: &&String| package.strip_prefix(name)?.strip_prefix('-').map(is_version);
        for package in packages.iter().filter(|package| of(package) == Some(true)) {
            members += &format!("{package:?}, ");
            patches += &format!("{name} = {{ path = {package:?} }}\n");
        }
    }
    format!(
        "[workspace]\nresolver = \"3\"\nmembers = [{members}]\n\n[patch.crates-io]\n{patches}\n\
         [profile.dev]\n{profile}"
    )
}

/// What this workspace sets for the profile `dev`, without what it sets for single packages.
fn dev_profile() -> Result<String, String> {
    let file = root().join("Cargo.toml");
    let text =
        fs::read_to_string(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let manifest: toml::Table = text.parse().map_err(|error| format!("{}: {error}", file.display()))?;
    let mut profile = manifest
        .get("profile")
        .and_then(|profiles| profiles.get("dev"))
        .and_then(toml::Value::as_table)
        .cloned()
        .unwrap_or_default();
    profile.remove("package");
    Ok(profile.to_string())
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

    /// `fanfare-io` begins with `fanfare`, too.
    #[test]
    fn a_workspace_has_each_package_under_its_own_name() {
        let packages = ["fanfare-0.1.0".to_owned(), "fanfare-io-0.1.0".to_owned()];
        let manifest: toml::Table = workspace_of(&packages, "").parse().expect("a manifest");
        let patches = manifest["patch"]["crates-io"].as_table().expect("patches");
        assert_eq!(patches.len(), 2);
        assert_eq!(patches["fanfare"]["path"].as_str(), Some("fanfare-0.1.0"));
        assert_eq!(patches["fanfare-io"]["path"].as_str(), Some("fanfare-io-0.1.0"));
        assert_eq!(manifest["workspace"]["members"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn differences_are_told_from_both_sides() {
        assert!(differences("a\nb\n", "a\nb\n").is_empty());
        assert_eq!(differences("a\nb\n", "a\nc\n"), ["- b", "+ c"]);
    }
}
