//! How a story ends: every client reads, and has everything; then all leave, or the engine drains.

use std::collections::BTreeMap;
use std::time::Duration;

use fanfare::{CloseReason, ConnectionError, ConnectionFilter, LaggardPolicy, Topic, TopicJoins, sim};

use crate::desk::note_drain;
use crate::network::Net;
use crate::tally::Occurrence;
use crate::trace::trace;
use crate::world::{SECOND, World, WorldShard};

/// How long a refused client may take to read, as the engine has it.
const LINGER: Duration = Duration::from_secs(2);

/// How long a drain may take at most, beyond its window.
const SLACK: Duration = Duration::from_millis(500);

/// What the tables of an empty log take at most, beside what it knows of forgotten topics.
const EMPTY_LOG: usize = 6_000;

impl World {
    /// The world becomes kind, and all clients that are there read everything. Then each has everything,
    /// nothing is kept for any of them, and what is published now comes at once.
    pub(crate) fn let_all_catch_up(&mut self) {
        trace!(self.shared, "the world becomes kind");
        self.shared.hostile.set(false);
        if let Some(disk) = self.shared.disk() {
            disk.heal();
        }
        if self.shared.one_in(2) {
            self.shared.drop_all_unreleased();
        }
        self.shared.release_all(", in the end");
        assert_eq!(sim::reserved_events(&self.shared.hub()), (0, 0), "room is reserved for no batch");
        self.all_read();
        self.pass(SECOND / 2);
        self.decide_all();
        self.pass(3 * SECOND);
        for topic in self.shared.topics.clone() {
            let published = self.shared.publish_to(&topic, 10) || self.shared.setting.limits.event_bytes < 10;
            if !published {
                // The mailbox was full a moment ago; what is in it is delivered in no time.
                self.pass(SECOND / 100);
                assert!(self.shared.publish_to(&topic, 10), "busy though nothing is left to do");
            }
        }
        // No timer must be needed for it: every shard was woken.
        self.pass(Duration::ZERO);
        self.check_caught_up();
        self.check_inspection();
        self.check_joins();
        self.shared.is_quiet.set(true);
        let ticks = |world: &World| world.shards.iter().map(|shard| shard.ticks).max().unwrap_or_default();
        let before = ticks(self);
        self.pass(10 * SECOND);
        self.shared.is_quiet.set(false);
        // Heartbeats, laggards' checks, and timers of what the story has left behind.
        let limits = &self.shared.setting.limits;
        let beats = 16 / limits.heartbeat.min(limits.heartbeat_min).as_secs();
        let streams = self.clients.iter().filter(|client| client.connection.is_some()).count() as u64;
        // A budget of one heartbeat a tick, and a second each.
        let wanted = 10 * (beats + 8) + 500 + 20 * streams;
        assert!(ticks(self) - before < wanted, "{} ticks in ten idle seconds", ticks(self) - before);
    }

    /// What was told of connections is all that has happened to them.
    pub(crate) fn end(&mut self) {
        self.read_life_cycle();
        self.check_members();
    }

    /// Every request goes out, every socket takes everything, every notification comes.
    fn all_read(&mut self) {
        let is_sending = |world: &World| {
            let mut connections = world.clients.iter().filter_map(|client| client.connection.as_ref());
            connections.any(|at| !at.unsent.is_empty())
        };
        while is_sending(self) {
            let before = self.unsent();
            self.send_requests(1);
            if self.unsent() == before {
                break;
            }
        }
        for number in 0..self.clients.len() {
            let client = &mut self.clients[number];
            let Some(at) = &client.connection else { continue };
            client.is_fast = true;
            self.shards[at.shard].net.borrow_mut().open(at.index);
        }
        for shard in &self.shards {
            shard.net.borrow_mut().notify_late(true);
        }
        for number in 0..self.clients.len() {
            self.read(number, usize::MAX);
        }
    }

    fn unsent(&self) -> usize {
        self.clients.iter().filter_map(|client| Some(client.connection.as_ref()?.unsent.len())).sum()
    }

    fn check_caught_up(&mut self) {
        for (index, shard) in self.shards.iter().enumerate() {
            let snapshot = shard.shard.snapshot();
            assert_eq!(self.mail_waiting(index), 0, "shard {index} sleeps over its mail");
            let is_done = snapshot.counts.laggards == 0 && !snapshot.is_sweeping && snapshot.resuming == 0;
            assert!(is_done, "shard {index} is not done");
            assert_eq!(snapshot.memory_bytes, 0, "shard {index} keeps events");
            assert!(!shard.net.borrow().can_accept(), "shard {index} accepts no more");
        }
        for client in self.clients.iter().filter(|client| client.is_subscriber()) {
            let Some(at) = &client.connection else { continue };
            let net = self.shards[at.shard].net.borrow();
            let it = net.connection(at.index);
            if it.ended || it.finished {
                continue;
            }
            assert!(it.is_answered(), "client {} waits for an answer", client.number);
            if it.is_live() {
                assert!(!self.misses(client), "client {} misses events", client.number);
                assert!(!it.verifier.response.is_cut(), "client {} has half of something", client.number);
            }
        }
        assert_eq!(self.undecided(), 0, "a request waits for a decision");
        for (index, shard) in self.shards.iter().enumerate() {
            assert_eq!(shard.shard.pages(), 0, "shard {index} keeps places for pages");
        }
        self.take_inspections();
        assert!(self.inspections.is_empty(), "an inspection without an answer");
        assert!(self.listing.is_none(), "a question about connections without an answer");
        let hub = self.shared.hub().counts();
        let sum = |count: fn(&fanfare::Counts) -> u64| -> u64 {
            self.shards.iter().map(|shard| count(&shard.shard.counts())).sum()
        };
        assert_eq!(hub.connections, sum(|counts| counts.connections));
        assert_eq!(
            (hub.deliveries, hub.events),
            (sum(|counts| counts.deliveries), sum(|counts| counts.events))
        );
    }

    /// The streams of each topic are those that have begun to read it, less those that have ended.
    fn check_joins(&mut self) {
        if !self.shared.setting.joins {
            return;
        }
        // The shards hand over what they have noted. What ends meanwhile is noted anew.
        let live = |net: &Net| -> Vec<bool> { net.connections.iter().map(|it| it.is_live()).collect() };
        let streams_of = |world: &World| -> Vec<Vec<bool>> {
            world.shards.iter().map(|shard| live(&shard.net.borrow())).collect()
        };
        loop {
            let before = streams_of(self);
            self.pass(SECOND / 4);
            if streams_of(self) == before {
                break;
            }
        }
        // In parts, of which no join is lost.
        while let most = 1 + self.shared.below(3)
            && let taken = self.shared.hub().take_joins(most)
            && !taken.is_empty()
        {
            assert!(taken.len() <= most);
            for TopicJoins { topic, joined, left, .. } in taken {
                let sum = self.joins.entry(topic).or_default();
                (sum[0], sum[1]) = (sum[0] + joined, sum[1] + left);
            }
        }
        let mut streams: BTreeMap<Topic, u64> = BTreeMap::new();
        for shard in &self.shards {
            let net = shard.net.borrow();
            for it in net.connections.iter().filter(|it| it.is_live()) {
                for topic in &it.verifier.subscription.interest().topics {
                    *streams.entry(topic.clone()).or_default() += 1;
                }
            }
        }
        let joined = self.joins.iter().map(|(topic, [joined, left])| (topic.clone(), joined - left));
        let joined: BTreeMap<Topic, u64> = joined.filter(|(_, streams)| *streams > 0).collect();
        assert_eq!(joined, streams, "streams that have joined, less those that have left");
        assert_eq!(self.shared.hub().counts().joins_missed, 0);
    }

    /// The counts of each topic are those of its streams, and the list of connections has each of them.
    fn check_inspection(&mut self) {
        for shard in 0..self.shards.len() {
            self.list(shard, ConnectionFilter::All);
            self.pass(Duration::ZERO);
            self.take_listing();
            assert!(self.listing.is_none(), "a question about connections without an answer");
        }
        let answers = sim::ask(&self.shared.hub(), &self.shared.topics);
        self.pass(Duration::ZERO);
        for (index, (answer, shard)) in answers.iter().zip(&self.shards).enumerate() {
            let counts = answer.try_recv().expect("an answer");
            let net = shard.net.borrow();
            for (topic, (subscribers, laggards)) in self.shared.topics.iter().zip(counts) {
                let reads = |it: &&crate::connection::Connection| {
                    it.is_live() && it.verifier.subscription.interest().topics.contains(topic)
                };
                let streams = net.connections.iter().filter(reads).count();
                assert_eq!((subscribers, laggards), (streams, 0), "streams of {topic} on shard {index}");
            }
        }
    }

    /// All leave; then nothing of them is left, and the shards sleep for ever.
    pub(crate) fn all_leave(&mut self) {
        for number in 0..self.clients.len() {
            let reset = self.shared.one_in(2);
            self.leave(number, reset);
        }
        let limits = self.shared.setting.limits.clone();
        self.decide_some();
        self.pass(limits.head_time + limits.decision_time + LINGER + SECOND);
        self.check_all_closed();
        let longest = self.shared.log.borrow().longest_age();
        self.pass(longest + 2 * SECOND);
        let log = sim::log_snapshot(&self.shared.hub());
        assert_eq!((log.frames, log.topics, log.readers), (0, 0, 0), "something is retained for ever");
        let forgotten = limits.log.total_bytes / 16;
        assert!(log.bytes <= forgotten + EMPTY_LOG, "{} bytes are retained for ever", log.bytes);
        self.pass(self.shared.setting.presence_linger);
        self.check_members();
        assert!(self.announced.is_empty(), "a member is announced and has left");
        let now = self.shared.now.get();
        for shard in &mut self.shards {
            let snapshot = shard.shard.snapshot();
            let counts = snapshot.counts;
            assert_eq!((counts.connections, counts.pending, counts.audiences), (0, 0, 0), "streams are left");
            assert_eq!(
                (snapshot.resuming, snapshot.deadlines),
                (0, 0),
                "a client that has left is waited for"
            );
            assert_eq!(snapshot.memory_bytes, 0, "events are kept for no stream");
            assert_eq!(shard.shard.timeout(now), None, "nothing is left to wake up for");
        }
    }

    fn check_all_closed(&self) {
        for shard in &self.shards {
            let net = shard.net.borrow();
            assert!(net.adopting.is_empty() || shard.shard.is_stopped(), "an adopted socket did not arrive");
            for it in net.connections.iter().filter(|it| it.has_arrived()) {
                assert!(it.closed, "a socket of client {} is left open", it.client);
            }
        }
    }

    /// The engine drains, and ends every stream in time.
    pub(crate) fn drain(&mut self) {
        let window = Duration::from_millis(self.shared.pick(&[300, 600, 1_000, 2_000, 0]));
        self.drain_within(window);
    }

    pub(crate) fn drain_within(&mut self, window: Duration) {
        let closed_for = |world: &World, reason| -> u64 {
            world.shards.iter().map(|shard| shard.shard.counts().closed_for(reason)).sum()
        };
        let cut_before = closed_for(self, CloseReason::Cut);
        let drained_before = closed_for(self, CloseReason::Drained);
        self.shared.happened(Occurrence::Drain);
        note_drain(&self.shared, self.undecided());
        if self.shards.iter().any(|shard| shard.shard.counts().laggards > 0) {
            self.shared.happened(Occurrence::DrainWithLaggards);
        }
        trace!(self.shared, "the engine drains within {window:?}");
        // In a world that stays hostile no client can be called healthy; in a kind one the healthy ones are
        // served to the end.
        let kind = !self.shared.mishap(2);
        if kind {
            self.shared.hostile.set(false);
            for shard in &self.shards {
                shard.net.borrow_mut().notify_late(true);
            }
        }
        // Something is always under way.
        for _ in 0..self.shared.pick(&[10, 2]) {
            self.shared.publish_some(", before the end");
        }
        self.begin_drain(window);
        self.shared.publish_some(", too late");
        let healthy: Vec<usize> = if kind { self.healthy().collect() } else { Vec::new() };
        let history_end = self.shared.history.borrow().newest();
        if self.shared.one_in(2) {
            self.newcomers();
        }
        self.decide_some();
        let (in_time, replays) = self.drain_in_steps(window, if kind { SLACK } else { 4 * SLACK });
        for (index, shard) in self.shards.iter().enumerate() {
            assert!(shard.shard.is_stopped(), "shard {index} does not come to its end");
        }
        self.check_all_closed();
        let any_blocked =
            self.shards.iter().any(|shard| shard.net.borrow().connections.iter().any(|it| it.ever_blocked));
        let drained = closed_for(self, CloseReason::Drained) - drained_before;
        let cut = closed_for(self, CloseReason::Cut) - cut_before;
        // One that resumed in the last moment may have too much to replay for the ticks of the window.
        assert!(any_blocked || !kind || !in_time || replays || cut == 0, "cut without a reason");
        // A stream at its age ends whatever is published meanwhile.
        if self.shared.setting.limits.connection_age.is_none() {
            let (missing, served): (Vec<usize>, Vec<usize>) =
                healthy.iter().partition(|number| self.check_drained(**number, in_time));
            assert!(missing.len() as u64 <= cut, "{missing:?} miss events and {cut} are counted as cut");
            // Where the log has dropped something in silence, a stream may have been behind that was sent all
            // that is left.
            let skips = self.shared.setting.limits.laggard_policy == LaggardPolicy::Skip;
            let is_told = |number: &&usize| !skips || self.clients[**number].request.gap_events;
            let served = served.iter().filter(is_told).count() as u64;
            assert!(served <= drained, "{served} were sent everything and {drained} are counted");
        }
        assert!(self.shared.history.borrow().newest() == history_end, "published after the end");
        assert_eq!(sim::reserved_events(&self.shared.hub()), (0, 0), "room is reserved for no batch");
    }

    /// The drain begins. Batches that have their numbers are released before, or never, or too late.
    pub(crate) fn begin_drain(&mut self, window: Duration) {
        match self.shared.below(3) {
            0 => self.shared.drop_all_unreleased(),
            1 => self.shared.release_all(", before the end"),
            _ => self.shared.observe_log(),
        }
        self.shared.is_over.set(true);
        self.shared.cuts_from.set(self.shared.now.get() + window);
        sim::drain(&self.shared.hub(), window);
        let late = self.shared.hub().disconnect_subject("x");
        assert_eq!(late, Err(ConnectionError::Stopped), "an order to an engine that drains");
        self.shared.stop_stored();
        self.shared.release_too_late();
    }

    /// Lets a drain run to its end; each round of ticks takes a while. Says whether all that was published
    /// before could be sent within the window, and whether a stream was still replaying shortly before its
    /// end.
    fn drain_in_steps(&mut self, window: Duration, slack: Duration) -> (bool, bool) {
        let began_at = self.shared.now.get();
        let (mut in_time, mut replays) = (!window.is_zero(), false);
        let step = Duration::from_millis(self.shared.pick(&[60, 20, 1, 100]));
        let step_time = step.max(Duration::from_millis(10));
        let mut slack = slack;
        // A shard takes the news with the rest of its mail, which waits while a sweep is far behind.
        let mut last_began_at = began_at;
        while self.shared.now.get() < last_began_at + window + slack {
            // So many ticks are needed where a tick ends few streams; those at their age stand in that line
            // more than once. Newcomers are served until it begins.
            let streams = self.shards.iter().map(|shard| shard.shard.counts().connections).max();
            let times = if self.shared.setting.limits.connection_age.is_some() { 8 } else { 2 };
            let endings = self.shared.setting.budgets.endings as u32;
            // A drain checks a part of the table in each tick. The table has at most twice as many slots as
            // there were streams at a time.
            let steps =
                (2 * self.clients.len() + 8).div_ceil(self.shared.setting.budgets.drain_checks) as u32;
            let ticks = times * streams.unwrap_or_default() as u32 / endings + 2 * steps + 2;
            slack = slack.max(ticks * step_time);
            if self.shared.now.get() < began_at + window {
                replays = self.shards.iter().any(|shard| shard.shard.counts().laggards > 0);
            }
            self.work_for(step);
            let has_begun = |shard: &WorldShard| shard.shard.snapshot().is_draining;
            if !self.shards.iter().all(has_begun) {
                last_began_at = self.shared.now.get();
                // Hundreds of events before it, one send at a time: that takes minutes, not hours.
                assert!(last_began_at < began_at + 3600 * SECOND, "a shard does not begin to drain");
            }
            // Requests that were begun before go on.
            self.send_requests(4);
            let over = self.shared.now.get() >= began_at + window;
            in_time &= !over || self.shards.iter().all(|shard| !shard.shard.snapshot().is_sweeping);
        }
        (in_time, replays)
    }

    /// Subscribers that are up to date, or will be as soon as they are served.
    fn healthy(&self) -> impl Iterator<Item = usize> {
        let laggards =
            self.shards.iter().map(|shard| shard.shard.laggards().map(|(number, _)| number).collect());
        let laggards: Vec<Vec<_>> = laggards.collect();
        self.clients.iter().filter_map(move |client| {
            let at = client.connection.as_ref()?;
            let net = self.shards[at.shard].net.borrow();
            let it = net.connection(at.index);
            let lags = it.blocked || laggards[at.shard].contains(&it.socket);
            let stays =
                !it.told.may_end() && net.knows_all_orders() && it.verifier.request.wishes.lifetime.is_none();
            let healthy =
                it.is_live() && it.verifier.has_prelude() && !lags && !it.ended && client.is_fast && stays;
            healthy.then_some(client.number)
        })
    }

    /// Says whether something is missing.
    fn check_drained(&self, number: usize, in_time: bool) -> bool {
        let client = &self.clients[number];
        let Some(end) = &client.last_end else { panic!("client {number} was not ended") };
        assert!(!end.is_cut, "client {number} was cut in the end");
        assert!(!(in_time && end.misses), "client {number} was cut off before its events");
        end.misses
    }

    /// Some come when all is over.
    fn newcomers(&mut self) {
        for number in 0..self.clients.len() {
            if self.clients[number].connection.is_none() && self.clients[number].returns {
                self.begin(number);
            }
        }
    }
}
