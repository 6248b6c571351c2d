//! Other servers under the same load. `fanfare-load baseline NAME` runs one in the foreground, either written
//! here or by becoming the program that is installed; the comparison starts and stops them that way.

mod bare;
mod installed;
mod origin;
mod peers;
mod request;
mod threads;
mod token;
mod tokio;

use std::net::TcpListener;

use clap::{Args, ValueEnum};
use serde::Serialize;

pub(crate) use self::installed::scratch_of;
use crate::failure::{Failure, Outcome};
use crate::sys;
use crate::target::Dialect;

/// A server to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Baseline {
    /// A thread per connection on std
    Threads,
    /// The limit of a loop of sends: one thread, no HTTP beyond the head
    Bare,
    /// axum with a broadcast channel
    Tokio,
    /// The tutorial's Node server turned into a fan-out
    Node,
    /// nginx with nchan
    Nchan,
    /// Durable Streams, in memory
    DurableStreams,
    /// Go's net/http with a channel per stream
    Go,
    /// The Mercure hub, on Caddy, in memory
    Mercure,
    /// Centrifugo over its unidirectional SSE transport
    Centrifugo,
    /// Pushpin in front of an origin that holds every request
    Pushpin,
}

impl Baseline {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Baseline::Threads => "threads",
            Baseline::Bare => "bare",
            Baseline::Tokio => "tokio",
            Baseline::Node => "node",
            Baseline::Nchan => "nchan",
            Baseline::DurableStreams => "durable-streams",
            Baseline::Go => "go",
            Baseline::Mercure => "mercure",
            Baseline::Centrifugo => "centrifugo",
            Baseline::Pushpin => "pushpin",
        }
    }

    pub(crate) fn dialect(self) -> Dialect {
        match self {
            Baseline::Threads | Baseline::Bare | Baseline::Tokio | Baseline::Node | Baseline::Go => {
                Dialect::Plain
            }
            Baseline::Nchan => Dialect::Nchan,
            Baseline::DurableStreams => Dialect::DurableStreams,
            Baseline::Mercure => Dialect::Mercure,
            Baseline::Centrifugo => Dialect::Centrifugo,
            Baseline::Pushpin => Dialect::Pushpin,
        }
    }

    /// Whether it keeps topics apart; the others have one channel for everybody.
    pub(crate) fn has_topics(self) -> bool {
        self.dialect() != Dialect::Plain
    }

    /// What the publisher has to show.
    pub(crate) fn publish_headers(self) -> Vec<String> {
        match self {
            Baseline::Mercure => vec![format!("Authorization: Bearer {}", token::publisher(peers::KEY))],
            Baseline::Centrifugo => vec![format!("X-API-Key: {}", peers::KEY)],
            _ => Vec::new(),
        }
    }

    /// How many streams may be under way at a time while they open, where more is too much for it.
    pub(crate) fn connect_burst(self) -> Option<usize> {
        (self == Baseline::Pushpin).then_some(32)
    }

    /// Whether publishes may follow each other on a connection without waiting for the answers.
    pub(crate) fn pipelines(self) -> bool {
        self != Baseline::Pushpin
    }

    /// Where it is published to, if that is not the port that it is subscribed at.
    pub(crate) fn publish_url(self, control_port: u16) -> Option<String> {
        (self == Baseline::Pushpin).then(|| format!("http://127.0.0.1:{control_port}/publish/"))
    }

    /// The settings in full, for the report.
    pub(crate) fn settings(self) -> &'static str {
        match self {
            Baseline::Threads => {
                "std only; a thread of 64 KiB stack and a bounded queue of 64 shared frames per stream; what has queued up goes out in one write; a full queue closes the stream; comment every 15 s; TCP_NODELAY; a further descriptor table when one is full"
            }
            Baseline::Bare => {
                "one sending thread; per stream only a descriptor; non-blocking sends of one shared frame; a full socket closes the stream"
            }
            Baseline::Tokio => {
                "axum 0.8 Sse over tokio::sync::broadcast (1,024 events), multi-threaded runtime with a thread per core it may use, KeepAlive 15 s, TCP_NODELAY"
            }
            Baseline::Node => {
                "one process, plain http; the frame is made once; comment every 15 s; setNoDelay"
            }
            Baseline::Nchan => {
                "a worker per core it may use, worker_connections 200000, nchan_message_buffer_length 1000, first message newest, 512 MB of shared memory, no pings, no access log"
            }
            Baseline::DurableStreams => {
                "--durability memory, otherwise as shipped; a text/plain stream, read with offset=now&live=sse"
            }
            Baseline::Go => {
                "net/http; the frame is made once; a channel of 64 shared frames per stream, what has queued up goes out in one flush; a full channel closes the stream; comment every 15 s; GOMAXPROCS is the cores it may use"
            }
            Baseline::Mercure => {
                "0.24.2 on Caddy; local transport (no history), anonymous subscribers, HS256 for the publisher, write_timeout 0, heartbeat 40 s, HTTP/1.1 without TLS or compression, no access log, no admin"
            }
            Baseline::Centrifugo => {
                "5.4.9; uni_sse, memory engine without history, anonymous subscribers by cf_connect, publish over the HTTP API with a key, ping 25 s, queue of 1 MB per stream, log_level error"
            }
            Baseline::Pushpin => {
                "1.36 with condure, proxy, handler and zurl; client_maxconn 20000, client_buffer_size 32768, message_rate and message_hwm 10 million, Grip-Keep-Alive 15 s, no signatures; 32 streams opened at a time, because at 256 it answers 502; one publish at a time, because it cannot be pipelined to; a small origin in the same process tree answers each subscriber with Grip-Hold: stream"
            }
        }
    }

    /// What it cannot do that the others can.
    pub(crate) fn cannot(self) -> &'static str {
        match self {
            Baseline::Threads | Baseline::Bare | Baseline::Tokio | Baseline::Node | Baseline::Go => {
                "one channel for everybody; no ids, no resume"
            }
            Baseline::Nchan => "ids are time:position; no gap is told",
            Baseline::DurableStreams => {
                "one stream per connection; resume by offset in the URL, not by Last-Event-ID; streams end after 60 s; no authorisation"
            }
            Baseline::Mercure => "resume needs its Bolt transport, which writes every event to disk",
            Baseline::Centrifugo => {
                "no ids and no resume on SSE; events are wrapped in JSON, pings are events too"
            }
            Baseline::Pushpin => {
                "keeps no events: resume is the origin's; every subscriber is a request to the origin"
            }
        }
    }

    /// Whether it can be started here, else why not.
    pub(crate) fn available(self) -> Outcome<()> {
        match self {
            Baseline::Threads | Baseline::Bare | Baseline::Tokio => Ok(()),
            Baseline::Node => installed::find("node").map(drop),
            Baseline::Nchan => installed::find_nchan().map(drop),
            Baseline::DurableStreams => installed::find("durable-streams-server").map(drop),
            Baseline::Go => installed::find(peers::GO).map(drop),
            Baseline::Mercure => installed::find("mercure").map(drop),
            Baseline::Centrifugo => installed::find("centrifugo").map(drop),
            Baseline::Pushpin => {
                ["pushpin", "condure", "zurl"].iter().try_for_each(|name| installed::find(name).map(drop))
            }
        }
    }
}

/// Runs a baseline in the foreground.
#[derive(Args)]
pub(crate) struct Serve {
    /// Which one
    #[arg(value_enum)]
    baseline: Baseline,
    /// Port on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Port to publish at, for pushpin
    #[arg(long, default_value_t = 5561)]
    control_port: u16,
    /// Sending threads of `bare`, each with a descriptor table of its own where there are several
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// End when the process that started this one does: its id
    #[arg(long, hide = true)]
    with_parent: Option<u32>,
    /// Be what stands behind pushpin
    #[arg(long, hide = true)]
    origin: bool,
}

/// A port that is free now.
pub(crate) fn free_port() -> Outcome<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener.map(|address| address.port()).map_err(|error| Failure::new(format!("no free port: {error}")))
}

/// Serves until ended; returns only on a failure.
pub(crate) fn serve(serve: &Serve) -> Outcome<()> {
    if let Some(parent) = serve.with_parent
        && !sys::end_with_parent(parent)
    {
        return Err(Failure::new(format!("the process {parent}, which started this one, has ended")));
    }
    sys::raise_descriptor_limit();
    if serve.origin {
        sys::default_interrupts();
        return origin::serve(serve.port);
    }
    let own = matches!(serve.baseline, Baseline::Threads | Baseline::Bare | Baseline::Tokio);
    let port = if serve.port == 0 && !own { free_port()? } else { serve.port };
    let failed = |error| Failure::new(format!("port {port} of 127.0.0.1: {error}"));
    if own {
        let tables = usize::from(serve.threads);
        let listener = sys::listen(port, tables > 1).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        announce(serve, port);
        sys::default_interrupts();
        return match serve.baseline {
            Baseline::Threads => threads::serve(&listener),
            Baseline::Bare => bare::serve(listener, tables),
            _ => tokio::serve(listener),
        };
    }
    announce(serve, port);
    sys::default_interrupts();
    match serve.baseline {
        Baseline::Node => installed::node(port),
        Baseline::Nchan => installed::nchan(port),
        Baseline::Go => peers::go(port),
        Baseline::Mercure => peers::mercure(port),
        Baseline::Centrifugo => peers::centrifugo(port),
        Baseline::Pushpin => peers::pushpin(port, serve.control_port),
        _ => installed::durable_streams(port),
    }
}

fn announce(serve: &Serve, port: u16) {
    let baseline = serve.baseline;
    println!("{} at http://127.0.0.1:{port} ({})", baseline.name(), baseline.settings());
    if let Some(url) = baseline.publish_url(serve.control_port) {
        println!("publish with --publish-url '{url}'");
    }
    for header in baseline.publish_headers() {
        println!("publish with --publish-header '{header}'");
    }
}
