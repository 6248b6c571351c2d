//! Tests of the questions of an endpoint, without a socket.

use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use fanfare::{ClientLimits, RequestHead};

use super::answer::Grant;
use super::questions::Sending;
use super::*;
use crate::turns::TurnOf;

/// What each request takes.
const BYTES: usize = 3_000;

const SECOND: Duration = Duration::from_secs(1);

/// What a test sees of requests: the answers, in words.
#[derive(Default)]
struct Seen {
    answers: Mutex<Vec<(u32, String)>>,
    revoked: AtomicBool,
}

struct Request {
    number: u32,
    has_left: Arc<AtomicBool>,
    seen: Arc<Seen>,
}

impl Waiter for Request {
    fn is_wanted(&self) -> bool {
        !self.has_left.load(Ordering::Relaxed)
    }

    fn accepts(&self, _: &Settled) -> bool {
        !self.seen.revoked.load(Ordering::Relaxed)
    }

    fn decide(self, settled: &Settled) {
        let text = match &settled.answer {
            Answer::Granted(_) => "granted".to_owned(),
            Answer::Refused(status, _) => status.to_string(),
            Answer::Failed(failure) => format!("{failure:?}"),
        };
        self.seen.answers.lock().unwrap().push((self.number, text));
    }
}

struct World {
    questions: Questions<Request>,
    seen: Arc<Seen>,
    next: u32,
}

impl World {
    fn new(most_sent: usize, cache_for: Option<Duration>) -> World {
        World { questions: Questions::new(most_sent, cache_for, 5 * SECOND), seen: Arc::default(), next: 0 }
    }

    /// A request about this topic comes. What it gives makes its client leave.
    fn add(&mut self, topic: &str, now: Duration) -> Arc<AtomicBool> {
        self.add_from(TurnOf::default(), topic, now)
    }

    /// The same from this address.
    fn add_from(&mut self, of: TurnOf, topic: &str, now: Duration) -> Arc<AtomicBool> {
        self.add_large_from(of, topic, BYTES, now)
    }

    /// The same with a request that takes so much memory.
    fn add_large_from(&mut self, of: TurnOf, topic: &str, bytes: usize, now: Duration) -> Arc<AtomicBool> {
        let target = format!("/events?topic={topic}");
        let head = RequestHead::from_parts("GET", &target, 1, [("Host", &b"h"[..])]).unwrap();
        let has_left = Arc::new(AtomicBool::new(false));
        let request =
            Request { number: self.next, has_left: Arc::clone(&has_left), seen: Arc::clone(&self.seen) };
        self.next += 1;
        self.questions.add(Question::about(&head, of, &[]).unwrap(), request, bytes, now);
        has_left
    }

    fn send(&mut self, now: Duration) -> Vec<Sending> {
        std::iter::from_fn(|| self.questions.next(now)).collect()
    }

    fn settle(&mut self, sending: &Sending, answer: Answer, is_stored: bool, now: Duration) {
        let settled = Settled { answer, asked_unix_s: 0 };
        self.questions.settle(&sending.key, settled, is_stored.then_some(10), now);
    }

    fn answers(&self) -> Vec<(u32, String)> {
        std::mem::take(&mut *self.seen.answers.lock().unwrap())
    }
}

/// One of the clients.
fn client(number: u32) -> TurnOf {
    TurnOf::new(Some(Ipv4Addr::from_bits(0xc000_0200 + number).into()), false, &ClientLimits::default())
}

const OPERATOR: TurnOf = TurnOf { client: None, key: None, is_operator: true };

fn granted() -> Answer {
    Answer::Granted(Grant::default())
}

#[test]
fn equal_requests_are_one_question_and_its_answer_holds_for_a_while() {
    let mut world = World::new(8, Some(5 * SECOND));
    for _ in 0..100 {
        world.add("a", Duration::ZERO);
    }
    let sent = world.send(Duration::ZERO);
    assert_eq!(sent.len(), 1);
    world.add("a", SECOND);
    assert!(world.send(SECOND).is_empty(), "it waits for the answer that is on its way");
    world.settle(&sent[0], granted(), true, SECOND);
    assert_eq!(world.answers().len(), 101);
    world.add("a", 5 * SECOND);
    assert_eq!(world.answers(), [(101, "granted".to_owned())]);
    world.add("a", 6 * SECOND);
    assert_eq!(world.send(6 * SECOND).len(), 1, "its time is over");
}

#[test]
fn a_refusal_is_kept_shorter_and_a_failure_or_what_may_not_be_stored_not_at_all() {
    for (answer, is_stored, kept_at) in [
        (Answer::Refused(403, None), true, Some(SECOND / 2)),
        (Answer::Refused(403, None), true, None),
        (Answer::Refused(403, None), false, None),
        (Answer::Failed(Failure::Unreachable), false, None),
        (granted(), false, None),
    ] {
        let mut world = World::new(8, Some(5 * SECOND));
        world.add("a", Duration::ZERO);
        let sent = world.send(Duration::ZERO);
        world.settle(&sent[0], answer, is_stored, Duration::ZERO);
        let at = kept_at.unwrap_or(if is_stored { SECOND } else { Duration::ZERO });
        world.add("a", at);
        assert_eq!(world.send(at).is_empty(), kept_at.is_some());
    }
    // Where no answer is to be kept, none is.
    let mut world = World::new(8, None);
    world.add("a", Duration::ZERO);
    let sent = world.send(Duration::ZERO);
    world.settle(&sent[0], granted(), true, Duration::ZERO);
    world.add("a", Duration::ZERO);
    assert_eq!(world.send(Duration::ZERO).len(), 1);
}

#[test]
fn an_answer_that_was_revoked_is_asked_for_again() {
    let mut world = World::new(8, Some(5 * SECOND));
    world.add("a", Duration::ZERO);
    let sent = world.send(Duration::ZERO);
    world.settle(&sent[0], granted(), true, Duration::ZERO);
    world.answers();
    world.seen.revoked.store(true, Ordering::Relaxed);
    world.add("a", SECOND);
    assert_eq!((world.answers().len(), world.send(SECOND).len()), (0, 1));
}

#[test]
fn a_bounded_number_is_asked_at_once_and_the_others_in_their_order() {
    // Half of so small a bound is the operator's.
    let mut world = World::new(4, None);
    for topic in ["a", "b", "c", "d"] {
        world.add(topic, Duration::ZERO);
    }
    let sent = world.send(Duration::ZERO);
    assert_eq!(sent.len(), 2);
    world.settle(&sent[1], granted(), false, Duration::ZERO);
    assert_eq!(world.answers(), [(1, "granted".to_owned())]);
    assert_eq!(world.send(Duration::ZERO).len(), 1);
}

#[test]
fn a_client_that_leaves_frees_its_place() {
    let mut world = World::new(1, None);
    let first = world.add("a", Duration::ZERO);
    let sent = world.send(Duration::ZERO);
    let second = world.add("b", Duration::ZERO);
    world.add("c", Duration::ZERO);
    second.store(true, Ordering::Relaxed);
    // Nothing waits for the first answer any more: its place is free after a short time.
    first.store(true, Ordering::Relaxed);
    assert!(world.questions.tick(SECOND / 10).abandoned.is_empty());
    let abandoned = world.questions.tick(SECOND).abandoned;
    assert_eq!(abandoned, [sent[0].key]);
    world.questions.settle(&abandoned[0], failed(Failure::TimedOut), None, SECOND);
    let next = world.send(SECOND);
    world.settle(&next[0], granted(), false, SECOND);
    assert_eq!(world.answers(), [(2, "granted".to_owned())]);
    assert!(!world.questions.has_open());
}

#[test]
fn what_waits_for_its_turn_for_too_long_is_answered() {
    let mut world = World::new(1, None);
    world.add("a", Duration::ZERO);
    let sent = world.send(Duration::ZERO);
    assert_eq!(sent[0].deadline, 5 * SECOND);
    world.add("b", SECOND);
    world.questions.tick(5 * SECOND);
    assert!(world.answers().is_empty(), "the first one is ended by its own deadline, the second has time");
    world.questions.tick(6 * SECOND);
    assert_eq!(world.answers(), [(1, "TimedOut".to_owned())]);
    world.settle(&sent[0], granted(), false, 6 * SECOND);
    assert_eq!(world.answers(), [(0, "granted".to_owned())]);
    assert!(world.send(6 * SECOND).is_empty() && !world.questions.has_open());
}

/// What clients may have of the queue of questions and of the requests that wait. The rest is the operator's.
const PUBLIC_QUEUED: usize = 4_096 - 4_096 / 32;
const PUBLIC_WAITERS: usize = 16_384 - 16_384 / 32;

#[test]
fn neither_different_questions_nor_equal_ones_wait_without_a_bound() {
    let mut world = World::new(1, None);
    for number in 0..5_000_u32 {
        world.add_from(client(number % 8), &number.to_string(), Duration::ZERO);
    }
    let busy = world.answers();
    assert_eq!(busy.len(), 5_000 - PUBLIC_QUEUED);
    assert!(busy.iter().all(|(_, answer)| answer == "Busy"));
    // Equal ones join a question that waits already.
    for number in 0..16_384 {
        world.add_from(client(number % 8), &(number % 8).to_string(), Duration::ZERO);
    }
    assert_eq!(world.answers().len(), 16_384 - (PUBLIC_WAITERS - PUBLIC_QUEUED));
}

/// One client with 6,000 questions shut all others out for seconds.
#[test]
fn a_client_with_many_questions_delays_its_own() {
    let mut world = World::new(4, None);
    let [busy, other] = [1, 2].map(client);
    for number in 0..2_000 {
        world.add_from(busy, &number.to_string(), Duration::ZERO);
    }
    assert_eq!(world.answers().len(), 2_000 - 1_024, "its share of the queue is full");
    let first = world.send(Duration::ZERO);
    world.add_from(other, "innocent", Duration::ZERO);
    for sending in &first {
        world.settle(sending, granted(), false, Duration::ZERO);
    }
    assert_eq!(world.answers().len(), 2);
    for sending in world.send(Duration::ZERO) {
        world.settle(&sending, granted(), false, Duration::ZERO);
    }
    let answers = world.answers();
    assert!(answers.contains(&(2_000, "granted".to_owned())), "{answers:?}");
}

/// Requests with equal questions wait without a place in the queue: one client with 4,700 of them took the
/// memory of all.
#[test]
fn a_client_with_many_equal_requests_leaves_room_for_others() {
    let mut world = World::new(4, None);
    let [busy, other] = [1, 2].map(client);
    let mut waiting = Vec::new();
    for _ in 0..8_000 {
        waiting.push(world.add_from(busy, "same", Duration::ZERO));
    }
    assert_eq!(world.answers().len(), 8_000 - 4_096, "its share of the requests");
    world.add_from(other, "same", Duration::ZERO);
    assert_eq!(world.answers(), [], "it waits");
    // The share is given back where a client leaves, and where the answer has come.
    waiting[0].store(true, Ordering::Relaxed);
    world.questions.tick(Duration::ZERO);
    world.add_from(busy, "same", Duration::ZERO);
    assert_eq!(world.answers(), [], "it has the place of the one that left");
    world.add_from(busy, "same", Duration::ZERO);
    assert_eq!(world.answers().len(), 1, "there was one place");
    let sent = world.send(Duration::ZERO);
    world.settle(&sent[0], granted(), false, Duration::ZERO);
    assert_eq!(world.answers().len(), 4_096);
    world.add_from(busy, "same", Duration::ZERO);
    assert_eq!(world.answers(), []);
}

/// The share of a client is one of memory, too.
#[test]
fn a_client_with_large_requests_leaves_memory_for_others() {
    let mut world = World::new(4, None);
    let each = WAITING_BYTES / 4 / 10;
    for _ in 0..12 {
        world.add_large_from(client(1), "same", each, Duration::ZERO);
    }
    assert_eq!(world.answers().len(), 2);
    world.add_large_from(client(2), "same", each, Duration::ZERO);
    world.add_large_from(OPERATOR, "same", each, Duration::ZERO);
    assert_eq!(world.answers(), []);
}

/// With every place taken by clients whose endpoint is slow, the operator was answered 503, or after all of
/// them.
#[test]
fn the_operator_has_a_share_of_the_questions() {
    let mut world = World::new(8, None);
    for number in 0..5_000 {
        world.add_from(client(number % 8), &number.to_string(), Duration::ZERO);
    }
    assert_eq!(world.send(Duration::ZERO).len(), 4, "half of a small bound");
    world.answers();
    // Requests about one question fill the places of requests.
    for number in 0..16_384 {
        world.add_from(client(number % 8), &(number % 8).to_string(), Duration::ZERO);
    }
    world.answers();
    world.add_from(client(1), "1", Duration::ZERO);
    let public = world.next - 1;
    world.add_from(OPERATOR, "operator", Duration::ZERO);
    assert_eq!(world.answers(), [(public, "Busy".to_owned())]);
    let sent = world.send(Duration::ZERO);
    assert_eq!(sent.len(), 1, "it is asked at once");
    world.settle(&sent[0], granted(), false, Duration::ZERO);
    assert_eq!(world.answers(), [(public + 1, "granted".to_owned())]);
}

/// What waits has a bound in bytes, too, from the shard on.
#[test]
fn the_memory_of_what_waits_has_a_bound() {
    let used = Arc::new(Used::default());
    let mut first = Use::begin(&used, WAITING_BYTES / 2, false).expect("there is room");
    let question = first.split_off(1_000);
    assert!(Use::begin(&used, WAITING_BYTES / 2, false).is_none(), "the last part is the operator's");
    assert!(Use::begin(&used, WAITING_BYTES / 2, true).is_some());
    drop(first);
    assert_eq!(used.bytes.load(Ordering::Relaxed), 1_000, "the question goes on");
    drop(question);
    let all: Vec<Use> = std::iter::from_fn(|| Use::begin(&used, 1, false)).collect();
    assert_eq!(all.len(), QUEUED - QUEUED / 32);
    assert!(Use::begin(&used, 1, true).is_some());
    drop(all);
    assert_eq!((used.bytes.load(Ordering::Relaxed), used.queued.load(Ordering::Relaxed)), (0, 0));
}
