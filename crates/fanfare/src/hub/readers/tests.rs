//! Readers in the same process, step by step and on many threads.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use fanfare_proto::event::{Event, EventId, EventType, Topic};
use fanfare_proto::frame::Frame;
use fanfare_proto::limits::{LOCAL_READ_BYTES, LOCAL_READ_FRAMES, Limits, LogLimits, Retention};
use fanfare_proto::pattern::Pattern;

use super::{ReadError, ReadItem, Reader, ReaderError};
use crate::Engine;
use crate::hub::tests::hub;
use crate::hub::{Hub, Numbers};
use crate::shard_thread;

/// So that a test whose events do not come fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(60);

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn event(name: &str, data: impl ToString) -> Event {
    Event::new(topic(name)).with_data(data.to_string())
}

/// A hub whose shards read nothing.
fn hub_alone() -> Hub {
    hub(2, Limits::default(), &[]).0
}

fn limits_that_retain(events: usize) -> Limits {
    let retention = Retention::default().with_events(events);
    Limits::default().with_log(LogLimits::default().with_retention(retention))
}

/// What an item says, as one text: `data`, or `gap after..until` in numbers.
fn text(item: ReadItem) -> String {
    match item {
        ReadItem::Event(event) => event.data().unwrap_or_default().into_owned(),
        ReadItem::Gap(gap) => {
            let after = gap.after().rsplit('-').next().unwrap_or_default();
            format!("gap {after}..{}", gap.until().seq)
        }
    }
}

/// Everything that is there now.
fn read_all(reader: &mut Reader) -> Vec<String> {
    let mut read = Vec::new();
    while let Ok(Some(item)) = reader.try_next() {
        read.push(text(item));
    }
    read
}

/// A task's waker that counts, and wakes the thread that made it.
struct Wakes {
    count: AtomicUsize,
    thread: thread::Thread,
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.thread.unpark();
    }
}

fn wakes() -> Arc<Wakes> {
    Arc::new(Wakes { count: AtomicUsize::new(0), thread: thread::current() })
}

fn poll(reader: &mut Reader, wakes: &Arc<Wakes>) -> Poll<Option<String>> {
    let waker = Waker::from(Arc::clone(wakes));
    pin!(reader.next()).poll(&mut Context::from_waker(&waker)).map(|item| item.map(text))
}

/// Waits for as many wakes of the waker; then there are as many.
fn expect_wakes(wakes: &Wakes, count: usize) {
    while wakes.count.load(Ordering::SeqCst) < count {
        thread::park();
    }
    assert_eq!(wakes.count.load(Ordering::SeqCst), count);
}

/// The next item of a reader that is a task.
fn block_on_next(reader: &mut Reader) -> Option<ReadItem> {
    let waker = Waker::from(wakes());
    let mut next = pin!(reader.next());
    loop {
        if let Poll::Ready(item) = next.as_mut().poll(&mut Context::from_waker(&waker)) {
            return item;
        }
        thread::park();
    }
}

fn end(hub: &Hub) {
    hub.drain(Duration::ZERO);
    hub.end();
}

// ---- One reader ----

#[test]
fn a_reader_gets_what_is_published_from_now_on_with_all_its_fields() {
    let hub = hub_alone();
    hub.publish(event("a", "before")).unwrap();
    let mut reader = hub.subscribe([topic("a"), topic("b"), topic("a")]).stream().unwrap();
    assert_eq!(reader.topics(), [topic("a"), topic("b")]);
    assert_eq!(reader.try_next().unwrap_err(), ReadError::NothingYet);
    let full = event("b", "one\r\ntwo")
        .with_topic(topic("a"))
        .unwrap()
        .with_id(EventId::new("own").unwrap())
        .with_type(EventType::new("paid").unwrap());
    let published =
        hub.publish_batch(&mut vec![event("other", 1), full.clone(), event("a", "last")]).unwrap();
    let Some(ReadItem::Event(first)) = reader.try_next().unwrap() else { panic!("an event") };
    assert_eq!((first.wire_id(), first.id()), ("own".into(), Some("own")));
    assert_eq!((first.position().seq, first.topics()), (3, full.topics()));
    assert_eq!((first.event_type(), first.data().unwrap()), (Some("paid"), "one\ntwo".into()));
    assert_eq!((first.retry(), first.is_private()), (None, false));
    assert_eq!(reader.position().seq, 3);
    let Some(ReadItem::Event(last)) = reader.try_next().unwrap() else { panic!("an event") };
    assert_eq!((last.wire_id().into_owned(), last.event_type()), (published.last, None));
    assert_eq!((last.position(), reader.position()), (hub.head(), hub.head()));
    assert_eq!(reader.try_next().unwrap_err(), ReadError::NothingYet);
    end(&hub);
    assert!(reader.try_next().unwrap().is_none());
    assert!(reader.next_wait(PATIENCE).unwrap().is_none());
}

#[test]
fn a_reader_resumes_after_an_id_and_is_told_where_that_is_unknown() {
    let hub = hub_alone();
    let own = event("a", 2).with_id(EventId::new("own").unwrap());
    hub.publish_batch(&mut vec![event("a", 1), own, event("a", 3)]).unwrap();
    let resume = |id: &str| {
        let mut reader = hub.subscribe([topic("a")]).with_resume(id).stream().unwrap();
        read_all(&mut reader)
    };
    assert_eq!(resume("earliest"), ["1", "2", "3"]);
    assert_eq!(resume("own"), ["3"]);
    let first = hub.read(&topic("a"), "earliest", 1).unwrap().next().to_string();
    assert_eq!(resume(&first), ["2", "3"]);
    assert_eq!(resume(&hub.head().to_string()), Vec::<String>::new());
    for unknown in ["unknown", "000000abc-2", ""] {
        let mut reader = hub.subscribe([topic("a")]).with_resume(unknown).stream().unwrap();
        let Some(ReadItem::Gap(gap)) = reader.try_next().unwrap() else { panic!("a gap") };
        assert_eq!((gap.after(), gap.until().seq), (unknown, 0));
        assert_eq!(read_all(&mut reader), ["1", "2", "3"]);
    }
    // No part of this process has had a number that is not given yet.
    let ahead = hub.head().to_string().replace("-3", "-4");
    assert_eq!(resume(&ahead), ["gap 4..0", "1", "2", "3"]);
    end(&hub);
}

/// The log has dropped what the reader needs: it is told from where to where, and goes on exactly. A topic
/// that has lost nothing is read in full.
#[test]
fn a_reader_that_lags_is_told_of_a_gap_and_goes_on_exactly() {
    let (hub, _shards) = hub(1, limits_that_retain(10), &[]);
    let mut reader = hub.subscribe([topic("busy"), topic("quiet")]).stream().unwrap();
    for data in 1..=5 {
        hub.publish(event("busy", data)).unwrap();
    }
    assert_eq!(text(reader.try_next().unwrap().unwrap()), "1");
    // What the reader has taken from the log is not lost.
    hub.publish(event("quiet", 6)).unwrap();
    for data in 7..=106 {
        hub.publish(event("busy", data)).unwrap();
    }
    let mut expected: Vec<String> = (2..=5).map(|data| data.to_string()).collect();
    expected.extend(["gap 5..96".to_owned(), "6".to_owned()]);
    expected.extend((97..=106).map(|data| data.to_string()));
    assert_eq!(read_all(&mut reader), expected);
    // And a second time.
    for data in 107..=200 {
        hub.publish(event("busy", data)).unwrap();
    }
    let mut expected = vec!["gap 106..190".to_owned()];
    expected.extend((191..=200).map(|data| data.to_string()));
    assert_eq!(read_all(&mut reader), expected);
    hub.publish(event("busy", 201)).unwrap();
    assert_eq!(read_all(&mut reader), ["201"]);
    assert_eq!(reader.position(), hub.head());
    end(&hub);
}

#[test]
fn private_events_are_for_readers_that_see_them() {
    let hub = hub_alone();
    let mut public = hub.subscribe([topic("a")]).stream().unwrap();
    let mut all = hub.subscribe([topic("a")]).with_private_events(true).stream().unwrap();
    let wakes = [wakes(), wakes()];
    assert!(poll(&mut public, &wakes[0]).is_pending() && poll(&mut all, &wakes[1]).is_pending());
    hub.publish(event("a", "private").with_private(true)).unwrap();
    assert_eq!((public.calls(), all.calls()), (0, 1), "a reader is not called for what it does not see");
    hub.publish(event("a", "public")).unwrap();
    assert_eq!((public.calls(), all.calls()), (1, 1));
    assert_eq!(read_all(&mut public), ["public"]);
    assert_eq!(read_all(&mut all), ["private", "public"]);
    let data = |page: super::LogPage| -> Vec<String> {
        page.into_events().into_iter().map(ReadItem::Event).map(text).collect()
    };
    assert_eq!(data(hub.read(&topic("a"), "earliest", 9).unwrap()), ["public"]);
    let page = hub.subscribe([topic("a")]).with_private_events(true).with_resume("earliest").page(9).unwrap();
    assert_eq!(data(page), ["private", "public"]);
    end(&hub);
}

/// A reader that sees private events of some topics only is neither called nor given those of the others.
#[test]
fn private_events_are_read_of_the_topics_that_are_named() {
    let hub = hub_alone();
    let topics = || ["a", "b", "c"].map(topic);
    let mut reader = hub.subscribe(topics()).with_private_topics([topic("b"), topic("z")]).stream().unwrap();
    assert_eq!(reader.topics(), ["b", "a", "c"].map(topic));
    let wakes = wakes();
    assert!(poll(&mut reader, &wakes).is_pending());
    for name in ["a", "c"] {
        hub.publish(event(name, "hidden").with_private(true)).unwrap();
    }
    assert_eq!(reader.calls(), 0, "a reader is not called for what it does not see");
    hub.publish(event("b", 1).with_private(true)).unwrap();
    assert_eq!(reader.calls(), 1);
    hub.publish(event("c", 2).with_topic(topic("b")).unwrap().with_private(true)).unwrap();
    hub.publish(event("a", 3)).unwrap();
    assert_eq!(read_all(&mut reader), ["1", "2", "3"]);
    let page = hub.subscribe(topics()).with_private_topics([topic("b")]).with_resume("earliest").page(9);
    assert_eq!(page.unwrap().events().len(), 3);
    end(&hub);
}

/// A reader of patterns is called by events of the topics that they match, and gets each event once.
#[test]
fn patterns_are_read_and_call_a_reader_that_sleeps() {
    let hub = hub_alone();
    let patterns = || ["orders/*", "{any}"].map(|text| Pattern::parse(text).unwrap());
    let of = || {
        hub.subscribe([topic("a")])
            .with_patterns(patterns())
            .with_private_patterns(patterns().into_iter().take(1))
    };
    let mut reader = of().stream().unwrap();
    assert_eq!((reader.topics().len(), reader.patterns().len()), (1, 2));
    let wakes = wakes();
    assert!(poll(&mut reader, &wakes).is_pending());
    for name in ["x/1", "users/1"] {
        hub.publish(event(name, "other")).unwrap();
    }
    hub.publish(event("b", "hidden").with_private(true)).unwrap();
    assert_eq!(reader.calls(), 0, "a reader is not called for what it does not see");
    hub.publish(event("orders/1", 1).with_private(true)).unwrap();
    assert_eq!(reader.calls(), 1);
    hub.publish(event("orders/2", 2).with_topic(topic("a")).unwrap()).unwrap();
    hub.publish(event("b", 3)).unwrap();
    assert_eq!(read_all(&mut reader), ["1", "2", "3"]);
    assert_eq!(of().with_resume("earliest").page(9).unwrap().events().len(), 3);
    let (readers, _) = hub.inner.common.waiting.readers().len();
    drop(reader);
    assert_eq!((readers, hub.inner.common.waiting.readers().len()), (1, (0, 0)));
    end(&hub);
}

/// A reader of a pattern goes through a log in which there is nothing for it, and finds the last event.
#[test]
fn a_reader_of_a_pattern_finds_one_event_among_very_many() {
    let hub = hub_alone();
    for _ in 0..20 {
        hub.publish_batch(&mut (0..500).map(|number| event("noise", number)).collect()).unwrap();
    }
    hub.publish(event("orders/1", "found")).unwrap();
    let pattern = || [Pattern::parse("orders/{id}").unwrap()];
    let mut reader = hub.subscribe([]).with_patterns(pattern()).with_resume("earliest").stream().unwrap();
    assert_eq!(read_all(&mut reader), ["found"]);
    let page = hub.subscribe([]).with_patterns(pattern()).with_resume("earliest").page(1).unwrap();
    assert_eq!((page.events().len(), page.is_last()), (1, true));
    end(&hub);
}

/// However much is published, a reader that sleeps is called once.
#[test]
fn ten_thousand_events_call_a_sleeping_reader_once() {
    let hub = hub_alone();
    let mut task = hub.subscribe([topic("a"), topic("b")]).stream().unwrap();
    let wakes = wakes();
    assert!(poll(&mut task, &wakes).is_pending());
    // Another topic calls nothing.
    hub.publish(event("other", 0)).unwrap();
    assert_eq!(task.calls(), 0);
    for batch in 0..20 {
        let name = if batch % 2 == 0 { "a" } else { "b" };
        hub.publish_batch(&mut (0..500).map(|number| event(name, number)).collect()).unwrap();
    }
    expect_wakes(&wakes, 1);
    assert_eq!(task.calls(), 1);
    // A reader holds one portion, whatever there is.
    assert_eq!(poll(&mut task, &wakes), Poll::Ready(Some("0".to_owned())));
    assert_eq!(task.portion.len(), LOCAL_READ_FRAMES - 1);
    assert_eq!(read_all(&mut task).len(), 9_999);
    assert!(poll(&mut task, &wakes).is_pending());
    hub.publish(event("b", "again")).unwrap();
    expect_wakes(&wakes, 2);
    assert_eq!((task.calls(), read_all(&mut task)), (2, vec!["again".to_owned()]));
    end(&hub);
}

#[test]
fn a_portion_is_bounded_in_bytes_and_takes_one_event_of_any_size() {
    let hub = hub_alone();
    let mut reader = hub.subscribe([topic("a")]).stream().unwrap();
    let large = "x".repeat(LOCAL_READ_BYTES / 3);
    for data in [&large[..], &large, &large, &large.repeat(3), "small"] {
        hub.publish(event("a", data)).unwrap();
    }
    let mut left = Vec::new();
    for _ in 0..5 {
        reader.try_next().unwrap();
        left.push(reader.portion.len());
    }
    assert_eq!(left, [1, 0, 0, 0, 0], "two events, one, the large one, the small one");
    end(&hub);
}

#[test]
fn a_reader_that_waits_is_given_up_in_time_and_loses_nothing() {
    let hub = hub_alone();
    let mut reader = hub.subscribe([topic("a")]).stream().unwrap();
    assert_eq!(reader.next_wait(Duration::from_millis(1)).unwrap_err(), ReadError::NothingYet);
    assert_eq!(reader.next_wait(Duration::ZERO).unwrap_err(), ReadError::NothingYet);
    hub.publish(event("a", 1)).unwrap();
    assert_eq!(reader.calls(), 0, "it does not wait any more");
    assert_eq!(text(reader.next_wait(Duration::ZERO).unwrap().unwrap()), "1");
    assert_eq!(hub.inner.common.waiting.readers().len(), (1, 1));
    end(&hub);
}

#[test]
fn what_cannot_be_read_is_an_error() {
    let limits = Limits::default().with_topics_per_subscription(2).with_local_readers(2);
    let (hub, _shards) = hub(1, limits, &[]);
    let error = |topics: &[&str]| {
        hub.subscribe(topics.iter().map(|name| topic(name))).stream().err().map(|error| error.to_string())
    };
    assert!(error(&[]).unwrap().contains("at least one"));
    assert!(error(&["a", "b", "c", "d"]).unwrap().contains("at most 2 topics"));
    assert!(matches!(
        hub.subscribe([topic("a"), topic("b"), topic("c")]).page(1),
        Err(ReaderError::TooManyTopics { limit: 2 })
    ));
    let first = hub.subscribe([topic("a"), topic("a"), topic("b"), topic("a")]).stream().unwrap();
    let _second = hub.subscribe([topic("a")]).stream().unwrap();
    assert!(error(&["a"]).unwrap().contains("2 readers already"));
    assert_eq!(hub.inner.common.waiting.readers().len(), (2, 2));
    drop(first);
    assert_eq!(error(&["c"]), None);
    end(&hub);
}

// ---- The log ----

/// A page is a bounded part of what is retained; the pages together are all of it, once.
#[test]
fn pages_of_the_log_follow_each_other() {
    let hub = hub_alone();
    let count = 3 * LOCAL_READ_FRAMES + 7;
    for number in 0..count {
        hub.publish(event(if number % 3 == 0 { "b" } else { "a" }, number)).unwrap();
    }
    for limit in [1, 50, LOCAL_READ_FRAMES, LOCAL_READ_FRAMES + 1, count, usize::MAX] {
        let (mut after, mut seen) = ("earliest".to_owned(), Vec::new());
        loop {
            let builder = hub.subscribe([topic("a"), topic("b")]).with_resume(&after);
            let page = builder.page(limit).unwrap();
            assert!(page.gap().is_none() && page.events().len() <= limit);
            assert!(page.is_last() || page.events().len() == limit);
            (after, seen) = (page.next().to_string(), [seen, page.events().to_vec()].concat());
            if page.is_last() {
                break;
            }
        }
        let seen: Vec<usize> = seen.iter().map(|event| event.data().unwrap().parse().unwrap()).collect();
        assert_eq!(seen, (0..count).collect::<Vec<_>>(), "limit {limit}");
        assert_eq!(after, hub.head().to_string());
    }
    assert_eq!(hub.read(&topic("b"), "earliest", 0).unwrap().events().len(), 1);
    let nothing = hub.read(&topic("none"), "earliest", 9).unwrap();
    assert_eq!((nothing.events().len(), nothing.is_last(), nothing.next()), (0, true, hub.head()));
    let now = hub.subscribe([topic("a")]).page(9).unwrap();
    assert_eq!((now.events().len(), now.is_last(), now.next()), (0, true, hub.head()));
    assert_eq!(hub.inner.common.waiting.readers().len(), (0, 0), "a page registers nothing");
}

#[test]
fn a_page_tells_of_a_gap() {
    let (hub, _shards) = hub(1, limits_that_retain(3), &[]);
    let first = hub.publish(event("a", 1)).unwrap().first;
    for data in 2..=9 {
        hub.publish(event("a", data)).unwrap();
    }
    let page = hub.read(&topic("a"), &first, 2).unwrap();
    let gap = page.gap().unwrap();
    assert_eq!((gap.after(), gap.until().seq), (&first[..], 6));
    assert_eq!(page.events()[0].data().unwrap(), "7");
    let rest = hub.read(&topic("a"), &page.next().to_string(), 2).unwrap();
    assert_eq!((rest.gap(), rest.events()[0].data().unwrap(), rest.is_last()), (None, "9".into(), true));
}

/// A topic that only readers in the process read keeps its entry, as for the readers of a shard: what it has
/// lost stays known, and no floor stands for it.
#[test]
fn a_topic_that_is_read_in_the_process_alone_is_not_forgotten() {
    let limits = Limits::default().with_log(LogLimits::default().with_total_bytes(64 << 10));
    let (hub, _shards) = hub(64, limits, &[]);
    let shards_of = |name: &str| {
        let log = hub.inner.common.log.lock();
        let (shards, is_read_here) = log.readers_of(&[topic(name)], &mut 0);
        (shards.len(), is_read_here)
    };
    assert_eq!(shards_of("quiet"), (0, false));
    let readers = ["quiet", "quiet", "other"].map(|name| hub.subscribe([topic(name)]).stream().unwrap());
    let [mut first, second, other] = readers;
    assert_eq!(shards_of("quiet"), (0, true));
    // A crowd of topics comes and is forgotten, until the floor is far beyond where the reader started.
    for number in 0..5_000 {
        hub.publish(event(&format!("crowd {number}"), "x".repeat(100))).unwrap();
    }
    let unread = hub.subscribe([topic("never seen")]).with_resume(first.position().to_string());
    assert!(unread.page(1).unwrap().gap().is_some(), "the floor has risen");
    hub.publish(event("quiet", "still there")).unwrap();
    assert_eq!(read_all(&mut first), ["still there"]);
    drop(second);
    assert_eq!(shards_of("quiet"), (0, true), "the first one reads it");
    drop((first, other));
    assert_eq!((shards_of("quiet"), shards_of("other")), ((0, false), (0, false)));
    end(&hub);
}

/// A batch has its number before the reader is there, and is released after: the reader gets it, and sleeps
/// until then.
#[test]
fn what_is_released_after_a_reader_has_come_reaches_it() {
    let hub = hub_alone();
    let batch = hub.sequence(&mut vec![event("a", 1), event("b", 2)], Numbers::Next).unwrap();
    let mut reader = hub.subscribe([topic("b")]).stream().unwrap();
    let wakes = wakes();
    assert!(poll(&mut reader, &wakes).is_pending());
    hub.release(batch);
    expect_wakes(&wakes, 1);
    assert_eq!(poll(&mut reader, &wakes), Poll::Ready(Some("2".to_owned())));
    // The other way round: the reader leaves between.
    let batch = hub.sequence(&mut vec![event("b", 3)], Numbers::Next).unwrap();
    drop(reader);
    hub.release(batch);
    end(&hub);
}

// ---- Threads ----

/// Every reader, as a thread or as a task, gets every event of its topics once, in one order, while several
/// publishers publish.
#[test]
fn readers_get_everything_in_one_order() {
    const PUBLISHERS: usize = 4;
    const EVENTS: usize = 2_000;
    let engine = Engine::builder().shards(2).start().unwrap();
    let hub = engine.hub();
    let orders = thread::scope(|scope| {
        let readers: Vec<_> = (0..6)
            .map(|number| {
                let topics = if number % 2 == 0 { vec!["a"] } else { vec!["a", "b"] };
                let mut reader = hub.subscribe(topics.into_iter().map(topic)).stream().unwrap();
                scope.spawn(move || {
                    let mut read = Vec::new();
                    loop {
                        let item = match number {
                            0..3 => reader.next_wait(PATIENCE).unwrap(),
                            _ => block_on_next(&mut reader),
                        };
                        let Some(item) = item else { return read };
                        let ReadItem::Event(event) = item else { panic!("{item:?}") };
                        assert_eq!(event.position().to_string(), event.wire_id());
                        read.push((event.position().seq, event.topics()[0].clone(), text_of(&event)));
                    }
                })
            })
            .collect();
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|publisher| {
                let hub = &hub;
                scope.spawn(move || {
                    let mut number = 0;
                    while number < EVENTS {
                        let batch = 1 + number % 7;
                        let mut events: Vec<Event> = (number..EVENTS.min(number + batch))
                            .map(|n| event(if n % 2 == 0 { "a" } else { "b" }, format!("{publisher} {n}")))
                            .collect();
                        number += events.len();
                        hub.publish_wait(&mut events, PATIENCE).unwrap();
                    }
                })
            })
            .collect();
        publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
        engine.stop(Duration::ZERO).unwrap();
        readers.into_iter().map(|reader| reader.join().unwrap()).collect::<Vec<_>>()
    });
    let all = &orders[1];
    assert_eq!(all.len(), PUBLISHERS * EVENTS);
    assert!(all.is_sorted_by(|(one, ..), (next, ..)| one < next));
    let mut last = BTreeMap::new();
    for (_, _, data) in all {
        let (publisher, number) = data.split_once(' ').unwrap();
        let number: usize = number.parse().unwrap();
        assert_eq!(last.insert(publisher, number).map_or(0, |last| last + 1), number, "{publisher}");
    }
    let of_a: Vec<_> = all.iter().filter(|(_, name, _)| *name == topic("a")).cloned().collect();
    for (number, order) in orders.iter().enumerate() {
        assert_eq!(order, if number % 2 == 0 { &of_a } else { all }, "reader {number}");
    }
}

fn text_of(event: &super::ReceivedEvent) -> String {
    event.data().unwrap().into_owned()
}

/// A reader that comes while events are published misses none that is published after it was made, and gets
/// none twice. Some leave at once.
#[test]
fn readers_that_come_and_go_miss_nothing_and_see_nothing_twice() {
    const EVENTS: u64 = 20_000;
    let hub = hub_alone();
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1..=EVENTS {
                hub.publish(event("a", number)).unwrap();
            }
        });
        for comer in 0..2 {
            let hub = &hub;
            scope.spawn(move || {
                while hub.head().seq < EVENTS {
                    let mut reader = hub.subscribe([topic("a")]).stream().unwrap();
                    let from = reader.position().seq;
                    for number in from + 1..=EVENTS.min(from + 100) {
                        let item = match comer {
                            0 => reader.next_wait(PATIENCE).unwrap(),
                            _ => block_on_next(&mut reader),
                        };
                        let Some(ReadItem::Event(event)) = item else { panic!("{item:?}") };
                        assert_eq!((event.position().seq, text_of(&event)), (number, number.to_string()));
                    }
                    drop(hub.subscribe([topic("a")]).stream().unwrap());
                }
            });
        }
    });
    assert_eq!(hub.inner.common.waiting.readers().len(), (0, 0));
    end(&hub);
}

#[test]
fn a_reader_that_is_dropped_while_it_sleeps_leaves_nothing_behind() {
    let hub = hub_alone();
    let readers = hub.inner.common.waiting.readers();
    let wakes = wakes();
    for is_called in [false, true] {
        let mut reader = hub.subscribe([topic("a"), topic("b")]).stream().unwrap();
        assert!(poll(&mut reader, &wakes).is_pending());
        assert_eq!(readers.len(), (1, 2));
        if is_called {
            hub.publish(event("b", 1)).unwrap();
        }
        drop(reader);
        assert_eq!(readers.len(), (0, 0));
        hub.publish(event("a", 2)).unwrap();
    }
    let (_, is_read_here) = hub.inner.common.log.lock().readers_of(&[topic("a"), topic("b")], &mut 0);
    assert!(!is_read_here);
    // A future that is dropped takes nothing, and the reader is called for the next one.
    let mut reader = hub.subscribe([topic("a")]).stream().unwrap();
    assert!(poll(&mut reader, &wakes).is_pending());
    hub.publish(event("a", 3)).unwrap();
    assert_eq!(poll(&mut reader, &wakes), Poll::Ready(Some("3".to_owned())));
    end(&hub);
    drop(reader);
}

/// The engine stops while readers wait, as threads and as tasks: each gets what was published before, then
/// the end.
#[test]
fn readers_that_wait_are_told_of_the_end() {
    let engine = Engine::builder().shards(1).start().unwrap();
    let hub = engine.hub();
    let mut late = hub.subscribe([topic("a")]).stream().unwrap();
    thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|number| {
                let mut reader = hub.subscribe([topic("a")]).stream().unwrap();
                scope.spawn(move || {
                    let mut read = Vec::new();
                    loop {
                        let item = match number {
                            0..2 => reader.next_wait(PATIENCE).unwrap(),
                            _ => block_on_next(&mut reader),
                        };
                        match item {
                            Some(item) => read.push(text(item)),
                            None => return read,
                        }
                    }
                })
            })
            .collect();
        hub.publish(event("a", "last")).unwrap();
        engine.stop(Duration::ZERO).unwrap();
        for reader in readers {
            assert_eq!(reader.join().unwrap(), ["last"]);
        }
    });
    // One that comes to the log later gets the same, and so does one that is made later.
    assert_eq!(text(block_on_next(&mut late).unwrap()), "last");
    assert!(block_on_next(&mut late).is_none());
    let mut made_late = hub.subscribe([topic("a")]).with_resume("earliest").stream().unwrap();
    assert_eq!(text(made_late.next_wait(PATIENCE).unwrap().unwrap()), "last");
    assert!(made_late.next_wait(PATIENCE).unwrap().is_none());
    assert_eq!(hub.read(&topic("a"), "earliest", 9).unwrap().events().len(), 1);
}

/// A topic that only readers in the process read has no subscribers, and is no topic of a page.
#[test]
fn readers_are_no_subscribers_of_a_topic() {
    let engine = Engine::builder().shards(1).start().unwrap();
    let hub = engine.hub();
    let _reader = hub.subscribe([topic("only read"), topic("published")]).stream().unwrap();
    hub.publish(event("published", 1)).unwrap();
    let page = hub.topics_page(None, 100, PATIENCE).unwrap();
    let names: Vec<&str> = page.topics.iter().map(|counts| counts.topic.as_str()).collect();
    assert_eq!((names, page.next), (vec!["published"], None));
    assert_eq!(page.topics[0].subscribers, 0);
    assert_eq!(hub.topic(&topic("only read"), PATIENCE), Ok(None));
}

/// A panic under the log's lock ends the engine, and readers that wait learn that.
#[test]
fn readers_are_told_where_the_log_is_broken() {
    let engine = Engine::builder().shards(1).start().unwrap();
    let hub = engine.hub();
    let mut thread_reader = hub.subscribe([topic("a")]).stream().unwrap();
    let mut task_reader = hub.subscribe([topic("a")]).stream().unwrap();
    thread::scope(|scope| {
        let thread = scope.spawn(|| thread_reader.next_wait(PATIENCE).unwrap().is_none());
        let task = scope.spawn(|| block_on_next(&mut task_reader).is_none());
        // A frame that the sequencer does not know of: the next append is a mistake.
        let unknown = Arc::new(Frame::encode(100, "100", event("b", 1), Duration::ZERO));
        hub.inner.common.log.lock().append(vec![unknown], Duration::ZERO, &mut Vec::new());
        catch_unwind(AssertUnwindSafe(|| hub.publish(event("a", 1)))).unwrap_err();
        assert!(thread.join().unwrap() && task.join().unwrap());
    });
    assert!(matches!(hub.subscribe([topic("a")]).stream(), Err(ReaderError::Stopped)));
    assert!(matches!(hub.read(&topic("a"), "earliest", 1), Err(ReaderError::Stopped)));
    drop((thread_reader, task_reader));
    assert!(engine.stop(Duration::ZERO).is_err());
}

/// A shard's thread does not wait for events, and starts no thread. It reads what is there.
#[test]
fn a_shards_thread_reads_and_does_not_wait() {
    let hub = hub_alone();
    let mut reader = hub.subscribe([topic("a")]).stream().unwrap();
    thread::scope(|scope| {
        let shard = scope.spawn(|| {
            shard_thread::begin();
            assert_eq!(reader.next_wait(PATIENCE).unwrap_err(), ReadError::WouldBlock);
            assert_eq!(reader.try_next().unwrap_err(), ReadError::NothingYet);
            assert!(matches!(hub.subscribe([topic("a")]).stream(), Err(ReaderError::WouldBlock)));
            let wakes = wakes();
            assert!(poll(&mut reader, &wakes).is_pending());
            hub.publish(event("a", 1)).unwrap();
            expect_wakes(&wakes, 1);
            assert_eq!(text(reader.next_wait(PATIENCE).unwrap().unwrap()), "1");
            assert_eq!(hub.read(&topic("a"), "earliest", 9).unwrap().events().len(), 1);
            drop(reader);
        });
        shard.join().unwrap();
    });
    end(&hub);
}
