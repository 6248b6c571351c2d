//! The engine in front, axum behind; and hyper alone.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{self, UnixStream};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::{get, post};
use fanfare::{Engine, Hub};
use fanfare_axum::{Address, Connection, HandOverListener, Io, Subscriber};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::client::{Client, PATIENCE};
use crate::servers::{builders, engine, publish, router, topic};

#[tokio::test(flavor = "multi_thread")]
async fn axum_answers_what_is_no_subscription() {
    for (name, builder) in builders() {
        let mut engine = builder.listen("127.0.0.1:0".parse().unwrap()).hand_over(true).start().unwrap();
        let address = engine.addresses()[0];
        let hub = engine.hub();
        let listener = HandOverListener::new(&mut engine).unwrap();
        assert_eq!(axum::serve::Listener::local_addr(&listener).unwrap().tcp(), Some(address));
        assert!(HandOverListener::new(&mut engine).is_err(), "they are taken once");
        let app = Router::new()
            .route("/say", post(|body: String| async move { body }))
            .route("/peer", get(|sub: Subscriber| async move { sub.peer().unwrap().to_string() }))
            .nest("/of-axum", router(&hub))
            .into_make_service_with_connect_info::<Connection>();
        let (end, ended) = oneshot::channel::<()>();
        let server = axum::serve(listener, app).with_graceful_shutdown(async { ended.await.unwrap() });
        let server = tokio::spawn(async { server.await.unwrap() });

        let (_, mut of_engine) =
            Client::with(address, "GET /events?topic=a HTTP/1.1\nHost: h").await.stream().await;
        let mut client = Client::connect(address).await;
        client.send_bytes(b"POST /say HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello").await;
        assert_eq!(client.answer().await.1, "hello", "{name}");
        client.send("GET /peer HTTP/1.1\nHost: h").await;
        assert_eq!(client.answer().await.1, client.socket.local_addr().unwrap().to_string(), "{name}");
        // A body that comes later, and a whole request behind the first one.
        let mut late = Client::connect(address).await;
        late.send_bytes(b"POST /say HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n").await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        late.send_bytes(b"lateGET /of-axum/text HTTP/1.1\r\nHost: h\r\n\r\n").await;
        assert_eq!((late.answer().await.1, late.answer().await.1), ("late".to_owned(), "a text".to_owned()));
        // A subscription that a handler of axum decides about.
        client.send("GET /of-axum/events/a HTTP/1.1\nHost: h").await;
        let (_, mut of_axum) = client.stream().await;
        of_axum.open().await;
        of_engine.open().await;
        publish(&hub, "a", "one");
        for events in [&mut of_axum, &mut of_engine] {
            events.wait_for(1).await;
            assert_eq!(events.data(), ["one"], "{name}");
        }
        drop(late);
        end.send(()).unwrap();
        server.await.unwrap();
        engine.stop_async(Duration::ZERO).await.unwrap();
    }
}

/// Tells who a client is to handlers, by each way that they have.
async fn who(ConnectInfo(address): ConnectInfo<Address>, sub: Subscriber) -> String {
    let kind = match &address {
        Address::Tcp(tcp) => {
            assert_eq!((sub.peer(), address.tcp()), (Some(*tcp), Some(*tcp)));
            "tcp"
        }
        Address::Unix(_) => "unix",
        _ => "unknown",
    };
    if kind != "tcp" {
        assert_eq!((sub.peer(), address.tcp()), (None, None));
    }
    format!("{kind} {address}")
}

/// Serves behind the engine until the runtime ends.
fn serve_behind(hub: &Hub, listener: HandOverListener) {
    let app = Router::new().route("/who", get(who)).nest("/of-axum", router(hub));
    let app = app.into_make_service_with_connect_info::<Address>();
    tokio::spawn(async { axum::serve(listener, app).await });
}

/// The whole answer to this.
fn asked(mut socket: impl Read + Write, bytes: &[u8]) -> String {
    // The server may have closed it already.
    let _ = socket.write_all(bytes);
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

fn tcp(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn unix(address: &net::SocketAddr) -> UnixStream {
    let socket = UnixStream::connect_addr(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// The client had the proxy's address, so that limits by address took all clients for one.
#[tokio::test(flavor = "multi_thread")]
async fn handlers_know_the_client_that_a_proxy_names() {
    const REQUEST: &str = "GET /who HTTP/1.0\r\nHost: h\r\n\r\n";
    for (name, builder) in builders() {
        let socket = format!("fanfare-axum/{}/{name}", std::process::id());
        let proxies: fanfare::TrustedProxies = "127.0.0.0/8, unix".parse().unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut engine = builder
            .listen(any)
            .listener(fanfare::Listener::tcp(any).with_proxy_protocol(proxies.clone()))
            .listener(fanfare::Listener::unix_abstract(socket.as_str()).with_proxy_protocol(proxies))
            .hand_over(true)
            .start()
            .unwrap();
        let listener = HandOverListener::new(&mut engine).unwrap();
        serve_behind(&engine.hub(), listener);
        let (plain, proxied) = (engine.addresses()[0], engine.addresses()[1]);
        let proxied_unix = net::SocketAddr::from_abstract_name(&socket).unwrap();
        // The binary form, for a client of a Unix socket (proxy-protocol.txt, section 2.2).
        let of_unix = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8"[..], &[0; 216]].concat();
        for (header, seen) in [
            (&b"PROXY TCP4 203.0.113.7 127.0.0.1 40000 80\r\n"[..], "tcp 203.0.113.7:40000"),
            (b"PROXY TCP6 2001:db8::9 ::1 5 80\r\n", "tcp [2001:db8::9]:5"),
            (&of_unix, "unknown unknown"),
        ] {
            let bytes = [header, REQUEST.as_bytes()].concat();
            let by_tcp = asked(tcp(proxied), &bytes);
            assert!(by_tcp.ends_with(&format!("\r\n\r\n{seen}")), "{name}: {seen}: {by_tcp}");
            let by_unix = asked(unix(&proxied_unix), &bytes);
            assert!(by_unix.ends_with(&format!("\r\n\r\n{seen}")), "{name}: {seen}: {by_unix}");
        }
        let direct = tcp(plain);
        let own = direct.local_addr().unwrap();
        let answer = asked(direct, REQUEST.as_bytes());
        assert!(answer.ends_with(&format!("\r\n\r\ntcp {own}")), "{name}: {answer}");
    }
}

/// Connections from Unix sockets were closed without an answer, and an engine that has only these was
/// refused.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_may_listen_on_unix_sockets_alone() {
    for (name, builder) in builders() {
        let path = std::env::temp_dir().join(format!("fanfare-behind-{}.sock", std::process::id()));
        let mut engine = builder.listen_unix(&path, None).hand_over(true).start().unwrap();
        let listener = HandOverListener::new(&mut engine).unwrap();
        let own = axum::serve::Listener::local_addr(&listener).unwrap();
        assert_eq!(own.to_string(), format!("unix:{}", path.display()), "{name}");
        serve_behind(&engine.hub(), listener);
        let address = net::SocketAddr::from_pathname(&path).unwrap();
        let answer = asked(unix(&address), b"GET /who HTTP/1.0\r\nHost: h\r\n\r\n");
        assert!(answer.ends_with("\r\n\r\nunix unix"), "{name}: {answer}");
        let body = "POST /of-axum/events/a HTTP/1.0\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody";
        assert!(asked(unix(&address), body.as_bytes()).ends_with("\r\n\r\nbody"), "{name}");
        // A handler's stream on a Unix socket that came through the engine.
        let hub = engine.hub();
        let stream = tokio::task::spawn_blocking(move || stream_of(&address, &hub));
        assert!(stream.await.unwrap().contains("data: one\n"), "{name}");
    }
}

fn stream_of(address: &net::SocketAddr, hub: &Hub) -> String {
    let mut socket = unix(address);
    socket.write_all(b"GET /of-axum/events/a HTTP/1.0\r\nHost: h\r\n\r\n").unwrap();
    let mut text = String::new();
    let mut read_until = |end: &str| {
        while !text.contains(end) {
            let mut bytes = [0; 512];
            let count = socket.read(&mut bytes).unwrap();
            assert!(count > 0, "the stream ended behind {text}");
            text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
    };
    read_until("retry:");
    publish(hub, "a", "one");
    read_until("data: one\n");
    text
}

/// The engine has stopped: no connection comes any more, and the server is ended by its own signal.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_behind_an_engine_outlives_it() {
    let mut engine =
        Engine::builder().shards(1).listen("127.0.0.1:0".parse().unwrap()).hand_over(true).start().unwrap();
    let address = engine.addresses()[0];
    let listener = HandOverListener::new(&mut engine).unwrap();
    let (end, ended) = oneshot::channel::<()>();
    let app = router(&engine.hub());
    let server = axum::serve(listener, app).with_graceful_shutdown(async { ended.await.unwrap() });
    let server = tokio::spawn(async { server.await.unwrap() });
    let mut client = Client::with(address, "GET /text HTTP/1.1\nHost: h").await;
    assert_eq!(client.answer().await.1, "a text");
    engine.stop_async(Duration::ZERO).await.unwrap();
    client.send("GET /text HTTP/1.1\nHost: h").await;
    assert_eq!(client.answer().await.1, "a text", "the connection is axum's");
    client.send("GET /events/a HTTP/1.1\nHost: h").await;
    assert_eq!(client.answer().await.0.status(), "503");
    end.send(()).unwrap();
    server.await.unwrap();
}

#[test]
fn an_engine_that_hands_nothing_over_has_no_listener() {
    let mut silent = engine();
    assert!(HandOverListener::new(&mut silent).unwrap_err().to_string().contains("does not listen"));
    let mut engine = Engine::builder().shards(1).listen("127.0.0.1:0".parse().unwrap()).start().unwrap();
    assert!(HandOverListener::new(&mut engine).unwrap_err().to_string().contains("hand_over(true)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn hyper_alone_subscribes() {
    let engine = engine();
    let hub = engine.hub();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let (of_server, ended) = oneshot::channel();
    tokio::spawn({
        let hub = hub.clone();
        async move {
            let (socket, _) = tcp.accept().await.unwrap();
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let hub = hub.clone();
                async move {
                    let (head, _body) = request.into_parts();
                    let subscriber = Subscriber::from_parts(&head).await.unwrap();
                    Ok::<_, Infallible>(subscriber.to([topic("a")]).subscribe(&hub).into_http())
                }
            });
            // Field names may be written in any case.
            let served = http1::Builder::new()
                .title_case_headers(true)
                .serve_connection(TokioIo::new(Io::new(socket)), service)
                .await;
            of_server.send(served.is_ok()).unwrap();
        }
    });
    let (head, mut events) = Client::with(address, "GET / HTTP/1.1\nHost: h").await.stream().await;
    assert!(head.0.contains("Content-Type: text/event-stream\r\n"), "{}", head.0);
    events.open().await;
    publish(&hub, "a", "one");
    events.wait_for(1).await;
    assert!(ended.await.unwrap(), "to hyper the connection has ended well");
}

/// hyper's `pipeline_flush` joins the answers to requests that came together. The connection cannot know
/// where the head of the stream begins, so it ends.
#[tokio::test(flavor = "multi_thread")]
async fn joined_answers_end_the_connection() {
    let engine = engine();
    let hub = engine.hub();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    tokio::spawn(async move {
        let (socket, _) = tcp.accept().await.unwrap();
        let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let hub = hub.clone();
            async move {
                let (head, _body) = request.into_parts();
                if head.uri.path() == "/" {
                    let text = axum::body::Body::from("x");
                    return Ok::<_, Infallible>(http::Response::new(text));
                }
                let subscriber = Subscriber::from_parts(&head).await.unwrap();
                let subscription = subscriber.to([topic("a")]).subscribe(&hub);
                Ok(subscription.into_http().map(axum::body::Body::new))
            }
        });
        let mut http = http1::Builder::new();
        let _ = http.pipeline_flush(true).serve_connection(TokioIo::new(Io::new(socket)), service).await;
    });
    let mut client = Client::connect(address).await;
    client.send("GET / HTTP/1.1\nHost: h\n\nGET /events HTTP/1.1\nHost: h").await;
    let received = String::from_utf8(client.rest().await).unwrap();
    assert!(!received.contains("text/event-stream"), "{received}");
    assert_eq!(engine.hub().counts().connections, 0);
}
