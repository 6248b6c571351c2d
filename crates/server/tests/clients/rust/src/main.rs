//! `fanfare-client-trial CLIENT URL`: reqwest-eventsource.

use futures_util::StreamExt;
use reqwest_eventsource::{Event, EventSource};
use serde_json::json;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let url = std::env::args().nth(2).expect("a client and a URL");
    let mut source = EventSource::get(url);
    while let Some(event) = source.next().await {
        if let Ok(Event::Message(event)) = event {
            println!("{}", json!({ "type": event.event, "data": event.data, "id": event.id }));
        }
    }
}
