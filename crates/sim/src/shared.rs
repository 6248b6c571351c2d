//! What every part of a world shares: chance, time, the hub, the list of all events; and the publishers.

use std::cell::{Cell, OnceCell, RefCell};
use std::time::Duration;

use fanfare::{Cursor, Epoch, Event, EventId, EventType, Hub, PublishError, Topic};
use fanfare_proto::frame::Frame;

use crate::choices::Choices;
use crate::history::{Entry, History, Interest};
use crate::setting::Setting;
use crate::tally::{Tally, Thing};
use crate::trace::Trace;

/// Tells the trace what happened.
macro_rules! tell {
    ($shared:expr, $($what:tt)*) => {
        if $shared.trace != $crate::trace::Trace::Off {
            $shared.trace.tell($shared.now.get(), format_args!($($what)*));
        }
    };
}
pub(crate) use tell;

pub(crate) struct Shared {
    pub(crate) choices: RefCell<Choices>,
    pub(crate) setting: Setting,
    /// Whether the world is as bad as its setting allows. In the end it is not.
    pub(crate) hostile: Cell<bool>,
    pub(crate) trace: Trace,
    pub(crate) now: Cell<Duration>,
    pub(crate) tally: RefCell<Tally>,
    pub(crate) history: RefCell<History>,
    pub(crate) hub: OnceCell<Hub>,
    /// A drain has begun: nothing more is published.
    pub(crate) over: Cell<bool>,
    /// No shard cuts anybody off for the drain before this.
    pub(crate) cuts_from: Cell<Duration>,
}

impl Shared {
    pub(crate) fn new(choices: Choices, setting: Setting, epoch: Epoch, trace: Trace) -> Shared {
        Shared {
            hostile: Cell::new(setting.hostile),
            choices: RefCell::new(choices),
            setting,
            trace,
            now: Cell::new(Duration::ZERO),
            tally: RefCell::default(),
            history: RefCell::new(History { epoch, events: Vec::new() }),
            hub: OnceCell::new(),
            over: Cell::new(false),
            cuts_from: Cell::new(Duration::MAX),
        }
    }

    pub(crate) fn below(&self, bound: usize) -> usize {
        self.choices.borrow_mut().below(bound)
    }

    pub(crate) fn one_in(&self, count: usize) -> bool {
        self.choices.borrow_mut().one_in(count)
    }

    pub(crate) fn pick<T: Copy>(&self, choices: &[T]) -> T {
        self.choices.borrow_mut().pick(choices)
    }

    /// Something bad that happens once in `count` times, in a hostile world.
    pub(crate) fn mishap(&self, count: usize) -> bool {
        self.hostile.get() && self.one_in(count)
    }

    pub(crate) fn happened(&self, thing: Thing) {
        self.tally.borrow_mut().add(thing, 1);
    }

    pub(crate) fn hub(&self) -> &Hub {
        self.hub.get().expect("a hub")
    }

    pub(crate) fn topic(&self) -> Topic {
        Topic::new(self.pick(&["a", "b", "c", "d", "e"])).expect("a topic")
    }

    /// Publishes one event, or a few at once. `within` says what is going on meanwhile.
    pub(crate) fn publish_some(&self, within: &str) {
        let count = self.pick(&[1, 1, 1, 2, 5]);
        let first = self.history.borrow().newest() + 1;
        let (mut events, mut entries) = (Vec::new(), Vec::new());
        for seq in first..first + count {
            let (event, entry) = self.some_event(seq);
            events.push(event);
            entries.push(entry);
        }
        self.publish(events, entries, within);
    }

    /// Publishes one event with this much data to one topic; false where that was refused.
    pub(crate) fn publish_to(&self, topic: &Topic, size: usize) -> bool {
        let seq = self.history.borrow().newest() + 1;
        let data = format!("{seq} {}", "x".repeat(size));
        let event = Event::new(topic.clone()).data(data.clone());
        let topics = vec![topic.clone()];
        let published_at = self.now.get();
        let entry =
            Entry { seq, topics, private: false, own_id: None, kind: None, data, published_at, size: 0 };
        self.publish(vec![event], vec![entry], "")
    }

    fn publish(&self, mut events: Vec<Event>, mut entries: Vec<Entry>, within: &str) -> bool {
        let limits = &self.setting.limits;
        let epoch = self.history.borrow().epoch;
        for (event, entry) in events.iter().zip(&mut entries) {
            let id = entry.wire_id(epoch);
            entry.size = Frame::encode(entry.seq, &id, event.clone(), entry.published_at).size();
        }
        let too_large = |entry: &Entry| entry.data.len() > limits.event_bytes;
        let is_reserved = |id: &str| Cursor::parse(id).is_some_and(|cursor| cursor.epoch == epoch);
        let reserved = |entry: &Entry| entry.own_id.as_deref().is_some_and(is_reserved);
        let bad = |entry: &Entry| too_large(entry) || reserved(entry);
        let count = events.len();
        let bytes: usize = events.iter().map(Frame::size_at_most).sum();
        let is_larger = count > limits.mailbox_events.max(1) || (count > 1 && bytes > limits.mailbox_bytes);
        assert_eq!(self.hub().check(&events).is_err(), entries.iter().any(bad), "the hub's own check");
        let thing = match self.hub().publish_batch(&mut events) {
            Ok(published) => {
                let taken = published.count;
                assert_eq!(events.len(), count - taken, "what was published is taken");
                assert!(taken == count || (is_larger && taken > 0), "half a batch");
                entries.truncate(taken);
                assert!(!entries.iter().any(bad) && !self.over.get(), "published what should be refused");
                let ids = (entries[0].wire_id(epoch), entries[taken - 1].wire_id(epoch));
                assert_eq!((published.first, published.last), ids);
                tell!(self, "publish {} of {} events from {}{within}", taken, count, entries[0].seq);
                self.tally.borrow_mut().add(Thing::Published, taken as u64);
                if taken > 1 {
                    self.happened(Thing::Batch);
                }
                self.history.borrow_mut().events.extend(entries);
                return true;
            }
            Err(PublishError::Busy) => {
                assert!(is_larger || !entries.iter().any(bad));
                Thing::Busy
            }
            Err(PublishError::TooLarge { index, .. }) => {
                assert!(too_large(&entries[index]));
                Thing::TooLarge
            }
            Err(PublishError::ReservedId { index }) => {
                assert!(reserved(&entries[index]));
                Thing::ReservedId
            }
            Err(PublishError::Empty) => panic!("there were {count} events"),
            Err(PublishError::Stopped) => {
                assert!(self.over.get(), "refused though nothing has ended");
                Thing::Stopped
            }
        };
        assert_eq!(events.len(), count, "what was refused is left");
        tell!(self, "publish {count} events: {}", thing.words());
        self.happened(thing);
        false
    }

    fn some_event(&self, seq: u64) -> (Event, Entry) {
        let mut topics = vec![self.topic()];
        if self.one_in(4) {
            topics.push(self.topic());
            topics.dedup();
        }
        let private = self.one_in(5);
        let own_id = match self.below(40) {
            32..39 => Some(format!("own-{}", if self.setting.ids_repeat { seq % 5 } else { seq })),
            39 if self.hostile.get() && self.one_in(4) => {
                let epoch = self.history.borrow().epoch;
                Some(Cursor { epoch, seq: self.below(100) as u64 }.to_string())
            }
            _ => None,
        };
        let kind = self.one_in(8).then_some("paid");
        let size = self.pick(&[0, 10, 10, 100, 100, 500, 3_000, 35_000]);
        let line_end = if self.one_in(8) { "\n" } else { " " };
        let data = format!("{seq} {}{line_end}end", "x".repeat(size));
        let mut event = Event::new(topics[0].clone()).private(private).data(data.clone());
        for topic in &topics[1..] {
            event = event.also(topic.clone()).expect("room for two topics");
        }
        if let Some(id) = &own_id {
            event = event.id(EventId::new(id).expect("an id"));
        }
        if let Some(kind) = kind {
            event = event.kind(EventType::new(kind).expect("a type"));
        }
        let published_at = self.now.get();
        (event, Entry { seq, topics, private, own_id, kind, data, published_at, size: 0 })
    }

    /// Topics that subscribers choose from.
    pub(crate) fn some_topics(&self) -> Vec<Topic> {
        let mut topics: Vec<Topic> = (0..1 + self.below(3)).map(|_| self.topic()).collect();
        topics.sort_unstable();
        topics.dedup();
        topics
    }

    /// Counts what is remarkable about an event that has come to somebody.
    pub(crate) fn note_delivery(&self, entry: &Entry, interest: &Interest) {
        self.happened(Thing::Delivery);
        if entry.topics.iter().filter(|topic| interest.topics.contains(topic)).count() > 1 {
            self.happened(Thing::MatchedTwice);
        }
    }
}
