//! Each option of the server that bounds the engine has the same name on the engine's builder.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use fanfare::{Builder, Engine, FullPolicy, LaggardPolicy, Retention, RetentionRule, SocketOptions};
use fanfare_config::{Settings, Sources};

use super::Cli;
use crate::configuration::Configuration;

/// An option, a value for it that is not its default, and what the builder's method of the same name does
/// with the same value.
type Case = (String, &'static str, fn(Builder) -> Builder);

macro_rules! cases {
    ($($method:ident($value:expr) = $text:expr,)*) => {
        [$((stringify!($method).replace('_', "-"), $text, |builder: Builder| builder.$method($value)),)*]
    };
}

fn cases() -> impl IntoIterator<Item = Case> {
    let cases: [Case; _] = cases! {
        max_connections(77) = "77",
        max_connections_per_address(5) = "5",
        max_connect_rate(6) = "6",
        connect_burst(7) = "7",
        ipv6_prefix(56) = "56",
        max_connections_per_subject(8) = "8",
        trusted_proxies("10.0.0.0/8".parse().unwrap()) = "10.0.0.0/8",
        operators("192.0.2.1, unix".parse().unwrap()) = "192.0.2.1,unix",
        when_full(FullPolicy::Drop) = "drop",
        max_topics(7) = "7",
        max_patterns(70) = "70",
        max_event(5000) = "5000B",
        head_time(Duration::from_secs(3)) = "3s",
        retain_events(123) = "123",
        retain_bytes(4567) = "4567B",
        retain_age(Duration::from_secs(60)) = "1m",
        retain(RetentionRule::new(
            "user/*".parse().unwrap(),
            Retention::default().with_events(9).with_bytes(1000).with_age(Duration::from_secs(5)),
        )) = "user/*=9,1000B,5s",
        log_bytes(1 << 20) = "1MiB",
        laggard_bytes(2 << 20) = "2MiB",
        subscription_bytes(3 << 20) = "3MiB",
        laggard_time(Duration::from_secs(11)) = "11s",
        laggard_policy(LaggardPolicy::Skip) = "skip",
        heartbeat(Duration::from_secs(12)) = "12s",
        heartbeat_min(Duration::from_secs(2)) = "2s",
        heartbeat_blank_line(true) = "",
        retry(Duration::from_secs(4)) = "4s",
        max_age(Duration::from_secs(600)) = "10m",
        send_buffer(50_000) = "50000B",
        keepalive(Duration::from_secs(300)) = "5m",
    };
    cases
}

/// Options with a method of the same name that are no bounds.
const NO_BOUNDS: [&str; 5] = ["listen", "backend", "shards", "pin", "descriptor-tables"];

/// Options of what the server has around the engine: its control plane, its admission, its end.
const OF_THE_SERVER: [&str; 63] = [
    "access-log",
    "access-log-rate",
    "admin",
    "admin-host",
    "config",
    "data",
    "data-bytes",
    "durability",
    "nats",
    "nats-ca",
    "nats-certificate",
    "nats-credentials",
    "nats-key",
    "nats-login",
    "nats-wait",
    "stream",
    "stream-age",
    "stream-bytes",
    "stream-replicas",
    "subject-prefix",
    "listen-proxy",
    "subscriber-keys",
    "publisher-keys",
    "url-keys",
    "anonymous-subscribe",
    "issuer",
    "audience",
    "leeway",
    "token-cookie",
    "token-in-query",
    "debug-auth",
    "authorize-cache",
    "authorize-headers",
    "authorize-questions",
    "authorize-timeout",
    "authorize-url",
    "jwks-refresh",
    "plain-http",
    "publisher-jwks",
    "revocations-file",
    "subscriber-jwks",
    "open",
    "forwarded-field",
    "log",
    "log-format",
    "profiling",
    "unix-mode",
    "host",
    "cors-origin",
    "max-body",
    "max-array",
    "max-control-connections",
    "max-publishes",
    "max-publish-events",
    "max-publish-bytes",
    "publish-burst",
    "publish-memory",
    "publish-rate",
    "presence",
    "presence-topics",
    "presence-interval",
    // The window of `Engine::stop`.
    "drain",
    "help",
];

#[test]
fn each_option_has_a_method_or_is_the_servers() {
    let command = Cli::command();
    let options: BTreeSet<String> =
        command.get_arguments().filter_map(|option| option.get_long()).map(str::to_owned).collect();
    let listed = cases().into_iter().map(|(name, _, _)| name);
    let others = NO_BOUNDS.into_iter().chain(OF_THE_SERVER).map(str::to_owned);
    let mut listed: BTreeSet<String> = listed.chain(others).collect();
    // clap adds it when the command is built.
    listed.remove("help");
    assert_eq!(options, listed, "an option is in none of the lists, or a list has an option that is none");
    let methods: [fn(Builder) -> Builder; NO_BOUNDS.len()] = [
        |builder| builder.listen("127.0.0.1:0".parse().unwrap()),
        |builder| builder.backend(fanfare::Backend::Epoll),
        |builder| builder.shards(1),
        |builder| builder.pin(false),
        |builder| builder.descriptor_tables(fanfare::DescriptorTables::Shared),
    ];
    let builder = methods.iter().fold(Engine::builder(), |builder, method| method(builder));
    assert_eq!(builder.start().unwrap().shards(), 1);
}

/// The settings of these arguments alone.
fn settings(arguments: &[&str]) -> Settings {
    let flags = Cli::try_parse_from(arguments).unwrap().serve;
    Configuration::of(Sources { flags, ..Sources::default() }).unwrap().settings
}

/// The bounds of an engine that was set up so. A started engine tells which bounds are in force.
fn bounds(builder: Builder) -> String {
    let engine = builder.shards(1).start().unwrap();
    format!("{:?}", engine.hub().limits())
}

#[test]
fn each_option_does_what_the_method_does() {
    for (name, value, method) in cases() {
        let option = format!("--{name}");
        let arguments = ["fanfare", &option, value];
        let used = if value.is_empty() { &arguments[..2] } else { &arguments };
        let options = settings(used);
        let server = || Engine::builder().limits(settings(&["fanfare"]).limits());
        let by_option = Engine::builder().limits(options.limits()).socket_options(options.socket_options());
        let default = SocketOptions::default();
        let of_sockets = match name.as_str() {
            "send-buffer" => Some(default.with_send_buffer(Some(50_000))),
            "keepalive" => Some(default.with_keepalive(Some(Duration::from_secs(300)))),
            _ => None,
        };
        if let Some(expected) = of_sockets {
            assert_eq!(options.socket_options(), expected);
            continue;
        }
        let by_option = bounds(by_option);
        assert_eq!(bounds(method(server())), by_option, "{name}");
        assert_ne!(bounds(server()), by_option, "{name} {value} is not the default");
    }
}
