//! Where figures come from: the program, the command, the time, and the machine with its settings.

use std::collections::BTreeMap;
use std::fs;

use serde::Serialize;

use crate::cores::Cores;
use crate::{clock, sample, secrets, sys};

/// Settings of the kernel that a run of very many connections depends on, by name and file.
const SETTINGS: [(&str, &str); 12] = [
    ("fs.file-max", "/proc/sys/fs/file-max"),
    ("fs.nr_open", "/proc/sys/fs/nr_open"),
    ("kernel.pid_max", "/proc/sys/kernel/pid_max"),
    ("net.core.netdev_max_backlog", "/proc/sys/net/core/netdev_max_backlog"),
    ("net.core.somaxconn", "/proc/sys/net/core/somaxconn"),
    ("net.ipv4.ip_local_port_range", "/proc/sys/net/ipv4/ip_local_port_range"),
    ("net.ipv4.tcp_congestion_control", "/proc/sys/net/ipv4/tcp_congestion_control"),
    ("net.ipv4.tcp_mem", "/proc/sys/net/ipv4/tcp_mem"),
    ("net.ipv4.tcp_rmem", "/proc/sys/net/ipv4/tcp_rmem"),
    ("net.ipv4.tcp_wmem", "/proc/sys/net/ipv4/tcp_wmem"),
    ("rps_cpus of lo", "/sys/class/net/lo/queues/rx-0/rps_cpus"),
    ("vm.max_map_count", "/proc/sys/vm/max_map_count"),
];

/// Where the figures of a file come from.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Provenance {
    pub(crate) version: &'static str,
    /// The commit of the load test, with `-modified` where its sources differ; `unknown` outside of a clone.
    pub(crate) commit: &'static str,
    /// As it was given, without secrets.
    pub(crate) command: String,
    /// UTC.
    pub(crate) started: String,
    pub(crate) ended: String,
    pub(crate) kernel: Option<String>,
    pub(crate) processor: Option<String>,
    /// That this program may use.
    pub(crate) cores: usize,
    pub(crate) memory_bytes: Option<u64>,
    /// Of the first core; nothing where the machine does not tell, as virtual ones do not.
    pub(crate) governor: Option<String>,
    pub(crate) turbo: Option<bool>,
    pub(crate) hyperthreads: Option<bool>,
    /// The soft RLIMIT_NOFILE, which a server that it starts inherits.
    pub(crate) descriptor_limit: u64,
    /// Before the run: `--steered` changes two of them for its time.
    pub(crate) settings: BTreeMap<&'static str, String>,
    pub(crate) before: Strain,
    pub(crate) after: Strain,
}

/// How much the machine had to do.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Strain {
    /// Over one, five and fifteen minutes.
    pub(crate) load_average: Vec<f64>,
    /// That the hypervisor gave to others since the machine was started, of all cores together.
    pub(crate) stolen_seconds: f64,
}

impl Strain {
    fn now() -> Strain {
        let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load_average = text.split_whitespace().take(3).filter_map(|word| word.parse().ok()).collect();
        Strain { load_average, stolen_seconds: Cores::now().stolen_seconds() }
    }
}

impl Provenance {
    /// To be called before anything else.
    pub(crate) fn begin() -> Provenance {
        sys::raise_descriptor_limit();
        let (started, before) = (clock::utc(), Strain::now());
        let switch = |path: &str, on: &str| Some(line(path)? == on);
        let settings = SETTINGS.iter().filter_map(|&(name, path)| Some((name, line(path)?))).collect();
        Provenance {
            version: env!("CARGO_PKG_VERSION"),
            commit: env!("FANFARE_LOAD_COMMIT"),
            command: secrets::command(std::env::args_os().map(|word| word.to_string_lossy().into_owned())),
            ended: started.clone(),
            started,
            kernel: line("/proc/sys/kernel/osrelease"),
            processor: sample::processor(),
            cores: sys::allowed_cores().len(),
            memory_bytes: sample::memory_bytes(),
            governor: line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            turbo: switch("/sys/devices/system/cpu/intel_pstate/no_turbo", "0")
                .or_else(|| switch("/sys/devices/system/cpu/cpufreq/boost", "1")),
            hyperthreads: switch("/sys/devices/system/cpu/smt/active", "1"),
            descriptor_limit: sys::descriptor_limit().0,
            settings,
            after: before.clone(),
            before,
        }
    }

    /// The same, of a run that ends now.
    pub(crate) fn until_now(&self) -> Provenance {
        Provenance { ended: clock::utc(), after: Strain::now(), ..self.clone() }
    }
}

/// The text of a file of one line, its gaps as single spaces.
fn line(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_ran_when_and_where() {
        let provenance = Provenance::begin().until_now();
        assert!(!provenance.commit.is_empty() && provenance.cores > 0);
        assert!(provenance.started <= provenance.ended && provenance.started.ends_with('Z'));
        assert!(provenance.memory_bytes > Some(1 << 20) && provenance.kernel.is_some());
        assert_eq!(provenance.after.load_average.len(), 3);
        let range = &provenance.settings["net.ipv4.ip_local_port_range"];
        assert_eq!(range.split(' ').count(), 2, "{range}");
    }
}
