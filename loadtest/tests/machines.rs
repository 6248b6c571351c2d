//! Several load machines: agents, a controller, and a watch on the server's machine, as processes of this
//! one.

#![allow(clippy::unwrap_used, reason = "a machine that cannot be started is a failed test")]

mod fake;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fake::{Behaviour, Fake, Send, Verdict};

const TOKEN: &str = "a token of the tests";

/// A process that listens for controllers. It ends with the test.
struct Machine {
    child: Child,
    address: SocketAddr,
}

impl Machine {
    fn start(mut command: Command) -> Machine {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit_once(' ').map(|(_, address)| address.parse());
        let Some(Ok(address)) = address else { panic!("it said `{line}`") };
        Machine { child, address }
    }

    fn agent(options: &[&str]) -> Machine {
        let mut command = fake::command();
        command.args(["agent", "--listen", "127.0.0.1:0", "--token", TOKEN]).args(options);
        Machine::start(command)
    }

    fn watch(pid: u32) -> Machine {
        let mut command = fake::command();
        command.args(["watch", &pid.to_string(), "--listen", "127.0.0.1:0", "--token", TOKEN]);
        Machine::start(command)
    }

    fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// User memory, in bytes.
    fn memory(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Ends it and returns what it wrote on standard error.
    fn end(mut self) -> String {
        let _ = self.child.kill();
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn names(agents: &[&Machine]) -> String {
    agents.iter().map(|agent| agent.address.to_string()).collect::<Vec<_>>().join(",")
}

/// A run with its subscribers on these agents. `arguments` start with the scenario.
fn controlled(fake: &Fake, agents: &[&Machine], arguments: &str) -> Verdict {
    run(arguments, &names(agents), TOKEN, &format!("--server plain --url http://{}", fake.address))
}

fn run(arguments: &str, agents: &str, token: &str, more: &str) -> Verdict {
    let file = fake::scratch("report.json");
    let output = fake::command()
        .args(arguments.split_whitespace())
        .args(more.split_whitespace())
        .args(["-q", "--agents", agents, "--token", token, "--json"])
        .arg(&file)
        .output()
        .unwrap();
    fake::verdict(&output, &file)
}

fn honest() -> Fake {
    Fake::start(Behaviour { replays: true, ..Behaviour::default() })
}

fn mischievous(mischief: impl Fn(usize, usize) -> Vec<Send> + Sync + std::marker::Send + 'static) -> Fake {
    Fake::start(Behaviour { mischief: Box::new(mischief), ..Behaviour::default() })
}

/// 20 subscribers, 50 events in half a second, and the one before them.
const RUN: &str = "fanout -n 20 -r 100 -d 500ms --patience 400ms";
const EVENTS: u64 = 51;

#[test]
fn three_agents_are_judged_as_one_machine() {
    let agents = [&Machine::agent(&[]), &Machine::agent(&[]), &Machine::agent(&[])];
    let fake = honest();
    let verdict = controlled(&fake, &agents, RUN);
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    assert_eq!((verdict.count("published"), verdict.count("deliveries")), (EVENTS, 20 * EVENTS));
    assert_eq!(verdict.json["latency_us"]["count"], 20 * (EVENTS - 1));
    assert_eq!(verdict.json["opening"]["streams"], 20);
    assert_eq!(verdict.count("incomplete_events"), 0);
    assert_eq!(verdict.json["last_subscriber_ms_percentiles"]["count"], EVENTS - 1);
    assert_eq!(verdict.json["ids"]["with"], 20 * EVENTS);
    let in_seconds = verdict.json["seconds"].as_array().unwrap().iter();
    let in_seconds: u64 = in_seconds.map(|second| second["deliveries"].as_u64().unwrap()).sum();
    assert_eq!(in_seconds, 20 * (EVENTS - 1));
    assert!(verdict.json["client"]["user_bytes_per_connection"].is_number());

    let told = verdict.json["agents"].as_array().unwrap();
    assert_eq!(told.len(), 3);
    let subscribers: u64 = told.iter().map(|agent| agent["subscribers"].as_u64().unwrap()).sum();
    assert_eq!(subscribers, 20);
    let threads: u64 = told.iter().map(|agent| agent["threads"].as_u64().unwrap()).sum();
    assert_eq!(verdict.json["client"]["threads"].as_array().unwrap().len() as u64, threads);
    for agent in told {
        // One machine has one clock, whatever is measured.
        let clock = &agent["clock"];
        let offset = clock["offset_before_ns"].as_i64().unwrap().unsigned_abs();
        assert!(offset <= clock["uncertainty_before_ns"].as_u64().unwrap(), "{agent}");
        assert!(clock["latencies_right_within_us"].as_f64().unwrap() > 0.0);
    }
    assert!(verdict.json["notes"].to_string().contains("right within ±"));
    assert!(!verdict.json.to_string().contains(TOKEN));
    // Each subscriber was there once: the numbers of all agents together are those of one machine.
    assert_eq!(fake.subscriptions().len(), 20);
}

#[test]
fn every_fault_is_counted_as_with_one_machine() {
    let agents = [&Machine::agent(&[]), &Machine::agent(&[]), &Machine::agent(&[])];
    let fake = mischievous(|subscriber, event| match (subscriber % 5, event) {
        (0, 12) => vec![],
        (1, 13) => vec![Send::Event(13), Send::Event(13)],
        (2, 14) => vec![],
        (2, 15) => vec![Send::Event(15), Send::Event(14)],
        (3, 16) => vec![Send::Cut(16, 100)],
        (4, 50) => vec![],
        _ => vec![Send::Event(event)],
    });
    let verdict = controlled(&fake, &agents, &format!("{RUN} --threads 2"));
    assert_eq!((verdict.code, verdict.faults()), (1, [12, 4, 4, 4]), "{}", verdict.complaint);
    assert_eq!(verdict.count("incomplete_events"), 3);

    let fake = Fake::start(Behaviour { misroutes: true, ..Behaviour::default() });
    let verdict = controlled(&fake, &agents, "topics -n 7 -r 100 -d 200ms");
    assert_eq!((verdict.code, verdict.count("deliveries"), verdict.count("misrouted")), (1, 27, 27 * 6));
    assert_eq!(verdict.faults(), [0; 4]);

    // Ids that differ between subscribers of two agents, and one that is there twice.
    let fake = Fake::start(Behaviour {
        mischief: Box::new(|subscriber, event| {
            let ids = ["1", "2", "3", "4", "5", "5", "7", "8", "9", "10", "11"];
            let id = if (subscriber, event) == (2, 7) { "77" } else { ids[event] };
            vec![Send::Named(event, id, "")]
        }),
        ..Behaviour::default()
    });
    let verdict = controlled(&fake, &agents, "fanout -n 3 --threads 1 -r 50 -d 200ms");
    assert_eq!(verdict.json["ids"]["repeated"], 1, "{}", verdict.json["ids"]);
    assert!(verdict.json["ids"]["differing"].as_u64().unwrap() >= 1, "{}", verdict.json["ids"]);
}

#[test]
fn every_scenario_runs_with_agents_and_they_serve_one_run_after_the_other() {
    let agents = [&Machine::agent(&[]), &Machine::agent(&[]), &Machine::agent(&[])];
    for (arguments, deliveries) in [
        ("idle -n 20 -d 300ms --events 3", Some(20 * 4)),
        ("saturate -n 6 -d 300ms --window 10", None),
        ("storm -n 50 -r 50 -d 900ms", Some(50 * 46)),
        ("churn -n 20 -r 50 -d 500ms --per-second 40", None),
        ("topics -n 7 -r 100 -d 200ms --publishers 2", Some(7 + 20)),
        ("mixed -n 20 --small 5 -r 20 --small-rate 50 -d 400ms", Some(15 * 9 + 5 * 21)),
        ("slow -n 20 --share 0.25 -r 50 -d 400ms", Some(20 * 21)),
    ] {
        let verdict = controlled(&honest(), &agents, arguments);
        assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{arguments}: {}", verdict.complaint);
        if let Some(deliveries) = deliveries {
            assert_eq!(verdict.count("deliveries"), deliveries, "{arguments}");
        }
        if arguments.starts_with("storm") {
            assert_eq!(verdict.json["opening"]["streams"], 100);
            assert_eq!(verdict.count("streams_resumed"), 50);
            assert!(verdict.json["storm_all_back_ms"].as_f64().unwrap() > 0.0);
        }
        if arguments.starts_with("churn") {
            assert!(verdict.json["opening"]["streams"].as_u64().unwrap() > 20);
        }
    }
    let verdict = controlled(&honest(), &agents, "storm --no-resume -n 50 -r 50 -d 900ms");
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    assert_eq!(verdict.count("deliveries") + verdict.count("missed_while_away"), 50 * 46);
    assert!(verdict.count("missed_while_away") >= 50 * 5);
}

/// Who joins in a stage is owed what is published from then on, of which its agent has to know.
#[test]
fn streams_of_agents_come_and_go_in_stages() {
    let agents = [&Machine::agent(&[]), &Machine::agent(&[])];
    let run = "fanout -r 20 --stage 1s:20 --stage 3s:20 --stage 1s:5 --patience 600ms";
    let verdict = controlled(&honest(), &agents, run);
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    assert_eq!(verdict.json["opening"]["streams"], 20);
    assert_eq!(verdict.count("streams_open_at_end"), 5);
    // The one that came second gets nothing any more.
    let fake = mischievous(|subscriber, event| match (subscriber, event) {
        (1, 50..) => vec![],
        _ => vec![Send::Event(event)],
    });
    let verdict = controlled(&fake, &agents, run);
    assert_eq!(verdict.code, 1, "{}", verdict.complaint);
    assert!(verdict.count("lost") > 0 && verdict.faults()[1..] == [0; 3], "{}", verdict.complaint);
}

/// Each second all agents are asked what they have seen.
#[test]
fn what_agents_see_is_there_while_the_run_lasts() {
    let agents = [&Machine::agent(&[]), &Machine::agent(&[])];
    let log = fake::scratch("run.hlog");
    let run = format!("fanout -n 6 -r 50 -d 3s --hlog {}", log.display());
    let verdict = controlled(&honest(), &agents, &run);
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_file(&log).unwrap();
    // Each line has the latencies of a second: its begin, its length, the longest, and the histogram.
    let with_latencies = |line: &&str| {
        let fields: Vec<&str> = line.split(',').collect();
        fields.len() == 4 && fields[2].parse::<f64>().is_ok_and(|longest| longest > 0.0)
    };
    assert!(text.lines().filter(with_latencies).count() >= 2, "{text}");
    let open = verdict.json["seconds"][2]["streams_open"].as_u64();
    assert_eq!(open, Some(6), "{}", verdict.json["seconds"]);
}

/// What comes and goes is judged by how many events were published by then, which agents have to be told.
#[test]
fn what_newcomers_and_those_who_are_back_lose_is_counted_by_agents() {
    let agents = [&Machine::agent(&[]), &Machine::agent(&[])];
    let run = "storm --no-resume -n 20 -r 4 --burst 14 -d 9s --patience 400ms";
    let fake =
        mischievous(|subscriber, event| if subscriber < 20 { vec![Send::Event(event)] } else { vec![] });
    let verdict = controlled(&fake, &agents, run);
    assert_eq!((verdict.code, verdict.faults()), (1, [20 * 8, 0, 0, 0]), "{}", verdict.complaint);
    assert_eq!((verdict.count("deliveries"), verdict.count("missed_while_away")), (20 * 15, 20 * 14));
}

/// Values and URLs of each subscriber reach the agents, and each is used once.
#[test]
fn each_subscriber_of_each_agent_has_its_own_values() {
    let file = fake::scratch("values");
    std::fs::write(&file, (0..9).map(|number| format!("value-{number}\n")).collect::<String>()).unwrap();
    let agents = [&Machine::agent(&[]), &Machine::agent(&[])];
    let fake = honest();
    let options = format!(
        "{} --values {} --subscribe-header X-Value:{{value}} --subscribe-header X-Number:{{subscriber}}",
        "fanout -n 9 -r 50 -d 200ms",
        file.display()
    );
    let verdict = controlled(&fake, &agents, &options);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(verdict.code, 0, "{}", verdict.complaint);
    for number in 0..9 {
        let asked = |text: &String| {
            text.contains(&format!("X-Value:value-{number}\r\n"))
                && text.contains(&format!("X-Number:{number}\r\n"))
        };
        assert_eq!(fake.subscriptions().iter().filter(|text| asked(text)).count(), 1, "{number}");
    }
}

/// The processes of one machine have one clock. What a test adds to an agent's is known exactly.
#[test]
fn latencies_are_right_where_the_clocks_differ() {
    const HOUR_NS: i64 = 3_600_000_000_000;
    let plain = Machine::agent(&[]);
    let ahead = Machine::agent(&["--clock-ahead-ns", &HOUR_NS.to_string()]);
    let drifts = Machine::agent(&["--clock-ahead-ns", &HOUR_NS.to_string(), "--clock-gains-ppm", "20000"]);
    let run = "fanout -n 30 -r 100 -d 3s";
    let verdict = controlled(&honest(), &[&plain, &ahead, &drifts], run);
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    // A time that was not translated is an hour, or, translated the wrong way, nothing at all.
    let latency = &verdict.json["latency_us"];
    assert_eq!(latency["count"], 30 * 300);
    assert!(latency["max"].as_f64().unwrap() < HOUR_NS as f64 / 1e3 / 2.0, "{latency}");
    let agents = verdict.json["agents"].as_array().unwrap();
    let clock = |agent: usize| &agents[agent]["clock"];
    let number = |agent: usize, key: &str| clock(agent)[key].as_f64().unwrap_or_else(|| panic!("{agents:?}"));
    for (agent, offset) in [(0, 0.0), (1, HOUR_NS as f64)] {
        for time in ["before", "after"] {
            let off = (number(agent, &format!("offset_{time}_ns")) - offset).abs();
            assert!(off <= number(agent, &format!("uncertainty_{time}_ns")), "{}", agents[agent]);
        }
        let bound = number(agent, "latencies_right_within_us") * 1e3;
        assert!(bound >= number(agent, "uncertainty_before_ns"), "{}", agents[agent]);
    }
    // The drift is known as well as the two offsets, over the time between them on the agent's clock.
    let uncertain = number(2, "uncertainty_before_ns") + number(2, "uncertainty_after_ns");
    let tolerance = uncertain / number(2, "seconds_between") / 1e3 + 1.0;
    let expected = 20_000.0 / 1.02;
    assert!((number(2, "drift_ppm") - expected).abs() <= tolerance, "{}", agents[2]);
    // It gained 2 % for three seconds, which is not left in the latencies.
    assert!(number(2, "latencies_right_within_us") * 1e3 < number(2, "drift_ns") * 0.75, "{}", agents[2]);
}

/// A run with agents that has published some events, and the file that its report will be in.
fn begun(fake: &Fake, run: &str, options: &[&str]) -> (Child, PathBuf) {
    let file = fake::scratch("report.json");
    let child = fake::command()
        .args(run.split(' '))
        .args(["-q", "--server", "plain", "--url", &format!("http://{}", fake.address)])
        .args(options)
        .args(["--token", TOKEN, "--json"])
        .arg(&file)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while fake.published() < 20 {
        std::thread::sleep(Duration::from_millis(10));
    }
    (child, file)
}

#[test]
fn an_agent_that_is_lost_ends_the_run_with_its_name() {
    let stays = Machine::agent(&[]);
    let goes = Machine::agent(&[]);
    let name = goes.address.to_string();
    let fake = honest();
    let (child, file) = begun(&fake, "fanout -n 10 -r 100 -d 60s", &["--agents", &names(&[&stays, &goes])]);
    drop(goes);
    let verdict = fake::verdict(&child.wait_with_output().unwrap(), &file);
    assert_eq!((verdict.code, &verdict.json["valid"]), (1, &false.into()), "{}", verdict.complaint);
    let told = format!("agent {name}: it is lost");
    assert!(verdict.complaint.contains(&told), "{}", verdict.complaint);
    // What the other one saw is there, and it is ready for the next run.
    assert!(verdict.count("deliveries") > 0);
    assert_eq!(verdict.json["agents"][1]["lost"], true);
    let verdict = controlled(&fake, &[&stays], RUN);
    assert_eq!(verdict.json["valid"], true, "{}", verdict.complaint);
}

#[test]
fn ctrl_c_at_the_controller_leaves_a_partial_report_of_all_agents() {
    let agents = [&Machine::agent(&[]), &Machine::agent(&[])];
    let (fake, file) = (honest(), fake::scratch("report.json"));
    let child = fake::command()
        .args("fanout -n 10 -r 100 -d 60s -q --server plain --url".split(' '))
        .arg(format!("http://{}", fake.address))
        .args(["--agents", &names(&agents), "--token", TOKEN, "--json"])
        .arg(&file)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while fake.published() < 30 {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let verdict = fake::verdict(&child.wait_with_output().unwrap(), &file);
    assert_eq!((verdict.code, &verdict.json["partial"]), (130, &true.into()), "{}", verdict.complaint);
    assert!(verdict.count("deliveries") > 100 && verdict.faults() == [0; 4], "{}", verdict.json);
    assert!(verdict.json["agents"].as_array().unwrap().iter().all(|agent| agent["lost"] == false));
}

#[test]
fn what_an_agent_refuses_is_said_with_its_name() {
    let agent = Machine::agent(&[]);
    let name = agent.address.to_string();
    let fake = honest();
    // Whatever goes wrong is known before a stream is opened.
    let url = format!("--server plain --url http://{}", fake.address);
    let told = |arguments: &str, agents: &str, token: &str| {
        let verdict = run(arguments, agents, token, &url);
        assert_eq!(verdict.code, 2, "{}", verdict.complaint);
        verdict.complaint
    };
    let wrong = told(RUN, &name, "another token than that");
    assert!(wrong.contains(&format!("agent {name}: it refuses: the token is not the one")), "{wrong}");
    let nobody = told(RUN, "127.0.0.1:9", TOKEN);
    assert!(nobody.contains("agent 127.0.0.1:9: cannot connect"), "{nobody}");
    let other = Machine::agent(&[]);
    let few = told("fanout -n 1", &format!("{name},{}", other.address), TOKEN);
    assert!(few.contains("fewer than 2 agents"), "{few}");
    let limit = told("fanout -n 9000000 --threads 1", &name, TOKEN);
    assert!(limit.contains(&format!("agent {name}: 9000000 streams on 1 threads need")), "{limit}");
    assert!(limit.lines().filter(|line| line.contains(&name)).count() >= 2, "each limit: {limit}");
    let watch = Machine::watch(std::process::id());
    let role = told(RUN, &watch.address.to_string(), TOKEN);
    assert!(role.contains("not started as `fanfare-load agent`"), "{role}");
    assert_eq!(fake.subscriptions().len(), 0);

    // Nothing listens at the server: the agent says so, like one machine.
    let verdict = run(RUN, &name, TOKEN, "--server plain --url http://127.0.0.1:9");
    assert!(verdict.complaint.contains("nothing listens"), "{}", verdict.complaint);
    // An agent alone with its run refuses a second one.
    let file = fake::scratch("report.json");
    let mut first = fake::command()
        .args("fanout -n 4 -r 100 -d 60s -q --server plain --url".split(' '))
        .arg(format!("http://{}", fake.address))
        .args(["--agents", &name, "--token", TOKEN])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while fake.published() < 5 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let busy = told(RUN, &name, TOKEN);
    assert!(busy.contains("one run at a time"), "{busy}");

    // Its controller vanishes: the streams end, and the agent serves the next one.
    first.kill().unwrap();
    first.wait().unwrap();
    let verdict = loop {
        let verdict = run(RUN, &name, TOKEN, &url);
        if !verdict.complaint.contains("one run at a time") {
            break verdict;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let _ = std::fs::remove_file(&file);
    assert_eq!(verdict.json["valid"], true, "{}", verdict.complaint);
    let told = agent.end();
    assert!(told.contains("it is gone, and the streams are closed"), "{told}");
}

fn frame(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}

fn greeting(socket: &mut TcpStream) -> serde_json::Value {
    let mut length = [0; 4];
    socket.read_exact(&mut length).unwrap();
    let mut text = vec![0; u32::from_be_bytes(length) as usize];
    socket.read_exact(&mut text).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn rest(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A connection that is reset has said everything.
    let _ = socket.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A peer without the token gets a greeting and nothing more: no memory, and no time of the agent.
#[test]
fn hostile_bytes_at_an_agents_port_change_nothing() {
    let mut agent = Machine::agent(&[]);
    let before = agent.memory();
    let connect = || {
        let socket = TcpStream::connect(agent.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        socket
    };
    // Slow ones first, which last while everything else happens. They are told to go in the end.
    let over = Arc::new(AtomicBool::new(false));
    let slow: Vec<_> = (0..8)
        .map(|_| {
            let (mut socket, over) = (connect(), over.clone());
            std::thread::spawn(move || {
                greeting(&mut socket);
                let mut drops =
                    frame("{\"tool\":\"fanfare-load\"}").into_iter().chain(std::iter::repeat(b' '));
                // One byte after the other, more often than anything times out.
                while socket.write_all(&[drops.next().unwrap()]).is_ok() {
                    if over.load(Ordering::SeqCst) {
                        return false;
                    }
                    std::thread::sleep(Duration::from_millis(300));
                }
                true
            })
        })
        .collect();
    for bytes in [
        &u32::MAX.to_be_bytes()[..],
        &[0; 4],
        b"GET / HTTP/1.1\r\nHost: agent\r\n\r\n",
        &frame("{\"tool\":"),
        &frame("[[[[[[[[[["),
        &frame(&"[".repeat(2_000)),
        &[0x00, 0x00, 0x08, 0x01],
        &[0xff; 100_000],
    ] {
        let mut socket = connect();
        assert_eq!(greeting(&mut socket)["tool"], "fanfare-load");
        // A peer that is turned away early cannot send everything.
        let _ = socket.write_all(bytes);
        let said = rest(&mut socket);
        assert!(said.is_empty(), "it was answered with `{said}`");
    }
    // A right hello of another version, and one with a proof that was made up.
    for (protocol, proof, expected) in [
        (Some(99), "00".repeat(32), "same on all machines"),
        (None, "00".repeat(32), "the token is not the one"),
        (None, String::new(), "the token is not the one"),
        (None, "ü".repeat(16), "the token is not the one"),
    ] {
        let mut socket = connect();
        let greeted = greeting(&mut socket);
        let version = greeted["version"].clone();
        let protocol = protocol.map_or(greeted["protocol"].clone(), serde_json::Value::from);
        let hello = serde_json::json!({
            "tool": "fanfare-load", "protocol": protocol, "version": version, "role": "Agent",
            "nonce": "00", "proof": proof,
        });
        socket.write_all(&frame(&hello.to_string())).unwrap();
        let said = rest(&mut socket);
        assert!(said.contains(expected), "{said}");
    }
    // Many that say nothing at all: those beyond a number are closed at once.
    let silent: Vec<TcpStream> = (0..200).map(|_| connect()).collect();
    let ended = slow.into_iter().map(|slow| slow.join().unwrap());
    assert!(ended.collect::<Vec<_>>().iter().all(|&ended| ended), "a slow one was served without an end");
    over.store(true, Ordering::SeqCst);
    drop(silent);
    let grown = agent.memory().saturating_sub(before);
    assert!(grown < 64 << 20, "it grew by {grown} bytes");
    assert!(agent.is_alive());

    let fake = honest();
    let verdict = loop {
        let verdict = controlled(&fake, &[&agent], RUN);
        // The silent ones are just being closed.
        if !verdict.complaint.contains("no greeting") {
            break verdict;
        }
    };
    assert_eq!((verdict.code, verdict.count("deliveries")), (0, 20 * EVENTS), "{}", verdict.complaint);
}

#[test]
fn a_watch_tells_cpu_and_memory_of_the_server() {
    let watch = Machine::watch(std::process::id());
    let agents = [&Machine::agent(&[]), &Machine::agent(&[])];
    let options = format!("--server-watch {}", watch.address);
    let verdict = controlled(&honest(), &agents, &format!("{RUN} {options}"));
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    assert!(verdict.json["server_cpu_us_per_delivery"].as_f64().unwrap() > 0.0);
    for key in ["server_user_bytes_per_connection", "server_user_bytes_per_connection_after"] {
        assert!(verdict.json[key].is_number(), "{key}");
    }
    assert!(verdict.json["conditions"]["stolen_share"].is_number());
    assert!(verdict.json["conditions"]["server_waited_share"].is_number());
    // The agents are on the server's machine here, so what its kernel does is not the server's alone.
    assert_eq!(verdict.json["ksoftirqd_is_the_servers"], false);
    // It serves without agents, too, and without it there are no figures of a machine that is not the
    // server's.
    let verdict = honest().judge(&format!("{RUN} {options} --token {}", TOKEN.replace(' ', "-")));
    assert!(verdict.complaint.contains("--server-watch"), "{}", verdict.complaint);
    let verdict = controlled(&honest(), &agents, RUN);
    assert!(verdict.json["kernel_slab_bytes_per_pair"].is_null());
    assert!(verdict.json["server_cpu_us_per_delivery"].is_null());

    // A process that is gone has nothing to tell.
    let output = fake::command()
        .args(["watch", "999999999", "--listen", "127.0.0.1:0", "--token", TOKEN])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && told.contains("there is no process 999999999"), "{told}");
}

/// The server's machine is lost half way: the run ends, because its figures would be of nothing.
#[test]
fn a_watch_that_is_lost_ends_the_run() {
    let watch = Machine::watch(std::process::id());
    let name = watch.address.to_string();
    let (agent, fake) = (Machine::agent(&[]), honest());
    let options = ["--agents", &names(&[&agent]), "--server-watch", &name];
    let (child, file) = begun(&fake, "fanout -n 5 -r 100 -d 2s", &options);
    drop(watch);
    let verdict = fake::verdict(&child.wait_with_output().unwrap(), &file);
    assert_eq!(verdict.code, 1, "{}", verdict.complaint);
    assert!(
        verdict.complaint.contains(&format!("--server-watch {name}: it is lost")),
        "{}",
        verdict.complaint
    );
}

/// Says that it is the process in a network namespace of its own.
const INSIDE: &str = "FANFARE_LOAD_TEST_INSIDE";

/// Each machine has an address, and a network stack, of its own. The server and the controller are in one
/// network namespace and each agent is in another, which anybody may make where the machine allows it.
#[test]
fn agents_with_addresses_of_their_own_are_judged_as_one_machine() {
    if std::env::var_os(INSIDE).is_none() {
        let may = Command::new("unshare").args(["-rn", "unshare", "-n", "ip", "link"]).output();
        if !may.is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: no network namespace may be made here, or there is no `ip` or `unshare`");
            return;
        }
        let name = "agents_with_addresses_of_their_own_are_judged_as_one_machine";
        let output = Command::new("unshare")
            .arg("-rn")
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", name])
            .env(INSIDE, "1")
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && told.contains("1 passed"), "{told}{complaint}");
        return;
    }
    let done = |command: &str| {
        let mut words = command.split(' ');
        let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    };
    done("ip link set lo up");
    let mut agents: Vec<Machine> = (1..=3)
        .map(|number| {
            let mut command = Command::new("unshare");
            command.arg("-n").arg(env!("CARGO_BIN_EXE_fanfare-load"));
            command.args(["agent", "--listen", "0.0.0.0:7007", "--token", TOKEN]);
            let mut agent = Machine::start(command);
            let (pid, network) = (agent.child.id(), format!("10.99.{number}"));
            done(&format!("ip link add here{number} type veth peer name there netns {pid}"));
            done(&format!("ip address add {network}.1/24 dev here{number}"));
            done(&format!("ip link set here{number} up"));
            done(&format!("nsenter -t {pid} -n ip address add {network}.2/24 dev there"));
            done(&format!("nsenter -t {pid} -n ip link set there up"));
            done(&format!("nsenter -t {pid} -n ip route add default via {network}.1"));
            agent.address = format!("{network}.2:7007").parse().unwrap();
            agent
        })
        .collect();
    let mischief = |subscriber: usize, event: usize| match (subscriber % 3, event) {
        (0, 12) => vec![],
        (1, 13) => vec![Send::Event(13), Send::Event(13)],
        _ => vec![Send::Event(event)],
    };
    let start = |mischief: Box<dyn Fn(usize, usize) -> Vec<Send> + Sync + std::marker::Send>| {
        Fake::start_at("10.99.1.1", Behaviour { replays: true, mischief, ..Behaviour::default() })
    };
    let all: Vec<&Machine> = agents.iter().collect();
    let verdict = controlled(&start(Box::new(mischief)), &all, "fanout -n 30 -r 100 -d 500ms");
    assert_eq!((verdict.code, verdict.faults()), (1, [10, 10, 0, 0]), "{}", verdict.complaint);
    let honest = start(Box::new(|_, event| vec![Send::Event(event)]));
    let verdict = controlled(&honest, &all, "storm -n 50 -r 50 -d 900ms");
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    assert_eq!((verdict.count("deliveries"), verdict.count("streams_resumed")), (50 * 46, 50));
    assert!(agents.iter_mut().all(Machine::is_alive));
}

#[test]
fn what_does_not_go_together_is_said() {
    for (arguments, expected) in [
        ("fanout --agents 127.0.0.1:9", "--token"),
        ("fanout --agents 127.0.0.1:9 --token short", "16 bytes"),
        ("fanout --server-watch 127.0.0.1:9 --token 0123456789abcdef --server-pid 1", "cannot be used with"),
        ("fanout --agents 127.0.0.1:9 --token 0123456789abcdef --tun x", "one machine"),
        ("compare --contenders bare --agents 127.0.0.1:9 --token 0123456789abcdef", "leave out --agents"),
        ("agent --listen 127.0.0.1:0 --token short", "16 bytes"),
    ] {
        let output = fake::command().args(arguments.split(' ')).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && told.contains(expected), "{arguments}: {told}");
    }
}
