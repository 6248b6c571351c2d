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

#[cfg(test)]
#[cfg(not(fanfare_loom))]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
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
use fanfare_store::{Bounds, Error, Gone, Query, Record, Retained, StoreReader, View};

use crate::mailbox::{Mail, Mailbox};
use crate::store::{StoreCounts, unix_ms};
use crate::sync::{AtomicU64, Condvar, Mutex, lock};

/// Pages that one shard holds and has asked for.
const PAGES: usize = 8;

/// The smallest number of questions of one kind at which the unwanted ones are removed.
const PURGE_FROM: usize = 4096;

/// The smallest number of streams with bounds of their own at which those are looked for that need none any
/// more.
const LEAST_RETAINED: usize = 64;

/// How long the thread rests where the log is on another machine and cannot be reached.
const UNREACHABLE_REST: Duration = Duration::from_millis(50);

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
    /// The questions of each kind ([`Ask::kind`]). The kinds take turns: many costly questions do not delay
    /// the cheap ones, and subscribers that arrive do not delay the pages of streams that are open.
    questions: [VecDeque<Question>; 3],
    /// The kind whose turn is next.
    turn: usize,
    /// How many questions of each kind there may be before the unwanted ones are removed.
    purge_at: [usize; 3],
    is_closed: bool,
}

struct Question {
    mailbox: Arc<Mailbox>,
    ask: Ask,
    /// The shard drops the other end when it does not want the answer any more.
    wanted: Weak<()>,
}

enum Ask {
    /// Where a subscriber with this id starts. `known`: memory has the event with this id of a publisher.
    Start { number: u64, id: String, known: Option<u64>, selectors: Selectors },
    /// What comes after this event.
    Page { number: u64, link: LinkKey, after: u64, selectors: Selectors, retained: Option<Arc<dyn Retained>> },
}

/// The selectors of a subscriber, for another thread.
#[derive(Clone)]
struct Selectors {
    topics: Vec<Topic>,
    private_topics: usize,
    patterns: Vec<Pattern>,
    private_patterns: usize,
}

/// The log is on another machine, and cannot be reached at the moment.
struct Unreachable;

/// Where a subscriber starts by what the store has, and what it may read of it.
#[derive(Clone)]
pub(crate) struct StoreStart {
    /// `None`: the store cannot be read, so memory says where it starts.
    pub(crate) start: Option<Start>,
    /// `None`: everything that is there.
    pub(crate) retained: Option<Arc<dyn Retained>>,
}

/// The answer to a shard, by mail.
pub(crate) enum HistoryAnswer {
    /// Where the subscriber starts.
    Start { number: u64, start: StoreStart },
    /// `None`: the store cannot be read, or the page is not wanted any more.
    Page { number: u64, link: LinkKey, page: Option<HistoryPage> },
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
///
/// ```text
///   read --> Waits --a place is free--> Asked --mail--> Here --all was sent, or others wait--> (forgotten)
///                                                  \--> Failed --> (forgotten)
/// ```
pub(crate) struct ShardHistory {
    queue: Arc<HistoryQueue>,
    mailbox: Arc<Mailbox>,
    /// The number of the next question.
    next_number: u64,
    /// The starts that were asked for. A subscriber that has gone, or does not wait any longer, takes its own
    /// away.
    starts: HashMap<u64, AskedStart>,
    /// Starts that have come and were not taken.
    starts_here: usize,
    /// What the streams may read that began with a start from the store, where that is not everything.
    retained: HashMap<LinkKey, Arc<dyn Retained>>,
    /// How many of these there may be before those of streams that do not need them any more are removed.
    forget_retained_at: usize,
    pages: HashMap<LinkKey, Slot>,
    /// The laggards whose pages wait for a place, in order.
    waiting: VecDeque<LinkKey>,
    /// The laggards whose pages have a place, at most [`PAGES`].
    placed: Vec<LinkKey>,
    /// Places of pages that were asked for and are not wanted any more: they are free when the answers come.
    unwanted: usize,
}

struct AskedStart {
    /// `None`: it has not come.
    start: Option<StoreStart>,
    _wanted: Arc<()>,
}

/// The state of one laggard's page.
enum Slot {
    /// It waits until there is a place.
    Waits { after: u64, selectors: Selectors },
    /// The number of the question. An answer with another number is ignored.
    Asked { number: u64, _wanted: Arc<()> },
    /// `offered`: some of it was given to be sent.
    Here { page: HistoryPage, offered: bool },
    /// The store could not be read: to the subscriber this is gone.
    Failed,
}

/// The thread that reads.
pub(crate) struct HistoryReader {
    pub(crate) store: Arc<dyn StoreReader>,
    pub(crate) queue: Arc<HistoryQueue>,
    /// The newest number that is released.
    pub(crate) newest: Arc<AtomicU64>,
    pub(crate) counts: Arc<StoreCounts>,
    pub(crate) clock: Clock,
}

impl HistoryQueue {
    pub(crate) fn new() -> Arc<HistoryQueue> {
        Arc::new(HistoryQueue { state: Mutex::default(), has_work: Condvar::new() })
    }

    fn push(&self, question: Question) {
        let kind = question.ask.kind();
        let state = &mut *lock(&self.state);
        let (questions, purge_at) = (&mut state.questions[kind], &mut state.purge_at[kind]);
        if questions.len() >= *purge_at {
            // Where the disk hangs, subscribers give up and others come: what is wanted is bounded, and so is
            // what is kept.
            questions.retain(Question::is_to_be_answered);
            *purge_at = (2 * questions.len()).max(PURGE_FROM);
        }
        questions.push_back(question);
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
        lock(&self.state).questions.iter().map(VecDeque::len).sum()
    }

    fn next(&self) -> Option<Question> {
        let mut state = lock(&self.state);
        loop {
            if state.is_closed {
                return None;
            }
            if let Some(question) = state.take() {
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
    fn gone(&self, gone: Gone) -> u64 {
        if self.see_private() { gone.newest } else { gone.newest_public }
    }
}

impl State {
    fn take(&mut self) -> Option<Question> {
        let kinds = self.questions.len();
        let kind = (0..kinds)
            .map(|more| (self.turn + more) % kinds)
            .find(|kind| !self.questions[*kind].is_empty())?;
        self.turn = (kind + 1) % kinds;
        self.questions[kind].pop_front()
    }
}

impl Ask {
    /// Which questions it takes turns with.
    fn kind(&self) -> usize {
        match self {
            Ask::Page { .. } => 0,
            // A number says where it is. A publisher's id is looked for, in each topic.
            Ask::Start { id, .. } if id == EARLIEST || Cursor::parse(id).is_some() => 1,
            Ask::Start { .. } => 2,
        }
    }
}

impl Question {
    /// A question about a page is answered in any case, because the shard counts the pages that are under
    /// way.
    fn is_to_be_answered(&self) -> bool {
        self.is_wanted() || matches!(self.ask, Ask::Page { .. })
    }

    fn is_wanted(&self) -> bool {
        self.wanted.strong_count() > 0
    }
}

impl ShardHistory {
    pub(crate) fn new(queue: Arc<HistoryQueue>, mailbox: Arc<Mailbox>) -> ShardHistory {
        ShardHistory {
            queue,
            mailbox,
            next_number: 0,
            starts: HashMap::new(),
            starts_here: 0,
            retained: HashMap::new(),
            forget_retained_at: LEAST_RETAINED,
            pages: HashMap::new(),
            waiting: VecDeque::new(),
            placed: Vec::new(),
            unwanted: 0,
        }
    }

    /// Asks where a subscriber starts. The answer comes under this number.
    pub(crate) fn ask_for_start(&mut self, id: &str, known: Option<u64>, selection: Selection<'_>) -> u64 {
        let (number, wanted) = (self.next_number, Arc::new(()));
        self.next_number += 1;
        let ask = Ask::Start { number, id: id.to_owned(), known, selectors: Selectors::of(selection) };
        let question = Question { mailbox: Arc::clone(&self.mailbox), ask, wanted: Arc::downgrade(&wanted) };
        self.starts.insert(number, AskedStart { start: None, _wanted: wanted });
        self.queue.push(question);
        number
    }

    /// Whether the answer has come.
    pub(crate) fn has_start(&self, number: u64) -> bool {
        self.starts.get(&number).is_some_and(|asked| asked.start.is_some())
    }

    /// Subscribers whose start was asked for and not taken.
    #[cfg(test)]
    pub(crate) fn starts_asked(&self) -> usize {
        self.starts.len()
    }

    /// Whether any answer has come that was not taken.
    pub(crate) fn has_starts(&self) -> bool {
        self.starts_here > 0
    }

    /// The answer; `None`: it has not come, and is not waited for any longer.
    pub(crate) fn take_start(&mut self, number: u64) -> Option<StoreStart> {
        let start = self.starts.remove(&number)?.start?;
        self.starts_here -= 1;
        Some(start)
    }

    /// A stream has begun that may read this.
    pub(crate) fn begun(
        &mut self,
        link: LinkKey,
        retained: Arc<dyn Retained>,
        is_laggard: impl Fn(LinkKey) -> bool,
    ) {
        self.retained.insert(link, retained);
        if self.retained.len() >= self.forget_retained_at {
            self.retained.retain(|link, _| is_laggard(*link));
            self.forget_retained_at = (2 * self.retained.len()).max(LEAST_RETAINED);
        }
    }

    /// An answer has come. Where it is a page, the laggard on this link can be served.
    pub(crate) fn answered(&mut self, answer: HistoryAnswer) -> Option<LinkKey> {
        match answer {
            HistoryAnswer::Start { number, start } => {
                if let Some(asked) = self.starts.get_mut(&number) {
                    asked.start = Some(start);
                    self.starts_here += 1;
                }
                None
            }
            HistoryAnswer::Page { number, link, page } => {
                let is_asked =
                    |slot: &Slot| matches!(slot, Slot::Asked { number: asked, .. } if *asked == number);
                if self.pages.get(&link).is_some_and(is_asked) {
                    let here = page.map_or(Slot::Failed, |page| Slot::Here { page, offered: false });
                    self.pages.insert(link, here);
                    return Some(link);
                }
                // The stream has ended, or needs another page.
                self.unwanted -= 1;
                self.ask_for_next();
                None
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
            Some(Slot::Waits { .. } | Slot::Asked { .. }) => return Err(Unread::Later),
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
        let selectors = Selectors::of(wanted.selection);
        self.pages.insert(link, Slot::Waits { after: wanted.after, selectors });
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

    /// Gives back the places of laggards that are none any more.
    pub(crate) fn retain(&mut self, is_laggard: impl Fn(LinkKey) -> bool) {
        // At most as many as there are places. One that waits for a place gives way when it has one.
        for index in (0..self.placed.len()).rev() {
            let link = self.placed[index];
            if !is_laggard(link) {
                self.forget(link);
            }
        }
    }

    /// The laggards whose pages are not here.
    #[cfg(feature = "sim")]
    pub(crate) fn waiting(&self) -> impl Iterator<Item = LinkKey> {
        let waits = |slot: &Slot| matches!(slot, Slot::Waits { .. } | Slot::Asked { .. });
        self.pages.iter().filter(move |(_, slot)| waits(slot)).map(|(link, _)| *link)
    }

    /// # Panics
    /// Something does not hold.
    #[cfg(feature = "sim")]
    pub(crate) fn check(&self) {
        let waiting = self.pages.values().filter(|slot| matches!(slot, Slot::Waits { .. })).count();
        assert!(self.busy() <= PAGES, "{} pages are here or under way", self.busy());
        assert!(waiting == 0 || !self.has_place(), "{waiting} laggards wait for a place that is free");
        assert_eq!(self.pages.len() - waiting, self.placed.len(), "pages with a place");
        for link in &self.placed {
            assert!(!matches!(self.pages.get(link), None | Some(Slot::Waits { .. })), "{link:?} has a place");
        }
    }

    /// Pages that are here, and pages that are under way.
    #[cfg(feature = "sim")]
    pub(crate) fn busy(&self) -> usize {
        self.placed.len() + self.unwanted
    }

    fn forget(&mut self, link: LinkKey) {
        match self.pages.remove(&link) {
            Some(Slot::Waits { .. }) | None => return,
            Some(Slot::Asked { .. }) => self.unwanted += 1,
            Some(Slot::Here { .. } | Slot::Failed) => {}
        }
        self.placed.retain(|placed| *placed != link);
        self.ask_for_next();
    }

    fn has_place(&self) -> bool {
        self.placed.len() + self.unwanted < PAGES
    }

    fn ask_for_next(&mut self) {
        // A laggard that waited may have been forgotten.
        while let Some(link) = self.waiting.front()
            && !matches!(self.pages.get(link), Some(Slot::Waits { .. }))
        {
            self.waiting.pop_front();
        }
        if !self.has_place() && !self.waiting.is_empty() {
            let is_offered =
                |link: &LinkKey| matches!(self.pages.get(link), Some(Slot::Here { offered: true, .. }));
            if let Some(index) = self.placed.iter().position(is_offered) {
                // Its laggard asks again when its socket has room.
                self.pages.remove(&self.placed.swap_remove(index));
            }
        }
        while self.has_place()
            && let Some(link) = self.waiting.pop_front()
        {
            let Some(Slot::Waits { .. }) = self.pages.get(&link) else { continue };
            let (number, wanted) = (self.next_number, Arc::new(()));
            self.next_number += 1;
            let asked = Slot::Asked { number, _wanted: Arc::clone(&wanted) };
            let Some(Slot::Waits { after, selectors }) = self.pages.insert(link, asked) else { continue };
            self.placed.push(link);
            let retained = self.retained.get(&link).map(Arc::clone);
            let ask = Ask::Page { number, link, after, selectors, retained };
            let mailbox = Arc::clone(&self.mailbox);
            self.queue.push(Question { mailbox, ask, wanted: Arc::downgrade(&wanted) });
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
    /// Answers until the queue is closed.
    pub(crate) fn run(self) {
        while let Some(question) = self.queue.next() {
            self.answer_by_mail(question);
        }
    }

    /// Answers one question. False: there is none.
    #[cfg(feature = "sim")]
    pub(crate) fn step(&self) -> bool {
        let question = lock(&self.queue.state).take();
        let is_there = question.is_some();
        question.into_iter().for_each(|question| self.answer_by_mail(question));
        is_there
    }

    fn answer_by_mail(&self, question: Question) {
        let is_wanted = question.is_wanted();
        match self.answer(&question.ask, is_wanted) {
            Ok(Some(answer)) => {
                // A shard that has ended needs none.
                let _ = question.mailbox.push(Mail::History(Box::new(answer)), || Ok::<_, ()>(()));
            }
            Ok(None) => {}
            Err(Unreachable) => {
                // What cannot be reached now is not lost. The question is asked again for as long as the
                // shard wants the answer.
                self.queue.push(question);
                std::thread::sleep(UNREACHABLE_REST);
            }
        }
    }

    /// `None`: the shard needs no answer.
    fn answer(&self, ask: &Ask, is_wanted: bool) -> Result<Option<HistoryAnswer>, Unreachable> {
        let count = |error: Error| {
            self.counts.add_read_failure(&error);
            if matches!(error, Error::Unreachable { .. }) { Err(Unreachable) } else { Ok(()) }
        };
        match ask {
            Ask::Start { .. } if !is_wanted => Ok(None),
            Ask::Start { number, id, known, selectors } => {
                let start = match self.start_of(id, *known, selectors) {
                    Ok(start) => start,
                    Err(error) => {
                        count(error)?;
                        StoreStart { start: None, retained: None }
                    }
                };
                Ok(Some(HistoryAnswer::Start { number: *number, start }))
            }
            Ask::Page { number, link, after, selectors, retained } => {
                let page = match is_wanted.then(|| self.page(*after, selectors, retained.as_deref())) {
                    Some(Ok(page)) => Some(page),
                    Some(Err(error)) => {
                        count(error)?;
                        None
                    }
                    None => None,
                };
                Ok(Some(HistoryAnswer::Page { number: *number, link: *link, page }))
            }
        }
    }

    /// The same as [`fanfare_proto::log::Log::resume`], by what the store has.
    fn start_of(&self, id: &str, known: Option<u64>, selectors: &Selectors) -> Result<StoreStart, Error> {
        let number = match Cursor::parse(id) {
            Some(Cursor { epoch, seq }) if epoch == self.epoch() => Some(seq),
            // Where both have an event with this id, the subscriber may have the older one only.
            None if id != EARLIEST => self.number_of(id, selectors)?.into_iter().chain(known).min(),
            _ => None,
        };
        let View { gone, expired, retained } = self.store.view(selectors.query(), number.unwrap_or(0))?;
        let (gone, mut expired) = (selectors.gone(gone), selectors.gone(expired));
        if id == EARLIEST {
            // The subscriber asked for what is retained, so it has missed nothing yet. It is told of a gap
            // only for events that are dropped while it reads.
            return Ok(StoreStart { start: Some(Start::At { cursor: gone, from: 0 }), retained });
        }
        if let (Some(seq), Some(retained), Query::All) = (number, &retained, selectors.query())
            && seq >= gone
            && retained.has_expired(seq, &|record| self.wants(selectors, record))?
        {
            // Which ones are expired is known when all has been read.
            expired = self.newest.load(Ordering::Relaxed);
        }
        let (from, cursor) = (number.unwrap_or(0), gone.max(expired));
        Ok(match number {
            // Nothing of what follows had expired when it began.
            Some(seq) if seq >= cursor => {
                StoreStart { start: Some(Start::At { cursor: seq, from: seq }), retained: None }
            }
            _ => StoreStart { start: Some(Start::Gap { cursor, from }), retained },
        })
    }

    fn wants(&self, selectors: &Selectors, record: &Record) -> bool {
        let frame = frame_of(record.clone(), self.epoch(), Duration::ZERO, 0);
        selectors.selection().wants(&frame)
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

    fn page(
        &self,
        after: u64,
        selectors: &Selectors,
        retained: Option<&dyn Retained>,
    ) -> Result<HistoryPage, Error> {
        let newest = self.newest.load(Ordering::Relaxed);
        let page = match retained {
            None => self.store.read(selectors.query(), after, PAGE)?,
            Some(retained) => retained.read(selectors.query(), after, PAGE)?,
        };
        let gone = selectors.gone(page.gone);
        let (now, now_ms, epoch) = (self.clock.now(), unix_ms(self.clock.date()), self.epoch());
        let up_to = if page.is_end { newest.max(after) } else { page.up_to.min(newest) };
        let frames = page.records.into_iter().take_while(|record| record.number <= newest);
        let frames = frames.map(|record| frame_of(record, epoch, now, now_ms));
        let frames = frames.filter(|frame| selectors.selection().wants(frame)).map(Arc::new).collect();
        Ok(HistoryPage { selectors: selectors.clone(), after, frames, up_to, gone })
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
