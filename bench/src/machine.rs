//! The machine: which cores are used, what it is, what a thread or a process has taken of it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use fanfare_io::{Backend, affinity};

use crate::Outcome;

/// Where the two sides run.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    /// Whatever sends: the shard, or the bare loop.
    pub server: usize,
    /// Everything else: clients, publishers, and whoever watches.
    pub client: usize,
}

impl Cores {
    /// The first two cores that this process may use; one core for both where there is only one.
    ///
    /// Called before the first thread is pinned.
    ///
    /// # Errors
    /// The kernel does not tell the cores.
    pub fn choose() -> Outcome<Cores> {
        let all = affinity::cores()?;
        let server = *all.first().ok_or("this process may use no core")?;
        let client = *all.get(1).unwrap_or(&server);
        if client == server {
            println!("note: one core for both sides; figures include their taking turns");
        }
        Ok(Cores { server, client })
    }
}

/// Prints the line that every benchmark begins with.
pub fn introduce(benchmark: &str, backends: &[Backend]) {
    let cores = affinity::cores().map_or(0, |cores| cores.len());
    let model = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".to_owned());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let backends: Vec<String> = backends.iter().map(ToString::to_string).collect();
    let backends = if backends.is_empty() { "none".to_owned() } else { backends.join(" and ") };
    println!("{benchmark}: {cores} cores, {model}, Linux {}, backend {backends}", kernel.trim());
}

/// The backends that work here; says which do not, and why.
pub fn backends() -> Vec<Backend> {
    let mut working = Vec::new();
    for backend in [Backend::Epoll, Backend::IoUring] {
        match backend.resolve() {
            Ok(_) => working.push(backend),
            Err(error) => println!("note: without {backend}: {error}"),
        }
    }
    working
}

/// How a backend is called in keys: `epoll` or `io_uring`.
pub fn key(backend: Backend) -> &'static str {
    match backend {
        Backend::Epoll => "epoll",
        Backend::IoUring => "io_uring",
        _ => "auto",
    }
}

/// The CPU time of another thread of this process.
///
/// The same sum as in `/proc/self/task/TID/schedstat`, but right also while the thread runs: the file
/// is brought up to date only at a tick or a switch.
#[derive(Clone, Copy, Debug)]
pub struct ThreadClock {
    id: libc::clockid_t,
    thread: i32,
}

impl ThreadClock {
    /// The clock of the thread with this id.
    pub fn of(thread: i32) -> ThreadClock {
        /// The kernel's encoding of a thread's scheduler clock (`CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED`).
        const THREAD_SCHED: libc::clockid_t = 4 | 2;
        ThreadClock { id: (!thread << 3) | THREAD_SCHED, thread }
    }

    /// What the thread has used so far; zero once it has ended.
    pub fn now(&self) -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a valid timespec to write to; for a thread that is gone the call fails.
        unsafe { libc::clock_gettime(self.id, &mut time) };
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }

    /// How long it was ready to run while others had its core: what disturbed it.
    pub fn kept_waiting(&self) -> Duration {
        let path = format!("/proc/self/task/{}/schedstat", self.thread);
        let text = fs::read_to_string(path).unwrap_or_default();
        let nanos = text.split_whitespace().nth(1).and_then(|nanos| nanos.parse().ok());
        Duration::from_nanos(nanos.unwrap_or(0))
    }
}

/// The CPU time of the kernel's thread that takes over receive work on a core when too much of it comes
/// at once: what a sender causes there is not in the sender's own time.
#[derive(Clone, Debug)]
pub struct SoftirqClock {
    schedstat: Option<PathBuf>,
}

impl SoftirqClock {
    /// The clock of this core's thread. It stands still where the kernel's threads are hidden from us.
    pub fn of(core: usize) -> SoftirqClock {
        let name = format!("ksoftirqd/{core}");
        let is_it = |process: &fs::DirEntry| {
            fs::read_to_string(process.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
        };
        let mut processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        SoftirqClock { schedstat: processes.find(is_it).map(|process| process.path().join("schedstat")) }
    }

    /// Whether it shows anything.
    pub fn works(&self) -> bool {
        self.schedstat.is_some()
    }

    /// What that thread has used so far, up to its last switch or tick.
    pub fn now(&self) -> Duration {
        let text = self.schedstat.as_ref().and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        let nanos = text.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
        Duration::from_nanos(nanos.unwrap_or(0))
    }
}

/// The id of the calling thread.
pub fn thread_id() -> i32 {
    // SAFETY: no pointers are involved.
    unsafe { libc::gettid() }
}

/// The ids of this process's threads whose name begins so.
pub fn threads_named(prefix: &str) -> Vec<i32> {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    let named = |task: fs::DirEntry| {
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        let id = task.file_name().to_str()?.parse().ok()?;
        name.starts_with(prefix).then_some(id)
    };
    tasks.flatten().filter_map(named).collect()
}

/// The one thread whose name begins so and that is not among these.
///
/// # Errors
/// There is none, or there are several.
pub fn new_thread(prefix: &str, before: &[i32]) -> Outcome<i32> {
    let new = threads_named(prefix).into_iter().filter(|thread| !before.contains(thread));
    match new.collect::<Vec<_>>()[..] {
        [thread] => Ok(thread),
        _ => Err(format!("the thread {prefix} is not found").into()),
    }
}

/// Lets the calling thread go before others on its core, so that a late wake-up is not taken for a late
/// delivery. Says what it got: real-time priority, a better niceness, or nothing.
pub fn hurry() -> &'static str {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameters outlive the call; 0 means the calling thread.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameters) } == 0 {
        return "real-time priority";
    }
    // SAFETY: no pointers are involved; on Linux 0 means the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) } == 0 {
        return "niceness -20";
    }
    "ordinary priority"
}

/// Resident bytes of this process.
pub fn resident_bytes() -> u64 {
    kilobytes("/proc/self/status", "VmRSS") * 1024
}

/// This process's share of resident memory: what only it maps, and its part of what others map too.
pub fn proportional_bytes() -> u64 {
    kilobytes("/proc/self/smaps_rollup", "Pss") * 1024
}

/// Bytes of slab memory of the whole machine: sockets, files and what belongs to them.
pub fn slab_bytes() -> u64 {
    kilobytes("/proc/meminfo", "Slab") * 1024
}

/// Bytes that TCP holds in buffers, on the whole machine.
pub fn tcp_buffer_bytes() -> u64 {
    let text = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let tcp = text.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let pages = tcp.split_whitespace().skip_while(|word| *word != "mem").nth(1);
    pages.and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

fn kilobytes(path: &str, name: &str) -> u64 {
    let value = field(path, name).unwrap_or_default();
    value.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The value of the first `name: value` line of a file under /proc.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}
