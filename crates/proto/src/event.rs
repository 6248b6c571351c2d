//! What a publisher sends: an [`Event`] and the checked names it is made of.
//!
//! A topic, id, type or retry that would be wrong on the wire cannot be constructed, so the encoder
//! ([`crate::frame`]) never has to check again.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use smallvec::{SmallVec, smallvec};

/// Longest topic, in bytes of UTF-8: a few hundred of them still fit into one request line.
pub const MAX_TOPIC_BYTES: usize = 256;
/// Longest publisher's id, in bytes of UTF-8: it has to come back inside a request header.
pub const MAX_EVENT_ID_BYTES: usize = 256;
/// Longest event type, in bytes of UTF-8.
pub const MAX_EVENT_TYPE_BYTES: usize = 128;
/// Most topics of one event: each of them is looked up by every shard.
pub const MAX_TOPICS_PER_EVENT: usize = 64;

/// The id that asks for everything retained; no event may carry it.
const RESERVED_ID: &str = "earliest";
/// Types that would look like `EventSource`'s own events to a browser's listeners.
const RESERVED_TYPES: [&str; 2] = ["open", "error"];
/// Types with this beginning are the engine's own, such as `fanfare.gap`.
const RESERVED_TYPE_PREFIX: &str = "fanfare.";

/// The name that is published to and subscribed to: 1 to 256 bytes, no control characters.
///
/// Cloning is cheap: clones share one string.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

impl Topic {
    /// Checks `name` and makes a topic of it.
    ///
    /// # Errors
    /// The name is empty, longer than [`MAX_TOPIC_BYTES`], or has a control character in it.
    pub fn new(name: impl AsRef<str>) -> Result<Topic, InvalidEvent> {
        let name = name.as_ref();
        check_text(Field::Topic, name, MAX_TOPIC_BYTES)?;
        Ok(Topic(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Topic {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A publisher's own id for an event: 1 to 256 bytes, no control characters, no space at either end, and not
/// `earliest`.
///
/// A NUL in an id makes clients ignore it and a line end would begin another field (HTML standard, 9.2.6). A
/// space at an end does not come back in `Last-Event-ID`: "A field value does not include leading or trailing
/// whitespace" (RFC 9110, section 5.5).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(Box<str>);

impl EventId {
    /// Checks `id` and makes an event id of it.
    ///
    /// # Errors
    /// The id is empty, longer than [`MAX_EVENT_ID_BYTES`], has a control character in it, begins or ends
    /// with a space, or is `earliest`.
    pub fn new(id: impl AsRef<str>) -> Result<EventId, InvalidEvent> {
        let id = id.as_ref();
        check_text(Field::Id, id, MAX_EVENT_ID_BYTES)?;
        if id.starts_with(' ') || id.ends_with(' ') {
            return Err(InvalidEvent::OuterSpace);
        }
        if id == RESERVED_ID {
            return Err(InvalidEvent::ReservedId);
        }
        Ok(EventId(id.into()))
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The type of an event, the name a browser's `addEventListener` listens for: 1 to 128 bytes, no control
/// characters, not `open` or `error`, not beginning with `fanfare.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventType(Box<str>);

impl EventType {
    /// Checks `name` and makes an event type of it.
    ///
    /// # Errors
    /// The name is empty, longer than [`MAX_EVENT_TYPE_BYTES`], has a control character in it, or is
    /// reserved.
    pub fn new(name: impl AsRef<str>) -> Result<EventType, InvalidEvent> {
        let name = name.as_ref();
        check_text(Field::Type, name, MAX_EVENT_TYPE_BYTES)?;
        if let Some(reserved) = RESERVED_TYPES.into_iter().find(|reserved| *reserved == name) {
            return Err(InvalidEvent::ReservedType { name: reserved });
        }
        if name.starts_with(RESERVED_TYPE_PREFIX) {
            return Err(InvalidEvent::ReservedTypePrefix);
        }
        Ok(EventType(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How long a client waits before it reconnects, in milliseconds; always within 100 ms to 1 h.
///
/// With shorter waits, all clients would come at once after a restart; with longer ones a page seems dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Retry(u32);

impl Retry {
    /// The shortest wait: 100 ms.
    pub const MIN: Retry = Retry(100);
    /// The longest wait: 1 h.
    pub const MAX: Retry = Retry(3_600_000);

    /// A wait of `millis` milliseconds, clamped to [`Retry::MIN`]..=[`Retry::MAX`].
    pub fn from_millis(millis: u64) -> Retry {
        match u32::try_from(millis) {
            Ok(millis) => Retry(millis).clamp(Retry::MIN, Retry::MAX),
            Err(_) => Retry::MAX,
        }
    }

    /// Reads milliseconds written in ASCII digits, and clamps them; a number beyond any integer is
    /// [`Retry::MAX`].
    ///
    /// Anything but digits is refused, because clients ignore it (HTML standard, 9.2.6, field `retry`).
    ///
    /// # Errors
    /// `text` is empty or has anything but ASCII digits in it.
    pub fn parse(text: &str) -> Result<Retry, InvalidEvent> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(InvalidEvent::RetryNotDigits);
        }
        // Only digits are left, so the one possible failure is a number that does not fit.
        Ok(Retry::from_millis(text.parse().unwrap_or(u64::MAX)))
    }

    /// The wait in milliseconds.
    pub fn millis(self) -> u64 {
        u64::from(self.0)
    }
}

impl From<Duration> for Retry {
    /// Rounds down to milliseconds, and clamps.
    fn from(wait: Duration) -> Retry {
        Retry::from_millis(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
    }
}

/// What a publisher sends: topics, and optionally an id, a type, data and a retry.
///
/// Its methods take it and give it back, so they can be chained.
///
/// ```
/// # use fanfare_proto::event::{Event, EventType, Topic};
/// # fn main() -> Result<(), fanfare_proto::event::InvalidEvent> {
/// let event = Event::new(Topic::new("orders")?).with_topic(Topic::new("orders/42")?)?;
/// let event = event.with_type(EventType::new("paid")?).with_data("42");
/// assert_eq!(event.topics().len(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Never empty, no duplicates, at most [`MAX_TOPICS_PER_EVENT`].
    topics: SmallVec<[Topic; 1]>,
    id: Option<EventId>,
    kind: Option<EventType>,
    data: Option<String>,
    retry: Option<Retry>,
    private: bool,
}

impl Event {
    /// An event on one topic, with nothing else in it.
    pub fn new(topic: Topic) -> Event {
        Event { topics: smallvec![topic], id: None, kind: None, data: None, retry: None, private: false }
    }

    /// Publishes to `topic` too. A topic the event already has changes nothing.
    ///
    /// # Errors
    /// The event already has [`MAX_TOPICS_PER_EVENT`] other topics.
    pub fn with_topic(mut self, topic: Topic) -> Result<Event, InvalidEvent> {
        if self.topics.contains(&topic) {
            return Ok(self);
        }
        if self.topics.len() == MAX_TOPICS_PER_EVENT {
            return Err(InvalidEvent::TooManyTopics);
        }
        self.topics.push(topic);
        Ok(self)
    }

    /// Sets the publisher's own id.
    #[must_use]
    pub fn with_id(mut self, id: EventId) -> Event {
        self.id = Some(id);
        self
    }

    /// Sets the type; without one, clients see `message`.
    #[must_use]
    pub fn with_type(mut self, kind: EventType) -> Event {
        self.kind = Some(kind);
        self
    }

    /// Sets the data. Line ends of any kind (CRLF, CR, LF) reach the client as LF, as the format demands.
    ///
    /// Without data no client dispatches anything, but the id still advances; empty data is dispatched.
    #[must_use]
    pub fn with_data(mut self, data: impl Into<String>) -> Event {
        self.data = Some(data.into());
        self
    }

    /// Sets the wait before a reconnection, for every client that gets this event.
    #[must_use]
    pub fn with_retry(mut self, retry: impl Into<Retry>) -> Event {
        self.retry = Some(retry.into());
        self
    }

    /// Marks the event as private: of the subscribers of its topics, only those get it whose subscription was
    /// given the right to private events. The default is no.
    #[must_use]
    pub fn with_private(mut self, private: bool) -> Event {
        self.private = private;
        self
    }

    /// The topics, in the order given, without duplicates; never empty.
    pub fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// The publisher's own id.
    pub fn id(&self) -> Option<&EventId> {
        self.id.as_ref()
    }

    /// The type.
    pub fn event_type(&self) -> Option<&EventType> {
        self.kind.as_ref()
    }

    /// The data as the publisher gave it.
    pub fn data(&self) -> Option<&str> {
        self.data.as_deref()
    }

    /// The wait before a reconnection.
    pub fn retry(&self) -> Option<Retry> {
        self.retry
    }

    /// Whether only subscribers with the right to private events get it.
    pub fn is_private(&self) -> bool {
        self.private
    }

    /// The two parts that a frame keeps after the rest has been encoded.
    pub(crate) fn into_topics_and_id(self) -> (SmallVec<[Topic; 1]>, Option<EventId>) {
        (self.topics, self.id)
    }
}

/// Why a topic, id, type, retry or event could not be made; the publisher is at fault.
///
/// The message says what is wrong and what to do instead.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidEvent {
    /// The field is there but has nothing in it.
    Empty {
        /// Which field.
        field: Field,
    },
    /// The field has more bytes than allowed.
    TooLong {
        /// Which field.
        field: Field,
        /// How long it is, in bytes of UTF-8.
        bytes: usize,
        /// How long it may be, in bytes of UTF-8.
        max_bytes: usize,
    },
    /// The field has a control character (C0, DEL or C1) in it.
    ControlCharacter {
        /// Which field.
        field: Field,
        /// The character.
        found: char,
        /// Where it is, in bytes from the field's beginning.
        at_byte: usize,
    },
    /// The id begins or ends with a space, which HTTP removes from `Last-Event-ID`.
    OuterSpace,
    /// The id is `earliest`, which means "everything retained" when a subscriber sends it.
    ReservedId,
    /// The type is one that `EventSource` dispatches itself.
    ReservedType {
        /// The type.
        name: &'static str,
    },
    /// The type begins with `fanfare.`.
    ReservedTypePrefix,
    /// The retry is not written in ASCII digits.
    RetryNotDigits,
    /// The event has more than [`MAX_TOPICS_PER_EVENT`] topics.
    TooManyTopics,
}

impl InvalidEvent {
    /// The field at fault, by the name a publisher gives it: `topic`, `id`, `type` or `retry`.
    pub fn field(&self) -> &'static str {
        let field = match self {
            InvalidEvent::Empty { field }
            | InvalidEvent::TooLong { field, .. }
            | InvalidEvent::ControlCharacter { field, .. } => *field,
            InvalidEvent::OuterSpace | InvalidEvent::ReservedId => Field::Id,
            InvalidEvent::ReservedType { .. } | InvalidEvent::ReservedTypePrefix => Field::Type,
            InvalidEvent::RetryNotDigits => Field::Retry,
            InvalidEvent::TooManyTopics => Field::Topic,
        };
        field.name()
    }
}

impl fmt::Display for InvalidEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvalidEvent::Empty { field: Field::Topic } => {
                f.write_str("the topic is empty; name one, such as \"news\"")
            }
            InvalidEvent::Empty { field } => {
                write!(f, "the {0} is empty; leave {0} out or give it a value", field.name())
            }
            InvalidEvent::TooLong { field, bytes, max_bytes } => {
                write!(f, "the {} has {bytes} bytes; shorten it to {max_bytes}", field.name())
            }
            InvalidEvent::ControlCharacter { field, found, at_byte } => write!(
                f,
                "the {} has the control character U+{:04X} at byte {at_byte}; remove it (line ends are allowed only in data)",
                field.name(),
                u32::from(*found)
            ),
            InvalidEvent::OuterSpace => f.write_str(
                "the id begins or ends with a space, which HTTP removes from a Last-Event-ID; remove the space",
            ),
            InvalidEvent::ReservedId => f.write_str(
                "the id \"earliest\" is reserved for asking for everything retained; use another id",
            ),
            InvalidEvent::ReservedType { name } => {
                write!(f, "the type {name:?} is one that browsers dispatch themselves; use another type")
            }
            InvalidEvent::ReservedTypePrefix => f.write_str(
                "types beginning with \"fanfare.\" are reserved for the engine; use another beginning",
            ),
            InvalidEvent::RetryNotDigits => {
                f.write_str("retry has to be a number of milliseconds in digits only, such as 3000")
            }
            InvalidEvent::TooManyTopics => write!(
                f,
                "the event has more than {MAX_TOPICS_PER_EVENT} topics; publish it more than once, or to a topic that all of them subscribe to"
            ),
        }
    }
}

impl std::error::Error for InvalidEvent {}

/// A field of an event that [`InvalidEvent`] can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Field {
    /// `topic`
    Topic,
    /// `id`
    Id,
    /// `type`
    Type,
    /// `retry`
    Retry,
}

impl Field {
    /// The name a publisher gives the field.
    pub fn name(self) -> &'static str {
        match self {
            Field::Topic => "topic",
            Field::Id => "id",
            Field::Type => "type",
            Field::Retry => "retry",
        }
    }
}

fn check_text(field: Field, text: &str, max_bytes: usize) -> Result<(), InvalidEvent> {
    if text.is_empty() {
        return Err(InvalidEvent::Empty { field });
    }
    if text.len() > max_bytes {
        return Err(InvalidEvent::TooLong { field, bytes: text.len(), max_bytes });
    }
    // Unicode's category Cc is exactly C0, DEL and C1.
    match text.char_indices().find(|(_, found)| found.is_control()) {
        Some((at_byte, found)) => Err(InvalidEvent::ControlCharacter { field, found, at_byte }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn topic(name: &str) -> Topic {
        Topic::new(name).unwrap()
    }

    #[test]
    fn topics_are_bounded_in_bytes_not_characters() {
        assert_eq!(Topic::new(""), Err(InvalidEvent::Empty { field: Field::Topic }));
        assert!(Topic::new("t").is_ok());
        assert!(Topic::new("t".repeat(256)).is_ok());
        assert!(Topic::new("ä".repeat(128)).is_ok());
        assert_eq!(
            Topic::new("ä".repeat(129)),
            Err(InvalidEvent::TooLong { field: Field::Topic, bytes: 258, max_bytes: 256 })
        );
    }

    #[test]
    fn every_control_character_is_refused_everywhere() {
        let controls = (0u32..0x20).chain(0x7f..0xa0).map(|code| char::from_u32(code).unwrap());
        for found in controls {
            let text = format!("ä{found}b");
            let error = |field| InvalidEvent::ControlCharacter { field, found, at_byte: 2 };
            assert_eq!(Topic::new(&text), Err(error(Field::Topic)));
            assert_eq!(EventId::new(&text), Err(error(Field::Id)));
            assert_eq!(EventType::new(&text), Err(error(Field::Type)));
        }
        // The neighbours are not controls.
        for found in [' ', '~', '\u{a0}', '\u{feff}', '\u{2028}'] {
            assert!(Topic::new(format!("a{found}b")).is_ok());
        }
    }

    #[test]
    fn a_topic_is_found_by_its_text() {
        let counts = HashMap::from([(topic("a"), 1)]);
        assert_eq!(counts.get("a"), Some(&1));
        assert_eq!(counts.get("b"), None);
        assert_eq!(topic("a").to_string(), "a");
        assert!(topic("a") < topic("b"));
    }

    #[test]
    fn ids_are_bounded_and_not_earliest() {
        assert_eq!(EventId::new(""), Err(InvalidEvent::Empty { field: Field::Id }));
        assert!(EventId::new("x".repeat(256)).is_ok());
        assert!(matches!(EventId::new("x".repeat(257)), Err(InvalidEvent::TooLong { bytes: 257, .. })));
        assert_eq!(EventId::new("earliest"), Err(InvalidEvent::ReservedId));
        assert_eq!(EventId::new("Earliest").unwrap().as_str(), "Earliest");
    }

    /// Such an id came back without its space, so it was unknown: the subscriber got a false gap and the
    /// whole log again.
    #[test]
    fn an_id_that_http_would_change_is_refused() {
        for changed in [" x", "x ", " x ", " ", "  ", " earliest"] {
            assert_eq!(EventId::new(changed), Err(InvalidEvent::OuterSpace), "{changed:?}");
        }
        for kept in ["x y", "\u{a0}x\u{a0}", "\u{feff}", "x\u{3000}"] {
            assert_eq!(EventId::new(kept).map(|id| id.as_str().to_owned()), Ok(kept.to_owned()));
        }
    }

    #[test]
    fn types_are_bounded_and_not_reserved() {
        assert_eq!(EventType::new(""), Err(InvalidEvent::Empty { field: Field::Type }));
        assert!(EventType::new("x".repeat(128)).is_ok());
        assert!(matches!(EventType::new("x".repeat(129)), Err(InvalidEvent::TooLong { max_bytes: 128, .. })));
        assert_eq!(EventType::new("open"), Err(InvalidEvent::ReservedType { name: "open" }));
        assert_eq!(EventType::new("error"), Err(InvalidEvent::ReservedType { name: "error" }));
        assert_eq!(EventType::new("fanfare."), Err(InvalidEvent::ReservedTypePrefix));
        assert_eq!(EventType::new("fanfare.gap"), Err(InvalidEvent::ReservedTypePrefix));
        for allowed in ["opened", "Open", "errors", "fanfare", "fanfares.gap", "message"] {
            assert_eq!(EventType::new(allowed).unwrap().as_str(), allowed);
        }
    }

    #[test]
    fn retry_is_clamped_and_digits_only() {
        assert_eq!(Retry::from_millis(0).millis(), 100);
        assert_eq!(Retry::from_millis(99).millis(), 100);
        assert_eq!(Retry::from_millis(101).millis(), 101);
        assert_eq!(Retry::from_millis(3_600_000).millis(), 3_600_000);
        assert_eq!(Retry::from_millis(3_600_001).millis(), 3_600_000);
        assert_eq!(Retry::from_millis(u64::MAX).millis(), 3_600_000);
        assert_eq!(Retry::parse("0003000").map(Retry::millis), Ok(3000));
        assert_eq!(Retry::parse("99999999999999999999999").map(Retry::millis), Ok(3_600_000));
        for wrong in ["", " 3000", "3000 ", "+3000", "-1", "3e3", "3.0", "٣"] {
            assert_eq!(Retry::parse(wrong), Err(InvalidEvent::RetryNotDigits), "{wrong:?}");
        }
    }

    #[test]
    fn duplicate_topics_collapse_and_64_is_the_most() {
        let mut event = Event::new(topic("0")).with_topic(topic("0")).unwrap();
        assert_eq!(event.topics(), [topic("0")]);
        for number in 1..64 {
            event = event.with_topic(topic(&number.to_string())).unwrap();
        }
        event = event.with_topic(topic("63")).unwrap();
        assert_eq!(event.topics().len(), 64);
        assert_eq!(event.with_topic(topic("64")), Err(InvalidEvent::TooManyTopics));
    }

    #[test]
    fn the_builder_sets_what_the_getters_return() {
        let bare = Event::new(topic("t"));
        assert_eq!((bare.id(), bare.event_type(), bare.data()), (None, None, None));
        assert_eq!((bare.retry(), bare.is_private()), (None, false));
        let event = bare
            .with_id(EventId::new("7").unwrap())
            .with_type(EventType::new("k").unwrap())
            .with_data("d")
            .with_retry(Retry::from_millis(500))
            .with_private(true);
        assert_eq!(event.id().map(EventId::as_str), Some("7"));
        assert_eq!(event.event_type().map(EventType::as_str), Some("k"));
        assert_eq!(event.data(), Some("d"));
        assert_eq!(event.retry().map(Retry::millis), Some(500));
        assert!(event.is_private());
    }

    #[test]
    fn messages_name_the_field_and_say_what_to_do() {
        let errors = [
            (Topic::new("").unwrap_err(), "topic", "name one"),
            (EventId::new("").unwrap_err(), "id", "leave id out"),
            (EventType::new("x".repeat(200)).unwrap_err(), "type", "shorten it to 128"),
            (EventId::new("a\nb").unwrap_err(), "id", "U+000A at byte 1; remove it"),
            (EventId::new("earliest").unwrap_err(), "id", "use another id"),
            (EventId::new("x ").unwrap_err(), "id", "with a space, which HTTP removes"),
            (EventType::new("open").unwrap_err(), "type", "use another type"),
            (EventType::new("fanfare.x").unwrap_err(), "type", "another beginning"),
            (Retry::parse("x").unwrap_err(), "retry", "digits"),
            (InvalidEvent::TooManyTopics, "topic", "64"),
        ];
        for (error, field, advice) in errors {
            assert_eq!(error.field(), field);
            assert!(error.to_string().contains(advice), "{error}");
        }
    }
}
