//! Nodes, and a real NATS server that they share.
//!
//! The server is found or installed as `fanfare_testkit::nats` says.

#![allow(clippy::unwrap_used, reason = "tests")]

mod cluster;
mod faults;
mod messages;
mod nodes;
mod reads;
mod replicas;
mod start;
mod support;
