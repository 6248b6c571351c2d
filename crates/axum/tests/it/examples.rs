//! The examples, asked as their readers would ask them. The test of `chat` is in a file of its own.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use fanfare::testing::Client;
use fanfare::{Engine, Topic};
use fanfare_axum::HandOverListener;
use fanfare_axum::testing::{get, post};

use crate::client;
use crate::servers::{engine, publish};

#[allow(dead_code, reason = "its `main` takes a port")]
#[path = "../../examples/chat.rs"]
pub(crate) mod chat;
#[allow(dead_code, reason = "its `main` takes a port")]
#[path = "../../examples/front.rs"]
mod front;
#[allow(dead_code, reason = "its `main` takes a port")]
#[path = "../../examples/handler.rs"]
mod handler;
#[allow(dead_code, reason = "its `main` takes a port")]
#[path = "../../examples/hyper.rs"]
mod hyper;
#[allow(dead_code, reason = "its `main` takes a port")]
#[path = "../../examples/tokens.rs"]
mod tokens;

#[tokio::test]
async fn the_handler_tells_news() {
    let engine = engine();
    let app = handler::app(engine.hub());
    let page = get(&app, "/").await.unwrap();
    assert!(page.text().await.unwrap().contains("new EventSource('/news')"));
    let mut client = get(&app, "/news").await.unwrap();
    let id = post(&app, "/news", "hello").await.unwrap().text().await.unwrap();
    let event = client.next().await.unwrap().unwrap();
    assert_eq!((event.data(), event.id()), ("hello", id.as_str()));
}

#[tokio::test]
async fn an_answer_comes_token_by_token_and_again_from_its_first() {
    let engine = engine();
    let app = tokens::app(engine.hub(), Duration::ZERO);
    let number = post(&app, "/answers", "why").await.unwrap().text().await.unwrap();
    let mut answers = Vec::new();
    for _ in 0..2 {
        let mut client = get(&app, &format!("/answers/{number}")).await.unwrap();
        let mut answer = String::new();
        loop {
            let token = client.next().await.unwrap().unwrap();
            if token.kind() == "done" {
                break;
            }
            answer.push_str(token.data());
        }
        answers.push(answer);
    }
    assert!(answers[0].starts_with("You ask why? "), "{answers:?}");
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test]
async fn the_engine_is_in_front_and_axum_behind() {
    let builder = Engine::builder().shards(1).listen("127.0.0.1:0".parse().unwrap());
    let mut engine = builder.hand_over(true).start().unwrap();
    let (address, app) = (engine.addresses()[0], front::app(engine.hub()));
    let listener = HandOverListener::new(&mut engine).unwrap();
    let server = tokio::spawn(async { axum::serve(listener, app).await });
    let subscribe = "GET /events?topic=news HTTP/1.1\nHost: h";
    let (_, mut events) = client::Client::with(address, subscribe).await.stream().await;
    events.open().await;
    let tell = "POST /tell HTTP/1.1\nHost: h\nContent-Length: 0";
    let (head, id) = client::Client::with(address, tell).await.answer().await;
    assert_eq!(head.status(), "200");
    publish(&engine.hub(), "news", "hello");
    events.wait_for(2).await;
    assert_eq!(events.data(), ["", "hello"]);
    assert_eq!(events.seen[0].id, id);
    server.abort();
}

#[tokio::test]
async fn hyper_serves_without_axum() {
    let engine = engine();
    let (clock, (client, server)) = (Topic::new("clock").unwrap(), UnixStream::pair().unwrap());
    server.set_nonblocking(true).unwrap();
    let server = tokio::net::UnixStream::from_std(server).unwrap();
    tokio::spawn(hyper::connection(engine.hub(), clock.clone(), server));
    let mut request = client.try_clone().unwrap();
    std::io::Write::write_all(&mut request, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let mut client = Client::open(client).await.unwrap();
    tokio::spawn(hyper::tick(engine.hub(), clock, Duration::ZERO));
    assert_eq!(client.next().await.unwrap().unwrap().data(), "tick 0");
}
