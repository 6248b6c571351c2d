//! What the kernel says about the machine's cores: time that they worked, that the hypervisor took, and time
//! of `ksoftirqd`.

use std::collections::BTreeMap;
use std::fs;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::sample;

/// The kernel's unit for user space (USER_HZ), which is 100 everywhere.
const TICKS_A_SECOND: f64 = 100.0;

/// What a core has done with its time, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Ticks {
    /// The hypervisor gave them to others.
    stolen: u64,
    /// There was nothing to do, or nothing but to wait for a disk.
    idle: u64,
    all: u64,
}

/// Counters of all cores at one time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cores {
    ticks: BTreeMap<usize, Ticks>,
    /// By core: nanoseconds that its `ksoftirqd` ran. Empty where the kernel's threads cannot be seen.
    ksoftirqd: BTreeMap<usize, u64>,
}

impl Cores {
    pub(crate) fn now() -> Cores {
        let ran = |&(core, thread): &(usize, i32)| Some((core, sample::schedule(thread)?.0));
        Cores {
            ticks: ticks_in(&fs::read_to_string("/proc/stat").unwrap_or_default()),
            ksoftirqd: ksoftirqd_threads().iter().filter_map(ran).collect(),
        }
    }

    /// The share of the time since an earlier reading that the hypervisor gave to others, of some cores
    /// (none: of all).
    pub(crate) fn stolen_since(&self, earlier: &Cores, cores: &[usize]) -> Option<f64> {
        let Ticks { stolen, all, .. } = self.ticks_since(earlier, cores)?;
        (all > 0).then(|| stolen as f64 / all as f64)
    }

    /// Nanoseconds that some cores (none: all) worked since an earlier reading, for whatever programs and for
    /// the kernel. The kernel counts in hundredths of a second.
    pub(crate) fn busy_since(&self, earlier: &Cores, cores: &[usize]) -> Option<f64> {
        let Ticks { stolen, idle, all } = self.ticks_since(earlier, cores)?;
        (all > 0).then(|| all.saturating_sub(idle + stolen) as f64 / TICKS_A_SECOND * 1e9)
    }

    fn ticks_since(&self, earlier: &Cores, cores: &[usize]) -> Option<Ticks> {
        let mut sum = Ticks::default();
        for (core, now) in self.ticks.iter().filter(|(core, _)| chosen(cores, **core)) {
            let before = earlier.ticks.get(core)?;
            sum.stolen += now.stolen.saturating_sub(before.stolen);
            sum.idle += now.idle.saturating_sub(before.idle);
            sum.all += now.all.saturating_sub(before.all);
        }
        Some(sum)
    }

    /// Nanoseconds that `ksoftirqd` of some cores (none: of all) ran since an earlier reading.
    pub(crate) fn ksoftirqd_since(&self, earlier: &Cores, cores: &[usize]) -> Option<u64> {
        let of = self.ksoftirqd.iter().filter(|(core, _)| chosen(cores, **core));
        let ran: Vec<u64> =
            of.filter_map(|(core, now)| Some(now.saturating_sub(*earlier.ksoftirqd.get(core)?))).collect();
        (!ran.is_empty()).then(|| ran.iter().sum())
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.ticks.len()
    }

    /// Seconds that the hypervisor gave to others since the machine was started, of all cores together.
    pub(crate) fn stolen_seconds(&self) -> f64 {
        self.ticks.values().map(|ticks| ticks.stolen as f64).sum::<f64>() / TICKS_A_SECOND
    }
}

#[cfg(test)]
impl Cores {
    /// As if `ksoftirqd` of the first cores had run for so many nanoseconds.
    pub(crate) fn with_ksoftirqd(ran: &[u64]) -> Cores {
        Cores { ksoftirqd: ran.iter().copied().enumerate().collect(), ..Cores::default() }
    }
}

fn chosen(cores: &[usize], core: usize) -> bool {
    cores.is_empty() || cores.contains(&core)
}

/// Of each core in the text of /proc/stat (proc_stat(5)). A guest's ticks are among the user's.
fn ticks_in(text: &str) -> BTreeMap<usize, Ticks> {
    let core = |line: &str| {
        let mut words = line.strip_prefix("cpu")?.split_whitespace();
        let core: usize = words.next()?.parse().ok()?;
        let ticks: Vec<u64> = words.take(8).map_while(|word| word.parse().ok()).collect();
        Some((core, Ticks { stolen: *ticks.get(7)?, idle: ticks[3] + ticks[4], all: ticks.iter().sum() }))
    };
    // The first line, without a number, is the sum of all.
    text.lines().filter(|line| !line.starts_with("cpu ")).filter_map(core).collect()
}

/// The threads `ksoftirqd/N` by core. They live as long as the machine.
fn ksoftirqd_threads() -> &'static [(usize, i32)] {
    static THREADS: OnceLock<Vec<(usize, i32)>> = OnceLock::new();
    THREADS.get_or_init(|| {
        let thread = |entry: fs::DirEntry| {
            let number: i32 = entry.file_name().to_str()?.parse().ok()?;
            let name = fs::read_to_string(format!("/proc/{number}/comm")).ok()?;
            Some((name.trim().strip_prefix("ksoftirqd/")?.parse().ok()?, number))
        };
        fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(thread).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_told_for_the_cores_that_are_asked_for() {
        let reading = |text| Cores { ticks: ticks_in(text), ..Cores::default() };
        let before =
            reading("cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 1 0 0 9 0 0 0 0 0 0\ncpu1 5 0 0 5 0 0 0 0 0 0\nintr 5");
        let after =
            reading("cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 40 0 5 40 0 0 5 20 7 0\ncpu1 5 0 0 105 0 0 0 0 0 0");
        assert_eq!(after.stolen_since(&before, &[0]), Some(0.2));
        assert_eq!(after.stolen_since(&before, &[1]), Some(0.0));
        assert_eq!(after.stolen_since(&before, &[]), Some(0.1));
        assert_eq!((after.stolen_since(&before, &[7]), after.stolen_seconds()), (None, 0.2));
        // 39 ticks of programs, 5 of the kernel and 5 of its interrupts.
        assert_eq!(after.busy_since(&before, &[0]), Some(0.49e9));
        assert_eq!(after.busy_since(&before, &[1]), Some(0.0));
        assert_eq!(after.busy_since(&before, &[7]), None);
    }

    #[test]
    fn ksoftirqd_is_told_for_the_cores_that_are_asked_for() {
        let (before, after) = (Cores::with_ksoftirqd(&[100, 200]), Cores::with_ksoftirqd(&[150, 1_200]));
        assert_eq!(after.ksoftirqd_since(&before, &[0]), Some(50));
        assert_eq!(after.ksoftirqd_since(&before, &[]), Some(1_050));
        assert_eq!(Cores::default().ksoftirqd_since(&Cores::default(), &[0]), None);
    }

    #[test]
    fn this_machine_has_cores() {
        assert!(!Cores::now().ticks.is_empty());
    }
}
