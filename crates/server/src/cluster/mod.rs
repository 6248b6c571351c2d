//! Servers that share a log are a cluster: what they tell each other beside the events.

pub(crate) mod peers;
