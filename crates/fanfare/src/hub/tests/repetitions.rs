//! Events that are published again with the same own id.

use fanfare_proto::event::EventId;

use super::super::Duplicate;
use super::*;

fn own(name: &str, id: &str, data: &str) -> Event {
    Event::new(topic(name)).with_id(EventId::new(id).unwrap()).with_data(data)
}

fn duplicates(published: &super::super::Published) -> Vec<(usize, u64)> {
    published.duplicates.iter().map(|Duplicate { index, first }| (*index, first.seq)).collect()
}

#[test]
fn an_event_is_published_once_while_it_is_retained() {
    let (hub, mut shard) = hub_of_one(Limits::default());
    let first = hub.publish(own("a", "x", "1")).unwrap();
    assert_eq!((first.first.as_str(), first.duplicates.len()), ("x", 0));
    let again = hub.publish(own("a", "x", "1")).unwrap();
    assert_eq!((again.count, again.first.as_str(), again.last.as_str()), (1, "x", "x"));
    assert_eq!(duplicates(&again), [(0, 1)]);
    // Without an own id, or with another id or topic, it is another event.
    for other in [event("a"), event("a"), own("a", "y", "1"), own("b", "x", "1")] {
        assert_eq!(duplicates(&hub.publish(other).unwrap()), []);
    }
    assert_eq!(shard.act_on_all(), [1, 2, 3, 4, 5]);
    assert_eq!(shard.taken(), Amount::default(), "a duplicate takes no room");
}

/// A publisher may publish to topic a only. It guesses the id of another one's event for a and b, and is
/// first. That event must reach the subscribers of b, and nothing may say that it is a duplicate.
#[test]
fn an_id_of_some_of_the_topics_holds_up_no_event_of_others() {
    let (hub, mut shard) = hub_of_one(Limits::default());
    hub.publish(own("a", "order-7", "a forgery")).unwrap();
    let both = || own("a", "order-7", "paid").with_topic(topic("b")).unwrap();
    assert_eq!(duplicates(&hub.publish(both()).unwrap()), []);
    // The order of the topics does not matter.
    let turned = own("b", "order-7", "paid").with_topic(topic("a")).unwrap();
    assert_eq!(duplicates(&hub.publish(turned).unwrap()), [(0, 2)]);
    assert_eq!(shard.act_on_all(), [1, 2]);
}

#[test]
fn an_id_that_was_given_to_another_content_is_refused() {
    let (hub, mut shard) = hub_of_one(Limits::default());
    hub.publish(own("a", "x", "1")).unwrap();
    let refused = hub.publish(own("a", "x", "2")).unwrap_err();
    assert_eq!(refused.error, PublishError::IdConflict { index: 0 });
    assert_eq!(refused.error.status(), 409);
    let mut batch = vec![own("a", "y", "1"), own("a", "z", "1"), own("a", "y", "2"), own("a", "x", "3")];
    let before = batch.clone();
    assert_eq!(hub.publish_batch(&mut batch), Err(PublishError::IdConflict { index: 2 }));
    assert_eq!(batch, before, "what is refused is left");
    assert_eq!(shard.act_on_all(), [1]);
}

#[test]
fn a_batch_is_resent_with_what_was_not_taken() {
    let (hub, mut shard) = hub_of_one(Limits::default());
    hub.publish_batch(&mut vec![own("a", "1", "1"), own("b", "2", "2")]).unwrap();
    let mut batch = vec![own("a", "3", "3"), own("b", "2", "2"), own("a", "4", "4"), own("a", "3", "3")];
    batch.push(own("a", "1", "1"));
    batch.push(own("a", "4", "4"));
    let published = hub.publish_batch(&mut batch).unwrap();
    assert_eq!((published.count, published.first.as_str(), published.last.as_str()), (6, "3", "4"));
    assert_eq!(duplicates(&published), [(1, 2), (3, 3), (4, 1), (5, 4)]);
    assert_eq!(shard.act_on_all(), [1, 2, 3, 4]);
    assert_eq!(shard.taken(), Amount::default());
    let mut all = vec![own("a", "3", "3"), own("a", "4", "4")];
    let published = hub.publish_batch(&mut all).unwrap();
    assert_eq!((published.count, duplicates(&published)), (2, vec![(0, 3), (1, 4)]));
    assert!(all.is_empty());
}

#[test]
fn an_id_is_free_when_its_event_is_no_longer_retained() {
    let mut limits = Limits::default();
    limits.log.retention.events = 2;
    limits.log.rules.clear();
    let (hub, mut shard) = hub_of_one(limits);
    let both = || own("a", "x", "1").with_topic(topic("b")).unwrap();
    hub.publish(both()).unwrap();
    for _ in 0..3 {
        hub.publish(event("a")).unwrap();
    }
    assert_eq!(duplicates(&hub.publish(both()).unwrap()), [(0, 1)], "topic b retains it");
    for _ in 0..3 {
        hub.publish(event("b")).unwrap();
    }
    assert_eq!(duplicates(&hub.publish(both()).unwrap()), []);
    assert_eq!(duplicates(&hub.publish(both()).unwrap()), [(0, 8)]);
    assert_eq!(shard.act_on_all().len(), 8);
}

/// A batch of a mailbox's size is taken in parts. The same events are in several of its parts.
#[test]
fn duplicates_in_later_parts_have_their_positions_in_the_whole() {
    let (hub, mut shard) = hub_of_one(Limits::default().with_mailbox_events(2));
    let mut batch = vec![own("a", "1", "1"), own("a", "2", "2"), own("a", "1", "1"), own("a", "3", "3")];
    batch.push(own("a", "3", "3"));
    let wakes = Arc::new(Wakes::default());
    let mut publishing = hub.publish_async(&mut batch);
    let waker = TaskWaker::from(Arc::clone(&wakes));
    let mut numbers = Vec::new();
    let published = loop {
        numbers.extend(shard.act_on_all());
        if let Poll::Ready(result) = pin!(&mut publishing).poll(&mut Context::from_waker(&waker)) {
            break result.unwrap();
        }
    };
    numbers.extend(shard.act_on_all());
    assert_eq!((published.count, duplicates(&published)), (5, vec![(2, 1), (4, 3)]));
    assert_eq!(numbers, [1, 2, 3]);
}

/// While a store has an event, its publisher loses the connection and publishes again. It must not be told of
/// success before the store has decided: the event may be dropped.
#[test]
fn a_publisher_waits_for_the_same_event_that_is_not_released() {
    for is_released in [true, false] {
        let (hub, mut shard) = hub_of_one(Limits::default());
        let first = hub.sequence(&mut vec![event("a"), own("a", "x", "1")], Numbers::Next).unwrap();
        // The others are refused: they do not wait.
        assert_eq!(hub.publish(own("a", "x", "1")).unwrap_err().error, PublishError::Busy);
        let again = hub.sequence(&mut vec![own("a", "x", "1")], Numbers::Next).map(drop);
        assert_eq!(again, Err(PublishError::Busy));
        let conflict = hub.sequence(&mut vec![own("a", "x", "2")], Numbers::Next).map(drop);
        assert_eq!(conflict, Err(PublishError::IdConflict { index: 0 }));

        let (mut events, wakes) = (vec![own("a", "x", "1")], Arc::new(Wakes::default()));
        let mut publishing = hub.publish_async(&mut events);
        assert_eq!(poll(&mut publishing, &wakes), Poll::Pending);
        assert_eq!(poll(&mut publishing, &wakes), Poll::Pending);
        if is_released {
            hub.release(first);
        } else {
            drop(first);
        }
        while wakes.0.load(Ordering::Relaxed) == 0 {
            thread::yield_now();
        }
        let waker = TaskWaker::from(wakes);
        let result = pin!(&mut publishing).poll(&mut Context::from_waker(&waker));
        let Poll::Ready(Ok(published)) = result else { panic!("{result:?}") };
        assert_eq!(published.count, 1);
        if is_released {
            assert_eq!((duplicates(&published), shard.act_on_all()), (vec![(0, 2)], vec![1, 2]));
        } else {
            assert_eq!((duplicates(&published), shard.act_on_all()), (vec![], vec![3]));
        }
        assert_eq!(shard.taken(), Amount::default());
    }
}

/// A thread that waits is called, too. It is also told what it had published before it had to wait.
#[test]
fn a_thread_waits_for_the_same_event_that_is_not_released() {
    let (hub, mut shard) = hub_of_one(Limits::default());
    let first = hub.sequence(&mut vec![own("a", "x", "1")], Numbers::Next).unwrap();
    let publisher = {
        let hub = hub.clone();
        thread::spawn(move || hub.publish_wait(&mut vec![own("a", "x", "1")], Duration::from_secs(60)))
    };
    while hub.inner.common.waiting.is_empty() {
        thread::yield_now();
    }
    drop(first);
    assert_eq!(duplicates(&publisher.join().unwrap().unwrap()), []);
    assert_eq!(shard.act_on_all(), [2]);
    assert!(hub.inner.common.waiting.is_empty(), "the publisher has left the line");
}

/// A log outside of the process gives the numbers, and has decided which events are the same.
#[test]
fn numbers_from_outside_are_taken_as_they_are() {
    let (hub, mut shard) = hub_of_one(Limits::default());
    for seq in [5, 9] {
        let batch = hub.sequence(&mut vec![own("a", "x", "1")], Numbers::Given(&[seq])).unwrap();
        hub.release(batch);
    }
    assert_eq!(shard.act_on_all(), [5, 9]);
    let first = duplicates(&hub.publish(own("a", "x", "1")).unwrap());
    assert!(first == [(0, 5)] || first == [(0, 9)], "{first:?}");
}

#[test]
fn a_batch_of_duplicates_is_visible_at_once() {
    let (hub, _shard) = hub_of_one(Limits::default());
    hub.publish(own("a", "x", "1")).unwrap();
    let unreleased = hub.sequence(&mut events("b", 1), Numbers::Next).unwrap();
    let again = hub.sequence(&mut vec![own("a", "x", "1")], Numbers::Next).unwrap();
    assert_eq!(duplicates(again.published()), [(0, 1)]);
    assert_eq!(hub.release(again), Visibility::Visible);
    let mut twice = vec![own("a", "x", "1")];
    assert!(hub.publish_wait(&mut twice, Duration::ZERO).is_ok(), "no older batch is waited for");
    assert_eq!(hub.release(unreleased), Visibility::Visible);
}
