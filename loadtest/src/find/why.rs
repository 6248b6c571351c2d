//! What was at its limit in a step, as far as that can be seen from outside.

use std::fs;

use crate::report::{Report, units};
use crate::sample;
use crate::scenario::Load;

/// A resource that is used to this part is at its limit.
const FULL: f64 = 0.85;
/// Descriptors of a server that are not streams.
const OTHER_DESCRIPTORS: u64 = 100;
/// Memory that is left when there is none, as a part of all.
const LEFT_PART: f64 = 0.05;

/// A line for each resource that was at its limit, or near it.
pub(super) fn limits(report: &Report, load: &Load) -> Vec<String> {
    let mut limits = Vec::new();
    let client = &report.client;
    if client.bottleneck {
        let busiest = client.busiest_share.max(client.publisher_cpu_share);
        limits.push(format!(
            "the client (its busiest thread {:.0} % of a core, all together {:.0} % of the cores they may use)",
            busiest * 100.0,
            client.cores_share * 100.0
        ));
    }
    if let Some(share) = report.server_cpu_share
        && share >= FULL
    {
        let cores = match load.server_cores.len() {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            cores => cores,
        };
        let all = if share >= FULL * cores as f64 { "all of its cores" } else { "one busy thread's limit" };
        limits.push(format!(
            "the server's processor time ({} % of a core, of {cores} cores: {all})",
            units::number(share * 100.0)
        ));
    }
    if let Some(limit) = load.server_pid.and_then(descriptor_limit)
        && load.subscribers + OTHER_DESCRIPTORS >= limit
    {
        limits.push(format!("the server's descriptors (its limit is {limit})"));
    }
    let memory = report.problems.iter().any(|problem| problem.starts_with("memory was the limit"));
    if memory || is_memory_short() {
        limits.push("the machine's memory".to_owned());
    }
    limits
}

/// The soft limit of open files of a process.
fn descriptor_limit(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn is_memory_short() -> bool {
    let left = sample::available_bytes();
    let all = sample::memory_bytes();
    left.zip(all).is_some_and(|(left, all)| (left as f64) < all as f64 * LEFT_PART)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Client;

    #[test]
    fn what_is_full_is_named() {
        let client = Client { bottleneck: true, busiest_share: 0.97, ..Client::default() };
        let report = Report { client, server_cpu_share: Some(0.93), ..Report::default() };
        let pid = std::process::id();
        let limit = descriptor_limit(pid).unwrap();
        let load =
            Load { server_cores: vec![0], server_pid: Some(pid), subscribers: limit, ..Load::default() };
        let told = limits(&report, &load);
        assert!(told[0].contains("97 %") && told[1].contains("93 % of a core"), "{told:?}");
        assert!(told[1].contains("all of its cores") && told[2].contains(&limit.to_string()), "{told:?}");
        let quiet = Load { server_pid: Some(pid), subscribers: 1, ..Load::default() };
        let told = limits(&Report::default(), &quiet);
        assert!(told.iter().all(|line| line.contains("memory")), "{told:?}");
    }
}
