//! The server's allocator: jemalloc, so that what a burst needed goes back to the system.
//!
//! It takes the lowest free place of a size, so the log's frames, which go in the order in which they came,
//! move together again, and whole pages between them become free. Why these options: `docs/DECISIONS.md`.

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// One arena, and no caches of threads: a frame is freed by whichever shard is last, and would wait in its
/// cache. Pages that have been free for a second go back.
#[used]
#[unsafe(export_name = "_rjem_malloc_conf")]
static OPTIONS: &[u8; 60] = b"narenas:1,tcache:false,dirty_decay_ms:1000,muzzy_decay_ms:0\0";

/// Gives back what has been free for long enough. jemalloc checks by itself only when something is allocated
/// or freed, which a server at rest hardly does.
pub(crate) fn give_back() {
    // SAFETY: the name ends with a zero, and this command takes and gives no value (jemalloc(3),
    // `arena.<i>.decay`; 4096 stands for all arenas).
    unsafe {
        tikv_jemalloc_sys::mallctl(
            c"arena.4096.decay".as_ptr(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            0,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::thread;
    use std::time::Duration;

    fn resident_bytes() -> u64 {
        let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// A server's memory stayed half as large again as before a burst: the frames that the log kept lay
    /// between those that it had dropped, and those that followed took their places.
    #[test]
    fn a_log_moves_together_again_after_a_burst() {
        let frame = |length: usize| vec![1_u8; length];
        let lengths = [100, 1_700, 400, 900];
        // Eight MiB that lie among 40.
        let mut log: std::collections::VecDeque<_> =
            (0..50_000).map(|number| frame(lengths[number % 4])).collect();
        let mut number = 0;
        log.retain(|_| {
            number += 1;
            number % 5 == 0
        });
        let burst = resident_bytes();
        for _ in 0..2 * log.len() {
            log.pop_front();
            log.push_back(frame(900));
        }
        // As often as it takes: each call gives back a part.
        let kept = log.iter().map(|frame| frame.len() as u64).sum::<u64>();
        let fits = || burst.saturating_sub(resident_bytes()) > 25 << 20;
        for _ in 0..600 {
            thread::sleep(Duration::from_millis(100));
            give_back();
            if fits() {
                break;
            }
        }
        assert!(fits(), "{kept} bytes are in use; {burst} were resident, {} are", resident_bytes());
    }
}
