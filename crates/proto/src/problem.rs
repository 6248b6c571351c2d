//! The kinds of problems that a refusal may have: one table of their names, statuses and explanations.
//!
//! A refusal is a document of [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457). Its `type` is
//! [`ProblemKind::reference`], and its `title` [`ProblemKind::title`]. Both are constant text. What is
//! special about one refusal stands in its `detail`.

use std::fmt;

/// What is known of a kind.
struct Definition {
    reference: &'static str,
    status: u16,
    title: &'static str,
    meaning: &'static str,
    action: &'static str,
    options: &'static [&'static str],
}

/// Where the explanations are: the path before each name.
const PLACE: &str = "/problems/";

/// Makes the kinds and their definitions. The comment on a kind is its meaning, which is served as text
/// without markup.
macro_rules! kinds {
    ($($(#[doc = $meaning:literal])+ $kind:ident($name:literal, $status:literal, $title:literal) {
        action: $action:literal,
        options: [$($option:literal),*],
    })+) => {
        /// What kind of problem a refusal has. Programs decide by it: a kind keeps its name and its status in
        /// later versions, and its texts may change.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ProblemKind {
            $($(#[doc = $meaning])+ $kind,)+
        }

        impl ProblemKind {
            /// All kinds, those of one subject together.
            pub const ALL: &[ProblemKind] = &[$(ProblemKind::$kind),+];

            const fn definition(self) -> &'static Definition {
                match self {
                    $(ProblemKind::$kind => &Definition {
                        reference: concat!("/problems/", $name),
                        status: $status,
                        title: $title,
                        meaning: concat!($($meaning),+),
                        action: $action,
                        options: &[$($option),*],
                    },)+
                }
            }
        }
    };
}

kinds! {
    /// The head of the request breaks a rule of HTTP, or two readers could understand it differently. The
    /// server repairs nothing, and closes the connection.
    MalformedRequest("malformed-request", 400, "Malformed request") {
        action: "Correct the request as the detail says. Where a proxy has sent it, look for what the proxy adds.",
        options: [],
    }
    /// The head of the request was not complete in time.
    HeadTimeout("head-timeout", 408, "The request head came too late") {
        action: "Send the whole head at once, and connect only when there is something to ask.",
        options: ["head-time"],
    }
    /// The first line of the request is longer than the server reads.
    UriTooLong("uri-too-long", 414, "The request line is too long") {
        action: "Name fewer topics in one subscription, or name a pattern.",
        options: [],
    }
    /// The head of the request is too long, or has too many fields.
    HeadTooLarge("head-too-large", 431, "The request head is too large") {
        action: "Send fewer or shorter fields. Often cookies of other applications of the same host are the reason.",
        options: [],
    }
    /// The method of the request is longer than every method that exists.
    MethodNotImplemented("method-not-implemented", 501, "Method not implemented") {
        action: "Use one of GET, HEAD, POST, DELETE and OPTIONS.",
        options: [],
    }
    /// The request is not one of HTTP/1.1 or HTTP/1.0.
    HttpVersionNotSupported("http-version-not-supported", 505, "HTTP version not supported") {
        action: "Speak HTTP/1.1. A proxy before the server may speak HTTP/2 to browsers.",
        options: [],
    }
    /// The server serves nothing at the path of the request.
    NotFound("not-found", 404, "Nothing is served at this path") {
        action: "Correct the path. /openapi.json describes all paths.",
        options: [],
    }
    /// The path exists, and it does not take the method of the request.
    MethodNotAllowed("method-not-allowed", 405, "Method not allowed") {
        action: "Use one of the methods that the field Allow of the answer names.",
        options: [],
    }
    /// The request names a host that is none of the server's names. The owner of a web page can let a name of
    /// his own lead to this server, so other names are refused.
    UnknownHost("unknown-host", 421, "The server has no such name") {
        action: "Use a name of the server. The operator can add a name by --host, and one of the admin listener \
            by --admin-host.",
        options: ["host", "admin-host"],
    }
    /// A parameter of the query has a value that it cannot have, or is unknown where only known ones are
    /// allowed.
    InvalidParameter("invalid-parameter", 400, "Invalid parameter") {
        action: "Correct the parameter that the detail names.",
        options: [],
    }
    /// The request comes from a web page of another origin, and the server does not let this origin do it.
    OriginNotAllowed("origin-not-allowed", 403, "Pages of this origin may not do this") {
        action: "Let the operator list the origin of the page by --cors-origin, or send the request from a server.",
        options: ["cors-origin"],
    }
    /// A cookie authorises the request, and no listed page has sent it. Any page can make a browser send a
    /// cookie, so that alone is not enough.
    CookieNeedsOrigin("cookie-needs-origin", 403, "A cookie needs a listed origin") {
        action: "Send the request from a page whose origin is listed, or send the token in the field Authorization.",
        options: ["cors-origin", "token-cookie"],
    }

    /// The request needs an access token, and has none.
    TokenMissing("token-missing", 401, "An access token is needed") {
        action: "Send an access token: in the field Authorization, as the cookie, or in the query, where the \
            operator allows that.",
        options: ["subscriber-keys", "publisher-keys", "anonymous-subscribe", "token-cookie", "token-in-query"],
    }
    /// The access token or the signed URL cannot be used. It may have expired or may be revoked, or it was
    /// signed with another key, for another audience, or with another algorithm. The server tells clients the
    /// reason only with --debug-auth; its log counts the reasons.
    TokenInvalid("token-invalid", 401, "The access token is not valid") {
        action: "Get a new access token, and try once more. Where that fails too, the operator looks into the log.",
        options: ["debug-auth", "issuer", "audience", "leeway", "subscriber-keys", "publisher-keys", "url-keys"],
    }
    /// The request has different access tokens in several places, or several in one place.
    TokenConflict("token-conflict", 400, "More than one access token") {
        action: "Send exactly one access token. An old cookie is often the second one.",
        options: ["token-cookie", "token-in-query"],
    }
    /// The access token is good, and its grants do not cover a topic or a pattern of the request.
    TopicNotCovered("topic-not-covered", 403, "The access token does not cover a topic") {
        action: "Ask for other topics, or get an access token whose grants cover them.",
        options: [],
    }
    /// Only an access token that may publish to every topic may list and end connections.
    NeedsEveryTopic("needs-every-topic", 403, "The access token does not cover every topic") {
        action: "Use an access token whose publish grant is \"*\".",
        options: ["publisher-keys"],
    }
    /// The answer has addresses of clients, and the server has no publisher keys, so that it cannot know who
    /// asks.
    OnlyOnAdminListener("only-on-admin-listener", 403, "Only the admin listener answers this") {
        action: "Ask the admin listener, or let the operator give publishers keys.",
        options: ["admin", "publisher-keys"],
    }
    /// The server itself publishes to topics with this prefix, so that subscribers can believe what they read
    /// there.
    ReservedTopic("reserved-topic", 403, "Only the server publishes to this topic") {
        action: "Publish to another topic.",
        options: ["presence"],
    }
    /// The server fetches its keys from a URL, and no fetch has succeeded yet. The access token may be good.
    KeysUnavailable("keys-unavailable", 503, "The server has no keys yet") {
        action: "Try again after the time that Retry-After says. The operator looks whether the URL of the keys \
            answers.",
        options: ["subscriber-jwks", "publisher-jwks", "jwks-refresh"],
    }
    /// More access tokens wait to be verified than the server has room for.
    VerificationsBusy("verifications-busy", 503, "Too many access tokens wait to be verified") {
        action: "Try again after the time that Retry-After says.",
        options: [],
    }
    /// The operator's authorization endpoint has answered that the client has to show who it is.
    AuthorizationRequired("authorization-required", 401, "The authorization endpoint asks for a sign-in") {
        action: "Sign in, and try again with the cookie or the token that the endpoint expects.",
        options: ["authorize-url", "authorize-headers"],
    }
    /// The operator's authorization endpoint has refused the subscription.
    AuthorizationDenied("authorization-denied", 403, "The authorization endpoint refuses this") {
        action: "Ask for other topics, or let the operator of the endpoint allow these.",
        options: ["authorize-url"],
    }
    /// The operator's authorization endpoint gives no usable answer, or too many questions wait for it.
    AuthorizationUnavailable("authorization-unavailable", 503, "The authorization endpoint does not answer") {
        action: "Try again after the time that Retry-After says. The operator looks whether the endpoint answers.",
        options: ["authorize-url", "authorize-timeout", "authorize-questions"],
    }
    /// The server has got another configuration while the request waited for the decision about it.
    ConfigurationChanged("configuration-changed", 503, "The configuration has changed meanwhile") {
        action: "Try again after the time that Retry-After says.",
        options: [],
    }
    /// The subscriber was barred while the authorization endpoint was asked about it.
    SubscriptionEnded("subscription-ended", 503, "The subscription was ended meanwhile") {
        action: "Try again after the time that Retry-After says: the endpoint is asked anew.",
        options: ["authorize-url"],
    }

    /// A subscription names at least one topic or pattern, and this one names none.
    NoTopic("no-topic", 400, "No topic is named") {
        action: "Name a topic in the query, as in /events?topic=news, or a pattern by match=.",
        options: [],
    }
    /// A topic cannot be used: it is empty, too long or not UTF-8, or it has a character that topics cannot
    /// have.
    InvalidTopic("invalid-topic", 400, "Invalid topic") {
        action: "Correct the topic as the detail says, and percent-encode it in the query.",
        options: [],
    }
    /// A pattern cannot be used, or the server takes no patterns.
    InvalidPattern("invalid-pattern", 400, "Invalid pattern") {
        action: "Use a prefix such as orders/*, or a template such as /users/{id}, and percent-encode it.",
        options: [],
    }
    /// A subscription names more topics and patterns than it may.
    TooManyTopics("too-many-topics", 400, "Too many topics in one subscription") {
        action: "Name fewer topics, name a pattern, or use several connections.",
        options: ["max-topics"],
    }
    /// The server holds as many subscribers as it may.
    ServerFull("server-full", 503, "The server is full") {
        action: "Try again after the time that Retry-After says, or connect to another server.",
        options: ["max-connections", "operators", "when-full"],
    }
    /// The memory that the server has for the topics and names of its subscribers is used up.
    SubscriptionMemoryFull("subscription-memory-full", 503, "The memory for subscriptions is used up") {
        action: "Name fewer topics, or try again after the time that Retry-After says.",
        options: ["subscription-bytes", "when-full"],
    }
    /// The server has as many different patterns as it can look up for each event.
    TooManyPatterns("too-many-patterns", 503, "The server has too many patterns") {
        action: "Name topics, or a pattern that other subscribers have too, or try again later.",
        options: ["max-patterns", "when-full"],
    }
    /// The address of the client has as many connections as it may have.
    TooManyConnections("too-many-connections", 429, "This address has too many connections") {
        action: "Close other connections, or share one between tabs. Behind a proxy, the operator lets the server \
            know the clients' addresses.",
        options: ["max-connections-per-address", "ipv6-prefix", "listen-proxy", "operators", "when-full"],
    }
    /// The address of the client opens connections faster than it may.
    ConnectingTooOften("connecting-too-often", 429, "This address connects too often") {
        action: "Wait for the time that Retry-After says, and reconnect with longer and longer pauses.",
        options: ["max-connect-rate", "connect-burst", "ipv6-prefix", "operators", "when-full"],
    }
    /// The subject of the access token has as many streams as it may have.
    TooManyStreams("too-many-streams", 429, "This subject has too many streams") {
        action: "Close other streams of the same user, or share one between tabs.",
        options: ["max-connections-per-subject", "when-full"],
    }
    /// The decision about the request did not come in time.
    DecisionLate("decision-late", 503, "The decision came too late") {
        action: "Try again after some seconds. The operator looks at what decides about requests.",
        options: ["authorize-url", "authorize-timeout"],
    }
    /// As many requests wait for the decision about them as may.
    TooManyUndecided("too-many-undecided", 503, "Too many requests wait for a decision") {
        action: "Try again after some seconds.",
        options: ["authorize-url", "authorize-questions"],
    }
    /// What decides about requests has failed. This is a mistake of the program.
    DecisionFailed("decision-failed", 500, "The decision has failed") {
        action: "Report it to the operator: the log or the standard error of the server says why.",
        options: [],
    }
    /// The server has too much to do to take the connection now.
    ServerBusy("server-busy", 503, "The server is busy") {
        action: "Try again in a moment.",
        options: [],
    }
    /// The server is shutting down.
    ServerStopping("server-stopping", 503, "The server is shutting down") {
        action: "Connect again: another server, or the next process, answers.",
        options: ["drain"],
    }

    /// The server cannot read a body of this media type.
    UnsupportedMediaType("unsupported-media-type", 415, "Unsupported media type") {
        action: "Publish with one of the content types that the field Accept-Post of the answer names.",
        options: [],
    }
    /// The body is compressed, or coded in another way.
    UnsupportedContentEncoding("unsupported-content-encoding", 415, "Unsupported content encoding") {
        action: "Send the body as it is, without the field Content-Encoding.",
        options: [],
    }
    /// An event cannot be published as it is: a field is missing, unknown or wrong, or the body is no JSON.
    /// The member field names the field, index or line the event.
    InvalidEvent("invalid-event", 400, "Invalid event") {
        action: "Correct the event that the detail describes. Where the member published is there, the events \
            before it stand.",
        options: [],
    }
    /// The body broke off before its end.
    BodyIncomplete("body-incomplete", 400, "The body is incomplete") {
        action: "Send the whole body. Of lines, the events that were complete are published, as the member \
            published says.",
        options: [],
    }
    /// The body was not complete in time, or came more slowly than it may.
    BodyTooSlow("body-too-slow", 408, "The body came too slowly") {
        action: "Send the body faster, or in smaller parts; lines may pause.",
        options: ["publish-rate"],
    }
    /// The body is longer than a JSON or form body may be.
    BodyTooLarge("body-too-large", 413, "The body is too large") {
        action: "Send smaller bodies, or lines (application/x-ndjson), whose length has no bound.",
        options: ["max-body"],
    }
    /// An array has more events than it may have.
    TooManyEvents("too-many-events", 413, "Too many events in one array") {
        action: "Send smaller arrays, or lines (application/x-ndjson), whose number has no bound.",
        options: ["max-array"],
    }
    /// One line of the body is longer than an event may be.
    LineTooLong("line-too-long", 413, "A line is too long") {
        action: "Send each event on a line of its own, and smaller events.",
        options: ["max-event"],
    }
    /// The data of one event are longer than they may be.
    EventTooLarge("event-too-large", 413, "An event is too large") {
        action: "Publish less data: a reference to them, for example.",
        options: ["max-event"],
    }
    /// The id of an event was given to another event of the same topics.
    IdConflict("id-conflict", 409, "The id belongs to another event") {
        action: "Give each event an id of its own. To publish the same event again is no conflict.",
        options: [],
    }
    /// The publisher has sent as many events or bytes as it may for now.
    PublishRateReached("publish-rate-reached", 429, "The publisher has reached its rate") {
        action: "Wait for the time that Retry-After says. Lines (application/x-ndjson) are slowed down instead.",
        options: ["max-publish-events", "max-publish-bytes", "publish-burst", "operators"],
    }
    /// Too many bodies are being received, or they take too much memory together, and this one had to give
    /// way.
    PublishesFull("publishes-full", 503, "Too many publishes are in progress") {
        action: "Try again after the time that Retry-After says, and send bodies fast or in smaller parts.",
        options: ["max-publishes", "publish-memory", "publish-rate", "operators"],
    }
    /// The subscribers of the event's topics take events more slowly than they are published, and there is no
    /// room for more.
    PublishBusy("publish-busy", 503, "There is no room for more events") {
        action: "Try again after the time that Retry-After says. The member published tells what stands.",
        options: [],
    }
    /// The events are accepted and have their places, and are not visible before older ones are.
    NotVisibleYet("not-visible-yet", 503, "The events are accepted and not visible yet") {
        action: "Do not send them again: a second try would publish events without an id twice.",
        options: [],
    }

    /// The durable log, or the log that servers share, has the events, and has not said in time whether it
    /// keeps them. They are delivered later, or not at all.
    StoreUndecided("store-undecided", 503, "The log has not answered in time") {
        action: "Send the events again only if each has an id of its own: then none is published twice. The \
                 member published tells what is certain.",
        options: ["data"],
    }
    /// The log that nodes share cannot be reached. Nothing was published. Subscribers stay, and get what is
    /// published when it can be reached again.
    LogUnreachable("log-unreachable", 503, "The shared log cannot be reached") {
        action: "Try again after the time that Retry-After says. Where it lasts, look at the servers of the \
                 shared log and at the network between.",
        options: ["nats"],
    }
    /// An order to end or bar connections holds on this server, and other servers of its cluster do not know
    /// of it.
    OrderNotShared("order-not-shared", 503, "The order does not hold on other servers") {
        action: "Send it again when the shared log can be reached: it does no harm to repeat it.",
        options: ["nats"],
    }
    /// The disk of the durable log is full, or NATS has no room for the stream. Subscribers are not
    /// concerned.
    StoreFull("store-full", 507, "The disk of the durable log is full") {
        action: "Try again after the time that Retry-After says, or free some space. The member published tells \
                 what stands.",
        options: ["data", "data-bytes"],
    }
    /// The durable log has failed, and takes no more events until the server is started again; or NATS
    /// refuses an event for a reason that the operator has to find, which the log of the server says.
    /// Subscribers are not concerned.
    StoreFailed("store-failed", 503, "The durable log has failed") {
        action: "Find the cause in the log of the server, mend it, and start the server again. The member \
                 published tells what stands.",
        options: ["data"],
    }

    /// The topic has neither subscribers nor retained events.
    UnknownTopic("unknown-topic", 404, "The topic is unknown") {
        action: "Publish or subscribe to it first: a topic exists from then on.",
        options: [],
    }
    /// Other questions about the state of the server are being answered, or a shard is too busy to answer.
    QuestionsBusy("questions-busy", 503, "Other questions are being answered") {
        action: "Try again after the time that Retry-After says.",
        options: [],
    }
    /// The list of barred subjects or access tokens is full, so that not every name was barred. The members
    /// not_barred and not_ended list what was not done.
    RevocationsFull("revocations-full", 507, "The list of revocations is full") {
        action: "Wait until older revocations are over, or change the key that signs the access tokens.",
        options: ["revocations-file"],
    }
    /// The names are barred, and a restart of the server will forget it, because the file could not be
    /// written.
    RevocationNotWritten("revocation-not-written", 500, "The revocation is not written") {
        action: "Let the operator make the file writable, and send the request again.",
        options: ["revocations-file"],
    }
    /// Not all streams could be ended, because the shards are too busy or the server stops. The member
    /// not_ended lists the names.
    StreamsNotEnded("streams-not-ended", 503, "Not all streams were ended") {
        action: "Send the same request again: twice does no harm.",
        options: [],
    }
    /// As many rebalances are under way as may be.
    RebalancesFull("rebalances-full", 503, "Too many rebalances are under way") {
        action: "Try again when one of them is over: its window says when.",
        options: [],
    }
    /// As many dashboards are open as may be.
    DashboardsFull("dashboards-full", 503, "Too many dashboards are open") {
        action: "Close a dashboard, or use the metrics.",
        options: ["admin"],
    }
    /// The server makes no profiles, because it was started without them, or the allocator of this program
    /// takes no samples.
    ProfilingOff("profiling-off", 404, "The server makes no profiles") {
        action: "Start the server with --profiling.",
        options: ["profiling"],
    }
    /// Another profile of the processor is being made.
    ProfileInProgress("profile-in-progress", 503, "Another profile is being made") {
        action: "Try again when it is done: a profile takes 60 seconds at most.",
        options: ["profiling"],
    }
    /// The server has failed at this request. This is a mistake of the program.
    InternalError("internal-error", 500, "The server has failed") {
        action: "Report it to the operator: the log of the server says more.",
        options: [],
    }
}

impl ProblemKind {
    /// The name, as it stands in the `type`: words in lower case with hyphens between them.
    pub const fn name(self) -> &'static str {
        self.reference().split_at(PLACE.len()).1
    }

    /// The kind that has this name.
    pub fn by_name(name: &str) -> Option<ProblemKind> {
        ProblemKind::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// The `type` of the document. It is a reference with a full path (RFC 9457, section 3.1.1): the server
    /// itself explains the kind at this path.
    pub const fn reference(self) -> &'static str {
        self.definition().reference
    }

    /// The status of the answer (RFC 9110, section 15).
    pub const fn status(self) -> u16 {
        self.definition().status
    }

    /// The `title` of the document.
    pub const fn title(self) -> &'static str {
        self.definition().title
    }

    /// What has happened, in sentences.
    pub fn meaning(self) -> &'static str {
        self.definition().meaning.trim_start()
    }

    /// What the client or the operator is to do, in sentences.
    pub const fn action(self) -> &'static str {
        self.definition().action
    }

    /// The options of the server that it depends on.
    pub const fn options(self) -> &'static [&'static str] {
        self.definition().options
    }
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own_that_fits_into_a_path() {
        let mut names = HashSet::new();
        for kind in ProblemKind::ALL {
            let name = kind.name();
            assert!(names.insert(name), "{name} is there twice");
            assert_eq!(kind.reference(), format!("/problems/{name}"));
            assert_eq!(ProblemKind::by_name(name), Some(*kind));
            assert!(
                name.split('-').all(|word| {
                    !word.is_empty()
                        && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
                }),
                "{name}"
            );
        }
        assert_eq!(ProblemKind::by_name("nothing"), None);
    }

    /// The title and the reference are written into documents as they are.
    #[test]
    fn every_kind_is_explained_in_plain_text() {
        for kind in ProblemKind::ALL {
            assert!((400..600).contains(&kind.status()), "{kind}");
            assert!(!kind.title().contains(['"', '\\']) && !kind.title().ends_with('.'), "{kind}");
            for text in [kind.title(), kind.meaning(), kind.action()] {
                assert!(text.starts_with(|first: char| first.is_ascii_uppercase()), "{kind}: {text}");
                assert!(
                    text.is_ascii() && !text.contains(['\n', '`']) && !text.contains("  "),
                    "{kind}: {text}"
                );
            }
            for sentences in [kind.meaning(), kind.action()] {
                assert!(sentences.ends_with('.'), "{kind}: {sentences}");
            }
        }
    }
}
