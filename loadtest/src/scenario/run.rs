//! One run: everything that is settled before the first stream is opened.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::conductor::Conductor;
use super::figures::Evidence;
use super::snapshot::quiet_snapshot;
use super::{Kind, Load};
use crate::client::{Crowd, Group, Plan, Request};
use crate::clock::{self, nanoseconds};
use crate::failure::{Failure, Outcome};
use crate::limits::{preflight, tables_for};
use crate::publish::{Connection, Tally};
use crate::report::Report;
use crate::sample::{self, Server};
use crate::sources::Sources;
use crate::steer::{Steered, pin_server};
use crate::sys;
use crate::target::{RequestTemplates, Values};
use crate::threshold;
use crate::watch::Watch;

/// The silence of a stream that is worth a note where none was named: proxies close a stream that is silent for
/// a minute.
const LONG_SILENCE: Duration = Duration::from_secs(60);

/// Whether what was asked can be run at all.
pub(crate) fn check(kind: &Kind, load: &Load) -> Outcome<()> {
    load.check()?;
    if load.is_staged() && load.stages.iter().any(|stage| stage.streams > load.subscribers) {
        return Err(Failure::new("--stage is for single runs: leave it out of `find` and `compare`"));
    }
    if load.is_staged() && !matches!(kind, Kind::Fanout | Kind::Topics) {
        return Err(Failure::new(format!("--stage is for fanout and topics, not for {}", kind.name())));
    }
    if !load.can_publish() && !matches!(kind, Kind::Listen(_) | Kind::Idle(_)) {
        return Err(Failure::new(format!(
            "nothing says where `{}` publishes: give --publish-url, or --url, or listen to what the server sends by itself with `fanfare-load listen`",
            kind.name()
        )));
    }
    groups(kind, load).map(drop)
}

/// Runs a scenario. An error is a run that could not start; what went wrong later is in the report.
pub(crate) fn run(kind: &Kind, load: &Load, name: &str) -> Outcome<Report> {
    run_watched(kind, load, name, &mut Watch::default())
}

/// The same, seen while it lasts.
pub(crate) fn run_watched(kind: &Kind, load: &Load, name: &str, watch: &mut Watch) -> Outcome<Report> {
    check(kind, load)?;
    threshold::check(&load.fail_if, load.server_pid.is_some(), watch.wants.earlier.is_some())?;
    let templates = load.templates()?;
    let target = templates.subscribe.address()?;
    if load.steered && !target.ip().is_loopback() {
        return Err(Failure::new(format!(
            "--steered moves the kernel work of loopback, {target} is not on it: leave it out"
        )));
    }
    let cores = if load.client_cores.is_empty() { sys::allowed_cores() } else { load.client_cores.clone() };
    // Each thread has a descriptor table of its own, so more threads are more descriptors.
    let threads = load.threads.unwrap_or_else(|| cores.len().max(tables_for(load.subscribers)));
    let threads = threads.clamp(1, load.subscribers as usize);
    let sources = match &load.sources {
        Some(text) => Sources::parse(text).map_err(|error| Failure::new(format!("--sources: {error}")))?,
        None => Sources::suited_to(target, load.subscribers as usize),
    };
    let mut notes = preflight(target, load.subscribers, threads as u64, &sources)?;
    // Now, while there is time to raise it, and in the report.
    for note in &notes {
        eprintln!("fanfare-load: note: {note}");
    }
    let server = load.server_pid.map(Server::new).transpose()?;
    if let Some(refusal) = server.and_then(Server::memory_refusal) {
        notes.push(format!(
            "the server's memory is left out, it may not be read: {refusal}; run as root or as the server's user"
        ));
    }
    if let Some(server) = server
        && !load.server_cores.is_empty()
    {
        pin_server(server, &load.server_cores)?;
    }
    let steered = if load.steered { Some(Steered::to(load.client_cores[0])?) } else { None };

    let groups = groups(kind, load)?;
    let topics = topics_in(&groups);
    let names = Arc::new(topic_names(load, topics));
    let listens = matches!(kind, Kind::Listen(_)) || !load.can_publish();
    let tried = !listens;
    // Seeded by the system at each start: events that an earlier run left behind are told apart.
    let run_id = (RandomState::new().hash_one(clock::now()) & 0xFFFF_FFFF) as u32;
    let count = (load.rate * load.duration.as_secs_f64()).round().max(1.0) as u64;
    let mut phases = vec![u64::from(tried)];
    if matches!(kind, Kind::Slow(_)) {
        phases.push(1 + count / 2);
    }
    let sequences: Arc<Vec<AtomicU64>> = Arc::new((0..topics).map(|_| AtomicU64::new(0)).collect());
    let plan = Plan {
        target,
        request: subscribe_request(&templates, &names)?,
        groups: groups.clone(),
        // The first one shows that events arrive at all.
        admitted: if load.is_staged() { 1 } else { load.subscribers as usize },
        threads,
        cores: load.client_cores.clone(),
        sources,
        connect_rate: load.connect_rate,
        connect_burst: load.connect_burst,
        head_timeout_ns: nanoseconds(load.head_timeout),
        retry_ms: u32::try_from(load.retry.as_millis()).unwrap_or(u32::MAX),
        resume: !matches!(kind, Kind::Storm(storm) if storm.no_resume),
        published: sequences.clone(),
        patience_ns: nanoseconds(load.patience),
        receive_buffer: load.receive_buffer,
        run: run_id,
        phases,
        start: clock::now(),
        listens,
        comes_back: !matches!(kind, Kind::Listen(listen) if listen.once),
        counts_errors: load.count_errors,
        line_bytes: load.line_bytes(),
        silence_ns: match load.expect_heartbeat {
            Duration::ZERO => nanoseconds(LONG_SILENCE),
            expected => nanoseconds(expected * 2),
        },
        stalls: match kind {
            Kind::Slow(slow) => Some((1, slow.stalled_receive_buffer)),
            _ => None,
        },
    };
    if !listens {
        prepare(&templates, &names, load)?;
    }
    let before = quiet_snapshot(server);
    let own_before = sample::own_bytes();
    let started = clock::now();
    watch.begin(plan.start);
    let crowd = Crowd::start(plan)?;
    let mut conductor = Conductor {
        kind,
        load,
        templates,
        server,
        groups,
        names,
        run_id,
        count,
        tried,
        tried_out: 0,
        sequences,
        crowd: Some(crowd),
        evidence: Evidence::new(before, own_before),
        next_memory_look: 0,
        askers: None,
        wanted: if load.is_staged() { 1 } else { load.subscribers },
        watch,
    };
    let result = conductor.conduct(started);
    let report = conductor.settle(result, name, notes);
    drop(steered);
    report
}

fn topics_in(groups: &[Group]) -> u32 {
    groups.iter().map(|group| group.first_topic + group.topics).max().unwrap_or(1)
}

/// The names of a run's topics.
pub(super) fn topics_of(kind: &Kind, load: &Load) -> Outcome<Vec<String>> {
    Ok(topic_names(load, topics_in(&groups(kind, load)?)))
}

/// The names of so many topics.
fn topic_names(load: &Load, topics: u32) -> Vec<String> {
    match topics {
        1 => vec![load.topic.clone()],
        _ => (0..topics).map(|number| format!("{}-{number}", load.topic)).collect(),
    }
}

fn groups(kind: &Kind, load: &Load) -> Outcome<Vec<Group>> {
    let all = load.subscribers as usize;
    let group = |subscribers, first_topic, topics| Group { subscribers, first_topic, topics };
    Ok(match kind {
        Kind::Topics => vec![group(all, 0, all as u32)],
        Kind::Slow(slow) => {
            if !(0.0..1.0).contains(&slow.share) {
                return Err(Failure::new(format!("--share {}: from 0 to less than 1", slow.share)));
            }
            let stalled = (all as f64 * slow.share).round() as usize;
            if stalled == 0 || stalled == all {
                let who = if stalled == 0 { "nobody" } else { "everybody" };
                return Err(Failure::new(format!(
                    "--share {} of {all} subscribers is {who}: some must stall and some must not",
                    slow.share
                )));
            }
            vec![group(all - stalled, 0, 1), group(stalled, 0, 1)]
        }
        Kind::Churn(churn) if !(churn.per_second > 0.0 && churn.per_second.is_finite()) => {
            return Err(Failure::new(format!("--per-second {}: it must be above 0", churn.per_second)));
        }
        Kind::Mixed(mixed) => {
            let small = mixed.small as usize;
            if small == 0 || small >= all {
                return Err(Failure::new(format!(
                    "--small {small}: from 1 to less than --subscribers {all}"
                )));
            }
            if mixed.small_rate.is_nan() || mixed.small_rate <= 0.0 {
                return Err(Failure::new(format!("--small-rate {}: it must be above 0", mixed.small_rate)));
            }
            vec![group(all - small, 0, 1), group(small, 1, 1)]
        }
        _ => vec![group(all, 0, 1)],
    })
}

fn subscribe_request(templates: &RequestTemplates, names: &Arc<Vec<String>>) -> Outcome<Request> {
    let (template, names) = (templates.subscribe.clone(), names.clone());
    // Tried once here, so that the threads can rely on it.
    template.head(Values { topic: &names[0], ..Values::default() }, &mut Vec::new())?;
    Ok(Box::new(move |topic, into| {
        let values = Values { topic: &names[topic as usize], ..Values::default() };
        if template.head(values, into).is_err() {
            into.clear();
        }
    }))
}

/// Creates the topics where a server wants that.
fn prepare(templates: &RequestTemplates, names: &[String], load: &Load) -> Outcome<()> {
    let Some(template) = &templates.prepare else { return Ok(()) };
    let bar = progress("creating topics", names.len() as u64, load.quiet);
    let mut connection = Connection::new(template.address()?, load.patience, Arc::default());
    let mut tally = Tally::new();
    let mut request = Vec::new();
    for name in names {
        request.clear();
        template.request(Values { topic: name, ..Values::default() }, &mut request)?;
        connection.send(&request)?;
        connection
            .answer(&mut tally)
            .map_err(|failure| Failure::new(format!("topic `{name}` cannot be created: {failure}")))?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

/// A bar on standard error; hidden where that is no terminal.
pub(super) fn progress(what: &'static str, length: u64, quiet: bool) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length);
    if let Ok(style) =
        ProgressStyle::with_template("{msg:18} {wide_bar} {human_pos}/{human_len} {elapsed} {prefix}")
    {
        bar.set_style(style);
    }
    bar.with_message(what)
}
