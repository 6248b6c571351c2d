//! What the control plane's unit tests share.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use fanfare::{Hub, Subscribe, Topic, WireFormat};

/// Adds a subscriber of the topic "a" and waits until it is there: a shard gets only events of topics that it
/// reads.
pub(super) fn add_subscriber(hub: &Hub) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, _) = listener.accept().unwrap();
    let subscribe = Subscribe::to([Topic::new("a").unwrap()]);
    hub.adopt(OwnedFd::from(socket), subscribe, WireFormat::Plain).unwrap();
    let has_come = || hub.counts().connections == 1;
    assert!((0..5000).any(|_| has_come() || {
        thread::sleep(Duration::from_millis(1));
        false
    }));
    client
}
