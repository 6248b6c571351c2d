//! What the contract of [`Store`] says, as tests of any store.
//!
//! A store's own test calls [`all`] with a function that makes an empty store with the given bounds. A store
//! that outlives its process calls [`it_is_the_same_after_it_is_opened_again`] as well, and one whose storage
//! a test can make fail calls [`a_failed_append_leaves_nothing_visible`]. Each check panics with what is
//! wrong.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use fanfare_proto::event::{Event, EventId, EventType, Retry, Topic};
use fanfare_proto::limits::{LogLimits, Retention, RetentionRule};

use crate::contract::{Bounds, Durability, Gone, Page, Query, State, Store, Trimmed};
use crate::encoding::event_bytes;
use crate::{Error, Record};

/// Makes an empty store with these bounds.
pub type Make<'m> = &'m dyn Fn(LogLimits) -> Box<dyn Store>;

/// Runs every check.
///
/// # Panics
/// The store does not do what the contract says.
pub fn all(make: Make<'_>) {
    an_empty_store_has_nothing(make);
    records_come_back_as_they_were(make);
    an_append_is_all_or_nothing(make);
    numbers_have_holes(make);
    pages_are_bounded_and_come_forward(make);
    topics_are_read_alone_and_together(make);
    the_same_event_is_found(make);
    asynchronous_records_are_read_at_once(make);
    retention_drops_the_oldest_of_each_topic(make);
    ages_count_from_the_clock(make);
    a_clock_that_was_set_back_does_no_harm(make);
    a_record_is_gone_when_it_is_gone_from_all_of_its_topics(make);
    gaps_of_private_records_are_told_apart(make);
    the_total_bound_takes_from_large_topics(make);
    trims_are_slices(make);
    readers_see_a_growing_beginning(make);
    readers_beside_trims_are_told_what_is_gone(make);
    the_epoch_stays(make);
    it_does_what_a_plain_list_does(make);
}

fn topic(name: &str) -> Topic {
    Topic::new(name).expect("a topic")
}

fn own_id(id: &str) -> EventId {
    EventId::new(id).expect("an id")
}

fn event(topics: &[&str]) -> Event {
    let mut event = Event::new(topic(topics[0]));
    for name in &topics[1..] {
        event = event.with_topic(topic(name)).expect("few topics");
    }
    event
}

fn record(number: u64, topics: &[&str]) -> Record {
    Record {
        number,
        published_ms: 1000 + number % 1000,
        event: event(topics).with_data(format!("data {number}")),
    }
}

fn append(store: &dyn Store, records: &[Record]) {
    store.append(records, Durability::Commit).expect("an append");
}

fn numbers(page: &Page) -> Vec<u64> {
    page.records.iter().map(|record| record.number).collect()
}

/// Reads everything after a number, page by page.
fn read_all(store: &dyn Store, query: Query<'_>, after: u64, bounds: Bounds) -> Vec<Record> {
    let (mut records, mut at) = (Vec::new(), after);
    loop {
        let page = store.read(query, at, bounds).expect("a page");
        let in_page = page.records.iter().all(|record| record.number > at && record.number <= page.up_to);
        assert!(
            in_page,
            "the numbers of a page are above {at} and up to {}: {:?}",
            page.up_to,
            numbers(&page)
        );
        assert!(page.up_to > at || page.is_end, "a page came no further than {at}");
        records.extend(page.records);
        if page.is_end {
            break;
        }
        at = page.up_to;
    }
    let rise = records.windows(2).all(|pair| pair[0].number < pair[1].number);
    assert!(rise, "the records are in order and each comes once");
    records
}

fn read_numbers(store: &dyn Store, query: Query<'_>) -> Vec<u64> {
    read_all(store, query, 0, Bounds::default()).iter().map(|record| record.number).collect()
}

/// Trims until nothing is left to do.
fn trim_all(store: &dyn Store, now_ms: u64) -> Trimmed {
    let mut all = Trimmed::default();
    for _ in 0..100_000 {
        let slice = store.trim(now_ms, 64).expect("a trim");
        all.records += slice.records;
        all.bytes += slice.bytes;
        if !slice.more {
            return all;
        }
    }
    panic!("the trim does not end");
}

fn events_rule(pattern: &str, events: usize) -> RetentionRule {
    let retention = Retention::default().with_events(events).with_age(Duration::MAX);
    RetentionRule::new(pattern.parse().expect("a pattern"), retention)
}

fn ageless() -> LogLimits {
    LogLimits::default().with_retention(Retention::default().with_age(Duration::MAX))
}

/// A new store has no records and no numbers, and nothing of it is gone.
pub fn an_empty_store_has_nothing(make: Make<'_>) {
    let store = make(LogLimits::default());
    let state = store.state();
    assert_eq!((state.oldest, state.newest, state.synced, state.records, state.bytes), (0, 0, 0, 0, 0));
    for query in [Query::All, Query::Topics(&[topic("a")]), Query::Topics(&[])] {
        for after in [0, 7, u64::MAX] {
            let page = store.read(query, after, Bounds::default()).expect("a page");
            assert_eq!((page.records.len(), page.up_to, page.is_end), (0, after, true));
            assert_eq!(page.gone, Gone::default());
        }
    }
    assert_eq!(store.find(&own_id("7"), &[topic("a")]).expect("a search"), None);
    store.append(&[], Durability::Commit).expect("an empty group");
    store.sync().expect("a sync");
    assert_eq!(store.trim(u64::MAX, 1).expect("a trim"), Trimmed::default());
    assert_eq!(store.state(), state);
}

/// Every field of an event comes back, and no field is not an empty field.
pub fn records_come_back_as_they_were(make: Make<'_>) {
    let store = make(ageless());
    let mut many = Event::new(topic("many/0"));
    for index in 1..64 {
        many = many.with_topic(topic(&format!("many/{index}"))).expect("64 topics");
    }
    let kind = EventType::new("paid").expect("a type");
    let events = [
        event(&["a"]),
        event(&["a"]).with_data(""),
        event(&["a"]).with_data("one\r\ntwo\n"),
        event(&["ä", "日本"]).with_id(own_id("order 7")).with_type(kind).with_data("ß"),
        event(&["a"]).with_retry(Retry::from_millis(3000)).with_private(true),
        event(&["large"]).with_data("x".repeat(1 << 20)),
        many,
    ];
    let times = [0, 1, u64::MAX, 1_700_000_000_000, 1_700_000_000_001, 5, 6];
    let records: Vec<Record> = (1..)
        .zip(times)
        .zip(events)
        .map(|((number, published_ms), event)| Record { number, published_ms, event })
        .collect();
    append(&*store, &records[..4]);
    append(&*store, &records[4..]);
    assert_eq!(read_all(&*store, Query::All, 0, Bounds::default()), records);
    let state = store.state();
    assert_eq!((state.oldest, state.newest, state.synced, state.records), (1, 7, 7, 7));
    let bytes: usize = records.iter().map(|record| event_bytes(&record.event)).sum();
    assert_eq!(state.bytes, bytes as u64);
}

/// A group whose numbers do not rise leaves nothing behind.
pub fn an_append_is_all_or_nothing(make: Make<'_>) {
    let store = make(ageless());
    append(&*store, &[record(5, &["a"])]);
    for group in [[5, 6], [6, 6], [7, 6], [4, 9]] {
        let group = group.map(|number| record(number, &["a"]));
        for durability in [Durability::Commit, Durability::Async] {
            let refused = store.append(&group, durability);
            assert!(matches!(refused, Err(Error::Order { .. })), "{refused:?}");
        }
    }
    assert_eq!(read_numbers(&*store, Query::All), [5]);
    append(&*store, &[record(6, &["a"]), record(7, &["a"])]);
    assert_eq!(read_numbers(&*store, Query::All), [5, 6, 7]);
}

/// Numbers come from elsewhere and have holes; a read may begin in one of them.
pub fn numbers_have_holes(make: Make<'_>) {
    let store = make(ageless());
    append(&*store, &[record(10, &["a"]), record(1000, &["b"])]);
    append(&*store, &[record(1 << 40, &["a"]), record(u64::MAX - 1, &["b"])]);
    for (after, expected) in [
        (0, vec![10, 1000, 1 << 40, u64::MAX - 1]),
        (9, vec![10, 1000, 1 << 40, u64::MAX - 1]),
        (10, vec![1000, 1 << 40, u64::MAX - 1]),
        (500, vec![1000, 1 << 40, u64::MAX - 1]),
        (1000, vec![1 << 40, u64::MAX - 1]),
        (1 << 50, vec![u64::MAX - 1]),
        (u64::MAX - 1, vec![]),
        (u64::MAX, vec![]),
    ] {
        let page = store.read(Query::All, after, Bounds::default()).expect("a page");
        assert_eq!(numbers(&page), expected, "after {after}");
        assert!(page.is_end && page.up_to >= after);
    }
    let page = store.read(Query::Topics(&[topic("a")]), 10, Bounds::default()).expect("a page");
    assert_eq!(numbers(&page), [1 << 40]);
}

/// Records, bytes and steps of a page are bounded, and small bounds give the same records in more pages.
pub fn pages_are_bounded_and_come_forward(make: Make<'_>) {
    let store = make(ageless());
    let records: Vec<Record> = (1..=300)
        .map(|number| record(number, if number % 3 == 0 { &["c", "all"] } else { &["a", "all"] }))
        .collect();
    for (index, group) in records.chunks(37).enumerate() {
        let durability = if index % 2 == 0 { Durability::Commit } else { Durability::Async };
        store.append(group, durability).expect("an append");
    }
    let bounds = Bounds::default();
    let page = store.read(Query::All, 0, Bounds { records: 7, ..bounds }).expect("a page");
    assert_eq!((numbers(&page), page.up_to, page.is_end), ((1..=7).collect(), 7, false));
    let bytes = event_bytes(&records[0].event) * 3;
    let page = store.read(Query::All, 0, Bounds { bytes, ..bounds }).expect("a page");
    assert_eq!(page.records.len(), 3, "three records of a third of the bytes");
    for bounds in [
        Bounds { records: 1, ..bounds },
        Bounds { records: 13, ..bounds },
        Bounds { bytes: 0, ..bounds },
        Bounds { bytes: 500, ..bounds },
        Bounds { steps: 0, ..bounds },
        Bounds { steps: 5, ..bounds },
        Bounds { records: 0, bytes: 0, steps: 0 },
    ] {
        assert_eq!(read_all(&*store, Query::All, 0, bounds), records, "{bounds:?}");
        let of_c = read_all(&*store, Query::Topics(&[topic("c")]), 0, bounds);
        let expected = records.iter().filter(|record| record.number % 3 == 0);
        assert!(of_c.iter().eq(expected), "{bounds:?}");
    }
}

/// A record of several topics that were asked for comes once.
pub fn topics_are_read_alone_and_together(make: Make<'_>) {
    let store = make(ageless());
    append(&*store, &[record(1, &["a"]), record(2, &["b"]), record(3, &["a", "b"])]);
    append(&*store, &[record(4, &["c"]), record(5, &["b", "c"]), record(6, &["ab"])]);
    for (topics, expected) in [
        (&["a"][..], &[1, 3][..]),
        (&["b"], &[2, 3, 5]),
        (&["a", "b"], &[1, 2, 3, 5]),
        (&["c", "a", "c"], &[1, 3, 4, 5]),
        (&["nothing"], &[]),
        (&[], &[]),
    ] {
        let topics: Vec<Topic> = topics.iter().map(|name| topic(name)).collect();
        assert_eq!(read_numbers(&*store, Query::Topics(&topics)), expected, "{topics:?}");
    }
}

/// An own id belongs to all topics of an event together.
pub fn the_same_event_is_found(make: Make<'_>) {
    let store = make(LogLimits::default().with_rules(vec![events_rule("*", 3)]));
    let with_id = |number, topics: &[&str], id| Record {
        event: record(number, topics).event.with_id(own_id(id)),
        ..record(number, topics)
    };
    let find = |id: &str, topics: &[&str]| {
        let topics: Vec<Topic> = topics.iter().map(|name| topic(name)).collect();
        let found = store.find(&own_id(id), &topics).expect("a search");
        found.map(|record| record.number)
    };
    append(&*store, &[with_id(1, &["a", "b"], "7"), with_id(2, &["a"], "7"), record(3, &["a"])]);
    for _ in 0..2 {
        assert_eq!(find("7", &["a", "b"]), Some(1));
        assert_eq!(find("7", &["b", "a"]), Some(1));
        assert_eq!(find("7", &["a"]), Some(2));
        assert_eq!((find("7", &["b"]), find("7", &["a", "b", "c"]), find("8", &["a"])), (None, None, None));
        // Records move to where they stay.
        trim_all(&*store, 0);
    }
    append(&*store, &[with_id(4, &["a"], "7")]);
    assert_eq!(find("7", &["a"]), Some(4));
    append(&*store, &[record(5, &["a"]), record(6, &["a"]), record(7, &["a"])]);
    trim_all(&*store, 0);
    // The record of two topics is still there for one of them.
    assert_eq!((find("7", &["a"]), find("7", &["a", "b"])), (None, Some(1)));
}

/// Records that are not durable yet are read and found like others.
pub fn asynchronous_records_are_read_at_once(make: Make<'_>) {
    let store = make(ageless());
    let with_id = Record { event: record(2, &["b"]).event.with_id(own_id("7")), ..record(2, &["b"]) };
    store.append(&[record(1, &["a"]), with_id.clone()], Durability::Async).expect("an append");
    assert_eq!(read_numbers(&*store, Query::All), [1, 2]);
    assert_eq!(read_numbers(&*store, Query::Topics(&[topic("b")])), [2]);
    assert_eq!(store.find(&own_id("7"), &[topic("b")]).expect("a search"), Some(with_id));
    assert_eq!((store.state().newest, store.state().records), (2, 2));
    store.sync().expect("a sync");
    assert_eq!(store.state().synced, 2);
    store.append(&[record(3, &["a"])], Durability::Async).expect("an append");
    append(&*store, &[record(4, &["a"])]);
    assert_eq!(store.state().synced, 4);
    assert_eq!(read_numbers(&*store, Query::All), [1, 2, 3, 4]);
}

/// The first rule that matches a topic says how many of its events are kept, and how many bytes.
pub fn retention_drops_the_oldest_of_each_topic(make: Make<'_>) {
    let bytes = event_bytes(&record(10, &["bytes"]).event) * 5;
    let by_bytes = Retention::default().with_bytes(bytes).with_age(Duration::MAX);
    let rules = vec![
        events_rule("kept/*", 4),
        events_rule("none", 0),
        RetentionRule::new("bytes".parse().expect("a pattern"), by_bytes),
        events_rule("*", 10),
    ];
    let store = make(ageless().with_rules(rules));
    for round in 0..20 {
        let at = 10 + round * 4;
        let group = [
            record(at, &["kept/1"]),
            record(at + 1, &["none"]),
            record(at + 2, &["bytes"]),
            record(at + 3, &["other"]),
        ];
        append(&*store, &group);
    }
    let trimmed = trim_all(&*store, 5000);
    let read = |name| {
        let topics = [topic(name)];
        let page = store.read(Query::Topics(&topics), 0, Bounds::default()).expect("a page");
        (numbers(&page), page.gone.newest)
    };
    assert_eq!(read("kept/1"), (vec![74, 78, 82, 86], 70));
    assert_eq!(read("none"), (vec![], 87));
    assert_eq!(read("bytes"), (vec![72, 76, 80, 84, 88], 68));
    assert_eq!(read("other"), ((0..10).map(|at| 53 + 4 * at).collect(), 49));
    assert_eq!(read("unknown"), (vec![], 0));
    let page = store.read(Query::All, 0, Bounds::default()).expect("a page");
    assert_eq!((page.records.len(), page.gone.newest), (19, 87));
    assert_eq!((store.state().records, store.state().oldest, store.state().newest), (19, 53, 89));
    assert_eq!(trimmed.records, 61);
    let left: usize = page.records.iter().map(|record| event_bytes(&record.event)).sum();
    assert_eq!(store.state().bytes, left as u64);
    assert_eq!(trim_all(&*store, 5000), Trimmed::default());
}

/// A record of the age goes, and one below it stays.
pub fn ages_count_from_the_clock(make: Make<'_>) {
    let age = Retention::default().with_age(Duration::from_secs(10));
    let store = make(LogLimits::default().with_retention(age));
    let at = |number, published_ms| Record { published_ms, ..record(number, &["a"]) };
    append(&*store, &[at(1, 1000), at(2, 2000), at(3, 3000)]);
    for (now_ms, left) in [(0, 3), (10_999, 3), (11_000, 2), (12_500, 1), (13_000, 0)] {
        trim_all(&*store, now_ms);
        assert_eq!(store.state().records, left, "at {now_ms}");
    }
    assert_eq!((store.state().oldest, store.state().newest), (0, 3));
    let page = store.read(Query::Topics(&[topic("a")]), 0, Bounds::default()).expect("a page");
    assert_eq!((page.gone.newest, page.up_to, page.is_end), (3, 3, true));
    append(&*store, &[at(4, 14_000)]);
    assert_eq!(read_numbers(&*store, Query::All), [4]);
}

/// Times that are in the future, or that do not rise, neither drop a record early nor keep others for ever.
pub fn a_clock_that_was_set_back_does_no_harm(make: Make<'_>) {
    let age = Retention::default().with_age(Duration::from_secs(10));
    let store = make(LogLimits::default().with_retention(age));
    let at = |number, published_ms| Record { published_ms, ..record(number, &["a"]) };
    append(&*store, &[at(1, 1_000_000), at(2, u64::MAX)]);
    append(&*store, &[at(3, 5000), at(4, 6000)]);
    trim_all(&*store, 7000);
    assert_eq!(read_numbers(&*store, Query::All), [1, 2, 3, 4]);
    trim_all(&*store, 15_500);
    assert_eq!(read_numbers(&*store, Query::All), [4]);
}

/// A record of two topics stays for the one that keeps it, and is not read through the other one.
pub fn a_record_is_gone_when_it_is_gone_from_all_of_its_topics(make: Make<'_>) {
    let store = make(ageless().with_rules(vec![events_rule("short", 1), events_rule("*", 3)]));
    append(&*store, &[record(1, &["short", "long"]), record(2, &["long"]), record(3, &["short"])]);
    trim_all(&*store, 5000);
    assert_eq!(read_numbers(&*store, Query::All), [1, 2, 3]);
    assert_eq!(read_numbers(&*store, Query::Topics(&[topic("short")])), [3]);
    assert_eq!(read_numbers(&*store, Query::Topics(&[topic("long")])), [1, 2]);
    append(&*store, &[record(4, &["long"]), record(5, &["long"])]);
    trim_all(&*store, 5000);
    assert_eq!(read_numbers(&*store, Query::All), [2, 3, 4, 5]);
    let both = [topic("short"), topic("long")];
    let page = store.read(Query::Topics(&both), 0, Bounds::default()).expect("a page");
    assert_eq!((numbers(&page), page.gone.newest), (vec![2, 3, 4, 5], 1));
}

/// Where only private records are gone, readers of public ones are not told of a gap.
pub fn gaps_of_private_records_are_told_apart(make: Make<'_>) {
    let store = make(ageless().with_rules(vec![events_rule("*", 1)]));
    let private =
        |number| Record { event: record(number, &["a"]).event.with_private(true), ..record(number, &["a"]) };
    append(&*store, &[record(1, &["a"]), private(2), private(3), record(4, &["a"])]);
    trim_all(&*store, 5000);
    let expected = Gone { newest: 3, newest_public: 1 };
    for query in [Query::All, Query::Topics(&[topic("a")])] {
        let page = store.read(query, 3, Bounds::default()).expect("a page");
        assert_eq!((numbers(&page), page.gone), (vec![4], expected));
    }
}

/// Beyond the bound of all bytes a large topic loses its oldest records, and small topics keep theirs.
pub fn the_total_bound_takes_from_large_topics(make: Make<'_>) {
    let large = event(&["large"]).with_data("x".repeat(1000));
    let small = event(&["small"]).with_data("x".repeat(100));
    let total = event_bytes(&large) * 50;
    let store = make(ageless().with_total_bytes(total));
    let mut number = 0;
    for round in 0..200 {
        let mut group = Vec::new();
        if round < 5 {
            number += 1;
            group.push(Record { number, published_ms: number, event: small.clone() });
        }
        number += 1;
        group.push(Record { number, published_ms: number, event: large.clone() });
        append(&*store, &group);
        trim_all(&*store, 5000);
        assert!(store.state().bytes <= total as u64);
    }
    assert_eq!(read_numbers(&*store, Query::Topics(&[topic("small")])), [1, 3, 5, 7, 9]);
    let of_large = read_numbers(&*store, Query::Topics(&[topic("large")]));
    assert!(of_large.len() >= 40, "{} large records are left of the room for 49", of_large.len());
    assert!(of_large.ends_with(&[203, 204, 205]));
}

/// One call of trim drops no more than its budget, and says that more remains.
pub fn trims_are_slices(make: Make<'_>) {
    let store = make(ageless().with_rules(vec![events_rule("*", 10)]));
    let records: Vec<Record> = (1..=1000).map(|number| record(number, &["a"])).collect();
    for group in records.chunks(10) {
        append(&*store, group);
    }
    let mut slices = 0;
    loop {
        let before = store.state().records;
        let slice = store.trim(5000, 100).expect("a trim");
        assert!(slice.records <= 100, "a slice of 100 steps has dropped {}", slice.records);
        assert_eq!(before - store.state().records, slice.records);
        slices += 1;
        if !slice.more {
            break;
        }
    }
    assert!((10..100).contains(&slices), "{slices} slices of 100 steps drop 990 records");
    assert_eq!(read_numbers(&*store, Query::All), (991..=1000).collect::<Vec<_>>());
}

/// Reads that run beside appends see all records up to some number.
pub fn readers_see_a_growing_beginning(make: Make<'_>) {
    const RECORDS: u64 = 400;
    let store = make(ageless());
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = [Query::All, Query::Topics(&[topic("a")])]
            .map(|query| match query {
                Query::All => None,
                Query::Topics(topics) => Some(topics.to_vec()),
            })
            .into_iter()
            .map(|topics| {
                let (store, is_done) = (&*store, &is_done);
                scope.spawn(move || {
                    let mut seen = 0;
                    loop {
                        let was_done = is_done.load(Ordering::Acquire);
                        let query = topics.as_deref().map_or(Query::All, Query::Topics);
                        let at_least = store.state().newest;
                        let page = store.read(query, seen, Bounds::default()).expect("a page");
                        let expected: Vec<u64> = (seen + 1..=page.up_to).collect();
                        assert_eq!(numbers(&page), expected);
                        assert!(!page.is_end || page.up_to >= at_least);
                        seen = page.up_to;
                        if was_done {
                            break seen;
                        }
                    }
                })
            })
            .collect();
        for first in (1..RECORDS).step_by(4) {
            let group: Vec<Record> = (first..first + 4).map(|number| record(number, &["a"])).collect();
            let durability = if first % 8 == 1 { Durability::Async } else { Durability::Commit };
            store.append(&group, durability).expect("an append");
            if first % 64 == 1 {
                store.trim(0, 100).expect("a trim");
            }
        }
        is_done.store(true, Ordering::Release);
        for reader in readers {
            assert_eq!(reader.join().expect("a reader"), RECORDS);
        }
    });
}

/// Reads that run beside trims leave nothing out without saying so, and a search gives the right record or
/// none.
pub fn readers_beside_trims_are_told_what_is_gone(make: Make<'_>) {
    const RECORDS: u64 = 3000;
    let retention = Retention::default().with_age(Duration::MAX).with_events(20);
    let store = make(LogLimits::default().with_retention(retention));
    let with_id = |number: u64| {
        let record = record(number, &[["a", "b"][(number % 2) as usize]]);
        Record { event: record.event.clone().with_id(own_id(&number.to_string())), ..record }
    };
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = [None, Some(0), Some(1)]
            .into_iter()
            .map(|wanted: Option<u64>| {
                let (store, is_done) = (&*store, &is_done);
                scope.spawn(move || {
                    let topics: Vec<Topic> =
                        wanted.iter().map(|rest| topic(["a", "b"][*rest as usize])).collect();
                    let query = if topics.is_empty() { Query::All } else { Query::Topics(&topics) };
                    let is_wanted = |number: &u64| wanted.is_none_or(|rest| number % 2 == rest);
                    let bounds = Bounds { records: 7, ..Bounds::default() };
                    let (mut seen, mut pages) = (0, 0);
                    while !is_done.load(Ordering::Acquire) || seen < RECORDS {
                        let page = store.read(query, seen, bounds).expect("a page");
                        let read = numbers(&page);
                        let missing = (seen + 1..=page.up_to)
                            .filter(is_wanted)
                            .find(|number| *number > page.gone.newest && !read.contains(number));
                        assert_eq!(missing, None, "after {seen} in {page:?}");
                        assert!(page.records.iter().all(|found| *found == with_id(found.number)));
                        if let Some(last) = page.records.last() {
                            let (id, topics) = (last.event.id().expect("it has one"), last.event.topics());
                            let found = store.find(id, topics).expect("a search");
                            assert!(found.is_none_or(|found| found == *last));
                        }
                        // It falls behind now and then, so that it meets what is gone.
                        pages += 1;
                        seen = if pages % 50 == 0 { page.up_to.saturating_sub(40) } else { page.up_to };
                    }
                })
            })
            .collect();
        for first in (1..RECORDS).step_by(10) {
            append(&*store, &(first..first + 10).map(with_id).collect::<Vec<_>>());
            store.trim(0, 15).expect("a trim");
        }
        is_done.store(true, Ordering::Release);
        for reader in readers {
            reader.join().expect("a reader");
        }
    });
}

/// Nothing that is done to a store changes its epoch.
pub fn the_epoch_stays(make: Make<'_>) {
    let store = make(ageless().with_rules(vec![events_rule("a", 1)]));
    let epoch = store.state().epoch;
    append(&*store, &[record(1, &["a"]), record(2, &["a"])]);
    store.append(&[record(3, &["b"])], Durability::Async).expect("an append");
    store.trim(0, 100).expect("a trim");
    store.sync().expect("a sync");
    assert!(store.append(&[record(3, &["b"])], Durability::Commit).is_err());
    assert_eq!(store.state().epoch, epoch);
}

/// A store that is closed and opened again is the same store. `open` opens it, and makes it at the first
/// call. The store of the call before is closed then.
///
/// # Panics
/// The store does not do what the contract says.
pub fn it_is_the_same_after_it_is_opened_again(open: &dyn Fn(LogLimits) -> Box<dyn Store>) {
    let limits = || ageless().with_rules(vec![events_rule("few", 2)]);
    let store = open(limits());
    assert_eq!((store.state().newest, store.state().records), (0, 0));
    let with_id = Record { event: record(2, &["a"]).event.with_id(own_id("7")), ..record(2, &["a"]) };
    append(&*store, &[record(1, &["few"]), with_id.clone(), record(3, &["few"])]);
    append(&*store, &[record(5, &["few"]), record(9, &["few"])]);
    trim_all(&*store, 0);
    store.append(&[record(11, &["a"])], Durability::Async).expect("an append");
    let few = [topic("few")];
    let before = (
        State { synced: 11, ..store.state() },
        read_all(&*store, Query::All, 0, Bounds::default()),
        store.read(Query::Topics(&few), 0, Bounds::default()).expect("a page"),
    );
    drop(store);
    for _ in 0..2 {
        let store = open(limits());
        let now = (
            store.state(),
            read_all(&*store, Query::All, 0, Bounds::default()),
            store.read(Query::Topics(&few), 0, Bounds::default()).expect("a page"),
        );
        assert_eq!(now, before);
        assert_eq!(store.find(&own_id("7"), &[topic("a")]).expect("a search"), Some(with_id.clone()));
        for number in [3, 11] {
            let refused = store.append(&[record(number, &["a"])], Durability::Commit);
            assert!(matches!(refused, Err(Error::Order { .. })), "the number {number} is given again");
        }
    }
    // What is gone stays gone, and the newest number too, where no record has it any more.
    let nothing = Retention::default().with_age(Duration::MAX).with_events(0);
    let store = open(ageless().with_retention(nothing));
    trim_all(&*store, 0);
    drop(store);
    let store = open(limits());
    assert_eq!((store.state().newest, store.state().records, store.state().oldest), (11, 0, 0));
    assert_eq!(store.read(Query::All, 0, Bounds::default()).expect("a page").gone.newest, 11);
    append(&*store, &[record(12, &["a"])]);
    assert_eq!(store.state().epoch, before.0.epoch);
}

/// An append that fails leaves nothing that anyone can read or find, and the store goes on where the failure
/// passes ([`Error::is_passing`]). `fail` says whether the storage of the store fails from now on.
///
/// # Panics
/// The store does not do what the contract says.
pub fn a_failed_append_leaves_nothing_visible(store: &dyn Store, fail: &dyn Fn(bool)) {
    append(store, &[record(1, &["a"])]);
    let lost = Record { event: record(2, &["a"]).event.with_id(own_id("7")), ..record(2, &["a"]) };
    for durability in [Durability::Commit, Durability::Async, Durability::Commit] {
        let before = store.state();
        fail(true);
        let failed = store.append(&[lost.clone(), record(3, &["b"])], durability);
        fail(false);
        let Err(error) = failed else { panic!("an append that fails says so") };
        assert_eq!(store.state(), before, "{error}");
        assert_eq!(read_numbers(store, Query::All), [1]);
        assert_eq!(read_numbers(store, Query::Topics(&[topic("b")])), []);
        assert_eq!(store.find(&own_id("7"), &[topic("a")]).expect("a search"), None);
        if !error.is_passing() {
            return;
        }
    }
    append(store, &[lost.clone(), record(3, &["b"])]);
    assert_eq!(read_numbers(store, Query::All), [1, 2, 3]);
    assert_eq!(store.find(&own_id("7"), &[topic("a")]).expect("a search"), Some(lost));
}

/// A random number of a fixed sequence, so that a failure comes again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

/// Random calls give what a plain list gives.
pub fn it_does_what_a_plain_list_does(make: Make<'_>) {
    for seed in 1..=20_u64 {
        let mut random = Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let events = 1 + random.below(40) as usize;
        let store = make(ageless().with_rules(vec![events_rule("few/*", 2), events_rule("*", events)]));
        let mut plain: Vec<Record> = Vec::new();
        let names = ["few/1", "few/2", "a", "b", "c"];
        let mut number = 0;
        for _ in 0..60 {
            let mut group = Vec::new();
            for _ in 0..random.below(12) {
                number += 1 + random.below(3);
                let of_topics: Vec<&str> = names.into_iter().filter(|_| random.below(3) == 0).collect();
                let topics = if of_topics.is_empty() { vec!["a"] } else { of_topics };
                let mut next = record(number, &topics);
                if random.below(2) == 0 {
                    next.event = next.event.with_id(own_id(&random.below(6).to_string()));
                }
                next.event = next.event.with_private(random.below(4) == 0);
                group.push(next);
            }
            let durability = if random.below(2) == 0 { Durability::Commit } else { Durability::Async };
            store.append(&group, durability).expect("an append");
            plain.extend(group);
            if random.below(4) == 0 {
                trim_all(&*store, 5000);
                let expected = PlainList::of(&plain, events);
                expected.compare(&*store, &mut random, seed);
            }
        }
    }
}

/// What is kept of all records where each topic keeps so many events.
struct PlainList<'r> {
    all: &'r [Record],
    events: usize,
}

impl<'r> PlainList<'r> {
    fn of(all: &'r [Record], events: usize) -> PlainList<'r> {
        PlainList { all, events }
    }

    fn kept(&self, name: &Topic) -> impl Iterator<Item = &'r Record> {
        let events = if name.as_str().starts_with("few/") { 2 } else { self.events };
        let name = name.clone();
        let of_topic = self.all.iter().rev().filter(move |record| record.event.topics().contains(&name));
        of_topic.take(events)
    }

    fn gone(&self, name: &Topic) -> Gone {
        let oldest = self.kept(name).last().map_or(0, |record| record.number);
        let mut gone = Gone::default();
        let of_topic = self.all.iter().filter(|record| record.event.topics().contains(name));
        for record in of_topic.filter(|record| record.number < oldest) {
            gone.note(record.number, record.event.is_private());
        }
        gone
    }

    fn compare(&self, store: &dyn Store, random: &mut Random, seed: u64) {
        let names = ["few/1", "few/2", "a", "b", "c"].map(topic);
        for _ in 0..4 {
            let topics: Vec<Topic> = names.iter().filter(|_| random.below(2) == 0).cloned().collect();
            let mut expected: Vec<&Record> = topics.iter().flat_map(|name| self.kept(name)).collect();
            expected.sort_by_key(|record| record.number);
            expected.dedup();
            let after = random.below(self.all.last().map_or(1, |record| record.number + 2));
            expected.retain(|record| record.number > after);
            let bounds = Bounds { records: 1 + random.below(20) as usize, ..Bounds::default() };
            let read = read_all(store, Query::Topics(&topics), after, bounds);
            assert!(read.iter().eq(expected.iter().copied()), "seed {seed}, {topics:?} after {after}");
            let page = store.read(Query::Topics(&topics), after, bounds).expect("a page");
            let gone = topics.iter().fold(Gone::default(), |gone, name| gone.and(self.gone(name)));
            assert_eq!(page.gone, gone, "seed {seed}, {topics:?}");
        }
        let mut kept: Vec<&Record> = names.iter().flat_map(|name| self.kept(name)).collect();
        kept.sort_by_key(|record| record.number);
        kept.dedup();
        assert!(read_all(store, Query::All, 0, Bounds::default()).iter().eq(kept.iter().copied()));
        let bytes: usize = kept.iter().map(|record| event_bytes(&record.event)).sum();
        let oldest = kept.first().map_or(0, |record| record.number);
        let state = store.state();
        assert_eq!((state.records, state.bytes, state.oldest), (kept.len() as u64, bytes as u64, oldest));
        for record in self.all {
            let Some(id) = record.event.id() else { continue };
            let topics = record.event.topics();
            let same = |other: &&&Record| other.has_identity(id, topics);
            let expected = kept.iter().rev().find(same).copied();
            let found = store.find(id, topics).expect("a search");
            assert_eq!(found.as_ref(), expected, "seed {seed}, {id} of {topics:?}");
        }
    }
}
