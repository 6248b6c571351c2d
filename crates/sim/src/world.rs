//! The world around the real hub and the real shards: their turns, and the clients.
//!
//! A shard that sleeps gets no turn before its waker was used, a notification is there, or its time has come: so
//! a wake-up that is lost is found by whoever waits for an event.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use fanfare::sim::{self, Look, SimShard};
use fanfare::{Decision, Epoch, EventType, Farewell, Refusal, RequestHead, Subscribe, TopicCounts};
use fanfare_io::{Clock, Io};

use crate::choices::Choices;
use crate::client::{Client, Moment, Stand};
use crate::network::{Net, Network};
use crate::setting::Setting;
use crate::shared::{Shared, tell};
use crate::tally::Thing;
use crate::trace::Trace;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// A shard that is later than this for its turn is not held to its times.
const LATE: Duration = Duration::from_millis(50);

/// So many turns at once without anything to show for them are a spin.
const IDLE_TURNS: u32 = 300;

pub(crate) struct World {
    pub(crate) shared: Rc<Shared>,
    pub(crate) seats: Vec<Seat>,
    pub(crate) clients: Vec<Client>,
    /// How often a socket was given to `Hub::adopt`: it takes the shards in turn.
    pub(crate) adoptions: usize,
    pub(crate) inspections: Vec<Receiver<Vec<TopicCounts>>>,
    pub(crate) stormed: bool,
}

/// A shard and its network.
pub(crate) struct Seat {
    pub(crate) shard: SimShard<Network>,
    pub(crate) net: Rc<RefCell<Net>>,
    /// When it wants to be woken; `None`: never.
    wakes_at: Option<Duration>,
    woken: bool,
    /// Since when it should have had its turn.
    due_since: Option<Duration>,
    /// When it last had its turn too late.
    pub(crate) late_at: Duration,
    /// When a tick last ended within a sweep.
    pub(crate) swept_at: Duration,
    idle_turns: u32,
    pub(crate) turns: u64,
}

impl World {
    pub(crate) fn new(mut choices: Choices, trace: Trace) -> World {
        let setting = Setting::random(&mut choices);
        World::with(choices, setting, trace)
    }

    pub(crate) fn with(mut choices: Choices, setting: Setting, trace: Trace) -> World {
        Clock::turn_hand(Duration::ZERO);
        let epoch = Epoch::new(choices.below(1 << 40) as u64);
        let seed = choices.below(1 << 40) as u64;
        let shared = Rc::new(Shared::new(choices, setting.clone(), epoch, trace));
        tell!(shared, "{} shards, {:?}, {:?}", setting.shards, setting.limits, setting.budgets);
        let networks: Vec<_> =
            (0..setting.shards).map(|_| Rc::new(RefCell::new(Net::new(Rc::clone(&shared))))).collect();
        let plan = sim::Plan {
            limits: setting.limits,
            budgets: setting.budgets,
            admission: Arc::new(admit),
            hand_over: setting.hand_over,
            epoch,
            seed,
        };
        let (hub, shards) = sim::engine(
            &plan,
            networks.iter().map(|net| Network { net: Rc::clone(net), shared: Rc::clone(&shared) }),
        );
        assert!(shared.hub.set(hub).is_ok());
        let seats = shards.into_iter().zip(networks).map(|(shard, net)| Seat::new(shard, net)).collect();
        World { shared, seats, clients: Vec::new(), adoptions: 0, inspections: Vec::new(), stormed: false }
    }

    // Time and turns.

    /// Lets this time pass; at its end, whoever is due had some turns.
    pub(crate) fn pass(&mut self, time: Duration) {
        let until = self.shared.now.get() + time;
        loop {
            self.turns(if self.shared.hostile.get() { 4 } else { 100_000 });
            let now = self.shared.now.get();
            if now >= until {
                return;
            }
            let running = self.seats.iter().filter(|seat| !seat.shard.is_stopped());
            let next = running.filter_map(|seat| seat.wakes_at).filter(|&at| at > now).min();
            self.set_now(next.map_or(until, |next| next.min(until)));
        }
    }

    fn set_now(&self, now: Duration) {
        self.shared.now.set(now);
        Clock::turn_hand(now);
    }

    /// Whoever is due has one turn, and that takes so long.
    pub(crate) fn work_for(&mut self, time: Duration) {
        self.turns(1);
        self.set_now(self.shared.now.get() + time);
    }

    /// The clock goes forward, and nobody had a turn meanwhile.
    pub(crate) fn jump(&mut self, time: Duration) {
        tell!(self.shared, "the clock goes {time:?} forward");
        self.shared.happened(Thing::Jump);
        let now = self.shared.now.get() + time;
        self.set_now(now);
        for seat in &mut self.seats {
            seat.late_at = now;
        }
    }

    /// At most so many rounds of turns for all who are due.
    fn turns(&mut self, rounds: usize) {
        for _ in 0..rounds {
            let first = self.shared.below(self.seats.len());
            let mut any = false;
            for offset in 0..self.seats.len() {
                let index = (first + offset) % self.seats.len();
                any |= self.may_turn(index);
            }
            if !any {
                return;
            }
        }
    }

    /// Gives a shard its turn if it is due, and not held up.
    fn may_turn(&mut self, index: usize) -> bool {
        let now = self.shared.now.get();
        let last = index + 1 == self.seats.len();
        let held_up = last && self.shared.setting.slowness > 1 && {
            self.shared.hostile.get()
                && !self.shared.over.get()
                && !self.shared.one_in(self.shared.setting.slowness)
        };
        let spurious = self.shared.setting.spurious && self.shared.mishap(50);
        let seat = &mut self.seats[index];
        if seat.shard.is_stopped() {
            return false;
        }
        if !seat.is_due(now) {
            if !spurious {
                return false;
            }
            self.shared.happened(Thing::SpuriousWake);
        }
        if held_up {
            return true;
        }
        self.turn(index);
        true
    }

    /// One turn of a shard's loop, and what must hold after it.
    pub(crate) fn turn(&mut self, index: usize) {
        let now = self.shared.now.get();
        let seat = &mut self.seats[index];
        let before = seat.shard.look();
        let bytes_before = seat.net.borrow().bytes_sent;
        if seat.due_since.take().is_some_and(|since| now - since > LATE) {
            seat.late_at = now;
        }
        seat.woken = false;
        seat.turns += 1;
        let mut notifications = Vec::new();
        Network { net: Rc::clone(&seat.net), shared: Rc::clone(&self.shared) }
            .wait(None, &mut notifications)
            .expect("a wait");
        self.publish_meanwhile(", before a tick");
        let newest = self.shared.history.borrow().newest();
        let seat = &mut self.seats[index];
        seat.shard.awake();
        let told = notifications.len();
        seat.shard.tick(now, &mut notifications);
        let after = seat.shard.look();
        self.shared.happened(Thing::Tick);
        if after.resuming > before.resuming {
            self.shared.happened(Thing::MustWait);
        }
        tell!(self.shared, "shard {index} tick: {told} notifications, {}", Summary(&before, &after));
        self.note_counts(&before, &after);
        self.look_at(index, newest, &before, &after);
        self.publish_meanwhile(", after a tick");

        let seat = &mut self.seats[index];
        let timeout = if seat.shard.is_stopped() { None } else { seat.shard.timeout(now) };
        seat.wakes_at = timeout.map(|timeout| now + timeout);
        let idle = told == 0
            && before.counts == after.counts
            && seat.net.borrow().bytes_sent == bytes_before
            && timeout == Some(Duration::ZERO);
        seat.idle_turns = if idle { seat.idle_turns + 1 } else { 0 };
        assert!(seat.idle_turns < IDLE_TURNS, "shard {index} spins");
    }

    fn publish_meanwhile(&self, when: &str) {
        if self.shared.setting.publishers > 0 && self.shared.mishap(60) {
            self.shared.publish_some(when);
        }
    }

    fn note_counts(&self, before: &Look, after: &Look) {
        let mut tally = self.shared.tally.borrow_mut();
        let farewell = |reason| after.counts.farewell(reason) - before.counts.farewell(reason);
        tally.add(Thing::LaggardFull, farewell(Farewell::LaggardFull));
        tally.add(Thing::LaggardStalled, farewell(Farewell::LaggardStalled));
        tally.add(Thing::Aged, farewell(Farewell::Aged));
        tally.add(Thing::Cut, farewell(Farewell::Cut));
        tally.add(Thing::Laggard, after.counts.laggards.saturating_sub(before.counts.laggards));
        tally.add(Thing::HeadTimedOut, after.counts.heads_timed_out - before.counts.heads_timed_out);
        tally.add(Thing::TurnedAway, after.counts.turned_away - before.counts.turned_away);
    }

    /// Where a shard stood before and after its tick, and the hub before it.
    pub(crate) fn moment(&self, newest: u64, before: &Look, after: &Look) -> Moment {
        let begun = after.counts.subscribed - before.counts.subscribed;
        let most = self.shared.setting.limits.connections as u64;
        Moment {
            head: before.head,
            dropped: before.dropped,
            head_after: after.head,
            dropped_after: after.dropped,
            newest,
            // Whoever has left in the tick may have left after somebody came.
            house_full: before.counts.connections + begun >= most,
        }
    }

    /// What a shard has now.
    pub(crate) fn stand(&self, shard: usize) -> Stand {
        Stand::of(&self.seats[shard].shard.look())
    }

    /// Every shard's answer to those who asked for counts comes some time.
    pub(crate) fn take_inspections(&mut self) {
        self.inspections.retain(|answer| match answer.try_recv() {
            Ok(counts) => {
                assert!(counts.iter().all(|counts| counts.laggards <= counts.subscribers));
                false
            }
            Err(TryRecvError::Empty) => true,
            Err(TryRecvError::Disconnected) => false,
        });
    }
}

impl Seat {
    fn new(shard: SimShard<Network>, net: Rc<RefCell<Net>>) -> Seat {
        Seat {
            shard,
            net,
            wakes_at: Some(Duration::ZERO),
            woken: false,
            due_since: None,
            late_at: Duration::ZERO,
            swept_at: Duration::ZERO,
            idle_turns: 0,
            turns: 0,
        }
    }

    pub(crate) fn is_due(&mut self, now: Duration) -> bool {
        self.woken |= self.shard.was_woken();
        let due = self.woken || self.wakes_at.is_some_and(|at| at <= now) || self.net.borrow().is_ready();
        if due && self.due_since.is_none() {
            self.due_since = Some(self.wakes_at.map_or(now, |at| at.min(now)));
        }
        due
    }
}

/// What a tick has changed, for the trace.
struct Summary<'look>(&'look Look, &'look Look);

impl std::fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (before, after) = (&self.0.counts, &self.1.counts);
        write!(f, "log at {}", self.1.head)?;
        for (name, before, after) in [
            ("connections", before.connections, after.connections),
            ("pending", before.pending, after.pending),
            ("laggards", before.laggards, after.laggards),
            ("resuming", self.0.resuming as u64, self.1.resuming as u64),
            ("deliveries", before.deliveries, after.deliveries),
            ("heartbeats", before.heartbeats, after.heartbeats),
        ] {
            if before != after {
                write!(f, ", {name} {before} -> {after}")?;
            }
        }
        for reason in Farewell::ALL {
            let count = after.farewell(reason) - before.farewell(reason);
            if count > 0 {
                write!(f, ", {count} {}", reason.name())?;
            }
        }
        Ok(())
    }
}

/// `GET /events`, with two switches of this world in the query.
fn admit(request: &RequestHead<'_>) -> Decision {
    if request.path() != "/events" || request.method() != "GET" {
        return Decision::HandOver;
    }
    let query = request.query().unwrap_or_default();
    match Subscribe::from_request(request, 8) {
        Ok(mut subscribe) => {
            if query.contains("hello&") {
                let kind = EventType::new("hello").expect("a type");
                subscribe = subscribe.greeting(Some(&kind), "you");
            }
            Decision::Subscribe(subscribe.sees_private(query.contains("private&")))
        }
        Err(error) => Decision::Refuse(Refusal::new(error.status(), error.to_string())),
    }
}
