//! `fanfare pub`: one event from the command line, or one per line of standard input.

use std::error::Error;
use std::io::{self, BufRead, IsTerminal};
use std::sync::mpsc;
use std::thread;

use serde_json::{Map, Value, json};
use ureq::Agent;

use crate::cli::PubOptions;
use crate::key_files::{read_authorization, token_hint};

/// Lines that go out in one request when they come faster than requests are answered.
const BATCH: usize = 256;

/// Lines read ahead.
const AHEAD: usize = 1024;

/// The server that is published to.
struct Server {
    agent: Agent,
    url: String,
    authorization: Option<String>,
}

pub(crate) fn publish(options: &PubOptions) -> Result<(), Box<dyn Error>> {
    let server = Server {
        agent: Agent::config_builder().http_status_as_error(false).build().into(),
        url: format!("{}/events", options.url.trim_end_matches('/')),
        authorization: read_authorization(options.token_file.as_deref())?,
    };
    match options.data.as_deref() {
        Some("-") => publish_lines(&server, options),
        None if !io::stdin().is_terminal() => publish_lines(&server, options),
        data => {
            let answer = server.post("application/json", &event(options, data).to_string())?;
            println!("{}", answer["id"].as_str().unwrap_or_default());
            Ok(())
        }
    }
}

/// Each line goes out as soon as it is there; those that come meanwhile share the next request.
fn publish_lines(server: &Server, options: &PubOptions) -> Result<(), Box<dyn Error>> {
    if options.id.is_some() {
        return Err("--id names one event; it cannot name every line of standard input".into());
    }
    let (read, lines) = mpsc::sync_channel(AHEAD);
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let failed = line.is_err();
            if read.send(line).is_err() || failed {
                return;
            }
        }
    });
    let (mut count, mut last) = (0, String::new());
    while let Ok(first) = lines.recv() {
        let mut body = String::new();
        for line in std::iter::once(first).chain(lines.try_iter().take(BATCH - 1)) {
            body.push_str(&event(options, Some(&line?)).to_string());
            body.push('\n');
        }
        let answer = server.post("application/x-ndjson", &body)?;
        count += answer["published"].as_u64().unwrap_or_default();
        last = answer["last"].as_str().unwrap_or_default().to_owned();
    }
    match count {
        0 => Err("standard input had no line to publish".into()),
        count => {
            eprintln!("published {count} events, the last one is {last}");
            Ok(())
        }
    }
}

fn event(options: &PubOptions, data: Option<&str>) -> Value {
    let mut event = Map::from_iter([("topic".to_owned(), json!(options.topic))]);
    let fields = [("data", data), ("type", options.kind.as_deref()), ("id", options.id.as_deref())];
    for (name, value) in fields {
        if let Some(value) = value {
            event.insert(name.to_owned(), json!(value));
        }
    }
    if options.private {
        event.insert("private".to_owned(), json!(true));
    }
    Value::Object(event)
}

impl Server {
    /// Posts, and gives back the answer; a refusal's reason is the error.
    fn post(&self, content_type: &str, body: &str) -> Result<Value, Box<dyn Error>> {
        let url = &self.url;
        let mut request = self.agent.post(url).header("Content-Type", content_type);
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        let mut response = request.send(body).map_err(|error| format!("cannot publish to {url}: {error}"))?;
        let status = response.status();
        let text = response.body_mut().read_to_string()?;
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        if status.is_success() {
            return Ok(answer);
        }
        let reason = answer["detail"].as_str().unwrap_or(text.trim());
        let hint = token_hint(status.as_u16(), self.authorization.is_some());
        Err(format!("{url} answered {status}: {reason}{hint}").into())
    }
}
