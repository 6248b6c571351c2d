//! What was published, as the publishers know it. A round's part of it is what each subscriber's log is held against.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fanfare_io::Clock;

/// An epoch, by its place in the order in which the torturer met them.
pub(crate) type EpochNumber = usize;

/// What the publisher of an event knows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fate {
    /// No answer, or none yet: it may come, at most once.
    Open,
    /// It was refused, or never sent whole: it must not come.
    Refused,
    /// It was acknowledged: it must come. Its `seq` is between these, and they are the same unless others' events came
    /// between those of its body.
    Acknowledged { epoch: EpochNumber, seq: (u64, u64), at: Duration },
}

/// An event, as its publisher knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub(crate) mask: u32,
    /// When it was first sent.
    pub(crate) begun: Duration,
    pub(crate) fate: Fate,
}

/// An epoch that was met, and when its server was told to stop, if it was.
#[derive(Clone, Debug)]
pub(crate) struct Epoch {
    name: String,
    pub(crate) told_to_stop: Option<Duration>,
}

/// Everything published since the last round, by key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Round {
    /// The key of the first record.
    pub(crate) base: u64,
    pub(crate) records: Vec<Record>,
    pub(crate) epochs: Vec<Epoch>,
}

/// The publishers' book. Shared by all of them.
#[derive(Debug)]
pub(crate) struct Ledger {
    clock: Clock,
    round: Mutex<Round>,
}

impl Ledger {
    pub(crate) fn new(clock: Clock) -> Ledger {
        Ledger { clock, round: Mutex::default() }
    }

    fn round(&self) -> MutexGuard<'_, Round> {
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives keys to events that are about to be sent, and returns the first.
    pub(crate) fn begin(&self, masks: &[u32]) -> u64 {
        let begun = self.clock.now();
        let mut round = self.round();
        let first = round.base + round.records.len() as u64;
        round.records.extend(masks.iter().map(|&mask| Record { mask, begun, fate: Fate::Open }));
        first
    }

    /// These `count` events will not come.
    pub(crate) fn refused(&self, first: u64, count: usize) {
        self.decide(first, count, |_| Fate::Refused);
    }

    /// These `count` events were acknowledged, with these ids of the first and the last.
    ///
    /// # Errors
    /// The ids are not what a hub gives.
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
            round.epochs.push(Epoch { name: name.to_owned(), told_to_stop: None });
            round.epochs.len() - 1
        })
    }

    /// The server of the newest epoch is about to be told to stop: from what is acknowledged by now, nothing may be
    /// lost.
    pub(crate) fn tell_to_stop(&self) {
        let now = self.clock.now();
        if let Some(epoch) = self.round().epochs.last_mut() {
            epoch.told_to_stop = Some(now);
        }
    }

    /// Ends a round. No publisher may be at work.
    pub(crate) fn end_round(&self) -> Round {
        let mut round = self.round();
        let base = round.base + round.records.len() as u64;
        let next = Round { base, records: Vec::new(), epochs: round.epochs.clone() };
        std::mem::replace(&mut *round, next)
    }
}

/// Epoch and `seq` of an id.
pub(crate) fn split_id(id: &str) -> Option<(&str, u64)> {
    let (epoch, seq) = id.rsplit_once('-')?;
    Some((epoch, seq.parse().ok()?))
}
