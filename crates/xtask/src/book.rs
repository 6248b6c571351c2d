//! `cargo xtask book`: a site of the documents, by mdBook. What the documents link to in the repository goes
//! with it, so that each link works there, too.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::documents::{self, SUMMARY};
use crate::{must, output_of, root, target_directory};

/// Where the site has what lies outside of `docs`.
const ELSEWHERE: &str = "repository";

/// What a browser shows by itself; other files get the ending of a text.
const SHOWN: [&str; 4] = ["png", "svg", "json", "txt"];

pub(crate) fn run() -> Result<ExitCode, String> {
    if output_of("mdbook", &["--version"]).is_none() {
        return Err("mdbook is missing: cargo install --locked mdbook".to_owned());
    }
    documents::check()?;
    let source = target_directory().join("book");
    let site = target_directory().join("site");
    for folder in [&source, &site] {
        if folder.exists() {
            fs::remove_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        }
    }
    write_sources(&source)?;
    let mut mdbook = Command::new("mdbook");
    must(
        mdbook.arg("build").arg("--dest-dir").arg(site.canonicalize().unwrap_or(site.clone())).arg(&source),
    )?;
    let faults = faults_of(&site)?;
    if !faults.is_empty() {
        return Err(faults.join("\n"));
    }
    println!("{}", site.join("index.html").display());
    Ok(ExitCode::SUCCESS)
}

/// Copies the documents, and what they link to, with links as the site needs them.
fn write_sources(source: &Path) -> Result<(), String> {
    let files = documents::tracked_files()?;
    let mut queue: VecDeque<PathBuf> =
        files.iter().filter(|file| file.starts_with("docs") && !is_template(file)).cloned().collect();
    let mut seen: BTreeSet<PathBuf> = queue.iter().cloned().collect();
    // Documents from elsewhere have a place in the table of contents, too: mdBook makes no page of others.
    let mut further = String::new();
    while let Some(path) = queue.pop_front() {
        let to = source.join(place_of(&path, &files));
        let failed = |error: std::io::Error| format!("{}: {error}", to.display());
        fs::create_dir_all(to.parent().unwrap_or(source)).map_err(failed)?;
        if !files.contains(&path) {
            let within = files.iter().filter(|file| file.starts_with(&path));
            let list: Vec<String> = within.map(|file| file.display().to_string()).collect();
            fs::write(&to, list.join("\n") + "\n").map_err(failed)?;
            continue;
        }
        if !documents::is_document(&path) {
            fs::copy(root().join(&path), &to).map_err(failed)?;
            continue;
        }
        let mut text = documents::read(&path)?;
        for link in documents::links_in(&path, &text.clone()).into_iter().rev() {
            let mut target = relative(&place_of(&path, &files), &place_of(&link.path, &files));
            // A place in a source is a line, which a text has not.
            if let Some(fragment) = link.fragment.filter(|_| documents::is_document(&link.path)) {
                target += &format!("#{fragment}");
            }
            text.replace_range(link.at, &target);
            if seen.insert(link.path.clone()) {
                queue.push_back(link.path);
            }
        }
        if !path.starts_with("docs") && path != Path::new("README.md") {
            let title = text.lines().find_map(|line| line.strip_prefix("# ")).unwrap_or("Document");
            further += &format!("- [{title}]({})\n", place_of(&path, &files).display());
        }
        fs::write(&to, text).map_err(failed)?;
    }
    let summary = source.join(place_of(Path::new(SUMMARY), &files));
    let failed = |error: std::io::Error| format!("{}: {error}", summary.display());
    let text = fs::read_to_string(&summary).map_err(failed)?;
    fs::write(&summary, format!("{text}\n# In the repository\n\n{further}")).map_err(failed)
}

/// What a document is made of is no page.
fn is_template(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "in")
}

/// Where a file of the repository, or the list of a folder, is on the site.
fn place_of(path: &Path, files: &BTreeSet<PathBuf>) -> PathBuf {
    if let Ok(within) = path.strip_prefix("docs")
        && files.contains(path)
    {
        return within.to_owned();
    }
    // It is the first page.
    if path == Path::new("README.md") {
        return path.to_owned();
    }
    let mut place = Path::new(ELSEWHERE).join(path);
    // A name that begins with a point is hidden from servers of files.
    if let Ok(hidden) = path.strip_prefix(".github") {
        place = Path::new(ELSEWHERE).join("github").join(hidden);
    }
    let ending = path.extension().unwrap_or_default().to_string_lossy();
    if !documents::is_document(path) && !SHOWN.contains(&&*ending) {
        place.as_mut_os_string().push(".txt");
    }
    place
}

/// The way from one file to another.
fn relative(from: &Path, to: &Path) -> String {
    let from: Vec<_> = from.parent().unwrap_or(Path::new("")).components().collect();
    let to: Vec<_> = to.components().collect();
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = from[common..].iter().map(|_| "..".to_owned());
    let down = to[common..].iter().map(|part| part.as_os_str().to_string_lossy().into_owned());
    up.chain(down).collect::<Vec<_>>().join("/")
}

/// The links of the site's pages that lead to nothing.
fn faults_of(site: &Path) -> Result<Vec<String>, String> {
    let mut pages = Vec::new();
    let mut folders = vec![site.to_owned()];
    while let Some(folder) = folders.pop() {
        let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "html") {
                pages.push(path);
            }
        }
    }
    let read = |path: &Path| fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()));
    let mut faults = Vec::new();
    for page in &pages {
        // These have links from the root of a server.
        if page.ends_with("404.html") {
            continue;
        }
        let text = read(page)?;
        for target in text.split(" href=\"").skip(1).chain(text.split(" src=\"").skip(1)) {
            let target = target.split('"').next().unwrap_or_default();
            if target.contains(':') || target.is_empty() {
                continue;
            }
            let (path, fragment) = target.split_once('#').unwrap_or((target, ""));
            let file = if path.is_empty() { page.clone() } else { page.with_file_name("").join(path) };
            let is_there = if fragment.is_empty() || !pages_contain(&pages, &file) {
                file.exists()
            } else {
                read(&file)?.contains(&format!("id=\"{fragment}\""))
            };
            if !is_there {
                let page = page.strip_prefix(site).unwrap_or(page);
                faults.push(format!("{}: {target} leads to nothing", page.display()));
            }
        }
    }
    Ok(faults)
}

fn pages_contain(pages: &[PathBuf], file: &Path) -> bool {
    file.canonicalize()
        .is_ok_and(|file| pages.iter().any(|page| page.canonicalize().is_ok_and(|page| page == file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_ways_between_them() {
        let files = ["docs/guides/a.md", "docs/B.md", "README.md", "crates/x.rs", ".github/C.md"];
        let files: BTreeSet<PathBuf> = files.map(PathBuf::from).into();
        let place = |path: &str| place_of(Path::new(path), &files).display().to_string();
        assert_eq!(place("docs/guides/a.md"), "guides/a.md");
        assert_eq!(place("README.md"), "README.md");
        assert_eq!(place("crates/x.rs"), "repository/crates/x.rs.txt");
        assert_eq!(place("crates"), "repository/crates.txt");
        assert_eq!(place(".github/C.md"), "repository/github/C.md");
        assert_eq!(relative(Path::new("guides/a.md"), Path::new("B.md")), "../B.md");
        assert_eq!(relative(Path::new("B.md"), Path::new("guides/a.md")), "guides/a.md");
        assert_eq!(relative(Path::new("guides/a.md"), Path::new("guides/b.md")), "b.md");
    }
}
