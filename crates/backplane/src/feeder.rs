//! The way of events from the stream to the engine.
//!
//! ```text
//!   NATS --consumer--> task --| bounded channel |--> thread "fanfare-feed" --> Feed::append
//! ```
//!
//! The engine's mailboxes may be full: then the thread waits, the channel fills, the task does not answer the
//! flow control, and the server stops sending. What is too much stays in the stream.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fanfare::LogBreak;
use fanfare_store::Record;
use tokio::sync::{Semaphore, mpsc};

use crate::api::StreamInfo;
use crate::consumer::{Ended, Filter, Incoming, Reading, Received};
use crate::epoch;
use crate::shared::Shared;

/// Events between the task and the thread.
const CHANNEL_EVENTS: usize = 4096;
/// Their bytes.
const CHANNEL_BYTES: usize = 16 << 20;
/// Events that are appended at once.
const BATCH_EVENTS: usize = 512;
/// Their bytes.
const BATCH_BYTES: usize = 1 << 20;

/// After so long without a sign of life a consumer is given up.
const SILENCE: Duration = Duration::from_secs(3);

/// How long a look at the stream may take.
const LOOK: Duration = Duration::from_secs(2);

/// Times of messages that are remembered, to know a number that was given twice.
const REMEMBERED: usize = 4096;

/// What the thread is given.
pub(crate) enum Item {
    Event {
        record: Record,
        bytes: u32,
    },
    /// There is no event with this number.
    None(u64),
    /// Nothing: it has to look whether it has to break off.
    Wake,
}

/// The two ends of the way.
pub(crate) struct Channel {
    pub(crate) items: mpsc::Receiver<Item>,
    room: Arc<Semaphore>,
}

pub(crate) struct Feeder {
    shared: Arc<Shared>,
    items: mpsc::Sender<Item>,
    room: Arc<Semaphore>,
    /// Everything up to this number was received.
    newest: u64,
    /// The newest numbers and their times.
    times: VecDeque<(u64, u64)>,
    /// Where the stream ended when the consumer had nothing more.
    end: Option<End>,
}

/// Where the stream ends.
struct End {
    /// Everything up to this number was received then.
    newest: u64,
    last: u64,
    gone: u64,
}

pub(crate) fn new(shared: Arc<Shared>, after: u64) -> (Feeder, Channel) {
    let (sender, items) = mpsc::channel(CHANNEL_EVENTS);
    let room = Arc::new(Semaphore::new(CHANNEL_BYTES));
    let feeder = Feeder {
        shared,
        items: sender,
        room: Arc::clone(&room),
        newest: after,
        times: VecDeque::new(),
        end: None,
    };
    (feeder, Channel { items, room })
}

impl Drop for Channel {
    /// The task does not wait for a thread that has ended.
    fn drop(&mut self) {
        self.room.close();
    }
}

impl Feeder {
    /// Reads the stream until the engine ends or cannot go on.
    pub(crate) async fn run(mut self) {
        let _guard = BreaksOff { shared: Arc::clone(&self.shared), what: "the task that reads the stream" };
        let (api, from) = (self.shared.api.clone(), self.first_to_read());
        let mut reading = Reading::new(api, Filter::default(), from);
        let mut is_first = true;
        while !self.shared.is_broken() {
            if self.shared.link.generation().is_none() {
                self.shared.set_live(false);
                self.shared.link.changed().await;
                continue;
            }
            if !reading.is_open() && !std::mem::take(&mut is_first) {
                self.shared.counts.recreations.fetch_add(1, Ordering::Relaxed);
            }
            if !reading.is_open() && self.is_same_stream().await.is_err() {
                self.shared.link.changed().await;
                continue;
            }
            if reading.prepare().await.is_ok() {
                self.shared.set_live(true);
            }
            let next = tokio::select! {
                next = reading.next(SILENCE) => next,
                () = self.shared.broken.notified() => break,
            };
            let taken = match next {
                Ok(received) => {
                    self.shared.set_live(true);
                    self.take(received).await
                }
                Err(ended) => {
                    self.on_end(&ended).await;
                    Err(())
                }
            };
            if taken.is_err() {
                self.end = None;
                reading.restart(self.first_to_read());
            }
            if self.items.is_closed() {
                return;
            }
        }
        // A full channel means that the thread looks anyway.
        let _ = self.items.try_send(Item::Wake);
    }

    /// The newest message again, where its time is known: if it is another one now, numbers were given twice.
    fn first_to_read(&self) -> u64 {
        let is_known = self.times.back().is_some_and(|(number, _)| *number == self.newest);
        if is_known { self.newest } else { self.newest + 1 }
    }

    /// An error: the reading has to start again.
    async fn take(&mut self, received: Received) -> Result<(), ()> {
        match received {
            Received::Heartbeat => self.check_end().await,
            Received::Unreadable(number) => {
                if number > self.newest {
                    self.shared.counts.no_events.fetch_add(1, Ordering::Relaxed);
                    self.check_hole(number).await?;
                    self.newest = number;
                    self.send(Item::None(number), 0).await;
                }
                Ok(())
            }
            Received::Message(message) => self.take_message(*message).await,
        }
    }

    async fn take_message(&mut self, message: Incoming) -> Result<(), ()> {
        let number = message.stored.number;
        if number <= self.newest {
            let known = self.times.iter().rev().find(|(known, _)| *known == number);
            if known.is_some_and(|(_, time_ns)| *time_ns != message.time_ns) {
                self.went_back(&format!("the stream has another message with the number {number}")).await;
            }
            return Ok(());
        }
        self.check_hole(number).await?;
        self.newest = number;
        self.times.push_back((number, message.time_ns));
        if self.times.len() > REMEMBERED {
            self.times.pop_front();
        }
        let bytes = message.stored.payload.len() + message.stored.subject.len();
        let counts = &self.shared.counts;
        counts.received.fetch_add(1, Ordering::Relaxed);
        counts.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        match message.stored.to_record(&self.shared.subjects) {
            Some(record) => {
                self.shared.recent.note(number, &record.event);
                let bytes = bytes.clamp(1, CHANNEL_BYTES) as u32;
                self.send(Item::Event { record, bytes }, bytes).await;
            }
            None => {
                counts.no_events.fetch_add(1, Ordering::Relaxed);
                self.send(Item::None(number), 0).await;
            }
        }
        Ok(())
    }

    /// The consumer has nothing more. Where the stream ends behind what has come, the messages up to there
    /// are gone: dropped by the limits of the stream, or deleted.
    ///
    /// What the server had sent when it was asked may still be on its way. It is here before the next sign of
    /// life.
    async fn check_end(&mut self) -> Result<(), ()> {
        if let Some(End { newest, last, gone }) = self.end.take()
            && newest == self.newest
        {
            if gone > newest {
                self.shared.break_off(LogBreak::Lost { up_to: gone });
                return Err(());
            }
            self.newest = last;
            self.send(Item::None(last), 0).await;
            return Ok(());
        }
        if self.shared.last() <= self.newest {
            return Ok(());
        }
        let info = self.is_same_stream().await?;
        if info.last > self.newest {
            self.end = Some(End { newest: self.newest, last: info.last, gone: info.gone() });
        }
        Ok(())
    }

    /// Where numbers are missing before this one, the stream has dropped them, or somebody has deleted a
    /// message in the middle.
    async fn check_hole(&mut self, number: u64) -> Result<(), ()> {
        if number == self.newest + 1 {
            return Ok(());
        }
        let info = self.is_same_stream().await?;
        if info.gone() > self.newest {
            self.shared.break_off(LogBreak::Lost { up_to: info.gone() });
            return Err(());
        }
        Ok(())
    }

    /// Looks whether the stream is still the same one. An error: it is not, or cannot be looked at.
    async fn is_same_stream(&self) -> Result<StreamInfo, ()> {
        let generation = self.shared.link.generation().ok_or(())?;
        match self.shared.api.stream_info(LOOK).await {
            Ok(info) if self.shared.is_same_stream(&info) => {
                self.shared.note_info(&info, generation);
                Ok(info)
            }
            Ok(_) => Err(()),
            Err(error) => {
                self.shared.link.note_error(format!("the stream cannot be looked at: {error}"));
                Err(())
            }
        }
    }

    /// The server may have lost what it had acknowledged: numbers come again.
    async fn went_back(&mut self, what: &str) {
        went_back(&self.shared, what).await;
    }

    async fn on_end(&self, ended: &Ended) {
        let link = &self.shared.link;
        link.note_error(ended.to_string());
        match ended {
            Ended::Gap => {}
            Ended::Away => {
                // Also where the connection seems to be there.
                self.shared.set_live(false);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ended::Told(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            Ended::NotCreated(_) => {
                self.shared.set_live(false);
                self.shared.check_now.notify_one();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ended::Silent => {
                self.shared.set_live(false);
                let heard = link.received_bytes();
                if self.shared.api.stream_info(LOOK).await.is_err() && !link.is_busy_since(heard) {
                    link.reconnect().await;
                }
            }
        }
    }

    async fn send(&self, item: Item, bytes: u32) {
        if let Ok(room) = self.room.acquire_many(bytes).await {
            room.forget();
        }
        // Where the thread has ended, the caller sees it.
        let _ = self.items.send(item).await;
    }
}

/// The stream gives numbers again that it has given before: the nodes need a new epoch.
pub(crate) async fn went_back(shared: &Shared, what: &str) {
    // Nothing more may be delivered, whatever becomes of the epoch. Where it cannot be written now, the next
    // start does it: it is told which epoch is over ([`crate::NatsOptions::epoch_is_over`]).
    let why = format!("{what}: NATS has lost events that it had acknowledged");
    shared.break_off(LogBreak::NewEpoch(why));
    while !shared.has_ended() {
        match epoch::renew(&shared.bucket, &shared.created, shared.epoch, LOOK).await {
            Ok(()) => return,
            Err(error) => shared.link.note_error(format!("the new epoch cannot be written: {error}")),
        }
        shared.link.changed().await;
    }
}

/// When this guard is dropped before the end was asked for, the engine breaks off. Without the guard a task
/// or a thread that ends by itself would leave a server that delivers nothing and says that it is ready.
pub(crate) struct BreaksOff {
    pub(crate) shared: Arc<Shared>,
    pub(crate) what: &'static str,
}

impl Drop for BreaksOff {
    fn drop(&mut self) {
        if !self.shared.has_ended() && !self.shared.is_broken() {
            self.shared.break_off(LogBreak::Failed(format!("{} has ended by itself", self.what)));
            self.shared.break_off_now();
        }
    }
}

/// The thread "fanfare-feed".
pub(crate) fn append_all(shared: &Arc<Shared>, mut channel: Channel) {
    let _guard = BreaksOff { shared: Arc::clone(shared), what: "the thread that feeds the engine" };
    let mut records = Vec::with_capacity(BATCH_EVENTS);
    while let Some(item) = channel.items.blocking_recv() {
        if shared.break_off_now() {
            return;
        }
        let (mut bytes, mut newest, mut is_event_last) = (0, 0, true);
        let mut next = Some(item);
        while let Some(item) = next.take() {
            match item {
                Item::Event { record, bytes: more } => {
                    bytes += more as usize;
                    (newest, is_event_last) = (record.number, true);
                    records.push(record);
                }
                Item::None(number) => (newest, is_event_last) = (number, false),
                Item::Wake => {}
            }
            if records.len() < BATCH_EVENTS && bytes < BATCH_BYTES {
                next = channel.items.try_recv().ok();
            }
        }
        if newest == 0 {
            continue;
        }
        // Before the engine has them: what it has can be read.
        shared.set_delivered(newest);
        let records = std::mem::replace(&mut records, Vec::with_capacity(BATCH_EVENTS));
        let appended = shared.with_feed(|feed| {
            let appended = feed.append(records);
            if appended.is_ok() && !is_event_last {
                feed.skip_to(newest);
            }
            appended
        });
        match appended {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                shared.link.note_error(format!("the engine takes nothing more: {error}"));
                return;
            }
            None => return,
        }
        channel.room.add_permits(bytes);
        shared.set_appended(newest);
    }
    shared.break_off_now();
}

#[cfg(test)]
mod tests {
    use std::thread;

    use fanfare::{Backplane, Engine};
    use fanfare_testkit::nats::{self, NatsServer};

    use super::*;
    use crate::{NatsBackplane, NatsOptions};

    /// The thread that feeds the engine, or its task, ended over a panic, and the server delivered nothing
    /// any more and said that it was ready.
    #[test]
    fn a_feed_that_ends_by_itself_breaks_off() {
        let server = NatsServer::start(&nats::NatsOptions::default()).unwrap();
        let backplane = NatsBackplane::connect(NatsOptions::new([server.url()])).unwrap();
        let engine = Engine::builder().shards(1).backplane(backplane.clone()).start().unwrap();
        let guard = || BreaksOff { shared: Arc::clone(backplane.shared()), what: "a thread of a test" };
        let of_panic = guard();
        assert_eq!(engine.hub().log_break(), None);
        let thread = thread::spawn(move || {
            let _guard = of_panic;
            panic!("this is a part of the test");
        });
        assert!(thread.join().is_err());
        assert!(matches!(engine.hub().log_break(), Some(LogBreak::Failed(_))));
        assert!(!backplane.status().is_caught_up);
        drop(engine);
        // The end that is asked for is none.
        let backplane = NatsBackplane::connect(NatsOptions::new([server.url()])).unwrap();
        let engine = Engine::builder().shards(1).backplane(backplane.clone()).start().unwrap();
        let guard = BreaksOff { shared: Arc::clone(backplane.shared()), what: "a thread of a test" };
        backplane.end();
        drop(guard);
        assert_eq!(engine.hub().log_break(), None);
    }
}
