//! The request of a subscriber, and what a handler makes of it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, FromRequestParts};
use axum::response::{IntoResponse, Response};
use fanfare::{
    Checkpoint, ClientLimits, DecisionStart, EventType, HeadError, Hub, InvalidSubject, Member, ProblemKind,
    Request, RequestHead, Retry, Subscribe, SubscribeError, SubscribeQuery, Topic, Transport,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header};

use crate::body::{Progress, SubscriptionBody};
use crate::connection::{self, Connection};
use crate::problem;
use crate::takeover::{self, MARK, Promised};

/// A request whose connection can become a stream: the extractor of a handler that subscribes.
///
/// It takes a GET over HTTP/1.0 or 1.1 that came through a [`crate::Listener`], a [`crate::HandOverListener`]
/// or an [`crate::Io`], and refuses everything else with a reason. A handler that has it may still answer
/// something else.
///
/// ```
/// # use axum::extract::{Path, State};
/// # use fanfare::{Hub, Topic};
/// # use fanfare_axum::{Error, Subscriber, Subscription};
/// async fn events(
///     State(hub): State<Hub>,
///     Path(room): Path<String>,
///     sub: Subscriber,
/// ) -> Result<Subscription, Error> {
///     Ok(sub.to([Topic::new(format!("room/{room}"))?]).subscribe(&hub))
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Subscriber {
    connection: Connection,
    uri: Uri,
    last_event_id: Option<HeaderValue>,
    origin: Origin,
}

/// What a request tells of its client.
#[derive(Clone, Debug)]
struct Origin {
    peer: Option<SocketAddr>,
    /// Fields that proxies add. Most requests have none.
    fields: Vec<(HeaderName, HeaderValue)>,
}

/// A subscription that is being described. [`NewSubscription::subscribe`] ends that.
#[derive(Clone, Debug)]
#[must_use = "it does nothing before `subscribe`"]
pub struct NewSubscription {
    subscribe: Subscribe,
    /// Whether the client came with the id of an event.
    resumes: bool,
    origin: Origin,
}

/// The answer to a [`Subscriber`]: a stream that the engine writes.
///
/// Layers see its head as that of any other response, and what they add to it arrives. Its body has no bytes:
/// when the head is written, the engine takes the socket over and writes the events.
#[derive(Debug)]
#[must_use = "the handler has to return it"]
pub struct Subscription {
    hub: Hub,
    subscribe: Subscribe,
}

/// Why a request cannot become a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscriberRejection {
    /// The method is not GET: 405. The router of axum sends a HEAD to the handler of `get`, too.
    Method,
    /// The request came over HTTP/2 or later, where a connection has several streams: 505.
    Version,
    /// The request has a body: 400.
    Body,
    /// The request did not come over a connection that the engine can take over: 500, and an error in the
    /// log.
    Connection,
}

impl Subscriber {
    /// What the extractor does, for services without axum.
    ///
    /// It waits until earlier answers on the connection have been written.
    ///
    /// # Errors
    /// [`SubscriberRejection`], which is an answer.
    pub async fn from_parts(parts: &Parts) -> Result<Subscriber, SubscriberRejection> {
        if parts.method != Method::GET {
            return Err(SubscriberRejection::Method);
        }
        if parts.version != Version::HTTP_11 && parts.version != Version::HTTP_10 {
            return Err(SubscriberRejection::Version);
        }
        if has_body(&parts.headers) {
            return Err(SubscriberRejection::Body);
        }
        let extensions = &parts.extensions;
        let connection =
            extensions.get::<ConnectInfo<Connection>>().map(|ConnectInfo(connection)| connection);
        let connection = connection.or_else(|| extensions.get()).cloned();
        let Some(connection) = connection.or_else(connection::of_current_task) else {
            tracing::error!("a subscriber is refused: {}", SubscriberRejection::Connection);
            return Err(SubscriberRejection::Connection);
        };
        connection.wait_until_written().await;
        let last_event_id = parts.headers.get("last-event-id").cloned();
        let origin = Origin::of(connection.peer(), &parts.headers);
        Ok(Subscriber { connection, uri: parts.uri.clone(), last_event_id, origin })
    }

    /// A subscription to these topics, which goes on behind the last event that the client has: the header
    /// `Last-Event-ID`, or `last_event_id` and its variants in the query. A client without one gets what is
    /// published from now on.
    pub fn to(&self, topics: impl IntoIterator<Item = Topic>) -> NewSubscription {
        let header = self.last_event_id.as_ref().map(HeaderValue::as_bytes);
        let id = SubscribeQuery::resume_from(header, self.uri.query());
        let new = NewSubscription {
            subscribe: Subscribe::to(topics),
            resumes: id.is_some(),
            origin: self.origin.clone(),
        };
        match id {
            Some(id) => new.with_resume(id),
            None => new,
        }
    }

    /// A subscription to the topics that the query names, as on the server's own `GET
    /// /events?topic=a&topic=b`, at most `max_topics`, with the parameters `gap`, `checkpoint` and
    /// `heartbeat`. The handler decides what the client may read: look at [`Subscriber::topics`] first.
    ///
    /// # Errors
    /// No topic, an invalid one, or too many; a pattern; a parameter with a value that it does not have.
    pub fn to_requested(&self, max_topics: usize) -> Result<NewSubscription, SubscribeError> {
        let subscribe = self.with_head(|head| Subscribe::from_head(head, max_topics))??;
        Ok(NewSubscription { subscribe, ..self.to([]) })
    }

    /// The topics that the query names, at most `max_topics`: to check what the client may read.
    ///
    /// # Errors
    /// As [`Subscriber::to_requested`].
    pub fn topics(&self, max_topics: usize) -> Result<Vec<Topic>, SubscribeError> {
        self.with_head(|head| SubscribeQuery::without_patterns(head, max_topics))?.map(|query| query.topics)
    }

    /// The address of the client: see [`Connection::peer`].
    pub fn peer(&self) -> Option<SocketAddr> {
        self.connection.peer()
    }

    fn with_head<T>(&self, read: impl FnOnce(&RequestHead<'_>) -> T) -> Result<T, SubscribeError> {
        let target = self.uri.path_and_query().map_or("/", |target| target.as_str());
        let id = self.last_event_id.as_ref().map(|id| ("last-event-id", id.as_bytes()));
        // hyper takes targets that the engine's own parser refuses, such as those with a byte beyond ASCII.
        let head = RequestHead::from_parts("GET", target, 1, id);
        head.map(|head| read(&head)).map_err(|_: HeadError| SubscribeError::TopicNotUtf8)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Subscriber {
    type Rejection = SubscriberRejection;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Subscriber, SubscriberRejection> {
        Subscriber::from_parts(parts).await
    }
}

/// RFC 9112, section 6.3.
fn has_body(headers: &HeaderMap) -> bool {
    let is_empty = |length: &HeaderValue| length.as_bytes().trim_ascii() == b"0";
    headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get_all(header::CONTENT_LENGTH).iter().any(|length| !is_empty(length))
}

impl NewSubscription {
    /// Resumes behind this event instead of the client's last one: the text of a `Last-Event-ID`, or
    /// `earliest` for all that is retained.
    pub fn with_resume(self, id: impl Into<String>) -> NewSubscription {
        self.with(|subscribe| subscribe.with_resume(id))
    }

    /// A client that has no event yet begins with everything that is retained, instead of what is published
    /// from now on.
    pub fn from_earliest(self) -> NewSubscription {
        if self.resumes { self } else { self.with_resume("earliest") }
    }

    /// Whether the stream reports a gap by an event of the type `fanfare.gap`. By default it does: see
    /// [`Subscribe::with_gap_events`].
    pub fn with_gap_events(self, tell: bool) -> NewSubscription {
        self.with(|subscribe| subscribe.with_gap_events(tell))
    }

    /// How the client gets an id before its first event: see [`Subscribe::with_checkpoint`].
    pub fn with_checkpoint(self, form: Checkpoint) -> NewSubscription {
        self.with(|subscribe| subscribe.with_checkpoint(form))
    }

    /// The longest silence that the client bears; then it gets a comment. See [`Subscribe::with_heartbeat`].
    pub fn with_heartbeat(self, longest_silence: Duration) -> NewSubscription {
        self.with(|subscribe| subscribe.with_heartbeat(longest_silence))
    }

    /// Whether the client gets private events of its topics. The default is no: see
    /// [`Subscribe::with_private_events`].
    pub fn with_private_events(self, sees: bool) -> NewSubscription {
        self.with(|subscribe| subscribe.with_private_events(sees))
    }

    /// Private events of these topics, and only public ones of the others: see
    /// [`Subscribe::with_private_topics`].
    pub fn with_private_topics(self, topics: impl IntoIterator<Item = Topic>) -> NewSubscription {
        self.with(|subscribe| subscribe.with_private_topics(topics))
    }

    /// How long the client is to wait before it comes back: see [`Subscribe::with_retry`].
    pub fn with_retry(self, wait: impl Into<Retry>) -> NewSubscription {
        self.with(|subscribe| subscribe.with_retry(wait))
    }

    /// A first event for this client alone, without an id: see [`Subscribe::with_greeting`].
    pub fn with_greeting(self, kind: Option<&EventType>, data: &str) -> NewSubscription {
        self.with(|subscribe| subscribe.with_greeting(kind, data))
    }

    /// While the connection lives, it has a name among the members of a topic: see
    /// [`Subscribe::with_member`].
    pub fn with_member(self, member: Member) -> NewSubscription {
        self.with(|subscribe| subscribe.with_member(member))
    }

    /// The subject of the subscriber, for [`Hub::disconnect_subject`] and the life cycle: see
    /// [`Subscribe::with_subject`].
    ///
    /// # Errors
    /// [`InvalidSubject`]: the text is too long.
    pub fn with_subject(self, subject: impl Into<Arc<str>>) -> Result<NewSubscription, InvalidSubject> {
        self.try_with(|subscribe| subscribe.with_subject(subject))
    }

    /// The id of the token that lets the subscriber in, for [`Hub::disconnect_token`]: see
    /// [`Subscribe::with_token`].
    pub fn with_token(self, id: impl AsRef<str>) -> NewSubscription {
        self.with(|subscribe| subscribe.with_token(id))
    }

    /// When the decision about this subscription began: see [`Subscribe::with_decision_start`].
    pub fn with_decision_start(self, start: DecisionStart) -> NewSubscription {
        self.with(|subscribe| subscribe.with_decision_start(start))
    }

    /// A number of the embedder's that life-cycle events bear: see [`Subscribe::with_data`].
    pub fn with_data(self, data: u64) -> NewSubscription {
        self.with(|subscribe| subscribe.with_data(data))
    }

    /// The stream ends within this time: see [`Subscribe::with_lifetime`].
    pub fn with_lifetime(self, lifetime: Duration) -> NewSubscription {
        self.with(|subscribe| subscribe.with_lifetime(lifetime))
    }

    /// Changes the [`Subscribe`] that the engine is asked for. Fields of the response belong into the
    /// response: `([("x-name", "value")], subscription)`.
    pub fn with(self, change: impl FnOnce(Subscribe) -> Subscribe) -> NewSubscription {
        NewSubscription { subscribe: change(self.subscribe), ..self }
    }

    /// As [`NewSubscription::with`], for changes that may fail.
    ///
    /// # Errors
    /// What `change` says.
    pub fn try_with<E>(
        self,
        change: impl FnOnce(Subscribe) -> Result<Subscribe, E>,
    ) -> Result<NewSubscription, E> {
        Ok(NewSubscription { subscribe: change(self.subscribe)?, ..self })
    }

    /// The answer: a stream of this engine's.
    ///
    /// The engine counts it among the connections of its client, by the bounds that are in force now
    /// ([`ClientLimits::connections_per_address`]), and the operator's may use the reserve. The client is
    /// [`Subscriber::peer`], or behind proxies that the bounds name as trusted, the one in their fields. One
    /// that came by a Unix socket is not counted. Connections that do not become streams are not counted: see
    /// [`Hub::count_connection`].
    pub fn subscribe(self, hub: &Hub) -> Subscription {
        let subscribe = self.origin.note_in(self.subscribe, &hub.limits().clients);
        Subscription { hub: hub.clone(), subscribe }
    }
}

impl Origin {
    fn of(peer: Option<SocketAddr>, headers: &HeaderMap) -> Origin {
        let is_added = |name: &HeaderName| {
            name == header::FORWARDED
                || name == header::VIA
                || name == "x-real-ip"
                || name.as_str().starts_with("x-forwarded-")
        };
        let fields = headers.iter().filter(|(name, _)| is_added(name));
        Origin { peer, fields: fields.map(|(name, value)| (name.clone(), value.clone())).collect() }
    }

    /// The subscription of this client.
    fn note_in(&self, subscribe: Subscribe, limits: &ClientLimits) -> Subscribe {
        let fields = self.fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let head = RequestHead::from_parts("GET", "/", 1, fields);
        // A field that the engine's own parser refuses says nothing. But it is there, so the request is not
        // the operator's.
        let head = head.or_else(|_: HeadError| RequestHead::from_parts("GET", "/", 1, [("via", &b"?"[..])]));
        match head {
            Ok(head) => subscribe.with_client_of(&Request::new(&head, Transport::Http1, self.peer), limits),
            Err(_) => subscribe,
        }
    }
}

impl Subscription {
    /// What the engine will be asked for: for a test of a handler that does not need the stream.
    pub fn request(&self) -> &Subscribe {
        &self.subscribe
    }

    /// The answer for services without axum. hyper has to write it to the [`crate::Io`] of its request.
    pub fn into_http(self) -> http::Response<SubscriptionBody> {
        let progress = Arc::<Progress>::default();
        let promised = Promised { hub: self.hub, subscribe: self.subscribe, progress: Arc::clone(&progress) };
        let (key, mark) = takeover::promise(promised);
        let mut response = http::Response::new(SubscriptionBody::new(key, progress));
        let headers = response.headers_mut();
        for (name, value) in [
            // Some clients compare it for equality.
            (header::CONTENT_TYPE, "text/event-stream"),
            // Proxies must not hold events back.
            (header::CACHE_CONTROL, "no-store, no-cache, no-transform"),
            (HeaderName::from_static("x-accel-buffering"), "no"),
            // For hyper: it must not answer what it may have read behind this request.
            (header::CONNECTION, "close"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.insert(HeaderName::from_static(MARK), mark);
        response
    }
}

impl IntoResponse for Subscription {
    fn into_response(self) -> Response {
        self.into_http().map(Body::new)
    }
}

impl SubscriberRejection {
    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        problem::status(self.problem())
    }

    /// The kind of the answer.
    pub fn problem(&self) -> ProblemKind {
        match self {
            SubscriberRejection::Method => ProblemKind::MethodNotAllowed,
            SubscriberRejection::Version => ProblemKind::HttpVersionNotSupported,
            SubscriberRejection::Body => ProblemKind::MalformedRequest,
            SubscriberRejection::Connection => ProblemKind::InternalError,
        }
    }
}

impl IntoResponse for SubscriberRejection {
    fn into_response(self) -> Response {
        problem::response(self.problem(), &self.to_string())
    }
}

impl fmt::Display for SubscriberRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SubscriberRejection::Method => "subscribe with GET",
            SubscriberRejection::Version => "subscribe over HTTP/1.1",
            SubscriberRejection::Body => "a request that subscribes has no body",
            SubscriberRejection::Connection => {
                "the request did not come over a connection that the engine can take over; serve the \
                 application with fanfare_axum::Listener, and with the connect info fanfare_axum::Connection \
                 where a layer runs handlers in tasks of their own"
            }
        })
    }
}

impl std::error::Error for SubscriberRejection {}
