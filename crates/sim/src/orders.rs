//! Orders about connections: which are to end, and which get other topics; and what the world knows of them.
//!
//! A shard carries its orders out in the order in which they were given. The engine says how many it has
//! carried out, so that the network knows from which send on an order must show, and a change of topics its
//! exact number.

use std::cell::OnceCell;
use std::rc::Rc;
use std::time::Duration;

use fanfare::{ConnectionError, ConnectionId, Pattern, Share, Shedding, Topic, sim};

use crate::client::{Resume, topic};
use crate::connection::Connection;
use crate::desk::TOPICS_ASKED;
use crate::history::Interest;
use crate::network::Net;
use crate::pieces::PieceKind;
use crate::tally::Occurrence;
use crate::trace::trace;
use crate::wishes::{Wishes, some_subject, some_token};
use crate::world::{SECOND, World};

/// What a shard was told.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    Disconnect(ConnectionId),
    DisconnectSubject(String),
    DisconnectToken(String),
    DisconnectTopic(Topic),
    ChangeTopics(ConnectionId, Vec<Topic>, Vec<Pattern>),
    Shed(Share, Duration, Rc<OnceCell<Shedding>>),
}

/// What orders say about the end of one connection.
#[derive(Debug, Default)]
pub(crate) struct ToldToEnd {
    /// It must end.
    pub(crate) must: bool,
    /// It may end.
    pub(crate) may: bool,
    /// One of its topics was disconnected: its topics do not change any more.
    pub(crate) topic: bool,
    /// An order came while the decision about it was under way: it does not begin.
    pub(crate) barred: bool,
    /// Orders to shed streams that are under way, and whether each is about all of them.
    pub(crate) sheds: Vec<(Rc<OnceCell<Shedding>>, bool)>,
}

impl Order {
    /// Whether it ends all connections of the subject or of the token of these wishes.
    fn is_about(&self, wishes: &Wishes) -> bool {
        match self {
            Order::DisconnectSubject(subject) => wishes.subject.as_ref() == Some(subject),
            Order::DisconnectToken(token) => wishes.token.as_ref() == Some(token),
            Order::Shed(share, ..) => *share == Share::ALL,
            Order::Disconnect(_) | Order::DisconnectTopic(_) | Order::ChangeTopics(..) => false,
        }
    }
}

impl ToldToEnd {
    fn now(&mut self) {
        (self.must, self.may) = (true, true);
    }

    /// Whether an order may end it.
    pub(crate) fn may_end(&self) -> bool {
        self.may || !self.sheds.is_empty()
    }
}

/// Orders that a shard was given and has not carried out as far as its network knows, each with the
/// connections that it is about although they have not begun: the decision about them came before the order.
/// And what came of the others.
#[derive(Default)]
pub(crate) struct Orders {
    given: std::collections::VecDeque<(Order, Vec<usize>)>,
    carried_out: u64,
    /// Connections whose topics were changed in this tick.
    changed: Vec<usize>,
    /// Orders about subjects and tokens that were carried out in this tick.
    ended: Vec<Order>,
    /// Changes of topics that must have been told, and changes in whose tick the connection ended, which may
    /// have been.
    changes: u64,
    doubtful_changes: u64,
}

impl Net {
    /// The shard was given an order.
    fn order(&mut self, order: Order) {
        let is_meant = |it: &Connection| {
            let request = &it.verifier.request;
            match &order {
                Order::DisconnectSubject(_) | Order::DisconnectToken(_) | Order::Shed(..) => {
                    order.is_about(&request.wishes)
                }
                // One that waits for a number begins after the order. It may wait although the number is
                // released by now.
                Order::DisconnectTopic(topic) => {
                    let waits_for_store =
                        self.shared.log.borrow().has_disk() && request.resume == Resume::Earliest;
                    let may_wait = waits_for_store || matches!(request.resume, Resume::After(_));
                    names(&request.interest, topic) && !may_wait
                }
                Order::Disconnect(_) | Order::ChangeTopics(..) => false,
            }
        };
        let begins = |it: &Connection| it.may_be_undecided() && it.is_to_be_subscribed() && is_meant(it);
        for it in self.connections.iter_mut() {
            let is_undecided = it.may_be_undecided() && !it.is_to_be_subscribed();
            it.told.barred |= is_undecided && order.is_about(&it.verifier.request.wishes);
        }
        let meant = (0..self.connections.len()).filter(|&index| begins(&self.connections[index])).collect();
        self.orders.given.push_back((order, meant));
    }

    /// Notes which orders the shard has carried out. This comes before anything else is sent or published.
    pub(crate) fn note_orders(&mut self) {
        let Some(hub) = self.shared.hub.borrow().clone() else { return };
        let carried_out = sim::orders(&hub, self.shard).carried_out;
        while self.orders.carried_out < carried_out {
            self.orders.carried_out += 1;
            let (order, meant) = self.orders.given.pop_front().expect("an order that was given");
            for index in meant {
                let it = &mut self.connections[index];
                match &order {
                    _ if it.is_live() => {}
                    Order::Shed(_, _, shedding) => it.told.sheds.push((Rc::clone(shedding), true)),
                    _ => it.told.now(),
                }
                self.shared.happened(Occurrence::OrderBehindDecision);
            }
            self.carried_out(order);
        }
    }

    fn carried_out(&mut self, order: Order) {
        trace!(self.shared, "    shard {}: {order:?}", self.shard);
        match &order {
            Order::Disconnect(id) => {
                if let Some(&index) = self.ids.get(id) {
                    self.connections[index].told.now();
                }
            }
            Order::DisconnectSubject(_) | Order::DisconnectToken(_) => {
                let its = |it: &&mut Connection| it.is_live() && order.is_about(&it.verifier.request.wishes);
                self.connections.iter_mut().filter(its).for_each(|it| it.told.now());
                self.orders.ended.push(order);
            }
            Order::Shed(share, _, shedding) => {
                let is_all = *share == Share::ALL;
                for it in self.connections.iter_mut().filter(|it| it.is_live()) {
                    it.told.sheds.push((Rc::clone(shedding), is_all));
                }
                if is_all {
                    self.orders.ended.push(order);
                }
            }
            Order::DisconnectTopic(topic) => {
                let reads =
                    |it: &&mut Connection| it.is_live() && names(it.verifier.subscription.interest(), topic);
                for it in self.connections.iter_mut().filter(reads) {
                    it.told.now();
                    it.told.topic = true;
                }
            }
            Order::ChangeTopics(id, topics, patterns) => {
                let Some(&index) = self.ids.get(id) else { return };
                let it = &self.connections[index];
                if it.told.topic {
                    self.shared.happened(Occurrence::ChangedTooLate);
                } else if it.is_live() {
                    self.change_topics(index, topics.clone(), patterns);
                }
            }
        }
    }

    fn change_topics(&mut self, index: usize, mut topics: Vec<Topic>, patterns: &[Pattern]) {
        topics.sort_unstable();
        topics.dedup();
        let newest = self.shared.log.borrow().newest();
        let it = &mut self.connections[index];
        let begun = match it.verifier.begun.as_ref().map(|begun| begun.kind) {
            Some(PieceKind::Frame(seq)) => Some(seq),
            _ => None,
        };
        it.verifier.change_topics(&topics, patterns, &self.shared.log.borrow(), begun);
        let behind = it.verifier.misses_until(newest, &self.shared);
        it.life.topics.push((topics, patterns.to_vec()));
        it.changed_at = Some(self.shared.now.get());
        self.shared.happened(Occurrence::TopicsChanged);
        if behind {
            self.shared.happened(Occurrence::ChangedBehind);
        }
        if it.verifier.subscription.changes() > 1 {
            self.shared.happened(Occurrence::ChangedAgain);
        }
        if begun.is_some() {
            self.shared.happened(Occurrence::ChangedInEvent);
        }
        self.orders.changed.push(index);
    }

    /// What orders have done in a tick shows at its end.
    pub(crate) fn count_changes(&mut self) {
        self.note_orders();
        for index in std::mem::take(&mut self.orders.changed) {
            // In the tick of its end, a stream may have ended before its change.
            match self.connections[index].closed {
                true => self.orders.doubtful_changes += 1,
                false => self.orders.changes += 1,
            }
        }
    }

    /// A shard has nothing more to do: what was to end has ended.
    pub(crate) fn check_told(&self) {
        for it in self.connections.iter().filter(|it| it.is_live()) {
            assert!(!it.told.must, "client {} was disconnected and stays", it.client);
        }
    }

    /// A tick of the shard begins.
    pub(crate) fn begin_orders(&mut self) {
        self.orders.ended.clear();
        for it in self.connections.iter_mut().filter(|it| !it.told.sheds.is_empty()) {
            let (client, is_live) = (it.client, it.is_live());
            it.told.sheds.retain(|(shedding, is_all)| {
                let is_done = shedding.get().is_none_or(Shedding::is_done);
                assert!(
                    !is_done || !is_all || !is_live,
                    "client {client} stays, and all streams were to end"
                );
                !is_done
            });
        }
    }

    /// Whether the shard has carried out all orders.
    pub(crate) fn knows_all_orders(&self) -> bool {
        self.orders.given.is_empty()
    }

    /// Changes of topics that must have been told, and those that may have been.
    pub(crate) fn changes(&self) -> (u64, u64) {
        (self.orders.changes, self.orders.doubtful_changes)
    }

    /// Whether a connection that waited for a number may have been ended in this tick, because of its
    /// subject or its token.
    pub(crate) fn is_subject_ended(&self, index: usize) -> bool {
        let wishes = &self.connections[index].verifier.request.wishes;
        self.orders.ended.iter().any(|order| order.is_about(wishes))
    }
}

/// Whether a topic's name, or a pattern's text, is this.
fn names(interest: &Interest, name: &Topic) -> bool {
    let is_text = |pattern: &Pattern| pattern.as_str() == name.as_str();
    interest.topics.contains(name) || interest.patterns.iter().any(is_text)
}

impl World {
    /// Some connection is to end, or to have other topics.
    pub(crate) fn order_some(&mut self) {
        match self.shared.below(20) {
            0..12 => self.change_some(),
            12..14 => self.disconnect_one(),
            14 => {
                let token = some_token(&self.shared);
                self.give(None, |_| Order::DisconnectToken(token.clone()));
            }
            16 => self.shed_some(),
            15 => {
                let subject = some_subject(&self.shared);
                self.give(None, |_| Order::DisconnectSubject(subject.clone()));
            }
            17 => {
                let topic = match self.shared.one_in(3) {
                    // The text of a pattern names the pattern.
                    true => {
                        topic(self.shared.patterns[self.shared.below(self.shared.patterns.len())].as_str())
                    }
                    false => self.shared.topic(),
                };
                self.give(None, |_| Order::DisconnectTopic(topic.clone()));
            }
            18 => self.order_about_one_that_has_left(),
            _ => {
                for _ in 0..self.shared.pick(&[2, 4, 12]) {
                    self.change_some();
                }
            }
        }
    }

    /// The connections of a subject are to end while one of them may wait for a number.
    pub(crate) fn disconnect_some_ahead(&self) {
        if let Some(subject) = self.subject_ahead() {
            self.give(None, |_| Order::DisconnectSubject(subject.clone()));
        }
    }

    /// The subject of a client that may wait for a number.
    fn subject_ahead(&self) -> Option<String> {
        let newest = self.shared.history.borrow().newest();
        let nets = self.shards.iter().map(|shard| shard.net.borrow());
        for net in nets {
            let mut waiting =
                net.connections.iter().filter(|it| !it.closed && !it.is_answered() && !it.ended);
            let its = waiting.find(|it| {
                it.verifier.request.wishes.subject.is_some() && it.verifier.request.is_ahead_of(newest)
            });
            if let Some(it) = its {
                return it.verifier.request.wishes.subject.clone();
            }
        }
        None
    }

    /// Gives an order: to one shard, or to all.
    pub(crate) fn give(&self, shard: Option<usize>, order: impl Fn(usize) -> Order) {
        let hub = self.shared.hub();
        let given = || (0..self.shards.len()).map(|shard| sim::orders(&hub, shard).given).collect::<Vec<_>>();
        let before = given();
        let said = match order(0) {
            Order::Disconnect(id) => hub.disconnect(id),
            Order::DisconnectSubject(subject) => hub.disconnect_subject(&subject),
            Order::DisconnectToken(token) => hub.disconnect_token(&token),
            Order::DisconnectTopic(topic) => hub.disconnect_topic(&topic),
            Order::Shed(share, window, shedding) => {
                hub.shed(share, window).map(|given| shedding.set(given).expect("it is given once"))
            }
            Order::ChangeTopics(id, topics, patterns) if patterns.is_empty() => hub.change_topics(id, topics),
            Order::ChangeTopics(id, topics, patterns) => hub.change_selectors(id, topics, patterns),
        };
        trace!(self.shared, "{:?}: {said:?}", order(0));
        let mut count = 0;
        for (index, (before, after)) in before.into_iter().zip(given()).enumerate() {
            if after > before {
                assert!(
                    shard.is_none_or(|shard| shard == index) && after == before + 1,
                    "the shard that is told"
                );
                self.shards[index].net.borrow_mut().order(order(index));
                count += 1;
            }
        }
        let wanted = if shard.is_some() { 1 } else { self.shards.len() };
        match said {
            Ok(()) => assert_eq!(count, wanted, "an order that was given"),
            Err(ConnectionError::Busy) => {
                assert!(count < wanted, "busy, and every shard has got it");
                self.shared.happened(Occurrence::OrderBusy);
            }
            Err(error) => panic!("an order was refused: {error}"),
        }
    }

    /// A connection that has a stream: its shard, its index and its name.
    fn some_stream(&self) -> Option<(usize, usize, ConnectionId)> {
        let number = self.some_client()?;
        let at = self.clients[number].connection.as_ref()?;
        let net = self.shards[at.shard].net.borrow();
        let it = net.connection(at.index);
        let id = it.id.filter(|_| it.is_live())?;
        Some((at.shard, at.index, id))
    }

    /// A share of the streams of all shards is to end, or all of them.
    fn shed_some(&self) {
        let percent = self.shared.pick(&[5.0, 40.0, 100.0]);
        let share = Share::percent(percent).expect("a share");
        let window = self.shared.pick(&[Duration::ZERO, SECOND, 20 * SECOND]);
        self.shared.happened(if share == Share::ALL { Occurrence::ShedAll } else { Occurrence::ShedSome });
        let shedding = Rc::default();
        self.give(None, |_| Order::Shed(share, window, Rc::clone(&shedding)));
    }

    fn disconnect_one(&self) {
        let Some((shard, _, id)) = self.some_stream() else { return };
        self.give(Some(shard), |_| Order::Disconnect(id));
    }

    /// Its slot may be another's by now.
    fn order_about_one_that_has_left(&self) {
        let shard = self.shared.below(self.shards.len());
        let left: Vec<ConnectionId> = {
            let net = self.shards[shard].net.borrow();
            net.connections.iter().filter(|it| it.closed).filter_map(|it| it.id).collect()
        };
        if left.is_empty() {
            return;
        }
        let id = left[left.len() - 1 - self.shared.below(left.len().min(4))];
        self.shared.happened(Occurrence::StaleOrder);
        match self.shared.one_in(2) {
            true => self.give(Some(shard), |_| Order::Disconnect(id)),
            false => {
                let topics = self.shared.some_topics();
                self.give(Some(shard), |_| Order::ChangeTopics(id, topics.clone(), Vec::new()));
            }
        }
    }

    /// A connection gets other topics; most often some of them stay.
    fn change_some(&mut self) {
        let Some((shard, index, id)) = self.some_stream() else { return };
        let none = self.shared.hub().change_topics(id, []);
        assert_eq!(none, Err(ConnectionError::NoTopics));
        let client = self.shards[shard].net.borrow().connection(index).client;
        let (mut topics, mut patterns) = {
            let net = self.shards[shard].net.borrow();
            let interest = net.connection(index).verifier.subscription.interest();
            (interest.topics.clone(), interest.patterns.clone())
        };
        // Where the log may have no room for a pattern, those that it has stay: a change that follows this
        // one before the shard has made it could not have them back.
        match self.shared.below(4) {
            _ if self.shared.may_lack_patterns() => {}
            0 => patterns.clear(),
            1 => patterns = self.shared.some_patterns(),
            _ => {}
        }
        match self.shared.below(4) {
            0 => topics.push(self.shared.topic()),
            1 if topics.len() > 1 => {
                let gone = self.shared.below(topics.len());
                topics.remove(gone);
            }
            2 if !topics.is_empty() => {
                let gone = self.shared.below(topics.len());
                topics[gone] = self.shared.topic();
            }
            _ => topics = self.shared.some_topics(),
        }
        self.give(Some(shard), |_| Order::ChangeTopics(id, topics.clone(), patterns.clone()));
        // Its next request asks for what it asked for before, or for what it has now.
        if self.shared.one_in(2) {
            topics.sort_unstable();
            topics.dedup();
            // An admission takes no more.
            topics.truncate(TOPICS_ASKED - patterns.len());
            let interest = &mut self.clients[client].request.interest;
            (interest.topics, interest.patterns) = (topics, patterns);
        }
    }
}
