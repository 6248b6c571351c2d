//! The threads of a durable store: one writes to it, and one reads from it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fanfare_io::Clock;
use fanfare_store::StoreReader;

use crate::backplane::Backplane;
use crate::history::{HistoryQueue, HistoryReader};
use crate::hub::commit::{CommitQueue, Committer};
use crate::hub::{EngineEnd, HubBackplane, HubStore};
use crate::store::{StoreCounts, StoreOptions};
use crate::sync::AtomicU64;

/// How long the end of an engine waits for each of the threads. A disk may hang.
const END_TIME: Duration = Duration::from_secs(5);

/// Time between two looks at whether a thread has ended.
const END_POLL: Duration = Duration::from_millis(10);

/// The threads that write to and read from a durable store; none where there is no store.
#[derive(Default)]
pub(super) struct StoreThreads(Vec<JoinHandle<()>>);

impl StoreThreads {
    /// Starts both. `history` has the questions of the shards, and `newest` is the newest number that is
    /// released. Where one of them panics, `end` ends the engine: without it, publishers would wait for their
    /// answers, and subscribers for their history, for ever.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(super) fn start(
        options: StoreOptions,
        history: Arc<HistoryQueue>,
        newest: Arc<AtomicU64>,
        end: EngineEnd,
        clock: Clock,
    ) -> io::Result<(HubStore, StoreThreads)> {
        let StoreOptions { store, durability } = options;
        let (commits, counts) = <(Arc<CommitQueue>, Arc<StoreCounts>)>::default();
        let (queue, counted) = (Arc::clone(&commits), Arc::clone(&counts));
        let committer = Committer::new(Arc::clone(&store), queue, counted, durability, clock);
        let queue = Arc::clone(&commits);
        let writer = spawn("fanfare-store", end.clone(), move || queue.abandon(), move || committer.run())?;
        let (of_reader, queue) = (Arc::clone(&store), Arc::clone(&history));
        let of_reader: Arc<dyn StoreReader> = of_reader;
        let reader = HistoryReader { store: of_reader, queue, newest, counts: Arc::clone(&counts), clock };
        let queue = Arc::clone(&history);
        let reader = spawn("fanfare-history", end, move || queue.close(), move || reader.run());
        let reader = reader.inspect_err(|_| commits.close(Duration::ZERO))?;
        Ok((HubStore { store, commits, counts, history }, StoreThreads(vec![writer, reader])))
    }

    /// Starts the thread that reads from a log that nodes share. The [`Backplane`] has threads of its own for
    /// the rest.
    ///
    /// # Errors
    /// The system refuses the thread.
    pub(super) fn start_shared(
        backplane: Arc<dyn Backplane>,
        reader: Arc<dyn StoreReader>,
        history: Arc<HistoryQueue>,
        newest: Arc<AtomicU64>,
        end: EngineEnd,
        clock: Clock,
    ) -> io::Result<(HubBackplane, StoreThreads)> {
        let (counts, queue) = (Arc::<StoreCounts>::default(), Arc::clone(&history));
        let reader = HistoryReader { store: reader, queue, newest, counts: Arc::clone(&counts), clock };
        let queue = Arc::clone(&history);
        let reader = spawn("fanfare-history", end, move || queue.close(), move || reader.run())?;
        let (broken, submissions, skipped) = (Arc::default(), Arc::default(), Arc::default());
        let of_hub = HubBackplane { backplane, counts, history, broken, submissions, skipped };
        Ok((of_hub, StoreThreads(vec![reader])))
    }

    /// Waits for both, which end when all is stored and nothing is asked any more.
    pub(super) fn end(&mut self) {
        for thread in self.0.drain(..) {
            let mut waited = Duration::ZERO;
            while !thread.is_finished() && waited < END_TIME {
                thread::sleep(END_POLL);
                waited += END_POLL;
            }
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
    }
}

/// Starts a thread whose panic ends the engine, after `on_panic`.
fn spawn(
    name: &str,
    end: EngineEnd,
    on_panic: impl FnOnce() + Send + 'static,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        // What a panic leaves half changed is not used again: the engine ends.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
            on_panic();
            end.resume_unwind(panic);
        }
    })
}
