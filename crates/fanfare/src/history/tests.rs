//! A shard asks, and the test answers as the thread does.

use fanfare_io::Waker;
use fanfare_proto::limits::{Limits, LogLimits};
use fanfare_store::{Durability, MemoryStore, Store};

use super::*;
use crate::hub::Common;
use crate::shared_log::log_of;

/// A shard's side and the thread's, which the test runs.
struct Both {
    shard: ShardHistory,
    reader: HistoryReader,
    topics: [Topic; 1],
}

impl Both {
    fn new() -> Both {
        let limits = Limits::default();
        let common = Common::new(log_of(Epoch::new(1), &limits, 1), 1, &limits, 1, 1);
        let mailbox = common.mailbox(0, Waker::new().unwrap());
        let store = MemoryStore::new(Epoch::new(1), LogLimits::default());
        let topics = [Topic::new("a").unwrap()];
        let record = |number| Record {
            number,
            published_ms: 0,
            event: fanfare_proto::event::Event::new(topics[0].clone()).with_data("x".repeat(1000)),
        };
        store.append(&(1..=500).map(record).collect::<Vec<_>>(), Durability::Commit).unwrap();
        let queue = HistoryQueue::new();
        let reader = HistoryReader {
            store: Arc::new(store),
            queue: Arc::clone(&queue),
            newest: Arc::new(AtomicU64::new(500)),
            counts: Arc::default(),
            clock: Clock::start(),
        };
        Both { shard: ShardHistory::new(queue, mailbox), reader, topics }
    }

    fn read(&mut self, link: LinkKey, after: u64) -> Result<Vec<u64>, Unread> {
        let wanted = Wanted { selection: Selection::of(&self.topics, false), after, incomplete_until: 0 };
        let bounds = ReadBounds { frames: 10, bytes: usize::MAX, steps: usize::MAX };
        let mut frames = Vec::new();
        self.shard.read(link, &wanted, bounds, 500, &mut frames)?;
        Ok(frames.iter().map(|frame| frame.seq()).collect())
    }

    /// The thread takes the next question. `None`: there is none.
    fn answer(&mut self) -> Option<HistoryAnswer> {
        let question = lock(&self.reader.queue.state).take()?;
        let is_wanted = question.is_wanted();
        self.reader.answer(&question.ask, is_wanted).ok().flatten()
    }

    fn questions(&self) -> usize {
        lock(&self.reader.queue.state).questions.iter().map(VecDeque::len).sum()
    }
}

fn link(slot: u32) -> LinkKey {
    LinkKey { slot, generation: 1 }
}

/// A stream that left while its page was under way, and came back before the page was here, took a place for
/// ever. After eight of these the shard read no history any more.
#[test]
fn a_page_that_is_not_wanted_gives_its_place_back() {
    let mut both = Both::new();
    for round in 0..3 * PAGES as u64 {
        assert_eq!(both.read(link(1), round), Err(Unread::Later));
        both.shard.retain(|_| false);
        assert_eq!(both.read(link(1), round + 100), Err(Unread::Later));
        let old = both.answer().unwrap();
        assert!(matches!(&old, HistoryAnswer::Page { page: None, .. }), "it is not read from the disk");
        assert_eq!(both.shard.answered(old), None);
        let new = both.answer().unwrap();
        assert_eq!(both.shard.answered(new), Some(link(1)));
        assert_eq!(both.read(link(1), round + 100).unwrap()[0], round + 101);
        both.shard.retain(|_| false);
        assert_eq!((both.shard.placed.len(), both.shard.unwanted, both.shard.is_idle()), (0, 0, true));
    }
}

#[test]
fn no_more_pages_have_places_than_may_and_all_laggards_have_their_turn() {
    let mut both = Both::new();
    let count = 5 * PAGES as u32;
    for slot in 0..count {
        assert_eq!(both.read(link(slot), 0), Err(Unread::Later));
    }
    assert_eq!(both.questions(), PAGES);
    let mut served = Vec::new();
    while let Some(answer) = both.answer() {
        let link = both.shard.answered(answer).unwrap();
        // It takes some of its page, and no more: others need the place.
        assert_eq!(both.read(link, 0).unwrap().len(), 10);
        assert!(both.shard.placed.len() <= PAGES);
        served.push(link.slot);
    }
    assert_eq!(served, (0..count).collect::<Vec<_>>());
    both.shard.retain(|_| false);
    assert_eq!(both.shard.placed.len(), 0);
}

/// While the disk hangs, subscribers give up and come again. The shard kept their old questions, and the
/// thread answered these before the questions of others.
#[test]
fn questions_of_subscribers_that_gave_up_are_neither_kept_nor_answered() {
    let mut both = Both::new();
    let topics = both.topics.clone();
    for _ in 0..20 * PURGE_FROM {
        let number = both.shard.ask_for_start("000000001-3", None, Selection::of(&topics, false));
        assert!(both.shard.take_start(number).is_none());
    }
    assert!(both.questions() <= PURGE_FROM, "{}", both.questions());
    let number = both.shard.ask_for_start("000000001-3", None, Selection::of(&topics, false));
    let mut answers = Vec::new();
    while both.questions() > 0 {
        answers.extend(both.answer());
    }
    assert_eq!(answers.len(), 1);
    both.shard.answered(answers.remove(0));
    assert!(both.shard.has_starts() && both.shard.has_start(number));
    let start = both.shard.take_start(number).and_then(|taken| taken.start);
    assert_eq!(start, Some(Start::At { cursor: 3, from: 3 }));
    assert!(!both.shard.has_starts());
}

/// A flood of unknown ids from forty connections stopped the history of all other subscribers.
#[test]
fn many_costly_questions_do_not_hold_up_others() {
    let mut both = Both::new();
    let topics = both.topics.clone();
    let selection = Selection::of(&topics, false);
    let unknown: Vec<u64> =
        (0..1000).map(|id| both.shard.ask_for_start(&format!("o-{id}"), None, selection)).collect();
    assert_eq!(both.read(link(1), 0), Err(Unread::Later));
    let known = both.shard.ask_for_start("000000001-3", None, selection);
    for _ in 0..3 {
        let answer = both.answer().unwrap();
        both.shard.answered(answer);
    }
    assert_eq!(both.read(link(1), 0).unwrap().len(), 10);
    assert!(both.shard.has_start(known));
    assert_eq!(unknown.iter().filter(|number| both.shard.has_start(**number)).count(), 1);
}
