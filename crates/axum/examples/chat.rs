//! Chat rooms. A user has a name, gets the history of the room and then what is said, and learns of users
//! that join and leave.
//!
//! Open <http://127.0.0.1:3000/room/tea?name=Ann>, and the same with another name.

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::response::Html;
use axum::routing::get;
use fanfare::{Engine, Event, EventType, Hub, Member, Topic};
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
    Query(user): Query<User>,
    State(hub): State<Hub>,
    sub: Subscriber,
) -> Result<Subscription, Error> {
    let topic = topic(&room)?;
    let (join, leave) = (EventType::new("join")?, EventType::new("leave")?);
    let member = Member::new(&topic, user.name)?.with_announcements(join, leave);
    Ok(sub.to([topic]).from_earliest().with_member(member).subscribe(&hub))
}

/// The names of the members of a room, one on each line.
async fn members(Path(room): Path<String>, State(hub): State<Hub>) -> Result<String, Error> {
    Ok(hub.members(&topic(&room)?).join("\n"))
}

async fn say(
    Path(room): Path<String>,
    Query(user): Query<User>,
    State(hub): State<Hub>,
    text: String,
) -> Result<(), Error> {
    hub.publish(Event::new(topic(&room)?).with_data(format!("{}: {text}", user.name)))?;
    Ok(())
}

pub(crate) fn app(hub: Hub) -> Router {
    Router::new()
        .route("/room/{room}", get(|| async { Html(PAGE) }))
        .route("/room/{room}/talk", get(listen).post(say))
        .route("/room/{room}/members", get(members))
        .with_state(hub)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::builder().start()?;
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("look at http://127.0.0.1:3000/room/tea?name=Ann");
    axum::serve(Listener::new(tcp), app(engine.hub())).await?;
    Ok(())
}

const PAGE: &str = r#"<!doctype html><title>Chat</title>
<ul id="talk"></ul>
<form><input name="text" autocomplete="off"><button>Say</button></form>
<script>
  const talk = location.pathname + '/talk' + location.search;
  const show = (text) => {
    const item = document.createElement('li');
    item.textContent = text;
    document.querySelector('#talk').append(item);
  };
  const events = new EventSource(talk);
  events.onmessage = (event) => show(event.data);
  events.addEventListener('join', (event) => show(event.data + ' joins'));
  events.addEventListener('leave', (event) => show(event.data + ' leaves'));
  document.querySelector('form').onsubmit = (event) => {
    event.preventDefault();
    fetch(talk, { method: 'POST', body: event.target.text.value });
    event.target.reset();
  };
</script>"#;
