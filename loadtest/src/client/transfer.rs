//! Histograms and spreads on their way to another machine.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::serialization::{Deserializer as FromV2, Serializer as ToV2, V2Serializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Timings;
use super::ids::EventId;
use super::observations::Spread;

/// The format V2 of HdrHistogram, as text. Whether a histogram is coarse, and that it grows, is not part of
/// it.
fn text_of(timings: &Timings) -> Result<String, String> {
    let mut bytes = Vec::new();
    V2Serializer::new().serialize(timings, &mut bytes).map_err(|error| error.to_string())?;
    Ok(STANDARD.encode(bytes))
}

/// The largest text: a histogram up to an hour with three digits has less than a tenth of it.
const TEXT_BYTES: usize = 4 << 20;

fn timings_of(text: &str) -> Result<Timings, String> {
    if text.len() > TEXT_BYTES {
        return Err("a histogram is too large".to_owned());
    }
    let bytes = STANDARD.decode(text).map_err(|error| error.to_string())?;
    // Highest trackable value and digits stand at fixed places: they set the memory that is taken.
    let digits = bytes.get(12..16).map(|digits| u32::from_be_bytes(digits.try_into().unwrap_or_default()));
    if digits.is_none_or(|digits| digits > 3) {
        return Err("a histogram has more digits than are recorded".to_owned());
    }
    let mut timings: Timings =
        FromV2::new().deserialize(&mut bytes.as_slice()).map_err(|error| error.to_string())?;
    timings.auto(true);
    Ok(timings)
}

pub(super) fn serialize<S: Serializer>(timings: &Timings, serializer: S) -> Result<S::Ok, S::Error> {
    text_of(timings).map_err(serde::ser::Error::custom)?.serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timings, D::Error> {
    timings_of(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

/// The same for a list of them.
pub(super) mod several {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        timings: &[Timings],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let texts: Result<Vec<String>, String> = timings.iter().map(text_of).collect();
        texts.map_err(serde::ser::Error::custom)?.serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Timings>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| timings_of(text)).collect::<Result<_, _>>().map_err(serde::de::Error::custom)
    }
}

impl Spread {
    const BYTES: usize = 12 + EventId::BYTES;

    /// For another machine.
    pub(crate) fn to_bytes(spreads: &[Spread]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(spreads.len() * Spread::BYTES);
        for Spread { deliveries, last_ns, id } in spreads {
            bytes.extend_from_slice(&deliveries.to_le_bytes());
            bytes.extend_from_slice(&last_ns.to_le_bytes());
            bytes.extend_from_slice(&id.to_bytes());
        }
        bytes
    }

    /// `None`: they are cut.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Vec<Spread>> {
        if !bytes.len().is_multiple_of(Spread::BYTES) {
            return None;
        }
        let spread = |bytes: &[u8]| {
            Some(Spread {
                deliveries: u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?),
                last_ns: u64::from_le_bytes(bytes.get(4..12)?.try_into().ok()?),
                id: EventId::from_bytes(bytes.get(12..)?)?,
            })
        };
        bytes.chunks(Spread::BYTES).map(spread).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{record, timings};
    use super::*;

    #[test]
    fn a_histogram_arrives_as_it_was_and_still_grows() {
        let mut sent = timings();
        for microseconds in [1, 20, 20, 300, 4_000_000] {
            record(&mut sent, microseconds * 1_000);
        }
        let mut arrived = timings_of(&text_of(&sent).unwrap()).unwrap();
        assert_eq!(arrived, sent);
        record(&mut arrived, 3_000_000_000_000);
        assert_eq!(arrived.len(), 6);
        let mut whole = timings();
        whole.add(&arrived).unwrap();
        assert_eq!(whole.len(), 6);
        let empty = timings_of(&text_of(&timings()).unwrap()).unwrap();
        assert!(empty.is_empty());
    }

    /// What another machine sends does not end the controller.
    #[test]
    fn a_histogram_that_is_none_is_an_error() {
        let whole = STANDARD.decode(text_of(&timings()).unwrap()).unwrap();
        for length in 0..whole.len() {
            assert!(timings_of(&STANDARD.encode(&whole[..length])).is_err(), "cut to {length}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0xff;
            // Some changes make another histogram; none panics.
            let _ = timings_of(&STANDARD.encode(&changed));
        }
        assert!(timings_of("no base64!").is_err() && timings_of("").is_err());
    }

    #[test]
    fn spreads_arrive_as_they_were() {
        let spreads =
            [Spread::default(), Spread { deliveries: 7, last_ns: u64::MAX - 1, id: EventId::of(b"abc-12") }];
        let bytes = Spread::to_bytes(&spreads);
        let arrived = Spread::from_bytes(&bytes).unwrap();
        let all = |spreads: &[Spread]| -> Vec<(u32, u64, EventId)> {
            spreads.iter().map(|spread| (spread.deliveries, spread.last_ns, spread.id)).collect()
        };
        assert_eq!(all(&arrived), all(&spreads));
        assert!(Spread::from_bytes(&bytes[1..]).is_none());
    }
}
