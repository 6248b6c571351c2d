//! The tokens of a language model: each answer is a topic, and each token an event. A page that loses its
//! connection goes on behind its last token, and a second page that shows the same answer gets it from its
//! first token on.
//!
//! Open <http://127.0.0.1:3000/>. Or `curl -d 'why is the sky blue' http://127.0.0.1:3000/answers`, which
//! answers with a number, and `curl -N http://127.0.0.1:3000/answers/1`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::Html;
use axum::routing::{get, post};
use fanfare::{Engine, Event, EventType, Hub, Topic};
use fanfare_axum::{Error, Listener, Subscriber, Subscription};

static ANSWERS: AtomicUsize = AtomicUsize::new(1);

async fn ask(State(hub): State<Hub>, question: String, pace: Duration) -> Result<String, Error> {
    let number = ANSWERS.fetch_add(1, Ordering::Relaxed);
    let (topic, done) = (Topic::new(format!("answer/{number}"))?, EventType::new("done")?);
    tokio::spawn(async move {
        for token in model(&question) {
            tokio::time::sleep(pace).await;
            let token = Event::new(topic.clone()).with_data(token);
            // It waits for room where the shards are busy, and fails when the engine has stopped.
            if hub.publish_async(&mut vec![token]).await.is_err() {
                return;
            }
        }
        let _ = hub.publish_async(&mut vec![Event::new(topic).with_type(done).with_data("done")]).await;
    });
    Ok(number.to_string())
}

async fn answer(
    Path(number): Path<usize>,
    State(hub): State<Hub>,
    sub: Subscriber,
) -> Result<Subscription, Error> {
    let topic = Topic::new(format!("answer/{number}"))?;
    Ok(sub.to([topic]).from_earliest().subscribe(&hub))
}

/// Stands for a model.
fn model(question: &str) -> Vec<String> {
    let answer = format!("You ask {question}? That is a good question, and I have no answer to it.");
    answer.split_inclusive(' ').map(str::to_owned).collect()
}

/// `pace`: the time that a token takes.
pub(crate) fn app(hub: Hub, pace: Duration) -> Router {
    Router::new()
        .route("/", get(Html(PAGE)))
        .route("/answers", post(move |hub, question| ask(hub, question, pace)))
        .route("/answers/{number}", get(answer))
        .with_state(hub)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::builder().start()?;
    let app = app(engine.hub(), Duration::from_millis(80));
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("look at http://127.0.0.1:3000/");
    axum::serve(Listener::new(tcp), app).await?;
    Ok(())
}

const PAGE: &str = r#"<!doctype html><title>Ask</title>
<form><input name="question" size="50"><button>Ask</button></form>
<p id="answer"></p>
<script>
  document.querySelector('form').onsubmit = async (event) => {
    event.preventDefault();
    const asked = await fetch('/answers', { method: 'POST', body: event.target.question.value });
    const answer = document.querySelector('#answer');
    answer.textContent = '';
    const tokens = new EventSource('/answers/' + await asked.text());
    tokens.onmessage = (token) => answer.textContent += token.data;
    tokens.addEventListener('done', () => tokens.close());
  };
</script>"#;
