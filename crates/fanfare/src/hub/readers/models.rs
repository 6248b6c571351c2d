//! Models of readers in the same process: how they sleep and are called. See `crate::mailbox::models`.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use fanfare_proto::event::Topic;
use fanfare_proto::limits::Limits;
use loom::sync::Notify;
use loom::thread;

use super::{ReadItem, Reader};
use crate::hub::Hub;
use crate::mailbox::models::{event, explore, publish, world};

/// A task's waker on a thread of the model.
struct Thread {
    woken: Notify,
}

impl Wake for Thread {
    fn wake(self: Arc<Self>) {
        self.woken.notify();
    }
}

/// A hub whose shard reads nothing.
fn hub() -> Hub {
    world(1, Limits::default(), &[]).0
}

fn reader(hub: &Hub) -> Reader {
    hub.subscribe([Topic::new("a").unwrap()]).stream().unwrap()
}

/// As many readers as a model has, of either kind.
#[derive(Clone, Copy)]
enum Kind {
    Thread,
    Task,
}

/// The number of the next event; `None` at the end.
fn next(reader: &mut Reader, kind: Kind) -> Option<u64> {
    let item = match kind {
        Kind::Thread => reader.next_wait(Duration::MAX).unwrap(),
        Kind::Task => {
            let thread = Arc::new(Thread { woken: Notify::new() });
            let waker = Waker::from(Arc::clone(&thread));
            loop {
                match pin!(reader.next()).poll(&mut Context::from_waker(&waker)) {
                    Poll::Ready(item) => break item,
                    Poll::Pending => thread.woken.wait(),
                }
            }
        }
    };
    item.map(|item| match item {
        ReadItem::Event(event) => event.position().seq,
        ReadItem::Gap(gap) => panic!("{gap:?}"),
    })
}

fn end(hub: &Hub) {
    hub.drain(Duration::ZERO);
    hub.end();
}

/// A reader that sleeps is called by a publish, in every order of their steps, and gets each event once.
fn is_called(kind: Kind, preemptions: usize) {
    explore(preemptions, move || {
        let hub = hub();
        let mut reader = reader(&hub);
        let publisher = {
            let hub = hub.clone();
            thread::spawn(move || {
                publish(&hub, "a").unwrap();
                hub.publish_batch(&mut vec![event("other"), event("a")]).unwrap();
            })
        };
        assert_eq!([next(&mut reader, kind), next(&mut reader, kind)], [Some(1), Some(3)]);
        publisher.join().unwrap();
        assert!(reader.calls() <= 2);
        drop(reader);
        assert_eq!(hub.inner.common.waiting.readers().len(), (0, 0));
        end(&hub);
    });
}

#[test]
fn a_reader_that_sleeps_as_a_thread_is_called() {
    is_called(Kind::Thread, 4);
}

#[test]
fn a_reader_that_sleeps_as_a_task_is_called() {
    is_called(Kind::Task, 3);
}

/// A reader comes while events are published: it misses none after its position, and gets none twice.
#[test]
fn a_reader_that_comes_misses_nothing() {
    explore(3, || {
        let hub = hub();
        let publisher = {
            let hub = hub.clone();
            thread::spawn(move || {
                publish(&hub, "a").unwrap();
                publish(&hub, "a").unwrap();
            })
        };
        let mut reader = hub.subscribe([Topic::new("a").unwrap()]).open().unwrap();
        let from = reader.position().seq;
        for number in from + 1..=2 {
            assert_eq!(next(&mut reader, Kind::Thread), Some(number));
        }
        publisher.join().unwrap();
        end(&hub);
        assert_eq!(next(&mut reader, Kind::Thread), None);
    });
}

/// A batch has its number before the reader is there, and becomes visible while the reader goes to sleep.
#[test]
fn a_reader_is_called_by_a_batch_that_was_sequenced_before_it_came() {
    explore(3, || {
        let hub = hub();
        let mut events = vec![event("a")];
        let batch = hub.sequence(&mut events, crate::hub::Numbers::Next).unwrap();
        let releaser = {
            let hub = hub.clone();
            thread::spawn(move || hub.release(batch))
        };
        let mut reader = hub.subscribe([Topic::new("a").unwrap()]).open().unwrap();
        if reader.position().seq == 0 {
            assert_eq!(next(&mut reader, Kind::Thread), Some(1));
        }
        releaser.join().unwrap();
        end(&hub);
    });
}

/// The engine ends while a reader goes to sleep: it is told, behind what was published before.
fn is_told_of_the_end(kind: Kind) {
    explore(2, move || {
        let hub = hub();
        let mut reader = reader(&hub);
        let ender = {
            let hub = hub.clone();
            thread::spawn(move || {
                publish(&hub, "a").unwrap();
                hub.drain(Duration::ZERO);
            })
        };
        assert_eq!([next(&mut reader, kind), next(&mut reader, kind)], [Some(1), None]);
        ender.join().unwrap();
        hub.end();
    });
}

#[test]
fn a_reader_that_sleeps_as_a_thread_is_told_of_the_end() {
    is_told_of_the_end(Kind::Thread);
}

#[test]
fn a_reader_that_sleeps_as_a_task_is_told_of_the_end() {
    is_told_of_the_end(Kind::Task);
}

/// Two readers that are threads, one that is a task, and one that leaves: one publish calls all that stay.
/// The hub's thread calls the second thread.
#[test]
fn one_publish_calls_all_readers() {
    explore(1, || {
        let hub = hub();
        let [first, other, mut task, leaves] = [(); 4].map(|()| reader(&hub));
        let publisher = {
            let hub = hub.clone();
            thread::spawn(move || publish(&hub, "a").unwrap())
        };
        drop(leaves);
        let threads = [first, other]
            .map(|mut reader| thread::spawn(move || assert_eq!(next(&mut reader, Kind::Thread), Some(1))));
        assert_eq!(next(&mut task, Kind::Task), Some(1));
        publisher.join().unwrap();
        for thread in threads {
            thread.join().unwrap();
        }
        end(&hub);
    });
}
