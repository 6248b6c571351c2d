//! The kinds of errors: each answer that is an error has one, and the server explains it.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use fanfare::ProblemKind;
use support::{Backend, Connection, Server, on_both_backends};

/// All Rust sources below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// A refusal that is made of a status alone has no kind: that is for embedders.
#[test]
fn no_source_makes_a_refusal_without_a_kind() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut seen = 0;
    for name in ["proto", "fanfare", "access", "axum", "server"] {
        for path in sources(&crates.join(name).join("src")) {
            let text = fs::read_to_string(&path).expect("a source");
            let program = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            for line in program.lines().filter(|line| !line.trim_start().starts_with("//")) {
                seen += usize::from(line.contains("Refusal::of("));
                // The function itself, and the one that adds the kind.
                let is_own = path.ends_with("admission/answer.rs") && line.contains("..Refusal::new(");
                assert!(is_own || !line.contains("Refusal::new("), "{}: {line}", path.display());
                let is_own = path.ends_with("response.rs") && line.contains("map_or((\"about:blank\"");
                assert!(is_own || !line.contains("about:blank"), "{}: {line}", path.display());
            }
        }
    }
    assert!(seen > 10, "the sources are elsewhere");
}

on_both_backends! {
    fn both_listeners_explain_every_kind(backend) {
        let own = ["--admin", "127.0.0.1:0", "--admin-host", "fanfare.test"];
        let mut server = Server::start_with(backend, &own);
        let admin = server.admin_address();
        for mut connection in [server.connect(), Connection::open(admin)] {
            let list = connection.request("GET", "/problems", &[]);
            assert_eq!(list.status, 200, "{}", list.head);
            assert_eq!(list.header("Content-Type"), Some("text/html; charset=utf-8"), "{}", list.head);
            let policy = list.header("Content-Security-Policy").expect("a policy");
            assert!(policy.contains("default-src 'none'") && !policy.contains("script"), "{policy}");
            for kind in ProblemKind::ALL {
                assert!(list.text().contains(&format!("href=\"{}\"", kind.reference())), "{kind}");
                let page = connection.request("GET", kind.reference(), &[]);
                assert_eq!(page.status, 200, "{}", page.head);
                assert!(page.text().contains(kind.title()), "{}", page.text());
            }
            for file in ["/problems/style.css", "/problems/problems.css"] {
                let style = connection.request("GET", file, &[]);
                assert_eq!((style.status, style.header("Content-Type")), (200, Some("text/css; charset=utf-8")));
                assert!(list.text().contains(&format!("href=\"{file}\"")), "{file}");
            }
            assert_eq!(connection.request("HEAD", "/problems/no-topic", &[]).status, 200);
            // What was asked for is not repeated.
            for unknown in ["/problems/nothing%3Cb%3E", "/problems/%ff", "/problems/No-Topic"] {
                let problem = connection.request("GET", unknown, &[]).problem(404);
                assert_eq!(problem["type"], "/problems/not-found");
                assert_eq!(problem["detail"], "there is no problem of this name; look at /problems");
            }
            assert_eq!(connection.request("POST", "/problems", &[]).problem(405)["type"], "/problems/method-not-allowed");
            let other = connection.request("GET", "/problems", &[("Host", "other.example")]);
            assert_eq!(other.problem(421)["type"], "/problems/unknown-host");
        }
    }

    /// A shard, the control plane and the parser of heads refuse with the same documents.
    fn a_refusal_says_its_kind_wherever_it_is_made(backend) {
        let server = Server::start(backend);
        let mut kept = server.connect();
        for (target, status, kind) in [
            ("/events", 400, ProblemKind::NoTopic),
            ("/events?topic=", 400, ProblemKind::InvalidTopic),
            ("/events?match=%7B", 400, ProblemKind::InvalidPattern),
            ("/events?topic=a&gap=maybe", 400, ProblemKind::InvalidParameter),
        ] {
            let first = server.get(target).problem(status);
            assert_eq!(kept.request("GET", support::CONTROL_PATH, &[]).status, 200);
            let second = kept.request("GET", target, &[]).problem(status);
            assert_eq!(first, second, "{target}");
            assert_eq!((first["type"].as_str(), first["title"].as_str()), (Some(kind.reference()), Some(kind.title())));
        }
        let mut long = server.connect();
        long.send(format!("GET /{} HTTP/1.1\r\n", "x".repeat(9000)));
        assert_eq!(long.read_response().problem(414)["type"], "/problems/uri-too-long");
        assert_eq!(server.get("/topics/none").problem(404)["type"], "/problems/unknown-topic");
        assert_eq!(server.get("/nothing").problem(404)["type"], "/problems/not-found");
    }
}
