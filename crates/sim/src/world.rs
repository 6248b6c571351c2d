//! The world around the real hub and the real shards: their ticks, and the clients.
//!
//! A shard that sleeps gets no tick before its waker was used, a notification is there, or its time has come:
//! so a wake-up that is lost is found by the subscriber that waits for an event.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::TryRecvError;
use std::time::Duration;

use fanfare::sim::{self, ShardSnapshot, SimShard};
use fanfare::{CloseReason, Epoch, Pattern, Topic};
use fanfare_io::{Clock, Io};

use crate::choices::Choices;
use crate::client::Client;
use crate::clients::ClientCounts;
use crate::desk::{SharedDesk, admission, forget_tickets};
use crate::disk::Disk;
use crate::life_cycle::LifeCycleLog;
use crate::listing::Listing;
use crate::network::{Net, Network};
use crate::setting::Setting;
use crate::shared::Shared;
use crate::stored::{self, StoreSide};
use crate::tally::Occurrence;
use crate::trace::{self, Trace, trace};
use crate::wishes::Member;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// A shard that has its tick later than this is not held to its times.
const LATE: Duration = Duration::from_millis(50);

/// So many ticks at once without anything to show for them are a spin.
const IDLE_TICKS: u32 = 1000;

/// Of the ticks in which nothing has happened, which are more than half, every such one is followed by all
/// checks. What is wrong stays so.
const TICKS_OF_A_CHECK: u64 = 16;

/// The shard that drops what is too old.
pub(crate) const TRIMMING_SHARD: usize = 0;

pub(crate) struct World {
    pub(crate) shared: Rc<Shared>,
    pub(crate) shards: Vec<WorldShard>,
    pub(crate) clients: Vec<Client>,
    /// How often a socket was given to `Hub::adopt`: it takes the shards in turn.
    pub(crate) adoptions: usize,
    pub(crate) inspections: Vec<sim::Asked>,
    /// The question about connections that is to be answered.
    pub(crate) listing: Option<Listing>,
    /// Streams that have begun and ended to read each topic, as the hub told of it.
    pub(crate) joins: BTreeMap<Topic, [u64; 2]>,
    pub(crate) had_crowd: bool,
    /// Where decisions that come later are left.
    pub(crate) desk: SharedDesk,
    pub(crate) life_cycle: Option<LifeCycleLog>,
    /// Members that were announced.
    pub(crate) announced: BTreeSet<Member>,
    /// Where the jitter of the next engine comes from.
    seed: u64,
}

/// A shard whose ticks the world takes, and its network.
pub(crate) struct WorldShard {
    pub(crate) shard: SimShard<Network>,
    pub(crate) net: Rc<RefCell<Net>>,
    /// When it wants to be woken; `None`: never.
    wakes_at: Option<Duration>,
    woken: bool,
    /// Since when it should have had its tick.
    due_since: Option<Duration>,
    /// When it last had its tick too late.
    pub(crate) late_at: Duration,
    /// When a tick last ended within a sweep.
    pub(crate) swept_at: Duration,
    /// Since when it leaves its mail although sweeps do not keep it from it.
    pub(crate) leaves_mail_since: Option<Duration>,
    idle_ticks: u32,
    pub(crate) ticks: u64,
}

impl World {
    pub(crate) fn new(mut choices: Choices, trace: Trace) -> World {
        let setting = Setting::random(&mut choices);
        World::with(choices, setting, trace)
    }

    pub(crate) fn with(mut choices: Choices, setting: Setting, trace: Trace) -> World {
        trace::start();
        Clock::set_hand(Duration::ZERO);
        let epoch = Epoch::new(choices.below(1 << 40) as u64);
        let seed = choices.below(1 << 40) as u64;
        let shared = Rc::new(Shared::new(choices, setting.clone(), epoch, trace));
        trace!(shared, "{setting:?}");
        let disk = setting.store.map(|store| Disk::new(epoch, store.limits, store.durability));
        let mut world = World {
            shared,
            shards: Vec::new(),
            clients: Vec::new(),
            adoptions: 0,
            inspections: Vec::new(),
            listing: None,
            joins: BTreeMap::new(),
            had_crowd: false,
            desk: SharedDesk::default(),
            life_cycle: None,
            announced: BTreeSet::new(),
            seed,
        };
        world.begin_engine(disk);
        world
    }

    /// An engine begins, with this disk. The world has none.
    pub(crate) fn begin_engine(&mut self, disk: Option<Arc<Disk>>) {
        let (shared, setting) = (Rc::clone(&self.shared), self.shared.setting.clone());
        self.seed += 1000;
        let networks: Vec<_> = (0..setting.shards)
            .map(|shard| Rc::new(RefCell::new(Net::new(shard, Rc::clone(&shared), Arc::clone(&self.desk)))))
            .collect();
        let plan = sim::Plan {
            limits: setting.limits,
            budgets: setting.budgets,
            admission: Arc::new(admission(Arc::clone(&self.desk))),
            hand_over: setting.hand_over,
            presence_linger: setting.presence_linger,
            life_cycle: setting.life_cycle,
            joins: setting.joins.then(|| vec![Pattern::parse("*").expect("a pattern")]),
            joined_topics: 1 << 16,
            store: disk.as_ref().map(stored::options),
            epoch: shared.history.borrow().epoch,
            seed: self.seed - 1000,
        };
        let sim::SimEngine { hub, shards, life_cycle, store } = sim::engine(
            &plan,
            networks.iter().map(|net| Network { net: Rc::clone(net), shared: Rc::clone(&shared) }),
        );
        if let Some(disk) = &disk {
            let history = shared.history.borrow();
            shared.log.borrow_mut().open(disk, &hub, &history, shared.now.get());
        }
        *shared.hub.borrow_mut() = Some(hub);
        *shared.store.borrow_mut() = disk.zip(store).map(|(disk, engine)| StoreSide::new(disk, engine));
        self.shards =
            shards.into_iter().zip(networks).map(|(shard, net)| WorldShard::new(shard, net)).collect();
        self.life_cycle = life_cycle.map(LifeCycleLog::new);
    }

    /// The engine ends without a word, with everything that only it knew.
    pub(crate) fn end_engine(&mut self) {
        for client in &mut self.clients {
            if let Some(at) = client.connection.take() {
                client.last_shard = Some(at.shard);
            }
        }
        for shard in std::mem::take(&mut self.shards) {
            shard.net.borrow_mut().end();
        }
        forget_tickets(&self.desk);
        self.adoptions = 0;
        self.inspections.clear();
        (self.listing, self.life_cycle) = (None, None);
        self.joins.clear();
        self.announced.clear();
        let shared = &self.shared;
        *shared.hub.borrow_mut() = None;
        *shared.clients.borrow_mut() = ClientCounts::default();
        shared.mailed.borrow_mut().fill(0);
    }

    // Time and ticks.

    /// Lets this time pass; at its end, each shard that is due had some ticks.
    pub(crate) fn pass(&mut self, time: Duration) {
        let until = self.shared.now.get() + time;
        loop {
            self.ticks(if self.shared.hostile.get() { 4 } else { 100_000 });
            let now = self.shared.now.get();
            if now >= until {
                return;
            }
            let running = self.shards.iter().filter(|shard| !shard.shard.is_stopped());
            let next = running.filter_map(|shard| shard.wakes_at).filter(|&at| at > now).min();
            self.set_now(next.map_or(until, |next| next.min(until)));
        }
    }

    fn set_now(&self, now: Duration) {
        self.shared.now.set(now);
        Clock::set_hand(now);
        trace::at(|position| position.time = now);
    }

    /// Each shard that is due has one tick, and that takes so long.
    pub(crate) fn work_for(&mut self, time: Duration) {
        self.ticks(1);
        self.set_now(self.shared.now.get() + time);
    }

    /// The clock goes forward, and no shard had a tick meanwhile.
    pub(crate) fn jump(&mut self, time: Duration) {
        trace!(self.shared, "the clock goes {time:?} forward");
        self.shared.happened(Occurrence::Jump);
        let now = self.shared.now.get() + time;
        self.set_now(now);
        for shard in &mut self.shards {
            shard.late_at = now;
        }
    }

    /// At most so many rounds of ticks for all shards that are due.
    fn ticks(&mut self, rounds: usize) {
        for _ in 0..rounds {
            let first = self.shared.below(self.shards.len());
            let mut any = false;
            for offset in 0..self.shards.len() {
                let index = (first + offset) % self.shards.len();
                any |= self.may_tick(index);
            }
            any |= self.step_store();
            if !any {
                return;
            }
        }
    }

    /// Gives a shard its tick if it is due, and not held up.
    fn may_tick(&mut self, index: usize) -> bool {
        let now = self.shared.now.get();
        let last = index + 1 == self.shards.len();
        let held_up = last && self.shared.setting.slowness > 1 && {
            self.shared.hostile.get()
                && !self.shared.is_over.get()
                && !self.shared.one_in(self.shared.setting.slowness)
        };
        let spurious = self.shared.setting.spurious && self.shared.mishap(50);
        let shard = &mut self.shards[index];
        if shard.shard.is_stopped() {
            return false;
        }
        if !shard.is_due(now) {
            if !spurious {
                return false;
            }
            self.shared.happened(Occurrence::SpuriousWake);
        }
        if held_up {
            return true;
        }
        self.tick(index);
        true
    }

    /// One tick of a shard, and what must hold after it.
    pub(crate) fn tick(&mut self, index: usize) {
        trace::at(|position| {
            position.shard = Some(index);
            position.forget_client();
        });
        let now = self.shared.now.get();
        let shard = &mut self.shards[index];
        let before = shard.shard.snapshot();
        if shard.due_since.take().is_some_and(|since| now - since > LATE) {
            shard.late_at = now;
        }
        shard.woken = false;
        shard.ticks += 1;
        shard.net.borrow_mut().begin_tick();
        let mut notifications = Vec::new();
        Network { net: Rc::clone(&shard.net), shared: Rc::clone(&self.shared) }
            .wait(None, &mut notifications)
            .expect("a wait");
        let notified = notifications.len();
        self.publish_meanwhile(", before a tick");
        self.shared.observe_log();
        let waiting = self.mail_waiting(index);
        let newest = self.shared.log.borrow().newest();
        let congested = self.is_congested();

        self.shared.is_trimming.set(index == TRIMMING_SHARD);
        let trims_at_once = self.shared.log.borrow().can_trim_at_once(now);
        let shard = &mut self.shards[index];
        shard.shard.awake();
        shard.shard.tick(now, &mut notifications);
        let after = shard.shard.snapshot();
        let did_nothing = notified == 0
            && waiting == 0
            && before == after
            && shard.net.borrow().this_tick.bytes_sent == 0
            && !shard.net.borrow().has_touched();
        let is_checked = !did_nothing || shard.ticks.is_multiple_of(TICKS_OF_A_CHECK) || after.is_draining;
        if is_checked {
            shard.shard.check();
        }
        self.shared.observe_log();
        self.shared.is_trimming.set(false);
        if index == TRIMMING_SHARD && trims_at_once {
            let due = self.shared.log.borrow().first_due(now);
            assert!(due.is_none(), "event {due:?} is too old and left in the log");
        }

        self.shared.happened(Occurrence::Tick);
        if after.resuming > before.resuming {
            self.shared.happened(Occurrence::WaitsForNumber);
        }
        trace!(
            self.shared,
            "shard {index} tick: {notified} notifications, {waiting} events waited, {}",
            Summary(&before, &after)
        );
        self.note_counts(&before, &after);
        let others_wait = before.others_waiting > 0;
        let tick = Tick { shard: index, before, after, newest, waiting, others_wait, congested, is_checked };
        self.check_tick(&tick);
        if self.shared.setting.reads_life_cycle_at_once {
            self.read_life_cycle();
        }
        self.publish_meanwhile(", after a tick");

        let shard = &mut self.shards[index];
        let timeout = if shard.shard.is_stopped() { None } else { shard.shard.timeout(now) };
        shard.wakes_at = timeout.map(|timeout| now + timeout);
        if timeout != Some(Duration::ZERO) {
            shard.net.borrow().check_told();
        }
        let idle = notified == 0
            && before.counts == after.counts
            && shard.net.borrow().this_tick.bytes_sent == 0
            && timeout == Some(Duration::ZERO);
        shard.idle_ticks = if idle { shard.idle_ticks + 1 } else { 0 };
        assert!(shard.idle_ticks < IDLE_TICKS, "shard {index} spins");
        trace::at(|position| {
            position.shard = None;
            position.forget_client();
        });
    }

    fn publish_meanwhile(&self, when: &str) {
        if self.shared.setting.publishers > 0 && self.shared.mishap(60) {
            self.shared.publish_some(when);
        }
    }

    /// Events in a shard's mailbox, and in its hands.
    pub(crate) fn mail_waiting(&self, shard: usize) -> u64 {
        self.shared.mailed.borrow()[shard] - self.shards[shard].shard.counts().events
    }

    /// Whether most streams of the hub are behind, and not only a few, as each shard knew at the end of its
    /// last tick.
    fn is_congested(&self) -> bool {
        let snapshots = || self.shards.iter().map(|shard| shard.shard.snapshot());
        let behind: usize = snapshots().map(|snapshot| snapshot.behind).sum();
        let is_majority = 2 * behind > snapshots().map(|snapshot| snapshot.moving).sum();
        is_majority && behind >= self.shared.setting.limits.congestion_streams
    }

    fn note_counts(&self, before: &ShardSnapshot, after: &ShardSnapshot) {
        let mut tally = self.shared.tally.borrow_mut();
        let (before, after) = (&before.counts, &after.counts);
        let closed = |reason| after.closed_for(reason) - before.closed_for(reason);
        tally.add(Occurrence::LaggardFull, closed(CloseReason::LaggardFull));
        tally.add(Occurrence::LaggardStalled, closed(CloseReason::LaggardStalled));
        tally.add(Occurrence::Aged, closed(CloseReason::Aged));
        tally.add(Occurrence::Expired, closed(CloseReason::Expired));
        tally.add(Occurrence::Disconnected, closed(CloseReason::Disconnected));
        tally.add(Occurrence::Shed, closed(CloseReason::Shed));
        tally.add(Occurrence::Cut, closed(CloseReason::Cut));
        tally.add(Occurrence::Laggard, after.laggards.saturating_sub(before.laggards));
        tally.add(Occurrence::HeadTimedOut, after.heads_timed_out - before.heads_timed_out);
        tally.add(Occurrence::TurnedAway, after.turned_away - before.turned_away);
        tally.add(Occurrence::AdmissionPanic, after.admission_panics - before.admission_panics);
        tally.add(Occurrence::AddressFull, after.refused_for_address - before.refused_for_address);
        tally.add(
            Occurrence::ConnectsTooOften,
            after.refused_for_connect_rate - before.refused_for_connect_rate,
        );
        tally.add(Occurrence::SubjectFull, after.refused_for_subject - before.refused_for_subject);
    }

    /// Each shard answers every question for its counts some time.
    pub(crate) fn take_inspections(&mut self) {
        self.inspections.retain(|answer| match answer.try_recv() {
            Ok(counts) => {
                assert!(counts.iter().all(|(subscribers, laggards)| laggards <= subscribers));
                false
            }
            Err(TryRecvError::Empty) => true,
            Err(TryRecvError::Disconnected) => false,
        });
        self.take_listing();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A sweep tells this itself.
        if std::thread::panicking() && self.shared.trace == Trace::Recent && !crate::sweep::keeps_panics() {
            eprintln!("{}\n{}", trace::position(), trace::take_recent().join("\n"));
        }
    }
}

/// A tick that a shard had.
pub(crate) struct Tick {
    pub(crate) shard: usize,
    pub(crate) before: ShardSnapshot,
    pub(crate) after: ShardSnapshot,
    /// The newest number that was released before it.
    pub(crate) newest: u64,
    /// Events that waited for the shard before it.
    pub(crate) waiting: u64,
    /// Whether mail that is no event waited for it.
    pub(crate) others_wait: bool,
    /// Whether most streams of the hub were behind before it.
    pub(crate) congested: bool,
    /// Whether all is checked behind it.
    pub(crate) is_checked: bool,
}

impl WorldShard {
    fn new(shard: SimShard<Network>, net: Rc<RefCell<Net>>) -> WorldShard {
        WorldShard {
            shard,
            net,
            wakes_at: Some(Duration::ZERO),
            woken: false,
            due_since: None,
            late_at: Duration::ZERO,
            swept_at: Duration::ZERO,
            leaves_mail_since: None,
            idle_ticks: 0,
            ticks: 0,
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
struct Summary<'snapshot>(&'snapshot ShardSnapshot, &'snapshot ShardSnapshot);

impl std::fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (before, after) = (&self.0.counts, &self.1.counts);
        write!(f, "{} taken", after.events - before.events)?;
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
        for &reason in CloseReason::ALL {
            let count = after.closed_for(reason) - before.closed_for(reason);
            if count > 0 {
                write!(f, ", {count} {}", reason.name())?;
            }
        }
        for (state, is_so) in [
            ("marking", self.1.is_marking),
            ("sweeping", self.1.is_sweeping),
            ("backlogged", self.1.is_backlogged),
            ("draining", self.1.is_draining),
        ] {
            if is_so {
                write!(f, ", {state}")?;
            }
        }
        Ok(())
    }
}
