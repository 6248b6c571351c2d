//! The table of all metrics: the one place of their names, units and meanings.

use fanfare::Counts;

use super::Base::{Bytes, Seconds};
use super::{Base, Labelled, Metric, Read, Snapshot};

const fn metric(name: &'static str, unit: Option<Base>, help: &'static str, read: Read) -> Metric {
    Metric { name, unit, help, read }
}

/// A reason, and how often it was one.
type Refusal = (&'static str, fn(&Counts) -> u64);

/// The reasons for which the engine refuses or closes connections at its bounds, as the values of a label.
const REFUSALS: [Refusal; 13] = [
    ("connections_full", |counts| counts.refused_full),
    ("subscription_memory", |counts| counts.refused_for_memory),
    ("patterns_full", |counts| counts.refused_for_patterns),
    ("address_connections", |counts| counts.refused_for_address),
    ("address_connect_rate", |counts| counts.refused_for_connect_rate),
    ("subject_connections", |counts| counts.refused_for_subject),
    ("decisions_full", |counts| counts.refused_undecided),
    ("decision_timeout", |counts| counts.decisions_timed_out),
    ("admission_panic", |counts| counts.admission_panics),
    ("turned_away", |counts| counts.turned_away),
    ("untrusted_proxy", |counts| counts.proxy_refused),
    ("head_timeout", |counts| counts.heads_timed_out),
    ("descriptors_used_up", |counts| counts.accept_pauses),
];

pub(super) static TABLE: &[Metric] = &[
    // Connections and subscriptions.
    metric(
        "fanfare_connections",
        None,
        "Subscribers that are connected now.",
        Read::Gauge(|now| now.counts.connections),
    ),
    metric(
        "fanfare_connections_limit",
        None,
        "Subscribers that may be connected at once, over all shards: --max-connections, or fewer where there are \
         fewer descriptors.",
        Read::Gauge(|now| (now.limits.connections as u64).saturating_mul(now.shards.len() as u64)),
    ),
    metric(
        "fanfare_connections_accepted",
        None,
        "Connections that the shards have accepted, those of publishers and probes included.",
        Read::Counter(|now| now.counts.accepted),
    ),
    metric(
        "fanfare_connections_closed",
        None,
        "Streams of subscribers that have ended, by the reason.",
        Read::Counters("reason", |now| {
            now.counts.closed().map(|(reason, count)| (reason.name().to_owned(), count)).collect()
        }),
    ),
    metric(
        "fanfare_subscriptions",
        None,
        "Streams of subscribers that have begun.",
        Read::Counter(|now| now.counts.subscribed),
    ),
    metric(
        "fanfare_audiences",
        None,
        "Distinct subscriptions now, counted on each shard. Subscribers with the same topics and format \
         share one.",
        Read::Gauge(|now| now.counts.audiences),
    ),
    metric(
        "fanfare_topics",
        None,
        "Topics that have retained events or subscribers now.",
        Read::Gauge(|now| now.counts.topics),
    ),
    metric(
        "fanfare_joins_missed",
        None,
        "Subscribers that joined or left a topic with presence and were not noted, because too many topics \
         had changed at once. See --presence-topics.",
        Read::Counter(|now| now.counts.joins_missed),
    ),
    metric(
        "fanfare_laggards",
        None,
        "Subscribers whose sockets are full now, or that still get older events.",
        Read::Gauge(|now| now.counts.laggards),
    ),
    metric(
        "fanfare_requests_pending",
        None,
        "Requests now whose head is not complete, or whose refusal is still being read.",
        Read::Gauge(|now| now.counts.pending),
    ),
    metric(
        "fanfare_requests_undecided",
        None,
        "Requests now that wait for the decision whether they are let in.",
        Read::Gauge(|now| now.counts.undecided),
    ),
    metric(
        "fanfare_requests_answered",
        None,
        "Requests that a shard has answered itself, such as health checks.",
        Read::Counter(|now| now.counts.answered),
    ),
    metric(
        "fanfare_requests_handed_over",
        None,
        "Connections that the shards have handed to the control plane, such as those of publishers.",
        Read::Counter(|now| now.counts.handed_over),
    ),
    metric(
        "fanfare_requests_refused",
        None,
        "Requests that a shard has answered with a status that refuses them.",
        Read::Counter(|now| now.counts.refused),
    ),
    metric(
        "fanfare_requests_abandoned",
        None,
        "Requests whose clients left before the decision whether they are let in, or before their streams began.",
        Read::Counter(|now| now.counts.left_undecided),
    ),
    metric(
        "fanfare_refused",
        None,
        "Requests and connections that were refused or closed because of a bound or a rule, by the reason. \
         fanfare_access_denied_total and fanfare_authorization_failures_total count those that are not here.",
        Read::Counters("reason", refusals),
    ),
    metric(
        "fanfare_access_denied",
        None,
        "Requests that were refused for their tokens, by the reason.",
        Read::Counters("reason", denials),
    ),
    metric(
        "fanfare_authorization_failures",
        None,
        "Subscriptions that were refused because the authorization endpoint gave no usable answer, by the reason.",
        Read::Counters("reason", failures),
    ),
    // Publishes.
    metric(
        "fanfare_events_published",
        None,
        "Events that were published. Repeated events with an id of their own are not counted.",
        Read::Counter(|now| now.counts.published),
    ),
    metric(
        "fanfare_published",
        Some(Bytes),
        "Bytes of published events, as one subscriber gets them.",
        Read::Counter(|now| now.counts.published_bytes),
    ),
    metric(
        "fanfare_publishes_in_progress",
        None,
        "Publishes now whose body is still being received, or that wait for room in the mailboxes of shards.",
        Read::Gauge(|now| now.publishes_in_progress as u64),
    ),
    metric(
        "fanfare_publishes_limit",
        None,
        "Publishes that may be in progress at once. See --max-publishes.",
        Read::Gauge(|now| now.control_limits.publishes as u64),
    ),
    metric(
        "fanfare_publish_memory",
        Some(Bytes),
        "Memory of the publishes in progress now.",
        Read::Gauge(|now| now.publish_bytes as u64),
    ),
    metric(
        "fanfare_publish_memory_limit",
        Some(Bytes),
        "Memory that publishes in progress may have. See --publish-memory.",
        Read::Gauge(|now| now.control_limits.publish_bytes as u64),
    ),
    // Deliveries.
    metric(
        "fanfare_deliveries",
        None,
        "Events that were delivered: one event to one subscriber, given to the kernel whole.",
        Read::Counter(|now| now.counts.deliveries),
    ),
    metric(
        "fanfare_delivered",
        Some(Bytes),
        "Bytes of events that were given to the kernel.",
        Read::Counter(|now| now.counts.bytes),
    ),
    metric(
        "fanfare_replayed_events",
        None,
        "Deliveries of a replay: events that a subscriber had missed, and gets because it resumes.",
        Read::Counter(|now| now.counts.replayed),
    ),
    metric(
        "fanfare_sends",
        None,
        "Sends to sockets that carried events. One send may carry several events.",
        Read::Counter(|now| now.counts.sends),
    ),
    metric(
        "fanfare_heartbeats",
        None,
        "Heartbeats that were sent to quiet streams.",
        Read::Counter(|now| now.counts.heartbeats),
    ),
    metric(
        "fanfare_gaps",
        None,
        "Gaps that were reported to subscribers: events that they needed were not retained any more.",
        Read::Counter(|now| now.counts.gaps),
    ),
    metric(
        "fanfare_delivery_lag",
        Some(Seconds),
        "Time from the publish of an event to the send that gave it to the kernel whole, one value for each \
         delivery. Deliveries of a replay are not in it.",
        Read::Histogram(|now| now.timings.delivery_lag),
    ),
    metric(
        "fanfare_sweep_duration",
        Some(Seconds),
        "Time from the first to the last send of a sweep, which brings the subscribers of one shard with the \
         same topics to the newest event.",
        Read::Histogram(|now| now.timings.sweeps),
    ),
    // The log.
    metric(
        "fanfare_log_events",
        None,
        "Events that are retained in the log now.",
        Read::Gauge(|now| now.counts.log_frames),
    ),
    metric(
        "fanfare_log",
        Some(Bytes),
        "Memory of the log now, with its indexes.",
        Read::Gauge(|now| now.counts.log_bytes),
    ),
    metric(
        "fanfare_log_limit",
        Some(Bytes),
        "Memory that the log may have. See --log-bytes.",
        Read::Gauge(|now| now.limits.log.total_bytes as u64),
    ),
    metric(
        "fanfare_log_evicted_events",
        None,
        "Events that were dropped from a topic because the log was full, before their retention was over.",
        Read::Counter(|now| now.counts.dropped_for_log_bytes),
    ),
    // Shards.
    metric(
        "fanfare_shard_connections",
        None,
        "Subscribers of each shard now.",
        Read::Gauges("shard", |now| now.by_shard(|counts| counts.connections)),
    ),
    metric(
        "fanfare_shard_laggards",
        None,
        "Laggards of each shard now.",
        Read::Gauges("shard", |now| now.by_shard(|counts| counts.laggards)),
    ),
    metric(
        "fanfare_shard_deliveries",
        None,
        "Events that each shard has delivered.",
        Read::Counters("shard", |now| now.by_shard(|counts| counts.deliveries)),
    ),
    metric(
        "fanfare_shard_mailbox_events",
        None,
        "Events now that wait in the mailbox of each shard. Publishers wait when it is full.",
        Read::Gauges("shard", |now| now.by_shard(|counts| counts.mailbox_events)),
    ),
    metric(
        "fanfare_shard_mailbox",
        Some(Bytes),
        "Memory of the events that wait in the mailbox of each shard now.",
        Read::Gauges("shard", |now| now.by_shard(|counts| counts.mailbox_bytes)),
    ),
    metric(
        "fanfare_shard_mailbox_events_taken",
        None,
        "Events that each shard has taken from its mailbox, because it has subscribers of their topics.",
        Read::Counters("shard", |now| now.by_shard(|counts| counts.events)),
    ),
    metric(
        "fanfare_shard_tick_duration",
        Some(Seconds),
        "Duration of the rounds of each shard's loop, without the wait for something to do. Long rounds \
         delay everything on the shard.",
        Read::Histograms("shard", |now| {
            let shards = now.shard_timings.iter().enumerate();
            shards.map(|(index, timings)| (index.to_string(), timings.ticks)).collect()
        }),
    ),
    // The durable log. Without one, the counters are zero and the other series are not there.
    metric(
        "fanfare_store_events",
        None,
        "Events that were stored in the durable log.",
        Read::Counter(|now| now.store.map_or(0, |store| store.events)),
    ),
    metric(
        "fanfare_store_groups",
        None,
        "Groups in which events were stored. While one group is written, the next one gathers.",
        Read::Counter(|now| now.store.map_or(0, |store| store.groups)),
    ),
    metric(
        "fanfare_store_failures",
        None,
        "Calls to the durable log that have failed. Their events were refused.",
        Read::Counter(|now| now.store.map_or(0, |store| store.failures)),
    ),
    metric(
        "fanfare_store_commit_duration",
        Some(Seconds),
        "Time to store a group, with the wait for the disk.",
        Read::Histogram(|now| now.store.map_or_else(Default::default, |store| store.commit_time)),
    ),
    metric(
        "fanfare_store_retained_events",
        None,
        "Events now in the durable log.",
        Read::OptionalGauge(|now| now.store.map(|store| store.records)),
    ),
    metric(
        "fanfare_store_retained",
        Some(Bytes),
        "Size of the events now in the durable log, without indexes and free space of its files.",
        Read::OptionalGauge(|now| now.store.map(|store| store.bytes)),
    ),
    metric(
        "fanfare_store_writable",
        None,
        "Whether the durable log takes events now: 1, or 0 while its disk is full, or when it has failed.",
        Read::OptionalGauge(|now| now.store.map(|store| u64::from(!store.is_full && !store.is_broken))),
    ),
    // The log that servers share. Without one, the counters are zero and the other series are not there.
    metric(
        "fanfare_shared_log_connected",
        None,
        "Whether the server has a connection to NATS: 1 or 0.",
        Read::OptionalGauge(|now| now.shared_log.as_ref().map(|log| u64::from(log.is_connected))),
    ),
    metric(
        "fanfare_shared_log_caught_up",
        None,
        "Whether the server has what is in the shared log, as far as it knows: 1 or 0. Only then it is ready.",
        Read::OptionalGauge(|now| now.shared_log.as_ref().map(|log| u64::from(log.is_caught_up))),
    ),
    metric(
        "fanfare_shared_log_behind_events",
        None,
        "Events that the shared log had at the last look, once a second, and this server has not.",
        Read::OptionalGauge(|now| now.shared_log.as_ref().map(|log| log.behind)),
    ),
    metric(
        "fanfare_shared_log_publishes",
        None,
        "Events that were given to the shared log, by what became of them. Those of the outcome `undecided` may be \
         in it. Events that wait are not counted.",
        Read::Counters("outcome", |now| {
            let Some(log) = &now.shared_log else { return Vec::new() };
            let outcomes = [
                ("acknowledged", log.acknowledged),
                ("refused", log.refused),
                ("undecided", log.undecided),
                ("unreachable", log.unreachable),
            ];
            outcomes.map(|(outcome, count)| (outcome.to_owned(), count)).into()
        }),
    ),
    metric(
        "fanfare_shared_log_publishes_waiting",
        None,
        "Events that wait for the acknowledgement of the shared log.",
        Read::OptionalGauge(|now| now.shared_log.as_ref().map(|log| log.in_flight)),
    ),
    metric(
        "fanfare_shared_log_retries",
        None,
        "How often an event was sent to the shared log again. The log takes it once.",
        Read::Counter(|now| now.shared_log.as_ref().map_or(0, |log| log.retried)),
    ),
    metric(
        "fanfare_shared_log_duplicates",
        None,
        "Events that the shared log had already: they were published before, or sent again.",
        Read::Counter(|now| now.shared_log.as_ref().map_or(0, |log| log.duplicates)),
    ),
    metric(
        "fanfare_shared_log_acknowledgement_duration",
        Some(Seconds),
        "Time from the first sending of an event to NATS until its acknowledgement.",
        Read::Histogram(|now| {
            now.shared_log.as_ref().map_or_else(Default::default, |log| log.acknowledgement_time)
        }),
    ),
    metric(
        "fanfare_shared_log_received",
        None,
        "Messages that the server has received from the shared log.",
        Read::Counter(|now| now.shared_log.as_ref().map_or(0, |log| log.received)),
    ),
    metric(
        "fanfare_shared_log_messages_skipped",
        None,
        "Messages of the shared log that no subscriber gets, because they are no events, or larger than --max-event.",
        Read::Counter(|now| {
            now.shared_log.as_ref().map_or(0, |log| log.messages_without_event) + now.feed_skipped
        }),
    ),
    metric(
        "fanfare_shared_log_connections",
        None,
        "Connections to NATS that were made: one, and one more for each that was lost.",
        Read::Counter(|now| now.shared_log.as_ref().map_or(0, |log| log.connections)),
    ),
    metric(
        "fanfare_shared_log_consumers_recreated",
        None,
        "How often the server began to read the shared log anew, after a lost connection or a change of the leader.",
        Read::Counter(|now| now.shared_log.as_ref().map_or(0, |log| log.consumers_recreated)),
    ),
    metric(
        "fanfare_shared_log_settings_of_others",
        None,
        "Whether the topic settings in force are another server's, and the own options say something else: 1 or \
         0.",
        Read::OptionalGauge(|now| now.has_settings_of_others.map(u64::from)),
    ),
    metric(
        "fanfare_shared_log_settings_unreadable",
        None,
        "Whether this server cannot read the topic settings that hold for all servers: 1 or 0. The servers may have \
         different settings then.",
        Read::OptionalGauge(|now| now.are_settings_unreadable.map(u64::from)),
    ),
    metric(
        "fanfare_shared_log_retained_events",
        None,
        "Events now in the shared log.",
        Read::OptionalGauge(|now| now.shared_log.as_ref().map(|log| log.stream_messages)),
    ),
    metric(
        "fanfare_shared_log_retained",
        Some(Bytes),
        "Size of the events now in the shared log, as NATS counts it.",
        Read::OptionalGauge(|now| now.shared_log.as_ref().map(|log| log.stream_bytes)),
    ),
    // Memory and the process.
    metric(
        "fanfare_memory_limit",
        Some(Bytes),
        "Memory that each part of the server takes at most, by the part. The sum is a bound for all that clients \
         can make the server use.",
        Read::Gauges("part", |now| {
            let name = |part: &str| part.trim_start_matches("the ").replace([' ', '-'], "_");
            now.memory_bounds.iter().map(|(part, bytes)| (name(part), *bytes as u64)).collect()
        }),
    ),
    metric(
        "fanfare_log_lines_lost",
        None,
        "Lines of the log that could not be written, because its reader was too slow or gone, or the disk was full.",
        Read::Counter(|now| now.log_lines_lost),
    ),
    metric(
        "fanfare_ready",
        None,
        "Whether the server takes newcomers: 1, or 0 while it drains or its control plane does not answer.",
        Read::Gauge(|now| u64::from(now.is_ready)),
    ),
    metric(
        "fanfare_build",
        None,
        "The version of the server, and how it waits for its sockets and holds their descriptors.",
        Read::Info(&["version", "backend", "descriptor_tables"], |now| now.build.to_vec()),
    ),
    metric(
        "process_resident_memory",
        Some(Bytes),
        "Memory of the process that is resident now.",
        Read::OptionalGauge(|now| now.process.resident_bytes),
    ),
    metric(
        "process_cpu",
        Some(Seconds),
        "Processor time that all threads of the process have used.",
        Read::FloatCounter(|now| now.process.cpu_seconds),
    ),
    metric(
        "process_start_time",
        Some(Seconds),
        "When the server began, in seconds since 1970.",
        Read::FloatGauge(|now| now.started),
    ),
    metric(
        "process_threads",
        None,
        "Threads of the process now.",
        Read::OptionalGauge(|now| now.process.threads),
    ),
    metric(
        "process_open_fds",
        None,
        "Descriptors that are open now in the table of the main thread. Shards may have tables of their own. \
         Known since Linux 6.2.",
        Read::OptionalGauge(|now| now.process.open_descriptors),
    ),
    metric(
        "process_max_fds",
        None,
        "Descriptors that each table of the process may hold: the soft RLIMIT_NOFILE.",
        Read::OptionalGauge(|now| now.process.descriptor_limit),
    ),
];

/// Requests and connections that were refused or closed because of a bound or a rule, by the reason.
pub(super) fn refusals(now: &Snapshot) -> Labelled<u64> {
    let by_engine = REFUSALS.iter().map(|(name, count)| ((*name).to_owned(), count(&now.counts)));
    by_engine.chain(owned(&now.notices)).collect()
}

/// Requests that were refused for their tokens, by the reason.
pub(super) fn denials(now: &Snapshot) -> Labelled<u64> {
    owned(&now.denials)
}

/// Subscriptions without a usable answer of the authorization endpoint, by the reason.
pub(super) fn failures(now: &Snapshot) -> Labelled<u64> {
    owned(&now.failures)
}

fn owned(counts: &[(&'static str, u64)]) -> Labelled<u64> {
    counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}
