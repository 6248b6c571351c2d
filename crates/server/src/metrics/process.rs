//! Figures of this process from the kernel, by proc(5).

use std::fs;

/// Ticks of the processor times in `/proc/self/stat`. The kernel gives them in this unit to user space on
/// every architecture that the server is built for (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// The figures of the process. `None`: there is no proc(5), or this kernel does not have the figure.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Process {
    /// Memory in bytes that is resident.
    pub(super) resident_bytes: Option<u64>,
    /// Processor time of all threads, in seconds.
    pub(super) cpu_seconds: Option<f64>,
    pub(super) threads: Option<u64>,
    /// Descriptors in the table of the main thread. Since Linux 6.2 the size of the directory tells; to count
    /// entries would take milliseconds with 100,000 of them.
    pub(super) open_descriptors: Option<u64>,
    /// The soft `RLIMIT_NOFILE`.
    pub(super) descriptor_limit: Option<u64>,
}

impl Process {
    pub(super) fn read() -> Process {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        Process {
            resident_bytes: field("VmRSS:")
                .and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok())
                .map(|kib| kib << 10),
            cpu_seconds: cpu_seconds(&stat),
            threads: field("Threads:").and_then(|text| text.trim().parse().ok()),
            open_descriptors: fs::metadata("/proc/self/fd")
                .ok()
                .map(|table| table.len())
                .filter(|len| *len > 0),
            descriptor_limit: descriptor_limit(),
        }
    }
}

/// The soft `RLIMIT_NOFILE`.
pub(crate) fn descriptor_limit() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    limit.split_whitespace().next()?.parse().ok()
}

/// The sum of "utime" and "stime".
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The second field is the program's name in parentheses, and may hold anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut ticks = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().ok());
    let ticks = ticks.next()??.checked_add(ticks.next()??)?;
    Some(ticks as f64 / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_something_of_each() {
        let process = Process::read();
        assert!(process.resident_bytes.is_some_and(|bytes| bytes > 1 << 20), "{process:?}");
        assert!(process.threads.is_some_and(|threads| threads > 0), "{process:?}");
        assert!(process.descriptor_limit.is_some_and(|limit| limit > 0), "{process:?}");
        assert!(process.cpu_seconds.is_some(), "{process:?}");
        let stat = "7 (a) b (c) R 1 1 1 0 -1 4 1 0 0 0 250 150 0 0 20 0 1 0";
        assert_eq!(cpu_seconds(stat), Some(4.0));
        assert_eq!(cpu_seconds("7 (a) R 1"), None);
    }
}
