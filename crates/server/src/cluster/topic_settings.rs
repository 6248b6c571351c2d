//! The topic settings that servers share, and their form as JSON in the bucket beside the stream.
//!
//! Topic settings decide which events a subscriber finds in a topic, and who is told of presence. What a
//! server does not have in memory is read from the stream, as far as the settings cover it. Bounds of a
//! machine, such as the memory of the whole log, are no topic settings: each server has its own.

use std::fmt;
use std::time::Duration;

use fanfare::{Pattern, Retention, RetentionRule, TopicPattern};
use fanfare_config::kind::{size_text, time_text};
use fanfare_config::{Settings, with_presence_rule};
use serde::{Deserialize, Serialize};

use crate::printable::printable;

/// The form that is written, and the only one that can be read.
const VERSION: u64 = 1;

/// The longest value, in bytes.
const MOST_BYTES: usize = 256 << 10;

/// The most rules, and the most patterns of presence: a new topic is compared with each.
const MOST_RULES: usize = 1000;

/// Rules and patterns that a line of the log names, and characters of the name of a server.
const NAMED: usize = 8;
const NAME_CHARACTERS: usize = 128;

/// What `--presence-interval` may be.
const INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

/// The settings that hold for the topics of all servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicSettings {
    retention: Retention,
    /// Those of `--retain`, in their order.
    rules: Vec<RetentionRule>,
    /// The topics that have presence.
    presence: Vec<Pattern>,
    presence_interval: Duration,
}

/// A value of the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// The server that has set it.
    pub(crate) server: String,
    pub(crate) settings: TopicSettings,
}

/// Why a value cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// A later version of this program has set it. It is never replaced.
    Newer(u64),
    Wrong(String),
}

/// The value, as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Document {
    version: u64,
    server: String,
    #[serde(flatten)]
    general: Bounds,
    rules: Vec<Rule>,
    presence: Vec<String>,
    presence_interval_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Bounds {
    events: usize,
    bytes: usize,
    age_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Rule {
    topics: String,
    #[serde(flatten)]
    bounds: Bounds,
}

/// What every version has.
#[derive(Debug, Deserialize)]
struct Versioned {
    version: u64,
}

impl TopicSettings {
    /// Those of the options.
    pub(crate) fn of(settings: &Settings) -> TopicSettings {
        let in_milliseconds = |retention: Retention| retention.with_age(whole_milliseconds(retention.age));
        let rules = settings.retain_rules().into_iter();
        TopicSettings {
            retention: in_milliseconds(settings.retention()),
            rules: rules
                .map(|rule| RetentionRule::new(rule.topics, in_milliseconds(rule.retention)))
                .collect(),
            presence: settings.presence.clone(),
            presence_interval: whole_milliseconds(settings.presence_interval),
        }
    }

    /// What is kept of each topic that no rule matches.
    pub(crate) fn retention(&self) -> Retention {
        self.retention
    }

    /// The rules of the log of a server that has presence, or none.
    pub(crate) fn rules(&self, has_presence: bool) -> Vec<RetentionRule> {
        with_presence_rule(has_presence, self.retention, self.rules.clone())
    }

    /// Whether presence is the same: it changes only with a start.
    pub(crate) fn has_presence_of(&self, other: &TopicSettings) -> bool {
        let interval_of = |of: &TopicSettings| (!of.presence.is_empty()).then_some(of.presence_interval);
        self.presence == other.presence && interval_of(self) == interval_of(other)
    }

    /// The topics that have presence.
    pub(crate) fn presence(&self) -> &[Pattern] {
        &self.presence
    }

    /// Time between two presence events of a topic.
    pub(crate) fn presence_interval(&self) -> Duration {
        self.presence_interval
    }

    /// The value of the bucket.
    ///
    /// # Errors
    /// It would be too large.
    pub(crate) fn written_by(&self, server: &str) -> Result<Vec<u8>, String> {
        if self.rules.len() > MOST_RULES || self.presence.len() > MOST_RULES {
            return Err(format!("there are more than {MOST_RULES} rules"));
        }
        let rule =
            |rule: &RetentionRule| Rule { topics: written(&rule.topics), bounds: Bounds::of(rule.retention) };
        let document = Document {
            version: VERSION,
            server: server.to_owned(),
            general: Bounds::of(self.retention),
            rules: self.rules.iter().map(rule).collect(),
            presence: self.presence.iter().map(|pattern| pattern.as_str().to_owned()).collect(),
            presence_interval_ms: milliseconds(self.presence_interval),
        };
        let text = serde_json::to_vec(&document).map_err(|error| error.to_string())?;
        match text.len() > MOST_BYTES {
            true => Err(format!("they take more than {}", size_text(MOST_BYTES))),
            false => Ok(text),
        }
    }
}

impl Told {
    /// Reads a value of the bucket, which anyone may have written who may use NATS.
    ///
    /// # Errors
    /// It cannot be used.
    pub(crate) fn read(value: &[u8]) -> Result<Told, Unreadable> {
        let wrong = |error: serde_json::Error| Unreadable::Wrong(error.to_string());
        if value.len() > MOST_BYTES {
            return Err(Unreadable::Wrong(format!("it is larger than {}", size_text(MOST_BYTES))));
        }
        let Versioned { version } = serde_json::from_slice(value).map_err(wrong)?;
        match version {
            VERSION => {}
            0 => return Err(Unreadable::Wrong("there is no version 0".to_owned())),
            newer => return Err(Unreadable::Newer(newer)),
        }
        let document: Document = serde_json::from_slice(value).map_err(wrong)?;
        let Document { server, general, rules, presence, presence_interval_ms, .. } = document;
        let (server, settings) = (
            printable(&server).chars().take(NAME_CHARACTERS).collect(),
            settings(&general, rules, presence, presence_interval_ms).map_err(Unreadable::Wrong)?,
        );
        Ok(Told { server, settings })
    }
}

fn settings(
    general: &Bounds,
    rules: Vec<Rule>,
    presence: Vec<String>,
    presence_interval_ms: u64,
) -> Result<TopicSettings, String> {
    if rules.len() > MOST_RULES || presence.len() > MOST_RULES {
        return Err(format!("it has more than {MOST_RULES} rules"));
    }
    let rule = |Rule { topics, bounds }: Rule| {
        let topics = topics.parse::<TopicPattern>().map_err(|error| format!("a rule: {error}"))?;
        Ok(RetentionRule::new(topics, bounds.retention()?))
    };
    let pattern = |text: String| Pattern::parse(&text).map_err(|error| format!("presence: {error}"));
    let presence_interval = Duration::from_millis(presence_interval_ms);
    if !INTERVALS.contains(&presence_interval) {
        return Err("presence_interval_ms is not between 100 ms and 1 hour".to_owned());
    }
    Ok(TopicSettings {
        retention: general.retention()?,
        rules: rules.into_iter().map(rule).collect::<Result<_, String>>()?,
        presence: presence.into_iter().map(pattern).collect::<Result<_, String>>()?,
        presence_interval,
    })
}

impl Bounds {
    fn of(Retention { events, bytes, age, .. }: Retention) -> Bounds {
        Bounds { events, bytes, age_ms: milliseconds(age) }
    }

    fn retention(&self) -> Result<Retention, String> {
        match self.age_ms {
            0 => Err("age_ms is zero".to_owned()),
            age_ms => Ok(Retention::default()
                .with_events(self.events)
                .with_bytes(self.bytes)
                .with_age(Duration::from_millis(age_ms))),
        }
    }
}

/// A pattern of a rule, as `--retain` has it.
fn written(topics: &TopicPattern) -> String {
    match topics {
        TopicPattern::Exact(topic) => topic.to_string(),
        TopicPattern::Prefix(prefix) => format!("{prefix}*"),
        // The crate may have others one day. No rule is written so.
        _ => String::new(),
    }
}

/// At least one.
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

fn whole_milliseconds(time: Duration) -> Duration {
    Duration::from_millis(milliseconds(time))
}

impl fmt::Display for TopicSettings {
    /// As options, for a line of the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Retention { events, bytes, age, .. } = self.retention;
        let (bytes, age) = (size_text(bytes), time_text(age));
        write!(f, "--retain-events {events} --retain-bytes {bytes} --retain-age {age}")?;
        let rules = self.rules.iter().map(|rule| {
            let Retention { events, bytes, age, .. } = rule.retention;
            let (bytes, age) = (size_text(bytes), time_text(age).replace(' ', ""));
            format!("{}={events},{bytes},{age}", printable(&written(&rule.topics)))
        });
        list(f, "--retain", rules)?;
        let patterns = self.presence.iter().map(|pattern| printable(pattern.as_str()).into_owned());
        list(f, "--presence", patterns)?;
        match self.presence.is_empty() {
            true => Ok(()),
            false => write!(f, " --presence-interval {}", time_text(self.presence_interval)),
        }
    }
}

/// The first ones of a list, and how many more there are.
fn list(
    f: &mut fmt::Formatter<'_>,
    option: &str,
    mut entries: impl ExactSizeIterator<Item = String>,
) -> fmt::Result {
    if entries.len() == 0 {
        return Ok(());
    }
    let named: Vec<String> = entries.by_ref().take(NAMED).collect();
    write!(f, " {option} '{}'", named.join(";"))?;
    match entries.len() {
        0 => Ok(()),
        more => write!(f, " and {more} more"),
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreadable::Newer(version) => {
                write!(f, "it has version {version}, and this server reads version {VERSION}")
            }
            Unreadable::Wrong(what) => printable(what).fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use fanfare_config::{Flags, Sources};
    use serde_json::{Value, json};

    use super::*;

    fn settings_of(flags: &[(&'static str, &'static str)]) -> TopicSettings {
        let sources = Sources { flags: Flags::of(flags.iter().copied()), ..Sources::default() };
        TopicSettings::of(&Settings::of(&Settings::table().layer(&sources).unwrap()).unwrap())
    }

    fn document() -> Value {
        let all = settings_of(&[("retain", "user/*=100,,10m"), ("presence", "room/*")]);
        serde_json::from_slice(&all.written_by("one").unwrap()).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        for flags in [
            &[][..],
            &[("retain-events", "0"), ("retain-bytes", "0B"), ("retain-age", "1ns")],
            &[("retain-events", "18446744073709551615"), ("retain-age", "500000years")],
            &[("retain", "user/*=100,,10m"), ("retain", "*=1,2B,3ms"), ("retain", "a=b,\"=,,")],
            &[("presence", "room/*"), ("presence", "/rooms/{id}"), ("presence-interval", "250ms")],
        ] {
            let settings = settings_of(flags);
            let told = Told::read(&settings.written_by("one").unwrap()).unwrap();
            assert_eq!(told, Told { server: "one".to_owned(), settings }, "{flags:?}");
        }
        let expected = json!({
            "version": 1,
            "server": "one",
            "events": 100_000,
            "bytes": 64 << 20,
            "age_ms": 3_600_000,
            "rules": [{ "topics": "user/*", "events": 100, "bytes": 64 << 20, "age_ms": 600_000 }],
            "presence": ["room/*"],
            "presence_interval_ms": 1000,
        });
        assert_eq!(document(), expected);
        let text = settings_of(&[("retain", "user/*=100,,1h 10m"), ("presence", "room/*")]).to_string();
        assert_eq!(
            text,
            "--retain-events 100000 --retain-bytes 64MiB --retain-age 1h --retain 'user/*=100,64MiB,1h10m' \
             --presence 'room/*' --presence-interval 1s"
        );
    }

    #[test]
    fn rules_have_the_order_of_the_options_and_presence_comes_first() {
        let settings = settings_of(&[("retain", "b*=1,,"), ("retain", "a=2,,"), ("presence", "room/*")]);
        let rules: Vec<_> = settings.rules(true).iter().map(|rule| written(&rule.topics)).collect();
        assert_eq!(rules, ["presence/*", "b*", "a"]);
        let other = settings_of(&[("retain", "a=2,,"), ("retain", "b*=1,,"), ("presence", "room/*")]);
        assert_ne!(settings, other);
        assert_eq!(settings.rules(false).len(), 2);
        assert!(settings.has_presence_of(&other));
        assert!(
            !settings.has_presence_of(&settings_of(&[("presence", "room/*"), ("presence-interval", "2s")]))
        );
        assert!(!settings.has_presence_of(&settings_of(&[("presence", "room/2")])));
        assert!(settings_of(&[]).has_presence_of(&settings_of(&[("presence-interval", "2s")])));
    }

    /// Somebody else may have written anything.
    #[test]
    fn what_makes_no_sense_is_refused() {
        let wrong =
            |value: &Value| matches!(Told::read(value.to_string().as_bytes()), Err(Unreadable::Wrong(_)));
        for text in
            ["", "{", "7", "null", "[]", "{}", "\u{feff}{}", "{\"version\":\"1\"}", "{\"version\":-1}"]
        {
            assert!(matches!(Told::read(text.as_bytes()), Err(Unreadable::Wrong(_))), "{text}");
        }
        assert!(matches!(Told::read(b"\xff\xfe"), Err(Unreadable::Wrong(_))));
        assert!(matches!(Told::read(&b"[".repeat(100_000)), Err(Unreadable::Wrong(_))));
        let with = |name: &str, value: Value| {
            let mut document = document();
            document[name] = value;
            document
        };
        assert!(!wrong(&with("of another kind", json!(1))));
        for (name, value) in [
            ("version", json!(0)),
            ("events", json!(-1)),
            ("events", json!(1.5)),
            ("bytes", json!("64MiB")),
            ("age_ms", json!(0)),
            ("age_ms", json!(1e300)),
            ("rules", json!(null)),
            ("rules", json!([{ "topics": "a", "events": 1, "bytes": 1 }])),
            ("rules", json!([{ "topics": "", "events": 1, "bytes": 1, "age_ms": 1 }])),
            ("rules", json!([{ "topics": "a\nb*", "events": 1, "bytes": 1, "age_ms": 1 }])),
            ("rules", json!([{ "topics": "a", "events": 1, "bytes": 1, "age_ms": 0 }])),
            ("rules", json!(vec![json!({ "topics": "a", "events": 1, "bytes": 1, "age_ms": 1 }); 1001])),
            ("presence", json!(["/a/{"])),
            ("presence", json!([1])),
            ("presence_interval_ms", json!(99)),
            ("presence_interval_ms", json!(3_600_001)),
        ] {
            assert!(wrong(&with(name, value.clone())), "{name}: {value}");
        }
        for name in ["version", "server", "events", "rules", "presence", "presence_interval_ms"] {
            let mut document = document();
            document.as_object_mut().unwrap().remove(name);
            assert!(wrong(&document), "without {name}");
        }
        assert!(wrong(&with("server", json!("x".repeat(300_000)))), "it is too large");
        assert_eq!(Told::read(b"{\"version\":2,\"new\":[]}"), Err(Unreadable::Newer(2)));
    }

    #[test]
    fn texts_of_others_are_harmless_in_the_log() {
        let mut document = document();
        document["server"] = json!(format!("\u{1b}[2J\n{}", "x".repeat(500)));
        let told = Told::read(document.to_string().as_bytes()).unwrap();
        assert!(told.server.chars().count() <= NAME_CHARACTERS && !told.server.contains(char::is_control));
        let rule = json!({ "topics": "\u{202e}a*", "events": 1, "bytes": 1, "age_ms": 1 });
        document["rules"] = json!(vec![rule; 500]);
        let text = Told::read(document.to_string().as_bytes()).unwrap().settings.to_string();
        assert!(text.contains("and 492 more") && !text.contains('\u{202e}') && text.len() < 1000, "{text}");
    }

    #[test]
    fn what_is_too_large_is_not_written() {
        let mut settings = settings_of(&[("retain", "a=1,,")]);
        settings.rules = vec![settings.rules[0].clone(); MOST_RULES + 1];
        assert!(settings.written_by("one").unwrap_err().contains("1000"));
        let topics: TopicPattern = "x".repeat(250).parse().unwrap();
        settings.rules = vec![RetentionRule::new(topics, settings.retention); MOST_RULES];
        assert!(settings.written_by("one").unwrap_err().contains("256KiB"));
    }
}
