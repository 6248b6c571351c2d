//! Shedding: a share of all streams ends, evenly over a window, and the engine goes on.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fanfare_proto::share::Share;

use super::{ConnectionError, Hub};
use crate::mailbox::Mail;
use crate::shard::ConnectionOrder;

/// The most orders to shed streams that may be under way at once.
const SHEDS: usize = 16;

/// Orders to shed streams that are under way, or were when the last one came.
#[derive(Default)]
pub(super) struct Sheds(Mutex<Vec<Arc<Progress>>>);

/// How many shards have not carried out an order.
#[derive(Default)]
struct Progress {
    shards: Mutex<usize>,
    changed: Condvar,
}

/// A shard's part of an order to shed streams. The order is carried out when all parts are dropped. A shard
/// that ends drops its part, too.
pub(crate) struct ShedPart(Arc<Progress>);

/// What the hub asks a shard to do.
pub(crate) struct ShedOrder {
    pub(crate) share: Share,
    pub(crate) window: Duration,
    /// Where all streams are meant, the number of the order: see [`crate::orders`].
    pub(crate) number: Option<u64>,
    pub(crate) part: ShedPart,
}

/// An order to shed streams: [`Hub::shed`].
#[derive(Clone)]
pub struct Shedding {
    streams: u64,
    progress: Arc<Progress>,
}

impl Sheds {
    /// Notes a new order, where not too many are under way.
    fn begin(&self) -> Option<Arc<Progress>> {
        let mut sheds = lock(&self.0);
        sheds.retain(|progress| !progress.is_done());
        if sheds.len() >= SHEDS {
            return None;
        }
        let progress = Arc::default();
        sheds.push(Arc::clone(&progress));
        Some(progress)
    }
}

/// What is locked here is changed in one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Progress {
    fn is_done(&self) -> bool {
        *lock(&self.shards) == 0
    }
}

impl ShedPart {
    fn new(progress: &Arc<Progress>) -> ShedPart {
        *lock(&progress.shards) += 1;
        ShedPart(Arc::clone(progress))
    }
}

impl Drop for ShedPart {
    fn drop(&mut self) {
        *lock(&self.0.shards) -= 1;
        self.0.changed.notify_all();
    }
}

impl Shedding {
    /// How many streams the order is about to end: its share of those that there were. It may end some fewer,
    /// because streams also leave by themselves, and one more or fewer on each shard.
    pub fn streams(&self) -> u64 {
        self.streams
    }

    /// Whether every shard has carried it out: the streams have ended, and their sockets are closed.
    pub fn is_done(&self) -> bool {
        self.progress.is_done()
    }

    /// Blocks until every shard has carried it out, at most for `patience`, and answers whether it has. Not
    /// to be called on a shard's thread, where an [`crate::Admission`] may run: that shard would wait for
    /// itself.
    pub fn wait(&self, patience: Duration) -> bool {
        let shards = lock(&self.progress.shards);
        let waited = self.progress.changed.wait_timeout_while(shards, patience, |shards| *shards > 0);
        let (shards, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *shards == 0
    }
}

impl fmt::Debug for Shedding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shedding")
            .field("streams", &self.streams)
            .field("is_done", &self.is_done())
            .finish_non_exhaustive()
    }
}

impl Hub {
    /// Ends a share of all streams, evenly over `window`, and goes on accepting others. A load balancer takes
    /// those that come back to other nodes: so an engine that has started last gets its part of the load.
    ///
    /// Each shard ends its share of the streams that it has when it carries the order out; streams that begin
    /// later stay. They are chosen at random, so a later order does not end the same again. A stream ends at
    /// a frame boundary, and its client is told when to come back, as when the engine stops. What its client
    /// was not sent yet, it gets when it resumes. A stream in the middle of a frame is passed over: another
    /// one ends in its place, or, where there is none, it is cut at the end of the window. Each end is
    /// counted with [`crate::CloseReason::Shed`].
    ///
    /// [`Share::ALL`] also ends what began before and is no stream yet: subscribers that wait for their
    /// number, and requests about which a decision is under way, as [`Hub::disconnect_subject`] does. So
    /// when [`Shedding::wait`] is true, there is no stream left that was decided about before this call.
    ///
    /// Orders that are given while others are under way are carried out beside them, each for its own share.
    /// When the engine stops, that ends all streams, and the orders with them.
    ///
    /// # Errors
    /// [`ConnectionError::Busy`] where 16 such orders are under way, and [`ConnectionError::Stopped`].
    /// Nothing has changed.
    ///
    /// # Panics
    /// As [`Hub::publish`].
    pub fn shed(&self, share: Share, window: Duration) -> Result<Shedding, ConnectionError> {
        self.inner.assert_in_reach();
        if self.inner.shards.iter().any(|shard| shard.mailbox.is_closed()) {
            return Err(ConnectionError::Stopped);
        }
        let progress = self.inner.sheds.begin().ok_or(ConnectionError::Busy)?;
        let streams = share.of(self.counts().connections);
        let number = (share == Share::ALL).then(|| self.inner.common.orders().next_for_all());
        // All of them before the first mail, so that the first shard does not end the order alone.
        let parts: Vec<ShedPart> = self.inner.shards.iter().map(|_| ShedPart::new(&progress)).collect();
        for (shard, part) in self.inner.shards.iter().zip(parts) {
            let order = ConnectionOrder::Shed(ShedOrder { share, window, number, part });
            // However much waits: given to a part of the shards and then again, it would end too many. A
            // shard that has ended meanwhile has no stream left.
            let _ = shard.mailbox.push(Mail::Order(Box::new(order)), || Ok::<_, ()>(()));
        }
        Ok(Shedding { streams, progress })
    }
}
