//! How each load machine fared, where the subscribers are on several.

use super::figures::{Case, Evidence};
use crate::client::ThreadObservations;
use crate::report::{Report, round};

/// A clock that may be wrong by more than this part of the median latency is named.
const CLOCK_PART: f64 = 0.1;

/// Adds to the report what is known of each machine, and in place of the shares of one machine those of the
/// busiest.
pub(super) fn machines(
    report: &mut Report,
    case: &Case<'_>,
    evidence: &Evidence,
    threads: &[ThreadObservations],
) {
    if case.load.agents.is_empty() {
        return;
    }
    let active = evidence.active_until.saturating_sub(evidence.active_since).max(1) as f64;
    // The controller has its own machine.
    let own = (evidence.publishing_ns + evidence.conductor_ns) as f64 / active;
    let own_cores = crate::steer::client_cores(case.load).len().max(1);
    let mut busiest = own / own_cores as f64;
    let mut threads = threads.iter();
    report.agents.clone_from(&evidence.machines);
    for machine in &mut report.agents {
        let count = if machine.lost { 0 } else { machine.threads };
        let used: u64 = threads.by_ref().take(count).map(|thread| thread.cpu_ns).sum();
        let share = used as f64 / active / machine.cores.max(1) as f64;
        machine.cores_share = round(share);
        busiest = busiest.max(share);
    }
    report.client.cores = report.agents.iter().map(|machine| machine.cores).sum();
    report.client.cores_share = round(busiest);
    notes(report);
}

fn notes(report: &mut Report) {
    let median = report.latency_us.as_ref().map(|latency| latency.p50);
    for machine in &report.agents {
        let name = &machine.name;
        if machine.lost {
            report.notes.push(format!("agent {name}: what its subscribers saw is not in this report"));
            continue;
        }
        let clock = &machine.clock;
        let drift = clock.drift_ppm.map(|ppm| format!(" and gained {ppm:.1} millionths")).unwrap_or_default();
        report.notes.push(format!(
            "agent {name}: {} subscribers; its clock was {:.3} ms ahead of the publisher's{drift}; latencies of this agent are right within ±{:.0} us",
            machine.subscribers,
            clock.offset_before_ns as f64 / 1e6,
            clock.latencies_right_within_us
        ));
        if let Some(median) = median
            && clock.latencies_right_within_us > median * CLOCK_PART
        {
            report.notes.push(format!(
                "agent {name}: its clock is known to {:.0} us, which is much beside a median latency of {median:.0} us: use a quieter or shorter network between the machines, or look at the higher percentiles",
                clock.latencies_right_within_us
            ));
        }
    }
}
