//! The baselines that need nothing installed, and the comparison over them.

mod fake;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn a_baseline_runs_in_the_foreground_and_is_judged() {
    for name in [
        "threads",
        "bare",
        "bare --set arguments=--threads=3",
        "bare --set arguments=--threads=3 --host 127.0.0.2",
        "axum-sse",
        "hyper",
        "hyper --set arguments+=--threads=2",
    ] {
        let mut child =
            fake::command().arg("baseline").args(name.split(' ')).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.split_whitespace().find(|word| word.starts_with("http://")).unwrap();
        let arguments =
            format!("fanout -n 100 -r 50 -d 500ms --server plain --url {url} --server-pid {}", child.id());
        let verdict = fake::judge(&arguments);
        // Ended as the README says, not killed: SIGTERM has to work.
        Command::new("kill").arg(child.id().to_string()).status().unwrap();
        child.wait().unwrap();
        assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{name}: {}", verdict.complaint);
        assert_eq!(verdict.count("deliveries"), 100 * 26, "{name}");
        assert!(verdict.json["server_cpu_us_per_delivery"].as_f64().unwrap() > 0.0, "{name}");
        assert_eq!(url.contains("127.0.0.2"), name.contains("--host"), "{name}: {url}");
    }
}

#[test]
fn a_comparison_keeps_every_row_and_its_page_needs_nothing_from_elsewhere() {
    let page = fake::scratch("page.html");
    let arguments = format!(
        "compare --contenders threads,bare,axum-sse --rounds 2 --connections 20,40 -r 50 -d 300ms --html {}",
        page.display()
    );
    let verdict = fake::judge(&arguments);
    let html = std::fs::read_to_string(&page).unwrap();
    std::fs::remove_file(&page).unwrap();
    assert_eq!(verdict.code, 0, "{}", verdict.complaint);
    let rows = verdict.json["rows"].as_array().unwrap();
    let told: Vec<_> = rows
        .iter()
        .map(|row| (row["name"].as_str().unwrap(), row["connections"].as_u64().unwrap()))
        .collect();
    let expected =
        [("threads", 20), ("bare", 20), ("axum-sse", 20), ("threads", 40), ("bare", 40), ("axum-sse", 40)];
    assert_eq!(told, expected);
    for row in rows {
        assert_eq!(row["rounds"].as_array().unwrap().len(), 2);
        let memory = &row["figures"]["server_user_bytes_per_connection"];
        let rounds =
            [0, 1].map(|round| row["rounds"][round]["server_user_bytes_per_connection"].as_f64().unwrap());
        assert_eq!(memory["lowest"].as_f64(), Some(rounds[0].min(rounds[1])));
        assert_eq!(memory["highest"].as_f64(), Some(rounds[0].max(rounds[1])));
        assert_eq!(memory["rounds"], 2);
        assert!(row["settings"].as_str().unwrap().len() > 10);
        assert!(row["version_of_program"].as_str().unwrap().starts_with("fanfare-load "));
        assert!(!row["objections"].as_array().unwrap().is_empty());
    }
    assert_eq!(html.matches("<svg").count(), 2 * 4 + 1, "four plots for each size, and one over the sizes");
    let told = ["Sse formats the event again for each stream", ", axum 0.8"];
    assert!(told.iter().all(|told| html.contains(told)), "versions and objections are on the page");
    let elsewhere = ["src=", "href=", "url(", "@import", "<script"];
    assert!(elsewhere.iter().all(|outside| !html.contains(outside)));
}

/// The file was written after the last run: what killed a comparison of hours took all its rows along.
#[test]
fn what_has_run_survives_whatever_ends_the_comparison() {
    let file = fake::scratch("comparison.json");
    let mut child = fake::command()
        .args("compare --contenders threads --rounds 5 --connections 20 -r 50 -d 300ms -q --json".split(' '))
        .arg(&file)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let rounds_written = || {
        let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).ok()?).ok()?;
        Some((json["rows"][0]["rounds"].as_array()?.len(), json["partial"].clone()))
    };
    let seen = loop {
        match rounds_written() {
            Some(seen) => break seen,
            None if child.try_wait().unwrap().is_some() => break rounds_written().unwrap(),
            None => std::thread::sleep(std::time::Duration::from_millis(5)),
        }
    };
    let _ = child.kill();
    child.wait().unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(seen.0 < 5 && seen.1 == true, "{seen:?}");
}

#[test]
fn who_cannot_take_part_is_named() {
    let verdict = fake::judge("compare --contenders fanfare-epoll");
    assert_eq!(verdict.code, 2);
    assert!(
        verdict.complaint.contains("--fanfare") && verdict.complaint.contains("no contender can take part"),
        "{}",
        verdict.complaint
    );
    let verdict = fake::judge("compare --contenders nginx");
    assert!(verdict.complaint.contains("nchan"), "the right names are listed: {}", verdict.complaint);
}

/// Only Fanfare's settings could be changed, so that a comparison was as good as our idea of the others'.
#[test]
fn every_contender_can_be_given_other_settings_and_the_report_holds_them() {
    let verdict = fake::judge(
        "compare --contenders bare,axum-sse,hyper --rounds 1 --connections 20 -r 50 -d 300ms \
         --set bare.arguments=--threads=2 --set axum-sse.environment.TOKIO_WORKER_THREADS=3 \
         --set hyper.arguments+=--queue=32",
    );
    assert_eq!(verdict.code, 0, "{}", verdict.complaint);
    let rows = verdict.json["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["bare", "axum-sse", "hyper"]);
    let full: Vec<&serde_json::Value> = rows.iter().map(|row| &row["settings_in_full"]).collect();
    assert_eq!(full[0]["arguments"], serde_json::json!(["--threads=2"]));
    assert_eq!(full[1]["environment"]["TOKIO_WORKER_THREADS"], "3");
    assert_eq!(full[1]["overridden"], serde_json::json!(["environment.TOKIO_WORKER_THREADS=3"]));
    assert_eq!(full[2]["arguments"].as_array().unwrap().last().unwrap(), "--queue=32");
    let version = rows[2]["version_of_program"].as_str().unwrap();
    assert!(version.starts_with("fanfare-load ") && version.contains("hyper 1."), "{version}");
}

/// `TOKIO_WORKER_THREADS` is read when the runtime starts: what is set has to be there by then.
#[test]
fn a_variable_that_is_set_reaches_a_built_in_baseline() {
    let threads = |name: &str, set: &str| {
        let mut child = fake::command();
        let mut child = child.args(["baseline", name, "--set", set]).stdout(Stdio::piped()).spawn().unwrap();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        // The line comes before the runtime, whose threads are looked for until they are there.
        let mut seen = 0;
        for _ in 0..6_000 {
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("Threads:")).unwrap();
            seen = line.trim().parse::<u32>().unwrap();
            if seen == 6 {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        seen
    };
    assert_eq!(threads("axum-sse", "environment.TOKIO_WORKER_THREADS=5"), 6, "five, and the first");
}

#[test]
fn a_setting_that_does_not_exist_is_named_with_the_right_ones() {
    let verdict = fake::judge("compare --contenders bare --set bear.arguments=x");
    assert_eq!(verdict.code, 2);
    assert!(
        verdict.complaint.contains("`bear`") && verdict.complaint.contains("bare"),
        "{}",
        verdict.complaint
    );
    let verdict = fake::judge("compare --contenders bare --set nchan.files.nginx=x");
    assert_eq!(verdict.code, 2);
    assert!(verdict.complaint.contains("files.nginx.conf"), "{}", verdict.complaint);
    let output = fake::command().args(["baseline", "mercure", "--set", "argument=x"]).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && told.contains("files.Caddyfile"), "{told}");
}

#[test]
fn the_settings_of_a_baseline_are_shown_whether_its_program_is_installed_or_not() {
    let arguments = ["baseline", "nchan", "--show", "--set", "environment.TZ=UTC"];
    let output = fake::command().args(arguments).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    for part in ["objections = [", "nchan_subscriber eventsource;", "=== overridden: environment.TZ=UTC"] {
        assert!(told.contains(part), "{told}");
    }
}

#[test]
fn the_help_names_every_contender() {
    let output = fake::command().args(["compare", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    let told = fake::judge("compare --contenders nobody").complaint;
    let (_, names) = told.split_once("there are ").unwrap();
    for name in names.trim().split(", ") {
        assert!(
            help.contains(&format!(" {name},")) || help.contains(&format!(" {name} [default")),
            "{name}: {help}"
        );
    }
}

#[test]
fn every_scenario_can_be_compared_in() {
    // `bare` has no queues: those of `threads` overflow in `saturate` if the machine keeps one of its threads
    // waiting.
    for (scenario, contender) in [
        ("idle", "threads"),
        ("saturate", "bare"),
        ("storm", "threads"),
        ("slow", "threads"),
        ("churn", "threads"),
    ] {
        let arguments = format!(
            "compare --scenario {scenario} --contenders {contender} --rounds 1 --connections 40 -r 50 -d 600ms"
        );
        let verdict = fake::judge(&arguments);
        assert_eq!(verdict.code, 0, "{scenario}: {}", verdict.complaint);
        assert_eq!(verdict.json["rows"][0]["rounds"][0]["scenario"], scenario);
        assert!(
            verdict.json["rows"][0]["figures"]["published"]["median"].as_f64().unwrap() > 0.0,
            "{scenario}"
        );
    }
}

/// Programs of their own listen where their settings say.
#[test]
fn a_host_is_for_baselines_that_are_built_in() {
    let output = fake::command().args(["baseline", "hyper", "--host", "127.0.0.2"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("--host: hyper is a program of its own"), "{said}");
}

/// A storm with resume can be compared, and a server that gives no ids does not pass for one that resumes.
#[test]
fn a_storm_with_resume_is_judged_as_one() {
    let of = |more: &str| format!("compare --contenders threads --rounds 1 --connections 40 -d 600ms {more}");
    let without = fake::judge(&of("--scenario storm -r 50"));
    assert_eq!(without.code, 0, "{}", without.complaint);
    let round = |verdict: &fake::Verdict| verdict.json["rows"][0]["rounds"][0].clone();
    assert!(round(&without)["missed_while_away"].as_u64().unwrap() > 0);

    let with = fake::judge(&of("--scenario storm -r 50 --resume --patience 500ms"));
    assert_eq!(with.code, 1, "{}", with.complaint);
    assert_eq!(round(&with)["settings"]["scenario"]["storm"]["no_resume"], false);
    assert!(round(&with)["lost"].as_u64().unwrap() > 0);
    assert!(with.complaint.contains("resume was not tested"), "{}", with.complaint);

    let elsewhere = fake::judge(&of("--resume"));
    assert_eq!(elsewhere.code, 2);
    assert!(elsewhere.complaint.contains("--resume is for --scenario storm"), "{}", elsewhere.complaint);
}

#[test]
fn who_has_one_channel_is_left_out_where_topics_matter() {
    for scenario in ["topics", "mixed"] {
        let verdict =
            fake::judge(&format!("compare --scenario {scenario} --contenders threads,bare,axum-sse"));
        assert_eq!(verdict.code, 2, "{scenario}");
        for name in ["threads", "bare", "axum-sse"] {
            let told = format!("{name} is left out of {scenario}: it has one channel for everybody");
            assert!(verdict.complaint.contains(&told), "{}", verdict.complaint);
        }
    }
}

/// A table of 100 descriptors is full after some 90 streams: `axum-sse` has one table, `threads` takes
/// another.
#[test]
fn a_server_is_filled_until_it_refuses_and_the_limit_is_named() {
    let filled = |arguments: &str| {
        let program = env!("CARGO_BIN_EXE_fanfare-load");
        let script = format!("ulimit -n 100 && exec {program} refusal {arguments}");
        Command::new("sh").args(["-c", &script]).output().unwrap()
    };
    let output = filled("axum-sse -n 500");
    let told = String::from_utf8(output.stdout).unwrap();
    let held: u64 = told.split_whitespace().nth(2).unwrap().parse().unwrap();
    assert!((50..100).contains(&held) && told.contains("refused the next"), "{told}");
    let reached: Vec<&str> = told.lines().filter(|line| line.ends_with("<- reached")).collect();
    assert!(reached.len() == 1 && reached[0].contains("RLIMIT_NOFILE"), "{told}");
    let told = String::from_utf8(filled("threads -n 300").stdout).unwrap();
    assert!(told.contains("held 300 streams and refused none"), "{told}");
    let output = filled("nobody");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && told.contains("durable-streams"), "{told}");
}

/// All rows were of the one server that was named, or the option was ignored.
#[test]
fn a_comparison_takes_no_server_from_elsewhere() {
    let run = "compare --contenders bare --rounds 1 -n 2 -d 200ms";
    for (option, value) in [
        ("--url", "http://127.0.0.1:9"),
        ("--subscribe-url", "http://127.0.0.1:9/events"),
        ("--publish-header", "X-Key:1"),
        ("--server-pid", "1"),
    ] {
        let verdict = fake::judge(&format!("{run} {option} {value}"));
        assert!(verdict.code == 2 && verdict.complaint.contains(option), "{option}: {}", verdict.complaint);
    }
}
