//! What happens to NATS while nodes run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::{Node, event, has_gap, next, next_data, options, server, wait_for, with_id};
use fanfare::{LogBreak, PublishError, StoreFailure};
use fanfare_backplane::NatsOptions;
use fanfare_testkit::nats::{Cut, Link};
use serde_json::json;

#[test]
fn nats_is_killed_and_comes_back() {
    let mut server = server();
    let nodes = [Node::start(&server), Node::start(&server)];
    let mut clients = nodes.each_ref().map(Node::subscribe);
    nodes[0].publish_surely("1", "one");
    for round in 0..3 {
        server.kill();
        let error = nodes[0].publish(event("lost")).unwrap_err();
        assert!(
            matches!(error, PublishError::NotStored(StoreFailure::Unreachable) | PublishError::Undecided),
            "{error:?}"
        );
        wait_for("a node that knows", || (!nodes[1].backplane.status().is_caught_up).then_some(()));
        server.restart().unwrap();
        nodes[1].publish_surely(&format!("round {round}"), "back");
        nodes.iter().for_each(Node::await_caught_up);
    }
    nodes[0].publish_surely("end", "end");
    for client in &mut clients {
        let mut got = Vec::new();
        while got.last().is_none_or(|(data, _)| data != "end") {
            got.push(next(client));
        }
        // A publish that was answered as undecided may be there.
        got.retain(|(data, _)| data != "lost");
        let ids: Vec<&str> = got.iter().map(|(_, id)| id.as_str()).collect();
        assert_eq!(ids, ["1", "round 0", "round 1", "round 2", "end"]);
    }
}

#[test]
fn a_publish_waits_for_nats_for_a_bounded_time() {
    let mut server = server();
    let node = Node::with(options(&server).submit_wait(Duration::from_millis(300)));
    node.await_caught_up();
    let mut client = node.subscribe();
    server.kill();
    wait_for("a node that knows", || (!node.backplane.status().is_connected).then_some(()));
    let error = node.publish(event("lost")).unwrap_err();
    assert_eq!(error, PublishError::NotStored(StoreFailure::Unreachable));
    assert_eq!(error.status(), 503);
    assert_eq!(node.backplane.status().unreachable, 1);
    server.restart().unwrap();
    node.publish_surely("1", "kept");
    assert_eq!(next_data(&mut client), "kept");
}

#[test]
fn nats_is_paused() {
    let server = server();
    let node = Node::start(&server);
    let mut client = node.subscribe();
    node.publish_surely("1", "one");
    server.pause();
    wait_for("a node that knows", || (!node.backplane.status().is_caught_up).then_some(()));
    let waits = thread::spawn({
        let hub = node.hub();
        move || hub.publish_wait(&mut vec![with_id("2", "two")], crate::support::PATIENCE)
    });
    thread::sleep(Duration::from_millis(200));
    server.resume();
    let _ = waits.join().unwrap();
    node.publish_surely("2", "two");
    node.publish_surely("3", "three");
    for data in ["one", "two", "three"] {
        assert_eq!(next_data(&mut client), data);
    }
}

#[test]
fn the_network_is_cut_in_all_ways() {
    let server = server();
    let link = Link::start(server.address()).unwrap();
    let node = Node::with(NatsOptions::new([format!("nats://{}", link.address())]));
    let other = Node::start(&server);
    let mut client = node.subscribe();
    node.publish_surely("first", "first");
    let mut wanted = vec!["first".to_owned()];
    for cut in [Cut::BlackHole, Cut::ClientToServer, Cut::ServerToClient, Cut::Reset, Cut::Forgotten] {
        link.cut(cut);
        wait_for("a node that knows", || (!node.backplane.status().is_caught_up).then_some(()));
        let id = format!("{cut:?}");
        other.publish_surely(&id, &id);
        wanted.push(id);
        link.heal();
        node.await_caught_up();
    }
    node.publish_surely("end", "end");
    wanted.push("end".to_owned());
    for data in wanted {
        assert_eq!(next_data(&mut client), data);
    }
}

#[test]
fn the_consumer_is_deleted() {
    let server = server();
    let node = Node::start(&server);
    node.await_caught_up();
    let mut client = node.subscribe();
    let mut other = server.client().unwrap();
    let names = other.jetstream("CONSUMER.NAMES.FANFARE", &json!({})).unwrap();
    for name in names["consumers"].as_array().unwrap() {
        other.jetstream(&format!("CONSUMER.DELETE.FANFARE.{}", name.as_str().unwrap()), &json!({})).unwrap();
    }
    other.publish_acked("fanfare.a", &[], b"behind").unwrap();
    assert_eq!(next_data(&mut client), "behind");
    assert!(node.backplane.status().consumers_recreated >= 1);
}

#[track_caller]
fn break_of(node: &Node) -> LogBreak {
    wait_for("the break of the log", || node.hub().log_break())
}

#[test]
fn the_stream_is_deleted_and_created_anew() {
    let server = server();
    let node = Node::start(&server);
    let old = node.publish(event("1")).unwrap();
    server.client().unwrap().delete_stream("FANFARE").unwrap();
    assert!(matches!(break_of(&node), LogBreak::NewEpoch(_)));
    assert!(!node.backplane.status().is_caught_up);
    drop(node);
    // The next engine of the process creates it.
    let node = Node::start(&server);
    let new = node.publish(event("1")).unwrap();
    assert_ne!(old, new);
    assert!(has_gap(&node.resume(&old)));

    // Another node creates it at once.
    let mut client = server.client().unwrap();
    let config = client.stream_info("FANFARE").unwrap()["config"].clone();
    client.delete_stream("FANFARE").unwrap();
    client.create_stream(&config).unwrap();
    assert!(matches!(break_of(&node), LogBreak::NewEpoch(_)));
}

/// A server that lost its disk, or a part of it: it gives numbers again that it has given.
#[test]
fn the_numbers_go_back() {
    let mut server = server();
    let nodes = [Node::start(&server), Node::start(&server)];
    let before = nodes[0].publish(event("kept")).unwrap();
    nodes[1].await_caught_up();
    server.stop().unwrap();
    let (stored, copy) = (server.directory().to_owned(), server.directory().with_extension("copy"));
    copy_directory(&stored, &copy);
    server.restart().unwrap();
    for number in 0..5 {
        nodes[0].publish_surely(&number.to_string(), "lost");
    }
    wait_for("the last event", || (nodes[1].hub().head().seq == 6).then_some(()));
    server.kill();
    std::fs::remove_dir_all(&stored).unwrap();
    std::fs::rename(&copy, &stored).unwrap();
    server.restart().unwrap();
    // Before the nodes are back, others publish more than was lost.
    let mut client = server.client().unwrap();
    for _ in 0..7 {
        client.publish_acked("fanfare.a", &[], b"anew").unwrap();
    }
    for node in &nodes {
        assert!(matches!(break_of(node), LogBreak::NewEpoch(_)));
    }
    drop(nodes);
    let node = Node::start(&server);
    node.await_caught_up();
    assert!(has_gap(&node.resume(&before)), "the epoch is another one");
    assert_eq!(node.hub().head().seq, 8);
}

/// The same, where the stream is shorter than what the nodes have had, and nothing is published.
#[test]
fn the_stream_is_shorter_than_before() {
    let mut server = server();
    let node = Node::start(&server);
    server.stop().unwrap();
    let (stored, copy) = (server.directory().to_owned(), server.directory().with_extension("copy"));
    copy_directory(&stored, &copy);
    server.restart().unwrap();
    node.publish_surely("1", "lost");
    server.kill();
    std::fs::remove_dir_all(&stored).unwrap();
    std::fs::rename(&copy, &stored).unwrap();
    server.restart().unwrap();
    assert!(matches!(break_of(&node), LogBreak::NewEpoch(_)));
}

/// The state of the bucket is older than what the nodes have had: its next changes have numbers that they
/// know.
#[test]
fn the_bucket_goes_back() {
    let mut server = server();
    let node = Node::start(&server);
    node.await_caught_up();
    let seen = Arc::new(Mutex::new(BTreeMap::new()));
    let watched = Arc::clone(&seen);
    node.backplane.watch(move |key, value| {
        watched.lock().unwrap().insert(key.to_owned(), value.map(<[u8]>::to_vec));
    });
    let await_value = |key: &str, value: &str| {
        wait_for("a value", || {
            (seen.lock().unwrap().get(key) == Some(&Some(value.as_bytes().to_vec()))).then_some(())
        });
    };
    let put = |key: &str, value: &str| {
        wait_for("a put", || node.backplane.put(key, value.as_bytes().to_vec(), None).ok());
    };
    put("colour", "red");
    await_value("colour", "red");
    server.stop().unwrap();
    let (stored, copy) = (server.directory().to_owned(), server.directory().with_extension("copy"));
    copy_directory(&stored, &copy);
    server.restart().unwrap();
    for number in 0..9 {
        put("lost", &number.to_string());
    }
    await_value("lost", "8");
    server.kill();
    std::fs::remove_dir_all(&stored).unwrap();
    std::fs::rename(&copy, &stored).unwrap();
    server.restart().unwrap();
    put("colour", "blue");
    await_value("colour", "blue");
    assert_eq!(node.hub().log_break(), None, "the stream has not gone back");
}

/// A node that could not write a new epoch says to the next start which one is over.
#[test]
fn an_epoch_that_is_over_is_renewed_once_by_the_next_start() {
    let server = server();
    let epoch_of = |options: NatsOptions| Node::with(options).hub().head().epoch;
    let old = epoch_of(options(&server));
    assert_eq!(epoch_of(options(&server)), old);
    let new = epoch_of(options(&server).epoch_is_over(old));
    assert_ne!(new, old);
    // Another node that says so, and one that says nothing.
    assert_eq!(epoch_of(options(&server).epoch_is_over(old)), new);
    assert_eq!(epoch_of(options(&server)), new);
}

fn copy_directory(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// What the stream drops before a node has read it is lost to this node, and its engine is told.
#[test]
fn the_stream_is_trimmed_under_a_node() {
    let server = server();
    let link = Link::start(server.address()).unwrap();
    let node = Node::with(NatsOptions::new([format!("nats://{}", link.address())]));
    node.await_caught_up();
    node.publish(event("1")).unwrap();
    link.cut(Cut::Reset);
    let mut client = server.client().unwrap();
    for _ in 0..5 {
        client.publish_acked("fanfare.a", &[], b"x").unwrap();
    }
    client.purge_stream("FANFARE", 2).unwrap();
    link.heal();
    assert_eq!(break_of(&node), LogBreak::Lost { up_to: 4 });
    drop(node);
    let node = Node::start(&server);
    assert!(has_gap(&node.resume(&format!("{}-1", node.hub().head().epoch))));
    assert!(!has_gap(&node.resume(&format!("{}-4", node.hub().head().epoch))));
}

/// A message that was deleted in the middle is a hole, and no gap.
#[test]
fn a_message_is_deleted() {
    let server = server();
    let link = Link::start(server.address()).unwrap();
    let node = Node::with(NatsOptions::new([format!("nats://{}", link.address())]));
    node.await_caught_up();
    let mut reads = node.subscribe();
    link.cut(Cut::Reset);
    let mut client = server.client().unwrap();
    for data in ["1", "2", "3"] {
        client.publish_acked("fanfare.a", &[], data.as_bytes()).unwrap();
    }
    client.jetstream("STREAM.MSG.DELETE.FANFARE", &json!({ "seq": 2 })).unwrap();
    link.heal();
    assert_eq!((next_data(&mut reads), next_data(&mut reads)), ("1".to_owned(), "3".to_owned()));
    assert_eq!(node.hub().log_break(), None);
}

/// Another node has given a new epoch.
#[test]
fn the_epoch_is_changed_by_another_node() {
    let server = server();
    let node = Node::start(&server);
    node.await_caught_up();
    let mut client = server.client().unwrap();
    let created = client.stream_info("FANFARE").unwrap()["created"].clone();
    let value = json!({ "created": created, "epoch": "00000000x" }).to_string();
    client.publish_acked("$KV.FANFARE_state.epoch", &[], value.as_bytes()).unwrap();
    assert!(matches!(break_of(&node), LogBreak::NewEpoch(_)));
    drop(node);
    assert_eq!(Node::start(&server).hub().head().epoch.to_string(), "00000000x");
}

/// The bucket with the epoch is deleted: the nodes keep the epoch, and write it again.
#[test]
fn the_epoch_is_deleted() {
    let server = server();
    let node = Node::start(&server);
    node.await_caught_up();
    let mut client = server.client().unwrap();
    client.delete_stream("KV_FANFARE_state").unwrap();
    wait_for("the epoch", || client.stream_info("KV_FANFARE_state").ok());
    wait_for("the epoch", || {
        let info = client.stream_info("KV_FANFARE_state").ok()?;
        (info["state"]["messages"] == 1).then_some(())
    });
    assert_eq!(Node::start(&server).hub().head().epoch, node.hub().head().epoch);
    assert_eq!(node.hub().log_break(), None);
}

#[test]
fn the_storage_is_full() {
    let server = server();
    let mut client = server.client().unwrap();
    let config = json!({
        "name": "FANFARE", "subjects": ["fanfare.>"], "storage": "file", "discard": "new", "max_bytes": 4096,
        "num_replicas": 1,
    });
    client.create_stream(&config).unwrap();
    let node = Node::start(&server);
    let data = "x".repeat(1000);
    let mut published = 0;
    let error = loop {
        match node.publish(event(&data)) {
            Ok(_) => published += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error, PublishError::NotStored(StoreFailure::Full));
    assert!((1..5).contains(&published), "{published}");
    client.purge_stream("FANFARE", 0).unwrap();
    node.publish(event("there is room")).unwrap();
}

/// A node that was away gets everything, at the speed at which its engine takes it: the flow control of NATS
/// is answered many times on the way.
#[test]
fn a_node_catches_up_with_many_events() {
    const EVENTS: u64 = 30_000;
    let server = server();
    let link = Link::start(server.address()).unwrap();
    let node = Node::with(NatsOptions::new([format!("nats://{}", link.address())]));
    node.await_caught_up();
    let mut reads = node.subscribe();
    link.cut(Cut::Reset);
    let mut client = server.client().unwrap();
    let data = "x".repeat(200);
    for number in 1..=EVENTS {
        // Those without an acknowledgement are left out where the server cannot follow.
        if number % 500 == 0 {
            client.publish_acked("fanfare.a", &[], number.to_string().as_bytes()).unwrap();
        } else {
            client.publish("fanfare.b", &[], data.as_bytes()).unwrap();
        }
    }
    link.heal();
    wait_for("all events", || (node.hub().head().seq == EVENTS).then_some(()));
    node.await_caught_up();
    for number in (500..=EVENTS).step_by(500) {
        assert_eq!(next_data(&mut reads), number.to_string());
    }
    let status = node.backplane.status();
    assert_eq!((status.received, status.behind, status.messages_without_event), (EVENTS, 0, 0));
    assert_eq!(node.hub().log_break(), None);
}
