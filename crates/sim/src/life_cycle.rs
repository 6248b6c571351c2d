//! Life-cycle events, against what the network knows of each connection: each stream has one beginning, its
//! topics at first and after each change, and one end, with a reason that it has and a cursor that is right.
//! What found no room in the queue is counted.

use std::time::Duration;

use fanfare::{
    CloseReason, Closed, Connected, ConnectionId, LaggardPolicy, LifeCycle, LifeCycleEvent, Missed,
    Subscribed,
};
use fanfare_proto::limits::EXPIRY_SPREAD;

use crate::connection::Connection;
use crate::desk::Place;
use crate::network::Net;
use crate::tally::Occurrence;
use crate::trace::trace;
use crate::world::{SECOND, Tick, World};

/// The reader of life-cycle events, and what it has read.
pub(crate) struct LifeCycleLog {
    events: LifeCycle,
    read: Missed,
    missed: Missed,
    /// Ends by their reasons.
    ends: [u64; CloseReason::ALL.len()],
}

/// A stream's times are tenths of a second, and the time of its end is even.
const UNIT: Duration = Duration::from_millis(200);

impl LifeCycleLog {
    pub(crate) fn new(events: LifeCycle) -> LifeCycleLog {
        LifeCycleLog {
            events,
            read: Missed::default(),
            missed: Missed::default(),
            ends: [0; CloseReason::ALL.len()],
        }
    }

    fn is_lossy(&self) -> bool {
        self.missed != Missed::default()
    }
}

impl World {
    /// Reads the life-cycle events that are there, and compares them and their numbers with what has
    /// happened.
    pub(crate) fn read_life_cycle(&mut self) {
        let Some(mut life) = self.life_cycle.take() else { return };
        while let Ok(Some(event)) = life.events.try_next() {
            self.shared.happened(Occurrence::LifeCycleEvent);
            trace!(self.shared, "    {event:?}");
            match event {
                LifeCycleEvent::Connected(connected) => {
                    life.read.connected += 1;
                    self.check_connected(&connected, &life);
                }
                LifeCycleEvent::Subscribed(subscribed) => {
                    life.read.subscribed += 1;
                    self.check_subscribed(&subscribed, &life);
                }
                LifeCycleEvent::Closed(closed) => {
                    life.read.closed += 1;
                    life.ends[closed.reason.index()] += 1;
                    self.check_end(&closed, &life);
                }
                LifeCycleEvent::Missed(missed) => {
                    assert!(missed != Missed::default(), "no event was missed");
                    life.missed.connected += missed.connected;
                    life.missed.subscribed += missed.subscribed;
                    life.missed.closed += missed.closed;
                    self.shared.happened(Occurrence::LifeCycleMissed);
                }
                other => panic!("{other:?} is no event of this world"),
            }
        }
        self.check_life_cycle_counts(&life);
        self.life_cycle = Some(life);
    }

    /// Every beginning, every change and every end was told, or counted as missed.
    fn check_life_cycle_counts(&self, life: &LifeCycleLog) {
        let counts = || self.shards.iter().map(|shard| shard.shard.counts());
        let begun: u64 = counts().map(|counts| counts.subscribed).sum();
        assert_eq!(life.read.connected + life.missed.connected, begun, "streams that have begun");
        let changes = || self.shards.iter().map(|shard| shard.net.borrow().changes());
        let certain = begun + changes().map(|(certain, _)| certain).sum::<u64>();
        let at_most = certain + changes().map(|(_, doubtful)| doubtful).sum::<u64>();
        let subscribed = life.read.subscribed + life.missed.subscribed;
        let is_right = (certain..=at_most).contains(&subscribed);
        assert!(is_right, "topics were told {subscribed} times, and that is {certain} to {at_most}");
        let ended = |reason| counts().map(|counts| counts.closed_for(reason)).sum::<u64>();
        let all: u64 = CloseReason::ALL.iter().map(|reason| ended(*reason)).sum();
        assert_eq!(life.read.closed + life.missed.closed, all, "streams that have ended");
        for &reason in CloseReason::ALL {
            let told = life.ends[reason.index()];
            let most = ended(reason);
            let is_right = told == most || (life.missed.closed > 0 && told < most);
            assert!(is_right, "{told} ends are told as {}, and {most} were", reason.name());
        }
    }

    /// Does something with a connection that an event names.
    fn with_connection<T>(&self, id: ConnectionId, act: impl FnOnce(Place, &mut Connection) -> T) -> T {
        for (shard, net) in self.shards.iter().map(|shard| &shard.net).enumerate() {
            let net = &mut *net.borrow_mut();
            if let Some(&index) = net.ids.get(&id) {
                return act(Place { shard, index }, &mut net.connections[index]);
            }
        }
        panic!("{id} is no connection");
    }

    fn check_connected(&self, event: &Connected, life: &LifeCycleLog) {
        self.with_connection(event.connection, |place, it| {
            assert!(it.was_stream(), "a connection has begun that is no stream");
            let wishes = &it.verifier.request.wishes;
            let expected = (Some(place.peer(it.client)), wishes.subject.as_deref(), wishes.data);
            assert_eq!((event.peer, event.subject.as_deref(), event.data), expected, "who has connected");
            let is_first = !it.life.connected && it.life.subscribed == 0 && !it.life.closed;
            assert!(
                is_first || (life.is_lossy() && !it.life.connected),
                "the beginning comes once, and first"
            );
            it.life.connected = true;
        });
    }

    fn check_subscribed(&self, event: &Subscribed, life: &LifeCycleLog) {
        self.with_connection(event.connection, |_, it| {
            let is_lossy = life.is_lossy();
            assert!(!it.life.closed, "nothing comes after the end");
            assert!(it.life.connected || is_lossy, "the beginning comes first");
            let number = it.life.subscribed;
            let selectors = (event.topics.clone(), event.patterns.clone());
            let is_right = match is_lossy {
                true => it.life.topics.contains(&selectors),
                false => it.life.topics.get(number) == Some(&selectors),
            };
            assert!(is_right, "{selectors:?} are told as the topics, of {:?}", it.life.topics);
            let gap = it.verifier.beginning.is_some_and(|beginning| beginning.start.gap);
            let may_have = if is_lossy { event.has_gap && gap } else { number == 0 && gap };
            assert_eq!(event.has_gap, may_have, "whether a gap is told with the topics");
            it.life.subscribed += 1;
        });
    }

    fn check_end(&self, event: &Closed, life: &LifeCycleLog) {
        self.with_connection(event.connection, |_, it| {
            assert!(it.life.connected || life.is_lossy(), "the beginning comes first");
            assert!(it.closed && !it.life.closed, "one end, of what has ended");
            it.life.closed = true;
            let wishes = &it.verifier.request.wishes;
            let expected = (wishes.subject.as_deref(), wishes.data);
            assert_eq!((event.subject.as_deref(), event.data), expected, "who has left");
            let reasons = &it.life.reasons;
            assert!(
                reasons.contains(&event.reason),
                "it ended as {:?}, and may have as {reasons:?}",
                event.reason
            );
            let began_at = it.verifier.beginning.map_or(it.closed_at, |beginning| beginning.at);
            let lasted = it.closed_at - began_at;
            assert!(
                lasted.abs_diff(event.lasted) <= UNIT,
                "it lasted {lasted:?}, and not {:?}",
                event.lasted
            );
            assert_eq!(event.sent.epoch, self.shared.history.borrow().epoch, "the log of a cursor");
            it.verifier.judge_given(event.sent.seq, it.ended, &self.shared);
            it.life.topics = Vec::new();
        });
    }

    /// Why a stream that was closed in this tick may have ended.
    pub(crate) fn reasons_of(&self, tick: &Tick, net: &Net, it: &Connection) -> Vec<CloseReason> {
        let skips = self.shared.setting.limits.laggard_policy == LaggardPolicy::Skip;
        CloseReason::ALL
            .iter()
            .copied()
            .filter(|reason| match reason {
                CloseReason::PeerLeft => it.ended,
                // What became of the socket of a client that has left is not known.
                CloseReason::LaggardFull => it.ended || self.may_be_full(net, it),
                CloseReason::LaggardStalled => it.ended || self.has_stalled(it),
                CloseReason::Aged => self.may_be_aged(it),
                CloseReason::Expired => self.may_be_expired(it),
                CloseReason::Disconnected => it.told.may,
                CloseReason::Shed => !it.told.sheds.is_empty(),
                CloseReason::Drained => tick.after.is_draining,
                CloseReason::Cut => {
                    tick.after.is_draining
                        && (it.finished
                            || it.is_short
                            || it.was_begun
                            || it.changed_at.is_some()
                            || skips
                            || it.ended)
                }
                _ => false,
            })
            .collect()
    }

    /// Whether a stream has nearly reached the age at which it ends.
    pub(crate) fn may_be_aged(&self, it: &Connection) -> bool {
        let age = it.verifier.age(self.shared.now.get());
        self.shared.setting.limits.connection_age.is_some_and(|most| age + SECOND / 5 >= most * 8 / 10)
    }

    /// Whether a stream has nearly reached the end of its lifetime.
    pub(crate) fn may_be_expired(&self, it: &Connection) -> bool {
        let age = it.verifier.age(self.shared.now.get());
        it.verifier.request.wishes.lifetime.is_some_and(|lifetime| {
            let early = (lifetime / 20).min(EXPIRY_SPREAD) + self.check_period() + UNIT;
            age + early >= lifetime
        })
    }

    /// The time in which upkeep checks each stream once.
    pub(crate) fn check_period(&self) -> Duration {
        let limits = &self.shared.setting.limits;
        let least = Duration::from_millis(10);
        let heartbeat = (limits.heartbeat / 16).max(least);
        limits.connection_age.map_or(heartbeat, |age| heartbeat.min(age / 20)).max(least)
    }
}
