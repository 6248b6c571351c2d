//! The table of audiences: found by subscription and by topic, with counts that are always up to date.

use std::collections::VecDeque;
use std::sync::Arc;

use slab::Slab;
use smallvec::SmallVec;

use super::marking::Marking;
use super::sweep::Sweep;
use super::{AudienceId, Member, Subscription};
use crate::event::Topic;
use crate::frames::FrameStore;
use crate::limits::{RUN_BYTES, SMALL_FAN_OUT, SWEEP_FRAMES};
use crate::log::Log;
use crate::shrink::shrink_list;
use crate::slot_table::{HashKeys, SlotTable};
use crate::slots::Slots;
use crate::stream::Deciseconds;

pub(super) struct Audience {
    pub(super) subscription: Arc<Subscription>,
    /// The subscription's hash, so that a table that grows need not read it.
    hash: u64,
    /// The topics, in the order of the subscription: where each is, and where this audience stands in its
    /// list, so that it leaves a topic with a million audiences as fast as one with ten.
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
        let topics = subscription.topics().len();
        let spilled = if topics > 1 { size_of::<Topic>() + size_of::<TopicIndex>() } else { 0 };
        Slots::<Audience>::ENTRY_BYTES
            + SlotTable::ENTRY_BYTES
            + COUNTERS_BYTES
            + size_of::<Subscription>()
            + topics * (spilled + ID_BYTES)
    }
}

/// The audiences that read one topic.
pub struct TopicAudiences {
    name: Topic,
    /// The name's hash.
    hash: u64,
    pub(super) audiences: SmallVec<[AudienceId; 2]>,
    subscribers: u32,
    laggards: u32,
}

impl TopicAudiences {
    /// The memory of a topic that a shard reads, in bytes, without its audiences: here, in the log, and its
    /// name. An upper bound, because other shards may read the topic too.
    fn bytes(topic: &Topic) -> usize {
        Slots::<TopicAudiences>::ENTRY_BYTES + SlotTable::ENTRY_BYTES + Log::reader_entry_bytes(topic)
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
    topics: Slots<TopicAudiences>,
    by_topic: SlotTable,
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
            bytes: 0,
            keys: HashKeys::new(seed),
            sweeps: Slab::new(),
            small_queue: VecDeque::new(),
            broad_queue: VecDeque::new(),
            markings: VecDeque::new(),
            backlogged: 0,
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
        let unread = subscription.topics().iter().filter(|topic| self.topic_key(topic).is_none());
        Audience::bytes(subscription) + unread.map(TopicAudiences::bytes).sum::<usize>()
    }

    /// The most that [`Audiences::bytes_of_new`] may answer, without a search of the tables.
    pub fn bytes_of_new_at_most(subscription: &Subscription) -> usize {
        Audience::bytes(subscription) + subscription.topics().iter().map(TopicAudiences::bytes).sum::<usize>()
    }

    /// Adds the audience of a subscription that has none, when the newest event is `head`.
    pub fn create(&mut self, mut subscription: Subscription, head: u64) -> AudienceId {
        let hash = self.keys.hash(&subscription);
        debug_assert!(self.find_hashed(&subscription, hash).is_none());
        self.bytes += Audience::bytes(&subscription);
        // A name that many audiences have is in memory once.
        subscription.share_names(|topic| self.of_topic(topic).map(|entry| entry.name.clone()));
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
        self.table[id.0].topics =
            subscription.topics().iter().map(|topic| self.add_to_topic(topic, id)).collect();
        let Audiences { by_subscription, table, .. } = self;
        by_subscription.insert(hash, id.0, |slot| table[slot].hash);
        id
    }

    fn add_to_topic(&mut self, topic: &Topic, id: AudienceId) -> TopicIndex {
        let hash = self.keys.hash(topic);
        let key = self.topic_hashed(topic, hash).unwrap_or_else(|| {
            let (name, audiences) = (topic.clone(), SmallVec::new());
            let entry = TopicAudiences { name, hash, audiences, subscribers: 0, laggards: 0 };
            self.bytes += TopicAudiences::bytes(topic);
            let key = self.topics.insert(entry);
            let Audiences { by_topic, topics, .. } = self;
            by_topic.insert(hash, key, |key| topics[key].hash);
            key
        });
        let audiences = &mut self.topics[key].audiences;
        audiences.push(id);
        TopicIndex { topic: key, index: audiences.len() as u32 - 1 }
    }

    fn topic_key(&self, topic: &Topic) -> Option<u32> {
        self.topic_hashed(topic, self.keys.hash(topic))
    }

    fn topic_hashed(&self, topic: &Topic, hash: u64) -> Option<u32> {
        self.by_topic.find(hash, |key| {
            let entry = &self.topics[key];
            entry.hash == hash && entry.name == *topic
        })
    }

    /// The audiences that read a topic, in constant time.
    pub fn of_topic(&self, topic: &Topic) -> Option<&TopicAudiences> {
        self.topic_key(topic).map(|key| &self.topics[key])
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

    /// Removes an audience that has no stream any more, and answers which topics no audience reads now.
    pub fn remove_if_empty(&mut self, id: AudienceId, store: &mut FrameStore) -> SmallVec<[Topic; 1]> {
        if !self.is_empty_audience(id) {
            return SmallVec::new();
        }
        debug_assert!(!self.table[id.0].is_to_be_removed, "it would be removed a second time");
        self.drop_sweep(id, store);
        // Its entries in the queues, if it has any, are found stale by `next_turn`.
        let Audiences { by_subscription, table, .. } = self;
        by_subscription.remove(table[id.0].hash, id.0, |slot| table[slot].hash);
        let audience = self.table.remove(id.0);
        self.bytes -= Audience::bytes(&audience.subscription);
        let mut unread = SmallVec::new();
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
                unread.push(self.remove_topic(topic));
            }
        }
        unread
    }

    fn remove_topic(&mut self, key: u32) -> Topic {
        let Audiences { by_topic, topics, .. } = self;
        by_topic.remove(topics[key].hash, key, |key| topics[key].hash);
        let name = topics.remove(key).name;
        self.bytes -= TopicAudiences::bytes(&name);
        name
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

    /// Whether an audience reads this topic.
    pub fn reads(&self, id: AudienceId, topic: &Topic) -> bool {
        self.table[id.0].subscription.has(topic)
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

    /// Topics that an audience reads.
    pub fn topics(&self) -> usize {
        self.topics.len()
    }

    /// The names of these topics, in no order.
    pub fn topic_names(&self) -> impl Iterator<Item = &Topic> {
        self.topics.iter().map(|(_, entry)| &entry.name)
    }

    /// Goes through everything and checks what must always hold between two calls; for tests.
    ///
    /// # Panics
    /// It does not hold.
    pub fn check(&self, store: &FrameStore) {
        let backlogged = self.sweeps.iter().filter(|(_, sweep)| sweep.is_backlogged(&self.bounds)).count();
        assert_eq!(self.backlogged, backlogged, "sweeps far behind");
        let audiences = self.table.iter().map(|(_, audience)| Audience::bytes(&audience.subscription));
        let topics = self.topics.iter().map(|(_, entry)| TopicAudiences::bytes(&entry.name));
        assert_eq!(self.bytes, audiences.chain(topics).sum(), "bytes of audiences and topics");
        assert_eq!(self.table.len(), self.by_subscription.len(), "one audience for each subscription");
        assert_eq!(self.topics.len(), self.by_topic.len(), "one entry for each topic");
        let swept = self.table.iter().filter(|(_, audience)| audience.sweep.is_some()).count();
        assert_eq!(self.sweeps.len(), swept, "one sweep for each audience that is being swept");
        for (key, audience) in self.table.iter() {
            let id = AudienceId(key);
            assert_eq!(self.find(&audience.subscription), Some(id));
            let has_stream = !audience.members.is_empty() || audience.laggards > 0;
            assert!(has_stream || audience.is_to_be_removed, "an audience without a stream");
            assert_eq!(
                audience.topics.len(),
                audience.subscription.topics().len(),
                "an index for each topic"
            );
            for (topic, in_topic) in audience.subscription.topics().iter().zip(&audience.topics) {
                let entry = &self.topics[in_topic.topic];
                assert_eq!(entry.name, *topic);
                assert_eq!(entry.audiences.get(in_topic.index as usize), Some(&id), "its index in {topic}");
            }
            self.check_sweep(id, audience, store);
        }
        for (_, entry) in self.topics.iter() {
            let audiences = || entry.audiences.iter().map(|id| &self.table[id.0]);
            assert!(!entry.audiences.is_empty(), "a topic that no audience reads");
            let laggards: u32 = audiences().map(|audience| audience.laggards).sum();
            let members: usize = audiences().map(|audience| audience.members.len()).sum();
            let counted = (entry.subscribers as usize, entry.laggards);
            assert_eq!(counted, (members + laggards as usize, laggards), "subscribers of {}", entry.name);
        }
    }
}
