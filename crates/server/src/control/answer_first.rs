//! The answer to a publisher leaves before the shards begin to send.
//!
//! A shard that is woken has a broadcast to do. Where there are as many shards as cores it often takes the
//! core of the control plane's thread, and the publisher whose event it sends waited 3 ms for its answer. So
//! what the publish of a single event wakes is woken when the publisher's connection has written what it has:
//! by a task that stands behind it in the queue of the runtime, which has one thread. Publishes of many
//! events wake at once: shards that send meanwhile make room for the rest. (Woken after each piece of a body,
//! they halved the rate of NDJSON.)

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use fanfare::Wakes;

/// Wakes that shards are owed.
#[derive(Clone, Default)]
pub(crate) struct OwedWakes(Arc<Mutex<Wakes>>);

impl OwedWakes {
    /// Runs a publish that is followed by its answer. What it wakes is woken by a task that is queued behind
    /// the publisher's connection, or before the next such publish, whichever comes first. So an event waits
    /// for the tasks that were ready before, and for one answer of a publish.
    pub(super) async fn answer_first<F: Future>(&self, publish: F) -> F::Output {
        let mut publish = pin!(publish);
        std::future::poll_fn(|context| self.poll(publish.as_mut(), context)).await
    }

    fn poll<F: Future>(&self, publish: Pin<&mut F>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.make();
        let (poll, wakes) = fanfare::collect_wakes(|| publish.poll(context));
        if !wakes.is_empty() {
            drop(self.replace(wakes));
            let owed = self.clone();
            tokio::spawn(async move { owed.make() });
        }
        poll
    }

    /// Makes them now: what comes next must not stand between an event and its shard.
    pub(super) fn make(&self) {
        drop(self.replace(Wakes::default()));
    }

    fn replace(&self, wakes: Wakes) -> Wakes {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), wakes)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use fanfare::{Engine, Event, Hub, Topic};

    use super::super::test_support::add_subscriber;
    use super::*;

    fn publish(hub: &Hub) {
        hub.publish(Event::new(Topic::new("a").unwrap()).with_data("1")).unwrap();
    }

    /// Events that the one shard has taken, after a time in which it would have taken those that it was woken
    /// for.
    fn taken(hub: &Hub) -> u64 {
        thread::sleep(Duration::from_millis(20));
        hub.counts().events
    }

    /// Waits while no other task runs.
    fn expect_taken(hub: &Hub, count: u64) {
        assert!((0..1000).any(|_| taken(hub) == count), "the shard has not taken {count} events");
    }

    /// A shard was woken before the answer was written, and took the core that was to write it.
    #[tokio::test]
    async fn what_a_publish_wakes_is_woken_after_its_connection_ran() {
        let engine = Engine::builder().shards(1).start().unwrap();
        let (hub, owed) = (engine.hub(), OwedWakes::default());
        let _subscriber = add_subscriber(&hub);
        let mut published = 0;
        // A shard that is not asleep yet needs no wake.
        let is_deferred = loop {
            owed.answer_first(async { publish(&hub) }).await;
            published += 1;
            let is_deferred = taken(&hub) < published;
            tokio::task::yield_now().await;
            expect_taken(&hub, published);
            if is_deferred || published == 20 {
                break is_deferred;
            }
        };
        assert!(is_deferred, "the shard was woken by the publish");
    }

    /// The shard that was owed a wake counted as woken: of ten more publishes none woke it, until the task
    /// that makes the owed wake ran, which was behind every other task.
    #[tokio::test]
    async fn other_publishes_wake_although_a_wake_is_owed() {
        let engine = Engine::builder().shards(1).start().unwrap();
        let (hub, owed) = (engine.hub(), OwedWakes::default());
        let _subscriber = add_subscriber(&hub);
        let mut published = 0;
        let mut was_deferred = false;
        while !was_deferred && published < 100 {
            expect_taken(&hub, published);
            owed.answer_first(async { publish(&hub) }).await;
            published += 1;
            was_deferred = taken(&hub) < published;
            // No task runs in between.
            publish(&hub);
            published += 1;
        }
        assert!(was_deferred, "the shard was woken by the first publish");
        expect_taken(&hub, published);
    }

    /// With many publishers an event would wait for all of their answers.
    #[tokio::test]
    async fn an_event_waits_for_one_answer_at_most() {
        let engine = Engine::builder().shards(1).start().unwrap();
        let (hub, owed) = (engine.hub(), OwedWakes::default());
        let _subscriber = add_subscriber(&hub);
        for published in 1..=5 {
            owed.answer_first(async { publish(&hub) }).await;
            owed.answer_first(async {}).await;
            expect_taken(&hub, published);
        }
    }
}
