//! Every bound of the control plane, in one place: its name, unit, default, reason, and what happens there.
//!
//! The engine's bounds are in [`fanfare::Limits`].

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use fanfare::{RateLimiter, bound_for};
use fanfare_config::Settings;
use fanfare_config::kind::size_text;

use super::publish_rates::PublishRateLimits;
use crate::log_output;
use crate::presence::PresenceOptions;

/// Sockets that wait between the shards and the control plane.
pub(super) const WAITING: usize = 1024;

/// Time for a head on a connection that is kept open, the wait for it included.
pub(super) const HEAD_TIME: Duration = Duration::from_secs(30);

/// The longest window of a rebalance, and that of one that names none.
pub(super) const REBALANCE_WINDOW: Duration = Duration::from_secs(3600);
pub(super) const REBALANCE_WINDOW_DEFAULT: Duration = Duration::from_secs(30);

/// Connections of the admin listener at once: some monitors and some probes. The one that has been idle for
/// the longest time is closed.
pub(super) const ADMIN_CONNECTIONS: usize = 64;

/// Bytes of answers of the admin listener that are not taken yet: some answers to `/metrics` of a server with
/// many shards.
pub(super) const ADMIN_ANSWER_BYTES: usize = 8 << 20;

/// Dashboards at once: 503. The other connections of the admin listener stay free for monitors and probes.
pub(super) const DASHBOARDS: usize = 16;

/// Time between two events of a dashboard's stream.
pub(super) const FIGURES_EVERY: Duration = Duration::from_secs(1);

/// How long the admin listener takes no connections after the system has refused one.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// After so much time without a connection the admin listener looks for spare descriptors that are missing.
pub(super) const SPARE_REFILL: Duration = Duration::from_secs(1);

/// Between two tries to open the admin listener at an address that is in use.
pub(super) const ADMIN_OPEN_PAUSE: Duration = Duration::from_secs(1);

/// How long a client may go on sending after its last answer, before the socket is closed under it.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// Bytes that are thrown away behind a last answer: what a client has usually sent before it reads the
/// answer.
pub(super) const LINGER_BYTES: usize = 256 << 10;

/// Bytes of answers that clients have not taken yet, over all connections. At the bound the answers that have
/// waited for the longest time are thrown away, with their connections. Answers are small but for pages of
/// topics.
pub(super) const ANSWER_BYTES: usize = 16 << 20;

/// How long a client may take nothing of its answer. Only so many connections are served at once: clients
/// that never read would keep all others out.
pub(super) const WRITE_TIME: Duration = Duration::from_secs(30);

/// Events of a stream or an array that are read or published before other requests are served. Those of a
/// part are published together.
pub(super) const PART_EVENTS: usize = 256;

/// Topics of the events of a part, each counted in each event: as many as the hub publishes under one lock
/// ([`fanfare::Limits::batch_topics`]). One event may have more.
pub(super) const PART_TOPICS: usize = 512;

/// Bytes of memory that the events of a part take. One event may take more.
pub(super) const PART_BYTES: usize = 256 << 10;

/// How long a publish waits for room in the mailboxes before it is answered 503. An array of which a part is
/// published waits on.
pub(super) const ROOM_TIME: Duration = Duration::from_secs(5);

/// A JSON or form body must be complete within this time: 408.
pub(super) const BODY_TIME: Duration = Duration::from_secs(30);

/// How long a body may pause: 408. Each byte that comes buys time ([`ControlLimits::least_rate`]), never more
/// than this.
pub(super) const BODY_GRACE: Duration = Duration::from_secs(30);

/// How fast a body comes is known when the server has waited for so long for its bytes.
pub(super) const SLOW_BODY_AGE: Duration = Duration::from_secs(1);

/// Bytes a second that a younger body counts as, beside what has come of it. Where places are scarce, an
/// upload that is known to be faster keeps its place beside a crowd of bodies that never come, and a body
/// that is known to trickle does not keep out one that has just begun.
pub(super) const YOUNG_BODY_RATE: f64 = 4096.0;

/// Bytes that the HTTP library reads at once. A request head must fit (see [`fanfare::Limits::head`]).
pub(super) const READ_BYTES: usize = 40 << 10;

/// What a publish holds besides its body: what the HTTP library has read and not given out, what it has given
/// out, and what both need to know.
pub(super) const BODY_OVERHEAD: usize = 3 * READ_BYTES;

/// What a line of NDJSON may hold besides its data: names, ids, and JSON's escapes.
pub(super) const LINE_EXTRA: usize = 64 << 10;

/// Topics on one page of `GET /topics`, at most: 400. Such a page has at most some 700 KB.
pub(super) const TOPICS_PER_PAGE: usize = 1000;

/// Topics on one page where the request does not say.
pub(super) const TOPICS_PER_PAGE_DEFAULT: usize = 100;

/// Connections on one page of `GET /connections`, at most: 400. Such a page has some 300 KB, and 2.5 MB at
/// most.
pub(super) const CONNECTIONS_PER_PAGE: usize = fanfare::ConnectionsPage::MOST;

/// Connections on one page where the request does not say.
pub(super) const CONNECTIONS_PER_PAGE_DEFAULT: usize = 100;

/// Questions about topics and connections that wait for the permit to ask: 503.
pub(super) const INSPECTION_QUEUE: usize = 256;

/// How long a question waits for the permit: 503.
pub(super) const INSPECTION_WAIT: Duration = Duration::from_secs(5);

/// How long the shards may take to answer one question: 503.
pub(super) const INSPECTION_TIME: Duration = Duration::from_secs(2);

/// Subscriptions on so many connections that may wait at once for an endpoint, or for the verification of
/// their tokens: 503. The others are for publishes and everything else.
pub(super) fn undecided_of(connections: usize) -> usize {
    (connections / 4).max(1)
}

/// The bounds that are settings of the server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ControlLimits {
    /// Connections at once that are no subscribers: the one that has been idle for the longest time is ended.
    pub(crate) connections: usize,
    /// Bytes of a JSON or form body: 413. NDJSON has no such bound, because it is published while it comes.
    pub(crate) body_bytes: usize,
    /// Events of a JSON array: 413. Each of them is read twice, because an array is published whole or not at
    /// all.
    pub(crate) array_events: usize,
    /// Publishes in progress at once, at most half of the connections: the slowest one is ended (503), or the
    /// newcomer refused (503).
    pub(crate) publishes: usize,
    /// Bytes that all publishes in progress hold, also while they wait for room in the shards' mailboxes: as
    /// above.
    pub(crate) publish_bytes: usize,
    /// Bytes a second that a body must have on average, pauses of [`BODY_GRACE`] aside: 408. Zero: pauses
    /// alone count.
    pub(crate) least_rate: usize,
    /// What each publisher may publish: 429.
    pub(crate) publish_rates: PublishRateLimits,
    /// Bytes that presence takes at most.
    pub(crate) presence_bytes: usize,
}

impl ControlLimits {
    /// The bounds of these settings.
    pub(crate) fn of(settings: &Settings) -> ControlLimits {
        /// What publishes may hold where nothing is said.
        const PUBLISH_BYTES: usize = 128 << 20;
        let body_bytes = settings.max_body;
        ControlLimits {
            connections: settings.max_control_connections,
            body_bytes,
            array_events: settings.max_array,
            publishes: settings.max_publishes,
            publish_bytes: settings.publish_memory.unwrap_or(PUBLISH_BYTES.max(body_bytes.saturating_mul(4))),
            least_rate: settings.publish_rate,
            publish_rates: PublishRateLimits {
                events: settings.publish_events_rate(),
                bytes: settings.publish_bytes_rate(),
            },
            presence_bytes: PresenceOptions::of(settings).map_or(0, |presence| presence.memory_bytes()),
        }
    }

    /// How much memory each part of the control plane takes at most, in bytes, by its name. It leaves out
    /// what the kernel holds for sockets, and the response to one question about topics.
    pub(crate) fn memory_bounds(&self) -> [(&'static str, usize); 7] {
        [
            ("publishes in progress", self.publish_bytes),
            ("unread answers", ANSWER_BYTES),
            ("sockets on their way to the control plane", WAITING * READ_BYTES),
            ("rates of publishers", if self.publish_rates.are_none() { 0 } else { 4 * RateLimiter::BYTES }),
            ("presence", self.presence_bytes),
            log_output::memory_bound(),
            ("connections of the control plane", self.connections.saturating_mul(2 * READ_BYTES)),
        ]
    }

    /// Checks whether the bounds of these settings go together.
    ///
    /// # Errors
    /// The name of the option that is wrong beside another one, and what is wrong.
    pub(crate) fn check(&self, settings: &Settings) -> Result<(), (&'static str, String)> {
        let least = ControlLimits::least_publish_bytes(self.body_bytes);
        if bound_for(false, self.publish_bytes) < least {
            // The last part is the operator's.
            let least = least.saturating_add(least / 31).saturating_add(1);
            let [memory, body, least] = [self.publish_bytes, settings.max_body, least].map(size_text);
            let text =
                format!("--publish-memory {memory} is too little for --max-body {body}; it needs {least}");
            return Err(("publish-memory", text));
        }
        let most = self.connections / 2;
        if !(1..=most).contains(&self.publishes) {
            let (publishes, connections) = (self.publishes, self.connections);
            let text = format!(
                "--max-publishes {publishes} has to be from 1 to {most}, half of --max-control-connections \
                 {connections}, so that other requests find room"
            );
            return Err(("max-publishes", text));
        }
        Ok(())
    }

    /// The least that [`ControlLimits::publish_bytes`] may be: one body, the buffer that it has grown into,
    /// and its event.
    pub(crate) fn least_publish_bytes(body_bytes: usize) -> usize {
        BODY_OVERHEAD.saturating_add(body_bytes.saturating_mul(3))
    }
}

impl Default for ControlLimits {
    fn default() -> ControlLimits {
        ControlLimits::of(&Settings::default())
    }
}

/// The bounds that hold: they change while the server runs.
#[derive(Debug)]
pub(crate) struct CurrentLimits(ArcSwap<ControlLimits>);

impl CurrentLimits {
    pub(crate) fn new(limits: ControlLimits) -> CurrentLimits {
        CurrentLimits(ArcSwap::from_pointee(limits))
    }

    /// The bounds of this moment.
    pub(crate) fn get(&self) -> ControlLimits {
        **self.0.load()
    }

    /// Replaces them. What is in use beyond a lower one stays until room is needed.
    pub(crate) fn replace(&self, limits: ControlLimits) {
        self.0.store(Arc::new(limits));
    }

    #[cfg(test)]
    pub(super) fn of_connections(connections: usize) -> Arc<CurrentLimits> {
        Arc::new(CurrentLimits::new(ControlLimits { connections, ..ControlLimits::default() }))
    }
}
