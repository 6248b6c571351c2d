//! Real NATS servers for tests: a single one or a cluster, links to them that can be cut, and a raw client.
//!
//! - [`nats_server`] finds the program, or installs it.
//! - [`NatsServer`] is one process. It can be killed, stopped, paused and started again on the same port with
//!   the same store.
//! - [`NatsCluster`] is several of them with routes.
//! - [`Link`] is a TCP forwarder that can be cut in five ways and healed.
//! - [`NatsClient`] speaks the protocol of NATS over a blocking socket. It shares no code with async-nats, so
//!   it can play another NATS program.
//!
//! All addresses are loopback addresses that belong to the calling process, so that a port stays free while
//! its server is down.
//!
//! ```no_run
//! use fanfare_testkit::nats::{Cut, Link, NatsOptions, NatsServer};
//! use serde_json::json;
//!
//! let mut server = NatsServer::start(&NatsOptions::default())?;
//! let link = Link::start(server.address())?;
//! let mut client = server.client()?;
//! client.create_stream(&json!({ "name": "FANFARE", "subjects": ["fanfare.>"] }))?;
//! assert_eq!(client.publish_acked("fanfare.news", &[("Nats-Msg-Id", "one")], b"hello")?.seq, 1);
//! link.cut(Cut::BlackHole);
//! link.heal();
//! server.kill();
//! server.restart()?;
//! # Ok::<(), String>(())
//! ```

mod address;
mod client;
mod cluster;
mod link;
mod program;
mod server;

pub use client::{Acknowledgement, NatsClient, NatsMessage};
pub use cluster::NatsCluster;
pub use link::{Cut, Link};
pub use program::{NATS_VERSION, nats_server};
pub use server::{NatsCredentials, NatsOptions, NatsServer, NatsTls};

use std::time::Duration;

/// How long a server may take for anything. A machine that builds and tests at once needs seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Calls `check` every 10 ms until it gives something. `None`: it gave nothing in this time, not counting the
/// time that the calls took.
fn wait_for<T>(patience: Duration, mut check: impl FnMut() -> Option<T>) -> Option<T> {
    const STEP: Duration = Duration::from_millis(10);
    for _ in 0..patience.as_millis() / STEP.as_millis() {
        if let Some(value) = check() {
            return Some(value);
        }
        std::thread::sleep(STEP);
    }
    check()
}
