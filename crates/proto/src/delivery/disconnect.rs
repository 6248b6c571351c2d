//! Streams that an order ends: one by its link, or all that read a topic.

use std::collections::VecDeque;

use super::{Delivery, StreamKey, Subscriber};
use crate::audience::AudienceId;
use crate::event::Topic;
use crate::event_log::EventLog;
use crate::link::LinkKey;
use crate::pattern::Pattern;
use crate::segment_map::SegmentMap;
use crate::stream::CloseReason;

/// Searches under way for the streams of topics.
pub(super) struct Searches {
    queue: VecDeque<Search>,
    /// The number of the next search.
    next_number: u64,
    /// Streams whose topics were changed while searches were under way, by their slots: the next search at
    /// that time. All earlier ones were applied to the topics before the change.
    changed: SegmentMap<u32, u64>,
    /// Streams that were found and have not ended yet, by their slots.
    found: SegmentMap<u32, ()>,
}

/// A search for the streams that have a selector: once through the table, piece by piece.
struct Search {
    number: u64,
    topic: Topic,
    /// The pattern with the same text, where the text is one.
    pattern: Option<Pattern>,
    next_slot: usize,
    /// The newest generation when it began. Streams that began later stay.
    generation: u32,
}

impl Searches {
    /// `seed` is for the keys of hashes.
    pub(super) fn new(seed: u64) -> Searches {
        Searches {
            queue: VecDeque::new(),
            next_number: 0,
            changed: SegmentMap::new(seed),
            found: SegmentMap::new(seed),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The stream has left.
    pub(super) fn forget(&mut self, slot: u32) {
        if !self.changed.is_empty() {
            self.changed.remove(&slot);
        }
        if !self.found.is_empty() {
            self.found.remove(&slot);
        }
    }

    /// Whether this search is for the topics that the stream had before they were changed.
    fn is_passed(&self, number: u64, slot: u32) -> bool {
        !self.changed.is_empty() && self.changed.get(&slot).is_some_and(|next| number < *next)
    }
}

impl Delivery {
    /// Ends the stream of a link. What is marked for it and not sent yet is not sent. A subscriber that
    /// resumes gets it. A link in the middle of a frame is closed at once, without the final chunk. False
    /// where the link is gone.
    pub fn disconnect(&mut self, link: LinkKey, log: &mut impl EventLog) -> bool {
        let Some(key) = self.stream_on(link) else { return false };
        self.disconnect_stream(key, log);
        true
    }

    fn disconnect_stream(&mut self, key: StreamKey, log: &mut impl EventLog) {
        if self.unsent.contains(key.slot) {
            self.end(key.slot, CloseReason::Disconnected, false, log);
        } else {
            self.sending.queue_ending(key, CloseReason::Disconnected);
        }
    }

    /// Ends a stream that a search has found. Until it has ended, its topics stay as they are.
    fn disconnect_found(&mut self, key: StreamKey, log: &mut impl EventLog) {
        *self.searches.found.get_or_default(&key.slot) = ();
        self.disconnect_stream(key, log);
    }

    /// Ends the streams that read this topic by its name, also among others. Where the name is the text of a
    /// pattern, it ends the streams that read this pattern, too. They are searched for in the next calls of
    /// [`Delivery::handle_timeout`].
    pub fn disconnect_topic(&mut self, topic: Topic) {
        let pattern = Pattern::parse(topic.as_str()).ok().filter(|pattern| !pattern.is_exact());
        let pattern = pattern.map(|pattern| pattern.normalized());
        let is_read = self.audiences.of_topic(&topic).is_some()
            || pattern.as_ref().is_some_and(|pattern| self.audiences.has_pattern(pattern));
        if is_read {
            let (number, generation) = (self.searches.next_number, self.generation);
            self.searches.next_number += 1;
            self.searches.queue.push_back(Search { number, topic, pattern, next_slot: 0, generation });
        }
    }

    /// Whether a search is for this audience.
    fn has_selector(&self, audience: AudienceId, search: &Search) -> bool {
        let subscription = self.audiences.subscription(audience);
        let has_pattern = |pattern| subscription.has_pattern(pattern);
        subscription.has(&search.topic) || search.pattern.as_ref().is_some_and(has_pattern)
    }

    /// The topics of a stream are about to change. Searches that began before look at the topics that it has
    /// now: true where it ends because of one of them.
    pub(super) fn search_before_change(&mut self, key: StreamKey, log: &mut impl EventLog) -> bool {
        if !self.searches.found.is_empty() && self.searches.found.get(&key.slot).is_some() {
            return true;
        }
        if self.searches.is_empty() {
            return false;
        }
        let Subscriber { link, stream } = self.subscribers[key.slot as usize];
        let is_meant = |search: &Search| {
            search.next_slot <= key.slot as usize
                && began_by(link.generation(), search.generation, self.generation)
                && !self.searches.is_passed(search.number, key.slot)
                && self.has_selector(stream.audience, search)
        };
        let ends = self.searches.queue.iter().any(is_meant);
        if ends {
            self.disconnect_found(key, log);
        } else {
            *self.searches.changed.get_or_default(&key.slot) = self.searches.next_number;
        }
        ends
    }

    /// Goes on with the oldest search, as far as the budget of one tick goes.
    pub(super) fn step_searches(&mut self, log: &mut impl EventLog) {
        let (mut checks, mut endings) = (self.budgets.drain_checks, self.budgets.endings);
        // Those that were found before go first.
        endings = endings.saturating_sub(self.sending.endings_queued());
        while let Some(mut search) = self.searches.queue.pop_front() {
            let end = self.subscribers.capacity();
            while search.next_slot < end && checks > 0 && endings > 0 {
                let slot = search.next_slot;
                (search.next_slot, checks) = (slot + 1, checks - 1);
                let Some(&Subscriber { link, stream }) = self.subscribers.get(slot) else { continue };
                let is_meant = began_by(link.generation(), search.generation, self.generation)
                    && !self.searches.is_passed(search.number, slot as u32);
                if is_meant && self.has_selector(stream.audience, &search) {
                    endings -= 1;
                    let key = StreamKey { slot: slot as u32, generation: link.generation() };
                    self.disconnect_found(key, log);
                }
            }
            if search.next_slot < end {
                self.searches.queue.push_front(search);
                return;
            }
        }
        if !self.searches.changed.is_empty() {
            self.searches.changed.clear();
        }
    }
}

impl Delivery {
    /// The generation of the stream that began last, for [`began_by`].
    pub fn newest_generation(&self) -> u32 {
        self.generation
    }
}

/// Whether the stream of this generation had begun when `then` was the newest generation. `now` is the newest
/// one today. Generations go round, so their ages are compared: a stream may be as old as they go far.
pub fn began_by(generation: u32, then: u32, now: u32) -> bool {
    let age = |generation: u32| now.wrapping_sub(generation) & LinkKey::GENERATIONS;
    age(generation) >= age(then)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_go_round() {
        const LAST: u32 = LinkKey::GENERATIONS;
        assert!(began_by(1, 1, 1) && began_by(1, 1, 2) && began_by(1, 2, 2) && !began_by(2, 1, 2));
        assert!(began_by(LAST, 0, 0) && !began_by(0, LAST, 0));
        // A stream that lasted while half of all generations went by was taken for a younger one, and orders
        // passed it.
        assert!(began_by(7, LAST / 2 + 9, LAST / 2 + 9) && began_by(7, 6, 6) && began_by(7, 5, 6));
    }
}
