//! What a backplane does, for metrics and for readiness.

use fanfare_proto::histogram::Histogram;

/// What a backplane does and has done: [`crate::NatsBackplane::status`]. Counts are since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NatsStatus {
    /// Whether there is a connection to a NATS server.
    pub is_connected: bool,
    /// Whether this node has what the stream has, as far as it knows.
    pub is_caught_up: bool,
    /// Events that the stream had at the last look, once a second, and this node has not.
    pub behind: u64,
    /// Events that were given to the backplane to publish.
    pub submitted: u64,
    /// Those of them that the stream has acknowledged.
    pub acknowledged: u64,
    /// Those of the acknowledged ones that the stream had before.
    pub duplicates: u64,
    /// Those that the stream, or the node, has refused.
    pub refused: u64,
    /// How often an event was sent again.
    pub retried: u64,
    /// Those of which it is unknown whether the stream has them.
    pub undecided: u64,
    /// Those that were given up while the stream could not be reached.
    pub unreachable: u64,
    /// Events that wait now.
    pub in_flight: u64,
    /// Their bytes.
    pub in_flight_bytes: u64,
    /// Messages of the stream that this node has received.
    pub received: u64,
    /// Their bytes, with subjects and without headers.
    pub received_bytes: u64,
    /// How often the consumer was created anew.
    pub consumers_recreated: u64,
    /// Messages that were left out, because they are no events.
    pub messages_without_event: u64,
    /// Connections that were made.
    pub connections: u64,
    /// The times from the first sending of an event until its acknowledgement.
    pub acknowledgement_time: Histogram,
    /// The lowest number that the stream has.
    pub stream_first: u64,
    /// The highest number that the stream has.
    pub stream_last: u64,
    /// Messages of the stream.
    pub stream_messages: u64,
    /// Their bytes, as the server counts them.
    pub stream_bytes: u64,
    /// The version of the NATS server that this node is connected with.
    pub server_version: String,
    /// The last error; it may have passed.
    pub last_error: Option<String>,
}
