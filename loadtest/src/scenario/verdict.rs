//! Whether a run is valid, and what has to be known of it.

use super::Kind;
use super::figures::{Case, Evidence};
use crate::failure::Failure;
use crate::report::{Report, round, units};
use crate::threshold;

/// A client thread that is this busy, with its waits for a core, measures itself and not the server.
const BUSY_SHARE: f64 = 0.85;
/// Where a client thread had to wait for a core for this share of the time, a part of the latency is its own.
const WAITED_SHARE: f64 = 0.15;
/// A loop delay (p99, of the slowest thread) that is more than this part of the median latency is named. What
/// comes during a turn of the loop waits for its end. The p99, because the long turns are few but bring most
/// deliveries.
const DELAY_PART: f64 = 0.5;

/// A server whose latency grows by more than this, and by this part of the time in which events were
/// published, cannot keep up with the rate: the longer the run, the later it would be.
const GROWTH_MS: f64 = 500.0;
const GROWTH_PART: f64 = 0.05;
/// Streams that should have had a heartbeat are mentioned after so long.
const HEARTBEAT_WAIT_S: f64 = 30.0;
/// Where at least this part of what was published for those who stall waited in their own buffers, the server
/// was hardly touched.
const OWN_BUFFERS_PART: f64 = 0.9;

/// Adds problems and notes, and says what the run is.
pub(super) fn pronounce(report: &mut Report, case: &Case<'_>, evidence: &Evidence, failure: Option<Failure>) {
    let is_over = failure.is_some() || report.partial;
    report.problems.extend(failure.iter().map(ToString::to_string));
    client(report, case);
    if !is_over {
        deliveries(report);
        streams(report, case);
        pace(report, case);
        storm(report, case);
        heartbeats(report, case);
        ids(report, case);
    }
    slow(report, evidence);
    memory(report);
    others(report, case);
    report.lower_bound = report.client.bottleneck;
    threshold::judge(report, &case.load.fail_if, case.earlier);
    report.valid = report.problems.is_empty() && !report.partial;
    report.passed = report.valid && report.failed_thresholds().next().is_none();
    report.verdict = match () {
        () if report.partial => "partial",
        () if report.fell_behind => "fell behind",
        () if !report.valid => "NOT VALID",
        () if !report.passed => "threshold failed",
        () if report.lower_bound => "valid, client-bound",
        () => "valid",
    };
}

fn deliveries(report: &mut Report) {
    if report.faults().any() {
        let faults = report.faults().told();
        report.problems.push(format!("deliveries are wrong: {faults}"));
    }
    if report.listened.as_ref().is_some_and(|listened| listened.events == 0) && report.scenario == "listen" {
        report.problems.push(
            "no event came: is this the right URL, and does the server send anything by itself?".to_owned(),
        );
    }
}

/// Streams that ended and did not come back would pass as ones that lost nothing.
fn streams(report: &mut Report, case: &Case<'_>) {
    let (open, all) = (report.streams_open_at_end, report.streams_wanted_at_end);
    let ends_with_them = matches!(case.kind, Kind::Listen(listen) if listen.once);
    if open < all && !ends_with_them {
        report.problems.push(format!("{} of {all} streams were not open at the end", all - open));
    }
    if report.streams_ended > 0 {
        let text = format!(
            "the server ended {} streams, {} of them in the middle of something; {} were opened again",
            report.streams_ended, report.streams_cut, report.streams_reopened
        );
        report.notes.push(text);
    }
    if ends_with_them && report.streams_cut > 0 {
        let text = format!("{} streams were cut in the middle of something", report.streams_cut);
        report.problems.push(text);
    }
}

/// A server that answers every event, each later than the one before, does not hold this rate.
fn pace(report: &mut Report, case: &Case<'_>) {
    if matches!(case.kind, Kind::Saturate(_)) {
        let text = "publishing waits for the subscribers here, so the latency says nothing";
        report.notes.push(text.to_owned());
        return;
    }
    let time_ms =
        report.seconds.iter().filter(|second| second.latency_mean_ms.is_some()).count() as f64 * 1e3;
    // Events of a million streams may take many seconds each: as long as one is over before the next one is
    // due, nothing adds up.
    let interval_ms = case.load.burst as f64 / case.load.rate * 1e3;
    if let Some(last_ms) = report.last_subscriber_ms
        && last_ms > interval_ms
    {
        report.notes.push(format!(
            "the last subscriber had an event {} after it was due, and there was one every {}: several were under way at once, and a server that joins them needs less for a delivery than with one at a time",
            units::time(last_ms / 1e3),
            units::time(interval_ms / 1e3)
        ));
    }
    if let Some(growth) = report.latency_growth_ms
        && growth > GROWTH_MS + time_ms * GROWTH_PART + interval_ms
    {
        report.fell_behind = true;
        let rates = match (report.offered_deliveries_per_s, report.deliveries_per_s) {
            (Some(offered), Some(achieved)) => {
                format!(", {} of {} deliveries a second were achieved", round(achieved), round(offered))
            }
            _ => String::new(),
        };
        let backlog = report.backlog_at_last_publish.unwrap_or(0);
        report.problems.push(format!(
            "the server fell behind: the mean latency grew by {growth} ms from the first to the last tenth of the run{rates}, and {backlog} deliveries were outstanding when the last event was published"
        ));
    }
}

/// A storm tests nothing where no event was missed, or where no stream had an id to come back with.
fn storm(report: &mut Report, case: &Case<'_>) {
    let Kind::Storm(storm) = case.kind else { return };
    if storm.no_resume {
        report.notes.push("resume was not tested (--no-resume)".to_owned());
        return;
    }
    if report.ids.with == 0 {
        report.problems.push(
            "resume was not tested: the server gave no ids, so no stream could say where it was; use --no-resume for such a server"
                .to_owned(),
        );
    } else if report.streams_resumed < report.subscribers {
        report.problems.push(format!(
            "resume was tested by {} of {} streams: the others had no id when they were cut",
            report.streams_resumed, report.subscribers
        ));
    }
}

fn heartbeats(report: &mut Report, case: &Case<'_>) {
    let silent = report.heartbeats.silent_streams;
    if !case.load.expect_heartbeat.is_zero() && silent > 0 {
        report.problems.push(format!(
            "{silent} streams got nothing for more than {} s, twice the time of --expect-heartbeat",
            case.load.expect_heartbeat.as_secs_f64() * 2.0
        ));
    } else if silent > 0 {
        report.notes.push(format!(
            "{silent} streams were silent for more than a minute: proxies on the way close such a stream"
        ));
    }
    let silence = report.heartbeats.longest_silence_s;
    if report.heartbeats.count == 0 && silence > HEARTBEAT_WAIT_S {
        report.notes.push(format!("no stream had a heartbeat; the longest silence was {silence:.0} s"));
    }
}

fn ids(report: &mut Report, case: &Case<'_>) {
    let ids = report.ids;
    // Where many topics share a stream, or events are not this run's, not every one needs an id.
    if ids.with > 0 && ids.without > 0 && report.listened.is_none() {
        report.problems.push(format!("{} deliveries had an id, and {} had none", ids.with, ids.without));
    }
    if ids.repeated > 0 {
        report.problems.push(format!(
            "{} events have the id of another event of their topic: a stream cannot be resumed from it",
            ids.repeated
        ));
    }
    if ids.falling > 0 {
        report.notes.push(format!("{} events have an id that is below that of the one before", ids.falling));
    }
    if ids.differing > 0 {
        report
            .notes
            .push(format!("{} deliveries had another id than others of the same event", ids.differing));
    }
    if !report.event_names.is_empty() && case.load.can_publish() && report.listened.is_none() {
        let names: Vec<&str> = report.event_names.keys().map(String::as_str).collect();
        report.notes.push(format!(
            "events have a name ({}), which was not asked for: `onmessage` of a browser does not get them",
            names.join(", ")
        ));
    }
}

fn slow(report: &mut Report, evidence: &Evidence) {
    let Some((bytes, waiting)) = evidence.stalled_backlog else { return };
    report.slow_backlog_bytes = Some(bytes);
    report.slow_waiting_bytes = waiting;
    let Some(waiting) = waiting else {
        report.notes.push(
            "over HTTP/2 a stalled reader takes 1 MiB before the server keeps what follows, and how much of it came is not known: compare the growth of the server with what was published for the stalled"
                .to_owned(),
        );
        return;
    };
    if waiting as f64 >= bytes as f64 * OWN_BUFFERS_PART {
        report.notes.push(format!(
            "what the stalled readers did not read ({bytes} bytes) waited in their own receive buffers and hardly reached the server: raise --size, --rate or --duration"
        ));
    }
}

/// A server that has run before has memory to reuse, so its growth says nothing about a stream.
fn memory(report: &mut Report) {
    if report.server_user_bytes_per_connection.is_some_and(|bytes| bytes < 0.0) {
        report.notes.push(
            "the server's memory shrank while the streams were opened: it had memory of an earlier run to give back; start it afresh to measure memory"
                .to_owned(),
        );
    }
}

/// What else has to be known.
fn others(report: &mut Report, case: &Case<'_>) {
    if report.foreign_events > 0 && report.listened.is_none() {
        let text = format!("{} events were not this run's and are not counted", report.foreign_events);
        report.notes.push(text);
    }
    for (kind, count) in &report.errors {
        report.notes.push(format!("{count} times: {kind}"));
    }
    if let Some(settings) = case.load.steered.then_some(case.load)
        && settings.pipeline == 1
        && settings.burst > 1
    {
        report.notes.push(
            "in the steered arrangement the client's core does all receiving, and its backlog holds up the answers to a publisher that waits for each: a server that could send several events at once looks as if it did not; use the plain arrangement for this question"
                .to_owned(),
        );
    }
}

/// A slow judge makes every server slow.
fn client(report: &mut Report, case: &Case<'_>) {
    let client = &report.client;
    let (busiest, together, publisher) =
        (client.busiest_share, client.cores_share, client.publisher_cpu_share);
    let cores = client.cores;
    let is_bottleneck = busiest.max(together).max(publisher) > BUSY_SHARE;
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
    } else if client.longest_wait_share > WAITED_SHARE {
        report.notes.push(format!(
            "a client thread waited for a core {:.0} % of the time: client and server compete, latency is the client's in part",
            client.longest_wait_share * 100.0
        ));
    }
    report.client.bottleneck = is_bottleneck;
    if let (Some(lag), Some(latency)) = (&report.client.publish_lag_us, &report.latency_us)
        && lag.p99 > 1_000.0
        && lag.p99 > latency.p50 / 2.0
    {
        report.notes.push(format!(
            "publishes were sent up to {} late (p99): the server answers slowly or the rate is too high; the delay is part of the latency",
            units::microseconds(lag.p99)
        ));
    }
    let delays = report.client.threads.iter().filter_map(|thread| Some(thread.loop_delay_us.as_ref()?.p99));
    let delay = delays.fold(0.0, f64::max);
    if let Some(latency) = &report.latency_us
        && !matches!(case.kind, Kind::Saturate(_))
        && delay > latency.p50 * DELAY_PART
    {
        report.notes.push(format!(
            "a turn of the client's own loop took up to {} (p99), the median latency is {}: a large part of it may be the client's",
            units::microseconds(delay),
            units::microseconds(latency.p50)
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::client as client_figures;
    use super::*;
    use crate::client::{ThreadObservations, record, timings};
    use crate::clock::{MILLISECOND, SECOND};
    use crate::publish::Tally;
    use crate::report::Percentiles;
    use crate::scenario::Load;
    use crate::sys;

    /// A fan-out of which nothing else matters.
    fn case_of(load: &Load) -> Case<'_> {
        Case { kind: &Kind::Fanout, load, groups: &[], name: "", published: &[], tried_out: 0, earlier: None }
    }

    /// The client's part of a report: threads with so much processor time and a loop delay of a millisecond,
    /// in three seconds of publishing after which nothing came for five more.
    fn judged(threads: &[u64], tally: Tally, latency_us: f64) -> Report {
        let load = Load { client_cores: vec![1], ..Load::default() };
        let case = case_of(&load);
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
        client_figures(&mut report, &case, &evidence, &threads);
        client(&mut report, &case);
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

    /// The processor time of all client threads over what came while it was counted. What came before is not
    /// in it.
    #[test]
    fn a_delivery_costs_the_client_what_its_threads_used_for_it() {
        let load = Load::default();
        let evidence = Evidence { delivered_before: 500, delivered_after: 1_500, ..Evidence::default() };
        let thread = |cpu_ns| ThreadObservations { cpu_ns, loop_delay: timings() };
        let mut report = Report { subscribers: 1, ..Report::default() };
        client_figures(
            &mut report,
            &case_of(&load),
            &evidence,
            &[thread(3 * MILLISECOND), thread(MILLISECOND)],
        );
        assert_eq!(report.client.cpu_us_per_delivery, Some(4.0));
        client_figures(&mut report, &case_of(&load), &Evidence::default(), &[thread(MILLISECOND)]);
        assert_eq!(report.client.cpu_us_per_delivery, None);
    }

    /// A server that was disturbed joined the events of a minute, and its processor time looked like that of
    /// one event at a time.
    #[test]
    fn broadcasts_that_last_longer_than_their_interval_are_named() {
        let noted = |last_subscriber_ms| {
            let load = Load { rate: 0.5, burst: 1, ..Load::default() };
            let mut report = Report { last_subscriber_ms, ..Report::default() };
            pace(&mut report, &case_of(&load));
            assert!(!report.fell_behind);
            report.notes.concat()
        };
        assert!(noted(Some(2_001.0)).contains("every 2 s"), "{}", noted(Some(2_001.0)));
        assert_eq!([None, Some(2_000.0)].map(noted), ["", ""]);
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

    /// The work of the thread that conducts the run was in no figure.
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
        let case = case_of(&load);
        let mut report = Report { subscribers: 1, ..Report::default() };
        client_figures(&mut report, &case, &evidence, &[]);
        client(&mut report, &case);
        assert_eq!((report.client.conductor_cpu_share, report.client.cores_share), (0.9, 0.9));
        assert!(report.client.bottleneck);
    }

    #[test]
    fn memory_that_shrank_is_no_memory_of_a_stream() {
        let noted = |bytes| {
            let mut report = Report { server_user_bytes_per_connection: bytes, ..Report::default() };
            memory(&mut report);
            report.notes.len()
        };
        assert_eq!([None, Some(500.0), Some(-188.0)].map(noted), [0, 0, 1]);
    }

    /// It was written down and never judged.
    #[test]
    fn a_loop_delay_that_is_a_large_part_of_the_latency_is_named() {
        let report = judged(&[0], published(0), 1_500.0);
        assert!(!report.client.bottleneck && report.notes[0].contains("own loop"), "{:?}", report.notes);
        assert!(judged(&[0], published(0), 3_000.0).notes.is_empty());
    }
}
