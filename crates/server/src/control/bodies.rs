//! Publishes in progress, and the memory of their bodies.
//!
//! Two bounds hold over all of them: how many there are, and how much memory they hold, also while they wait
//! for room in the shards' mailboxes. Where a bound is reached, the publish whose body comes most slowly is
//! ended, so that slow bodies cannot shut out others. A body that has begun less than a second ago counts as
//! one of a moderate rate ([`YOUNG_BODY_RATE`]); of several of which nothing has come, the oldest is ended.
//! Where all bodies wait for the shards, the newcomer is refused. A publish that wants more memory ends only
//! bodies that are known to be slow.
//!
//! A body has a least rate besides: each byte that comes buys time, and a body without time is ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use fanfare::{ProblemKind, bound_for};
use http_body_util::BodyExt;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::limits::{BODY_GRACE, BODY_OVERHEAD, CurrentLimits, SLOW_BODY_AGE, YOUNG_BODY_RATE};
use super::notices::{Notice, Notices};
use super::problem::Problem;
use crate::request_client::RequestClient;

/// All publishes in progress.
pub(crate) struct Bodies {
    limits: Arc<CurrentLimits>,
    notices: Arc<Notices>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By a number that nothing else has had.
    table: BTreeMap<u64, Entry>,
    count: u64,
    bytes: usize,
}

struct Entry {
    bytes: usize,
    /// It may use the reserve.
    is_operator: bool,
    pace: Pace,
    ended: Arc<Notify>,
}

/// How fast a body comes. Only the time in which the server waits for the client counts.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Since when the server waits for the client, if it does.
    waits_since: Option<Instant>,
    /// Time that the server has waited before that.
    waited: Duration,
    /// The bytes of each second, halved with each second that is waited after it.
    recent_bytes: f64,
    /// Time that the client has left.
    credit: Duration,
    /// The server does not read it for a while, because its publisher has used up its rate.
    is_paused: bool,
}

impl Pace {
    fn new() -> Pace {
        Pace {
            waits_since: None,
            waited: Duration::ZERO,
            recent_bytes: 0.0,
            credit: BODY_GRACE,
            is_paused: false,
        }
    }

    /// Ends a wait, in which so many bytes came.
    fn has_come(&mut self, bytes: usize, least_rate: usize, now: Instant) {
        let Some(since) = self.waits_since.take() else { return };
        let waited = now.saturating_duration_since(since);
        self.waited += waited;
        self.recent_bytes = self.recent_bytes * 0.5_f64.powf(waited.as_secs_f64()) + bytes as f64;
        let bought = match least_rate {
            0 => BODY_GRACE,
            rate => Duration::from_secs_f64(bytes as f64 / rate as f64),
        };
        self.credit = self.credit.saturating_sub(waited).saturating_add(bought).min(BODY_GRACE);
    }

    /// How fast it comes in bytes a second, if the server waits for it.
    fn rate(&self, now: Instant) -> Option<Rate> {
        if self.is_paused {
            // Its publisher has had more than its part: others go first.
            return Some(Rate::Known(0.0));
        }
        let waits = now.saturating_duration_since(self.waits_since?);
        let recent = self.recent_bytes * 0.5_f64.powf(waits.as_secs_f64());
        let is_known = self.waited + waits >= SLOW_BODY_AGE;
        Some(if is_known { Rate::Known(recent) } else { Rate::Assumed(YOUNG_BODY_RATE + recent) })
    }
}

/// How fast a body comes, in bytes a second.
#[derive(Clone, Copy)]
enum Rate {
    Known(f64),
    /// The body is too young to tell.
    Assumed(f64),
}

impl Bodies {
    pub(crate) fn new(limits: Arc<CurrentLimits>, notices: Arc<Notices>) -> Bodies {
        Bodies { limits, notices, state: Mutex::default() }
    }

    /// Begins to receive a body.
    ///
    /// # Errors
    /// 503: too many publishes are in progress.
    pub(super) fn receive(
        self: &Arc<Bodies>,
        body: Body,
        client: &RequestClient,
    ) -> Result<Receiving, Problem> {
        let mut state = self.lock();
        let (now, limits, is_operator) = (Instant::now(), self.limits.get(), client.is_operator);
        let fits = |state: &State| {
            state.table.len() < bound_for(is_operator, limits.publishes)
                && state.bytes + BODY_OVERHEAD <= bound_for(is_operator, limits.publish_bytes)
        };
        while !fits(&state) {
            if !self.end_slowest(&mut state, None, now) {
                return Err(self.refuse());
            }
        }
        state.count += 1;
        state.bytes += BODY_OVERHEAD;
        let (number, ended) = (state.count, Arc::new(Notify::new()));
        let entry = Entry { bytes: BODY_OVERHEAD, is_operator, pace: Pace::new(), ended: Arc::clone(&ended) };
        state.table.insert(number, entry);
        drop(state);
        Ok(Receiving { body, account: BodyAccount { bodies: Arc::clone(self), number }, ended })
    }

    /// Ends the publish whose body comes most slowly, and says whether there is one. Its memory counts no
    /// more: it is given back when it runs next. A publish that grows ends only others that are known to be
    /// slow.
    fn end_slowest(&self, state: &mut State, grows: Option<u64>, now: Instant) -> bool {
        let rates = state.table.iter().filter_map(|(number, entry)| match (entry.pace.rate(now)?, grows) {
            (Rate::Known(rate), Some(grows)) => (*number != grows).then_some((rate, *number)),
            (Rate::Assumed(_), Some(_)) => None,
            (Rate::Known(rate) | Rate::Assumed(rate), None) => Some((rate, *number)),
        });
        // Of several that are equal it is the oldest.
        let slowest = rates.min_by(|one, other| one.0.total_cmp(&other.0));
        let Some(entry) = slowest.and_then(|(_, number)| state.table.remove(&number)) else { return false };
        state.bytes -= entry.bytes;
        entry.ended.notify_one();
        self.notices.add(Notice::SlowPublishEnded);
        true
    }

    fn refuse(&self) -> Problem {
        self.notices.add(Notice::PublishRefused);
        let full = "too many publishes are in progress, or their bodies are too large; try again in a second";
        Problem::new(ProblemKind::PublishesFull, full).header("Retry-After", "1")
    }

    /// Whether a newcomer may need the reserve: half of a bound is taken.
    pub(super) fn are_half_full(&self) -> bool {
        let (state, limits) = (self.lock(), self.limits.get());
        state.table.len().saturating_mul(2) >= limits.publishes
            || state.bytes.saturating_mul(2) >= limits.publish_bytes
    }

    /// How many publishes are in progress, and their memory in bytes.
    pub(crate) fn in_progress(&self) -> (usize, usize) {
        let state = self.lock();
        (state.table.len(), state.bytes)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of one publish.
pub(super) struct Receiving {
    body: Body,
    pub(super) account: BodyAccount,
    ended: Arc<Notify>,
}

/// What one publish has of the bounds, until it is dropped.
pub(super) struct BodyAccount {
    bodies: Arc<Bodies>,
    number: u64,
}

impl Receiving {
    /// The length that the body says that it has; zero if it says nothing.
    pub(super) fn announced_bytes(&self) -> u64 {
        self.body.size_hint().lower()
    }

    /// The next bytes; `None` at the end of the body.
    ///
    /// # Errors
    /// 408: they do not come in time, or not before `deadline`. 503: others need the room. 400: the body
    /// breaks off.
    pub(super) async fn next(&mut self, deadline: Option<Instant>) -> Option<Result<Bytes, Problem>> {
        let credit_ends = self.account.begin_wait();
        let until = deadline.map_or(credit_ends, |deadline| deadline.min(credit_ends));
        let next = tokio::select! {
            biased;
            frame = self.body.frame() => Ok(frame),
            () = self.ended.notified() => Err(too_slow_for_others()),
            () = tokio::time::sleep_until(until) => Err(self.account.too_slow(until == credit_ends)),
        };
        match next {
            Err(problem) => Some(Err(problem)),
            // From here on it waits for the shards, and not for its client.
            Ok(None) if self.account.end_wait(0) => None,
            Ok(None) => Some(Err(too_slow_for_others())),
            Ok(Some(Err(_))) => {
                Some(Err(Problem::new(ProblemKind::BodyIncomplete, "the body ended before its end")))
            }
            Ok(Some(Ok(frame))) => {
                let bytes = frame.into_data().unwrap_or_default();
                self.account.end_wait(bytes.len());
                Some(Ok(bytes))
            }
        }
    }
}

impl Receiving {
    /// Does not read on for this time, because the publisher has used up its rate.
    ///
    /// # Errors
    /// 503: others need the room.
    pub(super) async fn pause(&mut self, time: Duration) -> Result<(), Problem> {
        if time.is_zero() {
            return Ok(());
        }
        self.account.set_paused(true);
        let paused = tokio::select! {
            biased;
            () = self.ended.notified() => Err(too_slow_for_others()),
            () = tokio::time::sleep(time) => Ok(()),
        };
        self.account.set_paused(false);
        paused
    }
}

fn too_slow_for_others() -> Problem {
    let slow = "the body comes slowly, and others need the room; send it faster, or in smaller parts";
    Problem::new(ProblemKind::PublishesFull, slow).header("Retry-After", "1")
}

impl BodyAccount {
    fn too_slow(&self, by_rate: bool) -> Problem {
        if !by_rate {
            return Problem::new(
                ProblemKind::BodyTooSlow,
                "the body was not complete in time; NDJSON is published while it comes",
            );
        }
        self.bodies.notices.add(Notice::SlowPublishEnded);
        let (grace, rate) = (BODY_GRACE.as_secs(), self.bodies.limits.get().least_rate);
        Problem::new(
            ProblemKind::BodyTooSlow,
            match rate {
                0 => format!("the body paused for more than {grace} seconds"),
                rate => format!(
                    "the body comes too slowly: at least {rate} bytes a second, or a pause of {grace} seconds"
                ),
            },
        )
    }

    /// Notes that the server waits for the client, and says until when it does.
    fn begin_wait(&self) -> Instant {
        let now = Instant::now();
        let mut state = self.bodies.lock();
        let Some(entry) = state.table.get_mut(&self.number) else { return now };
        entry.pace.waits_since = Some(now);
        now + entry.pace.credit
    }

    fn set_paused(&self, is_paused: bool) {
        if let Some(entry) = self.bodies.lock().table.get_mut(&self.number) {
            entry.pace.is_paused = is_paused;
        }
    }

    /// Notes what has come. False: the publish was ended meanwhile, because others need the room.
    fn end_wait(&self, bytes: usize) -> bool {
        let mut state = self.bodies.lock();
        let Some(entry) = state.table.get_mut(&self.number) else { return false };
        entry.pace.has_come(bytes, self.bodies.limits.get().least_rate, Instant::now());
        true
    }

    /// Notes that the publish takes so much memory now.
    ///
    /// # Errors
    /// 503: all publishes together would take too much.
    pub(super) fn set_memory(&self, bytes: usize) -> Result<(), Problem> {
        let mut guard = self.bodies.lock();
        let state = &mut *guard;
        let now = Instant::now();
        let wanted = bytes.saturating_add(BODY_OVERHEAD);
        loop {
            // It may have been ended already; then it learns that when it waits.
            let Some(entry) = state.table.get_mut(&self.number) else { return Ok(()) };
            let others = state.bytes - entry.bytes;
            if wanted <= entry.bytes
                || others.saturating_add(wanted)
                    <= bound_for(entry.is_operator, self.bodies.limits.get().publish_bytes)
            {
                entry.bytes = wanted;
                state.bytes = others + wanted;
                return Ok(());
            }
            if !self.bodies.end_slowest(state, Some(self.number), now) {
                return Err(self.bodies.refuse());
            }
        }
    }
}

impl Drop for BodyAccount {
    fn drop(&mut self) {
        let mut state = self.bodies.lock();
        if let Some(entry) = state.table.remove(&self.number) {
            state.bytes -= entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll, ready};

    use axum::http::StatusCode;
    use axum::response::IntoResponse;
    use hyper::body::Frame;
    use tokio::time::Sleep;

    use super::super::ControlLimits;
    use super::super::publish_rates::PublishRateLimits;
    use super::*;

    const LIMITS: ControlLimits = ControlLimits {
        connections: 100,
        body_bytes: 1000,
        array_events: 10,
        publishes: 3,
        publish_bytes: 4 * BODY_OVERHEAD,
        least_rate: 100,
        publish_rates: PublishRateLimits { events: None, bytes: None },
        presence_bytes: 0,
    };

    /// It may use everything.
    const OPERATOR: RequestClient = RequestClient { counted: None, is_operator: true };

    /// A body without an end, of which a piece comes in each interval.
    struct Pieces {
        bytes: usize,
        interval: Duration,
        next: Pin<Box<Sleep>>,
    }

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            ready!(self.next.as_mut().poll(context));
            let interval = self.interval;
            self.next.as_mut().reset(Instant::now() + interval);
            Poll::Ready(Some(Ok(Frame::data(vec![b'x'; self.bytes].into()))))
        }
    }

    fn pieces(bytes: usize, interval: Duration) -> Body {
        Body::new(Pieces { bytes, interval, next: Box::pin(tokio::time::sleep(interval)) })
    }

    fn bodies() -> Arc<Bodies> {
        Arc::new(Bodies::new(Arc::new(CurrentLimits::new(LIMITS)), Arc::default()))
    }

    fn status(problem: Problem) -> StatusCode {
        problem.into_response().status()
    }

    /// Receives for so long, and says how it ended, if it did.
    async fn receive_for(receiving: &mut Receiving, time: Duration) -> Option<StatusCode> {
        let received = async {
            loop {
                if let Err(problem) = receiving.next(None).await.expect("it has no end") {
                    return status(problem);
                }
            }
        };
        tokio::time::timeout(time, received).await.ok()
    }

    const HOUR: Duration = Duration::from_secs(3600);
    const SECOND: Duration = Duration::from_secs(1);

    /// A body of which a byte came now and then had its place for ever.
    #[tokio::test(start_paused = true)]
    async fn a_body_has_a_least_rate_and_may_pause() {
        let bodies = bodies();
        for (bytes, seconds, fast_enough) in
            [(1, 1, false), (99, 1, false), (100, 1, true), (2_500, 25, true), (1_000_000, 31, false)]
        {
            let mut receiving = bodies.receive(pieces(bytes, seconds * SECOND), &OPERATOR).ok().unwrap();
            let ended = receive_for(&mut receiving, HOUR).await;
            assert_eq!(ended.is_none(), fast_enough, "{bytes} bytes every {seconds} s");
            assert!(ended.is_none_or(|status| status == StatusCode::REQUEST_TIMEOUT));
        }
    }

    /// With 4,096 bodies that trickled no other client could publish, and health checks were closed without
    /// an answer.
    #[tokio::test(start_paused = true)]
    async fn the_slowest_body_makes_room() {
        let bodies = bodies();
        let mut slow = bodies.receive(pieces(200, SECOND), &OPERATOR).ok().unwrap();
        let mut slower = bodies.receive(pieces(150, SECOND), &OPERATOR).ok().unwrap();
        let mut fast = bodies.receive(pieces(10_000, SECOND), &OPERATOR).ok().unwrap();
        let time = 10 * SECOND + SECOND / 2;
        let (one, two, three, newcomer) = tokio::join!(
            receive_for(&mut slow, time),
            receive_for(&mut slower, time),
            receive_for(&mut fast, time),
            async {
                tokio::time::sleep(10 * SECOND).await;
                bodies.receive(Body::empty(), &OPERATOR)
            },
        );
        assert!(newcomer.is_ok());
        assert_eq!((one, two, three), (None, Some(StatusCode::SERVICE_UNAVAILABLE), None));
    }

    /// A body that waits for room in a mailbox is not slow, whatever it takes.
    #[tokio::test(start_paused = true)]
    async fn a_body_that_waits_for_the_server_is_not_ended() {
        let bodies = bodies();
        let mut waiting = Vec::new();
        for _ in 0..LIMITS.publishes {
            let mut receiving = bodies.receive(pieces(1000, SECOND), &OPERATOR).ok().unwrap();
            assert!(receiving.next(None).await.is_some_and(|bytes| bytes.is_ok()));
            waiting.push(receiving);
        }
        tokio::time::sleep(HOUR).await;
        assert!(bodies.receive(Body::empty(), &OPERATOR).is_err());
        for receiving in &mut waiting {
            assert!(receiving.next(None).await.is_some_and(|bytes| bytes.is_ok()));
        }
    }

    /// Of 200 publishers, 75 were answered 503 while 800 requests a second came whose body never did: a body
    /// that was younger than a second could not be ended.
    #[tokio::test(start_paused = true)]
    async fn bodies_that_never_come_shut_nobody_out() {
        let bodies = bodies();
        let never_comes = async || {
            let mut body = bodies.receive(pieces(1, HOUR), &OPERATOR).ok()?;
            let waits = tokio::time::timeout(Duration::from_millis(10), body.next(None)).await;
            assert!(waits.is_err());
            Some(body)
        };
        let mut never = Vec::new();
        for _ in 0..LIMITS.publishes {
            never.push(never_comes().await.unwrap());
        }
        let mut honest =
            bodies.receive(pieces(500, SECOND / 200), &OPERATOR).ok().expect("one of the others makes room");
        let ended = never[0].next(None).await.and_then(Result::err).map(status);
        assert_eq!(ended, Some(StatusCode::SERVICE_UNAVAILABLE), "it is the oldest");
        // More of them shut each other out, and not the one that comes.
        let (honest, ()) = tokio::join!(receive_for(&mut honest, 3 * SECOND), async {
            for _ in 0..200 {
                never.push(never_comes().await.unwrap());
            }
        });
        assert_eq!(honest, None);
    }

    /// A body that was complete counted as one that pauses, for as long as its events waited for room.
    #[tokio::test(start_paused = true)]
    async fn a_complete_body_is_not_ended() {
        let bodies = bodies();
        let mut complete = Vec::new();
        for _ in 0..LIMITS.publishes {
            let mut receiving = bodies.receive(Body::from("1"), &OPERATOR).ok().unwrap();
            while receiving.next(None).await.is_some_and(|bytes| bytes.is_ok()) {}
            complete.push(receiving);
        }
        tokio::time::sleep(HOUR).await;
        assert!(bodies.receive(Body::empty(), &OPERATOR).is_err());
        assert_eq!(bodies.in_progress().0, LIMITS.publishes);
    }

    /// Bodies that waited for full mailboxes held 7.3 GiB.
    #[tokio::test(start_paused = true)]
    async fn bodies_take_no_more_than_they_may_together() {
        let bodies = bodies();
        let first = bodies.receive(Body::empty(), &OPERATOR).ok().unwrap();
        let mut second = bodies.receive(pieces(1, 2 * SECOND), &OPERATOR).ok().unwrap();
        first.account.set_memory(2 * BODY_OVERHEAD).ok().unwrap();
        // None of them is slow yet.
        assert!(first.account.set_memory(2 * BODY_OVERHEAD + 1).is_err());
        second.account.set_memory(0).ok().unwrap();
        assert!(second.account.set_memory(1).is_err());
        let (ended, held) = tokio::join!(receive_for(&mut second, HOUR), async {
            tokio::time::sleep(SECOND + SECOND / 2).await;
            first.account.set_memory(3 * BODY_OVERHEAD)
        });
        assert_eq!(ended, Some(StatusCode::SERVICE_UNAVAILABLE));
        assert!(held.is_ok());
        drop((first, second));
        let state = bodies.lock();
        assert_eq!((state.bytes, state.table.len()), (0, 0));
    }
}
