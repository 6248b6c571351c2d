//! What must hold of the documents: that each link leads somewhere, and that the summary names each document.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::{output_of, root};

/// The table of contents of the site (`cargo xtask book`).
pub(crate) const SUMMARY: &str = "docs/SUMMARY.md";

/// A link in a document, without its fragment if that is empty.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Link {
    /// Where its target stands in the text.
    pub(crate) at: std::ops::Range<usize>,
    /// The file or folder in the repository.
    pub(crate) path: PathBuf,
    pub(crate) fragment: Option<String>,
}

/// Checks all documents of the repository, and names each fault.
pub(crate) fn check() -> Result<(), String> {
    let files = tracked_files()?;
    let mut texts = BTreeMap::new();
    for file in files.iter().filter(|file| is_document(file)) {
        texts.insert(file.clone(), read(file)?);
    }
    let mut faults = faults_of_links(&texts, &files);
    let summary = texts.get(Path::new(SUMMARY)).ok_or_else(|| format!("there is no {SUMMARY}"))?;
    faults.extend(faults_of_summary(summary, &files));
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

pub(crate) fn is_document(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "md")
}

pub(crate) fn read(file: &Path) -> Result<String, String> {
    fs::read_to_string(root().join(file)).map_err(|error| format!("{}: {error}", file.display()))
}

/// The files of the repository, also those that the next commit adds.
pub(crate) fn tracked_files() -> Result<BTreeSet<PathBuf>, String> {
    let root = root();
    let root = root.to_string_lossy();
    let list = ["-C", &root, "ls-files", "--cached", "--others", "--exclude-standard"];
    let list = output_of("git", &list).ok_or("`git ls-files` fails")?;
    let files: BTreeSet<PathBuf> = list.lines().map(PathBuf::from).collect();
    Ok(files.into_iter().filter(|file| Path::new(&*root).join(file).is_file()).collect())
}

fn faults_of_links(texts: &BTreeMap<PathBuf, String>, files: &BTreeSet<PathBuf>) -> Vec<String> {
    let mut faults = Vec::new();
    for (file, text) in texts {
        for link in links_in(file, text) {
            let line = text[..link.at.start].lines().count();
            let fault = |what: &str| format!("{}:{line}: {} {what}", file.display(), &text[link.at.clone()]);
            if !files.iter().any(|other| other.starts_with(&link.path)) && link.path != Path::new("") {
                faults.push(fault("leads to nothing"));
            } else if let (Some(fragment), Some(target)) = (&link.fragment, texts.get(&link.path))
                && !headings_of(target).contains(fragment)
            {
                faults.push(fault("leads to no heading"));
            }
        }
    }
    faults
}

fn faults_of_summary(summary: &str, files: &BTreeSet<PathBuf>) -> Vec<String> {
    let named: BTreeSet<PathBuf> =
        links_in(Path::new(SUMMARY), summary).into_iter().map(|link| link.path).collect();
    let documents = files.iter().filter(|file| file.starts_with("docs") && is_document(file));
    let missing = documents.filter(|file| *file != Path::new(SUMMARY) && !named.contains(*file));
    missing.map(|file| format!("{SUMMARY} does not name {}", file.display())).collect()
}

/// The links of a document to files of the repository. Code has none, and neither have addresses on the web.
pub(crate) fn links_in(file: &Path, text: &str) -> Vec<Link> {
    let mut links = Vec::new();
    for span in prose_in(text) {
        let mut from = span.start;
        while let Some(found) = text[from..span.end].find("](") {
            let start = from + found + 2;
            let end = start + text[start..span.end].find([')', ' ', '\n']).unwrap_or(0);
            from = start;
            let target = &text[start..end];
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, fragment) = match target.split_once('#') {
                Some((path, fragment)) => (path, Some(fragment.to_owned())),
                None => (target, None),
            };
            let path =
                if path.is_empty() { file.to_owned() } else { normal(&file.with_file_name("").join(path)) };
            links.push(Link { at: start..end, path, fragment });
        }
    }
    links
}

/// A path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

/// The parts of a text that are neither blocks of code nor code within a line.
fn prose_in(text: &str) -> Vec<std::ops::Range<usize>> {
    let mut spans = Vec::new();
    let mut in_block = false;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            let mut offset = 0;
            for (number, piece) in line.split('`').enumerate() {
                if number % 2 == 0 {
                    spans.push(at + offset..at + offset + piece.len());
                }
                offset += piece.len() + 1;
            }
        }
        at += line.len();
    }
    spans
}

/// The names by which links know the headings of a document: words in small letters, with hyphens for spaces.
fn headings_of(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut in_block = false;
    for line in text.lines() {
        in_block ^= line.trim_start().starts_with("```");
        let Some(heading) = line.strip_prefix('#').filter(|_| !in_block) else { continue };
        let heading = heading.trim_start_matches('#').trim();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let name: String = kept.flat_map(char::to_lowercase).collect::<String>().replace(' ', "-");
        let again = (0..).map(|count| if count == 0 { name.clone() } else { format!("{name}-{count}") });
        names.extend(again.into_iter().find(|name| !names.contains(name)));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_in_prose_alone() {
        let text =
            "[a](B.md#c) `[no](x)` [web](https://x.example)\n```\n[no](y)\n```\n[d](../README.md), [e](#f)\n";
        let links = links_in(Path::new("docs/A.md"), text);
        let found: Vec<_> = links
            .iter()
            .map(|link| (link.path.to_str(), link.fragment.as_deref(), &text[link.at.clone()]))
            .collect();
        assert_eq!(
            found,
            [
                (Some("docs/B.md"), Some("c"), "B.md#c"),
                (Some("README.md"), None, "../README.md"),
                (Some("docs/A.md"), Some("f"), "#f"),
            ]
        );
    }

    #[test]
    fn links_to_nothing_and_documents_without_a_place_are_named() {
        let texts = BTreeMap::from([
            (
                "A.md".into(),
                "# One, `two`\n# One two\n[x](B.md) [y](#one-two-1) [z](#three) [u](gone.md)".to_owned(),
            ),
            ("B.md".into(), String::new()),
        ]);
        let files = texts.keys().cloned().collect();
        let faults = faults_of_links(&texts, &files);
        assert_eq!(faults, ["A.md:3: #three leads to no heading", "A.md:3: gone.md leads to nothing"]);
        let files = ["docs/A.md", "docs/guides/b.md", "docs/SUMMARY.md"].map(PathBuf::from).into();
        assert_eq!(
            faults_of_summary("- [A](A.md)", &files),
            ["docs/SUMMARY.md does not name docs/guides/b.md"]
        );
    }
}
