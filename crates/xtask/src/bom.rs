//! What is in the binary, and under which licences: a bill of materials in CycloneDX's format, and the texts
//! of the licences, which have to go with the binary.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::{cargo, not_started, root};

/// Code in the repository that others wrote. A test compares the version with the file.
const VENDORED: Vendored = Vendored {
    name: "uPlot",
    version: "1.6.32",
    licence: "MIT",
    source: "https://github.com/leeoniya/uPlot",
    text: "crates/server/src/page/vendor/uPlot.LICENSE",
};

struct Vendored {
    name: &'static str,
    version: &'static str,
    /// As SPDX names it.
    licence: &'static str,
    source: &'static str,
    /// The licence's text, in this repository.
    text: &'static str,
}

/// The crates that are linked into the binary.
#[derive(Debug, Default, PartialEq)]
struct Linked {
    root: Crate,
    /// Each crate but the root with its licence.
    licences: BTreeMap<Crate, String>,
    depends_on: BTreeMap<Crate, BTreeSet<Crate>>,
}

/// A crate's name and version.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Crate {
    name: String,
    version: String,
}

impl Crate {
    /// Its package URL.
    fn purl(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version)
    }
}

/// Writes the bill of materials and the licences of what a binary for `target` has in it.
pub(crate) fn write(target: Option<&str>, bill: &Path, licences: &Path) -> Result<(), String> {
    let mut tree =
        cargo(["tree", "--locked", "--package", "fanfare-server", "--edges", "normal,no-proc-macro"]);
    tree.args(["--prefix", "depth", "--format", "|{p}|{l}"]);
    if let Some(target) = target {
        tree.args(["--target", target]);
    }
    let linked = linked_in(&said_by(&mut tree)?)?;
    let lock =
        fs::read_to_string(root().join("Cargo.lock")).map_err(|error| format!("Cargo.lock: {error}"))?;
    let document = document(&linked, &checksums_in(&lock)?);
    let text = serde_json::to_string_pretty(&document).map_err(|error| error.to_string())? + "\n";
    fs::write(bill, text).map_err(|error| format!("cannot write {}: {error}", bill.display()))?;
    let texts = texts_of(&linked)?;
    fs::write(licences, texts).map_err(|error| format!("cannot write {}: {error}", licences.display()))
}

fn said_by(command: &mut std::process::Command) -> Result<String, String> {
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| not_started(command, &error))?;
    if !output.status.success() {
        return Err(format!("{} ended with {}", crate::line_of(command), output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Reads lines such as `2|bytes v1.12.2 (path)|MIT (*)`, whose numbers are depths.
fn linked_in(tree: &str) -> Result<Linked, String> {
    let mut linked = Linked::default();
    let mut above: Vec<Crate> = Vec::new();
    for line in tree.lines() {
        let read = || {
            let mut parts = line.split('|');
            let depth: usize = parts.next()?.parse().ok()?;
            let mut words = parts.next()?.split_whitespace();
            let name = words.next()?.to_owned();
            let version = words.next()?.strip_prefix('v')?.to_owned();
            let licence = parts.next()?.trim_end_matches("(*)").trim().replace('/', " OR ");
            Some((depth, Crate { name, version }, licence))
        };
        let (depth, this, licence) = read().ok_or_else(|| format!("cargo tree: {line:?}"))?;
        above.truncate(depth);
        match above.last() {
            None => linked.root = this.clone(),
            Some(parent) => {
                if licence.is_empty() {
                    return Err(format!("{} has no licence in its manifest", this.purl()));
                }
                linked.licences.insert(this.clone(), licence);
                linked.depends_on.entry(parent.clone()).or_default().insert(this.clone());
            }
        }
        above.push(this);
    }
    Ok(linked)
}

/// The checksums of the packages that have some.
fn checksums_in(lock: &str) -> Result<BTreeMap<Crate, String>, String> {
    let lock: toml::Table = lock.parse().map_err(|error| format!("Cargo.lock: {error}"))?;
    let packages = lock.get("package").and_then(toml::Value::as_array).ok_or("Cargo.lock has no packages")?;
    let entry = |package: &toml::Value| {
        let text = |name: &str| Some(package.get(name)?.as_str()?.to_owned());
        Some((Crate { name: text("name")?, version: text("version")? }, text("checksum")?))
    };
    Ok(packages.iter().filter_map(entry).collect())
}

/// It has no time and no number of its own, so that equal sources have equal bills.
fn document(linked: &Linked, checksums: &BTreeMap<Crate, String>) -> Value {
    let mut components: Vec<Value> = Vec::new();
    for (this, licence) in &linked.licences {
        let mut component = json!({
            "type": "library",
            "bom-ref": this.purl(),
            "name": this.name,
            "version": this.version,
            "licenses": [{ "expression": licence }],
            "purl": this.purl(),
        });
        if let Some(checksum) = checksums.get(this) {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
        }
        components.push(component);
    }
    let vendored = format!("pkg:npm/{}@{}", VENDORED.name.to_lowercase(), VENDORED.version);
    components.push(json!({
        "type": "library",
        "bom-ref": vendored,
        "name": VENDORED.name,
        "version": VENDORED.version,
        "licenses": [{ "expression": VENDORED.licence }],
        "purl": vendored,
        "externalReferences": [{ "type": "vcs", "url": VENDORED.source }],
    }));
    let names = |of: &BTreeSet<Crate>| of.iter().map(Crate::purl).collect::<Vec<_>>();
    let mut dependencies: Vec<Value> = Vec::new();
    for this in std::iter::once(&linked.root).chain(linked.licences.keys()) {
        let mut on = linked.depends_on.get(this).map(names).unwrap_or_default();
        if *this == linked.root {
            on.push(vendored.clone());
        }
        dependencies.push(json!({ "ref": this.purl(), "dependsOn": on }));
    }
    dependencies.push(json!({ "ref": vendored, "dependsOn": [] }));
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": linked.root.purl(),
                "name": "fanfare",
                "version": linked.root.version,
                "licenses": [{ "expression": env!("CARGO_PKG_LICENSE") }],
            },
        },
        "components": components,
        "dependencies": dependencies,
    })
}

/// The texts of all licences, each once, under the names of what has it.
fn texts_of(linked: &Linked) -> Result<String, String> {
    let metadata = said_by(&mut cargo(["metadata", "--locked", "--format-version", "1"]))?;
    let metadata: Value =
        serde_json::from_str(&metadata).map_err(|error| format!("cargo metadata: {error}"))?;
    let mut users: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let text = |name: &str| package[name].as_str().unwrap_or_default().to_owned();
        let this = Crate { name: text("name"), version: text("version") };
        // What has no checksum is this project's own.
        let Some(licence) = linked.licences.get(&this).filter(|_| !package["source"].is_null()) else {
            continue;
        };
        let folder = Path::new(package["manifest_path"].as_str().unwrap_or_default()).with_file_name("");
        let user = format!("{} {} ({licence})", this.name, this.version);
        let texts = licence_files(&folder)?;
        if texts.is_empty() {
            users
                .entry(format!("The package has no text; its manifest says: {licence}\n"))
                .or_default()
                .insert(user);
            continue;
        }
        for text in texts {
            users.entry(text).or_default().insert(user.clone());
        }
    }
    let text = root().join(VENDORED.text);
    let text = fs::read_to_string(&text).map_err(|error| format!("{}: {error}", text.display()))?;
    let user = format!("{} {} ({})", VENDORED.name, VENDORED.version, VENDORED.licence);
    users.entry(tidy(&text)).or_default().insert(user);

    let line = "=".repeat(100);
    let mut all = "The program `fanfare` has in it the work of others, under these licences.\n".to_owned();
    for (text, users) in &users {
        let users: Vec<&str> = users.iter().map(String::as_str).collect();
        all += &format!("\n{line}\n{}\n{line}\n\n{text}", users.join("\n"));
    }
    Ok(all)
}

/// What a package has by the usual names, in its own folder and in that of a C library within it.
fn licence_files(folder: &Path) -> Result<Vec<String>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let list = |folder: &Path| -> Result<Vec<PathBuf>, String> {
        let entries = fs::read_dir(folder).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let mut paths: Vec<PathBuf> = entries.iter().map(fs::DirEntry::path).collect();
        paths.sort();
        Ok(paths)
    };
    let is_licence = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        let names = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];
        path.is_file() && names.iter().any(|start| name.starts_with(start))
    };
    let mut paths = list(folder)?;
    for within in paths.clone().iter().filter(|path| path.is_dir()) {
        paths.append(&mut list(within)?);
    }
    let read = |path: PathBuf| Ok(tidy(&String::from_utf8_lossy(&fs::read(&path).map_err(failed)?)));
    paths.into_iter().filter(is_licence).map(read).collect()
}

/// Without spaces at the ends of lines, so that equal texts are equal.
fn tidy(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    format!("{}\n", lines.join("\n").trim_matches('\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Crate {
        Crate { name: name.to_owned(), version: "1.0.0".to_owned() }
    }

    #[test]
    fn a_tree_is_read_with_who_depends_on_what() {
        let tree =
            "0|a v1.0.0 (/path/of a)|MIT\n1|b v1.0.0|MIT/Apache-2.0\n2|c v1.0.0|ISC\n1|c v1.0.0|ISC (*)\n";
        let linked = linked_in(tree).expect("a tree");
        assert_eq!(linked.root, of("a"));
        assert_eq!(linked.licences[&of("b")], "MIT OR Apache-2.0");
        assert_eq!(linked.licences[&of("c")], "ISC");
        assert_eq!(linked.depends_on[&of("a")], BTreeSet::from([of("b"), of("c")]));
        assert_eq!(linked.depends_on[&of("b")], BTreeSet::from([of("c")]));
        assert!(linked_in("0|a v1.0.0|MIT\n1|b v1.0.0|\n").is_err());
    }

    #[test]
    fn a_bill_names_every_part_once_and_what_is_vendored() {
        let linked = linked_in("0|a v1.0.0|MIT\n1|b v1.0.0|MIT\n2|c v1.0.0|ISC\n1|c v1.0.0|ISC (*)\n");
        let checksums = checksums_in("[[package]]\nname = 'b'\nversion = '1.0.0'\nchecksum = 'abc'\n");
        let bill = document(&linked.expect("a tree"), &checksums.expect("a lock"));
        let names: Vec<&str> = bill["components"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|component| component["name"].as_str())
            .collect();
        assert_eq!(names, ["b", "c", "uPlot"]);
        assert_eq!(bill["components"][0]["hashes"][0]["content"], "abc");
        assert_eq!(bill["dependencies"][0]["ref"], "pkg:cargo/a@1.0.0");
        let on = json!(["pkg:cargo/b@1.0.0", "pkg:cargo/c@1.0.0", "pkg:npm/uplot@1.6.32"]);
        assert_eq!(bill["dependencies"][0]["dependsOn"], on);
    }

    /// The C libraries within crates have licences of their own.
    #[test]
    fn the_bill_of_the_binary_names_what_is_linked_and_has_the_licences_of_its_libraries() {
        let folder = std::env::temp_dir().join(format!("fanfare-bill-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("the folder for temporary files takes it");
        let (bill, licences) = (folder.join("bill.json"), folder.join("licences.txt"));
        let written = write(None, &bill, &licences);
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        let (bill, licences) = (read(&bill), read(&licences));
        let _ = fs::remove_dir_all(&folder);
        assert_eq!(written, Ok(()));
        for name in
            ["pkg:cargo/hyper@", "pkg:cargo/aws-lc-sys@", "pkg:cargo/fanfare-proto@", "pkg:npm/uplot@"]
        {
            assert!(bill.contains(name), "{name}");
        }
        assert!(!bill.contains("proptest"), "tests are not in the binary");
        for text in ["Jason Evans", "Leon Sorokin", "OpenSSL", "hyper 1."] {
            assert!(licences.contains(text), "{text}");
        }
    }

    #[test]
    fn the_vendored_version_is_that_of_the_file() {
        let folder = root().join("crates/server/src/page/vendor");
        let script = fs::read_to_string(folder.join("uPlot.iife.min.js")).expect("the script");
        let first = script.lines().next().unwrap_or_default();
        assert!(first.contains(&format!("(v{})", VENDORED.version)), "{first}");
        assert!(root().join(VENDORED.text).is_file());
    }
}
