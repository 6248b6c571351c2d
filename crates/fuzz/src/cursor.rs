//! Cursors and what asks for them: the text of ids, `Last-Event-ID`, the query of a subscription.

use std::sync::Arc;
use std::time::Duration;

use fanfare_proto::cursor::{Cursor, Epoch};
use fanfare_proto::event::{Event, EventId, Topic};
use fanfare_proto::frame::{Checkpoint, Frame};
use fanfare_proto::head::RequestHead;
use fanfare_proto::limits::{LogLimits, Retention};
use fanfare_proto::log::{EARLIEST, Log};
use fanfare_proto::pattern::{MAX_STATES_OF_ONE, Pattern};
use fanfare_proto::selection::Selection;
use fanfare_proto::subscribe::{SubscribeError, SubscribeQuery};

const MAX_TOPICS: usize = 4;
const HEAD: u64 = 12;
const FIRST_RETAINED: u64 = 5;

/// The input's first line is an id; the second, if there is one, a query.
pub(crate) fn check(input: &[u8]) {
    let (id, query) = match input.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&input[..end], &input[end + 1..]),
        None => (input, &b""[..]),
    };
    cursor_text(&String::from_utf8_lossy(id));
    cursor_numbers(input);
    resume(&String::from_utf8_lossy(id));
    subscription(id, query);
}

/// Whatever is read as a cursor is what a cursor prints, and nothing else is.
fn cursor_text(text: &str) {
    let expected = text.split_once('-').is_some_and(|(epoch, seq)| {
        epoch.len() == 9
            && epoch.chars().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase())
            && seq.parse::<u64>().is_ok_and(|number| number.to_string() == seq)
    });
    let cursor = Cursor::parse(text);
    assert_eq!(cursor.is_some(), expected, "{text:?}");
    if let Some(cursor) = cursor {
        assert_eq!(cursor.to_string(), text);
    }
}

/// Whatever a cursor prints is read as the same, and browsers need no preflight for it.
fn cursor_numbers(input: &[u8]) {
    let number = |bytes: &[u8]| bytes.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let (random, seq) = (number(input), number(input.get(8..).unwrap_or_default()));
    let cursor = Cursor { epoch: Epoch::new(random), seq };
    let text = cursor.to_string();
    assert_eq!(Cursor::parse(&text), Some(cursor));
    assert!(text.len() < 64);
    assert!(text.chars().all(|c| c.is_ascii_alphanumeric() || "_.~-".contains(c)), "{text:?}");
}

/// A log of events 1 to [`HEAD`] that has only those from [`FIRST_RETAINED`] on, of one topic. Event n has
/// the id `own-n` where n is even.
fn log(epoch: Epoch, topic: &Topic) -> Log {
    let frames = (HEAD - FIRST_RETAINED + 1) as usize;
    let retention = Retention::default().with_events(frames);
    let mut log = Log::new(epoch, LogLimits::default().with_retention(retention), 1);
    for seq in 1..=HEAD {
        let mut event = Event::new(topic.clone());
        if seq % 2 == 0 {
            event = event.with_id(EventId::new(format!("own-{seq}")).unwrap());
        }
        let frame = Frame::encode(seq, &Cursor { epoch, seq }.to_string(), event, Duration::ZERO);
        log.append(Arc::new(frame), Duration::ZERO, &mut Vec::new());
    }
    log
}

/// A known id resumes behind its event; any other is a gap, and the reader gets all that is retained.
fn resume(id: &str) {
    // The id's own epoch, where it has one, so that its number is what counts.
    let epoch = Cursor::parse(id).map_or(Epoch::new(1), |cursor| cursor.epoch);
    let topic = Topic::new("a").unwrap();
    let log = log(epoch, &topic);
    let known = (FIRST_RETAINED - 1..=HEAD).find(|&seq| {
        let own = seq >= FIRST_RETAINED && seq % 2 == 0 && id == format!("own-{seq}");
        own || id == Cursor { epoch, seq }.to_string()
    });
    let selection = Selection::of(std::slice::from_ref(&topic), false);
    let start = log.resume(id, selection);
    let after = known.unwrap_or(FIRST_RETAINED - 1);
    assert_eq!((start.cursor(), start.is_gap()), (after, known.is_none() && id != EARLIEST), "{id:?}");
    let mut given = Vec::new();
    let end = log.read_after(selection, start.cursor(), usize::MAX, usize::MAX, &mut given);
    assert_eq!(end, Ok(HEAD));
    assert!(given.iter().map(|frame| frame.seq()).eq(after + 1..=HEAD));
}

/// A subscription against a form parser of others.
fn subscription(id: &[u8], query: &[u8]) {
    let Ok(query) = std::str::from_utf8(query) else { return };
    let target = format!("/events?{query}");
    let headers = [("Last-Event-ID", id)];
    let Ok(head) = RequestHead::from_parts("GET", &target, 1, headers) else { return };
    let fields: Vec<(String, String)> =
        form_urlencoded::parse(query.as_bytes()).map(|(name, value)| (name.into(), value.into())).collect();
    let all =
        |name: &'static str| fields.iter().filter(move |field| field.0 == name).map(|field| field.1.clone());

    // What a pattern is, is the matter of the target `grants`.
    let mut patterns: Vec<Pattern> = Vec::new();
    let mut bad_pattern = None;
    for text in all("match") {
        match Pattern::parse(&text) {
            Ok(pattern) if pattern.is_exact() => {}
            Ok(pattern) if patterns.iter().any(|other| other.normalized() == pattern.normalized()) => {}
            Ok(pattern) => patterns.push(pattern),
            Err(error) => bad_pattern = Some(error),
        }
    }
    let is_exact = |text: &String| Pattern::parse(text).is_ok_and(|pattern| pattern.is_exact());
    let mut names: Vec<String> = Vec::new();
    for (_, text) in fields.iter().filter(|(name, text)| name == "topic" || name == "match" && is_exact(text))
    {
        if !names.contains(text) {
            names.push(text.clone());
        }
    }
    let patterns_len = patterns.len();
    match SubscribeQuery::from_head(&head, MAX_TOPICS) {
        Ok(read) => {
            assert_eq!(read.topics.iter().map(Topic::as_str).collect::<Vec<_>>(), names);
            assert_eq!((read.patterns, bad_pattern), (patterns, None));
            assert!((1..=MAX_TOPICS).contains(&(read.topics.len() + patterns_len)));
            assert_eq!(read.gap_events, all("gap").next_back().is_none_or(|gap| gap == "on"));
            let checkpoint = all("checkpoint").next_back().map(|value| match value.as_str() {
                "on" => Checkpoint::Block,
                "off" => Checkpoint::Off,
                "event" => Checkpoint::Event,
                other => panic!("taken: {other:?}"),
            });
            assert_eq!(read.checkpoint, checkpoint.unwrap_or_default());
            assert_eq!(read.heartbeat, all("heartbeat").next_back().and_then(|value| whole_seconds(&value)));
            let header = String::from_utf8_lossy(id.trim_ascii()).into_owned();
            let names = ["last_event_id", "lastEventId", "lastEventID", "Last-Event-ID", "evs_last_event_id"];
            let mut from_query = names.into_iter().flat_map(all).filter(|id| !id.is_empty());
            let expected = Some(header).filter(|id| !id.is_empty()).or_else(|| from_query.next());
            assert_eq!(read.resume, expected);
        }
        Err(SubscribeError::NoTopic) => assert!(all("topic").chain(all("match")).next().is_none()),
        Err(SubscribeError::TooManyTopics { .. }) => assert!(names.len() + patterns_len > MAX_TOPICS),
        Err(SubscribeError::Pattern(_)) => assert!(bad_pattern.is_some()),
        Err(SubscribeError::PatternNotUtf8) => {
            assert!(all("match").any(|text| text.contains('\u{fffd}')));
        }
        Err(SubscribeError::PatternTooComplex) => {
            assert!(patterns.iter().any(|pattern| pattern.states() > MAX_STATES_OF_ONE));
        }
        Err(SubscribeError::TopicNotUtf8) => {
            assert!(all("topic").any(|topic| topic.contains('\u{fffd}')));
        }
        Err(SubscribeError::Topic(_)) => {
            let is_bad =
                |topic: String| topic.is_empty() || topic.len() > 256 || topic.chars().any(char::is_control);
            assert!(all("topic").any(is_bad));
        }
        Err(SubscribeError::Checkpoint) => {
            assert!(all("checkpoint").any(|value| !["on", "off", "event"].contains(&value.as_str())));
        }
        Err(SubscribeError::Heartbeat) => {
            assert!(all("heartbeat").any(|value| whole_seconds(&value).is_none()));
        }
        Err(SubscribeError::Gap) => assert!(all("gap").any(|gap| gap != "on" && gap != "off")),
        Err(other) => panic!("unknown: {other:?}"),
    }
}

/// Seconds as a heartbeat is asked for; more than any integer is the largest one.
fn whole_seconds(text: &str) -> Option<Duration> {
    let only_digits = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    let seconds = text.parse().unwrap_or(u64::MAX);
    (only_digits && seconds > 0).then(|| Duration::from_secs(seconds))
}
