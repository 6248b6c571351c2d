//! What is encoded is decoded to what the HTML standard says it means, however the bytes are split.

use std::time::Duration;

use fanfare_proto::decoder::{DecodeError, Decoded, Decoder};
use fanfare_proto::event::{Event, EventId, EventType, Retry, Topic};
use fanfare_proto::frame::{
    Frame, HeartbeatForm, WireFormat, encode_unnumbered, ending, heartbeat, prelude, wrap,
};
use fanfare_testkit::chunks::{Place, read_body};
use proptest::prelude::*;

/// What a decoder found, owned.
#[derive(Clone, Debug, PartialEq)]
enum Found {
    Event { kind: String, data: String, id: String },
    Retry(u64),
    Comment(String),
}

fn own(decoded: Decoded<'_>) -> Found {
    match decoded {
        Decoded::Event { kind, data, last_event_id } => {
            Found::Event { kind: kind.into(), data: data.into(), id: last_event_id.into() }
        }
        Decoded::Retry(millis) => Found::Retry(millis),
        Decoded::Comment(text) => Found::Comment(text.into()),
        other => panic!("unknown: {other:?}"),
    }
}

/// Decodes `stream` in pieces whose lengths are `lengths`, again and again; what was found, how it went, and
/// the last event id.
fn decode(stream: &[u8], lengths: &[usize], limit: usize) -> (Vec<Found>, Result<(), DecodeError>, String) {
    let mut decoder = Decoder::new(limit);
    let mut found = Vec::new();
    let mut result = Ok(());
    let mut rest = stream;
    for len in lengths.iter().cycle() {
        let (piece, after) = rest.split_at((*len).min(rest.len()));
        result = result.and(decoder.feed(piece, &mut |decoded| found.push(own(decoded))));
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    (found, result, decoder.last_event_id().to_owned())
}

/// Line ends as a client sees them, computed the slow way.
fn normalized(data: &str) -> String {
    data.replace("\r\n", "\n").replace('\r', "\n")
}

fn data() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => any::<String>(),
        4 => "[a-z]{0,5}",
        8 => prop::sample::select(vec![
            "\r", "\n", "\r\n", "\n\r", "\n\n", "\0", " ", ":", "\u{feff}", "data: ", "id: 9\n", "event: x\r",
            "retry: 1\r\n", "ä", "😀", "\u{2028}", "\u{85}", "\u{b}", "0\r\n\r\n",
        ]).prop_map(str::to_owned),
    ];
    prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

fn name() -> impl Strategy<Value = String> {
    // Anything that is no control character, beginning with what could be mistaken: space, colon, byte order
    // mark.
    "[ :\u{feff}]{0,2}[^\\p{Cc}]{1,20}".prop_filter("reserved", |name| {
        name != "open" && name != "error" && name != "earliest" && !name.starts_with("fanfare.")
    })
}

fn event() -> impl Strategy<Value = Event> {
    (
        name(),
        prop::option::of(name().prop_filter("spaces that HTTP removes", |id| id.trim_matches(' ') == id)),
        prop::option::of(name()),
        prop::option::of(data()),
        prop::option::of(any::<u64>()),
        any::<bool>(),
    )
        .prop_map(|(topic, id, kind, data, retry, private)| {
            let mut event = Event::new(Topic::new(topic).expect("valid")).with_private(private);
            if let Some(id) = id {
                event = event.with_id(EventId::new(id).expect("valid"));
            }
            if let Some(kind) = kind {
                event = event.with_type(EventType::new(kind).expect("valid"));
            }
            if let Some(data) = data {
                event = event.with_data(data);
            }
            if let Some(retry) = retry {
                event = event.with_retry(Retry::from_millis(retry));
            }
            event
        })
}

/// What the standard makes of a published event.
fn meaning(event: &Event, wire_id: &str) -> Vec<Found> {
    let mut found = Vec::new();
    found.extend(event.retry().map(|retry| Found::Retry(retry.millis())));
    found.extend(event.data().map(|data| Found::Event {
        kind: event.event_type().map_or("message", |kind| kind.as_str()).to_owned(),
        data: normalized(data),
        id: wire_id.to_owned(),
    }));
    found
}

proptest! {
    #[test]
    fn streams_mean_what_was_published(
        events in prop::collection::vec(event(), 0..6),
        heartbeat_form in prop::sample::select(vec![HeartbeatForm::Line, HeartbeatForm::Blank]),
        lengths in prop::collection::vec(1usize..30, 1..10),
        format in prop::sample::select(vec![WireFormat::Chunked, WireFormat::Plain]),
        gap_data in data(),
    ) {
        let mut opening = Vec::new();
        prelude(2345, &mut opening);
        encode_unnumbered(Some("fanfare.gap"), &gap_data, &mut opening);
        let mut wire = Vec::new();
        wrap(&opening, format, &mut wire);
        let mut expected = vec![
            Found::Comment(String::new()),
            Found::Retry(2345),
            Found::Event { kind: "fanfare.gap".into(), data: normalized(&gap_data), id: String::new() },
        ];
        let mut last_id = String::new();
        for (seq, event) in (1u64..).zip(events) {
            last_id = format!("e~1-{seq}");
            expected.extend(meaning(&event, &last_id));
            let frame = Frame::encode(seq, &last_id, event, Duration::ZERO);
            wire.extend_from_slice(frame.wire(format));
            wire.extend_from_slice(heartbeat(heartbeat_form, format));
            expected.push(Found::Comment(String::new()));
        }
        ending(777, format, &mut wire);
        expected.push(Found::Retry(777));

        let body = match format {
            WireFormat::Plain => wire,
            WireFormat::Chunked => {
                let (body, place) = read_body(&wire).expect("a chunked body");
                prop_assert_eq!(place, Place::End);
                body
            }
            format => unreachable!("there is no format {format:?}"),
        };
        prop_assert!(!body.contains(&b'\r'), "only LF is written");
        let (found, result, id) = decode(&body, &lengths, usize::MAX);
        prop_assert_eq!(result, Ok(()));
        prop_assert_eq!(found, expected);
        prop_assert_eq!(id, last_id);
    }

    #[test]
    fn both_formats_hold_the_same_body(event in event()) {
        let frame = Frame::encode(1, "e-1", event, Duration::ZERO);
        let (body, place) = read_body(frame.wire(WireFormat::Chunked)).expect("a chunked body");
        prop_assert_eq!(place, Place::Boundary);
        prop_assert_eq!(&body[..], frame.wire(WireFormat::Plain));
        prop_assert!(body.ends_with(b"id: e-1\n\n"), "the id is the last line");
        prop_assert_eq!(body.windows(2).position(|two| two == b"\n\n"), Some(body.len() - 2), "one blank line, at the end");
    }

    /// A reader in the same process gets the fields from the frame, as a client decodes them from the stream.
    #[test]
    fn a_frame_gives_back_what_was_published(event in event(), ahead in any::<u64>()) {
        let wire_id = event.id().map_or_else(|| format!("e-{ahead}"), |id| id.as_str().to_owned());
        let frame = Frame::encode(ahead, &wire_id, event.clone(), Duration::ZERO);
        prop_assert_eq!(frame.topics(), event.topics());
        prop_assert_eq!(frame.own_id(), event.id().map(EventId::as_str));
        prop_assert_eq!(frame.event_type(), event.event_type().map(EventType::as_str));
        prop_assert_eq!(frame.retry_wait(), event.retry());
        prop_assert_eq!(frame.private(), event.is_private());
        let data = frame.data();
        prop_assert_eq!(data.as_deref().map(str::to_owned), event.data().map(normalized));
        // The decoder of streams reads the same.
        let (found, result, _) = decode(frame.wire(WireFormat::Plain), &[7], usize::MAX);
        prop_assert_eq!(result, Ok(()));
        let kind = frame.event_type().unwrap_or("message").to_owned();
        let decoded = data.map(|data| Found::Event { kind, data: data.into_owned(), id: wire_id });
        let events = found.into_iter().filter(|found| matches!(found, Found::Event { .. }));
        prop_assert_eq!(events.collect::<Vec<_>>(), decoded.into_iter().collect::<Vec<_>>());
    }

    /// Streams that no encoder writes: any mix of fields, line ends and bytes that are not UTF-8.
    #[test]
    fn the_split_makes_no_difference(
        parts in prop::collection::vec(prop_oneof![
            prop::sample::select(vec![
                &b"\r"[..], b"\n", b"\r\n", b"\n\n", b"\r\r", b"data", b"data:", b"data: x", b"id: ", b"id:1", b"event:a",
                b"event", b"retry: 5", b"retry:99999999999999999999", b":", b": c", b"\0", b" ", b"\xef\xbb\xbf", b"\xef",
                b"\xbb", b"\xf0\x9f\x98\x80", b"\xf0\x9f", b"\xff", b"\xe2\x82", b"\xc3\xa4",
            ]).prop_map(<[u8]>::to_vec),
            prop::collection::vec(any::<u8>(), 0..4),
        ], 0..40),
        lengths in prop::collection::vec(1usize..9, 1..10),
        limit in prop_oneof![Just(usize::MAX), 1usize..60],
    ) {
        let stream = parts.concat();
        let at_once = decode(&stream, &[stream.len() + 1], limit);
        prop_assert_eq!(&decode(&stream, &lengths, limit), &at_once);
        prop_assert_eq!(&decode(&stream, &[1], limit), &at_once);
    }
}
