//! What is read back from the stream: [`fanfare_store::StoreReader`].
//!
//! All events come through a consumer that stays for the next page.
//!
//! The events of some topics are asked for in runs, where the server and the stream allow it, and else one
//! after the other. The leader of the stream says where a run begins, and whether there is more behind its
//! end: it has all that was acknowledged, and it answers in a form in which no message can harm the
//! connection.
//!
//! A subscriber that begins is given what the retention of its topics covers ([`crate::retained`]). An engine
//! that starts is given everything, because its log in memory notes what it does not keep. So is a subscriber
//! that was there when the events came, and has fallen behind.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fanfare_proto::event::{EventId, Topic};
use fanfare_store::encoding::event_bytes;
use fanfare_store::{Bounds, Error, Gone, Page, Query, Record, Retained, State, StoreReader, View};
use futures_util::future::try_join_all;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::api::{ApiError, Fetched, RunEnd};
use crate::consumer::{Ended, Filter, Incoming, Reading, Received};
use crate::holes::Hole;
use crate::retained;
use crate::shared::Shared;

/// How long a call may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// After so long a page is given as it is.
const PAGE_TIME: Duration = Duration::from_millis(500);

/// How long one message may take.
const STEP: Duration = Duration::from_secs(1);

/// After so long without a message the leader of the stream is asked whether there is one.
const QUIET: Duration = Duration::from_millis(250);

/// How often a read is tried before the engine has begun.
const ATTEMPTS_AT_START: u32 = 10;

/// Between two of these attempts.
const REST: Duration = Duration::from_millis(200);

/// Consumers that stay for the next page.
const MOST_SESSIONS: usize = 3;

/// A consumer that has given a page within this time is in use.
const BUSY: Duration = Duration::from_millis(500);

/// After so long without a page a consumer goes.
const IDLE: Duration = Duration::from_secs(5);

/// Messages of one subject that are asked for at once.
const LEAST_RUN: usize = 32;
const MOST_RUN: usize = 1024;

/// Bytes of them.
const LEAST_RUN_BYTES: usize = 64 << 10;
const MOST_RUN_BYTES: usize = 1 << 20;

/// How long one message of a run may take.
const RUN_STEP: Duration = Duration::from_millis(500);

/// Holes of one page about which the leader of the stream is asked at most.
const MOST_CONFIRMED: usize = 32;

/// After so many runs of a page that could not be used, messages are asked for one after the other.
const MOST_FAILURES: u32 = 2;

/// Of one topic, at least so many of the newest messages are searched for an id.
const SEARCHED: u64 = 4096;

#[derive(Clone)]
pub(crate) struct StreamReader {
    shared: Arc<Shared>,
    runtime: Handle,
    sessions: Arc<Mutex<Vec<Session>>>,
}

/// A consumer that stays for the next page.
struct Session {
    reading: Reading,
    /// Everything up to this number was given.
    up_to: u64,
    /// What was read and not given.
    next: Option<Box<Incoming>>,
    used: Instant,
}

/// The messages of one subject, in order.
struct Line {
    subject: String,
    ready: VecDeque<Fetched>,
    /// Everything up to this number was read.
    read: u64,
    /// There is a message of the subject with this number.
    is_there: bool,
    /// There is nothing behind it, up to the number where the page ends at the latest.
    is_over: bool,
    /// Runs that could not be used.
    failures: u32,
}

impl StreamReader {
    pub(crate) fn new(shared: Arc<Shared>, runtime: Handle) -> StreamReader {
        let sessions = Arc::new(Mutex::new(Vec::new()));
        runtime.spawn(drop_idle(Arc::clone(&shared), Arc::clone(&sessions)));
        StreamReader { shared, runtime, sessions }
    }

    /// Runs this on the thread of the connection, and waits for it.
    fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, String>> + Send + 'static,
    ) -> Result<T, Error> {
        let unreachable = |what: String| Error::Unreachable { what: format!("the stream: {what}") };
        if self.shared.has_ended() || self.shared.link.generation().is_none() {
            return Err(unreachable("there is no connection to NATS".to_owned()));
        }
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.runtime.spawn(async move {
            let done = tokio::time::timeout(PATIENCE, work).await;
            let done = done.unwrap_or_else(|_| Err("NATS takes too long".to_owned()));
            // A caller that has given up needs none.
            let _ = sender.try_send(done);
        });
        let late = || Err("NATS takes too long".to_owned());
        receiver.recv_timeout(2 * PATIENCE).unwrap_or_else(|_| late()).map_err(unreachable)
    }

    fn gone(&self) -> Gone {
        gone_up_to(self.shared.first().saturating_sub(1))
    }
}

impl StoreReader for StreamReader {
    fn state(&self) -> State {
        let mut state = State::empty(self.shared.epoch);
        let (messages, bytes) = self.shared.size();
        state.newest = self.shared.delivered();
        state.synced = state.newest;
        state.oldest = if messages == 0 { 0 } else { self.shared.first() };
        (state.records, state.bytes) = (messages, bytes);
        state
    }

    fn read(&self, query: Query<'_>, after: u64, bounds: Bounds) -> Result<Page, Error> {
        let newest = self.shared.delivered();
        if after >= newest {
            let mut page = Page::default();
            (page.up_to, page.is_end, page.gone) = (after, true, self.gone());
            return Ok(page);
        }
        // An engine that starts asks once. It does not fail for a connection that is lost at this moment.
        let mut attempts = if self.shared.has_begun() { 1 } else { ATTEMPTS_AT_START };
        loop {
            let shared = Arc::clone(&self.shared);
            let page = match query {
                Query::All => {
                    let sessions = Arc::clone(&self.sessions);
                    self.wait(async move { read_all(&shared, &sessions, after, newest, bounds).await })
                }
                Query::Topics(topics) => {
                    let topics: BTreeMap<Topic, u64> =
                        topics.iter().map(|topic| (topic.clone(), 0)).collect();
                    self.wait(async move { read_topics(&shared, &topics, after, newest, bounds).await })
                }
            };
            attempts -= 1;
            if page.is_ok() || attempts == 0 || self.shared.has_ended() {
                return page;
            }
            std::thread::sleep(REST);
        }
    }

    fn view(&self, query: Query<'_>, after: u64) -> Result<View, Error> {
        let gone = self.gone();
        let state = Arc::new(retained::AtStart::now(Arc::clone(&self.shared), self.shared.delivered()));
        let mut view = View { gone, expired: Gone::default(), retained: None };
        if !state.may_have_expired() {
            return Ok(view);
        }
        if let Query::Topics(topics) = query {
            let (asked, topics) = (Arc::clone(&state), topics.to_vec());
            view.expired = self.wait(async move { asked.expired_of(&topics, after).await })?;
            if view.expired.newest == 0 {
                return Ok(view);
            }
        }
        view.retained = Some(Arc::new(StreamView { reader: self.clone(), state }));
        Ok(view)
    }

    fn find(&self, id: &EventId, topics: &[Topic]) -> Result<Option<Record>, Error> {
        let (shared, id, topics) = (Arc::clone(&self.shared), id.clone(), topics.to_vec());
        self.wait(async move { find(&shared, &id, &topics).await })
    }
}

/// What a subscriber may read that has begun at a certain moment.
struct StreamView {
    reader: StreamReader,
    state: Arc<retained::AtStart>,
}

impl Retained for StreamView {
    fn read(&self, query: Query<'_>, after: u64, bounds: Bounds) -> Result<Page, Error> {
        let (shared, state) = (Arc::clone(&self.reader.shared), Arc::clone(&self.state));
        if after >= state.newest() {
            // Everything that has come since.
            return self.reader.read(query, after, bounds);
        }
        let newest = shared.delivered();
        match query {
            Query::All => {
                let mut page = self.reader.read(query, after, bounds)?;
                let records = std::mem::take(&mut page.records);
                page.records = self.reader.wait(async move { state.only_covered(records).await })?;
                Ok(page)
            }
            Query::Topics(topics) => {
                let topics = topics.to_vec();
                self.reader.wait(async move {
                    let mut expired = BTreeMap::new();
                    for topic in topics {
                        let up_to = state.expired_up_to(&topic).await?;
                        expired.insert(topic, up_to);
                    }
                    read_topics(&shared, &expired, after, newest, bounds).await
                })
            }
        }
    }

    fn has_expired(&self, after: u64, is_wanted: &dyn Fn(&Record) -> bool) -> Result<bool, Error> {
        let bounds = Bounds::default();
        let page = self.reader.read(Query::All, after, bounds)?;
        let is_all = page.is_end || page.up_to >= self.state.newest();
        let wanted: Vec<Record> = page.records.into_iter().filter(is_wanted).collect();
        let (state, count) = (Arc::clone(&self.state), wanted.len());
        let covered = self.reader.wait(async move { state.only_covered(wanted).await })?;
        Ok(covered.len() < count || !is_all)
    }
}

async fn drop_idle(shared: Arc<Shared>, sessions: Arc<Mutex<Vec<Session>>>) {
    while !shared.has_ended() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        sessions.lock().await.retain(|session| session.used.elapsed() < IDLE);
    }
}

fn gone_up_to(number: u64) -> Gone {
    Gone { newest: number, newest_public: number }
}

/// What is gone now.
async fn ask_what_is_gone(shared: &Shared) -> Result<Gone, String> {
    let info = shared.api.stream_info(STEP).await.map_err(|error| error.to_string())?;
    Ok(gone_up_to(info.gone()))
}

/// Those of the first holes that the leader of the stream has, too. A copy may drop old events earlier.
async fn confirm(shared: &Shared, holes: &[Hole]) -> Result<Vec<Hole>, String> {
    let new = holes.iter().filter(|hole| !shared.holes.knows_all(&[**hole])).take(MOST_CONFIRMED);
    let asked = new.map(async |&(after, before)| {
        let next = shared.api.next_message(after + 1, ">", STEP).await?;
        Ok(next.is_none_or(|next| next.stored.number >= before).then_some((after, before)))
    });
    let confirmed = try_join_all(asked).await.map_err(|error: ApiError| error.to_string())?;
    Ok(confirmed.into_iter().flatten().collect())
}

async fn read_all(
    shared: &Shared,
    sessions: &Mutex<Vec<Session>>,
    after: u64,
    newest: u64,
    bounds: Bounds,
) -> Result<Page, String> {
    let mut session = {
        let mut sessions = sessions.lock().await;
        let is_taken = |session: &Session| session.used.elapsed() < BUSY;
        match sessions.iter().position(|session| session.up_to == after) {
            Some(index) => sessions.swap_remove(index),
            // Others go on with these consumers. To take one away from them would make each page start anew.
            None if sessions.len() >= MOST_SESSIONS && sessions.iter().all(is_taken) => {
                drop(sessions);
                let line = Line::new(shared.subjects.all(), after);
                return read_lines(shared, vec![line], |_| true, after, newest, bounds).await;
            }
            None => {
                let reading = Reading::new(shared.api.clone(), Filter::default(), after + 1);
                Session { reading, up_to: after, next: None, used: Instant::now() }
            }
        }
    };
    let (mut page, holes) = session.read(shared, newest, bounds).await?;
    page.gone = if shared.holes.knows_all(&holes) {
        gone_up_to(shared.first().saturating_sub(1).min(after))
    } else {
        let confirmed = confirm(shared, &holes).await?;
        // After the read: what was dropped before it is among it.
        let gone = ask_what_is_gone(shared).await?;
        shared.holes.note(&confirmed, gone.newest);
        gone
    };
    let mut sessions = sessions.lock().await;
    if sessions.len() >= MOST_SESSIONS
        && let Some(oldest) = (0..sessions.len()).min_by_key(|index| sessions[*index].used)
    {
        sessions.swap_remove(oldest);
    }
    sessions.push(session);
    Ok(page)
}

impl Session {
    /// The page, and the numbers of it that no message has.
    async fn read(
        &mut self,
        shared: &Shared,
        newest: u64,
        bounds: Bounds,
    ) -> Result<(Page, Vec<Hole>), String> {
        let (mut page, mut bytes, mut seen) = (Page::default(), 0, 0_u64);
        let mut holes = Vec::new();
        let mut advance = |from: &mut u64, to: u64, has_message: bool| {
            if to > *from + u64::from(has_message) {
                holes.push((*from, to + u64::from(!has_message)));
            }
            *from = to.max(*from);
        };
        let begin = Instant::now();
        loop {
            if self.up_to >= newest {
                page.is_end = true;
                break;
            }
            let is_full = page.records.len() >= bounds.records || bytes >= bounds.bytes;
            let is_long = seen >= bounds.steps as u64 || begin.elapsed() >= PAGE_TIME;
            if seen > 0 && (is_full || is_long) {
                break;
            }
            let message = match self.next.take() {
                Some(message) => message,
                None => match self.receive(shared, newest).await? {
                    Some(Received::Message(message)) => message,
                    Some(Received::Unreadable(number)) => {
                        advance(&mut self.up_to, number.min(newest), number <= newest);
                        seen += 1;
                        continue;
                    }
                    Some(Received::Heartbeat) => continue,
                    None => {
                        advance(&mut self.up_to, newest, false);
                        continue;
                    }
                },
            };
            let number = message.stored.number;
            if number <= self.up_to {
                continue;
            }
            if number > newest {
                self.next = Some(message);
                advance(&mut self.up_to, newest, false);
                continue;
            }
            if let Some(record) = message.stored.to_record(&shared.subjects) {
                let more = event_bytes(&record.event);
                if !page.records.is_empty() && bytes + more > bounds.bytes {
                    self.next = Some(message);
                    break;
                }
                bytes += more;
                page.records.push(record);
            }
            seen += 1;
            advance(&mut self.up_to, number, true);
        }
        (page.up_to, self.used) = (self.up_to, Instant::now());
        Ok((page, holes))
    }

    /// What comes next. `None`: nothing up to `newest`.
    async fn receive(&mut self, shared: &Shared, newest: u64) -> Result<Option<Received>, String> {
        let begin = Instant::now();
        loop {
            let received = match self.reading.prepare().await {
                Ok(()) => tokio::time::timeout(QUIET, self.reading.next(STEP)).await,
                Err(ended) => Ok(Err(ended)),
            };
            match received {
                Ok(Ok(Received::Heartbeat)) | Err(_) => {
                    // The consumer may read a copy of the stream that is behind the leader's.
                    let next = shared.api.next_message(self.up_to + 1, ">", STEP).await;
                    let next = next.map_err(|error| error.to_string())?;
                    if next.is_none_or(|next| next.stored.number > newest) {
                        return Ok(None);
                    }
                }
                Ok(Ok(received)) => return Ok(Some(received)),
                Ok(Err(Ended::Gap)) => {}
                // A message that nobody can read has ended the connection, perhaps.
                Ok(Err(Ended::Away | Ended::NotCreated(ApiError::Request(_)))) => shared.link.changed().await,
                Ok(Err(ended)) => return Err(ended.to_string()),
            }
            if begin.elapsed() >= PATIENCE {
                return Err("NATS takes too long".to_owned());
            }
        }
    }
}

/// The events of these topics. For each of them, those up to a number are left out.
async fn read_topics(
    shared: &Shared,
    expired: &BTreeMap<Topic, u64>,
    after: u64,
    newest: u64,
    bounds: Bounds,
) -> Result<Page, String> {
    let mut lines: Vec<Line> = expired
        .iter()
        .map(|(topic, up_to)| Line::new(shared.subjects.of_topic(topic), after.max(*up_to)))
        .collect();
    // There is a number for each topic, unless there is no topic.
    let of_all = expired.values().min().copied().unwrap_or_default();
    lines.push(Line::new(shared.subjects.multi(), after.max(of_all)));
    let is_wanted = |record: &Record| {
        let mut of_topics = record.event.topics().iter().filter_map(|topic| expired.get(topic));
        of_topics.any(|up_to| record.number > *up_to)
    };
    read_lines(shared, lines, is_wanted, after, newest, bounds).await
}

/// The messages of these subjects that are wanted, in order.
async fn read_lines(
    shared: &Shared,
    mut lines: Vec<Line>,
    is_wanted: impl Fn(&Record) -> bool,
    after: u64,
    newest: u64,
    bounds: Bounds,
) -> Result<Page, String> {
    let begin = Instant::now();
    let firsts = lines.iter_mut().map(|line| line.fill(shared, newest, Bounds { records: 1, ..bounds }));
    try_join_all(firsts).await?;
    let (mut page, mut bytes, mut steps) = (Page::default(), 0, 0);
    page.up_to = after;
    loop {
        let heads = lines.iter().enumerate();
        let next = heads.filter_map(|(index, line)| Some((line.ready.front()?.stored.number, index)));
        let Some((number, index)) = next.min().filter(|(number, _)| *number <= newest) else {
            (page.up_to, page.is_end) = (newest, true);
            break;
        };
        if steps > 0 && (steps >= bounds.steps || page.records.len() >= bounds.records) {
            break;
        }
        steps += 1;
        let Some(message) = lines[index].ready.front() else { break };
        let record = message.to_record(&shared.subjects);
        if let Some(record) = record.filter(&is_wanted) {
            let more = event_bytes(&record.event);
            if !page.records.is_empty() && bytes + more > bounds.bytes {
                break;
            }
            bytes += more;
            page.records.push(record);
        }
        page.up_to = number;
        lines[index].ready.pop_front();
        if begin.elapsed() >= PAGE_TIME {
            break;
        }
        if lines[index].ready.is_empty() {
            let live = lines.iter().filter(|line| !line.is_over).count().max(1);
            let room = Bounds {
                records: (bounds.records.saturating_sub(page.records.len()) / live).max(LEAST_RUN),
                bytes: (bounds.bytes.saturating_sub(bytes) / live).max(LEAST_RUN_BYTES),
                ..bounds
            };
            lines[index].fill(shared, newest, room).await?;
        }
    }
    page.gone = ask_what_is_gone(shared).await?;
    Ok(page)
}

impl Line {
    fn new(subject: String, after: u64) -> Line {
        Line { subject, ready: VecDeque::new(), read: after, is_there: false, is_over: false, failures: 0 }
    }

    /// Reads what comes next, where nothing is ready. Afterwards there is something, or nothing up to
    /// `newest`.
    ///
    /// Any server with a copy of the stream answers for a run. It may be behind the leader, and it may have
    /// dropped old events before the leader does. So a run begins with a message that is known, which shows
    /// that the copy is neither; it counts up to its last message; and the leader says whether there is more.
    async fn fill(&mut self, shared: &Shared, newest: u64, room: Bounds) -> Result<(), String> {
        let generation = shared.link.generation();
        let may_run = self.is_there
            && room.records > 1
            && self.failures < MOST_FAILURES
            && shared.runs.may_ask(&self.subject, self.read, generation);
        let subject = &self.subject;
        if may_run {
            let count = room.records.min(MOST_RUN) + 1;
            let run =
                shared.api.run(self.read, subject, count, room.bytes.min(MOST_RUN_BYTES), RUN_STEP).await;
            match run.end {
                RunEnd::Complete => {}
                RunEnd::Lost | RunEnd::Stopped => self.failures = MOST_FAILURES,
                RunEnd::Late => shared.runs.note_late(),
                RunEnd::Unsupported => shared.runs.note_unsupported(generation.unwrap_or_default()),
            }
            let mut messages = run.messages.into_iter();
            match messages.next() {
                Some(first) if first.stored.number == self.read => self.ready.extend(messages),
                _ => self.failures += 1,
            }
            if let Some(last) = self.ready.back() {
                self.read = last.stored.number;
                if run.end == RunEnd::Complete {
                    return Ok(());
                }
            }
            while run.end == RunEnd::Lost && shared.link.generation().is_none() {
                shared.link.changed().await;
            }
        }
        let next = shared.api.next_message(self.read + 1, subject, STEP).await;
        match next.map_err(|error| error.to_string())? {
            Some(message) if message.stored.number <= newest => {
                self.read = message.stored.number;
                self.is_there = true;
                if !message.is_readable {
                    // A run with it would end the connection.
                    shared.runs.note_unreadable(&self.subject, self.read);
                    self.failures = 0;
                }
                self.ready.push_back(message);
            }
            _ => self.is_over = true,
        }
        Ok(())
    }
}

/// Waits until the engine has everything that the stream has now, and returns its last number.
async fn catch_up(shared: &Shared) -> Result<u64, String> {
    let info = shared.api.stream_info(STEP).await.map_err(|error| error.to_string())?;
    if !shared.is_same_stream(&info) {
        return Err("it is another one now".to_owned());
    }
    let begin = Instant::now();
    while shared.appended() < info.last {
        if begin.elapsed() >= STEP {
            return Err("this node is behind it".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(info.last.max(shared.delivered()))
}

/// Searches the newest messages with these topics, from the newest back.
///
/// A subscriber may have the id from a node that is ahead of this one: what that node has delivered is in the
/// stream, so the search begins when this node has everything that is there.
async fn find(shared: &Shared, id: &EventId, topics: &[Topic]) -> Result<Option<Record>, String> {
    let newest = catch_up(shared).await?;
    let subject = shared.subjects.of_topics(topics);
    // Most ids that are not in memory are of topics without messages, or of nobody.
    let last = shared.api.last_message(&subject, STEP).await.map_err(|error| error.to_string())?;
    if last.is_none() {
        return Ok(None);
    }
    let filter = Filter { subject: Some(subject), headers_only: true };
    let mut width = SEARCHED;
    let (mut reading, mut left) = loop {
        let from = newest.saturating_sub(width).max(shared.first());
        let mut reading = Reading::new(shared.api.clone(), filter.clone(), from);
        let pending = reading.open().await.map_err(|ended| ended.to_string())?;
        if pending >= SEARCHED || from <= shared.first() {
            break (reading, pending);
        }
        width = width.saturating_mul(8);
    };
    let mut found = Vec::new();
    while left > 0 {
        match reading.next(STEP).await {
            Ok(Received::Message(message)) => {
                left = message.pending;
                if message.stored.number > newest {
                    break;
                }
                if message.stored.own_id().flatten().as_ref() == Some(id) {
                    found.push(message.stored.number);
                }
            }
            Ok(Received::Unreadable(_)) => left -= 1,
            Err(Ended::Gap) => {}
            Err(Ended::Away) => shared.link.changed().await,
            // The server announced more messages than it sends now. What was not searched may have the id.
            Ok(Received::Heartbeat) => return Err("the search was not finished".to_owned()),
            Err(ended) => return Err(ended.to_string()),
        }
    }
    for number in found.into_iter().rev() {
        let message = shared.api.message_at(number, STEP).await.map_err(|error| error.to_string())?;
        let record = message.and_then(|message| message.to_record(&shared.subjects));
        if let Some(record) = record.filter(|record| record.has_identity(id, topics)) {
            return Ok(Some(record));
        }
    }
    Ok(None)
}
