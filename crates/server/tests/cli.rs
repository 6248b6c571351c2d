//! The command line: `fanfare pub`, `fanfare sub`, and what is said when something is wrong.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use support::file::ConfigFile;
use support::server::{Guard, fanfare, run};
use support::{Backend, Server, eventually, on_both_backends};

fn publish(server: &Server, arguments: &[&str]) -> Command {
    let mut command = fanfare();
    command.arg("pub").args(["--url", &server.url()]).args(arguments);
    command
}

fn subscribe(server: &Server, arguments: &[&str]) -> Command {
    let mut command = fanfare();
    command.arg("sub").args(["--url", &server.url()]).args(arguments);
    command
}

/// A subscriber whose output is read while it runs.
struct Running {
    child: Guard,
    lines: BufReader<ChildStdout>,
}

impl Running {
    fn start(mut command: Command) -> Running {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the program is there");
        let lines = BufReader::new(child.stdout.take().expect("it is piped"));
        Running { child: Guard(child), lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("text");
        line
    }

    fn event(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }
}

fn wait(child: &mut Child) -> Option<i32> {
    eventually("the program ends", || child.try_wait().expect("it is our child")).code()
}

on_both_backends! {
    fn pub_publishes_one_event_and_prints_its_id(backend) {
        let server = Server::start(backend);
        let mut subscriber = server.subscribe("topic=a");
        let ran = run(publish(&server, &["a", "hello\nworld", "--type", "greeting", "--id", "mine-1"]), "not read");
        assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (Some(0), "mine-1\n", ""));
        let event = subscriber.event();
        assert_eq!((event.id.as_str(), event.kind.as_str(), event.data.as_str()), ("mine-1", "greeting", "hello\nworld"));
        let ran = run(publish(&server, &["a", ""]), "");
        let event = subscriber.event();
        assert_eq!((ran.stdout, event.data.as_str()), (format!("{}\n", event.id), ""));
        // The address may come from the environment, and may end with a slash.
        let mut command = fanfare();
        command.args(["pub", "a", "by environment"]).env("FANFARE_URL", format!("{}/", server.url()));
        assert_eq!(run(command, "").code, Some(0));
        assert_eq!(subscriber.event().data, "by environment");
    }

    fn pub_publishes_each_line_of_its_input(backend) {
        let server = Server::start(backend);
        let mut subscriber = server.subscribe("topic=a");
        for arguments in [&["a"][..], &["a", "-"]] {
            let ran = run(publish(&server, arguments), "one\n\n three \nvier \u{e4}");
            assert_eq!(ran.code, Some(0), "{ran:?}");
            let events = subscriber.events(4);
            let data: Vec<&str> = events.iter().map(|event| event.data.as_str()).collect();
            assert_eq!(data, ["one", "", " three ", "vier \u{e4}"]);
            assert_eq!(ran.stderr, format!("published 4 events, the last one is {}\n", events[3].id));
            assert_eq!(ran.stdout, "");
        }
        let many: String = (0..3000).map(|number| format!("{number}\n")).collect();
        let ran = run(publish(&server, &["a", "-", "--type", "count"]), &many);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        for number in 0..3000 {
            let event = subscriber.event();
            assert_eq!((event.kind.as_str(), event.data), ("count", number.to_string()));
        }
    }

    fn pub_sends_a_line_while_its_input_goes_on(backend) {
        let server = Server::start(backend);
        let mut subscriber = server.subscribe("topic=a");
        let mut command = publish(&server, &["a"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = Guard(command.spawn().expect("the program is there"));
        let mut input = child.0.stdin.take().expect("it is piped");
        for number in 0..5 {
            input.write_all(format!("{number}\n").as_bytes()).expect("it reads");
            assert_eq!(subscriber.event().data, number.to_string());
        }
        drop(input);
        assert_eq!(wait(&mut child.0), Some(0));
    }

    fn pub_says_what_was_wrong(backend) {
        let server = Server::start(backend);
        for (arguments, input, code, part) in [
            (&["a", "x", "--type", "open"][..], "", 3, "browsers dispatch themselves"),
            (&["", "x"], "", 3, "topic is empty"),
            (&["a", "x", "--id", "earliest"], "", 3, "reserved"),
            (&["a", "--id", "mine"], "line\n", 1, "--id names one event"),
            (&["a"], "", 1, "no line"),
            (&["a"], "line\n", 0, "published 1 event, the last one is"),
            (&[], "", 2, "Usage"),
            (&["a", "b", "c"], "", 2, "Usage"),
            (&["a", "b", "--nonsense"], "", 2, "--nonsense"),
        ] {
            let ran = run(publish(&server, arguments), input);
            assert_eq!(ran.code, Some(code), "{arguments:?}: {ran:?}");
            assert!(ran.stderr.contains(part), "{arguments:?}: {ran:?}");
            assert_eq!(ran.stdout, "", "{arguments:?}");
        }
        let mut command = fanfare();
        command.args(["pub", "a", "x", "--url", "http://127.0.0.1:1"]);
        let ran = run(command, "");
        assert_eq!(ran.code, Some(4));
        assert!(ran.stderr.starts_with("fanfare: ") && ran.stderr.contains("127.0.0.1:1"), "{ran:?}");
    }

    fn sub_prints_a_json_object_for_each_event(backend) {
        let server = Server::start(backend);
        let mut running = Running::start(subscribe(&server, &["a", "b"]));
        server.expect_subscribers("a", 1);
        let ids = [
            server.publish("a", "one\ntwo \"three\""),
            server.publish_json(&json!({ "topic": "b", "type": "t", "id": "mine", "data": "" })),
        ];
        server.publish("c", "not asked for");
        let last = server.publish("b", "\u{e4}");
        assert_eq!(running.event(), json!({ "id": ids[0], "type": "message", "data": "one\ntwo \"three\"" }));
        assert_eq!(running.event(), json!({ "id": "mine", "type": "t", "data": "" }));
        assert_eq!(running.event(), json!({ "id": last, "type": "message", "data": "\u{e4}" }));
    }

    fn sub_prints_the_data_alone_and_stops_after_its_count(backend) {
        let server = Server::start(backend);
        let ids: Vec<String> = ["1", "2\nlines", "3\\4", "5"].iter().map(|data| server.publish("a", data)).collect();
        let ran = run(subscribe(&server, &["a", "--since", "earliest", "--data", "--count", "3"]), "");
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "1\n2\\nlines\n3\\\\4\n"), "{ran:?}");
        let ran = run(subscribe(&server, &["a", "--since", &ids[2], "--data", "--count", "1"]), "");
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "5\n"), "{ran:?}");
        // A gap is an event like others.
        let ran = run(subscribe(&server, &["a", "--since", "nobody-knows", "--count", "2"]), "");
        let lines: Vec<Value> =
            ran.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!((ran.code, &lines[0]["type"], &lines[1]["data"]), (Some(0), &json!("fanfare.gap"), &json!("1")));
    }

    fn sub_once_ends_with_the_stream(backend) {
        let mut server = Server::start_with(backend, &["--drain", "100ms"]);
        let mut running = Running::start(subscribe(&server, &["a", "--once", "--data"]));
        server.expect_subscribers("a", 1);
        server.publish("a", "1");
        assert_eq!(running.line(), "1\n");
        server.signal("TERM");
        assert_eq!(server.wait().code(), Some(0));
        assert_eq!(running.line(), "");
        assert_eq!(wait(&mut running.child.0), Some(0));
    }

    fn sub_takes_patterns(backend) {
        let server = Server::start(backend);
        for topic in ["orders/7", "news", "other"] {
            server.publish(topic, topic);
        }
        for (arguments, lines) in [
            (&["--match", "orders/*", "news", "--max", "2"][..], "orders/7\nnews\n"),
            (&["--match", "orders/*", "--match", "ot{rest}", "--max", "2"], "orders/7\nother\n"),
        ] {
            let ran = run(subscribe(&server, &[arguments, &["--since", "earliest", "--data"]].concat()), "");
            assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), lines), "{ran:?}");
        }
    }

    fn sub_comes_back_after_a_restart_and_is_told_of_the_gap(backend) {
        let options = ["--retry", "100ms", "--drain", "100ms"];
        let mut old = Server::start_apart(backend, &options);
        let address = old.address.to_string();
        let mut running = Running::start(subscribe(&old, &["a"]));
        old.expect_subscribers("a", 1);
        let id = old.publish("a", "before");
        assert_eq!(running.event()["data"], "before");
        old.signal("TERM");
        assert_eq!(old.wait().code(), Some(0));
        let new = Server::start_with(backend, &[&options[..], &["--listen", &address]].concat());
        let after = new.publish("a", "after");
        // It may have come back before that was published, or after.
        let gap = running.event();
        assert_eq!(gap["type"], "fanfare.gap");
        let data: Value = serde_json::from_str(gap["data"].as_str().expect("text")).expect("JSON");
        assert_eq!(data["after"], id);
        let event = running.event();
        assert_eq!((&event["data"], &event["id"]), (&json!("after"), &json!(after)));
    }

    /// Its stream ends before the first event. It used to come back without an id and to miss what was
    /// published meanwhile.
    fn sub_misses_nothing_before_its_first_event(backend) {
        let server = Server::start_with(backend, &["--retry", "2s", "--max-age", "400ms"]);
        server.publish("a", "before");
        server.settle();
        let mut running = Running::start(subscribe(&server, &["a", "--data"]));
        server.expect_subscribers("a", 1);
        server.expect_subscribers("a", 0);
        server.publish("a", "between");
        server.expect_subscribers("a", 1);
        server.publish("a", "later");
        assert_eq!(running.line(), "between\n");
        assert_eq!(running.line(), "later\n");
    }

    /// As with `fanfare sub news | head -1`.
    fn sub_ends_quietly_when_nobody_reads_its_output(backend) {
        let server = Server::start(backend);
        let mut command = subscribe(&server, &["a", "--data"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Guard(command.spawn().expect("the program is there"));
        drop(child.0.stdout.take());
        server.expect_subscribers("a", 1);
        server.publish("a", "1");
        server.publish("a", "2");
        assert_eq!(wait(&mut child.0), Some(0));
        let mut said = String::new();
        let mut stderr = child.0.stderr.take().expect("it is piped");
        std::io::Read::read_to_string(&mut stderr, &mut said).expect("text");
        assert_eq!(said, "");
    }

    /// As the README does it: keys of random text, tokens of `fanfare token mint`, and a private event.
    fn tokens_from_files_let_pub_and_sub_in(backend) {
        let secret = |side: &str| ConfigFile::new(&format!("the secret of the {side} has more than 32 bytes\n"));
        let keys = [secret("subscribers"), secret("publishers")];
        let [subscribers, publishers] = keys.each_ref().map(|file| format!("hs256:{}", file.name()));
        let options = ["--subscriber-keys", &subscribers, "--publisher-keys", &publishers];
        let server = Server::start_with(backend, &options);
        let token = |key: &ConfigFile, grants: [&str; 2]| {
            let mut command = fanfare();
            command.args(["token", "mint", "--secret-file", &key.name()]).args(grants);
            ConfigFile::new(&run(command, "").stdout)
        };
        let ada = token(&keys[0], ["--subscribe", "demo"]);
        let publisher = token(&keys[1], ["--publish", "*"]);
        let ran = run(publish(&server, &["demo", "secret", "--private", "--token-file", &publisher.name()]), "");
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
        let lines = run(publish(&server, &["demo", "-", "--private", "--token-file", &publisher.name()]), "more\n");
        assert_eq!(lines.code, Some(0), "{lines:?}");
        let everything = ["demo", "--data", "--since", "earliest", "--count", "2", "--token-file", &ada.name()];
        assert_eq!(run(subscribe(&server, &everything), "").stdout, "secret\nmore\n");

        for (command, hint) in [
            (publish(&server, &["demo", "x"]), "give a token by --token-file"),
            (subscribe(&server, &["demo"]), "give a token by --token-file"),
            (publish(&server, &["demo", "x", "--token-file", &ada.name()]), "the log of the server says why"),
            (subscribe(&server, &["demo", "--token-file", &publisher.name()]), "the log of the server says why"),
            (subscribe(&server, &["news", "--token-file", &ada.name()]), "does not cover the topic \"news\""),
        ] {
            let ran = run(command, "");
            assert_eq!(ran.code, Some(3), "{ran:?}");
            assert!(ran.stderr.contains(hint), "{ran:?}");
        }
    }

    fn sub_says_what_was_wrong(backend) {
        let server = Server::start_with(backend, &["--max-connections", "1", "--shards", "1", "--max-topics", "2"]);
        for (arguments, code, part) in [
            (&["a", "b", "c"][..], 3, "2 topics"),
            (&[], 2, "Usage"),
            (&["a", "--max", "some"], 2, "--max"),
            (&["a", "--max", "0"], 2, "--max"),
            (&["a", "--since", "a\u{1}"], 2, "control characters"),
        ] {
            let ran = run(subscribe(&server, arguments), "");
            assert_eq!(ran.code, Some(code), "{arguments:?}: {ran:?}");
            assert!(ran.stderr.contains(part), "{arguments:?}: {ran:?}");
        }
        let _fills_it = server.subscribe("topic=a");
        let ran = run(subscribe(&server, &["a"]), "");
        assert_eq!(ran.code, Some(4), "{ran:?}");
        assert!(ran.stderr.contains("503") && ran.stderr.contains("subscribers"), "{ran:?}");
        let mut command = fanfare();
        command.args(["sub", "a", "--url", "http://127.0.0.1:1"]);
        let ran = run(command, "");
        assert_eq!(ran.code, Some(4), "a server that was never there: {ran:?}");
    }
}

#[test]
fn wrong_options_are_named_and_the_exit_code_is_2() {
    for (arguments, part) in [
        (&["--nonsense"][..], "--nonsense"),
        (&["serve", "--nonsense"], "Usage"),
        (&["nonsense"], "nonsense"),
        (&["--listen", "nowhere"], "--listen"),
        (&["--backend", "kqueue"], "--backend"),
        (&["--shards", "0"], "--shards"),
        (&["--shards", "5000"], "1..=1024"),
        (&["--retry", "1ns"], "from 100ms to 1h"),
        (&["--retry", "99ms"], "from 100ms to 1h"),
        (&["--retry", "61min"], "from 100ms to 1h"),
        (&["--heartbeat", "0s"], "longer than nothing"),
        (&["--heartbeat", "soon"], "not a time"),
        (&["--max-body", "some"], "--max-body"),
        (&["--when-full", "wait"], "end-stream"),
        (&["--laggard-policy", "forgive"], "disconnect"),
    ] {
        let mut command = fanfare();
        command.args(arguments);
        let ran = run(command, "");
        assert_eq!(ran.code, Some(2), "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains(part), "{arguments:?}: {ran:?}");
        assert_eq!(ran.stdout, "", "{arguments:?}");
    }
}

#[test]
fn help_and_version_are_output() {
    for (arguments, part) in [
        (&["--help"][..], "--heartbeat"),
        (&["help", "sub"], "--since"),
        (&["pub", "--help"], "--type"),
        (&["--version"], env!("CARGO_PKG_VERSION")),
    ] {
        let mut command = fanfare();
        command.args(arguments);
        let ran = run(command, "");
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(ran.stdout.contains(part), "{arguments:?}: {}", ran.stdout);
    }
}
