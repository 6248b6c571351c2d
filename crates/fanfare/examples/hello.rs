//! The smallest push server: subscribe with `curl -N http://127.0.0.1:8844/events?topic=hello`, and
//! see what you type here.

use std::io::BufRead;

use fanfare::{Engine, Event, Topic};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::builder().listen("127.0.0.1:8844".parse()?).start()?;
    let hub = engine.hub();
    let topic = Topic::new("hello")?;
    for address in engine.addresses() {
        println!("curl -N 'http://{address}/events?topic=hello'    (then type here)");
    }
    for line in std::io::stdin().lock().lines() {
        let published = hub.publish(Event::new(topic.clone()).with_data(line?))?;
        println!("{} to {} subscribers", published.last, hub.counts().connections);
    }
    engine.stop(std::time::Duration::from_secs(1)).expect("no shard panics");
    Ok(())
}
