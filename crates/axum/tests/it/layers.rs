//! Layers see the request before and the response after, and what they add to its head arrives.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use fanfare_axum::Subscriber;
use futures_util::StreamExt;
use http_body_util::{BodyExt, BodyStream, StreamBody};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::{CompressionLayer, predicate};
use tower_http::cors::CorsLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;

use crate::client::Client;
use crate::servers::{engine, publish, router, serve};

const SUBSCRIBE: &str = "GET /events/a HTTP/1.1\nHost: h\nOrigin: https://page";

#[tokio::test(flavor = "multi_thread")]
async fn what_layers_add_to_the_head_arrives() {
    let engine = engine();
    async fn slow(request: Request, next: Next) -> Response {
        assert!(request.headers().contains_key("origin"));
        tokio::time::sleep(Duration::from_millis(20)).await;
        let mut response = next.run(request).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        for cookie in ["a=1; Path=/", "b=2"] {
            response.headers_mut().append(header::SET_COOKIE, HeaderValue::from_static(cookie));
        }
        response
    }
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (responses, ends) = (Arc::clone(&seen), Arc::clone(&seen));
    let trace = TraceLayer::new_for_http()
        .on_response(move |response: &axum::http::Response<_>, _: Duration, _: &tracing::Span| {
            responses.lock().unwrap().push(format!("response {}", response.status()));
        })
        .on_eos(move |_: Option<&_>, _: Duration, _: &tracing::Span| {
            ends.lock().unwrap().push("end".to_owned());
        })
        .on_failure({
            let failures = Arc::clone(&seen);
            move |failure, _: Duration, _: &tracing::Span| {
                let failure: tower_http::classify::ServerErrorsFailureClass = failure;
                failures.lock().unwrap().push(format!("failure {failure}"));
            }
        });
    let name = HeaderName::from_static("x-trace");
    let app = router(&engine.hub())
        .layer(middleware::from_fn(slow))
        .layer(SetResponseHeaderLayer::overriding(name, HeaderValue::from_static("HTTP/1.1 200 OK")))
        .layer(TimeoutLayer::with_status_code(
            axum::http::StatusCode::REQUEST_TIMEOUT,
            Duration::from_secs(5),
        ))
        .layer(CatchPanicLayer::new())
        .layer(CompressionLayer::new())
        .layer(CorsLayer::permissive().expose_headers([HeaderName::from_static("fanfare-gap")]))
        .layer(trace);
    let address = serve(app).await;
    let request = format!("{SUBSCRIBE}\nAccept-Encoding: gzip\nLast-Event-ID: 0000000000-7");
    let (head, mut events) = Client::with(address, &request).await.stream().await;
    assert_eq!(head.field("access-control-allow-origin").as_deref(), Some("*"));
    assert_eq!(head.field("access-control-expose-headers").as_deref(), Some("fanfare-gap"));
    assert_eq!(head.field("x-trace").as_deref(), Some("HTTP/1.1 200 OK"));
    assert_eq!(head.field("fanfare-gap").as_deref(), Some("true"), "the engine's own field");
    assert!(head.0.contains("set-cookie: a=1; Path=/\r\n") && head.0.contains("set-cookie: b=2\r\n"));
    assert_eq!(events.wait_for(1).await[0].kind, "fanfare.gap");
    publish(&engine.hub(), "a", "one");
    assert_eq!(events.wait_for(2).await[1].data, "one");
    while seen.lock().unwrap().len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(
        *seen.lock().unwrap(),
        ["response 200 OK", "end"],
        "to layers it is a response like any other"
    );
}

/// A layer that changes the body would break the stream: the client gets a whole 500 instead, and the log the
/// reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_a_layer_has_changed_is_an_error() {
    let engine = engine();
    let plain = || router(&engine.hub());
    async fn in_front(response: Response) -> Response {
        let (head, body) = response.into_parts();
        let first = http_body::Frame::data(Bytes::from_static(b": a comment\n"));
        let first = futures_util::stream::once(std::future::ready(Ok(first)));
        Response::from_parts(head, Body::new(StreamBody::new(first.chain(BodyStream::new(body)))))
    }
    let always = CompressionLayer::new().compress_when(predicate::SizeAbove::new(0));
    let (name, value) = (header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
    for (app, what) in [
        (plain().layer(always), "compressed"),
        (plain().layer(middleware::map_response(in_front)), "with a comment in front"),
        (plain().layer(SetResponseHeaderLayer::overriding(name, value)), "of another type"),
        (
            plain().layer(middleware::map_response(|mut response: Response| async {
                *response.status_mut() = axum::http::StatusCode::ACCEPTED;
                response
            })),
            "of another status",
        ),
    ] {
        let address = serve(app.layer(CorsLayer::permissive())).await;
        let mut client = Client::with(address, &format!("{SUBSCRIBE}\nAccept-Encoding: gzip")).await;
        let (head, body) = client.answer().await;
        assert_eq!(head.status(), "500", "{what}: {}", head.0);
        assert_eq!(head.field("access-control-allow-origin").as_deref(), Some("*"), "{what}");
        assert_eq!(head.field("content-encoding"), None, "{what}");
        assert!(body.contains("has changed the stream"), "{what}: {body}");
        assert_eq!(client.rest().await, b"", "{what}");
    }
    assert_eq!(engine.hub().counts().connections, 0);
}

/// A layer with a response of its own: that is what goes out, whole, and the mark does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_a_layer_has_replaced_is_an_ordinary_one() {
    async fn other_body(response: Response) -> Response {
        let (mut head, _) = response.into_parts();
        head.headers.remove(header::CONNECTION);
        Response::from_parts(head, Body::from("other"))
    }
    async fn other_response(_: Response) -> Response {
        "another".into_response()
    }
    /// It holds the subscription's response back until its own has been answered.
    async fn both(request: Request, next: Next) -> Response {
        let held = next.run(request).await;
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(held);
        });
        "another".into_response()
    }
    let engine = engine();
    let plain = || router(&engine.hub());
    for (app, body) in [
        (plain().layer(middleware::map_response(other_body)), "other"),
        (plain().layer(middleware::map_response(other_response)), "another"),
        (plain().layer(middleware::from_fn(both)), "another"),
    ] {
        let address = serve(app).await;
        let mut client = Client::connect(address).await;
        for _ in 0..2 {
            client.send(SUBSCRIBE).await;
            let (head, answered) = client.answer().await;
            assert_eq!((head.status(), &answered[..]), ("200", body));
            assert!(!head.0.contains("fanfare-subscription"), "{}", head.0);
        }
    }
    assert_eq!(engine.hub().counts().connections, 0);
}

/// A layer that waits for the whole body of a stream would wait for ever, as it does with axum's own `Sse`.
/// Here it fails after a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_collects_the_body_fails() {
    async fn collect(response: Response) -> Response {
        let (head, body) = response.into_parts();
        match body.collect().await {
            Ok(body) => Response::from_parts(head, Body::from(body.to_bytes())),
            Err(error) => (axum::http::StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
        }
    }
    let engine = engine();
    let app = router(&engine.hub()).layer(middleware::map_response(collect));
    let address = serve(app).await;
    let (head, body) = Client::with(address, SUBSCRIBE).await.answer().await;
    assert_eq!(head.status(), "502");
    assert!(body.contains("engine does not write this stream"), "{body}");
}

/// Layers may refuse before the handler, and after the extractor.
#[tokio::test(flavor = "multi_thread")]
async fn a_layer_may_answer_itself() {
    async fn no(_sub: Subscriber, _request: Request, _next: Next) -> Response {
        axum::http::StatusCode::FORBIDDEN.into_response()
    }
    let engine = engine();
    let address = serve(router(&engine.hub()).layer(middleware::from_fn(no))).await;
    let mut client = Client::connect(address).await;
    for _ in 0..2 {
        client.send(SUBSCRIBE).await;
        assert_eq!(client.answer().await.0.status(), "403");
    }
}
