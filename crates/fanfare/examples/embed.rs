//! The server of docs/guides/embedding.md: a page in a browser shows what you type here. End the program with
//! Ctrl-D and start it again: the page goes on by itself, without a gap.
//!
//! Open <http://127.0.0.1:8844/>.

use fanfare::{Answer, Decision, Engine, Event, Request, Subscribe, Topic};
use std::{io, time::Duration};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let builder = Engine::builder().listen("127.0.0.1:8844".parse()?);
    let engine = builder.position_file("position").admission(admit).start()?;
    for line in io::stdin().lines() {
        engine.hub().publish(Event::new(Topic::new("news")?).with_data(line?))?;
    }
    Ok(engine.stop(Duration::from_secs(1))?)
}

pub(crate) fn admit(request: &Request<'_>) -> Decision {
    match (request.method(), request.path()) {
        ("GET", "/") => Answer::html(PAGE).into(),
        ("GET", "/events") => Subscribe::from_request(request, 8).into(),
        _ => Decision::HandOver,
    }
}

const PAGE: &str = "<!doctype html><ul></ul><script>
  new EventSource('/events?topic=news').onmessage = (event) => {
    document.querySelector('ul').appendChild(document.createElement('li')).textContent = event.data;
  };
</script>";
