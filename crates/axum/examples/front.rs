//! The engine in front, axum behind: the engine owns the port and admits subscribers itself, and axum serves
//! the rest of the site on the same port.
//!
//! Try `curl -N 'http://127.0.0.1:3000/events?topic=news'` and `curl -d hello http://127.0.0.1:3000/tell`.

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use fanfare::{Engine, Event, Hub, Topic};
use fanfare_axum::{Error, HandOverListener};

async fn tell(State(hub): State<Hub>, text: String) -> Result<String, Error> {
    Ok(hub.publish(Event::new(Topic::new("news")?).with_data(text))?.last)
}

pub(crate) fn app(hub: Hub) -> Router {
    Router::new()
        .route("/", get(|| async { "subscribe at /events?topic=news\n" }))
        .route("/tell", post(tell))
        .with_state(hub)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut engine = Engine::builder().listen("127.0.0.1:3000".parse()?).hand_over(true).start()?;
    let app = app(engine.hub());
    println!("look at http://127.0.0.1:3000/");
    axum::serve(HandOverListener::new(&mut engine)?, app).await?;
    Ok(())
}
