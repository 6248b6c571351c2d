//! A name among the members of a topic, as a subscription adds it.

use std::sync::Arc;

use fanfare_proto::event::{EventType, Topic};

use crate::admission::{InvalidSubject, Subscribe};

/// A name that a connection adds to the members of a topic: [`Subscribe::with_member`].
///
/// A name with several connections is one member. It stays a member for [`crate::Builder::presence_linger`]
/// after its last connection; where more than [`crate::Limits::members_lingering`] stay so, the member that
/// would leave first leaves early. The topic need not be one of the subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub(crate) topic: Topic,
    pub(crate) name: Arc<str>,
    pub(crate) announcement: Option<Arc<Announcement>>,
}

/// The types of the events that announce a member.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Announcement {
    pub(crate) join: EventType,
    pub(crate) leave: EventType,
}

impl Member {
    /// A member of this topic, which is not announced.
    ///
    /// # Errors
    /// [`InvalidSubject`]: the name is longer than [`Subscribe::MAX_SUBJECT_BYTES`].
    pub fn new(topic: &Topic, name: impl Into<Arc<str>>) -> Result<Member, InvalidSubject> {
        let name = name.into();
        if name.len() > Subscribe::MAX_SUBJECT_BYTES {
            return Err(InvalidSubject { bytes: name.len() });
        }
        Ok(Member { topic: topic.clone(), name, announcement: None })
    }

    /// Publishes an event of one of these types in the topic, with the name as data, when the member joins
    /// and when it leaves.
    pub fn with_announcements(mut self, join: EventType, leave: EventType) -> Member {
        self.announcement = Some(Arc::new(Announcement { join, leave }));
        self
    }

    /// Bytes that it takes beside [`fanfare_proto::limits::MEMBER_BYTES`].
    pub(crate) fn text_bytes(&self) -> usize {
        let announcement = self.announcement.as_deref().map_or(0, |Announcement { join, leave }| {
            size_of::<Announcement>() + 2 * size_of::<usize>() + join.as_str().len() + leave.as_str().len()
        });
        self.topic.as_str().len() + self.name.len() + announcement
    }

    /// The topic.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }
}
