//! What the publishers know of every event.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fanfare_io::Clock;

use crate::ledger::split_id;

/// The topics are `area/t0`, `area/t1` and so on, so that names have more than one part.
pub(super) const TOPICS: u32 = 8;

/// All topics.
pub(super) const ALL: u32 = (1 << TOPICS) - 1;

/// The name of a topic.
pub(super) fn topic(number: u32) -> String {
    format!("area/t{number}")
}

/// The names of the topics in a mask.
pub(super) fn topics(mask: u32) -> impl Iterator<Item = String> {
    (0..TOPICS).filter(move |number| mask & (1 << number) != 0).map(topic)
}

/// The publisher's own id of an event.
pub(super) fn own_id(key: usize) -> String {
    format!("own.{key}")
}

/// What the publisher knows about the fate of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// There is no answer, or none yet, or one that decides nothing. The event may be delivered, at most
    /// once.
    Open,
    /// The event was refused, or never sent. It must not be delivered.
    Refused,
    /// The event was acknowledged and must be delivered. The server's ids are given where the answer has
    /// them: the epoch, and the range of numbers in which that of the event is.
    Acknowledged(Option<(String, u64, u64)>),
}

/// An event as its publisher knows it. The key is its place in the ledger.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) mask: u32,
    pub(super) has_own_id: bool,
    /// When the event was first sent.
    pub(super) begun: Duration,
    pub(super) fate: Fate,
    /// An earlier round has seen it delivered.
    pub(super) came: bool,
}

/// All events that were ever published in a world.
#[derive(Debug)]
pub(super) struct Ledger {
    clock: Clock,
    records: Mutex<Vec<Record>>,
}

impl Ledger {
    pub(super) fn new(clock: Clock) -> Ledger {
        Ledger { clock, records: Mutex::default() }
    }

    pub(super) fn now(&self) -> Duration {
        self.clock.now()
    }

    pub(super) fn records(&self) -> MutexGuard<'_, Vec<Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Assigns keys to events that are about to be sent, and returns the first.
    pub(super) fn begin(&self, masks: &[u32], has_own_id: bool) -> usize {
        let begun = self.now();
        let mut records = self.records();
        let first = records.len();
        records.extend(masks.iter().map(|&mask| Record {
            mask,
            has_own_id,
            begun,
            fate: Fate::Open,
            came: false,
        }));
        first
    }

    /// Notes that these events must not be delivered.
    pub(super) fn refused(&self, first: usize, count: usize) {
        self.records()[first..first + count].iter_mut().for_each(|record| record.fate = Fate::Refused);
    }

    /// Notes that these events, which have own ids, were acknowledged.
    pub(super) fn acknowledged(&self, first: usize, count: usize) {
        let records = &mut self.records()[first..first + count];
        records.iter_mut().for_each(|record| record.fate = Fate::Acknowledged(None));
    }

    /// Notes that these events were acknowledged with these ids of the first and the last one.
    ///
    /// # Errors
    /// The ids cannot be ids of so many events.
    pub(super) fn acknowledged_as(
        &self,
        first: usize,
        count: usize,
        first_id: &str,
        last_id: &str,
    ) -> Result<(), String> {
        let odd = || format!("{count} events were acknowledged as {first_id:?} to {last_id:?}");
        let (epoch, from) = split_id(first_id).ok_or_else(odd)?;
        let (last_epoch, to) = split_id(last_id).ok_or_else(odd)?;
        if epoch != last_epoch || to + 1 < from + count as u64 {
            return Err(odd());
        }
        for (index, record) in self.records()[first..first + count].iter_mut().enumerate() {
            let range = (from + index as u64, to - (count - 1 - index) as u64);
            record.fate = Fate::Acknowledged(Some((epoch.to_owned(), range.0, range.1)));
        }
        Ok(())
    }
}
