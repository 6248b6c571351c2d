//! Records as bytes, and back: what a store keeps.
//!
//! A group of records is one piece of bytes with one checksum. A variable number (*varint*) has seven bits in
//! each byte, the lowest first; the highest bit says that more follow.
//!
//! ```text
//! group   version: 1 byte | CRC-32 of what follows: 4 bytes, lowest first | records: varint
//!         | first number: varint | first time: varint | for each record: number above the one before
//!         (zero for the first), and bytes: two varints | the records
//! record  flags: 1 byte | time less the first time: varint, sign in the lowest bit | topics: varint
//!         | for each topic: length, bytes | own id: length, bytes | type: length, bytes | retry in ms: varint
//!         | data: all bytes up to the end
//! flags   1: has an own id, 2: a type, 4: data, 8: a retry, 16: is private; the others are zero
//! ```
//!
//! Reading checks everything, takes any bytes without a panic, and allocates no more than the bytes are long.

use std::fmt;
use std::ops::Range;

use fanfare_proto::event::{Event, EventId, EventType, InvalidEvent, MAX_TOPICS_PER_EVENT, Retry, Topic};

use crate::Record;

/// The version of the encoding. A reader refuses others.
pub const VERSION: u8 = 1;

const HAS_ID: u8 = 1;
const HAS_TYPE: u8 = 2;
const HAS_DATA: u8 = 4;
const HAS_RETRY: u8 = 8;
const IS_PRIVATE: u8 = 16;

/// Version and checksum.
const HEADER_BYTES: usize = 5;

/// What is wrong with bytes that should be a group of records.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// The bytes end too early, or go on behind the last record.
    Length,
    /// The encoding has this version, which is not known.
    Version(u8),
    /// The checksum is another one.
    Checksum,
    /// The numbers do not rise, or the group is empty.
    Numbers,
    /// A record has flags that are not known.
    Flags,
    /// A text is not UTF-8.
    Text,
    /// A topic, an id or a type cannot be one.
    Event(InvalidEvent),
    /// An event has no topic, one twice, or too many.
    Topics,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Length => f.write_str("the length is wrong"),
            Damage::Version(version) => write!(f, "the version {version} of the encoding is not known"),
            Damage::Checksum => f.write_str("the checksum does not match"),
            Damage::Numbers => f.write_str("the numbers do not rise"),
            Damage::Flags => f.write_str("unknown flags are set"),
            Damage::Text => f.write_str("a text is not UTF-8"),
            Damage::Event(invalid) => invalid.fmt(f),
            Damage::Topics => f.write_str("the topics are wrong"),
        }
    }
}

impl std::error::Error for Damage {}

/// The encoded bytes of an event: what it counts with in a store's bounds.
pub fn event_bytes(event: &Event) -> usize {
    let text = |length: usize| length + varint_bytes(length as u64);
    let topics: usize = event.topics().iter().map(|topic| text(topic.as_str().len())).sum();
    // Flags, a time of two bytes, the number of topics.
    4 + topics
        + event.id().map_or(0, |id| text(id.as_str().len()))
        + event.event_type().map_or(0, |kind| text(kind.as_str().len()))
        + event.retry().map_or(0, |retry| varint_bytes(retry.millis()))
        + event.data().map_or(0, str::len)
}

/// Encodes records whose numbers rise.
///
/// # Panics
/// There is no record, or the numbers do not rise.
pub fn encode_group<'r>(records: impl IntoIterator<Item = &'r Record, IntoIter: Clone>) -> Vec<u8> {
    let records = records.into_iter();
    let count = records.clone().count();
    let mut each = records.clone();
    let first = each.next().expect("a group has a record");
    let (mut bodies, mut table) = (Vec::new(), Vec::new());
    let mut previous = first.number;
    for (index, record) in records.enumerate() {
        assert!(index == 0 || record.number > previous, "the numbers of a group rise");
        let start = bodies.len();
        put_record(&mut bodies, record, first.published_ms);
        put_varint(&mut table, record.number - previous);
        put_varint(&mut table, (bodies.len() - start) as u64);
        previous = record.number;
    }
    let mut bytes = Vec::with_capacity(HEADER_BYTES + 24 + table.len() + bodies.len());
    bytes.extend_from_slice(&[VERSION, 0, 0, 0, 0]);
    put_varint(&mut bytes, count as u64);
    put_varint(&mut bytes, first.number);
    put_varint(&mut bytes, first.published_ms);
    bytes.append(&mut table);
    bytes.append(&mut bodies);
    let checksum = crc32fast::hash(&bytes[HEADER_BYTES..]);
    bytes[1..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// A group whose checksum and table were checked. Its records are decoded one by one.
#[derive(Debug)]
pub struct Group<'b> {
    bytes: &'b [u8],
    first_ms: u64,
    entries: Vec<(u64, Range<usize>)>,
}

impl<'b> Group<'b> {
    /// Checks the bytes of a group.
    ///
    /// # Errors
    /// The bytes are not what [`encode_group`] has made.
    pub fn read(bytes: &'b [u8]) -> Result<Group<'b>, Damage> {
        let (header, mut rest) = bytes.split_at_checked(HEADER_BYTES).ok_or(Damage::Length)?;
        if header[0] != VERSION {
            return Err(Damage::Version(header[0]));
        }
        if crc32fast::hash(rest).to_le_bytes() != header[1..] {
            return Err(Damage::Checksum);
        }
        let count = take_length(&mut rest)?;
        let first = take_varint(&mut rest)?;
        let first_ms = take_varint(&mut rest)?;
        // Each entry takes two bytes at least.
        if count == 0 || count > rest.len() / 2 {
            return Err(Damage::Numbers);
        }
        let mut entries = Vec::with_capacity(count);
        let (mut number, mut length) = (first, 0_usize);
        for index in 0..count {
            let above = take_varint(&mut rest)?;
            if (above == 0) != (index == 0) {
                return Err(Damage::Numbers);
            }
            number = number.checked_add(above).ok_or(Damage::Numbers)?;
            let end = length.checked_add(take_length(&mut rest)?).ok_or(Damage::Length)?;
            entries.push((number, length..end));
            length = end;
        }
        if rest.len() != length {
            return Err(Damage::Length);
        }
        Ok(Group { bytes: rest, first_ms, entries })
    }

    /// How many records there are; at least one.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Always false.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The numbers of the records, in order.
    pub fn numbers(&self) -> impl Iterator<Item = u64> {
        self.entries.iter().map(|(number, _)| *number)
    }

    /// The record at this position.
    ///
    /// # Errors
    /// Its bytes are no record, or there is none at this position.
    pub fn record(&self, index: usize) -> Result<Record, Damage> {
        let (number, range) = self.entries.get(index).ok_or(Damage::Numbers)?;
        take_record(*number, self.first_ms, &self.bytes[range.clone()])
    }

    /// All records.
    ///
    /// # Errors
    /// The bytes of one of them are no record.
    pub fn records(&self) -> Result<Vec<Record>, Damage> {
        (0..self.len()).map(|index| self.record(index)).collect()
    }
}

fn put_record(bytes: &mut Vec<u8>, record: &Record, first_ms: u64) {
    let event = &record.event;
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    bytes.push(
        flag(event.id().is_some(), HAS_ID)
            | flag(event.event_type().is_some(), HAS_TYPE)
            | flag(event.data().is_some(), HAS_DATA)
            | flag(event.retry().is_some(), HAS_RETRY)
            | flag(event.is_private(), IS_PRIVATE),
    );
    // The difference wraps around, so that any two times can be told apart.
    let since = record.published_ms.wrapping_sub(first_ms).cast_signed();
    put_varint(bytes, ((since << 1) ^ (since >> 63)).cast_unsigned());
    put_varint(bytes, event.topics().len() as u64);
    for topic in event.topics() {
        put_text(bytes, topic.as_str());
    }
    if let Some(id) = event.id() {
        put_text(bytes, id.as_str());
    }
    if let Some(kind) = event.event_type() {
        put_text(bytes, kind.as_str());
    }
    if let Some(retry) = event.retry() {
        put_varint(bytes, retry.millis());
    }
    bytes.extend_from_slice(event.data().unwrap_or_default().as_bytes());
}

fn take_record(number: u64, first_ms: u64, mut bytes: &[u8]) -> Result<Record, Damage> {
    let (&flags, rest) = bytes.split_first().ok_or(Damage::Length)?;
    bytes = rest;
    if flags & !(HAS_ID | HAS_TYPE | HAS_DATA | HAS_RETRY | IS_PRIVATE) != 0 {
        return Err(Damage::Flags);
    }
    let since = take_varint(&mut bytes)?;
    let since = (since >> 1) ^ (since & 1).wrapping_neg();
    let topics = take_length(&mut bytes)?;
    if topics == 0 || topics > MAX_TOPICS_PER_EVENT {
        return Err(Damage::Topics);
    }
    let mut event = Event::new(take_topic(&mut bytes)?);
    for _ in 1..topics {
        event = event.with_topic(take_topic(&mut bytes)?).map_err(Damage::Event)?;
    }
    if event.topics().len() != topics {
        return Err(Damage::Topics);
    }
    if flags & HAS_ID != 0 {
        event = event.with_id(EventId::new(take_text(&mut bytes)?).map_err(Damage::Event)?);
    }
    if flags & HAS_TYPE != 0 {
        event = event.with_type(EventType::new(take_text(&mut bytes)?).map_err(Damage::Event)?);
    }
    if flags & HAS_RETRY != 0 {
        event = event.with_retry(Retry::from_millis(take_varint(&mut bytes)?));
    }
    match flags & HAS_DATA != 0 {
        true => event = event.with_data(std::str::from_utf8(bytes).map_err(|_| Damage::Text)?),
        false if !bytes.is_empty() => return Err(Damage::Length),
        false => {}
    }
    event = event.with_private(flags & IS_PRIVATE != 0);
    Ok(Record { number, published_ms: first_ms.wrapping_add(since), event })
}

fn take_topic(bytes: &mut &[u8]) -> Result<Topic, Damage> {
    Topic::new(take_text(bytes)?).map_err(Damage::Event)
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_varint(bytes, text.len() as u64);
    bytes.extend_from_slice(text.as_bytes());
}

fn take_text<'b>(bytes: &mut &'b [u8]) -> Result<&'b str, Damage> {
    let length = take_length(bytes)?;
    let (text, rest) = bytes.split_at_checked(length).ok_or(Damage::Length)?;
    *bytes = rest;
    std::str::from_utf8(text).map_err(|_| Damage::Text)
}

/// Appends a variable number.
pub(crate) fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Takes a variable number from the beginning.
pub(crate) fn take_varint(bytes: &mut &[u8]) -> Result<u64, Damage> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(Damage::Length)?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            return Err(Damage::Length);
        }
        value |= part << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Damage::Length)
}

fn take_length(bytes: &mut &[u8]) -> Result<usize, Damage> {
    usize::try_from(take_varint(bytes)?).map_err(|_| Damage::Length)
}

fn varint_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(max: usize) -> impl Strategy<Value = String> {
        proptest::collection::vec(any::<char>(), 1..max).prop_map(|letters| {
            letters.into_iter().map(|letter| if letter.is_control() { 'x' } else { letter }).collect()
        })
    }

    fn events() -> impl Strategy<Value = Event> {
        let fields = (
            proptest::collection::vec(text(20), 1..5),
            proptest::option::of(text(20)),
            proptest::option::of(text(20)),
            proptest::option::of(any::<String>()),
            proptest::option::of(any::<u64>()),
            any::<bool>(),
        );
        fields.prop_map(|(topics, id, kind, data, retry, is_private)| {
            let mut topics = topics.into_iter().map(|topic| Topic::new(topic).unwrap());
            let mut event = Event::new(topics.next().unwrap());
            for topic in topics {
                event = event.with_topic(topic).unwrap();
            }
            if let Some(id) = id.and_then(|id| EventId::new(id).ok()) {
                event = event.with_id(id);
            }
            if let Some(kind) = kind.and_then(|kind| EventType::new(kind).ok()) {
                event = event.with_type(kind);
            }
            if let Some(data) = data {
                event = event.with_data(data);
            }
            if let Some(retry) = retry {
                event = event.with_retry(Retry::from_millis(retry));
            }
            event.with_private(is_private)
        })
    }

    fn groups() -> impl Strategy<Value = Vec<Record>> {
        let record = (1..u64::MAX / 16, any::<u64>(), events());
        proptest::collection::vec(record, 1..8).prop_map(|records| {
            let mut number = 0;
            let each = records.into_iter().map(|(above, published_ms, event)| {
                number += above;
                Record { number, published_ms, event }
            });
            each.collect()
        })
    }

    /// Changes bytes behind the checksum, and gives them the right one again.
    fn with_right_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
        if bytes.len() > HEADER_BYTES {
            let checksum = crc32fast::hash(&bytes[HEADER_BYTES..]);
            bytes[1..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        }
        bytes
    }

    proptest! {
        #[test]
        fn records_come_back_as_they_were(records in groups()) {
            let bytes = encode_group(&records);
            let group = Group::read(&bytes).unwrap();
            prop_assert_eq!(group.len(), records.len());
            prop_assert_eq!(group.numbers().collect::<Vec<_>>(),
                records.iter().map(|record| record.number).collect::<Vec<_>>());
            prop_assert_eq!(group.records().unwrap(), records);
        }

        #[test]
        fn a_flipped_bit_and_a_cut_are_found(records in groups(), bit: usize, end: usize) {
            let bytes = encode_group(&records);
            let mut flipped = bytes.clone();
            let bit = bit % (8 * bytes.len());
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Group::read(&flipped).is_err());
            prop_assert!(Group::read(&bytes[..end % bytes.len()]).is_err());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            is_version: bool,
        ) {
            let mut bytes = with_right_checksum(bytes);
            if is_version && !bytes.is_empty() {
                bytes[0] = VERSION;
            }
            if let Ok(group) = Group::read(&bytes) {
                let _ = group.records();
            }
        }

        /// What is read from changed bytes is a group of records, and says the same when it is encoded again.
        #[test]
        fn changed_bytes_with_a_right_checksum_are_refused_or_a_group(
            records in groups(),
            changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = encode_group(&records);
            for (at, byte) in changes {
                let at = HEADER_BYTES + at % (bytes.len() - HEADER_BYTES);
                bytes[at] = byte;
            }
            let bytes = with_right_checksum(bytes);
            if let Ok(records) = Group::read(&bytes).and_then(|group| group.records()) {
                let again = encode_group(&records);
                prop_assert_eq!(Group::read(&again).unwrap().records().unwrap(), records);
            }
        }
    }

    #[test]
    fn each_damage_is_named() {
        let event = Event::new(Topic::new("t").unwrap()).with_data("d");
        let record = Record { number: 7, published_ms: 1000, event };
        let bytes = encode_group([&record]);
        let changed = |at: usize, byte: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = byte;
            with_right_checksum(bytes)
        };
        let damage = |bytes: &[u8]| Group::read(bytes).and_then(|group| group.records()).unwrap_err();
        assert_eq!(damage(&[]), Damage::Length);
        assert_eq!(damage(&changed(0, 2)), Damage::Version(2));
        assert_eq!(damage(&bytes[..bytes.len() - 1]), Damage::Checksum);
        assert_eq!(damage(&changed(5, 0)), Damage::Numbers);
        assert_eq!(damage(&changed(5, 100)), Damage::Numbers);
        assert_eq!(damage(&changed(9, 1)), Damage::Numbers);
        assert_eq!(damage(&changed(10, 5)), Damage::Length);
        assert_eq!(damage(&changed(11, 0x20)), Damage::Flags);
        assert_eq!(damage(&changed(11, 0)), Damage::Length);
        assert_eq!(damage(&changed(13, 0)), Damage::Topics);
        assert_eq!(damage(&changed(13, 65)), Damage::Topics);
        assert_eq!(damage(&changed(15, 0xff)), Damage::Text);
        assert!(matches!(damage(&changed(15, 0)), Damage::Event(InvalidEvent::ControlCharacter { .. })));
        assert_eq!(damage(&changed(16, 0xff)), Damage::Text);
    }

    #[test]
    fn an_event_of_200_bytes_takes_little_more() {
        let event = Event::new(Topic::new("orders").unwrap()).with_data("x".repeat(200));
        let records: Vec<Record> = (1..=100)
            .map(|number| Record { number, published_ms: 1_700_000_000_000 + number, event: event.clone() })
            .collect();
        let bytes = encode_group(&records).len();
        assert!(bytes <= 100 * (200 + 14) + 32, "{bytes}");
        assert_eq!(event_bytes(&event), 200 + 7 + 4);
    }
}
