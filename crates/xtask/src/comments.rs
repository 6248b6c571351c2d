//! What must hold of comments, which the formatter leaves as they are: their lines are no wider than code.

use std::path::Path;

use crate::documents::{read, tracked_files};

/// In columns. `max_width` of .rustfmt.toml.
const WIDTH: usize = 110;

/// Checks all Rust files of the repository, and names each comment that is too wide.
pub(crate) fn check() -> Result<(), String> {
    let mut faults = Vec::new();
    let is_rust = |file: &&std::path::PathBuf| file.extension().is_some_and(|extension| extension == "rs");
    for file in tracked_files()?.iter().filter(is_rust) {
        faults.extend(faults_of(file, &read(file)?));
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

fn faults_of(file: &Path, text: &str) -> Vec<String> {
    let is_wide = |line: &str| {
        let comment = line.trim_start().strip_prefix("//");
        // A table, and a line without a place to break it, may be wider.
        let may_be = |comment: &str| comment.trim_start_matches(['/', '!', ' ']).starts_with('|');
        let words = line.split_whitespace().count();
        comment.is_some_and(|comment| !may_be(comment)) && words > 2 && line.chars().count() > WIDTH
    };
    let wide = text.lines().enumerate().filter(|(_, line)| is_wide(line));
    wide.map(|(index, _)| format!("{}:{}: the comment is too wide", file.display(), index + 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_comments_are_named_and_nothing_else() {
        let words = "word ".repeat(30);
        let text = format!(
            "//! {words}\nlet code = \"{words}\";\n/// | {words} | a table |\n// {}\n    // {words}\n// short",
            "x".repeat(200)
        );
        let wide = ["a.rs:1: the comment is too wide", "a.rs:5: the comment is too wide"];
        assert_eq!(faults_of(Path::new("a.rs"), &text), wide);
    }
}
