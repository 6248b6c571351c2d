//! Client libraries, as applications use them, against the server: events of several lines and of an own
//! type, silence, and a restart. Each has the switches in its query that docs/CLIENTS.md says it needs.
//!
//! The programs in `clients/` print a line of JSON for each event that their library dispatches. `cargo xtask
//! test` installs what they need, and `clients/run.mjs` tries more libraries at more places.

mod support;

use std::env;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use support::server::Guard;
use support::{Backend, Item, Server};

const HINT: &str = "run: cargo xtask test (it installs the client libraries)";

/// Data of several lines: one with spaces at its beginning and a colon, an empty one, and one that is not
/// ASCII.
const LINES: &str = "one\n  two: 2\n\nfour \u{e9}";

/// How long a client may take for anything. A browser on a busy machine takes long to start.
const PATIENCE: Duration = Duration::from_secs(60);

// `cargo xtask test --no-clients` leaves out what is named `with_client_...`, and `--no-browser` what is
// named `browser_on_...`.

#[test]
fn browser_on_trial_with_client_event_source() {
    try_program(&["node", "javascript/browser.mjs", "native"], "");
}

#[test]
fn browser_on_trial_with_client_fetch_event_source() {
    try_program(&["node", "javascript/browser.mjs", "fetch-event-source"], "&checkpoint=off");
}

#[test]
fn with_client_npm_eventsource() {
    try_program(&["node", "javascript/node.mjs", "5"], "");
}

#[test]
fn with_client_httpx_sse() {
    try_program(&["python/.venv/bin/python", "python/client.py", "httpx-sse"], "&checkpoint=off&heartbeat=4");
}

#[test]
fn with_client_sseclient_py() {
    try_program(&["python/.venv/bin/python", "python/client.py", "sseclient-py"], "&checkpoint=event");
}

#[test]
fn with_client_aiohttp_sse_client() {
    let program = ["python/.venv/bin/python", "python/client.py", "aiohttp-sse-client"];
    // It takes all spaces from the beginning of a line, where the standard says one.
    try_program_that_reads(&program, "&checkpoint=event", "one\ntwo: 2\n\nfour \u{e9}");
}

#[test]
fn with_client_curl() {
    try_program(&["python/.venv/bin/python", "python/client.py", "curl"], "");
}

#[test]
fn with_client_reqwest_eventsource() {
    let begin = |url: String| {
        let (send, events) = channel();
        thread::spawn(move || fanfare_client_trial::read(&url, |event| send.send(event).is_ok()));
        Client { events, _program: None }
    };
    try_client(begin, "&checkpoint=event", LINES);
}

/// A library that subscribes.
struct Client {
    events: Receiver<Value>,
    /// Ends with this.
    _program: Option<Guard>,
}

impl Client {
    /// The next event that the library gives to the application, as type and data, and its id. A client that
    /// asks for checkpoints as events ignores their type.
    fn next(&self) -> ((String, String), String) {
        loop {
            let event = self.events.recv_timeout(PATIENCE).expect("the client dispatches an event");
            let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
            match text("type").as_str() {
                "fanfare.checkpoint" => {}
                "" => return (("message".to_owned(), text("data")), text("id")),
                kind => return ((kind.to_owned(), text("data")), text("id")),
            }
        }
    }
}

fn event(kind: &str, data: &str) -> (String, String) {
    (kind.to_owned(), data.to_owned())
}

fn try_program(command: &[&str], switches: &str) {
    try_program_that_reads(command, switches, LINES);
}

/// A missing library is a failure, never a silent pass.
fn try_program_that_reads(command: &[&str], switches: &str, lines: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    assert!(folder.join("node_modules/.package-lock.json").exists(), "node packages are missing; {HINT}");
    assert!(folder.join("python/.venv/bin/python").exists(), "Python packages are missing; {HINT}");
    let begin = |url: String| {
        let program = if command[0].contains('/') { folder.join(command[0]) } else { command[0].into() };
        let mut child = Command::new(program)
            .args(&command[1..])
            .arg(url)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}; {HINT}", command[0]));
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let (send, events) = channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let Ok(event) = serde_json::from_str(&line) else { continue };
                if send.send(event).is_err() {
                    return;
                }
            }
        });
        Client { events, _program: Some(Guard(child)) }
    };
    try_client(begin, switches, lines);
}

/// `begin` starts the client on a URL, and `lines` is what it makes of `LINES`.
fn try_client(begin: impl FnOnce(String) -> Client, switches: &str, lines: &str) {
    let backend = Backend::io_uring().unwrap_or(Backend::Epoll);
    let options = ["--heartbeat", "1s", "--retry", "200ms"];
    let mut server = start(backend, "", &options);
    let address = server.address.to_string();
    let client = begin(format!("http://{address}/events?topic=a{switches}"));
    expect_subscriber(&server);

    let id = server.publish_json(&json!({ "topic": "a", "type": "paid", "data": LINES }));
    assert_eq!(client.next(), (event("paid", lines), id));

    // As many heartbeats as this subscriber gets have come to the client, but one.
    let mut beside = server.subscribe("topic=b");
    let mut heartbeats = 0;
    while heartbeats < 3 {
        heartbeats += usize::from(matches!(beside.item(), Item::Comment(_)));
    }
    let last = server.publish("a", "after silence");
    assert_eq!(client.next(), (event("message", "after silence"), last.clone()));

    server.kill();
    let server = start(backend, &address, &options);
    server.publish("a", "while away");
    // The log began anew with the server. The gap says with which id the client came back.
    let ((kind, gap), _) = client.next();
    assert_eq!(kind, "fanfare.gap");
    let gap: Value = serde_json::from_str(&gap).expect("a gap is JSON");
    assert_eq!(gap["after"], last.as_str());
    assert_eq!(client.next().0, event("message", "while away"));
    let last = server.publish("a", "back");
    assert_eq!(client.next(), (event("message", "back"), last));
}

/// Starts the server, at this address if one is named, and else at one that stays free when it ends.
fn start(backend: Backend, address: &str, options: &[&str]) -> Server {
    if address.is_empty() {
        return Server::start_apart(backend, options);
    }
    Server::start_with(backend, &[options, &["--listen", address]].concat())
}

fn expect_subscriber(server: &Server) {
    for _ in 0..PATIENCE.as_millis() / 50 {
        if server.subscribers("a") == 1 {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("the client has not subscribed within {PATIENCE:?}");
}
