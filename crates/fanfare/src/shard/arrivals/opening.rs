//! Streams that begin: the audience, the opening bytes, and the answer where there is no room.

use std::time::Duration;

use fanfare_io::{Cause, Io, Socket};
use fanfare_proto::delivery::{NewStream, Opened};
use fanfare_proto::event::Retry;
use fanfare_proto::frame::{checkpoint, ending, prelude, wrap};
use fanfare_proto::limits::{FullPolicy, OPENING_TOPICS_OF_A_SCAN};
use fanfare_proto::link::Encoding;
use fanfare_proto::log::Start;
use fanfare_proto::stream::{Deciseconds16, StreamOptions};
use fanfare_proto::unsent::Unsent;

use super::Reply;
use crate::admission::{Refusal, Subscribe};
use crate::response;
use crate::shard::{Shard, SlotKey};

impl<I: Io> Shard<I> {
    /// Begins a stream on a socket that is not watched.
    pub(super) fn subscribe(
        &mut self,
        socket: Socket,
        subscribe: &Subscribe,
        encoding: Encoding,
        start: Option<Start>,
        now: Duration,
    ) -> Result<(), Reply> {
        let selectors = subscribe.topics.len() + subscribe.patterns().len();
        let scans = start.is_some() && !subscribe.patterns().is_empty();
        let scan = if scans { OPENING_TOPICS_OF_A_SCAN } else { 0 };
        self.topics_left = self.topics_left.saturating_sub(selectors + scan);
        if self.delivery.len() >= self.limits.connections {
            return Err(self.no_room(subscribe, encoding));
        }
        if subscribe.members.len() > self.limits.members_per_subscription {
            let text = "the server gave this subscription more members of topics than it may have";
            return Err(Reply::Refuse(Refusal::new(500, text)));
        }
        if !self.connections.has_room_for(subscribe, self.limits.details_bytes) {
            return Err(self.no_room(subscribe, encoding));
        }
        let subscription = subscribe.subscription(encoding);
        if !self.delivery.has_room_for(&subscription) {
            return Err(self.no_room(subscribe, encoding));
        }
        self.take_ended(now);
        let link = self.delivery.reserve();
        let Ok(opened) = self.delivery.open(subscription, start, &mut self.links.log) else {
            return Err(self.no_room(subscribe, encoding));
        };
        let token = SlotKey::Link(link).token();
        if self.io.watch(socket, token).is_err() {
            self.delivery.abandon(opened, &mut self.links.log);
            self.counts.turned_away += 1;
            return Err(Reply::Close);
        }
        let heartbeat = self.limits.heartbeat_interval(subscribe.heartbeat);
        let options = StreamOptions {
            gap_events: subscribe.gap_events,
            checkpoint: subscribe.checkpoint,
            heartbeat: (heartbeat < self.limits.heartbeat).then(|| Deciseconds16::of(heartbeat)),
        };
        let opening = self.opening(subscribe, encoding, &opened);
        match self.send_own(&opening, socket) {
            Ok(sent) => {
                let is_cut = sent < opening.len();
                let unsent = is_cut.then(|| Unsent::own(opening.into_boxed_slice(), sent));
                let (lifetime, has_gap) = (subscribe.lifetime, opened.gap);
                let new = NewStream { link, socket, options, lifetime, unsent };
                self.delivery.begin(opened, new, now, &mut self.links.log);
                self.connected(link, subscribe, socket, has_gap, now);
            }
            Err(()) => {
                self.delivery.abandon(opened, &mut self.links.log);
                self.closing.push((socket, Some(token)));
            }
        }
        Ok(())
    }

    /// The head, the prelude, the gap event and the greeting: what is this subscriber's alone.
    fn opening(&mut self, subscribe: &Subscribe, encoding: Encoding, opened: &Opened) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(512);
        response::stream_head(subscribe, encoding, opened.gap, self.date, &mut bytes);
        let mut body = Vec::with_capacity(64);
        let retry_ms = subscribe.retry.map_or_else(|| self.jittered_retry_ms(), Retry::millis);
        prelude(retry_ms, &mut body);
        body.extend_from_slice(&subscribe.greeting);
        let reports_gap = opened.gap && subscribe.gap_events;
        if !reports_gap && opened.cursor >= opened.incomplete_until {
            // A gap event has an id itself. A subscriber that gets what is left of incomplete history
            // has no cursor yet from which it would miss nothing.
            checkpoint(subscribe.checkpoint, self.delivery.cursor(opened.cursor), &mut body);
        }
        wrap(&body, encoding, &mut bytes);
        if reports_gap {
            let asked = subscribe.resume.as_deref().unwrap_or_default();
            self.delivery.opening_gap_event(opened, asked, &self.links.log, &mut bytes);
        }
        bytes
    }

    /// Sends bytes of its own to one socket, and says how many it took.
    pub(super) fn send_own(&mut self, bytes: &[u8], socket: Socket) -> Result<usize, ()> {
        let exceptions = &mut self.exceptions;
        self.io.send_batch(bytes, std::iter::once(socket), exceptions);
        match exceptions.pop() {
            None => Ok(bytes.len()),
            Some(exception) => match exception.cause {
                Cause::Full => Ok(exception.sent),
                Cause::Gone(_) => Err(()),
            },
        }
    }

    /// The configured answer to a subscriber that finds no room.
    fn no_room(&mut self, subscribe: &Subscribe, encoding: Encoding) -> Reply {
        match self.limits.when_full {
            FullPolicy::EndStream => {
                self.counts.refused += 1;
                let mut bytes = Vec::new();
                response::stream_head(subscribe, encoding, false, self.date, &mut bytes);
                ending(self.jittered_retry_ms(), encoding, &mut bytes);
                Reply::Answer(bytes)
            }
            FullPolicy::Drop => {
                self.counts.refused += 1;
                Reply::Close
            }
            _ => {
                let wait = 1 + self.jitter.next_number() % 10;
                let full = Refusal::new(503, "this server has as many subscribers as it may hold");
                Reply::Refuse(full.own_header("Retry-After", &wait.to_string()))
            }
        }
    }
}
