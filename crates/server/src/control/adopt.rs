//! A subscription on a connection of the control plane becomes a shard's.

use std::io::Write;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Duration;

use fanfare::{AdoptError, Hub, Subscribe, WireFormat};

use super::notices::{Notice, Notices};

/// How often a busy engine is asked before the subscriber is refused, and the time in between: a mailbox is
/// full for as long as a large sweep takes.
const ATTEMPTS: usize = 50;
const INTERVAL: Duration = Duration::from_millis(20);

/// The answer to a subscriber that the engine does not take.
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\n\
    Content-Type: application/problem+json\r\n\
    Content-Length: 128\r\n\
    Cache-Control: no-store\r\n\
    Retry-After: 1\r\n\
    Connection: close\r\n\
    \r\n\
    {\"type\":\"/problems/server-busy\",\"title\":\"The server is busy\",\"status\":503,\"detail\":\"the server is busy; try again in a moment\"}\n";

/// Gives the hub a subscriber. One that the engine does not take is told.
pub(super) async fn adopt(
    hub: &Hub,
    notices: &Notices,
    socket: TcpStream,
    subscribe: Subscribe,
    format: WireFormat,
) {
    let Err(refused) = try_for_a_while(hub, socket.into(), subscribe, format).await else { return };
    notices.add_error(Notice::SubscriberLost, &refused);
    // The socket does not block, and has room for so little. A client that has left needs no answer.
    let _ = TcpStream::from(refused.into_socket()).write_all(UNAVAILABLE.as_bytes());
}

async fn try_for_a_while(
    hub: &Hub,
    mut socket: OwnedFd,
    mut subscribe: Subscribe,
    format: WireFormat,
) -> Result<(), AdoptError> {
    for _ in 1..ATTEMPTS {
        match hub.adopt(socket, subscribe, format) {
            Err(refused) if refused.is_busy() => (socket, subscribe) = refused.into_parts(),
            settled => return settled,
        }
        tokio::time::sleep(INTERVAL).await;
    }
    hub.adopt(socket, subscribe, format)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use fanfare::{Engine, Limits, Topic};

    use super::*;

    /// A subscriber's socket was closed without a word where the engine was busy for a moment.
    #[tokio::test]
    async fn a_subscriber_that_the_engine_does_not_take_is_told() {
        // A mailbox that takes no socket.
        let limits = Limits::default().with_mailbox_events(0).with_mailbox_others(0);
        let engine = Engine::builder().shards(1).limits(limits).start().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        let subscribe = Subscribe::to([Topic::new("a").unwrap()]);
        adopt(&engine.hub(), &Notices::default(), socket, subscribe, WireFormat::Chunked).await;

        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head} {}", body.len());
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(problem["status"], 503);
        let kind = fanfare::ProblemKind::ServerBusy;
        assert_eq!(problem["type"], kind.reference());
        assert_eq!(problem["title"], kind.title());
    }
}
