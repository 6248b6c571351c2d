//! The helpers for tests of an application.

use std::io::ErrorKind;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use fanfare::Engine;
use fanfare_axum::Connection;
use fanfare_axum::testing::{self, send};
use http::Request;

use crate::servers::{publish, router};

#[tokio::test]
async fn a_stream_and_an_ordinary_answer_are_read() {
    let engine = Engine::builder().shards(2).start().unwrap();
    let (hub, app) = (engine.hub(), router(&engine.hub()));
    let mut one = testing::get(&app, "/events/a").await.unwrap();
    let mut other = testing::get(&app, "/events/a").await.unwrap();
    assert_eq!(one.header("content-type"), Some("text/event-stream"));
    let id = publish(&hub, "a", "1");
    for client in [&mut one, &mut other] {
        assert_eq!(client.next().await.unwrap().unwrap().data(), "1");
    }
    publish(&hub, "a", "2");
    let again = Request::get("/events/a").header("Last-Event-ID", id).body(String::new()).unwrap();
    let mut again = send(&app, again).await.unwrap();
    assert_eq!(again.next().await.unwrap().unwrap().data(), "2");

    assert_eq!(testing::get(&app, "/text").await.unwrap().text().await.unwrap(), "a text");
    let body = "x".repeat(3 << 20);
    let app = app.layer(axum::extract::DefaultBodyLimit::disable());
    let echo = testing::post(&app, "/events/a", body.as_str()).await.unwrap();
    assert_eq!(echo.text().await.unwrap(), body);
    assert_eq!(testing::get(&app, "/else").await.unwrap().status(), 404);
    engine.stop_async(std::time::Duration::ZERO).await.unwrap();
    while one.next().await.unwrap().is_some() {}
}

#[tokio::test]
async fn the_request_arrives_as_it_was_made() {
    async fn seen(
        ConnectInfo(connection): ConnectInfo<Connection>,
        fields: HeaderMap,
        body: String,
    ) -> String {
        let value = |name: &str| fields.get(name).map_or("none", |value| value.to_str().unwrap()).to_owned();
        format!("{} {} {} {:?}", value("host"), value("x-a"), body, connection.peer())
    }
    let app =
        Router::new().route("/seen", post(seen)).route("/teapot", get(|| async { StatusCode::IM_A_TEAPOT }));
    let request = Request::post("http://elsewhere/seen").header("X-A", "1").body("body".to_owned()).unwrap();
    assert_eq!(send(&app, request).await.unwrap().text().await.unwrap(), "localhost 1 body None");
    let request = Request::post("/seen").header("Host", "own").body(String::new()).unwrap();
    assert_eq!(send(&app, request).await.unwrap().text().await.unwrap(), "own none  None");
    let mut teapot = testing::get(&app, "/teapot").await.unwrap();
    assert_eq!(teapot.status(), 418);
    assert_eq!(teapot.next().await.unwrap_err().kind(), ErrorKind::InvalidData);
    assert_eq!(testing::get(&app, "no target").await.unwrap_err().kind(), ErrorKind::InvalidInput);
}
