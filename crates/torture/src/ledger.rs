//! What the publishers know of every event. The log of each subscriber is compared with the events of a
//! round.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use fanfare_io::Clock;

use crate::event::TOPICS;

/// The number of an epoch, in the order in which torture saw them.
pub(crate) type EpochNumber = usize;

/// What the publisher knows about the fate of an event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fate {
    /// There is no answer, or none yet. The event may be delivered, at most once.
    Open,
    /// The event was refused, or never sent completely. It must not be delivered.
    Refused,
    /// The event was acknowledged and must be delivered. Its `seq` is within this range. The range has one
    /// number unless events of other publishers came between those of the same body.
    Acknowledged { epoch: EpochNumber, seq: (u64, u64), at: Duration },
}

/// An event as its publisher knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub(crate) mask: u32,
    /// An upper bound of the memory that the event takes in the log.
    pub(crate) bytes: usize,
    /// When the event was first sent.
    pub(crate) begun: Duration,
    pub(crate) fate: Fate,
}

/// An epoch, and when its server was asked to stop or was killed, if either happened.
#[derive(Clone, Debug)]
pub(crate) struct Epoch {
    name: String,
    pub(crate) stop_requested: Option<Duration>,
    pub(crate) killed: Option<Duration>,
}

/// Every event that was published since the last round, by key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Round {
    /// The key of the first record.
    pub(crate) base: u64,
    pub(crate) records: Vec<Record>,
    pub(crate) epochs: Vec<Epoch>,
    /// How many bytes of each topic the log retains.
    pub(crate) retained_bytes: usize,
    /// Computed when it is first needed, after the last call of [`Round::came`].
    order: OnceLock<Order>,
}

/// Indexes of the records of a round, sorted.
#[derive(Clone, Debug)]
struct Order {
    /// The acknowledged events by epoch and last possible `seq`, the newest first.
    newest_first: Vec<(EpochNumber, u64, usize)>,
    open: Vec<usize>,
    /// For each epoch and topic, the highest `seq` that the retention of the topic can have dropped by the
    /// end of the round.
    droppable: HashMap<EpochNumber, [u64; TOPICS as usize]>,
}

impl Round {
    fn order(&self) -> &Order {
        self.order.get_or_init(|| {
            let mut order = Order { newest_first: Vec::new(), open: Vec::new(), droppable: HashMap::new() };
            for (place, record) in self.records.iter().enumerate() {
                match record.fate {
                    Fate::Acknowledged { epoch, seq: (_, to), .. } => {
                        order.newest_first.push((epoch, to, place));
                    }
                    Fate::Open => order.open.push(place),
                    Fate::Refused => {}
                }
            }
            order.newest_first.sort_unstable_by(|one, other| other.cmp(one));
            order.droppable = self.droppable(&order);
            order
        })
    }

    fn droppable(&self, order: &Order) -> HashMap<EpochNumber, [u64; TOPICS as usize]> {
        let mut unanswered = [0; TOPICS as usize];
        for &place in &order.open {
            let Record { mask, bytes, .. } = self.records[place];
            bits(mask).for_each(|topic| unanswered[topic] += bytes);
        }
        let mut sums = HashMap::new();
        let mut droppable = HashMap::new();
        for &(epoch, seq, place) in &order.newest_first {
            let Record { mask, bytes, .. } = self.records[place];
            let sums = sums.entry(epoch).or_insert(unanswered);
            let droppable = droppable.entry(epoch).or_insert([0; TOPICS as usize]);
            for topic in bits(mask) {
                sums[topic] += bytes;
                if sums[topic] > self.retained_bytes && droppable[topic] == 0 {
                    droppable[topic] = seq;
                }
            }
        }
        droppable
    }

    /// Whether the retention of topics can have dropped an acknowledged event by the end of the round, so
    /// that a subscriber of the topics in `mask` could not get it any more: every one of them that the event
    /// has must have dropped it.
    pub(crate) fn may_be_dropped(&self, record: &Record, mask: u32) -> bool {
        let Fate::Acknowledged { epoch, seq, .. } = record.fate else { return false };
        let Some(droppable) = self.order().droppable.get(&epoch) else { return false };
        bits(record.mask & mask).all(|topic| seq.0 <= droppable[topic])
    }

    /// The log certainly retains every event of this epoch behind the returned `seq`, as far as only events
    /// that were sent before `by` can have taken room.
    pub(crate) fn retained_after(&self, epoch: EpochNumber, by: Duration) -> u64 {
        let order = self.order();
        let sent = |place: usize| Some(self.records[place].bytes).filter(|_| self.records[place].begun < by);
        // The numbers of unanswered events are unknown, so each of them may have taken room.
        let mut bytes: usize = order.open.iter().filter_map(|&place| sent(place)).sum();
        let mut newest_first = order.newest_first.iter().filter(|(of, ..)| *of == epoch);
        let first_dropped = newest_first.find(|(.., place)| {
            bytes += sent(*place).unwrap_or(0);
            bytes > self.retained_bytes
        });
        first_dropped.map_or(0, |(_, seq, _)| *seq)
    }

    /// Notes that an unanswered event was delivered to a subscriber: it was published, so every subscriber
    /// must get it.
    pub(crate) fn came(&mut self, key: u64, epoch: EpochNumber, seq: u64) {
        if self.is_open(key) {
            self.order.take();
            self.records[(key - self.base) as usize].fate =
                Fate::Acknowledged { epoch, seq: (seq, seq), at: Duration::MAX };
        }
    }

    /// Whether the event has no answer.
    pub(crate) fn is_open(&self, key: u64) -> bool {
        let record = key.checked_sub(self.base).and_then(|index| self.records.get(index as usize));
        record.is_some_and(|record| record.fate == Fate::Open)
    }
}

/// The record of all published events, shared by the publishers.
#[derive(Debug)]
pub(crate) struct Ledger {
    clock: Clock,
    round: Mutex<Round>,
}

impl Ledger {
    /// An empty ledger for a server whose log retains so many bytes of each topic.
    pub(crate) fn new(clock: Clock, retained_bytes: usize) -> Ledger {
        Ledger { clock, round: Mutex::new(Round { retained_bytes, ..Round::default() }) }
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock.now()
    }

    fn round(&self) -> MutexGuard<'_, Round> {
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Assigns consecutive keys to events that are about to be sent, and returns the first key. Each event is
    /// given as its topics and its [`Record::bytes`].
    pub(crate) fn begin(&self, events: &[(u32, usize)]) -> u64 {
        let begun = self.clock.now();
        let mut round = self.round();
        let first = round.base + round.records.len() as u64;
        round.records.extend(events.iter().map(|&(mask, bytes)| Record {
            mask,
            bytes,
            begun,
            fate: Fate::Open,
        }));
        first
    }

    /// Notes that these `count` events will not be delivered.
    pub(crate) fn refused(&self, first: u64, count: usize) {
        self.decide(first, count, |_| Fate::Refused);
    }

    /// Notes that these `count` events were acknowledged with these ids of the first and the last one.
    ///
    /// # Errors
    /// The ids cannot be ids that a hub assigns.
    pub(crate) fn acknowledged(
        &self,
        first: u64,
        count: usize,
        first_id: &str,
        last_id: &str,
    ) -> Result<(), String> {
        let at = self.clock.now();
        let odd = || format!("{count} events were acknowledged as {first_id:?} to {last_id:?}");
        let (first_epoch, first_seq) = split_id(first_id).ok_or_else(odd)?;
        let (last_epoch, last_seq) = split_id(last_id).ok_or_else(odd)?;
        if first_epoch != last_epoch || last_seq < first_seq + count as u64 - 1 {
            return Err(odd());
        }
        let epoch = self.epoch(first_epoch);
        self.decide(first, count, |index| {
            let seq = (first_seq + index as u64, last_seq - (count - 1 - index) as u64);
            Fate::Acknowledged { epoch, seq, at }
        });
        Ok(())
    }

    fn decide(&self, first: u64, count: usize, fate: impl Fn(usize) -> Fate) {
        let mut round = self.round();
        let Some(from) = first.checked_sub(round.base) else { return };
        for (index, record) in round.records.iter_mut().skip(from as usize).take(count).enumerate() {
            record.fate = fate(index);
        }
    }

    /// The number of an epoch by its name.
    pub(crate) fn epoch(&self, name: &str) -> EpochNumber {
        let mut round = self.round();
        let known = round.epochs.iter().position(|epoch| epoch.name == name);
        known.unwrap_or_else(|| {
            round.epochs.push(Epoch { name: name.to_owned(), stop_requested: None, killed: None });
            round.epochs.len() - 1
        })
    }

    /// Notes that the server of the newest epoch is about to be asked to stop. Events that are acknowledged
    /// by now must not be lost.
    pub(crate) fn note_stop_request(&self) {
        let now = self.clock.now();
        if let Some(epoch) = self.round().epochs.last_mut() {
            epoch.stop_requested = Some(now);
        }
    }

    /// Notes that the server of the newest epoch is about to be killed.
    pub(crate) fn note_kill(&self) {
        let now = self.clock.now();
        if let Some(epoch) = self.round().epochs.last_mut() {
            epoch.killed = Some(now);
        }
    }

    /// Ends a round. No publisher may be active.
    pub(crate) fn end_round(&self) -> Round {
        let mut round = self.round();
        let base = round.base + round.records.len() as u64;
        let (epochs, retained_bytes) = (round.epochs.clone(), round.retained_bytes);
        let next = Round { base, epochs, retained_bytes, ..Round::default() };
        std::mem::replace(&mut *round, next)
    }
}

/// The numbers of the topics in a mask.
fn bits(mask: u32) -> impl Iterator<Item = usize> {
    (0..TOPICS as usize).filter(move |topic| mask & (1 << topic) != 0)
}

/// The epoch and the `seq` of an id.
pub(crate) fn split_id(id: &str) -> Option<(&str, u64)> {
    let (epoch, seq) = id.rsplit_once('-')?;
    Some((epoch, seq.parse().ok()?))
}
