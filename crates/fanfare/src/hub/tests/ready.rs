//! Publishers that wait before they make their event.

use super::*;
use crate::hub::ReadyFuture;

fn poll_ready(future: &mut ReadyFuture<'_>, wakes: &Arc<Wakes>) -> Poll<Result<(), PublishError>> {
    let waker = TaskWaker::from(Arc::clone(wakes));
    pin!(future).poll(&mut Context::from_waker(&waker))
}

#[test]
fn a_publisher_is_ready_at_once_where_there_is_room() {
    let (hub, mut shard) = hub_of_one(Limits::default().with_mailbox_events(2));
    let wakes = Arc::default();
    assert_eq!(poll_ready(&mut hub.ready(), &wakes), Poll::Ready(Ok(())));
    assert_eq!(publish(&hub, "a"), Ok(1));
    assert_eq!(poll_ready(&mut hub.ready(), &wakes), Poll::Ready(Ok(())));
    // Nothing was taken: the other half of the mailbox is there.
    assert_eq!(publish(&hub, "a"), Ok(1));
    assert_eq!(shard.act_on_all(), [1, 2]);
    assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
}

#[test]
fn a_publisher_is_called_when_there_is_room() {
    let (hub, mut shard) = hub_of_one(Limits::default().with_mailbox_events(1));
    publish(&hub, "a").unwrap();
    let (mut ready, wakes) = (hub.ready(), Arc::default());
    assert_eq!(poll_ready(&mut ready, &wakes), Poll::Pending);
    assert_eq!(shard.act_on_all(), [1]);
    expect_wakes(&wakes, 1);
    assert_eq!(poll_ready(&mut ready, &wakes), Poll::Ready(Ok(())));
    assert!(hub.inner.common.waiting.is_empty(), "a publisher that is ready has left the line");
}

/// The room is for an event with the most data, also where a small one would fit.
#[test]
fn ready_means_room_for_the_largest_event() {
    let limits = Limits::default().with_event_bytes(2000).with_mailbox_bytes(2500);
    let (hub, mut shard) = hub_of_one(limits);
    hub.publish(event("a").with_data("x".repeat(1000))).unwrap();
    let (mut ready, wakes) = (hub.ready(), Arc::default());
    assert_eq!(poll_ready(&mut ready, &wakes), Poll::Pending);
    shard.act_on_all();
    assert_eq!(poll_ready(&mut ready, &wakes), Poll::Ready(Ok(())));
}

#[test]
fn the_publisher_that_came_first_has_its_turn_first() {
    let (hub, mut shard) = hub_of_one(Limits::default().with_mailbox_events(1));
    publish(&hub, "a").unwrap();
    let [first_wakes, ready_wakes] = [(); 2].map(|()| Arc::default());
    let mut waiting = vec![event("a")];
    let mut first = hub.publish_async(&mut waiting);
    assert_eq!(poll(&mut first, &first_wakes), Poll::Pending);
    let mut ready = hub.ready();
    assert_eq!(poll_ready(&mut ready, &ready_wakes), Poll::Pending);
    assert_eq!(shard.act_on_all(), [1]);
    expect_wakes(&first_wakes, 1);
    assert_eq!(poll_ready(&mut ready, &ready_wakes), Poll::Pending, "the first one has not had its turn");
    assert_eq!(poll(&mut first, &first_wakes), Poll::Ready(Ok(1)));
    assert_eq!(poll_ready(&mut ready, &ready_wakes), Poll::Pending, "the first one has taken the room");
    assert_eq!(shard.act_on_all(), [2]);
    assert_eq!(poll_ready(&mut ready, &ready_wakes), Poll::Ready(Ok(())));
}

/// The other way round: a publisher behind one that only asks whether it is ready is called, also where that
/// one gives up.
#[test]
fn a_publisher_behind_one_that_gives_up_is_called() {
    let (hub, mut shard) = hub_of_one(Limits::default().with_mailbox_events(1));
    publish(&hub, "a").unwrap();
    let [ready_wakes, second_wakes] = [(); 2].map(|()| Arc::default());
    let mut ready = hub.ready();
    assert_eq!(poll_ready(&mut ready, &ready_wakes), Poll::Pending);
    let mut waiting = vec![event("a").with_data("x".repeat(5000))];
    let mut second = hub.publish_async(&mut waiting);
    assert_eq!(poll(&mut second, &second_wakes), Poll::Pending);
    shard.act_on_all();
    expect_wakes(&ready_wakes, 1);
    assert_eq!(poll(&mut second, &second_wakes), Poll::Pending);
    drop(ready);
    expect_wakes(&second_wakes, 1);
    assert_eq!(poll(&mut second, &second_wakes), Poll::Ready(Ok(1)));
}

#[test]
fn a_publisher_that_waits_learns_that_the_engine_ends() {
    let (hub, _shard) = hub_of_one(Limits::default().with_mailbox_events(1));
    publish(&hub, "a").unwrap();
    let (mut ready, wakes) = (hub.ready(), Arc::default());
    assert_eq!(poll_ready(&mut ready, &wakes), Poll::Pending);
    hub.drain(Duration::ZERO);
    expect_wakes(&wakes, 1);
    assert_eq!(poll_ready(&mut ready, &wakes), Poll::Ready(Err(PublishError::Stopped)));
}
