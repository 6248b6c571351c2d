//! Publishers that wait for room: their order, their patience, and their end.

use super::*;
use crate::hub::line::{WaitBy, WaitingPublishers};

/// A part that costs as much as any: four events, which fill the mailbox of these tests.
fn large_part() -> Vec<Event> {
    vec![event("many").with_data("x".repeat(2000)); 4]
}

/// Beside 480 publishers of 256 events each, one that published a single event to another topic waited for
/// seconds: it stood at the end of the line. The first order by size put it there, too, once one of the
/// others had published.
#[test]
fn a_small_publish_does_not_wait_for_all_large_ones() {
    const LARGE: usize = 24;
    let (hub, mut shard) = hub_of_one(Limits::default().with_mailbox_events(4));
    hub.publish_batch(&mut events("a", 4)).unwrap();
    let ignored = Arc::default();
    let mut parts: Vec<Vec<Event>> = (0..LARGE).map(|_| large_part()).collect();
    let mut large: VecDeque<_> = parts.iter_mut().map(|part| hub.publish_async(part)).collect();
    assert!(large.iter_mut().all(|one| poll(one, &ignored).is_pending()));
    for _ in 0..LARGE / 2 {
        shard.act_on_all();
        assert_eq!(poll(&mut large.pop_front().unwrap(), &ignored), Poll::Ready(Ok(4)));
    }
    let mut one = events("one", 1);
    let mut one = hub.publish_async(&mut one);
    let mut ahead = 0;
    while poll(&mut one, &ignored).is_pending() {
        shard.act_on_all();
        // Each publisher that was called tries; at most one finds room.
        let served = large.iter_mut().position(|one| poll(one, &ignored).is_ready());
        if let Some(served) = served {
            large.remove(served);
            ahead += 1;
        }
        assert!(ahead <= 1 + LARGE / 2 / 8, "{ahead} of {} large ones were ahead", LARGE / 2);
    }
    drop(one);
    while let Some(mut next) = large.pop_front() {
        shard.act_on_all();
        assert_eq!(poll(&mut next, &ignored), Poll::Ready(Ok(4)));
    }
}

/// A small publish costs an eighth of a large one, so eight of each other publisher may overtake it.
#[test]
fn small_publishes_do_not_starve_a_large_one() {
    let (hub, mut shard) = hub_of_one(Limits::default().with_mailbox_events(4));
    hub.publish_batch(&mut events("a", 4)).unwrap();
    let (wakes, ignored) = (Arc::default(), Arc::default());
    let mut large = large_part();
    let mut large = hub.publish_async(&mut large);
    assert!(poll(&mut large, &wakes).is_pending());
    let mut overtaken_by = 0;
    loop {
        let mut small = events("a", 1);
        let mut small = hub.publish_async(&mut small);
        let is_ahead = poll(&mut small, &ignored).is_ready() || {
            shard.act_on(1);
            poll(&mut small, &ignored).is_ready()
        };
        if !is_ahead {
            break;
        }
        overtaken_by += 1;
        assert!(overtaken_by < 20, "the large one starves");
    }
    // Two wait, so the time of the line goes on by half of what a small one costs.
    assert_eq!(overtaken_by, 14);
    shard.act_on_all();
    assert_eq!(poll(&mut large, &wakes), Poll::Ready(Ok(4)));
}

/// Small publishes took all room that became free, and one that needed more of it waited for ever.
#[test]
fn a_publisher_that_needs_more_room_is_not_overtaken() {
    let (hub, mut shard) = hub_of_one(Limits::default().with_mailbox_events(4));
    assert_eq!(hub.publish_batch(&mut events("a", 4)).unwrap().count, 4);
    let wakes = Arc::default();
    let mut batch = events("b", 3);
    let mut large = hub.publish_async(&mut batch);
    assert!(poll(&mut large, &wakes).is_pending());
    for freed in 1..=3 {
        assert_eq!(publish(&hub, "a"), Err(PublishError::Busy));
        assert_eq!(wakes.0.load(Ordering::Relaxed), 0, "called with room for {}", freed - 1);
        shard.act_on(1);
    }
    expect_wakes(&wakes, 1);
    assert_eq!(publish(&hub, "a"), Err(PublishError::Busy));
    assert_eq!(poll(&mut large, &wakes), Poll::Ready(Ok(3)));
    assert_eq!(shard.act_on(3), [4, 5, 6]);
    assert_eq!(publish(&hub, "a"), Ok(1));
    assert_eq!(shard.act_on_all(), [7, 8]);
}

/// A large batch that waits comes in parts, and lets others publish in between.
#[test]
fn others_publish_between_the_parts_of_a_large_batch() {
    let (hub, mut shard) = hub_of_one(Limits::default().with_mailbox_events(4));
    let (wakes, others) = (Arc::default(), Arc::default());
    let (mut many, mut one) = (events("many", 10), events("one", 1));
    let mut large = hub.publish_async(&mut many);
    let mut small = hub.publish_async(&mut one);
    assert!(poll(&mut large, &wakes).is_pending());
    assert_eq!(large.published().unwrap().count, 4);
    assert!(poll(&mut small, &others).is_pending());
    // The small one is ahead of the next part, which passes it the first room.
    assert_eq!(shard.act_on(1), [1]);
    expect_wakes(&others, 1);
    assert_eq!(poll(&mut small, &others), Poll::Ready(Ok(1)));
    expect_wakes(&wakes, 1);
    // The large one is called when half a mailbox is free, not for each event.
    assert!(poll(&mut large, &wakes).is_pending());
    assert_eq!(shard.act_on(1), [2]);
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    assert_eq!(shard.act_on(1), [3]);
    expect_wakes(&wakes, 2);
    assert!(poll(&mut large, &wakes).is_pending());
    assert_eq!(large.published().unwrap().count, 6);
    let mut rest = Vec::new();
    let total = loop {
        if let Poll::Ready(total) = poll(&mut large, &wakes) {
            break total;
        }
        rest.extend(shard.act_on_all());
    };
    rest.extend(shard.act_on_all());
    assert_eq!((total, rest), (Ok(10), (4..=11).collect()));
}

/// When the patience of a publisher ends, it has its events back, and no publisher waits behind it.
#[test]
fn patience_ends() {
    let (hub, mut shard) = hub_of_one(Limits::default().with_mailbox_events(2));
    let mut batch = events("a", 5);
    let interrupted = hub.publish_wait(&mut batch, Duration::from_millis(20)).unwrap_err();
    assert_eq!((interrupted.error, batch.len()), (PublishError::Busy, 3));
    assert_eq!(interrupted.published.unwrap().count, 2);
    assert_eq!(shard.act_on_all(), [1, 2]);
    assert_eq!(publish(&hub, "b"), Ok(1));
    let (wakes, mut two) = (Arc::default(), events("c", 2));
    let mut dropped = hub.publish_async(&mut two);
    assert!(poll(&mut dropped, &wakes).is_pending());
    assert_eq!(publish(&hub, "d"), Err(PublishError::Busy));
    drop(dropped);
    assert_eq!((publish(&hub, "d"), two.len()), (Ok(1), 2));
}

/// Publishers that wait when the engine drains learn of it, and the hub's thread ends.
#[test]
fn the_end_is_told_to_all_that_wait() {
    let (hub, mut shard) = hub_of_one(Limits::default().with_mailbox_events(1));
    publish(&hub, "a").unwrap();
    let (wakes, mut batch) = (Arc::default(), events("a", 1));
    let mut task = hub.publish_async(&mut batch);
    assert!(poll(&mut task, &wakes).is_pending());
    thread::scope(|scope| {
        let waiting = scope.spawn(|| hub.publish_wait(&mut events("a", 1), Duration::MAX));
        hub.drain(Duration::ZERO);
        assert_eq!(waiting.join().unwrap().unwrap_err().error, PublishError::Stopped);
    });
    expect_wakes(&wakes, 1);
    assert_eq!(poll(&mut task, &wakes), Poll::Ready(Err(PublishError::Stopped)));
    drop(task);
    hub.end();
    assert_eq!(Arc::strong_count(&hub.inner.tasks), 1, "the thread has ended");
    assert_eq!(shard.act_on(1), [1]);
    assert!(matches!(shard.inbox.pop_front(), Some(Mail::Drain(_))));
}

/// The panic of an executor's waker does not keep the call from the next publisher.
#[test]
fn a_waker_that_panics_takes_no_other_call() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("on purpose");
        }
    }
    let (hub, mut shard) = hub_of_one(Limits::default().with_mailbox_events(1));
    publish(&hub, "a").unwrap();
    let (wakes, mut one, mut two) = (Arc::default(), events("b", 1), events("c", 1));
    let mut panics = hub.publish_async(&mut one);
    let waker = TaskWaker::from(Arc::new(Panics));
    assert!(pin!(&mut panics).poll(&mut Context::from_waker(&waker)).is_pending());
    let mut next = hub.publish_async(&mut two);
    assert!(poll(&mut next, &wakes).is_pending());
    shard.act_on_all();
    drop(panics);
    expect_wakes(&wakes, 1);
    assert_eq!(poll(&mut next, &wakes), Poll::Ready(Ok(1)));
}

/// A publisher whose last event was left out, because it was published before, is called when its batch is
/// released. Where older batches are not released yet, it was never called again, and asked without a pause.
#[test]
fn a_publisher_that_is_called_too_early_waits_again() {
    let waiting = Arc::new(WaitingPublishers::default());
    let mut position = None;
    waiting.enter_until(&mut position, 5, WaitBy::Task);
    waiting.call_between(4, 5);
    assert!(position.as_ref().unwrap().is_called());
    waiting.enter_until(&mut position, 7, WaitBy::Task);
    assert!(!position.as_ref().unwrap().is_called());
    waiting.call_up_to(6);
    assert!(!position.as_ref().unwrap().is_called());
    waiting.call_up_to(7);
    assert!(position.as_ref().unwrap().is_called());
    drop(position);
    assert!(waiting.is_empty());
}
