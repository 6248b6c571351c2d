//! The search for what a server holds.

#![allow(clippy::unwrap_used, reason = "what cannot be read is a failed test")]

mod fake;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use fake::{Behaviour, Fake};

/// What a search wrote, and what it said.
fn search(fake: &Fake, arguments: &str) -> fake::Verdict {
    fake.judge(&format!("find --pause 100ms {arguments}"))
}

fn values(verdict: &fake::Verdict) -> Vec<(f64, bool)> {
    let steps = verdict.json["steps"].as_array().expect("there are steps");
    steps.iter().map(|step| (step["value"].as_f64().expect("a number"), step["held"] == true)).collect()
}

#[test]
fn the_number_of_streams_that_a_server_admits_is_found() {
    let fake = Fake::start(Behaviour { most_streams: 12, ..Behaviour::default() });
    let verdict = search(&fake, "-n 4 --precision 5 -r 20 -d 200ms --patience 300ms --retry 100ms");
    assert_eq!(verdict.code, 0, "{}", verdict.complaint);
    let tried = [(4.0, true), (8.0, true), (16.0, false), (12.0, true), (14.0, false), (13.0, false)];
    assert_eq!(values(&verdict), tried);
    let found = &verdict.json;
    assert_eq!((&found["held"], &found["did_not_hold"]), (&12.0.into(), &13.0.into()));
    let told = found["failed"].to_string();
    assert!(told.contains("1 of 13 streams were not open at the end"), "{told}");
    // Errors of opening are counted, and do not end the search.
    assert!(found["steps"][5]["report"]["errors"]["status 503"].as_u64() >= Some(1), "{found}");
}

#[test]
fn the_rate_that_a_server_keeps_up_with_is_found() {
    // It takes 20 ms for an event.
    let delay = |_| Duration::from_millis(20);
    let fake = Fake::start(Behaviour { delay: Box::new(delay), ..Behaviour::default() });
    let verdict = search(&fake, "--find rate --first 20 --precision 50 -n 3 -d 3s --most 200");
    assert_eq!(verdict.code, 0, "{}", verdict.complaint);
    let (held, failed) =
        (verdict.json["held"].as_f64().unwrap_or(0.0), verdict.json["did_not_hold"].as_f64().unwrap_or(0.0));
    // On a busy machine it keeps up with less.
    assert!(held > 0.0 && held < 50.0 && failed > held, "{}", verdict.json);
    assert!(verdict.json["failed"].to_string().contains("fell behind"), "{}", verdict.json["failed"]);
}

#[test]
fn a_threshold_ends_the_search_and_bounds_do() {
    let fake = Fake::start(Behaviour::default());
    let run = "-r 20 -d 200ms --first 2";
    let verdict = search(&fake, &format!("{run} --fail-if deliveries>30 --precision 40"));
    assert_eq!(values(&verdict), [(2.0, true), (4.0, true), (8.0, false), (6.0, true)]);
    assert_eq!(verdict.json["at_least"], false);
    let told = verdict.json["failed"].to_string();
    assert!(told.contains("the threshold `deliveries>30` failed: 40"), "{told}");

    let verdict = search(&fake, &format!("{run} --most 5"));
    assert_eq!(values(&verdict), [(2.0, true), (4.0, true), (5.0, true)]);
    assert_eq!((&verdict.json["at_least"], &verdict.json["held"]), (&true.into(), &5.0.into()));

    let verdict = search(&fake, &format!("{run} --max-steps 2"));
    assert_eq!(values(&verdict), [(2.0, true), (4.0, true)]);
    assert!(verdict.json["ended"].to_string().contains("--max-steps"), "{}", verdict.json["ended"]);

    let verdict = search(&fake, &format!("{run} --fail-if deliveries>1 --max-steps 5"));
    assert_eq!((verdict.code, values(&verdict)), (1, vec![(2.0, false), (1.0, false)]));
}

#[test]
fn a_server_that_is_not_there_is_no_step() {
    let verdict = fake::judge("find -n 5 -d 200ms --server plain --url http://127.0.0.1:9");
    assert_eq!((verdict.code, verdict.json.is_null()), (2, true), "{}", verdict.complaint);
}

/// The result was written at the end only, and a step whose server had gone was a limit of the client's
/// machine: the answer was that the server holds at least as much as before it died.
#[test]
fn a_server_that_is_gone_ends_the_search_and_what_was_found_is_written() {
    let fake = Fake::start(Behaviour::default());
    let mut server = Command::new("sleep").arg("600").spawn().unwrap();
    let file = fake::scratch("found.json");
    let arguments = format!(
        "find -n 2 -r 20 -d 200ms --most 100 --server plain --url http://{} --server-pid {}",
        fake.address,
        server.id()
    );
    let mut command = fake::command();
    command.args(arguments.split_whitespace()).arg("--json").arg(&file).stderr(Stdio::piped());
    let mut search = command.stdout(Stdio::null()).spawn().unwrap();
    let mut said = BufReader::new(search.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line.starts_with("step 1: 2 streams: held")));
    server.kill().unwrap();
    server.wait().unwrap();
    // It is written right after the line.
    let so_far = loop {
        match std::fs::read_to_string(&file).map(|text| serde_json::from_str::<serde_json::Value>(&text)) {
            Ok(Ok(found)) => break found,
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    assert_eq!((&so_far["partial"], &so_far["held"]), (&true.into(), &2.0.into()), "{so_far}");

    let told: Vec<String> = said.collect();
    let code = search.wait().unwrap().code();
    let found: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(
        (code, &found["held"], &found["did_not_hold"]),
        (Some(0), &2.0.into(), &4.0.into()),
        "{told:?}"
    );
    assert_eq!((&found["at_least"], &found["limits"]), (&false.into(), &serde_json::json!([])), "{found}");
    assert_eq!((&found["partial"], found["steps"].as_array().unwrap().len()), (&false.into(), 2), "{found}");
    assert!(found["ended"].to_string().contains("is the server still running?"), "{found}");
    assert!(found["failed"].to_string().contains("there is no process"), "{found}");
}
