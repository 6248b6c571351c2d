//! What is known of connections beside their streams: who they are, and that somebody wants to hear of them, to end them or
//! to change their topics. A connection of which nothing is known costs nothing here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use fanfare_io::{Io, Peer, Socket};
use fanfare_proto::delivery::{self, Changed};
use fanfare_proto::event::Topic;
use fanfare_proto::link::LinkKey;
use fanfare_proto::segment_map::SegmentMap;
use fanfare_proto::stream::Deciseconds;
use smallvec::SmallVec;

use super::Shard;
use crate::admission::{Subscribe, Via};
use crate::connection::ConnectionId;
use crate::life_cycle::{Closed, Connected, LifeCycleEvent, LifeCycleQueue, Subscribed};
use crate::presence::Membership;

/// What is to become of connections.
pub(crate) enum ConnectionOrder {
    /// End one connection.
    Disconnect(LinkKey),
    /// End those of a subject.
    DisconnectSubject(Arc<str>),
    /// End those that read a topic.
    DisconnectTopic(Topic),
    /// Give a connection these topics.
    ChangeTopics(LinkKey, Vec<Topic>),
}

/// The details of a shard's connections, and what they are for.
pub(super) struct Connections {
    details: DetailsTable,
    subjects: Subjects,
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
    memberships: Box<[Membership]>,
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

/// The connections of each subject.
struct Subjects(SegmentMap<Arc<str>, SmallVec<[LinkKey; 1]>>);

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
    /// Adds a connection, and says which place it has.
    fn add(&mut self, subject: &Arc<str>, link: LinkKey) -> u32 {
        let links = self.0.get_or_default(subject);
        links.push(link);
        links.len() as u32 - 1
    }

    /// Removes the connection at this place, and says which one has the place now.
    fn remove(&mut self, subject: &str, place: u32) -> Option<LinkKey> {
        let links = self.0.get_mut(subject)?;
        links.swap_remove(place as usize);
        let moved = links.get(place as usize).copied();
        if links.is_empty() {
            self.0.remove(subject);
        }
        moved
    }

    fn of(&self, subject: &str) -> SmallVec<[LinkKey; 1]> {
        self.0.get(subject).cloned().unwrap_or_default()
    }
}

impl Connections {
    /// `seed` is for the keys of hashes.
    pub(super) fn new(life_cycle: Option<Arc<LifeCycleQueue>>, seed: u64) -> Connections {
        Connections {
            details: DetailsTable::default(),
            subjects: Subjects(SegmentMap::new(seed)),
            ending: VecDeque::new(),
            life_cycle,
            happened: Vec::new(),
        }
    }

    /// Whether connections are still to be ended.
    pub(super) fn has_work(&self) -> bool {
        !self.ending.is_empty()
    }

    /// Each connection of which something is known is there, and has its place among those of its subject.
    #[cfg(feature = "sim")]
    pub(super) fn check(&self, delivery: &delivery::Delivery) {
        let chunks = self.details.chunks.iter().flatten();
        let all: Vec<&Details> = chunks.flat_map(|chunk| chunk.slots.iter().flatten()).collect();
        for details in &all {
            assert!(
                delivery.socket(details.link).is_some(),
                "something is known of a connection that has left"
            );
        }
        assert!(!self.are_heard() || all.len() == delivery.len(), "nothing is known of a connection");
        let mut placed = 0;
        for (_, links) in self.subjects.0.iter() {
            assert!(!links.is_empty(), "a subject without a connection");
            placed += links.len();
        }
        for details in all {
            let Some(subject) = &details.subject else { continue };
            let its = self.subjects.0.get(subject).and_then(|links| links.get(details.place as usize));
            assert_eq!(its, Some(&details.link), "a connection is not found by its subject");
            placed -= 1;
        }
        assert_eq!(placed, 0, "a subject has a connection that has left");
    }

    /// Whether somebody hears of connections that begin and end.
    fn are_heard(&self) -> bool {
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
        has_gap: bool,
        now: Duration,
    ) {
        let is_known = subscribe.subject.is_some()
            || subscribe.data.is_some()
            || !subscribe.memberships.is_empty()
            || self.connections.are_heard();
        if !is_known {
            return;
        }
        let Subscribe { subject, data, memberships, .. } = subscribe;
        if !memberships.is_empty() {
            self.links.presence.join(memberships);
        }
        let place = subject.as_ref().map_or(0, |subject| self.connections.subjects.add(subject, link));
        self.connections.details.insert(Details {
            link,
            began_at: Deciseconds::of(now),
            subject: subject.clone(),
            place,
            data: *data,
            memberships: memberships.clone().into(),
        });
        if self.connections.are_heard() {
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
            self.subscribed(link, &subscribe.topics, has_gap);
        }
    }

    fn connection_id(&self, link: LinkKey) -> ConnectionId {
        ConnectionId::new(self.links.engine, self.links.log.shard(), link)
    }

    fn subscribed(&mut self, link: LinkKey, topics: &[Topic], has_gap: bool) {
        if !self.connections.are_heard() {
            return;
        }
        let connection = self.connection_id(link);
        let mut topics = topics.to_vec();
        topics.sort_unstable();
        topics.dedup();
        let subscribed = Subscribed { connection, topics, has_gap };
        self.connections.happened.push(LifeCycleEvent::Subscribed(subscribed));
    }

    /// A stream has ended.
    pub(super) fn disconnected(&mut self, closed: &delivery::Closed, now: Duration) {
        let Some(details) = self.connections.details.remove(closed.link) else { return };
        let Details { link, began_at, subject, place, data, memberships } = details;
        if let Some(subject) = &subject
            && let Some(moved) = self.connections.subjects.remove(subject, place)
            && let Some(details) = self.connections.details.get_mut(moved)
        {
            details.place = place;
        }
        if !memberships.is_empty() {
            self.links.presence.leave(&memberships, now);
        }
        if self.connections.are_heard() {
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

    pub(super) fn order(&mut self, order: ConnectionOrder, now: Duration) {
        match order {
            ConnectionOrder::Disconnect(link) => self.connections.ending.push_back(link),
            ConnectionOrder::DisconnectSubject(subject) => {
                let links = self.connections.subjects.of(&subject);
                self.connections.ending.extend(links);
                self.close_resuming_of(&subject);
            }
            ConnectionOrder::DisconnectTopic(topic) => self.delivery.disconnect_topic(topic),
            ConnectionOrder::ChangeTopics(link, topics) => {
                let caught_up_to = self.inbox.is_empty().then(|| self.links.log.caught_up_to()).flatten();
                let (log, new) = (&mut self.links.log, topics.iter().cloned());
                match self.delivery.change_topics(link, new, caught_up_to, now, log) {
                    Changed::Changed => self.subscribed(link, &topics, false),
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
        for _ in 0..budgets.endings {
            let Some(link) = connections.ending.pop_front() else { break };
            delivery.disconnect(link, &mut links.log);
        }
        shrink_queue(&mut connections.ending);
    }

    /// Tells what has happened in this tick.
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
fn shrink_queue(queue: &mut VecDeque<LinkKey>) {
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

    /// One subject may have every connection of a shard: each is found in constant time when it leaves.
    #[test]
    fn connections_of_one_subject_leave_in_any_order() {
        let (mut subjects, subject) = (Subjects(SegmentMap::new(1)), Arc::from("all"));
        let mut places: Vec<u32> = (0..100).map(|slot| subjects.add(&subject, link(slot))).collect();
        for slot in (0..100).map(|step| step * 37 % 100) {
            assert!(subjects.of("all").contains(&link(slot)));
            if let Some(moved) = subjects.remove("all", places[slot as usize]) {
                places[moved.slot as usize] = places[slot as usize];
            }
            assert!(!subjects.of("all").contains(&link(slot)));
        }
        assert!(subjects.0.is_empty());
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
            memberships: Box::default(),
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
