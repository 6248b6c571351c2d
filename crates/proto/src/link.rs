//! A link: one socket, how bytes travel over it, and what was begun on it and is not sent yet.
//!
//! A link is not a stream. With HTTP/1.1 it carries exactly one, and the two share a record. A transport that carries
//! several streams has one link for all of them: bytes that were begun belong to the link, because nothing else may
//! be written before they are finished.

use crate::frame::WireFormat;
use crate::frames::{FrameKey, FrameStore};

/// How the bytes of a stream reach the socket. It is part of an audience's key: members of one audience are sent the
/// same bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// HTTP/1 on the bare socket: the bytes of a send go to every member as they are.
    #[default]
    Http1,
}

/// A socket with its identity.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// The socket's descriptor.
    pub socket: i32,
    /// Tells this link from others that had the same slot: part of its token, so that a stale notification is ignored.
    pub generation: u32,
}

/// Bytes that were begun on a link and must go out before anything else.
#[derive(Debug)]
pub struct Unsent {
    source: Source,
    offset: usize,
}

#[derive(Debug)]
enum Source {
    Frame(FrameKey, WireFormat),
    Own(Box<[u8]>),
    Static(&'static [u8]),
}

impl Unsent {
    /// The rest of a frame from `offset` on. It has a reference of its own to the frame.
    pub fn frame(key: FrameKey, format: WireFormat, offset: usize, store: &mut FrameStore) -> Unsent {
        Unsent { source: Source::Frame(store.retain_begun(key), format), offset }
    }

    /// The rest of bytes that belong to one link alone (a response head, a gap event).
    pub fn own(bytes: Box<[u8]>, offset: usize) -> Unsent {
        Unsent { source: Source::Own(bytes), offset }
    }

    /// The rest of constant bytes (a heartbeat).
    pub fn constant(bytes: &'static [u8], offset: usize) -> Unsent {
        Unsent { source: Source::Static(bytes), offset }
    }

    /// What is still to be sent.
    pub fn bytes<'bytes>(&'bytes self, store: &'bytes FrameStore) -> &'bytes [u8] {
        let all = match &self.source {
            Source::Frame(key, format) => store.get(*key).wire(*format),
            Source::Own(bytes) => bytes,
            Source::Static(bytes) => bytes,
        };
        &all[self.offset..]
    }

    /// Notes that `sent` more bytes went out.
    pub fn advance(&mut self, sent: usize) {
        self.offset += sent;
    }

    /// The stream's cursor when these bytes are out, where they are a frame's.
    pub fn seq(&self, store: &FrameStore) -> Option<u64> {
        match self.source {
            Source::Frame(key, _) => Some(store.seq(key)),
            Source::Own(_) | Source::Static(_) => None,
        }
    }

    /// What would be free if the link were closed, in bytes: of a frame that several links have begun, its share.
    pub fn share(&self, store: &FrameStore) -> usize {
        match &self.source {
            Source::Frame(key, _) => store.begun_share(*key),
            Source::Own(bytes) => bytes.len(),
            Source::Static(_) => 0,
        }
    }

    /// Bytes that nothing else holds: those of a frame are counted in the store.
    pub fn own_bytes(&self) -> usize {
        match &self.source {
            Source::Own(bytes) => bytes.len(),
            Source::Frame(..) | Source::Static(_) => 0,
        }
    }

    /// Ends the reference to a frame, if it has one.
    pub fn release(self, store: &mut FrameStore) {
        if let Source::Frame(key, _) = self.source {
            store.release_begun(key);
        }
    }
}
