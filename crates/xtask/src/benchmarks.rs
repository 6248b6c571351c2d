//! `cargo xtask benchmarks`: the document of benchmarks, made of its template and of the raw files.

mod results;
mod template;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::{documents, root};

const TEMPLATE: &str = "docs/BENCHMARKS.md.in";
const DOCUMENT: &str = "docs/BENCHMARKS.md";
const RESULTS: &str = "loadtest/results";
const README: &str = "README.md";
/// The measured rows of the table in the README. They are templates, and use the folders of the document's
/// template.
const ROWS_OF_README: [&str; 2] = [
    "| CPU of a delivery, us \
     | {{figure @release/steered.json fanfare-io-uring@15000 server_cpu_us_per_delivery}} \
     | {{figure @release/steered.json mercure@15000 server_cpu_us_per_delivery}} \
     | {{figure @release/steered.json nchan@15000 server_cpu_us_per_delivery}} \
     | {{figure @release/steered.json pushpin@15000 server_cpu_us_per_delivery}}, all events in {{valid @release/steered.json pushpin@15000}} rounds \
     | {{figure @release/steered.json centrifugo@15000 server_cpu_us_per_delivery}} |",
    "| user memory of a stream, bytes \
     | {{figure @release/steered.json fanfare-io-uring@15000 server_user_bytes_per_connection}} \
     | {{figure @release/steered.json mercure@15000 server_user_bytes_per_connection}} \
     | {{figure @release/steered.json nchan@15000 server_user_bytes_per_connection}} \
     | {{figure @release/steered.json pushpin@15000 server_user_bytes_per_connection}} \
     | {{figure @release/steered.json centrifugo@15000 server_user_bytes_per_connection}} |",
];

/// What to do.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Write nothing, and fail where the document is not what the raw files give
    #[arg(long)]
    check: bool,
    /// Rewrite the JSON files of a folder of results, before all else: without line breaks, and without what
    /// is for plots or follows from the rounds
    #[arg(long, value_name = "FOLDER", conflicts_with = "check")]
    compact: Option<PathBuf>,
}

/// Renders the document, or checks it.
pub(crate) fn run(options: &Options) -> Result<ExitCode, String> {
    if let Some(folder) = &options.compact {
        compact(folder)?;
    }
    if options.check {
        check()?;
        println!("{DOCUMENT} is what the raw files give");
    } else {
        for (name, text) in [(DOCUMENT, rendered()?), (README, readme()?)] {
            fs::write(root().join(name), text).map_err(|error| format!("{name}: {error}"))?;
        }
        println!("{DOCUMENT} is written, and the figures of {README}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the document is what the raw files give, and the raw files are as small as they can be.
pub(crate) fn check() -> Result<(), String> {
    for file in documents::tracked_files()?.iter().filter(|file| file.starts_with(RESULTS)) {
        fault_of(file, || documents::read(file))?;
    }
    differs(DOCUMENT, &documents::read(Path::new(DOCUMENT))?, &rendered()?)?;
    differs(README, &documents::read(Path::new(README))?, &readme()?)
}

/// The README with the figures of the raw files.
fn readme() -> Result<String, String> {
    let template = documents::read(Path::new(TEMPLATE))?;
    let folders: String = template
        .lines()
        .filter(|line| line.starts_with("{{folder "))
        .map(|line| format!("{line}\n"))
        .collect();
    let mut lines = Vec::new();
    for line in ROWS_OF_README {
        let line = template::render(&format!("{folders}{line}"), &root(), Path::new(README))
            .map_err(|problem| format!("the figures of {README}: {problem}"))?;
        lines.push(line);
    }
    with_rows(&documents::read(Path::new(README))?, &lines)
}

/// Replaces the rows of tables in a text. Each of the new rows takes the place of the one with the same first
/// cell.
fn with_rows(text: &str, lines: &[String]) -> Result<String, String> {
    let cell = |line: &str| line.split('|').nth(1).map(|cell| cell.trim().to_owned());
    let mut text: Vec<&str> = text.lines().collect();
    for line in lines {
        let old = text.iter_mut().find(|old| old.starts_with('|') && cell(old) == cell(line));
        *old.ok_or_else(|| format!("{README} has no row `{}`", cell(line).unwrap_or_default()))? = line;
    }
    Ok(text.join("\n") + "\n")
}

fn rendered() -> Result<String, String> {
    let template = documents::read(Path::new(TEMPLATE))?;
    template::render(&template, &root(), Path::new(DOCUMENT))
        .map_err(|problem| format!("{TEMPLATE} {problem}"))
}

fn differs(name: &str, is: &str, should_be: &str) -> Result<(), String> {
    let mut lines = is.lines().zip(should_be.lines()).enumerate();
    let line = match lines.find(|(_, (is, should_be))| is != should_be) {
        Some((number, _)) => number + 1,
        None if is == should_be => return Ok(()),
        None => is.lines().count().min(should_be.lines().count()) + 1,
    };
    Err(format!("{name}:{line} is not what {TEMPLATE} and the raw files give: run `cargo xtask benchmarks`"))
}

/// Raw files are many: pages can be made of them again, and line breaks are for people.
fn fault_of(file: &Path, text: impl Fn() -> Result<String, String>) -> Result<(), String> {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("html") => {
            Err(format!("{}: pages are not kept, `fanfare-load compare --html` makes them", file.display()))
        }
        Some("json") if text()?.lines().nth(1).is_some() => {
            let folder = file.parent().unwrap_or(file).display();
            Err(format!(
                "{} has line breaks: run `cargo xtask benchmarks --compact {folder}`",
                file.display()
            ))
        }
        _ => Ok(()),
    }
}

fn compact(folder: &Path) -> Result<(), String> {
    let failed = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    for entry in fs::read_dir(folder).map_err(|error| failed(folder, &error))? {
        let path = entry.map_err(|error| failed(folder, &error))?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let text = fs::read_to_string(&path).map_err(|error| failed(&path, &error))?;
            let text = compacted(&text).map_err(|error| failed(&path, &error))?;
            fs::write(&path, text).map_err(|error| failed(&path, &error))?;
        }
    }
    Ok(())
}

/// The same JSON in one line. It has no curves and no seconds, because these are for plots, and no figures of
/// rows that have their rounds, because they follow from the rounds.
fn compacted(text: &str) -> Result<String, serde_json::Error> {
    fn reduce(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(fields) => {
                fields.remove("latency_curve");
                // In `opening` and `asked` this key is a number, and stays.
                if fields.get("seconds").is_some_and(serde_json::Value::is_array) {
                    fields.remove("seconds");
                }
                if fields.get("rounds").is_some_and(serde_json::Value::is_array) {
                    fields.remove("figures");
                }
                fields.values_mut().for_each(reduce);
            }
            serde_json::Value::Array(elements) => elements.iter_mut().for_each(reduce),
            _ => {}
        }
    }
    let mut value = serde_json::from_str(text)?;
    reduce(&mut value);
    Ok(value.to_string() + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A template beside raw files of its own.
    fn render(template: &str) -> Result<String, String> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("xtask-benchmarks-{}-{count}", std::process::id()));
        fs::create_dir_all(root.join("raw")).unwrap();
        let figure = |median: f64| {
            format!(
                r#"{{"cpu":{{"median":{median},"lowest":{median},"highest":{},"rounds":5}}}}"#,
                median + 1.0
            )
        };
        let row = |name: &str, connections: u64, figures: &str, valid: bool| {
            let round = format!(r#"{{"valid":{valid},"lost":{}}}"#, u64::from(!valid));
            format!(
                r#"{{"name":"{name}","connections":{connections},"figures":{figures},"rounds":[{round},{round}]}}"#
            )
        };
        let rows = [
            row("a", 10, &figure(3.0), true),
            row("b", 10, &figure(2.0), true),
            row("c", 10, "{}", false),
            row("a", 2000, &figure(5.0), true),
            row("b", 2000, &figure(6.0), true),
        ];
        let file = format!(
            r#"{{"rounds":2,"machine":"m","provenance":{{"command":"fanfare-load compare","started":"2026-01-02T03:04:05Z"}},"rows":[{}]}}"#,
            rows.join(",")
        );
        fs::write(root.join("raw/x.json"), file).unwrap();
        fs::write(
            root.join("raw/one.json"),
            r#"{"valid":true,"subscribers":7,"opening":{"per_second":47390.0},"share":0.4}"#,
        )
        .unwrap();
        let rendered = template::render(template, &root, Path::new("docs/B.md"));
        fs::remove_dir_all(&root).unwrap();
        rendered
    }

    #[test]
    fn prose_has_figures_of_files_and_is_filled_anew() {
        let template = "{{# a comment}}\n{{folder r raw}}\n# Title\n\nOf {{day @r/x.json}} on {{machine @r/x.json}}: {{figure @r/x.json a@10 cpu}} us\n(from {{range @r/x.json a@10 cpu}}), {{ratio @r/x.json a@10 b@10 cpu}} of b,\n{{valid @r/x.json c@10}} and {{valid @r/x.json a@10}}, {{ratio-of-runs @r/one.json @r/one.json share}},\n{{figure @r/one.json - share * 100}} % ([raw]({{path @r/x.json}})), `{{command @r/x.json}}`, {{rounds @r/x.json}} rounds.\n\nNothing\nhere.\n";
        let text = "# Title\n\nOf 2026-01-02 on m: 3.00 us (from 3.00 to 4.00), 1.500 of b, 0 of 2 and 2 of 2, 1.000, 40.0 %\n([raw](../raw/x.json)), `fanfare-load compare`, 2 rounds.\n\nNothing\nhere.\n";
        assert_eq!(render(template).unwrap(), text);
    }

    #[test]
    fn tables_have_rows_by_size_or_sizes_as_columns() {
        let below = "\n\n2 rounds: each figure is the median of the valid rounds by itself, in brackets from the lowest to the highest.\nRaw: [x.json](../raw/x.json).\n";
        let by_size = render("{{table raw/x.json\nsort cpu\nCPU | cpu\n}}\n").unwrap();
        let rows = "| | streams | CPU |\n|---|---|---|\n| b | 10 | 2.00 (2.00 to 3.00) |\n| a | 10 | 3.00 (3.00 to 4.00) |\n| c (no valid round: 2 lost) | 10 | - |\n| a | 2,000 | 5.00 (5.00 to 6.00) |\n| b | 2,000 | 6.00 (6.00 to 7.00) |";
        assert_eq!(by_size, format!("{rows}{below}"));
        let columns =
            render("{{table raw/x.json\nrows b c\n10 | cpu@10\nms | cpu@2000 / 1000\n}}\n").unwrap();
        let rows = "| | 10 | ms |\n|---|---|---|\n| b | 2.00 (2.00 to 3.00) | 0.00600 (0.00600 to 0.00700) |\n| c (no valid round at 10: 2 lost) | - | - |";
        assert_eq!(columns, format!("{rows}{below}"));
        let joined = render(
            "{{table raw/x.json\nrows a\nalso y raw/x.json\nat 10\nCPU | cpu\nlater | y:cpu@2000\n}}\n",
        )
        .unwrap();
        assert!(
            joined.starts_with(
                "| | CPU | later |\n|---|---|---|\n| a | 3.00 (3.00 to 4.00) | 5.00 (5.00 to 6.00) |\n"
            ),
            "{joined}"
        );
    }

    #[test]
    fn runs_by_themselves_are_columns() {
        let text = render(
            "{{runs\nfile epoll = raw/one.json\nopened | {subscribers}, {opening.per_second} a second\n}}\n",
        );
        let told =
            "| | epoll |\n|---|---|\n| opened | 7, 47,390 a second |\n\nRaw: [epoll](../raw/one.json).\n";
        assert_eq!(text.unwrap(), told);
    }

    /// A document that has figures which are not in the raw files would stay as it is.
    #[test]
    fn what_the_files_do_not_have_is_an_error() {
        for (template, problem) in [
            (
                "\n{{figure raw/x.json a@10 cqu}}",
                "from line 2: {{figure raw/x.json a@10 cqu: there is no figure `cqu`",
            ),
            ("{{figure raw/x.json a@11 cpu}}", "has no row a@11"),
            ("{{figure raw/y.json a@10 cpu}}", "y.json"),
            ("{{figure @r/x.json a@10 cpu}}", "there is no {{folder r"),
            ("{{path raw/y.json}}", "there is no raw/y.json"),
            ("{{table raw/x.json\nCPU | cqu\n}}", "column CPU: no row has `cqu`"),
            ("{{table raw/x.json\nrows z\nCPU | cpu\n}}", "no row is called z"),
            ("{{command raw/one.json}}", "does not tell"),
            ("{{figure raw/x.json", "a {{ without }}"),
            ("{{sum raw/x.json}}", "no such placeholder"),
        ] {
            let told = render(template).unwrap_err();
            assert!(told.contains(problem), "{told}");
        }
    }

    #[test]
    fn rows_of_the_readme_are_replaced_by_their_first_cell() {
        let text = "# A\n\n| x | 1 |\n| y | 2 |\n";
        let with = |line: &str| with_rows(text, &[line.to_owned()]);
        assert_eq!(with("| y | 3 |").unwrap(), "# A\n\n| x | 1 |\n| y | 3 |\n");
        assert!(with("| z | 3 |").unwrap_err().contains("no row `z`"));
    }

    #[test]
    fn a_document_that_differs_and_a_file_that_is_too_large_are_named() {
        assert!(differs("D.md", "a\nb\n", "a\nb\n").is_ok());
        assert!(differs("D.md", "a\nb\n", "a\nc\n").unwrap_err().contains("D.md:2 "));
        assert!(differs("D.md", "a\n", "a\nc\n").unwrap_err().contains("D.md:2 "));
        let pretty = "{\n  \"rows\": [{\"latency_curve\": [[0.5, 1.0]], \"name\": \"x\"}]\n}\n";
        let fault = |name: &str, text: &str| fault_of(Path::new(name), || Ok(text.to_owned()));
        assert!(fault("r/x.json", pretty).unwrap_err().contains("--compact r"));
        let small = compacted(pretty).unwrap();
        assert_eq!(small, "{\"rows\":[{\"name\":\"x\"}]}\n");
        let whole = r#"{"rounds":1,"rows":[{"figures":{"a":1},"rounds":[{"seconds":[{}],"opening":{"seconds":2}}]}]}"#;
        let kept = "{\"rounds\":1,\"rows\":[{\"rounds\":[{\"opening\":{\"seconds\":2}}]}]}\n";
        assert_eq!(compacted(whole).unwrap(), kept);
        assert!(fault("r/x.json", &small).is_ok() && fault("r/x.txt", pretty).is_ok());
        assert!(fault("r/x.html", "").unwrap_err().contains("--html"));
    }
}
