//! Models of the queue of life-cycle events. See `crate::mailbox::models`.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use fanfare_proto::link::LinkKey;
use loom::sync::Notify;
use loom::thread;

use super::{Connected, ConnectionId, LifeCycle, LifeCycleEvent, LifeCycleQueue};
use crate::mailbox::models::explore;

fn connected(shard: usize, slot: u32) -> LifeCycleEvent {
    let connection = ConnectionId::new(0, shard, LinkKey { slot, generation: 0 });
    LifeCycleEvent::Connected(Connected { connection, peer: None, subject: None, data: None })
}

/// Shards that add this many events each, one in a tick, and end.
fn shards(queue: &Arc<LifeCycleQueue>, shards: usize, events: u32) -> Vec<thread::JoinHandle<()>> {
    let run = |shard| {
        let queue = Arc::clone(queue);
        thread::spawn(move || {
            (0..events).for_each(|slot| assert!(queue.add(&mut vec![connected(shard, slot)])));
            queue.end_writer();
        })
    };
    (0..shards).map(run).collect()
}

/// How many connections an event tells of.
fn count(event: &LifeCycleEvent) -> u64 {
    match event {
        LifeCycleEvent::Missed(missed) => missed.connected,
        _ => 1,
    }
}

/// Two shards add more events than the queue holds, and a thread reads: it is woken for them and for the end.
/// The events that it reads and those that are counted as missed are all of them.
#[test]
fn life_cycle_events_are_read_or_counted() {
    explore(3, || {
        let queue = LifeCycleQueue::new(2, 2);
        let mut reader = LifeCycle::without_tasks(Arc::clone(&queue));
        let shards = shards(&queue, 2, 2);
        let mut sum = 0;
        loop {
            match reader.next_wait(Duration::MAX) {
                Ok(Some(event)) => sum += count(&event),
                Ok(None) => break,
                Err(none) => panic!("{none}"),
            }
        }
        assert_eq!(sum, 4);
        shards.into_iter().for_each(|shard| shard.join().unwrap());
    });
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

/// The same for a task, which a thread of the queue's wakes.
#[test]
fn a_task_is_woken_for_life_cycle_events_and_for_the_end() {
    explore(3, || {
        let queue = LifeCycleQueue::new(2, 1);
        let mut reader = LifeCycle::start(Arc::clone(&queue)).unwrap();
        let shards = shards(&queue, 1, 1);
        let thread = Arc::new(Thread { woken: Notify::new() });
        let waker = Waker::from(Arc::clone(&thread));
        let mut sum = 0;
        loop {
            match pin!(reader.next()).poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(Some(event)) => sum += count(&event),
                Poll::Ready(None) => break,
                Poll::Pending => thread.woken.wait(),
            }
        }
        assert_eq!(sum, 1);
        shards.into_iter().for_each(|shard| shard.join().unwrap());
    });
}

/// A reader that leaves while a shard adds events: the shard learns of it, and the thread that wakes tasks
/// ends.
#[test]
fn a_shard_learns_that_no_reader_of_life_cycle_events_is_left() {
    explore(3, || {
        let queue = LifeCycleQueue::new(2, 1);
        let mut reader = LifeCycle::start(Arc::clone(&queue)).unwrap();
        let shard = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                let is_first_read = queue.add(&mut vec![connected(0, 0)]);
                let is_second_read = queue.add(&mut vec![connected(0, 1)]);
                assert!(is_first_read || !is_second_read, "a reader that has left does not come back");
            })
        };
        let thread = Arc::new(Thread { woken: Notify::new() });
        let polled = pin!(reader.next()).poll(&mut Context::from_waker(&Waker::from(thread)));
        assert!(!matches!(polled, Poll::Ready(None)), "the shard has not ended");
        drop(reader);
        shard.join().unwrap();
        assert!(!queue.add(&mut vec![connected(0, 2)]));
    });
}
