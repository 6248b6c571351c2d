//! Engines that share a log: the log here is in memory, and each node may be cut off from it.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use fanfare::testing::Client;
use fanfare::{
    Accepted, Backplane, Durability, Engine, Epoch, Event, EventId, Feed, Hub, Interrupted, LogBreak,
    NotAccepted, PublishError, Published, Retention, RetentionRule, Store, StoreFailure, StoreReader,
    Submission, SubmitFailure, Subscribe, Topic, testing,
};
use fanfare_proto::limits::LogLimits;
use fanfare_store::{Bounds, Error, MemoryStore, Page, Query, Record, State};

/// So that a test whose events do not come fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(30);

/// Numbers and data of events, by their own ids.
type OwnIds = HashMap<String, (u64, String)>;

/// The log that nodes share.
struct SharedLog {
    store: MemoryStore,
    /// The last number, and the numbers of own ids with the data of their events.
    state: Mutex<(u64, OwnIds)>,
    grown: Condvar,
}

/// One node's connection with the log.
#[derive(Clone)]
struct Node {
    log: Arc<SharedLog>,
    links: Arc<Links>,
}

/// What a test does to a node.
#[derive(Default)]
struct Links {
    /// Nothing comes from the log.
    is_deaf: AtomicBool,
    /// The log cannot be asked.
    is_away: AtomicBool,
    /// The log was asked while it could not be.
    was_asked: AtomicBool,
    /// Submissions are kept, and not looked at.
    keeps: AtomicBool,
    kept: Mutex<Vec<Submission>>,
    /// The feed is given back to the test.
    breaks: Mutex<Option<LogBreak>>,
    has_ended: AtomicBool,
    /// What the engine has said is kept.
    retention: Mutex<Option<(Retention, Vec<RetentionRule>)>>,
}

impl SharedLog {
    fn new() -> Arc<SharedLog> {
        let store = MemoryStore::new(Epoch::new(7), LogLimits::default());
        Arc::new(SharedLog { store, state: Mutex::default(), grown: Condvar::new() })
    }

    fn add(&self, event: Event) -> Result<Accepted, SubmitFailure> {
        let mut state = self.state.lock().unwrap();
        let (last, ids) = &mut *state;
        let data = event.data().unwrap_or_default().to_owned();
        if let Some(id) = event.id().map(|id| id.as_str().to_owned()) {
            match ids.get(&id) {
                Some((_, other)) if *other != data => return Err(SubmitFailure::Conflict),
                Some((number, _)) => return Ok(Accepted { number: *number, is_duplicate: true }),
                None => drop(ids.insert(id, (*last + 3, data))),
            }
        }
        // A log that nodes share has holes.
        *last += 3;
        let number = *last;
        self.store.append(&[Record { number, published_ms: 1, event }], Durability::Commit).unwrap();
        self.grown.notify_all();
        Ok(Accepted { number, is_duplicate: false })
    }

    fn node(self: &Arc<Self>) -> Node {
        Node { log: Arc::clone(self), links: Arc::default() }
    }
}

impl Node {
    fn start(&self) -> Engine {
        self.start_with(|builder| builder)
    }

    fn start_with(&self, change: impl FnOnce(fanfare::Builder) -> fanfare::Builder) -> Engine {
        change(Engine::builder().shards(2).backplane(Arc::new(self.clone()))).start().unwrap()
    }

    fn set(&self, flag: impl Fn(&Links) -> &AtomicBool, value: bool) {
        flag(&self.links).store(value, Ordering::SeqCst);
        self.log.grown.notify_all();
    }

    fn has(&self, flag: impl Fn(&Links) -> &AtomicBool) -> bool {
        flag(&self.links).load(Ordering::SeqCst)
    }

    fn answer(submission: Submission, log: &SharedLog) {
        if !submission.begin() {
            return;
        }
        let mut accepted = Vec::new();
        for event in submission.events() {
            match log.add(event.clone()) {
                Ok(one) => accepted.push(one),
                Err(failure) => return submission.complete(Err(NotAccepted { accepted, failure })),
            }
        }
        submission.complete(Ok(accepted));
    }

    fn feed(self, feed: Feed, mut after: u64) {
        loop {
            let mut state = self.log.state.lock().unwrap();
            while self.has(|links| &links.is_deaf) || state.0 == after {
                if !self.has(|links| &links.is_deaf) {
                    feed.note_end(feed.now(), state.0);
                }
                if self.has(|links| &links.has_ended) {
                    return;
                }
                if let Some(why) = self.links.breaks.lock().unwrap().take() {
                    return feed.break_off(why);
                }
                state = self.log.grown.wait_timeout(state, Duration::from_millis(5)).unwrap().0;
            }
            drop(state);
            let page = self.log.store.read(Query::All, after, Bounds::default()).unwrap();
            if feed.append(page.records).is_err() {
                return;
            }
            after = page.up_to;
        }
    }
}

impl Backplane for Node {
    fn reader(&self) -> Arc<dyn StoreReader> {
        Arc::new(self.clone())
    }

    fn set_retention(&self, retention: Retention, rules: &[RetentionRule]) {
        *self.links.retention.lock().unwrap() = Some((retention, rules.to_vec()));
    }

    fn begin(&self, feed: Feed, after: u64) {
        let node = self.clone();
        thread::spawn(move || node.feed(feed, after));
    }

    fn submit(&self, submission: Submission) {
        if self.has(|links| &links.keeps) {
            self.links.kept.lock().unwrap().push(submission);
        } else if self.has(|links| &links.is_away) {
            submission
                .complete(Err(NotAccepted { accepted: Vec::new(), failure: SubmitFailure::Unreachable }));
        } else {
            let log = Arc::clone(&self.log);
            thread::spawn(move || Node::answer(submission, &log));
        }
    }

    fn end(&self) {
        self.set(|links| &links.has_ended, true);
    }
}

impl StoreReader for Node {
    fn state(&self) -> State {
        self.log.store.state()
    }

    fn read(&self, query: Query<'_>, after: u64, bounds: Bounds) -> Result<Page, Error> {
        match self.has(|links| &links.is_away) {
            true => {
                self.links.was_asked.store(true, Ordering::SeqCst);
                Err(Error::Unreachable { what: "the test".to_owned() })
            }
            false => self.log.store.read(query, after, bounds),
        }
    }

    fn find(&self, id: &EventId, topics: &[Topic]) -> Result<Option<Record>, Error> {
        self.log.store.find(id, topics)
    }
}

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn event(data: &str) -> Event {
    Event::new(topic("a")).with_data(data)
}

fn with_id(id: &str, data: &str) -> Event {
    event(data).with_id(EventId::new(id).unwrap())
}

fn publish_all(hub: &Hub, mut events: Vec<Event>) -> Result<Published, Interrupted> {
    hub.publish_wait(&mut events, PATIENCE)
}

fn publish(hub: &Hub, event: Event) -> Result<String, PublishError> {
    publish_all(hub, vec![event]).map(|published| published.last).map_err(|interrupted| interrupted.error)
}

/// The data and the id of the next event.
fn next(client: &mut Client) -> (String, String) {
    let event = client.next_wait(PATIENCE).unwrap().unwrap();
    (event.data().to_owned(), event.id().to_owned())
}

fn subscribe(hub: &Hub) -> Client {
    testing::adopt(hub, Subscribe::to([topic("a")])).unwrap()
}

fn resume(hub: &Hub, id: &str) -> Client {
    testing::adopt(hub, Subscribe::to([topic("a")]).with_resume(id)).unwrap()
}

fn has_gap(client: &Client) -> bool {
    client.header("fanfare-gap").is_some()
}

fn pair(data: &str, id: &str) -> (String, String) {
    (data.to_owned(), id.to_owned())
}

#[test]
fn every_node_delivers_the_events_of_all_with_the_same_ids() {
    let log = SharedLog::new();
    let engines = [log.node().start(), log.node().start()];
    let hubs = engines.each_ref().map(Engine::hub);
    let mut clients = hubs.each_ref().map(subscribe);
    assert_eq!(publish(&hubs[0], event("1")).unwrap(), "000000007-3");
    assert_eq!(publish(&hubs[1], event("2")).unwrap(), "000000007-6");
    let batch = publish_all(&hubs[0], vec![event("3"), with_id("own", "4")]).unwrap();
    assert_eq!((batch.count, batch.first.as_str(), batch.last.as_str()), (2, "000000007-9", "own"));
    for client in &mut clients {
        for (data, id) in [("1", "000000007-3"), ("2", "000000007-6"), ("3", "000000007-9"), ("4", "own")] {
            assert_eq!(next(client), pair(data, id));
        }
    }
    // What was answered is visible on the node that answered.
    assert_eq!(hubs[0].head().to_string(), "000000007-12");
}

#[test]
fn a_publish_that_does_not_wait_is_refused() {
    let engine = SharedLog::new().node().start();
    assert_eq!(engine.hub().publish(event("1")).unwrap_err().error, PublishError::WouldBlock);
}

#[test]
fn a_store_beside_a_shared_log_is_refused() {
    let store = fanfare::StoreOptions::new(Arc::new(MemoryStore::new(Epoch::new(1), LogLimits::default())));
    let node = SharedLog::new().node();
    let error = Engine::builder().shards(1).store(store).backplane(Arc::new(node)).start().unwrap_err();
    assert!(error.to_string().contains("the log that nodes share is the store"), "{error}");
}

/// A node that starts has what was published before, and a subscriber that was elsewhere goes on there.
#[test]
fn a_subscriber_resumes_on_another_node() {
    let log = SharedLog::new();
    let first = log.node().start();
    let mut client = subscribe(&first.hub());
    let ids: Vec<String> =
        (1..=5).map(|data| publish(&first.hub(), event(&data.to_string())).unwrap()).collect();
    assert_eq!(next(&mut client).1, ids[0]);
    let second = log.node().start();
    drop(first);
    let mut client = resume(&second.hub(), &ids[0]);
    assert!(!has_gap(&client));
    for (data, id) in ["2", "3", "4", "5"].iter().zip(&ids[1..]) {
        assert_eq!(next(&mut client), pair(data, id));
    }
    assert!(!has_gap(&resume(&second.hub(), "earliest")));
    assert!(has_gap(&resume(&second.hub(), "000000008-3")), "an id of another log");
}

/// A subscriber that comes from a node which was ahead waits, and is turned away. It was told of a gap that
/// was none.
#[test]
fn a_subscriber_ahead_of_its_node_is_told_of_no_gap() {
    let log = SharedLog::new();
    let (fast, slow) = (log.node(), log.node());
    let (engine, behind) = (fast.start(), slow.start());
    slow.set(|links| &links.is_deaf, true);
    publish(&engine.hub(), event("1")).unwrap();
    let id = publish(&engine.hub(), event("2")).unwrap();
    // The head does not come: the connection is closed.
    assert!(testing::adopt(&behind.hub(), Subscribe::to([topic("a")]).with_resume(&id)).is_err());
    let waits = thread::spawn({
        let hub = behind.hub();
        move || resume(&hub, &id)
    });
    slow.set(|links| &links.is_deaf, false);
    let mut client = waits.join().unwrap();
    assert!(!has_gap(&client));
    let id = publish(&engine.hub(), event("3")).unwrap();
    assert_eq!(next(&mut client), pair("3", &id));
    // A node that has everything knows that this number was never given.
    assert!(has_gap(&resume(&behind.hub(), "000000007-99999")));
}

/// The id of a publisher says no number, so the log is asked for it. The event came to the node meanwhile,
/// and what the log did not find was taken for a gap: the log does not find ids of events with several
/// topics.
#[test]
fn a_subscriber_with_an_own_id_ahead_of_its_node_is_told_of_no_gap() {
    let log = SharedLog::new();
    let (fast, slow) = (log.node(), log.node());
    let (engine, behind) = (fast.start(), slow.start());
    let hub = behind.hub();
    slow.set(|links| &links.is_deaf, true);
    slow.set(|links| &links.is_away, true);
    let two_topics = with_id("own", "1").with_topic(topic("b")).unwrap();
    publish(&engine.hub(), two_topics).unwrap();
    let waits = thread::spawn({
        let hub = hub.clone();
        move || resume(&hub, "own")
    });
    while !slow.has(|links| &links.was_asked) {
        thread::yield_now();
    }
    slow.set(|links| &links.is_deaf, false);
    while hub.head() != engine.hub().head() {
        thread::yield_now();
    }
    slow.set(|links| &links.is_away, false);
    let mut client = waits.join().unwrap();
    assert!(!has_gap(&client));
    let id = publish(&engine.hub(), event("2")).unwrap();
    assert_eq!(next(&mut client), pair("2", &id));
    assert!(has_gap(&resume(&hub, "unknown")));
}

#[test]
fn a_log_that_cannot_be_reached_refuses_and_subscribers_stay() {
    let log = SharedLog::new();
    let node = log.node();
    let engine = node.start();
    let hub = engine.hub();
    let mut client = subscribe(&hub);
    node.set(|links| &links.is_away, true);
    let refused = publish(&hub, event("1")).unwrap_err();
    assert_eq!(refused, PublishError::NotStored(StoreFailure::Unreachable));
    assert_eq!((refused.status(), refused.problem().name()), (503, "log-unreachable"));
    node.set(|links| &links.is_away, false);
    publish(&hub, event("2")).unwrap();
    assert_eq!(next(&mut client).0, "2");
}

/// A publisher that gives up before anything was sent has published nothing, and one that gives up later does
/// not know.
#[test]
fn a_publisher_that_gives_up_learns_what_may_have_happened() {
    let log = SharedLog::new();
    let node = log.node();
    let engine = node.start();
    let hub = engine.hub();
    let mut client = subscribe(&hub);
    node.set(|links| &links.keeps, true);
    let mut never = vec![event("never")];
    let given_up = hub.publish_wait(&mut never, Duration::from_millis(20)).unwrap_err();
    assert_eq!(given_up.error, PublishError::NotStored(StoreFailure::Unreachable));
    assert_eq!(never, [event("never")], "it is given back");
    let submission = node.links.kept.lock().unwrap().pop().unwrap();
    assert!(submission.is_cancelled());
    Node::answer(submission, &log);

    let begins = thread::spawn({
        let node = node.clone();
        move || loop {
            if let Some(submission) = node.links.kept.lock().unwrap().pop() {
                assert!(submission.begin());
                return submission;
            }
            thread::yield_now();
        }
    });
    assert_eq!(
        hub.publish_wait(&mut vec![event("perhaps")], Duration::from_secs(2)).unwrap_err().error,
        PublishError::Undecided
    );
    Node::answer(begins.join().unwrap(), &log);
    // One that is dropped answers its publisher.
    let dropped = thread::spawn({
        let hub = hub.clone();
        move || publish(&hub, event("dropped"))
    });
    while node.links.kept.lock().unwrap().pop().is_none() {
        thread::yield_now();
    }
    assert_eq!(dropped.join().unwrap(), Err(PublishError::NotStored(StoreFailure::Unreachable)));
    node.set(|links| &links.keeps, false);
    publish(&hub, event("last")).unwrap();
    assert_eq!(next(&mut client).0, "perhaps");
    assert_eq!(next(&mut client).0, "last");
}

/// Repetitions are found in memory, and by the log where another node has published the first one.
#[test]
fn an_own_id_is_published_once_over_all_nodes() {
    let log = SharedLog::new();
    let (one, other) = (log.node(), log.node());
    let engines = [one.start(), other.start()];
    let hubs = engines.each_ref().map(Engine::hub);
    let mut client = subscribe(&hubs[1]);
    let first = publish_all(&hubs[0], vec![with_id("x", "1")]).unwrap();
    assert!(first.duplicates.is_empty());
    for hub in &hubs {
        let again = publish_all(hub, vec![event("new"), with_id("x", "1")]).unwrap();
        let duplicates: Vec<_> = again.duplicates.iter().map(|it| (it.index, it.first.to_string())).collect();
        assert_eq!(duplicates, [(1, "000000007-3".to_owned())]);
        assert_eq!((again.count, again.last.as_str()), (2, "x"));
        assert_eq!(publish(hub, with_id("x", "2")), Err(PublishError::IdConflict { index: 0 }));
    }
    // This node has not got the first one, so the log decides.
    other.set(|links| &links.is_deaf, true);
    publish(&hubs[0], with_id("y", "3")).unwrap();
    let mut late = vec![event("before"), with_id("y", "4"), event("behind"), with_id("x", "1")];
    let conflict = hubs[1].publish_wait(&mut late, Duration::from_secs(1)).unwrap_err();
    assert_eq!(conflict.error, PublishError::IdConflict { index: 0 }, "of those that were not taken");
    assert_eq!(conflict.published.unwrap().count, 1);
    assert_eq!(late, [with_id("y", "4"), event("behind"), with_id("x", "1")], "they are given back");
    other.set(|links| &links.is_deaf, false);
    publish(&hubs[0], event("last")).unwrap();
    let data: Vec<String> = (0..6).map(|_| next(&mut client).0).collect();
    assert_eq!(data, ["1", "new", "new", "3", "before", "last"]);
}

/// What memory has dropped comes from the shared log, and a log that is away for a while is no gap.
#[test]
fn resume_reaches_back_into_the_shared_log() {
    let log = SharedLog::new();
    let node = log.node();
    let engine = node.start_with(|builder| builder.retain_events(2));
    let hub = engine.hub();
    let ids: Vec<String> = (1..=40).map(|data| publish(&hub, event(&data.to_string())).unwrap()).collect();
    node.set(|links| &links.is_away, true);
    let waits = thread::spawn({
        let (hub, id) = (hub.clone(), ids[3].clone());
        move || resume(&hub, &id)
    });
    thread::sleep(Duration::from_millis(200));
    node.set(|links| &links.is_away, false);
    let mut client = waits.join().unwrap();
    assert!(!has_gap(&client));
    for (data, id) in (5..=40).zip(&ids[4..]) {
        assert_eq!(next(&mut client), pair(&data.to_string(), id));
    }
}

/// An event that is no event of this engine leaves a hole.
/// The log that nodes share learns what is kept, at the start and with each change.
#[test]
fn the_retention_is_told_to_the_shared_log() {
    let node = SharedLog::new().node();
    let limits = fanfare::Limits::default();
    let of_start = limits.log.retention;
    let engine = node.start_with(|builder| builder.limits(limits));
    assert_eq!(*node.links.retention.lock().unwrap(), Some((of_start, Vec::new())));
    let rule = RetentionRule::new("otp/*".parse().unwrap(), of_start.with_events(0));
    engine.hub().set_retention(of_start.with_events(7), vec![rule.clone()]);
    assert_eq!(*node.links.retention.lock().unwrap(), Some((of_start.with_events(7), vec![rule])));
}

#[test]
fn what_cannot_be_delivered_is_left_out_and_counted() {
    let log = SharedLog::new();
    let engine = log.node().start_with(|builder| builder.max_event(100));
    let hub = engine.hub();
    let mut client = subscribe(&hub);
    log.add(event(&"x".repeat(101))).unwrap();
    log.add(with_id("000000001-1", "of another hub")).unwrap();
    publish(&hub, event("last")).unwrap();
    assert_eq!(next(&mut client), pair("last", "000000007-9"));
    assert_eq!(hub.feed_skipped(), 2);
}

#[test]
fn a_log_that_breaks_off_says_so_and_a_new_engine_tells_of_the_gap() {
    let log = SharedLog::new();
    let node = log.node();
    let engine = node.start();
    let hub = engine.hub();
    let id = publish(&hub, event("1")).unwrap();
    assert_eq!(hub.log_break(), None);
    *node.links.breaks.lock().unwrap() = Some(LogBreak::Lost { up_to: 30 });
    while hub.log_break().is_none() {
        thread::yield_now();
    }
    assert_eq!(hub.log_break(), Some(LogBreak::Lost { up_to: 30 }));
    assert_eq!(publish(&hub, event("2")), Err(PublishError::Stopped), "nothing comes back any more");
    engine.stop(Duration::ZERO).unwrap();
    let recreated = SharedLog {
        store: MemoryStore::new(Epoch::new(8), LogLimits::default()),
        state: Mutex::default(),
        grown: Condvar::new(),
    };
    let engine = Arc::new(recreated).node().start();
    assert!(has_gap(&resume(&engine.hub(), &id)));
}

/// What the log has been given before a stop is answered, and publishers are not left in doubt.
#[test]
fn a_stop_waits_for_what_the_log_has_been_given() {
    let log = SharedLog::new();
    let node = log.node();
    let engine = node.start();
    let hub = engine.hub();
    node.set(|links| &links.keeps, true);
    let waits = thread::spawn(move || publish(&hub, event("1")));
    while node.links.kept.lock().unwrap().is_empty() {
        thread::yield_now();
    }
    let submission = node.links.kept.lock().unwrap().pop().unwrap();
    assert!(submission.begin());
    let answers = thread::spawn(move || {
        thread::sleep(Duration::from_millis(100));
        Node::answer(submission, &log);
    });
    let hub = engine.hub();
    engine.stop(Duration::ZERO).unwrap();
    answers.join().unwrap();
    assert_eq!(waits.join().unwrap().as_deref(), Ok("000000007-3"));
    assert_eq!(publish(&hub, event("2")), Err(PublishError::Stopped));
}

/// The end of an engine answers those that wait.
#[test]
fn a_stop_answers_publishers_that_wait_for_the_log() {
    let node = SharedLog::new().node();
    let engine = node.start();
    let hub = engine.hub();
    node.set(|links| &links.keeps, true);
    let waits = thread::spawn(move || publish(&hub, event("1")));
    while node.links.kept.lock().unwrap().is_empty() {
        thread::yield_now();
    }
    engine.stop(Duration::ZERO).unwrap();
    assert_eq!(waits.join().unwrap(), Err(PublishError::Stopped));
}
