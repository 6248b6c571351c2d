//! Servers that share a log on NATS.

use std::net::TcpStream;

use fanfare_testkit::nats::{NatsOptions, NatsServer};

use super::server::{arguments, fanfare, run};
use super::{Backend, Server, eventually};

/// NATS, and the name of a stream on it.
pub(crate) struct Nats {
    pub(crate) server: NatsServer,
}

impl Nats {
    pub(crate) fn start() -> Nats {
        Nats::start_with(&NatsOptions::default())
    }

    pub(crate) fn start_with(options: &NatsOptions) -> Nats {
        Nats { server: NatsServer::start(options).expect("NATS starts") }
    }

    pub(crate) fn node(&self, backend: Backend, options: &[&str]) -> Server {
        node_at(&self.server.url(), backend, options)
    }

    /// What a start says that fails.
    pub(crate) fn refusal(&self, options: &[&str]) -> String {
        refusal_at(&self.server.url(), options)
    }
}

pub(crate) fn node_at(url: &str, backend: Backend, options: &[&str]) -> Server {
    let server = Server::start_apart(backend, &[&["--nats", url], options].concat());
    expect_ready(&server, 200);
    server
}

pub(crate) fn refusal_at(url: &str, options: &[&str]) -> String {
    let mut command = fanfare();
    let own = ["--nats", url, "--admin", "off"];
    command.args(arguments(Backend::Epoll, &[&own, options].concat()));
    let ran = run(command, "");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    ran.stderr
}

pub(crate) fn expect_ready(server: &Server, status: u16) {
    eventually(&format!("readiness is {status}"), || {
        // A server that starts again does not listen for a moment.
        TcpStream::connect(server.address).ok()?;
        (server.get("/health/ready").status == status).then_some(())
    });
}
