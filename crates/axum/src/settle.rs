//! The socket goes to the engine, or its client gets another whole answer.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use fanfare::{AdoptError, AdoptRefusal, Hub, ProblemKind, Subscribe, WireFormat};
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::body::{Phase, Progress};
use crate::problem;
use crate::socket::{Kind, Socket};
use crate::takeover::{MarkedHead, Promised};

/// How often a busy engine is asked before the subscriber is refused, and the time in between: a mailbox is
/// full for as long as a large sweep takes.
const ATTEMPTS: usize = 50;
const INTERVAL: Duration = Duration::from_millis(20);

/// How long a client may take to receive a refusal and to end the connection.
const LINGER: Duration = Duration::from_secs(2);

/// How much of what it sends meanwhile is thrown away.
const LINGER_BYTES: usize = 64 * 1024;

/// Gives the socket of a subscription to the engine. Where that is not done at once, this is the rest.
pub(crate) fn take_over(
    socket: Socket,
    promised: Promised,
    head: &MarkedHead<'_>,
    has_body: bool,
) -> Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>> {
    let Promised { hub, subscribe, progress } = promised;
    progress.set(Phase::Taken);
    // hyper may have read the next request already. It is not to be answered any more.
    let end = End { progress, phase: if head.is_last() { Phase::Ended } else { Phase::Cut } };
    let fields = head.for_answer();

    let altered = has_body || !head.behind.is_empty();
    let with_head = match subscribe.with_response_head(head.for_stream()) {
        Ok(_) if altered => Err("a layer has put bytes into its body".to_owned()),
        Ok(subscribe) => Ok(subscribe),
        Err(error) => Err(error.to_string()),
    };
    let subscribe = match with_head {
        Ok(subscribe) => subscribe,
        Err(reason) => {
            tracing::error!("a subscription is answered with 500, because a layer has changed it: {reason}");
            let answer = answer(
                ProblemKind::InternalError,
                "this server has changed the stream on its way; its log says how",
                &fields,
            );
            return Some(Box::pin(async move {
                send(socket, &answer).await;
                drop(end);
            }));
        }
    };
    let (kind, socket) = match socket.into_descriptor() {
        Ok(parts) => parts,
        Err(error) => {
            tracing::error!("a connection is closed: its socket cannot be given to the engine: {error}");
            return None;
        }
    };
    let format = head.wire_format();
    let refused = hub.adopt(socket, subscribe, format).err()?;
    Some(Box::pin(async move {
        if let Err(refused) = try_for_a_while(&hub, refused, format).await {
            refuse(refused, kind, &fields).await;
        }
        drop(end);
    }))
}

/// Ends the response for hyper.
struct End {
    progress: Arc<Progress>,
    phase: Phase,
}

impl Drop for End {
    fn drop(&mut self) {
        self.progress.set(self.phase);
    }
}

async fn try_for_a_while(hub: &Hub, mut refused: AdoptError, format: WireFormat) -> Result<(), AdoptError> {
    for _ in 1..ATTEMPTS {
        if !refused.is_busy() {
            break;
        }
        tokio::time::sleep(INTERVAL).await;
        let (socket, subscribe): (OwnedFd, Subscribe) = refused.into_parts();
        match hub.adopt(socket, subscribe, format) {
            Ok(()) => return Ok(()),
            Err(again) => refused = again,
        }
    }
    Err(refused)
}

/// Tells a subscriber that the engine does not take it.
async fn refuse(refused: AdoptError, kind: Kind, fields: &[u8]) {
    let (kind_of_problem, detail) = match refused.reason() {
        AdoptRefusal::Busy => (ProblemKind::ServerBusy, "this server is busy; try again in a moment"),
        AdoptRefusal::Stopped => (ProblemKind::ServerStopping, "this server is shutting down"),
        AdoptRefusal::NoTopics => (ProblemKind::NoTopic, "a subscription has at least one topic"),
        AdoptRefusal::TooManyTopics { .. } => {
            (ProblemKind::TooManyTopics, "too many topics in one subscription")
        }
        _ => (ProblemKind::InternalError, "this server cannot take the connection; its log says why"),
    };
    match refused.reason() {
        AdoptRefusal::Busy
        | AdoptRefusal::Stopped
        | AdoptRefusal::NoTopics
        | AdoptRefusal::TooManyTopics { .. } => {
            tracing::debug!("a subscriber is refused: {refused}");
        }
        _ => tracing::error!("a subscriber is refused: {refused}"),
    }
    if let Ok(socket) = Socket::from_descriptor(kind, refused.into_socket()) {
        send(socket, &answer(kind_of_problem, detail, fields)).await;
    }
}

/// A whole answer, with what layers have added to the head of the stream.
fn answer(kind: ProblemKind, detail: &str, fields: &[u8]) -> Vec<u8> {
    let (body, status) = (problem::document(kind, detail), problem::status(kind));
    let (code, title) = (status.as_u16(), status.canonical_reason().unwrap_or("Error"));
    let mut bytes = format!("HTTP/1.1 {code} {title}\r\n").into_bytes();
    bytes.extend_from_slice(fields);
    let (content_type, length) = (problem::CONTENT_TYPE, body.len());
    if status == StatusCode::SERVICE_UNAVAILABLE {
        bytes.extend_from_slice(b"retry-after: 1\r\n");
    }
    let own = format!(
        "content-type: {content_type}\r\ncontent-length: {length}\r\ncache-control: no-store\r\n\
         connection: close\r\n\r\n{body}"
    );
    bytes.extend_from_slice(own.as_bytes());
    bytes
}

/// Sends an answer, and throws away what the client still sends, so that the close does not reset the
/// connection under the answer (RFC 9112, section 9.6). A client that has left needs no answer.
async fn send(mut socket: Socket, answer: &[u8]) {
    let exchange = async {
        if socket.write_all(answer).await.is_err() || socket.shutdown().await.is_err() {
            return;
        }
        let mut ignored = [0; 1024];
        let mut left = LINGER_BYTES;
        while let Ok(count @ 1..) = socket.read(&mut ignored).await {
            left = left.saturating_sub(count);
            if left == 0 {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, exchange).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_a_whole_answer_and_keeps_what_layers_added() {
        let answer = answer(ProblemKind::ServerBusy, "later", b"access-control-allow-origin: https://a\r\n");
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(
            "HTTP/1.1 503 Service Unavailable\r\naccess-control-allow-origin: https://a\r\nretry-after: 1\r\n"
        ));
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
        assert!(body.contains("\"status\":503,\"detail\":\"later\""), "{body}");
    }
}
