//! `docs/PROBLEMS.md`, which is made of the table of kinds, and what holds of the pages.

use std::path::Path;
use std::{env, fs};

use axum::body::to_bytes;
use fanfare_config::Settings;

use super::*;

/// Columns of a line of the document.
const COLUMNS: usize = 110;

const INTRODUCTION: &str = "\
# Problems

<!-- This page is generated: `cargo xtask config --bless` renews it. The table of kinds is
     crates/proto/src/problem.rs. -->

Each answer that is an error is a document of the media type `application/problem+json`
([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)). Its `type` says which kind of problem it is. A kind keeps
its name and its status in later versions, so programs can decide by it. The `detail` says what is special
about one answer.

The `type` is a reference with a full path, such as `/problems/no-topic`. A server explains the kind at this
path, on its public listeners and on its admin listener: `GET /problems` lists all kinds. Programs that
compare kinds of several servers compare the path, because a relative reference is resolved against the URL
of the request.

| status | kind | title |
|---|---|---|
";

fn document() -> String {
    let mut text = INTRODUCTION.to_owned();
    for kind in ProblemKind::ALL {
        let (name, title) = (kind.name(), kind.title());
        text.push_str(&format!("| {} | [`{name}`](#{name}) | {title} |\n", kind.status()));
    }
    for kind in ProblemKind::ALL {
        text.push_str(&format!("\n## {}\n\n{}: {}.\n\n", kind.name(), kind.status(), kind.title()));
        text.push_str(&format!("{}\n\n{}\n", wrapped(kind.meaning()), wrapped(kind.action())));
        let link = |option: &&str| format!("[`--{option}`](CONFIGURATION.md#{option})");
        let options = kind.options().iter().map(link).collect::<Vec<_>>().join(", ");
        if !options.is_empty() {
            text.push_str(&format!("\n{}\n", wrapped(&format!("Options: {options}."))));
        }
    }
    text
}

fn wrapped(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= COLUMNS => line.push_str(&format!(" {word}")),
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

#[test]
fn the_page_is_not_stale() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/PROBLEMS.md");
    if env::var_os("FANFARE_BLESS").is_some() {
        fs::write(&path, document()).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == document(), "docs/PROBLEMS.md is stale; cargo xtask config --bless renews it");
}

#[test]
fn kinds_name_options_that_exist() {
    let names: Vec<String> =
        Settings::table().definitions().map(|definition| definition.name.to_string()).collect();
    for kind in ProblemKind::ALL {
        for option in kind.options() {
            assert!(names.iter().any(|name| name == option), "{kind}: --{option}");
        }
        // A text that names an option names one that exists.
        for text in [kind.meaning(), kind.action()] {
            for word in text.split_whitespace().filter_map(|word| word.strip_prefix("--")) {
                let option = word.trim_end_matches(['.', ',', ':', ';']);
                assert!(names.iter().any(|name| name == option), "{kind}: --{option}");
            }
        }
    }
}

async fn text(response: Response) -> String {
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

/// A page is text and marks of our own: no brace of the frame is left, and no text is taken for a mark.
#[tokio::test]
async fn every_kind_has_a_page() {
    let list = text(page("Problems", &all())).await;
    for kind in ProblemKind::ALL {
        assert!(list.contains(&format!("href=\"{}\"", kind.reference())), "{kind}");
        let found = text(one(Ok(Path(kind.name().to_owned()))).await).await;
        for part in [kind.title(), kind.meaning(), kind.action(), kind.reference()] {
            assert!(found.contains(&escaped(part)), "{kind}: {part}");
        }
        assert!(!found.contains("{{") && !found.contains("<script"), "{found}");
        assert_eq!(found.matches("</dl>").count(), 1, "{found}");
    }
}
