//! The preflight: each limit that is too low is named, with the command that raises it, before anything
//! starts.

use std::fs;
use std::net::SocketAddr;

use crate::failure::{Failure, Outcome};
use crate::sample;
use crate::sources::Sources;
use crate::sys;
use crate::tun::Networks;

/// Kernel memory of an idle pair of sockets on one machine, both ends watched.
const PAIR_BYTES: u64 = 8_400;
/// Descriptors of a client thread that are not streams.
const SPARE: u64 = 64;

fn number(path: &str, field: usize) -> Option<u64> {
    fs::read_to_string(path).ok()?.split_whitespace().nth(field)?.parse().ok()
}

/// How many descriptor tables so many streams need.
pub(crate) fn tables_for(subscribers: u64) -> usize {
    sys::raise_descriptor_limit();
    let (limit, _) = sys::descriptor_limit();
    subscribers.div_ceil(limit.saturating_sub(SPARE).max(1)) as usize
}

/// Ends the run where it could not succeed: each limit that is too low is a line. Returns what may become a
/// limit on the server's side.
pub(crate) fn preflight(
    target: SocketAddr,
    subscribers: u64,
    threads: u64,
    sources: &Sources,
) -> Outcome<Vec<String>> {
    let mut wrong = Vec::new();
    let (limit, _) = sys::descriptor_limit();
    let each = subscribers.div_ceil(threads) + SPARE;
    if each > limit {
        let needed = tables_for(subscribers);
        wrong.push(format!(
            "{subscribers} streams on {threads} threads need {each} descriptors in each thread's table, the limit is {limit}: raise it with `ulimit -n {each}`, or use --threads {needed}"
        ));
    }
    let range = "/proc/sys/net/ipv4/ip_local_port_range";
    if let (Some(first), Some(last)) = (number(range, 0), number(range, 1)) {
        let room = sources.capacity((last - first + 1) as usize) as u64;
        if subscribers > room {
            wrong.push(format!(
                "{subscribers} streams need as many source ports, there are {room}: give more addresses with --sources, or widen the range: sysctl -w net.ipv4.ip_local_port_range='1024 65535'"
            ));
        }
    }
    let same_machine = target.ip().is_loopback();
    let ends = if same_machine { 2 } else { 1 };
    verdict(subscribers, ends, same_machine, wrong)
}

/// The same where the clients' ends are no sockets and the server is on this machine.
pub(crate) fn preflight_tun(
    targets: &[SocketAddr],
    subscribers: u64,
    threads: usize,
    networks: &Networks,
) -> Outcome<Vec<String>> {
    let mut wrong = Vec::new();
    match targets {
        [SocketAddr::V4(target)] if target.ip().is_loopback() => wrong.push(format!(
            "--tun: {target} is on loopback, which no packet of a TUN device reaches: let the server listen on another address of the machine, and name it in --url"
        )),
        [SocketAddr::V4(_)] => {}
        _ => wrong.push("--tun: all streams must go to one server with an IPv4 address".to_owned()),
    }
    let room = networks.capacity(threads);
    if subscribers > room {
        wrong.push(format!(
            "--tun: {subscribers} streams over {threads} devices need as many ports, the network has {room}: name a larger one"
        ));
    }
    verdict(subscribers, 1, true, wrong)
}

/// What so many streams need of the kernel, with so many of the two ends of each as sockets on this machine.
fn verdict(subscribers: u64, ends: u64, same_machine: bool, mut wrong: Vec<String>) -> Outcome<Vec<String>> {
    let sockets = ends * subscribers;
    if let (Some(used), Some(most)) = (number("/proc/sys/fs/file-nr", 0), number("/proc/sys/fs/file-max", 0))
    {
        let needed = used + sockets + 1_000;
        if needed > most {
            wrong.push(format!(
                "{sockets} sockets more need fs.file-max of {needed}, it is {most}: sysctl -w fs.file-max={needed}"
            ));
        }
    }
    if let (Some(used), Some(most)) = (
        number("/proc/sys/net/netfilter/nf_conntrack_count", 0),
        number("/proc/sys/net/netfilter/nf_conntrack_max", 0),
    ) && used + subscribers > most
    {
        let needed = used + subscribers + 1_000;
        wrong.push(format!(
            "connection tracking holds {most} connections, {needed} are needed: sysctl -w net.netfilter.nf_conntrack_max={needed}"
        ));
    }
    let memory = sockets * PAIR_BYTES / 2;
    if let Some(available) = sample::available_bytes()
        && memory > available
    {
        let mega = |bytes: u64| bytes >> 20;
        wrong.push(format!(
            "{subscribers} streams need about {} MiB of kernel memory, {} MiB are available: use fewer --subscribers",
            mega(memory),
            mega(available)
        ));
    }
    match wrong.is_empty() {
        true => Ok(warnings(subscribers, same_machine)),
        // All of them, so that they can be raised at once.
        false => Err(Failure::limit([wrong, warnings(subscribers, same_machine)].concat().join("\n"))),
    }
}

/// What does not stop a run but may spoil it.
fn warnings(subscribers: u64, same_machine: bool) -> Vec<String> {
    let mut notes = Vec::new();
    // An event holds at least a page per socket until it is acknowledged.
    if let Some(most) = number("/proc/sys/net/ipv4/tcp_mem", 2)
        && subscribers > most
    {
        notes.push(format!(
            "an event to {subscribers} sockets can hold as many pages, net.ipv4.tcp_mem ends at {most}: sysctl -w net.ipv4.tcp_mem='{subscribers} {subscribers} {}'",
            subscribers * 2
        ));
    }
    if same_machine
        && let Some(backlog) = number("/proc/sys/net/core/somaxconn", 0)
        && backlog < 512
    {
        notes.push(format!(
            "net.core.somaxconn is {backlog}: connects may wait a second: sysctl -w net.core.somaxconn=4096"
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_too_low_is_named_with_the_command() {
        let target = SocketAddr::from(([127, 0, 0, 1], 1));
        preflight(target, 100, 1, &Sources::default()).unwrap();
        let told = preflight(target, 900_000, 1_000, &Sources::default()).unwrap_err().to_string();
        assert!(told.contains("--sources") && told.contains("ip_local_port_range"), "{told}");
        assert!(!told.contains("ulimit -n"), "{told}");
    }

    #[test]
    fn a_network_that_is_too_small_is_named() {
        let networks = Networks::parse("load,10.0.0.0/28").unwrap();
        let told = |target: &str| {
            let target = target.parse().unwrap();
            preflight_tun(&[target], 100_000, 1, &networks).unwrap_err().to_string()
        };
        assert!(told("10.0.0.1:80").contains("name a larger one"));
        assert!(told("127.0.0.1:80").contains("loopback"));
        assert!(told("[::1]:80").contains("IPv4"));
        preflight_tun(&["10.0.0.1:80".parse().unwrap()], 10_000, 1, &networks).unwrap();
    }

    /// Only the first was named: who raised it was shown the second.
    #[test]
    fn each_limit_that_is_too_low_is_a_line() {
        let target = SocketAddr::from(([127, 0, 0, 1], 1));
        let told = preflight(target, 1 << 40, 1, &Sources::default()).unwrap_err().to_string();
        let lines: Vec<&str> = told.lines().collect();
        for (line, command) in lines.iter().zip(["ulimit -n", "ip_local_port_range="]) {
            assert!(line.contains(command), "{told}");
        }
        for command in ["use fewer --subscribers", "sysctl -w net.ipv4.tcp_mem="] {
            assert!(lines.iter().any(|line| line.contains(command)), "{told}");
        }
    }
}
