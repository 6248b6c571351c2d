//! A publisher that keeps to a plan, so that a late delivery delays no later event.

use std::thread;
use std::time::Duration;

use fanfare::{Event, Hub, PublishError, Topic};
use fanfare_io::Clock;

use crate::{Outcome, machine, stamp};

/// How long a publisher that found no room waits before it tries again.
const PAUSE: Duration = Duration::from_micros(100);

/// Stamped events of one topic in an open loop.
pub struct Paced {
    /// Where they are published.
    pub hub: Hub,
    /// Their topic.
    pub topic: Topic,
    /// The clock of their stamps.
    pub clock: Clock,
    /// The number of the first one.
    pub first: u32,
    /// How many they are.
    pub count: u32,
    /// The time between two of them.
    pub every: Duration,
    /// Bytes of data in each.
    pub data_bytes: usize,
}

impl Paced {
    /// Publishes all of them, each at its time and stamped with it.
    ///
    /// # Errors
    /// The hub refuses one for another reason than want of room.
    pub fn publish(self) -> Outcome<()> {
        machine::hurry();
        let begun = self.clock.now();
        for index in 0..self.count {
            let intended = begun + self.every * index;
            thread::sleep(intended.saturating_sub(self.clock.now()));
            let data = stamp::data(self.first + index, intended, self.data_bytes);
            let mut events = vec![Event::new(self.topic.clone()).with_data(data)];
            // The stamp stays: waiting for room is part of the latency.
            while let Err(error) = self.hub.publish_batch(&mut events) {
                if error != PublishError::Busy {
                    return Err(error.into());
                }
                thread::sleep(PAUSE);
            }
        }
        Ok(())
    }
}
