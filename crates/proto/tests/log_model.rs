//! The log against a naive list of events for each topic, from seeds.
//!
//! The list obeys the retention of each topic by itself. Which frames go because the log as a whole is full,
//! it does not foretell: it checks that there was a reason, and that no smaller topic paid for a larger one.
//!
//! A failure prints the line that replays it. `FANFARE_SEEDS` and `FANFARE_STEPS` set how many are tried.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fanfare_proto::cursor::{Cursor, Epoch};
use fanfare_proto::event::{Event, EventId, Topic};
use fanfare_proto::event_log::{First, ReadBounds, Wanted};
use fanfare_proto::frame::{Frame, WireFormat};
use fanfare_proto::limits::{LogLimits, Retention, RetentionRule};
use fanfare_proto::log::{EARLIEST, Log, Start};
use fanfare_proto::pattern::Pattern;
use fanfare_proto::selection::Selection;

const SEEDS: u64 = 200;
const STEPS: u64 = 250;

/// One of so many seeds is a long story with few topics that keep nearly everything, in which tables grow to
/// many segments. A table of own ids that split was a panic, and no short story had so many ids.
const LONG: u64 = 40;
const LONG_STEPS: u64 = 5 * STEPS;

/// So many own ids there are in most stories: they are used again and again.
const OWN_IDS: usize = 6;

/// What a topic's entry, index and queue by age may take beside its frames.
const OVERHEAD: usize = 4_000;

#[test]
fn the_log_does_what_a_naive_list_does() {
    let variable = |name| std::env::var(name).ok().map(|value: String| value.parse().unwrap());
    let seeds = match variable("FANFARE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("FANFARE_SEEDS").unwrap_or(SEEDS),
    };
    let steps = variable("FANFARE_STEPS");
    for seed in seeds {
        let _replay = Replay(seed);
        let mut world = World::new(seed);
        let usual = if seed.is_multiple_of(LONG) { LONG_STEPS } else { STEPS };
        for _ in 0..steps.unwrap_or(usual) {
            world.step();
            world.log.check();
        }
        world.finish();
    }
}

/// Prints how to replay a seed, if it fails.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay: FANFARE_SEED={} cargo test -p fanfare-proto --test log_model", self.0);
        }
    }
}

struct World {
    random: u64,
    log: Log,
    limits: LogLimits,
    now: Duration,
    topic_count: usize,
    shard_count: usize,
    own_id_count: usize,
    /// Everything up to here was gone when the log began.
    began_after: u64,
    /// All events ever.
    history: Vec<Arc<Frame>>,
    /// By name; the log may have forgotten some.
    topics: BTreeMap<Topic, ModelTopic>,
    /// Patterns that the log knows.
    patterns: BTreeMap<Pattern, ModelPattern>,
    most_patterns: usize,
    /// How often a pattern was left.
    lefts: u64,
}

/// A pattern that is read or remembered.
#[derive(Clone, Default)]
struct ModelPattern {
    readers: BTreeSet<usize>,
    /// What any topic had dropped when the log began to note what topics of this pattern drop: public frames,
    /// and all.
    base: [u64; 2],
    /// When its last reader has left it.
    left: u64,
}

/// Patterns that are read here. The last two are one.
const PATTERNS: [&str; 7] = ["*", "topic-1*", "topic-{x}", "{+x}", "no/*", "{x}-1", "{other}-1"];

/// What a subscriber reads.
struct ModelSelection {
    topics: Vec<Topic>,
    private_topics: usize,
    patterns: Vec<Pattern>,
    private_patterns: usize,
}

impl ModelSelection {
    fn get(&self) -> Selection<'_> {
        Selection::mixed(&self.topics, self.private_topics)
            .with_patterns(&self.patterns, self.private_patterns)
    }

    /// A private event reaches the subscriber by a selector that sees private events.
    fn selects(&self, topic: &Topic, is_private: bool) -> bool {
        let (topics, patterns) = match is_private {
            true => (self.private_topics, self.private_patterns),
            false => (self.topics.len(), self.patterns.len()),
        };
        self.topics[..topics].contains(topic)
            || self.patterns[..patterns].iter().any(|pattern| pattern.matches(topic.as_str()))
    }

    fn wants(&self, frame: &Frame) -> bool {
        frame.topics().iter().any(|topic| self.selects(topic, frame.private()))
    }
}

#[derive(Default)]
struct ModelTopic {
    retained: VecDeque<Arc<Frame>>,
    /// The newest public frame that was dropped, and the newest private one.
    dropped: [u64; 2],
    readers: BTreeSet<usize>,
    /// The first public or private frame that bore an id, and how many retained ones do.
    own_ids: BTreeMap<(String, bool), (u64, usize)>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut world = World {
            random: seed,
            log: Log::new(Epoch::new(0), LogLimits::default(), 0),
            limits: LogLimits::default(),
            now: Duration::ZERO,
            topic_count: 0,
            shard_count: 0,
            own_id_count: OWN_IDS,
            began_after: 0,
            history: Vec::new(),
            topics: BTreeMap::new(),
            patterns: BTreeMap::new(),
            most_patterns: 0,
            lefts: 0,
        };
        world.topic_count = world.pick(&[3, 8, 60]);
        world.shard_count = world.pick(&[1, 4, 200]);
        let rules = (0..world.below(3)).map(|_| world.rule()).collect();
        let total_bytes = world.pick(&[30_000, 150_000, 64 << 20]);
        world.limits = LogLimits::default()
            .with_retention(world.retention())
            .with_rules(rules)
            .with_total_bytes(total_bytes);
        if seed.is_multiple_of(LONG) {
            (world.topic_count, world.own_id_count) = (2, 100_000);
            let retention = Retention::default()
                .with_events(1_000)
                .with_bytes(10_000_000)
                .with_age(Duration::from_secs(u64::MAX));
            world.limits = LogLimits::default()
                .with_retention(retention)
                .with_rules(Vec::new())
                .with_total_bytes(64 << 20);
        }
        let epoch = Epoch::new(world.next());
        world.log = Log::new(epoch, world.limits.clone(), world.random);
        world.most_patterns = world.pick(&[1, 2, 4, 100]);
        world.log.limit_patterns(world.most_patterns);
        let walk_steps = world.pick(&[0, 40, 1 << 16]);
        world.log.limit_walk_steps(walk_steps);
        world.began_after = world.pick(&[0, 0, 1_000]);
        if world.began_after > 0 {
            world.log.begin_after(world.began_after);
        }
        world
    }

    fn rule(&mut self) -> RetentionRule {
        let pattern = self.pick(&["topic-1", "topic-2*", "*", "other*"]);
        RetentionRule::new(pattern.parse().unwrap(), self.retention())
    }

    fn retention(&mut self) -> Retention {
        Retention::default()
            .with_events(self.pick(&[0, 1, 5, 100, 1000]))
            .with_bytes(self.pick(&[1_000, 20_000, 10_000_000]))
            .with_age(Duration::from_secs(self.pick(&[3, 60, u64::MAX])))
    }

    fn retention_of(&self, topic: &Topic) -> Retention {
        let rule = self.limits.rules.iter().find(|rule| rule.topics.matches(topic));
        rule.map_or(self.limits.retention, |rule| rule.retention)
    }

    fn step(&mut self) {
        match self.below(100) {
            0..55 => self.append(),
            55..65 => self.trim(),
            65..71 => self.change_reader(),
            71..75 => self.change_pattern_reader(),
            75..80 => self.check_pages(),
            80..88 => self.ask_to_resume(),
            88..90 => self.ask_for_published(),
            _ => self.ask_to_read(),
        }
    }

    /// Everything goes; then nothing is kept for topics that have left.
    fn finish(&mut self) {
        for (topic, model) in &mut self.topics {
            for shard in std::mem::take(&mut model.readers) {
                self.log.remove_reader(std::slice::from_ref(topic), shard);
            }
        }
        for (pattern, model) in &mut self.patterns {
            for shard in std::mem::take(&mut model.readers) {
                self.log.remove_pattern_reader(std::slice::from_ref(pattern), shard);
            }
        }
        assert_eq!((self.log.pattern_readers(), self.log.pattern_count()), (0, self.patterns.len()));
        self.now = Duration::MAX;
        self.trim();
        let lasting =
            self.topics.keys().filter(|topic| self.retention_of(topic).age == Duration::from_secs(u64::MAX));
        let lasting: usize = lasting.map(|topic| self.topics[topic].retained.len()).sum();
        assert!(lasting > 0 || self.log.is_empty());
        if self.log.is_empty() {
            assert_eq!((self.log.topic_count(), self.log.readers()), (0, 0));
            assert_eq!(self.log.reader_bytes() > 0, !self.patterns.is_empty());
        }
        self.log.check();
    }

    fn append(&mut self) {
        let mut event = Event::new(self.topic()).with_private(self.below(4) == 0);
        for _ in 0..self.pick(&[0, 0, 0, 1, 3]) {
            event = event.with_topic(self.topic()).unwrap();
        }
        if self.own_id_count > OWN_IDS || self.below(3) == 0 {
            event = event.with_id(EventId::new(self.own_id()).unwrap());
        }
        let size = self.pick(&[0, 10, 100, 100, 700, 8_000]);
        let hole = self.pick(&[0, 0, 0, 5, 1_000_000]);
        let seq = self.log.newest() + 1 + hole;
        let id = self.cursor(seq).to_string();
        let frame = Arc::new(Frame::encode(seq, &id, event.with_data("x".repeat(size)), self.now));
        self.history.push(Arc::clone(&frame));
        let held_before: BTreeSet<u64> = self.held().chain([seq]).collect();

        let mut dropped = Vec::new();
        self.log.append(Arc::clone(&frame), self.now, &mut dropped);
        for topic in frame.topics() {
            let retention = self.retention_of(topic);
            let model = self.topics.entry(topic.clone()).or_default();
            model.push(Arc::clone(&frame));
            let too_old = |frame: &Frame| self.now >= frame.published().saturating_add(retention.age);
            while model.retained.len() > retention.events
                || model.bytes() > retention.bytes
                || model.retained.front().is_some_and(|oldest| too_old(oldest))
            {
                model.drop_oldest();
            }
        }
        self.account_for_evictions();
        self.check_dropped(held_before, &dropped);
        assert!(self.log.bytes() <= self.limits.total_bytes || self.log.is_empty());
    }

    /// Finds what the log has dropped beyond the topics' own retention, and whether that was right.
    fn account_for_evictions(&mut self) {
        let (mut evicted_bytes, mut smallest_victim, mut largest) = (0, usize::MAX, 0);
        for (topic, model) in &mut self.topics {
            let extent = self.log.topic(topic);
            let kept = extent.as_ref().map_or(0, |extent| extent.frames);
            if kept < model.retained.len() {
                smallest_victim = smallest_victim.min(model.bytes());
            }
            while model.retained.len() > kept {
                evicted_bytes = evicted_bytes.max(model.drop_oldest().size());
            }
            largest = largest.max(model.bytes());
            let span = model.retained.front().zip(model.retained.back());
            let span = span.map(|(oldest, newest)| (oldest.seq(), newest.seq()));
            if let Some(extent) = &extent {
                assert_eq!((extent.bytes, extent.span), (model.bytes(), span), "what is kept of {topic}");
                assert!(extent.shards.iter().eq(model.readers.iter().copied()), "who reads {topic}");
            } else {
                assert!(model.readers.is_empty(), "a topic that is read has an entry");
            }
        }
        if smallest_victim < usize::MAX {
            assert!(
                self.log.bytes() + evicted_bytes + OVERHEAD > self.limits.total_bytes * 15 / 16,
                "there was room"
            );
            assert!(
                2 * (smallest_victim + OVERHEAD) > largest,
                "a topic of {smallest_victim} bytes made room for one of {largest}"
            );
        }
    }

    /// What went to the caller is what no topic holds any more.
    fn check_dropped(&mut self, held_before: BTreeSet<u64>, dropped: &[Arc<Frame>]) {
        let held: BTreeSet<u64> = self.held().collect();
        assert_eq!(self.log.len(), held.len());
        let gone: Vec<u64> = held_before.difference(&held).copied().collect();
        let mut given: Vec<u64> = dropped.iter().map(|frame| frame.seq()).collect();
        given.sort_unstable();
        assert_eq!(given, gone, "frames that were dropped");
    }

    fn held(&self) -> impl Iterator<Item = u64> + '_ {
        self.topics.values().flat_map(|model| &model.retained).map(|frame| frame.seq())
    }

    fn trim(&mut self) {
        self.now = self.now.saturating_add(Duration::from_millis(self.below(2_500) as u64));
        let held_before: BTreeSet<u64> = self.held().collect();
        let budget = self.pick(&[1, 3, 1_000]);
        let mut dropped = Vec::new();
        let mut calls = 0;
        while self.log.next_expiry().is_some_and(|at| at <= self.now) {
            let before = dropped.len();
            self.log.trim(self.now, budget, &mut dropped);
            assert!(dropped.len() <= before + budget, "the budget is kept");
            self.log.check();
            calls += 1;
            assert!(calls < 100_000, "trimming comes to an end");
        }
        for topic in self.topics.keys().cloned().collect::<Vec<_>>() {
            let age = self.retention_of(&topic).age;
            let model = self.topics.get_mut(&topic).unwrap();
            let is_due = |frame: &Arc<Frame>| {
                let at = frame.published().saturating_add(age);
                at <= self.now && at.as_secs() < u64::MAX / 1_000_000_000
            };
            while model.retained.front().is_some_and(is_due) {
                model.drop_oldest();
            }
            let kept = self.log.topic(&topic).map_or(0, |extent| extent.frames);
            assert_eq!(kept, model.retained.len(), "frames of {topic} after a trim");
        }
        self.check_dropped(held_before, &dropped);
    }

    fn change_reader(&mut self) {
        let shard = self.below(self.shard_count);
        let version = self.log.readers_version();
        let topics = self.some_topics();
        let mut changed = Vec::new();
        let joins = self.below(2) == 0;
        for topic in topics {
            let readers = &mut self.topics.entry(topic.clone()).or_default().readers;
            if if joins { readers.insert(shard) } else { readers.remove(&shard) } {
                changed.push(topic);
            }
        }
        match joins {
            true => self.log.add_reader(&changed, shard),
            false => self.log.remove_reader(&changed, shard),
        }
        assert_eq!(self.log.readers_version() != version, !changed.is_empty());
        let topics = self.some_topics();
        let models = topics.iter().filter_map(|topic| self.topics.get(topic));
        let mut expected: BTreeSet<usize> = models.flat_map(|model| model.readers.iter().copied()).collect();
        for (pattern, model) in &self.patterns {
            if topics.iter().any(|topic| pattern.matches(topic.as_str())) {
                expected.extend(&model.readers);
            }
        }
        assert!(self.log.shards_reading(&topics).iter().eq(expected));
        let readers: usize = self.topics.values().map(|model| model.readers.len()).sum();
        assert_eq!(self.log.readers(), readers);
    }

    fn change_pattern_reader(&mut self) {
        let shard = self.below(self.shard_count);
        let version = self.log.readers_version();
        let joins = self.below(3) > 0;
        let mut patterns = self.some_patterns();
        let reads = |model: &ModelPattern| model.readers.contains(&shard);
        patterns.retain(|pattern| self.patterns.get(pattern).is_some_and(reads) != joins);
        if !joins {
            self.log.remove_pattern_reader(&patterns, shard);
            patterns.iter().for_each(|pattern| self.leave_pattern(pattern, shard));
        } else {
            let is_new =
                |pattern: &Pattern, known: &BTreeMap<Pattern, ModelPattern>| !known.contains_key(pattern);
            patterns.sort_by_key(|pattern| is_new(pattern, &self.patterns));
            let before = self.patterns.clone();
            let known: Vec<Pattern> =
                patterns.iter().filter(|pattern| !is_new(pattern, &before)).cloned().collect();
            let added = patterns.iter().take_while(|pattern| self.join_pattern(pattern, shard)).count();
            let is_added = self.log.add_pattern_reader(&patterns, shard).is_ok();
            assert_eq!(is_added, added == patterns.len(), "patterns that find room");
            if !is_added {
                // No other pattern was pushed out.
                self.patterns = before;
                for pattern in &known {
                    self.patterns.get_mut(pattern).unwrap().readers.insert(shard);
                    self.leave_pattern(pattern, shard);
                }
                assert_eq!(self.log.pattern_count(), self.patterns.len(), "patterns that the log knows");
                assert_eq!(self.log.readers_version(), version);
                return;
            }
        }
        assert_eq!(self.log.readers_version() != version, !patterns.is_empty());
        assert_eq!(self.log.pattern_count(), self.patterns.len(), "patterns that the log knows");
        let readers: usize = self.patterns.values().map(|model| model.readers.len()).sum();
        assert_eq!(self.log.pattern_readers(), readers);
    }

    /// False where there is no room for the pattern: all others are read.
    fn join_pattern(&mut self, pattern: &Pattern, shard: usize) -> bool {
        if !self.patterns.contains_key(pattern) {
            if self.patterns.len() == self.most_patterns {
                let remembered = self.patterns.iter().filter(|(_, model)| model.readers.is_empty());
                let oldest = remembered.min_by_key(|(_, model)| model.left).map(|(oldest, _)| oldest.clone());
                let Some(oldest) = oldest else { return false };
                self.patterns.remove(&oldest);
            }
            let base = self.dropped_of(|_| true);
            self.patterns.insert(pattern.clone(), ModelPattern { base, ..ModelPattern::default() });
        }
        self.patterns.get_mut(pattern).unwrap().readers.insert(shard)
    }

    fn leave_pattern(&mut self, pattern: &Pattern, shard: usize) {
        self.lefts += 1;
        let model = self.patterns.get_mut(pattern).unwrap();
        model.readers.remove(&shard);
        model.left = self.lefts;
    }

    /// What some topics have dropped: public frames, and all.
    fn dropped_of(&self, is_meant: impl Fn(&Topic) -> bool) -> [u64; 2] {
        let mut dropped = [self.began_after; 2];
        for (_, model) in self.topics.iter().filter(|(topic, _)| is_meant(topic)) {
            dropped[0] = dropped[0].max(model.dropped[0]);
            dropped[1] = dropped[1].max(model.dropped[0]).max(model.dropped[1]);
        }
        dropped
    }

    fn check_pages(&mut self) {
        let limit = 1 + self.below(20);
        let (mut seen, mut token) = (Vec::new(), None);
        loop {
            let (page, next) = self.log.topics_page(token, limit);
            assert!(page.len() <= limit);
            seen.extend(page);
            token = next;
            if token.is_none() {
                break;
            }
        }
        seen.sort_unstable();
        let used = |model: &ModelTopic| !model.readers.is_empty() || !model.retained.is_empty();
        let used = self.topics.iter().filter(|(_, model)| used(model)).map(|(topic, _)| topic);
        assert!(seen.iter().eq(used), "the topics on all pages");
        assert_eq!(self.log.topic_count(), seen.len());
    }

    /// The number after which all is here. The log may not know it, and then names a later one.
    fn available_after(&self, selection: &ModelSelection) -> u64 {
        let available = self.log.available_after(selection.get());
        let topics = selection.topics.iter().enumerate();
        let models = topics.filter_map(|(index, topic)| Some((self.topics.get(topic)?, index)));
        let dropped = models
            .flat_map(|(model, index)| &model.dropped[..1 + usize::from(index < selection.private_topics)]);
        let mut dropped = dropped.max().copied().unwrap_or(0).max(self.began_after);
        for (index, pattern) in selection.patterns.iter().enumerate() {
            // Of a pattern that the log does not know, it says what any topic has dropped.
            let matches = |topic: &Topic| pattern.matches(topic.as_str());
            let (base, since) = match self.patterns.get(pattern) {
                Some(model) => (model.base, self.dropped_of(matches)),
                None => (self.dropped_of(|_| true), [0; 2]),
            };
            let of = usize::from(index < selection.private_patterns);
            dropped = dropped.max(base[of]).max(since[of]);
        }
        // In a large log, tombstones suffice.
        let exact = self.limits.total_bytes > 1 << 20;
        assert!(available == dropped || (available > dropped && !exact), "{available}, not {dropped}");
        available
    }

    /// Topics and patterns, and of how many of them private events are seen: none, all, or some.
    fn some_selection(&mut self) -> ModelSelection {
        let topics = self.some_topics();
        let private_topics = self.pick(&[0, topics.len(), topics.len() / 2]);
        let patterns = if self.below(2) == 0 { Vec::new() } else { self.some_patterns() };
        let private_patterns = self.pick(&[0, patterns.len(), patterns.len() / 2]);
        ModelSelection { topics, private_topics, patterns, private_patterns }
    }

    /// Whether an event with an own id was published before, to the same topics.
    fn ask_for_published(&mut self) {
        let (mut topics, id) = (self.some_topics(), self.own_id());
        let back = self.below(20);
        if let Some(frame) = self.history.iter().rev().nth(back).filter(|_| back.is_multiple_of(2)) {
            topics = frame.topics().iter().rev().cloned().collect();
        }
        let mut event = Event::new(topics[0].clone()).with_id(EventId::new(&id).unwrap());
        for topic in &topics[1..] {
            event = event.with_topic(topic.clone()).unwrap();
        }
        let same = |of: &[Topic]| of.len() == topics.len() && of.iter().all(|topic| topics.contains(topic));
        let retained = self.topics.values().flat_map(|model| &model.retained);
        let is_it = |frame: &&Arc<Frame>| frame.own_id() == Some(&id) && same(frame.topics());
        let expected: BTreeSet<u64> = retained.filter(is_it).map(|frame| frame.seq()).collect();
        let found = self.log.published(&event).map(|frame| frame.seq());
        assert_eq!(found.is_some(), !expected.is_empty(), "{id} of {topics:?}");
        assert!(found.is_none_or(|seq| expected.contains(&seq)), "{id} of {topics:?}: {found:?}");
    }

    fn ask_to_resume(&mut self) {
        let selection = self.some_selection();
        let available = self.available_after(&selection);
        let earliest = self.log.resume(EARLIEST, selection.get());
        assert_eq!(earliest, Start::At { cursor: available, from: 0 });
        let seq = self.some_seq();
        let expected = match seq {
            _ if seq > self.log.newest() => Start::Ahead { seq, cursor: available },
            _ if seq < available => Start::Gap { cursor: available, from: seq },
            _ => Start::At { cursor: seq, from: seq },
        };
        assert_eq!(self.log.resume(&self.cursor(seq).to_string(), selection.get()), expected);
        let id = self.own_id();
        let expected = match self.first_with_own_id(&id, &selection) {
            Some(seq) if seq >= available => Start::At { cursor: seq, from: seq },
            first => Start::Gap { cursor: available, from: first.unwrap_or(0) },
        };
        assert_eq!(self.log.resume(&id, selection.get()), expected, "{id}");
    }

    /// The first frame with this id that the subscriber may see. Private frames that it does not see change
    /// nothing.
    fn first_with_own_id(&self, id: &str, selection: &ModelSelection) -> Option<u64> {
        let first_of = |topic: &Topic, model: &ModelTopic| {
            let kinds = [false, true].into_iter().filter(|is_private| selection.selects(topic, *is_private));
            let firsts = kinds.filter_map(|is_private| model.own_ids.get(&(id.to_owned(), is_private)));
            firsts.map(|(first, _)| *first).min()
        };
        let named = selection.topics.iter().enumerate().filter_map(|(index, topic)| {
            let firsts = [false, true].map(|is_private| {
                let is_seen = !is_private || index < selection.private_topics;
                let own = self.topics.get(topic)?.own_ids.get(&(id.to_owned(), is_private));
                own.filter(|_| is_seen).map(|(first, _)| *first)
            });
            firsts.into_iter().flatten().min()
        });
        let named = named.min();
        if selection.patterns.is_empty() {
            return named;
        }
        let is_seen = |topic: &Topic, frame: &Frame| {
            frame.own_id() == Some(id) && selection.selects(topic, frame.private())
        };
        let retained = self.topics.iter().flat_map(|(topic, model)| {
            model.retained.iter().filter(|frame| is_seen(topic, frame)).map(|frame| frame.seq())
        });
        let Some(first) = retained.min().filter(|first| named.is_none_or(|named| *first < named)) else {
            return named;
        };
        let selected = self.topics.iter().filter(|(topic, model)| {
            let frame = model.retained.iter().find(|frame| frame.seq() == first);
            frame.is_some_and(|frame| is_seen(topic, frame))
        });
        selected.filter_map(|(topic, model)| first_of(topic, model)).chain(named).min()
    }

    fn ask_to_read(&mut self) {
        let (selection, after) = (self.some_selection(), self.some_seq());
        let max_frames = self.pick(&[1, 3, 1_000]);
        let max_bytes = self.pick(&[1, 500, 5_000, usize::MAX]);
        let matches = |frame: &&Arc<Frame>| frame.seq() > after && selection.wants(frame);
        let first = self.history.iter().filter(matches).find(|frame| {
            let retained = |topic| self.topics[topic].retained.iter().any(|other| other.seq() == frame.seq());
            frame.topics().iter().any(|topic| selection.selects(topic, frame.private()) && retained(topic))
        });
        let found = self.log.first_after(selection.get(), after, &mut usize::MAX.clone()).frame();
        assert_eq!(found.map(|frame| frame.seq()), first.map(|frame| frame.seq()));
        // With fewer steps it does not say more than it knows.
        let first_seq = first.map_or(u64::MAX, |frame| frame.seq());
        let steps = self.below(200);
        match self.log.first_after(selection.get(), after, &mut steps.clone()) {
            First::Frame(frame) => assert_eq!(frame.seq(), first_seq),
            First::Nothing => assert_eq!(first_seq, u64::MAX),
            First::NothingUpTo(seq) => assert!(seq >= after && seq < first_seq),
        }

        let available = self.available_after(&selection);
        self.check_replay(&selection, after, available);
        let mut given = Vec::new();
        let read = self.log.read_after(selection.get(), after, max_frames, max_bytes, &mut given);
        if after < available {
            assert_eq!(read, Err(available));
            return;
        }
        let all: Vec<u64> = self.history.iter().filter(matches).map(|frame| frame.seq()).collect();
        let given_seqs: Vec<u64> = given.iter().map(|frame| frame.seq()).collect();
        assert_eq!(given_seqs, all[..given.len()], "what follows {after}");
        let bytes = |frames: &[Arc<Frame>]| -> usize {
            frames.iter().map(|frame| frame.wire(WireFormat::Chunked).len()).sum()
        };
        assert!(given.len() <= max_frames && (given.len() <= 1 || bytes(&given) <= max_bytes));
        let read = read.unwrap();
        let Some(next) = all.get(given.len()) else {
            assert_eq!(read, self.log.newest().max(after));
            return;
        };
        let last = given_seqs[given.len() - 1];
        // Events for others may lie between.
        let is_right = read == last || (!selection.patterns.is_empty() && read > last && read < *next);
        assert!(is_right, "the cursor {read} between {last} and {next}");
        let next = self.history.iter().find(|frame| frame.seq() == *next).unwrap();
        let with_next = bytes(&given) + bytes(std::slice::from_ref(next));
        assert!(given.len() == max_frames || with_next > max_bytes, "it stopped for a reason");
    }

    /// A subscriber that knows what is missing gets all that is left, in however many reads.
    fn check_replay(&mut self, selection: &ModelSelection, after: u64, available: u64) {
        let mut expected = BTreeSet::new();
        for (topic, model) in &self.topics {
            let seen = model.retained.iter().filter(|frame| selection.selects(topic, frame.private()));
            expected.extend(seen.map(|frame| frame.seq()).filter(|seq| *seq > after));
        }
        let steps = self.pick(&[1, 40, 400, usize::MAX]);
        let bounds = ReadBounds { frames: self.pick(&[1, usize::MAX]), bytes: usize::MAX, steps };
        let (mut up_to, mut given) = (after, Vec::new());
        loop {
            let wanted = Wanted { selection: selection.get(), after: up_to, incomplete_until: available };
            let before = given.len();
            let read = self.log.replay_after(&wanted, bounds, &mut given).unwrap();
            assert!(read.cost >= given.len() - before, "what a read costs");
            if read.up_to == self.log.newest().max(after) {
                break;
            }
            assert!(read.up_to > up_to, "a read goes on");
            up_to = read.up_to;
        }
        assert!(given.iter().map(|frame| frame.seq()).eq(expected), "all that is left after {after}");
    }

    fn some_patterns(&mut self) -> Vec<Pattern> {
        let texts: Vec<&str> = (0..1 + self.below(2)).map(|_| self.pick(&PATTERNS)).collect();
        let mut patterns: Vec<Pattern> =
            texts.iter().map(|text| Pattern::parse(text).unwrap().normalized()).collect();
        patterns.sort();
        patterns.dedup();
        patterns
    }

    fn cursor(&self, seq: u64) -> Cursor {
        Cursor { epoch: self.log.epoch(), seq }
    }

    /// Mostly the number of an event, sometimes one between or beyond.
    fn some_seq(&mut self) -> u64 {
        let back = self.below(40);
        let index = self.history.len().checked_sub(1 + back);
        let seq = index.map_or(self.began_after, |index| self.history[index].seq());
        let around = self.below(3) as u64;
        seq.saturating_sub(1) + around
    }

    fn topic(&mut self) -> Topic {
        Topic::new(format!("topic-{}", self.below(self.topic_count))).unwrap()
    }

    fn some_topics(&mut self) -> Vec<Topic> {
        let mut topics: Vec<Topic> = (0..1 + self.below(4)).map(|_| self.topic()).collect();
        topics.sort_unstable();
        topics.dedup();
        topics
    }

    fn own_id(&mut self) -> String {
        format!("own-{}", self.below(self.own_id_count))
    }

    /// A splitmix64 generator: any seed is good.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

impl ModelTopic {
    fn push(&mut self, frame: Arc<Frame>) {
        if let Some(id) = frame.own_id() {
            self.own_ids.entry((id.to_owned(), frame.private())).or_insert((frame.seq(), 0)).1 += 1;
        }
        self.retained.push_back(frame);
    }

    fn drop_oldest(&mut self) -> Arc<Frame> {
        let frame = self.retained.pop_front().unwrap();
        self.dropped[usize::from(frame.private())] = frame.seq();
        if let Some(id) = frame.own_id() {
            let key = (id.to_owned(), frame.private());
            let own = self.own_ids.get_mut(&key).unwrap();
            own.1 -= 1;
            if own.1 == 0 {
                self.own_ids.remove(&key);
            }
        }
        frame
    }

    fn bytes(&self) -> usize {
        self.retained.iter().map(|frame| frame.size()).sum()
    }
}
