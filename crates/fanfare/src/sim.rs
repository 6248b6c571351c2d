//! What the simulator drives: the real hub and the real shards, without threads, on any `Io` and a clock that is
//! driven by hand. Not part of the public interface.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_utils::CachePadded;
use fanfare_io::sockets::SocketOptions;
use fanfare_io::{Clock, Io, Notification, Socket, Waker, pass};
use fanfare_proto::cursor::Epoch;
use fanfare_proto::event::Topic;
use fanfare_proto::limits::Limits;

use crate::admission::Admission;
use crate::counts::{Counts, SharedCounts};
use crate::hub::{Hub, ShardHandle};
use crate::inspect::Question;
pub use crate::inspect::{Answer, Asked};
use crate::mailbox::Mailbox;
pub use crate::shard::Budgets;
use crate::shard::{Links, Shard};
use crate::sync::AtomicU64;

/// How the engine under simulation is built.
pub struct Plan {
    /// Bounds, the same in every shard.
    pub limits: Limits,
    /// Work per tick, the same in every shard.
    pub budgets: Budgets,
    /// Who may subscribe.
    pub admission: Arc<dyn Admission>,
    /// Whether requests that are no subscriptions are handed over (to a channel that takes none).
    pub hand_over: bool,
    /// The log's identity.
    pub epoch: Epoch,
    /// Where the shards' jitter comes from.
    pub seed: u64,
}

/// One shard whose turns somebody else takes.
pub struct SimShard<I: Io> {
    pub(crate) shard: Shard<I>,
    waker: Waker,
}

/// A hub and a shard on each of these.
pub fn engine<I: Io>(plan: &Plan, networks: impl IntoIterator<Item = I>) -> (Hub, Vec<SimShard<I>>) {
    let newest = Arc::new(AtomicU64::new(0));
    let (mut handles, mut shards) = (Vec::new(), Vec::new());
    for (index, io) in networks.into_iter().enumerate() {
        let waker = Waker::new().expect("a descriptor for the waker");
        let (sockets, adopted) = pass::channel().expect("descriptors for the channel");
        let mailbox = Arc::new(Mailbox::new(waker.clone()));
        let counts = Arc::new(CachePadded::new(SharedCounts::default()));
        handles.push(ShardHandle { mailbox: Arc::clone(&mailbox), sockets, counts: Arc::clone(&counts) });
        let links = Links {
            mailbox,
            adopted,
            hand_over: plan.hand_over.then(|| pass::channel().expect("descriptors for the channel").0),
            counts,
            admission: Arc::clone(&plan.admission),
            newest: Arc::clone(&newest),
        };
        let seed = plan.seed.wrapping_add(index as u64);
        let mut shard = Shard::new(io, links, plan.limits.clone(), plan.epoch, seed);
        shard.set_budgets(plan.budgets);
        shards.push(SimShard { shard, waker });
    }
    let (limits, options) = (plan.limits.clone(), SocketOptions::default());
    (Hub::new(plan.epoch, Clock::by_hand(), limits, options, handles, newest), shards)
}

/// Begins the drain that [`crate::Engine::stop`] waits for.
pub fn drain(hub: &Hub, window: Duration) {
    hub.drain(window);
}

/// Asks every shard for the counts of one topic, or of all, as [`Hub::topic`] and [`Hub::topics_page`] do,
/// without waiting for the answers.
pub fn ask(hub: &Hub, only: Option<&Topic>) -> Vec<Asked> {
    let question = match only {
        Some(topic) => Question::Topic(topic.clone()),
        None => Question::Page { after: None, limit: usize::MAX },
    };
    hub.ask(&question).flatten().collect()
}

impl<I: Io> SimShard<I> {
    /// How long it may sleep; with this it announces that it will.
    pub fn timeout(&mut self, now: Duration) -> Option<Duration> {
        let timeout = self.shard.timeout(now);
        self.shard.check_sleep(timeout);
        timeout
    }

    /// Whether somebody woke it since the last time that somebody asked.
    pub fn was_woken(&self) -> bool {
        self.waker.was_used()
    }

    /// What the loop does first when a wait has ended.
    pub fn awake(&self) {
        self.shard.awake();
    }

    /// One turn of the loop, and a check of all that must hold after it.
    pub fn tick(&mut self, now: Duration, notifications: &mut Vec<Notification>) {
        self.shard.tick(now, notifications);
        self.shard.check(now);
    }

    /// Whether the drain is over.
    pub fn is_stopped(&self) -> bool {
        self.shard.is_stopped()
    }

    /// What it has counted.
    pub fn counts(&self) -> Counts {
        self.shard.look().counts
    }

    /// What else a model needs to know.
    pub fn look(&self) -> Look {
        self.shard.look()
    }

    /// Each laggard's socket, and whether it is in line to be served.
    pub fn laggards(&self) -> impl Iterator<Item = (Socket, bool)> {
        self.shard.laggards_in_line()
    }
}

/// A shard, seen from outside.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// What it has counted.
    pub counts: Counts,
    /// The newest event that its log has had.
    pub head: u64,
    /// Everything after this is retained.
    pub dropped: u64,
    /// Topics that its log knows, by a frame or by a reader.
    pub topics: usize,
    /// Topics that its audiences read.
    pub topics_read: usize,
    /// Publishers' own ids that its log knows.
    pub own_ids: usize,
    /// Places in the line of laggards that can be served.
    pub laggards_in_line: usize,
    /// Deadlines of requests, also of those that have left.
    pub deadlines: usize,
    /// Those who wait until it has what another shard may have sent them.
    pub resuming: usize,
    /// A sweep is under way.
    pub sweeping: bool,
    /// A drain is.
    pub draining: bool,
}
