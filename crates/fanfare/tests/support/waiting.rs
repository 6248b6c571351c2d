//! Waiting for what an engine does on other threads, so that a test for which it never comes fails, with what
//! it saw.

use std::fmt::Debug;
use std::thread;
use std::time::Duration;

use fanfare::{Counts, Hub};

/// How often a state is looked at, a millisecond apart: 20 seconds.
const LOOKS: usize = 20_000;

/// Looks at something until it is as it should be, and gives it.
#[allow(dead_code, reason = "not every test looks at something else than counts")]
pub(crate) fn wait_for_state<T: Debug>(mut look: impl FnMut() -> T, is_so: impl Fn(&T) -> bool) -> T {
    let mut last = look();
    for _ in 0..LOOKS {
        if is_so(&last) {
            return last;
        }
        thread::sleep(Duration::from_millis(1));
        last = look();
    }
    panic!("it stays at {last:?}");
}

/// Waits for the counts of a hub, which are told once in a tick.
pub(crate) fn wait_for_counts(hub: &Hub, is_so: impl Fn(&Counts) -> bool) -> Counts {
    wait_for_state(|| hub.counts(), is_so)
}
