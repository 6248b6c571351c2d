//! What can be wrong when a node starts.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use crate::support::{Node, options, server};
use fanfare_backplane::{ConnectError, ConnectErrorKind, NatsBackplane, NatsOptions};
use fanfare_testkit::nats::{self, NatsCredentials, NatsServer, NatsTls};
use serde_json::json;

/// The error, where there has to be one of this kind that says this.
#[track_caller]
fn refused(options: NatsOptions, kind: ConnectErrorKind, says: &[&str]) -> ConnectError {
    let options = options.connect_wait(Duration::from_secs(1));
    let error = NatsBackplane::connect(options).expect_err("it cannot start");
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    for part in says {
        assert!(text.contains(part), "{text}");
    }
    error
}

#[test]
fn a_server_that_is_not_there() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("nats://user:secret@{closed}");
    let error =
        refused(NatsOptions::new([url]), ConnectErrorKind::Unreachable, &[&closed.to_string(), "refused"]);
    assert!(!error.to_string().contains("secret"), "{error}");
    assert!(error.is_passing());
}

#[test]
fn a_url_that_answers_with_something_else() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                let _ = stream.read(&mut [0; 64]);
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            });
        }
    });
    let url = || NatsOptions::new([format!("nats://{address}")]);
    refused(url(), ConnectErrorKind::NotNats, &["is no NATS server", "HTTP/1.1 400 Bad Request", "4222"]);

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("nats://{}", silent.local_addr().unwrap());
    refused(NatsOptions::new([url]), ConnectErrorKind::Unreachable, &["says nothing", "another program"]);
    refused(NatsOptions::new(["http://127.0.0.1"]), ConnectErrorKind::Options, &["nats://host:port"]);
}

/// A node that started while NATS hung took it for another program, and gave up before its time.
#[test]
fn a_server_that_hangs_for_a_while() {
    let server = server();
    server.pause();
    let options = options(&server).connect_wait(Duration::from_secs(60));
    let starts = thread::spawn(move || NatsBackplane::connect(options).map(|_| ()));
    // Longer than it takes to look what is there.
    thread::sleep(Duration::from_secs(5));
    server.resume();
    starts.join().unwrap().unwrap();
}

#[test]
fn wrong_credentials() {
    let credentials = NatsCredentials::User { name: "node".to_owned(), password: "right".to_owned() };
    let nats = nats::NatsOptions { credentials: Some(credentials), ..nats::NatsOptions::default() };
    let server = NatsServer::start(&nats).unwrap();
    let url = |user: &str| NatsOptions::new([format!("nats://{user}{}", server.address())]);
    for user in ["", "node:wrong@", "other:right@"] {
        refused(url(user), ConnectErrorKind::Credentials, &["refuses these credentials"]);
    }
    let missing = url("").credentials_file("/nonexistent/node.creds");
    refused(missing, ConnectErrorKind::Credentials, &["/nonexistent/node.creds", "nsc"]);
    let node = Node::with(url("node:right@"));
    node.await_caught_up();
}

#[test]
fn a_server_without_jetstream() {
    let nats = nats::NatsOptions { jetstream: false, ..nats::NatsOptions::default() };
    let server = NatsServer::start(&nats).unwrap();
    refused(options(&server), ConnectErrorKind::NoJetStream, &["no JetStream", "-js"]);
}

#[test]
fn tls() {
    let tls = NatsTls::generate().unwrap();
    let directory = std::env::temp_dir().join(format!("fanfare-backplane-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let ca = directory.join("ca.pem");
    std::fs::write(&ca, &tls.authority).unwrap();
    let server =
        NatsServer::start(&nats::NatsOptions { tls: Some(tls), ..nats::NatsOptions::default() }).unwrap();
    let url = || NatsOptions::new([format!("tls://{}", server.address())]);
    refused(url(), ConnectErrorKind::Tls, &["certificate"]);
    refused(url().ca_file("/nonexistent/ca.pem"), ConnectErrorKind::Tls, &["/nonexistent/ca.pem"]);
    let node = Node::with(url().ca_file(&ca));
    node.await_caught_up();
    node.publish(crate::support::event("over TLS")).unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
}

/// The server asks clients for a certificate.
#[test]
fn tls_with_a_certificate_of_the_client() {
    let tls = NatsTls { asks_clients: true, ..NatsTls::generate().unwrap() };
    let nats = nats::NatsOptions { tls: Some(tls.clone()), ..nats::NatsOptions::default() };
    let server = NatsServer::start(&nats).unwrap();
    let write = |name: &str, text: &str| {
        let path = server.directory().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let ca = write("ca.pem", &tls.authority);
    let (certificate, key) =
        (write("client.pem", &tls.client_certificate), write("client.key", &tls.client_key));
    let url = || NatsOptions::new([format!("tls://{}", server.address())]).ca_file(&ca);
    refused(url(), ConnectErrorKind::Tls, &["certificate"]);
    let foreign = NatsTls::generate().unwrap();
    let (other, other_key) =
        (write("other.pem", &foreign.client_certificate), write("other.key", &foreign.client_key));
    // The server refuses it with an alert of TLS.
    refused(url().client_certificate(other, other_key), ConnectErrorKind::Tls, &["alert"]);
    let missing = url().client_certificate("/nonexistent/client.pem", &key);
    refused(missing, ConnectErrorKind::Tls, &["/nonexistent/client.pem"]);
    let node = Node::with(url().client_certificate(certificate, key));
    node.await_caught_up();
    node.publish(crate::support::event("over TLS")).unwrap();
}

#[test]
fn an_account_that_may_not_do_what_a_node_does() {
    let more = r#"
        authorization {
            users = [
                { user: none, password: x, permissions: { publish: ["fanfare.>"], subscribe: ["_INBOX.>"] } }
                { user: reader, password: x, permissions: { publish: ["$JS.API.>", "$KV.>", "$JS.FC.>"], subscribe: ["_INBOX.>"] } }
                { user: all, password: x }
            ]
        }
    "#;
    // The testkit waits for JetStream as a client without credentials, unless it has some.
    let credentials = NatsCredentials::User { name: "all".to_owned(), password: "x".to_owned() };
    let more = more.to_owned();
    let nats = nats::NatsOptions { more, credentials: Some(credentials), ..nats::NatsOptions::default() };
    let Ok(server) = NatsServer::start(&nats) else {
        // Credentials of the testkit are an `authorization` block of their own.
        return;
    };
    let url = |user: &str| NatsOptions::new([format!("nats://{user}:x@{}", server.address())]);
    refused(url("none"), ConnectErrorKind::Permission, &["$JS.API.>", "_INBOX.>"]);
    let node = Node::with(url("reader"));
    let error = node.publish(crate::support::event("x")).unwrap_err();
    assert_eq!(error, fanfare::PublishError::NotStored(fanfare::StoreFailure::Broken));
    let said = node.backplane.status().last_error.unwrap_or_default();
    assert!(said.to_lowercase().contains("permissions violation"), "{said}");
}

/// A bucket of somebody else lost the epoch and the revocations in silence.
#[test]
fn a_bucket_that_loses_values() {
    let server = server();
    let mut client = server.client().unwrap();
    let mut bucket = json!({
        "name": "KV_FANFARE_state", "subjects": ["$KV.FANFARE_state.>"], "max_age": 3_600_000_000_000_u64,
    });
    client.create_stream(&bucket).unwrap();
    let says = ["KV_FANFARE_state", "max_age = 3600000000000", "nats stream edit"];
    refused(options(&server), ConnectErrorKind::Mismatch, &says);
    client.update_stream("KV_FANFARE_state", &json!({ "max_age": 0, "max_msgs": 9 })).unwrap();
    refused(options(&server), ConnectErrorKind::Mismatch, &["max_msgs = 9"]);
    // What is full refuses a change, and says so.
    client.update_stream("KV_FANFARE_state", &json!({ "max_msgs": 9, "discard": "new" })).unwrap();
    drop(Node::start(&server));
    client.delete_stream("KV_FANFARE_state").unwrap();
    bucket["retention"] = json!("workqueue");
    bucket["max_age"] = json!(0);
    client.create_stream(&bucket).unwrap();
    refused(options(&server), ConnectErrorKind::Mismatch, &["retention = \"workqueue\""]);
}

#[test]
fn a_stream_with_other_settings() {
    let server = server();
    let mut client = server.client().unwrap();
    let mut config = json!({
        "name": "FANFARE", "subjects": ["fanfare.>"], "max_msgs_per_subject": 5, "storage": "file",
    });
    client.create_stream(&config).unwrap();
    let says = ["max_msgs_per_subject = 5", "has to be -1", "nats stream edit FANFARE"];
    refused(options(&server), ConnectErrorKind::Mismatch, &says);
    config["name"] = json!("OTHER");
    refused(options(&server).stream("OTHER"), ConnectErrorKind::Create, &["overlap"]);
    refused(options(&server).stream("THREE").prefix("x").replicas(3), ConnectErrorKind::Create, &["THREE"]);

    // What would be refused is not created.
    let short = options(&server).stream("SHORT").prefix("short").max_age(Duration::from_secs(5));
    refused(short, ConnectErrorKind::Options, &["SHORT is not created", "5s", "10s"]);
    assert!(client.stream_info("SHORT").is_err());

    let node = Node::with(options(&server).stream("GOOD").prefix("good").max_bytes(1 << 20));
    node.await_caught_up();
    let told = options(&server).stream("GOOD").prefix("good").max_bytes(1 << 21);
    let other = Node::with(told.clone());
    assert_eq!(
        other.backplane.differences(),
        ["max_bytes is 1048576 bytes, and the options say 2097152 bytes"]
    );
    refused(told.strict(true), ConnectErrorKind::Mismatch, &["max_bytes = 1048576", "2097152"]);
}
