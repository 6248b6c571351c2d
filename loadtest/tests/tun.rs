//! Whole runs over TUN devices, in a network namespace that is made for them.
//!
//! Making one needs root, `unshare`, `ip` and `/dev/net/tun`. Where that is refused the test says so and
//! counts as passed, unless `FANFARE_TUN_TESTS=require` is set, which makes a refusal a failure.

mod fake;

use std::io::Write;
use std::process::Command;

use fake::{Behaviour, Fake, Framing, Send};

/// The namespace's own address: packets of a device do not reach 127.0.0.1.
const HOST: &str = "10.63.0.1";

fn run(program: &str, arguments: &str) -> Result<(), String> {
    let output = Command::new(program).args(arguments.split(' ')).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            Err(format!("{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim()))
        }
        Err(error) => Err(format!("{program}: {error}")),
    }
}

/// Runs the tests below, which are ignored otherwise, in a namespace.
#[test]
fn all_in_a_network_namespace() {
    let possible = run("unshare", "--net ip tuntap add try0 mode tun");
    if let Err(refusal) = possible {
        let required = std::env::var_os("FANFARE_TUN_TESTS").is_some_and(|value| value == "require");
        assert!(!required, "no network namespace with a TUN device can be made: {refusal}");
        // Past the capture of output: a test that did not run must not look like one that did.
        let line =
            format!("SKIPPED, not tested: no network namespace with a TUN device can be made: {refusal}\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
        return;
    }
    let setup = format!(
        "ip link set lo up && ip address add {HOST}/32 dev lo && exec \"$0\" --ignored --test-threads 1"
    );
    let output = Command::new("unshare")
        .args(["--net", "sh", "-c", &setup])
        .arg(std::env::current_exe().unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("4 passed"), "{said}");
}

fn start(behaviour: Behaviour) -> Fake {
    Fake::start_at(HOST, behaviour)
}

#[test]
#[ignore = "needs a network namespace, which another test makes for it"]
fn every_scenario_runs_with_each_number_of_threads() {
    for (scenario, deliveries) in [
        ("fanout -n 20 -r 50 -d 300ms", Some(20 * 16)),
        ("idle -n 20 -d 300ms --events 3", Some(20 * 4)),
        ("saturate -n 5 -d 300ms --window 10", None),
        ("storm -n 50 -r 50 -d 900ms", Some(50 * 46)),
        ("storm --no-resume -n 50 -r 50 -d 900ms", None),
        ("churn -n 20 -r 50 -d 500ms --per-second 40", None),
        ("slow -n 20 --share 0.25 -r 50 -d 400ms", Some(20 * 21)),
        ("topics -n 7 -r 100 -d 200ms --publishers 2", Some(7 + 20)),
    ] {
        for threads in [1, 3] {
            let server = start(Behaviour { replays: true, ..Behaviour::default() });
            let verdict = server.judge(&format!("{scenario} --tun test --threads {threads}"));
            assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{scenario}: {}", verdict.complaint);
            if let Some(deliveries) = deliveries {
                assert_eq!(verdict.count("deliveries"), deliveries, "{scenario}");
            }
        }
    }
}

/// The judge is the same over any transport, so each fault is counted as over sockets.
#[test]
#[ignore = "needs a network namespace, which another test makes for it"]
fn faults_are_counted() {
    let mischief = |subscriber: usize, event: usize| match (subscriber, event) {
        (0, 3) => vec![],
        (1, 4) => vec![Send::Event(4), Send::Event(4)],
        (_, event) => vec![Send::Event(event)],
    };
    let behaviour =
        Behaviour { mischief: Box::new(mischief), framing: Framing::Close, drip: 7, ..Behaviour::default() };
    let verdict = start(behaviour).judge("fanout -n 5 -r 50 -d 200ms --patience 300ms --tun test");
    assert_eq!((verdict.code, verdict.faults()), (1, [1, 1, 0, 0]), "{}", verdict.complaint);
}

#[test]
#[ignore = "needs a network namespace, which another test makes for it"]
fn streams_that_the_server_ends_come_back() {
    let hang_up = |_: usize, event: usize| match event {
        20 => vec![Send::Hangup],
        event => vec![Send::Event(event)],
    };
    let behaviour = Behaviour { mischief: Box::new(hang_up), replays: true, ..Behaviour::default() };
    let verdict = start(behaviour).judge("fanout -n 10 -r 100 -d 500ms --tun test");
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    assert_eq!(["streams_ended", "streams_cut", "streams_reopened"].map(|key| verdict.count(key)), [10; 3]);
}

#[test]
#[ignore = "needs a network namespace, which another test makes for it"]
fn what_cannot_be_is_said() {
    let nobody = format!("fanout -n 5 --server plain --url http://{HOST}:9 --tun test");
    for (arguments, text) in [
        (nobody.as_str(), "connection refused"),
        ("fanout -n 5 --server plain --url http://127.0.0.1:9 --tun test", "on loopback"),
        ("fanout -n 5 --server plain --url http://127.0.0.1:9 --tun a/b", "no name for a device"),
    ] {
        let verdict = fake::judge(arguments);
        assert!(verdict.code != 0 && verdict.complaint.contains(text), "{arguments}: {}", verdict.complaint);
    }
}
