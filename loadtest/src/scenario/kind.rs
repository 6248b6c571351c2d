//! The scenarios, and the options that each has of its own.

use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::options::{default_from_command_line, duration, seconds};
use crate::clock::parse_duration;

default_from_command_line!(Idle, Listen, Saturate, Storm, Slow, Churn, Topics, Mixed);

/// Memory per connection, and CPU while nothing is published.
#[derive(Args, Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Idle {
    /// Events to publish, at --rate, between the first and the second look at the memory
    #[arg(long, default_value_t = 5, value_name = "COUNT")]
    pub(crate) events: u64,
    /// Time between the last connect and the first look at the idle server: what the connects left behind is
    /// over then
    #[arg(long, value_parser = parse_duration, default_value = "0s", value_name = "TIME")]
    #[serde(deserialize_with = "duration", serialize_with = "seconds")]
    pub(crate) settle: Duration,
}

/// Publish without a pause.
#[derive(Args, Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Saturate {
    /// Events that the publisher may be ahead of the average subscriber
    #[arg(long, default_value_t = 200, value_name = "EVENTS")]
    pub(crate) window: u64,
}

/// Streams are opened, and nothing is published: whatever comes is measured.
#[derive(Args, Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Listen {
    /// A stream that ends is not opened again, and the run ends with the last one: for streams that are
    /// finite, as those of a language model
    #[arg(long)]
    pub(crate) once: bool,
}

/// Everyone's stream is cut at the same time, and everyone comes back at once.
#[derive(Args, Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Storm {
    /// Come back without `Last-Event-ID`: what is missed meanwhile does not count as lost
    #[arg(long)]
    pub(crate) no_resume: bool,
    /// Events that are published while all streams are cut
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100_000), value_name = "EVENTS")]
    pub(crate) missed: u64,
}

/// A share of the readers stalls.
#[derive(Args, Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Slow {
    /// Receive buffer of the readers that stall, in bytes: small, so that what they do not read is the
    /// server's burden
    #[arg(long, default_value_t = 4096, value_name = "BYTES")]
    pub(crate) stalled_receive_buffer: usize,
    /// Share of the subscribers that stop reading half way
    #[arg(long, default_value_t = 0.1, value_name = "PART")]
    pub(crate) share: f64,
}

/// Subscribers leave and join all the time.
#[derive(Args, Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Churn {
    /// Subscribers that leave, and join, a second
    #[arg(long, default_value_t = 100.0, value_name = "COUNT")]
    pub(crate) per_second: f64,
}

/// Many topics.
#[derive(Args, Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Topics {
    /// Topics [default: one for each stream]
    #[arg(long, value_name = "COUNT")]
    pub(crate) topics: Option<u32>,
    /// Topics of each stream
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    pub(crate) per_stream: u32,
    /// Streams choose topics by Zipf's law with this exponent, in place of taking them in turn: a few topics
    /// are wanted by many
    #[arg(long, value_name = "EXPONENT")]
    pub(crate) zipf: Option<f64>,
}

/// A small topic beside a big broadcast.
#[derive(Args, Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Mixed {
    /// Subscribers of the small topic, of all
    #[arg(long, default_value_t = 10, value_name = "COUNT")]
    pub(crate) small: u64,
    /// Events a second of the small topic
    #[arg(long, default_value_t = 100.0, value_name = "EVENTS_PER_S")]
    pub(crate) small_rate: f64,
}

/// A scenario and what is particular to it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// One topic, everybody gets everything: latency, time to the last subscriber, CPU per delivery
    Fanout,
    /// Memory per connection (the server's and the kernel's), CPU while idle
    Idle(Idle),
    /// Whatever comes on the streams is measured, and nothing is published
    Listen(Listen),
    /// Publish without a pause: deliveries a second
    Saturate(Saturate),
    /// Everyone reconnects at once, with Last-Event-ID or without
    Storm(Storm),
    /// A share of the readers stalls: what the others feel, what the server's memory does
    Slow(Slow),
    /// Constant connect and leave
    Churn(Churn),
    /// Many topics, published to in turn: one for each stream, or as is asked
    Topics(Topics),
    /// A small topic beside a big broadcast
    Mixed(Mixed),
}

impl Kind {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Kind::Fanout => "fanout",
            Kind::Idle(_) => "idle",
            Kind::Listen(_) => "listen",
            Kind::Saturate(_) => "saturate",
            Kind::Storm(_) => "storm",
            Kind::Slow(_) => "slow",
            Kind::Churn(_) => "churn",
            Kind::Topics(_) => "topics",
            Kind::Mixed(_) => "mixed",
        }
    }
}
