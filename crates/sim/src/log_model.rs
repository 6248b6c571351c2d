//! The log of the process against a naive list of events for each topic.
//!
//! The list obeys the retention of each topic by itself. Which events go because the log as a whole is full,
//! it does not foretell: it observes what the log still has, and judges that there was a reason and that no
//! smaller topic paid for a larger one. From the list alone follows where a subscriber starts, and whether it
//! is told of a gap.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fanfare::sim::{self, LogSnapshot, PatternInLog, TopicInLog};
use fanfare::{Cursor, Epoch, Hub, Limits, LogLimits, Pattern, Retention, Topic};

use crate::client::Resume;
use crate::disk::{self, Disk};
use crate::history::{Entry, History, Interest};

/// What the log may keep for itself of its total: see `FORGOTTEN_SHARE` in the engine.
const FORGOTTEN_SHARE: usize = 16;

/// At most so many bytes are one forgotten topic's in the log's tables.
const FORGOTTEN_TOPIC_BYTES: usize = 700;

/// How late an event may be dropped for its age, beyond the engine's own slack.
const LATE: Duration = Duration::from_millis(100);

/// As many events as this, one tick of the trimming shard drops at once, with time to spare.
const DROPPED_AT_ONCE: usize = 500;

/// What may change the log between two observations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing drops events: only readers come and go.
    Readers,
    /// The shard that trims has its tick, too.
    Trim,
    /// Events were released, and [`LogModel::append`] knows them.
    Release,
    /// The log was filled with what a disk has.
    Open,
}

/// Where a subscriber starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    /// It has everything up to here, or is told that it cannot have it.
    pub(crate) cursor: u64,
    /// Some events up to here are gone. What is left of those after the cursor comes.
    pub(crate) incomplete_until: u64,
    /// Something is missing that it did not ask to be without.
    pub(crate) gap: bool,
    /// It asked for a number that is not released yet.
    pub(crate) ahead: bool,
    /// Events up to here may be left out although the log has them: which one it has is not known.
    pub(crate) excused_until: u64,
}

/// All topics of a world, and what the log must have of them.
pub(crate) struct LogModel {
    limits: LogLimits,
    epoch: Epoch,
    names: Vec<Topic>,
    topics: Vec<TopicModel>,
    /// The patterns of the world, how many of them the log may know, and what it says of each.
    patterns: Vec<Pattern>,
    most_patterns: usize,
    in_log: Vec<PatternInLog>,
    shards: usize,
    /// What happened to patterns since it was last asked for: remembered again, and forgotten.
    pub(crate) remembered: u64,
    pub(crate) forgotten: u64,
    /// The newest number that was released.
    newest: u64,
    /// The log may say of any topic without an entry that something was dropped up to here.
    floor_at_most: u64,
    before: LogSnapshot,
    /// Since the last observation: bytes of events that were released, and bytes of those that their topics'
    /// own retention dropped.
    released_bytes: usize,
    unretained_bytes: usize,
    /// What the log's count of changes was at the last observation.
    observed: Option<u64>,
    /// The newest number when the log was filled with what a disk has.
    opened_at: u64,
    /// Where the engine has what is not in memory.
    disk: Option<Arc<Disk>>,
}

struct TopicModel {
    retention: Retention,
    retained: VecDeque<Retained>,
    /// Bytes of the retained events.
    bytes: usize,
    /// The newest public event of the topic that was dropped, and the newest of all.
    dropped: [u64; 2],
    /// What the log says: every event after this is there, of the public ones and of all. At least `dropped`.
    available_after: [u64; 2],
    /// Ids that retained events bear, public ones or private ones.
    own_ids: BTreeMap<(String, bool), OwnId>,
    /// The shards that read it.
    shards: Vec<usize>,
    has_entry: bool,
}

struct Retained {
    seq: u64,
    size: usize,
    published_at: Duration,
    own_id: Option<String>,
    is_private: bool,
}

struct OwnId {
    /// The first event that bore it, since the log last had none that did.
    first: u64,
    /// Retained events that bear it.
    count: usize,
}

impl LogModel {
    pub(crate) fn new(
        limits: &Limits,
        shards: usize,
        epoch: Epoch,
        names: Vec<Topic>,
        patterns: Vec<Pattern>,
    ) -> LogModel {
        let most_patterns = limits.patterns;
        let limits = limits.log.clone();
        let unknown = PatternInLog { available_after: [0; 2], is_known: false, shards: Vec::new() };
        let topics = names.iter().map(|name| TopicModel::new(retention_of(&limits, name))).collect();
        LogModel {
            limits,
            epoch,
            names,
            topics,
            in_log: vec![unknown; patterns.len()],
            patterns,
            most_patterns,
            shards,
            remembered: 0,
            forgotten: 0,
            newest: 0,
            floor_at_most: 0,
            before: LogSnapshot {
                frames: 0,
                bytes: 0,
                readers: 0,
                topics: 0,
                patterns: 0,
                pattern_readers: 0,
            },
            released_bytes: 0,
            unretained_bytes: 0,
            observed: None,
            opened_at: 0,
            disk: None,
        }
    }

    /// The log of an engine that begins with what a disk has. `history` is everything that was ever visible.
    /// The log in memory may begin anywhere, and says no more than is true: what it lacks, it does not claim
    /// to have.
    pub(crate) fn open(&mut self, disk: &Arc<Disk>, hub: &Hub, history: &History, now: Duration) {
        let in_memory = sim::numbers_in_log(hub);
        let records = disk.all();
        let newest = fanfare::StoreReader::state(&**disk).newest;
        let mut kept: Vec<Entry> = Vec::new();
        for record in records.iter().filter(|record| in_memory.contains(&record.number)) {
            let entry = history.get(record.number).expect("an event that was published");
            kept.push(Entry { published_at: disk::published_at(record, now), ..entry.clone() });
        }
        let numbers: Vec<u64> = kept.iter().map(|entry| entry.seq).collect();
        assert_eq!(numbers, in_memory, "what the log begins with is on the disk");
        for (name, topic) in self.names.iter().zip(&mut self.topics) {
            let of_topic = history.events.iter().filter(|entry| entry.topics.contains(name));
            for entry in of_topic.filter(|entry| !in_memory.contains(&entry.seq)) {
                topic.dropped[1] = topic.dropped[1].max(entry.seq);
                if !entry.private {
                    topic.dropped[0] = topic.dropped[0].max(entry.seq);
                }
            }
        }
        // It may say more of what it does not know of.
        (self.floor_at_most, self.opened_at) = (newest, newest);
        for entry in &kept {
            self.append(entry, now);
        }
        self.newest = newest;
        self.disk = Some(Arc::clone(disk));
        self.observe(hub, Change::Open, now);
    }

    fn topic(&self, name: &Topic) -> &TopicModel {
        let index = self.names.iter().position(|other| other == name);
        &self.topics[index.expect("a topic of this world")]
    }

    // What happens.

    /// An event is released.
    pub(crate) fn append(&mut self, entry: &Entry, now: Duration) {
        self.newest = entry.seq;
        self.released_bytes += entry.size;
        for (name, topic) in self.names.iter().zip(&mut self.topics) {
            if entry.topics.contains(name) {
                self.unretained_bytes += topic.append(entry, now);
            }
        }
    }

    /// Checks what the log has, and judges what it has dropped since the last check.
    ///
    /// # Panics
    /// The log has dropped something without a reason, or says that it has.
    pub(crate) fn observe(&mut self, hub: &Hub, change: Change, now: Duration) {
        let changes = sim::log_changes(hub);
        if self.observed.replace(changes) == Some(changes) {
            return;
        }
        let in_log = sim::topics_in_log(hub, &self.names);
        let after = sim::log_snapshot(hub);
        self.judge_dropped(&in_log, &after, change, now);
        self.judge_claims(&in_log);
        self.judge_patterns(sim::patterns_in_log(hub, &self.patterns, self.shards), &after);
        self.judge_sums(&after);
        (self.released_bytes, self.unretained_bytes, self.before) = (0, 0, after);
    }

    /// Finds what the log has dropped beyond the topics' own retention.
    fn judge_dropped(&mut self, in_log: &[TopicInLog], after: &LogSnapshot, change: Change, now: Duration) {
        let mut evicted = Evicted::default();
        for ((name, topic), in_log) in self.names.iter().zip(&mut self.topics).zip(in_log) {
            let kept = in_log.extent.as_ref().map_or(0, |extent| extent.frames);
            let bytes_before = topic.bytes;
            while topic.retained.len() > kept {
                let dropped = topic.drop_oldest();
                if change == Change::Open || (change == Change::Trim && topic.is_too_old(&dropped, now)) {
                    continue;
                }
                let seq = dropped.seq;
                assert!(change == Change::Release, "the log has dropped {seq} of {name} for nothing");
                evicted.note(bytes_before + 2_000 + 100 * topic.retained.len(), dropped.size);
            }
            let span = topic.retained.front().zip(topic.retained.back());
            let span = span.map(|(oldest, newest)| (oldest.seq, newest.seq));
            if let Some(extent) = &in_log.extent {
                let expected = (topic.retained.len(), topic.bytes, span);
                assert_eq!((kept, extent.bytes, extent.span), expected, "what the log has of {name}");
                topic.shards = extent.shards.iter().collect();
            } else {
                topic.shards.clear();
            }
        }
        if evicted.smallest_victim.is_some() {
            self.judge_eviction(&evicted, after);
        }
    }

    /// Events go for want of room only where there was none, and the largest topics lose them first.
    fn judge_eviction(&self, evicted: &Evicted, after: &LogSnapshot) {
        let at_most = self.limits.total_bytes - self.limits.total_bytes / FORGOTTEN_SHARE;
        let frames = self.topics.iter().map(|topic| topic.retained.len()).sum::<usize>();
        let overhead = 4_000 + 100 * frames + evicted.tables;
        let were = after.bytes + evicted.largest_event + self.unretained_bytes + overhead;
        let became = self.before.bytes + self.released_bytes + overhead;
        assert!(
            were.min(became) > at_most,
            "the log made room where it had some: {} bytes before, {} released, {} after, {at_most} may be",
            self.before.bytes,
            self.released_bytes,
            after.bytes
        );
        let largest = self.topics.iter().map(|topic| topic.bytes).max().unwrap_or_default();
        let victim = evicted.smallest_victim.unwrap_or_default();
        // The topics of a class may differ by a factor of two, and what was released meanwhile is evicted
        // next.
        assert!(
            2 * victim + self.released_bytes > largest,
            "unfair: a topic of {victim} bytes made room for one of {largest}"
        );
    }

    /// What the log says of each topic: no loss is kept secret, and none is made up.
    fn judge_claims(&mut self, in_log: &[TopicInLog]) {
        let forgotten =
            |topic: &TopicModel, in_log: &TopicInLog| in_log.extent.is_none() && topic.dropped[1] > 0;
        let all = || self.topics.iter().zip(in_log).filter(|(topic, in_log)| forgotten(topic, in_log));
        // So many have certainly room; a topic that came and went meanwhile may have needed some, too.
        let room = (self.limits.total_bytes / FORGOTTEN_SHARE / FORGOTTEN_TOPIC_BYTES).saturating_sub(3);
        if all().count() > room {
            let newest = all().map(|(topic, _)| topic.dropped[1]).max().unwrap_or_default();
            self.floor_at_most = self.floor_at_most.max(newest);
        }
        for ((name, topic), in_log) in self.names.iter().zip(&mut self.topics).zip(in_log) {
            let says = in_log.available_after;
            for (of, says, dropped, said) in [
                ("public events", says[0], topic.dropped[0], topic.available_after[0]),
                ("events", says[1], topic.dropped[1], topic.available_after[1]),
            ] {
                assert!(
                    says >= dropped,
                    "the log has dropped {of} of {name} up to {dropped} and says that all after {says} is there"
                );
                let at_most = dropped.max(self.floor_at_most);
                assert!(
                    says <= at_most,
                    "the log says that {of} of {name} were dropped up to {says}, and it was up to {at_most}"
                );
                assert!(
                    !topic.has_entry || in_log.extent.is_none() || says >= said,
                    "what was dropped of {name} comes back"
                );
            }
            (topic.available_after, topic.has_entry) = (says, in_log.extent.is_some());
        }
    }

    /// What the log says of each pattern: no loss is kept secret. What other topics have lost is not told as
    /// its own, unless the log did not know the pattern when they lost it.
    fn judge_patterns(&mut self, in_log: Vec<PatternInLog>, after: &LogSnapshot) {
        let dropped_of = |is_meant: &dyn Fn(&Topic) -> bool| {
            let topics = self.names.iter().zip(&self.topics).filter(|(name, _)| is_meant(name));
            topics.fold([0; 2], |[public, all]: [u64; 2], (_, topic)| {
                [public.max(topic.dropped[0]), all.max(topic.dropped[1])]
            })
        };
        let of_any = dropped_of(&|_| true);
        // A pattern that was forgotten, and is known again, begins anew.
        let all_are_known = self.most_patterns >= self.patterns.len();
        for ((pattern, says), said) in self.patterns.iter().zip(&in_log).zip(&self.in_log) {
            let dropped = dropped_of(&|name| pattern.matches(name.as_str()));
            let was_known = said.is_known && all_are_known;
            for of in [0, 1] {
                let (says, said) = (says.available_after[of], said.available_after[of]);
                assert!(
                    says >= dropped[of],
                    "the log has dropped events of {pattern} up to {} and says that all after {says} is there",
                    dropped[of]
                );
                assert!(
                    says <= of_any[of].max(self.opened_at),
                    "no event up to {says} was dropped, as the log says of {pattern}"
                );
                assert!(
                    !was_known || says <= said.max(dropped[of]),
                    "what other topics have dropped up to {says} is told of {pattern}"
                );
            }
            let is_of_any = says.available_after == of_any || self.disk.is_some();
            assert!(says.is_known || is_of_any, "what is said of {pattern}");
            self.remembered += u64::from(
                says.is_known && !says.shards.is_empty() && said.is_known && said.shards.is_empty(),
            );
            self.forgotten += u64::from(said.is_known && !says.is_known);
        }
        let known = in_log.iter().filter(|says| says.is_known).count();
        assert_eq!(after.patterns, known, "patterns that the log knows");
        assert!(known <= self.most_patterns, "{known} patterns, and {} may be", self.most_patterns);
        let readers: usize = in_log.iter().map(|says| says.shards.len()).sum();
        assert_eq!(after.pattern_readers, readers, "pairs of a pattern and a shard that reads it");
        self.in_log = in_log;
    }

    fn judge_sums(&self, after: &LogSnapshot) {
        let retained = self.topics.iter().flat_map(|topic| &topic.retained);
        let distinct: HashSet<u64> = retained.map(|retained| retained.seq).collect();
        assert_eq!(after.frames, distinct.len(), "distinct events in the log");
        let entries = self.topics.iter().filter(|topic| topic.has_entry).count();
        assert_eq!(after.topics, entries, "topics that the log knows");
        let readers: usize = self.topics.iter().map(|topic| topic.shards.len()).sum();
        assert_eq!(after.readers, readers, "pairs of a topic and a shard that reads it");
        let largest = self.topics.iter().map(|topic| topic.bytes).max().unwrap_or_default();
        assert!(after.bytes >= largest, "the log counts {} bytes and has {largest}", after.bytes);
        let is_empty = after.frames == 0;
        assert!(is_empty || after.bytes <= self.limits.total_bytes, "the log has {} bytes", after.bytes);
    }

    // What follows from it.

    /// The newest number that was released.
    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    /// Every event that interests a subscriber after this number can be read, in memory or from the disk.
    pub(crate) fn available_after(&self, interest: &Interest) -> u64 {
        match &self.disk {
            // What cannot be read is gone, for the subscriber.
            Some(disk) if disk.failed_reads() > 0 => {
                disk.gone_for(interest).max(self.available_in_memory_after(interest))
            }
            Some(disk) => disk.gone_for(interest),
            None => self.available_in_memory_after(interest),
        }
    }

    /// Whether a subscriber gets this event from the disk, because memory has it no more.
    pub(crate) fn is_on_disk_alone(&self, interest: &Interest, seq: u64) -> bool {
        self.disk.is_some() && !self.has_between(interest, seq - 1, seq)
    }

    /// Whether a subscriber is told of a gap only where something is gone that it may see. A disk does not
    /// know which topics a pattern has lost, nor what a crash has lost; and it says of all topics alike
    /// whether private events count.
    pub(crate) fn is_exact(&self, interest: &Interest) -> bool {
        let is_exact = |disk: &Arc<Disk>| {
            interest.patterns.is_empty()
                && !interest.is_mixed()
                && disk.failed_reads() == 0
                && !disk.has_lost()
        };
        self.disk.as_ref().is_none_or(is_exact)
    }

    /// Whether there is a disk.
    pub(crate) fn has_disk(&self) -> bool {
        self.disk.is_some()
    }

    /// Every event that interests a subscriber after this number is in the log.
    fn available_in_memory_after(&self, interest: &Interest) -> u64 {
        let of = |topic| self.topic(topic).available_after[usize::from(interest.sees_private(topic))];
        let patterns = self.patterns.iter().zip(&self.in_log);
        let of_patterns =
            patterns.filter(|(pattern, _)| interest.patterns.contains(pattern)).map(|(pattern, in_log)| {
                in_log.available_after[usize::from(interest.sees_private_through(pattern))]
            });
        interest.topics.iter().map(of).chain(of_patterns).max().unwrap_or(self.newest)
    }

    /// Whether something that interests a subscriber is retained between these numbers.
    fn has_between(&self, interest: &Interest, after: u64, until: u64) -> bool {
        self.names.iter().zip(&self.topics).any(|(name, topic)| {
            // Whether it is selected says the name; the events say whether they are private.
            let selects = [false, true].map(|is_private| interest.selects(name, is_private));
            let mut wanted = topic.retained.iter().filter(|it| selects[usize::from(it.is_private)]);
            selects[0] && wanted.any(|it| it.seq > after && it.seq <= until)
        })
    }

    /// Whether one of its topics retains an event.
    pub(crate) fn retains(&self, entry: &Entry) -> bool {
        let is_in = |topic: &TopicModel| {
            topic.retained.binary_search_by_key(&entry.seq, |retained| retained.seq).is_ok()
        };
        entry.topics.iter().any(|topic| is_in(self.topic(topic)))
    }

    /// Whether a subscriber must get this event, because the log has it, or the disk.
    pub(crate) fn has(&self, interest: &Interest, seq: u64) -> bool {
        match &self.disk {
            Some(disk) => disk.failed_reads() == 0 && disk.has(interest, seq),
            None => self.has_between(interest, seq - 1, seq),
        }
    }

    /// Where a subscriber starts whose stream begins with a gap in its head, or without one. The disk is
    /// asked where memory has not everything, some time before the stream begins.
    pub(crate) fn start_with(
        &self,
        interest: &Interest,
        resume: &Resume,
        has_gap: bool,
        history: &History,
    ) -> Start {
        if self.disk.is_none() || *resume == Resume::Now {
            return self.start(interest, resume);
        }
        let has_failed = self.disk.as_ref().is_some_and(|disk| disk.failed_reads() > 0);
        let available = self.available_after(interest);
        let number = match resume {
            Resume::Now | Resume::Earliest => Some(0),
            Resume::After(id) => {
                Cursor::parse(id).filter(|cursor| cursor.epoch == self.epoch).map(|it| it.seq)
            }
        };
        let is_text = matches!(resume, Resume::After(id) if Cursor::parse(id).is_none());
        let ahead = number.is_some_and(|number| number > self.newest);
        let incomplete = |cursor: u64, gap: bool| {
            // Of a number that did not come, only memory is asked.
            let available =
                if ahead { available.max(self.available_in_memory_after(interest)) } else { available };
            let excused_until = if ahead { available } else { 0 };
            Start { cursor, incomplete_until: available, gap, ahead, excused_until }
        };
        match (resume, number) {
            (Resume::Earliest, _) => {
                assert!(!has_gap || has_failed, "a gap is told to one that asks for what there is");
                incomplete(0, has_gap)
            }
            (_, Some(number)) if has_gap => {
                let is_right = ahead || number < available;
                assert!(is_right, "a gap after {number}, and nothing is gone behind {available}");
                incomplete(if ahead { 0 } else { number }, true)
            }
            (_, Some(number)) => complete_at(number),
            (Resume::After(id), None) => {
                let bearers = self.first_bearer(id, interest).into_iter().chain(self.on_disk(id, interest));
                let bearers: Vec<u64> = if is_text { bearers.collect() } else { Vec::new() };
                if has_gap {
                    let last = bearers.iter().max().copied().unwrap_or_default();
                    return Start { excused_until: last, ..incomplete(0, true) };
                }
                let released: Vec<u64> =
                    history.bearers_for(id, interest).filter(|_| is_text).map(|entry| entry.seq).collect();
                let (Some(&first), Some(&last)) = (released.first(), released.last()) else {
                    panic!("the stream has no gap, and no event for it ever bore the id {id}");
                };
                // Which of several events with this id the client has, it does not say. It goes on behind the
                // first one that memory knows or the disk finds: after a restart memory may know a later one
                // only, and the disk finds those that were published to one topic. The disk was asked some
                // time before. It may have let go of the event since.
                let until = if bearers.contains(&first) { last } else { available.max(last) };
                Start { incomplete_until: until, excused_until: last, ..complete_at(first) }
            }
            (Resume::Now, None) => unreachable!("that was answered above"),
        }
    }

    /// The events on the disk that bear this id, among those that the subscriber may see.
    fn on_disk(&self, id: &str, interest: &Interest) -> Vec<u64> {
        let Some(disk) = &self.disk else { return Vec::new() };
        let bears = |record: &&fanfare_store::Record| {
            let event = &record.event;
            event.id().is_some_and(|its| its.as_str() == id)
                && event.topics().iter().any(|topic| interest.selects(topic, event.is_private()))
        };
        disk.all().iter().filter(bears).map(|record| record.number).collect()
    }

    /// Where a subscriber starts now.
    pub(crate) fn start(&self, interest: &Interest, resume: &Resume) -> Start {
        let available = self.available_after(interest);
        // Where nothing is left of what is incomplete, the stream goes on behind it.
        let incomplete = |from: u64, gap: bool, ahead: bool| {
            let cursor = if self.has_between(interest, from, available) { from } else { available.max(from) };
            Start { cursor, incomplete_until: available, gap, ahead, excused_until: 0 }
        };
        let complete = complete_at;
        let seq = match resume {
            Resume::Now => return complete(self.newest),
            Resume::Earliest => return incomplete(0, false, false),
            Resume::After(id) => match Cursor::parse(id).filter(|cursor| cursor.epoch == self.epoch) {
                Some(cursor) => Some(cursor.seq),
                None => self.first_bearer(id, interest),
            },
        };
        match seq {
            Some(seq) if seq > self.newest => incomplete(0, true, true),
            Some(seq) if seq >= available => complete(seq),
            seq => incomplete(seq.unwrap_or(0), true, false),
        }
    }

    /// The first event that bore an id among those that the subscriber may see, where one of its topic is
    /// retained that does. For patterns, the first one that is retained, or an earlier one of its topics.
    fn first_bearer(&self, id: &str, interest: &Interest) -> Option<u64> {
        let first_of = |topic: &TopicModel, sees_private: bool| {
            let kinds = [false, true].into_iter().take(1 + usize::from(sees_private));
            let own_ids = kinds.filter_map(|is_private| topic.own_ids.get(&(id.to_owned(), is_private)));
            own_ids.map(|own_id| own_id.first).min()
        };
        let named = interest.topics.iter();
        let named = named.filter_map(|name| first_of(self.topic(name), interest.sees_private(name))).min();
        if interest.patterns.is_empty() {
            return named;
        }
        let mut first: Option<(u64, Option<u64>)> = None;
        for (name, topic) in self.names.iter().zip(&self.topics) {
            let is_seen =
                |it: &&Retained| it.own_id.as_deref() == Some(id) && interest.selects(name, it.is_private);
            let Some(seen) = topic.retained.iter().find(is_seen) else { continue };
            let of_topic = first_of(topic, interest.selects(name, true));
            first = match first {
                Some((before, of_before)) if before == seen.seq => {
                    Some((before, of_before.into_iter().chain(of_topic).min()))
                }
                Some((before, _)) if before < seen.seq => first,
                _ => Some((seen.seq, of_topic)),
            };
        }
        let first = first.filter(|(seq, _)| named.is_none_or(|named| *seq < named));
        first.and_then(|(_, of_topics)| of_topics).into_iter().chain(named).min()
    }

    /// The shards that read this topic by its name.
    pub(crate) fn shards_reading_name(&self, topic: &Topic) -> &[usize] {
        &self.topic(topic).shards
    }

    /// The shards that read this pattern.
    pub(crate) fn shards_reading_pattern(&self, pattern: &Pattern) -> &[usize] {
        let index = self.patterns.iter().position(|other| other == pattern);
        &self.in_log[index.expect("a pattern of this world")].shards
    }

    /// The shards that read one of these topics, or a pattern that matches one.
    pub(crate) fn shards_reading(&self, topics: &[Topic]) -> Vec<usize> {
        let shards = topics.iter().flat_map(|topic| self.topic(topic).shards.iter().copied());
        let patterns = self.patterns.iter().zip(&self.in_log);
        let matching = patterns
            .filter(|(pattern, _)| topics.iter().any(|topic| pattern.matches(topic.as_str())))
            .flat_map(|(_, in_log)| in_log.shards.iter().copied());
        let mut shards: Vec<usize> = shards.chain(matching).collect();
        shards.sort_unstable();
        shards.dedup();
        shards
    }

    /// Whether the shard that trims finds events that are too old, and so few that it drops all of them at
    /// once.
    pub(crate) fn can_trim_at_once(&self, now: Duration) -> bool {
        let is_due = |topic: &&TopicModel| topic.oldest_is_too_old(now);
        let due: usize = self.topics.iter().filter(is_due).map(|topic| topic.retained.len()).sum();
        due < DROPPED_AT_ONCE
    }

    /// The number of an event that is too old, where the log has one.
    pub(crate) fn first_due(&self, now: Duration) -> Option<u64> {
        let due = self.topics.iter().find(|topic| topic.oldest_is_too_old(now))?;
        due.retained.front().map(|oldest| oldest.seq)
    }

    /// Whether the log has an event that is too old.
    pub(crate) fn has_due(&self, now: Duration) -> bool {
        self.topics.iter().any(|topic| topic.oldest_is_too_old(now))
    }

    /// No event is too old by more than `slack`.
    pub(crate) fn check_ages(&self, now: Duration, slack: Duration) {
        for (name, topic) in self.names.iter().zip(&self.topics) {
            let Some(oldest) = topic.retained.front() else { continue };
            let age = now - oldest.published_at;
            let may_be = topic.retention.age.saturating_add(slack).saturating_add(LATE);
            assert!(age <= may_be, "event {} of {name} is retained for {age:?}", oldest.seq);
        }
    }

    /// The longest that any topic's events are retained.
    pub(crate) fn longest_age(&self) -> Duration {
        self.topics.iter().map(|topic| topic.retention.age).max().unwrap_or_default()
    }
}

impl TopicModel {
    fn new(retention: Retention) -> TopicModel {
        TopicModel {
            retention,
            retained: VecDeque::new(),
            bytes: 0,
            dropped: [0; 2],
            available_after: [0; 2],
            own_ids: BTreeMap::new(),
            shards: Vec::new(),
            has_entry: false,
        }
    }

    /// Says how many bytes its retention drops for it.
    fn append(&mut self, entry: &Entry, now: Duration) -> usize {
        let Entry { seq, size, published_at, .. } = *entry;
        if let Some(id) = &entry.own_id {
            let key = (id.clone(), entry.private);
            let own_id = self.own_ids.entry(key).or_insert(OwnId { first: seq, count: 0 });
            own_id.count += 1;
        }
        self.bytes += size;
        let (own_id, is_private) = (entry.own_id.clone(), entry.private);
        self.retained.push_back(Retained { seq, size, published_at, own_id, is_private });
        let mut unretained = 0;
        while self.retained.len() > self.retention.events
            || self.bytes > self.retention.bytes
            || self.oldest_is_too_old(now)
        {
            unretained += self.drop_oldest().size;
        }
        unretained
    }

    fn is_too_old(&self, retained: &Retained, now: Duration) -> bool {
        retained.published_at.saturating_add(self.retention.age) <= now
    }

    fn oldest_is_too_old(&self, now: Duration) -> bool {
        self.retained.front().is_some_and(|oldest| self.is_too_old(oldest, now))
    }

    fn drop_oldest(&mut self) -> Retained {
        let oldest = self.retained.pop_front().expect("an event that is retained");
        self.bytes -= oldest.size;
        self.dropped[1] = self.dropped[1].max(oldest.seq);
        if !oldest.is_private {
            self.dropped[0] = self.dropped[0].max(oldest.seq);
        }
        if let Some(id) = &oldest.own_id {
            let key = (id.clone(), oldest.is_private);
            let own_id = self.own_ids.get_mut(&key).expect("the id of a retained event");
            own_id.count -= 1;
            if own_id.count == 0 {
                self.own_ids.remove(&key);
            }
        }
        oldest
    }
}

/// What was dropped to make room.
#[derive(Default)]
struct Evicted {
    /// The most that the smallest topic that lost an event may have been charged with.
    smallest_victim: Option<usize>,
    largest_event: usize,
    /// What tables may have given back when their last entries went.
    tables: usize,
}

impl Evicted {
    fn note(&mut self, topic_bytes: usize, event_bytes: usize) {
        let smallest = self.smallest_victim.unwrap_or(usize::MAX);
        self.smallest_victim = Some(smallest.min(topic_bytes));
        self.largest_event = self.largest_event.max(event_bytes);
        self.tables += 100;
    }
}

/// It has everything up to here.
fn complete_at(cursor: u64) -> Start {
    Start { cursor, incomplete_until: cursor, gap: false, ahead: false, excused_until: 0 }
}

fn retention_of(limits: &LogLimits, topic: &Topic) -> Retention {
    let rule = limits.rules.iter().find(|rule| rule.topics.matches(topic));
    rule.map_or(limits.retention, |rule| rule.retention)
}
