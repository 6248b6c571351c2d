//! Subscribers that are refused get a whole answer.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{Method, Request, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use fanfare::{ClientLimits, Engine, Event, EventId, Hub, Limits, NotPublished, PublishError, Topic};
use fanfare_axum::{Error, Subscriber, SubscriberRejection};
use http_body_util::BodyExt;
use tokio::net::TcpListener;
use tower_http::cors::CorsLayer;

use crate::client::Client;
use crate::servers::{engine, publish, router, serve, topic};

const SUBSCRIBE: &str = "GET /events/a HTTP/1.1\nHost: h";

#[tokio::test(flavor = "multi_thread")]
async fn only_a_get_over_http_1_without_a_body_subscribes() {
    async fn subscribe(State(hub): State<Hub>, sub: Subscriber) -> Response {
        sub.to([topic("a")]).subscribe(&hub).into_response()
    }
    let engine = engine();
    let app =
        Router::new().route("/any", any(subscribe)).route("/get", get(subscribe)).with_state(engine.hub());
    let address = serve(app).await;
    for (request, status) in [
        ("POST /any HTTP/1.1\nHost: h\nContent-Length: 0", "405"),
        ("PUT /any HTTP/1.1\nHost: h\nContent-Length: 0", "405"),
        ("OPTIONS /any HTTP/1.1\nHost: h", "405"),
        ("GET /any HTTP/1.1\nHost: h\nContent-Length: 1\n\nx", "400"),
        ("GET /any HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\n\n0\n", "400"),
    ] {
        let (head, body) = Client::with(address, request).await.answer().await;
        assert_eq!(head.status(), status, "{request}");
        assert_eq!(head.field("content-type").as_deref(), Some("application/problem+json"));
        assert_eq!(head.field("allow").as_deref(), (status == "405").then_some("GET"));
        assert!(body.contains(&format!("\"status\":{status},\"detail\":\"")), "{body}");
    }
    // The router sends a HEAD to the handler of `get`. A body behind its answer would be the next answer's.
    let mut client = Client::connect(address).await;
    for _ in 0..2 {
        client.send("HEAD /get HTTP/1.1\nHost: h").await;
        let head = client.head().await;
        assert_eq!((head.status(), head.field("allow").as_deref()), ("405", Some("GET")));
    }
    client.send("GET /get HTTP/1.1\nHost: h\nContent-Length: 0").await;
    client.stream().await.1.open().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_http_2_is_refused() {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.version = Version::HTTP_2;
    let rejection = Subscriber::from_parts(&parts).await.unwrap_err();
    assert_eq!(
        (rejection.status(), &rejection),
        (StatusCode::HTTP_VERSION_NOT_SUPPORTED, &SubscriberRejection::Version)
    );

    let engine = engine();
    let address = serve(router(&engine.hub())).await;
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(socket);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut client, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let request = |path: &str| {
        Request::builder()
            .method(Method::GET)
            .uri(format!("http://h{path}"))
            .body(http_body_util::Empty::<axum::body::Bytes>::new())
            .unwrap()
    };
    let response = client.send_request(request("/events/a")).await.unwrap();
    assert_eq!(response.status(), StatusCode::HTTP_VERSION_NOT_SUPPORTED);
    let response = client.send_request(request("/text")).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "a text");
}

/// Without the listener nothing could take the connection over.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_another_listener_is_refused() {
    let engine = engine();
    let app = router(&engine.hub());
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    tokio::spawn(async { axum::serve(tcp, app).await });
    let (head, body) = Client::with(address, SUBSCRIBE).await.answer().await;
    assert_eq!(head.status(), "500");
    assert!(body.contains("fanfare_axum::Listener"), "{body}");
    let (parts, ()) = Request::new(()).into_parts();
    assert_eq!(Subscriber::from_parts(&parts).await.unwrap_err(), SubscriberRejection::Connection);
}

/// A mailbox that takes no socket, and an engine that has stopped: the client gets a whole answer, with what
/// layers have added to it, behind which the connection ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_the_engine_does_not_take_is_told() {
    let limits = Limits::default().with_mailbox_events(0).with_mailbox_others(0);
    let busy = Engine::builder().shards(1).limits(limits).start().unwrap();
    let stopped = engine();
    let hub_of_stopped = stopped.hub();
    stopped.stop_async(Duration::ZERO).await.unwrap();
    for (hub, reason) in [(busy.hub(), "busy"), (hub_of_stopped, "shutting down")] {
        let address = serve(router(&hub).layer(CorsLayer::permissive())).await;
        for request in [SUBSCRIBE, "GET /events/a HTTP/1.0"] {
            let mut client =
                Client::with(address, &format!("{request}\n\nGET /text HTTP/1.1\nHost: h")).await;
            let (head, body) = client.answer().await;
            assert_eq!(head.status(), "503", "{}", head.0);
            assert_eq!(head.field("retry-after").as_deref(), Some("1"));
            assert_eq!(head.field("connection").as_deref(), Some("close"));
            assert_eq!(head.field("access-control-allow-origin").as_deref(), Some("*"));
            assert_eq!(head.field("content-type").as_deref(), Some("application/problem+json"));
            assert_eq!(head.field("transfer-encoding"), None);
            assert!(body.contains(reason), "{body}");
            assert_eq!(client.rest().await, b"", "the answer is the last one");
        }
    }
}

/// The engine was busy for a moment: the subscriber does not notice.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_engine_is_asked_again() {
    // A mailbox for one piece of mail of each kind, and a shard that is busy with the mail of many.
    let limits = Limits::default().with_mailbox_events(1).with_mailbox_others(0);
    let engine = Engine::builder().shards(1).limits(limits).start().unwrap();
    let address = serve(router(&engine.hub())).await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..64 {
        clients.spawn(async move {
            let (_, mut events) = Client::with(address, SUBSCRIBE).await.stream().await;
            events.open().await;
            events
        });
    }
    let mut streams = clients.join_all().await;
    publish(&engine.hub(), "a", "one");
    for events in &mut streams {
        events.wait_for(1).await;
    }
}

#[tokio::test]
async fn errors_of_the_engine_are_answers() {
    let event = || Box::new(Event::new(topic("a")));
    let invalid = Topic::new("").unwrap_err();
    for (error, status, later) in [
        (Error::from(PublishError::Busy), 503, true),
        (Error::from(NotPublished::new(PublishError::Stopped, *event())), 503, true),
        (Error::from(PublishError::Unreleased), 503, false),
        (Error::from(PublishError::Undecided), 503, false),
        (Error::from(PublishError::TooLarge { index: 0, limit: 5 }), 413, false),
        (Error::from(PublishError::ReservedId { index: 0 }), 400, false),
        (Error::from(PublishError::Empty), 400, false),
        (Error::from(invalid), 400, false),
        (Error::from(EventId::new("a\nb").unwrap_err()), 400, false),
    ] {
        let (text, kind) = (error.to_string(), error.problem());
        let response = error.into_response();
        assert_eq!(response.status(), status, "{text}");
        assert_eq!(response.headers().contains_key("retry-after"), later, "{text}");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let start = format!("{{\"type\":\"{}\",\"title\":\"{}\"", kind.reference(), kind.title());
        assert!(body.starts_with(start.as_bytes()), "{body:?}");
    }
}

/// `?topic=...` as on the server's own endpoint.
#[tokio::test(flavor = "multi_thread")]
async fn the_query_may_name_the_topics() {
    async fn requested(State(hub): State<Hub>, sub: Subscriber) -> Result<Response, Error> {
        if sub.topics(2)?.contains(&topic("secret")) {
            return Ok(StatusCode::FORBIDDEN.into_response());
        }
        Ok(sub.to_requested(2)?.subscribe(&hub).into_response())
    }
    let engine = engine();
    let address = serve(Router::new().route("/events", get(requested)).with_state(engine.hub())).await;
    for (query, status) in [
        ("", "400"),
        ("?topic=a&topic=b&topic=c", "400"),
        ("?topic=a&gap=maybe", "400"),
        ("?topic=%ff", "400"),
        ("?topic=secret", "403"),
    ] {
        let (head, _) =
            Client::with(address, &format!("GET /events{query} HTTP/1.1\nHost: h")).await.answer().await;
        assert_eq!(head.status(), status, "{query}");
    }
    let request = "GET /events?topic=a&topic=b&checkpoint=event HTTP/1.1\nHost: h";
    let (_, mut events) = Client::with(address, request).await.stream().await;
    events.wait_for(1).await;
    publish(&engine.hub(), "b", "one");
    events.wait_for(2).await;
    assert_eq!(events.data()[1], "one");
}

/// A stream that a handler of axum had made was not counted. So an address could have any number of them,
/// whatever the bound of the engine was.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_one_of_its_clients_connections() {
    // This machine is not the operator here.
    let clients = ClientLimits::default().with_connections_per_address(Some(1));
    let clients = clients.with_operators("192.0.2.1".parse().unwrap());
    let behind_a_proxy = clients.clone().with_proxies("127.0.0.1".parse().unwrap());
    for (clients, fields) in [
        (clients, ["", "\nX-Forwarded-For: 192.0.2.9"]),
        (behind_a_proxy, ["\nX-Forwarded-For: 203.0.113.7", "\nX-Forwarded-For: 198.51.100.1, 203.0.113.7"]),
    ] {
        let engine = Engine::builder().shards(1).limits(Limits::default().with_clients(clients.clone()));
        let engine = engine.start().unwrap();
        let hub = engine.hub();
        let address = serve(router(&hub)).await;
        let [first, second] = fields.map(|fields| format!("{SUBSCRIBE}{fields}"));
        let (_, mut stream) = Client::with(address, &first).await.stream().await;
        stream.open().await;
        let (head, body) = Client::with(address, &second).await.answer().await;
        assert_eq!(head.status(), "429", "{body}");
        // A shard tells what it has counted at the end of a tick.
        while hub.counts().refused_for_address == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Another client of the proxy may have one, and so may this one when its stream has ended.
        if clients.proxies.contains([127, 0, 0, 1].into()) {
            let other = format!("{SUBSCRIBE}\nX-Forwarded-For: 203.0.113.8");
            Client::with(address, &other).await.stream().await.1.open().await;
        }
        drop(stream);
        while hub.counts().connections > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Client::with(address, &second).await.stream().await.1.open().await;
    }
}
