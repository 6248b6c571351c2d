//! Memory that was freed and that the allocator still holds.
//!
//! glibc gives back by itself only what lies free at the end of a heap. What lies between two blocks in use stays: after
//! a burst the log's small frames keep most of a large heap resident.

/// How much of the heap is in use, and how much of it was freed and is still held, in bytes. Nothing is known of other
/// allocators than glibc's.
#[must_use]
pub fn heap() -> Option<(usize, usize)> {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: it only counts, under the heaps' own locks.
        let info = unsafe { libc::mallinfo2() };
        Some((info.uordblks, info.fordblks))
    }
    #[cfg(not(target_env = "gnu"))]
    None
}

/// Gives back to the system every whole page that is free. Threads that allocate meanwhile wait for a moment: about a
/// millisecond for some megabytes.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it touches only what is free, under the heaps' own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    fn resident_bytes() -> usize {
        let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").expect("proc is mounted");
        let line =
            rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).expect("the format of proc(5)");
        line.trim().trim_end_matches(" kB").parse::<usize>().expect("a count") << 10
    }

    /// A server's memory stayed half as large again as before a burst: the frames that the log kept lay between those
    /// that it had dropped.
    #[test]
    fn free_pages_between_blocks_in_use_go_back() {
        let mut blocks: Vec<Vec<u8>> = (0..64_000).map(|_| vec![1; 1_000]).collect();
        let mut number = 0;
        blocks.retain(|_| {
            number += 1;
            number % 16 == 0
        });
        let (_, free) = heap().unwrap();
        assert!(free > 50 << 20, "{free} bytes are free");
        let before = resident_bytes();
        give_back();
        let after = resident_bytes();
        assert!(before - after > 30 << 20, "{before} bytes were resident, {after} are");
        assert_eq!(blocks.len(), 4_000);
    }
}
