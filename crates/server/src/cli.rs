//! The command line. What it says in help texts is the reference for every option.

use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand, ValueEnum};
use fanfare::{Backend, FullPolicy, HeartbeatForm, LaggardPolicy, Limits, Retention, SocketOptions};

use crate::control::ControlLimits;
use crate::hosts::HostName;

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
}

/// Options of the server.
#[derive(Args)]
pub(crate) struct ServeOptions {
    /// Address to listen on; may be given several times
    #[arg(
        long,
        env = "FANFARE_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:8844",
        value_delimiter = ','
    )]
    pub(crate) listen: Vec<SocketAddr>,
    /// auto, epoll or io-uring; auto takes io_uring where the kernel allows it
    #[arg(long, env = "FANFARE_BACKEND", default_value = "auto")]
    pub(crate) backend: Backend,
    /// Threads that serve subscribers, at most 1024 [default: one per core]
    #[arg(long, env = "FANFARE_SHARDS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) shards: Option<u16>,
    /// Keep each shard on a core of its own
    #[arg(long)]
    pub(crate) pin: bool,
    /// Let all threads share one descriptor table; then RLIMIT_NOFILE counts for the whole process
    #[arg(long)]
    pub(crate) shared_table: bool,

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

    /// Events kept for those who resume
    #[arg(long, env = "FANFARE_RETAIN_EVENTS", default_value_t = Retention::default().frames)]
    pub(crate) retain_events: usize,
    /// Bytes of events kept
    #[arg(long, value_name = "SIZE", default_value_t = size(Retention::default().bytes))]
    pub(crate) retain_bytes: ByteSize,
    /// Age of events kept
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "1h")]
    pub(crate) retain_age: Duration,

    /// Events that a slow subscriber may be behind
    #[arg(long, default_value_t = Limits::default().laggard_frames)]
    pub(crate) laggard_events: usize,
    /// Bytes that a slow subscriber may be behind
    #[arg(long, value_name = "SIZE", default_value_t = size(Limits::default().laggard_bytes))]
    pub(crate) laggard_bytes: ByteSize,
    /// Time after which a subscriber that takes nothing is closed
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "30s")]
    pub(crate) laggard_time: Duration,
    /// What happens to a slow subscriber at its bound
    #[arg(long, value_enum, default_value_t = AtBound::Disconnect)]
    pub(crate) laggard_policy: AtBound,

    /// A comment is sent where nothing else was for this long
    #[arg(long, env = "FANFARE_HEARTBEAT", value_name = "TIME", value_parser = time, default_value = "20s")]
    pub(crate) heartbeat: Duration,
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
        Limits {
            connections: self.max_connections,
            when_full: match self.when_full {
                WhenFull::Unavailable => FullPolicy::Unavailable,
                WhenFull::EndStream => FullPolicy::EndStream,
                WhenFull::Drop => FullPolicy::Drop,
            },
            head_time: self.head_time,
            topics_per_subscription: self.max_topics,
            event_bytes: self.max_event.as_u64() as usize,
            laggard_frames: self.laggard_events,
            laggard_bytes: self.laggard_bytes.as_u64() as usize,
            laggard_time: self.laggard_time,
            laggard_policy: match self.laggard_policy {
                AtBound::Disconnect => LaggardPolicy::Disconnect,
                AtBound::Skip => LaggardPolicy::Skip,
            },
            retention: Retention {
                frames: self.retain_events,
                bytes: self.retain_bytes.as_u64() as usize,
                age: self.retain_age,
            },
            heartbeat: self.heartbeat,
            heartbeat_form: match self.heartbeat_blank_line {
                true => HeartbeatForm::Blank,
                false => HeartbeatForm::Line,
            },
            connection_age: self.max_age,
            retry: self.retry,
            ..Limits::default()
        }
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
                 {connections}, so that health checks find room"
            ));
        }
        Ok(())
    }

    pub(crate) fn socket_options(&self) -> SocketOptions {
        let send_buffer = self.send_buffer.map(|size| size.as_u64().min(u64::from(u32::MAX)) as u32);
        SocketOptions { send_buffer, ..SocketOptions::default() }
    }
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
