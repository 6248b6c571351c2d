//! What is known of connections beside their streams: subjects, data, members, and life-cycle events of them; and
//! orders to end them or to change their topics. A connection of which nothing is known costs nothing here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use fanfare_io::{Io, Peer, Socket};
use fanfare_proto::delivery::{self, Changed};
use fanfare_proto::event::Topic;
use fanfare_proto::limits::{DETAILS_PLACE_BYTES, MEMBER_BYTES};
use fanfare_proto::link::LinkKey;
use fanfare_proto::pattern::Pattern;
use fanfare_proto::segment_map::SegmentMap;
use fanfare_proto::stream::Deciseconds;
use smallvec::SmallVec;

use super::Shard;
use super::tokens::Tokens;
use crate::admission::{Subscribe, Via};
use crate::client_table::CountedAt;
use crate::connection::ConnectionId;
use crate::life_cycle::{Closed, Connected, LifeCycleEvent, LifeCycleQueue, Subscribed};
use crate::orders::{About, DecisionStart, NumberedOrder, RecentOrders};
use crate::presence::Member;

/// What the hub asks a shard to do with connections.
pub(crate) enum ConnectionOrder {
    /// End one connection.
    Disconnect(LinkKey),
    /// End those of a subject or of a token.
    DisconnectAll(NumberedOrder),
    /// End those that read a topic.
    DisconnectTopic(Topic),
    /// Give a connection these topics and patterns.
    ChangeTopics(LinkKey, Vec<Topic>, Vec<Pattern>),
}

/// The details of a shard's connections, and what they are for.
pub(super) struct Connections {
    details: DetailsTable,
    subjects: Subjects,
    tokens: Tokens,
    /// The last orders, for decisions that began before them.
    recent_orders: RecentOrders,
    /// What the details take: [`bytes_of`] of each connection.
    bytes: usize,
    /// Connections that are to be ended, as many in each tick as its budget allows.
    ending: VecDeque<LinkKey>,
    life_cycle: Option<Arc<LifeCycleQueue>>,
    happened: Vec<LifeCycleEvent>,
}

/// What is known of a connection.
struct Details {
    link: LinkKey,
    began_at: Deciseconds,
    subject: Option<Arc<str>>,
    /// Its place among the connections of its subject.
    place: u32,
    data: Option<u64>,
    members: Box<[Member]>,
    /// Where it is counted among the streams of its subject.
    counted: Option<CountedAt>,
    /// What it takes: [`bytes_of`].
    bytes: u32,
}

/// Details by slot, in chunks that are there only where one of their slots is used. So the table grows piece by piece.
#[derive(Default)]
struct DetailsTable {
    chunks: Vec<Option<Box<Chunk>>>,
}

struct Chunk {
    used: usize,
    slots: [Option<Details>; CHUNK],
}

const CHUNK: usize = 256;

/// The connections of each subject, and those of them that are to be ended.
struct Subjects {
    table: SegmentMap<Arc<str>, Subject>,
    /// Subjects that have connections to be ended, or had them, each once.
    ending: VecDeque<Arc<str>>,
}

/// The connections of one subject. Those that are to be ended are the first ones.
///
/// ```text
///   links    [ a  b  c | d  e ]     an order ended a subject with a, b and c; d and e began later
///     ending = 3 ------^            the next step ends c, and leaves it at its place until its stream has ended
/// ```
#[derive(Default)]
struct Subject {
    links: SmallVec<[LinkKey; 1]>,
    /// How many of them are to be ended.
    ending: u32,
    /// It is in the queue of subjects.
    is_queued: bool,
}

/// The most that a subject takes without its text: its place in the table of subjects, of which less than three fifths are
/// empty, and its place in the list of connections.
const SUBJECT_BYTES: usize = 3 * size_of::<(Arc<str>, Subject)>() + 2 * size_of::<LinkKey>();

// The place of its token is counted, too.
const _: () = assert!(size_of::<Option<Details>>() + Tokens::PLACE_BYTES <= DETAILS_PLACE_BYTES);

/// What is known of a subscription's connection takes at most this beside its place, here and among the members.
fn bytes_of(subscribe: &Subscribe) -> usize {
    let members = subscribe.members.iter();
    let members = members.map(|member| MEMBER_BYTES + member.text_bytes());
    let subject = subscribe.subject.as_ref().map_or(0, |subject| SUBJECT_BYTES + subject.len());
    subject + members.sum::<usize>()
}

impl DetailsTable {
    fn insert(&mut self, details: Details) {
        let (chunk, index) = position(details.link.slot);
        if chunk >= self.chunks.len() {
            self.chunks.resize_with(chunk + 1, || None);
        }
        let chunk = self.chunks[chunk]
            .get_or_insert_with(|| Box::new(Chunk { used: 0, slots: [const { None }; CHUNK] }));
        debug_assert!(chunk.slots[index].is_none(), "a connection ends before another gets its slot");
        chunk.slots[index] = Some(details);
        chunk.used += 1;
    }

    fn get_mut(&mut self, link: LinkKey) -> Option<&mut Details> {
        let (chunk, index) = position(link.slot);
        let details = self.chunks.get_mut(chunk)?.as_mut()?.slots[index].as_mut()?;
        (details.link == link).then_some(details)
    }

    fn remove(&mut self, link: LinkKey) -> Option<Details> {
        let (chunk, index) = position(link.slot);
        let place = self.chunks.get_mut(chunk)?;
        let its = place.as_mut()?;
        let details = its.slots[index].take_if(|details| details.link == link)?;
        its.used -= 1;
        if its.used == 0 {
            *place = None;
            while self.chunks.last().is_some_and(Option::is_none) {
                self.chunks.pop();
            }
        }
        Some(details)
    }
}

fn position(slot: u32) -> (usize, usize) {
    (slot as usize / CHUNK, slot as usize % CHUNK)
}

impl Subjects {
    fn new(seed: u64) -> Subjects {
        Subjects { table: SegmentMap::new(seed), ending: VecDeque::new() }
    }

    /// Adds a connection, and says which place it has.
    fn add(&mut self, subject: &Arc<str>, link: LinkKey) -> u32 {
        let links = &mut self.table.get_or_default(subject).links;
        links.push(link);
        links.len() as u32 - 1
    }

    /// Removes the connection at this place. Others move to its place, and to the place of the last one that is to be
    /// ended: says which, and their new places.
    fn remove(&mut self, name: &str, place: u32) -> SmallVec<[(LinkKey, u32); 2]> {
        let mut moved = SmallVec::new();
        let Some(subject) = self.table.get_mut(name) else { return moved };
        let mut free = place;
        if place < subject.ending {
            subject.ending -= 1;
            free = subject.ending;
            subject.links.swap(place as usize, free as usize);
            if free != place {
                moved.push((subject.links[place as usize], place));
            }
        }
        subject.links.swap_remove(free as usize);
        moved.extend(subject.links.get(free as usize).map(|link| (*link, free)));
        if subject.links.is_empty() && !subject.is_queued {
            self.table.remove(name);
        }
        moved
    }

    /// The connections of a subject that are there now are to be ended.
    fn disconnect(&mut self, name: &str) {
        let Some(subject) = self.table.get_mut(name) else { return };
        subject.ending = subject.links.len() as u32;
        if !std::mem::replace(&mut subject.is_queued, true) {
            self.ending.push_back(name.into());
        }
    }

    /// One step to the end of what is to be ended: the next connection, or `None` where a subject is done.
    fn next_to_end(&mut self) -> Option<LinkKey> {
        let name = self.ending.front()?;
        let subject = self.table.get_mut(name)?;
        if let Some(last) = subject.ending.checked_sub(1) {
            subject.ending = last;
            return Some(subject.links[last as usize]);
        }
        subject.is_queued = false;
        let is_gone = subject.links.is_empty();
        if let Some(name) = self.ending.pop_front()
            && is_gone
        {
            self.table.remove(&name);
        }
        shrink_queue(&mut self.ending);
        None
    }
}

impl Connections {
    /// `seed` is for the keys of hashes.
    pub(super) fn new(life_cycle: Option<Arc<LifeCycleQueue>>, seed: u64) -> Connections {
        Connections {
            details: DetailsTable::default(),
            subjects: Subjects::new(seed),
            tokens: Tokens::default(),
            recent_orders: RecentOrders::default(),
            bytes: 0,
            ending: VecDeque::new(),
            life_cycle,
            happened: Vec::new(),
        }
    }

    /// Whether connections are still to be ended.
    pub(super) fn has_work(&self) -> bool {
        !self.ending.is_empty() || !self.subjects.ending.is_empty() || self.tokens.has_work()
    }

    /// Whether a connection may not begin, because it was ended while the decision about it was under way.
    pub(super) fn is_ended_since(&self, subscribe: &Subscribe, start: DecisionStart) -> bool {
        self.recent_orders.end(subscribe, start)
    }

    /// Whether anything would be known of this subscription's connection.
    fn would_know(&self, subscribe: &Subscribe) -> bool {
        subscribe.subject.is_some()
            || subscribe.data.is_some()
            || !subscribe.members.is_empty()
            || self.has_life_cycle()
    }

    /// Whether what would be known of this subscription's connection finds room within a bound.
    pub(super) fn has_room_for(&self, subscribe: &Subscribe, most: usize) -> bool {
        !self.would_know(subscribe) || self.bytes.saturating_add(bytes_of(subscribe)) <= most
    }

    /// What the details take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Streams that are counted among those of their subjects; for checks.
    #[cfg(feature = "sim")]
    pub(super) fn counted(&self) -> usize {
        let details = self.details.chunks.iter().flatten().flat_map(|chunk| chunk.slots.iter().flatten());
        details.filter(|details| details.counted.is_some()).count()
    }

    /// The next connection that is to be ended, in at most one step of work.
    fn next_to_end(&mut self) -> Option<LinkKey> {
        self.ending.pop_front().or_else(|| self.subjects.next_to_end())
    }

    /// Each connection of which something is known is there, and has its place among those of its subject.
    #[cfg(feature = "sim")]
    pub(super) fn check(&self, delivery: &delivery::Delivery, most_bytes: usize) {
        let chunks = self.details.chunks.iter().flatten();
        let all: Vec<&Details> = chunks.flat_map(|chunk| chunk.slots.iter().flatten()).collect();
        for details in &all {
            assert!(
                delivery.socket(details.link).is_some(),
                "something is known of a connection that has left"
            );
        }
        self.tokens.check(|link| delivery.socket(link).is_some());
        assert!(!self.has_life_cycle() || all.len() == delivery.len(), "nothing is known of a connection");
        let bytes: usize = all.iter().map(|details| details.bytes as usize).sum();
        assert!(bytes == self.bytes && bytes <= most_bytes, "{bytes} bytes of details, not {}", self.bytes);
        let (mut placed, mut queued) = (0, 0);
        for (_, subject) in self.subjects.table.iter() {
            assert!(!subject.links.is_empty() || subject.is_queued, "a subject without a connection");
            assert!(subject.ending as usize <= subject.links.len(), "more are to be ended than there are");
            assert!(subject.ending == 0 || subject.is_queued, "a subject's end is forgotten");
            placed += subject.links.len();
            queued += usize::from(subject.is_queued);
        }
        assert_eq!(queued, self.subjects.ending.len(), "a subject is to be ended twice");
        for details in all {
            let Some(subject) = &details.subject else { continue };
            let its = self.subjects.table.get(subject);
            let its = its.and_then(|its| its.links.get(details.place as usize));
            assert_eq!(its, Some(&details.link), "a connection is not found by its subject");
            placed -= 1;
        }
        assert_eq!(placed, 0, "a subject has a connection that has left");
    }

    /// Whether there are life-cycle events.
    fn has_life_cycle(&self) -> bool {
        self.life_cycle.is_some()
    }
}

impl<I: Io> Shard<I> {
    /// A stream has begun.
    pub(super) fn connected(
        &mut self,
        link: LinkKey,
        subscribe: &Subscribe,
        socket: Socket,
        counted: Option<CountedAt>,
        has_gap: bool,
        now: Duration,
    ) {
        if let Some(token) = subscribe.token {
            self.connections.tokens.insert(link, token);
        }
        if !self.connections.would_know(subscribe) {
            return;
        }
        let Subscribe { subject, data, members, .. } = subscribe;
        if !members.is_empty() {
            self.links.presence.join(members);
        }
        let place = subject.as_ref().map_or(0, |subject| self.connections.subjects.add(subject, link));
        let bytes = bytes_of(subscribe);
        self.connections.bytes += bytes;
        self.connections.details.insert(Details {
            link,
            began_at: Deciseconds::of(now),
            subject: subject.clone(),
            place,
            data: *data,
            members: members.clone().into(),
            counted,
            bytes: bytes as u32,
        });
        if self.connections.has_life_cycle() {
            let connection = self.connection_id(link);
            let peer = match subscribe.via {
                Via::Direct => self.io.peer(socket).and_then(Peer::address),
                Via::Proxied(client) => client,
            };
            let (subject, data) = (subject.clone(), *data);
            self.connections.happened.push(LifeCycleEvent::Connected(Connected {
                connection,
                peer,
                subject,
                data,
            }));
            self.subscribed(link, &subscribe.topics, subscribe.patterns(), has_gap);
        }
    }

    fn connection_id(&self, link: LinkKey) -> ConnectionId {
        ConnectionId::new(self.links.engine, self.links.log.shard(), link)
    }

    fn subscribed(&mut self, link: LinkKey, topics: &[Topic], patterns: &[Pattern], has_gap: bool) {
        if !self.connections.has_life_cycle() {
            return;
        }
        let connection = self.connection_id(link);
        let mut topics = topics.to_vec();
        topics.sort_unstable();
        topics.dedup();
        let mut patterns = patterns.to_vec();
        patterns.sort_unstable();
        patterns.dedup();
        let subscribed = Subscribed { connection, topics, patterns, has_gap };
        self.connections.happened.push(LifeCycleEvent::Subscribed(subscribed));
    }

    /// A stream has ended.
    pub(super) fn disconnected(&mut self, closed: &delivery::Closed, now: Duration) {
        self.connections.tokens.remove(closed.link);
        let Some(details) = self.connections.details.remove(closed.link) else { return };
        let Details { link, began_at, subject, place, data, members, counted, bytes } = details;
        self.connections.bytes -= bytes as usize;
        self.leave_subject(counted);
        if let Some(subject) = &subject {
            for (moved, place) in self.connections.subjects.remove(subject, place) {
                if let Some(details) = self.connections.details.get_mut(moved) {
                    details.place = place;
                }
            }
        }
        if !members.is_empty() {
            self.links.presence.leave(&members, now);
        }
        if self.connections.has_life_cycle() {
            self.connections.happened.push(LifeCycleEvent::Closed(Closed {
                connection: self.connection_id(link),
                reason: closed.reason,
                sent: self.delivery.cursor(closed.cursor),
                lasted: now.saturating_sub(began_at.time()),
                subject,
                data,
            }));
        }
    }

    /// A stream that was counted among those of its subject has ended, or does not begin.
    pub(super) fn leave_subject(&self, counted: Option<CountedAt>) {
        if let Some(counted) = counted {
            self.links.clients.leave_subject(counted);
        }
    }

    pub(super) fn order(&mut self, order: ConnectionOrder, now: Duration) {
        match order {
            ConnectionOrder::Disconnect(link) => self.connections.ending.push_back(link),
            ConnectionOrder::DisconnectAll(order) => {
                match order.about() {
                    About::Subject(subject) => self.connections.subjects.disconnect(subject),
                    About::Token(token) => {
                        self.connections.tokens.disconnect(*token, self.delivery.newest_generation());
                    }
                }
                self.close_resuming_of(order.about());
                self.connections.recent_orders.add(order);
            }
            ConnectionOrder::DisconnectTopic(topic) => self.delivery.disconnect_topic(topic),
            ConnectionOrder::ChangeTopics(link, topics, patterns) => {
                let caught_up_to = self.inbox.is_empty().then(|| self.links.log.caught_up_to()).flatten();
                let (log, new) = (&mut self.links.log, topics.iter().cloned());
                let new_patterns = patterns.iter().cloned();
                match self.delivery.change_topics(link, new, new_patterns, caught_up_to, now, log) {
                    Changed::Changed => self.subscribed(link, &topics, &patterns, false),
                    // It would go on with topics that it is not to have, or without those that it asked for.
                    Changed::NoRoom => self.connections.ending.push_back(link),
                    Changed::Gone => {}
                }
            }
        }
    }

    /// Ends connections that are to be ended, as many as one tick may.
    pub(super) fn end_connections(&mut self) {
        let Shard { connections, delivery, links, budgets, .. } = self;
        if connections.ending.is_empty() {
            connections.tokens.search(&mut connections.ending);
        }
        for _ in 0..budgets.endings {
            if connections.ending.is_empty() && connections.subjects.ending.is_empty() {
                break;
            }
            if let Some(link) = connections.next_to_end() {
                delivery.disconnect(link, &mut links.log);
            }
        }
        shrink_queue(&mut connections.ending);
    }

    /// Adds the events of this tick to the queue of life-cycle events.
    pub(super) fn tell_life_cycle(&mut self) {
        let Connections { life_cycle, happened, .. } = &mut self.connections;
        if !happened.is_empty()
            && let Some(queue) = life_cycle
            && !queue.add(happened)
        {
            *life_cycle = None;
        }
    }
}

/// Gives back what a mass of ends needed.
fn shrink_queue<T>(queue: &mut VecDeque<T>) {
    if queue.is_empty() && queue.capacity() > CHUNK {
        *queue = VecDeque::new();
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        // Also when the shard panics.
        if let Some(queue) = &self.life_cycle {
            queue.end_writer();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(slot: u32) -> LinkKey {
        LinkKey { slot, generation: slot + 1 }
    }

    /// The places of connections that the shard knows, beside those of the table.
    fn apply(places: &mut [u32], moved: SmallVec<[(LinkKey, u32); 2]>) {
        moved.into_iter().for_each(|(link, place)| places[link.slot as usize] = place);
    }

    fn links(subjects: &Subjects, name: &str) -> Vec<LinkKey> {
        subjects.table.get(name).map(|subject| subject.links.to_vec()).unwrap_or_default()
    }

    /// One subject may have every connection of a shard: each is found in constant time when it leaves.
    #[test]
    fn connections_of_one_subject_leave_in_any_order() {
        let (mut subjects, subject) = (Subjects::new(1), Arc::from("all"));
        let mut places: Vec<u32> = (0..100).map(|slot| subjects.add(&subject, link(slot))).collect();
        for slot in (0..100).map(|step| step * 37 % 100) {
            assert!(links(&subjects, "all").contains(&link(slot)));
            let place = places[slot as usize];
            apply(&mut places, subjects.remove("all", place));
            assert!(!links(&subjects, "all").contains(&link(slot)));
        }
        assert!(subjects.table.is_empty());
    }

    /// Each order copied all connections of its subject to a queue: an operator's script that gave the same order again
    /// and again, to a million connections with the subject "guest", added a million entries with each of them.
    #[test]
    fn a_subject_that_is_to_be_ended_is_queued_once() {
        let (mut subjects, guest) = (Subjects::new(1), Arc::from("guest"));
        let begin = |subjects: &mut Subjects, slots: std::ops::Range<u32>| -> Vec<u32> {
            slots.map(|slot| subjects.add(&guest, link(slot))).collect()
        };
        let mut places = begin(&mut subjects, 0..1000);
        for _ in 0..100 {
            subjects.disconnect("guest");
            subjects.disconnect("unknown");
            assert_eq!(subjects.ending.len(), 1);
        }
        // These begin after the order, and stay.
        places.extend(begin(&mut subjects, 1000..1500));
        let mut ended = Vec::new();
        let mut steps = 0;
        while !subjects.ending.is_empty() {
            steps += 1;
            let Some(next) = subjects.next_to_end() else { continue };
            ended.push(next.slot);
            // Now and then a connection leaves: one of these, or another one.
            let leaves = match steps % 3 {
                0 => next.slot,
                1 => (steps * 7) % 1000,
                _ => 1000 + steps % 500,
            };
            let place = places[leaves as usize];
            if links(&subjects, "guest").get(place as usize) == Some(&link(leaves)) {
                apply(&mut places, subjects.remove("guest", place));
            }
        }
        assert!(ended.iter().all(|slot| *slot < 1000), "a connection that began later is ended");
        let stays = links(&subjects, "guest");
        let mut seen = ended.clone();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), ended.len(), "each is ended once");
        for old in stays.iter().filter(|link| link.slot < 1000) {
            assert!(seen.binary_search(&old.slot).is_ok(), "{old:?} is not ended");
        }
        assert!(steps <= 1001 && subjects.ending.is_empty());
    }

    /// A subject whose connections leave before its turn stands in the queue until then, and once.
    #[test]
    fn a_subject_that_comes_back_before_its_turn_is_queued_once() {
        let (mut subjects, ada) = (Subjects::new(1), Arc::from("ada"));
        for slot in 0..10 {
            let place = subjects.add(&ada, link(slot));
            subjects.disconnect("ada");
            subjects.remove("ada", place);
            assert_eq!(subjects.ending.len(), 1);
        }
        subjects.add(&ada, link(10));
        assert_eq!((subjects.next_to_end(), subjects.ending.len()), (None, 0), "it began after the orders");
        assert_eq!(links(&subjects, "ada"), [link(10)]);
    }

    #[test]
    fn details_are_found_by_their_whole_name_and_give_their_memory_back() {
        let mut table = DetailsTable::default();
        let details = |link| Details {
            link,
            began_at: Deciseconds::default(),
            subject: None,
            place: 0,
            data: Some(7),
            members: Box::default(),
            counted: None,
            bytes: 0,
        };
        let slots = [0, 1, CHUNK as u32, 10 * CHUNK as u32];
        slots.iter().for_each(|slot| table.insert(details(link(*slot))));
        let stale = LinkKey { slot: 1, generation: 1 };
        assert!(table.get_mut(stale).is_none() && table.remove(stale).is_none());
        for slot in slots {
            assert!(table.get_mut(link(slot)).is_some());
            assert!(table.remove(link(slot)).is_some() && table.remove(link(slot)).is_none());
        }
        assert!(table.chunks.is_empty());
    }
}
