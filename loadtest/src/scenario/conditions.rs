//! What the machine did to a run: time of `ksoftirqd`, time that the hypervisor took, waits for a core.

use super::Load;
use super::figures::Evidence;
use super::snapshot::Snapshot;
use crate::clock::SECOND;
use crate::report::{Conditions, Report, round};
use crate::steer::{client_cores, server_is_alone};

/// A hypervisor that took more of the time than this made the machine another one.
const STOLEN_SHARE: f64 = 0.02;
/// A server that had to wait for a core more than this was not measured alone.
const WAITED_SHARE: f64 = 0.15;

/// The time of `ksoftirqd` between two snapshots that is counted as the server's, in nanoseconds.
///
/// The kernel moves work that sends cause to this thread, which belongs to the machine. Where the server's
/// cores are its own, nothing but the server's traffic gives it work there. Elsewhere its time is partly the
/// client's and is not counted.
pub(super) fn ksoftirqd_of_server(load: &Load, evidence: &Evidence, from: &Snapshot, to: &Snapshot) -> f64 {
    if !is_alone(load, evidence) {
        return 0.0;
    }
    to.cores.ksoftirqd_since(&from.cores, &load.server_cores).map_or(0.0, |ns| ns as f64)
}

/// Whether nothing but the server's traffic makes work on the server's cores.
fn is_alone(load: &Load, evidence: &Evidence) -> bool {
    match load.agents.is_empty() && load.server_watch.is_none() {
        true => server_is_alone(load),
        false => evidence.server_has_machine,
    }
}

/// Adds to the report what the machine did in the measured window, and the notes on it.
pub(super) fn conditions(report: &mut Report, load: &Load, evidence: &Evidence) {
    let (from, to) = (&evidence.window_before, &evidence.window_after);
    if to.at <= from.at {
        return;
    }
    let time = (to.at - from.at) as f64;
    let stolen = |cores: &[usize]| to.cores.stolen_since(&from.cores, cores).map(round);
    let pinned = !load.server_cores.is_empty();
    let waits = to.cpu.as_ref().zip(from.cpu.as_ref()).map(|(to, from)| to.waits_since(from));
    report.conditions = Conditions {
        stolen_share: stolen(&[]),
        stolen_share_of_server_cores: if pinned { stolen(&load.server_cores) } else { None },
        stolen_share_of_client_cores: match evidence.machines.as_slice() {
            [] if load.server_watch.is_none() => stolen(&client_cores(load)),
            // What was looked at are the cores of the server's machine.
            machines => machines.iter().filter_map(|machine| machine.stolen_share).reduce(f64::max),
        },
        server_waited_share: waits.map(|(waited, _)| round(waited as f64 / time)),
        server_switches_per_s: waits.map(|(_, switches)| round(switches as f64 / (time / SECOND as f64))),
    };
    ksoftirqd(report, load, evidence);
    report.notes.extend(notes(&report.conditions));
}

fn ksoftirqd(report: &mut Report, load: &Load, evidence: &Evidence) {
    if evidence.window_after.cpu.is_none() {
        return;
    }
    let (from, to) = (&evidence.window_before, &evidence.window_after);
    let Some(ns) = to.cores.ksoftirqd_since(&from.cores, &load.server_cores) else {
        report.notes.push(
            "the kernel's ksoftirqd threads cannot be seen here: what they do for the server is not counted"
                .to_owned(),
        );
        return;
    };
    report.ksoftirqd_is_the_servers = is_alone(load, evidence);
    let delivered = evidence.delivered_in_window();
    if delivered > 0 {
        report.ksoftirqd_cpu_us_per_delivery = Some(round(ns as f64 / 1e3 / delivered as f64));
    }
}

fn notes(conditions: &Conditions) -> Vec<String> {
    let mut notes = Vec::new();
    let whose = [
        ("the server's cores", conditions.stolen_share_of_server_cores),
        ("the client's cores", conditions.stolen_share_of_client_cores),
        ("all cores", conditions.stolen_share),
    ];
    let most = whose.into_iter().filter_map(|(whose, share)| Some((whose, share?)));
    // The first of equals: where the server or the client has all cores, one note says it.
    let most = most.fold(None, |most: Option<(&str, f64)>, one| match most {
        Some(most) if most.1 >= one.1 => Some(most),
        _ => Some(one),
    });
    if let Some((whose, share)) = most.filter(|(_, share)| *share > STOLEN_SHARE) {
        notes.push(format!(
            "the hypervisor took {:.1} % of the time of {whose}: the machine was slower than it is",
            share * 100.0
        ));
    }
    if let Some(share) = conditions.server_waited_share.filter(|share| *share > WAITED_SHARE) {
        notes.push(format!(
            "a thread of the server was ready to run and had no core {:.0} % of the time: other programs, or other threads of the server, had it",
            share * 100.0
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cores::Cores;
    use crate::sample::Cpu;

    /// Receive work that the kernel moved from the server's sends to `ksoftirqd` was in no figure.
    #[test]
    fn ksoftirqd_is_the_servers_where_its_cores_are_its_own_and_else_stands_apart() {
        let mut evidence = Evidence { delivered_after: 10, ..Evidence::default() };
        let snapshot = |at, ran: [u64; 2]| Snapshot {
            at,
            cpu: Some(Cpu::default()),
            cores: Cores::with_ksoftirqd(&ran),
            ..Snapshot::default()
        };
        evidence.window_before = snapshot(0, [0, 0]);
        evidence.window_after = snapshot(SECOND, [40_000, 1_000_000]);
        let told = |server: &[usize], client: &[usize]| {
            let load =
                Load { server_cores: server.to_vec(), client_cores: client.to_vec(), ..Load::default() };
            let mut report = Report::default();
            conditions(&mut report, &load, &evidence);
            let (from, to) = (&evidence.window_before, &evidence.window_after);
            let added = ksoftirqd_of_server(&load, &evidence, from, to);
            assert_eq!(added > 0.0, report.ksoftirqd_is_the_servers);
            (added, report.ksoftirqd_cpu_us_per_delivery)
        };
        assert_eq!(told(&[0], &[1]), (40_000.0, Some(4.0)));
        assert_eq!(told(&[0], &[0, 1]), (0.0, Some(4.0)));
        assert_eq!(told(&[], &[]), (0.0, Some(104.0)));

        // In a container the kernel's threads are hidden.
        evidence.window_after.cores = Cores::default();
        let mut report = Report::default();
        conditions(&mut report, &Load::default(), &evidence);
        assert!(report.notes[0].contains("cannot be seen") && report.ksoftirqd_cpu_us_per_delivery.is_none());
    }

    #[test]
    fn a_machine_that_disturbs_is_named() {
        let quiet = Conditions {
            stolen_share: Some(0.02),
            stolen_share_of_server_cores: Some(0.01),
            stolen_share_of_client_cores: Some(0.02),
            server_waited_share: Some(0.15),
            ..Conditions::default()
        };
        assert!(notes(&quiet).is_empty() && notes(&Conditions::default()).is_empty());
        let stolen = Conditions { stolen_share_of_server_cores: Some(0.041), ..quiet.clone() };
        assert!(notes(&stolen)[0].contains("4.1 % of the time of the server's cores"));
        let waited = Conditions { server_waited_share: Some(0.16), ..quiet };
        assert!(notes(&waited)[0].contains("had no core 16 % of the time"));
    }
}
