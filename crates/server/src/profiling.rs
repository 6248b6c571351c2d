//! Profiles of the running server, for `--profiling`: where its threads spend processor time, and what holds
//! its memory. Both are in the format of pprof, with the names of functions.
//!
//! A profiler from a library is no choice here: those that sample by a signal keep a descriptor of a file or
//! of a pipe, and write to it in the handler of the signal. A shard has a descriptor table of its own, so the
//! number of this descriptor may be a subscriber's socket there. [`sampler`] uses no descriptor.

mod encoder;
mod heap;
mod sampler;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ffi::c_void;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use encoder::{Frame, Profile, Value};
pub(crate) use heap::{Unavailable, heap, start_with_heap_samples};

/// How often a busy thread is looked at, in times a second of processor time. It is no divisor of what the
/// server does regularly.
const FREQUENCY_HZ: i64 = 99;

/// One profile is made at a time.
static IS_SAMPLING: AtomicBool = AtomicBool::new(false);

/// Samples of the processor are taken until this is finished or dropped.
pub(crate) struct CpuProfile {
    sampler: sampler::Running,
    _only: Only,
}

/// The right to take samples.
struct Only;

impl Drop for Only {
    fn drop(&mut self) {
        IS_SAMPLING.store(false, Ordering::Release);
    }
}

impl CpuProfile {
    /// Begins to take samples. `None`: another profile is being made.
    pub(crate) fn start() -> Option<CpuProfile> {
        if IS_SAMPLING.swap(true, Ordering::Acquire) {
            return None;
        }
        let only = Only;
        Some(CpuProfile { sampler: sampler::Running::start(FREQUENCY_HZ), _only: only })
    }

    /// Ends it, and gives the profile. To look up the names of functions takes long.
    pub(crate) fn finish(self, took: Duration) -> Vec<u8> {
        let samples = self.sampler.stop();
        let period_ns = 1_000_000_000 / FREQUENCY_HZ;
        let values = [Value { name: "samples", unit: "count" }, Value { name: "cpu", unit: "nanoseconds" }];
        let mut profile = Profile::new(&values, values[1], period_ns);
        profile.set_duration(took);
        let mut names = HashMap::new();
        let mut stacks: HashMap<(i32, &[usize]), i64> = HashMap::new();
        for sample in samples.iter() {
            *stacks.entry((sample.thread(), sample.frames())).or_default() += 1;
        }
        let mut frames = Functions::default();
        for ((thread, stack), count) in stacks {
            let name = names.entry(thread).or_insert_with(|| thread_name(thread));
            let stack =
                stack.iter().enumerate().map(|(depth, &ip)| frames.of(ip, depth > 0)).collect::<Vec<_>>();
            profile.add(&stack, &[count, count * period_ns], Some(("thread", name.as_str())));
        }
        if samples.lost() > 0 {
            profile.comment(&format!("{} samples found no room", samples.lost()));
        }
        profile.encode()
    }
}

/// A thread that has ended has no name any more.
fn thread_name(thread: i32) -> String {
    let name = fs::read_to_string(format!("/proc/self/task/{thread}/comm"));
    name.map_or_else(|_| thread.to_string(), |name| name.trim_end().to_owned())
}

/// The functions at addresses, looked up once each.
#[derive(Default)]
struct Functions(HashMap<usize, Frame>);

impl Functions {
    /// The functions at an address: several, where one was inlined. A caller's address is that behind its
    /// call.
    fn of(&mut self, ip: usize, is_caller: bool) -> Frame {
        let at = if is_caller { ip.saturating_sub(1) } else { ip };
        let frame = self.0.entry(at).or_insert_with(|| {
            let mut frame = Frame { address: at as u64, functions: Vec::new() };
            backtrace::resolve(at as *mut c_void, |symbol| {
                let name = symbol.name().map_or_else(|| format!("{at:#x}"), |name| format!("{name:#}"));
                let file = symbol.filename().map(|file| file.display().to_string()).unwrap_or_default();
                frame.functions.push((name, file, symbol.lineno().unwrap_or(0)));
            });
            if frame.functions.is_empty() {
                frame.functions.push((format!("{at:#x}"), String::new(), 0));
            }
            frame
        });
        frame.clone()
    }
}

impl Drop for Functions {
    fn drop(&mut self) {
        // The library keeps the debug information that it has read.
        backtrace::clear_symbol_cache();
    }
}
