//! The examples, asked as their readers would ask them. They are also tests of one's own server, to copy.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::thread;
use std::time::Duration;

use fanfare::testing::{self, Client};
use fanfare::{Builder, Engine, Event, Topic};
use tokio::runtime::Runtime;

/// So that a test whose bytes do not come fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(10);

#[allow(dead_code, reason = "its `main` takes a port")]
#[path = "../examples/clock.rs"]
mod clock;
#[allow(dead_code, reason = "its `main` takes a port")]
#[path = "../examples/database.rs"]
mod database;
#[allow(dead_code, reason = "its `main` takes a port")]
#[path = "../examples/embed.rs"]
mod embed;
#[allow(dead_code, reason = "its `main` takes a port")]
#[path = "../examples/hello.rs"]
mod hello;
#[allow(dead_code, reason = "its `main` takes a port")]
#[path = "../examples/reader.rs"]
mod reader;

fn builder() -> Builder {
    Engine::builder().shards(2).listener(testing::listener())
}

/// The type and the data of the next event.
fn next(client: &mut Client) -> (String, String) {
    let event = client.next_wait(PATIENCE).unwrap().expect("an event before the end");
    (event.kind().to_owned(), event.data().to_owned())
}

fn message(data: &str) -> (String, String) {
    ("message".to_owned(), data.to_owned())
}

#[test]
fn hello_publishes_what_is_typed() {
    let engine = builder().start().unwrap();
    let mut client = testing::get(&engine, "/events?topic=hello", &[]).unwrap();
    hello::publish_lines(&engine.hub(), &b"one\ntwo\n"[..]).unwrap();
    assert_eq!((next(&mut client), next(&mut client)), (message("one"), message("two")));
}

/// The guide shows the example as it is.
#[test]
fn the_guide_has_the_example_embed() {
    let example = include_str!("../examples/embed.rs").replace("pub(crate) ", "");
    let (_, program) = example.split_once("\n\n").unwrap();
    assert!(include_str!("../../../docs/guides/embedding.md").contains(program));
}

#[test]
fn embed_has_a_page_and_a_stream() {
    let engine = builder().admission(embed::admit).start().unwrap();
    let page = testing::get(&engine, "/", &[]).unwrap();
    assert_eq!((page.status(), page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let page = page.text_wait(PATIENCE).unwrap();
    let (_, target) = page.split_once("EventSource('").unwrap();
    let (target, _) = target.split_once('\'').unwrap();
    let mut client = testing::get(&engine, target, &[]).unwrap();
    engine.hub().publish(Event::new(Topic::new("news").unwrap()).with_data("hello")).unwrap();
    assert_eq!(next(&mut client), message("hello"));
    assert_eq!(testing::get(&engine, "/favicon.ico", &[]).unwrap().status(), 404);
}

#[test]
fn the_clock_greets_and_ticks() {
    let clock = Topic::new("clock").unwrap();
    let engine = builder().admission(clock::admission(&clock).unwrap()).start().unwrap();
    let mut client = testing::get(&engine, "/stream", &[]).unwrap();
    assert_eq!(client.header("access-control-allow-origin"), Some("*"));
    let (kind, greeting) = next(&mut client);
    assert!(kind == "connecttime" && greeting.ends_with(" GMT"), "{kind} {greeting}");
    clock::tick(&engine.hub(), &clock).unwrap();
    let (kind, date) = next(&mut client);
    assert!(kind == "message" && date.ends_with(" GMT"), "{kind} {date}");
    assert_eq!(testing::get(&engine, "/", &[]).unwrap().status(), 404);
}

#[test]
fn the_reader_counts_by_topic() {
    let engine = builder().start().unwrap();
    let (hub, [orders, news]) = (engine.hub(), ["orders", "news"].map(|name| Topic::new(name).unwrap()));
    let counting = hub.subscribe([orders.clone(), news.clone()]).stream().unwrap();
    let counter = thread::spawn(move || reader::count(counting));
    for topic in [&orders, &news, &orders] {
        hub.publish(Event::new(topic.clone()).with_data("x")).unwrap();
    }
    engine.stop(Duration::ZERO).unwrap();
    assert_eq!(counter.join().unwrap().into_iter().collect::<Vec<_>>(), [(news, 1), (orders, 2)]);
}

#[test]
fn the_database_decides_who_may_subscribe() {
    let runtime = Runtime::new().unwrap();
    let admission = database::admission(runtime.handle().clone(), Duration::ZERO);
    let engine = builder().admission(admission).start().unwrap();
    let ask = |target: &str, cookie: &str| testing::get(&engine, target, &[("Cookie", cookie)]).unwrap();
    let mut ada = ask("/events?topic=news", "theme=dark; session=ada");
    engine.hub().publish(Event::new(Topic::new("news").unwrap()).with_data("hello")).unwrap();
    assert_eq!(next(&mut ada), message("hello"));
    assert_eq!(ask("/events?topic=news", "session=eve").status(), 401);
    assert_eq!(ask("/events", "session=ada").status(), 400);
    // The session is the subject, by which its streams can be ended.
    engine.hub().disconnect_subject("ada").unwrap();
    assert_eq!(ada.next_wait(PATIENCE).unwrap(), None);
}
