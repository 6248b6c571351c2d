//! The module `nats` with real servers.
#![cfg(feature = "nats")]

use std::time::Duration;

use fanfare_testkit::nats::{
    Cut, Link, NatsClient, NatsCluster, NatsCredentials, NatsOptions, NatsServer, NatsTls,
};
use serde_json::json;

const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(30);

/// A stream over the subjects below `fanfare`.
fn configuration() -> serde_json::Value {
    json!({ "name": "FANFARE", "subjects": ["fanfare.>"] })
}

#[test]
fn messages_arrive_with_their_headers_and_streams_acknowledge_them_once() {
    let server = NatsServer::start(&NatsOptions::default()).unwrap();
    assert!(server.url().starts_with("nats://127."), "{}", server.url());
    let (mut publisher, mut reader) = (server.client().unwrap(), server.client().unwrap());
    assert_eq!(publisher.server_version(), server.version());
    let before = publisher.publish_acked("fanfare.news", &[], b"no stream").unwrap_err();
    assert!(before.contains("no program answers"), "{before}");

    publisher.create_stream(&configuration()).unwrap();
    let all = reader.subscribe("fanfare.>").unwrap();
    publisher.publish("fanfare.news", &[], b"plain").unwrap();
    let id = [("Nats-Msg-Id", "own"), ("Fanfare-Type", "x: y")];
    let first = publisher.publish_acked("fanfare.a.b", &id, b"\r\nwith headers\r\n").unwrap();
    assert_eq!((first.stream.as_str(), first.seq, first.duplicate), ("FANFARE", 2, false));
    let again = publisher.publish_acked("fanfare.a.b", &id, b"other").unwrap();
    assert_eq!((again.seq, again.duplicate), (2, true));

    let plain = reader.next(all, LONG).unwrap().unwrap();
    assert_eq!((plain.subject.as_str(), plain.payload.as_slice()), ("fanfare.news", &b"plain"[..]));
    assert_eq!((plain.headers.len(), plain.reply), (0, None));
    let headed = reader.next(all, LONG).unwrap().unwrap();
    assert_eq!(
        (headed.subject.as_str(), headed.payload.as_slice()),
        ("fanfare.a.b", &b"\r\nwith headers\r\n"[..])
    );
    let headers: Vec<(&str, &str)> =
        headed.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(headers, id);
    // A duplicate is published to plain subscribers too; only the stream keeps one.
    assert_eq!(reader.next(all, LONG).unwrap().unwrap().payload, b"other");
    assert_eq!(reader.next(all, SHORT).unwrap(), None);

    assert_eq!(publisher.stream_info("FANFARE").unwrap()["state"]["messages"], 2);
    assert_eq!(publisher.purge_stream("FANFARE", 1).unwrap(), 1);
    publisher.update_stream("FANFARE", &json!({ "max_msgs": 7 })).unwrap();
    assert_eq!(publisher.stream_info("FANFARE").unwrap()["config"]["max_msgs"], 7);
    publisher.delete_stream("FANFARE").unwrap();
    let missing = publisher.stream_info("FANFARE").unwrap_err();
    assert!(missing.contains("stream not found"), "{missing}");
}

#[test]
fn a_server_keeps_its_port_and_its_streams_over_every_kind_of_end() {
    let options = NatsOptions { sync_always: true, ..NatsOptions::default() };
    let mut server = NatsServer::start(&options).unwrap();
    let address = server.address();
    server.client().unwrap().create_stream(&configuration()).unwrap();
    server.client().unwrap().publish_acked("fanfare.t", &[], b"one").unwrap();
    server.kill();
    assert!(NatsClient::connect(address).is_err());
    assert_eq!(server.pid(), None);
    server.restart().unwrap();
    assert!(server.client().unwrap().stream_info("FANFARE").unwrap()["state"]["last_seq"] == 1);
    assert!(server.stop().unwrap().code().is_some());
    server.restart().unwrap();
    assert_eq!(server.address(), address);
    let mut client = server.client().unwrap();
    assert_eq!(client.publish_acked("fanfare.t", &[], b"two").unwrap().seq, 2);

    server.pause();
    let paused = client.request("$JS.API.INFO", b"", SHORT).unwrap_err();
    assert!(paused.contains("no reply"), "{paused}");
    server.resume();
    assert_eq!(client.publish_acked("fanfare.t", &[], b"three").unwrap().seq, 3);
    let directory = server.directory().to_owned();
    assert!(directory.exists());
    drop(server);
    assert!(!directory.exists());
}

#[test]
fn servers_refuse_what_their_options_say() {
    let user = NatsCredentials::User { name: "fanfare".to_owned(), password: "secret".to_owned() };
    for credentials in [user, NatsCredentials::Token("secret".to_owned())] {
        let options = NatsOptions { credentials: Some(credentials.clone()), ..NatsOptions::default() };
        let server = NatsServer::start(&options).unwrap();
        server.client().unwrap().create_stream(&configuration()).unwrap();
        let refused = NatsClient::connect(server.address()).unwrap_err();
        assert!(refused.contains("Authorization"), "{credentials:?}: {refused}");
    }
    let without = NatsServer::start(&NatsOptions { jetstream: false, ..NatsOptions::default() }).unwrap();
    let refused = without.client().unwrap().create_stream(&configuration()).unwrap_err();
    assert!(refused.contains("no program answers"), "{refused}");
    let small = NatsServer::start(&NatsOptions { max_file_store: Some(64 << 10), ..NatsOptions::default() });
    let mut client = small.as_ref().unwrap().client().unwrap();
    client.create_stream(&configuration()).unwrap();
    let full = (0..200).find_map(|_| client.publish_acked("fanfare.t", &[], &[b'x'; 1000]).err());
    assert!(full.is_some_and(|problem| problem.contains("resources")), "a full store refuses messages");
    let broken = NatsOptions { more: "no_such_setting: 1\n".to_owned(), ..NatsOptions::default() };
    let problem = NatsServer::start(&broken).unwrap_err();
    assert!(problem.contains("no_such_setting"), "{problem}");
}

#[test]
fn a_server_with_tls_asks_for_it() {
    let tls = NatsTls::generate().unwrap();
    assert!(tls.authority.contains("BEGIN CERTIFICATE") && tls.key.contains("PRIVATE KEY"));
    let server = NatsServer::start(&NatsOptions { tls: Some(tls), ..NatsOptions::default() }).unwrap();
    assert!(server.url().starts_with("tls://127."), "{}", server.url());
    assert!(NatsClient::connect(server.address()).is_err());
}

#[test]
fn a_client_behind_a_link_is_cut_off_and_comes_back() {
    let server = NatsServer::start(&NatsOptions::default()).unwrap();
    let link = Link::start(server.address()).unwrap();
    let mut client = NatsClient::connect(link.address()).unwrap();
    client.create_stream(&configuration()).unwrap();
    link.cut(Cut::ServerToClient);
    let unanswered = client.request("fanfare.t", b"taken", SHORT).unwrap_err();
    assert!(unanswered.contains("no reply"), "{unanswered}");
    // The stream has the message although its publisher does not know.
    let mut other = server.client().unwrap();
    let taken = (0..300).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        other.stream_info("FANFARE").unwrap()["state"]["messages"] == 1
    });
    assert!(taken);
    link.heal();
    assert_eq!(client.publish_acked("fanfare.t", &[], b"later").unwrap().seq, 2);
    link.cut(Cut::Reset);
    assert!(client.publish_acked("fanfare.t", &[], b"never").is_err());
    assert!(NatsClient::connect(link.address()).is_err());
    link.heal();
    assert!(NatsClient::connect(link.address()).is_ok());
}

#[test]
fn a_cluster_loses_its_leader_and_elects_another() {
    let mut cluster = NatsCluster::start(3, &NatsOptions::default()).unwrap();
    assert_eq!(cluster.urls().split(',').count(), 3);
    let created = cluster.create_stream(&configuration()).unwrap();
    assert_eq!(created["config"]["num_replicas"], 3);
    let leader = cluster.await_leader("FANFARE").unwrap();
    assert_eq!(cluster.leader_of("FANFARE"), Some(leader));
    cluster.client().unwrap().publish_acked("fanfare.t", &[], b"one").unwrap();
    // Clients learn no address of another server, which would lead them around a link.
    let info = cluster.servers()[leader].client().unwrap().info().clone();
    assert!(info["connect_urls"].as_array().is_none_or(Vec::is_empty), "{info}");

    cluster.server(leader).kill();
    let other = (0..600).find_map(|_| {
        std::thread::sleep(Duration::from_millis(50));
        cluster.leader_of("FANFARE").filter(|other| *other != leader)
    });
    assert!(other.is_some());
    assert_eq!(cluster.client().unwrap().publish_acked("fanfare.t", &[], b"two").unwrap().seq, 2);
    cluster.restart().unwrap();
    let leader = cluster.await_leader("FANFARE").unwrap();

    // A leader without routes leads no more, and its clients get no acknowledgement.
    let mut apart = cluster.servers()[leader].client().unwrap();
    cluster.cut_routes(leader, Cut::BlackHole);
    let unanswered = apart.request("fanfare.t", b"three?", SHORT).unwrap_err();
    assert!(unanswered.contains("no reply"), "{unanswered}");
    cluster.heal_routes(leader);
    cluster.await_ready().unwrap();
    cluster.await_leader("FANFARE").unwrap();
    assert!(cluster.client().unwrap().publish_acked("fanfare.t", &[], b"last").unwrap().seq >= 3);
}
