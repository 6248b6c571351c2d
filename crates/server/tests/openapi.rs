//! The OpenAPI documents are true: the server is driven by requests that schemathesis generates from them,
//! and every path takes exactly the methods that are described.
//!
//! `support` judges each refusal that any test of this package gets by the same documents.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use fanfare::ProblemKind;
use serde_json::Value;
use support::tokens::PublisherKey;
use support::{Backend, Connection, Server, on_both_backends};

const HINT: &str =
    "run: cargo xtask test (it installs schemathesis), or leave these tests out: --no-generated";

const ADMIN: [&str; 4] = ["--admin", "127.0.0.1:0", "--admin-host", "fanfare.test"];

/// Requests for each operation, beside those that cover the edges of each schema.
const REQUESTS: &str = "15";

/// Lets schemathesis ask a listener everything that its document describes, and much that it does not.
fn generate(name: &str, address: std::net::SocketAddr, arguments: &[&str]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openapi");
    let program = folder.join("venv/bin/schemathesis");
    assert!(program.exists(), "there is no schemathesis; {HINT}");
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,\
                  response_headers_conformance,response_schema_conformance,negative_data_rejection,\
                  unsupported_method,allow_header_conformance";
    // It remembers failures where it runs.
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("generated-requests-{name}"));
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(&place).expect("a folder");
    let run = Command::new(program)
        .arg("--config-file")
        .arg(folder.join("schemathesis.toml"))
        .args(["run", &format!("http://{address}/openapi.json")])
        .args(["--seed", "1", "--max-examples", REQUESTS, "--phases", "examples,coverage,fuzzing"])
        .args(["--checks", checks, "--continue-on-failure", "--request-timeout", "20", "--no-color"])
        .args(arguments)
        .env("PYTHONPATH", &folder)
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .current_dir(&place)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("schemathesis does not start: {error}; {HINT}"));
    let said = String::from_utf8_lossy(&run.stdout);
    // A request may have a target of many kilobytes.
    let said: String =
        said.lines().map(|line| line.chars().take(300).chain(['\n']).collect::<String>()).collect();
    assert!(run.status.success(), "{}\n{said}\n{}", run.status, String::from_utf8_lossy(&run.stderr));
    assert!(said.contains("Selected: "), "{said}");
}

/// A full server ends each subscription at once, so that no request waits for an end.
#[test]
fn generated_requests_get_what_the_public_document_says() {
    let server = Server::start_with(
        Backend::Epoll,
        &["--shards", "1", "--max-connections", "1", "--when-full", "end-stream"],
    );
    let mut held = server.subscribe("topic=held");
    generate("public", server.address, &[]);
    server.publish("held", "after");
    assert_eq!(held.event().data, "after");
}

/// All of them are refused, and none of them is let in by what it says.
#[test]
fn generated_requests_without_a_token_get_what_the_public_document_says() {
    let key = PublisherKey::new();
    let server =
        Server::start_with(Backend::Epoll, &["--publisher-keys", &key.option(), "--anonymous-subscribe"]);
    generate("no-token", server.address, &["--include-path-regex", "^/(topics|connections)"]);
}

/// A stream of figures does not end, so it is left out.
#[test]
fn generated_requests_get_what_the_admin_document_says() {
    let mut server = Server::start_with(Backend::Epoll, &ADMIN);
    let admin = server.admin_address();
    generate("admin", admin, &["--exclude-path", "/dashboard/events"]);
}

/// The methods of a path, as its `Allow` has them.
fn methods(path: &Value) -> Vec<String> {
    let mut methods: Vec<String> =
        path.as_object().expect("methods").keys().map(|method| method.to_uppercase()).collect();
    methods.sort_unstable();
    methods
}

on_both_backends! {
    fn every_path_takes_the_methods_that_are_described(backend) {
        let mut server = Server::start_with(backend, &ADMIN);
        let admin = server.admin_address();
        for mut connection in [server.connect(), Connection::open(admin)] {
            let response = connection.request("GET", "/openapi.json", &[]);
            assert_eq!((response.status, response.header("Content-Type")), (200, Some("application/json")));
            let document = response.json();
            assert_eq!(document["openapi"], "3.1.0");
            assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
            for (path, described) in document["paths"].as_object().expect("paths") {
                let target = path.replace("{topic}", "a").replace("{name}", "no-topic");
                let refused = connection.request("PATCH", &target, &[]);
                let problem = refused.problem(405);
                assert_eq!(problem["type"], ProblemKind::MethodNotAllowed.reference());
                let mut allowed: Vec<String> =
                    refused.header("Allow").expect("methods").split(", ").map(str::to_owned).collect();
                allowed.sort_unstable();
                assert_eq!(allowed, methods(described), "{path}");
            }
            // It is under the same rule as everything else.
            let other = connection.request("GET", "/openapi.json", &[("Host", "other.example")]);
            assert_eq!(other.problem(421)["type"], ProblemKind::UnknownHost.reference());
        }
    }
}
