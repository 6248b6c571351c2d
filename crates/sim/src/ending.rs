//! How a story ends: everybody reads, and has everything; then all leave, or the engine drains.

use std::time::Duration;

use fanfare::Farewell;
use fanfare::sim;

use crate::client::all_topics;
use crate::shared::tell;
use crate::tally::Thing;
use crate::world::{SECOND, Seat, World};

/// How long a refused client may take to read, as the engine has it.
const LINGER: Duration = Duration::from_secs(2);

/// How long a drain may take at most, beyond its window.
const SLACK: Duration = Duration::from_millis(500);

impl World {
    /// The world becomes kind, and all who are there read everything. Then each has everything, nothing is kept for
    /// anybody, and what is published now comes at once.
    pub(crate) fn settle(&mut self) {
        tell!(self.shared, "the world becomes kind");
        self.shared.hostile.set(false);
        self.all_read();
        self.pass(3 * SECOND);
        for topic in all_topics() {
            let published = self.shared.publish_to(&topic, 10) || self.shared.setting.limits.event_bytes < 10;
            if !published {
                // The mailbox was full a moment ago; what is in it is delivered in no time.
                self.pass(SECOND / 100);
                assert!(self.shared.publish_to(&topic, 10), "busy though nothing is left to do");
            }
        }
        // No timer must be needed for it: everybody was woken.
        self.pass(Duration::ZERO);
        self.check_settled();
        let turns = |world: &World| world.seats.iter().map(|seat| seat.turns).max().unwrap_or_default();
        let before = turns(self);
        self.pass(10 * SECOND);
        // Heartbeats, laggards' checks, and timers of what the story has left behind.
        let beats = 16 / self.shared.setting.limits.heartbeat.as_secs();
        let wanted = 10 * (beats + 8) + 500;
        assert!(turns(self) - before < wanted, "{} turns in ten idle seconds", turns(self) - before);
    }

    /// Every request goes out, every socket takes everything, every notification comes.
    fn all_read(&mut self) {
        while self
            .clients
            .iter()
            .any(|client| client.link.as_ref().is_some_and(|link| !link.request.is_empty()))
        {
            let before = self.unsent();
            self.send_requests(1);
            if self.unsent() == before {
                break;
            }
        }
        for number in 0..self.clients.len() {
            let client = &mut self.clients[number];
            let Some(link) = &client.link else { continue };
            client.is_fast = true;
            self.seats[link.shard].net.borrow_mut().open(link.wire);
        }
        for seat in &self.seats {
            seat.net.borrow_mut().stir(true);
        }
        for number in 0..self.clients.len() {
            self.read(number, usize::MAX);
        }
    }

    fn unsent(&self) -> usize {
        self.clients.iter().filter_map(|client| Some(client.link.as_ref()?.request.len())).sum()
    }

    fn check_settled(&mut self) {
        let newest = self.shared.history.borrow().newest();
        for (index, seat) in self.seats.iter().enumerate() {
            let look = seat.shard.look();
            assert_eq!(look.head, newest, "shard {index} sleeps over its mail");
            assert!(
                look.counts.laggards == 0 && !look.sweeping && look.resuming == 0,
                "shard {index} is not done"
            );
            assert!(!seat.net.borrow().has_backlog(), "shard {index} accepts nobody any more");
        }
        for client in self.clients.iter().filter(|client| client.is_subscriber()) {
            let Some(link) = &client.link else { continue };
            let net = self.seats[link.shard].net.borrow();
            let wire = net.wire(link.wire);
            if wire.ended || wire.finished {
                continue;
            }
            assert!(link.began.is_some(), "client {} waits for an answer", client.number);
            if link.is_streaming() {
                assert!(
                    !client.misses(self.stand(link.shard), &self.shared),
                    "client {} misses events",
                    client.number
                );
                assert!(!link.stream.is_cut(), "client {} has half of something", client.number);
            }
        }
        self.take_inspections();
        assert!(self.inspections.is_empty(), "an inspection without an answer");
        let hub = self.shared.hub().counts();
        let sum = |count: fn(&fanfare::Counts) -> u64| -> u64 {
            self.seats.iter().map(|seat| count(&seat.shard.counts())).sum()
        };
        assert_eq!(hub.connections, sum(|counts| counts.connections));
        assert_eq!((hub.deliveries, hub.events), (sum(|counts| counts.deliveries), newest));
    }

    /// All leave; then nothing of them is left, and the shards sleep for ever.
    pub(crate) fn all_leave(&mut self) {
        for number in 0..self.clients.len() {
            let reset = self.shared.one_in(2);
            self.leave(number, reset);
        }
        let limits = self.shared.setting.limits.clone();
        self.pass(limits.head_time + LINGER + SECOND);
        self.check_all_closed();
        self.pass(limits.log.retention.age + 2 * SECOND);
        let now = self.shared.now.get();
        for seat in &mut self.seats {
            let look = seat.shard.look();
            let counts = look.counts;
            assert_eq!((counts.connections, counts.pending, counts.audiences), (0, 0, 0), "somebody is left");
            assert_eq!((counts.log_frames, counts.log_bytes), (0, 0), "something is retained for ever");
            assert_eq!((look.topics, look.topics_read), (0, 0), "a topic is known for ever");
            assert_eq!(look.own_ids, 0, "an id is known for ever");
            let waiting = (look.resuming, look.laggards_in_line, look.deadlines);
            assert_eq!(waiting, (0, 0, 0), "somebody who has left is waited for");
            assert_eq!(seat.shard.timeout(now), None, "nothing is left to wake up for");
        }
    }

    fn check_all_closed(&self) {
        for seat in &self.seats {
            let net = seat.net.borrow();
            assert!(net.adopting.is_empty() || seat.shard.is_stopped(), "an adopted socket did not arrive");
            for wire in net.wires().iter().filter(|wire| wire.has_arrived()) {
                assert!(wire.closed, "a socket of client {} is left open", wire.client);
            }
        }
    }

    /// The engine drains, and ends every stream in time.
    pub(crate) fn drain(&mut self) {
        let window = Duration::from_millis(self.shared.pick(&[300, 600, 1_000, 2_000, 0]));
        self.drain_within(window);
    }

    pub(crate) fn drain_within(&mut self, window: Duration) {
        let looks: Vec<_> = self.seats.iter().map(|seat| seat.shard.look()).collect();
        let farewells = |world: &World, reason| -> u64 {
            world.seats.iter().map(|seat| seat.shard.counts().farewell(reason)).sum()
        };
        let cut_before = farewells(self, Farewell::Cut);
        self.shared.happened(Thing::Drain);
        if looks.iter().any(|look| look.counts.laggards > 0) {
            self.shared.happened(Thing::DrainWithLaggards);
        }
        tell!(self.shared, "the engine drains within {window:?}");
        // In a world that stays hostile nobody can be called healthy; in a kind one those are served to the end.
        let kind = !self.shared.mishap(2);
        if kind {
            self.shared.hostile.set(false);
            for seat in &self.seats {
                seat.net.borrow_mut().stir(true);
            }
        }
        // Something is always under way.
        for _ in 0..self.shared.pick(&[10, 2]) {
            self.shared.publish_some(", before the end");
        }
        self.shared.over.set(true);
        self.shared.cuts_from.set(self.shared.now.get() + window);
        sim::drain(self.shared.hub(), window);
        self.shared.publish_some(", too late");
        let healthy: Vec<usize> = if kind { self.healthy().collect() } else { Vec::new() };
        let history_end = self.shared.history.borrow().newest();
        if self.shared.one_in(2) {
            self.new_comers();
        }
        let in_time = self.drain_in_steps(window, if kind { SLACK } else { 4 * SLACK });
        for (index, seat) in self.seats.iter().enumerate() {
            assert!(seat.shard.is_stopped(), "shard {index} does not come to its end");
        }
        self.check_all_closed();
        let any_blocked =
            self.seats.iter().any(|seat| seat.net.borrow().wires().iter().any(|wire| wire.ever_blocked));
        let (drained, cut) =
            (farewells(self, Farewell::Drained), farewells(self, Farewell::Cut) - cut_before);
        assert!(any_blocked || !kind || !in_time || cut == 0, "cut without a reason");
        // A stream at its age ends whatever is published meanwhile.
        if self.shared.setting.limits.connection_age.is_none() {
            let (missing, served): (Vec<usize>, Vec<usize>) =
                healthy.iter().partition(|number| self.check_drained(**number, in_time, history_end));
            assert!(missing.len() as u64 <= cut, "{missing:?} miss events and {cut} are counted as cut");
            // Who may have skipped something may have been cut as well.
            let exact =
                |number: &&usize| self.clients[**number].last_end.is_some_and(|end| end.seen <= history_end);
            let served = served.iter().filter(exact).count() as u64;
            assert!(served <= drained, "{served} were sent everything and {drained} are counted");
        }
        assert!(self.shared.history.borrow().newest() == history_end, "published after the end");
    }

    /// Lets a drain run to its end; each round of turns takes a while. Says whether all that was published before
    /// could be sent within the window.
    fn drain_in_steps(&mut self, window: Duration, slack: Duration) -> bool {
        let began_at = self.shared.now.get();
        let mut in_time = !window.is_zero();
        let step = Duration::from_millis(self.shared.pick(&[60, 20, 1, 100]));
        // A shard takes the news with the rest of its mail, which waits while a sweep is far behind.
        let mut last_began_at = began_at;
        while self.shared.now.get() < last_began_at + window + slack {
            self.work_for(step);
            let has_begun = |seat: &Seat| seat.shard.look().draining;
            if !self.seats.iter().all(has_begun) {
                last_began_at = self.shared.now.get();
                // Hundreds of events before it, one send at a time: that takes minutes, not hours.
                assert!(last_began_at < began_at + 3600 * SECOND, "a shard does not begin to drain");
            }
            // Requests that were begun before go on.
            self.send_requests(4);
            let over = self.shared.now.get() >= began_at + window;
            in_time &= !over || self.seats.iter().all(|seat| !seat.shard.look().sweeping);
        }
        in_time
    }

    /// Subscribers that are up to date, or will be as soon as they are served.
    fn healthy(&self) -> impl Iterator<Item = usize> {
        let lagging: Vec<Vec<_>> =
            self.seats.iter().map(|seat| seat.shard.laggards().map(|(number, _)| number).collect()).collect();
        self.clients.iter().filter_map(move |client| {
            let link = client.link.as_ref()?;
            let net = self.seats[link.shard].net.borrow();
            let wire = net.wire(link.wire);
            let lags = wire.blocked || lagging[link.shard].contains(&wire.number);
            let healthy = link.is_streaming() && !lags && !wire.ended && !wire.closed && client.is_fast;
            healthy.then_some(client.number)
        })
    }

    /// Says whether something is missing.
    fn check_drained(&self, number: usize, in_time: bool, newest: u64) -> bool {
        let Some(ended) = &self.clients[number].last_end else { panic!("client {number} was not ended") };
        assert!(!ended.is_cut, "client {number} was cut in the end");
        let misses = self.shared.history.borrow().misses(ended.seen, newest, &self.clients[number].interest);
        assert!(!(in_time && misses), "client {number} was cut off before its events");
        misses
    }

    /// Some come when all is over.
    fn new_comers(&mut self) {
        for number in 0..self.clients.len() {
            if self.clients[number].link.is_none() && self.clients[number].returns {
                self.begin(number);
            }
        }
    }
}
