//! What is read back from the stream, in each of the ways in which a server gives it.

use std::sync::Arc;
use std::time::Duration;

use fanfare::{Backplane, Retention, RetentionRule, Topic};
use fanfare_backplane::{NatsBackplane, NatsOptions};
use fanfare_store::{Bounds, Error, Gone, Query, Record, StoreReader, View};
use fanfare_testkit::nats::{self, Cut, NatsClient, NatsCluster, NatsServer};
use serde_json::{Value, json};

use crate::support::{Node, PATIENCE, options, server, topic, wait_for};

/// As the engine reads for subscribers.
const BOUNDS: Bounds = Bounds { records: 512, bytes: 60 << 10, steps: 1 << 14 };

/// All records of the query.
fn read(reader: &dyn StoreReader, query: Query<'_>, bounds: Bounds) -> Vec<Record> {
    try_read(reader, query, bounds).unwrap()
}

fn try_read(reader: &dyn StoreReader, query: Query<'_>, bounds: Bounds) -> Result<Vec<Record>, Error> {
    let (mut records, mut after) = (Vec::new(), 0);
    loop {
        let page = reader.read(query, after, bounds)?;
        assert!(page.records.iter().all(|record| (after + 1..=page.up_to).contains(&record.number)));
        records.extend(page.records);
        after = page.up_to;
        if page.is_end {
            assert!(after >= reader.state().newest);
            return Ok(records);
        }
    }
}

/// What clients have sent to the server so far.
fn messages_to(server: &NatsServer) -> u64 {
    let (_, page) = server.monitor("/varz").unwrap();
    serde_json::from_str::<Value>(&page).unwrap()["in_msgs"].as_u64().unwrap()
}

fn connect(server: &NatsServer) -> (Arc<NatsBackplane>, Arc<dyn StoreReader>) {
    let backplane = NatsBackplane::connect(options(server)).unwrap();
    let reader = backplane.reader();
    (backplane, reader)
}

fn gives_runs(server: &NatsServer) -> bool {
    let mut parts = server.version().split('.').map(|part| part.parse::<u32>().unwrap_or_default());
    (parts.next(), parts.next()) >= (Some(2), Some(11))
}

fn publish_many(other: &mut NatsClient) {
    for number in 0..1500 {
        let data = number.to_string();
        match number % 10 {
            0..=5 => other.publish("fanfare.a", &[], data.as_bytes()).unwrap(),
            6 | 7 => other.publish("fanfare.b", &[("Fanfare-Type", "paid")], data.as_bytes()).unwrap(),
            8 if number % 100 == 8 => other.publish("fanfare.c", &[], data.as_bytes()).unwrap(),
            8 => other.publish("fanfare.d", &[], &[b'x'; 3000]).unwrap(),
            _ => {
                let topics = if number % 20 == 9 { "[\"a\",\"b\"]" } else { "[\"d\",\"e\"]" };
                other.publish("fanfare.$multi", &[("Fanfare-Topics", topics)], data.as_bytes()).unwrap();
            }
        }
        if number % 100 == 0 {
            other.flush().unwrap();
        }
    }
    // Headers that look like those of the server, and headers that run into them.
    let spoof = [("Nats-Sequence", "3"), ("Nats-Last-Sequence", "9"), ("Nats-Subject", "fanfare.b")];
    other.publish_acked("fanfare.a", &spoof, b"spoof").unwrap();
    other.publish_raw("fanfare.a", b"NATS/1.0 204 EOB\r\nX: y\r\n\r\n", b"an end").unwrap();
    other.publish_raw("fanfare.a", b"NATS/1.0\r\nFanfare-Type: paid", b"no end").unwrap();
    other.flush().unwrap();
    other.publish_acked("fanfare.a", &[], b"last").unwrap();
}

/// All ways give the same events, and where the server gives several messages at once, it is asked seldom.
#[test]
fn topics_are_read_the_same_in_each_way() {
    let server = server();
    drop(connect(&server));
    let mut other = server.client().unwrap();
    publish_many(&mut other);
    let sets = [&["a"][..], &["b"], &["c"], &["d"], &["e"], &["f"], &["a", "b", "c", "d", "e"]];
    let sets = sets.map(|names| names.iter().map(|name| topic(name)).collect::<Vec<Topic>>());

    other.update_stream("FANFARE", &json!({ "allow_direct": false })).unwrap();
    let (slow, reader) = connect(&server);
    let all = read(&*reader, Query::All, BOUNDS);
    assert_eq!(all.len(), 1504);
    let wanted = sets.each_ref().map(|topics| {
        let has = |record: &&Record| record.event.topics().iter().any(|topic| topics.contains(topic));
        all.iter().filter(has).cloned().collect::<Vec<Record>>()
    });
    for (topics, wanted) in sets.iter().zip(&wanted) {
        assert_eq!(read(&*reader, Query::Topics(topics), BOUNDS), *wanted, "{topics:?}, one after the other");
    }
    drop((slow, reader));

    other.update_stream("FANFARE", &json!({ "allow_direct": true })).unwrap();
    let (_fast, reader) = connect(&server);
    for (topics, wanted) in sets.iter().zip(&wanted) {
        // A server that takes long is asked for one after the other, for a while.
        wait_for("a read in runs", || {
            let before = messages_to(&server);
            assert_eq!(read(&*reader, Query::Topics(topics), BOUNDS), *wanted, "{topics:?}, in runs");
            let asked = messages_to(&server) - before;
            (asked < 150 || !gives_runs(&server)).then_some(())
        });
        let small = Bounds { records: 7, ..BOUNDS };
        assert_eq!(read(&*reader, Query::Topics(topics), small), *wanted, "{topics:?}, in small pages");
    }
    // Where others use all consumers that stay, everything comes in runs, too.
    wait_for("a read of everything in runs", || {
        for after in [10, 20, 30] {
            reader.read(Query::All, after, Bounds { records: 7, ..BOUNDS }).unwrap();
        }
        let before = messages_to(&server);
        assert_eq!(read(&*reader, Query::All, BOUNDS), all, "in runs");
        let asked = messages_to(&server) - before;
        (asked < 150 || !gives_runs(&server)).then_some(())
    });
}

/// A server that is apart from the leader of the stream answers for what it has, and that is less. A node
/// that gets its answers leaves nothing out.
#[test]
fn a_copy_that_is_behind_leaves_nothing_out() {
    let was_read = (0..3).any(|_| reads_beside_a_copy_that_is_behind());
    assert!(was_read, "the copy that is behind noticed each time that it is apart, before all was read");
}

/// Whether all was read in time. Some ten seconds after its routes are cut, the copy that is behind knows
/// that it has no leader. From then on it answers that JetStream is not available, and reads fail.
fn reads_beside_a_copy_that_is_behind() -> bool {
    let mut cluster =
        NatsCluster::start(4, &nats::NatsOptions::default()).unwrap_or_else(|error| panic!("{error}"));
    let options = |server: &NatsServer| NatsOptions::new([server.url()]).replicas(3);
    let creator = NatsBackplane::connect(options(&cluster.servers()[0])).unwrap();
    cluster.await_leader("FANFARE").unwrap();
    let mut publisher = cluster.client().unwrap();
    publisher.publish_acked("fanfare.a", &[], b"first").unwrap();
    for number in 0..300 {
        publisher.publish_acked("fanfare.a", &[], number.to_string().as_bytes()).unwrap();
    }
    // The server without a copy is to lead the cluster: it keeps all its routes, so that no election disturbs
    // what follows, however long that takes.
    let without = wait_for("a leader of the cluster", || cluster.cluster_leader());
    let name = cluster.servers()[without].name();
    let info = wait_for("copies on the three others", || {
        cluster.await_leader("FANFARE").unwrap();
        let mut client = cluster.client().ok()?;
        let info = client.stream_info("FANFARE").ok()?;
        let replicas = info["cluster"]["replicas"].as_array()?;
        let copies = replicas.iter().map(|replica| &replica["name"]);
        if copies.chain([&info["cluster"]["leader"]]).any(|copy| *copy == name) {
            // It is refused while another move of the stream is under way.
            let _ = client.jetstream("STREAM.PEER.REMOVE.FANFARE", &json!({ "peer": name }));
            return None;
        }
        let are_current = replicas.len() == 2 && replicas.iter().all(|replica| replica["current"] == true);
        (info["cluster"]["leader"].is_string() && are_current).then_some(info)
    });
    let index = |name: &Value| cluster.servers().iter().position(|server| *name == server.name()).unwrap();
    let leader = index(&info["cluster"]["leader"]);
    let [behind, other] = [0, 1].map(|replica| index(&info["cluster"]["replicas"][replica]["name"]));
    assert_eq!(without + leader + behind + other, 6);
    let mut publisher = cluster.server(leader).client().unwrap();
    cluster.cut_routes_between(behind, leader, Cut::Reset);
    cluster.cut_routes_between(behind, other, Cut::Reset);
    for number in 0..600 {
        let name = if number % 3 == 0 { "fanfare.b" } else { "fanfare.a" };
        publisher.publish_acked(name, &[], number.to_string().as_bytes()).unwrap();
    }
    let mut client = cluster.server(without).client().unwrap();
    // A server before 2.11 gives one message for each request of this kind.
    let body = json!({ "last_by_subj": "fanfare.a" }).to_string();
    wait_for("an answer of the copy that is behind", || {
        let answer = client.request("$JS.API.DIRECT.GET.FANFARE", body.as_bytes(), PATIENCE).ok()?;
        (answer.payload == b"299").then_some(())
    });
    let Ok(backplane) = NatsBackplane::connect(options(&cluster.servers()[without])) else { return false };
    let reader = backplane.reader();
    let newest = reader.state().newest;
    if newest != 901 {
        assert_eq!(newest, 301, "what the copy has that is behind");
        return false;
    }
    let topics = [topic("a"), topic("b")];
    for _ in 0..10 {
        let Ok(records) = try_read(&*reader, Query::Topics(&topics), BOUNDS) else { return false };
        let numbers: Vec<u64> = records.iter().map(|record| record.number).collect();
        assert_eq!(numbers, (1..=newest).collect::<Vec<_>>());
    }
    drop(creator);
    true
}

/// Messages that were deleted one by one are no gap: the stream still begins before them.
#[test]
fn deleted_messages_are_no_gap() {
    let server = server();
    let (_backplane, _) = connect(&server);
    let mut other = server.client().unwrap();
    for number in 0..100 {
        other.publish_acked("fanfare.a", &[], number.to_string().as_bytes()).unwrap();
    }
    for number in [1, 2, 10, 11, 50, 99] {
        other.jetstream("STREAM.MSG.DELETE.FANFARE", &json!({ "seq": number })).unwrap();
    }
    let (_backplane, reader) = connect(&server);
    let small = Bounds { records: 7, ..BOUNDS };
    for _ in 0..2 {
        let mut after = 2;
        while after < 100 {
            let page = reader.read(Query::All, after, small).unwrap();
            assert!(page.gone.newest <= after, "{after}: {:?}", page.gone);
            after = page.up_to;
        }
        // The first ones cannot be told from what the stream has dropped.
        let page = reader.read(Query::All, 0, small).unwrap();
        assert_eq!((page.gone.newest, page.records[0].number), (2, 3));
    }
    other.purge_stream("FANFARE", 40).unwrap();
    let mut after = 20;
    let mut is_told = false;
    while after < 100 {
        let page = reader.read(Query::All, after, BOUNDS).unwrap();
        is_told |= page.gone.newest > after && page.records.iter().all(|record| record.number > 59);
        after = page.up_to;
    }
    assert!(is_told, "what the stream has dropped is told");
}

/// The data of all records that a subscriber gets that begins after this number, and whether it has missed
/// something.
fn given(reader: &dyn StoreReader, query: Query<'_>, after: u64) -> (Vec<String>, bool) {
    let view = reader.view(query, after).unwrap();
    let has_missed = match (&view.retained, query) {
        (Some(retained), Query::All) => retained.has_expired(after, &|_| true).unwrap(),
        _ => view.expired.newest > after,
    };
    assert_eq!(view.gone, Gone::default());
    (rest_of(reader, &view, query, after), has_missed)
}

fn rest_of(reader: &dyn StoreReader, view: &View, query: Query<'_>, mut after: u64) -> Vec<String> {
    let mut data = Vec::new();
    loop {
        let page = match &view.retained {
            Some(retained) => retained.read(query, after, BOUNDS).unwrap(),
            None => reader.read(query, after, BOUNDS).unwrap(),
        };
        assert_eq!(page.gone, Gone::default());
        data.extend(page.records.iter().map(|record| record.event.data().unwrap_or_default().to_owned()));
        after = page.up_to;
        if page.is_end {
            return data;
        }
    }
}

/// Subscribers get no more than what their topics keep, although the stream has more.
#[test]
fn what_the_retention_does_not_cover_is_not_given() {
    let server = server();
    let node = Node::start(&server);
    node.await_caught_up();
    let mut other = server.client().unwrap();
    for number in 0..400 {
        other.publish("fanfare.a", &[], number.to_string().as_bytes()).unwrap();
        if number % 4 == 0 {
            other.publish("fanfare.otp.1", &[], b"secret").unwrap();
            other.publish("fanfare.few", &[], number.to_string().as_bytes()).unwrap();
        }
        if number == 397 {
            let topics = [("Fanfare-Topics", "[\"a\",\"otp/1\"]")];
            other.publish_acked("fanfare.$multi", &topics, b"both").unwrap();
        }
    }
    other.publish_acked("fanfare.end", &[], b"end").unwrap();
    let reader = node.backplane.reader();
    wait_for("all events", || (reader.state().newest == 602).then_some(()));
    let keep = |retention: Retention, rules: &[(&str, Retention)]| {
        let rule =
            |(topics, retention): &(&str, Retention)| RetentionRule::new(topics.parse().unwrap(), *retention);
        let rules = rules.iter().map(rule).collect();
        node.hub().set_retention(retention, rules);
    };
    let all = Retention::default().with_age(Duration::MAX);
    let (a, otp, few) = ([topic("a")], [topic("otp/1")], [topic("few")]);
    keep(all, &[]);
    assert_eq!(given(&*reader, Query::Topics(&a), 0).0.len(), 401);

    // By count. Those that the topic keeps are given; a reader that lacks others is told.
    keep(all.with_events(5), &[("otp/*", all.with_events(0)), ("few", all.with_events(60))]);
    let newest = |range: std::ops::Range<u32>| range.map(|number| number.to_string()).collect::<Vec<_>>();
    let mut wanted = newest(395..400);
    wanted.insert(3, "both".to_owned());
    assert_eq!(given(&*reader, Query::Topics(&a), 0), (wanted.clone(), true));
    assert_eq!(given(&*reader, Query::Topics(&a), 500), (wanted, true));
    let view = reader.view(Query::Topics(&a), 0).unwrap();
    let page = view.retained.unwrap().read(Query::Topics(&a), 0, BOUNDS).unwrap();
    let reached = page.records[0].number;
    assert!(!given(&*reader, Query::Topics(&a), reached - 1).1);
    assert!(given(&*reader, Query::Topics(&a), reached - 3).1);
    assert_eq!(given(&*reader, Query::Topics(&otp), 0), (Vec::new(), true));
    assert_eq!(given(&*reader, Query::Topics(&few), 0).0.len(), 60);
    let (data, has_missed) = given(&*reader, Query::All, 0);
    assert!(has_missed);
    assert!(!given(&*reader, Query::All, 601).1);
    let count = |what: &str| data.iter().filter(|data| *data == what).count();
    assert_eq!((data.len(), count("secret"), count("both"), count("end")), (5 + 60 + 1 + 1, 0, 1, 1));

    // A topic of which nothing is expired has missed nothing, whatever others have.
    keep(all, &[("otp/*", all.with_events(0))]);
    assert!(!given(&*reader, Query::Topics(&few), 1).1);

    // By age: those of this second are kept.
    std::thread::sleep(Duration::from_millis(1500));
    keep(all.with_age(Duration::from_secs(1)), &[("few", all)]);
    other.publish_acked("fanfare.a", &[], b"young").unwrap();
    wait_for("all events", || (reader.state().newest == 603).then_some(()));
    assert_eq!(given(&*reader, Query::Topics(&a), 0), (vec!["young".to_owned()], true));
    assert!(!given(&*reader, Query::Topics(&a), 602).1);
    assert_eq!(given(&*reader, Query::All, 0).0.len(), 101);

    // What expires after the begin of a subscriber is there, and so is what comes later.
    keep(all.with_age(Duration::from_secs(2)).with_events(5), &[]);
    other.publish_acked("fanfare.a", &[], b"old").unwrap();
    wait_for("all events", || (reader.state().newest == 604).then_some(()));
    let views = [Query::Topics(&a), Query::All].map(|query| (query, reader.view(query, 0).unwrap()));
    std::thread::sleep(Duration::from_millis(2500));
    for number in 0..20 {
        other.publish_acked("fanfare.a", &[], number.to_string().as_bytes()).unwrap();
    }
    wait_for("all events", || (reader.state().newest == 624).then_some(()));
    for (query, view) in &views {
        let data = rest_of(&*reader, view, *query, 0);
        assert_eq!((data[data.len() - 21].as_str(), data.len() >= 21), ("old", true), "{data:?}");
    }
    assert_eq!(given(&*reader, Query::Topics(&a), 0).0, newest(15..20));
}

/// A subscriber that sees public events alone is told of no gap where only private ones have expired.
#[test]
fn private_events_expire_without_a_sign_to_others() {
    let server = server();
    let node = Node::start(&server);
    node.await_caught_up();
    let mut other = server.client().unwrap();
    for number in 0..30 {
        let private = [("Fanfare-Private", "true")];
        let headers = if number < 10 { &private[..] } else { &[] };
        other.publish_acked("fanfare.a", headers, number.to_string().as_bytes()).unwrap();
    }
    let reader = node.backplane.reader();
    wait_for("all events", || (reader.state().newest == 30).then_some(()));
    let retention = Retention::default().with_age(Duration::MAX);
    for (events, newest, newest_public) in [(20, 10, 0), (19, 11, 11), (30, 0, 0)] {
        node.hub().set_retention(retention.with_events(events), Vec::new());
        let expired = reader.view(Query::Topics(&[topic("a")]), 0).unwrap().expired;
        assert_eq!(expired, Gone { newest, newest_public }, "{events}");
    }
}

/// The numbers from which on a topic is given are found with few questions, whatever the distribution is.
#[test]
fn many_messages_are_counted_with_few_questions() {
    let server = server();
    let node = Node::start(&server);
    node.await_caught_up();
    let mut other = server.client().unwrap();
    // At first dense, then seldom, then dense again.
    for number in 0..6000_u32 {
        let is_dense = !(2000..5000).contains(&number);
        let subject = if is_dense || number % 500 == 0 { "fanfare.a" } else { "fanfare.b" };
        other.publish(subject, &[], number.to_string().as_bytes()).unwrap();
        if number % 100 == 0 {
            other.flush().unwrap();
        }
    }
    other.publish_acked("fanfare.b", &[], b"end").unwrap();
    let reader = node.backplane.reader();
    wait_for("all events", || (reader.state().newest == 6001).then_some(()));
    for events in [1, 10, 999, 1000, 1001, 1003, 1500, 3005, 3006, 4000] {
        let retention = Retention::default().with_age(Duration::MAX).with_events(events);
        node.hub().set_retention(retention, Vec::new());
        let before = messages_to(&server);
        reader.view(Query::Topics(&[topic("a")]), 0).unwrap();
        let asked = messages_to(&server) - before;
        // A creation and a deletion for each step.
        assert!(asked < 60, "{asked} for {events}");
        assert_eq!(given(&*reader, Query::Topics(&[topic("a")]), 0).0.len(), events.min(3006), "{events}");
    }
}
