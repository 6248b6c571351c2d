//! Subscribers that read slowly or not at all: the cost to them, and that other subscribers have none.

mod support;

use serde_json::{Value, json};
use support::{
    Backend, Connection, End, Event, PATIENCE, Server, Subscriber, eventually, now, on_both_backends,
};

/// As little as the kernel lets a client take before it reads.
const SMALL_BUFFER: usize = 2048;

/// So that the server's side is soon full too.
const SMALL_SEND_BUFFER: &str = "4KiB";

/// Publishes `count` events of this size, whose data begins with their number. `subscriber` reads them as
/// they come, so that it is never far behind.
fn publish_to(server: &Server, subscriber: &mut Subscriber, count: usize, size: usize) {
    const BURST: usize = 10;
    let mut publisher = server.publisher();
    for first in (0..count).step_by(BURST) {
        let burst = first..(first + BURST).min(count);
        let events: Vec<Value> =
            burst.clone().map(|number| json!({ "topic": "a", "data": numbered(number, size) })).collect();
        publisher.publish_all(&events);
        for number in burst {
            assert!(
                subscriber.event().data == numbered(number, size),
                "event {number} is not what was published"
            );
        }
    }
}

fn numbered(number: usize, size: usize) -> String {
    format!("{number} {}", "x".repeat(size))
}

fn number_of(event: &Event) -> usize {
    event.data.split(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}

/// Waits until the server counts this one as a laggard.
fn expect_laggard(server: &Server) {
    eventually("there is a laggard", || {
        let topic = server.topic("a")?;
        (topic["laggards"].as_u64() > Some(0)).then_some(())
    });
}

fn read_late(connection: Connection) -> Subscriber {
    Subscriber::on(connection)
}

on_both_backends! {
    fn one_that_needs_what_is_not_kept_any_more_is_disconnected(backend) {
        for bound in [["--retain-events", "50"], ["--retain-bytes", "200KiB"], ["--log-bytes", "300KiB"]] {
            disconnected_at_bound(backend, &[&bound[..], &["--send-buffer", SMALL_SEND_BUFFER]].concat(), 3000);
        }
    }

    fn one_that_skips_is_told_of_each_gap_and_goes_on(backend) {
        let options = ["--laggard-policy", "skip", "--retain-events", "50", "--send-buffer", SMALL_SEND_BUFFER];
        let server = Server::start_with(backend, &options);
        let slow = server.ask_with_small_buffer("topic=a", SMALL_BUFFER);
        let quiet = server.ask_with_small_buffer("topic=a&gap=off", SMALL_BUFFER);
        let mut fast = server.subscribe("topic=a");
        server.expect_subscribers("a", 3);
        publish_to(&server, &mut fast, 400, 3000);
        expect_laggard(&server);
        server.expect_subscribers("a", 3);

        let mut slow = read_late(slow);
        let marker = server.publish("a", "400 marker");
        let (mut next, mut gaps, mut last_id) = (0, 0, String::new());
        let mut open: Option<Value> = None;
        loop {
            let event = slow.event();
            if event.kind == "fanfare.gap" {
                let gap: Value = serde_json::from_str(&event.data).expect("JSON");
                // One gap may follow another, if the stream went on too fast for what was to follow the
                // first.
                assert_eq!(gap["after"], last_id, "the gap begins behind what was received");
                (open, last_id, gaps) = (Some(gap), event.id, gaps + 1);
                continue;
            }
            let number = number_of(&event);
            match open.take() {
                Some(gap) => {
                    assert!(number > next, "there was no gap before {number}");
                    assert_eq!(gap["before"], event.id, "the gap ends before what comes next");
                }
                None => assert_eq!(number, next, "a gap that was not told"),
            }
            (next, last_id) = (number + 1, event.id);
            if number == 400 {
                assert_eq!(last_id, marker);
                break;
            }
        }
        assert!(gaps > 0, "it fell behind by more than its bound");

        // A subscriber with `gap=off` gets no gap event, and its stream goes on as well.
        let mut quiet = read_late(quiet);
        let mut previous = None;
        loop {
            let event = quiet.event();
            assert_eq!(event.kind, "message");
            assert!(Some(number_of(&event)) > previous);
            previous = Some(number_of(&event));
            if previous == Some(400) {
                break;
            }
        }
        server.publish("a", "401 live");
        assert_eq!([slow.event().data, quiet.event().data], ["401 live", "401 live"]);
    }

    fn one_that_stopped_for_good_is_closed_after_its_time(backend) {
        for policy in ["disconnect", "skip"] {
            let options =
                ["--laggard-time", "1s", "--laggard-policy", policy, "--send-buffer", SMALL_SEND_BUFFER];
            let server = Server::start_with(backend, &options);
            let stopped = server.ask_with_small_buffer("topic=a", SMALL_BUFFER);
            // This one has room for everything and reads nothing: it is no laggard.
            let mut roomy = server.subscribe("topic=a");
            server.expect_subscribers("a", 2);
            let mut publisher = server.publisher();
            for number in 0..20 {
                publisher.publish("a", &numbered(number, 3000));
                assert_eq!(number_of(&roomy.event()), number);
            }
            expect_laggard(&server);
            server.expect_subscribers("a", 1);
            eventually("the log says why", || server.log().contains("laggard_stalled").then_some(()));
            assert_ne!(read_late(stopped).read_to_end().1, End::Whole, "it was cut within an event");
        }
    }

    fn one_that_is_late_within_its_bounds_loses_nothing(backend) {
        let server = Server::start_with(backend, &["--send-buffer", SMALL_SEND_BUFFER]);
        let late = server.ask_with_small_buffer("topic=a", SMALL_BUFFER);
        let mut fast = server.subscribe("topic=a");
        server.expect_subscribers("a", 2);
        publish_to(&server, &mut fast, 600, 3000);
        expect_laggard(&server);
        let mut late = read_late(late);
        for number in 0..600 {
            assert_eq!(number_of(&late.event()), number);
        }
        // It has caught up: live again, and no laggard.
        server.publish("a", "600 live");
        assert_eq!(late.event().data, "600 live");
        eventually("nobody lags", || (server.topic("a")?["laggards"] == 0).then_some(()));
    }

    /// Each event is there before the next is published, while thirty stand still beside its subscriber. They
    /// are not cut, and have lost nothing when they read again.
    fn those_that_stand_still_keep_nothing_from_one_that_reads(backend) {
        const STOPPED: u64 = 30;
        let server = Server::start_with(backend, &["--laggard-time", "1h", "--send-buffer", SMALL_SEND_BUFFER]);
        let mut fast = server.subscribe("topic=a");
        let stopped: Vec<Connection> =
            (0..STOPPED).map(|_| server.ask_with_small_buffer("topic=a", SMALL_BUFFER)).collect();
        server.expect_subscribers("a", STOPPED + 1);
        // A shard that is late with its answer is left out: the test asks again.
        let stand_at = |subscribers, laggards| {
            let topic = server.topic("a")?;
            let counts = [&topic["subscribers"], &topic["laggards"]].map(serde_json::Value::as_u64);
            (counts == [Some(subscribers), Some(laggards)]).then_some(())
        };
        let (mut publisher, mut next) = (server.publisher(), 0);
        let mut pass_one_on = || {
            publisher.publish("a", &numbered(next, 3000));
            assert_eq!(number_of(&fast.event()), next);
            next += 1;
            next
        };
        eventually("thirty have no room", || {
            pass_one_on();
            stand_at(STOPPED + 1, STOPPED)
        });

        // Held for a quarter of a second each, as for subscribers that move, they would take more than twice
        // as long.
        let deadline = now() + PATIENCE;
        (0..200).for_each(|_| _ = pass_one_on());
        assert!(now() < deadline, "events waited for those that stand still");
        eventually("nobody was cut, and nobody has caught up", || stand_at(STOPPED + 1, STOPPED));

        let count = pass_one_on();
        for connection in stopped {
            let mut late = read_late(connection);
            (0..count).for_each(|number| assert_eq!(number_of(&late.event()), number));
        }
    }

    /// Each subscriber with a topic of its own used to have a window of its own, 8 MiB each, behind a bound
    /// that said 8 MiB in all.
    fn memory_stays_bounded_with_an_audience_for_each_slow_subscriber(backend) {
        const BOUND: usize = 48 << 20;
        const SUBSCRIBERS: usize = 200;
        for policy in ["skip", "disconnect"] {
            let options = [
                "--laggard-policy", policy, "--laggard-bytes", "2MiB", "--log-bytes", "4MiB",
                "--send-buffer", SMALL_SEND_BUFFER,
            ];
            let server = Server::start_with(backend, &options);
            let mut fast = server.subscribe("topic=all");
            let slow: Vec<Connection> = (0..SUBSCRIBERS)
                .map(|number| server.ask_with_small_buffer(&format!("topic=all&topic=user/{number}"), SMALL_BUFFER))
                .collect();
            server.expect_subscribers("all", SUBSCRIBERS as u64 + 1);
            let before = server.memory();
            let mut publisher = server.publisher();
            // 120 MB in all, and events for all between them.
            for round in 0..20 {
                for number in 0..SUBSCRIBERS {
                    publisher.publish(&format!("user/{number}"), &numbered(round, 30_000));
                }
                let id = publisher.publish("all", "for all");
                assert_eq!(fast.event().id, id);
            }
            let grown = server.memory().saturating_sub(before);
            assert!(grown < BOUND, "memory has grown by {grown} bytes");
            drop(slow);
            server.expect_subscribers("all", 1);
            server.expect_idle();
        }
    }

    /// What laggards hold back is bounded by the window and the log, not by how far behind they are.
    fn memory_stays_bounded_however_much_is_not_read(backend) {
        const BOUND: usize = 48 << 20;
        let options = [
            "--laggard-policy", "skip", "--laggard-bytes", "1MiB", "--retain-bytes", "1MiB",
            "--send-buffer", SMALL_SEND_BUFFER,
        ];
        let server = Server::start_with(backend, &options);
        let mut fast = server.subscribe("topic=a");
        let slow: Vec<Connection> = (0..30).map(|_| server.ask_with_small_buffer("topic=a", SMALL_BUFFER)).collect();
        server.expect_subscribers("a", 31);
        publish_to(&server, &mut fast, 100, 30_000);
        let before = server.memory();
        // 60 MB for each of 31.
        publish_to(&server, &mut fast, 2000, 30_000);
        let grown = server.memory().saturating_sub(before);
        assert!(grown < BOUND, "memory has grown by {grown} bytes");
        server.expect_subscribers("a", 31);
        drop(slow);
        server.expect_subscribers("a", 1);
        server.expect_idle();
    }
}

/// The slow one goes, the fast one loses nothing, and the slow one may come back and go on where it was.
fn disconnected_at_bound(backend: Backend, options: &[&str], size: usize) {
    const EVENTS: usize = 400;
    let server = Server::start_with(backend, options);
    let slow = server.ask_with_small_buffer("topic=a", SMALL_BUFFER);
    let mut fast = server.subscribe("topic=a");
    server.expect_subscribers("a", 2);
    publish_to(&server, &mut fast, EVENTS, size);

    // It notices when it reads on. What it was sent before is in order, and its end is visible as a broken
    // one.
    let mut slow = read_late(slow);
    let (mut next, mut last_id) = (0, String::new());
    while let Some(event) = slow.event_or_end() {
        assert_eq!(number_of(&event), next);
        (next, last_id) = (next + 1, event.id);
    }
    assert_ne!(slow.read_to_end().1, End::Whole);
    server.expect_subscribers("a", 1);
    eventually("the log says why", || server.log().contains("laggard_full").then_some(()));
    assert!(next > 0 && next < EVENTS, "it got {next} events");

    // It comes back, is told of the gap, and gets what is left.
    let mut again = server.subscribe_with("topic=a", &[("Last-Event-ID", &last_id)]);
    assert_eq!(again.header("Fanfare-Gap"), Some("true"));
    let gap: Value = serde_json::from_str(&again.event().data).expect("JSON");
    assert_eq!(gap["after"], last_id);
    let first = again.event();
    assert_eq!(gap["before"], first.id);
    assert!(number_of(&first) > next);
    for number in number_of(&first) + 1..EVENTS {
        assert_eq!(number_of(&again.event()), number);
    }
}
