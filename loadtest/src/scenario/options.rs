//! What every run is asked to do: one set of options, which the command line and scenario files share.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser};
use serde::{Deserialize, Deserializer, Serialize};

use super::stages::StreamStage;
use crate::clock::parse_duration;
use crate::failure::{Failure, Outcome};
use crate::secrets;
use crate::stamp::{self, Payload};
use crate::subscription;
use crate::target::{Dialect, RequestTemplates, Template};
use crate::threshold::Threshold;
use crate::tls::Tls;

/// Of one run.
const MOST_SUBSCRIBERS: u64 = 10_000_000;
/// Each is a thread.
const MOST_ASKERS: u64 = 4_096;
const MOST_PUBLISHERS: u64 = 64;

/// The parts of `--help`.
const THE_SERVER: &str = "Where the server is";
const REQUESTS: &str = "Requests";
const LOAD: &str = "Load";
const JUDGEMENT: &str = "Judgement";
const CLIENT: &str = "The client";
const SERVER_MEASURED: &str = "Measurements of the server";
const MACHINES: &str = "Several load machines";
/// With the options of [`crate::outputs::Outputs`].
pub(crate) const OUTPUT: &str = "Output";

/// What every scenario needs.
#[derive(Args, Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Load {
    /// The server, e.g. http://127.0.0.1:8844, which is asked where neither this nor --subscribe-url is given
    #[arg(long, help_heading = THE_SERVER)]
    #[serde(serialize_with = "secrets::shown_urls")]
    pub(crate) url: Option<String>,
    /// What kind of server it is: sets the URLs that the options below can override
    #[arg(long, value_enum, default_value_t, help_heading = THE_SERVER)]
    pub(crate) server: Dialect,
    /// URL to subscribe at, with {topic}
    #[arg(long, value_name = "URL", help_heading = THE_SERVER)]
    #[serde(serialize_with = "secrets::shown_urls")]
    pub(crate) subscribe_url: Option<String>,
    /// A file with a URL on each line, for the subscribers in turn, in place of one for all
    #[arg(long, value_name = "FILE", help_heading = THE_SERVER)]
    pub(crate) subscribe_urls: Option<PathBuf>,
    /// Method of a subscription
    #[arg(long, value_name = "METHOD", help_heading = REQUESTS)]
    pub(crate) subscribe_method: Option<String>,
    /// Header of every subscription, or @FILE with one on each line; may be given several times
    #[arg(long = "subscribe-header", value_name = "NAME: VALUE", help_heading = REQUESTS)]
    #[serde(serialize_with = "secrets::headers")]
    pub(crate) subscribe_headers: Vec<String>,
    /// Body of a subscription; the method is POST then, if none is given
    #[arg(long, value_name = "TEXT", help_heading = REQUESTS)]
    #[serde(serialize_with = "secrets::shown_body")]
    pub(crate) subscribe_body: Option<String>,
    /// A file with a value on each line, such as a token or a cookie: `{value}` in the subscription's URL,
    /// headers and body stands for them, for the subscribers in turn. `{subscriber}` is a subscriber's number
    #[arg(long, value_name = "FILE", help_heading = REQUESTS)]
    pub(crate) values: Option<PathBuf>,
    /// Where subscribers connect, in turn, in place of the host of the URL; several have commas between them
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', help_heading = THE_SERVER)]
    pub(crate) connect_to: Vec<String>,
    /// A file with certificates, as PEM, that are trusted beside the system's
    #[arg(long, value_name = "FILE", help_heading = REQUESTS)]
    pub(crate) ca: Option<PathBuf>,
    /// Trust every certificate
    #[arg(long, conflicts_with = "ca", help_heading = REQUESTS)]
    pub(crate) insecure: bool,
    /// Subscribe over HTTP/2, with several streams on a connection; without TLS the server has to expect it
    /// (RFC 9113, section 3.3)
    #[arg(long, help_heading = REQUESTS)]
    pub(crate) http2: bool,
    /// Streams on a connection of HTTP/2
    #[arg(long, value_name = "COUNT", default_value_t = 100, help_heading = REQUESTS)]
    pub(crate) streams_per_connection: usize,
    /// Ask for compressed streams (gzip), and decompress them
    #[arg(long, help_heading = REQUESTS)]
    pub(crate) gzip: bool,
    /// URL to publish to, with {topic}, {data}, {seq}
    #[arg(long, value_name = "URL", help_heading = THE_SERVER)]
    #[serde(serialize_with = "secrets::shown_urls")]
    pub(crate) publish_url: Option<String>,
    /// Method of a publish
    #[arg(long, value_name = "METHOD", help_heading = REQUESTS)]
    pub(crate) publish_method: Option<String>,
    /// Header of every publish, or @FILE with one on each line; may be given several times
    #[arg(long = "publish-header", value_name = "NAME: VALUE", help_heading = REQUESTS)]
    #[serde(serialize_with = "secrets::headers")]
    pub(crate) publish_headers: Vec<String>,
    /// Body of a publish, with {topic}, {data}, {seq}. The data needs no escaping
    #[arg(long, value_name = "TEXT", help_heading = REQUESTS)]
    #[serde(serialize_with = "secrets::shown_body")]
    pub(crate) publish_body: Option<String>,
    /// Name of the topic; where there are several, each gets a number at its end
    #[arg(long, default_value = "load", value_name = "NAME", help_heading = THE_SERVER)]
    pub(crate) topic: String,

    /// Subscribers
    #[arg(long, short = 'n', default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=MOST_SUBSCRIBERS), value_name = "COUNT", help_heading = LOAD)]
    pub(crate) subscribers: u64,
    /// Events a second
    #[arg(long, short, default_value_t = 10.0, value_name = "EVENTS_PER_S", help_heading = LOAD)]
    pub(crate) rate: f64,
    /// Bytes of data of an event
    #[arg(long, short, default_value_t = 200, value_name = "BYTES", help_heading = LOAD)]
    pub(crate) size: usize,
    /// What the data is made of. Where the publish is a template of your own, `text` needs {data:json} or
    /// {data:url} in place of {data}
    #[arg(long, value_enum, default_value_t, help_heading = LOAD)]
    pub(crate) payload: Payload,
    /// How long to publish
    #[arg(long, short, value_parser = parse_duration, default_value = "10s", value_name = "TIME", help_heading = LOAD)]
    #[serde(deserialize_with = "duration", serialize_with = "seconds")]
    pub(crate) duration: Duration,
    /// Change the number of streams evenly to a number in a time, while events are published, e.g.
    /// `--stage 30s:10000 --stage 1m:10000 --stage 10s:0`. Begins with none. In place of --subscribers and
    /// --duration; for fanout and topics
    #[arg(long = "stage", value_name = "TIME:STREAMS", help_heading = LOAD)]
    pub(crate) stages: Vec<StreamStage>,
    /// Events that are due together, back to back; the rate stays
    #[arg(long, default_value_t = 1, value_name = "COUNT", help_heading = LOAD)]
    pub(crate) burst: u64,
    /// Connections to publish over. Each topic stays with one, for the order's sake
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=MOST_PUBLISHERS), value_name = "COUNT", help_heading = LOAD)]
    pub(crate) publishers: u64,
    /// Publishes under way on a connection at a time
    #[arg(long, default_value_t = 1, value_name = "COUNT", help_heading = LOAD)]
    pub(crate) pipeline: usize,

    /// Client threads [default: one per core that the client may use, or what the descriptor limit makes
    /// necessary]
    #[arg(long, value_name = "COUNT", help_heading = CLIENT)]
    pub(crate) threads: Option<usize>,
    /// Source addresses: 127.0.0.2-127.0.0.200, 127.1.0.0/24, or a list. On loopback they are spread by
    /// default
    #[arg(long, value_name = "ADDRESSES", help_heading = CLIENT)]
    pub(crate) sources: Option<String>,
    /// Connect over TUN devices with a TCP client of this program's own, which needs no sockets: a name for
    /// the devices, and the network of the clients' addresses if it is not 10.64.0.0/10. Needs root, and is
    /// meant for a network namespace
    #[arg(long, value_name = "NAME[,NETWORK]", help_heading = CLIENT)]
    pub(crate) tun: Option<String>,
    /// Streams to open a second
    #[arg(long, default_value_t = 20_000.0, value_name = "STREAMS_PER_S", help_heading = CLIENT)]
    pub(crate) connect_rate: f64,
    /// Streams that are being opened at a time
    #[arg(long, default_value_t = 256, value_name = "COUNT", help_heading = CLIENT)]
    pub(crate) connect_burst: usize,
    /// Time for a connect and the response head
    #[arg(long, value_parser = parse_duration, default_value = "10s", value_name = "TIME", help_heading = CLIENT)]
    #[serde(deserialize_with = "duration", serialize_with = "seconds")]
    pub(crate) head_timeout: Duration,
    /// How long to wait for outstanding deliveries when nothing arrives any more, and for the answer to a
    /// publish
    #[arg(long, value_parser = parse_duration, default_value = "5s", value_name = "TIME", help_heading = JUDGEMENT)]
    #[serde(deserialize_with = "duration", serialize_with = "seconds")]
    pub(crate) patience: Duration,
    /// Delay before a reconnect where the server sends no `retry`
    #[arg(long, value_parser = parse_duration, default_value = "3s", value_name = "TIME", help_heading = CLIENT)]
    #[serde(deserialize_with = "duration", serialize_with = "seconds")]
    pub(crate) retry: Duration,
    /// Receive buffer of each subscriber's socket in bytes; 0: the kernel's
    #[arg(long, default_value_t = 0, value_name = "BYTES", help_heading = CLIENT)]
    pub(crate) receive_buffer: usize,

    /// The longest line, and the longest data of an event, that a server may send, in bytes; 0: 1 MiB, or
    /// twice
    /// --size where that is more
    #[arg(long, value_name = "BYTES", default_value_t = 0, help_heading = JUDGEMENT)]
    pub(crate) max_line: usize,
    /// A stream that gets nothing, not even a comment, for twice this time makes the run not valid; 0s: it is
    /// only said
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "0s", help_heading = JUDGEMENT)]
    #[serde(deserialize_with = "duration", serialize_with = "seconds")]
    pub(crate) expect_heartbeat: Duration,
    /// Count streams that cannot be opened by the kind of the error, and go on without them
    #[arg(long, help_heading = JUDGEMENT)]
    pub(crate) count_errors: bool,
    /// Fail, with exit code 1, where this is true of the run: a figure, a comparison, and a number with its
    /// unit, e.g. 'p99>50ms', 'lost>0', 'deliveries_per_s<100000', 'server_memory_per_stream>10KiB',
    /// 'cpu_per_delivery>2us', or 'client-bound'. May be given several times; a wrong name lists the right
    /// ones. With --against also a change: 'p99>+10%'
    #[arg(long, value_name = "THRESHOLD", help_heading = JUDGEMENT)]
    pub(crate) fail_if: Vec<Threshold>,

    /// Ask this URL meanwhile, again and again: what other requests do to the deliveries
    #[arg(long, value_name = "URL", help_heading = LOAD)]
    #[serde(serialize_with = "secrets::shown_urls")]
    pub(crate) ask: Option<String>,
    /// Clients that ask it, each on a connection of its own
    #[arg(long, default_value_t = 300, value_name = "COUNT", help_heading = LOAD)]
    pub(crate) ask_clients: u64,

    /// End the run when the machine has fewer MiB of memory left than this; 0: never
    #[arg(long, value_name = "MIB", default_value_t = 0, help_heading = CLIENT)]
    pub(crate) least_memory: u64,

    /// The server's process, for its CPU and memory; its children are included
    #[arg(long, value_name = "PID", help_heading = SERVER_MEASURED)]
    pub(crate) server_pid: Option<u32>,
    /// The server's CPU and memory as `fanfare-load watch` on its machine tells them, in place of
    /// --server-pid
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "server_pid", requires = "token", help_heading = SERVER_MEASURED)]
    pub(crate) server_watch: Option<String>,
    /// The subscribers are on these machines, on each of which `fanfare-load agent` listens
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', requires = "token", help_heading = MACHINES)]
    pub(crate) agents: Vec<String>,
    /// The secret of --agents and --server-watch, or @FILE
    #[arg(long, value_name = "TOKEN", help_heading = MACHINES)]
    #[serde(skip_serializing)]
    pub(crate) token: Option<String>,
    /// Cores for the client, e.g. 1 or 2,3 [default: all but --server-cores]
    #[arg(long, value_delimiter = ',', value_name = "CORES", help_heading = CLIENT)]
    pub(crate) client_cores: Vec<usize>,
    /// Cores to move the server to, where it stays; needs --server-pid. With --server-watch: the cores that
    /// it was started on
    #[arg(long, value_delimiter = ',', value_name = "CORES", help_heading = SERVER_MEASURED)]
    pub(crate) server_cores: Vec<usize>,
    /// Do the receiver's kernel work on the client's first core, as behind a network card. For CPU per
    /// delivery, not for latency. Needs root, loopback and both sets of cores; undone at the end
    #[arg(long, help_heading = CLIENT)]
    pub(crate) steered: bool,
    /// Write every figure to a file
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    pub(crate) json: Option<PathBuf>,
    /// No progress
    #[arg(long, short, help_heading = OUTPUT)]
    pub(crate) quiet: bool,
}

pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).map_err(serde::de::Error::custom)
}

pub(super) fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{}s", duration.as_secs_f64()))
}

/// The defaults have one home: the command line.
pub(super) fn defaults<T: Args>() -> T {
    #[derive(Parser)]
    struct Nothing<T: Args> {
        #[command(flatten)]
        options: T,
    }
    Nothing::<T>::parse_from(["defaults"]).options
}

macro_rules! default_from_command_line {
    ($($type:ty),*) => {$(
        impl Default for $type {
            fn default() -> Self {
                $crate::scenario::options::defaults()
            }
        }
    )*};
}
pub(super) use default_from_command_line;

default_from_command_line!(Load);

/// Whether so many events a second can be published at all.
pub(super) fn is_rate(rate: f64) -> bool {
    rate > 0.0 && rate <= 10_000_000.0
}

/// Where the server is, if nothing says so.
const DEFAULT_URL: &str = "http://127.0.0.1:8844";

impl Load {
    /// Whether anything says where to publish.
    pub(crate) fn can_publish(&self) -> bool {
        let subscribes_elsewhere = self.subscribe_url.is_some() || self.subscribe_urls.is_some();
        self.url.is_some() || self.publish_url.is_some() || !subscribes_elsewhere
    }

    /// Whether anything says what the server is, for its CPU and memory.
    pub(crate) fn names_server(&self) -> bool {
        self.server_pid.is_some() || self.server_watch.is_some()
    }

    /// What connections with TLS are made with.
    pub(crate) fn tls(&self) -> Outcome<Tls> {
        Tls::new(self.ca.as_deref(), self.insecure)
    }

    /// With stages these say how many subscribers there are at most, and how long it takes.
    pub(crate) fn follow_stages(&mut self) {
        if let Some(most) = self.stages.iter().map(|stage| stage.streams).max() {
            self.subscribers = most;
            self.duration = self.stages.iter().map(|stage| stage.over).sum();
        }
    }

    pub(crate) fn is_staged(&self) -> bool {
        !self.stages.is_empty()
    }

    /// How many streams are to be open at the end.
    pub(crate) fn streams_at_end(&self) -> u64 {
        self.stages.last().map_or(self.subscribers, |stage| stage.streams)
    }

    /// The longest line and the longest data of an event, in bytes.
    pub(crate) fn line_bytes(&self) -> usize {
        match self.max_line {
            0 => (1 << 20).max(self.size * 2),
            bytes => bytes,
        }
    }

    /// What the run is against, for people: where it subscribes.
    pub(crate) fn target_name(&self) -> String {
        if let Some(file) = &self.subscribe_urls {
            return format!("the URLs of {}", file.display());
        }
        let url = self.subscribe_url.as_ref().or(self.url.as_ref());
        url.map_or(DEFAULT_URL, String::as_str).to_owned()
    }

    /// The templates, after what was given in particular.
    pub(crate) fn templates(&self) -> Outcome<RequestTemplates> {
        let mut templates = self.server.templates(self.url.as_deref().unwrap_or(DEFAULT_URL));
        let set = |template: &mut Template, url: &Option<String>, headers: Vec<String>| {
            if let Some(url) = url {
                template.url.clone_from(url);
            }
            for header in &headers {
                let name = |header: &str| header.split(':').next().unwrap_or("").to_ascii_lowercase();
                template.headers.retain(|old| name(old) != name(header));
                template.headers.push(header.clone());
            }
        };
        let headers = subscription::headers("--subscribe-header", &self.subscribe_headers)?;
        set(&mut templates.subscribe, &self.subscribe_url, headers);
        let headers = subscription::headers("--publish-header", &self.publish_headers)?;
        set(&mut templates.publish, &self.publish_url, headers);
        if self.gzip {
            templates.subscribe.headers.push("Accept-Encoding: gzip".to_owned());
        }
        if let Some(body) = &self.subscribe_body {
            templates.subscribe.body = Some(body.clone());
            "POST".clone_into(&mut templates.subscribe.method);
        }
        if let Some(method) = &self.subscribe_method {
            templates.subscribe.method.clone_from(method);
        }
        if let Some(method) = &self.publish_method {
            templates.publish.method.clone_from(method);
        }
        if let Some(body) = &self.publish_body {
            templates.publish.body = Some(body.clone());
        }
        templates.subscribe.check()?;
        templates.publish.check()?;
        if self.payload == Payload::Text {
            templates.publish.check_text(self.server)?;
        }
        Ok(templates)
    }

    /// What the types do not say.
    pub(crate) fn check(&self) -> Outcome<()> {
        let wrong = |text: String| Err(Failure::new(text));
        // A scenario file and --connections have no range of their own.
        if !(1..=MOST_SUBSCRIBERS).contains(&self.subscribers) {
            return wrong(format!("--subscribers {}: from 1 to {MOST_SUBSCRIBERS}", self.subscribers));
        }
        if !is_rate(self.rate) {
            return wrong(format!("--rate {}: it must be above 0 and at most ten million", self.rate));
        }
        if !(stamp::LEAST_BYTES..=16 << 20).contains(&self.size) {
            return wrong(format!(
                "--size {}: from {} bytes (the stamp) to 16 MiB",
                self.size,
                stamp::LEAST_BYTES
            ));
        }
        if self.connect_rate.is_nan() || self.connect_rate <= 0.0 || self.connect_burst == 0 {
            return wrong("--connect-rate and --connect-burst must be above 0".to_owned());
        }
        if self.is_staged() && self.duration.is_zero() {
            return wrong("--stage: all stages together take no time".to_owned());
        }
        if self.duration > Duration::from_secs(24 * 3600) {
            return wrong("--duration: a day at most".to_owned());
        }
        if !(1..=MOST_ASKERS).contains(&self.ask_clients) {
            return wrong(format!("--ask-clients {}: from 1 to {MOST_ASKERS}", self.ask_clients));
        }
        if !(1..=MOST_PUBLISHERS).contains(&self.publishers) {
            return wrong(format!("--publishers {}: from 1 to {MOST_PUBLISHERS}", self.publishers));
        }
        if self.max_line > 0 && self.max_line < self.size.max(1024) {
            return wrong(format!("--max-line {}: at least 1,024 bytes, and --size", self.max_line));
        }
        if self.http2 && self.tun.is_some() {
            return wrong("--tun has no HTTP/2".to_owned());
        }
        if !(1..=1_000_000).contains(&self.streams_per_connection) {
            return wrong("--streams-per-connection: from 1 to 1,000,000".to_owned());
        }
        if self.threads == Some(0) || self.threads > Some(1024) {
            return wrong("--threads: from 1 to 1024".to_owned());
        }
        if !self.server_cores.is_empty() && self.server_pid.is_none() && self.server_watch.is_none() {
            return wrong("--server-cores needs --server-pid: whose cores else?".to_owned());
        }
        if self.token.is_none() && (!self.agents.is_empty() || self.server_watch.is_some()) {
            return wrong("--agents and --server-watch need --token".to_owned());
        }
        if self.server_watch.is_some() && self.server_pid.is_some() {
            return wrong("--server-watch and --server-pid exclude each other".to_owned());
        }
        if !self.agents.is_empty() && (self.steered || self.tun.is_some()) {
            return wrong("--steered and --tun are for one machine: leave them out with --agents".to_owned());
        }
        if self.steered
            && (self.server_cores.is_empty()
                || self.client_cores.is_empty()
                || self.client_cores.iter().any(|core| self.server_cores.contains(core)))
        {
            return wrong("--steered needs --server-cores and --client-cores, which must differ".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_replace_what_the_dialect_says() {
        let mut load = Load { server: Dialect::Mercure, ..Load::default() };
        load.publish_headers =
            vec!["content-type: text/plain".to_owned(), "Authorization: Bearer x".to_owned()];
        load.publish_url = Some("http://h/{topic}".to_owned());
        let publish = load.templates().unwrap().publish;
        assert_eq!(publish.headers, load.publish_headers);
        assert_eq!(publish.url, "http://h/{topic}");
    }
}
