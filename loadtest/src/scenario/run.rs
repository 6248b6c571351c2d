//! One run: everything that is settled before the first stream is opened.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::conductor::Conductor;
use super::figures::Evidence;
use super::options::is_rate;
use super::snapshot::quiet_snapshot;
use super::{Kind, Load};
use crate::client::{Crowd as Local, Group, Zipf};
use crate::clock::{self, nanoseconds};
use crate::distributed::{Agents, Assignment, Crowd, Offset, Own, Token, Watched, has_machine_for_itself};
use crate::failure::{Failure, Outcome};
use crate::limits::{preflight, preflight_tun, tables_for};
use crate::monitor::Monitor;
use crate::publish::{Connection, Tally};
use crate::report::Report;
use crate::sample::{self, Server};
use crate::steer::{Kept, Steered, client_cores, pin_server};
use crate::subscription::{Lists, Subscriptions};
use crate::target::{RequestTemplates, Values};
use crate::threshold;
use crate::tls::{self, Tls};
use crate::tun::Networks;

/// The silence of a stream that is worth a note where none was named: proxies close a stream that is silent
/// for a minute.
const LONG_SILENCE: Duration = Duration::from_secs(60);

/// Topics of a run, and of one of its streams.
const MOST_TOPICS: u32 = 10_000_000;
const MOST_PER_STREAM: u32 = 1_000;

/// Whether what was asked can be run at all.
pub(crate) fn check(kind: &Kind, load: &Load) -> Outcome<()> {
    load.check()?;
    if load.is_staged() && load.stages.iter().any(|stage| stage.streams > load.subscribers) {
        return Err(Failure::new("--stage is for single runs: leave it out of `find` and `compare`"));
    }
    if load.is_staged() && !matches!(kind, Kind::Fanout | Kind::Topics(_)) {
        return Err(Failure::new(format!("--stage is for fanout and topics, not for {}", kind.name())));
    }
    if !load.can_publish() && !matches!(kind, Kind::Listen(_) | Kind::Idle(_)) {
        return Err(Failure::new(format!(
            "nothing says where `{}` publishes: give --publish-url, or --url, or listen to what the server sends by itself with `fanfare-load listen`",
            kind.name()
        )));
    }
    groups(kind, load.subscribers).map(drop)
}

/// Runs a scenario. An error is a run that could not start; what went wrong later is in the report.
pub(crate) fn run(kind: &Kind, load: &Load, name: &str) -> Outcome<Report> {
    run_monitored(kind, load, name, &mut Monitor::default())
}

/// The same, seen while it lasts.
pub(crate) fn run_monitored(kind: &Kind, load: &Load, name: &str, monitor: &mut Monitor) -> Outcome<Report> {
    check(kind, load)?;
    threshold::check(&load.fail_if, load.names_server(), monitor.wants.earlier.is_some())?;
    let templates = load.templates()?;
    let Asked { groups, names, lists } = asked(kind, load, &templates)?;
    let topics = topics_in(&groups);
    let listens = matches!(kind, Kind::Listen(_)) || !load.can_publish();
    let tried = !listens;
    // Seeded by the system at each start: events that an earlier run left behind are told apart.
    let run_id = (RandomState::new().hash_one(clock::now()) & 0xFFFF_FFFF) as u32;
    let count = (load.rate * load.duration.as_secs_f64()).round().max(1.0) as u64;
    let mut phases = vec![u64::from(tried)];
    if matches!(kind, Kind::Slow(_)) {
        phases.push(1 + count / 2);
    }
    let cores = client_cores(load);
    let tun = load.tun.as_deref().map(Networks::parse).transpose();
    let tun = tun.map_err(|error| Failure::new(format!("--tun: {error}")))?;
    // Each thread has a descriptor table of its own, so more threads are more descriptors.
    let threads = match (load.threads, &tun) {
        (Some(threads), _) => threads,
        (None, Some(_)) => cores.len(),
        (None, None) => cores.len().max(tables_for(load.subscribers)),
    };
    let threads = threads.clamp(1, load.subscribers as usize);
    let mut assignment = Assignment {
        kind: kind.clone(),
        subscribers: load.subscribers,
        topic: load.topic.clone(),
        topics,
        template: templates.subscribe.clone(),
        connect_to: load.connect_to.clone(),
        lists,
        authorities: load.ca.as_deref().map(tls::pem).transpose()?,
        insecure: load.insecure,
        http2: load.http2.then_some(load.streams_per_connection),
        accepts_gzip: load.gzip,
        // The first one shows that events arrive at all.
        admitted: if load.is_staged() { 1 } else { load.subscribers },
        threads,
        own_threads: 0..threads,
        sources: load.sources.clone(),
        connect_rate: load.connect_rate,
        connect_burst: load.connect_burst,
        head_timeout_ns: nanoseconds(load.head_timeout),
        retry_ms: u32::try_from(load.retry.as_millis()).unwrap_or(u32::MAX),
        patience_ns: nanoseconds(load.patience),
        receive_buffer: load.receive_buffer,
        run: run_id,
        phases,
        start: 0,
        listens,
        counts_errors: load.count_errors,
        line_bytes: load.line_bytes(),
        silence_ns: match load.expect_heartbeat {
            Duration::ZERO => nanoseconds(LONG_SILENCE),
            expected => nanoseconds(expected * 2),
        },
        least_memory: load.least_memory,
    };
    let subscriptions = assignment.subscriptions()?;
    let target = subscriptions.targets()[0];
    if let Some(elsewhere) = subscriptions.targets().iter().find(|target| !target.ip().is_loopback())
        && load.steered
    {
        return Err(Failure::new(format!(
            "--steered moves the kernel work of loopback, {elsewhere} is not on it: leave it out"
        )));
    }
    let sources = assignment.sources(&subscriptions)?;
    let token = load.token.as_deref().map(Token::new).transpose()?;
    let mut agents = match &token {
        Some(token) if !load.agents.is_empty() => Some(Agents::join(&load.agents, token)?),
        _ => None,
    };
    let mut notes = match (&mut agents, &tun) {
        (Some(_), _) => Vec::new(),
        (None, None) => preflight(target, load.subscribers, threads as u64, &sources)?,
        (None, Some(networks)) => {
            preflight_tun(subscriptions.targets(), load.subscribers, threads, networks)?
        }
    };
    let server = match (load.server_pid, &load.server_watch, &token) {
        (Some(pid), ..) => Some(Watched::Here(Server::new(pid)?)),
        (None, Some(name), Some(token)) => Some(Watched::join(name, token)?),
        _ => None,
    };
    if let Some(agents) = &mut agents {
        notes.extend(agents.assign(assignment.clone(), load.threads)?);
    }
    // Now, while there is time to raise it, and in the report.
    for note in &notes {
        eprintln!("fanfare-load: note: {note}");
    }
    if let Some(refusal) = server.as_ref().and_then(Watched::memory_refusal) {
        notes.push(format!(
            "the server's memory is left out, it may not be read: {refusal}; run as root or as the server's user"
        ));
    }
    if let Some(server) = server.as_ref().and_then(Watched::here)
        && !load.server_cores.is_empty()
    {
        pin_server(server, &load.server_cores)?;
    }
    // This thread looks at the run every millisecond: on the server's core it would be in its way. The
    // client's threads and the publishers begin where it is.
    let keeps = !load.client_cores.is_empty() || !load.server_cores.is_empty() && load.server_watch.is_none();
    let kept = keeps.then(|| Kept::on(&cores)).transpose()?;
    let steered = if load.steered { Some(Steered::to(load.client_cores[0])?) } else { None };

    let sequences: Arc<Vec<AtomicU64>> = Arc::new((0..topics).map(|_| AtomicU64::new(0)).collect());
    let subscribed = subscribed(&groups, topics);
    let tls = load.tls()?;
    if !listens {
        prepare(&templates, &names, load, &tls)?;
    }
    // A run that only listens publishes nothing.
    let publish_address = if listens { target } else { templates.publish.address()? };
    let before = quiet_snapshot(server.as_ref(), agents.is_none());
    let own_before = agents.as_ref().map_or_else(sample::own_bytes, Agents::own_bytes);
    let mut evidence = Evidence::new(before, own_before);
    evidence.server_has_machine = has_machine_for_itself(server.as_ref(), agents.as_ref());
    let started = clock::now();
    monitor.begin(started);
    let crowd = match agents {
        Some(agents) => {
            agents.begin(started, sequences.clone())?;
            Crowd::There(agents)
        }
        None => {
            assignment.start = started;
            let own = Own {
                subscriptions,
                cores: load.client_cores.clone(),
                sources,
                tun,
                published: sequences.clone(),
                offset: Arc::new(Offset::default()),
            };
            Crowd::Here(Local::start(assignment.plan(own)?)?)
        }
    };
    let mut conductor = Conductor {
        kind,
        load,
        templates,
        publish_address,
        tls,
        server,
        groups,
        names,
        run_id,
        count,
        tried,
        tried_out: 0,
        sequences,
        subscribed,
        crowd: Some(crowd),
        evidence,
        next_memory_check: 0,
        askers: None,
        wanted: if load.is_staged() { 1 } else { load.subscribers },
        monitor,
    };
    let result = conductor.conduct(started);
    let report = conductor.settle(result, name, notes);
    drop((steered, kept));
    report
}

fn topics_in(groups: &[Group]) -> u32 {
    groups.iter().map(|group| group.first_topic + group.topics).max().unwrap_or(1)
}

/// The subscribers, and what each of them asks for.
pub(super) struct Asked {
    pub(super) groups: Vec<Group>,
    /// Of the topics.
    pub(super) names: Arc<Vec<String>>,
    pub(super) lists: Lists,
}

impl Asked {
    /// Looks hosts up, and tries one request.
    pub(super) fn subscriptions(&self, load: &Load, templates: &RequestTemplates) -> Outcome<Subscriptions> {
        Subscriptions::of(&templates.subscribe, &self.names, self.lists.clone(), &load.connect_to)
    }
}

/// Reads the files that are named.
pub(super) fn asked(kind: &Kind, load: &Load, templates: &RequestTemplates) -> Outcome<Asked> {
    let groups = groups(kind, load.subscribers)?;
    let names = Arc::new(topic_names(&load.topic, topics_in(&groups)));
    if groups.iter().any(|group| group.per_stream > 1) && !templates.subscribe.contains("{topics:") {
        return Err(Failure::new(
            "--per-stream: the subscription has no {topics:SEPARATOR} in it, such as `?topic={topics:&topic=}`: how does a stream name several topics?",
        ));
    }
    let lists = Lists::read(load.subscribe_urls.as_deref(), load.values.as_deref())?;
    Ok(Asked { groups, names, lists })
}

/// The names of so many topics.
pub(crate) fn topic_names(topic: &str, topics: u32) -> Vec<String> {
    match topics {
        1 => vec![topic.to_owned()],
        _ => (0..topics).map(|number| format!("{topic}-{number}")).collect(),
    }
}

/// How so many subscribers are grouped.
///
/// # Errors
/// A scenario's own options that cannot be.
pub(crate) fn groups(kind: &Kind, subscribers: u64) -> Outcome<Vec<Group>> {
    let all = subscribers as usize;
    let group = |subscribers, first_topic, topics| Group {
        subscribers,
        first_topic,
        topics,
        per_stream: 1,
        popularity: None,
    };
    Ok(match kind {
        Kind::Topics(options) => {
            let topics = options.topics.unwrap_or(all as u32);
            if !(1..=MOST_TOPICS).contains(&topics) {
                return Err(Failure::new(format!("--topics {topics}: from 1 to {MOST_TOPICS}")));
            }
            if !(1..=topics.min(MOST_PER_STREAM)).contains(&options.per_stream) {
                return Err(Failure::new(format!(
                    "--per-stream {}: from 1 to {}, and not more than there are topics",
                    options.per_stream, MOST_PER_STREAM
                )));
            }
            if options.zipf.is_some_and(|exponent| !(0.0..=10.0).contains(&exponent)) {
                return Err(Failure::new("--zipf: from 0 to 10; 1 is the usual law"));
            }
            let popularity = options.zipf.map(|exponent| Arc::new(Zipf::new(topics, exponent)));
            vec![Group { per_stream: options.per_stream, popularity, ..group(all, 0, topics) }]
        }
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
            if !is_rate(mixed.small_rate) {
                return Err(Failure::new(format!(
                    "--small-rate {}: it must be above 0 and at most ten million",
                    mixed.small_rate
                )));
            }
            vec![group(all - small, 0, 1), group(small, 1, 1)]
        }
        _ => vec![group(all, 0, 1)],
    })
}

/// How many streams each topic has.
fn subscribed(groups: &[Group], topics: u32) -> Vec<u64> {
    let mut streams = vec![0; topics as usize];
    for group in groups {
        for number in 0..group.subscribers {
            for topic in group.topics_of(number) {
                streams[topic as usize] += 1;
            }
        }
    }
    streams
}

/// Creates the topics where a server wants that.
fn prepare(templates: &RequestTemplates, names: &[String], load: &Load, tls: &Tls) -> Outcome<()> {
    let Some(template) = &templates.prepare else { return Ok(()) };
    let bar = progress("creating topics", names.len() as u64, load.quiet);
    let mut connection = Connection::new(template.address()?, template, tls, load.patience, Arc::default())?;
    let mut tally = Tally::new();
    let mut request = Vec::new();
    for name in names {
        request.clear();
        template.request(None, Values { topic: name, ..Values::default() }, &mut request)?;
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
