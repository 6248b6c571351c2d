//! What the `id` fields of a server are good for: are they there, does each name one event, and do they rise?

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What was seen of ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct IdFigures {
    /// Deliveries whose event had an id of its own.
    pub(crate) with: u64,
    /// Deliveries whose event had none.
    pub(crate) without: u64,
    /// Deliveries of an event whose id was not that of its first delivery. Where a stream has several topics
    /// this may be meant so.
    pub(crate) differing: u64,
    /// Events whose id another event of the topic has, too: a subscriber that names it can be sent too much
    /// or too little.
    pub(crate) repeated: u64,
    /// Events whose id ends with a number that is not above that of the event before, with the same
    /// beginning.
    pub(crate) falling: u64,
}

impl IdFigures {
    pub(crate) fn add(&mut self, other: IdFigures) {
        self.with += other.with;
        self.without += other.without;
        self.differing += other.differing;
        self.repeated += other.repeated;
        self.falling += other.falling;
    }
}

/// The id of one event, in short. All zero: it has none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct EventId {
    /// The first bytes of its SHA-256.
    hash: u64,
    /// The CRC-32 of what stands before the number at its end.
    beginning: u32,
    /// The number at its end; 0 where there is none.
    number: u64,
}

/// What stands before the number at the end of an id, and the number.
fn take_apart(id: &[u8]) -> Option<(&[u8], u64)> {
    let digits = id.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (beginning, number) = id.split_at(id.len() - digits);
    Some((beginning, std::str::from_utf8(number).ok()?.parse().ok()?))
}

impl EventId {
    pub(crate) fn of(id: &[u8]) -> EventId {
        let (beginning, number) = take_apart(id).unwrap_or((id, 0));
        // The ids of two events are to have one hash only where they are equal, and the same one on each
        // machine.
        let digest = Sha256::digest(id);
        let hash = digest.first_chunk().map_or(1, |first| u64::from_le_bytes(*first));
        EventId { hash: hash.max(1), beginning: crc32fast::hash(beginning), number }
    }

    /// Bytes of [`Self::to_bytes`].
    pub(super) const BYTES: usize = 20;

    /// For another machine.
    pub(super) fn to_bytes(self) -> [u8; EventId::BYTES] {
        let mut bytes = [0; EventId::BYTES];
        bytes[..8].copy_from_slice(&self.hash.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..].copy_from_slice(&self.beginning.to_le_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<EventId> {
        Some(EventId {
            hash: u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?),
            number: u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?),
            beginning: u32::from_le_bytes(bytes.get(16..20)?.try_into().ok()?),
        })
    }

    pub(crate) fn is_none(self) -> bool {
        self.hash == 0
    }
}

/// How often ids repeat and fall among the events of one topic, in the order of the events.
pub(crate) fn judge(ids: impl Iterator<Item = EventId>) -> (u64, u64) {
    let ids: Vec<EventId> = ids.filter(|id| !id.is_none()).collect();
    let falls = |pair: &[EventId]| pair[0].beginning == pair[1].beginning && pair[1].number <= pair[0].number;
    let has_numbers = |pair: &[EventId]| pair[0].number > 0 || pair[1].number > 0;
    let same = |pair: &[EventId]| pair[0].hash == pair[1].hash;
    let falling = ids.windows(2).filter(|pair| !same(pair) && has_numbers(pair) && falls(pair)).count();
    let mut hashes: Vec<u64> = ids.iter().map(|id| id.hash).collect();
    hashes.sort_unstable();
    let repeated = hashes.windows(2).filter(|pair| pair[0] == pair[1]).count();
    (repeated as u64, falling as u64)
}

/// How an id stands to the one before it in the same stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Step {
    /// It rises, or there is nothing that says otherwise.
    On,
    /// It is the same.
    Again,
    /// It has the same beginning, and a lower number at its end.
    Back,
}

/// Compares two ids that follow each other in a stream.
pub(crate) fn step(before: &[u8], id: &[u8]) -> Step {
    if before.is_empty() || id.is_empty() {
        return Step::On;
    }
    if before == id {
        return Step::Again;
    }
    match (take_apart(before), take_apart(id)) {
        (Some((first, before)), Some((second, number))) if first == second && number < before => Step::Back,
        _ => Step::On,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_repeat_and_fall_are_counted() {
        let judged = |ids: &[&str]| judge(ids.iter().map(|id| EventId::of(id.as_bytes())));
        assert_eq!(judged(&["1", "2", "10"]), (0, 0));
        assert_eq!(judged(&["a-1", "a-2", "b-1"]), (0, 0), "another beginning");
        assert_eq!(judged(&["a-5", "a-4", "a-6"]), (0, 1));
        assert_eq!(judged(&["5", "6", "5", "6"]), (2, 1));
        assert_eq!(judged(&["0", "1", "2"]), (0, 0), "they may begin at zero");
        assert_eq!(judged(&["x", "y", "abc", "x"]), (1, 0), "without numbers only a repeated one is wrong");
        assert_eq!(judge([EventId::default(), EventId::default()].into_iter()), (0, 0));
    }

    #[test]
    fn ids_of_a_stream_are_compared_with_the_one_before() {
        assert_eq!(step(b"", b"1"), Step::On);
        assert_eq!(step(b"9", b"10"), Step::On);
        assert_eq!(step(b"e:10", b"e:9"), Step::Back);
        assert_eq!(step(b"f:10", b"e:9"), Step::On);
        assert_eq!(step(b"e:9", b"e:9"), Step::Again);
        assert_eq!(step(b"99999999999999999999999999", b"1"), Step::On, "no number that fits");
    }
}
