//! Subscriptions of axum's handlers, over real sockets.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod behind_the_engine;
mod chat;
mod client;
mod examples;
mod layers;
mod refusals;
mod requests;
mod resume;
mod servers;
mod testing;
