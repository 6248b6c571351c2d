//! The thread that publishes the announcements of members, `fanfare-presence`.
//!
//! It is an ordinary thread of each engine, and the last one where the engine is stopped on a shard. So it
//! also drops what no shard may drop: see [`Announcer::end_on_shard`].

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fanfare_proto::event::Event;

use super::Presence;
use crate::admission::Admission;
use crate::hub::{Hub, PublishError};
use crate::shard_thread;
use crate::store::StoreFailure;
use crate::sync::{Mutex, lock};

/// How long an announcement waits for room before it tries again.
const PATIENCE: Duration = Duration::from_secs(1);

/// Time between two attempts while the disk of the store is full.
const FULL_PAUSE: Duration = Duration::from_millis(100);

/// The thread that publishes announcements.
pub(crate) struct Announcer {
    presence: Arc<Presence>,
    left: Arc<Mutex<Option<Left>>>,
    thread: Option<JoinHandle<()>>,
}

/// What is left of an engine that was stopped on a shard's thread.
struct Left {
    shards: Vec<JoinHandle<()>>,
    admission: Arc<dyn Admission>,
}

impl Announcer {
    /// An announcer whose thread is not started.
    pub(crate) fn new(presence: Arc<Presence>) -> Announcer {
        Announcer { presence, left: Arc::default(), thread: None }
    }

    /// # Errors
    /// The operating system starts no thread.
    pub(crate) fn start(&mut self, hub: Hub) -> io::Result<()> {
        let (presence, left) = (Arc::clone(&self.presence), Arc::clone(&self.left));
        let run = move || {
            while let Some(events) = presence.next_announcements(|| hub.now()) {
                publish_all(&hub, &presence, events);
            }
            let left = lock(&left).take();
            if let Some(Left { shards, admission }) = left {
                // A panic has been reported on standard error.
                shards.into_iter().for_each(|shard| drop(shard.join()));
                drop(admission);
            }
        };
        self.thread = Some(thread::Builder::new().name("fanfare-presence".to_owned()).spawn(run)?);
        Ok(())
    }

    /// Ends the thread, and waits for it where that is possible.
    pub(crate) fn end(&mut self) {
        self.presence.end();
        if !shard_thread::is_current()
            && let Some(thread) = self.thread.take()
        {
            // A panic has been reported on standard error.
            let _ = thread.join();
        }
    }

    /// Ends the thread for an engine that is stopped on a shard's thread, where nothing waits for the shards.
    /// The thread waits for them, and drops the admission after them: on a shard with a descriptor table of
    /// its own, the numbers of the admission's descriptors name other descriptors.
    pub(crate) fn end_on_shard(&mut self, shards: Vec<JoinHandle<()>>, admission: Arc<dyn Admission>) {
        *lock(&self.left) = Some(Left { shards, admission });
        self.end();
    }
}

/// Publishes announcements, however long the hub is busy or the disk of its store is full. An event that may
/// not be published is dropped alone.
fn publish_all(hub: &Hub, presence: &Presence, mut events: Vec<Event>) {
    while !events.is_empty() {
        // What a durable store refuses is not given back, and what a shared log refuses is.
        let copy = if hub.has_store() { events.clone() } else { Vec::new() };
        let Err(interrupted) = hub.publish_wait(&mut events, PATIENCE) else { continue };
        let published = interrupted.published.map_or(0, |published| published.count);
        match (interrupted.error.event_at_fault(), interrupted.error) {
            // The member's name is longer than the data of an event may be.
            (Some(index), _) if index < events.len() => {
                events.remove(index);
                presence.count_not_announced(1);
            }
            (None, PublishError::Busy | PublishError::Unreleased | PublishError::Undecided) => {}
            // A member that left would be there for ever.
            (None, PublishError::NotStored(StoreFailure::Full | StoreFailure::Unreachable)) => {
                events = copy.into_iter().skip(published).collect();
                thread::sleep(FULL_PAUSE);
            }
            (None, PublishError::NotStored(_)) => {
                presence.count_not_announced(copy.len() - published);
                return;
            }
            // The engine ends.
            _ => {
                presence.count_not_announced(events.len());
                return;
            }
        }
    }
}

#[cfg(test)]
#[cfg(not(fanfare_loom))]
mod tests {
    use fanfare_proto::event::Topic;
    use fanfare_proto::limits::Limits;

    use super::*;
    use crate::hub::tests::hub;

    /// One announcement with a name that is longer than an event may be took all others with it that were
    /// published together: up to 255 members joined without an announcement.
    #[test]
    fn an_announcement_that_is_too_large_is_dropped_alone() {
        let (hub, _shards) = hub(1, Limits::default().with_event_bytes(10), &[]);
        let presence = Presence::new(Duration::ZERO, &Limits::default(), 1);
        let event = |data: &str| Event::new(Topic::new("room").unwrap()).with_data(data);
        let long = "a name of more than ten bytes";
        publish_all(&hub, &presence, vec![event(long), event("ada"), event(long), event("bob"), event(long)]);
        assert_eq!((hub.head().seq, presence.counts().not_announced), (2, 3));
    }
}
