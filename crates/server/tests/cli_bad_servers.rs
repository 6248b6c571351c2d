//! `fanfare pub` and `fanfare sub` as scripts use them: outputs that fail, inputs without an end, and servers
//! that are slow, mute, or no servers of event streams at all.

mod support;

use std::fs::OpenOptions;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::endpoint::{Endpoint, Reply, json as json_reply};
use support::server::{Guard, Ran, fanfare, run};
use support::{Backend, Server, eventually, on_both_backends};

fn to(url: &str, command: &str, arguments: &[&str]) -> Command {
    let mut program = fanfare();
    program.args([command, "--url", url]).args(arguments);
    program
}

fn url(endpoint: &Endpoint) -> String {
    format!("http://{}", endpoint.address)
}

/// A stream with this beginning, as bytes; it ends behind it.
fn stream(fields: &str, body: &str) -> Reply {
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{fields}Connection: close\r\n\r\n");
    Reply::Bytes((head + body).into_bytes())
}

fn sub_from(reply: Reply, arguments: &[&str]) -> Ran {
    let endpoint = Endpoint::start(move |_| reply.clone());
    run(to(&url(&endpoint), "sub", &[&["t"], arguments].concat()), "")
}

/// Standard output that cannot be written.
fn full() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").expect("Linux has it").into()
}

on_both_backends! {
    /// It used to panic, and the user did not learn that the event was published.
    fn an_output_that_is_full_or_closed_is_no_panic(backend) {
        let server = Server::start(backend);
        let mut subscriber = server.subscribe("topic=t");
        let mut command = to(&server.url(), "pub", &["t", "to a full disk"]);
        let output = command.stdin(Stdio::null()).stdout(full()).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        let event = subscriber.event();
        assert_eq!((output.status.code(), event.data.as_str()), (Some(1), "to a full disk"));
        assert!(said.contains("No space left") && said.contains(&event.id), "{said}");
        let mut command = to(&server.url(), "sub", &["t", "--since", "earliest"]);
        let output = command.stdin(Stdio::null()).stdout(full()).output().expect("it runs");
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));

        let mut command = to(&server.url(), "pub", &["t", "to a closed pipe"]);
        let mut child = Guard(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("it runs"));
        drop(child.0.stdout.take());
        let status = eventually("it ends", || child.0.try_wait().expect("it is our child"));
        assert_eq!((status.code(), subscriber.event().data.as_str()), (Some(0), "to a closed pipe"));
    }

    /// The server counts the lines of each request; the user counts those of the input.
    fn a_bad_line_is_named_by_its_place_in_the_input_and_what_stands_is_said(backend) {
        let server = Server::start_with(backend, &["--max-event", "2KiB"]);
        let mut subscriber = server.subscribe("topic=t");
        let mut command = to(&server.url(), "pub", &["t"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = Guard(command.spawn().expect("it runs"));
        let mut input = child.0.stdin.take().expect("it is piped");
        // Five lines in requests of their own, and then one that the server refuses.
        for number in 1..=5 {
            writeln!(input, "{number}").expect("it reads");
            assert_eq!(subscriber.event().data, number.to_string());
        }
        writeln!(input, "{}", "x".repeat(3000)).expect("it reads");
        drop(input);
        let status = eventually("it ends", || child.0.try_wait().expect("it is our child"));
        let mut said = String::new();
        let mut stderr = child.0.stderr.take().expect("it is piped");
        std::io::Read::read_to_string(&mut stderr, &mut said).expect("text");
        assert_eq!(status.code(), Some(3), "{said}");
        assert!(said.contains("published 5 events, up to line 5") && said.contains(": line 6: "), "{said}");

        // All in one request.
        let lines = format!("a\nb\n{}\nd\n", "x".repeat(3000));
        let ran = run(to(&server.url(), "pub", &["t"]), &lines);
        assert_eq!(ran.code, Some(3), "{ran:?}");
        assert!(ran.stderr.contains("published 2 events, up to line 2") && ran.stderr.contains(": line 3: "), "{ran:?}");
        // What this program refuses itself.
        let ran = run(to(&server.url(), "pub", &["t", "--max-line", "100B"]), &lines);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.contains("published 2 events") && ran.stderr.contains("line 3: "), "{ran:?}");
        assert!(ran.stderr.contains("--max-line"), "{ran:?}");
    }

    fn sub_begins_with_the_newest_events(backend) {
        let server = Server::start(backend);
        for number in 1..=500 {
            server.publish("t", &number.to_string());
        }
        let ran = run(to(&server.url(), "sub", &["t", "--data", "--last", "3", "--max", "3"]), "");
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "498\n499\n500\n"), "{ran:?}");
        // Fewer are retained than were asked for, and one has an id of its publisher.
        server.publish_json(&json!({ "topic": "u", "data": "only", "id": "mine" }));
        let ran = run(to(&server.url(), "sub", &["u", "--data", "--last", "9", "--max", "1"]), "");
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "only\n"), "{ran:?}");
        let ran = run(to(&server.url(), "sub", &["u", "--last", "1", "--since", "earliest"]), "");
        assert_eq!(ran.code, Some(2), "{ran:?}");
    }

    /// Programs that read data alone would take a gap for data.
    fn a_gap_is_no_data(backend) {
        let server = Server::start(backend);
        server.publish("t", "after");
        let ran = run(to(&server.url(), "sub", &["t", "--since", "unknown", "--data", "--max", "1"]), "");
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "after\n"), "{ran:?}");
        assert!(ran.stderr.contains("fanfare.gap"), "{ran:?}");
        let ran = run(to(&server.url(), "sub", &["t", "--since", "unknown", "--max", "1"]), "");
        let gap: Value = serde_json::from_str(&ran.stdout).expect("JSON");
        assert_eq!(gap["type"], "fanfare.gap");
    }
}

#[test]
fn an_input_without_a_line_end_takes_no_more_memory_than_a_line_may_have() {
    let endpoint = Endpoint::start(|_| json_reply(&json!({ "published": 1, "last": "a-1" })));
    let mut command = to(&url(&endpoint), "pub", &["t", "--max-line", "1MiB"]);
    command.stdin(OpenOptions::new().read(true).open("/dev/zero").expect("it is there"));
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("published no event: line 1: it has more than 1048576 bytes"), "{said}");
}

#[test]
fn a_server_that_ends_in_the_middle_leaves_a_count() {
    let answers = std::sync::atomic::AtomicUsize::new(0);
    let endpoint =
        Endpoint::start(move |_| match answers.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0 => json_reply(&json!({ "published": 256, "last": "a-256" })),
            _ => Reply::Close,
        });
    let lines: String = (1..=300).map(|number| format!("{number}\n")).collect();
    let ran = run(to(&url(&endpoint), "pub", &["t"]), &lines);
    assert_eq!(ran.code, Some(4), "{ran:?}");
    for part in
        ["published 256 events, up to line 256, the last one is a-256", "lines 257 to 300 may be published"]
    {
        assert!(ran.stderr.contains(part), "{ran:?}");
    }
}

#[test]
fn mute_and_dripping_servers_are_given_up_and_the_option_is_named() {
    for reply in [Reply::Silence, Reply::FloodOfFields, Reply::Trickle] {
        for command in ["sub", "pub"] {
            let shown = reply.clone();
            let endpoint = Endpoint::start(move |_| shown.clone());
            let arguments = match command {
                "sub" => vec!["t", "--timeout", "300ms"],
                _ => vec!["t", "x", "--timeout", "300ms"],
            };
            let ran = run(to(&url(&endpoint), command, &arguments), "");
            assert!(matches!(ran.code, Some(3 | 4)), "{command} {reply:?}: {ran:?}");
            assert!(!ran.stderr.contains("panicked"), "{ran:?}");
            // To this endpoint the body of a publish is the end of its silence.
            if matches!(reply, Reply::Silence) && command == "sub" {
                assert!(ran.stderr.contains("--timeout"), "{ran:?}");
            }
        }
    }
}

#[test]
fn a_stream_that_falls_silent_is_opened_again() {
    let beginning = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 1000\r\n\r\n";
    let reply = Reply::Bytes(format!("{beginning}retry: 100\nid: 7\ndata: x\n\n").into_bytes());
    // The endpoint closes after its bytes; a stream that stays open and silent needs a socket of its own.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("it is bound");
    let Reply::Bytes(bytes) = reply else { unreachable!() };
    let accepts = std::thread::spawn(move || {
        let mut kept = Vec::new();
        for round in 0..2 {
            let (mut socket, _) = listener.accept().expect("the command connects");
            let mut head = [0; 1000];
            let length = std::io::Read::read(&mut socket, &mut head).expect("a request");
            let head = String::from_utf8_lossy(&head[..length]).to_ascii_lowercase();
            assert_eq!(head.contains("last-event-id: 7"), round == 1, "{head}");
            socket.write_all(&bytes).expect("it reads");
            kept.push(socket);
        }
        kept
    });
    let arguments = ["t", "--data", "--idle-timeout", "200ms", "--max", "2"];
    let ran = run(to(&format!("http://{address}"), "sub", &arguments), "");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "x\nx\n"), "{ran:?}");
    assert!(ran.stderr.contains("--idle-timeout") && ran.stderr.contains("reconnecting in 100ms"), "{ran:?}");
    accepts.join().expect("both connections came");
}

/// 26,113 reconnects in five seconds were seen.
#[test]
fn a_server_cannot_hurry_the_reconnects() {
    for retry in ["retry: 0\n", "retry: 1\n"] {
        let endpoint = Endpoint::start(move |_| stream("", &format!("{retry}\n")));
        let mut command = to(&url(&endpoint), "sub", &["t"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = Guard(command.spawn().expect("it runs"));
        let stderr = child.0.stderr.take().expect("it is piped");
        let lines = std::io::BufRead::lines(std::io::BufReader::new(stderr)).take(4);
        let waits: Vec<String> = lines
            .map(|line| line.expect("text").rsplit("reconnecting in ").next().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(waits, ["100ms", "200ms", "400ms", "800ms"]);
    }
}

#[test]
fn what_is_no_event_stream_is_refused_and_not_tried_again() {
    for (reply, part) in [
        (Reply::Last(200, "<html>".to_owned()), "no event stream"),
        (stream("Content-Encoding: gzip\r\n", "\u{1f}"), "Content-Encoding"),
        (
            Reply::Answer(301, vec![("Location", "https://elsewhere.example/".to_owned())], String::new()),
            "elsewhere",
        ),
        (Reply::Bytes(b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()), "HTTP"),
    ] {
        let ran = sub_from(reply.clone(), &[]);
        assert_eq!(ran.code, Some(3), "{reply:?}: {ran:?}");
        assert!(ran.stderr.contains(part), "{reply:?}: {ran:?}");
    }
    let ran = sub_from(Reply::Answer(204, Vec::new(), String::new()), &[]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[test]
fn huge_waits_and_hostile_words_do_no_harm() {
    let ran = sub_from(stream("", &format!("retry: {}\ndata: x\n\n", u64::MAX)), &["--data", "--once"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "x\n"), "{ran:?}");
    // The reason of a refusal is shown, and its escape sequences are not obeyed.
    let detail = json!({ "detail": "\u{1b}]0;title\u{7}\u{9b}2J" }).to_string();
    let ran = sub_from(Reply::Answer(403, Vec::new(), detail), &[]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(!ran.stderr.trim_end().contains(char::is_control), "{ran:?}");
    // The type of an event is the server's word, too.
    let own = "event: fanfare.\u{1b}[2J\ndata: \u{7}\n\n";
    let ran = sub_from(stream("", own), &["--data", "--once"]);
    assert!(ran.stderr.contains("fanfare.\\u{1b}[2J") && ran.stdout.is_empty(), "{ran:?}");
    assert!(!ran.stderr.trim_end().contains(char::is_control), "{ran:?}");
    let ran = sub_from(stream("", "data: \u{9b}2J\u{7f}\n\n"), &["--max", "1"]);
    assert!(!ran.stdout.trim_end().contains(char::is_control), "{ran:?}");
    let event: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(event["data"], "\u{9b}2J\u{7f}");
}

/// A script took half of a stream for all of it.
#[test]
fn a_stream_that_breaks_is_no_success_for_once() {
    let chunked = "Transfer-Encoding: chunked\r\n";
    let ran = sub_from(stream(chunked, "9\r\ndata: x\n\n\r\n0\r\n\r\n"), &["--data", "--once"]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (Some(0), "x\n", ""));
    let ran = sub_from(stream(chunked, "9\r\ndata: x\n\n\r\n"), &["--data", "--once"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(4), "x\n"), "{ran:?}");
    assert!(ran.stderr.contains("the stream broke"), "{ran:?}");
}

/// The format of JSON passed characters on that change the direction of a text.
#[test]
fn json_has_no_characters_that_turn_text_around() {
    let ran = sub_from(stream("", "data: \u{202e}txt.exe\n\n"), &["--max", "1"]);
    assert!(ran.stdout.contains("\\u202etxt.exe"), "{ran:?}");
}
