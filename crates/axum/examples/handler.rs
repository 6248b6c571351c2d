//! A handler of axum returns a subscription, and the engine takes the socket over.
//!
//! Open <http://127.0.0.1:3000/> twice, tell something, and restart the server: the pages go on by
//! themselves, and miss nothing. Or try `curl -N http://127.0.0.1:3000/news` and `curl -d hello
//! http://127.0.0.1:3000/news`.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::Html;
use axum::routing::get;
use fanfare::{Engine, Event, Hub, Topic};
use fanfare_axum::{Error, Listener, Subscriber, Subscription};

async fn news(State(hub): State<Hub>, sub: Subscriber) -> Result<Subscription, Error> {
    Ok(sub.to([Topic::new("news")?]).subscribe(&hub))
}

async fn tell(State(hub): State<Hub>, text: String) -> Result<String, Error> {
    Ok(hub.publish(Event::new(Topic::new("news")?).with_data(text))?.last)
}

pub(crate) fn app(hub: Hub) -> Router {
    Router::new().route("/", get(Html(PAGE))).route("/news", get(news).post(tell)).with_state(hub)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The numbers go on where the server before has ended, so pages that had everything resume without a gap.
    let file = std::env::temp_dir().join("fanfare-news.position");
    let engine = Engine::builder().position_file(file).start()?;
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("look at http://127.0.0.1:3000/");
    axum::serve(Listener::new(tcp), app(engine.hub())).with_graceful_shutdown(interrupt()).await?;
    engine.stop_async(Duration::from_secs(1)).await?;
    Ok(())
}

async fn interrupt() {
    // Without a handler for signals the server ends when it is killed.
    let _ = tokio::signal::ctrl_c().await;
}

const PAGE: &str = r#"<!doctype html><title>News</title>
<ul id="news"></ul>
<form><input name="text"><button>Tell everyone</button></form>
<script>
  new EventSource('/news').onmessage = (event) => {
    const item = document.createElement('li');
    item.textContent = event.data;
    document.querySelector('#news').append(item);
  };
  document.querySelector('form').onsubmit = (event) => {
    event.preventDefault();
    fetch('/news', { method: 'POST', body: event.target.text.value });
  };
</script>"#;
