//! Very many stories, on several threads.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::{Choices, Tally, Trace, story};

thread_local! {
    /// The message of a panic in a story of this thread; `None` outside of stories.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A story that went wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// Where, and what the panic said.
    pub message: String,
}

/// What came of a sweep.
#[derive(Clone, Debug, Default)]
pub struct Swept {
    /// Stories told to their end.
    pub seeds: u64,
    /// What happened in them.
    pub tally: Tally,
    /// Those that went wrong, by seed. The sweep stops at the first.
    pub failures: Vec<Failure>,
}

/// Tells the stories of `count` seeds from `from` on, on so many threads. `told` is called after each, with the sum.
pub fn sweep(from: u64, count: u64, steps: usize, threads: usize, told: &(impl Fn() + Sync)) -> Swept {
    keep_panics();
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let worker = || {
        let mut swept = Swept::default();
        while !stop.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                break;
            }
            let seed = from + index;
            match attempt(seed, steps) {
                Ok(tally) => {
                    swept.seeds += 1;
                    swept.tally.merge(&tally);
                }
                Err(message) => {
                    swept.failures.push(Failure { seed, message });
                    stop.store(true, Ordering::Relaxed);
                }
            }
            told();
        }
        swept
    };
    let mut all = Swept::default();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
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

/// Tells one story, and says how it panicked if it did.
fn attempt(seed: u64, steps: usize) -> Result<Tally, String> {
    PANIC.set(Some(String::new()));
    let told = panic::catch_unwind(AssertUnwindSafe(|| story(Choices::from_seed(seed), steps, Trace::Off)));
    let message = PANIC.take().unwrap_or_default();
    told.map_err(|_| message)
}

/// Panics in stories are kept instead of printed.
fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let kept = PANIC.with_borrow_mut(|message| match message {
                Some(message) => {
                    if message.is_empty() {
                        *message = info.to_string().replace('\n', " ");
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
