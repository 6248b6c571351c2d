//! The tables of the database, and the small rows in them.
//!
//! ```text
//! table    key                              row
//! state    "state"                          the counts of the whole store
//! groups   a number                         records (see crate::encoding), none of them below the key
//! topics   the name of a topic              what is known of the topic
//! index    topic, key of a group            the topic's records in that group
//! ids      hash, number                     (nothing): a record with an own id
//! ```
//!
//! Every row of `state`, `topics` and `index` begins with a checksum over its key and what follows, so that a
//! row that comes back under another key is found out as well. The key of a group stays when its first
//! records are gone.

use redb::TableDefinition;

use crate::Error;
use crate::contract::Gone;
use crate::encoding::{Damage, put_varint, take_varint};

/// Of the tables and the small rows. A store of another version is refused. Version 1 had own ids in buckets
/// of numbers, each of which a search had to look into.
pub(super) const FORMAT: u32 = 2;

pub(super) const STATE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("state");
pub(super) const GROUPS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("groups");
pub(super) const TOPICS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("topics");
pub(super) const INDEX: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("index");
pub(super) const IDS: TableDefinition<'_, (u64, u64), ()> = TableDefinition::new("ids");

/// The key of the only row of [`STATE`].
pub(super) const STATE_KEY: &str = "state";

/// What a row of the index costs on the disk beside its bytes: key, lengths, and the room that is free in a
/// page of a tree.
pub(super) const INDEX_ROW_BYTES: u64 = 40;
/// What the row of a topic with records costs beside its name and its bytes.
pub(super) const TOPIC_ROW_BYTES: u64 = 64;
/// What a row of own ids costs.
pub(super) const ID_ROW_BYTES: u64 = 32;
/// What a group costs beside its bytes.
pub(super) const GROUP_ROW_BYTES: u64 = 32;

/// The counts of the whole store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StateRow {
    /// The epoch's text.
    pub(super) epoch: [u8; 9],
    /// The key of the hashes of own ids.
    pub(super) hash_key: [u64; 2],
    /// The newest record that was committed.
    pub(super) committed: u64,
    /// Numbers up to here may have been given to records that were not committed. At least `committed`, and
    /// no more than that while there are no asynchronous records.
    pub(super) reserved: u64,
    /// The index has every record up to this one.
    pub(super) indexed: u64,
    /// Records in the groups, and their encoded bytes.
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// Those of them that are not indexed.
    pub(super) tail_records: u64,
    pub(super) tail_bytes: u64,
    /// What groups, topics with records, index and ids take, by [`GROUP_ROW_BYTES`] and the others.
    pub(super) charged: u64,
    /// Records that were ever committed, and their encoded bytes.
    pub(super) ever_records: u64,
    pub(super) ever_bytes: u64,
    /// What is gone of any topic.
    pub(super) gone: Gone,
    /// Records up to here were lost with a power cut, and nobody knows of which topics.
    pub(super) cut: u64,
    /// What may be gone of a topic without a row.
    pub(super) forgotten: Gone,
    /// The next topic's key in the index.
    pub(super) next_topic: u64,
    /// Topics with records, and those without any of which it is remembered what is gone.
    pub(super) topics: u64,
    pub(super) empty_topics: u64,
    /// The sum of [`TopicRow::bytes`].
    pub(super) topic_bytes: u64,
}

/// What is known of a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TopicRow {
    /// The topic's key in the index.
    pub(super) key: u64,
    /// Records that are indexed and not gone from the topic.
    pub(super) records: u64,
    /// Their encoded bytes.
    pub(super) bytes: u64,
    pub(super) gone: Gone,
    /// No record was published before this time, in milliseconds since 1970.
    pub(super) earliest_ms: u64,
}

/// A topic's record in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) number: u64,
    pub(super) published_ms: u64,
    pub(super) bytes: u64,
    pub(super) is_private: bool,
}

impl StateRow {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut body = self.epoch.to_vec();
        for value in self.hash_key {
            body.extend_from_slice(&value.to_le_bytes());
        }
        for value in [
            self.committed,
            self.reserved,
            self.indexed,
            self.records,
            self.bytes,
            self.tail_records,
            self.tail_bytes,
            self.charged,
            self.ever_records,
            self.ever_bytes,
            self.gone.newest,
            self.gone.newest_public,
            self.cut,
            self.forgotten.newest,
            self.forgotten.newest_public,
            self.next_topic,
            self.topics,
            self.empty_topics,
            self.topic_bytes,
        ] {
            put_varint(&mut body, value);
        }
        seal(STATE_KEY.as_bytes(), &body)
    }

    pub(super) fn read(row: &[u8]) -> Result<StateRow, Error> {
        let read = || {
            let body = unseal(STATE_KEY.as_bytes(), row)?;
            let (epoch, body) = body.split_first_chunk::<9>().ok_or(Damage::Length)?;
            let (first, body) = body.split_first_chunk::<8>().ok_or(Damage::Length)?;
            let (second, mut body) = body.split_first_chunk::<8>().ok_or(Damage::Length)?;
            let mut next = || take_varint(&mut body);
            let row = StateRow {
                epoch: *epoch,
                hash_key: [u64::from_le_bytes(*first), u64::from_le_bytes(*second)],
                committed: next()?,
                reserved: next()?,
                indexed: next()?,
                records: next()?,
                bytes: next()?,
                tail_records: next()?,
                tail_bytes: next()?,
                charged: next()?,
                ever_records: next()?,
                ever_bytes: next()?,
                gone: Gone { newest: next()?, newest_public: next()? },
                cut: next()?,
                forgotten: Gone { newest: next()?, newest_public: next()? },
                next_topic: next()?,
                topics: next()?,
                empty_topics: next()?,
                topic_bytes: next()?,
            };
            if body.is_empty() { Ok(row) } else { Err(Damage::Length) }
        };
        read().map_err(|damage| Error::corrupt("the row of the state", damage.to_string()))
    }
}

impl TopicRow {
    pub(super) fn encode(&self, name: &str) -> Vec<u8> {
        let mut body = Vec::with_capacity(24);
        for value in
            [self.key, self.records, self.bytes, self.gone.newest, self.gone.newest_public, self.earliest_ms]
        {
            put_varint(&mut body, value);
        }
        seal(name.as_bytes(), &body)
    }

    pub(super) fn read(name: &str, row: &[u8]) -> Result<TopicRow, Error> {
        let read = || {
            let mut body = unseal(name.as_bytes(), row)?;
            let mut next = || take_varint(&mut body);
            let row = TopicRow {
                key: next()?,
                records: next()?,
                bytes: next()?,
                gone: Gone { newest: next()?, newest_public: next()? },
                earliest_ms: next()?,
            };
            if body.is_empty() { Ok(row) } else { Err(Damage::Length) }
        };
        read().map_err(|damage| Error::corrupt(format!("the row of the topic {name:?}"), damage.to_string()))
    }
}

/// The row of a topic's records in a group. There is at least one record.
pub(super) fn encode_entries(key: (u64, u64), entries: &[Entry]) -> Vec<u8> {
    let mut body = Vec::with_capacity(8 * entries.len());
    let (mut number, mut time) = (key.1, 0_u64);
    for entry in entries {
        put_varint(&mut body, entry.number - number);
        let since = entry.published_ms.wrapping_sub(time).cast_signed();
        put_varint(&mut body, ((since << 1) ^ (since >> 63)).cast_unsigned());
        put_varint(&mut body, entry.bytes << 1 | u64::from(entry.is_private));
        (number, time) = (entry.number, entry.published_ms);
    }
    seal(&key_bytes(key), &body)
}

pub(super) fn read_entries(key: (u64, u64), row: &[u8]) -> Result<Vec<Entry>, Error> {
    let read = || {
        let mut body = unseal(&key_bytes(key), row)?;
        let (mut entries, mut number, mut time) = (Vec::new(), key.1, 0_u64);
        while !body.is_empty() {
            number = number.checked_add(take_varint(&mut body)?).ok_or(Damage::Numbers)?;
            let since = take_varint(&mut body)?;
            time = time.wrapping_add((since >> 1) ^ (since & 1).wrapping_neg());
            let bytes = take_varint(&mut body)?;
            let (bytes, is_private) = (bytes >> 1, bytes & 1 == 1);
            entries.push(Entry { number, published_ms: time, bytes, is_private });
        }
        if entries.is_empty() { Err(Damage::Length) } else { Ok(entries) }
    };
    read().map_err(|damage: Damage| {
        Error::corrupt(format!("the index of topic {} in group {}", key.0, key.1), damage.to_string())
    })
}

fn key_bytes(key: (u64, u64)) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&key.0.to_le_bytes());
    bytes[8..].copy_from_slice(&key.1.to_le_bytes());
    bytes
}

fn checksum(key: &[u8], body: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(body);
    hasher.finalize().to_le_bytes()
}

pub(super) fn seal(key: &[u8], body: &[u8]) -> Vec<u8> {
    [&checksum(key, body), body].concat()
}

pub(super) fn unseal<'r>(key: &[u8], row: &'r [u8]) -> Result<&'r [u8], Damage> {
    let (found, body) = row.split_first_chunk::<4>().ok_or(Damage::Length)?;
    if *found == checksum(key, body) { Ok(body) } else { Err(Damage::Checksum) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_come_back_and_no_bytes_panic(values: [u64; 16], bytes: Vec<u8>, bit: usize) {
            let gone = |newest, newest_public| Gone { newest, newest_public };
            let state = StateRow {
                epoch: *b"abcdefghi",
                hash_key: [values[0], values[1]],
                committed: values[2],
                gone: gone(values[3], values[4]),
                topic_bytes: values[5],
                ..StateRow::default()
            };
            prop_assert_eq!(StateRow::read(&state.encode()).unwrap(), state);
            let topic = TopicRow {
                key: values[0],
                records: values[1],
                bytes: values[2],
                gone: gone(values[3], values[4]),
                earliest_ms: values[5],
            };
            let mut row = topic.encode("a");
            prop_assert_eq!(TopicRow::read("a", &row).unwrap(), topic);
            prop_assert!(TopicRow::read("b", &row).is_err());
            let bit = bit % (8 * row.len());
            row[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(TopicRow::read("a", &row).is_err());
            for sealed in [bytes.clone(), seal(b"a", &bytes), seal(STATE_KEY.as_bytes(), &bytes),
                seal(&key_bytes((1, 2)), &bytes)] {
                let _ = (StateRow::read(&sealed), TopicRow::read("a", &sealed), read_entries((1, 2), &sealed));
            }
        }

        #[test]
        fn entries_come_back(
            first in 0..u64::MAX / 2,
            entries in proptest::collection::vec((0..1000_u64, any::<u64>(), 0..u64::MAX / 2, any::<bool>()), 1..20),
        ) {
            let mut number = first;
            let entries: Vec<Entry> = entries.into_iter().map(|(above, published_ms, bytes, is_private)| {
                number += above;
                Entry { number, published_ms, bytes, is_private }
            }).collect();
            let row = encode_entries((7, first), &entries);
            prop_assert_eq!(read_entries((7, first), &row).unwrap(), entries);
            prop_assert!(read_entries((8, first), &row).is_err());
        }
    }
}
