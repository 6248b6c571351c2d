//! What bad input gets: a clear line and an exit code that is not 0.

mod fake;

use std::net::TcpListener;

use fake::{Behaviour, Fake, judge};

/// Runs against a server that answers a subscription with a text, and expects a complaint.
fn complains(answer: &'static str, lingers: bool, expected: &[&str]) {
    let fake = Fake::start(Behaviour { answer: Some(answer), lingers, ..Behaviour::default() });
    let verdict = fake.judge("fanout -n 3 -d 1s --head-timeout 400ms");
    assert_eq!(verdict.code, 1, "{verdict:?}");
    for expected in expected {
        assert!(verdict.complaint.contains(expected), "`{expected}` is not in `{}`", verdict.complaint);
    }
    assert_eq!(verdict.complaint.trim_end().lines().count(), 1, "one line: {}", verdict.complaint);
    assert_eq!(verdict.json["valid"], false);
}

#[test]
fn another_status_is_named_with_what_it_says() {
    complains("HTTP/1.1 404 Not Found\r\nContent-Length: 7\r\n\r\nno such", false, &["404", "no such"]);
    complains("HTTP/1.1 503 Full\r\n\r\n", false, &["503"]);
    complains("HTTP/1.1 302 Found\r\nLocation: http://there/\r\n\r\n", false, &["redirect", "http://there/"]);
}

#[test]
fn a_page_is_no_stream() {
    complains(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>",
        false,
        &["text/html", "text/event-stream", "<html>"],
    );
    complains("HTTP/1.1 200 OK\r\n\r\n", false, &["no content type"]);
}

#[test]
fn compression_is_refused() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\n";
    complains(answer, true, &["gzip", "--gzip"]);
}

#[test]
fn garbage_is_shown() {
    complains("SSH-2.0-OpenSSH_9\r\n", true, &["not HTTP", "SSH-2.0-OpenSSH"]);
    let chunks =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n";
    complains(chunks, true, &["chunked body is broken", "zzz"]);
}

#[test]
fn a_stall_in_the_head_is_told_from_silence() {
    complains("HTTP/1.1 200 OK\r\nContent-Ty", true, &["stalls", "Content-Ty", "0.4 s"]);
    complains("", true, &["no answer within 0.4 s"]);
}

#[test]
fn a_connection_that_is_closed_at_once_is_told_from_a_stream_that_is() {
    complains("", false, &["before any answer"]);
    complains("HTTP/1.1 200 OK\r\nContent-T", false, &["in the middle of the response head"]);
    let stream = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n:hello\n";
    complains(stream, false, &["ended a stream", "before anything was published"]);
}

#[test]
fn a_server_that_is_down_is_named() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let verdict = judge(&format!("fanout -n 3 --url http://{address}"));
    assert_eq!(verdict.code, 1);
    assert!(
        verdict.complaint.contains("refused") && verdict.complaint.contains("running"),
        "{}",
        verdict.complaint
    );
}

#[test]
fn a_server_that_dies_half_way_ends_the_run() {
    let fake = Fake::start(Behaviour { dies_at: 20, ..Behaviour::default() });
    let verdict = fake.judge("fanout -n 20 -r 100 -d 2s");
    assert_eq!(verdict.code, 1);
    let told = &verdict.complaint;
    assert!(told.contains("died"), "{told}");
    assert_eq!(verdict.count("deliveries"), 400, "what came before counts");
}

#[test]
fn a_publish_that_is_refused_ends_the_run() {
    let fake = Fake::start(Behaviour { publish_status: "403 Forbidden", ..Behaviour::default() });
    let verdict = fake.judge("fanout -n 3 -d 1s");
    assert_eq!(verdict.code, 1);
    assert!(verdict.complaint.contains("403: reason"), "{}", verdict.complaint);
}

#[test]
fn a_publish_that_reaches_nobody_is_explained() {
    let fake = Fake::start(Behaviour { mischief: Box::new(|_, _| vec![]), ..Behaviour::default() });
    let verdict = fake.judge("fanout -n 3 -d 1s --patience 300ms");
    assert_eq!(verdict.code, 1);
    assert!(verdict.complaint.contains("no subscriber got it"), "{}", verdict.complaint);
}

#[test]
fn what_cannot_work_is_said_before_it_starts() {
    for (arguments, expected) in [
        ("fanout -n 9000000 --threads 1", "ulimit -n"),
        ("fanout --url https://127.0.0.1/ --ca /nowhere", "--ca /nowhere"),
        ("fanout --url nowhere", "http://host:port/path"),
        ("fanout --size 5", "84 bytes"),
        ("fanout --rate 0", "--rate"),
        ("fanout --server-pid 4194305", "--server-pid"),
        ("fanout --sources 10.0.0.9-10.0.0.1", "--sources"),
        ("fanout --steered", "--server-cores"),
        ("fanout --steered --server-pid 4194305 --server-cores 0 --client-cores 0", "must differ"),
        ("fanout --steered --server-pid 4194305 --server-cores 0,1 --client-cores 2,1", "must differ"),
        ("compare --contenders threads --steered --server-cores 0 --client-cores 0", "must differ"),
        (
            "fanout --steered --server-pid 4194305 --server-cores 0 --client-cores 1 --url http://192.0.2.1:9",
            "192.0.2.1:9 is not on it",
        ),
        ("slow --share 1.5", "--share"),
        ("slow -n 10 --share 0.04", "is nobody"),
        ("slow -n 10 --share 0.96", "is everybody"),
        ("churn --per-second 0", "--per-second 0"),
        ("churn --per-second=-5", "--per-second -5"),
        ("churn --per-second inf", "--per-second inf"),
        ("mixed --small 1000", "--small"),
        ("mixed --small-rate inf", "--small-rate"),
        ("fanout --publish-header nonsense", "Name: value"),
    ] {
        let verdict = judge(arguments);
        assert_eq!(verdict.code, 2, "{arguments}: {}", verdict.complaint);
        assert!(verdict.complaint.contains(expected), "{arguments}: {}", verdict.complaint);
    }
}

/// Only one was named; a user who raised it was shown the next.
#[test]
fn each_limit_that_is_too_low_is_named() {
    let verdict = judge("fanout -n 9000000 --threads 1 --sources 127.0.0.2");
    assert_eq!(verdict.code, 2);
    for expected in ["ulimit -n", "ip_local_port_range="] {
        let named = |line: &str| line.starts_with("fanfare-load: ") && line.contains(expected);
        assert!(verdict.complaint.lines().any(named), "{expected}: {}", verdict.complaint);
    }
}

/// What only may spoil a run was told after it, when it was too late to raise it. The limit is that of a
/// network namespace, which anybody may make where the machine allows it.
#[test]
fn a_limit_that_may_spoil_the_run_is_named_before_it() {
    let inside = |script: String| {
        std::process::Command::new("unshare").args(["-rn", "sh", "-c", &script]).output().unwrap()
    };
    let low = "echo 100 > /proc/sys/net/core/somaxconn";
    if !inside(low.to_owned()).status.success() {
        eprintln!("skipped: no network namespace may be made here");
        return;
    }
    let program = env!("CARGO_BIN_EXE_fanfare-load");
    let output = inside(format!("{low} && exec {program} fanout -q -n 3 --url http://127.0.0.1:9"));
    let told = String::from_utf8_lossy(&output.stderr);
    let first = told.lines().next().unwrap();
    assert!(first.contains("somaxconn is 100") && first.contains("sysctl -w"), "{told}");
    assert!(told.lines().count() > 1 && output.status.code() == Some(1), "{told}");
}

/// No subscribers were a panic, from a file and from `compare`.
#[test]
fn a_run_without_subscribers_is_refused() {
    let file = fake::scratch("scenario.toml");
    std::fs::write(&file, "scenario = \"fanout\"\nsubscribers = 0\n").unwrap();
    let verdict = judge(&format!("run {}", file.display()));
    std::fs::remove_file(&file).unwrap();
    assert_eq!(verdict.code, 2, "{}", verdict.complaint);
    assert!(verdict.complaint.contains("--subscribers 0: from 1"), "{}", verdict.complaint);
    let verdict = judge("compare --contenders threads --connections 20,0 --rounds 1 -d 300ms");
    assert_eq!(verdict.code, 2, "{}", verdict.complaint);
    assert!(verdict.complaint.contains("--subscribers 0: from 1"), "{}", verdict.complaint);
}

#[test]
fn a_wrong_key_in_a_scenario_file_is_named_with_the_right_ones() {
    let file = fake::scratch("scenario.toml");
    std::fs::write(&file, "scenario = \"fanout\"\nsubscribrs = 10\n").unwrap();
    let output = fake::command().arg("run").arg(&file).output().unwrap();
    std::fs::remove_file(&file).unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(told.contains("`subscribrs`") && told.contains("`subscribers`"), "{told}");
}

/// The range was that of the command line alone: a file could ask for a thread for each topic.
#[test]
fn ranges_hold_in_a_scenario_file_too() {
    let file = fake::scratch("scenario.toml");
    std::fs::write(&file, "scenario = \"topics\"\npublishers = 100000\nurl = \"http://127.0.0.1:9\"\n")
        .unwrap();
    let output = fake::command().arg("run").arg(&file).output().unwrap();
    std::fs::remove_file(&file).unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && told.contains("--publishers 100000"), "{told}");
}
