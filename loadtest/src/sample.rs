//! What the kernel says about the server's processes, the machine, and our own threads.

use std::collections::HashMap;
use std::fs;

use serde::{Deserialize, Serialize};

use crate::cores::Cores;
use crate::failure::{Failure, Outcome};
use crate::report::units;
use crate::sys;

/// A process and all that it started: nginx works in children, not in the process that was named.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server {
    pid: u32,
}

/// What the scheduler has counted so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cpu {
    /// By process, in nanoseconds. It includes threads that have ended, and the kernel's workers for a ring.
    ran: HashMap<u32, u64>,
    /// By thread that is alive: nanoseconds that it waited for a core, and how often it got one.
    waited: HashMap<i32, (u64, u64)>,
}

impl Cpu {
    /// Nanoseconds used since an earlier sample. What a process used that came and went between the two is
    /// not known.
    pub(crate) fn since(&self, earlier: &Cpu) -> u64 {
        let before = |pid: &u32| earlier.ran.get(pid).copied().unwrap_or(0);
        self.ran.iter().map(|(pid, ran)| ran.saturating_sub(before(pid))).sum()
    }

    /// Since an earlier sample: the nanoseconds that the thread with the longest wait was ready to run and
    /// had no core, and how often all threads together got one. Threads that came and went between the two
    /// are not known.
    pub(crate) fn waits_since(&self, earlier: &Cpu) -> (u64, u64) {
        let before = |thread: &i32| earlier.waited.get(thread).copied().unwrap_or((0, 0));
        self.waited.iter().fold((0, 0), |(longest, all), (thread, &(waited, switches))| {
            let (waited_before, switches_before) = before(thread);
            let waited = waited.saturating_sub(waited_before);
            (longest.max(waited), all + switches.saturating_sub(switches_before))
        })
    }
}

impl Server {
    pub(crate) fn new(pid: u32) -> Outcome<Server> {
        let server = Server { pid };
        server.cpu()?;
        Ok(server)
    }

    /// The process and its descendants.
    pub(crate) fn pids(self) -> Vec<u32> {
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            if let Some(parent) = stat(pid).and_then(|fields| fields.get(1)?.parse::<u32>().ok()) {
                children.entry(parent).or_default().push(pid);
            }
        }
        let mut all = vec![self.pid];
        let mut at = 0;
        while let Some(pid) = all.get(at) {
            all.extend(children.remove(pid).into_iter().flatten());
            at += 1;
        }
        all
    }

    /// The process groups that it and its descendants lead.
    pub(crate) fn groups(self) -> Vec<u32> {
        let leads = |pid: &u32| stat(*pid).is_some_and(|fields| fields.get(2) == Some(&pid.to_string()));
        self.pids().into_iter().filter(leads).collect()
    }

    /// All its threads.
    pub(crate) fn threads(self) -> Vec<i32> {
        self.pids().into_iter().flat_map(threads_of).collect()
    }

    pub(crate) fn cpu(self) -> Outcome<Cpu> {
        let mut cpu = Cpu::default();
        if stat(self.pid).is_none() {
            return Err(Failure::new(format!("there is no process {}: is --server-pid right?", self.pid)));
        }
        for pid in self.pids() {
            if let Some(ran) = sys::process_cpu_ns(pid) {
                cpu.ran.insert(pid, ran);
            }
            for thread in threads_of(pid) {
                if let Some([_, waited, switches]) = schedstat(thread) {
                    cpu.waited.insert(thread, (waited, switches));
                }
            }
        }
        Ok(cpu)
    }

    /// Proportional set size: user memory, pages shared with others counted in part.
    pub(crate) fn user_bytes(self) -> Option<u64> {
        // A child that has ended meanwhile has none, and is no reason to tell nothing.
        let has_ended = |pid| stat(pid).is_none_or(|fields| fields.first().is_some_and(|state| state == "Z"));
        let of = |pid| pss(pid).or_else(|| has_ended(pid).then_some(0));
        self.pids().into_iter().map(of).sum()
    }

    /// Why its memory cannot be told, where that is so: another user's process shows its CPU, not its memory.
    pub(crate) fn memory_refusal(self) -> Option<String> {
        self.pids().into_iter().map(rollup).find_map(|path| match fs::read_to_string(&path) {
            // A process that has ended meanwhile is no refusal.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                Some(format!("{path}: {error}"))
            }
            _ => None,
        })
    }
}

fn threads_of(pid: u32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let number = |entry: fs::DirEntry| entry.file_name().to_str().and_then(|name| name.parse().ok());
    tasks.filter_map(number).collect()
}

fn rollup(pid: u32) -> String {
    format!("/proc/{pid}/smaps_rollup")
}

fn pss(pid: u32) -> Option<u64> {
    kilobytes(&fs::read_to_string(rollup(pid)).ok()?, "Pss:")
}

/// User memory of this process.
pub(crate) fn own_bytes() -> u64 {
    pss(std::process::id()).unwrap_or(0)
}

/// The fields of /proc/PID/stat from the state on, which is after the name in parentheses.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

/// How long a thread ran, and how long it waited for a core, in nanoseconds.
pub(crate) fn schedule(thread: i32) -> Option<(u64, u64)> {
    schedstat(thread).map(|[ran, waited, _]| (ran, waited))
}

/// Nanoseconds that a thread ran, nanoseconds that it waited for a core, and how often it got one.
fn schedstat(thread: i32) -> Option<[u64; 3]> {
    let text = fs::read_to_string(format!("/proc/{thread}/schedstat")).ok()?;
    let mut numbers = text.split_whitespace().map_while(|number| number.parse().ok());
    Some([numbers.next()?, numbers.next()?, numbers.next()?])
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// Kernel memory of the whole machine; differences of it are what connections cost, ours included.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Kernel {
    pub(crate) slab: u64,
    pub(crate) stacks_and_tables: u64,
    /// Data in socket buffers.
    pub(crate) tcp: u64,
}

pub(crate) fn kernel() -> Kernel {
    const PAGE: u64 = 4096;
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let of = |name| kilobytes(&memory, name).unwrap_or(0);
    let sockets = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let line = sockets.lines().find_map(|line| line.strip_prefix("TCP: ")).unwrap_or("");
    let pages =
        line.split_whitespace().skip_while(|word| *word != "mem").nth(1).and_then(|text| text.parse().ok());
    Kernel {
        slab: of("Slab:"),
        stacks_and_tables: of("KernelStack:") + of("PageTables:"),
        tcp: pages.unwrap_or(0) * PAGE,
    }
}

/// Memory that can be had without swapping.
pub(crate) fn available_bytes() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// Memory of the machine.
pub(crate) fn memory_bytes() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")
}

/// The name of the first processor.
pub(crate) fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// One line about the machine, for reports.
pub(crate) fn machine() -> String {
    let unknown = || "?".to_owned();
    // Not those that this thread may use: it keeps to the client's.
    let cores = Cores::now().count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{cores} cores, {}, {} of memory, Linux {}",
        processor().unwrap_or_else(unknown),
        memory_bytes().map_or_else(unknown, |bytes| units::bytes(bytes as f64)),
        kernel.trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_process_can_be_sampled() {
        let server = Server::new(std::process::id()).unwrap();
        let before = server.cpu().unwrap();
        let mut spin = 0u64;
        while server.cpu().unwrap().since(&before) == 0 {
            spin += 1;
        }
        assert!(spin < 100_000 && server.user_bytes().unwrap() > 100_000);
        assert!(kernel().slab > 0 && available_bytes().unwrap() > 0);
        assert!(Server::new(u32::MAX - 5).unwrap_err().to_string().contains("--server-pid"));
    }

    /// Only threads that were alive at the second sample counted exactly. What short-lived ones used was
    /// known in steps of 10 ms, of which two were taken off: workers that the kernel starts for a ring and
    /// ends again were free.
    #[test]
    fn threads_that_came_and_went_between_two_samples_count() {
        let server = Server::new(std::process::id()).unwrap();
        let before = server.cpu().unwrap();
        let work = || {
            let mut spin = 0u64;
            while sys::thread_cpu_ns() < 2_000_000 {
                spin += 1;
            }
            assert!(spin > 0);
            sys::thread_cpu_ns()
        };
        let used: u64 = (0..10).map(|_| std::thread::spawn(work).join().unwrap()).sum();
        assert!(used >= 20_000_000);
        assert!(server.cpu().unwrap().since(&before) >= used);
    }

    #[test]
    fn the_wait_is_that_of_the_thread_that_waited_longest_and_a_new_thread_waited_from_its_start() {
        let cpu = |threads: &[(i32, (u64, u64))]| Cpu {
            waited: threads.iter().copied().collect(),
            ..Cpu::default()
        };
        let (before, after) = (cpu(&[(1, (50, 5)), (2, (10, 1))]), cpu(&[(1, (70, 9)), (3, (30, 2))]));
        assert_eq!(after.waits_since(&before), (30, 6));
    }
}
