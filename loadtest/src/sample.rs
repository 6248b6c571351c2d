//! What the kernel says about the server's processes, the machine, and our own threads.

use std::collections::HashMap;
use std::fs;

use crate::failure::{Failure, Outcome};

/// A process and all that it started: nginx works in children, not in the process that was named.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server {
    pid: u32,
}

/// CPU time used so far, counted twice.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cpu {
    /// Of each thread that is alive, exact.
    threads: HashMap<i32, u64>,
    /// Of the processes, threads that ended included, in steps of a clock tick.
    processes_ns: u64,
    processes: u64,
}

impl Cpu {
    /// Used since an earlier sample. What threads used that came and went between the two is in steps of a
    /// tick.
    pub(crate) fn since(&self, earlier: &Cpu) -> u64 {
        let new = |(thread, ran): (&i32, &u64)| {
            ran.saturating_sub(earlier.threads.get(thread).copied().unwrap_or(0))
        };
        let exact: u64 = self.threads.iter().map(new).sum();
        let ticked = self.processes_ns.saturating_sub(earlier.processes_ns);
        exact.max(ticked.saturating_sub(2 * TICK_NS * self.processes))
    }
}

/// The kernel's unit for user space (USER_HZ), which is 100 everywhere.
const TICK_NS: u64 = 10_000_000;

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
        let tasks = |pid: u32| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let number = |entry: fs::DirEntry| entry.file_name().to_str().and_then(|name| name.parse().ok());
        self.pids().into_iter().flat_map(tasks).filter_map(number).collect()
    }

    pub(crate) fn cpu(self) -> Outcome<Cpu> {
        let mut cpu = Cpu::default();
        if stat(self.pid).is_none() {
            return Err(Failure::new(format!("there is no process {}: is --server-pid right?", self.pid)));
        }
        for thread in self.threads() {
            if let Some((ran, _)) = schedule(thread) {
                cpu.threads.insert(thread, ran);
            }
        }
        for pid in self.pids() {
            let Some(fields) = stat(pid) else { continue };
            let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
            cpu.processes_ns += (ticks(11) + ticks(12)) * TICK_NS;
            cpu.processes += 1;
        }
        Ok(cpu)
    }

    /// Proportional set size: user memory, pages shared with others counted in part.
    pub(crate) fn user_bytes(self) -> Option<u64> {
        self.pids().into_iter().map(pss).sum()
    }

    /// Why its memory cannot be told, where that is so: another user's process shows its CPU, not its memory.
    pub(crate) fn memory_refusal(self) -> Option<String> {
        self.pids().into_iter().map(rollup).find_map(|path| match fs::read_to_string(&path) {
            // Who has ended meanwhile is no refusal.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                Some(format!("{path}: {error}"))
            }
            _ => None,
        })
    }
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
    let text = fs::read_to_string(format!("/proc/{thread}/schedstat")).ok()?;
    let mut numbers = text.split_whitespace().map_while(|number| number.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// Kernel memory of the whole machine; differences of it are what connections cost, ours included.
#[derive(Clone, Copy, Debug, Default)]
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

/// All memory of the machine.
pub(crate) fn all_bytes() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")
}

/// One line about the machine, for reports.
pub(crate) fn machine() -> String {
    let first = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or("");
        line.split_once(':').map_or("?", |(_, value)| value.trim()).to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{cores} cores, {}, {} of memory, Linux {}",
        first("/proc/cpuinfo", "model name"),
        first("/proc/meminfo", "MemTotal"),
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
}
