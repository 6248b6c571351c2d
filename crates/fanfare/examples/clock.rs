//! The server of the classic Server-Sent Events tutorial: port 8844, path `/stream`, a reconnection time
//! of ten seconds, an event of type `connecttime` when a client connects, and then the date every second.
//! Pages of every origin may read it.
//!
//! Try `curl -N http://127.0.0.1:8844/stream`.

use std::thread;
use std::time::{Duration, SystemTime};

use fanfare::{
    Decision, Engine, Event, EventType, NotPublished, PublishError, Refusal, Request, Subscribe, Topic,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let clock = Topic::new("clock")?;
    let subscribe = Subscribe::to([clock.clone()])
        .retry(Duration::from_secs(10))
        .header("Access-Control-Allow-Origin", "*")?;
    let greeting = EventType::new("connecttime")?;
    let wrong_method = Refusal::new(405, "use GET").header("Allow", "GET")?;
    let engine = Engine::builder()
        .listen("127.0.0.1:8844".parse()?)
        .admission(move |request: &Request<'_>| match (request.method(), request.path()) {
            ("GET", "/stream") => Decision::Subscribe(subscribe.clone().greeting(Some(&greeting), &date())),
            (_, "/stream") => Decision::Refuse(wrong_method.clone()),
            _ => Decision::Refuse(Refusal::new(404, "the clock is at /stream")),
        })
        .start()?;
    println!("the clock ticks at http://127.0.0.1:8844/stream");
    let hub = engine.hub();
    loop {
        thread::sleep(Duration::from_secs(1));
        match hub.publish(Event::new(clock.clone()).data(date())) {
            // A second that finds no room is skipped; the next one will tell the time as well.
            Ok(_) | Err(NotPublished { error: PublishError::Busy, .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The date and time, as HTTP writes it.
#[allow(clippy::disallowed_methods)] // An example may read the clock; that is its purpose.
fn date() -> String {
    httpdate::fmt_http_date(SystemTime::now())
}
