//! Bounds of what is kept of some topics.

use std::time::Duration;

use bytesize::ByteSize;
use fanfare::{Retention, RetentionRule, TopicPattern};

use crate::kind::read_time;

/// What `--retain` says of some topics.
#[derive(Clone, Debug, PartialEq)]
pub struct RetainRule {
    topics: TopicPattern,
    events: Option<usize>,
    bytes: Option<usize>,
    age: Option<Duration>,
}

impl RetainRule {
    pub(crate) fn parse(text: &str) -> Result<RetainRule, String> {
        let form = "write for example user/*=100,1MiB,10m or orders=,,24h";
        // The bounds have no `=` in them, a topic may have.
        let (topics, bounds) = text.rsplit_once('=').ok_or_else(|| format!("without bounds; {form}"))?;
        let topics = topics.parse::<TopicPattern>().map_err(|error| error.to_string())?;
        let bounds: Vec<&str> = bounds.split(',').map(str::trim).collect();
        let &[events, bytes, age] = bounds.as_slice() else {
            return Err(format!("not three bounds; {form}"));
        };
        let events =
            given(events, |text| text.parse().map_err(|_| format!("not a number of events; {form}")))?;
        let bytes = given(bytes, |text| text.parse().map_err(|_| format!("not a size; {form}")))?;
        let bytes = bytes.map(|size: ByteSize| size.as_u64() as usize);
        Ok(RetainRule { topics, events, bytes, age: given(age, read_time)? })
    }

    /// The rule, with the general bounds where it has none.
    pub(crate) fn or(&self, general: Retention) -> RetentionRule {
        let retention = Retention::default()
            .with_events(self.events.unwrap_or(general.events))
            .with_bytes(self.bytes.unwrap_or(general.bytes))
            .with_age(self.age.unwrap_or(general.age));
        RetentionRule::new(self.topics.clone(), retention)
    }
}

/// Reads a text that may be left out.
fn given<T>(text: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    if text.is_empty() { Ok(None) } else { read(text).map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Flags, Settings, Sources};

    #[test]
    fn rules_of_retention_have_three_bounds_that_may_be_left_out() {
        let flags =
            Flags::of([("retain-events", "7"), ("retain", "a=b*=100,,10m"), ("retain", "c=, 1KiB ,")]);
        let values = Settings::table().layer(&Sources { flags, ..Sources::default() }).unwrap();
        let log = Settings::of(&values).unwrap().log_limits();
        let general = Retention::default().with_events(7);
        let expected = [
            ("a=b*", general.with_events(100).with_age(Duration::from_secs(600))),
            ("c", general.with_bytes(1024)),
        ];
        let expected =
            expected.map(|(topics, retention)| RetentionRule::new(topics.parse().unwrap(), retention));
        assert_eq!((log.retention, log.rules.as_slice()), (general, expected.as_slice()));
        for wrong in ["a", "=1,,", "a=1", "a=1,2", "a=1,2,3s,4", "a=x,,", "a=,x,", "a=,,3", "a=,,0s"] {
            assert!(RetainRule::parse(wrong).is_err(), "{wrong}");
        }
    }
}
