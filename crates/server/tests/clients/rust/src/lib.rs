//! reqwest-eventsource as an application has it.

use futures_util::StreamExt;
use reqwest_eventsource::{Event, EventSource};
use serde_json::{Value, json};

/// Subscribes to `url` and gives each event to `told`, with the fields `type`, `data` and `id`, until `told`
/// says that it has enough. The client reconnects by itself.
pub fn read(url: &str, mut told: impl FnMut(Value) -> bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime without threads");
    runtime.block_on(async {
        let mut source = EventSource::get(url);
        while let Some(event) = source.next().await {
            if let Ok(Event::Message(event)) = event
                && !told(json!({ "type": event.event, "data": event.data, "id": event.id }))
            {
                return;
            }
        }
    });
}
