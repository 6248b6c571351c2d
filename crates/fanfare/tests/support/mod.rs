//! Reading streams as a client does, for the tests over real sockets.

use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

/// So that a test whose bytes do not come fails instead of hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Reads up to the end of this text, byte by byte, so that what comes behind it stays in the socket.
pub(crate) fn wait_for(stream: &mut TcpStream, text: &str) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(text.as_bytes()) {
        let mut byte = [0];
        stream
            .read_exact(&mut byte)
            .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&seen)));
        seen.push(byte[0]);
    }
    String::from_utf8(seen).unwrap()
}

/// Reads to the end of the opening: then the subscriber is one.
pub(crate) fn opened(mut stream: TcpStream) -> TcpStream {
    wait_for(&mut stream, "retry: ");
    wait_for(&mut stream, "\n\n");
    stream
}

/// Reads to the end of the stream.
pub(crate) fn read_all(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}
