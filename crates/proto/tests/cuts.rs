//! A stream that is cut at any byte, and the client that resumes with the id that it has then.
//!
//! Two kinds of clients are played. The HTML standard adopts an id at the blank line that also dispatches the
//! event. Others (fetch-event-source is one) adopt it as soon as they have read its line.

use std::time::Duration;

use fanfare_proto::cursor::{Cursor, Epoch};
use fanfare_proto::decoder::{Decoded, Decoder};
use fanfare_proto::event::{Event, EventType, Retry, Topic};
use fanfare_proto::frame::{Frame, WireFormat, gap_event, prelude, wrap};
use fanfare_testkit::chunks::read_body;

/// The gap event and five others.
const ALL: [u64; 6] = [0, 1, 2, 3, 4, 5];
const FORMATS: [WireFormat; 2] = [WireFormat::Chunked, WireFormat::Plain];

fn id(seq: u64) -> String {
    Cursor { epoch: Epoch::new(36), seq }.to_string()
}

/// Events with every combination of fields; each has its number as the last line of its data.
fn frames() -> Vec<Frame> {
    let event = || Event::new(Topic::new("t").expect("a topic"));
    let kind = || EventType::new("paid").expect("a type");
    let events = [
        event().with_data("1"),
        event().with_type(kind()).with_data("two lines\n2"),
        event().with_retry(Retry::from_millis(2000)).with_data("\n\n3"),
        event().with_type(kind()).with_retry(Retry::from_millis(2000)).with_data("id: 9\n4"),
        event().with_data("5"),
    ];
    (1..).zip(events).map(|(seq, event)| Frame::encode(seq, &id(seq), event, Duration::ZERO)).collect()
}

/// What a client knows over all of its connections.
#[derive(Default)]
struct Client {
    adopts_at_line: bool,
    last_event_id: String,
    /// The events' numbers; 0 is the gap event.
    dispatched: Vec<u64>,
}

impl Client {
    /// Reads a stream that ends, or is cut, behind `wire`.
    fn read(&mut self, wire: &[u8], format: WireFormat) {
        let body = match format {
            // A client also has the beginning of a chunk.
            WireFormat::Chunked => read_body(wire).expect("a chunked body").0,
            WireFormat::Plain => wire.to_vec(),
            format => unreachable!("there is no format {format:?}"),
        };
        let mut decoder = Decoder::new(usize::MAX);
        decoder
            .feed(&body, &mut |decoded| {
                if let Decoded::Event { data, kind, .. } = decoded {
                    self.dispatched.push(match kind {
                        "fanfare.gap" => 0,
                        _ => data.lines().last().and_then(|line| line.parse().ok()).expect("a number"),
                    });
                }
            })
            .expect("no limit");
        if self.adopts_at_line {
            let lines = body.split_inclusive(|&byte| byte == b'\n');
            let mut ids = lines.filter_map(|line| line.strip_prefix(b"id: ")?.strip_suffix(b"\n"));
            if let Some(id) = ids.next_back() {
                self.last_event_id = String::from_utf8(id.to_vec()).expect("text");
            }
        } else if !decoder.last_event_id().is_empty() {
            self.last_event_id = decoder.last_event_id().to_owned();
        }
    }

    fn seq(&self) -> u64 {
        Cursor::parse(&self.last_event_id).expect("a cursor").seq
    }
}

/// The stream of a client that has everything up to `after`, from its first byte.
fn stream(after: u64, gap: bool, format: WireFormat) -> Vec<u8> {
    let (mut opening, mut wire) = (Vec::new(), Vec::new());
    prelude(2345, &mut opening);
    wrap(&opening, format, &mut wire);
    let frames = frames();
    let later = || frames.iter().filter(|frame| frame.seq() > after);
    if gap {
        let cursor = Cursor { epoch: Epoch::new(36), seq: after };
        gap_event("lost", cursor, later().next(), format, &mut wire);
    }
    for frame in later() {
        wire.extend_from_slice(frame.wire(format));
    }
    wire
}

/// What a client has dispatched when its first stream, which began with a gap, is cut behind `cut` bytes and
/// its second one is not.
fn after_a_cut(adopts_at_line: bool, cut: usize, format: WireFormat) -> Vec<u64> {
    let mut client = Client { adopts_at_line, last_event_id: "lost".to_owned(), dispatched: Vec::new() };
    client.read(&stream(0, true, format)[..cut], format);
    match client.last_event_id.as_str() {
        "lost" => client.read(&stream(0, true, format), format),
        _ => client.read(&stream(client.seq(), false, format), format),
    }
    client.dispatched
}

#[test]
fn a_standard_client_that_is_cut_anywhere_gets_every_event_once() {
    for format in FORMATS {
        for cut in 0..=stream(0, true, format).len() {
            assert_eq!(after_a_cut(false, cut, format), ALL, "{format:?}, {cut} bytes");
        }
    }
}

/// The id used to be the first line of a frame: a cut anywhere behind it lost the event for a client that
/// adopts ids at their line. Now only a cut between the line feed of the id and the blank line does. No order
/// of lines can help there, because such a client adopts an id one byte before it dispatches the event.
#[test]
fn a_client_that_adopts_ids_at_their_line_loses_an_event_at_one_cut_only() {
    for format in FORMATS {
        let wire = stream(0, true, format);
        let mut lossy_cuts = Vec::new();
        for cut in 0..=wire.len() {
            let dispatched = after_a_cut(true, cut, format);
            if dispatched != ALL {
                let lost: Vec<u64> = ALL.into_iter().filter(|number| !dispatched.contains(number)).collect();
                assert_eq!((lost.len(), dispatched.len()), (1, 5), "{format:?}, {cut} bytes: {dispatched:?}");
                lossy_cuts.push((lost[0], cut));
            }
        }
        let before_the_blank_line = |seq: u64| {
            let line = format!("id: {}\n", id(seq)).into_bytes();
            let starts = wire.windows(line.len()).position(|window| window == line).expect("the id is there");
            (seq, starts + line.len())
        };
        assert_eq!(lossy_cuts, ALL.map(before_the_blank_line), "{format:?}");
    }
}
