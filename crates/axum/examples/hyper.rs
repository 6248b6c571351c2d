//! hyper alone, without axum: its connection gets an `Io`, and its service returns a subscription.
//!
//! Try `curl -N http://127.0.0.1:3000/`, which tells the seconds.

use std::convert::Infallible;
use std::time::Duration;

use fanfare::{Engine, Event, Hub, Topic};
use fanfare_axum::{Io, Subscriber, Takeable};
use http::{Request, Response};
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

type Answer = Response<Either<String, fanfare_axum::SubscriptionBody>>;

async fn serve(hub: Hub, clock: Topic, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let (head, _body) = request.into_parts();
    Ok(match Subscriber::from_parts(&head).await {
        Ok(subscriber) => subscriber.to([clock]).subscribe(&hub).into_http().map(Either::Right),
        Err(rejection) => {
            let mut answer = Response::new(Either::Left(rejection.to_string()));
            *answer.status_mut() = rejection.status();
            answer
        }
    })
}

/// Serves one connection. When the engine has taken the socket over, the connection has ended for hyper.
pub(crate) async fn connection(hub: Hub, clock: Topic, socket: impl Takeable) {
    let service = service_fn(move |request| serve(hub.clone(), clock.clone(), request));
    let served = http1::Builder::new().serve_connection(TokioIo::new(Io::new(socket)), service).await;
    if let Err(error) = served {
        eprintln!("a connection has ended: {error}");
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::builder().start()?;
    let clock = Topic::new("clock")?;
    tokio::spawn(tick(engine.hub(), clock.clone(), Duration::from_secs(1)));
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("try curl -N http://127.0.0.1:3000/");
    loop {
        let (socket, _) = tcp.accept().await?;
        tokio::spawn(connection(engine.hub(), clock.clone(), socket));
    }
}

pub(crate) async fn tick(hub: Hub, clock: Topic, interval: Duration) {
    for number in 0.. {
        tokio::time::sleep(interval).await;
        let tick = Event::new(clock.clone()).with_data(format!("tick {number}"));
        if hub.publish_async(&mut vec![tick]).await.is_err() {
            return;
        }
    }
}
