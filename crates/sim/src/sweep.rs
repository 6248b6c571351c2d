//! Very many stories, on several threads.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::{Choices, Tally, Trace, story, trace};

thread_local! {
    /// The message of a panic in a story of this thread; `None` outside of stories.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A story that went wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// What the panic said, where in the code, and where in the story: the time, the shard, the client, its
    /// connection, and the number up to which that was sent everything.
    pub message: String,
    /// The last lines of the story's account.
    pub account: Vec<String>,
}

/// What came of a sweep.
#[derive(Clone, Debug, Default)]
pub struct Swept {
    /// Stories told to their end.
    pub seeds: u64,
    /// What happened in them.
    pub tally: Tally,
    /// Those that went wrong, by seed.
    pub failures: Vec<Failure>,
}

/// Which stories are told.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// The first seed.
    pub from: u64,
    /// How many of them.
    pub seeds: u64,
    /// Steps of each story.
    pub steps: usize,
    /// Stories told at the same time.
    pub threads: usize,
    /// It ends when so many have gone wrong.
    pub failures: u64,
}

/// Tells them. `story_done` is called after each.
pub fn sweep(plan: Sweep, story_done: &(impl Fn() + Sync)) -> Swept {
    keep_panics();
    let (next, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let worker = || {
        let mut swept = Swept::default();
        while failed.load(Ordering::Relaxed) < plan.failures {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= plan.seeds {
                break;
            }
            let seed = plan.from + index;
            match attempt(seed, plan.steps) {
                Ok(tally) => {
                    swept.seeds += 1;
                    swept.tally.merge(&tally);
                }
                Err(failure) => {
                    swept.failures.push(failure);
                    failed.fetch_add(1, Ordering::Relaxed);
                }
            }
            story_done();
        }
        swept
    };
    let mut all = Swept::default();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..plan.threads).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            let swept = worker.join().expect("stories' panics are caught");
            all.seeds += swept.seeds;
            all.tally.merge(&swept.tally);
            all.failures.extend(swept.failures);
        }
    });
    all.failures.sort_by_key(|failure| failure.seed);
    all
}

/// Tells one story, and says how it went wrong if it did.
fn attempt(seed: u64, steps: usize) -> Result<Tally, Failure> {
    let tell = |trace| {
        PANIC.set(Some(String::new()));
        let told = panic::catch_unwind(AssertUnwindSafe(|| story(Choices::from_seed(seed), steps, trace)));
        let message = PANIC.take().unwrap_or_default();
        told.map_err(|_| message)
    };
    tell(Trace::Off).map_err(|message| {
        // The same seed tells the same story: this time with its account.
        let _ = tell(Trace::Recent);
        Failure { seed, message, account: trace::take_recent() }
    })
}

/// Whether panics of this thread are kept, because it tells stories of a sweep.
pub(crate) fn keeps_panics() -> bool {
    PANIC.with_borrow(Option::is_some)
}

/// Panics in stories are kept instead of printed.
fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let kept = PANIC.with_borrow_mut(|message| match message {
                Some(message) => {
                    let text = info.to_string().replace('\n', " ");
                    if message.is_empty() {
                        *message = format!("{text} ({})", trace::position());
                    }
                    true
                }
                None => false,
            });
            if !kept {
                usual(info);
            }
        }));
    });
}
