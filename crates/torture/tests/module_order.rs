//! The modules of torture have an order, from the lowest to the highest: the list in the documentation of
//! `main.rs`. Each module uses only modules before it.
//!
//! Nine modules used to import each other in a circle, so that none of them could be read without the others.

use std::fs;
use std::path::{Path, PathBuf};

/// The order: the names in the numbered lines of the documentation.
fn order_of(main: &str) -> Vec<String> {
    let items = main.lines().filter_map(|line| line.strip_prefix("//! ")?.split_once(". [`"));
    let names = items.filter(|(number, _)| number.parse::<usize>().is_ok());
    names.filter_map(|(_, rest)| Some(rest.split_once('`')?.0.to_owned())).collect()
}

/// The modules that `main.rs` declares.
fn modules_of(main: &str) -> Vec<String> {
    let names = main.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
    names.map(str::to_owned).collect()
}

/// The modules of this crate that a source text uses, in `use` lines and in paths.
fn uses_of(source: &str) -> Vec<String> {
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    let paths = code.flat_map(|line| line.split("crate::").skip(1));
    let name = |path: &str| path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    // `pub(crate)` has no path, and `use crate::{a, b}` would hide the names.
    paths
        .map(name)
        .inspect(|name| assert!(!name.is_empty(), "write one `use crate::` line for each module"))
        .collect()
}

/// The uses that break the order, in words.
fn violations(order: &[String], sources: &[(String, String)]) -> Vec<String> {
    let place = |module: &str| order.iter().position(|name| name == module);
    let mut all = Vec::new();
    for (module, source) in sources {
        for used in uses_of(source) {
            if used != *module && place(&used) >= place(module) {
                all.push(format!("{module} uses {used}, which is not before it"));
            }
        }
    }
    all
}

/// All sources but `main.rs`, each with the name of its top module.
fn sources(folder: &Path) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut folders: Vec<(Option<String>, PathBuf)> = vec![(None, folder.to_owned())];
    while let Some((module, folder)) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of sources") {
            let path = entry.expect("an entry of a folder").path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name").to_owned();
            let name = module.clone().unwrap_or(stem);
            if path.is_dir() {
                folders.push((Some(name), path));
            } else if name != "main" {
                all.push((name, fs::read_to_string(&path).expect("a source")));
            }
        }
    }
    all
}

#[test]
fn a_module_uses_only_modules_before_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let main = fs::read_to_string(folder.join("main.rs")).unwrap();
    let order = order_of(&main);
    let (mut listed, mut declared) = (order.clone(), modules_of(&main));
    listed.sort();
    declared.sort();
    assert_eq!(listed, declared, "the documentation lists every module once");
    let sources = sources(&folder);
    assert!(declared.iter().all(|module| sources.iter().any(|(name, _)| name == module)));
    assert_eq!(violations(&order, &sources), Vec::<String>::new());
}

#[test]
fn a_use_of_a_later_module_is_found() {
    let order = order_of("//! 1. [`low`]: x\n//! 2. [`middle`]: y\n//! 10. [`high`]: z\n");
    assert_eq!(order, ["low", "middle", "high"]);
    let found = |source: &str| violations(&order, &[("middle".to_owned(), source.to_owned())]);
    assert_eq!(
        found("use crate::low::A;\npub(crate) fn f() { crate::middle::g() }\n// crate::high\n"),
        [""; 0]
    );
    assert_eq!(found("use crate::high::A;\n").len(), 1);
    assert_eq!(found("fn f(a: &crate::high::A) {}\n").len(), 1);
}
