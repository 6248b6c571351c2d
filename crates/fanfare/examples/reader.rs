//! Counts what is published, by topic, in the same process and beside the subscribers of
//! `curl -N 'http://127.0.0.1:8844/events?topic=orders&topic=news'`. Type `TOPIC TEXT`.

use std::{collections::BTreeMap, io::BufRead, thread, time::Duration};

use fanfare::{Engine, Event, ReadItem, Reader, Topic};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::builder().listen("127.0.0.1:8844".parse()?).start()?;
    let hub = engine.hub();
    let reader = hub.subscribe([Topic::new("orders")?, Topic::new("news")?]).stream()?;
    let counter = thread::spawn(move || count(reader));
    for line in std::io::stdin().lock().lines() {
        if let Some((topic, text)) = line?.split_once(' ') {
            hub.publish(Event::new(Topic::new(topic)?).with_data(text))?;
        }
    }
    engine.stop(Duration::from_secs(1))?;
    counter.join().expect("the reader does not panic");
    Ok(())
}

/// Counts until the engine has stopped.
pub(crate) fn count(mut reader: Reader) -> BTreeMap<Topic, u64> {
    let mut counts = BTreeMap::new();
    while let Ok(Some(item)) = reader.next_wait(Duration::MAX) {
        let ReadItem::Event(event) = item else { continue };
        event.topics().iter().for_each(|topic| *counts.entry(topic.clone()).or_default() += 1);
        println!("{}: {counts:?}", event.wire_id());
    }
    counts
}
