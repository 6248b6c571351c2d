//! What the members of an audience have in common.

use smallvec::SmallVec;

use crate::event::Topic;
use crate::event_log::Wanted;
use crate::frame::Frame;
use crate::link::Encoding;

/// The key of an audience: which events, and in which bytes they reach the socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subscription {
    topics: SmallVec<[Topic; 1]>,
    encoding: Encoding,
    sees_private: bool,
}

impl Subscription {
    /// A subscription to these topics. Their order and repetitions make no difference.
    pub fn new(
        topics: impl IntoIterator<Item = Topic>,
        encoding: impl Into<Encoding>,
        sees_private: bool,
    ) -> Subscription {
        let mut topics: SmallVec<[Topic; 1]> = topics.into_iter().collect();
        topics.sort_unstable();
        topics.dedup();
        topics.shrink_to_fit();
        Subscription { topics, encoding: encoding.into(), sees_private }
    }

    /// The same with only those of its topics that `after` has, too.
    pub fn kept_by(&self, after: &Subscription) -> Subscription {
        let is_kept = |topic: &&Topic| after.topics.binary_search(topic).is_ok();
        Subscription { topics: self.topics.iter().filter(is_kept).cloned().collect(), ..*self }
    }

    /// Replaces names by equal ones that `known` has, so that a text that is known already is not kept twice.
    pub(super) fn share_names(&mut self, known: impl Fn(&Topic) -> Option<Topic>) {
        for topic in &mut self.topics {
            if let Some(same) = known(topic) {
                *topic = same;
            }
        }
    }

    /// The topics, sorted.
    pub fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// In which bytes events reach the socket.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Whether private events reach it.
    pub fn sees_private(&self) -> bool {
        self.sees_private
    }

    /// Whether an event reaches this subscription, given that one of its topics does.
    pub fn admits(&self, frame: &Frame) -> bool {
        self.sees_private || !frame.private()
    }

    /// Whether an event reaches this subscription.
    pub fn wants(&self, frame: &Frame) -> bool {
        self.admits(frame) && frame.topics().iter().any(|topic| self.topics.binary_search(topic).is_ok())
    }

    /// What a subscriber of this subscription that stands at `after` asks the log for; see
    /// [`Wanted::incomplete_until`].
    pub fn wanted_after(&self, after: u64, incomplete_until: u64) -> Wanted<'_> {
        Wanted { topics: &self.topics, sees_private: self.sees_private, after, incomplete_until }
    }
}
