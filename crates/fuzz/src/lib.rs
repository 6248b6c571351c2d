//! What the fuzzers check: one function per target, which takes any bytes and panics where a promise is
//! broken.
//!
//! Each compares the code with something slow and obvious that was written apart from it. The seeds of a
//! target are the files in `seeds/NAME`; tests run all of them, so that what was found once stays found.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a panic is what a finding is")]

mod client_address;
mod configuration;
mod connection;
mod cursor;
mod decoder;
mod frame;
mod grants;
mod pattern_table;
mod pieces;
mod proxy_header;
mod publish_body;
mod request_head;
mod shard;
mod token;
mod token_places;

/// One thing to fuzz.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its seeds' folder.
    pub name: &'static str,
    /// Panics where a promise is broken.
    pub check: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 14] = [
    Target { name: "request_head", check: request_head::check },
    Target { name: "decoder", check: decoder::check },
    Target { name: "publish_body", check: publish_body::check },
    Target { name: "cursor", check: cursor::check },
    Target { name: "proxy_header", check: proxy_header::check },
    Target { name: "client_address", check: client_address::check },
    Target { name: "configuration", check: configuration::check },
    Target { name: "frame", check: frame::check },
    Target { name: "connection", check: connection::check },
    Target { name: "shard", check: shard::check },
    Target { name: "token", check: token::check },
    Target { name: "grants", check: grants::check },
    Target { name: "pattern_table", check: pattern_table::check },
    Target { name: "token_places", check: token_places::check },
];

impl Target {
    /// The target of this name.
    pub fn named(name: &str) -> Option<Target> {
        TARGETS.into_iter().find(|target| target.name == name)
    }
}
