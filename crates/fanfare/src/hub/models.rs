//! Models of the publish path: reservations, interest, and publishers that wait. See
//! `crate::mailbox::models`.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use fanfare_proto::event::Topic;
use fanfare_proto::event_log::{EventLog, ReadBounds, Wanted};
use fanfare_proto::limits::Limits;
use fanfare_proto::selection::Selection;
use loom::sync::Notify;
use loom::thread;

use super::capacity::{Amount, Capacity};
use super::sequencer::Numbers;
use super::{Hub, PublishError, PublishFuture, Visibility};
use crate::mailbox::Mail;
use crate::mailbox::models::{Reader, event, explore, publish, world};
use crate::sync::AtomicUsize;

/// Every frame of these topics.
fn wanted(topics: &[Topic]) -> Wanted<'_> {
    Wanted { selection: Selection::of(topics, true), after: 0, incomplete_until: 0 }
}

/// A task's waker on a thread of the model.
struct Thread {
    woken: Notify,
}

impl Wake for Thread {
    fn wake(self: Arc<Self>) {
        self.woken.notify();
    }
}

impl Thread {
    fn new() -> (Arc<Thread>, Waker) {
        let thread = Arc::new(Thread { woken: Notify::new() });
        (Arc::clone(&thread), Waker::from(thread))
    }
}

fn poll(future: &mut PublishFuture<'_>, waker: &Waker) -> Poll<Result<usize, PublishError>> {
    let result = pin!(future).poll(&mut Context::from_waker(waker));
    result.map(|result| result.map(|published| published.count).map_err(|interrupted| interrupted.error))
}

/// Polls until the future is done, whenever it is woken.
fn block_on(future: &mut PublishFuture<'_>) -> Result<usize, PublishError> {
    let (thread, waker) = Thread::new();
    loop {
        if let Poll::Ready(result) = poll(future, &waker) {
            return result;
        }
        thread.woken.wait();
    }
}

fn topics(names: &[&str]) -> Vec<Topic> {
    names.iter().map(|name| Topic::new(*name).unwrap()).collect()
}

/// The numbers of events, which the shard has acted on.
fn numbers(reader: &Reader, mail: impl IntoIterator<Item = Mail>) -> Vec<u64> {
    let act_on = |mail| {
        let Mail::Event(frame) = mail else { panic!("not an event") };
        reader.mailbox.release_capacity(&frame);
        frame.seq()
    };
    mail.into_iter().map(act_on).collect()
}

fn taken(reader: &Reader) -> Amount {
    reader.mailbox.capacity().taken()
}

// ---- Reservations ----

/// Either a publisher that asks for a call sees that there is room, or a thread that gives room back is told
/// to call. The call is due at a number of events, at a number of bytes, or when nothing is taken any more.
#[test]
fn a_call_is_not_lost() {
    for (kept, at) in [(1, (1, 99)), (1, (9, 0)), (0, (0, 0))] {
        explore(5, move || {
            let (events, bytes) = at;
            let at = Amount { events, bytes };
            let capacity = Arc::new(Capacity::default());
            capacity.take(Amount { events: 2 + kept, bytes: 20 });
            let givers = [0, 1].map(|_| {
                let capacity = Arc::clone(&capacity);
                thread::spawn(move || capacity.give_back(Amount { events: 1, bytes: 10 }))
            });
            let seen = capacity.ask_to_be_called(at);
            let has_room = seen.events == 0 || (seen.events <= at.events && seen.bytes <= at.bytes);
            let calls = givers.map(|giver| giver.join().unwrap());
            assert!(has_room || calls.contains(&true), "{seen:?} is taken, and no thread calls");
            assert_eq!(capacity.taken(), Amount { events: kept, bytes: 0 });
        });
    }
}

/// What is reserved, waits, or is in a shard's hands is never more than the bound; a batch that is dropped
/// gives its room back, and its numbers are not used again.
#[test]
fn room_is_reserved_and_given_back() {
    explore(3, || {
        let limits = Limits::default().with_mailbox_events(2);
        let (hub, mut readers, _) = world(1, limits, &["dropped", "kept", "last"]);
        let mut reader = readers.remove(0);
        // Sequenced and not yet dropped, or released: counted here before it is given back, so never too few.
        let held = Arc::new(AtomicUsize::new(0));
        let droppers = [0, 1].map(|_| {
            let (hub, held) = (hub.clone(), Arc::clone(&held));
            thread::spawn(move || {
                let mut events = vec![event("dropped"), event("dropped")];
                let Ok(batch) = hub.sequence(&mut events, Numbers::Next) else {
                    assert_eq!(events.len(), 2, "a refused batch is left as it was");
                    return 0;
                };
                assert_eq!(held.fetch_add(1, Ordering::AcqRel), 0, "twice the bound is reserved");
                held.fetch_sub(1, Ordering::AcqRel);
                drop(batch);
                2
            })
        });
        let published = publish(&hub, "kept");
        let mail = reader.take();
        let seen = numbers(&reader, mail);
        assert_eq!(seen.len(), usize::from(published.is_ok()));
        let dropped: u64 = droppers.map(|dropper| dropper.join().unwrap()).into_iter().sum();
        assert_eq!(taken(&reader), Amount::default(), "room is given back");
        // The line of numbers goes on behind the holes.
        publish(&hub, "last").unwrap();
        let mail = reader.take();
        assert_eq!(numbers(&reader, mail), [dropped + seen.len() as u64 + 1]);
    });
}

// ---- Release ----

/// Two threads release two batches in the opposite order: the shard gets them in the order of their numbers,
/// and both are visible in the end.
#[test]
fn batches_released_by_two_threads_are_visible_in_order() {
    explore(3, || {
        let (hub, mut readers, newest) = world(1, Limits::default(), &["a", "b"]);
        let mut reader = readers.remove(0);
        let [first, second] =
            ["a", "b"].map(|name| hub.sequence(&mut vec![event(name)], Numbers::Next).unwrap());
        let releasers = [second, first].map(|batch| {
            let hub = hub.clone();
            thread::spawn(move || hub.release(batch))
        });
        reader.read_to(2);
        assert_eq!(newest.load(Ordering::Relaxed), 2);
        let [second, first] = releasers.map(|releaser| releaser.join().unwrap());
        assert_eq!(first, Visibility::Visible, "nothing is before it");
        assert_ne!(second, Visibility::Never);
        assert_eq!(
            (reader.topics.as_slice(), taken(&reader)),
            (&["a", "b"].map(String::from)[..], Amount::default())
        );
    });
}

/// A publisher that waits behind a batch is called when that is released or dropped, in every order of their
/// steps. Its answer comes when its event is visible.
#[test]
fn a_publisher_behind_a_batch_is_called_when_its_event_is_visible() {
    for is_released in [true, false] {
        explore(3, move || {
            let (hub, mut readers, newest) = world(1, Limits::default(), &["a", "b"]);
            let mut reader = readers.remove(0);
            let batch = hub.sequence(&mut vec![event("a")], Numbers::Next).unwrap();
            let publisher = {
                let hub = hub.clone();
                thread::spawn(move || {
                    hub.publish_wait(&mut vec![event("b")], Duration::MAX).unwrap();
                    assert_eq!(newest.load(Ordering::Relaxed), 2, "the answer comes too early");
                })
            };
            if is_released {
                hub.release(batch);
            } else {
                drop(batch);
            }
            publisher.join().unwrap();
            let mail = reader.take();
            assert_eq!(numbers(&reader, mail), if is_released { vec![1, 2] } else { vec![2] });
            assert_eq!(taken(&reader), Amount::default());
        });
    }
}

// ---- Interest ----

/// A shard registers for a topic while events are published, and learns the newest number. It gets each event
/// exactly once: up to that number from the log, and after it by mail.
#[test]
fn between_the_log_and_the_mail_nothing_is_missing_and_nothing_is_there_twice() {
    explore(3, || {
        let (hub, mut readers, newest) = world(1, Limits::default(), &[]);
        let mut reader = readers.remove(0);
        let publisher = {
            let hub = hub.clone();
            thread::spawn(move || {
                hub.publish_batch(&mut vec![event("a"), event("other")]).unwrap();
                publish(&hub, "a").unwrap();
            })
        };
        let mut log = reader.log.take().unwrap();
        let topics = topics(&["a"]);
        let from = log.add_reader(&topics, &[]).unwrap();
        let mut frames = Vec::new();
        let bounds = ReadBounds { frames: 10, bytes: usize::MAX, steps: 1 };
        log.read_after(&wanted(&topics), bounds, &mut frames).unwrap();
        let mut seen: Vec<u64> = frames.iter().map(|frame| frame.seq()).filter(|seq| *seq <= from).collect();
        while seen.len() < 2 {
            let mail = reader.tick();
            let by_mail = numbers(&reader, mail);
            assert!(by_mail.iter().all(|seq| *seq > from), "mail of what the log had");
            seen.extend(by_mail);
            assert!(seen.last().is_none_or(|last| *last <= newest.load(Ordering::Relaxed)));
        }
        publisher.join().unwrap();
        assert_eq!(seen, [1, 3]);
        assert_eq!((reader.mailbox.len(), taken(&reader)), (0, Amount::default()));
    });
}

/// Only shards that read one of an event's topics get mail; one that leaves meanwhile keeps no room taken.
#[test]
fn a_shard_that_reads_no_topic_gets_no_mail() {
    explore(3, || {
        let (hub, mut readers, _) = world(2, Limits::default(), &[]);
        let topics = topics(&["a"]);
        let mut leaving = readers.remove(0);
        let other = readers.remove(0);
        leaving.log.as_mut().unwrap().add_reader(&topics, &[]).unwrap();
        let publisher = thread::spawn(move || {
            publish(&hub, "a").unwrap();
            publish(&hub, "a").unwrap();
        });
        leaving.log.as_mut().unwrap().remove_reader(&topics, &[]);
        let mail = leaving.take();
        let mut seen = numbers(&leaving, mail);
        publisher.join().unwrap();
        let mail = leaving.take();
        seen.extend(numbers(&leaving, mail));
        assert!(seen.is_empty() || seen == [1] || seen == [1, 2], "{seen:?}");
        assert_eq!((taken(&leaving), taken(&other), other.mailbox.len()), Default::default());
    });
}

/// A shard whose mailbox is empty, and that has acted on all that it took, has acted on everything up to the
/// number that it is told.
#[test]
fn a_shard_that_has_caught_up_has_had_everything() {
    explore(3, || {
        let (hub, mut readers, _) = world(1, Limits::default(), &[]);
        let mut reader = readers.remove(0);
        let mut log = reader.log.take().unwrap();
        log.add_reader(&topics(&["a"]), &[]).unwrap();
        let publisher = thread::spawn(move || {
            hub.publish_batch(&mut vec![event("a"), event("a")]).unwrap();
            publish(&hub, "a").unwrap();
        });
        let mut head = 0;
        while head < 3 {
            let mail = reader.tick();
            head = numbers(&reader, mail).last().copied().unwrap_or(head);
            if let Some(up_to) = log.caught_up_to() {
                assert_eq!(up_to, head, "it has not had what it is said to have had");
            }
        }
        publisher.join().unwrap();
    });
}

// ---- Publishers that wait ----

/// A publisher that waits is called when there is room, however it and the shard meet.
#[test]
fn a_publisher_that_waits_is_called() {
    explore(4, || {
        let limits = Limits::default().with_mailbox_events(1);
        let (hub, mut readers, _) = world(1, limits, &["a", "b"]);
        let mut reader = readers.remove(0);
        let publisher = thread::spawn(move || {
            // Larger than the mailbox: in two parts.
            let mut events = vec![event("a"), event("b")];
            hub.publish_wait(&mut events, Duration::MAX).unwrap().count
        });
        reader.read_to(2);
        assert_eq!(publisher.join().unwrap(), 2);
        assert_eq!(taken(&reader), Amount::default());
    });
}

/// Two publishers that wait for one mailbox are called, one after the other.
#[test]
fn publishers_that_wait_are_called_one_after_the_other() {
    explore(2, || {
        let limits = Limits::default().with_mailbox_events(1);
        let (hub, mut readers, _) = world(1, limits, &["first", "a", "b", "last"]);
        let mut reader = readers.remove(0);
        publish(&hub, "first").unwrap();
        let publishers = ["a", "b"].map(|topic| {
            let hub = hub.clone();
            thread::spawn(move || hub.publish_wait(&mut vec![event(topic)], Duration::MAX).unwrap())
        });
        reader.read_to(3);
        for publisher in publishers {
            publisher.join().unwrap();
        }
        assert_eq!(taken(&reader), Amount::default());
        publish(&hub, "last").expect("the line is empty");
    });
}

/// A task that waits is woken by a thread of the hub.
#[test]
fn a_task_that_waits_is_woken() {
    explore(3, || {
        let limits = Limits::default().with_mailbox_events(1);
        let (hub, mut readers, _) = world(1, limits, &["first", "second"]);
        let mut reader = readers.remove(0);
        publish(&hub, "first").unwrap();
        let shard = thread::spawn(move || reader.read_to(2));
        let mut events = vec![event("second")];
        assert_eq!(block_on(&mut hub.publish_async(&mut events)), Ok(1));
        assert!(events.is_empty());
        shard.join().unwrap();
        end(&hub);
    });
}

/// Tasks are called in the order in which they came, whichever is polled first; and a new publisher
/// does not overtake them.
#[test]
fn tasks_are_called_in_order() {
    explore(1, || {
        let limits = Limits::default().with_mailbox_events(1);
        let (hub, mut readers, _) = world(1, limits, &["first", "second", "latest", "overtakes"]);
        let mut reader = readers.remove(0);
        publish(&hub, "first").unwrap();
        // Both have the same size: a smaller one would be ahead of a larger one.
        let (mut second, mut third) = (vec![event("second")], vec![event("latest")]);
        let mut second = hub.publish_async(&mut second);
        let mut third = hub.publish_async(&mut third);
        let (thread, waker) = Thread::new();
        assert!(poll(&mut second, &waker).is_pending());
        assert!(poll(&mut third, &waker).is_pending());
        let shard = thread::spawn(move || {
            reader.read_to(3);
            reader
        });
        let mut is_second_done = false;
        loop {
            assert_eq!(publish(&hub, "overtakes"), Err(PublishError::Busy));
            if let Poll::Ready(result) = poll(&mut third, &waker) {
                assert_eq!((result, is_second_done), (Ok(1), true), "the third succeeds too early");
                break;
            }
            if !is_second_done && let Poll::Ready(result) = poll(&mut second, &waker) {
                assert_eq!(result, Ok(1));
                is_second_done = true;
            } else {
                thread.woken.wait();
            }
        }
        assert_eq!(shard.join().unwrap().topics, ["first", "second", "latest"]);
        drop((second, third));
        end(&hub);
    });
}

/// A future that is dropped, called or not, has the next publisher called.
#[test]
fn a_future_that_is_dropped_lets_the_next_be_called() {
    explore(2, || {
        let limits = Limits::default().with_mailbox_events(1);
        let (hub, mut readers, _) = world(1, limits, &["first", "dropped", "second"]);
        let mut reader = readers.remove(0);
        publish(&hub, "first").unwrap();
        let (mut dropped, mut second) = (vec![event("dropped")], vec![event("second")]);
        let mut first_in_line = hub.publish_async(&mut dropped);
        let mut next_in_line = hub.publish_async(&mut second);
        let (_, waker) = Thread::new();
        assert!(poll(&mut first_in_line, &waker).is_pending());
        assert!(poll(&mut next_in_line, &waker).is_pending());
        let shard = thread::spawn(move || {
            reader.read_to(2);
            reader
        });
        drop(first_in_line);
        assert_eq!(dropped, [event("dropped")], "its event is given back");
        assert_eq!(block_on(&mut next_in_line), Ok(1));
        assert_eq!(shard.join().unwrap().topics, ["first", "second"]);
        drop(next_in_line);
        end(&hub);
    });
}

/// A shard ends: publishers that wait for it, as threads and as tasks, are told.
#[test]
fn a_publisher_that_waits_for_a_shard_that_ends_is_told() {
    explore(2, || {
        let limits = Limits::default().with_mailbox_events(1);
        let (hub, mut readers, _) = world(1, limits, &["first", "a", "b"]);
        let reader = readers.remove(0);
        publish(&hub, "first").unwrap();
        let publisher = {
            let hub = hub.clone();
            thread::spawn(move || {
                let mut events = vec![event("a")];
                let interrupted = hub.publish_wait(&mut events, Duration::MAX).unwrap_err();
                assert_eq!((interrupted.error, interrupted.published), (PublishError::Stopped, None));
                assert_eq!(events, [event("a")]);
            })
        };
        let shard = thread::spawn(move || reader.mailbox.close());
        assert_eq!(block_on(&mut hub.publish_async(&mut vec![event("b")])), Err(PublishError::Stopped));
        publisher.join().unwrap();
        shard.join().unwrap();
        end(&hub);
    });
}

/// What stops an engine: the thread that wakes tasks ends.
fn end(hub: &Hub) {
    hub.drain(Duration::ZERO);
    hub.end();
}
