//! What a request becomes: a stream, an ordinary answer, or a refusal.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path, State};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use fanfare::{Engine, EventType, Hub, Member};
use fanfare_axum::{Connection, Error, Listener, Subscriber, Subscription};
use http_body_util::BodyExt;
use socket2::SockRef;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Notify, oneshot};

use crate::client::Client;
use crate::servers::{builders, engine, publish, router, serve, serve_until, subscribe, topic};

const SUBSCRIBE: &str = "GET /events/a HTTP/1.1\nHost: h";

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_returns_a_stream_on_every_engine() {
    for (name, builder) in builders() {
        let engine = builder.start().unwrap_or_else(|error| panic!("{name}: {error}"));
        let hub = engine.hub();
        let address = serve(router(&hub)).await;
        let (head, mut chunked) = Client::with(address, SUBSCRIBE).await.stream().await;
        assert_eq!(head.field("transfer-encoding").as_deref(), Some("chunked"), "{name}");
        assert_eq!(head.field("connection"), None, "{name}");
        assert_eq!(head.field("cache-control").as_deref(), Some("no-store, no-cache, no-transform"));
        assert_eq!(head.field("x-accel-buffering").as_deref(), Some("no"));
        assert!(head.field("date").is_some());
        let old = ["GET /events/a HTTP/1.0", "GET /events/a HTTP/1.0\nConnection: keep-alive"];
        let mut streams = Vec::new();
        for request in old {
            let (head, mut plain) = Client::with(address, request).await.stream().await;
            assert_eq!(head.field("transfer-encoding"), None, "{name}");
            assert_eq!(head.field("connection").as_deref(), Some("close"), "{name}");
            plain.open().await;
            streams.push(plain);
        }
        let closing = format!("{SUBSCRIBE}\nConnection: close");
        streams.push(Client::with(address, &closing).await.stream().await.1);
        streams.last_mut().unwrap().open().await;
        chunked.open().await;
        streams.push(chunked);
        publish(&hub, "a", "one");
        publish(&hub, "b", "another topic's");
        publish(&hub, "a", "two\nlines");
        for stream in &mut streams {
            stream.wait_for(2).await;
            assert_eq!(stream.data(), ["one", "two\nlines"], "{name}");
        }
        engine.stop_async(Duration::ZERO).await.unwrap();
        for stream in streams {
            assert!(stream.ends_whole().await, "{name}");
        }
    }
}

/// Browsers reuse the connection that fetched the page.
#[tokio::test(flavor = "multi_thread")]
async fn the_third_request_of_a_connection_subscribes() {
    let engine = engine();
    let address = serve(router(&engine.hub())).await;
    let mut client = Client::connect(address).await;
    for _ in 0..2 {
        client.send("GET /text HTTP/1.1\nHost: h").await;
        assert_eq!(client.answer().await.1, "a text");
    }
    client.send_bytes(b"POST /events/a HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody").await;
    assert_eq!(client.answer().await.1, "body");
    client.send(SUBSCRIBE).await;
    let (_, mut events) = client.stream().await;
    events.open().await;
    publish(&engine.hub(), "a", "one");
    events.wait_for(1).await;
}

/// A handler answers before it has the whole body, and the client does not read the answer. When hyper has
/// the rest of the body, it goes on with the next request, and would write the head of the stream behind the
/// rest of the answer, in one piece.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_waits_for_the_answer_before_it() {
    let engine = engine();
    let long = "x".repeat(300_000);
    let value = long.clone();
    let answers_first = |body: Body| async move {
        tokio::spawn(body.collect());
        [("x-long", value)]
    };
    let app = router(&engine.hub()).route("/long", post(answers_first));
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let small = tcp.tap_io(|socket| SockRef::from(&*socket).set_send_buffer_size(4096).unwrap());
    tokio::spawn(async { axum::serve(Listener::new(small), app).await });
    let mut client = Client::connect(address).await;
    SockRef::from(&client.socket).set_recv_buffer_size(4096).unwrap();
    client.send_bytes(b"POST /long HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbo").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    client.send(&format!("dy{SUBSCRIBE}")).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(engine.hub().counts().connections, 0, "the answer before is not sent yet");
    let (head, _) = client.answer().await;
    assert_eq!(head.field("x-long"), Some(long));
    let (_, mut events) = client.stream().await;
    events.open().await;
    publish(&engine.hub(), "a", "one");
    events.wait_for(1).await;
}

/// docs/PROTOCOL.md: what comes behind a subscribe request is thrown away, never read as a second request.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_behind_the_request_is_ignored() {
    let engine = engine();
    let calls = Arc::new(AtomicUsize::new(0));
    let called = Arc::clone(&calls);
    let app = router(&engine.hub()).route(
        "/count",
        get(move || async move {
            called.fetch_add(1, Ordering::SeqCst);
        }),
    );
    let address = serve(app).await;
    let mut client = Client::connect(address).await;
    client.send(&format!("{SUBSCRIBE}\n\nGET /count HTTP/1.1\nHost: h")).await;
    let (_, mut events) = client.stream().await;
    events.open().await;
    publish(&engine.hub(), "a", "one");
    events.wait_for(1).await;
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_may_take_its_time_and_its_client_may_leave() {
    let engine = engine();
    let (entered, go, gone) =
        (Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    struct OnDrop(Arc<AtomicUsize>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let slow = {
        let (entered, go, gone) = (Arc::clone(&entered), Arc::clone(&go), Arc::clone(&gone));
        move |State(hub): State<Hub>, sub: Subscriber| {
            let (go, on_drop) = (Arc::clone(&go), OnDrop(Arc::clone(&gone)));
            entered.notify_one();
            async move {
                go.notified().await;
                let _on_drop = on_drop;
                sub.to([topic("a")]).subscribe(&hub)
            }
        }
    };
    let app = Router::new().route("/slow", get(slow)).with_state(engine.hub());
    let address = serve(app).await;
    let leaves = Client::with(address, "GET /slow HTTP/1.1\nHost: h").await;
    entered.notified().await;
    drop(leaves);
    while gone.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let waits = Client::with(address, "GET /slow HTTP/1.1\nHost: h").await;
    entered.notified().await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    go.notify_one();
    let (_, mut events) = waits.stream().await;
    events.open().await;
    publish(&engine.hub(), "a", "one");
    events.wait_for(1).await;
    assert_eq!(engine.hub().counts().connections, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_may_get_an_ordinary_answer() {
    let engine = engine();
    let choose = |State(hub): State<Hub>, sub: Subscriber, headers: axum::http::HeaderMap| async move {
        if headers.get("accept").is_some_and(|accept| accept == "text/event-stream") {
            return sub.to([topic("a")]).subscribe(&hub).into_response();
        }
        // It is made and not returned.
        drop(sub.to([topic("a")]).subscribe(&hub).into_response());
        "the newest state".into_response()
    };
    let address = serve(Router::new().route("/", get(choose)).with_state(engine.hub())).await;
    let mut client = Client::connect(address).await;
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\nHost: h").await;
        let (head, body) = client.answer().await;
        assert_eq!((head.status(), &body[..]), ("200", "the newest state"));
    }
    client.send("GET / HTTP/1.1\nHost: h\nAccept: text/event-stream").await;
    client.stream().await.1.open().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_ends_one_connection() {
    let engine = engine();
    async fn panics(_sub: Subscriber) {
        panic!("on purpose");
    }
    let app = router(&engine.hub()).route("/panics", get(panics));
    let address = serve(app).await;
    let mut client = Client::with(address, "GET /panics HTTP/1.1\nHost: h").await;
    assert_eq!(client.rest().await, b"");
    Client::with(address, SUBSCRIBE).await.stream().await.1.open().await;
}

/// The streams are the engine's, so they do not hold up the server, and go on without it.
#[tokio::test(flavor = "multi_thread")]
async fn streams_do_not_hold_up_a_graceful_shutdown() {
    let engine = engine();
    let (end, ended) = oneshot::channel::<()>();
    let (address, server) = serve_until(router(&engine.hub()), async { ended.await.unwrap() }).await;
    let (_, mut events) = Client::with(address, SUBSCRIBE).await.stream().await;
    events.open().await;
    end.send(()).unwrap();
    server.await.unwrap();
    publish(&engine.hub(), "a", "one");
    events.wait_for(1).await;
    engine.stop_async(Duration::from_millis(10)).await.unwrap();
    assert!(events.ends_whole().await);
}

/// How a handler knows where a client is: with either connect info, or from the subscriber itself.
#[tokio::test(flavor = "multi_thread")]
async fn the_address_of_the_client_is_known() {
    async fn both(ConnectInfo(peer): ConnectInfo<SocketAddr>, sub: Subscriber) -> String {
        assert_eq!(sub.peer(), Some(peer));
        peer.to_string()
    }
    async fn own(ConnectInfo(connection): ConnectInfo<Connection>, sub: Subscriber) -> String {
        assert_eq!(sub.peer(), connection.peer());
        sub.peer().unwrap().to_string()
    }
    let with_address =
        Router::new().route("/", get(both)).into_make_service_with_connect_info::<SocketAddr>();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let first = tcp.local_addr().unwrap();
    let listener = Listener::new(tcp).tap_io(|io| io.tcp().unwrap().set_nodelay(true).unwrap());
    tokio::spawn(async { axum::serve(listener, with_address).await });
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let second = tcp.local_addr().unwrap();
    tokio::spawn(async { fanfare_axum::serve(tcp, Router::new().route("/", get(own))).await });
    for address in [first, second] {
        let mut client = Client::with(address, "GET / HTTP/1.1\nHost: h").await;
        assert_eq!(client.answer().await.1, client.socket.local_addr().unwrap().to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_becomes_a_stream() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let engine = engine();
    let path = std::env::temp_dir().join(format!("fanfare-axum-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let unix = UnixListener::bind(&path).unwrap();
    let app = router(&engine.hub());
    tokio::spawn(async { axum::serve(Listener::new(unix), app).await });
    let mut client = UnixStream::connect(&path).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    client.write_all(b"GET /events/a HTTP/1.0\r\n\r\n").await.unwrap();
    let mut received = Vec::new();
    while !received.windows(6).any(|six| six == b"retry:") {
        assert!(client.read_buf(&mut received).await.unwrap() > 0);
    }
    publish(&engine.hub(), "a", "one");
    while !received.windows(10).any(|ten| ten == b"data: one\n") {
        assert!(client.read_buf(&mut received).await.unwrap() > 0);
    }
}

/// Many connections subscribe at once, among ordinary requests: each stream is that of its own request.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_client_gets_its_own_stream() {
    let engine = engine();
    let hub = engine.hub();
    let address = serve(router(&hub)).await;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..200 {
        clients.spawn(async move {
            let mut client = Client::connect(address).await;
            client.send("GET /text HTTP/1.1\nHost: h").await;
            assert_eq!(client.answer().await.1, "a text");
            client.send(&format!("GET /events/{number} HTTP/1.1\nHost: h")).await;
            let (_, mut events) = client.stream().await;
            events.open().await;
            (number, events)
        });
    }
    let mut streams = clients.join_all().await;
    for (number, _) in &streams {
        publish(&hub, &number.to_string(), &format!("for {number}"));
    }
    for (number, events) in &mut streams {
        events.wait_for(1).await;
        assert_eq!(events.data(), [format!("for {number}")]);
    }
    assert_eq!(hub.counts().connections, 200);
}

/// Presence and disconnection work for streams that came through a handler as for all others.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_a_handler_has_a_subject_and_a_member() {
    async fn enter(
        State(hub): State<Hub>,
        Path(name): Path<String>,
        sub: Subscriber,
    ) -> Result<Subscription, Error> {
        let room = topic("room");
        let (join, leave) = (EventType::new("join")?, EventType::new("leave")?);
        let member = Member::new(&room, name.clone())?.with_announcements(join, leave);
        Ok(sub.to([room]).with_subject(name)?.with_member(member).subscribe(&hub))
    }
    let engine = Engine::builder().shards(1).presence_linger(Duration::ZERO).start().unwrap();
    let hub = engine.hub();
    let address = serve(Router::new().route("/{name}", get(enter)).with_state(hub.clone())).await;
    let (_, mut ann) = Client::with(address, "GET /ann HTTP/1.1\nHost: h").await.stream().await;
    ann.wait_for(1).await;
    let (_, mut bob) = Client::with(address, "GET /bob HTTP/1.1\nHost: h").await.stream().await;
    bob.wait_for(1).await;
    ann.wait_for(2).await;
    assert_eq!(hub.members(&topic("room")).iter().map(|name| &name[..]).collect::<Vec<_>>(), ["ann", "bob"]);
    let long = format!("GET /{} HTTP/1.1\nHost: h", "x".repeat(300));
    assert_eq!(Client::with(address, &long).await.answer().await.0.status(), "400");
    hub.disconnect_subject("bob").unwrap();
    assert!(bob.ends_whole().await);
    let seen = ann.wait_for(3).await.iter().map(|seen| (&seen.kind[..], &seen.data[..]));
    assert_eq!(seen.collect::<Vec<_>>(), [("join", "ann"), ("join", "bob"), ("leave", "bob")]);
}

/// A service that runs in other tasks than hyper knows its connection by the connect info.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_in_another_task_needs_the_connect_info() {
    async fn spawned(State(hub): State<Hub>, request: axum::extract::Request) -> axum::response::Response {
        let inner = Router::new().route("/events/{topic}", get(subscribe)).with_state(hub);
        tokio::spawn(async move { tower::ServiceExt::oneshot(inner, request).await.unwrap() }).await.unwrap()
    }
    let engine = engine();
    let app = Router::new().fallback(spawned).with_state(engine.hub());
    let without = serve(app.clone()).await;
    let (head, body) = Client::with(without, SUBSCRIBE).await.answer().await;
    assert_eq!(head.status(), "500");
    assert!(body.contains("fanfare_axum::Listener"), "{body}");

    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let with = tcp.local_addr().unwrap();
    tokio::spawn(async { fanfare_axum::serve(tcp, app).await });
    let (_, mut events) = Client::with(with, SUBSCRIBE).await.stream().await;
    events.open().await;
    publish(&engine.hub(), "a", "one");
    events.wait_for(1).await;
}
