//! The connection to NATS, and requests over it.
//!
//! One subscription takes the answers to all requests. The library's own requests leave an entry behind for
//! each one that is not answered, and while the servers are away none is.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use async_nats::client::FlushErrorKind;
use async_nats::connection::State;
use async_nats::{
    Client, ConnectOptions, Event, HeaderMap, Message, ServerAddr, ServerError, StatusCode, Subscriber,
};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::options::{Login, NatsOptions, without_password};
use crate::sync::lock;
use crate::{ConnectError, ConnectErrorKind};

/// How often the server is asked for a sign of life where it sends nothing. After three without an answer the
/// connection is given up.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// How long one attempt to connect may take.
const ATTEMPT: Duration = Duration::from_secs(2);

/// The longest time between two attempts to connect.
const MOST_DELAY: Duration = Duration::from_millis(500);

/// A connection over which so much comes is slow, and not broken.
const BUSY_BYTES: u64 = 64 << 10;

/// Messages that one subscription holds. What the server sends before it waits for the flow control is 32
/// MiB.
const SUBSCRIPTION_CAPACITY: usize = 1 << 18;

/// Commands to the connection that wait to be written.
const COMMANDS: usize = 1 << 14;

/// How long answers that came before the end of a connection may take to whom they are for.
const DRAIN: Duration = Duration::from_millis(20);

/// Subjects that the server has refused, which are remembered.
const MOST_DENIED: usize = 1024;

/// How often it is checked whether the task of the client library is alive.
const CHECK: Duration = Duration::from_millis(250);

/// Between two attempts to make a new client.
const REST: Duration = Duration::from_millis(500);

/// The connection to NATS.
///
/// The client library connects again by itself. Its task panics over headers that it cannot represent, such
/// as a value with a carriage return, which any program may publish. Then there is a new client.
pub(crate) struct Link {
    options: NatsOptions,
    client: RwLock<Client>,
    /// Connections of the clients before this one.
    earlier_connects: AtomicU64,
    /// The task of the client has ended.
    is_dead: AtomicBool,
    events: Arc<Events>,
    /// What the subjects for answers begin with.
    inbox: String,
    waiting: Mutex<HashMap<u64, Waiting>>,
    next_request: AtomicU64,
}

/// The receiver that waits for the answers to a request.
enum Waiting {
    One(oneshot::Sender<Message>),
    /// There may be more answers. Their number is bounded by the request.
    Several(mpsc::UnboundedSender<Message>),
}

/// What the connection reports.
#[derive(Default)]
struct Events {
    /// The state of the connection may have changed.
    changed: Notify,
    denied: Mutex<HashSet<String>>,
    last_error: Mutex<Option<String>>,
}

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestError {
    /// The server has said that there is no receiver.
    NoResponders,
    /// No answer came in time, or the connection is lost.
    Unanswered,
    /// The server does not permit it.
    Denied,
    /// The server does not take messages of this size.
    TooLarge,
}

impl Link {
    /// Connects, once.
    pub(crate) async fn connect(options: &NatsOptions) -> Result<Link, ConnectError> {
        let events = Arc::new(Events::default());
        let connect = settings(options, &events).await?;
        let connected = connect.connect(options.servers.as_slice()).await;
        let client = match connected {
            Ok(client) => client,
            Err(error) => return Err(crate::probe::explain(options, &error).await),
        };
        let inbox = client.new_inbox();
        Ok(Link {
            options: options.clone(),
            client: RwLock::new(client),
            earlier_connects: AtomicU64::new(0),
            is_dead: AtomicBool::new(false),
            events,
            inbox,
            waiting: Mutex::default(),
            next_request: AtomicU64::new(0),
        })
    }

    /// The subscription to the answers of requests.
    pub(crate) async fn answers(&self) -> Result<Subscriber, async_nats::SubscribeError> {
        self.client().subscribe(format!("{}.*", self.inbox)).await
    }

    /// Makes a new client each time the task of the present one has ended. It runs until it is aborted.
    pub(crate) async fn keep_alive(self: Arc<Self>) {
        loop {
            tokio::time::sleep(CHECK).await;
            // Nothing is sent, and nothing waits where the connection is lost.
            let flushed = tokio::time::timeout(CHECK, self.client().flush()).await;
            let is_dead = matches!(&flushed, Ok(Err(error)) if error.kind() == FlushErrorKind::SendError);
            if !is_dead {
                continue;
            }
            self.is_dead.store(true, Ordering::Release);
            self.note_error("the client of NATS has failed over what it has received, and a new one is made");
            self.events.changed.notify_waiters();
            loop {
                let settings = settings(&self.options, &self.events).await;
                if let Ok(settings) = settings
                    && let Ok(client) = settings.connect(self.options.servers.as_slice()).await
                {
                    self.replace(client);
                    break;
                }
                tokio::time::sleep(REST).await;
            }
        }
    }

    fn replace(&self, client: Client) {
        let connects = self.client().statistics().connects.load(Ordering::Acquire);
        self.earlier_connects.fetch_add(connects, Ordering::AcqRel);
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
        self.is_dead.store(false, Ordering::Release);
        self.events.changed.notify_waiters();
    }

    /// Subscribes anew, where the client has failed with which the subscription was made.
    pub(crate) async fn subscribe_again(&self, subject: &str) -> Subscriber {
        loop {
            if !self.is_dead.load(Ordering::Acquire)
                && let Ok(subscription) = self.client().subscribe(subject.to_owned()).await
            {
                return subscription;
            }
            self.changed().await;
        }
    }

    /// Passes each answer on to the request that waits for it. It runs until it is aborted.
    pub(crate) async fn dispatch(self: Arc<Self>, mut answers: Subscriber) {
        loop {
            let Some(message) = answers.next().await else {
                answers = self.subscribe_again(&format!("{}.*", self.inbox)).await;
                continue;
            };
            let token = message.subject.rsplit('.').next().and_then(|token| token.parse().ok());
            let Some(token) = token else { continue };
            let mut all = lock(&self.waiting);
            // A receiver that has given up needs none.
            if let Some(Waiting::Several(waiting)) = all.get(&token) {
                let _ = waiting.send(message);
            } else if let Some(Waiting::One(waiting)) = all.remove(&token) {
                let _ = waiting.send(message);
            }
        }
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn request(
        &self,
        subject: &str,
        headers: Option<HeaderMap>,
        payload: Bytes,
        patience: Duration,
    ) -> Result<Message, RequestError> {
        if payload.len() > self.with_client(Client::max_payload) {
            return Err(RequestError::TooLarge);
        }
        let generation = self.generation();
        if generation.is_none() {
            return Err(RequestError::Unanswered);
        }
        let token = self.next_request.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        lock(&self.waiting).insert(token, Waiting::One(sender));
        let waits = Waits { link: self, token };
        let reply = format!("{}.{token}", self.inbox);
        let answer = async {
            let sent = match headers {
                Some(headers) => {
                    let subject = subject.to_owned();
                    self.client().publish_with_reply_and_headers(subject, reply, headers, payload).await
                }
                None => self.client().publish_with_reply(subject.to_owned(), reply, payload).await,
            };
            sent.ok()?;
            receiver.await.ok()
        };
        let refused = self.refused(subject, generation);
        let answered = tokio::time::timeout(patience, async {
            tokio::select! {
                biased;
                answer = answer => answer.ok_or(RequestError::Unanswered),
                refused = refused => Err(refused),
            }
        });
        let answer = answered.await.unwrap_or(Err(RequestError::Unanswered));
        drop(waits);
        match answer? {
            message if message.status == Some(StatusCode::NO_RESPONDERS) => Err(RequestError::NoResponders),
            message => Ok(message),
        }
    }

    /// Returns when the server has refused the subject of a request, or the connection is another one.
    async fn refused(&self, subject: &str, generation: Option<u64>) -> RequestError {
        loop {
            self.changed().await;
            if self.is_denied(subject) {
                return RequestError::Denied;
            }
            if self.generation() != generation {
                return RequestError::Unanswered;
            }
        }
    }

    /// Asks for what has several answers.
    pub(crate) async fn ask(&self, subject: String, payload: Bytes) -> Result<Answers<'_>, RequestError> {
        let generation = self.generation();
        if generation.is_none() {
            return Err(RequestError::Unanswered);
        }
        let token = self.next_request.fetch_add(1, Ordering::Relaxed);
        let (sender, received) = mpsc::unbounded_channel();
        lock(&self.waiting).insert(token, Waiting::Several(sender));
        let waits = Waits { link: self, token };
        let reply = format!("{}.{token}", self.inbox);
        let sent = self.client().publish_with_reply(subject.clone(), reply, payload).await;
        sent.map_err(|_| RequestError::Unanswered)?;
        Ok(Answers { waits, received, subject, generation })
    }

    /// The client of the moment.
    pub(crate) fn client(&self) -> Client {
        self.with_client(Client::clone)
    }

    /// Asks the client of the moment, without a copy of it: this is done for every event.
    fn with_client<T>(&self, ask: impl FnOnce(&Client) -> T) -> T {
        ask(&self.client.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The number of the connection, which rises with each new one. `None`: there is none at the moment.
    pub(crate) fn generation(&self) -> Option<u64> {
        let is_connected = !self.is_dead.load(Ordering::Acquire)
            && self.with_client(Client::connection_state) == State::Connected;
        is_connected.then(|| self.connects())
    }

    /// Bytes that have come from NATS so far.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.with_client(|client| client.statistics().in_bytes.load(Ordering::Relaxed))
    }

    /// Whether so much has come since there were so many bytes that an answer may be behind it. Signs of life
    /// are less.
    pub(crate) fn is_busy_since(&self, bytes: u64) -> bool {
        self.received_bytes().saturating_sub(bytes) >= BUSY_BYTES
    }

    /// Connections so far.
    pub(crate) fn connects(&self) -> u64 {
        let of_client = self.with_client(|client| client.statistics().connects.load(Ordering::Acquire));
        self.earlier_connects.load(Ordering::Acquire) + of_client
    }

    /// Returns when the state of the connection may have changed, and after a while in any case.
    pub(crate) async fn changed(&self) {
        let _ = tokio::time::timeout(Duration::from_millis(100), self.events.changed.notified()).await;
    }

    /// Whether the server has said of this connection that it may not publish this subject.
    pub(crate) fn is_denied(&self, subject: &str) -> bool {
        let denied = lock(&self.events.denied);
        !denied.is_empty() && denied.contains(subject)
    }

    pub(crate) fn last_error(&self) -> Option<String> {
        lock(&self.events.last_error).clone()
    }

    pub(crate) fn note_error(&self, error: impl Into<String>) {
        *lock(&self.events.last_error) = Some(error.into());
    }

    /// Gives the connection up and makes a new one.
    pub(crate) async fn reconnect(&self) {
        let _ = tokio::time::timeout(Duration::from_millis(500), self.client().force_reconnect()).await;
    }
}

/// The entry of a request, which goes when the request ends in whatever way.
struct Waits<'link> {
    link: &'link Link,
    token: u64,
}

/// The answers to a request that has several.
pub(crate) struct Answers<'link> {
    waits: Waits<'link>,
    received: mpsc::UnboundedReceiver<Message>,
    subject: String,
    generation: Option<u64>,
}

impl Answers<'_> {
    /// The next answer. [`RequestError::Unanswered`]: the connection is lost, and everything that came over
    /// it before was given.
    pub(crate) async fn next(&mut self) -> Result<Message, RequestError> {
        let link = self.waits.link;
        let error = tokio::select! {
            biased;
            message = self.received.recv() => return message.ok_or(RequestError::Unanswered),
            error = link.refused(&self.subject, self.generation) => error,
        };
        // What the connection has read last may still be on its way here.
        let rest = tokio::time::timeout(DRAIN, self.received.recv()).await;
        rest.ok().flatten().ok_or(error)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        lock(&self.link.waiting).remove(&self.token);
    }
}

impl Events {
    fn note(&self, event: &Event) {
        match event {
            Event::Connected => lock(&self.denied).clear(),
            Event::ServerError(error) => {
                *lock(&self.last_error) = Some(format!("the NATS server says: {error}"));
                if let ServerError::Other(text) = error
                    && let Some(subject) = denied_subject(text)
                {
                    let mut denied = lock(&self.denied);
                    if denied.len() < MOST_DENIED {
                        denied.insert(subject.to_owned());
                    }
                }
            }
            Event::ClientError(error) => {
                *lock(&self.last_error) = Some(format!("the connection to NATS has failed: {error}"));
            }
            _ => {}
        }
        self.changed.notify_waiters();
    }
}

/// The subject of `permissions violation for publish to "fanfare.a"`.
fn denied_subject(text: &str) -> Option<&str> {
    let (what, subject) = text.split_once('"')?;
    let is_publish = what.to_ascii_lowercase().contains("permissions violation for publish");
    is_publish.then(|| subject.split_once('"').map(|(subject, _)| subject)).flatten()
}

/// The user and the password in a URL, or a token. The library leaves them out.
fn login_in(url: &str) -> Option<Login> {
    let address: ServerAddr = url.parse().ok()?;
    let name = percent_decoded(address.username()?)?;
    Some(match address.password() {
        Some(password) => Login::User(name, percent_decoded(password)?),
        None => Login::Token(name),
    })
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

async fn settings(options: &NatsOptions, events: &Arc<Events>) -> Result<ConnectOptions, ConnectError> {
    let events = Arc::clone(events);
    let mut settings = ConnectOptions::new()
        .name(&options.name)
        .ping_interval(PING_INTERVAL)
        .connection_timeout(ATTEMPT)
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .client_capacity(COMMANDS)
        .request_timeout(Some(ATTEMPT))
        .reconnect_delay_callback(|attempts| {
            let most = MOST_DELAY.min(Duration::from_millis(50) * attempts.saturating_sub(1) as u32);
            most.mul_f64(0.5 + fastrand::f64() / 2.0)
        })
        .event_callback(move |event| {
            let events = Arc::clone(&events);
            async move { events.note(&event) }
        });
    let login = options.login.clone().or_else(|| options.servers.iter().find_map(|url| login_in(url)));
    match &login {
        Some(Login::User(name, password)) => {
            settings = settings.user_and_password(name.clone(), password.clone());
        }
        Some(Login::Token(token)) => settings = settings.token(token.clone()),
        None => {}
    }
    if let Some(path) = &options.credentials_file {
        let read = settings.credentials_file(path).await;
        settings = read.map_err(|error| {
            let what = format!(
                "the credentials file {} cannot be used: {error}; name a file that nsc has written",
                path.display()
            );
            ConnectError::new(ConnectErrorKind::Credentials, what)
        })?;
    }
    for path in
        options.ca_file.iter().chain(options.client_certificate.iter().flat_map(|(cert, key)| [cert, key]))
    {
        if let Err(error) = std::fs::File::open(path) {
            let what = format!("{} cannot be read: {error}; name a PEM file", path.display());
            return Err(ConnectError::new(ConnectErrorKind::Tls, what));
        }
    }
    if let Some(path) = &options.ca_file {
        settings = settings.add_root_certificates(path.clone()).require_tls(true);
    }
    if let Some((certificate, key)) = &options.client_certificate {
        settings = settings.add_client_certificate(certificate.clone(), key.clone()).require_tls(true);
    }
    for url in &options.servers {
        if let Err(error) = url.parse::<ServerAddr>() {
            let what = format!(
                "{:?} is no URL of a NATS server ({error}); use the form nats://host:port",
                without_password(url)
            );
            return Err(ConnectError::new(ConnectErrorKind::Options, what));
        }
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_login_is_read_from_the_url() {
        let user = |name: &str, password: &str| Some(Login::User(name.to_owned(), password.to_owned()));
        assert!(login_in("nats://me:secret@host") == user("me", "secret"));
        assert!(login_in("me:p%40ss%25@host:4222") == user("me", "p@ss%"));
        assert!(login_in("tls://token@host") == Some(Login::Token("token".to_owned())));
        assert!(login_in("nats://host").is_none());
    }

    #[test]
    fn the_subject_that_is_refused_is_read_from_the_error() {
        for text in [
            "Permissions Violation for Publish to \"fanfare.a\"",
            "permissions violation for publish to \"fanfare.a\" using queue \"x\"",
        ] {
            assert_eq!(denied_subject(text), Some("fanfare.a"));
        }
        assert_eq!(denied_subject("Permissions Violation for Subscription to \"fanfare.a\""), None);
        assert_eq!(denied_subject("Stale Connection"), None);
    }
}
