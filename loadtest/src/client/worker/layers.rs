//! What may be between the bytes of a connection and the events of a stream: TLS, and compression.

use std::io::{self, Read, Write};

use flate2::write::MultiGzDecoder;
use rustls::ClientConnection;

use super::Worker;
use super::transport::Transport;
use crate::failure::Outcome;

/// Compressed bytes that are decompressed at a time: they become a megabyte at most.
const COMPRESSED_BYTES: usize = 1024;

impl<T: Transport> Worker<'_, T> {
    /// Bytes came on a connection: of HTTP, or of TLS with HTTP in it.
    pub(super) fn arrived(&mut self, index: usize, mut bytes: &[u8]) -> Outcome<()> {
        let Some(mut tls) = self.subscribers[index].rare.as_mut().and_then(|rare| rare.tls.take()) else {
            return self.received(index, bytes);
        };
        let generation = self.subscribers[index].generation;
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        let read = read_tls(&mut tls, &mut bytes, &mut plain);
        // An alert says to the server what was wrong; whether it gets it does not matter then.
        let flushed = flush(&mut tls, &mut self.transport, index);
        if let Some(rare) = &mut self.subscribers[index].rare {
            rare.tls = Some(tls);
        }
        let result = if plain.is_empty() { Ok(()) } else { self.received(index, &plain) };
        self.plain = plain;
        result?;
        // What came may have ended the stream.
        if self.subscribers[index].generation != generation {
            return Ok(());
        }
        match read.and_then(|over| flushed.map(|()| over)) {
            Ok(false) => Ok(()),
            Ok(true) => self.ended(index, "it was closed"),
            Err(error) => self.ended(index, &error.to_string()),
        }
    }
}

/// Sends what TLS has to send. It is little, and connections that are hardly written to have room.
pub(super) fn flush<T: Transport>(
    tls: &mut ClientConnection,
    transport: &mut T,
    index: usize,
) -> io::Result<()> {
    struct To<'a, T> {
        transport: &'a mut T,
        index: usize,
    }

    impl<T: Transport> Write for To<'_, T> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.transport.send(self.index, bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut to = To { transport, index };
    while tls.wants_write() {
        tls.write_tls(&mut to)?;
    }
    Ok(())
}

/// Takes what came apart: `plain` gets what is in it. True: the server has said that this was all.
fn read_tls(tls: &mut ClientConnection, bytes: &mut &[u8], plain: &mut Vec<u8>) -> io::Result<bool> {
    loop {
        if !bytes.is_empty() {
            tls.read_tls(bytes)?;
        }
        let state = tls.process_new_packets().map_err(|error| io::Error::other(format!("TLS: {error}")))?;
        let start = plain.len();
        plain.resize(start + state.plaintext_bytes_to_read(), 0);
        tls.reader().read_exact(&mut plain[start..])?;
        if state.peer_has_closed() || bytes.is_empty() {
            return Ok(state.peer_has_closed());
        }
    }
}

/// Decompresses a piece of a stream, and gives what there is to `feed`. The inner error is that of the
/// compression.
pub(super) fn decompress(
    gzip: &mut MultiGzDecoder<Vec<u8>>,
    bytes: &[u8],
    feed: &mut impl FnMut(&[u8]) -> Outcome<()>,
) -> Outcome<io::Result<()>> {
    for piece in bytes.chunks(COMPRESSED_BYTES) {
        if let Err(error) = gzip.write_all(piece).and_then(|()| gzip.flush()) {
            return Ok(Err(error));
        }
        feed(gzip.get_ref())?;
        gzip.get_mut().clear();
    }
    Ok(Ok(()))
}
