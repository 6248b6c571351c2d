//! `fanfare sub`: one line per event, and reconnects that resume, as a browser does.

mod newest;
mod output;

use std::time::Duration;

use fanfare::{Decoded, Decoder};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{sleep, timeout};

use crate::back_off::BackOff;
use crate::cli::SubOptions;
use crate::command_server::{Attempt, Failure, Server, block_on, late, write_output};
use newest::Newest;
use output::Output;

/// The longest event that is taken, in bytes.
const EVENT_BYTES: usize = 64 << 20;

/// The longest id that is sent back to resume, in bytes. Servers refuse a request whose head is longer than
/// some kilobytes.
const ID_BYTES: usize = 4096;

/// The state that lasts over reconnects.
struct Subscriber<'o> {
    server: Server,
    options: &'o SubOptions,
    output: Output,
    last_event_id: String,
    back_off: BackOff,
    printed: u64,
    /// The newest events of the beginning, while `--last` waits for its end.
    newest: Option<Newest>,
}

/// The reason why a stream is not read any more.
enum End {
    /// There are as many events as were asked for, or no program reads the output.
    Done,
    /// The server has ended the stream.
    Over,
    /// The stream broke, or was silent for too long. The reason is for people.
    Broken(String),
}

pub(crate) fn subscribe(options: &SubOptions) -> Result<(), Failure> {
    let server = Server::new(&options.server)?;
    let earliest = options.last.map(|_| "earliest".to_owned());
    let mut subscriber = Subscriber {
        server,
        options,
        output: Output::new(options),
        last_event_id: options.since.clone().or(earliest).unwrap_or_default(),
        back_off: BackOff::default(),
        printed: 0,
        newest: None,
    };
    block_on(async { subscriber.run().await })
}

impl Subscriber<'_> {
    async fn run(&mut self) -> Result<(), Failure> {
        if let Some(count) = self.options.last {
            let position = self.position().await?;
            self.newest = Some(Newest::new(count, &position));
        }
        let mut has_been_there = false;
        loop {
            let (reason, retry_after) = match self.attempt().await {
                Ok(Attempt::Stream(body)) => {
                    has_been_there = true;
                    match self.read(body).await? {
                        End::Done => return Ok(()),
                        End::Over if self.options.once => return Ok(()),
                        End::Over => ("the stream ended".to_owned(), None),
                        End::Broken(reason) if self.options.once => return Err(Failure::Unavailable(reason)),
                        End::Broken(reason) => (reason, None),
                    }
                }
                Ok(Attempt::NothingMore) => {
                    eprintln!("fanfare: the server answered 204: there is nothing more");
                    return Ok(());
                }
                // A server that was never there is a mistake; one that was will come back.
                Ok(Attempt::Later { failure, .. }) | Err(failure @ Failure::Unavailable(_))
                    if !has_been_there =>
                {
                    return Err(failure);
                }
                Ok(Attempt::Later { failure, retry_after }) => (failure.to_string(), retry_after),
                Err(Failure::Unavailable(reason)) => (reason, None),
                Err(failure) => return Err(failure),
            };
            let wait = self.back_off.next(retry_after);
            eprintln!("fanfare: {reason}; reconnecting in {}", humantime::format_duration(wait));
            sleep(wait).await;
        }
    }

    /// The query of the subscription.
    fn query(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::from("?"));
        for topic in &self.options.topics {
            query.append_pair("topic", topic);
        }
        for pattern in &self.options.patterns {
            query.append_pair("match", pattern);
        }
        query.finish()
    }

    async fn attempt(&self) -> Result<Attempt, Failure> {
        self.ask(&self.last_event_id).await
    }

    async fn ask(&self, last_event_id: &str) -> Result<Attempt, Failure> {
        self.server.stream(&self.query(), last_event_id).await
    }

    /// The position of the server's streams now: the id at the beginning of a new one.
    async fn position(&self) -> Result<String, Failure> {
        let attempt = match self.ask("").await? {
            Attempt::Stream(body) => timeout(self.options.server.timeout, first_id(body)).await,
            Attempt::NothingMore => Ok(None),
            Attempt::Later { failure, .. } => return Err(failure),
        };
        match attempt {
            Ok(Some(id)) => Ok(id),
            Ok(None) | Err(_) => Err(Failure::Refused(format!(
                "{} does not say where a stream begins, so that --last cannot know which events are the last; \
                 use --since",
                self.server.events_url()
            ))),
        }
    }

    async fn read(&mut self, mut body: Incoming) -> Result<End, Failure> {
        let mut decoder = Decoder::new(EVENT_BYTES);
        let idle = self.options.idle_timeout;
        let idle = if idle.is_zero() { Duration::MAX } else { idle };
        loop {
            let patience = self.newest.as_ref().map_or(idle, |newest| idle.min(newest.patience()));
            let received = match timeout(patience, body.frame()).await {
                Ok(None) => return self.end(End::Over),
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
                Ok(Some(Err(error))) => {
                    return self.end(End::Broken(format!("the stream broke: {error}")));
                }
                Err(_) if self.newest.is_some() => {
                    if self.print_newest()? {
                        return Ok(End::Done);
                    }
                    continue;
                }
                Err(_) => return self.end(End::Broken(late("--idle-timeout", idle))),
            };
            let mut is_caught_up = false;
            let mut lines = Vec::new();
            let (enough, printed) = (self.options.max.unwrap_or(u64::MAX), &mut self.printed);
            let (output, back_off, newest) = (&self.output, &mut self.back_off, &mut self.newest);
            decoder
                .feed(&received, &mut |decoded| match decoded {
                    Decoded::Event { kind, data, last_event_id } if *printed < enough => {
                        back_off.has_succeeded();
                        let mut line = Vec::new();
                        if !output.write(kind, data, last_event_id, &mut line) {
                            return;
                        }
                        match newest {
                            Some(newest) => is_caught_up |= newest.add(line, last_event_id),
                            None => {
                                *printed += 1;
                                lines.append(&mut line);
                            }
                        }
                    }
                    Decoded::Retry(millis) => back_off.set_retry(Duration::from_millis(millis)),
                    _ => {}
                })
                .map_err(|error| Failure::Refused(error.to_string()))?;
            // An id counts without an event too: a checkpoint tells where the stream begins.
            if !decoder.last_event_id().is_empty() {
                if decoder.last_event_id().len() > ID_BYTES {
                    let text = format!("the server gave an id of more than {ID_BYTES} bytes");
                    return Err(Failure::Refused(text));
                }
                decoder.last_event_id().clone_into(&mut self.last_event_id);
            }
            if is_caught_up && self.print_newest()? {
                return Ok(End::Done);
            }
            if !lines.is_empty() && !write_output(&lines)? || self.has_enough() {
                return Ok(End::Done);
            }
        }
    }

    /// The stream has come to this end. What the beginning has brought is printed.
    fn end(&mut self, end: End) -> Result<End, Failure> {
        Ok(if self.newest.is_some() && self.print_newest()? { End::Done } else { end })
    }

    /// Prints the last events of the beginning. From now on events are printed as they come. True: that is
    /// all.
    fn print_newest(&mut self) -> Result<bool, Failure> {
        let Some(newest) = self.newest.take() else { return Ok(false) };
        let mut lines = Vec::new();
        let rest = self.options.max.map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX));
        for line in newest.into_lines().take(rest) {
            self.printed += 1;
            lines.extend(line);
        }
        Ok(!write_output(&lines)? || self.has_enough())
    }

    fn has_enough(&self) -> bool {
        self.options.max.is_some_and(|max| self.printed >= max)
    }
}

/// The first id of a stream, which may come without an event.
async fn first_id(mut body: Incoming) -> Option<String> {
    let mut decoder = Decoder::new(EVENT_BYTES);
    while let Some(Ok(frame)) = body.frame().await {
        let data = frame.into_data().unwrap_or_default();
        if decoder.feed(&data, &mut |_| {}).is_err() {
            return None;
        }
        if !decoder.last_event_id().is_empty() {
            return Some(decoder.last_event_id().to_owned());
        }
    }
    None
}
