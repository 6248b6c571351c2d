//! The kernel's memory for TCP is used up.
//!
//! `net.ipv4.tcp_mem` is one value for the whole machine: a network namespace has none of its own. So it is
//! lowered for seconds only, and a process of its own restores it as soon as this process lets go of it, in
//! whatever way.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::outcome::Outcome;
use crate::run::Run;

const LIMITS: &str = "/proc/sys/net/ipv4/tcp_mem";

/// How many pages all TCP sockets of the machine may use beyond what they use already.
const LEFT_PAGES: u64 = 64;

/// How often the limit is lowered at most. Other programs may free memory after a limit was computed, and
/// then the limit is not reached.
const TRIES: usize = 3;

/// How long the limit is low, and how often the use is read.
const LOWERED_FOR: Duration = Duration::from_secs(4);
const CHECK_EVERY: Duration = Duration::from_millis(10);

pub(super) fn apply(run: &mut Run) -> Result<Outcome, String> {
    if run.smoke {
        return Ok(Outcome { skipped: true, ..Outcome::noted("skipped: machine-wide, not part of --smoke") });
    }
    if !rustix::process::geteuid().is_root() {
        return Ok(Outcome {
            skipped: true,
            ..Outcome::noted("skipped: needs root to lower net.ipv4.tcp_mem")
        });
    }
    // One run at a time: two runs would take each other's limit for the machine's, and restore that.
    let turn = File::open(LIMITS).and_then(|file| file.lock().map(|()| file));
    let _turn = turn.map_err(|error| format!("{LIMITS} cannot be locked: {error}"))?;
    let outage = run.target.problems.outage();
    let (mut most, mut peak) = lower_limit(run)?;
    for _ in 1..TRIES {
        if peak >= most {
            break;
        }
        (most, peak) = lower_limit(run)?;
    }
    drop(outage);
    let mut outcome = Outcome::noted(format!("{most} pages allowed, {peak} used at most"));
    if !run.stopped() {
        outcome.violations.extend(short_of(most, peak));
    }
    Ok(outcome)
}

/// Lowers the limit for a while. Returns the limit and the highest use, in pages.
fn lower_limit(run: &mut Run) -> Result<(u64, u64), String> {
    let used = used_pages().ok_or("/proc/net/sockstat does not tell TCP's memory")?;
    let most = used + LEFT_PAGES;
    let lowered =
        Lowered::to(&format!("{} {} {most}", most / 4, most / 2)).map_err(|error| error.to_string())?;
    // Subscribers that stall hold memory that others need.
    run.target.subscribers.stall(0.3, Duration::from_secs(3));
    let mut peak = used;
    let deadline = run.clock.now() + LOWERED_FOR;
    while run.clock.now() < deadline && !run.stopped() {
        run.wait(CHECK_EVERY);
        peak = peak.max(used_pages().unwrap_or(0));
    }
    lowered.put_back()?;
    Ok((most, peak))
}

/// A violation if the limit was not reached: the kernel refuses no memory below it.
fn short_of(most: u64, peak: u64) -> Option<String> {
    (peak < most).then(|| format!("TCP used {peak} pages at most, its limit of {most} was not reached"))
}

fn used_pages() -> Option<u64> {
    let text = fs::read_to_string("/proc/net/sockstat").ok()?;
    let line = text.lines().find(|line| line.starts_with("TCP:"))?;
    line.split_whitespace().skip_while(|word| *word != "mem").nth(1)?.parse().ok()
}

/// The lowered limits. A shell restores the old ones when its standard input ends: because this is dropped,
/// by a panic, or because any signal ends this process.
struct Lowered {
    limits: String,
    before: String,
    keeper: Child,
}

impl Lowered {
    fn to(limits: &str) -> io::Result<Lowered> {
        let before = fs::read_to_string(LIMITS)?.split_whitespace().collect::<Vec<_>>().join(" ");
        // Limits that were set by others meanwhile stay. `cat` instead of `read`, because some shells read
        // one byte at a time, and this file gives nothing after the first byte.
        let script = "trap '' INT TERM HUP; read -r _
            set -- \"$1\" \"$2\" $(cat \"$0\"); [ \"$3 $4 $5\" != \"$2\" ] || echo \"$1\" > \"$0\"";
        let mut keeper = Command::new("sh");
        keeper.args(["-c", script, LIMITS, &before, limits]).process_group(0).stdin(Stdio::piped());
        let lowered = Lowered { limits: limits.to_owned(), before, keeper: keeper.spawn()? };
        fs::write(LIMITS, limits)?;
        Ok(lowered)
    }

    fn put_back(mut self) -> Result<(), String> {
        self.release();
        let now = fs::read_to_string(LIMITS).unwrap_or_default();
        match now.split_whitespace().ne(self.limits.split_whitespace()) {
            true => Ok(()),
            false => Err(format!("{LIMITS} is {now:?} and was {:?}: put it back by hand", self.before)),
        }
    }

    fn release(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

impl Drop for Lowered {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A limit that was not reached passed, although the fault did not happen.
    #[test]
    fn a_limit_that_is_not_reached_is_a_violation() {
        assert!(short_of(1_000, 999).is_some());
        assert!(short_of(1_000, 1_000).is_none());
    }
}
