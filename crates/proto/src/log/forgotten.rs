//! What the log still knows of topics that it has no entry for.
//!
//! A topic that has neither frames nor readers has no entry. So that its next subscriber is not told of a gap
//! that is none, a *tombstone* stays: a hash of its name, and the newest frames of it that were dropped.
//! Tombstones have a bound in bytes. Only when the oldest of them goes does the floor rise that holds for all
//! topics without entry and tombstone.

use std::num::NonZeroU64;

use super::dropped::Dropped;
use crate::slot_table::SlotTable;
use crate::slots::{NO_SLOT, Slots};

/// The tombstones, oldest first, and the floor.
pub(super) struct Forgotten {
    /// No frame after this has been dropped of any topic that has neither an entry nor a tombstone.
    floor: Dropped,
    tombstones: Slots<Tombstone>,
    by_hash: SlotTable,
    oldest: u32,
    newest: u32,
    max_bytes: usize,
}

struct Tombstone {
    /// Of the topic's name. Two names with one hash would share a tombstone; the log's keys are secret, so
    /// that no client can compute such a pair, and by chance one in 2^64 pairs is one.
    hash: u64,
    /// What [`Dropped::newest`] was. A topic that has lost nothing has no tombstone.
    newest_dropped: NonZeroU64,
    /// What [`Dropped::newest_public`] was.
    newest_public_dropped: u64,
    older: u32,
    newer: u32,
}

impl Tombstone {
    fn dropped(&self) -> Dropped {
        Dropped { newest: self.newest_dropped.get(), newest_public: self.newest_public_dropped }
    }
}

impl Forgotten {
    pub(super) fn new(max_bytes: usize) -> Forgotten {
        Forgotten {
            floor: Dropped::default(),
            tombstones: Slots::new(),
            by_hash: SlotTable::new(),
            oldest: NO_SLOT,
            newest: NO_SLOT,
            max_bytes,
        }
    }

    /// The memory of the tombstones, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.tombstones.bytes() + self.by_hash.bytes()
    }

    /// Tombstones.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.tombstones.len()
    }

    /// What has been dropped of the topic with this hash, which has no entry.
    pub(super) fn dropped(&self, hash: u64) -> Dropped {
        self.find(hash).map_or(self.floor, |slot| self.tombstones[slot].dropped())
    }

    /// The same, for a topic that gets an entry: its tombstone goes.
    pub(super) fn take(&mut self, hash: u64) -> Dropped {
        let Some(slot) = self.find(hash) else { return self.floor };
        self.remove(slot).dropped()
    }

    /// Every frame up to this number is gone, of all topics that have neither an entry nor a tombstone.
    pub(super) fn raise_floor(&mut self, seq: u64) {
        self.floor = self.floor.and(Dropped { newest: seq, newest_public: seq });
    }

    /// The same, where private frames and others are gone up to different numbers.
    pub(super) fn raise_floor_to(&mut self, gone: Dropped) {
        self.floor = self.floor.and(gone);
    }

    /// Notes what is known of a topic whose entry goes.
    pub(super) fn insert(&mut self, hash: u64, dropped: Dropped) {
        // The floor says as much already.
        if self.floor.and(dropped) == self.floor {
            return;
        }
        // Two topics with one hash.
        let dropped = self.find(hash).map_or(dropped, |slot| self.remove(slot).dropped().and(dropped));
        let Dropped { newest, newest_public: newest_public_dropped } = dropped;
        let Some(newest_dropped) = NonZeroU64::new(newest) else { return };
        let (older, newer) = (self.newest, NO_SLOT);
        let tombstone = Tombstone { hash, newest_dropped, newest_public_dropped, older, newer };
        let slot = self.tombstones.insert(tombstone);
        *self.newer_of(older) = slot;
        self.newest = slot;
        let tombstones = &self.tombstones;
        self.by_hash.insert(hash, slot, |slot| tombstones[slot].hash);
        self.shrink_towards(self.max_bytes, usize::MAX);
    }

    /// Changes the bound. Where it is lower, [`Forgotten::shrink_towards`] comes before.
    pub(super) fn set_max_bytes(&mut self, bytes: usize) {
        self.max_bytes = bytes;
    }

    /// Removes the oldest tombstones, at most `budget` of them, until they take no more than this. Answers
    /// whether they do.
    pub(super) fn shrink_towards(&mut self, max_bytes: usize, budget: usize) -> bool {
        for _ in 0..budget {
            if self.bytes() <= max_bytes || self.oldest == NO_SLOT {
                break;
            }
            let oldest = self.remove(self.oldest);
            self.floor = self.floor.and(oldest.dropped());
        }
        self.bytes() <= max_bytes || self.oldest == NO_SLOT
    }

    fn find(&self, hash: u64) -> Option<u32> {
        self.by_hash.find(hash, |slot| self.tombstones[slot].hash == hash)
    }

    fn remove(&mut self, slot: u32) -> Tombstone {
        let tombstone = self.tombstones.remove(slot);
        *self.newer_of(tombstone.older) = tombstone.newer;
        match tombstone.newer {
            NO_SLOT => self.newest = tombstone.older,
            newer => self.tombstones[newer].older = tombstone.older,
        }
        let tombstones = &self.tombstones;
        self.by_hash.remove(tombstone.hash, slot, |slot| tombstones[slot].hash);
        tombstone
    }

    /// What points to the neighbour of `slot` that is newer; for none, what points to the oldest.
    fn newer_of(&mut self, slot: u32) -> &mut u32 {
        match slot {
            NO_SLOT => &mut self.oldest,
            slot => &mut self.tombstones[slot].newer,
        }
    }

    /// Checks what must always hold; for tests.
    pub(super) fn check(&self) {
        self.tombstones.check();
        self.by_hash.check(|slot| self.tombstones[slot].hash);
        assert_eq!(self.by_hash.len(), self.tombstones.len(), "tombstones by their hash");
        let (mut count, mut slot, mut older) = (0, self.oldest, NO_SLOT);
        while slot != NO_SLOT {
            let tombstone = &self.tombstones[slot];
            assert_eq!(tombstone.older, older, "neighbours in the list of tombstones");
            assert_eq!(self.find(tombstone.hash), Some(slot), "a tombstone is found by its hash");
            (count, older, slot) = (count + 1, slot, tombstone.newer);
        }
        assert_eq!((count, older), (self.tombstones.len(), self.newest), "the list of tombstones");
        assert!(self.tombstones.is_empty() || self.bytes() <= self.max_bytes, "the bytes of tombstones");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public(seq: u64) -> Dropped {
        Dropped { newest: seq, newest_public: seq }
    }

    #[test]
    fn the_floor_rises_only_when_a_tombstone_goes_for_want_of_room() {
        let mut forgotten = Forgotten::new(40_000);
        for topic in 1..=500 {
            forgotten.insert(topic << 35 | topic, public(topic));
            forgotten.check();
        }
        assert_eq!((forgotten.floor, forgotten.len()), (public(0), 500));
        assert_eq!(forgotten.dropped(7 << 35 | 7), public(7));
        assert_eq!(
            forgotten.dropped(1),
            public(0),
            "nothing was ever dropped of a topic without a tombstone"
        );
        // A tombstone that was taken over comes back as the newest.
        assert_eq!(forgotten.take(1 << 35 | 1), public(1));
        forgotten.insert(1 << 35 | 1, public(600));
        for topic in 1_000..10_000_u64 {
            // Of every other topic, the last frame was private.
            let newest_public = topic - topic % 2;
            forgotten.insert(topic << 35 | topic, Dropped { newest: topic, newest_public });
        }
        forgotten.check();
        let kept = forgotten.len() as u64;
        assert!(kept > 500, "{kept} tombstones fit");
        let (newest, oldest_kept) = (9_999, 10_000 - kept);
        assert_eq!(forgotten.floor.newest, oldest_kept - 1, "the oldest go first");
        assert_eq!(forgotten.floor.newest_public, (oldest_kept - 1) & !1);
        let of_newest = forgotten.dropped(newest << 35 | newest);
        assert_eq!(of_newest, Dropped { newest, newest_public: newest - 1 });
        assert_eq!(forgotten.dropped(7 << 35 | 7), forgotten.floor);
    }
}
