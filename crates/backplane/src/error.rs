//! Why a node cannot use a stream.

use std::fmt;

/// Why [`crate::NatsBackplane::connect`] has failed. The message says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectError {
    kind: ConnectErrorKind,
    message: String,
}

/// What kind of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectErrorKind {
    /// The options are wrong.
    Options,
    /// No server answers.
    Unreachable,
    /// What answers is no NATS server.
    NotNats,
    /// The server refuses these credentials, or wants some.
    Credentials,
    /// The TLS connection fails.
    Tls,
    /// The server has no JetStream, or not for this account.
    NoJetStream,
    /// The account may not do what a node has to do.
    Permission,
    /// The stream has other settings than a node needs or was told.
    Mismatch,
    /// The stream cannot be created with these settings.
    Create,
    /// JetStream does not answer as it should.
    JetStream,
    /// A thread cannot be started.
    Thread,
}

impl ConnectError {
    pub(crate) fn new(kind: ConnectErrorKind, message: impl Into<String>) -> ConnectError {
        ConnectError { kind, message: message.into() }
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ConnectErrorKind {
        self.kind
    }

    /// Whether the same call may succeed later, without a change of the options or of the server's settings.
    pub fn is_passing(&self) -> bool {
        matches!(self.kind, ConnectErrorKind::Unreachable | ConnectErrorKind::JetStream)
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConnectError {}
