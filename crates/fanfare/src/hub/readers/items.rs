//! What a reader is given: events, gaps, and pages of the log.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fanfare_proto::cursor::{Cursor, Epoch};
use fanfare_proto::event::{Retry, Topic};
use fanfare_proto::frame::Frame;

/// What a [`crate::Reader`] gives.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ReadItem {
    /// The next event of one of the reader's topics.
    Event(ReceivedEvent),
    /// Events that the reader wanted are gone. It goes on with what is left.
    Gap(Gap),
}

/// An event that was published, as a reader in the same process gets it.
///
/// It shares the bytes that every subscriber is sent, so a clone costs a counter. It keeps them in memory
/// also where the log has dropped the event.
///
/// ```
/// # use std::time::Duration;
/// # use fanfare::{Engine, Event, EventType, ReadItem, Topic};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Engine::builder().start()?;
/// let (hub, topic) = (engine.hub(), Topic::new("orders")?);
/// let mut reader = hub.subscribe([topic.clone()]).stream()?;
/// let published = hub.publish(Event::new(topic).with_type(EventType::new("paid")?).with_data("42"))?;
/// let Some(ReadItem::Event(event)) = reader.next_wait(Duration::from_secs(1))? else { panic!("an event") };
/// assert_eq!((event.event_type(), event.data().as_deref()), (Some("paid"), Some("42")));
/// assert_eq!(event.wire_id(), published.first);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ReceivedEvent {
    frame: Arc<Frame>,
    epoch: Epoch,
}

/// Events may be missing: the log had dropped them before the reader came to them, or the reader came with an
/// id that the log does not know.
///
/// Only events of the reader's topics count, and private ones only where it sees them. Of topics that have
/// lost nothing, the events between the two positions still follow.
///
/// ```
/// # use fanfare::{Engine, ReadItem, Topic};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let engine = Engine::builder().start()?;
/// # let hub = engine.hub();
/// let mut reader = hub.subscribe([Topic::new("news")?]).with_resume("an id of last year").stream()?;
/// let Some(ReadItem::Gap(gap)) = reader.try_next()? else { panic!("the id is unknown") };
/// assert_eq!(gap.after(), "an id of last year");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    pub(super) after: String,
    pub(super) until: Cursor,
}

/// Retained events of the log, oldest first: see [`crate::Hub::read`].
#[derive(Clone, Debug)]
pub struct LogPage {
    pub(super) events: Vec<ReceivedEvent>,
    pub(super) gap: Option<Gap>,
    pub(super) next: Cursor,
    pub(super) is_last: bool,
}

impl ReceivedEvent {
    pub(super) fn new(frame: Arc<Frame>, epoch: Epoch) -> ReceivedEvent {
        ReceivedEvent { frame, epoch }
    }

    /// The id that subscribers see: the publisher's own, or the text of [`ReceivedEvent::position`]. A reader
    /// or a subscriber may resume after it.
    pub fn wire_id(&self) -> Cow<'_, str> {
        self.frame.wire_id(self.epoch)
    }

    /// The publisher's own id, as of [`crate::Event::id`].
    pub fn id(&self) -> Option<&str> {
        self.frame.own_id()
    }

    /// Where the event stands in the order over all topics.
    pub fn position(&self) -> Cursor {
        Cursor { epoch: self.epoch, seq: self.frame.seq() }
    }

    /// The type; without one, clients see `message`.
    pub fn event_type(&self) -> Option<&str> {
        self.frame.event_type()
    }

    /// The data as clients get it: line ends of any kind are LF. Data of one line is not copied. `None`: the
    /// event has no data; browsers dispatch nothing for it.
    pub fn data(&self) -> Option<Cow<'_, str>> {
        self.frame.data()
    }

    /// The wait before a reconnection that the event asks clients for.
    pub fn retry(&self) -> Option<Retry> {
        self.frame.retry_wait()
    }

    /// The topics that it was published to; never empty. The reader may read only some of them.
    pub fn topics(&self) -> &[Topic] {
        self.frame.topics()
    }

    /// Whether only subscribers with the right to private events get it.
    pub fn is_private(&self) -> bool {
        self.frame.private()
    }

    /// When the hub took it: the time since the start of the engine.
    pub fn published(&self) -> Duration {
        self.frame.published()
    }
}

impl fmt::Debug for ReceivedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceivedEvent")
            .field("wire_id", &self.wire_id())
            .field("topics", &self.topics())
            .field("event_type", &self.event_type())
            .field("data", &self.data())
            .finish_non_exhaustive()
    }
}

impl Gap {
    /// The id that the reader was to go on after: the one that it came with, or its position when the log
    /// overtook it.
    pub fn after(&self) -> &str {
        &self.after
    }

    /// Everything after this position is there.
    pub fn until(&self) -> Cursor {
        self.until
    }
}

impl LogPage {
    /// The events.
    pub fn events(&self) -> &[ReceivedEvent] {
        &self.events
    }

    /// The events, without the rest.
    pub fn into_events(self) -> Vec<ReceivedEvent> {
        self.events
    }

    /// What is missing, if anything may be.
    pub fn gap(&self) -> Option<&Gap> {
        self.gap.as_ref()
    }

    /// What to read after for the events that follow: its text is an id. Where one of several topics has a
    /// gap, a page that ends before [`Gap::until`] is followed by one that tells the gap again.
    pub fn next(&self) -> Cursor {
        self.next
    }

    /// Whether nothing followed when the page was read.
    pub fn is_last(&self) -> bool {
        self.is_last
    }
}
