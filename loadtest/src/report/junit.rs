//! The verdict as JUnit's XML, which build servers show: the run, and each threshold, is a test.

use std::fmt::Write;

use super::Report;
use crate::threshold::Fate;

/// For an attribute or a text. Characters that XML does not have become question marks.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            c if c.is_control() => escaped.push('?'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The whole file.
pub(crate) fn junit(report: &Report) -> String {
    let mut cases = String::new();
    let (mut failures, mut errors) = (0usize, 0usize);
    let class = format!("fanfare-load.{}", report.scenario);
    let mut case = |name: &str, wrong: Option<(&str, &str)>| {
        let _ = write!(cases, "<testcase classname=\"{}\" name=\"{}\"", escape(&class), escape(name));
        let _ = match wrong {
            None => writeln!(cases, "/>"),
            Some((kind, text)) => writeln!(cases, "><{kind} message=\"{}\"/></testcase>", escape(text)),
        };
        match wrong {
            Some(("failure", _)) => failures += 1,
            Some(_) => errors += 1,
            None => {}
        }
    };
    let interrupted = report.partial.then_some("the run was interrupted");
    let reasons: Vec<&str> = report.problems.iter().map(String::as_str).chain(interrupted).collect();
    let reasons = reasons.join("\n");
    case("the run is valid", (!report.valid).then_some(("failure", reasons.as_str())));
    for judged in &report.thresholds {
        let wrong = match judged.result {
            Fate::Passed => None,
            Fate::Failed => Some(("failure", judged.shown.as_str())),
            Fate::Unknown => Some(("error", judged.shown.as_str())),
        };
        case(&judged.threshold, wrong);
    }
    let name = format!("{} against {}", report.scenario, report.name);
    suite(&name, &cases, [1 + report.thresholds.len(), failures, errors])
}

/// The file of a run that has not ended: what ends a run before its time leaves this.
pub(crate) fn junit_before() -> String {
    let case = "<testcase classname=\"fanfare-load\" name=\"the run is valid\"><error message=\"the run could not start, or did not end\"/></testcase>\n";
    suite("fanfare-load", case, [1, 0, 1])
}

fn suite(name: &str, cases: &str, [tests, failures, errors]: [usize; 3]) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n<testsuite name=\"{}\" tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\">\n{cases}</testsuite>\n</testsuites>\n",
        escape(name)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threshold::judge;

    #[test]
    fn each_threshold_is_a_test_and_texts_cannot_break_out() {
        let mut report = Report {
            scenario: "fanout".to_owned(),
            name: "http://h/?a=1&b=\"<x>".to_owned(),
            lost: 3,
            valid: true,
            ..Report::default()
        };
        let thresholds = ["lost>0", "lost>5", "p99>1ms"].map(|text| text.parse().unwrap());
        judge(&mut report, &thresholds, None);
        let xml = junit(&report);
        assert!(xml.contains("tests=\"4\" failures=\"1\" errors=\"1\""), "{xml}");
        assert!(xml.contains("name=\"lost&gt;0\"><failure message=\"3\"/>"), "{xml}");
        assert!(xml.contains("name=\"lost&gt;5\"/>") && xml.contains("a=1&amp;b=&quot;&lt;x&gt;"), "{xml}");
        report.valid = false;
        report.problems = vec!["lost\u{1}".to_owned(), "all".to_owned()];
        let xml = junit(&report);
        assert!(xml.contains("failures=\"2\"") && xml.contains("message=\"lost?&#10;all\""), "{xml}");
        report.partial = true;
        assert!(junit(&report).contains("lost?&#10;all&#10;the run was interrupted"));
    }
}
