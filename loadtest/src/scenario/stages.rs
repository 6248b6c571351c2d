//! Stages: how many streams are open, over the time of a run.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::clock::{SECOND, nanoseconds, parse_duration};
use crate::report::units::without_separators;

/// In so much time the number of streams changes evenly from that of the stage before (0 before the first) to
/// this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamStage {
    pub(crate) over: Duration,
    pub(crate) streams: u64,
}

/// As k6 has it: `30s:10000`.
impl FromStr for StreamStage {
    type Err = String;

    fn from_str(text: &str) -> Result<StreamStage, String> {
        let wrong = || format!("`{text}` is no stage: write TIME:STREAMS, e.g. 30s:10000");
        let (over, streams) = text.trim().split_once(':').ok_or_else(wrong)?;
        let over = parse_duration(over.trim()).map_err(|_| wrong())?;
        let streams = without_separators(streams.trim()).ok_or_else(wrong)?.parse().map_err(|_| wrong())?;
        Ok(StreamStage { over, streams })
    }
}

impl fmt::Display for StreamStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s:{}", self.over.as_secs_f64(), self.streams)
    }
}

impl Serialize for StreamStage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StreamStage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<StreamStage, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// How many streams there are to be so long after the begin of the first stage.
pub(super) fn streams_at(stages: &[StreamStage], mut after_ns: u64) -> u64 {
    let mut before = 0;
    for stage in stages {
        let over = nanoseconds(stage.over);
        if after_ns < over {
            let part = after_ns as f64 / over as f64;
            return (before as f64 + (stage.streams as f64 - before as f64) * part).round() as u64;
        }
        after_ns -= over;
        before = stage.streams;
    }
    before
}

/// The seconds, counted from the begin of the first stage, of the longest time in which the number of streams
/// stays the same. Only whole ones.
pub(super) fn longest_hold(stages: &[StreamStage]) -> Option<Range<u64>> {
    let (mut begin, mut before) = (0, 0);
    let mut longest: Option<Range<u64>> = None;
    for stage in stages {
        let end = begin + nanoseconds(stage.over);
        if stage.streams == before && before > 0 {
            let hold = begin.div_ceil(SECOND)..end / SECOND;
            let length = |range: &Range<u64>| range.end.saturating_sub(range.start);
            if longest.as_ref().is_none_or(|longest| length(longest) < length(&hold)) {
                longest = Some(hold);
            }
        }
        (begin, before) = (end, stage.streams);
    }
    longest.filter(|range| !range.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stages(texts: &[&str]) -> Vec<StreamStage> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn streams_change_evenly_from_stage_to_stage() {
        let stages = stages(&["10s:100", "5s:100", "2s:10", "0s:50", "2s: 1_000"]);
        let at = |seconds: f64| streams_at(&stages, (seconds * SECOND as f64) as u64);
        assert_eq!([0.0, 2.5, 10.0, 14.9, 16.0].map(at), [0, 25, 100, 100, 55]);
        assert_eq!([17.0, 18.0, 19.0, 99.0].map(at), [50, 525, 1_000, 1_000]);
        assert_eq!(longest_hold(&stages), Some(10..15));
        assert_eq!(longest_hold(&stages[2..]), None);
        assert_eq!(stages[4].to_string().parse(), Ok(stages[4]));
    }

    #[test]
    fn a_wrong_stage_is_told_how_to_be_written() {
        for wrong in ["", "10s", "10s:", ":5", "ten:5", "10s:-5", "10s:5.5", "10s:1,5"] {
            assert!(wrong.parse::<StreamStage>().unwrap_err().contains("30s:10000"), "{wrong}");
        }
    }
}
