//! Streams that an order ends: one by its link, or all that read a topic.

use std::collections::VecDeque;

use super::{Delivery, StreamKey, Subscriber};
use crate::event::Topic;
use crate::event_log::EventLog;
use crate::link::LinkKey;
use crate::stream::CloseReason;

/// Searches under way for the streams of topics.
#[derive(Default)]
pub(super) struct Searches(VecDeque<Search>);

/// A search for the streams that read a topic: once through the table, piece by piece.
struct Search {
    topic: Topic,
    next_slot: usize,
    /// The newest generation when it began. Streams that began later stay.
    generation: u32,
}

impl Searches {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Delivery {
    /// Ends the stream of a link. What is marked for it and not sent yet is not sent. A subscriber that resumes gets it. A
    /// link in the middle of a frame is closed at once, without the final chunk. False where the link is gone.
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

    /// Ends the streams that read this topic, also among others. They are searched for in the next calls of
    /// [`Delivery::handle_timeout`].
    pub fn disconnect_topic(&mut self, topic: Topic) {
        if self.audiences.of_topic(&topic).is_some() {
            self.searches.0.push_back(Search { topic, next_slot: 0, generation: self.generation });
        }
    }

    /// Goes on with the oldest search, as far as the budget of one tick goes.
    pub(super) fn step_searches(&mut self, log: &mut impl EventLog) {
        let (mut checks, mut endings) = (self.budgets.drain_checks, self.budgets.endings);
        // Those that were found before go first.
        endings = endings.saturating_sub(self.sending.endings_queued());
        while let Some(mut search) = self.searches.0.pop_front() {
            let end = self.subscribers.capacity();
            while search.next_slot < end && checks > 0 && endings > 0 {
                let slot = search.next_slot;
                (search.next_slot, checks) = (slot + 1, checks - 1);
                let Some(&Subscriber { link, stream }) = self.subscribers.get(slot) else { continue };
                let is_older = is_at_most(link.generation(), search.generation);
                if is_older && self.audiences.reads(stream.audience, &search.topic) {
                    endings -= 1;
                    self.disconnect_stream(
                        StreamKey { slot: slot as u32, generation: link.generation() },
                        log,
                    );
                }
            }
            if search.next_slot < end {
                self.searches.0.push_front(search);
                return;
            }
        }
    }
}

/// Whether a generation is not younger than another. Generations go round, and of two the younger one is less than half of
/// the way ahead.
fn is_at_most(generation: u32, of: u32) -> bool {
    of.wrapping_sub(generation) & LinkKey::GENERATIONS <= LinkKey::GENERATIONS / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_go_round() {
        assert!(is_at_most(1, 1) && is_at_most(1, 2) && !is_at_most(2, 1));
        assert!(is_at_most(LinkKey::GENERATIONS, 0) && !is_at_most(0, LinkKey::GENERATIONS));
    }
}
