use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::event::{Event, Topic};
use crate::frame::{Frame, WireFormat};
use crate::frames::FrameStore;
use crate::limits::{SMALL_FAN_OUT, STEPS_OF_A_MARK};
use crate::pattern::Pattern;

struct Table {
    audiences: Audiences,
    store: FrameStore,
}

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

impl Table {
    fn new() -> Table {
        let bounds = SweepBounds { frames: 4, bytes: 1 << 20, ..SweepBounds::default() };
        Table { audiences: Audiences::new(bounds, 1), store: FrameStore::default() }
    }

    fn found(&mut self, topics: &[&str]) -> AudienceId {
        let topics = topics.iter().map(|name| topic(name));
        let subscription = Subscription::new(topics, WireFormat::Chunked, false);
        let found = self.audiences.find(&subscription);
        found.unwrap_or_else(|| self.audiences.create(subscription, 0))
    }

    fn append(&mut self, name: &str, seqs: std::ops::RangeInclusive<u64>) {
        for seq in seqs {
            self.audiences.append(&frame(name, seq), &mut self.store);
        }
    }

    fn join(&mut self, id: AudienceId, slot: u32, cursor: u64) -> u32 {
        self.audiences.join(id, Member { socket: slot as i32, slot, cursor })
    }

    /// All turns until nothing is left to do; answers the slots in the order in which they were sent to.
    fn sweep(&mut self) -> Vec<u32> {
        let mut order = Vec::new();
        while let Some(turn) = self.audiences.next_turn(true, &mut usize::MAX.clone()) {
            let mut scans = 1_000_000;
            let now = Duration::ZERO;
            let id = turn.audience;
            while let Step::Slice(slice) = self.audiences.slice(id, 10, &mut scans, now, &mut self.store) {
                order.extend(self.audiences.members(id, slice).iter().map(|member| member.slot));
                let newest = self.store.seq(*self.audiences.frames(id, slice).last().unwrap());
                self.audiences.advance(id, slice, newest);
            }
            self.audiences.end_turn(turn, &mut self.store);
            self.audiences.check(&self.store);
        }
        assert_eq!(self.store.references(), 0, "a finished sweep keeps nothing");
        order
    }
}

fn frame(name: &str, seq: u64) -> Arc<Frame> {
    let event = Event::new(topic(name)).with_data("x");
    Arc::new(Frame::encode(seq, &seq.to_string(), event, Duration::ZERO))
}

/// A sweep's last member stalled before the sweep had its turn; events passed by, and the member came back.
/// The end of the sweep then took its state back to where it had begun, and in the end the count of sweeps
/// that are far behind went below zero: a panic, or without checks a shard that takes no mail for ever.
#[test]
fn a_sweep_that_lost_its_members_does_not_take_later_ones_back() {
    let mut table = Table::new();
    let id = table.found(&["a"]);
    table.join(id, 1, 0);
    table.append("a", 1..=1);
    table.audiences.add_laggard(id);
    table.audiences.leave(id, 0, |_, _| {});
    table.append("a", 2..=5);
    table.join(id, 1, 5);
    table.audiences.remove_laggard(id);
    assert_eq!(table.sweep(), [] as [u32; 0]);
    assert_eq!(table.audiences.head(id), 5);
    assert!(!table.audiences.is_backlogged());
}

/// A subscriber that comes from the log has what the log had, and the shard may be handed the same events
/// later.
#[test]
fn a_member_ahead_of_its_audience_is_not_sent_what_it_has() {
    let mut table = Table::new();
    let id = table.found(&["a"]);
    table.join(id, 1, 0);
    table.join(id, 2, 3);
    table.join(id, 3, 2);
    table.append("a", 1..=3);
    assert_eq!(table.sweep(), [1, 3]);
    table.append("a", 4..=4);
    assert_eq!(table.sweep(), [1, 2, 3]);
}

/// "all" and "user/i" beside each other: each audience has one member, and a broadcast used to count as so
/// many small audiences that a topic of ten waited for all of them.
#[test]
fn an_event_for_few_overtakes_a_broadcast_to_many_small_audiences() {
    let mut table = Table::new();
    let crowd = 3 * SMALL_FAN_OUT as u32;
    for slot in 0..crowd {
        let own = format!("user/{slot}");
        let id = table.found(&["all", &own]);
        table.join(id, slot, 0);
    }
    let few = table.found(&["few"]);
    table.join(few, 10_000, 0);
    // The broadcast is not even marked everywhere when the small event comes.
    assert_eq!(table.audiences.begin_marking(frame("all", 1), &mut table.store), 0);
    assert_eq!(table.audiences.mark(10, &mut table.store), 0);
    assert_eq!(table.audiences.begin_marking(frame("few", 2), &mut table.store), 1);
    // So does one to a member of the crowd, which gets the broadcast before it, although that is not marked
    // there yet.
    assert_eq!(table.audiences.begin_marking(frame("user/100", 3), &mut table.store), 1);
    while table.audiences.is_marking() {
        table.audiences.mark(7, &mut table.store);
    }
    let order = table.sweep();
    assert_eq!(order[..2], [10_000, 100]);
    assert_eq!(order.len(), crowd as usize + 1, "each was sent to once");
}

#[test]
fn counts_of_a_topic_are_kept_up_to_date() {
    let mut table = Table::new();
    let both = table.found(&["a", "b"]);
    let one = table.found(&["a"]);
    table.join(both, 1, 0);
    table.join(one, 2, 0);
    table.audiences.add_laggard(one);
    let count = |table: &Table, name: &str| {
        table.audiences.of_topic(&topic(name)).map(|counts| (counts.subscribers(), counts.laggards()))
    };
    assert_eq!(count(&table, "a"), Some((3, 1)));
    assert_eq!(count(&table, "b"), Some((1, 0)));
    table.audiences.leave(both, 0, |_, _| {});
    let unread = table.audiences.remove_if_empty(both, &mut table.store);
    assert_eq!(unread.topics.to_vec(), [topic("b")]);
    assert_eq!((count(&table, "a"), count(&table, "b")), (Some((2, 1)), None));
    table.audiences.check(&table.store);
}

/// A million members that are all up to date were checked in one go, for one that is behind.
#[test]
fn the_search_for_members_that_are_behind_has_a_budget() {
    let mut table = Table::new();
    let id = table.found(&["a"]);
    for slot in 0..100 {
        table.join(id, slot, 1);
    }
    table.join(id, 100, 0);
    table.append("a", 1..=1);
    let turn = table.audiences.next_turn(true, &mut usize::MAX.clone()).unwrap();
    let now = Duration::ZERO;
    let mut steps = 0;
    loop {
        let mut scans = 30;
        match table.audiences.slice(id, 10, &mut scans, now, &mut table.store) {
            Step::Scanned => steps += 1,
            Step::Slice(slice) => {
                assert_eq!((slice.start, slice.end, steps), (100, 101, 3));
                table.audiences.advance(id, slice, 1);
            }
            Step::PassOver => break,
        }
    }
    table.audiences.end_turn(turn, &mut table.store);
    table.audiences.check(&table.store);
}

/// The search for the patterns of an event was for nothing: a tick of events of topics that are long to look
/// up took ten times as long as one of others.
#[test]
fn the_search_for_patterns_counts_as_marks() {
    let mut table = Table::new();
    let id = table.found(&["few"]);
    table.join(id, 1, 0);
    let patterns = ["{a}.{b}.{c}.x", "{+d}-{e}-x"].map(|text| Pattern::parse(text).unwrap().normalized());
    table.audiences.add_patterns(&patterns).unwrap();
    let name = "a.-".repeat(80);
    let mut alone = crate::pattern::PatternTable::new();
    for pattern in &patterns {
        alone.insert(pattern.clone(), ()).unwrap();
    }
    let steps = alone.matching(&name, |_| {}).steps;
    assert!(steps > 500, "{steps} steps");
    let marks = table.audiences.begin_marking(frame(&name, 1), &mut table.store);
    assert_eq!(marks, steps / STEPS_OF_A_MARK, "an event that no audience reads");
    table.audiences.begin_marking(frame("few", 2), &mut table.store);
    assert!(table.audiences.begin_marking(frame("few", 3), &mut table.store) >= 1);
}
