//! An axum server that serves its own pages and hands its subscribers to the engine.
//!
//! axum owns the port. A `GET /news` never gets an answer from it: hyper gives the socket back, and the
//! hub adopts it; from there on it costs what a subscriber costs, not what a task costs.
//!
//! Open <http://127.0.0.1:3000/>, or try `curl -N http://127.0.0.1:3000/news`.

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response, Version};
use axum::response::Html;
use axum::routing::{get, post};
use fanfare::{Engine, Event, Hub, Subscribe, Topic, WireFormat};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tower::ServiceExt;

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
    fetch('/say', { method: 'POST', body: event.target.text.value });
  };
</script>"#;

fn main() -> Result<(), Box<dyn Error>> {
    // No address of its own: every subscriber comes from axum.
    let engine = Engine::builder().shards(1).start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(engine.hub()))
}

async fn serve(hub: Hub) -> Result<(), Box<dyn Error>> {
    let router = axum::Router::new()
        .route("/", get(|| async { Html(PAGE) }))
        .route("/say", post(say))
        .with_state(hub.clone());
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("look at http://127.0.0.1:3000/");
    loop {
        let (socket, _) = listener.accept().await?;
        tokio::spawn(connection(hub.clone(), router.clone(), socket));
    }
}

async fn say(State(hub): State<Hub>, text: String) -> Result<(), String> {
    let event = Event::new(news()).with_data(text);
    hub.publish(event).map(drop).map_err(|error| error.to_string())
}

/// Serves one connection until it ends or asks for the news.
async fn connection(hub: Hub, router: axum::Router, socket: TcpStream) {
    let (subscribe, mut subscribed) = mpsc::channel::<(Subscribe, WireFormat)>(1);
    let service = service_fn(move |request: Request<Incoming>| {
        let (router, subscribe) = (router.clone(), subscribe.clone());
        async move {
            if request.uri().path() == "/news" {
                let resume = request.headers().get("last-event-id").and_then(|id| id.to_str().ok());
                let mut subscription = Subscribe::to([news()]).with_retry(Duration::from_secs(1));
                if let Some(id) = resume {
                    subscription = subscription.with_resume(id);
                }
                let _ = subscribe.send((subscription, format_for(&request))).await;
                std::future::pending::<()>().await;
            }
            let response: Result<Response<Body>, Infallible> = router.oneshot(request.map(Body::new)).await;
            response
        }
    });
    let mut http = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
    let subscription = tokio::select! {
        _ = &mut http => return,
        subscription = subscribed.recv() => subscription,
    };
    let socket = http.into_parts().io.into_inner().into_std();
    if let (Some((subscription, format)), Ok(socket)) = (subscription, socket)
        && let Err(error) = hub.adopt(socket, subscription, format)
    {
        eprintln!("a subscriber was lost: {error}");
    }
}

/// Chunks are HTTP/1.1's; an older client, or one that asked for it, gets a stream that ends with the connection.
fn format_for(request: &Request<Incoming>) -> WireFormat {
    let options = request.headers().get_all("connection");
    let mut options =
        options.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let closes = options.any(|option| option.trim().eq_ignore_ascii_case("close"));
    if request.version() == Version::HTTP_11 && !closes { WireFormat::Chunked } else { WireFormat::Plain }
}

fn news() -> Topic {
    Topic::new("news").expect("a topic's name")
}
