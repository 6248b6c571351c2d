//! The way of events from publishers to the stream.
//!
//! ```text
//!   Backplane::submit --> queue --> waiting --sent--> in flight --acknowledged--> complete
//!                                      \--2 s--> unreachable    \--5 s--> undecided
//! ```
//!
//! Many events are in flight at once, in the order in which they came. An event is sent again over a new
//! connection, and where its acknowledgement does not come, always with the same id of the message: the
//! duplicate window of the stream sees to it that it is there once.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Message, StatusCode, Subscriber};
use fanfare::{Accepted, NotAccepted, Submission, SubmitFailure};
use fanfare_proto::event::Event;
use fanfare_proto::frame::Identity;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::api::{ApiError, Fetched};
use crate::message::{MessageId, Outgoing, RESERVED_ID_PREFIX};
use crate::shared::Shared;
use crate::sync::lock;
use crate::verdict::{Verdict, verdict_of};

/// Events that are in flight at once.
const MOST_IN_FLIGHT: usize = 4096;
/// Their bytes.
const MOST_BYTES_IN_FLIGHT: usize = 16 << 20;

/// After so long without an acknowledgement an event is sent again.
const RESEND: Duration = Duration::from_secs(1);
/// After so long it is sent again where the server has said that nothing takes it, or that it cannot now.
const RETRY: Duration = Duration::from_millis(100);
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(25);
/// How long the connection may take to take a message.
const TAKE: Duration = Duration::from_millis(100);
/// How long the message that is there already may take to come.
const FETCH: Duration = Duration::from_secs(1);

/// What one submission takes of the queue.
pub(crate) struct Queued {
    pub(crate) submission: Submission,
    pub(crate) bytes: usize,
}

pub(crate) struct Submitter {
    shared: Arc<Shared>,
    queue: mpsc::UnboundedReceiver<Queued>,
    /// What the subjects for acknowledgements begin with.
    inbox: String,
    /// The key of the ids that this node gives to messages. Other programs see these ids, and must not know
    /// the next ones: a message with the same id would take the place of an event in silence.
    ids: RandomState,
    waiting: VecDeque<(Queued, Instant)>,
    batches: HashMap<u64, Batch>,
    in_flight: BTreeMap<u64, Flight>,
    bytes_in_flight: usize,
    next: u64,
    /// Messages that the stream had already, with the flights that ask.
    compared: (mpsc::UnboundedSender<Compared>, mpsc::UnboundedReceiver<Compared>),
    looked_at: Instant,
}

/// A submission that is in flight.
struct Batch {
    queued: Queued,
    results: Vec<Option<Result<Accepted, SubmitFailure>>>,
    open: usize,
    /// What becomes of the first event that is not sent at all.
    unsent: Option<SubmitFailure>,
}

/// An event that is in flight.
struct Flight {
    batch: u64,
    index: usize,
    subject: String,
    bytes: usize,
    is_qualified: bool,
    /// The newest number that the stream was known to have before the event was sent.
    newest_before: u64,
    first_sent: Instant,
    last_sent: Instant,
    /// When it is to be sent again, whatever else.
    resend_at: Option<Instant>,
    generation: u64,
    sends: u64,
    /// Earlier sends under an id that is another event's: their answers say nothing of this one.
    foreign_sends: u64,
    /// Sends after which the stream may have the event.
    unanswered: u64,
    /// It is there already, and is compared.
    is_compared: bool,
}

struct Compared {
    flight: u64,
    number: u64,
    found: Result<Option<Fetched>, ApiError>,
}

impl Submitter {
    pub(crate) fn new(shared: Arc<Shared>, queue: mpsc::UnboundedReceiver<Queued>) -> Submitter {
        let inbox = shared.link.client().new_inbox();
        Submitter {
            ids: RandomState::new(),
            shared,
            queue,
            inbox,
            waiting: VecDeque::new(),
            batches: HashMap::new(),
            in_flight: BTreeMap::new(),
            bytes_in_flight: 0,
            next: 0,
            compared: mpsc::unbounded_channel(),
            looked_at: Instant::now(),
        }
    }

    /// Runs until the end. What is not complete then is dropped, which its publishers learn.
    pub(crate) async fn run(mut self) -> Result<(), async_nats::SubscribeError> {
        let inbox = format!("{}.*.*", self.inbox);
        let link = Arc::clone(&self.shared.link);
        let mut answers = link.client().subscribe(inbox.clone()).await?;
        let mut end = self.shared.end.subscribe();
        while !*end.borrow() {
            let is_idle = self.in_flight.is_empty() && self.waiting.is_empty();
            let tick = if is_idle { Duration::from_secs(1) } else { TICK };
            tokio::select! {
                biased;
                _ = end.changed() => break,
                answer = answers.next() => match answer {
                    Some(answer) => {
                        self.take_answer(&answer);
                        self.take_answers(&mut answers);
                    }
                    // The client has failed. Publishers are not held up meanwhile: their time goes on.
                    None => {
                        tokio::select! {
                            again = link.subscribe_again(&inbox) => answers = again,
                            () = tokio::time::sleep(TICK) => {}
                        }
                    }
                },
                Some(compared) = self.compared.1.recv() => self.take_compared(compared),
                Some(queued) = self.queue.recv() => self.waiting.push_back((queued, Instant::now())),
                () = tokio::time::sleep(tick) => {}
            }
            while let Ok(queued) = self.queue.try_recv() {
                self.waiting.push_back((queued, Instant::now()));
            }
            self.send_waiting().await;
            if self.looked_at.elapsed() >= TICK {
                self.looked_at = Instant::now();
                self.look_at_deadlines().await;
            }
        }
        Ok(())
    }

    /// Takes those that are there.
    fn take_answers(&mut self, answers: &mut Subscriber) {
        for _ in 0..MOST_IN_FLIGHT {
            let Some(Some(answer)) = answers.next().now_or_never() else { return };
            self.take_answer(&answer);
        }
    }

    async fn send_waiting(&mut self) {
        while let Some((front, _)) = self.waiting.front() {
            if front.submission.is_cancelled() {
                if let Some((queued, _)) = self.waiting.pop_front() {
                    self.give_room(&queued);
                }
                continue;
            }
            let has_room =
                self.in_flight.len() < MOST_IN_FLIGHT && self.bytes_in_flight < MOST_BYTES_IN_FLIGHT;
            if self.shared.link.generation().is_none() || !has_room {
                return;
            }
            if let Some((queued, _)) = self.waiting.pop_front() {
                self.begin(queued).await;
            }
        }
    }

    async fn begin(&mut self, queued: Queued) {
        let batch = self.next;
        self.next += 1;
        let limit = self.shared.max_message();
        let events = queued.submission.events();
        let sizes: Vec<usize> =
            events.iter().map(|event| self.outgoing(event, (0, 0), false).bytes).collect();
        let fitting = sizes.iter().take_while(|bytes| **bytes <= limit).count();
        let unsent = (fitting < events.len()).then_some(SubmitFailure::TooLarge { limit });
        if !queued.submission.begin() {
            self.give_room(&queued);
            return;
        }
        let results = vec![None; fitting];
        self.batches.insert(batch, Batch { queued, results, open: fitting, unsent });
        if fitting == 0 {
            self.complete(batch);
        }
        for (index, bytes) in sizes.into_iter().take(fitting).enumerate() {
            let (number, now) = (self.next, Instant::now());
            self.next += 1;
            let flight = Flight {
                batch,
                index,
                subject: String::new(),
                bytes,
                is_qualified: false,
                newest_before: self.shared.delivered(),
                first_sent: now,
                last_sent: now,
                resend_at: None,
                generation: 0,
                sends: 0,
                foreign_sends: 0,
                unanswered: 0,
                is_compared: false,
            };
            self.bytes_in_flight += bytes;
            self.in_flight.insert(number, flight);
            self.send(number).await;
        }
    }

    /// The event as a message. `flight`: the number of its flight and of its try, of which its generated id
    /// is made.
    fn outgoing(&self, event: &Event, flight: (u64, u64), is_qualified: bool) -> Outgoing {
        let generated;
        let id = match (event.id(), is_qualified) {
            (Some(_), false) => MessageId::Own,
            (Some(_), true) => MessageId::Qualified,
            (None, _) => {
                generated = format!("{RESERVED_ID_PREFIX}{:016x}", self.ids.hash_one(flight));
                MessageId::Generated(&generated)
            }
        };
        Outgoing::of(event, id, &self.shared.subjects)
    }

    async fn send(&mut self, number: u64) {
        let Some(flight) = self.in_flight.get(&number) else { return };
        let Some(batch) = self.batches.get(&flight.batch) else { return };
        let event = &batch.queued.submission.events()[flight.index];
        let of_flight = (number, flight.foreign_sends);
        let Outgoing { subject, headers, payload, .. } = self.outgoing(event, of_flight, flight.is_qualified);
        let link = Arc::clone(&self.shared.link);
        let generation = link.generation();
        let reply = format!("{}.{number}.{}", self.inbox, flight.foreign_sends + flight.sends + 1);
        let kept = subject.clone();
        let sent =
            async { link.client().publish_with_reply_and_headers(subject, reply, headers, payload).await };
        // A publish that does not come to its end here was not given to the connection.
        let sent = match generation {
            Some(_) => tokio::time::timeout(TAKE, sent).await,
            None => return,
        };
        let Some(flight) = self.in_flight.get_mut(&number) else { return };
        let now = Instant::now();
        (flight.last_sent, flight.resend_at, flight.subject) = (now, None, kept);
        match sent {
            Ok(Ok(())) => {
                if flight.sends > 0 {
                    self.shared.counts.retried.fetch_add(1, Ordering::Relaxed);
                }
                flight.sends += 1;
                flight.unanswered += 1;
                flight.generation = generation.unwrap_or_default();
            }
            Ok(Err(error)) if error.kind() == async_nats::client::PublishErrorKind::MaxPayloadExceeded => {
                let limit = self.shared.max_message();
                self.finish(number, Err(SubmitFailure::TooLarge { limit }));
            }
            Ok(Err(error)) => {
                link.note_error(format!("an event cannot be sent: {error}"));
                flight.resend_at = Some(now + RETRY);
            }
            Err(_) => flight.resend_at = Some(now + RETRY),
        }
    }

    fn take_answer(&mut self, answer: &Message) {
        let mut tokens = answer.subject.rsplit('.');
        let send = tokens.next().and_then(|token| token.parse::<u64>().ok());
        let Some(number) = tokens.next().and_then(|token| token.parse::<u64>().ok()) else { return };
        let Some(flight) = self.in_flight.get_mut(&number) else { return };
        if send.is_none_or(|send| send <= flight.foreign_sends) {
            // It is about the id that is another event's.
            return;
        }
        let verdict = match answer.status {
            Some(StatusCode::NO_RESPONDERS) => Verdict::Later("no stream takes it".to_owned()),
            _ => verdict_of(&answer.payload, &self.shared.options.stream),
        };
        match verdict {
            // Another stream of the same name has it, of which this node does not know yet: the number is
            // none of the epoch here.
            Verdict::Stored { number: stored, is_duplicate: false } if stored <= flight.newest_before => {
                self.shared.link.note_error(format!(
                    "an event was given the number {stored}, and the stream had {} before",
                    flight.newest_before
                ));
                self.shared.check_now.notify_one();
                self.finish(number, Err(SubmitFailure::Undecided));
            }
            Verdict::Stored { number: stored, is_duplicate: false } => {
                self.accept(number, Accepted { number: stored, is_duplicate: false });
            }
            Verdict::Stored { number: stored, is_duplicate: true } => self.take_duplicate(number, stored),
            // The answer of the stream may still come.
            Verdict::Foreign(why) => self.shared.link.note_error(why),
            Verdict::Later(why) => {
                flight.unanswered = flight.unanswered.saturating_sub(1);
                flight.resend_at = Some(Instant::now() + RETRY);
                self.shared.link.note_error(format!("an event was not taken: {why}"));
            }
            Verdict::No(failure, why) => {
                self.shared.link.note_error(format!("an event was refused: {why}"));
                let failure = match failure {
                    // An earlier send may have been stored.
                    _ if flight.unanswered > 1 => SubmitFailure::Undecided,
                    SubmitFailure::TooLarge { .. } => {
                        SubmitFailure::TooLarge { limit: self.shared.max_message() }
                    }
                    other => other,
                };
                self.finish(number, Err(failure));
            }
        }
    }

    /// The stream has had a message with this id.
    fn take_duplicate(&mut self, number: u64, stored: u64) {
        let Some(flight) = self.in_flight.get_mut(&number) else { return };
        let event =
            self.batches.get(&flight.batch).map(|batch| &batch.queued.submission.events()[flight.index]);
        if event.is_none_or(|event| event.id().is_none()) {
            if flight.sends > 1 {
                // It is of this node, and was sent twice.
                self.accept(number, Accepted { number: stored, is_duplicate: false });
                return;
            }
            // Another message has this id, by chance or on purpose. The next try has another id.
            self.shared.link.note_error("a message of another program has an id of this node");
            flight.foreign_sends += flight.sends;
            (flight.sends, flight.unanswered) = (0, 0);
            flight.resend_at = Some(Instant::now());
            self.looked_at -= TICK;
            return;
        }
        if std::mem::replace(&mut flight.is_compared, true) {
            return;
        }
        let (api, answer) = (self.shared.api.clone(), self.compared.0.clone());
        tokio::spawn(async move {
            let found = api.message_at(stored, FETCH).await;
            let _ = answer.send(Compared { flight: number, number: stored, found });
        });
    }

    fn take_compared(&mut self, compared: Compared) {
        let Compared { flight: number, number: stored, found } = compared;
        let Some(flight) = self.in_flight.get_mut(&number) else { return };
        flight.is_compared = false;
        let Some(batch) = self.batches.get(&flight.batch) else { return };
        let event = &batch.queued.submission.events()[flight.index];
        // An event that was sent more than once is its own duplicate.
        let accepted = Accepted { number: stored, is_duplicate: flight.sends == 1 };
        let identity = match found {
            Err(_) => {
                flight.resend_at = Some(Instant::now() + RETRY);
                return;
            }
            Ok(Some(message)) => message
                .to_record(&self.shared.subjects)
                .map_or(Identity::Different, |record| Identity::of(&record.event, event)),
            // It was dropped. Where this node has not read it, nothing can tell whether it was this event. If
            // the event was stored again, subscribers could get it twice. And a subscriber that resumes from
            // its id would begin behind the second copy, and would not learn of what was dropped before it.
            Ok(None) => match self.shared.recent.compare(stored, event) {
                Some(identity) => identity,
                None => return self.finish(number, Err(SubmitFailure::Undecided)),
            },
        };
        match identity {
            Identity::Same => self.accept(number, accepted),
            Identity::Conflict => self.finish(number, Err(SubmitFailure::Conflict)),
            Identity::Different if flight.is_qualified => {
                self.shared.link.note_error("a message has the id of another one");
                self.finish(number, Err(SubmitFailure::Refused));
            }
            Identity::Different => {
                flight.foreign_sends += flight.sends;
                (flight.is_qualified, flight.sends, flight.unanswered) = (true, 0, 0);
                flight.resend_at = Some(Instant::now());
                self.looked_at -= TICK;
            }
        }
    }

    async fn look_at_deadlines(&mut self) {
        let (now, options) = (Instant::now(), &self.shared.options);
        let (submit_wait, ack_wait) = (options.submit_wait, options.ack_wait);
        while self.waiting.front().is_some_and(|(_, since)| now.duration_since(*since) >= submit_wait) {
            let Some((queued, _)) = self.waiting.pop_front() else { break };
            self.give_room(&queued);
            let count = queued.submission.events().len() as u64;
            self.shared.counts.unreachable.fetch_add(count, Ordering::Relaxed);
            let failure = SubmitFailure::Unreachable;
            queued.submission.complete(Err(NotAccepted { accepted: Vec::new(), failure }));
        }
        let generation = self.shared.link.generation();
        let (mut late, mut denied, mut again) = (Vec::new(), Vec::new(), Vec::new());
        for (number, flight) in &self.in_flight {
            let is_due = flight.resend_at.map_or(now >= flight.last_sent + RESEND, |at| now >= at);
            if now >= flight.first_sent + ack_wait {
                late.push(*number);
            } else if self.shared.link.is_denied(&flight.subject) {
                denied.push(*number);
            } else if !flight.is_compared && generation.is_some_and(|now| is_due || now != flight.generation)
            {
                again.push(*number);
            }
        }
        for number in late {
            let is_unknown = self.in_flight.get(&number).is_some_and(|flight| flight.unanswered > 0);
            let failure = if is_unknown { SubmitFailure::Undecided } else { SubmitFailure::Unreachable };
            self.finish(number, Err(failure));
        }
        for number in denied {
            // Over an earlier connection it may have been permitted.
            let is_unknown = self.in_flight.get(&number).is_some_and(|flight| flight.unanswered > 1);
            let failure = if is_unknown { SubmitFailure::Undecided } else { SubmitFailure::Refused };
            self.finish(number, Err(failure));
        }
        for number in again {
            self.send(number).await;
        }
    }

    fn accept(&mut self, number: u64, accepted: Accepted) {
        if let Some(flight) = self.in_flight.get(&number) {
            lock(&self.shared.counts.acknowledgement_time).record(flight.first_sent.elapsed(), 1);
        }
        self.finish(number, Ok(accepted));
    }

    fn finish(&mut self, number: u64, result: Result<Accepted, SubmitFailure>) {
        let Some(flight) = self.in_flight.remove(&number) else { return };
        self.bytes_in_flight -= flight.bytes;
        let counts = &self.shared.counts;
        let count = match &result {
            Ok(accepted) => {
                counts.duplicates.fetch_add(u64::from(accepted.is_duplicate), Ordering::Relaxed);
                &counts.acknowledged
            }
            Err(SubmitFailure::Undecided) => &counts.undecided,
            Err(SubmitFailure::Unreachable) => &counts.unreachable,
            Err(_) => &counts.refused,
        };
        count.fetch_add(1, Ordering::Relaxed);
        let Some(batch) = self.batches.get_mut(&flight.batch) else { return };
        batch.results[flight.index] = Some(result);
        batch.open -= 1;
        if batch.open == 0 {
            self.complete(flight.batch);
        }
    }

    fn complete(&mut self, batch: u64) {
        let Some(Batch { queued, results, unsent, .. }) = self.batches.remove(&batch) else { return };
        self.give_room(&queued);
        queued.submission.complete(outcome(results.into_iter().flatten(), unsent));
    }

    fn give_room(&self, queued: &Queued) {
        let (count, counts) = (queued.submission.events().len() as u64, &self.shared.counts);
        counts.in_flight.fetch_sub(count, Ordering::Relaxed);
        counts.in_flight_bytes.fetch_sub(queued.bytes as u64, Ordering::Relaxed);
    }
}

/// How a batch ends: up to the first failure.
fn outcome(
    mut results: impl Iterator<Item = Result<Accepted, SubmitFailure>>,
    unsent: Option<SubmitFailure>,
) -> Result<Vec<Accepted>, NotAccepted> {
    let mut accepted = Vec::new();
    for result in results.by_ref() {
        let failure = match result {
            Ok(one) => {
                accepted.push(one);
                continue;
            }
            Err(failure) => failure,
        };
        // What was added behind the failure is there, although it is not among the accepted ones.
        let is_more_added = results.any(|result| {
            matches!(result, Ok(Accepted { is_duplicate: false, .. }) | Err(SubmitFailure::Undecided))
        });
        let failure = if is_more_added { SubmitFailure::Undecided } else { failure };
        return Err(NotAccepted { accepted, failure });
    }
    match unsent {
        Some(failure) => Err(NotAccepted { accepted, failure }),
        None => Ok(accepted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_decides_what_becomes_of_a_batch() {
        let new = |number| Accepted { number, is_duplicate: false };
        let old = |number| Accepted { number, is_duplicate: true };
        let of = |results: &[Result<Accepted, SubmitFailure>], unsent| {
            outcome(results.iter().copied(), unsent).map_err(|error| (error.accepted, error.failure))
        };
        let large = SubmitFailure::TooLarge { limit: 9 };
        let (conflict, undecided) = (SubmitFailure::Conflict, SubmitFailure::Undecided);
        assert_eq!(of(&[Ok(new(1)), Ok(old(2))], None), Ok(vec![new(1), old(2)]));
        assert_eq!(of(&[Ok(new(1))], Some(large)), Err((vec![new(1)], large)));
        assert_eq!(of(&[], Some(large)), Err((vec![], large)));
        assert_eq!(of(&[Ok(new(1)), Err(conflict), Ok(old(2))], None), Err((vec![new(1)], conflict)));
        assert_eq!(of(&[Err(conflict), Err(SubmitFailure::Full)], None), Err((vec![], conflict)));
        // The caller would take it for not published.
        assert_eq!(of(&[Err(conflict), Ok(new(2))], None), Err((vec![], undecided)));
        assert_eq!(of(&[Err(conflict), Err(undecided)], None), Err((vec![], undecided)));
    }
}
