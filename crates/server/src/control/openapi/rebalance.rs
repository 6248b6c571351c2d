//! The rebalance, which both listeners take.

use fanfare::ProblemKind;
use serde_json::{Value, json};

use super::{Operation, query};

pub(super) fn rebalance() -> Operation {
    let mut share = query(
        "share",
        "The share of the streams to end, in percent: more than 0% and at most 100%.",
        json!({ "type": "string", "pattern": "^(100|[1-9][0-9]?)%$" }),
    );
    share["required"] = true.into();
    let window = query(
        "window",
        "The time over which the ends are spread, at most one hour.",
        json!({ "type": "string", "pattern": "^([0-9]|[1-5][0-9])(s|m)$", "default": "30s" }),
    );
    Operation::new("rebalance", "Ends a share of the streams, evenly over a window")
        .described(
            "For a load balancer that is to spread subscribers anew, for instance after a rollout. The streams \
            are chosen at random from those that are there. Their clients reconnect and resume where they were.",
        )
        .parameters(json!([share, window]))
        .answers(
            202,
            "The streams end from now on",
            "application/json",
            json!({ "$ref": "#/components/schemas/Rebalance" }),
        )
        .problems([
            ProblemKind::InvalidParameter,
            ProblemKind::RebalancesFull,
            ProblemKind::ServerStopping,
        ])
}

/// The schema of the answer.
pub(super) fn schema() -> Value {
    json!({
        "type": "object",
        "required": ["streams"],
        "additionalProperties": false,
        "properties": {
            "streams": {
                "type": "integer", "minimum": 0,
                "description": "About how many streams end by it.",
            },
        },
    })
}
