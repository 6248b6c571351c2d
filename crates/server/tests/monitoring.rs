//! The alert rules and the dashboard of Grafana ask for metrics that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The metrics of docs/METRICS.md, which another test keeps true.
fn metrics() -> BTreeSet<String> {
    let text = read("../../docs/METRICS.md");
    let names =
        text.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`').map(str::to_owned));
    names.collect()
}

/// The names in an expression that begin as metrics of the server do.
fn names(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'));
    words.filter(|word| word.starts_with("fanfare_") || word.starts_with("process_"))
}

fn assert_known(place: &str, expression: &str, metrics: &BTreeSet<String>) {
    let mut count = 0;
    for name in names(expression) {
        // Each histogram has these series.
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let is_known = metrics.contains(name) || base.is_some_and(|base| metrics.contains(base));
        assert!(is_known, "{place}: there is no metric {name}");
        count += 1;
    }
    assert!(count > 0 || expression.contains("up{"), "{place} asks for nothing: {expression}");
}

#[test]
fn the_alert_rules_ask_for_metrics_that_exist() {
    let (rules, metrics) = (read("packaging/prometheus/alerts.yml"), metrics());
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() >= 10 && metrics.len() >= 40, "{} alerts, {} metrics", alerts.len(), metrics.len());
    let operating = read("../../docs/OPERATING.md");
    for alert in alerts {
        let name = alert.lines().next().unwrap_or_default();
        let expression = alert.split_once("expr:").and_then(|(_, rest)| rest.split_once("labels:"));
        let expression = expression.expect("each rule has an expression").0;
        assert_known(name, expression, &metrics);
        // Nearly every program has these metrics: without the job, the alert was about all of them.
        for rest in expression.split("process_").skip(1) {
            let (_, selector) = rest.split_once('{').unwrap_or_default();
            assert!(selector.starts_with("job=\"fanfare\""), "{name}: {expression}");
        }
        assert!(operating.contains(&format!("`{name}`")), "docs/OPERATING.md does not say what {name} means");
    }
}

#[test]
fn the_dashboard_of_grafana_asks_for_metrics_that_exist() {
    let dashboard: Value = serde_json::from_str(&read("packaging/grafana/fanfare.json")).expect("JSON");
    let (panels, metrics) = (dashboard["panels"].as_array().expect("panels"), metrics());
    assert!(panels.len() >= 10);
    // With `.*` for all instances, the panels of the process showed every program that Prometheus knows.
    for variable in dashboard["templating"]["list"].as_array().expect("variables") {
        assert!(variable.get("allValue").is_none(), "{variable}");
    }
    for panel in panels {
        for target in panel["targets"].as_array().expect("targets") {
            assert_known(
                &panel["title"].to_string(),
                target["expr"].as_str().expect("an expression"),
                &metrics,
            );
        }
    }
}

/// promtool is in Debian's package prometheus. Where it is not installed, the two tests above are all there
/// is.
#[test]
fn promtool_takes_the_rules_and_their_tests() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/prometheus");
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]] {
        match Command::new("promtool").args(arguments).current_dir(&directory).output() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                println!("skipped: promtool is not installed");
                return;
            }
            Err(error) => panic!("promtool: {error}"),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stdout);
                assert!(
                    output.status.success(),
                    "{arguments:?}: {said}{}",
                    String::from_utf8_lossy(&output.stderr)
                );
            }
        }
    }
}
