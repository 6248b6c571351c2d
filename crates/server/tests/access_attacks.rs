//! What attackers of the access to a running server have tried, each with what it gets now.

mod support;

use serde_json::{Value, json};
use support::file::ConfigFile;
use support::server::{arguments, fanfare, run};
use support::tokens::{Keys, SECRET, bearer, mint};
use support::{Backend, Response, Server, eventually, on_both_backends};

/// The name by which the tests call the server.
const HOSTS: &str = "[web]\nhost = ['fanfare.test']\n";

/// The file of a server with keys, and its keys.
struct Files {
    keys: Keys,
    configuration: ConfigFile,
}

impl Files {
    fn new() -> Files {
        let keys = Keys::new();
        let configuration = ConfigFile::new(&format!("{HOSTS}{}", keys.as_configuration()));
        Files { keys, configuration }
    }

    fn start(&self, backend: Backend) -> Server {
        Server::start_configured(backend, self.configuration.path(), &[])
    }

    /// The value of `Authorization` with a publisher's token of these grants.
    fn publisher(&self, grants: &Value) -> String {
        bearer(&mint(&self.keys.publishers.signer, json!({ "fanfare": grants })))
    }
}

fn get(server: &Server, path: &str, authorization: &str) -> Response {
    server.connect().request("GET", path, &[("Authorization", authorization)])
}

fn post(server: &Server, authorization: &str, event: &Value) -> u16 {
    let headers = [("Authorization", authorization)];
    server.connect().post_with("application/json", event.to_string(), &headers).status
}

on_both_backends! {
    /// A full disk, or an editor in the middle of its work, leaves a file without keys. It opened the server.
    fn a_file_that_was_cut_does_not_let_everyone_in(backend) {
        let files = Files::new();
        let server = files.start(backend);
        let refused = || assert_eq!(post(&server, "Bearer x", &json!({ "topic": "a", "data": "x" })), 401);
        refused();
        for cut in ["", "[access]\n", "[access]\nanonymous-subscribe = true\n"] {
            files.configuration.write(&format!("{HOSTS}{cut}"));
            let before = server.log().len();
            server.signal("HUP");
            eventually("the server says no", || {
                server.log()[before..].contains("the configuration stays as it was").then_some(())
            });
            let log = server.log();
            assert!(log[before..].contains("this server has keys"), "{}", &log[before..]);
            refused();
        }
        // Said plainly, it is taken.
        files.configuration.write(&format!("{HOSTS}[access]\nopen = true\n"));
        server.signal("HUP");
        server.expect_log("the configuration was read again");
        assert_eq!(post(&server, "Bearer x", &json!({ "topic": "a", "data": "x" })), 200);
    }

    /// Where subscribers and publishers have one identity provider, a subscriber's token is good at the
    /// control plane, too. It was shown the names and counts of all topics.
    fn a_token_learns_of_no_topic_that_it_does_not_cover(backend) {
        let files = Files::new();
        let server = files.start(backend);
        let all = files.publisher(&json!({ "publish": ["*"] }));
        for topic in ["public/a", "public/b", "user/ada/secret"] {
            assert_eq!(post(&server, &all, &json!({ "topic": topic, "data": "x" })), 200);
        }
        for (grants, seen) in [
            (json!({ "publish": ["*"] }), &["public/a", "public/b", "user/ada/secret"][..]),
            (json!({ "publish": ["public/b"] }), &["public/b"]),
            (json!({ "subscribe": ["public/*"] }), &["public/a", "public/b"]),
            (json!({}), &[]),
        ] {
            let token = files.publisher(&grants);
            let page = get(&server, "/topics", &token).json();
            let topics = page["topics"].as_array().into_iter().flatten();
            let names: Vec<&str> = topics.filter_map(|topic| topic["topic"].as_str()).collect();
            assert_eq!(names, seen, "{grants}");
            for topic in ["public/a", "public/b", "user/ada/secret", "unknown"] {
                let status = get(&server, &format!("/topics/{}", topic.replace('/', "%2F")), &token).status;
                let expected = match (seen.contains(&topic), seen.len()) {
                    (true, _) => 200,
                    (false, 3) => 404,
                    // The same for a topic that is there and for one that is not.
                    (false, _) => 403,
                };
                assert_eq!(status, expected, "{topic} with {grants}");
            }
        }
    }

    /// With a public key as a secret, everyone who has the public key could make tokens.
    fn a_public_key_is_no_secret(backend) {
        let pem = rcgen::KeyPair::generate().expect("a key").public_key_pem();
        let secret = ConfigFile::new(SECRET);
        let good = format!("hs256:{}", secret.name());
        for text in [&*pem, r#"{"kty":"oct","k":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}"#, r#"  {"keys":[]}      "#] {
            let file = ConfigFile::new(text);
            let wrong = format!("hs256:{}", file.name());
            for options in [
                ["--subscriber-keys", &wrong, "--publisher-keys", &good, "--url-keys", &secret.name()],
                ["--subscriber-keys", &good, "--publisher-keys", &wrong, "--url-keys", &secret.name()],
                ["--subscriber-keys", &good, "--publisher-keys", &good, "--url-keys", &file.name()],
            ] {
                let mut command = fanfare();
                command.args(arguments(backend, &options));
                let refused = run(command, "");
                assert_eq!(refused.code, Some(1), "{refused:?}");
                assert!(refused.stderr.contains("named as a shared secret"), "{refused:?}");
            }
        }
    }
}
