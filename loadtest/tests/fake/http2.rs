//! A gateway that takes HTTP/2 and asks the fake server by HTTP/1.1, whose streams have to end with their
//! connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A gateway that runs.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Gateway {
    /// Passes streams to `target`, with TLS where there is a configuration for it.
    pub(crate) fn start(target: SocketAddr, tls: Option<Arc<rustls::ServerConfig>>) -> Gateway {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                loop {
                    let (socket, _) = listener.accept().await.unwrap();
                    socket.set_nodelay(true).unwrap();
                    counted.fetch_add(1, Ordering::SeqCst);
                    match &tls {
                        None => _ = tokio::spawn(serve(socket, target)),
                        Some(tls) => {
                            let acceptor = tokio_rustls::TlsAcceptor::from(tls.clone());
                            tokio::spawn(async move {
                                if let Ok(stream) = acceptor.accept(socket).await {
                                    serve(stream, target).await;
                                }
                            });
                        }
                    }
                }
            });
        });
        Gateway { address, connections }
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, target: SocketAddr) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let (head, body) = request.into_parts();
        tokio::spawn(pass(head, body, respond, target));
    }
}

/// One request: a stream goes on until the fake server ends it, and is reset where that was in its middle.
async fn pass(
    head: http::request::Parts,
    mut body: RecvStream,
    mut respond: h2::server::SendResponse<Bytes>,
    target: SocketAddr,
) {
    let mut asked = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        asked.extend_from_slice(&data);
        let _ = body.flow_control().release_capacity(data.len());
    }
    let mut text = format!("{} {} HTTP/1.1\r\n", head.method, head.uri.path());
    for (name, value) in &head.headers {
        text.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
    }
    text.push_str(&format!("Content-Length: {}\r\n\r\n", asked.len()));
    let mut socket = TcpStream::connect(target).await.unwrap();
    socket.write_all(text.as_bytes()).await.unwrap();
    socket.write_all(&asked).await.unwrap();
    let mut received = Vec::new();
    let end = loop {
        if let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        if socket.read_buf(&mut received).await.unwrap_or(0) == 0 {
            return respond.send_reset(Reason::INTERNAL_ERROR);
        }
    };
    let answer = http::Response::builder().status(200).header("content-type", "text/event-stream");
    let Ok(mut stream) = respond.send_response(answer.body(()).unwrap(), false) else { return };
    received.drain(..end);
    loop {
        if !received.is_empty() && !send(&mut stream, Bytes::from(std::mem::take(&mut received))) {
            return;
        }
        match socket.read_buf(&mut received).await {
            Ok(1..) => {}
            _ => return stream.send_reset(Reason::CANCEL),
        }
    }
}

fn send(stream: &mut SendStream<Bytes>, data: Bytes) -> bool {
    stream.send_data(data, false).is_ok()
}
