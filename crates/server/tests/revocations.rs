//! Revocations that last over a restart, hold at once, and end what is being decided.

mod support;

use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use support::endpoint::{Endpoint, Reply, json as answer_json};
use support::file::ConfigFile;
use support::server::{arguments, fanfare, run};
use support::tokens::{PublisherKey, bearer, mint};
use support::{Backend, Response, Server, eventually, http, on_both_backends};

fn start(backend: Backend, key: &PublisherKey, options: &[&str]) -> Server {
    let key = key.option();
    let all = ["--publisher-keys", key.as_str(), "--subscriber-keys", &key];
    Server::start_with(backend, &[&all, options].concat())
}

fn status(server: &Server, token: &str) -> u16 {
    let authorization = bearer(token);
    http::status_of(&server.ask_to_subscribe("topic=a", &[("Authorization", &authorization)]).read_head())
}

fn end(server: &Server, key: &PublisherKey, query: &str) -> Response {
    let authorization = key.authorization();
    let headers = [("Authorization", authorization.as_str())];
    server.connect().request("DELETE", &format!("/connections?{query}"), &headers)
}

on_both_backends! {
    fn a_file_keeps_revocations_over_a_restart(backend) {
        let (key, file) = (PublisherKey::new(), ConfigFile::new(""));
        file.remove();
        let path = file.name();
        let options = ["--revocations-file", path.as_str()];
        let token = |subject: &str, id: &str| {
            mint(&key.signer, json!({ "sub": subject, "jti": id, "fanfare": { "subscribe": ["a"] } }))
        };
        let (ada, bob, carol) = (token("ada", "a1"), token("bob", "b1"), token("carol", "c1"));
        let server = start(backend, &key, &options);
        assert_eq!(end(&server, &key, "subject=ada").status, 204);
        assert_eq!(end(&server, &key, "token=b1").status, 204);
        let mode = std::fs::metadata(file.path()).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // A server that is killed has written everything that it has answered.
        drop(server);
        let server = start(backend, &key, &options);
        assert_eq!([&ada, &bob, &carol].map(|token| status(&server, token)), [401, 401, 200]);
        // A file that cannot be written: the revocation holds, and the operator is told.
        std::fs::create_dir(format!("{path}.new")).expect("a folder in the way");
        let failed = end(&server, &key, "token=c1");
        std::fs::remove_dir(format!("{path}.new")).expect("it is there");
        let detail = failed.problem(500)["detail"].as_str().expect("text").to_owned();
        assert!(detail.contains("holds"), "{detail}");
        server.expect_log("a restart will forget it");
        assert_eq!(status(&server, &carol), 401);
        // The next one writes all of them.
        assert_eq!(end(&server, &key, "token=d1").status, 204);
        drop(server);
        let server = start(backend, &key, &options);
        assert_eq!(status(&server, &carol), 401);
        drop(server);

        file.write("{\"version\":1,\"revocations\":[{}]}");
        let mut command = fanfare();
        let option = key.option();
        let keys = ["--publisher-keys", option.as_str(), "--subscriber-keys", &option];
        command.args(arguments(backend, &[&keys[..], &options].concat()));
        let refused = run(command, "");
        let is_named = ["--revocations-file", "remove it"].iter().all(|part| refused.stderr.contains(part));
        assert!(refused.code == Some(1) && is_named, "{refused:?}");
        let mut command = fanfare();
        let config = ConfigFile::new(&format!("[access]\nrevocations-file = \"{path}\"\n"));
        command.args(["config", "check", &config.name()]);
        let checked = run(command, "");
        assert!(checked.code == Some(1) && checked.stderr.contains("remove it"), "{checked:?}");
    }

    /// Two servers with one file overwrote each other's revocations. A server that is killed gives the file
    /// back.
    fn a_second_server_with_the_same_file_does_not_start(backend) {
        let (key, file) = (PublisherKey::new(), ConfigFile::new(""));
        file.remove();
        let path = file.name();
        let options = ["--revocations-file", path.as_str()];
        let server = start(backend, &key, &options);
        let mut command = fanfare();
        let option = key.option();
        let keys = ["--publisher-keys", option.as_str(), "--subscriber-keys", &option];
        command.args(arguments(backend, &[&keys[..], &options].concat()));
        let refused = run(command, "");
        let parts = ["--revocations-file", "another server uses", &path];
        let is_named = parts.iter().all(|part| refused.stderr.contains(part));
        assert!(refused.code == Some(1) && is_named, "{refused:?}");
        assert_eq!(end(&server, &key, "subject=ada").status, 204);
        drop(server);
        drop(start(backend, &key, &options));
    }

    /// The endpoint was asked before the user was barred, and answers afterwards: the stream began in spite
    /// of the revocation, and nothing ended it.
    fn a_revocation_ends_what_is_being_decided(backend) {
        let key = PublisherKey::new();
        let endpoint = Endpoint::with(Reply::Hold);
        let url = endpoint.url();
        let server = start(backend, &key, &["--authorize-url", &url]);
        let mut waiting = server.ask_to_subscribe("topic=a", &[("Cookie", "ada")]);
        let mut kept = server.connect();
        assert_eq!(kept.request("GET", support::CONTROL_PATH, &[]).status, 200);
        kept.send(http::head("GET", "/events?topic=a", &[("Cookie", "ada, kept")]));
        eventually("both are asked", || (endpoint.busy() == 2).then_some(()));
        assert_eq!(end(&server, &key, "subject=ada").status, 204);
        // The answer comes in a later second than the revocation, so that only its question is older.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        endpoint.release(answer_json(&json!({ "subject": "ada" })));
        for connection in [&mut waiting, &mut kept] {
            assert_eq!(http::status_of(&connection.read_head()), 503);
        }
        endpoint.becomes(answer_json(&json!({ "subject": "ada" })));
        assert_eq!(http::status_of(&server.ask_to_subscribe("topic=a", &[("Cookie", "ada")]).read_head()), 200);
    }
}
