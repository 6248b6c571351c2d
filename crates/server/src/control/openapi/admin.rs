//! What the admin listener serves.

use fanfare::ProblemKind;
use serde_json::{Value, json};

use super::super::profiles::{DEFAULT_S, MOST_S};
use super::{
    Operation, connections, document as whole, health_paths, problem_schema, rebalance, shared_paths,
};

const DESCRIPTION: &str = "The listener for operators. Besides the answers of an operation, every path answers a \
    method that it does not take with 405 (/problems/method-not-allowed), and every other path answers 404 \
    (/problems/not-found).";

const OF_HOSTS: [ProblemKind; 1] = [ProblemKind::UnknownHost];

pub(super) fn document() -> Value {
    let file =
        |id, summary, content_type| Operation::of_file(id, summary, content_type).problems(OF_HOSTS).path();
    let text = json!({ "type": "string" });
    let metrics = Operation::new("getMetrics", "Metrics for Prometheus")
        .with(
            200,
            json!({
                "description": "All metrics, in the format of Prometheus or in that of OpenMetrics",
                "content": {
                    "text/plain": { "schema": text },
                    "application/openmetrics-text": { "schema": text },
                },
            }),
        )
        .problems(OF_HOSTS);
    let figures = Operation::new("watchFigures", "The figures of the dashboard, once a second")
        .answers(200, "A stream of events whose data are figures in JSON", "text/event-stream", text)
        .problems(OF_HOSTS)
        .problems([ProblemKind::OriginNotAllowed, ProblemKind::DashboardsFull]);
    let bytes = json!({ "type": "string", "contentMediaType": "application/octet-stream" });
    let profile = |id, summary| {
        Operation::new(id, summary)
            .answers(200, "A profile in the format of pprof", "application/octet-stream", bytes.clone())
            .problems(OF_HOSTS)
            .problems([ProblemKind::OriginNotAllowed, ProblemKind::ProfilingOff])
    };
    let seconds = json!([{
        "name": "seconds",
        "in": "query",
        "description": "For how long samples are taken.",
        "schema": { "type": "integer", "minimum": 1, "maximum": MOST_S, "default": DEFAULT_S },
    }]);
    let processor = profile("profileProcessor", "Where threads spend processor time (with --profiling)")
        .parameters(seconds)
        .problems([ProblemKind::InvalidParameter, ProblemKind::ProfileInProgress]);
    let memory = profile("profileMemory", "What holds the memory (with --profiling)");
    let mut paths = vec![
        ("/debug/pprof/profile", json!({ "get": processor.describe(false) })),
        ("/debug/pprof/heap", json!({ "get": memory.describe(false) })),
        ("/", file("getIndex", "The paths of this listener", "text/plain")),
        ("/metrics", metrics.path()),
        ("/dashboard", file("getDashboard", "What the server does, for a browser", "text/html")),
        ("/dashboard/style.css", file("getDashboardStyle", "A style sheet", "text/css")),
        ("/dashboard/dashboard.css", file("getDashboardOwnStyle", "A style sheet", "text/css")),
        ("/dashboard/dashboard.js", file("getDashboardScript", "A script", "text/javascript")),
        ("/dashboard/uPlot.css", file("getChartStyle", "A style sheet", "text/css")),
        ("/dashboard/uPlot.js", file("getChartScript", "A script", "text/javascript")),
        ("/dashboard/events", figures.path()),
        ("/connections", connections::list().problems(OF_HOSTS).path()),
        (
            "/rebalance",
            rebalance::rebalance().problems(OF_HOSTS).problems([ProblemKind::OriginNotAllowed]).post(),
        ),
    ];
    paths.extend(health_paths(&[]));
    paths.extend(shared_paths(&OF_HOSTS));
    whole(
        "Fanfare's admin listener",
        DESCRIPTION,
        "The admin listener",
        paths,
        json!({ "Problem": problem_schema(), "ConnectionsPage": connections::page_schema(), "Rebalance": rebalance::schema() }),
    )
}
