//! What is known of connections beside their streams: their names ([`NameTable`]), data, members, and
//! life-cycle events of them; and orders to end them or to change their topics. A connection of which nothing
//! is known costs nothing here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use fanfare_io::{Io, Peer, Socket};
use fanfare_proto::delivery::{self, Changed, ShedKey};
use fanfare_proto::event::Topic;
use fanfare_proto::limits::{DETAILS_PLACE_BYTES, MEMBER_BYTES};
use fanfare_proto::link::LinkKey;
use fanfare_proto::pattern::Pattern;
use fanfare_proto::stream::Deciseconds;

use super::Shard;
use super::names::NameTable;
use crate::admission::{Subscribe, Via};
use crate::chunk_table::{CHUNK, ChunkTable};
use crate::client_table::CountedAt;
use crate::connection::ConnectionId;
use crate::hub::{ShedOrder, ShedPart};
use crate::life_cycle::{Closed, Connected, LifeCycleEvent, LifeCycleQueue, Subscribed};
use crate::orders::{DecisionStart, Names, NumberedOrder, RecentOrders};
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
    /// End a share of all of them.
    Shed(ShedOrder),
}

/// The details of a shard's connections, and what they are for.
pub(super) struct Connections {
    /// By the slots of their links.
    details: ChunkTable<Details>,
    names: NameTable,
    /// The last orders, for decisions that began before them.
    recent_orders: RecentOrders,
    /// What the details take: [`Connections::bytes_of`] each.
    bytes: usize,
    /// Connections that are to be ended, as many in each tick as its budget allows.
    ending: VecDeque<LinkKey>,
    /// Orders to shed streams that are under way.
    sheds: Vec<(ShedKey, ShedPart)>,
    life_cycle: Option<Arc<LifeCycleQueue>>,
    happened: Vec<LifeCycleEvent>,
}

/// What is known of a connection beside its names.
struct Details {
    link: LinkKey,
    began_at: Deciseconds,
    /// For life-cycle events.
    subject: Option<Arc<str>>,
    data: Option<u64>,
    members: Box<[Member]>,
    /// What it takes: [`Connections::bytes_of`].
    bytes: u32,
}

/// The most that the text of a subject takes beside its bytes: two counts of its users.
const SUBJECT_BYTES: usize = 2 * size_of::<usize>();

const _: () = assert!(ChunkTable::<Details>::ENTRY_BYTES <= DETAILS_PLACE_BYTES);

impl Connections {
    pub(super) fn new(life_cycle: Option<Arc<LifeCycleQueue>>) -> Connections {
        Connections {
            details: ChunkTable::default(),
            names: NameTable::default(),
            recent_orders: RecentOrders::default(),
            bytes: 0,
            ending: VecDeque::new(),
            sheds: Vec::new(),
            life_cycle,
            happened: Vec::new(),
        }
    }

    /// Whether connections are still to be ended.
    pub(super) fn has_work(&self) -> bool {
        !self.ending.is_empty() || self.names.has_work()
    }

    /// Whether a connection may not begin, because it was ended while the decision about it was under way.
    pub(super) fn is_ended_since(&self, subscribe: &Subscribe, start: DecisionStart) -> bool {
        self.recent_orders.end(subscribe.names, start)
    }

    /// Whether anything but its names would be known of this subscription's connection.
    fn would_know(&self, subscribe: &Subscribe) -> bool {
        subscribe.data.is_some() || !subscribe.members.is_empty() || self.has_life_cycle()
    }

    /// The subject, where a life-cycle event is to bear it.
    fn subject_told(&self, subscribe: &Subscribe) -> Option<Arc<str>> {
        subscribe.subject.clone().filter(|_| self.has_life_cycle())
    }

    /// What is known of a subscription's connection takes at most this beside its places, here and among the
    /// members.
    fn bytes_of(&self, subscribe: &Subscribe) -> usize {
        let members = subscribe.members.iter();
        let members = members.map(|member| MEMBER_BYTES + member.text_bytes());
        let subject = self.subject_told(subscribe).map_or(0, |subject| SUBJECT_BYTES + subject.len());
        subject + members.sum::<usize>()
    }

    /// Whether what would be known of this subscription's connection finds room within a bound.
    pub(super) fn has_room_for(&self, subscribe: &Subscribe, most: usize) -> bool {
        !self.would_know(subscribe) || self.bytes.saturating_add(self.bytes_of(subscribe)) <= most
    }

    /// What the details take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The names of a connection.
    pub(super) fn names_of(&self, link: LinkKey) -> Names {
        self.names.of(link)
    }

    /// What is known of a connection beside its names: its subject, its data, and when it began.
    pub(super) fn known_of(&self, link: LinkKey) -> Option<(Option<Arc<str>>, Option<u64>, Duration)> {
        let details = self.details.get(link.slot).filter(|details| details.link == link)?;
        Some((details.subject.clone(), details.data, details.began_at.time()))
    }

    /// Streams that are counted among those of their subjects; for checks.
    #[cfg(feature = "sim")]
    pub(super) fn counted(&self) -> usize {
        self.names.counted()
    }

    /// The next connection that is to be ended.
    fn next_to_end(&mut self) -> Option<LinkKey> {
        if self.ending.is_empty() {
            self.names.take_found(&mut self.ending);
        }
        self.ending.pop_front()
    }

    /// Each connection of which something is known is there.
    #[cfg(feature = "sim")]
    pub(super) fn check(&self, delivery: &delivery::Delivery, most_bytes: usize) {
        let mut bytes = 0;
        for (slot, details) in self.details.iter() {
            let is_there = details.link.slot == slot && delivery.socket(details.link).is_some();
            assert!(is_there, "something is known of a connection that has left");
            bytes += details.bytes as usize;
        }
        self.names.check(|link| delivery.socket(link).is_some());
        let known = self.details.iter().count();
        assert!(!self.has_life_cycle() || known == delivery.len(), "nothing is known of a connection");
        assert!(bytes == self.bytes && bytes <= most_bytes, "{bytes} bytes of details, not {}", self.bytes);
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
        self.connections.names.insert(link, subscribe.names, counted);
        if !self.connections.would_know(subscribe) {
            return;
        }
        let Subscribe { subject, data, members, .. } = subscribe;
        if !members.is_empty() {
            self.links.presence.join(members);
        }
        let bytes = self.connections.bytes_of(subscribe);
        self.connections.bytes += bytes;
        let details = Details {
            link,
            began_at: Deciseconds::of(now),
            subject: self.connections.subject_told(subscribe),
            data: *data,
            members: members.clone().into(),
            bytes: bytes as u32,
        };
        self.connections.details.insert(link.slot, details);
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
        let counted = self.connections.names.remove(closed.link);
        self.leave_subject(counted);
        let its = |details: &mut Details| details.link == closed.link;
        let Some(details) = self.connections.details.remove_if(closed.link.slot, its) else { return };
        let Details { link, began_at, subject, data, members, bytes } = details;
        self.connections.bytes -= bytes as usize;
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
                self.connections.names.disconnect(order.name(), self.delivery.newest_generation());
                self.close_resuming(|names| names.have(order.name()));
                self.connections.recent_orders.add(order);
            }
            ConnectionOrder::DisconnectTopic(topic) => self.delivery.disconnect_topic(topic),
            ConnectionOrder::Shed(ShedOrder { share, window, number, part }) => {
                if let Some(number) = number {
                    self.close_resuming(|_| true);
                    self.connections.recent_orders.add_for_all(number);
                }
                let key = self.delivery.begin_shed(share, window, now);
                self.connections.sheds.push((key, part));
            }
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
        connections.names.search(delivery.newest_generation());
        for _ in 0..budgets.endings {
            let Some(link) = connections.next_to_end() else { break };
            delivery.disconnect(link, &mut links.log);
        }
        shrink_queue(&mut connections.ending);
    }

    /// Drops orders to shed streams that are carried out, which tells the threads that wait for them. In a
    /// drain they stay: when it is over, the shard ends and drops them.
    pub(super) fn forget_sheds(&mut self) {
        if !self.delivery.is_draining() {
            self.connections.sheds.retain(|(key, _)| self.delivery.is_shedding(*key));
        }
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
