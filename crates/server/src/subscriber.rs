//! `fanfare sub`: one line per event, and reconnects that resume, as a browser does.

use std::error::Error;
use std::io::{self, Read, Write};
use std::thread;
use std::time::Duration;

use fanfare::{Decoded, Decoder};
use serde_json::json;
use ureq::Agent;

use crate::cli::SubOptions;
use crate::key_files::{read_authorization, token_hint};

/// The longest event taken.
const EVENT_BYTES: usize = 64 << 20;

/// The wait before a reconnect until the server names another (the HTML standard leaves it to the client).
const FIRST_RETRY: Duration = Duration::from_secs(2);

/// What lasts over reconnects.
struct Subscriber<'o> {
    options: &'o SubOptions,
    authorization: Option<String>,
    last_event_id: String,
    retry: Duration,
    printed: u64,
}

enum End {
    /// As many events as were asked for.
    Enough,
    /// Nobody reads our output any more.
    OutputClosed,
    /// The stream ended or broke; the reason is for people.
    Stream(String),
}

pub(crate) fn subscribe(options: &SubOptions) -> Result<(), Box<dyn Error>> {
    let agent: Agent = Agent::config_builder().http_status_as_error(false).build().into();
    let authorization = read_authorization(options.token_file.as_deref())?;
    let last_event_id = options.since.clone().unwrap_or_default();
    let mut subscriber = Subscriber { options, authorization, last_event_id, retry: FIRST_RETRY, printed: 0 };
    let mut connected = false;
    loop {
        let reason = match subscriber.connect(&agent) {
            Ok(mut stream) => {
                connected = true;
                match subscriber.read(&mut stream)? {
                    End::Enough | End::OutputClosed => return Ok(()),
                    End::Stream(reason) => reason,
                }
            }
            // A server that was never there is a mistake; one that was will come back.
            Err(Refused::Unreachable(reason)) if connected => reason,
            Err(Refused::Unreachable(reason) | Refused::Answer(reason)) => return Err(reason.into()),
        };
        if options.once {
            return Ok(());
        }
        eprintln!("fanfare: {reason}; reconnecting in {:?}", subscriber.retry);
        thread::sleep(subscriber.retry);
    }
}

enum Refused {
    Unreachable(String),
    /// Any status but 200 is final, as for a browser.
    Answer(String),
}

impl Subscriber<'_> {
    fn connect(&self, agent: &Agent) -> Result<impl Read + use<>, Refused> {
        let url = format!("{}/events", self.options.url.trim_end_matches('/'));
        let mut request = agent.get(&url).header("Accept", "text/event-stream");
        for topic in &self.options.topics {
            request = request.query("topic", topic);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        if !self.last_event_id.is_empty() {
            request = request.header("Last-Event-ID", &self.last_event_id);
        }
        let mut response = request
            .call()
            .map_err(|error| Refused::Unreachable(format!("cannot subscribe at {url}: {error}")))?;
        if response.status() == 200 {
            return Ok(response.into_body().into_reader());
        }
        let text = response.body_mut().read_to_string().unwrap_or_default();
        let problem: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let reason = problem["detail"].as_str().unwrap_or(text.trim());
        let hint = token_hint(response.status().as_u16(), self.authorization.is_some());
        Err(Refused::Answer(format!("{url} answered {}: {reason}{hint}", response.status())))
    }

    fn read(&mut self, stream: &mut impl Read) -> Result<End, Box<dyn Error>> {
        let mut decoder = Decoder::new(EVENT_BYTES);
        let mut buffer = vec![0; 64 << 10];
        let mut lines = Vec::new();
        loop {
            let received = match stream.read(&mut buffer) {
                Ok(0) => return Ok(End::Stream("the stream ended".to_owned())),
                Ok(count) => &buffer[..count],
                Err(error) => return Ok(End::Stream(format!("the stream broke: {error}"))),
            };
            decoder.feed(received, &mut |decoded| match decoded {
                Decoded::Event { kind, data, last_event_id } if !self.enough() => {
                    self.printed += 1;
                    let _ = match self.options.data {
                        true => writeln!(lines, "{}", data.replace('\\', "\\\\").replace('\n', "\\n")),
                        false => {
                            writeln!(lines, "{}", json!({ "id": last_event_id, "type": kind, "data": data }))
                        }
                    };
                }
                Decoded::Retry(millis) => self.retry = Duration::from_millis(millis),
                _ => {}
            })?;
            // An id counts without an event too: a checkpoint tells where the stream begins.
            if !decoder.last_event_id().is_empty() {
                self.last_event_id = decoder.last_event_id().to_owned();
            }
            let mut out = io::stdout().lock();
            match out.write_all(&lines).and_then(|()| out.flush()) {
                Ok(()) => lines.clear(),
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(End::OutputClosed),
                Err(error) => return Err(error.into()),
            }
            if self.enough() {
                return Ok(End::Enough);
            }
        }
    }

    fn enough(&self) -> bool {
        self.options.count.is_some_and(|count| self.printed >= count)
    }
}
