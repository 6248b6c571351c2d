//! The table of audiences: found by subscription and by topic, with counts that are always up to date.

use std::collections::VecDeque;
use std::sync::Arc;

use slab::Slab;
use smallvec::SmallVec;

use super::marking::Marking;
use super::sweep::Sweep;
use super::{AudienceId, Member, Subscription};
use crate::event::Topic;
use crate::event_log::NoRoomForPatterns;
use crate::frame::Frame;
use crate::frames::FrameStore;
use crate::histogram::Histogram;
use crate::limits::{RUN_BYTES, SMALL_FAN_OUT, SWEEP_FRAMES};
use crate::log::Log;
use crate::pattern::{Pattern, PatternKey, PatternTable};
use crate::shrink::shrink_list;
use crate::slot_table::{HashKeys, SlotTable};
use crate::slots::{NO_SLOT, Slots};
use crate::stream::Deciseconds;

pub(super) struct Audience {
    pub(super) subscription: Arc<Subscription>,
    /// The subscription's hash, so that a table that grows need not read it.
    hash: u64,
    /// The topics and patterns, in the order of the subscription: where each is, and where this audience
    /// stands in its list, so that it leaves a topic with a million audiences as fast as one with ten.
    topics: SmallVec<[TopicIndex; 1]>,
    pub(super) members: SmallVec<[Member; 1]>,
    /// The newest event that marked this audience, or the newest of all when the audience began. Events up to
    /// here that still come are ignored.
    pub(super) head: u64,
    /// The unfinished sweep, if there is one: its key.
    pub(super) sweep: Option<SweepKey>,
    /// When the last completed pass began: every member was sent something since, or had everything.
    pub(super) swept_at: Deciseconds,
    /// Streams of this audience that are not members now.
    laggards: u32,
    /// It has lost its last stream, and is to be removed unless it has one again.
    is_to_be_removed: bool,
}

/// A sweep's index among the sweeps, plus one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SweepKey(std::num::NonZeroU32);

impl SweepKey {
    pub(super) fn of(index: usize) -> SweepKey {
        SweepKey(std::num::NonZeroU32::MIN.saturating_add(index as u32))
    }

    pub(super) fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

#[derive(Clone, Copy)]
struct TopicIndex {
    topic: u32,
    index: u32,
}

impl Audience {
    /// The memory of an audience of this subscription without its members and topics, in bytes; an upper
    /// bound.
    fn bytes(subscription: &Subscription) -> usize {
        const COUNTERS_BYTES: usize = 2 * size_of::<usize>();
        // An id in a topic's list, which has up to four times the room that it needs.
        const ID_BYTES: usize = 4 * size_of::<AudienceId>();
        let selectors = subscription.selectors();
        let spilled = if selectors > 1 { size_of::<Pattern>() + size_of::<TopicIndex>() } else { 0 };
        // A pattern has a place in a list, and may be in memory for this audience alone.
        let patterns = subscription.patterns().iter().map(Pattern::bytes).sum::<usize>();
        Slots::<Audience>::ENTRY_BYTES
            + SlotTable::ENTRY_BYTES
            + COUNTERS_BYTES
            + size_of::<Subscription>()
            + selectors * (spilled + ID_BYTES)
            + patterns
    }
}

/// The audiences that read one topic, or one pattern.
pub struct TopicAudiences {
    name: Name,
    /// The hash of a topic's name.
    hash: u64,
    pub(super) audiences: SmallVec<[AudienceId; 2]>,
    subscribers: u32,
    laggards: u32,
}

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Topic(Topic),
    Pattern(PatternKey),
}

const _: () = assert!(size_of::<Name>() == size_of::<Topic>(), "a pattern costs topics nothing");

/// Selectors that no audience has any more.
#[derive(Default)]
pub struct Unread {
    /// Topics by their names.
    pub topics: SmallVec<[Topic; 1]>,
    /// Patterns.
    pub patterns: Vec<Pattern>,
}

impl Unread {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty() && self.patterns.is_empty()
    }
}

impl TopicAudiences {
    /// The memory of a topic that a shard reads, in bytes, without its audiences: here, in the log, and its
    /// name. An upper bound, because other shards may read the topic too.
    fn bytes(topic: &Topic) -> usize {
        Slots::<TopicAudiences>::ENTRY_BYTES + SlotTable::ENTRY_BYTES + Log::reader_entry_bytes(topic)
    }

    /// The same for a pattern.
    fn bytes_of_pattern(pattern: &Pattern) -> usize {
        let here = PatternTable::<u32>::bytes_at_most(pattern);
        Slots::<TopicAudiences>::ENTRY_BYTES + here + Log::pattern_entry_bytes(pattern)
    }

    fn new(name: Name, hash: u64) -> TopicAudiences {
        TopicAudiences { name, hash, audiences: SmallVec::new(), subscribers: 0, laggards: 0 }
    }

    fn topic(&self) -> Option<&Topic> {
        match &self.name {
            Name::Topic(topic) => Some(topic),
            Name::Pattern(_) => None,
        }
    }

    /// Streams that read the topic, laggards included.
    pub fn subscribers(&self) -> usize {
        self.subscribers as usize
    }

    /// Laggards that read the topic.
    pub fn laggards(&self) -> usize {
        self.laggards as usize
    }
}

/// How far behind a sweep may be before the shard takes no more events, and which events need not wait for
/// it.
#[derive(Clone, Copy, Debug)]
pub struct SweepBounds {
    /// Events that an unfinished sweep still has to bring to some member.
    pub frames: usize,
    /// Bytes of them: two full sends. More would not make sends cheaper, only later.
    pub bytes: usize,
    /// An event that at most this many streams are to get overtakes larger ones.
    pub small_fan_out: usize,
}

impl Default for SweepBounds {
    fn default() -> SweepBounds {
        SweepBounds { frames: SWEEP_FRAMES, bytes: 2 * RUN_BYTES, small_fan_out: SMALL_FAN_OUT }
    }
}

/// The audiences of a shard.
///
/// There may be a million of them, and nothing is delivered while a table grows: so none of these tables
/// grows in one piece.
pub struct Audiences {
    pub(super) table: Slots<Audience>,
    by_subscription: SlotTable,
    pub(super) topics: Slots<TopicAudiences>,
    by_topic: SlotTable,
    /// The keys in `topics` of what reads patterns.
    patterns: PatternTable<u32>,
    /// The memory of the tables above, and of the topics' entries in the log.
    bytes: usize,
    keys: HashKeys,
    pub(super) sweeps: Slab<Sweep>,
    /// Audiences that an event with a small fan-out has marked: they need not wait for a broadcast.
    pub(super) small_queue: VecDeque<AudienceId>,
    pub(super) broad_queue: VecDeque<AudienceId>,
    /// Events that are not marked everywhere yet, the oldest first. Only the first one advances.
    pub(super) markings: VecDeque<Marking>,
    /// Sweeps that are far behind.
    pub(super) backlogged: usize,
    /// How long passes took.
    pub(super) pass_times: Histogram,
    pub(super) bounds: SweepBounds,
}

impl Audiences {
    /// An empty table. `seed` makes its hashes unpredictable, so it is random in production.
    pub fn new(bounds: SweepBounds, seed: u64) -> Audiences {
        Audiences {
            table: Slots::new(),
            by_subscription: SlotTable::new(),
            topics: Slots::new(),
            by_topic: SlotTable::new(),
            patterns: PatternTable::new(),
            bytes: 0,
            keys: HashKeys::new(seed),
            sweeps: Slab::new(),
            small_queue: VecDeque::new(),
            broad_queue: VecDeque::new(),
            markings: VecDeque::new(),
            backlogged: 0,
            pass_times: Histogram::default(),
            bounds,
        }
    }

    /// The audience of a subscription, if there is one.
    pub fn find(&self, subscription: &Subscription) -> Option<AudienceId> {
        self.find_hashed(subscription, self.keys.hash(subscription))
    }

    fn find_hashed(&self, subscription: &Subscription, hash: u64) -> Option<AudienceId> {
        let is_it = |slot: u32| {
            let audience = &self.table[slot];
            audience.hash == hash && *audience.subscription == *subscription
        };
        self.by_subscription.find(hash, is_it).map(AudienceId)
    }

    /// The topics of a subscription that no audience reads yet.
    pub fn unread_topics(&self, subscription: &Subscription) -> SmallVec<[Topic; 1]> {
        let is_unread = |topic: &&Topic| self.topic_key(topic).is_none();
        subscription.topics().iter().filter(is_unread).cloned().collect()
    }

    /// The patterns of a subscription that no audience reads yet.
    pub fn unread_patterns(&self, subscription: &Subscription) -> Vec<Pattern> {
        let is_unread = |pattern: &&Pattern| self.patterns.find(pattern).is_none();
        subscription.patterns().iter().filter(is_unread).cloned().collect()
    }

    /// Adds patterns that no audience reads yet, for an audience that is created next.
    ///
    /// # Errors
    /// It would be too much work to find the patterns of a topic with them. Nothing has changed.
    pub fn add_patterns(&mut self, patterns: &[Pattern]) -> Result<(), NoRoomForPatterns> {
        for (added, pattern) in patterns.iter().enumerate() {
            if self.add_pattern(pattern).is_none() {
                self.remove_patterns(&patterns[..added]);
                return Err(NoRoomForPatterns);
            }
        }
        Ok(())
    }

    /// Removes patterns that were added for an audience that is not created.
    pub fn remove_patterns(&mut self, patterns: &[Pattern]) {
        for pattern in patterns {
            if let Some(&key) = self.patterns.find(pattern).and_then(|key| self.patterns.get(key)) {
                debug_assert!(self.topics[key].audiences.is_empty(), "{pattern} is read");
                self.remove_entry(key, &mut Unread::default());
            }
        }
    }

    /// The memory of all audiences and topics in bytes, with the topics' entries in the log: what
    /// subscriptions take beside the records of streams. An upper bound.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// By how much [`Audiences::bytes`] would rise with a stream of this subscription.
    pub fn bytes_of_new(&self, subscription: &Subscription) -> usize {
        if self.find(subscription).is_some() {
            return 0;
        }
        let topics = subscription.topics().iter().filter(|topic| self.topic_key(topic).is_none());
        let patterns = subscription.patterns().iter().filter(|pattern| self.patterns.find(pattern).is_none());
        Audience::bytes(subscription)
            + topics.map(TopicAudiences::bytes).sum::<usize>()
            + patterns.map(TopicAudiences::bytes_of_pattern).sum::<usize>()
    }

    /// The most that [`Audiences::bytes_of_new`] may answer, without a search of the tables.
    pub fn bytes_of_new_at_most(subscription: &Subscription) -> usize {
        Audience::bytes(subscription)
            + subscription.topics().iter().map(TopicAudiences::bytes).sum::<usize>()
            + subscription.patterns().iter().map(TopicAudiences::bytes_of_pattern).sum::<usize>()
    }

    /// Adds the audience of a subscription that has none, when the newest event is `head`.
    ///
    /// # Panics
    /// It has a pattern that no audience reads, and that was not added by [`Audiences::add_patterns`].
    pub fn create(&mut self, mut subscription: Subscription, head: u64) -> AudienceId {
        let hash = self.keys.hash(&subscription);
        debug_assert!(self.find_hashed(&subscription, hash).is_none());
        self.bytes += Audience::bytes(&subscription);
        // A name that many audiences have is in memory once.
        subscription.share_names(
            |topic| self.of_topic(topic).and_then(TopicAudiences::topic).cloned(),
            |pattern| self.patterns.find(pattern).and_then(|key| self.patterns.pattern(key)).cloned(),
        );
        let subscription = Arc::new(subscription);
        let id = AudienceId(self.table.insert(Audience {
            subscription: Arc::clone(&subscription),
            hash,
            topics: SmallVec::new(),
            members: SmallVec::new(),
            head,
            sweep: None,
            swept_at: Deciseconds::default(),
            laggards: 0,
            is_to_be_removed: false,
        }));
        let mut topics: SmallVec<[TopicIndex; 1]> =
            subscription.topics().iter().map(|topic| self.add_to_topic(topic, id)).collect();
        for pattern in subscription.patterns() {
            let key = self.patterns.find(pattern).and_then(|key| self.patterns.get(key));
            let key = *key.expect("patterns are added before their audience");
            topics.push(self.add_to_entry(key, id));
        }
        topics.shrink_to_fit();
        self.table[id.0].topics = topics;
        let Audiences { by_subscription, table, .. } = self;
        by_subscription.insert(hash, id.0, |slot| table[slot].hash);
        id
    }

    fn add_to_topic(&mut self, topic: &Topic, id: AudienceId) -> TopicIndex {
        let hash = self.keys.hash(topic);
        let key = self.topic_hashed(topic, hash).unwrap_or_else(|| {
            self.bytes += TopicAudiences::bytes(topic);
            let key = self.topics.insert(TopicAudiences::new(Name::Topic(topic.clone()), hash));
            let Audiences { by_topic, topics, .. } = self;
            by_topic.insert(hash, key, |key| topics[key].hash);
            key
        });
        self.add_to_entry(key, id)
    }

    fn add_to_entry(&mut self, key: u32, id: AudienceId) -> TopicIndex {
        let audiences = &mut self.topics[key].audiences;
        audiences.push(id);
        TopicIndex { topic: key, index: audiences.len() as u32 - 1 }
    }

    /// The entry of a pattern that has none. `None`: the table of patterns does not take it.
    fn add_pattern(&mut self, pattern: &Pattern) -> Option<u32> {
        let number = self.patterns.insert(pattern.clone(), NO_SLOT).ok()?;
        let key = self.topics.insert(TopicAudiences::new(Name::Pattern(number), 0));
        *self.patterns.get_mut(number)? = key;
        self.bytes += TopicAudiences::bytes_of_pattern(pattern);
        Some(key)
    }

    /// The entries of an event's topics, and of the patterns that match one of them, each once; and the steps
    /// of the walks that find the patterns.
    pub(super) fn entries_of(&self, frame: &Frame) -> (SmallVec<[u32; 4]>, usize) {
        let mut steps = 0;
        let mut entries: SmallVec<[u32; 4]> =
            frame.topics().iter().filter_map(|topic| self.topic_key(topic)).collect();
        if !self.patterns.is_empty() {
            let topics = entries.len();
            for topic in frame.topics() {
                let found = |key| entries.extend(self.patterns.get(key).copied());
                steps += self.patterns.matching(topic.as_str(), found).steps;
            }
            entries[topics..].sort_unstable();
            entries.dedup();
        }
        (entries, steps)
    }

    fn topic_key(&self, topic: &Topic) -> Option<u32> {
        self.topic_hashed(topic, self.keys.hash(topic))
    }

    fn topic_hashed(&self, topic: &Topic, hash: u64) -> Option<u32> {
        self.by_topic.find(hash, |key| {
            let entry = &self.topics[key];
            entry.hash == hash && entry.topic() == Some(topic)
        })
    }

    /// The audiences that read a topic by its name, in constant time.
    pub fn of_topic(&self, topic: &Topic) -> Option<&TopicAudiences> {
        self.topic_key(topic).map(|key| &self.topics[key])
    }

    /// Whether an audience has this pattern, which is [normalized](Pattern::normalized).
    pub fn has_pattern(&self, pattern: &Pattern) -> bool {
        self.patterns.find(pattern).is_some()
    }

    /// Whether an audience has no stream.
    pub fn is_empty_audience(&self, id: AudienceId) -> bool {
        let audience = &self.table[id.0];
        audience.members.is_empty() && audience.laggards == 0
    }

    /// Notes that an audience is to be removed later. False: that is noted already.
    pub fn note_removal(&mut self, id: AudienceId) -> bool {
        !std::mem::replace(&mut self.table[id.0].is_to_be_removed, true)
    }

    /// Forgets what [`Audiences::note_removal`] has noted.
    pub fn forget_removal(&mut self, id: AudienceId) {
        self.table[id.0].is_to_be_removed = false;
    }

    /// Removes an audience that has no stream any more, and answers which topics and patterns no audience
    /// reads now.
    pub fn remove_if_empty(&mut self, id: AudienceId, store: &mut FrameStore) -> Unread {
        let mut unread = Unread::default();
        if !self.is_empty_audience(id) {
            return unread;
        }
        debug_assert!(!self.table[id.0].is_to_be_removed, "it would be removed a second time");
        self.drop_sweep(id, store);
        // Its entries in the queues, if it has any, are found stale by `next_turn`.
        let Audiences { by_subscription, table, .. } = self;
        by_subscription.remove(table[id.0].hash, id.0, |slot| table[slot].hash);
        let audience = self.table.remove(id.0);
        self.bytes -= Audience::bytes(&audience.subscription);
        for &TopicIndex { topic, index } in &audience.topics {
            let entry = &mut self.topics[topic];
            entry.audiences.swap_remove(index as usize);
            shrink_list(&mut entry.audiences);
            if let Some(&moved_id) = entry.audiences.get(index as usize) {
                let moved = &mut self.table[moved_id.0];
                if let Some(its) = moved.topics.iter_mut().find(|its| its.topic == topic) {
                    its.index = index;
                }
                // It may have moved to where the marking has been already.
                self.mark_now(moved_id, store);
            } else if entry.audiences.is_empty() {
                self.remove_entry(topic, &mut unread);
            }
        }
        unread
    }

    fn remove_entry(&mut self, key: u32, unread: &mut Unread) {
        let Audiences { by_topic, topics, patterns, .. } = self;
        match topics[key].name {
            Name::Topic(_) => by_topic.remove(topics[key].hash, key, |key| topics[key].hash),
            Name::Pattern(number) => {
                unread.patterns.extend(patterns.pattern(number).cloned());
                patterns.remove(number);
            }
        }
        match topics.remove(key).name {
            Name::Topic(topic) => {
                self.bytes -= TopicAudiences::bytes(&topic);
                unread.topics.push(topic);
            }
            Name::Pattern(_) => {
                self.bytes -= unread.patterns.last().map_or(0, TopicAudiences::bytes_of_pattern);
            }
        }
    }

    /// Takes a stream in that has everything up to its cursor, and says at which index it stands.
    pub fn join(&mut self, id: AudienceId, member: Member) -> u32 {
        self.count(id, 1, 0);
        let members = &mut self.table[id.0].members;
        members.push(member);
        members.len() as u32 - 1
    }

    /// Takes the member at `index` out, and calls `moved(slot, index)` for each that took another's index.
    pub fn leave(&mut self, id: AudienceId, index: u32, mut moved: impl FnMut(u32, u32)) -> Member {
        self.count(id, -1, 0);
        let audience = &mut self.table[id.0];
        let sweep = audience.sweep.map(|key| &mut self.sweeps[key.index()]);
        let index = index as usize;
        let member = audience.members[index];
        let mut hole = index;
        if let Some(sweep) = sweep
            && index < sweep.next as usize
        {
            // The hole moves to the border between the visited and those to visit, so that the member
            // that fills it from the end is still visited in this pass.
            hole = sweep.next as usize - 1;
            if hole != index {
                audience.members[index] = audience.members[hole];
                moved(audience.members[index].slot, index as u32);
            }
            sweep.next -= 1;
        }
        audience.members.swap_remove(hole);
        if let Some(filler) = audience.members.get(hole) {
            moved(filler.slot, hole as u32);
        }
        shrink_list(&mut audience.members);
        member
    }

    /// Counts a stream of this audience as a laggard.
    pub fn add_laggard(&mut self, id: AudienceId) {
        self.count(id, 1, 1);
        self.table[id.0].laggards += 1;
    }

    /// Ends what [`Audiences::add_laggard`] began.
    pub fn remove_laggard(&mut self, id: AudienceId) {
        self.count(id, -1, -1);
        self.table[id.0].laggards -= 1;
    }

    /// Keeps the counts of the audience's topics up to date.
    fn count(&mut self, id: AudienceId, subscribers: i32, laggards: i32) {
        for in_topic in &self.table[id.0].topics {
            let entry = &mut self.topics[in_topic.topic];
            entry.subscribers = entry.subscribers.wrapping_add_signed(subscribers);
            entry.laggards = entry.laggards.wrapping_add_signed(laggards);
        }
    }

    /// The member at `index`.
    pub fn member(&self, id: AudienceId, index: u32) -> Member {
        self.table[id.0].members[index as usize]
    }

    /// Notes that the member at `index` has everything up to `cursor`, where no sweep is under way.
    pub fn set_cursor(&mut self, id: AudienceId, index: u32, cursor: u64) {
        let member = &mut self.table[id.0].members[index as usize];
        member.cursor = member.cursor.max(cursor);
    }

    /// The newest event that marked this audience, or the newest of all when it began.
    pub fn head(&self, id: AudienceId) -> u64 {
        self.table[id.0].head
    }

    /// The common subscription.
    pub fn subscription(&self, id: AudienceId) -> &Arc<Subscription> {
        &self.table[id.0].subscription
    }

    /// When the last completed pass began.
    pub fn swept_at(&self, id: AudienceId) -> Deciseconds {
        self.table[id.0].swept_at
    }

    /// Whether a sweep of this audience is unfinished.
    pub fn is_being_swept(&self, id: AudienceId) -> bool {
        self.table[id.0].sweep.is_some()
    }

    /// Every audience, with how many members and laggards it has.
    pub fn sizes(&self) -> impl Iterator<Item = (AudienceId, usize, usize)> {
        self.table
            .iter()
            .map(|(key, audience)| (AudienceId(key), audience.members.len(), audience.laggards as usize))
    }

    /// Audiences in the table.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is no audience.
    pub fn is_empty(&self) -> bool {
        self.table.len() == 0
    }

    /// Audiences whose sweep is unfinished.
    pub fn sweeps_under_way(&self) -> usize {
        self.sweeps.len()
    }

    /// Topics that an audience reads by their names.
    pub fn topics(&self) -> usize {
        self.by_topic.len()
    }

    /// The names of these topics, in no order.
    pub fn topic_names(&self) -> impl Iterator<Item = &Topic> {
        self.topics.iter().filter_map(|(_, entry)| entry.topic())
    }

    /// The patterns that an audience reads, in no order.
    pub fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        self.patterns.iter().map(|(_, pattern, _)| pattern)
    }

    /// Goes through everything and checks what must always hold between two calls; for tests.
    ///
    /// # Panics
    /// It does not hold.
    pub fn check(&self, store: &FrameStore) {
        let backlogged = self.sweeps.iter().filter(|(_, sweep)| sweep.is_backlogged(&self.bounds)).count();
        assert_eq!(self.backlogged, backlogged, "sweeps far behind");
        let audiences = self.table.iter().map(|(_, audience)| Audience::bytes(&audience.subscription));
        let topics = self.topic_names().map(TopicAudiences::bytes);
        let patterns = self.patterns().map(TopicAudiences::bytes_of_pattern);
        assert_eq!(
            self.bytes,
            audiences.chain(topics).chain(patterns).sum(),
            "bytes of audiences and topics"
        );
        assert_eq!(self.table.len(), self.by_subscription.len(), "one audience for each subscription");
        self.patterns.check();
        let names = self.by_topic.len() + self.patterns.len();
        assert_eq!(self.topics.len(), names, "one entry for each topic and pattern");
        let swept = self.table.iter().filter(|(_, audience)| audience.sweep.is_some()).count();
        assert_eq!(self.sweeps.len(), swept, "one sweep for each audience that is being swept");
        for (key, audience) in self.table.iter() {
            let id = AudienceId(key);
            assert_eq!(self.find(&audience.subscription), Some(id));
            let has_stream = !audience.members.is_empty() || audience.laggards > 0;
            assert!(has_stream || audience.is_to_be_removed, "an audience without a stream");
            let subscription = &audience.subscription;
            assert_eq!(audience.topics.len(), subscription.selectors(), "an index for each selector");
            let key_of = |pattern| self.patterns.find(pattern).map(Name::Pattern);
            let names = subscription.topics().iter().map(|topic| Some(Name::Topic(topic.clone())));
            let names = names.chain(subscription.patterns().iter().map(key_of));
            for (name, in_topic) in names.zip(&audience.topics) {
                let entry = &self.topics[in_topic.topic];
                assert_eq!(Some(&entry.name), name.as_ref());
                assert_eq!(entry.audiences.get(in_topic.index as usize), Some(&id), "its index in {name:?}");
            }
            self.check_sweep(id, audience, store);
        }
        for (_, entry) in self.topics.iter() {
            let audiences = || entry.audiences.iter().map(|id| &self.table[id.0]);
            assert!(!entry.audiences.is_empty(), "a topic that no audience reads");
            let laggards: u32 = audiences().map(|audience| audience.laggards).sum();
            let members: usize = audiences().map(|audience| audience.members.len()).sum();
            let counted = (entry.subscribers as usize, entry.laggards);
            assert_eq!(counted, (members + laggards as usize, laggards), "subscribers of {:?}", entry.name);
        }
    }
}
