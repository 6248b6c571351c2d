//! The smallest push server: subscribe with `curl -N http://127.0.0.1:8844/events?topic=hello`, and
//! see what you type here.

use std::io::BufRead;
use std::time::Duration;

use fanfare::{Engine, Event, Hub, Topic};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::builder().listen("127.0.0.1:8844".parse()?).start()?;
    for address in engine.addresses() {
        println!("curl -N 'http://{address}/events?topic=hello'    (then type here)");
    }
    publish_lines(&engine.hub(), std::io::stdin().lock())?;
    engine.stop(Duration::from_secs(1))?;
    Ok(())
}

pub(crate) fn publish_lines(hub: &Hub, input: impl BufRead) -> Result<(), Box<dyn std::error::Error>> {
    let topic = Topic::new("hello")?;
    for line in input.lines() {
        let published = hub.publish(Event::new(topic.clone()).with_data(line?))?;
        println!("{} to {} subscribers", published.last, hub.counts().connections);
    }
    Ok(())
}
