//! From what was seen to a report: figures, and whether the run is valid.

use super::snapshot::Snapshot;
use super::{Kind, Load, conditions};
use crate::ask::Asked;
use crate::client::{Group, Observations, SUBSCRIBER_BYTES, ThreadObservations, Timings, record, timings};
use crate::clock::{MILLISECOND, SECOND};
use crate::failure::Failure;
use crate::publish::Tally;
use crate::report::{Client, ClientThread, Opening, Part, Percentiles, Report, curve, round};
use crate::sequence::Faults;
use crate::steer::{self, client_cores};
use crate::{sample, sys};

/// A client thread that is this busy, waits for a core included, is no judge of the server.
const BUSY_SHARE: f64 = 0.85;
/// One that had to wait for a core this much is a judge with a headache.
const WAITED_SHARE: f64 = 0.15;
/// A loop delay (p99, of the slowest thread) that is more than this part of the median latency is named. What
/// comes during a turn of the loop waits for its end. The p99, because the long turns are few but bring most
/// deliveries.
const DELAY_PART: f64 = 0.5;

/// What was asked.
pub(super) struct Case<'a> {
    pub(super) kind: &'a Kind,
    pub(super) load: &'a Load,
    pub(super) groups: &'a [Group],
    pub(super) name: &'a str,
    pub(super) published: u64,
}

/// What the conductor noted.
#[derive(Default)]
pub(super) struct Evidence {
    pub(super) partial: bool,
    pub(super) before: Snapshot,
    pub(super) own_before: u64,
    pub(super) opening_ns: u64,
    pub(super) open: Snapshot,
    pub(super) own_open: u64,
    pub(super) delivered_before: u64,
    pub(super) delivered_after: u64,
    pub(super) window_before: Snapshot,
    pub(super) window_after: Snapshot,
    /// The time in which the client had something to do: from the first publish to the last answer or the
    /// last delivery, without the rest and the patience after it.
    pub(super) active_since: u64,
    pub(super) active_until: u64,
    pub(super) schedule_before: Vec<(u64, u64)>,
    pub(super) schedule_after: Vec<(u64, u64)>,
    pub(super) last: Snapshot,
    pub(super) idle: Option<(Snapshot, Snapshot)>,
    pub(super) all_back_ns: Option<u64>,
    pub(super) stall_before: Option<Snapshot>,
    pub(super) stall_after: Option<Snapshot>,
    pub(super) asked: Option<Asked>,
    lag: Option<Timings>,
    answer: Option<Timings>,
    /// Processor time of the thread that conducts the run: at the begin of the active time, and in it.
    conductor_before_ns: u64,
    conductor_ns: u64,
    /// Processor time of all publishers, and of the busiest one.
    publishing_ns: u64,
    publisher_ns: u64,
}

impl Evidence {
    /// Starts with the look before the first stream.
    pub(super) fn new(before: Snapshot, own_before: u64) -> Evidence {
        Evidence { before, own_before, ..Evidence::default() }
    }

    /// Adds what a publisher saw.
    pub(super) fn publishing(&mut self, tally: Tally) {
        for (mine, theirs) in [(&mut self.lag, &tally.lag), (&mut self.answer, &tally.answer)] {
            // They grow, so adding cannot fail.
            let _ = mine.get_or_insert_with(timings).add(theirs);
        }
        self.publishing_ns += tally.cpu_ns;
        self.publisher_ns = self.publisher_ns.max(tally.cpu_ns);
    }

    /// From here on the client is watched.
    pub(super) fn watch(&mut self, now: u64, schedule: Vec<(u64, u64)>) {
        self.schedule_before = schedule;
        (self.active_since, self.active_until) = (now, 0);
        (self.publishing_ns, self.publisher_ns) = (0, 0);
        (self.conductor_before_ns, self.conductor_ns) = (sys::thread_cpu_ns(), 0);
    }

    /// The client had something to do up to now. To be called by the thread that conducts the run.
    pub(super) fn active(&mut self, now: u64) {
        self.active_until = now;
        self.conductor_ns = sys::thread_cpu_ns().saturating_sub(self.conductor_before_ns);
    }
}

/// Draws up the report.
pub(super) fn judge(
    case: &Case<'_>,
    evidence: Evidence,
    observed: Observations,
    failure: Option<Failure>,
    notes: Vec<String>,
) -> Report {
    let load = case.load;
    let mut faults = Faults::default();
    for (index, group) in observed.faults.iter().enumerate() {
        let mut group = *group;
        if matches!(case.kind, Kind::Slow(_)) && index == 1 {
            // Those who stall on purpose may be told to go; what they miss is shown apart. What they get has
            // to be right.
            group.lost = 0;
        }
        faults.add(group);
    }
    let mut report = Report {
        tool: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        name: case.name.to_owned(),
        scenario: case.kind.name().to_owned(),
        machine: sample::machine(),
        arrangement: arrangement(load),
        settings: serde_json::json!({ "scenario": case.kind, "load": load }),
        partial: evidence.partial,
        problems: failure.iter().map(ToString::to_string).collect(),
        notes,
        subscribers: load.subscribers,
        published: case.published,
        asked: evidence.asked.clone(),
        deliveries: observed.deliveries,
        lost: faults.lost,
        doubled: faults.doubled,
        out_of_order: faults.out_of_order,
        damaged: faults.damaged,
        misrouted: faults.misrouted,
        streams_ended: observed.ended,
        streams_cut: observed.cut,
        streams_reopened: observed.reopened,
        missed_while_away: observed.missed_away,
        foreign_events: observed.foreign,
        received_bytes: observed.bytes,
        ..Report::default()
    };
    opening(&mut report, &evidence, &observed);
    latency(&mut report, case, &observed);
    server(&mut report, case, &evidence, &observed);
    client(&mut report, case, &evidence, &observed.threads);
    conditions::conditions(&mut report, load, &evidence);
    if faults.any() && failure.is_none() {
        report.problems.push(format!("deliveries are wrong: {}", faults.told()));
    }
    if observed.ended > 0 {
        report.notes.push(format!(
            "the server ended {} streams, {} of them in the middle of something; {} were opened again",
            observed.ended, observed.cut, observed.reopened
        ));
    }
    if observed.foreign > 0 {
        report.notes.push(format!("{} events were not this run's and are not counted", observed.foreign));
    }
    report.valid = report.problems.is_empty() && !report.partial;
    report
}

fn arrangement(load: &Load) -> String {
    let cores = |cores: &[usize]| cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    match (load.server_cores.as_slice(), load.client_cores.as_slice()) {
        ([], []) => "plain: no pinning".to_owned(),
        (server, client) => format!(
            "{}: server on {}, client on {}",
            if load.steered { "steered" } else { "pinned" },
            if server.is_empty() { "any core".to_owned() } else { format!("core {}", cores(server)) },
            match client {
                [] if steer::server_is_alone(load) => "any other core".to_owned(),
                [] => "any core".to_owned(),
                client => format!("core {}", cores(client)),
            }
        ),
    }
}

fn opening(report: &mut Report, evidence: &Evidence, observed: &Observations) {
    let seconds = evidence.opening_ns as f64 / SECOND as f64;
    report.opening = Opening {
        streams: observed.opened,
        seconds: round(seconds),
        per_second: if seconds > 0.0 { round(report.subscribers as f64 / seconds) } else { 0.0 },
        latency_us: Percentiles::of(&observed.opening, 1e3),
    };
}

fn latency(report: &mut Report, case: &Case<'_>, observed: &Observations) {
    let mut all = timings();
    for (index, part) in observed.latency.iter().enumerate() {
        // What the stalled see is not the server's doing; it is shown apart.
        if !(matches!(case.kind, Kind::Slow(_)) && index % case.groups.len() == 1) {
            let _ = all.add(part);
        }
    }
    report.latency_us = Percentiles::of(&all, 1e3);
    report.latency_curve = curve(&all);
    let names: &[&str] = match case.kind {
        Kind::Slow(_) => {
            &["before, steady", "before, to be stalled", "while stalled, steady", "while stalled, stalled"]
        }
        Kind::Mixed(_) => &["big", "small"],
        _ => &[],
    };
    for (name, part) in names.iter().zip(&observed.latency) {
        report.parts.push(Part { name: (*name).to_owned(), latency_us: Percentiles::of(part, 1e3) });
    }
    if matches!(case.kind, Kind::Saturate(_)) {
        report
            .notes
            .push("publishing waits for the subscribers here, so the latency says nothing".to_owned());
    }
    let seconds = observed.last_arrival.saturating_sub(observed.first_intended) as f64 / SECOND as f64;
    if observed.measured > 0 && seconds > 0.0 {
        report.deliveries_per_s = Some(round(observed.measured as f64 / seconds));
    }
    // Who left or stalls on purpose is nobody's last subscriber.
    if matches!(case.kind, Kind::Churn(_) | Kind::Slow(_) | Kind::Topics) {
        return;
    }
    let mut last = timings();
    // Only the first group's topics: of a small topic beside a big one nobody asks for the last subscriber.
    let first = &case.groups[0];
    for (topic, spreads) in observed.spreads.iter().enumerate().take(first.topics as usize) {
        let expected = first.subscribers / first.topics as usize
            + usize::from(topic < first.subscribers % first.topics as usize);
        for spread in spreads.iter().filter(|spread| spread.deliveries > 0) {
            if spread.deliveries as usize == expected {
                record(&mut last, spread.last_ns);
            } else {
                report.incomplete_events += 1;
            }
        }
    }
    report.last_subscriber_ms_percentiles = Percentiles::of(&last, 1e6);
    report.last_subscriber_ms = report.last_subscriber_ms_percentiles.as_ref().map(|last| last.p50);
}

fn server(report: &mut Report, case: &Case<'_>, evidence: &Evidence, observed: &Observations) {
    let streams = report.subscribers as f64;
    let delivered = evidence.delivered_after.saturating_sub(evidence.delivered_before);
    let used = |from: &Snapshot, to: &Snapshot| -> Option<(f64, f64)> {
        let used = to.cpu.as_ref()?.since(from.cpu.as_ref()?) as f64
            + conditions::ksoftirqd_of_server(case.load, from, to);
        Some((used, used / to.at.saturating_sub(from.at).max(1) as f64))
    };
    if let Some((ns, share)) = used(&evidence.window_before, &evidence.window_after)
        && !matches!(case.kind, Kind::Idle(_))
    {
        report.server_cpu_share = Some(round(share));
        report.server_cpu_us_per_delivery = (delivered > 0).then(|| round(ns / 1e3 / delivered as f64));
    }
    if let Some((begin, end)) = &evidence.idle {
        report.server_idle_cpu_share = used(begin, end).map(|(_, share)| round(share));
    }
    if let Some((ns, _)) = used(&evidence.before, &evidence.open)
        && evidence.open.at > 0
    {
        report.server_cpu_us_per_opening = Some(round(ns / 1e3 / streams));
    }
    let grown = |from: Option<u64>, to: Option<u64>| Some(to? as f64 - from? as f64);
    let each = |bytes: f64| round(bytes / streams);
    report.server_user_bytes_per_connection = grown(evidence.before.user, evidence.open.user).map(each);
    report.server_user_bytes_per_connection_after = grown(evidence.before.user, evidence.last.user).map(each);
    if evidence.open.at > 0 {
        let (before, open) = (evidence.before.kernel, evidence.open.kernel);
        // The whole machine's: less than before means that somebody else let go of more.
        let pair = |from: u64, to: u64| (to >= from).then(|| round((to - from) as f64 / streams));
        report.kernel_slab_bytes_per_pair = pair(before.slab, open.slab);
        report.kernel_stack_bytes_per_pair = pair(before.stacks_and_tables, open.stacks_and_tables);
    }
    report.storm_all_back_ms = evidence.all_back_ns.map(|time| round(time as f64 / MILLISECOND as f64));
    if let (Some(before), Some(after)) = (&evidence.stall_before, &evidence.stall_after) {
        report.slow_server_bytes_grown = grown(before.user, after.user);
        report.slow_kernel_tcp_bytes_grown = grown(Some(before.kernel.tcp), Some(after.kernel.tcp));
        report.slow_lost = observed.faults.get(1).map(|faults| faults.lost);
    }
}

fn client(report: &mut Report, case: &Case<'_>, evidence: &Evidence, threads: &[ThreadObservations]) {
    let active = evidence.active_until.saturating_sub(evidence.active_since).max(1) as f64;
    let mut client = Client {
        publish_lag_us: evidence.lag.as_ref().and_then(|lag| Percentiles::of(lag, 1e3)),
        publish_answer_us: evidence.answer.as_ref().and_then(|answer| Percentiles::of(answer, 1e3)),
        slot_bytes_per_connection: SUBSCRIBER_BYTES,
        ..Client::default()
    };
    if evidence.own_open > 0 {
        let grown = evidence.own_open as f64 - evidence.own_before as f64;
        client.user_bytes_per_connection = Some(round(grown / report.subscribers as f64));
    }
    let (mut busiest, mut longest_wait) = (0f64, 0f64);
    let mut used = evidence.publishing_ns + evidence.conductor_ns;
    for (index, thread) in threads.iter().enumerate() {
        let waited = match (evidence.schedule_before.get(index), evidence.schedule_after.get(index)) {
            (Some(before), Some(after)) => after.1.saturating_sub(before.1) as f64 / active,
            _ => 0.0,
        };
        let cpu_share = thread.cpu_ns as f64 / active;
        used += thread.cpu_ns;
        busiest = busiest.max(cpu_share + waited);
        longest_wait = longest_wait.max(waited);
        client.threads.push(ClientThread {
            cpu_share: round(cpu_share),
            waited_share: round(waited),
            loop_delay_us: Percentiles::of(&thread.loop_delay, 1e3),
        });
    }
    let cores = client_cores(case.load).len().max(1);
    let together = used as f64 / active / cores as f64;
    let publisher = evidence.publisher_ns as f64 / active;
    client.cores_share = round(together);
    client.publisher_cpu_share = round(publisher);
    client.conductor_cpu_share = round(evidence.conductor_ns as f64 / active);
    client.bottleneck = busiest.max(together).max(publisher) > BUSY_SHARE;
    if publisher > BUSY_SHARE {
        report.notes.push(format!(
            "a publisher was busy {:.0} % of the time: it was the bottleneck; use more --publishers where there are several topics",
            publisher * 100.0
        ));
    }
    if together > BUSY_SHARE && together > busiest {
        report.notes.push(format!(
            "all client threads together used {:.0} % of the {cores} cores they may use: the client was the bottleneck, latency and throughput are its own",
            together * 100.0
        ));
    } else if busiest > BUSY_SHARE {
        report.notes.push(format!(
            "a client thread was busy, or waiting for a core, {:.0} % of the time: the client was the bottleneck, latency and throughput are its own",
            busiest * 100.0
        ));
    } else if longest_wait > WAITED_SHARE {
        report.notes.push(format!(
            "a client thread waited for a core {:.0} % of the time: client and server compete, latency is the client's in part",
            longest_wait * 100.0
        ));
    }
    if let (Some(lag), Some(latency)) = (&client.publish_lag_us, &report.latency_us)
        && lag.p99 > 1_000.0
        && lag.p99 > latency.p50 / 2.0
    {
        report.notes.push(format!(
            "publishes were sent up to {:.0} us late (p99): the server answers slowly or the rate is too high; the delay is part of the latency",
            lag.p99
        ));
    }
    let delay = client.threads.iter().filter_map(|thread| Some(thread.loop_delay_us.as_ref()?.p99));
    let delay = delay.fold(0.0, f64::max);
    if let Some(latency) = &report.latency_us
        && !matches!(case.kind, Kind::Saturate(_))
        && delay > latency.p50 * DELAY_PART
    {
        report.notes.push(format!(
            "a turn of the client's own loop took up to {delay:.0} us (p99), the median latency is {:.0} us: a large part of it may be the client's",
            latency.p50
        ));
    }
    report.client = client;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client's part of a report: threads with so much processor time and a loop delay of a millisecond,
    /// in three seconds of publishing after which nothing came for five more.
    fn judged(threads: &[u64], tally: Tally, latency_us: f64) -> Report {
        let load = Load { client_cores: vec![1], ..Load::default() };
        let case = Case { kind: &Kind::Fanout, load: &load, groups: &[], name: "", published: 0 };
        let mut evidence = Evidence { active_since: SECOND, active_until: 4 * SECOND, ..Evidence::default() };
        evidence.window_before.at = SECOND;
        evidence.window_after.at = 9 * SECOND;
        evidence.publishing(tally);
        let mut loop_delay = timings();
        record(&mut loop_delay, MILLISECOND);
        let thread = |&cpu_ns| ThreadObservations { cpu_ns, loop_delay: loop_delay.clone() };
        let threads: Vec<_> = threads.iter().map(thread).collect();
        let latency_us = Some(Percentiles { p50: latency_us, ..Percentiles::default() });
        let mut report = Report { subscribers: 1, latency_us, ..Report::default() };
        client(&mut report, &case, &evidence, &threads);
        report
    }

    fn published(cpu_ns: u64) -> Tally {
        Tally { cpu_ns, ..Tally::new() }
    }

    /// The share was that of the time up to the end of the run: the rest after the window and the patience
    /// for lost events made 0.36 of a client that worked all the time.
    #[test]
    fn a_client_that_worked_all_the_time_is_the_bottleneck_however_long_was_waited_after_it() {
        let report = judged(&[2_900 * MILLISECOND], published(0), 1e6);
        assert!(report.client.bottleneck && report.notes[0].contains("97 %"), "{:?}", report.notes);
        let report = judged(&[1_500 * MILLISECOND], published(0), 1e6);
        assert!(!report.client.bottleneck && report.notes.is_empty(), "{:?}", report.notes);
    }

    /// Only the busiest thread was looked at: fifty on one core never seemed busy.
    #[test]
    fn many_threads_of_little_work_fill_a_core_too() {
        let report = judged(&[54 * MILLISECOND; 50], published(0), 1e6);
        assert!(report.client.bottleneck && report.notes[0].contains("90 %"), "{:?}", report.notes);
        // The publisher has the same core.
        let report = judged(&[30 * MILLISECOND; 50], published(1_200 * MILLISECOND), 1e6);
        assert!(report.client.bottleneck && report.notes[0].contains("90 %"), "{:?}", report.notes);
        assert!(!judged(&[30 * MILLISECOND; 50], published(0), 1e6).client.bottleneck);
    }

    /// Its processor time was written down and never read.
    #[test]
    fn a_publisher_at_its_limit_is_named() {
        let report = judged(&[0], published(2_850 * MILLISECOND), 1e6);
        assert!(report.client.bottleneck && report.notes[0].contains("a publisher"), "{:?}", report.notes);
        assert_eq!(report.client.publisher_cpu_share, 0.95);
    }

    /// The thread that conducts the run was nobody's: its work was in no figure.
    #[test]
    fn the_conductor_is_a_part_of_the_client() {
        let mut evidence = Evidence::default();
        evidence.watch(SECOND, Vec::new());
        let mut spin = 0u64;
        while sys::thread_cpu_ns() < evidence.conductor_before_ns + 5 * MILLISECOND {
            spin += 1;
        }
        evidence.active(SECOND + 10 * MILLISECOND);
        assert!(spin > 0 && evidence.conductor_ns >= 5 * MILLISECOND);

        evidence.conductor_ns = 9 * MILLISECOND;
        let load = Load { client_cores: vec![1], ..Load::default() };
        let case = Case { kind: &Kind::Fanout, load: &load, groups: &[], name: "", published: 0 };
        let mut report = Report { subscribers: 1, ..Report::default() };
        client(&mut report, &case, &evidence, &[]);
        assert_eq!((report.client.conductor_cpu_share, report.client.cores_share), (0.9, 0.9));
        assert!(report.client.bottleneck);
    }

    /// It was written down and never judged.
    #[test]
    fn a_loop_delay_that_is_a_large_part_of_the_latency_is_named() {
        let report = judged(&[0], published(0), 1_500.0);
        assert!(!report.client.bottleneck && report.notes[0].contains("own loop"), "{:?}", report.notes);
        assert!(judged(&[0], published(0), 3_000.0).notes.is_empty());
    }
}
