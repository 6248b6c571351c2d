//! Engines that share a stream of a real NATS server, on loopback addresses.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fanfare::testing::{self, Client};
use fanfare::{Engine, Event, EventId, Hub, Interrupted, PublishError, Published, Subscribe, Topic};
use fanfare_backplane::{NatsBackplane, NatsOptions};
use fanfare_testkit::nats::{self, NatsServer};

/// So that a test whose events do not come fails instead of hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// One node of a cluster.
pub(crate) struct Node {
    pub(crate) engine: Engine,
    pub(crate) backplane: Arc<NatsBackplane>,
}

impl Node {
    pub(crate) fn start(server: &NatsServer) -> Node {
        Node::with(options(server))
    }

    pub(crate) fn with(options: NatsOptions) -> Node {
        let backplane = NatsBackplane::connect(options).unwrap_or_else(|error| panic!("{error}"));
        let engine = Engine::builder().shards(1).backplane(backplane.clone()).start().unwrap();
        Node { engine, backplane }
    }

    pub(crate) fn hub(&self) -> Hub {
        self.engine.hub()
    }

    pub(crate) fn publish(&self, event: Event) -> Result<String, PublishError> {
        self.publish_all(vec![event]).map(|published| published.last).map_err(|interrupted| interrupted.error)
    }

    pub(crate) fn publish_all(&self, mut events: Vec<Event>) -> Result<Published, Interrupted> {
        self.hub().publish_wait(&mut events, PATIENCE)
    }

    /// Publishes until it succeeds. The event has an own id, so it is there once.
    pub(crate) fn publish_surely(&self, id: &str, data: &str) -> String {
        wait_for("a publish", || {
            let event = event(data).with_id(EventId::new(id).unwrap());
            self.publish(event).ok()
        })
    }

    pub(crate) fn subscribe(&self) -> Client {
        testing::adopt(&self.hub(), Subscribe::to([topic("a")])).unwrap()
    }

    pub(crate) fn resume(&self, id: &str) -> Client {
        wait_for("a subscriber", || {
            testing::adopt(&self.hub(), Subscribe::to([topic("a")]).with_resume(id)).ok()
        })
    }

    pub(crate) fn await_caught_up(&self) {
        wait_for("a node that has caught up", || self.backplane.status().is_caught_up.then_some(()));
    }
}

pub(crate) fn server() -> NatsServer {
    NatsServer::start(&nats::NatsOptions::default()).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn options(server: &NatsServer) -> NatsOptions {
    NatsOptions::new([server.url()])
}

pub(crate) fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

pub(crate) fn event(data: &str) -> Event {
    Event::new(topic("a")).with_data(data)
}

pub(crate) fn with_id(id: &str, data: &str) -> Event {
    event(data).with_id(EventId::new(id).unwrap())
}

/// The data and the id of the next event.
pub(crate) fn next(client: &mut Client) -> (String, String) {
    let event = client.next_wait(PATIENCE).unwrap().expect("the stream has not ended");
    (event.data().to_owned(), event.id().to_owned())
}

pub(crate) fn next_data(client: &mut Client) -> String {
    next(client).0
}

pub(crate) fn has_gap(client: &Client) -> bool {
    client.header("fanfare-gap").is_some()
}

/// Calls until there is something.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    const STEP: Duration = Duration::from_millis(20);
    for _ in 0..PATIENCE.as_millis() / STEP.as_millis() {
        if let Some(found) = look() {
            return found;
        }
        thread::sleep(STEP);
    }
    panic!("{what} has not come");
}
