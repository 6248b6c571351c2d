//! The mailbox on real threads, with the eventfd and epoll of a real shard. What can happen in principle is
//! in `models.rs`; here is what the machine makes of it, also under ThreadSanitizer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use fanfare_io::epoll::Epoll;
use fanfare_io::{Io, Waker};
use fanfare_proto::cursor::Epoch;
use fanfare_proto::event::{Event, Topic};
use fanfare_proto::frame::WireFormat;
use fanfare_proto::limits::Limits;

use super::{MAIL_KEPT, Mail, Mailbox};
use crate::hub::{Amount, Hub, PublishError, tests};
use crate::inspect::InspectError;
use crate::shared_log::log_of;

/// What every shard reads.
const READ: [&str; 4] = ["0", "1", "2", "t"];

fn hub(limits: Limits, shards: usize) -> (Hub, Vec<Waker>, Vec<Arc<Mailbox>>) {
    let (hub, shards) = tests::hub(shards, limits, &READ);
    let (wakers, mailboxes) = shards.into_iter().map(|shard| (shard.waker, shard.mailbox)).unzip();
    (hub, wakers, mailboxes)
}

/// Each event says which publisher it is from, and its number there.
fn event(publisher: usize, number: u64) -> Event {
    Event::new(Topic::new(publisher.to_string()).unwrap()).with_data(number.to_string())
}

/// Singly and in batches of up to this many.
fn batches(publisher: usize, count: u64, largest: u64) -> impl Iterator<Item = Vec<Event>> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let size = (1 + next % largest).min(count - next);
        next += size;
        (size > 0).then(|| (next - size..next).map(|number| event(publisher, number)).collect())
    })
}

/// Publishes as fast as the bound allows.
fn publish(hub: &Hub, publisher: usize, count: u64) {
    for mut batch in batches(publisher, count, 7) {
        while let Err(error) = hub.publish_batch(&mut batch) {
            assert_eq!(error, PublishError::Busy);
            thread::yield_now();
        }
        assert!(batch.is_empty());
    }
}

/// Publishes as fast as it is called, also batches that are larger than a mailbox.
fn publish_waiting(hub: &Hub, publisher: usize, count: u64) {
    for mut batch in batches(publisher, count, 100) {
        let size = batch.len();
        assert_eq!(hub.publish_wait(&mut batch, Duration::MAX).unwrap().count, size);
    }
}

/// The same as a task.
fn publish_as_a_task(hub: &Hub, publisher: usize, count: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for mut batch in batches(publisher, count, 100) {
            let size = batch.len();
            assert_eq!(hub.publish_async(&mut batch).await.unwrap().count, size);
        }
    });
}

/// A shard's thread that does nothing but read its mail, in the order of `Shard::run`. Answers the
/// publisher of each event, in order.
fn read(waker: &Waker, mailbox: &Mailbox, newest: &AtomicU64, limit: usize, count: u64) -> Vec<usize> {
    let mut io = Epoll::open(waker).unwrap();
    let (mut inbox, mut notifications) = (VecDeque::new(), Vec::new());
    let mut order = Vec::new();
    let mut next = [0; 3];
    while (order.len() as u64) < count {
        if mailbox.prepare_sleep() {
            io.wait(None, &mut notifications).unwrap();
            notifications.clear();
        }
        mailbox.awake();
        mailbox.take(&mut inbox);
        assert!(inbox.len() <= limit, "{} events wait", inbox.len());
        while let Some(mail) = inbox.pop_front() {
            let Mail::Event(frame) = mail else { panic!("only events were sent") };
            mailbox.release_capacity(&frame);
            assert_eq!(frame.seq(), order.len() as u64 + 1);
            assert!(newest.load(Ordering::Relaxed) >= frame.seq());
            let publisher: usize = frame.topics()[0].as_str().parse().unwrap();
            let line = format!("data: {}\n", next[publisher]);
            assert!(String::from_utf8_lossy(frame.wire(WireFormat::Plain)).contains(&line), "not {line:?}");
            next[publisher] += 1;
            order.push(publisher);
        }
    }
    order
}

/// 90,000 events by three publishers, of which two wait for room, to two shards that sleep whenever they can.
#[test]
fn nothing_is_lost_and_every_shard_has_the_same_order() {
    const EACH: u64 = 30_000;
    let limits = Limits::default().with_mailbox_events(64);
    let limit = limits.mailbox_events;
    let (hub, wakers, mailboxes) = hub(limits, 2);
    let newest = hub.newest();
    let orders = thread::scope(|scope| {
        let newest: &AtomicU64 = &newest;
        let shards: Vec<_> = wakers
            .iter()
            .zip(&mailboxes)
            .map(|(waker, mailbox)| scope.spawn(move || read(waker, mailbox, newest, limit, 3 * EACH)))
            .collect();
        for (publisher, publish) in [publish, publish_waiting, publish_as_a_task].into_iter().enumerate() {
            let hub = &hub;
            scope.spawn(move || publish(hub, publisher, EACH));
        }
        shards.into_iter().map(|shard| shard.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(orders[0], orders[1]);
    for mailbox in mailboxes {
        assert_eq!(mailbox.capacity().taken(), Amount::default());
    }
}

/// Only the data was counted against the bound, as it came: what stood around it, and the prefix of every
/// line, was not. With many lines a mailbox held seven times its bound.
#[test]
fn no_more_bytes_wait_than_may() {
    let limits = Limits::default().with_mailbox_bytes(100_000);
    let limit = limits.mailbox_bytes;
    let (hub, _, mailboxes) = hub(limits, 1);
    let lines = || Event::new(Topic::new("t").unwrap()).with_data("\n".repeat(1000));
    let accepted = (0..100).take_while(|_| hub.publish(lines()).is_ok()).count();
    let Amount { events, bytes } = mailboxes[0].capacity().taken();
    assert_eq!(events, accepted);
    assert!((limit * 9 / 10..=limit).contains(&bytes), "{bytes} bytes wait");
}

/// After a burst the two queues that are exchanged were as large as ever.
#[test]
fn a_burst_leaves_no_large_queues() {
    let limits = Limits::default().with_mailbox_events(10_000);
    let (hub, _, mailboxes) = hub(limits, 1);
    let mut inbox = VecDeque::new();
    let mut pass = |events: u64| {
        publish(&hub, 0, events);
        mailboxes[0].take(&mut inbox);
        assert_eq!(inbox.len() as u64, events);
        for mail in inbox.drain(..) {
            let Mail::Event(frame) = mail else { panic!("only events were sent") };
            mailboxes[0].release_capacity(&frame);
        }
        inbox.capacity()
    };
    assert!(pass(10_000).min(pass(10_000)) >= 10_000);
    let capacities = [pass(1), pass(1), pass(1), pass(1)];
    assert!(capacities[2..].iter().all(|capacity| *capacity <= 4 * MAIL_KEPT), "{capacities:?}");
}

/// A log that begins in the middle has given numbers already: they are not given again.
#[test]
fn numbers_go_on_where_the_log_began() {
    let limits = Limits::default();
    let mut log = log_of(Epoch::new(1), &limits, 0);
    log.begin_after(1_000);
    let (hub, shards) = tests::hub_with(log, 1, limits, &READ);
    assert_eq!(hub.head().seq, 1_000);
    publish(&hub, 0, 1);
    let mut inbox = VecDeque::new();
    shards[0].mailbox.take(&mut inbox);
    let Some(Mail::Event(frame)) = inbox.pop_front() else { panic!("an event was sent") };
    assert_eq!((frame.seq(), hub.head().seq), (1_001, 1_001));
}

/// The sum of two bounds that were both lifted overflowed, and then no mail was taken.
#[test]
fn bounds_that_are_lifted_refuse_nothing() {
    let limits = Limits::default().with_mailbox_events(usize::MAX).with_mailbox_others(usize::MAX);
    let (hub, _, mailboxes) = hub(limits, 1);
    assert_eq!(hub.ask(&[]).filter(Result::is_ok).count(), 1);
    assert_eq!(mailboxes[0].len(), 1);
}

/// Where most subscribers were slow, sockets and questions waited behind the events that a shard held up, and
/// so did the drain. Now the first two are taken, and the drain, which stays behind what was published before
/// it, ends the hold.
#[test]
fn only_events_wait_for_a_hold() {
    let (hub, _, mailboxes) = hub(Limits::default(), 1);
    publish(&hub, 0, 2);
    assert!(mailboxes[0].prepare_hold(), "only events wait");
    let _asked: Vec<_> = hub.ask(&[]).collect();
    assert!(!mailboxes[0].prepare_hold(), "a question waits");
    publish(&hub, 0, 1);
    hub.drain(Duration::from_secs(1));
    let mut inbox = VecDeque::new();
    mailboxes[0].take_others(&mut inbox);
    assert!(inbox.len() == 1 && matches!(inbox[0], Mail::Inspect(_)));
    assert!(mailboxes[0].is_closed(), "the shard holds nothing up any more");
    inbox.clear();
    mailboxes[0].take(&mut inbox);
    let numbers = inbox.iter().map(|mail| match mail {
        Mail::Event(frame) => Some(frame.seq()),
        Mail::Drain(_) => None,
        Mail::Adopt(_)
        | Mail::Decided(_)
        | Mail::Order(_)
        | Mail::Limits(_)
        | Mail::Inspect(_)
        | Mail::List(_)
        | Mail::History(_) => {
            panic!("it was taken before")
        }
    });
    assert_eq!(numbers.collect::<Vec<_>>(), [Some(1), Some(2), Some(3), None]);
    assert!(mailboxes[0].prepare_hold());
}

/// A shard that did not answer in time counted as one without topics: of 1,682 questions about a topic with
/// 15,000 subscribers 1,595 were answered that it does not exist. What such questions had cost was added to
/// the shard's work, although no thread waited for the answers any more.
#[test]
fn a_shard_that_does_not_answer_makes_no_answer_and_has_no_work_later() {
    let (hub, _, mailboxes) = hub(Limits::default(), 2);
    let topic = Topic::new("a").unwrap();
    let moment = Duration::from_millis(1);
    thread::scope(|scope| {
        // One shard answers, the other one is too busy.
        let asker = scope.spawn(|| hub.topic(&topic, Duration::from_secs(2)));
        let mut inbox = VecDeque::new();
        while inbox.is_empty() {
            mailboxes[0].take(&mut inbox);
        }
        let Some(Mail::Inspect(inspection)) = inbox.pop_front() else { panic!("a question was asked") };
        assert!(inspection.is_wanted());
        inspection.answer(vec![(1, 0)]);
        assert_eq!(asker.join().unwrap(), Err(InspectError::Busy));
        assert!(!inspection.is_wanted());
    });
    let mut inbox = VecDeque::new();
    mailboxes[1].take(&mut inbox);
    let Some(Mail::Inspect(inspection)) = inbox.pop_front() else { panic!("a question was asked") };
    assert!(!inspection.is_wanted());
    mailboxes[0].close();
    assert_eq!(hub.topic(&topic, moment), Err(InspectError::Stopped));
    assert_eq!(hub.topics_page(None, 1, moment), Err(InspectError::Stopped));
}
