//! hyper alone, without axum: its connection gets an `Io`, and its service returns a subscription.
//!
//! Try `curl -N http://127.0.0.1:3000/`, which tells the seconds.

use std::convert::Infallible;
use std::time::Duration;

use fanfare::{Engine, Event, Hub, Topic};
use fanfare_axum::{Io, Subscriber};
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

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::builder().start()?;
    let clock = Topic::new("clock")?;
    tokio::spawn(tick(engine.hub(), clock.clone()));
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("try curl -N http://127.0.0.1:3000/");
    loop {
        let (socket, _) = tcp.accept().await?;
        let (hub, clock) = (engine.hub(), clock.clone());
        let service = service_fn(move |request| serve(hub.clone(), clock.clone(), request));
        // When the engine has taken the socket over, the connection has ended for hyper.
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(Io::new(socket)), service));
    }
}

async fn tick(hub: Hub, clock: Topic) {
    for second in 0.. {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let tick = Event::new(clock.clone()).with_data(format!("{second} s"));
        if hub.publish_async(&mut vec![tick]).await.is_err() {
            return;
        }
    }
}
