//! Nodes on a cluster of three NATS servers, with three copies of the stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use fanfare_backplane::NatsOptions;
use fanfare_testkit::nats::{self, NatsCluster};

use crate::support::{Node, next, wait_for, with_id};

/// The leader of the stream is killed, and paused, and every server is restarted, while events are published.
/// None is lost, and none is there twice.
#[test]
fn the_leader_of_the_stream_is_lost_while_events_are_published() {
    let mut cluster =
        NatsCluster::start(3, &nats::NatsOptions::default()).unwrap_or_else(|error| panic!("{error}"));
    let urls: Vec<String> = cluster.urls().split(',').map(str::to_owned).collect();
    let options = || NatsOptions::new(urls.clone()).replicas(3);
    let nodes = [Node::with(options()), Node::with(options())].map(Arc::new);
    let mut clients = nodes.each_ref().map(|node| node.subscribe());
    let is_done = Arc::new(AtomicBool::new(false));
    let publishers: Vec<_> = nodes
        .iter()
        .enumerate()
        .map(|(index, node)| {
            let (node, is_done) = (Arc::clone(node), Arc::clone(&is_done));
            thread::spawn(move || {
                let mut count = 0;
                while !is_done.load(Ordering::Relaxed) {
                    node.publish_surely(&format!("{index}-{count}"), "x");
                    count += 1;
                }
                count
            })
        })
        .collect();
    let await_progress = || {
        let acknowledged = || nodes.each_ref().map(|node| node.backplane.status().acknowledged);
        let before = acknowledged();
        wait_for("progress", || {
            acknowledged().iter().zip(before).all(|(now, before)| *now > before + 20).then_some(())
        });
    };
    await_progress();
    let leader = cluster.await_leader("FANFARE").unwrap();
    cluster.server(leader).kill();
    await_progress();
    cluster.server(leader).restart().unwrap();
    cluster.await_ready().unwrap();
    let leader = cluster.await_leader("FANFARE").unwrap();
    cluster.server(leader).pause();
    await_progress();
    cluster.server(leader).resume();
    await_progress();
    for index in 0..3 {
        cluster.server(index).kill();
        await_progress();
        cluster.server(index).restart().unwrap();
        cluster.await_ready().unwrap();
    }
    is_done.store(true, Ordering::Relaxed);
    let counts: Vec<u64> = publishers.into_iter().map(|publisher| publisher.join().unwrap()).collect();
    nodes[0].publish(with_id("end", "end")).unwrap();
    let mut wanted: Vec<String> = (0..2_usize)
        .flat_map(|index| (0..counts[index]).map(move |count| format!("{index}-{count}")))
        .collect();
    wanted.sort_unstable();
    let mut orders = Vec::new();
    for client in &mut clients {
        let mut got = Vec::new();
        loop {
            let (data, id) = next(client);
            if data == "end" {
                break;
            }
            got.push(id);
        }
        orders.push(got.clone());
        got.sort_unstable();
        assert_eq!(got, wanted);
    }
    assert_eq!(orders[0], orders[1], "all nodes have one order");
    for node in &nodes {
        assert_eq!(node.hub().log_break(), None);
    }
}
