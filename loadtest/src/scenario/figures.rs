//! From what was seen to the figures of a report.

use super::snapshot::Snapshot;
use super::stages::longest_hold;
use super::{Kind, Load, conditions, machines, verdict};
use crate::ask::Asked;
use crate::client::{
    EVENTS_WATCHED, Group, Observations, SUBSCRIBER_BYTES, Second, Series, ThreadObservations, Timings,
    record, timings,
};
use crate::clock::{MILLISECOND, SECOND};
use crate::distributed::MachineFigures;
use crate::failure::Failure;
use crate::publish::Tally;
use crate::report::{
    Client, ClientThread, Earlier, Heartbeats, Listened, Opening, Part, Percentiles, Report, SecondOfRun,
    against, curve, round,
};
use crate::sequence::Faults;
use crate::steer::{self, client_cores};
use crate::{sample, sys};

/// What was asked.
pub(super) struct Case<'a> {
    pub(super) kind: &'a Kind,
    pub(super) load: &'a Load,
    pub(super) groups: &'a [Group],
    pub(super) name: &'a str,
    /// Events that were published to each topic.
    pub(super) published: &'a [u64],
    /// Of all of these, before the measurement: one for each topic, or none.
    pub(super) tried_out: u64,
    pub(super) earlier: Option<&'a Earlier>,
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
    /// When the first stage began.
    pub(super) stages_since: Option<u64>,
    /// Deliveries that were outstanding when the last event was published.
    pub(super) backlog: Option<u64>,
    /// Events that were published while all streams of a storm were cut.
    pub(super) published_while_away: Option<u64>,
    /// Bytes that were published for those who stall, and bytes that waited in their own receive buffers,
    /// where that can be seen.
    pub(super) stalled_backlog: Option<(u64, Option<u64>)>,
    pub(super) lag: Option<Timings>,
    pub(super) answer: Option<Timings>,
    /// Processor time of the thread that conducts the run: at the begin of the active time, and in it.
    pub(super) conductor_before_ns: u64,
    pub(super) conductor_ns: u64,
    /// Processor time of all publishers, and of the busiest one.
    pub(super) publishing_ns: u64,
    pub(super) publisher_ns: u64,
    /// Where the subscribers are on other machines.
    pub(super) machines: Vec<MachineFigures>,
    /// Nothing else of the run is on the server's machine.
    pub(super) server_has_machine: bool,
}

impl Evidence {
    /// Starts with the snapshot before the first stream.
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

    /// Deliveries in the time in which the CPU of server and client is counted.
    pub(super) fn delivered_in_window(&self) -> u64 {
        self.delivered_after.saturating_sub(self.delivered_before)
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
pub(super) fn report(
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
        notes: notes.into_iter().chain(below(&observed)).collect(),
        subscribers: load.subscribers,
        published: case.published.iter().sum(),
        tried_out: case.tried_out,
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
        streams_open_at_end: observed.open_at_end,
        streams_wanted_at_end: load.streams_at_end(),
        missed_while_away: observed.missed_away,
        foreign_events: observed.foreign,
        received_bytes: observed.bytes,
        ids: observed.id_figures(),
        event_names: observed.names.clone(),
        errors: observed.errors.clone(),
        heartbeats: Heartbeats {
            count: observed.heartbeats,
            streams_with: observed.with_heartbeat,
            longest_silence_s: round(observed.longest_silence as f64 / SECOND as f64),
            silent_streams: observed.silent,
        },
        backlog_at_last_publish: evidence.backlog,
        offered_deliveries_per_s: offered(case),
        latency_growth_ms: growth(case, &evidence, &observed.series),
        published_while_away: evidence.published_while_away,
        streams_resumed: observed.resumed,
        seconds: seconds(&observed.series),
        ..Report::default()
    };
    opening(&mut report, load.is_staged(), &evidence, &observed);
    latency(&mut report, case, &observed);
    listened(&mut report, case, &evidence, &observed);
    server(&mut report, case, &evidence, &observed);
    client(&mut report, case, &evidence, &observed.threads);
    machines::machines(&mut report, case, &evidence, &observed.threads);
    conditions::conditions(&mut report, load, &evidence);
    verdict::pronounce(&mut report, case, &evidence, failure);
    report.against = case.earlier.map(|earlier| against(&report, earlier));
    report
}

/// Notes of what the transport counted below the streams.
fn below(observed: &Observations) -> impl Iterator<Item = String> {
    observed.below.iter().map(|(what, count)| format!("{count} {what}"))
}

/// By how much the mean latency grew. Where the number of streams changes, only while it stays the same for
/// longest: more streams take longer, and that is no server that falls behind.
fn growth(case: &Case<'_>, evidence: &Evidence, series: &Series) -> Option<f64> {
    let growth = match evidence.stages_since {
        None => series.growth(),
        Some(since) => {
            let hold = longest_hold(&case.load.stages)?;
            series.growth_between(since + hold.start * SECOND, since + hold.end * SECOND)
        }
    };
    growth.map(|growth| round(growth as f64 / MILLISECOND as f64))
}

/// How many deliveries a second the schedule asks for.
fn offered(case: &Case<'_>) -> Option<f64> {
    if case.load.is_staged() {
        return None;
    }
    let each = |index: usize| {
        let group = case.groups.get(index)?;
        Some(group.subscribers as f64 * f64::from(group.per_stream) / f64::from(group.topics))
    };
    match case.kind {
        Kind::Idle(_) | Kind::Listen(_) | Kind::Saturate(_) => None,
        Kind::Fanout | Kind::Storm(_) | Kind::Churn(_) | Kind::Topics(_) => Some(case.load.rate * each(0)?),
        Kind::Slow(_) => Some(case.load.rate * (each(0)? + each(1)?)),
        Kind::Mixed(mixed) => Some(case.load.rate * each(0)? + mixed.small_rate * each(1)?),
    }
}

fn seconds(series: &Series) -> Vec<SecondOfRun> {
    let milliseconds = |ns: u64| round(ns as f64 / MILLISECOND as f64);
    let second = |second: &Second| SecondOfRun {
        deliveries: second.arrived,
        latency_mean_ms: (second.due > 0).then(|| milliseconds(second.latency_sum / second.due)),
        latency_max_ms: (second.due > 0).then(|| milliseconds(second.latency_max)),
        ..SecondOfRun::default()
    };
    series.seconds.iter().map(second).collect()
}

/// What came by itself, in a run that publishes nothing.
fn listened(report: &mut Report, case: &Case<'_>, evidence: &Evidence, observed: &Observations) {
    if case.load.can_publish() && !matches!(case.kind, Kind::Listen(_)) {
        return;
    }
    let time = evidence.active_until.saturating_sub(evidence.active_since) as f64 / SECOND as f64;
    let a_second = |count: u64| if time > 0.0 { round(count as f64 / time) } else { 0.0 };
    report.listened = Some(Listened {
        events: observed.foreign,
        events_per_s: a_second(observed.foreign),
        bytes_per_s: a_second(observed.bytes),
        first_event_ms: Percentiles::of(&observed.first_event, 1e6),
        gap_ms: Percentiles::of(&observed.gap, 1e6),
        last_event_ms: Percentiles::of(&observed.last_event, 1e6),
    });
}

fn arrangement(load: &Load) -> String {
    if !load.agents.is_empty() {
        return format!("{} load machines beside the one that publishes", load.agents.len());
    }
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

fn opening(report: &mut Report, is_staged: bool, evidence: &Evidence, observed: &Observations) {
    let seconds = evidence.opening_ns as f64 / SECOND as f64;
    report.opening = Opening {
        streams: observed.opened,
        seconds: round(seconds),
        per_second: match seconds > 0.0 && !is_staged {
            true => round(report.subscribers as f64 / seconds),
            false => 0.0,
        },
        latency_us: Percentiles::of(&observed.opening, 1e3),
    };
}

fn latency(report: &mut Report, case: &Case<'_>, observed: &Observations) {
    // What the stalled see is not the server's doing; it is shown apart.
    let all = observed.latency_of_all(matches!(case.kind, Kind::Slow(_)).then_some(1), false);
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
        report.parts.push(Part {
            name: (*name).to_owned(),
            latency_us: Percentiles::of(part, 1e3),
            latency_curve: curve(part),
        });
    }
    let mut seconds = observed.last_arrival.saturating_sub(observed.first_intended) as f64 / SECOND as f64;
    if report.offered_deliveries_per_s.is_some() {
        // The last event has its time, too: else ten events in a second would be ten in 0.9 seconds.
        seconds = seconds.max(case.load.duration.as_secs_f64());
    }
    if observed.measured > 0 && seconds > 0.0 {
        report.deliveries_per_s = Some(round(observed.measured as f64 / seconds));
    }
    // A subscriber that left or stalls on purpose is not the last one of an event.
    if matches!(case.kind, Kind::Churn(_) | Kind::Slow(_) | Kind::Topics(_)) || case.load.is_staged() {
        return;
    }
    let mut last = timings();
    // Only the first group's topics: the last subscriber of a small topic beside a big one says nothing.
    let first = &case.groups[0];
    for (topic, spreads) in observed.spreads.iter().enumerate().take(first.topics as usize) {
        let expected = first.subscribers / first.topics as usize
            + usize::from(topic < first.subscribers % first.topics as usize);
        let mut complete = 0;
        for spread in spreads.iter().filter(|spread| spread.deliveries as usize == expected) {
            record(&mut last, spread.last_ns);
            complete += 1;
        }
        // An event that reached no subscriber left no trace but its number.
        let published = case.published.get(topic).copied().unwrap_or(0).min(EVENTS_WATCHED);
        let measured = published.saturating_sub(u64::from(case.tried_out > 0));
        report.incomplete_events += measured.saturating_sub(complete);
    }
    report.last_subscriber_ms_percentiles = Percentiles::of(&last, 1e6);
    report.last_subscriber_ms = report.last_subscriber_ms_percentiles.as_ref().map(|last| last.p50);
}

fn server(report: &mut Report, case: &Case<'_>, evidence: &Evidence, observed: &Observations) {
    let streams = report.subscribers as f64;
    let delivered = evidence.delivered_in_window();
    let used = |from: &Snapshot, to: &Snapshot| -> Option<(f64, f64)> {
        let used = to.cpu.as_ref()?.since(from.cpu.as_ref()?) as f64
            + conditions::ksoftirqd_of_server(case.load, evidence, from, to);
        Some((used, used / to.at.saturating_sub(from.at).max(1) as f64))
    };
    if let Some((ns, share)) = used(&evidence.window_before, &evidence.window_after)
        && (delivered > 0 || !matches!(case.kind, Kind::Idle(_)))
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
    if evidence.open.at > 0
        && let (Some(before), Some(open)) = (evidence.before.kernel, evidence.open.kernel)
    {
        // The whole machine's: less than before means that other programs gave back more.
        let pair = |from: u64, to: u64| (to >= from).then(|| round((to - from) as f64 / streams));
        report.kernel_slab_bytes_per_pair = pair(before.slab, open.slab);
        report.kernel_stack_bytes_per_pair = pair(before.stacks_and_tables, open.stacks_and_tables);
    }
    report.storm_all_back_ms = evidence.all_back_ns.map(|time| round(time as f64 / MILLISECOND as f64));
    if let (Some(before), Some(after)) = (&evidence.stall_before, &evidence.stall_after) {
        report.slow_server_bytes_grown = grown(before.user, after.user);
        let tcp = |snapshot: &Snapshot| snapshot.kernel.map(|kernel| kernel.tcp);
        report.slow_kernel_tcp_bytes_grown = grown(tcp(before), tcp(after));
        report.slow_lost = observed.faults.get(1).map(|faults| faults.lost);
    }
}

pub(super) fn client(
    report: &mut Report,
    case: &Case<'_>,
    evidence: &Evidence,
    threads: &[ThreadObservations],
) {
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
    let delivered = evidence.delivered_in_window();
    if delivered > 0 {
        let ns: u64 = threads.iter().map(|thread| thread.cpu_ns).sum();
        client.cpu_us_per_delivery = Some(round(ns as f64 / 1e3 / delivered as f64));
    }
    if delivered > 0
        && case.load.agents.is_empty()
        && case.load.server_watch.is_none()
        && steer::server_is_alone(case.load)
    {
        let (from, to) = (&evidence.window_before.cores, &evidence.window_after.cores);
        let busy = to.busy_since(from, &client_cores(case.load));
        client.cores_cpu_us_per_delivery = busy.map(|ns| round(ns / 1e3 / delivered as f64));
    }
    client.cores = client_cores(case.load).len().max(1);
    client.cores_share = round(used as f64 / active / client.cores as f64);
    client.publisher_cpu_share = round(evidence.publisher_ns as f64 / active);
    client.conductor_cpu_share = round(evidence.conductor_ns as f64 / active);
    client.busiest_share = round(busiest);
    client.longest_wait_share = round(longest_wait);
    report.client = client;
}
