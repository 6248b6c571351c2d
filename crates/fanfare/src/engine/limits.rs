//! Each bound of the engine that is an option of the server's command line, as a method of the builder with
//! the same name: `--max-connections` is [`Builder::max_connections`]. A test of the server compares them.
//! And bounds of members, which the server does not have.
//!
//! [`Builder::limits`] sets all bounds at once, also those that are no options. These methods change single
//! ones of them, whether they are called before it or after it. Of two calls for one bound, the last one
//! counts.

use std::time::Duration;

use fanfare_proto::client_address::TrustedProxies;
use fanfare_proto::client_limits::Operators;
use fanfare_proto::frame::HeartbeatForm;
use fanfare_proto::limits::{FullPolicy, LaggardPolicy, Limits, RetentionRule};

use super::Builder;

/// A single bound.
pub(super) type LimitChange = Box<dyn FnOnce(&mut Limits) + Send + Sync>;

impl Builder {
    fn limit(mut self, change: impl FnOnce(&mut Limits) + Send + Sync + 'static) -> Builder {
        self.limit_changes.push(Box::new(change));
        self
    }

    /// Subscribers per shard: [`Limits::connections`].
    pub fn max_connections(self, count: usize) -> Builder {
        self.limit(move |limits| limits.connections = count)
    }

    /// Connections of one address: [`crate::ClientLimits::connections_per_address`].
    pub fn max_connections_per_address(self, count: usize) -> Builder {
        self.limit(move |limits| limits.clients.connections_per_address = Some(count))
    }

    /// How often one address may connect in a second: [`crate::ClientLimits::connects_per_second`].
    pub fn max_connect_rate(self, per_second: usize) -> Builder {
        self.limit(move |limits| limits.clients.connects_per_second = Some(per_second as u64))
    }

    /// How often one address may connect at once: [`crate::ClientLimits::connect_burst`].
    pub fn connect_burst(self, count: usize) -> Builder {
        self.limit(move |limits| limits.clients.connect_burst = count as u64)
    }

    /// Bits of an IPv6 address that tell clients apart: [`crate::ClientLimits::ipv6_prefix_bits`].
    pub fn ipv6_prefix(self, bits: u8) -> Builder {
        self.limit(move |limits| limits.clients.ipv6_prefix_bits = bits)
    }

    /// Streams of one subject: [`crate::ClientLimits::streams_per_subject`].
    pub fn max_connections_per_subject(self, count: usize) -> Builder {
        self.limit(move |limits| limits.clients.streams_per_subject = Some(count))
    }

    /// The proxies whose word about their clients is believed, where connections are counted by address:
    /// [`crate::ClientLimits::proxies`].
    pub fn trusted_proxies(self, proxies: TrustedProxies) -> Builder {
        self.limit(move |limits| limits.clients.proxies = proxies)
    }

    /// The operator's addresses, whose requests may use the reserve: [`crate::ClientLimits::operators`].
    pub fn operators(self, operators: Operators) -> Builder {
        self.limit(move |limits| limits.clients.operators = operators)
    }

    /// What a subscriber gets that finds no room: [`Limits::when_full`].
    pub fn when_full(self, policy: FullPolicy) -> Builder {
        self.limit(move |limits| limits.when_full = policy)
    }

    /// Topics and patterns of one subscription: [`Limits::topics_per_subscription`].
    ///
    /// An admission of your own gives the bound to [`crate::Subscribe::from_request`] itself.
    pub fn max_topics(self, count: usize) -> Builder {
        self.limit(move |limits| limits.topics_per_subscription = count)
    }

    /// Different patterns that subscribers read, or have read lately: [`Limits::patterns`].
    pub fn max_patterns(self, count: usize) -> Builder {
        self.limit(move |limits| limits.patterns = count)
    }

    /// Bytes of one event's data: [`Limits::event_bytes`].
    pub fn max_event(self, bytes: usize) -> Builder {
        self.limit(move |limits| limits.event_bytes = bytes)
    }

    /// Time for a request head to be complete: [`Limits::head_time`].
    pub fn head_time(self, time: Duration) -> Builder {
        self.limit(move |limits| limits.head_time = time)
    }

    /// Events of each topic that are kept: [`crate::Retention::events`] of the general retention.
    pub fn retain_events(self, count: usize) -> Builder {
        self.limit(move |limits| limits.log.retention.events = count)
    }

    /// Bytes of events of each topic that are kept: [`crate::Retention::bytes`] of the general retention.
    pub fn retain_bytes(self, bytes: usize) -> Builder {
        self.limit(move |limits| limits.log.retention.bytes = bytes)
    }

    /// Age at which events are dropped: [`crate::Retention::age`] of the general retention.
    pub fn retain_age(self, age: Duration) -> Builder {
        self.limit(move |limits| limits.log.retention.age = age)
    }

    /// Other bounds for some topics: one more of [`crate::LogLimits::rules`]. The first that matches a topic
    /// holds.
    pub fn retain(self, rule: RetentionRule) -> Builder {
        self.limit(move |limits| limits.log.rules.push(rule))
    }

    /// Memory of all events that are kept, in bytes: [`crate::LogLimits::total_bytes`].
    pub fn log_bytes(self, bytes: usize) -> Builder {
        self.limit(move |limits| limits.log.total_bytes = bytes)
    }

    /// Bytes per shard of events that slow subscribers have begun to receive: [`Limits::laggard_bytes`].
    pub fn laggard_bytes(self, bytes: usize) -> Builder {
        self.limit(move |limits| limits.laggard_bytes = bytes)
    }

    /// Bytes per shard of what its subscriptions read: [`Limits::subscription_bytes`].
    pub fn subscription_bytes(self, bytes: usize) -> Builder {
        self.limit(move |limits| limits.subscription_bytes = bytes)
    }

    /// Bytes per shard of what is known of its connections beside their streams: [`Limits::details_bytes`].
    pub fn details_bytes(self, bytes: usize) -> Builder {
        self.limit(move |limits| limits.details_bytes = bytes)
    }

    /// Members of topics that one subscription adds: [`Limits::members_per_subscription`].
    pub fn max_members(self, count: usize) -> Builder {
        self.limit(move |limits| limits.members_per_subscription = count)
    }

    /// Members of topics that stay without a connection: [`Limits::members_lingering`].
    pub fn max_lingering_members(self, count: usize) -> Builder {
        self.limit(move |limits| limits.members_lingering = count)
    }

    /// Members of topics that wait for their announcement: [`Limits::announcements`].
    pub fn max_announcements(self, count: usize) -> Builder {
        self.limit(move |limits| limits.announcements = count)
    }

    /// Time after which a subscriber that takes nothing is closed: [`Limits::laggard_time`].
    pub fn laggard_time(self, time: Duration) -> Builder {
        self.limit(move |limits| limits.laggard_time = time)
    }

    /// What happens to a slow subscriber when what it needs is not kept any more: [`Limits::laggard_policy`].
    pub fn laggard_policy(self, policy: LaggardPolicy) -> Builder {
        self.limit(move |limits| limits.laggard_policy = policy)
    }

    /// A comment is sent where nothing else was for this long: [`Limits::heartbeat`].
    pub fn heartbeat(self, interval: Duration) -> Builder {
        self.limit(move |limits| limits.heartbeat = interval)
    }

    /// The shortest interval between heartbeats that a subscriber may ask for: [`Limits::heartbeat_min`].
    pub fn heartbeat_min(self, interval: Duration) -> Builder {
        self.limit(move |limits| limits.heartbeat_min = interval)
    }

    /// Whether each heartbeat ends with a blank line: [`Limits::heartbeat_form`].
    pub fn heartbeat_blank_line(self, blank_line: bool) -> Builder {
        let form = if blank_line { HeartbeatForm::Blank } else { HeartbeatForm::Line };
        self.limit(move |limits| limits.heartbeat_form = form)
    }

    /// Time after which subscribers are to reconnect: [`Limits::retry`].
    pub fn retry(self, time: Duration) -> Builder {
        self.limit(move |limits| limits.retry = time)
    }

    /// Streams end at 80 to 100 % of this age: [`Limits::connection_age`].
    pub fn max_age(self, age: Duration) -> Builder {
        self.limit(move |limits| limits.connection_age = Some(age))
    }

    /// Time after which the kernel asks a silent peer whether it is still there:
    /// [`crate::SocketOptions::keepalive`].
    pub fn keepalive(mut self, time: Duration) -> Builder {
        self.keepalive = Some(time);
        self
    }

    /// Send buffer of each subscriber's socket, in bytes: [`crate::SocketOptions::send_buffer`].
    pub fn send_buffer(mut self, bytes: u32) -> Builder {
        self.send_buffer = Some(bytes);
        self
    }
}
