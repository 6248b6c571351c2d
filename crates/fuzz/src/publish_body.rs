//! Bodies of `POST /events`: what is accepted says what a naive reader finds in it, arrives at a client, and
//! is accepted again when it is written anew.

// The server is a binary; its HTTP stack would have to be built for these few functions.
#[path = "../../server/src/control/body.rs"]
mod body;

use fanfare::{Event, EventId, EventType, Retry, Topic};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::frame::arrive;
use crate::pieces::ways_to_cut;
use body::{Flaw, JsonEvents, Lines, MAX_FORM_FIELDS, SHOWN, form_event, is_array, json_event};

/// The input is a body, of each content type.
pub(crate) fn check(input: &[u8]) {
    one_json(input);
    json_array(input);
    form(input);
    for ends in ways_to_cut(input) {
        lines(input, &ends);
    }
}

fn one_json(body: &[u8]) {
    let read = json_event(body);
    if let Ok(value) = serde_json::from_slice::<Value>(body) {
        same_verdict(&read, &value);
    }
    if let Ok(event) = read {
        round_trip(&event);
    }
}

fn json_array(body: &[u8]) {
    match JsonEvents::new(body).collect::<Result<Vec<Event>, Flaw>>() {
        Ok(events) => {
            assert!(is_array(body));
            let values: Vec<&RawValue> = serde_json::from_slice(body).expect("what was accepted is an array");
            assert_eq!(values.len(), events.len());
            arrive(&events);
            if let Ok(values) = serde_json::from_slice::<Vec<Value>>(body) {
                assert_eq!(values.len(), events.len());
                for (event, value) in events.into_iter().zip(&values) {
                    same_verdict(&Ok(event), value);
                }
            }
        }
        Err(Flaw { index: Some(index), detail, .. }) => {
            assert!(detail.starts_with(&format!("event {}: ", index + 1)), "{detail}");
        }
        Err(_) => {}
    }
}

/// What the naive reader knows of an event.
fn same_verdict(read: &Result<Event, Flaw>, value: &Value) {
    match (read, naive(value)) {
        (Ok(event), Verdict::Event { topics, id, kind, private }) => {
            assert_eq!(event.topics().iter().map(Topic::as_str).collect::<Vec<_>>(), topics);
            assert_eq!(event.id().map(EventId::as_str), id);
            assert_eq!(event.event_type().map(EventType::as_str), kind);
            assert_eq!(event.is_private(), private);
            same_data(event.data(), value.get("data"));
        }
        (Ok(_), Verdict::Bad(why)) => panic!("accepted, although {why}: {value}"),
        // `Value` keeps the last of two fields of the same name.
        (Err(flaw), Verdict::Event { .. }) => {
            assert!(flaw.detail.contains("duplicate field"), "{flaw:?}: {value}")
        }
        (_, Verdict::Unknown) | (Err(_), Verdict::Bad(_)) => {}
    }
}

/// Strings are the text, other values are compact and the same value.
fn same_data(data: Option<&str>, value: Option<&Value>) {
    match (data, value) {
        (None, None) => {}
        (Some(data), Some(Value::String(text))) => assert_eq!(data, text),
        (Some(data), Some(value)) => {
            assert_eq!(&serde_json::from_str::<Value>(data).unwrap(), value, "{data:?}");
            assert!(!data.contains(['\n', '\r', '\t']), "compact, and such characters are escaped: {data:?}");
        }
        (data, value) => panic!("{data:?} is not {value:?}"),
    }
}

enum Verdict<'v> {
    Event {
        topics: Vec<&'v str>,
        id: Option<&'v str>,
        kind: Option<&'v str>,
        private: bool,
    },
    Bad(&'static str),
    /// `Value` has lost how a number or a string was written.
    Unknown,
}

/// The rules of an event in JSON, over a value that is in memory.
fn naive(value: &Value) -> Verdict<'_> {
    let Some(object) = value.as_object() else { return Verdict::Bad("it is not an object") };
    let known = ["topic", "data", "id", "type", "retry", "private"];
    if !object.keys().all(|key| known.contains(&key.as_str())) {
        return Verdict::Bad("it has an unknown field");
    }
    let listed: Option<Vec<&str>> = match object.get("topic") {
        Some(Value::String(topic)) => Some(vec![topic]),
        Some(Value::Array(topics)) => topics.iter().map(Value::as_str).collect(),
        _ => None,
    };
    let Some(listed) = listed.filter(|listed| listed.iter().all(|topic| Topic::new(topic).is_ok())) else {
        return Verdict::Bad("its topics are not topics");
    };
    // Repeated names count.
    if !(1..=64).contains(&listed.len()) {
        return Verdict::Bad("it has no topic, or too many");
    }
    let mut topics: Vec<&str> = Vec::new();
    for topic in listed {
        if !topics.contains(&topic) {
            topics.push(topic);
        }
    }
    let Some(id) = text(object, "id", |id| EventId::new(id).is_ok()) else {
        return Verdict::Bad("its id is bad");
    };
    let Some(kind) = text(object, "type", |kind| EventType::new(kind).is_ok()) else {
        return Verdict::Bad("its type is bad");
    };
    let private = match object.get("private") {
        None => false,
        Some(Value::Bool(private)) => *private,
        Some(_) => return Verdict::Bad("private is not a boolean"),
    };
    match object.get("retry") {
        None | Some(Value::Null) => {}
        Some(Value::Number(number)) if number.is_u64() => {}
        Some(Value::Number(_) | Value::String(_)) => return Verdict::Unknown,
        Some(_) => return Verdict::Bad("retry is not a number"),
    }
    Verdict::Event { topics, id, kind, private }
}

/// A field that may be missing or null: `Some(None)`. `None` where it is there and wrong.
fn text<'v>(
    object: &'v Map<String, Value>,
    name: &str,
    is_good: impl Fn(&str) -> bool,
) -> Option<Option<&'v str>> {
    match object.get(name) {
        None | Some(Value::Null) => Some(None),
        Some(Value::String(text)) if is_good(text) => Some(Some(text)),
        Some(_) => None,
    }
}

fn form(body: &[u8]) {
    let fields: Vec<(String, String)> =
        form_urlencoded::parse(body).map(|(name, value)| (name.into(), value.into())).collect();
    let event = match form_event(body) {
        Ok(event) => event,
        Err(Flaw { field, .. }) => {
            let Some(named) = field else {
                let separators = body.iter().filter(|byte| **byte == b'&').count();
                assert!(
                    separators >= MAX_FORM_FIELDS,
                    "a form is refused for one of its fields, or for their number"
                );
                return;
            };
            // A long name is not repeated whole.
            let is_named =
                |field: &str| field == named || (named.chars().count() == SHOWN && field.starts_with(&named));
            assert!(named == "topic" || fields.iter().any(|field| is_named(&field.0)), "{named:?}");
            return;
        }
    };
    let all =
        |name: &'static str| fields.iter().filter(move |field| field.0 == name).map(|field| field.1.as_str());
    let last = |name: &'static str| all(name).next_back().filter(|text| !text.is_empty());
    assert!(event.topics().iter().all(|topic| all("topic").any(|text| text == topic.as_str())));
    assert!(all("topic").all(|text| event.topics().iter().any(|topic| topic.as_str() == text)));
    assert_eq!(event.data(), all("data").next_back());
    assert_eq!(event.id().map(EventId::as_str), last("id"));
    assert_eq!(event.event_type().map(EventType::as_str), last("type"));
    assert_eq!(event.retry(), last("retry").map(|digits| Retry::parse(digits).unwrap()));
    assert_eq!(event.is_private(), all("private").next().is_some());
    round_trip(&event);
}

/// What was accepted arrives, and is accepted when it is written again.
fn round_trip(event: &Event) {
    arrive(std::slice::from_ref(event));
    let topics: Vec<&str> = event.topics().iter().map(Topic::as_str).collect();
    let id = event.id().map(EventId::as_str);
    let kind = event.event_type().map(EventType::as_str);
    let retry = event.retry().map(Retry::millis);

    let mut object =
        json!({ "topic": topics, "id": id, "type": kind, "retry": retry, "private": event.is_private() });
    if let Some(data) = event.data() {
        object["data"] = data.into();
    }
    assert_eq!(&json_event(object.to_string().as_bytes()).unwrap(), event);

    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs(topics.iter().map(|topic| ("topic", *topic)));
    let retry = retry.map(|millis| millis.to_string());
    for (name, value) in [("data", event.data()), ("id", id), ("type", kind), ("retry", retry.as_deref())] {
        form.extend_pairs(value.map(|value| (name, value)));
    }
    if event.is_private() {
        form.append_key_only("private");
    }
    assert_eq!(&form_event(form.finish().as_bytes()).unwrap(), event);
}

/// Lines come out as they are, whatever the pieces.
fn lines(body: &[u8], ends: &[usize]) {
    let mut lines = Lines::default();
    let (mut seen, mut begin) = (Vec::new(), 0);
    for &end in ends {
        lines.buffer.extend_from_slice(&body[begin..end]);
        begin = end;
        while let Some(line) = lines.next(false) {
            assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
            seen.push(line);
        }
    }
    seen.extend(lines.next(true));
    assert!(lines.next(true).is_none());
    assert_eq!(lines.number, seen.len());
    assert_eq!(seen.concat(), body);
}
