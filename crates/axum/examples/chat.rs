//! Chat rooms: who wants to talk takes a name, and sees what is said in the room from the beginning of its
//! history.
//!
//! Open <http://127.0.0.1:3000/room/tea?name=Ann>, and the same with another name.

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::response::Html;
use axum::routing::get;
use fanfare::{Engine, Event, Hub, Topic};
use fanfare_axum::{Error, Listener, Subscriber, Subscription};
use serde::Deserialize;

#[derive(Deserialize)]
struct User {
    name: String,
}

fn topic(room: &str) -> Result<Topic, Error> {
    Ok(Topic::new(format!("room/{room}"))?)
}

async fn listen(
    Path(room): Path<String>,
    State(hub): State<Hub>,
    sub: Subscriber,
) -> Result<Subscription, Error> {
    Ok(sub.to([topic(&room)?]).from_earliest().subscribe(&hub))
}

async fn say(
    Path(room): Path<String>,
    Query(user): Query<User>,
    State(hub): State<Hub>,
    text: String,
) -> Result<(), Error> {
    hub.publish(Event::new(topic(&room)?).data(format!("{}: {text}", user.name)))?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::builder().start()?;
    let app = Router::new()
        .route("/room/{room}", get(|| async { Html(PAGE) }))
        .route("/room/{room}/talk", get(listen).post(say))
        .with_state(engine.hub());
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("look at http://127.0.0.1:3000/room/tea?name=Ann");
    axum::serve(Listener::new(tcp), app).await?;
    Ok(())
}

const PAGE: &str = r#"<!doctype html><title>Chat</title>
<ul id="talk"></ul>
<form><input name="text" autocomplete="off"><button>Say</button></form>
<script>
  const talk = location.pathname + '/talk';
  new EventSource(talk).onmessage = (event) => {
    const item = document.createElement('li');
    item.textContent = event.data;
    document.querySelector('#talk').append(item);
  };
  document.querySelector('form').onsubmit = (event) => {
    event.preventDefault();
    fetch(talk + location.search, { method: 'POST', body: event.target.text.value });
    event.target.reset();
  };
</script>"#;
