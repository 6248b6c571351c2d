//! A client: what it asks for, and what it has.
//!
//! It reconnects as a browser does, with the last id that it read, to any shard. What it must be sent follows
//! from that id alone; so an event that is lost or doubled between two connections is found. Every byte that
//! a shard sends is checked when it is sent: see [`crate::verifier`].

use std::collections::VecDeque;
use std::time::Duration;

use fanfare::{Checkpoint, Cursor, Pattern, Subscribe, Topic};

use crate::history::{Interest, Sight};
use crate::wishes::Wishes;

/// Where a request wants to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resume {
    Now,
    Earliest,
    After(String),
}

/// What a subscriber asks for, whichever way it comes.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) interest: Interest,
    pub(crate) resume: Resume,
    pub(crate) gap_events: bool,
    pub(crate) greeting: bool,
    pub(crate) checkpoint: Checkpoint,
    /// The longest silence that it allows.
    pub(crate) heartbeat: Option<Duration>,
    pub(crate) chunked: bool,
    pub(crate) wishes: Wishes,
    /// It is a request that becomes no stream.
    pub(crate) is_stranger: bool,
    /// On its connections before, it read everything up to here, or that it cannot have it; `None`: it read
    /// no stream, or none that gave it an id.
    pub(crate) has: Option<u64>,
}

impl Request {
    /// Whether it resumes from a number of some log that is newer than this.
    pub(crate) fn is_ahead_of(&self, newest: u64) -> bool {
        let Resume::After(id) = &self.resume else { return false };
        Cursor::parse(id).is_some_and(|cursor| cursor.seq > newest)
    }
}

pub(crate) struct Client {
    pub(crate) number: usize,
    /// Its next request; `resume` is what it asks for until it has read an id.
    pub(crate) request: Request,
    pub(crate) asks_in_query: bool,
    /// 0: HTTP/1.0; 1: `Connection: close`; else chunked.
    pub(crate) version: usize,
    /// It reads at once whatever comes.
    pub(crate) is_fast: bool,
    /// It is no subscriber: one of these is the answer.
    pub(crate) statuses: &'static [u16],
    /// It connects again whenever it is not connected.
    pub(crate) returns: bool,
    /// As a browser keeps it; empty until there was one.
    pub(crate) last_id: String,
    pub(crate) last_shard: Option<usize>,
    pub(crate) last_end: Option<StreamEnd>,
    pub(crate) connection: Option<ClientConnection>,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamEnd {
    pub(crate) is_cut: bool,
    /// Something was released that was not sent and is not known to be gone.
    pub(crate) misses: bool,
}

/// What a client knows of its connection. The rest is in the network of the shard.
pub(crate) struct ClientConnection {
    pub(crate) shard: usize,
    /// Its index among the connections of the shard.
    pub(crate) index: usize,
    /// Pieces of the request that are still to be sent.
    pub(crate) unsent: VecDeque<Vec<u8>>,
    pub(crate) connected_at: Duration,
}

/// Something that a client has read whole.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// It adopts this id.
    pub(crate) id: Option<String>,
    /// It has everything up to here, or knows that it cannot.
    pub(crate) has: u64,
}

impl Client {
    /// What it asks for when it connects now.
    pub(crate) fn resume(&self) -> Resume {
        match self.last_id.is_empty() {
            true => self.request.resume.clone(),
            false => Resume::After(self.last_id.clone()),
        }
    }

    /// Its request, as it would be now.
    pub(crate) fn request_now(&self) -> Request {
        Request { resume: self.resume(), ..self.request.clone() }
    }

    pub(crate) fn is_subscriber(&self) -> bool {
        self.statuses.is_empty()
    }

    /// Takes what it has read.
    pub(crate) fn take(&mut self, item: Item) {
        if let Some(id) = item.id {
            self.last_id = id;
        }
        if !self.last_id.is_empty() {
            self.request.has = Some(item.has);
        }
    }

    /// Its request as text: what it asks for first may stand in the query, what it has read comes in the
    /// header.
    pub(crate) fn request_text(&self) -> String {
        let request = &self.request;
        let mut target = "/events?".to_owned();
        target.extend(request.interest.topics.iter().map(|topic| format!("topic={topic}&")));
        target.extend(request.interest.patterns.iter().map(|pattern| format!("match={}&", encoded(pattern))));
        target.push_str(&sight_text(&request.interest.sight));
        target.push_str(if request.greeting { "hello&" } else { "" });
        target.push_str(if request.gap_events { "" } else { "gap=off&" });
        target.push_str(match request.checkpoint {
            Checkpoint::Off => "checkpoint=off&",
            Checkpoint::Block => "",
            Checkpoint::Event => "checkpoint=event&",
            other => unreachable!("no client asks for {other:?}"),
        });
        target.push_str(&request.wishes.text());
        if let Some(heartbeat) = request.heartbeat {
            target.push_str(&format!("heartbeat={}&", heartbeat.as_secs()));
        }
        let text = |resume: &Resume| match resume {
            Resume::Now => None,
            Resume::Earliest => Some("earliest".to_owned()),
            Resume::After(id) => Some(id.clone()),
        };
        if let (true, Some(id)) = (self.asks_in_query, text(&request.resume)) {
            target.push_str(&format!("lastEventId={id}"));
        }
        let minor = u8::from(self.version != 0);
        let mut head = format!("GET {target} HTTP/1.{minor}\r\nHost: a\r\n");
        if self.version == 1 {
            head.push_str("Connection: close\r\n");
        }
        if let (true, Some(id)) = (!self.asks_in_query || !self.last_id.is_empty(), text(&self.resume())) {
            head.push_str(&format!("Last-Event-ID: {id}\r\n"));
        }
        head.push_str("\r\n");
        head
    }

    /// Its request, for a server that has read it.
    pub(crate) fn subscribe(&self) -> Subscribe {
        let request = &self.request;
        let subscribe = Subscribe::to(request.interest.topics.iter().cloned())
            .with_patterns(request.interest.patterns.iter().cloned())
            .with_gap_events(request.gap_events)
            .with_checkpoint(request.checkpoint);
        let mut subscribe = grant_sight(&sight_text(&request.interest.sight), subscribe);
        if let Some(heartbeat) = request.heartbeat {
            subscribe = subscribe.with_heartbeat(heartbeat);
        }
        subscribe = match self.resume() {
            Resume::Now => subscribe,
            Resume::Earliest => subscribe.with_resume("earliest"),
            Resume::After(id) => subscribe.with_resume(id),
        };
        request.wishes.grant(if request.greeting { greet(subscribe) } else { subscribe })
    }
}

/// Adds the greeting of this world.
pub(crate) fn greet(subscribe: Subscribe) -> Subscribe {
    let kind = fanfare::EventType::new("hello").expect("a type");
    subscribe.with_greeting(Some(&kind), "you")
}

/// A sight as parameters of a query.
pub(crate) fn sight_text(sight: &Sight) -> String {
    match sight {
        Sight::None => String::new(),
        Sight::All => "private&".to_owned(),
        Sight::Of(topics, patterns) => {
            let topics = topics.iter().map(|topic| format!("private={topic}&"));
            topics.chain(patterns.iter().map(|pattern| format!("seen={}&", encoded(pattern)))).collect()
        }
    }
}

/// Characters that a pattern may have and a query may not.
const ESCAPES: [(char, &str); 3] = [('{', "%7B"), ('}', "%7D"), ('+', "%2B")];

fn encoded(pattern: &Pattern) -> String {
    let text = pattern.as_str().to_owned();
    ESCAPES.iter().fold(text, |text, (character, escape)| text.replace(*character, escape))
}

fn decoded(text: &str) -> Pattern {
    let text = text.to_owned();
    pattern(
        ESCAPES.iter().fold(text, |text, (character, escape)| text.replace(escape, &character.to_string())),
    )
}

/// Grants the sight of a query.
pub(crate) fn grant_sight(query: &str, subscribe: Subscribe) -> Subscribe {
    if query.split('&').any(|field| field == "private") {
        return subscribe.with_private_events(true);
    }
    let topics = query.split('&').filter_map(|field| field.strip_prefix("private="));
    let patterns = query.split('&').filter_map(|field| field.strip_prefix("seen="));
    subscribe.with_private_topics(topics.map(topic)).with_private_patterns(patterns.map(decoded))
}

/// A pattern with this text.
pub(crate) fn pattern(text: impl AsRef<str>) -> Pattern {
    Pattern::parse(text.as_ref()).expect("a pattern")
}

/// A topic of this name.
pub(crate) fn topic(name: impl AsRef<str>) -> Topic {
    Topic::new(name).expect("a topic")
}
