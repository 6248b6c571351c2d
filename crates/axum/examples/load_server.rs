//! What the load test compares with axum's own `Sse`: the same handler as that of its baseline `axum-sse`,
//! which returns a subscription.
//!
//!     cargo run --release -p fanfare-axum --example load_server -- 127.0.0.1:3000
//!
//! With `front` behind the address the engine has the port and takes `/events?topic=NAME` itself, and axum is
//! behind it: the difference is what the way through axum costs.

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use fanfare::{Engine, Event, Hub, Topic};
use fanfare_axum::{Error, HandOverListener, Listener, Subscriber, Subscription};

async fn subscribe(
    Path(topic): Path<String>,
    State(hub): State<Hub>,
    sub: Subscriber,
) -> Result<Subscription, Error> {
    Ok(sub.to([Topic::new(topic)?]).subscribe(&hub))
}

async fn publish(Path(topic): Path<String>, State(hub): State<Hub>, body: String) -> Result<(), Error> {
    hub.publish(Event::new(Topic::new(topic)?).with_data(body))?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let builder = Engine::builder().raise_descriptor_limit(true);
    let routes = Router::new().route("/events/{topic}", get(subscribe).post(publish));
    if arguments.next().is_some_and(|mode| mode == "front") {
        let mut engine = builder.listen(address.parse()?).hand_over(true).start()?;
        let app = routes.with_state(engine.hub());
        axum::serve(HandOverListener::new(&mut engine)?, app).await?;
    } else {
        let engine = builder.start()?;
        let tcp = tokio::net::TcpListener::bind(address).await?;
        axum::serve(Listener::new(tcp), routes.with_state(engine.hub())).await?;
    }
    Ok(())
}
