//! A publish to a log that nodes share. The log gives the numbers, and the events come back from it as those of
//! other nodes do; see [`crate::backplane`].

use std::sync::Arc;

use fanfare_proto::cursor::Cursor;
use fanfare_proto::event::EventId;

use super::super::line::WaitBy;
use super::super::{Duplicate, Hub, Interrupted, PublishError, Published, SubmissionSlot};
use super::Publishing;
use crate::backplane::{Accepted, NotAccepted, Submission, SubmitFailure};
use crate::shard_thread;
use crate::store::StoreFailure;

/// What the shared log was given of one publish.
pub(super) struct Submitted {
    slot: Arc<SubmissionSlot>,
    /// Every event of the publish, in order.
    events: Vec<SubmittedEvent>,
    /// What the log has said; `None`: nothing so far.
    answer: Option<Answer>,
}

/// An event of the publish.
struct SubmittedEvent {
    own_id: Option<EventId>,
    /// The number of the same event, where the log in memory has it: the shared log was not given it again.
    repeats: Option<u64>,
}

/// What the shared log has said.
struct Answer {
    /// Why not all of the events are published.
    error: Option<PublishError>,
    /// The part of them that is published is visible when the newest number has reached this one.
    number: u64,
}

impl Submitted {
    /// Whether the events may be in the log, and no answer has come.
    pub(super) fn has_begun(&self) -> bool {
        self.answer.is_none() && self.slot.has_begun()
    }

    /// The publisher leaves.
    pub(super) fn cancel(&self) {
        self.slot.cancel();
    }

    /// What the publisher learns that leaves for this reason.
    pub(super) fn error_of_interruption(&self, error: PublishError) -> PublishError {
        match &self.answer {
            Some(Answer { error: Some(error), .. }) => error.clone(),
            // The log has the events, and this node has not got them from there.
            Some(_) => PublishError::Unreleased,
            None if self.slot.cancel() => match error {
                PublishError::Busy => PublishError::NotStored(StoreFailure::Unreachable),
                other => other,
            },
            None => PublishError::Undecided,
        }
    }
}

impl Publishing<'_> {
    /// Gives the events to the shared log, or looks whether it has answered. `None`: not yet, and the publisher
    /// has a position in the line.
    pub(super) fn attempt_shared(&mut self, by: WaitBy) -> Option<Result<Published, Interrupted>> {
        if self.submitted.is_none()
            && let Err(error) = self.submit()
        {
            return Some(Err(Interrupted { error, published: None }));
        }
        let waiting = &self.hub.inner.common.waiting;
        loop {
            let submitted = self.submitted.as_mut()?;
            if let Some(Answer { number, error }) = &submitted.answer {
                if error.is_none() && !self.hub.inner.sequencer.is_visible(*number, &mut self.position, by) {
                    let is_closed = waiting.is_closed();
                    return is_closed.then(|| Err(self.interrupted(PublishError::Stopped)));
                }
                let error = error.clone();
                self.leave();
                self.submitted = None;
                let published = self.published.take();
                return Some(match (error, published) {
                    (None, Some(published)) => Ok(published),
                    (error, published) => {
                        Err(Interrupted { error: error.unwrap_or(PublishError::Empty), published })
                    }
                });
            }
            // No number is that high: it is called when the log has answered.
            waiting.enter_until(&mut self.position, u64::MAX, by);
            let position = self.position.as_ref()?;
            let Some(result) = submitted.slot.take(position) else {
                let is_closed = waiting.is_closed();
                return is_closed.then(|| Err(self.interrupted(PublishError::Stopped)));
            };
            let (answer, published) = submitted.answer_of(result, self.hub);
            (submitted.answer, self.published) = (Some(answer), published);
        }
    }

    fn submit(&mut self) -> Result<(), PublishError> {
        let inner = &self.hub.inner;
        let queue = &mut self.unpublished.queue;
        let is_broken = inner.backplane.as_ref().is_some_and(|shared| shared.broken.get().is_some());
        if inner.common.waiting.is_closed() || is_broken {
            return Err(PublishError::Stopped);
        }
        if queue.is_empty() {
            return Err(PublishError::Empty);
        }
        if shard_thread::is_current() {
            return Err(PublishError::WouldBlock);
        }
        inner.sequencer.check(queue.iter())?;
        let Some(shared) = &inner.backplane else { return Err(PublishError::Stopped) };
        let mut events = Vec::with_capacity(queue.len());
        {
            let log = inner.common.log.lock_unless_broken().ok_or(PublishError::Stopped)?;
            for (index, event) in queue.iter().enumerate() {
                let own_id = event.id().cloned();
                let first = own_id.as_ref().and_then(|id| {
                    log.published(event, log.own_id_key(id.as_str(), event.topics())).map(|(frame, _)| frame)
                });
                if first.is_some_and(|frame| !frame.says_the_same(event)) {
                    return Err(PublishError::IdConflict { index });
                }
                events.push(SubmittedEvent { own_id, repeats: first.map(|frame| frame.seq()) });
            }
        }
        let slot = shared.submissions.slot(&inner.common.waiting).ok_or(PublishError::Stopped)?;
        let given = events.iter().zip(queue.drain(..)).filter(|(event, _)| event.repeats.is_none());
        let given: Vec<_> = given.map(|(_, event)| event).collect();
        if given.is_empty() {
            slot.begin();
            slot.complete(Ok(Vec::new()));
        } else {
            shared.backplane.submit(Submission::new(given, Arc::clone(&slot)));
        }
        self.submitted = Some(Submitted { slot, events, answer: None });
        Ok(())
    }
}

impl Submitted {
    /// What is published by what the log says, and how it ends.
    fn answer_of(
        &self,
        result: Result<Vec<Accepted>, NotAccepted>,
        hub: &Hub,
    ) -> (Answer, Option<Published>) {
        let (accepted, failure) = match result {
            Ok(accepted) => (accepted, None),
            Err(NotAccepted { accepted, failure }) => (accepted, Some(failure)),
        };
        let epoch = hub.inner.common.log.epoch();
        let mut accepted = accepted.into_iter();
        let (mut number, mut first, mut last) = (0, None, None);
        let mut duplicates = Vec::new();
        let mut count = 0;
        for (index, event) in self.events.iter().enumerate() {
            let (of_event, is_duplicate) = match event.repeats {
                Some(number) => (number, true),
                None => match accepted.next() {
                    Some(Accepted { number, is_duplicate }) => (number, is_duplicate),
                    None => break,
                },
            };
            count += 1;
            number = number.max(of_event);
            let position = Cursor { epoch, seq: of_event };
            if is_duplicate {
                duplicates.push(Duplicate { index, first: position });
            }
            if index == 0 {
                first = Some(position);
            }
            last = Some((index, position));
        }
        let id_of = |index: usize, position: Cursor| {
            let own_id = self.events[index].own_id.as_ref();
            own_id.map_or_else(|| position.to_string(), |id| id.as_str().to_owned())
        };
        let published = first.zip(last).map(|(first, (index, last))| Published {
            count,
            first: id_of(0, first),
            last: id_of(index, last),
            duplicates,
        });
        // A log that answers for fewer events than it was given has not said what became of the others.
        let failure = failure.or((count < self.events.len()).then_some(SubmitFailure::Undecided));
        let error = failure.map(|failure| match failure {
            SubmitFailure::Unreachable => PublishError::NotStored(StoreFailure::Unreachable),
            SubmitFailure::Full => PublishError::NotStored(StoreFailure::Full),
            SubmitFailure::Refused => PublishError::NotStored(StoreFailure::Broken),
            SubmitFailure::Conflict => PublishError::IdConflict { index: 0 },
            SubmitFailure::TooLarge { limit } => PublishError::TooLarge { index: 0, limit },
            SubmitFailure::Undecided => PublishError::Undecided,
        });
        (Answer { error, number }, published)
    }
}
