//! How to reach the stream, and what it is created with.

use std::path::PathBuf;
use std::time::Duration;

use fanfare_proto::cursor::Epoch;

use crate::{ConnectError, ConnectErrorKind};

/// How to reach a stream of NATS JetStream, and what it is created with: [`crate::NatsBackplane::connect`].
#[derive(Clone, PartialEq, Eq)]
pub struct NatsOptions {
    pub(crate) servers: Vec<String>,
    pub(crate) stream: String,
    pub(crate) prefix: String,
    pub(crate) name: String,
    pub(crate) credentials_file: Option<PathBuf>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) client_certificate: Option<(PathBuf, PathBuf)>,
    pub(crate) login: Option<Login>,
    pub(crate) replicas: usize,
    pub(crate) max_age: Duration,
    pub(crate) max_bytes: u64,
    pub(crate) duplicate_window: Duration,
    pub(crate) is_strict: bool,
    pub(crate) epoch_over: Option<Epoch>,
    pub(crate) connect_wait: Duration,
    pub(crate) submit_wait: Duration,
    pub(crate) ack_wait: Duration,
    pub(crate) queue_events: usize,
    pub(crate) queue_bytes: usize,
}

/// What a client shows.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Login {
    User(String, String),
    Token(String),
}

impl NatsOptions {
    /// These servers, of one cluster. A URL is `nats://host:port` or `tls://host:port`, and may contain a
    /// user and a password: `nats://user:password@host:port`. All servers get those of the first URL that has
    /// some. A user without a password is a token.
    pub fn new(servers: impl IntoIterator<Item = impl Into<String>>) -> NatsOptions {
        NatsOptions {
            servers: servers.into_iter().map(Into::into).collect(),
            stream: "FANFARE".to_owned(),
            prefix: "fanfare".to_owned(),
            name: "fanfare".to_owned(),
            credentials_file: None,
            ca_file: None,
            client_certificate: None,
            login: None,
            replicas: 1,
            max_age: Duration::from_secs(24 * 3600),
            max_bytes: 1 << 30,
            duplicate_window: Duration::from_secs(120),
            is_strict: false,
            epoch_over: None,
            connect_wait: Duration::from_secs(10),
            submit_wait: Duration::from_secs(2),
            ack_wait: Duration::from_secs(5),
            queue_events: 65_536,
            queue_bytes: 64 << 20,
        }
    }

    /// The name of the stream; `FANFARE` by default.
    #[must_use]
    pub fn stream(self, stream: impl Into<String>) -> NatsOptions {
        NatsOptions { stream: stream.into(), ..self }
    }

    /// What the subjects of the stream begin with; `fanfare` by default.
    #[must_use]
    pub fn prefix(self, prefix: impl Into<String>) -> NatsOptions {
        NatsOptions { prefix: prefix.into(), ..self }
    }

    /// The name of this node, which NATS shows among its connections and other nodes see in the list of
    /// nodes; `fanfare` by default.
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> NatsOptions {
        NatsOptions { name: name.into(), ..self }
    }

    /// A file with the credentials of a user, as `nsc` writes it.
    #[must_use]
    pub fn credentials_file(self, path: impl Into<PathBuf>) -> NatsOptions {
        NatsOptions { credentials_file: Some(path.into()), ..self }
    }

    /// A PEM file with the certificate authorities that the server's certificate is checked against. Without
    /// it these are the machine's own.
    #[must_use]
    pub fn ca_file(self, path: impl Into<PathBuf>) -> NatsOptions {
        NatsOptions { ca_file: Some(path.into()), ..self }
    }

    /// The PEM files with the certificate of this client and with its private key.
    #[must_use]
    pub fn client_certificate(self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> NatsOptions {
        NatsOptions { client_certificate: Some((certificate.into(), key.into())), ..self }
    }

    /// A user and a password, where the URLs have none.
    #[must_use]
    pub fn user(self, name: impl Into<String>, password: impl Into<String>) -> NatsOptions {
        NatsOptions { login: Some(Login::User(name.into(), password.into())), ..self }
    }

    /// A token, in place of a user.
    #[must_use]
    pub fn token(self, token: impl Into<String>) -> NatsOptions {
        NatsOptions { login: Some(Login::Token(token.into())), ..self }
    }

    /// How many servers of the cluster have a copy of a stream that this node creates; 1 by default.
    #[must_use]
    pub fn replicas(self, replicas: usize) -> NatsOptions {
        NatsOptions { replicas, ..self }
    }

    /// The age at which a stream that this node creates drops events; zero: never. One day by default.
    #[must_use]
    pub fn max_age(self, age: Duration) -> NatsOptions {
        NatsOptions { max_age: age, ..self }
    }

    /// The size in bytes at which a stream that this node creates drops its oldest events; zero: never. 1 GiB
    /// by default.
    #[must_use]
    pub fn max_bytes(self, bytes: u64) -> NatsOptions {
        NatsOptions { max_bytes: bytes, ..self }
    }

    /// For how long a stream that this node creates knows the ids of messages; two minutes by default, as
    /// NATS has it. An event that is published again within this time is not added again. Of a stream that is
    /// there it has to be at least twice [`NatsOptions::ack_wait`].
    #[must_use]
    pub fn duplicate_window(self, window: Duration) -> NatsOptions {
        NatsOptions { duplicate_window: window, ..self }
    }

    /// Refuses a stream that is there and has other replicas, another age, size or duplicate window than
    /// these options say. Without this option, [`crate::NatsBackplane::differences`] lists what is different.
    #[must_use]
    pub fn strict(self, is_strict: bool) -> NatsOptions {
        NatsOptions { is_strict, ..self }
    }

    /// This epoch is over: its numbers were given twice, or its stream is gone
    /// ([`fanfare::LogBreak::NewEpoch`]). Where the stream still has it, this node gives another one. A
    /// program that starts anew after a break says so: the engine before may not have been able to write it.
    #[must_use]
    pub fn epoch_is_over(self, epoch: Epoch) -> NatsOptions {
        NatsOptions { epoch_over: Some(epoch), ..self }
    }

    /// How long [`crate::NatsBackplane::connect`] tries; 10 s by default.
    #[must_use]
    pub fn connect_wait(self, wait: Duration) -> NatsOptions {
        NatsOptions { connect_wait: wait, ..self }
    }

    /// How long a publish waits for the stream while it cannot be reached; 2 s by default.
    #[must_use]
    pub fn submit_wait(self, wait: Duration) -> NatsOptions {
        NatsOptions { submit_wait: wait, ..self }
    }

    /// How long a publish that was sent waits for its acknowledgement. It is sent again in this time; 5 s by
    /// default.
    #[must_use]
    pub fn ack_wait(self, wait: Duration) -> NatsOptions {
        NatsOptions { ack_wait: wait, ..self }
    }

    /// How many events, and how many bytes of them, may wait for their acknowledgements; 65,536 and 64 MiB by
    /// default. A publish beyond is answered at once.
    #[must_use]
    pub fn queue(self, events: usize, bytes: usize) -> NatsOptions {
        NatsOptions { queue_events: events, queue_bytes: bytes, ..self }
    }

    /// Checks what can be checked without a server.
    pub(crate) fn check(&self) -> Result<(), ConnectError> {
        let wrong = |what: String| Err(ConnectError::new(ConnectErrorKind::Options, what));
        if self.servers.is_empty() {
            return wrong("no NATS server is named; name one, such as nats://127.0.0.1:4222".to_owned());
        }
        let is_name = |name: &str| {
            let is_named_by = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            !name.is_empty() && name.len() <= 64 && name.bytes().all(is_named_by)
        };
        let is_stream_named_by = |byte: u8| byte.is_ascii_graphic() && !b".*>/\\".contains(&byte);
        let length = self.stream.len();
        if !(1..=64).contains(&length) || !self.stream.bytes().all(is_stream_named_by) {
            return wrong(format!(
                "{:?} is no name of a stream; use up to 64 letters, digits and signs, without dots, slashes, '*' and '>'",
                self.stream
            ));
        }
        if !self.prefix.split('.').all(is_name) || self.prefix.starts_with('_') {
            return wrong(format!(
                "{:?} is no prefix of subjects; use letters, digits, '-' and '_', with dots between the parts, and another beginning than '_'",
                self.prefix
            ));
        }
        if !(1..=5).contains(&self.replicas) {
            return wrong("a stream has 1 to 5 replicas; set a number in this range".to_owned());
        }
        Ok(())
    }

    /// The duplicate window that a publish needs which is sent again.
    pub(crate) fn least_duplicate_window(&self) -> Duration {
        self.ack_wait * 2
    }
}

/// The URLs may contain passwords: they are left out.
impl std::fmt::Debug for NatsOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let servers: Vec<String> = self.servers.iter().map(|url| without_password(url)).collect();
        f.debug_struct("NatsOptions")
            .field("servers", &servers)
            .field("stream", &self.stream)
            .field("prefix", &self.prefix)
            .field("name", &self.name)
            .field("replicas", &self.replicas)
            .finish_non_exhaustive()
    }
}

/// The URL as it may be shown.
pub(crate) fn without_password(url: &str) -> String {
    match url.rsplit_once('@') {
        None => url.to_owned(),
        Some((before, host)) => match before.split_once("://") {
            Some((scheme, _)) => format!("{scheme}://***@{host}"),
            None => format!("***@{host}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(without_password("nats://me:p@ss@host:4222"), "nats://***@host:4222");
        assert_eq!(without_password("me:secret@host"), "***@host");
        assert_eq!(without_password("nats://host:4222"), "nats://host:4222");
        let shown = format!("{:?}", NatsOptions::new(["nats://me:secret@host"]));
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn options_that_name_no_stream_are_refused() {
        let options = || NatsOptions::new(["nats://127.0.0.1:4222"]);
        assert!(options().check().is_ok());
        assert!(options().prefix("a.b-c").check().is_ok());
        for (wrong, said) in [
            (NatsOptions::new([""; 0]), "name one"),
            (options().stream("a.b"), "name of a stream"),
            (options().stream(""), "name of a stream"),
            (options().prefix(""), "prefix"),
            (options().prefix("a..b"), "prefix"),
            (options().prefix("$JS"), "prefix"),
            (options().prefix("_INBOX"), "prefix"),
            (options().prefix("a.>"), "prefix"),
            (options().replicas(0), "1 to 5"),
            (options().replicas(6), "1 to 5"),
        ] {
            let error = wrong.check().unwrap_err();
            assert_eq!(error.kind(), ConnectErrorKind::Options);
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}
