//! The publisher: events at times that are fixed beforehand, whatever the server does meanwhile.

mod connection;
mod publisher;

pub(crate) use connection::Connection;
pub(crate) use publisher::{Pace, Publisher, Route, Tally};
