//! What the load test compares with axum's own `Sse`: the same handler as that of its baseline `tokio`, which returns a
//! subscription. `cargo run --release -p fanfare-axum --example load_server -- 127.0.0.1:3000`

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use fanfare::{Engine, Event, Hub, Topic};
use fanfare_axum::{Error, Listener, Subscriber, Subscription};

async fn subscribe(
    Path(topic): Path<String>,
    State(hub): State<Hub>,
    sub: Subscriber,
) -> Result<Subscription, Error> {
    Ok(sub.to([Topic::new(topic)?]).subscribe(&hub))
}

async fn publish(Path(topic): Path<String>, State(hub): State<Hub>, body: String) -> Result<(), Error> {
    hub.publish(Event::new(Topic::new(topic)?).data(body))?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let engine = Engine::builder().raise_descriptor_limit(true).start()?;
    let app = Router::new().route("/events/{topic}", get(subscribe).post(publish)).with_state(engine.hub());
    let tcp = tokio::net::TcpListener::bind(address).await?;
    axum::serve(Listener::new(tcp), app).await?;
    Ok(())
}
