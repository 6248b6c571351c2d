//! `docs/openapi.json` and `docs/openapi-admin.json`, which are the documents, and what holds of them.

use std::collections::BTreeSet;
use std::path::Path;
use std::{env, fs};

use super::*;

fn check(name: &str, document: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    let text = format!("{document:#}\n");
    if env::var_os("FANFARE_BLESS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == text, "docs/{name} is stale; cargo xtask config --bless renews it");
}

#[test]
fn the_copies_are_not_stale() {
    check("openapi.json", &public::document());
    check("openapi-admin.json", &admin::document());
}

/// The paths that a source gives to a router.
fn routes(source: &str) -> BTreeSet<String> {
    let behind = source.split(".route(\"").skip(1);
    behind.filter_map(|rest| rest.split_once('"')).map(|(path, _)| path.replace("{*", "{")).collect()
}

/// A route that is not described, or that is described and not there.
#[test]
fn every_route_is_described_and_nothing_else() {
    let of_both = || {
        let pages = routes(include_str!("../problems.rs"));
        pages.into_iter().chain(["/problems/style.css", "/problems/problems.css", PATH].map(str::to_owned))
    };
    let of_public = routes(include_str!("../routes.rs"));
    let of_admin =
        [include_str!("../admin.rs"), include_str!("../dashboard.rs"), include_str!("../profiles.rs")];
    let of_admin = of_admin.into_iter().flat_map(routes);
    for (served, document) in [
        (of_public.into_iter().chain(of_both()).collect::<BTreeSet<_>>(), public::document()),
        (of_admin.chain(of_both()).collect(), admin::document()),
    ] {
        let described: BTreeSet<String> = document["paths"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(served, described);
    }
}

/// All references of the kinds that operations of a document name.
fn kinds(document: &Value, found: &mut BTreeSet<String>) {
    match document {
        Value::Object(members) => members.values().for_each(|member| kinds(member, found)),
        Value::Array(members) => members.iter().for_each(|member| kinds(member, found)),
        Value::String(text) if text.starts_with("/problems/") => drop(found.insert(text.clone())),
        _ => {}
    }
}

/// A new kind is added to the operations that it may come from.
#[test]
fn every_kind_is_an_answer_of_some_operation() {
    let mut found = BTreeSet::new();
    kinds(&public::document()["paths"], &mut found);
    kinds(&admin::document()["paths"], &mut found);
    for kind in ProblemKind::ALL {
        // Operations have the methods that they have.
        assert!(found.contains(kind.reference()) || *kind == ProblemKind::MethodNotAllowed, "{kind}");
    }
}

/// Names of operations are those of functions in generated clients.
#[test]
fn operations_have_names_of_their_own() {
    for document in [public::document(), admin::document()] {
        let mut names = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let name = operation["operationId"].as_str().unwrap();
                assert!(names.insert(name.to_owned()), "{method} {path}: {name} is there twice");
                assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{name}");
            }
        }
    }
}
