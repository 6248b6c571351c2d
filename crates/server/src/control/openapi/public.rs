//! What the public listeners serve.

use fanfare::ProblemKind;
use fanfare_access::MAX_NAME_BYTES;
use serde_json::{Value, json};

use super::super::limits::{TOPICS_PER_PAGE, TOPICS_PER_PAGE_DEFAULT};
use super::{
    Operation, connections, document as whole, health_paths, problem_schema, query, rebalance, shared_paths,
};

const DESCRIPTION: &str = "Server-Sent Events: GET /events subscribes, and POST /events publishes. \
    Besides the answers of an operation, every path answers a method that it does not take with 405 (/problems/\
    method-not-allowed), and every other path answers 404 (/problems/not-found). Parameters of the query that an \
    operation does not know are ignored, except by /connections and /rebalance.";

/// What each request may be answered for the client that it comes from.
const OF_CLIENTS: [ProblemKind; 3] =
    [ProblemKind::TooManyConnections, ProblemKind::ConnectingTooOften, ProblemKind::ServerBusy];

/// What each request that is no health check may be answered.
const OF_HOSTS: [ProblemKind; 1] = [ProblemKind::UnknownHost];

/// What a request may be answered that needs a token where the server has keys.
const OF_TOKENS: [ProblemKind; 5] = [
    ProblemKind::TokenMissing,
    ProblemKind::TokenInvalid,
    ProblemKind::TokenConflict,
    ProblemKind::KeysUnavailable,
    ProblemKind::VerificationsBusy,
];

/// What a request of a browser may be answered that changes something.
const OF_ORIGINS: [ProblemKind; 2] = [ProblemKind::OriginNotAllowed, ProblemKind::CookieNeedsOrigin];

pub(super) fn document() -> Value {
    let of_all: Vec<ProblemKind> = OF_CLIENTS.into_iter().chain(OF_HOSTS).collect();
    let file = |id, summary, content_type| {
        Operation::of_file(id, summary, content_type).problems(of_all.iter().copied()).path()
    };
    let mut paths = vec![
        ("/events", events()),
        ("/topics", topics().path()),
        ("/topics/{topic}", topic().path()),
        ("/connections", connections()),
        ("/rebalance", rebalance()),
        ("/", file("getDemo", "The demo page", "text/html")),
        ("/style.css", file("getDemoStyle", "A style sheet", "text/css")),
        ("/access.js", file("getAccessScript", "A script", "text/javascript")),
        ("/demo.js", file("getDemoScript", "A script", "text/javascript")),
    ];
    paths.extend(health_paths(&OF_CLIENTS));
    paths.extend(shared_paths(&of_all));
    whole("Fanfare", DESCRIPTION, "This server", paths, schemas())
}

fn events() -> Value {
    let subscribe = subscribe();
    // The preflight of browsers. Nothing but the host can be wrong.
    let fields = json!({
        "description": "Methods and fields that pages of other origins may use",
        "headers": {
            "Allow": { "required": true, "schema": { "type": "string" } },
            "Access-Control-Allow-Methods": { "required": true, "schema": { "type": "string" } },
            "Access-Control-Allow-Headers": { "required": true, "schema": { "type": "string" } },
            "Access-Control-Max-Age": { "required": true, "schema": { "type": "string" } },
        },
    });
    let preflight = Operation::new("preflight", "Answers the preflight of a browser")
        .with(204, fields)
        .problems(OF_CLIENTS)
        .problems(OF_HOSTS);
    json!({
        "get": subscribe.describe(false),
        "head": subscribe.describe(true),
        "post": publish().describe(false),
        "options": preflight.describe(false),
    })
}

fn subscribe() -> Operation {
    let texts = |longest: usize| {
        json!({
            "type": "array",
            "items": { "type": "string", "minLength": 1, "maxLength": longest },
        })
    };
    let words =
        |words: &[&str], default: &str| json!({ "type": "string", "enum": words, "default": default });
    let parameters = json!([
        query("topic", "The exact name of a topic. At least one topic or match is needed.", texts(256)),
        query("match", "A pattern: orders/*, or /users/{id}.", texts(512)),
        query("last_event_id", "Resumes after this id, where the client cannot set the header. earliest: \
            everything that is retained.", json!({ "type": "string" })),
        query("gap", "Whether a gap is an event in the stream, or only a header.", words(&["on", "off"], "on")),
        query("checkpoint", "How the stream says its position before the first event.",
            words(&["on", "off", "event"], "on")),
        query("heartbeat", "The longest silence that the client allows, in seconds.",
            json!({ "type": "integer", "minimum": 1 })),
        {
            "name": "Last-Event-ID",
            "in": "header",
            "description": "The id of the last event that the client has.",
            "schema": { "type": "string" },
        },
    ]);
    let stream = json!({
        "description": "A stream of events that does not end by itself: UTF-8 text in the format of the HTML \
            standard. Its frames have the lines event, retry, data and id. Events of the types fanfare.gap and \
            fanfare.checkpoint are the server's own.",
        "headers": { "Fanfare-Gap": {
            "description": "Events after the given id may be missing.",
            "schema": { "type": "string", "enum": ["true"] },
        } },
        "content": { "text/event-stream": { "schema": { "type": "string" } } },
    });
    Operation::new("subscribe", "Subscribes to topics and patterns")
        .described("A signed URL (expires, subject, signature) may take the place of a token.")
        .parameters(parameters)
        .with(200, stream)
        .guarded()
        .problems(OF_CLIENTS)
        .problems(OF_HOSTS)
        .problems(OF_TOKENS)
        .problems([
            ProblemKind::TopicNotCovered,
            ProblemKind::AuthorizationRequired,
            ProblemKind::AuthorizationDenied,
            ProblemKind::AuthorizationUnavailable,
            ProblemKind::ConfigurationChanged,
            ProblemKind::SubscriptionEnded,
            ProblemKind::NoTopic,
            ProblemKind::InvalidTopic,
            ProblemKind::InvalidPattern,
            ProblemKind::InvalidParameter,
            ProblemKind::TooManyTopics,
            ProblemKind::ServerFull,
            ProblemKind::SubscriptionMemoryFull,
            ProblemKind::TooManyPatterns,
            ProblemKind::TooManyStreams,
            ProblemKind::DecisionLate,
            ProblemKind::TooManyUndecided,
            ProblemKind::DecisionFailed,
        ])
}

fn publish() -> Operation {
    let event = json!({ "$ref": "#/components/schemas/Event" });
    let lines = json!({
        "type": "string",
        "description": "One event in JSON on each line. Blank lines are ignored.",
        "examples": ["{\"topic\":\"news\",\"data\":\"one\"}\n{\"topic\":\"news\",\"data\":\"two\"}\n"],
    });
    let body = json!({
        "required": true,
        "content": {
            "application/json": { "schema": { "oneOf": [event, { "type": "array", "items": event }] } },
            "application/x-ndjson": { "schema": lines },
            "application/jsonl": { "schema": lines },
            "application/x-www-form-urlencoded": { "schema": { "$ref": "#/components/schemas/EventForm" } },
        },
    });
    let answer = json!({ "oneOf": [
        { "$ref": "#/components/schemas/PublishedOne" },
        { "$ref": "#/components/schemas/PublishedMany" },
    ] });
    Operation::new("publish", "Publishes one event or many")
        .described("An array is published whole or not at all. Lines are published while they come.")
        .body(body)
        .answers(200, "The events are visible", "application/json", answer)
        .guarded()
        .problems(OF_CLIENTS)
        .problems(OF_HOSTS)
        .problems(OF_TOKENS)
        .problems(OF_ORIGINS)
        .problems([
            ProblemKind::TopicNotCovered,
            ProblemKind::ReservedTopic,
            ProblemKind::UnsupportedMediaType,
            ProblemKind::UnsupportedContentEncoding,
            ProblemKind::InvalidEvent,
            ProblemKind::BodyIncomplete,
            ProblemKind::BodyTooSlow,
            ProblemKind::BodyTooLarge,
            ProblemKind::TooManyEvents,
            ProblemKind::LineTooLong,
            ProblemKind::EventTooLarge,
            ProblemKind::IdConflict,
            ProblemKind::PublishRateReached,
            ProblemKind::PublishesFull,
            ProblemKind::PublishBusy,
            ProblemKind::NotVisibleYet,
            ProblemKind::StoreUndecided,
            ProblemKind::LogUnreachable,
            ProblemKind::StoreFull,
            ProblemKind::StoreFailed,
            ProblemKind::ServerStopping,
        ])
}

/// What a question about topics may be answered.
fn asks(operation: Operation) -> Operation {
    operation
        .guarded()
        .problems(OF_CLIENTS)
        .problems(OF_HOSTS)
        .problems(OF_TOKENS)
        .problems([ProblemKind::QuestionsBusy])
}

fn topics() -> Operation {
    let number = json!({
        "type": "integer", "minimum": 1, "maximum": TOPICS_PER_PAGE, "default": TOPICS_PER_PAGE_DEFAULT,
    });
    let parameters = json!([
        query(
            "after",
            "Where the page begins; only what a page gave as its next.",
            json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX })
        ),
        query("limit", "The most topics of the page.", number),
    ]);
    let page = json!({ "$ref": "#/components/schemas/TopicsPage" });
    let operation = Operation::new("listTopics", "Counts of topics, in pages")
        .described("A page leaves out the topics that the token does not cover.")
        .parameters(parameters)
        .answers(200, "A page", "application/json", page);
    asks(operation).problems([ProblemKind::InvalidParameter])
}

fn topic() -> Operation {
    let parameters = json!([{
        "name": "topic",
        "in": "path",
        "required": true,
        "description": "The name, percent-encoded; slashes may stand as they are.",
        "schema": { "type": "string", "minLength": 1, "maxLength": 256 },
    }]);
    let counts = json!({ "$ref": "#/components/schemas/Topic" });
    let operation = Operation::new("getTopic", "Counts of one topic").parameters(parameters).answers(
        200,
        "The counts",
        "application/json",
        counts,
    );
    asks(operation).problems([
        ProblemKind::UnknownTopic,
        ProblemKind::NotFound,
        ProblemKind::InvalidTopic,
        ProblemKind::TopicNotCovered,
    ])
}

fn connections() -> Value {
    let list = connections::list()
        .guarded()
        .problems(OF_CLIENTS)
        .problems(OF_HOSTS)
        .problems(OF_TOKENS)
        .problems(OF_ORIGINS)
        .problems([ProblemKind::NeedsEveryTopic, ProblemKind::OnlyOnAdminListener]);
    json!({
        "get": list.describe(false),
        "head": list.describe(true),
        "delete": end_connections().describe(false),
    })
}

fn rebalance() -> Value {
    rebalance::rebalance()
        .guarded()
        .problems(OF_CLIENTS)
        .problems(OF_HOSTS)
        .problems(OF_TOKENS)
        .problems(OF_ORIGINS)
        .problems([ProblemKind::NeedsEveryTopic, ProblemKind::OnlyOnAdminListener])
        .post()
}

fn end_connections() -> Operation {
    let names = |longest: usize| {
        json!({
            "type": "array",
            "items": { "type": "string", "minLength": 1, "maxLength": longest },
        })
    };
    let parameters = json!([
        query(
            "subject",
            "Ends all streams of a subject, and bars its tokens that were issued until now.",
            names(MAX_NAME_BYTES)
        ),
        query("token", "Ends the streams of a token by its jti, and bars it.", names(MAX_NAME_BYTES)),
        query("topic", "Ends the streams that read a topic.", names(256)),
        query(
            "until",
            "How long the bars stay, in seconds since 1970; one year by default.",
            json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX })
        ),
    ]);
    Operation::new("endConnections", "Ends streams, and bars tokens")
        .described(
            "One subject, token or topic at least. What failed stands in the members not_barred, \
            not_written, not_shared and not_ended of the error. To send the request again does no harm.",
        )
        .parameters(parameters)
        .with(204, json!({ "description": "All of it is done" }))
        .guarded()
        .problems(OF_CLIENTS)
        .problems(OF_HOSTS)
        .problems(OF_TOKENS)
        .problems(OF_ORIGINS)
        .problems([
            ProblemKind::NeedsEveryTopic,
            ProblemKind::InvalidParameter,
            ProblemKind::RevocationsFull,
            ProblemKind::RevocationNotWritten,
            ProblemKind::OrderNotShared,
            ProblemKind::StreamsNotEnded,
        ])
}

fn schemas() -> Value {
    let text = |longest: usize| json!({ "type": ["string", "null"], "minLength": 1, "maxLength": longest });
    let topic = json!({ "type": "string", "minLength": 1, "maxLength": 256 });
    let count = json!({ "type": "integer", "minimum": 0 });
    let id = json!({ "type": ["string", "null"] });
    json!({
        "Problem": problem_schema(),
        "Event": {
            "type": "object",
            "required": ["topic"],
            "additionalProperties": false,
            "properties": {
                "topic": { "oneOf": [
                    topic,
                    { "type": "array", "items": topic, "minItems": 1, "maxItems": fanfare::MAX_TOPICS_PER_EVENT },
                ] },
                "data": { "description": "A string is sent as it is, and any other value as compact JSON." },
                "id": text(256),
                "type": text(128),
                "retry": { "oneOf": [
                    { "type": "integer", "minimum": 0 },
                    { "type": "string", "pattern": "^[0-9]+$" },
                    { "type": "null" },
                ] },
                "private": { "type": "boolean" },
            },
        },
        "EventForm": {
            "type": "object",
            "required": ["topic"],
            "additionalProperties": false,
            "properties": {
                "topic": { "oneOf": [
                    topic,
                    { "type": "array", "items": topic, "minItems": 1, "maxItems": fanfare::MAX_TOPICS_PER_EVENT },
                ] },
                "data": { "type": "string" },
                "id": { "type": "string", "maxLength": 256 },
                "type": { "type": "string", "maxLength": 128 },
                "retry": { "type": "string", "pattern": "^[0-9]*$" },
                "private": { "type": "string", "description": "Its presence counts." },
            },
        },
        "PublishedOne": {
            "type": "object",
            "required": ["id"],
            "additionalProperties": false,
            "properties": {
                "id": { "type": "string" },
                "duplicate": { "const": true, "description": "The event had been published before." },
                "position": { "type": "string", "description": "The cursor of the event that was published before." },
            },
        },
        "PublishedMany": {
            "type": "object",
            "required": ["published", "first", "last"],
            "additionalProperties": false,
            "properties": { "published": count, "duplicates": count, "first": id, "last": id },
        },
        "Topic": {
            "type": "object",
            "required": ["topic", "subscribers", "laggards", "retained", "oldest", "newest"],
            "properties": {
                "topic": topic,
                "subscribers": count,
                "laggards": count,
                "retained": count,
                "oldest": id,
                "newest": id,
                "history": { "$ref": "#/components/schemas/History" },
            },
        },
        "History": {
            "type": "object",
            "description": "Of a topic that is asked for alone, where --presence names it.",
            "required": ["bucket_s", "since", "buckets"],
            "properties": {
                "bucket_s": { "type": "integer", "minimum": 1, "description": "The length of a bucket in seconds." },
                "since": {
                    "type": "integer", "minimum": 0,
                    "description": "Seconds since 1970. Nothing is known of the time before.",
                },
                "buckets": { "type": "array", "items": {
                    "type": "object",
                    "required": ["at", "subscribers", "joined", "left"],
                    "properties": {
                        "at": { "type": "integer", "minimum": 0, "description": "When it began, since 1970." },
                        "subscribers": count,
                        "joined": count,
                        "left": count,
                    },
                } },
            },
        },
        "ConnectionsPage": connections::page_schema(),
        "Rebalance": rebalance::schema(),
        "TopicsPage": {
            "type": "object",
            "required": ["topics", "next"],
            "properties": {
                "topics": { "type": "array", "items": { "$ref": "#/components/schemas/Topic" } },
                "next": { "type": ["string", "null"], "description": "The path of the next page." },
            },
        },
    })
}
