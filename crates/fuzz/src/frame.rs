//! Events to frames and back: what is decoded is what was published, whatever is in its fields.

use std::sync::Arc;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use fanfare_proto::event::{Event, EventId, EventType, Retry, Topic};
use fanfare_proto::frame::{Frame, HeartbeatForm, WireFormat, heartbeat};
use fanfare_proto::frames::{FrameKey, FrameStore};
use fanfare_proto::run::Run;
use fanfare_testkit::chunks::{Place, read_body};

use crate::decoder::{Found, decode, interpret};

#[derive(Arbitrary, Debug)]
struct Input {
    drafts: Vec<Draft>,
    /// How many bytes of a run a socket takes.
    room: Vec<u16>,
}

#[derive(Arbitrary, Debug)]
struct Draft {
    topics: Vec<String>,
    id: Option<String>,
    kind: Option<String>,
    data: Option<String>,
    retry: Option<u64>,
    private: bool,
}

/// The input becomes events by `arbitrary`.
pub(crate) fn check(input: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(input)) else { return };
    let events: Vec<Event> = input.drafts.into_iter().filter_map(Draft::event).collect();
    let frames = arrive(&events);
    for format in [WireFormat::Chunked, WireFormat::Plain] {
        runs_are_cut_at_frames(&frames, format, &input.room);
    }
}

impl Draft {
    /// An event, if all of its fields are good; that they are is decided twice.
    fn event(self) -> Option<Event> {
        let is_text =
            |text: &str, max: usize| (1..=max).contains(&text.len()) && !text.chars().any(|c| c.is_control());
        let is_id = |text: &str| is_text(text, 256) && text != "earliest" && text.trim_matches(' ') == text;
        let is_kind = |text: &str| {
            is_text(text, 128) && !["open", "error"].contains(&text) && !text.starts_with("fanfare.")
        };
        let topic = |text: &String| {
            let topic = Topic::new(text).ok();
            assert_eq!(topic.is_some(), is_text(text, 256), "topic {text:?}");
            topic
        };
        let mut topics = self.topics.iter().map(topic).collect::<Option<Vec<Topic>>>()?.into_iter();
        let mut event = Event::new(topics.next().unwrap_or_else(|| Topic::new("a").unwrap()));
        for topic in topics {
            event = event.with_topic(topic).ok()?;
        }
        if let Some(text) = self.id {
            let id = EventId::new(&text);
            assert_eq!(id.is_ok(), is_id(&text), "id {text:?}");
            event = event.with_id(id.ok()?);
        }
        if let Some(text) = self.kind {
            let kind = EventType::new(&text);
            assert_eq!(kind.is_ok(), is_kind(&text), "type {text:?}");
            event = event.with_type(kind.ok()?);
        }
        if let Some(millis) = self.retry {
            let retry = Retry::from_millis(millis);
            assert_eq!(Retry::parse(&millis.to_string()), Ok(retry));
            event = event.with_retry(retry);
        }
        if let Some(data) = self.data {
            event = event.with_data(data);
        }
        Some(event.with_private(self.private))
    }
}

/// Encodes events, with a heartbeat behind each, and checks that a client reads what was published.
pub(crate) fn arrive(events: &[Event]) -> Vec<Arc<Frame>> {
    let beat = heartbeat(HeartbeatForm::Line, WireFormat::Plain);
    let (mut frames, mut stream, mut expected) = (Vec::new(), Vec::new(), Vec::new());
    let mut last_id = String::new();
    for (seq, event) in (1..).zip(events) {
        last_id = event.id().map_or_else(|| format!("e-{seq}"), |id| id.as_str().to_owned());
        let frame = Frame::encode(seq, &last_id, event.clone(), Duration::ZERO);
        let plain = frame.wire(WireFormat::Plain);
        let chunked = read_body(frame.wire(WireFormat::Chunked)).expect("a chunked body");
        assert_eq!(chunked, (plain.to_vec(), Place::Boundary));
        only_its_fields(plain, event);
        assert_eq!((frame.seq(), frame.topics(), frame.private()), (seq, event.topics(), event.is_private()));
        assert!(frame.size() >= frame.wire(WireFormat::Chunked).len());
        stream.extend_from_slice(plain);
        stream.extend_from_slice(beat);
        expected.extend(meaning(event, &last_id));
        expected.push(Found::Comment(String::new()));
        frames.push(Arc::new(frame));
    }
    let read = decode(&stream, &[stream.len()], usize::MAX);
    assert_eq!(read.found, expected);
    assert_eq!(read.last_event_id, last_id);
    assert_eq!(read, interpret(&stream, usize::MAX));
    frames
}

/// What the standard makes of a published event.
fn meaning(event: &Event, wire_id: &str) -> Vec<Found> {
    let mut found = Vec::new();
    found.extend(event.retry().map(|retry| Found::Retry(retry.millis())));
    found.extend(event.data().map(|data| Found::Event {
        kind: event.event_type().map_or("message", |kind| kind.as_str()).to_owned(),
        data: data.replace("\r\n", "\n").replace('\r', "\n"),
        id: wire_id.to_owned(),
    }));
    found
}

/// Nothing in a field can pass for another field, an end of the event, or an end of the chunk.
fn only_its_fields(plain: &[u8], event: &Event) {
    assert!(!plain.contains(&b'\r'), "only LF is written");
    let text = std::str::from_utf8(plain).unwrap();
    let lines: Vec<&str> = text.strip_suffix("\n\n").unwrap().split('\n').collect();
    let count = |name: &str| lines.iter().filter(|line| line.split(':').next() == Some(name)).count();
    let data_lines = event.data().map_or(0, |data| data.replace("\r\n", "\n").split(['\r', '\n']).count());
    assert_eq!(count("id"), 1);
    assert_eq!(count("event"), usize::from(event.event_type().is_some()));
    assert_eq!(count("retry"), usize::from(event.retry().is_some()));
    assert_eq!(count("data"), data_lines);
    assert_eq!(lines.len(), count("id") + count("event") + count("retry") + count("data"));
}

/// Wherever a send stops: what went out, what is left of the frame that was begun, and the frames after the
/// cursor are together the whole run.
fn runs_are_cut_at_frames(frames: &[Arc<Frame>], format: WireFormat, room: &[u16]) {
    let mut store = FrameStore::default();
    let keys: Vec<FrameKey> = frames.iter().map(|frame| store.insert(Arc::clone(frame))).collect();
    let mut run = Run::default();
    run.fill(0, frames.last().map_or(0, |frame| frame.seq()), format.into(), &keys, &mut store);
    let all: Vec<u8> = frames[..run.len()].iter().flat_map(|frame| frame.wire(format).to_vec()).collect();
    assert_eq!(run.bytes(&store), all);
    assert_eq!(run.is_empty(), frames.is_empty());
    for &room in room {
        let sent = usize::from(room);
        if sent >= all.len() {
            continue;
        }
        let cut = run.cut(sent, &mut store);
        let mut bytes = all[..sent].to_vec();
        let mut cursor = cut.cursor;
        if let Some(unsent) = cut.unsent {
            bytes.extend_from_slice(unsent.bytes(&store));
            cursor = unsent.seq(&store).unwrap();
            unsent.drop_reference(&mut store);
        }
        for frame in frames[..run.len()].iter().filter(|frame| frame.seq() > cursor) {
            bytes.extend_from_slice(frame.wire(format));
        }
        assert_eq!(bytes, all, "cut after {sent} bytes");
    }
    run.clear(&mut store);
    assert_eq!(store.references(), keys.len(), "runs and cuts keep no frame");
}
