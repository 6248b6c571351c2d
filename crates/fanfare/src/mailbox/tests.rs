//! The mailbox on real threads, with the eventfd and epoll of a real shard. What can happen in principle is in
//! `models.rs`; here is what the machine makes of it, also under ThreadSanitizer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_utils::CachePadded;
use fanfare_io::epoll::Epoll;
use fanfare_io::sockets::SocketOptions;
use fanfare_io::{Clock, Io, Waker, pass};
use fanfare_proto::cursor::Epoch;
use fanfare_proto::event::{Event, Topic};
use fanfare_proto::limits::Limits;

use super::{MAIL_KEPT, Mail, Mailbox};
use crate::counts::{SharedCounts, TopicCounts};
use crate::hub::{Hub, PublishError, ShardHandle};
use crate::inspect::{Answer, InspectError, Question};

fn hub(limits: Limits, wakers: &[Waker]) -> (Hub, Vec<Arc<Mailbox>>, Arc<AtomicU64>) {
    let newest = Arc::new(AtomicU64::new(0));
    let mailboxes: Vec<_> = wakers.iter().map(|waker| Arc::new(Mailbox::new(waker.clone()))).collect();
    let handles = mailboxes.iter().map(|mailbox| ShardHandle {
        mailbox: Arc::clone(mailbox),
        sockets: pass::channel().unwrap().0,
        counts: Arc::new(CachePadded::new(SharedCounts::default())),
    });
    let hub = Hub::new(
        Epoch::new(1),
        Clock::start(),
        limits,
        SocketOptions::default(),
        handles.collect(),
        Arc::clone(&newest),
    );
    (hub, mailboxes, newest)
}

/// Each publisher's events say whose they are and which one.
fn event(publisher: usize, number: u64) -> Event {
    Event::new(Topic::new(publisher.to_string()).unwrap()).data(number.to_string())
}

/// Publishes singly and in batches, as fast as the bound allows.
fn publish(hub: &Hub, publisher: usize, count: u64) {
    let mut next = 0;
    while next < count {
        let size = (1 + next % 7).min(count - next);
        let mut batch: Vec<Event> = (next..next + size).map(|number| event(publisher, number)).collect();
        next += size;
        while let Err(error) = hub.publish_batch(&mut batch) {
            assert_eq!(error, PublishError::Busy);
            thread::yield_now();
        }
    }
}

/// A shard's thread that does nothing but read its mail, in the order of `Shard::run`. Says whose each event is, in
/// order.
fn read(waker: &Waker, mailbox: &Mailbox, newest: &AtomicU64, limit: usize, count: u64) -> Vec<usize> {
    let mut io = Epoll::open(waker).unwrap();
    let (mut inbox, mut notifications) = (VecDeque::new(), Vec::new());
    let mut order = Vec::new();
    let mut next = [0; 2];
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
            mailbox.done_with(&frame);
            assert_eq!(frame.seq(), order.len() as u64 + 1);
            assert!(newest.load(Ordering::Relaxed) >= frame.seq());
            let publisher: usize = frame.topics()[0].as_str().parse().unwrap();
            let line = format!("data: {}\n", next[publisher]);
            assert!(String::from_utf8_lossy(frame.wire(Default::default())).contains(&line), "not {line:?}");
            next[publisher] += 1;
            order.push(publisher);
        }
    }
    order
}

/// 100,000 events by two publishers to two shards that sleep whenever they can.
#[test]
fn nothing_is_lost_and_every_shard_has_the_same_order() {
    const EACH: u64 = 50_000;
    let limits = Limits { mailbox_events: 64, ..Limits::default() };
    let limit = limits.mailbox_events;
    let wakers = [Waker::new().unwrap(), Waker::new().unwrap()];
    let (hub, mailboxes, newest) = hub(limits, &wakers);
    let orders = thread::scope(|scope| {
        let newest = &newest;
        let shards: Vec<_> = wakers
            .iter()
            .zip(&mailboxes)
            .map(|(waker, mailbox)| scope.spawn(move || read(waker, mailbox, newest, limit, 2 * EACH)))
            .collect();
        for publisher in 0..2 {
            let hub = hub.clone();
            scope.spawn(move || publish(&hub, publisher, EACH));
        }
        shards.into_iter().map(|shard| shard.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(orders[0], orders[1]);
    for mailbox in mailboxes {
        assert_eq!(mailbox.waiting(), (0, 0));
    }
}

/// Only the data was counted against the bound, as it came: what stood around it, and the prefix of every line, was
/// not. With many lines a mailbox held seven times its bound.
#[test]
fn no_more_bytes_wait_than_may() {
    let limits = Limits { mailbox_bytes: 100_000, ..Limits::default() };
    let limit = limits.mailbox_bytes;
    let (hub, mailboxes, _) = hub(limits, &[Waker::new().unwrap()]);
    let lines = || Event::new(Topic::new("t").unwrap()).data("\n".repeat(1000));
    let accepted = (0..100).take_while(|_| hub.publish(lines()).is_ok()).count();
    let (events, bytes) = mailboxes[0].waiting();
    assert_eq!(events, accepted);
    assert!((limit * 9 / 10..=limit).contains(&bytes), "{bytes} bytes wait");
}

/// After a burst the two queues that take turns were as large as ever.
#[test]
fn a_burst_leaves_no_large_queues() {
    let limits = Limits { mailbox_events: 10_000, ..Limits::default() };
    let (hub, mailboxes, _) = hub(limits, &[Waker::new().unwrap()]);
    let mut inbox = VecDeque::new();
    let mut pass = |events: u64| {
        publish(&hub, 0, events);
        mailboxes[0].take(&mut inbox);
        assert_eq!(inbox.len() as u64, events);
        for mail in inbox.drain(..) {
            let Mail::Event(frame) = mail else { panic!("only events were sent") };
            mailboxes[0].done_with(&frame);
        }
        inbox.capacity()
    };
    assert!(pass(10_000).min(pass(10_000)) >= 10_000);
    let capacities = [pass(1), pass(1), pass(1), pass(1)];
    assert!(capacities[2..].iter().all(|capacity| *capacity <= 4 * MAIL_KEPT), "{capacities:?}");
}

/// Two bounds that were both lifted overflowed to one that let nobody in.
#[test]
fn bounds_that_are_lifted_let_everybody_in() {
    let limits = Limits { mailbox_events: usize::MAX, mailbox_others: usize::MAX, ..Limits::default() };
    let (hub, mailboxes, _) = hub(limits, &[Waker::new().unwrap()]);
    let question = Question::Page { after: None, limit: 1 };
    assert_eq!(hub.ask(&question).filter(Result::is_ok).count(), 1);
    assert_eq!(mailboxes[0].len(), 1);
}

/// A shard that did not answer in time counted as one without topics: of 1,682 questions about a topic with
/// 15,000 readers 1,595 were answered that it does not exist. What such questions had cost was added to the
/// shard's work, although no asker waited for the answers any more.
#[test]
fn a_shard_that_does_not_answer_makes_no_answer_and_has_no_work_later() {
    let wakers = [Waker::new().unwrap(), Waker::new().unwrap()];
    let (hub, mailboxes, _) = hub(Limits::default(), &wakers);
    let topic = Topic::new("a").unwrap();
    let moment = Duration::from_millis(1);
    thread::scope(|scope| {
        // One shard answers, the other one is too busy.
        let asker = scope.spawn(|| hub.topic(&topic, Duration::from_millis(50)));
        let mut inbox = VecDeque::new();
        while inbox.is_empty() {
            mailboxes[0].take(&mut inbox);
        }
        let Some(Mail::Inspect(inspection)) = inbox.pop_front() else { panic!("a question was asked") };
        assert!(inspection.is_wanted());
        inspection.answer(Answer { topics: vec![(1, TopicCounts::default())], more: false });
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

/// Pages of several shards are joined: where one of them ends early, so does the whole.
#[test]
fn a_page_ends_where_the_first_shard_ends_it() {
    let wakers = [Waker::new().unwrap(), Waker::new().unwrap()];
    let (hub, mailboxes, _) = hub(Limits::default(), &wakers);
    let counts = |number: u64, subscribers: usize| {
        (number, TopicCounts { topic: number.to_string(), subscribers, ..TopicCounts::default() })
    };
    let ask = |after: Option<u64>, answers: [Answer; 2]| {
        thread::scope(|scope| {
            let asker = scope.spawn(|| hub.topics_page(after, 3, Duration::from_secs(60)));
            for (mailbox, answer) in mailboxes.iter().zip(answers) {
                let mut inbox = VecDeque::new();
                while inbox.is_empty() {
                    mailbox.take(&mut inbox);
                }
                let Some(Mail::Inspect(inspection)) = inbox.pop_front() else {
                    panic!("a question was asked")
                };
                inspection.answer(answer);
            }
            let page = asker.join().unwrap().unwrap();
            let topics: Vec<_> =
                page.topics.into_iter().map(|counts| (counts.topic, counts.subscribers)).collect();
            (topics, page.next)
        })
    };
    let pair = |number: u64, subscribers: usize| (number.to_string(), subscribers);
    let short = Answer { topics: vec![counts(1, 1), counts(3, 1)], more: true };
    let whole = Answer { topics: vec![counts(2, 5), counts(3, 5), counts(4, 5)], more: false };
    assert_eq!(ask(None, [short, whole]), (vec![pair(1, 1), pair(2, 5), pair(3, 6)], Some(3)));
    let short = Answer { topics: vec![counts(4, 1), counts(5, 1)], more: false };
    let whole = Answer { topics: vec![counts(4, 5)], more: false };
    assert_eq!(ask(Some(3), [short, whole]), (vec![pair(4, 6), pair(5, 1)], None));
    let long = Answer { topics: (1..=4).map(|number| counts(number, 1)).collect(), more: false };
    assert_eq!(ask(None, [long, Answer::default()]).1, Some(3));
}
