//! An engine with a durable store: what is answered, what subscribers see, and what a restart brings back.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fanfare::{
    Cursor, Durability, Engine, Epoch, Event, EventId, EventType, Hub, Interrupted, Limits, Member,
    PublishError, Published, Store, StoreFailure, StoreOptions, StoreReader, Subscribe, Topic, testing,
};
use fanfare_proto::limits::LogLimits;
use fanfare_store::{Bounds, Error as StoreError, Fault, FaultyStore, MemoryStore, Query};

/// So that a test whose events do not come fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(30);
const ENOSPC: i32 = 28;
const EIO: i32 = 5;
/// In milliseconds since 1970: an event of the future has no age.
const LATER: u64 = 1 << 50;

type Faulty = Arc<FaultyStore<MemoryStore>>;

fn store() -> Faulty {
    Arc::new(FaultyStore::new(MemoryStore::new(Epoch::new(7), LogLimits::default())))
}

fn start(store: &Faulty) -> Engine {
    let store: Arc<dyn Store> = Arc::clone(store) as _;
    Engine::builder().shards(2).store(StoreOptions::new(store)).start().unwrap()
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

/// The data of what is stored, in order.
fn stored(store: &Faulty) -> Vec<String> {
    let page =
        store.inside().read(Query::All, 0, Bounds { records: usize::MAX, ..Bounds::default() }).unwrap();
    assert!(page.is_end);
    page.records.into_iter().map(|record| record.event.data().unwrap_or_default().to_owned()).collect()
}

/// What is answered is stored before, and what a subscriber gets is, too.
#[test]
fn events_are_stored_before_anyone_sees_them() {
    let store = store();
    let engine = start(&store);
    let hub = engine.hub();
    let mut client = testing::adopt(&hub, Subscribe::to([topic("a")])).unwrap();
    store.plan_append(0, Fault::Waits(Duration::from_millis(100)));
    let publisher = thread::spawn({
        let (hub, store) = (hub.clone(), Arc::clone(&store));
        move || {
            let id = publish(&hub, event("1")).unwrap();
            assert_eq!(stored(&store), ["1"]);
            id
        }
    });
    let received = client.next_wait(PATIENCE).unwrap().unwrap();
    assert_eq!((received.data(), stored(&store)), ("1", vec!["1".to_owned()]));
    assert_eq!(publisher.join().unwrap(), "000000007-1");
    let figures = hub.store_figures().unwrap();
    assert_eq!((figures.groups, figures.events, figures.failures, figures.records), (1, 1, 0, 1));
}

/// A call that does not wait could not tell whether its event is stored.
#[test]
fn a_publish_that_does_not_wait_is_refused() {
    let engine = start(&store());
    let refused = engine.hub().publish(event("1")).unwrap_err();
    assert_eq!(refused.error, PublishError::WouldBlock);
    assert_eq!(*refused.event, event("1"));
}

#[test]
fn a_restart_brings_the_log_back_and_numbers_go_on() {
    let store = store();
    let engine = start(&store);
    let ids: Vec<String> =
        ["1", "2", "3"].iter().map(|data| publish(&engine.hub(), event(data)).unwrap()).collect();
    engine.stop(Duration::ZERO).unwrap();

    let engine = start(&store);
    let hub = engine.hub();
    assert_eq!(hub.head().to_string(), ids[2]);
    let again = |id: &str| testing::adopt(&hub, Subscribe::to([topic("a")]).with_resume(id)).unwrap();
    let mut client = again(&ids[0]);
    assert_eq!(client.header("fanfare-gap"), None);
    assert_eq!(publish(&hub, event("4")).unwrap(), "000000007-4");
    for (data, number) in [("2", 2), ("3", 3), ("4", 4)] {
        let received = client.next_wait(PATIENCE).unwrap().unwrap();
        assert_eq!((received.data(), received.id()), (data, format!("000000007-{number}").as_str()));
    }
    assert_eq!(again("000000008-1").header("fanfare-gap"), Some("true"), "another log");
}

/// The age of an event counts from its publish, also over a restart.
#[test]
fn events_that_became_too_old_meanwhile_do_not_come_back() {
    let store = store();
    let record = |number, published_ms| fanfare_store::Record { number, published_ms, event: event("x") };
    let now =
        fanfare_io::Clock::start().date().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let records = [record(1, now - 86_400_000), record(2, now - 1_000)];
    store.append(&records, Durability::Commit).unwrap();
    let options = StoreOptions::new(Arc::clone(&store) as Arc<dyn Store>);
    let engine =
        Engine::builder().shards(1).retain_age(Duration::from_secs(3600)).store(options).start().unwrap();
    let hub = engine.hub();
    let page = hub.read(&topic("a"), "earliest", 9).unwrap();
    let ids: Vec<String> = page.events().iter().map(|event| event.position().to_string()).collect();
    assert_eq!(ids, ["000000007-2"]);
    assert_eq!(hub.head(), Cursor { epoch: Epoch::new(7), seq: 2 });
}

/// A full disk refuses what is published, and nothing else stops.
#[test]
fn a_full_disk_refuses_publishes_until_there_is_room() {
    let store = store();
    let engine = start(&store);
    let hub = engine.hub();
    let mut client = testing::adopt(&hub, Subscribe::to([topic("a")])).unwrap();
    publish(&hub, event("1")).unwrap();
    for call in 0..3 {
        store.plan_append(call, Fault::Fails(ENOSPC));
    }
    for _ in 0..3 {
        assert_eq!(publish(&hub, event("lost")), Err(PublishError::NotStored(StoreFailure::Full)));
    }
    assert!(hub.store_figures().unwrap().is_full);
    let error = hub.take_store_error().unwrap();
    assert!(error.contains("full"), "{error}");
    assert_eq!(hub.take_store_error(), None);
    // The numbers of the events that were refused are holes.
    assert_eq!(publish(&hub, event("2")).unwrap(), "000000007-5");
    assert!(!hub.store_figures().unwrap().is_full);
    let received: Vec<String> =
        (0..2).map(|_| client.next_wait(PATIENCE).unwrap().unwrap().data().to_owned()).collect();
    assert_eq!((received, stored(&store)), (vec!["1".to_owned(), "2".to_owned()], stored(&store)));
    assert_eq!(stored(&store), ["1", "2"]);
}

#[test]
fn a_store_that_has_failed_takes_nothing_and_subscribers_stay() {
    let store = store();
    let engine = start(&store);
    let hub = engine.hub();
    let mut client = testing::adopt(&hub, Subscribe::to([topic("a")])).unwrap();
    publish(&hub, event("1")).unwrap();
    store.plan_append(0, Fault::Tears { errno: EIO, is_there: true });
    for _ in 0..2 {
        assert_eq!(publish(&hub, event("x")), Err(PublishError::NotStored(StoreFailure::Broken)));
    }
    assert_eq!(client.next_wait(PATIENCE).unwrap().unwrap().data(), "1");
    assert_eq!(hub.counts().connections, 1);
    engine.stop(Duration::ZERO).unwrap();
    // The group that was torn was written after all. No subscriber has seen another event with its number.
    store.open_again().unwrap();
    let engine = start(&store);
    assert_eq!(publish(&engine.hub(), event("2")).unwrap(), "000000007-3");
    assert_eq!(stored(&store), ["1", "x", "2"]);
}

/// What is published of a publish is its beginning, also where a later part would have found room. The
/// store's thread may take the parts in one group or in several.
#[test]
fn of_a_publish_that_fails_in_the_middle_the_beginning_is_published() {
    const EVENTS: usize = 1000;
    for failing in [0, 0, 0, 1, 1, 1] {
        let store = store();
        let options = StoreOptions::new(Arc::clone(&store) as Arc<dyn Store>);
        let mut limits = fanfare::Limits::default();
        limits.batch_topics = 64;
        let engine = Engine::builder().shards(1).limits(limits).store(options).start().unwrap();
        let hub = engine.hub();
        store.plan_append(0, Fault::Waits(Duration::from_millis(5)));
        store.plan_append(failing, Fault::Fails(ENOSPC));
        let answer = publish_all(&hub, (0..EVENTS).map(|n| event(&n.to_string())).collect());
        let count = match answer {
            Ok(published) => published.count,
            Err(Interrupted { error: PublishError::NotStored(_), published, .. }) => {
                published.map_or(0, |published| published.count)
            }
            Err(other) => panic!("{other:?}"),
        };
        let wanted: Vec<String> = (0..count).map(|n| n.to_string()).collect();
        assert_eq!(stored(&store), wanted);
        // A fault that no group has met meets the next one.
        while publish(&hub, event("after")).is_err() {}
        assert_eq!(stored(&store).last().map(String::as_str), Some("after"));
    }
}

/// The log in memory has forgotten the first one; the store has not.
#[test]
fn an_event_with_its_own_id_is_stored_once() {
    let store = store();
    let engine = start(&store);
    publish(&engine.hub(), with_id("order-1", "1")).unwrap();
    engine.stop(Duration::ZERO).unwrap();
    let options = StoreOptions::new(Arc::clone(&store) as Arc<dyn Store>);
    let engine = Engine::builder().shards(1).retain_events(2).store(options).start().unwrap();
    let hub = engine.hub();
    for number in 2..6 {
        publish(&hub, event(&number.to_string())).unwrap();
    }
    let all = vec![event("6"), with_id("order-1", "1"), event("7"), with_id("order-2", "8")];
    let published = publish_all(&hub, all).unwrap();
    assert_eq!(published.count, 4);
    let duplicates: Vec<_> =
        published.duplicates.iter().map(|found| (found.index, found.first.seq)).collect();
    assert_eq!(duplicates, [(1, 1)]);
    assert_eq!(stored(&store), ["1", "2", "3", "4", "5", "6", "7", "8"]);
    // One that is the last of its publish, or the only one, too.
    for events in [vec![with_id("order-1", "1")], vec![event("9"), with_id("order-1", "1")]] {
        let index = events.len() - 1;
        let published = publish_all(&hub, events).unwrap();
        assert_eq!((published.duplicates.len(), published.duplicates[0].index), (1, index));
    }
    let conflict = publish(&hub, with_id("order-1", "other data"));
    assert_eq!(conflict, Err(PublishError::IdConflict { index: 0 }));
    assert_eq!(stored(&store), ["1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    let mut client = testing::adopt(&hub, Subscribe::to([topic("a")])).unwrap();
    publish(&hub, event("10")).unwrap();
    assert_eq!(client.next_wait(PATIENCE).unwrap().unwrap().data(), "10");
}

/// While one group is stored, the events of all publishers gather for the next one.
#[test]
fn publishers_share_groups() {
    let store = store();
    let engine = start(&store);
    let hub = engine.hub();
    store.plan_append(0, Fault::Waits(Duration::from_millis(200)));
    let publishers: Vec<_> = (0..50)
        .map(|number| {
            let hub = hub.clone();
            thread::spawn(move || publish(&hub, event(&number.to_string())).unwrap())
        })
        .collect();
    let mut ids: Vec<u64> = publishers
        .into_iter()
        .map(|publisher| Cursor::parse(&publisher.join().unwrap()).unwrap().seq)
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=50).collect::<Vec<_>>());
    let figures = hub.store_figures().unwrap();
    assert_eq!(figures.events, 50);
    assert!(figures.groups < 50, "{figures:?}");
}

/// What was sequenced before a stop is stored, and its publisher learns that.
#[test]
fn a_stop_stores_what_was_taken() {
    let store = store();
    let engine = start(&store);
    let hub = engine.hub();
    store.plan_append(0, Fault::Waits(Duration::from_millis(300)));
    let publisher = thread::spawn({
        let hub = hub.clone();
        move || publish(&hub, event("1"))
    });
    // It is taken soon; the stop may come before or behind that.
    thread::sleep(Duration::from_millis(50));
    engine.stop(Duration::ZERO).unwrap();
    let answer = publisher.join().unwrap();
    match answer {
        Ok(id) => assert_eq!((id.as_str(), stored(&store)), ("000000007-1", vec!["1".to_owned()])),
        // The stop came first.
        Err(error) => assert_eq!((error, stored(&store)), (PublishError::Stopped, vec![])),
    }
}

/// With the other mode nothing waits for a disk.
#[test]
fn without_commits_events_are_written_and_synced_later() {
    let store = store();
    let options = StoreOptions::new(Arc::clone(&store) as Arc<dyn Store>).durability(Durability::Async);
    let engine = Engine::builder().shards(1).store(options).start().unwrap();
    let hub = engine.hub();
    publish(&hub, event("1")).unwrap();
    assert_eq!(stored(&store), ["1"]);
    engine.stop(Duration::ZERO).unwrap();
    assert_eq!(store.state().synced, 1);
}

/// A log in memory that holds some dozens of these events, and a store that holds all of them.
fn start_with_little_memory(store: &Faulty) -> Engine {
    let options = StoreOptions::new(Arc::clone(store) as Arc<dyn Store>);
    Engine::builder().shards(2).log_bytes(256 << 10).retain_events(1_000_000).store(options).start().unwrap()
}

/// Publishes so many events of two kilobytes to a topic, and gives their ids.
fn publish_many(hub: &Hub, name: &str, count: usize) -> Vec<String> {
    let padding = "x".repeat(2000);
    let events = (0..count).map(|n| Event::new(topic(name)).with_data(format!("{name} {n} {padding}")));
    let mut ids = Vec::new();
    for event in events {
        ids.push(publish(hub, event).unwrap());
    }
    ids
}

/// The beginnings of the data of the next events: `name number`.
fn receive(client: &mut testing::Client, count: usize) -> Vec<String> {
    let next = |_| {
        let event = client.next_wait(PATIENCE).unwrap().expect("the stream goes on");
        assert_ne!(event.kind(), "fanfare.gap", "{}", event.data());
        let words: Vec<&str> = event.data().split(' ').take(2).collect();
        words.join(" ")
    };
    (0..count).map(next).collect()
}

fn expected(name: &str, numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|n| format!("{name} {n}")).collect()
}

/// A subscriber gets what is not in memory any more, without a gap, and then what is published meanwhile.
#[test]
fn history_that_is_not_in_memory_comes_from_the_store() {
    const COUNT: usize = 1000;
    let store = store();
    let engine = start_with_little_memory(&store);
    let hub = engine.hub();
    let ids = publish_many(&hub, "a", COUNT);
    let in_memory = hub.topic(&topic("a"), PATIENCE).unwrap().unwrap().retained;
    assert!(in_memory < 200, "{in_memory}");
    let from = |id: &str| {
        let client = testing::adopt(&hub, Subscribe::to([topic("a")]).with_resume(id)).unwrap();
        assert_eq!(client.header("fanfare-gap"), None);
        client
    };
    let mut all = from("earliest");
    let mut some: Vec<_> = (0..40).map(|index| (index * 20, from(&ids[index * 20]))).collect();
    assert_eq!(receive(&mut all, COUNT), expected("a", 0..COUNT));
    publish_many(&hub, "a", 1);
    for (index, client) in &mut some {
        let wanted = COUNT - *index - 1;
        assert_eq!(receive(client, wanted), expected("a", *index + 1..COUNT), "from {index}");
        assert_eq!(receive(client, 1), ["a 0"]);
    }
    assert_eq!(receive(&mut all, 1), ["a 0"]);
    assert_eq!(hub.counts().gaps, 0);
}

/// While a subscriber reads old events slowly, more are published than memory has room for.
#[test]
fn a_slow_reader_of_history_loses_nothing() {
    let store = store();
    let engine = start_with_little_memory(&store);
    let hub = engine.hub();
    let ids = publish_many(&hub, "a", 300);
    let mut client = testing::adopt(&hub, Subscribe::to([topic("a")]).with_resume(ids[0].as_str())).unwrap();
    let mut received = receive(&mut client, 50);
    for round in 0..5 {
        publish_many(&hub, &format!("other {round}"), 200);
        publish_many(&hub, "a", 200);
        received.extend(receive(&mut client, 100));
    }
    received.extend(receive(&mut client, 300 + 5 * 200 - 1 - 550));
    let mut wanted = expected("a", 1..300);
    (0..5).for_each(|_| wanted.extend(expected("a", 0..200)));
    assert_eq!(received, wanted);
}

/// A pattern has no index in the store, so all events are looked through; and private ones are for those
/// alone who may see them.
#[test]
fn patterns_and_private_events_come_from_the_store_too() {
    let store = store();
    let engine = start_with_little_memory(&store);
    let hub = engine.hub();
    let padding = "x".repeat(2000);
    for n in 0..400 {
        let event = Event::new(topic(&format!("room/{}", n % 3))).with_data(format!("room {n} {padding}"));
        publish(&hub, event.with_private(n % 10 == 0)).unwrap();
    }
    publish_many(&hub, "other", 300);
    let pattern = fanfare::Pattern::parse("room/*").unwrap();
    let by_pattern = |sees: bool| {
        let subscribe = Subscribe::to([]).with_patterns([pattern.clone()]).with_resume("earliest");
        testing::adopt(&hub, subscribe.with_private_events(sees)).unwrap()
    };
    assert_eq!(receive(&mut by_pattern(true), 400), expected("room", 0..400));
    let public: Vec<String> = expected("room", 0..400)
        .into_iter()
        .enumerate()
        .filter(|(n, _)| n % 10 != 0)
        .map(|(_, text)| text)
        .collect();
    assert_eq!(receive(&mut by_pattern(false), 360), public);
    let one = Subscribe::to([topic("room/1")]).with_resume("earliest");
    let of_topic: Vec<String> =
        (0..400).filter(|n| n % 3 == 1 && n % 10 != 0).map(|n| format!("room {n}")).collect();
    assert_eq!(receive(&mut testing::adopt(&hub, one).unwrap(), of_topic.len()), of_topic);
}

/// A store that keeps so many events of each topic, and has dropped the others.
fn trimmed_store(events: usize, topics: &[&str]) -> Faulty {
    let retention = fanfare::Retention::default().with_events(events).with_age(Duration::MAX);
    let limits = LogLimits::default().with_retention(retention);
    let store: Faulty = Arc::new(FaultyStore::new(MemoryStore::new(Epoch::new(7), limits)));
    let records = topics.iter().zip(1..).map(|(name, number)| {
        let event = Event::new(topic(name)).with_data(format!("{name} {number}"));
        fanfare_store::Record { number, published_ms: 0, event }
    });
    store.append(&records.collect::<Vec<_>>(), Durability::Commit).unwrap();
    while store.trim(0, 1000).unwrap().more {}
    store
}

/// An engine that keeps events of any age.
fn start_ageless(store: &Faulty) -> Engine {
    let options = StoreOptions::new(Arc::clone(store) as Arc<dyn Store>);
    Engine::builder().shards(1).retain_age(Duration::MAX).store(options).start().unwrap()
}

/// The log in memory began with the newest numbers that were read back, and took them for all that there
/// were: a subscriber whose topic had lost events in the middle got what is left, and no word of a gap.
#[test]
fn a_restart_knows_what_the_store_has_lost_of_each_topic() {
    let store = trimmed_store(2, &["b", "a", "a", "a", "a", "a", "c"]);
    let engine = start_ageless(&store);
    let hub = engine.hub();
    let gap_of = |name: &str, number: u64| {
        let id = Cursor { epoch: Epoch::new(7), seq: number }.to_string();
        let client = testing::adopt(&hub, Subscribe::to([topic(name)]).with_resume(id)).unwrap();
        client.header("fanfare-gap").is_some()
    };
    assert!(gap_of("a", 2), "the events 3 and 4 are gone");
    assert!(!gap_of("a", 4));
    for name in ["b", "c", "nothing"] {
        assert!(!gap_of(name, 1), "nothing of {name} is gone");
    }
}

/// A subscriber of two topics, of which one had lost something, got of the other one only what was in memory.
#[test]
fn what_the_store_has_left_behind_a_loss_comes_from_it() {
    let store = trimmed_store(2, &["b", "b", "a", "a", "a", "a"]);
    let options = StoreOptions::new(Arc::clone(&store) as Arc<dyn Store>);
    let builder = Engine::builder().shards(1).retain_age(Duration::MAX).retain_events(1);
    let engine = builder.store(options).start().unwrap();
    let subscribe = Subscribe::to([topic("a"), topic("b")]).with_resume("earliest");
    let mut client = testing::adopt(&engine.hub(), subscribe).unwrap();
    assert_eq!(receive(&mut client, 4), ["b 1", "b 2", "a 5", "a 6"]);
}

/// Two copies of an event that the store has, in one publish: the second one was said to be the same as an
/// event with a number that no event has.
#[test]
fn copies_of_what_is_stored_have_the_number_of_the_first_one() {
    let store = store();
    let engine = start(&store);
    publish(&engine.hub(), with_id("order-1", "1")).unwrap();
    engine.stop(Duration::ZERO).unwrap();
    let options = StoreOptions::new(Arc::clone(&store) as Arc<dyn Store>);
    let engine = Engine::builder().shards(1).retain_events(1).store(options).start().unwrap();
    publish(&engine.hub(), event("2")).unwrap();
    let twice = vec![with_id("order-1", "1"), with_id("order-1", "1"), event("3")];
    let published = publish_all(&engine.hub(), twice).unwrap();
    let firsts: Vec<_> = published.duplicates.iter().map(|found| (found.index, found.first.seq)).collect();
    assert_eq!(firsts, [(0, 1), (1, 1)]);
}

/// What the store has trimmed is a gap, which says from where on everything is there.
#[test]
fn what_is_gone_from_the_store_is_a_gap() {
    let limits = LogLimits::default().with_retention(fanfare::Retention::default().with_events(500));
    let store: Faulty = Arc::new(FaultyStore::new(MemoryStore::new(Epoch::new(7), limits)));
    let engine = start_with_little_memory(&store);
    let hub = engine.hub();
    let ids = publish_many(&hub, "a", 1000);
    // At this time no event has an age.
    while store.trim(0, 1000).unwrap().more {}
    let client = testing::adopt(&hub, Subscribe::to([topic("a")]).with_resume(ids[10].as_str())).unwrap();
    assert_eq!(client.header("fanfare-gap"), Some("true"));
    let mut kept = testing::adopt(&hub, Subscribe::to([topic("a")]).with_resume(ids[600].as_str())).unwrap();
    assert_eq!(kept.header("fanfare-gap"), None);
    assert_eq!(receive(&mut kept, 399), expected("a", 601..1000));
}

/// A disk may be slow for longer than a stalled subscriber is kept. A subscriber that waits for the disk is
/// not stalled.
#[test]
fn a_subscriber_that_waits_for_the_disk_is_not_taken_for_stalled() {
    let store = store();
    let options = StoreOptions::new(Arc::clone(&store) as Arc<dyn Store>);
    let builder = Engine::builder().shards(1).log_bytes(256 << 10).retain_events(1_000_000);
    let engine = builder.laggard_time(Duration::from_millis(100)).store(options).start().unwrap();
    let hub = engine.hub();
    let ids = publish_many(&hub, "a", 300);
    // The first read says where it starts.
    store.plan_read(1, Fault::Waits(Duration::from_secs(3)));
    let mut client = testing::adopt(&hub, Subscribe::to([topic("a")]).with_resume(ids[0].as_str())).unwrap();
    assert_eq!(client.header("fanfare-gap"), None);
    assert_eq!(receive(&mut client, 299), expected("a", 1..300));
}

/// A store that cannot be read gives no history: a subscriber learns of a gap and gets what is in memory. It
/// got only what came later.
#[test]
fn a_store_that_cannot_be_read_leaves_a_gap_and_no_silence() {
    let store = store();
    let engine = start_with_little_memory(&store);
    let hub = engine.hub();
    let ids = publish_many(&hub, "a", 300);
    let in_memory = hub.topic(&topic("a"), PATIENCE).unwrap().unwrap().retained;
    for call in 0..10 {
        store.plan_read(call, Fault::Fails(EIO));
    }
    let mut client = testing::adopt(&hub, Subscribe::to([topic("a")]).with_resume(ids[0].as_str())).unwrap();
    assert_eq!(client.header("fanfare-gap"), Some("true"));
    let first = client.next_wait(PATIENCE).unwrap().expect("the stream goes on");
    assert_eq!(first.kind(), "fanfare.gap");
    publish(&hub, event("live")).unwrap();
    assert!((20..280).contains(&in_memory), "{in_memory}");
    assert_eq!(receive(&mut client, in_memory), expected("a", 300 - in_memory..300));
    assert_eq!(client.next_wait(PATIENCE).unwrap().expect("the stream goes on").data(), "live");
}

/// A subscriber is told of a gap where it has missed events that it may see. Private events that are gone are
/// a gap for the subscribers that may see them, and for no others.
#[test]
fn private_events_that_the_store_has_dropped_are_a_gap_for_those_that_see_them() {
    let limits = LogLimits::default().with_retention(fanfare::Retention::default().with_events(10));
    let store = Arc::new(FaultyStore::new(MemoryStore::new(Epoch::new(7), limits)));
    let options = StoreOptions::new(Arc::clone(&store) as Arc<dyn Store>);
    let engine = Engine::builder().shards(1).retain_events(5).store(options).start().unwrap();
    let hub = engine.hub();
    let publish =
        |n: usize| publish(&hub, event(&n.to_string()).with_private((2..=20).contains(&n))).unwrap();
    let ids: Vec<String> = (1..=30).map(publish).collect();
    let has_gap = |id: &str, sees_private: bool| {
        let subscribe = Subscribe::to([topic("a")]).with_private_events(sees_private).with_resume(id);
        testing::adopt(&hub, subscribe).unwrap().header("fanfare-gap").is_some()
    };
    let is_told = (0..600).any(|_| {
        thread::sleep(Duration::from_millis(50));
        has_gap(&ids[10], true)
    });
    assert!(is_told, "it misses private events, and is not told");
    assert!(!has_gap(&ids[0], false), "all that it sees is there");
    assert!(!has_gap(&ids[19], true), "all that follows is there");
}

/// A publisher gave an id to two events. Memory had the first of them through another topic, and the store
/// was asked, which finds the second one. A subscriber that had the first one lost all between them without a
/// word.
#[test]
fn of_two_events_with_an_id_the_subscriber_gets_what_follows_the_first() {
    let store = store();
    let engine = start_with_little_memory(&store);
    let hub = engine.hub();
    let first = Event::new(topic("a")).with_topic(topic("b")).unwrap().with_data("first");
    publish(&hub, first.with_id(EventId::new("x").unwrap())).unwrap();
    publish_many(&hub, "a", 300);
    publish(&hub, with_id("x", "second")).unwrap();
    let topics = [topic("a"), topic("b")];
    let mut client = testing::adopt(&hub, Subscribe::to(topics).with_resume("x")).unwrap();
    assert_eq!(client.header("fanfare-gap"), None);
    assert_eq!(receive(&mut client, 300), expected("a", 0..300));
    assert_eq!(client.next_wait(PATIENCE).unwrap().expect("the stream goes on").data(), "second");
}

/// After a restart, memory took for complete what came after the oldest event of any topic: a subscriber of
/// another topic, which had lost more, missed events without a word.
#[test]
fn a_gap_of_one_topic_is_told_after_a_restart_too() {
    let limits = LogLimits::default().with_retention(fanfare::Retention::default().with_events(500));
    let store: Faulty = Arc::new(FaultyStore::new(MemoryStore::new(Epoch::new(7), limits)));
    let begin = |topics: &[&str], data: &str| {
        let mut event = Event::new(topic(topics[0])).with_data(data);
        for name in &topics[1..] {
            event = event.with_topic(topic(name)).unwrap();
        }
        event
    };
    let options = || StoreOptions::new(Arc::clone(&store) as Arc<dyn Store>);
    let start = || Engine::builder().shards(2).retain_events(500).store(options()).start().unwrap();
    let engine = start();
    publish(&engine.hub(), begin(&["b"], "quiet")).unwrap();
    publish(&engine.hub(), begin(&["a", "c"], "of two topics")).unwrap();
    let ids = publish_all(&engine.hub(), (0..1000).map(|n| begin(&["a"], &n.to_string())).collect());
    assert_eq!(ids.unwrap().last, "000000007-1002");
    while store.trim(0, 1000).unwrap().more {}
    engine.stop(Duration::ZERO).unwrap();

    let engine = start();
    let hub = engine.hub();
    let from = |name: &str, number: u64| {
        let id = format!("000000007-{number}");
        testing::adopt(&hub, Subscribe::to([topic(name)]).with_resume(id)).unwrap()
    };
    for number in [1, 2, 12, 501] {
        assert_eq!(from("a", number).header("fanfare-gap"), Some("true"), "a from {number}");
    }
    for (name, number) in [("a", 502), ("a", 1002), ("b", 0), ("b", 1), ("b", 700), ("c", 1), ("c", 2)] {
        assert_eq!(from(name, number).header("fanfare-gap"), None, "{name} from {number}");
    }
    assert_eq!(from("unknown", 1).header("fanfare-gap"), None);
    let mut quiet = from("b", 0);
    assert_eq!(quiet.next_wait(PATIENCE).unwrap().unwrap().data(), "quiet");
    let mut of_two = from("c", 1);
    assert_eq!(of_two.next_wait(PATIENCE).unwrap().unwrap().data(), "of two topics");
    let mut busy = from("a", 502);
    assert_eq!(busy.next_wait(PATIENCE).unwrap().unwrap().data(), "500");
    assert_eq!(hub.counts().published, 0, "what was read back was not published now");
}

/// A store that has lost events in a crash. It is unknown which topics these events belonged to.
struct WithLoss {
    inside: MemoryStore,
    lost: u64,
}

impl StoreReader for WithLoss {
    fn state(&self) -> fanfare_store::State {
        let mut state = self.inside.state();
        (state.newest, state.lost) = (state.newest.max(self.lost), self.lost);
        state
    }

    fn read(&self, query: Query<'_>, after: u64, bounds: Bounds) -> Result<fanfare_store::Page, StoreError> {
        let mut page = self.inside.read(query, after, bounds)?;
        page.gone.note(self.lost, false);
        if page.is_end {
            page.up_to = page.up_to.max(self.lost);
        }
        Ok(page)
    }

    fn find(&self, id: &EventId, topics: &[Topic]) -> Result<Option<fanfare_store::Record>, StoreError> {
        self.inside.find(id, topics)
    }
}

impl Store for WithLoss {
    fn append(&self, group: &[fanfare_store::Record], durability: Durability) -> Result<(), StoreError> {
        self.inside.append(group, durability)
    }

    fn trim(&self, now_ms: u64, budget: usize) -> Result<fanfare_store::Trimmed, StoreError> {
        self.inside.trim(now_ms, budget)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.inside.sync()
    }
}

/// A subscriber that had everything up to the loss was not told of a gap. A subscriber that asked for
/// everything got only the first page.
#[test]
fn what_a_crash_has_cost_is_a_gap_and_all_that_is_left_comes() {
    const COUNT: usize = 1000;
    let padding = "x".repeat(500);
    let inside = MemoryStore::new(Epoch::new(7), LogLimits::default());
    let record = |number: u64| {
        let event = event(&format!("a {} {padding}", number - 1));
        fanfare_store::Record { number, published_ms: LATER, event }
    };
    inside.append(&(1..=COUNT as u64).map(record).collect::<Vec<_>>(), Durability::Async).unwrap();
    let store = Arc::new(WithLoss { inside, lost: 5000 });
    let engine = Engine::builder().shards(2).store(StoreOptions::new(store)).start().unwrap();
    let hub = engine.hub();
    assert_eq!(publish(&hub, event("after the loss")).unwrap(), "000000007-5001");
    let from = |id: &str| testing::adopt(&hub, Subscribe::to([topic("a")]).with_resume(id)).unwrap();
    for (id, first) in [("earliest", 0), ("000000007-500", 500), ("000000007-1000", 1000)] {
        let mut client = from(id);
        assert_eq!(client.header("fanfare-gap").is_some(), id != "earliest", "from {id}");
        if id != "earliest" {
            assert_eq!(client.next_wait(PATIENCE).unwrap().unwrap().kind(), "fanfare.gap");
        }
        assert_eq!(receive(&mut client, COUNT - first), expected("a", first..COUNT), "from {id}");
        assert_eq!(client.next_wait(PATIENCE).unwrap().unwrap().data(), "after the loss");
    }
    let mut knows = from("000000007-5000");
    assert_eq!(knows.header("fanfare-gap"), None);
    assert_eq!(knows.next_wait(PATIENCE).unwrap().unwrap().data(), "after the loss");
}

/// A start estimates by the mean size how many events there is room for, which is wrong where large events
/// came after small ones, or small ones after large ones.
#[test]
fn a_start_reads_back_what_there_is_room_for_whatever_the_sizes() {
    for (first, then) in [((5_000, 10), (60, 20_000)), ((60, 20_000), (5_000, 10))] {
        let store = store();
        let mut number = 0;
        for (count, bytes) in [first, then] {
            let records: Vec<_> = (0..count)
                .map(|_| {
                    number += 1;
                    let event = event(&"x".repeat(bytes));
                    fanfare_store::Record { number, published_ms: LATER, event }
                })
                .collect();
            store.append(&records, Durability::Async).unwrap();
        }
        let engine = start_with_little_memory(&store);
        let counts = engine.hub().counts();
        assert!(counts.log_bytes <= 256 << 10, "{}", counts.log_bytes);
        assert!(counts.log_bytes > 100 << 10, "{} bytes of {first:?} and {then:?}", counts.log_bytes);
    }
}

// ---- What publishers are told ----

/// Once, a publisher was told that its events were accepted and must not be sent again, while the store had
/// not decided, and then they were lost.
#[test]
fn a_publisher_learns_that_the_store_has_not_decided() {
    for fails in [false, true] {
        let store = store();
        let engine = start(&store);
        let hub = engine.hub();
        store.plan_append(0, Fault::Waits(Duration::from_millis(300)));
        if fails {
            store.plan_sync(0, Fault::Fails(EIO));
        }
        let mut events = vec![event("late")];
        let late = hub.publish_wait(&mut events, Duration::from_millis(20)).unwrap_err();
        assert_eq!((late.error, late.published, events.len()), (PublishError::Undecided, None, 0));
        engine.stop(Duration::ZERO).unwrap();
        assert_eq!(stored(&store).len(), usize::from(!fails));
    }
}

/// Once, the answer to a refusal left out what was being stored, and the publisher sent it again.
#[test]
fn a_refusal_waits_for_what_was_taken_before_it() {
    let store = store();
    let options = StoreOptions::new(Arc::clone(&store) as Arc<dyn Store>);
    let limits = Limits::default().with_mailbox_events(10).with_event_bytes(1000);
    let engine = Engine::builder().shards(1).limits(limits).store(options).start().unwrap();
    let hub = engine.hub();
    let _reader = testing::adopt(&hub, Subscribe::to([topic("a")])).unwrap();
    store.plan_append(0, Fault::Waits(Duration::from_millis(200)));
    let mut events: Vec<_> = (0..35).map(|n| event(&n.to_string())).collect();
    events.push(event(&"x".repeat(1001)));
    let refused = hub.publish_wait(&mut events, PATIENCE).unwrap_err();
    let published = refused.published.unwrap().count;
    assert!(matches!(refused.error, PublishError::TooLarge { .. }), "{:?}", refused.error);
    assert_eq!((published + events.len(), stored(&store).len()), (36, published));
    assert!(published >= 10, "a part was under way");
}

#[tokio::test]
async fn an_event_that_is_not_stored_is_given_back() {
    let store = store();
    let engine = start(&store);
    let hub = engine.hub();
    store.plan_append(0, Fault::Fails(ENOSPC));
    let refused = hub.publish_when_ready(event("1")).await.unwrap_err();
    assert_eq!(refused.error, PublishError::NotStored(StoreFailure::Full));
    assert_eq!(*refused.event, event("1"));
    hub.publish_when_ready(event("1")).await.unwrap();
    assert_eq!(stored(&store), ["1"]);
}

/// A member that had left while the disk was full was there for ever.
#[test]
fn members_are_announced_when_the_disk_has_room_again() {
    let store = store();
    let options = StoreOptions::new(Arc::clone(&store) as Arc<dyn Store>);
    let builder = Engine::builder().shards(1).presence_linger(Duration::ZERO).store(options);
    let engine = builder.start().unwrap();
    let hub = engine.hub();
    let mut watcher = testing::adopt(&hub, Subscribe::to([topic("room")])).unwrap();
    let (join, leave) = (EventType::new("join").unwrap(), EventType::new("leave").unwrap());
    let member = Member::new(&topic("room"), "ada").unwrap().with_announcements(join, leave);
    (0..3).for_each(|call| store.plan_append(call, Fault::Fails(ENOSPC)));
    let ada = testing::adopt(&hub, Subscribe::to([topic("other")]).with_member(member)).unwrap();
    assert_eq!(watcher.next_wait(PATIENCE).unwrap().unwrap().kind(), "join");
    (0..3).for_each(|call| store.plan_append(call, Fault::Fails(ENOSPC)));
    drop(ada);
    assert_eq!(watcher.next_wait(PATIENCE).unwrap().unwrap().kind(), "leave");
    assert_eq!(hub.counts().members_not_announced, 0);
}

// ---- A panic of the store, which is a mistake of it ----

/// Publishers that waited for the store's thread waited for ever, and the server said that it was well.
#[test]
fn a_panic_of_the_thread_that_writes_ends_the_engine_and_answers_all() {
    let store = store();
    let engine = start(&store);
    let hub = engine.hub();
    publish(&hub, event("before")).unwrap();
    store.plan_append(0, Fault::Waits(Duration::from_millis(50)));
    store.plan_append(1, Fault::Panics);
    let publishers: Vec<_> = (0..8)
        .map(|number| {
            let hub = hub.clone();
            thread::spawn(move || {
                (0..50).map(|_| publish(&hub, event(&number.to_string()))).collect::<Vec<_>>()
            })
        })
        .collect();
    let answers: Vec<_> = publishers.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    let acknowledged = answers.iter().filter(|answer| answer.is_ok()).count();
    let is_honest =
        |answer: &_| matches!(answer, Ok(_) | Err(PublishError::Stopped | PublishError::Undecided));
    assert!(answers.iter().all(is_honest), "{answers:?}");
    assert!(acknowledged < answers.len());
    assert_eq!(publish(&hub, event("after")), Err(PublishError::Stopped));
    while engine.is_running() {
        thread::yield_now();
    }
    assert!(engine.stop(Duration::ZERO).is_err());
    assert_eq!(stored(&store).len(), 1 + acknowledged);
}

/// A subscriber that waited for its start waited ten seconds, and one that waited for a page for ever.
#[test]
fn a_panic_of_the_thread_that_reads_ends_the_engine() {
    let store = store();
    let engine = start_with_little_memory(&store);
    let hub = engine.hub();
    let ids = publish_many(&hub, "a", 300);
    store.plan_read(0, Fault::Panics);
    let client = testing::adopt(&hub, Subscribe::to([topic("a")]).with_resume(ids[0].as_str()));
    while engine.is_running() {
        thread::yield_now();
    }
    drop(client);
    assert_eq!(publish(&hub, event("after")), Err(PublishError::Stopped));
    assert!(engine.stop(Duration::ZERO).is_err());
}
