//! One subscriber: 150 bytes at most, or the judge would need more memory than the judged.

use flate2::write::MultiGzDecoder;
use rustls::ClientConnection;

use crate::http::Framing;
use crate::sequence::Sequence;
use crate::sse::{Stream, Unfinished};

/// User memory of one subscriber while its stream is idle.
pub(crate) const BYTES: usize = size_of::<Subscriber>();
const _: () = assert!(BYTES <= 150);

/// No event has this number: a run with so many is not judged by where its newcomers started.
pub(super) const NOTHING_OWED: u32 = u32::MAX;

/// Where a subscriber is in the life of its stream.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum State {
    /// No connection; waits for its turn or its time.
    #[default]
    Away,
    /// The connect is under way.
    Connecting,
    /// The request is out, the response head is not complete.
    Head,
    /// Events may come.
    Open,
}

/// A subscriber keeps its place in the slab for the whole run, whatever becomes of its connections.
pub(crate) struct Subscriber {
    /// Counts connections: a notification for an earlier one finds another number and is dropped.
    pub(super) generation: u32,
    pub(super) topic: u32,
    pub(super) group: u8,
    pub(super) state: State,
    /// Failed attempts to open the stream since it was last open.
    pub(super) attempts: u8,
    /// It came while events were published: its first event tells where its sequence starts.
    pub(super) joins: bool,
    /// It left on our account and does not resume: what it missed is not lost.
    pub(super) skips: bool,
    /// With one of these two: the first number that it is owed whatever its first event is. [`NOTHING_OWED`]
    /// until its stream has been open for a while; 4 bytes, because 8 would make every subscriber 8 larger.
    pub(super) owed_from: u32,
    pub(super) stalled: bool,
    /// A heartbeat came on one of its streams.
    pub(super) had_heartbeat: bool,
    /// One of its streams was silent for too long.
    pub(super) was_silent: bool,
    /// When something came last, and when the last event of somebody else came: in the recorder's short form;
    /// 0: never.
    pub(super) heard: u32,
    pub(super) event_at: u32,
    pub(super) framing: Framing,
    pub(super) stream: Stream,
    pub(super) sequence: Sequence,
    pub(super) rare: Option<Box<Rare>>,
    pub(super) unfinished: Option<Box<Unfinished>>,
    /// Response head so far; only while a read ended inside it.
    #[expect(clippy::box_collection, reason = "8 bytes in each of very many subscribers instead of 24")]
    pub(super) head: Option<Box<Vec<u8>>>,
    /// When the connect was started.
    pub(super) started: u64,
}

/// What most subscribers do not have.
#[derive(Default)]
pub(super) struct Rare {
    /// The other topics of its stream, in order.
    pub(super) topics: Vec<OtherTopic>,
    pub(super) tls: Option<Box<ClientConnection>>,
    /// Of a stream that is compressed.
    pub(super) gzip: Option<MultiGzDecoder<Vec<u8>>>,
}

/// What a subscriber has of a further topic of its stream, each as for the first one.
#[derive(Debug)]
pub(super) struct OtherTopic {
    pub(super) topic: u32,
    pub(super) owed_from: u32,
    pub(super) joins: bool,
    pub(super) skips: bool,
    pub(super) sequence: Sequence,
}

impl OtherTopic {
    fn new(topic: u32) -> OtherTopic {
        OtherTopic {
            topic,
            owed_from: NOTHING_OWED,
            joins: false,
            skips: false,
            sequence: Sequence::default(),
        }
    }
}

/// How many events of a topic, of which so many were published, were owed and have not come. With `waits`, for the
/// first event since it joined or left, there are holes only from before it left.
fn missing(sequence: &Sequence, waits: bool, owed_from: u32, published: u64) -> u64 {
    match waits {
        false => sequence.lost(published),
        true => sequence.lost(0) + published.saturating_sub(u64::from(owed_from)),
    }
}

impl Subscriber {
    pub(super) fn new(group: u8, topics: &[u32]) -> Subscriber {
        let (&topic, others) = topics.split_first().unwrap_or((&0, &[]));
        let topics = || others.iter().map(|&topic| OtherTopic::new(topic)).collect();
        Subscriber {
            rare: (!others.is_empty()).then(|| Box::new(Rare { topics: topics(), ..Rare::default() })),
            generation: 0,
            topic,
            group,
            state: State::Away,
            attempts: 0,
            joins: false,
            skips: false,
            owed_from: NOTHING_OWED,
            stalled: false,
            had_heartbeat: false,
            was_silent: false,
            heard: 0,
            event_at: 0,
            framing: Framing::Close,
            stream: Stream::default(),
            sequence: Sequence::default(),
            unfinished: None,
            head: None,
            started: 0,
        }
    }

    /// How many of the events that were published to its topics it was owed and did not get.
    pub(super) fn lost(&self, published: impl Fn(u32) -> u64) -> u64 {
        let of_other = |other: &OtherTopic| {
            let OtherTopic { sequence, joins, skips, owed_from, topic } = other;
            missing(sequence, *joins || *skips, *owed_from, published(*topic))
        };
        let others: u64 = self.other_topics().map(of_other).sum();
        others + missing(&self.sequence, self.joins || self.skips, self.owed_from, published(self.topic))
    }

    fn other_topics(&self) -> impl Iterator<Item = &OtherTopic> {
        self.rare.iter().flat_map(|rare| rare.topics.iter())
    }

    fn other_topics_mut(&mut self) -> impl Iterator<Item = &mut OtherTopic> {
        self.rare.iter_mut().flat_map(|rare| rare.topics.iter_mut())
    }

    /// It is a newcomer to all its topics: the first event of each tells where its sequence starts.
    pub(super) fn join(&mut self) {
        (self.joins, self.owed_from, self.sequence) = (true, NOTHING_OWED, Sequence::default());
        for other in self.other_topics_mut() {
            *other = OtherTopic { joins: true, ..OtherTopic::new(other.topic) };
        }
    }

    /// Its stream was cut on our account; `skips`: it comes back without naming where it was.
    pub(super) fn go_away(&mut self, skips: bool) {
        self.owed_from = NOTHING_OWED;
        self.skips = skips && !self.joins;
        for other in self.other_topics_mut() {
            other.owed_from = NOTHING_OWED;
            other.skips = skips && !other.joins;
        }
    }

    /// It waits for the first event of a topic, and it is not told yet from when on it is owed events.
    pub(super) fn is_to_be_owed(&self) -> bool {
        let waits = |joins, skips, owed_from| (joins || skips) && owed_from == NOTHING_OWED;
        waits(self.joins, self.skips, self.owed_from)
            || self.other_topics().any(|other| waits(other.joins, other.skips, other.owed_from))
    }

    /// From now on it is owed what is published, to the topics of which it still waits for an event.
    pub(super) fn owe(&mut self, published: impl Fn(u32) -> u64) {
        let from = |topic| u32::try_from(published(topic)).unwrap_or(NOTHING_OWED);
        if self.joins || self.skips {
            self.owed_from = from(self.topic);
        }
        for other in self.other_topics_mut().filter(|other| other.joins || other.skips) {
            other.owed_from = from(other.topic);
        }
    }

    /// Skips, where it is still to skip, what it missed on purpose. Returns how many events that are.
    pub(super) fn settle_skipped(&mut self) -> u64 {
        let skip = |sequence: &mut Sequence, skips: bool, owed_from: u32| match skips {
            true if owed_from != NOTHING_OWED => sequence.skip_to(u64::from(owed_from)),
            _ => 0,
        };
        let first = skip(&mut self.sequence, self.skips, self.owed_from);
        let others = self.other_topics_mut();
        first + others.map(|other| skip(&mut other.sequence, other.skips, other.owed_from)).sum::<u64>()
    }

    /// Takes back the numbers that no event has, because only so many were published. Returns how many came.
    pub(super) fn invented(&mut self, published: impl Fn(u32) -> u64) -> u64 {
        let first = self.sequence.cut_to(published(self.topic));
        let others = self.other_topics_mut();
        first + others.map(|other| other.sequence.cut_to(published(other.topic))).sum::<u64>()
    }

    /// Its topics.
    pub(super) fn topics(&self) -> Vec<u32> {
        let others = self.other_topics().map(|other| other.topic);
        std::iter::once(self.topic).chain(others).collect()
    }

    /// Whether the stream could end here without anything being cut off.
    pub(super) fn may_end(&self) -> bool {
        self.framing.may_end() && self.unfinished.as_ref().is_none_or(|rest| !rest.in_event())
    }
}
