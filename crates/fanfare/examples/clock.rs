//! The server of the classic Server-Sent Events tutorial: port 8844, path `/stream`, a reconnection time
//! of ten seconds, an event of type `connecttime` when a client connects, and then the date every second.
//! Pages of every origin may read it.
//!
//! Try `curl -N http://127.0.0.1:8844/stream`.

use std::error::Error;
use std::thread;
use std::time::{Duration, SystemTime};

use fanfare::{
    Admission, Decision, Engine, Event, EventType, Hub, NotPublished, PublishError, Refusal, Request,
    Subscribe, Topic,
};

fn main() -> Result<(), Box<dyn Error>> {
    let clock = Topic::new("clock")?;
    let admission = admission(&clock)?;
    let engine = Engine::builder().listen("127.0.0.1:8844".parse()?).admission(admission).start()?;
    println!("the clock ticks at http://127.0.0.1:8844/stream");
    let hub = engine.hub();
    loop {
        thread::sleep(Duration::from_secs(1));
        tick(&hub, &clock)?;
    }
}

pub(crate) fn admission(clock: &Topic) -> Result<impl Admission, Box<dyn Error>> {
    let subscribe = Subscribe::to([clock.clone()])
        .with_retry(Duration::from_secs(10))
        .with_header("Access-Control-Allow-Origin", "*")?;
    let greeting = EventType::new("connecttime")?;
    let wrong_method = Refusal::new(405, "use GET").with_header("Allow", "GET")?;
    Ok(move |request: &Request<'_>| match (request.method(), request.path()) {
        ("GET", "/stream") => Decision::Subscribe(subscribe.clone().with_greeting(Some(&greeting), &date())),
        (_, "/stream") => Decision::Refuse(wrong_method.clone()),
        _ => Decision::Refuse(Refusal::new(404, "the clock is at /stream")),
    })
}

pub(crate) fn tick(hub: &Hub, clock: &Topic) -> Result<(), NotPublished> {
    match hub.publish(Event::new(clock.clone()).with_data(date())) {
        // A second that finds no room is skipped; the next one will tell the time as well.
        Ok(_) | Err(NotPublished { error: PublishError::Busy, .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The date and time, as HTTP writes it.
#[allow(clippy::disallowed_methods)] // An example may read the clock; that is its purpose.
fn date() -> String {
    httpdate::fmt_http_date(SystemTime::now())
}
