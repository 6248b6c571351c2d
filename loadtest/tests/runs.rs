//! Whole runs: every scenario against an honest server, Ctrl-C, and the real server where there is one.

mod fake;

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fake::{Behaviour, Fake};

fn honest() -> Fake {
    Fake::start(Behaviour { replays: true, ..Behaviour::default() })
}

#[test]
fn a_scenario_file_runs() {
    let file = fake::scratch("scenario.toml");
    let fake = honest();
    let text = format!(
        "scenario = \"fanout\"\nurl = \"http://{}\"\nserver = \"plain\"\nsubscribers = 5\nrate = 50\nduration = \"200ms\"\nburst = 5\n",
        fake.address
    );
    std::fs::write(&file, text).unwrap();
    let verdict = fake::judge(&format!("run {}", file.display()));
    std::fs::remove_file(&file).unwrap();
    assert_eq!((verdict.code, verdict.count("deliveries")), (0, 5 * 11), "{}", verdict.complaint);
}

/// Servers close a kept-alive connection that was idle for half a minute. With more than that between two
/// events, the next publish went into the closed connection, and the run ended with "did it die?".
#[test]
fn a_publishers_connection_that_was_closed_meanwhile_is_opened_again() {
    let fake = Fake::start(Behaviour { impatient: true, ..Behaviour::default() });
    let verdict = fake.judge("fanout -n 5 -r 10 -d 500ms");
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    assert_eq!(verdict.count("deliveries"), 5 * 6);
}

/// The thread that conducts the run, and looks at it every millisecond, ran on any core: on the server's,
/// too.
#[test]
fn the_conductor_keeps_to_the_clients_cores() {
    let fake = honest();
    let allowed = |process: u32| {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        Some(line.trim().to_owned())
    };
    let all = allowed(std::process::id()).unwrap();
    let first = all.split(['-', ',']).next().unwrap();
    let mut child = fake::command()
        .args("fanout -n 5 -r 20 -d 1s -q --server plain --client-cores".split(' '))
        .args([first, "--url", &format!("http://{}", fake.address)])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut seen = false;
    while child.try_wait().unwrap().is_none() {
        seen |= allowed(child.id()).is_some_and(|cores| cores == first);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(seen && child.wait().unwrap().success());
}

/// A report named neither the program nor the day, and it held the publisher's token.
#[test]
fn a_report_says_what_ran_where_and_when_and_holds_no_secret() {
    let verdict = honest().judge(
        "fanout -n 5 -r 20 -d 200ms --publish-header Authorization:Bearer-hush --subscribe-header=Cookie:hush",
    );
    assert_eq!(verdict.code, 0, "{}", verdict.complaint);
    let provenance = &verdict.json["provenance"];
    let command = provenance["command"].as_str().unwrap();
    let told =
        "fanout -n 5 -r 20 -d 200ms --publish-header 'Authorization: ***' '--subscribe-header=Cookie: ***'";
    assert!(command.contains(told), "{command}");
    assert!(!verdict.json.to_string().contains("hush"), "{}", verdict.json);
    assert!(provenance["commit"].as_str().unwrap().len() >= 7);
    assert!(provenance["started"].as_str().unwrap() <= provenance["ended"].as_str().unwrap());
    assert!(provenance["settings"]["net.core.somaxconn"].is_string());
    let file = std::fs::read_to_string("/proc/loadavg").unwrap();
    assert!(provenance["before"]["load_average"].as_array().unwrap().len() == 3, "{file}");
}

#[test]
fn a_storm_with_resume_loses_nothing() {
    let verdict = honest().judge("storm -n 50 -r 50 -d 900ms");
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    assert_eq!(verdict.json["opening"]["streams"], 100);
    assert!(verdict.json["storm_all_back_ms"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_storm_without_resume_misses_and_says_how_much() {
    let verdict = honest().judge("storm --no-resume -n 50 -r 50 -d 900ms");
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    assert_eq!(verdict.count("deliveries") + verdict.count("missed_while_away"), 50 * 46);
    assert!(verdict.count("missed_while_away") >= 50 * 5 && verdict.count("published_while_away") == 5);
}

#[test]
fn the_other_scenarios_run() {
    for (arguments, deliveries) in [
        ("idle -n 20 -d 300ms --events 3", Some(20 * 4)),
        ("saturate -n 5 -d 300ms --window 10", None),
        ("churn -n 20 -r 50 -d 500ms --per-second 40", None),
        ("topics -n 7 -r 100 -d 200ms --publishers 2", Some(7 + 20)),
        ("mixed -n 20 --small 5 -r 20 --small-rate 50 -d 400ms", Some(15 * 9 + 5 * 21)),
        ("slow -n 20 --share 0.25 -r 50 -d 400ms", Some(20 * 21)),
    ] {
        let verdict = honest().judge(&format!("{arguments} --server-pid {}", std::process::id()));
        assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{arguments}: {}", verdict.complaint);
        if let Some(deliveries) = deliveries {
            assert_eq!(verdict.count("deliveries"), deliveries, "{arguments}");
        }
        assert!(verdict.json["server_user_bytes_per_connection"].is_number(), "{arguments}");
        // In `idle` these are of the events at its end alone.
        assert!(verdict.json["server_cpu_us_per_delivery"].is_number(), "{arguments}");
        assert!(verdict.json["client"]["cpu_us_per_delivery"].is_number(), "{arguments}");
        assert_eq!(
            verdict.json["server_idle_cpu_share"].is_number(),
            arguments.starts_with("idle"),
            "{arguments}"
        );
    }
}

#[test]
fn without_a_pid_memory_is_left_out_and_that_is_said() {
    let verdict = honest().judge("fanout -n 3 -r 20 -d 200ms");
    assert!(verdict.json["server_user_bytes_per_connection"].is_null());
    assert!(verdict.json["notes"].to_string().contains("--server-pid"));
}

/// Another user's process shows its CPU to everybody, its memory to root only. The figures were just missing.
#[test]
fn memory_that_may_not_be_read_is_left_out_and_that_is_said() {
    let fake = honest();
    // As root it is this test that is not shown to nobody, who must be able to reach the program.
    let root = std::fs::read("/proc/1/smaps_rollup").is_ok();
    let program = std::env::temp_dir().join(format!("fanfare-load-{}", std::process::id()));
    // By another process: a program that is open for writing here, or in what another test starts, cannot be
    // run.
    let install = ["-m", "755", env!("CARGO_BIN_EXE_fanfare-load")];
    assert!(Command::new("install").args(install).arg(&program).status().unwrap().success());
    let mut command = Command::new(&program);
    let pid = if root {
        command.uid(65_534).gid(65_534);
        std::process::id()
    } else {
        1
    };
    let output = command
        .args("fanout -n 3 -r 20 -d 200ms -q --server plain --server-pid".split(' '))
        .arg(pid.to_string())
        .arg("--url")
        .arg(format!("http://{}", fake.address))
        .output();
    std::fs::remove_file(&program).unwrap();
    let output = output.unwrap();
    let (told, complaint) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{complaint}");
    assert!(
        told.contains(&format!("note: the server's memory is left out, it may not be read: /proc/{pid}/")),
        "{told}"
    );
    assert!(!told.contains("server memory per stream"), "{told}");
}

/// A hundred events a second to ten streams, begun.
fn a_minute_of(fake: &Fake, report: &Path) -> Child {
    fake::command()
        .args(["fanout", "-n", "10", "-r", "100", "-d", "60s", "-q", "--server", "plain", "--url"])
        .arg(format!("http://{}", fake.address))
        .arg("--json")
        .arg(report)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("the judge starts")
}

#[test]
fn ctrl_c_leaves_a_partial_report() {
    let (fake, file) = (honest(), fake::scratch("report.json"));
    let child = a_minute_of(&fake, &file);
    // Not after a fixed time: on a busy machine the first event was not out by then.
    while fake.published() < 30 {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let verdict = fake::verdict(&child.wait_with_output().unwrap(), &file);
    assert_eq!((verdict.code, &verdict.json["partial"]), (130, &true.into()), "{}", verdict.complaint);
    assert!(verdict.count("deliveries") > 100 && verdict.complaint.contains("partial"));
}

/// The publisher waited up to a minute for the server's answer, and the run for the publisher.
#[test]
fn ctrl_c_does_not_wait_for_a_server_that_stalls() {
    let (stalls, goes_on) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (told, over) = (stalls.clone(), goes_on.clone());
    let delay = move |event: usize| {
        if event == 3 {
            told.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_secs(30));
            over.store(true, Ordering::SeqCst);
        }
        Duration::ZERO
    };
    let (fake, file) = (
        Fake::start(Behaviour { delay: Box::new(delay), ..Behaviour::default() }),
        fake::scratch("report.json"),
    );
    let child = a_minute_of(&fake, &file);
    while !stalls.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let verdict = fake::verdict(&child.wait_with_output().unwrap(), &file);
    assert!(!goes_on.load(Ordering::SeqCst), "the run waited for the server");
    assert_eq!((verdict.code, &verdict.json["partial"]), (130, &true.into()), "{}", verdict.complaint);
    assert_eq!(verdict.complaint.trim_end().lines().count(), 1, "{}", verdict.complaint);
}

#[test]
fn the_scenario_files_that_are_shipped_are_understood() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 10);
    for file in files {
        // Nothing listens on port 9, so a file that was understood fails with that.
        let verdict = fake::judge(&format!("run {} --url http://127.0.0.1:9", file.display()));
        assert!(verdict.complaint.contains("nothing listens"), "{}: {}", file.display(), verdict.complaint);
    }
}

/// Needs the server's binary: `FANFARE_BIN=target/release/fanfare`.
#[test]
fn the_real_server_passes() {
    let Ok(binary) = std::env::var("FANFARE_BIN") else {
        eprintln!("skipped: FANFARE_BIN is not set");
        return;
    };
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut server = Command::new(binary)
        .args(["serve", "--listen", &address.to_string()])
        // The server has no option of this name.
        .env_remove("FANFARE_BIN")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let run = |scenario: &str| {
        let pid = server.id();
        fake::judge(&format!("{scenario} -n 500 -r 50 -d 1s --url http://{address} --server-pid {pid}"))
    };
    let verdicts = ["fanout", "storm", "slow", "churn", "topics", "mixed"].map(run);
    server.kill().unwrap();
    server.wait().unwrap();
    for verdict in verdicts {
        assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    }
}
