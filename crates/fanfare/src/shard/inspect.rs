//! What a shard says of its topics when it is asked. What a question costs does not grow with what was not
//! asked for: one topic is looked up, and a page counts at most so many audiences.

use std::collections::BinaryHeap;

use fanfare_io::Io;
use fanfare_proto::cursor::Cursor;
use fanfare_proto::event::Topic;

use super::Shard;
use crate::counts::TopicCounts;
use crate::inspect::{Answer, INSPECTED_AUDIENCES, Inspection, Question, cut_to, place};

impl<I: Io> Shard<I> {
    /// Answers, unless the asker does not wait any more.
    pub(super) fn inspect(&self, inspection: &Inspection) {
        if inspection.is_wanted() {
            inspection.answer(match &inspection.question {
                Question::Topic(topic) => self.inspect_topic(topic),
                Question::Page { after, limit } => self.inspect_page(*after, *limit),
            });
        }
    }

    fn inspect_topic(&self, topic: &Topic) -> Answer {
        let counts = self.count_topic(topic).map(|(counts, _)| (place(self.log.epoch(), topic), counts));
        Answer { topics: counts.into_iter().collect(), more: false }
    }

    fn inspect_page(&self, after: Option<u64>, limit: usize) -> Answer {
        let epoch = self.log.epoch();
        // The first ones, and one more, so that it is known whether there are more.
        let mut first: BinaryHeap<(u64, &Topic)> = BinaryHeap::new();
        // The log knows every topic that has frames or readers.
        for (topic, _) in self.log.extents() {
            let place = place(epoch, topic);
            let full = first.len() > limit;
            if after.is_some_and(|after| place <= after)
                || (full && first.peek().is_some_and(|last| last.0 < place))
            {
                continue;
            }
            first.push((place, topic));
            if full {
                first.pop();
            }
        }
        let mut first = first.into_sorted_vec();
        let mut answer = Answer { topics: Vec::new(), more: cut_to(&mut first, limit) };
        let mut audiences = 0;
        for (place, topic) in first {
            if audiences >= INSPECTED_AUDIENCES {
                answer.more = true;
                break;
            }
            if let Some((counts, counted)) = self.count_topic(topic) {
                audiences += counted;
                answer.topics.push((place, counts));
            }
        }
        answer
    }

    /// The counts of a topic that has frames or readers, and how many audiences that took.
    fn count_topic(&self, topic: &Topic) -> Option<(TopicCounts, usize)> {
        let extent = self.log.extent(topic)?;
        let id = |seq| Cursor { epoch: self.log.epoch(), seq }.to_string();
        let mut counts = TopicCounts {
            topic: topic.to_string(),
            retained: extent.frames,
            span: extent.span.map(|(oldest, newest)| (id(oldest), id(newest))),
            ..TopicCounts::default()
        };
        let mut audiences = 0;
        for (members, laggards) in self.audiences.sizes_of(topic) {
            counts.subscribers += members + laggards;
            counts.laggards += laggards;
            audiences += 1;
        }
        Some((counts, audiences))
    }
}
