//! What subscribers get that come back with a number which is older than the log in memory: the durable store
//! has it.
//!
//! ```text
//!   shard -- where does it start? --> | queue |  one thread  --> Store::read, Store::find
//!   shard -- the next page, please --> |       |             <-- mail: the start, or the page is here
//! ```
//!
//! A shard never waits for a disk. It asks, serves others, and learns by mail that the answer is there. A
//! shard holds and asks for at most [`PAGES`] pages at once, so what old history takes of memory does not
//! depend on how many subscribers want it: the others wait their turn. A page that was offered to a socket,
//! and not taken whole, gives way to others: a subscriber that does not read holds up none.
//!
//! A page ends at the newest number that was released when it was read. So no subscriber sees an event before
//! it is released, and what comes behind the page is in memory or comes by mail.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use fanfare_io::Clock;
use fanfare_proto::cursor::{Cursor, Epoch};
use fanfare_proto::event::{EventId, Topic};
use fanfare_proto::event_log::{Read, ReadBounds, Unread, Wanted};
use fanfare_proto::frame::Frame;
use fanfare_proto::limits::{RUN_BYTES, RUN_FRAMES};
use fanfare_proto::link::LinkKey;
use fanfare_proto::log::{EARLIEST, Start};
use fanfare_proto::pattern::Pattern;
use fanfare_proto::selection::Selection;
use fanfare_store::{Bounds, Error, Page, Query, Record, Store};

use crate::mailbox::{Mail, Mailbox};
use crate::store::unix_ms;
use crate::sync::{AtomicU64, Condvar, Mutex, lock};

/// Pages that one shard holds and has asked for.
const PAGES: usize = 8;

/// What one page has at most, and what it may cost to read: about what a laggard is sent in one turn.
const PAGE: Bounds = Bounds { records: RUN_FRAMES, bytes: RUN_BYTES, steps: 1 << 14 };

/// The memory that the pages of one shard take at most, in bytes. One event of any size is on a page of its
/// own, so it depends on the largest event.
pub(crate) fn memory_bound(event_bytes: usize) -> usize {
    PAGES * (2 * PAGE.bytes).max(event_bytes.saturating_mul(2))
}

/// Questions to the thread that reads.
pub(crate) struct HistoryQueue {
    state: Mutex<State>,
    has_work: Condvar,
}

#[derive(Default)]
struct State {
    questions: VecDeque<Question>,
    is_closed: bool,
}

struct Question {
    mailbox: Arc<Mailbox>,
    ask: Ask,
}

enum Ask {
    /// Where a subscriber with this id starts.
    Start { ticket: u64, id: String, selectors: Selectors },
    /// What comes after this number.
    Page { link: LinkKey, after: u64, selectors: Selectors },
}

/// The selectors of a subscriber, for another thread.
struct Selectors {
    topics: Vec<Topic>,
    private_topics: usize,
    patterns: Vec<Pattern>,
    private_patterns: usize,
}

/// The answer to a shard, by mail.
pub(crate) enum HistoryAnswer {
    /// Where the subscriber starts.
    Start { ticket: u64, start: Start },
    /// `None`: the store cannot be read.
    Page { link: LinkKey, page: Option<HistoryPage> },
}

/// Events from the store, for one subscriber. They stay until its cursor has passed them: a socket may take
/// fewer than it is offered.
pub(crate) struct HistoryPage {
    /// What it was asked for with: the topics of a stream may change.
    selectors: Selectors,
    after: u64,
    frames: VecDeque<Arc<Frame>>,
    /// The subscriber has everything up to here when it has these.
    up_to: u64,
    /// Up to here something is gone that is for the subscriber.
    gone: u64,
}

/// What one shard has asked, and has got.
pub(crate) struct HistoryDesk {
    queue: Arc<HistoryQueue>,
    mailbox: Arc<Mailbox>,
    next_ticket: u64,
    /// The starts that have come. A subscriber that has gone, or does not wait any longer, takes its own away.
    starts: HashMap<u64, Option<Start>>,
    pages: HashMap<LinkKey, Slot>,
    /// The laggards whose pages wait for a place, in order.
    waiting: VecDeque<LinkKey>,
    /// Pages that are here or under way.
    busy: usize,
}

/// The state of one laggard's page.
enum Slot {
    /// It waits until there is room.
    Waits(Ask),
    Asked,
    /// `offered`: some of it was given to be sent.
    Here {
        page: HistoryPage,
        offered: bool,
    },
    /// The store could not be read: to the subscriber this is gone.
    Failed,
}

/// The thread that reads.
pub(crate) struct HistoryReader {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) queue: Arc<HistoryQueue>,
    /// The newest number that is released.
    pub(crate) newest: Arc<AtomicU64>,
    pub(crate) clock: Clock,
}

impl HistoryQueue {
    pub(crate) fn new() -> Arc<HistoryQueue> {
        Arc::new(HistoryQueue { state: Mutex::default(), has_work: Condvar::new() })
    }

    fn push(&self, question: Question) {
        lock(&self.state).questions.push_back(question);
        self.has_work.notify_one();
    }

    /// The thread ends.
    pub(crate) fn close(&self) {
        lock(&self.state).is_closed = true;
        self.has_work.notify_one();
    }

    /// Questions without an answer.
    #[cfg(feature = "sim")]
    pub(crate) fn len(&self) -> usize {
        lock(&self.state).questions.len()
    }

    fn next(&self) -> Option<Question> {
        let mut state = lock(&self.state);
        loop {
            if state.is_closed {
                return None;
            }
            if let Some(question) = state.questions.pop_front() {
                return Some(question);
            }
            state = self.has_work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Selectors {
    fn of(selection: Selection<'_>) -> Selectors {
        Selectors {
            topics: selection.topics().to_vec(),
            private_topics: selection.private_topics().len(),
            patterns: selection.patterns().to_vec(),
            private_patterns: selection.private_patterns().len(),
        }
    }

    fn selection(&self) -> Selection<'_> {
        let of_topics = Selection::mixed(&self.topics, self.private_topics);
        of_topics.with_patterns(&self.patterns, self.private_patterns)
    }

    fn is(&self, selection: Selection<'_>) -> bool {
        self.topics == selection.topics()
            && self.private_topics == selection.private_topics().len()
            && self.patterns == selection.patterns()
            && self.private_patterns == selection.private_patterns().len()
    }

    /// A store has an index of topics, and none of patterns.
    fn query(&self) -> Query<'_> {
        if self.patterns.is_empty() { Query::Topics(&self.topics) } else { Query::All }
    }

    /// Whether private events are seen through any selector.
    fn see_private(&self) -> bool {
        self.private_topics + self.private_patterns > 0
    }

    /// Up to where something is gone.
    fn gone(&self, page: &Page) -> u64 {
        if self.see_private() { page.gone.newest } else { page.gone.newest_public }
    }
}

impl HistoryDesk {
    pub(crate) fn new(queue: Arc<HistoryQueue>, mailbox: Arc<Mailbox>) -> HistoryDesk {
        HistoryDesk {
            queue,
            mailbox,
            next_ticket: 0,
            starts: HashMap::new(),
            pages: HashMap::new(),
            waiting: VecDeque::new(),
            busy: 0,
        }
    }

    /// Asks where a subscriber starts. The answer comes under this ticket.
    pub(crate) fn ask_for_start(&mut self, id: &str, selection: Selection<'_>) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.starts.insert(ticket, None);
        let ask = Ask::Start { ticket, id: id.to_owned(), selectors: Selectors::of(selection) };
        self.queue.push(Question { mailbox: Arc::clone(&self.mailbox), ask });
        ticket
    }

    /// Whether the answer has come.
    pub(crate) fn has_start(&self, ticket: u64) -> bool {
        self.starts.get(&ticket).is_some_and(Option::is_some)
    }

    /// The answer; `None`: it has not come, and is not waited for any longer.
    pub(crate) fn take_start(&mut self, ticket: u64) -> Option<Start> {
        self.starts.remove(&ticket).flatten()
    }

    /// An answer has come. Where it is a page, the laggard on this link can be served.
    pub(crate) fn answered(&mut self, answer: HistoryAnswer) -> Option<LinkKey> {
        match answer {
            HistoryAnswer::Start { ticket, start } => {
                if let Some(waiting) = self.starts.get_mut(&ticket) {
                    *waiting = Some(start);
                }
                None
            }
            HistoryAnswer::Page { link, page } => {
                match self.pages.get_mut(&link) {
                    Some(slot) => {
                        let answer = page.map_or(Slot::Failed, |page| Slot::Here { page, offered: false });
                        let before = std::mem::replace(slot, answer);
                        // It was a member meanwhile, and has asked twice.
                        if matches!(before, Slot::Here { .. } | Slot::Failed) {
                            self.free_one();
                        }
                    }
                    // The stream has ended.
                    None => self.free_one(),
                }
                Some(link)
            }
        }
    }

    /// What the store has for the laggard on this link. `available`: after this number everything is in
    /// memory.
    pub(crate) fn read(
        &mut self,
        link: LinkKey,
        wanted: &Wanted<'_>,
        bounds: ReadBounds,
        available: u64,
        into: &mut Vec<Arc<Frame>>,
    ) -> Result<Read, Unread> {
        match self.pages.get_mut(&link) {
            Some(Slot::Waits(_) | Slot::Asked) => return Err(Unread::Later),
            Some(Slot::Failed) => {
                self.forget(link);
                return Err(Unread::Gone(available));
            }
            Some(Slot::Here { page, offered }) if page.continues(wanted) => {
                if page.gone > wanted.after.max(wanted.incomplete_until) {
                    let gone = page.gone;
                    self.forget(link);
                    return Err(Unread::Gone(gone));
                }
                let read = page.read(wanted, bounds, into);
                *offered = true;
                // Others may be waiting for its place.
                self.ask_for_next();
                return Ok(read);
            }
            // A page of what it had before, or of other topics.
            Some(Slot::Here { .. }) => self.forget(link),
            None => {}
        }
        let ask = Ask::Page { link, after: wanted.after, selectors: Selectors::of(wanted.selection) };
        self.pages.insert(link, Slot::Waits(ask));
        self.waiting.push_back(link);
        self.ask_for_next();
        Err(Unread::Later)
    }

    /// The laggard on this link has everything up to here, and goes on in memory.
    pub(crate) fn release(&mut self, link: LinkKey, after: u64) {
        if let Some(Slot::Here { page, .. }) = self.pages.get(&link)
            && page.up_to <= after
        {
            self.forget(link);
        }
    }

    /// Whether nothing is here, waited for, or under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.pages.is_empty()
    }

    /// Forgets the pages of laggards that are none any more.
    pub(crate) fn retain(&mut self, is_laggard: impl Fn(LinkKey) -> bool) {
        let gone: Vec<LinkKey> = self.pages.keys().copied().filter(|link| !is_laggard(*link)).collect();
        gone.into_iter().for_each(|link| self.forget(link));
    }

    /// The laggards whose pages are not here.
    #[cfg(feature = "sim")]
    pub(crate) fn waiting(&self) -> impl Iterator<Item = LinkKey> {
        let waits = |slot: &Slot| matches!(slot, Slot::Waits(_) | Slot::Asked);
        self.pages.iter().filter(move |(_, slot)| waits(slot)).map(|(link, _)| *link)
    }

    /// # Panics
    /// Something does not hold.
    #[cfg(feature = "sim")]
    pub(crate) fn check(&self) {
        let count = |is: fn(&Slot) -> bool| self.pages.values().filter(|slot| is(slot)).count();
        let waiting = count(|slot| matches!(slot, Slot::Waits(_)));
        assert!(self.busy <= PAGES, "{} pages are here or under way", self.busy);
        assert!(waiting == 0 || self.busy == PAGES, "{waiting} laggards wait for a place that is free");
        assert!(self.pages.len() - waiting <= self.busy, "a page is here that is not counted");
    }

    /// Pages that are here, and pages that are under way.
    #[cfg(feature = "sim")]
    pub(crate) fn busy(&self) -> usize {
        self.busy
    }

    fn forget(&mut self, link: LinkKey) {
        match self.pages.remove(&link) {
            // It is free when the answer comes.
            Some(Slot::Waits(_) | Slot::Asked) | None => {}
            Some(Slot::Here { .. } | Slot::Failed) => self.free_one(),
        }
    }

    fn free_one(&mut self) {
        self.busy -= 1;
        self.ask_for_next();
    }

    fn ask_for_next(&mut self) {
        // A laggard that waited may have left.
        while self.waiting.front().is_some_and(|link| !matches!(self.pages.get(link), Some(Slot::Waits(_)))) {
            self.waiting.pop_front();
        }
        if self.busy == PAGES && !self.waiting.is_empty() {
            let is_offered = |slot: &Slot| matches!(slot, Slot::Here { offered: true, .. });
            let offered = self.pages.iter().find(|(_, slot)| is_offered(slot)).map(|(link, _)| *link);
            if let Some(link) = offered {
                // Its laggard asks again when its socket has room.
                self.pages.remove(&link);
                self.busy -= 1;
            }
        }
        while self.busy < PAGES
            && let Some(link) = self.waiting.pop_front()
        {
            // It may have left.
            let Some(slot) = self.pages.get_mut(&link).filter(|slot| matches!(slot, Slot::Waits(_))) else {
                continue;
            };
            let Slot::Waits(ask) = std::mem::replace(slot, Slot::Asked) else { continue };
            self.busy += 1;
            self.queue.push(Question { mailbox: Arc::clone(&self.mailbox), ask });
        }
    }
}

impl HistoryPage {
    /// Whether the page has something behind this number, for the same selectors.
    fn continues(&self, wanted: &Wanted<'_>) -> bool {
        (self.after..self.up_to).contains(&wanted.after) && self.selectors.is(wanted.selection)
    }

    fn read(&mut self, wanted: &Wanted<'_>, bounds: ReadBounds, into: &mut Vec<Arc<Frame>>) -> Read {
        while self.frames.front().is_some_and(|frame| frame.seq() <= wanted.after) {
            self.frames.pop_front();
        }
        let (mut up_to, mut bytes) = (wanted.after, 0);
        for (count, frame) in self.frames.iter().enumerate() {
            bytes += frame.size();
            if count > 0 && (count >= bounds.frames || bytes > bounds.bytes) {
                return Read { up_to, cost: count };
            }
            up_to = frame.seq();
            into.push(Arc::clone(frame));
        }
        Read { up_to: self.up_to, cost: self.frames.len().max(1) }
    }
}

impl HistoryReader {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(crate) fn start(self) -> io::Result<thread::JoinHandle<()>> {
        thread::Builder::new().name("fanfare-history".to_owned()).spawn(move || self.run())
    }

    fn run(self) {
        while let Some(question) = self.queue.next() {
            self.answer_by_mail(question);
        }
    }

    /// Answers one question. False: there is none.
    #[cfg(feature = "sim")]
    pub(crate) fn step(&self) -> bool {
        let Some(question) = lock(&self.queue.state).questions.pop_front() else { return false };
        self.answer_by_mail(question);
        true
    }

    fn answer_by_mail(&self, Question { mailbox, ask }: Question) {
        let answer = self.answer(ask);
        // A shard that has ended needs none.
        let _ = mailbox.push(Mail::History(Box::new(answer)), || Ok::<_, ()>(()));
    }

    fn answer(&self, ask: Ask) -> HistoryAnswer {
        match ask {
            Ask::Start { ticket, id, selectors } => {
                let start = self.start_of(&id, &selectors);
                // Where the store cannot be read, the subscriber gets what is in memory.
                let newest = self.newest.load(Ordering::Relaxed);
                let start = start.unwrap_or(Start::Gap { cursor: newest, from: newest });
                HistoryAnswer::Start { ticket, start }
            }
            Ask::Page { link, after, selectors } => {
                HistoryAnswer::Page { link, page: self.page(after, selectors).ok() }
            }
        }
    }

    /// The same as [`fanfare_proto::log::Log::resume`], by what the store has.
    fn start_of(&self, id: &str, selectors: &Selectors) -> Result<Start, Error> {
        let bounds = Bounds { records: 1, ..PAGE };
        // What is gone is known with any page.
        let newest = self.newest.load(Ordering::Relaxed);
        let gone = selectors.gone(&self.store.read(selectors.query(), newest, bounds)?);
        if id == EARLIEST {
            return Ok(Start::At { cursor: gone, from: 0 });
        }
        let number = match Cursor::parse(id) {
            Some(Cursor { epoch, seq }) if epoch == self.epoch() => Some(seq),
            Some(_) => None,
            None => self.number_of(id, selectors)?,
        };
        Ok(match number {
            Some(seq) if seq >= gone => Start::At { cursor: seq, from: seq },
            _ => Start::Gap { cursor: gone, from: number.unwrap_or(0) },
        })
    }

    /// The number of the event with a publisher's id, where it was published to one topic.
    fn number_of(&self, id: &str, selectors: &Selectors) -> Result<Option<u64>, Error> {
        let Ok(id) = EventId::new(id) else { return Ok(None) };
        let mut first = None;
        for topic in &selectors.topics {
            let found = self.store.find(&id, std::slice::from_ref(topic))?;
            let found =
                found.filter(|record| selectors.selection().selects(topic, record.event.is_private()));
            first = first.into_iter().chain(found.map(|record| record.number)).min();
        }
        Ok(first)
    }

    fn epoch(&self) -> Epoch {
        self.store.state().epoch
    }

    fn page(&self, after: u64, selectors: Selectors) -> Result<HistoryPage, Error> {
        let newest = self.newest.load(Ordering::Relaxed);
        let page = self.store.read(selectors.query(), after, PAGE)?;
        let gone = selectors.gone(&page);
        let (now, now_ms, epoch) = (self.clock.now(), unix_ms(self.clock.date()), self.epoch());
        let up_to = if page.is_end { newest.max(after) } else { page.up_to.min(newest) };
        let frames = page.records.into_iter().take_while(|record| record.number <= newest);
        let frames = frames.map(|record| frame_of(record, epoch, now, now_ms));
        let frames = frames.filter(|frame| selectors.selection().wants(frame)).map(Arc::new).collect();
        Ok(HistoryPage { selectors, after, frames, up_to, gone })
    }
}

/// The frame of a stored event.
pub(crate) fn frame_of(record: Record, epoch: Epoch, now: Duration, now_ms: u64) -> Frame {
    let Record { number, published_ms, event } = record;
    // The clock of the machine may have been set back.
    let age = Duration::from_millis(now_ms.saturating_sub(published_ms));
    let own_id = event.id().map(|id| id.as_str().to_owned());
    let id = own_id.unwrap_or_else(|| Cursor { epoch, seq: number }.to_string());
    Frame::encode(number, &id, event, now.saturating_sub(age))
}

#[cfg(test)]
#[cfg(not(fanfare_loom))]
mod tests {
    use super::*;
    use crate::hub::Common;
    use crate::shared_log::log_of;
    use fanfare_io::Waker;
    use fanfare_proto::limits::Limits;

    /// A stream that waited for a page had other topics meanwhile, was at the head for a while, and asked
    /// again: of both answers one place stayed taken for ever.
    #[test]
    fn two_answers_for_one_stream_take_one_place() {
        let limits = Limits::default();
        let common = Common::new(log_of(Epoch::new(1), &limits, 1), 1, &limits, 1, 1);
        let mailbox = common.mailbox(0, Waker::new().unwrap());
        let mut desk = HistoryDesk::new(HistoryQueue::new(), mailbox);
        let (link, topics) = (LinkKey { slot: 0, generation: 1 }, [Topic::new("a").unwrap()]);
        let selection = Selection::of(&topics, false);
        let wanted = Wanted { selection, after: 0, incomplete_until: 0 };
        let bounds = ReadBounds { frames: 1, bytes: 1, steps: 1 };
        for _ in 0..2 {
            let read = desk.read(link, &wanted, bounds, 9, &mut Vec::new());
            assert_eq!(read, Err(Unread::Later));
            desk.retain(|_| false);
        }
        let _ = desk.read(link, &wanted, bounds, 9, &mut Vec::new());
        assert_eq!(desk.busy, 3);
        for _ in 0..3 {
            desk.answered(HistoryAnswer::Page { link, page: None });
        }
        assert_eq!(desk.busy, 1);
        desk.retain(|_| false);
        assert_eq!((desk.busy, desk.is_idle()), (0, true));
    }
}
