//! Streams that begin: the audience, the opening bytes, and the answer where there is no room.

use std::sync::Arc;
use std::time::Duration;

use fanfare_io::{Cause, Io, Socket};
use fanfare_proto::client_limits::bound_for;
use fanfare_proto::cursor::Cursor;
use fanfare_proto::delivery::{NewStream, Opened};
use fanfare_proto::event::Retry;
use fanfare_proto::frame::{checkpoint, prelude, wrap};
use fanfare_proto::limits::OPENING_TOPICS_OF_A_SCAN;
use fanfare_proto::link::Encoding;
use fanfare_proto::log::{EARLIEST, Start};
use fanfare_proto::problem::ProblemKind;
use fanfare_proto::stream::{Deciseconds16, StreamOptions};
use fanfare_proto::unsent::Unsent;
use fanfare_store::Retained;

use super::Reply;
use super::clients::NoRoom;
use crate::admission::{Refusal, Subscribe};
use crate::client_table::ClientBound;
use crate::response;
use crate::shard::{Shard, SlotKey};

/// How much of the budget of openings the opening of a stream uses, in topics: the topics and patterns that
/// it registers for, and a price for each search for the frames of its patterns.
fn price(subscribe: &Subscribe, start: Option<Start>) -> usize {
    let patterns = subscribe.patterns().len();
    let selectors = subscribe.topics.len() + patterns;
    let (Some(start), Some(id)) = (start, subscribe.resume.as_deref()) else { return selectors };
    if patterns == 0 {
        return selectors;
    }
    // One finds whether anything is left before the gap, and one whether anything has come since.
    let gap = usize::from(start.is_gap() && subscribe.gap_events);
    let own_id = usize::from(id != EARLIEST && Cursor::parse(id).is_none());
    selectors + (2 + gap + own_id) * OPENING_TOPICS_OF_A_SCAN
}

impl<I: Io> Shard<I> {
    /// Takes the price of an opening away from the budget of this tick.
    pub(super) fn charge_opening(&mut self, subscribe: &Subscribe, start: Option<Start>) {
        self.topics_left = self.topics_left.saturating_sub(price(subscribe, start));
    }

    /// Begins a stream on a socket that is not watched. It starts there, and may read this of older history,
    /// where that is not everything.
    pub(super) fn subscribe(
        &mut self,
        socket: Socket,
        subscribe: &Subscribe,
        encoding: Encoding,
        (start, retained): (Option<Start>, Option<Arc<dyn Retained>>),
        now: Duration,
    ) -> Result<(), Reply> {
        self.charge_opening(subscribe, start);
        let is_operator = subscribe.is_operator;
        if let Some(bound) = subscribe.refused_by {
            return Err(self.no_room(subscribe, encoding, NoRoom::Client(bound)));
        }
        if self.delivery.len() >= bound_for(is_operator, self.limits.connections) {
            return Err(self.no_room(subscribe, encoding, NoRoom::Connections));
        }
        if subscribe.members.len() > self.limits.members_per_subscription {
            let text = "the server gave this subscription more members of topics than it may have";
            return Err(Reply::Refuse(Refusal::of(ProblemKind::InternalError, text)));
        }
        let details_bytes = bound_for(is_operator, self.limits.details_bytes);
        if !self.connections.has_room_for(subscribe, details_bytes) {
            return Err(self.no_room(subscribe, encoding, NoRoom::Details));
        }
        let subscription = subscribe.subscription(encoding);
        if !self.delivery.has_room_for(&subscription, is_operator) {
            return Err(self.no_room(subscribe, encoding, NoRoom::Topics));
        }
        self.take_ended(now);
        let counted = match (&subscribe.subject, self.limits.clients.streams_per_subject) {
            (Some(subject), Some(most)) => match self.links.clients.enter_subject(subject, most) {
                None => {
                    return Err(self.no_room(subscribe, encoding, NoRoom::Client(ClientBound::Subject)));
                }
                counted => counted,
            },
            _ => None,
        };
        let link = self.delivery.reserve();
        let Ok(opened) = self.delivery.open(subscription, start, &mut self.links.log) else {
            self.leave_subject(counted);
            return Err(self.no_room(subscribe, encoding, NoRoom::Patterns));
        };
        let token = SlotKey::Link(link).token();
        if self.io.watch(socket, token).is_err() {
            self.delivery.abandon(opened, &mut self.links.log);
            self.counts.turned_away += 1;
            self.leave_subject(counted);
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
                if let (Some(retained), Some(history)) = (retained, self.links.log.history()) {
                    history.begun(link, retained, |link| self.delivery.is_laggard(link));
                }
                self.connected(link, subscribe, socket, counted, has_gap, now);
            }
            Err(()) => {
                self.delivery.abandon(opened, &mut self.links.log);
                self.leave_subject(counted);
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
}

#[cfg(test)]
mod tests {
    use fanfare_proto::cursor::Epoch;
    use fanfare_proto::event::Topic;
    use fanfare_proto::pattern::Pattern;

    use super::*;

    /// An opening that tells of a gap, and looks for an id of a publisher, made twice as many searches as it
    /// paid for.
    #[test]
    fn an_opening_pays_for_all_searches_that_it_makes() {
        let two = || Subscribe::to(["a", "b"].map(|name| Topic::new(name).unwrap()));
        let three = || two().with_patterns([Pattern::parse("c/*").unwrap()]);
        let cursor = Cursor { epoch: Epoch::new(1), seq: 7 }.to_string();
        let (at, gap) = (Start::At { cursor: 7, from: 7 }, Start::Gap { cursor: 9, from: 7 });
        let cases = [
            (two().with_resume("mine"), Some(gap), 2),
            (three(), None, 3),
            (three().with_resume(EARLIEST), Some(at), 3 + 2 * OPENING_TOPICS_OF_A_SCAN),
            (three().with_resume(&cursor), Some(at), 3 + 2 * OPENING_TOPICS_OF_A_SCAN),
            (three().with_resume(&cursor), Some(gap), 3 + 3 * OPENING_TOPICS_OF_A_SCAN),
            (
                three().with_resume(&cursor).with_gap_events(false),
                Some(gap),
                3 + 2 * OPENING_TOPICS_OF_A_SCAN,
            ),
            (three().with_resume("mine"), Some(at), 3 + 3 * OPENING_TOPICS_OF_A_SCAN),
            (three().with_resume("mine"), Some(gap), 3 + 4 * OPENING_TOPICS_OF_A_SCAN),
        ];
        for (case, (subscribe, start, topics)) in cases.into_iter().enumerate() {
            assert_eq!(price(&subscribe, start), topics, "case {case}");
        }
    }
}
