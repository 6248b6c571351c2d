//! The publisher's side of waiting for room: as a thread, or as a task.

mod shared;

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use fanfare_proto::event::Event;

use super::commit::{Outcome, PublishCommits};
use super::line::{LinePosition, Task, WaitBy};
use super::{Attempt, Hub, Interrupted, NotPublished, PublishError, Published, Unpublished};
use crate::shard_thread;
use shared::Submitted;

/// A publish that waits for room, as a task: see [`Hub::publish_async`].
///
/// Where it is dropped before it is done, it gives up its position in the line, and the events that were not
/// taken are back in the publisher's vector. Those that were taken become visible all the same.
#[must_use = "a future does nothing unless it is polled"]
pub struct PublishFuture<'hub> {
    publishing: Publishing<'hub>,
}

/// A publisher that waits for its turn and for room: see [`Hub::ready`].
#[must_use = "a future does nothing unless it is polled"]
pub struct ReadyFuture<'hub> {
    hub: &'hub Hub,
    position: Option<LinePosition>,
}

/// A publish under way, in parts if it must.
struct Publishing<'hub> {
    hub: &'hub Hub,
    unpublished: Unpublished<'hub>,
    published: Option<Published>,
    /// The newest number of what was published: the publisher is answered when it is visible.
    number: u64,
    position: Option<LinePosition>,
    /// What its parts share, for a store.
    commits: Option<Arc<PublishCommits>>,
    /// Parts that have their numbers, and of which it is not known yet whether they are stored.
    undecided: VecDeque<Part>,
    /// Why the rest is refused. The answer waits for what is undecided: it says what was published.
    refusal: Option<PublishError>,
    /// What a log that nodes share was given.
    submitted: Option<Submitted>,
}

/// A part of a publish.
struct Part {
    published: Published,
    /// The number of its last event.
    number: u64,
    outcome: Arc<Outcome>,
}

impl Hub {
    /// Publishes all of these events, and waits for room where there is none, at most for `patience`.
    /// Publishers that wait for room in the same mailboxes are called in a fair order: a small publish
    /// may overtake large ones, each of them by no more bytes than it has itself, and among equal ones the
    /// first that came is the first. A batch that is larger than a mailbox is taken in parts, and
    /// others publish in between. Takes the events out of `events`, as far as they are published.
    ///
    /// Where older events of a durable store are not released yet, it has its position behind them, and waits
    /// until its own are visible.
    ///
    /// On a shard's thread, where an [`crate::Admission`] runs, it does not wait: a shard would wait for
    /// itself.
    ///
    /// # Errors
    /// [`Interrupted`]: `Busy` where there was no room in time, `Unreleased` where there was room and older
    /// events were not released in time, `Undecided` where the durable store has not answered in time,
    /// `WouldBlock` where there was no room on a shard's thread or older
    /// events were not released, and what [`Hub::publish_batch`] says.
    ///
    /// # Panics
    /// As [`Hub::publish`].
    pub fn publish_wait(
        &self,
        events: &mut Vec<Event>,
        patience: Duration,
    ) -> Result<Published, Interrupted> {
        let clock = self.inner.clock;
        let deadline = clock.now().saturating_add(patience);
        let mut publishing = Publishing::begin(self, events);
        loop {
            if let Some(result) = publishing.attempt(WaitBy::Thread) {
                return result;
            }
            let in_time = publishing
                .position
                .as_ref()
                .is_none_or(|position| position.wait(|| deadline.saturating_sub(clock.now())));
            if !in_time {
                return Err(publishing.interrupted(PublishError::Busy));
            }
        }
    }

    /// [`Hub::publish_wait`] as a future, for any executor. It waits until there is room, and has no limit of
    /// time: a caller that has one drops the future. To learn what was published before, it polls the future
    /// by reference and asks [`PublishFuture::published`].
    ///
    /// When a future is called, it should be polled soon, or dropped: until then publishers behind
    /// it that need the same mailboxes wait.
    ///
    /// # Errors
    /// The output is as of [`Hub::publish_wait`]; `WouldBlock` where it is polled on a shard's thread, and
    /// there is no room. `Busy` says that the thread which wakes tasks could not be started.
    ///
    /// # Panics
    /// As [`Hub::publish_wait`].
    ///
    /// ```
    /// # async fn publish(hub: &fanfare::Hub, topic: fanfare::Topic) -> Result<(), fanfare::Interrupted> {
    /// use fanfare::Event;
    ///
    /// let mut events = vec![Event::new(topic).with_data("hello")];
    /// let published = hub.publish_async(&mut events).await?;
    /// println!("{}", published.last);
    /// # Ok(()) }
    /// ```
    pub fn publish_async<'hub>(&'hub self, events: &'hub mut Vec<Event>) -> PublishFuture<'hub> {
        PublishFuture { publishing: Publishing::begin(self, events) }
    }
}

impl Hub {
    /// A publish whose attempts the caller makes, by polling it: no thread is woken, and none is started.
    /// `is_sequenced` becomes true when all events have their numbers.
    #[cfg(feature = "sim")]
    pub(crate) fn publish_by_hand(
        &self,
        mut events: Vec<Event>,
        is_sequenced: std::rc::Rc<std::cell::Cell<bool>>,
    ) -> impl Future<Output = Result<Published, Interrupted>> + use<> {
        let hub = self.clone();
        async move {
            let mut publishing = Publishing::begin(&hub, &mut events);
            std::future::poll_fn(|_| {
                let result = publishing.attempt(WaitBy::Thread);
                is_sequenced.set(publishing.is_sequenced());
                result.map_or(Poll::Pending, Poll::Ready)
            })
            .await
        }
    }

    /// Publishes one event, and waits for room where there is none: [`Hub::publish_async`] for a single
    /// event. A future that is dropped may have published it. An event that was given its number is
    /// published: where it is not visible when the wait ends, because older events of a durable store are not
    /// released, it becomes visible behind them.
    ///
    /// # Errors
    /// [`NotPublished`], with the event in it, and the reasons of [`Hub::publish_async`].
    ///
    /// # Panics
    /// As [`Hub::publish_wait`].
    pub async fn publish_when_ready(&self, event: Event) -> Result<Published, NotPublished> {
        // What a durable store refuses is not given back.
        let copy = self.has_store().then(|| event.clone());
        let mut events = vec![event];
        match self.publish_async(&mut events).await {
            Ok(published) => Ok(published),
            Err(Interrupted { error, published }) => match (events.pop().or(copy), published) {
                (_, Some(published)) => Ok(published),
                (Some(event), None) => Err(NotPublished::new(error, event)),
                (None, None) => unreachable!("without a store, a refused event is back in the vector"),
            },
        }
    }

    /// Waits until a publish would find room, for publishers that make an event only when it can go out: they
    /// publish the newest state, and not an older one that has waited. There is room when each mailbox has
    /// room for an event with [`crate::Limits::event_bytes`] of data, and the publishers that came before
    /// have had their turn, in the fair order of [`Hub::publish_wait`].
    ///
    /// The room is not reserved: another publisher may take it before this one publishes. Then
    /// [`Hub::publish`] says `Busy`, and [`Hub::publish_when_ready`] waits again.
    ///
    /// # Errors
    /// `Stopped`; `WouldBlock` where it is polled on a shard's thread, and there is no room; `Busy` where the
    /// thread that wakes tasks could not be started.
    ///
    /// # Panics
    /// As [`Hub::publish_wait`].
    pub fn ready(&self) -> ReadyFuture<'_> {
        ReadyFuture { hub: self, position: None }
    }

    /// For a task: whether it may try, because it has no position in the line yet, or is called.
    fn poll_call(
        &self,
        position: Option<&LinePosition>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), PublishError>> {
        let Some(position) = position else { return Poll::Ready(Ok(())) };
        let tasks = &self.inner.tasks;
        let task = Task::Publisher(position.ticket());
        tasks.register(task, context.waker());
        // This is asked behind the registration, so that a call in between is not lost.
        if !position.is_called() {
            if shard_thread::is_current() {
                return Poll::Ready(Err(PublishError::WouldBlock));
            }
            if tasks.start().is_err() {
                return Poll::Ready(Err(PublishError::Busy));
            }
            return Poll::Pending;
        }
        tasks.remove(task);
        Poll::Ready(Ok(()))
    }
}

impl PublishFuture<'_> {
    /// What has been published so far: a part of a batch that is larger than a mailbox.
    pub fn published(&self) -> Option<&Published> {
        self.publishing.published.as_ref()
    }

    /// Waits no longer, and says what is certain: what was published, and why the rest was not. Those events
    /// that are certainly not published are back in the publisher's vector.
    ///
    /// A future that is dropped does the same, and does not say it.
    pub fn give_up(mut self) -> Interrupted {
        self.publishing.interrupted(PublishError::Busy)
    }

    /// Whether some events have their numbers, and it is not known yet whether the durable store takes them.
    /// They become visible if it does, also where this is dropped: [`PublishError::Undecided`].
    pub fn is_undecided(&self) -> bool {
        !self.publishing.undecided.is_empty()
            || self.publishing.submitted.as_ref().is_some_and(Submitted::has_begun)
    }
}

impl fmt::Debug for PublishFuture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishFuture").field("published", &self.published()).finish_non_exhaustive()
    }
}

impl fmt::Debug for ReadyFuture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadyFuture").field("hub", self.hub).finish_non_exhaustive()
    }
}

impl Future for PublishFuture<'_> {
    type Output = Result<Published, Interrupted>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let publishing = &mut self.get_mut().publishing;
        loop {
            match publishing.hub.poll_call(publishing.position.as_ref(), context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(publishing.interrupted(error))),
                Poll::Ready(Ok(())) => {}
            }
            if let Some(result) = publishing.attempt(WaitBy::Task) {
                return Poll::Ready(result);
            }
        }
    }
}

impl Future for ReadyFuture<'_> {
    type Output = Result<(), PublishError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let ReadyFuture { hub, position } = self.get_mut();
        loop {
            match hub.poll_call(position.as_ref(), context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => {}
            }
            hub.inner.assert_in_reach();
            let wait = (position.is_some() || !shard_thread::is_current()).then_some(&mut *position);
            match hub.inner.sequencer.has_room(wait) {
                Ok(true) => return Poll::Ready(Ok(())),
                Ok(false) if position.is_none() => return Poll::Ready(Err(PublishError::WouldBlock)),
                Ok(false) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Drop for ReadyFuture<'_> {
    fn drop(&mut self) {
        if let Some(position) = self.position.take() {
            self.hub.inner.tasks.remove(Task::Publisher(position.ticket()));
        }
    }
}

impl<'hub> Publishing<'hub> {
    fn begin(hub: &'hub Hub, events: &'hub mut Vec<Event>) -> Publishing<'hub> {
        Publishing {
            hub,
            unpublished: Unpublished::of(events),
            published: None,
            number: 0,
            position: None,
            commits: hub.inner.store.is_some().then(Arc::default),
            undecided: VecDeque::new(),
            refusal: None,
            submitted: None,
        }
    }

    /// Publishes as many parts as there is room for. `None`: there is no room for the next one, and a
    /// position in the line. A shard's thread takes no position: without room, its publish is over.
    fn attempt(&mut self, by: WaitBy) -> Option<Result<Published, Interrupted>> {
        if self.hub.inner.backplane.is_some() {
            return self.attempt_shared(by);
        }
        if self.is_sequenced() || self.refusal.is_some() {
            return self.end_when_visible(by);
        }
        let may_wait = self.position.is_some() || !shard_thread::is_current();
        loop {
            self.hub.inner.assert_in_reach();
            let wait = may_wait.then_some((&mut self.position, by));
            match self.hub.inner.sequencer.publish(&mut self.unpublished.queue, wait, self.commits.as_ref()) {
                Attempt::Waits => return None,
                Attempt::Refused(PublishError::Busy) if !may_wait => {
                    return Some(Err(self.interrupted(PublishError::WouldBlock)));
                }
                Attempt::Refused(error) if self.undecided.is_empty() => {
                    return Some(Err(self.interrupted(error)));
                }
                Attempt::Refused(error) => {
                    self.refusal = Some(error);
                    // It needs no more room.
                    self.leave();
                    return self.end_when_visible(by);
                }
                Attempt::Published { published, number, outcome: Some(outcome) } => {
                    self.undecided.push_back(Part { published, number, outcome });
                    if let Err(error) = self.decide() {
                        return Some(Err(self.interrupted(error)));
                    }
                }
                Attempt::Published { published, number, outcome: None } => self.add(published, number),
            }
            if self.is_sequenced() {
                return self.end_when_visible(by);
            }
            self.hub.inner.sequencer.let_others_go_first();
        }
    }

    /// Adds a part that is published up to this number.
    fn add(&mut self, part: Published, number: u64) {
        self.number = self.number.max(number);
        match &mut self.published {
            Some(published) => {
                let shifted = part.duplicates.into_iter().map(|mut duplicate| {
                    duplicate.index += published.count;
                    duplicate
                });
                published.duplicates.extend(shifted);
                published.count += part.count;
                published.last = part.last;
            }
            None => self.published = Some(part),
        }
    }

    /// Adds the parts that are stored. The error: why the next one is not, and with it those behind it.
    fn decide(&mut self) -> Result<(), PublishError> {
        while let Some(outcome) = self.undecided.front().and_then(|part| part.outcome.get().cloned()) {
            let committed = outcome.inspect_err(|_| self.undecided.clear())?;
            let Some(Part { mut published, .. }) = self.undecided.pop_front() else { return Ok(()) };
            if !committed.duplicates.is_empty() {
                for duplicate in &mut published.duplicates {
                    // The first one in its part was a duplicate itself.
                    let first = committed.duplicates.iter().find(|(given, _)| *given == duplicate.first.seq);
                    duplicate.first = first.map_or(duplicate.first, |(_, of_first)| of_first.first);
                }
                published.duplicates.extend(committed.duplicates.into_iter().map(|(_, duplicate)| duplicate));
                published.duplicates.sort_by_key(|duplicate| duplicate.index);
            }
            self.add(published, committed.number);
        }
        Ok(())
    }

    /// Whether all events have their numbers.
    fn is_sequenced(&self) -> bool {
        self.unpublished.queue.is_empty() && (self.published.is_some() || !self.undecided.is_empty())
    }

    /// The answer, when the last event is visible, or what was taken before a refusal is decided. `None`: it
    /// has a position in the line until then.
    fn end_when_visible(&mut self, by: WaitBy) -> Option<Result<Published, Interrupted>> {
        if let Err(error) = self.decide() {
            return Some(Err(self.interrupted(error)));
        }
        let number = self.undecided.back().map_or(self.number, |part| part.number);
        let is_visible = self.hub.inner.sequencer.is_visible(number, &mut self.position, by);
        // What was decided before the position was taken is seen here.
        if let Err(error) = self.decide() {
            return Some(Err(self.interrupted(error)));
        }
        if self.undecided.is_empty()
            && let Some(error) = self.refusal.take()
        {
            return Some(Err(self.interrupted(error)));
        }
        let is_visible = is_visible || self.hub.inner.sequencer.has_released(self.number);
        if is_visible && self.undecided.is_empty() {
            self.leave();
            return self.published.take().map(Ok);
        }
        // What was closed before the position was taken is seen here.
        let is_closed = self.hub.inner.common.waiting.is_closed();
        is_closed.then(|| Err(self.interrupted(PublishError::Stopped)))
    }

    fn interrupted(&mut self, error: PublishError) -> Interrupted {
        self.leave();
        if let Some(submitted) = &mut self.submitted {
            // An answer that has come meanwhile counts.
            self.published = submitted.take_late_answer(self.hub).or(self.published.take());
            let error = submitted.error_of_interruption(error);
            self.give_back();
            return Interrupted { error, published: self.published.take() };
        }
        let is_decided = matches!(
            error,
            PublishError::Stopped | PublishError::NotStored(_) | PublishError::IdConflict { .. }
        );
        let error = if !self.undecided.is_empty() {
            PublishError::Undecided
        } else if self.is_sequenced() && !is_decided {
            PublishError::Unreleased
        } else {
            error
        };
        Interrupted { error, published: self.published.take() }
    }

    /// Leaves the line, if it has a position there.
    fn leave(&mut self) {
        if let Some(position) = self.position.take() {
            self.hub.inner.tasks.remove(Task::Publisher(position.ticket()));
        }
    }
}

impl Drop for Publishing<'_> {
    fn drop(&mut self) {
        self.give_back();
        self.leave();
    }
}
