//! Audiences: all connections of a shard with the same subscription, and the sweeps that serve them.
//!
//! An event marks the audiences of its topics; it never touches a connection. A *sweep* then visits
//! the members and brings each from its cursor to the head, in slices, so that audiences can take
//! turns. Events that arrive meanwhile are picked up, in the same write, by the members not yet
//! reached; the others get them in the next pass.
//!
//! The order of calls: [`Audiences::append`] marks; [`Audiences::next_turn`] names whose turn it is;
//! [`Audiences::slice`] gives members at one cursor, the caller sends [`Audiences::fill`]'s run to them
//! and reports [`Audiences::sent`], then takes out those whose socket was full ([`Audiences::leave`]);
//! [`Audiences::end_turn`] puts the audience back in line when it is not done.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use slab::Slab;
use smallvec::SmallVec;

use crate::event::Topic;
use crate::frame::{Frame, WireFormat};
use crate::run::Run;
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
    line: VecDeque<AudienceId>,
    laggard_frames: usize,
    laggard_bytes: usize,
    /// Audiences whose unfinished sweep is half a window behind.
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
            if let Some(moved) = audiences.get(place as usize) {
                let moved = &mut self.table[moved.0 as usize];
                if let Ok(index) = moved.subscription.topics.binary_search(topic) {
                    moved.places[index] = place;
                }
            } else if audiences.is_empty() {
                self.by_topic.remove(topic);
            }
        }
        self.by_subscription.remove(&audience.subscription);
        Some(audience.subscription)
    }

    /// Marks the audiences that an event reaches.
    pub fn append(&mut self, frame: &Arc<Frame>) {
        for topic in frame.topics() {
            let Some(ids) = self.by_topic.get(topic) else { continue };
            for &id in ids {
                let audience = &mut self.table[id.0 as usize];
                // The same event may reach the same audience by another of its topics.
                if audience.head >= frame.seq() || !audience.subscription.admits(frame) {
                    continue;
                }
                audience.head = frame.seq();
                audience.window.push(Arc::clone(frame));
                if audience.members.is_empty() {
                    audience.swept_to = audience.head;
                    audience.trim(self.laggard_frames, self.laggard_bytes);
                    continue;
                }
                let was_crowded = audience.is_crowded(self.laggard_frames, self.laggard_bytes);
                audience.unswept_frames += 1;
                audience.unswept_bytes += frame.size();
                let crowded = audience.is_crowded(self.laggard_frames, self.laggard_bytes);
                self.crowded += usize::from(crowded && !was_crowded);
                if !audience.in_line {
                    audience.in_line = true;
                    audience.begin_pass();
                    self.line.push_back(id);
                }
            }
        }
    }

    /// Whether some sweep is so far behind that the shard must not take more events until it has
    /// caught up. A window may be trimmed under a laggard, never under a member.
    pub fn crowded(&self) -> bool {
        self.crowded > 0
    }

    /// Whether any sweep is unfinished.
    pub fn dirty(&self) -> bool {
        !self.line.is_empty()
    }

    /// Whose turn it is. The caller gives it back with [`Audiences::end_turn`].
    pub fn next_turn(&mut self) -> Option<AudienceId> {
        loop {
            let id = self.line.pop_front()?;
            if self.table.get(id.0 as usize).is_some_and(|audience| audience.in_line) {
                return Some(id);
            }
        }
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
            self.line.push_back(id);
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
        if audience.members.is_empty() && audience.members.spilled() {
            audience.members = SmallVec::new();
        }
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

    /// Audiences in the table.
    pub fn len(&self) -> usize {
        self.table.len()
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

impl Audience {
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

    /// The unfinished sweep is half a window behind.
    fn is_crowded(&self, frames: usize, bytes: usize) -> bool {
        self.unswept_frames * 2 > frames || self.unswept_bytes * 2 > bytes
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
        while let Some(turn) = audiences.next_turn() {
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
        let turn = audiences.next_turn().unwrap();
        let slice = audiences.slice(turn, 1, 0).unwrap();
        audiences.sent(turn, slice, 10);
        audiences.add_laggard(id);
        audiences.leave(id, 0, |_, _| {});
        audiences.end_turn(turn);
        assert_eq!((audiences.window(id).len(), audiences.window_after(id)), (4, 6));
        assert!(!audiences.crowded() && !audiences.dirty());
    }
}
