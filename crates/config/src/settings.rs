//! The definition of every option of the server, and their values as the server uses them.
//!
//! A new option is one entry: its field, its type, its help, and what it may be. Its name follows from the
//! field.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use fanfare::{
    Backend, ClientLimits, DescriptorTables, Durability, ForwardedField, FullPolicy, HeartbeatForm,
    IPV6_PREFIX_BITS, LaggardPolicy, Limits, LogLimits, Pattern, Rate, Retention, RetentionRule,
    SocketOptions, TopicPattern, TrustedProxies,
};

use crate::definition::{Section, Separator, Spec, Table, many, one, optional};
use crate::kind::{any_time, choice, count, path, size, size_text, switch, text, text_with, time, time_text};
use crate::layers::Values;
use crate::problem::{Place, Problem, Problems};
use crate::values::{cors_origin, field_name, listen, log_filter, nats_name, proxy};
use crate::{HostName, HttpUrl, KeyFile, Listen, NatsUrl, RetainRule};

/// Bytes that fit into the kernel's type for the size of a buffer.
const LARGEST_BUFFER: usize = u32::MAX as usize;

/// The names of the topics of presence events begin so.
pub const PRESENCE_PREFIX: &str = "presence/";

/// How long presence events are kept at most: long enough for a client that reconnects.
pub const PRESENCE_RETAIN_AGE: Duration = Duration::from_secs(30);

/// What a subscriber gets that finds no room. See [`fanfare::FullPolicy`].
pub type WhenFull = FullPolicy;

/// What happens to a slow subscriber when what it needs is not kept any more. See [`fanfare::LaggardPolicy`].
pub type LaggardEnd = LaggardPolicy;

/// The form of the log's lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object on each line.
    Json,
}

macro_rules! settings {
    ($( $section:literal: $about:literal {
        $( $(#[doc = $help:literal])+ $field:ident: $type:ty = $spec:expr; )*
    } )*) => {
        /// The values of all options.
        #[derive(Clone, Debug)]
        pub struct Settings {
            $($( $(#[doc = $help])+ pub $field: $type, )*)*
        }

        /// What each option may be, by its field.
        mod specs {
            use super::*;

            $($( pub(super) fn $field() -> Spec<$type> { $spec } )*)*
        }

        /// All options of the server.
        pub(crate) static TABLE: LazyLock<Table> = LazyLock::new(|| Table {
            sections: vec![$( Section {
                name: $section,
                about: $about,
                definitions: vec![$(
                    specs::$field().definition(stringify!($field), concat!($($help),+)),
                )*],
            } ),*],
        });

        impl Settings {
            /// The values of texts that were checked one by one.
            ///
            /// # Errors
            /// Texts that are not right together; the problem names the option's place.
            pub fn of(values: &Values) -> Result<Settings, Problems> {
                let mut given = values.given.iter();
                Ok(Settings {
                    $($( $field: {
                        let given = given.next().ok_or_else(other_table)?;
                        specs::$field().value(given).map_err(|text| {
                            Problems(vec![Problem { place: given.place.clone(), text }])
                        })?
                    }, )*)*
                })
            }
        }
    };
}

settings! {
    "server": "Where the server listens, and its threads" {
        /// Address to listen on: an IP address and a port, unix:PATH for a Unix socket, unix:@NAME for one
        /// without a file, systemd for the sockets that systemd has opened (socket activation).
        listen: Vec<Listen> = many(
            text("an IP address and a port such as 127.0.0.1:8844, unix:PATH, unix:@NAME, or systemd"),
            Separator::Comma,
        ).default("127.0.0.1:8844").value_name("ADDRESS:PORT");
        /// Address to listen on for proxies that speak the PROXY protocol, version 1 or 2, written as for
        /// --listen. Each connection begins with their header and comes from one of --trusted-proxies; others
        /// are closed.
        listen_proxy: Vec<Listen> = many(
            text("an IP address and a port such as 10.0.0.9:8846, unix:PATH, unix:@NAME, or systemd"),
            Separator::Comma,
        ).value_name("ADDRESS:PORT");
        /// Mode of the files of Unix sockets, for example 660.
        unix_mode: Option<u32> = optional(
            text_with("octal digits such as 660, at most 777", listen::mode),
            "umask", "what the umask leaves of 777",
        ).value_name("MODE");
        /// How the server waits for its sockets; auto takes io_uring where the kernel allows it.
        backend: Backend = one(choice(vec![
            ("auto", "", Backend::Auto),
            ("epoll", "", Backend::Epoll),
            ("io-uring", "", Backend::IoUring),
        ])).default("auto");
        /// Threads that serve subscribers, at most 1024.
        shards: Option<usize> = optional(count(1..=1024), "auto", "one per core");
        /// Keep each shard on a core of its own.
        pin: bool = one(switch()).default("false");
        /// Where shards have their descriptors; auto takes a private table for each shard where the kernel
        /// allows it. In a shared table RLIMIT_NOFILE counts for the whole process.
        descriptor_tables: DescriptorTables = one(choice(vec![
            ("auto", "", DescriptorTables::Auto),
            ("private", "", DescriptorTables::Private),
            ("shared", "", DescriptorTables::Shared),
        ])).default("auto");
        /// Send buffer of each subscriber's socket.
        send_buffer: Option<usize> = optional(size(), "kernel", "the kernel's");
        /// Time after which the kernel asks a peer that was silent whether it is still there; three times,
        /// ten seconds apart. Heartbeats do the same where they are more frequent. Where a server has
        /// millions of streams and heartbeats are seldom, these questions are most of what it does.
        keepalive: Duration = one(time(Duration::from_secs(1)..=Duration::from_secs(9 * 3600))).default("1m");
        /// Time over which streams are ended when the server is told to stop.
        drain: Duration = one(any_time()).default("5s").reloadable();
    }

    "admin": "The listener for operators: metrics and health checks" {
        /// Address of the admin listener, which answers /metrics for Prometheus, /health/live and
        /// /health/ready, and has a page for browsers, /dashboard. Nothing there needs a token, so an address
        /// that is not loopback belongs behind a firewall. Where the address is in use, the server starts all
        /// the same, logs a warning, and opens the listener when the address is free.
        admin: Option<SocketAddr> = optional(
            text_with("an IP address and a port such as 127.0.0.1:8845", socket_address), "off", "no admin listener",
        ).default("127.0.0.1:8845").value_name("ADDRESS:PORT");
        /// Name that the admin listener answers to, beside its addresses and, on loopback, the names of
        /// loopback. Health checks are answered to every name. `*`: every name.
        admin_host: Vec<HostName> = many(
            text("a name such as fanfare-admin.internal, an address, or '*'"),
            Separator::Comma,
        ).value_name("NAME");
        /// Make profiles of processor time and of memory for those who ask the admin listener:
        /// /debug/pprof/profile and /debug/pprof/heap. The latter needs a program that was built with the
        /// feature heap-profile; its allocator then takes a sample of every 512 KiB that are allocated.
        profiling: bool = one(switch()).default("false");
    }

    "web": "Names that the server answers to, and web pages that may use it" {
        /// Name that the server answers to, beside the addresses that it listens on and, on loopback, the
        /// names of loopback. A server behind a proxy needs the name that the proxy passes on. `*`: every
        /// name.
        host: Vec<HostName> = many(
            text("a name such as push.example.com, an address, or '*'"),
            Separator::Comma,
        ).value_name("NAME").reloadable();
        /// Origin whose pages may subscribe and publish with credentials, or `*` for any without. Pages on
        /// this machine's loopback names and the same port always may.
        cors_origin: Vec<String> = many(
            text_with("an origin such as https://app.example, null, or '*'", cors_origin::parse),
            Separator::Comma,
        ).value_name("ORIGIN").reloadable();
    }

    "presence": "How many subscribers topics have, with a history and events" {
        /// Topics that have presence: a name, the beginning of names and `*`, or a template such as
        /// /rooms/{id}. GET /topics/NAME has their history of the last ten minutes, and the server publishes
        /// how many subscribers a topic has, as events of the topic presence/NAME. Who may read them is
        /// decided by grants.
        presence: Vec<Pattern> = many(
            text_with("a name, the beginning of names and '*', or a template", pattern),
            Separator::Semicolon,
        ).value_name("PATTERN");
        /// Topics whose history is kept; beyond it the topics are forgotten that have not changed for the
        /// longest time. Each takes up to 4 KB.
        presence_topics: usize = one(count(1..=1_000_000)).default("10000");
        /// Time between two presence events of a topic.
        presence_interval: Duration = one(time(Duration::from_millis(100)..=Duration::from_secs(3600))).default("1s");
    }

    "access": "Which subscribers and publishers are let in" {
        /// File of keys that verify the tokens of subscribers: a public key in PEM, a JWK or a JWK Set, or,
        /// written hs256:PATH, a secret. ps256:PATH is a key of RSA for PS256. SIGHUP reads the files again.
        /// Without any keys the server lets everyone in, and listens on loopback only unless --open is given.
        subscriber_keys: Vec<KeyFile> = many(
            text("the path of a file, or hs256:PATH, hs384:PATH, hs512:PATH or ps256:PATH"),
            Separator::Comma,
        ).value_name("FILE").reloadable();
        /// File of keys that verify the tokens of publishers, written as for --subscriber-keys. Requests for
        /// /topics and /connections need such a token, too.
        publisher_keys: Vec<KeyFile> = many(
            text("the path of a file, or hs256:PATH, hs384:PATH, hs512:PATH or ps256:PATH"),
            Separator::Comma,
        ).value_name("FILE").reloadable();
        /// URL of a JWK Set whose keys verify the tokens of subscribers, beside those of --subscriber-keys.
        /// It is fetched at the start, again and again, and when a token names an unknown key. While no fetch
        /// has succeeded, tokens are answered 503; later the last good set holds.
        subscriber_jwks: Option<HttpUrl> = optional(
            text("an URL such as https://id.example/jwks.json"), "none", "no keys are fetched",
        ).value_name("URL").reloadable();
        /// URL of a JWK Set whose keys verify the tokens of publishers, beside those of --publisher-keys, as
        /// for --subscriber-jwks.
        publisher_jwks: Option<HttpUrl> = optional(
            text("an URL such as https://id.example/jwks.json"), "none", "no keys are fetched",
        ).value_name("URL").reloadable();
        /// Time between two fetches of a JWK Set.
        jwks_refresh: Duration = one(time(Duration::from_secs(10)..=Duration::from_secs(24 * 3600)))
            .default("5m").reloadable();
        /// URL of an endpoint that decides about subscriptions which no valid token and no signed URL lets
        /// in. It is asked by a GET with X-Forwarded-Method, X-Forwarded-Uri, X-Forwarded-Host,
        /// X-Forwarded-For, Origin and the fields of --authorize-headers: 2xx lets the subscriber in, 401 and
        /// 403 refuse it, and everything else is answered 503. See docs/guides/access.md.
        authorize_url: Option<HttpUrl> = optional(
            text("an URL such as https://app.example/authorize"), "none", "no endpoint is asked",
        ).value_name("URL").reloadable();
        /// Field of the request that is passed on to --authorize-url.
        authorize_headers: Vec<String> = many(
            text_with("the name of a field, such as cookie", field_name::parse), Separator::Comma,
        ).defaults(["cookie", "authorization"]).value_name("NAME").reloadable();
        /// Time within which --authorize-url has to answer, a wait for --authorize-questions included.
        authorize_timeout: Duration = one(time(Duration::from_millis(100)..=Duration::from_secs(9)))
            .default("5s").reloadable();
        /// Questions to --authorize-url at once. Others wait.
        authorize_questions: usize = one(count(1..=1024)).default("64").reloadable();
        /// Time for which an answer of --authorize-url holds for equal requests; a refusal holds for at most
        /// a second. An answer with Cache-Control: no-store is never kept.
        authorize_cache: Option<Duration> = optional(
            time(Duration::from_millis(1)..=Duration::from_secs(60)), "off", "no answer is kept",
        ).default("5s").reloadable();
        /// Ask endpoints by http, without TLS, on hosts other than this machine, too. Strangers in that
        /// network can change the answers.
        plain_http: bool = one(switch()).default("false").reloadable();
        /// File with a secret of at least 32 bytes that verifies signed subscribe URLs. The first one signs,
        /// so that keys can be rotated.
        url_keys: Vec<PathBuf> = many(path(), Separator::Comma).value_name("FILE").reloadable();
        /// Let subscribers without a token in. They get no private events.
        anonymous_subscribe: bool = one(switch()).default("false").reloadable();
        /// Issuer (iss) of which a token must name one; without any, the issuer is not looked at.
        issuer: Vec<String> = many(text_with("a text", not_empty), Separator::Comma)
            .value_name("TEXT").reloadable();
        /// Audience (aud) of which a token must name one; without any, tokens for an audience are refused.
        audience: Vec<String> = many(text_with("a text", not_empty), Separator::Comma)
            .value_name("TEXT").reloadable();
        /// Time for which a token is accepted before nbf and after exp, because clocks differ. A stream ends
        /// at exp nevertheless. For as long after the revocation of a subject, its new tokens are barred,
        /// too.
        leeway: Duration = one(time(Duration::from_secs(1)..=Duration::from_secs(300))).default("5s").reloadable();
        /// Name of the cookie that holds a token, for browsers: their EventSource sends no Authorization
        /// header.
        token_cookie: Option<String> = optional(
            text_with("the name of a cookie", cookie_name), "none", "cookies are not looked at",
        ).value_name("NAME").reloadable();
        /// Accept a token in the query (access_token=TOKEN), too. Proxies write queries into their logs.
        token_in_query: bool = one(switch()).default("false").reloadable();
        /// Tell clients why their token is refused. The log says it in any case.
        debug_auth: bool = one(switch()).default("false").reloadable();
        /// File that keeps revocations over a restart. It is written whenever something is revoked, and
        /// belongs to one server.
        revocations_file: Option<PathBuf> = optional(path(), "none", "a restart forgets them").value_name("FILE");
        /// Without keys, let everyone subscribe and publish on addresses that are not loopback, too.
        open: bool = one(switch()).default("false").reloadable();
    }

    "proxies": "Proxies in front of the server" {
        /// Proxy whose word about its clients is believed: an address, a network such as 10.0.0.0/8, or unix
        /// for every peer on a Unix socket. Its X-Forwarded-For or Forwarded, or its header of the PROXY
        /// protocol, names the client.
        trusted_proxies: Vec<String> = many(
            text_with("an address, a network such as 10.0.0.0/8, or unix", proxy::parse),
            Separator::Comma,
        ).value_name("NETWORK").reloadable();
        /// Field in which the trusted proxies name their clients. Where they write only Forwarded, say so: a
        /// client could send an X-Forwarded-For of its own.
        forwarded_field: Option<ForwardedField> = one(choice(vec![
            ("auto", "X-Forwarded-For where it is there, otherwise Forwarded", None),
            ("x-forwarded-for", "", Some(ForwardedField::XForwardedFor)),
            ("forwarded", "RFC 7239", Some(ForwardedField::Forwarded)),
        ])).default("auto").reloadable();
    }

    "limits": "Limits of subscribers and requests" {
        /// Subscribers per shard; at the bound newcomers get --when-full.
        max_connections: usize = one(count(0..=usize::MAX)).default(Limits::default().connections.to_string()).reloadable();
        /// Connections of one client on all shards together, whatever they are for. A client is an IPv4
        /// address, or an IPv6 network of --ipv6-prefix bits; behind --trusted-proxies it is the address that
        /// they name. Beyond it the answer is 429, or what --when-full says.
        max_connections_per_address: Option<usize> = optional(count(1..=usize::MAX), "none", "any number").reloadable();
        /// Connections that one client may make in a second; beyond it as at --max-connections-per-address.
        max_connect_rate: Option<usize> = optional(count(1..=usize::MAX), "none", "any number").reloadable();
        /// Connections that one client may make at once, where there is a --max-connect-rate.
        connect_burst: usize = one(count(1..=usize::MAX))
            .default(ClientLimits::default().connect_burst.to_string()).reloadable();
        /// Bits of an IPv6 address that tell one client from another.
        ipv6_prefix: usize = one(count(1..=128)).default(IPV6_PREFIX_BITS.to_string()).reloadable();
        /// Streams of one subject (sub of a token) on all shards together; beyond it as at
        /// --max-connections-per-address.
        max_connections_per_subject: Option<usize> =
            optional(count(1..=usize::MAX), "none", "any number").reloadable();
        /// Address of the operator: an address, a network, or unix for every peer on a Unix socket. Only
        /// requests from there may use the last 32nd of the bounds that all clients share, and the bounds of
        /// one address do not hold for them. A request that came through a proxy is judged by its client;
        /// through a proxy that is not one of --trusted-proxies it is never the operator's.
        operators: Vec<String> = many(
            text_with("an address, a network such as 127.0.0.0/8, or unix", proxy::parse),
            Separator::Comma,
        ).defaults(["127.0.0.0/8", "::1"]).value_name("NETWORK").reloadable();
        /// What a subscriber gets that finds no room. Browsers give up at any status but 200.
        when_full: WhenFull = one(choice(vec![
            ("unavailable", "503 with Retry-After", FullPolicy::Unavailable),
            ("end-stream", "200, a retry, and the end of the stream: browsers come back", FullPolicy::EndStream),
            ("drop", "close without an answer: browsers come back", FullPolicy::Drop),
        ])).default("unavailable").reloadable();
        /// Topics and patterns of one subscription.
        max_topics: usize = one(count(0..=usize::MAX))
            .default(Limits::default().topics_per_subscription.to_string()).reloadable();
        /// Different patterns that subscribers read, or have read lately; beyond it a subscription to a
        /// further pattern is answered as at --max-connections. 0: no subscription has patterns.
        max_patterns: usize = one(count(0..=usize::MAX)).default(Limits::default().patterns.to_string());
        /// Data of one event.
        max_event: usize = one(size()).default(size_text(Limits::default().event_bytes)).reloadable();
        /// Time for a request head to be complete.
        head_time: Duration = one(any_time()).default(time_text(Limits::default().head_time)).reloadable();
        /// Bytes per shard of the topics that its subscribers read; beyond it a subscription to further
        /// topics is answered as at --max-connections.
        subscription_bytes: usize = one(size()).default(size_text(Limits::default().subscription_bytes)).reloadable();
    }

    "publishing": "Limits of publishers and of other requests" {
        /// Body of a publish in JSON or as a form; NDJSON has no end, but each line this bound.
        max_body: usize = one(size()).default("4MiB").reloadable();
        /// Events of one JSON array. NDJSON has no such bound.
        max_array: usize = one(count(0..=usize::MAX)).default("10000").reloadable();
        /// Connections at once that are no subscribers. At the bound the one that has been idle for the
        /// longest time is closed.
        max_control_connections: usize = one(count(0..=usize::MAX)).default("4096").reloadable();
        /// Publishes in progress at once. At the bound the one whose body comes most slowly is ended, or the
        /// newcomer refused.
        max_publishes: usize = one(count(0..=usize::MAX)).default("512").reloadable();
        /// Memory of all publishes in progress, those included that wait for the shards.
        publish_memory: Option<usize> =
            optional(size(), "auto", "128MiB, or four times --max-body").reloadable();
        /// Bytes a second that a body must have. Pauses of up to 30 seconds are allowed; 0B: only pauses are
        /// bounded.
        publish_rate: usize = one(size()).default("32B").reloadable();
        /// Events that one publisher may publish in a second. A publisher is a subject (sub of its token), or
        /// a token without one; without keys it is a client's address, and the operator's have no such bound.
        /// Beyond it the answer is 429, and a body of NDJSON that has begun is read more slowly.
        max_publish_events: Option<usize> = optional(count(1..=usize::MAX), "none", "any number").reloadable();
        /// Bytes of bodies that one publisher may send in a second, as above.
        max_publish_bytes: Option<usize> = optional(size(), "none", "any number").reloadable();
        /// What one publisher may use at once: what these rates give in so much time.
        publish_burst: Duration = one(time(Duration::from_millis(100)..=Duration::from_secs(3600)))
            .default("5s").reloadable();
    }

    "retention": "What is kept for subscribers that resume or are slow" {
        /// Events of each topic that are kept for subscribers that resume or are slow.
        retain_events: usize = one(count(0..=usize::MAX))
            .default(Retention::default().events.to_string()).reloadable();
        /// Bytes of events of each topic that are kept.
        retain_bytes: usize = one(size()).default(size_text(Retention::default().bytes)).reloadable();
        /// Age at which events are dropped.
        retain_age: Duration = one(any_time()).default(time_text(Retention::default().age)).reloadable();
        /// Other bounds for some topics; the first that matches holds. TOPIC is a name, or the beginning of
        /// names and `*`. A bound that is left out is the general one: `user/*=100,,10m`.
        retain: Vec<RetainRule> = many(
            text_with("TOPIC=EVENTS,SIZE,TIME such as user/*=100,1MiB,10m", RetainRule::parse),
            Separator::Semicolon,
        ).value_name("TOPIC=EVENTS,SIZE,TIME").reloadable();
        /// Memory of all events that are kept; at the bound, the largest topics lose their oldest events.
        log_bytes: usize = one(size()).default(size_text(LogLimits::default().total_bytes)).reloadable();
    }

    "store": "The durable log" {
        /// Directory of the durable log. Events are kept there over restarts and crashes, with the retention
        /// of their topics, and a publish is answered when its events are stored. It is created where it does
        /// not exist.
        data: Option<PathBuf> = optional(path(), "none", "events are in memory alone").value_name("DIR");
        /// When a publish is answered, and its events are sent: `commit`, when they are on stable storage and
        /// survive a power cut; `async`, at once, and a power cut, a crash or `kill -9` loses those of the
        /// last second.
        durability: Durability = one(choice(vec![
            ("commit", "", Durability::Commit),
            ("async", "", Durability::Async),
        ])).default("commit");
        /// Bytes of events in the durable log; at the bound, the largest topics lose their oldest events. The
        /// files take more: see docs/DURABILITY.md.
        data_bytes: usize = one(size()).default("16GiB").reloadable();
    }

    "cluster": "A log that several servers share" {
        /// URL of a NATS server with JetStream. Several servers that name the same stream are one hub: events
        /// that are published at one of them reach the subscribers of all, and a subscriber may resume at any
        /// of them. The stream is the durable log then, so --data cannot be set. The --retain options and
        /// --presence hold over all servers: those of the server that was started last, or reloaded last with
        /// other ones. See docs/SCALING.md.
        nats: Vec<NatsUrl> = many(text(NatsUrl::ALLOWED), Separator::Comma).value_name("URL");
        /// Name of the stream. It is created where it does not exist, and checked where it does.
        stream: String = one(text_with("a name without spaces, dots, slashes, * and >", nats_name::stream))
            .default("FANFARE").value_name("NAME");
        /// Beginning of the subjects of the stream: events of the topic `orders/42` are messages with the
        /// subject `PREFIX.orders.42`.
        subject_prefix: String = one(text_with("tokens of letters, digits, - and _ with dots between", nats_name::prefix))
            .default("fanfare").value_name("PREFIX");
        /// Servers of NATS that keep a copy of the stream, where it is created.
        stream_replicas: usize = one(count(1..=5)).default("1");
        /// Age at which the stream drops events, where it is created.
        stream_age: Duration = one(any_time()).default("24h");
        /// Bytes that the stream keeps, where it is created; at the bound it drops its oldest events. NATS
        /// reserves them.
        stream_bytes: usize = one(size()).default("1GiB");
        /// Credentials file for NATS, as `nsc` writes it: a JWT and a seed.
        nats_credentials: Option<PathBuf> = optional(path(), "none", "the connection has no credentials")
            .value_name("FILE");
        /// File with one line for NATS: USER:PASSWORD, or a token.
        nats_login: Option<PathBuf> = optional(path(), "none", "the connection has no user").value_name("FILE");
        /// File with the certificates that NATS servers are verified with.
        nats_ca: Option<PathBuf> = optional(path(), "system", "those of the system").value_name("FILE");
        /// File with the certificate that this server shows to NATS servers.
        nats_certificate: Option<PathBuf> = optional(path(), "none", "the server shows no certificate")
            .value_name("FILE");
        /// File with the private key of --nats-certificate.
        nats_key: Option<PathBuf> = optional(path(), "none", "the server shows no certificate").value_name("FILE");
        /// How long a publish waits where NATS cannot be reached. Then it is answered 503 with Retry-After.
        nats_wait: Duration = one(time(Duration::from_millis(100)..=Duration::from_secs(9))).default("2s");
    }

    "streams": "Streams of subscribers, and slow ones" {
        /// A comment is sent where nothing else was for this long.
        heartbeat: Duration = one(any_time()).default(time_text(Limits::default().heartbeat)).reloadable();
        /// The shortest interval between heartbeats that a subscriber may ask for (`heartbeat=SECONDS`).
        heartbeat_min: Duration = one(any_time()).default(time_text(Limits::default().heartbeat_min)).reloadable();
        /// End each heartbeat with a blank line, for clients that read no further than one.
        heartbeat_blank_line: bool = one(switch()).default("false").reloadable();
        /// Time after which subscribers are to reconnect, from 100ms to 1h; each is told up to half more.
        // The bounds of a `retry` (`crates/proto`, `Retry`): shorter ones make a crowd come back at once,
        // longer ones lose it.
        retry: Duration = one(time(Duration::from_millis(100)..=Duration::from_secs(3600)))
            .default(time_text(Limits::default().retry)).reloadable();
        /// End streams at 80 to 100 % of this age.
        max_age: Option<Duration> = optional(any_time(), "never", "never").reloadable();
        /// Bytes per shard of events that slow subscribers have begun to receive; beyond it, of a bounded
        /// sample of their connections, the one whose end frees the most is disconnected. How far a
        /// subscriber may be behind is what is kept for its topics.
        laggard_bytes: usize = one(size()).default(size_text(Limits::default().laggard_bytes)).reloadable();
        /// Time after which a subscriber that takes nothing is closed.
        laggard_time: Duration = one(any_time()).default(time_text(Limits::default().laggard_time)).reloadable();
        /// What happens to a slow subscriber when what it needs is not kept any more.
        laggard_policy: LaggardEnd = one(choice(vec![
            ("disconnect", "close the connection; it can resume", LaggardPolicy::Disconnect),
            ("skip", "keep it, and tell it of the gap", LaggardPolicy::Skip),
        ])).default("disconnect").reloadable();
    }

    "logging": "What the server logs" {
        /// Level of the log, such as info or debug, or levels by module, such as warn,fanfare=debug.
        log: String = one(text_with("a level such as info or debug, or levels by module", log_filter::parse))
            .default("info").value_name("LEVEL").reloadable();
        /// Form of the log's lines.
        log_format: LogFormat = one(choice(vec![
            ("text", "for people", LogFormat::Text),
            ("json", "one JSON object on each line", LogFormat::Json),
        ])).default("text");
        /// Log a line for each request to the control plane, and for each stream that begins and ends.
        /// Queries are left out, because tokens may stand there. A stream that is refused on a connection of
        /// its own is counted and not logged. Each subscriber takes more memory.
        access_log: bool = one(switch()).default("false");
        /// Most lines of requests that the access log gets in a second, and most lines of streams. Clients
        /// decide how many there are, and could fill a disk. Lines that are left out are counted, and a line
        /// says how many.
        access_log_rate: usize = one(count(1..=1_000_000)).default("5000");
    }
}

fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write an IP address and a port such as 127.0.0.1:8845".to_owned())
}

fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::parse(text).map_err(|error| error.to_string())
}

fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("it is empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// The name of a cookie is a token (RFC 6265, section 4.1.1).
fn cookie_name(text: &str) -> Result<String, String> {
    let is_token = |byte: u8| byte.is_ascii_graphic() && !br#"()<>@,;:\"/[]?={}"#.contains(&byte);
    if text.is_empty() || !text.bytes().all(is_token) {
        return Err("a cookie's name has letters, digits and signs such as - and _".to_owned());
    }
    Ok(text.to_owned())
}

fn other_table() -> Problems {
    Problems(vec![Problem { place: Place::Default, text: "these values are of other options".to_owned() }])
}

impl Settings {
    /// The options of the server.
    pub fn table() -> &'static Table {
        &TABLE
    }

    /// The bounds of the engine.
    pub fn limits(&self) -> Limits {
        Limits::default()
            .with_connections(self.max_connections)
            .with_clients(self.client_limits())
            .with_when_full(self.when_full)
            .with_head_time(self.head_time)
            .with_topics_per_subscription(self.max_topics)
            .with_patterns(self.max_patterns)
            .with_event_bytes(self.max_event)
            .with_laggard_bytes(self.laggard_bytes)
            .with_subscription_bytes(self.subscription_bytes)
            // The server embeds no reader, and its subscribers are members of nothing.
            .with_local_readers(0)
            .with_members_per_subscription(0)
            .with_members_lingering(0)
            .with_announcements(0)
            .with_laggard_time(self.laggard_time)
            .with_laggard_policy(self.laggard_policy)
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

    /// The bounds of one client.
    pub fn client_limits(&self) -> ClientLimits {
        // Each entry was read once already.
        let operators = self.operators.join(",").parse().unwrap_or_default();
        ClientLimits::default()
            .with_connections_per_address(self.max_connections_per_address)
            .with_connects_per_second(self.max_connect_rate.map(|count| count as u64))
            .with_connect_burst(self.connect_burst as u64)
            .with_ipv6_prefix_bits(self.ipv6_prefix as u8)
            .with_streams_per_subject(self.max_connections_per_subject)
            .with_proxies(self.proxies())
            .with_operators(operators)
    }

    /// How many events one publisher may publish.
    pub fn publish_events_rate(&self) -> Option<Rate> {
        self.max_publish_events.map(|count| self.rate_of_publisher(count))
    }

    /// How many bytes one publisher may send.
    pub fn publish_bytes_rate(&self) -> Option<Rate> {
        self.max_publish_bytes.map(|bytes| self.rate_of_publisher(bytes))
    }

    fn rate_of_publisher(&self, per_second: usize) -> Rate {
        let burst = per_second as u128 * self.publish_burst.as_millis() / 1000;
        Rate::new(per_second as u64, u64::try_from(burst).unwrap_or(u64::MAX))
    }

    /// What is kept of each topic that no rule of `--retain` matches.
    pub fn retention(&self) -> Retention {
        Retention::default()
            .with_events(self.retain_events)
            .with_bytes(self.retain_bytes)
            .with_age(self.retain_age)
    }

    /// The rules of `--retain`.
    pub fn retain_rules(&self) -> Vec<RetentionRule> {
        let general = self.retention();
        self.retain.iter().map(|rule| rule.or(general)).collect()
    }

    /// The bounds of what is kept.
    pub fn log_limits(&self) -> LogLimits {
        let (retention, rules) = (self.retention(), self.retain_rules());
        let rules = with_presence_rule(!self.presence.is_empty(), retention, rules);
        LogLimits::default().with_retention(retention).with_rules(rules).with_total_bytes(self.log_bytes)
    }

    /// The bounds of the durable log: those of the log in memory for each topic, and its own for all events.
    pub fn store_limits(&self) -> LogLimits {
        self.log_limits().with_total_bytes(self.data_bytes)
    }

    /// The options of subscribers' sockets.
    pub fn socket_options(&self) -> SocketOptions {
        let send_buffer = self.send_buffer.map(|bytes| bytes.min(LARGEST_BUFFER) as u32);
        SocketOptions::default().with_send_buffer(send_buffer).with_keepalive(Some(self.keepalive))
    }

    /// The proxies whose word about their clients is believed.
    pub fn proxies(&self) -> TrustedProxies {
        // Each entry was read once already.
        let trusted = self.trusted_proxies.join(",").parse().unwrap_or_else(|_| TrustedProxies::none());
        match self.forwarded_field {
            Some(field) => trusted.with_field(field),
            None => trusted,
        }
    }
}

/// The rules of the log for these rules of `--retain`. Where there is presence, the first one is for its
/// events: clients that join and leave cause them, and they are not to take the place of others.
pub fn with_presence_rule(
    has_presence: bool,
    general: Retention,
    rules: Vec<RetentionRule>,
) -> Vec<RetentionRule> {
    let of_presence = has_presence.then(|| {
        let topics = TopicPattern::Prefix(PRESENCE_PREFIX.to_owned());
        RetentionRule::new(topics, general.with_age(general.age.min(PRESENCE_RETAIN_AGE)))
    });
    of_presence.into_iter().chain(rules).collect()
}

impl Default for Settings {
    /// Every option has its default.
    fn default() -> Settings {
        let values = TABLE.layer(&crate::Sources::default());
        let settings = values.and_then(|values| Settings::of(&values));
        settings.unwrap_or_else(|problems| unreachable!("a default is wrong: {problems}"))
    }
}
