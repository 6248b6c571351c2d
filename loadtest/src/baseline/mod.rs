//! Other servers under the same load. `fanfare-load baseline NAME` runs one in the foreground, either written
//! here or by becoming the program that is installed; the comparison starts and stops them that way.

mod bare;
mod installed;
mod request;
mod threads;
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
        }
    }

    pub(crate) fn dialect(self) -> Dialect {
        match self {
            Baseline::Threads | Baseline::Bare | Baseline::Tokio | Baseline::Node => Dialect::Plain,
            Baseline::Nchan => Dialect::Nchan,
            Baseline::DurableStreams => Dialect::DurableStreams,
        }
    }

    /// The settings in full, for the report.
    pub(crate) fn settings(self) -> &'static str {
        match self {
            Baseline::Threads => {
                "std only; a thread of 64 KiB stack and a bounded queue of 64 shared frames per stream; what has queued up goes out in one write; a full queue closes the stream; comment every 15 s; TCP_NODELAY"
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
        }
    }

    /// What it cannot do that the others can.
    pub(crate) fn cannot(self) -> &'static str {
        match self {
            Baseline::Threads | Baseline::Bare | Baseline::Tokio | Baseline::Node => {
                "one channel for everybody; no ids, no resume"
            }
            Baseline::Nchan => "ids are time:position; no gap is told",
            Baseline::DurableStreams => {
                "one stream per connection; resume by offset in the URL, not by Last-Event-ID; streams end after 60 s; no authorisation"
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
    /// End when the process that started this one does
    #[arg(long, hide = true)]
    with_parent: bool,
}

/// A port that is free now.
pub(crate) fn free_port() -> Outcome<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener.map(|address| address.port()).map_err(|error| Failure::new(format!("no free port: {error}")))
}

/// Serves until ended; returns only on a failure.
pub(crate) fn serve(serve: &Serve) -> Outcome<()> {
    if serve.with_parent {
        sys::end_with_parent();
    }
    sys::raise_descriptor_limit();
    let own = matches!(serve.baseline, Baseline::Threads | Baseline::Bare | Baseline::Tokio);
    let port = if serve.port == 0 && !own { free_port()? } else { serve.port };
    let failed = |error| Failure::new(format!("port {port} of 127.0.0.1: {error}"));
    if own {
        let listener = sys::listen(port).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        announce(serve.baseline, port);
        sys::default_interrupts();
        return match serve.baseline {
            Baseline::Threads => threads::serve(&listener),
            Baseline::Bare => bare::serve(&listener),
            _ => tokio::serve(listener),
        };
    }
    announce(serve.baseline, port);
    sys::default_interrupts();
    match serve.baseline {
        Baseline::Node => installed::node(port),
        Baseline::Nchan => installed::nchan(port),
        _ => installed::durable_streams(port),
    }
}

fn announce(baseline: Baseline, port: u16) {
    println!("{} at http://127.0.0.1:{port} ({})", baseline.name(), baseline.settings());
}
