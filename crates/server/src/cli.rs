//! The command line. What it says in help texts is the reference for every option.

use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand, ValueEnum};
use fanfare::{
    Backend, DescriptorTables, FullPolicy, HeartbeatForm, LaggardPolicy, Limits, LogLimits, Retention,
    RetentionRule, SocketOptions, TopicPattern,
};

use crate::control::ControlLimits;
use crate::hosts::HostName;
use crate::listen::{self, Listen};
use crate::token_command::TokenOptions;

/// Pushes Server-Sent Events to very many subscribers.
///
/// Without a command it serves, with good defaults.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) serve: ServeOptions,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run the push server (the default)
    Serve(Box<ServeOptions>),
    /// Publish to a running server
    Pub(PubOptions),
    /// Subscribe to a running server; one line per event
    Sub(SubOptions),
    /// Mint and inspect access tokens and signed URLs, for trying out
    Token(Box<TokenOptions>),
}

/// Options of the server.
#[derive(Args)]
pub(crate) struct ServeOptions {
    /// Address to listen on: unix:PATH for a Unix socket, unix:@NAME for one without a file, systemd for the
    /// sockets that systemd has opened (socket activation); may be given several times
    #[arg(
        long,
        env = "FANFARE_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:8844",
        value_delimiter = ','
    )]
    pub(crate) listen: Vec<Listen>,
    /// Mode of the files of Unix sockets, for example 660 [default: what the umask leaves of 777]
    #[arg(long, value_name = "MODE", value_parser = listen::mode)]
    pub(crate) unix_mode: Option<u32>,
    /// auto, epoll or io-uring; auto takes io_uring where the kernel allows it
    #[arg(long, env = "FANFARE_BACKEND", default_value = "auto")]
    pub(crate) backend: Backend,
    /// Threads that serve subscribers, at most 1024 [default: one per core]
    #[arg(long, env = "FANFARE_SHARDS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) shards: Option<u16>,
    /// Keep each shard on a core of its own
    #[arg(long)]
    pub(crate) pin: bool,
    /// auto, private or shared; auto takes a private descriptor table for each shard where the kernel allows it.
    /// In a shared table RLIMIT_NOFILE counts for the whole process
    #[arg(long, env = "FANFARE_DESCRIPTOR_TABLES", default_value = "auto")]
    pub(crate) descriptor_tables: DescriptorTables,

    /// Name that the server answers to, beside the addresses that it listens on and, on loopback, the names
    /// of loopback; may be given several times. A server behind a proxy needs the name that the proxy passes
    /// on. `*`: every name
    #[arg(long = "host", env = "FANFARE_HOST", value_name = "NAME", value_delimiter = ',')]
    pub(crate) hosts: Vec<HostName>,
    /// Origin whose pages may subscribe and publish with credentials, or `*` for any without; may be
    /// given several times. Pages on this machine's loopback names and the same port always may
    #[arg(long = "cors-origin", env = "FANFARE_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    pub(crate) cors_origins: Vec<String>,

    /// Subscribers per shard; at the bound newcomers get --when-full
    #[arg(long, env = "FANFARE_MAX_CONNECTIONS", default_value_t = Limits::default().connections)]
    pub(crate) max_connections: usize,
    /// What a subscriber gets that finds no room. Browsers give up at any status but 200
    #[arg(long, value_enum, default_value_t = WhenFull::Unavailable)]
    pub(crate) when_full: WhenFull,
    /// Topics of one subscription
    #[arg(long, default_value_t = Limits::default().topics_per_subscription)]
    pub(crate) max_topics: usize,
    /// Data of one event
    #[arg(long, value_name = "SIZE", default_value_t = size(Limits::default().event_bytes))]
    pub(crate) max_event: ByteSize,
    /// Body of a publish in JSON or as a form; NDJSON has no end, but each line this bound
    #[arg(long, value_name = "SIZE", default_value_t = size(ControlLimits::default().body_bytes))]
    pub(crate) max_body: ByteSize,
    /// Events of one JSON array. NDJSON has no such bound
    #[arg(long, value_name = "COUNT", default_value_t = ControlLimits::default().array_events)]
    pub(crate) max_array: usize,
    /// Connections at once that are no subscribers. At the bound the one that has been idle for the longest
    /// time is closed
    #[arg(long, value_name = "COUNT", default_value_t = ControlLimits::default().connections)]
    pub(crate) max_control_connections: usize,
    /// Publishes in progress at once. At the bound the one whose body comes most slowly is ended, or the
    /// newcomer refused
    #[arg(long, value_name = "COUNT", default_value_t = ControlLimits::default().publishes)]
    pub(crate) max_publishes: usize,
    /// Memory of all publishes in progress, those included that wait for the shards [default: 128 MiB, or
    /// four times --max-body]
    #[arg(long, value_name = "SIZE")]
    pub(crate) publish_memory: Option<ByteSize>,
    /// Bytes a second that a body must have. Pauses of up to 30 seconds are allowed; 0B: only pauses are
    /// bounded
    #[arg(long, value_name = "SIZE", default_value_t = size(ControlLimits::default().least_rate))]
    pub(crate) publish_rate: ByteSize,
    /// Time for a request head to be complete
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "10s")]
    pub(crate) head_time: Duration,

    /// Events of each topic that are kept for subscribers that resume or are slow
    #[arg(long, env = "FANFARE_RETAIN_EVENTS", default_value_t = Retention::default().events)]
    pub(crate) retain_events: usize,
    /// Bytes of events of each topic that are kept
    #[arg(long, value_name = "SIZE", default_value_t = size(Retention::default().bytes))]
    pub(crate) retain_bytes: ByteSize,
    /// Age at which events are dropped
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "1h")]
    pub(crate) retain_age: Duration,
    /// Other bounds for some topics; may be given several times, and the first that matches holds. TOPIC is a name,
    /// or the beginning of names and `*`. A bound that is left out is the general one: `user/*=100,,10m`
    #[arg(long = "retain", value_name = "TOPIC=EVENTS,SIZE,TIME", value_parser = RetainRule::parse)]
    pub(crate) retain_rules: Vec<RetainRule>,
    /// Memory of all events that are kept; at the bound, the largest topics lose their oldest events
    #[arg(long, env = "FANFARE_LOG_BYTES", value_name = "SIZE", default_value_t = size(LogLimits::default().total_bytes))]
    pub(crate) log_bytes: ByteSize,

    /// Bytes per shard of events that slow subscribers have begun to receive; beyond it, of a bounded sample
    /// of their connections, the one whose end frees the most is disconnected. How far a subscriber may be
    /// behind is what is kept for its topics
    #[arg(long, value_name = "SIZE", default_value_t = size(Limits::default().laggard_bytes))]
    pub(crate) laggard_bytes: ByteSize,
    /// Bytes per shard of the topics that its subscribers read; beyond it a subscription to further topics is answered
    /// as at --connections
    #[arg(long, value_name = "SIZE", default_value_t = size(Limits::default().subscription_bytes))]
    pub(crate) subscription_bytes: ByteSize,
    /// Time after which a subscriber that takes nothing is closed
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "30s")]
    pub(crate) laggard_time: Duration,
    /// What happens to a slow subscriber when what it needs is not kept any more
    #[arg(long, value_enum, default_value_t = AtBound::Disconnect)]
    pub(crate) laggard_policy: AtBound,

    /// A comment is sent where nothing else was for this long
    #[arg(long, env = "FANFARE_HEARTBEAT", value_name = "TIME", value_parser = time, default_value = "20s")]
    pub(crate) heartbeat: Duration,
    /// The shortest interval between heartbeats that a subscriber may ask for (`heartbeat=SECONDS`)
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "1s")]
    pub(crate) heartbeat_min: Duration,
    /// End each heartbeat with a blank line, for clients that read no further than one
    #[arg(long)]
    pub(crate) heartbeat_blank_line: bool,
    /// Time after which subscribers are to reconnect, from 100ms to 1h; each is told up to half more
    #[arg(long, value_name = "TIME", value_parser = retry_time, default_value = "2s")]
    pub(crate) retry: Duration,
    /// End streams at 80 to 100 % of this age [default: never]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) max_age: Option<Duration>,
    /// Time over which streams are ended when the server is told to stop
    #[arg(long, env = "FANFARE_DRAIN", value_name = "TIME", value_parser = time, default_value = "5s")]
    pub(crate) drain: Duration,
    /// Send buffer of each subscriber's socket [default: the kernel's]
    #[arg(long, value_name = "SIZE")]
    pub(crate) send_buffer: Option<ByteSize>,
}

/// Options of `fanfare pub`.
#[derive(Args)]
pub(crate) struct PubOptions {
    /// Topic to publish to
    pub(crate) topic: String,
    /// The data; `-`, or nothing where standard input is no terminal, publishes each line of it
    pub(crate) data: Option<String>,
    /// Type of the event
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) kind: Option<String>,
    /// Your own id for the event (not with standard input)
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// The server
    #[arg(long, env = "FANFARE_URL", default_value = "http://127.0.0.1:8844")]
    pub(crate) url: String,
}

/// Options of `fanfare sub`.
#[derive(Args)]
pub(crate) struct SubOptions {
    /// Topics to subscribe to
    #[arg(required = true, value_name = "TOPIC")]
    pub(crate) topics: Vec<String>,
    /// Resume after this event id, or `earliest` for everything retained
    #[arg(long, value_name = "ID")]
    pub(crate) since: Option<String>,
    /// Print the data alone, its line feeds as \n; otherwise each line is a JSON object
    #[arg(long)]
    pub(crate) data: bool,
    /// Stop after so many events
    #[arg(long, value_name = "COUNT")]
    pub(crate) count: Option<u64>,
    /// End with the stream instead of reconnecting
    #[arg(long)]
    pub(crate) once: bool,
    /// The server
    #[arg(long, env = "FANFARE_URL", default_value = "http://127.0.0.1:8844")]
    pub(crate) url: String,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum WhenFull {
    /// 503 with Retry-After
    Unavailable,
    /// 200, a retry, and the end of the stream: browsers come back
    EndStream,
    /// Close without an answer: browsers come back
    Drop,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum AtBound {
    /// Close the connection; it can resume
    Disconnect,
    /// Keep it, and tell it of the gap
    Skip,
}

impl ServeOptions {
    pub(crate) fn limits(&self) -> Limits {
        Limits::default()
            .with_connections(self.max_connections)
            .with_when_full(match self.when_full {
                WhenFull::Unavailable => FullPolicy::Unavailable,
                WhenFull::EndStream => FullPolicy::EndStream,
                WhenFull::Drop => FullPolicy::Drop,
            })
            .with_head_time(self.head_time)
            .with_topics_per_subscription(self.max_topics)
            .with_event_bytes(self.max_event.as_u64() as usize)
            .with_laggard_bytes(self.laggard_bytes.as_u64() as usize)
            .with_subscription_bytes(self.subscription_bytes.as_u64() as usize)
            // The server embeds no reader, decides at once, and knows nothing of its subscribers.
            .with_local_readers(0)
            .with_undecided(0)
            .with_details_bytes(0)
            .with_members_per_subscription(0)
            .with_members_lingering(0)
            .with_announcements(0)
            .with_laggard_time(self.laggard_time)
            .with_laggard_policy(match self.laggard_policy {
                AtBound::Disconnect => LaggardPolicy::Disconnect,
                AtBound::Skip => LaggardPolicy::Skip,
            })
            .with_log(self.log_limits())
            .with_heartbeat(self.heartbeat)
            .with_heartbeat_min(self.heartbeat_min)
            .with_heartbeat_form(match self.heartbeat_blank_line {
                true => HeartbeatForm::Blank,
                false => HeartbeatForm::Line,
            })
            .with_connection_age(self.max_age)
            .with_retry(self.retry)
    }

    fn log_limits(&self) -> LogLimits {
        let retention = Retention::default()
            .with_events(self.retain_events)
            .with_bytes(self.retain_bytes.as_u64() as usize)
            .with_age(self.retain_age);
        let rules = self.retain_rules.iter().map(|rule| rule.or(retention)).collect();
        LogLimits::default()
            .with_retention(retention)
            .with_rules(rules)
            .with_total_bytes(self.log_bytes.as_u64() as usize)
    }

    pub(crate) fn control_limits(&self) -> ControlLimits {
        let body_bytes = self.max_body.as_u64() as usize;
        let default = ControlLimits::default();
        let publish_bytes = self.publish_memory.map(|size| size.as_u64() as usize);
        ControlLimits {
            connections: self.max_control_connections,
            body_bytes,
            array_events: self.max_array,
            publishes: self.max_publishes,
            publish_bytes: publish_bytes.unwrap_or(default.publish_bytes.max(body_bytes.saturating_mul(4))),
            least_rate: self.publish_rate.as_u64() as usize,
        }
    }

    /// What is wrong with the options together.
    pub(crate) fn check(&self) -> Result<(), String> {
        let limits = self.control_limits();
        let least = ControlLimits::least_publish_bytes(limits.body_bytes);
        if limits.publish_bytes < least {
            let (memory, body) = (size(limits.publish_bytes), self.max_body);
            let least = size(least);
            return Err(format!(
                "--publish-memory {memory} is too little for --max-body {body}; it needs {least}"
            ));
        }
        let most = limits.connections / 2;
        if !(1..=most).contains(&limits.publishes) {
            let (publishes, connections) = (limits.publishes, limits.connections);
            return Err(format!(
                "--max-publishes {publishes} has to be from 1 to {most}, half of --max-control-connections \
                 {connections}, so that other requests find room"
            ));
        }
        Ok(())
    }

    pub(crate) fn socket_options(&self) -> SocketOptions {
        let send_buffer = self.send_buffer.map(|size| size.as_u64().min(u64::from(u32::MAX)) as u32);
        SocketOptions::default().with_send_buffer(send_buffer)
    }
}

/// What `--retain` says of some topics.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RetainRule {
    topics: TopicPattern,
    events: Option<usize>,
    bytes: Option<usize>,
    age: Option<Duration>,
}

impl RetainRule {
    fn parse(text: &str) -> Result<RetainRule, String> {
        let form = "write for example user/*=100,1MiB,10m or orders=,,24h";
        // The bounds have no `=` in them, a topic may have.
        let (topics, bounds) = text.rsplit_once('=').ok_or_else(|| format!("without bounds; {form}"))?;
        let topics = topics.parse::<TopicPattern>().map_err(|error| error.to_string())?;
        let bounds: Vec<&str> = bounds.split(',').map(str::trim).collect();
        let &[events, bytes, age] = bounds.as_slice() else {
            return Err(format!("not three bounds; {form}"));
        };
        let events =
            given(events, |text| text.parse().map_err(|_| format!("not a number of events; {form}")))?;
        let bytes = given(bytes, |text| text.parse().map_err(|_| format!("not a size; {form}")))?;
        let bytes = bytes.map(|size: ByteSize| size.as_u64() as usize);
        Ok(RetainRule { topics, events, bytes, age: given(age, time)? })
    }

    /// The rule, with the general bounds where it has none.
    fn or(&self, general: Retention) -> RetentionRule {
        let retention = Retention::default()
            .with_events(self.events.unwrap_or(general.events))
            .with_bytes(self.bytes.unwrap_or(general.bytes))
            .with_age(self.age.unwrap_or(general.age));
        RetentionRule::new(self.topics.clone(), retention)
    }
}

/// Reads a text that may be left out.
fn given<T>(text: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    if text.is_empty() { Ok(None) } else { read(text).map(Some) }
}

fn size(bytes: usize) -> ByteSize {
    ByteSize::b(bytes as u64)
}

/// A time such as `20s`, `1h 30m` or `500ms`; not zero, since nothing here can happen always.
fn time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than nothing, for example 1ms".to_owned()),
        Ok(time) => Ok(time),
        Err(_) => Err("not a time; write for example 20s, 500ms or 1h".to_owned()),
    }
}

/// The bounds of a `retry` (`crates/proto`, `Retry`): shorter ones make a crowd come back at once, longer
/// ones lose it.
fn retry_time(text: &str) -> Result<Duration, String> {
    let time = time(text)?;
    let bounds = Duration::from_millis(100)..=Duration::from_secs(3600);
    bounds.contains(&time).then_some(time).ok_or_else(|| "must be from 100ms to 1h".to_owned())
}

#[cfg(test)]
mod same_names;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_retention_have_three_bounds_that_may_be_left_out() {
        let options =
            ["fanfare", "--retain-events", "7", "--retain", "a=b*=100,,10m", "--retain", "c=, 1KiB ,"];
        let log = Cli::try_parse_from(options).unwrap().serve.limits().log;
        let general = Retention::default().with_events(7);
        let prefix = general.with_events(100).with_age(Duration::from_secs(600));
        let exact = general.with_bytes(1024);
        let rules = [("a=b*", prefix), ("c", exact)]
            .map(|(topics, retention)| RetentionRule::new(topics.parse().unwrap(), retention));
        assert_eq!((log.retention, log.rules.as_slice()), (general, rules.as_slice()));
        for wrong in ["a", "=1,,", "a=1", "a=1,2", "a=1,2,3s,4", "a=x,,", "a=,x,", "a=,,3", "a=,,0s"] {
            assert!(RetainRule::parse(wrong).is_err(), "{wrong}");
        }
    }
}
