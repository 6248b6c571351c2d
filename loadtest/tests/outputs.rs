//! What a run is used for: thresholds, files for other programs, metrics while it lasts, and the comparison
//! with an earlier run.

#![allow(clippy::unwrap_used, reason = "what cannot be read is a failed test")]

mod fake;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use fake::{Behaviour, Fake, Send};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

/// The second event of twenty reaches everybody but subscriber 3.
fn forgetful() -> Fake {
    let mischief = |subscriber, event| match (subscriber, event) {
        (3, 5) => vec![],
        _ => vec![Send::Event(event)],
    };
    Fake::start(Behaviour { mischief: Box::new(mischief), ..Behaviour::default() })
}

fn honest() -> Fake {
    Fake::start(Behaviour::default())
}

/// Runs the load test with arguments that may hold spaces; returns the exit code and what it said.
fn run(fake: &Fake, arguments: &[&str]) -> (i32, String, String) {
    let output = command(fake, arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn command(fake: &Fake, arguments: &[&str]) -> Command {
    let mut command = fake::command();
    let url = format!("http://{}", fake.address);
    command.args(arguments).args(["-q", "--server", "plain", "--url", &url]);
    command
}

/// A file that a run writes.
fn taken(path: &std::path::Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    std::fs::remove_file(path).unwrap();
    text
}

#[test]
fn thresholds_decide_the_exit_code_and_are_in_every_output() {
    let (json, junit) = (fake::scratch("report.json"), fake::scratch("junit.xml"));
    let fanout = ["fanout", "-n", "5", "-r", "50", "-d", "300ms", "--json", json.to_str().unwrap()];
    let fake = honest();
    let passing = ["--fail-if", "p99>20s", "--fail-if", "lost > 0", "--junit", junit.to_str().unwrap()];
    let (code, told, complaint) = run(&fake, &[&fanout[..], &passing].concat());
    assert_eq!(code, 0, "{complaint}");
    assert!(told.contains("threshold p99>20s: passed (") && told.ends_with("valid\n"), "{told}");
    assert!(taken(&junit).contains("tests=\"3\" failures=\"0\" errors=\"0\""));

    let failing = ["--fail-if", "deliveries<1M", "--fail-if", "lost>0", "--junit", junit.to_str().unwrap()];
    let (code, told, complaint) = run(&fake, &[&fanout[..], &failing].concat());
    assert_eq!(code, 1, "{told}");
    assert!(complaint.contains("the threshold `deliveries<1M` failed: 80"), "{complaint}");
    assert!(told.contains("threshold deliveries<1M: FAILED (80)"), "{told}");
    assert!(told.ends_with("threshold failed\n"), "{told}");
    let report: serde_json::Value = serde_json::from_str(&taken(&json)).unwrap();
    // The measurement is good; it is the server that does not keep to what was asked.
    assert_eq!((&report["valid"], &report["passed"]), (&true.into(), &false.into()));
    let results: Vec<_> = report["thresholds"].as_array().unwrap().iter().map(|one| &one["result"]).collect();
    assert_eq!(results, ["failed", "passed"]);
    let first = &report["thresholds"][0];
    assert_eq!((&first["value"], &first["unit"]), (&80.0.into(), &"count".into()));
    let xml = taken(&junit);
    assert!(xml.contains("name=\"deliveries&lt;1M\"><failure message=\"80\""), "{xml}");
}

#[test]
fn a_threshold_without_a_figure_is_no_pass() {
    let fake = honest();
    let fanout = ["fanout", "-n", "3", "-r", "50", "-d", "200ms", "--fail-if"];
    let (code, told, complaint) = run(&fake, &[&fanout[..], &["all_back>1s"]].concat());
    assert_eq!(code, 1, "{told}");
    assert!(complaint.contains("the threshold `all_back>1s` could not be judged"), "{complaint}");
    // A run that cannot start is no empty file to a build server.
    let junit = fake::scratch("junit.xml");
    let with = ["p99>1s", "--junit", junit.to_str().unwrap(), "--publish-url", "http://127.0.0.1:9/"];
    let (code, _, complaint) = run(&fake, &[&fanout[..], &with].concat());
    assert_ne!(code, 0, "{complaint}");
    let xml = taken(&junit);
    assert!(xml.contains("failures=\"1\"") || xml.contains("errors=\"1\""), "{xml}");
    // What cannot be there is said before the run.
    for (threshold, told) in [
        ("cpu_per_delivery>2us", "--server-pid"),
        ("p99>+10%", "--against"),
        ("p98>10ms", "last_subscriber_p99"),
        ("p99>10", "unit of time"),
    ] {
        let (code, _, complaint) = run(&fake, &[&fanout[..], &[threshold]].concat());
        assert!(code == 2 && complaint.contains(told), "{threshold}: {code} {complaint}");
    }
}

#[test]
fn thresholds_stand_in_scenario_files_too() {
    let file = fake::scratch("scenario.toml");
    let fake = forgetful();
    let text = format!(
        "scenario = \"fanout\"\nurl = \"http://{}\"\nserver = \"plain\"\nsubscribers = 5\nrate = 50\nduration = \"300ms\"\npatience = \"300ms\"\nfail_if = [\"lost>1\", \"lost>0\"]\n",
        fake.address
    );
    std::fs::write(&file, text).unwrap();
    let verdict = fake::judge(&format!("run {} --fail-if lost>=2", file.display()));
    std::fs::remove_file(&file).unwrap();
    let results: Vec<_> =
        verdict.json["thresholds"].as_array().unwrap().iter().map(|one| &one["result"]).collect();
    assert_eq!((verdict.code, results), (1, vec![&"passed".into(), &"failed".into(), &"passed".into()]));
}

/// A name that could not be written was noticed after the run, whose result was lost with all other files.
#[test]
fn a_result_that_could_not_be_written_stops_the_run_before_it_begins() {
    let fake = honest();
    for run in
        ["fanout -n 2 -d 200ms", "find -n 2 -d 200ms", "compare --contenders bare --rounds 1 -n 2 -d 200ms"]
    {
        let arguments: Vec<&str> = run.split_whitespace().chain(["--json", "/nowhere/result.json"]).collect();
        let mut command = fake::command();
        command.args(&arguments);
        if !run.starts_with("compare") {
            command.args(["--server", "plain", "--url", &format!("http://{}", fake.address)]);
        }
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && told.contains("/nowhere/result.json"), "{run}: {told}");
    }
    assert_eq!((fake.subscribed(), fake.published()), (0, 0));
}

/// The rounds of a comparison are judged one by one.
#[test]
fn thresholds_hold_in_a_comparison_too() {
    let run = "compare --contenders bare --rounds 1 --connections 10 -r 20 -d 200ms";
    let verdict = fake::judge(&format!("{run} --fail-if lost>0"));
    assert_eq!(verdict.code, 0, "{}", verdict.complaint);
    let verdict = fake::judge(&format!("{run} --fail-if deliveries<1M"));
    assert_eq!(verdict.code, 1);
    let told = "bare at 10, round 1: the threshold `deliveries<1M` failed: 50";
    assert!(verdict.complaint.contains(told), "{}", verdict.complaint);
    // The round is a measurement all the same.
    assert_eq!(verdict.json["rows"][0]["rounds"][0]["valid"], true);
}

/// A client of one thread on one core, at its limit.
#[test]
fn a_client_at_its_limit_fails_where_that_is_asked_for() {
    let fake = honest();
    let verdict = fake.judge("saturate -n 2 -d 300ms --fail-if client-bound");
    let bound = verdict.json["client"]["bottleneck"] == true;
    assert_eq!(verdict.code, i32::from(bound), "{}", verdict.complaint);
    assert_eq!(verdict.json["thresholds"][0]["result"], if bound { "failed" } else { "passed" });
}

#[test]
fn a_page_a_series_and_a_log_hold_the_run() {
    let [page, series, log, json] = ["page.html", "series.csv", "run.hlog", "report.json"].map(fake::scratch);
    let arguments = format!(
        "fanout -n 4 -r 40 -d 2500ms --fail-if p99>30s --html {} --csv {} --hlog {} --json {}",
        page.display(),
        series.display(),
        log.display(),
        json.display()
    );
    let (code, _, complaint) = run(&honest(), &arguments.split(' ').collect::<Vec<_>>());
    assert_eq!(code, 0, "{complaint}");
    let report: serde_json::Value = serde_json::from_str(&taken(&json)).unwrap();

    let html = taken(&page);
    for told in ["Latency by percentile", "Latency by second", "p99&gt;30s", "load.rate", "Verdict: valid"] {
        assert!(html.contains(told), "{told} is not in {html}");
    }
    assert!(["src=", "href=", "url(", "@import", "<script"].iter().all(|outside| !html.contains(outside)));

    let series = taken(&series);
    let mut lines = series.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    assert_eq!(names[..4], ["second", "streams_open", "published", "deliveries"]);
    let sums = lines.fold([0, 0], |sums, line| {
        let value = |index: usize| line.split(',').nth(index).unwrap().parse::<u64>().unwrap();
        [sums[0] + value(2), sums[1] + value(3)]
    });
    // The event before the measurement is published, and not measured.
    assert_eq!(sums, [101, 4 * 100]);
    assert!(series.lines().any(|line| line.split(',').nth(1) == Some("4")), "{series}");

    // The intervals together are the latencies of the report.
    let text = taken(&log);
    let mut all: Histogram<u64> = Histogram::new(3).unwrap();
    let mut intervals = 0;
    let mut deserializer = Deserializer::new();
    for entry in IntervalLogIterator::new(text.as_bytes()) {
        let LogEntry::Interval(interval) = entry.unwrap() else { continue };
        let bytes =
            base64::Engine::decode(&base64::engine::general_purpose::STANDARD, interval.encoded_histogram())
                .unwrap();
        let histogram: Histogram<u64> = deserializer.deserialize(&mut bytes.as_slice()).unwrap();
        assert!(!histogram.is_empty() && interval.duration() > Duration::ZERO);
        all.add(histogram).unwrap();
        intervals += 1;
    }
    assert!(intervals >= 2, "{text}");
    assert_eq!(all.len(), 4 * 100);
    let p99_us = report["latency_us"]["p99"].as_f64().unwrap();
    let logged_us = all.value_at_quantile(0.99) as f64 / 1e3;
    assert!((logged_us / p99_us - 1.0).abs() < 0.01, "{logged_us} in the log, {p99_us} in the report");
}

#[test]
fn metrics_can_be_scraped_while_it_runs() {
    let fake = honest();
    let mut child =
        command(&fake, &["fanout", "-n", "6", "-r", "20", "-d", "60s", "--prometheus", "127.0.0.1:0"])
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
    let mut complaints = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("/metrics") {
        line.clear();
        assert!(complaints.read_line(&mut line).unwrap() > 0, "the endpoint is not named");
    }
    let address = line.trim().split("http://").nth(1).unwrap().trim_end_matches("/metrics").to_owned();
    let ask = |request: &str| {
        let mut client = TcpStream::connect(&address).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        let _ = client.read_to_string(&mut answer);
        answer
    };
    // A client that says nothing does not end the endpoint.
    let silent = TcpStream::connect(&address).unwrap();
    let text = loop {
        let text = ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        if text.contains("quantile=\"0.99\"") {
            break text;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    drop(silent);
    // Nor does the endpoint wait for such clients before it answers another one.
    let silent = [(); 5].map(|()| TcpStream::connect(&address).unwrap());
    ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    for client in &silent {
        client.set_nonblocking(true).unwrap();
        let waits = client.peek(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        assert!(waits, "it was given up before the scrape was answered");
    }
    for told in [
        "HTTP/1.1 200 OK",
        "\nfanfare_load_streams_open 6\n",
        "\nfanfare_load_streams_wanted 6\n",
        "\nfanfare_load_faults_total{kind=\"doubled\"} 0\n",
        "\n# TYPE fanfare_load_latency_seconds summary\n",
    ] {
        assert!(text.contains(told), "`{told}` is not in {text}");
    }
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    assert!(value("fanfare_load_published_total") > 1 && value("fanfare_load_deliveries_total") > 6);
    assert!(ask("GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
    assert!(ask("POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_dry_run_prints_the_requests_and_starts_nothing() {
    let fake = honest();
    let (code, told, complaint) = run(
        &fake,
        &[
            "topics",
            "-n",
            "3",
            "--dry-run",
            "--subscribe-header",
            "Authorization: Bearer secret",
            "--publish-header",
            "X-Key: other",
        ],
    );
    assert_eq!(code, 0, "{complaint}");
    for expected in [
        "# subscription, 3 streams over 3 topics\nGET /events/load-0 HTTP/1.1\n",
        "Authorization: Bearer secret",
        "# publish, 10 events a second for 10 s\nPOST /events/load-0 HTTP/1.1\n",
        "X-Key: other",
        "Content-Length: 200\n\n~fl",
    ] {
        assert!(told.contains(expected), "`{expected}` is not in {told}");
    }
    assert_eq!((fake.published(), fake.subscribed()), (0, 0));
}

#[test]
fn a_run_is_compared_with_an_earlier_one() {
    let (first, second) = (fake::scratch("first.json"), fake::scratch("second.json"));
    let fake = honest();
    let fanout = ["fanout", "-r", "50", "-d", "300ms", "--json"];
    let (code, _, complaint) = run(&fake, &[&fanout[..], &[first.to_str().unwrap(), "-n", "4"]].concat());
    assert_eq!(code, 0, "{complaint}");
    let with = [second.to_str().unwrap(), "-n", "6", "--against", first.to_str().unwrap()];
    let thresholds = ["--fail-if", "deliveries>+40%", "--fail-if", "deliveries>+60%"];
    let (code, told, _) = run(&fake, &[&fanout[..], &with, &thresholds].concat());
    assert_eq!(code, 1);
    for expected in [
        "  deliveries: 64 -> 96 (+50.0 %)",
        "  differs: load.subscribers: then 4, now 6",
        "threshold deliveries>+40%: FAILED (+50.0 %, from 64 to 96)",
        "threshold deliveries>+60%: passed",
    ] {
        assert!(told.contains(expected), "`{expected}` is not in {told}");
    }
    let report: serde_json::Value = serde_json::from_str(&taken(&second)).unwrap();
    let changes = report["against"]["changes"].as_array().unwrap();
    let change = changes.iter().find(|change| change["metric"] == "deliveries").unwrap();
    assert_eq!((&change["earlier"], &change["change_percent"]), (&64.0.into(), &50.0.into()));

    // What is no result of a run is refused before anything starts.
    std::fs::write(&first, "{\"rows\":[]}").unwrap();
    let (code, _, complaint) = run(&fake, &[&fanout[..], &with].concat());
    assert!(code == 2 && complaint.contains("several runs"), "{complaint}");
    std::fs::remove_file(&first).unwrap();
}

/// A disk that is full must not take the figures along.
#[test]
fn a_log_that_cannot_be_written_is_a_problem_and_no_lost_report() {
    let json = fake::scratch("report.json");
    let log = ["--hlog", "/dev/full", "--json", json.to_str().unwrap()];
    let (code, _, complaint) =
        run(&honest(), &[&["fanout", "-n", "3", "-r", "20", "-d", "300ms"][..], &log].concat());
    assert!(code == 1 && complaint.contains("/dev/full"), "{code} {complaint}");
    let report: serde_json::Value = serde_json::from_str(&taken(&json)).unwrap();
    assert_eq!((&report["valid"], &report["lost"]), (&false.into(), &0.into()));
}

/// The page shows all settings; a report holds no secret.
#[test]
fn no_file_holds_a_secret() {
    let [page, junit, json] = ["page.html", "junit.xml", "report.json"].map(fake::scratch);
    let files = [&page, &junit, &json].map(|path| path.to_str().unwrap());
    let with = ["--html", files[0], "--junit", files[1], "--json", files[2]];
    let secret = ["--publish-header", "Authorization: Bearer hush", "--subscribe-header", "Cookie: a=hush"];
    let fanout = ["fanout", "-n", "3", "-r", "20", "-d", "200ms"];
    let (code, told, complaint) = run(&honest(), &[&fanout[..], &with, &secret].concat());
    assert_eq!(code, 0, "{complaint}");
    for text in [told, taken(&page), taken(&junit), taken(&json)] {
        assert!(!text.is_empty() && !text.contains("hush"), "{text}");
    }
}

/// The report went with the pipe of `fanfare-load ... | head`.
#[test]
fn a_reader_that_has_gone_takes_no_file_along() {
    let fake = honest();
    let json = fake::scratch("report.json");
    let fanout = ["fanout", "-n", "3", "-r", "20", "-d", "200ms", "--json", json.to_str().unwrap()];
    let mut child = command(&fake, &fanout).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut complaint = String::new();
    child.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
    assert_eq!((child.wait().unwrap().code(), complaint.as_str()), (Some(0), ""));
    assert!(taken(&json).contains("\"valid\":true"));
}

/// A result that could not be written was told after the run, and the others were not written then.
#[test]
fn a_result_that_cannot_be_written_is_told_before_the_run_or_costs_no_other_one() {
    let fake = honest();
    let fanout = ["fanout", "-n", "2", "-r", "20", "-d", "200ms"];
    let (code, _, complaint) = run(&fake, &[&fanout[..], &["--json", "/nowhere/report.json"]].concat());
    assert_eq!((code, fake.published()), (2, 0), "{complaint}");
    assert!(complaint.contains("/nowhere/report.json"), "{complaint}");

    let (page, junit) = (fake::scratch("page.html"), fake::scratch("junit.xml"));
    let (page_name, junit_name) = (page.to_str().unwrap(), junit.to_str().unwrap());
    let outputs = ["--json", "/dev/full", "--csv", "/dev/full", "--html", page_name, "--junit", junit_name];
    let (code, told, complaint) = run(&fake, &[&fanout[..], &outputs].concat());
    assert_eq!(code, 1, "{complaint}");
    assert_eq!(complaint.matches("/dev/full").count(), 2, "{complaint}");
    assert!(told.ends_with("valid\n"), "{told}");
    assert!(taken(&page).contains("</html>") && taken(&junit).contains("</testsuite"));

    let same = ["--json", page_name, "--html", page_name];
    let (code, _, complaint) = run(&fake, &[&fanout[..], &same].concat());
    assert_eq!(code, 2);
    assert!(complaint.contains("--json and --html name the same file"), "{complaint}");
    assert!(!page.exists());
}

#[test]
fn a_secret_in_a_body_is_in_no_result() {
    let (json, page) = (fake::scratch("report.json"), fake::scratch("page.html"));
    let body = r#"{"text":"{data}","apiKey":"hush"}"#;
    let (names, fake) = (["--json", json.to_str().unwrap(), "--html", page.to_str().unwrap()], honest());
    let arguments = [&["fanout", "-n", "2", "-r", "20", "-d", "200ms", "--publish-body", body], &names[..]];
    let (code, told, complaint) = run(&fake, &arguments.concat());
    assert_eq!(code, 0, "{complaint}");
    let texts = [taken(&json), taken(&page), told, complaint];
    assert!(texts[0].contains("apiKey") && texts.iter().all(|text| !text.contains("hush")), "{texts:?}");

    // The request is told where it fails.
    let refusing = Fake::start(Behaviour { publish_status: "403 Forbidden", ..Behaviour::default() });
    let url = format!("http://{}/events/load?token=hush", refusing.address);
    let (code, told, complaint) =
        run(&refusing, &["fanout", "-n", "2", "-d", "1s", "--publish-url", &url, "--publish-body", body]);
    assert_eq!(code, 1);
    assert!(complaint.contains("token=***") && !complaint.contains("hush"), "{complaint}");
    assert!(!told.contains("hush"), "{told}");
}
