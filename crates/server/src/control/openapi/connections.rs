//! The list of connections, which both listeners serve.

use fanfare::{ConnectionState, ProblemKind};
use fanfare_access::MAX_NAME_BYTES;
use serde_json::{Value, json};

use super::super::limits::{CONNECTIONS_PER_PAGE, CONNECTIONS_PER_PAGE_DEFAULT};
use super::{Operation, query};

pub(super) fn list() -> Operation {
    let name = |longest: usize| json!({ "type": "string", "minLength": 1, "maxLength": longest });
    let parameters = json!([
        query("subject", "Only the connections of a subject.", name(MAX_NAME_BYTES)),
        query("token", "Only the connections of a token, by its jti.", name(MAX_NAME_BYTES)),
        query("topic", "Only the connections that read a topic, or a pattern with this text.", name(256)),
        query("address", "Only the connections of an address.", json!({ "type": "string", "maxLength": 45 })),
        query(
            "after",
            "Where the page begins; only what a page gave as its next.",
            json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX })
        ),
        query(
            "limit",
            "The most connections of the page.",
            json!({
                "type": "integer", "minimum": 1, "maximum": CONNECTIONS_PER_PAGE,
                "default": CONNECTIONS_PER_PAGE_DEFAULT,
            })
        ),
    ]);
    Operation::new("listConnections", "Connections of subscribers, in pages")
        .described(
            "One of subject, token, topic and address at most. A page may be empty although next is not null: the \
            answer comes in bounded time, and goes on there.",
        )
        .parameters(parameters)
        .answers(
            200,
            "A page of connections",
            "application/json",
            json!({ "$ref": "#/components/schemas/ConnectionsPage" }),
        )
        .problems([ProblemKind::InvalidParameter, ProblemKind::QuestionsBusy])
}

/// The schema of a page.
pub(super) fn page_schema() -> Value {
    let seconds = json!({ "type": "number", "minimum": 0 });
    let seconds_or_null = json!({ "type": ["number", "null"], "minimum": 0 });
    let count = json!({ "type": "integer", "minimum": 0 });
    let names = json!({ "type": "array", "items": { "type": "string" }, "maxItems": ConnectionState::TOLD });
    json!({
        "type": "object",
        "required": ["connections", "next"],
        "additionalProperties": false,
        "properties": {
            "next": { "type": ["string", "null"], "description": "The path of the next page." },
            "connections": { "type": "array", "maxItems": CONNECTIONS_PER_PAGE, "items": {
                "type": "object",
                "required": [
                    "connection", "shard", "address", "client", "topics", "patterns", "selectors", "transport",
                    "format", "position", "laggard", "silent_s", "ends_in_s",
                ],
                "additionalProperties": false,
                "properties": {
                    "connection": { "type": "string" },
                    "shard": count,
                    "address": { "type": ["string", "null"], "description": "Of the other end of the socket." },
                    "client": { "type": ["string", "null"], "description": "The address that it counts for." },
                    "topics": names,
                    "patterns": names,
                    "selectors": {
                        "type": "integer", "minimum": 1,
                        "description": "How many topics and patterns there are.",
                    },
                    "transport": { "type": "string" },
                    "format": { "type": "string" },
                    "position": { "type": "string", "description": "The id up to which everything was sent." },
                    "laggard": {
                        "description": "Null where it is not behind.",
                        "oneOf": [
                            { "type": "null" },
                            {
                                "type": "object",
                                "required": ["behind", "standing_s", "unsent_bytes"],
                                "additionalProperties": false,
                                "properties": {
                                    "behind": count, "standing_s": seconds, "unsent_bytes": count,
                                },
                            },
                        ],
                    },
                    "silent_s": seconds,
                    "ends_in_s": seconds_or_null,
                    "age_s": seconds,
                    "subject": { "type": "string" },
                },
            } },
        },
    })
}
