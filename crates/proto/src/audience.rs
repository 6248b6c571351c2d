//! Audiences: all connections of a shard with the same subscription, and the sweeps that serve them.
//!
//! An event marks the audiences of its topics; it never touches a connection. A *sweep* then visits
//! the members and brings each from its cursor to the head, in slices, so that audiences can take
//! turns. Events that arrive meanwhile are picked up, in the same write, by the members not yet
//! reached; the others get them in the next pass.
//!
//! The order of calls: [`Audiences::begin`] and [`Audiences::mark`] mark; [`Audiences::next_turn`] names whose turn it is;
//! [`Audiences::slice`] gives members at one cursor, the caller sends [`Audiences::fill`]'s run to them
//! and reports [`Audiences::sent`], then takes out those whose socket was full ([`Audiences::leave`]);
//! [`Audiences::end_turn`] puts the audience back in line when it is not done.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use slab::Slab;
use smallvec::SmallVec;

use crate::event::Topic;
use crate::frame::{Frame, WireFormat};
use crate::limits::{RUN_BYTES, SMALL_AUDIENCE};
use crate::run::Run;
use crate::spare::{drop_if_empty, shrink_list, shrink_map};
use crate::window::Window;

/// What the members of an audience have in common: its key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subscription {
    topics: Box<[Topic]>,
    format: WireFormat,
    sees_private: bool,
}

impl Subscription {
    /// A subscription to these topics. Their order and repetitions make no difference.
    pub fn new(mut topics: Vec<Topic>, format: WireFormat, sees_private: bool) -> Subscription {
        topics.sort_unstable();
        topics.dedup();
        Subscription { topics: topics.into(), format, sees_private }
    }

    /// The topics, sorted.
    pub fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// How frames are delimited on the wire.
    pub fn format(&self) -> WireFormat {
        self.format
    }

    /// Whether an event reaches this subscription, given that one of its topics does.
    pub fn admits(&self, frame: &Frame) -> bool {
        self.sees_private || !frame.private()
    }
}

/// An audience's place in the table. Valid until its last connection has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AudienceId(u32);

/// A connection that is at, or on its way to, the head.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// The socket to send to.
    pub socket: i32,
    /// The connection's place in its slab.
    pub slot: u32,
    /// It has everything up to here.
    pub cursor: u64,
}

/// Members that stand next to each other and share one cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The first member.
    pub start: usize,
    /// One past the last member.
    pub end: usize,
    /// Their cursor.
    pub after: u64,
}

struct Audience {
    subscription: Arc<Subscription>,
    /// Where this audience stands in the list of each of its topics, so that it leaves a topic with a
    /// million audiences as fast as one with ten.
    places: SmallVec<[u32; 1]>,
    members: SmallVec<[Member; 1]>,
    window: Window,
    /// The newest frame that matched, or where the hub was when the audience began. An up-to-date
    /// member's cursor is exactly this, so that up-to-date members always share their run.
    head: u64,
    /// Connections of this audience that are not members now: laggards.
    laggards: u32,
    /// The next member to visit in this pass.
    next: u32,
    /// The lowest cursor that this pass has left behind, and at most the head at its start.
    reached: u64,
    /// Every member has everything up to here.
    swept_to: u64,
    /// When the last completed pass began: every member was sent something since, or had everything.
    swept_at: u32,
    /// When this pass began.
    pass_at: u32,
    /// Frames and bytes that the unfinished sweep still has to bring to some member.
    unswept_frames: usize,
    unswept_bytes: usize,
    /// Stands in line for a turn.
    in_line: bool,
}

/// The audiences of a shard.
#[derive(Default)]
pub struct Audiences {
    table: Slab<Audience>,
    by_subscription: HashMap<Arc<Subscription>, AudienceId>,
    by_topic: HashMap<Topic, SmallVec<[AudienceId; 1]>>,
    /// Those with few members stand in a line of their own, so that they need not wait for a broadcast.
    small_line: VecDeque<AudienceId>,
    broad_line: VecDeque<AudienceId>,
    marking: Option<Marking>,
    laggard_frames: usize,
    laggard_bytes: usize,
    /// Audiences whose unfinished sweep is far behind.
    crowded: usize,
}

impl Audiences {
    /// An empty table whose windows keep at most this much for laggards.
    pub fn new(laggard_frames: usize, laggard_bytes: usize) -> Audiences {
        Audiences { laggard_frames, laggard_bytes, ..Audiences::default() }
    }

    /// Finds or founds the audience of a subscription, when the log stands at `head`. The flag says
    /// that it is new.
    pub fn found(&mut self, subscription: Subscription, head: u64) -> (AudienceId, bool) {
        if let Some(id) = self.by_subscription.get(&subscription) {
            return (*id, false);
        }
        let subscription = Arc::new(subscription);
        let id = AudienceId(self.table.insert(Audience {
            subscription: Arc::clone(&subscription),
            places: SmallVec::new(),
            members: SmallVec::new(),
            window: Window::new(head),
            head,
            laggards: 0,
            next: 0,
            reached: head,
            swept_to: head,
            swept_at: 0,
            pass_at: 0,
            unswept_frames: 0,
            unswept_bytes: 0,
            in_line: false,
        }) as u32);
        for topic in subscription.topics() {
            let audiences = self.by_topic.entry(topic.clone()).or_default();
            self.table[id.0 as usize].places.push(audiences.len() as u32);
            audiences.push(id);
        }
        self.by_subscription.insert(subscription, id);
        (id, true)
    }

    /// Removes an audience that nobody is in any more, and gives back its subscription.
    pub fn remove_if_empty(&mut self, id: AudienceId) -> Option<Arc<Subscription>> {
        let audience = &self.table[id.0 as usize];
        if !audience.members.is_empty() || audience.laggards > 0 {
            return None;
        }
        // Its place in line, if it has one, is found empty by `next_turn`.
        let audience = self.table.remove(id.0 as usize);
        self.crowded -= usize::from(audience.is_crowded(self.laggard_frames, self.laggard_bytes));
        for (topic, &place) in audience.subscription.topics().iter().zip(&audience.places) {
            let Some(audiences) = self.by_topic.get_mut(topic) else { continue };
            audiences.swap_remove(place as usize);
            shrink_list(audiences);
            if let Some(&moved_id) = audiences.get(place as usize) {
                let moved = &mut self.table[moved_id.0 as usize];
                if let Ok(index) = moved.subscription.topics.binary_search(topic) {
                    moved.places[index] = place;
                }
                // It may have moved to where the marking has been already.
                self.settle(moved_id);
            } else if audiences.is_empty() {
                self.by_topic.remove(topic);
            }
        }
        self.by_subscription.remove(&audience.subscription);
        drop_if_empty(&mut self.table);
        shrink_map(&mut self.by_subscription);
        shrink_map(&mut self.by_topic);
        Some(audience.subscription)
    }

    /// Begins to mark the audiences that an event reaches; [`Audiences::mark`] does it, in pieces, because
    /// a topic may have a million audiences of one member. One event at a time.
    ///
    /// # Panics
    /// The event before is not marked everywhere yet.
    pub fn begin(&mut self, frame: Arc<Frame>) {
        assert!(self.marking.is_none(), "an event is marked before the next one begins");
        self.marking = Some(Marking { frame, topic: 0, next: 0 });
    }

    /// Marks at most `budget` audiences; says how much of the budget is left. Nothing left: there may be
    /// more to mark.
    pub fn mark(&mut self, budget: usize) -> usize {
        let Some(mut marking) = self.marking.take() else { return budget };
        let mut left = budget;
        while let Some(topic) = marking.frame.topics().get(marking.topic) {
            // Audiences may have left since the last piece; those that moved up were settled then.
            let ids = self.by_topic.get(topic).and_then(|ids| ids.get(marking.next..)).unwrap_or_default();
            for &id in ids.iter().take(left) {
                let audience = &mut self.table[id.0 as usize];
                let marked = audience.take(&marking.frame, self.laggard_frames, self.laggard_bytes);
                self.crowded += usize::from(marked.newly_crowded);
                if marked.newly_dirty {
                    audience.line(&mut self.small_line, &mut self.broad_line).push_back(id);
                }
            }
            if ids.len() >= left {
                marking.next += left;
                self.marking = Some(marking);
                return 0;
            }
            left -= ids.len();
            (marking.topic, marking.next) = (marking.topic + 1, 0);
        }
        left
    }

    /// Whether an event is not marked everywhere yet.
    pub fn marking(&self) -> bool {
        self.marking.is_some()
    }

    /// Marks this audience ahead of its turn, so that a reader of the log, which has the event already,
    /// and the audience agree on where the head is.
    pub fn settle(&mut self, id: AudienceId) {
        let Some(marking) = &self.marking else { return };
        let audience = &mut self.table[id.0 as usize];
        let reads = |topic| audience.subscription.topics.binary_search(topic).is_ok();
        if !marking.frame.topics().iter().any(reads) {
            return;
        }
        let marked = audience.take(&marking.frame, self.laggard_frames, self.laggard_bytes);
        self.crowded += usize::from(marked.newly_crowded);
        if marked.newly_dirty {
            self.stand_in_line(id);
        }
    }

    /// [`Audiences::begin`] and [`Audiences::mark`] in one go.
    pub fn append(&mut self, frame: &Arc<Frame>) {
        self.begin(Arc::clone(frame));
        while self.marking() {
            self.mark(usize::MAX);
        }
    }

    /// Whether some sweep is so far behind that the shard must not take more events until it has
    /// caught up. A window may be trimmed under a laggard, never under a member.
    pub fn crowded(&self) -> bool {
        self.crowded > 0
    }

    /// Whether any sweep, or the marking for one, is unfinished.
    pub fn dirty(&self) -> bool {
        !self.small_line.is_empty() || !self.broad_line.is_empty() || self.marking()
    }

    /// Whose turn it is, a small audience's or a broad one's first. The caller gives it back with
    /// [`Audiences::end_turn`].
    pub fn next_turn(&mut self, small_first: bool) -> Option<AudienceId> {
        let mut lines = [&mut self.small_line, &mut self.broad_line];
        if !small_first {
            lines.reverse();
        }
        for line in lines {
            while let Some(id) = line.pop_front() {
                // An audience that stood in line may have left the table since.
                if self.table.get(id.0 as usize).is_some_and(|audience| audience.in_line) {
                    return Some(id);
                }
            }
        }
        None
    }

    fn stand_in_line(&mut self, id: AudienceId) {
        let audience = &self.table[id.0 as usize];
        audience.line(&mut self.small_line, &mut self.broad_line).push_back(id);
    }

    /// The next members of this sweep to send to, at most `budget`; `None` when the pass is over.
    pub fn slice(&mut self, id: AudienceId, budget: usize, now: u32) -> Option<Slice> {
        let audience = &mut self.table[id.0 as usize];
        if audience.next == 0 {
            audience.pass_at = now;
        }
        let members = &audience.members[audience.next as usize..];
        let behind = members.iter().position(|member| member.cursor < audience.head);
        let Some(skipped) = behind else {
            self.complete_pass(id);
            return None;
        };
        let after = members[skipped].cursor;
        let length =
            members[skipped..].iter().take(budget).take_while(|member| member.cursor == after).count();
        let start = audience.next as usize + skipped;
        Some(Slice { start, end: start + length, after })
    }

    fn complete_pass(&mut self, id: AudienceId) {
        let audience = &mut self.table[id.0 as usize];
        // Not back: where the members had all left before this, `append` has moved it on.
        audience.swept_to = audience.swept_to.max(audience.reached);
        audience.swept_at = audience.pass_at;
        audience.begin_pass();
        let was_crowded = audience.is_crowded(self.laggard_frames, self.laggard_bytes);
        (audience.unswept_frames, audience.unswept_bytes) = audience.window.measure_after(audience.swept_to);
        let crowded = audience.is_crowded(self.laggard_frames, self.laggard_bytes);
        self.crowded -= usize::from(was_crowded && !crowded);
        audience.trim(self.laggard_frames, self.laggard_bytes);
    }

    /// The members of a slice.
    pub fn members(&self, id: AudienceId, slice: Slice) -> &[Member] {
        &self.table[id.0 as usize].members[slice.start..slice.end]
    }

    /// The member at `index`.
    pub fn member(&self, id: AudienceId, index: u32) -> Member {
        self.table[id.0 as usize].members[index as usize]
    }

    /// Fills `run` with what readers at the cursor `after` need next from the window.
    pub fn fill(&self, id: AudienceId, after: u64, run: &mut Run) {
        let audience = &self.table[id.0 as usize];
        run.fill(after, audience.subscription.format, audience.window.after(after));
    }

    /// Notes that the members of a slice now stand at `cursor`.
    pub fn sent(&mut self, id: AudienceId, slice: Slice, cursor: u64) {
        let audience = &mut self.table[id.0 as usize];
        for member in &mut audience.members[slice.start..slice.end] {
            member.cursor = cursor;
        }
        audience.next = slice.end as u32;
        audience.reached = audience.reached.min(cursor);
    }

    /// Ends a turn: back in line if there is more to do. The audience may have been left by all.
    pub fn end_turn(&mut self, id: AudienceId) {
        let Some(audience) = self.table.get_mut(id.0 as usize) else { return };
        audience.in_line = audience.swept_to < audience.head && !audience.members.is_empty();
        if audience.in_line {
            self.stand_in_line(id);
        } else if audience.swept_to < audience.head {
            // Its last member left in the middle of a sweep.
            self.crowded -= usize::from(audience.is_crowded(self.laggard_frames, self.laggard_bytes));
            audience.swept_to = audience.head;
            (audience.unswept_frames, audience.unswept_bytes) = (0, 0);
            audience.trim(self.laggard_frames, self.laggard_bytes);
        }
    }

    /// Takes a connection in that has everything up to the head, and says at which index it stands.
    pub fn join(&mut self, id: AudienceId, socket: i32, slot: u32) -> u32 {
        let audience = &mut self.table[id.0 as usize];
        audience.members.push(Member { socket, slot, cursor: audience.head });
        audience.members.len() as u32 - 1
    }

    /// Takes the member at `index` out, and calls `moved(slot, index)` for each that took another's place.
    pub fn leave(&mut self, id: AudienceId, index: u32, mut moved: impl FnMut(u32, u32)) -> Member {
        let audience = &mut self.table[id.0 as usize];
        let index = index as usize;
        let next = audience.next as usize;
        let member = audience.members[index];
        let mut hole = index;
        if index < next {
            // The hole moves to the border between the visited and those to visit, so that the member
            // that fills it from the end is still visited in this pass.
            hole = next - 1;
            if hole != index {
                audience.members[index] = audience.members[hole];
                moved(audience.members[index].slot, index as u32);
            }
            audience.next -= 1;
        }
        audience.members.swap_remove(hole);
        if let Some(filler) = audience.members.get(hole) {
            moved(filler.slot, hole as u32);
        }
        shrink_list(&mut audience.members);
        member
    }

    /// Counts a connection of this audience as a laggard.
    pub fn add_laggard(&mut self, id: AudienceId) {
        self.table[id.0 as usize].laggards += 1;
    }

    /// Ends what [`Audiences::add_laggard`] began.
    pub fn remove_laggard(&mut self, id: AudienceId) {
        let audience = &mut self.table[id.0 as usize];
        audience.laggards -= 1;
        if audience.laggards == 0 {
            audience.window.drop_until(audience.swept_to);
        }
    }

    /// Drops from the window what its slowest laggard, at `slowest`, and all members have.
    pub fn trim_window(&mut self, id: AudienceId, slowest: u64) {
        let audience = &mut self.table[id.0 as usize];
        audience.window.drop_until(slowest.min(audience.swept_to));
    }

    /// The newest frame that matched: a connection whose cursor is here has everything.
    pub fn head(&self, id: AudienceId) -> u64 {
        self.table[id.0 as usize].head
    }

    /// The window holds every frame of the audience after this `seq`.
    pub fn window_after(&self, id: AudienceId) -> u64 {
        self.table[id.0 as usize].window.complete_after()
    }

    /// Every member has everything up to here.
    pub fn swept_to(&self, id: AudienceId) -> u64 {
        self.table[id.0 as usize].swept_to
    }

    /// What this audience holds for members and laggards.
    pub fn window(&self, id: AudienceId) -> &Window {
        &self.table[id.0 as usize].window
    }

    /// The common subscription.
    pub fn subscription(&self, id: AudienceId) -> &Arc<Subscription> {
        &self.table[id.0 as usize].subscription
    }

    /// When the last completed pass began, in the caller's unit of `now`.
    pub fn swept_at(&self, id: AudienceId) -> u32 {
        self.table[id.0 as usize].swept_at
    }

    /// Members and laggards of every audience, with the topics they read.
    pub fn counts(&self) -> impl Iterator<Item = (&[Topic], usize, usize)> {
        self.table.iter().map(|(_, audience)| {
            (audience.subscription.topics(), audience.members.len(), audience.laggards as usize)
        })
    }

    /// How many members and laggards each audience of a topic has.
    pub fn sizes_of(&self, topic: &Topic) -> impl Iterator<Item = (usize, usize)> {
        self.by_topic.get(topic).into_iter().flatten().map(|id| {
            let audience = &self.table[id.0 as usize];
            (audience.members.len(), audience.laggards as usize)
        })
    }

    /// Every audience, with how many members and laggards it has.
    pub fn sizes(&self) -> impl Iterator<Item = (AudienceId, usize, usize)> {
        self.table.iter().map(|(key, audience)| {
            (AudienceId(key as u32), audience.members.len(), audience.laggards as usize)
        })
    }

    /// Goes through everything and checks what must always hold between two calls; for tests.
    ///
    /// # Panics
    /// It does not hold.
    pub fn check(&self) {
        let (frames, bytes) = (self.laggard_frames, self.laggard_bytes);
        let crowded = self.table.iter().filter(|(_, audience)| audience.is_crowded(frames, bytes)).count();
        assert_eq!(self.crowded, crowded, "audiences far behind");
        assert_eq!(self.table.len(), self.by_subscription.len(), "one audience for each subscription");
        let listed: usize = self.by_topic.values().map(SmallVec::len).sum();
        assert_eq!(listed, self.reads(), "places in the lists of topics");
        assert!(self.by_topic.values().all(|audiences| !audiences.is_empty()), "a topic that nobody reads");
        for (key, audience) in &self.table {
            let id = AudienceId(key as u32);
            assert_eq!(audience.places.len(), audience.subscription.topics().len(), "a place for each topic");
            assert_eq!(self.by_subscription.get(&audience.subscription), Some(&id));
            for (topic, &place) in audience.subscription.topics().iter().zip(&audience.places) {
                assert_eq!(self.by_topic[topic].get(place as usize), Some(&id), "its place in {topic}");
            }
            let lines = self.small_line.iter().chain(&self.broad_line);
            assert!(
                !audience.in_line || lines.filter(|&&other| other == id).count() > 0,
                "forgotten in line"
            );
            audience.check(frames, bytes);
        }
    }

    /// Audiences in the table.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Topics that an audience reads.
    pub fn topics(&self) -> usize {
        self.by_topic.len()
    }

    /// Topics of every audience, summed: one that two of them read counts twice.
    pub fn reads(&self) -> usize {
        self.table.iter().map(|(_, audience)| audience.subscription.topics().len()).sum()
    }

    /// Whether nobody subscribes to anything.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// How frames are delimited on this audience's connections.
    pub fn format(&self, id: AudienceId) -> WireFormat {
        self.table[id.0 as usize].subscription.format
    }
}

/// An event that is being marked.
struct Marking {
    frame: Arc<Frame>,
    /// The topic of the frame that is being gone through, and the next of its audiences.
    topic: usize,
    next: usize,
}

/// What an event changed in an audience.
#[derive(Default)]
struct Marked {
    newly_crowded: bool,
    /// It must be put in line.
    newly_dirty: bool,
}

impl Audience {
    /// Takes an event into the window. Nothing changes where it has it already (by another of its topics)
    /// or is not to have it.
    fn take(&mut self, frame: &Arc<Frame>, laggard_frames: usize, laggard_bytes: usize) -> Marked {
        if self.head >= frame.seq() || !self.subscription.admits(frame) {
            return Marked::default();
        }
        self.head = frame.seq();
        self.window.push(Arc::clone(frame));
        if self.members.is_empty() {
            self.swept_to = self.head;
            self.trim(laggard_frames, laggard_bytes);
            return Marked::default();
        }
        let was_crowded = self.is_crowded(laggard_frames, laggard_bytes);
        self.unswept_frames += 1;
        self.unswept_bytes += frame.size();
        let newly_dirty = !self.in_line;
        if newly_dirty {
            self.in_line = true;
            self.begin_pass();
        }
        let crowded = self.is_crowded(laggard_frames, laggard_bytes);
        Marked { newly_crowded: crowded && !was_crowded, newly_dirty }
    }

    /// What must always hold between two calls.
    fn check(&self, laggard_frames: usize, laggard_bytes: usize) {
        let Audience { head, swept_to, window, .. } = self;
        assert!(!self.members.is_empty() || self.laggards > 0, "an audience of nobody");
        assert!(
            swept_to <= head && window.complete_after() <= *swept_to,
            "the window misses what members need"
        );
        let behind = swept_to < head && !self.members.is_empty();
        assert!(self.in_line || !behind, "a sweep is forgotten");
        for member in &self.members {
            assert!((*swept_to..=*head).contains(&member.cursor), "{member:?} within {swept_to} to {head}");
        }
        // A sweep whose members have all left is measured anew when it has its turn.
        let unswept = window.measure_after(*swept_to);
        assert!(
            self.unswept_frames >= unswept.0 && self.unswept_bytes >= unswept.1,
            "what a sweep has to bring"
        );
        assert!(self.in_line || self.unswept_frames == 0, "crowded by a sweep that is over");
        let kept_frames = window.len() - unswept.0;
        let kept_bytes = window.bytes() - unswept.1;
        assert!(self.laggards > 0 || kept_frames == 0, "kept for nobody");
        // One frame is kept whatever its size.
        assert!(
            kept_frames <= 1 || (kept_frames <= laggard_frames && kept_bytes <= laggard_bytes),
            "more than a laggard may be behind"
        );
    }

    /// The line that an audience of this size stands in.
    fn line<'line, Line>(&self, small: &'line mut Line, broad: &'line mut Line) -> &'line mut Line {
        if self.members.len() <= SMALL_AUDIENCE { small } else { broad }
    }

    fn begin_pass(&mut self) {
        self.next = 0;
        self.reached = self.head;
    }

    /// Drops from the window what no member needs, and no laggard either or only one over its bounds.
    fn trim(&mut self, frames: usize, bytes: usize) {
        if self.laggards == 0 {
            self.window.drop_until(self.swept_to);
        } else {
            self.window.bound(frames, bytes, self.swept_to);
        }
    }

    /// The unfinished sweep is further behind than two full sends carry, or half a window. More would not
    /// make sends cheaper, only later.
    fn is_crowded(&self, frames: usize, bytes: usize) -> bool {
        self.unswept_frames * 2 > frames || self.unswept_bytes > (bytes / 2).min(2 * RUN_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::Event;

    fn topic() -> Topic {
        Topic::new("a").unwrap()
    }

    fn append(audiences: &mut Audiences, seqs: std::ops::RangeInclusive<u64>) {
        for seq in seqs {
            let frame = Frame::encode(seq, &seq.to_string(), Event::new(topic()).data("x"), Duration::ZERO);
            audiences.append(&Arc::new(frame));
        }
    }

    fn found(audiences: &mut Audiences) -> AudienceId {
        audiences.found(Subscription::new(vec![topic()], WireFormat::Chunked, false), 0).0
    }

    /// A sweep's last member stalled before the sweep had its turn; events passed by, and a laggard
    /// came back. The sweep's end then took `swept_to` back to where the sweep had begun, measured frames
    /// that nobody had counted, and in the end subtracted an audience from `crowded` that was never added:
    /// a panic, or without checks a shard that takes no mail for ever.
    #[test]
    fn a_sweep_that_lost_its_members_does_not_take_the_next_ones_back() {
        let mut audiences = Audiences::new(4, 1 << 20);
        let id = found(&mut audiences);
        audiences.add_laggard(id);
        audiences.join(id, 1, 1);
        append(&mut audiences, 1..=1);
        audiences.add_laggard(id);
        audiences.leave(id, 0, |_, _| {});
        append(&mut audiences, 2..=5);
        audiences.join(id, 2, 2);
        audiences.remove_laggard(id);
        while let Some(turn) = audiences.next_turn(true) {
            assert_eq!(audiences.slice(turn, 10, 0), None);
            assert_eq!(audiences.swept_to(id), 5);
            audiences.end_turn(turn);
        }
        assert!(!audiences.crowded());
    }

    /// Where the last member stalled in the middle of a sweep, the window kept all that the sweep had
    /// needed, over its bound, until the next event came.
    #[test]
    fn a_window_is_bounded_as_soon_as_no_member_needs_it() {
        let mut audiences = Audiences::new(4, 1 << 20);
        let id = found(&mut audiences);
        audiences.join(id, 1, 1);
        append(&mut audiences, 1..=10);
        assert!(audiences.crowded());
        let turn = audiences.next_turn(true).unwrap();
        let slice = audiences.slice(turn, 1, 0).unwrap();
        audiences.sent(turn, slice, 10);
        audiences.add_laggard(id);
        audiences.leave(id, 0, |_, _| {});
        audiences.end_turn(turn);
        assert_eq!((audiences.window(id).len(), audiences.window_after(id)), (4, 6));
        assert!(!audiences.crowded() && !audiences.dirty());
    }
}
